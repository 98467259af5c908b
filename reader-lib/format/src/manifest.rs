//! A snapshot file: one database at one index, in blocks, and the manifest that says what is in them.
//!
//! ```text
//! offset  size  field
//!      0     …  blocks, one after the other
//!      …     …  manifest
//!      …     8  bytes of the manifest
//!      …     8  magic "QSSNAPF1"
//! ```
//!
//! A block is LMDB pairs of one bucket of a generation, one after the other, in key order:
//!
//! ```text
//!      0     2  key length k
//!      2     2  value length v
//!      4     k  key
//!    4+k     v  value
//! ```
//!
//! First come the blocks of `data`, then those of `chunks`: what was written up to the index at which
//! the snapshot was begun, as far as it was still there when it was read. Then come those of `log`:
//! the batches after that index, up to the end. Whoever loads the first two and applies the third has
//! the database at the end index, with the digest that the manifest says.
//!
//! The manifest:
//!
//! ```text
//!      0     4  magic "QSSM"
//!      4     4  version of this format (1)
//!      8     4  format of the database that the pairs are from
//!     12     4  page size its chunks were cut for
//!     16    16  database id
//!     32    16  history
//!     48    40  position at which the snapshot was begun: index (8), running hash (32)
//!     88    40  position at its end
//!    128    16  state digest at the end
//!    144     8  live keys at the end
//!    152     8  bytes of live keys and values at the end
//!    160     8  when the last batch was sealed, microseconds since the Unix epoch
//!    168     8  when the snapshot was made, microseconds since the Unix epoch
//!    176    12  blocks of data, of chunks, of log (4 each)
//!    188     …  for each block: its bytes (4), BLAKE3 of them (32)
//!      …    32  BLAKE3 of the manifest up to here: the identity of the snapshot
//! ```

use std::fmt;

use crate::digest::StateDigest;
use crate::error::FormatError;
use crate::hash::Position;
use crate::ids::{DbId, HistoryId};
use crate::limits::KEY_MAX_BYTES;
use crate::meta::{Applied, Identity};
use crate::wire::Reader;

const WHAT: &str = "snapshot manifest";
const MAGIC: [u8; 4] = *b"QSSM";
const VERSION: u32 = 1;
const TRAILER: &str = "snapshot file";
const TRAILER_MAGIC: [u8; 8] = *b"QSSNAPF1";
/// Bytes at the end of a file, from which its manifest is found.
pub const TRAILER_BYTES: usize = 16;
const FIXED_BYTES: usize = 188;
const BLOCK_ENTRY_BYTES: usize = 36;
const HASH_BYTES: usize = 32;

/// A block is at most so long.
pub const BLOCK_MAX_BYTES: usize = 1 << 20;
/// A manifest is at most so long: of a snapshot of a terabyte it has 38 MB.
pub const MANIFEST_MAX_BYTES: usize = 64 << 20;
/// In front of each pair.
const PAIR_HEADER_BYTES: usize = 4;

/// BLAKE3 of a block, or of a manifest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotHash([u8; HASH_BYTES]);

impl SnapshotHash {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        SnapshotHash(*blake3::hash(bytes).as_bytes())
    }

    /// From its bytes.
    pub const fn from_bytes(bytes: [u8; HASH_BYTES]) -> Self {
        SnapshotHash(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; HASH_BYTES] {
        &self.0
    }
}

impl fmt::Display for SnapshotHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for SnapshotHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// One block, as the manifest has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockEntry {
    /// Its bytes.
    pub bytes: u32,
    /// Of them.
    pub hash: SnapshotHash,
}

/// What a block is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Section {
    /// Keys and cells.
    Data,
    /// Pieces of long values.
    Chunks,
    /// Pieces of batch records.
    Log,
}

