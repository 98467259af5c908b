//! Sockets: everything that a replicator hears and says.
//!
//! * [`listen`]: addresses, streams, listeners, and the sockets that systemd hands over.
//! * [`node`]: the trait through which this layer serves a node. There is no LMDB here.
//! * [`replication`]: the sessions with upstreams and downstreams.
//! * [`resp`]: the Redis protocol, for clients.
//! * [`http`]: metrics, probes and status, for operators.

pub mod http;
pub mod listen;
pub mod node;
pub mod replication;
pub mod resp;
