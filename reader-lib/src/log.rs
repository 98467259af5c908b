//! The log as it lies in LMDB: whole batch records, found by index.

use std::fmt;

use quicksilver_format::layout::BUCKET_LOG;
use quicksilver_format::{Batch, BatchLimits, Index, RunningHash, batch, chunk};
use quicksilver_lmdb::{Cursor, Transaction};

use crate::environment::Environment;
use crate::error::{Error, Result};

/// The bytes of one batch record, not yet decoded.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Index of its first entry.
    pub first: Index,
    /// The record as it travels.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record(from {}, {} bytes)", self.first, self.bytes.len())
    }
}

impl Record {
    /// Decodes and verifies it.
    pub fn decode(self) -> Result<Batch> {
        let key = chunk::key(self.first, 0);
        Batch::decode(self.bytes.into(), &BatchLimits::HARD)
            .map_err(|e| Error::corrupt(BUCKET_LOG, &key, e))
    }
}

/// What the log says of one index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashAt {
    /// The last entry of a batch, or the end of an empty log, with the hash there.
    Boundary(RunningHash),
    /// An entry inside a batch, with the hash there.
    Inside(RunningHash),
    /// Already removed; this is the oldest that is left.
    TooOld(Index),
    /// Not there yet; this is the last.
    Beyond(Index),
}

/// Walks batch records in order, within one transaction.
pub struct Records<'t> {
    cursor: Cursor<'t>,
    /// First chunk of the next record.
    head: Option<(Index, Vec<u8>)>,
}

impl fmt::Debug for Records<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Records(next {:?})", self.head.as_ref().map(|(first, _)| first))
    }
}

impl<'t> Records<'t> {
    /// Begins with the record that holds `index`, or with the oldest one after it.
    pub fn from<T: Transaction>(
        environment: &Environment,
        txn: &'t T,
        index: Index,
    ) -> Result<Self> {
        let mut cursor = txn.cursor(environment.log)?;
        // The last chunk at or before (index, max) belongs to the record that holds the index.
        let after = cursor.seek(&chunk::key(index.next(), 0))?.is_some();
        let before = if after { cursor.prev()? } else { cursor.last()? };
        let found = match before {
            Some((key, _)) => {
                let (first, _) = decode_key(key)?;
                cursor.seek_exact(&chunk::key(first, 0))?
            }
            None => cursor.first()?,
        };
        let head = found.map(head).transpose()?;
        let mut records = Records { cursor, head };
        // Only the oldest record of all can lie before the index without holding it.
        if records.last_of_head()?.is_some_and(|last| last < index) {
            records.take()?;
        }
        Ok(records)
    }

    fn last_of_head(&self) -> Result<Option<Index>> {
        let Some((first, piece)) = &self.head else { return Ok(None) };
        batch::BatchHeader::decode(piece)
            .map(|header| Some(header.last()))
            .map_err(|e| Error::corrupt(BUCKET_LOG, &chunk::key(*first, 0), e))
    }

    /// The next record, or `None` at the end of the log.
    pub fn take(&mut self) -> Result<Option<Record>> {
        let Some((first, mut bytes)) = self.head.take() else { return Ok(None) };
        let corrupt = |problem: String| Error::corrupt(BUCKET_LOG, &chunk::key(first, 0), problem);
        let header = batch::BatchHeader::decode(&bytes).map_err(|e| corrupt(e.to_string()))?;
        if header.first != first {
            return Err(corrupt(format!("holds the record of index {}", header.first)));
        }
        let expected_bytes = header.record_bytes();
        let mut number = 0;
        loop {
            number += 1;
            match self.cursor.next()? {
                None => break,
                Some((key, piece)) => {
                    let (owner, n) = decode_key(key)?;
                    if owner != first {
                        self.head = Some(head((key, piece))?);
                        break;
                    }
                    if n != number || bytes.len() + piece.len() > expected_bytes {
                        return Err(corrupt(format!("chunk {n} where {number} was expected")));
                    }
                    bytes.extend_from_slice(piece);
                }
            }
        }
        if bytes.len() != expected_bytes {
            return Err(corrupt(format!("{} bytes, expected {expected_bytes}", bytes.len())));
        }
        Ok(Some(Record { first, bytes }))
    }
}

fn decode_key(key: &[u8]) -> Result<(Index, u32)> {
    chunk::decode_key(key).map_err(|e| Error::corrupt(BUCKET_LOG, key, e))
}

fn head((key, piece): (&[u8], &[u8])) -> Result<(Index, Vec<u8>)> {
    match decode_key(key)? {
        (first, 0) => Ok((first, piece.to_vec())),
        (_, n) => Err(Error::corrupt(BUCKET_LOG, key, format!("chunk {n} where 0 was expected"))),
    }
}

/// Reads whole records after the entry at `after`, at least one if there is any, and no more
/// once they exceed `max_bytes`.
pub fn read_after<T: Transaction>(
    environment: &Environment,
    txn: &T,
    after: Index,
    max_bytes: usize,
) -> Result<Vec<Record>> {
    let mut records = Records::from(environment, txn, after.next())?;
    let mut out = Vec::new();
    let mut bytes = 0;
    while bytes < max_bytes {
        let Some(record) = records.take()? else { break };
        bytes += record.bytes.len();
        out.push(record);
    }
    Ok(out)
}

/// Checks that the newest record ends where `meta` says that the log ends. It looks at the record's
/// first piece and at nothing else, whatever the size of the database.
pub fn check_end<T: Transaction>(environment: &Environment, txn: &T) -> Result<()> {
    let state = environment.log_state(txn)?;
    if state.oldest > state.last.index {
        return Ok(());
    }
    let records = Records::from(environment, txn, state.last.index)?;
    let corrupt = |problem| Error::corrupt(BUCKET_LOG, &chunk::key(state.last.index, 0), problem);
    let Some((first, piece)) = &records.head else {
        return Err(corrupt("missing, although meta says it is there".to_owned()));
    };
    let header = batch::BatchHeader::decode(piece).map_err(|e| corrupt(e.to_string()))?;
    if header.first != *first || header.after() != state.last {
        let (found, expected) = (header.after(), state.last);
        return Err(corrupt(format!("the newest record ends at {found}, meta says {expected}")));
    }
    Ok(())
}

/// What the log says of `index`.
pub fn hash_at<T: Transaction>(environment: &Environment, txn: &T, index: Index) -> Result<HashAt> {
    let state = environment.log_state(txn)?;
    if index == state.last.index {
        return Ok(HashAt::Boundary(state.last.hash));
    }
    if index > state.last.index {
        return Ok(HashAt::Beyond(state.last.index));
    }
    // The hash before the oldest entry is known as long as that entry is.
    if index.next() < state.oldest || state.oldest > state.last.index {
        return Ok(HashAt::TooOld(state.oldest));
    }
    let Some(record) = Records::from(environment, txn, index.next())?.take()? else {
        let key = chunk::key(index.next(), 0);
        return Err(Error::corrupt(BUCKET_LOG, &key, "missing, although meta says it is there"));
    };
    let batch = record.decode()?;
    if batch.before().index == index {
        return Ok(HashAt::Boundary(batch.before().hash));
    }
    batch.hash_at(index).map(HashAt::Inside).ok_or_else(|| {
        let key = chunk::key(index.next(), 0);
        Error::corrupt(BUCKET_LOG, &key, format!("holds {} to {}", batch.first(), batch.last()))
    })
}
