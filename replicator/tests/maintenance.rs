//! The maintenance beside a store that is written and read: what it makes is exactly what was there,
//! nobody is held up, nobody goes back in time, and what fails or is given up changes nothing.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use quicksilver::build::snapshot::{self, Receiving, SnapshotFile};
use quicksilver::environment::{Environment, live_generation};
use quicksilver::{Reader, verify};
use quicksilver_format::{Batch, BatchBuilder, DbId, Entry, HistoryId, Index, Position};
use quicksilver_lmdb::Transaction;
use quicksilver_replicator::store::maintenance::{
    JobKind, JobOutcome, Maintenance, MaintenanceStatus, NotStarted, Pages, Settings, StartAnswer,
    StoreAccess,
};
use quicksilver_replicator::store::writer::{Command, Observer, run};
use quicksilver_replicator::store::{
    Asker, Committed, Live, Pulse, Retention, Sizes, Store, StoreError, StoreOrder,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn db_id() -> DbId {
    DbId::from_bytes([7; 16])
}

/// What the writer's thread said, as far as it matters here.
#[derive(Clone)]
struct Seen {
    live: Arc<Mutex<Environment>>,
    committed: Arc<AtomicU64>,
    /// Who heard of a switch, in this order.
    heard: Arc<Mutex<Vec<&'static str>>>,
}

impl Observer for Seen {
    fn committed(&mut self, committed: &Committed) {
        self.committed.store(committed.state.log.last.index.get(), Ordering::SeqCst);
    }
    fn heartbeat(&mut self, _: quicksilver_format::Heartbeat) {}
    fn waiting_for_space(&mut self, error: &StoreError) {
        panic!("{error}");
    }
    fn healed(&mut self, _: Position, _: &mut dyn FnMut()) {}
    fn out_of_step(&mut self, error: &StoreError, _: Position, _: &mut dyn FnMut()) {
        panic!("{error}");
    }
    fn history_adopted(&mut self, _: HistoryId, _: Position) {}
    fn switched(&mut self, live: &Live) {
        *self.live.lock().unwrap() = live.environment.clone();
        self.heard.lock().unwrap().push("the node");
    }
    fn damaged(&mut self, _: &StoreError) {}
    fn failed(&mut self, error: &StoreError) {
        panic!("{error}");
    }
}

/// A store with its two threads.
struct Node {
    dir: PathBuf,
    commands: Sender<Command>,
    seen: Seen,
    end: Position,
    maintenance: Maintenance,
    threads: [JoinHandle<()>; 2],
}

impl Node {
    fn start(dir: &Path, settings: Settings, retention: Retention) -> Node {
        let sizes = Sizes { map_bytes: 1 << 30, max_readers: 126 };
        let mut store = Store::open(dir, db_id(), HistoryId::from_bytes([1; 16]), sizes).unwrap();
        store.set_retention(retention);
        let (end, holds) = (store.end(), store.holds().clone());
        let seen = Seen {
            live: Arc::new(Mutex::new(store.environment().clone())),
            committed: Arc::new(AtomicU64::new(end.index.get())),
            heard: Arc::default(),
        };
        let (commands, received) = channel();
        let mut observer = seen.clone();
        let writer = thread::spawn(move || run(store, &received, &mut observer, &Pulse::new()));
        let (live, orders, heard) = (seen.live.clone(), commands.clone(), seen.heard.clone());
        let access = StoreAccess {
            dir: dir.to_owned(),
            live: Box::new(move || live.lock().unwrap().clone()),
            order: Box::new(move |order| {
                let heard = heard.clone();
                let order = match order {
                    StoreOrder::Switch(copy, asker) => {
                        let asker = Asker::new(move |answer| {
                            heard.lock().unwrap().push("who ordered it");
                            asker.tell(answer);
                        });
                        StoreOrder::Switch(copy, asker)
                    }
                    other => other,
                };
                let _ = orders.send(Command::Store(order));
            }),
            holds,
        };
        let settings = Settings { map_bytes: 1 << 30, max_readers: 126, ..settings };
        let (maintenance, thread) = Maintenance::start(access, settings).unwrap();
        let threads = [thread, writer];
        Node { dir: dir.to_owned(), commands, seen, end, maintenance, threads }
    }

    /// Sends one batch; it is not waited for.
    fn write(&mut self, entries: &[(Vec<u8>, Option<Vec<u8>>)]) -> Batch {
        let mut builder = BatchBuilder::new(self.end);
        for (key, value) in entries {
            builder.push(match value {
                Some(value) => Entry::set(key, value),
                None => Entry::del(key),
            });
        }
        let batch = builder.seal(1).unwrap();
        self.end = batch.after();
        self.commands.send(Command::Apply(batch.clone())).unwrap();
        batch
    }

    fn settle(&self) {
        wait_for(|| {
            (self.seen.committed.load(Ordering::SeqCst) >= self.end.index.get()).then_some(())
        });
    }

    fn begin(&self, kind: JobKind) -> StartAnswer {
        let (tell, told) = channel();
        self.maintenance.begin(kind, Asker::new(move |answer| tell.send(answer).unwrap()));
        told.recv_timeout(PATIENCE).unwrap()
    }

    fn outcome(&self, kind: JobKind, job: u64) -> JobOutcome {
        wait_for(|| self.maintenance.status().last.remove(&kind).filter(|last| last.job == job))
    }

    fn live(&self) -> Environment {
        self.seen.live.lock().unwrap().clone()
    }

    /// Ends both threads, as a process does.
    fn stop(self) {
        self.maintenance.end();
        let [maintenance, writer] = self.threads;
        maintenance.join().unwrap();
        self.commands.send(Command::Stop).unwrap();
        writer.join().unwrap();
    }
}

fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "it does not come");
        thread::yield_now();
    }
}

