//! "Storage that needs no hands." A running tree is compacted and snapshotted by one command, under
//! writers, readers and downstreams; a machine begins with a snapshot; a reader that never lets go is
//! left behind; a process that is killed in the middle leaves nothing that the next one does not
//! clean up.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::PathBuf;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use quicksilver_tests::cluster::{Node, qsctl};
use quicksilver_tests::resp::Client;
use quicksilver_tests::{Cluster, SOON, eventually, random_bytes, seeded_rng};
use serde_json::Value;

const MIB: u64 = 1 << 20;

fn ok(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&ok(output)).unwrap()
}

fn at(node: &Node, arguments: &[&str]) -> Output {
    qsctl(&[&["--server", &node.address("client")], arguments].concat())
}

/// Writes so many values that do not compress, over so many keys.
fn fill(client: &mut Client, keys: u32, bytes: usize) {
    let mut rng = seeded_rng();
    for n in 0..keys {
        let value = random_bytes(&mut rng, bytes);
        client.send(&[b"SET", format!("key/{n}").as_bytes(), &value]).unwrap();
    }
    (0..keys).for_each(|_| assert!(client.reply().unwrap().is_ok()));
}

/// So that a failure does not wait for threads that wait for the end.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn generations(node: &Node) -> Vec<String> {
    let names = std::fs::read_dir(node.data_dir()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("gen-")).collect();
    names.sort();
    names
}

fn file_bytes(node: &Node) -> u64 {
    let generation = std::fs::read_to_string(node.data_dir().join("CURRENT")).unwrap();
    std::fs::metadata(node.data_dir().join(generation.trim()).join("data.mdb")).unwrap().len()
}

/// Story: root and leaf are compacted while clients write, a program reads every snapshot, and the
/// leaf follows. Nobody sees more of it than a smaller file.
#[test]
fn a_tree_is_compacted_under_load() {
    let mut cluster = Cluster::new();
    cluster.root("root").set_literal("batch.window_ms", 5).set_literal("retention.bytes", 2 * MIB);
    cluster.leaf("leaf", &["root"]).set_literal("retention.bytes", 2 * MIB);
    cluster.start_all();
    let mut client = cluster.node("root").client();
    // The leaf follows before the log goes on without it.
    assert!(client.call(&["SET", "first", "1"]).unwrap().is_ok());
    cluster.await_converged(SOON);
    fill(&mut client, 3000, 4000);
    for n in 0..2900 {
        client.send(&["DEL", &format!("key/{n}")]).unwrap();
    }
    (0..2900).for_each(|_| assert_eq!(client.reply().unwrap().error(), ""));
    cluster.await_converged(SOON);
    let ended = AtomicBool::new(false);
    let mut readers = ["root", "leaf"].map(|name| cluster.node(name).reader());
    readers.iter_mut().for_each(|reader| reader.send("group twin/ 2"));
    thread::scope(|scope| {
        let _end = EndOnDrop(&ended);
        let writer = scope.spawn(|| {
            let mut client = cluster.node("root").client();
            let mut n = 0;
            while !ended.load(Ordering::SeqCst) {
                n += 1;
                let n = n.to_string();
                assert!(client.call(&["MSET", "twin/a", &n, "twin/b", &n]).unwrap().is_ok());
            }
        });
        for name in ["root", "leaf"] {
            let node = cluster.node(name);
            for n in 2..5 {
                let before = file_bytes(node);
                let said = ok(&at(node, &["compact"]));
                assert!(said.contains(&format!("live is gen-{n:06}")), "{said}");
                assert_eq!(node.status().json["generation"], n);
                assert!(n > 2 || file_bytes(node) < before / 2, "{said}");
            }
        }
        ended.store(true, Ordering::SeqCst);
        writer.join().unwrap();
    });
    assert!(client.call(&["SET", "stop", "1"]).unwrap().is_ok());
    for reader in &mut readers {
        let said = reader.answer();
        assert!(said.starts_with("whole "), "{said}");
    }
    cluster.await_converged(SOON);
    for node in cluster.nodes() {
        eventually("the old generations are gone", SOON, || {
            (generations(node) == ["gen-000004"]).then_some(())
        });
        let status = node.status();
        let last = &status.json["maintenance"]["last"]["compaction"];
        assert_eq!((&last["ok"], &last["job"]), (&Value::from(true), &Value::from(3)));
        ok(&at(node, &["verify"]));
        assert!(
            node.get("/metrics")
                .body
                .contains("quicksilver_maintenance_last_ok{db=\"tests\",kind=\"verification\"} 1")
        );
    }
    // And the next run goes on in it.
    cluster.node_mut("root").term();
    cluster.node_mut("root").start();
    let mut client = cluster.node("root").client();
    assert!(client.call(&["SET", "later", "1"]).unwrap().is_ok());
    cluster.await_converged(SOON);
}

