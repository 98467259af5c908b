//! Idle read transactions, so that a read costs a renewal: no lock, no new reader slot.
//!
//! A [`Lease`] is everything one read needs: a generation's environment and a transaction on it.
//! Whoever reads takes one out, owns it alone, and puts it back. Each thread has a place of its own
//! (shared with threads whose number is equal modulo [`PLACES`]): taking and putting back are one
//! exchange each, and threads do not touch each other's cache lines. What does not fit goes to a
//! bounded list, the rest is ended.
//!
//! Invariants: a lease in the pool is reset, so it holds a reader slot and pins no page; at most
//! [`PLACES`] + [`MAX_SPARE`] are idle. Nothing here waits, so a forked child cannot be stuck on what
//! a thread of its parent held.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

use crossbeam_utils::CachePadded;
use crossbeam_utils::atomic::AtomicCell;
use quicksilver_lmdb::{OwnedReadTxn, thread_number};

use crate::environment::Environment;

/// A power of two, so that a thread's number becomes a place by masking.
const PLACES: usize = 64;
/// Idle leases beyond the places, for threads that hold several at once.
const MAX_SPARE: usize = 64;

const _: () = assert!(PLACES.is_power_of_two());

/// A transaction and the environment it reads.
#[derive(Debug)]
pub(crate) struct Lease {
    /// The environment.
    pub(crate) environment: Environment,
    /// The transaction, live while the lease is out.
    pub(crate) txn: OwnedReadTxn,
    /// Which of the reader's environments this is; see `follow`.
    pub(crate) epoch: u64,
    /// How often it was taken out.
    pub(crate) uses: u32,
}

/// Boxed, so that it moves between places, list and readers as one pointer.
type Idle = Box<Lease>;
/// A thread's place, on cache lines of its own.
type Place = CachePadded<AtomicCell<Option<Idle>>>;

/// The idle leases of one reader.
pub(crate) struct Pool {
    places: Box<[Place; PLACES]>,
    spare: Mutex<Vec<Idle>>,
    /// Length of `spare`, so that an empty list costs no lock.
    spare_len: AtomicUsize,
}

impl Pool {
    pub(crate) fn new() -> Self {
        const { assert!(AtomicCell::<Option<Idle>>::is_lock_free()) };
        Pool {
            places: Box::new(std::array::from_fn(|_| CachePadded::new(AtomicCell::new(None)))),
            spare: Mutex::new(Vec::new()),
            spare_len: AtomicUsize::new(0),
        }
    }

    #[inline]
    fn place(&self) -> &Place {
        // The mask keeps the number below PLACES, whatever usize is.
        &self.places[thread_number() as usize & (PLACES - 1)]
    }

    /// An idle lease of this thread's place, or a spare one.
    #[inline]
    pub(crate) fn take(&self) -> Option<Idle> {
        self.place().take().or_else(|| self.take_spare())
    }

    /// Any idle lease, for when there are no reader slots left.
    #[cold]
    pub(crate) fn take_any(&self) -> Option<Idle> {
        self.take_spare().or_else(|| self.places.iter().find_map(|place| place.take()))
    }

    /// Puts a lease back, reset.
    #[inline]
    pub(crate) fn put(&self, mut lease: Idle) {
        lease.txn.reset();
        if let Some(other) = self.place().swap(Some(lease)) {
            self.put_spare(other);
        }
    }

    /// Ends every idle lease.
    #[cold]
    pub(crate) fn clear(&self) {
        self.places.iter().for_each(|place| drop(place.take()));
        if let Some(mut spare) = self.try_lock() {
            spare.clear();
            self.spare_len.store(0, Ordering::Relaxed);
        }
    }

    fn take_spare(&self) -> Option<Idle> {
        if self.spare_len.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut spare = self.try_lock()?;
        let lease = spare.pop();
        self.spare_len.store(spare.len(), Ordering::Relaxed);
        lease
    }

    #[cold]
    fn put_spare(&self, lease: Idle) {
        let Some(mut spare) = self.try_lock() else { return };
        if spare.len() < MAX_SPARE {
            spare.push(lease);
            self.spare_len.store(spare.len(), Ordering::Relaxed);
        }
    }

    /// The list, unless another thread has it: then doing without costs less than waiting.
    fn try_lock(&self) -> Option<MutexGuard<'_, Vec<Idle>>> {
        match self.spare.try_lock() {
            Ok(guard) => Some(guard),
            // The list is whole after every push and pop.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} spare)", self.spare_len.load(Ordering::Relaxed))
    }
}
