//! Bytes from outside, and what every decoder must do with any of them.
//!
//! A target takes bytes, and panics when a promise does not hold: no decoder panics, what was decoded
//! is encoded to the same bytes, a stream may be cut anywhere, a session says nothing after its end.
//! They are run in two ways:
//! * `tests/replay.rs` runs all of `corpus/` through them, and seeded mutations of it, with every
//!   `cargo test`;
//! * `libfuzzer/`, a package of its own outside the workspace, lets libFuzzer look for new inputs,
//!   with a limit on memory: `scripts/fuzz`.
//!
//! An input that found something is kept in `corpus/`, under a name that says what.
#![forbid(unsafe_code)]

mod config;
mod frames;
mod handshake;
mod input;
mod records;
mod resp;
mod snapshots;

#[path = "../../replicator/protocol/tests/model/mod.rs"]
mod model;

pub use config::config;
pub use frames::frames;
pub use handshake::handshake;
pub use records::records;
pub use resp::resp;
pub use snapshots::snapshots;

/// A name, and what is done with the bytes. The corpus and the libFuzzer program have the same name.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 6] = [
    ("frames", frames),
    ("handshake", handshake),
    ("records", records),
    ("snapshots", snapshots),
    ("config", config),
    ("resp", resp),
];
