//! How far the database is, waiting until it is further, and what it says about itself.

use std::ffi::c_char;
use std::time::{SystemTime, UNIX_EPOCH};

use reader::Reader;

use crate::boundary::{Plain, call, place};
use crate::deadline::{Deadline, LOOK_AFTER};
use crate::handle::{self, qs_db};
use crate::result::{Failure, qs_result};
use crate::versioned::{self, Versioned};

/// Bytes of an id as text: 36 characters, and NULs.
pub const QS_ID_BYTES: usize = 40;

/// What a replicator is doing. Later releases may say more.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum qs_state {
    /// Nobody knows: no replicator has run here yet, or it is of a later release that says another word.
    QS_STATE_UNKNOWN = 0,
    /// Opening its environment.
    QS_STATE_STARTING = 1,
    /// A root that accepts writes.
    QS_STATE_ROOT = 2,
    /// Following an upstream.
    QS_STATE_FOLLOWING = 3,
    /// Without an upstream, serving what it has.
    QS_STATE_DISCONNECTED = 4,
    /// Its log differs from its upstream's: applies nothing, serves what it has.
    QS_STATE_DIVERGED = 5,
    /// Its storage failed: applies nothing, serves what it has.
    QS_STATE_FAILED = 6,
    /// Left in good order.
    QS_STATE_STOPPED = 7,
}

/// What a database says about itself and its replicator. Start from `QS_DB_STATUS_INIT`, which
/// sets `size`. Times are microseconds since 1970, UTC; 0 when unknown.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct qs_db_status {
    /// `sizeof(qs_db_status)`.
    pub size: usize,
    /// Index of the last entry that is visible here; 0 before the first.
    pub index: u64,
    /// Index of the oldest entry that is still in the log: a feed that begins before it is told to
    /// rescan. One more than `index` when the log is empty.
    pub oldest_index: u64,
    /// Which generation of the files is read.
    pub generation: u64,
    /// Number of keys.
    pub keys: u64,
    /// Bytes of all keys and values.
    pub bytes: u64,
    /// When the root made the last batch that is visible here.
    pub sealed_at_us: u64,
    /// When that batch became visible here.
    pub committed_at_us: u64,
    /// The root's clock, as last heard here: everything that was written before is visible.
    pub heartbeat_us: u64,
    /// How long ago that was, by this machine's clock: the age of the data. Never negative; -1
    /// when unknown.
    pub lag_ms: i64,
    /// When the replicator started.
    pub started_at_us: u64,
    /// The replicator's process id, in its own namespace; 0 when unknown.
    pub replicator_pid: u64,
    /// What it does: a `qs_state`.
    pub state: u64,
    /// Hash over all entries up to `index`: the same on every machine. Its bytes in this order
    /// are what `/status` and `qsctl status` print in hexadecimal.
    pub hash: [u8; 32],
    /// Digest of all pairs at `index`: the same on every machine. As with `hash`.
    pub digest: [u8; 16],
    /// The database's id, text that ends with NUL.
    pub db_id: [c_char; QS_ID_BYTES],
    /// Which of the database's pasts this is, text that ends with NUL: another one after the
    /// database was restored.
    pub history: [c_char; QS_ID_BYTES],
}

// SAFETY: zeros.
unsafe impl Plain for qs_db_status {}
// SAFETY: thirteen fields of eight bytes, the first is the size, then bytes, a multiple of eight;
// numbers all.
unsafe impl Versioned for qs_db_status {
    const NAME: &'static str = "status";
    const INIT: &'static str = "QS_DB_STATUS_INIT";
    const FIRST_BYTES: usize = 232;
}

/// Stores the index of the last entry that is visible here in `*index`; 0 when the database has
/// had none. It costs a few nanoseconds: "is there anything new?" may be asked on every request.
///
/// Returns: `QS_OK`; `QS_CLOSED`, `QS_FORKED`, `QS_CORRUPT`, `QS_BUSY`, `QS_IO`,
/// `QS_INVALID_ARGUMENT`.
///
/// # Safety
/// `index` is NULL or points to a `uint64_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qs_index(db: *const qs_db, index: *mut u64) -> qs_result {
    call(|| {
        // SAFETY: as promised by the caller.
        let index = unsafe { place(index, "index") }?;
        *index = handle::with(db, |reader| Ok(reader.index()?))?.get();
        Ok(qs_result::QS_OK)
    })
}

