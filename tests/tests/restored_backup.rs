//! "A root that was restored from a backup never rolls anybody back silently." The root's
//! directory is copied, the root goes on, its relay follows; then the copy is put back. While the
//! restored root is merely behind, the relay waits and serves what it has. When it has written
//! other entries under the same indices, the relay says that the two have different pasts, raises
//! the alarm, applies nothing, and goes on serving.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;

use quicksilver_tests::cluster::{DOWNSTREAM_ENDED, UPSTREAM_ENDED};
use quicksilver_tests::resp::Client;
use quicksilver_tests::{Cluster, SOON, eventually};

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
    cluster.await_converged(SOON);
    let (data, backup) = (cluster.node("root").data_dir(), cluster.path().join("backup"));
    cluster.node_mut("root").term();
    copy_directory(&data, &backup);
    cluster.node_mut("root").start();
    write(&mut cluster.node("root").client(), "lost", 10);
    cluster.await_converged(SOON);
    cluster.node_mut("root").kill9();
    std::fs::remove_dir_all(&data).unwrap();
    copy_directory(&backup, &data);
    cluster.node_mut("root").start();
    assert_eq!(cluster.node("root").status().index, 10);
    cluster
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
