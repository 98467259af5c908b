//! Looking at an environment from outside: readers, sizes, free pages.
//!
//! Invariant: nothing here holds a snapshot longer than one call.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::null_mut;

use crate::LmdbError;
use crate::cursor::Cursor;
use crate::env::Env;
use crate::handle::Handle;
use crate::sys::{FREE_DBI, MDB_SUCCESS, MDB_envinfo, MDB_msg_func, mdb_env_info, mdb_reader_list};
use crate::txn::sealed::Raw;

/// One taken slot of the reader table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReaderSlot {
    /// The process, numbered as in its own PID namespace.
    pub pid: u32,
    /// The thread that took the slot, as LMDB prints it.
    pub thread: u64,
    /// The snapshot it holds; `None` while idle.
    pub txn_id: Option<u64>,
}

/// Sizes and counters of an environment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EnvInfo {
    /// Size of the map in bytes.
    pub map_bytes: usize,
    /// Number of the last page in use; the file is one page longer than this many pages.
    pub last_page: u64,
    /// Number of the last commit.
    pub last_txn_id: u64,
    /// Slots in the reader table.
    pub max_readers: u32,
    /// The most slots that were ever taken since `lock.mdb` was made, not those taken now.
    pub num_readers: u32,
}

/// Pages on the free list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FreePages {
    /// All of them.
    pub total: u64,
    /// Those that a reader may still see, so that the writer cannot reuse them yet.
    pub held_back: u64,
}

pub(crate) fn info(handle: &Handle) -> Result<EnvInfo, LmdbError> {
    let doing = "asking for sizes";
    handle.check_fork(doing)?;
    let mut raw = MDB_envinfo {
        me_mapaddr: null_mut(),
        me_mapsize: 0,
        me_last_pgno: 0,
        me_last_txnid: 0,
        me_maxreaders: 0,
        me_numreaders: 0,
    };
    // SAFETY: the environment is open and `raw` is a valid place.
    let code = unsafe { mdb_env_info(handle.env.as_ptr(), &raw mut raw) };
    if code != MDB_SUCCESS {
        return Err(handle.fail(code, doing));
    }
    Ok(EnvInfo {
        map_bytes: raw.me_mapsize,
        last_page: raw.me_last_pgno as u64,
        last_txn_id: raw.me_last_txnid as u64,
        max_readers: raw.me_maxreaders,
        num_readers: raw.me_numreaders,
    })
}

pub(crate) fn readers(handle: &Handle) -> Result<Vec<ReaderSlot>, LmdbError> {
    Ok(reader_list(handle)?.lines().filter_map(parse_slot).collect())
}

/// Whether LMDB has a reader table: on a read-only file system it goes on without one.
pub(crate) fn has_reader_table(handle: &Handle) -> Result<bool, LmdbError> {
    Ok(!reader_list(handle)?.contains("no reader locks"))
}

pub(crate) fn free_pages(env: &Env) -> Result<FreePages, LmdbError> {
    // Before our own read, so that it does not count itself.
    let oldest = readers(env.handle())?.iter().filter_map(|slot| slot.txn_id).min();
    let txn = env.read()?;
    let oldest = oldest.unwrap_or(u64::MAX);
    let free_list = env.handle().bucket(FREE_DBI);
    // SAFETY: the transaction is live and outlives the cursor; reading the free list is allowed
    // in a read transaction.
    let mut cursor = unsafe { Cursor::open(env.handle(), txn.txn(), free_list)? };
    let mut pages = FreePages::default();
    while let Some((freed_by, list)) = cursor.next()? {
        let count = native_u64(list);
        pages.total += count;
        if native_u64(freed_by) >= oldest {
            pages.held_back += count;
        }
    }
    Ok(pages)
}

/// The first word of a free-list key (a transaction's number) or value (a count).
#[allow(clippy::host_endian_bytes, reason = "LMDB writes these words in host order")]
fn native_u64(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |word| usize::from_ne_bytes(*word) as u64)
}

/// What LMDB prints about its reader table.
fn reader_list(handle: &Handle) -> Result<String, LmdbError> {
    let doing = "listing the readers";
    handle.check_fork(doing)?;
    let mut text = String::new();
    // The bindings declare a pointer to a function pointer where C has the function pointer
    // itself, so the function's address is what to pass.
    let callback = (collect as MDB_msg_func) as *mut MDB_msg_func;
    // SAFETY: the environment is open; `collect` has the C signature of MDB_msg_func, and its
    // context is `text`, which outlives the call and is not used otherwise meanwhile.
    let code =
        unsafe { mdb_reader_list(handle.env.as_ptr(), callback, (&raw mut text).cast::<c_void>()) };
    if code < 0 { Err(handle.fail(code, doing)) } else { Ok(text) }
}

extern "C" fn collect(message: *const c_char, context: *mut c_void) -> c_int {
    // SAFETY: `reader_list` passes a String that nobody else uses during the call.
    let text = unsafe { &mut *context.cast::<String>() };
    // SAFETY: LMDB passes a C string that lives during the call.
    text.push_str(&unsafe { CStr::from_ptr(message) }.to_string_lossy());
    0
}

/// A line is `pid thread-in-hex txnid`, the last a dash while idle. The heading is no slot.
fn parse_slot(line: &str) -> Option<ReaderSlot> {
    let mut words = line.split_whitespace();
    let pid = words.next()?.parse().ok()?;
    let thread = u64::from_str_radix(words.next()?, 16).ok()?;
    let txn_id = match words.next()? {
        "-" => None,
        number => Some(number.parse().ok()?),
    };
    Some(ReaderSlot { pid, thread, txn_id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reader_lines() {
        assert_eq!(parse_slot("    pid     thread     txnid"), None);
        assert_eq!(parse_slot("(no active readers)"), None);
        let idle = ReaderSlot { pid: 4711, thread: 0x7f00, txn_id: None };
        assert_eq!(parse_slot("      4711 7f00 -"), Some(idle));
        let busy = ReaderSlot { txn_id: Some(12), ..idle };
        assert_eq!(parse_slot("      4711 7f00 12"), Some(busy));
    }
}
