//! The store against a model: whatever is written, in whatever batches and commits, what can be
//! read, its digest, its log and its verification are those of a map that saw the same changes.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use quicksilver::build::{self, Builder, Options};
use quicksilver::environment::Environment;
use quicksilver::log::{self, HashAt};
use quicksilver::verify;
use quicksilver_format::batch::BatchHeader;
use quicksilver_format::layout::Generation;
use quicksilver_format::meta::Format;
use quicksilver_format::{
    Batch, BatchBuilder, BatchLimits, CellCrc, DbId, Entry, HistoryId, Index,
    NEW_DATABASE_FORMAT_VERSION, NEWEST_FORMAT_VERSION, Position, StateDigest, chunk,
};
use quicksilver_lmdb::Transaction;
use quicksilver_replicator::store::{Retention, Sizes, Standby, Store, StoreError, take_role};

mod common;
use common::make_very_long;

fn db_id() -> DbId {
    DbId::from_bytes([7; 16])
}

fn open(dir: &Path) -> Store {
    let sizes = Sizes { map_bytes: 1 << 30, max_readers: 126 };
    Store::open(dir, db_id(), HistoryId::from_bytes([1; 16]), sizes).unwrap()
}

type Change = (Vec<u8>, Option<Vec<u8>>);

fn seal(before: Position, changes: &[Change]) -> Batch {
    let mut builder = BatchBuilder::new(before);
    for (key, value) in changes {
        builder.push(match value {
            Some(value) => Entry::set(key, value),
            None => Entry::del(key),
        });
    }
    builder.seal(1).unwrap()
}

fn set(key: &str, value: &str) -> Change {
    (key.into(), Some(value.into()))
}

/// Few keys, so that they meet again; values of every kind: in the leaf, in a page, in chunks.
fn change() -> impl Strategy<Value = Change> {
    let key =
        (0..12u8).prop_map(|n| vec![b'k'; usize::from(n) % 3 + 1].into_iter().chain([n]).collect());
    let length = prop_oneof![4 => 0..40usize, 2 => 2000..4200usize, 1 => 8000..30_000usize];
    let value = (length, any::<u8>()).prop_map(|(n, b)| vec![b; n]);
    (key, prop::option::weighted(0.8, value))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_store_is_a_map_with_a_log(
        commits in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(change(), 1..12), 1..4), 1..6),
        reopen_after in 0..6usize,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        let mut model: BTreeMap<Vec<u8>, (Index, Vec<u8>)> = BTreeMap::new();
        let mut position = Position::genesis(db_id());
        let mut sealed = Vec::new();
        for (n, commit) in commits.iter().enumerate() {
            let batches: Vec<Batch> = commit.iter().map(|changes| {
                let batch = seal(position, changes);
                position = batch.after();
                batch
            }).collect();
            store.apply(&batches).unwrap();
            for (index, entry) in batches.iter().flat_map(Batch::entries) {
                match entry.op {
                    quicksilver_format::Op::Set(value) => {
                        model.insert(entry.key.to_vec(), (index, value.to_vec()));
                    }
                    quicksilver_format::Op::Del => {
                        model.remove(entry.key);
                    }
                }
            }
            sealed.extend(batches);
            if n == reopen_after {
                drop(store);
                store = open(dir.path());
            }
            prop_assert_eq!(store.end(), position);
        }

        let reader = store.reader().unwrap();
        let snapshot = reader.snapshot().unwrap();
        let found: BTreeMap<Vec<u8>, Vec<u8>> = snapshot.iter().unwrap()
            .map(|pair| pair.map(|(k, v)| (k.to_vec(), v.to_vec())))
            .collect::<Result<_, _>>().unwrap();
        let expected: BTreeMap<Vec<u8>, Vec<u8>> =
            model.iter().map(|(key, (_, value))| (key.clone(), value.clone())).collect();
        prop_assert_eq!(found, expected);

        let crc = CellCrc::new(db_id());
        let mut digest = StateDigest::EMPTY;
        for (key, (index, value)) in &model {
            digest.add(StateDigest::term(key, *index, value.len() as u32, crc.of(key, *index, value)));
        }
        prop_assert_eq!(snapshot.digest(), digest);
        prop_assert_eq!(snapshot.len(), model.len() as u64);

        let report = verify::verify(&reader.environment().unwrap(), |_| {}).unwrap();
        prop_assert!(report.is_clean(), "{:?}", report.problems);
        prop_assert_eq!(report.batches, sealed.len() as u64);

        // The log gives every record back byte for byte, from any index, and every hash.
        let environment = reader.environment().unwrap();
        let txn = environment.env.read().unwrap();
        for (n, batch) in sealed.iter().enumerate() {
            for index in [batch.first(), batch.last()] {
                let records = log::read_after(&environment, &txn, index.previous(), usize::MAX).unwrap();
                prop_assert_eq!(records.len(), sealed.len() - n);
                prop_assert_eq!(&records[0].bytes[..], &batch.record()[..]);
            }
            for (index, _) in batch.entries() {
                let hash = batch.hash_at(index).unwrap();
                let expected = if index == batch.last() { HashAt::Boundary(hash) } else { HashAt::Inside(hash) };
                prop_assert_eq!(log::hash_at(&environment, &txn, index).unwrap(), expected);
            }
        }
        let end = position.index;
        prop_assert!(log::read_after(&environment, &txn, end, usize::MAX).unwrap().is_empty());
        prop_assert_eq!(log::hash_at(&environment, &txn, end.next()).unwrap(), HashAt::Beyond(end));
        let genesis = Position::genesis(db_id());
        prop_assert_eq!(log::hash_at(&environment, &txn, Index::ZERO).unwrap(), HashAt::Boundary(genesis.hash));
    }
}

