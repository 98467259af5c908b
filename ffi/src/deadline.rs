//! Timeouts as C gives them: milliseconds, and without end when negative.

use std::time::{Duration, Instant};

/// How long a call may sleep before it looks whether its handle is being closed.
pub(crate) const LOOK_AFTER: Duration = Duration::from_millis(100);

/// A timeout; a negative one is without end.
pub(crate) fn timeout(timeout_ms: i64) -> Duration {
    u64::try_from(timeout_ms).map_or(Duration::MAX, Duration::from_millis)
}

/// When a call gives up; never, when it has none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// `timeout_ms` from now.
    pub(crate) fn after(timeout_ms: i64) -> Self {
        // A time beyond what the clock can say does not come.
        Deadline(Instant::now().checked_add(timeout(timeout_ms)))
    }

    /// What is left of it, but at most `limit`.
    pub(crate) fn left(self, limit: Duration) -> Duration {
        self.0.map_or(limit, |at| at.saturating_duration_since(Instant::now()).min(limit))
    }

    /// Whether it is over.
    pub(crate) fn has_passed(self) -> bool {
        self.0.is_some_and(|at| Instant::now() >= at)
    }
}
