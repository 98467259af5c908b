//! What `apply` does with keys, and what a commit costs. `QS_SEED=n` runs the random test with that
//! seed alone.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;

use super::*;
use crate::build::{Builder, Options};
use quicksilver_format::layout::Generation;
use quicksilver_format::{BatchBuilder, DbId, Entry, HistoryId, NEW_DATABASE_FORMAT_VERSION};

/// Short keys, zeros and keys that differ late: what a prefix could get wrong.
#[test]
fn changes_are_in_the_order_of_their_keys() {
    let keys: [&[u8]; 9] = [
        b"a",
        b"a\0",
        b"a\0\0\0\0\0\0\0",
        b"a\0\0\0\0\0\0\0\0",
        b"a\x01",
        b"abcdefgh",
        b"abcdefgh\0",
        b"abcdefgi",
        b"\xff",
    ];
    for (m, one) in keys.iter().enumerate() {
        for (n, other) in keys.iter().enumerate() {
            let change = |key, index| Change::new(key, Index::new(index), Op::Del);
            assert_eq!(change(one, 1).order(&change(other, 1)), m.cmp(&n), "{one:?} {other:?}");
        }
    }
    let (old, new) = (Change::new(b"a", Index::new(1), Op::Del), Index::new(2));
    assert_eq!(Change::new(b"a", new, Op::Del).order(&old), Ordering::Less);
}

/// Pages that this thread has given to `write` and its like so far: LMDB writes each dirty page once,
/// when it commits, and some before, when they are too many to hold.
fn written_pages() -> usize {
    let counters = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let bytes: usize =
        counters.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap();
    bytes / 4096
}

struct Random(u64);

impl Random {
    /// A number below `n`.
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize % n
    }

    fn from(&mut self, range: std::ops::Range<usize>) -> usize {
        range.start + self.below(range.len())
    }
}

/// A generation that is being written, and the keys that it holds.
struct World {
    random: Random,
    environment: Environment,
    state: State,
    keys: Vec<Vec<u8>>,
    key_bytes: std::ops::Range<usize>,
    _files: crate::build::Unfinished,
    _dir: tempfile::TempDir,
}

type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

impl World {
    fn new(seed: u64) -> World {
        let dir = tempfile::tempdir().unwrap();
        let start = Position::genesis(DbId::from_bytes([7; 16]));
        let options = Options {
            db_id: DbId::from_bytes([7; 16]),
            history: HistoryId::NONE,
            map_bytes: 1 << 30,
            max_readers: 126,
        };
        let format = NEW_DATABASE_FORMAT_VERSION;
        let begun = Builder::beside(dir.path(), Generation::FIRST, start, format, &options);
        let Builder { environment, unfinished, state, .. } = begun.unwrap();
        let mut random = Random(seed);
        let key_bytes = if random.below(3) == 0 { 300..500 } else { 4..30 };
        let keys = Vec::new();
        World { random, environment, state, keys, key_bytes, _files: unfinished, _dir: dir }
    }

    fn new_key(&mut self) -> Vec<u8> {
        let bytes = self.random.from(self.key_bytes.clone());
        let mut key = self.random.0.to_be_bytes().to_vec();
        key.resize(bytes + key.len(), b'k');
        key
    }

    fn value(&mut self, kind: usize) -> Vec<u8> {
        let bytes = match kind {
            0 => self.random.from(0..300),
            1 => self.random.from(1500..4068),
            2 => self.random.from(4068..9000),
            _ => self.random.from(200_000..700_000),
        };
        vec![b'v'; bytes]
    }

    fn seal(&self, changes: &Changes) -> Batch {
        let mut builder = BatchBuilder::new(self.state.log.last);
        for (key, value) in changes {
            builder.push(match value {
                Some(value) => Entry::set(key, value),
                None => Entry::del(key),
            });
        }
        builder.seal(1).unwrap()
    }

    fn freed_chunks(&self, changes: &Changes) -> usize {
        let txn = self.environment.env.read().unwrap();
        let cell = |key| self.environment.cell(&txn, key).unwrap();
        let keys: BTreeSet<&[u8]> = changes.iter().map(|(key, _)| &key[..]).collect();
        keys.into_iter().filter_map(cell).map(|cell| cell.chunks() as usize).sum()
    }

