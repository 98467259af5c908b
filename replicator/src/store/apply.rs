//! One commit: data, chunks, log and bookkeeping in one LMDB transaction.
//!
//! How batches become cells, chunks and log is [`quicksilver::build::apply`], which whoever builds
//! a database uses too; a replicator also collects a slice of its oldest log with every commit
//! ([`super::gc`]).

use quicksilver::build;
use quicksilver::environment::Environment;
use quicksilver_format::{Batch, chunk};
use quicksilver_lmdb::WriteTxn;

pub use quicksilver::build::State;

use super::error::StoreError;
use super::gc::{self, Keep};

/// Writes `batches`, which must follow `state` and each other, into `txn`, and returns the
/// bookkeeping after them.
pub fn apply(
    environment: &Environment,
    txn: &mut WriteTxn<'_>,
    state: State,
    batches: &[Batch],
    keep: Keep,
) -> Result<State, StoreError> {
    let mut state =
        build::apply::apply(environment, txn, state, batches).map_err(StoreError::of_write)?;
    let pieces = |batch: &Batch| chunk::count(batch.record().len(), environment.page_bytes);
    let appended_pieces = batches.iter().map(pieces).sum();
    gc::collect(environment, txn, &mut state.log, keep, appended_pieces)?;
    state.write(environment.meta, txn)?;
    Ok(state)
}
