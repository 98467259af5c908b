//! What can go wrong for whoever builds a database. What readers meet is [`crate::Error`].

use std::path::PathBuf;

use quicksilver_format::Index;
use quicksilver_format::limits::{BATCH_HARD_MAX_BYTES, BATCH_MAX_ENTRIES, VALUE_HARD_MAX_BYTES};
use quicksilver_lmdb::LmdbError;

use crate::status_page::PageError;

/// Why a database was not built or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// What is to be made is there.
    #[error(
        "{path}: holds {found} already; build into another directory, or move this one away",
        path = path.display()
    )]
    Exists {
        /// Where.
        path: PathBuf,
        /// What was found there.
        found: String,
    },
    /// Another process writes here.
    #[error(
        "{path}: another process{holder} holds the role lock and writes here; build into another \
         directory", path = path.display(), holder = in_brackets(*holder)
    )]
    Busy {
        /// The lock file.
        path: PathBuf,
        /// Its pid, when it is known.
        holder: Option<u32>,
    },
    /// The value has a length that no value has.
    #[error("value of {bytes} bytes: a value has at most {VALUE_HARD_MAX_BYTES} bytes")]
    ValueTooLong {
        /// Bytes it has.
        bytes: usize,
    },
    /// More than one batch may hold.
    #[error(
        "one batch holds at most {BATCH_MAX_ENTRIES} entries, together with the chunks that they \
         free, and {BATCH_HARD_MAX_BYTES} bytes; make several"
    )]
    BatchTooLarge,
    /// The generation would take readers back in time.
    #[error(
        "{path}: ends at index {found}, the live generation at {live}; a generation that replaces \
         another one must not be behind it", path = path.display()
    )]
    Behind {
        /// The generation's directory.
        path: PathBuf,
        /// Where it ends.
        found: Index,
        /// Where the live one ends.
        live: Index,
    },
    /// A copy of a generation is not what that one is. It was thrown away.
    #[error(
        "{path}: the copy ends with {copy}, the generation that it was made of says {original}; the \
         copy was thrown away, and nothing else has changed. Run qsctl verify", path = path.display()
    )]
    Differs {
        /// The copy's directory.
        path: PathBuf,
        /// What the original says.
        original: String,
        /// What the copy came to.
        copy: String,
    },
    /// A snapshot file is not what it should be. Nothing was made of it.
    #[error("{path}: {problem}; the snapshot was not used, take another copy of it", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The log was collected before it could be copied. The copy was thrown away.
    #[error(
        "{path}: the copy needs the log from index {expected} on, which begins at {found} by now; the \
         copy was thrown away, and nothing else has changed. Keep more log ([retention] held_bytes), \
         or copy when less is written", path = path.display()
    )]
    Collected {
        /// The copy's file or directory.
        path: PathBuf,
        /// What it needed.
        expected: Index,
        /// What is the oldest.
        found: Index,
    },
    /// The status page could not be made.
    #[error("{path}: {source}", path = path.display())]
    Page {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: PageError,
    },
    /// What a reader could meet too: a key's length, the files, LMDB.
    #[error(transparent)]
    Reader(#[from] crate::Error),
}

fn in_brackets(holder: Option<u32>) -> String {
    holder.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

impl From<LmdbError> for BuildError {
    fn from(e: LmdbError) -> Self {
        BuildError::Reader(e.into())
    }
}

/// Result of building.
pub type Result<T, E = BuildError> = std::result::Result<T, E>;
