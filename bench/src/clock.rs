//! Moments that two processes can compare, and work at a bounded rate.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::Result;

/// `CLOCK_MONOTONIC` in nanoseconds: the same for every process since the machine's start.
pub fn monotonic_ns() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(now.tv_sec())? * 1_000_000_000 + u64::try_from(now.tv_nsec())?)
}

/// Work that must not go faster than so much a second.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    began: Instant,
    per_second: f64,
}

impl Pace {
    /// From now on.
    pub fn new(per_second: f64) -> Self {
        Pace { began: Instant::now(), per_second }
    }

    /// How long whoever has done so much has to wait.
    pub fn pause(&self, done: f64) -> Duration {
        let due = Duration::from_secs_f64(done / self.per_second);
        due.saturating_sub(self.began.elapsed())
    }

    /// Waits so long.
    pub fn wait(&self, done: f64) {
        std::thread::sleep(self.pause(done));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_done_much_waits_and_who_is_late_does_not() {
        let pace = Pace { began: Instant::now() + Duration::from_secs(3_600), ..Pace::new(10.0) };
        assert_eq!(pace.pause(100.0), Duration::from_secs(10), "nothing has passed");
        let late = Pace { began: Instant::now() - Duration::from_secs(10), ..pace };
        assert_eq!(late.pause(99.0), Duration::ZERO);
    }
}
