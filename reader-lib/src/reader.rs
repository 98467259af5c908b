//! The reader: what a service opens once and asks for keys.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quicksilver_format::layout::{self, Generation};
use quicksilver_format::status::NodeState;
use quicksilver_format::{DbId, HistoryId, Index, Position, StateDigest};
use quicksilver_lmdb::OwnedReadTxn;

use crate::changes::Changes;
use crate::environment::Environment;
use crate::error::Result;
use crate::follow::Followed;
use crate::options::OpenOptions;
use crate::snapshot::Snapshot;
use crate::status_page::{PageView, StatusPage};

/// Longest sleep on the status page before LMDB itself is asked: bounds the delay when the page
/// is stuck or was replaced.
pub(crate) const LONGEST_SLEEP: Duration = Duration::from_millis(500);

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
    followed: Arc<Followed>,
    snapshot_warning: Duration,
    #[cfg(feature = "tokio")]
    watcher: Arc<crate::asynchronous::Watcher>,
}

/// What a database says about itself and its replicator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Which database.
    pub db_id: DbId,
    /// Which of its pasts; changes when the database is restored or rebuilt to another one.
    pub history: HistoryId,
    /// Which generation is read.
    pub generation: Generation,
    /// Last index and running hash, from LMDB.
    pub position: Position,
    /// The format it is in.
    pub format: u32,
    /// The oldest format a program must know to read it.
    pub format_readable_from: u32,
    /// The oldest index that is still in the log; one after the last when it is empty.
    pub oldest_index: Index,
    /// Digest of the data.
    pub digest: StateDigest,
    /// Live keys.
    pub keys: u64,
    /// Bytes of live keys and values.
    pub bytes: u64,
    /// When the last batch was sealed at the root, microseconds since the Unix epoch; 0 before
    /// the first.
    pub sealed_at_us: u64,
    /// What the status page adds; `None` when it is missing.
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
    /// The replicator need not run: what it left is readable. Opening it twice in one process
    /// shares what is open.
    ///
    /// # Errors
    /// As [`OpenOptions::open`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::options().open(dir)
    }

    /// More ways to open a database: waiting for it, expecting a certain one.
    pub fn options() -> OpenOptions {
        OpenOptions::default()
    }

    pub(crate) fn new(followed: Arc<Followed>, snapshot_warning: Duration) -> Self {
        Reader {
            followed,
            snapshot_warning,
            #[cfg(feature = "tokio")]
            watcher: Arc::default(),
        }
    }

    /// The directory it was opened with.
    pub fn path(&self) -> &Path {
        self.followed.dir()
    }

    /// Which database this is.
    pub fn db_id(&self) -> DbId {
        self.followed.db_id()
    }

    /// The environment that is read at present; the next read may be of a newer generation.
    #[doc(hidden)]
    pub fn environment(&self) -> Result<Environment> {
        self.followed.environment()
    }

    /// Calls `read` with the environment and a transaction on its newest state.
    #[inline]
    pub(crate) fn with_transaction<R>(
        &self,
        read: impl FnOnce(&Environment, &OwnedReadTxn) -> Result<R>,
    ) -> Result<R> {
        self.followed.read(read)
    }

    /// The value of `key`, copied; `None` when there is no such key.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) when the value is not what was written, and what
    /// the system or a directory that was replaced under the reader can bring.
    #[inline]
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.followed
            .read(|environment, txn| Ok(environment.value(txn, key)?.map(|value| value.into_vec())))
    }

    /// Puts the value of `key` into `buffer`, whose memory is used again; `false` when there is no
    /// such key. After anything but `true` the buffer is empty.
    ///
    /// ```
    /// # let db = quicksilver::testing::Db::from([("hello", "world")])?;
    /// # let reader = db.reader();
    /// let mut buffer = Vec::new();
    /// assert!(reader.get_into(b"hello", &mut buffer)?);
    /// assert_eq!(buffer, b"world");
    /// assert!(!reader.get_into(b"nobody", &mut buffer)?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Self::get).
    #[inline]
    pub fn get_into(&self, key: &[u8], buffer: &mut Vec<u8>) -> Result<bool> {
        buffer.clear();
        self.followed.read(|environment, txn| environment.value_into(txn, key, buffer))
    }

    /// Calls `with` with the value of `key`, in place where possible, and returns what it
    /// returned; `None` when there is no such key.
    ///
    /// The value is valid only during the call: do not wait for anything in it.
    ///
    /// ```
    /// # let db = quicksilver::testing::Db::from([("port", "8053")])?;
    /// # let reader = db.reader();
    /// let bytes = reader.get_with(b"port", |value| value.len())?;
    /// assert_eq!(bytes, Some(4));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Self::get).
    #[inline]
    pub fn get_with<R>(&self, key: &[u8], with: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        self.followed
            .read(|environment, txn| Ok(environment.value(txn, key)?.map(|value| with(&value))))
    }

    /// The values of several keys, all from one moment, in the order of the keys.
    ///
    /// ```
    /// # let db = quicksilver::testing::Db::from([("a", "1"), ("b", "2")])?;
    /// # let reader = db.reader();
    /// let values = reader.multi_get(&["b", "nobody", "a"])?;
    /// assert_eq!(values, [Some(b"2".to_vec()), None, Some(b"1".to_vec())]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Self::get), of the first key that fails.
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Vec<u8>>>> {
        self.followed.read(|environment, txn| {
            let value = |key: &K| environment.value(txn, key.as_ref());
            keys.iter().map(|key| Ok(value(key)?.map(|value| value.into_vec()))).collect()
        })
    }

    /// The length of the value of `key`, without reading it; `None` when there is no such key.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn value_bytes(&self, key: &[u8]) -> Result<Option<u32>> {
        self.followed
            .read(|environment, txn| Ok(environment.cell(txn, key)?.map(|cell| cell.value_bytes())))
    }

    /// One consistent view of everything.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::begin(&self.followed, self.snapshot_warning)
    }

    /// At most `limit` pairs whose keys begin with `prefix` and come after `after`, in key order.
    ///
    /// Each page is from a moment of its own, so a walk of any length holds nothing back; what
    /// changes meanwhile is seen or not. For one moment throughout, take a [`Snapshot`].
    ///
    /// ```
    /// # let db = quicksilver::testing::Db::from([("a/1", "x"), ("a/2", "y"), ("a/3", "z")])?;
    /// # let reader = db.reader();
    /// let mut after = None;
    /// let mut keys = Vec::new();
    /// loop {
    ///     let page = reader.page(b"a/", after.as_deref(), 2)?;
    ///     let Some((last, _)) = page.last() else { break };
    ///     after = Some(last.clone());
    ///     keys.extend(page.into_iter().map(|(key, _value)| key));
    /// }
    /// assert_eq!(keys, [b"a/1", b"a/2", b"a/3"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn page(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.snapshot()?
            .prefix_after(prefix, after)?
            .take(limit)
            .map(|pair| pair.map(|(key, value)| (key.to_vec(), value.into_vec())))
            .collect()
    }

    /// The last index that is visible here: from the status page, in a few nanoseconds, or from
    /// LMDB when there is no page.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    #[inline]
    pub fn index(&self) -> Result<Index> {
        match self.followed.index_by_page() {
            Some(index) => {
                self.followed.check_process()?;
                Ok(index)
            }
            None => self.index_in_lmdb(),
        }
    }

    pub(crate) fn index_in_lmdb(&self) -> Result<Index> {
        self.followed.read(|environment, txn| Ok(environment.applied(txn)?.position.index))
    }

    /// Sleeps until `index` is visible here, at most `timeout`, and returns the last index then.
    ///
    /// A woken sleeper costs the writer nothing: it waits on a word of the status page.
    ///
    /// ```
    /// # let db = quicksilver::testing::Db::from([("hello", "world")])?;
    /// # let reader = db.reader();
    /// use std::time::Duration;
    ///
    /// let now = reader.index()?;
    /// let later = reader.wait_for(now.next(), Duration::from_millis(10))?;
    /// assert_eq!(later, now, "nothing was written in that time");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn wait_for(&self, index: Index, timeout: Duration) -> Result<Index> {
        // A timeout beyond the end of time is none.
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let word = self.followed.page().map(StatusPage::notify_word);
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
            self.sleep_while(word, left.min(LONGEST_SLEEP))?;
        }
    }

    /// Sleeps until the page's notify word is another one, or for at most `longest`.
    pub(crate) fn sleep_while(&self, word: Option<u32>, longest: Duration) -> Result<()> {
        let path = self.path().join(layout::STATUS);
        match (self.followed.page(), word) {
            (Some(page), Some(word)) if !page.replaced(&path) => page.sleep_while(word, longest),
            _ => {
                self.followed.look_for_page()?;
                std::thread::sleep(longest.min(Duration::from_millis(10)));
            }
        }
        Ok(())
    }

    pub(crate) fn followed(&self) -> &Arc<Followed> {
        &self.followed
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn watcher(&self) -> &crate::asynchronous::Watcher {
        &self.watcher
    }

    /// What changes after `after` in the keys that begin with `prefix`: a feed from the log, without
    /// a socket. See [`Changes`].
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn changes(&self, after: Index, prefix: &[u8]) -> Result<Changes> {
        Changes::new(self, after, prefix)
    }

    /// What the database says about itself and its replicator.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn status(&self) -> Result<Status> {
        let page = self.followed.page().map(StatusPage::view);
        self.followed.read(|environment, txn| {
            let applied = environment.applied(txn)?;
            let log = environment.log_state(txn)?;
            let format = environment.format_record(txn)?;
            Ok(Status {
                db_id: environment.db_id,
                history: environment.identity(txn)?.history,
                generation: environment.generation,
                format: format.version,
                format_readable_from: format.readable_from,
                position: applied.position,
                oldest_index: log.oldest,
                digest: applied.digest,
                keys: applied.keys,
                bytes: applied.bytes,
                sealed_at_us: log.sealed_at_us,
                page,
            })
        })
    }
}
