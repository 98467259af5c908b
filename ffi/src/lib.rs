//! `libquicksilver`: the C ABI of the Quicksilver reader.
//!
//! What every function keeps:
//! * It returns a [`qs_result`]; results go through pointers and are written only as its comment
//!   says. The three that return text cannot fail.
//! * It never unwinds: each body runs inside [`boundary::call`], and a panic is `QS_PANIC`.
//! * NULL is an error code, never a crash. So is a handle that was closed, a handle of another
//!   kind, and a pointer that never was a handle: handles are numbers (`handle`, `table`).
//! * Every function may be called from every thread.
//!
//! The Rust names are the C names, so that one search finds both. `include/quicksilver.h` is
//! generated from these files by `tests/header.rs`.
#![allow(unsafe_code, reason = "a C ABI takes and gives raw pointers")]
#![allow(non_camel_case_types, reason = "the names are the C names")]

mod boundary;
mod bytes;
mod changes;
mod deadline;
mod fork;
mod handle;
mod open;
mod range;
mod read;
mod result;
mod scan;
mod snapshot;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod versioned;

pub use bytes::{QS_KEY_MAX_BYTES, qs_slice};
pub use changes::{
    qs_change, qs_change_kind, qs_changes_close, qs_changes_next, qs_changes_open,
    qs_changes_position,
};
pub use handle::{qs_changes, qs_db, qs_scan, qs_snapshot};
pub use open::{qs_close, qs_open, qs_open_options};
pub use read::{qs_get, qs_get_into, qs_multi_get, qs_value, qs_value_free};
pub use result::qs_result;
pub use scan::{
    QS_SCAN_BACKWARD, QS_SCAN_FROM_EXCLUDED, QS_SCAN_TO_INCLUDED, qs_scan_begin, qs_scan_end,
    qs_scan_next, qs_scan_options,
};
pub use snapshot::{qs_snapshot_begin, qs_snapshot_end, qs_snapshot_get, qs_snapshot_index};
pub use status::{QS_ID_BYTES, qs_db_status, qs_index, qs_state, qs_status, qs_wait};
pub use text::{qs_last_error, qs_strerror, qs_version};
