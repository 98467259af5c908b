//! What follows from a commit: the feed, the figures, and what `/status` says went wrong.

use std::sync::Arc;

use quicksilver::environment::Environment;
use quicksilver_format::{Batch, ControlRecord, Heartbeat, HistoryId, Position};

use tokio::sync::watch;

use super::node::LastError;
use super::replica_log::{DurableCell, note_commit, note_history, note_live, note_switch};
use crate::metrics;
use crate::net::replication::Feed;
use crate::root::finalize::FinalizeError;
use crate::root::sequencer::Outlet;
use crate::store::writer::Observer;
use crate::store::{Committed, Live, StoreError};

/// What both kinds of writer's thread do after a commit, and when there is none.
pub(super) struct Aftermath {
    /// From which downstreams are served.
    pub(super) feed: Arc<Feed>,
    /// What is durable, for the sessions.
    pub(super) durable: DurableCell,
    /// For `/status`.
    pub(super) last_error: LastError,
    /// Where it is said that this node's files are damaged; `None` where nothing follows from it.
    pub(super) rebuild: Option<watch::Sender<bool>>,
    /// Ends the process.
    pub(super) fail: Box<dyn Fn() + Send>,
}

impl Aftermath {
    fn committed(&self, committed: &Committed) {
        note_commit(&self.durable, committed.state);
        self.feed.committed(committed.state.log.last);
        metrics::committed(committed);
    }

    fn no_space(&self, error: &dyn std::fmt::Display, then: &str) {
        metrics::commit_failed();
        self.last_error.set(error);
        tracing::error!(%error, "free space on the disk, or delete keys; {then}");
    }

    fn damaged(&self, error: &dyn std::fmt::Display) {
        metrics::commit_failed();
        self.last_error.set(error);
        tracing::error!(
            %error,
            "what is stored is damaged: nothing more is applied, what verifies is served. \
             `qsctl verify` names the damage; a relay with [bootstrap] rebuild_damaged rebuilds \
             itself, otherwise move the data directory away and start anew"
        );
        if let Some(rebuild) = &self.rebuild {
            rebuild.send_replace(true);
        }
    }

    fn failed(&self, error: &dyn std::fmt::Display) {
        metrics::commit_failed();
        self.last_error.set(error);
        tracing::error!(%error, "the storage failed; the process ends to open it anew");
        (self.fail)();
    }
}

/// After the root's sequencer.
pub(super) struct RootOutlet(pub(super) Aftermath);

impl Outlet for RootOutlet {
    fn batch(&mut self, batch: Batch, committed: &Committed) {
        metrics::batch(&batch);
        let feed = &self.0.feed;
        // Nobody resets a root's feed, and only this thread pushes.
        if let Err(e) = feed.push_batch(feed.state().epoch, &batch, || {}) {
            tracing::error!(error = %e, "the feed begins anew");
            feed.reset(committed.state.log.last);
        }
        self.0.committed(committed);
    }

    fn control(&mut self, record: ControlRecord) {
        let feed = &self.0.feed;
        if let Err(e) = feed.push_control(feed.state().epoch, record, || {}) {
            tracing::warn!(error = %e, "a control record was not passed on");
        }
    }

    fn switched(&mut self, live: &Environment) {
        note_switch(&self.0.durable, live);
    }

    fn refused(&mut self, error: &FinalizeError) {
        match error {
            FinalizeError::Refused(StoreError::Full(_)) => {
                self.0.no_space(error, "its writers were told that nothing was stored");
            }
            _ => self.0.damaged(error),
        }
    }

    fn failed(&mut self, error: &FinalizeError) {
        self.0.failed(error);
    }
}

/// After a relay's writer.
pub(super) struct ReplicaOutlet(pub(super) Aftermath);

impl Observer for ReplicaOutlet {
    fn committed(&mut self, committed: &Committed) {
        self.0.committed(committed);
    }

    fn heartbeat(&mut self, _: Heartbeat) {}

    fn waiting_for_space(&mut self, error: &StoreError) {
        self.0.no_space(error, "the commit is tried again");
    }

    fn switched(&mut self, live: &Live) {
        let end = live.state.log.last;
        note_live(&self.0.durable, live);
        // After a snapshot, whoever follows begins anew.
        if self.0.feed.state().end.index < end.index {
            self.0.feed.reset(end);
        }
    }

    fn damaged(&mut self, error: &StoreError) {
        self.0.damaged(error);
    }

    fn out_of_step(&mut self, error: &StoreError, end: Position, forget: &mut dyn FnMut()) {
        metrics::commit_failed();
        self.0.last_error.set(error);
        tracing::error!(%error, "following begins again from what is stored");
        self.0.feed.reset_with(end, forget);
    }

    fn healed(&mut self, end: Position, forget: &mut dyn FnMut()) {
        tracing::info!(index = %end.index, "the files are whole again: following begins from them");
        self.0.feed.reset_with(end, forget);
    }

    fn history_adopted(&mut self, history: HistoryId, end: Position) {
        note_history(&self.0.durable, history);
        self.0.feed.committed(end);
    }

    fn failed(&mut self, error: &StoreError) {
        self.0.failed(error);
    }
}
