//! A database that was built is like one that a replicator wrote: whatever the order and the sizes
//! of the pairs, everything verifies; batches that are appended are seen, whole, by readers that
//! wait; and another generation takes the place of the live one only when it is not behind it.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use quicksilver::build::{self, BuildError, Builder, Built, Options};
use quicksilver::status_page::StatusPage;
use quicksilver::testing::Db;
use quicksilver::{DbId, Error, Index, Position, Reader, environment, verify};
use quicksilver_format::NEW_DATABASE_FORMAT_VERSION;
use quicksilver_format::layout::Generation;

/// A map that a test can afford.
fn options() -> Options {
    Options { map_bytes: 1 << 30, ..Options::default() }
}

fn build<K: AsRef<[u8]>, V: AsRef<[u8]>>(
    dir: &Path,
    pairs: impl IntoIterator<Item = (K, V)>,
) -> Built {
    let mut builder = Builder::create(dir, &options()).unwrap();
    for (key, value) in pairs {
        builder.push(key.as_ref(), value.as_ref()).unwrap();
    }
    builder.finish().unwrap()
}

fn pairs_of(reader: &Reader) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let snapshot = reader.snapshot().unwrap();
    let pairs = snapshot.iter().unwrap();
    pairs.map(|pair| pair.map(|(k, v)| (k.to_vec(), v.to_vec()))).collect::<Result<_, _>>().unwrap()
}

fn assert_verified(reader: &Reader) -> verify::Report {
    let report = verify::verify(&reader.environment().unwrap(), |_| {}).unwrap();
    assert!(report.is_clean(), "{report:?}");
    report
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_is_pushed_is_there(
        pushed in prop::collection::vec(
            (
                prop::collection::vec(0u8..4, 1..5),
                prop_oneof![4 => 0..40usize, 2 => 4000..4200usize, 1 => 8000..30_000usize],
            ),
            0..60,
        ),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let pairs = pushed.iter().enumerate().map(|(n, (key, length))| (key, vec![n as u8; *length]));
        let expected: BTreeMap<Vec<u8>, Vec<u8>> =
            pairs.clone().map(|(key, value)| (key.clone(), value)).collect();
        let built = build(&dir.path().join("db"), pairs);
        let reader = Reader::open(dir.path().join("db")).unwrap();
        prop_assert_eq!(built.keys, expected.len() as u64);
        let bytes = expected.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        prop_assert_eq!(built.bytes, bytes as u64);
        prop_assert_eq!(built.position.index, Index::new(pushed.len() as u64));
        prop_assert_eq!(pairs_of(&reader), expected);
        assert_verified(&reader);
        let status = reader.status().unwrap();
        prop_assert_eq!((status.position, status.digest), (built.position, built.digest));
        let commit = StatusPage::open(&dir.path().join("db/status")).unwrap().commit().unwrap();
        prop_assert_eq!((commit.position, commit.digest), (built.position, built.digest));
    }
}

/// More than one batch, pushed in an order that is not that of the keys, and every key twice.
#[test]
fn many_pairs_become_many_batches() {
    const KEYS: u32 = 60_000;
    let dir = tempfile::tempdir().unwrap();
    // 7919 is a prime that does not divide the number of keys: all of them, scattered.
    let key = |n: u32| (n.wrapping_mul(7919) % KEYS).to_be_bytes();
    let first = (0..KEYS).map(|n| (key(n), b"old"));
    let second = (0..KEYS).map(|n| (key(n + 1), b"new"));
    let built = build(dir.path(), first.chain(second));
    assert_eq!((built.keys, built.position.index.get()), (u64::from(KEYS), 2 * u64::from(KEYS)));
    let reader = Reader::open(dir.path()).unwrap();
    let report = assert_verified(&reader);
    assert_eq!(report.log, Some((Index::FIRST, built.position.index)));
    assert!(report.batches > 1, "{report:?}");
    assert!(pairs_of(&reader).values().all(|value| value == b"new"));
}

