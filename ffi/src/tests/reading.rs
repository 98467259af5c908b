//! Reading keys, snapshots and scans, when the data is sound and when it is not.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use reader::testing::Db;

use super::*;

#[test]
fn a_key_is_as_long_as_the_reader_takes() {
    let longest = vec![b'k'; QS_KEY_MAX_BYTES];
    let made = Db::from([(&longest, "here")]).unwrap();
    let db = open(made.path());
    assert_eq!(get(db, &longest).unwrap(), b"here");
    assert_eq!(get(db, &[b'k'; QS_KEY_MAX_BYTES + 1]), Err(QS_INVALID_ARGUMENT));
    assert_eq!(last_error(), "key of 512 bytes: a key has 1 to 511 bytes");
    assert_eq!(get(db, b""), Err(QS_INVALID_ARGUMENT));
    assert_eq!(close(db), QS_OK);
    // The reader's own limit, which `QS_KEY_MAX_BYTES` repeats.
    let reader = made.reader();
    assert!(reader.get(&longest).unwrap().is_some());
    assert!(reader.get(&[b'k'; QS_KEY_MAX_BYTES + 1]).is_err());
}

#[test]
fn threads_that_read_while_one_closes_get_the_value_or_closed() {
    let made = Db::from([("hello", "world")]).unwrap();
    let db = open(made.path());
    let shared = db.addr();
    let read = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    match get(ptr::without_provenance(shared), b"hello") {
                        Ok(value) => assert_eq!(value, b"world"),
                        Err(result) => return assert_eq!(result, QS_CLOSED),
                    }
                    read.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while read.load(Ordering::Relaxed) < 1000 {
            std::thread::yield_now();
        }
        assert_eq!(close(db), QS_OK);
    });
}

#[test]
fn what_a_snapshot_shows_stays_while_the_database_changes() {
    let long = vec![7_u8; 100_000];
    let made = Db::from([("hello", "world".as_bytes()), ("long", &long)]).unwrap();
    let db = open(made.path());
    let before = snapshot(db);
    assert_eq!(close(db), QS_OK);
    let mut value = qs_slice::NONE;
    // SAFETY: key and value are what they should be.
    assert_eq!(unsafe { qs_snapshot_get(before, c"long".as_ptr().cast(), 4, &mut value) }, QS_OK);
    made.apply([("hello", Some("there")), ("long", None)]).unwrap();
    assert_eq!(snapshot_get(before, b"hello").unwrap(), b"world");
    assert_eq!(snapshot_get(before, b"long").unwrap(), long);
    assert_eq!(bytes(value), long);
    // SAFETY: nobody looks at what it showed any more.
    assert_eq!(unsafe { qs_snapshot_end(before) }, QS_OK);
    assert_eq!(snapshot_get(before, b"hello"), Err(QS_CLOSED));
}

/// A scan that meets damage gives what is before it, and then the error, for ever: a caller that
/// overlooks an error must not take it for the end.
#[test]
fn damage_is_not_the_end_of_a_scan() {
    let pairs: Vec<_> = (0..10).map(|n| (format!("key/{n}"), format!("value {n}"))).collect();
    let made = Db::from(pairs).unwrap();
    let data = made.path().join("gen-000001/data.mdb");
    let before = std::fs::read(&data).unwrap();
    let at = before.windows(7).position(|window| window == b"value 7").unwrap();
    let file = std::fs::File::options().write(true).open(&data).unwrap();
    file.write_all_at(b"V", at as u64).unwrap();

    let db = open(made.path());
    assert_eq!(get(db, b"key/7"), Err(QS_CORRUPT));
    assert!(last_error().contains("key/7"), "{}", last_error());
    assert_eq!(get(db, b"key/8").unwrap(), b"value 8");
    let snapshot = snapshot(db);
    assert_eq!(snapshot_get(snapshot, b"key/7"), Err(QS_CORRUPT));
    let mut scan = ptr::null_mut();
    // SAFETY: `scan` is a place.
    assert_eq!(unsafe { qs_scan_begin(snapshot, ptr::null(), &mut scan) }, QS_OK);
    let (mut key, mut value) = (qs_slice::NONE, qs_slice::NONE);
    let mut next = || {
        // SAFETY: key and value are places.
        match unsafe { qs_scan_next(scan, &mut key, &mut value) } {
            QS_OK => Ok(bytes(key)),
            other => Err(other),
        }
    };
    for n in 0..7 {
        assert_eq!(next().unwrap(), format!("key/{n}").as_bytes());
    }
    for _ in 0..3 {
        assert_eq!(next(), Err(QS_CORRUPT));
        assert!(last_error().contains("key/7"), "{}", last_error());
    }
    // SAFETY: nobody looks at what they showed any more.
    unsafe {
        assert_eq!(qs_scan_end(scan), QS_OK);
        assert_eq!(qs_snapshot_end(snapshot), QS_OK);
    }
    // One of several keys that is damaged spoils them all, and no memory is lost.
    let keys = [qs_slice::of(b"key/8"), qs_slice::of(b"key/7")];
    let mut values = [const { qs_value { data: ptr::dangling(), size: 7 } }; 2];
    // SAFETY: keys and values are what they should be.
    let result = unsafe { qs_multi_get(db, keys.as_ptr(), 2, values.as_mut_ptr()) };
    assert_eq!(result, QS_CORRUPT);
    assert!(values.iter().all(|value| value.data.is_null() && value.size == 0));
    assert_eq!(close(db), QS_OK);
}
