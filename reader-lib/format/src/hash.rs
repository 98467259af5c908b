//! The running hash: one value that stands for the whole log up to an index.
//!
//! `h(0)` is derived from the database id, `h(i) = BLAKE3(h(i-1) ‖ canonical entry i)`. Two nodes
//! at the same `(DbId, Index)` have the same hash, or one of them is wrong.

use std::fmt;

use crate::entry::Entry;
use crate::error::FormatError;
use crate::ids::{DbId, Index};
use crate::wire::Reader;

/// Names the purpose of `h(0)`, so that no other use of BLAKE3 can yield the same bytes.
const GENESIS_CONTEXT: &str = "quicksilver running hash genesis v1";

/// Hash over all entries up to an index.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RunningHash([u8; RunningHash::BYTES]);

impl RunningHash {
    /// Bytes on disk and on the wire.
    pub const BYTES: usize = 32;

    /// `h(0)` of a database.
    pub fn genesis(db_id: DbId) -> Self {
        RunningHash(blake3::derive_key(GENESIS_CONTEXT, db_id.as_bytes()))
    }

    /// `h(i)` from `h(i-1)` and the canonical bytes of entry `i`.
    #[must_use]
    pub fn chain_bytes(&self, canonical_entry: &[u8]) -> Self {
        // One `update` over one buffer is measurably faster than two for the short entries that
        // configuration data has.
        const STACK_BYTES: usize = 512;
        if canonical_entry.len() <= STACK_BYTES - Self::BYTES {
            let mut buf = [0; STACK_BYTES];
            let end = Self::BYTES + canonical_entry.len();
            buf[..Self::BYTES].copy_from_slice(&self.0);
            buf[Self::BYTES..end].copy_from_slice(canonical_entry);
            return RunningHash(*blake3::hash(&buf[..end]).as_bytes());
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        hasher.update(canonical_entry);
        RunningHash(*hasher.finalize().as_bytes())
    }

    /// `h(i)` from `h(i-1)` and entry `i`.
    #[must_use]
    pub fn chain(&self, entry: Entry<'_>) -> Self {
        let mut canonical = Vec::with_capacity(entry.encoded_bytes());
        entry.encode(&mut canonical);
        self.chain_bytes(&canonical)
    }

    /// From its bytes.
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        RunningHash(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl fmt::Display for RunningHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for RunningHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// A place in a database's log: an index and the hash there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Position {
    /// How far.
    pub index: Index,
    /// Along which past.
    pub hash: RunningHash,
}

impl Position {
    /// Bytes on disk and on the wire.
    pub const BYTES: usize = 8 + RunningHash::BYTES;

    /// The position of an empty log.
    pub fn genesis(db_id: DbId) -> Self {
        Position { index: Index::ZERO, hash: RunningHash::genesis(db_id) }
    }

    /// Appends index and hash.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.index.get().to_le_bytes());
        out.extend_from_slice(self.hash.as_bytes());
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, FormatError> {
        let index = r.u64()?;
        // Every index has a next one; a position that says otherwise is damage, or made up.
        if index == u64::MAX {
            return Err(FormatError::field("position", "index", index, "less than 2^64 - 1"));
        }
        Ok(Position { index: Index::new(index), hash: RunningHash(r.array()?) })
    }

    /// The opposite of [`Position::encode`], for exactly [`Position::BYTES`] bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new("position", bytes);
        let position = Position::read(&mut r)?;
        r.end()?;
        Ok(position)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.index, self.hash)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;

    #[test]
    fn a_position_without_a_next_index_is_refused() {
        let mut bytes = Vec::new();
        let hash = RunningHash::from_bytes([1; 32]);
        Position { index: Index::new(u64::MAX - 1), hash }.encode(&mut bytes);
        assert_eq!(Position::decode(&bytes).unwrap().index.next(), Index::new(u64::MAX));
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(Position::decode(&bytes).is_err());
    }
}
