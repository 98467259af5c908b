//! The upstream end of a session: checks who asks, then streams what follows their position.
//!
//! ```text
//!                      Hello                 fact looked up
//!   (new) ──▶ Listening ─────▶ LookingUp ───────────────────▶ Streaming ──▶ Ended
//!                 │  deadline,     │  too old, diverged,          ▲  Bye: stop reached,
//!                 │  refusal       │  behind                      │  reset, restarting, silent
//!                 └───▶ Ended ◀────┘
//! ```
//!
//! Invariants:
//! * nothing is streamed before the follower's position was found to be the end of a batch of
//!   this log, with the same hash (an observer starts at the end);
//! * batches are sent without holes: one that does not follow the last is not accepted from the
//!   driver, and ends the session;
//! * what waits here to be sent is bounded whatever the follower does: an item is taken from the
//!   driver only when [`SourceSession::wants_item`] says so, and that is when nothing else waits;
//!   a newer path or quota replaces one that has not been sent.
//!
//! Batches are offered, not fetched: the driver reads them from its log or from memory.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use quicksilver_format::batch::BatchHeader;
use quicksilver_format::{
    Batch, ControlRecord, FormatError, Heartbeat, HistoryId, Index, NodeId, Position, RunningHash,
};

use crate::clock::Millis;
use crate::deadlines::Deadlines;
use crate::frame::{EncodedFrame, Frame, FrameError, Kind};
use crate::message::{
    ByeReason, Hello, Lineage, LocalNode, Message, Quota, Refusal, Refused, Start, VersionRange,
    Welcome,
};

/// What a log knows about an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFact {
    /// A batch ends there (or the log begins there), with this hash.
    Boundary(RunningHash),
    /// It is inside a batch, with this hash.
    Inside(RunningHash),
    /// The log no longer knows.
    TooOld {
        /// The oldest entry it has.
        oldest: Index,
    },
    /// The log has not come that far.
    Beyond,
}

/// What the source says about itself when it answers a `Hello`.
#[derive(Debug, Clone)]
pub struct SourceState {
    /// Its history.
    pub history: HistoryId,
    /// Where its log ends, what it has passed on but not yet committed included.
    pub position: Position,
    /// The oldest entry it has.
    pub oldest: Index,
    /// The newest heartbeat it has seen.
    pub heartbeat: Option<Heartbeat>,
}

/// A batch that is ready to be sent: its header, and its frame with the CRC already computed.
#[derive(Debug, Clone)]
pub struct BatchFrame {
    header: BatchHeader,
    frame: EncodedFrame,
}

impl BatchFrame {
    /// From a record as it is stored. Only its header is looked at: the follower checks the rest.
    pub fn from_record(record: Bytes) -> Result<Self, FormatError> {
        let header = BatchHeader::decode(&record)?;
        if record.len() != header.record_bytes() || record.len() > Kind::Batch.max_bytes() {
            return Err(FormatError::Field {
                what: "batch record",
                field: "length",
                found: record.len().to_string(),
                expected: header.record_bytes().to_string(),
            });
        }
        Ok(BatchFrame { header, frame: Message::Batch(record).into_frame().encode() })
    }

    /// From a verified batch.
    pub fn from_batch(batch: &Batch) -> Self {
        let frame = Message::Batch(batch.record().clone()).into_frame().encode();
        BatchFrame { header: *batch.header(), frame }
    }

    /// The batch's header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The batch's record.
    pub fn record(&self) -> &Bytes {
        self.frame.payload()
    }

    /// Bytes on the wire.
    pub fn wire_bytes(&self) -> usize {
        self.frame.wire_bytes()
    }
}

/// What the driver is to do, in this order.
#[derive(Debug)]
pub enum SourceAction {
    /// Find out what [`SourceSession::looked_up`] wants to know about this start.
    LookUp(Start),
    /// Write this to the connection.
    Send(EncodedFrame),
    /// The handshake succeeded: offer what follows this position.
    Stream {
        /// The end of the last batch that the follower has.
        after: Position,
    },
    /// Write what is pending, then close the connection; the last action.
    Close(SourceEnd),
}

/// Why a session ended, seen from the source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceEnd {
    /// The follower was refused.
    #[error("refused: {}", .0.explanation)]
    Refused(Refused),
    /// This source ended the session.
    #[error("ended by this node: {0}")]
    Said(ByeReason),
    /// The follower left.
    #[error("the follower left: {0}")]
    FollowerLeft(ByeReason),
    /// No `Hello` in time.
    #[error("no Hello within {0} ms")]
    HandshakeTimeout(u64),
    /// The follower was silent.
    #[error("nothing was heard for {0} ms")]
    Silent(u64),
    /// The connection broke.
    #[error("the connection was lost: {0}")]
    ConnectionLost(String),
    /// The follower sent what makes no sense.
    #[error("the follower sent {0}")]
    Malformed(String),
    /// The driver offered a batch that does not follow the last one: a bug, or a log that changed
    /// under the session.
    #[error("batch {first} was offered after {end}; the session is closed so that it starts anew")]
    NotNext {
        /// The batch's first index.
        first: Index,
        /// Where the session was.
        end: Index,
    },
}

