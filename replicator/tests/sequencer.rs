//! The root decides once: what a transaction does, which index it gets and when it is sealed is
//! settled before anything is written, and nobody is answered before it is durable.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use quicksilver::Reader;
use quicksilver::environment::Environment;
use quicksilver_format::{
    Batch, BatchBuilder, ControlRecord, DbId, Entry, Heartbeat, HistoryId, Index,
    NEWEST_FORMAT_VERSION,
};
use quicksilver_replicator::net::node::WritePath;
use quicksilver_replicator::root::finalize::{Alone, FinalizeError};
use quicksilver_replicator::root::queue::{Order, WriteQueue, queue};
use quicksilver_replicator::root::request::{
    Answer, OpAnswer, SetWhen, Transaction, TxOp, WriteError,
};
use quicksilver_replicator::root::sequencer::{Outlet, Sequencer, Settings};
use quicksilver_replicator::store::{Asker, Committed, Pulse, Retention, Sizes, Store, StoreOrder};

mod common;
use common::make_very_long;

/// Longer than anything here takes; a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default, Clone)]
struct Seen(Arc<Mutex<Vec<(Instant, Batch)>>>, Arc<Mutex<Vec<Heartbeat>>>);

impl Outlet for Seen {
    fn batch(&mut self, batch: Batch, committed: &Committed) {
        assert_eq!(committed.state.log.last, batch.after());
        self.0.lock().unwrap().push((Instant::now(), batch));
    }
    fn control(&mut self, record: ControlRecord) {
        self.1.lock().unwrap().push(Heartbeat::from_record(&record).unwrap().unwrap());
    }
    fn switched(&mut self, _: &Environment) {}
    fn refused(&mut self, _: &FinalizeError) {}
    fn failed(&mut self, error: &FinalizeError) {
        panic!("{error}");
    }
}

struct Root {
    queue: WriteQueue,
    settings: Settings,
    reader: Reader,
    seen: Seen,
    thread: Option<JoinHandle<()>>,
    runtime: tokio::runtime::Runtime,
}

