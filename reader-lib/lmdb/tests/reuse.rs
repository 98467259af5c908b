//! A read transaction that is kept and renewed takes one reader slot, sees the newest commit at every
//! renewal, and gives errors while it is reset.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU64, Ordering};

use quicksilver_lmdb::{Env, EnvOptions, Transaction};

const THREADS: u32 = 16;
const COMMITS: u64 = 200;

/// Also: no renewal shows less than what was committed before it began, or than the one before.
#[test]
fn a_renewed_read_keeps_its_slot_and_never_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::open_writer(dir.path(), &EnvOptions::default()).unwrap();
    let bucket = env.create_bucket("data").unwrap();
    let committed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut txn = env.read_owned().unwrap();
                let mut last = 0;
                while last < COMMITS {
                    let floor = committed.load(Ordering::Acquire);
                    txn.renew().unwrap();
                    let value = txn.get(bucket, b"n").unwrap();
                    let seen = value.map_or(0, |v| u64::from_be_bytes(v.try_into().unwrap()));
                    assert!(seen >= floor && seen >= last, "{seen} {floor} {last}");
                    last = seen;
                    txn.reset();
                }
            });
        }
        for n in 1..=COMMITS {
            let mut txn = env.write().unwrap();
            txn.put(bucket, b"n", &n.to_be_bytes()).unwrap();
            txn.commit().unwrap();
            committed.store(n, Ordering::Release);
        }
    });
    let taken = env.info().unwrap().num_readers;
    // One more for the main thread.
    assert!(taken <= THREADS + 1, "{taken} slots for {THREADS} threads");
    assert!(env.readers().unwrap().is_empty(), "ended transactions keep no slot");
}

#[test]
fn a_reset_read_holds_its_slot_and_shows_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::open_writer(dir.path(), &EnvOptions::default()).unwrap();
    let bucket = env.create_bucket("data").unwrap();
    let mut txn = env.write().unwrap();
    txn.put(bucket, b"key", b"value").unwrap();
    txn.commit().unwrap();

    let mut read = env.read_owned().unwrap();
    assert!(read.get(bucket, b"key").unwrap().is_some());
    for _ in 0..2 {
        read.reset();
        assert!(read.get(bucket, b"key").is_err());
        assert!(read.cursor(bucket).is_err());
        let slots = env.readers().unwrap();
        assert!(matches!(slots[..], [slot] if slot.txn_id.is_none()), "{slots:?}");
    }
    // Renewing what is live moves it on, too.
    for _ in 0..2 {
        read.renew().unwrap();
        assert_eq!(read.get(bucket, b"key").unwrap(), Some(&b"value"[..]));
    }
    drop(read);
    assert!(env.readers().unwrap().is_empty());
}
