//! The one error of this crate: what was wrong with the bytes, and what was expected instead.

/// Bytes that are not what this release can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes end before the structure does.
    #[error("{what}: ends after {found_bytes} bytes, {expected_bytes} are needed")]
    Truncated {
        /// The structure that was being read.
        what: &'static str,
        /// Bytes that were there.
        found_bytes: usize,
        /// Bytes that the structure needs.
        expected_bytes: usize,
    },
    /// The structure ended and there are bytes left.
    #[error("{what}: {extra_bytes} bytes follow its end")]
    TrailingBytes {
        /// The structure that was being read.
        what: &'static str,
        /// Bytes too many.
        extra_bytes: usize,
    },
    /// A checksum or hash differs.
    #[error("{what}: checksum is {found}, expected {expected}; the bytes were damaged")]
    Checksum {
        /// The structure that was being read.
        what: &'static str,
        /// What the bytes claim or hold.
        found: String,
        /// What they should hold.
        expected: String,
    },
    /// A field has a value that is never written.
    #[error("{what}: {field} is {found}, expected {expected}")]
    Field {
        /// The structure that was being read.
        what: &'static str,
        /// Its field.
        field: &'static str,
        /// What stands there.
        found: String,
        /// What may stand there.
        expected: String,
    },
    /// A length is over its limit.
    #[error("{what}: {field} is {found}, the limit is {limit}")]
    OverLimit {
        /// The structure that was being read.
        what: &'static str,
        /// Its field.
        field: &'static str,
        /// The length it claims.
        found: u64,
        /// The most that is accepted.
        limit: u64,
    },
    /// Written by a release with another format.
    #[error(
        "{what}: format version {found}, this release reads {oldest} to {newest}; upgrade this program"
    )]
    Version {
        /// The structure that was being read.
        what: &'static str,
        /// The version it claims.
        found: u32,
        /// The oldest this release reads.
        oldest: u32,
        /// The newest this release reads.
        newest: u32,
    },
    /// A database in a format this release cannot read.
    #[error(
        "database: in format {version}, readable for programs that know {readable_from}; this \
         release reads {oldest} to {newest}; {}", cure_for_reading(*readable_from, *newest)
    )]
    UnreadableDatabase {
        /// The format it is in.
        version: u32,
        /// The oldest format a program must know to read it.
        readable_from: u32,
        /// The oldest this release reads.
        oldest: u32,
        /// The newest this release reads.
        newest: u32,
    },
    /// A database in a format this release cannot write.
    #[error(
        "database: in format {version}; this release writes {oldest} to {newest}; {}",
        cure_for_writing(*version, *newest)
    )]
    UnwritableDatabase {
        /// The format it is in.
        version: u32,
        /// The oldest this release writes.
        oldest: u32,
        /// The newest this release writes.
        newest: u32,
    },
}

fn cure_for_reading(needed: u32, newest: u32) -> &'static str {
    if needed > newest {
        "it was finalised for a newer release: upgrade this program"
    } else {
        "read it with an older release"
    }
}

fn cure_for_writing(version: u32, newest: u32) -> &'static str {
    if version > newest {
        "it was finalised for a newer release: upgrade this one, or restore a copy from \
         before that"
    } else {
        "start the release before this one on it, run `qsctl format finalize` there, and come back"
    }
}

impl FormatError {
    pub(crate) fn field(
        what: &'static str,
        field: &'static str,
        found: impl ToString,
        expected: impl ToString,
    ) -> Self {
        FormatError::Field { what, field, found: found.to_string(), expected: expected.to_string() }
    }
}
