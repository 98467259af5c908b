//! "Any node may be one release older or newer than the next." The release after this one does not
//! exist yet, so the same source is built as its own successor: it speaks one more protocol version
//! and can write one more format ([`Release::Next`]).
//!
//! Old and new nodes follow each other in either order. A node is upgraded in place, and downgraded
//! again after the new release has written: everything is there; by hand-over, too. Once an operator has finalised the
//! format of a node's files, and not before, the old release and readers of the old release are
//! refused, with an error that says so; other nodes do not notice.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use quicksilver::{Error, Reader};
use quicksilver_format::FormatError;
use quicksilver_format::meta::Format;
use quicksilver_lmdb::Transaction;
use quicksilver_tests::cluster::Node;
use quicksilver_tests::resp::Reply;
use quicksilver_tests::{
    Cluster, Process, Release, SOON, Status, eventually, random_bytes, seeded_rng, skipped,
};
use serde_json::Value;

/// The newest format and protocol version of this release, and of the next.
const THIS: u64 = 1;
const NEXT: u64 = 2;

/// Writes a little of everything: short and long, over something else, removed, together.
fn write(root: &Node, round: u32) {
    let mut rng = seeded_rng();
    let mut client = root.client();
    for (n, bytes) in [10, 2_500, 4_067, 4_068, 30_000].into_iter().enumerate() {
        let (key, value) = (format!("key/{n}"), random_bytes(&mut rng, bytes));
        assert!(client.call(&[b"SET", key.as_bytes(), &value]).unwrap().is_ok());
    }
    let (round, gone) = (round.to_string(), format!("gone/{round}"));
    let together = ["MSET", "round", &round, &format!("round/{round}"), "here", &gone, "soon"];
    assert!(client.call(&together).unwrap().is_ok());
    assert_eq!(client.call(&["DEL", &gone]).unwrap(), Reply::Integer(1));
}

/// Everything that was written in these rounds is there, in the memory that this release reads.
fn assert_reads(reader: &Reader, rounds: u32) {
    let text = |key: &str| reader.get(key.as_bytes()).unwrap();
    assert_eq!(text("round"), Some(rounds.to_string().into_bytes()));
    for round in 1..=rounds {
        assert_eq!(text(&format!("round/{round}")).as_deref(), Some(&b"here"[..]));
        assert_eq!(text(&format!("gone/{round}")), None);
    }
    assert_eq!(text("key/4").map(|value| value.len()), Some(30_000));
    let environment = reader.environment().unwrap();
    let report = quicksilver::verify::verify(&environment, |_| ()).unwrap();
    assert!(report.is_clean(), "{:?}", report.problems);
}

fn protocol(status: &Status) -> Option<u64> {
    status.json.pointer("/upstream/protocol")?.as_u64()
}

fn number(json: &Value, name: &str) -> u64 {
    json[name].as_u64().unwrap_or_else(|| panic!("no {name} in {json}"))
}

/// Runs a release's `qsctl` on a node's client socket.
fn qsctl(release: Release, node: &Node, arguments: &[&str]) -> Output {
    let mut command = Command::new(release.binary("qsctl"));
    command.env_remove("QS_DB").env_remove("QS_SERVER");
    command.args(["--server", &node.address("client")]).args(arguments);
    command.output().unwrap()
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// The record that says which format a node's files are in, and how many commits it counts, which
/// only the next format does.
fn in_the_files(node: &Node) -> (Format, Option<u64>) {
    let dir = node.data_dir();
    let generation = quicksilver::environment::live_generation(&dir).unwrap();
    let options = quicksilver_lmdb::EnvOptions { map_bytes: 0, ..Default::default() };
    let path = dir.join(generation.to_string());
    let env = quicksilver_lmdb::Env::open_reader(&path, &options).unwrap();
    let meta = env.open_bucket("meta").unwrap();
    let txn = env.read().unwrap();
    let format = Format::decode(txn.get(meta, Format::KEY).unwrap().unwrap()).unwrap();
    let commits = txn.get(meta, b"commits").unwrap();
    (format, commits.map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap())))
}

fn restart(cluster: &mut Cluster, node: &str, release: Release) {
    let node = cluster.node_mut(node);
    node.term();
    node.run_release(release).start();
}

