//! Walking the pairs of a snapshot, from either end.

use std::ops::Bound;

use quicksilver_format::layout::BUCKET_DATA;
use quicksilver_lmdb::{Cursor, Pair, Transaction};

use crate::error::{Error, Result};
use crate::snapshot::Snapshot;
use crate::value::{self, Value};

/// Iterator over the pairs of a [`Snapshot`], in key order; `rev()` and `next_back` come from the
/// other end. After an error it is at its end.
pub struct Pairs<'s> {
    snapshot: &'s Snapshot,
    start: Bound<Vec<u8>>,
    end: Bound<Vec<u8>>,
    front: End<'s>,
    back: End<'s>,
    finished: bool,
}

/// How far one end has come: its cursor, once it has moved, and the key it stands on.
#[derive(Default)]
struct End<'s> {
    cursor: Option<Cursor<'s>>,
    key: Option<&'s [u8]>,
}

impl std::fmt::Debug for Pairs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pairs({:?} to {:?})", self.start, self.end)
    }
}

impl<'s> Pairs<'s> {
    pub(crate) fn new(
        snapshot: &'s Snapshot,
        start: Bound<Vec<u8>>,
        end: Bound<Vec<u8>>,
    ) -> Result<Self> {
        let (front, back) = (End::default(), End::default());
        Ok(Pairs { snapshot, start, end, front, back, finished: false })
    }

    fn cursor(&self) -> Result<Cursor<'s>> {
        let lease = self.snapshot.lease();
        Ok(lease.txn.cursor(lease.environment.data)?)
    }

    fn step_forward(&mut self) -> Result<Option<Pair<'s>>> {
        if let Some(cursor) = &mut self.front.cursor {
            return Ok(cursor.next()?);
        }
        let mut cursor = self.cursor()?;
        let found = match &self.start {
            Bound::Unbounded => cursor.first()?,
            Bound::Included(key) => cursor.seek(key)?,
            Bound::Excluded(key) => match cursor.seek(key)? {
                Some((found, _)) if found == key.as_slice() => cursor.next()?,
                other => other,
            },
        };
        self.front.cursor = Some(cursor);
        Ok(found)
    }

    fn step_backward(&mut self) -> Result<Option<Pair<'s>>> {
        if let Some(cursor) = &mut self.back.cursor {
            return Ok(cursor.prev()?);
        }
        let mut cursor = self.cursor()?;
        let found = match &self.end {
            Bound::Unbounded => cursor.last()?,
            Bound::Included(key) => match cursor.seek(key)? {
                Some((found, _)) if found > key.as_slice() => cursor.prev()?,
                None => cursor.last()?,
                exact => exact,
            },
            Bound::Excluded(key) => match cursor.seek(key)? {
                Some(_) => cursor.prev()?,
                None => cursor.last()?,
            },
        };
        self.back.cursor = Some(cursor);
        Ok(found)
    }

    /// Whether `key`, which one end has come to, is beyond the range or where the other end was.
    fn is_outside(&self, key: &[u8]) -> bool {
        let before_start = match &self.start {
            Bound::Unbounded => false,
            Bound::Included(start) => key < start.as_slice(),
            Bound::Excluded(start) => key <= start.as_slice(),
        };
        let after_end = match &self.end {
            Bound::Unbounded => false,
            Bound::Included(end) => key > end.as_slice(),
            Bound::Excluded(end) => key >= end.as_slice(),
        };
        before_start
            || after_end
            || self.front.key.is_some_and(|front| key <= front)
            || self.back.key.is_some_and(|back| key >= back)
    }

    fn value(&self, key: &'s [u8], cell: &'s [u8]) -> Result<(&'s [u8], Value<'s>)> {
        if key.is_empty() {
            return Err(Error::corrupt(BUCKET_DATA, key, "an empty key"));
        }
        self.snapshot.count_read();
        let lease = self.snapshot.lease();
        let (environment, txn) = (&lease.environment, &lease.txn);
        let value = value::read(environment, txn, key, cell);
        Ok((key, value.map_err(|e| environment.or_format(txn, e))?))
    }

    /// What one end has come to becomes an item, or the end of the walk.
    fn item(
        &mut self,
        found: Result<Option<Pair<'s>>>,
        end: fn(&mut Self) -> &mut End<'s>,
    ) -> Option<Result<(&'s [u8], Value<'s>)>> {
        let item = match found {
            Ok(Some((key, cell))) if !self.is_outside(key) => {
                end(self).key = Some(key);
                Some(self.value(key, cell))
            }
            Ok(_) => None,
            Err(e) => Some(Err(e)),
        };
        self.finished = !matches!(item, Some(Ok(_)));
        item
    }
}

impl<'s> Iterator for Pairs<'s> {
    type Item = Result<(&'s [u8], Value<'s>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let found = self.step_forward();
        self.item(found, |pairs| &mut pairs.front)
    }
}

impl DoubleEndedIterator for Pairs<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let found = self.step_backward();
        self.item(found, |pairs| &mut pairs.back)
    }
}

impl std::iter::FusedIterator for Pairs<'_> {}
