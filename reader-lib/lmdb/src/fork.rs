//! Knows whether we are in a forked child, for the price of one atomic load.
//!
//! LMDB's locks, reader slots and mutexes belong to the process that opened the environment; a
//! forked child that touched them would free its parent's reader slot. Invariant: every handle
//! remembers the [`ProcessMark`] it was made in, and does nothing at all in any other one.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::libc;

use crate::LmdbError;

/// How many forks lie between the first use of the library and this process.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// A process's place in its line of forks. Equal within a process, different in its children: what
/// keeps one can tell that it was made before a fork.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProcessMark(u32);

impl ProcessMark {
    /// The running process's mark.
    #[inline]
    #[must_use]
    pub fn current() -> Self {
        // Relaxed: the counter only changes in a child before `fork` returns there.
        Self(GENERATION.load(Ordering::Relaxed))
    }

    /// Whether this mark is the running process's own.
    #[inline]
    #[must_use]
    pub fn is_current(self) -> bool {
        self == Self::current()
    }

    /// Whether the process is a forked child at all.
    pub(crate) fn is_child(self) -> bool {
        self.0 != 0
    }
}

/// Registers the child handler, once per process line. Must run before the first open.
pub(crate) fn install() -> Result<(), LmdbError> {
    static INSTALLED: OnceLock<i32> = OnceLock::new();
    let code = *INSTALLED.get_or_init(|| {
        // SAFETY: `in_child` has the C ABI, lives as long as the program and only does an atomic
        // add, which is async-signal-safe as a fork handler must be.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) }
    });
    if code == 0 {
        Ok(())
    } else {
        Err(LmdbError::from_code(code, "registering the fork handler", "/".as_ref()))
    }
}

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}
