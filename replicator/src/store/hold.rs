//! Who still needs the log: a copy that is being made, a snapshot, a downstream.
//!
//! Invariant: a hold is a wish. What is held beyond `retention.held_bytes` is collected all the same,
//! and whoever needed it finds that out by itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quicksilver_format::Index;

/// The holds on one log. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct LogHolds(Arc<Mutex<Vec<(u64, Index)>>>);

/// One hold, until it is dropped.
#[derive(Debug)]
pub struct LogHold {
    holds: LogHolds,
    id: u64,
}

impl LogHolds {
    /// Holds the entries after `index`.
    pub fn hold(&self, index: Index) -> LogHold {
        let mut holds = self.lock();
        let id = holds.iter().map(|(id, _)| id + 1).max().unwrap_or(0);
        holds.push((id, index));
        LogHold { holds: self.clone(), id }
    }

    /// Entries after this are needed; `None` when nobody needs any.
    pub fn needed_after(&self) -> Option<Index> {
        self.lock().iter().map(|(_, index)| *index).min()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(u64, Index)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogHold {
    /// From now on only the entries after `index`.
    pub fn move_to(&self, index: Index) {
        if let Some(hold) = self.holds.lock().iter_mut().find(|(id, _)| *id == self.id) {
            hold.1 = index;
        }
    }
}

impl Drop for LogHold {
    fn drop(&mut self) {
        self.holds.lock().retain(|(id, _)| *id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_who_needs_most_counts() {
        let holds = LogHolds::default();
        assert_eq!(holds.needed_after(), None);
        let [a, b] = [5, 9].map(|index| holds.hold(Index::new(index)));
        assert_eq!(holds.needed_after(), Some(Index::new(5)));
        a.move_to(Index::new(12));
        assert_eq!(holds.needed_after(), Some(Index::new(9)));
        drop(b);
        assert_eq!(holds.needed_after(), Some(Index::new(12)));
        drop(a);
        assert_eq!(holds.needed_after(), None);
    }
}
