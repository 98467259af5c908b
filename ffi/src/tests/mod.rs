//! What a C program can meet and must live through, right or wrong.
//!
//! `ffi/tests/c_programs.rs` does much of it from C; here is what C cannot reach: panics, data
//! that changes or is damaged, structures of other releases.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod changing;
mod opening;
mod reading;

use std::ffi::{CStr, CString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use crate::qs_result::*;
use crate::*;

const OPTIONS: qs_open_options =
    qs_open_options { size: size_of::<qs_open_options>(), db_id: ptr::null(), wait_ms: 0 };

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

fn close(db: *mut qs_db) -> qs_result {
    qs_close(db)
}

fn get(db: *const qs_db, key: &[u8]) -> Result<Vec<u8>, qs_result> {
    let mut value = qs_value { data: ptr::dangling(), size: 7 };
    // SAFETY: key and value are what they should be.
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

/// What a slice shows, while it is valid.
fn bytes(slice: qs_slice) -> Vec<u8> {
    // SAFETY: the caller has just got it from the library.
    unsafe { std::slice::from_raw_parts(slice.data, slice.size) }.to_vec()
}

fn snapshot(db: *const qs_db) -> *mut qs_snapshot {
    let mut snapshot = ptr::null_mut();
    // SAFETY: `snapshot` is a place.
    assert_eq!(unsafe { qs_snapshot_begin(db, &mut snapshot) }, QS_OK, "{}", last_error());
    snapshot
}

fn snapshot_get(snapshot: *const qs_snapshot, key: &[u8]) -> Result<Vec<u8>, qs_result> {
    let mut value = qs_slice::NONE;
    // SAFETY: key and value are what they should be.
    match unsafe { qs_snapshot_get(snapshot, key.as_ptr().cast(), key.len(), &mut value) } {
        QS_OK => Ok(bytes(value)),
        other => Err(other),
    }
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
