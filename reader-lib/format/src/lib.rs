//! Quicksilver's formats: bytes to types and back.
//!
//! Everything that is written to a disk or handed to another process has exactly one pair of
//! encode and decode functions, and it is in this crate. There is no I/O here, no LMDB and no
//! clock; `unsafe` is forbidden. `docs/FORMAT.md` draws the same layouts as byte diagrams.
//!
//! Two rules hold everywhere:
//! * integers are little-endian, except in LMDB keys, which are big-endian so that LMDB's byte
//!   order is numeric order;
//! * a length that came from outside is compared with a named limit before anything is
//!   allocated for it.
#![forbid(unsafe_code)]

pub mod address;
pub mod batch;
pub mod cell;
pub mod chunk;
pub mod control;
pub mod digest;
pub mod entry;
pub mod error;
pub mod hash;
pub mod ids;
pub mod layout;
pub mod limits;
pub mod manifest;
pub mod meta;
#[cfg(feature = "next-format")]
pub mod next;
pub mod status;
pub mod version;
mod wire;

pub use address::{Address, AddressError};
pub use batch::{Batch, BatchBuilder, BatchLimits};
pub use cell::{Cell, CellCrc};
pub use control::{ControlRecord, Heartbeat};
pub use digest::StateDigest;
pub use entry::{Entry, Op};
pub use error::FormatError;
pub use hash::{Position, RunningHash};
pub use ids::{DbId, HistoryId, Index, NodeId, ProcessId};
pub use version::{NEW_DATABASE_FORMAT_VERSION, NEWEST_FORMAT_VERSION};
