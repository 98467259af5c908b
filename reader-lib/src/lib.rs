//! Read Quicksilver configuration data straight out of shared memory.
//!
//! A replicator (`quicksilverd`) keeps a full copy of a database in an LMDB environment on this
//! machine; this crate opens that environment read-only. There is no socket and no server round
//! trip: a [`Reader::get`] is a lookup in a memory map, a few hundred nanoseconds, whatever the
//! writer does.
//!
//! ```
//! # let db = quicksilver::testing::Db::from([("hello", "world"), ("zone/a", "1")])?;
//! # let dir = db.path();
//! use quicksilver::Reader;
//!
//! let reader = Reader::open(dir)?;
//! assert_eq!(reader.get(b"hello")?.as_deref(), Some(&b"world"[..]));
//!
//! // Several keys from one moment:
//! let snapshot = reader.snapshot()?;
//! for pair in snapshot.prefix(b"zone/")? {
//!     let (key, value) = pair?;
//!     println!("{} = {}", key.escape_ascii(), value.escape_ascii());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What holds:
//! * A read returns the value that was written, `None`, or an error; every value carries a CRC
//!   that is checked on every read.
//! * Reading never waits for the replicator, and goes on when the replicator does not run.
//! * A [`Snapshot`] shows one index; batches are visible whole.

pub mod environment;
mod error;
pub mod log;
mod reader;
mod snapshot;
pub mod status_page;
pub mod testing;
mod value;
pub mod verify;

pub use error::{Error, Result};
pub use quicksilver_format::{DbId, HistoryId, Index, Position, RunningHash, StateDigest};
pub use quicksilver_lmdb::LmdbError;
pub use reader::{Reader, Status};
pub use snapshot::{Pairs, Snapshot};
pub use value::Value;
