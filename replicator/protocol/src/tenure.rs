//! Whether to stay with the upstream that is followed: when to ask another one, and whether to go
//! there.
//!
//! Asking is a handshake that ends with its `Welcome` (a session whose stop is where this node is),
//! beside the session that lives.
//!
//! Invariants:
//! * an upstream is stale when it has brought neither a batch nor a new heartbeat for
//!   [`stale_ms`](Deadlines::stale_ms). It is left only for
//!   one whose handshake shows a fresher heartbeat than the newest that was heard: when the root is
//!   down, all are equally stale, and nobody hunts;
//! * when none of the others is fresher and serves this node, and the log of one of them begins after
//!   where this node is, that one is ahead for certain: a snapshot is fetched;
//! * an upstream that is not the preferred one is left for one that is preferred to it, as soon as
//!   that one's handshake shows that it is not behind in heartbeats;
//! * questions come with jitter, and the more of them brought nothing, the rarer.
//!
//! Heartbeats are compared by the entry that they follow, then by the root's clock, so that a root
//! whose clock was set back is still fresher than a node that it has left behind. No clock of this
//! node is compared with the root's.

use std::collections::BTreeSet;

use quicksilver_format::{Heartbeat, Index};
use rand::Rng;

use crate::choice::UpstreamSlot;
use crate::clock::Millis;
use crate::deadlines::Deadlines;
use crate::end::{Decision, SessionEnd};

/// The bound of the waits between two questions of a node whose upstream is stale grows from
/// `stale_ms` to so many times that.
const ASK_STALE_MAX: u64 = 12;

/// How it goes with the upstream that is followed.
#[derive(Debug, Clone)]
pub struct Tenure {
    /// Whom this node follows, of so many.
    slot: UpstreamSlot,
    slots: usize,
    deadlines: Deadlines,
    /// The newest heartbeat that came, or that it had at the handshake.
    heartbeat: Option<Heartbeat>,
    /// When that, or a batch, came.
    heard: Millis,
    /// Bytes since then, of a frame that is not whole yet.
    partial_bytes: u64,
    /// When to ask somebody else because this one is stale.
    ask_stale_at: Millis,
    /// Bound of the wait after that.
    ask_stale_ms: u64,
    /// When to ask one that is preferred.
    ask_preferred_at: Millis,
    /// Questions so far: those who can be asked are, in turn.
    asked: usize,
    /// Who has been asked since it went stale, and could not help.
    unhelpful: BTreeSet<UpstreamSlot>,
    /// The longest log of theirs that was still too short.
    too_old: Option<(Index, UpstreamSlot)>,
}

/// What another upstream says to a node that stands where this one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It would serve it, and has this heartbeat.
    Welcome(Option<Heartbeat>),
    /// Its log begins after that.
    LogTooOld {
        /// The oldest entry it has.
        oldest: Index,
    },
    /// Nothing, or another refusal.
    Nothing,
}

impl Answer {
    /// A handshake that ended like this.
    pub fn of(end: &SessionEnd) -> Self {
        match end.decision() {
            Decision::NeedSnapshot { oldest } => Answer::LogTooOld { oldest },
            _ => Answer::Nothing,
        }
    }
}

/// What follows from an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// This node stays where it is.
    Stay,
    /// It goes to that one.
    Leave(UpstreamSlot),
    /// It leaves, and fetches a snapshot that reaches to this entry at least.
    Fetch {
        /// The oldest entry that any of the others has.
        oldest: Index,
        /// Who has it.
        slot: UpstreamSlot,
    },
}

impl Tenure {
    /// A session with `slot`, one of `slots`, has just begun; its `Welcome` had this heartbeat.
    pub fn new(
        slot: UpstreamSlot,
        slots: usize,
        heartbeat: Option<Heartbeat>,
        deadlines: Deadlines,
        now: Millis,
        rng: &mut impl Rng,
    ) -> Self {
        let mut tenure = Tenure {
            slot,
            slots,
            deadlines,
            heartbeat,
            heard: now,
            partial_bytes: 0,
            ask_stale_at: now,
            ask_stale_ms: deadlines.stale_ms,
            ask_preferred_at: now.plus_ms(jittered(deadlines.ask_preferred_ms, rng)),
            asked: 0,
            unhelpful: BTreeSet::new(),
            too_old: None,
        };
        tenure.refreshed(now, rng);
        tenure
    }

