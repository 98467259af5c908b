//! Making a generation of a snapshot.

use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use bytes::Bytes;
use quicksilver_format::layout::{BUCKET_DATA, BUCKET_LOG, Generation};
use quicksilver_format::manifest::{Pairs, Section};
use quicksilver_format::meta::{Applied, LogState};
use quicksilver_format::{Batch, Cell, FormatError, Index, StateDigest, chunk};

use super::super::walk::Progress;
use super::super::{BuildError, Builder, Built, Options, Result, State, apply, directory};
use super::{Arrival, Blocks, SnapshotFile};
use crate::environment::Environment;
use crate::error::Error;
use crate::log::Record;

/// Bytes that one commit of the new generation has: so few that its pages are still in the processor's
/// cache when they are written, and are used again by the next one.
const COMMIT_BYTES: usize = 4 << 20;
/// After so many bytes what was committed is synced, beside the next commits.
const SYNC_BYTES: usize = 64 << 20;

/// Makes `generation` of the database in `dir` out of a snapshot, for
/// [`switch_to`](super::super::switch_to). The caller is the writer of that database. `progress` is
/// called after each commit, and while a block is waited for; when it says false, or a block comes no
/// more, the generation is given up, and the result is `None`.
///
/// # Errors
/// [`Error::WrongDatabase`] when it is of another one than `options` say, [`BuildError::Damaged`], a
/// format that this release cannot write, or what the system says. Nothing is left then.
pub fn restore(
    blocks: &dyn Blocks,
    dir: &Path,
    generation: Generation,
    options: &Options,
    progress: &mut dyn FnMut(Progress) -> bool,
) -> Result<Option<Built>> {
    let snapshot = blocks.file();
    let manifest = snapshot.manifest();
    let (expected, found) = (options.db_id, manifest.identity.db_id);
    if expected != found {
        let path = snapshot.path().to_owned();
        return Err(Error::WrongDatabase { path, expected, found }.into());
    }
    let begun =
        Builder::beside(dir, generation, manifest.start, manifest.database_format, options)?;
    // In this order: the environment is closed before its directory goes.
    let Builder { unfinished, environment: target, .. } = begun;
    if target.page_bytes != manifest.page_bytes as usize {
        let (here, there) = (target.page_bytes, manifest.page_bytes);
        let problem = format!("made where pages have {there} bytes, here they have {here}");
        return Err(snapshot.damaged(problem));
    }
    let empty = Applied { position: manifest.start, digest: StateDigest::EMPTY, keys: 0, bytes: 0 };
    let log = LogState {
        last: manifest.start,
        oldest: manifest.start.index.next(),
        sealed_at_us: if manifest.sections[2] == 0 { manifest.sealed_at_us } else { 0 },
    };
    let total = Progress {
        total_bytes: manifest.blocks_bytes(),
        total_keys: manifest.end.keys,
        ..Progress::default()
    };
    let mut load = Load {
        blocks,
        snapshot,
        target: &target,
        progress,
        seen: total,
        state: State { log, applied: empty },
    };
    // The disk writes the last commits while the next ones are made.
    let loaded = thread::scope(|scope| {
        let (commits, committed) = sync_channel::<()>(1);
        let env = &target.env;
        let syncing = scope.spawn(move || committed.iter().try_for_each(|()| env.sync()));
        let loaded = load.run(&commits);
        drop(commits);
        let synced = match syncing.join() {
            Ok(synced) => synced,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let loaded = loaded?;
        synced?;
        Ok::<_, BuildError>(loaded)
    })?;
    if !loaded {
        return Ok(None);
    }
    let state = load.state;
    if state.applied != manifest.end || state.log.last != manifest.end.position {
        let problem =
            format!("it comes to {:?}, its manifest says {:?}", state.applied, manifest.end);
        return Err(snapshot.damaged(problem));
    }
    let mut txn = target.env.write()?;
    state.write(target.meta, &mut txn)?;
    txn.commit()?;
    directory::set_modes(&unfinished.path)?;
    drop(target);
    unfinished.finish(&dir.join(generation.to_string()))?;
    directory::sync(dir)?;
    Ok(Some(Built::of(generation, &state)))
}

/// A block, from memory or from the file.
#[derive(Default)]
struct Block {
    held: Option<Bytes>,
    read: Vec<u8>,
}

impl Block {
    fn bytes(&self) -> &[u8] {
        self.held.as_deref().unwrap_or(&self.read)
    }
}

struct Load<'a> {
    blocks: &'a dyn Blocks,
    snapshot: &'a SnapshotFile,
    target: &'a Environment,
    progress: &'a mut dyn FnMut(Progress) -> bool,
    seen: Progress,
    state: State,
}

