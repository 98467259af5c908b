//! Snapshots over time: which is the oldest, and which have been held for too long.
//!
//! Pure: it is shown the reader table every few seconds, with the time, and says what it sees.
//!
//! A snapshot of the newest commit holds nothing back, and one that is held there cannot be told
//! from one that a busy reader begins again and again. So a snapshot's age is how long it has been
//! seen *behind* the newest commit. A number that is behind is never begun anew, so seeing it
//! twice means that it was held in between.
//!
//! Invariants: a snapshot is reported as overdue once; what is remembered is no more than the
//! table's slots.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use quicksilver_lmdb::ReaderSlot;

/// Snapshots that are reported as overdue at once, the oldest first; the others follow.
const OVERDUE_AT_ONCE: usize = 10;

/// What tells one snapshot from another. A thread that holds several of one commit counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    pid: u32,
    thread: u64,
    txn_id: u64,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    since: Instant,
    reported: bool,
}

/// A snapshot that is behind the newest commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Who holds it.
    pub pid: u32,
    /// How long it has been seen behind.
    pub age: Duration,
    /// How many commits it is behind.
    pub lag_commits: u64,
}

/// What one look at the table showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Slots that are taken, idle ones included.
    pub used: u32,
    /// The snapshot that is behind most; `None` when none is behind.
    pub oldest: Option<Snapshot>,
    /// Snapshots that have been behind for longer than the bound, and were not reported before.
    pub overdue: Vec<Snapshot>,
}

/// Remembers since when snapshots are held.
#[derive(Debug)]
pub struct Watch {
    bound: Duration,
    held: HashMap<Key, Held>,
}

impl Watch {
    /// Reports snapshots that are behind for longer than `bound`.
    pub fn new(bound: Duration) -> Self {
        Watch { bound, held: HashMap::new() }
    }

    /// From now on, reports those that are behind for longer than this.
    pub fn set_bound(&mut self, bound: Duration) {
        self.bound = bound;
    }

