//! The traits through which this layer serves a node.
//!
//! Invariants an implementation keeps:
//! * reads are of committed data and never go back in time;
//! * [`WritePath::submit`] orders transactions by the order of its calls, and the answer it
//!   promises is given only when the transaction is durable.

use std::future::Future;
use std::pin::Pin;

use quicksilver_format::{Index, version};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::root::request::{Answer, OpAnswer, Transaction, TxOp, WriteError};
use crate::store::FormatAnswer;
use crate::store::maintenance::{JobKind, MaintenanceStatus, SnapshotInfo, StartAnswer};

/// A future that can be kept anywhere.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
/// The promise of an answer, given once the transaction is in the queue.
pub type Promise = BoxFuture<'static, Result<Answer, WriteError>>;

/// A read that could not be answered. A missing key is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ReadError {
    /// What happened, for a human.
    pub message: String,
    /// What is stored is not what was written; otherwise the read may work later.
    pub corrupt: bool,
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Its position.
    pub index: Index,
    /// Its key.
    pub key: Vec<u8>,
    /// The value that was set, or `None` for a DEL.
    pub value: Option<Vec<u8>>,
}

/// What every node can do for a client. Calls are made on async threads: short ones as they are,
/// those that read much as `heavy` work.
pub trait Node: Send + Sync + 'static {
    /// A key's value.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError>;

    /// The length of a key's value in bytes.
    fn value_length(&self, key: &[u8]) -> Result<Option<u64>, ReadError>;

    /// Answers several reads ([`TxOp::Get`] and [`TxOp::Length`]) from one snapshot, or refuses
    /// when the values together exceed `max_bytes`.
    fn read_many(&self, reads: &[TxOp], max_bytes: usize) -> Result<Vec<OpAnswer>, ReadError>;

    /// At most `limit` keys that begin with `prefix`, in key order, after `after`.
    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, ReadError>;

    /// At most `limit` entries of the log from `from` on. It stops after the entry with which
    /// keys and values together reach `max_bytes`. Asking for entries that were collected is an
    /// error that names the oldest index; asking past the end gives none.
    fn log(&self, from: Index, limit: usize, max_bytes: usize) -> Result<Vec<LogLine>, ReadError>;

    /// Live keys.
    fn key_count(&self) -> u64;

    /// The last index applied.
    fn index(&self) -> Index;

    /// Where writes go, on a node that accepts them.
    fn writes(&self) -> Option<&dyn WritePath>;

    /// The client address of the root, for those who write to the wrong node.
    fn root_client(&self) -> Option<String>;

    /// Whether the node has no data yet and is fetching its first: reads are then refused with
    /// `-LOADING`.
    fn loading(&self) -> bool {
        false
    }

    /// What `/status` shows.
    fn status(&self) -> NodeStatus;

    /// Whether it should be sent traffic; otherwise why not.
    fn ready(&self) -> Result<(), String>;

    /// Whether it works at all; otherwise why a restart would help.
    fn live(&self) -> Result<(), String>;

    /// Has the writer raise the format of the node's files to the newest that it can write.
    fn finalize_format(&self) -> BoxFuture<'static, FormatAnswer>;

    /// Has the maintenance begin a job.
    fn begin_job(&self, kind: JobKind) -> BoxFuture<'static, StartAnswer>;

    /// The snapshot files of this node, oldest first. Reads each one's manifest: heavy.
    fn snapshots(&self) -> Result<Vec<SnapshotInfo>, String>;

    /// Removes one of them.
    fn remove_snapshot(&self, name: &str) -> Result<(), String>;

    /// The metrics as Prometheus text.
    fn metrics(&self) -> String;

    /// Direct downstreams that have applied everything up to `index`.
    fn replicas_at(&self, index: Index) -> usize;

    /// Changes whenever [`Node::replicas_at`] may have.
    fn progress(&self) -> watch::Receiver<u64>;
}

