//! The thread on which a relay applies what its upstream sends: it merges what has arrived into
//! one commit, counts a heartbeat only after what came before it, tries again when there is no
//! space, stays when something is damaged, and always ends when told to.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use quicksilver::Reader;
use quicksilver_format::{
    Batch, BatchBuilder, DbId, Entry, Heartbeat, HistoryId, Index, NEW_DATABASE_FORMAT_VERSION,
    NEWEST_FORMAT_VERSION, Position,
};
use quicksilver_replicator::store::writer::{Command, Observer, run};
use quicksilver_replicator::store::{
    Asker, Committed, FormatChange, Live, Pulse, Sizes, Store, StoreError, StoreOrder,
};

mod common;
use common::make_very_long;

#[derive(Debug, PartialEq)]
enum Seen {
    Committed { end: Index, batches: usize },
    Heartbeat(Heartbeat),
    WaitingForSpace,
    OutOfStep(Position),
    Healed(Position),
    History(HistoryId),
    Switched(u64),
    Damaged,
    Failed(String),
}

struct Report(Sender<Seen>);

impl Report {
    fn say(&self, seen: Seen) {
        let _ = self.0.send(seen);
    }
}

impl Observer for Report {
    fn committed(&mut self, committed: &Committed) {
        let (end, batches) = (committed.state.log.last.index, committed.batches);
        self.say(Seen::Committed { end, batches });
    }
    fn heartbeat(&mut self, heartbeat: Heartbeat) {
        self.say(Seen::Heartbeat(heartbeat));
    }
    fn waiting_for_space(&mut self, _: &StoreError) {
        self.say(Seen::WaitingForSpace);
    }
    fn out_of_step(&mut self, _: &StoreError, end: Position, forget: &mut dyn FnMut()) {
        forget();
        self.say(Seen::OutOfStep(end));
    }
    fn healed(&mut self, end: Position, forget: &mut dyn FnMut()) {
        forget();
        self.say(Seen::Healed(end));
    }
    fn history_adopted(&mut self, history: HistoryId, _: Position) {
        self.say(Seen::History(history));
    }
    fn switched(&mut self, live: &Live) {
        self.say(Seen::Switched(live.environment.generation.get()));
    }
    fn damaged(&mut self, _: &StoreError) {
        self.say(Seen::Damaged);
    }
    fn failed(&mut self, error: &StoreError) {
        self.say(Seen::Failed(error.to_string()));
    }
}

struct Writer {
    commands: Sender<Command>,
    seen: Receiver<Seen>,
    reader: Reader,
    genesis: Position,
    thread: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Writer {
    /// Starts the thread after `first` was sent, so that all of it has arrived at once.
    fn start(map_bytes: usize, first: Vec<Command>) -> Writer {
        Self::start_in(tempfile::tempdir().unwrap(), map_bytes, first)
    }

    fn start_in(dir: tempfile::TempDir, map_bytes: usize, first: Vec<Command>) -> Writer {
        let sizes = Sizes { map_bytes, max_readers: 126 };
        let store = Store::open(dir.path(), db_id(), HistoryId::NONE, sizes).unwrap();
        let (reader, genesis) = (store.reader().unwrap(), store.end());
        let (commands, received) = channel();
        let (report, seen) = channel();
        first.into_iter().for_each(|command| commands.send(command).unwrap());
        let thread =
            std::thread::spawn(move || run(store, &received, &mut Report(report), &Pulse::new()));
        Writer { commands, seen, reader, genesis, thread, _dir: dir }
    }

    fn send(&self, command: Command) {
        self.commands.send(command).unwrap();
    }

    fn next(&self) -> Seen {
        self.seen.recv_timeout(Duration::from_secs(60)).unwrap()
    }

    fn stop(self) {
        self.send(Command::Stop);
        let (done, ended) = channel();
        std::thread::spawn(move || done.send(self.thread.join().is_ok()));
        assert_eq!(ended.recv_timeout(Duration::from_secs(60)), Ok(true), "it did not end");
    }
}

fn db_id() -> DbId {
    DbId::from_bytes([7; 16])
}

fn batch(before: Position, key: &str, value: &[u8]) -> Batch {
    let mut builder = BatchBuilder::new(before);
    builder.push(Entry::set(key.as_bytes(), value));
    builder.seal(1).unwrap()
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 7u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(bytes)
    .collect()
}

#[test]
fn what_has_arrived_is_one_commit_and_heartbeats_count_after_it() {
    let first = batch(Position::genesis(db_id()), "a", b"1");
    let second = batch(first.after(), "b", b"2");
    let beat = |after| Heartbeat { root_clock_us: 5, after };
    let writer = Writer::start(
        1 << 30,
        vec![
            Command::Apply(first.clone()),
            Command::Heartbeat(beat(first.last())),
            Command::Apply(second.clone()),
            Command::Heartbeat(beat(second.last())),
        ],
    );
    assert_eq!(writer.next(), Seen::Committed { end: Index::new(2), batches: 2 });
    assert_eq!(writer.next(), Seen::Heartbeat(beat(first.last())));
    assert_eq!(writer.next(), Seen::Heartbeat(beat(second.last())));
    assert_eq!(writer.reader.get(b"b").unwrap().unwrap(), b"2");
    let history = HistoryId::random();
    writer.send(Command::AdoptHistory(history));
    assert_eq!(writer.next(), Seen::History(history));
    writer.stop();
}

/// Story: a relay that was away gets batch after batch in which long values are deleted. Each alone is
/// a commit that takes its time; together they would take so long that the process seems to hang.
#[test]
fn commits_grow_only_until_they_free_too_much() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = Sizes { map_bytes: 1 << 30, max_readers: 126 };
    let mut store = Store::open(dir.path(), db_id(), HistoryId::NONE, sizes).unwrap();
    let keys = ["a", "b", "c", "d"];
    for key in keys {
        store.apply(&[batch(store.end(), key, &[b'v'; 60_000])]).unwrap();
    }
    make_very_long(&store, &keys);
    let mut end = store.end();
    let mut commands: Vec<Command> = keys
        .iter()
        .map(|key| {
            let mut builder = BatchBuilder::new(end);
            builder.push(Entry::del(key.as_bytes()));
            let batch = builder.seal(1).unwrap();
            end = batch.after();
            Command::Apply(batch)
        })
        .collect();
    drop(store);
    let beat = Heartbeat { root_clock_us: 5, after: Index::new(8) };
    commands.push(Command::Heartbeat(beat));
    let writer = Writer::start_in(dir, 1 << 30, commands);
    assert_eq!(writer.next(), Seen::Committed { end: Index::new(6), batches: 2 });
    assert_eq!(writer.next(), Seen::Committed { end: Index::new(8), batches: 2 });
    assert_eq!(writer.next(), Seen::Heartbeat(beat));
    assert!(writer.reader.snapshot().unwrap().is_empty());
    writer.stop();
}

