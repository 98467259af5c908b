//! "A relay passes a batch on before its own commit, so the tree adds network time." The relay's
//! disk is made slow: every fdatasync takes 2 s longer. A leaf behind it still reads a write
//! long before that, while the relay itself does not show it yet.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::{Duration, Instant};

use quicksilver_tests::process::{strace_works, with_faulty_sync};
use quicksilver_tests::{Cluster, SOON, fingerprint, skipped};

/// What the relay's own commit takes. Idle, the leaf has the write within a few milliseconds.
const DISK_DELAY: Duration = Duration::from_secs(2);
const WRITES: usize = 5;

#[test]
fn a_slow_disk_in_the_middle_delays_nobody_behind_it() {
    if !strace_works() {
        return skipped("strace cannot trace a process here");
    }
    let mut cluster = Cluster::new();
    cluster.root("root").set_literal("batch.window_ms", 0);
    let slow = with_faulty_sync(&format!("delay_enter={}", DISK_DELAY.as_micros()));
    cluster.relay("relay", &["root"]).wrap(slow);
    cluster.leaf("leaf", &["relay"]);
    cluster.start_all();
    let mut client = cluster.node("root").client();
    assert!(client.call(&["SET", "key", "first"]).unwrap().is_ok());
    cluster.await_converged(SOON);

    let mut reader = cluster.node("leaf").reader();
    let (mut took, mut relay_was_behind) = (Vec::new(), 0);
    for n in 0..WRITES {
        let value = format!("value {n}");
        let wanted = fingerprint(value.as_bytes());
        reader.send(&format!("await key {wanted} {}", SOON.as_millis()));
        let sent = Instant::now();
        assert!(client.call(&["SET", "key", &value]).unwrap().is_ok());
        assert_eq!(reader.answer(), "seen");
        took.push(sent.elapsed());
        // In this order: what the relay does meanwhile only brings it nearer.
        let (leaf, relay) = (cluster.node("leaf").status(), cluster.node("relay").status());
        relay_was_behind += usize::from(relay.index < leaf.index);
        // The next one finds everybody idle.
        cluster.await_converged(SOON);
    }
    took.sort();
    println!(
        "from the write to the leaf's reader: {took:?}; {relay_was_behind} times before the relay"
    );
    assert!(relay_was_behind > WRITES / 2, "{relay_was_behind} of {WRITES}");
    assert!(took[WRITES / 2] < DISK_DELAY, "{took:?}");
}
