//! The step that makes a sealed batch final.
//!
//! This is the seam for a root group: there, "final" will mean that a majority has the batch on
//! disk. A root that stands alone is its own majority, so its durable commit is what makes a
//! batch final.

use quicksilver::environment::Environment;
use quicksilver_format::status::NodeState;
use quicksilver_format::{Batch, ControlRecord, Heartbeat};

use crate::store::{Committed, Live, Retention, State, Store, StoreError, StoreOrder};

/// Why a batch did not become final.
#[derive(Debug, thiserror::Error)]
pub enum FinalizeError {
    /// It is certain that nothing of it happened; the next batch may be tried.
    #[error("{0}")]
    Refused(StoreError),
    /// It is not known whether it is durable; this process must not decide anything any more.
    #[error("{0}")]
    Unknown(StoreError),
}

/// Makes batches final, one at a time and in order.
pub trait Finalize: Send {
    /// The state that the next batch is decided on: everything final so far, applied.
    fn state(&self) -> &State;

    /// Where that state can be read.
    fn environment(&self) -> &Environment;

    /// Makes a batch final and applies it here. It follows [`Finalize::state`].
    fn finalize(&mut self, batch: &Batch) -> Result<Committed, FinalizeError>;

    /// Confirms that [`Finalize::state`] is still the newest: covers answers that change nothing.
    fn confirm(&mut self) -> Result<(), FinalizeError>;

    /// From the next batch on, keeps no more of the log than this.
    fn set_retention(&mut self, retention: Retention);

    /// Carries out what is about this node's files, and no other node's, and about no batch.
    /// `to_switched` hears when another generation is live than before, and whoever gave the order
    /// after it.
    fn obey(
        &mut self,
        order: StoreOrder,
        to_switched: &mut dyn FnMut(&Live),
    ) -> Result<(), FinalizeError>;

    /// Makes a control record final.
    fn finalize_control(&mut self, record: &ControlRecord) -> Result<(), FinalizeError>;
}

/// A root without a group.
#[derive(Debug)]
pub struct Alone {
    store: Store,
}

impl Alone {
    /// Finality is a durable commit to this store.
    pub fn new(store: Store) -> Self {
        store.set_state(NodeState::Root);
        Alone { store }
    }

    /// Whether it is certain that nothing happened.
    fn judge(&self, error: StoreError) -> FinalizeError {
        match error {
            StoreError::Full(_) | StoreError::NotNext { .. } | StoreError::Read(_) => {
                FinalizeError::Refused(error)
            }
            _ => {
                self.store.set_state(NodeState::Failed);
                FinalizeError::Unknown(error)
            }
        }
    }
}

impl Finalize for Alone {
    fn state(&self) -> &State {
        self.store.state()
    }

    fn environment(&self) -> &Environment {
        self.store.environment()
    }

    fn finalize(&mut self, batch: &Batch) -> Result<Committed, FinalizeError> {
        self.store.apply(std::slice::from_ref(batch)).map_err(|e| self.judge(e))
    }

    fn confirm(&mut self) -> Result<(), FinalizeError> {
        Ok(())
    }

    fn set_retention(&mut self, retention: Retention) {
        self.store.set_retention(retention);
    }

    fn obey(
        &mut self,
        order: StoreOrder,
        to_switched: &mut dyn FnMut(&Live),
    ) -> Result<(), FinalizeError> {
        self.store.obey(order, to_switched).map(drop).map_err(|e| self.judge(e))
    }

    fn finalize_control(&mut self, record: &ControlRecord) -> Result<(), FinalizeError> {
        if let Ok(Some(heartbeat)) = Heartbeat::from_record(record) {
            self.store.set_heartbeat(heartbeat.root_clock_us);
        }
        Ok(())
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.store.set_state(NodeState::Stopped);
    }
}
