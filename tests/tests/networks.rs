//! "Whatever becomes of the network, every node serves what it has, nothing stays half open, and
//! when the network is back all have the same." Each node is on a host of its own, in a network
//! namespace, and follows over TCP. Hosts are cut off, hear without being heard or speak without
//! being heard, have their connections reset, and hang behind a link that takes longer for one batch
//! than an upstream may be silent.
//!
//! The deadlines are the real ones: 10 s for a handshake, 30 s of silence. It takes root.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::{Duration, Instant};

use quicksilver_tests::cluster::{DOWNSTREAM_ENDED, Node, UPSTREAM_ENDED};
use quicksilver_tests::resp::Client;
use quicksilver_tests::{
    Cluster, Network, SOON, Status, eventually, random_bytes, seeded_rng, skipped,
};

/// After which silence is the end of a session, and some more for its end to be seen.
const SILENCE: Duration = Duration::from_secs(30);
const SILENCE_SEEN: Duration = Duration::from_secs(90);
/// A dial that began before the network was back is waited for 10 s, and then there is the back-off.
const BACK: Duration = Duration::from_secs(90);

/// ```text
/// root ─┬─ relay-1 ─ leaf-1   (and relay-2, if relay-1 cannot help)
///       └─ relay-2 ─ leaf-2
/// ```
struct Tree {
    /// Ends before its network does.
    cluster: Cluster,
    network: Network,
    writes: u32,
}

impl Tree {
    fn grow() -> Option<Tree> {
        let (mut cluster, mut network) = (Cluster::new(), Network::new()?);
        let root = network.place(cluster.root("root"));
        let relays = ["relay-1", "relay-2"].map(|name| {
            network.place(cluster.relay(name, &[]).follow(std::slice::from_ref(&root)))
        });
        let [first, second] = relays;
        network.place(cluster.relay("leaf-1", &[]).follow(&[first, second.clone()]));
        network.place(cluster.relay("leaf-2", &[]).follow(&[second]));
        cluster.start_all();
        let mut tree = Tree { cluster, network, writes: 0 };
        tree.write();
        tree.cluster.await_converged(SOON);
        for (leaf, upstream) in [("leaf-1", "relay-1"), ("leaf-2", "relay-2")] {
            tree.node(leaf).await_status(upstream, SOON, |status| follows(status, upstream));
        }
        Some(tree)
    }

    fn node(&self, name: &str) -> &Node {
        self.cluster.node(name)
    }

    fn write(&mut self) {
        self.writes += 1;
        write(&mut self.node("root").client(), self.writes);
    }

    /// How often each of the followers has lost its upstream.
    fn lost(&self) -> [u64; 4] {
        let followers = ["relay-1", "relay-2", "leaf-1", "leaf-2"];
        followers.map(|name| self.node(name).counted(UPSTREAM_ENDED, "lost"))
    }

    /// What was written last, as everybody reads it who has everything.
    fn newest(&self) -> String {
        self.writes.to_string()
    }

    /// Asserts that a node answers with some value that was written, and that all it holds is right.
    fn assert_serves_something(&self, name: &str) {
        let node = self.node(name);
        let value = read(node).unwrap();
        let written = 1..=self.writes;
        assert!(written.contains(&value.parse().unwrap()), "{name} reads {value}");
        node.reader().assert_verified();
    }

    /// Heals the network and waits until all have the same, by the same chain.
    fn heal_and_converge(&mut self) {
        self.network.heal();
        let healed = Instant::now();
        self.write();
        self.cluster.await_converged(BACK);
        println!("everybody has the same {:.1?} after the network was back", healed.elapsed());
        for node in self.cluster.nodes() {
            assert_eq!(read(node).as_deref(), Some(&*self.newest()), "{}", node.name());
            assert_eq!(node.counted(UPSTREAM_ENDED, "diverged"), 0, "{}", node.name());
            node.reader().assert_verified();
        }
        for (leaf, upstream) in [("leaf-1", ""), ("leaf-2", "relay-2")] {
            let wanted = |status: &Status| status.is_connected() && follows(status, upstream);
            self.node(leaf).await_status("it follows", SOON, wanted);
        }
    }
}

