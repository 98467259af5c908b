//! Who reads a database: the reader table by process, and how long snapshots are held.
//!
//! A reader that holds a snapshot keeps the pages that were freed since from being used again, so
//! the file grows. Nothing here ends it; everything here names it. LMDB's table has a slot for each
//! read transaction, with its process, its thread and the commit it sees; a slot whose transaction
//! has ended stays with its process, idle.
//!
//! * [`processes`]: the slots by process, for `qsctl readers`.
//! * [`watch`]: snapshots over time, for the replicator.

pub mod watch;

use std::collections::BTreeMap;
use std::fs;

use quicksilver_lmdb::ReaderSlot;

/// The slots of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessSlots {
    /// The process, numbered as in its own PID namespace.
    pub pid: u32,
    /// Slots that hold a snapshot at this moment.
    pub in_use: u32,
    /// Slots that it has and does not use at this moment.
    pub idle: u32,
    /// How many commits its oldest snapshot is behind the newest; `None` when it holds none.
    pub lag_commits: Option<u64>,
}

/// The slots by process, those that are behind most first.
pub fn processes(slots: &[ReaderSlot], last_txn_id: u64) -> Vec<ProcessSlots> {
    let mut by_pid: BTreeMap<u32, ProcessSlots> = BTreeMap::new();
    for slot in slots {
        let pid = slot.pid;
        let process = by_pid.entry(pid).or_insert(ProcessSlots {
            pid,
            in_use: 0,
            idle: 0,
            lag_commits: None,
        });
        match slot.txn_id {
            Some(txn_id) => {
                process.in_use += 1;
                // One that began after the newest commit was asked for is not behind it.
                let lag = last_txn_id.saturating_sub(txn_id);
                process.lag_commits = process.lag_commits.max(Some(lag));
            }
            None => process.idle += 1,
        }
    }
    let mut processes: Vec<ProcessSlots> = by_pid.into_values().collect();
    processes.sort_by_key(|process| std::cmp::Reverse(process.lag_commits));
    processes
}

/// The program's name, where this process may see it. A process of another PID namespace has
/// another number here, or none.
pub fn program_of(pid: u32) -> Option<String> {
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    // A program may call itself anything; this goes to terminals and logs.
    let name = String::from_utf8_lossy(&name);
    Some(name.trim_end().chars().map(|c| if c.is_control() { '?' } else { c }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_counted_by_process() {
        let slot = |pid, txn_id| ReaderSlot { pid, thread: 1, txn_id };
        let slots = [
            slot(10, Some(7)),
            slot(20, None),
            slot(10, None),
            slot(30, Some(2)),
            slot(10, Some(9)),
            slot(40, Some(11)),
        ];
        let process =
            |pid, in_use, idle, lag_commits| ProcessSlots { pid, in_use, idle, lag_commits };
        assert_eq!(
            processes(&slots, 10),
            [
                process(30, 1, 0, Some(8)),
                process(10, 2, 1, Some(3)),
                process(40, 1, 0, Some(0)),
                process(20, 0, 1, None),
            ]
        );
    }

    #[test]
    fn a_program_is_named_where_it_can_be_seen() {
        let own = program_of(std::process::id());
        assert!(own.is_some_and(|name| !name.is_empty() && !name.contains('\n')));
        // Larger than any pid.
        assert_eq!(program_of(1 << 30), None);
    }
}
