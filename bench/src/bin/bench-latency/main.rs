//! From a write at the root to a read in a leaf's memory, through three durable tiers.
//!
//! `bench-latency [--writes N] [--seconds N] [--rounds N] [--quick]`
//!
//! Replication is over TCP on loopback for everybody, and writers of Quicksilver and Redis use a
//! Unix socket. Beside ours, in turn: a Redis master, a replica and a replica of that, all in memory
//! only, until the last one says that the key has changed; and a watch of one etcd, which syncs.
//!
//! * *Lone writes*: one at a time, after a pause. Everybody gets a short one, and one as long as the
//!   default window, in which processors and caches go cold.
//! * *1,000 writes a second* at random moments, whatever became of the ones before: a latency counts
//!   from when its write was due.

mod etcd;
mod redis;
mod schedule;
mod stages;
mod tiers;

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use quicksilver_bench::server::{etcd as etcd_server, redis as redis_server};
use quicksilver_bench::stats::{Table, millis, quantile};
use quicksilver_bench::{Result, flag, option};
use quicksilver_tests::process::is_installed;

use etcd::Watched;
use redis::Chain;
use schedule::Schedule;
use stages::Stages;
use tiers::{Tiers, Transport};

/// What everybody writes.
const KEY: &[u8] = b"latency";
/// For one write to arrive.
const ARRIVAL: Duration = Duration::from_secs(10);
const PER_SECOND: f64 = 1000.0;
/// Before a lone write: nothing has happened for so long, and at most so much longer.
const SHORT_PAUSE: Pause = Pause(30);
const LONG_PAUSE: Pause = Pause(520);

/// Milliseconds.
#[derive(Debug, Clone, Copy)]
struct Pause(u64);

/// Of what, at which quantile, and at most how many milliseconds.
const TARGETS: [(&str, f64, f64); 4] = [
    ("Quicksilver, window 500 ms: lone", 0.5, 5.0),
    ("Quicksilver, window 500 ms: lone", 0.99, 25.0),
    ("Quicksilver, window 500 ms: 1,000/s", 0.99, 650.0),
    ("Quicksilver, window 10 ms: 1,000/s", 0.99, 50.0),
];

/// One whose writes are seen elsewhere.
trait Seen {
    /// Writes one value and waits until it is seen; milliseconds.
    fn lone_write(&mut self) -> Result<f64>;
    /// Writes on schedule, and says for each how many milliseconds after it was due it was seen.
    fn scheduled_writes(&mut self, schedule: &Schedule) -> Result<Vec<f64>>;
}

/// Milliseconds of everything that was measured, under the names under which it is shown.
#[derive(Debug, Default)]
struct Measured(Vec<(String, Vec<f64>)>);

impl Measured {
    fn add(&mut self, name: impl Into<String>, milliseconds: Vec<f64>) {
        let name = name.into();
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => known.extend(milliseconds),
            None => self.0.push((name, milliseconds)),
        }
    }

    fn print(&self) {
        let mut table = Table::new(["milliseconds", "writes", "p50", "p99", "max"]);
        for (name, milliseconds) in &self.0 {
            let at = |q| format!("{:.2}", quantile(milliseconds, q));
            let count = milliseconds.len().to_string();
            table.row([name.clone(), count, at(0.5), at(0.99), at(1.0)]);
        }
        table.print("");
    }

    fn judge(&self) {
        for (wanted, q, target) in TARGETS {
            for (name, milliseconds) in self.0.iter().filter(|(name, _)| name == wanted) {
                let found = quantile(milliseconds, q);
                let met = if found <= target { "met" } else { "missed" };
                println!("p{} of {name}: {found:.2} ms; target {target}: {met}.", q * 100.0);
            }
        }
    }
}

fn lone(seen: &mut impl Seen, writes: usize, Pause(pause_ms): Pause) -> Result<Vec<f64>> {
    let mut rng = quicksilver_bench::dataset::Rng::new(7);
    let mut one = |_| {
        thread::sleep(Duration::from_millis(pause_ms + rng.below(20)));
        seen.lone_write()
    };
    (0..writes).map(&mut one).collect()
}

/// What one round does of everything.
struct Round {
    writes: usize,
    schedule: Schedule,
}

