//! The shared status page: where each field lies, and the values they take.
//!
//! One file of 4096 bytes that every process on the machine maps. It is a hint for speed:
//! `CURRENT` and LMDB are the truth. The fields from `last index` on are guarded by a sequence
//! lock: the writer makes `sequence` odd, writes, and makes it even again.
//!
//! ```text
//! offset  size  field
//!      0     8  magic "QSSTATUS"
//!      8     4  layout version (1)
//!     12     4  zero
//!     16    16  database id
//!     32     8  generation
//!     40     4  sequence of the sequence lock
//!     44     4  notify word: bumped and futex-woken after each commit
//!     48     8  last index
//!     56    32  running hash there
//!     88     8  commit time, microseconds since the Unix epoch
//!     96     8  heartbeat: the root's clock, microseconds since the Unix epoch (0: none yet)
//!    104     4  replicator's pid
//!    108     4  state
//!    112     8  replicator's start, microseconds since the Unix epoch
//!    120    16  state digest
//!    136     8  live keys
//! ```
//!
//! The layout version is little-endian; the numbers after it are in the byte order of the
//! machine, which the page never leaves.

use crate::digest::StateDigest;
use crate::hash::Position;

/// Bytes of the page.
pub const PAGE_BYTES: usize = 4096;
/// What it begins with.
pub const MAGIC: [u8; 8] = *b"QSSTATUS";
/// The layout this release writes.
pub const LAYOUT_VERSION: u32 = 1;

/// Offset of the layout version.
pub const AT_LAYOUT_VERSION: usize = 8;
/// Offset of the database id.
pub const AT_DB_ID: usize = 16;
/// Offset of the generation's number.
pub const AT_GENERATION: usize = AT_DB_ID + 16;
/// Offset of the sequence lock.
pub const AT_SEQUENCE: usize = AT_GENERATION + 8;
/// Offset of the word that waiters sleep on.
pub const AT_NOTIFY: usize = AT_SEQUENCE + 4;
/// Offset of the last index.
pub const AT_INDEX: usize = AT_NOTIFY + 4;
/// Offset of the running hash.
pub const AT_HASH: usize = AT_INDEX + 8;
/// Offset of the commit time.
pub const AT_COMMIT_TIME: usize = AT_HASH + 32;
/// Offset of the heartbeat.
pub const AT_HEARTBEAT: usize = AT_COMMIT_TIME + 8;
/// Offset of the replicator's pid.
pub const AT_PID: usize = AT_HEARTBEAT + 8;
/// Offset of the state.
pub const AT_STATE: usize = AT_PID + 4;
/// Offset of the replicator's start time.
pub const AT_START_TIME: usize = AT_STATE + 4;
/// Offset of the state digest.
pub const AT_DIGEST: usize = AT_START_TIME + 8;
/// Offset of the number of live keys.
pub const AT_KEYS: usize = AT_DIGEST + 16;
/// End of the last field.
pub const END: usize = AT_KEYS + 8;

const _: () = assert!(END <= PAGE_BYTES);
const _: () = assert!(
    AT_GENERATION.is_multiple_of(8) && AT_INDEX.is_multiple_of(8) && AT_HASH.is_multiple_of(8)
);
const _: () = assert!(
    AT_SEQUENCE.is_multiple_of(4) && AT_NOTIFY.is_multiple_of(4) && AT_DIGEST.is_multiple_of(8)
);

/// What a replicator is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum NodeState {
    /// Opening its environment.
    Starting = 0,
    /// A root that accepts writes.
    Root = 1,
    /// Following an upstream.
    Following = 2,
    /// Without an upstream, serving what it has.
    Disconnected = 3,
    /// Its log differs from its upstream's: applies nothing, serves what it has.
    Diverged = 4,
    /// Its storage failed: applies nothing, serves what it has.
    Failed = 5,
    /// Left in good order.
    Stopped = 6,
}

impl NodeState {
    /// Every one, in the order of their numbers.
    pub const ALL: [NodeState; 7] = [
        NodeState::Starting,
        NodeState::Root,
        NodeState::Following,
        NodeState::Disconnected,
        NodeState::Diverged,
        NodeState::Failed,
        NodeState::Stopped,
    ];

    /// From the number on the page; a number of a later release is `None`.
    pub fn from_u32(n: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as u32 == n)
    }

    /// The word that `/status` shows.
    pub fn name(self) -> &'static str {
        match self {
            NodeState::Starting => "starting",
            NodeState::Root => "root",
            NodeState::Following => "following",
            NodeState::Disconnected => "disconnected",
            NodeState::Diverged => "diverged",
            NodeState::Failed => "failed",
            NodeState::Stopped => "stopped",
        }
    }
}

/// What one commit publishes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Commit {
    /// Where the log now ends.
    pub position: Position,
    /// Digest of the data.
    pub digest: StateDigest,
    /// Live keys.
    pub keys: u64,
    /// When, microseconds since the Unix epoch.
    pub time_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readers of every 1.x look at these offsets.
    #[test]
    fn golden_offsets() {
        assert_eq!(
            [AT_GENERATION, AT_SEQUENCE, AT_NOTIFY, AT_INDEX, AT_HASH, AT_COMMIT_TIME],
            [32, 40, 44, 48, 56, 88]
        );
        assert_eq!([AT_HEARTBEAT, AT_PID, AT_STATE, AT_START_TIME], [96, 104, 108, 112]);
        assert_eq!([AT_DIGEST, AT_KEYS, END], [120, 136, 144]);
    }

    #[test]
    fn states_round_trip() {
        for n in 0..7 {
            assert_eq!(NodeState::from_u32(n).map(|s| s as u32), Some(n));
        }
        assert_eq!(NodeState::from_u32(7), None);
    }
}
