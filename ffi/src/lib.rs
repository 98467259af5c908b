//! `libquicksilver`: the C ABI of the Quicksilver reader.
//!
//! What every function keeps:
//! * It returns a [`qs_result`]; results go through pointers and are written only as its comment
//!   says. The three that return text cannot fail.
//! * It never unwinds: each body runs inside [`boundary::call`], and a panic is `QS_PANIC`.
//! * NULL is an error code, never a crash. So is a handle that was closed: a closed `qs_db` stays
//!   behind as a tombstone and is never freed.
//! * Every function may be called from every thread.
//!
//! The Rust names are the C names, so that one search finds both. `include/quicksilver.h` is
//! generated from these files by `tests/header.rs`.
#![allow(unsafe_code, reason = "a C ABI takes and gives raw pointers")]
#![allow(non_camel_case_types, reason = "the names are the C names")]

mod boundary;
mod handle;
mod open;
mod read;
mod result;
#[cfg(test)]
mod tests;
mod text;

pub use handle::qs_db;
pub use open::{qs_close, qs_open, qs_open_options};
pub use read::{QS_KEY_MAX_BYTES, qs_get, qs_index, qs_value, qs_value_free};
pub use result::qs_result;
pub use text::{qs_last_error, qs_strerror, qs_version};