#[test]
fn what_does_not_follow_is_refused_before_it_touches_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let first = seal(Position::genesis(db_id()), &[set("a", "1")]);
    let second = seal(first.after(), &[set("b", "2")]);
    let third = seal(second.after(), &[set("c", "3")]);
    store.apply(std::slice::from_ref(&first)).unwrap();

    let last_txn = |store: &Store| store.environment().env.info().unwrap().last_txn_id;
    let before = last_txn(&store);
    // A hole.
    assert!(matches!(store.apply(std::slice::from_ref(&third)), Err(StoreError::NotNext { .. })));
    // Another past at the right index.
    let elsewhere = seal(Position { index: first.last(), ..second.after() }, &[set("b", "2")]);
    assert!(matches!(store.apply(&[elsewhere]), Err(StoreError::NotNext { .. })));
    // Another database.
    let other = seal(Position::genesis(DbId::from_bytes([8; 16])), &[set("a", "1"), set("b", "2")]);
    assert!(matches!(store.apply(&[other]), Err(StoreError::NotNext { .. })));
    // One of several.
    assert!(store.apply(&[second.clone(), first.clone()]).is_err());
    assert_eq!(last_txn(&store), before, "nothing was committed");
    assert_eq!(store.end(), first.after());

    // What is stored already is skipped, and the rest applied.
    store.apply(&[first, second.clone(), third.clone()]).unwrap();
    assert_eq!(store.end(), third.after());
    let committed = store.apply(&[second, third]).unwrap();
    assert_eq!(committed.batches, 0);
}

const SIZES: Sizes = Sizes { map_bytes: 1 << 30, max_readers: 126 };
const HISTORY: HistoryId = HistoryId::from_bytes([1; 16]);

/// Story: a new program waits beside the writer, which goes on writing; then it is its turn.
#[test]
fn a_standby_takes_over_where_the_writer_ended() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let first = seal(store.end(), &[set("a", "1")]);
    store.apply(std::slice::from_ref(&first)).unwrap();
    let busy = take_role(dir.path()).unwrap_err();
    assert!(matches!(busy, StoreError::RoleLockHeld { .. }), "{busy}");
    // In this process the environment is open once, so the writer goes before the standby opens it.
    drop(store);
    let standby = Standby::open(dir.path(), db_id(), SIZES).unwrap();
    let mut store = standby.take_over(take_role(dir.path()).unwrap(), HISTORY).unwrap();
    assert_eq!(store.end(), first.after());
    store.apply(&[seal(first.after(), &[set("a", "2")])]).unwrap();
}

