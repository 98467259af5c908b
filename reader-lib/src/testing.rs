//! A real database in a temporary directory, for tests of programs that read one.
//!
//! There is no replicator behind it: it holds what it was made from, and changes when the test
//! says so, with [`Db::apply`]. Other processes can open it meanwhile.
//!
//! ```
//! use std::time::Duration;
//! use quicksilver::testing::Db;
//!
//! let db = Db::from([("hello", "world")])?;
//! let reader = db.reader();
//! assert_eq!(reader.get(b"hello")?.as_deref(), Some(&b"world"[..]));
//!
//! let index = db.apply([("hello", None), ("bye", Some("world"))])?;
//! assert_eq!(reader.wait_for(index, Duration::from_secs(5))?, index);
//! assert_eq!(reader.get(b"hello")?, None);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use quicksilver_format::{DbId, Entry, HistoryId, Index};

use crate::Reader;
use crate::build::{self, Builder, Options, Result, RoleLock, directory};
use crate::environment::{self, Environment};
use crate::error::Error;
use crate::status_page::StatusWriter;

/// A test's database is small, and under some checkers a large map is slow.
const MAP_BYTES: usize = 1 << 30;

/// A database in a temporary directory that goes when this does.
#[derive(Debug)]
pub struct Db {
    writer: Mutex<Option<Writer>>,
    dir: PathBuf,
    db_id: DbId,
}

/// What a replicator would hold.
#[derive(Debug)]
struct Writer {
    environment: Environment,
    page: StatusWriter,
    _role: RoleLock,
}

impl Db {
    /// Writes these pairs; of several with one key, the last.
    pub fn from<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self> {
        let pairs: BTreeMap<Vec<u8>, Vec<u8>> = pairs
            .into_iter()
            .map(|(key, value)| (key.as_ref().to_vec(), value.as_ref().to_vec()))
            .collect();
        let options = Options { map_bytes: MAP_BYTES, ..Options::default() };
        let db = Db { writer: Mutex::new(None), dir: temporary_dir()?, db_id: options.db_id };
        let mut builder = Builder::create(&db.dir, &options)?;
        for (key, value) in &pairs {
            builder.push(key, value)?;
        }
        builder.finish()?;
        // Now, because a process that has it open for reading could not open it for writing.
        db.with_writer(|_| ())?;
        Ok(db)
    }

    /// The directory to open.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Which database this is.
    pub fn db_id(&self) -> DbId {
        self.db_id
    }

    /// A reader on it.
    ///
    /// # Panics
    /// When it cannot be opened: its files were changed by other means.
    pub fn reader(&self) -> Reader {
        match Reader::open(&self.dir) {
            Ok(reader) => reader,
            Err(e) => panic!("the test database cannot be opened: {e}"),
        }
    }

    /// Appends one batch, as a replicator would: a change with a value is a SET, one without is a
    /// DEL; they become visible together, and wake whoever waits. Returns the last index then.
    ///
    /// ```
    /// # let db = quicksilver::testing::Db::from([("a", "1"), ("b", "2")])?;
    /// db.apply([("a", Some("one")), ("b", None)])?;
    /// # assert_eq!(db.reader().get(b"a")?.as_deref(), Some(&b"one"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Keys, values or a batch beyond the format's limits; then nothing has changed.
    pub fn apply<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        changes: impl IntoIterator<Item = (K, Option<V>)>,
    ) -> Result<Index> {
        let changes: Vec<(K, Option<V>)> = changes.into_iter().collect();
        let entries = changes.iter().map(|(key, value)| match value {
            Some(value) => Entry::set(key.as_ref(), value.as_ref()),
            None => Entry::del(key.as_ref()),
        });
        self.with_writer(|writer| build::append(&writer.environment, &writer.page, entries))?
            .map(|end| end.index)
    }

    /// Puts these pairs in the place of all there are, in another generation, as a replicator does
    /// after a compaction (`history` stays what it is) or a restore (it is another one). Readers
    /// are there with their next read. Returns the last index then.
    ///
    /// ```
    /// # use quicksilver::HistoryId;
    /// let db = quicksilver::testing::Db::from([("a", "1")])?;
    /// let reader = db.reader();
    /// db.replace(HistoryId::random(), [("b", "2")])?;
    /// assert_eq!(reader.get(b"a")?, None);
    /// assert_eq!(reader.get(b"b")?.as_deref(), Some(&b"2"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Keys and values beyond the format's limits; then nothing has changed.
    pub fn replace<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        history: HistoryId,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Index> {
        let old = self.environment()?;
        let txn = old.env.read().map_err(Error::from)?;
        let (start, format) = (old.log_state(&txn)?.last, old.format_record(&txn)?.version);
        drop(txn);
        let generation = old.generation.next();
        let options =
            Options { db_id: self.db_id, history, map_bytes: MAP_BYTES, ..Options::default() };
        let mut builder = Builder::beside(&self.dir, generation, start, format, &options)?;
        for (key, value) in pairs {
            builder.push(key.as_ref(), value.as_ref())?;
        }
        let built = builder.finish()?;
        // For writing, before a reader of this process opens it for reading.
        let environment = build::open_writer(&self.dir, generation, build::DEFAULT_MAX_READERS)?;
        build::switch_to(&self.dir, generation)?;
        self.with_writer(|writer| writer.environment = environment)?;
        directory::remove_generation(&self.dir, old.generation)?;
        Ok(built.position.index)
    }

    /// The live generation, opened for writing.
    #[doc(hidden)]
    pub fn environment(&self) -> Result<Environment> {
        self.with_writer(|writer| writer.environment.clone())
    }

    /// Calls `with` with the writer, which is opened when there is none.
    fn with_writer<R>(&self, with: impl FnOnce(&mut Writer) -> R) -> Result<R> {
        let mut held = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = match held.take() {
            Some(writer) => writer,
            None => Writer {
                _role: RoleLock::take(&self.dir)?,
                environment: build::open_writer(
                    &self.dir,
                    environment::live_generation(&self.dir)?,
                    build::DEFAULT_MAX_READERS,
                )?,
                page: build::open_page(&self.dir, self.db_id)?,
            },
        };
        Ok(with(held.insert(writer)))
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        // Closing the environment takes a lock in the directory.
        *self.writer.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn temporary_dir() -> Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    let dir = std::env::temp_dir().join(format!("quicksilver-{}-{n}-{nanos}", process::id()));
    fs::create_dir(&dir).map_err(|source| Error::Io { path: dir.clone(), source })?;
    Ok(dir)
}
