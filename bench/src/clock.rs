//! Moments that two processes can compare.

use nix::time::{ClockId, clock_gettime};

use crate::Result;

/// `CLOCK_MONOTONIC` in nanoseconds: the same for every process since the machine's start.
pub fn monotonic_ns() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(now.tv_sec())? * 1_000_000_000 + u64::try_from(now.tv_nsec())?)
}