    /// Commits the changes; returns how many pages were expected and written.
    fn commit(&mut self, changes: &Changes) -> (usize, usize) {
        let batch = self.seal(changes);
        let leaves = |bucket| leaves(&self.environment, bucket).unwrap();
        let (data, chunks) = (leaves(self.environment.data), leaves(self.environment.chunks));
        let expected = dirty_pages(&self.environment, data, batch.len(), batch.payload_bytes())
            + self.freed_chunks(changes).min(chunks);
        let before = written_pages();
        let mut txn = self.environment.env.write().unwrap();
        self.state = apply(&self.environment, &mut txn, self.state, &[batch]).unwrap();
        self.state.write(self.environment.meta, &mut txn).unwrap();
        txn.commit().unwrap();
        (expected, written_pages() - before)
    }

    /// New keys, in order or not, so that leaves are full or half full.
    fn fill(&mut self, keys: usize, kind: usize) {
        let mut changes: Changes =
            (0..keys).map(|_| (self.new_key(), Some(self.value(kind)))).collect();
        self.keys.extend(changes.iter().map(|(key, _)| key.clone()));
        if self.random.below(2) == 0 {
            changes.sort_unstable();
        }
        for part in changes.chunks(1 + keys / 3) {
            self.commit(&part.to_vec());
        }
    }

    /// So many changes of keys that are there or not, in `range` of those that are.
    fn changes(&mut self, n: usize, range: std::ops::Range<usize>) -> Changes {
        let (dels, news) = (self.random.below(11), self.random.below(11));
        let kind = self.random.below(3);
        let changes = (0..n).map(|_| {
            if self.random.below(10) < dels && !range.is_empty() {
                let key = self.random.from(range.clone());
                return (self.keys[key].clone(), None);
            }
            let key = if self.random.below(10) < news || range.is_empty() {
                self.new_key()
            } else {
                let key = self.random.from(range.clone());
                self.keys[key].clone()
            };
            (key, Some(self.value(kind)))
        });
        changes.collect()
    }
}

/// Pages that a commit takes beside what is counted: the ways down the trees, and LMDB's books.
const BESIDE: usize = 24;

/// A few cells are in one leaf, and their chunks in many.
#[test]
fn freed_values_count() {
    let mut world = World::new(1);
    let keys: Vec<Vec<u8>> = (0..100).map(|n| format!("{n:03}").into()).collect();
    let long = vec![b'v'; 200_000];
    world.commit(&keys.iter().map(|key| (key.clone(), Some(long.clone()))).collect());
    let changes: Changes = keys.into_iter().step_by(2).map(|key| (key, None)).collect();
    let (expected, written) = world.commit(&changes);
    assert!(written > BESIDE + 10, "{written} pages are no example");
    assert!(written <= 2 * expected + BESIDE, "{written} written, {expected} expected");
}

/// Random changes in random data: a commit never takes more than twice what was counted before it,
/// beside what is kept of the list of free pages, about 500 on a page.
fn one_world(seed: u64) {
    let mut world = World::new(seed);
    for kind in [0, 1, 2, 3] {
        let most = [8000, 400, 800, 60][kind];
        let keys = world.random.below(most);
        world.fill(keys, kind);
    }
    for _ in 0..8 {
        let stored = world.keys.len();
        let from = world.random.below(stored + 1);
        let range = if world.random.below(2) == 0 { 0..stored } else { from..stored };
        let most = [10, 300, 3000][world.random.below(3)];
        let n = world.random.from(1..most);
        let changes = world.changes(n, range);
        let free = world.environment.env.free_pages().unwrap().total as usize / 500;
        let (expected, written) = world.commit(&changes);
        let allowed = 2 * expected + free + BESIDE;
        assert!(written <= allowed, "{n} changes: {written} written, {expected} expected");
        world.keys.extend(changes.into_iter().map(|(key, _)| key));
    }
}

/// A few seconds' worth.
const WORLDS: u64 = 8;

#[test]
fn no_commit_takes_more_than_twice_what_was_counted() {
    let given = std::env::var("QS_SEED").ok().map(|text| text.parse().unwrap());
    for seed in given.map_or(0..WORLDS, |seed| seed..seed + 1) {
        if let Err(panic) = std::panic::catch_unwind(|| one_world(seed)) {
            println!("run it alone with QS_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
