//! Nodes with a log in memory, connected by pipes: the real sessions, the real feed, the real
//! wiring; only the disk and the network are made up.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use quicksilver_format::meta::Identity;
use quicksilver_format::{
    Address, Batch, BatchBuilder, ControlRecord, DbId, Entry, Heartbeat, HistoryId, Index, NodeId,
    Position, ProcessId,
};
use quicksilver_protocol::{Deadlines, Lineage, LogFact, Quota, SourceEnd, UpstreamSlot};
use tokio::io::DuplexStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::*;
use quicksilver_protocol::recent::FeedState;

pub(super) const DB: DbId = DbId::from_bytes([0xdb; 16]);
/// Generous: two cores may be shared by many.
const PATIENCE: Duration = Duration::from_secs(60);

/// A batch of `entries` entries after `before`; another `salt` gives another past.
pub(super) fn batch(before: Position, entries: usize, salt: u64) -> Batch {
    sized_batch(before, entries, 8, salt)
}

fn sized_batch(before: Position, entries: usize, value_bytes: usize, salt: u64) -> Batch {
    let mut builder = BatchBuilder::new(before);
    let mut word = salt.wrapping_add(1);
    for _ in 0..entries {
        let key = format!("key-{}", builder.next_index());
        // Xorshift: what does not compress.
        let value: Vec<u8> = (0..value_bytes)
            .map(|_| {
                word ^= word << 13;
                word ^= word >> 7;
                word ^= word << 17;
                word.to_le_bytes()[3]
            })
            .collect();
        builder.push(Entry::set(key.as_bytes(), &value));
    }
    builder.seal(before.index.get()).unwrap()
}

struct Disk {
    identity: Identity,
    batches: Vec<Batch>,
    collected: usize,
    /// Handed over by the session, not committed yet.
    queue: VecDeque<Batch>,
    controls: Vec<ControlRecord>,
    /// Whether batches are committed as soon as they come.
    commits_itself: bool,
}

/// A store in memory: log and writer in one.
struct Store {
    disk: Mutex<Disk>,
    feed: Arc<Feed>,
}

impl Store {
    fn end_of(disk: &Disk) -> Position {
        disk.batches.last().map_or(Position::genesis(disk.identity.db_id), Batch::after)
    }

    /// Commits everything that is queued.
    fn commit(&self) {
        let mut disk = self.disk.lock().unwrap();
        while let Some(batch) = disk.queue.pop_front() {
            assert!(batch.continues(&Self::end_of(&disk)), "{batch:?}: a hole");
            disk.batches.push(batch);
        }
        let end = Self::end_of(&disk);
        drop(disk);
        self.feed.committed(end);
    }

    /// A commit fails: what was queued is gone.
    fn fail(&self) {
        self.feed.reset_with(self.end(), || self.disk.lock().unwrap().queue.clear());
    }

    fn queued(&self) -> usize {
        self.disk.lock().unwrap().queue.len()
    }
}

impl ReplicaLog for Store {
    fn identity(&self) -> Identity {
        self.disk.lock().unwrap().identity
    }

    fn end(&self) -> Position {
        Self::end_of(&self.disk.lock().unwrap())
    }

    fn oldest(&self) -> Index {
        let disk = self.disk.lock().unwrap();
        disk.batches
            .get(disk.collected)
            .map_or(Self::end_of(&disk).index.next(), |batch| batch.first())
    }

    fn fact(&self, index: Index) -> Result<LogFact, ReadFailure> {
        let (oldest, end) = (self.oldest(), self.end());
        if index > end.index {
            return Ok(LogFact::Beyond);
        }
        if index == end.index {
            return Ok(LogFact::Boundary(end.hash));
        }
        if index.next() < oldest {
            return Ok(LogFact::TooOld { oldest });
        }
        let disk = self.disk.lock().unwrap();
        for batch in &disk.batches {
            if batch.before().index == index {
                return Ok(LogFact::Boundary(batch.before().hash));
            }
            if let Some(hash) = batch.hash_at(index).filter(|_| index != batch.last()) {
                return Ok(LogFact::Inside(hash));
            }
        }
        Err(ReadFailure("no such index".to_owned()))
    }

