//! Messages: what frames say; `docs/PROTOCOL.md` draws them. `codec` has one encode and one decode
//! per kind.
//!
//! Invariants:
//! * a `Hello` begins with the magic and the version range, in every version there will ever be,
//!   so that two releases without a common version can still tell each other so;
//! * later versions may append fields to `Hello`, `Welcome`, `Refused`, `Fetch` and `Offer`, which
//!   older releases ignore, and so may advice; every other message must end where its last field
//!   does;
//! * a batch record and a control record travel as they are stored; nothing here copies a batch;
//! * a control record of a kind this release does not know comes through untouched.
//!
//! A text is its length (u16) and UTF-8, an id its 16 bytes, an optional field a byte 0 or 1
//! followed, when it is 1, by the field. Integers are little-endian.

use std::fmt;

use bytes::Bytes;
use quicksilver_format::limits::NAME_MAX_BYTES;
use quicksilver_format::manifest::SnapshotHash;
use quicksilver_format::{
    ControlRecord, DbId, Heartbeat, HistoryId, Index, NodeId, Position, ProcessId, RunningHash,
};

mod codec;

/// The newest protocol version this release speaks.
const NEWEST_VERSION: u16 = if cfg!(feature = "next-protocol") { 2 } else { 1 };
/// The first bytes of a session.
pub const MAGIC: [u8; 4] = *b"QSRP";
/// Longest path from the root, the node itself included. A tree of fifty downstreams a node has
/// more than 10^50 leaves long before; a path this long is a loop.
pub const PATH_MAX_HOPS: usize = 32;
/// Longest site name.
pub const SITE_MAX_BYTES: usize = NAME_MAX_BYTES;
/// Longest client address of the root.
pub const ROOT_CLIENT_MAX_BYTES: usize = 256;
/// Longest explanation of a refusal; a longer one is cut.
pub const REASON_MAX_BYTES: usize = 1024;

/// Protocol versions a release speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VersionRange {
    /// The oldest.
    pub min: u16,
    /// The newest.
    pub max: u16,
}

impl VersionRange {
    /// What this release speaks: its own version and that of the release before it, so that either
    /// may be upgraded first. `docs/PROTOCOL.md` says how a new version is introduced.
    pub const OURS: VersionRange = VersionRange { min: 1, max: NEWEST_VERSION };

    /// The newest version that both speak.
    pub fn common(&self, other: &VersionRange) -> Option<u16> {
        let version = self.max.min(other.max);
        (version >= self.min && version >= other.min).then_some(version)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

/// One node on a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hop {
    /// Its name.
    pub node_id: NodeId,
    /// Its run.
    pub process_id: ProcessId,
}

/// Who this end is. The database is part of it: a replicator serves exactly one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalNode {
    /// The database.
    pub db_id: DbId,
    /// Its past; `None` while this node has nothing and takes what its upstream has.
    pub history: Option<HistoryId>,
    /// The node's name.
    pub node_id: NodeId,
    /// Where it is.
    pub site: String,
    /// This run of it.
    pub process_id: ProcessId,
}

impl LocalNode {
    /// As a part of a path.
    pub fn hop(&self) -> Hop {
        Hop { node_id: self.node_id.clone(), process_id: self.process_id }
    }

    /// Where on `path` this node is met: its run, or another run under the same name.
    pub fn position_on(&self, path: &[Hop]) -> Option<usize> {
        path.iter().position(|hop| hop.process_id == self.process_id || hop.node_id == self.node_id)
    }
}

/// Where a node hangs in the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lineage {
    /// From the root (or from a relay that has no upstream at present) to the node itself.
    pub path: Vec<Hop>,
    /// Whether the path begins at the root.
    pub connected_to_root: bool,
    /// Where writers reach the root, for READONLY answers; empty when unknown. A relay that lost
    /// its upstream goes on naming the last one it knew.
    pub root_client: String,
}

impl Lineage {
    /// Of the root itself.
    pub fn root(me: &LocalNode, root_client: String) -> Self {
        Lineage { path: vec![me.hop()], connected_to_root: true, root_client }
    }

    /// Of a relay without upstream; `root_client` is the last one it knew.
    pub fn orphan(me: &LocalNode, root_client: String) -> Self {
        Lineage { path: vec![me.hop()], connected_to_root: false, root_client }
    }

    /// Of a relay whose upstream has this lineage.
    #[must_use]
    pub fn extended_to(&self, me: &LocalNode) -> Self {
        let mut path = self.path.clone();
        path.push(me.hop());
        Lineage { path, ..self.clone() }
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.connected_to_root { "" } else { "(no root) > " })?;
        for (n, hop) in self.path.iter().enumerate() {
            write!(f, "{}{}", if n == 0 { "" } else { " > " }, hop.node_id)?;
        }
        Ok(())
    }
}

