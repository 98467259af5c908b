//! "Services come and go on a machine, all at once, and nobody trips over another." Many processes
//! open a database, read, and close it as fast as they can, are ended and replaced, first beside a
//! live root, then with nobody who stays, so that the last one out closes the database for all.
//! Every open and read succeeds, no value goes back in time, no reader slot is lost, no process
//! crashes, and the database verifies.
//!
//! LMDB 0.9.26 to 0.9.31 destroys the mutexes in `lock.mdb` when its last user closes it, while
//! another process may be opening it; `open.lock` is there for that. The system's LMDB (0.9.24 on
//! Debian 12) destroys nothing, so with it this shows that the lock itself is in nobody's way. With
//! `QS_LMDB_DIR` naming a directory with another `liblmdb.so.0`, the processes use that one, and a
//! run without the lock shows that the race is there to be lost; `scripts/lmdb-race` does so with
//! 0.9.29 and 0.9.31.
//!
//! `QS_SEED` repeats who is replaced when (not the scheduling of the machine).
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use quicksilver::build::{Builder, Options};
use quicksilver::{Reader, verify};
use quicksilver_tests::process::{Process, test_binary};
use quicksilver_tests::{Cluster, SOON, eventually, seeded_rng};
use rand::Rng;
use rand::rngs::StdRng;

/// Processes at a time.
const OPENERS: usize = 10;
/// Long enough for tens of thousands of opens.
const HAMMER_FOR: Duration = Duration::from_secs(6);
/// A process lives about so long.
const REPLACE_EVERY: Duration = Duration::from_millis(50);

/// A directory with another LMDB.
fn other_lmdb() -> Option<PathBuf> {
    std::env::var_os("QS_LMDB_DIR").map(PathBuf::from)
}

/// One process that opens and closes.
struct Opener(Process);

/// What processes that ended have said, together.
#[derive(Debug, Default)]
struct Sum {
    processes: u64,
    opens: u64,
    closes: u64,
    lmdb: String,
    errors: Vec<String>,
}