    /// Looks at the table, as it is at `now`, when `last_txn_id` is the newest commit's number.
    pub fn look(&mut self, now: Instant, slots: &[ReaderSlot], last_txn_id: u64) -> Seen {
        let behind: HashMap<Key, Held> = slots
            .iter()
            .filter_map(|slot| {
                let txn_id = slot.txn_id.filter(|txn_id| *txn_id < last_txn_id)?;
                let key = Key { pid: slot.pid, thread: slot.thread, txn_id };
                let first = Held { since: now, reported: false };
                Some((key, self.held.get(&key).copied().unwrap_or(first)))
            })
            .collect();
        self.held = behind;
        let snapshot = |key: &Key, held: &Held| Snapshot {
            pid: key.pid,
            age: now.saturating_duration_since(held.since),
            lag_commits: last_txn_id - key.txn_id,
        };
        let mut overdue: Vec<(Key, Snapshot)> = self
            .held
            .iter()
            .filter(|(_, held)| !held.reported)
            .map(|(key, held)| (*key, snapshot(key, held)))
            .filter(|(_, snapshot)| snapshot.age >= self.bound)
            .collect();
        overdue.sort_by_key(|(key, _)| (key.txn_id, key.pid, key.thread));
        overdue.truncate(OVERDUE_AT_ONCE);
        for (key, _) in &overdue {
            if let Some(held) = self.held.get_mut(key) {
                held.reported = true;
            }
        }
        let snapshots = self.held.iter().map(|(key, held)| snapshot(key, held));
        Seen {
            used: u32::try_from(slots.len()).unwrap_or(u32::MAX),
            oldest: snapshots.max_by_key(|snapshot| (snapshot.lag_commits, snapshot.age)),
            overdue: overdue.into_iter().map(|(_, snapshot)| snapshot).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(10);

    fn slot(pid: u32, thread: u64, txn_id: Option<u64>) -> ReaderSlot {
        ReaderSlot { pid, thread, txn_id }
    }

    /// A watch and its clock.
    struct Bench {
        watch: Watch,
        start: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Bench { watch: Watch::new(BOUND), start: Instant::now() }
        }

        fn look(&mut self, second: u64, slots: &[ReaderSlot], last_txn_id: u64) -> Seen {
            self.watch.look(self.start + Duration::from_secs(second), slots, last_txn_id)
        }
    }

    fn oldest(pid: u32, seconds: u64, lag_commits: u64) -> Option<Snapshot> {
        Some(Snapshot { pid, age: Duration::from_secs(seconds), lag_commits })
    }

    #[test]
    fn age_counts_from_when_a_snapshot_is_first_seen_behind() {
        let mut bench = Bench::new();
        let slots = [slot(1, 1, Some(5)), slot(2, 1, None)];
        let seen = bench.look(0, &slots, 5);
        assert_eq!((seen.used, seen.oldest, seen.overdue), (2, None, vec![]));
        // For an hour nothing is written, and a busy reader looks like one that holds on.
        assert_eq!(bench.look(3600, &slots, 5).oldest, None);
        assert_eq!(bench.look(3603, &slots, 6).oldest, oldest(1, 0, 1));
        assert_eq!(bench.look(3606, &slots, 9).oldest, oldest(1, 3, 4));
        // Let go, and held again: another snapshot.
        assert_eq!(bench.look(3609, &[slot(1, 1, None)], 9).oldest, None);
        assert_eq!(bench.look(3612, &slots, 9).oldest, oldest(1, 0, 4));
        assert_eq!(bench.look(3615, &[], 9), Seen { used: 0, oldest: None, overdue: vec![] });
    }

    #[test]
    fn a_reader_that_renews_is_never_old() {
        let mut bench = Bench::new();
        for second in 0..100 {
            let seen = bench.look(second, &[slot(1, 1, Some(second))], second + 1);
            assert_eq!((seen.oldest, seen.overdue), (oldest(1, 0, 1), vec![]));
        }
    }

    #[test]
    fn an_overdue_snapshot_is_reported_once() {
        let mut bench = Bench::new();
        let slots = [slot(1, 1, Some(5)), slot(2, 7, Some(6))];
        assert_eq!(bench.look(0, &slots[..1], 6).overdue, []);
        assert_eq!(bench.look(3, &slots, 9).overdue, []);
        let seen = bench.look(10, &slots, 10);
        assert_eq!(seen.overdue, oldest(1, 10, 5).into_iter().collect::<Vec<_>>());
        let seen = bench.look(13, &slots, 10);
        assert_eq!(
            (seen.oldest, seen.overdue),
            (oldest(1, 13, 5), oldest(2, 10, 4).into_iter().collect())
        );
        assert_eq!(bench.look(1000, &slots, 10).overdue, []);
        // The next one of the same thread is another one.
        let slots = [slot(1, 1, Some(10))];
        assert_eq!(bench.look(1003, &slots, 11).overdue, []);
        assert_eq!(bench.look(1013, &slots, 11).overdue.len(), 1);
    }

    #[test]
    fn threads_and_commits_tell_snapshots_apart() {
        let mut bench = Bench::new();
        bench.look(0, &[slot(1, 1, Some(5))], 9);
        let slots =
            [slot(1, 1, Some(5)), slot(1, 2, Some(5)), slot(1, 1, Some(6)), slot(1, 1, Some(5))];
        assert_eq!(bench.look(10, &slots, 9).overdue.len(), 1);
        assert_eq!(bench.look(20, &slots, 9).overdue.len(), 2);
        assert_eq!(bench.look(20, &slots, 9).used, 4);
    }

    /// The number of the newest commit is asked for after the table was read.
    #[test]
    fn a_snapshot_from_the_future_is_not_behind() {
        let mut bench = Bench::new();
        assert_eq!(bench.look(0, &[slot(1, 1, Some(7))], 6).oldest, None);
    }

    #[test]
    fn a_crowd_is_reported_in_turns() {
        let mut bench = Bench::new();
        let slots: Vec<_> = (0..25).map(|n| slot(n, 1, Some(u64::from(n)))).collect();
        bench.look(0, &slots, 100);
        let reports: Vec<Vec<u32>> = (10..15)
            .map(|second| bench.look(second, &slots, 100).overdue.iter().map(|s| s.pid).collect())
            .collect();
        assert_eq!(
            reports,
            [(0..10).collect(), (10..20).collect(), (20..25).collect(), vec![], vec![]]
        );
    }
}
