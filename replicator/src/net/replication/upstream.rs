//! The upstream as an operator sees it: who it may be, how one is reached, and how it goes.

use std::future::Future;
use std::io;
use std::time::SystemTime;

use quicksilver_format::{Address, Heartbeat, Index, NodeId};
use quicksilver_protocol::{Chooser, Lineage, UpstreamSlot};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::net::listen::Stream;

/// Whom to follow, in the order of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Upstreams {
    /// Tried first.
    pub primary: Vec<Address>,
    /// Tried when the primaries cannot help; they keep a longer log.
    pub secondary: Vec<Address>,
}

impl Upstreams {
    pub(super) fn slots(&self) -> impl Iterator<Item = (UpstreamSlot, &Address)> {
        let all = self.primary.iter().chain(&self.secondary);
        all.enumerate().map(|(n, address)| (UpstreamSlot(n), address))
    }

    pub(super) fn at(&self, slot: UpstreamSlot) -> Option<&Address> {
        self.slots().nth(slot.0).map(|(_, address)| address)
    }

    pub(super) fn chooser(&self) -> Chooser {
        Chooser::new(self.primary.len(), self.secondary.len())
    }

    pub(super) fn len(&self) -> usize {
        self.primary.len() + self.secondary.len()
    }
}

/// Makes connections; TLS is another implementation.
pub trait Dial: Send + Sync {
    /// What a connection is.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// Connects. The caller sets the deadline.
    fn dial(&self, address: &Address) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Plain TCP and Unix sockets.
#[derive(Debug, Clone, Copy, Default)]
pub struct NetDial;

impl Dial for NetDial {
    type Stream = Stream;

    async fn dial(&self, address: &Address) -> io::Result<Stream> {
        Stream::connect(address).await
    }
}

/// How it goes with the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamState {
    /// There is no session; the next try comes.
    Disconnected,
    /// Batches come in as they are made.
    Following,
    /// The upstream has another past. Nothing is applied; an operator is needed.
    Diverged,
    /// The upstream holds another database. Nothing is applied; an operator is needed.
    WrongDatabase,
    /// No upstream has the log this node needs.
    NeedsSnapshot {
        /// The oldest entry that any of them has.
        oldest: Index,
    },
    /// No upstream has the log this node needs; it fetches a snapshot.
    Bootstrapping,
    /// There is no upstream in the configuration, or everything asked for has come.
    Idle,
}

impl UpstreamState {
    /// Every word that [`Self::as_str`] gives.
    pub const NAMES: [&str; 7] = [
        "disconnected",
        "following",
        "diverged",
        "wrong-database",
        "needs-snapshot",
        "bootstrapping",
        "idle",
    ];

    /// As `/status` and metrics call it.
    pub fn as_str(self) -> &'static str {
        match self {
            UpstreamState::Disconnected => "disconnected",
            UpstreamState::Following => "following",
            UpstreamState::Diverged => "diverged",
            UpstreamState::WrongDatabase => "wrong-database",
            UpstreamState::NeedsSnapshot { .. } => "needs-snapshot",
            UpstreamState::Bootstrapping => "bootstrapping",
            UpstreamState::Idle => "idle",
        }
    }
}

/// What an operator sees.
#[derive(Debug, Clone)]
pub struct UpstreamStatus {
    /// How it goes.
    pub state: UpstreamState,
    /// Who is, or was last, dialled.
    pub address: Option<Address>,
    /// Its name, while it is followed.
    pub node_id: Option<NodeId>,
    /// The protocol version that is spoken with it, while it is followed.
    pub protocol: Option<u16>,
    /// Since when it is followed.
    pub connected_since: Option<SystemTime>,
    /// Where its log ended at the handshake.
    pub upstream_index: Option<Index>,
    /// The newest heartbeat it had at the handshake.
    pub upstream_heartbeat: Option<Heartbeat>,
    /// Its place in the tree, while it is followed.
    pub lineage: Option<Lineage>,
    /// Why the last session ended, with what to do.
    pub last_error: Option<String>,
    /// Sessions that got past the handshake, since the start.
    pub sessions: u64,
}

impl UpstreamStatus {
    /// Before anything has happened.
    pub fn new() -> Self {
        UpstreamStatus {
            state: UpstreamState::Disconnected,
            address: None,
            node_id: None,
            protocol: None,
            connected_since: None,
            upstream_index: None,
            upstream_heartbeat: None,
            lineage: None,
            last_error: None,
            sessions: 0,
        }
    }

    /// Whether batches come in.
    pub fn is_connected(&self) -> bool {
        self.state == UpstreamState::Following
    }
}

impl Default for UpstreamStatus {
    fn default() -> Self {
        UpstreamStatus::new()
    }
}
