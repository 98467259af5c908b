//! Idle read transactions, so that a read costs a renew and not a begin.
//!
//! One cache-line padded slot per thread number: taking is one swap, returning one
//! compare-exchange, and threads do not touch each other's lines. What does not fit goes to a
//! bounded overflow list, the rest back to LMDB.
//!
//! Invariants: a pointer is in at most one place (a slot, the overflow list, or a live
//! `ReadTxn`); everything in the pool is reset, so it holds a reader slot but no snapshot; at most
//! [`SLOTS`] + [`MAX_OVERFLOW`] reader slots are idle.

use std::cell::Cell;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sys::MDB_txn;

/// Slots per environment; a power of two, so that a thread number maps by masking.
pub(crate) const SLOTS: usize = 64;
/// Idle transactions kept beyond the slots, for threads that hold several at once.
pub(crate) const MAX_OVERFLOW: usize = 64;

const _: () = assert!(SLOTS.is_power_of_two());

/// A process-wide number for this thread, from 0 and never reused.
#[inline]
pub(crate) fn thread_number() -> u64 {
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

/// Which slot a transaction is taken from and goes back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotNumber(usize);

impl SlotNumber {
    /// The calling thread's slot.
    #[inline]
    pub(crate) fn of_this_thread() -> Self {
        // The mask keeps the number below SLOTS, whatever usize is.
        Self(thread_number() as usize & (SLOTS - 1))
    }
}

/// Two cache lines: the prefetcher fetches them in pairs.
#[repr(align(128))]
struct Slot(AtomicPtr<MDB_txn>);

/// The idle transactions of one environment.
pub(crate) struct Pool {
    slots: Box<[Slot; SLOTS]>,
    overflow: Mutex<Vec<NonNull<MDB_txn>>>,
    /// Length of `overflow`, so that an empty list costs no lock.
    overflow_len: AtomicUsize,
}

impl Pool {
    pub(crate) fn new() -> Self {
        Self {
            slots: Box::new([const { Slot(AtomicPtr::new(null_mut())) }; SLOTS]),
            overflow: Mutex::new(Vec::new()),
            overflow_len: AtomicUsize::new(0),
        }
    }

    /// An idle transaction from the slot, or from the overflow list.
    #[inline]
    pub(crate) fn take(&self, slot: SlotNumber) -> Option<NonNull<MDB_txn>> {
        // Acquire pairs with the Release in `put`: what the last user wrote is seen.
        let txn = self.slots[slot.0].0.swap(null_mut(), Ordering::Acquire);
        NonNull::new(txn).or_else(|| self.take_overflow())
    }

    /// Any idle transaction, for when LMDB has no reader slot left.
    #[cold]
    pub(crate) fn take_any(&self) -> Option<NonNull<MDB_txn>> {
        (0..SLOTS).find_map(|n| self.take(SlotNumber(n)))
    }

    /// Puts a reset transaction back; gives it back when the pool is full.
    #[inline]
    pub(crate) fn put(
        &self,
        slot: SlotNumber,
        txn: NonNull<MDB_txn>,
    ) -> Result<(), NonNull<MDB_txn>> {
        let place = &self.slots[slot.0].0;
        match place.compare_exchange(null_mut(), txn.as_ptr(), Ordering::Release, Ordering::Relaxed)
        {
            Ok(_) => Ok(()),
            Err(_) => self.put_overflow(txn),
        }
    }

    /// Empties the pool.
    pub(crate) fn drain(&mut self) -> Vec<NonNull<MDB_txn>> {
        let mut all = std::mem::take(&mut *self.lock_overflow());
        self.overflow_len.store(0, Ordering::Relaxed);
        all.extend(
            self.slots
                .iter_mut()
                .filter_map(|s| NonNull::new(std::mem::replace(s.0.get_mut(), null_mut()))),
        );
        all
    }

    fn take_overflow(&self) -> Option<NonNull<MDB_txn>> {
        if self.overflow_len.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut list = self.lock_overflow();
        let txn = list.pop();
        self.overflow_len.store(list.len(), Ordering::Relaxed);
        txn
    }

    #[cold]
    fn put_overflow(&self, txn: NonNull<MDB_txn>) -> Result<(), NonNull<MDB_txn>> {
        let mut list = self.lock_overflow();
        if list.len() >= MAX_OVERFLOW {
            return Err(txn);
        }
        list.push(txn);
        self.overflow_len.store(list.len(), Ordering::Relaxed);
        Ok(())
    }

    fn lock_overflow(&self) -> MutexGuard<'_, Vec<NonNull<MDB_txn>>> {
        // The list is whole after every push and pop, so a poisoned lock means nothing here.
        self.overflow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn fake(n: usize) -> NonNull<MDB_txn> {
        NonNull::new(std::ptr::without_provenance_mut(n)).unwrap()
    }

    #[test]
    fn gives_back_what_was_put_and_is_bounded() {
        let mut pool = Pool::new();
        let slot = SlotNumber(3);
        assert!(pool.take(slot).is_none());
        for n in 1..=1 + MAX_OVERFLOW {
            pool.put(slot, fake(n)).unwrap();
        }
        assert_eq!(pool.put(slot, fake(999)), Err(fake(999)));
        assert_eq!(pool.take(slot), Some(fake(1)));
        assert_eq!(pool.take(SlotNumber(4)), Some(fake(1 + MAX_OVERFLOW)));
        assert!(pool.take_any().is_some());
        assert_eq!(pool.drain().len(), MAX_OVERFLOW - 2);
        assert!(pool.take_any().is_none());
    }
}
