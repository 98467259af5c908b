//! A replicator's store without its replicator: batches go the way that a relay's writer thread
//! sends them, and nothing else runs.

use std::path::Path;

use quicksilver_format::{Batch, BatchBuilder, DbId, Entry, HistoryId, Position};
use quicksilver_replicator::store::{Committed, Retention, Sizes, Store, wall_clock_us};

use crate::Result;
use crate::dataset::{self, KEY_BYTES, Pool, Rng};

/// Bytes of values of one commit while a database is filled.
const FILL_BYTES: usize = 8 << 20;

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

/// The keys 0 to `keys` in key order.
pub fn sorted_keys(keys: u64) -> Vec<[u8; KEY_BYTES]> {
    let mut sorted: Vec<_> = (0..keys).map(dataset::key).collect();
    sorted.sort_unstable();
    sorted
}

/// Gives `commit` all the keys 0 to `keys` in key order, with values from `pool`, a few megabytes at a
/// time.
pub fn fill(
    keys: u64,
    value_bytes: usize,
    pool: &Pool,
    mut commit: impl FnMut(&[Entry<'_>]) -> Result<()>,
) -> Result<()> {
    let mut rng = Rng::new(0);
    for keys in sorted_keys(keys).chunks(FILL_BYTES / value_bytes) {
        let entries = keys.iter().map(|key| Entry::set(key, pool.cut(value_bytes, &mut rng)));
        commit(&entries.collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Writes one batch and says how the commit went.
pub fn commit(store: &mut Store, entries: &[Entry<'_>]) -> Result<Committed> {
    let batch = seal(store.end(), entries.iter().copied())?;
    Ok(store.apply(&[batch])?)
}
