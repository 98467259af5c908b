//! One environment per process and directory, and what is left of it after it closes: double
//! opens (also through a symbolic link), reopening, failed opens, skipped closes, limits.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::path::Path;

use quicksilver_lmdb::{Env, EnvOptions, LmdbError, Transaction, library_version};

const PAGE_BYTES: usize = 4096;

fn writer(dir: &Path) -> Env {
    Env::open_writer(dir, &EnvOptions::default()).unwrap()
}

fn put(env: &Env, key: &[u8], value: &[u8]) {
    let bucket = env.create_bucket("data").unwrap();
    let mut txn = env.write().unwrap();
    txn.put(bucket, key, value).unwrap();
    txn.commit().unwrap();
}

#[test]
fn what_was_written_is_there_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    put(&writer(dir.path()), b"key", b"value");
    let env = Env::open_reader(dir.path(), &EnvOptions::default()).unwrap();
    let bucket = env.open_bucket("data").unwrap();
    assert_eq!(env.read().unwrap().get(bucket, b"key").unwrap(), Some(&b"value"[..]));
    assert!(matches!(env.write(), Err(LmdbError::ReadOnly(_))));
    assert!(matches!(env.open_bucket("nope"), Err(LmdbError::NoSuchBucket { .. })));
}

#[test]
fn a_second_open_shares_or_is_refused_whatever_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().join("real");
    let link = dir.path().join("link");
    std::fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let env = writer(&real);
    for path in [&real, &link] {
        let error = Env::open_writer(path, &EnvOptions::default()).unwrap_err();
        assert!(matches!(&error, LmdbError::AlreadyOpen { path } if path == env.path()), "{error}");
        let shared = Env::open_reader(path, &EnvOptions::default()).unwrap();
        assert!(shared.write().is_ok(), "the same environment, opened for writing");
    }
    // Opens and closes did no harm: our reader still counts as alive.
    let _read = env.read().unwrap();
    assert_eq!(env.reader_check().unwrap(), 0);
}

#[test]
fn the_last_clone_closes() {
    let dir = tempfile::tempdir().unwrap();
    let env = writer(dir.path());
    let clone = env.clone();
    drop(env);
    let error = Env::open_writer(dir.path(), &EnvOptions::default()).unwrap_err();
    assert!(matches!(error, LmdbError::AlreadyOpen { .. }), "{error}");
    drop(clone);
    drop(writer(dir.path()));
}

/// Threads open and close the same environment all the time: each gets a share of what another has
/// open, or opens it anew when the last share has just gone.
#[test]
fn opening_and_closing_in_many_threads() {
    let dir = tempfile::tempdir().unwrap();
    put(&writer(dir.path()), b"key", b"value");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let env = Env::open_reader(dir.path(), &EnvOptions::default()).unwrap();
                    let bucket = env.open_bucket("data").unwrap();
                    assert_eq!(
                        env.read().unwrap().get(bucket, b"key").unwrap(),
                        Some(&b"value"[..])
                    );
                }
            });
        }
    });
    drop(writer(dir.path()));
}

#[test]
fn an_owned_read_keeps_the_environment_open() {
    let dir = tempfile::tempdir().unwrap();
    let env = writer(dir.path());
    put(&env, b"key", b"value");
    let bucket = env.open_bucket("data").unwrap();
    let snapshot = env.read_owned().unwrap();
    drop(env);
    let snapshot = std::thread::spawn(move || {
        assert_eq!(snapshot.get(bucket, b"key").unwrap(), Some(&b"value"[..]));
        snapshot
    })
    .join()
    .unwrap();
    assert!(Env::open_writer(dir.path(), &EnvOptions::default()).is_err());
    drop(snapshot);
    drop(writer(dir.path()));
}

#[test]
fn a_copy_of_the_library_is_noticed_by_its_lock_file() {
    let dir = tempfile::tempdir().unwrap();
    drop(writer(dir.path()));
    let by_hand = File::open(dir.path().join("lock.mdb")).unwrap();
    let error = Env::open_reader(dir.path(), &EnvOptions::default()).unwrap_err();
    assert!(matches!(error, LmdbError::OpenedByAnotherCopy { .. }), "{error}");
    drop(by_hand);
    drop(writer(dir.path()));
}

#[test]
fn a_failed_open_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Env::open_reader(dir.path(), &EnvOptions::default()).unwrap_err();
    assert!(matches!(missing, LmdbError::NotFound(_)), "{missing}");
    assert!(!dir.path().join("lock.mdb").exists());
    let nowhere = Env::open_writer(&dir.path().join("nowhere"), &EnvOptions::default());
    assert!(matches!(nowhere, Err(LmdbError::NotFound(_))));

    let data = dir.path().join("data.mdb");
    std::fs::write(&data, vec![0x5a; 2 * PAGE_BYTES]).unwrap();
    for _ in 0..2 {
        let error = Env::open_reader(dir.path(), &EnvOptions::default()).unwrap_err();
        assert!(matches!(error, LmdbError::Invalid(_)), "{error}");
        assert!(error.is_damage());
    }
    std::fs::remove_file(&data).unwrap();
    drop(writer(dir.path()));
}

