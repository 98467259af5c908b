//! Snapshots: several reads of one moment, without copying.
//!
//! Invariant: what a [`qs_slice`] of a snapshot points to stays where it is until the snapshot was
//! ended and no scan of it is left: it lies in the memory map, or in [`View::assembled`], from
//! which nothing is ever removed.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reader::{Snapshot, Value};

use crate::boundary::{call, place};
use crate::bytes::{qs_slice, read_key};
use crate::handle::{self, qs_db, qs_snapshot};
use crate::result::{Failure, qs_result};

/// What is behind a `qs_snapshot *`, shared with its scans.
pub(crate) struct View {
    pub(crate) snapshot: Snapshot,
    /// Long values do not lie in one piece in the memory map: once asked for, they are kept here.
    assembled: HashMap<Box<[u8]>, Box<[u8]>>,
}

impl View {
    fn get(&mut self, key: &[u8]) -> Result<Option<qs_slice>, Failure> {
        if !self.assembled.is_empty()
            && let Some(kept) = self.assembled.get(key)
        {
            return Ok(Some(qs_slice::of(kept)));
        }
        match self.snapshot.get(key)? {
            None => Ok(None),
            Some(Value::Mapped(bytes)) => Ok(Some(qs_slice::of(bytes))),
            Some(Value::Assembled(bytes)) => {
                let bytes = bytes.into_boxed_slice();
                let slice = qs_slice::of(&bytes);
                self.assembled.insert(key.into(), bytes);
                Ok(Some(slice))
            }
        }
    }
}

/// The lock of a handle that one thread at a time may use. A panic under it left things whole:
/// each change is the last step of its call.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins a snapshot: everything that is read from it is of one moment, however long it lasts.
/// Stores a handle in `*out`; NULL after a failure.
///
/// End it soon: while it lasts the database cannot use space again that it still shows, so the
/// file grows; and each one takes one of the database's reader slots (4096, for all processes).
///
/// Ownership: the handle is the caller's until `qs_snapshot_end`. It does not depend on `db`,
/// which may be closed before.
///
/// Returns: `QS_OK`; `QS_BUSY`, `QS_CLOSED`, `QS_FORKED`, `QS_CORRUPT`, `QS_NO_MEMORY`, `QS_IO`,
/// `QS_INVALID_ARGUMENT`.
///
/// # Safety
/// `out` is NULL or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qs_snapshot_begin(
    db: *const qs_db,
    out: *mut *mut qs_snapshot,
) -> qs_result {
    call(|| {
        // SAFETY: as promised by the caller.
        let out = unsafe { place(out, "out") }?;
        let snapshot = handle::with(db, |reader| Ok(reader.snapshot()?))?;
        let view = View { snapshot, assembled: HashMap::new() };
        *out = handle::add(Arc::new(Mutex::new(view)))?;
        Ok(qs_result::QS_OK)
    })
}

/// Shows the value of a key, without copying it, in `*value`; `data` is NULL when there is none.
/// No NUL byte follows the value.
///
/// Ownership: the library's. The bytes are valid, and do not change, until `qs_snapshot_end`,
/// whatever else is read. Never write to them: they are shared memory, mapped read-only. (A
/// value of more than about 4000 bytes is put together in memory of its own, once per snapshot,
/// and kept until its end.)
///
/// Returns: `QS_OK`; `QS_NOT_FOUND`; `QS_CORRUPT`, `QS_CLOSED`, `QS_FORKED`, `QS_IO`,
/// `QS_INVALID_ARGUMENT`.
///
/// # Safety
/// `key` is NULL or points to `key_size` readable bytes. `value` is NULL or points to a
/// `qs_slice`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qs_snapshot_get(
    snapshot: *const qs_snapshot,
    key: *const c_void,
    key_size: usize,
    value: *mut qs_slice,
) -> qs_result {
    call(|| {
        // SAFETY: as promised by the caller.
        let value = unsafe { place(value, "value") }?;
        // SAFETY: as promised by the caller.
        let key = unsafe { read_key(key, key_size) }?;
        match handle::with(snapshot, |view| lock(&view).get(key))? {
            None => Ok(qs_result::QS_NOT_FOUND),
            Some(found) => {
                *value = found;
                Ok(qs_result::QS_OK)
            }
        }
    })
}

/// Stores the index that a snapshot shows: the last entry that is in it. What comes after it is
/// what `qs_changes_open` with this index gives.
///
/// Returns: `QS_OK`; `QS_CLOSED`, `QS_FORKED`, `QS_INVALID_ARGUMENT`.
///
/// # Safety
/// `index` is NULL or points to a `uint64_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qs_snapshot_index(
    snapshot: *const qs_snapshot,
    index: *mut u64,
) -> qs_result {
    call(|| {
        // SAFETY: as promised by the caller.
        let index = unsafe { place(index, "index") }?;
        *index = handle::with(snapshot, |view| Ok(lock(&view).snapshot.index().get()))?;
        Ok(qs_result::QS_OK)
    })
}

/// Ends a snapshot. What `qs_snapshot_get` has shown is gone; scans of it go on until their own
/// end. Calls that begin later, and a second `qs_snapshot_end`, return `QS_CLOSED`.
///
/// Blocks: until the calls that other threads have begun on it have ended.
///
/// Returns: `QS_OK`; `QS_CLOSED`, `QS_FORKED`, `QS_INVALID_ARGUMENT`.
///
/// # Safety
/// No thread looks at what the snapshot has shown any more. Whatever `snapshot` is, it is
/// recognised by its number and not followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qs_snapshot_end(snapshot: *mut qs_snapshot) -> qs_result {
    call(|| {
        handle::close(snapshot)?;
        Ok(qs_result::QS_OK)
    })
}
