//! Pieces of at most one page: how long values and batch records lie in LMDB.
//!
//! A value of more than one overflow page makes LMDB hunt its free list for a contiguous run of
//! pages, which is slow without bound in a fragmented file. So nothing longer than one overflow
//! page holds is ever given to LMDB as one value. Both the `chunks` and the `log` bucket use the
//! key
//!
//! ```text
//! offset  size  field
//!      0     8  index, big-endian: of the write (chunks), or the first of the batch (log)
//!      8     4  chunk number from 0, big-endian
//! ```
//!
//! which only ever grows, so that pieces are appended, read with one seek and removed as a range.

use crate::error::FormatError;
use crate::ids::Index;

/// Bytes of a chunk key.
pub const KEY_BYTES: usize = 12;

/// LMDB's header in front of an overflow page.
const OVERFLOW_PAGE_HEADER_BYTES: usize = 16;

/// The longest value that lies on exactly one overflow page: 4080 bytes with pages of 4096.
pub const fn max_bytes(page_bytes: usize) -> usize {
    page_bytes - OVERFLOW_PAGE_HEADER_BYTES
}

/// The longest user value that is kept inside its cell.
pub const fn inline_max_bytes(page_bytes: usize) -> usize {
    max_bytes(page_bytes) - crate::cell::HEADER_BYTES
}

/// How many chunks `bytes` need.
pub const fn count(bytes: usize, page_bytes: usize) -> usize {
    bytes.div_ceil(max_bytes(page_bytes))
}

/// The key of chunk `number` under `index`.
pub fn key(index: Index, number: u32) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&index.get().to_be_bytes());
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The opposite of [`key`].
pub fn decode_key(bytes: &[u8]) -> Result<(Index, u32), FormatError> {
    let Ok(&[i0, i1, i2, i3, i4, i5, i6, i7, n0, n1, n2, n3]) = <&[u8; KEY_BYTES]>::try_from(bytes)
    else {
        return Err(FormatError::field("chunk key", "length", bytes.len(), KEY_BYTES));
    };
    let index = u64::from_be_bytes([i0, i1, i2, i3, i4, i5, i6, i7]);
    Ok((Index::new(index), u32::from_be_bytes([n0, n1, n2, n3])))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        assert_eq!(key(Index::new(0x0102), 3), [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3]);
        assert_eq!(max_bytes(4096), 4080);
        assert_eq!(inline_max_bytes(4096), 4067);
        assert_eq!(count(4080, 4096), 1);
        assert_eq!(count(4081, 4096), 2);
    }

    proptest! {
        #[test]
        fn keys_round_trip_and_sort_as_numbers(a in any::<(u64, u32)>(), b in any::<(u64, u32)>()) {
            let (ka, kb) = (key(Index::new(a.0), a.1), key(Index::new(b.0), b.1));
            prop_assert_eq!(decode_key(&ka).unwrap(), (Index::new(a.0), a.1));
            prop_assert_eq!(ka.cmp(&kb), a.cmp(&b));
        }
    }
}
