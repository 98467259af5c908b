//! Everything that can go wrong, one variant per cause.
//!
//! Each message says what failed, where, what was expected and what to do. Invariant: an LMDB or
//! OS code becomes a variant in exactly one place, [`LmdbError::from_code`].

use std::ffi::c_int;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use nix::libc;

use crate::sys;

/// What was being done, and in which environment directory or file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place(Box<(&'static str, PathBuf)>);

impl Place {
    pub(crate) fn new(doing: &'static str, path: &Path) -> Self {
        Self(Box::new((doing, path.to_path_buf())))
    }

    /// The operation, as in "putting a key".
    #[must_use]
    pub fn doing(&self) -> &'static str {
        self.0.0
    }

    /// The environment directory or the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.1
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "while {} in {}", self.doing(), self.path().display())
    }
}

/// An error from LMDB, from the operating system below it, or from the rules of this crate.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LmdbError {
    // --- LMDB's own codes -----------------------------------------------------------------
    /// `MDB_KEYEXIST`: the key is already there.
    #[error("key already exists {0}: a new key was expected")]
    KeyExists(Place),
    /// `MDB_NOTFOUND` where something had to be found. A missing key is `None`, never this.
    #[error("no such item {0}: it was expected to exist; re-read the position and try again")]
    Missing(Place),
    /// `MDB_PAGE_NOTFOUND`: a page number points outside the file.
    #[error("page not found {0}: the data file is damaged; rebuild it from a healthy copy")]
    PageNotFound(Place),
    /// `MDB_CORRUPTED`: a page is of the wrong type.
    #[error("corrupted page {0}: the data file is damaged; rebuild it from a healthy copy")]
    Corrupted(Place),
    /// `MDB_PANIC`: an earlier failure left the environment unusable.
    #[error("environment had a fatal error {0}: close and reopen it")]
    Panic(Place),
    /// `MDB_VERSION_MISMATCH`: data or lock file of another LMDB format.
    #[error("file format differs {0}: files of LMDB 0.9 were expected; use one LMDB line for all")]
    VersionMismatch(Place),
    /// `MDB_INVALID`: not an LMDB file.
    #[error("not an LMDB file {0}: data.mdb is damaged or something else; rebuild it")]
    Invalid(Place),
    /// `MDB_MAP_FULL`: the data does not fit in the map.
    #[error("map is full {0}: abort the transaction, then free space or use a larger map")]
    MapFull(Place),
    /// `MDB_DBS_FULL`: more buckets than the environment was opened for.
    #[error("too many buckets {0}: raise EnvOptions::max_buckets")]
    BucketsFull(Place),
    /// `MDB_READERS_FULL`: every reader slot is taken, also after a check for dead readers.
    #[error("no free reader slot {0}: raise max_readers at every opener, or end some readers")]
    ReadersFull(Place),
    /// `MDB_TLS_FULL`: Windows only.
    #[error("no free thread-local key {0}: not expected on this platform")]
    TlsFull(Place),
    /// `MDB_TXN_FULL`: too many dirty pages in one transaction.
    #[error("transaction is too large {0}: abort it and write in smaller ones")]
    TransactionFull(Place),
    /// `MDB_CURSOR_FULL`: cursor stack too deep.
    #[error("cursor stack overflow {0}: the tree is damaged; rebuild it from a healthy copy")]
    CursorFull(Place),
    /// `MDB_PAGE_FULL`: no room in a page where there had to be.
    #[error("page has no room {0}: the tree is damaged; rebuild it from a healthy copy")]
    PageFull(Place),
    /// `MDB_MAP_RESIZED`: another process made the file larger than our map.
    #[error("data outgrew the map {0}: open with the same map size as the writer")]
    MapResized(Place),
    /// `MDB_INCOMPATIBLE`: the bucket is of another kind.
    #[error("incompatible bucket {0}: a plain bucket without duplicates was expected")]
    Incompatible(Place),
    /// `MDB_BAD_RSLOT`: the reader slot was taken by somebody else.
    #[error("reader slot was lost {0}: begin a new read transaction")]
    BadReaderSlot(Place),
    /// `MDB_BAD_TXN`: an earlier operation failed; only abort is left.
    #[error("transaction failed earlier {0}: abort it and begin again")]
    BadTransaction(Place),
    /// `MDB_BAD_VALSIZE`: key or value of an impossible size.
    #[error("bad key or value size {0}: keys are 1 to 511 bytes")]
    BadValueSize(Place),
    /// `MDB_BAD_DBI`: the bucket handle changed under the transaction.
    #[error("bucket handle changed {0}: begin a new transaction")]
    BadBucket(Place),
    /// `MDB_PROBLEM`: LMDB found itself in a state it does not know.
    #[error("unexpected state inside LMDB {0}: abort the transaction")]
    Problem(Place),

    // --- the operating system's codes -----------------------------------------------------
    /// `ENOSPC` or `EDQUOT`.
    #[error("disk is full {0}: free space, then try again")]
    DiskFull(Place),
    /// `EIO`: the medium failed.
    #[error("input/output error {0}: check the disk; reads may be served from memory meanwhile")]
    Io(Place),
    /// `EACCES` or `EPERM`.
    #[error(
        "permission denied {0}: readers need read access to data.mdb, read and write to lock.mdb"
    )]
    Permission(Place),
    /// `ENOENT`: there is no environment.
    #[error("not found {0}: an LMDB environment was expected; re-read which generation is live")]
    NotFound(Place),
    /// `ENOMEM`: no memory, or no address space for the map.
    #[error("out of memory or address space {0}: lower the map size or raise the limit")]
    OutOfMemory(Place),
    /// Any other errno, or an LMDB code newer than this crate.
    #[error("{} (code {code}) {place}", io::Error::from_raw_os_error(*code))]
    Os {
        /// The errno or LMDB code.
        code: i32,
        /// Where.
        place: Place,
    },

    // --- the rules of this crate ----------------------------------------------------------
    /// The linked library is not LMDB 0.9.21 or a later 0.9.
    #[error("LMDB {}.{}.{} is linked: 0.9.21 or a later 0.9 was expected; install liblmdb 0.9.24 or newer",
        found.0, found.1, found.2)]
    UnsupportedLibrary {
        /// What `mdb_version` said.
        found: (i32, i32, i32),
    },
    /// This process already has the environment open, and cannot open it for writing as well.
    #[error("{} is already open in this process, and cannot be opened for writing once more", path.display())]
    AlreadyOpen {
        /// The directory under which it was opened first.
        path: PathBuf,
    },
    /// Something else in this process has the environment's lock file open: another copy of this
    /// library, or code that opened them by hand. Closing either would drop the file locks.
    #[error("{} is open in this process by another copy of the library: use one copy, and never open \
        lock.mdb by hand", path.display())]
    OpenedByAnotherCopy {
        /// The environment directory.
        path: PathBuf,
    },
    /// The handle was made before a `fork`.
    #[error("handle was opened before fork {0}: open the environment again in the child")]
    Forked(Place),
    /// The environment is on a read-only mount, where LMDB would silently drop the reader table.
    #[error("{} is on a read-only mount: readers must be able to write lock.mdb; mount it read-write \
        or use the Unix socket", path.display())]
    ReadOnlyMount {
        /// The environment directory.
        path: PathBuf,
    },
    /// The environment is on a network file system, where other machines' writes cannot be seen.
    #[error("{} is on {kind}: an environment is shared memory and needs a local file system; run a \
        replicator on this machine", path.display())]
    RemoteFilesystem {
        /// The environment directory.
        path: PathBuf,
        /// The file system's name.
        kind: &'static str,
    },
    /// Another process in another PID namespace has our pid number.
    #[error("another process with pid number {pid} reads {}: share the host PID namespace, or use the \
        Unix socket", path.display())]
    PidCollision {
        /// Our pid, as we see it.
        pid: u32,
        /// The environment directory.
        path: PathBuf,
    },
    /// The open lock could not be had in time: a process was stopped while it opened or closed.
    #[error("{} stayed locked for {waited_ms} ms: another process is opening or closing the \
        environment; look for a stopped one", path.display())]
    OpenLockTimeout {
        /// The lock file.
        path: PathBuf,
        /// How long we waited.
        waited_ms: u64,
    },
    /// A path or bucket name with a NUL byte.
    #[error("{what} contains a NUL byte: C strings cannot; use another name")]
    NulByte {
        /// What contained it.
        what: &'static str,
    },
    /// A key for `put_append` that is not greater than the bucket's last.
    #[error("append out of order {0}: a key greater than the bucket's last was expected")]
    AppendOutOfOrder(Place),
    /// A bucket of one environment used in a transaction of another.
    #[error("bucket of another environment {0}: open the bucket in this one")]
    ForeignBucket(Place),
    /// A bucket that was opened after the transaction began.
    #[error("bucket is unknown to the transaction {0}: open buckets first, then begin")]
    BucketUnknown(Place),
    /// No bucket of that name.
    #[error("no bucket {name:?} in {}: the writer creates it", path.display())]
    NoSuchBucket {
        /// The bucket's name.
        name: String,
        /// The environment directory.
        path: PathBuf,
    },
    /// A write on an environment that was opened for reading.
    #[error("environment is open for reading only {0}: open it with open_writer")]
    ReadOnly(Place),
    /// The thread already holds a write transaction; waiting would never end.
    #[error("this thread already holds a write transaction {0}: end it first")]
    WriterActive(Place),
    /// The commit failed; nothing of the transaction is visible.
    #[error("commit failed, nothing of the transaction is visible{}: {source}",
        if self.needs_reopen() { "; close and reopen the environment" } else { "" })]
    CommitFailed {
        /// Why.
        source: Box<LmdbError>,
    },
}

