//! "A root that was restored from a backup never rolls anybody back silently." The root's
//! directory is copied, the root goes on, its relay follows; then the copy is put back. While the
//! restored root is merely behind, the relay waits and serves what it has. When it has written
//! other entries under the same indices, the relay says that the two have different pasts, raises
//! the alarm, applies nothing, and goes on serving. A new node that could have its first copy from either
//! has it from the root.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;

use quicksilver_tests::cluster::{BOOTSTRAP_ENDED, DOWNSTREAM_ENDED, Node, UPSTREAM_ENDED};
use quicksilver_tests::resp::Client;
use quicksilver_tests::{Cluster, SOON, eventually, random_bytes, seeded_rng};

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn write(client: &mut Client, what: &str, count: usize) {
    for n in 0..count {
        let value = format!("{what} {n}");
        assert!(client.call(&["SET", "key", &value]).unwrap().is_ok());
    }
}

/// Ten writes, a backup, ten more, and the backup put back; the relay is at index 20.
fn restored() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.root("root");
    cluster.relay("relay", &["root"]);
    cluster.start_all();
    write(&mut cluster.node("root").client(), "before", 10);
    restore_root(&mut cluster, |client| write(client, "lost", 10));
    assert_eq!(cluster.node("root").status().index, 10);
    cluster
}

/// Makes a backup of the root, has it go on, and puts the backup back.
fn restore_root(cluster: &mut Cluster, mut go_on: impl FnMut(&mut Client)) {
    cluster.await_converged(SOON);
    let (data, backup) = (cluster.node("root").data_dir(), cluster.path().join("backup"));
    cluster.node_mut("root").term();
    copy_directory(&data, &backup);
    cluster.node_mut("root").start();
    go_on(&mut cluster.node("root").client());
    cluster.await_converged(SOON);
    cluster.node_mut("root").kill9();
    std::fs::remove_dir_all(&data).unwrap();
    copy_directory(&backup, &data);
    cluster.node_mut("root").start();
}

#[test]
fn a_root_that_is_behind_is_waited_for() {
    let cluster = restored();
    let relay = cluster.node("relay");
    let status =
        relay.await_status("it is behind", SOON, |status| status.errors().contains("it is behind"));
    assert_eq!((status.index, status.state.as_str()), (20, "disconnected"), "{:#}", status.json);
    assert!(relay.counted(UPSTREAM_ENDED, "behind") > 0);
    relay.await_log("it is waited for, or another upstream is tried", SOON);
    assert!(cluster.node("root").counted(DOWNSTREAM_ENDED, "behind") > 0);
    assert_eq!(relay.counted(UPSTREAM_ENDED, "diverged"), 0);
    assert_eq!(relay.client().call(&["GET", "key"]).unwrap().text(), Some("lost 9"));
    assert_eq!(relay.reader().ask("text key"), "text lost 9");
    relay.assert_serves();
}

#[test]
fn a_root_with_another_past_is_not_followed() {
    let cluster = restored();
    write(&mut cluster.node("root").client(), "other", 15);
    let relay = cluster.node("relay");
    let status = relay.await_status("another past", SOON, |status| status.state == "diverged");
    assert!(status.errors().contains("it has another past"), "{}", status.errors());
    relay.await_log("it has another past", SOON);
    relay.await_log("qsctl verify on both", SOON);
    assert!(relay.counted(UPSTREAM_ENDED, "diverged") > 0);
    assert!(relay.upstream_state_is("diverged"));
    // While it is behind the relay, the root cannot know; the relay finds out by its own log.
    eventually("the root counts it too", SOON, || {
        let counted = |reason| cluster.node("root").counted(DOWNSTREAM_ENDED, reason);
        (counted("diverged") + counted("behind") > 0).then_some(())
    });
    assert_eq!(status.index, 20, "nothing was applied, nothing rolled back");
    assert_eq!(relay.client().call(&["GET", "key"]).unwrap().text(), Some("lost 9"));
    relay.assert_serves();
    relay.reader().assert_verified();
    assert_eq!(relay.get("/readyz").status, 200, "it serves what it has");
    cluster.node("root").assert_serves();
    // What a monitoring script asks, and its answer: 4, corrupt or diverged.
    let asked = relay.qsctl(&["status"]);
    assert_eq!(asked.status.code(), Some(4), "{asked:?}");
}

/// Story: the relay has not been looked after yet, and a new machine is told to follow the root or the
/// relay. Neither log reaches back to the beginning; the relay's, which the restored root has left
/// behind, begins earlier. The new one takes the root's snapshot all the same.
#[test]
fn a_new_node_begins_with_what_the_root_has() {
    const LOG_BYTES: u64 = 1 << 20;
    let mut rng = seeded_rng();
    let mut fill = |client: &mut Client| {
        for n in 0..64 {
            let value = random_bytes(&mut rng, (LOG_BYTES / 16) as usize);
            let key = format!("key-{}", n % 8);
            assert!(client.call(&[b"SET", key.as_bytes(), &value]).unwrap().is_ok());
        }
    };
    let mut cluster = Cluster::new();
    cluster.root("root").set_literal("retention.bytes", LOG_BYTES);
    cluster.relay("relay", &["root"]).set_literal("retention.bytes", LOG_BYTES);
    cluster.start_all();
    fill(&mut cluster.node("root").client());
    restore_root(&mut cluster, &mut fill);
    let (root, relay) = (cluster.node("root"), cluster.node("relay"));
    // As far as the relay, and not further before it has looked: a log that begins later would only
    // tell it that it is too old.
    fill(&mut root.client());
    relay.await_status("another past", SOON, |status| status.state == "diverged");
    // It stays in that: in half a minute the root's log will not know where it stands.
    let relay = cluster.node_mut("relay");
    relay.term();
    relay.set_literal("bootstrap.enabled", false).start();
    relay.await_status("still", SOON, |status| status.state == "diverged");
    let (root, relay) = (cluster.node("root"), cluster.node("relay"));
    fill(&mut root.client());
    write(&mut root.client(), "other", 15);
    assert!(1 < oldest(relay) && oldest(relay) < oldest(root));

    cluster.leaf("leaf", &["relay", "root"]).start();
    let wanted = cluster.node("root").status();
    let leaf = cluster.node("leaf");
    leaf.await_status("what the root has", SOON, |status| status.same_data(&wanted));
    leaf.await_ready();
    assert_eq!(leaf.client().call(&["GET", "key"]).unwrap().text(), Some("other 14"));
    assert_eq!(leaf.counted(BOOTSTRAP_ENDED, "done"), 1);
    assert_eq!(leaf.counted(UPSTREAM_ENDED, "diverged"), 0);
    // Its question made it no downstream: WAIT would have counted it as one that has everything.
    let welcomed = "downstream welcomed node=root downstream=leaf";
    assert_eq!(cluster.node("root").log_text().matches(welcomed).count(), 1);
    leaf.reader().assert_verified();
}

fn oldest(node: &Node) -> u64 {
    node.status().json["oldest_index"].as_u64().unwrap()
}