/// Waits until the entry with `index` is visible here, at most `timeout_ms` milliseconds (0 not
/// at all, negative without end), and stores the last index then in `*now`, with `QS_OK` as with
/// `QS_TIMEOUT`; 0 otherwise. `now` may be NULL.
///
/// A writer learns the index of its write from the root (`QS.INDEX`); waiting for `qs_index`
/// plus one waits for the next change of any kind.
///
/// Blocks: up to the timeout. `qs_close` in another thread ends it with `QS_CLOSED` within a
/// tenth of a second.
///
/// Returns: `QS_OK`; `QS_TIMEOUT`; `QS_CLOSED`, `QS_FORKED`, `QS_CORRUPT`, `QS_BUSY`, `QS_IO`,
/// `QS_INVALID_ARGUMENT`.
///
/// # Safety
/// `now` is NULL or points to a `uint64_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qs_wait(
    db: *const qs_db,
    index: u64,
    timeout_ms: i64,
    now: *mut u64,
) -> qs_result {
    call(|| {
        let mut unwanted = 0;
        let now = if now.is_null() {
            &mut unwanted
        } else {
            // SAFETY: as promised by the caller.
            unsafe { place(now, "now") }?
        };
        let deadline = Deadline::after(timeout_ms);
        *now = handle::with(db, |reader| {
            loop {
                if reader.is_closing() {
                    return Err(handle::closed::<qs_db>());
                }
                let found =
                    reader.wait_for(reader::Index::new(index), deadline.left(LOOK_AFTER))?;
                if found.get() >= index || deadline.has_passed() {
                    return Ok(found.get());
                }
            }
        })?;
        Ok(if *now >= index { qs_result::QS_OK } else { qs_result::QS_TIMEOUT })
    })
}

/// Describes the database and its replicator in `*status`; empty after a failure.
///
/// Returns: `QS_OK`; `QS_CLOSED`, `QS_FORKED`, `QS_CORRUPT`, `QS_BUSY`, `QS_IO`,
/// `QS_INVALID_ARGUMENT`.
///
/// # Safety
/// `status` is NULL, or points to as many writable bytes as its `size` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qs_status(db: *const qs_db, status: *mut qs_db_status) -> qs_result {
    call(|| {
        // SAFETY: as promised by the caller.
        let form = unsafe { versioned::form(status) }?;
        form.fill(&handle::with(db, |reader| describe(&reader))?);
        Ok(qs_result::QS_OK)
    })
}

fn describe(reader: &Reader) -> Result<qs_db_status, Failure> {
    let status = reader.status()?;
    let page = status.page.as_ref();
    let heartbeat_us = page.and_then(|page| page.heartbeat_us);
    Ok(qs_db_status {
        size: size_of::<qs_db_status>(),
        index: status.position.index.get(),
        oldest_index: status.oldest_index.get(),
        generation: status.generation.get(),
        keys: status.keys,
        bytes: status.bytes,
        sealed_at_us: status.sealed_at_us,
        committed_at_us: page.map_or(0, |page| page.commit_time_us),
        heartbeat_us: heartbeat_us.unwrap_or(0),
        lag_ms: heartbeat_us.map_or(-1, age_ms),
        started_at_us: page.map_or(0, |page| page.start_time_us),
        replicator_pid: page.map_or(0, |page| page.pid.into()),
        state: status.state().map_or(qs_state::QS_STATE_UNKNOWN as u64, |state| state as u64 + 1),
        hash: *status.position.hash.as_bytes(),
        digest: status.digest.as_u128().to_be_bytes(),
        db_id: text(&status.db_id.to_string()),
        history: text(&status.history.to_string()),
    })
}

fn age_ms(since_us: u64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let age_ms = now.as_micros().saturating_sub(since_us.into()) / 1000;
    i64::try_from(age_ms).unwrap_or(i64::MAX)
}

/// An id in its place, with NULs behind it.
fn text(id: &str) -> [c_char; QS_ID_BYTES] {
    let mut place = [0; QS_ID_BYTES];
    for (to, from) in place[..QS_ID_BYTES - 1].iter_mut().zip(id.bytes()) {
        *to = from as c_char;
    }
    place
}
