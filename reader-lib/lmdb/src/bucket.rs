//! A named key space inside an environment (LMDB: a named database), and its statistics.
//!
//! Invariant: a [`Bucket`] is only made once its transaction has committed, so every later
//! transaction knows it, and it is never closed while the environment is open.

use std::ptr::NonNull;

use crate::LmdbError;
use crate::handle::Handle;
use crate::sys::{MDB_SUCCESS, MDB_dbi, MDB_stat, MDB_txn, mdb_stat};

/// A handle to a bucket of one environment. Using it with another environment is an error.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Bucket {
    pub(crate) dbi: MDB_dbi,
    pub(crate) env_id: u64,
}

/// What a bucket's tree looks like in one snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stat {
    /// Number of pairs.
    pub entries: u64,
    /// Levels of the tree.
    pub depth: u32,
    /// Inner pages.
    pub branch_pages: u64,
    /// Pages that hold pairs.
    pub leaf_pages: u64,
    /// Pages that hold values too large for a leaf.
    pub overflow_pages: u64,
}

impl Stat {
    /// All of them.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.branch_pages + self.leaf_pages + self.overflow_pages
    }
}

/// Reads a bucket's statistics.
///
/// # Safety
/// `txn` must be a live transaction of `handle` that no other thread uses meanwhile.
pub(crate) unsafe fn stat(
    handle: &Handle,
    txn: NonNull<MDB_txn>,
    bucket: Bucket,
) -> Result<Stat, LmdbError> {
    let doing = "reading a bucket's statistics";
    handle.check(bucket, doing)?;
    let mut raw = MDB_stat {
        ms_psize: 0,
        ms_depth: 0,
        ms_branch_pages: 0,
        ms_leaf_pages: 0,
        ms_overflow_pages: 0,
        ms_entries: 0,
    };
    // SAFETY: the caller guarantees the transaction, `raw` is a valid place, and LMDB checks the
    // bucket's number against the transaction.
    let code = unsafe { mdb_stat(txn.as_ptr(), bucket.dbi, &raw mut raw) };
    if code != MDB_SUCCESS {
        return Err(crate::txn::bucket_failure(handle, code, doing));
    }
    Ok(Stat {
        entries: raw.ms_entries as u64,
        depth: raw.ms_depth,
        branch_pages: raw.ms_branch_pages as u64,
        leaf_pages: raw.ms_leaf_pages as u64,
        overflow_pages: raw.ms_overflow_pages as u64,
    })
}
