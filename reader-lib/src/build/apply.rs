//! Applying batches: data, chunks and log in one LMDB transaction. The one place that does it, for
//! replicators and builders alike.
//!
//! Within one commit only the end state is visible, so the cells are written in key order and
//! only the last write of each key (random keys cost a page each; sorted, neighbours share one),
//! then the chunks of the long values that survive, in write-index order, then the log with all
//! of it. Keys beyond the last one of the bucket are appended, which fills pages to the brim. The
//! digest is kept up to date from what the old cells' headers say.

use std::cmp::Ordering;

use quicksilver_format::cell::Body;
use quicksilver_format::layout::BUCKET_DATA;
use quicksilver_format::meta::{Applied, LogState};
use quicksilver_format::{Batch, Cell, Index, Op, Position, StateDigest, chunk};
use quicksilver_lmdb::{Bucket, LmdbError, Transaction, WriteTxn};

use crate::environment::Environment;
use crate::error::{Error, Result};

/// The bookkeeping before and after a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// How far the log reaches.
    pub log: LogState,
    /// How far it is applied, and what the data then is.
    pub applied: Applied,
}

impl State {
    /// No data, and a log that begins after `start`.
    pub fn empty_at(start: Position) -> Self {
        State {
            log: LogState { last: start, oldest: start.index.next(), sealed_at_us: 0 },
            applied: Applied { position: start, digest: StateDigest::EMPTY, keys: 0, bytes: 0 },
        }
    }

    /// What the generation says.
    pub fn read<T: Transaction>(environment: &Environment, txn: &T) -> Result<Self> {
        Ok(State { log: environment.log_state(txn)?, applied: environment.applied(txn)? })
    }

    /// Has the generation say it, in the transaction of what it describes.
    pub fn write(&self, meta: Bucket, txn: &mut WriteTxn<'_>) -> Result<(), LmdbError> {
        txn.put(meta, LogState::KEY, &self.log.encode())?;
        txn.put(meta, Applied::KEY, &self.applied.encode())
    }
}

/// One entry on its way into the data.
struct Change<'b> {
    /// The key's first bytes: most keys are told apart by them, without a look at the batch.
    prefix: u64,
    key: &'b [u8],
    write_index: Index,
    op: Op<'b>,
}

impl<'b> Change<'b> {
    const PREFIX_BYTES: usize = size_of::<u64>();

    fn new(key: &'b [u8], write_index: Index, op: Op<'b>) -> Self {
        // Zeros after a short key: in the order of prefixes nobody stands before whom he follows in
        // the order of keys.
        let mut prefix = [0; Self::PREFIX_BYTES];
        for (byte, of_key) in prefix.iter_mut().zip(key) {
            *byte = *of_key;
        }
        Change { prefix: u64::from_be_bytes(prefix), key, write_index, op }
    }

    /// By key, and the newest of a key first.
    fn order(&self, other: &Self) -> Ordering {
        self.prefix
            .cmp(&other.prefix)
            .then_with(|| self.key.cmp(other.key))
            .then_with(|| other.write_index.cmp(&self.write_index))
    }
}

/// A long value whose chunks have to be written.
struct LongValue<'b> {
    write_index: Index,
    value: &'b [u8],
}

/// An LMDB write transaction holds at most 131,071 dirty pages; commits stay well below.
pub const DIRTY_PAGES_PER_COMMIT: usize = 100_000;

/// Pages that a commit of `entries` with `payload_bytes` may dirty, at most: every random key dirties
/// a leaf of its own, but there are only so many leaves.
pub fn dirty_pages(environment: &Environment, entries: usize, payload_bytes: usize) -> usize {
    let leaves = environment
        .env
        .read()
        .and_then(|txn| txn.stat(environment.data))
        .map_or(usize::MAX, |stat| usize::try_from(stat.leaf_pages).unwrap_or(usize::MAX));
    // Cells or chunks once, the log once, and as much again for pages that are half full.
    let new_pages = 4 * payload_bytes / environment.page_bytes;
    entries.min(leaves).saturating_add(new_pages)
}

/// How many of the batches fit one commit; at least one.
pub fn one_commit(environment: &Environment, batches: &[Batch]) -> usize {
    let (mut entries, mut payload_bytes) = (0, 0);
    let fit = batches.iter().take_while(|batch| {
        entries += batch.len();
        payload_bytes += batch.payload_bytes();
        dirty_pages(environment, entries, payload_bytes) <= DIRTY_PAGES_PER_COMMIT
    });
    fit.count().max(1).min(batches.len())
}

