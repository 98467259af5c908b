//! Reading and writing pairs behaves like a `BTreeMap`, whatever the order of operations.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::ops::Bound;

use proptest::collection::vec;
use proptest::prelude::*;
use quicksilver_lmdb::{Bucket, Env, EnvOptions, LmdbError, Transaction};

type Bytes = Vec<u8>;
type Model = BTreeMap<Bytes, Bytes>;

fn new_env() -> (tempfile::TempDir, Env, Bucket) {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::open_writer(dir.path(), &EnvOptions::default()).unwrap();
    let bucket = env.create_bucket("data").unwrap();
    (dir, env, bucket)
}

#[derive(Clone, Debug)]
enum Op {
    Put(Bytes, Bytes),
    Append(Bytes, Bytes),
    Del(Bytes),
    /// Delete up to so many pairs from the first at or after the key, with a write cursor.
    DelRange(Bytes, usize),
    Clear,
    Commit,
    Abort,
}

fn key() -> impl Strategy<Value = Bytes> {
    // Few letters, so that keys collide and share prefixes.
    prop_oneof![vec(97u8..101, 1..4), vec(any::<u8>(), 1..40), Just(vec![255; 511])]
}

fn op() -> impl Strategy<Value = Op> {
    let value = || prop_oneof![vec(any::<u8>(), 0..50), Just(vec![7; 4080])];
    prop_oneof![
        10 => (key(), value()).prop_map(|(k, v)| Op::Put(k, v)),
        2 => (key(), value()).prop_map(|(k, v)| Op::Append(k, v)),
        4 => key().prop_map(Op::Del),
        2 => (key(), 0..5usize).prop_map(|(k, n)| Op::DelRange(k, n)),
        1 => Just(Op::Clear),
        2 => Just(Op::Commit),
        1 => Just(Op::Abort),
    ]
}

fn owned(pair: Option<(&[u8], &[u8])>) -> Option<(Bytes, Bytes)> {
    pair.map(|(k, v)| (k.to_vec(), v.to_vec()))
}

fn pair(pair: Option<(&Bytes, &Bytes)>) -> Option<(Bytes, Bytes)> {
    pair.map(|(k, v)| (k.clone(), v.clone()))
}

