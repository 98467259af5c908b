//! Where handles live: slots that are found by number, and used again under a new one.
//!
//! A handle is a number, [`Number`], that no other handle ever has. So a handle that was closed is
//! known as such for ever, something that never was a handle is known as that, and neither is
//! dereferenced.
//!
//! Invariants:
//! * slots are never freed, and a slot that was used 2^40 times is not used again;
//! * finding a handle writes nothing that other threads read or write, and waits for nobody;
//! * closing takes the body out once the calls that run have ended; only then the slot is free;
//! * no lock: a child that was forked at any moment can make, find and close handles of its own,
//!   and finds out about those of its parent without waiting.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use once_cell::race::OnceBox;

use crate::fork::Process;
use crate::result::{Failure, qs_result};

/// Slots are made this many at a time.
const SEGMENT_SLOTS: usize = 64;
const SEGMENTS: usize = 1024;
/// Most handles of one kind that can be open at once.
pub(crate) const MAX_OPEN: usize = SEGMENTS * SEGMENT_SLOTS;

/// Which use of which slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number {
    /// Below [`MAX_OPEN`].
    pub(crate) slot: u16,
    /// From 1 to [`Number::MAX_GENERATION`].
    pub(crate) generation: u64,
}

impl Number {
    pub(crate) const SLOT_BITS: u32 = u16::BITS;
    pub(crate) const GENERATION_BITS: u32 = 40;
    const MAX_GENERATION: u64 = (1 << Self::GENERATION_BITS) - 1;
}

const _: () = assert!(MAX_OPEN == 1 << Number::SLOT_BITS);

/// What is behind an open handle.
struct Open<T> {
    generation: u64,
    process: Process,
    body: T,
}

/// Its own two cache lines: neighbours are used by other threads.
#[repr(align(128))]
struct Slot<T> {
    current: ArcSwapOption<Open<T>>,
    /// The newest generation that was handed out.
    issued: AtomicU64,
    /// The next free slot after this one, plus one; 0 at the end. Means something while this
    /// one is free.
    next_free: AtomicU32,
}

impl<T> Slot<T> {
    fn new() -> Self {
        Slot {
            current: ArcSwapOption::empty(),
            issued: AtomicU64::new(0),
            next_free: AtomicU32::new(0),
        }
    }
}

/// The handles of one kind.
pub(crate) struct Table<T> {
    segments: [OnceBox<[Slot<T>; SEGMENT_SLOTS]>; SEGMENTS],
    /// How many slots have ever been used.
    used: AtomicU32,
    /// A stack of free slots. Upper half: a count of changes, so that a comparison notices when
    /// the top went and came back. Lower half: the top, plus one; 0 when it is empty.
    free: AtomicU64,
}

/// An open handle, for the length of a call: closing waits until it is gone.
pub(crate) struct Live<'t, T> {
    slot: &'t Slot<T>,
    open: &'t Open<T>,
}

impl<T> Deref for Live<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.open.body
    }
}

impl<T> Live<'_, T> {
    /// Whether somebody waits for this call to end. Calls that block look now and then.
    pub(crate) fn is_closing(&self) -> bool {
        let current = self.slot.current.load();
        current.as_ref().is_none_or(|now| now.generation != self.open.generation)
    }
}

/// Why there is nothing behind a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absent {
    /// It was never handed out.
    Unknown,
    /// It was closed.
    Closed,
    /// It belongs to the process that this one was forked from.
    Forked,
}

impl<T> Table<T> {
    pub(crate) const fn new() -> Self {
        Table {
            segments: [const { OnceBox::new() }; SEGMENTS],
            used: AtomicU32::new(0),
            free: AtomicU64::new(0),
        }
    }

    /// Makes a handle.
    pub(crate) fn add(&self, body: T) -> Result<Number, Failure> {
        let process = Process::this_one()?;
        let Some((number, slot)) = self.pop_free().or_else(|| self.take_unused()) else {
            let message = format!("{MAX_OPEN} handles of this kind are open: close some first");
            return Err(Failure::new(qs_result::QS_BUSY, message));
        };
        // The slot is ours alone until somebody is told its number.
        let generation = slot.issued.load(Ordering::Relaxed) + 1;
        slot.issued.store(generation, Ordering::Release);
        slot.current.store(Some(Arc::new(Open { generation, process, body })));
        Ok(Number { slot: number, generation })
    }

