//! Snapshots made and restored, beside what plain LMDB does for the same.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use quicksilver::build::rebuild::SLICE_BYTES;
use quicksilver::build::snapshot::{self, SnapshotFile};
use quicksilver::build::{DEFAULT_MAX_READERS, Options};
use quicksilver_bench::dataset::{KEY_BYTES, Pool};
use quicksilver_bench::disk::scratch;
use quicksilver_bench::stats::{Table, grouped, median};
use quicksilver_bench::{Result, replica};
use quicksilver_format::Op;
use quicksilver_format::layout::Generation;
use quicksilver_replicator::store::Store;

use crate::{LOG_BYTES, POOL_SEED};

/// Speed, as a part of the peer's.
const TARGET: f64 = 0.6;

/// A database of ours and a plain one with the same pairs.
struct Copies {
    dir: PathBuf,
    store: Store,
    peer: PathBuf,
    keys: u64,
    value_bytes: usize,
}

/// Seconds of one round.
#[derive(Debug, Clone, Copy)]
struct Round {
    create: f64,
    copy: f64,
    restore: f64,
    load: f64,
}

impl Copies {
    fn fill(dir: &Path, peer: &Path, bytes: u64, value_bytes: usize) -> Result<Self> {
        let pool = Pool::new(value_bytes, POOL_SEED);
        let mut store = replica::open(&dir.join("quicksilver"), LOG_BYTES)?;
        let mut pairs = BufWriter::new(File::create(dir.join("pairs"))?);
        let keys = bytes / (KEY_BYTES + value_bytes) as u64;
        replica::fill(keys, value_bytes, &pool, |entries| {
            for entry in entries {
                let Op::Set(value) = entry.op else { return Err("only values are written".into()) };
                pairs.write_all(entry.key)?;
                pairs.write_all(value)?;
            }
            replica::commit(&mut store, entries).map(|_| ())
        })?;
        pairs.flush()?;
        let (dir, peer) = (dir.to_owned(), peer.to_owned());
        let copies = Copies { dir, store, peer, keys, value_bytes };
        copies.load("plain")?;
        Ok(copies)
    }

    /// What the peer says: seconds.
    fn ask(&self, command: &mut Command) -> Result<f64> {
        let output = command.output()?;
        let answer = String::from_utf8(output.stdout)?;
        let ns = answer.trim().parse::<f64>();
        Ok(ns.map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())? / 1e9)
    }

    /// The peer makes the directory `name` of the pairs.
    fn load(&self, name: &str) -> Result<f64> {
        let to = self.dir.join(name);
        fs::create_dir(&to)?;
        let sizes = [KEY_BYTES, self.value_bytes].map(|bytes| bytes.to_string());
        let mut command = Command::new(&self.peer);
        self.ask(command.arg("load").arg(self.dir.join("pairs")).arg(&to).args(sizes))
    }

    fn create(&self) -> Result<(f64, SnapshotFile)> {
        let start = Instant::now();
        let source = self.store.environment();
        let into = self.dir.join("snapshots");
        let made = snapshot::create(&into, source, SLICE_BYTES, &mut |_| true)?;
        let seconds = start.elapsed().as_secs_f64();
        Ok((seconds, made.ok_or("it was not given up")?))
    }

    fn copy(&self) -> Result<f64> {
        let to = self.dir.join("copied");
        fs::create_dir(&to)?;
        let mut command = Command::new(&self.peer);
        let seconds = self.ask(command.arg("copy").arg(self.dir.join("plain")).arg(&to))?;
        fs::remove_dir_all(to)?;
        Ok(seconds)
    }

    fn restore(&self, snapshot: &SnapshotFile) -> Result<f64> {
        let to = self.dir.join("restored");
        fs::create_dir(&to)?;
        let options = Options {
            db_id: replica::db_id(),
            history: self.store.identity().history,
            map_bytes: replica::MAP_BYTES,
            max_readers: DEFAULT_MAX_READERS,
        };
        let start = Instant::now();
        let built = snapshot::restore(snapshot, &to, Generation::FIRST, &options, &mut |_| true)?;
        let seconds = start.elapsed().as_secs_f64();
        if built.map(|built| built.digest) != Some(self.store.state().applied.digest) {
            return Err("what was restored is not what was there".into());
        }
        fs::remove_dir_all(to)?;
        Ok(seconds)
    }

    fn round(&self) -> Result<Round> {
        let (create, snapshot) = self.create()?;
        let copy = self.copy()?;
        let restore = self.restore(&snapshot)?;
        fs::remove_file(snapshot.path())?;
        let load = self.load("loaded")?;
        fs::remove_dir_all(self.dir.join("loaded"))?;
        Ok(Round { create, copy, restore, load })
    }

    fn bytes(&self) -> f64 {
        (self.keys * (KEY_BYTES + self.value_bytes) as u64) as f64
    }
}

/// Values of 1,000 and of 100 bytes.
pub(crate) fn measure(peer: &Path, bytes: u64, rounds: usize) -> Result<()> {
    println!(
        "{:.1} GB of keys and values, medians of {rounds} rounds in turns; MB/s of keys and values.\n",
        bytes as f64 / 1e9
    );
    let mut table = Table::new(["", "Quicksilver", "plain LMDB", "ratio", "target", ""]);
    for value_bytes in [1000, 100] {
        let dir = scratch()?;
        let copies = Copies::fill(dir.path(), peer, bytes, value_bytes)?;
        let all = (0..rounds).map(|_| copies.round()).collect::<Result<Vec<_>>>()?;
        type Seconds = fn(&Round) -> f64;
        let steps: [(&str, Seconds, Seconds); 2] = [
            ("create, beside mdb_copy -c and sync", |r| r.create, |r| r.copy),
            ("restore, beside MDB_APPEND and sync", |r| r.restore, |r| r.load),
        ];
        for (what, ours, plain) in steps {
            let speed = |of: Seconds| {
                let speeds: Vec<_> = all.iter().map(|r| copies.bytes() / of(r) / 1e6).collect();
                format!("{:.0}", median(&speeds))
            };
            let ratio = median(&all.iter().map(|r| plain(r) / ours(r)).collect::<Vec<_>>());
            table.row([
                format!("{} values of {value_bytes} bytes: {what}", grouped(copies.keys)),
                speed(ours),
                speed(plain),
                format!("{ratio:.2}"),
                format!("{TARGET}"),
                if ratio >= TARGET { "met" } else { "missed" }.to_owned(),
            ]);
        }
    }
    table.print("");
    println!();
    Ok(())
}
