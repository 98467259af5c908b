//! Applying batches: data, chunks, log and bookkeeping in one LMDB transaction.
//!
//! Within one commit only the end state is visible, so the cells are written in key order and
//! only the last write of each key (random keys cost a page each; sorted, neighbours share one),
//! then the chunks of the long values that survive, in write-index order, then the log with all
//! of it; a slice of the oldest log is collected ([`super::gc`]). The digest is kept up to date from what the old cells' headers say.

use std::cmp::Ordering;

use quicksilver::environment::Environment;
use quicksilver_format::cell::Body;
use quicksilver_format::layout::BUCKET_DATA;
use quicksilver_format::meta::{Applied, LogState};
use quicksilver_format::{Batch, Cell, Index, Op, chunk};
use quicksilver_lmdb::WriteTxn;

use super::error::StoreError;
use super::gc::{self, Retention};

/// The bookkeeping before and after a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// How far the log reaches.
    pub log: LogState,
    /// How far it is applied, and what the data then is.
    pub applied: Applied,
}

/// One entry on its way into the data.
struct Change<'b> {
    key: &'b [u8],
    write_index: Index,
    op: Op<'b>,
}

/// A long value whose chunks have to be written.
struct LongValue<'b> {
    write_index: Index,
    value: &'b [u8],
}

/// Writes `batches`, which must follow `state` and each other, into `txn`, and returns the
/// bookkeeping after them.
pub fn apply(
    environment: &Environment,
    txn: &mut WriteTxn<'_>,
    mut state: State,
    batches: &[Batch],
    retention: Retention,
    now_us: u64,
) -> Result<State, StoreError> {
    let mut dead_chunks = Vec::new();
    let mut long_values = Vec::new();
    let applied = &mut state.applied;
    let mut buffer = Vec::new();
    let mut cursor = txn.write_cursor(environment.data)?;
    for change in end_state(batches) {
        let old = cursor
            .seek_exact(change.key)?
            .map(|(_, bytes)| Cell::decode(bytes))
            .transpose()
            .map_err(|e| corrupt_cell(change.key, &e))?;
        let existed = old.is_some();
        if let Some(old) = old {
            applied.digest.remove(old.digest_term(change.key));
            let old_bytes = change.key.len() as u64 + u64::from(old.value_bytes());
            let counts = applied.keys.checked_sub(1).zip(applied.bytes.checked_sub(old_bytes));
            (applied.keys, applied.bytes) = counts.ok_or_else(|| {
                corrupt_cell(change.key, &"meta counts fewer keys or bytes than there are")
            })?;
            if let Body::Chunked { chunks, .. } = old.body {
                dead_chunks.push((old.write_index, chunks));
            }
        }
        match change.op {
            Op::Del if existed => {
                cursor.del_current()?;
            }
            Op::Del => {}
            Op::Set(value) => {
                let cell = cell(environment, &change, value);
                if let Body::Chunked { .. } = cell.body {
                    long_values.push(LongValue { write_index: change.write_index, value });
                }
                applied.digest.add(cell.digest_term(change.key));
                applied.keys += 1;
                applied.bytes += (change.key.len() + value.len()) as u64;
                buffer.clear();
                cell.encode(&mut buffer);
                cursor.put(change.key, &buffer)?;
            }
        }
    }
    drop(cursor);
    remove_chunks(environment, txn, dead_chunks)?;
    append_chunks(environment, txn, long_values)?;
    let mut log_pieces = 0;
    for batch in batches {
        append_record(environment, txn, batch)?;
        log_pieces += chunk::count(batch.record().len(), environment.page_bytes);
        state.log.last = batch.after();
        state.log.sealed_at_us = batch.header().sealed_at_us;
        state.applied.position = batch.after();
    }
    gc::collect(environment, txn, &mut state.log, retention, now_us, log_pieces)?;
    txn.put(environment.meta, LogState::KEY, &state.log.encode())?;
    txn.put(environment.meta, Applied::KEY, &state.applied.encode())?;
    Ok(state)
}

/// The last change of each key, in key order.
fn end_state(batches: &[Batch]) -> Vec<Change<'_>> {
    let mut changes: Vec<Change<'_>> = batches
        .iter()
        .flat_map(Batch::entries)
        .map(|(write_index, entry)| Change { key: entry.key, write_index, op: entry.op })
        .collect();
    // The newest of a key first, so that removing duplicates keeps it.
    changes.sort_unstable_by(|a, b| match a.key.cmp(b.key) {
        Ordering::Equal => b.write_index.cmp(&a.write_index),
        other => other,
    });
    changes.dedup_by(|later, kept| later.key == kept.key);
    changes
}

fn cell<'b>(environment: &Environment, change: &Change<'b>, value: &'b [u8]) -> Cell<'b> {
    let page_bytes = environment.page_bytes;
    let body = if value.len() <= chunk::inline_max_bytes(page_bytes) {
        Body::Inline(value)
    } else {
        // An entry's value is at most VALUE_HARD_MAX_BYTES long, which fits.
        let as_u32 = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Body::Chunked {
            value_bytes: as_u32(value.len()),
            chunks: as_u32(chunk::count(value.len(), page_bytes)),
        }
    };
    let crc = environment.crc().of(change.key, change.write_index, value);
    Cell { write_index: change.write_index, crc, body }
}

fn corrupt_cell(key: &[u8], problem: &dyn std::fmt::Display) -> StoreError {
    StoreError::Read(quicksilver::Error::Corrupt {
        bucket: BUCKET_DATA,
        key: key.escape_ascii().to_string(),
        problem: problem.to_string(),
    })
}

fn remove_chunks(
    environment: &Environment,
    txn: &mut WriteTxn<'_>,
    mut dead: Vec<(Index, u32)>,
) -> Result<(), StoreError> {
    dead.sort_unstable();
    let mut cursor = txn.write_cursor(environment.chunks)?;
    for (write_index, chunks) in dead {
        for number in 0..chunks {
            // A missing chunk is for verification to report; here it is gone already.
            if cursor.seek_exact(&chunk::key(write_index, number))?.is_some() {
                cursor.del_current()?;
            }
        }
    }
    Ok(())
}

fn append_chunks(
    environment: &Environment,
    txn: &mut WriteTxn<'_>,
    mut long_values: Vec<LongValue<'_>>,
) -> Result<(), StoreError> {
    long_values.sort_unstable_by_key(|long| long.write_index);
    for LongValue { write_index, value } in long_values {
        append_pieces(txn, environment.chunks, write_index, value, environment.page_bytes)?;
    }
    Ok(())
}

fn append_record(
    environment: &Environment,
    txn: &mut WriteTxn<'_>,
    batch: &Batch,
) -> Result<(), StoreError> {
    append_pieces(txn, environment.log, batch.first(), batch.record(), environment.page_bytes)
}

fn append_pieces(
    txn: &mut WriteTxn<'_>,
    bucket: quicksilver_lmdb::Bucket,
    index: Index,
    bytes: &[u8],
    page_bytes: usize,
) -> Result<(), StoreError> {
    for (number, piece) in (0..).zip(bytes.chunks(chunk::max_bytes(page_bytes))) {
        txn.put_append(bucket, &chunk::key(index, number), piece)?;
    }
    Ok(())
}
