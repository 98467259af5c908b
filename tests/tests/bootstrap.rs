//! "A new machine needs no hands." A node whose log is too old, or that has nothing, fetches a
//! snapshot from its upstream, serves what it has meanwhile, and follows on from there; it resumes
//! after cuts, deaths and from another upstream; one at a time on a machine.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::process::Command;
use std::time::{Duration, Instant};

use quicksilver_tests::cluster::{BOOTSTRAP_ENDED, Node, Status, qsctl};
use quicksilver_tests::proxy::{Proxy, Weather};
use quicksilver_tests::resp::{Client, Reply};
use quicksilver_tests::{Cluster, SOON, eventually, random_bytes, seeded_rng};
use rand::Rng;

const MIB: u64 = 1 << 20;
/// For so long a node waits for an upstream that is connected to the root.
const WITHOUT_ROOT: Duration = Duration::from_secs(30);

/// A value that can be found again in the file.
const SPOILT: &[u8] = b"a value that can be found again in the file";

/// Where the header of a cell begins, seen from its value (docs/FORMAT.md).
const HEADER: isize = -13;

/// A root, its client, and a leaf in whose file the byte that is so far from the beginning of that value
/// is damaged.
fn with_a_spoilt_leaf(offset: isize) -> (Cluster, Client) {
    let mut cluster = Cluster::new();
    cluster.root("root").set_literal("batch.window_ms", 5);
    cluster.leaf("leaf", &["root"]);
    cluster.start_all();
    let mut client = cluster.node("root").client();
    assert!(client.call(&[b"SET", &b"spoilt"[..], SPOILT]).unwrap().is_ok());
    assert!(client.call(&["SET", "whole", "another"]).unwrap().is_ok());
    cluster.await_converged(SOON);
    cluster.node_mut("leaf").term();
    let file = cluster.node("leaf").data_dir().join("gen-000001/data.mdb");
    let mut bytes = std::fs::read(&file).unwrap();
    let found = |(at, window): (usize, &[u8])| (window == SPOILT).then_some(at);
    let at: Vec<usize> = bytes.windows(SPOILT.len()).enumerate().filter_map(found).collect();
    assert!(!at.is_empty());
    at.iter().for_each(|at| bytes[at.checked_add_signed(offset).unwrap()] ^= 4);
    std::fs::write(&file, bytes).unwrap();
    cluster.node_mut("leaf").start();
    (cluster, client)
}

/// Writes so many values that do not compress.
fn fill(client: &mut Client, keys: u32, bytes: usize) {
    let mut rng = seeded_rng();
    for n in 0..keys {
        let value = random_bytes(&mut rng, bytes);
        client.send(&[b"SET", format!("key/{n}").as_bytes(), &value]).unwrap();
    }
    (0..keys).for_each(|_| assert!(client.reply().unwrap().is_ok()));
    // However few batches that was: the log begins with none of them.
    assert!(client.call(&[b"SET", &b"filled"[..], &random_bytes(&mut rng, 16)]).unwrap().is_ok());
}

/// A root that keeps so little log that whoever comes late needs a snapshot.
fn root(cluster: &mut Cluster) -> &mut Node {
    cluster.root("root").set_literal("retention.bytes", MIB).set_literal("batch.window_ms", 5)
}

fn offered(node: &Node) -> Vec<String> {
    let names = std::fs::read_dir(node.data_dir().join("snapshots/offered"));
    let names = names.into_iter().flatten().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".snapshot")).collect();
    names.sort();
    names
}