/// Story: a machine with few readers has a small table, and keeps it when its replicator restarts.
#[test]
fn a_reader_table_stays_as_large_as_it_was_made() {
    let dir = tempfile::tempdir().unwrap();
    let slots = |store: &Store| store.environment().env.info().unwrap().max_readers;
    let made = slots(&open(dir.path()));
    assert!(made < 1000, "{made}");
    assert_eq!(slots(&open(dir.path())), made);
}

/// Story: while it waits, the writer builds a new generation and switches to it.
#[test]
fn a_standby_takes_over_the_generation_that_is_live_then() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let standby = Standby::open(dir.path(), db_id(), SIZES).unwrap();
    let role = take_role(dir.path()).unwrap();
    let options =
        Options { db_id: db_id(), history: HISTORY, map_bytes: 1 << 30, max_readers: 126 };
    let (next, format) = (Generation::FIRST.next(), NEW_DATABASE_FORMAT_VERSION);
    let start = Position::genesis(db_id());
    let mut builder = Builder::beside(dir.path(), next, start, format, &options).unwrap();
    builder.push(b"new", b"1").unwrap();
    builder.finish().unwrap();
    build::switch_to(dir.path(), next).unwrap();
    let store = standby.take_over(role, HISTORY).unwrap();
    assert_eq!(store.environment().generation, next);
    assert_eq!(store.reader().unwrap().get(b"new").unwrap().unwrap(), b"1");
}

/// Story: while it waits, the writer is a later release, and an operator finalises the format for it.
#[test]
fn a_standby_refuses_a_format_that_was_finalised_while_it_waited() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let standby = Standby::open(dir.path(), db_id(), SIZES).unwrap();
    let role = take_role(dir.path()).unwrap();
    let reader = quicksilver::Reader::open(dir.path()).unwrap();
    finalise_as_a_later_release(&reader.environment().unwrap());
    let refused = standby.take_over(role, HISTORY).unwrap_err();
    assert!(refused.to_string().contains("finalised for a newer release"), "{refused}");
}

fn finalise_as_a_later_release(environment: &Environment) {
    let mut txn = environment.env.write().unwrap();
    let format = Format { version: NEWEST_FORMAT_VERSION + 1, readable_from: 1, page_bytes: 4096 };
    txn.put(environment.meta, Format::KEY, &format.encode()).unwrap();
    txn.commit().unwrap();
}

/// Story: two are started where there is nothing; the one that waits has nothing to check.
#[test]
fn a_standby_of_nothing_makes_the_database_when_it_must() {
    let dir = tempfile::tempdir().unwrap();
    let standby = Standby::open(dir.path(), db_id(), SIZES).unwrap();
    let store = standby.take_over(take_role(dir.path()).unwrap(), HISTORY).unwrap();
    assert_eq!(store.end(), Position::genesis(db_id()));
}

/// Story: to the new program the end of the log looks damaged. It does not even wait; the old one,
/// and whoever must, serves what is there.
#[test]
fn a_standby_refuses_what_looks_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let first = seal(store.end(), &[set("a", "1")]);
    store.apply(std::slice::from_ref(&first)).unwrap();
    let last = seal(first.after(), &[set("b", "1")]);
    store.apply(std::slice::from_ref(&last)).unwrap();
    let environment = store.environment().clone();
    let key = chunk::key(last.first(), 0);
    let mut txn = environment.env.write().unwrap();
    let mut record = txn.get(environment.log, &key).unwrap().unwrap().to_vec();
    // The last byte before the payload is of the hash after the batch.
    let at = record.len() - BatchHeader::decode(&record).unwrap().stored_bytes as usize - 1;
    record[at] ^= 1;
    txn.put(environment.log, &key, &record).unwrap();
    txn.commit().unwrap();
    drop((store, environment));
    let refused = Standby::open(dir.path(), db_id(), SIZES).unwrap_err();
    assert!(refused.to_string().contains("the newest record ends at"), "{refused}");
    let store = open(dir.path());
    assert_eq!(store.reader().unwrap().get(b"b").unwrap().unwrap(), b"1");
}

