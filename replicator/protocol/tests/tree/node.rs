//! A machine and its process: the real sessions, and the model of what is wired around them in
//! `replicator/src/net/replication` and `replicator/src/store/writer.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use quicksilver_format::{
    Batch, BatchBuilder, DbId, Entry, Heartbeat, HistoryId, Index, NodeId, Position, ProcessId,
};
use quicksilver_protocol::recent::Epoch;
use quicksilver_protocol::{
    Chooser, Deadlines, FeedLimits, Lineage, LocalNode, Millis, Recent, Window,
};
use rand::Rng;

use crate::disk::{Disk, Snapshot};
use crate::down::{Offering, Serving};
use crate::net::{ConnectionNumber, Event, Net, NodeNumber};
use crate::plan::{Bug, Place, ROOT};
use crate::record::Moved;
use crate::up::Up;

pub const DEADLINES: Deadlines = Deadlines {
    handshake_ms: 2_000,
    idle_ms: 6_000,
    ping_ms: 1_000,
    report_ms: 1_500,
    least_bytes_per_second: 500,
    stale_ms: 3_000,
    ask_preferred_ms: 20_000,
};
const LIMITS: FeedLimits =
    FeedLimits { items: 24, bytes: 1 << 20, pending_batches: 6, pending_bytes: 1 << 20 };
const HEARTBEAT_MS: u64 = 1_000;
/// How long the log after an offer is held when nobody asks for it any more.
const OFFER_HELD_MS: u64 = 15_000;
/// Making a snapshot takes so long.
pub const MAKING_MS: (u64, u64) = (50, 1_500);

/// What the writer has been handed.
#[derive(Debug, Clone)]
pub enum Command {
    Apply(Batch),
    Heartbeat(Heartbeat),
    AdoptHistory(HistoryId),
}

/// A commit that has begun.
#[derive(Debug)]
struct Commit {
    batches: usize,
    ends: Millis,
}

/// What only a root has.
#[derive(Debug)]
struct Sequencer {
    window: Window,
    waiting: u64,
    next_heartbeat: Millis,
}

/// What is in memory: gone when the process ends.
#[derive(Debug)]
pub struct Process {
    pub me: LocalNode,
    pub recent: Recent,
    pub lineage: Lineage,
    pub chooser: Chooser,
    pub up: Up,
    pub serving: BTreeMap<ConnectionNumber, Serving>,
    pub offering: BTreeMap<ConnectionNumber, Offering>,
    pub queue: VecDeque<Command>,
    commit: Option<Commit>,
    pub counted: Option<Heartbeat>,
    sequencer: Option<Sequencer>,
    /// When the snapshot that is being made is done.
    pub making: Option<Millis>,
    /// When somebody last asked for the one that is offered.
    pub asked: Option<Millis>,
}

/// See the module.
#[derive(Debug)]
pub struct Node {
    pub number: NodeNumber,
    pub place: Place,
    pub disk: Disk,
    pub process: Option<Process>,
    /// An upstream that had another past, or another database, until an operator has seen it.
    pub alarm: Option<NodeNumber>,
    /// A copy of the disk that somebody keeps.
    pub backup: Option<Disk>,
    /// The root's clock is so far ahead of the simulation's, or behind it.
    pub clock_ms: i64,
    pub slow_until: Millis,
    /// The next so many commits fail.
    pub failing: u32,
    pub wake: Option<Millis>,
    runs: u8,
}

impl Node {
    pub fn new(number: NodeNumber, place: Place, db_id: DbId) -> Self {
        // Only who has sealed something has a history of its own.
        let history = match place.upstreams.is_empty() {
            true => HistoryId::from_bytes([0x11; 16]),
            false => HistoryId::NONE,
        };
        Node {
            number,
            place,
            disk: Disk::empty(db_id, history),
            process: None,
            alarm: None,
            backup: None,
            clock_ms: 1_000_000_000,
            slow_until: Millis::ZERO,
            failing: 0,
            wake: None,
            runs: 0,
        }
    }

    /// Whether it seals batches.
    pub fn is_root(&self) -> bool {
        self.place.upstreams.is_empty()
    }

