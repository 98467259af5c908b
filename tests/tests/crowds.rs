//! "A crowd is the crowd's problem." Thousands of connections that say nothing, or say it a byte a
//! second, are closed in time and cost little; thousands of followers that lose their upstream at once
//! come back one after the other, no more of them than there is room for. Whoever is connected
//! meanwhile goes on receiving.
//!
//! `QS_HERD` and `QS_SILENT` say how many.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use quicksilver_tests::cluster::{DB_ID, DOWNSTREAM_ENDED, Node, UPSTREAM_ENDED};
use quicksilver_tests::herd::{Herd, allow_open_files};
use quicksilver_tests::resp::Client;
use quicksilver_tests::{Cluster, ReaderProcess, SOON, eventually, fingerprint};

/// For most writes to be seen on a leaf, whatever else goes on. Idle it takes milliseconds; a single one
/// may meet a disk that has other things to do.
const USUALLY: Duration = Duration::from_secs(1);
/// Until the last of a crowd has come through: two waits of half a minute, and their handshakes.
const IN_THE_END: Duration = Duration::from_secs(120);
/// Between two writes: what is written goes to the whole crowd.
const PACE: Duration = Duration::from_millis(20);

fn from_environment(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number"))
    })
}

/// Writes at the root, and the memory of a leaf where it is looked for.
struct Probe {
    root: Client,
    leaf: ReaderProcess,
    number: usize,
    took: Vec<Duration>,
}

impl Probe {
    fn new(root: &Node, leaf: &Node) -> Probe {
        Probe { root: root.client(), leaf: leaf.reader(), number: 0, took: Vec::new() }
    }

    /// One write, and how long it took until it could be read on the leaf.
    fn write(&mut self) {
        self.number += 1;
        let value = self.number.to_string();
        let (wanted, within) = (fingerprint(value.as_bytes()), SOON.as_millis());
        self.leaf.send(&format!("await probe {wanted} {within}"));
        let began = Instant::now();
        assert!(self.root.call(&["SET", "probe", &value]).unwrap().is_ok());
        assert_eq!(self.leaf.answer(), "seen", "write {value}");
        self.took.push(began.elapsed());
        std::thread::sleep(PACE);
    }

    /// The median since the last call, after a line about all of them.
    fn median(&mut self, when: &str) -> Duration {
        let mut took = std::mem::take(&mut self.took);
        took.sort();
        let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
        let longest = *took.last().unwrap();
        let (writes, p50, p99) = (took.len(), at(50), at(99));
        println!("{when}: {writes} writes, p50 {p50:.1?}, p99 {p99:.1?}, longest {longest:.1?}");
        p50
    }
}

fn downstreams(node: &Node) -> usize {
    node.status().json["downstreams"].as_array().unwrap().len()
}

/// Story: a regional relay dies, and its whole region goes to the other one, which has room for three
/// quarters of it. Then the first one is back.
#[test]
fn a_herd_that_loses_its_upstream() {
    let size = from_environment("QS_HERD", 2_000);
    if !allow_open_files(size + size / 2) {
        return;
    }
    let room = size * 3 / 4;
    let mut cluster = Cluster::new();
    cluster.root("root").set_literal("root.heartbeat_ms", 1_000);
    cluster.relay("gone", &["root"]).set_literal("limits.max_downstreams", size);
    cluster.relay("spare", &["root"]).set_literal("limits.max_downstreams", room + 1);
    cluster.leaf("leaf", &["spare"]);
    cluster.start_all();
    let mut probe = Probe::new(cluster.node("root"), cluster.node("leaf"));
    probe.write();
    cluster.await_converged(SOON);

    let upstreams = ["gone", "spare"].map(|name| cluster.node(name).address("replication"));
    let began = Instant::now();
    let herd = Herd::gather(size, DB_ID, &upstreams);
    eventually("all of them follow", SOON, || (herd.following() == size).then_some(()));
    println!("{size} followers after {:.1?}", began.elapsed());
    for _ in 0..20 {
        probe.write();
    }
    probe.median("before");

    // At the start a node may have dialled one that did not listen yet.
    let lost_by_leaf = |cluster: &Cluster| cluster.node("leaf").counted(UPSTREAM_ENDED, "lost");
    let lost_before = lost_by_leaf(&cluster);
    cluster.node_mut("gone").kill9();
    let lost = Instant::now();
    let spare = cluster.node("spare");
    // Those for whom there is no room ask again and again, less and less often: up to half a minute
    // apart, if this went on.
    let enough = (size - room) as u64;
    while downstreams(spare) <= room || spare.counted(DOWNSTREAM_ENDED, "busy") < enough {
        assert!(lost.elapsed() < IN_THE_END, "{} of {size}", herd.following());
        assert!(downstreams(spare) <= room + 1, "the limit is one");
        probe.write();
    }
    println!("full, and {enough} refused, after {:.1?}", lost.elapsed());
    cluster.node_mut("gone").start();
    let back = Instant::now();
    while herd.following() < size {
        assert!(back.elapsed() < IN_THE_END, "{} of {size}", herd.following());
        assert!(downstreams(cluster.node("spare")) <= room + 1, "the limit is one");
        probe.write();
    }
    println!("all {size} follow again after {:.1?}", lost.elapsed());
    let refused = cluster.node("spare").counted(DOWNSTREAM_ENDED, "busy");
    println!("{refused} times one of them was refused for lack of room");
    let median = probe.median("meanwhile");
    assert!(median < USUALLY, "{median:?}");
    assert_eq!(lost_by_leaf(&cluster), lost_before, "it was connected all the time");

    let index = cluster.node("root").status().index;
    eventually("all of them have everything", SOON, || {
        (herd.count_with(index) == size).then_some(())
    });
    drop(herd);
    cluster.await_converged(SOON);
}

