//! Which upstream to try next, and when.
//!
//! Invariants:
//! * a round goes through the primaries in their order, then the secondaries; after a session
//!   that worked, the next round begins with the first primary;
//! * the wait before a try is drawn from the whole interval from 0 to a bound that doubles with
//!   every failure (full jitter), so that a thousand nodes that lost the same upstream do not
//!   come back together;
//! * an upstream that said it would be back at once is not a failed one: it is dialled again after
//!   the first, shortest wait;
//! * a snapshot is asked for only after a whole round in which some upstream's log was too short
//!   and none served; after a divergence or a wrong database nothing is tried for
//!   [`HALT_RETRY_MS`];
//! * a snapshot comes from an upstream that is connected to the root; from another one only when none
//!   was, [`ROOTLESS_ROUNDS`] times in a row and for [`ROOTLESS_MS`].
//!
//! Upstreams are slots (numbers): what is behind them is the driver's business.

use quicksilver_format::Index;
use rand::Rng;

use crate::clock::Millis;
use crate::end::{Decision, EndCause, SessionEnd};
use crate::message::ByeReason;

/// Bound of the first wait.
pub const BACKOFF_BASE_MS: u64 = 100;
/// Bound of every wait.
pub const BACKOFF_CAP_MS: u64 = 30_000;
/// The wait after something that needs an operator.
pub const HALT_RETRY_MS: u64 = 30_000;
/// While no upstream is connected to the root, a node waits for so long before it takes a snapshot of
/// one that is not,
pub const ROOTLESS_MS: u64 = 30_000;
/// and asks so often who is: an upstream that has just started is about to be.
pub const ROOTLESS_ROUNDS: u32 = 3;
/// A session of this length was no detour between two such questions.
const ROOTLESS_WORKED_MS: u64 = 10 * 60_000;
/// A session that streamed for so long has worked: the back-off starts again.
pub const HEALTHY_MS: u64 = 10_000;

/// Which upstream: primaries first, then secondaries, in the order of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamSlot(pub usize);

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Wait, then dial.
    Dial {
        /// Whom.
        slot: UpstreamSlot,
        /// After how long.
        after_ms: u64,
    },
    /// No upstream has the log this node needs: fetch a snapshot, then ask again.
    Snapshot {
        /// The oldest entry that any of them has.
        oldest: Index,
        /// Who has it.
        slot: UpstreamSlot,
    },
    /// Everything that was asked for is here.
    Done,
    /// There is no upstream to try.
    Nothing,
}

/// The order of tries.
#[derive(Debug, Clone)]
pub struct Chooser {
    slots: usize,
    primaries: usize,
    at: usize,
    failures: u32,
    /// Failures in a row at `at`.
    failures_here: u32,
    wait_at_least_ms: u64,
    /// The longest log that was still too short, in this round.
    too_old: Option<(Index, UpstreamSlot)>,
    round_over: bool,
    /// Since when, and how often in a row, a snapshot was wanted and nobody was connected to the root.
    rootless: Option<(Millis, u32)>,
    done: bool,
}

impl Chooser {
    /// For so many primaries and secondaries.
    pub fn new(primaries: usize, secondaries: usize) -> Self {
        Chooser {
            slots: primaries + secondaries,
            primaries,
            at: 0,
            failures: 0,
            failures_here: 0,
            wait_at_least_ms: 0,
            too_old: None,
            round_over: false,
            rootless: None,
            done: false,
        }
    }

    /// What to do now. Call it once per try: the wait is drawn here.
    pub fn next(&mut self, rng: &mut impl Rng) -> Next {
        if self.done {
            return Next::Done;
        }
        if self.slots == 0 {
            return Next::Nothing;
        }
        if std::mem::take(&mut self.round_over)
            && let Some((oldest, slot)) = self.too_old.take()
        {
            return Next::Snapshot { oldest, slot };
        }
        let bound_ms =
            BACKOFF_BASE_MS.saturating_mul(1 << self.failures.min(20)).min(BACKOFF_CAP_MS);
        let jitter_ms = rng.random_range(0..=bound_ms);
        let after_ms = std::mem::take(&mut self.wait_at_least_ms) + jitter_ms;
        Next::Dial { slot: UpstreamSlot(self.at), after_ms }
    }