impl SourceEnd {
    /// Every word that [`Self::reason`] gives.
    pub const REASONS: [&str; 18] = [
        "wrong-database",
        "self",
        "cycle",
        "log-too-old",
        "diverged",
        "behind",
        "busy",
        "version",
        "malformed",
        "refused",
        "no-hello",
        "silent",
        "too-slow",
        "lost",
        "restarting",
        "reset",
        "left",
        "done",
    ];

    /// In one word, for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            SourceEnd::Refused(refused) => refused.refusal.reason(),
            SourceEnd::Said(reason) | SourceEnd::FollowerLeft(reason) => reason.reason(),
            SourceEnd::HandshakeTimeout(_) => "no-hello",
            SourceEnd::Silent(_) => "silent",
            SourceEnd::ConnectionLost(_) => "lost",
            SourceEnd::Malformed(_) => "malformed",
            SourceEnd::NotNext { .. } => "reset",
        }
    }
}

#[derive(Debug)]
enum State {
    Listening,
    LookingUp(Box<Hello>),
    Streaming { end: Position, stop: Option<Index> },
    Ended,
}

/// See the module.
#[derive(Debug)]
pub struct SourceSession {
    me: LocalNode,
    lineage: Lineage,
    deadlines: Deadlines,
    state: State,
    follower: Option<LocalNode>,
    applied: Index,
    begun: Millis,
    heard: Millis,
    sent: Millis,
    path_changed: bool,
    quota: Option<Quota>,
    /// The quota that the follower was told.
    quota_told: Option<Quota>,
    actions: VecDeque<SourceAction>,
}

impl SourceSession {
    /// A session over a connection that has just been accepted.
    pub fn new(me: LocalNode, lineage: Lineage, deadlines: Deadlines, now: Millis) -> Self {
        SourceSession {
            me,
            lineage,
            deadlines,
            state: State::Listening,
            follower: None,
            applied: Index::ZERO,
            begun: now,
            heard: now,
            sent: now,
            path_changed: false,
            quota: None,
            quota_told: None,
            actions: VecDeque::new(),
        }
    }

    /// The next thing to do.
    pub fn poll(&mut self, now: Millis) -> Option<SourceAction> {
        if self.actions.is_empty() && self.is_streaming() {
            self.tell_news(now);
        }
        self.actions.pop_front()
    }

    /// Whether there is a stream, and nothing waits to be sent in it.
    pub fn wants_item(&self) -> bool {
        self.is_streaming() && self.actions.is_empty() && !self.has_news()
    }

    /// Whether the handshake is over and the session has not ended.
    pub fn is_streaming(&self) -> bool {
        matches!(self.state, State::Streaming { .. })
    }

    /// Whether the session has ended (its `Close` may still be queued).
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// The end of what was sent; the next batch must continue it.
    pub fn position(&self) -> Option<Position> {
        match &self.state {
            State::Streaming { end, .. } => Some(*end),
            _ => None,
        }
    }

    /// Who follows, once it has said so.
    pub fn follower(&self) -> Option<&LocalNode> {
        self.follower.as_ref()
    }

    /// Whether whoever asks only wants to know how this node hangs in the tree: an observer that stops
    /// before the first entry. It is answered, and stays for nothing.
    pub fn only_asks(&self) -> bool {
        matches!(&self.state, State::LookingUp(hello)
            if hello.start == Start::Newest && hello.stop == Some(Index::ZERO))
    }

    /// What the follower said it has on disk; 0 until it has. Where it wanted to begin says nothing of
    /// that.
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// A frame came.
    pub fn frame(&mut self, now: Millis, frame: &Frame) {
        if self.has_ended() {
            return;
        }
        self.heard = now;
        match (Message::from_frame(frame), matches!(self.state, State::Listening)) {
            (Ok(Message::Hello(hello)), true) => self.greeted(now, hello),
            (Err(FormatError::Version { found, .. }), true) => {
                let why = format!(
                    "the follower speaks protocol version {found} at most, this node {}",
                    VersionRange::OURS
                );
                self.refuse(now, Refusal::Version(VersionRange::OURS), why);
            }
            (Err(e), true) => self.refuse(now, Refusal::Malformed, e.to_string()),
            (Ok(Message::Applied(index)), false) => self.has_applied(index),
            (Ok(Message::Ping), _) => {}
            (Ok(Message::Bye(reason)), _) => self.end(SourceEnd::FollowerLeft(reason)),
            (Ok(other), _) => self.malformed(now, format!("an unexpected {:?}", other.kind())),
            (Err(e), false) => self.malformed(now, e.to_string()),
        }
    }

