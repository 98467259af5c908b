//! What changes is told: in order, once, only when it is visible, and never with a silent gap. A
//! parsed value is parsed again when its key changed and not otherwise.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use quicksilver::testing::Db;
use quicksilver::{Cached, Change, HistoryId, Index, Reader};
use quicksilver_format::meta::LogState;

const SOON: Duration = Duration::from_secs(60);

fn set(index: u64, key: &str, value: &str) -> Change {
    Change::Set { index: Index::new(index), key: key.into(), value: value.into() }
}

fn del(index: u64, key: &str) -> Change {
    Change::Del { index: Index::new(index), key: key.into() }
}

#[test]
fn changes_come_in_order_and_only_those_of_the_prefix() {
    let db = Db::from([("zone/a", "1"), ("other", "2")]).unwrap();
    let reader = db.reader();
    let start = reader.index().unwrap();
    let mut all = reader.changes(Index::ZERO, b"").unwrap();
    let mut zones = reader.changes(start, b"zone/").unwrap();
    assert_eq!(zones.poll().unwrap(), None);
    assert_eq!(zones.position(), start);

    db.apply([("zone/b", Some("3")), ("zoo", Some("4")), ("zone/a", None)]).unwrap();
    db.apply([("zone/b", Some("5"))]).unwrap();
    assert_eq!(zones.next_within(SOON).unwrap(), Some(set(3, "zone/b", "3")));
    assert_eq!(zones.position(), Index::new(4), "entry 4 does not concern it");
    assert_eq!(zones.next_within(SOON).unwrap(), Some(del(5, "zone/a")));
    assert_eq!(zones.next_within(SOON).unwrap(), Some(set(6, "zone/b", "5")));
    assert_eq!(zones.next_within(Duration::ZERO).unwrap(), None);
    assert_eq!(zones.position(), Index::new(6));

    let seen: Vec<u64> = (0..6).map(|_| all.next().unwrap().unwrap().index().get()).collect();
    assert_eq!(seen, [1, 2, 3, 4, 5, 6]);
    // One that begins where another is goes on there.
    db.apply([("zone/c", Some("6"))]).unwrap();
    let mut resumed = reader.changes(zones.position(), b"zone/").unwrap();
    assert_eq!(resumed.poll().unwrap(), Some(set(7, "zone/c", "6")));
}

#[test]
fn a_sleeping_feed_is_woken_by_a_commit() {
    let db = Db::from([("a", "1")]).unwrap();
    let reader = db.reader();
    let mut changes = reader.changes(reader.index().unwrap(), b"").unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || changes.next_within(SOON).unwrap());
        db.apply([("a", Some("2"))]).unwrap();
        assert_eq!(waiting.join().unwrap(), Some(set(2, "a", "2")));
    });
}

/// Story: the replicator collects the log while a service is stopped. The service learns that it
/// missed something, reads everything again, and goes on without a gap.
#[test]
fn a_feed_that_fell_behind_is_told_to_rescan() {
    let db = Db::from([("a", "1")]).unwrap();
    let reader = db.reader();
    let mut late = reader.changes(Index::ZERO, b"").unwrap();
    db.apply([("b", Some("2"))]).unwrap();
    let environment = db.environment().unwrap();
    let collect = |oldest: u64| {
        let mut txn = environment.env.write().unwrap();
        let state = environment.log_state(&txn).unwrap();
        let state = LogState { oldest: Index::new(oldest), ..state };
        txn.put(environment.meta, LogState::KEY, &state.encode()).unwrap();
        txn.commit().unwrap();
    };
    collect(2);
    assert_eq!(late.poll().unwrap(), Some(Change::Rescan { index: Index::new(2) }));
    assert_eq!(late.poll().unwrap(), None);
    db.apply([("c", Some("3"))]).unwrap();
    assert_eq!(late.poll().unwrap(), Some(set(3, "c", "3")));
    // Exactly at the boundary nothing is missing.
    collect(3);
    let mut just = reader.changes(Index::new(2), b"").unwrap();
    assert_eq!(just.poll().unwrap(), Some(set(3, "c", "3")));
    let mut one_short = reader.changes(Index::new(1), b"").unwrap();
    assert!(matches!(one_short.poll().unwrap(), Some(Change::Rescan { .. })));
}

#[test]
fn a_feed_goes_on_across_generations_and_is_told_of_another_past() {
    let db = Db::from([("a", "1")]).unwrap();
    let reader = db.reader();
    let history = reader.status().unwrap().history;
    let mut changes = reader.changes(reader.index().unwrap(), b"").unwrap();
    assert_eq!(changes.poll().unwrap(), None);
    // A compaction: the same past, at the same index or a later one.
    db.replace(history, [("b", "2")]).unwrap();
    assert_eq!(changes.poll().unwrap(), Some(set(2, "b", "2")));
    // A restore: another past.
    db.replace(HistoryId::random(), [("c", "3")]).unwrap();
    assert_eq!(changes.poll().unwrap(), Some(Change::Rescan { index: Index::new(3) }));
    db.apply([("d", Some("4"))]).unwrap();
    assert_eq!(changes.poll().unwrap(), Some(set(4, "d", "4")));
}

