//! A walk through a generation that goes on being written, in short read transactions: what
//! [`rebuild`](super::rebuild) and [`snapshot`](super::snapshot) copy a database with.
//!
//! With W the index at which it starts, `data` is walked, then `chunks`, and of both what was written
//! up to W is taken. What has changed meanwhile was written after W and is in the log. A key that was
//! overwritten before the walk reached it is missing, and so are the chunks of one that was
//! overwritten after; the log after W says so of both.
//!
//! Invariants:
//! * no read transaction outlives a slice: nobody writes to a file, sleeps or waits within one;
//! * every value's CRC is checked on the way.

use quicksilver_format::layout::BUCKET_DATA;
use quicksilver_format::{Cell, Index, StateDigest, cell, chunk};
use quicksilver_lmdb::{Bucket, Transaction};

use super::{Result, State};
use crate::environment::Environment;
use crate::error::Error;
use crate::value;

/// What one read transaction walks: tens of milliseconds.
pub const SLICE_BYTES: usize = 16 << 20;

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes of keys, cells, chunks and log that were copied.
    pub copied_bytes: u64,
    /// About so many there are.
    pub total_bytes: u64,
    /// Keys that were copied.
    pub keys: u64,
    /// About so many there are.
    pub total_keys: u64,
}

/// A part of a generation, in the order in which they are walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Data,
    Chunks,
    Log,
}

impl Part {
    pub(super) fn bucket(self, of: &Environment) -> Bucket {
        match self {
            Part::Data => of.data,
            Part::Chunks => of.chunks,
            Part::Log => of.log,
        }
    }
}

/// Who gets what is walked.
pub(super) trait Sink {
    /// One pair, in key order. A read transaction of the source is open: keep it, and return.
    fn take(&mut self, part: Part, key: &[u8], value: &[u8]) -> Result<()>;
    /// The slice is at its end, and no transaction of the source is open.
    fn end_slice(&mut self) -> Result<()>;
}

/// What was taken of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Taken {
    pub(super) keys: u64,
    pub(super) bytes: u64,
    pub(super) digest: StateDigest,
    /// The smallest index among the keys of chunks or log.
    pub(super) first: Option<Index>,
}

pub(super) struct Walk<'a> {
    source: &'a Environment,
    /// What was written after this comes as log.
    until: Index,
    slice_bytes: usize,
    progress: &'a mut dyn FnMut(Progress) -> bool,
    seen: Progress,
}

impl<'a> Walk<'a> {
    /// Begins at `start`, which is what the source says now. `progress` is called after each slice;
    /// when it says false, the walk ends there.
    pub(super) fn new(
        source: &'a Environment,
        start: &State,
        slice_bytes: usize,
        progress: &'a mut dyn FnMut(Progress) -> bool,
    ) -> Result<Self> {
        let log_pages = source.env.read()?.stat(source.log)?.pages();
        let data_bytes = start.applied.bytes + start.applied.keys * cell::HEADER_BYTES as u64;
        let seen = Progress {
            total_bytes: data_bytes + log_pages * source.page_bytes as u64,
            total_keys: start.applied.keys,
            ..Progress::default()
        };
        let until = start.applied.position.index;
        Ok(Walk { source, until, slice_bytes, progress, seen })
    }

    /// How far it is.
    pub(super) fn seen(&self) -> Progress {
        self.seen
    }

    /// Walks one part; `None` when told to end.
    pub(super) fn walk(&mut self, part: Part, sink: &mut impl Sink) -> Result<Option<Taken>> {
        let (mut taken, mut last) = (Taken::default(), None);
        loop {
            let slice = self.slice(part, last.as_deref(), &mut taken, sink)?;
            sink.end_slice()?;
            self.seen.copied_bytes += slice.bytes as u64;
            if !(self.progress)(self.seen) {
                return Ok(None);
            }
            last = slice.last;
            if last.is_none() {
                return Ok(Some(taken));
            }
        }
    }

    /// What comes after `last`, within one transaction.
    fn slice(
        &mut self,
        part: Part,
        last: Option<&[u8]>,
        taken: &mut Taken,
        sink: &mut impl Sink,
    ) -> Result<Slice> {
        let txn = self.source.env.read()?;
        let mut cursor = txn.cursor(part.bucket(self.source))?;
        let mut next = match last {
            None => cursor.first()?,
            Some(last) => match cursor.seek(last)? {
                Some((key, _)) if key == last => cursor.next()?,
                other => other,
            },
        };
        let mut bytes = 0;
        while let Some((key, stored)) = next {
            match part {
                Part::Data => {
                    let cell =
                        Cell::decode(stored).map_err(|e| Error::corrupt(BUCKET_DATA, key, e))?;
                    if cell.write_index <= self.until {
                        // All of it, also where the chunks come later.
                        value::read(self.source, &txn, key, stored)?;
                        sink.take(part, key, stored)?;
                        taken.keys += 1;
                        taken.bytes += key.len() as u64 + u64::from(cell.value_bytes());
                        taken.digest.add(cell.digest_term(key));
                        self.seen.keys += 1;
                    }
                }
                Part::Chunks | Part::Log => {
                    let (index, _) = chunk::decode_key(key)
                        .map_err(|e| Error::corrupt("chunks or log", key, e))?;
                    if index > self.until {
                        break;
                    }
                    sink.take(part, key, stored)?;
                    taken.first.get_or_insert(index);
                }
            }
            bytes += key.len() + stored.len();
            if bytes >= self.slice_bytes {
                return Ok(Slice { bytes, last: Some(key.to_vec()) });
            }
            next = cursor.next()?;
        }
        Ok(Slice { bytes, last: None })
    }
}

/// How much of a part was walked.
struct Slice {
    bytes: usize,
    /// The last key; `None` at the end of the part.
    last: Option<Vec<u8>>,
}
