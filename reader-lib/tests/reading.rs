//! What a service sees: values of every length come back as they went in, scans are in order and
//! bounded as asked, and damage is an error, never a value.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::ops::Bound;

use proptest::prelude::*;
use quicksilver::testing::Db;
use quicksilver::{Error, Index, Reader, verify};
use quicksilver_lmdb::Env;

/// Lengths around every boundary: empty, in the leaf, one page, just chunked, several chunks.
const LENGTHS: [usize; 9] = [0, 1, 100, 4066, 4067, 4068, 8160, 8161, 1 << 20];

fn value(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 + n / 251) as u8).collect()
}

#[test]
fn values_of_every_length_come_back() {
    let db = Db::from(LENGTHS.map(|n| (format!("len/{n:08}"), value(n)))).unwrap();
    let reader = db.reader();
    let snapshot = reader.snapshot().unwrap();
    for n in LENGTHS {
        let key = format!("len/{n:08}");
        assert_eq!(reader.get(key.as_bytes()).unwrap().unwrap(), value(n));
        assert_eq!(reader.value_bytes(key.as_bytes()).unwrap(), Some(n as u32));
        assert_eq!(&*snapshot.get(key.as_bytes()).unwrap().unwrap(), value(n));
        assert!(reader.get_with(key.as_bytes(), |v| v == value(n)).unwrap().unwrap());
    }
    assert_eq!(snapshot.len(), LENGTHS.len() as u64);
    assert_eq!(reader.index().unwrap(), Index::new(LENGTHS.len() as u64));
    let report = verify::verify(&reader.environment().unwrap(), |_| {}).unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.digest.unwrap().1, snapshot.digest());
}

#[test]
fn keys_outside_the_limits_are_refused() {
    let db = Db::from([("a", "1")]).unwrap();
    let reader = db.reader();
    assert_eq!(
        reader.get(b"").unwrap_err().to_string(),
        "key of 0 bytes: a key has 1 to 511 bytes"
    );
    assert!(matches!(reader.get(&[b'x'; 512]), Err(Error::Key(_))));
    assert_eq!(reader.get(&[b'x'; 511]).unwrap(), None);
}

#[test]
fn what_is_not_there_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let error = Reader::open(dir.path()).unwrap_err();
    assert!(matches!(error, Error::NoDatabase { .. }), "{error}");
    assert!(error.to_string().contains("no CURRENT"), "{error}");
    std::fs::write(dir.path().join("CURRENT"), "gen-000001\n").unwrap();
    let error = Reader::open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("no gen-000001"), "{error}");
    std::fs::write(dir.path().join("CURRENT"), "../../etc\n").unwrap();
    assert!(matches!(Reader::open(dir.path()), Err(Error::Format { .. })));
}

/// Writes to the test database, as nobody but its replicator may, to damage it.
fn damage(db: &Db, with: impl FnOnce(&Env)) {
    with(&db.environment().unwrap().env);
}

fn problems(reader: &Reader) -> Vec<String> {
    verify::verify(&reader.environment().unwrap(), |_| {}).unwrap().problems
}

#[test]
fn a_cell_moved_to_another_key_is_corrupt() {
    use quicksilver_lmdb::Transaction;
    let db = Db::from([("a", "one"), ("b", "two")]).unwrap();
    damage(&db, |env| {
        let data = env.open_bucket("data").unwrap();
        let mut txn = env.write().unwrap();
        let cell = txn.get(data, b"a").unwrap().unwrap().to_vec();
        txn.put(data, b"b", &cell).unwrap();
        txn.commit().unwrap();
    });
    let reader = db.reader();
    assert_eq!(reader.get(b"a").unwrap().unwrap(), b"one");
    assert!(matches!(reader.get(b"b"), Err(Error::Corrupt { bucket: "data", .. })));
    assert!(reader.snapshot().unwrap().iter().unwrap().any(|pair| pair.is_err()));
    assert!(!problems(&reader).is_empty());
}

#[test]
fn every_flipped_bit_of_a_cell_is_corrupt_or_gone() {
    use quicksilver_lmdb::Transaction;
    let db = Db::from([("key", "some value")]).unwrap();
    let mut original = Vec::new();
    damage(&db, |env| {
        let data = env.open_bucket("data").unwrap();
        original = env.read().unwrap().get(data, b"key").unwrap().unwrap().to_vec();
    });
    for bit in 0..original.len() * 8 {
        damage(&db, |env| {
            let data = env.open_bucket("data").unwrap();
            let mut cell = original.clone();
            cell[bit / 8] ^= 1 << (bit % 8);
            let mut txn = env.write().unwrap();
            txn.put(data, b"key", &cell).unwrap();
            txn.commit().unwrap();
        });
        let reader = db.reader();
        let error = reader.get(b"key").unwrap_err();
        assert!(error.is_corrupt(), "bit {bit}: {error}");
    }
}

