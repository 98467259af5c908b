//! The files of a database: who may use them, and in which order they come to be.
//!
//! Invariant: what a name stands for is on disk before the name is.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use quicksilver_format::layout::{self, Generation};

use super::{BuildError, Result};
use crate::error::Error;

/// Readers of the group may enter; only the writer makes files.
const DIRECTORY_MODE: u32 = 0o750;
/// Readers of the group may read the data, and which generation is live.
pub(super) const DATA_MODE: u32 = 0o640;
/// Readers of the group write their slots.
const READER_TABLE_MODE: u32 = 0o660;

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
pub fn remove_generation(dir: &Path, generation: Generation) -> Result<(), Error> {
    // Out of the way first: who opened a half-removed one would make its lock.mdb anew.
    let path = dir.join(generation.to_string());
    let away = dir.join(format!("{generation}.old"));
    remove(&away)?;
    fs::rename(&path, &away).map_err(io_error(&path))?;
    remove(&away)
}

/// Takes away every generation but the live one, and what a crash left of making or removing one, or
/// of making another [`layout::CURRENT`] or status page. The caller is the writer of this database.
pub fn remove_others(dir: &Path, live: Generation) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(io_error(dir))? {
        let name = entry.map_err(io_error(dir))?.file_name();
        let Some(name) = name.to_str() else { continue };
        let base = name.trim_end_matches(".new").trim_end_matches(".old");
        match base.parse::<Generation>() {
            Ok(generation) if base == name && generation != live => {
                remove_generation(dir, generation)?;
            }
            Ok(_) if base != name => remove(&dir.join(name))?,
            Err(_) if base != name && [layout::CURRENT, layout::STATUS].contains(&base) => {
                let path = dir.join(name);
                fs::remove_file(&path).map_err(io_error(&path))?;
            }
            _ => {}
        }
    }
    Ok(())
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
        file.set_permissions(Permissions::from_mode(DATA_MODE))?;
        writeln!(file, "{generation}")?;
        file.sync_all()?;
        fs::rename(&new, dir.join(layout::CURRENT))
    };
    write().map_err(io_error(&new))?;
    sync(dir)
}

/// Refuses a directory in which there is a database, or what may be the rest of one.
pub fn refuse_database(dir: &Path) -> Result<()> {
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
