//! "Readers never block the writer, and a disk that fails never makes a wrong value." A reader
//! that is stopped or killed in the middle of a read holds nobody up for good, and its pages come
//! back. A process whose disk reports an error does not trust it again: it ends, acknowledges
//! nothing that is not durable, and converges after a restart. One whose disk or map is full refuses
//! writes, or stops applying, serves reads, and heals by itself; it has said before that there is
//! little left.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::PathBuf;

use nix::sys::signal::Signal;
use quicksilver_tests::cluster::Node;
use quicksilver_tests::process::{strace_works, with_faulty, with_faulty_sync};
use quicksilver_tests::resp::Client;
use quicksilver_tests::{
    Cluster, ReaderProcess, SOON, Status, eventually, random_bytes, seeded_rng, skipped, small_disk,
};

fn root_and_leaf() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.root("root").set_literal("batch.window_ms", 0);
    cluster.leaf("leaf", &["root"]);
    for name in ["root", "leaf"] {
        // A short log: what grows is what a reader holds back. And however much that is, no new
        // generation puts an end to it.
        cluster
            .node_mut(name)
            .set_literal("retention.bytes", 1 << 20)
            .set_literal("limits.reader_hold_bytes", 1_u64 << 40)
            .set_literal("compact.auto", false);
    }
    cluster.start_all();
    cluster
}

/// Overwrites the same hundred keys.
fn churn(client: &mut Client, rng: &mut rand::rngs::StdRng, writes: usize) {
    for n in 0..writes {
        overwrite(client, rng, n % 100, 3000);
    }
}

fn overwrite(client: &mut Client, rng: &mut rand::rngs::StdRng, n: usize, bytes: usize) {
    let (key, value) = (format!("key-{n:03}"), random_bytes(rng, bytes));
    assert!(client.call(&[b"SET", key.as_bytes(), &value]).unwrap().is_ok());
}

fn file_bytes(node: &Node) -> u64 {
    let generation = std::fs::read_to_string(node.data_dir().join("CURRENT")).unwrap();
    let data = node.data_dir().join(generation.trim()).join("data.mdb");
    std::fs::metadata(data).unwrap().len()
}

#[test]
fn a_stopped_reader_blocks_nobody() {
    let mut rng = seeded_rng();
    let cluster = root_and_leaf();
    let mut root = cluster.node("root").client();
    assert!(root.call(&["SET", "key-000", "old"]).unwrap().is_ok());
    cluster.await_converged(SOON);
    let mut readers = ["root", "leaf"].map(|node| cluster.node(node).reader());
    for reader in &mut readers {
        assert_eq!(reader.ask("hold"), "holding");
        reader.signal(Signal::SIGSTOP);
    }
    churn(&mut root, &mut rng, 300);
    cluster.await_converged(SOON);
    // Woken up, it still sees its own moment, and then the present.
    for reader in &mut readers {
        reader.signal(Signal::SIGCONT);
        assert_eq!(reader.ask("held key-000"), "text old");
        assert_eq!(reader.ask("held key-001"), "none");
        assert_eq!(reader.ask("release"), "released");
        assert!(reader.ask("get key-001").starts_with("value 3000:"));
        reader.assert_verified();
    }
}

#[test]
fn the_pages_of_a_killed_reader_come_back() {
    let mut rng = seeded_rng();
    let cluster = root_and_leaf();
    let mut root = cluster.node("root").client();
    // In few commits, until the log is as long as it gets.
    for n in 0..400 {
        let (key, value) = (format!("key-{:03}", n % 100), random_bytes(&mut rng, 3000));
        root.send(&[b"SET", key.as_bytes(), &value]).unwrap();
    }
    (0..400).for_each(|_| assert!(root.reply().unwrap().is_ok()));
    cluster.await_converged(SOON);
    for name in ["root", "leaf"] {
        let mut reader = cluster.node(name).reader();
        assert_eq!(reader.ask("hold"), "holding");
        reader.kill9();
    }
    let mut reader = cluster.node("leaf").reader();
    // While the dead readers count, every write grows the files; then no more.
    for name in ["root", "leaf"] {
        eventually(&format!("the file of {name} stops growing"), SOON * 2, || {
            churn(&mut root, &mut rng, 10);
            cluster.await_converged(SOON);
            let before = file_bytes(cluster.node(name));
            churn(&mut root, &mut rng, 30);
            cluster.await_converged(SOON);
            (file_bytes(cluster.node(name)) == before).then_some(())
        });
    }
    reader.assert_verified();
}

/// A counter at the root, each number written when the one before it was acknowledged; the last
/// acknowledged number, and the first answer that was not OK.
fn count_until_refused(node: &Node, from: u64) -> (u64, String) {
    let mut client = node.client();
    for n in from..from + 1000 {
        match client.call(&["SET", "counter", &n.to_string()]) {
            Ok(reply) if reply.is_ok() => {}
            Ok(reply) => return (n - 1, reply.error().to_owned()),
            Err(error) => return (n - 1, error.to_string()),
        }
    }
    panic!("a thousand writes, and none was refused");
}

