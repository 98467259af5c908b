//! After a fork everything the parent opened says so in the child, without waiting for anything, and
//! the child can open the database for itself.
//!
//! One test in its own program: between fork and exit the child is the only thread there is.
#![allow(unsafe_code, reason = "fork is what is tested")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use quicksilver::testing::Db;
use quicksilver::{Cached, Changes, Error, LmdbError, Reader, Result, Snapshot};

fn is_forked<T>(result: Result<T>) -> bool {
    matches!(result, Err(Error::Lmdb(LmdbError::Forked(_))))
}

/// Runs in the child; returns the number of the first check that failed, or 0.
fn child(
    dir: &std::path::Path,
    reader: Reader,
    snapshot: Snapshot,
    mut changes: Changes,
    cached: Cached<usize>,
) -> i32 {
    let checks = [
        is_forked(reader.get(b"a")),
        is_forked(reader.get_into(b"a", &mut Vec::new())),
        is_forked(reader.get_with(b"a", |_| ())),
        is_forked(reader.multi_get(&["a"])),
        is_forked(reader.value_bytes(b"a")),
        is_forked(reader.page(b"", None, 1)),
        is_forked(reader.snapshot()),
        is_forked(reader.index()),
        is_forked(reader.wait_for(quicksilver::Index::FIRST, Duration::MAX)),
        is_forked(reader.status()),
        is_forked(reader.changes(quicksilver::Index::ZERO, b"")),
        is_forked(snapshot.get(b"a")),
        is_forked(snapshot.iter().and_then(|mut pairs| pairs.next().transpose())),
        is_forked(snapshot.history()),
        is_forked(changes.poll()),
        is_forked(changes.next_within(Duration::MAX)),
        is_forked(cached.get()),
    ];
    if let Some(failed) = checks.iter().position(|ok| !ok) {
        return 1 + i32::try_from(failed).unwrap_or(99);
    }
    drop((reader, snapshot, changes, cached));
    let Ok(own) = Reader::open(dir) else { return 50 };
    match own.get(b"a") {
        Ok(Some(value)) if value == b"1" => 0,
        _ => 51,
    }
}

#[test]
fn a_forked_child_is_told_and_opens_anew() {
    let db = Db::from([("a", "1")]).unwrap();
    let reader = db.reader();
    let held = reader.snapshot().unwrap();
    let for_child = (
        reader.clone(),
        reader.snapshot().unwrap(),
        reader.changes(reader.index().unwrap(), b"").unwrap(),
        Cached::new(&reader, "a", |value| value.map_or(0, <[u8]>::len)).unwrap(),
    );
    // SAFETY: this program has one test, its other threads are asleep in the harness, and the
    // child leaves with _exit.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let (reader, snapshot, changes, cached) = for_child;
            let code = child(db.path(), reader, snapshot, changes, cached);
            // SAFETY: ends the process without running the parent's exit handlers.
            unsafe { nix::libc::_exit(code) };
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
        }
    }
    // The child's end took nothing of ours.
    assert_eq!(held.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(db.environment().unwrap().env.reader_check().unwrap(), 0);
    db.apply([("a", Some("2"))]).unwrap();
    assert_eq!(reader.get(b"a").unwrap().unwrap(), b"2");
}
