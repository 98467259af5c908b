//! The root's window: at most one batch is sealed in it.
//!
//! Invariants:
//! * two seals are never closer than the window, measured from the start of the first commit;
//! * a write that arrives when nothing was sealed during the last window is sealed at once: the
//!   window is a throttle, not a delay;
//! * with a window of 0 nothing ever waits here (plain group commit: the previous commit is what
//!   the next batch waits for).

use crate::clock::Millis;

/// Decides when what has been collected may be sealed.
#[derive(Debug, Clone)]
pub struct Window {
    window_ms: u64,
    last_seal: Option<Millis>,
}

impl Window {
    /// A window of `window_ms`, in which nothing has been sealed yet.
    pub fn new(window_ms: u64) -> Self {
        Window { window_ms, last_seal: None }
    }

    /// When writes that are waiting at `now` may be sealed; `now` itself means at once.
    #[must_use]
    pub fn seal_at(&self, now: Millis) -> Millis {
        match self.last_seal {
            Some(last) => last.plus_ms(self.window_ms).max(now),
            None => now,
        }
    }

    /// A batch was sealed and its commit started at `now`. Call it for batches only: a round in
    /// which everything turned out to be a no-op seals nothing and costs the next write nothing.
    pub fn sealed(&mut self, now: Millis) {
        self.last_seal = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_lone_write_never_waits_and_the_next_window_is_sealed_together() {
        let mut window = Window::new(500);
        assert_eq!(window.seal_at(Millis::new(7)), Millis::new(7));
        window.sealed(Millis::new(7));
        for arrival in [7, 8, 250, 506] {
            assert_eq!(window.seal_at(Millis::new(arrival)), Millis::new(507));
        }
        assert_eq!(window.seal_at(Millis::new(507)), Millis::new(507));
        assert_eq!(window.seal_at(Millis::new(9_000)), Millis::new(9_000));
    }

    #[test]
    fn without_a_window_nothing_waits() {
        let mut window = Window::new(0);
        for at in [0, 0, 1, 5, 5] {
            assert_eq!(window.seal_at(Millis::new(at)), Millis::new(at));
            window.sealed(Millis::new(at));
        }
    }

    proptest! {
        /// Writes arrive at any times; each waits for the seal that `seal_at` promised it.
        #[test]
        fn never_two_seals_in_a_window_and_no_needless_wait(
            window_ms in 0u64..1_000,
            gaps in prop::collection::vec(0u64..1_500, 1..60),
        ) {
            let mut window = Window::new(window_ms);
            let mut seals: Vec<u64> = Vec::new();
            let mut pending: Option<u64> = None;
            let mut now = 0;
            for gap in gaps {
                now += gap;
                if let Some(due) = pending.filter(|due| *due <= now) {
                    window.sealed(Millis::new(due));
                    seals.push(due);
                    pending = None;
                }
                let due = window.seal_at(Millis::new(now)).get();
                prop_assert!(due - now <= window_ms, "a write waits at most one window");
                let quiet = seals.last().is_none_or(|last| last + window_ms <= now);
                if quiet && pending.is_none() {
                    prop_assert_eq!(due, now, "a lone write never waits");
                }
                if let Some(promised) = pending {
                    prop_assert_eq!(due, promised, "one window is sealed together");
                }
                pending = Some(due);
            }
            for pair in seals.windows(2) {
                prop_assert!(pair[1] - pair[0] >= window_ms);
            }
        }
    }
}