fn key(n: u32) -> Vec<u8> {
    format!("key {n:08}").into_bytes()
}

/// Bytes that Snappy cannot make fewer.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let word = |n: u64| (seed * 1_000_003 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    (0..bytes.div_ceil(8) as u64)
        .flat_map(|n| word(n).wrapping_mul(n | 1).to_le_bytes())
        .take(bytes)
        .collect()
}

/// Ten thousand keys, written twice, and nine tenths of them removed.
fn fill_and_thin(node: &mut Node) {
    for round in 0..2 {
        for n in 0..20u32 {
            let pairs: Vec<_> = (0..500)
                .map(|k| (key(n * 500 + k), Some(noise(u64::from(n * 500 + k + round), 700))))
                .collect();
            node.write(&pairs);
        }
    }
    let gone: Vec<_> = (0..10_000).filter(|n| n % 10 > 0).map(|n| (key(n), None)).collect();
    node.write(&gone);
    node.settle();
}

fn names(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name.starts_with("gen-"));
    names.sort();
    names
}

/// Story: a database is compacted while batches come, and long values with them, and readers read.
/// Every reader sees every index once, in order; in the end it is what it would be without.
#[test]
fn a_compaction_under_load_is_seen_by_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let keep_little = Retention { max_bytes: 1 << 20, ..Retention::UNLIMITED };
    let mut node = Node::start(dir.path(), Settings::default(), keep_little);
    fill_and_thin(&mut node);
    let before = Pages::of(&node.live()).unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let reading = Arc::new(Barrier::new(3));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (dir, ended, reading) = (dir.path().to_owned(), ended.clone(), reading.clone());
            thread::spawn(move || {
                let reader = Reader::open(&dir).unwrap();
                let (mut last, mut generations) = (Index::ZERO, Vec::new());
                let mut more = true;
                while more {
                    // Once more when it has ended: whoever had no processor sees the last one.
                    more = !ended.load(Ordering::SeqCst);
                    let snapshot = reader.snapshot().unwrap();
                    let index = snapshot.position().index;
                    assert!(index >= last, "back from {last} to {index}");
                    last = index;
                    // Both are written together.
                    assert_eq!(snapshot.get(b"twin a").unwrap(), snapshot.get(b"twin b").unwrap());
                    let first = generations.is_empty();
                    generations.push(snapshot.environment().generation);
                    generations.dedup();
                    if first {
                        reading.wait();
                    }
                }
                generations
            })
        })
        .collect();
    reading.wait();
    let (mut compactions, mut n) = (0, 0u32);
    while compactions < 3 {
        let job = node.begin(JobKind::Compaction).unwrap();
        match node.begin(JobKind::Verification) {
            Err(NotStarted::Busy { kind: JobKind::Compaction, .. }) => {}
            // It was quick. The next one is not begun beside another job.
            Ok(verification) => {
                node.outcome(JobKind::Verification, verification);
            }
            Err(other) => panic!("{other:?}"),
        }
        // Until it has ended, but not more than the file can hold beside it.
        let most = n + 200;
        wait_for(|| {
            let last = node.maintenance.status().last.remove(&JobKind::Compaction);
            let ended = last.filter(|last| last.job == job);
            if n == most {
                return ended;
            }
            n += 1;
            let long = noise(n.into(), (n as usize * 7919) % 60_000);
            let twin = Some(n.to_be_bytes().to_vec());
            node.write(&[
                (b"twin a".to_vec(), twin.clone()),
                (key(n % 9_000), (n % 5 > 0).then(|| noise(n.into(), 300))),
                (key(20_000 + n % 40), (n % 7 > 0).then_some(long)),
                (b"twin b".to_vec(), twin),
            ]);
            node.settle();
            ended
        });
        let outcome = node.outcome(JobKind::Compaction, job);
        assert!(outcome.ok, "{}", outcome.message);
        compactions += 1;
    }
    node.settle();
    ended.store(true, Ordering::SeqCst);
    for reader in readers {
        let generations = reader.join().unwrap();
        assert!(generations.len() > 1 && generations.is_sorted(), "{generations:?}");
    }
    assert_eq!(live_generation(dir.path()).unwrap().get(), 4);
    // Whoever has it switched goes on at once, and must find it everywhere.
    let heard = node.seen.heard.lock().unwrap().clone();
    assert_eq!(heard, ["the node", "who ordered it"].repeat(3));
    let after = Pages::of(&node.live()).unwrap();
    assert!(after.file_bytes < before.file_bytes / 2, "{before:?}, {after:?}");
    // The old ones go as soon as nobody is in them.
    wait_for(|| (names(dir.path()) == ["gen-000004"]).then_some(()));
    let live = node.live();
    let report = verify::verify(&live, |_| {}).unwrap();
    assert!(report.is_clean(), "{:?}", report.problems);
    let applied = live.applied(&live.env.read().unwrap()).unwrap();
    assert_eq!(applied.position, node.end);
    node.stop();
}

