//! The batch record: consecutive entries sealed together, as they are stored and as they travel.
//!
//! ```text
//! offset  size  field
//!      0     4  magic "QSBR"
//!      4     1  version (1)
//!      5     1  flags: bit 0 = the payload is Snappy-compressed (raw format)
//!      6     2  zero
//!      8     8  index of the first entry
//!     16     4  entries n, at least 1
//!     20     4  payload bytes before compression
//!     24     4  payload bytes as stored
//!     28     4  CRC-32 of the whole record, this field taken as zero
//!     32     8  sealed at, microseconds since the Unix epoch, by the root's clock
//!     40    32  running hash before the first entry
//!     72    32  running hash after the last entry
//!    104     …  payload: n canonical entries, one after the other
//! ```
//!
//! A [`Batch`] exists only when its record is whole: the CRC is right, the payload holds exactly
//! the entries the header promises, and hashing them leads from the hash before to the hash
//! after. Whether it *continues a given log* is one comparison, [`Batch::continues`].

use bytes::Bytes;

use crate::entry::Entry;
use crate::error::FormatError;
use crate::hash::{Position, RunningHash};
use crate::ids::Index;
use crate::limits::{BATCH_DEFAULT_MAX_BYTES, BATCH_HARD_MAX_BYTES, BATCH_MAX_ENTRIES};
use crate::wire::Reader;

const WHAT: &str = "batch record";
const MAGIC: [u8; 4] = *b"QSBR";
const VERSION: u8 = 1;
const FLAG_SNAPPY: u8 = 1;

const AT_CRC: usize = 28;
const AT_HASH_BEFORE: usize = 40;
const AT_HASH_AFTER: usize = AT_HASH_BEFORE + RunningHash::BYTES;
/// Bytes before the payload.
pub const HEADER_BYTES: usize = AT_HASH_AFTER + RunningHash::BYTES;
const _: () = assert!(HEADER_BYTES == 104);

/// What one byte of a Snappy stream holds at most, rounded up: a copy of 64 bytes takes three.
const SNAPPY_MAX_RATIO: usize = 22;

/// Smallest canonical entry: a DEL of a one-byte key.
const ENTRY_MIN_BYTES: usize = 4;

/// Longest record with a payload of `payload_bytes`: what Snappy may add to incompressible data
/// never travels, because such a payload is stored as it is.
pub const fn record_max_bytes(payload_bytes: usize) -> usize {
    HEADER_BYTES + payload_bytes
}

/// What a receiver accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Most bytes of canonical entries.
    pub max_payload_bytes: usize,
    /// Most entries.
    pub max_entries: usize,
}

impl BatchLimits {
    /// The hard limits: what a follower accepts, because its root may be configured higher than
    /// it is itself.
    pub const HARD: BatchLimits =
        BatchLimits { max_payload_bytes: BATCH_HARD_MAX_BYTES, max_entries: BATCH_MAX_ENTRIES };
}

impl Default for BatchLimits {
    fn default() -> Self {
        BatchLimits { max_payload_bytes: BATCH_DEFAULT_MAX_BYTES, max_entries: BATCH_MAX_ENTRIES }
    }
}

/// The fixed part of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Index of the first entry.
    pub first: Index,
    /// Number of entries, at least 1.
    pub entries: u32,
    /// Payload bytes before compression.
    pub payload_bytes: u32,
    /// Payload bytes in the record.
    pub stored_bytes: u32,
    /// Whether the payload is compressed.
    pub compressed: bool,
    /// CRC-32 over the record.
    pub crc: u32,
    /// When the root sealed it, microseconds since the Unix epoch.
    pub sealed_at_us: u64,
    /// Running hash before the first entry.
    pub hash_before: RunningHash,
    /// Running hash after the last entry.
    pub hash_after: RunningHash,
}