    /// Calls `with` with what is behind a number.
    #[inline]
    pub(crate) fn with<R>(
        &self,
        number: Number,
        with: impl FnOnce(Live<'_, T>) -> R,
    ) -> Result<R, Absent> {
        let slot = self.slot(number.slot).ok_or(Absent::Unknown)?;
        let current = slot.current.load();
        match current.as_ref() {
            Some(open) if open.generation == number.generation => {
                if !open.process.is_this_one() {
                    return Err(Absent::Forked);
                }
                Ok(with(Live { slot, open }))
            }
            _ => Err(slot.absence(number)),
        }
    }

    /// Ends a handle, and returns what was behind it once the calls that run have ended.
    pub(crate) fn close(&self, number: Number) -> Result<T, Absent> {
        let slot = self.slot(number.slot).ok_or(Absent::Unknown)?;
        let current = slot.current.load_full();
        let open = match current {
            Some(open) if open.generation == number.generation => open,
            _ => return Err(slot.absence(number)),
        };
        if !open.process.is_this_one() {
            return Err(Absent::Forked);
        }
        let found = slot.current.compare_and_swap(&open, None);
        if !found.as_ref().is_some_and(|found| Arc::ptr_eq(found, &open)) {
            // Another thread closed it first.
            return Err(Absent::Closed);
        }
        drop(found);
        let body = when_unshared(open).body;
        if number.generation < Number::MAX_GENERATION {
            self.push_free(number.slot, slot);
        }
        Ok(body)
    }

    #[inline]
    fn slot(&self, number: u16) -> Option<&Slot<T>> {
        let number = usize::from(number);
        let segment = self.segments.get(number / SEGMENT_SLOTS)?.get()?;
        segment.get(number % SEGMENT_SLOTS)
    }

    fn take_unused(&self) -> Option<(u16, &Slot<T>)> {
        let one_more = |used| (used < MAX_OPEN as u32).then_some(used + 1);
        let used = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        let number = u16::try_from(used).ok()?;
        let segment = &self.segments[usize::from(number) / SEGMENT_SLOTS];
        let slots = segment.get_or_init(|| Box::new(std::array::from_fn(|_| Slot::new())));
        Some((number, &slots[usize::from(number) % SEGMENT_SLOTS]))
    }

    fn pop_free(&self) -> Option<(u16, &Slot<T>)> {
        let mut free = self.free.load(Ordering::Acquire);
        loop {
            let number = u16::try_from(top(free).checked_sub(1)?).ok()?;
            let slot = self.slot(number)?;
            let next = changed(free, slot.next_free.load(Ordering::Relaxed));
            match self.free.compare_exchange_weak(free, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some((number, slot)),
                Err(newer) => free = newer,
            }
        }
    }

    fn push_free(&self, number: u16, slot: &Slot<T>) {
        let mut free = self.free.load(Ordering::Relaxed);
        loop {
            slot.next_free.store(top(free), Ordering::Relaxed);
            let next = changed(free, u32::from(number) + 1);
            match self.free.compare_exchange_weak(free, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(newer) => free = newer,
            }
        }
    }
}

impl<T> Slot<T> {
    #[cold]
    fn absence(&self, number: Number) -> Absent {
        match self.issued.load(Ordering::Acquire) {
            issued if (1..=issued).contains(&number.generation) => Absent::Closed,
            _ => Absent::Unknown,
        }
    }
}

/// The lower half of the head of the stack.
fn top(free: u64) -> u32 {
    (free & u64::from(u32::MAX)) as u32
}

/// The head of the stack after a change.
fn changed(free: u64, top: u32) -> u64 {
    ((free >> 32).wrapping_add(1) << 32) | u64::from(top)
}

/// What is shared, once the calls that use it have ended. Nobody can begin one any more.
fn when_unshared<T>(mut shared: Arc<T>) -> T {
    const SPINS: u32 = 100;
    const YIELDS_TO: u32 = 200;
    let mut turns = 0_u32;
    loop {
        shared = match Arc::try_unwrap(shared) {
            Ok(alone) => return alone,
            Err(shared) => shared,
        };
        // A read ends within microseconds; a call that blocks looks ten times a second.
        match turns {
            0..SPINS => std::hint::spin_loop(),
            SPINS..YIELDS_TO => std::thread::yield_now(),
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
        turns = turns.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;

    use std::collections::HashSet;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_slot_is_used_again_under_another_number() {
        let table = Table::new();
        let first = table.add("one").unwrap();
        assert_eq!(table.with(first, |live| *live), Ok("one"));
        assert_eq!(table.close(first), Ok("one"));
        let second = table.add("two").unwrap();
        assert_eq!((second.slot, second.generation), (first.slot, first.generation + 1));
        assert_eq!(table.with(first, |live| *live), Err(Absent::Closed));
        assert_eq!(table.close(first), Err(Absent::Closed));
        assert_eq!(table.with(second, |live| *live), Ok("two"));
    }

    #[test]
    fn what_was_never_handed_out_is_unknown() {
        let table = Table::new();
        let number = table.add(()).unwrap();
        for (slot, generation) in [(0, 0), (0, 2), (0, u64::MAX), (1, 1), (63, 1), (u16::MAX, 1)] {
            let stranger = Number { slot, generation };
            assert_eq!(table.with(stranger, |_| ()), Err(Absent::Unknown), "{stranger:?}");
            assert_eq!(table.close(stranger), Err(Absent::Unknown), "{stranger:?}");
        }
        assert_eq!(table.close(number), Ok(()));
    }

    #[test]
    fn a_slot_whose_numbers_are_used_up_is_left_alone() {
        let table = Table::new();
        let number = table.add(()).unwrap();
        table.close(number).unwrap();
        table
            .slot(number.slot)
            .unwrap()
            .issued
            .store(Number::MAX_GENERATION - 1, Ordering::Relaxed);
        let last = table.add(()).unwrap();
        assert_eq!(last, Number { slot: number.slot, generation: Number::MAX_GENERATION });
        table.close(last).unwrap();
        assert_ne!(table.add(()).unwrap().slot, last.slot);
        assert_eq!(table.with(last, |_| ()), Err(Absent::Closed));
    }

    #[test]
    fn too_many_are_refused_until_one_is_closed() {
        let table = Table::new();
        let all: HashSet<u16> = (0..MAX_OPEN).map(|_| table.add(()).unwrap().slot).collect();
        assert_eq!(all.len(), MAX_OPEN);
        assert_eq!(table.add(()).unwrap_err().result, qs_result::QS_BUSY);
        table.close(Number { slot: 7, generation: 1 }).unwrap();
        assert_eq!(table.add(()).unwrap(), Number { slot: 7, generation: 2 });
        assert_eq!(table.add(()).unwrap_err().result, qs_result::QS_BUSY);
    }

    #[test]
    fn closing_waits_for_the_calls_that_run() {
        let table = Table::new();
        let number = table.add(()).unwrap();
        let (inside, left) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                table.with(number, |live| {
                    assert!(!live.is_closing());
                    inside.store(true, Ordering::Release);
                    while !live.is_closing() {
                        std::thread::yield_now();
                    }
                    left.store(true, Ordering::Release);
                })
            });
            while !inside.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            assert_eq!(table.close(number), Ok(()));
            assert!(left.load(Ordering::Acquire), "closing did not wait");
        });
    }

    /// Each thread makes and closes handles, and tries those of the others.
    #[test]
    fn threads_never_see_each_others_handles_as_their_own() {
        const THREADS: u64 = 4;
        const ROUNDS: u64 = 2_000;
        let table = Table::new();
        let shared: [AtomicU64; THREADS as usize] = std::array::from_fn(|_| AtomicU64::new(0));
        let pack = |number: Number| number.generation << 16 | u64::from(number.slot);
        let unpack = |bits: u64| Number { slot: bits as u16, generation: bits >> 16 };
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (table, shared) = (&table, &shared);
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let body = (thread, round);
                        let number = table.add(body).unwrap();
                        shared[thread as usize].store(pack(number), Ordering::Release);
                        for (other, bits) in shared.iter().enumerate() {
                            let number = unpack(bits.load(Ordering::Acquire));
                            if let Ok((owner, _)) = table.with(number, |live| *live) {
                                assert_eq!(owner, other as u64);
                            }
                        }
                        assert_eq!(table.with(number, |live| *live), Ok(body));
                        assert_eq!(table.close(number), Ok(body));
                    }
                });
            }
        });
        assert!(table.used.load(Ordering::Relaxed) <= THREADS as u32, "slots are used again");
    }
}
