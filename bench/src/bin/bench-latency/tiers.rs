//! root → relay → leaf, and what each of them says about when it had a write.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use quicksilver::log::Records;
use quicksilver::status_page::StatusPage;
use quicksilver::{Index, Reader};
use quicksilver_bench::connection::Address;
use quicksilver_bench::server::{self, resp::Client};
use quicksilver_bench::{Result, metrics};
use quicksilver_format::layout::STATUS;
use quicksilver_replicator::store::wall_clock_us;
use quicksilver_tests::Cluster;

use crate::schedule::{self, Schedule};
use crate::stages::Means;
use crate::{ARRIVAL, KEY, Seen};

/// Between two looks of a watcher that is to end.
const LOOK: Duration = Duration::from_millis(100);

/// How tiers are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Unix,
}

/// When one write was where, by the wall clock in microseconds.
#[derive(Debug, Clone, Copy)]
struct Passage {
    index: Index,
    due: u64,
    at_root: u64,
    seen: u64,
}

/// Commits and their seconds, of the relay and of the leaf.
type Commits = [(f64, f64); 2];

pub(crate) struct Tiers {
    cluster: Cluster,
    writer: Client,
    root: StatusPage,
    leaf: Reader,
    relay: Reader,
    written: usize,
    passages: Vec<Passage>,
    commits: Commits,
}

impl Tiers {
    pub(crate) fn start(window_ms: u64, transport: Transport) -> Result<Tiers> {
        let mut cluster = Cluster::new();
        cluster.root("root").set_literal("batch.window_ms", window_ms);
        // As by default, not as in tests.
        cluster.node_mut("root").set_literal("root.heartbeat_ms", 1000);
        cluster.relay("relay", &["root"]);
        cluster.leaf("leaf", &["relay"]);
        if transport == Transport::Tcp {
            for (upstream, downstream) in [("root", "relay"), ("relay", "leaf")] {
                let address = format!("127.0.0.1:{}", server::free_port()?);
                cluster.node_mut(upstream).set("listen.replication", &address);
                cluster.node_mut(downstream).follow(&[address]);
            }
        }
        cluster.start_all();
        let [root, relay, leaf] = ["root", "relay", "leaf"].map(|name| cluster.node(name));
        let writer = Client::connect(&Address::Unix(root.socket("client")))?;
        let page = StatusPage::open(&root.data_dir().join(STATUS))?;
        let (relay, leaf) = (Reader::open(relay.data_dir())?, Reader::open(leaf.data_dir())?);
        let commits = [(0.0, 0.0); 2];
        let mut tiers = Tiers {
            cluster,
            writer,
            root: page,
            relay,
            leaf,
            written: 0,
            passages: Vec::new(),
            commits,
        };
        // The first one connects everybody.
        tiers.lone_write()?;
        tiers.take_stages()?;
        Ok(tiers)
    }

    /// The index of the write that has this number: everyone changes the key.
    fn index(number: usize) -> Index {
        Index::new(number as u64 + 1)
    }

    fn value_on_leaf_is(&self, number: usize) -> Result<()> {
        let found = self.leaf.get(KEY)?;
        let right = found.as_deref() == Some(schedule::value(number).as_bytes());
        if right { Ok(()) } else { Err(format!("the leaf has {found:?}").into()) }
    }

    /// The stages of all writes since this was last asked.
    pub(crate) fn take_stages(&mut self) -> Result<Means> {
        let [relay, leaf] = ["relay", "leaf"].map(|name| metrics::commits(self.cluster.node(name)));
        let before = std::mem::replace(&mut self.commits, [relay?, leaf?]);
        let mean_commit = |tier: usize| {
            let ((commits, seconds), (earlier, earlier_seconds)) =
                (self.commits[tier], before[tier]);
            (seconds - earlier_seconds) / (commits - earlier) * 1e3
        };
        let (relay_commit, leaf_commit) = (mean_commit(0), mean_commit(1));
        let passages = std::mem::take(&mut self.passages);
        let sealed = self.sealed(&passages)?;
        let mean = |of: &dyn Fn(&Passage, u64) -> f64| {
            let all = passages.iter().zip(&sealed).map(|(passage, sealed)| of(passage, *sealed));
            all.sum::<f64>() / passages.len() as f64 / 1e3
        };
        let after_root = mean(&|passage, _| passage.seen as f64 - passage.at_root as f64);
        Ok(Means {
            window: mean(&|passage, sealed| sealed as f64 - passage.due as f64),
            root_commit: mean(&|passage, sealed| passage.at_root as f64 - sealed as f64),
            leaf_commit,
            network: after_root - leaf_commit,
            relay_commit,
        })
    }