/// What a snapshot file is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// Format of the database that the pairs are from.
    pub database_format: u32,
    /// Page size its chunks were cut for.
    pub page_bytes: u32,
    /// Which database, and which of its pasts.
    pub identity: Identity,
    /// Where the snapshot was begun: data and chunks are of up to here, the log is of after it.
    pub start: Position,
    /// What it is: position, digest and counts at its end.
    pub end: Applied,
    /// When the last batch was sealed, microseconds since the Unix epoch.
    pub sealed_at_us: u64,
    /// When the snapshot was made, microseconds since the Unix epoch.
    pub created_us: u64,
    /// How many of the blocks are of data, of chunks, of log.
    pub sections: [u32; 3],
    /// The blocks, in the order of the file.
    pub blocks: Vec<BlockEntry>,
}

impl Manifest {
    /// As bytes, its hash included.
    pub fn encode(&self) -> Vec<u8> {
        let bytes = FIXED_BYTES + self.blocks.len() * BLOCK_ENTRY_BYTES + HASH_BYTES;
        let mut out = Vec::with_capacity(bytes);
        out.extend_from_slice(&MAGIC);
        for word in [VERSION, self.database_format, self.page_bytes] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.identity.encode());
        self.start.encode(&mut out);
        out.extend_from_slice(&self.end.encode());
        out.extend_from_slice(&self.sealed_at_us.to_le_bytes());
        out.extend_from_slice(&self.created_us.to_le_bytes());
        for blocks in self.sections {
            out.extend_from_slice(&blocks.to_le_bytes());
        }
        for block in &self.blocks {
            out.extend_from_slice(&block.bytes.to_le_bytes());
            out.extend_from_slice(block.hash.as_bytes());
        }
        let hash = SnapshotHash::of(&out);
        out.extend_from_slice(hash.as_bytes());
        out
    }

    /// From bytes, with its identity.
    ///
    /// # Errors
    /// Damage, another version, or numbers that cannot be.
    pub fn decode(bytes: &[u8]) -> Result<(Self, SnapshotHash), FormatError> {
        let Some((content, stored)) = bytes.split_last_chunk::<HASH_BYTES>() else {
            let (found_bytes, expected_bytes) = (bytes.len(), FIXED_BYTES + HASH_BYTES);
            return Err(FormatError::Truncated { what: WHAT, found_bytes, expected_bytes });
        };
        let mut r = Reader::new(WHAT, content);
        let magic = r.array::<4>()?;
        if magic != MAGIC {
            return Err(FormatError::field(WHAT, "magic", format!("{magic:02x?}"), "QSSM"));
        }
        let version = r.u32()?;
        if version != VERSION {
            let (oldest, newest) = (VERSION, VERSION);
            return Err(FormatError::Version { what: WHAT, found: version, oldest, newest });
        }
        let hash = SnapshotHash::of(content);
        if hash.0 != *stored {
            let (found, expected) = (hash.to_string(), SnapshotHash(*stored).to_string());
            return Err(FormatError::Checksum { what: WHAT, found, expected });
        }
        let (database_format, page_bytes) = (r.u32()?, r.u32()?);
        let identity = Identity {
            db_id: DbId::from_bytes(r.array()?),
            history: HistoryId::from_bytes(r.array()?),
        };
        let start = Position::read(&mut r)?;
        let end = Applied {
            position: Position::read(&mut r)?,
            digest: StateDigest::from_u128(r.u128()?),
            keys: r.u64()?,
            bytes: r.u64()?,
        };
        let (sealed_at_us, created_us) = (r.u64()?, r.u64()?);
        let sections = [r.u32()?, r.u32()?, r.u32()?];
        let count: u64 = sections.iter().map(|n| u64::from(*n)).sum();
        let there = (content.len() - r.position()) / BLOCK_ENTRY_BYTES;
        if count != there as u64 {
            return Err(FormatError::field(WHAT, "number of blocks", count, there));
        }
        let mut blocks = Vec::with_capacity(there);
        for _ in 0..there {
            let (bytes, hash) = (r.u32()?, SnapshotHash(r.array()?));
            if !(1..=BLOCK_MAX_BYTES).contains(&(bytes as usize)) {
                let wanted = format!("1 to {BLOCK_MAX_BYTES}");
                return Err(FormatError::field(WHAT, "bytes of a block", bytes, wanted));
            }
            blocks.push(BlockEntry { bytes, hash });
        }
        r.end()?;
        if end.position.index < start.index {
            let wanted = format!("at least {}", start.index);
            return Err(FormatError::field(WHAT, "end index", end.position.index, wanted));
        }
        let manifest = Manifest {
            database_format,
            page_bytes,
            identity,
            start,
            end,
            sealed_at_us,
            created_us,
            sections,
            blocks,
        };
        Ok((manifest, hash))
    }

    /// Bytes of all blocks.
    pub fn blocks_bytes(&self) -> u64 {
        self.blocks.iter().map(|block| u64::from(block.bytes)).sum()
    }

    /// The blocks with their sections.
    pub fn blocks(&self) -> impl Iterator<Item = (Section, &BlockEntry)> {
        let [data, chunks, _] = self.sections.map(|n| n as usize);
        self.blocks.iter().enumerate().map(move |(n, block)| {
            let section = match n {
                n if n < data => Section::Data,
                n if n < data + chunks => Section::Chunks,
                _ => Section::Log,
            };
            (section, block)
        })
    }
}

