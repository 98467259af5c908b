//! "Whatever is wrong is refused with a reason, and the process goes on serving." Configurations
//! that cannot work, trees that are none, writes that are too large, bytes that mean nothing,
//! more connections than there may be: each gets a typed error, operators find it in the log or
//! in `/status`, and everybody else is served as before.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};

use quicksilver_tests::cluster::{DOWNSTREAM_ENDED, Node, UPSTREAM_ENDED};
use quicksilver_tests::process::binary;
use quicksilver_tests::resp::{Client, Reply};
use quicksilver_tests::{Cluster, SOON, eventually, poll, random_bytes, seeded_rng};

/// What a source says of most whom it refuses.
const SEE_THERE: &str = "its own log says what to do";

/// Waits until a node says why it does not follow: in its status, in its log with what to do, and
/// by one word in its metrics.
fn await_reason(node: &Node, why: &str, word: &str, advice: &str) {
    let status = node.await_status(why, SOON, |status| status.errors().contains(why));
    assert!(status.errors().contains(advice), "{}", status.errors());
    await_logged(node, word, why, advice);
    assert!(node.counted(UPSTREAM_ENDED, word) > 0, "{word}");
}

/// Waits for one line of a log that has all of it.
fn await_logged(node: &Node, word: &str, why: &str, advice: &str) {
    let word = format!("reason=\"{word}\"");
    let line = |log: &str| {
        log.lines().any(|line| [&word, why, advice].iter().all(|text| line.contains(*text)))
    };
    let logged = poll(SOON, || line(&node.log_text()).then_some(()));
    assert!(logged.is_some(), "no line with {word}, {why}, {advice}:\n{}", node.log_tail());
}

/// The other end of a refusal: the source has counted and logged it.
fn await_refused_by(source: &Node, word: &str, why: &str, advice: &str) {
    await_logged(source, word, why, advice);
    assert!(source.counted(DOWNSTREAM_ENDED, word) > 0, "{word}");
}

#[test]
fn another_database() {
    let mut cluster = Cluster::new();
    cluster.root("root").start();
    cluster
        .relay("stranger", &["root"])
        .set("db_id", "11111111-2222-4333-8444-555555555555")
        .start();
    let stranger = cluster.node("stranger");
    await_reason(stranger, "holds database", "wrong-database", "correct db_id or [upstream]");
    assert!(stranger.upstream_state_is("wrong-database"));
    await_refused_by(cluster.node("root"), "wrong-database", "downstream=\"stranger\"", SEE_THERE);
    assert!(cluster.node("root").client().call(&["SET", "k", "v"]).unwrap().is_ok());
    let stranger = cluster.node("stranger");
    stranger.assert_serves();
    assert_eq!(stranger.status().index, 0);
    cluster.node("root").assert_serves();
}

#[test]
fn a_directory_of_another_database() {
    let mut cluster = Cluster::new();
    cluster.root("root").start().term();
    let root = cluster.node_mut("root");
    root.set("db_id", "11111111-2222-4333-8444-555555555555").spawn();
    let status = root.await_exit(SOON);
    assert!(!status.success(), "{status}");
    root.await_log("holds database", SOON);
}

#[test]
fn a_second_process_on_one_database() {
    let mut cluster = Cluster::new();
    cluster.root("root").start();
    let data_dir = cluster.node("root").data_dir();
    let second = cluster.root("second");
    second.set("data_dir", data_dir.display()).spawn();
    let status = second.await_exit(SOON);
    assert!(!status.success(), "{status}");
    second.await_log("holds the role lock", SOON);
    cluster.node("root").assert_serves();
}

#[test]
fn a_node_that_follows_itself() {
    let mut cluster = Cluster::new();
    let node = cluster.relay("narcissus", &[]);
    let own = node.address("replication");
    node.follow(&[own]).start();
    await_reason(node, "this very process", "self", "remove this node's own address");
    await_refused_by(node, "self", "the follower itself", SEE_THERE);
    node.assert_serves();
}

#[test]
fn two_relays_that_follow_each_other() {
    let mut cluster = Cluster::new();
    let a = cluster.relay("a", &[]).address("replication");
    let b = cluster.relay("b", &["a"]).address("replication");
    assert_ne!(a, b);
    cluster.node_mut("a").follow(&[b]);
    cluster.start_all();
    await_circle_seen(&cluster);
}

#[test]
fn a_circle_that_closes_while_sessions_live() {
    let mut cluster = Cluster::new();
    cluster.root("root");
    cluster.relay("a", &["root"]);
    let b = cluster.relay("b", &["a"]).address("replication");
    cluster.start_all();
    let mut root = cluster.node("root").client();
    assert!(root.call(&["SET", "still", "here"]).unwrap().is_ok());
    cluster.await_converged(SOON);

    // An operator's mistake: `a` now follows `b`, which goes on following `a`.
    cluster.node_mut("a").term();
    cluster.node_mut("a").follow(&[b]).start();
    await_circle_seen(&cluster);
    for name in ["a", "b"] {
        let value = cluster.node(name).client().call(&["GET", "still"]).unwrap();
        assert_eq!(value.text(), Some("here"), "{name}");
    }
    // The mistake is corrected, and all is well.
    let upstream = cluster.node("root").address("replication");
    assert!(root.call(&["SET", "still", "there"]).unwrap().is_ok());
    cluster.node_mut("a").term();
    cluster.node_mut("a").follow(&[upstream]).start();
    cluster.await_converged(SOON);
}