/// Story: a snapshot of a busy root is copied to a new machine with cp. A leaf there begins with it,
/// and follows. Then the root is lost; another is made of the snapshot, by hand, which is another past.
#[test]
fn a_machine_begins_with_a_snapshot() {
    let mut cluster = Cluster::new();
    cluster.root("root").set_literal("batch.window_ms", 5);
    cluster.root("other").set("db_id", "00000000-0000-4000-8000-00000000000f");
    cluster.leaf("leaf", &["root"]);
    cluster.node_mut("root").start();
    let root = cluster.node("root");
    let mut client = root.client();
    fill(&mut client, 500, 6000);
    let job = json(&at(root, &["snapshot", "create", "--json"]));
    assert_eq!(job["ok"], true);
    let list = json(&at(root, &["snapshot", "list", "--json"]));
    assert_eq!(list, json(&root.qsctl(&["snapshot", "list", "--json"])));
    let (info, status) = (&list[0], root.status());
    assert_eq!(info["name"], job["snapshot"]);
    assert_eq!(info["digest"], status.digest);
    assert_eq!((&info["index"], &info["keys"]), (&Value::from(500), &Value::from(500)));
    let name = info["name"].as_str().unwrap();
    let copy = cluster.path().join("copy.snapshot");
    std::fs::copy(root.data_dir().join("snapshots").join(name), &copy).unwrap();
    let copy = copy.to_str().unwrap();
    let checked = ok(&qsctl(&["snapshot", "verify", copy]));
    assert!(checked.starts_with("ok\n  index 500, 500 keys"), "{checked}");
    assert!(ok(&root.qsctl(&["snapshot", "verify", name])).starts_with("ok\n"));

    assert!(client.call(&["SET", "key/1", "later"]).unwrap().is_ok());
    let restored = ok(&cluster.node("leaf").qsctl(&["snapshot", "restore", copy]));
    assert!(restored.starts_with("restored 500 keys, index 500\nlive is gen-000001"), "{restored}");
    cluster.node_mut("leaf").start();
    let nodes = ["root", "leaf"].map(|name| cluster.node(name));
    eventually("the leaf follows", SOON, || {
        nodes[0].status().same_data(&nodes[1].status()).then_some(())
    });
    let mut reader = cluster.node("leaf").reader();
    assert_eq!(reader.ask("text key/1"), "text later");
    reader.assert_verified();
    assert_eq!(nodes[1].status().json["oldest_index"], 501, "its log begins with the snapshot");

    // Not over a replicator that runs, not over another database, not back in time.
    let refused = cluster.node("root").qsctl(&["snapshot", "restore", copy]);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    cluster.node_mut("other").start();
    cluster.node_mut("other").term();
    let refused = cluster.node("other").qsctl(&["snapshot", "restore", copy]);
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    cluster.node_mut("root").term();
    let root = cluster.node("root");
    let refused = root.qsctl(&["snapshot", "restore", copy]);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--rewind"), "{refused:?}");
    let history = root.qsctl(&["status", "--json"]);
    ok(&root.qsctl(&["snapshot", "restore", copy, "--rewind"]));
    let after = json(&root.qsctl(&["status", "--json"]));
    assert_eq!(after["index"], 500);
    assert_ne!(after["history"], json(&history)["history"]);
    ok(&root.qsctl(&["verify"]));
    cluster.node_mut("root").start();
    let root = cluster.node("root");
    assert!(root.client().call(&["SET", "key/1", "again"]).unwrap().is_ok());
    ok(&at(root, &["snapshot", "remove", name]));
    assert_eq!(json(&at(root, &["snapshot", "list", "--json"])), Value::Array(Vec::new()));
}

