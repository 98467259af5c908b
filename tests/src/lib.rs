//! What the scenarios in `tests/` are made of: real processes, real sockets, one directory.
//!
//! * [`cluster`]: a tree of replicators, root to leaf, in a temporary directory.
//! * [`process`]: one child process and its log file.
//! * [`reader`]: a separate process that reads a node's memory, `qs-test-reader`.
//! * [`resp`], [`http`]: the smallest clients that show every byte.
//! * [`proxy`]: a bad network between two nodes. [`network`]: hosts of their own, and a bad network
//!   between all of them.
//! * [`herd`]: thousands of followers in one process.
//! * [`small_disk`]: a node's data where there is little room.
//! * [`load`]: a writer that remembers what it was promised.
//! * [`machine`]: a machine of its own, with a real systemd.
//! * [`crash`]: what is left of a database whose writer, power or disk went away.
//! * [`witness`]: clients that notice every failure, every stall and every step back.
//!
//! Invariants:
//! * only processes that a test started are ever signalled, by pid, and none outlives its test;
//! * nothing listens outside the test's directory, loopback, or a network of its own;
//! * waiting is always for a condition, with a deadline ([`eventually`]); a failed test leaves its
//!   directory behind and prints every node's state and the end of its log.

pub mod cluster;
pub mod crash;
pub mod herd;
pub mod http;
pub mod load;
pub mod machine;
pub mod network;
pub mod process;
pub mod proxy;
pub mod reader;
pub mod resp;
pub mod small_disk;
pub mod witness;

use std::hash::{DefaultHasher, Hasher};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

pub use cluster::{Cluster, Status};
pub use machine::Machine;
pub use network::Network;
pub use process::{Process, Release};
pub use reader::ReaderProcess;

/// For what takes milliseconds, or seconds where a node has to be started or to give up on another:
/// past it, it will not come any more. A busy machine can stand still for seconds.
pub const SOON: Duration = Duration::from_secs(60);
/// Between two looks at a condition.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(5);
/// Takes the seed of every random test.
const SEED_VARIABLE: &str = "QS_SEED";

/// Looks until `probe` finds something, or `None` when `within` has passed.
pub fn poll<T>(within: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    loop {
        let found = probe();
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        std::thread::sleep(LOOK_AGAIN_AFTER);
    }
}

/// Looks until `probe` finds something.
///
/// # Panics
/// With `what` when `within` has passed.
pub fn eventually<T>(what: &str, within: Duration, probe: impl FnMut() -> Option<T>) -> T {
    match poll(within, probe) {
        Some(found) => found,
        None => panic!("not within {within:?}: {what}"),
    }
}

/// A generator whose seed is printed and can be given in `QS_SEED`.
pub fn seeded_rng() -> StdRng {
    let seed = match std::env::var(SEED_VARIABLE) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{SEED_VARIABLE}={text} is no number")),
        Err(_) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            now.as_nanos() as u64
        }
    };
    println!("{SEED_VARIABLE}={seed}");
    StdRng::seed_from_u64(seed)
}

/// When one process was the writer of a database, by the machine's boot clock in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenure {
    /// Who.
    pub pid: u32,
    /// From.
    pub from_us: u64,
    /// Until; none when it was killed, or is not over.
    pub until_us: Option<u64>,
}

/// The tenures in a log, of the database in whose lock file's path `which` occurs.
///
/// # Panics
/// When two of them overlap, or one ends that did not begin.
pub fn tenures(log: &str, which: &str) -> Vec<Tenure> {
    let field = |line: &str, name: &str| -> Option<u64> {
        let (_, rest) = line.split_once(&format!("{name}="))?;
        rest.split(' ').next()?.parse().ok()
    };
    let mut events: Vec<(u64, u32, bool)> = log
        .lines()
        .filter(|line| line.contains("write role") && line.contains(which))
        .filter_map(|line| {
            let pid = u32::try_from(field(line, "pid")?).ok()?;
            Some((field(line, "boot_us")?, pid, line.contains("write role taken")))
        })
        .collect();
    events.sort_unstable();
    let mut tenures: Vec<Tenure> = Vec::new();
    for (at_us, pid, begins) in events {
        let current = tenures.last_mut();
        if begins {
            // Whoever was killed did not say so.
            tenures.push(Tenure { pid, from_us: at_us, until_us: None });
        } else {
            let current = current.filter(|tenure| tenure.pid == pid && tenure.until_us.is_none());
            let current = current.unwrap_or_else(|| panic!("{pid} was not the writer:\n{log}"));
            current.until_us = Some(at_us);
        }
    }
    tenures
}

/// Bytes that do not compress.
pub fn random_bytes(rng: &mut StdRng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// Length and hash of a value, to compare large ones across processes.
pub fn fingerprint(value: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(value);
    format!("{}:{:016x}", value.len(), hasher.finish())
}

/// Says why a scenario, or a part of it, cannot run on this machine.
pub fn skipped(why: &str) {
    println!("SKIPPED: {why}");
    eprintln!("SKIPPED: {why}");
}
