//! The replicator: everything `quicksilverd` and `qsctl` are made of.
//!
//! * [`store`]: the one writer of a database: data, log and their bookkeeping in one LMDB
//!   transaction. No sockets.
//! * [`root`]: what only the root does: deciding a write, sealing a batch, making it final.
//! * [`net`]: listeners, connections, RESP, HTTP, the replication sessions' wiring. No LMDB.
//! * [`daemon`]: the only place that wires them.
//! * [`readers`]: who reads a database, and how long snapshots are held.
//! * [`config`], [`qsctl`]: what an operator types. [`metrics`]: what an operator watches.

pub mod config;
pub mod daemon;
pub mod metrics;
pub mod net;
pub mod qsctl;
pub mod readers;
pub mod root;
pub mod store;
pub mod throttle;
