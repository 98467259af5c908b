//! The files that a command line names.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

use super::error::Error;

/// Opens a file for reading.
pub(super) fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(Error::file(path))
}

/// Writes a file that must not exist, durably. Directories above it are made.
pub(super) fn create_new(path: &Path, content: &[u8]) -> Result<(), Error> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(Error::file(parent))?;
    }
    let created = OpenOptions::new().write(true).create_new(true).open(path);
    let mut file = created.map_err(|source| match source.kind() {
        ErrorKind::AlreadyExists => Error::Exists { path: path.to_owned() },
        _ => Error::File { path: path.to_owned(), source },
    })?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    written.map_err(|source| {
        // Half a configuration is worse than none, and it was made here.
        let _ = fs::remove_file(path);
        Error::File { path: path.to_owned(), source }
    })
}