/// One of the two says so, in its status and its log, and both serve.
fn await_circle_seen(cluster: &Cluster) {
    let relays = ["a", "b"].map(|name| cluster.node(name));
    eventually("a circle is refused", SOON, || {
        relays.iter().find(|node| {
            let seen =
                node.try_status().is_some_and(|s| s.errors().contains("it follows this node"));
            seen && node.counted(UPSTREAM_ENDED, "cycle") > 0
        })
    });
    let refused = relays.iter().find(|node| node.counted(UPSTREAM_ENDED, "cycle") > 0).unwrap();
    let advice = "remove one of the two from the other's [upstream]";
    await_logged(refused, "cycle", "it follows this node", advice);
    // Whichever end saw it, the other one was told.
    eventually("the other end counts it", SOON, || {
        relays.iter().find(|node| node.counted(DOWNSTREAM_ENDED, "cycle") > 0)
    });
    let together = || relays.iter().all(|node| node.status().is_connected());
    eventually("the circle is open", SOON, || (!together()).then_some(()));
    for node in relays {
        node.assert_serves();
    }
}

fn run(arguments: &[&str], config: &Path) -> Output {
    let mut command = Command::new(binary("quicksilverd"));
    command.arg("--config").arg(config).args(arguments).output().unwrap()
}

#[test]
fn a_configuration_with_an_unknown_key() {
    let mut cluster = Cluster::new();
    let good = cluster.root("good").write_config();
    assert!(run(&["--check"], &good).status.success());
    assert!(!cluster.node("good").data_dir().exists(), "--check makes nothing");

    let bad = cluster.root("bad").set_literal("batch.window_sm", 5).write_config();
    let text = std::fs::read_to_string(&bad).unwrap();
    let line = 1 + text.lines().position(|line| line.starts_with("window_sm")).unwrap();
    for arguments in [&["--check"][..], &[]] {
        let output = run(arguments, &bad);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("batch.window_sm"), "{said}");
        assert!(said.contains(&format!("config.toml:{line}:")), "{said}");
        assert!(output.status.code().is_some_and(|code| code != 0), "{}", output.status);
    }
    let missing = run(&[], &cluster.path().join("nowhere.toml"));
    assert!(!missing.status.success());
    assert!(String::from_utf8_lossy(&missing.stderr).contains("nowhere.toml"));
}

#[test]
fn keys_and_values_that_are_too_large() {
    let mut cluster = Cluster::new();
    cluster.root("root").set_literal("limits.max_value_bytes", 1 << 20).start();
    let root = cluster.node("root");
    let mut client = root.client();
    for key in [&[b'k'; 512][..], b"", &[b'k'; 60_000]] {
        let refused = client.call(&[b"SET", key, b"value"]).unwrap();
        assert!(refused.error().contains("a key has 1 to 511 bytes"), "{refused:?}");
        let refused = client.call(&[b"GET", key]).unwrap();
        assert!(refused.error().contains("a key has 1 to 511 bytes"), "{refused:?}");
    }
    assert!(client.call(&[b"SET", &[b'k'; 511][..], b"value"]).unwrap().is_ok());
    let largest = vec![0; 1 << 20];
    assert!(client.call(&[b"SET", &b"key"[..], &largest]).unwrap().is_ok());

    // One byte more cannot be told from an attack: the connection goes too.
    let too_large = vec![0; (1 << 20) + 1];
    // What it sends after the answer is thrown away for a second only.
    let _ = client.send(&[b"SET", &b"key"[..], &too_large]);
    let refused = client.reply().unwrap();
    assert!(refused.error().contains("limits.max_value_bytes"), "{refused:?}");
    assert_eq!(client.rest().unwrap_or_default(), b"");
    root.await_log("limits.max_value_bytes", SOON);
    // A length that nobody could keep is refused before it is believed.
    let mut client = root.client();
    client.send_raw(b"*2\r\n$3\r\nGET\r\n$999999999999\r\n").unwrap();
    let refused = client.reply().unwrap();
    assert!(refused.error().contains("limits.max_value_bytes"), "{refused:?}");
    let mut client = root.client();
    assert_eq!(client.call(&["STRLEN", "key"]).unwrap(), Reply::Integer(1 << 20));
    root.assert_serves();
}