#[test]
fn a_relay_whose_disk_fails_ends_and_converges_after_a_restart() {
    if !strace_works() {
        return skipped("strace cannot trace a process here");
    }
    let mut cluster = Cluster::new();
    cluster.root("root");
    cluster.relay("relay", &["root"]).wrap(with_faulty_sync("error=EIO:when=12+"));
    cluster.leaf("leaf", &["relay"]);
    cluster.start_all();
    let mut root = cluster.node("root").client();
    assert!(root.call(&["SET", "still", "there"]).unwrap().is_ok());
    cluster.await_converged(SOON);
    let mut reader = cluster.node("relay").reader();
    eventually("the relay's disk fails", SOON, || {
        assert!(
            root.call(&["SET", "counter", &rand::random::<u64>().to_string()]).unwrap().is_ok()
        );
        cluster.node_mut("relay").exited()
    });
    let relay = cluster.node_mut("relay");
    let status = relay.await_exit(SOON);
    assert_eq!(status.code(), Some(1), "{status}");
    relay.await_log("storage failed", SOON);
    // What readers have mapped is what was committed, and the others go on.
    assert_eq!(reader.ask("text still"), "text there");
    cluster.node("root").assert_serves();
    cluster.node("leaf").assert_serves();

    cluster.node_mut("relay").wrap(Vec::<String>::new()).start();
    cluster.await_converged(SOON);
    for node in cluster.nodes() {
        node.reader().assert_verified();
    }
}

#[test]
fn a_root_whose_disk_does_not_sync_acknowledges_nothing_more() {
    the_roots_disk_fails("fdatasync", 40);
}

#[test]
fn a_root_whose_disk_takes_no_writes_acknowledges_nothing_more() {
    // A commit writes several pages, and then where they are.
    the_roots_disk_fails("pwrite64,pwritev", 200);
}

/// From the `nth` call of its kind on, the root's disk reports an error.
fn the_roots_disk_fails(calls: &str, nth: u32) {
    if !strace_works() {
        return skipped("strace cannot trace a process here");
    }
    let mut cluster = Cluster::new();
    cluster.root("root").wrap(with_faulty(calls, &format!("error=EIO:when={nth}+")));
    cluster.leaf("leaf", &["root"]);
    cluster.start_all();
    // The leaf has a counter before the root's disk fails.
    assert!(cluster.node("root").client().call(&["SET", "counter", "0"]).unwrap().is_ok());
    cluster.await_converged(SOON);
    let mut reader = cluster.node("leaf").reader();
    let (acknowledged, refusal) = count_until_refused(cluster.node("root"), 1);
    println!("{acknowledged} acknowledged, then: {refusal}");
    assert!(acknowledged > 0);
    let root = cluster.node_mut("root");
    let status = root.await_exit(SOON);
    assert_eq!(status.code(), Some(1), "{status}");
    root.await_log("storage failed", SOON);
    // The root has ended, perhaps before it could pass on what it had just committed.
    let at_the_leaf = reader.ask("text counter");
    let at_the_leaf: u64 = at_the_leaf.strip_prefix("text ").unwrap().parse().unwrap();
    assert!(at_the_leaf <= acknowledged, "{at_the_leaf}: never more than is final");

    // The one whose outcome is unknown may be there; nothing else.
    cluster.node_mut("root").wrap(Vec::<String>::new()).start();
    let value = cluster.node("root").client().call(&["GET", "counter"]).unwrap();
    let value: u64 = value.text().unwrap().parse().unwrap();
    assert!((acknowledged..=acknowledged + 1).contains(&value), "{value}");
    cluster.node("root").assert_serves();
    cluster.await_converged(SOON);
    for node in cluster.nodes() {
        node.reader().assert_verified();
    }
}

