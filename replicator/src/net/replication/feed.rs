//! The recent part of the stream, in memory: one adds to it, everyone else reads.
//!
//! Invariants:
//! * batches are consecutive: what is pushed continues what was pushed before it;
//! * cut-through: an item can be read as soon as it is pushed, before it is committed here; but
//!   no more than [`FeedLimits::pending_batches`] and [`FeedLimits::pending_bytes`] are ever
//!   waiting for their commit: [`Feed::has_room`] says when the next one may be pushed;
//! * what is not committed is never evicted; what is committed is on disk, so a reader that comes
//!   too late reads it from there;
//! * after [`Feed::reset`] nothing of before it is read or handed on: its epoch has changed.
//!
//! Control records are items between batches. One that follows nothing uncommitted counts as
//! committed at once.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use quicksilver_format::{Batch, BatchLimits, ControlRecord, Heartbeat, Index, Position};
use quicksilver_protocol::{BatchFrame, LogFact};
use tokio::sync::watch;

/// Bounds of a [`Feed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedLimits {
    /// Batches and control records that are kept.
    pub items: usize,
    /// Bytes that are kept.
    pub bytes: usize,
    /// Batches that may wait for their commit.
    pub pending_batches: usize,
    /// Bytes that may wait for their commit, those of the decompressed batches that the writer
    /// holds included; one batch may exceed it, whatever its size.
    pub pending_bytes: usize,
}

impl Default for FeedLimits {
    fn default() -> Self {
        // Ten minutes of batches, one in each window, and as many heartbeats.
        FeedLimits { items: 4_096, bytes: 256 << 20, pending_batches: 64, pending_bytes: 256 << 20 }
    }
}

/// Which life of the feed: it changes with every reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(u64);

/// One item of the stream.
#[derive(Debug, Clone)]
pub enum Item {
    /// A batch, ready to be sent.
    Batch(BatchFrame),
    /// A control record.
    Control(ControlRecord),
}

/// A reader's place: the next item it will read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    epoch: Epoch,
    sequence: u64,
}

/// What a reader finds at its place.
#[derive(Debug, Clone)]
pub enum Read {
    /// The item there, and the place after it.
    Item(Item, Cursor),
    /// Nothing yet.
    Empty,
    /// It has been evicted: go on from the log.
    Evicted,
    /// The feed was reset: what was read last may not be in the log.
    Reset,
}

/// Where a reader at some position goes on.
#[derive(Debug, Clone)]
pub struct Joined {
    /// Its place.
    pub cursor: Cursor,
    /// The newest heartbeat, when it lies before that place and counts at that position.
    pub heartbeat: Option<Heartbeat>,
}

/// A push that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The feed was reset meanwhile.
    #[error("the feed was reset")]
    Reset,
    /// The batch does not continue the feed.
    #[error("batch {first} does not continue the feed, which ends at {end}")]
    NotNext {
        /// Its first index.
        first: Index,
        /// Where the feed ends.
        end: Position,
    },
}

/// Where the feed stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedState {
    /// Its epoch.
    pub epoch: Epoch,
    /// The last batch that was pushed.
    pub end: Position,
    /// The last batch that is on disk here.
    pub committed: Position,
    /// Items kept.
    pub items: usize,
    /// Bytes kept.
    pub bytes: usize,
    /// Batches waiting for their commit.
    pub pending_batches: usize,
    /// The newest heartbeat that was pushed; it counts here once `committed` has reached it.
    pub heartbeat: Option<Heartbeat>,
}

#[derive(Debug)]
struct Ring {
    epoch: Epoch,
    items: VecDeque<Item>,
    /// Sequence number of the first item.
    first: u64,
    /// The position before the first item.
    start: Position,
    end: Position,
    committed: Position,
    bytes: usize,
    /// Items from the first uncommitted batch on.
    pending_items: usize,
    pending_batches: usize,
    pending_bytes: usize,
    heartbeat: Option<Heartbeat>,
}

