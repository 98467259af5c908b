//! The client socket: RESP, the Redis protocol, in a small and bounded subset.
//!
//! ```text
//! bytes --[decode]--> arguments --[command]--> steps + shape --[session]--> the node
//!                                                                            |
//! bytes <--[reply]-- reply <--[answer]-- answers <--[output: in order]-------+
//! ```
//!
//! Any node answers reads, also while it is cut off; only the root accepts writes. A connection
//! is one task (`connection`) and keeps strict order: see `session` for how writes that are
//! not durable yet and the reads behind them are kept apart.

mod answer;
mod budget;
mod command;
mod connection;
pub mod decode;
mod format;
mod info;
mod maintenance;
mod output;
pub mod reply;
mod scan;
mod session;

#[cfg(test)]
pub(in crate::net) mod memory_node;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::budget::Budget;
use self::decode::DecodeLimits;
use self::info::Figures;
use self::scan::Cursors;
use super::leaving::Door;
use super::listen::{Listener, Stream};
use super::node::Node;
use crate::config::Config;

/// A key that is too long must reach its command to be told so.
const MIN_BULK_BYTES: usize = 64 << 10;
/// A request that was begun and not completed for so long closes the connection: nobody holds a
/// place by sending a byte now and then. Idle connections are kept.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(60);
/// A client that takes no byte of its replies for so long is closed.
pub const STALL_DEADLINE: Duration = Duration::from_secs(120);
/// For what all clients together have sent and not completed, queued in MULTI, and not read.
const BUDGET_BYTES: usize = 512 << 20;
/// At least so many of the largest requests fit into the budget.
const BUDGET_REQUESTS: usize = 4;
/// For one line to a client that is turned away.
const REFUSAL_DEADLINE: Duration = Duration::from_millis(100);

/// What clients are held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    /// Longest value: `limits.max_value_bytes`.
    pub max_value_bytes: usize,
    /// Most bytes of one request, and of one reply to MGET: `batch.max_bytes`.
    pub max_request_bytes: usize,
    /// Most connections: `limits.max_clients`.
    pub max_clients: usize,
    /// For a request to arrive, from its first byte to its last: [`REQUEST_DEADLINE`].
    pub request_deadline: Duration,
    /// For a client to take the next bytes of its replies: [`STALL_DEADLINE`].
    pub stall_deadline: Duration,
    /// Most bytes that all connections together hold, beyond a little for each of them: requests
    /// that are not complete, MULTI queues, replies that were not taken. 512 MiB, but at least
    /// four of the largest requests. A connection without a share for
    /// what it sends is told so and closed; a reply without one is replaced by an error.
    pub budget_bytes: usize,
}

impl ClientLimits {
    /// The configured ones.
    pub fn of(config: &Config) -> Self {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let max_request_bytes = size(config.batch.max_bytes);
        ClientLimits {
            max_value_bytes: size(config.limits.max_value_bytes),
            max_request_bytes,
            max_clients: config.limits.max_clients,
            request_deadline: REQUEST_DEADLINE,
            stall_deadline: STALL_DEADLINE,
            budget_bytes: BUDGET_BYTES.max(max_request_bytes.saturating_mul(BUDGET_REQUESTS)),
        }
    }

    fn decode(&self) -> DecodeLimits {
        DecodeLimits {
            max_bulk_bytes: self.max_value_bytes.max(MIN_BULK_BYTES),
            max_request_bytes: self.max_request_bytes,
        }
    }
}

/// What all client connections of a node share.
pub struct Service {
    node: Arc<dyn Node>,
    limits: ClientLimits,
    cursors: Cursors,
    budget: Arc<Budget>,
    clients: Arc<Semaphore>,
    /// How many may still have writes that are not decided.
    unsettled: watch::Sender<usize>,
    last_client_id: AtomicU64,
    began: Instant,
}

/// A connection that may still have writes that are not decided: it has not noticed that the process
/// leaves, or waits for answers.
struct Unsettled(Arc<Service>);

impl Unsettled {
    fn new(service: &Arc<Service>) -> Self {
        service.unsettled.send_modify(|n| *n += 1);
        Unsettled(Arc::clone(service))
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        self.0.unsettled.send_modify(|n| *n -= 1);
    }
}

impl Service {
    /// One for each node, however many listeners it has.
    pub fn new(node: Arc<dyn Node>, limits: ClientLimits) -> Arc<Service> {
        Arc::new(Service {
            node,
            limits,
            cursors: Cursors::new(),
            budget: Budget::new(limits.budget_bytes),
            clients: Arc::new(Semaphore::new(limits.max_clients)),
            unsettled: watch::Sender::new(0),
            last_client_id: AtomicU64::new(0),
            began: Instant::now(),
        })
    }

    /// Returns, after the doors were closed and everybody was asked to leave, when every write that a
    /// client has sent is answered and none can come any more.
    pub async fn settled(&self) {
        // The sender is in here, so it cannot be gone.
        let _ = self.unsettled.subscribe().wait_for(|n| *n == 0).await;
    }

    /// Connections at the moment.
    pub fn connected_clients(&self) -> usize {
        self.limits.max_clients.saturating_sub(self.clients.available_permits())
    }

    fn next_client_id(&self) -> u64 {
        self.last_client_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn figures(&self) -> Figures {
        Figures {
            connected_clients: self.connected_clients(),
            role: self.role(),
            loading: self.node.loading(),
            root_client: self.node.root_client(),
            uptime_seconds: self.began.elapsed().as_secs(),
        }
    }
}

/// Serves clients until the door is to be closed, and returns when the last connection, asked to
/// leave, has its replies to what had arrived. Dropping the future closes them all.
pub async fn serve(listener: Listener, service: Arc<Service>, mut door: Door) {
    let mut connections = JoinSet::new();
    let leaving = door.inside();
    loop {
        let stream = tokio::select! {
            biased;
            () = door.closing() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            stream = listener.accept_patiently() => stream,
        };
        match Arc::clone(&service.clients).try_acquire_owned() {
            Err(_) => refuse(stream).await,
            Ok(permit) => {
                let (unsettled, leaving) = (Unsettled::new(&service), leaving.clone());
                connections.spawn(async move {
                    let peer = stream.peer();
                    connection::run(stream, &peer, unsettled, leaving).await;
                    drop(permit);
                });
            }
        }
    }
    drop(listener);
    drop(door);
    while connections.join_next().await.is_some() {}
}

async fn refuse(mut stream: Stream) {
    tracing::warn!(peer = stream.peer(), "client refused: limits.max_clients is reached");
    // A fresh socket's buffer has room for a line; if not, the client has lost only the reason.
    // The words are those of Redis: clients know them.
    let line = b"-ERR max number of clients reached\r\n";
    let _ = timeout(REFUSAL_DEADLINE, stream.write_all(line)).await;
}
