//! "The power may go at any moment", with a real file system: ext4 on a file, which is shut down
//! without flushing anything while a writer commits, collects its log, switches generations, restores
//! a snapshot, or makes its first database. What it acknowledged through a pipe is there after the next mount.
//!
//! `QS_SEED` repeats what is written and after which word the power goes (not the scheduling of the
//! machine); `QS_POWER_CUTS` says how many cuts there are. It takes root; elsewhere it says so and
//! passes.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use quicksilver::build::snapshot;
use quicksilver_format::Index;
use quicksilver_tests::cluster::{Node, qsctl};
use quicksilver_tests::crash::power::Disk;
use quicksilver_tests::crash::steps::Workload;
use quicksilver_tests::crash::workload::{Word, acknowledged};
use quicksilver_tests::load::{Control, Promises, parse_dump, write_until_stopped};
use quicksilver_tests::process::{binary, test_binary};
use quicksilver_tests::{Cluster, Process, SOON, eventually, seeded_rng, skipped};
use rand::Rng;
use rand::rngs::StdRng;

/// Where nobody says otherwise.
const CUTS: usize = 100;
/// The time for those, and how many there must be however long they take.
const TIME: Duration = Duration::from_secs(60);
const FEWEST_CUTS: usize = 25;
/// After so many cuts a new database is begun.
const CUTS_OF_ONE: usize = 8;
/// Each takes a restart of the real program.
const CUTS_OF_A_NODE: usize = 20;

/// What somebody says.
fn cuts_wanted() -> Option<usize> {
    std::env::var("QS_POWER_CUTS").ok().map(|text| text.parse().unwrap())
}

/// A machine with one disk.
struct Machine {
    disk: Disk,
    rng: StdRng,
    seed: u64,
    data: PathBuf,
    /// What must be there.
    promised: Index,
}

impl Machine {
    fn new() -> Option<Machine> {
        let mut rng = seeded_rng();
        match Disk::new() {
            Ok(disk) => {
                let seed = rng.random();
                Some(Machine { disk, rng, seed, data: PathBuf::new(), promised: Index::ZERO })
            }
            Err(why) => {
                skipped(&format!("no power can be cut here: {why}"));
                None
            }
        }
    }

    fn begin_database(&mut self, number: usize) {
        self.data = self.disk.fresh_dir(&format!("database-{number}"), &self.data);
        self.promised = Index::ZERO;
    }

    /// A writer does these steps until the power goes, a moment after it has said so many words.
    fn cut(&mut self, steps: &[&str], words: usize) {
        let log = self.disk.path().with_extension("log");
        let mut command = Command::new(test_binary("qs-test-workload"));
        command.arg(&self.data).arg(self.seed.to_string()).args(steps);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut writer = Process::start_as_is(&mut command, &log);
        let said = listen(&mut writer);
        let mut heard: Vec<Word> =
            (0..words).map(|_| said.recv_timeout(SOON).expect("the writer goes on")).collect();
        // The moment is what is random here; nothing is waited for.
        let moment = Instant::now() + Duration::from_micros(self.rng.random_range(0..3_000));
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        self.disk.cut_power();
        // Without a disk it can do nothing but end; what it says until then, it may say.
        writer.kill9();
        heard.extend(said.iter());
        self.promised = self.promised.max(acknowledged(&heard));
        self.disk.restore_power();
    }