    /// Bytes came that are no frame.
    pub fn frame_error(&mut self, now: Millis, error: &FrameError) {
        self.malformed(now, error.to_string());
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, reason: impl fmt::Display) {
        self.end(SourceEnd::ConnectionLost(reason.to_string()));
    }

    /// There are enough downstreams already.
    pub fn refuse_busy(&mut self, now: Millis, retry_after_ms: u64) {
        let why = format!("node {} has as many downstreams as it takes", self.me.node_id);
        self.refuse(now, Refusal::Busy { retry_after_ms }, why);
    }

    /// The driver ends the session.
    pub fn close(&mut self, now: Millis, reason: ByeReason) {
        if !self.has_ended() {
            self.send(now, Message::Bye(reason));
            self.end(SourceEnd::Said(reason));
        }
    }

    /// This node's place in the tree has changed.
    pub fn path_changed(&mut self, lineage: Lineage) {
        if lineage != self.lineage {
            self.lineage = lineage;
            // Before the Welcome there is nothing to correct: it will carry the new one.
            self.path_changed = self.is_streaming();
        }
    }

    /// How large the data may grow, as far as this node knows. It is told right after the
    /// `Welcome`, before the first batch, and again when it changes.
    pub fn quota_changed(&mut self, quota: Option<Quota>) {
        self.quota = quota;
    }

    /// The answer to [`SourceAction::LookUp`]: this node's state, and what its log (memory
    /// included) knows about the follower's index. For an observer the fact does not matter.
    pub fn looked_up(&mut self, now: Millis, state: SourceState, fact: LogFact) {
        let hello = match std::mem::replace(&mut self.state, State::Ended) {
            State::LookingUp(hello) => hello,
            other => {
                self.state = other;
                return;
            }
        };
        let start = match hello.start {
            Start::Newest => Ok(state.position),
            Start::After(theirs) => self.judge(&theirs, &state, fact).map(|()| theirs),
        };
        match start {
            Err((refusal, why)) => {
                self.state = State::LookingUp(hello);
                self.refuse(now, refusal, why);
            }
            Ok(after) => self.welcome(now, &hello, state, after),
        }
    }

    /// Offers the next batch; see [`Self::wants_item`].
    pub fn offer_batch(&mut self, now: Millis, batch: &BatchFrame) {
        let State::Streaming { end, stop } = self.state else { return };
        if batch.header.before() != end {
            let end = SourceEnd::NotNext { first: batch.header.first, end: end.index };
            self.send(now, Message::Bye(ByeReason::Reset));
            return self.end(end);
        }
        if stop.is_some_and(|stop| batch.header.last() > stop) {
            return self.close(now, ByeReason::StopReached);
        }
        self.sent = now;
        self.actions.push_back(SourceAction::Send(batch.frame.clone()));
        self.advance(now, batch.header.after(), stop);
    }

    /// Offers a control record that comes after everything offered so far; see
    /// [`Self::wants_item`].
    pub fn offer_control(&mut self, now: Millis, record: &ControlRecord) {
        if self.is_streaming() {
            self.send(now, Message::Control(record.clone()));
        }
    }

