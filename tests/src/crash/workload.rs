//! What is written before something goes wrong, and what must be there afterwards.
//!
//! A [`Plan`] says which batches follow a position, from nothing but its seed: the program that
//! writes (`qs-test-workload`), the test that looks at what is left of it, and a second program
//! that goes on after the first all mean the same. A [`Model`] is the database that the plan
//! makes, at the end of each commit, computed without any of the code that is tested.
//!
//! What the program says while it writes is one [`Word`] a line. What it has acknowledged must
//! never be gone.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use quicksilver_format::{
    Batch, BatchBuilder, CellCrc, DbId, Entry, HistoryId, Index, Op, Position, StateDigest,
};
use quicksilver_replicator::store::{Retention, Sizes};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::random_bytes;

/// The database of every workload.
pub const DB_ID: DbId = DbId::from_bytes([0xc5; 16]);
/// And its only past.
pub const HISTORY: HistoryId = HistoryId::from_bytes([0x15; 16]);
/// Small, because thousands of them are opened.
pub const SIZES: Sizes = Sizes { map_bytes: 64 << 20, max_readers: 126 };
/// So short that the log is collected almost from the beginning.
pub const RETENTION: Retention =
    Retention { max_age_us: u64::MAX, max_bytes: 96 << 10, held_bytes: 16 << 20 };

/// Few, so that they are overwritten and removed again and again.
const KEYS: u32 = 60;

/// Which batches follow which position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// All there is to it.
    pub seed: u64,
}

impl Plan {
    /// The batches of the commit that follows `before`.
    pub fn commit(self, before: Position) -> Vec<Batch> {
        let mut rng = StdRng::seed_from_u64(self.seed ^ before.index.get().rotate_left(32));
        let mut end = before;
        let batches = rng.random_range(1..=3);
        (0..batches)
            .map(|_| {
                let batch = batch(&mut rng, end);
                end = batch.after();
                batch
            })
            .collect()
    }
}

/// Values of every kind: in the leaf, in a page of their own, in chunks.
fn batch(rng: &mut StdRng, before: Position) -> Batch {
    let mut builder = BatchBuilder::new(before);
    for _ in 0..rng.random_range(1..=6) {
        let key = format!("key-{:02}", rng.random_range(0..KEYS));
        let bytes = match rng.random_range(0..10) {
            0 | 1 => {
                builder.push(Entry::del(key.as_bytes()));
                continue;
            }
            2 => rng.random_range(2_000..4_200),
            3 => rng.random_range(4_200..14_000),
            _ => rng.random_range(0..100),
        };
        let value = random_bytes(rng, bytes);
        builder.push(Entry::set(key.as_bytes(), &value));
    }
    let sealed_at_us = builder.next_index().get();
    builder.seal(sealed_at_us).expect("there is an entry in it")
}

/// What a key has, and which write gave it that.
pub type Pairs = BTreeMap<Arc<[u8]>, (Index, Arc<[u8]>)>;

/// The database at the end of one commit.
#[derive(Debug, Clone)]
pub struct Moment {
    /// Where the log ends.
    pub position: Position,
    /// What the data adds up to.
    pub digest: StateDigest,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// The data.
    pub pairs: Pairs,
}

/// The database that a plan makes.
#[derive(Debug)]
pub struct Model {
    plan: Plan,
    crc: CellCrc,
    /// In order; the first is the empty database.
    moments: Vec<Moment>,
}

impl Model {
    /// As far as the empty database; it grows when it is asked for more.
    pub fn new(plan: Plan) -> Model {
        let empty = Moment {
            position: Position::genesis(DB_ID),
            digest: StateDigest::EMPTY,
            bytes: 0,
            pairs: Pairs::new(),
        };
        Model { plan, crc: CellCrc::new(DB_ID), moments: vec![empty] }
    }

    /// What it is made from.
    pub fn plan(&self) -> Plan {
        self.plan
    }

    /// The database at `index`; `None` when no commit ends there.
    pub fn at(&mut self, index: Index) -> Option<&Moment> {
        while self.newest().position.index < index {
            let next = self.after(self.newest());
            self.moments.push(next);
        }
        let found = self.moments.binary_search_by_key(&index, |moment| moment.position.index);
        Some(&self.moments[found.ok()?])
    }

    fn newest(&self) -> &Moment {
        self.moments.last().expect("there is the empty one")
    }