impl LmdbError {
    /// The variant for an LMDB code or errno returned by the C library.
    #[must_use]
    pub fn from_code(code: c_int, doing: &'static str, path: &Path) -> Self {
        let place = Place::new(doing, path);
        match code {
            sys::MDB_KEYEXIST => Self::KeyExists(place),
            sys::MDB_NOTFOUND => Self::Missing(place),
            sys::MDB_PAGE_NOTFOUND => Self::PageNotFound(place),
            sys::MDB_CORRUPTED => Self::Corrupted(place),
            sys::MDB_PANIC => Self::Panic(place),
            sys::MDB_VERSION_MISMATCH => Self::VersionMismatch(place),
            sys::MDB_INVALID => Self::Invalid(place),
            sys::MDB_MAP_FULL => Self::MapFull(place),
            sys::MDB_DBS_FULL => Self::BucketsFull(place),
            sys::MDB_READERS_FULL => Self::ReadersFull(place),
            sys::MDB_TLS_FULL => Self::TlsFull(place),
            sys::MDB_TXN_FULL => Self::TransactionFull(place),
            sys::MDB_CURSOR_FULL => Self::CursorFull(place),
            sys::MDB_PAGE_FULL => Self::PageFull(place),
            sys::MDB_MAP_RESIZED => Self::MapResized(place),
            sys::MDB_INCOMPATIBLE => Self::Incompatible(place),
            sys::MDB_BAD_RSLOT => Self::BadReaderSlot(place),
            sys::MDB_BAD_TXN => Self::BadTransaction(place),
            sys::MDB_BAD_VALSIZE => Self::BadValueSize(place),
            sys::MDB_BAD_DBI => Self::BadBucket(place),
            sys::MDB_PROBLEM => Self::Problem(place),
            libc::ENOSPC | libc::EDQUOT => Self::DiskFull(place),
            libc::EIO => Self::Io(place),
            libc::EACCES | libc::EPERM => Self::Permission(place),
            libc::ENOENT => Self::NotFound(place),
            libc::ENOMEM => Self::OutOfMemory(place),
            libc::EROFS => Self::ReadOnlyMount { path: path.to_path_buf() },
            code => Self::Os { code, place },
        }
    }

