//! What the library says in words: versions, codes, and the last failure of each thread.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};

use crate::result::qs_result;

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Remembers why a call of this thread failed.
pub(crate) fn set_last_error(message: String) {
    let mut bytes = message.into_bytes();
    for byte in &mut bytes {
        if *byte == 0 {
            *byte = b'?';
        }
    }
    let message = CString::new(bytes).unwrap_or_default();
    // A thread that is ending has no last error any more.
    let _ = LAST_ERROR.try_with(|last| last.replace(message));
}

/// Why the calling thread's last failed call failed, for people: it names the directory, the key,
/// what was found and what to do. Empty when none has failed; never NULL. `QS_OK`,
/// `QS_NOT_FOUND`, `QS_TOO_SMALL` and `QS_TIMEOUT` leave it as it was.
///
/// Ownership: the library's. It is valid until the next call of this thread that fails, and until
/// the thread ends: copy it to keep it.
#[unsafe(no_mangle)]
pub extern "C" fn qs_last_error() -> *const c_char {
    LAST_ERROR.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// A code in a few words; never NULL, also for numbers that mean nothing.
///
/// Ownership: static.
#[unsafe(no_mangle)]
pub extern "C" fn qs_strerror(result: c_int) -> *const c_char {
    let known = qs_result::ALL.into_iter().find(|known| *known as c_int == result);
    known.map_or(c"unknown result code", qs_result::text).as_ptr()
}

/// The library's version, as in "1.2.3".
///
/// Ownership: static.
#[unsafe(no_mangle)]
pub extern "C" fn qs_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => panic!("the version contains NUL"),
        };
    VERSION.as_ptr()
}