/// See the module.
#[derive(Debug)]
pub struct Feed {
    limits: FeedLimits,
    ring: Mutex<Ring>,
    changes: watch::Sender<u64>,
}

fn bytes_of(item: &Item) -> usize {
    match item {
        Item::Batch(frame) => frame.wire_bytes(),
        Item::Control(record) => record.payload.len() + 32,
    }
}

/// What an item costs until it is committed: the writer holds a batch's payload, decompressed,
/// beside the record that is kept here.
fn pending_bytes_of(item: &Item) -> usize {
    let payload = match item {
        Item::Batch(frame) => usize::try_from(frame.header().payload_bytes).unwrap_or(usize::MAX),
        Item::Control(_) => 0,
    };
    bytes_of(item).saturating_add(payload)
}

impl Feed {
    /// An empty feed of a node whose log ends at `end`.
    pub fn new(limits: FeedLimits, end: Position) -> Self {
        let ring = Ring {
            epoch: Epoch(0),
            items: VecDeque::new(),
            first: 0,
            start: end,
            end,
            committed: end,
            bytes: 0,
            pending_items: 0,
            pending_batches: 0,
            pending_bytes: 0,
            heartbeat: None,
        };
        Feed { limits, ring: Mutex::new(ring), changes: watch::Sender::new(0) }
    }

    /// Where it stands.
    pub fn state(&self) -> FeedState {
        let ring = self.ring();
        FeedState {
            epoch: ring.epoch,
            end: ring.end,
            committed: ring.committed,
            items: ring.items.len(),
            bytes: ring.bytes,
            pending_batches: ring.pending_batches,
            heartbeat: ring.heartbeat,
        }
    }

    /// Wakes up at every push, commit and reset.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether another item may be pushed.
    pub fn has_room(&self) -> bool {
        let ring = self.ring();
        ring.pending_batches < self.limits.pending_batches
            && ring.pending_bytes < self.limits.pending_bytes
            && ring.pending_items < self.limits.items
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
        let frame = BatchFrame::from_batch(batch);
        let mut ring = self.ring();
        if ring.epoch != epoch {
            return Err(PushError::Reset);
        }
        if !batch.continues(&ring.end) {
            return Err(PushError::NotNext { first: batch.first(), end: ring.end });
        }
        ring.end = batch.after();
        ring.pending_items += 1;
        ring.pending_batches += 1;
        let item = Item::Batch(frame);
        ring.pending_bytes += pending_bytes_of(&item);
        ring.push(item);
        ring.evict(&self.limits);
        hand_on();
        drop(ring);
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
        let mut ring = self.ring();
        if ring.epoch != epoch {
            return Err(PushError::Reset);
        }
        // A heartbeat that does not decode is forwarded like any record that is not understood.
        if let Ok(Some(heartbeat)) = Heartbeat::from_record(&record) {
            ring.heartbeat = Some(heartbeat);
        }
        let item = Item::Control(record);
        if ring.pending_items > 0 {
            ring.pending_items += 1;
            ring.pending_bytes += pending_bytes_of(&item);
        }
        ring.push(item);
        ring.evict(&self.limits);
        hand_on();
        drop(ring);
        self.wake();
        Ok(())
    }

    /// This node has everything up to `position` on disk. Also wakes those who look at the store's
    /// identity: call it after a history was adopted, too.
    pub fn committed(&self, position: Position) {
        let mut ring = self.ring();
        if position.index > ring.committed.index && position.index <= ring.end.index {
            ring.committed = position;
            ring.settle();
            ring.evict(&self.limits);
        }
        drop(ring);
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
        let mut ring = self.ring();
        ring.epoch = Epoch(ring.epoch.0 + 1);
        ring.first += ring.items.len() as u64;
        ring.items.clear();
        ring.start = position;
        ring.end = position;
        ring.committed = position;
        ring.bytes = 0;
        ring.pending_items = 0;
        ring.pending_batches = 0;
        ring.pending_bytes = 0;
        ring.heartbeat = ring.heartbeat.filter(|heartbeat| heartbeat.after <= position.index);
        forget();
        drop(ring);
        self.wake();
    }

