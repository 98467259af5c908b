//! Opening and closing.

use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::slice;

use reader::{DbId, Error, Reader};

use crate::boundary::{call, place};
use crate::handle::qs_db;
use crate::result::{Failure, qs_result};

/// Largest `size` that is believed: far more than the structure will ever need.
const OPTIONS_MAX_BYTES: usize = 4096;

/// How to open a database. Start from `QS_OPEN_OPTIONS_INIT`, which sets `size`, and change what
/// you need: a program that was compiled against an older header goes on working.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct qs_open_options {
    /// `sizeof(qs_open_options)`.
    pub size: usize,
    /// The id of the database that must be there (a UUID in text form), or NULL for any.
    pub db_id: *const c_char,
}

/// What a caller's options say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    db_id: Option<DbId>,
}

/// Opens the database in the directory `dir`, the `data_dir` of a replicator, and stores a handle
/// in `*out`; NULL after a failure.
///
/// The replicator need not run. A process opens a database once and shares the handle between its
/// threads; opening it again while it is open is `QS_ALREADY_OPEN`. After `fork` the handle is of
/// no use in the child: open the database there.
///
/// Ownership: the handle is the caller's until `qs_close`. `dir` and `options` are not kept;
/// `options` may be NULL.
///
/// # Safety
/// `dir` is NULL or a NUL-terminated string. `options` is NULL, or points to as many readable
/// bytes as its `size` says. `out` is NULL or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qs_open(
    dir: *const c_char,
    options: *const qs_open_options,
    out: *mut *mut qs_db,
) -> qs_result {
    call(|| {
        // SAFETY: as promised by the caller.
        let out = unsafe { place(out, "out") }?;
        // SAFETY: as promised by the caller.
        let dir = unsafe { string(dir) }.ok_or_else(|| Failure::null("dir"))?;
        // SAFETY: as promised by the caller.
        let options = unsafe { read_options(options) }?;
        let dir = Path::new(OsStr::from_bytes(dir.to_bytes()));
        let reader = Reader::open(dir)?;
        if let Some(expected) = options.db_id.filter(|expected| *expected != reader.db_id()) {
            let found = reader.db_id();
            return Err(Error::WrongDatabase { path: dir.to_owned(), expected, found }.into());
        }
        *out = qs_db::leak(reader);
        Ok(qs_result::QS_OK)
    })
}

/// Closes a handle. Calls that other threads have begun on it are waited for; calls that begin
/// later, and a second `qs_close`, return `QS_CLOSED`.
///
/// Ownership: values that were got through the handle remain the caller's.
///
/// # Safety
/// `db` is NULL or came from `qs_open`; it may have been closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qs_close(db: *mut qs_db) -> qs_result {
    call(|| {
        // SAFETY: as promised by the caller.
        unsafe { qs_db::of(db) }?.close()?;
        Ok(qs_result::QS_OK)
    })
}

/// # Safety
/// `text` is NULL or a NUL-terminated string that outlives the result.
unsafe fn string<'a>(text: *const c_char) -> Option<&'a CStr> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not NULL, as just checked, and a string, as the caller promises.
    Some(unsafe { CStr::from_ptr(text) })
}

/// Copies as much of a caller's options as both sides know.
///
/// Newer callers may have longer ones: those are accepted while the part we do not know is zero,
/// which means "as always".
///
/// # Safety
/// `options` is NULL, or points to as many readable bytes as its `size` says.
unsafe fn read_options(options: *const qs_open_options) -> Result<Options, Failure> {
    if options.is_null() {
        return Ok(Options::default());
    }
    let invalid = |message: String| Failure::new(qs_result::QS_INVALID_ARGUMENT, message);
    let known = size_of::<qs_open_options>();
    // SAFETY: `size` is the first field of every version, so it can be read; it need not be
    // aligned.
    let size = unsafe { ptr::read_unaligned(options.cast::<usize>()) };
    if !(known..=OPTIONS_MAX_BYTES).contains(&size) {
        return Err(invalid(format!(
            "options->size is {size}: begin with QS_OPEN_OPTIONS_INIT, which sets it to {known}"
        )));
    }
    // SAFETY: the caller promises `size` readable bytes.
    let bytes = unsafe { slice::from_raw_parts(options.cast::<u8>(), size) };
    if bytes[known..].iter().any(|byte| *byte != 0) {
        return Err(invalid(
            "options has a field that this library does not know: upgrade it".into(),
        ));
    }
    // SAFETY: at least `known` bytes are readable, and every field is plain data.
    let options = unsafe { ptr::read_unaligned(options) };
    // SAFETY: the caller promises a string.
    let db_id = match unsafe { string(options.db_id) } {
        None => None,
        Some(text) => {
            let text = text.to_string_lossy();
            Some(text.parse().map_err(|e| invalid(format!("options->db_id: {e}")))?)
        }
    };
    Ok(Options { db_id })
}