#[test]
fn garbage_on_every_socket() {
    let mut rng = seeded_rng();
    let mut cluster = Cluster::new();
    cluster.root("root");
    cluster.relay("relay", &["root"]);
    cluster.start_all();
    for round in 0..30 {
        for node in cluster.nodes() {
            for socket in ["replication", "client", "http"] {
                let mut bytes = random_bytes(&mut rng, 64 << (round % 8));
                match round % 5 {
                    // Frames, arrays and requests that begin plausibly.
                    1 => bytes[..12].copy_from_slice(&[16, 0, 0, 0, 1, 0, 0, 0, 9, 9, 9, 9]),
                    2 => bytes[..8].copy_from_slice(b"*3\r\n$3\r\n"),
                    3 => bytes[..12].copy_from_slice(&[255, 255, 255, 255, 4, 0, 0, 0, 1, 2, 3, 4]),
                    4 => bytes[..6].copy_from_slice(b"GET / "),
                    _ => {}
                }
                let mut stream = UnixStream::connect(node.socket(socket)).unwrap();
                // It may be closed before everything is written.
                let _ = stream.write_all(&bytes);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                stream.set_read_timeout(Some(SOON)).unwrap();
                let mut answer = Vec::new();
                let closed = stream.read_to_end(&mut answer);
                let stuck =
                    closed.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
                assert!(!stuck, "{} {socket} keeps garbage open", node.name());
            }
        }
    }
    assert!(cluster.node("root").client().call(&["SET", "still", "well"]).unwrap().is_ok());
    cluster.await_converged(SOON);
    for node in cluster.nodes() {
        await_refused_by(node, "malformed", "frame CRC is", SEE_THERE);
        node.await_log("client connection closed", SOON);
        node.assert_serves();
        node.reader().assert_verified();
    }
}

#[test]
fn arrays_within_arrays() {
    let mut cluster = Cluster::new();
    cluster.root("root").start();
    let root = cluster.node("root");
    let mut client = root.client();
    // The connection may be closed before everything is written.
    let _ = client.send_raw(&b"*1\r\n".repeat(100_000));
    let refused = client.reply().unwrap();
    assert!(refused.error().contains("nested arrays are not accepted"), "{refused:?}");
    root.await_log("nested arrays are not accepted", SOON);
    root.assert_serves();
}

#[test]
fn more_clients_than_there_may_be() {
    const MAX_CLIENTS: usize = 500;
    let mut cluster = Cluster::new();
    cluster.root("root").set_literal("limits.max_clients", MAX_CLIENTS).start();
    let root = cluster.node("root");
    let mut first = root.client();
    assert!(first.call(&["SET", "key", "value"]).unwrap().is_ok());
    let mut idle: Vec<Client> = (1..MAX_CLIENTS).map(|_| root.client()).collect();
    // The last of them is in when it is answered.
    assert_eq!(idle.last_mut().unwrap().call(&["PING"]).unwrap(), Reply::Simple("PONG".into()));
    for _ in 0..20 {
        let refused = root.client().reply().unwrap();
        assert!(refused.error().contains("max number of clients reached"), "{refused:?}");
    }
    root.await_log("limits.max_clients", SOON);
    assert_eq!(first.call(&["GET", "key"]).unwrap().text(), Some("value"));
    assert_eq!(root.get("/livez").status, 200);
    drop(idle);
    eventually("there is room again", SOON, || {
        let answer = root.client().call(&["GET", "key"]).ok()?;
        (answer.text() == Some("value")).then_some(())
    });
}

#[test]
fn connections_that_never_say_a_word() {
    let mut cluster = Cluster::new();
    cluster.root("root").set_literal("limits.max_downstreams", 100);
    cluster.relay("relay", &["root"]);
    cluster.start_all();
    let socket = cluster.node("root").socket("replication");
    let mut silent: Vec<UnixStream> =
        (0..200).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    assert!(cluster.node("root").client().call(&["SET", "still", "served"]).unwrap().is_ok());
    cluster.await_converged(SOON);
    // The handshake's deadline ends them, so that they cannot keep the real ones out for long.
    for stream in &mut silent {
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut answer = Vec::new();
        let closed = stream.read_to_end(&mut answer);
        assert!(
            !closed.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
            "a silent connection is kept open"
        );
    }
    let root = cluster.node("root");
    // What is counted as such has been so before its connection was closed.
    assert!(root.counted(DOWNSTREAM_ENDED, "no-hello") > 0);
    root.await_log("no Hello within", SOON);
    cluster.leaf("late", &["root"]).start();
    cluster.await_converged(SOON);
}

#[test]
fn more_downstreams_than_there_may_be() {
    let mut cluster = Cluster::new();
    cluster.root("root").set_literal("limits.max_downstreams", 1);
    cluster.leaf("first", &["root"]);
    cluster.start_all();
    cluster.node("first").await_status("it follows", SOON, |status| status.is_connected());
    cluster.leaf("second", &["root"]).start();
    let advice = "raise its limits.max_downstreams, or give this node another upstream";
    await_reason(cluster.node("second"), "busy", "busy", advice);
    let root = cluster.node("root");
    await_refused_by(
        root,
        "busy",
        "as many downstreams as it takes",
        "raise limits.max_downstreams",
    );
    cluster.node("second").assert_serves();
    assert!(cluster.node("root").client().call(&["SET", "still", "1"]).unwrap().is_ok());
    let index = cluster.node("root").status().index;
    cluster.node("first").await_index(index, SOON);
    // When there is room, the second one gets it.
    cluster.node_mut("first").term();
    cluster.await_converged(SOON);
}
