//! How far does the file of a busy database grow while a snapshot of it is made?

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use quicksilver_bench::Result;
use quicksilver_bench::clock::Pace;
use quicksilver_bench::dataset::{self, KEY_BYTES, Pool, Rng};
use quicksilver_bench::disk::scratch;
use quicksilver_bench::engine::{Engine, Plain, Quicksilver};
use quicksilver_bench::plot::{bytes, nanoseconds};
use quicksilver_bench::stats::{Table, quantile};
use quicksilver_format::Entry;

use crate::{LOG_BYTES, POOL_SEED, VALUE_BYTES};

/// The file afterwards, as a multiple of what it was.
const TARGET: f64 = 1.1;
/// Changes a second, in commits of a window.
const CHANGES_PER_SECOND: usize = 10_000;
const WINDOWS_PER_SECOND: usize = 2;

struct Busy {
    engine: Box<dyn Engine>,
    keys: u64,
    pool: Pool,
    rng: Rng,
}

/// What was seen of one side.
#[derive(Debug, Default)]
struct Seen {
    before_bytes: f64,
    after_bytes: f64,
    snapshot_seconds: f64,
    commit_ns: Vec<f64>,
}

impl Busy {
    fn fill(engine: impl Engine + 'static, keys: u64) -> Result<Self> {
        let mut engine: Box<dyn Engine> = Box::new(engine);
        let pool = Pool::new(VALUE_BYTES, POOL_SEED);
        quicksilver_bench::replica::fill(keys, VALUE_BYTES, &pool, |entries| {
            engine.commit(entries).map(|_| ())
        })?;
        Ok(Busy { engine, keys, pool, rng: Rng::new(5) })
    }

    /// One window's changes.
    fn commit(&mut self) -> Result<Duration> {
        let pairs: Vec<_> = (0..CHANGES_PER_SECOND / WINDOWS_PER_SECOND)
            .map(|_| {
                let key = dataset::key(self.rng.below(self.keys));
                (key, self.pool.cut(VALUE_BYTES, &mut self.rng))
            })
            .collect();
        let entries: Vec<_> = pairs.iter().map(|(key, value)| Entry::set(key, value)).collect();
        Ok(self.engine.commit(&entries)?.commit)
    }

    fn file_bytes(&self) -> Result<f64> {
        Ok(fs::metadata(self.engine.data_file())?.len() as f64)
    }

    /// Writes for a while, then goes on while a snapshot is made.
    fn run(&mut self, run_up: Duration) -> Result<Seen> {
        let mut seen = Seen::default();
        let (began, pace, mut commits) =
            (Instant::now(), Pace::new(WINDOWS_PER_SECOND as f64), 0.0);
        let mut snapshot = None;
        loop {
            pace.wait(commits);
            let took = self.commit()?;
            commits += 1.0;
            match &snapshot {
                None if began.elapsed() < run_up => continue,
                None => {
                    seen.before_bytes = self.file_bytes()?;
                    snapshot = Some((Instant::now(), self.engine.snapshot()?));
                    continue;
                }
                Some((_, running)) if !running.is_finished() => {
                    seen.commit_ns.push(took.as_nanos() as f64);
                }
                Some(_) => break,
            }
        }
        let (began, made) = snapshot.ok_or("a snapshot was begun")?;
        made.join().map_err(|_| "the snapshot's thread panicked")??;
        seen.snapshot_seconds = began.elapsed().as_secs_f64();
        seen.after_bytes = self.file_bytes()?;
        Ok(seen)
    }
}

/// Both sides, one after the other: each has its seconds, whatever the other does.
pub(crate) fn measure(peer: &Path, data_bytes: u64, run_up: Duration) -> Result<()> {
    let keys = data_bytes / (KEY_BYTES + VALUE_BYTES) as u64;
    println!(
        "A snapshot of {} at 128 MiB/s, while {CHANGES_PER_SECOND} values of {VALUE_BYTES} bytes a \
         second are written in windows of {} ms:\n",
        bytes(data_bytes as f64),
        1000 / WINDOWS_PER_SECOND
    );
    let mut table =
        Table::new(["", "seconds", "file before", "after", "ratio", "commits p50", "max"]);
    let mut ratios = Vec::new();
    for name in ["Quicksilver", "plain LMDB, mdb_env_copy"] {
        let dir = scratch()?;
        let mut busy = match name {
            "Quicksilver" => Busy::fill(Quicksilver::create(dir.path(), LOG_BYTES)?, keys)?,
            _ => Busy::fill(Plain::create(&dir.path().join("plain"), LOG_BYTES, peer)?, keys)?,
        };
        let seen = busy.run(run_up)?;
        let ratio = seen.after_bytes / seen.before_bytes;
        ratios.push(ratio);
        table.row([
            name.to_owned(),
            format!("{:.1}", seen.snapshot_seconds),
            bytes(seen.before_bytes),
            bytes(seen.after_bytes),
            format!("{ratio:.2}"),
            nanoseconds(quantile(&seen.commit_ns, 0.5)),
            nanoseconds(quantile(&seen.commit_ns, 1.0)),
        ]);
    }
    table.print("");
    let met = if ratios[0] <= TARGET { "met" } else { "missed" };
    println!("\nThe file grows to {:.2} of what it was; target {TARGET}: {met}.\n", ratios[0]);
    Ok(())
}