    fn read(&self, after: Index, max_bytes: usize) -> Result<Vec<Bytes>, ReadFailure> {
        let disk = self.disk.lock().unwrap();
        let mut bytes = 0;
        let following = disk.batches[disk.collected..].iter().filter(|batch| batch.first() > after);
        Ok(following
            .map(|batch| batch.record().clone())
            .take_while(|record| {
                let first = bytes == 0;
                bytes += record.len();
                first || bytes <= max_bytes
            })
            .collect())
    }
}

impl BatchSink for Store {
    fn apply(&self, batch: Batch) {
        let mut disk = self.disk.lock().unwrap();
        disk.queue.push_back(batch);
        let commits = disk.commits_itself;
        drop(disk);
        if commits {
            // `apply` runs under the feed's lock, and a commit is announced to the feed: like the
            // real writer, from another thread.
            let (disk, feed) = (&self.disk, Arc::clone(&self.feed));
            let mut disk = disk.lock().unwrap();
            while let Some(batch) = disk.queue.pop_front() {
                assert!(batch.continues(&Self::end_of(&disk)), "{batch:?}: a hole");
                disk.batches.push(batch);
            }
            let end = Self::end_of(&disk);
            std::thread::spawn(move || feed.committed(end));
        }
    }

    fn adopt_history(&self, history: HistoryId) {
        self.disk.lock().unwrap().identity.history = history;
        self.feed.committed(self.end());
    }

    fn control(&self, record: ControlRecord) {
        self.disk.lock().unwrap().controls.push(record);
    }
}

/// A node: its store, and everything that is wired around it.
struct Node {
    name: NodeName,
    store: Arc<Store>,
    feed: Arc<Feed>,
    downstreams: Arc<Downstreams>,
    lineage: watch::Sender<Lineage>,
    quota: watch::Sender<Option<Quota>>,
    status: watch::Sender<UpstreamStatus>,
    shutdown: watch::Sender<bool>,
    deadlines: Deadlines,
}

impl Node {
    fn new(name: &str, log: &[Batch]) -> Arc<Self> {
        Self::with(name, DB, log, FeedLimits::default(), 100)
    }

    fn with(
        name: &str,
        db_id: DbId,
        log: &[Batch],
        limits: FeedLimits,
        max_downstreams: usize,
    ) -> Arc<Self> {
        Arc::new(Self::build(name, db_id, log, limits, max_downstreams))
    }

    fn with_deadlines(name: &str, log: &[Batch], deadlines: Deadlines) -> Arc<Self> {
        let mut node = Self::build(name, DB, log, FeedLimits::default(), 100);
        node.deadlines = deadlines;
        Arc::new(node)
    }

    fn build(
        name: &str,
        db_id: DbId,
        log: &[Batch],
        limits: FeedLimits,
        max_downstreams: usize,
    ) -> Self {
        let name = NodeName {
            node_id: NodeId::new(name).unwrap(),
            site: "ams".to_owned(),
            process_id: ProcessId::random(),
        };
        let identity = Identity { db_id, history: HistoryId::random() };
        let disk = Disk {
            identity,
            batches: log.to_vec(),
            collected: 0,
            queue: VecDeque::new(),
            controls: Vec::new(),
            commits_itself: true,
        };
        let feed = Arc::new(Feed::new(limits, Store::end_of(&disk)));
        let store = Arc::new(Store { disk: Mutex::new(disk), feed: Arc::clone(&feed) });
        let orphan = Lineage::orphan(&name.local(identity), String::new());
        Node {
            name,
            store,
            feed,
            downstreams: Downstreams::new(max_downstreams),
            lineage: watch::Sender::new(orphan),
            quota: watch::Sender::new(None),
            status: watch::Sender::new(UpstreamStatus::new()),
            shutdown: watch::Sender::new(false),
            deadlines: Deadlines { ping_ms: 50, report_ms: 50, ..Deadlines::default() },
        }
    }

    fn root(log: &[Batch]) -> Arc<Self> {
        let root = Self::new("root", log);
        root.is_root();
        root
    }

    fn is_root(&self) {
        let me = self.name.local(self.store.identity());
        self.lineage.send_replace(Lineage::root(&me, "root:6379".to_owned()));
    }