    /// What everything answers in a forked child.
    #[must_use]
    pub fn forked(doing: &'static str, path: &Path) -> Self {
        Self::Forked(Place::new(doing, path))
    }

    /// The variant for an error of the standard library's file functions.
    pub(crate) fn from_io(error: &io::Error, doing: &'static str, path: &Path) -> Self {
        Self::from_code(error.raw_os_error().unwrap_or(libc::EIO), doing, path)
    }

    /// Whether the environment must be closed and opened again before it is written to.
    ///
    /// True for a fatal error, and for a commit that failed once it had begun to touch the disk:
    /// what a failed `fsync` left there is only known after a fresh look. Not for a full disk:
    /// pages that no commit names are written again by the next one; a meta page that did not fit
    /// is reported as [`LmdbError::Panic`].
    #[must_use]
    pub fn needs_reopen(&self) -> bool {
        match self {
            Self::Panic(_) => true,
            Self::CommitFailed { source } => !matches!(
                **source,
                Self::MapFull(_)
                    | Self::DiskFull(_)
                    | Self::TransactionFull(_)
                    | Self::BadTransaction(_)
            ),
            _ => false,
        }
    }

    /// Whether the data file itself is damaged or of another format: rebuild, do not retry.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::PageNotFound(_)
            | Self::Corrupted(_)
            | Self::VersionMismatch(_)
            | Self::Invalid(_)
            | Self::CursorFull(_)
            | Self::PageFull(_)
            | Self::Incompatible(_) => true,
            Self::CommitFailed { source } => source.is_damage(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LMDB_CODES: std::ops::RangeInclusive<c_int> = sys::MDB_KEYEXIST..=sys::MDB_PROBLEM;

    #[test]
    fn every_lmdb_code_has_its_variant() {
        for code in LMDB_CODES {
            let error = LmdbError::from_code(code, "testing", "/x".as_ref());
            assert!(!matches!(error, LmdbError::Os { .. }), "{code}");
        }
    }

    #[test]
    fn a_message_says_what_and_where() {
        let error = LmdbError::from_code(libc::ENOSPC, "committing", "/data".as_ref());
        let text = error.to_string();
        assert!(text.contains("disk is full while committing in /data"), "{text}");
    }

    #[test]
    fn a_commit_that_touched_the_disk_needs_a_reopen() {
        let failed = |code| LmdbError::CommitFailed {
            source: Box::new(LmdbError::from_code(code, "committing", "/data".as_ref())),
        };
        assert!(failed(libc::EIO).needs_reopen());
        assert!(failed(libc::EIO).to_string().contains("reopen"));
        assert!(failed(sys::MDB_PANIC).needs_reopen());
        assert!(!failed(sys::MDB_MAP_FULL).needs_reopen());
        assert!(!failed(sys::MDB_MAP_FULL).to_string().contains("reopen the"));
    }
}