impl BatchHeader {
    /// Reads and checks the fixed part of a record; the payload may be missing.
    pub fn decode(record: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new(WHAT, record);
        let magic = r.array::<4>()?;
        if magic != MAGIC {
            return Err(FormatError::field(WHAT, "magic", magic.escape_ascii(), "QSBR"));
        }
        let version = r.u8()?;
        if version != VERSION {
            return Err(FormatError::Version {
                what: WHAT,
                found: version.into(),
                oldest: VERSION.into(),
                newest: VERSION.into(),
            });
        }
        let flags = r.u8()?;
        if flags & !FLAG_SNAPPY != 0 {
            return Err(FormatError::field(WHAT, "flags", flags, "0 or 1"));
        }
        let zero = r.u16()?;
        if zero != 0 {
            return Err(FormatError::field(WHAT, "reserved field", zero, 0));
        }
        let header = BatchHeader {
            first: Index::new(r.u64()?),
            entries: r.u32()?,
            payload_bytes: r.u32()?,
            stored_bytes: r.u32()?,
            compressed: flags & FLAG_SNAPPY != 0,
            crc: r.u32()?,
            sealed_at_us: r.u64()?,
            hash_before: RunningHash::from_bytes(r.array()?),
            hash_after: RunningHash::from_bytes(r.array()?),
        };
        if header.first == Index::ZERO {
            return Err(FormatError::field(WHAT, "first index", 0, "1 or more"));
        }
        if header.entries == 0 {
            return Err(FormatError::field(WHAT, "entries", 0, "1 or more"));
        }
        if header.first.get().checked_add(u64::from(header.entries)).is_none() {
            return Err(FormatError::field(WHAT, "last index", "over 2^64", "less"));
        }
        Ok(header)
    }

    /// Index of the last entry.
    pub fn last(&self) -> Index {
        self.first.plus(u64::from(self.entries) - 1)
    }

    /// The position this batch follows.
    pub fn before(&self) -> Position {
        Position { index: self.first.previous(), hash: self.hash_before }
    }

    /// The position this batch leads to.
    pub fn after(&self) -> Position {
        Position { index: self.last(), hash: self.hash_after }
    }

    /// Bytes of the whole record.
    pub fn record_bytes(&self) -> usize {
        HEADER_BYTES + self.stored_bytes as usize
    }

    fn check_limits(&self, limits: &BatchLimits) -> Result<(), FormatError> {
        let over = |field, found: u64, limit: u64| {
            if found > limit {
                Err(FormatError::OverLimit { what: WHAT, field, found, limit })
            } else {
                Ok(())
            }
        };
        let payload_limit = limits.max_payload_bytes as u64;
        over("entries", self.entries.into(), limits.max_entries as u64)?;
        over("payload bytes", self.payload_bytes.into(), payload_limit)?;
        over("stored bytes", self.stored_bytes.into(), payload_limit)?;
        over(
            "entries for its payload",
            self.entries.into(),
            u64::from(self.payload_bytes) / ENTRY_MIN_BYTES as u64,
        )
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        out.push(if self.compressed { FLAG_SNAPPY } else { 0 });
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.first.get().to_le_bytes());
        out.extend_from_slice(&self.entries.to_le_bytes());
        out.extend_from_slice(&self.payload_bytes.to_le_bytes());
        out.extend_from_slice(&self.stored_bytes.to_le_bytes());
        out.extend_from_slice(&self.crc.to_le_bytes());
        out.extend_from_slice(&self.sealed_at_us.to_le_bytes());
        out.extend_from_slice(self.hash_before.as_bytes());
        out.extend_from_slice(self.hash_after.as_bytes());
    }
}

/// CRC-32 over a record with its CRC field taken as zero.
fn record_crc(record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&record[..AT_CRC]);
    hasher.update(&[0; 4]);
    hasher.update(&record[AT_CRC + 4..]);
    hasher.finalize()
}

/// A whole, verified batch: its record, and the entries in it. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Batch {
    header: BatchHeader,
    record: Bytes,
    payload: Bytes,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Batch({}..={}, {:?})", self.first(), self.last(), self.header.hash_after)
    }
}

impl Batch {
    /// Checks everything a record can be checked for by itself, and unpacks it.
    ///
    /// Allocates at most `limits.max_payload_bytes`, and only after the header was checked; and no
    /// more than the record can hold.
    pub fn decode(record: Bytes, limits: &BatchLimits) -> Result<Self, FormatError> {
        let header = BatchHeader::decode(&record)?;
        header.check_limits(limits)?;
        let expected_bytes = header.record_bytes();
        if record.len() < expected_bytes {
            return Err(FormatError::Truncated {
                what: WHAT,
                found_bytes: record.len(),
                expected_bytes,
            });
        }
        if record.len() > expected_bytes {
            let extra_bytes = record.len() - expected_bytes;
            return Err(FormatError::TrailingBytes { what: WHAT, extra_bytes });
        }
        let crc = record_crc(&record);
        if crc != header.crc {
            return Err(FormatError::Checksum {
                what: WHAT,
                found: format!("{:08x}", header.crc),
                expected: format!("{crc:08x}"),
            });
        }
        let payload = unpack(&header, &record)?;
        check_chain(&header, &payload)?;
        Ok(Batch { header, record, payload })
    }

    /// The fixed part.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The record as it is stored and as it travels.
    pub fn record(&self) -> &Bytes {
        &self.record
    }