/// How large the root lets the live data grow. It is told to every node, so that one whose map or
/// disk is smaller says so at once, and not when it is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota {
    /// `limits.max_db_bytes` of the root.
    pub max_db_bytes: u64,
}

/// Where a follower wants to begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// With the entry after this one.
    After(Position),
    /// With the next batch there will be: an observer without a store.
    Newest,
}

/// The follower's opening.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// What it speaks.
    pub versions: VersionRange,
    /// Who it is.
    pub node: LocalNode,
    /// How it hung in the tree when it last did, itself included: for logs and status only.
    pub path: Vec<Hop>,
    /// Where to start.
    pub start: Start,
    /// Where to stop: at the last batch that ends at or before this index.
    pub stop: Option<Index>,
}

/// The source's consent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// What both speak from here on.
    pub version: u16,
    /// The source's database.
    pub db_id: DbId,
    /// Its past; a follower whose position fits takes it over.
    pub history: HistoryId,
    /// The source's name.
    pub node_id: NodeId,
    /// Where it is.
    pub site: String,
    /// This run of it.
    pub process_id: ProcessId,
    /// How it hangs in the tree.
    pub lineage: Lineage,
    /// Where its log ends at present.
    pub position: Position,
    /// The oldest entry it still has.
    pub oldest: Index,
    /// The newest heartbeat it has seen. It tells how fresh the source is; it does not count as
    /// received.
    pub heartbeat: Option<Heartbeat>,
    /// **For tests only**: the source's release, which version 2 of the tests appends.
    #[cfg(feature = "next-protocol")]
    pub release: String,
}

/// Why a source will not serve a follower.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// They hold different databases.
    WrongDatabase {
        /// The follower's.
        yours: DbId,
        /// The source's.
        mine: DbId,
    },
    /// The follower is the source.
    SelfConnection,
    /// The source follows the follower, directly or through others.
    Cycle,
    /// The follower's position is older than the source's log.
    LogTooOld {
        /// The oldest entry the source has.
        oldest: Index,
    },
    /// The source has another past at the follower's position.
    Diverged {
        /// The follower's index.
        index: Index,
        /// The source's hash there.
        mine: RunningHash,
    },
    /// The source has not come as far as the follower. No divergence: wait, or try another.
    Behind {
        /// Where the source's log ends.
        position: Position,
    },
    /// The source has as many downstreams as it takes.
    Busy {
        /// When to ask again.
        retry_after_ms: u64,
    },
    /// No common protocol version.
    Version(VersionRange),
    /// The source could not make sense of what it received.
    Malformed,
    /// A reason of a later release.
    Other(u8),
}

const REFUSED_WRONG_DATABASE: u8 = 1;
const REFUSED_SELF: u8 = 2;
const REFUSED_CYCLE: u8 = 3;
const REFUSED_LOG_TOO_OLD: u8 = 4;
const REFUSED_DIVERGED: u8 = 5;
const REFUSED_BEHIND: u8 = 6;
const REFUSED_BUSY: u8 = 7;
const REFUSED_VERSION: u8 = 8;
const REFUSED_MALFORMED: u8 = 9;

impl Refusal {
    /// Its number on the wire.
    pub fn code(&self) -> u8 {
        match self {
            Refusal::WrongDatabase { .. } => REFUSED_WRONG_DATABASE,
            Refusal::SelfConnection => REFUSED_SELF,
            Refusal::Cycle => REFUSED_CYCLE,
            Refusal::LogTooOld { .. } => REFUSED_LOG_TOO_OLD,
            Refusal::Diverged { .. } => REFUSED_DIVERGED,
            Refusal::Behind { .. } => REFUSED_BEHIND,
            Refusal::Busy { .. } => REFUSED_BUSY,
            Refusal::Version(_) => REFUSED_VERSION,
            Refusal::Malformed => REFUSED_MALFORMED,
            Refusal::Other(code) => *code,
        }
    }

    /// In one word, for metrics and logs; the same that its follower gives for the end.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::WrongDatabase { .. } => "wrong-database",
            Refusal::SelfConnection => "self",
            Refusal::Cycle => "cycle",
            Refusal::LogTooOld { .. } => "log-too-old",
            Refusal::Diverged { .. } => "diverged",
            Refusal::Behind { .. } => "behind",
            Refusal::Busy { .. } => "busy",
            Refusal::Version(_) => "version",
            Refusal::Malformed => "malformed",
            Refusal::Other(_) => "refused",
        }
    }
}

/// A refusal and its explanation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The reason.
    pub refusal: Refusal,
    /// The source's words for an operator.
    pub explanation: String,
}