#[test]
fn a_batch_of_large_values_is_closed_early() {
    let dir = tempfile::tempdir().unwrap();
    let value = vec![7; 12 << 20];
    let built = build(dir.path(), (0..6).map(|n| (format!("{n}"), &value)));
    let reader = Reader::open(dir.path()).unwrap();
    assert_eq!(assert_verified(&reader).batches, 3);
    assert_eq!(reader.get(b"5").unwrap().unwrap(), value);
    assert_eq!(built.keys, 6);
}

#[test]
fn files_are_as_a_replicator_leaves_them() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("above/db");
    build(&db, [("a", "1")]);
    let mode = |name: &str| fs::metadata(db.join(name)).unwrap().permissions().mode() & 0o777;
    for (name, expected) in [
        ("", 0o750),
        ("gen-000001", 0o750),
        ("gen-000001/data.mdb", 0o640),
        ("gen-000001/lock.mdb", 0o660),
        ("status", 0o640),
    ] {
        assert_eq!(mode(name), expected, "{name}");
    }
    assert_eq!(fs::read_to_string(db.join("CURRENT")).unwrap(), "gen-000001\n");
    assert!(!db.join("gen-000001.new").exists() && !db.join("CURRENT.new").exists());
}

#[test]
fn a_database_that_is_there_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), [("a", "1")]);
    let refused = Builder::create(dir.path(), &options()).unwrap_err();
    assert!(matches!(refused, BuildError::Exists { .. }), "{refused}");
    assert!(refused.to_string().contains("already"), "{refused}");
    // What CURRENT does not name may be the only copy.
    fs::remove_file(dir.path().join("CURRENT")).unwrap();
    let refused = Builder::create(dir.path(), &options()).unwrap_err();
    assert!(refused.to_string().contains("a generation"), "{refused}");
}

#[test]
fn two_builders_do_not_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Builder::create(dir.path(), &options()).unwrap();
    let refused = Builder::create(dir.path(), &options()).unwrap_err();
    assert!(matches!(refused, BuildError::Busy { .. }), "{refused}");
    first.push(b"a", b"1").unwrap();
    first.finish().unwrap();
    assert_eq!(Reader::open(dir.path()).unwrap().get(b"a").unwrap().unwrap(), b"1");
}

#[test]
fn what_was_not_finished_leaves_nothing_and_can_begin_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = Builder::create(dir.path(), &options()).unwrap();
    builder.push(b"a", b"1").unwrap();
    drop(builder);
    assert!(!dir.path().join("gen-000001.new").exists());
    assert!(matches!(Reader::open(dir.path()), Err(Error::NoDatabase { .. })));
    // What a crash leaves, which runs no destructor.
    fs::create_dir(dir.path().join("gen-000001.new")).unwrap();
    fs::write(dir.path().join("gen-000001.new/data.mdb"), b"half").unwrap();
    build(dir.path(), [("a", "2")]);
    assert_eq!(Reader::open(dir.path()).unwrap().get(b"a").unwrap().unwrap(), b"2");
}

#[test]
fn pairs_beyond_the_limits_are_refused_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = Builder::create(dir.path(), &options()).unwrap();
    let too_long = vec![0; (256 << 20) + 1];
    for (key, value, problem) in [
        (&b""[..], &b"1"[..], "key of 0 bytes"),
        (&[b'k'; 512], b"1", "key of 512 bytes"),
        (b"k", &too_long, "value of 268435457 bytes"),
    ] {
        let refused = builder.push(key, value).unwrap_err();
        assert!(refused.to_string().starts_with(problem), "{refused}");
    }
    builder.push(b"k", b"1").unwrap();
    assert_eq!(builder.entries(), 1);
    assert_eq!(builder.finish().unwrap().keys, 1);
}