impl Opener {
    fn start(way: &str, dir: &Path) -> Opener {
        let mut command = Command::new(test_binary("qs-test-opener"));
        command.arg(way).arg(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(lmdb) = other_lmdb() {
            command.env("LD_LIBRARY_PATH", lmdb);
        }
        Opener(Process::start_as_is(&mut command, Path::new("/dev/null")))
    }

    /// Ends its input, and waits for what it has to say.
    fn end(mut self, sum: &mut Sum) {
        drop(self.0.child().stdin.take());
        let status = self.0.await_exit(SOON);
        let mut said = String::new();
        self.0.child().stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(status.success(), "{status}: {said}");
        let (counts, error) =
            said.trim_end().split_once(" error ").unwrap_or((said.trim_end(), ""));
        let words: Vec<&str> = counts.split(' ').collect();
        let ["opens", opens, "closes", closes, "lmdb", lmdb] = words[..] else {
            panic!("{said:?}");
        };
        sum.processes += 1;
        sum.opens += opens.parse::<u64>().unwrap();
        sum.closes += closes.parse::<u64>().unwrap();
        lmdb.clone_into(&mut sum.lmdb);
        sum.errors.extend((!error.is_empty()).then(|| error.to_owned()));
    }
}

/// Has processes open and close `dir` for a while, replacing one after the other; `also` is one
/// that stays until the end.
fn hammer(way: &str, dir: &Path, within: Duration, rng: &mut StdRng, also: Option<Opener>) -> Sum {
    let mut sum = Sum::default();
    let mut openers: Vec<Opener> = (0..OPENERS).map(|_| Opener::start(way, dir)).collect();
    let started = Instant::now();
    while started.elapsed() < within {
        std::thread::sleep(REPLACE_EVERY);
        openers.swap_remove(rng.random_range(0..OPENERS)).end(&mut sum);
        openers.push(Opener::start(way, dir));
    }
    openers.into_iter().chain(also).for_each(|opener| opener.end(&mut sum));
    println!(
        "{way}: {} processes, {} opens, {} real closes, {} errors, LMDB {}",
        sum.processes,
        sum.opens,
        sum.closes,
        sum.errors.len(),
        sum.lmdb
    );
    sum
}

#[test]
fn processes_open_and_close_beside_a_live_writer() {
    let mut rng = seeded_rng();
    let mut cluster = Cluster::new();
    cluster.root("root").set_literal("batch.window_ms", 0).start();
    let root = cluster.node("root");
    let mut client = root.client();
    let mut set = |n: u64| {
        assert!(client.call(&["SET", "counter", &n.to_string()]).unwrap().is_ok(), "{n}");
    };
    set(0);
    let used = || root.status().json["readers"]["used"].as_u64().unwrap();
    let sum = std::thread::scope(|scope| {
        let data_dir = root.data_dir();
        let hammering = scope.spawn(move || hammer("read", &data_dir, HAMMER_FOR, &mut rng, None));
        for n in 1.. {
            if hammering.is_finished() {
                println!("{n} writes");
                break;
            }
            set(n);
            // One each, and what the root itself has; those that died are looked for.
            let used = used();
            assert!(used <= 4 * OPENERS as u64, "{used} slots are taken");
        }
        hammering.join().unwrap()
    });
    assert!(sum.errors.is_empty(), "{:?}", sum.errors);
    assert!(sum.opens > sum.processes, "{sum:?}");
    eventually("every slot is free again", SOON, || {
        let output = root.qsctl(&["readers"]);
        let table = String::from_utf8(output.stdout).unwrap();
        (output.status.success() && !table.contains("qs-test-opener")).then_some(())
    });
    root.reader().assert_verified();
    cluster.node_mut("root").term();
}

#[test]
fn the_last_one_out_closes_it_for_nobody_else() {
    let mut rng = seeded_rng();
    let dir = tempfile::tempdir().unwrap();
    let mut builder =
        Builder::create(dir.path(), &Options { map_bytes: 1 << 30, ..Options::default() }).unwrap();
    builder.push(b"counter", b"0").unwrap();
    builder.finish().unwrap();
    let writer = Opener::start("write", dir.path());
    let sum = hammer("read", dir.path(), HAMMER_FOR, &mut rng, Some(writer));
    assert!(sum.errors.is_empty(), "{:?}", sum.errors);
    assert!(sum.closes > 0, "nobody ever closed it: {sum:?}");

    let reader = Reader::open(dir.path()).unwrap();
    let environment = reader.environment().unwrap();
    let report = verify::verify(&environment, |_| {}).unwrap();
    assert!(report.is_clean(), "{report:?}");
    println!("{} commits", report.batches - 1);
    assert!(report.batches > 1, "the writer wrote");
    environment.env.reader_check().unwrap();
    let own = std::process::id();
    let lost: Vec<_> =
        environment.env.readers().unwrap().into_iter().filter(|slot| slot.pid != own).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

/// What the lock is for. It needs an LMDB that destroys its mutexes.
#[test]
fn without_the_lock_the_race_is_lost() {
    if other_lmdb().is_none() {
        return quicksilver_tests::skipped(
            "QS_LMDB_DIR names no other LMDB; see scripts/lmdb-race",
        );
    }
    let mut rng = seeded_rng();
    let dir = tempfile::tempdir().unwrap();
    let options = Options { map_bytes: 1 << 30, ..Options::default() };
    Builder::create(dir.path(), &options).unwrap().finish().unwrap();
    // It is a race: it may be won for a while.
    let lost = (0..5).find_map(|_| {
        let sum = hammer("bare", dir.path(), HAMMER_FOR, &mut rng, None);
        sum.errors.into_iter().next()
    });
    println!("{lost:?}");
    assert!(lost.is_some_and(|error| error.contains("Invalid argument")), "it was not lost");
}
