//! The only door to the C library: the exact list of what this crate uses from it.
//!
//! Invariant: no other module names `lmdb_sys`, and there is no glob here, so this page is the
//! complete C surface that the `SAFETY:` comments elsewhere have to argue about.

pub(crate) use lmdb_sys::{MDB_APPEND, MDB_CREATE, MDB_CURRENT, MDB_NOOVERWRITE};
pub(crate) use lmdb_sys::{
    MDB_BAD_DBI, MDB_BAD_RSLOT, MDB_BAD_TXN, MDB_BAD_VALSIZE, MDB_CORRUPTED, MDB_CURSOR_FULL,
    MDB_DBS_FULL, MDB_INCOMPATIBLE, MDB_INVALID, MDB_KEYEXIST, MDB_MAP_FULL, MDB_MAP_RESIZED,
    MDB_NOTFOUND, MDB_PAGE_FULL, MDB_PAGE_NOTFOUND, MDB_PANIC, MDB_READERS_FULL, MDB_SUCCESS,
    MDB_TLS_FULL, MDB_TXN_FULL, MDB_VERSION_MISMATCH,
};
pub(crate) use lmdb_sys::{
    MDB_FIRST, MDB_GET_CURRENT, MDB_LAST, MDB_NEXT, MDB_PREV, MDB_SET_KEY, MDB_SET_RANGE,
};
pub(crate) use lmdb_sys::{MDB_NOSYNC, MDB_NOTLS, MDB_RDONLY};
pub(crate) use lmdb_sys::{
    MDB_cursor, MDB_cursor_op, MDB_dbi, MDB_env, MDB_envinfo, MDB_msg_func, MDB_stat, MDB_txn,
    MDB_val,
};
pub(crate) use lmdb_sys::{
    mdb_cursor_close, mdb_cursor_del, mdb_cursor_get, mdb_cursor_open, mdb_cursor_put,
};
pub(crate) use lmdb_sys::{mdb_dbi_open, mdb_del, mdb_drop, mdb_get, mdb_put, mdb_stat};
pub(crate) use lmdb_sys::{
    mdb_env_close, mdb_env_create, mdb_env_get_fd, mdb_env_info, mdb_env_open, mdb_env_set_mapsize,
    mdb_env_set_maxdbs, mdb_env_set_maxreaders, mdb_env_stat, mdb_env_sync, mdb_reader_check,
    mdb_reader_list, mdb_version,
};
pub(crate) use lmdb_sys::{
    mdb_txn_abort, mdb_txn_begin, mdb_txn_commit, mdb_txn_id, mdb_txn_renew, mdb_txn_reset,
};

/// "Unexpected problem, the transaction should abort". Newer 0.9 releases have it, the bindings
/// do not; the number is from `lmdb.h`.
pub(crate) const MDB_PROBLEM: std::ffi::c_int = -30779;

/// The database that holds the list of free pages: `FREE_DBI` in `mdb.c`.
pub(crate) const FREE_DBI: MDB_dbi = 0;