impl Load<'_> {
    /// False when it is to be given up.
    fn run(&mut self, commits: &SyncSender<()>) -> Result<bool> {
        let sections: Vec<Section> =
            self.snapshot.manifest.blocks().map(|(section, _)| section).collect();
        let pairs = sections.iter().filter(|section| **section != Section::Log).count();
        Ok(self.pairs(&sections[..pairs], commits)? && self.log(pairs..sections.len())?)
    }

    /// Cells and chunks, as they are.
    fn pairs(&mut self, sections: &[Section], commits: &SyncSender<()>) -> Result<bool> {
        let target = self.target;
        let mut block = Block::default();
        let mut write = target.env.write()?;
        let (mut uncommitted, mut unsynced) = (0, 0);
        for (n, section) in sections.iter().enumerate() {
            if !self.take(n, &mut block)? {
                return Ok(false);
            }
            let mut pairs = Pairs::new(block.bytes());
            while let Some((key, value)) = pairs.take().map_err(|e| self.nonsense(n, e))? {
                let bucket = match section {
                    Section::Data => {
                        self.count(key, value)?;
                        target.data
                    }
                    _ => target.chunks,
                };
                write.put_append(bucket, key, value)?;
            }
            uncommitted += block.bytes().len();
            if uncommitted >= COMMIT_BYTES {
                write.commit()?;
                unsynced += uncommitted;
                if unsynced >= SYNC_BYTES {
                    unsynced = 0;
                    // A sync that failed has ended the other thread, and is told in the end.
                    let _ = commits.send(());
                }
                if !self.goes_on(std::mem::take(&mut uncommitted)) {
                    return Ok(false);
                }
                write = target.env.write()?;
            }
        }
        write.commit()?;
        Ok(self.goes_on(uncommitted))
    }

    /// What came after the snapshot was begun.
    fn log(&mut self, blocks: Range<usize>) -> Result<bool> {
        let mut block = Block::default();
        let (mut records, mut batches) = (Records::default(), Vec::new());
        for n in blocks {
            if !self.take(n, &mut block)? {
                return Ok(false);
            }
            let mut pieces = Pairs::new(block.bytes());
            while let Some((key, piece)) = pieces.take().map_err(|e| self.nonsense(n, e))? {
                batches.extend(records.take(key, piece)?.map(Record::decode).transpose()?);
            }
            self.apply(&std::mem::take(&mut batches))?;
            if !self.goes_on(block.bytes().len()) {
                return Ok(false);
            }
        }
        batches.extend(records.end().map(Record::decode).transpose()?);
        self.apply(&batches)?;
        Ok(true)
    }

    fn apply(&mut self, mut batches: &[Batch]) -> Result<()> {
        while !batches.is_empty() {
            let now = &batches[..apply::one_commit(self.target, batches)];
            let mut end = self.state.log.last;
            for batch in now {
                if !batch.continues(&end) {
                    let problem = format!("a batch follows {}, expected {end}", batch.before());
                    return Err(self.snapshot.damaged(problem));
                }
                end = batch.after();
            }
            let written = apply::write(self.target, self.state, now)?;
            written.txn.commit()?;
            self.state = written.state;
            batches = &batches[written.batches..];
        }
        Ok(())
    }

    /// Takes a block as soon as it is here. False when it is to be given up.
    fn take(&mut self, n: usize, block: &mut Block) -> Result<bool> {
        loop {
            match self.blocks.arrival(n) {
                Arrival::Here => {
                    block.held = self.blocks.held(n);
                    if block.held.is_none() {
                        self.snapshot.block(n, &mut block.read)?;
                    }
                    return Ok(true);
                }
                Arrival::Late if self.goes_on(0) => {}
                Arrival::Late | Arrival::Never => return Ok(false),
            }
        }
    }

    fn goes_on(&mut self, bytes: usize) -> bool {
        self.seen.copied_bytes += bytes as u64;
        (self.progress)(self.seen)
    }

    fn nonsense(&self, n: usize, error: FormatError) -> BuildError {
        self.snapshot.damaged(format!("block {n}: {error}"))
    }

    fn count(&mut self, key: &[u8], stored: &[u8]) -> Result<()> {
        let cell = Cell::decode(stored).map_err(|e| Error::corrupt(BUCKET_DATA, key, e))?;
        let applied = &mut self.state.applied;
        applied.digest.add(cell.digest_term(key));
        applied.keys += 1;
        applied.bytes += key.len() as u64 + u64::from(cell.value_bytes());
        self.seen.keys += 1;
        Ok(())
    }
}

/// Puts batch records together again from their pieces.
#[derive(Default)]
pub(super) struct Records(Option<(Record, u32)>);

impl Records {
    /// Takes a piece; gives back the record that ended before it.
    pub(super) fn take(&mut self, key: &[u8], piece: &[u8]) -> Result<Option<Record>> {
        let corrupt = |problem: String| Error::corrupt(BUCKET_LOG, key, problem);
        let (first, number) = chunk::decode_key(key).map_err(|e| corrupt(e.to_string()))?;
        match &mut self.0 {
            Some((record, next)) if record.first == first && *next == number => {
                record.bytes.extend_from_slice(piece);
                *next += 1;
                Ok(None)
            }
            _ if number == 0 && first > Index::ZERO => {
                let record = Record { first, bytes: piece.to_vec() };
                Ok(self.0.replace((record, 1)).map(|(record, _)| record))
            }
            _ => Err(corrupt("not the next piece".to_owned()).into()),
        }
    }

    /// The last record.
    pub(super) fn end(&mut self) -> Option<Record> {
        self.0.take().map(|(record, _)| record)
    }
}