fn write(client: &mut Client, value: u32) {
    assert!(client.call(&["SET", "still", &value.to_string()]).unwrap().is_ok());
}

fn read(node: &Node) -> Option<String> {
    node.client().call(&["GET", "still"]).unwrap().text().map(str::to_owned)
}

/// Whether this is who is followed; anybody, when it has no name.
fn follows(status: &Status, upstream: &str) -> bool {
    let node_id = status.json.pointer("/upstream/node_id").and_then(|id| id.as_str());
    node_id.is_some_and(|id| upstream.is_empty() || id == upstream)
}

fn lag_seconds(status: &Status) -> f64 {
    status.json["lag_seconds"].as_f64().unwrap_or_default()
}

/// Whether a source lists this downstream.
fn serves(status: &Status, downstream: &str) -> bool {
    let list = status.json["downstreams"].as_array().unwrap();
    list.iter().any(|listed| listed["node_id"] == downstream)
}

/// Story: the switch of a regional relay's rack dies. What it has it serves, its lag shows; its leaf
/// goes to the other relay; the rest of the tree notices nothing.
#[test]
fn a_relay_that_is_cut_off() {
    let Some(mut tree) = Tree::grow() else { return };
    let cut = Instant::now();
    tree.network.isolate("relay-1");
    tree.write();
    let newest = tree.newest();
    for name in ["relay-2", "leaf-2"] {
        eventually("the other half goes on", SOON, || {
            (read(tree.node(name)) == Some(newest.clone())).then_some(())
        });
    }
    // Long before the session is given up, the lag says that something is wrong. After ten seconds the
    // leaf asks the other relay.
    let lags = |status: &Status| lag_seconds(status) > 3.0;
    let status = tree.node("relay-1").await_status("lag", SOON, lags);
    assert!(status.is_connected(), "within {:?}", cut.elapsed());
    let lags_or_has_left = |status: &Status| lags(status) || follows(status, "relay-2");
    tree.node("leaf-1").await_status("lag", SOON, lags_or_has_left);
    for name in ["relay-1", "leaf-1"] {
        tree.assert_serves_something(name);
    }
    for name in ["relay-2", "leaf-2"] {
        tree.node(name).await_status("no lag", SOON, |status| lag_seconds(status) < 3.0);
    }
    let relay = tree.node("relay-1");
    eventually("silence is the end", SILENCE_SEEN, || {
        (relay.counted(UPSTREAM_ENDED, "silent") > 0).then_some(())
    });
    assert!(cut.elapsed() >= SILENCE / 2, "{:?}", cut.elapsed());
    relay.await_status("its state says so", SOON, |status| {
        status.state == "disconnected" && lag_seconds(status) > 20.0
    });
    assert!(relay.upstream_state_is("disconnected"));
    tree.assert_serves_something("relay-1");
    // Nothing half open stays at the root either.
    tree.node("root").await_status("gone", SILENCE_SEEN, |status| !serves(status, "relay-1"));

    // What was silent is not asked again before the other one.
    let switched = tree.node("leaf-1").await_status("the other relay", BACK, |status| {
        status.is_connected() && follows(status, "relay-2")
    });
    println!("the leaf follows the other relay {:.1?} after the cut", cut.elapsed());
    assert!(switched.index > 0);
    eventually("the leaf has what the root has", SOON, || {
        (read(tree.node("leaf-1")) == Some(newest.clone())).then_some(())
    });
    tree.heal_and_converge();
}