/// A root on a small disk, with a leaf; and where the test finds the root's data.
fn root_on_a_small_disk() -> Option<(Cluster, PathBuf)> {
    let mut cluster = Cluster::new();
    if !small_disk::put(cluster.root("root"), 32) {
        return None;
    }
    cluster.leaf("leaf", &["root"]);
    cluster.start_all();
    let root = cluster.node("root");
    assert!(root.client().call(&["SET", "still", "there"]).unwrap().is_ok());
    cluster.await_converged(SOON);
    let data = small_disk::seen_from_here(root);
    Some((cluster, data))
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_room() {
    let Some((cluster, data)) = root_on_a_small_disk() else { return };
    let root = cluster.node("root");
    small_disk::fill(&data.join("filler"));
    let (acknowledged, refusal) = count_until_refused(root, 1);
    println!("{acknowledged} acknowledged, then: {refusal}");
    assert!(refusal.contains("not stored") && refusal.contains("space"), "{refusal}");
    let mut client = root.client();
    let counter = client.call(&["GET", "counter"]).unwrap();
    let expected = (acknowledged > 0).then(|| acknowledged.to_string());
    assert_eq!(counter.text(), expected.as_deref(), "what was refused is not there");
    assert_eq!(client.call(&["GET", "still"]).unwrap().text(), Some("there"));
    root.await_log("no space", SOON);
    assert!(root.status().errors().contains("no space"), "{}", root.status().errors());

    // It heals by itself, without a restart.
    std::fs::remove_file(data.join("filler")).unwrap();
    eventually("there is room again", SOON, || {
        client.call(&["SET", "counter", "healed"]).ok().filter(|reply| reply.is_ok())
    });
    assert_eq!(root.status().json["pid"].as_u64(), Some(u64::from(root.pid())));
    cluster.await_converged(SOON);
    let mut reader = cluster.node("leaf").reader();
    assert_eq!(reader.ask("text counter"), "text healed");
    reader.assert_verified();
}

/// A relay passes on what it cannot store itself only up to a bound, goes on serving, and catches up
/// when there is room.
#[test]
fn a_relay_with_a_full_disk_waits_and_catches_up() {
    let mut rng = seeded_rng();
    let mut cluster = Cluster::new();
    cluster.root("root");
    if !small_disk::put(cluster.relay("relay", &["root"]), 32) {
        return;
    }
    cluster.leaf("leaf", &["relay"]);
    cluster.start_all();
    let mut root = cluster.node("root").client();
    assert!(root.call(&["SET", "still", "there"]).unwrap().is_ok());
    cluster.await_converged(SOON);
    let relay = cluster.node("relay");
    let (pid, data) = (relay.pid(), small_disk::seen_from_here(relay));
    small_disk::fill(&data.join("filler"));
    eventually("the relay finds no space", SOON, || {
        churn(&mut root, &mut rng, 10);
        relay.status().errors().contains("no space").then_some(())
    });
    relay.await_log("the commit is tried again", SOON);
    assert_eq!(relay.client().call(&["GET", "still"]).unwrap().text(), Some("there"));
    assert_eq!(relay.get("/livez").status, 200);
    cluster.node("root").assert_serves();

    std::fs::remove_file(data.join("filler")).unwrap();
    cluster.await_converged(SOON);
    assert_eq!(cluster.node("relay").status().json["pid"], pid, "without a restart");
    cluster.node("leaf").reader().assert_verified();
}

#[test]
fn a_disk_that_fills_is_said_before_a_commit_fails() {
    const NEARLY_FULL: &str = "the disk of data_dir is nearly full";
    let mut cluster = Cluster::new();
    let root = small(cluster.root("root"));
    if !small_disk::put(root, 128) {
        return;
    }
    root.start();
    let root = cluster.node("root");
    let free = |status: &Status| {
        status.json.pointer("/storage/disk_free_bytes").and_then(serde_json::Value::as_u64)
    };
    let status = root.await_status("it has looked", SOON, |status| free(status).is_some());
    assert!(free(&status) > Some(100 << 20), "{:?}", free(&status));
    assert!(!root.log_text().contains(NEARLY_FULL));

    let filler = small_disk::seen_from_here(root).join("filler");
    std::fs::write(&filler, vec![1; 80 << 20]).unwrap();
    root.await_log(NEARLY_FULL, SOON);
    root.await_status("it shows", SOON, |status| free(status) < Some(64 << 20));
    assert!(root.client().call(&["SET", "still", "written"]).unwrap().is_ok());
    assert!(!root.log_text().contains("no space"), "{}", root.log_tail());
    std::fs::remove_file(&filler).unwrap();
    root.await_log("the disk has room again", SOON);
    assert_eq!(root.log_text().matches(NEARLY_FULL).count(), 1, "said once");
}

/// Small batches and little log, in a small map.
fn small(node: &mut Node) -> &mut Node {
    node.set_literal("limits.max_value_bytes", 64 << 10);
    node.set_literal("batch.max_bytes", 128 << 10).set_literal("retention.bytes", 1 << 20);
    node.set_literal("limits.max_db_bytes", 1 << 20).set_literal("limits.map_bytes", SMALL_MAP)
}

const SMALL_MAP: u64 = 8 << 20;

/// Writes over the same keys until the file of a node has nearly taken its whole map, and waits until
/// the node has said so, before anything has failed.
fn churn_until_the_map_is_nearly_full(cluster: &Cluster, name: &str, rng: &mut rand::rngs::StdRng) {
    // Less than what is warned of, more than the next commit takes; nobody writes while it is looked
    // for.
    const LEFT: u64 = 400 << 10;
    // Until then large values take few commits, which a slow disk can make.
    const FAR: u64 = 2 << 20;
    let (node, mut root) = (cluster.node(name), cluster.node("root").client());
    eventually("the map is nearly full", 4 * SOON, || {
        let far = file_bytes(node) + FAR < SMALL_MAP;
        overwrite(&mut root, rng, 0, if far { 30_000 } else { 3000 });
        cluster.await_converged(SOON);
        (file_bytes(node) + LEFT >= SMALL_MAP).then_some(())
    });
    node.await_log("the memory map is nearly full", SOON);
    assert!(!node.log_text().contains("no space"), "{}", node.log_tail());
}

#[test]
fn a_relay_whose_map_is_full_waits_until_the_reader_lets_go() {
    let mut rng = seeded_rng();
    let mut cluster = Cluster::new();
    cluster.root("root");
    small(cluster.relay("relay", &["root"]));
    cluster.leaf("leaf", &["relay"]);
    cluster.start_all();
    let mut root = cluster.node("root").client();
    assert!(root.call(&["SET", "still", "there"]).unwrap().is_ok());
    cluster.await_converged(SOON);
    let relay = cluster.node("relay");
    let mut reader = relay.reader();
    assert_eq!(reader.ask("hold"), "holding");
    churn_until_the_map_is_nearly_full(&cluster, "relay", &mut rng);
    eventually("the relay finds no page", SOON, || {
        churn(&mut root, &mut rng, 1);
        relay.status().errors().contains("map is full").then_some(())
    });
    relay.await_log("the commit is tried again", SOON);
    let held = relay.status().json["storage"]["held_page_bytes"].as_u64();
    assert!(held > Some(1 << 20), "the reader is why: {held:?}");
    // Those who read go on, whoever they are.
    assert_eq!(relay.client().call(&["GET", "still"]).unwrap().text(), Some("there"));
    assert_eq!(relay.reader().ask("text still"), "text there");
    assert_eq!(reader.ask("held still"), "text there");
    cluster.node("root").assert_serves();

    let pid = relay.pid();
    assert_eq!(reader.ask("release"), "released");
    cluster.await_converged(SOON);
    let relay = cluster.node("relay");
    assert_eq!(relay.status().json["pid"], pid, "without a restart");
    relay.await_log("the memory map has room again", SOON);
    relay.reader().assert_verified();
}

#[test]
fn a_root_whose_map_is_full_acknowledges_nothing_until_the_reader_lets_go() {
    let mut rng = seeded_rng();
    let mut cluster = Cluster::new();
    small(cluster.root("root")).set_literal("batch.window_ms", 0);
    cluster.leaf("leaf", &["root"]);
    cluster.start_all();
    let root = cluster.node("root");
    let mut client = root.client();
    assert!(client.call(&["SET", "still", "there"]).unwrap().is_ok());
    let mut reader = root.reader();
    assert_eq!(reader.ask("hold"), "holding");
    churn_until_the_map_is_nearly_full(&cluster, "root", &mut rng);
    let (acknowledged, refusal) = count_until_refused(root, 1);
    println!("{acknowledged} acknowledged, then: {refusal}");
    assert!(refusal.contains("not stored") && refusal.contains("map is"), "{refusal}");
    let counter = client.call(&["GET", "counter"]).unwrap();
    let expected = (acknowledged > 0).then(|| acknowledged.to_string());
    assert_eq!(counter.text(), expected.as_deref(), "what was refused is not there");
    assert_eq!(root.reader().ask("text still"), "text there");
    cluster.await_converged(SOON);

    assert_eq!(reader.ask("release"), "released");
    eventually("there is room again", SOON, || {
        client.call(&["SET", "counter", "healed"]).ok().filter(|reply| reply.is_ok())
    });
    root.await_log("the memory map has room again", SOON);
    cluster.await_converged(SOON);
    assert_eq!(cluster.node("leaf").reader().ask("text counter"), "text healed");
    cluster.node("root").reader().assert_verified();
}

/// The reader table is a memory map too: a slot on a page that was never allocated would be a
/// SIGBUS for a process that only wanted to read.
#[test]
fn a_full_disk_kills_no_reader() {
    // More than the slots of the table's first page.
    const READERS: usize = 100;
    let Some((cluster, data)) = root_on_a_small_disk() else { return };
    small_disk::fill(&data.join("filler"));
    let root = cluster.node("root");
    let mut readers = Vec::new();
    for n in 0..READERS {
        println!("reader {n}");
        let mut reader = ReaderProcess::open_beside(root.pid(), &root.data_dir());
        assert_eq!(reader.ask("hold"), "holding", "reader {n}");
        assert_eq!(reader.ask("held still"), "text there", "reader {n}");
        readers.push(reader);
    }
    assert_eq!(root.client().call(&["GET", "still"]).unwrap().text(), Some("there"));
}
