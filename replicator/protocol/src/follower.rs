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

use quicksilver_format::{
    Batch, BatchLimits, ControlRecord, DbId, FormatError, HistoryId, Index, NodeId, Position,
    RunningHash,
};

use crate::clock::Millis;
use crate::deadlines::{Deadlines, Hearing};
use crate::frame::{EncodedFrame, Frame, FrameError};
use crate::message::{
    ByeReason, Hello, Hop, Lineage, LocalNode, Message, PATH_MAX_HOPS, Quota, Refusal, Refused,
    Start, VersionRange, Welcome,
};
use crate::source::LogFact;

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

/// What follows from the end of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Everything asked for is here.
    Done,
    /// Nothing is wrong with this upstream: come back to it.
    Reconnect,
    /// This upstream cannot help at present: the next one.
    TryAnother {
        /// How long it asked to be left alone, or 0.
        retry_after_ms: u64,
    },
    /// Its log begins after this node's position: a secondary, and at last a snapshot.
    NeedSnapshot {
        /// The oldest entry it has.
        oldest: Index,
    },
    /// Something is wrong that no other upstream heals by itself: stop applying, keep serving,
    /// raise the alarm, look again slowly.
    Halt,
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndCause {
    /// The connection broke, or never came to be.
    #[error("the connection was lost: {0}")]
    ConnectionLost(String),
    /// No answer to the `Hello`.
    #[error("no answer to the handshake within {0} ms")]
    HandshakeTimeout(u64),
    /// Nothing was heard for too long.
    #[error("nothing was heard for {0} ms")]
    Idle(u64),
    /// The source said goodbye.
    #[error("the source left: {0}")]
    SourceLeft(ByeReason),
    /// This node's driver ended the session.
    #[error("this node left: {0}")]
    Left(ByeReason),
    /// The source holds another database.
    #[error("it holds database {theirs}, this node holds {mine}")]
    WrongDatabase {
        /// This node's.
        mine: DbId,
        /// The source's.
        theirs: DbId,
    },
    /// The source is this process.
    #[error("it is this very process")]
    SelfConnection,
    /// This node is on the source's path.
    #[error("it follows this node: {}", path_text(.path))]
    Cycle {
        /// The source's path; empty when the source saw the cycle.
        path: Vec<Hop>,
    },
    /// The source's path is at the limit.
    #[error("its path from the root has {0} hops, the limit is 32")]
    PathTooLong(usize),
    /// The source's log begins after this node's position.
    #[error("its log begins at {oldest}, this node is at {mine}")]
    LogTooOld {
        /// The oldest entry it has.
        oldest: Index,
        /// This node's position.
        mine: Index,
    },
    /// Same index, different hash.
    #[error("it has another past: at index {index} its hash is {theirs}, this node's is {mine}")]
    Diverged {
        /// Where both have an entry.
        index: Index,
        /// This node's hash there.
        mine: RunningHash,
        /// The source's.
        theirs: RunningHash,
    },
    /// The source is not as far as this node.
    #[error("it is behind: its log ends at {position}, this node is at {mine}")]
    Behind {
        /// Where its log ends.
        position: Position,
        /// This node's index.
        mine: Index,
    },
    /// The source has enough downstreams.
    #[error("it is busy and asks to be left alone for {retry_after_ms} ms")]
    Busy {
        /// When to ask again.
        retry_after_ms: u64,
    },
    /// No common protocol version.
    #[error("it speaks protocol versions {theirs}, this node {ours}")]
    Version {
        /// The source's.
        theirs: VersionRange,
        /// This node's.
        ours: VersionRange,
    },
    /// A refusal without a meaning to this release.
    #[error("it refused with reason {code}: {explanation}")]
    RefusedOtherwise {
        /// Its number.
        code: u8,
        /// The source's words.
        explanation: String,
    },
    /// A batch that is not the next one.
    #[error("it sent the batch {first}..={last} where {expected} had to follow")]
    NotNext {
        /// The batch's first index.
        first: Index,
        /// Its last.
        last: Index,
        /// The index that had to come.
        expected: Index,
    },
    /// A frame that is none.
    #[error("{0}")]
    BadFrame(#[from] FrameError),
    /// A frame or record that does not decode.
    #[error("{0}")]
    BadMessage(#[from] FormatError),
    /// A message that has no place here.
    #[error("it sent {found} where {expected} had to come")]
    Unexpected {
        /// What came.
        found: &'static str,
        /// What is allowed.
        expected: &'static str,
    },
}

fn path_text(path: &[Hop]) -> String {
    if path.is_empty() {
        return "as the source says".to_owned();
    }
    path.iter().map(|hop| hop.node_id.as_str()).collect::<Vec<_>>().join(" > ")
}

impl EndCause {
    /// Every word that [`Self::reason`] gives.
    pub const REASONS: [&str; 19] = [
        "lost",
        "no-answer",
        "silent",
        "wrong-database",
        "self",
        "cycle",
        "path-too-long",
        "log-too-old",
        "diverged",
        "behind",
        "busy",
        "version",
        "refused",
        "malformed",
        "restarting",
        "reset",
        "too-slow",
        "left",
        "done",
    ];

    /// In one word, for metrics and logs.
    pub fn reason(&self) -> &'static str {
        use EndCause as C;
        match self {
            C::ConnectionLost(_) => "lost",
            C::HandshakeTimeout(_) => "no-answer",
            C::Idle(_) => "silent",
            C::SourceLeft(reason) | C::Left(reason) => reason.reason(),
            C::WrongDatabase { .. } => "wrong-database",
            C::SelfConnection => "self",
            C::Cycle { .. } => "cycle",
            C::PathTooLong(_) => "path-too-long",
            C::LogTooOld { .. } => "log-too-old",
            C::Diverged { .. } => "diverged",
            C::Behind { .. } => "behind",
            C::Busy { .. } => "busy",
            C::Version { .. } => "version",
            C::RefusedOtherwise { .. } => "refused",
            C::NotNext { .. } | C::BadFrame(_) | C::BadMessage(_) | C::Unexpected { .. } => {
                "malformed"
            }
        }
    }

    fn decision(&self) -> Decision {
        use EndCause as C;
        match self {
            C::SourceLeft(ByeReason::StopReached) => Decision::Done,
            C::ConnectionLost(_) | C::SourceLeft(_) | C::Left(_) => Decision::Reconnect,
            C::WrongDatabase { .. } | C::Diverged { .. } => Decision::Halt,
            C::LogTooOld { oldest, .. } => Decision::NeedSnapshot { oldest: *oldest },
            C::Busy { retry_after_ms } => Decision::TryAnother { retry_after_ms: *retry_after_ms },
            C::HandshakeTimeout(_)
            | C::Idle(_)
            | C::SelfConnection
            | C::Cycle { .. }
            | C::PathTooLong(_)
            | C::Behind { .. }
            | C::Version { .. }
            | C::RefusedOtherwise { .. }
            | C::NotNext { .. }
            | C::BadFrame(_)
            | C::BadMessage(_)
            | C::Unexpected { .. } => Decision::TryAnother { retry_after_ms: 0 },
        }
    }

    /// What an operator can do about it; empty when the node helps itself.
    fn advice(&self) -> &'static str {
        use EndCause as C;
        match self {
            C::WrongDatabase { .. } => {
                "nothing was applied; correct db_id or [upstream] in the configuration"
            }
            C::Diverged { .. } => {
                "nothing was applied and this node keeps serving what it has; find out which of \
                 the two is wrong (qsctl verify on both), then restore or rebuild that one"
            }
            C::SelfConnection => "remove this node's own address from [upstream]",
            C::Cycle { .. } => {
                "remove one of the two from the other's [upstream], and see that no node_id is \
                 used twice"
            }
            C::PathTooLong(_) => "flatten the tree: give this node an upstream nearer the root",
            C::LogTooOld { .. } => "a secondary is tried, then a snapshot",
            C::Version { .. } => "upgrade the older of the two",
            C::NotNext { .. } | C::BadMessage(_) | C::BadFrame(_) => {
                "nothing of it was applied; if it repeats, check that host's memory, disk and \
                 network"
            }
            C::Behind { .. } => {
                "nothing is wrong with it unless it stays so: it is waited for, or another upstream \
                 is tried"
            }
            C::Busy { .. } => {
                "raise its limits.max_downstreams, or give this node another upstream"
            }
            C::HandshakeTimeout(_) | C::Idle(_) => {
                "if it repeats, check that host and the network on the way, in both directions"
            }
            _ => "",
        }
    }
}

