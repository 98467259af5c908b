//! "A root that restarts is latency, and no failure." Producers write through `Writer`, and one
//! through `qsctl import`, while the root is ended again and again, by turns with SIGKILL and with
//! SIGTERM: every call succeeds, and afterwards everything is there. Once the listening sockets
//! outlive the process, as they do under systemd; once they do not, and connects are refused
//! between two runs. Only a conditional write may say that it does not know.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ChildStdin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use quicksilver::writer::WriterOptions;
use quicksilver::{Reader, Writer, writer};
use quicksilver_tests::cluster::{Node, qsctl_fed};
use quicksilver_tests::{Cluster, SOON, eventually};

const RESTARTS: usize = 20;
/// Between two restarts.
const CALLS: u64 = 20;

/// What the threads of a test share.
#[derive(Debug, Default)]
struct Progress {
    stop: AtomicBool,
    done: AtomicU64,
}

impl Progress {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn count(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until so many calls more have succeeded.
    fn await_more(&self, calls: u64) {
        let wanted = self.done.load(Ordering::Relaxed) + calls;
        eventually("the producers go on", SOON, || {
            (self.done.load(Ordering::Relaxed) >= wanted).then_some(())
        });
    }
}

struct StopOnDrop<'p>(&'p Progress);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// A restart is to be outlived on a slow machine, too.
fn patient() -> WriterOptions {
    Writer::options().deadline(SOON)
}

/// What the database must hold: `None` is "no such key".
type Expected = BTreeMap<String, Option<String>>;

/// One call of each kind after the other, each of which has to succeed.
fn produce(servers: &[String], progress: &Progress) -> (Expected, Duration) {
    let mut writer = patient().connect(servers).unwrap();
    let mut expected = Expected::new();
    let (mut last, mut longest) = (quicksilver::Index::ZERO, Duration::ZERO);
    for n in 0_u64.. {
        if !progress.goes_on() {
            break;
        }
        let [one, two] = [format!("one/{n}"), format!("two/{n}")];
        let old = format!("one/{}", n.saturating_sub(4));
        let gone = [format!("one/{}", n.saturating_sub(3)), format!("two/{}", n.saturating_sub(2))];
        let value = n.to_string();
        let began = Instant::now();
        let index = match n % 4 {
            0 => Some(writer.set(&one, &value).unwrap()),
            1 => Some(writer.set_many([(&one, &value), (&two, &value)]).unwrap()),
            2 => Some(writer.apply([(&one, Some(&value)), (&old, None)]).unwrap()),
            _ => {
                // Done and not heard of, then done again: it counts fewer.
                assert!(writer.del(&gone).unwrap() <= 2);
                None
            }
        };
        longest = longest.max(began.elapsed());
        progress.count();
        if let Some(index) = index {
            assert!(index >= last, "index {index} after {last}: an acknowledged write is gone");
            last = index;
        }
        match n % 4 {
            0 => drop(expected.insert(one, Some(value))),
            1 => expected.extend([(one, Some(value.clone())), (two, Some(value))]),
            2 => expected.extend([(one, Some(value)), (old, None)]),
            _ => expected.extend(gone.map(|key| (key, None))),
        }
    }
    (expected, longest)
}

/// Conditional writes to keys of its own: each is stored, or was perhaps stored and says so.
fn produce_carefully(servers: &[String], progress: &Progress) -> (Vec<String>, u64) {
    let mut writer = patient().connect(servers).unwrap();
    let (mut stored, mut unknown) = (Vec::new(), 0);
    for n in 0.. {
        if !progress.goes_on() {
            break;
        }
        let key = format!("careful/{n}");
        match writer.set_if_absent(&key, "me") {
            Ok(true) => stored.push(key),
            Ok(false) => panic!("{key} was sent twice"),
            Err(writer::Error::Unknown { .. }) => unknown += 1,
            Err(error) => panic!("{error}"),
        }
        progress.count();
    }
    (stored, unknown)
}

fn end(node: &mut Node, restart: usize) {
    if restart.is_multiple_of(2) {
        node.kill9();
    } else {
        node.term();
    }
}

