//! A generation made again out of another one, which may go on being written meanwhile.
//!
//! The pages of the new one are full, in key order, and none is free: it is the compact form of the
//! old one, with the same write indices, log and digest. No read transaction outlives a slice of the
//! walk, so the old one's pages are not held back.
//!
//! With W the index at which the walk starts: `data` is walked, then `chunks`, and of both what was
//! written up to W is copied; then the log up to W. What has changed meanwhile was written after W
//! and comes as ordinary log. A key that was overwritten before the walk reached it is missing until
//! then, and so are the chunks of one that was overwritten after; both are gone when the log that
//! says so has been applied. In the end index, hash, digest and counts must be the old one's, or
//! the copy is thrown away.
//!
//! Invariants: every value's CRC is checked on the way; nothing here changes the old generation.

use std::path::{Path, PathBuf};

use quicksilver_format::layout::{BUCKET_DATA, Generation};
use quicksilver_format::meta::Applied;
use quicksilver_format::{Cell, Index, Position, StateDigest, chunk};
use quicksilver_lmdb::{Bucket, Transaction, WriteTxn};

use super::{BuildError, Builder, Built, Options, Result, State, Unfinished, apply, directory};
use crate::environment::Environment;
use crate::error::Error;
use crate::log;

/// What one read transaction walks, and one write transaction takes: a few hundred milliseconds.
pub const SLICE_BYTES: usize = 64 << 20;
/// Bytes of log that one commit catches up with.
const LOG_BYTES_AT_ONCE: usize = 16 << 20;

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of keys, cells, chunks and log that were copied.
    pub copied_bytes: u64,
    /// Keys that were copied, of about so many.
    pub keys: (u64, u64),
}

/// A copy that is whole, and may be behind the generation it was made of.
#[derive(Debug)]
pub struct Rebuilt {
    dir: PathBuf,
    generation: Generation,
    source: Environment,
    // In this order: the environment is closed before its directory goes.
    target: Environment,
    unfinished: Unfinished,
    state: State,
}

/// Copies the generation that is open as `source` to `generation`, beside it, in the same format. The
/// caller is the writer of this database. Slices have about `slice_bytes`, usually [`SLICE_BYTES`].
/// `progress` is called after each; when it says false, the copy is given up, and the result is
/// `None`.
///
/// # Errors
/// [`BuildError::Exists`] when there is such a generation; a value that is damaged; or what the
/// system says. The copy is gone then.
pub fn rebuild(
    dir: &Path,
    source: &Environment,
    generation: Generation,
    options: &Options,
    slice_bytes: usize,
    progress: &mut dyn FnMut(Progress) -> bool,
) -> Result<Option<Rebuilt>> {
    let start = State::read(source, &source.env.read()?)?;
    let (position, format_version) = (start.applied.position, source.format.version);
    let begun = Builder::beside(dir, generation, position, format_version, options)?;
    // In this order: the environment is closed before its directory goes.
    let Builder { unfinished, environment: target, .. } = begun;
    let mut copy = Copy {
        source,
        target: &target,
        until: start.applied.position.index,
        slice_bytes,
        progress,
        seen: Progress { copied_bytes: 0, keys: (0, start.applied.keys) },
    };
    let Some((digest, bytes)) = copy.data()? else { return Ok(None) };
    let keys = copy.seen.keys.0;
    let all = copy.pieces(source.chunks, target.chunks)?.is_some();
    let Some(oldest) = (if all { copy.pieces(source.log, target.log)? } else { None }) else {
        return Ok(None);
    };
    let mut log = start.log;
    log.last = start.applied.position;
    log.oldest = oldest.unwrap_or(log.last.index.next());
    let applied = Applied { position: start.applied.position, digest, keys, bytes };
    let state = State { log, applied };
    let mut txn = target.env.write()?;
    state.write(target.meta, &mut txn)?;
    txn.commit()?;
    let (dir, source) = (dir.to_owned(), source.clone());
    Ok(Some(Rebuilt { dir, generation, source, target, unfinished, state }))
}

impl Rebuilt {
    /// Where it ends.
    pub fn position(&self) -> Position {
        self.state.applied.position
    }

    /// Takes a part of what the other generation has got meanwhile; false when there was nothing.
    pub fn catch_up(&mut self) -> Result<bool> {
        let txn = self.source.env.read()?;
        let after = self.state.log.last.index;
        let records = log::read_after(&self.source, &txn, after, LOG_BYTES_AT_ONCE)?;
        drop(txn);
        let batches: Vec<_> =
            records.into_iter().map(log::Record::decode).collect::<Result<_, _>>()?;
        let Some(first) = batches.first() else { return Ok(false) };
        if !first.continues(&self.state.log.last) {
            // Collected before it could be copied.
            return Err(self.differs(format!("the log goes on after {}", first.before())));
        }
        let mut txn = self.target.env.write()?;
        let state = apply::apply(&self.target, &mut txn, self.state, &batches)?;
        state.write(self.target.meta, &mut txn)?;
        txn.commit()?;
        self.state = state;
        Ok(true)
    }

