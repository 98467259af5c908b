//! The status page of format 1, byte for byte. Programs of other releases map the same page: a
//! layout that they would misread gets another layout version, and then they ask LMDB instead.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use quicksilver::status_page::{StatusPage, StatusWriter};
use quicksilver::{DbId, Index, Position, StateDigest};
use quicksilver_format::RunningHash;
use quicksilver_format::layout::Generation;
use quicksilver_format::status::{Commit, END, NodeState, PAGE_BYTES};

const GOLDEN: &str = include_str!("../golden/status-v1.hex");

fn commit() -> Commit {
    Commit {
        position: Position { index: Index::new(5), hash: RunningHash::from_bytes([0xab; 32]) },
        digest: StateDigest::from_u128(0x0102),
        keys: 7,
        time_us: 1_700_000_000_000_001,
    }
}

/// What a replicator publishes from its start to its first commit.
fn page() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("status");
    let writer = StatusWriter::open_or_create(&path, DbId::from_bytes([0xdb; 16])).unwrap();
    writer.set_generation(Generation::new(3));
    writer.set_process(4711, 1_700_000_000_000_000);
    writer.set_state(NodeState::Following);
    writer.publish(&commit());
    writer.set_heartbeat(1_700_000_000_000_002);
    std::fs::read(&path).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

// The page is in the byte order of the machine, which it never leaves.
#[cfg(target_endian = "little")]
#[test]
fn the_page_is_written_as_it_was() {
    let page = page();
    assert_eq!(page.len(), PAGE_BYTES);
    assert_eq!(hex(&page[..END]), GOLDEN.trim());
    assert!(page[END..].iter().all(|byte| *byte == 0), "room for later fields");
}

#[cfg(target_endian = "little")]
#[test]
fn the_page_is_read_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("status");
    let golden = GOLDEN.trim();
    let byte = |at| u8::from_str_radix(&golden[at..at + 2], 16).unwrap();
    let mut bytes: Vec<u8> = (0..golden.len()).step_by(2).map(byte).collect();
    bytes.resize(PAGE_BYTES, 0);
    std::fs::write(&path, bytes).unwrap();
    let page = StatusPage::open(&path).unwrap();
    let view = page.view();
    assert_eq!(
        (page.db_id(), page.generation()),
        (DbId::from_bytes([0xdb; 16]), Generation::new(3))
    );
    assert_eq!(page.commit(), Some(commit()));
    assert_eq!((view.pid, view.state), (4711, Some(NodeState::Following)));
    assert_eq!(view.heartbeat_us, Some(1_700_000_000_000_002));
}

/// Prints the golden file; run it by hand when a new layout version is introduced.
#[test]
#[ignore = "prints golden bytes for a new layout version"]
fn print_golden() {
    println!("{}", hex(&page()[..END]));
}
