//! The recent part of a node's stream, in memory: one adds to it, everyone else reads.
//!
//! Invariants:
//! * batches are consecutive: what is pushed continues what was pushed before it;
//! * cut-through: an item can be read as soon as it is pushed, before it is committed here; but
//!   no more than [`FeedLimits::pending_batches`] and [`FeedLimits::pending_bytes`] are ever
//!   waiting for their commit: [`Recent::has_room`] says when the next one may be pushed;
//! * what is not committed is never evicted; what is committed is on disk, so a reader that comes
//!   too late reads it from there;
//! * after [`Recent::reset`] nothing of before it is read or handed on: its epoch has changed.
//!
//! Control records are items between batches. One that follows nothing uncommitted counts as
//! committed at once.

use std::collections::VecDeque;

use quicksilver_format::{Batch, BatchLimits, ControlRecord, Heartbeat, Index, Position};

use crate::source::{BatchFrame, LogFact};

/// Bounds of a [`Recent`].
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
        FeedLimits {
            // Ten minutes of batches, one in each window, and as many heartbeats.
            items: 4_096,
            bytes: 256 << 20,
            // What may wait is what a commit can take: a relay that was away catches up in few
            // large commits, and windows of a quiet root hold a few hundred entries each.
            pending_batches: 2_048,
            pending_bytes: 256 << 20,
        }
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
    /// What they cost meanwhile.
    pub pending_bytes: usize,
    /// The newest heartbeat that was pushed; it counts here once `committed` has reached it.
    pub heartbeat: Option<Heartbeat>,
}

/// What [`Recent::fact`] knows.
#[derive(Debug, Clone)]
pub enum RecentFact {
    /// This.
    Known(LogFact),
    /// It is inside this batch: its [`hash`](inside) takes decoding.
    Inside(BatchFrame),
    /// It is in the log, if anywhere.
    AskLog,
}

/// The fact about an index inside a batch; `None` when that does not decode. Rare: only a follower
/// that diverged stands inside a batch.
pub fn inside(frame: &BatchFrame, index: Index) -> Option<LogFact> {
    let batch = Batch::decode(frame.record().clone(), &BatchLimits::HARD).ok()?;
    batch.hash_at(index).map(LogFact::Inside)
}

/// See the module.
#[derive(Debug)]
pub struct Recent {
    limits: FeedLimits,
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

impl Recent {
    /// Nothing recent, of a node whose log ends at `end`.
    pub fn new(limits: FeedLimits, end: Position) -> Self {
        Recent {
            limits,
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
        }
    }

    /// Where it stands.
    pub fn state(&self) -> FeedState {
        FeedState {
            epoch: self.epoch,
            end: self.end,
            committed: self.committed,
            items: self.items.len(),
            bytes: self.bytes,
            pending_batches: self.pending_batches,
            pending_bytes: self.pending_bytes,
            heartbeat: self.heartbeat,
        }
    }

    /// Whether another item may be pushed.
    pub fn has_room(&self) -> bool {
        self.pending_batches < self.limits.pending_batches
            && self.pending_bytes < self.limits.pending_bytes
            && self.pending_items < self.limits.items
    }

    /// Adds the next batch.
    pub fn push_batch(&mut self, epoch: Epoch, batch: &Batch) -> Result<(), PushError> {
        if self.epoch != epoch {
            return Err(PushError::Reset);
        }
        if !batch.continues(&self.end) {
            return Err(PushError::NotNext { first: batch.first(), end: self.end });
        }
        let item = Item::Batch(BatchFrame::from_batch(batch));
        self.end = batch.after();
        self.pending_items += 1;
        self.pending_batches += 1;
        self.pending_bytes += pending_bytes_of(&item);
        self.push(item);
        self.evict();
        Ok(())
    }

    /// Adds a control record after the batches so far.
    pub fn push_control(&mut self, epoch: Epoch, record: ControlRecord) -> Result<(), PushError> {
        if self.epoch != epoch {
            return Err(PushError::Reset);
        }
        // A heartbeat that does not decode is forwarded like any record that is not understood.
        if let Ok(Some(heartbeat)) = Heartbeat::from_record(&record) {
            self.heartbeat = Some(heartbeat);
        }
        let item = Item::Control(record);
        if self.pending_items > 0 {
            self.pending_items += 1;
            self.pending_bytes += pending_bytes_of(&item);
        }
        self.push(item);
        self.evict();
        Ok(())
    }

    /// This node has everything up to `position` on disk.
    pub fn committed(&mut self, position: Position) {
        if position.index > self.committed.index && position.index <= self.end.index {
            self.committed = position;
            self.settle();
            self.evict();
        }
    }

    /// Starts anew at `position`, which is on disk: after a failed commit, or when the database
    /// was replaced. Sessions that read or pushed before it end.
    pub fn reset(&mut self, position: Position) {
        self.epoch = Epoch(self.epoch.0 + 1);
        self.first += self.items.len() as u64;
        self.items.clear();
        self.start = position;
        self.end = position;
        self.committed = position;
        self.bytes = 0;
        self.pending_items = 0;
        self.pending_batches = 0;
        self.pending_bytes = 0;
        self.heartbeat = self.heartbeat.filter(|heartbeat| heartbeat.after <= position.index);
    }

    /// The place of a reader that has everything up to `position`; `None` when that is not the end
    /// of a batch here.
    pub fn join(&self, position: &Position) -> Option<Joined> {
        let offset = self.offset_after(position)?;
        let later_heartbeat = self.items.range(offset..).any(|item| {
            matches!(item, Item::Control(r) if matches!(Heartbeat::from_record(r), Ok(Some(_))))
        });
        let counts = |heartbeat: &Heartbeat| !later_heartbeat && heartbeat.after <= position.index;
        Some(Joined {
            cursor: Cursor { epoch: self.epoch, sequence: self.first + offset as u64 },
            heartbeat: self.heartbeat.filter(counts),
        })
    }

    /// What is at a reader's place.
    pub fn read(&self, cursor: Cursor) -> Read {
        if self.epoch != cursor.epoch {
            return Read::Reset;
        }
        let Some(offset) = cursor.sequence.checked_sub(self.first) else { return Read::Evicted };
        match usize::try_from(offset).ok().and_then(|offset| self.items.get(offset)) {
            None => Read::Empty,
            Some(item) => {
                let next = Cursor { sequence: cursor.sequence + 1, ..cursor };
                Read::Item(item.clone(), next)
            }
        }
    }

    /// What is known here about an index that may not be in the log yet.
    pub fn fact(&self, index: Index) -> RecentFact {
        if index > self.end.index {
            return RecentFact::Known(LogFact::Beyond);
        }
        if index == self.end.index {
            return RecentFact::Known(LogFact::Boundary(self.end.hash));
        }
        if index <= self.committed.index {
            return RecentFact::AskLog;
        }
        match self.batches().find(|frame| frame.header().last() >= index) {
            None => RecentFact::AskLog,
            Some(frame) if frame.header().last() == index => {
                RecentFact::Known(LogFact::Boundary(frame.header().hash_after))
            }
            Some(frame) => RecentFact::Inside(frame.clone()),
        }
    }

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

    fn evict(&mut self) {
        while (self.items.len() > self.limits.items || self.bytes > self.limits.bytes)
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
