//! Bytes that cross the boundary: keys and strings on the way in, views on the way out.

use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use std::slice;

use crate::boundary::Plain;
use crate::result::{Failure, qs_result};

/// Longest key, in bytes. The shortest has one.
pub const QS_KEY_MAX_BYTES: usize = 511;

/// Bytes that belong to somebody else. On the way in they are the caller's and need last only
/// as long as the call; on the way out they are the library's, and each function says for how
/// long. There is no NUL behind them.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct qs_slice {
    /// The first byte; may be NULL when `size` is 0.
    pub data: *const u8,
    /// How many bytes.
    pub size: usize,
}

// SAFETY: the NULL pointer, and 0.
unsafe impl Plain for qs_slice {}
// SAFETY: two numbers; whoever follows the pointer has the duty to know that it is valid.
unsafe impl Send for qs_slice {}

impl qs_slice {
    pub(crate) const NONE: qs_slice = qs_slice { data: ptr::null(), size: 0 };

    /// A view of bytes, whose life is not tracked from here on. Its `data` is never NULL.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        // An empty slice's address may be anything but NULL; C programmers like real ones.
        let data = if bytes.is_empty() { c"".as_ptr().cast() } else { bytes.as_ptr() };
        qs_slice { data, size: bytes.len() }
    }
}

/// What a caller calls a key.
///
/// # Safety
/// `key` is NULL or points to `key_size` readable bytes that outlive the result.
#[inline]
pub(crate) unsafe fn read_key<'a>(
    key: *const c_void,
    key_size: usize,
) -> Result<&'a [u8], Failure> {
    if key.is_null() {
        return Err(Failure::null("key"));
    }
    if !(1..=QS_KEY_MAX_BYTES).contains(&key_size) {
        return Err(bad_key(key_size));
    }
    // SAFETY: not NULL and far below isize::MAX, as just checked; readable, as promised.
    Ok(unsafe { slice::from_raw_parts(key.cast::<u8>(), key_size) })
}

#[cold]
fn bad_key(key_size: usize) -> Failure {
    let message = format!("key of {key_size} bytes: a key has 1 to {QS_KEY_MAX_BYTES} bytes");
    Failure::new(qs_result::QS_INVALID_ARGUMENT, message)
}

/// A prefix or a bound: up to a key's length, and possibly empty, also as NULL.
///
/// # Safety
/// `data` is NULL or points to `size` readable bytes that outlive the result.
pub(crate) unsafe fn read_key_part<'a>(
    data: *const c_void,
    size: usize,
    what: &str,
) -> Result<&'a [u8], Failure> {
    if size == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(Failure::null(what));
    }
    if size > QS_KEY_MAX_BYTES {
        let message = format!("{what} of {size} bytes: no key has more than {QS_KEY_MAX_BYTES}");
        return Err(Failure::new(qs_result::QS_INVALID_ARGUMENT, message));
    }
    // SAFETY: not NULL and far below isize::MAX, as just checked; readable, as promised.
    Ok(unsafe { slice::from_raw_parts(data.cast::<u8>(), size) })
}

/// A C string.
///
/// # Safety
/// `text` is NULL or a NUL-terminated string that outlives the result.
pub(crate) unsafe fn read_text<'a>(text: *const c_char) -> Option<&'a CStr> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not NULL, as just checked, and a string, as the caller promises.
    Some(unsafe { CStr::from_ptr(text) })
}