/// Refuses to start, and says why.
fn assert_refuses_to_start(cluster: &mut Cluster, node: &str, release: Release) {
    let node = cluster.node_mut(node);
    let began = node.log_text().len();
    node.run_release(release).spawn();
    let status = node.await_exit(SOON);
    assert!(!status.success());
    let log = node.log_text().split_off(began);
    let expected = format!("in format {NEXT}");
    assert!(log.contains(&expected) && log.contains("finalised for a newer release"), "{log}");
    assert!(log.contains("upgrade this"), "{log}");
}

fn is_unreadable(error: &Error) -> bool {
    matches!(error, Error::Format { source: FormatError::UnreadableDatabase { .. }, .. })
}

/// new root → new relay, old relay → new leaf, old leaf: whoever is older decides what is spoken.
#[test]
fn old_and_new_nodes_follow_each_other() {
    for (root, other) in [(Release::Next, Release::This), (Release::This, Release::Next)] {
        let mut cluster = Cluster::new();
        cluster.root("root").run_release(root);
        cluster.relay("like-it", &["root"]).run_release(root);
        cluster.relay("other", &["root"]).run_release(other);
        cluster.leaf("below", &["other"]).run_release(root);
        cluster.start_all();
        write(cluster.node("root"), 1);
        cluster.await_converged(SOON);
        for (node, spoken) in [
            ("like-it", if root == Release::Next { NEXT } else { THIS }),
            ("other", THIS),
            ("below", THIS),
        ] {
            // A session may just have begun anew.
            let what = format!("protocol {spoken} below a root of {root:?}");
            let is_spoken = |status: &Status| protocol(status) == Some(spoken);
            let status = cluster.node(node).await_status(&what, SOON, is_spoken);
            assert_eq!(number(&status.json, "format"), THIS, "nobody has finalised anything");
            // Advice needs no version: it passes through relays of either release.
            let told = |status: &Status| status.json["quota"]["max_db_bytes"] == 8_u64 << 30;
            cluster.node(node).await_status("the root's quota", SOON, told);
        }
        // Whatever wrote it, this release reads it, and every tool understands every node.
        for node in cluster.nodes() {
            assert_reads(&Reader::open(node.data_dir()).unwrap(), 1);
            for release in [Release::This, Release::Next] {
                let status = json(&qsctl(release, node, &["status", "--json"]));
                assert_eq!(number(&status, "index"), node.status().index);
            }
        }
        cluster.node("root").assert_serves();
    }
}

/// A node of the old release is stopped, the new one is started on its files and writes; then the old
/// one again. A program that was linked with the old release's reader reads all the time.
#[test]
fn upgrade_in_place_and_back() {
    let mut cluster = Cluster::new();
    cluster.root("root");
    cluster.leaf("leaf", &["root"]);
    cluster.start_all();
    write(cluster.node("root"), 1);
    let mut before = cluster.await_converged(SOON);
    let readers = ["root", "leaf"].map(|node| Reader::open(cluster.node(node).data_dir()).unwrap());
    for (round, release) in [(2, Release::Next), (3, Release::This), (4, Release::Next)] {
        // The root first or the leaf first: in between they are a step apart.
        let order = if round == 3 { ["leaf", "root"] } else { ["root", "leaf"] };
        for node in order {
            restart(&mut cluster, node, release);
            let after = cluster.node(node).await_index(before.index, SOON);
            assert!(after.same_data(&before), "{node}: {after:?} after {before:?}");
            let newest = if release == Release::Next { NEXT } else { THIS };
            assert_eq!(number(&after.json, "format_newest"), newest);
            assert_eq!(number(&after.json, "format"), THIS);
        }
        write(cluster.node("root"), round);
        before = cluster.await_converged(SOON);
        readers.iter().for_each(|reader| assert_reads(reader, round));
        for node in cluster.nodes() {
            let (format, commits) = in_the_files(node);
            assert_eq!((u64::from(format.version), commits), (THIS, None), "{}", node.name());
            assert_reads(&Reader::open(node.data_dir()).unwrap(), round);
        }
    }
}

