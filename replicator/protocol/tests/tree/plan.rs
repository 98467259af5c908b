//! What a seed decides: how many nodes, who is told to follow whom, and what goes wrong how often.
//!
//! Every kind of fault is left out of half of the seeds: a bug that needs calm in one respect to show
//! in another is found, too.

use rand::Rng;
use rand::rngs::StdRng;

use crate::net::NodeNumber;

pub const ROOT: NodeNumber = 0;

/// What the simulated nodes do wrong on purpose, to show that it would be noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The root answers, and passes on, before its commit has ended.
    AnswersBeforeCommit,
    /// A relay reports what it has received.
    ReportsBeforeCommit,
    /// A relay whose commit failed goes on where it was.
    GoesOnAfterFailedCommit,
    /// A commit that was reported is gone after a power cut.
    ForgetsCommits,
    /// A node takes any snapshot, also one that ends before its own log.
    TakesOlderSnapshots,
    /// A node that differs from its upstream throws away what it has.
    GivesUpOnDivergence,
    /// A source accepts whoever asks, wherever they stand.
    JudgesNobody,
    /// A node does not compare what it had received of a snapshot before it restarted.
    TrustsTornBlocks,
    /// A node keeps to itself that its place in the tree has changed.
    HidesItsPath,
    /// A node whose upstream is stale waits for ever.
    NeverAsks,
    /// A node that has lost its upstream sends its downstreams away.
    LeavesItsDownstreams,
    /// A node takes a snapshot of whoever has one, connected to the root or not. No invariant forbids
    /// what comes of it.
    AsksNobodyForTheRoot,
}

impl Bug {
    /// Those that break an invariant.
    pub const ALL: [Bug; 11] = [
        Bug::AnswersBeforeCommit,
        Bug::ReportsBeforeCommit,
        Bug::GoesOnAfterFailedCommit,
        Bug::ForgetsCommits,
        Bug::TakesOlderSnapshots,
        Bug::GivesUpOnDivergence,
        Bug::JudgesNobody,
        Bug::TrustsTornBlocks,
        Bug::HidesItsPath,
        Bug::NeverAsks,
        Bug::LeavesItsDownstreams,
    ];
}

/// Whom a node is told to follow, and how much it keeps.
#[derive(Debug, Clone)]
pub struct Place {
    /// Primaries, then secondaries.
    pub upstreams: Vec<NodeNumber>,
    pub primaries: usize,
    pub log_entries: u64,
    pub max_downstreams: usize,
}

/// Kinds of misfortune.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Kill,
    PowerCut,
    LongAbsence,
    CommitFails,
    SlowDisk,
    CutConnection,
    Partition,
    OneWayPartition,
    RelayFromBackup,
    RootFromBackup,
    ClockJump,
    NewMachine,
    Reconfigure,
    Burst,
}

impl Fault {
    const ALL: [Fault; 14] = [
        Fault::Kill,
        Fault::PowerCut,
        Fault::LongAbsence,
        Fault::CommitFails,
        Fault::SlowDisk,
        Fault::CutConnection,
        Fault::Partition,
        Fault::OneWayPartition,
        Fault::RelayFromBackup,
        Fault::RootFromBackup,
        Fault::ClockJump,
        Fault::NewMachine,
        Fault::Reconfigure,
        Fault::Burst,
    ];
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Plan {
    pub bug: Option<Bug>,
    /// By node; the root is the first, one of another database the last, if there is one.
    pub places: Vec<Place>,
    pub stranger: Option<NodeNumber>,
    pub window_ms: u64,
    pub write_ms: u64,
    pub delay_ms: (u64, u64),
    pub commit_ms: (u64, u64),
    pub faults: Vec<Fault>,
    /// Between two of them, at most.
    pub fault_ms: u64,
    /// Frames in a thousand that are damaged.
    pub damage: u32,
    /// How long things go wrong.
    pub trouble_ms: u64,
}

impl Plan {
    pub fn new(rng: &mut StdRng, bug: Option<Bug>) -> Self {
        let relays = rng.random_range(2..=5);
        let stranger = rng.random_bool(0.2).then_some(relays + 1);
        let nodes = relays + 1 + usize::from(stranger.is_some());
        let places = (0..nodes).map(|node| place(rng, node, relays, stranger)).collect();
        let faults = Fault::ALL.into_iter().filter(|_| rng.random_bool(0.5)).collect();
        let slow_line = rng.random_bool(0.2);
        Plan {
            bug,
            places,
            stranger,
            window_ms: *[0, 100, 500].get(rng.random_range(0..3)).unwrap_or(&500),
            write_ms: rng.random_range(100..1_500),
            delay_ms: if slow_line { (50, 900) } else { (0, 30) },
            commit_ms: (1, rng.random_range(5..200)),
            faults,
            fault_ms: rng.random_range(500..8_000),
            damage: if rng.random_bool(0.4) { rng.random_range(1..15) } else { 0 },
            trouble_ms: rng.random_range(20_000..60_000),
        }
    }
}

impl Place {
    /// An operator has read the log: nobody follows a stranger, itself, or only those who cannot help,
    /// and there is room for everybody.
    pub fn mend(&mut self, node: NodeNumber, stranger: Option<NodeNumber>) {
        let wrong = |upstream: &NodeNumber| Some(*upstream) == stranger || *upstream == node;
        let primaries = self.upstreams.iter().take(self.primaries);
        self.primaries -= primaries.filter(|upstream| wrong(upstream)).count();
        self.upstreams.retain(|upstream| !wrong(upstream));
        self.max_downstreams = 100;
        if node != ROOT && Some(node) != stranger && !self.upstreams.contains(&ROOT) {
            self.upstreams.push(ROOT);
            self.primaries = self.primaries.max(1);
        }
    }
}

/// Where a node is put: mostly below those with smaller numbers, sometimes where it must not be.
pub fn place(
    rng: &mut StdRng,
    node: NodeNumber,
    relays: usize,
    stranger: Option<NodeNumber>,
) -> Place {
    let mut upstreams = Vec::new();
    let wanted = if node == ROOT || Some(node) == stranger { 0 } else { rng.random_range(1..=3) };
    while upstreams.len() < wanted {
        let upstream = match rng.random_range(0..20) {
            0 => stranger.unwrap_or(ROOT),
            1 => node,
            2..5 => rng.random_range(0..=relays),
            _ => rng.random_range(0..node),
        };
        if !upstreams.contains(&upstream) || rng.random_bool(0.3) {
            upstreams.push(upstream);
        }
    }
    upstreams.dedup();
    let primaries = rng.random_range(0..=upstreams.len()).max(1).min(upstreams.len());
    // Roots and some relays keep a longer log than others.
    let log_entries = *[10, 40, 400].get(rng.random_range(0..3)).unwrap_or(&40);
    let max_downstreams = if rng.random_bool(0.2) { rng.random_range(1..3) } else { 100 };
    Place { upstreams, primaries, log_entries, max_downstreams }
}

/// One of those that this plan has.
pub fn pick(rng: &mut StdRng, faults: &[Fault]) -> Option<Fault> {
    (!faults.is_empty()).then(|| faults[rng.random_range(0..faults.len())])
}
