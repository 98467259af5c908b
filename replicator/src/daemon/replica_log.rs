//! The stored log as the replication sessions see it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use quicksilver::environment::Environment;
use quicksilver::log::{self, HashAt};
use quicksilver_format::meta::Identity;
use quicksilver_format::{HistoryId, Index, Position};
use quicksilver_protocol::LogFact;

use crate::net::replication::{ReadFailure, ReplicaLog};
use crate::store::{Live, State, Store};

/// Reads the log in short transactions, and knows what the last commit left.
#[derive(Debug)]
pub(super) struct StoredLog(DurableCell);

/// Where commits are noted.
pub(super) type DurableCell = Arc<Mutex<Live>>;

/// Looks at what is durable now.
pub(super) fn durable(cell: &DurableCell) -> Live {
    lock(cell).clone()
}

/// Notes a commit.
pub(super) fn note_commit(cell: &DurableCell, state: State) {
    lock(cell).state = state;
}

/// Notes that the upstream's history was taken over.
pub(super) fn note_history(cell: &DurableCell, history: HistoryId) {
    lock(cell).identity.history = history;
}

/// Notes that another generation is live, with the same content.
pub(super) fn note_switch(cell: &DurableCell, environment: &Environment) {
    lock(cell).environment = environment.clone();
}

/// Notes that another generation is live, whatever it has.
pub(super) fn note_live(cell: &DurableCell, live: &Live) {
    *lock(cell) = live.clone();
}

fn lock(cell: &DurableCell) -> MutexGuard<'_, Live> {
    cell.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StoredLog {
    /// The log of a store, and the cell in which its commits are to be noted.
    pub(super) fn new(store: &Store) -> (Self, DurableCell) {
        let now = Arc::new(Mutex::new(store.live()));
        (StoredLog(now.clone()), now)
    }
}

fn failure(e: impl std::fmt::Display) -> ReadFailure {
    ReadFailure(e.to_string())
}

impl ReplicaLog for StoredLog {
    fn identity(&self) -> Identity {
        lock(&self.0).identity
    }

    fn end(&self) -> Position {
        lock(&self.0).state.log.last
    }

    fn oldest(&self) -> Index {
        lock(&self.0).state.log.oldest
    }

    fn fact(&self, index: Index) -> Result<LogFact, ReadFailure> {
        let Live { environment, .. } = durable(&self.0);
        let txn = environment.env.read().map_err(failure)?;
        Ok(match log::hash_at(&environment, &txn, index).map_err(failure)? {
            HashAt::Boundary(hash) => LogFact::Boundary(hash),
            HashAt::Inside(hash) => LogFact::Inside(hash),
            HashAt::TooOld(oldest) => LogFact::TooOld { oldest },
            HashAt::Beyond(_) => LogFact::Beyond,
        })
    }

    fn read(&self, after: Index, max_bytes: usize) -> Result<Vec<Bytes>, ReadFailure> {
        let Live { environment, .. } = durable(&self.0);
        let txn = environment.env.read().map_err(failure)?;
        let records = log::read_after(&environment, &txn, after, max_bytes).map_err(failure)?;
        Ok(records.into_iter().map(|record| record.bytes.into()).collect())
    }
}