/// Story: a service stops, for good, inside a snapshot, while everything is written anew again and
/// again. It is left behind in the old generation; writes never stop, and the live file stays bounded.
#[test]
fn a_stopped_reader_is_left_behind() {
    const HOLD: u64 = 16 * MIB;
    let mut cluster = Cluster::new();
    cluster
        .root("root")
        .set_literal("batch.window_ms", 5)
        .set_literal("retention.bytes", MIB)
        .set_literal("limits.reader_hold_bytes", HOLD)
        .set_literal("compact.old_generation_seconds", 2)
        .set_literal("compact.auto", false);
    cluster.start_all();
    let root = cluster.node("root");
    let mut client = root.client();
    fill(&mut client, 500, 3000);
    let mut reader = root.reader();
    assert_eq!(reader.ask("hold"), "holding");
    let before = reader.ask("held key/1");
    reader.signal(Signal::SIGSTOP);
    let gone = format!("pid={}", reader.pid());
    eventually("it is left behind, and its generation goes", 4 * SOON, || {
        fill(&mut client, 500, 3000);
        let log = root.log_text();
        let warned =
            log.lines().any(|line| line.contains("an old generation goes") && line.contains(&gone));
        (warned && root.status().json["generation"] == 2).then_some(())
    });
    // Long after: nobody holds back the live one, whose pages are used again and again. What is
    // written is more than the file may have.
    const FILLS: u64 = 30;
    const { assert!(FILLS * 500 * 3000 > 2 * HOLD) };
    let mut largest = 0;
    for _ in 0..FILLS {
        fill(&mut client, 500, 3000);
        largest = largest.max(file_bytes(root));
    }
    assert_eq!(root.status().json["generation"], 2, "once is enough");
    assert!(largest < 2 * HOLD, "{largest} bytes");
    assert_eq!(generations(root), ["gen-000002"]);
    // It wakes up, still sees what it saw, and then what is.
    reader.signal(Signal::SIGCONT);
    assert_eq!(reader.ask("held key/1"), before);
    assert_eq!(reader.ask("release"), "released");
    let mut fresh = root.reader();
    assert_eq!(reader.ask("position"), fresh.ask("position"));
    reader.assert_verified();
}

/// Story: the process is killed while it compacts, and while it makes a snapshot. The next one serves
/// what was there, has removed the halves, and does it again.
#[test]
fn what_a_kill_leaves_is_cleaned_up() {
    let mut cluster = Cluster::new();
    cluster
        .root("root")
        .set_literal("compact.max_bytes_per_second", MIB)
        .set_literal("batch.window_ms", 5);
    cluster.start_all();
    let mut client = cluster.node("root").client();
    fill(&mut client, 6000, 4000);
    for (order, left) in [("QS.COMPACT", "gen-000002.new"), ("QS.SNAPSHOT", "snapshots")] {
        let root = cluster.node_mut("root");
        let mut client = root.client();
        let words: &[&str] = if order == "QS.COMPACT" { &[order] } else { &[order, "CREATE"] };
        client.send(words).unwrap();
        let digest = root.status().digest;
        let running = eventually("it runs", SOON, || {
            let running = root.status().json["maintenance"]["running"].clone();
            (running["done_bytes"].as_u64() > Some(0)).then_some(running)
        });
        assert!(running["eta_seconds"].as_f64() > Some(0.0), "{running}");
        let half = root.data_dir().join(left);
        assert!(half.exists());
        root.kill9();
        root.start();
        let nothing =
            |dir: &PathBuf| !dir.exists() || std::fs::read_dir(dir).unwrap().next().is_none();
        eventually("the half is gone", SOON, || {
            (nothing(&half) && generations(root) == ["gen-000001"]).then_some(())
        });
        assert_eq!(root.status().digest, digest);
    }
    let root = cluster.node_mut("root");
    root.set_literal("compact.max_bytes_per_second", 1_u64 << 40);
    root.term();
    root.start();
    ok(&at(root, &["compact"]));
    ok(&at(root, &["snapshot", "create"]));
    ok(&at(root, &["verify"]));
}

/// Story: a leaf's map is too small for what the root has. It serves what it has, and says so; started
/// with a larger map it goes on in a generation that has it, by itself.
#[test]
fn a_full_map_heals_with_a_larger_one() {
    let mut cluster = Cluster::new();
    cluster.root("root").set_literal("batch.window_ms", 5);
    cluster
        .leaf("leaf", &["root"])
        .set_literal("limits.max_value_bytes", MIB)
        .set_literal("batch.max_bytes", 2 * MIB)
        .set_literal("limits.max_db_bytes", MIB)
        .set_literal("retention.bytes", MIB)
        .set_literal("bootstrap.enabled", false)
        .set_literal("limits.map_bytes", 10 * MIB);
    cluster.start_all();
    let mut client = cluster.node("root").client();
    assert!(client.call(&["SET", "first", "there"]).unwrap().is_ok());
    cluster.await_converged(SOON);
    fill(&mut client, 4000, 4000);
    let leaf = cluster.node("leaf");
    leaf.await_status("it is full", SOON, |status| status.errors().contains("no space"));
    leaf.assert_serves();
    assert_eq!(leaf.client().call(&["GET", "first"]).unwrap().text(), Some("there"));
    cluster.node_mut("leaf").term();
    cluster.node_mut("leaf").set_literal("limits.map_bytes", 64 * MIB).start();
    cluster.await_converged(SOON);
    let leaf = cluster.node("leaf");
    assert_eq!(leaf.status().json["generation"], 2);
    leaf.reader().assert_verified();
}
