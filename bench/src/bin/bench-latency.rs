//! From a write at the root to a read in a leaf's memory, through three durable tiers.
//!
//! `bench-latency [--writes N] [--quick]`

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use quicksilver::{Index, Reader};
use quicksilver_bench::dataset::Rng;
use quicksilver_bench::stats::{Table, millis, quantile};
use quicksilver_bench::{Result, flag, option};
use quicksilver_tests::Cluster;
use quicksilver_tests::resp::Client;

/// For one write to arrive.
const ARRIVAL: Duration = Duration::from_secs(10);
const KEY: &[u8] = b"latency";

/// When writes were made, acknowledged and seen, in milliseconds from the write.
#[derive(Debug, Default)]
struct Latencies {
    acknowledged: Vec<f64>,
    readable: Vec<f64>,
}

/// root → relay → leaf, and a handle on the leaf's memory.
struct Tiers {
    cluster: Cluster,
    leaf: Reader,
    next: Index,
}

impl Tiers {
    fn start(window_ms: u64) -> Result<Tiers> {
        let mut cluster = Cluster::new();
        cluster.root("root").set_literal("batch.window_ms", window_ms);
        cluster.relay("relay", &["root"]);
        cluster.leaf("leaf", &["relay"]);
        cluster.start_all();
        let mut client = cluster.node("root").client();
        client.call(&[b"SET", KEY, b"0"])?;
        let leaf = Reader::open(cluster.node("leaf").data_dir())?;
        let mut tiers = Tiers { cluster, leaf, next: Index::FIRST };
        await_index(&tiers.leaf, tiers.next)?;
        tiers.next = tiers.next.next();
        thread::sleep(Duration::from_millis(2 * window_ms + 50));
        Ok(tiers)
    }

    fn client(&self) -> Client {
        self.cluster.node("root").client()
    }

    /// One write at a time, after a pause in which nothing was sealed for a whole window: each is
    /// sealed at once.
    fn lone_writes(&mut self, writes: usize, window_ms: u64) -> Result<Latencies> {
        let mut client = self.client();
        let mut latencies = Latencies::default();
        let mut rng = Rng::new(7);
        let (tell, told) = mpsc::channel::<Index>();
        let (saw, seen) = mpsc::channel::<Result<Instant>>();
        let reader = self.leaf.clone();
        // The reader waits on the status page before the write is made, as a service would.
        thread::spawn(move || {
            for index in told {
                let arrived = await_index(&reader, index).and_then(|()| {
                    let value = reader.get(KEY)?.unwrap_or_default();
                    let expected = index.to_string().into_bytes();
                    if value == expected { Ok(Instant::now()) } else { Err("a wrong value".into()) }
                });
                if saw.send(arrived).is_err() {
                    return;
                }
            }
        });
        for _ in 0..writes {
            let index = self.next;
            tell.send(index)?;
            thread::sleep(Duration::from_millis(window_ms + 20 + rng.below(20)));
            let start = Instant::now();
            let reply = client.call(&[b"SET", KEY, index.to_string().as_bytes()])?;
            latencies.acknowledged.push(millis(start.elapsed()));
            if !reply.is_ok() {
                return Err(format!("{reply:?}").into());
            }
            let arrived = seen.recv()??;
            latencies.readable.push(millis(arrived.saturating_duration_since(start)));
            self.next = index.next();
        }
        Ok(latencies)
    }

    /// Writes at random moments, whatever became of the ones before (open loop).
    fn random_writes(&mut self, writes: usize, per_second: f64) -> Result<Latencies> {
        let mut client = self.client();
        client.set_deadline(ARRIVAL)?;
        let first = self.next;
        let last = Index::new(first.get() + writes as u64 - 1);
        let reader = self.leaf.clone();
        let watcher = thread::spawn(move || -> Result<Vec<Instant>> {
            let mut arrived = Vec::with_capacity(writes);
            let mut wanted = first;
            while wanted <= last {
                let now = reader.wait_for(wanted, ARRIVAL)?;
                if now < wanted {
                    return Err(format!("index {wanted} did not arrive").into());
                }
                let at = Instant::now();
                while wanted <= now.min(last) {
                    arrived.push(at);
                    wanted = wanted.next();
                }
            }
            Ok(arrived)
        });
        let mut rng = Rng::new(11);
        let mut due = Instant::now();
        let mut starts = Vec::with_capacity(writes);
        for number in 0..writes {
            due += Duration::from_secs_f64(-(1.0 - rng.unit()).ln() / per_second);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            // From the scheduled moment: a late start is the writer's own delay, and counted.
            starts.push(due);
            client.send(&[b"SET", KEY, format!("random {number}").as_bytes()])?;
        }
        for _ in 0..writes {
            let reply = client.reply()?;
            if !reply.is_ok() {
                return Err(format!("{reply:?}").into());
            }
        }
        let arrived = watcher.join().map_err(|_| "the watcher panicked")??;
        self.next = last.next();
        let pairs = starts.iter().zip(&arrived);
        let readable = pairs.map(|(start, at)| millis(at.saturating_duration_since(*start)));
        Ok(Latencies { acknowledged: Vec::new(), readable: readable.collect() })
    }
}

fn await_index(reader: &Reader, index: Index) -> Result<()> {
    let reached = reader.wait_for(index, ARRIVAL)?;
    if reached >= index { Ok(()) } else { Err(format!("{index} is not there: {reached}").into()) }
}

/// What one durable 4 kB overwrite costs on this disk: the unit in which the tiers pay.
fn syncs(count: usize) -> Result<Vec<f64>> {
    let mut file = tempfile::tempfile()?;
    file.write_all(&[0; 4096])?;
    file.sync_all()?;
    (0..count)
        .map(|n| {
            let start = Instant::now();
            file.write_all_at(&[n as u8; 4096], 0)?;
            file.sync_data()?;
            let took = millis(start.elapsed());
            thread::sleep(Duration::from_millis(5));
            Ok(took)
        })
        .collect()
}

fn add(table: &mut Table, name: String, milliseconds: &[f64]) {
    if milliseconds.is_empty() {
        return;
    }
    let at = |q| format!("{:.2}", quantile(milliseconds, q));
    table.row([name, milliseconds.len().to_string(), at(0.5), at(0.99), at(1.0)]);
}

fn main() -> Result<()> {
    let quick = flag("--quick");
    let writes = option("--writes", if quick { 20 } else { 200 })?;
    println!("root -> relay -> leaf on Unix sockets, each tier durable; milliseconds.\n");
    let mut table = Table::new(["", "writes", "p50", "p99", "max"]);
    add(&mut table, "4 kB written and fdatasynced, alone".to_owned(), &syncs(writes)?);
    for window_ms in [500, 10] {
        let mut tiers = Tiers::start(window_ms)?;
        let lone = tiers.lone_writes(writes, window_ms)?;
        let name = |what| format!("window {window_ms} ms, {what}");
        add(&mut table, name("lone write: acknowledged"), &lone.acknowledged);
        add(&mut table, name("lone write: readable on the leaf"), &lone.readable);
        let random = tiers.random_writes(writes * 2, 20.0)?;
        add(&mut table, name("20 random writes a second: readable"), &random.readable);
    }
    table.print("");
    Ok(())
}
