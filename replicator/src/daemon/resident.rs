//! Keeps small what this process has mapped of the database, so that its end takes no longer for a
//! large one: whoever has read ten gigabytes takes a tenth of a second to give them back, and
//! meanwhile nobody can take its place. The pages stay in the page cache, where every program of the
//! machine finds them.

use std::fs;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};
use quicksilver::Reader;

const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Giving this back takes about a millisecond.
const MAPPED_MAX_BYTES: u64 = 128 << 20;

/// Looks for as long as it is not dropped.
pub(super) async fn watch(reader: Reader) {
    let page_bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096).unsigned_abs();
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    loop {
        ticks.tick().await;
        if mapped_pages().saturating_mul(page_bytes) <= MAPPED_MAX_BYTES {
            continue;
        }
        let Ok(environment) = reader.environment() else { continue };
        let released = tokio::task::spawn_blocking(move || environment.env.release_pages()).await;
        if let Ok(Err(error)) = released {
            tracing::warn!(%error, "pages of the database stay mapped; a restart takes longer");
        }
    }
}

/// Pages of files that this process has mapped; 0 where the system does not say.
fn mapped_pages() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(2).and_then(|pages| pages.parse().ok()).unwrap_or(0)
}
