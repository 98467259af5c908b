//! The tree, what goes wrong in it, and how it has to end.
//!
//! First things go wrong for a while; the invariants are checked at every change of a disk. Then
//! nothing does, an operator acts on alarms, and every node must come to where the root is.

use quicksilver_format::{DbId, Position};
use quicksilver_protocol::Millis;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::disk::Disk;
use crate::net::{Event, Net, NodeNumber};
use crate::node::Node;
use crate::plan::{self, Bug, Fault, Plan, ROOT};
use crate::record::{Moved, Record};

const DB: DbId = DbId::from_bytes([0xdb; 16]);
const ANOTHER_DB: DbId = DbId::from_bytes([0xad; 16]);
/// Between two rounds of the operator.
const ROUND_MS: u64 = 5_000;
/// In which everybody has to be where the root is, once nothing goes wrong.
const CONVERGENCE_MS: u64 = 900_000;
const HOUR_MS: i64 = 3_600_000;

/// See the module.
pub struct World {
    net: Net,
    nodes: Vec<Node>,
    /// Whether anybody writes.
    writing: bool,
    /// A relay that nobody can reach its upstreams from, for good.
    lost: Option<NodeNumber>,
    calm_since: Option<Millis>,
}

impl World {
    pub fn new(seed: u64, bug: Option<Bug>, told: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let plan = Plan::new(&mut rng, bug);
        let places = plan.places.clone();
        let stranger = plan.stranger;
        let mut net = Net::new(plan, rng, places.len());
        net.record.is_told = told;
        net.record.begin(DB);
        let db = |node| if Some(node) == stranger { ANOTHER_DB } else { DB };
        let nodes = places.into_iter().enumerate();
        let nodes = nodes.map(|(n, place)| Node::new(n, place, db(n))).collect();
        World { net, nodes, writing: true, lost: None, calm_since: None }
    }

