//! Fetching a snapshot: both ends of a transfer.
//!
//! ```text
//!             Fetch sent            Offer checked             last block
//!   (new) ───────────────▶ Asking ───────────────▶ Receiving ────────────▶ Ended
//!                             │  Refused, deadline,     │  Bye, silence, damage
//!                             ▼                         ▼
//!                           Ended ◀─────────────────────┘
//! ```
//!
//! A transfer is a connection of its own, to the same socket as the sessions. Its first frame is a
//! `Fetch`; blocks then come one after the other, in the order of the file. What was received and is
//! named by the same manifest is not sent again, by whichever source has a snapshot with that
//! identity.
//!
//! Invariants:
//! * a manifest is taken only when it is whole, of this database, and its hash is the identity that
//!   was offered; nothing is taken that ends before this node's own log, or at the same entry with
//!   another hash, or where no upstream has the log that follows;
//! * a block is handed out only when it is the next one, and its length and hash are those of the
//!   manifest;
//! * a source holds one block at a time: it is asked for the next when the last was written.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use quicksilver_format::manifest::{Manifest, SnapshotHash};
use quicksilver_format::{DbId, FormatError, Index, Position, RunningHash};

use crate::clock::Millis;
use crate::deadlines::{Deadlines, Hearing};
use crate::frame::{EncodedFrame, Frame, FrameError};
use crate::message::{
    ByeReason, Fetch, LocalNode, Message, Offer, Refusal, Refused, VersionRange, Wanted,
};
use crate::source::SourceEnd;

/// What is here of a snapshot that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partial {
    /// Which one.
    pub identity: SnapshotHash,
    /// What it is.
    pub manifest: Manifest,
    /// The first block that is missing.
    pub next_block: u32,
}

/// What the receiving driver is to do, in this order.
#[derive(Debug)]
pub enum FetchAction {
    /// Write this to the connection.
    Send(EncodedFrame),
    /// Another snapshot than the one that was begun comes: forget that one, and keep this manifest.
    Begin {
        /// Which one.
        identity: SnapshotHash,
        /// As it came.
        encoded: Bytes,
        /// What it says.
        manifest: Box<Manifest>,
    },
    /// The next block, whose hash is right.
    Block {
        /// Its number, over the whole file.
        number: u32,
        /// Its bytes.
        bytes: Bytes,
    },
    /// Close the connection; the last action.
    Close(FetchEnd),
}

/// Why a transfer ended, seen from the receiver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchEnd {
    /// Every block is here.
    #[error("the snapshot is complete")]
    Complete,
    /// The source makes one, or serves as many as it may.
    #[error("it asks to come back in {retry_after_ms} ms: {why}")]
    Busy {
        /// When to ask again.
        retry_after_ms: u64,
        /// The source's words.
        why: String,
    },
    /// The source does not serve this node.
    #[error("it refused: {}", .0.explanation)]
    Refused(Refused),
    /// What it offers is of another database.
    #[error("its snapshot is of database {theirs}, this node holds {mine}")]
    WrongDatabase {
        /// This node's.
        mine: DbId,
        /// The snapshot's.
        theirs: DbId,
    },
    /// What it offers ends too early.
    #[error("its snapshot ends at {theirs}, it has to reach {at_least}")]
    Behind {
        /// Where it ends.
        theirs: Index,
        /// Where this node is, or the log of its upstreams begins.
        at_least: Index,
    },
    /// What it offers ends where this node's log does, with another hash.
    #[error(
        "its snapshot has another past: at index {index} its hash is {theirs}, this node's is \
         {mine}; find out which of the two is wrong (qsctl verify on both)"
    )]
    Diverged {
        /// Where both end.
        index: Index,
        /// This node's hash there.
        mine: RunningHash,
        /// The snapshot's.
        theirs: RunningHash,
    },
    /// The connection broke, or never came to be.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// The source said goodbye.
    #[error("the source left: {0}")]
    Left(ByeReason),
    /// No answer to the `Fetch`.
    #[error("no answer within {0} ms")]
    NoAnswer(u64),
    /// Nothing came for too long.
    #[error("nothing came for {0} ms")]
    Silent(u64),
    /// What came is not what was offered, or makes no sense.
    #[error("{0}; nothing of it was used")]
    Bad(String),
    /// This node's driver ended the transfer.
    #[error("this node left: {0}")]
    GivenUp(ByeReason),
}

