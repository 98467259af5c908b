//! Collecting the log's oldest batches, a bounded slice with every commit.
//!
//! Invariants:
//! * A batch leaves the log whole, oldest first, in the same transaction that says so in `meta`.
//! * The newest batch stays, so that the log always says where it ends.
//! * A slice is bounded by what the same commit appended, or by one batch where that is more, so
//!   that the log still shrinks.

use quicksilver::environment::Environment;
use quicksilver_format::batch::BatchHeader;
use quicksilver_format::layout::BUCKET_LOG;
use quicksilver_format::meta::LogState;
use quicksilver_format::{Index, chunk};
use quicksilver_lmdb::{Transaction, WriteTxn};

use super::error::StoreError;

/// How much of the log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Batches sealed longer ago than this are collected.
    pub max_age_us: u64,
    /// Collect while the log takes more than this on disk.
    pub max_bytes: u64,
}

impl Retention {
    /// Nothing is ever collected.
    pub const UNLIMITED: Retention = Retention { max_age_us: u64::MAX, max_bytes: u64::MAX };
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
    retention: Retention,
    now_us: u64,
    appended_pieces: usize,
) -> Result<(), StoreError> {
    let mut budget = SLICE_PIECES + 2 * appended_pieces;
    while budget > 0 && log.oldest < log.last.index {
        let Some(oldest) = oldest(environment, txn)? else { return Ok(()) };
        let expired = now_us.saturating_sub(oldest.sealed_at_us) > retention.max_age_us;
        let newest = oldest.last >= log.last.index;
        if newest || !(expired || log_bytes(environment, txn)? > retention.max_bytes) {
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

fn log_bytes(environment: &Environment, txn: &WriteTxn<'_>) -> Result<u64, StoreError> {
    let stat = txn.stat(environment.log)?;
    let pages = stat.branch_pages + stat.leaf_pages + stat.overflow_pages;
    Ok(pages * environment.page_bytes as u64)
}
