//! What can go wrong in the store, and what it means for whoever asked.

use std::path::PathBuf;

use quicksilver_format::{DbId, Position};
use quicksilver_lmdb::LmdbError;

/// Why the store could not be opened, or did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process is the writer.
    #[error(
        "{path}: another process{holder} holds the role lock of this database; stop it first, or \
         give this one a data_dir of its own",
        path = path.display(),
        holder = holder.map_or_else(String::new, |pid| format!(" (pid {pid})"))
    )]
    RoleLockHeld {
        /// The lock file.
        path: PathBuf,
        /// Its pid, when it is known.
        holder: Option<u32>,
    },
    /// The directory holds another database.
    #[error(
        "{path}: holds database {found}, the configuration says {expected}; correct db_id or \
         data_dir", path = path.display()
    )]
    WrongDatabase {
        /// The data directory.
        path: PathBuf,
        /// What the configuration says.
        expected: DbId,
        /// What is there.
        found: DbId,
    },
    /// A generation is there, with data in it, and nothing says that it is the live one.
    #[error(
        "{path}: holds data up to index {index}, but CURRENT is missing; if this is the live \
         generation, write its name into CURRENT, otherwise move it away", path = path.display()
    )]
    Unnamed {
        /// The generation's directory.
        path: PathBuf,
        /// Where its log ends.
        index: quicksilver_format::Index,
    },
    /// The batch does not follow what is stored. Nothing was written.
    #[error("batch follows {found}, the log ends at {expected}; nothing was written")]
    NotNext {
        /// Where the log ends.
        expected: Position,
        /// What the batch follows.
        found: Position,
    },
    /// No space on the disk, or in the map. Nothing was written; it can be tried again.
    #[error("no space for this commit: {0}; nothing was written")]
    Full(LmdbError),
    /// The storage failed in a way after which the environment must be opened anew.
    #[error("storage failed: {0}; the environment has to be opened anew")]
    Failed(LmdbError),
    /// It is not known which generation is live on disk; all of them are the same.
    #[error("switching the generation failed: {0}; the environment has to be opened anew")]
    Switch(quicksilver::Error),
    /// What is stored is not what was written.
    #[error(transparent)]
    Read(#[from] quicksilver::Error),
    /// A generation could not be made, or is not what it should be. Nothing has changed.
    #[error(transparent)]
    Build(#[from] quicksilver::build::BuildError),
    /// The status page could not be made.
    #[error("{path}: {source}", path = path.display())]
    StatusPage {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: quicksilver::status_page::PageError,
    },
}

impl From<LmdbError> for StoreError {
    fn from(e: LmdbError) -> Self {
        let cause = match &e {
            LmdbError::CommitFailed { source } => source.as_ref(),
            other => other,
        };
        match cause {
            LmdbError::DiskFull(_) | LmdbError::MapFull(_) if !e.needs_reopen() => {
                StoreError::Full(e)
            }
            _ => StoreError::Failed(e),
        }
    }
}

impl StoreError {
    /// Of writing: what LMDB said decides whether the environment may go on.
    pub(super) fn of_write(error: quicksilver::Error) -> Self {
        match error {
            quicksilver::Error::Lmdb(e) => e.into(),
            other => StoreError::Read(other),
        }
    }

    /// Whether the same call can succeed later without anything being opened anew.
    pub fn is_transient(&self) -> bool {
        matches!(self, StoreError::Full(_))
    }
}