/// Story: everything was upgraded. The operator finalises a leaf, and later the root. The old release
/// is refused on the leaf's files from then on, and so are readers of the old release; a leaf that
/// is still of the old release does not notice any of it.
#[test]
fn after_finalising_there_is_no_way_back() {
    let mut cluster = Cluster::new();
    cluster.root("root").run_release(Release::Next);
    cluster.leaf("leaf", &["root"]).run_release(Release::Next);
    cluster.leaf("old", &["root"]);
    cluster.start_all();
    write(cluster.node("root"), 1);
    let before = cluster.await_converged(SOON);
    let leaf = cluster.node("leaf");
    let reader = Reader::open(leaf.data_dir()).unwrap();
    assert_reads(&reader, 1);

    // The old node has nothing to finalise, and says so; nothing changes.
    let nothing = qsctl(Release::This, cluster.node("old"), &["format", "finalize"]);
    assert!(nothing.status.success(), "{nothing:?}");
    assert!(String::from_utf8_lossy(&nothing.stdout).starts_with("nothing to finalise"));
    let shown = json(&qsctl(Release::This, leaf, &["format", "--json"]));
    assert_eq!(number(&shown, "format"), THIS);
    assert_eq!((number(&shown, "format_newest"), &shown["can_finalize"]), (NEXT, &true.into()));

    // The tool may be older than the node.
    let finalised = json(&qsctl(Release::This, leaf, &["format", "finalize", "--json"]));
    assert_eq!(finalised["finalized"], true);
    assert_eq!((number(&finalised, "from"), number(&finalised, "format")), (THIS, NEXT));
    let again = json(&qsctl(Release::Next, leaf, &["format", "finalize", "--json"]));
    assert_eq!(again["finalized"], false);
    assert_eq!(number(&leaf.status().json, "format"), NEXT);
    assert!(leaf.status().same_data(&before), "data, index and hash are what they were");
    assert_eq!(number(&cluster.node("root").status().json, "format"), THIS, "its own files only");

    // What reads with the old release's library is told soon, and refused when it opens.
    let deadline = Instant::now() + SOON;
    let refused = loop {
        match reader.get(b"round") {
            Ok(value) => assert_eq!(value.as_deref(), Some(&b"1"[..])),
            Err(refused) => break refused,
        }
        assert!(Instant::now() < deadline, "nobody told the reader");
    };
    assert!(is_unreadable(&refused), "{refused}");
    drop(reader);
    let refused = Reader::open(leaf.data_dir()).unwrap_err();
    assert!(is_unreadable(&refused), "{refused}");
    assert!(refused.to_string().contains("upgrade this program"), "{refused}");
    let told = leaf.qsctl(&["get", "round"]);
    assert_eq!(told.status.code(), Some(3), "{told:?}");

    // It goes on following, and keeps up what its format has; killed, it comes back to that.
    write(cluster.node("root"), 2);
    cluster.await_converged(SOON);
    let (format, commits) = in_the_files(cluster.node("leaf"));
    assert_eq!((u64::from(format.version), u64::from(format.readable_from)), (NEXT, NEXT));
    assert!(commits.is_some_and(|commits| commits > 0), "{commits:?}");
    cluster.node_mut("leaf").kill9();
    assert_refuses_to_start(&mut cluster, "leaf", Release::This);
    assert_eq!(in_the_files(cluster.node("leaf")), (format, commits), "nothing was touched");
    cluster.node_mut("leaf").run_release(Release::Next).start();

    // The root, at which the writer's thread is another one; the old leaf follows it still.
    let root = cluster.node("root");
    let finalised = qsctl(Release::Next, root, &["format", "finalize"]);
    let said = String::from_utf8_lossy(&finalised.stdout);
    assert_eq!(said, format!("finalised: format {THIS} before, {NEXT} now\n"));
    write(root, 3);
    let after = cluster.await_converged(SOON);
    assert_eq!(number(&root_status(&cluster), "format"), NEXT);
    assert_reads(&Reader::open(cluster.node("old").data_dir()).unwrap(), 3);
    cluster.node_mut("root").term();
    assert_refuses_to_start(&mut cluster, "root", Release::This);
    cluster.node_mut("root").run_release(Release::Next).start();
    assert!(cluster.node("root").status().same_data(&after));
    let nodes = cluster.nodes();
    eventually("both leaves are connected again", SOON, || {
        nodes[1..].iter().all(|node| node.status().is_connected()).then_some(())
    });
    write(cluster.node("root"), 4);
    cluster.await_converged(SOON);
}

