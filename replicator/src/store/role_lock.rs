//! The role lock: its holder is the one writer of a database.
//!
//! It is a flock on a file, held for the whole tenure; the kernel releases it when the holder
//! dies, however it dies.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use quicksilver_format::layout;

use super::error::StoreError;

/// Held for as long as this process is the writer.
#[derive(Debug)]
pub(super) struct RoleLock {
    _file: Flock<File>,
}

impl RoleLock {
    /// Takes the lock, or says who has it.
    pub(super) fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(layout::ROLE_LOCK);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .open(&path)
            .map_err(StoreError::io(&path))?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((_, Errno::EWOULDBLOCK)) => {
                // The content is a courtesy to the reader of the message, never a decision.
                let holder = fs::read_to_string(&path).unwrap_or_default();
                let holder = match holder.trim() {
                    "" => String::new(),
                    pid => format!(" (pid {pid})"),
                };
                return Err(StoreError::RoleLockHeld { path, holder });
            }
            Err((_, errno)) => return Err(StoreError::io(&path)(errno.into())),
        };
        let note = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        // On a full disk the note is missing, and the lock as good as with it.
        let _ = note(&mut file);
        Ok(RoleLock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = RoleLock::take(dir.path()).unwrap();
        let refused = RoleLock::take(dir.path()).unwrap_err();
        let pid = std::process::id();
        assert!(refused.to_string().contains(&format!("(pid {pid})")), "{refused}");
        drop(held);
        RoleLock::take(dir.path()).unwrap();
    }
}
