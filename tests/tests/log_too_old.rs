//! "A node that was away for longer than the log reaches is told so, and never gets a gap." The
//! relay is offline while the root's log is collected. When it comes back it is refused with the
//! oldest index that there is, says so in `/status` and in its log, and goes on serving what it
//! has; what its upstream has not lost it can still follow. Where there is a secondary that keeps a
//! longer log, it goes on there.
//!
//! "A node that is connected, and slow, is waited for." Its upstream keeps what it does not have yet,
//! within a bound.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use quicksilver_tests::cluster::{DOWNSTREAM_ENDED, Node, Status, UPSTREAM_ENDED};
use quicksilver_tests::{Cluster, SOON, eventually, random_bytes, seeded_rng};

const LOG_BYTES: u64 = 1 << 20;

/// Starts everybody, and ends the relay while the root is written four times as much as its log keeps.
/// Where the relay stands.
fn outlast_the_log(cluster: &mut Cluster) -> Status {
    let mut rng = seeded_rng();
    cluster.start_all();
    let mut root = cluster.node("root").client();
    assert!(root.call(&["SET", "still", "there"]).unwrap().is_ok());
    let before = cluster.await_converged(SOON);
    cluster.node_mut("relay").term();
    for n in 0..64 {
        let value = random_bytes(&mut rng, (LOG_BYTES / 16) as usize);
        let key = format!("key-{}", n % 8);
        assert!(root.call(&[b"SET", key.as_bytes(), &value]).unwrap().is_ok());
    }
    // It waits for those who are connected.
    let mut written = 0;
    eventually("the log begins after the relay", SOON, || {
        written += 1;
        assert!(root.call(&["SET", "later", &written.to_string()]).unwrap().is_ok());
        (oldest(cluster.node("root")) > before.index + 1).then_some(())
    });
    before
}

fn oldest(node: &Node) -> u64 {
    node.status().json["oldest_index"].as_u64().unwrap()
}

#[test]
fn the_log_was_collected_meanwhile() {
    let mut cluster = Cluster::new();
    cluster.root("root").set_literal("retention.bytes", LOG_BYTES);
    cluster.relay("relay", &["root"]).set_literal("bootstrap.enabled", false);
    cluster.leaf("witness", &["root"]);
    let before = outlast_the_log(&mut cluster);

    let relay = cluster.node_mut("relay").start();
    let status =
        relay.await_status("a refusal", SOON, |status| status.errors().contains("log begins at"));
    let reason = format!("this node is at {}", before.index);
    assert!(status.errors().contains(&reason), "{}", status.errors());
    relay.await_log("log begins at", SOON);
    relay.await_log("a secondary is tried, then a snapshot", SOON);
    relay.await_log("it needs a snapshot (qsctl snapshot)", SOON);
    assert!(relay.counted(UPSTREAM_ENDED, "log-too-old") > 0);
    relay.await_status("by name", SOON, |_| relay.upstream_state_is("needs-snapshot"));
    assert_eq!((status.index, &status.hash), (before.index, &before.hash), "no gap");
    assert_eq!(relay.client().call(&["GET", "still"]).unwrap().text(), Some("there"));
    relay.assert_serves();
    relay.reader().assert_verified();

    assert!(cluster.node("root").counted(DOWNSTREAM_ENDED, "log-too-old") > 0);
    cluster.node("root").await_log("reason=\"log-too-old\"", SOON);

    // Whoever was there all the time has everything, and so has the root after its collection.
    let index = cluster.node("root").status().index;
    let witness = cluster.node("witness").await_index(index, SOON);
    assert_eq!(witness.digest, cluster.node("root").status().digest);
    cluster.node("root").reader().assert_verified();
    cluster.node("witness").reader().assert_verified();
}

/// Story: the root keeps hours of log, a secondary a week of it. Whoever was away for days goes there,
/// and fetches no snapshot.
#[test]
fn a_secondary_has_what_the_primary_has_not() {
    let mut cluster = Cluster::new();
    cluster.root("root").set_literal("retention.bytes", LOG_BYTES);
    let archive = cluster.relay("archive", &["root"]).address("replication");
    cluster
        .relay("relay", &["root"])
        .set_literal("upstream.secondary", format!("[{archive:?}]"))
        .set_literal("bootstrap.enabled", false);
    outlast_the_log(&mut cluster);

    let relay = cluster.node_mut("relay").start();
    relay.await_status("the secondary", SOON, |status| {
        status.is_connected() && status.json["upstream"]["node_id"] == "archive"
    });
    assert!(relay.counted(UPSTREAM_ENDED, "log-too-old") > 0);
    cluster.await_converged(SOON);
    cluster.node("relay").reader().assert_verified();
}

#[test]
fn the_log_stays_for_a_slow_downstream() {
    for (held_bytes, stays) in [(64 * LOG_BYTES, true), (0, false)] {
        let mut rng = seeded_rng();
        let mut cluster = Cluster::new();
        cluster
            .root("root")
            .set_literal("retention.bytes", LOG_BYTES)
            .set_literal("retention.held_bytes", held_bytes)
            .set_literal("batch.window_ms", 5);
        cluster.leaf("leaf", &["root"]);
        cluster.start_all();
        let mut root = cluster.node("root").client();
        assert!(root.call(&["SET", "still", "there"]).unwrap().is_ok());
        let before = cluster.await_converged(SOON);
        let held = || cluster.node("root").status().json["log_needed_after"].clone();
        eventually("the root knows what the leaf needs", SOON, || {
            (held() == before.index).then_some(())
        });
        cluster.node_mut("leaf").signal(Signal::SIGSTOP);
        // Four times as much as the log keeps, and then for a while. All in all for much less than the
        // half a minute after which a downstream that says nothing is given up.
        let value = random_bytes(&mut rng, (LOG_BYTES / 16) as usize);
        for n in 0..64 {
            root.send(&[b"SET", format!("key-{n}").as_bytes(), &value]).unwrap();
        }
        (0..64).for_each(|_| assert!(root.reply().unwrap().is_ok()));
        let moved = || oldest(cluster.node("root")) > before.index + 1;
        let (began, mut written) = (Instant::now(), 0);
        while if stays { began.elapsed() < Duration::from_secs(2) } else { !moved() } {
            assert!(began.elapsed() < SOON, "the log is kept, with retention.held_bytes 0");
            written += 1;
            assert!(root.call(&["SET", "key", &written.to_string()]).unwrap().is_ok());
        }
        assert_eq!(moved(), !stays, "{held_bytes}, {}", before.index);
        cluster.node_mut("leaf").signal(Signal::SIGCONT);
        if stays {
            cluster.await_converged(SOON);
        }
    }
}