#[test]
fn a_second_writer_and_another_database_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sizes = Sizes { map_bytes: 1 << 30, max_readers: 126 };
    let history = HistoryId::from_bytes([1; 16]);
    let refused = Store::open(dir.path(), db_id(), history, sizes).unwrap_err();
    assert!(matches!(refused, StoreError::RoleLockHeld { .. }), "{refused}");
    drop(store);
    let refused = Store::open(dir.path(), DbId::from_bytes([9; 16]), history, sizes).unwrap_err();
    assert!(matches!(refused, StoreError::WrongDatabase { .. }), "{refused}");
    open(dir.path());
}

/// A reader of the group needs to read the data and to write its slot, whatever the umask was.
#[test]
fn the_files_are_for_the_group() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let _store = open(&dir.path().join("db"));
    let mode = |path: &str| {
        let metadata = std::fs::metadata(dir.path().join("db").join(path)).unwrap();
        format!("{:o}", metadata.permissions().mode() & 0o777)
    };
    assert_eq!(mode("gen-000001/data.mdb"), "640");
    assert_eq!(mode("gen-000001/lock.mdb"), "660");
    assert_eq!(mode("status"), "640");
    assert_eq!(mode("gen-000001"), "750");
}

#[test]
fn what_a_crash_left_of_a_creation_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("gen-000001.new")).unwrap();
    std::fs::write(dir.path().join("gen-000001.new/data.mdb"), b"half").unwrap();
    std::fs::write(dir.path().join("CURRENT.new"), b"gen-0").unwrap();
    let store = open(dir.path());
    assert_eq!(store.end(), Position::genesis(db_id()));
    drop(store);
    // One step short: made and renamed, but not named yet.
    std::fs::remove_file(dir.path().join("CURRENT")).unwrap();
    let mut store = open(dir.path());
    let batch = seal(store.end(), &[set("a", "1")]);
    store.apply(&[batch]).unwrap();
}

/// A lost `CURRENT` is for an operator to judge; data is never thrown away for it.
#[test]
fn a_generation_with_data_is_never_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let batch = seal(store.end(), &[set("a", "1")]);
    store.apply(&[batch]).unwrap();
    drop(store);
    std::fs::remove_file(dir.path().join("CURRENT")).unwrap();
    let sizes = Sizes { map_bytes: 1 << 30, max_readers: 126 };
    let history = HistoryId::from_bytes([1; 16]);
    let refused = Store::open(dir.path(), db_id(), history, sizes).unwrap_err();
    assert!(refused.to_string().contains("CURRENT is missing"), "{refused}");
    std::fs::write(dir.path().join("CURRENT"), "gen-000001\n").unwrap();
    assert_eq!(open(dir.path()).reader().unwrap().get(b"a").unwrap().unwrap(), b"1");
}

/// A larger map would be one that the readers of this generation do not have.
#[test]
fn a_generation_keeps_the_map_it_was_made_with() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let larger = Sizes { map_bytes: 2 << 30, max_readers: 126 };
    let history = HistoryId::from_bytes([1; 16]);
    let store = Store::open(dir.path(), db_id(), history, larger).unwrap();
    assert_eq!(store.environment().env.info().unwrap().map_bytes, 1 << 30);
}

/// Damage that an earlier write left behind stops the node from applying, and does not panic.
#[test]
fn a_damaged_old_cell_refuses_the_batch() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let batch = seal(store.end(), &[set("a", "1")]);
    store.apply(&[batch]).unwrap();
    let environment = store.environment();
    let mut txn = environment.env.write().unwrap();
    txn.put(environment.data, b"a", b"\xff").unwrap();
    txn.commit().unwrap();
    let batch = seal(store.end(), &[set("a", "2")]);
    let error = store.apply(&[batch]).unwrap_err();
    assert!(matches!(&error, StoreError::Read(e) if e.is_corrupt()), "{error}");
}