impl Root {
    fn start(dir: &Path, window_ms: u64, max_batch_bytes: usize, map_bytes: usize) -> Root {
        let sizes = Sizes { map_bytes, max_readers: 126 };
        let db_id = DbId::from_bytes([7; 16]);
        let store = Store::open(dir, db_id, HistoryId::random(), sizes).unwrap();
        let reader = store.reader().unwrap();
        let (queue, submissions) = queue(1 << 20, max_batch_bytes);
        let seen = Seen::default();
        let settings = Settings {
            window_ms,
            max_batch_bytes,
            max_db_bytes: 16 << 20,
            heartbeat_interval: Duration::from_millis(20),
            retention: Retention::UNLIMITED,
        };
        let sequencer =
            Sequencer::new(Alone::new(store), seen.clone(), submissions, settings, Pulse::new());
        let thread = Some(std::thread::spawn(move || sequencer.run()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Root { queue, settings, reader, seen, thread, runtime }
    }

    fn submit(&self, ops: Vec<TxOp>) -> Result<Answer, WriteError> {
        self.runtime.block_on(async { self.queue.submit(Transaction { ops }).await?.await })
    }

    fn submit_all(&self, all: Vec<Vec<TxOp>>) -> Vec<Result<Answer, WriteError>> {
        self.runtime.block_on(async {
            let mut promises = Vec::new();
            for ops in all {
                promises.push(self.queue.submit(Transaction { ops }).await.unwrap());
            }
            let mut answers = Vec::new();
            for promise in promises {
                answers.push(promise.await);
            }
            answers
        })
    }

    fn batches(&self) -> Vec<Batch> {
        self.seen.0.lock().unwrap().iter().map(|(_, batch)| batch.clone()).collect()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        self.queue.order(Order::Finish);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

const MIB: usize = 1 << 20;

fn root(dir: &Path) -> Root {
    Root::start(dir, 0, 32 * MIB, 1 << 30)
}

fn b(s: &str) -> Bytes {
    Bytes::copy_from_slice(s.as_bytes())
}

fn set(key: &str, value: &str) -> TxOp {
    TxOp::Set { key: b(key), value: b(value), when: SetWhen::Always }
}

fn set_when(key: &str, value: &str, when: SetWhen) -> TxOp {
    TxOp::Set { key: b(key), value: b(value), when }
}

fn del(key: &str) -> TxOp {
    TxOp::Del { key: b(key) }
}

fn get(key: &str) -> TxOp {
    TxOp::Get { key: b(key) }
}

#[test]
fn what_changes_nothing_takes_no_index() {
    let dir = tempfile::tempdir().unwrap();
    let root = root(dir.path());
    assert_eq!(root.submit(vec![del("nobody")]).unwrap().index, Index::ZERO);
    assert_eq!(root.submit(vec![set("a", "1")]).unwrap().index, Index::new(1));
    let again = root.submit(vec![set("a", "1")]).unwrap();
    assert_eq!((again.index, &again.ops[0]), (Index::new(1), &OpAnswer::Stored));
    // Back and forth within one transaction is two changes; the same twice is one.
    let both = root.submit(vec![set("a", "2"), set("a", "2"), set("a", "1")]).unwrap();
    assert_eq!(both.index, Index::new(3));
    assert_eq!(
        root.submit(vec![del("a"), del("a")]).unwrap().ops,
        [OpAnswer::Deleted(true), OpAnswer::Deleted(false)]
    );
    assert_eq!(root.reader.snapshot().unwrap().index(), Index::new(4));
}

#[test]
fn conditions_and_reads_see_the_steps_before_them() {
    let dir = tempfile::tempdir().unwrap();
    let root = root(dir.path());
    let answer = root
        .submit(vec![
            get("k"),
            set_when("k", "x", SetWhen::Present),
            set_when("k", "1", SetWhen::Absent),
            set_when("k", "2", SetWhen::Absent),
            get("k"),
            TxOp::Length { key: b("k") },
            set_when("k", "33", SetWhen::Present),
            get("k"),
            del("k"),
            get("k"),
        ])
        .unwrap();
    use OpAnswer::*;
    assert_eq!(
        answer.ops,
        [
            Value(None),
            NotStored,
            Stored,
            NotStored,
            Value(Some(b("1"))),
            Length(Some(1)),
            Stored,
            Value(Some(b("33"))),
            Deleted(true),
            Value(None),
        ]
    );
}

#[test]
fn an_answer_means_durable_and_visible() {
    let dir = tempfile::tempdir().unwrap();
    let root = root(dir.path());
    for n in 0..50 {
        let value = n.to_string();
        let answer = root.submit(vec![set("n", &value)]).unwrap();
        assert_eq!(root.reader.get(b"n").unwrap().unwrap(), value.as_bytes());
        assert!(root.reader.index().unwrap() >= answer.index);
    }
    drop(root);
    let reader = Reader::open(dir.path()).unwrap();
    assert_eq!(reader.get(b"n").unwrap().unwrap(), b"49");
}

/// A lone write is sealed at once; what arrives in the window after it is sealed together.
#[test]
fn at_most_one_batch_a_window() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::start(dir.path(), 60 * 60_000, 32 * MIB, 1 << 30);
    root.submit(vec![set("first", "1")]).unwrap();
    let promises: Vec<_> = (0..20)
        .map(|n| Transaction { ops: vec![set("k", &n.to_string())] })
        .map(|transaction| root.runtime.block_on(root.queue.submit(transaction)).unwrap())
        .collect();
    assert_eq!(root.batches().len(), 1, "a lone write does not wait, what comes after it does");
    root.queue.order(Order::Hurry);
    assert!(promises.into_iter().all(|promise| root.runtime.block_on(promise).is_ok()));
    let entries: Vec<_> = root.batches().iter().map(Batch::len).collect();
    assert_eq!(entries, [1, 20], "twenty writes in a window are one batch");
}

/// The window begins with the commit of what was sealed last, and its end seals what has come.
#[test]
fn the_end_of_the_window_seals() {
    const WINDOW_MS: u64 = 200;
    let dir = tempfile::tempdir().unwrap();
    let root = Root::start(dir.path(), WINDOW_MS, 32 * MIB, 1 << 30);
    let began = Instant::now();
    root.submit(vec![set("first", "1")]).unwrap();
    root.submit(vec![set("second", "1")]).unwrap();
    let seen = root.seen.0.lock().unwrap();
    assert_eq!(seen.len(), 2);
    // Not of the timer, of the clock: it may be a millisecond short.
    let waited = seen[1].0 - began;
    assert!(waited >= Duration::from_millis(WINDOW_MS - 1), "{waited:?}");
}

/// The window throttles commits; who only reads does not wait for one.
#[test]
fn reads_do_not_wait_for_the_window() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::start(dir.path(), 60 * 60_000, 32 * MIB, 1 << 30);
    root.submit(vec![set("a", "1")]).unwrap();
    let started = Instant::now();
    assert_eq!(root.submit(vec![get("a")]).unwrap().ops, [OpAnswer::Value(Some(b("1")))]);
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
}

#[test]
fn an_answer_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::start(dir.path(), 0, MIB, 1 << 30);
    root.submit(vec![set("a", &"v".repeat(MIB / 2))]).unwrap();
    root.submit(vec![get("a"), get("a")]).unwrap();
    let refused = root.submit(vec![set("b", "1"), get("a"), get("a"), get("a")]).unwrap_err();
    assert!(matches!(refused, WriteError::AnswerTooLarge { .. }), "{refused}");
    assert_eq!(root.submit(vec![get("b")]).unwrap().ops, [OpAnswer::Value(None)]);
}

#[test]
fn a_transaction_never_spans_two_batches() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::start(dir.path(), 50, MIB, 1 << 30);
    let value = "v".repeat(10_000);
    let transactions: Vec<Vec<TxOp>> = (0..60)
        .map(|t| (0..7).map(|n| set(&format!("{t:03}/{n}"), &format!("{value}{t}"))).collect())
        .collect();
    let answers = root.submit_all(transactions);
    let batches = root.batches();
    assert!(batches.len() >= 4, "{} batches", batches.len());
    for answer in answers {
        let last = answer.unwrap().index;
        let first = Index::new(last.get() - 6);
        let holds = |batch: &Batch| batch.first() <= first && last <= batch.last();
        assert!(batches.iter().any(holds), "{first} to {last} is cut");
    }
    for batch in &batches {
        assert_eq!(batch.len() % 7, 0, "{batch:?} holds part of a transaction");
        assert!(batch.payload_bytes() <= MIB);
    }
}

