//! How fast does a relay that was away catch up?
//!
//! `bench-catchup [--entries N] [--rounds N] [--large] [--quick]`
//!
//! A root has sealed entries that a relay has not seen, in batches as a window makes them. From the
//! start of the relay's process until its status page is where the root's log ends; every commit
//! on the way is durable, and at the end index, hash and digest are the root's. Beside it, in
//! turn: the same pairs in the same order, pipelined into a Redis master with a connected
//! replica, until that has all of it; once with everything in memory, and once with a replica
//! that syncs what it takes before it takes more.

mod ours;
mod theirs;

use quicksilver_bench::server::redis;
use quicksilver_bench::stats::{Table, grouped, median};
use quicksilver_bench::{Result, flag, option};
use quicksilver_tests::process::is_installed;

use ours::Root;
use theirs::{Pair, Replica};

/// Times what Redis does.
const TARGET: f64 = 2.0;

/// Who is away, and what it has missed.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    /// Keys that it has: the first ones of [`dataset`](quicksilver_bench::dataset), whose order is
    /// not that of the keys.
    held: u64,
    /// What it has missed: a new value for each of the first keys.
    entries: u64,
    /// Entries of one batch.
    batch: usize,
}

/// A window of 500 ms at 1,000 writes a second.
const SMALL_BATCH: usize = 500;
/// A bulk load: the most that a batch can hold.
const LARGE_BATCH: usize = 100_000;

fn cases(entries: u64) -> Vec<Case> {
    let away = Case {
        name: "it has the keys, batches of 500",
        held: entries,
        entries,
        batch: SMALL_BATCH,
    };
    let loaded = Case { name: "it has the keys, batches of 100,000", batch: LARGE_BATCH, ..away };
    vec![Case { name: "it is empty, batches of 500", held: 0, ..away }, away, loaded]
}

fn large(entries: u64) -> Vec<Case> {
    vec![Case {
        name: "it has ten times the keys, batches of 500",
        held: 10 * entries,
        entries,
        batch: SMALL_BATCH,
    }]
}

/// Entries a second of every round.
#[derive(Debug, Default)]
struct Rates {
    ours: Vec<f64>,
    commits: Vec<f64>,
    in_memory: Vec<f64>,
    synced: Vec<f64>,
}

fn measure(case: &Case, rounds: usize) -> Result<Rates> {
    let mut root = Root::start(case)?;
    let installed = is_installed(redis::PROGRAM);
    let pair = |replica| installed.then(|| Pair::start(case, replica)).transpose();
    let (in_memory, synced) = (pair(Replica::InMemory)?, pair(Replica::Synced)?);
    let per_second = |seconds: f64| case.entries as f64 / seconds;
    let mut rates = Rates::default();
    for round in 0..rounds {
        let caught_up = root.catch_up(round)?;
        rates.ours.push(per_second(caught_up.seconds));
        rates.commits.push(caught_up.commits);
        for (pair, rates) in [(&in_memory, &mut rates.in_memory), (&synced, &mut rates.synced)] {
            if let Some(pair) = pair {
                rates.push(per_second(pair.replicate()?));
            }
        }
    }
    Ok(rates)
}

impl Rates {
    fn cells(&self) -> [String; 6] {
        let rate = |rates: &[f64]| match rates {
            [] => String::new(),
            _ => grouped(median(rates) as u64),
        };
        let ratio = |theirs: &[f64]| match theirs {
            [] => String::new(),
            _ => {
                let ratios: Vec<_> = self.ours.iter().zip(theirs).map(|(a, b)| a / b).collect();
                format!("{:.2}", median(&ratios))
            }
        };
        let (ours, commits) = (rate(&self.ours), format!("{:.0}", median(&self.commits)));
        let [in_memory, synced] = [&self.in_memory, &self.synced];
        [ours, commits, rate(in_memory), ratio(in_memory), rate(synced), ratio(synced)]
    }
}

fn main() -> Result<()> {
    let quick = flag("--quick");
    let entries = option("--entries", if quick { 200_000 } else { 1_000_000 })?;
    let is_large = flag("--large");
    let usual = if is_large { 2 } else { 3 };
    let rounds = option("--rounds", if quick { 1 } else { usual })?;
    println!(
        "A relay catches up {} entries of 100 bytes, every commit durable; medians of {rounds} \
         rounds. Target: {TARGET} times Redis.\n",
        grouped(entries)
    );
    if !is_installed(redis::PROGRAM) {
        println!("Redis is not installed (Debian: {}): left out.\n", redis::PACKAGE);
    }
    let cases = if is_large { large(entries) } else { cases(entries) };
    let mut table = Table::new([
        "the relay",
        "entries/s",
        "commits",
        "Redis in memory, SETs/s",
        "ratio",
        "Redis, synced",
        "ratio",
    ]);
    for case in &cases {
        let [ours, commits, a, b, c, d] = measure(case, rounds)?.cells();
        table.row([case.name.to_owned(), ours, commits, a, b, c, d]);
    }
    table.print("");
    Ok(())
}