/// Story: somebody else is opening (holds the lock shared) when we want to close. The close is
/// skipped, and the next open in this process gets the same environment back.
#[test]
fn a_skipped_close_parks_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let lock = dir.path().join("open.lock");
    let options = EnvOptions { open_lock: Some(lock.clone()), ..EnvOptions::default() };
    let env = Env::open_writer(dir.path(), &options).unwrap();
    put(&env, b"key", b"value");
    let bucket = env.open_bucket("data").unwrap();

    let somebody = File::open(&lock).unwrap();
    somebody.lock_shared().unwrap();
    drop(env);
    let other = EnvOptions { max_buckets: 3, ..options.clone() };
    let error = Env::open_writer(dir.path(), &other).unwrap_err();
    assert!(matches!(error, LmdbError::AlreadyOpen { .. }), "{error}");

    let env = Env::open_writer(dir.path(), &options).unwrap();
    // A bucket handle from before proves that it is the same one.
    assert_eq!(env.read().unwrap().get(bucket, b"key").unwrap(), Some(&b"value"[..]));
    somebody.unlock().unwrap();
    drop(env);
    let env = Env::open_writer(dir.path(), &other).unwrap();
    assert!(matches!(env.read().unwrap().get(bucket, b"key"), Err(LmdbError::ForeignBucket(_))));
}

/// Story: a generation is built, its close is skipped because a reader is opening another one, it
/// gets its name, and is opened with other options. That waits for the close to be made up for.
#[test]
fn a_parked_environment_is_closed_before_it_is_opened_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let (new, name) = (dir.path().join("gen.new"), dir.path().join("gen"));
    std::fs::create_dir(&new).unwrap();
    let lock = dir.path().join("open.lock");
    let options = EnvOptions { open_lock: Some(lock.clone()), ..EnvOptions::default() };
    let env = Env::open_writer(&new, &options).unwrap();
    put(&env, b"key", b"value");
    let somebody = File::open(&lock).unwrap();
    somebody.lock_shared().unwrap();
    drop(env);
    std::fs::rename(&new, &name).unwrap();
    let other = EnvOptions { map_bytes: 0, ..options.clone() };
    std::thread::scope(|scope| {
        let opening = scope.spawn(|| Env::open_writer(&name, &other).unwrap());
        // Long enough that the open has looked; what is asserted holds in any case.
        (0..10_000).for_each(|_| std::thread::yield_now());
        somebody.unlock().unwrap();
        let env = opening.join().unwrap();
        assert_eq!(env.path(), name.canonicalize().unwrap());
    });
    // And with the same options, under the name that it has now.
    let env = Env::open_writer(&name, &options).unwrap();
    somebody.lock_shared().unwrap();
    drop(env);
    std::fs::rename(&name, &new).unwrap();
    somebody.unlock().unwrap();
    let env = Env::open_writer(&new, &options).unwrap();
    assert_eq!(env.path(), new.canonicalize().unwrap());
}

#[test]
fn a_bucket_belongs_to_its_environment_and_to_later_transactions() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (writer(one.path()), writer(two.path()));
    let bucket = one.create_bucket("data").unwrap();
    two.create_bucket("data").unwrap();
    let mut txn = two.write().unwrap();
    assert!(matches!(txn.put(bucket, b"k", b"v"), Err(LmdbError::ForeignBucket(_))));
    assert!(matches!(txn.cursor(bucket), Err(LmdbError::ForeignBucket(_))));
    drop(txn);

    let early = one.read().unwrap();
    let late = one.create_bucket("late").unwrap();
    assert!(matches!(early.get(late, b"k"), Err(LmdbError::BucketUnknown(_))));
    assert_eq!(one.open_bucket("late").unwrap(), late);
}

#[test]
fn a_full_map_is_typed_and_passes() {
    let dir = tempfile::tempdir().unwrap();
    let options = EnvOptions { map_bytes: 64 * PAGE_BYTES, ..EnvOptions::default() };
    let env = Env::open_writer(dir.path(), &options).unwrap();
    let bucket = env.create_bucket("data").unwrap();
    let mut txn = env.write().unwrap();
    let error =
        (0..u32::MAX).find_map(|n| txn.put(bucket, &n.to_be_bytes(), &[0; 4000]).err()).unwrap();
    assert!(matches!(error, LmdbError::MapFull(_)), "{error}");
    let failed = txn.commit().unwrap_err();
    assert!(
        matches!(&failed, LmdbError::CommitFailed { source } if matches!(**source, LmdbError::BadTransaction(_))),
        "{failed}"
    );
    assert!(!failed.needs_reopen());
    assert_eq!(env.read().unwrap().stat(bucket).unwrap().entries, 0);
    put(&env, b"small", b"fits");
}

