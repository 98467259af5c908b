//! The stored log as the replication sessions see it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quicksilver::environment::Environment;
use quicksilver::log::{self, HashAt};
use quicksilver_format::meta::Identity;
use quicksilver_format::{HistoryId, Index, Position};
use quicksilver_protocol::LogFact;

use crate::net::replication::{ReadFailure, ReplicaLog};
use crate::store::{State, Store};

/// Reads the log in short transactions, and knows what the last commit left.
#[derive(Debug)]
pub(super) struct StoredLog {
    environment: Environment,
    now: Arc<Mutex<Durable>>,
}

/// What is durable on this node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Durable {
    /// Which database, and which of its pasts.
    pub(super) identity: Identity,
    /// The bookkeeping after the last commit.
    pub(super) state: State,
}

/// Where commits are noted.
pub(super) type DurableCell = Arc<Mutex<Durable>>;

/// Looks at what is durable now.
pub(super) fn durable(cell: &DurableCell) -> Durable {
    *cell.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes a commit.
pub(super) fn note_commit(cell: &DurableCell, state: State) {
    cell.lock().unwrap_or_else(PoisonError::into_inner).state = state;
}

/// Notes that the upstream's history was taken over.
pub(super) fn note_history(cell: &DurableCell, history: HistoryId) {
    cell.lock().unwrap_or_else(PoisonError::into_inner).identity.history = history;
}

impl StoredLog {
    /// The log of a store, and the cell in which its commits are to be noted.
    pub(super) fn new(store: &Store) -> (Self, DurableCell) {
        let now = Durable { identity: store.identity(), state: *store.state() };
        let now = Arc::new(Mutex::new(now));
        (StoredLog { environment: store.environment().clone(), now: now.clone() }, now)
    }

    fn durable(&self) -> Durable {
        durable(&self.now)
    }
}

fn failure(e: impl std::fmt::Display) -> ReadFailure {
    ReadFailure(e.to_string())
}

impl ReplicaLog for StoredLog {
    fn identity(&self) -> Identity {
        self.durable().identity
    }

    fn end(&self) -> Position {
        self.durable().state.log.last
    }

    fn oldest(&self) -> Index {
        self.durable().state.log.oldest
    }

    fn fact(&self, index: Index) -> Result<LogFact, ReadFailure> {
        let txn = self.environment.env.read().map_err(failure)?;
        Ok(match log::hash_at(&self.environment, &txn, index).map_err(failure)? {
            HashAt::Boundary(hash) => LogFact::Boundary(hash),
            HashAt::Inside(hash) => LogFact::Inside(hash),
            HashAt::TooOld(oldest) => LogFact::TooOld { oldest },
            HashAt::Beyond(_) => LogFact::Beyond,
        })
    }

    fn read(&self, after: Index, max_bytes: usize) -> Result<Vec<Bytes>, ReadFailure> {
        let txn = self.environment.env.read().map_err(failure)?;
        let records =
            log::read_after(&self.environment, &txn, after, max_bytes).map_err(failure)?;
        Ok(records.into_iter().map(|record| record.bytes.into()).collect())
    }
}
