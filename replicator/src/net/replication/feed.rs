//! The recent part of the stream, shared: [`Recent`] behind a lock, and whoever waits for a change
//! woken up.

use std::sync::{Mutex, MutexGuard, PoisonError};

use quicksilver_format::{Batch, ControlRecord, Index, Position};
use quicksilver_protocol::LogFact;
use quicksilver_protocol::recent::{
    Cursor, Epoch, FeedLimits, FeedState, Joined, PushError, Read, Recent, RecentFact, inside,
};
use tokio::sync::watch;

/// See the module.
#[derive(Debug)]
pub struct Feed {
    recent: Mutex<Recent>,
    changes: watch::Sender<u64>,
}

impl Feed {
    /// An empty feed of a node whose log ends at `end`.
    pub fn new(limits: FeedLimits, end: Position) -> Self {
        Feed { recent: Mutex::new(Recent::new(limits, end)), changes: watch::Sender::new(0) }
    }

    /// Where it stands.
    pub fn state(&self) -> FeedState {
        self.recent().state()
    }

    /// Wakes up at every push, commit and reset.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether another item may be pushed.
    pub fn has_room(&self) -> bool {
        self.recent().has_room()
    }

    /// Waits until there is room, or the feed was reset.
    pub async fn wait_room(&self, epoch: Epoch) {
        let mut changes = self.changes();
        while !self.has_room() && self.state().epoch == epoch {
            // The sender lives as long as `self`.
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Adds the next batch. `hand_on` runs before anyone can reset the feed: it hands the batch to
    /// whoever commits it, and must not block.
    pub fn push_batch(
        &self,
        epoch: Epoch,
        batch: &Batch,
        hand_on: impl FnOnce(),
    ) -> Result<(), PushError> {
        let mut recent = self.recent();
        recent.push_batch(epoch, batch)?;
        hand_on();
        drop(recent);
        self.wake();
        Ok(())
    }

    /// Adds a control record after the batches so far; `hand_on` as in [`Feed::push_batch`].
    pub fn push_control(
        &self,
        epoch: Epoch,
        record: ControlRecord,
        hand_on: impl FnOnce(),
    ) -> Result<(), PushError> {
        let mut recent = self.recent();
        recent.push_control(epoch, record)?;
        hand_on();
        drop(recent);
        self.wake();
        Ok(())
    }

    /// This node has everything up to `position` on disk. Also wakes those who look at the store's
    /// identity: call it after a history was adopted, too.
    pub fn committed(&self, position: Position) {
        self.recent().committed(position);
        self.wake();
    }

    /// Starts anew at `position`, which is on disk: after a failed commit, or when the database
    /// was replaced. Sessions that read or pushed before it end.
    pub fn reset(&self, position: Position) {
        self.reset_with(position, || ());
    }

    /// Like [`Feed::reset`]; `forget` runs when nothing of before can be pushed any more and
    /// nothing of after it yet: there the writer drops what it was handed. It must not block.
    pub fn reset_with(&self, position: Position, forget: impl FnOnce()) {
        let mut recent = self.recent();
        recent.reset(position);
        forget();
        drop(recent);
        self.wake();
    }

    /// The place of a reader that has everything up to `position`; `None` when that is not the end
    /// of a batch here.
    pub fn join(&self, position: &Position) -> Option<Joined> {
        self.recent().join(position)
    }

    /// What is at a reader's place.
    pub fn read(&self, cursor: Cursor) -> Read {
        self.recent().read(cursor)
    }

    /// What the feed knows about an index that may not be in the log yet; `None`: ask the log.
    pub fn fact(&self, index: Index) -> Option<LogFact> {
        let fact = self.recent().fact(index);
        match fact {
            RecentFact::Known(fact) => Some(fact),
            RecentFact::Inside(frame) => inside(&frame, index),
            RecentFact::AskLog => None,
        }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        // Nothing in a critical section here panics half-way through a change.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