impl ReadError {
    /// The refusal of [`Node::read_many`].
    pub fn reply_too_large(max_bytes: usize) -> Self {
        ReadError {
            message: format!("the reply would exceed {max_bytes} bytes; ask for fewer keys"),
            corrupt: false,
        }
    }

    /// A write where only reads are answered.
    pub fn not_a_read() -> Self {
        ReadError { message: "a write among reads".to_owned(), corrupt: false }
    }
}

/// What writes are held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteLimits {
    /// Longest value, `limits.max_value_bytes`.
    pub max_value_bytes: usize,
    /// Most bytes of one transaction.
    pub max_bytes: usize,
    /// Most steps of one transaction.
    pub max_ops: usize,
}

/// The way into the root's sequencer.
pub trait WritePath: Send + Sync {
    /// Puts a transaction into the queue. The outer future waits for room and resolves when the
    /// transaction has its place, so calls awaited one after the other keep their order; the
    /// inner one resolves when it is durable. Dropping the inner one does not undo anything.
    fn submit<'a>(&'a self, transaction: Transaction)
    -> BoxFuture<'a, Result<Promise, WriteError>>;

    /// What a transaction is held to.
    fn limits(&self) -> WriteLimits;
}

/// `/status`, `QS.STATUS` and `qsctl status --json`. The names are public. What another release does
/// not say is empty here, and what it says beyond this is not looked at.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// The database's name.
    pub name: String,
    /// Its identity.
    pub db_id: String,
    /// This node.
    pub node_id: String,
    /// `root` or `relay`.
    pub role: String,
    /// See `quicksilver_format::status::NodeState::name`.
    pub state: String,
    /// Of the program.
    pub version: String,
    /// The last index applied.
    pub index: u64,
    /// Running hash there, lower-case hex.
    pub hash: String,
    /// State digest there, lower-case hex.
    pub digest: String,
    /// Live keys.
    pub keys: u64,
    /// The LMDB environment that is served.
    pub generation: u64,
    /// Age of the last counted heartbeat; `null` before the first.
    pub lag_seconds: Option<f64>,
    /// Who is followed; `null` at a root.
    pub upstream: Option<UpstreamStatus>,
    /// Who follows.
    pub downstreams: Vec<DownstreamStatus>,
    /// The process.
    pub pid: u32,
    /// The database's past.
    pub history: String,
    /// The oldest entry still in the log; one past `index` when the log is empty.
    pub oldest_index: u64,
    /// Entries after this are kept, within a bound, for a connected downstream or a copy that is being
    /// made; `null` when nobody needs any.
    pub log_needed_after: Option<u64>,
    /// Bytes of live keys and values.
    pub bytes: u64,
    /// The format that the node's files are in, and are written in.
    pub format: u32,
    /// The oldest format a program must know to read them.
    pub format_readable_from: u32,
    /// The newest format that the running release can write; 0 when none runs.
    pub format_newest: u32,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
    /// Who reads the node's memory, as of the last look, seconds ago; `null` before the first.
    pub readers: Option<ReadersStatus>,
    /// Compaction, snapshots and verification.
    pub maintenance: MaintenanceStatus,
    /// The snapshot that the node fetches; `null` when it does not.
    pub bootstrap: Option<BootstrapStatus>,
    /// What the data takes and what is left, as of the last look, seconds ago; `null` before the
    /// first.
    pub storage: Option<StorageStatus>,
    /// Whether the data that the root allows fits here; `null` while no root has said how much.
    pub quota: Option<QuotaStatus>,
}

/// A node that fetches a snapshot.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BootstrapStatus {
    /// `fetching`, `restoring`, or what it waits for.
    pub state: String,
    /// From whom.
    pub upstream: String,
    /// The identity of the snapshot; empty before one was offered.
    pub snapshot: String,
    /// The index at which it is.
    pub index: u64,
    /// Bytes that are here.
    pub done_bytes: u64,
    /// Bytes of its blocks.
    pub total_bytes: u64,
    /// Rate of this connection.
    pub bytes_per_second: f64,
    /// Until all of it is here; `null` when that cannot be said yet.
    pub eta_seconds: Option<f64>,
    /// Why the last try ended.
    pub last_error: Option<String>,
}

