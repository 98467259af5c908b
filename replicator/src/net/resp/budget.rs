//! The memory that all client connections share.
//!
//! Invariants:
//! * shares never add up to more than the budget;
//! * nobody waits for a share: it is had at once or refused, so nothing can deadlock;
//! * a share goes back when it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a connection may hold of each kind without a share: ordinary requests and replies touch
/// nothing that is shared.
const FREE_BYTES: usize = 256 << 10;

/// There is no share for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the memory for all clients' requests and replies is used up")]
pub(super) struct OutOfBudget;

/// Bytes that are left for everybody.
#[derive(Debug)]
pub(super) struct Budget(AtomicUsize);

impl Budget {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Budget(AtomicUsize::new(bytes)))
    }

    fn take(&self, bytes: usize) -> Result<(), OutOfBudget> {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes))
            .map(|_| ())
            .map_err(|_| OutOfBudget)
    }
}

/// What one connection holds for one purpose.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    charged: usize,
}

impl Share {
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Share { budget: Arc::clone(budget), charged: 0 }
    }

    /// Makes it the share of somebody who holds `bytes`. A refusal changes nothing.
    pub(super) fn hold(&mut self, bytes: usize) -> Result<(), OutOfBudget> {
        let charged = bytes.saturating_sub(FREE_BYTES);
        if charged > self.charged {
            self.budget.take(charged - self.charged)?;
        } else if charged < self.charged {
            self.budget.0.fetch_add(self.charged - charged, Ordering::Relaxed);
        }
        self.charged = charged;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.charged, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_add_up_to_more_and_come_back() {
        let budget = Budget::new(1000);
        let (mut first, mut second) = (Share::new(&budget), Share::new(&budget));
        assert_eq!(first.hold(FREE_BYTES + 600), Ok(()));
        assert_eq!(second.hold(FREE_BYTES), Ok(()), "so much is free");
        assert_eq!(second.hold(FREE_BYTES + 401), Err(OutOfBudget));
        assert_eq!(second.hold(FREE_BYTES + 400), Ok(()));
        assert_eq!(first.hold(FREE_BYTES + 500), Ok(()));
        assert_eq!(second.hold(FREE_BYTES + 500), Ok(()));
        drop((first, second));
        assert_eq!(Share::new(&budget).hold(FREE_BYTES + 1000), Ok(()));
    }
}