/// What a file ends with.
pub fn encode_trailer(manifest_bytes: usize) -> [u8; TRAILER_BYTES] {
    let mut out = [0; TRAILER_BYTES];
    out[..8].copy_from_slice(&(manifest_bytes as u64).to_le_bytes());
    out[8..].copy_from_slice(&TRAILER_MAGIC);
    out
}

/// How long the manifest in front of it is.
///
/// # Errors
/// What no snapshot file ends with: it is none, or its end is missing.
pub fn decode_trailer(bytes: &[u8; TRAILER_BYTES]) -> Result<usize, FormatError> {
    let mut r = Reader::new(TRAILER, bytes);
    let (manifest_bytes, magic) = (r.u64()?, r.array::<8>()?);
    if magic != TRAILER_MAGIC {
        let expected = "QSSNAPF1; this is no snapshot, or its end is missing";
        return Err(FormatError::field(TRAILER, "end", format!("{magic:02x?}"), expected));
    }
    match usize::try_from(manifest_bytes) {
        Ok(bytes) if bytes <= MANIFEST_MAX_BYTES => Ok(bytes),
        _ => Err(FormatError::OverLimit {
            what: TRAILER,
            field: "bytes of the manifest",
            found: manifest_bytes,
            limit: MANIFEST_MAX_BYTES as u64,
        }),
    }
}

/// Bytes that a pair takes in a block.
pub const fn pair_bytes(key: &[u8], value: &[u8]) -> usize {
    PAIR_HEADER_BYTES + key.len() + value.len()
}

/// Appends a pair to a block.
///
/// # Errors
/// Lengths that no pair of a generation has.
pub fn encode_pair(key: &[u8], value: &[u8], out: &mut Vec<u8>) -> Result<(), FormatError> {
    let (Ok(key_bytes), Ok(value_bytes)) = (u16::try_from(key.len()), u16::try_from(value.len()))
    else {
        let found = format!("{} and {}", key.len(), value.len());
        return Err(FormatError::field(BLOCK, "lengths of a pair", found, "at most 65535"));
    };
    out.extend_from_slice(&key_bytes.to_le_bytes());
    out.extend_from_slice(&value_bytes.to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value);
    Ok(())
}

const BLOCK: &str = "snapshot block";

/// A key and its value.
pub type Pair<'a> = (&'a [u8], &'a [u8]);

/// The pairs of a block.
pub struct Pairs<'a>(Reader<'a>);

impl fmt::Debug for Pairs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pairs(at {})", self.0.position())
    }
}

impl<'a> Pairs<'a> {
    /// Of the bytes of a block, whose hash is right.
    pub fn new(block: &'a [u8]) -> Self {
        Pairs(Reader::new(BLOCK, block))
    }