    /// The place of a reader that has everything up to `position`; `None` when that is not the end
    /// of a batch here.
    pub fn join(&self, position: &Position) -> Option<Joined> {
        let ring = self.ring();
        let offset = ring.offset_after(position)?;
        let later_heartbeat = ring.items.range(offset..).any(|item| {
            matches!(item, Item::Control(r) if matches!(Heartbeat::from_record(r), Ok(Some(_))))
        });
        let counts = |heartbeat: &Heartbeat| !later_heartbeat && heartbeat.after <= position.index;
        Some(Joined {
            cursor: Cursor { epoch: ring.epoch, sequence: ring.first + offset as u64 },
            heartbeat: ring.heartbeat.filter(counts),
        })
    }

    /// What is at a reader's place.
    pub fn read(&self, cursor: Cursor) -> Read {
        let ring = self.ring();
        if ring.epoch != cursor.epoch {
            return Read::Reset;
        }
        let Some(offset) = cursor.sequence.checked_sub(ring.first) else { return Read::Evicted };
        match usize::try_from(offset).ok().and_then(|offset| ring.items.get(offset)) {
            None => Read::Empty,
            Some(item) => {
                let next = Cursor { sequence: cursor.sequence + 1, ..cursor };
                Read::Item(item.clone(), next)
            }
        }
    }

    /// What the feed knows about an index that may not be in the log yet; `None`: ask the log.
    pub fn fact(&self, index: Index) -> Option<LogFact> {
        let frame = {
            let ring = self.ring();
            if index > ring.end.index {
                return Some(LogFact::Beyond);
            }
            if index == ring.end.index {
                return Some(LogFact::Boundary(ring.end.hash));
            }
            if index <= ring.committed.index {
                return None;
            }
            ring.batches().find(|frame| frame.header().last() >= index)?.clone()
        };
        if frame.header().last() == index {
            return Some(LogFact::Boundary(frame.header().hash_after));
        }
        // Rare: only a follower that diverged stands inside a batch.
        let batch = Batch::decode(frame.record().clone(), &BatchLimits::HARD).ok()?;
        batch.hash_at(index).map(LogFact::Inside)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Nothing in a critical section here panics half-way through a change.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }
}

impl Ring {
    fn push(&mut self, item: Item) {
        self.bytes += bytes_of(&item);
        self.items.push_back(item);
    }

    fn batches(&self) -> impl DoubleEndedIterator<Item = &BatchFrame> {
        self.items.iter().filter_map(|item| match item {
            Item::Batch(frame) => Some(frame),
            Item::Control(_) => None,
        })
    }

    /// Recounts what is pending after a commit.
    fn settle(&mut self) {
        let committed_items = self.items.len() - self.pending_items;
        let mut settled = 0;
        for item in self.items.range(committed_items..) {
            match item {
                Item::Batch(frame) if frame.header().last() > self.committed.index => break,
                Item::Batch(_) => self.pending_batches -= 1,
                Item::Control(_) => {}
            }
            settled += 1;
            self.pending_bytes -= pending_bytes_of(item);
        }
        self.pending_items -= settled;
    }

    fn evict(&mut self, limits: &FeedLimits) {
        while (self.items.len() > limits.items || self.bytes > limits.bytes)
            && self.items.len() > self.pending_items
        {
            let Some(item) = self.items.pop_front() else { return };
            self.bytes -= bytes_of(&item);
            self.first += 1;
            if let Item::Batch(frame) = item {
                self.start = frame.header().after();
            }
        }
    }

    /// How many items lie at or before `position`, when it is the end of a batch here.
    fn offset_after(&self, position: &Position) -> Option<usize> {
        if *position == self.start {
            return Some(0);
        }
        if position.index <= self.start.index || position.index > self.end.index {
            return None;
        }
        let ends_there = |item: &Item| match item {
            Item::Batch(frame) => frame.header().after() == *position,
            Item::Control(_) => false,
        };
        self.items.iter().rposition(ends_there).map(|offset| offset + 1)
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