    /// Whether it is the root of the tree, whose log is the truth.
    fn is_the_root(&self) -> bool {
        self.number == ROOT
    }

    pub fn start(&mut self, net: &mut Net) {
        self.runs = self.runs.wrapping_add(1);
        let mut run = [self.runs; 16];
        run[0] = self.number as u8;
        let me = LocalNode {
            db_id: self.disk.db_id,
            history: Some(self.disk.history),
            node_id: NodeId::new(format!("node-{}", self.number)).expect("a legal name"),
            site: String::new(),
            process_id: ProcessId::from_bytes(run),
        };
        let lineage = match self.is_root() {
            true => Lineage::root(&me, "root:6379".to_owned()),
            false => Lineage::orphan(&me, String::new()),
        };
        if self.is_the_root() {
            net.record.root_started(&self.disk.end());
        }
        let secondaries = self.place.upstreams.len() - self.place.primaries;
        self.process = Some(Process {
            me,
            recent: Recent::new(LIMITS, self.disk.end()),
            lineage,
            chooser: Chooser::new(self.place.primaries, secondaries),
            up: Up::Next,
            serving: BTreeMap::new(),
            offering: BTreeMap::new(),
            queue: VecDeque::new(),
            commit: None,
            counted: None,
            sequencer: self.is_root().then(|| Sequencer {
                window: Window::new(net.plan.window_ms),
                waiting: 0,
                next_heartbeat: net.now,
            }),
            making: None,
            asked: None,
        });
        net.running[self.number] = true;
        net.powered[self.number] = true;
        self.moved(net, Moved::Started);
        net.awake.insert(self.number);
    }

    /// The process dies; with the power, if `power` is false: then nobody is told.
    pub fn die(&mut self, net: &mut Net, power: bool) {
        let Some(process) = self.process.take() else { return };
        // A commit that was under way has happened, or not.
        if let Some(Commit { batches, .. }) = process.commit
            && net.chance(500)
        {
            let landed: Vec<Batch> = process
                .queue
                .into_iter()
                .filter_map(|command| match command {
                    Command::Apply(batch) => Some(batch),
                    _ => None,
                })
                .take(batches)
                .collect();
            self.land(landed, net);
        }
        if !power {
            self.disk.power_cut(net.plan.bug != Some(Bug::TrustsTornBlocks));
        }
        net.running[self.number] = false;
        net.powered[self.number] = power;
        net.gone(self.number, power);
        self.wake = None;
    }

    /// The upstreams are others now.
    pub fn reload(&mut self, place: Place, net: &mut Net) {
        self.place = place;
        let secondaries = self.place.upstreams.len() - self.place.primaries;
        if let Some(process) = &mut self.process {
            process.chooser = Chooser::new(self.place.primaries, secondaries);
            let up = std::mem::replace(&mut process.up, Up::Next);
            up.abandon(net);
            if process.sequencer.is_none() {
                process.lineage = Lineage::orphan(&process.me, process.lineage.root_client.clone());
            }
        }
        net.awake.insert(self.number);
    }

    pub fn write(&mut self, count: u64) {
        if let Some(sequencer) = self.process.as_mut().and_then(|p| p.sequencer.as_mut()) {
            sequencer.waiting += count;
        }
    }

    /// Does everything that can be done now.
    pub fn step(&mut self, net: &mut Net) {
        for round in 0.. {
            assert!(round < 10_000, "node {} never comes to rest", self.number);
            let Some(process) = &mut self.process else { return };
            let mut busy = process.accept(self.number, net);
            let (followed, followers) = (process.up.following(), process.serving.len());
            busy |= process.follow(&mut self.disk, &self.place, self.number, &mut self.alarm, net);
            let lost = followed && !process.up.following();
            if lost && net.plan.bug == Some(Bug::LeavesItsDownstreams) {
                for (number, _) in std::mem::take(&mut process.serving) {
                    net.cut(number);
                }
            }
            let number = self.number;
            assert!(
                process.serving.len() >= followers,
                "node {number} has lost its upstream, and its downstreams with it"
            );
            busy |= process.serve(&mut self.disk, &self.place, net);
            busy |= self.commit(net);
            busy |= self.seal(net);
            if !busy {
                break;
            }
        }
        self.schedule(net);
    }