    /// The next pair; `None` at the end.
    ///
    /// # Errors
    /// Bytes that are no pair.
    #[inline]
    pub fn take(&mut self) -> Result<Option<Pair<'a>>, FormatError> {
        if self.0.is_at_end() {
            return Ok(None);
        }
        let (key_bytes, value_bytes) = (self.0.u16()?, self.0.u16()?);
        if key_bytes == 0 || usize::from(key_bytes) > KEY_MAX_BYTES {
            let wanted = format!("1 to {KEY_MAX_BYTES}");
            return Err(FormatError::field(BLOCK, "key length", key_bytes, wanted));
        }
        Ok(Some((self.0.take(key_bytes.into())?, self.0.take(value_bytes.into())?)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;
    use crate::hash::RunningHash;
    use crate::ids::Index;

    fn manifest() -> Manifest {
        let position = |n: u64| Position {
            index: Index::new(n),
            hash: RunningHash::from_bytes([n as u8; 32]),
        };
        Manifest {
            database_format: 1,
            page_bytes: 4096,
            identity: Identity {
                db_id: DbId::from_bytes([1; 16]),
                history: HistoryId::from_bytes([2; 16]),
            },
            start: position(7),
            end: Applied {
                position: position(9),
                digest: StateDigest::from_u128(0x0102),
                keys: 3,
                bytes: 40,
            },
            sealed_at_us: 5,
            created_us: 6,
            sections: [1, 0, 1],
            blocks: vec![
                BlockEntry { bytes: 10, hash: SnapshotHash::of(b"data") },
                BlockEntry { bytes: 20, hash: SnapshotHash::of(b"log") },
            ],
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = manifest().encode();
        assert_eq!(bytes.len(), 188 + 2 * 36 + 32);
        assert_eq!(&bytes[..16], b"QSSM\x01\0\0\0\x01\0\0\0\0\x10\0\0");
        assert_eq!((&bytes[16..32], &bytes[32..48]), (&[1; 16][..], &[2; 16][..]));
        assert_eq!((bytes[48], bytes[56], bytes[88], bytes[96]), (7, 7, 9, 9));
        assert_eq!(&bytes[128..130], &[2, 1]);
        assert_eq!([bytes[144], bytes[152], bytes[160], bytes[168]], [3, 40, 5, 6]);
        assert_eq!(&bytes[176..188], &[1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(&bytes[188..192], &[10, 0, 0, 0]);
        let (decoded, identity) = Manifest::decode(&bytes).unwrap();
        assert_eq!(decoded, manifest());
        assert_eq!(identity.as_bytes(), &bytes[bytes.len() - 32..]);
        assert_eq!(decoded.blocks_bytes(), 30);
        let sections: Vec<_> = decoded.blocks().map(|(section, _)| section).collect();
        assert_eq!(sections, [Section::Data, Section::Log]);
        assert_eq!(&encode_trailer(300)[..], b"\x2c\x01\0\0\0\0\0\0QSSNAPF1");
        assert_eq!(decode_trailer(&encode_trailer(300)).unwrap(), 300);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let bytes = manifest().encode();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(Manifest::decode(&flipped).is_err(), "at {at}");
            assert!(Manifest::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        let trailer = encode_trailer(MANIFEST_MAX_BYTES + 1);
        assert!(decode_trailer(&trailer).unwrap_err().to_string().contains("limit"));
        assert!(decode_trailer(&[0; 16]).is_err());
    }

    #[test]
    fn pairs_round_trip_and_stop_at_nonsense() {
        let mut block = Vec::new();
        encode_pair(b"k", b"", &mut block).unwrap();
        encode_pair(b"key", &[7; 4080], &mut block).unwrap();
        assert_eq!(block.len(), pair_bytes(b"k", b"") + pair_bytes(b"key", &[7; 4080]));
        let mut pairs = Pairs::new(&block);
        assert_eq!(pairs.take().unwrap().unwrap(), (&b"k"[..], &b""[..]));
        assert_eq!(pairs.take().unwrap().unwrap(), (&b"key"[..], &[7; 4080][..]));
        assert_eq!(pairs.take().unwrap(), None);
        assert!(Pairs::new(&block[..3]).take().is_err());
        assert!(Pairs::new(&[0, 0, 1, 0, 9]).take().is_err());
        assert!(encode_pair(b"k", &[0; 70_000], &mut block).is_err());
    }
}
