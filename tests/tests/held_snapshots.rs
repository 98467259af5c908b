//! "A slow reader is the operator's to see, and nobody's to wait for." A service takes a snapshot
//! and is stopped while it holds it. Writes go on; the replicator's status, its metrics, its log
//! (once) and `qsctl readers` name the process, how far it is behind and for how long; when it is
//! gone, so is all of that. The reader table can be looked at without a replicator, too.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::cell::Cell;

use nix::sys::signal::Signal;
use quicksilver_tests::cluster::{Node, qsctl};
use quicksilver_tests::resp::Client;
use quicksilver_tests::{Cluster, ReaderProcess, SOON, eventually};
use serde_json::Value;

/// Between the second look, at three seconds, and the third.
const WARN_SECONDS: u32 = 5;
/// As `ps` shows it.
const PROGRAM: &str = "qs-test-reader";

fn metric(node: &Node, name: &str) -> f64 {
    let text = node.get("/metrics").body;
    let line =
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("{db=\"tests\"}"));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{text}"));
    line.trim().parse().unwrap()
}

/// What `qsctl readers` says of a process; null when it does not list it.
fn listed(node: &Node, pid: u32) -> Value {
    let output = node.qsctl(&["readers", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let readers = said["readers"].as_array().unwrap();
    readers.iter().find(|reader| reader["pid"] == pid).cloned().unwrap_or_default()
}

fn text_of(node: &Node, arguments: &[&str]) -> String {
    let output = node.qsctl(arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What `qsctl status` says when it asks the node.
fn status_text(node: &Node) -> String {
    let output = qsctl(&["--server", &node.address("client"), "status"]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Writes, each of which has to succeed, until the status says what is wanted of the oldest.
fn write_until_oldest(
    node: &Node,
    client: &mut Client,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    let mut n = 0;
    eventually(what, SOON, || {
        n += 1;
        assert!(client.call(&["SET", "counter", &n.to_string()]).unwrap().is_ok(), "{what}");
        let oldest = node.status().json["readers"]["oldest"].clone();
        wanted(&oldest).then_some(oldest)
    })
}

fn warnings(node: &Node, pid: u32) -> usize {
    let log = node.log_text();
    log.lines()
        .filter(|line| line.contains("old snapshot") && line.contains(&format!("pid={pid}")))
        .count()
}

#[test]
fn a_held_snapshot_is_seen_everywhere_until_it_is_let_go() {
    let mut cluster = Cluster::new();
    cluster
        .root("root")
        .set_literal("batch.window_ms", 0)
        .set_literal("limits.reader_warn_seconds", WARN_SECONDS);
    cluster.start_all();
    let root = cluster.node("root");
    let mut client = root.client();
    assert!(client.call(&["SET", "counter", "0"]).unwrap().is_ok());
    let mut reader: ReaderProcess = root.reader();
    assert_eq!(reader.ask("text counter"), "text 0");
    let pid = reader.pid();

    // Held at the newest commit it holds nothing back.
    assert_eq!(reader.ask("hold"), "holding");
    let held = listed(root, pid);
    assert_eq!((&held["name"], &held["in_use"]), (&Value::from(PROGRAM), &Value::from(1)));
    assert_eq!(held["lag_commits"], 0);
    reader.signal(Signal::SIGSTOP);

    // Counted before it is looked at, so that whatever takes long in between makes it older only.
    let warned = Cell::new(warnings(root, pid));
    let oldest = write_until_oldest(root, &mut client, "the snapshot is seen", |oldest| {
        let is = oldest["pid"] == pid && oldest["age_seconds"].as_f64() >= Some(1.0);
        if !is {
            warned.set(warnings(root, pid));
        }
        is
    });
    assert_eq!(oldest["name"], PROGRAM);
    assert!(oldest["lag_commits"].as_u64() > Some(0), "{oldest}");
    // Unless this test was held up for longer.
    if oldest["age_seconds"].as_f64() < Some(4.0) {
        assert_eq!(warned.get(), 0, "it is not held for long yet");
    }
    write_until_oldest(root, &mut client, "it is held for longer than the bound", |oldest| {
        oldest["age_seconds"].as_f64() >= Some(8.0)
    });
    assert_eq!(warnings(root, pid), 1, "a warning for each snapshot, not for each look");
    let log = root.log_text();
    assert!(log.contains(&format!("program=\"{PROGRAM}\"")), "{log}");

    assert!(metric(root, "quicksilver_oldest_reader_age_seconds") >= 8.0);
    assert!(metric(root, "quicksilver_oldest_reader_lag_commits") > 0.0);
    let taken = metric(root, "quicksilver_readers");
    assert!((1.0..=metric(root, "quicksilver_reader_slots_limit")).contains(&taken), "{taken}");
    let held = listed(root, pid);
    assert!(held["lag_commits"].as_u64() > Some(0), "{held}");
    let table = text_of(root, &["readers"]);
    let line = table.lines().find(|line| line.contains(PROGRAM)).unwrap();
    assert!(line.contains(&pid.to_string()) && line.ends_with("commits behind"), "{table}");
    let said = status_text(root);
    let expected = format!("the oldest snapshot is held by {PROGRAM} (process {pid}), ");
    assert!(said.contains(&expected), "{said}");

    // Let go, it is nobody's business; its slot stays its own, idle, until it ends.
    reader.signal(Signal::SIGCONT);
    assert_eq!(reader.ask("release"), "released");
    write_until_oldest(root, &mut client, "it is let go", Value::is_null);
    assert_eq!(metric(root, "quicksilver_oldest_reader_age_seconds"), 0.0);
    assert_eq!(metric(root, "quicksilver_oldest_reader_lag_commits"), 0.0);
    assert!(listed(root, pid)["lag_commits"].is_null());
    reader.kill9();
    // Not by the number of slots: the replicator takes one more whenever two of its threads read at
    // once.
    eventually("its slot is free", SOON, || listed(root, pid).is_null().then_some(()));
    root.await_log("freed the slots of readers that died", SOON);
    assert_eq!(warnings(root, pid), 1);
}

#[test]
fn readers_are_listed_without_a_replicator() {
    let mut cluster = Cluster::new();
    cluster.root("root").start();
    assert!(cluster.node("root").client().call(&["SET", "key", "value"]).unwrap().is_ok());
    cluster.node_mut("root").term();
    let root = cluster.node("root");
    let nobody = text_of(root, &["readers"]);
    assert!(nobody.starts_with("0 of ") && nobody.lines().count() == 1, "{nobody}");
    let mut reader = root.reader();
    assert_eq!(reader.ask("hold"), "holding");
    let held = listed(root, reader.pid());
    assert_eq!((&held["name"], &held["lag_commits"]), (&Value::from(PROGRAM), &Value::from(0)));
    assert_eq!(reader.ask("held key"), "text value");
}
