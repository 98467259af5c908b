//! **For tests only**, with the feature `next-format`: format 2, which the tests of version skew
//! take for the next release's.
//!
//! It has one record more than format 1, in `meta`, which a writer keeps up with every commit:
//!
//! ```text
//! key "commits"    0  8  commits since the database is in this format
//! ```
//!
//! Format 1 does not have it; format 2 is declared unreadable for programs that know format 1 only.

use crate::error::FormatError;
use crate::wire::Reader;

/// Commits since the database is in format 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Commits(pub u64);

impl Commits {
    /// Its key in `meta`.
    pub const KEY: &'static [u8] = b"commits";

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.0.to_le_bytes().to_vec()
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new("meta record \"commits\"", bytes);
        let commits = Commits(r.u64()?);
        r.end()?;
        Ok(commits)
    }
}
