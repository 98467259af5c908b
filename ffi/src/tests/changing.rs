//! A database that changes under its readers: waiting, feeds, generations.

use reader::HistoryId;
use reader::testing::Db;

use super::*;

/// For what comes at once, on a machine that is busy.
const SOON_MS: i64 = 60_000;

fn wait(db: *const qs_db, index: u64, timeout_ms: i64) -> (qs_result, u64) {
    let mut now = 7;
    // SAFETY: `now` is a place.
    let result = unsafe { qs_wait(db, index, timeout_ms, &mut now) };
    (result, now)
}

fn index(db: *const qs_db) -> u64 {
    let mut index = 0;
    // SAFETY: `index` is a place.
    assert_eq!(unsafe { qs_index(db, &mut index) }, QS_OK, "{}", last_error());
    index
}

fn changes(db: *const qs_db, after: u64, prefix: &[u8]) -> *mut qs_changes {
    let mut changes = ptr::null_mut();
    let (data, size) = (prefix.as_ptr().cast(), prefix.len());
    // SAFETY: the prefix is one, and `changes` is a place.
    let result = unsafe { qs_changes_open(db, after, data, size, &mut changes) };
    assert_eq!(result, QS_OK, "{}", last_error());
    changes
}

/// The next change: kind, index, key and value.
fn next(
    changes: *mut qs_changes,
    timeout_ms: i64,
) -> Result<(qs_change_kind, u64, Vec<u8>, Vec<u8>), qs_result> {
    // SAFETY: all zero bytes are a value of the type.
    let mut change: qs_change = unsafe { std::mem::zeroed() };
    change.size = size_of::<qs_change>();
    // SAFETY: `change` has the size that it says.
    match unsafe { qs_changes_next(changes, timeout_ms, &mut change) } {
        QS_OK => {}
        other => return Err(other),
    }
    use qs_change_kind::*;
    let kinds = [QS_CHANGE_SET, QS_CHANGE_DEL, QS_CHANGE_RESCAN];
    let kind = kinds.into_iter().find(|kind| *kind as u64 == change.kind).unwrap();
    let or_empty = |slice: qs_slice| if slice.data.is_null() { Vec::new() } else { bytes(slice) };
    Ok((kind, change.index, or_empty(change.key), or_empty(change.value)))
}

fn close_changes(changes: *mut qs_changes) {
    // SAFETY: nobody looks at what it gave any more.
    assert_eq!(unsafe { qs_changes_close(changes) }, QS_OK);
}

fn set(index: u64, key: &str, value: &str) -> (qs_change_kind, u64, Vec<u8>, Vec<u8>) {
    (qs_change_kind::QS_CHANGE_SET, index, key.into(), value.into())
}

fn del(index: u64, key: &str) -> (qs_change_kind, u64, Vec<u8>, Vec<u8>) {
    (qs_change_kind::QS_CHANGE_DEL, index, key.into(), Vec::new())
}

#[test]
fn a_write_ends_the_wait_for_it() {
    let made = Db::from([("hello", "world")]).unwrap();
    let db = open(made.path());
    assert_eq!(wait(db, 2, 0), (QS_TIMEOUT, 1));
    let shared = db.addr();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| wait(ptr::without_provenance(shared), 3, SOON_MS));
        made.apply([("hello", Some("there"))]).unwrap();
        made.apply([("hello", Some("again"))]).unwrap();
        assert_eq!(waiting.join().unwrap(), (QS_OK, 3));
    });
    assert_eq!(get(db, b"hello").unwrap(), b"again");
    assert_eq!(index(db), 3);
    assert_eq!(close(db), QS_OK);
}

#[test]
fn a_feed_gives_what_is_written_in_order() {
    let made = Db::from([("zone/a", "1"), ("other", "2")]).unwrap();
    let db = open(made.path());
    let all = changes(db, 1, b"");
    let zones = changes(db, 0, b"zone/");
    assert_eq!(next(zones, 0), Ok(set(2, "zone/a", "1")));
    assert_eq!(next(all, 0), Ok(set(2, "zone/a", "1")));
    assert_eq!(next(all, 0), Err(QS_TIMEOUT));
    made.apply([("zone/b", Some("3")), ("zone/a", None), ("other", Some(""))]).unwrap();
    assert_eq!(next(all, SOON_MS), Ok(set(3, "zone/b", "3")));
    assert_eq!(next(all, 0), Ok(del(4, "zone/a")));
    assert_eq!(next(all, 0), Ok(set(5, "other", "")));
    assert_eq!(next(all, 0), Err(QS_TIMEOUT));
    // Closing the database ends no feed.
    assert_eq!(close(db), QS_OK);
    assert_eq!(next(zones, -1), Ok(set(3, "zone/b", "3")));
    assert_eq!(next(zones, -1), Ok(del(4, "zone/a")));
    assert_eq!(next(zones, 10), Err(QS_TIMEOUT));
    let mut position = 0;
    // SAFETY: `position` is a place.
    assert_eq!(unsafe { qs_changes_position(zones, &mut position) }, QS_OK);
    assert_eq!(position, 5, "what does not concern the prefix is behind it");
    close_changes(all);
    close_changes(zones);
}

#[test]
fn a_feed_wakes_up_when_something_is_written() {
    let made = Db::from([("hello", "world")]).unwrap();
    let db = open(made.path());
    let feed = changes(db, 1, b"");
    let shared = feed.addr();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| next(ptr::without_provenance_mut(shared), SOON_MS));
        made.apply([("hello", Some("there"))]).unwrap();
        assert_eq!(waiting.join().unwrap(), Ok(set(2, "hello", "there")));
    });
    close_changes(feed);
    assert_eq!(close(db), QS_OK);
}

#[test]
fn a_feed_that_lost_its_past_says_rescan() {
    let made = Db::from([("hello", "world")]).unwrap();
    let db = open(made.path());
    let feed = changes(db, 1, b"");
    let index = made.replace(HistoryId::random(), [("hello", "restored"), ("new", "1")]).unwrap();
    let (kind, at, key, value) = next(feed, SOON_MS).unwrap();
    assert_eq!((kind, at), (qs_change_kind::QS_CHANGE_RESCAN, index.get()));
    assert_eq!((key, value), (Vec::new(), Vec::new()));
    assert_eq!(next(feed, 0), Err(QS_TIMEOUT));
    made.apply([("new", Some("2"))]).unwrap();
    assert_eq!(next(feed, SOON_MS), Ok(set(index.get() + 1, "new", "2")));
    close_changes(feed);
    assert_eq!(close(db), QS_OK);
}

#[test]
fn a_handle_follows_the_generations_and_a_snapshot_stays() {
    let made = Db::from([("hello", "world")]).unwrap();
    let db = open(made.path());
    let before = snapshot(db);
    made.replace(HistoryId::random(), [("hello", "restored")]).unwrap();
    assert_eq!(get(db, b"hello").unwrap(), b"restored");
    // SAFETY: all zero bytes are a value of the type.
    let mut status: qs_db_status = unsafe { std::mem::zeroed() };
    status.size = size_of::<qs_db_status>();
    // SAFETY: `status` has the size that it says.
    assert_eq!(unsafe { qs_status(db, &mut status) }, QS_OK, "{}", last_error());
    assert_eq!((status.generation, status.keys), (2, 1));
    assert_eq!(snapshot_get(before, b"hello").unwrap(), b"world");
    // SAFETY: nobody looks at what it showed any more.
    assert_eq!(unsafe { qs_snapshot_end(before) }, QS_OK);
    assert_eq!(close(db), QS_OK);
}
