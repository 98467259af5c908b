//! Building a database without a replicator: for tests, for benchmarks, for `qsctl build`.
//!
//! What comes out is what a replicator leaves: whole batches with their log, position and digest,
//! the same files with the same modes, and a status page. A replicator can take it as its
//! `data_dir`. Pairs may come in any order, and any number of them: a batch is written whenever
//! enough have come, so memory is bounded (about 200 MB when keys come in random order, 40 MB when
//! they are sorted, which is also several times as fast).
//!
//! ```
//! use quicksilver::build::{Builder, Options};
//! # let temporary = tempfile::tempdir()?;
//! # let dir = temporary.path().join("dns");
//!
//! let mut builder = Builder::create(&dir, &Options::default())?;
//! builder.push(b"hello", b"world")?;
//! builder.push(b"hello", b"the later one counts")?;
//! let built = builder.finish()?;
//! assert_eq!((built.keys, built.position.index.get()), (1, 2));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! * [`Builder::create`] makes a new database; nobody can see it before [`Builder::finish`].
//! * [`Builder::beside`] makes another generation of one that is there, and [`switch_to`] makes
//!   that one live.
//! * [`rebuild`](mod@rebuild) makes another generation out of the live one, without its free pages.
//! * [`snapshot`] writes the live generation into one file, and makes a generation of such a file.
//! * [`append`] adds a batch to an opened generation, as a replicator's commit does.
//! * [`raise_format`] raises an opened generation to the newest format, which is what
//!   `qsctl format finalize` asks for.
//! * [`apply`](mod@apply) is what all of them, and the replicator, write data with.
//!
//! Invariants:
//! * A generation is made under a name that ends in `.new`, synced, and renamed. A builder that is
//!   dropped unfinished takes it away again.
//! * `CURRENT` is written after everything it stands for is on disk.
//! * A generation is made in the format that its database is in; the format of a new database is one
//!   that the release before this one knows.
//! * Nothing here writes to a directory that another process writes: a new database is made under
//!   the role lock, and whoever calls [`append`] or [`switch_to`] holds it.

pub mod apply;
pub mod directory;
mod error;
mod format;
#[cfg(feature = "next-format")]
mod next;
pub mod rebuild;
mod role;
pub mod snapshot;
pub mod walk;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use quicksilver_format::layout::{self, Generation};
use quicksilver_format::limits::{
    BATCH_DEFAULT_MAX_BYTES, BATCH_HARD_MAX_BYTES, BATCH_MAX_ENTRIES, VALUE_HARD_MAX_BYTES,
    check_key,
};
use quicksilver_format::meta::{Applied, Format, Identity};
use quicksilver_format::status::{Commit, NodeState};
use quicksilver_format::{
    BatchBuilder, DbId, Entry, HistoryId, NEW_DATABASE_FORMAT_VERSION, Op, Position, StateDigest,
};
use quicksilver_lmdb::{Env, EnvOptions};

pub use apply::State;
pub use error::{BuildError, Result};
pub use format::{FormatChange, raise as raise_format};
pub use role::RoleLock;

use crate::environment::{Environment, live_generation};
use crate::error::Error;
use crate::status_page::StatusWriter;

/// Entries of one batch, and of one commit. Half of what the format allows: random keys with long
/// names dirty branch pages too, and a transaction holds only so many.
const BATCH_ENTRIES: usize = BATCH_MAX_ENTRIES / 2;

/// Reader slots, unless somebody says otherwise.
pub const DEFAULT_MAX_READERS: u32 = 4096;

/// What a generation is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Which database. Default: a new one.
    pub db_id: DbId,
    /// Which of its pasts. Default: a new one.
    pub history: HistoryId,
    /// Bytes of the memory map: the bound on the file. Default 16 GiB, as a replicator's.
    pub map_bytes: usize,
    /// Reader slots. Default 4096, as a replicator's.
    pub max_readers: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            db_id: DbId::random(),
            history: HistoryId::random(),
            map_bytes: 16 << 30,
            max_readers: DEFAULT_MAX_READERS,
        }
    }
}

/// What was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Built {
    /// Which generation.
    pub generation: Generation,
    /// Where its log ends.
    pub position: Position,
    /// Digest of the data.
    pub digest: StateDigest,
    /// Live keys.
    pub keys: u64,
    /// Bytes of live keys and values.
    pub bytes: u64,
}

