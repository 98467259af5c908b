//! "An operator sees and changes everything with one tool, and scripts can rely on its answers."
//! `qsctl` on a database of this machine and against the sockets of running nodes: what is
//! exported can be imported unchanged, whatever bytes it holds; exit codes tell a missing key
//! from a refusal, an outage and damage; and a bit that flips on the disk is an error, never a
//! value.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::process::Output;

use quicksilver_tests::cluster::{DB_ID, qsctl, qsctl_with_input};
use quicksilver_tests::{Cluster, SOON, random_bytes, seeded_rng};
use rand::Rng;
use serde_json::Value;

const OK: i32 = 0;
const NO_SUCH_KEY: i32 = 1;
const USAGE: i32 = 2;
const UNAVAILABLE: i32 = 3;
const CORRUPT_OR_DIVERGED: i32 = 4;
const REFUSED: i32 = 5;

fn assert_exit(output: &Output, code: i32, what: &str) {
    assert_eq!(output.status.code(), Some(code), "{what}: {output:?}");
}

fn root_and_leaf() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.root("root");
    cluster.leaf("leaf", &["root"]);
    cluster.start_all();
    cluster
}

#[test]
fn what_is_exported_can_be_imported() {
    let mut rng = seeded_rng();
    let from = root_and_leaf();
    let mut client = from.node("root").client();
    for n in 0..300 {
        let mut key = n.to_string().into_bytes();
        let (key_bytes, value_bytes) = (rng.random_range(0..100), rng.random_range(0..5000));
        key.extend(random_bytes(&mut rng, key_bytes));
        let value = random_bytes(&mut rng, value_bytes);
        assert!(client.call(&[b"SET", &key[..], &value]).unwrap().is_ok());
    }
    let expected = from.await_converged(SOON);
    let to = root_and_leaf();
    let to_root = to.node("root").address("client");
    for format in ["tsv", "jsonl"] {
        let exported = from.node("leaf").qsctl(&["export", "--format", format]);
        assert_exit(&exported, OK, format);
        let file = to.path().join(format!("pairs.{format}"));
        std::fs::write(&file, &exported.stdout).unwrap();
        let file = file.display().to_string();
        assert_exit(&qsctl(&["--server", &to_root, "import", &file]), OK, format);
        let state = to.await_converged(SOON);
        assert_eq!(state.keys, expected.keys);
        let again = to.node("leaf").qsctl(&["export", "--format", format]);
        assert_eq!(again.stdout, exported.stdout, "{format}");
        // The same again changes nothing.
        assert_exit(&qsctl(&["--server", &to_root, "import", &file]), OK, format);
        assert_eq!(to.await_converged(SOON).index, state.index);
    }
}

#[test]
fn exit_codes_tell_what_happened() {
    let mut cluster = root_and_leaf();
    let root = cluster.node("root").address("client");
    let leaf = cluster.node("leaf").address("client");
    assert_exit(&qsctl(&["--server", &root, "set", "key", "value"]), OK, "set");
    cluster.await_converged(SOON);
    let directory = cluster.node("leaf").data_dir().display().to_string();
    for place in [["--server", &leaf], ["--server", &root], ["--db", &directory]] {
        let found = qsctl(&[&place[..], &["get", "key", "--raw"]].concat());
        assert_exit(&found, OK, "get");
        assert_eq!(found.stdout, b"value", "{place:?}");
        let missing = qsctl(&[&place[..], &["get", "nobody"]].concat());
        assert_exit(&missing, NO_SUCH_KEY, "get of a missing key");
    }
    assert_exit(&qsctl(&["--server", &leaf, "set", "key", "one"]), OK, "a leaf names its root");
    let nowhere = format!("unix:{}", cluster.path().join("nowhere").display());
    let both = format!("{nowhere},{root}");
    assert_exit(&qsctl(&["--server", &both, "set", "key", "other"]), OK, "set, trying each");
    let large = cluster.path().join("large");
    std::fs::File::create(&large).unwrap().set_len((16 << 20) + 1).unwrap();
    let large = qsctl(&["--server", &root, "set", "key", "--file", large.to_str().unwrap()]);
    assert_exit(&large, REFUSED, "a value beyond the limit");
    assert_exit(&qsctl(&["--server", &root, "no-such-command"]), USAGE, "usage");
    let long = "k".repeat(512);
    assert_exit(&qsctl(&["--server", &root, "set", &long, "value"]), USAGE, "a long key");
    let once = ["--deadline", "0", "get", "key"];
    let alone = qsctl(&[&["--server", &nowhere], &once[..]].concat());
    assert_exit(&alone, UNAVAILABLE, "nobody there");
    let empty = cluster.path().join("empty").display().to_string() + "/";
    assert_exit(&qsctl(&["--db", &empty, "get", "key"]), UNAVAILABLE, "no database");
    assert_exit(&cluster.node("leaf").qsctl(&["verify"]), OK, "verify");

    // What is on this machine can be read when nothing runs at all.
    cluster.node_mut("root").term();
    cluster.node_mut("leaf").term();
    let found = cluster.node("leaf").qsctl(&["get", "key", "--raw"]);
    assert_eq!(found.stdout, b"other");
    let gone = qsctl(&[&["--server", &root], &once[..]].concat());
    assert_exit(&gone, UNAVAILABLE, "nobody runs");
}

