//! What the configuration says of the maintenance.

use std::time::Duration;

use super::bytes;
use crate::config::Config;
use crate::store::maintenance::Settings;

pub(super) fn settings(config: &Config) -> Settings {
    let (compact, limits, scrub) = (&config.compact, &config.limits, &config.scrub);
    let hours = Duration::from_secs(3600)
        .saturating_mul(u32::try_from(scrub.interval_hours).unwrap_or(u32::MAX));
    Settings {
        map_bytes: bytes(limits.map_bytes),
        max_readers: limits.max_readers,
        reader_hold_bytes: limits.reader_hold_bytes,
        compacts_by_itself: compact.auto,
        compact_min_bytes: compact.min_bytes,
        compact_free_percent: compact.free_percent,
        copy_bytes_per_second: compact.max_bytes_per_second,
        old_generation_patience: Duration::from_secs(compact.old_generation_seconds),
        verify_interval: (!hours.is_zero()).then_some(hours),
        verify_bytes_per_second: scrub.max_bytes_per_second,
    }
}
