#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::net::replication::tests::{DB, batch};
use proptest::prelude::*;
use quicksilver_format::Heartbeat;
use quicksilver_protocol::recent::Item;

const SMALL: FeedLimits =
    FeedLimits { items: 4, bytes: 1 << 20, pending_batches: 2, pending_bytes: 1 << 20 };

fn genesis() -> Position {
    Position::genesis(DB)
}

fn feed() -> Feed {
    Feed::new(SMALL, genesis())
}

/// Pushes a batch of `entries` entries; it is not committed.
fn push(feed: &Feed, entries: usize) -> Batch {
    let next = batch(feed.state().end, entries, 0);
    feed.push_batch(feed.state().epoch, &next, || ()).unwrap();
    next
}

fn heartbeat(feed: &Feed, after: Index) -> Heartbeat {
    let heartbeat = Heartbeat { root_clock_us: after.get() + 1, after };
    feed.push_control(feed.state().epoch, heartbeat.to_record(), || ()).unwrap();
    heartbeat
}

fn read_batch(feed: &Feed, cursor: &mut Cursor) -> Position {
    match feed.read(*cursor) {
        Read::Item(Item::Batch(frame), next) => {
            *cursor = next;
            frame.header().after()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_item_can_be_read_before_it_is_committed() {
    let feed = feed();
    let mut cursor = feed.join(&genesis()).unwrap().cursor;
    assert!(matches!(feed.read(cursor), Read::Empty));
    let pushed = push(&feed, 3);
    assert_eq!(feed.state().committed, genesis());
    assert_eq!(read_batch(&feed, &mut cursor), pushed.after());
    assert!(matches!(feed.read(cursor), Read::Empty));
}

#[test]
fn only_the_next_batch_is_taken_and_handed_on() {
    let feed = feed();
    push(&feed, 1);
    let wrong = batch(genesis(), 1, 0);
    let refused = feed.push_batch(feed.state().epoch, &wrong, || panic!("handed on"));
    assert!(matches!(refused, Err(PushError::NotNext { .. })));
    let other_past = batch(batch(genesis(), 1, 9).after(), 1, 9);
    let refused = feed.push_batch(feed.state().epoch, &other_past, || panic!("handed on"));
    assert!(matches!(refused, Err(PushError::NotNext { .. })));
}

#[test]
fn what_is_pending_is_bounded_and_never_evicted() {
    let feed = feed();
    let first = push(&feed, 1);
    assert!(feed.has_room());
    let second = push(&feed, 1);
    assert!(!feed.has_room());
    for _ in 0..10 {
        heartbeat(&feed, second.last());
    }
    assert_eq!(feed.state().items, 12, "everything behind an uncommitted batch is pending");
    assert!(feed.join(&genesis()).is_some());
    feed.committed(first.after());
    assert!(!feed.has_room(), "ten records still wait behind the second batch");
    feed.committed(second.after());
    assert!(feed.has_room());
    assert_eq!(feed.state().items, SMALL.items);
    assert_eq!(feed.state().pending_batches, 0);
}

/// A batch that compresses well is small here and large at the writer.
#[test]
fn what_the_writer_holds_decompressed_is_pending_too() {
    let value = vec![b'x'; 100_000];
    let build = |before: Position| {
        let mut builder = quicksilver_format::BatchBuilder::new(before);
        builder.push(quicksilver_format::Entry::set(b"k", &value));
        builder.seal(1).unwrap()
    };
    let limits = FeedLimits { pending_batches: 100, pending_bytes: 150_000, ..SMALL };
    let feed = Feed::new(limits, genesis());
    let first = build(genesis());
    assert!(first.record().len() < 20_000);
    feed.push_batch(feed.state().epoch, &first, || ()).unwrap();
    assert!(feed.has_room());
    let second = build(first.after());
    feed.push_batch(feed.state().epoch, &second, || ()).unwrap();
    assert!(!feed.has_room());
    feed.committed(first.after());
    assert!(feed.has_room());
    feed.committed(second.after());
    assert_eq!(feed.state().pending_bytes, 0);
}

#[test]
fn a_reader_that_comes_too_late_is_told_so() {
    let feed = feed();
    let cursor = feed.join(&genesis()).unwrap().cursor;
    for _ in 0..6 {
        let pushed = push(&feed, 1);
        feed.committed(pushed.after());
    }
    assert!(matches!(feed.read(cursor), Read::Evicted));
    assert!(feed.join(&genesis()).is_none(), "from the log, then");
    assert_eq!(feed.state().items, SMALL.items);
}

#[test]
fn joining_is_possible_at_every_end_of_a_batch_and_nowhere_else() {
    let feed = feed();
    let (first, second) = (push(&feed, 2), push(&feed, 3));
    for (position, rest) in [(genesis(), 2), (first.after(), 1), (second.after(), 0)] {
        let mut cursor = feed.join(&position).unwrap().cursor;
        for _ in 0..rest {
            read_batch(&feed, &mut cursor);
        }
        assert!(matches!(feed.read(cursor), Read::Empty));
    }
    let inside = Position { index: Index::new(3), hash: second.hash_at(Index::new(3)).unwrap() };
    assert!(feed.join(&inside).is_none());
    let other = Position { hash: genesis().hash, ..first.after() };
    assert!(feed.join(&other).is_none());
}

#[test]
fn whoever_joins_gets_the_newest_heartbeat_that_counts_there_once() {
    let feed = feed();
    let first = push(&feed, 1);
    let at_first = heartbeat(&feed, first.last());
    let joined = feed.join(&first.after()).unwrap();
    assert_eq!(joined.heartbeat, None, "it is the next item");
    assert!(matches!(feed.read(joined.cursor), Read::Item(Item::Control(_), _)));
    let second = push(&feed, 1);
    assert_eq!(feed.join(&second.after()).unwrap().heartbeat, Some(at_first));
    assert_eq!(feed.join(&genesis()).unwrap().heartbeat, None, "it comes later");
}

#[test]
fn a_reset_ends_everything_of_before() {
    let feed = feed();
    let cursor = feed.join(&genesis()).unwrap().cursor;
    let epoch = feed.state().epoch;
    let pushed = push(&feed, 2);
    feed.reset(genesis());
    assert!(matches!(feed.read(cursor), Read::Reset));
    let refused = feed.push_batch(epoch, &pushed, || panic!("handed on"));
    assert_eq!(refused, Err(PushError::Reset));
    assert_eq!(feed.state().end, genesis());
    assert!(feed.join(&pushed.after()).is_none());
    push(&feed, 1);
    assert!(matches!(feed.read(feed.join(&genesis()).unwrap().cursor), Read::Item(..)));
}

#[test]
fn facts_about_what_is_not_in_the_log_yet() {
    let feed = feed();
    let (first, second) = (push(&feed, 2), push(&feed, 3));
    feed.committed(first.after());
    let fact = |index| feed.fact(Index::new(index));
    assert_eq!(fact(1), None, "the log knows");
    assert_eq!(fact(2), None, "the log knows");
    assert_eq!(fact(3), second.hash_at(Index::new(3)).map(LogFact::Inside));
    assert_eq!(fact(5), Some(LogFact::Boundary(second.after().hash)));
    assert_eq!(fact(6), Some(LogFact::Beyond));
    let third = push(&feed, 1);
    assert_eq!(fact(5), Some(LogFact::Boundary(second.after().hash)));
    assert_eq!(fact(6), Some(LogFact::Boundary(third.after().hash)));
}

#[tokio::test]
async fn waiting_for_room_ends_with_a_commit_and_with_a_reset() {
    let feed = Arc::new(feed());
    push(&feed, 1);
    let second = push(&feed, 1);
    let wait = |feed: &Arc<Feed>| {
        let (feed, epoch) = (Arc::clone(feed), feed.state().epoch);
        tokio::spawn(async move { feed.wait_room(epoch).await })
    };
    let waiter = wait(&feed);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(!waiter.is_finished());
    feed.committed(second.after());
    waiter.await.unwrap();
    push(&feed, 1);
    push(&feed, 1);
    let waiter = wait(&feed);
    feed.reset(second.after());
    waiter.await.unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    Push(usize),
    Heartbeat,
    CommitSome(usize),
    Reset,
    Read,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1usize..4).prop_map(Step::Push),
        2 => Just(Step::Heartbeat),
        3 => (0usize..4).prop_map(Step::CommitSome),
        1 => Just(Step::Reset),
        4 => Just(Step::Read),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    /// A reader that falls back to the "log" (what is committed) when it is evicted or reset sees
    /// every batch once and in order; the bounds hold throughout.
    #[test]
    fn a_reader_never_misses_a_batch(steps in steps()) {
        let feed = feed();
        let mut on_disk: Vec<Batch> = Vec::new();
        let mut pending: std::collections::VecDeque<Batch> = Default::default();
        let mut reader = genesis();
        let mut cursor = feed.join(&reader).unwrap().cursor;
        for step in steps {
            match step {
                Step::Push(entries) if feed.has_room() => pending.push_back(push(&feed, entries)),
                Step::Push(_) => {}
                Step::Heartbeat if feed.has_room() => {
                    heartbeat(&feed, feed.state().end.index);
                }
                Step::Heartbeat => {}
                Step::CommitSome(n) => {
                    on_disk.extend(pending.drain(..n.min(pending.len())));
                    let end = on_disk.last().map_or(genesis(), Batch::after);
                    feed.committed(end);
                }
                Step::Reset => {
                    pending.clear();
                    feed.reset(on_disk.last().map_or(genesis(), Batch::after));
                }
                Step::Read => match feed.read(cursor) {
                    Read::Item(item, next) => {
                        cursor = next;
                        if let Item::Batch(frame) = item {
                            prop_assert_eq!(frame.header().before(), reader);
                            reader = frame.header().after();
                        }
                    }
                    Read::Empty => prop_assert_eq!(reader, feed.state().end),
                    Read::Evicted => match feed.join(&reader) {
                        // Only control records were evicted.
                        Some(joined) => cursor = joined.cursor,
                        None => {
                            let next = on_disk.iter().find(|batch| batch.before() == reader);
                            prop_assert!(next.is_some(), "evicted, and not on disk: a hole");
                            reader = next.map_or(reader, Batch::after);
                        }
                    },
                    Read::Reset => {
                        // It may have read what is gone; it begins anew with what is on disk.
                        reader = feed.state().end;
                        cursor = feed.join(&reader).unwrap().cursor;
                    }
                },
            }
            let state = feed.state();
            prop_assert!(state.pending_batches <= SMALL.pending_batches);
            prop_assert_eq!(state.pending_batches, pending.len());
            prop_assert!(state.items <= 2 * SMALL.items);
        }
    }
}
