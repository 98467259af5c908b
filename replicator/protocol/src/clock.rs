//! Time as the state machines see it: handed in, monotonic, milliseconds.

use std::fmt;

/// Milliseconds on a monotonic clock with an arbitrary zero. Never a wall clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(u64);

impl Millis {
    /// The arbitrary zero.
    pub const ZERO: Millis = Millis(0);

    /// So many milliseconds after the zero.
    pub const fn new(ms: u64) -> Self {
        Millis(ms)
    }

    /// Milliseconds after the zero.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// So much later; the end of time stays where it is.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Millis(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`, 0 when that is later.
    pub const fn since_ms(self, earlier: Millis) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Debug for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}