/// Story: a compaction is slow, and the log is short. It is held until the copy has it.
#[test]
fn the_log_is_held_while_it_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let slow = Settings { copy_bytes_per_second: 1 << 20, ..Settings::default() };
    let keep_little =
        Retention { max_bytes: 256 << 10, held_bytes: 64 << 20, max_age_us: u64::MAX };
    let mut node = Node::start(dir.path(), slow, keep_little);
    fill_and_thin(&mut node);
    let pairs: Vec<_> = (0..20_000).map(|n| (key(n), Some(noise(n.into(), 800)))).collect();
    pairs.chunks(1000).for_each(|pairs| {
        node.write(pairs);
    });
    node.settle();
    let job = node.begin(JobKind::Compaction).unwrap();
    wait_for(|| node.maintenance.status().running.filter(|job| job.done_bytes > 0));
    let began = node.end.index;
    for n in 0..100u32 {
        node.write(&[(key(n), Some(noise(n.into(), 20_000)))]);
    }
    node.settle();
    let running = node.maintenance.status().running.unwrap();
    assert!(running.done_bytes <= running.total_bytes && running.eta_seconds.unwrap() > 0.0);
    let live = node.live();
    let log = live.log_state(&live.env.read().unwrap()).unwrap();
    assert!(log.oldest <= began, "the copy needs what came after {began}, {} is left", log.oldest);
    // And let go of afterwards.
    node.maintenance.take_over(Settings {
        map_bytes: 1 << 30,
        max_readers: 126,
        ..Settings::default()
    });
    let outcome = node.outcome(JobKind::Compaction, job);
    assert!(outcome.ok, "{}", outcome.message);
    for n in 0..100u32 {
        node.write(&[(key(n), Some(noise(n.into(), 20_000)))]);
    }
    node.settle();
    let live = node.live();
    let log = live.log_state(&live.env.read().unwrap()).unwrap();
    assert!(log.oldest > began, "{}", log.oldest);
    node.stop();
}

