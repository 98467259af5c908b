//! Telling systemd how it goes: datagrams to `NOTIFY_SOCKET`, nothing when it is not set.

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Sends one state such as `READY=1`.
pub(super) fn notify(state: &str) {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else { return };
    let address = match name.as_encoded_bytes().strip_prefix(b"@") {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name),
        None => SocketAddr::from_pathname(&name),
    };
    let sent = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(e) = sent {
        tracing::warn!(error = %e, state, "the service manager could not be told");
    }
}

/// Whether a service manager waits to be told.
pub(super) fn is_managed() -> bool {
    env::var_os("NOTIFY_SOCKET").is_some()
}

/// Tells the watchdog, for as long as it is not dropped, that the process lives: whoever polls this,
/// and what `is_well` looks at.
pub(super) async fn feed_watchdog(is_well: impl Fn() -> bool) {
    let Some(interval) = watchdog_interval() else { return std::future::pending().await };
    let mut ticks = tokio::time::interval(interval);
    loop {
        ticks.tick().await;
        if is_well() {
            notify("WATCHDOG=1");
        }
    }
}

/// How often the watchdog wants to hear `WATCHDOG=1`: half of what it allows.
pub(super) fn watchdog_interval() -> Option<Duration> {
    let for_us = env::var("WATCHDOG_PID")
        .map_or(Ok(true), |pid| pid.parse::<u32>().map(|pid| pid == std::process::id()));
    let micros: u64 = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    (for_us == Ok(true) && micros > 0).then(|| Duration::from_micros(micros / 2))
}
