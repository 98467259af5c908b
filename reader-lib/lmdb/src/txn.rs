//! Read transactions, and what reading is in any transaction.
//!
//! Invariants: a slice or cursor borrows its transaction, so it cannot outlive the snapshot; a
//! read transaction is used by one thread at a time (`Send`, not `Sync`), which MDB_NOTLS allows;
//! one that is reset gives errors, not data; in a forked child nothing is touched.

use std::ffi::{c_int, c_void};
use std::ptr::{NonNull, null_mut};

use nix::libc;

use crate::bucket::{self, Stat};
use crate::cursor::Cursor;
use crate::env::Env;
use crate::handle::Handle;
use crate::sys::{
    MDB_BAD_RSLOT, MDB_NOTFOUND, MDB_SUCCESS, MDB_txn, MDB_val, mdb_get, mdb_txn_id, mdb_txn_reset,
};
use crate::{Bucket, LmdbError};

/// The longest key LMDB stores.
pub const MAX_KEY_BYTES: usize = 511;

/// Reading, the same in read and write transactions.
pub trait Transaction: sealed::Raw {
    /// The value of a key, straight out of the map.
    ///
    /// # Errors
    /// [`LmdbError::ForeignBucket`], [`LmdbError::BucketUnknown`], [`LmdbError::Forked`] or what
    /// LMDB says.
    #[inline]
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<&[u8]>, LmdbError> {
        debug_assert!((1..=MAX_KEY_BYTES).contains(&key.len()), "key of {} bytes", key.len());
        let handle = self.handle();
        handle.check(bucket, "getting a key")?;
        let mut key = value_of(key);
        let mut value = EMPTY;
        // SAFETY: the transaction is live and `&self` of a type that is not `Sync`, so no other
        // thread is inside it; LMDB reads the key through its pointer and checks the bucket's
        // number; both places outlive the call.
        match unsafe { mdb_get(self.txn().as_ptr(), bucket.dbi, &raw mut key, &raw mut value) } {
            // SAFETY: LMDB points at the value in the map or in a dirty page, where it stays
            // unchanged until the transaction ends, is reset or writes; each needs `&mut` or
            // ownership of what the slice borrows.
            MDB_SUCCESS => Ok(Some(unsafe { slice_of(value) })),
            MDB_NOTFOUND => Ok(None),
            code => Err(bucket_failure(handle, code, "getting a key")),
        }
    }

    /// A cursor over the bucket, not positioned yet.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn cursor(&self, bucket: Bucket) -> Result<Cursor<'_>, LmdbError> {
        // SAFETY: the transaction is live and the cursor's lifetime is that of the borrow.
        unsafe { Cursor::open(self.handle(), self.txn(), bucket) }
    }

    /// The bucket's tree in this snapshot.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn stat(&self, bucket: Bucket) -> Result<Stat, LmdbError> {
        // SAFETY: the transaction is live, and `&self` of a type that is not `Sync`.
        unsafe { bucket::stat(self.handle(), self.txn(), bucket) }
    }

    /// The snapshot's number: that of the last commit it sees, or of the one being written. It
    /// means nothing while an [`OwnedReadTxn`] is reset.
    fn txn_id(&self) -> u64 {
        // SAFETY: the transaction is live; the call only reads a field.
        unsafe { mdb_txn_id(self.txn().as_ptr()) as u64 }
    }
}

pub(crate) mod sealed {
    use super::{Handle, MDB_txn, NonNull};

    /// What a transaction is made of.
    pub trait Raw {
        #[doc(hidden)]
        fn handle(&self) -> &Handle;
        #[doc(hidden)]
        fn txn(&self) -> NonNull<MDB_txn>;
    }
}

/// A read transaction: one consistent snapshot. Ends, and lets its pages go, when dropped.
///
/// Keep it short: the pages it sees cannot be reused by the writer. To read often, keep an
/// [`OwnedReadTxn`] and renew it: that takes no lock and no new reader slot.
pub struct ReadTxn<'env> {
    txn: NonNull<MDB_txn>,
    handle: &'env Handle,
}

// SAFETY: with MDB_NOTLS a read transaction may move between threads as long as one at a time
// uses it (lmdb.h); the type is not Sync, so that is what the compiler allows.
unsafe impl Send for ReadTxn<'_> {}

impl<'env> ReadTxn<'env> {
    pub(crate) fn begin(handle: &'env Handle) -> Result<Self, LmdbError> {
        Ok(Self { txn: handle.begin_read()?, handle })
    }
}

impl sealed::Raw for ReadTxn<'_> {
    #[inline]
    fn handle(&self) -> &Handle {
        self.handle
    }
    #[inline]
    fn txn(&self) -> NonNull<MDB_txn> {
        self.txn
    }
}