impl Built {
    fn of(generation: Generation, state: &State) -> Self {
        let Applied { position, digest, keys, bytes } = state.applied;
        Built { generation, position, digest, keys, bytes }
    }
}

/// Builds one generation out of pairs.
#[derive(Debug)]
pub struct Builder {
    dir: PathBuf,
    generation: Generation,
    // In this order: the environment is closed before its directory goes.
    environment: Environment,
    unfinished: Unfinished,
    state: State,
    batch: BatchBuilder,
    /// The role lock, held when a whole database is made.
    role: Option<RoleLock>,
}

impl Builder {
    /// Begins a new database in `dir`, which is made if it is not there. Its format is
    /// [`NEW_DATABASE_FORMAT_VERSION`].
    ///
    /// # Errors
    /// [`BuildError::Exists`] when the directory holds one already, [`BuildError::Busy`], or what
    /// the system says.
    pub fn create(dir: &Path, options: &Options) -> Result<Self> {
        directory::make(dir)?;
        let role = RoleLock::take(dir)?;
        directory::refuse_database(dir)?;
        let start = Position::genesis(options.db_id);
        let format = NEW_DATABASE_FORMAT_VERSION;
        let builder = Self::begin(dir, Generation::FIRST, start, format, options)?;
        Ok(Builder { role: Some(role), ..builder })
    }

    /// Begins another generation of the database in `dir`, which becomes live with [`switch_to`].
    ///
    /// Its log continues after `start`, which for a database that is there is not before the end
    /// of the live generation's; its data is what is pushed. `format_version` is what the live
    /// generation is in ([`Environment::format`]): only [`raise_format`] raises it. The caller is the
    /// writer of this database.
    ///
    /// # Errors
    /// [`BuildError::Exists`] when there is such a generation, a format that this release cannot
    /// write, or what the system says.
    pub fn beside(
        dir: &Path,
        generation: Generation,
        start: Position,
        format_version: u32,
        options: &Options,
    ) -> Result<Self> {
        let path = dir.join(generation.to_string());
        if path.exists() {
            return Err(BuildError::Exists { path, found: "a generation".to_owned() });
        }
        Self::begin(dir, generation, start, format_version, options)
    }

    fn begin(
        dir: &Path,
        generation: Generation,
        start: Position,
        format_version: u32,
        options: &Options,
    ) -> Result<Self> {
        let unfinished = Unfinished::begin(dir.join(format!("{generation}.new")))?;
        let path = &unfinished.path;
        let env = Env::open_writer(
            path,
            &EnvOptions {
                map_bytes: options.map_bytes,
                max_readers: options.max_readers,
                open_lock: Some(dir.join(layout::OPEN_LOCK)),
                // Nobody else has it before it is finished, and a crash before that throws it away.
                durable_commits: false,
                ..EnvOptions::default()
            },
        )?;
        let buckets = [
            env.create_bucket(layout::BUCKET_DATA)?,
            env.create_bucket(layout::BUCKET_CHUNKS)?,
            env.create_bucket(layout::BUCKET_LOG)?,
            env.create_bucket(layout::BUCKET_META)?,
        ];
        let [.., meta] = buckets;
        let identity = Identity { db_id: options.db_id, history: options.history };
        let page_bytes = u32::try_from(env.page_size()).unwrap_or(u32::MAX);
        let format = format::of_version(format_version, page_bytes)
            .map_err(|source| Error::Format { path: path.clone(), source })?;
        let state = State::empty_at(start);
        let mut txn = env.write()?;
        txn.put(meta, Format::KEY, &format.encode())?;
        txn.put(meta, Identity::KEY, &identity.encode())?;
        state.write(meta, &mut txn)?;
        txn.commit()?;
        let environment = Environment::new(path.clone(), generation, env, buckets)?;
        let mut txn = environment.env.write()?;
        format::add_to_new(&environment, &mut txn)?;
        txn.commit()?;
        Ok(Builder {
            dir: dir.to_owned(),
            generation,
            environment,
            unfinished,
            state,
            batch: BatchBuilder::new(start),
            role: None,
        })
    }

