//! Sixteen threads read all the time and use no more reader slots than there are threads, and
//! what an idle transaction sees after a renew is the newest commit.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU64, Ordering};

use quicksilver_lmdb::{Env, EnvOptions, Transaction};

const THREADS: u32 = 16;
const COMMITS: u64 = 200;

#[test]
fn threads_share_the_slots() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::open_writer(dir.path(), &EnvOptions::default()).unwrap();
    let bucket = env.create_bucket("data").unwrap();
    let committed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut last = 0;
                while last < COMMITS {
                    let floor = committed.load(Ordering::Acquire);
                    let txn = env.read().unwrap();
                    let value = txn.get(bucket, b"n").unwrap();
                    let seen = value.map_or(0, |v| u64::from_be_bytes(v.try_into().unwrap()));
                    assert!(seen >= floor && seen >= last, "{seen} {floor} {last}");
                    last = seen;
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
    assert!(env.readers().unwrap().iter().all(|r| r.txn_id.is_none()));
}

/// A hundred thousand reads in a row, to be looked at with `--release --nocapture`.
#[test]
fn a_read_is_a_renew_and_a_reset() {
    const READS: u32 = 100_000;
    let dir = tempfile::tempdir().unwrap();
    let env = Env::open_writer(dir.path(), &EnvOptions::default()).unwrap();
    let bucket = env.create_bucket("data").unwrap();
    let mut txn = env.write().unwrap();
    txn.put(bucket, b"key", b"value").unwrap();
    txn.commit().unwrap();
    let time = |what: &str, f: &mut dyn FnMut()| {
        let start = std::time::Instant::now();
        f();
        println!("{what}: {:?} each", start.elapsed() / READS);
    };
    let held = env.read().unwrap();
    time("get in one transaction", &mut || {
        for _ in 0..READS {
            assert!(std::hint::black_box(held.get(bucket, b"key")).unwrap().is_some());
        }
    });
    time("begin and end", &mut || {
        for _ in 0..READS {
            drop(std::hint::black_box(env.read().unwrap()));
        }
    });
    time("begin, get, end", &mut || {
        for _ in 0..READS {
            assert!(env.read().unwrap().get(bucket, b"key").unwrap().is_some());
        }
    });
    assert!(env.info().unwrap().num_readers <= 2);
}