    fn schedule(&mut self, net: &mut Net) {
        let Some(process) = &self.process else { return };
        let mut at = process.up.next_deadline();
        for session in process.serving.values() {
            at = at.min(session.session.next_deadline());
        }
        for session in process.offering.values() {
            at = at.min(session.session.next_deadline());
        }
        if let Some(commit) = &process.commit {
            at = at.min(commit.ends);
        }
        if let Some(sequencer) = &process.sequencer {
            at = at.min(sequencer.next_heartbeat);
            if sequencer.waiting > 0 && process.commit.is_none() {
                at = at.min(sequencer.window.seal_at(net.now));
            }
        }
        if let Some(done) = process.making {
            at = at.min(done);
        }
        let at = at.max(net.now.plus_ms(1));
        if at < Millis::new(u64::MAX) && self.wake.is_none_or(|wake| at < wake || wake <= net.now) {
            self.wake = Some(at);
            net.at(at, Event::Wake(self.number));
        }
    }

    fn moved(&mut self, net: &mut Net, how: Moved) {
        if net.plan.stranger != Some(self.number) {
            net.record.moved(self.number, self.disk.end(), how);
        }
    }

    /// These batches are on the disk.
    fn land(&mut self, batches: Vec<Batch>, net: &mut Net) {
        let lost = net.plan.bug == Some(Bug::ForgetsCommits) && net.chance(20);
        for batch in batches {
            let end = batch.after();
            self.disk.log.push(batch);
            if self.is_the_root() {
                net.record.root_committed(end);
            }
        }
        self.moved(net, Moved::Applied);
        if lost {
            // What the disk said was there is not.
            if let Some(backup) = &self.backup {
                self.disk = backup.clone();
            }
        } else if net.chance(30) {
            self.backup = Some(self.disk.clone());
        }
    }

    /// Ends a commit whose time has come, begins the next one.
    fn commit(&mut self, net: &mut Net) -> bool {
        let (the_root, bug) = (self.is_the_root(), net.plan.bug);
        let Some(process) = &mut self.process else { return false };
        let mut busy = false;
        if process.commit.as_ref().is_some_and(|commit| commit.ends <= net.now) {
            let Some(Commit { batches, .. }) = process.commit.take() else { return false };
            busy = true;
            if self.failing > 0 && !the_root {
                self.failing -= 1;
                net.record.meet("a commit failed");
                let end = self.disk.end();
                process.queue.retain(|command| !matches!(command, Command::Apply(_)));
                if bug != Some(Bug::GoesOnAfterFailedCommit) {
                    process.recent.reset(end);
                }
            } else {
                let landed: Vec<Batch> = take_batches(&mut process.queue, batches);
                self.land(landed.clone(), net);
                let end = self.disk.end();
                let held = self.hold(net.now);
                self.disk.log.collect(self.place.log_entries, held);
                let Some(process) = &mut self.process else { return false };
                if process.sequencer.is_some() && bug != Some(Bug::AnswersBeforeCommit) {
                    // The root passes on what is safe, and answers.
                    process.pass_on(&landed);
                    if the_root {
                        net.record.root_answered(end);
                    }
                }
                process.recent.committed(end);
            }
        }
        let Some(process) = &mut self.process else { return false };
        if process.commit.is_some() {
            return busy;
        }
        while let Some(command) = process.queue.front() {
            match command {
                Command::Apply(_) => break,
                Command::Heartbeat(heartbeat) => process.counted = Some(*heartbeat),
                Command::AdoptHistory(history) => {
                    self.disk.history = *history;
                    process.me.history = Some(*history);
                }
            }
            process.queue.pop_front();
            busy = true;
        }
        let batches = process.queue.iter().take_while(|c| !matches!(c, Command::AdoptHistory(_)));
        let batches = batches.filter(|command| matches!(command, Command::Apply(_))).count();
        if batches > 0 {
            let mut ms = net.rng.random_range(net.plan.commit_ms.0..=net.plan.commit_ms.1);
            if net.now < self.slow_until {
                ms += 2_000;
            }
            process.commit = Some(Commit { batches, ends: net.now.plus_ms(ms) });
            busy = true;
        }
        busy
    }

