//! A generation is made again out of another one that goes on being written: whatever comes between,
//! and whenever, the copy is exactly the same in the end, and smaller.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use quicksilver::build::rebuild::{Rebuilt, SLICE_BYTES, rebuild};
use quicksilver::build::{
    BuildError, Builder, Options, RoleLock, append, directory, open_page, open_writer, switch_to,
};
use quicksilver::environment::{Environment, live_generation};
use quicksilver::status_page::StatusWriter;
use quicksilver::{Reader, verify};
use quicksilver_format::{Cell, Entry};
use quicksilver_lmdb::Transaction;

const OPTIONS_MAP: usize = 1 << 30;

struct Db {
    dir: tempfile::TempDir,
    environment: Environment,
    page: StatusWriter,
    options: Options,
    _role: RoleLock,
}

impl Db {
    fn new() -> Db {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { map_bytes: OPTIONS_MAP, max_readers: 126, ..Options::default() };
        Builder::create(&dir.path().join("db"), &options).unwrap().finish().unwrap();
        let path = dir.path().join("db");
        let role = RoleLock::take(&path).unwrap();
        let environment = open_writer(&path, live_generation(&path).unwrap(), 126).unwrap();
        let page = open_page(&path, options.db_id).unwrap();
        Db { dir, environment, page, options, _role: role }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("db")
    }

    fn write(&self, changes: &[Change]) {
        let entries = changes.iter().map(|(key, value)| match value {
            Some(value) => Entry::set(key, value),
            None => Entry::del(key),
        });
        append(&self.environment, &self.page, entries).unwrap();
    }

    fn rebuild(&self) -> Rebuilt {
        self.rebuild_beside(SLICE_BYTES, &mut || ())
    }

    /// Something happens after each slice.
    fn rebuild_beside(&self, slice_bytes: usize, meanwhile: &mut dyn FnMut()) -> Rebuilt {
        let next = self.environment.generation.next();
        let mut progress = |_| {
            meanwhile();
            true
        };
        let (path, options) = (self.path(), &self.options);
        let rebuilt = rebuild(&path, &self.environment, next, options, slice_bytes, &mut progress);
        rebuilt.unwrap().unwrap()
    }
}

type Change = (Vec<u8>, Option<Vec<u8>>);
type Pair = (Vec<u8>, Vec<u8>);

/// Few keys, so that they meet again; values in the cell, in a page, in chunks.
fn change() -> impl Strategy<Value = Change> {
    let length = prop_oneof![4 => 0..40usize, 2 => 2000..4200usize, 1 => 8000..30_000usize];
    let value = (length, any::<u8>()).prop_map(|(n, b)| vec![b; n]);
    ((0..12u8).prop_map(|n| vec![b'k', n]), prop::option::weighted(0.7, value))
}

