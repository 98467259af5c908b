//! A compaction of a `quicksilverd` beside a process that reads.

use std::io::{BufRead, Write};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use quicksilver::Reader;
use quicksilver_bench::dataset::{self, KEY_BYTES, Pool, Rng};
use quicksilver_bench::histogram::Histogram;
use quicksilver_bench::peer::Dialogue;
use quicksilver_bench::plot::nanoseconds;
use quicksilver_bench::stats::{Table, median};
use quicksilver_bench::{Result, replica};
use quicksilver_tests::Cluster;
use quicksilver_tests::cluster::{Node, qsctl};

use crate::{LOG_BYTES, POOL_SEED, VALUE_BYTES};

/// Keys and values a second.
const TARGET_MB: f64 = 100.0;
/// p99.9 of a reader, as a multiple of what it has when nothing else happens.
const TARGET_RATIO: f64 = 2.0;
/// Reads between two looks at whether somebody asks.
const READS: usize = 1000;

/// `--reader DIR KEYS`: reads random keys for ever, and answers every line with the latencies since
/// the last.
pub(crate) fn reader(dir: &str, keys: &str) -> Result<()> {
    let reader = Reader::open(dir)?;
    let keys: u64 = keys.parse()?;
    let shared = Arc::new(Mutex::new(Histogram::default()));
    let answers = shared.clone();
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            if line.is_err() {
                break;
            }
            let taken =
                std::mem::take(&mut *answers.lock().unwrap_or_else(PoisonError::into_inner));
            let _ = writeln!(io::stdout(), "{}", taken.to_line());
        }
        std::process::exit(0);
    });
    let (mut rng, mut value) = (Rng::new(11), vec![0; VALUE_BYTES]);
    loop {
        let mut latencies = Histogram::default();
        let mut last = Instant::now();
        for _ in 0..READS {
            if !reader.get_into(&dataset::key(rng.below(keys)), &mut value)? {
                return Err("a key is missing".into());
            }
            let now = Instant::now();
            latencies.record((now - last).as_nanos() as u64);
            last = now;
        }
        shared.lock().unwrap_or_else(PoisonError::into_inner).add(&latencies);
    }
}

/// One compaction, and the time before it.
struct Round {
    mb_per_second: f64,
    idle: Histogram,
    busy: Histogram,
}

impl Round {
    fn ratio(&self, q: f64) -> f64 {
        self.busy.quantile(q) as f64 / self.idle.quantile(q) as f64
    }
}

fn round(node: &Node, reader: &mut Dialogue, data_bytes: u64, idle: Duration) -> Result<Round> {
    reader.ask("what was before does not count")?;
    thread::sleep(idle);
    let idle = Histogram::parse(&reader.ask("idle")?)?;
    let answer = qsctl(&["--server", &node.address("client"), "--json", "compact"]);
    let busy = Histogram::parse(&reader.ask("busy")?)?;
    if !answer.status.success() {
        return Err(format!("qsctl compact: {}", String::from_utf8_lossy(&answer.stderr)).into());
    }
    let outcome: serde_json::Value = serde_json::from_slice(&answer.stdout)?;
    let seconds = outcome["seconds"].as_f64().ok_or("a compaction without a time")?;
    Ok(Round { mb_per_second: data_bytes as f64 / seconds / 1e6, idle, busy })
}

fn measure_at(
    limit: Option<u64>,
    data_bytes: u64,
    rounds: usize,
    idle: Duration,
) -> Result<Vec<Round>> {
    let mut cluster = Cluster::new();
    let node = cluster.root("root");
    let keys = data_bytes / (KEY_BYTES + VALUE_BYTES) as u64;
    let mut store = replica::open(&node.data_dir(), LOG_BYTES)?;
    replica::fill(keys, VALUE_BYTES, &Pool::new(VALUE_BYTES, POOL_SEED), |entries| {
        replica::commit(&mut store, entries).map(|_| ())
    })?;
    drop(store);
    node.set("db_id", replica::db_id()).set_literal("retention.bytes", LOG_BYTES);
    node.set_literal("limits.map_bytes", replica::MAP_BYTES);
    if let Some(limit) = limit {
        node.set_literal("compact.max_bytes_per_second", limit);
    }
    cluster.start_all();
    let node = cluster.node("root");
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--reader").arg(node.data_dir()).arg(keys.to_string());
    let mut reader = Dialogue::start(&mut command)?;
    (0..rounds).map(|_| round(node, &mut reader, data_bytes, idle)).collect()
}

/// At the bounded rate of the default configuration, which is what counts, and without a bound.
pub(crate) fn measure(data_bytes: u64, rounds: usize, idle: Duration) -> Result<()> {
    println!(
        "A quicksilverd compacts {:.1} GB of values of {VALUE_BYTES} bytes beside a process that reads \
         random keys; medians of {rounds} compactions.\n",
        data_bytes as f64 / 1e9
    );
    let mut table = Table::new([
        "",
        "MB/s of keys and values",
        "reads: p50 idle",
        "beside it",
        "p99.9 idle",
        "beside it",
        "ratio",
    ]);
    let mut targets = Vec::new();
    for (name, limit) in [("at most 128 MiB/s, the default", None), ("unbounded", Some(1 << 40))] {
        let all = measure_at(limit, data_bytes, rounds, idle)?;
        let of = |of: &dyn Fn(&Round) -> f64| median(&all.iter().map(of).collect::<Vec<_>>());
        let speed = of(&|round| round.mb_per_second);
        let ratio = of(&|round| round.ratio(0.999));
        let idle = |q| nanoseconds(of(&|round| round.idle.quantile(q) as f64));
        let busy = |q| nanoseconds(of(&|round| round.busy.quantile(q) as f64));
        table.row([
            name.to_owned(),
            format!("{speed:.0}"),
            idle(0.5),
            busy(0.5),
            idle(0.999),
            busy(0.999),
            format!("{ratio:.2}"),
        ]);
        targets.push((speed, ratio));
    }
    table.print("");
    let (speed, ratio) = targets[0];
    let met = |is| if is { "met" } else { "missed" };
    println!(
        "\nBy default: {speed:.0} MB/s, target {TARGET_MB}: {}; readers' p99.9 {ratio:.2} of idle, \
         target {TARGET_RATIO}: {}.\n",
        met(speed >= TARGET_MB),
        met(ratio <= TARGET_RATIO)
    );
    Ok(())
}
