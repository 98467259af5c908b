//! The change feed: which keys changed, from the log that the replicator keeps in the database.
//!
//! Invariants: changes come in the order of their index, none is left out without a
//! [`Change::Rescan`], and none comes before it is visible to reads.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use quicksilver_format::{Batch, HistoryId, Index, Op};

use crate::error::Result;
use crate::log;
use crate::reader::Reader;

/// How much of the log is read at once; at least one batch.
const LOG_BYTES_AT_ONCE: usize = 1 << 20;

/// One thing that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A key was set.
    Set {
        /// Its index in the log.
        index: Index,
        /// The key.
        key: Vec<u8>,
        /// Its value then.
        value: Vec<u8>,
    },
    /// A key was deleted.
    Del {
        /// Its index in the log.
        index: Index,
        /// The key.
        key: Vec<u8>,
    },
    /// Anything may have changed: the feed fell behind what the log still holds, or the database
    /// was restored or rebuilt to another past. Read again what you need, from a snapshot taken now;
    /// the changes that follow come after `index`, and some may be in that snapshot already.
    Rescan {
        /// Where the feed goes on.
        index: Index,
    },
}

impl Change {
    /// Its index in the log, or where the feed goes on.
    pub fn index(&self) -> Index {
        match self {
            Change::Set { index, .. } | Change::Del { index, .. } | Change::Rescan { index } => {
                *index
            }
        }
    }

    /// The key that changed; `None` when it may be any.
    pub fn key(&self) -> Option<&[u8]> {
        match self {
            Change::Set { key, .. } | Change::Del { key, .. } => Some(key),
            Change::Rescan { .. } => None,
        }
    }
}

/// A feed of the changes to keys with a prefix. Between changes it sleeps, without a socket.
///
/// To start from a known state, take a snapshot and follow its index: nothing between the two is
/// missed.
///
/// ```
/// # let db = quicksilver::testing::Db::from([("zone/a", "1")])?;
/// # let reader = db.reader();
/// use std::collections::BTreeMap;
/// use std::time::Duration;
/// use quicksilver::{Change, Reader};
///
/// fn load(reader: &Reader, zones: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> quicksilver::Result<quicksilver::Index> {
///     let snapshot = reader.snapshot()?;
///     zones.clear();
///     for pair in snapshot.prefix(b"zone/")? {
///         let (key, value) = pair?;
///         zones.insert(key.to_vec(), value.to_vec());
///     }
///     Ok(snapshot.index())
/// }
///
/// let mut zones = BTreeMap::new();
/// let mut changes = reader.changes(load(&reader, &mut zones)?, b"zone/")?;
/// # db.apply([("zone/b", Some("2")), ("zone/a", None), ("other", Some("3"))])?;
/// # let mut left = 2;
/// while let Some(change) = changes.next_within(Duration::from_secs(1))? {
///     match change {
///         Change::Set { key, value, .. } => drop(zones.insert(key, value)),
///         Change::Del { key, .. } => drop(zones.remove(&key)),
///         Change::Rescan { .. } => drop(load(&reader, &mut zones)?),
///     }
/// #   left -= 1;
/// #   if left == 0 { break }
/// }
/// assert_eq!(zones.into_keys().collect::<Vec<_>>(), [b"zone/b"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// To go on where an earlier run of the program was, keep [`position`](Changes::position) together
/// with [`Status::history`](crate::Status::history). An index says nothing of another past: when the
/// database was restored meanwhile, the histories differ, and the feed cannot know; begin from a
/// snapshot then.
///
/// As an iterator it never ends: it waits for the next change, however long that takes.
#[derive(Debug)]
pub struct Changes {
    reader: Reader,
    prefix: Vec<u8>,
    history: HistoryId,
    /// Everything up to here has been read from the log.
    read_to: Index,
    ready: VecDeque<Change>,
}

