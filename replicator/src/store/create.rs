//! Finding the live generation of a database, or making the first one.
//!
//! A generation is made under another name, synced, renamed, and counts from the moment `CURRENT`
//! names it. Only what carries that other name is what a crash left of an attempt, and is removed.
//! A generation with data in it is never removed here, whatever `CURRENT` says or does not say.

use std::path::Path;

use quicksilver::build::{self, Builder, directory};
use quicksilver::environment::{self, Environment};
use quicksilver_format::layout::{self, Generation};
use quicksilver_format::{DbId, HistoryId, Index, Position};
use quicksilver_lmdb::{Env, EnvOptions};

use super::error::StoreError;

/// What a generation is opened with.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Bytes of the memory map; the file never grows past it.
    pub map_bytes: usize,
    /// Reader slots.
    pub max_readers: u32,
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
    directory::set_current(dir, Generation::FIRST)?;
    Ok(true)
}

fn open(dir: &Path, generation: Generation, sizes: Sizes) -> Result<Environment, StoreError> {
    let path = dir.join(generation.to_string());
    // The size of the map is fixed for the life of a generation: readers that have it mapped
    // could not follow.
    let as_made = EnvOptions {
        map_bytes: 0,
        max_readers: sizes.max_readers,
        open_lock: Some(dir.join(layout::OPEN_LOCK)),
        ..EnvOptions::default()
    };
    let env = Env::open_writer(&path, &as_made)?;
    let map_bytes = env.info()?.map_bytes;
    if map_bytes != sizes.map_bytes {
        tracing::warn!(
            map_bytes,
            configured = sizes.map_bytes,
            "limits.map_bytes is for new generations; this one keeps what it was made with"
        );
    }
    directory::set_modes(&path)?;
    let buckets = [
        env.open_bucket(layout::BUCKET_DATA)?,
        env.open_bucket(layout::BUCKET_CHUNKS)?,
        env.open_bucket(layout::BUCKET_LOG)?,
        env.open_bucket(layout::BUCKET_META)?,
    ];
    Ok(Environment::new(path, generation, env, buckets)?)
}

fn create_first(
    dir: &Path,
    db_id: DbId,
    history: HistoryId,
    sizes: Sizes,
) -> Result<(), StoreError> {
    let Sizes { map_bytes, max_readers } = sizes;
    let options = build::Options { db_id, history, map_bytes, max_readers };
    let start = Position::genesis(db_id);
    Builder::beside(dir, Generation::FIRST, start, &options)?.finish()?;
    Ok(directory::set_current(dir, Generation::FIRST)?)
}
