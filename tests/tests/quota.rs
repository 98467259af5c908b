//! "A node that is too small for what the root allows says so when it connects, and not when it is
//! full." The root announces its `limits.max_db_bytes`; relays pass it on, also when it changes and
//! also without the root; each node compares it with its map and its disk.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use nix::sys::signal::Signal;
use quicksilver_tests::cluster::Node;
use quicksilver_tests::{Cluster, SOON, Status, small_disk};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
/// What log and batches take beside the data, on every node here.
const BESIDE_BYTES: u64 = 16 * MIB + 4 * 2 * MIB;
const TOO_SMALL: &str = "more than this node's memory map can hold";

/// Little log and small batches, so that a small map is enough for them.
fn sized(node: &mut Node, map_bytes: u64) -> &mut Node {
    node.set_literal("limits.max_value_bytes", MIB).set_literal("batch.max_bytes", 2 * MIB);
    node.set_literal("retention.bytes", 16 * MIB).set_literal("limits.max_db_bytes", MIB);
    node.set_literal("limits.map_bytes", map_bytes)
}

/// The map's room is what is expected, the disk has plenty, and the answer follows from it.
fn has_compared(status: &Status, max_db_bytes: u64, map_room_bytes: u64) -> bool {
    let quota = &status.json["quota"];
    let disk_room_bytes = quota["disk_room_bytes"].as_u64();
    *quota
        == json!({
            "max_db_bytes": max_db_bytes,
            "map_room_bytes": map_room_bytes,
            "disk_room_bytes": disk_room_bytes,
            "sufficient": map_room_bytes >= max_db_bytes,
        })
}

/// Waits until a node knows the quota and has compared it, in `/status` and `/metrics`.
fn await_compared(node: &Node, max_db_bytes: u64, map_bytes: u64) {
    let room = map_bytes - BESIDE_BYTES;
    let what = format!("a quota of {max_db_bytes} against {room}");
    node.await_status(&what, SOON, |status| has_compared(status, max_db_bytes, room));
    let metrics = node.get("/metrics").body;
    let sufficient = u8::from(room >= max_db_bytes);
    for line in [
        format!("quicksilver_quota_bytes{{db=\"tests\"}} {max_db_bytes}"),
        format!("quicksilver_quota_sufficient{{db=\"tests\"}} {sufficient}"),
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
}

fn announce(cluster: &mut Cluster, max_db_bytes: u64) {
    let root = cluster.node_mut("root");
    root.set_literal("limits.max_db_bytes", max_db_bytes);
    root.write_config();
    root.signal(Signal::SIGHUP);
}

#[test]
fn a_node_that_is_too_small_warns_when_it_connects() {
    const LARGE: u64 = 1024 * MIB;
    const SMALL: u64 = 100 * MIB;
    let mut cluster = Cluster::new();
    sized(cluster.root("root"), LARGE).set_literal("limits.max_db_bytes", 200 * MIB);
    sized(cluster.relay("small", &["root"]), SMALL);
    sized(cluster.leaf("leaf", &["small"]), LARGE);
    cluster.start_all();
    await_compared(cluster.node("root"), 200 * MIB, LARGE);
    await_compared(cluster.node("small"), 200 * MIB, SMALL);
    await_compared(cluster.node("leaf"), 200 * MIB, LARGE);
    let small = cluster.node("small");
    small.await_log(TOO_SMALL, SOON);
    small.await_log(&format!("limits.map_bytes to at least {}", 200 * MIB + BESIDE_BYTES), SOON);
    for name in ["root", "leaf"] {
        assert!(!cluster.node(name).log_text().contains(TOO_SMALL), "{name}");
    }
    // It is a warning: the small one follows as before.
    assert!(cluster.node("root").client().call(&["SET", "still", "followed"]).unwrap().is_ok());
    cluster.await_converged(SOON);

    // A change at the root goes through the tree.
    announce(&mut cluster, 300 * MIB);
    await_compared(cluster.node("small"), 300 * MIB, SMALL);
    await_compared(cluster.node("leaf"), 300 * MIB, LARGE);
    assert_eq!(cluster.node("small").log_text().matches(TOO_SMALL).count(), 2, "said anew");
    announce(&mut cluster, 64 * MIB);
    for (name, map_bytes) in [("root", LARGE), ("small", SMALL), ("leaf", LARGE)] {
        await_compared(cluster.node(name), 64 * MIB, map_bytes);
    }
    cluster.node("small").await_log("the quota fits into the memory map", SOON);

    // Whoever is new learns it from a relay, whether the root is there or not.
    cluster.node_mut("root").kill9();
    sized(cluster.leaf("late", &["small"]), LARGE).start();
    await_compared(cluster.node("late"), 64 * MIB, LARGE);
}

#[test]
fn a_node_whose_disk_is_too_small_says_so() {
    const MAP: u64 = 1024 * MIB;
    let mut cluster = Cluster::new();
    sized(cluster.root("root"), MAP).set_literal("limits.max_db_bytes", 20 * MIB);
    if !small_disk::put(sized(cluster.leaf("leaf", &["root"]), MAP), 32) {
        return;
    }
    cluster.start_all();
    let leaf = cluster.node("leaf");
    let said = "more than this node's disk can hold";
    leaf.await_log(said, SOON);
    leaf.await_log(&format!("room for {} bytes", 20 * MIB + BESIDE_BYTES), SOON);
    let compared = |status: &Status| status.json["quota"].is_object();
    let quota = leaf.await_status("it has compared", SOON, compared).json["quota"].clone();
    assert_eq!(quota["sufficient"], false, "{quota}");
    assert_eq!(quota["map_room_bytes"], MAP - BESIDE_BYTES);
    assert!(quota["disk_room_bytes"].as_u64() <= Some(32 * MIB - BESIDE_BYTES), "{quota}");
    assert!(!cluster.node("root").log_text().contains(said));
}

#[test]
fn who_has_heard_no_root_knows_no_quota() {
    let mut cluster = Cluster::new();
    cluster.root("root");
    cluster.relay("relay", &["root"]);
    cluster.node_mut("relay").start();
    let relay = cluster.node("relay");
    let status = relay.await_status("it has looked", SOON, |s| s.json["storage"].is_object());
    assert_eq!(status.json["quota"], Value::Null);
    let metrics = relay.get("/metrics").body;
    assert!(!metrics.contains("\nquicksilver_quota_"), "{metrics}");
    for (name, field) in [
        ("quicksilver_file_bytes", "file_bytes"),
        ("quicksilver_free_page_bytes", "free_page_bytes"),
        ("quicksilver_held_page_bytes", "held_page_bytes"),
        ("quicksilver_map_bytes", "map_bytes"),
        ("quicksilver_log_bytes", "log_bytes"),
        ("quicksilver_disk_free_bytes", "disk_free_bytes"),
    ] {
        assert!(metrics.contains(&format!("\n{name}{{db=\"tests\"}} ")), "{name}: {metrics}");
        assert!(status.json["storage"][field].is_u64(), "{field}: {}", status.json["storage"]);
    }
    assert_eq!(status.json["storage"]["map_bytes"], 16_u64 << 30);
}