#[test]
fn what_can_never_fit_is_refused_at_the_door() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::start(dir.path(), 0, MIB, 1 << 30);
    let refused = root.submit(vec![set("k", &"v".repeat(MIB + 1))]).unwrap_err();
    assert!(matches!(refused, WriteError::TooLarge { .. }), "{refused}");
    let refused = root.submit((0..100_001).map(|_| get("k")).collect()).unwrap_err();
    assert!(matches!(refused, WriteError::TooLarge { .. }), "{refused}");
    root.submit(vec![set("k", "v")]).unwrap();
}

/// A database whose keys `a`, `b` and `c` seem to have very long values.
fn with_long_values(dir: &Path) {
    let db_id = DbId::from_bytes([7; 16]);
    let sizes = Sizes { map_bytes: 1 << 30, max_readers: 126 };
    let mut store = Store::open(dir, db_id, HistoryId::random(), sizes).unwrap();
    let mut builder = BatchBuilder::new(store.end());
    for key in ["a", "b", "c"] {
        builder.push(Entry::set(key.as_bytes(), &[b'v'; 60_000]));
    }
    store.apply(&[builder.seal(1).unwrap()]).unwrap();
    make_very_long(&store, &["a", "b", "c"]);
}

/// Story: three clients delete or overwrite long values in one window. A DEL is a few bytes, but
/// every chunk of every value has to go, on every node, in the commit that has the batch.
#[test]
fn a_batch_frees_so_much_and_leaves_the_rest_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    with_long_values(dir.path());
    let root = Root::start(dir.path(), 60_000, 32 * MIB, 1 << 30);
    root.submit(vec![set("d", "1")]).unwrap();
    let promises: Vec<_> = [vec![del("a")], vec![set("d", "2"), set("b", "short")], vec![del("c")]]
        .into_iter()
        .map(|ops| root.runtime.block_on(root.queue.submit(Transaction { ops })).unwrap())
        .collect();
    root.queue.order(Order::Hurry);
    let answers = promises.into_iter().map(|promise| root.runtime.block_on(promise).unwrap());
    assert_eq!(answers.map(|answer| answer.index.get()).collect::<Vec<_>>(), [5, 7, 8]);
    let entries: Vec<_> = root.batches().iter().map(Batch::len).collect();
    assert_eq!(entries, [1, 3, 1], "a, d and b are one batch, c the next");
}