#[test]
fn the_tool_and_the_socket_say_the_same() {
    let cluster = root_and_leaf();
    let mut client = cluster.node("root").client();
    assert!(client.call(&["SET", "key", "value"]).unwrap().is_ok());
    assert!(client.call(&["DEL", "key"]).is_ok());
    cluster.await_converged(SOON);
    for node in cluster.nodes() {
        let said = qsctl(&["--server", &node.address("client"), "status", "--json"]);
        assert_exit(&said, OK, "status");
        let said: Value = serde_json::from_slice(&said.stdout).unwrap();
        let shown = node.status().json;
        for name in ["name", "db_id", "node_id", "role", "state", "version", "index", "hash"] {
            assert_eq!(said[name], shown[name], "{name}");
        }
        for name in ["digest", "keys", "generation", "pid", "history", "oldest_index", "bytes"] {
            assert_eq!(said[name], shown[name], "{name}");
        }
        let directly = node.qsctl(&["status", "--json"]);
        assert_exit(&directly, OK, "status");
        let directly: Value = serde_json::from_slice(&directly.stdout).unwrap();
        for name in ["db_id", "index", "hash", "digest", "keys", "generation"] {
            assert_eq!(directly[name], shown[name], "{name}");
        }
        let log = node.qsctl(&["log"]);
        assert_exit(&log, OK, "log");
        assert_eq!(String::from_utf8_lossy(&log.stdout).lines().count(), 2, "{log:?}");
    }
}

#[test]
fn a_database_can_be_built_from_text_and_grown_by_a_root() {
    let mut cluster = Cluster::new();
    let data = cluster.root("root").data_dir();
    cluster.leaf("leaf", &["root"]);
    let lines: String = (0..5000).map(|n| format!("key/{}\tvalue {n}\n", n % 4000)).collect();
    let data = data.to_str().unwrap();
    let bad = qsctl_with_input(&["build", data], &(lines.clone() + "no tab\n"));
    assert_exit(&bad, USAGE, "a bad line");
    let said = String::from_utf8(bad.stderr).unwrap();
    assert!(said.contains("standard input, line 5001: no tab"), "{said}");

    let built = qsctl_with_input(&["build", data, "--json", "--db-id", DB_ID], &lines);
    assert_exit(&built, OK, "build");
    let built: Value = serde_json::from_slice(&built.stdout).unwrap();
    assert_eq!((&built["keys"], &built["index"]), (&Value::from(4000), &Value::from(5000)));
    let root = cluster.node("root");
    assert_eq!(root.qsctl(&["get", "key/7", "--raw"]).stdout, b"value 4007");
    assert_exit(&root.qsctl(&["verify"]), OK, "verify");
    assert_exit(&qsctl_with_input(&["build", data], &lines), REFUSED, "a second build");

    // A root goes on with it, and a leaf gets all of it.
    cluster.start_all();
    assert_eq!(cluster.node("root").status().digest, built["digest"].as_str().unwrap());
    let mut client = cluster.node("root").client();
    assert!(client.call(&["SET", "key/7", "later"]).unwrap().is_ok());
    assert_eq!(cluster.await_converged(SOON).index, 5001);
    let mut reader = cluster.node("leaf").reader();
    assert_eq!(reader.ask("text key/7"), "text later");
    assert_eq!(reader.ask("text key/8"), "text value 4008");
    reader.assert_verified();
}

