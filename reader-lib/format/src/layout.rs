//! Names of files, directories and buckets of a database.
//!
//! ```text
//! DIR/CURRENT            name of the live generation
//! DIR/role.lock          flock of the one writer
//! DIR/open.lock          flock around opening and closing an environment
//! DIR/status             the shared status page
//! DIR/gen-000001/        one LMDB environment
//! DIR/snapshots/         snapshot files
//! ```

use std::fmt;
use std::str::FromStr;

use crate::error::FormatError;

/// File that names the live generation.
pub const CURRENT: &str = "CURRENT";
/// File whose flock makes a process the one writer.
pub const ROLE_LOCK: &str = "role.lock";
/// File whose flock serialises opening and closing an environment.
pub const OPEN_LOCK: &str = "open.lock";
/// The shared status page.
pub const STATUS: &str = "status";

/// Directory of snapshot files.
pub const SNAPSHOTS: &str = "snapshots";
/// What the name of a snapshot file ends with.
pub const SNAPSHOT_SUFFIX: &str = ".snapshot";

/// User keys to cells.
pub const BUCKET_DATA: &str = "data";
/// Pieces of long values.
pub const BUCKET_CHUNKS: &str = "chunks";
/// Batch records.
pub const BUCKET_LOG: &str = "log";
/// What the generation says about itself.
pub const BUCKET_META: &str = "meta";

/// Number of a generation; its directory is `gen-` and at least six digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Generation(u64);

impl Generation {
    /// The one a new database begins with.
    pub const FIRST: Generation = Generation(1);

    /// The generation with this number.
    pub const fn new(n: u64) -> Self {
        Generation(n)
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The one that replaces it.
    #[must_use]
    pub const fn next(self) -> Self {
        Generation(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gen-{:06}", self.0)
    }
}

impl FromStr for Generation {
    type Err = FormatError;

    /// Reads a directory name, or the content of `CURRENT` (with its newline).
    fn from_str(s: &str) -> Result<Self, FormatError> {
        let name = s.strip_suffix('\n').unwrap_or(s);
        name.strip_prefix("gen-")
            .and_then(|digits| digits.parse().ok())
            .map(Generation)
            .filter(|generation| generation.0 > 0 && generation.to_string() == name)
            .ok_or_else(|| FormatError::field("CURRENT", "content", format!("{s:?}"), "gen-000001"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;

    #[test]
    fn generation_names_round_trip() {
        for n in [1, 999_999, 1_000_000] {
            let generation = Generation(n);
            assert_eq!(generation.to_string().parse::<Generation>().unwrap(), generation);
        }
        assert_eq!(Generation::FIRST.to_string(), "gen-000001");
        assert_eq!("gen-000002\n".parse::<Generation>().unwrap(), Generation::FIRST.next());
        for bad in ["", "gen-", "gen-1", "gen-000000", "gen-00000x", "../etc", "gen-000001 "] {
            assert!(bad.parse::<Generation>().is_err(), "{bad:?}");
        }
    }
}