    /// When the batches were sealed in which the writes are: their records say it.
    fn sealed(&self, passages: &[Passage]) -> Result<Vec<u64>> {
        let Some(first) = passages.first() else { return Ok(Vec::new()) };
        let environment = self.leaf.environment()?;
        let txn = environment.env.read()?;
        let mut records = Records::from(&environment, &txn, first.index)?;
        let mut sealed = Vec::with_capacity(passages.len());
        while let Some(record) = records.take()? {
            let batch = record.decode()?;
            let mine = batch.entries().filter(|(index, _)| *index >= first.index);
            sealed.extend(mine.map(|_| batch.header().sealed_at_us));
        }
        Ok(sealed)
    }
}

impl Seen for Tiers {
    fn lone_write(&mut self) -> Result<f64> {
        let (number, index) = (self.written, Self::index(self.written));
        let due = wall_clock_us();
        self.writer.send_set(KEY, schedule::value(number).as_bytes())?;
        let reached = self.leaf.wait_for(index, ARRIVAL)?;
        if reached < index {
            return Err(format!("{index} is not there: {reached}").into());
        }
        self.value_on_leaf_is(number)?;
        let seen = wall_clock_us();
        self.writer.take_ok()?;
        // It passes on before it commits.
        self.relay.wait_for(index, ARRIVAL)?;
        let commit = self.root.commit().filter(|commit| commit.position.index == index);
        let at_root = commit.ok_or("the root's page is not at the write")?.time_us;
        self.passages.push(Passage { index, due, at_root, seen });
        self.written += 1;
        Ok((seen - due) as f64 / 1e3)
    }

    fn scheduled_writes(&mut self, schedule: &Schedule) -> Result<Vec<f64>> {
        let due = schedule.begin();
        let (first, count) = (self.written, schedule.len());
        let last = Self::index(first + count - 1);
        let root = Reader::open(self.cluster.node("root").data_dir())?;
        let client = Address::Unix(self.cluster.node("root").socket("client"));
        let failed = AtomicBool::new(false);
        let watch = |reader: &Reader| watch(reader, Self::index(first), last, &failed);
        let (at_root, seen) = thread::scope(|scope| -> Result<_> {
            let (at_root, seen) = (scope.spawn(|| watch(&root)), scope.spawn(|| watch(&self.leaf)));
            let sent = schedule::send_sets(&client, &due, first);
            failed.store(sent.is_err(), Ordering::Relaxed);
            let of = "a watcher panicked";
            let watched = (at_root.join().map_err(|_| of)??, seen.join().map_err(|_| of)??);
            sent.map(|()| watched)
        })?;
        self.written += count;
        self.value_on_leaf_is(self.written - 1)?;
        self.relay.wait_for(last, ARRIVAL)?;
        let times = due.iter().zip(at_root.iter().zip(&seen));
        self.passages.extend((first..).zip(times).map(|(number, (due, (at_root, seen)))| {
            let index = Self::index(number);
            Passage { index, due: *due, at_root: *at_root, seen: *seen }
        }));
        Ok(schedule::latencies(&due, &seen))
    }
}

/// When a reader saw each index from `first` to `last`.
fn watch(reader: &Reader, first: Index, last: Index, failed: &AtomicBool) -> Result<Vec<u64>> {
    let mut seen = Vec::new();
    let mut wanted = first;
    while wanted <= last {
        let reached = reader.wait_for(wanted, LOOK)?;
        let now = wall_clock_us();
        while wanted <= reached.min(last) {
            seen.push(now);
            wanted = wanted.next();
        }
        if failed.load(Ordering::Relaxed) {
            return Err("the writer failed".into());
        }
    }
    Ok(seen)
}