    /// A session with the upstream that was dialled last has ended, after streaming for
    /// `streamed_ms` (0 when it never did).
    pub fn ended(&mut self, end: &SessionEnd, streamed_ms: u64) {
        if streamed_ms > 0 {
            self.too_old = None;
            self.round_over = false;
            // Whoever leaves an upstream that was stale soon for a snapshot still wants one.
            if end.cause != EndCause::Left(ByeReason::Leaving) || streamed_ms >= ROOTLESS_WORKED_MS
            {
                self.rootless = None;
            }
        }
        if streamed_ms >= HEALTHY_MS {
            self.failures = 0;
            self.failures_here = 0;
        }
        match end.decision() {
            Decision::Done => self.done = true,
            Decision::Reconnect if streamed_ms >= HEALTHY_MS => self.at = 0,
            Decision::Reconnect if streamed_ms > 0 && end.is_restart() => {
                // Somebody listens on its socket all the time: it is no failure, however often.
                self.failures = 0;
                self.failures_here = 0;
            }
            Decision::Reconnect if self.failures_here == 0 => {
                self.failures += 1;
                self.failures_here += 1;
            }
            Decision::Reconnect => self.advance(),
            Decision::TryAnother { retry_after_ms } => {
                self.advance();
                if self.slots == 1 {
                    self.wait_at_least_ms = retry_after_ms.min(BACKOFF_CAP_MS);
                }
            }
            Decision::NeedSnapshot { oldest } => {
                let better = self.too_old.is_none_or(|(best, _)| oldest < best);
                if better {
                    self.too_old = Some((oldest, UpstreamSlot(self.at)));
                }
                let on_primary = self.at < self.primaries;
                if on_primary && self.primaries < self.slots {
                    self.failures += 1;
                    self.failures_here = 0;
                    self.at = self.primaries;
                } else {
                    self.advance();
                }
            }
            Decision::Halt => {
                self.advance();
                self.wait_at_least_ms = HALT_RETRY_MS;
            }
        }
    }

    /// The session has ended because `slot` is better: it is the next.
    pub fn go_to(&mut self, slot: UpstreamSlot) {
        self.at = slot.0;
        self.failures = 0;
        self.failures_here = 0;
        self.rootless = None;
    }

    /// The session has ended because its upstream is stale and no other one has the log.
    pub fn fetch(&mut self, oldest: Index, slot: UpstreamSlot) {
        self.too_old = Some((oldest, slot));
        self.round_over = true;
    }

    /// The answer to [`Next::Snapshot`], once the upstreams were asked which of them are `connected` to
    /// the root: whom to ask for a snapshot, in this order. Nobody yet, when none of them is: then another
    /// round is due.
    ///
    /// `first` is whose log reaches back furthest. That is easily one that has lost the root, because
    /// the others' logs have moved on, and what it has may be of a past that the root has left.
    pub fn snapshot_sources(
        &mut self,
        now: Millis,
        first: UpstreamSlot,
        connected: &[UpstreamSlot],
    ) -> Vec<UpstreamSlot> {
        let slots = self.slots;
        let all = (0..slots).map(|n| UpstreamSlot((first.0 + n) % slots));
        if !connected.is_empty() {
            self.rootless = None;
            return all.filter(|slot| connected.contains(slot)).collect();
        }
        let (since, rounds) = self.rootless.get_or_insert((now, 0));
        *rounds += 1;
        let waits = *rounds < ROOTLESS_ROUNDS || now.since_ms(*since) < ROOTLESS_MS;
        if waits { Vec::new() } else { all.collect() }
    }