    /// Gives a key a value. Of several for one key, the last counts.
    ///
    /// # Errors
    /// A key or value beyond the format's limits, of which nothing is kept; or what the system
    /// says, after which the builder is of no use.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let entry = Entry::set(key, value);
        check_entry(&entry)?;
        let bytes = self.batch.payload_bytes() + entry.encoded_bytes();
        let full = self.batch.len() == BATCH_ENTRIES || bytes > BATCH_DEFAULT_MAX_BYTES;
        if full && !self.batch.is_empty() {
            self.commit()?;
        }
        self.batch.push(entry);
        Ok(())
    }

    /// Entries that were pushed, those of one key counted each.
    pub fn entries(&self) -> u64 {
        self.batch.next_index().previous().get()
    }

    fn commit(&mut self) -> Result<()> {
        let next = BatchBuilder::new(self.state.log.last);
        let sealed_at_us = now_us().max(self.state.log.sealed_at_us);
        let Some(batch) = std::mem::replace(&mut self.batch, next).seal(sealed_at_us) else {
            return Ok(());
        };
        let environment = &self.environment;
        let mut txn = environment.env.write()?;
        let state = apply::apply(environment, &mut txn, self.state, &[batch])?;
        state.write(environment.meta, &mut txn)?;
        txn.commit()?;
        self.batch = BatchBuilder::new(state.log.last);
        self.state = state;
        Ok(())
    }

    /// Writes the rest and makes everything durable. A new database is live then; a generation
    /// beside another one is for [`switch_to`].
    pub fn finish(mut self) -> Result<Built> {
        self.commit()?;
        let Builder { dir, generation, environment, unfinished, state, role, .. } = self;
        let db_id = environment.db_id;
        directory::set_modes(&unfinished.path)?;
        drop(environment);
        unfinished.finish(&dir.join(generation.to_string()))?;
        directory::sync(&dir)?;
        let built = Built::of(generation, &state);
        if role.is_some() {
            // Nobody looks at the page before CURRENT is there, and whoever comes then finds it.
            let page = open_page(&dir, db_id)?;
            page.set_generation(generation);
            page.set_state(NodeState::Stopped);
            publish(&page, &state);
            directory::set_current(&dir, generation)?;
        }
        Ok(built)
    }
}

/// A directory that goes again unless it is finished.
#[derive(Debug)]
struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    /// Makes it, in place of what an attempt before this one left.
    fn begin(path: PathBuf) -> Result<Self> {
        directory::remove(&path)?;
        directory::make(&path)?;
        Ok(Unfinished { path })
    }

    /// Gives it its name, and makes what is in it durable before that. It is closed.
    fn finish(self, name: &Path) -> Result<()> {
        directory::sync(&self.path.join("data.mdb"))?;
        directory::sync(&self.path)?;
        fs::rename(&self.path, name).map_err(directory::io_error(name))?;
        // There is nothing under the old name any more.
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // What is left over is removed by the next attempt.
        let _ = directory::remove(&self.path);
    }
}

/// Makes a finished generation the live one: everything it stands for is on disk before `CURRENT`
/// names it, and the status page tells readers after that. The caller is the writer of this
/// database, and commits nothing between the end of the old generation and this.
///
/// # Errors
/// A generation of another database, or one that would take readers back in time: that is behind the
/// live one and of the same history; then nothing has changed. Or what the system says.
pub fn switch_to(dir: &Path, generation: Generation) -> Result<()> {
    let path = dir.join(generation.to_string());
    let options = EnvOptions {
        map_bytes: 0,
        open_lock: Some(dir.join(layout::OPEN_LOCK)),
        ..EnvOptions::default()
    };
    let environment = open_buckets(path.clone(), generation, Env::open_reader(&path, &options)?)?;
    let db_id = environment.db_id;
    let txn = environment.env.read()?;
    let state = State::read(&environment, &txn)?;
    let history = environment.identity(&txn)?.history;
    drop(txn);
    drop(environment);
    match live_generation(dir) {
        Ok(live) => refuse_the_past(dir, live, &path, db_id, history, &state)?,
        // The first one.
        Err(Error::NoDatabase { .. }) => {}
        Err(e) => return Err(e.into()),
    }
    directory::sync(&path.join("data.mdb"))?;
    directory::sync(&path)?;
    directory::set_current(dir, generation)?;
    let page = open_page(dir, db_id)?;
    page.set_generation(generation);
    publish(&page, &state);
    Ok(())
}

