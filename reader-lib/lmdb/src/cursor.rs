//! Cursors: walking a bucket in key order.
//!
//! Invariants: a cursor borrows its transaction and is closed before that ends; the pairs of a
//! reading [`Cursor`] live as long as the borrow, because nothing can write meanwhile; those of a
//! [`WriteCursor`] only until it is used again. A write cursor never acts on a pair it did not
//! just report.

use std::ffi::c_int;
use std::marker::PhantomData;
use std::ptr::{NonNull, null_mut};

use crate::handle::Handle;
use crate::sys::{
    MDB_APPEND, MDB_CURRENT, MDB_FIRST, MDB_GET_CURRENT, MDB_KEYEXIST, MDB_LAST, MDB_NEXT,
    MDB_NOOVERWRITE, MDB_NOTFOUND, MDB_PREV, MDB_SET_KEY, MDB_SET_RANGE, MDB_SUCCESS, MDB_cursor,
    MDB_cursor_op, MDB_txn, MDB_val, mdb_cursor_close, mdb_cursor_del, mdb_cursor_get,
    mdb_cursor_open, mdb_cursor_put,
};
use crate::txn::{EMPTY, MAX_KEY_BYTES, bucket_failure, slice_of, value_of};
use crate::{Bucket, LmdbError};

/// A key and its value.
pub type Pair<'a> = (&'a [u8], &'a [u8]);

/// The C cursor and what both kinds share.
struct RawCursor<'txn> {
    cursor: NonNull<MDB_cursor>,
    handle: &'txn Handle,
    /// Whether the cursor stands on a pair it reported.
    positioned: bool,
}

impl<'txn> RawCursor<'txn> {
    /// # Safety
    /// `txn` must be a live transaction of `handle` for all of `'txn`, used by one thread.
    unsafe fn open(
        handle: &'txn Handle,
        txn: NonNull<MDB_txn>,
        bucket: Bucket,
    ) -> Result<Self, LmdbError> {
        let doing = "opening a cursor";
        handle.check(bucket, doing)?;
        let mut cursor: *mut MDB_cursor = null_mut();
        // SAFETY: the caller guarantees the transaction; `cursor` is a valid place, and LMDB
        // checks the bucket's number.
        let code = unsafe { mdb_cursor_open(txn.as_ptr(), bucket.dbi, &raw mut cursor) };
        match NonNull::new(cursor).filter(|_| code == MDB_SUCCESS) {
            Some(cursor) => Ok(Self { cursor, handle, positioned: false }),
            None => Err(bucket_failure(handle, code, doing)),
        }
    }

    #[inline]
    fn go(
        &mut self,
        op: MDB_cursor_op,
        key: &[u8],
    ) -> Result<Option<(MDB_val, MDB_val)>, LmdbError> {
        let doing = "moving a cursor";
        self.handle.check_fork(doing)?;
        let (mut key, mut value) = (value_of(key), EMPTY);
        // SAFETY: the cursor is open and its transaction live (`'txn`); `&mut self` of a type
        // that is not Send means that one thread uses it; both places outlive the call.
        let code =
            unsafe { mdb_cursor_get(self.cursor.as_ptr(), &raw mut key, &raw mut value, op) };
        self.positioned = code == MDB_SUCCESS;
        match code {
            MDB_SUCCESS => Ok(Some((key, value))),
            MDB_NOTFOUND => Ok(None),
            code => Err(self.handle.fail(code, doing)),
        }
    }

    fn seek(&mut self, key: &[u8]) -> Result<Option<(MDB_val, MDB_val)>, LmdbError> {
        // LMDB refuses an empty key; every key is at or after it.
        let op = if key.is_empty() { MDB_FIRST } else { MDB_SET_RANGE };
        self.go(op, key)
    }

    fn seek_exact(&mut self, key: &[u8]) -> Result<Option<(MDB_val, MDB_val)>, LmdbError> {
        debug_assert!((1..=MAX_KEY_BYTES).contains(&key.len()), "key of {} bytes", key.len());
        self.go(MDB_SET_KEY, key)
    }

    fn current(&mut self) -> Result<Option<(MDB_val, MDB_val)>, LmdbError> {
        if self.positioned { self.go(MDB_GET_CURRENT, &[]) } else { Ok(None) }
    }
}

impl Drop for RawCursor<'_> {
    fn drop(&mut self) {
        if self.handle.is_ours() {
            // SAFETY: opened by us, closed once, and its transaction is still live (`'txn`).
            unsafe { mdb_cursor_close(self.cursor.as_ptr()) };
        }
    }
}

/// A reading cursor. Its pairs live as long as the borrow of the transaction.
pub struct Cursor<'txn>(RawCursor<'txn>);

impl<'txn> Cursor<'txn> {
    /// # Safety
    /// As [`RawCursor::open`], and the transaction must not write during `'txn`.
    pub(crate) unsafe fn open(
        handle: &'txn Handle,
        txn: NonNull<MDB_txn>,
        bucket: Bucket,
    ) -> Result<Self, LmdbError> {
        // SAFETY: the caller's promise.
        Ok(Self(unsafe { RawCursor::open(handle, txn, bucket)? }))
    }