/// Story: more is written than may be held. The copy is given up, nothing has changed, and the next
/// one is made.
#[test]
fn a_copy_that_needs_too_much_log_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let slow = Settings { copy_bytes_per_second: 1 << 20, ..Settings::default() };
    let keep_little = Retention { max_bytes: 256 << 10, held_bytes: 1 << 20, max_age_us: u64::MAX };
    let mut node = Node::start(dir.path(), slow, keep_little);
    let pairs: Vec<_> = (0..30_000).map(|n| (key(n), Some(noise(n.into(), 800)))).collect();
    pairs.chunks(1000).for_each(|pairs| {
        node.write(pairs);
    });
    node.settle();
    let job = node.begin(JobKind::Compaction).unwrap();
    wait_for(|| node.maintenance.status().running.filter(|job| job.done_bytes > 0));
    for n in 0..200u32 {
        node.write(&[(key(n), Some(noise(n.into(), 20_000)))]);
    }
    node.settle();
    node.maintenance.take_over(Settings {
        map_bytes: 1 << 30,
        max_readers: 126,
        ..Settings::default()
    });
    let outcome = node.outcome(JobKind::Compaction, job);
    assert!(!outcome.ok && outcome.message.contains("held_bytes"), "{}", outcome.message);
    assert_eq!(names(dir.path()), ["gen-000001"]);
    let job = node.begin(JobKind::Compaction).unwrap();
    let outcome = node.outcome(JobKind::Compaction, job);
    assert!(outcome.ok, "{}", outcome.message);
    node.stop();
}

/// Story: a snapshot is made while batches come. It is the database at its end index, and the file of
/// the database has not grown for it.
#[test]
fn a_snapshot_under_load_is_one_index() {
    let dir = tempfile::tempdir().unwrap();
    let keep_little = Retention { max_bytes: 1 << 20, ..Retention::UNLIMITED };
    let mut node = Node::start(dir.path(), Settings::default(), keep_little);
    let pairs: Vec<_> = (0..20_000).map(|n| (key(n), Some(noise(n.into(), 800)))).collect();
    pairs.chunks(1000).for_each(|pairs| {
        node.write(pairs);
    });
    node.settle();
    let mut digests = std::collections::BTreeMap::new();
    let job = node.begin(JobKind::Snapshot).unwrap();
    let mut n = 0;
    let outcome = wait_for(|| {
        n += 1;
        node.write(&[
            (key(n * 37 % 20_000), (n % 3 > 0).then(|| noise(n.into(), 900))),
            (key(30_000 + n % 10), Some(noise(n.into(), 50_000))),
        ]);
        node.settle();
        let live = node.live();
        let applied = live.applied(&live.env.read().unwrap()).unwrap();
        digests.insert(applied.position.index, applied.digest);
        node.maintenance.status().last.remove(&JobKind::Snapshot).filter(|last| last.job == job)
    });
    assert!(outcome.ok, "{}", outcome.message);
    let path = snapshot::directory_of(dir.path()).join(outcome.snapshot.unwrap());
    let file = SnapshotFile::open(&path).unwrap();
    let end = file.manifest().end;
    assert!(digests.get(&end.position.index).is_none_or(|digest| *digest == end.digest));
    assert!(file.check(&mut |_| true).unwrap());
    node.stop();
}