/// Why an end leaves a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByeReason {
    /// The follower has everything up to where it wanted to stop.
    StopReached,
    /// The process goes away, or is about to be replaced by a newer one.
    Restarting,
    /// The source begins anew from what is on its disk: a commit failed, so that what it passed on
    /// last may not be in its log, or it has only now learnt its database's history.
    Reset,
    /// The follower reads so slowly that the source's log has left it behind.
    TooSlow,
    /// The other end was silent for too long.
    Silent,
    /// The other end sent something that the protocol does not allow here.
    Malformed,
    /// The follower met itself on the source's path.
    Cycle,
    /// The follower found another past than its own.
    Diverged,
    /// The follower goes to another upstream.
    Leaving,
    /// A reason of a later release.
    Other(u8),
}

impl ByeReason {
    const KNOWN: [ByeReason; 9] = [
        ByeReason::StopReached,
        ByeReason::Restarting,
        ByeReason::Reset,
        ByeReason::TooSlow,
        ByeReason::Silent,
        ByeReason::Malformed,
        ByeReason::Cycle,
        ByeReason::Diverged,
        ByeReason::Leaving,
    ];

    /// Its number on the wire.
    pub fn code(self) -> u8 {
        match self {
            ByeReason::StopReached => 1,
            ByeReason::Restarting => 2,
            ByeReason::Reset => 3,
            ByeReason::TooSlow => 4,
            ByeReason::Silent => 5,
            ByeReason::Malformed => 6,
            ByeReason::Cycle => 7,
            ByeReason::Diverged => 8,
            ByeReason::Leaving => 9,
            ByeReason::Other(code) => code,
        }
    }

    /// In one word, for metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            ByeReason::StopReached => "done",
            ByeReason::Restarting => "restarting",
            ByeReason::Reset => "reset",
            ByeReason::TooSlow => "too-slow",
            ByeReason::Silent => "silent",
            ByeReason::Malformed => "malformed",
            ByeReason::Cycle => "cycle",
            ByeReason::Diverged => "diverged",
            ByeReason::Leaving | ByeReason::Other(_) => "left",
        }
    }

    fn from_code(code: u8) -> Self {
        let known = Self::KNOWN.into_iter().find(|reason| reason.code() == code);
        known.unwrap_or(ByeReason::Other(code))
    }
}

impl fmt::Display for ByeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ByeReason::StopReached => "the index to stop at is reached",
            ByeReason::Restarting => "it is restarting",
            ByeReason::Reset => "it begins anew from what is on its disk",
            ByeReason::TooSlow => "the follower was too slow",
            ByeReason::Silent => "the other end was silent",
            ByeReason::Malformed => "it was sent something the protocol does not allow",
            ByeReason::Cycle => "the follower is on the path of its source",
            ByeReason::Diverged => "the two ends have different pasts",
            ByeReason::Leaving => "it goes to another upstream",
            ByeReason::Other(code) => return write!(f, "reason {code} of a later release"),
        })
    }
}

/// A snapshot of which a part is here already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Which one.
    pub identity: SnapshotHash,
    /// The first block that is missing.
    pub next_block: u32,
}

/// The opening of a transfer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetch {
    /// What the receiver speaks.
    pub versions: VersionRange,
    /// Who it is.
    pub node: LocalNode,
    /// What it has begun, if anything.
    pub wanted: Option<Wanted>,
    /// Where its log ends: what is older is of no use.
    pub at_least: Index,
}

/// Which snapshot comes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// What both speak from here on.
    pub version: u16,
    /// Which one.
    pub identity: SnapshotHash,
    /// The first block that will be sent.
    pub first_block: u32,
    /// Its manifest; `None` when the receiver has begun this very one.
    pub manifest: Option<Bytes>,
}

/// Everything that can be said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// See [`Hello`].
    Hello(Hello),
    /// See [`Welcome`].
    Welcome(Box<Welcome>),
    /// See [`Refused`].
    Refused(Refused),
    /// A batch record, not yet looked into.
    Batch(Bytes),
    /// A control record.
    Control(ControlRecord),
    /// The source's place in the tree has changed.
    PathUpdate(Lineage),
    /// The follower has this on disk.
    Applied(Index),
    /// Still here.
    Ping,
    /// The session ends.
    Bye(ByeReason),
    /// See [`Fetch`].
    Fetch(Fetch),
    /// See [`Offer`].
    Offer(Offer),
    /// A block of the snapshot.
    Block {
        /// Its number, over the whole file.
        number: u32,
        /// Its bytes.
        bytes: Bytes,
    },
    /// How large the data may grow.
    Quota(Quota),
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
