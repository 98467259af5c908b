//! The write transaction.
//!
//! Invariants: writing needs `&mut`, so no slice or cursor of the transaction is alive while pages
//! change; it stays on its thread (not `Send`), because LMDB's writer mutex belongs to a thread; a
//! dropped one is aborted; a thread that already has one is told so instead of waiting for itself.

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::{NonNull, null_mut};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use nix::libc::{EIO, ENOSPC};

use crate::cursor::WriteCursor;
use crate::env::open_dbi;
use crate::handle::{Handle, Mode, NO_WRITER};
use crate::sys::{
    MDB_APPEND, MDB_CREATE, MDB_NOTFOUND, MDB_PANIC, MDB_SUCCESS, MDB_txn, mdb_del, mdb_drop,
    mdb_put, mdb_txn_abort, mdb_txn_begin, mdb_txn_commit,
};
use crate::thread::thread_number;
use crate::txn::{MAX_KEY_BYTES, Transaction, bucket_failure, sealed, value_of};
use crate::{Bucket, LmdbError};

/// The write transaction. Reads see its own writes. Dropping it aborts it.
pub struct WriteTxn<'env> {
    txn: NonNull<MDB_txn>,
    handle: &'env Handle,
    /// Not `Send`, not `Sync`.
    _thread: PhantomData<*mut ()>,
}

impl<'env> WriteTxn<'env> {
    pub(crate) fn begin(handle: &'env Handle) -> Result<Self, LmdbError> {
        let doing = "beginning a write";
        handle.check_fork(doing)?;
        if handle.mode == Mode::Reader {
            return Err(LmdbError::ReadOnly(handle.place(doing)));
        }
        if handle.writer_thread.load(Ordering::Relaxed) == thread_number() {
            return Err(LmdbError::WriterActive(handle.place(doing)));
        }
        let mut txn: *mut MDB_txn = null_mut();
        // SAFETY: the environment is open and `txn` a valid place. This thread has no write
        // transaction, so waiting for LMDB's writer mutex ends.
        let code = unsafe { mdb_txn_begin(handle.env.as_ptr(), null_mut(), 0, &raw mut txn) };
        let Some(txn) = NonNull::new(txn).filter(|_| code == MDB_SUCCESS) else {
            return Err(handle.fail(code, doing));
        };
        handle.writer_thread.store(thread_number(), Ordering::Release);
        Ok(Self { txn, handle, _thread: PhantomData })
    }

    /// Sets a key. Never hand LMDB values over one page: see the project's chunk format.
    ///
    /// # Errors
    /// [`LmdbError::MapFull`], [`LmdbError::TransactionFull`], [`LmdbError::BadValueSize`], ...
    pub fn put(&mut self, bucket: Bucket, key: &[u8], value: &[u8]) -> Result<(), LmdbError> {
        self.put_flags(bucket, key, value, 0, "putting a key")
    }

    /// Sets a key that is greater than every key of the bucket, filling pages to the brim.
    ///
    /// # Errors
    /// [`LmdbError::AppendOutOfOrder`], which leaves the transaction usable, or as
    /// [`put`](Self::put).
    pub fn put_append(
        &mut self,
        bucket: Bucket,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), LmdbError> {
        match self.put_flags(bucket, key, value, MDB_APPEND, "appending a key") {
            Err(LmdbError::KeyExists(place)) => Err(LmdbError::AppendOutOfOrder(place)),
            other => other,
        }
    }

    fn put_flags(
        &mut self,
        bucket: Bucket,
        key: &[u8],
        value: &[u8],
        flags: u32,
        doing: &'static str,
    ) -> Result<(), LmdbError> {
        debug_assert!((1..=MAX_KEY_BYTES).contains(&key.len()), "key of {} bytes", key.len());
        self.handle.check(bucket, doing)?;
        let (mut key, mut value) = (value_of(key), value_of(value));
        // SAFETY: the transaction is live and `&mut self` means that nothing borrows its pages.
        // LMDB reads key and value through the pointers during the call only.
        let code =
            unsafe { mdb_put(self.txn.as_ptr(), bucket.dbi, &raw mut key, &raw mut value, flags) };
        if code == MDB_SUCCESS { Ok(()) } else { Err(bucket_failure(self.handle, code, doing)) }
    }

