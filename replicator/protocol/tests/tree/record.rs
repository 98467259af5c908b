//! What has happened: what the root has committed, and so what may be anywhere; which rare states were
//! met; and a trace, by which two runs are compared.
//!
//! The checks of DESIGN's invariants that compare a node with the truth are here.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use quicksilver_format::{DbId, Index, Position};

use crate::net::NodeNumber;

/// Met when a node goes on in a snapshot of a past that the root has left.
pub const LEFT_PAST: &str = "a snapshot was of a past that the root had left";

/// A past: the root's log since it was restored, and before that another past.
#[derive(Debug, Clone, Copy)]
struct Past {
    parent: usize,
    /// Where it parts from its parent.
    from: Index,
}

/// How a node's log came to end somewhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// A batch was committed.
    Applied,
    /// A snapshot was installed.
    Installed,
    /// The process started, and found what it found.
    Started,
    /// An operator put something else there.
    Replaced,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Record {
    pasts: Vec<Past>,
    /// The past in which the root committed each end of a batch.
    committed: BTreeMap<(Index, [u8; 32]), usize>,
    /// What the root has answered for.
    answered: Option<Position>,
    /// How far each node has been seen.
    seen: BTreeMap<NodeNumber, Position>,
    /// Rare states, and how often they were met.
    pub met: BTreeMap<&'static str, u64>,
    trace: u64,
    /// Whether somebody reads the story.
    pub is_told: bool,
}

fn key(position: &Position) -> (Index, [u8; 32]) {
    (position.index, *position.hash.as_bytes())
}

impl Record {
    pub fn begin(&mut self, db_id: DbId) {
        self.pasts.push(Past { parent: 0, from: Index::ZERO });
        self.committed.insert(key(&Position::genesis(db_id)), 0);
    }

    pub fn meet(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
    }

    pub fn trace(&mut self) -> u64 {
        self.trace
    }

    /// Notes something that two runs of a seed must agree on.
    pub fn note(&mut self, words: &[u64]) {
        for word in words {
            self.trace = (self.trace ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
    }

    /// For whoever reads a failing seed.
    pub fn tell(&self, line: impl FnOnce() -> String) {
        if self.is_told {
            println!("{}", line());
        }
    }

    /// The root has this on its disk.
    pub fn root_committed(&mut self, position: Position) {
        let past = self.pasts.len() - 1;
        self.committed.insert(key(&position), past);
    }

    /// The root told a writer that everything up to here is safe.
    pub fn root_answered(&mut self, position: Position) {
        self.answered = Some(position);
    }

    /// The root starts with this on its disk.
    pub fn root_started(&mut self, end: &Position) {
        if let Some(answered) = self.answered {
            assert!(
                self.is_beginning(&answered, end),
                "no acknowledged write is lost: {answered} was answered for, the root has {end}"
            );
        }
    }

    /// An operator restored the root to `position`: another past begins.
    pub fn root_restored(&mut self, position: &Position) {
        let parent = self.past_of(position);
        self.pasts.push(Past { parent, from: position.index });
        self.answered = Some(*position);
    }

    fn past_of(&self, position: &Position) -> usize {
        match self.committed.get(&key(position)) {
            Some(past) => *past,
            None => panic!("only what the root has committed enters the tree, not {position}"),
        }
    }

    /// Whether a log that ends at `later` has everything that one has which ends at `earlier`.
    pub fn is_beginning(&self, earlier: &Position, later: &Position) -> bool {
        self.is_before(earlier, self.past_of(later), later.index)
    }

    /// Whether the root has had this, and has not been restored to something else since.
    pub fn is_of_the_root(&self, position: &Position) -> bool {
        self.is_before(position, self.pasts.len() - 1, Index::new(u64::MAX))
    }

    /// Whether a log that ends at `until` in the past `theirs` has everything up to `earlier`.
    fn is_before(&self, earlier: &Position, mut theirs: usize, mut until: Index) -> bool {
        let mine = self.past_of(earlier);
        while theirs != mine && theirs != 0 {
            until = until.min(self.pasts[theirs].from);
            theirs = self.pasts[theirs].parent;
        }
        theirs == mine && earlier.index <= until
    }

    /// `node`'s log ends at `end` now.
    pub fn moved(&mut self, node: NodeNumber, end: Position, how: Moved) {
        let past = self.past_of(&end);
        self.note(&[node as u64, end.index.get(), past as u64]);
        match self.seen.entry(node) {
            Entry::Vacant(seen) => drop(seen.insert(end)),
            Entry::Occupied(mut seen) if how == Moved::Replaced => drop(seen.insert(end)),
            Entry::Occupied(mut seen) => {
                let before = seen.insert(end);
                assert!(
                    before.index <= end.index,
                    "no reader goes back: node {node} was at {before}, and is at {end} ({how:?})"
                );
                // A snapshot that begins after everything that this node could compare may be of
                // another past; at the same index it may not.
                let follows = match how {
                    Moved::Installed => before.index < end.index || before == end,
                    _ => self.is_beginning(&before, &end),
                };
                assert!(
                    follows,
                    "never a silent roll-back: node {node} had {before}, and has {end} ({how:?})"
                );
            }
        }
    }

    /// What `node` has reported to its upstream.
    pub fn reported(&self, node: NodeNumber, index: Index) {
        let has = self.seen.get(&node).map_or(Index::ZERO, |position| position.index);
        assert!(index <= has, "node {node} reports {index}, and has {has} on its disk");
    }
}
