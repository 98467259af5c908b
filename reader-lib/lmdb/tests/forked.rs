//! After a fork the child's copies of every handle say so, touch nothing of the parent's when
//! dropped, and the child can open the environment for itself.
//!
//! One test in its own program: between fork and exit the child is the only thread there is.
#![allow(unsafe_code, reason = "fork is what is tested")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use quicksilver_lmdb::{Bucket, Env, EnvOptions, LmdbError, OwnedReadTxn, Transaction};

fn is_forked<T>(result: Result<T, LmdbError>) -> bool {
    matches!(result, Err(LmdbError::Forked(_)))
}

/// Runs in the child; returns the number of the first check that failed, or 0.
fn child(dir: &std::path::Path, env: Env, bucket: Bucket, snapshot: OwnedReadTxn) -> i32 {
    let checks = [
        is_forked(env.read()),
        is_forked(env.write()),
        is_forked(env.open_bucket("data")),
        is_forked(env.create_bucket("data")),
        is_forked(env.reader_check()),
        is_forked(env.readers()),
        is_forked(env.info()),
        is_forked(env.free_pages()),
        is_forked(snapshot.get(bucket, b"key")),
        is_forked(snapshot.cursor(bucket)),
        is_forked(snapshot.stat(bucket)),
    ];
    if let Some(failed) = checks.iter().position(|ok| !ok) {
        return 1 + i32::try_from(failed).unwrap_or(99);
    }
    drop(snapshot);
    drop(env);
    let Ok(own) = Env::open_writer(dir, &EnvOptions::default()) else { return 50 };
    let Ok(bucket) = own.open_bucket("data") else { return 51 };
    let Ok(read) = own.read() else { return 52 };
    if !matches!(read.get(bucket, b"key"), Ok(Some(b"value"))) {
        return 53;
    }
    drop(read);
    let again = Env::open_writer(dir, &EnvOptions::default());
    if !matches!(again, Err(LmdbError::AlreadyOpen { .. })) { 54 } else { 0 }
}

#[test]
fn a_forked_child_is_told_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::open_writer(dir.path(), &EnvOptions::default()).unwrap();
    let bucket = env.create_bucket("data").unwrap();
    let mut txn = env.write().unwrap();
    txn.put(bucket, b"key", b"value").unwrap();
    txn.commit().unwrap();
    let snapshot = env.read_owned().unwrap();
    let pinned = snapshot.txn_id();
    let (child_env, child_snapshot) = (env.clone(), env.read_owned().unwrap());

    // SAFETY: this program has one test, its other threads are asleep in the harness, and the
    // child leaves with _exit.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            // The child's handles are copies; the last ones to go are leaked by _exit.
            drop(env);
            drop(snapshot);
            let code = child(dir.path(), child_env, bucket, child_snapshot);
            // SAFETY: ends the process without running the parent's exit handlers.
            unsafe { nix::libc::_exit(code) };
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
        }
    }
    // The child's drops did not free our slots.
    let me = std::process::id();
    let ours =
        env.readers().unwrap().iter().filter(|r| r.pid == me && r.txn_id == Some(pinned)).count();
    assert_eq!(ours, 2);
    assert_eq!(snapshot.get(bucket, b"key").unwrap(), Some(&b"value"[..]));
    env.write().unwrap().commit().unwrap();
}
