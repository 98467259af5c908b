//! Sockets: everything that a replicator hears and says.
//!
//! * [`listen`]: addresses, streams, listeners, and the sockets that systemd hands over.
//! * [`leaving`]: the way out of the process.
//! * [`node`]: the trait through which this layer serves a node. There is no LMDB here.
//! * [`replication`]: the sessions with upstreams and downstreams.
//! * [`resp`]: the Redis protocol, for clients.
//! * [`http`]: metrics, probes and status, for operators.

pub mod http;
pub mod leaving;
pub mod listen;
pub mod node;
pub mod replication;
pub mod resp;

/// Work on at least so many bytes is [`heavy`].
const HEAVY_BYTES: usize = 256 << 10;

/// Runs work in proportion to `bytes` without holding up the other tasks of this thread.
fn heavy<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let flavor = tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor());
    match flavor {
        Ok(tokio::runtime::RuntimeFlavor::MultiThread) if bytes >= HEAVY_BYTES => {
            tokio::task::block_in_place(work)
        }
        _ => work(),
    }
}
