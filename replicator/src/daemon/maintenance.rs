//! What the configuration says of the maintenance, and what follows from damage that it finds.

use std::time::Duration;

use tokio::sync::watch;

use super::bytes;
use crate::config::Config;
use crate::store::Asker;
use crate::store::maintenance::{JobKind, Maintenance, Settings};

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

/// How often it is looked whether a verification has found damage.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// On a disk that goes on damaging what it stores, there is no more than one rebuild in this time.
const REBUILD_PAUSE: Duration = Duration::from_secs(3600);

/// Has this node's files replaced whenever a verification finds damage in them, and verified again
/// then.
pub(super) async fn rebuild_when_damaged(maintenance: Maintenance, rebuild: watch::Sender<bool>) {
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    let mut seen = None;
    loop {
        looks.tick().await;
        let last = maintenance.status().last.remove(&JobKind::Verification);
        let Some(found) = last.filter(|last| last.problems > 0 && seen != Some(last.job)) else {
            continue;
        };
        seen = Some(found.job);
        rebuild.send_replace(true);
        // Its sender is here.
        let _ = rebuild.subscribe().wait_for(|damaged| !damaged).await;
        // Somebody else's job may be in the way; then its turn comes.
        maintenance.begin(JobKind::Verification, Asker::new(|_| ()));
        tokio::time::sleep(REBUILD_PAUSE).await;
    }
}
