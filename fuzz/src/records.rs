//! What lies in LMDB and in the log: batch records, entries, control records, cells, meta records.

use std::fmt::Debug;

use bytes::Bytes;
use quicksilver_format::layout::Generation;
use quicksilver_format::meta::{Applied, Format, Identity, LogState};
use quicksilver_format::{
    Batch, BatchBuilder, BatchLimits, Cell, CellCrc, ControlRecord, DbId, Entry, FormatError,
    Heartbeat, RunningHash, chunk,
};
use quicksilver_protocol::BatchFrame;

use crate::input::Input;

const AT_ENTRIES: usize = 16;
const AT_PAYLOAD_BYTES: usize = 20;
const AT_STORED_BYTES: usize = 24;
const AT_CRC: usize = 28;
const AT_HASH_BEFORE: usize = 40;
const AT_HASH_AFTER: usize = 72;
const HEADER_BYTES: usize = 104;

/// Any record.
///
/// One byte: bit 0 says that the record is to be made a batch record that fits its payload, if it
/// can be, without which no change gets past its checksums. The record.
pub fn records(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.byte();
    let mut record = input.rest().to_vec();
    if choice & 1 != 0 {
        repair_batch(&mut record);
    }
    batch(&Bytes::from(record.clone()));
    entry(&record);
    control(&record);
    cell(&record);
    meta(&record);
    if let Ok((index, number)) = chunk::decode_key(&record) {
        assert_eq!(chunk::key(index, number)[..], record);
    }
    if let Some(name) = std::str::from_utf8(&record).ok()
        && let Ok(generation) = name.parse::<Generation>()
    {
        assert_eq!(generation.to_string(), name.trim_end_matches('\n'));
    }
}

fn batch(record: &Bytes) {
    let small = BatchLimits { max_payload_bytes: 1 << 12, max_entries: 64 };
    let within_small = Batch::decode(record.clone(), &small);
    let batch = match Batch::decode(record.clone(), &BatchLimits::HARD) {
        Ok(batch) => batch,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(within_small.is_err(), "lower limits accept more");
            return;
        }
    };
    assert_eq!(batch.record(), record);
    assert_eq!(batch.header().record_bytes(), record.len());
    let fits = batch.payload_bytes() <= small.max_payload_bytes && batch.len() <= small.max_entries;
    assert_eq!(within_small.is_ok(), fits && record.len() - HEADER_BYTES <= 1 << 12);
    assert_eq!(batch.entries().count(), batch.len());
    assert_eq!(batch.entries().last().map(|(index, _)| index), Some(batch.last()));
    assert_eq!(batch.hash_at(batch.last()), Some(batch.after().hash));
    assert_eq!(BatchFrame::from_record(record.clone()).map(|f| *f.header()), Ok(*batch.header()));

    let mut builder = BatchBuilder::new(batch.before());
    batch.entries().for_each(|(index, entry)| assert_eq!(builder.push(entry), index));
    let sealed = builder.seal(batch.header().sealed_at_us).expect("a batch has entries");
    assert_eq!(sealed.after(), batch.after());
    assert_eq!(sealed.payload_bytes(), batch.payload_bytes());
    assert!(sealed.entries().eq(batch.entries()));
    if !sealed.header().compressed && !batch.header().compressed {
        assert_eq!(sealed.record(), record);
    }
}

fn entry(bytes: &[u8]) {
    if let Ok((entry, used)) = Entry::decode_prefix(bytes) {
        assert_eq!(encoded(|out| entry.encode(out)), bytes[..used]);
        assert_eq!(entry.encoded_bytes(), used);
    }
}

fn control(bytes: &[u8]) {
    let Ok(record) = ControlRecord::decode(&Bytes::copy_from_slice(bytes)) else { return };
    assert_eq!(encoded(|out| record.encode(out)), bytes);
    if let Ok(Some(heartbeat)) = Heartbeat::from_record(&record) {
        assert_eq!(heartbeat.to_record(), record);
    }
}

fn cell(bytes: &[u8]) {
    let Ok(cell) = Cell::decode(bytes) else { return };
    assert_eq!(encoded(|out| cell.encode(out)), bytes);
    let crc = CellCrc::new(DbId::from_bytes([7; 16]));
    assert_eq!(crc.of(b"key", cell.write_index, bytes), {
        let mut running = crc.start(b"key", cell.write_index);
        bytes.chunks(5).for_each(|piece| running.update(piece));
        running.finish()
    });
    let _ = cell.digest_term(b"key");
}

fn meta(bytes: &[u8]) {
    if let Ok(format) = Format::decode(bytes) {
        assert_eq!(format.encode(), bytes[..16], "a later format may append");
        for refusal in [format.check_readable(), format.check_writable()] {
            assert!(refusal.err().is_none_or(|error| error.to_string().contains("release")));
        }
    }
    same(Identity::decode(bytes), Identity::encode, bytes);
    same(LogState::decode(bytes), LogState::encode, bytes);
    same(Applied::decode(bytes), Applied::encode, bytes);
}

fn same<T: Debug>(decoded: Result<T, FormatError>, encode: fn(&T) -> Vec<u8>, bytes: &[u8]) {
    if let Ok(decoded) = decoded {
        assert_eq!(encode(&decoded), bytes, "{decoded:?}");
    }
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}

/// Makes lengths, number of entries, hash and CRC of a batch record those of its payload, as far as
/// there is one.
fn repair_batch(record: &mut [u8]) {
    if record.len() < HEADER_BYTES {
        return;
    }
    let (header, stored) = record.split_at_mut(HEADER_BYTES);
    let payload = match header[5] & 1 {
        0 => Some(stored.to_vec()),
        _ => unpack(header, stored),
    };
    put(header, AT_STORED_BYTES, stored.len() as u32);
    let before = <[u8; 32]>::try_from(&header[AT_HASH_BEFORE..AT_HASH_AFTER]);
    if let (Some(payload), Ok(before)) = (payload, before) {
        let (mut rest, mut hash, mut entries) = (&payload[..], RunningHash::from_bytes(before), 0);
        while let Ok((_, used)) = Entry::decode_prefix(rest) {
            hash = hash.chain_bytes(&rest[..used]);
            rest = &rest[used..];
            entries += 1;
        }
        put(header, AT_ENTRIES, entries);
        put(header, AT_PAYLOAD_BYTES, payload.len() as u32);
        header[AT_HASH_AFTER..].copy_from_slice(hash.as_bytes());
    }
    put(record, AT_CRC, 0);
    let crc = crc32fast::hash(record);
    put(record, AT_CRC, crc);
}

/// What a compressed payload holds, when it is not long. Its length is what it claims, in any case.
fn unpack(header: &mut [u8], stored: &[u8]) -> Option<Vec<u8>> {
    let claimed = snap::raw::decompress_len(stored).ok()?;
    put(header, AT_PAYLOAD_BYTES, claimed as u32);
    if claimed > 1 << 16 {
        return None;
    }
    snap::raw::Decoder::new().decompress_vec(stored).ok()
}

fn put(record: &mut [u8], at: usize, number: u32) {
    record[at..at + 4].copy_from_slice(&number.to_le_bytes());
}