    fn after(&self, before: &Moment) -> Moment {
        let mut pairs = before.pairs.clone();
        let mut position = before.position;
        for batch in self.plan.commit(position) {
            for (index, entry) in batch.entries() {
                match entry.op {
                    Op::Set(value) => pairs.insert(entry.key.into(), (index, value.into())),
                    Op::Del => pairs.remove(entry.key),
                };
            }
            position = batch.after();
        }
        let (mut digest, mut bytes) = (StateDigest::EMPTY, 0);
        for (key, (index, value)) in &pairs {
            let value_bytes = u32::try_from(value.len()).expect("a value of the plan is short");
            let crc = self.crc.of(key, *index, value);
            digest.add(StateDigest::term(key, *index, value_bytes, crc));
            bytes += (key.len() + value.len()) as u64;
        }
        Moment { position, digest, bytes, pairs }
    }
}

/// What the program says, one a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// It writes what the plan with this seed says.
    Plan(u64),
    /// It begins a step.
    Step(String),
    /// It has the database open, which ends here.
    Opened(Index),
    /// Everything up to here is durable: from now on somebody relies on it.
    Acknowledged {
        /// The last entry.
        index: Index,
        /// The running hash there.
        hash: String,
    },
    /// A commit was refused, with an error of this kind.
    Refused {
        /// `full`, `failed` or `other`: whether it may be tried again.
        kind: String,
        /// What it says.
        text: String,
    },
    /// Another generation is live.
    Switched(String),
    /// There is a snapshot file of this name.
    Snapshot(String),
    /// It ends, of its own will.
    Done,
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Word::Plan(seed) => write!(f, "plan {seed}"),
            Word::Step(step) => write!(f, "step {step}"),
            Word::Opened(index) => write!(f, "opened {index}"),
            Word::Acknowledged { index, hash } => write!(f, "acknowledged {index} {hash}"),
            Word::Refused { kind, text } => write!(f, "refused {kind} {text}"),
            Word::Switched(generation) => write!(f, "switched {generation}"),
            Word::Snapshot(name) => write!(f, "snapshot {name}"),
            Word::Done => write!(f, "done"),
        }
    }
}

impl FromStr for Word {
    type Err = String;

    fn from_str(line: &str) -> Result<Word, String> {
        let not_one = || format!("no word of a workload: {line:?}");
        let (first, rest) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
        let number = |text: &str| text.parse::<u64>().map_err(|_| not_one());
        Ok(match first {
            "plan" => Word::Plan(number(rest)?),
            "step" => Word::Step(rest.to_owned()),
            "opened" => Word::Opened(Index::new(number(rest)?)),
            "acknowledged" => {
                let (index, hash) = rest.split_once(' ').ok_or_else(not_one)?;
                Word::Acknowledged { index: Index::new(number(index)?), hash: hash.to_owned() }
            }
            "refused" => {
                let (kind, text) = rest.split_once(' ').ok_or_else(not_one)?;
                Word::Refused { kind: kind.to_owned(), text: text.to_owned() }
            }
            "switched" => Word::Switched(rest.to_owned()),
            "snapshot" => Word::Snapshot(rest.to_owned()),
            "done" => Word::Done,
            _ => return Err(not_one()),
        })
    }
}

/// The newest index that was acknowledged in what a program has said; zero when none was. What a
/// program has found it shows to everybody, so that counts as much.
pub fn acknowledged<'w>(words: impl IntoIterator<Item = &'w Word>) -> Index {
    let index = |word: &Word| match word {
        Word::Acknowledged { index, .. } | Word::Opened(index) => Some(*index),
        _ => None,
    };
    words.into_iter().filter_map(index).max().unwrap_or(Index::ZERO)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;

    #[test]
    fn every_word_can_be_read_back() {
        let hash = Position::genesis(DB_ID).hash.to_string();
        let words = [
            Word::Plan(7),
            Word::Step("commit 20".into()),
            Word::Opened(Index::new(3)),
            Word::Acknowledged { index: Index::new(4), hash },
            Word::Refused { kind: "full".into(), text: "no space: none".into() },
            Word::Switched("gen-000002".into()),
            Word::Snapshot("000000000007-00112233.snapshot".into()),
            Word::Done,
        ];
        for word in &words {
            assert_eq!(&word.to_string().parse::<Word>().unwrap(), word);
        }
        assert_eq!(acknowledged(&words), Index::new(4));
        assert!("acknowledged".parse::<Word>().is_err());
    }

    #[test]
    fn a_plan_says_the_same_to_everybody() {
        let plan = Plan { seed: 5 };
        let (mut one, mut other) = (Model::new(plan), Model::new(plan));
        let far = Index::new(500);
        assert!(one.at(far).map(|m| m.digest) == other.at(far).map(|m| m.digest));
        let ends: Vec<Index> = one.moments.iter().map(|m| m.position.index).collect();
        for (end, next) in ends.iter().zip(&ends[1..]) {
            assert_eq!(one.at(*end).unwrap().digest, other.at(*end).unwrap().digest);
            let between = Index::new(end.get() + 1);
            assert!(between == *next || one.at(between).is_none(), "no commit ends at {between}");
        }
    }
}
