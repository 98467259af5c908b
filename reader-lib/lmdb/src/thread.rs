//! Numbers for threads: cheaper to get and to compare than `std::thread::ThreadId`.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// A process-wide number for the calling thread, from 0 and never reused.
#[inline]
#[must_use]
pub fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    const UNSET: u64 = u64::MAX;
    thread_local! {
        static NUMBER: Cell<u64> = const { Cell::new(UNSET) };
    }
    NUMBER.with(|number| {
        if number.get() == UNSET {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}
