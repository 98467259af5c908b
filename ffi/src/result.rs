//! The result codes, and which cause becomes which code.
//!
//! Invariant: a number is never reused and never changes its meaning; new ones go to the end.

use std::ffi::CStr;

use reader::Error;
use reader::LmdbError;

/// What a call returns. The numbers are fixed: a code is never reused for something else. Later
/// releases may return codes that are not listed here; treat those as errors.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum qs_result {
    /// Done.
    QS_OK = 0,
    /// There is no such key, or no further pair. Not an error; `qs_last_error` is left as it was.
    QS_NOT_FOUND = 1,
    /// An argument is NULL where it must not be, or is out of its bounds.
    QS_INVALID_ARGUMENT = 2,
    /// The handle was closed.
    QS_CLOSED = 3,
    /// Stored data is damaged. No value was returned; see `qsctl verify`.
    QS_CORRUPT = 4,
    /// There is no database in that directory.
    QS_NO_DATABASE = 5,
    /// The process lacks a permission: readers need read access to the data file and read and
    /// write access to the lock file.
    QS_PERMISSION = 6,
    /// The database is in a format that this library cannot read: upgrade the library.
    QS_FORMAT = 7,
    /// The handle was opened before `fork`; open the database again in the child.
    QS_FORKED = 8,
    /// The operating system refused; `qs_last_error` has its answer.
    QS_IO = 9,
    /// A bug in the library was caught at its boundary. The handle may still be used.
    QS_PANIC = 10,
    /// The directory holds another database than the one that was asked for.
    QS_WRONG_DATABASE = 11,
    /// Another copy of the library in this process has the database open: use one copy.
    QS_ALREADY_OPEN = 12,
    /// All reader slots are taken, or the database stayed locked: try again later.
    QS_BUSY = 13,
    /// There was not enough memory or address space.
    QS_NO_MEMORY = 14,
    /// The database cannot be read in this environment: a read-only mount, a network file system,
    /// a process with the same number in another PID namespace, or an unsuitable LMDB library.
    QS_UNSUPPORTED = 15,
    /// The value is longer than the buffer; how long was stored. Not an error; `qs_last_error` is
    /// left as it was.
    QS_TOO_SMALL = 16,
    /// Nothing came within the time. Not an error; `qs_last_error` is left as it was.
    QS_TIMEOUT = 17,
    /// An older copy of the database was put in its place; the handle has seen newer data. It goes
    /// on when the replicator has caught up, or open the database anew.
    QS_BEHIND = 18,
}

use qs_result::{
    QS_ALREADY_OPEN, QS_BEHIND, QS_BUSY, QS_CLOSED, QS_CORRUPT, QS_FORKED, QS_FORMAT,
    QS_INVALID_ARGUMENT, QS_IO, QS_NO_DATABASE, QS_NO_MEMORY, QS_NOT_FOUND, QS_OK, QS_PANIC,
    QS_PERMISSION, QS_TIMEOUT, QS_TOO_SMALL, QS_UNSUPPORTED, QS_WRONG_DATABASE,
};

impl qs_result {
    /// Every code, in the order of the numbers.
    pub(crate) const ALL: [qs_result; 19] = [
        QS_OK,
        QS_NOT_FOUND,
        QS_INVALID_ARGUMENT,
        QS_CLOSED,
        QS_CORRUPT,
        QS_NO_DATABASE,
        QS_PERMISSION,
        QS_FORMAT,
        QS_FORKED,
        QS_IO,
        QS_PANIC,
        QS_WRONG_DATABASE,
        QS_ALREADY_OPEN,
        QS_BUSY,
        QS_NO_MEMORY,
        QS_UNSUPPORTED,
        QS_TOO_SMALL,
        QS_TIMEOUT,
        QS_BEHIND,
    ];

    /// The code in a few words.
    pub(crate) fn text(self) -> &'static CStr {
        match self {
            QS_OK => c"ok",
            QS_NOT_FOUND => c"no such key",
            QS_INVALID_ARGUMENT => c"invalid argument",
            QS_CLOSED => c"the handle was closed",
            QS_CORRUPT => c"stored data is damaged",
            QS_NO_DATABASE => c"no database in this directory",
            QS_PERMISSION => c"permission denied",
            QS_FORMAT => c"the database's format is not known to this library",
            QS_FORKED => c"the handle was opened before fork",
            QS_IO => c"input/output error",
            QS_PANIC => c"a bug in the library was caught",
            QS_WRONG_DATABASE => c"another database than expected",
            QS_ALREADY_OPEN => c"already open by another copy of the library",
            QS_BUSY => c"busy, try again later",
            QS_NO_MEMORY => c"out of memory",
            QS_UNSUPPORTED => c"not readable in this environment",
            QS_TOO_SMALL => c"the buffer is too small",
            QS_TIMEOUT => c"nothing came within the time",
            QS_BEHIND => c"older than what was seen before",
        }
    }
}

/// Why a call did not succeed: the code, and what `qs_last_error` will say.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) result: qs_result,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(result: qs_result, message: impl Into<String>) -> Self {
        Failure { result, message: message.into() }
    }

    pub(crate) fn null(what: &str) -> Self {
        Failure::new(QS_INVALID_ARGUMENT, format!("{what} is NULL"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let result = match &error {
            Error::NoDatabase { .. } => QS_NO_DATABASE,
            Error::Key(_) => QS_INVALID_ARGUMENT,
            Error::Corrupt { .. } => QS_CORRUPT,
            Error::Format { .. } => QS_FORMAT,
            Error::WrongDatabase { .. } => QS_WRONG_DATABASE,
            Error::Behind { .. } => QS_BEHIND,
            Error::Lmdb(cause) => of_lmdb(cause),
            Error::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::PermissionDenied => QS_PERMISSION,
                std::io::ErrorKind::OutOfMemory => QS_NO_MEMORY,
                _ => QS_IO,
            },
            // The reader's errors may grow; until this match knows a new one, it is an I/O error.
            _ => QS_IO,
        };
        Failure::new(result, error.to_string())
    }
}

fn of_lmdb(cause: &LmdbError) -> qs_result {
    match cause {
        LmdbError::VersionMismatch(_) => QS_FORMAT,
        damage if damage.is_damage() => QS_CORRUPT,
        LmdbError::Permission(_) => QS_PERMISSION,
        LmdbError::NotFound(_) => QS_NO_DATABASE,
        LmdbError::Forked(_) => QS_FORKED,
        LmdbError::AlreadyOpen { .. } | LmdbError::OpenedByAnotherCopy { .. } => QS_ALREADY_OPEN,
        LmdbError::ReadersFull(_) | LmdbError::OpenLockTimeout { .. } => QS_BUSY,
        LmdbError::OutOfMemory(_) => QS_NO_MEMORY,
        LmdbError::ReadOnlyMount { .. }
        | LmdbError::RemoteFilesystem { .. }
        | LmdbError::PidCollision { .. }
        | LmdbError::UnsupportedLibrary { .. } => QS_UNSUPPORTED,
        LmdbError::NulByte { .. } => QS_INVALID_ARGUMENT,
        _ => QS_IO,
    }
}
