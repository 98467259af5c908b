//! "Is there anything new?", and how soon a sleeper learns that there is.
//!
//! `bench-watch [--wakes N] [--rounds N] [--plots DIR] [--quick]`
//!
//! Three pairs of processes take turns; one sleeps, the other wakes it every few milliseconds:
//!
//! * a bare futex in shared memory, in C (`watch/futex.c`): the limit;
//! * `Reader::wait_for`, woken by a process that makes a durable commit, reads `CLOCK_MONOTONIC`,
//!   and then publishes the commit on the status page, as a replicator does;
//! * `Reader::wait_for`, woken by a `quicksilverd`; the moment of its commit is the one that it
//!   writes on the status page itself, by the wall clock, in microseconds.

mod sides;

use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use quicksilver::Reader;
use quicksilver_bench::connection::Address;
use quicksilver_bench::dataset::Rng;
use quicksilver_bench::peer::{self, Dialogue};
use quicksilver_bench::plot::{self, Lines, nanoseconds};
use quicksilver_bench::server::resp;
use quicksilver_bench::stats::{Table, median, quantile};
use quicksilver_bench::{Result, flag, loader, option};
use quicksilver_tests::Cluster;

use sides::{LONGEST_PAUSE_US, SHORTEST_PAUSE_US, pause};

/// Keys of the database that is watched.
const KEYS: u64 = 20;
/// `index()`, and a wake at p99: at most so many nanoseconds.
const TARGET_INDEX_NS: f64 = 10.0;
const TARGET_WAKE_NS: f64 = 100_000.0;

const QUANTILES: [(f64, &str); 5] =
    [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"), (1.0, "max")];

/// Looks of one round, and rounds.
const LOOKS: usize = 2_000_000;
const LOOK_ROUNDS: usize = 11;

/// Nanoseconds of one `Reader::index`, the median over rounds.
fn index_ns(dir: &Path) -> Result<f64> {
    let reader = Reader::open(dir)?;
    let mut rounds = Vec::new();
    for _ in 0..LOOK_ROUNDS {
        let start = Instant::now();
        for _ in 0..LOOKS {
            black_box(black_box(&reader).index()?);
        }
        rounds.push(start.elapsed().as_nanos() as f64 / LOOKS as f64);
    }
    Ok(median(&rounds))
}

/// The same of `qs_index`, called from C.
fn c_index_ns(dir: &Path, temporary: &Path) -> Result<f64> {
    let program = peer::compile_with_quicksilver("read/c-abi.c", temporary)?;
    // It looks once for every key that it is given; here keys of one byte that nobody asks for.
    let keys = temporary.join("keys");
    std::fs::write(&keys, vec![0; LOOKS])?;
    let mut peer = Dialogue::start(Command::new(program).arg(dir).arg(&keys).arg("1"))?;
    let mut rounds = Vec::new();
    for _ in 0..LOOK_ROUNDS {
        match peer.ask("index")?[..] {
            [ns, looks, _] => rounds.push(ns as f64 / looks as f64),
            ref other => return Err(format!("unexpected answer: {other:?}").into()),
        }
    }
    Ok(median(&rounds))
}

/// One of the pairs of processes: so many wakes, in nanoseconds.
type Wakes<'a> = Box<dyn FnMut(usize) -> Result<Vec<f64>> + 'a>;

fn bare_futex(program: &Path) -> Wakes<'_> {
    Box::new(move |wakes| {
        let pauses = [SHORTEST_PAUSE_US, LONGEST_PAUSE_US].map(|us| us.to_string());
        let output = Command::new(program).arg(wakes.to_string()).args(pauses).output()?;
        let answer = String::from_utf8(output.stdout)?;
        let ns = answer.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
        if ns.len() == wakes { Ok(ns) } else { Err("the futex peer failed".into()) }
    })
}

fn side(what: &str, dir: &Path) -> Result<Dialogue> {
    Dialogue::start(Command::new(std::env::current_exe()?).arg(what).arg(dir))
}