    /// Up to where the log is kept for whoever fetches the snapshot that is offered.
    fn hold(&self, now: Millis) -> Option<Index> {
        let process = self.process.as_ref()?;
        let wanted = process.asked.is_some_and(|asked| now.since_ms(asked) < OFFER_HELD_MS);
        let end = self.disk.offered.as_ref().filter(|_| wanted)?.end().index;
        // A wish, not a lock.
        (self.disk.log.entries() < 4 * self.place.log_entries).then_some(end)
    }

    /// At a root: heartbeats, and a batch when the window allows it.
    fn seal(&mut self, net: &mut Net) -> bool {
        let Some(process) = &mut self.process else { return false };
        if process.making.is_some_and(|done| done <= net.now) {
            process.making = None;
            let number = net.within(0..u64::MAX);
            let snapshot = Snapshot::of(self.disk.end(), self.disk.identity(), number);
            net.record.meet("a snapshot was made");
            self.disk.offered = Some(Rc::new(snapshot));
        }
        let Some(sequencer) = &mut process.sequencer else { return false };
        if sequencer.next_heartbeat <= net.now {
            sequencer.next_heartbeat = net.now.plus_ms(HEARTBEAT_MS);
            let ms = net.now.get().saturating_add_signed(self.clock_ms);
            let after = process.recent.state().end.index;
            let heartbeat = Heartbeat { root_clock_us: ms * 1_000, after };
            let epoch = process.recent.state().epoch;
            let pushed = process.recent.push_control(epoch, heartbeat.to_record());
            pushed.expect("a root's feed is never reset");
            process.counted = Some(heartbeat);
            return true;
        }
        let free = process.commit.is_none() && process.queue.is_empty();
        if sequencer.waiting == 0 || !free || sequencer.window.seal_at(net.now) > net.now {
            return false;
        }
        let mut builder = BatchBuilder::new(self.disk.end());
        // Another past is another past from its first entry on.
        let salt = net.within(0..u64::MAX);
        for _ in 0..std::mem::take(&mut sequencer.waiting).min(20) {
            let key = format!("key-{}", builder.next_index());
            builder.push(Entry::set(key.as_bytes(), &salt.to_le_bytes()));
        }
        let batch = builder.seal(net.now.get()).expect("somebody waits");
        sequencer.window.sealed(net.now);
        process.queue.push_back(Command::Apply(batch.clone()));
        if net.plan.bug == Some(Bug::AnswersBeforeCommit) {
            if self.number == ROOT {
                net.record.root_committed(batch.after());
                net.record.root_answered(batch.after());
            }
            process.pass_on(&[batch]);
        }
        true
    }
}

fn take_batches(queue: &mut VecDeque<Command>, count: usize) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut others = VecDeque::new();
    while batches.len() < count
        && let Some(command) = queue.pop_front()
    {
        match command {
            Command::Apply(batch) => batches.push(batch),
            other => others.push_back(other),
        }
    }
    while let Some(other) = others.pop_back() {
        queue.push_front(other);
    }
    batches
}

impl Process {
    /// A root has committed these.
    fn pass_on(&mut self, batches: &[Batch]) {
        let epoch = self.recent.state().epoch;
        for batch in batches {
            self.recent.push_batch(epoch, batch).expect("a root's feed is never reset");
        }
    }

    /// The feed's life, and where it ends.
    pub fn promise(&self, disk: &Disk) -> (Epoch, HistoryId) {
        (self.recent.state().epoch, disk.history)
    }

    /// Where the next session begins.
    pub fn end(&self) -> Position {
        self.recent.state().end
    }

    /// Takes the connections that were made to this node.
    fn accept(&mut self, node: NodeNumber, net: &mut Net) -> bool {
        let Some(numbers) = net.incoming.remove(&node) else { return false };
        for number in numbers {
            let serving = Serving::new(&self.me, self.lineage.clone(), net.now);
            self.serving.insert(number, serving);
        }
        true
    }
}