/// What the root sends does not arrive, or what the relay answers; the other direction works.
fn half_deaf(from: &str, to: &str) {
    let Some(mut tree) = Tree::grow() else { return };
    tree.network.cut(from, to);
    let cut = Instant::now();
    for _ in 0..20 {
        tree.write();
    }
    // Both ends give the session up, each by itself or because it was told.
    let (root, relay) = (tree.node("root"), tree.node("relay-1"));
    root.await_status("the root has", SILENCE_SEEN, |status| !serves(status, "relay-1"));
    println!("the root gave up after {:.1?}", cut.elapsed());
    assert!(root.counted(DOWNSTREAM_ENDED, "silent") > 0);
    root.await_log("reason=\"silent\"", SOON);
    eventually("the relay has", SILENCE_SEEN, || {
        (relay.counted(UPSTREAM_ENDED, "silent") > 0).then_some(())
    });
    println!("the relay gave up after {:.1?}", cut.elapsed());
    relay.await_log("check that host and the network on the way, in both directions", SOON);
    relay.await_status("no session", SOON, |status| status.state == "disconnected");
    assert!(serves(&root.status(), "relay-2"), "the other relay is served");
    for name in ["relay-1", "leaf-1"] {
        tree.assert_serves_something(name);
    }
    tree.heal_and_converge();
}

#[test]
fn a_relay_that_hears_nothing() {
    half_deaf("root", "relay-1");
}

#[test]
fn a_relay_that_nobody_hears() {
    half_deaf("relay-1", "root");
}

/// Story: a firewall is restarted, and answers every packet of a connection that it has forgotten
/// with a reset.
#[test]
fn connections_that_are_reset() {
    let Some(mut tree) = Tree::grow() else { return };
    // At the start a node may have dialled one that did not listen yet.
    let before = tree.lost();
    for round in 1..=3 {
        if !tree.network.reset_downstreams("root") {
            return skipped("this kernel does not let ss close connections (INET_DIAG_DESTROY)");
        }
        let reset = Instant::now();
        tree.write();
        let lost = [before[0] + round, before[1] + round, before[2], before[3]];
        eventually("both relays see the reset", SOON, || (tree.lost() == lost).then_some(()));
        for name in ["relay-1", "relay-2"] {
            tree.node(name).await_status("it is back", SOON, Status::is_connected);
        }
        tree.cluster.await_converged(SOON);
        let took = reset.elapsed();
        println!("after reset {round} all have the same within {took:.1?}");
        for name in ["relay-1", "relay-2"] {
            assert_eq!(tree.node(name).counted(UPSTREAM_ENDED, "silent"), 0, "{name}");
        }
    }
    tree.heal_and_converge();
    let [.., first, second] = tree.lost();
    assert_eq!([first, second], before[2..], "the leaves noticed nothing");
}

/// Story: a site behind a thin line. One batch takes longer to arrive than an upstream may be silent,
/// but something arrives all the time.
#[test]
fn one_batch_takes_longer_than_an_upstream_may_be_silent() {
    const BYTES_PER_SECOND: u32 = 100_000;
    const VALUE_BYTES: usize = 3_500_000;
    let Some(mut tree) = Tree::grow() else { return };
    let value = random_bytes(&mut seeded_rng(), VALUE_BYTES);
    let lost = tree.lost();
    tree.network.slow_down("relay-1", BYTES_PER_SECOND);
    let began = Instant::now();
    let set = tree.node("root").client().call(&[b"SET", &b"large"[..], &value]).unwrap();
    assert!(set.is_ok(), "{set:?}");
    let index = tree.node("root").status().index;
    tree.node("leaf-2").await_index(index, SOON);
    tree.assert_serves_something("relay-1");
    tree.node("relay-1").await_index(index, Duration::from_secs(90));
    let took = began.elapsed();
    println!("{VALUE_BYTES} bytes took {took:.1?}");
    assert!(took > SILENCE, "{took:?}: the line was not slow enough to show anything");
    assert_eq!(tree.lost(), lost, "one session has carried it");
    for reason in ["silent", "too-slow", "reset"] {
        assert_eq!(tree.node("relay-1").counted(UPSTREAM_ENDED, reason), 0, "{reason}");
        assert_eq!(tree.node("root").counted(DOWNSTREAM_ENDED, reason), 0, "{reason}");
    }
    tree.heal_and_converge();
}
