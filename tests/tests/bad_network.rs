//! "Whatever the network does, a node applies the log as it was written, or nothing." A proxy
//! between root and relay flips bits, cuts connections in the middle of a frame, or goes silent.
//! The relay never applies what was spoilt, goes on serving, and has everything soon after the
//! network works again; nobody else notices.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::{Duration, Instant};

use quicksilver_tests::proxy::{Proxy, Weather};
use quicksilver_tests::resp::Client;
use quicksilver_tests::{Cluster, SOON, eventually, random_bytes, seeded_rng};
use rand::Rng;
use rand::rngs::StdRng;

/// A relay that failed a few times waits a few seconds before it tries again.
const AFTER_BACKOFF: Duration = Duration::from_secs(60);

/// root → proxy → relay, and a witness that follows the root itself.
fn behind_a_proxy(rng: &mut StdRng) -> (Cluster, Proxy) {
    let mut cluster = Cluster::new();
    let upstream = cluster.root("root").socket("replication");
    let proxy = Proxy::start(&cluster.path().join("proxy"), &upstream, rng.random());
    cluster.relay("relay", &[]).follow(&[proxy.address()]);
    cluster.leaf("witness", &["root"]);
    cluster.start_all();
    assert!(cluster.node("root").client().call(&["SET", "still", "there"]).unwrap().is_ok());
    cluster.await_converged(SOON);
    (cluster, proxy)
}

fn write(client: &mut Client, rng: &mut StdRng) {
    let key = format!("key-{:03}", rng.random_range(0..200));
    let length = rng.random_range(0..3000);
    let value = random_bytes(rng, length);
    assert!(client.call(&[b"SET", key.as_bytes(), &value]).unwrap().is_ok());
}

/// Writes in this weather until so many faults have happened.
fn write_until(cluster: &Cluster, proxy: &Proxy, rng: &mut StdRng, weather: Weather, faults: u64) {
    let mut client = cluster.node("root").client();
    proxy.set_weather(weather);
    let deadline = Instant::now() + SOON * 2;
    while proxy.faults() < faults {
        assert!(Instant::now() < deadline, "{} faults", proxy.faults());
        write(&mut client, rng);
    }
    proxy.set_weather(Weather::Fair);
    let index = cluster.node("root").status().index;
    cluster.node("witness").await_index(index, SOON);
    println!("{} faults, index {index}", proxy.faults());
    cluster.await_converged(AFTER_BACKOFF);
    for node in cluster.nodes() {
        node.reader().assert_verified();
    }
}

#[test]
fn flipped_bits_are_never_applied() {
    let mut rng = seeded_rng();
    let (cluster, proxy) = behind_a_proxy(&mut rng);
    write_until(&cluster, &proxy, &mut rng, Weather::Flips { one_in: 20 }, 5);
    cluster.node("relay").await_log("upstream lost", SOON);
}

#[test]
fn connections_cut_anywhere_lose_nothing() {
    let mut rng = seeded_rng();
    let (cluster, proxy) = behind_a_proxy(&mut rng);
    write_until(&cluster, &proxy, &mut rng, Weather::Cuts { one_in: 20 }, 5);
}

#[test]
fn silence_is_seen_as_lag_and_holds_nobody_up() {
    let mut rng = seeded_rng();
    let (cluster, proxy) = behind_a_proxy(&mut rng);
    let relay = cluster.node("relay");
    let before = relay.status();
    proxy.set_weather(Weather::Silent);
    let mut client = cluster.node("root").client();
    for _ in 0..200 {
        write(&mut client, &mut rng);
    }
    let index = cluster.node("root").status().index;
    cluster.node("witness").await_index(index, SOON);
    let silent = relay.await_status("the lag rises", SOON, |status| {
        status.json["lag_seconds"].as_f64().is_some_and(|lag| lag > 1.5)
    });
    assert_eq!((silent.index, silent.hash), (before.index, before.hash));
    assert_eq!(relay.client().call(&["GET", "still"]).unwrap().text(), Some("there"));
    relay.assert_serves();
    assert_eq!(relay.get("/readyz").status, 200);

    proxy.set_weather(Weather::Fair);
    cluster.await_converged(SOON);
    eventually("the lag falls", SOON, || {
        relay.status().json["lag_seconds"].as_f64().filter(|lag| *lag < 1.0)
    });
}
