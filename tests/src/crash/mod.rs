//! What is left of a database whose writer, power or disk went away.
//!
//! * [`workload`]: what is written, what it says while it writes, and what must be there afterwards.
//! * [`trace`]: everything that a program did to its files, in order.
//! * [`disk`]: what a power cut may leave of that.
//! * [`check`]: a database is opened as a replicator that starts opens it, and compared.
//! * [`replay`]: thousands of cuts of one trace.
//! * [`steps`]: one system call of a workload goes wrong.
//! * [`power`]: a file system whose power can really be cut.

pub mod check;
pub mod disk;
pub mod power;
pub mod replay;
pub mod steps;
pub mod trace;
pub mod workload;