    /// The next start finds everything; or what is wrong.
    fn start(&mut self) -> Result<(), String> {
        let output = Command::new(test_binary("qs-test-crash-check"))
            .arg(&self.data)
            .args([self.seed, self.promised.get()].map(|number| number.to_string()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        match said.parse() {
            Ok(index) if output.status.success() => {
                self.promised = Index::new(index);
                Ok(())
            }
            _ => Err(format!("{said} ({})", output.status)),
        }
    }
}

fn listen(writer: &mut Process) -> Receiver<Word> {
    let (tell, told) = channel();
    let lines = BufReader::new(writer.child().stdout.take().unwrap()).lines();
    std::thread::spawn(move || {
        // A line that was cut off was not said.
        for word in lines.map_while(Result::ok).filter_map(|line| line.parse().ok()) {
            if tell.send(word).is_err() {
                break;
            }
        }
    });
    told
}

#[test]
fn cuts_of_a_real_file_system() {
    let Some(mut machine) = Machine::new() else { return };
    let (cuts, within) = cuts_wanted().map_or((CUTS, TIME), |cuts| (cuts, Duration::MAX));
    // A snapshot that is further than any database that has just begun.
    let ahead = Workload::new(machine.seed, &["commit=60", "snapshot"], &[]);
    let snapshot = snapshot::list(ahead.path()).unwrap().pop().unwrap().0;
    let restore = format!("restore={}", snapshot.display());
    let beginnings: [&[&str]; 2] = [&["forever"], &["commit=1", &restore, "rebuild", "forever"]];
    let switches = ["commit=2", "rebuild"].repeat(100);
    let continuations: [&[&str]; 2] = [&["forever"], &switches];
    let began = Instant::now();
    let mut done = 0;
    while done < cuts && (began.elapsed() < within || done < FEWEST_CUTS) {
        let (steps, words) = if done.is_multiple_of(CUTS_OF_ONE) {
            machine.begin_database(done);
            // The words before the first one that is about a commit, and a few more.
            (beginnings[done / CUTS_OF_ONE % 2], machine.rng.random_range(0..8))
        } else {
            (continuations[done % 2], machine.rng.random_range(2..25))
        };
        machine.cut(steps, words);
        done += 1;
        if let Err(problem) = machine.start() {
            panic!("cut {done}, after {words} words of {}: {problem}", steps[0]);
        }
    }
    println!("{done} cuts in {:.1?}, the last at {}", began.elapsed(), machine.promised);
}

/// The same with the real programs: a root whose disk loses its power, while clients write to it, a
/// relay and a leaf follow it, and now and then its database is compacted. What clients were promised
/// is there; nobody is ever ahead of the root that comes back.
#[test]
fn a_root_loses_no_acknowledged_write() {
    let Some(machine) = Machine::new() else { return };
    power_cuts_of("root", machine, |cut, root, followers| {
        for (name, index) in followers {
            assert!(
                *index <= root,
                "cut {cut}: {name} has {index}, the root came back with {root}"
            );
        }
    });
}

/// A relay whose disk loses its power may come back behind its leaf. It says where it is, and both
/// end where the root is.
#[test]
fn a_relay_comes_back_and_catches_up() {
    let Some(machine) = Machine::new() else { return };
    power_cuts_of("relay", machine, |_, _, _| {});
}

/// `look` is told which cut it was, with which index the victim came back, and which index each of the
/// others had while it was away.
fn power_cuts_of(victim: &str, mut machine: Machine, look: impl Fn(usize, u64, &[(String, u64)])) {
    const WRITERS: usize = 2;
    let cuts = cuts_wanted().map_or(CUTS_OF_A_NODE, |cuts| cuts / 5);
    let mut cluster = Cluster::new();
    let data = machine.disk.path().join(victim);
    cluster.root("root").set_literal("batch.window_ms", 0);
    cluster.relay("relay", &["root"]);
    cluster.leaf("leaf", &["relay"]);
    // A log that does not grow as long as the test takes, and is longer than anybody is behind.
    cluster
        .node_mut(victim)
        .set("data_dir", data.display())
        .set_literal("retention.bytes", 32 << 20);
    cluster.start_all();
    let control = Control::default();
    let socket = cluster.node("root").socket("client");
    let seeds: Vec<u64> = (0..WRITERS).map(|_| machine.rng.random()).collect();
    let promises: Vec<Promises> = std::thread::scope(|scope| {
        let (socket, control) = (&socket, &control);
        let writers: Vec<_> = seeds
            .iter()
            .enumerate()
            .map(|(n, &seed)| {
                let name = format!("w{n}");
                scope.spawn(move || write_until_stopped(&name, socket, seed, control))
            })
            .collect();
        // A failure below must not leave the writers running: the scope would wait for ever.
        let stop = StopOnDrop(control);
        for cut in 0..cuts {
            let mut compaction = cut.is_multiple_of(2).then(|| compact(&cluster, victim));
            let before = control.acknowledged.load(Ordering::Relaxed);
            let enough = before + machine.rng.random_range(1..1_000);
            eventually("writes are acknowledged", SOON, || {
                (control.acknowledged.load(Ordering::Relaxed) >= enough).then_some(())
            });
            // Some are while the next generation is made, and some when it has just become live.
            if let Some(compaction) = compaction.as_mut().filter(|_| cut.is_multiple_of(4)) {
                assert!(compaction.await_exit(SOON).success(), "{}", compaction.log_text());
            }
            machine.disk.cut_power();
            cluster.node_mut(victim).kill9();
            drop(compaction);
            machine.disk.restore_power();
            // Clients write again before the start has returned: what is compared is what was there
            // before.
            let others = cluster.nodes().iter().filter(|node| node.is_running());
            let others: Vec<_> =
                others.map(|node| (node.name().to_owned(), node.status().index)).collect();
            cluster.node_mut(victim).start();
            look(cut, index_when_opened(cluster.node(victim)), &others);
        }
        drop(stop);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let state = cluster.await_converged(SOON);
    let generation = cluster.node(victim).status().json["generation"].as_u64().unwrap();
    println!("{} keys, index {}, generation {generation}", state.keys, state.index);
    assert!(generation > cuts as u64 / 4, "compactions that had ended are gone");
    let verified = qsctl(&["--db", &data.display().to_string(), "verify"]);
    assert!(verified.status.success(), "{verified:?}");
    let dump = cluster.path().join("dump");
    let mut reader = cluster.node("leaf").reader();
    assert_eq!(reader.ask(&format!("dump {}", dump.display())), format!("dumped {}", state.keys));
    let found = parse_dump(&std::fs::read_to_string(&dump).unwrap());
    for written in &promises {
        assert!(!written.is_empty());
        let broken = written.broken_by(&found);
        assert!(broken.is_empty(), "{}", broken.join("\n"));
    }
}

/// What a node found in its database when it was started last, before it accepted anything.
fn index_when_opened(node: &Node) -> u64 {
    let log = node.log_text();
    let line = log.lines().rfind(|line| line.contains(": opened name=")).unwrap();
    let index = line.split(' ').find_map(|word| word.strip_prefix("index="));
    index.unwrap().parse().unwrap()
}

struct StopOnDrop<'c>(&'c Control);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Has a node make its next generation; nobody waits for that.
fn compact(cluster: &Cluster, node: &str) -> Process {
    let node = cluster.node(node);
    let mut command = Command::new(binary("qsctl"));
    command.args(["--server", &node.address("client"), "compact"]);
    Process::start(&mut command, &cluster.path().join("compact.log"))
}

/// The mistake that it is for, and that it would be seen.
#[test]
fn acknowledging_before_the_commit_is_seen() {
    let Some(mut machine) = Machine::new() else { return };
    machine.begin_database(0);
    let problem = (0..CUTS).find_map(|_| {
        let words = machine.rng.random_range(3..10);
        machine.cut(&["early=100000"], words);
        machine.start().err()
    });
    println!("{problem:?}");
    assert!(problem.is_some_and(|problem| problem.contains("lost: ")));
}

#[test]
fn nothing_is_left_mounted() {
    let Some(machine) = Machine::new() else { return };
    let path = machine.disk.path();
    assert!(is_mounted(&path));
    drop(machine);
    assert!(!is_mounted(&path));
}

fn is_mounted(path: &Path) -> bool {
    std::fs::read_to_string("/proc/thread-self/mounts")
        .unwrap()
        .contains(&*path.display().to_string())
}
