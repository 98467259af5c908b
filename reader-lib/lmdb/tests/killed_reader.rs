//! A reader process is killed in the middle of a read. Its slot pins pages until somebody checks
//! for dead readers; then it is gone. A reader that is alive is never taken for dead. In containers,
//! where every process is number 1, what the last one left is found by the next one, and two at once
//! are told so.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use quicksilver_lmdb::{Env, EnvOptions, LmdbError, Transaction};

const DIR: &str = "QUICKSILVER_LMDB_TEST_DIR";
const READY: &str = "reading";

/// The other process: only does something when the test below starts it.
#[test]
fn reader_process() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let env = match Env::open_reader(Path::new(&dir), &EnvOptions::default()) {
        Err(LmdbError::PidCollision { pid, .. }) => {
            println!("\ncollides with {pid}\n{READY}");
            return;
        }
        opened => opened.unwrap(),
    };
    let _read = env.read().unwrap();
    println!("\n{READY}");
    // Until killed, or until the parent dies and with it the pipe.
    let _ = std::io::stdin().lines().next();
}

fn start_reader(dir: &Path) -> Child {
    start(Command::new(std::env::current_exe().unwrap()), dir).0
}

/// Starts the reader through `command`, and says what it printed until it was ready.
fn start(mut command: Command, dir: &Path) -> (Child, Vec<String>) {
    let mut child = command
        .args(["--exact", "reader_process", "--nocapture"])
        .env(DIR, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let mut said = Vec::new();
    for line in stdout.lines() {
        said.push(line.unwrap());
        if said.last().is_some_and(|line| line == READY) {
            return (child, said);
        }
    }
    let _ = child.wait();
    panic!("the reader did not start: {said:?}");
}

/// A reader in a PID namespace of its own, where it is number 1.
fn contained() -> Option<Command> {
    let mut command = Command::new("unshare");
    // Killing `unshare` must kill what it started.
    command.args(["--pid", "--fork", "--kill-child"]);
    let works = Command::new("unshare").args(["--pid", "--fork", "true"]).status();
    if !works.is_ok_and(|status| status.success()) {
        println!("skipped: PID namespaces cannot be made here");
        return None;
    }
    command.arg(std::env::current_exe().unwrap());
    Some(command)
}

#[test]
fn what_a_dead_container_left_is_found_by_the_next_one_with_its_number() {
    let (Some(first), Some(second), Some(third)) = (contained(), contained(), contained()) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let env = Env::open_writer(dir.path(), &EnvOptions::default()).unwrap();
    let bucket = env.create_bucket("data").unwrap();
    let put = |value: &[u8]| {
        let mut txn = env.write().unwrap();
        txn.put(bucket, b"key", value).unwrap();
        txn.commit().unwrap();
    };
    let pinned = || {
        let slots = env.readers().unwrap();
        slots.iter().filter(|r| r.pid == 1).filter_map(|r| r.txn_id).collect::<Vec<_>>()
    };
    put(b"old");
    let (dead, _) = start(first, dir.path());
    kill_all(dead);
    let old = pinned();
    assert_eq!(old.len(), 1, "nobody has looked for dead readers yet");
    put(b"new");

    let (living, _) = start(second, dir.path());
    let now = pinned();
    assert!(matches!(now[..], [txn] if txn > old[0]), "{old:?}, then {now:?}");
    // The check cannot tell: a process with that number lives.
    assert_eq!(env.reader_check().unwrap(), 0);

    let (mut collides, said) = start(third, dir.path());
    assert!(said.iter().any(|line| line == "collides with 1"), "{said:?}");
    collides.wait().unwrap();
    assert_eq!(pinned(), now, "the living one keeps its slot");
    kill_all(living);
    assert!(env.reader_check().unwrap() >= 1);
    assert!(pinned().is_empty());
}

/// Kills `unshare` and waits until what it started is gone, too: the pipe ends with its last writer.
fn kill_all(mut child: Child) {
    // A reader that sees the end of its input would end in peace.
    let input = child.stdin.take();
    child.kill().unwrap();
    child.wait().unwrap();
    let mut output = child.stderr.take().unwrap();
    std::io::copy(&mut output, &mut std::io::sink()).unwrap();
    drop(input);
}

#[test]
fn a_killed_readers_slot_is_reclaimed() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::open_writer(dir.path(), &EnvOptions::default()).unwrap();
    let bucket = env.create_bucket("data").unwrap();
    let mut reader = start_reader(dir.path());
    let pinned = |pid| env.readers().unwrap().iter().any(|r| r.pid == pid && r.txn_id.is_some());
    let pid = reader.id();

    let mut txn = env.write().unwrap();
    txn.put(bucket, b"key", b"value").unwrap();
    txn.commit().unwrap();
    assert!(pinned(pid));
    assert_eq!(env.reader_check().unwrap(), 0, "a living reader was taken for dead");

    reader.kill().unwrap();
    reader.wait().unwrap();
    assert!(pinned(pid));
    assert!(env.reader_check().unwrap() >= 1);
    assert!(!pinned(pid));
    assert_eq!(env.read().unwrap().get(bucket, b"key").unwrap(), Some(&b"value"[..]));
}

/// When the table is full of dead readers, the next read finds out by itself.
#[test]
fn a_full_table_of_dead_readers_is_cleared_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let options = EnvOptions { max_readers: 1, ..EnvOptions::default() };
    let env = Env::open_writer(dir.path(), &options).unwrap();
    // LMDB rounds the table up to a page.
    let slots = env.info().unwrap().max_readers as usize;
    let mut reader = start_reader(dir.path());
    let taken = env.readers().unwrap().len();
    let mut live: Vec<_> = (taken..slots).map(|_| env.read().unwrap()).collect();
    assert!(env.read().is_err());
    reader.kill().unwrap();
    reader.wait().unwrap();
    live.push(env.read().unwrap());
}