impl Transaction for ReadTxn<'_> {}

impl Drop for ReadTxn<'_> {
    fn drop(&mut self) {
        self.handle.end_read(self.txn);
    }
}

impl std::fmt::Debug for ReadTxn<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadTxn").finish_non_exhaustive()
    }
}

/// A read transaction that owns a share of its environment, and that can be used again: between
/// [`reset`](Self::reset) and [`renew`](Self::renew) it keeps its reader slot and no snapshot.
///
/// While it is reset, reading is an error.
pub struct OwnedReadTxn {
    txn: NonNull<MDB_txn>,
    state: State,
    env: Env,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Shows a snapshot.
    Live,
    /// Shows none; holds its reader slot.
    Reset,
    /// Somebody else has its reader slot, and ending it would free the slot under them.
    Lost,
}

// SAFETY: as for `ReadTxn`.
unsafe impl Send for OwnedReadTxn {}

impl OwnedReadTxn {
    pub(crate) fn begin(env: Env) -> Result<Self, LmdbError> {
        Ok(Self { txn: env.handle().begin_read()?, state: State::Live, env })
    }

    /// Lets go of the snapshot and keeps the reader slot. Nothing when it is reset already.
    #[inline]
    pub fn reset(&mut self) {
        if self.state == State::Live && self.env.handle().is_ours() {
            // SAFETY: live and ours alone; `&mut self` means that nothing borrows its pages.
            unsafe { mdb_txn_reset(self.txn.as_ptr()) };
            self.state = State::Reset;
        }
    }

    /// Moves to the newest snapshot.
    ///
    /// # Errors
    /// [`LmdbError::Forked`], [`LmdbError::MapResized`], [`LmdbError::BadReaderSlot`] or what LMDB
    /// says. It is reset afterwards; begin a new one instead.
    #[inline]
    pub fn renew(&mut self) -> Result<(), LmdbError> {
        let doing = "renewing a read";
        self.env.handle().check_fork(doing)?;
        self.reset();
        match self.env.handle().renew(self.txn) {
            Ok(()) => {
                self.state = State::Live;
                Ok(())
            }
            Err(code) => Err(self.renewal_failed(code, doing)),
        }
    }

    #[cold]
    fn renewal_failed(&mut self, code: c_int, doing: &'static str) -> LmdbError {
        if code == MDB_BAD_RSLOT {
            self.state = State::Lost;
        }
        self.env.handle().fail(code, doing)
    }

    /// The environment it reads.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }
}

impl sealed::Raw for OwnedReadTxn {
    #[inline]
    fn handle(&self) -> &Handle {
        self.env.handle()
    }
    #[inline]
    fn txn(&self) -> NonNull<MDB_txn> {
        self.txn
    }
}

impl Transaction for OwnedReadTxn {}

impl Drop for OwnedReadTxn {
    fn drop(&mut self) {
        if self.state != State::Lost {
            self.env.handle().end_read(self.txn);
        }
    }
}

impl std::fmt::Debug for OwnedReadTxn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnedReadTxn").field("state", &self.state).finish_non_exhaustive()
    }
}

/// An `MDB_val` for LMDB to fill.
pub(crate) const EMPTY: MDB_val = MDB_val { mv_size: 0, mv_data: null_mut() };

/// An `MDB_val` for LMDB to read. The pointer is mutable only in C's type: nothing is written
/// through it, because we never pass MDB_RESERVE.
#[inline]
pub(crate) fn value_of(bytes: &[u8]) -> MDB_val {
    MDB_val { mv_size: bytes.len(), mv_data: bytes.as_ptr().cast_mut().cast::<c_void>() }
}

/// The bytes an `MDB_val` points at.
///
/// # Safety
/// LMDB must have filled it, and the bytes must stay valid and unchanged for `'a`.
#[inline]
pub(crate) unsafe fn slice_of<'a>(value: MDB_val) -> &'a [u8] {
    if value.mv_size == 0 {
        return &[];
    }
    // SAFETY: the caller's promise; bytes need no alignment, and LMDB's pointer is not null when
    // the size is not zero.
    unsafe { std::slice::from_raw_parts(value.mv_data.cast::<u8>(), value.mv_size) }
}

/// LMDB answers EINVAL when a transaction does not know the bucket's number.
#[cold]
pub(crate) fn bucket_failure(handle: &Handle, code: c_int, doing: &'static str) -> LmdbError {
    if code == libc::EINVAL {
        LmdbError::BucketUnknown(handle.place(doing))
    } else {
        handle.fail(code, doing)
    }
}
