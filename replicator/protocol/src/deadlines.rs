//! Every timeout of a replication session, in one place.
//!
//! The two ends depend on each other: a source pings well within its follower's `idle_ms`, and a
//! follower reports well within its source's. The defaults leave room for five lost reports.

/// Timeouts of a session, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// From the connection to the end of the handshake.
    pub handshake_ms: u64,
    /// Silence after which the other end is taken for dead.
    pub idle_ms: u64,
    /// A source that sent nothing for so long sends a `Ping`.
    pub ping_ms: u64,
    /// A follower that sent nothing for so long repeats its `Applied`.
    pub report_ms: u64,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines { handshake_ms: 10_000, idle_ms: 30_000, ping_ms: 5_000, report_ms: 5_000 }
    }
}
