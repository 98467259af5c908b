//! The end of a follower's session: why it came, and what follows from it.

use std::fmt;

use quicksilver_format::{DbId, FormatError, Index, NodeId, Position, RunningHash};

use crate::frame::FrameError;
use crate::message::{ByeReason, Hop, VersionRange};
use crate::source::LogFact;

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
