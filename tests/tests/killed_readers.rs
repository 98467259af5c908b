//! "A service that crashes while it reads is nobody else's problem." Five hundred reader processes
//! are killed with SIGKILL, one after the other, on a root and a leaf under write load: some while
//! they hold a snapshot, some in the middle of taking and dropping snapshots as fast as they can,
//! some at any moment of opening the database. Every write succeeds, the other readers read, the
//! slots of the dead are free again within seconds, and the files stay as small as the few seconds
//! between two looks at the reader table keep them.
//!
//! `QS_SEED` repeats the choice of victims, of their deaths and of the moments (not the scheduling
//! of the machine).
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quicksilver_tests::cluster::Node;
use quicksilver_tests::process::{Process, test_binary};
use quicksilver_tests::resp::Client;
use quicksilver_tests::{Cluster, ReaderProcess, SOON, eventually, random_bytes, seeded_rng};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

const KILLS: usize = 500;
/// What the writes of the few seconds between two looks come to, twice over.
const MOST_FILE_BYTES: u64 = 64 << 20;
/// Between two questions to those who are not killed.
const LOOK_EVERY: usize = 25;
const NODES: [&str; 2] = ["root", "leaf"];
const KEYS: usize = 100;
const VALUE_BYTES: usize = 3000;

/// Overwrites the same keys until it is told to stop; every write has to succeed.
fn churn(socket: &Path, seed: u64, stop: &AtomicBool, written: &AtomicU64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut client = Client::connect(socket).unwrap();
    while !stop.load(Ordering::Relaxed) {
        let key = format!("key-{:03}", rng.random_range(0..KEYS));
        let reply = client.call(&[b"SET", key.as_bytes(), &random_bytes(&mut rng, VALUE_BYTES)]);
        assert!(reply.as_ref().is_ok_and(|reply| reply.is_ok()), "{reply:?}");
        written.fetch_add(1, Ordering::Relaxed);
    }
}

struct StopOnDrop<'s>(&'s AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Starts a reader and kills it in one of three ways; its pid.
fn kill_one(node: &Node, rng: &mut StdRng) -> u32 {
    let moment = Duration::from_micros(rng.random_range(0..30_000));
    match rng.random_range(0..3) {
        0 => {
            let mut reader = node.reader();
            assert_eq!(reader.ask("hold"), "holding");
            reader.kill9();
            reader.pid()
        }
        1 => {
            let mut reader = node.reader();
            reader.send("group nothing 3");
            std::thread::sleep(moment);
            reader.kill9();
            reader.pid()
        }
        _ => {
            let mut command = Command::new(test_binary("qs-test-reader"));
            command.arg(node.data_dir()).stdin(Stdio::piped()).stdout(Stdio::null());
            let mut process = Process::start_as_is(&mut command, Path::new("/dev/null"));
            std::thread::sleep(moment);
            process.kill9();
            process.pid()
        }
    }
}

fn file_bytes(node: &Node) -> u64 {
    let generation = std::fs::read_to_string(node.data_dir().join("CURRENT")).unwrap();
    let data = node.data_dir().join(generation.trim()).join("data.mdb");
    std::fs::metadata(data).unwrap().len()
}

/// Who is in the reader table.
fn pids_in_table(node: &Node) -> BTreeSet<u32> {
    let output = node.qsctl(&["readers", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let readers = said["readers"].as_array().unwrap().iter();
    readers.filter_map(|reader| u32::try_from(reader["pid"].as_u64()?).ok()).collect()
}

#[test]
fn five_hundred_readers_are_killed_and_nobody_else_notices() {
    let mut rng = seeded_rng();
    let mut cluster = Cluster::new();
    // A short log, so that what grows is what readers hold back, and a pace that is the same on
    // every disk.
    cluster.root("root").set_literal("batch.window_ms", 5).set_literal("retention.bytes", 1 << 20);
    cluster.leaf("leaf", &["root"]).set_literal("retention.bytes", 1 << 20);
    cluster.start_all();
    cluster.await_converged(SOON);
    let nodes = NODES.map(|name| cluster.node(name));
    let mut witnesses: Vec<ReaderProcess> = nodes.iter().map(|node| node.reader()).collect();
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let (socket, seed) = (nodes[0].socket("client"), rng.random());

    std::thread::scope(|scope| {
        scope.spawn(|| churn(&socket, seed, &stop, &written));
        let _stop = StopOnDrop(&stop);
        let started = Instant::now();
        let mut dead = BTreeSet::new();
        let (mut written_before, mut most_slots) = (0, 0);
        for n in 0..KILLS {
            dead.insert(kill_one(nodes[rng.random_range(0..nodes.len())], &mut rng));
            if n % LOOK_EVERY != 0 {
                continue;
            }
            for witness in &mut witnesses {
                let answer = witness.ask("get key-000");
                assert!(answer == "none" || answer.starts_with("value 3000:"), "{n}: {answer}");
            }
            let written = eventually("writes go on", SOON, || {
                let written = written.load(Ordering::Relaxed);
                (written > written_before).then_some(written)
            });
            written_before = written;
            let used = nodes[0].status().json["readers"]["used"].as_u64().unwrap();
            most_slots = used.max(most_slots);
            for node in nodes {
                let bytes = file_bytes(node);
                assert!(bytes <= MOST_FILE_BYTES, "{}: {bytes} after {n} kills", node.name());
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        println!("{KILLS} kills in {seconds:.1} s, {written_before} writes, {most_slots} slots");

        let killed = Instant::now();
        for node in nodes {
            eventually("the slots of the dead are free", SOON, || {
                pids_in_table(node).is_disjoint(&dead).then_some(())
            });
        }
        println!("their slots were free after {:.1} s", killed.elapsed().as_secs_f64());
        for node in nodes {
            let name = node.name();
            println!("{name}: {} bytes", file_bytes(node));
            // While a dead reader holds its pages, each of these writes needs new ones.
            eventually(&format!("the file of {name} stops growing"), 2 * SOON, || {
                let (bytes, written_before) = (file_bytes(node), written.load(Ordering::Relaxed));
                eventually("writes go on", SOON, || {
                    (written.load(Ordering::Relaxed) >= written_before + 50).then_some(())
                });
                (file_bytes(node) == bytes).then_some(())
            });
        }
    });

    assert!(written.load(Ordering::Relaxed) > 0);
    cluster.await_converged(SOON);
    witnesses.iter_mut().for_each(|witness| drop(witness.assert_verified()));
}