/// What came before the order is written in the old format, what comes after it in the new one.
#[test]
fn the_format_is_raised_in_its_turn() {
    let first = batch(Position::genesis(db_id()), "a", b"1");
    let second = batch(first.after(), "b", b"2");
    let (tell, told) = channel();
    let asker = Asker::new(move |answer| tell.send(answer).unwrap());
    let writer = Writer::start(
        1 << 30,
        vec![
            Command::Apply(first),
            Command::Store(StoreOrder::RaiseFormat(asker)),
            Command::Apply(second),
        ],
    );
    assert_eq!(writer.next(), Seen::Committed { end: Index::new(1), batches: 1 });
    assert_eq!(writer.next(), Seen::Committed { end: Index::new(2), batches: 1 });
    let change = told.recv().unwrap().unwrap();
    let expected = FormatChange { from: NEW_DATABASE_FORMAT_VERSION, to: NEWEST_FORMAT_VERSION };
    assert_eq!(change, expected);
    assert_eq!(writer.reader.status().unwrap().format, NEWEST_FORMAT_VERSION);
    writer.stop();
}

/// A hole is refused, and with it everything behind it, heartbeats included.
#[test]
fn out_of_step_nothing_behind_the_hole_counts() {
    let first = batch(Position::genesis(db_id()), "a", b"1");
    let second = batch(first.after(), "b", b"2");
    let writer = Writer::start(
        1 << 30,
        vec![
            Command::Apply(second.clone()),
            Command::Heartbeat(Heartbeat { root_clock_us: 5, after: second.last() }),
        ],
    );
    assert_eq!(writer.next(), Seen::OutOfStep(writer.genesis));
    assert_eq!(writer.reader.status().unwrap().page.unwrap().heartbeat_us, None);
    writer.send(Command::Apply(first));
    assert_eq!(writer.next(), Seen::Committed { end: Index::new(1), batches: 1 });
    writer.stop();
}

#[test]
fn without_space_it_tries_again_serves_and_still_ends() {
    let first = batch(Position::genesis(db_id()), "a", b"1");
    let large = batch(first.after(), "b", &noise(2 << 20));
    let writer = Writer::start(1 << 20, vec![Command::Apply(first)]);
    assert_eq!(writer.next(), Seen::Committed { end: Index::new(1), batches: 1 });
    writer.send(Command::Apply(large));
    assert_eq!(writer.next(), Seen::WaitingForSpace);
    assert_eq!(writer.next(), Seen::WaitingForSpace);
    assert_eq!(writer.reader.get(b"a").unwrap().unwrap(), b"1");
    writer.stop();
}

#[test]
fn damage_stops_applying_but_not_serving() {
    let first = batch(Position::genesis(db_id()), "a", b"1");
    let second = batch(first.after(), "b", b"2");
    let third = batch(second.after(), "a", b"3");
    let writer = Writer::start(1 << 30, vec![Command::Apply(first), Command::Apply(second)]);
    assert!(matches!(writer.next(), Seen::Committed { batches: 2, .. }));
    let environment = writer.reader.environment().unwrap();
    let mut txn = environment.env.write().unwrap();
    txn.put(environment.data, b"a", b"\xff").unwrap();
    txn.commit().unwrap();
    writer.send(Command::Apply(third));
    assert_eq!(writer.next(), Seen::Damaged);
    assert!(writer.reader.get(b"a").unwrap_err().is_corrupt());
    assert_eq!(writer.reader.get(b"b").unwrap().unwrap(), b"2");
    writer.stop();
}
