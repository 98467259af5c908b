//! "One writer, whatever happens to whom." Two processes of a root share their sockets, one of them
//! the writer and the other ready to take over. They are told to end and killed, at random moments
//! and at every system call of the hand-over, while clients write and read: nobody is refused,
//! nothing acknowledged is lost, and no two are the writer at once.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use quicksilver_tests::process::strace_works;
use quicksilver_tests::witness::{Connections, Tally, Witness, count_up, watch_count};
use quicksilver_tests::{Cluster, Process, SOON, eventually, http, seeded_rng, skipped, tenures};
use rand::Rng;

/// Longer than a hand-over takes.
const HAND_OVER_MS: u64 = 12;
const READY: &str = "standby: ready to take over";
const ROUNDS: usize = 40;

/// A root whose sockets are the test's, and its processes.
struct Pair {
    cluster: Cluster,
    writer: Process,
    standby: Process,
}

impl Pair {
    fn start() -> Pair {
        let mut cluster = Cluster::new();
        cluster.root("root").hand_over_sockets();
        let writer = cluster.node("root").start_another();
        await_serving(&cluster, writer.pid());
        let standby = start_standby(&cluster);
        Pair { cluster, writer, standby }
    }

    fn socket(&self) -> PathBuf {
        self.cluster.node("root").socket("client")
    }

    /// The standby is the writer now, and has a new one beside it.
    fn moved_on(&mut self) {
        await_serving(&self.cluster, self.standby.pid());
        let standby = start_standby(&self.cluster);
        self.writer = std::mem::replace(&mut self.standby, standby);
    }

    /// Nobody is left, perhaps: there are a writer and a standby again.
    fn begin_again(&mut self) {
        self.writer.kill9();
        self.standby.kill9();
        self.writer = self.cluster.node("root").start_another();
        await_serving(&self.cluster, self.writer.pid());
        self.standby = start_standby(&self.cluster);
    }
}

/// Waits until a process answers for itself.
fn await_serving(cluster: &Cluster, pid: u32) {
    eventually(&format!("process {pid} serves"), SOON, || {
        let status = cluster.node("root").try_status()?;
        (status.json["pid"] == pid).then_some(())
    });
}

fn start_standby(cluster: &Cluster) -> Process {
    let node = cluster.node("root");
    let before = node.log_text().matches(READY).count();
    let mut standby = node.start_another();
    eventually("the standby is ready", SOON, || {
        assert_eq!(standby.exited(), None, "{}", node.log_tail());
        (node.log_text().matches(READY).count() > before).then_some(())
    });
    standby
}

/// Writers and readers that notice everything, while `story` runs. They ask again as often as
/// processes may die in the time of one question.
fn under_load(pair: &mut Pair, retries: usize, story: impl FnOnce(&mut Pair, &AtomicU64)) {
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let (stop, acknowledged) = (&stop, &acknowledged);
    let socket = pair.socket();
    std::thread::scope(|scope| {
        let witness = |kind| Witness::new(&socket, kind).with_retries(retries);
        let writers = [("count/0", Connections::Kept), ("count/1", Connections::New)];
        let writers = writers.map(|(key, kind)| {
            let witness = witness(kind);
            (key, scope.spawn(move || count_up(witness, key, stop, acknowledged)))
        });
        let readers = [Connections::Kept, Connections::New].map(|kind| {
            let witness = witness(kind);
            scope.spawn(move || watch_count(witness, "count/0", stop))
        });
        // A story that panics ends the others, too.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            story(pair, acknowledged);
        }));
        stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for (key, writer) in writers {
            let (tally, last) = writer.join().unwrap();
            all = all.and(tally);
            if ended.is_ok() {
                let found = witness(Connections::New).ask(&["GET", key]).unwrap();
                assert_eq!(found.text(), Some(&*last.to_string()), "acknowledged of {key}");
            }
        }
        for reader in readers {
            all = all.and(reader.join().unwrap());
        }
        println!("{all}");
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
        assert!(all.problems.is_empty(), "{:#?}", all.problems);
    });
    let log = pair.cluster.node("root").log_text();
    println!("{} tenures, one after the other", tenures(&log, "/role.lock").len());
    pair.cluster.node("root").reader().assert_verified();
}

fn await_writes(acknowledged: &AtomicU64, count: u64) {
    let before = acknowledged.load(Ordering::Relaxed);
    eventually("writers go on", SOON, || {
        (acknowledged.load(Ordering::Relaxed) >= before + count).then_some(())
    });
}

#[test]
fn whoever_ends_or_dies_the_other_one_goes_on() {
    let mut rng = seeded_rng();
    let mut pair = Pair::start();
    under_load(&mut pair, 1, |pair, acknowledged| {
        for _ in 0..ROUNDS {
            await_writes(acknowledged, 5);
            match rng.random_range(0..4) {
                0 => {
                    assert!(pair.writer.term(SOON).success());
                    pair.moved_on();
                }
                1 => {
                    pair.writer.kill9();
                    pair.moved_on();
                }
                2 => {
                    pair.standby.kill9();
                    pair.standby = start_standby(&pair.cluster);
                }
                _ => {
                    assert!(pair.standby.term(SOON).success(), "a standby ends in order");
                    pair.standby = start_standby(&pair.cluster);
                }
            }
        }
    });
}