#[test]
fn too_many_buckets_and_too_many_readers_are_typed() {
    let dir = tempfile::tempdir().unwrap();
    let options = EnvOptions { max_buckets: 1, max_readers: 8, ..EnvOptions::default() };
    let env = Env::open_writer(dir.path(), &options).unwrap();
    env.create_bucket("one").unwrap();
    assert!(matches!(env.create_bucket("two"), Err(LmdbError::BucketsFull(_))));

    let mut live = Vec::new();
    let error = loop {
        match env.read() {
            Ok(txn) => live.push(txn),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LmdbError::ReadersFull(_)), "{error}");
    assert!(live.len() >= 8, "{}", live.len());
    drop(live.pop());
    live.push(env.read().unwrap());
    assert!(env.read().is_err());
}

#[test]
fn sizes_readers_and_free_pages() {
    let dir = tempfile::tempdir().unwrap();
    let env = writer(dir.path());
    assert_eq!(env.page_size(), PAGE_BYTES);
    put(&env, b"key", &[1; 4000]);
    let info = env.info().unwrap();
    assert_eq!(info.map_bytes, 1 << 30);
    assert_eq!(info.max_readers % 2, 0);
    let pinned = env.read().unwrap();
    assert_eq!(pinned.txn_id(), info.last_txn_id);
    for n in 0..20 {
        put(&env, b"key", &[n; 4000]);
    }
    let readers = env.readers().unwrap();
    assert!(
        readers.iter().any(|r| r.txn_id == Some(info.last_txn_id) && r.pid == std::process::id())
    );
    let held = env.free_pages().unwrap();
    assert!(held.held_back >= 20 && held.held_back <= held.total, "{held:?}");
    drop(pinned);
    assert_eq!(env.free_pages().unwrap().held_back, 0);
    assert!(env.readers().unwrap().iter().all(|r| r.txn_id.is_none()));
}

#[test]
fn one_write_transaction_per_thread() {
    let dir = tempfile::tempdir().unwrap();
    let env = writer(dir.path());
    let txn = env.write().unwrap();
    assert!(matches!(env.write(), Err(LmdbError::WriterActive(_))));
    assert!(matches!(env.create_bucket("data"), Err(LmdbError::WriterActive(_))));
    txn.abort();
    env.write().unwrap().commit().unwrap();
}

/// A write transaction that was leaked holds LMDB's writer mutex inside the map: closing would
/// take the mutex's memory away, so the environment stays open instead.
#[test]
fn a_leaked_write_transaction_keeps_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let env = writer(dir.path());
    std::mem::forget(env.write().unwrap());
    drop(env);
    let error = Env::open_writer(dir.path(), &EnvOptions::default()).unwrap_err();
    assert!(matches!(error, LmdbError::AlreadyOpen { .. }), "{error}");
}

/// A failed assertion inside LMDB would abort the process of whoever links the reader.
#[test]
#[ignore = "says something about the installed liblmdb; Debian's 0.9.24 fails it"]
fn the_system_library_is_built_without_assertions() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let Some(library) =
        maps.lines().filter_map(|l| l.split_whitespace().nth(5)).find(|p| p.contains("liblmdb"))
    else {
        return; // The bundled library is linked in.
    };
    let bytes = std::fs::read(library).unwrap();
    let text = b"Assertion '%.200s' failed";
    let has_assertions = bytes.windows(text.len()).any(|w| w == text);
    assert!(!has_assertions, "{library} ({:?}) is built without NDEBUG", library_version());
}

/// Story: a process has looked at a large file and lets go of it, while a transaction and a value of it
/// are held: both are what they were, and memory is not.
#[test]
fn pages_that_were_let_go_come_back_when_they_are_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::open_writer(dir.path(), &EnvOptions::default()).unwrap();
    let bucket = env.create_bucket("data").unwrap();
    let mut txn = env.write().unwrap();
    for n in 0..20_000_u32 {
        txn.put(bucket, &n.to_be_bytes(), &[n as u8; 1000]).unwrap();
    }
    txn.commit().unwrap();
    let data_file = dir.path().join("data.mdb").display().to_string();
    let mapped_kb = || {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let of_file = maps.split(&data_file).nth(1).unwrap();
        let rss = of_file.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
        rss.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let txn = env.read().unwrap();
    let first = txn.get(bucket, &0_u32.to_be_bytes()).unwrap().unwrap();
    for n in 0..20_000_u32 {
        assert_eq!(txn.get(bucket, &n.to_be_bytes()).unwrap().unwrap()[0], n as u8);
    }
    assert!(mapped_kb() > 10_000, "{} kB", mapped_kb());
    env.release_pages().unwrap();
    assert!(mapped_kb() < 1_000, "{} kB", mapped_kb());
    assert_eq!(first, [0; 1000]);
    assert_eq!(txn.get(bucket, &9_u32.to_be_bytes()).unwrap().unwrap(), [9; 1000]);
}
