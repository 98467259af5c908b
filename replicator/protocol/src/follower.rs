//! The downstream end of a session: asks a source for what follows its own log, and takes
//! nothing else.
//!
//! ```text
//!                Hello sent            Welcome checked
//!   (new) ───────────────▶ Greeting ───────────────────▶ Streaming
//!                              │  Refused, deadline,         │  Bye, silence, cycle, hole,
//!                              │  wrong answer               │  divergence, damage
//!                              ▼                             ▼
//!                            Ended ◀─────────────────────────┘
//! ```
//!
//! Invariants:
//! * a batch is delivered only when its record is whole and correct, and begins exactly where the
//!   one before it ended (the first one: where the follower's log ends), index and hash;
//! * nothing is delivered before the `Welcome` was checked, and nothing after the end;
//! * a source is refused when it holds another database, is this node, hangs below this node
//!   (also when that comes to light later), or has another hash at this node's index;
//! * every end names its cause, and from the cause follows what to do: [`SessionEnd::decision`].
//!
//! One session is one connection: the driver makes a new one for the next.

use std::collections::VecDeque;
use std::fmt;

use quicksilver_format::{Batch, BatchLimits, ControlRecord, HistoryId, Index, NodeId, Position};

use crate::clock::Millis;
use crate::deadlines::{Deadlines, Hearing};
use crate::end::{EndCause, SessionEnd};
use crate::frame::{EncodedFrame, Frame, FrameError};
use crate::message::{
    ByeReason, Hello, Hop, Lineage, LocalNode, Message, PATH_MAX_HOPS, Quota, Refusal, Refused,
    Start, VersionRange, Welcome,
};

/// What a follower asks for.
#[derive(Debug, Clone)]
pub struct FollowOptions {
    /// Where to start.
    pub start: Start,
    /// Where to stop, if anywhere.
    pub stop: Option<Index>,
    /// How this node last hung in the tree, itself included; told to the source for its logs.
    pub path: Vec<Hop>,
    /// The timeouts.
    pub deadlines: Deadlines,
}

/// What the driver is to do, in this order.
#[derive(Debug)]
pub enum FollowerAction {
    /// Write this to the connection.
    Send(EncodedFrame),
    /// The handshake succeeded: whom this node follows now.
    Welcomed(Box<Welcome>),
    /// The upstream's database has this history, and its log continues this node's: take it over
    /// before the first batch.
    AdoptHistory(HistoryId),
    /// The upstream's place in the tree, at first and whenever it changes.
    Path(Lineage),
    /// How large the root lets the data grow, at first and whenever that changes; never from a
    /// source that does not know.
    Quota(Quota),
    /// The next batch of this node's log, verified.
    Deliver(Batch),
    /// A control record, in order with the batches.
    DeliverControl(ControlRecord),
    /// Close the connection; the last action.
    Close(SessionEnd),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    Streaming,
    Ended,
}

/// See the module.
#[derive(Debug)]
pub struct FollowerSession {
    me: LocalNode,
    start: Start,
    stop: Option<Index>,
    deadlines: Deadlines,
    state: State,
    upstream: Option<NodeId>,
    /// Where the next batch must begin; `None` before the first batch of an observer.
    expected: Option<Position>,
    begun: Millis,
    heard: Hearing,
    reported: Millis,
    applied: Index,
    actions: VecDeque<FollowerAction>,
}