/// A generation that replaces `live` is of the same database, and not behind it in the same past.
fn refuse_the_past(
    dir: &Path,
    live: Generation,
    path: &Path,
    db_id: DbId,
    history: HistoryId,
    state: &State,
) -> Result<()> {
    let environment = Environment::open_reader(dir, live)?;
    if environment.db_id != db_id {
        let (path, expected, found) = (path.to_owned(), environment.db_id, db_id);
        return Err(Error::WrongDatabase { path, expected, found }.into());
    }
    let txn = environment.env.read()?;
    let live = environment.applied(&txn)?.position.index;
    let found = state.applied.position.index;
    if environment.identity(&txn)?.history == history && found < live {
        return Err(BuildError::Behind { path: path.to_owned(), found, live });
    }
    Ok(())
}

/// Opens a generation for writing, and writes nothing. Who writes holds the [`RoleLock`].
///
/// # Errors
/// [`Error::Format`] when it is in a format that this release cannot write, or what the system says.
pub fn open_writer(dir: &Path, generation: Generation, max_readers: u32) -> Result<Environment> {
    let path = dir.join(generation.to_string());
    let options = EnvOptions {
        // Fixed when the generation was made: readers that have it mapped could not follow.
        map_bytes: 0,
        max_readers,
        open_lock: Some(dir.join(layout::OPEN_LOCK)),
        ..EnvOptions::default()
    };
    let env = Env::open_writer(&path, &options)?;
    let environment = open_buckets(path.clone(), generation, env)?;
    let writable = environment.format.check_writable();
    writable.map_err(|source| Error::Format { path, source })?;
    Ok(environment)
}

fn open_buckets(path: PathBuf, generation: Generation, env: Env) -> Result<Environment> {
    let buckets = [
        env.open_bucket(layout::BUCKET_DATA)?,
        env.open_bucket(layout::BUCKET_CHUNKS)?,
        env.open_bucket(layout::BUCKET_LOG)?,
        env.open_bucket(layout::BUCKET_META)?,
    ];
    Ok(Environment::new(path, generation, env, buckets)?)
}

/// Opens the status page of the database in `dir`, of which the caller is the writer.
pub fn open_page(dir: &Path, db_id: DbId) -> Result<StatusWriter> {
    let path = dir.join(layout::STATUS);
    StatusWriter::open_or_create(&path, db_id).map_err(|source| BuildError::Page { path, source })
}

/// Appends one batch to an opened generation, durably and all at once, and tells readers. Returns
/// where the log ends now.
///
/// Every change becomes an entry, also one that changes nothing. The caller is the writer of this
/// database, and `environment` its live generation, opened for writing.
///
/// # Errors
/// A key, a value or a batch beyond the format's limits, or what the system says; then nothing has
/// changed.
pub fn append<'a>(
    environment: &Environment,
    page: &StatusWriter,
    changes: impl IntoIterator<Item = Entry<'a>>,
) -> Result<Position> {
    let mut txn = environment.env.write()?;
    let before = State::read(environment, &txn)?;
    let mut builder = BatchBuilder::new(before.log.last);
    let mut freed_chunks = 0;
    for entry in changes {
        check_entry(&entry)?;
        let old = environment.cell(&txn, entry.key)?;
        freed_chunks += old.map_or(0, |cell| cell.chunks() as usize);
        let bytes = builder.payload_bytes() + entry.encoded_bytes();
        if builder.len() + freed_chunks >= BATCH_MAX_ENTRIES || bytes > BATCH_HARD_MAX_BYTES {
            return Err(BuildError::BatchTooLarge);
        }
        builder.push(entry);
    }
    let sealed_at_us = now_us().max(before.log.sealed_at_us);
    let Some(batch) = builder.seal(sealed_at_us) else { return Ok(before.log.last) };
    let state = apply::apply(environment, &mut txn, before, &[batch])?;
    state.write(environment.meta, &mut txn)?;
    txn.commit()?;
    publish(page, &state);
    Ok(state.log.last)
}

fn check_entry(entry: &Entry<'_>) -> Result<()> {
    check_key(entry.key).map_err(Error::from)?;
    match entry.op {
        Op::Set(value) if value.len() > VALUE_HARD_MAX_BYTES => {
            Err(BuildError::ValueTooLong { bytes: value.len() })
        }
        _ => Ok(()),
    }
}

fn publish(page: &StatusWriter, state: &State) {
    page.publish(&Commit {
        position: state.applied.position,
        digest: state.applied.digest,
        keys: state.applied.keys,
        time_us: now_us(),
    });
}

/// For the fields that people and graphs read; order never depends on it.
fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}
