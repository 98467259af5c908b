//! The files of a database: who may use them, and in which order they come to be.
//!
//! Invariant: what a name stands for is on disk before the name is.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use quicksilver_format::layout::{self, Generation};

use super::{BuildError, Result};
use crate::error::Error;

/// Readers of the group may enter; only the writer makes files.
const DIRECTORY_MODE: u32 = 0o750;
/// Readers of the group may read the data.
const DATA_MODE: u32 = 0o640;
/// Readers of the group write their slots.
const READER_TABLE_MODE: u32 = 0o660;
/// Nobody but writers needs it.
const ROLE_LOCK_MODE: u32 = 0o640;

pub(super) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

/// Makes a directory, and what is missing above it, so that it survives a power cut.
pub fn make(dir: &Path) -> Result<(), Error> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = match dir.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    make(parent)?;
    match DirBuilder::new().mode(DIRECTORY_MODE).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(io_error(dir)(e)),
        _ => sync(parent),
    }
}

/// Removes a directory and all that is in it, if it is there.
pub(super) fn remove(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error(dir)(e)),
        _ => Ok(()),
    }
}

/// Takes away a generation that is no longer live. Readers that have it open keep it until they go.
pub(crate) fn remove_generation(dir: &Path, generation: Generation) -> Result<(), Error> {
    // Out of the way first: who opened a half-removed one would make its lock.mdb anew.
    let path = dir.join(generation.to_string());
    let away = dir.join(format!("{generation}.old"));
    remove(&away)?;
    fs::rename(&path, &away).map_err(io_error(&path))?;
    remove(&away)
}

/// Makes a file's content, or a directory's names, durable.
pub fn sync(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|file| file.sync_all()).map_err(io_error(path))
}

/// Lets members of the directory's group read the data and take a slot in the reader table,
/// whatever the umask. By name: opening lock.mdb here would drop LMDB's own locks.
pub fn set_modes(generation: &Path) -> Result<(), Error> {
    for (file, mode) in [("data.mdb", DATA_MODE), ("lock.mdb", READER_TABLE_MODE)] {
        let path = generation.join(file);
        fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(io_error(&path))?;
    }
    Ok(())
}

/// Makes `CURRENT` name a generation whose files are on disk.
pub fn set_current(dir: &Path, generation: Generation) -> Result<(), Error> {
    sync(dir)?;
    let new = dir.join("CURRENT.new");
    let write = || {
        let mut file = File::create(&new)?;
        writeln!(file, "{generation}")?;
        file.sync_all()?;
        fs::rename(&new, dir.join(layout::CURRENT))
    };
    write().map_err(io_error(&new))?;
    sync(dir)
}

/// The right to be the one writer of a directory, until it is dropped.
#[derive(Debug)]
pub(crate) struct Role(File);

impl Drop for Role {
    fn drop(&mut self) {
        // By name: a program that another thread started meanwhile shares the lock and would keep it.
        let _ = self.0.unlock();
    }
}

/// Becomes the one writer of a directory.
pub(crate) fn lock_role(dir: &Path) -> Result<Role> {
    let path = dir.join(layout::ROLE_LOCK);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(ROLE_LOCK_MODE)
        .open(&path)
        .map_err(io_error(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(Role(file)),
        Err(TryLockError::WouldBlock) => Err(BuildError::Busy { path }),
        Err(TryLockError::Error(e)) => Err(io_error(&path)(e).into()),
    }
}

/// Refuses a directory in which there is a database, or what may be the rest of one.
pub(super) fn refuse_database(dir: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).map_err(io_error(dir))?;
    for entry in entries {
        let name = entry.map_err(io_error(dir))?.file_name();
        let found = match name.to_str() {
            Some(layout::CURRENT) => "a database",
            Some(name) if name.parse::<Generation>().is_ok() => "a generation of a database",
            _ => continue,
        };
        return Err(BuildError::Exists { path: dir.to_owned(), found: found.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;

    /// Story: while a database is made, another thread starts a program, which inherits what is open
    /// at that moment. The lock is given up all the same.
    #[test]
    fn a_program_that_is_started_meanwhile_keeps_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let role = lock_role(dir.path()).unwrap();
        // A duplicate shares the lock, as an inherited descriptor does.
        let inherited = role.0.try_clone().unwrap();
        assert!(matches!(lock_role(dir.path()), Err(BuildError::Busy { .. })));
        drop(role);
        lock_role(dir.path()).unwrap();
        drop(inherited);
    }
}