/// Story: a crowd asks for a snapshot. Who asks in the moment when one has been written and gets its name
/// is told of that one: another one would take its place under those who fetch it.
#[test]
fn who_asks_for_an_offer_while_it_gets_its_name_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path(), Settings::default(), Retention::UNLIMITED);
    node.write(&[(b"a".to_vec(), Some(b"1".to_vec()))]);
    node.settle();
    let mut last = 0;
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "none of {last} offers was shared");
        match node.begin(JobKind::Offer) {
            Ok(job) if job == last => break,
            Ok(job) => last = job,
            Err(NotStarted::Busy { kind: JobKind::Offer, .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    let offered = snapshot::list_in(&snapshot::offered_in(dir.path())).unwrap();
    assert_eq!(offered.len(), 1, "{offered:?}");
    node.stop();
}

/// Story: the process is told to end in the middle of a compaction. It does so at once, and nothing
/// is left.
#[test]
fn the_end_comes_at_once_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let slow = Settings { copy_bytes_per_second: 1 << 18, ..Settings::default() };
    let mut node = Node::start(dir.path(), slow, Retention::UNLIMITED);
    let pairs: Vec<_> = (0..30_000).map(|n| (key(n), Some(noise(n.into(), 800)))).collect();
    pairs.chunks(1000).for_each(|pairs| {
        node.write(pairs);
    });
    node.settle();
    node.begin(JobKind::Compaction).unwrap();
    wait_for(|| node.maintenance.status().running.filter(|job| job.done_bytes > 0));
    let (began, dir) = (Instant::now(), node.dir.clone());
    node.stop();
    // At its rate it would take two minutes.
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert_eq!(names(&dir), ["gen-000001"]);
}

/// Story: a compaction takes its time, and a node that cannot follow begins fetch after fetch, each of
/// which breaks off. What was given up does not wait for the compaction's end; what was not does.
#[test]
fn a_bootstrap_that_is_given_up_waits_for_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let slow = Settings { copy_bytes_per_second: 1 << 20, ..Settings::default() };
    let mut node = Node::start(dir.path(), slow, Retention::UNLIMITED);
    node.write(&[(b"a".to_vec(), Some(b"1".to_vec()))]);
    node.settle();
    let job = node.begin(JobKind::Snapshot).unwrap();
    let name = node.outcome(JobKind::Snapshot, job).snapshot.unwrap();
    let snapshot = SnapshotFile::open(&snapshot::directory_of(dir.path()).join(name)).unwrap();
    let pairs: Vec<_> = (0..30_000).map(|n| (key(n), Some(noise(n.into(), 800)))).collect();
    pairs.chunks(1000).for_each(|pairs| {
        node.write(pairs);
    });
    node.settle();
    let compaction = node.begin(JobKind::Compaction).unwrap();

    let fetched = tempfile::tempdir().unwrap();
    let mut receiving = Receiving::begin(fetched.path(), &snapshot.manifest().encode()).unwrap();
    // Each is given up when the next one begins.
    let mut asked: Vec<_> = (0..3)
        .map(|_| {
            let (tell, told) = channel();
            let tell = Asker::new(move |answer| tell.send(answer).unwrap());
            node.maintenance.bootstrap(Box::new(receiving.incoming().unwrap()), tell);
            told
        })
        .collect();
    let wanted = asked.pop().unwrap();
    for given_up in asked {
        assert_eq!(given_up.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
    }
    let running = node.maintenance.status().running.unwrap();
    assert_eq!((running.job, running.kind), (compaction, JobKind::Compaction));
    assert_eq!(wanted.try_recv(), Err(TryRecvError::Empty), "nobody gave it up");
    node.stop();
}

/// Story: a file is large and mostly free; nobody asks, and it is compacted. What crashes have left is
/// gone, too.
#[test]
fn what_is_due_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let by_itself =
        Settings { compacts_by_itself: true, compact_min_bytes: 1 << 20, ..Settings::default() };
    let keep_little = Retention { max_bytes: 1 << 20, ..Retention::UNLIMITED };
    for left in ["gen-000002.new", "gen-000002", "gen-000003.old"] {
        std::fs::create_dir_all(dir.path().join(left)).unwrap();
    }
    let mut node = Node::start(dir.path(), by_itself, keep_little);
    wait_for(|| (names(dir.path()) == ["gen-000001"]).then_some(()));
    fill_and_thin(&mut node);
    let status: MaintenanceStatus = wait_for(|| {
        let status = node.maintenance.status();
        status.last.contains_key(&JobKind::Compaction).then_some(status)
    });
    let outcome = &status.last[&JobKind::Compaction];
    assert!(outcome.ok, "{}", outcome.message);
    assert_eq!(live_generation(dir.path()).unwrap().get(), 2);
    node.stop();
}