    /// What the root's sequencer does: commit, then pass on.
    fn write(&self, batch: &Batch) {
        self.store.disk.lock().unwrap().batches.push(batch.clone());
        self.feed.push_batch(self.feed.state().epoch, batch, || ()).unwrap();
        self.feed.committed(batch.after());
    }

    fn write_new(&self, entries: usize) -> Batch {
        let next = batch(self.store.end(), entries, 0);
        self.write(&next);
        next
    }

    fn heartbeat(&self) -> Heartbeat {
        self.heartbeat_at(self.feed.state().end.index.get() * 10 + 1)
    }

    fn heartbeat_at(&self, root_clock_us: u64) -> Heartbeat {
        let heartbeat = Heartbeat { root_clock_us, after: self.feed.state().end.index };
        self.feed.push_control(self.feed.state().epoch, heartbeat.to_record(), || ()).unwrap();
        heartbeat
    }

    fn serve_context(&self) -> ServeContext {
        ServeContext {
            offer: None,
            name: self.name.clone(),
            log: Arc::clone(&self.store) as Arc<dyn ReplicaLog>,
            feed: Arc::clone(&self.feed),
            lineage: self.lineage.subscribe(),
            quota: self.quota.subscribe(),
            downstreams: Arc::clone(&self.downstreams),
            deadlines: self.deadlines,
            shutdown: self.shutdown.subscribe(),
        }
    }

    fn status(&self) -> UpstreamStatus {
        self.status.borrow().clone()
    }

    fn feed_state(&self) -> FeedState {
        self.feed.state()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shutdown.send_replace(true);
    }
}

/// Connections between nodes, by address.
#[derive(Clone, Default)]
struct Network {
    nodes: Arc<Mutex<HashMap<String, Arc<Node>>>>,
    pipe_bytes: usize,
}

impl Network {
    fn of(nodes: &[&Arc<Node>]) -> Self {
        let by_name = nodes.iter().map(|n| (n.name.node_id.to_string(), Arc::clone(n))).collect();
        Network { nodes: Arc::new(Mutex::new(by_name)), pipe_bytes: 64 << 10 }
    }

    /// Lets `node` follow the others, in this order.
    fn follow(&self, node: &Arc<Node>, primary: &[&Arc<Node>]) {
        let context = self.follow_context(node);
        tokio::spawn(follow(upstreams(primary), context, node.shutdown.subscribe()));
    }

    fn follow_context(&self, node: &Arc<Node>) -> FollowContext<Network> {
        FollowContext {
            fetching: None,
            name: node.name.clone(),
            log: Arc::clone(&node.store) as Arc<dyn ReplicaLog>,
            feed: Arc::clone(&node.feed),
            sink: Arc::clone(&node.store) as Arc<dyn BatchSink>,
            lineage: node.lineage.clone(),
            quota: node.quota.clone(),
            status: node.status.clone(),
            dial: self.clone(),
            deadlines: node.deadlines,
        }
    }
}

fn address(node: &Node) -> Address {
    format!("{}:1", node.name.node_id).parse().unwrap()
}

fn upstreams(primary: &[&Arc<Node>]) -> Upstreams {
    let primary = primary.iter().map(|node| address(node)).collect();
    Upstreams { primary, secondary: Vec::new() }
}

impl Dial for Network {
    type Stream = DuplexStream;

    async fn dial(&self, address: &Address) -> io::Result<DuplexStream> {
        let Address::Tcp { host, .. } = address else { return Err(io::ErrorKind::NotFound.into()) };
        let node = self.nodes.lock().unwrap().get(host).cloned();
        let node = node.ok_or(io::Error::from(io::ErrorKind::ConnectionRefused))?;
        let (near, far) = tokio::io::duplex(self.pipe_bytes);
        let context = node.serve_context();
        let arrival = admit(&context, "pipe").unwrap();
        tokio::spawn(serve_downstream(far, "pipe".to_owned(), arrival, context));
        Ok(near)
    }
}

/// Waits until something is so, and says what was awaited when it never is.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !condition() {
            sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}

async fn until_same(node: &Arc<Node>, as_node: &Arc<Node>) {
    until("the log arrives", || node.store.end() == as_node.store.end()).await;
}

