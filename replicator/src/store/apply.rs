//! One commit: data, chunks, log and bookkeeping in one LMDB transaction.
//!
//! How batches become cells, chunks and log is [`quicksilver::build::apply`], which whoever builds
//! a database uses too; a replicator also collects a slice of its oldest log with every commit
//! ([`super::gc`]).

use quicksilver::build::apply::{Written, write};
use quicksilver::environment::Environment;
use quicksilver_format::{Batch, chunk};

pub use quicksilver::build::State;

use super::error::StoreError;
use super::gc::{self, Keep};

/// Writes `batches`, which must follow `state` and each other, or the first of them, and the
/// bookkeeping after them.
pub fn apply<'e>(
    environment: &'e Environment,
    state: State,
    batches: &[Batch],
    keep: Keep,
) -> Result<Written<'e>, StoreError> {
    let mut written = write(environment, state, batches).map_err(StoreError::of_write)?;
    let pieces = |batch: &Batch| chunk::count(batch.record().len(), environment.page_bytes);
    let appended_pieces = batches[..written.batches].iter().map(pieces).sum();
    gc::collect(environment, &mut written.txn, &mut written.state.log, keep, appended_pieces)?;
    written.state.write(environment.meta, &mut written.txn)?;
    Ok(written)
}