#[test]
fn a_full_map_refuses_the_batch_and_the_store_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = Sizes { map_bytes: 1 << 20, max_readers: 126 };
    let mut store =
        Store::open(dir.path(), db_id(), HistoryId::from_bytes([1; 16]), sizes).unwrap();
    let small = seal(store.end(), &[set("a", "1")]);
    store.apply(std::slice::from_ref(&small)).unwrap();
    // Not compressible, so that the log cannot hide it.
    let noise: Vec<u8> = (0..2_000_000u64)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .take(2 << 20)
        .collect();
    let large = seal(store.end(), &[(b"b".to_vec(), Some(noise))]);
    let error = store.apply(&[large]).unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(store.end(), small.after());
    let next = seal(store.end(), &[set("b", "2")]);
    store.apply(&[next]).unwrap();
    assert!(verify::verify(store.environment(), |_| {}).unwrap().is_clean());
}

/// Story: many batches came at once, and the first of them delete long values. A commit takes only so
/// many that it does not free too much, and the next ones do not try with all of the rest again.
#[test]
fn a_commit_frees_so_much_and_leaves_the_rest_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let keys = ["a", "b", "c", "d"];
    let long = |key: &&str| set(key, &"v".repeat(50_000));
    store.apply(&[seal(store.end(), &keys.iter().map(long).collect::<Vec<_>>())]).unwrap();
    make_very_long(&store, &keys);
    let mut end = store.end();
    let mut batches = Vec::new();
    for key in keys.into_iter().chain(["e"; 8]) {
        let change = if key == "e" { set("e", &end.to_string()) } else { (key.into(), None) };
        batches.push(seal(end, &[change]));
        end = batches[batches.len() - 1].after();
    }
    let mut commits = Vec::new();
    while store.end() != end {
        let committed = store.apply(&batches).unwrap();
        assert_eq!(committed.entries, committed.batches as u64);
        commits.push(committed.batches);
    }
    // Of twelve, six and three, one does not free too much; then twice as many after each.
    assert_eq!(commits, [1, 1, 2, 4, 4]);
    assert_eq!(store.reader().unwrap().snapshot().unwrap().len(), 1);
}

/// Whatever is collected, the log is whole batches without a hole, up to its end.
#[test]
fn the_log_is_collected_by_bytes_and_by_age_and_never_to_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    store.set_retention(Retention { max_bytes: 256 << 10, ..Retention::UNLIMITED });
    let mut oldest = Index::FIRST;
    for n in 0..300u64 {
        let noise: Vec<u8> = (0..1000)
            .flat_map(|i| (n * 1000 + i).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
            .collect();
        let batch = seal(store.end(), &[(b"k".to_vec(), Some(noise))]);
        store.apply(std::slice::from_ref(&batch)).unwrap();
        assert!(store.oldest() >= oldest, "it never comes back");
        oldest = store.oldest();
    }
    assert!(oldest > Index::new(200), "oldest is {oldest}");
    let environment = store.environment();
    let txn = environment.env.read().unwrap();
    let before = oldest.previous();
    assert!(matches!(log::hash_at(environment, &txn, before).unwrap(), HashAt::Boundary(_)));
    let gone = log::hash_at(environment, &txn, before.previous()).unwrap();
    assert_eq!(gone, HashAt::TooOld(oldest));
    drop(txn);
    let report = verify::verify(environment, |_| {}).unwrap();
    assert!(report.is_clean(), "{:?}", report.problems);
    assert_eq!(report.log, Some((oldest, Index::new(300))));

    // Everything is too old now (the batches were sealed in 1970); the newest stays.
    store.set_retention(Retention { max_age_us: 1, ..Retention::UNLIMITED });
    for _ in 0..3 {
        let value = store.end().to_string();
        let batch = seal(store.end(), &[set("a", &value), set("b", &value)]);
        store.apply(&[batch]).unwrap();
    }
    assert_eq!(store.oldest(), store.end().index.previous(), "the newest batch has two entries");
    assert!(verify::verify(store.environment(), |_| {}).unwrap().is_clean());
}

