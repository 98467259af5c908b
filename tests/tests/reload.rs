//! "A configuration is changed without anybody noticing." SIGHUP makes a process read its file again:
//! what it can take over it does, the rest it names, and a file that cannot be used changes nothing.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Instant;

use nix::sys::signal::Signal;
use quicksilver_tests::{Cluster, SOON};

#[test]
fn a_relay_moves_to_another_upstream() {
    let mut cluster = Cluster::new();
    cluster.root("root");
    cluster.relay("near", &["root"]);
    cluster.relay("far", &["root"]);
    cluster.leaf("leaf", &["near"]);
    cluster.start_all();
    cluster.await_converged(SOON);
    let follows = |cluster: &Cluster, name: &str| {
        let wanted = format!("follows {name}");
        cluster.node("leaf").await_status(&wanted, SOON, |status| {
            status.is_connected() && status.json["upstream"]["node_id"] == name
        });
    };
    follows(&cluster, "near");
    let mut client = cluster.node("leaf").client();

    let far = cluster.node("far").address("replication");
    cluster.node_mut("leaf").follow(&[far]);
    cluster.node("leaf").write_config();
    cluster.node_mut("leaf").signal(Signal::SIGHUP);
    follows(&cluster, "far");
    assert!(cluster.node("root").client().call(&["SET", "a", "1"]).unwrap().is_ok());
    cluster.await_converged(SOON);
    // The same process, and the same connection.
    assert_eq!(client.call(&["GET", "a"]).unwrap().text(), Some("1"));
    cluster.node("leaf").await_log("changed=\"upstream.primary\"", SOON);
}

#[test]
fn a_root_takes_what_it_can_and_names_the_rest() {
    let mut cluster = Cluster::new();
    cluster.root("root").set_literal("batch.window_ms", 60_000);
    cluster.start_all();
    let mut client = cluster.node("root").client();
    assert!(client.call(&["SET", "a", "0"]).unwrap().is_ok());

    // What cannot be used changes nothing.
    let config = cluster.node("root").write_config();
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("[batch]", "[batch]\nwindow = 1")).unwrap();
    cluster.node_mut("root").signal(Signal::SIGHUP);
    cluster.node("root").await_log("the configuration was not reloaded; nothing changed", SOON);
    cluster.node("root").await_log("batch.window", SOON);

    let root = cluster.node_mut("root");
    root.set_literal("batch.window_ms", 1).set("site", "elsewhere");
    root.set("logging.level", "info,quicksilver_replicator::net::resp=debug");
    root.write_config();
    root.signal(Signal::SIGHUP);
    root.await_log("changed=\"batch.window_ms, logging.level\" at_the_next_restart=\"site\"", SOON);
    // With the old window, each of these would take a minute.
    let began = Instant::now();
    for n in 1..10 {
        assert!(client.call(&["SET", "a", &n.to_string()]).unwrap().is_ok());
    }
    assert!(began.elapsed() < SOON);
    drop(client);
    root.await_log("client left", SOON);
}