#[test]
fn what_is_applied_is_seen_and_wakes_who_waits() {
    let long = "x".repeat(10_000);
    let db = Db::from([("a", "1"), ("long", &long)]).unwrap();
    let reader = db.reader();
    let snapshot = reader.snapshot().unwrap();
    let woken = std::thread::scope(|scope| {
        let waiter = scope.spawn(|| reader.wait_for(Index::new(5), Duration::from_secs(60)));
        let changes = [("a", None), ("b", Some("2")), ("long", Some(&*long))];
        assert_eq!(db.apply(changes).unwrap(), Index::new(5));
        waiter.join().unwrap().unwrap()
    });
    assert_eq!(woken, Index::new(5));
    assert_eq!(reader.get(b"a").unwrap(), None);
    assert_eq!(reader.get(b"b").unwrap().unwrap(), b"2");
    assert_eq!(reader.get(b"long").unwrap().unwrap(), long.as_bytes());
    assert_eq!(&*snapshot.get(b"a").unwrap().unwrap(), b"1", "an older snapshot stays as it was");
    drop(snapshot);
    let report = assert_verified(&reader);
    assert_eq!((report.batches, report.log), (2, Some((Index::FIRST, Index::new(5)))));
    // Nothing is no batch, and too much is refused whole.
    let nothing: [(&str, Option<&str>); 0] = [];
    assert_eq!(db.apply(nothing).unwrap(), Index::new(5));
    assert!(db.apply([("c", Some("3")), ("", Some("4"))]).is_err());
    assert_eq!(reader.get(b"c").unwrap(), None);
    assert_eq!(reader.index().unwrap(), Index::new(5));
}

#[test]
fn another_generation_takes_the_place_of_the_live_one() {
    let db = Db::from([("a", "1"), ("b", "2")]).unwrap();
    let old = db.reader();
    let start = Position { index: old.index().unwrap(), ..old.status().unwrap().position };
    let next = Generation::FIRST.next();
    let of_db = Options { db_id: db.db_id(), ..options() };
    let mut builder =
        Builder::beside(db.path(), next, start, NEW_DATABASE_FORMAT_VERSION, &of_db).unwrap();
    builder.push(b"c", b"3").unwrap();
    let built = builder.finish().unwrap();
    assert_eq!(built.position.index, start.index.next());
    // Nobody sees it yet.
    assert_eq!(environment::live_generation(db.path()).unwrap(), Generation::FIRST);
    assert_eq!(old.index().unwrap(), start.index);
    assert!(matches!(
        Builder::beside(db.path(), next, start, NEW_DATABASE_FORMAT_VERSION, &of_db),
        Err(BuildError::Exists { .. })
    ));

    let snapshot = old.snapshot().unwrap();
    build::switch_to(db.path(), next).unwrap();
    assert_eq!(environment::live_generation(db.path()).unwrap(), next);
    let new = Reader::open(db.path()).unwrap();
    assert_eq!(new.status().unwrap().generation, next);
    assert_eq!(new.index().unwrap(), built.position.index);
    assert_eq!(new.get(b"a").unwrap(), None);
    assert_eq!(new.get(b"c").unwrap().unwrap(), b"3");
    assert_verified(&new);
    // Who has looked at the old one goes on looking at it, and everyone else is here.
    assert_eq!(snapshot.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(old.get(b"a").unwrap(), None);
    drop((new, snapshot));
}

#[test]
fn a_generation_of_another_past_or_behind_is_refused() {
    let db = Db::from([("a", "1"), ("b", "2")]).unwrap();
    let second = Generation::FIRST.next();
    let history = db.reader().status().unwrap().history;
    let of_db = Options { db_id: db.db_id(), history, ..options() };
    let start = Position::genesis(db.db_id());
    let mut behind =
        Builder::beside(db.path(), second, start, NEW_DATABASE_FORMAT_VERSION, &of_db).unwrap();
    behind.push(b"a", b"1").unwrap();
    behind.finish().unwrap();
    let refused = build::switch_to(db.path(), second).unwrap_err();
    assert!(matches!(refused, BuildError::Behind { .. }), "{refused}");

    let third = second.next();
    let other = Options { db_id: DbId::random(), ..options() };
    let start = Position::genesis(other.db_id);
    Builder::beside(db.path(), third, start, NEW_DATABASE_FORMAT_VERSION, &other)
        .unwrap()
        .finish()
        .unwrap();
    let refused = build::switch_to(db.path(), third).unwrap_err();
    assert!(refused.to_string().contains("expected"), "{refused}");
    assert_eq!(environment::live_generation(db.path()).unwrap(), Generation::FIRST);
    assert!(build::switch_to(db.path(), third.next()).is_err(), "there is none");
    assert_eq!(db.reader().get(b"b").unwrap().unwrap(), b"2");
}