    /// The whole story; what was met, and the trace.
    pub fn run(mut self) -> Record {
        for node in 0..self.nodes.len() {
            self.start(node);
        }
        self.net.after(1, Event::Write);
        self.net.after(self.net.plan.fault_ms, Event::Misfortune);
        while !self.is_over() {
            let event = self.net.next().expect("somebody always waits for something");
            self.happen(event);
            while let Some(node) = self.net.awake.pop_first() {
                self.nodes[node].step(&mut self.net);
            }
            if self.calm_since.is_none() && self.net.now.get() > self.net.plan.trouble_ms {
                self.calm();
            }
        }
        self.net.record
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake(node) => {
                if self.nodes[node].wake == Some(self.net.now) {
                    self.nodes[node].wake = None;
                    self.net.awake.insert(node);
                }
            }
            Event::Arrive(number, end) => self.net.arrive(number, end),
            Event::Cut(number) => self.net.cut(number),
            Event::Write => {
                if self.writing {
                    for node in 0..self.nodes.len() {
                        let count = self.net.within(1..4);
                        self.nodes[node].write(count);
                        self.net.awake.insert(node);
                    }
                }
                let pause = self.net.within(1..2 * self.net.plan.write_ms);
                self.net.after(pause, Event::Write);
            }
            Event::Misfortune => {
                if self.net.faulty {
                    self.misfortune();
                    let pause = self.net.within(1..self.net.plan.fault_ms);
                    self.net.after(pause, Event::Misfortune);
                }
            }
            Event::Start(node) => self.start(node),
            Event::Round => {
                self.make_the_round();
                self.net.after(ROUND_MS, Event::Round);
            }
        }
    }

    fn start(&mut self, node: NodeNumber) {
        if self.nodes[node].process.is_none() {
            self.nodes[node].start(&mut self.net);
        }
    }

    fn any(&mut self) -> NodeNumber {
        self.net.rng.random_range(0..self.nodes.len())
    }

    /// One of those that follow.
    fn relay(&mut self) -> NodeNumber {
        let relays = self.nodes.len() - 1 - usize::from(self.net.plan.stranger.is_some());
        1 + self.net.rng.random_range(0..relays)
    }

    fn misfortune(&mut self) {
        let Some(fault) = plan::pick(&mut self.net.rng, &self.net.plan.faults) else { return };
        let (now, relay, any) = (self.net.now, self.relay(), self.any());
        self.net.record.note(&[now.get(), fault as u64, relay as u64, any as u64]);
        self.net.record.tell(|| format!("{:>8} {fault:?} of {relay} or {any}", now.get()));
        match fault {
            Fault::Kill => self.take_down(any, true, 3_000),
            Fault::PowerCut => self.take_down(any, false, 8_000),
            Fault::LongAbsence => self.take_down(relay, false, 40_000),
            Fault::CommitFails => self.nodes[relay].failing = 1,
            Fault::SlowDisk => {
                let ms = self.net.within(1_000..20_000);
                self.nodes[any].slow_until = now.plus_ms(ms);
            }
            Fault::CutConnection => drop(self.net.cut_any()),
            Fault::Partition | Fault::OneWayPartition => {
                let (other, ms) = (self.any(), self.net.within(500..25_000));
                self.net.block(any, other, ms);
                if fault == Fault::Partition {
                    self.net.block(other, any, ms);
                } else if any != other {
                    self.net.record.meet("a partition in one direction");
                }
            }
            Fault::RelayFromBackup => {
                if let Some(backup) = self.nodes[relay].backup.clone() {
                    self.net.record.meet("a relay was restored from a backup");
                    self.replace(relay, backup);
                }
            }
            Fault::RootFromBackup => self.restore_root(),
            Fault::ClockJump => {
                self.nodes[ROOT].clock_ms += *[-HOUR_MS, HOUR_MS, -20_000]
                    .get(self.net.rng.random_range(0..3))
                    .unwrap_or(&0);
                self.net.record.meet("the root's clock jumped");
            }
            Fault::NewMachine => {
                let disk = self.empty_disk(relay);
                self.replace(relay, disk);
            }
            Fault::Reconfigure => {
                let relays = self.nodes.len() - 1 - usize::from(self.net.plan.stranger.is_some());
                let stranger = self.net.plan.stranger;
                let place = plan::place(&mut self.net.rng, relay, relays, stranger);
                self.nodes[relay].reload(place, &mut self.net);
            }
            Fault::Burst => {
                for _ in 0..self.net.rng.random_range(1..40) {
                    self.nodes[ROOT].write(20);
                }
                self.net.awake.insert(ROOT);
            }
        }
    }

    /// The process ends, with the machine if there is no `power`; it comes back.
    fn take_down(&mut self, node: NodeNumber, power: bool, most_ms: u64) {
        self.nodes[node].die(&mut self.net, power);
        let ms = self.net.within(10..most_ms);
        self.net.after(ms, Event::Start(node));
    }

    fn empty_disk(&self, node: NodeNumber) -> Disk {
        let disk = &self.nodes[node].disk;
        Disk::empty(disk.db_id, quicksilver_format::HistoryId::NONE)
    }

    /// An operator puts another disk there.
    fn replace(&mut self, node: NodeNumber, disk: Disk) {
        self.nodes[node].die(&mut self.net, true);
        self.nodes[node].disk = disk;
        let end = self.nodes[node].disk.end();
        self.net.record.moved(node, end, Moved::Replaced);
        self.start(node);
    }

    fn restore_root(&mut self) {
        // Rarely: each one divides the whole tree.
        let Some(backup) = self.nodes[ROOT].backup.clone().filter(|_| self.net.chance(300)) else {
            return;
        };
        self.nodes[ROOT].die(&mut self.net, true);
        let end = backup.end();
        if end != self.nodes[ROOT].disk.end() {
            self.net.record.meet("the root was restored from a backup");
        }
        self.net.record.root_restored(&end);
        self.nodes[ROOT].disk = backup;
        self.net.record.moved(ROOT, end, Moved::Replaced);
        self.start(ROOT);
    }

    /// Nothing goes wrong any more.
    fn calm(&mut self) {
        self.calm_since = Some(self.net.now);
        self.net.faulty = false;
        self.net.heal();
        self.net.record.tell(|| "from here on nothing goes wrong".to_owned());
        let stranger = self.net.plan.stranger;
        for node in 0..self.nodes.len() {
            let mut place = self.nodes[node].place.clone();
            place.mend(node, stranger);
            self.nodes[node].failing = 0;
            self.nodes[node].slow_until = Millis::ZERO;
            self.nodes[node].reload(place, &mut self.net);
            self.start(node);
        }
        // But one of them may have been forgotten behind a wall.
        if self.net.chance(300) {
            let lost = self.relay();
            for upstream in self.nodes[lost].place.upstreams.clone() {
                self.net.block(lost, upstream, u64::MAX / 2);
                self.net.block(upstream, lost, u64::MAX / 2);
            }
            self.lost = Some(lost);
        }
        self.net.after(ROUND_MS, Event::Round);
    }

    fn end(&self, node: NodeNumber) -> Position {
        self.nodes[node].disk.end()
    }

    /// Looks at the alarms: of two that differ, the one whose past is not the root's is made anew, and
    /// so are those that it may have that past from, or they from it.
    fn make_the_round(&mut self) {
        let root = self.end(ROOT);
        for node in 1..self.nodes.len() {
            let Some(upstream) = self.nodes[node].alarm.take() else { continue };
            let related = |other: NodeNumber| {
                other == node
                    || other == upstream
                    || self.nodes[node].place.upstreams.contains(&other)
                    || self.hangs_below(node, other)
                    || self.hangs_below(other, node)
            };
            let related: Vec<NodeNumber> = (1..self.nodes.len()).filter(|n| related(*n)).collect();
            for wrong in related {
                let is_strange = Some(wrong) == self.net.plan.stranger;
                if !is_strange && !self.net.record.is_beginning(&self.end(wrong), &root) {
                    self.net.record.meet("an operator rebuilt a node that differed");
                    self.net.record.tell(|| format!("the operator rebuilds {wrong}"));
                    let disk = self.empty_disk(wrong);
                    self.replace(wrong, disk);
                }
            }
        }
    }

    fn hangs_below(&self, node: NodeNumber, other: NodeNumber) -> bool {
        let [node, other] = [node, other].map(|n| self.nodes[n].process.as_ref());
        let (Some(node), Some(other)) = (node, other) else { return false };
        node.lineage.path.contains(&other.me.hop())
    }

    fn is_over(&mut self) -> bool {
        let Some(since) = self.calm_since else { return false };
        let root = self.end(ROOT);
        let relays = 1..self.nodes.len() - usize::from(self.net.plan.stranger.is_some());
        // Whoever is ahead of a restored root finds out when the root has come as far.
        let ahead = relays.clone().any(|n| self.end(n).index >= root.index);
        self.writing = self.net.now.since_ms(since) < 3_000 || (self.writing && ahead);
        if self.writing {
            return false;
        }
        let astray: Vec<NodeNumber> = relays
            .filter(|node| Some(*node) != self.lost && !self.is_where_it_should_be(*node))
            .collect();
        assert!(
            astray.is_empty() || self.net.now.since_ms(since) < CONVERGENCE_MS,
            "nothing goes wrong any more, and nodes {astray:?} do not come to where the root is \
             ({root}): {}",
            astray.iter().map(|n| format!("{n} at {}; ", self.end(*n))).collect::<String>()
        );
        astray.is_empty()
    }

    /// Its log ends where the root's does, it hangs where it says, below the root, and it knows that
    /// it is fresh.
    fn is_where_it_should_be(&self, node: NodeNumber) -> bool {
        let this = &self.nodes[node];
        let Some(process) = &this.process else { return false };
        let Some(slot) = process.up.slot() else { return false };
        let upstream = this.place.upstreams[slot.0];
        let above = self.nodes[upstream].process.as_ref().map(|above| above.lineage.clone());
        let counted = process.counted.map_or(0, |heartbeat| heartbeat.root_clock_us / 1_000);
        let root_ms = self.net.now.get().saturating_add_signed(self.nodes[ROOT].clock_ms);
        this.disk.end() == self.end(ROOT)
            && above.is_some_and(|above| process.lineage == above.extended_to(&process.me))
            && process.lineage.connected_to_root
            && counted + 10_000 > root_ms
    }
}