    /// Index of the first entry.
    pub fn first(&self) -> Index {
        self.header.first
    }

    /// Index of the last entry.
    pub fn last(&self) -> Index {
        self.header.last()
    }

    /// The position this batch follows.
    pub fn before(&self) -> Position {
        self.header.before()
    }

    /// The position this batch leads to.
    pub fn after(&self) -> Position {
        self.header.after()
    }

    /// Whether this batch is the next one for a log that ends at `end`.
    pub fn continues(&self, end: &Position) -> bool {
        self.before() == *end
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.header.entries as usize
    }

    /// Never: a batch has at least one entry.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Bytes of canonical entries.
    pub fn payload_bytes(&self) -> usize {
        self.payload.len()
    }

    /// The entries with their indices, in order.
    pub fn entries(&self) -> Entries<'_> {
        Entries { index: self.header.first, rest: &self.payload }
    }

    /// The hash after the entry at `index`, when that entry is in this batch.
    pub fn hash_at(&self, index: Index) -> Option<RunningHash> {
        if index < self.first() || index > self.last() {
            return None;
        }
        let mut hash = self.header.hash_before;
        for (at, entry) in self.entries() {
            hash = hash.chain(entry);
            if at == index {
                break;
            }
        }
        Some(hash)
    }
}

/// Iterator over the entries of a [`Batch`].
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    index: Index,
    rest: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = (Index, Entry<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        // The payload was walked once when the batch came to be, so an error here is the end.
        let (entry, used) = Entry::decode_prefix(self.rest).ok()?;
        let index = self.index;
        self.index = index.next();
        self.rest = &self.rest[used..];
        Some((index, entry))
    }
}

fn unpack(header: &BatchHeader, record: &Bytes) -> Result<Bytes, FormatError> {
    let stored = record.slice(HEADER_BYTES..);
    let payload_bytes = header.payload_bytes as usize;
    if !header.compressed {
        return if stored.len() == payload_bytes {
            Ok(stored)
        } else {
            Err(FormatError::field(WHAT, "stored bytes", stored.len(), payload_bytes))
        };
    }
    let bad_snappy =
        |e: snap::Error| FormatError::field(WHAT, "Snappy payload", e, "a valid stream");
    let claimed = snap::raw::decompress_len(&stored).map_err(bad_snappy)?;
    if claimed != payload_bytes {
        return Err(FormatError::field(WHAT, "Snappy length", claimed, payload_bytes));
    }
    // A short record that claims a long payload gets no memory for it.
    let most = stored.len().saturating_mul(SNAPPY_MAX_RATIO);
    if claimed > most {
        let wanted = format!("at most {most}");
        return Err(FormatError::field(WHAT, "Snappy length", claimed, wanted));
    }
    let mut payload = vec![0; payload_bytes];
    let written =
        snap::raw::Decoder::new().decompress(&stored, &mut payload).map_err(bad_snappy)?;
    if written != payload_bytes {
        return Err(FormatError::field(WHAT, "Snappy output bytes", written, payload_bytes));
    }
    Ok(payload.into())
}

fn check_chain(header: &BatchHeader, payload: &[u8]) -> Result<(), FormatError> {
    let mut rest = payload;
    let mut hash = header.hash_before;
    for _ in 0..header.entries {
        let (_, used) = Entry::decode_prefix(rest)?;
        hash = hash.chain_bytes(&rest[..used]);
        rest = &rest[used..];
    }
    if !rest.is_empty() {
        return Err(FormatError::TrailingBytes { what: WHAT, extra_bytes: rest.len() });
    }
    if hash != header.hash_after {
        return Err(FormatError::Checksum {
            what: "running hash of a batch record",
            found: header.hash_after.to_string(),
            expected: hash.to_string(),
        });
    }
    Ok(())
}

/// Collects entries and seals them into a [`Batch`]. Only the root does this.
#[derive(Debug)]
pub struct BatchBuilder {
    before: Position,
    hash: RunningHash,
    entries: u32,
    payload: Vec<u8>,
}

impl BatchBuilder {
    /// An empty batch that will follow `before`.
    pub fn new(before: Position) -> Self {
        BatchBuilder { before, hash: before.hash, entries: 0, payload: Vec::new() }
    }

    /// Appends an entry and returns the index it got.
    ///
    /// # Panics
    /// When key or value are over the hard limits (see [`Entry::encode`]).
    pub fn push(&mut self, entry: Entry<'_>) -> Index {
        let start = self.payload.len();
        entry.encode(&mut self.payload);
        self.hash = self.hash.chain_bytes(&self.payload[start..]);
        self.entries += 1;
        self.before.index.plus(self.entries.into())
    }