    /// Removes a key and says whether it was there.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn del(&mut self, bucket: Bucket, key: &[u8]) -> Result<bool, LmdbError> {
        let doing = "deleting a key";
        debug_assert!((1..=MAX_KEY_BYTES).contains(&key.len()), "key of {} bytes", key.len());
        self.handle.check(bucket, doing)?;
        let mut key = value_of(key);
        // SAFETY: as in `put_flags`; no data is passed, as buckets have no duplicates.
        match unsafe { mdb_del(self.txn.as_ptr(), bucket.dbi, &raw mut key, null_mut()) } {
            MDB_SUCCESS => Ok(true),
            MDB_NOTFOUND => Ok(false),
            code => Err(bucket_failure(self.handle, code, doing)),
        }
    }

    /// Removes every key of the bucket, which stays.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn clear(&mut self, bucket: Bucket) -> Result<(), LmdbError> {
        const KEEP: i32 = 0;
        let doing = "clearing a bucket";
        self.handle.check(bucket, doing)?;
        // SAFETY: the transaction is live and `&mut self` means that no cursor is open. KEEP
        // leaves the bucket's handle valid.
        let code = unsafe { mdb_drop(self.txn.as_ptr(), bucket.dbi, KEEP) };
        if code == MDB_SUCCESS { Ok(()) } else { Err(bucket_failure(self.handle, code, doing)) }
    }

    /// A cursor that can write. Nothing else can use the transaction while it lives.
    ///
    /// # Errors
    /// As [`Transaction::get`].
    pub fn write_cursor(&mut self, bucket: Bucket) -> Result<WriteCursor<'_>, LmdbError> {
        // SAFETY: the transaction is live, and the cursor borrows it mutably for its lifetime.
        unsafe { WriteCursor::open(self.handle, self.txn, bucket) }
    }

    /// Makes everything durable and visible at once.
    ///
    /// # Errors
    /// [`LmdbError::CommitFailed`]: nothing of it is visible. Ask
    /// [`needs_reopen`](LmdbError::needs_reopen) whether the environment may go on.
    pub fn commit(self) -> Result<(), LmdbError> {
        let txn = ManuallyDrop::new(self);
        let doing = "committing";
        txn.handle.check_fork(doing)?;
        // Before the writer mutex is free, so that it is never the next writer's mark we clear.
        txn.handle.writer_thread.store(NO_WRITER, Ordering::Release);
        // SAFETY: live, on its own thread, cursors are gone (they borrow), and used no more: LMDB
        // frees it whatever the outcome, and ManuallyDrop keeps our drop away.
        let code = unsafe { mdb_txn_commit(txn.txn.as_ptr()) };
        if code == MDB_SUCCESS {
            return Ok(());
        }
        // LMDB reports a short write, which is how a disk fills up, as EIO.
        let code = if code == EIO && txn.handle.disk_is_full() { ENOSPC } else { code };
        // When it was the meta page that did not get written, LMDB refuses everything from now on.
        let code = if txn.handle.is_fatal() { MDB_PANIC } else { code };
        Err(LmdbError::CommitFailed { source: Box::new(txn.handle.fail(code, doing)) })
    }

    /// Forgets everything. The same as dropping, said aloud.
    pub fn abort(self) {
        drop(self);
    }

    /// Creates or opens a bucket and commits.
    pub(crate) fn create_bucket(self, name: &str) -> Result<Bucket, LmdbError> {
        let handle = self.handle;
        let _serial = handle.bucket_opening.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the transaction is live and ours, and both arms below end it while the bucket
        // lock is held.
        let bucket = unsafe { open_dbi(handle, self.txn.as_ptr(), name, MDB_CREATE) };
        match bucket {
            Ok(bucket) => self.commit().map(|()| bucket),
            Err(error) => {
                self.abort();
                Err(error)
            }
        }
    }
}

impl sealed::Raw for WriteTxn<'_> {
    #[inline]
    fn handle(&self) -> &Handle {
        self.handle
    }
    #[inline]
    fn txn(&self) -> NonNull<MDB_txn> {
        self.txn
    }
}

impl Transaction for WriteTxn<'_> {}

impl Drop for WriteTxn<'_> {
    fn drop(&mut self) {
        if !self.handle.is_ours() {
            // The writer mutex is the parent's.
            return;
        }
        self.handle.writer_thread.store(NO_WRITER, Ordering::Release);
        // SAFETY: live, on its own thread, and used no more.
        unsafe { mdb_txn_abort(self.txn.as_ptr()) };
    }
}

impl std::fmt::Debug for WriteTxn<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteTxn").finish_non_exhaustive()
    }
}