/// Bytes of snapshots that a node has served, by its log.
fn served_bytes(node: &Node) -> u64 {
    let log = node.log_text();
    let sent = log.lines().filter(|line| line.contains("transfer ended"));
    let bytes = |line: &str| {
        let rest = line.split_once("sent_bytes=").unwrap().1;
        rest.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    sent.map(bytes).sum()
}

/// What a node's directory has of generations, and of a fetch.
fn unfinished_and_generations(node: &Node) -> Vec<String> {
    let dirs = [node.data_dir(), node.data_dir().join("snapshots/offered")];
    let names = dirs.iter().flat_map(|dir| std::fs::read_dir(dir).unwrap());
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> =
        names.filter(|name| name.starts_with("gen-") || name.starts_with("fetching.")).collect();
    names.sort();
    names
}

/// Some of the snapshot is in the generation that is made of it.
fn building(status: &Status) -> bool {
    status.json["maintenance"]["running"]["kind"] == "bootstrap"
}

fn fetching(status: &Status) -> u64 {
    status.json["bootstrap"]["done_bytes"].as_u64().unwrap_or(0)
}

/// Story: two new machines, one below the other, and the root's log does not reach back. Both begin
/// with the same snapshot, made once, and follow.
#[test]
fn a_new_tree_begins_with_a_snapshot() {
    let mut cluster = Cluster::new();
    root(&mut cluster).start();
    let mut client = cluster.node("root").client();
    fill(&mut client, 3000, 4000);
    assert!(client.call(&["SET", "long", &"x".repeat(300_000)]).unwrap().is_ok());
    cluster.relay("relay", &["root"]).spawn();
    cluster.leaf("leaf", &["relay"]).spawn();
    // It is written all the time.
    eventually("all three are equal", 2 * SOON, || {
        assert!(client.call(&["SET", "key/1", "later"]).unwrap().is_ok());
        assert!(client.call(&["SET", "key/2", &"y".repeat(9_000)]).unwrap().is_ok());
        assert!(client.call(&["SET", "key/2", "z"]).unwrap().is_ok());
        let [root, relay, leaf] =
            ["root", "relay", "leaf"].map(|name| cluster.node(name).try_status());
        let (root, relay, leaf) = (root?, relay?, leaf?);
        (root.index > 3000 && relay.index + 100 > root.index && leaf.index + 100 > root.index)
            .then_some(())
    });
    cluster.await_converged(SOON);
    for name in ["relay", "leaf"] {
        let node = cluster.node(name);
        node.await_ready();
        let mut reader = node.reader();
        assert_eq!(reader.ask("text key/1"), "text later");
        reader.assert_verified();
        let status = node.status();
        assert!(status.json["bootstrap"].is_null());
        assert_eq!(status.json["generation"], 2);
        assert_eq!(status.json["maintenance"]["last"]["bootstrap"]["ok"], true);
        assert_eq!(node.counted(BOOTSTRAP_ENDED, "done"), 1);
        assert_eq!(offered(node), offered(cluster.node("root")), "the same file, down the tree");
    }
    let root = cluster.node("root");
    assert_eq!(root.log_text().matches("kind=\"offer\" reason").count(), 1, "made once");
    // Gone for a moment, they go on with the log.
    cluster.node_mut("leaf").term();
    assert!(client.call(&["SET", "key/3", "last"]).unwrap().is_ok());
    cluster.node_mut("leaf").start();
    cluster.await_converged(SOON);
    assert_eq!(cluster.node("leaf").status().json["generation"], 2);
}

/// Story: a relay was away for too long. It fetches slowly, serves what it has, is killed in the
/// middle, again and again, and fetches no block twice.
#[test]
fn a_node_that_was_away_serves_what_it_has_and_resumes() {
    /// So slow that what comes is written each second, and what is looked at is not over meanwhile.
    const RATE: u64 = MIB;
    /// What may not be written yet: what comes in two seconds, and a block.
    const UNWRITTEN: u64 = 3 * MIB;
    let mut cluster = Cluster::new();
    root(&mut cluster).set_literal("bootstrap.max_bytes_per_second", RATE);
    cluster.leaf("leaf", &["root"]);
    cluster.start_all();
    let mut client = cluster.node("root").client();
    assert!(client.call(&["SET", "old", "there"]).unwrap().is_ok());
    cluster.await_converged(SOON);
    cluster.node_mut("leaf").term();
    fill(&mut client, 6000, 4000);
    let leaf = cluster.node_mut("leaf").start();
    let mut reader = leaf.reader();
    for n in 1..=3 {
        let leaf = cluster.node_mut("leaf");
        let before =
            leaf.await_status("it has got further", SOON, |status| fetching(status) > n * 4 * MIB);
        assert_eq!((before.state.as_str(), before.index), ("disconnected", 1));
        assert_eq!(before.json["upstream"]["state"], "bootstrapping");
        assert!(building(&before), "{:?}", before.json["maintenance"]);
        assert!(before.json["bootstrap"]["eta_seconds"].as_f64() > Some(0.0), "{:?}", before.json);
        assert!(leaf.get("/metrics").body.contains("quicksilver_bootstrapping{db=\"tests\"} 1"));
        assert_eq!(leaf.client().call(&["GET", "old"]).unwrap().text(), Some("there"));
        assert_eq!(reader.ask("text old"), "text there");
        leaf.kill9();
        let left = ["fetching.blocks", "fetching.manifest", "gen-000001", "gen-000002.new"];
        assert_eq!(unfinished_and_generations(leaf), left);
        leaf.start();
        let after = leaf.await_status("it goes on", SOON, |status| fetching(status) > 0);
        assert!(fetching(&after) + UNWRITTEN >= fetching(&before), "it begins anew");
    }
    cluster.await_converged(2 * SOON);
    assert_eq!(reader.ask("text old"), "text there");
    reader.assert_verified();
    let leaf = cluster.node("leaf");
    eventually("nobody is in the old one", SOON, || {
        (unfinished_and_generations(leaf) == ["gen-000002"]).then_some(())
    });
    let [name] = &offered(leaf)[..] else { panic!() };
    let file = cluster.node("leaf").data_dir().join("snapshots/offered").join(name);
    let (whole, sent) =
        (std::fs::metadata(file).unwrap().len(), served_bytes(cluster.node("root")));
    // What was on its way when it was killed comes again.
    assert!(sent < whole + 3 * 2 * UNWRITTEN && sent + MIB > whole, "{sent} of {whole}");
}

/// Story: the upstream dies in the middle; another one, which began with the same snapshot, goes on
/// with it.
#[test]
fn another_upstream_with_the_same_snapshot_goes_on() {
    let mut cluster = Cluster::new();
    root(&mut cluster).start();
    let mut client = cluster.node("root").client();
    fill(&mut client, 6000, 4000);
    for name in ["one", "two"] {
        cluster
            .relay(name, &["root"])
            .set_literal("retention.bytes", MIB)
            .set_literal("bootstrap.max_bytes_per_second", 2 * MIB)
            .start();
        cluster
            .node(name)
            .await_status("it has begun", SOON, |status| status.json["generation"] == 2);
    }
    let names = ["one", "two"].map(|name| offered(cluster.node(name)));
    assert_eq!(names[0], names[1]);
    cluster.leaf("leaf", &["one", "two"]).start();
    let leaf = cluster.node("leaf");
    let some = leaf.await_status("it has some", SOON, |status| fetching(status) > 6 * MIB);
    // The first, unless it was slow to say that it is connected to the root.
    let from_one = some.json["bootstrap"]["upstream"] == cluster.node("one").address("replication");
    let (first, second) = if from_one { ("one", "two") } else { ("two", "one") };
    cluster.node_mut(first).kill9();
    let leaf = cluster.node("leaf");
    leaf.await_status("it has all of it", SOON, |status| status.json["generation"] == 2);
    let root = cluster.node("root").status();
    leaf.await_index(root.index, SOON);
    leaf.reader().assert_verified();
    let (rest, whole) = (served_bytes(cluster.node(second)), 24 * MIB);
    assert!(rest > 0 && rest < whole - 5 * MIB, "{rest} bytes came from {second}");
}

/// Story: in the middle, the upstream has another snapshot than the one that was begun. So does the
/// leaf then, and nothing of the first is left.
#[test]
fn another_snapshot_takes_the_place_of_the_one_that_was_begun() {
    let mut cluster = Cluster::new();
    root(&mut cluster).set_literal("bootstrap.max_bytes_per_second", 2 * MIB).start();
    fill(&mut cluster.node("root").client(), 4000, 4000);
    cluster.leaf("leaf", &["root"]).start();
    let leaf = cluster.node("leaf");
    leaf.await_status("it has some of it", SOON, |status| {
        fetching(status) > 4 * MIB && building(status)
    });
    let root = cluster.node_mut("root");
    root.term();
    std::fs::remove_dir_all(root.data_dir().join("snapshots/offered")).unwrap();
    fill(&mut root.start().client(), 1000, 4000);
    cluster.await_converged(SOON);
    let leaf = cluster.node("leaf");
    assert!(leaf.log_text().contains("the snapshot comes no more"));
    assert_eq!(offered(leaf), offered(cluster.node("root")));
    eventually("nobody is in the old one", SOON, || {
        (unfinished_and_generations(leaf) == ["gen-000002"]).then_some(())
    });
    leaf.reader().assert_verified();
}

/// Story: the machine dies when all of the snapshot is there, and the node not yet in it. It is not
/// sent again.
#[test]
fn a_snapshot_that_is_whole_is_not_fetched_again() {
    let mut cluster = Cluster::new();
    root(&mut cluster);
    cluster.leaf("leaf", &["root"]);
    cluster.start_all();
    let mut client = cluster.node("root").client();
    assert!(client.call(&["SET", "old", "there"]).unwrap().is_ok());
    cluster.await_converged(SOON);
    cluster.node_mut("leaf").term();
    let before = cluster.path().join("before");
    let dir = cluster.node("leaf").data_dir();
    let copied = Command::new("cp").args(["-r", "--"]).args([&dir, &before]).status().unwrap();
    assert!(copied.success());
    fill(&mut client, 4000, 4000);
    cluster.node_mut("leaf").start();
    cluster.await_converged(SOON);
    cluster.node_mut("leaf").term();
    let whole = served_bytes(cluster.node("root"));
    assert!(whole > 15 * MIB);
    // As it was when it had all of it.
    std::fs::create_dir_all(before.join("snapshots")).unwrap();
    std::fs::rename(dir.join("snapshots/offered"), before.join("snapshots/offered")).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::rename(&before, &dir).unwrap();
    cluster.node_mut("leaf").start();
    cluster.await_converged(SOON);
    let leaf = cluster.node("leaf");
    let status = leaf.status();
    assert_eq!(status.json["maintenance"]["last"]["bootstrap"]["ok"], true, "{:?}", status.json);
    assert_eq!(status.json["generation"], 2);
    leaf.reader().assert_verified();
    assert_eq!(served_bytes(cluster.node("root")), whole, "nothing came twice");
}

/// Story: bytes rot on a leaf's disk. The verification finds them; the leaf fetches a snapshot,
/// although its upstream has the log, serves what verifies meanwhile, and is whole again.
#[test]
fn a_damaged_relay_rebuilds_itself() {
    let (cluster, mut client) = with_a_spoilt_leaf(5);
    let leaf = cluster.node("leaf");
    let refused = leaf.client().call(&["GET", "spoilt"]).unwrap();
    assert!(refused.error().starts_with("CORRUPT"), "{refused:?}");
    let mut reader = leaf.reader();
    assert_eq!(reader.ask("text whole"), "text another");
    let found = qsctl(&["--server", &leaf.address("client"), "verify"]);
    assert_eq!(found.status.code(), Some(4), "{found:?}");
    // A transfer that breaks off is tried again after a minute.
    leaf.await_status("it is whole again, and verified", 2 * SOON, |status| {
        status.json["generation"] == 2
            && status.json["maintenance"]["last"]["verification"]["ok"] == true
    });
    assert!(client.call(&["SET", "whole", "later"]).unwrap().is_ok());
    cluster.await_converged(SOON);
    assert_eq!(
        leaf.client().call(&[&b"GET"[..], b"spoilt"]).unwrap().text(),
        std::str::from_utf8(SPOILT).ok()
    );
    assert_eq!(reader.ask("text whole"), "text later");
    reader.assert_verified();
}

/// Story: a relay finds the damage when it is about to write over it. It fetches a snapshot that has that
/// write, and says so to its upstream although nobody writes any more.
#[test]
fn what_a_damaged_relay_could_not_apply_is_there_once_it_is_whole() {
    let (cluster, mut client) = with_a_spoilt_leaf(HEADER);
    let leaf = cluster.node("leaf");
    leaf.await_status("it follows", SOON, Status::is_connected);
    assert!(client.call(&["SET", "spoilt", "later"]).unwrap().is_ok());
    // A transfer that breaks off is tried again after a minute.
    eventually("the leaf says that it has it", 2 * SOON, || {
        (client.call(&["WAIT", "1", "1000"]).unwrap() == Reply::Integer(1)).then_some(())
    });
    leaf.await_log("the files are whole again", SOON);
    assert_eq!(leaf.client().call(&["GET", "spoilt"]).unwrap().text(), Some("later"));
    assert_eq!(leaf.status().json["generation"], 2);
    leaf.reader().assert_verified();
    cluster.await_converged(SOON);
}

/// Story: the network cuts and flips for as long as the snapshot is on its way.
#[test]
fn a_bad_network_only_delays() {
    let mut rng = seeded_rng();
    let mut cluster = Cluster::new();
    root(&mut cluster).start();
    let mut client = cluster.node("root").client();
    fill(&mut client, 5000, 4000);
    let path = cluster.path().join("proxy");
    let upstream = cluster.node("root").socket("replication");
    let proxy = Proxy::start(&path, &upstream, rng.random());
    cluster.follower("leaf", &[proxy.address()]).start();
    let leaf = cluster.node("leaf");
    let mut flips = false;
    eventually("it has a good part of it, or all", 2 * SOON, || {
        flips = !flips;
        let (cuts, damage) = (Weather::Cuts { one_in: 500 }, Weather::Flips { one_in: 500 });
        proxy.set_weather(if flips { damage } else { cuts });
        let status = leaf.status();
        assert!(status.index == 0 || status.index >= 5000, "half of it is nothing");
        (proxy.faults() >= 10 || status.index >= 5000).then_some(())
    });
    proxy.set_weather(Weather::Fair);
    // What it waits before its next tries may be half a minute each.
    cluster.await_converged(2 * SOON);
    leaf.reader().assert_verified();
    assert!(proxy.faults() > 0);
    assert!(!leaf.log_text().contains("has hash"), "what was flipped was never in its file");
}

/// Story: the root is down, and a new machine is set up meanwhile. Nobody can say whether what the relay
/// has is what the root has; the new one waits for a while, then takes that.
#[test]
fn a_new_machine_while_the_root_is_away() {
    let mut cluster = Cluster::new();
    root(&mut cluster);
    cluster.relay("relay", &["root"]).set_literal("retention.bytes", MIB);
    cluster.start_all();
    fill(&mut cluster.node("root").client(), 1000, 4000);
    cluster.await_converged(SOON);
    let there = cluster.node("relay").status();
    assert!(there.json["oldest_index"].as_u64().unwrap() > 1);
    cluster.node_mut("root").kill9();
    cluster.node("relay").await_status("alone", SOON, |status| status.state == "disconnected");

    let began = Instant::now();
    cluster.leaf("leaf", &["relay"]).spawn();
    let leaf = cluster.node("leaf");
    leaf.await_log("none says that it is connected to the root", SOON);
    // Between two of its rounds there may be half a minute.
    leaf.await_index(there.index, 2 * SOON);
    println!("it has the relay's copy after {:.1?}", began.elapsed());
    assert!(began.elapsed() >= WITHOUT_ROOT, "it did not wait: {:?}", began.elapsed());
    assert!(leaf.status().same_data(&there));
    leaf.reader().assert_verified();
}
