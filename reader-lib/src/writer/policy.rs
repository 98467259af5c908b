//! What to do after a failure. A state machine without sockets; clock and chance are handed in.
//!
//! ```text
//! a round:   the server of the last success, then every other in turn; a root that a relay names
//!            is the next one, once a round
//! its end:   a random wait below a bound that doubles, then the next round, until the deadline
//! ```
//!
//! Invariants:
//! * a round tries no server twice, and ends;
//! * the first round tries every server, whatever the clock says; after it nothing begins beyond
//!   the deadline;
//! * what must not be done twice is not sent again once it may have been done;
//! * nothing is sent again after a refusal;
//! * the end is [`End::Refused`] or [`End::Unavailable`] only when nothing can have been done.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use quicksilver_format::Address;
use rand::Rng;

use super::error::Outcome;

/// Most that is waited after the first round.
const FIRST_BOUND: Duration = Duration::from_millis(10);
/// Most that is waited after any round.
const LAST_BOUND: Duration = Duration::from_secs(1);

/// What doing a command means, and doing it twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It changes nothing.
    Read,
    /// It ends the same when it is done twice: SET, MSET, DEL.
    Write,
    /// It may end otherwise when it is done twice: NX, XX.
    WriteOnce,
}

/// A server to try, after a wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Try {
    pub(super) after: Duration,
    pub(super) server: Address,
    /// The relay that named it as its root.
    pub(super) named_by: Option<Address>,
}

/// How it ended without success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The last failure is a refusal.
    Refused,
    /// It may have been done.
    Unknown,
    /// The deadline has passed.
    Unavailable,
}

/// The tries of one call.
#[derive(Debug)]
pub(super) struct Tries {
    kind: Kind,
    /// In the order of a round.
    servers: Vec<Address>,
    /// Those that this round has not tried.
    left: VecDeque<Address>,
    tried: Vec<Address>,
    /// Whether this round has followed the word of a relay.
    has_followed: bool,
    is_first_round: bool,
    bound: Duration,
    /// `None` is never.
    deadline: Option<Instant>,
    maybe_done: bool,
}

impl Tries {
    /// For a call that begins with the server of the last success, if there is one.
    pub(super) fn new(
        kind: Kind,
        servers: &[Address],
        last_success: Option<&Address>,
        deadline: Option<Instant>,
    ) -> Self {
        let others = servers.iter().filter(|server| Some(*server) != last_success);
        Tries {
            kind,
            servers: servers.to_vec(),
            left: last_success.into_iter().chain(others).cloned().collect(),
            tried: Vec::new(),
            has_followed: false,
            is_first_round: true,
            bound: FIRST_BOUND,
            deadline,
            maybe_done: false,
        }
    }

    /// The first server to try; the end when there is none.
    pub(super) fn first(&mut self) -> Result<Try, End> {
        self.next_in_turn(Duration::ZERO).ok_or(End::Unavailable)
    }

    /// What comes after the last try has failed.
    pub(super) fn after(
        &mut self,
        failure: Outcome,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Result<Try, End> {
        let mut named = None;
        match failure {
            Outcome::NotDone => {}
            Outcome::AtTheRoot(root) => named = root,
            Outcome::Refused => return Err(self.end(End::Refused)),
            Outcome::Open | Outcome::Nonsense => {
                self.maybe_done |= self.kind != Kind::Read;
                if failure == Outcome::Nonsense || self.kind == Kind::WriteOnce {
                    return Err(self.end(End::Refused));
                }
            }
        }
        let is_over = self.deadline.is_some_and(|deadline| now >= deadline);
        if is_over && !self.is_first_round {
            return Err(self.end(End::Unavailable));
        }
        if let Some(followed) = named.and_then(|root| self.follow(root)) {
            return Ok(followed);
        }
        if let Some(next) = self.next_in_turn(Duration::ZERO) {
            return Ok(next);
        }
        if is_over {
            return Err(self.end(End::Unavailable));
        }
        let wait = self.wait(now, rng);
        self.is_first_round = false;
        self.has_followed = false;
        self.tried.clear();
        self.left = self.servers.iter().cloned().collect();
        self.next_in_turn(wait).ok_or(End::Unavailable)
    }

    fn end(&self, end: End) -> End {
        if self.maybe_done { End::Unknown } else { end }
    }

    fn next_in_turn(&mut self, after: Duration) -> Option<Try> {
        let server = self.left.pop_front()?;
        self.tried.push(server.clone());
        Some(Try { after, server, named_by: None })
    }

    /// The root that the last one named, unless this round knows better.
    fn follow(&mut self, root: Address) -> Option<Try> {
        if self.has_followed || self.tried.contains(&root) {
            return None;
        }
        let named_by = self.tried.last().cloned();
        self.has_followed = true;
        self.left.retain(|server| *server != root);
        self.tried.push(root.clone());
        Some(Try { after: Duration::ZERO, server: root, named_by })
    }

    /// Full jitter: those who failed together do not come back together.
    fn wait(&mut self, now: Instant, rng: &mut impl Rng) -> Duration {
        let wait = rng.random_range(Duration::ZERO..=self.bound);
        self.bound = (self.bound * 2).min(LAST_BOUND);
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(now));
        left.map_or(wait, |left| wait.min(left))
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
