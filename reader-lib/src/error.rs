//! What can go wrong for a reader. A missing key is not among it: that is `None`.

use std::path::PathBuf;

use quicksilver_format::limits::KeyLengthError;
use quicksilver_format::{DbId, FormatError, Index};
use quicksilver_lmdb::LmdbError;

/// Why a read, or opening a database, did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no database in this directory.
    #[error(
        "{path}: no database here ({found}); is this the data_dir of a replicator, and has it \
         started once?", path = path.display()
    )]
    NoDatabase {
        /// The directory.
        path: PathBuf,
        /// What was looked for and not found.
        found: String,
    },
    /// The key has a length that no key has.
    #[error(transparent)]
    Key(#[from] KeyLengthError),
    /// What lies in the database is not what was written. The value is not returned.
    #[error("corrupt: bucket {bucket}, key {key}: {problem}; run `qsctl verify`")]
    Corrupt {
        /// Bucket it lies in.
        bucket: &'static str,
        /// Key it lies under, escaped.
        key: String,
        /// What was expected and what was found.
        problem: String,
    },
    /// The database is in a format this release cannot read.
    #[error("{path}: {source}", path = path.display())]
    Format {
        /// The generation's directory.
        path: PathBuf,
        /// Which format it is in.
        source: FormatError,
    },
    /// The directory holds another database than expected.
    #[error("{path}: holds database {found}, expected {expected}", path = path.display())]
    WrongDatabase {
        /// The directory.
        path: PathBuf,
        /// The database that was expected.
        expected: DbId,
        /// The database that is there.
        found: DbId,
    },
    /// The directory went back to a past that this reader has left: an older copy of the same
    /// history was put there.
    #[error(
        "{path}: is at index {index}, this reader has already seen {seen} of the same history; it \
         goes on when the replicator has caught up, or open the database anew",
        path = path.display()
    )]
    Behind {
        /// The generation's directory.
        path: PathBuf,
        /// Where it is.
        index: Index,
        /// Where the reader was.
        seen: Index,
    },
    /// LMDB, or the system below it, refused.
    #[error(transparent)]
    Lmdb(#[from] LmdbError),
    /// A file of the database could not be read.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn corrupt(bucket: &'static str, key: &[u8], problem: impl ToString) -> Self {
        Error::Corrupt { bucket, key: key.escape_ascii().to_string(), problem: problem.to_string() }
    }

    /// Whether stored data turned out to be damaged.
    pub fn is_corrupt(&self) -> bool {
        match self {
            Error::Corrupt { .. } => true,
            Error::Lmdb(e) => e.is_damage(),
            _ => false,
        }
    }
}

/// Result of a read.
pub type Result<T, E = Error> = std::result::Result<T, E>;