fn twenty_restarts(sockets_outlive_it: bool) {
    let mut cluster = Cluster::new();
    if sockets_outlive_it {
        cluster.root("root").hand_over_sockets();
    } else {
        cluster.root("root");
    }
    cluster.start_all();
    let nowhere = format!("unix:{}", cluster.path().join("nowhere").display());
    let servers = [nowhere, cluster.node("root").address("client")];
    let (progress, careful) = (Progress::default(), Progress::default());
    let ((expected, longest), (stored, unknown)) = thread::scope(|scope| {
        let stop = [StopOnDrop(&progress), StopOnDrop(&careful)];
        let producing = scope.spawn(|| produce(&servers, &progress));
        let producing_carefully = scope.spawn(|| produce_carefully(&servers, &careful));
        for n in 0..RESTARTS {
            [&progress, &careful].into_iter().for_each(|producer| producer.await_more(CALLS));
            let root = cluster.node_mut("root");
            end(root, n);
            root.start();
        }
        [&progress, &careful].into_iter().for_each(|producer| producer.await_more(CALLS));
        drop(stop);
        (producing.join().unwrap(), producing_carefully.join().unwrap())
    });
    let calls = progress.done.load(Ordering::Relaxed);
    println!(
        "{calls} calls, the longest {longest:?}; {} conditional ones, unknown: {unknown}",
        stored.len()
    );
    // A kill takes at most the command that was under way, and the one after it, whose connection was
    // queued at the socket in the moment before that closed too.
    assert!(unknown <= 2 * RESTARTS as u64, "{unknown} conditional writes do not know");
    let reader = Reader::open(cluster.node("root").data_dir()).unwrap();
    for (key, value) in expected {
        let found = reader.get(key.as_bytes()).unwrap();
        assert_eq!(found.as_deref(), value.as_deref().map(str::as_bytes), "{key}");
    }
    for key in stored {
        assert_eq!(reader.get(key.as_bytes()).unwrap().as_deref(), Some(&b"me"[..]), "{key}");
    }
}

#[test]
fn every_call_succeeds_when_sockets_outlive_the_process() {
    twenty_restarts(true);
}

#[test]
fn every_call_succeeds_when_connects_are_refused_meanwhile() {
    twenty_restarts(false);
}

/// Nobody told the producer where the root is.
#[test]
fn a_relay_is_enough_to_find_the_root() {
    let mut cluster = Cluster::new();
    cluster.root("root");
    cluster.leaf("leaf", &["root"]);
    cluster.start_all();
    let leaf = cluster.node("leaf").address("client");
    cluster.node("leaf").await_ready();
    let mut writer = patient().connect([&leaf]).unwrap();
    let reader = Reader::open(cluster.node("leaf").data_dir()).unwrap();
    for n in 0..3 {
        let index = writer.set("key", n.to_string()).unwrap();
        assert!(reader.wait_for(index, SOON).unwrap() >= index);
        assert_eq!(reader.get(b"key").unwrap().as_deref(), Some(n.to_string().as_bytes()));
        let root = cluster.node_mut("root");
        end(root, n);
        root.start();
    }
}

/// Writes lines for an import until told to stop, and returns how many.
fn feed(stdin: &mut ChildStdin, progress: &Progress) -> u64 {
    let mut lines = 0;
    while progress.goes_on() {
        let more = lines..lines + 1000;
        lines = more.end;
        let text: String = more.map(|n| format!("key/{n}\tvalue {n}\n")).collect();
        // Who has ended early says why.
        if stdin.write_all(text.as_bytes()).is_err() {
            break;
        }
    }
    lines
}

#[test]
fn an_import_goes_on() {
    const BETWEEN: u64 = 2000;
    let mut cluster = Cluster::new();
    cluster.root("root").hand_over_sockets();
    cluster.start_all();
    let server = cluster.node("root").address("client");
    // There is always more to import until the last restart is over.
    let progress = Progress::default();
    let (output, lines) = thread::scope(|scope| {
        let stop = StopOnDrop(&progress);
        let importing = scope.spawn(|| {
            let arguments = ["--server", &server, "--deadline", "60", "--json"];
            let arguments = [&arguments[..], &["import", "-", "--batch", "10"]].concat();
            qsctl_fed(&arguments, |stdin| feed(stdin, &progress))
        });
        for n in 0..6 {
            let root = cluster.node_mut("root");
            let index = root.status().index;
            root.await_index(index + BETWEEN, SOON);
            end(root, n);
            root.start();
        }
        drop(stop);
        importing.join().unwrap()
    });
    assert!(output.status.success(), "{output:?}");
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("{said}");
    assert_eq!(said["entries"], lines);
    assert_eq!(cluster.node("root").status().keys, lines);
    let reader = Reader::open(cluster.node("root").data_dir()).unwrap();
    for n in 0..lines {
        let found = reader.get(format!("key/{n}").as_bytes()).unwrap();
        assert_eq!(found.as_deref(), Some(format!("value {n}").as_bytes()));
    }
}