fn committer(dir: &Path) -> Result<Wakes<'static>> {
    let (mut watcher, mut committer) = (side("--watcher", dir)?, side("--committer", dir)?);
    let mut index = KEYS;
    Ok(Box::new(move |wakes| {
        let mut ns = Vec::with_capacity(wakes);
        for _ in 0..wakes {
            index += 1;
            watcher.send(&index.to_string())?;
            let committed = committer.ask("commit")?;
            match (&watcher.answer()?[..], &committed[..]) {
                (&[woken, _], &[committed]) => ns.push(woken.saturating_sub(committed) as f64),
                other => return Err(format!("unexpected answers: {other:?}").into()),
            }
        }
        Ok(ns)
    }))
}

fn replicator(cluster: &Cluster) -> Result<Wakes<'static>> {
    let root = cluster.node("root");
    let mut watcher = side("--watcher", &root.data_dir())?;
    let mut client = resp::Client::connect(&Address::Unix(root.socket("client")))?;
    let (mut index, mut rng) = (0, Rng::new(6));
    Ok(Box::new(move |wakes| {
        let mut ns = Vec::with_capacity(wakes);
        for _ in 0..wakes {
            index += 1u64;
            watcher.send(&index.to_string())?;
            pause(&mut rng);
            client.send_set(b"key", index.to_string().as_bytes())?;
            client.take_ok()?;
            match watcher.answer()?[..] {
                [_, age] => ns.push(age as f64),
                ref other => return Err(format!("unexpected answer: {other:?}").into()),
            }
        }
        Ok(ns)
    }))
}

fn report(all: &[(&str, Vec<f64>)]) -> Result<()> {
    let mut header = vec!["", "wakes"];
    header.extend(QUANTILES.map(|(_, name)| name));
    let mut table = Table::with_header(header);
    for (name, ns) in all {
        let mut row = vec![(*name).to_owned(), ns.len().to_string()];
        row.extend(QUANTILES.map(|(q, _)| nanoseconds(quantile(ns, q))));
        table.add(row);
    }
    table.print("");
    println!();
    let futex = all.first().map_or(f64::NAN, |(_, ns)| quantile(ns, 0.99));
    for (name, ns) in all.iter().skip(1) {
        let p99 = quantile(ns, 0.99);
        println!(
            "{name}: p99 {}, {:.2} of a bare futex; target {}: {}.",
            nanoseconds(p99),
            p99 / futex,
            nanoseconds(TARGET_WAKE_NS),
            if p99 <= TARGET_WAKE_NS { "met" } else { "missed" }
        );
    }
    let lines = all
        .iter()
        .map(|(name, ns)| ((*name).to_owned(), QUANTILES.map(|(q, _)| quantile(ns, q)).to_vec()));
    let steps = QUANTILES.map(|(_, name)| name.to_owned()).to_vec();
    let title = "From a commit until a sleeping process runs";
    plot::save("watch", &Lines { title, steps, lines: lines.collect() }.svg())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [what, dir] if what == "--watcher" => return sides::watcher(dir.as_ref()),
        [what, dir] if what == "--committer" => return sides::committer(dir.as_ref()),
        _ => {}
    }
    let quick = flag("--quick");
    let wakes = option("--wakes", if quick { 100 } else { 500 })?;
    let rounds = option("--rounds", if quick { 3 } else { 10 })?;
    let temporary = tempfile::tempdir()?;
    let futex = peer::compile("watch/futex.c", temporary.path())?;
    let dir = temporary.path().join("db");
    loader::build(&dir, KEYS)?;
    let looks =
        [("Reader::index", index_ns(&dir)?), ("qs_index", c_index_ns(&dir, temporary.path())?)];
    for (name, ns) in looks {
        let met = if ns < TARGET_INDEX_NS { "met" } else { "missed" };
        println!("{name}: {ns:.1} ns; target {TARGET_INDEX_NS} ns: {met}.");
    }
    println!();

    let mut cluster = Cluster::new();
    cluster.root("root").set_literal("batch.window_ms", 0).set_literal("root.heartbeat_ms", 1000);
    cluster.start_all();
    let mut pairs = [
        ("bare futex, C", bare_futex(&futex)),
        ("wait_for, a commit published", committer(&dir)?),
        ("wait_for, a quicksilverd", replicator(&cluster)?),
    ];
    let mut all = pairs.each_ref().map(|(name, _)| (*name, Vec::new()));
    for _ in 0..rounds {
        for ((_, wakes_of), (_, ns)) in pairs.iter_mut().zip(&mut all) {
            ns.extend(wakes_of(wakes)?);
        }
    }
    report(&all)
}