/// Story: a large database is verified for hours, and somebody wants a snapshot. The verification
/// makes way, and comes again.
#[test]
fn a_verification_makes_way() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path(), Settings::default(), Retention::UNLIMITED);
    let pairs: Vec<_> = (0..60_000).map(|n| (key(n), Some(noise(n.into(), 800)))).collect();
    pairs.chunks(1000).for_each(|pairs| {
        node.write(pairs);
    });
    node.settle();
    let hours = Settings {
        map_bytes: 1 << 30,
        max_readers: 126,
        verify_interval: Some(Duration::from_millis(1)),
        verify_bytes_per_second: 1 << 20,
        ..Settings::default()
    };
    node.maintenance.take_over(hours);
    let running = wait_for(|| node.maintenance.status().running);
    assert_eq!((running.kind, running.reason.as_str()), (JobKind::Verification, "it is time"));
    let job = node.begin(JobKind::Snapshot).unwrap();
    let outcome = node.outcome(JobKind::Snapshot, job);
    assert!(outcome.ok, "{}", outcome.message);
    let status = node.maintenance.status();
    assert!(!status.last.contains_key(&JobKind::Verification), "it has not ended");
    node.stop();
}

/// Story: a byte rots. The verification says so, a compaction refuses to hide it, and what verifies
/// is still read.
#[test]
fn damage_is_found_and_not_copied() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path(), Settings::default(), Retention::UNLIMITED);
    node.write(&[(b"a".to_vec(), Some(b"1".to_vec())), (b"b".to_vec(), Some(b"2".to_vec()))]);
    node.settle();
    let job = node.begin(JobKind::Verification).unwrap();
    let outcome = node.outcome(JobKind::Verification, job);
    assert!(outcome.ok && outcome.message.contains("verified 2 keys"), "{}", outcome.message);
    let live = node.live();
    let mut txn = live.env.write().unwrap();
    let mut cell = txn.get(live.data, b"a").unwrap().unwrap().to_vec();
    *cell.last_mut().unwrap() ^= 1;
    txn.put(live.data, b"a", &cell).unwrap();
    txn.commit().unwrap();
    let job = node.begin(JobKind::Verification).unwrap();
    let outcome = node.outcome(JobKind::Verification, job);
    assert!(!outcome.ok && outcome.problems == 1, "{}", outcome.message);
    assert!(outcome.message.contains("bucket data, key a"), "{}", outcome.message);
    let job = node.begin(JobKind::Compaction).unwrap();
    let outcome = node.outcome(JobKind::Compaction, job);
    assert!(!outcome.ok && outcome.message.contains("bucket data, key a"), "{}", outcome.message);
    let reader = Reader::open(dir.path()).unwrap();
    assert_eq!(reader.get(b"b").unwrap().unwrap(), b"2");
    assert_eq!(names(dir.path()), ["gen-000001"]);
    node.stop();
}