    /// Index the next entry will get.
    pub fn next_index(&self) -> Index {
        self.before.index.plus(self.entries.into()).next()
    }

    /// Entries so far.
    pub fn len(&self) -> usize {
        self.entries as usize
    }

    /// Whether there is nothing to seal.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Bytes of canonical entries so far.
    pub fn payload_bytes(&self) -> usize {
        self.payload.len()
    }

    /// Compresses and closes the batch; `None` when it is empty, and only then.
    ///
    /// # Panics
    /// With a payload of 4 GiB or more, far beyond [`BATCH_HARD_MAX_BYTES`].
    pub fn seal(self, sealed_at_us: u64) -> Option<Batch> {
        if self.is_empty() {
            return None;
        }
        let as_u32 = |bytes: usize| match u32::try_from(bytes) {
            Ok(bytes) => bytes,
            Err(_) => panic!("a batch of {bytes} bytes"),
        };
        let payload_bytes = as_u32(self.payload.len());
        // Compression that saves nothing is not worth undoing on every node.
        let packed = snap::raw::Encoder::new()
            .compress_vec(&self.payload)
            .ok()
            .filter(|packed| packed.len() < self.payload.len());
        let stored = packed.as_deref().unwrap_or(&self.payload);
        let mut header = BatchHeader {
            first: self.before.index.next(),
            entries: self.entries,
            payload_bytes,
            stored_bytes: as_u32(stored.len()),
            compressed: packed.is_some(),
            crc: 0,
            sealed_at_us,
            hash_before: self.before.hash,
            hash_after: self.hash,
        };
        let mut record = Vec::with_capacity(HEADER_BYTES + stored.len());
        header.encode(&mut record);
        record.extend_from_slice(stored);
        header.crc = record_crc(&record);
        record[AT_CRC..AT_CRC + 4].copy_from_slice(&header.crc.to_le_bytes());
        Some(Batch { header, record: record.into(), payload: self.payload.into() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;
    use crate::ids::DbId;
    use proptest::prelude::*;

    fn db() -> DbId {
        DbId::from_bytes([7; 16])
    }

    fn sample() -> Batch {
        let mut b = BatchBuilder::new(Position::genesis(db()));
        b.push(Entry::set(b"hello", b"world"));
        b.push(Entry::del(b"bye"));
        b.seal(1_700_000_000_000_000).unwrap()
    }

    /// The record that version 1 writes for the two entries above, byte for byte. When this test
    /// fails, the format has changed: give it a new version instead of changing the bytes.
    #[test]
    fn golden_bytes() {
        let hex: String = sample().record().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, include_str!("../golden/batch-v1.hex").trim());
    }

    /// A compressed record that version 1 once wrote. Another Snappy encoder may pack the same
    /// entries differently, but this one must stay readable.
    #[test]
    fn golden_compressed_record_is_readable() {
        let hex = include_str!("../golden/batch-v1-snappy.hex").trim();
        let record: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect();
        let batch = Batch::decode(record.into(), &BatchLimits::default()).unwrap();
        assert!(batch.header().compressed);
        let (index, entry) = batch.entries().next().unwrap();
        assert_eq!((index, entry), (Index::new(1), Entry::set(b"zone", &[b'a'; 200])));
    }

    /// Prints the golden files; run it by hand when a new format version is introduced.
    #[test]
    #[ignore = "prints golden bytes for a new format version"]
    fn print_golden() {
        let hex = |batch: &Batch| -> String {
            batch.record().iter().map(|b| format!("{b:02x}")).collect()
        };
        let mut b = BatchBuilder::new(Position::genesis(db()));
        b.push(Entry::set(b"zone", &[b'a'; 200]));
        println!("{}\n{}", hex(&sample()), hex(&b.seal(1).unwrap()));
    }

    #[test]
    fn the_hash_chain_is_per_entry() {
        let batch = sample();
        let h1 = RunningHash::genesis(db()).chain(Entry::set(b"hello", b"world"));
        let h2 = h1.chain(Entry::del(b"bye"));
        assert_eq!(batch.hash_at(Index::new(1)), Some(h1));
        assert_eq!(batch.hash_at(Index::new(2)), Some(h2));
        assert_eq!(batch.after(), Position { index: Index::new(2), hash: h2 });
        assert_eq!(batch.hash_at(Index::new(3)), None);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let record = sample().record().to_vec();
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let found = Batch::decode(damaged.into(), &BatchLimits::default());
            assert!(found.is_err(), "bit {bit} went unnoticed");
        }
    }

    /// A record can be whole and still claim a past that its entries do not lead to.
    #[test]
    fn a_hash_that_the_entries_do_not_lead_to_is_refused() {
        for at in [AT_HASH_BEFORE, AT_HASH_AFTER] {
            let mut forged = sample().record().to_vec();
            forged[at] ^= 1;
            let crc = record_crc(&forged);
            forged[AT_CRC..AT_CRC + 4].copy_from_slice(&crc.to_le_bytes());
            let error = Batch::decode(forged.into(), &BatchLimits::default()).unwrap_err();
            assert!(error.to_string().contains("running hash"), "{error}");
        }
    }

    #[test]
    fn every_cut_is_found() {
        let record = sample().record().clone();
        for end in 0..record.len() {
            assert!(Batch::decode(record.slice(..end), &BatchLimits::default()).is_err());
        }
        let mut longer = record.to_vec();
        longer.push(0);
        assert!(Batch::decode(longer.into(), &BatchLimits::default()).is_err());
    }

    #[test]
    fn lengths_are_checked_before_they_are_allocated() {
        let mut record = sample().record().to_vec();
        record[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        let err = Batch::decode(record.clone().into(), &BatchLimits::default()).unwrap_err();
        assert!(matches!(err, FormatError::OverLimit { field: "payload bytes", .. }), "{err}");
        record[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        let err = Batch::decode(record.into(), &BatchLimits::default()).unwrap_err();
        assert!(matches!(err, FormatError::OverLimit { field: "entries", .. }), "{err}");
    }

    /// Four bytes that claim to be 200 MiB.
    #[test]
    fn a_compressed_payload_is_no_longer_than_snappy_can_make_it() {
        let claimed = 200_u32 << 20;
        let mut record = sample().record()[..HEADER_BYTES].to_vec();
        record[5] = FLAG_SNAPPY;
        record[20..24].copy_from_slice(&claimed.to_le_bytes());
        record[24..28].copy_from_slice(&4_u32.to_le_bytes());
        record.extend_from_slice(&[0x80, 0x80, 0x80, 0x64]);
        let crc = record_crc(&record);
        record[AT_CRC..AT_CRC + 4].copy_from_slice(&crc.to_le_bytes());
        let error = Batch::decode(record.into(), &BatchLimits::HARD).unwrap_err();
        assert!(error.to_string().contains("Snappy length is 209715200, expected at most 88"));

        // The longest that it can make fits.
        let mut b = BatchBuilder::new(Position::genesis(db()));
        b.push(Entry::set(b"k", &vec![7; 1 << 20]));
        let batch = b.seal(0).unwrap();
        assert!(batch.record().len() < 1 << 16);
        Batch::decode(batch.record().clone(), &BatchLimits::HARD).unwrap();
    }

    #[test]
    fn a_batch_continues_only_its_own_past() {
        let batch = sample();
        assert!(batch.continues(&Position::genesis(db())));
        assert!(!batch.continues(&Position::genesis(DbId::from_bytes([8; 16]))));
        assert!(!batch.continues(&batch.after()));
    }

    type Change = (Vec<u8>, Option<Vec<u8>>);

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let key = prop::collection::vec(any::<u8>(), 1..20);
        let value = prop::option::of(prop::collection::vec(0u8..4, 0..300));
        prop::collection::vec((key, value), 1..50)
    }

    proptest! {
        #[test]
        fn round_trip(changes in changes(), start in 0u64..1000, at in any::<u64>()) {
            let before = Position {
                index: Index::new(start),
                hash: RunningHash::from_bytes([9; 32]),
            };
            let mut builder = BatchBuilder::new(before);
            for (key, value) in &changes {
                builder.push(match value {
                    Some(value) => Entry::set(key, value),
                    None => Entry::del(key),
                });
            }
            let sealed = builder.seal(at).unwrap();
            let decoded = Batch::decode(sealed.record().clone(), &BatchLimits::default()).unwrap();
            prop_assert_eq!(&decoded, &sealed);
            prop_assert_eq!(decoded.before(), before);
            let mut expected = before.index;
            let mut n = 0;
            for ((index, entry), (key, value)) in decoded.entries().zip(&changes) {
                expected = expected.next();
                prop_assert_eq!(index, expected);
                prop_assert_eq!(entry.key, &key[..]);
                prop_assert_eq!(entry.op, value.as_deref().map_or(crate::Op::Del, crate::Op::Set));
                n += 1;
            }
            prop_assert_eq!(n, changes.len());
        }

        #[test]
        fn any_bytes_decode_or_err(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if bytes.len() > 5 {
                bytes[..5].copy_from_slice(b"QSBR\x01");
            }
            let _ = Batch::decode(bytes.into(), &BatchLimits::default());
        }
    }
}
