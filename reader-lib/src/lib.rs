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
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Which call for what
//!
//! | to | use |
//! |---|---|
//! | read one key | [`Reader::get`]; [`get_into`](Reader::get_into) fills a buffer that is used again, [`get_with`](Reader::get_with) copies nothing |
//! | read several keys of one moment | [`Reader::multi_get`], or a [`Snapshot`] |
//! | walk keys, forward or backward | [`Snapshot::prefix`], [`Snapshot::range`] |
//! | walk very many keys | [`Reader::page`], which holds nothing back between pages |
//! | keep a parsed value | [`Cached`] |
//! | ask "is there anything new?" | [`Reader::index`], nanoseconds |
//! | sleep until there is | [`Reader::wait_for`], or `wait_for_async` with the feature `tokio` |
//! | learn what changed | [`Reader::changes`] |
//! | see how far and how healthy it is | [`Reader::status`] |
//! | wait for a database, or insist on one | [`Reader::options`] |
//! | test a program that reads | [`testing::Db`] |
//!
//! Open a database once and clone the [`Reader`]: it is cheap, and every thread may use it.
//!
//! # What holds
//! * A read returns the value that was written, `None`, or an error; every value carries a CRC
//!   that is checked on every read.
//! * Reading never waits for the replicator, and goes on when the replicator does not run, when the
//!   disk is full, when the directory disappears.
//! * A [`Snapshot`] shows one index; batches are visible whole. No reader goes back in time.
//! * When the replicator builds a new generation (after a compaction, say), the next read is there.
//!   Nobody restarts.
//!
//! # What to know
//! * **Hold snapshots briefly.** The writer cannot use pages again that a snapshot may look at.
//! * **`fork`**: what was opened before it is dead in the child, and says so; open anew there.
//! * **Permissions**: read access to `data.mdb`, read and write access to `lock.mdb`, which is where
//!   readers say what they look at. The package makes a group for that. A read-only mount will not
//!   do, nor will a network file system; both are errors that say so.
//! * **Containers** work while no two readers have the same pid number; two that do are told apart,
//!   and the second gets an error that names the cure.
//! * One copy of this library in a process: a second one is noticed, and refused.
//!
//! # Features
//! * `tokio`: [`Reader`] and [`Changes`] can be waited for in a tokio runtime.
//! * `writer`: `Writer`, for producers: writes to the root over its client socket, across restarts.

#[cfg(feature = "tokio")]
mod asynchronous;
pub mod build;
mod cached;
mod changes;
pub mod environment;
mod error;
mod follow;
pub mod log;
mod options;
mod pairs;
mod pool;
mod reader;
mod snapshot;
pub mod status_page;
pub mod testing;
mod value;
pub mod verify;
#[cfg(feature = "writer")]
pub mod writer;

pub use cached::Cached;
pub use changes::{Change, Changes};
pub use error::{Error, Result};
pub use options::OpenOptions;
pub use pairs::Pairs;
pub use quicksilver_format::{DbId, HistoryId, Index, Position, RunningHash, StateDigest};
pub use quicksilver_lmdb::LmdbError;
pub use reader::{Reader, Status};
pub use snapshot::Snapshot;
pub use value::Value;
#[cfg(feature = "writer")]
pub use writer::Writer;