impl FollowerSession {
    /// A session over a connection that has just come to be; its first action sends the `Hello`.
    pub fn new(me: LocalNode, options: FollowOptions, now: Millis) -> Self {
        let FollowOptions { start, stop, path, deadlines } = options;
        let expected = match start {
            Start::After(position) => Some(position),
            Start::Newest => None,
        };
        let hello = Hello { versions: VersionRange::OURS, node: me.clone(), path, start, stop };
        let mut session = FollowerSession {
            me,
            start,
            stop,
            deadlines,
            state: State::Greeting,
            upstream: None,
            expected,
            begun: now,
            heard: Hearing::new(now),
            reported: now,
            // What is asked for next may follow what is still on its way to the disk.
            applied: Index::ZERO,
            actions: VecDeque::new(),
        };
        session.send(Message::Hello(hello));
        session
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<FollowerAction> {
        self.actions.pop_front()
    }

    /// Whether the session has ended (its `Close` may still be queued).
    pub fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Where the next batch must begin, once that is known.
    pub fn expected(&self) -> Option<Position> {
        self.expected
    }

    /// A frame came. One frame yields at most one batch, so a driver that empties [`Self::poll`]
    /// before it decodes the next frame holds one batch at a time.
    pub fn frame(&mut self, now: Millis, frame: &Frame) {
        if self.has_ended() {
            return;
        }
        self.heard.heard(now);
        let message = match Message::from_frame(frame) {
            Ok(message) => message,
            Err(e) => return self.end_with(EndCause::BadMessage(e), ByeReason::Malformed),
        };
        match self.state {
            State::Greeting => self.answered(message, now),
            State::Streaming => self.streamed(message),
            State::Ended => {}
        }
    }

    /// Bytes came that are no frame.
    pub fn frame_error(&mut self, error: FrameError) {
        self.end_with(EndCause::BadFrame(error), ByeReason::Malformed);
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, reason: impl fmt::Display) {
        self.end(EndCause::ConnectionLost(reason.to_string()));
    }

    /// The driver ends the session: a shutdown, a failed commit, a better upstream.
    pub fn leave(&mut self, reason: ByeReason) {
        self.end_with(EndCause::Left(reason), reason);
    }

    /// This node has everything up to `index` on disk.
    pub fn committed(&mut self, now: Millis, index: Index) {
        if index > self.applied {
            self.applied = index;
            if self.state == State::Streaming {
                self.report(now);
            }
        }
    }

    /// The driver is not reading, for lack of room: silence does not count meanwhile.
    pub fn not_reading(&mut self, now: Millis) {
        self.heard.heard(now);
    }

    /// Bytes came that are no whole frame yet. A batch of many megabytes takes minutes on a slow
    /// line.
    pub fn bytes(&mut self, now: Millis, bytes: usize) {
        let Deadlines { idle_ms, least_bytes_per_second, .. } = self.deadlines;
        self.heard.bytes(now, bytes, idle_ms, least_bytes_per_second);
    }

    /// When [`Self::tick`] wants to be called again.
    pub fn next_deadline(&self) -> Millis {
        match self.state {
            State::Greeting => self.begun.plus_ms(self.deadlines.handshake_ms),
            State::Streaming => self
                .heard
                .last()
                .plus_ms(self.deadlines.idle_ms)
                .min(self.reported.plus_ms(self.deadlines.report_ms)),
            State::Ended => Millis::new(u64::MAX),
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Millis) {
        let Deadlines { handshake_ms, idle_ms, report_ms, .. } = self.deadlines;
        match self.state {
            State::Greeting if now.since_ms(self.begun) >= handshake_ms => {
                self.end_with(EndCause::HandshakeTimeout(handshake_ms), ByeReason::Silent);
            }
            State::Streaming if now.since_ms(self.heard.last()) >= idle_ms => {
                self.end_with(EndCause::Idle(idle_ms), ByeReason::Silent);
            }
            State::Streaming if now.since_ms(self.reported) >= report_ms => self.report(now),
            _ => {}
        }
    }

    fn answered(&mut self, message: Message, now: Millis) {
        match message {
            Message::Welcome(welcome) => {
                self.upstream = Some(welcome.node_id.clone());
                match self.check_welcome(&welcome) {
                    Ok(()) => self.begin(welcome, now),
                    Err(cause) => self.refuse(cause),
                }
            }
            Message::Refused(refused) => {
                let cause = self.cause_of(refused);
                self.end(cause);
            }
            Message::Bye(ByeReason::StopReached) => {
                let found = "Bye (stop reached)";
                self.refuse(EndCause::Unexpected { found, expected: "Welcome or Refused" });
            }
            Message::Bye(reason) => self.end(EndCause::SourceLeft(reason)),
            Message::Ping => {}
            other => self.unexpected(&other, "Welcome or Refused"),
        }
    }

    fn check_welcome(&self, welcome: &Welcome) -> Result<(), EndCause> {
        if welcome.db_id != self.me.db_id {
            return Err(EndCause::WrongDatabase { mine: self.me.db_id, theirs: welcome.db_id });
        }
        if welcome.process_id == self.me.process_id {
            return Err(EndCause::SelfConnection);
        }
        if VersionRange::OURS.common(&VersionRange { min: welcome.version, max: welcome.version })
            != Some(welcome.version)
        {
            let theirs = VersionRange { min: welcome.version, max: welcome.version };
            return Err(EndCause::Version { theirs, ours: VersionRange::OURS });
        }
        let source = Hop { node_id: welcome.node_id.clone(), process_id: welcome.process_id };
        if welcome.lineage.path.last() != Some(&source) {
            let expected = "a path that ends with the source";
            return Err(EndCause::Unexpected { found: "another path", expected });
        }
        self.check_lineage(&welcome.lineage)?;
        if let Start::After(mine) = self.start {
            self.check_position(&mine, &welcome.position)?;
        }
        Ok(())
    }

    fn check_lineage(&self, lineage: &Lineage) -> Result<(), EndCause> {
        if self.me.position_on(&lineage.path).is_some() {
            return Err(EndCause::Cycle { path: lineage.path.clone() });
        }
        if lineage.path.len() >= PATH_MAX_HOPS {
            return Err(EndCause::PathTooLong(lineage.path.len()));
        }
        Ok(())
    }

    fn check_position(&self, mine: &Position, theirs: &Position) -> Result<(), EndCause> {
        if theirs.index < mine.index {
            return Err(EndCause::Behind { position: *theirs, mine: mine.index });
        }
        if theirs.index == mine.index && theirs.hash != mine.hash {
            let index = mine.index;
            return Err(EndCause::Diverged { index, mine: mine.hash, theirs: theirs.hash });
        }
        Ok(())
    }

    fn begin(&mut self, welcome: Box<Welcome>, now: Millis) {
        self.state = State::Streaming;
        let (history, lineage) = (welcome.history, welcome.lineage.clone());
        self.actions.push_back(FollowerAction::Welcomed(welcome));
        if self.me.history != Some(history) {
            self.me.history = Some(history);
            self.actions.push_back(FollowerAction::AdoptHistory(history));
        }
        self.actions.push_back(FollowerAction::Path(lineage));
        self.report(now);
    }

    fn cause_of(&self, Refused { refusal, explanation }: Refused) -> EndCause {
        let mine = match self.start {
            Start::After(position) => Some(position),
            Start::Newest => None,
        };
        let my_index = mine.map_or(Index::ZERO, |position| position.index);
        match (refusal, mine) {
            (Refusal::WrongDatabase { mine: theirs, .. }, _) => {
                EndCause::WrongDatabase { mine: self.me.db_id, theirs }
            }
            (Refusal::SelfConnection, _) => EndCause::SelfConnection,
            (Refusal::Cycle, _) => EndCause::Cycle { path: Vec::new() },
            (Refusal::LogTooOld { oldest }, Some(_)) => {
                EndCause::LogTooOld { oldest, mine: my_index }
            }
            (Refusal::Diverged { index, mine: theirs }, Some(mine)) => {
                EndCause::Diverged { index, mine: mine.hash, theirs }
            }
            (Refusal::Behind { position }, Some(_)) => {
                EndCause::Behind { position, mine: my_index }
            }
            (Refusal::Busy { retry_after_ms }, _) => EndCause::Busy { retry_after_ms },
            (Refusal::Version(theirs), _) => EndCause::Version { theirs, ours: VersionRange::OURS },
            (other, _) => EndCause::RefusedOtherwise { code: other.code(), explanation },
        }
    }

    fn streamed(&mut self, message: Message) {
        match message {
            Message::Batch(record) => match self.check_batch(record) {
                Ok(batch) => {
                    self.expected = Some(batch.after());
                    self.actions.push_back(FollowerAction::Deliver(batch));
                }
                Err(cause) => self.refuse(cause),
            },
            Message::Control(record) => {
                self.actions.push_back(FollowerAction::DeliverControl(record));
            }
            Message::PathUpdate(lineage) => match self.check_lineage(&lineage) {
                Ok(()) => self.actions.push_back(FollowerAction::Path(lineage)),
                Err(cause) => self.refuse(cause),
            },
            Message::Quota(quota) => self.actions.push_back(FollowerAction::Quota(quota)),
            Message::Ping => {}
            Message::Bye(ByeReason::StopReached) if self.stop.is_none() => {
                let expected = "no stop, none was asked for";
                self.refuse(EndCause::Unexpected { found: "Bye (stop reached)", expected });
            }
            Message::Bye(reason) => self.end(EndCause::SourceLeft(reason)),
            other => self.unexpected(&other, "Batch, Control, PathUpdate, Quota, Ping or Bye"),
        }
    }

    /// Whole, correct, and the next one; nothing else gets any further.
    fn check_batch(&self, record: bytes::Bytes) -> Result<Batch, EndCause> {
        let batch = Batch::decode(record, &BatchLimits::HARD)?;
        let Some(expected) = self.expected else { return Ok(batch) };
        if batch.continues(&expected) {
            return Ok(batch);
        }
        let theirs = if batch.before().index == expected.index {
            Some(batch.before().hash)
        } else {
            batch.hash_at(expected.index)
        };
        match theirs.filter(|theirs| *theirs != expected.hash) {
            Some(theirs) => {
                let Position { index, hash: mine } = expected;
                Err(EndCause::Diverged { index, mine, theirs })
            }
            None => {
                let (first, last) = (batch.first(), batch.last());
                Err(EndCause::NotNext { first, last, expected: expected.index.next() })
            }
        }
    }

    fn report(&mut self, now: Millis) {
        self.reported = now;
        self.send(Message::Applied(self.applied));
    }

    fn unexpected(&mut self, message: &Message, expected: &'static str) {
        let found = match message {
            Message::Hello(_) => "Hello",
            Message::Welcome(_) => "a second Welcome",
            Message::Refused(_) => "a late Refused",
            Message::Batch(_) => "a batch before its Welcome",
            Message::Control(_) => "a control record before its Welcome",
            Message::PathUpdate(_) => "a path before its Welcome",
            Message::Quota(_) => "a quota before its Welcome",
            Message::Applied(_) => "Applied",
            Message::Ping => "Ping",
            Message::Bye(_) => "Bye",
            Message::Fetch(_) | Message::Offer(_) | Message::Block { .. } => {
                "a message of a transfer"
            }
        };
        self.refuse(EndCause::Unexpected { found, expected });
    }

    /// Ends the session because of what the source is or sent.
    fn refuse(&mut self, cause: EndCause) {
        let bye = match cause {
            EndCause::Cycle { .. } | EndCause::SelfConnection => ByeReason::Cycle,
            EndCause::Diverged { .. } => ByeReason::Diverged,
            EndCause::WrongDatabase { .. } | EndCause::Behind { .. } | EndCause::PathTooLong(_) => {
                ByeReason::Leaving
            }
            _ => ByeReason::Malformed,
        };
        self.end_with(cause, bye);
    }

    fn end_with(&mut self, cause: EndCause, bye: ByeReason) {
        if !self.has_ended() {
            self.send(Message::Bye(bye));
            self.end(cause);
        }
    }

    fn end(&mut self, cause: EndCause) {
        if !self.has_ended() {
            self.state = State::Ended;
            let end = SessionEnd { upstream: self.upstream.clone(), cause };
            self.actions.push_back(FollowerAction::Close(end));
        }
    }

    fn send(&mut self, message: Message) {
        self.actions.push_back(FollowerAction::Send(message.into_frame().encode()));
    }
}

#[cfg(test)]
#[path = "follower_tests.rs"]
mod tests;