/// A frame that would be a `Hello` (1) or a `Fetch` (10), if it ever came to its end.
fn endless(kind: u8) -> Vec<u8> {
    let mut frame = vec![0x60, 0xea, 0, 0, kind, 0, 0, 0, 1, 2, 3, 4];
    frame.resize(1_000, 0);
    frame
}

fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
}

/// One that says a byte a second, or nothing.
struct Slow {
    stream: UnixStream,
    rest: Vec<u8>,
}

impl Slow {
    fn connect(socket: &Path, rest: Vec<u8>) -> Slow {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_nonblocking(true).unwrap();
        Slow { stream, rest }
    }

    fn says_its_next_byte(&mut self) {
        if !self.rest.is_empty() {
            // It may be closed.
            let _ = self.stream.write(&[self.rest.remove(0)]);
        }
    }

    fn is_open(&mut self) -> bool {
        let mut heard = [0; 512];
        loop {
            match self.stream.read(&mut heard) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(e) => return e.kind() == ErrorKind::WouldBlock,
            }
        }
    }
}

#[test]
fn thousands_that_say_nothing_or_say_it_slowly() {
    const TRICKLING: usize = 200;
    /// What may be kept for each of them.
    const BYTES_EACH: u64 = 64 << 10;
    let silent = from_environment("QS_SILENT", 2_000);
    if !allow_open_files(silent + TRICKLING + 500) {
        return;
    }
    let mut cluster = Cluster::new();
    cluster.root("root").set_literal("limits.max_downstreams", silent + TRICKLING + 10);
    cluster.leaf("leaf", &["root"]);
    cluster.start_all();
    let root = cluster.node("root");
    let mut probe = Probe::new(root, cluster.node("leaf"));
    for _ in 0..20 {
        probe.write();
    }
    probe.median("before");
    let socket = root.socket("replication");
    let before = resident_bytes(root.pid());
    let began = Instant::now();
    let mut trickling: Vec<Slow> = (0..TRICKLING)
        .map(|n| Slow::connect(&socket, endless(if n % 2 == 0 { 1 } else { 10 })))
        .collect();
    let mut idle: Vec<Slow> = (0..silent).map(|_| Slow::connect(&socket, Vec::new())).collect();
    let (mut most, mut said) = (0, Instant::now());
    let mut idle_took = None;
    while !idle.is_empty() || !trickling.is_empty() {
        // The deadline is 10 s, whatever they say.
        assert!(began.elapsed() < SOON, "{} are open", idle.len() + trickling.len());
        most = most.max(resident_bytes(root.pid()));
        probe.write();
        if said.elapsed() >= Duration::from_secs(1) {
            said = Instant::now();
            trickling.iter_mut().for_each(Slow::says_its_next_byte);
        }
        idle.retain_mut(Slow::is_open);
        trickling.retain_mut(Slow::is_open);
        if idle.is_empty() {
            idle_took.get_or_insert_with(|| began.elapsed());
        }
    }
    let (idle_took, slow_took) = (idle_took.unwrap(), began.elapsed());
    println!("{silent} silent ones were closed after {idle_took:.1?}, slow ones {slow_took:.1?}");
    let grown = most.saturating_sub(before);
    println!("{} kB more memory for {} connections", grown >> 10, silent + TRICKLING);
    assert!(grown < BYTES_EACH * (silent + TRICKLING) as u64, "{grown}");
    let median = probe.median("meanwhile");
    assert!(median < USUALLY, "{median:?}");
    // More than there is room for are closed at once.
    let [waited, closed] = ["no-hello", "busy"].map(|r| root.counted(DOWNSTREAM_ENDED, r));
    println!("{waited} had their ten seconds, {closed} were closed at once");
    assert!(waited >= 800 && waited + closed >= (silent + TRICKLING / 2) as u64);
    cluster.await_converged(SOON);
}

/// Story: a thousand connections begin a transfer and never end the sentence. `limits.max_downstreams`
/// is a bound for all of them together, give or take what is let go at that moment.
#[test]
fn connections_are_bounded_whatever_they_say() {
    const CONNECTIONS: usize = 2_000;
    const DOWNSTREAMS: usize = 100;
    /// Those that have not said who they are, and the process's own files.
    const BESIDE_THEM: usize = 1_024 + 100;
    if !allow_open_files(CONNECTIONS + 500) {
        return;
    }
    for first in [Vec::new(), endless(1), endless(10)] {
        let mut cluster = Cluster::new();
        cluster.root("root").set_literal("limits.max_downstreams", DOWNSTREAMS);
        cluster.start_all();
        let root = cluster.node("root");
        let open = || std::fs::read_dir(format!("/proc/{}/fd", root.pid())).unwrap().count();
        let socket = root.socket("replication");
        let mut crowd: Vec<Slow> = (0..CONNECTIONS)
            .map(|_| {
                let mut stream = Slow::connect(&socket, Vec::new());
                // It may be closed.
                let _ = stream.stream.write(&first[..first.len().min(12)]);
                stream
            })
            .collect();
        let mut most = 0;
        eventually("all of them are closed", SOON, || {
            most = most.max(open());
            crowd.retain_mut(Slow::is_open);
            crowd.is_empty().then_some(())
        });
        println!("{CONNECTIONS} connections, at most {most} open files");
        assert!(most < DOWNSTREAMS + BESIDE_THEM, "{most}");
        root.assert_serves();
    }
}
