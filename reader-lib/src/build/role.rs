//! The role lock: its holder is the one writer of a database, for its whole tenure.
//!
//! It is a flock on a file of the database's directory. The kernel releases it when the holder
//! dies, however it dies, and wakes whoever waits; who asks first has it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use quicksilver_format::layout;

use super::directory::io_error;
use super::{BuildError, Result};

/// Nobody but writers needs it.
const MODE: u32 = 0o640;

/// The right to be the one writer of a database, until it is dropped.
#[derive(Debug)]
pub struct RoleLock {
    file: File,
    path: PathBuf,
}

impl RoleLock {
    /// Takes it.
    ///
    /// # Errors
    /// [`BuildError::Busy`], which says who has it; or what the system says.
    pub fn take(dir: &Path) -> Result<Self> {
        let path = dir.join(layout::ROLE_LOCK);
        loop {
            let file = open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(BuildError::Busy { holder: Self::holder(dir), path });
                }
                Err(TryLockError::Error(e)) => return Err(io_error(&path)(e).into()),
            }
            if let Some(role) = confirm(file, &path)? {
                return Ok(role);
            }
        }
    }

    /// Waits until nobody else has it, for however long that takes.
    ///
    /// # Errors
    /// What the system says.
    pub fn wait(dir: &Path) -> Result<Self> {
        let path = dir.join(layout::ROLE_LOCK);
        loop {
            let file = open(&path)?;
            file.lock().map_err(io_error(&path))?;
            if let Some(role) = confirm(file, &path)? {
                return Ok(role);
            }
        }
    }

    /// The process that has, or had, the lock of the database in `dir`. It is for people: a full
    /// disk leaves no note, and a note may be of a process that is gone.
    pub fn holder(dir: &Path) -> Option<u32> {
        fs::read_to_string(dir.join(layout::ROLE_LOCK)).ok()?.trim().parse().ok()
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RoleLock {
    fn drop(&mut self) {
        // By name: a program that another thread started meanwhile shares the lock and would keep it.
        let _ = self.file.unlock();
    }
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(MODE);
    Ok(options.open(path).map_err(io_error(path))?)
}

/// Whether what was locked is still what carries the name: a directory may have been replaced while
/// we waited, and the lock of a file that is gone keeps nobody out.
fn confirm(mut file: File, path: &Path) -> Result<Option<RoleLock>> {
    let locked = file.metadata().map_err(io_error(path))?;
    match fs::metadata(path) {
        Ok(named) if (named.dev(), named.ino()) == (locked.dev(), locked.ino()) => {}
        _ => return Ok(None),
    }
    let note = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    // On a full disk the note is missing, and the lock as good as with it.
    let _ = note(&mut file);
    Ok(Some(RoleLock { file, path: path.to_owned() }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let held = RoleLock::take(dir.path()).unwrap();
        let refused = RoleLock::take(dir.path()).unwrap_err();
        let pid = std::process::id();
        assert!(refused.to_string().contains(&format!("pid {pid}")), "{refused}");
        assert_eq!(RoleLock::holder(dir.path()), Some(pid));
        drop(held);
        RoleLock::take(dir.path()).unwrap();
    }

    /// Story: while a database is made, another thread starts a program, which inherits what is open
    /// at that moment. The lock is given up all the same.
    #[test]
    fn a_program_that_is_started_meanwhile_keeps_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let role = RoleLock::take(dir.path()).unwrap();
        // A duplicate shares the lock, as an inherited descriptor does.
        let inherited = role.file.try_clone().unwrap();
        assert!(matches!(RoleLock::take(dir.path()), Err(BuildError::Busy { .. })));
        drop(role);
        RoleLock::take(dir.path()).unwrap();
        drop(inherited);
    }

    /// Story: two wait; the holder goes; they have it one after the other.
    #[test]
    fn who_waits_gets_it() {
        let dir = tempfile::tempdir().unwrap();
        let held = RoleLock::take(dir.path()).unwrap();
        let waiting = [(); 2].map(|()| {
            let dir = dir.path().to_owned();
            std::thread::spawn(move || {
                let role = RoleLock::wait(&dir).unwrap();
                assert!(matches!(RoleLock::take(&dir), Err(BuildError::Busy { .. })));
                drop(role);
            })
        });
        drop(held);
        for thread in waiting {
            thread.join().unwrap();
        }
    }

    fn descriptors_of(path: &Path) -> usize {
        let path = fs::canonicalize(path).unwrap();
        let open = fs::read_dir("/proc/self/fd").unwrap();
        open.filter(|fd| fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|to| to == path))
            .count()
    }

    /// Story: while one waits, the directory is moved away and another one takes its place. Who
    /// held the lock of the old one keeps nobody out of the new one, nor may two have the new one.
    #[test]
    fn the_lock_of_a_file_that_is_gone_counts_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let old = RoleLock::take(dir.path()).unwrap();
        let path = dir.path().to_owned();
        let waiting = std::thread::spawn(move || RoleLock::wait(&path).unwrap());
        while descriptors_of(old.path()) < 2 {
            std::thread::yield_now();
        }
        fs::remove_file(old.path()).unwrap();
        let new = RoleLock::take(dir.path()).unwrap();
        drop(old);
        assert!(!waiting.is_finished(), "two hold the lock");
        drop(new);
        waiting.join().unwrap();
    }
}
