//! Making the first generation of a database.
//!
//! A generation is made under another name, synced, renamed, and counts from the moment `CURRENT`
//! names it. Only what carries that other name is what a crash left of an attempt, and is removed.
//! A generation with data in it is never removed here, whatever `CURRENT` says or does not say.

use std::path::Path;

use quicksilver::build::{self, Builder, directory};
use quicksilver::environment::Environment;
use quicksilver_format::layout::Generation;
use quicksilver_format::{DbId, HistoryId, Index, NEW_DATABASE_FORMAT_VERSION, Position};

use super::error::StoreError;
use super::standby::open;

/// What a generation is opened with.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Bytes of the memory map; the file never grows past it.
    pub map_bytes: usize,
    /// Reader slots.
    pub max_readers: u32,
}

/// Makes the first generation of a database that has none, and opens it for writing.
///
/// `history` is what it begins with. The caller holds the role lock.
pub(super) fn create(
    dir: &Path,
    db_id: DbId,
    history: HistoryId,
    sizes: Sizes,
) -> Result<Environment, StoreError> {
    let Sizes { map_bytes, max_readers } = sizes;
    if dir.join(Generation::FIRST.to_string()).exists() {
        adopt_unnamed(dir, db_id, max_readers)?;
    } else {
        let options = build::Options { db_id, history, map_bytes, max_readers };
        let start = Position::genesis(db_id);
        let format = NEW_DATABASE_FORMAT_VERSION;
        Builder::beside(dir, Generation::FIRST, start, format, &options)?.finish()?;
    }
    directory::set_current(dir, Generation::FIRST)?;
    open(dir, Generation::FIRST, db_id, max_readers)
}

/// Deals with a first generation that `CURRENT` does not name. An empty one is where a crash
/// stopped its creation one step short; it is taken. One with data is not ours to judge.
fn adopt_unnamed(dir: &Path, db_id: DbId, max_readers: u32) -> Result<(), StoreError> {
    let environment = open(dir, Generation::FIRST, db_id, max_readers)?;
    let index = environment.log_state(&environment.env.read()?)?.last.index;
    if index != Index::ZERO {
        let path = dir.join(Generation::FIRST.to_string());
        return Err(StoreError::Unnamed { path, index });
    }
    Ok(())
}

/// Makes an opened generation as its writer wants it.
pub(super) fn settle(environment: &Environment, sizes: Sizes) -> Result<(), StoreError> {
    let map_bytes = environment.env.info()?.map_bytes;
    if map_bytes != sizes.map_bytes {
        tracing::warn!(
            map_bytes,
            configured = sizes.map_bytes,
            "limits.map_bytes is for new generations; this one keeps what it was made with"
        );
    }
    Ok(directory::set_modes(environment.env.path())?)
}
