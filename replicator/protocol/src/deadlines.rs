//! Every timeout of a replication session, in one place.
//!
//! The two ends depend on each other: a source pings well within its follower's `idle_ms`, and a
//! follower reports well within its source's. The defaults leave room for five lost reports.

use crate::clock::Millis;

/// Timeouts of a session, in milliseconds, and the rate below which a frame does not arrive.
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
    /// A frame that takes longer than the silence that is allowed must come at least this fast:
    /// then its bytes count as a sign of life. Slower is silence.
    pub least_bytes_per_second: u64,
    /// An upstream that brought no new heartbeat for so long is stale. Many times the root's
    /// interval.
    pub stale_ms: u64,
    /// A node that follows a less preferred upstream asks those before it about so often.
    pub ask_preferred_ms: u64,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            handshake_ms: 10_000,
            idle_ms: 30_000,
            ping_ms: 5_000,
            report_ms: 5_000,
            least_bytes_per_second: 4 << 10,
            stale_ms: 10_000,
            ask_preferred_ms: 300_000,
        }
    }
}

/// When the other end was last heard.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hearing {
    last: Millis,
    /// Bytes since then, of a frame that is not whole yet.
    bytes: u64,
}

impl Hearing {
    pub(crate) fn new(now: Millis) -> Self {
        Hearing { last: now, bytes: 0 }
    }

    /// A frame came, or what has the same meaning.
    pub(crate) fn heard(&mut self, now: Millis) {
        *self = Hearing::new(now);
    }

    /// Bytes came. They are heard when so many have come that, had they taken all of `patience_ms`,
    /// they would have been fast enough.
    pub(crate) fn bytes(&mut self, now: Millis, bytes: usize, patience_ms: u64, least: u64) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.bytes.saturating_mul(1_000) >= least.saturating_mul(patience_ms) {
            self.heard(now);
        }
    }

    pub(crate) fn last(&self) -> Millis {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long somebody is listened to who sends so many bytes every 100 ms, and never a frame.
    fn listened_ms(bytes: usize) -> u64 {
        let Deadlines { idle_ms, least_bytes_per_second, .. } = Deadlines::default();
        let mut hearing = Hearing::new(Millis::ZERO);
        let mut now = Millis::ZERO;
        while now.since_ms(hearing.last()) < idle_ms && now.get() < 600_000 {
            now = now.plus_ms(100);
            hearing.bytes(now, bytes, idle_ms, least_bytes_per_second);
        }
        now.get()
    }

    #[test]
    fn a_frame_that_takes_long_is_waited_for_as_long_as_it_comes_fast_enough() {
        assert_eq!(listened_ms(0), 30_000);
        assert_eq!(listened_ms(1), 30_000, "a trickle is silence");
        assert_eq!(listened_ms(400), 30_000, "just below 4 KiB a second");
        assert_eq!(listened_ms(410), 600_000, "just above");
        assert_eq!(listened_ms(1 << 20), 600_000);
    }
}
