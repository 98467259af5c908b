//! A generation made again out of another one, which may go on being written meanwhile.
//!
//! The pages of the new one are full, in key order, and none is free: it is the compact form of the
//! old one, with the same write indices, log and digest.
//!
//! The data is walked ([`walk`](super::walk)) up to the index W at which the walk starts, then the log
//! up to W is copied, and what came after W is applied as ordinary log. In the end index, hash,
//! digest and counts must be the old one's, or the copy is thrown away.
//!
//! Invariant: nothing here changes the old generation.

use std::path::{Path, PathBuf};

use quicksilver_format::Position;
use quicksilver_format::layout::Generation;
use quicksilver_format::meta::{Applied, Identity};
use quicksilver_lmdb::WriteTxn;

use super::apply::Written;
use super::walk::{Part, Sink, Walk};
use super::{BuildError, Builder, Built, Options, Result, State, Unfinished, apply, directory};
use crate::environment::Environment;
use crate::log;

pub use super::walk::{Progress, SLICE_BYTES};

/// Bytes of log that one commit catches up with.
const LOG_BYTES_AT_ONCE: usize = 16 << 20;

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
    let mut walk = Walk::new(source, &start, slice_bytes, progress)?;
    let mut copy = Copy { target: &target, write: None };
    let Some(data) = walk.walk(Part::Data, &mut copy)? else { return Ok(None) };
    let Some(_) = walk.walk(Part::Chunks, &mut copy)? else { return Ok(None) };
    let Some(pieces) = walk.walk(Part::Log, &mut copy)? else { return Ok(None) };
    drop(copy);
    let mut log = start.log;
    log.last = position;
    log.oldest = pieces.first.unwrap_or(position.index.next());
    let applied = Applied { position, digest: data.digest, keys: data.keys, bytes: data.bytes };
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
            let (path, found) = (self.unfinished.path.clone(), first.first());
            return Err(BuildError::Collected { path, expected: after.next(), found });
        }
        let batches = &batches[..apply::one_commit(&self.target, &batches)];
        let Written { mut txn, state, .. } = apply::write(&self.target, self.state, batches)?;
        state.write(self.target.meta, &mut txn)?;
        txn.commit()?;
        self.target.env.sync()?;
        self.state = state;
        Ok(true)
    }

    /// Makes it durable and gives it its name, once it is exactly what the other one is; it is for
    /// [`switch_to`](super::switch_to) then. Nobody writes to the other one meanwhile.
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
        self.take_over_identity()?;
        let Rebuilt { dir, generation, target, unfinished, state, .. } = self;
        directory::set_modes(&unfinished.path)?;
        drop(target);
        unfinished.finish(&dir.join(generation.to_string()))?;
        directory::sync(&dir)?;
        Ok(Built::of(generation, &state))
    }

    /// The history may have been learnt meanwhile, and the format raised, which is for the next copy.
    fn take_over_identity(&self) -> Result<()> {
        let txn = self.source.env.read()?;
        let (identity, format) = (self.source.identity(&txn)?, self.source.format_record(&txn)?);
        drop(txn);
        if format != self.target.format {
            return Err(self.differs(format!("{format:?}")));
        }
        if self.target.identity(&self.target.env.read()?)? == identity {
            return Ok(());
        }
        let mut txn = self.target.env.write()?;
        txn.put(self.target.meta, Identity::KEY, &identity.encode())?;
        Ok(txn.commit()?)
    }

    fn differs(&self, original: String) -> BuildError {
        let copy = format!("{:?}", self.state.applied);
        BuildError::Differs { path: self.unfinished.path.clone(), original, copy }
    }
}

/// Puts what is walked into the new generation: one write transaction for each slice.
struct Copy<'a> {
    target: &'a Environment,
    write: Option<WriteTxn<'a>>,
}

impl Sink for Copy<'_> {
    fn take(&mut self, part: Part, key: &[u8], value: &[u8]) -> Result<()> {
        let write = match &mut self.write {
            Some(write) => write,
            none => none.insert(self.target.env.write()?),
        };
        Ok(write.put_append(part.bucket(self.target), key, value)?)
    }

    fn end_slice(&mut self) -> Result<()> {
        if let Some(write) = self.write.take() {
            write.commit()?;
            // Evenly, so that little is left for the moment at which the writer waits for it.
            self.target.env.sync()?;
        }
        Ok(())
    }
}
