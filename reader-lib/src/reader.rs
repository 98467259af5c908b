//! The reader: what a service opens once and asks for keys.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quicksilver_format::layout::{self, Generation};
use quicksilver_format::status::NodeState;
use quicksilver_format::{DbId, Index, Position, StateDigest};

use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::snapshot::Snapshot;
use crate::status_page::{PageView, StatusPage};

/// Longest sleep on the status page before LMDB itself is asked: bounds the delay when the page
/// is stuck or was replaced.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);

/// A handle on one database of this machine. Cheap to clone, usable from every thread.
///
/// ```
/// # let db = quicksilver::testing::Db::from([("hello", "world")])?;
/// # let dir = db.path();
/// let reader = quicksilver::Reader::open(dir)?;
/// assert_eq!(reader.get(b"hello")?.as_deref(), Some(&b"world"[..]));
/// assert_eq!(reader.get(b"nobody")?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// After `fork` a handle of the parent is dead in the child: every call is an error. Open the
/// database in the child instead.
#[derive(Debug, Clone)]
pub struct Reader {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    environment: Environment,
    page: Option<StatusPage>,
}

/// What a database says about itself and its replicator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Which database.
    pub db_id: DbId,
    /// Which generation is read.
    pub generation: Generation,
    /// Last index and running hash, from LMDB.
    pub position: Position,
    /// Digest of the data.
    pub digest: StateDigest,
    /// Live keys.
    pub keys: u64,
    /// Bytes of live keys and values.
    pub bytes: u64,
    /// When the last batch was sealed at the root, microseconds since the Unix epoch; 0 before
    /// the first.
    pub sealed_at_us: u64,
    /// What the status page adds; `None` when it is missing or stuck.
    pub page: Option<PageView>,
}

impl Status {
    /// What the replicator is doing, as far as is known.
    pub fn state(&self) -> Option<NodeState> {
        self.page.and_then(|page| page.state)
    }
}

impl Reader {
    /// Opens the database in `dir`, a replicator's `data_dir`.
    ///
    /// The replicator need not run: what it left is readable.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let environment = Environment::open_reader(dir)?;
        let page = match StatusPage::open(&dir.join(layout::STATUS)) {
            Ok(page) if page.db_id() == environment.db_id => Some(page),
            Ok(page) => {
                return Err(Error::WrongDatabase {
                    path: dir.join(layout::STATUS),
                    expected: environment.db_id,
                    found: page.db_id(),
                });
            }
            // The page is a hint; without it the reader asks LMDB.
            Err(_) => None,
        };
        Ok(Reader { inner: Arc::new(Inner { dir: dir.to_owned(), environment, page }) })
    }

    /// For the replicator, which serves reads from the environment it writes: a process must not
    /// open the same environment twice.
    #[doc(hidden)]
    pub fn from_environment(dir: &Path, environment: Environment) -> Self {
        let page = StatusPage::open(&dir.join(layout::STATUS)).ok();
        Reader { inner: Arc::new(Inner { dir: dir.to_owned(), environment, page }) }
    }

    /// The directory it was opened with.
    pub fn path(&self) -> &Path {
        &self.inner.dir
    }

    /// The opened generation.
    #[doc(hidden)]
    pub fn environment(&self) -> &Environment {
        &self.inner.environment
    }

    /// Which database this is.
    pub fn db_id(&self) -> DbId {
        self.inner.environment.db_id
    }

    /// The value of `key`, copied; `None` when there is no such key.
    #[inline]
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let txn = self.inner.environment.env.read()?;
        Ok(self.inner.environment.value(&txn, key)?.map(|value| value.into_vec()))
    }

    /// Calls `with` with the value of `key`, in place where possible, and returns what it
    /// returned; `None` when there is no such key.
    ///
    /// The value is valid only during the call: do not wait for anything in it.
    #[inline]
    pub fn get_with<R>(&self, key: &[u8], with: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        let txn = self.inner.environment.env.read()?;
        Ok(self.inner.environment.value(&txn, key)?.map(|value| with(&value)))
    }

    /// The length of the value of `key`, without reading it; `None` when there is no such key.
    pub fn value_bytes(&self, key: &[u8]) -> Result<Option<u32>> {
        let txn = self.inner.environment.env.read()?;
        Ok(self.inner.environment.cell(&txn, key)?.map(|cell| cell.value_bytes()))
    }

    /// One consistent view of everything.
    pub fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::begin(&self.inner.environment)
    }

    /// The last index that is visible here: from the status page, in a few nanoseconds, or from
    /// LMDB when there is no page.
    #[inline]
    pub fn index(&self) -> Result<Index> {
        match &self.inner.page {
            Some(page) => Ok(page.index()),
            None => self.index_in_lmdb(),
        }
    }

    fn index_in_lmdb(&self) -> Result<Index> {
        let environment = &self.inner.environment;
        let txn = environment.env.read()?;
        Ok(environment.applied(&txn)?.position.index)
    }

    /// Sleeps until `index` is visible here, at most `timeout`, and returns the last index then.
    ///
    /// A woken sleeper costs the writer nothing: it waits on a word of the status page.
    pub fn wait_for(&self, index: Index, timeout: Duration) -> Result<Index> {
        // A timeout beyond the end of time is none.
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let word = self.inner.page.as_ref().map(StatusPage::notify_word);
            let mut now = self.index()?;
            if now < index {
                // The page may trail LMDB, or be stuck.
                now = self.index_in_lmdb()?;
            }
            let left =
                deadline.map_or(LONGEST_SLEEP, |at| at.saturating_duration_since(Instant::now()));
            if now >= index || left.is_zero() {
                return Ok(now);
            }
            match (&self.inner.page, word) {
                (Some(page), Some(word)) if !page.replaced() => {
                    page.sleep_while(word, left.min(LONGEST_SLEEP));
                }
                _ => std::thread::sleep(left.min(Duration::from_millis(10))),
            }
        }
    }

    /// What the database says about itself and its replicator.
    pub fn status(&self) -> Result<Status> {
        let environment = &self.inner.environment;
        let txn = environment.env.read()?;
        let applied = environment.applied(&txn)?;
        let log = environment.log_state(&txn)?;
        Ok(Status {
            db_id: environment.db_id,
            generation: environment.generation,
            position: applied.position,
            digest: applied.digest,
            keys: applied.keys,
            bytes: applied.bytes,
            sealed_at_us: log.sealed_at_us,
            page: self.inner.page.as_ref().and_then(StatusPage::view),
        })
    }
}