impl FetchEnd {
    /// In one word, for metrics and logs; one of [`EndCause::REASONS`](crate::EndCause::REASONS).
    pub fn reason(&self) -> &'static str {
        use FetchEnd as E;
        match self {
            E::Complete => "done",
            E::Busy { .. } => "busy",
            E::Refused(refused) => refused.refusal.reason(),
            E::WrongDatabase { .. } => "wrong-database",
            E::Behind { .. } => "behind",
            E::Diverged { .. } => "diverged",
            E::Lost(_) => "lost",
            E::Left(reason) | E::GivenUp(reason) => reason.reason(),
            E::NoAnswer(_) => "no-answer",
            E::Silent(_) => "silent",
            E::Bad(_) => "malformed",
        }
    }
}

#[derive(Debug)]
enum FetchState {
    Asking,
    Receiving { manifest: Box<Manifest>, next: u32 },
    Ended,
}

/// The receiving end.
#[derive(Debug)]
pub struct FetchSession {
    me: LocalNode,
    /// Where this node's log ends.
    own: Position,
    /// What ends before this helps nobody.
    at_least: Index,
    partial: Option<Partial>,
    deadlines: Deadlines,
    state: FetchState,
    heard: Hearing,
    said: Millis,
    actions: VecDeque<FetchAction>,
}

