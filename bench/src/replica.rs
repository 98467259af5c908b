//! A replicator's store without its replicator: batches go the way that a relay's writer thread
//! sends them, and nothing else runs.

use std::path::Path;

use quicksilver_format::{Batch, BatchBuilder, DbId, Entry, HistoryId, Position};
use quicksilver_replicator::store::{Retention, Sizes, Store, wall_clock_us};

use crate::Result;

/// Address space only.
pub const MAP_BYTES: usize = 32 << 30;

/// As in a replicator's default configuration.
const HELD_LOG_BYTES: u64 = 1 << 30;

/// The database of every measurement.
pub fn db_id() -> DbId {
    DbId::from_bytes([0xbe; 16])
}

/// Opens the store in `dir`, which keeps so many bytes of log; an empty one when there is none.
pub fn open(dir: &Path, log_bytes: u64) -> Result<Store> {
    let sizes = Sizes { map_bytes: MAP_BYTES, max_readers: 4096 };
    let mut store = Store::open(dir, db_id(), HistoryId::from_bytes([1; 16]), sizes)?;
    store.set_retention(Retention {
        max_age_us: u64::MAX,
        max_bytes: log_bytes,
        held_bytes: HELD_LOG_BYTES,
    });
    Ok(store)
}

/// Seals the batch that follows `end`, as a root does.
pub fn seal<'a>(end: Position, entries: impl IntoIterator<Item = Entry<'a>>) -> Result<Batch> {
    let mut builder = BatchBuilder::new(end);
    for entry in entries {
        builder.push(entry);
    }
    builder.seal(wall_clock_us()).ok_or_else(|| "a batch without entries".into())
}
