//! Change feeds: what was written, entry by entry, and waiting for what will be.

use std::ffi::c_void;
use std::sync::Mutex;

use reader::{Change, Changes, Index};

use crate::boundary::{Plain, call, place};
use crate::bytes::{qs_slice, read_key_part};
use crate::deadline::{Deadline, LOOK_AFTER};
use crate::handle::{self, qs_changes, qs_db};
use crate::result::qs_result;
use crate::snapshot::lock;
use crate::versioned::{self, Versioned};

/// What a change is.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum qs_change_kind {
    /// No change: what is left after a call that did not return one.
    QS_CHANGE_NONE = 0,
    /// The key has this value from this index on.
    QS_CHANGE_SET = 1,
    /// The key is gone from this index on.
    QS_CHANGE_DEL = 2,
    /// Changes are missing: the feed fell behind what the log keeps, or the database was restored
    /// to another past. Begin a new snapshot, read again what you need from it, and go on: the
    /// feed continues behind `index`. What the snapshot shows already may come once more.
    QS_CHANGE_RESCAN = 3,
}

/// One change. Start from `QS_CHANGE_INIT`, which sets `size`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct qs_change {
    /// `sizeof(qs_change)`.
    pub size: usize,
    /// A `qs_change_kind`; treat numbers that you do not know as `QS_CHANGE_RESCAN`.
    pub kind: u64,
    /// The entry's index: its place in the order of all writes to the database.
    pub index: u64,
    /// The key; empty for `QS_CHANGE_RESCAN`.
    pub key: qs_slice,
    /// The value of a `QS_CHANGE_SET`; else empty.
    pub value: qs_slice,
}

// SAFETY: zeros and NULL pointers.
unsafe impl Plain for qs_change {}
// SAFETY: seven fields of eight bytes, the first is the size; numbers and pointers.
unsafe impl Versioned for qs_change {
    const NAME: &'static str = "change";
    const INIT: &'static str = "QS_CHANGE_INIT";
    const FIRST_BYTES: usize = 56;
}

/// What is behind a `qs_changes *`.
pub(crate) struct Feed {
    changes: Changes,
    /// The change that was given last: its bytes are the caller's to look at.
    given: Option<Change>,
}

impl Feed {
    /// How the change that was given last looks in C.
    fn given(&self) -> Option<qs_change> {
        let size = size_of::<qs_change>();
        let none = qs_slice::NONE;
        let (kind, index, key, value) = match self.given.as_ref()? {
            Change::Set { index, key, value } => {
                (qs_change_kind::QS_CHANGE_SET, index, qs_slice::of(key), qs_slice::of(value))
            }
            Change::Del { index, key } => {
                (qs_change_kind::QS_CHANGE_DEL, index, qs_slice::of(key), none)
            }
            Change::Rescan { index } => (qs_change_kind::QS_CHANGE_RESCAN, index, none, none),
        };
        Some(qs_change { size, kind: kind as u64, index: index.get(), key, value })
    }
}

/// Opens a feed of the changes after `after_index` to keys that begin with the `prefix_size`
/// bytes at `prefix` (all keys when 0), and stores a handle in `*out`; NULL after a failure.
///
/// To keep a copy of something up to date: begin a snapshot, take its `qs_snapshot_index`, read
/// what you need, end it, open a feed after that index, and apply what it gives. To go on where
/// an earlier run stopped: keep `qs_changes_position`.
///
/// Ownership: the handle is the caller's until `qs_changes_close`. It does not depend on `db`,
/// which may be closed before. `prefix` is not kept.
///
/// Returns: `QS_OK`; `QS_CLOSED`, `QS_FORKED`, `QS_BUSY`, `QS_CORRUPT`, `QS_NO_MEMORY`, `QS_IO`,
/// `QS_INVALID_ARGUMENT`.
///
/// # Safety
/// `prefix` is NULL or points to `prefix_size` readable bytes. `out` is NULL or points to a
/// pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qs_changes_open(
    db: *const qs_db,
    after_index: u64,
    prefix: *const c_void,
    prefix_size: usize,
    out: *mut *mut qs_changes,
) -> qs_result {
    call(|| {
        // SAFETY: as promised by the caller.
        let out = unsafe { place(out, "out") }?;
        // SAFETY: as promised by the caller.
        let prefix = unsafe { read_key_part(prefix, prefix_size, "prefix") }?;
        let after = Index::new(after_index);
        let changes = handle::with(db, |reader| Ok(reader.changes(after, prefix)?))?;
        *out = handle::add(Mutex::new(Feed { changes, given: None }))?;
        Ok(qs_result::QS_OK)
    })
}

