//! One consistent view of the whole database.

use std::cell::Cell;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quicksilver_format::meta::Applied;
use quicksilver_format::{HistoryId, Index, Position, StateDigest};
use quicksilver_lmdb::OwnedReadTxn;

use crate::environment::Environment;
use crate::error::Result;
use crate::follow::Followed;
use crate::pairs::Pairs;
use crate::pool::Lease;
use crate::value::Value;

/// A power of two: how many reads of a snapshot share one look at the clock.
const READS_PER_CLOCK_LOOK: u32 = 256;

/// A view in which nothing changes, however long it is held and whatever is written meanwhile.
///
/// Hold it briefly: pages that it may still look at cannot be used again by the writer, so the
/// file grows while it lives. One that is held longer than [`OpenOptions::snapshot_warning`] is
/// warned of, and the operator sees it under the process's pid.
///
/// ```
/// # let db = quicksilver::testing::Db::from([("zone/a", "1"), ("zone/b", "2"), ("zoo", "3")])?;
/// # let reader = db.reader();
/// let snapshot = reader.snapshot()?;
/// assert_eq!(snapshot.get(b"zone/a")?.as_deref(), Some(&b"1"[..]));
///
/// let keys: Vec<_> = snapshot.prefix(b"zone/")?.map(|pair| pair.map(|(key, _)| key))
///     .collect::<Result<_, _>>()?;
/// assert_eq!(keys, [b"zone/a", b"zone/b"]);
///
/// // Backward, and between bounds:
/// let (last, _) = snapshot.iter()?.next_back().unwrap()?;
/// assert_eq!(last, b"zoo");
/// let (key, _) = snapshot.range("zone/b"..="zoo")?.next().unwrap()?;
/// assert_eq!(key, b"zone/b");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// [`OpenOptions::snapshot_warning`]: crate::OpenOptions::snapshot_warning
#[derive(Debug)]
pub struct Snapshot {
    followed: Arc<Followed>,
    /// Always there until it is dropped.
    lease: Option<Box<Lease>>,
    state: Applied,
    since: Instant,
    warn_after: Duration,
    reads: Cell<u32>,
    warned: Cell<bool>,
}

impl Snapshot {
    pub(crate) fn begin(followed: &Arc<Followed>, warn_after: Duration) -> Result<Self> {
        let lease = followed.take()?;
        let state = lease.environment.applied(&lease.txn)?;
        Ok(Snapshot {
            followed: Arc::clone(followed),
            lease: Some(lease),
            state,
            since: Instant::now(),
            warn_after,
            reads: Cell::new(0),
            warned: Cell::new(false),
        })
    }

    #[inline]
    pub(crate) fn lease(&self) -> &Lease {
        match &self.lease {
            Some(lease) => lease,
            None => unreachable!("a snapshot gives its lease back when it is dropped"),
        }
    }

    /// Counts a read, and looks at the clock once in a while.
    #[inline]
    pub(crate) fn count_read(&self) {
        let reads = self.reads.get().wrapping_add(1);
        self.reads.set(reads);
        if reads.is_multiple_of(READS_PER_CLOCK_LOOK) {
            self.warn_if_held_long();
        }
    }

    #[cold]
    fn warn_if_held_long(&self) {
        let held = self.since.elapsed();
        if held > self.warn_after && !self.warned.replace(true) {
            log::warn!(
                "{}: a snapshot of index {} has been held for {:.1} s; the file grows while it is",
                self.followed.dir().display(),
                self.index(),
                held.as_secs_f64()
            );
        }
    }

    /// The environment it reads, for who reads more than keys and values.
    #[doc(hidden)]
    pub fn environment(&self) -> &Environment {
        &self.lease().environment
    }

    /// Its transaction, for who reads more than keys and values.
    #[doc(hidden)]
    pub fn transaction(&self) -> &OwnedReadTxn {
        &self.lease().txn
    }

    /// The index it shows.
    pub fn index(&self) -> Index {
        self.state.position.index
    }

    /// The index it shows and the running hash there.
    pub fn position(&self) -> Position {
        self.state.position
    }

    /// Which of the database's pasts it shows.
    ///
    /// # Errors
    /// As [`Reader::get`](crate::Reader::get).
    pub fn history(&self) -> Result<HistoryId> {
        Ok(self.environment().identity(self.transaction())?.history)
    }

    /// The digest of everything in it, as the replicator computed it.
    pub fn digest(&self) -> StateDigest {
        self.state.digest
    }

    /// Number of keys in it.
    pub fn len(&self) -> u64 {
        self.state.keys
    }

    /// Whether it holds no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How long it has been held.
    pub fn held_for(&self) -> Duration {
        self.since.elapsed()
    }

    /// The value of `key`, in place where possible; `None` when there is no such key.
    ///
    /// # Errors
    /// As [`Reader::get`](crate::Reader::get).
    #[inline]
    pub fn get(&self, key: &[u8]) -> Result<Option<Value<'_>>> {
        self.count_read();
        let lease = self.lease();
        lease.environment.value(&lease.txn, key)
    }

    /// The values of several keys, in their order, each in place where possible.
    ///
    /// # Errors
    /// As [`get`](Self::get), of the first key that fails.
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Value<'_>>>> {
        keys.iter().map(|key| self.get(key.as_ref())).collect()
    }

    /// The pairs whose keys begin with `prefix`, in key order, from either end.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn prefix(&self, prefix: &[u8]) -> Result<Pairs<'_>> {
        self.prefix_after(prefix, None)
    }

    /// As [`prefix`](Self::prefix), without what comes before `after` or is it.
    pub(crate) fn prefix_after(&self, prefix: &[u8], after: Option<&[u8]>) -> Result<Pairs<'_>> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.to_vec()),
            _ => Bound::Included(prefix.to_vec()),
        };
        Pairs::new(self, start, end_of_prefix(prefix))
    }

    /// The pairs whose keys lie in `range`, in key order, from either end.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Result<Pairs<'_>> {
        let owned = |bound: Bound<&K>| bound.map(|key| key.as_ref().to_vec());
        Pairs::new(self, owned(range.start_bound()), owned(range.end_bound()))
    }

    /// All pairs, in key order, from either end.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn iter(&self) -> Result<Pairs<'_>> {
        Pairs::new(self, Bound::Unbounded, Bound::Unbounded)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.warn_if_held_long();
        if let Some(lease) = self.lease.take() {
            self.followed.put(lease);
        }
    }
}

/// The first key after all that begin with `prefix`.
fn end_of_prefix(prefix: &[u8]) -> Bound<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if let Some(next) = last.checked_add(1) {
            *last = next;
            return Bound::Excluded(end);
        }
        end.pop();
    }
    Bound::Unbounded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_its_successor() {
        assert_eq!(end_of_prefix(b"ab"), Bound::Excluded(b"ac".to_vec()));
        assert_eq!(end_of_prefix(b"a\xff\xff"), Bound::Excluded(b"b".to_vec()));
        assert_eq!(end_of_prefix(b"\xff"), Bound::Unbounded);
        assert_eq!(end_of_prefix(b""), Bound::Unbounded);
    }
}