/// The end of a session: whose, why, and what follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionEnd {
    /// The upstream, once it had introduced itself.
    pub upstream: Option<NodeId>,
    /// Why.
    pub cause: EndCause,
}

impl SessionEnd {
    /// An end before there was a session: the dial failed, or took too long.
    pub fn never_connected(reason: impl fmt::Display) -> Self {
        SessionEnd { upstream: None, cause: EndCause::ConnectionLost(reason.to_string()) }
    }

    /// What follows from it.
    pub fn decision(&self) -> Decision {
        self.cause.decision()
    }

    /// Whether the source said that it would be back at once, as it does in an upgrade.
    pub fn is_restart(&self) -> bool {
        self.cause == EndCause::SourceLeft(ByeReason::Restarting)
    }

    /// Looks at a source that says it is behind in the light of this node's own log at the
    /// source's index: a source that is behind *on another past* was restored from a backup and
    /// will never fit again, so waiting for it to catch up would only hide that.
    #[must_use]
    pub fn judged_by_own_log(self, own: LogFact) -> Self {
        let EndCause::Behind { position, .. } = self.cause else { return self };
        let mine = match own {
            LogFact::Boundary(hash) | LogFact::Inside(hash) if hash != position.hash => hash,
            _ => return self,
        };
        let (index, theirs) = (position.index, position.hash);
        SessionEnd { cause: EndCause::Diverged { index, mine, theirs }, ..self }
    }
}

impl fmt::Display for SessionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.upstream {
            Some(node) => write!(f, "upstream {node}: {}", self.cause)?,
            None => write!(f, "upstream: {}", self.cause)?,
        }
        match self.cause.advice() {
            "" => Ok(()),
            advice => write!(f, "; {advice}"),
        }
    }
}

impl std::error::Error for SessionEnd {}

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
        let (expected, applied) = match start {
            Start::After(position) => (Some(position), position.index),
            Start::Newest => (None, Index::ZERO),
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
            applied,
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