/// A leaf's database is compacted between two runs of its replicator, while a program reads it: the
/// program goes on, in the new generation, and the leaf follows from where it was.
#[test]
fn a_database_is_compacted_under_a_program_that_reads_it() {
    let mut cluster = root_and_leaf();
    let mut client = cluster.node("root").client();
    for n in 0..20 {
        for key in 0..100 {
            let (key, value) = (format!("key/{key}"), format!("{n:0>500}"));
            client.send(&["SET", &key, &value]).unwrap();
        }
        (0..100).for_each(|_| assert!(client.reply().unwrap().is_ok()));
    }
    cluster.await_converged(SOON);
    let leaf = cluster.node("leaf");
    let mut reader = leaf.reader();
    assert_eq!(reader.ask("text key/7"), format!("text {:0>500}", 19));
    let before = reader.ask("position");
    assert_exit(&leaf.qsctl(&["compact"]), REFUSED, "compact beside the replicator");
    cluster.node_mut("leaf").term();

    let leaf = cluster.node("leaf");
    let size = |generation: &str| {
        std::fs::metadata(leaf.data_dir().join(generation).join("data.mdb")).unwrap().len()
    };
    let old = size("gen-000001");
    let compacted = leaf.qsctl(&["compact", "--json"]);
    assert_exit(&compacted, OK, "compact");
    assert!(size("gen-000002") <= old && !leaf.data_dir().join("gen-000001").exists());
    assert_eq!(reader.ask("position"), before);
    assert_eq!(reader.ask("text key/7"), format!("text {:0>500}", 19));
    reader.assert_verified();

    cluster.node_mut("leaf").start();
    assert!(client.call(&["SET", "key/7", "later"]).unwrap().is_ok());
    cluster.await_converged(SOON);
    reader.await_value("key/7", Some(b"later"), SOON);
}

#[test]
fn a_flipped_bit_is_an_error_and_never_a_value() {
    const VALUE: &[u8] = b"a value that can be found again in the file";
    let mut cluster = Cluster::new();
    cluster.root("root").start();
    let mut client = cluster.node("root").client();
    assert!(client.call(&[b"SET", &b"spoilt"[..], VALUE]).unwrap().is_ok());
    assert!(client.call(&["SET", "whole", "another value"]).unwrap().is_ok());
    cluster.node_mut("root").term();
    let root = cluster.node("root");
    assert_exit(&root.qsctl(&["verify"]), OK, "verify");

    let generation = std::fs::read_to_string(root.data_dir().join("CURRENT")).unwrap();
    let file = root.data_dir().join(generation.trim()).join("data.mdb");
    let mut bytes = std::fs::read(&file).unwrap();
    let found: Vec<usize> = bytes
        .windows(VALUE.len())
        .enumerate()
        .filter_map(|(at, window)| (window == VALUE).then_some(at))
        .collect();
    assert!(!found.is_empty(), "the value is in the file");
    for at in found {
        bytes[at + 5] ^= 4;
    }
    std::fs::write(&file, bytes).unwrap();

    let spoilt = root.qsctl(&["get", "spoilt"]);
    assert_exit(&spoilt, CORRUPT_OR_DIVERGED, "get");
    assert_eq!(spoilt.stdout, b"");
    let whole = root.qsctl(&["get", "whole", "--raw"]);
    assert_eq!(whole.stdout, b"another value", "{whole:?}");
    assert_exit(&root.qsctl(&["verify"]), CORRUPT_OR_DIVERGED, "verify");
    // A running node says so, too, and goes on serving the rest.
    cluster.node_mut("root").start();
    let mut client = cluster.node("root").client();
    let refused = client.call(&["GET", "spoilt"]).unwrap();
    assert!(refused.error().starts_with("CORRUPT"), "{refused:?}");
    assert_eq!(client.call(&["GET", "whole"]).unwrap().text(), Some("another value"));
}
