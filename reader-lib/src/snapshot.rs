//! One consistent view of the whole database.

use std::ops::{Bound, RangeBounds};

use quicksilver_format::layout::BUCKET_DATA;
use quicksilver_format::{Index, Position, StateDigest};
use quicksilver_lmdb::{Cursor, OwnedReadTxn, Transaction};

use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::value::{self, Value};

/// A view in which nothing changes, however long it is held and whatever is written meanwhile.
///
/// Hold it briefly: pages that it may still look at cannot be used again by the writer, so the
/// file grows while it lives.
///
/// ```
/// # let db = quicksilver::testing::Db::from([("zone/a", "1"), ("zone/b", "2"), ("zoo", "3")])?;
/// # let reader = db.reader();
/// let snapshot = reader.snapshot()?;
/// assert_eq!(snapshot.get(b"zone/a")?.as_deref(), Some(&b"1"[..]));
/// let keys: Vec<_> = snapshot.prefix(b"zone/")?.map(|pair| pair.map(|(key, _)| key.to_vec()))
///     .collect::<Result<_, _>>()?;
/// assert_eq!(keys, [b"zone/a", b"zone/b"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Snapshot {
    environment: Environment,
    txn: OwnedReadTxn,
    state: quicksilver_format::meta::Applied,
}

impl Snapshot {
    pub(crate) fn begin(environment: &Environment) -> Result<Self> {
        let txn = environment.env.read_owned()?;
        let state = environment.applied(&txn)?;
        Ok(Snapshot { environment: environment.clone(), txn, state })
    }

    /// The index it shows.
    pub fn index(&self) -> Index {
        self.state.position.index
    }

    /// The index it shows and the running hash there.
    pub fn position(&self) -> Position {
        self.state.position
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

    /// The value of `key`, in place where possible; `None` when there is no such key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Value<'_>>> {
        self.environment.value(&self.txn, key)
    }

    /// The pairs whose keys begin with `prefix`, in key order.
    pub fn prefix(&self, prefix: &[u8]) -> Result<Pairs<'_>> {
        Pairs::new(self, Bound::Included(prefix.to_vec()), End::Prefix(prefix.to_vec()))
    }

    /// The pairs whose keys lie in `range`, in key order.
    pub fn range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Result<Pairs<'_>> {
        let owned = |bound: Bound<&K>| bound.map(|key| key.as_ref().to_vec());
        Pairs::new(self, owned(range.start_bound()), End::Bound(owned(range.end_bound())))
    }

    /// All pairs, in key order.
    pub fn iter(&self) -> Result<Pairs<'_>> {
        Pairs::new(self, Bound::Unbounded, End::Bound(Bound::Unbounded))
    }
}

#[derive(Debug)]
enum End {
    Prefix(Vec<u8>),
    Bound(Bound<Vec<u8>>),
}

impl End {
    fn is_before(&self, key: &[u8]) -> bool {
        match self {
            End::Prefix(prefix) => !key.starts_with(prefix),
            End::Bound(Bound::Unbounded) => false,
            End::Bound(Bound::Included(last)) => key > last.as_slice(),
            End::Bound(Bound::Excluded(end)) => key >= end.as_slice(),
        }
    }
}

/// Iterator over the pairs of a [`Snapshot`]. After an error it is at its end.
pub struct Pairs<'s> {
    snapshot: &'s Snapshot,
    cursor: Cursor<'s>,
    next: Option<(&'s [u8], &'s [u8])>,
    end: End,
}

impl std::fmt::Debug for Pairs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pairs(to {:?})", self.end)
    }
}

impl<'s> Pairs<'s> {
    fn new(snapshot: &'s Snapshot, start: Bound<Vec<u8>>, end: End) -> Result<Self> {
        let mut cursor = snapshot.txn.cursor(snapshot.environment.data)?;
        let next = match &start {
            Bound::Included(key) | Bound::Excluded(key) if !key.is_empty() => {
                let found = cursor.seek(key)?;
                match (&start, found) {
                    (Bound::Excluded(key), Some((first, _))) if first == key.as_slice() => {
                        cursor.next()?
                    }
                    _ => found,
                }
            }
            _ => cursor.first()?,
        };
        Ok(Pairs { snapshot, cursor, next, end })
    }

    fn step(&mut self, key: &'s [u8], cell: &'s [u8]) -> Result<(&'s [u8], Value<'s>)> {
        let value = value::read(&self.snapshot.environment, &self.snapshot.txn, key, cell)?;
        self.next = self.cursor.next()?;
        Ok((key, value))
    }
}

impl<'s> Iterator for Pairs<'s> {
    type Item = Result<(&'s [u8], Value<'s>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let (key, cell) = self.next.take()?;
        if self.end.is_before(key) {
            return None;
        }
        if key.is_empty() {
            return Some(Err(Error::corrupt(BUCKET_DATA, key, "an empty key")));
        }
        Some(self.step(key, cell))
    }
}