    /// Makes it durable and gives it its name, once it is exactly what the other one is; it is for
    /// [`switch_to`](super::switch_to) then. Nobody writes meanwhile.
    ///
    /// # Errors
    /// [`BuildError::Differs`] when it is not the same, or what the system says. The copy is gone
    /// then.
    pub fn finish(mut self) -> Result<Built> {
        while self.catch_up()? {}
        let source = State::read(&self.source, &self.source.env.read()?)?;
        if source.applied != self.state.applied || source.log.last != self.state.log.last {
            return Err(self.differs(format!("{:?}", source.applied)));
        }
        let Rebuilt { dir, generation, target, unfinished, state, .. } = self;
        directory::set_modes(&unfinished.path)?;
        drop(target);
        unfinished.finish(&dir.join(generation.to_string()))?;
        directory::sync(&dir)?;
        Ok(Built::of(generation, &state))
    }

    fn differs(&self, original: String) -> BuildError {
        let copy = format!("{:?}", self.state.applied);
        BuildError::Differs { path: self.unfinished.path.clone(), original, copy }
    }
}

struct Copy<'a> {
    source: &'a Environment,
    target: &'a Environment,
    /// What was written after this comes as log.
    until: Index,
    slice_bytes: usize,
    progress: &'a mut dyn FnMut(Progress) -> bool,
    seen: Progress,
}

impl Copy<'_> {
    /// The cells, every value checked; their digest and their bytes.
    fn data(&mut self) -> Result<Option<(StateDigest, u64)>> {
        let (mut digest, mut bytes) = (StateDigest::EMPTY, 0);
        let mut last: Option<Vec<u8>> = None;
        loop {
            let mut slice = 0;
            let read = self.source.env.read()?;
            let mut write = self.target.env.write()?;
            let mut cursor = read.cursor(self.source.data)?;
            let mut next = match &last {
                None => cursor.first()?,
                Some(last) => match cursor.seek(last)? {
                    Some((key, _)) if key == last => cursor.next()?,
                    other => other,
                },
            };
            let mut end = None;
            while let Some((key, stored)) = next {
                let cell = Cell::decode(stored).map_err(|e| Error::corrupt(BUCKET_DATA, key, e))?;
                if cell.write_index <= self.until {
                    // All of it, also where the chunks come later.
                    self.source.value(&read, key)?;
                    write.put_append(self.target.data, key, stored)?;
                    digest.add(cell.digest_term(key));
                    bytes += key.len() as u64 + u64::from(cell.value_bytes());
                    self.seen.keys.0 += 1;
                }
                slice += key.len() + stored.len();
                end = Some(key);
                if slice >= self.slice_bytes {
                    break;
                }
                next = cursor.next()?;
            }
            let Some(end) = end else { return Ok(Some((digest, bytes))) };
            last = Some(end.to_vec());
            if !self.committed(write, slice)? {
                return Ok(None);
            }
        }
    }

    /// The pieces of a bucket, as they are, and the index of the first one. What was removed from the
    /// beginning of the log meanwhile is removed here, too.
    fn pieces(&mut self, from: Bucket, to: Bucket) -> Result<Option<Option<Index>>> {
        let (mut first, mut last): (Option<Index>, Option<Vec<u8>>) = (None, None);
        loop {
            let mut slice = 0;
            let read = self.source.env.read()?;
            let mut write = self.target.env.write()?;
            let mut cursor = read.cursor(from)?;
            let mut next = match &last {
                None => cursor.first()?,
                Some(last) => match cursor.seek(last)? {
                    Some((key, _)) if key == last => cursor.next()?,
                    // Values go here and there; the log goes from its beginning.
                    other if from == self.source.chunks => other,
                    _ => {
                        write.clear(to)?;
                        first = None;
                        cursor.first()?
                    }
                },
            };
            let mut end = None;
            while let Some((key, piece)) = next {
                let (index, _) =
                    chunk::decode_key(key).map_err(|e| Error::corrupt("chunks or log", key, e))?;
                if index > self.until {
                    break;
                }
                write.put_append(to, key, piece)?;
                first.get_or_insert(index);
                slice += key.len() + piece.len();
                end = Some(key);
                if slice >= self.slice_bytes {
                    break;
                }
                next = cursor.next()?;
            }
            let Some(end) = end else {
                write.commit()?;
                return Ok(Some(first));
            };
            last = Some(end.to_vec());
            if !self.committed(write, slice)? {
                return Ok(None);
            }
        }
    }

    /// Ends a slice; false when the copy is to be given up.
    fn committed(&mut self, write: WriteTxn<'_>, bytes: usize) -> Result<bool> {
        write.commit()?;
        self.seen.copied_bytes += bytes as u64;
        Ok((self.progress)(self.seen))
    }
}
