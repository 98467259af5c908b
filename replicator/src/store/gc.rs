//! Collecting the log's oldest batches, a bounded slice with every commit.
//!
//! Invariants:
//! * A batch leaves the log whole, oldest first, in the same transaction that says so in `meta`.
//! * The newest batch stays, so that the log always says where it ends.
//! * What somebody holds ([`super::hold`]) stays, as long as the log is not too long for that.
//! * A slice is bounded by what the same commit appended, or by one batch where that is more, so
//!   that the log still shrinks.

use quicksilver::environment::Environment;
use quicksilver_format::batch::BatchHeader;
use quicksilver_format::layout::BUCKET_LOG;
use quicksilver_format::meta::LogState;
use quicksilver_format::{Index, chunk};
use quicksilver_lmdb::{LmdbError, Transaction, WriteTxn};

use super::error::StoreError;
use super::hold::LogHolds;
use super::wall_clock_us;

/// How much of the log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Batches sealed longer ago than this are collected.
    pub max_age_us: u64,
    /// Collect while the log takes more than this on disk.
    pub max_bytes: u64,
    /// As much more may be held by whoever still needs it.
    pub held_bytes: u64,
}

impl Retention {
    /// Nothing is ever collected.
    pub const UNLIMITED: Retention =
        Retention { max_age_us: u64::MAX, max_bytes: u64::MAX, held_bytes: u64::MAX };
}

/// What is to be kept by one commit.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    retention: Retention,
    now_us: u64,
    /// Entries after this are needed by somebody.
    needed_after: Option<Index>,
}

impl Keep {
    /// As it is now, in a map of so many bytes.
    pub fn now(mut retention: Retention, holds: &LogHolds, map_bytes: usize) -> Self {
        // The map has to hold the data, too.
        retention.held_bytes = retention.held_bytes.min(map_bytes as u64 / 8);
        Keep { retention, now_us: wall_clock_us(), needed_after: holds.needed_after() }
    }

    /// Whether the oldest batch has to go, where the log takes so many bytes.
    fn drops(&self, oldest: &Oldest, log_bytes: u64) -> bool {
        let Retention { max_age_us, max_bytes, held_bytes } = self.retention;
        let expired = self.now_us.saturating_sub(oldest.sealed_at_us) > max_age_us;
        let held = self.needed_after.is_some_and(|index| oldest.last > index)
            && log_bytes <= max_bytes.saturating_add(held_bytes);
        (expired || log_bytes > max_bytes) && !held
    }
}

/// Pieces that may be collected with a commit that appended none.
const SLICE_PIECES: usize = 64;

/// The oldest batch in the log.
struct Oldest {
    first: Index,
    last: Index,
    pieces: u32,
    sealed_at_us: u64,
}

/// Collects a slice, and notes in `log` what is the oldest index now.
pub fn collect(
    environment: &Environment,
    txn: &mut WriteTxn<'_>,
    log: &mut LogState,
    keep: Keep,
    appended_pieces: usize,
) -> Result<(), StoreError> {
    let mut budget = SLICE_PIECES + 2 * appended_pieces;
    while budget > 0 && log.oldest < log.last.index {
        let Some(oldest) = oldest(environment, txn)? else { return Ok(()) };
        let newest = oldest.last >= log.last.index;
        if newest || !keep.drops(&oldest, log_bytes(environment, txn)?) {
            return Ok(());
        }
        let mut cursor = txn.write_cursor(environment.log)?;
        for number in 0..oldest.pieces {
            if cursor.seek_exact(&chunk::key(oldest.first, number))?.is_some() {
                cursor.del_current()?;
            }
        }
        log.oldest = oldest.last.next();
        budget = budget.saturating_sub(oldest.pieces as usize);
    }
    Ok(())
}

fn oldest(environment: &Environment, txn: &WriteTxn<'_>) -> Result<Option<Oldest>, StoreError> {
    let mut cursor = txn.cursor(environment.log)?;
    let Some((key, piece)) = cursor.first()? else { return Ok(None) };
    let corrupt = |problem: String| {
        StoreError::Read(quicksilver::Error::Corrupt {
            bucket: BUCKET_LOG,
            key: key.escape_ascii().to_string(),
            problem,
        })
    };
    let (first, number) = chunk::decode_key(key).map_err(|e| corrupt(e.to_string()))?;
    if number != 0 {
        return Err(corrupt("the log begins inside a batch record".into()));
    }
    let header = BatchHeader::decode(piece).map_err(|e| corrupt(e.to_string()))?;
    let pieces = chunk::count(header.record_bytes(), environment.page_bytes);
    Ok(Some(Oldest {
        first,
        last: header.last(),
        pieces: u32::try_from(pieces).unwrap_or(u32::MAX),
        sealed_at_us: header.sealed_at_us,
    }))
}

/// What the log takes on disk.
pub fn log_bytes<T: Transaction>(environment: &Environment, txn: &T) -> Result<u64, LmdbError> {
    Ok(txn.stat(environment.log)?.pages() * environment.page_bytes as u64)
}
