//! Knows whether a handle was made in this process, or in the one that this is a fork of.
//!
//! Locks and reader slots that threads of the parent held are held for ever in the child, so
//! nothing of a parent's handle is touched there. Knowing it costs one load, no system call.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::result::{Failure, qs_result};

/// How many forks lie between the first handle and this process.
static FORKS: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" {
    /// POSIX: has `child` called in every child, before `fork` returns there.
    fn pthread_atfork(
        prepare: Option<unsafe extern "C" fn()>,
        parent: Option<unsafe extern "C" fn()>,
        child: Option<unsafe extern "C" fn()>,
    ) -> c_int;
}

unsafe extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// A process, as opposed to those it was forked from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    #[inline]
    pub(crate) fn is_this_one(self) -> bool {
        // Relaxed: it only changes before `fork` returns in a child.
        self.0 == FORKS.load(Ordering::Relaxed)
    }

    /// The running process, from whose children handles that are made now will be told apart.
    pub(crate) fn this_one() -> Result<Self, Failure> {
        static WATCHED: AtomicBool = AtomicBool::new(false);
        // Two threads may both get here first: counting each fork twice does no harm, and
        // waiting for one another could, in a child that was forked meanwhile.
        if !WATCHED.load(Ordering::Acquire) {
            // SAFETY: `count_fork` lives as long as the library, which is linked to stay loaded
            // (and libc forgets the handlers of one that is not); it does nothing but an atomic
            // addition, as a handler in a child must.
            if unsafe { pthread_atfork(None, None, Some(count_fork)) } != 0 {
                let message = "no memory to watch for forks";
                return Err(Failure::new(qs_result::QS_NO_MEMORY, message));
            }
            WATCHED.store(true, Ordering::Release);
        }
        Ok(Process(FORKS.load(Ordering::Relaxed)))
    }
}
