//! The two sides of everything about storage: a replicator's store, and plain LMDB that gets whole
//! values and whole log records.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use quicksilver::build::rebuild::SLICE_BYTES;
use quicksilver::build::snapshot;
use quicksilver_format::{Entry, Op};
use quicksilver_lmdb::{Bucket, Env, EnvOptions, Transaction};
use quicksilver_replicator::store::Store;

use crate::clock::Pace;
use crate::{Result, replica};

/// How fast a snapshot is written: what `compact.max_bytes_per_second` is by default.
const COPY_BYTES_PER_SECOND: f64 = (128 << 20) as f64;

/// One commit.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// Until everything was put into the transaction, log and its collection included.
    pub puts: Duration,
    /// All of it, with the sync.
    pub commit: Duration,
}

/// A snapshot under way.
pub type Snapshot = JoinHandle<Result<()>>;

/// Data and a log of it, in one LMDB environment.
pub trait Engine {
    /// Makes the changes, durably and all at once.
    fn commit(&mut self, changes: &[Entry<'_>]) -> Result<Took>;
    /// The file with everything in it.
    fn data_file(&self) -> PathBuf;
    /// Begins to copy what is there, at a bounded rate, and throws the copy away in the end.
    fn snapshot(&self) -> Result<Snapshot>;
}

/// A replicator's store.
#[derive(Debug)]
pub struct Quicksilver {
    dir: PathBuf,
    store: Store,
}

impl Quicksilver {
    /// An empty one, which keeps so many bytes of log.
    pub fn create(dir: &Path, log_bytes: u64) -> Result<Self> {
        Ok(Quicksilver { dir: dir.to_owned(), store: replica::open(dir, log_bytes)? })
    }
}

impl Engine for Quicksilver {
    fn commit(&mut self, changes: &[Entry<'_>]) -> Result<Took> {
        let committed = replica::commit(&mut self.store, changes)?;
        Ok(Took { puts: committed.writing, commit: committed.duration })
    }

    fn data_file(&self) -> PathBuf {
        self.store.environment().env.path().join("data.mdb")
    }

    fn snapshot(&self) -> Result<Snapshot> {
        let (source, into) = (self.store.environment().clone(), snapshot::directory_of(&self.dir));
        let hold = self.store.holds().hold(self.store.end().index);
        Ok(thread::spawn(move || {
            let pace = Pace::new(COPY_BYTES_PER_SECOND);
            let made = snapshot::create(&into, &source, SLICE_BYTES, &mut |progress| {
                pace.wait(progress.copied_bytes as f64);
                true
            })?;
            drop(hold);
            Ok(fs::remove_file(made.ok_or("it was not given up")?.path())?)
        }))
    }
}

/// Plain LMDB: a value is a value, and a log record is another.
#[derive(Debug)]
pub struct Plain {
    env: Env,
    data: Bucket,
    log: Bucket,
    last_index: u64,
    log_pages: u64,
    /// The program that copies the environment to its standard output (`snapshot/peer.c`).
    copier: PathBuf,
}

impl Plain {
    /// Records that a commit may take off the log beyond twice what it has added.
    const COLLECTED: usize = 64;

    /// An empty one, which keeps so many bytes of log. `copier` is the compiled `snapshot/peer.c`.
    pub fn create(dir: &Path, log_bytes: u64, copier: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let options = EnvOptions { map_bytes: replica::MAP_BYTES, ..EnvOptions::default() };
        let env = Env::open_writer(dir, &options)?;
        let (data, log) = (env.create_bucket("data")?, env.create_bucket("log")?);
        let log_pages = log_bytes / env.page_size() as u64;
        Ok(Plain { env, data, log, last_index: 0, log_pages, copier: copier.to_owned() })
    }
}

impl Engine for Plain {
    fn commit(&mut self, changes: &[Entry<'_>]) -> Result<Took> {
        let started = Instant::now();
        let mut txn = self.env.write()?;
        for change in changes {
            match change.op {
                Op::Set(value) => txn.put(self.data, change.key, value)?,
                Op::Del => {
                    txn.del(self.data, change.key)?;
                }
            }
        }
        let mut record = Vec::new();
        for change in changes {
            record.clear();
            change.encode(&mut record);
            self.last_index += 1;
            txn.put_append(self.log, &self.last_index.to_be_bytes(), &record)?;
        }
        for _ in 0..Self::COLLECTED + 2 * changes.len() {
            if txn.stat(self.log)?.pages() <= self.log_pages {
                break;
            }
            let mut cursor = txn.write_cursor(self.log)?;
            cursor.first()?;
            cursor.del_current()?;
        }
        let puts = started.elapsed();
        txn.commit()?;
        Ok(Took { puts, commit: started.elapsed() })
    }

    fn data_file(&self) -> PathBuf {
        self.env.path().join("data.mdb")
    }

    fn snapshot(&self) -> Result<Snapshot> {
        let mut copier = Command::new(&self.copier)
            .arg("out")
            .arg(self.env.path())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut from = copier.stdout.take().ok_or("no pipe from the copier")?;
        let path = self.env.path().with_extension("copy");
        Ok(thread::spawn(move || {
            copy_at_pace(&mut from, &mut File::create(&path)?)?;
            if !copier.wait()?.success() {
                return Err("the copier failed".into());
            }
            Ok(fs::remove_file(&path)?)
        }))
    }
}

fn copy_at_pace(from: &mut impl Read, to: &mut File) -> io::Result<()> {
    let (pace, mut copied) = (Pace::new(COPY_BYTES_PER_SECOND), 0.0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match from.read(&mut buffer)? {
            0 => return to.sync_all(),
            bytes => {
                to.write_all(&buffer[..bytes])?;
                copied += bytes as f64;
                pace.wait(copied);
            }
        }
    }
}