fn compare(txn: &impl Transaction, bucket: Bucket, model: &Model, probes: &[Bytes]) {
    assert_eq!(txn.stat(bucket).unwrap().entries, model.len() as u64);
    let mut cursor = txn.cursor(bucket).unwrap();
    assert_eq!(cursor.current().unwrap(), None);
    for expected in model {
        assert_eq!(owned(cursor.next().unwrap()), pair(Some(expected)));
        assert_eq!(owned(cursor.current().unwrap()), pair(Some(expected)));
    }
    assert_eq!(cursor.next().unwrap(), None);
    assert_eq!(owned(cursor.first().unwrap()), pair(model.first_key_value()));
    assert_eq!(owned(cursor.seek(b"").unwrap()), pair(model.first_key_value()));
    assert_eq!(owned(cursor.last().unwrap()), pair(model.last_key_value()));
    for key in probes {
        assert_eq!(txn.get(bucket, key).unwrap(), model.get(key).map(Vec::as_slice));
        assert_eq!(owned(cursor.seek_exact(key).unwrap()), pair(model.get_key_value(key)));
        let from = |k| (Bound::Included(k), Bound::Unbounded);
        let at_or_after = pair(model.range::<Bytes, _>(from(key)).next());
        assert_eq!(owned(cursor.seek(key).unwrap()), at_or_after);
        if at_or_after.is_some() {
            assert_eq!(
                owned(cursor.prev().unwrap()),
                pair(model.range::<Bytes, _>(..key).next_back())
            );
        }
    }
    assert_eq!(cursor.seek(&[255; 512]).unwrap(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn behaves_like_a_map(ops in vec(op(), 1..80), probes in vec(key(), 5)) {
        let (_dir, env, bucket) = new_env();
        let (mut committed, mut model) = (Model::new(), Model::new());
        let mut txn = env.write().unwrap();
        for op in ops {
            match op {
                Op::Put(k, v) => {
                    txn.put(bucket, &k, &v).unwrap();
                    assert_eq!(txn.get(bucket, &k).unwrap(), Some(v.as_slice()));
                    model.insert(k, v);
                }
                Op::Append(k, v) => {
                    let in_order = model.last_key_value().is_none_or(|(last, _)| *last < k);
                    match txn.put_append(bucket, &k, &v) {
                        Ok(()) => assert!(in_order && model.insert(k, v).is_none()),
                        Err(e) => assert!(!in_order && matches!(e, LmdbError::AppendOutOfOrder(_))),
                    }
                }
                Op::Del(k) => assert_eq!(txn.del(bucket, &k).unwrap(), model.remove(&k).is_some()),
                Op::DelRange(k, n) => {
                    let doomed: Vec<Bytes> = model.range(k.clone()..).take(n).map(|(k, _)| k.clone()).collect();
                    let mut cursor = txn.write_cursor(bucket).unwrap();
                    let mut at = owned(cursor.seek(&k).unwrap());
                    for key in &doomed {
                        assert_eq!(at.as_ref().map(|p| &p.0), Some(key));
                        assert!(cursor.del_current().unwrap());
                        assert!(!cursor.del_current().unwrap());
                        assert_eq!(cursor.current().unwrap(), None);
                        model.remove(key);
                        at = owned(cursor.next().unwrap());
                    }
                    assert_eq!(at, pair(model.range(k..).next()));
                }
                Op::Clear => {
                    txn.clear(bucket).unwrap();
                    model.clear();
                }
                Op::Commit => {
                    txn.commit().unwrap();
                    committed = model.clone();
                    txn = env.write().unwrap();
                }
                Op::Abort => {
                    drop(txn);
                    model = committed.clone();
                    txn = env.write().unwrap();
                }
            }
            compare(&txn, bucket, &model, &probes);
        }
        compare(&env.read().unwrap(), bucket, &committed, &probes);
        compare(&env.read_owned().unwrap(), bucket, &committed, &probes);
    }
}

#[test]
fn a_write_cursor_writes_where_it_says() {
    let (_dir, env, bucket) = new_env();
    let mut txn = env.write().unwrap();
    let mut cursor = txn.write_cursor(bucket).unwrap();
    assert!(!cursor.del_current().unwrap());
    for key in [b"a", b"b", b"d"] {
        cursor.put_append(key, b"1").unwrap();
    }
    assert!(matches!(cursor.put_append(b"c", b"1"), Err(LmdbError::AppendOutOfOrder(_))));
    cursor.put(b"c", b"2").unwrap();
    assert_eq!(cursor.current().unwrap(), Some((&b"c"[..], &b"2"[..])));
    assert_eq!(cursor.prev().unwrap(), Some((&b"b"[..], &b"1"[..])));
    assert!(cursor.del_current().unwrap());
    assert_eq!(cursor.last().unwrap(), Some((&b"d"[..], &b"1"[..])));
    assert_eq!(cursor.first().unwrap(), Some((&b"a"[..], &b"1"[..])));
    assert_eq!(cursor.next().unwrap(), Some((&b"c"[..], &b"2"[..])));
    assert_eq!(cursor.seek_exact(b"b").unwrap(), None);
    drop(cursor);
    txn.commit().unwrap();
    assert_eq!(env.read().unwrap().stat(bucket).unwrap().entries, 3);
}

/// A key is looked for once, whether it is there or not, and however long what it had was.
#[test]
fn putting_what_is_new_and_what_is_there() {
    let (_dir, env, bucket) = new_env();
    let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut word: u32 = 1;
    let mut random = |below: u32| {
        word ^= word << 13;
        word ^= word >> 17;
        word ^= word << 5;
        word % below
    };
    for round in 0..30 {
        let mut txn = env.write().unwrap();
        let mut cursor = txn.write_cursor(bucket).unwrap();
        for _ in 0..200 {
            let key = format!("key-{:04}", random(1_500)).into_bytes();
            // In the leaf, nearly a page, on a page of its own, and on several.
            let longest = [10, 900, 4_000, 9_000][random(4) as usize];
            let value = vec![round; random(longest) as usize];
            let old = model.insert(key.clone(), value.clone());
            let found = cursor.put_new(&key, &value).unwrap().map(<[u8]>::to_vec);
            assert_eq!(found, old);
            if old.is_some() {
                cursor.put_current(&key, &value).unwrap();
            }
            assert_eq!(cursor.current().unwrap(), Some((&key[..], &value[..])));
        }
        drop(cursor);
        txn.commit().unwrap();
        let read = env.read().unwrap();
        let mut cursor = read.cursor(bucket).unwrap();
        for (key, value) in &model {
            assert_eq!(cursor.next().unwrap(), Some((&key[..], &value[..])));
        }
        assert_eq!(cursor.next().unwrap(), None);
    }
}

#[test]
fn a_snapshot_does_not_move() {
    let (_dir, env, bucket) = new_env();
    let before = env.read().unwrap();
    let mut txn = env.write().unwrap();
    txn.put(bucket, b"k", b"v").unwrap();
    assert_eq!(before.get(bucket, b"k").unwrap(), None);
    txn.commit().unwrap();
    assert_eq!(before.get(bucket, b"k").unwrap(), None);
    let after = env.read().unwrap();
    assert_eq!(after.get(bucket, b"k").unwrap(), Some(&b"v"[..]));
    assert!(after.txn_id() > before.txn_id());
}
