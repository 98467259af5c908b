//! "Batches are visible whole, to every reader, on every machine, in order." A writer sets
//! sixteen keys to one number with MSET, again and again, while other processes on a leaf take
//! snapshots: every snapshot shows sixteen equal numbers, and numbers never go back. Clients that
//! ask over the socket with MGET see the same.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quicksilver_tests::resp::{Client, Reply};
use quicksilver_tests::{Cluster, ReaderProcess, SOON, eventually};

const KEYS: usize = 16;
/// How long is written in one round.
const LOAD: Duration = Duration::from_secs(4);
/// Fewer, in all rounds, would prove nothing; thousands are usual in one.
const LEAST_SNAPSHOTS: u64 = 100;
const LEAST_NUMBERS: u64 = 20;

fn key(n: usize) -> String {
    format!("group-{n:02}")
}

/// What somebody who looks again and again has seen.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    snapshots: u64,
    /// Different ones.
    numbers: u64,
}

impl Seen {
    fn and(self, other: Seen) -> Seen {
        Seen { snapshots: self.snapshots + other.snapshots, numbers: self.numbers + other.numbers }
    }

    fn is_enough(&self) -> bool {
        self.snapshots >= LEAST_SNAPSHOTS && self.numbers >= LEAST_NUMBERS
    }
}

fn write_numbers(client: &mut Client) -> u64 {
    let end = Instant::now() + LOAD;
    let mut number = 0_u64;
    while Instant::now() < end {
        number += 1;
        // Every other time as a transaction of single writes.
        let value = number.to_string();
        if number.is_multiple_of(2) {
            let mut command = vec!["MSET".to_owned()];
            command.extend((0..KEYS).flat_map(|n| [key(n), value.clone()]));
            assert!(client.call(&command).unwrap().is_ok());
        } else {
            client.send(&["MULTI"]).unwrap();
            for n in (0..KEYS).rev() {
                client.send(&["SET", &key(n), &value]).unwrap();
            }
            client.send(&["EXEC"]).unwrap();
            let replies: Vec<Reply> = (0..KEYS + 2).map(|_| client.reply().unwrap()).collect();
            let last = replies.last().unwrap();
            assert!(
                matches!(last, Reply::Array(done) if done.iter().all(Reply::is_ok)),
                "{last:?}"
            );
        }
    }
    assert!(client.call(&["SET", "stop", "now"]).unwrap().is_ok());
    number
}

/// Asks with MGET until told to stop.
fn ask_for_groups(mut client: Client, stop: &AtomicBool) -> Seen {
    let mut command = vec!["MGET".to_owned()];
    command.extend((0..KEYS).map(key));
    let (mut last, mut seen) = (0, Seen::default());
    while !stop.load(Ordering::Relaxed) {
        let Reply::Array(values) = client.call(&command).unwrap() else { panic!("no array") };
        let number = match &values[0] {
            Reply::Nil => 0,
            value => value.text().unwrap().parse::<u64>().unwrap(),
        };
        assert!(values.iter().all(|value| *value == values[0]), "torn: {values:?}");
        assert!(number >= last, "went back from {last} to {number}");
        seen = seen.and(Seen { snapshots: 1, numbers: u64::from(number > last) });
        last = number;
    }
    seen
}

/// Writes while readers and clients look, and says what each of them has seen.
fn round(cluster: &Cluster, readers: &mut [ReaderProcess]) -> Vec<Seen> {
    let mut root = cluster.node("root").client();
    // Nobody looks while the group of the round before goes.
    let mut command = vec!["DEL".to_owned(), "stop".to_owned()];
    command.extend((0..KEYS).map(key));
    assert_eq!(root.call(&command).unwrap().error(), "");
    cluster.await_converged(SOON);
    // Before the first write, so that the group is complete or absent, never partly there.
    for reader in &mut *readers {
        reader.send(&format!("group group- {KEYS}"));
    }
    let stop = AtomicBool::new(false);
    let (last, mut seen) = std::thread::scope(|scope| {
        let asking = ["leaf-2", "root"].map(|node| {
            let (client, stop) = (cluster.node(node).client(), &stop);
            scope.spawn(move || ask_for_groups(client, stop))
        });
        let last = write_numbers(&mut root);
        stop.store(true, Ordering::Relaxed);
        (last, asking.map(|asking| asking.join().unwrap()).to_vec())
    });
    for reader in readers {
        let answer = reader.answer();
        let words: Vec<&str> = answer.split(' ').collect();
        let ["whole", snapshots, numbers, number, _] = words[..] else { panic!("{answer}") };
        println!("{answer}");
        assert_eq!(number, last.to_string());
        let [snapshots, numbers] = [snapshots, numbers].map(|count| count.parse().unwrap());
        seen.push(Seen { snapshots, numbers });
    }
    cluster.await_converged(SOON);
    seen
}

#[test]
fn every_snapshot_is_of_one_moment() {
    let cluster = Cluster::three_tiers();
    let mut readers = ["leaf-1", "leaf-1", "leaf-2", "root"].map(|n| cluster.node(n).reader());
    let mut seen = [Seen::default(); 6];
    // One round is enough, unless somebody stands still for most of it.
    eventually("everybody has seen enough", 2 * SOON, || {
        for (all, new) in seen.iter_mut().zip(round(&cluster, &mut readers)) {
            *all = all.and(new);
        }
        println!("{seen:?}");
        seen.iter().all(Seen::is_enough).then_some(())
    });
}

/// The check itself is checked: what is written key by key, in batches of its own, is seen torn.
#[test]
fn writes_that_are_no_transaction_are_seen_torn() {
    let mut cluster = Cluster::new();
    cluster.root("root").set_literal("batch.window_ms", 0);
    cluster.leaf("leaf", &["root"]);
    cluster.start_all();
    cluster.node("leaf").await_ready();
    let mut root = cluster.node("root").client();
    let mut reader = cluster.node("leaf").reader();
    reader.send(&format!("group group- {KEYS}"));
    for number in 0..50 {
        for n in 0..KEYS {
            assert!(root.call(&["SET", &key(n), &number.to_string()]).unwrap().is_ok());
        }
    }
    // A reader that was never there in between finds the last one half done.
    for n in 0..KEYS / 2 {
        assert!(root.call(&["SET", &key(n), "50"]).unwrap().is_ok());
    }
    assert!(root.call(&["SET", "stop", "now"]).unwrap().is_ok());
    let answer = reader.answer();
    assert!(answer.starts_with("torn at index "), "{answer}");
}
