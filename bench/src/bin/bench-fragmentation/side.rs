//! One side's run, and what it says of itself.

use std::fs;
use std::time::{Duration, Instant};

use quicksilver_bench::Result;
use quicksilver_bench::clock::Pace;
use quicksilver_bench::disk::WriteCounter;
use quicksilver_bench::engine::Engine;
use quicksilver_bench::stats::quantile;
use quicksilver_format::Entry;

use crate::churn::Churn;

/// How often the size of the file is noted.
const SIZE_INTERVAL_SECONDS: f64 = 0.5;

/// One commit: when, and how long it took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    pub(crate) puts_ns: f64,
    pub(crate) commit_ns: f64,
}

/// What was seen while one side was churned in one way. Its clock runs only while it does.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) samples: Vec<Sample>,
    /// Bytes of the file at these seconds.
    pub(crate) file_bytes: Vec<(f64, f64)>,
    /// Bytes of the file before the first commit.
    pub(crate) start_bytes: f64,
    /// Bytes of keys and values that were written, and that the disk was given for them.
    pub(crate) logical_bytes: f64,
    pub(crate) disk_bytes: f64,
    seconds: f64,
}

impl Seen {
    /// A quantile of what `of` says of the commits between two moments.
    pub(crate) fn between(&self, from: f64, to: f64, q: f64, of: fn(&Sample) -> f64) -> f64 {
        let within = self.samples.iter().filter(|s| (from..to).contains(&s.seconds));
        quantile(&within.map(of).collect::<Vec<_>>(), q)
    }

    /// The same of all.
    pub(crate) fn of_all(&self, q: f64, of: fn(&Sample) -> f64) -> f64 {
        self.between(0.0, f64::INFINITY, q, of)
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.seconds
    }

    pub(crate) fn largest_file(&self) -> f64 {
        self.file_bytes.iter().map(|(_, bytes)| *bytes).fold(0.0, f64::max)
    }
}

/// How a slice of a run goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slice {
    pub(crate) length: Duration,
    /// Values of one commit.
    pub(crate) values: usize,
    /// Commits a second at most; none: one after the other.
    pub(crate) commits_per_second: Option<f64>,
    /// Whether a snapshot is taken meanwhile.
    pub(crate) snapshot: bool,
}

/// A database, and what will be written to it.
pub(crate) struct Side {
    pub(crate) name: &'static str,
    engine: Box<dyn Engine>,
    churn: Churn,
    /// Bytes of keys and values that are there and are never written again.
    resting_bytes: u64,
}

impl Side {
    pub(crate) fn new(name: &'static str, engine: impl Engine + 'static, keys: u64) -> Self {
        Side { name, engine: Box::new(engine), churn: Churn::new(keys), resting_bytes: 0 }
    }

    /// Fills the file with cells that have a page each, and takes every second one away: what is free
    /// then are single pages.
    pub(crate) fn scatter(&mut self, cells: u64) -> Result<()> {
        /// Too long for a leaf, short enough for one page.
        const CELL_BYTES: usize = 3000;
        const AT_ONCE: usize = 100;
        let value = vec![b'.'; CELL_BYTES];
        let keys: Vec<String> = (0..cells).map(|n| format!("scattered-{n:08}")).collect();
        for keys in keys.chunks(AT_ONCE) {
            let entries: Vec<_> = keys.iter().map(|k| Entry::set(k.as_bytes(), &value)).collect();
            self.engine.commit(&entries)?;
        }
        let (rest, gone): (Vec<_>, Vec<_>) = keys.iter().enumerate().partition(|(n, _)| n % 2 == 0);
        for keys in gone.chunks(AT_ONCE) {
            let entries: Vec<_> = keys.iter().map(|(_, k)| Entry::del(k.as_bytes())).collect();
            self.engine.commit(&entries)?;
        }
        self.resting_bytes = rest.iter().map(|(_, key)| (key.len() + CELL_BYTES) as u64).sum();
        Ok(())
    }

    /// Gives every key its first value.
    pub(crate) fn fill(&mut self, values: usize) -> Result<()> {
        let engine = &mut self.engine;
        self.churn.fill(values, |entries| engine.commit(entries).map(|_| ()))
    }

    /// Bytes of live keys and values.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.churn.live_bytes() + self.resting_bytes
    }

    fn file_bytes(&self) -> Result<f64> {
        Ok(fs::metadata(self.engine.data_file())?.len() as f64)
    }

    /// Churns for a while.
    pub(crate) fn run(&mut self, slice: Slice, seen: &mut Seen) -> Result<()> {
        if seen.samples.is_empty() {
            seen.start_bytes = self.file_bytes()?;
        }
        let disk = WriteCounter::of(&self.engine.data_file())?;
        let given = disk.bytes();
        let snapshot = slice.snapshot.then(|| self.engine.snapshot()).transpose()?;
        let (began, before) = (Instant::now(), seen.seconds);
        let pace = slice.commits_per_second.map(Pace::new);
        let mut commits = 0.0;
        while began.elapsed() < slice.length {
            if let Some(pace) = pace {
                pace.wait(commits);
            }
            let seconds = before + began.elapsed().as_secs_f64();
            let engine = &mut self.engine;
            let took = self.churn.next(slice.values, |entries| {
                let bytes = entries.iter().map(Entry::encoded_bytes).sum::<usize>();
                seen.logical_bytes += bytes as f64;
                engine.commit(entries)
            })?;
            let [puts_ns, commit_ns] = [took.puts, took.commit].map(|d| d.as_nanos() as f64);
            seen.samples.push(Sample { seconds, puts_ns, commit_ns });
            let noted = seen.file_bytes.last().map_or(f64::NEG_INFINITY, |(at, _)| *at);
            if seconds >= noted + SIZE_INTERVAL_SECONDS {
                seen.file_bytes.push((seconds, self.file_bytes()?));
            }
            commits += 1.0;
        }
        seen.seconds = before + began.elapsed().as_secs_f64();
        if let Some(snapshot) = snapshot {
            snapshot.join().map_err(|_| "the snapshot's thread panicked")??;
        }
        seen.file_bytes.push((seen.seconds, self.file_bytes()?));
        seen.disk_bytes += disk.bytes() - given;
        Ok(())
    }
}