#[test]
fn a_transaction_that_frees_too_much_is_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    with_long_values(dir.path());
    let root = root(dir.path());
    let refused = root.submit(vec![set("d", "1"), del("a"), set("b", "1"), del("c")]).unwrap_err();
    let expected = WriteError::FreesTooMuch { changes: 4, freed_chunks: 120_000, max: 100_000 };
    assert_eq!(refused, expected);
    assert!(refused.to_string().contains("split it"), "{refused}");
    let length = |key: &str| TxOp::Length { key: b(key) };
    let answer = root.submit(vec![length("a"), length("b"), length("c"), get("d")]).unwrap();
    let [a, d] = [OpAnswer::Length(Some(60_000)), OpAnswer::Value(None)];
    assert_eq!(answer.ops, [a.clone(), a.clone(), a, d], "nothing of it was stored");
    // What is stored goes once, however often the key changes; and what changes nothing frees nothing.
    let twice = vec![set("a", "1"), set("a", "2"), del("a"), set_when("c", "1", SetWhen::Absent)];
    assert_eq!(root.submit(twice).unwrap().index, Index::new(6));
    root.submit(vec![del("b"), del("c")]).unwrap();
    assert!(root.reader.snapshot().unwrap().is_empty());
}

#[test]
fn a_full_map_refuses_writers_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::start(dir.path(), 0, 32 * MIB, 4 * MIB);
    root.submit(vec![set("a", "1")]).unwrap();
    let noise: String = (0..6 * MIB as u64)
        .map(|n| char::from(b'0' + (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as u8))
        .collect();
    let refused = root.submit(vec![set("b", &noise)]).unwrap_err();
    assert!(matches!(refused, WriteError::Storage(_)), "{refused}");
    assert_eq!(root.reader.get(b"b").unwrap(), None);
    assert_eq!(root.submit(vec![set("c", "3")]).unwrap().index, Index::new(2));
}

/// Whatever is written, there is room left to delete it again.
#[test]
fn a_nearly_full_map_still_deletes() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::start(dir.path(), 0, MIB, 8 * MIB);
    let mut state = 7u64;
    let mut stored = Vec::new();
    let refused = loop {
        let noise: String = (0..100_000)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                char::from(b'!' + (state % 90) as u8)
            })
            .collect();
        let key = format!("{:04}", stored.len());
        match root.submit(vec![set(&key, &noise)]) {
            Ok(_) => stored.push(key),
            Err(refused) => break refused,
        }
        assert!(stored.len() < 1000, "the map never filled up");
    };
    assert!(refused.to_string().contains("nearly full"), "{refused}");
    for key in &stored {
        let answer = root.submit(vec![del(key)]).unwrap();
        assert_eq!(answer.ops, [OpAnswer::Deleted(true)]);
    }
    assert!(root.reader.snapshot().unwrap().is_empty());
}