    /// The upstream sent this.
    pub fn heartbeat(&mut self, now: Millis, heartbeat: Heartbeat, rng: &mut impl Rng) {
        // The newest one is repeated to whoever has just caught up.
        if self.heartbeat != Some(heartbeat) {
            self.heartbeat = Some(heartbeat);
            self.refreshed(now, rng);
        }
    }

    /// The upstream sent a batch. Whoever catches up gets no heartbeats meanwhile.
    pub fn batch(&mut self, now: Millis, rng: &mut impl Rng) {
        self.refreshed(now, rng);
    }

    /// Bytes came. A batch of many megabytes on a slow line is news before it is whole; so many bytes
    /// are, that had they taken all of `stale_ms` they would have been fast enough.
    pub fn bytes(&mut self, now: Millis, bytes: usize, rng: &mut impl Rng) {
        let Deadlines { least_bytes_per_second, stale_ms, .. } = self.deadlines;
        self.partial_bytes = self.partial_bytes.saturating_add(bytes as u64);
        let enough = least_bytes_per_second.saturating_mul(stale_ms);
        if self.partial_bytes.saturating_mul(1_000) >= enough {
            self.refreshed(now, rng);
        }
    }

    /// This node takes nothing, because its own disk has no room for more or is slow: that says
    /// nothing about the upstream.
    pub fn not_reading(&mut self, now: Millis, rng: &mut impl Rng) {
        self.refreshed(now, rng);
    }

    /// Whether the upstream has brought nothing new for too long.
    pub fn is_stale(&self, now: Millis) -> bool {
        now.since_ms(self.heard) >= self.deadlines.stale_ms
    }

    /// When [`Self::ask`] has a question.
    pub fn next_deadline(&self) -> Millis {
        match (self.slots, self.slot) {
            (..2, _) => Millis::new(u64::MAX),
            (_, UpstreamSlot(0)) => self.ask_stale_at,
            _ => self.ask_stale_at.min(self.ask_preferred_at),
        }
    }

    /// Whom to ask now, if anybody. Call it once per question: the next wait is drawn here.
    pub fn ask(&mut self, now: Millis, rng: &mut impl Rng) -> Option<UpstreamSlot> {
        if now < self.next_deadline() {
            return None;
        }
        let Deadlines { stale_ms, ask_preferred_ms, .. } = self.deadlines;
        // A stale one may be left for anybody, a fresh one for those that are preferred to it.
        let asked = if now >= self.ask_stale_at {
            self.ask_stale_at = now.plus_ms(jittered(self.ask_stale_ms, rng));
            let most_ms = stale_ms.saturating_mul(ASK_STALE_MAX);
            self.ask_stale_ms = self.ask_stale_ms.saturating_mul(2).min(most_ms);
            let other = self.asked % (self.slots - 1);
            other + usize::from(other >= self.slot.0)
        } else {
            self.ask_preferred_at = now.plus_ms(jittered(ask_preferred_ms, rng));
            self.asked % self.slot.0
        };
        self.asked = self.asked.wrapping_add(1);
        Some(UpstreamSlot(asked))
    }

    /// `slot` has answered.
    pub fn answered(&mut self, now: Millis, slot: UpstreamSlot, answer: Answer) -> Verdict {
        match answer {
            Answer::Welcome(theirs) if self.is_better(now, slot, theirs) => {
                return Verdict::Leave(slot);
            }
            Answer::LogTooOld { oldest } if self.too_old.is_none_or(|(best, _)| oldest < best) => {
                self.too_old = Some((oldest, slot));
            }
            _ => {}
        }
        if self.is_stale(now) {
            self.unhelpful.insert(slot);
        }
        match self.too_old {
            Some((oldest, slot)) if self.unhelpful.len() + 1 >= self.slots => {
                Verdict::Fetch { oldest, slot }
            }
            _ => Verdict::Stay,
        }
    }

    fn is_better(&self, now: Millis, slot: UpstreamSlot, theirs: Option<Heartbeat>) -> bool {
        let (theirs, mine) = (theirs.map(freshness), self.heartbeat.map(freshness));
        if self.is_stale(now) {
            return theirs > mine;
        }
        // Of two that are alive, either may be a heartbeat ahead.
        let stale_us = self.deadlines.stale_ms.saturating_mul(1_000);
        let lately = mine.map(|(after, clock_us)| (after, clock_us.saturating_sub(stale_us)));
        slot < self.slot && theirs >= lately
    }

