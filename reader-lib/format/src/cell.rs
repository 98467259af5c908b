//! The cell: what LMDB holds under a user's key.
//!
//! ```text
//! offset  size  field
//!      0     1  version (1) in the low four bits; bit 4 = the value is in chunks
//!      1     8  write index: the index of the SET that wrote it
//!      9     4  CRC-32
//!     13     …  the value
//!   or
//!     13     4  value length                      (chunked)
//!     17     4  number of chunks                  (chunked)
//! ```
//!
//! The CRC covers the database id, the write index, the key and the whole value, so that a cell
//! of another database, of another key or of an earlier write does not pass for this one.

use crate::digest::StateDigest;
use crate::error::FormatError;
use crate::ids::{DbId, Index};
use crate::limits::VALUE_HARD_MAX_BYTES;
use crate::wire::Reader;

const WHAT: &str = "cell";
const VERSION: u8 = 1;
const VERSION_MASK: u8 = 0x0f;
const FLAG_CHUNKED: u8 = 0x10;

/// Bytes before an inline value.
pub const HEADER_BYTES: usize = 13;
/// Bytes of the cell of a chunked value.
pub const CHUNKED_CELL_BYTES: usize = HEADER_BYTES + 8;

/// Where a cell's value is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body<'a> {
    /// In the cell itself.
    Inline(&'a [u8]),
    /// In the `chunks` bucket, under the cell's write index.
    Chunked {
        /// Length of the whole value.
        value_bytes: u32,
        /// Number of chunks it is cut into.
        chunks: u32,
    },
}

/// A decoded cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cell<'a> {
    /// Index of the SET that wrote it.
    pub write_index: Index,
    /// CRC-32 over database id, write index, key and value.
    pub crc: u32,
    /// The value, or where it is.
    pub body: Body<'a>,
}

impl<'a> Cell<'a> {
    /// Reads a cell; the CRC is for [`CellCrc`] to check.
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(FormatError::Truncated {
                what: WHAT,
                found_bytes: bytes.len(),
                expected_bytes: HEADER_BYTES,
            });
        };
        let [tag, i0, i1, i2, i3, i4, i5, i6, i7, c0, c1, c2, c3] = *header;
        let write_index = Index::new(u64::from_le_bytes([i0, i1, i2, i3, i4, i5, i6, i7]));
        let crc = u32::from_le_bytes([c0, c1, c2, c3]);
        match tag {
            VERSION => Ok(Cell { write_index, crc, body: Body::Inline(rest) }),
            tag if tag == VERSION | FLAG_CHUNKED => {
                Ok(Cell { write_index, crc, body: decode_chunked(rest)? })
            }
            other => Err(unknown_tag(other)),
        }
    }

    /// Length of the value.
    pub fn value_bytes(&self) -> u32 {
        match self.body {
            // An inline value fits in a page.
            Body::Inline(value) => u32::try_from(value.len()).unwrap_or(u32::MAX),
            Body::Chunked { value_bytes, .. } => value_bytes,
        }
    }

    /// How many chunks the value has.
    pub fn chunks(&self) -> u32 {
        match self.body {
            Body::Inline(_) => 0,
            Body::Chunked { chunks, .. } => chunks,
        }
    }

    /// What this cell adds to the state digest.
    pub fn digest_term(&self, key: &[u8]) -> StateDigest {
        StateDigest::term(key, self.write_index, self.value_bytes(), self.crc)
    }

    /// Appends the cell.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flag = match self.body {
            Body::Inline(_) => 0,
            Body::Chunked { .. } => FLAG_CHUNKED,
        };
        out.push(VERSION | flag);
        out.extend_from_slice(&self.write_index.get().to_le_bytes());
        out.extend_from_slice(&self.crc.to_le_bytes());
        match self.body {
            Body::Inline(value) => out.extend_from_slice(value),
            Body::Chunked { value_bytes, chunks } => {
                out.extend_from_slice(&value_bytes.to_le_bytes());
                out.extend_from_slice(&chunks.to_le_bytes());
            }
        }
    }
}

#[cold]
fn unknown_tag(tag: u8) -> FormatError {
    let version = tag & VERSION_MASK;
    if version != VERSION {
        return FormatError::Version {
            what: WHAT,
            found: version.into(),
            oldest: VERSION.into(),
            newest: VERSION.into(),
        };
    }
    FormatError::field(WHAT, "flags", format!("{tag:#04x}"), "0x01 or 0x11")
}

fn decode_chunked(rest: &[u8]) -> Result<Body<'static>, FormatError> {
    let mut r = Reader::new(WHAT, rest);
    let value_bytes = r.u32()?;
    let chunks = r.u32()?;
    r.end()?;
    if value_bytes as usize > VALUE_HARD_MAX_BYTES {
        return Err(FormatError::OverLimit {
            what: WHAT,
            field: "value length",
            found: value_bytes.into(),
            limit: VALUE_HARD_MAX_BYTES as u64,
        });
    }
    if chunks == 0 || chunks > value_bytes {
        return Err(FormatError::field(WHAT, "chunks", chunks, format!("1 to {value_bytes}")));
    }
    Ok(Body::Chunked { value_bytes, chunks })
}

/// Computes the CRCs of one database's cells.
#[derive(Clone, Copy, Debug)]
pub struct CellCrc {
    /// CRC state after the database id: the same for every cell, so computed once.
    seed: u32,
}

