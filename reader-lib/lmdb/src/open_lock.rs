//! The file lock around opening and closing an environment.
//!
//! LMDB 0.9.26 to 0.9.31 destroys the mutexes in `lock.mdb` when the last user closes it, racing
//! with an open in another process. So: an open holds the lock shared, a close holds it
//! exclusively or does not happen. A *failed* open closes inside LMDB, so with a library that
//! destroys, opening holds the lock exclusively too. Invariant: nobody waits here without bound,
//! because a stopped process must not stop the fleet's readers from opening.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::LmdbError;

/// The longest an open waits for the lock. An open or close takes milliseconds.
const OPEN_WAIT: Duration = Duration::from_secs(10);
/// Between two looks at the lock.
const POLL: Duration = Duration::from_millis(1);

/// How to hold the lock while opening.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hold {
    /// Together with other openers.
    Shared,
    /// Alone: the linked library destroys mutexes when an open fails.
    Exclusive,
}

/// The lock, held until dropped.
#[derive(Debug)]
pub(crate) struct OpenLock(File);

impl OpenLock {
    /// Takes the lock for an open, waiting for a bounded time.
    pub(crate) fn for_open(path: &Path, hold: Hold, file_mode: u32) -> Result<Self, LmdbError> {
        Self::wait_for(path, hold, file_mode, OPEN_WAIT)
    }

    /// Takes the lock for a close if nobody opens or closes at this moment, else `None`.
    pub(crate) fn for_close(path: &Path, file_mode: u32) -> Option<Self> {
        let file = open_file(path, file_mode).ok()?;
        file.try_lock().ok()?;
        Some(Self(file))
    }

    fn wait_for(
        path: &Path,
        hold: Hold,
        file_mode: u32,
        limit: Duration,
    ) -> Result<Self, LmdbError> {
        let file = open_file(path, file_mode)?;
        let start = Instant::now();
        loop {
            let taken = match hold {
                Hold::Shared => file.try_lock_shared(),
                Hold::Exclusive => file.try_lock(),
            };
            match taken {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::Error(e)) if e.kind() != ErrorKind::Interrupted => {
                    return Err(LmdbError::from_io(&e, "locking the open lock", path));
                }
                Err(_) if start.elapsed() >= limit => {
                    return Err(LmdbError::OpenLockTimeout {
                        path: path.to_path_buf(),
                        waited_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
                    });
                }
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }
}

impl Drop for OpenLock {
    fn drop(&mut self) {
        // Unlock by name: a child forked meanwhile shares the lock and would keep it held.
        let _ = self.0.unlock();
    }
}

/// Opens the lock file, creating it where we may. flock needs no more than reading.
fn open_file(path: &Path, file_mode: u32) -> Result<File, LmdbError> {
    let read_write = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(file_mode)
        .open(path);
    match read_write {
        Err(e)
            if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) =>
        {
            File::open(path)
        }
        opened => opened,
    }
    .map_err(|e| LmdbError::from_io(&e, "opening the open lock", path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const MODE: u32 = 0o640;
    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn openers_share_and_keep_closers_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("open.lock");
        let first = OpenLock::for_open(&path, Hold::Shared, MODE).unwrap();
        let second = OpenLock::for_open(&path, Hold::Shared, MODE).unwrap();
        assert!(OpenLock::for_close(&path, MODE).is_none());
        drop(first);
        assert!(OpenLock::for_close(&path, MODE).is_none());
        drop(second);
        assert!(OpenLock::for_close(&path, MODE).is_some());
    }

    #[test]
    fn an_opener_waits_for_a_closer_but_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("open.lock");
        let closing = OpenLock::for_close(&path, MODE).unwrap();
        let error = OpenLock::wait_for(&path, Hold::Shared, MODE, SHORT).unwrap_err();
        assert!(matches!(error, LmdbError::OpenLockTimeout { .. }), "{error}");
        drop(closing);
        OpenLock::wait_for(&path, Hold::Exclusive, MODE, SHORT).unwrap();
    }

    #[test]
    fn an_exclusive_opener_is_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("open.lock");
        let _alone = OpenLock::for_open(&path, Hold::Exclusive, MODE).unwrap();
        assert!(OpenLock::wait_for(&path, Hold::Shared, MODE, SHORT).is_err());
    }
}