/// A copy that is kept by the feed is the database, whatever is written and however often somebody
/// begins anew.
#[test]
fn a_copy_kept_by_the_feed_is_the_database() {
    const ROUNDS: u32 = 300;
    let db = Db::from([("k0", "0")]).unwrap();
    let reader = db.reader();
    let load = |copy: &mut BTreeMap<Vec<u8>, Vec<u8>>| {
        let snapshot = reader.snapshot().unwrap();
        *copy = snapshot
            .iter()
            .unwrap()
            .map(|pair| pair.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap())
            .collect();
        snapshot.index()
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..ROUNDS {
                let (one, other) = (format!("k{}", n % 17), format!("k{}", n % 5));
                let value = n.to_string();
                db.apply([(one, Some(value)), (other, None)]).unwrap();
            }
            db.apply([("end", Some("here"))]).unwrap();
        });
        let mut copy = BTreeMap::new();
        let mut changes = reader.changes(load(&mut copy), b"").unwrap();
        let mut last = Index::ZERO;
        while !copy.contains_key(&b"end"[..]) {
            let change = changes.next_within(SOON).unwrap().unwrap();
            assert!(change.index() > last, "{change:?} after {last}");
            last = change.index();
            match change {
                Change::Set { key, value, .. } => drop(copy.insert(key, value)),
                Change::Del { key, .. } => drop(copy.remove(&key)),
                Change::Rescan { .. } => panic!("nothing was collected"),
            }
        }
        let mut now = BTreeMap::new();
        assert_eq!(load(&mut now), last);
        assert_eq!(copy, now);
    });
}

/// A cached number, and how often it was parsed.
fn counted(reader: &Reader) -> (Cached<Option<u32>>, Arc<AtomicU32>) {
    let parses = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&parses);
    let cached = Cached::new(reader, "limit", move |value| {
        count.fetch_add(1, Ordering::Relaxed);
        value.map(|text| std::str::from_utf8(text).unwrap().parse().unwrap())
    });
    (cached.unwrap(), parses)
}

#[test]
fn a_cached_value_is_parsed_once_for_every_write_of_its_key() {
    let db = Db::from([("limit", "10"), ("other", "x")]).unwrap();
    let reader = db.reader();
    let (limit, parses) = counted(&reader);
    let parsed = || parses.load(Ordering::Relaxed);
    for _ in 0..3 {
        assert_eq!(*limit.get().unwrap(), Some(10));
    }
    db.apply([("other", Some("y"))]).unwrap();
    assert_eq!(*limit.get().unwrap(), Some(10));
    assert_eq!(parsed(), 1, "another key changed");
    db.apply([("limit", Some("20"))]).unwrap();
    assert_eq!(*limit.get().unwrap(), Some(20));
    db.apply([("limit", None::<&str>)]).unwrap();
    assert_eq!(*limit.get().unwrap(), None);
    db.apply([("other", None::<&str>)]).unwrap();
    assert_eq!(*limit.get().unwrap(), None);
    db.apply([("limit", Some("30"))]).unwrap();
    assert_eq!(*limit.get().unwrap(), Some(30));
    assert_eq!(parsed(), 4);
    // In another past, the same index may have written something else.
    db.replace(HistoryId::random(), [("limit", "40")]).unwrap();
    assert_eq!(*limit.get().unwrap(), Some(40));
}

#[test]
fn a_cached_value_is_never_older_than_an_index_that_was_seen() {
    const WRITES: u32 = 500;
    let db = Db::from([("limit", "0")]).unwrap();
    let reader = db.reader();
    let (limit, _) = counted(&reader);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut last = 0;
                while last < WRITES {
                    // The first entry wrote 0, and each one after it the next number.
                    let floor = u32::try_from(reader.index().unwrap().get()).unwrap() - 1;
                    let now = limit.get().unwrap().unwrap();
                    assert!(now >= floor && now >= last, "{now}, seen {floor} and {last}");
                    last = now;
                }
            });
        }
        for n in 1..=WRITES {
            db.apply([("limit", Some(n.to_string()))]).unwrap();
        }
    });
}

#[cfg(feature = "tokio")]
mod in_a_runtime {
    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn a_task_is_woken_by_a_commit() {
        let db = Db::from([("a", "1")]).unwrap();
        let reader = db.reader();
        block_on(async {
            let next = reader.index().unwrap().next();
            let early = reader.wait_for_async(next, Duration::from_millis(5)).await.unwrap();
            assert_eq!(early.next(), next);
            let mut changes = reader.changes(early, b"").unwrap();
            // Many tasks, one thread that sleeps for them.
            let waiting: Vec<_> = (0..50)
                .map(|_| {
                    let reader = reader.clone();
                    tokio::spawn(async move { reader.wait_for_async(next, SOON).await.unwrap() })
                })
                .collect();
            let feed = tokio::spawn(async move { changes.next_within_async(SOON).await.unwrap() });
            tokio::task::yield_now().await;
            db.apply([("a", Some("2"))]).unwrap();
            for task in waiting {
                assert_eq!(task.await.unwrap(), next);
            }
            assert_eq!(feed.await.unwrap(), Some(set(2, "a", "2")));
        });
        // And again, after the thread had nobody to wake.
        block_on(async {
            let next = reader.index().unwrap().next();
            let waiting = reader.wait_for_async(next, SOON);
            db.apply([("a", Some("3"))]).unwrap();
            assert_eq!(waiting.await.unwrap(), next);
        });
    }
}
