//! Misuse: what a C program can get wrong and must live through.
//!
//! `ffi/tests/c_program.rs` does the same from C; here is what C cannot reach.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::ffi::{CStr, CString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use reader::testing::Db;

use crate::qs_result::*;
use crate::*;

const OPTIONS: qs_open_options =
    qs_open_options { size: size_of::<qs_open_options>(), db_id: ptr::null() };

fn open_with(dir: &Path, options: *const qs_open_options) -> Result<*mut qs_db, qs_result> {
    let dir = CString::new(dir.as_os_str().as_bytes()).unwrap();
    let mut db = ptr::dangling_mut();
    // SAFETY: all three point to what they should.
    let result = unsafe { qs_open(dir.as_ptr(), options, &mut db) };
    assert_eq!(result == QS_OK, !db.is_null(), "{result:?} with {db:?}");
    if result == QS_OK { Ok(db) } else { Err(result) }
}

fn open(dir: &Path) -> *mut qs_db {
    open_with(dir, ptr::null()).unwrap()
}

fn get(db: *const qs_db, key: &[u8]) -> Result<Vec<u8>, qs_result> {
    let mut value = qs_value { data: ptr::dangling(), size: 7 };
    // SAFETY: `db` came from `qs_open`, the others point to what they should.
    let result = unsafe { qs_get(db, key.as_ptr().cast(), key.len(), &mut value) };
    if result != QS_OK {
        assert!(value.data.is_null() && value.size == 0, "{value:?} after {result:?}");
        return Err(result);
    }
    // SAFETY: the library says so, NUL byte included.
    let bytes = unsafe { std::slice::from_raw_parts(value.data, value.size + 1) };
    assert_eq!(bytes.last(), Some(&0));
    let copy = bytes[..value.size].to_vec();
    for _ in 0..2 {
        // SAFETY: the library wrote it, and nobody changed it.
        assert_eq!(unsafe { qs_value_free(&mut value) }, QS_OK);
        assert!(value.data.is_null() && value.size == 0);
    }
    Ok(copy)
}

fn close(db: *mut qs_db) -> qs_result {
    // SAFETY: `db` came from `qs_open`.
    unsafe { qs_close(db) }
}

fn text(text: *const c_char) -> String {
    // SAFETY: the library gives strings, which live long enough to be copied.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_owned()
}

fn last_error() -> String {
    text(qs_last_error())
}

#[test]
fn a_panic_is_a_code_and_a_message() {
    assert_eq!(boundary::call(|| panic!("the {} fell off", "wheel")), QS_PANIC);
    assert_eq!(last_error(), "a bug in libquicksilver: the wheel fell off");
    assert_eq!(boundary::call(|| std::panic::panic_any(7_u8)), QS_PANIC);
    assert_eq!(last_error(), "a bug in libquicksilver: no message");
}

#[test]
fn a_handle_outlives_its_close_as_a_tombstone() {
    let made = Db::from([("hello", "world")]).unwrap();
    let db = open(made.path());
    assert_eq!(get(db, b"hello").unwrap(), b"world");
    assert_eq!(close(db), QS_OK);
    let again = open(made.path());
    assert_ne!(db, again);
    for _ in 0..3 {
        assert_eq!(get(db, b"hello"), Err(QS_CLOSED));
        assert_eq!(close(db), QS_CLOSED);
        assert_eq!(last_error(), "the handle was closed");
    }
    assert_eq!(get(again, b"hello").unwrap(), b"world");
    assert_eq!(close(again), QS_OK);
}

#[test]
fn a_second_open_is_refused_and_leaves_the_first_alone() {
    let made = Db::from([("hello", "world")]).unwrap();
    let db = open(made.path());
    assert_eq!(open_with(made.path(), ptr::null()), Err(QS_ALREADY_OPEN));
    assert_eq!(get(db, b"hello").unwrap(), b"world");
    assert_eq!(close(db), QS_OK);
}

#[test]
fn pointers_to_something_else_are_refused() {
    let mut words = [0x5a5a_5a5a_5a5a_5a5a_u64; 64];
    let stranger = words.as_mut_ptr().cast::<qs_db>();
    assert_eq!(get(stranger, b"hello"), Err(QS_INVALID_ARGUMENT));
    assert_eq!(close(stranger), QS_INVALID_ARGUMENT);
    assert_eq!(last_error(), "db is not from qs_open");
    let crooked = stranger.wrapping_byte_add(1);
    assert_eq!(close(crooked), QS_INVALID_ARGUMENT);
    let mut index = [0_u64; 2];
    let crooked = index.as_mut_ptr().wrapping_byte_add(1);
    // SAFETY: a crooked pointer is refused before it is used.
    assert_eq!(unsafe { qs_index(stranger, crooked) }, QS_INVALID_ARGUMENT);
    assert_eq!(last_error(), "index is not aligned to 8 bytes");
}

