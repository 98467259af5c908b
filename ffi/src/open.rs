//! Opening and closing.

use std::ffi::{OsStr, c_char};
use std::os::unix::ffi::OsStrExt;

use reader::{OpenOptions, Reader};

use crate::boundary::{Plain, call, place};
use crate::bytes::read_text;
use crate::deadline;
use crate::handle::{self, qs_db};
use crate::result::{Failure, qs_result};
use crate::versioned::{self, Versioned};

/// How to open a database. Start from `QS_OPEN_OPTIONS_INIT`, which sets `size`, and change what
/// you need: a program that was compiled against an older header goes on working.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct qs_open_options {
    /// `sizeof(qs_open_options)`.
    pub size: usize,
    /// The id of the database that must be there (a UUID in text form), or NULL for any.
    pub db_id: *const c_char,
    /// How long to wait for a database that is not there yet, in milliseconds: 0 not at all,
    /// negative without end. A replicator that starts for the first time makes it within a
    /// second or two.
    pub wait_ms: i64,
}

// SAFETY: 0, the NULL pointer, 0.
unsafe impl Plain for qs_open_options {}
// SAFETY: three fields of eight bytes, the first is the size; numbers and a pointer.
unsafe impl Versioned for qs_open_options {
    const NAME: &'static str = "options";
    const INIT: &'static str = "QS_OPEN_OPTIONS_INIT";
    const FIRST_BYTES: usize = 24;
}

/// Opens the database in the directory `dir`, the `data_dir` of a replicator, and stores a handle
/// in `*out`; NULL after a failure.
///
/// The replicator need not run: what it left is readable. When it makes a new generation of the
/// files the handle follows. One handle serves all threads: open a database once, at the start;
/// opening it once more shares what is open, and gives a handle of its own. After `fork` the
/// handles are of no use in the child, which opens the database itself.
///
/// Ownership: the handle is the caller's until `qs_close`. `dir` and `options` are not kept;
/// `options` may be NULL.
///
/// Blocks: while another process opens or closes the same database, and up to
/// `options->wait_ms`.
///
/// Returns: `QS_OK`; `QS_NO_DATABASE`, `QS_WRONG_DATABASE`, `QS_PERMISSION`, `QS_FORMAT`,
/// `QS_CORRUPT`, `QS_UNSUPPORTED`, `QS_ALREADY_OPEN`, `QS_BUSY`, `QS_NO_MEMORY`, `QS_IO`,
/// `QS_INVALID_ARGUMENT`.
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
        let dir = unsafe { read_text(dir) }.ok_or_else(|| Failure::null("dir"))?;
        // SAFETY: as promised by the caller.
        let options = unsafe { read_options(options) }?;
        let reader = options.open(OsStr::from_bytes(dir.to_bytes()))?;
        *out = handle::add(reader)?;
        Ok(qs_result::QS_OK)
    })
}

/// Closes a handle. Calls that begin later, and a second `qs_close`, return `QS_CLOSED`.
///
/// Ownership: values that were got through the handle remain the caller's. Snapshots, scans and
/// change feeds go on until their own end.
///
/// Blocks: until the calls that other threads have begun on the handle have ended. Those that
/// wait for something are ended, with `QS_CLOSED`, within a tenth of a second.
///
/// Returns: `QS_OK`; `QS_CLOSED`, `QS_FORKED`, `QS_INVALID_ARGUMENT`.
///
/// # Safety
/// None: whatever `db` is, it is recognised by its number and not followed.
#[unsafe(no_mangle)]
pub extern "C" fn qs_close(db: *mut qs_db) -> qs_result {
    call(|| {
        handle::close(db)?;
        Ok(qs_result::QS_OK)
    })
}

/// # Safety
/// `options` is NULL, or points to as many readable bytes as its `size` says.
unsafe fn read_options(options: *const qs_open_options) -> Result<OpenOptions, Failure> {
    let opening = Reader::options();
    // SAFETY: as promised by the caller.
    let Some(options) = (unsafe { versioned::read(options) })? else {
        return Ok(opening);
    };
    let opening = opening.wait(deadline::timeout(options.wait_ms));
    // SAFETY: the caller promises a string.
    let Some(text) = (unsafe { read_text(options.db_id) }) else {
        return Ok(opening);
    };
    let db_id = text.to_string_lossy().parse().map_err(|e| {
        Failure::new(qs_result::QS_INVALID_ARGUMENT, format!("options->db_id: {e}"))
    })?;
    Ok(opening.expect_db(db_id))
}