fn everything(path: &Path) -> (Vec<Pair>, String) {
    let reader = Reader::open(path).unwrap();
    let snapshot = reader.snapshot().unwrap();
    let pairs = snapshot.iter().unwrap().map(|pair| pair.map(|(k, v)| (k.to_vec(), v.to_vec())));
    let pairs = pairs.collect::<Result<_, _>>().unwrap();
    (pairs, format!("{:?} {}", snapshot.position(), snapshot.digest()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_copy_is_the_same_in_the_end(
        before in prop::collection::vec(prop::collection::vec(change(), 1..12), 0..6),
        meanwhile in prop::collection::vec(prop::collection::vec(change(), 1..6), 0..8),
        slice_bytes in prop_oneof![Just(1_usize), Just(5_000), Just(SLICE_BYTES)],
        after in prop::collection::vec(prop::collection::vec(change(), 1..12), 0..4),
    ) {
        let db = Db::new();
        before.iter().for_each(|changes| db.write(changes));
        let mut meanwhile = meanwhile.iter();
        let mut rebuilt = db.rebuild_beside(slice_bytes, &mut || {
            if let Some(changes) = meanwhile.next() {
                db.write(changes);
            }
        });
        for (n, changes) in after.iter().enumerate() {
            db.write(changes);
            if n == 1 {
                rebuilt.catch_up().unwrap();
            }
        }
        let old = everything(&db.path());
        let built = rebuilt.finish().unwrap();
        let path = db.path();
        switch_to(&path, built.generation).unwrap();
        let live = db.environment.generation;
        drop(db.environment);
        directory::remove_generation(&path, live).unwrap();
        prop_assert_eq!(everything(&path), old);
        let environment = Environment::open_reader(&path, built.generation).unwrap();
        let report = verify::verify(&environment, |_| {}).unwrap();
        prop_assert!(report.is_clean(), "{:?}", report.problems);
        // No piece of a value that nobody has.
        let txn = environment.env.read().unwrap();
        let mut cursor = txn.cursor(environment.data).unwrap();
        let (mut next, mut chunks) = (cursor.first().unwrap(), 0);
        while let Some((_, cell)) = next {
            if let quicksilver_format::cell::Body::Chunked { chunks: n, .. } = Cell::decode(cell).unwrap().body {
                chunks += u64::from(n);
            }
            next = cursor.next().unwrap();
        }
        prop_assert_eq!(txn.stat(environment.chunks).unwrap().entries, chunks);
    }
}

/// Story: a database had a million bytes and has few now; the copy has the few.
#[test]
fn a_copy_has_no_free_pages() {
    let db = Db::new();
    let key = |n: u32| n.to_be_bytes().to_vec();
    let many: Vec<Change> = (0..2000).map(|n| (key(n), Some(vec![7; 1000]))).collect();
    db.write(&many);
    db.write(&(10..2000).map(|n| (key(n), None)).collect::<Vec<_>>());
    let size = |environment: &Environment| environment.env.info().unwrap().last_page;
    let before = size(&db.environment);
    assert!(db.environment.env.free_pages().unwrap().total > 0);
    let built = db.rebuild().finish().unwrap();
    assert_eq!(built.keys, 10);
    let copy = Environment::open_reader(&db.path(), built.generation).unwrap();
    // The log stays: it has what was written.
    assert!(size(&copy) < before, "{} pages, {before} before", size(&copy));
}

/// Story: the copy is given up, or dropped before its end: nothing of it is left, and the next one
/// can begin.
#[test]
fn what_is_given_up_leaves_nothing() {
    let db = Db::new();
    db.write(&[(b"a".to_vec(), Some(b"1".to_vec()))]);
    let next = db.environment.generation.next();
    let given_up =
        rebuild(&db.path(), &db.environment, next, &db.options, SLICE_BYTES, &mut |_| false)
            .unwrap();
    assert!(given_up.is_none());
    drop(db.rebuild());
    let left = |name: String| db.path().join(name).exists();
    assert!(!left(format!("{next}.new")) && !left(next.to_string()));
    db.rebuild().finish().unwrap();
    let there = rebuild(&db.path(), &db.environment, next, &db.options, SLICE_BYTES, &mut |_| true)
        .unwrap_err();
    assert!(matches!(there, BuildError::Exists { .. }), "{there}");
    // Also of what a crash cut short.
    let halves =
        ["CURRENT.new", "status.new", "gen-000007.new", "gen-000001.old"].map(str::to_owned);
    for half in &halves {
        let path = db.path().join(half);
        let made = if half.starts_with("gen") { fs::create_dir(path) } else { fs::write(path, "") };
        made.unwrap();
    }
    directory::remove_others(&db.path(), db.environment.generation).unwrap();
    assert!(!left(next.to_string()) && !halves.into_iter().any(left));
    assert!(left("CURRENT".to_owned()) && left("status".to_owned()));
    db.rebuild().finish().unwrap();
}

/// Story: one value is damaged. The copy, which would hide that, is not made.
#[test]
fn damage_is_not_copied() {
    let db = Db::new();
    db.write(&[(b"a".to_vec(), Some(b"1".to_vec())), (b"b".to_vec(), Some(vec![1; 9000]))]);
    let mut txn = db.environment.env.write().unwrap();
    let mut cell = txn.get(db.environment.data, b"a").unwrap().unwrap().to_vec();
    *cell.last_mut().unwrap() ^= 1;
    txn.put(db.environment.data, b"a", &cell).unwrap();
    txn.commit().unwrap();
    let next = db.environment.generation.next();
    let refused =
        rebuild(&db.path(), &db.environment, next, &db.options, SLICE_BYTES, &mut |_| true);
    assert!(refused.unwrap_err().to_string().contains("bucket data, key a"));
}
