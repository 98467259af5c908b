//! Replication over sockets: the wiring around `quicksilver-protocol`'s state machines.
//!
//! ```text
//!            upstream                                          downstreams
//!               │                                                  ▲ ▲ ▲
//!         follow │ FollowerSession                 SourceSession × n │ serve
//!               ▼            push                     read           │
//!        a verified batch ────────▶   Feed (recent items)  ──────────┤
//!               │                        ▲ committed, reset          │ older ones
//!               └─▶ BatchSink ─▶ the writer thread ─▶ ReplicaLog ────┘
//! ```
//!
//! * [`feed`]: the recent part of the stream in memory, between the one who adds to it (the root's
//!   sequencer, or [`follow`](mod@follow)) and everyone who reads it.
//! * [`serve`]: one downstream. [`downstreams`]: all of them, for status, WAIT and admission.
//! * [`follow`](mod@follow): the session with the upstream. [`upstream`]: who it may be, and what an
//!   operator is told about it. `ask`: whether another one would be better.
//! * `bootstrap`: what is done when no upstream has the log. [`transfer`]: snapshots, fetched and
//!   served.
//! * [`connection`]: bytes in and out of a stream, bounded.
//!
//! There is no LMDB here: the store is behind [`ReplicaLog`] (reads) and [`BatchSink`] (writes).

mod ask;
mod bootstrap;
pub mod connection;
pub mod downstreams;
pub mod feed;
pub mod follow;
pub mod serve;
pub mod transfer;
pub mod upstream;

#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use quicksilver_format::meta::Identity;
use quicksilver_format::{Batch, ControlRecord, HistoryId, Index, NodeId, Position, ProcessId};
pub use quicksilver_protocol::FeedLimits;
use quicksilver_protocol::{LocalNode, LogFact, Millis};
use tokio::time::Instant;

pub use downstreams::{Downstream, Downstreams};
pub use feed::Feed;
pub use follow::{FollowContext, follow, set_quota};
pub use serve::{ServeContext, admit, serve_downstream};
pub use transfer::{Fetching, NotNow, OfferContext, ServedSnapshot, SnapshotStore};
pub use upstream::{Dial, NetDial, UpstreamState, UpstreamStatus, Upstreams};

/// What is stored could not be read, or kept. The store says why; a session that meets it ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store failed: {0}")]
pub struct ReadFailure(pub String);

/// The stored log, as sessions see it.
///
/// [`identity`](Self::identity), [`end`](Self::end) and [`oldest`](Self::oldest) answer from
/// memory; [`fact`](Self::fact) and [`read`](Self::read) may touch the disk and are called where
/// blocking is allowed.
pub trait ReplicaLog: Send + Sync + 'static {
    /// Which database, which past.
    fn identity(&self) -> Identity;
    /// The durable end.
    fn end(&self) -> Position;
    /// The oldest entry; one more than the last index when there is none.
    fn oldest(&self) -> Index;
    /// What the log knows about an index, which may be just before its oldest entry.
    fn fact(&self, index: Index) -> Result<LogFact, ReadFailure>;
    /// The records of the batches that follow `after`, at most `max_bytes` of them, but at least
    /// one if there is any. The first one begins right after `after`; when the log no longer has
    /// it, the answer is empty or begins later.
    fn read(&self, after: Index, max_bytes: usize) -> Result<Vec<Bytes>, ReadFailure>;
}

/// The way to the writer thread. Nothing here blocks; what is on its way is bounded by
/// [`Feed::has_room`].
///
/// Calls come in stream order. When a commit fails, the writer tells [`Feed::reset_with`] what is
/// on disk and drops its queue in there: nothing of before it is handed over any more, and the
/// next session, which begins with what is on disk, hands over nothing before it.
pub trait BatchSink: Send + Sync + 'static {
    /// Store this batch; it continues the one before it.
    fn apply(&self, batch: Batch);
    /// The database's history is now this one.
    fn adopt_history(&self, history: HistoryId);
    /// A control record that comes after every batch so far. Only the newest heartbeat is worth
    /// keeping.
    fn control(&self, record: ControlRecord);
}

/// Who this node is, without what its store knows.
#[derive(Debug, Clone)]
pub struct NodeName {
    /// The node's name.
    pub node_id: NodeId,
    /// Where it is.
    pub site: String,
    /// This run of it.
    pub process_id: ProcessId,
}

impl NodeName {
    /// With what its store knows.
    pub fn local(&self, identity: Identity) -> LocalNode {
        LocalNode {
            db_id: identity.db_id,
            history: Some(identity.history),
            node_id: self.node_id.clone(),
            site: self.site.clone(),
            process_id: self.process_id,
        }
    }
}

/// The sessions' clock.
#[derive(Debug, Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Clock(Instant::now())
    }

    fn now(&self) -> Millis {
        let ms = self.0.elapsed().as_millis();
        Millis::new(u64::try_from(ms).unwrap_or(u64::MAX))
    }

    /// The instant of `at`; the far future for the end of time.
    fn instant(&self, at: Millis) -> Instant {
        const FAR_MS: u64 = 365 * 24 * 3_600 * 1_000;
        self.0 + Duration::from_millis(at.get().min(self.now().get().saturating_add(FAR_MS)))
    }
}

/// Runs what may touch the disk where that is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ReadFailure> + Send + 'static,
) -> Result<T, ReadFailure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(ReadFailure(format!("the reading task ended: {e}"))),
    }
}
