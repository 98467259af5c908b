//! A log in memory, for tests: whole batches, and the answers a store gives about them.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "several test binaries share the model, each uses its own part of it"
)]

use quicksilver_format::{
    Batch, BatchBuilder, DbId, Entry, HistoryId, Index, NodeId, Position, ProcessId,
};
use quicksilver_protocol::{Hop, LocalNode, LogFact};

pub const DB: DbId = DbId::from_bytes([0xdb; 16]);
pub const HISTORY: HistoryId = HistoryId::from_bytes([0x11; 16]);

pub fn node(name: &str, run: u8) -> LocalNode {
    LocalNode {
        db_id: DB,
        history: Some(HISTORY),
        node_id: NodeId::new(name).expect("a test uses legal names"),
        site: "ams".to_owned(),
        process_id: ProcessId::from_bytes([run; 16]),
    }
}

pub fn hop(name: &str, run: u8) -> Hop {
    node(name, run).hop()
}

/// A batch of `entries` entries after `before`; another `salt` gives another past.
pub fn batch(before: Position, entries: usize, salt: u64) -> Batch {
    let mut builder = BatchBuilder::new(before);
    for _ in 0..entries {
        let key = format!("key-{}", builder.next_index());
        builder.push(Entry::set(key.as_bytes(), &salt.to_le_bytes()));
    }
    builder.seal(before.index.get()).expect("a batch has entries")
}

/// What a store holds.
#[derive(Debug, Clone, Default)]
pub struct Log {
    pub batches: Vec<Batch>,
    /// Batches that were collected, oldest first.
    pub collected: usize,
}

impl Log {
    /// A log of batches with these numbers of entries.
    pub fn of(sizes: &[usize]) -> Self {
        let mut log = Log::default();
        for size in sizes {
            log.push(batch(log.end(), *size, 0));
        }
        log
    }

    pub fn end(&self) -> Position {
        self.batches.last().map_or(Position::genesis(DB), Batch::after)
    }

    pub fn push(&mut self, batch: Batch) {
        assert!(batch.continues(&self.end()), "{batch:?} after {}: a hole", self.end());
        self.batches.push(batch);
    }

    pub fn oldest(&self) -> Index {
        self.batches.get(self.collected).map_or(self.end().index.next(), Batch::first)
    }

    pub fn fact(&self, index: Index) -> LogFact {
        if index > self.end().index {
            return LogFact::Beyond;
        }
        if index.next() < self.oldest() {
            return LogFact::TooOld { oldest: self.oldest() };
        }
        if index == self.end().index {
            return LogFact::Boundary(self.end().hash);
        }
        for batch in &self.batches[self.collected..] {
            if batch.before().index == index {
                return LogFact::Boundary(batch.before().hash);
            }
            if let Some(hash) = batch.hash_at(index).filter(|_| index < batch.last()) {
                return LogFact::Inside(hash);
            }
        }
        LogFact::Beyond
    }

    pub fn after(&self, position: &Position) -> Option<&Batch> {
        self.batches.iter().find(|batch| batch.before() == *position)
    }
}
