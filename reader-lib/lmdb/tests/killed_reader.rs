//! A reader process is killed in the middle of a read. Its slot pins pages until somebody checks
//! for dead readers; then it is gone. A reader that is alive is never taken for dead.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use quicksilver_lmdb::{Env, EnvOptions, Transaction};

const DIR: &str = "QUICKSILVER_LMDB_TEST_DIR";
const READY: &str = "reading";

/// The other process: only does something when the test below starts it.
#[test]
fn reader_process() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let env = Env::open_reader(Path::new(&dir), &EnvOptions::default()).unwrap();
    let _read = env.read().unwrap();
    println!("\n{READY}");
    // Until killed, or until the parent dies and with it the pipe.
    let _ = std::io::stdin().lines().next();
}

fn start_reader(dir: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "reader_process", "--nocapture"])
        .env(DIR, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    assert!(stdout.lines().any(|line| line.unwrap() == READY), "the reader did not start");
    child
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