/// Story: upgrades and downgrades by hand-over. The process that waits beside the writer is of the
/// other release, and takes over whatever it finds, until the format was finalised meanwhile.
#[test]
fn a_standby_of_another_release_takes_over_until_the_format_is_finalised() {
    let mut cluster = Cluster::new();
    cluster.root("root").hand_over_sockets();
    let mut writer = start_beside(&mut cluster, Release::This, None);
    for (round, release) in [(1, Release::Next), (2, Release::This), (3, Release::Next)] {
        write(cluster.node("root"), round);
        let before = cluster.node("root").status();
        let standby = start_beside(&mut cluster, release, Some(&writer));
        assert!(writer.term(SOON).success());
        writer = standby;
        await_serving(&cluster, &writer);
        assert!(cluster.node("root").status().same_data(&before));
        assert_reads(&Reader::open(cluster.node("root").data_dir()).unwrap(), round);
    }
    let mut standby = start_beside(&mut cluster, Release::This, Some(&writer));
    let root = cluster.node("root");
    let finalised = json(&qsctl(Release::Next, root, &["format", "finalize", "--json"]));
    assert_eq!(finalised["finalized"], true);
    assert!(writer.term(SOON).success());
    assert!(!standby.await_exit(SOON).success(), "{}", root.log_tail());
    root.await_log("finalised for a newer release", SOON);
    let _writer = start_beside(&mut cluster, Release::Next, None);
    write(cluster.node("root"), 4);
}

/// Starts another process of the root, which is to become the writer, or to wait beside that one.
fn start_beside(cluster: &mut Cluster, release: Release, writer: Option<&Process>) -> Process {
    const READY: &str = "standby: ready to take over";
    let node = cluster.node_mut("root").run_release(release);
    let before = node.log_text().matches(READY).count();
    let started = node.start_another();
    match writer {
        None => await_serving(cluster, &started),
        Some(_) => eventually("the standby is ready", SOON, || {
            let ready = cluster.node("root").log_text().matches(READY).count();
            (ready > before).then_some(())
        }),
    }
    started
}

/// Waits until a process answers for itself.
fn await_serving(cluster: &Cluster, process: &Process) {
    eventually("the process serves", SOON, || {
        let status = cluster.node("root").try_status()?;
        (status.json["pid"] == process.pid()).then_some(())
    });
}

fn root_status(cluster: &Cluster) -> Value {
    cluster.node("root").status().json
}

/// The files that are stored from this release, of a root and of a relay that has its last batch not
/// yet, are taken by both releases.
#[test]
fn stored_files_are_taken_by_both_releases() {
    if cfg!(not(target_arch = "x86_64")) {
        return skipped("the stored files are those of x86_64");
    }
    let stored = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/v1");
    let manifest = std::fs::read_to_string(stored.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    for (upstream, downstream) in [
        (Release::Next, Release::This),
        (Release::This, Release::Next),
        (Release::This, Release::This),
    ] {
        let mut cluster = Cluster::new();
        cluster.root("root").run_release(upstream);
        cluster.leaf("relay", &["root"]).run_release(downstream);
        for node in ["root", "relay"] {
            let node = cluster.node_mut(node);
            node.set("db_id", manifest["db_id"].as_str().unwrap());
            std::fs::create_dir(node.data_dir()).unwrap();
            let archive = stored.join(format!("{}.tar.gz", node.name()));
            let mut tar = Command::new("tar");
            tar.arg("-xzf").arg(archive).arg("-C").arg(node.data_dir());
            assert!(tar.status().unwrap().success());
        }
        cluster.start_all();
        let status = cluster.await_converged(SOON);
        assert_eq!(status.index, number(&manifest["root"], "index"));
        assert_eq!(status.hash, manifest["root"]["hash"].as_str().unwrap());
        assert_eq!(status.digest, manifest["root"]["digest"].as_str().unwrap());
        write(cluster.node("root"), 1);
        cluster.await_converged(SOON);
        for node in cluster.nodes() {
            assert_reads(&Reader::open(node.data_dir()).unwrap(), 1);
        }
    }
}