/// Lag is measured by heartbeats, so they must not wait for a window.
#[test]
fn heartbeats_go_on_in_a_long_window() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::start(dir.path(), 60 * 60_000, 32 * MIB, 1 << 30);
    root.submit(vec![set("a", "1")]).unwrap();
    let ops = vec![set("a", "2")];
    let promise = root.runtime.block_on(root.queue.submit(Transaction { ops })).unwrap();
    let before = root.seen.1.lock().unwrap().len();
    let deadline = Instant::now() + PATIENCE;
    while root.seen.1.lock().unwrap().len() < before + 5 {
        assert!(Instant::now() < deadline, "no heartbeat in the window");
        std::thread::yield_now();
    }
    drop(promise);
}

#[test]
fn a_database_over_its_limit_shrinks_but_does_not_grow() {
    let dir = tempfile::tempdir().unwrap();
    let root = root(dir.path());
    let value = "v".repeat(9 * MIB);
    root.submit(vec![set("a", &value)]).unwrap();
    root.submit(vec![set("b", &value)]).unwrap();
    let refused = root.submit(vec![set("c", "1")]).unwrap_err();
    assert!(refused.to_string().contains("limits.max_db_bytes is 16777216"), "{refused}");
    root.submit(vec![del("a")]).unwrap();
    root.submit(vec![set("c", "1")]).unwrap();
}

#[test]
fn heartbeats_follow_what_was_sealed_before_them() {
    let dir = tempfile::tempdir().unwrap();
    let root = root(dir.path());
    root.submit(vec![set("a", "1")]).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !root.seen.1.lock().unwrap().iter().any(|beat| beat.after == Index::new(1)) {
        assert!(Instant::now() < deadline, "no heartbeat after the write");
        std::thread::yield_now();
    }
    let heartbeat = root.reader.status().unwrap().page.unwrap().heartbeat_us;
    assert!(heartbeat.is_some(), "a root's own heartbeat counts at once");
}

#[test]
fn stopping_answers_everyone() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::start(dir.path(), 60_000, 32 * MIB, 1 << 30);
    root.submit(vec![set("a", "0")]).unwrap();
    // These wait for a window that would take a minute.
    let promises: Vec<_> = root.runtime.block_on(async {
        let mut promises = Vec::new();
        for n in 1..10 {
            let ops = vec![set("a", &n.to_string())];
            promises.push(root.queue.submit(Transaction { ops }).await.unwrap());
        }
        promises
    });
    root.queue.order(Order::Finish);
    for promise in promises {
        root.runtime.block_on(promise).unwrap();
    }
    assert_eq!(root.reader.get(b"a").unwrap().unwrap(), b"9");
    let refused = root.submit(vec![set("a", "late")]).unwrap_err();
    assert_eq!(refused, WriteError::ShuttingDown);
}

/// Story: the process is about to leave. Who waits for a window that would take a minute is answered
/// at once, and so is who comes after that; nobody is turned away.
#[test]
fn in_a_hurry_nothing_waits_for_a_window() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::start(dir.path(), 60_000, 32 * MIB, 1 << 30);
    root.submit(vec![set("a", "0")]).unwrap();
    let ops = vec![set("a", "1")];
    let waits = root.runtime.block_on(root.queue.submit(Transaction { ops })).unwrap();
    root.queue.order(Order::Hurry);
    root.runtime.block_on(waits).unwrap();
    root.submit(vec![set("a", "2")]).unwrap();
    assert_eq!(root.reader.get(b"a").unwrap().unwrap(), b"2");
}