/// The writer is told to end, and within the hand-over one of the two is killed.
#[test]
fn either_is_killed_in_the_middle_of_a_hand_over() {
    let mut rng = seeded_rng();
    let mut pair = Pair::start();
    under_load(&mut pair, 3, |pair, acknowledged| {
        for _ in 0..ROUNDS {
            await_writes(acknowledged, 5);
            pair.writer.signal(Signal::SIGTERM);
            let at =
                Instant::now() + Duration::from_micros(rng.random_range(0..HAND_OVER_MS * 1000));
            while Instant::now() < at {
                std::hint::spin_loop();
            }
            if rng.random_bool(0.5) {
                pair.writer.kill9();
                pair.moved_on();
            } else {
                pair.standby.kill9();
                pair.begin_again();
            }
        }
    });
}

/// A process that is killed at its `when`th call of one kind.
fn killed_at(syscall: &str, when: usize) -> Vec<String> {
    let (trace, inject) =
        (format!("trace={syscall}"), format!("inject={syscall}:signal=KILL:when={when}"));
    ["strace", "-D", "-f", "-o", "/dev/null", "-e", &trace, "-e", &inject]
        .map(str::to_owned)
        .to_vec()
}

/// Every lock that is taken and released, every file that is opened and every socket that is begun to
/// be listened on, by whoever takes over: it dies there, and somebody else goes on.
#[test]
fn death_at_every_step_of_taking_over() {
    if !strace_works() {
        skipped("strace cannot trace here");
        return;
    }
    let steps = (1..=8).map(|n| ("flock", n)).chain((1..=10).map(|n| ("epoll_ctl", n)));
    let steps: Vec<_> = steps.chain((10..=70).step_by(6).map(|n| ("openat", n))).collect();
    let mut pair = Pair::start();
    under_load(&mut pair, 3, |pair, acknowledged| {
        for (syscall, when) in steps {
            pair.standby.term(SOON);
            pair.cluster.node_mut("root").wrap(killed_at(syscall, when));
            // It may die before it is ready; then nobody takes over, and the sockets keep everybody.
            let mut doomed = pair.cluster.node("root").start_another();
            let log = || pair.cluster.node("root").log_text().matches(READY).count();
            let ready = log();
            eventually("it is ready, or dead", SOON, || {
                (log() > ready || doomed.exited().is_some()).then_some(())
            });
            pair.cluster.node_mut("root").wrap::<String>([]);
            assert!(pair.writer.term(SOON).success());
            let began = Instant::now();
            // It serves, or has died on the way.
            while doomed.exited().is_none() && began.elapsed() < Duration::from_millis(100) {
                std::thread::yield_now();
            }
            doomed.kill9();
            pair.begin_again();
            await_writes(acknowledged, 2);
        }
    });
}

/// The same for whoever leaves: it dies at a lock that it takes or releases.
#[test]
fn death_at_every_step_of_leaving() {
    if !strace_works() {
        skipped("strace cannot trace here");
        return;
    }
    let mut pair = Pair::start();
    under_load(&mut pair, 3, |pair, acknowledged| {
        for when in 1..=10 {
            // The doomed one becomes the writer, and then is to leave.
            pair.standby.term(SOON);
            pair.writer.term(SOON);
            pair.cluster.node_mut("root").wrap(killed_at("flock", when));
            let mut doomed = pair.cluster.node("root").start_another();
            pair.cluster.node_mut("root").wrap::<String>([]);
            let before = acknowledged.load(Ordering::Relaxed);
            eventually("it serves, or is dead", SOON, || {
                let serves = acknowledged.load(Ordering::Relaxed) > before;
                (serves || doomed.exited().is_some()).then_some(())
            });
            pair.standby = pair.cluster.node("root").start_another();
            doomed.signal(Signal::SIGTERM);
            doomed.await_exit(SOON);
            await_serving(&pair.cluster, pair.standby.pid());
            let standby = start_standby(&pair.cluster);
            pair.writer = std::mem::replace(&mut pair.standby, standby);
            await_writes(acknowledged, 2);
        }
    });
}

/// Two processes are started at once where there is nothing yet.
#[test]
fn two_starts_at_once() {
    for _ in 0..10 {
        let mut cluster = Cluster::new();
        cluster.root("root").hand_over_sockets();
        let node = cluster.node("root");
        let mut both = [(); 2].map(|()| node.start_another());
        eventually("one of them serves, and the other is ready", SOON, || {
            let serves = http::get(&node.socket("http"), "/readyz").is_ok_and(|r| r.status == 200);
            (serves && node.log_text().contains(READY)).then_some(())
        });
        assert!(node.client().call(&["SET", "a", "1"]).unwrap().is_ok());
        let writer = node.status().json["pid"].as_u64().unwrap();
        let first = usize::from(u64::from(both[0].pid()) != writer);
        both[first].kill9();
        await_serving(&cluster, both[1 - first].pid());
        assert_eq!(cluster.node("root").client().call(&["GET", "a"]).unwrap().text(), Some("1"));
        assert_eq!(tenures(&cluster.node("root").log_text(), "/role.lock").len(), 2);
    }
}

/// A new program that cannot use the database says so and goes; the old one has noticed nothing.
#[test]
fn a_standby_that_fails_its_check_disturbs_nobody() {
    let mut pair = Pair::start();
    under_load(&mut pair, 1, |pair, acknowledged| {
        pair.standby.term(SOON);
        let root = pair.cluster.node_mut("root");
        root.set("db_id", "11111111-2222-3333-4444-555555555555");
        let mut wrong = root.start_another();
        assert!(!wrong.await_exit(SOON).success());
        root.await_log("the configuration says 11111111", SOON);
        root.set("db_id", quicksilver_tests::cluster::DB_ID);
        await_writes(acknowledged, 20);
        pair.standby = start_standby(&pair.cluster);
        assert!(pair.writer.term(SOON).success());
        pair.moved_on();
    });
}
