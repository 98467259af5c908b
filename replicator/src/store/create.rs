//! Finding the live generation of a database, or making the first one.
//!
//! A generation is made under another name, synced, renamed, and counts from the moment `CURRENT`
//! names it. Only what carries that other name is what a crash left of an attempt, and is removed.
//! A generation with data in it is never removed here, whatever `CURRENT` says or does not say.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use quicksilver::environment::{self, Environment};
use quicksilver_format::layout::{self, Generation};
use quicksilver_format::meta::{Applied, Format, Identity, LogState};
use quicksilver_format::{DbId, HistoryId, Index};
use quicksilver_lmdb::{Env, EnvOptions};

use super::error::StoreError;

/// Readers of the group may enter; only the replicator makes files.
const DIRECTORY_MODE: u32 = 0o750;
/// Readers of the group may read the data.
const DATA_MODE: u32 = 0o640;
/// Readers of the group write their slots.
const READER_TABLE_MODE: u32 = 0o660;

/// What a generation is opened with.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Bytes of the memory map; the file never grows past it.
    pub map_bytes: usize,
    /// Reader slots.
    pub max_readers: u32,
}

/// Makes the data directory, and what is missing above it, so that it survives a power cut.
pub(super) fn data_dir(dir: &Path) -> Result<(), StoreError> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = match dir.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    data_dir(parent)?;
    match DirBuilder::new().mode(DIRECTORY_MODE).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(StoreError::io(dir)(e)),
        _ => sync_directory(parent),
    }
}

/// Opens the live generation for writing, after making the first one when there is none.
///
/// `history` is what a new database begins with. The caller holds the role lock.
pub(super) fn open_or_create(
    dir: &Path,
    db_id: DbId,
    history: HistoryId,
    sizes: Sizes,
) -> Result<Environment, StoreError> {
    match environment::live_generation(dir) {
        Ok(generation) => open(dir, generation, sizes),
        Err(quicksilver::Error::NoDatabase { .. }) => {
            if !adopt_unnamed(dir, sizes)? {
                create_first(dir, db_id, history, sizes)?;
            }
            open(dir, Generation::FIRST, sizes)
        }
        Err(e) => Err(e.into()),
    }
}

/// Deals with a first generation that `CURRENT` does not name. An empty one is where a crash
/// stopped its creation one step short; it is taken. One with data is not ours to judge.
fn adopt_unnamed(dir: &Path, sizes: Sizes) -> Result<bool, StoreError> {
    let path = dir.join(Generation::FIRST.to_string());
    if !path.exists() {
        return Ok(false);
    }
    let environment = open(dir, Generation::FIRST, sizes)?;
    let index = environment.log_state(&environment.env.read()?)?.last.index;
    drop(environment);
    if index != Index::ZERO {
        return Err(StoreError::Unnamed { path, index });
    }
    set_current(dir, Generation::FIRST)?;
    Ok(true)
}

fn options(dir: &Path, sizes: Sizes) -> EnvOptions {
    EnvOptions {
        map_bytes: sizes.map_bytes,
        max_readers: sizes.max_readers,
        open_lock: Some(dir.join(layout::OPEN_LOCK)),
        ..EnvOptions::default()
    }
}

fn open(dir: &Path, generation: Generation, sizes: Sizes) -> Result<Environment, StoreError> {
    let path = dir.join(generation.to_string());
    // The size of the map is fixed for the life of a generation: readers that have it mapped
    // could not follow.
    let as_made = EnvOptions { map_bytes: 0, ..options(dir, sizes) };
    let env = Env::open_writer(&path, &as_made)?;
    let map_bytes = env.info()?.map_bytes;
    if map_bytes != sizes.map_bytes {
        tracing::warn!(
            map_bytes,
            configured = sizes.map_bytes,
            "limits.map_bytes is for new generations; this one keeps what it was made with"
        );
    }
    set_modes(&path)?;
    let buckets = [
        env.open_bucket(layout::BUCKET_DATA)?,
        env.open_bucket(layout::BUCKET_CHUNKS)?,
        env.open_bucket(layout::BUCKET_LOG)?,
        env.open_bucket(layout::BUCKET_META)?,
    ];
    Ok(Environment::new(path, generation, env, buckets)?)
}

/// Lets members of the directory's group read the data and take a slot in the reader table,
/// whatever the umask. By name: opening lock.mdb here would drop LMDB's own locks.
fn set_modes(generation: &Path) -> Result<(), StoreError> {
    for (file, mode) in [("data.mdb", DATA_MODE), ("lock.mdb", READER_TABLE_MODE)] {
        let path = generation.join(file);
        fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(StoreError::io(&path))?;
    }
    Ok(())
}

fn create_first(
    dir: &Path,
    db_id: DbId,
    history: HistoryId,
    sizes: Sizes,
) -> Result<(), StoreError> {
    let generation = Generation::FIRST;
    let path = dir.join(format!("{generation}.new"));
    match fs::remove_dir_all(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(StoreError::io(&path)(e)),
        _ => {}
    }
    DirBuilder::new().mode(DIRECTORY_MODE).create(&path).map_err(StoreError::io(&path))?;
    let env = Env::open_writer(&path, &options(dir, sizes))?;
    for bucket in [layout::BUCKET_DATA, layout::BUCKET_CHUNKS, layout::BUCKET_LOG] {
        env.create_bucket(bucket)?;
    }
    let meta = env.create_bucket(layout::BUCKET_META)?;
    let page_bytes = u32::try_from(env.page_size()).unwrap_or(u32::MAX);
    let mut txn = env.write()?;
    txn.put(meta, Format::KEY, &Format::current(page_bytes).encode())?;
    txn.put(meta, Identity::KEY, &Identity { db_id, history }.encode())?;
    txn.put(meta, LogState::KEY, &LogState::empty(db_id).encode())?;
    txn.put(meta, Applied::KEY, &Applied::empty(db_id).encode())?;
    txn.commit()?;
    drop(env);
    sync_directory(&path)?;
    let made = dir.join(generation.to_string());
    fs::rename(&path, &made).map_err(StoreError::io(&made))?;
    set_current(dir, generation)
}

/// Makes `CURRENT` name a generation whose files are on disk.
pub(super) fn set_current(dir: &Path, generation: Generation) -> Result<(), StoreError> {
    sync_directory(dir)?;
    let new = dir.join("CURRENT.new");
    let write = || {
        let mut file = File::create(&new)?;
        writeln!(file, "{generation}")?;
        file.sync_all()?;
        fs::rename(&new, dir.join(layout::CURRENT))
    };
    write().map_err(StoreError::io(&new))?;
    sync_directory(dir)
}

fn sync_directory(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(StoreError::io(dir))
}
