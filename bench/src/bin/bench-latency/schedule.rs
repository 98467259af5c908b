//! Writes at random moments, decided before the first one (open loop).

use std::thread;
use std::time::Duration;

use quicksilver_bench::connection::Address;
use quicksilver_bench::dataset::Rng;
use quicksilver_bench::{Result, server::resp::Client};
use quicksilver_replicator::store::wall_clock_us;

use crate::KEY;

/// Before the first write is due: everybody is ready.
const LEAD_US: u64 = 50_000;

/// When writes are due, in microseconds from the start.
#[derive(Debug, Clone)]
pub(crate) struct Schedule(Vec<u64>);

impl Schedule {
    /// So many a second on average, for so many seconds.
    pub(crate) fn random(per_second: f64, seconds: f64, seed: u64) -> Schedule {
        let mut rng = Rng::new(seed);
        let mut at = 0.0;
        let next = std::iter::from_fn(|| {
            at -= (1.0 - rng.unit()).ln() / per_second;
            (at < seconds).then_some((at * 1e6) as u64)
        });
        Schedule(next.collect())
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// When they are due by the wall clock, from a moment on that is about to come.
    pub(crate) fn begin(&self) -> Vec<u64> {
        let start = wall_clock_us() + LEAD_US;
        self.0.iter().map(|after| start + after).collect()
    }
}

/// Sleeps until a write is due.
pub(crate) fn await_due(due_us: u64) {
    thread::sleep(Duration::from_micros(due_us.saturating_sub(wall_clock_us())));
}

/// What the n-th write of all writes.
pub(crate) fn value(n: usize) -> String {
    format!("value {n}")
}

/// Sends a SET whenever one is due, without waiting for answers, which another thread takes.
pub(crate) fn send_sets(address: &Address, due: &[u64], first: usize) -> Result<()> {
    let mut sender = Client::connect(address)?;
    let mut receiver = sender.try_clone()?;
    let count = due.len();
    let answers = thread::spawn(move || (0..count).try_for_each(|_| receiver.take_ok()));
    for (n, due_us) in due.iter().enumerate() {
        await_due(*due_us);
        sender.send_set(KEY, value(first + n).as_bytes())?;
    }
    answers.join().map_err(|_| "the one who takes answers panicked")??;
    Ok(())
}

/// How long after it was due each was seen, in milliseconds.
pub(crate) fn latencies(due: &[u64], seen: &[u64]) -> Vec<f64> {
    due.iter().zip(seen).map(|(due, seen)| seen.saturating_sub(*due) as f64 / 1e3).collect()
}