/// Waits for the next change, at most `timeout_ms` milliseconds (0 not at all, negative without
/// end), and describes it in `*change`; empty unless it returns `QS_OK`. Changes come in the
/// order of their indices, none is left out, and none comes before `qs_get` shows it.
///
/// Ownership: the bytes of key and value are the library's, and valid until the next call with
/// this feed.
///
/// Blocks: up to the timeout. Closing the feed in another thread ends it with `QS_CLOSED` within
/// a tenth of a second; closing the database does not.
///
/// Returns: `QS_OK`; `QS_TIMEOUT`; `QS_CLOSED`, `QS_FORKED`, `QS_BUSY`, `QS_CORRUPT`,
/// `QS_NO_MEMORY`, `QS_IO`, `QS_INVALID_ARGUMENT`. After an error nothing is lost: call again.
///
/// # Safety
/// `change` is NULL, or points to as many writable bytes as its `size` says. No thread looks at
/// the change before any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qs_changes_next(
    changes: *mut qs_changes,
    timeout_ms: i64,
    change: *mut qs_change,
) -> qs_result {
    call(|| {
        // SAFETY: as promised by the caller.
        let form = unsafe { versioned::form(change) }?;
        let deadline = Deadline::after(timeout_ms);
        let next = handle::with(changes, |open| {
            let mut feed = lock(&open);
            feed.given = None;
            loop {
                if open.is_closing() {
                    return Err(handle::closed::<qs_changes>());
                }
                feed.given = feed.changes.next_within(deadline.left(LOOK_AFTER))?;
                if feed.given.is_some() || deadline.has_passed() {
                    return Ok(feed.given());
                }
            }
        })?;
        match next {
            None => Ok(qs_result::QS_TIMEOUT),
            Some(change) => {
                form.fill(&change);
                Ok(qs_result::QS_OK)
            }
        }
    })
}

/// Stores the index behind which a feed goes on: everything up to it was given, or does not
/// concern the prefix. A later `qs_changes_open` with it misses nothing, as long as the log
/// reaches back so far.
///
/// Blocks: while another thread waits in `qs_changes_next` on the same feed.
///
/// Returns: `QS_OK`; `QS_CLOSED`, `QS_FORKED`, `QS_INVALID_ARGUMENT`.
///
/// # Safety
/// `index` is NULL or points to a `uint64_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qs_changes_position(
    changes: *const qs_changes,
    index: *mut u64,
) -> qs_result {
    call(|| {
        // SAFETY: as promised by the caller.
        let index = unsafe { place(index, "index") }?;
        *index = handle::with(changes, |open| Ok(lock(&open).changes.position().get()))?;
        Ok(qs_result::QS_OK)
    })
}

/// Closes a feed. Calls that begin later, and a second `qs_changes_close`, return `QS_CLOSED`.
///
/// Blocks: until the calls that other threads have begun on it have ended; one that waits for a
/// change is ended, with `QS_CLOSED`, within a tenth of a second.
///
/// Returns: `QS_OK`; `QS_CLOSED`, `QS_FORKED`, `QS_INVALID_ARGUMENT`.
///
/// # Safety
/// No thread looks at what the feed has given any more. Whatever `changes` is, it is recognised
/// by its number and not followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qs_changes_close(changes: *mut qs_changes) -> qs_result {
    call(|| {
        handle::close(changes)?;
        Ok(qs_result::QS_OK)
    })
}
