//! Structures that begin with their size, so that programs and libraries of different ages
//! understand each other.
//!
//! * A caller that was compiled against an older header has a shorter structure: what is missing
//!   counts as zero, and nothing is written there.
//! * A caller with a newer header has a longer one: what we do not know has to be zero on the way
//!   in ("as always"), and becomes zero on the way out.

use std::mem::MaybeUninit;
use std::ptr;
use std::slice;

use crate::boundary::{Plain, aligned};
use crate::result::{Failure, qs_result};

/// Largest `size` that is believed: far more than any of them will ever need.
const MAX_BYTES: usize = 4096;

/// A structure that begins with `size: usize`.
///
/// # Safety
/// The type is `repr(C)`, its first field is a `usize`, it has no padding, and any bytes are a
/// valid value of it.
pub(crate) unsafe trait Versioned: Plain + Copy {
    /// What its parameter is called in C.
    const NAME: &'static str;
    /// The macro that sets `size`.
    const INIT: &'static str;
    /// Its size in the first release that had it.
    const FIRST_BYTES: usize;
}

/// Reads a caller's structure; `None` for NULL.
///
/// # Safety
/// `given` is NULL, or points to as many readable bytes as its `size` says, and at least to that.
pub(crate) unsafe fn read<T: Versioned>(given: *const T) -> Result<Option<T>, Failure> {
    if given.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL; a `size` is there, as the caller promises.
    let size = unsafe { size_of_given(given) }?;
    // SAFETY: the caller promises `size` readable bytes.
    let bytes = unsafe { slice::from_raw_parts(given.cast::<u8>(), size) };
    let known = size.min(size_of::<T>());
    if bytes[known..].iter().any(|byte| *byte != 0) {
        let name = T::NAME;
        let message = format!("{name} has a field that this library does not know: upgrade it");
        return Err(Failure::new(qs_result::QS_INVALID_ARGUMENT, message));
    }
    let mut read = MaybeUninit::<T>::zeroed();
    // SAFETY: both have `known` bytes, and any bytes are a value of the type.
    unsafe {
        ptr::copy_nonoverlapping(bytes.as_ptr(), read.as_mut_ptr().cast(), known);
        Ok(Some(read.assume_init()))
    }
}

/// A caller's structure that is to be filled; empty but for its size until it is.
pub(crate) struct Form<'a> {
    bytes: &'a mut [u8],
}

/// Takes a caller's structure and makes it empty.
///
/// # Safety
/// `given` is NULL, or points to as many writable bytes as its `size` says, and at least to that;
/// nothing else uses them during the call.
pub(crate) unsafe fn form<'a, T: Versioned>(given: *mut T) -> Result<Form<'a>, Failure> {
    if given.is_null() {
        return Err(Failure::null(T::NAME));
    }
    aligned(given, T::NAME)?;
    // SAFETY: not NULL; a `size` is there, as the caller promises.
    let size = unsafe { size_of_given(given) }?;
    let rest = given.cast::<u8>().wrapping_add(size_of::<usize>());
    // SAFETY: the caller promises `size` writable bytes, and they need not be initialised: they
    // are before anyone looks.
    let bytes = unsafe {
        ptr::write_bytes(rest, 0, size - size_of::<usize>());
        slice::from_raw_parts_mut(given.cast::<u8>(), size)
    };
    Ok(Form { bytes })
}

impl Form<'_> {
    /// Writes as much of `value` as the caller has room for.
    pub(crate) fn fill<T: Versioned>(self, value: &T) {
        // SAFETY: a structure without padding, as the trait says, is that many bytes.
        let value = unsafe { slice::from_raw_parts(ptr::from_ref(value).cast(), size_of::<T>()) };
        let known = self.bytes.len().min(value.len());
        // Not the size: that is the caller's.
        let fields = size_of::<usize>()..known;
        self.bytes[fields.clone()].copy_from_slice(&value[fields]);
    }
}

/// # Safety
/// `given` points to a readable `size`, which need not be aligned.
unsafe fn size_of_given<T: Versioned>(given: *const T) -> Result<usize, Failure> {
    // SAFETY: `size` is the first field of every version.
    let size = unsafe { ptr::read_unaligned(given.cast::<usize>()) };
    if (T::FIRST_BYTES..=MAX_BYTES).contains(&size) {
        return Ok(size);
    }
    let (name, init, now) = (T::NAME, T::INIT, size_of::<T>());
    let message = format!("{name}->size is {size}: begin with {init}, which sets it to {now}");
    Err(Failure::new(qs_result::QS_INVALID_ARGUMENT, message))
}
