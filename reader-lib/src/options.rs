//! How a database is opened.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quicksilver_format::DbId;

use crate::error::{Error, Result};
use crate::follow::Followed;
use crate::reader::Reader;

/// How long between two looks for a database that is not there yet.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long a snapshot may be held before the library warns of it.
const SNAPSHOT_WARNING: Duration = Duration::from_secs(10);

/// How to open a database, for when [`Reader::open`] is not enough.
///
/// ```
/// # let db = quicksilver::testing::Db::from([("hello", "world")])?;
/// # let dir = db.path();
/// use std::time::Duration;
/// use quicksilver::Reader;
///
/// // A service that starts before the replicator has made its first copy:
/// let reader = Reader::options().wait(Duration::from_secs(30)).open(dir)?;
///
/// // Never another database, whatever lies there:
/// let reader = Reader::options().expect_db(reader.db_id()).open(dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct OpenOptions {
    expected: Option<DbId>,
    wait: Duration,
    snapshot_warning: Duration,
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions { expected: None, wait: Duration::ZERO, snapshot_warning: SNAPSHOT_WARNING }
    }
}

impl OpenOptions {
    /// Refuses any database but this one.
    pub fn expect_db(mut self, db_id: DbId) -> Self {
        self.expected = Some(db_id);
        self
    }

    /// Waits so long for a database that is not there yet; at once is the default.
    pub fn wait(mut self, timeout: Duration) -> Self {
        self.wait = timeout;
        self
    }

    /// A snapshot that is held longer than this is warned of, through the `log` crate; 10 seconds by
    /// default. While it is held the database's file can only grow.
    pub fn snapshot_warning(mut self, held: Duration) -> Self {
        self.snapshot_warning = held;
        self
    }

    /// Opens the database in `dir`, a replicator's `data_dir`.
    ///
    /// # Errors
    /// [`Error::NoDatabase`] when there is none, after waiting; [`Error::WrongDatabase`];
    /// [`Error::Format`] when this release cannot read it; [`Error::Lmdb`] when it cannot be read in
    /// this process or from this place (its message says why, and what to do).
    pub fn open(&self, dir: impl AsRef<Path>) -> Result<Reader> {
        let dir = dir.as_ref();
        let followed = self.wait_for_database(dir)?;
        if let Some(expected) = self.expected.filter(|expected| *expected != followed.db_id()) {
            let found = followed.db_id();
            return Err(Error::WrongDatabase { path: dir.to_owned(), expected, found });
        }
        Ok(Reader::new(Arc::new(followed), self.snapshot_warning))
    }

    fn wait_for_database(&self, dir: &Path) -> Result<Followed> {
        // A wait beyond the end of time is for ever.
        let deadline = Instant::now().checked_add(self.wait);
        loop {
            match Followed::open(dir) {
                Err(Error::NoDatabase { .. }) if deadline.is_none_or(|at| Instant::now() < at) => {
                    std::thread::sleep(LOOK_INTERVAL);
                }
                opened => return opened,
            }
        }
    }
}
