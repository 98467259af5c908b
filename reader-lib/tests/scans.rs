//! Walking a snapshot is walking a sorted map: any prefix or range, from either end or from both,
//! and page by page.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::ops::Bound;

use proptest::prelude::*;
use quicksilver::testing::Db;

type Key = Vec<u8>;

/// Few different bytes, the largest among them, so that prefixes and bounds hit something.
fn key() -> impl Strategy<Value = Key> {
    prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0x7f), Just(0xfe), Just(0xff)], 1..4)
}

fn bound() -> impl Strategy<Value = Bound<Key>> {
    prop_oneof![
        Just(Bound::Unbounded),
        key().prop_map(Bound::Included),
        key().prop_map(Bound::Excluded),
    ]
}

/// Where the next item is taken from.
fn turns() -> impl Strategy<Value = Vec<bool>> {
    prop::collection::vec(any::<bool>(), 40)
}

/// What both walks give, item by item, until both are at their end.
fn assert_alike<'a>(
    mut ours: quicksilver::Pairs<'_>,
    mut theirs: impl DoubleEndedIterator<Item = (&'a Key, &'a Key)>,
    turns: &[bool],
) {
    for forward in turns {
        let ours = if *forward { ours.next() } else { ours.next_back() };
        let theirs = if *forward { theirs.next() } else { theirs.next_back() };
        let ours = ours.transpose().unwrap().map(|(key, value)| (key.to_vec(), value.to_vec()));
        assert_eq!(ours, theirs.map(|(key, value)| (key.clone(), value.clone())));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn like_a_sorted_map(
        pairs in prop::collection::btree_map(key(), key(), 0..25),
        prefixes in prop::collection::vec(prop_oneof![prop::collection::vec(any::<u8>(), 0..2), key()], 4),
        ranges in prop::collection::vec((bound(), bound()), 6),
        turns in turns(),
        limit in 1..5usize,
    ) {
        let db = Db::from(pairs.clone()).unwrap();
        let reader = db.reader();
        let snapshot = reader.snapshot().unwrap();
        assert_alike(snapshot.iter().unwrap(), pairs.iter(), &turns);
        let mut prefixes = prefixes;
        prefixes.push(Vec::new());
        for prefix in &prefixes {
            let expected: BTreeMap<_, _> =
                pairs.clone().into_iter().filter(|(key, _)| key.starts_with(prefix)).collect();
            assert_alike(snapshot.prefix(prefix).unwrap(), expected.iter(), &turns);

            let (mut paged, mut after) = (Vec::new(), None::<Key>);
            loop {
                let page = reader.page(prefix, after.as_deref(), limit).unwrap();
                prop_assert!(page.len() <= limit);
                let Some((last, _)) = page.last() else { break };
                after = Some(last.clone());
                paged.extend(page);
            }
            prop_assert_eq!(paged, expected.into_iter().collect::<Vec<_>>());
        }
        for (start, end) in ranges {
            // A range that ends before it starts is empty, and no reason to panic.
            let expected: BTreeMap<_, _> = pairs
                .clone()
                .into_iter()
                .filter(|(key, _)| match &start {
                    Bound::Unbounded => true,
                    Bound::Included(start) => key >= start,
                    Bound::Excluded(start) => key > start,
                })
                .filter(|(key, _)| match &end {
                    Bound::Unbounded => true,
                    Bound::Included(end) => key <= end,
                    Bound::Excluded(end) => key < end,
                })
                .collect();
            assert_alike(snapshot.range((start, end)).unwrap(), expected.iter(), &turns);
        }
    }
}

#[test]
fn several_keys_are_of_one_moment() {
    let db = Db::from([("a", "1"), ("b", "2")]).unwrap();
    let reader = db.reader();
    let snapshot = reader.snapshot().unwrap();
    db.apply([("a", Some("3")), ("b", None)]).unwrap();
    let old = snapshot.multi_get(&["b", "x", "a"]).unwrap();
    let old: Vec<_> = old.iter().map(|value| value.as_deref()).collect();
    assert_eq!(old, [Some(&b"2"[..]), None, Some(&b"1"[..])]);
    assert_eq!(reader.multi_get(&["b", "a"]).unwrap(), [None, Some(b"3".to_vec())]);
    assert!(reader.multi_get(&["a", ""]).is_err(), "an empty key is no key");
    assert_eq!(reader.multi_get::<&str>(&[]).unwrap(), Vec::<Option<Vec<u8>>>::new());
}

#[test]
fn a_buffer_is_used_again() {
    let long = "long".repeat(10_000);
    let db = Db::from([("short", "value"), ("long", &long), ("empty", "")]).unwrap();
    let reader = db.reader();
    let mut buffer = Vec::new();
    assert!(reader.get_into(b"long", &mut buffer).unwrap());
    assert_eq!(buffer, long.as_bytes());
    let place = buffer.as_ptr();
    for (key, expected) in [("short", "value"), ("long", &long), ("empty", ""), ("short", "value")]
    {
        assert!(reader.get_into(key.as_bytes(), &mut buffer).unwrap());
        assert_eq!(buffer, expected.as_bytes());
        assert_eq!(buffer.as_ptr(), place, "no new memory");
    }
    assert!(!reader.get_into(b"nobody", &mut buffer).unwrap());
    assert!(buffer.is_empty());
    buffer.extend_from_slice(b"old");
    assert!(reader.get_into(b"", &mut buffer).is_err());
    assert!(buffer.is_empty());
}
