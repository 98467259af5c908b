//! The wall between C and Rust: every call that can fail runs inside [`call`], which turns a
//! failure into a code and a message, and a panic into `QS_PANIC`.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::result::{Failure, qs_result};
use crate::text;

/// Runs `body`; what it returns, or why it did not, becomes the call's result.
pub(crate) fn call(body: impl FnOnce() -> Result<qs_result, Failure>) -> qs_result {
    // What `body` can leave half done is behind locks that do not poison, or is the caller's own
    // and documented as undefined after a failure.
    let outcome = catch_unwind(AssertUnwindSafe(|| match body() {
        Ok(result) => result,
        Err(failure) => {
            text::set_last_error(failure.message);
            failure.result
        }
    }));
    outcome.unwrap_or_else(|payload| {
        text::set_last_error(format!("a bug in libquicksilver: {}", panic_message(&*payload)));
        // Dropping it runs code we do not know, which may panic again.
        std::mem::forget(payload);
        qs_result::QS_PANIC
    })
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "no message",
    }
}

/// The C caller's place for a result of type `T`.
///
/// # Safety
/// `out` is NULL, or points to memory for a `T` that nothing else uses during the call.
#[inline]
pub(crate) unsafe fn place<'a, T>(out: *mut T, what: &str) -> Result<&'a mut T, Failure>
where
    T: Plain,
{
    if out.is_null() {
        return Err(Failure::null(what));
    }
    aligned(out, what)?;
    // SAFETY: not NULL and aligned, as just checked; ours alone during the call, as the caller
    // promises. The caller need not have initialised it, so it is before anyone can look.
    unsafe {
        out.write_bytes(0, 1);
        Ok(&mut *out)
    }
}

/// Refuses a pointer that no `T` can have.
#[inline]
pub(crate) fn aligned<T>(pointer: *const T, what: &str) -> Result<(), Failure> {
    if pointer.is_aligned() {
        return Ok(());
    }
    let message = format!("{what} is not aligned to {} bytes", align_of::<T>());
    Err(Failure::new(qs_result::QS_INVALID_ARGUMENT, message))
}

/// Types of which all zero bytes are a value: what a call leaves behind when it fails.
///
/// # Safety
/// All zero bytes are a valid value of the type.
pub(crate) unsafe trait Plain {}

// SAFETY: 0.
unsafe impl Plain for u64 {}
// SAFETY: 0.
unsafe impl Plain for usize {}
// SAFETY: the NULL pointer.
unsafe impl<T> Plain for *mut T {}