impl FetchSession {
    /// A transfer over a connection that has just come to be; its first action sends the `Fetch`.
    /// This node's log ends at `own`, and what its upstreams have of theirs begins at `oldest`.
    pub fn new(
        me: LocalNode,
        own: Position,
        oldest: Index,
        partial: Option<Partial>,
        deadlines: Deadlines,
        now: Millis,
    ) -> Self {
        let wanted = partial
            .as_ref()
            .map(|partial| Wanted { identity: partial.identity, next_block: partial.next_block });
        let at_least = own.index.max(Index::new(oldest.get().saturating_sub(1)));
        let fetch = Fetch { versions: VersionRange::OURS, node: me.clone(), wanted, at_least };
        let mut session = FetchSession {
            me,
            own,
            at_least,
            partial,
            deadlines,
            state: FetchState::Asking,
            heard: Hearing::new(now),
            said: now,
            actions: VecDeque::new(),
        };
        session.send(Message::Fetch(fetch), now);
        session
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<FetchAction> {
        self.actions.pop_front()
    }

    /// A frame came. One frame yields at most one block.
    pub fn frame(&mut self, now: Millis, frame: &Frame) {
        if self.has_ended() {
            return;
        }
        self.heard.heard(now);
        match (Message::from_frame(frame), &self.state) {
            (Ok(Message::Offer(offer)), FetchState::Asking) => self.offered(now, offer),
            (Ok(Message::Block { number, bytes }), FetchState::Receiving { .. }) => {
                self.received(now, number, bytes);
            }
            (Ok(Message::Refused(refused)), FetchState::Asking) => {
                self.end(match refused.refusal {
                    Refusal::Busy { retry_after_ms } => {
                        FetchEnd::Busy { retry_after_ms, why: refused.explanation }
                    }
                    _ => FetchEnd::Refused(refused),
                });
            }
            (Ok(Message::Ping), _) => {}
            (Ok(Message::Bye(reason)), _) => self.end(FetchEnd::Left(reason)),
            (Ok(other), _) => self.bad(now, format!("it sent an unexpected {:?}", other.kind())),
            (Err(e), _) => self.bad(now, e.to_string()),
        }
    }

    /// Bytes came that are no frame.
    pub fn frame_error(&mut self, now: Millis, error: &FrameError) {
        self.bad(now, error.to_string());
    }

    /// Bytes came that are no whole frame yet: a long manifest, or a block on a slow line.
    pub fn bytes(&mut self, now: Millis, bytes: usize) {
        let least = self.deadlines.least_bytes_per_second;
        self.heard.bytes(now, bytes, self.patience_ms(), least);
    }

    /// The driver was busy with what came: silence does not count meanwhile.
    pub fn not_reading(&mut self, now: Millis) {
        self.heard.heard(now);
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, reason: impl fmt::Display) {
        self.end(FetchEnd::Lost(reason.to_string()));
    }

    /// The driver ends the transfer.
    pub fn leave(&mut self, now: Millis, reason: ByeReason) {
        self.end_with(now, reason, FetchEnd::GivenUp(reason));
    }

    /// When [`Self::tick`] wants to be called again.
    pub fn next_deadline(&self) -> Millis {
        match self.state {
            FetchState::Asking => self.heard.last().plus_ms(self.deadlines.handshake_ms),
            FetchState::Receiving { .. } => self
                .heard
                .last()
                .plus_ms(self.deadlines.idle_ms)
                .min(self.said.plus_ms(self.deadlines.report_ms)),
            FetchState::Ended => Millis::new(u64::MAX),
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Millis) {
        if self.has_ended() {
            return;
        }
        let patience_ms = self.patience_ms();
        if now.since_ms(self.heard.last()) >= patience_ms {
            let end = match self.state {
                FetchState::Asking => FetchEnd::NoAnswer(patience_ms),
                FetchState::Receiving { .. } | FetchState::Ended => FetchEnd::Silent(patience_ms),
            };
            self.end_with(now, ByeReason::Silent, end);
        } else if now.since_ms(self.said) >= self.deadlines.report_ms {
            self.send(Message::Ping, now);
        }
    }

    fn has_ended(&self) -> bool {
        matches!(self.state, FetchState::Ended)
    }

    fn patience_ms(&self) -> u64 {
        match self.state {
            FetchState::Asking => self.deadlines.handshake_ms,
            FetchState::Receiving { .. } | FetchState::Ended => self.deadlines.idle_ms,
        }
    }

    fn offered(&mut self, now: Millis, offer: Offer) {
        match self.check(offer) {
            Ok((manifest, next)) => {
                self.state = FetchState::Receiving { manifest, next };
                self.end_when_complete(now);
            }
            Err(end) => self.end_with(now, ByeReason::Leaving, end),
        }
    }

    fn check(&mut self, offer: Offer) -> Result<(Box<Manifest>, u32), FetchEnd> {
        let known = self.partial.take().filter(|partial| partial.identity == offer.identity);
        let (manifest, next, begun) = match (offer.manifest, known) {
            (None, Some(partial)) if partial.next_block == offer.first_block => {
                (Box::new(partial.manifest), partial.next_block, None)
            }
            (Some(encoded), _) if offer.first_block == 0 => {
                let decoded = Manifest::decode(&encoded);
                let (manifest, identity) = decoded.map_err(|e| FetchEnd::Bad(e.to_string()))?;
                if identity != offer.identity {
                    let problem = "its manifest has another hash than the one it offered";
                    return Err(FetchEnd::Bad(problem.to_owned()));
                }
                let manifest = Box::new(manifest);
                (manifest, 0, Some(encoded))
            }
            _ => {
                let problem = "it offered to go on with what this node has not begun";
                return Err(FetchEnd::Bad(problem.to_owned()));
            }
        };
        let (mine, theirs) = (self.me.db_id, manifest.identity.db_id);
        if theirs != mine {
            return Err(FetchEnd::WrongDatabase { mine, theirs });
        }
        let (end, own, at_least) = (manifest.end.position, self.own, self.at_least);
        if end.index < at_least {
            return Err(FetchEnd::Behind { theirs: end.index, at_least });
        }
        if end.index == own.index && end.hash != own.hash {
            let Position { index, hash: mine } = own;
            return Err(FetchEnd::Diverged { index, mine, theirs: end.hash });
        }
        if let Some(encoded) = begun {
            let (identity, manifest) = (offer.identity, manifest.clone());
            self.actions.push_back(FetchAction::Begin { identity, encoded, manifest });
        }
        Ok((manifest, next))
    }

    fn received(&mut self, now: Millis, number: u32, bytes: Bytes) {
        let FetchState::Receiving { manifest, next } = &mut self.state else { return };
        let entry = manifest.blocks.get(number as usize).filter(|_| number == *next);
        let problem = match entry {
            None => Some(format!("it sent block {number} where {next} had to come")),
            Some(entry) if entry.bytes as usize != bytes.len() => {
                Some(format!("its block {number} has {} bytes", bytes.len()))
            }
            Some(entry) if entry.hash != SnapshotHash::of(&bytes) => {
                Some(format!("its block {number} has another hash than the manifest says"))
            }
            Some(_) => None,
        };
        if let Some(problem) = problem {
            return self.bad(now, problem);
        }
        *next += 1;
        self.actions.push_back(FetchAction::Block { number, bytes });
        self.end_when_complete(now);
    }

    fn end_when_complete(&mut self, now: Millis) {
        if let FetchState::Receiving { manifest, next } = &self.state
            && *next as usize >= manifest.blocks.len()
        {
            self.end_with(now, ByeReason::StopReached, FetchEnd::Complete);
        }
    }

    fn bad(&mut self, now: Millis, problem: String) {
        self.end_with(now, ByeReason::Malformed, FetchEnd::Bad(problem));
    }

    fn end_with(&mut self, now: Millis, bye: ByeReason, end: FetchEnd) {
        if !self.has_ended() {
            self.send(Message::Bye(bye), now);
            self.end(end);
        }
    }

    fn end(&mut self, end: FetchEnd) {
        if !self.has_ended() {
            self.state = FetchState::Ended;
            self.actions.push_back(FetchAction::Close(end));
        }
    }

    fn send(&mut self, message: Message, now: Millis) {
        self.said = now;
        self.actions.push_back(FetchAction::Send(message.into_frame().encode()));
    }
}

/// What the serving driver is to do, in this order.
#[derive(Debug)]
pub enum OfferAction {
    /// Find a snapshot, and say so with [`OfferSession::found`] or [`OfferSession::busy`].
    LookUp {
        /// One that ends before this is of no use.
        at_least: Index,
    },
    /// Write this to the connection.
    Send(EncodedFrame),
    /// Write what is pending, then close the connection; the last action.
    Close(SourceEnd),
}

/// A snapshot that can be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// Which one.
    pub identity: SnapshotHash,
    /// Its manifest.
    pub manifest: Bytes,
    /// How many blocks it has.
    pub blocks: u32,
}

#[derive(Debug)]
enum OfferState {
    Listening,
    LookingUp(Option<Wanted>),
    Sending { next: u32, blocks: u32 },
    Ended,
}

/// The serving end.
#[derive(Debug)]
pub struct OfferSession {
    me: LocalNode,
    deadlines: Deadlines,
    state: OfferState,
    follower: Option<LocalNode>,
    begun: Millis,
    heard: Millis,
    actions: VecDeque<OfferAction>,
}

impl OfferSession {
    /// A transfer over a connection whose first frame is a `Fetch`.
    pub fn new(me: LocalNode, deadlines: Deadlines, now: Millis) -> Self {
        OfferSession {
            me,
            deadlines,
            state: OfferState::Listening,
            follower: None,
            begun: now,
            heard: now,
            actions: VecDeque::new(),
        }
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<OfferAction> {
        self.actions.pop_front()
    }

    /// Who fetches, once it has said so.
    pub fn follower(&self) -> Option<&LocalNode> {
        self.follower.as_ref()
    }

    /// The block that is to be offered next, when nothing else waits to be sent.
    pub fn wants_block(&self) -> Option<u32> {
        match self.state {
            OfferState::Sending { next, blocks } if self.actions.is_empty() && next < blocks => {
                Some(next)
            }
            _ => None,
        }
    }

    /// A frame came.
    pub fn frame(&mut self, now: Millis, frame: &Frame) {
        self.heard = now;
        match (Message::from_frame(frame), &self.state) {
            (_, OfferState::Ended) => {}
            (Ok(Message::Fetch(fetch)), OfferState::Listening) => self.asked(fetch),
            (Ok(Message::Ping), _) => {}
            (Ok(Message::Bye(reason)), _) => self.end(SourceEnd::FollowerLeft(reason)),
            (Err(FormatError::Version { found, .. }), OfferState::Listening) => {
                let why = format!("version {found} at most, this node {}", VersionRange::OURS);
                self.refuse(Refusal::Version(VersionRange::OURS), why);
            }
            (Ok(other), _) => self.malformed(format!("an unexpected {:?}", other.kind())),
            (Err(e), _) => self.malformed(e.to_string()),
        }
    }

    /// Bytes came that are no frame.
    pub fn frame_error(&mut self, error: &FrameError) {
        self.malformed(error.to_string());
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, reason: impl fmt::Display) {
        self.end(SourceEnd::ConnectionLost(reason.to_string()));
    }

    /// The driver ends the transfer.
    pub fn close(&mut self, reason: ByeReason) {
        if !matches!(self.state, OfferState::Ended) {
            self.send(Message::Bye(reason));
            self.end(SourceEnd::Said(reason));
        }
    }

    /// The answer to [`OfferAction::LookUp`]: this one.
    pub fn found(&mut self, now: Millis, offered: &Offered) {
        let OfferState::LookingUp(wanted) = &self.state else { return };
        let known = wanted.filter(|wanted| {
            wanted.identity == offered.identity && wanted.next_block <= offered.blocks
        });
        let first_block = known.map_or(0, |wanted| wanted.next_block);
        let offer = Offer {
            version: VersionRange::OURS.max,
            identity: offered.identity,
            first_block,
            manifest: known.is_none().then(|| offered.manifest.clone()),
        };
        self.heard = now;
        self.send(Message::Offer(offer));
        self.state = OfferState::Sending { next: first_block, blocks: offered.blocks };
    }

    /// The answer to [`OfferAction::LookUp`]: not now.
    pub fn busy(&mut self, retry_after_ms: u64, why: String) {
        self.refuse(Refusal::Busy { retry_after_ms }, why);
    }

    /// Offers the block that [`Self::wants_block`] named.
    pub fn block(&mut self, bytes: Bytes) {
        let OfferState::Sending { next, blocks } = self.state else { return };
        self.send(Message::Block { number: next, bytes });
        self.state = OfferState::Sending { next: next + 1, blocks };
    }

    /// When [`Self::tick`] wants to be called again.
    pub fn next_deadline(&self) -> Millis {
        match self.state {
            OfferState::Listening | OfferState::LookingUp(_) => {
                self.begun.plus_ms(self.deadlines.handshake_ms)
            }
            OfferState::Sending { .. } => self.heard.plus_ms(self.deadlines.idle_ms),
            OfferState::Ended => Millis::new(u64::MAX),
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Millis) {
        let Deadlines { handshake_ms, idle_ms, .. } = self.deadlines;
        match self.state {
            OfferState::Listening | OfferState::LookingUp(_)
                if now.since_ms(self.begun) >= handshake_ms =>
            {
                self.end(SourceEnd::HandshakeTimeout(handshake_ms));
            }
            OfferState::Sending { .. } if now.since_ms(self.heard) >= idle_ms => {
                self.send(Message::Bye(ByeReason::Silent));
                self.end(SourceEnd::Silent(idle_ms));
            }
            _ => {}
        }
    }

    fn asked(&mut self, fetch: Fetch) {
        let Fetch { node, wanted, at_least, .. } = fetch;
        let (yours, mine) = (node.db_id, self.me.db_id);
        let is_self = node.process_id == self.me.process_id;
        self.follower = Some(node);
        if yours != mine {
            let why = format!("node {} holds database {mine}", self.me.node_id);
            return self.refuse(Refusal::WrongDatabase { yours, mine }, why);
        }
        if is_self {
            let why = format!("node {} is the follower itself", self.me.node_id);
            return self.refuse(Refusal::SelfConnection, why);
        }
        self.actions.push_back(OfferAction::LookUp { at_least });
        self.state = OfferState::LookingUp(wanted);
    }

    fn refuse(&mut self, refusal: Refusal, explanation: String) {
        if !matches!(self.state, OfferState::Ended) {
            let refused = Refused { refusal, explanation };
            self.send(Message::Refused(refused.clone()));
            self.end(SourceEnd::Refused(refused));
        }
    }

    fn malformed(&mut self, what: String) {
        if !matches!(self.state, OfferState::Ended) {
            self.send(Message::Bye(ByeReason::Malformed));
            self.end(SourceEnd::Malformed(what));
        }
    }

    fn end(&mut self, end: SourceEnd) {
        if !matches!(self.state, OfferState::Ended) {
            self.state = OfferState::Ended;
            self.actions.push_back(OfferAction::Close(end));
        }
    }

    fn send(&mut self, message: Message) {
        self.actions.push_back(OfferAction::Send(message.into_frame().encode()));
    }
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
mod tests;