/// Writes `batches`, which must follow `state` and each other, into `txn`, and returns the
/// bookkeeping after them, which is for the caller to write.
pub fn apply(
    environment: &Environment,
    txn: &mut WriteTxn<'_>,
    mut state: State,
    batches: &[Batch],
) -> Result<State> {
    let mut dead_chunks = Vec::new();
    let mut long_values = Vec::new();
    let applied = &mut state.applied;
    let mut buffer = Vec::new();
    let mut cursor = txn.write_cursor(environment.data)?;
    let last_key = cursor.last()?.map(|(key, _)| key.to_vec());
    for change in end_state(batches) {
        let appends = last_key.as_deref().is_none_or(|last| change.key > last);
        let new = match change.op {
            Op::Set(value) => Some((cell(environment, &change, value), value)),
            Op::Del => None,
        };
        buffer.clear();
        if let Some((cell, _)) = &new {
            cell.encode(&mut buffer);
        }
        // A key is looked for once.
        let old = match (appends, &new) {
            (true, Some(_)) => {
                cursor.put_append(change.key, &buffer)?;
                None
            }
            (true, None) => None,
            (false, Some(_)) => cursor.put_new(change.key, &buffer)?,
            (false, None) => cursor.seek_exact(change.key)?.map(|(_, stored)| stored),
        };
        let old = old
            .map(Cell::decode)
            .transpose()
            .map_err(|e| Error::corrupt(BUCKET_DATA, change.key, e))?;
        let existed = old.is_some();
        if let Some(old) = old {
            applied.digest.remove(old.digest_term(change.key));
            let old_bytes = change.key.len() as u64 + u64::from(old.value_bytes());
            let counts = applied.keys.checked_sub(1).zip(applied.bytes.checked_sub(old_bytes));
            (applied.keys, applied.bytes) = counts.ok_or_else(|| {
                let problem = "meta counts fewer keys or bytes than there are";
                Error::corrupt(BUCKET_DATA, change.key, problem)
            })?;
            if let Body::Chunked { chunks, .. } = old.body {
                dead_chunks.push((old.write_index, chunks));
            }
        }
        if existed && new.is_some() {
            cursor.put_current(change.key, &buffer)?;
        } else if existed {
            cursor.del_current()?;
        }
        if let Some((cell, value)) = new {
            applied.digest.add(cell.digest_term(change.key));
            applied.keys += 1;
            applied.bytes += (change.key.len() + value.len()) as u64;
            if let Body::Chunked { .. } = cell.body {
                long_values.push(LongValue { write_index: change.write_index, value });
            }
        }
    }
    drop(cursor);
    remove_chunks(environment, txn, dead_chunks)?;
    append_chunks(environment, txn, long_values)?;
    for batch in batches {
        append_pieces(environment, txn, environment.log, batch.first(), batch.record())?;
        state.log.last = batch.after();
        state.log.sealed_at_us = batch.header().sealed_at_us;
        state.applied.position = batch.after();
    }
    #[cfg(feature = "next-format")]
    super::next::keep_up(environment, txn)?;
    Ok(state)
}

/// The last change of each key, in key order.
fn end_state(batches: &[Batch]) -> Vec<Change<'_>> {
    let mut changes: Vec<Change<'_>> = batches
        .iter()
        .flat_map(Batch::entries)
        .map(|(write_index, entry)| Change::new(entry.key, write_index, entry.op))
        .collect();
    // The newest of a key first, so that removing duplicates keeps it.
    changes.sort_unstable_by(Change::order);
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

fn remove_chunks(
    environment: &Environment,
    txn: &mut WriteTxn<'_>,
    mut dead: Vec<(Index, u32)>,
) -> Result<()> {
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
) -> Result<()> {
    long_values.sort_unstable_by_key(|long| long.write_index);
    for LongValue { write_index, value } in long_values {
        append_pieces(environment, txn, environment.chunks, write_index, value)?;
    }
    Ok(())
}

fn append_pieces(
    environment: &Environment,
    txn: &mut WriteTxn<'_>,
    bucket: Bucket,
    index: Index,
    bytes: &[u8],
) -> Result<()> {
    for (number, piece) in (0..).zip(bytes.chunks(chunk::max_bytes(environment.page_bytes))) {
        txn.put_append(bucket, &chunk::key(index, number), piece)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Short keys, zeros and keys that differ late: what a prefix could get wrong.
    #[test]
    fn changes_are_in_the_order_of_their_keys() {
        let keys: [&[u8]; 9] = [
            b"a",
            b"a\0",
            b"a\0\0\0\0\0\0\0",
            b"a\0\0\0\0\0\0\0\0",
            b"a\x01",
            b"abcdefgh",
            b"abcdefgh\0",
            b"abcdefgi",
            b"\xff",
        ];
        for (m, one) in keys.iter().enumerate() {
            for (n, other) in keys.iter().enumerate() {
                let change = |key, index| Change::new(key, Index::new(index), Op::Del);
                assert_eq!(change(one, 1).order(&change(other, 1)), m.cmp(&n), "{one:?} {other:?}");
            }
        }
        let (old, new) = (Change::new(b"a", Index::new(1), Op::Del), Index::new(2));
        assert_eq!(Change::new(b"a", new, Op::Del).order(&old), Ordering::Less);
    }
}
