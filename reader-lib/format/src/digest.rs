//! The state digest: one value that stands for the whole content, whatever order it came in.
//!
//! It is the sum modulo 2^128 of one term for every live pair. A SET subtracts the term of the
//! cell it replaces and adds its own, a DEL subtracts; neither reads a value, because the term
//! is made of what the cell's header already says.

use std::fmt;

use xxhash_rust::xxh3::xxh3_128;

use crate::ids::Index;
use crate::limits::KEY_MAX_BYTES;

/// Bytes of a term beside the key: write index, value length, CRC.
const FIXED_BYTES: usize = 16;

/// Order-independent hash over all live pairs.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct StateDigest(u128);

impl StateDigest {
    /// Bytes on disk.
    pub const BYTES: usize = 16;
    /// The digest of an empty database.
    pub const EMPTY: StateDigest = StateDigest(0);

    /// The term of one pair: XXH3-128 over write index, value length, CRC and key.
    pub fn term(key: &[u8], write_index: Index, value_bytes: u32, crc: u32) -> StateDigest {
        debug_assert!(key.len() <= KEY_MAX_BYTES);
        // Most keys are short, and clearing half a kilobyte takes longer than hashing one.
        const SHORT_BYTES: usize = 64;
        if key.len() <= SHORT_BYTES {
            Self::term_in(&mut [0; FIXED_BYTES + SHORT_BYTES], key, write_index, value_bytes, crc)
        } else {
            Self::term_in(&mut [0; FIXED_BYTES + KEY_MAX_BYTES], key, write_index, value_bytes, crc)
        }
    }

    #[inline]
    fn term_in(
        buf: &mut [u8],
        key: &[u8],
        write_index: Index,
        value_bytes: u32,
        crc: u32,
    ) -> StateDigest {
        buf[..8].copy_from_slice(&write_index.get().to_le_bytes());
        buf[8..12].copy_from_slice(&value_bytes.to_le_bytes());
        buf[12..16].copy_from_slice(&crc.to_le_bytes());
        buf[FIXED_BYTES..FIXED_BYTES + key.len()].copy_from_slice(key);
        StateDigest(xxh3_128(&buf[..FIXED_BYTES + key.len()]))
    }

    /// Counts a pair in.
    pub fn add(&mut self, term: StateDigest) {
        self.0 = self.0.wrapping_add(term.0);
    }

    /// Counts a pair out.
    pub fn remove(&mut self, term: StateDigest) {
        self.0 = self.0.wrapping_sub(term.0);
    }

    /// From its number.
    pub const fn from_u128(n: u128) -> Self {
        StateDigest(n)
    }

    /// Its number.
    pub const fn as_u128(self) -> u128 {
        self.0
    }
}

impl fmt::Display for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_and_removal_undoes() {
        let a = StateDigest::term(b"a", Index::new(1), 3, 7);
        let b = StateDigest::term(b"b", Index::new(2), 3, 7);
        let (mut ab, mut ba) = (StateDigest::EMPTY, StateDigest::EMPTY);
        ab.add(a);
        ab.add(b);
        ba.add(b);
        ba.add(a);
        assert_eq!(ab, ba);
        ab.remove(a);
        ab.remove(b);
        assert_eq!(ab, StateDigest::EMPTY);
    }

    #[test]
    fn every_part_of_a_pair_counts() {
        let base = StateDigest::term(b"a", Index::new(1), 3, 7);
        assert_ne!(base, StateDigest::term(b"b", Index::new(1), 3, 7));
        assert_ne!(base, StateDigest::term(b"a", Index::new(2), 3, 7));
        assert_ne!(base, StateDigest::term(b"a", Index::new(1), 4, 7));
        assert_ne!(base, StateDigest::term(b"a", Index::new(1), 3, 8));
    }
}