    fn advance(&mut self) {
        self.failures += 1;
        self.failures_here = 0;
        self.at += 1;
        if self.at >= self.slots {
            self.at = 0;
            self.round_over = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quicksilver_format::{Position, RunningHash};
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn rng() -> StdRng {
        StdRng::seed_from_u64(7)
    }

    fn end(cause: EndCause) -> SessionEnd {
        SessionEnd { upstream: None, cause }
    }

    fn lost() -> SessionEnd {
        SessionEnd::never_connected("refused")
    }

    fn busy(retry_after_ms: u64) -> SessionEnd {
        end(EndCause::Busy { retry_after_ms })
    }

    fn too_old(oldest: u64) -> SessionEnd {
        end(EndCause::LogTooOld { oldest: Index::new(oldest), mine: Index::FIRST })
    }

    fn diverged() -> SessionEnd {
        let hash = |byte| RunningHash::from_bytes([byte; 32]);
        end(EndCause::Diverged { index: Index::FIRST, mine: hash(1), theirs: hash(2) })
    }

    fn dial(chooser: &mut Chooser, rng: &mut StdRng) -> (usize, u64) {
        match chooser.next(rng) {
            Next::Dial { slot, after_ms } => (slot.0, after_ms),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn primaries_in_order_then_secondaries_then_again() {
        let (mut chooser, mut rng) = (Chooser::new(2, 1), rng());
        let mut order = Vec::new();
        for _ in 0..5 {
            order.push(dial(&mut chooser, &mut rng).0);
            chooser.ended(&busy(0), 0);
        }
        assert_eq!(order, [0, 1, 2, 0, 1]);
    }

    #[test]
    fn a_snapshot_comes_from_the_tree_of_the_root_or_in_the_end_from_anybody() {
        let mut chooser = Chooser::new(2, 1);
        let mut sources = |at_ms, first, connected: &[usize]| {
            let connected: Vec<_> = connected.iter().copied().map(UpstreamSlot).collect();
            let sources =
                chooser.snapshot_sources(Millis::new(at_ms), UpstreamSlot(first), &connected);
            sources.iter().map(|slot| slot.0).collect::<Vec<_>>()
        };
        assert_eq!(sources(0, 1, &[0]), [0]);
        assert_eq!(sources(1, 1, &[0, 1]), [1, 0]);
        assert_eq!(sources(2, 2, &[2, 1, 0]), [2, 0, 1]);
        assert_eq!(sources(10, 1, &[]), []);
        assert_eq!(sources(9 + ROOTLESS_MS, 1, &[]), []);
        assert_eq!(sources(10 + ROOTLESS_MS, 1, &[]), [1, 2, 0]);
        // Counted from the last time that somebody was.
        assert_eq!(sources(11 + ROOTLESS_MS, 1, &[2]), [2]);
        assert_eq!(sources(12 + ROOTLESS_MS, 1, &[]), []);
        assert_eq!(sources(12 + 9 * ROOTLESS_MS, 1, &[]), [], "asked twice, however long ago");
        assert_eq!(sources(13 + 9 * ROOTLESS_MS, 1, &[]), [1, 2, 0]);
        // Who follows somebody needs no snapshot any more.
        chooser.ended(&lost(), 1);
        assert_eq!(chooser.snapshot_sources(Millis::new(1 << 40), UpstreamSlot(0), &[]), []);
    }

    /// Story: the root is away, and so is the log that a node needs, but for one that is stale as it
    /// is. It goes back and forth between that one and the question, and not for ever.
    #[test]
    fn who_leaves_a_stale_upstream_for_a_snapshot_gets_one_in_the_end() {
        let (mut chooser, mut rng) = (Chooser::new(2, 0), rng());
        let (mut now, mut questions) = (Millis::ZERO, 0);
        loop {
            now = now.plus_ms(12_000);
            chooser.ended(&end(EndCause::Left(ByeReason::Leaving)), 12_000);
            chooser.fetch(Index::new(7), UpstreamSlot(1));
            let Next::Snapshot { slot, .. } = chooser.next(&mut rng) else { panic!() };
            questions += 1;
            if !chooser.snapshot_sources(now, slot, &[]).is_empty() {
                break;
            }
        }
        assert_eq!(questions, 4, "until half a minute is over");
        // A session that was fresh for long is another matter.
        let days_ms = 3 * 24 * 3_600 * 1_000;
        assert_eq!(chooser.snapshot_sources(now, UpstreamSlot(1), &[]).len(), 2);
        chooser.ended(&end(EndCause::Left(ByeReason::Leaving)), days_ms);
        chooser.fetch(Index::new(7), UpstreamSlot(1));
        assert_eq!(chooser.snapshot_sources(now.plus_ms(days_ms), UpstreamSlot(1), &[]), []);
    }

    #[test]
    fn a_lost_connection_is_tried_once_more_before_the_next_upstream() {
        let (mut chooser, mut rng) = (Chooser::new(2, 0), rng());
        let mut order = Vec::new();
        for _ in 0..5 {
            order.push(dial(&mut chooser, &mut rng).0);
            chooser.ended(&lost(), 0);
        }
        assert_eq!(order, [0, 0, 1, 1, 0]);
    }

    #[test]
    fn waits_grow_to_the_cap_and_a_healthy_session_resets_them() {
        let (mut chooser, mut rng) = (Chooser::new(1, 0), rng());
        let mut longest = 0;
        for failures in 0..200u32 {
            let (_, after_ms) = dial(&mut chooser, &mut rng);
            let bound = (BACKOFF_BASE_MS << failures.min(20)).min(BACKOFF_CAP_MS);
            assert!(after_ms <= bound, "{after_ms} after {failures} failures");
            longest = longest.max(after_ms);
            chooser.ended(&lost(), 0);
        }
        assert!(longest > BACKOFF_CAP_MS / 2, "the whole interval is drawn from");
        chooser.ended(&lost(), HEALTHY_MS);
        assert!(dial(&mut chooser, &mut rng).1 <= BACKOFF_BASE_MS);
    }

    #[test]
    fn a_thousand_nodes_do_not_come_back_together() {
        let mut waits: Vec<u64> = (0..1_000)
            .map(|seed| {
                let (mut chooser, mut rng) = (Chooser::new(1, 0), StdRng::seed_from_u64(seed));
                for _ in 0..6 {
                    chooser.ended(&lost(), 0);
                }
                dial(&mut chooser, &mut rng).1
            })
            .collect();
        waits.sort_unstable();
        let most_in_100_ms = waits.windows(200).all(|w| w[199] - w[0] >= 100);
        assert!(most_in_100_ms, "no 200 of 1,000 within 100 ms");
    }

    /// Story: an upstream is upgraded a hundred times in a minute.
    #[test]
    fn an_upstream_that_restarts_is_dialled_again_soon_however_often() {
        let (mut chooser, mut rng) = (Chooser::new(2, 1), rng());
        for _ in 0..100 {
            let (slot, after_ms) = dial(&mut chooser, &mut rng);
            assert!(slot == 0 && after_ms <= BACKOFF_BASE_MS, "{slot} after {after_ms} ms");
            chooser.ended(&end(EndCause::SourceLeft(ByeReason::Restarting)), 500);
        }
        // One that says so and never serves is left like any other.
        for _ in 0..2 {
            chooser.ended(&end(EndCause::SourceLeft(ByeReason::Restarting)), 0);
        }
        assert_eq!(dial(&mut chooser, &mut rng).0, 1);
    }

    #[test]
    fn a_log_that_is_too_old_sends_to_the_secondaries_and_then_to_a_snapshot() {
        let (mut chooser, mut rng) = (Chooser::new(2, 2), rng());
        assert_eq!(dial(&mut chooser, &mut rng).0, 0);
        chooser.ended(&too_old(90), 0);
        assert_eq!(dial(&mut chooser, &mut rng).0, 2, "the other primary has no longer log");
        chooser.ended(&too_old(40), 0);
        assert_eq!(dial(&mut chooser, &mut rng).0, 3);
        chooser.ended(&lost(), 0);
        assert_eq!(dial(&mut chooser, &mut rng).0, 3);
        chooser.ended(&lost(), 0);
        let wanted = Next::Snapshot { oldest: Index::new(40), slot: UpstreamSlot(2) };
        assert_eq!(chooser.next(&mut rng), wanted);
        assert_eq!(dial(&mut chooser, &mut rng).0, 0, "meanwhile the next round begins");
    }

    #[test]
    fn an_upstream_that_serves_makes_a_snapshot_needless() {
        let (mut chooser, mut rng) = (Chooser::new(1, 1), rng());
        chooser.ended(&too_old(90), 0);
        assert_eq!(dial(&mut chooser, &mut rng).0, 1);
        chooser.ended(&lost(), 500);
        chooser.ended(&lost(), 0);
        assert_eq!(dial(&mut chooser, &mut rng).0, 0);
    }

    #[test]
    fn being_behind_never_leads_to_a_snapshot() {
        let (mut chooser, mut rng) = (Chooser::new(1, 1), rng());
        let hash = RunningHash::from_bytes([1; 32]);
        let position = Position { index: Index::FIRST, hash };
        for _ in 0..10 {
            assert!(matches!(chooser.next(&mut rng), Next::Dial { .. }));
            chooser.ended(&end(EndCause::Behind { position, mine: Index::new(2) }), 0);
        }
    }

    #[test]
    fn divergence_waits_for_an_operator() {
        let (mut chooser, mut rng) = (Chooser::new(1, 0), rng());
        chooser.ended(&diverged(), 60_000);
        assert!(dial(&mut chooser, &mut rng).1 >= HALT_RETRY_MS);
    }

    #[test]
    fn a_busy_upstream_is_left_alone_when_it_is_the_only_one() {
        let (mut chooser, mut rng) = (Chooser::new(1, 0), rng());
        chooser.ended(&busy(5_000), 0);
        assert!(dial(&mut chooser, &mut rng).1 >= 5_000);
        chooser.ended(&busy(u64::MAX), 0);
        assert!(dial(&mut chooser, &mut rng).1 <= 2 * BACKOFF_CAP_MS, "not for ever");
    }

    #[test]
    fn one_that_is_better_is_dialled_at_once_and_the_round_goes_on_from_there() {
        let (mut chooser, mut rng) = (Chooser::new(2, 1), rng());
        assert_eq!(dial(&mut chooser, &mut rng).0, 0);
        chooser.ended(&end(EndCause::Left(ByeReason::Leaving)), 60_000);
        chooser.go_to(UpstreamSlot(1));
        let (slot, after_ms) = dial(&mut chooser, &mut rng);
        assert!(slot == 1 && after_ms <= BACKOFF_BASE_MS, "{slot} after {after_ms} ms");
        chooser.ended(&busy(0), 0);
        assert_eq!(dial(&mut chooser, &mut rng).0, 2);
    }

    #[test]
    fn a_snapshot_that_tenure_wants_is_the_next_thing() {
        let (mut chooser, mut rng) = (Chooser::new(2, 0), rng());
        chooser.ended(&end(EndCause::Left(ByeReason::Leaving)), 60_000);
        chooser.fetch(Index::new(40), UpstreamSlot(1));
        let wanted = Next::Snapshot { oldest: Index::new(40), slot: UpstreamSlot(1) };
        assert_eq!(chooser.next(&mut rng), wanted);
        assert_eq!(dial(&mut chooser, &mut rng).0, 0);
    }

    #[test]
    fn nothing_to_follow_and_everything_done() {
        assert_eq!(Chooser::new(0, 0).next(&mut rng()), Next::Nothing);
        let mut chooser = Chooser::new(1, 0);
        chooser.ended(&end(EndCause::SourceLeft(crate::ByeReason::StopReached)), 10);
        assert_eq!(chooser.next(&mut rng()), Next::Done);
    }
}