/// `QS.FORMAT` and `qsctl format --json`. The names are public.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FormatStatus {
    /// The format that the node's files are in, and are written in.
    pub format: u32,
    /// The oldest format a program must know to read them.
    pub format_readable_from: u32,
    /// The newest format that the running release can write; `null` when none was asked.
    pub format_newest: Option<u32>,
    /// The oldest release that can read them; `null` when that is one which whoever was asked does
    /// not know.
    pub oldest_reader: Option<String>,
    /// Whether there is something to finalise; `null` when no running release was asked.
    pub can_finalize: Option<bool>,
}

impl FormatStatus {
    /// From what a node says of itself.
    pub fn of(status: &NodeStatus) -> Self {
        let newest = (status.format_newest > 0).then_some(status.format_newest);
        let needed = version::known(status.format_readable_from);
        FormatStatus {
            format: status.format,
            format_readable_from: status.format_readable_from,
            format_newest: newest,
            oldest_reader: needed.map(|format| format.first_release.to_owned()),
            can_finalize: newest.map(|newest| newest > status.format),
        }
    }
}

/// `QS.FORMAT FINALIZE` and `qsctl format finalize --json`. The names are public.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FormatChanged {
    /// False when there was nothing to do.
    pub finalized: bool,
    /// The format before.
    pub from: u32,
    /// The format now.
    pub format: u32,
}

/// The followed node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UpstreamStatus {
    /// Its address as configured; empty while none is chosen.
    pub address: String,
    /// Whether a session lives.
    pub connected: bool,
    /// `following`, `disconnected`, `diverged`, `wrong-database`, `needs-snapshot` or `idle`.
    pub state: String,
    /// Who answered there.
    pub node_id: Option<String>,
    /// The protocol version that is spoken with it.
    pub protocol: Option<u16>,
    /// Node ids from the root to the upstream.
    pub path: Vec<String>,
    /// Why the last session ended.
    pub last_error: Option<String>,
}

/// The reader table.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReadersStatus {
    /// Slots that are taken, idle ones included.
    pub used: u32,
    /// Slots that there are, `limits.max_readers`.
    pub limit: u32,
    /// Who holds the snapshot that is behind most; `null` when none is behind.
    pub oldest: Option<OldestReader>,
}

/// A process that holds an old snapshot.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct OldestReader {
    /// The process, numbered as in its own PID namespace.
    pub pid: u32,
    /// Its program, where it can be seen.
    pub name: Option<String>,
    /// How long its snapshot has been seen behind the newest commit.
    pub age_seconds: f64,
    /// How many commits it is behind.
    pub lag_commits: u64,
}

/// File, map and disk of the live generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageStatus {
    /// Its file.
    pub file_bytes: u64,
    /// Pages in it that are free; the next commits use them.
    pub free_page_bytes: u64,
    /// Those of them that a reader may still see, and no commit can use.
    pub held_page_bytes: u64,
    /// Its map: the file never grows past it.
    pub map_bytes: u64,
    /// The log in it.
    pub log_bytes: u64,
    /// What the disk has left for the replicator.
    pub disk_free_bytes: u64,
}

/// The root's quota, and what this node has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct QuotaStatus {
    /// How large the root lets the live data grow, its `limits.max_db_bytes`.
    pub max_db_bytes: u64,
    /// The live data that the map can hold, beside the log and a few batches.
    pub map_room_bytes: u64,
    /// The live data that the disk can hold, likewise, with what the file has already.
    pub disk_room_bytes: u64,
    /// Whether both are at least the quota.
    pub sufficient: bool,
}

/// One following node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DownstreamStatus {
    /// Its id.
    pub node_id: String,
    /// Where it connects from.
    pub address: String,
    /// What it has applied.
    pub index: u64,
}
