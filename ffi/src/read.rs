//! Reading single keys, and several at once.

use std::ffi::c_void;
use std::ptr;
use std::slice;

use crate::boundary::{Plain, aligned, call, place};
use crate::bytes::{qs_slice, read_key};
use crate::handle::{self, qs_db};
use crate::result::{Failure, qs_result};

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

    /// Gives the memory back and leaves no value behind.
    ///
    /// # Safety
    /// `copied_from` made it, and it was not freed by way of a copy.
    unsafe fn free(&mut self) {
        let qs_value { data, size } = std::mem::replace(self, qs_value::NONE);
        if !data.is_null() {
            let bytes = ptr::slice_from_raw_parts_mut(data.cast_mut(), size + 1);
            // SAFETY: `copied_from` made exactly this slice, and nobody has freed it since.
            drop(unsafe { Box::from_raw(bytes) });
        }
    }
}

/// Copies the value of the key of `key_size` bytes at `key` into new memory and describes it in
/// `*value`. Keys and values are bytes, and may contain NUL. Whatever is not `QS_OK` leaves
/// `*value` empty.
///
/// Ownership: the value is the caller's, also after `qs_close`; end it with `qs_value_free`. What
/// `*value` held before is overwritten, not freed.
///
/// Returns: `QS_OK`; `QS_NOT_FOUND`; `QS_CORRUPT`, `QS_CLOSED`, `QS_FORKED`, `QS_BUSY`,
/// `QS_NO_MEMORY`, `QS_IO`, `QS_INVALID_ARGUMENT`.
///
/// # Safety
/// `key` is NULL or points to `key_size` readable bytes. `value` is NULL or points to a
/// `qs_value`.
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
        let key = unsafe { read_key(key, key_size) }?;
        match handle::with(db, |reader| Ok(reader.get_with(key, qs_value::copied_from)?))? {
            None => Ok(qs_result::QS_NOT_FOUND),
            Some(found) => {
                *value = found?;
                Ok(qs_result::QS_OK)
            }
        }
    })
}

/// Copies the value of a key into memory of the caller: the fastest way to read one.
///
/// `*size` becomes the size of the value, also when it does not fit into the `capacity` bytes at
/// `buffer`: then the buffer is left as it was. With `capacity` 0 `buffer` may be NULL, and the
/// call tells the size. It becomes 0 when there is no value.
///
/// Returns: `QS_OK`; `QS_NOT_FOUND`; `QS_TOO_SMALL`: try again with more room, in a loop, for
/// the next value may be longer; `QS_CORRUPT`, `QS_CLOSED`, `QS_FORKED`, `QS_BUSY`, `QS_IO`,
/// `QS_INVALID_ARGUMENT`.
///
/// # Safety
/// `key` is NULL or points to `key_size` readable bytes. `size` is NULL or points to a `size_t`.
/// `buffer` is NULL or points to `capacity` writable bytes; neither of the two is among them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qs_get_into(
    db: *const qs_db,
    key: *const c_void,
    key_size: usize,
    buffer: *mut c_void,
    capacity: usize,
    size: *mut usize,
) -> qs_result {
    call(|| {
        // SAFETY: as promised by the caller.
        let size = unsafe { place(size, "size") }?;
        // SAFETY: as promised by the caller.
        let key = unsafe { read_key(key, key_size) }?;
        if buffer.is_null() && capacity > 0 {
            return Err(Failure::null("buffer"));
        }
        let copy = |value: &[u8]| {
            *size = value.len();
            if value.len() > capacity {
                return qs_result::QS_TOO_SMALL;
            }
            if !value.is_empty() {
                // SAFETY: the buffer has room for `capacity` bytes, as the caller promises, and
                // so is not NULL; it is the caller's and no part of the memory map.
                unsafe { ptr::copy_nonoverlapping(value.as_ptr(), buffer.cast(), value.len()) };
            }
            qs_result::QS_OK
        };
        let found = handle::with(db, |reader| Ok(reader.get_with(key, copy)?))?;
        Ok(found.unwrap_or(qs_result::QS_NOT_FOUND))
    })
}

