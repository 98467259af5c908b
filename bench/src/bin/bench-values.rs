//! 1 GB of values of 1 MiB, read at what part of the speed of memcpy?
//!
//! `bench-values [--values N] [--rounds N] [--plots DIR] [--quick]`
//!
//! A `quicksilverd` is given the values, so they lie on disk as they would in service: cut into
//! chunks of one page. They are read in the order in which they were written, each checked against
//! its CRC. memcpy copies the same bytes, from one block of memory as large as all values, into a
//! buffer that is used again.

use std::hint::black_box;
use std::time::{Duration, Instant};

use quicksilver::{Index, Reader};
use quicksilver_bench::connection::Address;
use quicksilver_bench::dataset::Rng;
use quicksilver_bench::plot::{self, Bars};
use quicksilver_bench::server::resp;
use quicksilver_bench::stats::{Table, median};
use quicksilver_bench::{Result, flag, option};
use quicksilver_tests::Cluster;

const VALUE_BYTES: usize = 1 << 20;
/// Writes under way while the database is filled.
const IN_FLIGHT: usize = 16;
/// For the last value to be readable.
const ARRIVAL: Duration = Duration::from_secs(60);
/// Ours, as a part of memcpy's speed.
const TARGET: f64 = 0.5;

/// How a round reads all values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// What everything is compared with.
    Memcpy,
    /// `Reader::get_into`, into a buffer that is used again.
    Reused,
    /// `Reader::get`: new memory for every value.
    Get,
}

const WAYS: [Way; 3] = [Way::Memcpy, Way::Reused, Way::Get];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Memcpy => "memcpy into a reused buffer",
            Way::Reused => "Reader::get_into a reused buffer",
            Way::Get => "Reader::get, new memory each time",
        }
    }
}

struct Bench {
    reader: Reader,
    keys: Vec<String>,
    source: Vec<u8>,
    buffer: Vec<u8>,
}

impl Bench {
    /// Bytes a nanosecond, which is GB/s, of one round over everything.
    fn round(&mut self, way: Way) -> Result<f64> {
        let start = Instant::now();
        for (key, bytes) in self.keys.iter().zip(self.source.chunks_exact(VALUE_BYTES)) {
            let key = key.as_bytes();
            let buffer = &mut self.buffer;
            let found = match way {
                Way::Memcpy => {
                    buffer.copy_from_slice(black_box(bytes));
                    true
                }
                Way::Reused => self.reader.get_into(key, buffer)?,
                Way::Get => black_box(self.reader.get(key)?).is_some(),
            };
            black_box(buffer);
            if !found {
                return Err("a value is missing".into());
            }
        }
        Ok(self.source.len() as f64 / start.elapsed().as_nanos() as f64)
    }
}

/// Writes the values through a root, and returns what was written.
fn fill(address: &Address, keys: &[String]) -> Result<Vec<u8>> {
    let mut rng = Rng::new(3);
    let words = keys.len() * VALUE_BYTES / 8;
    let source: Vec<u8> = (0..words).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
    let mut client = resp::Client::connect(address)?;
    for (n, (key, value)) in keys.iter().zip(source.chunks_exact(VALUE_BYTES)).enumerate() {
        if n >= IN_FLIGHT {
            client.take_ok()?;
        }
        client.send_set(key.as_bytes(), value)?;
    }
    (0..IN_FLIGHT.min(keys.len())).try_for_each(|_| client.take_ok())?;
    Ok(source)
}

fn main() -> Result<()> {
    let quick = flag("--quick");
    let values = option("--values", if quick { 128 } else { 1024 })?;
    let rounds = option("--rounds", if quick { 5 } else { 11 })?;
    let mut cluster = Cluster::new();
    let root = cluster.root("root");
    // The log would double what is on disk; nothing here reads it.
    root.set_literal("batch.window_ms", 0).set_literal("retention.bytes", 1 << 20);
    cluster.start_all();
    let root = cluster.node("root");
    let keys: Vec<String> = (0..values).map(|number: usize| format!("value-{number:06}")).collect();
    let source = fill(&Address::Unix(root.socket("client")), &keys)?;
    let reader = Reader::open(root.data_dir())?;
    if reader.wait_for(Index::new(values as u64), ARRIVAL)?.get() < values as u64 {
        return Err("the values did not arrive".into());
    }
    let mut bench = Bench { reader, keys, source, buffer: vec![0; VALUE_BYTES] };
    for (key, bytes) in bench.keys.iter().zip(bench.source.chunks_exact(VALUE_BYTES)) {
        if bench.reader.get(key.as_bytes())?.as_deref() != Some(bytes) {
            return Err(format!("{key} is not what was written").into());
        }
    }

    let mut speeds = WAYS.map(|_| Vec::with_capacity(rounds));
    for round in 0..rounds {
        for turn in 0..WAYS.len() {
            let at = (turn + round) % WAYS.len();
            speeds[at].push(bench.round(WAYS[at])?);
        }
    }
    println!("{values} values of 1 MiB, medians of {rounds} interleaved rounds.\n");
    let mut table = Table::new(["", "GB/s", "of memcpy"]);
    let mut bars = Vec::new();
    for (way, speed) in WAYS.iter().zip(&speeds) {
        let ratios: Vec<_> =
            speed.iter().zip(&speeds[0]).map(|(ours, memcpy)| ours / memcpy).collect();
        let name = way.name().to_owned();
        table.row([
            name.clone(),
            format!("{:.2}", median(speed)),
            format!("{:.2}", median(&ratios)),
        ]);
        bars.push((name, median(&ratios)));
    }
    table.print("");
    let reused = bars[1].1;
    let met = if reused >= TARGET { "met" } else { "missed" };
    println!("\nInto a reused buffer: {reused:.2} of memcpy; target {TARGET}: {met}.");
    let title = "Values of 1 MiB, CRC included, as a part of memcpy's speed";
    let marks = vec![(TARGET, format!("target {TARGET}"))];
    let groups = vec![(String::new(), bars)];
    let bars = Bars { title, logarithmic: false, label: plot::ratio, marks, groups };
    plot::save("values", &bars.svg())
}
