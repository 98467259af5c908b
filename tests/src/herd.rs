//! Thousands of followers in this process: the replicator's own driver, sessions, choice of upstream
//! and back-off, over a log that keeps nothing but where it ends.

use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quicksilver_format::meta::Identity;
use quicksilver_format::{
    Address, Batch, ControlRecord, DbId, HistoryId, Index, NodeId, Position, ProcessId,
};
use quicksilver_protocol::{Deadlines, Lineage, LogFact};
use quicksilver_replicator::net::replication::{
    BatchSink, Feed, FeedLimits, FollowContext, NetDial, NodeName, ReadFailure, ReplicaLog,
    UpstreamStatus, Upstreams, follow,
};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use crate::skipped;

/// What a follower has "on disk".
#[derive(Debug)]
struct Memory {
    durable: Mutex<(Identity, Position)>,
    feed: Arc<Feed>,
    commits: mpsc::UnboundedSender<(Arc<Memory>, Position)>,
}

impl Memory {
    fn durable(&self) -> (Identity, Position) {
        *self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit(&self, position: Position) {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).1 = position;
        self.feed.committed(position);
    }
}

impl ReplicaLog for Memory {
    fn identity(&self) -> Identity {
        self.durable().0
    }

    fn end(&self) -> Position {
        self.durable().1
    }

    fn oldest(&self) -> Index {
        self.end().index.next()
    }

    fn fact(&self, index: Index) -> Result<LogFact, ReadFailure> {
        let Position { index: last, hash } = self.end();
        Ok(match index.cmp(&last) {
            std::cmp::Ordering::Equal => LogFact::Boundary(hash),
            std::cmp::Ordering::Less => LogFact::TooOld { oldest: last.next() },
            std::cmp::Ordering::Greater => LogFact::Beyond,
        })
    }

    fn read(&self, _after: Index, _max_bytes: usize) -> Result<Vec<Bytes>, ReadFailure> {
        Ok(Vec::new())
    }
}

/// The way to the task that commits for all of them: a feed must not be told of a commit while it is
/// handing the batch over.
struct Sink(Arc<Memory>);

impl BatchSink for Sink {
    fn apply(&self, batch: Batch) {
        // The task lives as long as the herd.
        let _ = self.0.commits.send((self.0.clone(), batch.after()));
    }

    fn adopt_history(&self, history: HistoryId) {
        self.0.durable.lock().unwrap_or_else(PoisonError::into_inner).0.history = history;
    }

    fn control(&self, _record: ControlRecord) {}
}

/// Followers that run until this is dropped.
#[derive(Debug)]
pub struct Herd {
    members: Vec<(Arc<Memory>, watch::Receiver<UpstreamStatus>)>,
    shutdown: watch::Sender<bool>,
    /// None only while it is dropped.
    runtime: Option<Runtime>,
}

impl Herd {
    /// So many, which follow these upstreams, in their order of preference, from the beginning of the
    /// database's log.
    pub fn gather(size: usize, db_id: &str, upstreams: &[String]) -> Herd {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let primary = upstreams.iter().map(|address| address.parse().expect("an address"));
        let primary: Vec<Address> = primary.collect();
        let db_id: DbId = db_id.parse().expect("a database id");
        let (commits, mut committing) = mpsc::unbounded_channel::<(Arc<Memory>, Position)>();
        runtime.spawn(async move {
            while let Some((memory, position)) = committing.recv().await {
                memory.commit(position);
            }
        });
        let shutdown = watch::Sender::new(false);
        let mut members = Vec::with_capacity(size);
        for number in 0..size {
            let upstreams = Upstreams { primary: primary.clone(), secondary: Vec::new() };
            let (memory, status, context) = member(number, db_id, commits.clone());
            runtime.spawn(follow(upstreams, context, shutdown.subscribe()));
            members.push((memory, status));
        }
        Herd { members, shutdown, runtime: Some(runtime) }
    }

    /// How many follow somebody at present.
    pub fn following(&self) -> usize {
        self.members.iter().filter(|(_, status)| status.borrow().is_connected()).count()
    }

    /// How many have everything up to an index.
    pub fn count_with(&self, index: u64) -> usize {
        self.members.iter().filter(|(memory, _)| memory.end().index.get() >= index).count()
    }
}

impl Drop for Herd {
    fn drop(&mut self) {
        self.shutdown.send_replace(true);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

type Member = (Arc<Memory>, watch::Receiver<UpstreamStatus>, FollowContext<NetDial>);

fn member(
    number: usize,
    db_id: DbId,
    commits: mpsc::UnboundedSender<(Arc<Memory>, Position)>,
) -> Member {
    let node_id = NodeId::new(format!("herd-{number}")).expect("a name");
    let name = NodeName { node_id, site: String::new(), process_id: ProcessId::random() };
    let identity = Identity { db_id, history: HistoryId::random() };
    let begin = Position::genesis(db_id);
    let feed = Arc::new(Feed::new(FeedLimits::default(), begin));
    let durable = Mutex::new((identity, begin));
    let memory = Arc::new(Memory { durable, feed: feed.clone(), commits });
    let orphan = Lineage::orphan(&name.local(identity), String::new());
    let status = watch::Sender::new(UpstreamStatus::new());
    let seen = status.subscribe();
    let context = FollowContext {
        name,
        log: memory.clone(),
        feed,
        sink: Arc::new(Sink(memory.clone())),
        lineage: watch::Sender::new(orphan),
        quota: watch::Sender::new(None),
        status,
        fetching: None,
        dial: NetDial,
        deadlines: Deadlines::default(),
    };
    (memory, seen, context)
}

/// Lets this process, and those that it starts, have so many files open; where that is not possible,
/// says so, and false.
pub fn allow_open_files(needed: usize) -> bool {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let mut bounds = line
        .unwrap_or_default()
        .split_whitespace()
        .map(|word| if word == "unlimited" { usize::MAX } else { word.parse().unwrap_or(0) });
    let (soft, hard) = (bounds.next().unwrap_or(0), bounds.next().unwrap_or(0));
    if soft >= needed {
        return true;
    }
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--pid", &std::process::id().to_string(), &format!("--nofile={needed}:")]);
    if hard >= needed && prlimit.status().is_ok_and(|status| status.success()) {
        return true;
    }
    skipped(&format!("{needed} open files are needed, {hard} are allowed: raise ulimit -n"));
    false
}