    /// The first pair.
    ///
    /// # Errors
    /// What LMDB says; the end of the bucket is `None`. The same for every move.
    pub fn first(&mut self) -> Result<Option<Pair<'txn>>, LmdbError> {
        self.0.go(MDB_FIRST, &[]).map(Self::pair)
    }

    /// The last pair.
    ///
    /// # Errors
    /// As [`first`](Self::first).
    pub fn last(&mut self) -> Result<Option<Pair<'txn>>, LmdbError> {
        self.0.go(MDB_LAST, &[]).map(Self::pair)
    }

    /// The next pair; the first one when the cursor has no position yet.
    ///
    /// # Errors
    /// As [`first`](Self::first).
    #[inline]
    #[allow(clippy::should_implement_trait, reason = "it can fail, and it can go back")]
    pub fn next(&mut self) -> Result<Option<Pair<'txn>>, LmdbError> {
        self.0.go(MDB_NEXT, &[]).map(Self::pair)
    }

    /// The previous pair; the last one when the cursor has no position yet.
    ///
    /// # Errors
    /// As [`first`](Self::first).
    #[inline]
    pub fn prev(&mut self) -> Result<Option<Pair<'txn>>, LmdbError> {
        self.0.go(MDB_PREV, &[]).map(Self::pair)
    }

    /// The first pair at or after the key, which may be empty or longer than any stored key.
    ///
    /// # Errors
    /// As [`first`](Self::first).
    pub fn seek(&mut self, key: &[u8]) -> Result<Option<Pair<'txn>>, LmdbError> {
        self.0.seek(key).map(Self::pair)
    }

    /// The pair of exactly this key.
    ///
    /// # Errors
    /// As [`first`](Self::first).
    pub fn seek_exact(&mut self, key: &[u8]) -> Result<Option<Pair<'txn>>, LmdbError> {
        self.0.seek_exact(key).map(Self::pair)
    }

    /// The pair the last move returned, if it returned one.
    ///
    /// # Errors
    /// As [`first`](Self::first).
    pub fn current(&mut self) -> Result<Option<Pair<'txn>>, LmdbError> {
        self.0.current().map(Self::pair)
    }

    #[inline]
    fn pair(found: Option<(MDB_val, MDB_val)>) -> Option<Pair<'txn>> {
        // SAFETY: LMDB filled both, pointing into pages of the snapshot. During `'txn` the
        // transaction is borrowed shared, so it neither ends nor writes.
        found.map(|(key, value)| unsafe { (slice_of(key), slice_of(value)) })
    }
}

/// A cursor that can write. Its pairs live until it is used again.
pub struct WriteCursor<'txn> {
    raw: RawCursor<'txn>,
    _exclusive: PhantomData<&'txn mut ()>,
}

impl<'txn> WriteCursor<'txn> {
    /// # Safety
    /// As [`RawCursor::open`], and nothing else may use the transaction during `'txn`.
    pub(crate) unsafe fn open(
        handle: &'txn Handle,
        txn: NonNull<MDB_txn>,
        bucket: Bucket,
    ) -> Result<Self, LmdbError> {
        // SAFETY: the caller's promise.
        let raw = unsafe { RawCursor::open(handle, txn, bucket)? };
        Ok(Self { raw, _exclusive: PhantomData })
    }