#[test]
fn options_of_other_releases_are_read_or_refused() {
    /// A later release's options.
    #[repr(C)]
    struct Later {
        known: qs_open_options,
        more: u64,
    }
    let made = Db::from([("hello", "world")]).unwrap();
    let mut later = Later { known: OPTIONS, more: 0 };
    later.known.size = size_of::<Later>();
    let opened = open_with(made.path(), (&raw const later).cast()).unwrap();
    assert_eq!(close(opened), QS_OK);
    later.more = 1;
    let refused = open_with(made.path(), (&raw const later).cast());
    assert_eq!(refused, Err(QS_INVALID_ARGUMENT));
    assert!(last_error().contains("does not know"), "{}", last_error());
    for size in [0, 1, size_of::<usize>(), size_of::<qs_open_options>() - 1, 4097, usize::MAX] {
        let refused = open_with(made.path(), &qs_open_options { size, ..OPTIONS });
        assert_eq!(refused, Err(QS_INVALID_ARGUMENT), "{size}");
        assert!(last_error().contains("QS_OPEN_OPTIONS_INIT"), "{}", last_error());
    }
}

#[test]
fn the_database_can_be_named() {
    let made = Db::from([("hello", "world")]).unwrap();
    let real = CString::new(made.db_id().to_string()).unwrap();
    let db = open_with(made.path(), &qs_open_options { db_id: real.as_ptr(), ..OPTIONS }).unwrap();
    assert_eq!(close(db), QS_OK);
    let other = c"00000000-0000-4000-8000-000000000000";
    let refused = open_with(made.path(), &qs_open_options { db_id: other.as_ptr(), ..OPTIONS });
    assert_eq!(refused, Err(QS_WRONG_DATABASE));
    assert!(last_error().contains(real.to_str().unwrap()), "{}", last_error());
    let refused = open_with(made.path(), &qs_open_options { db_id: c"dns".as_ptr(), ..OPTIONS });
    assert_eq!(refused, Err(QS_INVALID_ARGUMENT));
    // A refused open leaves nothing open.
    assert_eq!(close(open(made.path())), QS_OK);
}

#[test]
fn what_cannot_be_opened_says_why() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(open_with(dir.path(), ptr::null()), Err(QS_NO_DATABASE));
    assert!(last_error().contains("no database here"), "{}", last_error());
    assert_eq!(open_with(&dir.path().join("nowhere"), ptr::null()), Err(QS_NO_DATABASE));
    let made = Db::from([("hello", "world")]).unwrap();
    let data = made.path().join("gen-000001/data.mdb");
    std::fs::write(&data, [0x5a; 8192]).unwrap();
    assert_eq!(open_with(made.path(), ptr::null()), Err(QS_CORRUPT));
}

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
    let shared = db.expose_provenance();
    let read = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let db = ptr::with_exposed_provenance_mut(shared);
                loop {
                    match get(db, b"hello") {
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
    // Nothing holds it any more.
    assert_eq!(close(open(made.path())), QS_OK);
}

#[test]
fn each_thread_has_its_own_last_error() {
    assert_eq!(close(ptr::null_mut()), QS_INVALID_ARGUMENT);
    assert_eq!(last_error(), "db is NULL");
    std::thread::spawn(|| assert_eq!(last_error(), "")).join().unwrap();
    text::set_last_error("with\0in".to_owned());
    assert_eq!(last_error(), "with?in");
}

#[test]
fn every_code_has_its_number_and_its_words() {
    for (number, result) in qs_result::ALL.into_iter().enumerate() {
        assert_eq!(result as usize, number);
        assert_ne!(text(qs_strerror(number as c_int)), "unknown result code");
    }
    for unknown in [-1, qs_result::ALL.len() as c_int, c_int::MIN, c_int::MAX] {
        assert_eq!(text(qs_strerror(unknown)), "unknown result code");
    }
    assert_eq!(text(qs_version()), env!("CARGO_PKG_VERSION"));
}
