//! What a `qs_db *` points to: an open database, or the tombstone of a closed one.
//!
//! Invariants:
//! * the memory behind a handle is never freed, so a call on a closed handle reads valid memory
//!   and answers `QS_CLOSED`; a handle that was closed costs its caller about 64 bytes;
//! * no call waits for another, except that closing waits for the calls that already run.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{PoisonError, RwLock, TryLockError};

use reader::Reader;

use crate::result::{Failure, qs_result};

const MAGIC: u64 = u64::from_be_bytes(*b"qs_db\0v1");

/// All handles ever made, so that leak checkers see tombstones as what they are: reachable.
static ALL: AtomicPtr<qs_db> = AtomicPtr::new(ptr::null_mut());

/// An open database. Made by `qs_open`, ended by `qs_close`; every thread may use it.
pub struct qs_db {
    /// Catches a pointer to something else, as well as that can be done.
    magic: u64,
    /// The handle that was made before this one.
    next: AtomicPtr<qs_db>,
    /// The process that opened it: in a forked child nobody would ever release the lock that a
    /// thread of the parent held.
    process: u32,
    reader: RwLock<Option<Reader>>,
}

impl qs_db {
    /// Makes a handle that lives for ever.
    pub(crate) fn leak(reader: Reader) -> *mut qs_db {
        let db = Box::leak(Box::new(qs_db {
            magic: MAGIC,
            next: AtomicPtr::new(ptr::null_mut()),
            process: std::process::id(),
            reader: RwLock::new(Some(reader)),
        }));
        let mut head = ALL.load(Ordering::Relaxed);
        loop {
            db.next.store(head, Ordering::Relaxed);
            match ALL.compare_exchange_weak(head, db, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return db,
                Err(newer) => head = newer,
            }
        }
    }

    /// The handle behind a C pointer.
    ///
    /// # Safety
    /// `db` is NULL or came from [`qs_db::leak`].
    pub(crate) unsafe fn of<'a>(db: *const qs_db) -> Result<&'a qs_db, Failure> {
        let foreign = || Failure::new(qs_result::QS_INVALID_ARGUMENT, "db is not from qs_open");
        if db.is_null() {
            return Err(Failure::null("db"));
        }
        if !db.is_aligned() {
            return Err(foreign());
        }
        // SAFETY: a handle is never freed and only changes through its lock and its atomic.
        let db = unsafe { &*db };
        if db.magic == MAGIC { Ok(db) } else { Err(foreign()) }
    }

    /// Calls `with` with the reader, unless the handle was closed.
    #[inline]
    pub(crate) fn with<R>(
        &self,
        with: impl FnOnce(&Reader) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let guard = match self.reader.try_read() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Only closing takes the lock for itself: it has begun.
            Err(TryLockError::WouldBlock) => return Err(closed()),
        };
        guard.as_ref().ok_or_else(closed).and_then(with)
    }

    /// Turns the handle into a tombstone, once the calls that run have ended.
    pub(crate) fn close(&self) -> Result<(), Failure> {
        if self.process != std::process::id() {
            let message = "the handle was opened before fork: only the parent can close it";
            return Err(Failure::new(qs_result::QS_FORKED, message));
        }
        let reader = self.reader.write().unwrap_or_else(PoisonError::into_inner).take();
        reader.map(drop).ok_or_else(closed)
    }
}

#[cold]
fn closed() -> Failure {
    Failure::new(qs_result::QS_CLOSED, "the handle was closed")
}