#[test]
fn missing_superfluous_and_swapped_chunks_are_found() {
    use quicksilver_format::chunk;
    use quicksilver_lmdb::Transaction;
    type Damage = fn(&mut quicksilver_lmdb::WriteTxn<'_>, quicksilver_lmdb::Bucket);
    let cases: [(&str, Damage); 4] = [
        ("missing", |txn, chunks| {
            txn.del(chunks, &chunk::key(Index::new(1), 1)).unwrap();
        }),
        ("shorter", |txn, chunks| {
            txn.put(chunks, &chunk::key(Index::new(1), 2), b"short").unwrap();
        }),
        ("changed", |txn, chunks| {
            let key = chunk::key(Index::new(1), 0);
            let mut piece = txn.get(chunks, &key).unwrap().unwrap().to_vec();
            piece[17] ^= 1;
            txn.put(chunks, &key, &piece).unwrap();
        }),
        ("longer", |txn, chunks| {
            txn.put(chunks, &chunk::key(Index::new(1), 2), &[0; 4080]).unwrap();
        }),
    ];
    for (name, case) in cases {
        let db = Db::from([("long", value(10_000))]).unwrap();
        damage(&db, |env| {
            let chunks = env.open_bucket("chunks").unwrap();
            let mut txn = env.write().unwrap();
            case(&mut txn, chunks);
            txn.commit().unwrap();
        });
        let reader = db.reader();
        assert!(reader.get(b"long").unwrap_err().is_corrupt(), "{name}");
        assert!(!problems(&reader).is_empty(), "{name}");
    }
    // A chunk that no cell names cannot make a wrong value, but it is found.
    let db = Db::from([("long", value(10_000))]).unwrap();
    damage(&db, |env| {
        let chunks = env.open_bucket("chunks").unwrap();
        let mut txn = env.write().unwrap();
        txn.put(chunks, &chunk::key(Index::new(9), 0), b"orphan").unwrap();
        txn.commit().unwrap();
    });
    let reader = db.reader();
    assert_eq!(reader.get(b"long").unwrap().unwrap(), value(10_000));
    assert!(problems(&reader).iter().any(|p| p.contains("holds 4 chunks, cells name 3")));
}

#[test]
fn a_damaged_log_is_found() {
    use quicksilver_format::chunk;
    use quicksilver_lmdb::Transaction;
    let db = Db::from((0..2000).map(|n| (format!("{n:05}"), format!("value {n}")))).unwrap();
    damage(&db, |env| {
        let log = env.open_bucket("log").unwrap();
        let mut txn = env.write().unwrap();
        let key = chunk::key(Index::new(1), 1);
        let mut piece = txn.get(log, &key).unwrap().unwrap().to_vec();
        piece[99] ^= 4;
        txn.put(log, &key, &piece).unwrap();
        txn.commit().unwrap();
    });
    let reader = db.reader();
    assert!(problems(&reader).iter().any(|p| p.contains("bucket log")));
    assert!(reader.get(b"00001").unwrap().is_some(), "the data is as good as before");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn scans_agree_with_a_map(
        pairs in prop::collection::btree_map(
            prop::collection::vec(0u8..4, 1..6),
            prop::collection::vec(any::<u8>(), 0..50),
            0..60,
        ),
        prefix in prop::collection::vec(0u8..4, 0..3),
        low in prop::collection::vec(0u8..4, 1..5),
        high in prop::collection::vec(0u8..4, 1..5),
        kind in 0..3,
    ) {
        let db = Db::from(&pairs).unwrap();
        let reader = db.reader();
        let snapshot = reader.snapshot().unwrap();
        let collect = |pairs: quicksilver::Pairs<'_>| -> BTreeMap<Vec<u8>, Vec<u8>> {
            pairs.map(|pair| pair.map(|(k, v)| (k.to_vec(), v.to_vec()))).collect::<Result<_, _>>().unwrap()
        };
        prop_assert_eq!(&collect(snapshot.iter().unwrap()), &pairs);
        let mut expected = pairs.clone();
        expected.retain(|key, _| key.starts_with(&prefix));
        prop_assert_eq!(collect(snapshot.prefix(&prefix).unwrap()), expected);
        let bounds = match kind {
            0 => (Bound::Included(low.clone()), Bound::Excluded(high.clone())),
            1 => (Bound::Excluded(low.clone()), Bound::Included(high.clone())),
            _ => (Bound::Unbounded, Bound::Included(high.clone())),
        };
        let mut expected = pairs.clone();
        expected.retain(|key, _| std::ops::RangeBounds::contains(&bounds, key));
        prop_assert_eq!(collect(snapshot.range(bounds).unwrap()), expected);
    }
}