impl Changes {
    pub(crate) fn new(reader: &Reader, after: Index, prefix: &[u8]) -> Result<Self> {
        let history =
            reader.with_transaction(|environment, txn| Ok(environment.identity(txn)?.history))?;
        Ok(Changes {
            reader: reader.clone(),
            prefix: prefix.to_vec(),
            history,
            // The end of all indices has none after it.
            read_to: after.min(Index::new(u64::MAX - 1)),
            ready: VecDeque::new(),
        })
    }

    /// Everything up to this index has been returned, or does not concern the prefix. A feed that
    /// begins after it goes on where this one is.
    pub fn position(&self) -> Index {
        match self.ready.front() {
            Some(Change::Rescan { .. }) | None => self.read_to,
            Some(next) => next.index().previous(),
        }
    }

    /// The next change, if there is one now; returns at once.
    ///
    /// # Errors
    /// As [`Reader::get`]. The feed can be asked again; nothing is skipped.
    pub fn poll(&mut self) -> Result<Option<Change>> {
        while self.ready.is_empty() {
            let before = self.read_to;
            self.read_log()?;
            if self.read_to == before && self.ready.is_empty() {
                return Ok(None);
            }
        }
        Ok(self.ready.pop_front())
    }

    /// The next change; waits for it, but not longer than `timeout`, after which it is `None`.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    pub fn next_within(&mut self, timeout: Duration) -> Result<Option<Change>> {
        // A timeout beyond the end of time is none.
        let deadline = Instant::now().checked_add(timeout);
        loop {
            if let Some(change) = self.poll()? {
                return Ok(Some(change));
            }
            let left =
                deadline.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(None);
            }
            // Not longer than that at once: a database that went back to another past may never
            // reach the index.
            self.reader.wait_for(self.read_to.next(), left.min(crate::reader::LONGEST_SLEEP))?;
        }
    }

    /// Reads the next piece of the log, if there is one.
    fn read_log(&mut self) -> Result<()> {
        let (history, read_to) = (self.history, self.read_to);
        let (now, read) = self.reader.with_transaction(|environment, txn| {
            let now = environment.identity(txn)?.history;
            let applied = environment.applied(txn)?.position.index;
            // None learnt yet, and then one learnt, is the same past.
            let is_other_past = now != history && history != HistoryId::NONE;
            if is_other_past || read_to.next() < environment.log_state(txn)?.oldest {
                return Ok((now, Read::Rescan(applied)));
            }
            if applied <= read_to {
                return Ok((now, Read::Records(Vec::new(), applied)));
            }
            let records = log::read_after(environment, txn, read_to, LOG_BYTES_AT_ONCE)?;
            Ok((now, Read::Records(records, applied)))
        })?;
        self.history = now;
        match read {
            Read::Rescan(index) => {
                self.read_to = index;
                self.ready.push_back(Change::Rescan { index });
            }
            Read::Records(records, applied) => {
                for record in records {
                    self.take_in(&record.decode()?, applied);
                }
            }
        }
        Ok(())
    }

    /// Queues the batch's changes that are new and visible.
    fn take_in(&mut self, batch: &Batch, applied: Index) {
        for (index, entry) in batch.entries() {
            if index <= self.read_to || index > applied || !entry.key.starts_with(&self.prefix) {
                continue;
            }
            let key = entry.key.to_vec();
            self.ready.push_back(match entry.op {
                Op::Set(value) => Change::Set { index, key, value: value.to_vec() },
                Op::Del => Change::Del { index, key },
            });
        }
        self.read_to = self.read_to.max(batch.last().min(applied));
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn reader(&self) -> &Reader {
        &self.reader
    }
}

/// What the log has after an index, and the index up to which it is applied.
enum Read {
    Records(Vec<log::Record>, Index),
    Rescan(Index),
}

impl Iterator for Changes {
    type Item = Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_within(Duration::MAX) {
                Ok(None) => {}
                Ok(Some(change)) => return Some(Ok(change)),
                Err(e) => return Some(Err(e)),
            }
        }
    }
}
