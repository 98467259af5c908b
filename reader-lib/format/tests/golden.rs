//! Every record of format 1, byte for byte: what lies in LMDB beside the batch records, and what
//! travels beside them. When a test here fails, the format has changed: it gets a new version, the
//! bytes do not get a new expectation. (`replicator/tests/golden.rs` keeps the hash of the file.)
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use bytes::Bytes;
use quicksilver_format::cell::Body;
use quicksilver_format::meta::{Applied, Format, Identity, LogState};
use quicksilver_format::{
    Cell, CellCrc, ControlRecord, DbId, Entry, FormatError, Heartbeat, HistoryId, Index, Position,
    RunningHash, StateDigest, chunk,
};

const GOLDEN: &str = include_str!("../golden/records-v1.txt");

fn db_id() -> DbId {
    DbId::from_bytes([0xdb; 16])
}

fn position() -> Position {
    Position { index: Index::new(5), hash: RunningHash::from_bytes([0xab; 32]) }
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}

fn inline() -> Cell<'static> {
    let crc = CellCrc::new(db_id()).of(b"hello", Index::new(5), b"world");
    Cell { write_index: Index::new(5), crc, body: Body::Inline(b"world") }
}

fn chunked() -> Cell<'static> {
    let crc = CellCrc::new(db_id()).of(b"hello", Index::new(6), &[b'x'; 9000]);
    let body = Body::Chunked { value_bytes: 9000, chunks: 3 };
    Cell { write_index: Index::new(6), crc, body }
}

fn heartbeat() -> Heartbeat {
    Heartbeat { root_clock_us: 1_700_000_000_000_000, after: Index::new(5) }
}

/// A kind that no release knows yet; it is passed on untouched.
fn unknown() -> ControlRecord {
    ControlRecord { kind: 900, version: 3, payload: Bytes::from_static(b"later") }
}

/// The digest of two pairs.
fn digest() -> StateDigest {
    let mut digest = StateDigest::EMPTY;
    digest.add(inline().digest_term(b"hello"));
    digest.add(chunked().digest_term(b"hello"));
    digest
}

/// One of each, with the name it has in the golden file.
fn records() -> Vec<(&'static str, Vec<u8>)> {
    let identity = Identity { db_id: db_id(), history: HistoryId::from_bytes([0x11; 16]) };
    let log = LogState { last: position(), oldest: Index::new(2), sealed_at_us: 3 };
    let applied = Applied { position: position(), digest: digest(), keys: 7, bytes: 8 };
    let (set, del) = (Entry::set(b"hello", b"world"), Entry::del(b"bye"));
    let genesis = RunningHash::genesis(db_id());
    vec![
        ("meta-format", Format::of_version(1, 4096).unwrap().encode()),
        ("meta-identity", identity.encode()),
        ("meta-log", log.encode()),
        ("meta-applied", applied.encode()),
        ("cell-inline", encoded(|out| inline().encode(out))),
        ("cell-chunked", encoded(|out| chunked().encode(out))),
        ("chunk-key", chunk::key(Index::new(6), 2).to_vec()),
        ("entry-set", encoded(|out| set.encode(out))),
        ("entry-del", encoded(|out| del.encode(out))),
        ("hash-genesis", genesis.as_bytes().to_vec()),
        ("hash-after-both", genesis.chain(set).chain(del).as_bytes().to_vec()),
        ("digest", digest().as_u128().to_le_bytes().to_vec()),
        ("control-heartbeat", encoded(|out| heartbeat().to_record().encode(out))),
        ("control-unknown", encoded(|out| unknown().encode(out))),
    ]
}

fn text() -> String {
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
    records().iter().map(|(name, bytes)| format!("{name} {}\n", hex(bytes))).collect()
}

fn golden(name: &str) -> Vec<u8> {
    let line = GOLDEN.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
    let byte = |at| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
    (0..line.len()).step_by(2).map(byte).collect()
}

#[test]
fn every_record_is_written_as_it_was() {
    assert_eq!(text(), GOLDEN);
}

#[test]
fn every_record_is_read_as_it_was() -> Result<(), FormatError> {
    let format = Format::decode(&golden("meta-format"))?;
    assert_eq!((format.version, format.readable_from, format.page_bytes), (1, 1, 4096));
    format.check_readable()?;
    assert_eq!(Identity::decode(&golden("meta-identity"))?.db_id, db_id());
    assert_eq!(LogState::decode(&golden("meta-log"))?.last, position());
    assert_eq!(Applied::decode(&golden("meta-applied"))?.digest, digest());
    assert_eq!(Cell::decode(&golden("cell-inline"))?, inline());
    assert_eq!(Cell::decode(&golden("cell-chunked"))?, chunked());
    assert_eq!(chunk::decode_key(&golden("chunk-key"))?, (Index::new(6), 2));
    assert_eq!(Entry::decode_prefix(&golden("entry-set"))?.0, Entry::set(b"hello", b"world"));
    assert_eq!(Entry::decode_prefix(&golden("entry-del"))?.0, Entry::del(b"bye"));
    let record = ControlRecord::decode(&golden("control-heartbeat").into())?;
    assert_eq!(Heartbeat::from_record(&record)?, Some(heartbeat()));
    assert_eq!(ControlRecord::decode(&golden("control-unknown").into())?, unknown());
    Ok(())
}

/// Prints the golden file; run it by hand when a new format version is introduced.
#[test]
#[ignore = "prints golden bytes for a new format version"]
fn print_golden() {
    print!("{}", text());
}