impl Round {
    fn ours(&self, measured: &mut Measured, stages: &mut Stages) -> Result<()> {
        let name = |window: u64, what: &str| format!("Quicksilver, window {window} ms: {what}");
        let mut default = Tiers::start(500, Transport::Tcp)?;
        measured.add(name(500, "lone"), lone(&mut default, self.writes, LONG_PAUSE)?);
        stages.add("window 500 ms, lone", default.take_stages()?);
        measured.add(name(500, "1,000/s"), default.scheduled_writes(&self.schedule)?);
        stages.add("window 500 ms, 1,000/s", default.take_stages()?);
        drop(default);
        let mut short = Tiers::start(10, Transport::Tcp)?;
        measured.add(name(10, "lone"), lone(&mut short, 2 * self.writes, SHORT_PAUSE)?);
        stages.add("window 10 ms, lone", short.take_stages()?);
        let rested = lone(&mut short, self.writes, LONG_PAUSE)?;
        measured.add(name(10, "lone, after half a second"), rested);
        stages.add("window 10 ms, lone, after half a second", short.take_stages()?);
        measured.add(name(10, "1,000/s"), short.scheduled_writes(&self.schedule)?);
        stages.add("window 10 ms, 1,000/s", short.take_stages()?);
        drop(short);
        let mut unix = Tiers::start(10, Transport::Unix)?;
        let over_unix = lone(&mut unix, 2 * self.writes, SHORT_PAUSE)?;
        measured.add(name(10, "lone, over Unix sockets"), over_unix);
        Ok(())
    }

    fn peer(&self, name: &str, peer: &mut impl Seen, measured: &mut Measured) -> Result<()> {
        measured.add(format!("{name}: lone"), lone(peer, 2 * self.writes, SHORT_PAUSE)?);
        let rested = lone(peer, self.writes, LONG_PAUSE)?;
        measured.add(format!("{name}: lone, after half a second"), rested);
        measured.add(format!("{name}: 1,000/s"), peer.scheduled_writes(&self.schedule)?);
        Ok(())
    }
}

/// What one durable 4 kB overwrite costs on this disk: the unit in which the tiers pay.
fn syncs(count: usize, Pause(pause_ms): Pause) -> Result<Vec<f64>> {
    let mut file = tempfile::tempfile()?;
    file.write_all(&[0; 4096])?;
    file.sync_all()?;
    let one = |n| {
        thread::sleep(Duration::from_millis(pause_ms));
        let start = Instant::now();
        file.write_all_at(&[n as u8; 4096], 0)?;
        file.sync_data()?;
        Ok(millis(start.elapsed()))
    };
    (0..count).map(one).collect()
}

fn main() -> Result<()> {
    let quick = flag("--quick");
    let rounds = option("--rounds", if quick { 1 } else { 2 })?;
    let writes = option("--writes", if quick { 10 } else { 30 })?;
    let seconds: f64 = option("--seconds", if quick { 2.0 } else { 7.0 })?;
    println!("root -> relay -> leaf over TCP, each tier durable.\n");
    let (has_redis, has_etcd) =
        (is_installed(redis_server::PROGRAM), is_installed(etcd_server::PROGRAM));
    if !has_redis {
        println!("Redis is not installed (Debian: {}): left out.\n", redis_server::PACKAGE);
    }
    if !has_etcd {
        println!("etcd is not installed (Debian: {}): left out.\n", etcd_server::PACKAGE);
    }
    let (mut measured, mut stages) = (Measured::default(), Stages::default());
    for round in 0..rounds {
        let schedule = Schedule::random(PER_SECOND, seconds, round as u64);
        let of_this = Round { writes, schedule };
        let alone = "4 kB written and fdatasynced, nothing else";
        measured.add(alone, syncs(2 * writes, SHORT_PAUSE)?);
        measured.add(format!("{alone}, after half a second"), syncs(writes, LONG_PAUSE)?);
        of_this.ours(&mut measured, &mut stages)?;
        if has_redis {
            let mut chain = Chain::start()?;
            of_this.peer("Redis, two replicas in a row", &mut chain, &mut measured)?;
        }
        if has_etcd {
            of_this.peer("etcd, a watch", &mut Watched::start()?, &mut measured)?;
        }
    }
    measured.print();
    println!();
    stages.print();
    println!();
    measured.judge();
    Ok(())
}