/// A database that was built without a replicator is one that a replicator goes on with.
#[test]
fn a_built_database_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let history = HistoryId::from_bytes([3; 16]);
    let options = Options { db_id: db_id(), history, map_bytes: 1 << 30, max_readers: 126 };
    let mut builder = Builder::create(dir.path(), &options).unwrap();
    let long = vec![b'x'; 10_000];
    for (key, value) in [("b", &b"2"[..]), ("long", &long), ("a", b"1")] {
        builder.push(key.as_bytes(), value).unwrap();
    }
    let built = builder.finish().unwrap();

    let mut store = open(dir.path());
    assert_eq!((store.end(), store.oldest()), (built.position, Index::FIRST));
    assert_eq!(store.identity().history, history);
    let info = store.environment().env.info().unwrap();
    assert_eq!(info.map_bytes, 1 << 30);
    assert!(info.max_readers >= 126, "{info:?}");
    let batch = seal(store.end(), &[set("a", "one"), set("c", "3"), ("long".into(), None)]);
    store.apply(&[batch]).unwrap();
    let reader = store.reader().unwrap();
    assert_eq!(reader.get(b"a").unwrap().unwrap(), b"one");
    assert_eq!(reader.get(b"b").unwrap().unwrap(), b"2");
    assert_eq!(reader.get(b"long").unwrap(), None);
    let report = verify::verify(store.environment(), |_| {}).unwrap();
    assert!(report.is_clean(), "{:?}", report.problems);
    assert_eq!((report.keys, report.batches), (3, 2));
}

#[test]
fn history_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let history = HistoryId::random();
    store.adopt_history(history).unwrap();
    drop(store);
    assert_eq!(open(dir.path()).identity().history, history);
}

/// Pages that this thread has given to `write` and its like so far: LMDB writes each dirty page once,
/// when it commits, and some before, when they are too many to hold.
fn written_pages() -> usize {
    let counters = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let bytes: usize =
        counters.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap();
    bytes / 4096
}

/// The largest value that any configuration may allow goes through one transaction, although its
/// chunks and its log together are more dirty pages than LMDB holds: it writes some of them early.
#[test]
fn the_largest_value_fits_one_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = Sizes { map_bytes: 2 << 30, max_readers: 126 };
    let mut store =
        Store::open(dir.path(), db_id(), HistoryId::from_bytes([1; 16]), sizes).unwrap();
    let mut state = 1u64;
    let noise: Vec<u8> = (0..quicksilver_format::limits::VALUE_HARD_MAX_BYTES / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect();
    let batch = seal(store.end(), &[(b"huge".to_vec(), Some(noise.clone()))]);
    let batch = Batch::decode(batch.record().clone(), &BatchLimits::HARD).unwrap();
    let before = written_pages();
    store.apply(&[batch]).unwrap();
    let written = written_pages() - before;
    assert!(written > 131_071, "{written} pages are no example");
    assert!(store.reader().unwrap().get(b"huge").unwrap().unwrap() == noise);
    let gone = seal(store.end(), &[(b"huge".to_vec(), None)]);
    store.apply(&[gone]).unwrap();
    assert!(verify::verify(store.environment(), |_| {}).unwrap().is_clean());
}

/// The writer before this one may be a later release that was finalised: this one must not go on.
#[test]
fn a_writer_goes_on_in_the_format_it_finds_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    assert_eq!(store.environment().format.version, NEW_DATABASE_FORMAT_VERSION);
    let change = store.raise_format().unwrap();
    assert_eq!(change.to, NEWEST_FORMAT_VERSION);
    assert!(!store.raise_format().unwrap().is_change());
    store.apply(&[seal(store.end(), &[set("a", "1")])]).unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.environment().format.version, NEWEST_FORMAT_VERSION);

    finalise_as_a_later_release(store.environment());
    drop(store);
    let later = NEWEST_FORMAT_VERSION + 1;
    let sizes = Sizes { map_bytes: 1 << 30, max_readers: 126 };
    let refused = Store::open(dir.path(), db_id(), HistoryId::NONE, sizes).unwrap_err();
    let text = refused.to_string();
    assert!(text.contains(&format!("in format {later}; this release writes")), "{text}");
    assert!(text.contains("upgrade this one"), "{text}");
    assert_eq!(quicksilver::Reader::open(dir.path()).unwrap().get(b"a").unwrap().unwrap(), b"1");
}
