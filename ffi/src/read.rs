//! Reading.

use std::ffi::c_void;
use std::ptr;
use std::slice;

use crate::boundary::{Plain, call, place};
use crate::handle::qs_db;
use crate::result::{Failure, qs_result};

/// Longest key, in bytes. The shortest has one.
pub const QS_KEY_MAX_BYTES: usize = 511;

/// A value that the caller owns until `qs_value_free`.
#[repr(C)]
#[derive(Debug)]
pub struct qs_value {
    /// The value's bytes, followed by a NUL byte that is not part of it, so that a value that is
    /// text can be used as a string. NULL when there is no value. Do not change.
    pub data: *const u8,
    /// How many bytes the value has. Do not change.
    pub size: usize,
}

// SAFETY: the NULL pointer, and 0.
unsafe impl Plain for qs_value {}

impl qs_value {
    const NONE: qs_value = qs_value { data: ptr::null(), size: 0 };

    fn copied_from(bytes: &[u8]) -> Result<Self, Failure> {
        let mut copy = Vec::new();
        copy.try_reserve_exact(bytes.len() + 1).map_err(|_| {
            let message = format!("no memory for a value of {} bytes", bytes.len());
            Failure::new(qs_result::QS_NO_MEMORY, message)
        })?;
        copy.extend_from_slice(bytes);
        copy.push(0);
        let data = Box::into_raw(copy.into_boxed_slice());
        Ok(qs_value { data: data.cast::<u8>(), size: bytes.len() })
    }
}

/// Copies the value of the key of `key_size` bytes at `key` into new memory and describes it in
/// `*value`. Keys and values are bytes, and may contain NUL. Without such a key it returns
/// `QS_NOT_FOUND`; whatever is not `QS_OK` leaves `*value` empty.
///
/// Ownership: the value is the caller's, also after `qs_close`; end it with `qs_value_free`. What
/// `*value` held before is overwritten, not freed.
///
/// # Safety
/// `db` is NULL or came from `qs_open`. `key` is NULL or points to `key_size` readable bytes.
/// `value` is NULL or points to a `qs_value`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qs_get(
    db: *const qs_db,
    key: *const c_void,
    key_size: usize,
    value: *mut qs_value,
) -> qs_result {
    call(|| {
        // SAFETY: as promised by the caller.
        let value = unsafe { place(value, "value") }?;
        // SAFETY: as promised by the caller.
        let db = unsafe { qs_db::of(db) }?;
        // SAFETY: as promised by the caller.
        let key = unsafe { read_key(key, key_size) }?;
        match db.with(|reader| Ok(reader.get_with(key, qs_value::copied_from)?))? {
            None => Ok(qs_result::QS_NOT_FOUND),
            Some(found) => {
                *value = found?;
                Ok(qs_result::QS_OK)
            }
        }
    })
}

/// Ends a value: frees its bytes and makes `*value` empty. A value that is empty, or NULL, is
/// fine and does nothing, so freeing the same `qs_value` twice is harmless.
///
/// # Safety
/// `value` is NULL, or points to a `qs_value` that is zeroed or was written by this library and
/// not changed since. A copy of one that was freed must not be freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qs_value_free(value: *mut qs_value) -> qs_result {
    call(|| {
        if value.is_null() {
            return Ok(qs_result::QS_OK);
        }
        if !value.is_aligned() {
            return Err(Failure::new(qs_result::QS_INVALID_ARGUMENT, "value is not aligned"));
        }
        // SAFETY: not NULL and aligned; a `qs_value`, as the caller promises.
        let qs_value { data, size } = unsafe { ptr::replace(value, qs_value::NONE) };
        if !data.is_null() {
            let bytes = ptr::slice_from_raw_parts_mut(data.cast_mut(), size + 1);
            // SAFETY: `copied_from` made exactly this slice, and nobody has freed it since.
            drop(unsafe { Box::from_raw(bytes) });
        }
        Ok(qs_result::QS_OK)
    })
}

/// Stores the index of the last entry that is visible here in `*index`; 0 when the database has
/// had none. It costs a few nanoseconds: "is there anything new?" may be asked on every request.
///
/// # Safety
/// `db` is NULL or came from `qs_open`. `index` is NULL or points to a `uint64_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qs_index(db: *const qs_db, index: *mut u64) -> qs_result {
    call(|| {
        // SAFETY: as promised by the caller.
        let index = unsafe { place(index, "index") }?;
        // SAFETY: as promised by the caller.
        let db = unsafe { qs_db::of(db) }?;
        *index = db.with(|reader| Ok(reader.index()?))?.get();
        Ok(qs_result::QS_OK)
    })
}

/// # Safety
/// `key` is NULL or points to `key_size` readable bytes that outlive the result.
unsafe fn read_key<'a>(key: *const c_void, key_size: usize) -> Result<&'a [u8], Failure> {
    if key.is_null() {
        return Err(Failure::null("key"));
    }
    if !(1..=QS_KEY_MAX_BYTES).contains(&key_size) {
        let message = format!("key of {key_size} bytes: a key has 1 to {QS_KEY_MAX_BYTES} bytes");
        return Err(Failure::new(qs_result::QS_INVALID_ARGUMENT, message));
    }
    // SAFETY: not NULL and far below isize::MAX, as just checked; readable, as promised.
    Ok(unsafe { slice::from_raw_parts(key.cast::<u8>(), key_size) })
}
