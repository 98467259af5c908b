//! A safe wrapper over LMDB 0.9 that knows bytes, not Quicksilver.
//!
//! It makes LMDB's rules the compiler's business where it can (slices and cursors borrow their
//! transaction, writing needs `&mut`), and an error where it cannot (a second open in one process,
//! use after `fork`, a read-only mount, another environment's bucket).
//!
//! ```
//! use quicksilver_lmdb::{Env, EnvOptions, Transaction};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let env = Env::open_writer(dir.path(), &EnvOptions::default())?;
//! let bucket = env.create_bucket("data")?;
//! let mut txn = env.write()?;
//! txn.put(bucket, b"key", b"value")?;
//! txn.commit()?;
//! assert_eq!(env.read()?.get(bucket, b"key")?, Some(&b"value"[..]));
//! # Ok(()) }
//! ```
//!
//! # Modules
//! `env` opens and hands out transactions; `registry`, `open_lock` and `fork` keep the process and
//! file-lock rules; `reader_table` prepares `lock.mdb`; `handle` owns the C environment; `txn`,
//! `write` and `cursor` read and write; `inspect` looks from outside; `mount`, `thread`, `version` and `error`
//! as named.
//!
//! # The C functions in use (all of them; `sys` imports nothing else)
//! `mdb_version`; `mdb_env_create`, `_open`, `_close`, `_info`, `_stat`, `_get_fd`,
//! `_set_mapsize`, `_set_maxdbs`, `_set_maxreaders`; `mdb_txn_begin`, `_commit`, `_abort`,
//! `_reset`, `_renew`, `_id`; `mdb_dbi_open`, `mdb_stat`, `mdb_get`, `mdb_put`, `mdb_del`,
//! `mdb_drop`; `mdb_cursor_open`, `_close`, `_get`, `_put`, `_del`; `mdb_reader_check`,
//! `mdb_reader_list`. From libc: `pthread_atfork`.
//!
//! # What the compiler refuses
//! A slice cannot outlive its transaction:
//! ```compile_fail,E0505
//! use quicksilver_lmdb::{Bucket, Env, Transaction};
//! fn keep(env: &Env, bucket: Bucket) {
//!     let txn = env.read().unwrap();
//!     let value = txn.get(bucket, b"key").unwrap();
//!     drop(txn);
//!     println!("{value:?}");
//! }
//! ```
//! A write while something borrowed from the transaction is alive:
//! ```compile_fail,E0502
//! use quicksilver_lmdb::{Bucket, Transaction, WriteTxn};
//! fn overwrite(txn: &mut WriteTxn<'_>, bucket: Bucket) {
//!     let old = txn.get(bucket, b"key").unwrap();
//!     txn.put(bucket, b"key", b"new").unwrap();
//!     println!("{old:?}");
//! }
//! ```
//! A commit while a cursor is open:
//! ```compile_fail,E0505
//! use quicksilver_lmdb::{Bucket, Transaction, WriteTxn};
//! fn commit(txn: WriteTxn<'_>, bucket: Bucket) {
//!     let mut cursor = txn.cursor(bucket).unwrap();
//!     txn.commit().unwrap();
//!     cursor.first().unwrap();
//! }
//! ```
//! A write cursor's pair after the cursor has moved on:
//! ```compile_fail,E0499
//! use quicksilver_lmdb::WriteCursor;
//! fn two(cursor: &mut WriteCursor<'_>) {
//!     let first = cursor.first().unwrap();
//!     cursor.del_current().unwrap();
//!     println!("{first:?}");
//! }
//! ```
//! A transaction that outlives its environment:
//! ```compile_fail,E0505
//! use quicksilver_lmdb::Env;
//! fn outlive(env: Env) {
//!     let txn = env.read().unwrap();
//!     drop(env);
//!     drop(txn);
//! }
//! ```
//! A write transaction on another thread, or a read transaction on two at once:
//! ```compile_fail,E0277
//! fn is_send<T: Send>() {}
//! is_send::<quicksilver_lmdb::WriteTxn<'static>>();
//! ```
//! ```compile_fail,E0277
//! fn is_sync<T: Sync>() {}
//! is_sync::<quicksilver_lmdb::OwnedReadTxn>();
//! ```
#![allow(unsafe_code, reason = "this crate is the safe wrapper around a C library")]

mod bucket;
mod cursor;
mod env;
mod error;
mod fork;
mod handle;
mod inspect;
mod mount;
mod open_lock;
mod reader_table;
mod registry;
mod resident;
mod sys;
mod thread;
mod txn;
mod version;
mod write;

pub use bucket::{Bucket, Stat};
pub use cursor::{Cursor, Pair, WriteCursor};
pub use env::{Env, EnvOptions};
pub use error::{LmdbError, Place};
pub use fork::ProcessMark;
pub use inspect::{EnvInfo, FreePages, ReaderSlot};
pub use registry::close_skipped;
pub use thread::thread_number;
pub use txn::{MAX_KEY_BYTES, OwnedReadTxn, ReadTxn, Transaction};
pub use version::{MIN_PATCH, library_version};
pub use write::WriteTxn;