/// Story: an operator finalises the format while writers wait for the end of a long window. It is
/// done at once, and they are answered as before.
#[test]
fn the_format_is_raised_between_two_batches() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::start(dir.path(), 60_000, 32 * MIB, 1 << 30);
    root.submit(vec![set("a", "0")]).unwrap();
    let ops = vec![set("a", "1")];
    let waits = root.runtime.block_on(root.queue.submit(Transaction { ops })).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let asker = Asker::new(move |answer| tell.send(answer).unwrap());
    root.queue.order(Order::Store(StoreOrder::RaiseFormat(asker)));
    let change = told.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(change.to, NEWEST_FORMAT_VERSION);
    assert_eq!(root.reader.status().unwrap().format, NEWEST_FORMAT_VERSION);
    root.queue.order(Order::Hurry);
    root.runtime.block_on(waits).unwrap();
    assert_eq!(root.reader.get(b"a").unwrap().unwrap(), b"1");
}

/// Story: an operator makes the window short while writers wait for the end of a long one; whoever
/// comes after that waits no longer than the new one.
#[test]
fn settings_change_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::start(dir.path(), 60_000, 32 * MIB, 1 << 30);
    root.submit(vec![set("a", "0")]).unwrap();
    let settings = Settings { window_ms: 0, max_db_bytes: 4, ..root.settings };
    root.queue.order(Order::Use(settings));
    root.submit(vec![set("a", "1")]).unwrap();
    let full = |e: &WriteError| e.to_string().contains("limits.max_db_bytes is 4");
    let refused =
        root.submit(vec![set("b", "1234567")]).and_then(|_| root.submit(vec![set("b", "2")]));
    assert!(refused.as_ref().is_err_and(full), "{refused:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any mix of transactions ends as it would on a map, and the log replays to the same map.
    #[test]
    fn transactions_agree_with_a_map(
        transactions in prop::collection::vec(
            prop::collection::vec((0..5u8, 0..4u8, 0..5u8), 1..6), 1..20),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let root = root(dir.path());
        let mut model: BTreeMap<String, String> = BTreeMap::new();
        let mut all = Vec::new();
        let mut expected = Vec::new();
        for steps in &transactions {
            let mut ops = Vec::new();
            let mut answers = Vec::new();
            for (key, value, kind) in steps {
                let (key, value) = (format!("k{key}"), format!("v{value}"));
                let present = model.contains_key(&key);
                let (op, answer) = match kind {
                    0 => (del(&key), OpAnswer::Deleted(present)),
                    1 => (get(&key), OpAnswer::Value(model.get(&key).map(|v| b(v)))),
                    2 => (set(&key, &value), OpAnswer::Stored),
                    3 if present => (set_when(&key, &value, SetWhen::Absent), OpAnswer::NotStored),
                    3 => (set_when(&key, &value, SetWhen::Absent), OpAnswer::Stored),
                    _ if present => (set_when(&key, &value, SetWhen::Present), OpAnswer::Stored),
                    _ => (set_when(&key, &value, SetWhen::Present), OpAnswer::NotStored),
                };
                match (&op, &answer) {
                    (TxOp::Set { .. }, OpAnswer::Stored) => { model.insert(key, value); }
                    (TxOp::Del { .. }, _) => { model.remove(&key); }
                    _ => {}
                }
                ops.push(op);
                answers.push(answer);
            }
            all.push(ops);
            expected.push(answers);
        }
        for (answer, expected) in root.submit_all(all).into_iter().zip(expected) {
            prop_assert_eq!(answer.unwrap().ops, expected);
        }
        let mut replayed = BTreeMap::new();
        let mut next = Index::FIRST;
        for batch in root.batches() {
            prop_assert_eq!(batch.first(), next);
            next = batch.last().next();
            for (_, entry) in batch.entries() {
                let key = String::from_utf8(entry.key.to_vec()).unwrap();
                match entry.op {
                    quicksilver_format::Op::Set(value) => {
                        let value = String::from_utf8(value.to_vec()).unwrap();
                        prop_assert_ne!(replayed.insert(key, value.clone()), Some(value), "a no-op in the log");
                    }
                    quicksilver_format::Op::Del => prop_assert!(replayed.remove(&key).is_some(), "a no-op in the log"),
                }
            }
        }
        prop_assert_eq!(&replayed, &model);
    }
}
