//! How fast something may be copied.

use std::time::{Duration, Instant};

/// What is behind by more than this is not caught up with: a disk that stood still is not to be
/// flooded.
const DEBT_MAX: Duration = Duration::from_secs(1);

/// Says when to pause so that no more bytes pass in a second than allowed.
#[derive(Debug)]
pub struct Throttle {
    /// When what has passed would be due.
    due: Instant,
    passed_bytes: u64,
}

impl Throttle {
    /// From now on.
    pub fn new(now: Instant) -> Self {
        Throttle { due: now, passed_bytes: 0 }
    }

    /// So many bytes have passed since the beginning: how long to pause.
    pub fn pause(&mut self, now: Instant, bytes: u64, per_second: u64) -> Duration {
        let new_bytes = bytes.saturating_sub(self.passed_bytes);
        self.passed_bytes = bytes;
        let took = Duration::from_secs_f64(new_bytes as f64 / per_second.max(1) as f64);
        self.due = self.due.max(now.checked_sub(DEBT_MAX).unwrap_or(now)) + took;
        self.due.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_and_time_lost_is_not_made_up_for() {
        let began = Instant::now();
        let after = |seconds: f64| began + Duration::from_secs_f64(seconds);
        let mut throttle = Throttle::new(began);
        let mut pause = |now, bytes| throttle.pause(after(now), bytes, 1_000).as_secs_f64();
        assert!((pause(0.0, 100) - 0.1).abs() < 1e-6);
        assert!((pause(0.1, 200) - 0.1).abs() < 1e-6);
        // Slower than allowed, by less than a second: made up for.
        assert!(pause(0.6, 300) < 1e-6);
        assert!(pause(0.6, 600) < 1e-6);
        // By a minute: from now on at the rate again, but for one second.
        assert!(pause(60.0, 700) < 1e-6);
        assert!((pause(60.0, 2_700) - 1.1).abs() < 1e-6);
    }
}
