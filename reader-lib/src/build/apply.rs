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
use quicksilver_format::limits::BATCH_MAX_ENTRIES;
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

/// What cells that were written say of chunks.
#[derive(Default)]
struct LongValues<'b> {
    /// Of values that are gone: the write index, and how many chunks.
    dead: Vec<(Index, u32)>,
    new: Vec<LongValue<'b>>,
}

impl LongValues<'_> {
    fn freed_chunks(&self) -> usize {
        self.dead.iter().map(|(_, chunks)| *chunks as usize).sum()
    }
}

/// Pages that a commit of several batches may dirty, as [`dirty_pages`] counts them.
///
/// LMDB holds 131,071 dirty pages of a transaction in memory. When it needs room for more, it writes
/// an eighth of them to the file early, where nobody looks before the commit (`mdb_page_spill`, with
/// which every put and every deletion begins). So a larger commit succeeds, as that of a single batch
/// may have to; but it writes pages twice, and LMDB 0.9.24 leaks a MiB with it.
const PAGES_PER_COMMIT: usize = 100_000;
/// Chunks that a commit of several batches may free: as many as that of a single one.
const FREED_CHUNKS_PER_COMMIT: usize = BATCH_MAX_ENTRIES;

/// Pages that a commit of `entries` with `payload_bytes` dirties, beside the leaves of the chunks that
/// it frees, one for each at most: every random key dirties a leaf of its own, but there are only so
/// many leaves.
///
/// That is the usual case. Where each of these leaves is full and splits, or falls below a quarter and
/// takes its neighbour along (`mdb_rebalance`), it is twice as many.
fn dirty_pages(
    environment: &Environment,
    data_leaves: usize,
    entries: usize,
    payload_bytes: usize,
) -> usize {
    // Cells or chunks once, the log once, and as much again for pages that are half full.
    let new_pages = 4 * payload_bytes / environment.page_bytes;
    entries.min(data_leaves).saturating_add(new_pages)
}

fn leaves(environment: &Environment, bucket: Bucket) -> Result<usize, LmdbError> {
    let stat = environment.env.read()?.stat(bucket)?;
    Ok(usize::try_from(stat.leaf_pages).unwrap_or(usize::MAX))
}

/// How many of the batches fit one commit by what they carry; at least one.
pub fn one_commit<'b>(
    environment: &Environment,
    batches: impl IntoIterator<Item = &'b Batch>,
) -> usize {
    // Whoever cannot look counts every key.
    let data_leaves = leaves(environment, environment.data).unwrap_or(usize::MAX);
    let (mut entries, mut payload_bytes) = (0, 0);
    let mut n = 0;
    for batch in batches {
        entries += batch.len();
        payload_bytes += batch.payload_bytes();
        let pages = dirty_pages(environment, data_leaves, entries, payload_bytes);
        if n > 0 && pages > PAGES_PER_COMMIT {
            break;
        }
        n += 1;
    }
    n
}

/// What [`write()`] leaves to be committed.
#[derive(Debug)]
pub struct Written<'e> {
    /// Where it is.
    pub txn: WriteTxn<'e>,
    /// The bookkeeping after it, which is for the caller to write.
    pub state: State,
    /// How many of the batches are in it.
    pub batches: usize,
}

/// Writes `batches`, which are not none, must follow `state` and each other, and fit [`one_commit`],
/// into a transaction of their own; or only the first of them, if together they free too much.
///
/// What they free is known when the old cells were met. To look for those before cost half as
/// much again as the writing, for something that is rare.
pub fn write<'e>(
    environment: &'e Environment,
    before: State,
    batches: &[Batch],
) -> Result<Written<'e>> {
    let mut n = batches.len();
    loop {
        let (mut txn, mut state) = (environment.env.write()?, before);
        let long = write_cells(environment, &mut txn, &mut state, &batches[..n])?;
        if n > 1 && long.freed_chunks() > FREED_CHUNKS_PER_COMMIT {
            txn.abort();
            n /= 2;
            continue;
        }
        write_rest(environment, &mut txn, &mut state, long, &batches[..n])?;
        return Ok(Written { txn, state, batches: n });
    }
}

/// Writes all of `batches`, which must follow `state` and each other, into `txn`, and returns the
/// bookkeeping after them, which is for the caller to write.
pub fn apply(
    environment: &Environment,
    txn: &mut WriteTxn<'_>,
    mut state: State,
    batches: &[Batch],
) -> Result<State> {
    let long = write_cells(environment, txn, &mut state, batches)?;
    write_rest(environment, txn, &mut state, long, batches)?;
    Ok(state)
}

/// The cells, with their part of the bookkeeping. Chunks are left for [`write_rest`].
fn write_cells<'b>(
    environment: &Environment,
    txn: &mut WriteTxn<'_>,
    state: &mut State,
    batches: &'b [Batch],
) -> Result<LongValues<'b>> {
    let applied = &mut state.applied;
    let mut long = LongValues::default();
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
                long.dead.push((old.write_index, chunks));
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
                long.new.push(LongValue { write_index: change.write_index, value });
            }
        }
    }
    Ok(long)
}

/// The chunks, and the log.
fn write_rest(
    environment: &Environment,
    txn: &mut WriteTxn<'_>,
    state: &mut State,
    long: LongValues<'_>,
    batches: &[Batch],
) -> Result<()> {
    remove_chunks(environment, txn, long.dead)?;
    append_chunks(environment, txn, long.new)?;
    for batch in batches {
        append_pieces(environment, txn, environment.log, batch.first(), batch.record())?;
        state.log.last = batch.after();
        state.log.sealed_at_us = batch.header().sealed_at_us;
        state.applied.position = batch.after();
    }
    #[cfg(feature = "next-format")]
    super::next::keep_up(environment, txn)?;
    Ok(())
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
#[path = "apply_tests.rs"]
mod tests;
