//! The pulse of the writer's thread: what the watchdog feels.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Shared between the thread, which beats, and whoever wants to know that it lives.
#[derive(Debug, Clone)]
pub struct Pulse {
    began: Instant,
    /// Milliseconds after `began`.
    last_ms: Arc<AtomicU64>,
}

impl Pulse {
    /// The longest time between two beats of a thread that waits; a commit may take longer.
    pub const INTERVAL: Duration = Duration::from_millis(500);

    /// Begins with a beat.
    pub fn new() -> Self {
        Pulse { began: Instant::now(), last_ms: Arc::default() }
    }

    /// The thread lives.
    pub fn beat(&self) {
        self.last_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// Time since the last beat.
    pub fn age(&self) -> Duration {
        let last_ms = self.last_ms.load(Ordering::Relaxed);
        Duration::from_millis(self.now_ms().saturating_sub(last_ms))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Default for Pulse {
    fn default() -> Self {
        Pulse::new()
    }
}
