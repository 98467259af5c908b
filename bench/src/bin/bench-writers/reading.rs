//! The two loops that read the 20 pairs, and what they take down.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl;
use quicksilver_bench::Result;
use quicksilver_bench::histogram::Histogram;

/// Pairs that are read, one after the other, over and over.
pub(crate) const PAIRS: usize = 20;
/// Reads of the open loop.
pub(crate) const READS_PER_SECOND: f64 = 1000.0;

/// How the next read is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loop {
    /// The next read begins when the last one has ended. Every moment belongs to some read, so a
    /// pause of the whole process is somebody's latency; but it is one read's only.
    Closed,
    /// A read is due every millisecond, whatever became of the ones before, and its latency counts
    /// from when it was due: a pause is the latency of everything that fell into it.
    Open,
}

/// What a loop has seen.
#[derive(Debug, Default, Clone)]
pub(crate) struct Latencies {
    pub(crate) reads: Histogram,
    /// Open loop: how late the sleep before a read ended; part of `reads`, and the floor that the
    /// kernel sets for everybody. Reads that were late already, by the ones before, did not sleep.
    pub(crate) wakeups: Histogram,
}

impl Latencies {
    pub(crate) fn add(&mut self, other: &Latencies) {
        self.reads.add(&other.reads);
        self.wakeups.add(&other.wakeups);
    }
}

/// Reads for so long. `read` is given the number of a pair.
pub(crate) fn run(
    kind: Loop,
    length: Duration,
    read: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Latencies> {
    match kind {
        Loop::Closed => closed(length, read),
        Loop::Open => open(length, read),
    }
}

fn closed(length: Duration, read: &mut dyn FnMut(usize) -> Result<()>) -> Result<Latencies> {
    let mut latencies = Latencies::default();
    let mut last = Instant::now();
    let end = last + length;
    while last < end {
        for number in 0..PAIRS {
            read(number)?;
            let now = Instant::now();
            latencies.reads.record((now - last).as_nanos() as u64);
            last = now;
        }
    }
    Ok(latencies)
}

fn open(length: Duration, read: &mut dyn FnMut(usize) -> Result<()>) -> Result<Latencies> {
    // A sleep may end late by this much; by default 50 µs.
    prctl::set_timerslack(1)?;
    let mut latencies = Latencies::default();
    let start = Instant::now();
    for number in 0..(length.as_secs_f64() * READS_PER_SECOND) as usize {
        let due = start + Duration::from_secs_f64(number as f64 / READS_PER_SECOND);
        let early = due.saturating_duration_since(Instant::now());
        if !early.is_zero() {
            thread::sleep(early);
            latencies.wakeups.record(due.elapsed().as_nanos() as u64);
        }
        read(number % PAIRS)?;
        latencies.reads.record(due.elapsed().as_nanos() as u64);
    }
    Ok(latencies)
}

/// What one `Instant::now` costs, which every latency above includes.
pub(crate) fn clock_ns() -> f64 {
    const TIMES: u32 = 1_000_000;
    let start = Instant::now();
    for _ in 0..TIMES {
        std::hint::black_box(Instant::now());
    }
    start.elapsed().as_nanos() as f64 / f64::from(TIMES)
}