/// Copies the values of `count` keys, all of one moment, into new memory: `values[n]` is that of
/// `keys[n]`, or empty (`data` is NULL) when there is no such key. That some keys are missing is
/// `QS_OK`; whatever else is returned leaves all values empty.
///
/// Ownership: as with `qs_get`; each value is ended with `qs_value_free`.
///
/// Returns: `QS_OK`; `QS_CORRUPT`, `QS_CLOSED`, `QS_FORKED`, `QS_BUSY`, `QS_NO_MEMORY`, `QS_IO`,
/// `QS_INVALID_ARGUMENT`.
///
/// # Safety
/// `keys` points to `count` slices, each of which is readable, and `values` to as many
/// `qs_value`s; either may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qs_multi_get(
    db: *const qs_db,
    keys: *const qs_slice,
    count: usize,
    values: *mut qs_value,
) -> qs_result {
    call(|| {
        // SAFETY: as promised by the caller.
        let values = unsafe { values_place(values, count) }?;
        // SAFETY: as promised by the caller.
        let keys = unsafe { read_keys(keys, count) }?;
        read_all(db, &keys, values).map(|()| qs_result::QS_OK).inspect_err(|_| {
            // SAFETY: those that are not empty were made just now.
            values.iter_mut().for_each(|value| unsafe { value.free() });
        })
    })
}

/// Reads keys of one moment into as many empty values.
fn read_all(db: *const qs_db, keys: &[&[u8]], values: &mut [qs_value]) -> Result<(), Failure> {
    let snapshot = handle::with(db, |reader| Ok(reader.snapshot()?))?;
    for (key, value) in keys.iter().zip(values) {
        if let Some(found) = snapshot.get(key)? {
            *value = qs_value::copied_from(&found)?;
        }
    }
    Ok(())
}

/// Ends a value: frees its bytes and makes `*value` empty. A value that is empty, or NULL, is
/// fine and does nothing, so freeing the same `qs_value` twice is harmless.
///
/// Returns: `QS_OK`; `QS_INVALID_ARGUMENT`.
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
        aligned(value, "value")?;
        // SAFETY: not NULL and aligned; a `qs_value` of ours, as the caller promises.
        unsafe { (*value).free() };
        Ok(qs_result::QS_OK)
    })
}

/// The caller's array of results, emptied.
///
/// # Safety
/// `values` is NULL, or points to `count` `qs_value`s that nothing else uses during the call.
unsafe fn values_place<'a>(
    values: *mut qs_value,
    count: usize,
) -> Result<&'a mut [qs_value], Failure> {
    if count == 0 {
        return Ok(&mut []);
    }
    if values.is_null() {
        return Err(Failure::null("values"));
    }
    aligned(values, "values")?;
    check_count::<qs_value>(count)?;
    // SAFETY: not NULL, aligned and not too long, as just checked; ours during the call, as the
    // caller promises, and initialised before anyone looks.
    unsafe {
        values.write_bytes(0, count);
        Ok(slice::from_raw_parts_mut(values, count))
    }
}

/// # Safety
/// `keys` is NULL, or points to `count` slices, each readable; all outlive the result.
unsafe fn read_keys<'a>(keys: *const qs_slice, count: usize) -> Result<Vec<&'a [u8]>, Failure> {
    if count == 0 {
        return Ok(Vec::new());
    }
    if keys.is_null() {
        return Err(Failure::null("keys"));
    }
    aligned(keys, "keys")?;
    check_count::<qs_slice>(count)?;
    // SAFETY: not NULL, aligned and not too long, as just checked; readable, as promised.
    let keys = unsafe { slice::from_raw_parts(keys, count) };
    let read = keys.iter().enumerate().map(|(n, key)| {
        // SAFETY: as promised by the caller.
        unsafe { read_key(key.data.cast(), key.size) }
            .map_err(|e| Failure::new(e.result, format!("keys[{n}]: {}", e.message)))
    });
    read.collect()
}

fn check_count<T>(count: usize) -> Result<(), Failure> {
    if count <= isize::MAX as usize / size_of::<T>() {
        return Ok(());
    }
    let message = format!("count is {count}: more than memory can hold");
    Err(Failure::new(qs_result::QS_INVALID_ARGUMENT, message))
}