    fn refreshed(&mut self, now: Millis, rng: &mut impl Rng) {
        self.heard = now;
        self.partial_bytes = 0;
        self.unhelpful.clear();
        self.too_old = None;
        let stale_ms = self.deadlines.stale_ms;
        self.ask_stale_ms = stale_ms;
        self.ask_stale_at = now.plus_ms(stale_ms + rng.random_range(0..=stale_ms / 2));
    }
}

/// What two heartbeats are compared by.
fn freshness(heartbeat: Heartbeat) -> (Index, u64) {
    (heartbeat.after, heartbeat.root_clock_us)
}

/// From half of `ms` to all of it.
fn jittered(ms: u64, rng: &mut impl Rng) -> u64 {
    rng.random_range(ms / 2..=ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn at(seconds: u64) -> Millis {
        Millis::new(seconds * 1_000)
    }

    fn beat(after: u64, root_seconds: u64) -> Heartbeat {
        Heartbeat { root_clock_us: root_seconds * 1_000_000, after: Index::new(after) }
    }

    fn tenure(slot: usize, slots: usize, rng: &mut StdRng) -> Tenure {
        Tenure::new(
            UpstreamSlot(slot),
            slots,
            Some(beat(5, 100)),
            Deadlines::default(),
            Millis::ZERO,
            rng,
        )
    }

    /// Every question from `from` on, with its second, for `seconds`.
    fn questions(
        tenure: &mut Tenure,
        from: u64,
        seconds: u64,
        rng: &mut StdRng,
    ) -> Vec<(u64, usize)> {
        (from..from + seconds)
            .filter_map(|second| Some((second, tenure.ask(at(second), rng)?.0)))
            .collect()
    }

    #[test]
    fn the_first_upstream_is_not_questioned_while_heartbeats_come() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut tenure = tenure(0, 3, &mut rng);
        for second in 0..3_600 {
            tenure.heartbeat(at(second), beat(5, 100 + second), &mut rng);
            assert_eq!(tenure.ask(at(second), &mut rng), None);
            assert!(!tenure.is_better(at(second), UpstreamSlot(1), Some(beat(9, 9_999))));
        }
    }

    /// Story: the upstream lives and says so, but has lost the root.
    #[test]
    fn a_stale_one_has_the_others_asked_in_turn_ever_more_rarely() {
        let mut rng = StdRng::seed_from_u64(2);
        let mut in_the_middle = tenure(1, 3, &mut rng);
        let whom = questions(&mut in_the_middle, 0, 60, &mut rng);
        assert_eq!(whom.iter().map(|(_, slot)| *slot).take(3).collect::<Vec<_>>(), [0, 2, 0]);
        let mut tenure = tenure(0, 3, &mut rng);
        let asked = questions(&mut tenure, 0, 600, &mut rng);
        assert!((10..=15).contains(&asked[0].0), "{asked:?}");
        let whom: Vec<usize> = asked.iter().map(|(_, slot)| *slot).take(4).collect();
        assert_eq!(whom, [1, 2, 1, 2]);
        let gaps: Vec<u64> = asked.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        assert!(gaps[0] <= 10, "{gaps:?}");
        assert!(gaps.iter().skip(5).all(|gap| (59..=121).contains(gap)), "{gaps:?}");
        // And soon again after the next time.
        tenure.heartbeat(at(600), beat(6, 700), &mut rng);
        assert!(questions(&mut tenure, 600, 10, &mut rng).is_empty());
        assert!(!questions(&mut tenure, 610, 6, &mut rng).is_empty());
    }

    /// Story: a node was away for hours, and its upstream has all of that for it.
    #[test]
    fn whoever_catches_up_does_not_hunt() {
        let mut rng = StdRng::seed_from_u64(9);
        let mut tenure = tenure(0, 2, &mut rng);
        for second in 0..600 {
            tenure.batch(at(second), &mut rng);
            assert_eq!(tenure.ask(at(second), &mut rng), None);
            let fresher = Answer::Welcome(Some(beat(9, 9_999)));
            let verdict = tenure.answered(at(second), UpstreamSlot(1), fresher);
            assert_eq!(verdict, Verdict::Stay);
        }
    }

    /// Story: one batch takes minutes on a slow line, or this node's disk does; heartbeats come behind
    /// it. Leaving would begin it all again elsewhere.
    #[test]
    fn a_long_batch_and_an_own_slow_disk_are_no_reason_to_leave() {
        let mut rng = StdRng::seed_from_u64(10);
        let (mut slow_line, mut slow_disk) = (tenure(0, 2, &mut rng), tenure(0, 2, &mut rng));
        for second in 0..600 {
            slow_line.bytes(at(second), 100_000, &mut rng);
            slow_disk.not_reading(at(second), &mut rng);
            assert_eq!(slow_line.ask(at(second), &mut rng), None);
            assert_eq!(slow_disk.ask(at(second), &mut rng), None);
        }
        // A trickle is none.
        let mut trickle = tenure(0, 2, &mut rng);
        for second in 0..10 {
            trickle.bytes(at(second), 100, &mut rng);
        }
        assert!(trickle.is_stale(at(10)));
    }

    #[test]
    fn a_repeated_heartbeat_is_nothing_new() {
        let mut rng = StdRng::seed_from_u64(3);
        let mut tenure = tenure(0, 2, &mut rng);
        tenure.heartbeat(at(9), beat(5, 100), &mut rng);
        assert!(tenure.is_stale(at(10)));
    }

    #[test]
    fn a_stale_one_is_left_only_for_a_fresher_one() {
        let mut rng = StdRng::seed_from_u64(4);
        let tenure = tenure(0, 2, &mut rng);
        let better = |theirs| tenure.is_better(at(60), UpstreamSlot(1), theirs);
        assert!(!better(None));
        assert!(!better(Some(beat(5, 100))), "the root is down: all have the same");
        assert!(!better(Some(beat(4, 999))));
        assert!(better(Some(beat(5, 101))));
        assert!(better(Some(beat(6, 1))), "the root's clock was set back");
    }

    /// Story: the upstream has lost the root for so long that the root has collected what this node
    /// needs next.
    #[test]
    fn a_log_that_is_too_old_leads_to_a_snapshot_once_nobody_else_can_help() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut tenure = tenure(0, 4, &mut rng);
        let too_old = |oldest| Answer::LogTooOld { oldest: Index::new(oldest) };
        let mut ask = |slot, answer| tenure.answered(at(60), UpstreamSlot(slot), answer);
        assert_eq!(ask(1, too_old(90)), Verdict::Stay);
        assert_eq!(ask(1, too_old(90)), Verdict::Stay, "twice the same is one");
        assert_eq!(ask(2, too_old(40)), Verdict::Stay);
        let fetch = Verdict::Fetch { oldest: Index::new(40), slot: UpstreamSlot(2) };
        assert_eq!(ask(3, Answer::Nothing), fetch);
        tenure.heartbeat(at(61), beat(6, 161), &mut rng);
        let again = tenure.answered(at(75), UpstreamSlot(3), Answer::Nothing);
        assert_eq!(again, Verdict::Stay, "that was before");
    }

    #[test]
    fn nobody_ahead_is_no_reason_for_a_snapshot() {
        let mut rng = StdRng::seed_from_u64(8);
        let mut tenure = tenure(0, 3, &mut rng);
        for slot in [1, 2, 1, 2] {
            let answer = Answer::Welcome(Some(beat(5, 100)));
            assert_eq!(tenure.answered(at(60), UpstreamSlot(slot), answer), Verdict::Stay);
            let nothing = tenure.answered(at(60), UpstreamSlot(slot), Answer::Nothing);
            assert_eq!(nothing, Verdict::Stay);
        }
    }

    #[test]
    fn a_preferred_one_is_returned_to_once_it_is_as_fresh() {
        let mut rng = StdRng::seed_from_u64(5);
        let mut tenure = tenure(2, 3, &mut rng);
        let mut asked = Vec::new();
        for second in 0..1_800 {
            tenure.heartbeat(at(second), beat(5, 100 + second), &mut rng);
            asked.extend(questions(&mut tenure, second, 1, &mut rng));
        }
        assert!((6..=12).contains(&asked.len()), "{asked:?}");
        assert!(asked.iter().all(|(_, slot)| *slot < 2), "only preferred ones: {asked:?}");
        let better = |slot, theirs| tenure.is_better(at(1_800), UpstreamSlot(slot), theirs);
        assert!(better(0, Some(beat(5, 1_895))));
        assert!(!better(0, Some(beat(5, 1_880))), "it is stale itself");
        assert!(!better(0, None));
        assert!(!better(2, Some(beat(5, 9_999))));
    }

    #[test]
    fn who_has_one_upstream_asks_nobody() {
        let mut rng = StdRng::seed_from_u64(6);
        let mut tenure =
            Tenure::new(UpstreamSlot(0), 1, None, Deadlines::default(), Millis::ZERO, &mut rng);
        assert!(questions(&mut tenure, 0, 600, &mut rng).is_empty());
    }
}
