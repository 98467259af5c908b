//! What a node has on its disk, and what is left of it after a power cut.
//!
//! A commit is all or nothing, as LMDB's is. Blocks of a snapshot that comes are written and not
//! synced: after a power cut only the first so many are there.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use quicksilver_format::manifest::{BlockEntry, Manifest, SnapshotHash};
use quicksilver_format::meta::{Applied, Identity};
use quicksilver_format::{Batch, DbId, HistoryId, Index, Position, StateDigest};
use quicksilver_protocol::{LogFact, Offered, Partial};

/// Whole batches, the oldest of which may be gone.
#[derive(Debug, Clone)]
pub struct Log {
    start: Position,
    batches: VecDeque<Batch>,
}

impl Log {
    pub fn beginning_at(start: Position) -> Self {
        Log { start, batches: VecDeque::new() }
    }

    pub fn end(&self) -> Position {
        self.batches.back().map_or(self.start, Batch::after)
    }

    pub fn oldest(&self) -> Index {
        self.start.index.next()
    }

    pub fn entries(&self) -> u64 {
        self.end().index.get() - self.start.index.get()
    }

    pub fn push(&mut self, batch: Batch) {
        assert!(batch.continues(&self.end()), "{batch:?} after {}: a hole", self.end());
        self.batches.push_back(batch);
    }

    /// Forgets the oldest batches down to so many entries, and nothing after `hold`.
    pub fn collect(&mut self, entries: u64, hold: Option<Index>) {
        while self.entries() > entries {
            let Some(first) = self.batches.front() else { return };
            if hold.is_some_and(|hold| first.last() > hold) {
                return;
            }
            self.start = first.after();
            self.batches.pop_front();
        }
    }

    /// Where the first batch that ends after `index` stands.
    fn place(&self, index: Index) -> usize {
        self.batches.partition_point(|batch| batch.last() <= index)
    }

    pub fn fact(&self, index: Index) -> LogFact {
        let end = self.end();
        if index > end.index {
            return LogFact::Beyond;
        }
        if index < self.start.index {
            return LogFact::TooOld { oldest: self.oldest() };
        }
        if index == end.index {
            return LogFact::Boundary(end.hash);
        }
        let batch = &self.batches[self.place(index)];
        if batch.before().index == index {
            return LogFact::Boundary(batch.before().hash);
        }
        LogFact::Inside(batch.hash_at(index).expect("the index is inside this batch"))
    }

    /// The records after `index`, a few at a time, as `ReplicaLog::read` gives them.
    pub fn read(&self, index: Index, batches: usize) -> Vec<Bytes> {
        let from = self.place(index);
        self.batches.range(from..).take(batches).map(|batch| batch.record().clone()).collect()
    }
}

/// A snapshot file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub identity: SnapshotHash,
    pub manifest: Manifest,
    pub encoded: Bytes,
    pub blocks: Vec<Bytes>,
}

impl Snapshot {
    /// Of a database at `position`. Two that are made at different times are not the same.
    pub fn of(position: Position, identity: Identity, number: u64) -> Self {
        let count = 3 + position.index.get() % 10;
        let blocks: Vec<Bytes> = (0..count).map(|n| block(&position, n)).collect();
        let manifest = Manifest {
            database_format: 1,
            page_bytes: 4096,
            identity,
            start: position,
            end: Applied { position, digest: StateDigest::EMPTY, keys: 0, bytes: 0 },
            sealed_at_us: 0,
            created_us: number,
            sections: [blocks.len() as u32, 0, 0],
            blocks: blocks
                .iter()
                .map(|block| BlockEntry {
                    bytes: block.len() as u32,
                    hash: SnapshotHash::of(block),
                })
                .collect(),
        };
        let encoded = Bytes::from(manifest.encode());
        let (_, identity) = Manifest::decode(&encoded).expect("it was just made");
        Snapshot { identity, manifest, encoded, blocks }
    }

    pub fn end(&self) -> Position {
        self.manifest.end.position
    }

    pub fn offered(&self) -> Offered {
        Offered {
            identity: self.identity,
            manifest: self.encoded.clone(),
            blocks: self.blocks.len() as u32,
        }
    }

    /// Whether every block has what belongs there.
    pub fn is_right(&self) -> bool {
        let expected = self.manifest.blocks.len();
        let position = self.end();
        self.blocks.len() == expected
            && self.blocks.iter().zip(0..).all(|(found, n)| *found == block(&position, n))
    }
}

/// What stands for the content of a database at `position`.
fn block(position: &Position, n: u64) -> Bytes {
    let mut seed = n.to_le_bytes().to_vec();
    position.encode(&mut seed);
    Bytes::copy_from_slice(SnapshotHash::of(&seed).as_bytes())
}

/// A snapshot that is being fetched.
#[derive(Debug, Clone)]
pub struct Fetching {
    pub file: Snapshot,
    /// Blocks that a power cut leaves.
    pub synced: usize,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Disk {
    pub db_id: DbId,
    pub history: HistoryId,
    pub log: Log,
    pub offered: Option<Rc<Snapshot>>,
    pub fetching: Option<Fetching>,
}

impl Disk {
    pub fn empty(db_id: DbId, history: HistoryId) -> Self {
        let log = Log::beginning_at(Position::genesis(db_id));
        Disk { db_id, history, log, offered: None, fetching: None }
    }

    pub fn identity(&self) -> Identity {
        Identity { db_id: self.db_id, history: self.history }
    }

    pub fn end(&self) -> Position {
        self.log.end()
    }

    pub fn begin(&mut self, manifest: Manifest, identity: SnapshotHash, encoded: Bytes) {
        let file = Snapshot { identity, manifest, encoded, blocks: Vec::new() };
        self.fetching = Some(Fetching { file, synced: 0 });
    }

    pub fn partial(&self) -> Option<Partial> {
        let file = &self.fetching.as_ref()?.file;
        Some(Partial {
            identity: file.identity,
            manifest: file.manifest.clone(),
            next_block: file.blocks.len() as u32,
        })
    }

    /// The database of `snapshot` from here on.
    pub fn install(&mut self, snapshot: Snapshot) {
        self.log = Log::beginning_at(snapshot.end());
        self.history = snapshot.manifest.identity.history;
        self.offered = Some(Rc::new(snapshot));
    }

    /// What a power cut leaves: `torn` is a block that counted as written and is none. Every block is
    /// compared with the manifest at the next start.
    pub fn power_cut(&mut self, compared: bool) {
        if let Some(Fetching { file, synced }) = &mut self.fetching {
            if compared {
                file.blocks.truncate(*synced);
            } else {
                for block in file.blocks.iter_mut().skip(*synced) {
                    *block = Bytes::from_static(&[0; 32]);
                }
            }
        }
    }
}