fn log_of(sizes: &[usize]) -> Vec<Batch> {
    let mut log: Vec<Batch> = Vec::new();
    for size in sizes {
        let end = log.last().map_or(Position::genesis(DB), Batch::after);
        log.push(batch(end, *size, 0));
    }
    log
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_catches_up_from_the_log_and_goes_on_from_the_feed() {
    let root = Node::root(&log_of(&[2, 3, 1, 4]));
    let leaf = Node::new("leaf", &log_of(&[2]));
    let network = Network::of(&[&root]);
    network.follow(&leaf, &[&root]);
    until_same(&leaf, &root).await;
    for entries in 1..20 {
        root.write_new(entries);
    }
    let heartbeat = root.heartbeat();
    until_same(&leaf, &root).await;
    assert_eq!(leaf.store.identity(), root.store.identity(), "the history is taken over");
    let is_there = || leaf.store.disk.lock().unwrap().controls == [heartbeat.to_record()];
    until("the heartbeat arrives once", is_there).await;

    let status = leaf.status();
    assert_eq!(status.state, UpstreamState::Following);
    assert_eq!(status.node_id, Some(root.name.node_id.clone()));
    assert_eq!(status.lineage.unwrap().root_client, "root:6379");
    let lineage = leaf.lineage.borrow().clone();
    assert_eq!((lineage.path.len(), lineage.connected_to_root), (2, true));
    let end = root.store.end().index;
    until("the root hears of it", || root.downstreams.count_with(end) == 1).await;
    let listed = root.downstreams.list();
    assert_eq!((listed[0].sent, listed[0].applied), (end, end));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_follower_gets_the_newest_heartbeat() {
    let root = Node::root(&log_of(&[2]));
    let heartbeat = root.heartbeat();
    root.write_new(1);
    let leaf = Node::new("leaf", &[]);
    Network::of(&[&root]).follow(&leaf, &[&root]);
    until_same(&leaf, &root).await;
    let there = || leaf.store.disk.lock().unwrap().controls.contains(&heartbeat.to_record());
    until("the heartbeat of before", there).await;
}

/// Story: a relay lives, but has lost the root. Its leaf stays with it while nobody is fresher,
/// leaves it for the root when that one is, and comes back when the relay is well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_upstream_is_left_for_a_fresher_one_and_returned_to() {
    let log = log_of(&[2, 3]);
    let (relay, root) = (Node::new("relay", &log), Node::root(&log));
    let deadlines = Deadlines { stale_ms: 300, ask_preferred_ms: 200, ..relay.deadlines };
    let leaf = Node::with_deadlines("leaf", &log, deadlines);
    for node in [&relay, &root] {
        node.heartbeat_at(1);
    }
    Network::of(&[&relay, &root]).follow(&leaf, &[&relay, &root]);
    let follows = |node: &Arc<Node>| leaf.status().node_id == Some(node.name.node_id.clone());
    until("it follows the relay", || follows(&relay)).await;
    let asked_root = || root.downstreams.progress().borrow().to_owned() >= 6;
    until("it has asked the root, three times", asked_root).await;
    assert!(follows(&relay) && leaf.status().sessions == 1, "nobody is fresher");

    root.heartbeat_at(2);
    until("it follows the root", || follows(&root)).await;
    let next = root.write_new(2);
    until_same(&leaf, &root).await;

    relay.write(&next);
    let mut clock_us = 3;
    while !follows(&relay) {
        assert!(clock_us < 10_000, "it does not return");
        for node in [&relay, &root] {
            node.heartbeat_at(clock_us);
        }
        clock_us += 1;
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(leaf.store.end(), root.store.end());
}

/// The root says it, relays pass it on; who is new hears it from a relay that has lost its root, and
/// so does everybody who is there when it changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quota_goes_down_the_tree() {
    let quota = |max_db_bytes| Some(Quota { max_db_bytes });
    let knows = |node: &Arc<Node>, quota| *node.quota.borrow() == quota;
    let root = Node::root(&log_of(&[2]));
    let (relay, leaf, late) =
        (Node::new("relay", &[]), Node::new("leaf", &[]), Node::new("x", &[]));
    let network = Network::of(&[&root, &relay]);
    network.follow(&relay, &[&root]);
    network.follow(&leaf, &[&relay]);
    until_same(&leaf, &root).await;
    assert!(knows(&leaf, None), "nobody has said anything");

    for max_db_bytes in [10, 20] {
        set_quota(&root.quota, Quota { max_db_bytes });
        until("the leaf hears of it", || knows(&leaf, quota(max_db_bytes))).await;
    }
    root.shutdown.send_replace(true);
    network.nodes.lock().unwrap().remove("root");
    until("the root is gone", || !relay.status().is_connected()).await;
    network.follow(&late, &[&relay]);
    until("whoever is new hears of it", || knows(&late, quota(20))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_passes_a_batch_on_before_its_own_commit() {
    let (root, relay, leaf) = (Node::root(&[]), Node::new("relay", &[]), Node::new("leaf", &[]));
    let network = Network::of(&[&root, &relay]);
    network.follow(&relay, &[&root]);
    network.follow(&leaf, &[&relay]);
    root.write_new(1);
    until_same(&leaf, &root).await;

    relay.store.disk.lock().unwrap().commits_itself = false;
    let written = root.write_new(5);
    until_same(&leaf, &root).await;
    assert_eq!(relay.store.end(), written.before(), "the relay has it only in memory");
    assert_eq!(relay.store.queued(), 1);
    relay.store.commit();
    assert_eq!(relay.store.end(), root.store.end());
    let path = leaf.lineage.borrow().to_string();
    assert_eq!(path, "root > relay > leaf");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwarding_stops_when_the_commit_lags() {
    let limits = FeedLimits { pending_batches: 3, ..FeedLimits::default() };
    let root = Node::root(&[]);
    let relay = Node::with("relay", DB, &[], limits, 10);
    let leaf = Node::new("leaf", &[]);
    let network = Network::of(&[&root, &relay]);
    network.follow(&relay, &[&root]);
    network.follow(&leaf, &[&relay]);
    relay.store.disk.lock().unwrap().commits_itself = false;
    let written: Vec<Batch> = (0..10).map(|_| root.write_new(1)).collect();
    until("three are passed on", || leaf.store.end() == written[2].after()).await;
    sleep(Duration::from_millis(200)).await;
    assert_eq!(leaf.store.end(), written[2].after(), "and not a fourth");
    assert_eq!(relay.store.queued(), 3);
    assert!(relay.status().is_connected(), "waiting for the disk is no silence");
    relay.store.commit();
    until("three more", || leaf.store.end() == written[5].after()).await;
    relay.store.disk.lock().unwrap().commits_itself = true;
    relay.store.commit();
    until_same(&leaf, &root).await;
    until_same(&relay, &root).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_commit_starts_every_session_anew_and_nothing_is_lost() {
    let (root, relay, leaf) = (Node::root(&[]), Node::new("relay", &[]), Node::new("leaf", &[]));
    let network = Network::of(&[&root, &relay]);
    network.follow(&relay, &[&root]);
    network.follow(&leaf, &[&relay]);
    root.write_new(2);
    until_same(&leaf, &root).await;
    let before = (relay.status().sessions, leaf.status().sessions);

    // The relay passes a batch on, and then its commit fails: the leaf is ahead of it.
    relay.store.disk.lock().unwrap().commits_itself = false;
    let passed_on = root.write_new(3);
    until_same(&leaf, &root).await;
    relay.store.fail();
    assert_eq!(relay.store.end(), passed_on.before());
    until("the relay comes back to the root", || relay.store.queued() == 1).await;
    relay.store.disk.lock().unwrap().commits_itself = true;
    relay.store.commit();
    root.write_new(1);
    until_same(&relay, &root).await;
    until_same(&leaf, &root).await;
    assert!(relay.status().sessions > before.0 && leaf.status().sessions > before.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_costs_a_bounded_amount_and_gets_everything_in_the_end() {
    let limits =
        FeedLimits { items: 8, bytes: 200 << 10, pending_batches: 4, pending_bytes: 100 << 10 };
    let root = Node::with("root", DB, &[], limits, 10);
    let mut network = Network::of(&[&root]);
    network.pipe_bytes = 512;
    let (slow, quick) = (Node::with("slow", DB, &[], limits, 10), Node::new("quick", &[]));
    slow.store.disk.lock().unwrap().commits_itself = false;
    network.follow(&slow, &[&root]);
    Network::of(&[&root]).follow(&quick, &[&root]);
    until("both are there", || slow.status().is_connected() && quick.status().is_connected()).await;
    for n in 0..60 {
        root.write(&sized_batch(root.store.end(), 4, 5_000, n));
        let state = root.feed_state();
        assert!(state.items <= limits.items && state.bytes <= limits.bytes, "{state:?}");
    }
    until_same(&quick, &root).await;
    assert!(slow.store.queued() <= limits.pending_batches);
    slow.store.disk.lock().unwrap().commits_itself = true;
    slow.store.commit();
    until_same(&slow, &root).await;
    assert_eq!(slow.status().sessions, 1, "nobody had to begin again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_collected_under_a_reader_ends_in_a_typed_refusal() {
    let root = Node::root(&log_of(&[1, 1, 1, 1]));
    root.store.disk.lock().unwrap().collected = 2;
    let leaf = Node::new("leaf", &log_of(&[1]));
    Network::of(&[&root]).follow(&leaf, &[&root]);
    let needed = UpstreamState::NeedsSnapshot { oldest: Index::new(3) };
    until("a snapshot is asked for", || leaf.status().state == needed).await;
    assert_eq!(leaf.store.end().index, Index::new(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cycle_that_comes_to_light_later_is_left() {
    let (root, upper, lower) = (Node::root(&[]), Node::new("upper", &[]), Node::new("lower", &[]));
    let network = Network::of(&[&root, &upper, &lower]);
    network.follow(&lower, &[&upper]);
    until("lower follows upper", || lower.status().is_connected()).await;
    // Someone tells upper to follow lower, its own downstream.
    network.follow(&upper, &[&lower, &root]);
    until("upper turns to the root", || upper.status().node_id == Some(root.name.node_id.clone()))
        .await;
    root.write_new(3);
    until_same(&lower, &root).await;
    assert_eq!(lower.lineage.borrow().to_string(), "root > upper > lower");

    // A path that changes under a living session.
    let mut circle = upper.lineage.borrow().clone();
    circle.path.insert(1, lower.name.local(lower.store.identity()).hop());
    let sessions = lower.status().sessions;
    let good = upper.lineage.send_replace(circle);
    let noticed = || {
        let status = lower.status();
        status.last_error.is_some_and(|error| error.contains("follows this node"))
    };
    until("lower meets itself", noticed).await;
    assert!(!lower.lineage.borrow().connected_to_root, "and says that it has no upstream");
    upper.lineage.send_replace(good);
    until("lower comes back", || lower.status().sessions > sessions).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_the_upstream_is_announced_downwards() {
    let (root, relay, leaf) = (Node::root(&[]), Node::new("relay", &[]), Node::new("leaf", &[]));
    let network = Network::of(&[&root, &relay]);
    network.follow(&relay, &[&root]);
    network.follow(&leaf, &[&relay]);
    until("a path from the root", || leaf.lineage.borrow().connected_to_root).await;
    network.nodes.lock().unwrap().remove("root");
    root.shutdown.send_replace(true);
    until("no path from the root", || !leaf.lineage.borrow().connected_to_root).await;
    let lineage = leaf.lineage.borrow().clone();
    assert_eq!((lineage.path.len(), lineage.root_client.as_str()), (2, "root:6379"));
    assert!(leaf.status().is_connected(), "the relay goes on serving");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_database_and_another_past_stop_following_and_change_nothing() {
    let other_db = DbId::from_bytes([1; 16]);
    let wrong = Node::with("wrong", other_db, &[], FeedLimits::default(), 10);
    let leaf = Node::new("leaf", &log_of(&[2]));
    Network::of(&[&wrong]).follow(&leaf, &[&wrong]);
    until("halted", || leaf.status().state == UpstreamState::WrongDatabase).await;
    assert!(leaf.status().last_error.unwrap().contains("db_id"));

    // Restored to another past: as long, longer, and shorter than the follower's log.
    for sizes in [&[2, 2][..], &[2, 2, 2], &[2]] {
        let mut past = Vec::new();
        for size in sizes {
            let end = past.last().map_or(Position::genesis(DB), Batch::after);
            past.push(batch(end, *size, 99));
        }
        let restored = Node::new("restored", &past);
        let leaf = Node::new("leaf", &log_of(&[2, 2]));
        Network::of(&[&restored]).follow(&leaf, &[&restored]);
        until("halted", || leaf.status().state == UpstreamState::Diverged).await;
        assert_eq!(leaf.store.end(), log_of(&[2, 2])[1].after());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_node_says_so_and_the_follower_goes_elsewhere() {
    let full = Node::with("full", DB, &[], FeedLimits::default(), 0);
    let root = Node::root(&log_of(&[2]));
    let leaf = Node::new("leaf", &[]);
    Network::of(&[&full, &root]).follow(&leaf, &[&full, &root]);
    until_same(&leaf, &root).await;
    assert!(full.downstreams.is_empty());
}

/// Where a snapshot may come from does not depend on a place among the downstreams: nobody follows
/// the source of one. Whom to follow does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_node_still_says_that_it_is_connected_to_the_root() {
    let orphan = Node::new("orphan", &[]);
    let full = Node::with("full", DB, &[], FeedLimits::default(), 0);
    full.is_root();
    let leaf = Node::new("leaf", &[]);
    let context = Network::of(&[&orphan, &full]).follow_context(&leaf);
    let (upstreams, mut shutdown) = (upstreams(&[&orphan, &full]), leaf.shutdown.subscribe());
    let connected = context.connected_to_root(&upstreams, &mut shutdown).await;
    assert_eq!(connected, Some(vec![UpstreamSlot(1)]));
    let end = context.ask(&address(&full)).await.unwrap_err();
    assert_eq!(end.cause.reason(), "busy");
    assert!(full.downstreams.is_empty() && orphan.downstreams.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_shuts_down_says_goodbye() {
    let root = Node::root(&log_of(&[2]));
    let leaf = Node::new("leaf", &[]);
    let network = Network::of(&[&root]);
    network.follow(&leaf, &[&root]);
    until_same(&leaf, &root).await;
    // It dials again at once, and hears the same again.
    root.shutdown.send_replace(true);
    until("the leaf hears it", || {
        leaf.status().last_error.is_some_and(|error| error.contains("restarting"))
    })
    .await;
    until("the list is empty", || root.downstreams.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_downstream_that_does_not_read_does_not_hold_up_a_shutdown() {
    let limits = FeedLimits { pending_batches: 1, ..FeedLimits::default() };
    let (root, stuck) = (Node::root(&[]), Node::with("stuck", DB, &[], limits, 10));
    let mut network = Network::of(&[&root]);
    network.pipe_bytes = 512;
    stuck.store.disk.lock().unwrap().commits_itself = false;
    network.follow(&stuck, &[&root]);
    until("it follows", || stuck.status().is_connected()).await;
    for n in 0..4 {
        root.write(&sized_batch(root.store.end(), 4, 5_000, n));
    }
    let sent = || root.downstreams.list().first().is_some_and(|d| d.sent > Index::new(4));
    until("the pipe is full", sent).await;
    network.nodes.lock().unwrap().clear();
    root.shutdown.send_replace(true);
    until("it is left", || root.downstreams.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_connection_and_garbage_are_closed() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let root = Node::root(&[]);
    let mut context = root.serve_context();
    context.deadlines.handshake_ms = 50;
    let (mut silent, far) = tokio::io::duplex(1_024);
    let arrival = admit(&context, "silent").unwrap();
    let served = tokio::spawn(serve_downstream(far, "silent".to_owned(), arrival, context.clone()));
    let mut last_words = Vec::new();
    timeout(PATIENCE, silent.read_to_end(&mut last_words)).await.unwrap().unwrap();
    drop(silent);
    assert_eq!(served.await.unwrap(), SourceEnd::HandshakeTimeout(50));

    context.deadlines.handshake_ms = 10_000;
    let (mut near, far) = tokio::io::duplex(1_024);
    let arrival = admit(&context, "garbage").unwrap();
    let served = tokio::spawn(serve_downstream(far, "garbage".to_owned(), arrival, context));
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, near.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer[4], quicksilver_protocol::Kind::Refused as u8);
    assert!(matches!(served.await.unwrap(), SourceEnd::Refused(_)));
}