    /// The first pair.
    ///
    /// # Errors
    /// What LMDB says; the end of the bucket is `None`. The same for every move.
    pub fn first(&mut self) -> Result<Option<Pair<'_>>, LmdbError> {
        let found = self.raw.go(MDB_FIRST, &[])?;
        Ok(self.pair(found))
    }

    /// The last pair.
    ///
    /// # Errors
    /// As [`first`](Self::first).
    pub fn last(&mut self) -> Result<Option<Pair<'_>>, LmdbError> {
        let found = self.raw.go(MDB_LAST, &[])?;
        Ok(self.pair(found))
    }

    /// The next pair; after [`del_current`](Self::del_current) the one behind the deleted.
    ///
    /// # Errors
    /// As [`first`](Self::first).
    #[allow(clippy::should_implement_trait, reason = "it lends, and it can fail")]
    pub fn next(&mut self) -> Result<Option<Pair<'_>>, LmdbError> {
        let found = self.raw.go(MDB_NEXT, &[])?;
        Ok(self.pair(found))
    }

    /// The previous pair; after [`del_current`](Self::del_current) the one before the deleted.
    ///
    /// # Errors
    /// As [`first`](Self::first).
    pub fn prev(&mut self) -> Result<Option<Pair<'_>>, LmdbError> {
        let found = self.raw.go(MDB_PREV, &[])?;
        Ok(self.pair(found))
    }

    /// The first pair at or after the key, which may be empty or longer than any stored key.
    ///
    /// # Errors
    /// As [`first`](Self::first).
    pub fn seek(&mut self, key: &[u8]) -> Result<Option<Pair<'_>>, LmdbError> {
        let found = self.raw.seek(key)?;
        Ok(self.pair(found))
    }

    /// The pair of exactly this key.
    ///
    /// # Errors
    /// As [`first`](Self::first).
    pub fn seek_exact(&mut self, key: &[u8]) -> Result<Option<Pair<'_>>, LmdbError> {
        let found = self.raw.seek_exact(key)?;
        Ok(self.pair(found))
    }

    /// The pair the cursor stands on, if the last move or put left it on one.
    ///
    /// # Errors
    /// As [`first`](Self::first).
    pub fn current(&mut self) -> Result<Option<Pair<'_>>, LmdbError> {
        let found = self.raw.current()?;
        Ok(self.pair(found))
    }

    /// Sets a key and stands on it.
    ///
    /// # Errors
    /// As [`WriteTxn::put`](crate::WriteTxn::put).
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), LmdbError> {
        self.put_flags(key, value, 0, "putting a key")
    }

    /// Sets a key that is greater than every key of the bucket and stands on it.
    ///
    /// # Errors
    /// As [`WriteTxn::put_append`](crate::WriteTxn::put_append).
    pub fn put_append(&mut self, key: &[u8], value: &[u8]) -> Result<(), LmdbError> {
        match self.put_flags(key, value, MDB_APPEND, "appending a key") {
            Err(LmdbError::KeyExists(place)) => Err(LmdbError::AppendOutOfOrder(place)),
            other => other,
        }
    }

    /// Sets a key that is not there yet. Stands on it either way, and gives back what is there if it
    /// was: with [`put_current`](Self::put_current) the key is looked for once, and not twice.
    ///
    /// # Errors
    /// As [`WriteTxn::put`](crate::WriteTxn::put).
    pub fn put_new(&mut self, key: &[u8], value: &[u8]) -> Result<Option<&[u8]>, LmdbError> {
        let doing = "putting a new key";
        let (code, found) = self.put_raw(key, value, MDB_NOOVERWRITE, doing)?;
        self.raw.positioned = matches!(code, MDB_SUCCESS | MDB_KEYEXIST);
        match code {
            MDB_SUCCESS => Ok(None),
            // SAFETY: LMDB has put there where the value of the key is; see `pair`.
            MDB_KEYEXIST => Ok(Some(unsafe { slice_of(found) })),
            code => Err(self.raw.handle.fail(code, doing)),
        }
    }

    /// Gives another value to the key that the cursor stands on, which is this one.
    ///
    /// # Errors
    /// As [`WriteTxn::put`](crate::WriteTxn::put).
    pub fn put_current(&mut self, key: &[u8], value: &[u8]) -> Result<(), LmdbError> {
        debug_assert!(self.raw.positioned, "the cursor stands on the key");
        let flags = if self.raw.positioned { MDB_CURRENT } else { 0 };
        self.put_flags(key, value, flags, "putting at a cursor")
    }

    /// Removes the pair the cursor stands on; `false` if it stands on none.
    ///
    /// # Errors
    /// As [`WriteTxn::put`](crate::WriteTxn::put).
    pub fn del_current(&mut self) -> Result<bool, LmdbError> {
        let doing = "deleting at a cursor";
        let handle = self.raw.handle;
        handle.check_fork(doing)?;
        if !std::mem::take(&mut self.raw.positioned) {
            return Ok(false);
        }
        // SAFETY: the cursor is open, stands on a pair, and `&mut self` of an exclusive borrow
        // means that nothing points into the pages that change.
        match unsafe { mdb_cursor_del(self.raw.cursor.as_ptr(), 0) } {
            MDB_SUCCESS => Ok(true),
            MDB_NOTFOUND => Ok(false),
            code => Err(handle.fail(code, doing)),
        }
    }

    fn put_flags(
        &mut self,
        key: &[u8],
        value: &[u8],
        flags: u32,
        doing: &'static str,
    ) -> Result<(), LmdbError> {
        let (code, _) = self.put_raw(key, value, flags, doing)?;
        self.raw.positioned = code == MDB_SUCCESS;
        if code == MDB_SUCCESS { Ok(()) } else { Err(self.raw.handle.fail(code, doing)) }
    }

    /// What LMDB says, and where it says that the value is.
    fn put_raw(
        &mut self,
        key: &[u8],
        value: &[u8],
        flags: u32,
        doing: &'static str,
    ) -> Result<(c_int, MDB_val), LmdbError> {
        debug_assert!((1..=MAX_KEY_BYTES).contains(&key.len()), "key of {} bytes", key.len());
        self.raw.handle.check_fork(doing)?;
        let (mut key, mut value) = (value_of(key), value_of(value));
        // SAFETY: as in `del_current`; LMDB reads key and value during the call only.
        let code = unsafe {
            mdb_cursor_put(self.raw.cursor.as_ptr(), &raw mut key, &raw mut value, flags)
        };
        Ok((code, value))
    }

    fn pair(&self, found: Option<(MDB_val, MDB_val)>) -> Option<Pair<'_>> {
        // SAFETY: LMDB filled both. Pages change only through `&mut` of this cursor, which the
        // returned borrow excludes.
        found.map(|(key, value)| unsafe { (slice_of(key), slice_of(value)) })
    }
}