impl CellCrc {
    /// For this database.
    pub fn new(db_id: DbId) -> Self {
        CellCrc { seed: crc32fast::hash(db_id.as_bytes()) }
    }

    /// The CRC of a value that is in one piece.
    #[inline]
    pub fn of(&self, key: &[u8], write_index: Index, value: &[u8]) -> u32 {
        let mut running = self.start(key, write_index);
        running.update(value);
        running.finish()
    }

    /// Begins the CRC of a value that comes in pieces.
    #[inline]
    pub fn start(&self, key: &[u8], write_index: Index) -> RunningCrc {
        // Key length and index go in front of the key, so no two (key, value) pairs run together.
        // Two small updates: a buffer for the longest key would cost more to clear than to hash.
        let key_bytes = key.len();
        let [i0, i1, i2, i3, i4, i5, i6, i7] = write_index.get().to_le_bytes();
        let [k0, k1] = [(key_bytes & 0xff) as u8, (key_bytes >> 8) as u8];
        let mut hasher = crc32fast::Hasher::new_with_initial(self.seed);
        hasher.update(&[i0, i1, i2, i3, i4, i5, i6, i7, k0, k1]);
        hasher.update(key);
        RunningCrc(hasher)
    }
}

/// A CRC over a value that comes in pieces.
#[derive(Clone, Debug)]
pub struct RunningCrc(crc32fast::Hasher);

impl RunningCrc {
    /// Takes in the next piece of the value.
    #[inline]
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The CRC.
    #[inline]
    pub fn finish(self) -> u32 {
        self.0.finalize()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;
    use proptest::prelude::*;

    fn crc() -> CellCrc {
        CellCrc::new(DbId::from_bytes([7; 16]))
    }

    #[test]
    fn golden_bytes() {
        let value = b"world";
        let write_index = Index::new(23);
        let inline = Cell {
            write_index,
            crc: crc().of(b"hello", write_index, value),
            body: Body::Inline(value),
        };
        let mut out = Vec::new();
        inline.encode(&mut out);
        assert_eq!(out, b"\x01\x17\0\0\0\0\0\0\0\x9c\x86\xeb\x95world");

        let chunked =
            Cell { body: Body::Chunked { value_bytes: 9000, chunks: 3 }, crc: 1, ..inline };
        assert_eq!((inline.chunks(), chunked.chunks()), (0, 3));
        out.clear();
        chunked.encode(&mut out);
        assert_eq!(out, b"\x11\x17\0\0\0\0\0\0\0\x01\0\0\0\x28\x23\0\0\x03\0\0\0");
        assert_eq!(out.len(), CHUNKED_CELL_BYTES);
    }

    #[test]
    fn the_crc_covers_database_key_index_and_value() {
        let base = crc().of(b"key", Index::new(1), b"value");
        let other_db = CellCrc::new(DbId::from_bytes([8; 16]));
        assert_ne!(base, other_db.of(b"key", Index::new(1), b"value"));
        assert_ne!(base, crc().of(b"kez", Index::new(1), b"value"));
        assert_ne!(base, crc().of(b"key", Index::new(2), b"value"));
        assert_ne!(base, crc().of(b"key", Index::new(1), b"valuf"));
        assert_ne!(crc().of(b"ab", Index::new(1), b"c"), crc().of(b"a", Index::new(1), b"bc"));
    }

    #[test]
    fn what_is_never_written_is_refused() {
        let ok = b"\x11\x17\0\0\0\0\0\0\0\x01\0\0\0\x28\x23\0\0\x03\0\0\0";
        assert!(Cell::decode(ok).is_ok());
        assert!(matches!(Cell::decode(&ok[..12]), Err(FormatError::Truncated { .. })));
        assert!(matches!(Cell::decode(&ok[..20]), Err(FormatError::Truncated { .. })));
        for (at, byte) in [(0, 0x02), (0, 0x21), (17, 0x00), (16, 0xff)] {
            let mut bad = *ok;
            bad[at] = byte;
            assert!(Cell::decode(&bad).is_err(), "byte {at} = {byte:#x}");
        }
        let mut longer = ok.to_vec();
        longer.push(0);
        assert!(matches!(Cell::decode(&longer), Err(FormatError::TrailingBytes { .. })));
    }

    proptest! {
        #[test]
        fn round_trip(
            write_index in any::<u64>(),
            crc in any::<u32>(),
            value in prop::collection::vec(any::<u8>(), 0..300),
            chunked in prop::option::of((1u32..=256 << 20, 1u32..1000)),
        ) {
            let body = match chunked {
                Some((value_bytes, chunks)) => {
                    Body::Chunked { value_bytes, chunks: chunks.min(value_bytes) }
                }
                None => Body::Inline(&value),
            };
            let cell = Cell { write_index: Index::new(write_index), crc, body };
            let mut out = Vec::new();
            cell.encode(&mut out);
            prop_assert_eq!(Cell::decode(&out).unwrap(), cell);
        }

        #[test]
        fn pieces_and_whole_agree(
            value in prop::collection::vec(any::<u8>(), 0..3000),
            cut in any::<prop::sample::Index>(),
        ) {
            let cut = cut.index(value.len() + 1);
            let mut running = crc().start(b"k", Index::new(5));
            running.update(&value[..cut]);
            running.update(&value[cut..]);
            prop_assert_eq!(running.finish(), crc().of(b"k", Index::new(5), &value));
        }

        #[test]
        fn any_bytes_decode_or_err(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Cell::decode(&bytes);
        }
    }
}