    /// When [`Self::tick`] wants to be called again.
    pub fn next_deadline(&self) -> Millis {
        match self.state {
            State::Listening | State::LookingUp(_) => {
                self.begun.plus_ms(self.deadlines.handshake_ms)
            }
            State::Streaming { .. } => self
                .heard
                .plus_ms(self.deadlines.idle_ms)
                .min(self.sent.plus_ms(self.deadlines.ping_ms)),
            State::Ended => Millis::new(u64::MAX),
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Millis) {
        let Deadlines { handshake_ms, idle_ms, ping_ms, .. } = self.deadlines;
        match self.state {
            State::Listening | State::LookingUp(_) if now.since_ms(self.begun) >= handshake_ms => {
                self.end(SourceEnd::HandshakeTimeout(handshake_ms));
            }
            State::Streaming { .. } if now.since_ms(self.heard) >= idle_ms => {
                self.send(now, Message::Bye(ByeReason::Silent));
                self.end(SourceEnd::Silent(idle_ms));
            }
            State::Streaming { .. }
                if now.since_ms(self.sent) >= ping_ms && self.actions.is_empty() =>
            {
                self.send(now, Message::Ping);
            }
            _ => {}
        }
    }

    /// A follower has nothing that it was not sent, whatever it says.
    fn has_applied(&mut self, index: Index) {
        if let Some(sent) = self.position() {
            self.applied = self.applied.max(index.min(sent.index));
        }
    }

    fn greeted(&mut self, now: Millis, hello: Hello) {
        self.follower = Some(hello.node.clone());
        if let Err((refusal, why)) = self.admit(&hello.node) {
            return self.refuse(now, refusal, why);
        }
        self.actions.push_back(SourceAction::LookUp(hello.start));
        self.state = State::LookingUp(Box::new(hello));
    }

    fn admit(&self, follower: &LocalNode) -> Result<(), (Refusal, String)> {
        let me = &self.me;
        if follower.db_id != me.db_id {
            let refusal = Refusal::WrongDatabase { yours: follower.db_id, mine: me.db_id };
            return Err((refusal, format!("node {} holds database {}", me.node_id, me.db_id)));
        }
        if follower.process_id == me.process_id {
            let why = format!("node {} is the follower itself", me.node_id);
            return Err((Refusal::SelfConnection, why));
        }
        if follower.position_on(&self.lineage.path).is_some() {
            let why = format!("node {} follows the follower: {}", me.node_id, self.lineage);
            return Err((Refusal::Cycle, why));
        }
        Ok(())
    }

    fn judge(
        &self,
        theirs: &Position,
        state: &SourceState,
        fact: LogFact,
    ) -> Result<(), (Refusal, String)> {
        let me = &self.me.node_id;
        match fact {
            LogFact::Boundary(hash) if hash == theirs.hash => Ok(()),
            LogFact::Boundary(mine) => Err((
                Refusal::Diverged { index: theirs.index, mine },
                format!("at index {} node {me} has the hash {mine}", theirs.index),
            )),
            LogFact::Inside(mine) => Err((
                Refusal::Diverged { index: theirs.index, mine },
                format!("on node {me} no batch ends at index {}", theirs.index),
            )),
            LogFact::TooOld { oldest } => Err((
                Refusal::LogTooOld { oldest },
                format!("the log of node {me} begins at {oldest}"),
            )),
            LogFact::Beyond => Err((
                Refusal::Behind { position: state.position },
                format!("the log of node {me} ends at {}", state.position.index),
            )),
        }
    }

    fn welcome(&mut self, now: Millis, hello: &Hello, state: SourceState, after: Position) {
        let version = VersionRange::OURS.common(&hello.versions).unwrap_or(VersionRange::OURS.min);
        let welcome = Welcome {
            version,
            db_id: self.me.db_id,
            history: state.history,
            node_id: self.me.node_id.clone(),
            site: self.me.site.clone(),
            process_id: self.me.process_id,
            lineage: self.lineage.clone(),
            position: state.position,
            oldest: state.oldest,
            heartbeat: state.heartbeat,
            #[cfg(feature = "next-protocol")]
            release: env!("CARGO_PKG_VERSION").to_owned(),
        };
        self.path_changed = false;
        self.send(now, Message::Welcome(Box::new(welcome)));
        self.actions.push_back(SourceAction::Stream { after });
        self.advance(now, after, hello.stop);
    }

    /// The stream has come to `end`; a stop that is reached needs no further batch to be known.
    fn advance(&mut self, now: Millis, end: Position, stop: Option<Index>) {
        self.state = State::Streaming { end, stop };
        if stop.is_some_and(|stop| end.index >= stop) {
            self.close(now, ByeReason::StopReached);
        }
    }

    fn malformed(&mut self, now: Millis, what: String) {
        if !self.has_ended() {
            if matches!(self.state, State::Listening) {
                return self.refuse(now, Refusal::Malformed, what);
            }
            self.send(now, Message::Bye(ByeReason::Malformed));
            self.end(SourceEnd::Malformed(what));
        }
    }

    fn refuse(&mut self, now: Millis, refusal: Refusal, explanation: String) {
        if !self.has_ended() {
            let refused = Refused { refusal, explanation };
            self.send(now, Message::Refused(refused.clone()));
            self.end(SourceEnd::Refused(refused));
        }
    }

    fn end(&mut self, end: SourceEnd) {
        if !self.has_ended() {
            self.state = State::Ended;
            self.actions.push_back(SourceAction::Close(end));
        }
    }

    /// Whether something has changed that the follower was not told.
    fn has_news(&self) -> bool {
        self.path_changed || self.quota != self.quota_told
    }

    fn tell_news(&mut self, now: Millis) {
        if std::mem::take(&mut self.path_changed) {
            self.send(now, Message::PathUpdate(self.lineage.clone()));
        }
        if self.quota != self.quota_told {
            self.quota_told = self.quota;
            if let Some(quota) = self.quota {
                self.send(now, Message::Quota(quota));
            }
        }
    }

    fn send(&mut self, now: Millis, message: Message) {
        self.sent = now;
        self.actions.push_back(SourceAction::Send(message.into_frame().encode()));
    }
}

impl fmt::Display for SourceSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.follower.as_ref().map_or("(unknown)", |node| NodeId::as_str(&node.node_id));
        write!(f, "downstream {name} at {}", self.applied)
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
