//! Disk space for the reader table.
//!
//! LMDB makes `lock.mdb` by extending an empty file and maps it, so its pages are allocated when
//! a reader first takes a slot on them. On a full disk that kills the reader with SIGBUS. A
//! writer therefore allocates the whole file before LMDB opens it.
//!
//! Invariants: the file is touched only while this process does not have the environment open
//! (closing a descriptor drops the process's locks on the file), and the size of an existing
//! table is not changed here (other processes have it mapped). LMDB itself extends the table when
//! nobody else has it open and more slots are asked for; so keep their number for the life of an
//! environment.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::posix_fallocate;
use nix::libc::off_t;

use crate::LmdbError;

/// `sizeof(MDB_reader)`: a cache line.
const SLOT_BYTES: u32 = 64;
/// More than `sizeof(MDB_txninfo)` without its first slot.
const HEADER_BYTES: u32 = 512;

/// Allocates the table of the environment in `dir`, which this process does not have open.
pub(crate) fn allocate(dir: &Path, max_readers: u32, mode: u32) -> Result<(), LmdbError> {
    let doing = "allocating the reader table";
    let path = dir.join("lock.mdb");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(mode)
        .open(&path)
        .map_err(|e| LmdbError::from_io(&e, doing, &path))?;
    let existing = file.metadata().map_err(|e| LmdbError::from_io(&e, doing, &path))?.len();
    let bytes = match existing {
        0 => u64::from(max_readers) * u64::from(SLOT_BYTES) + u64::from(HEADER_BYTES),
        existing => existing,
    };
    let bytes = off_t::try_from(bytes).unwrap_or(off_t::MAX);
    match posix_fallocate(&file, 0, bytes) {
        // A file system that cannot promise space is no reason not to start.
        Ok(()) | Err(Errno::EOPNOTSUPP | Errno::EINVAL) => Ok(()),
        Err(errno) => Err(LmdbError::from_code(errno as i32, doing, &path)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use std::os::unix::fs::MetadataExt;

    use crate::{Env, EnvOptions};

    /// A slot on a page that is not allocated yet would kill its reader when the disk is full.
    #[test]
    fn every_page_of_the_table_is_allocated_and_its_size_stays() {
        let dir = tempfile::tempdir().unwrap();
        let lock = dir.path().join("lock.mdb");
        let allocated = || {
            let metadata = std::fs::metadata(&lock).unwrap();
            assert!(metadata.blocks() * 512 >= metadata.len(), "{metadata:?}");
            metadata.len()
        };
        let options = EnvOptions { max_readers: 4096, ..EnvOptions::default() };
        let env = Env::open_writer(dir.path(), &options).unwrap();
        assert!(env.info().unwrap().max_readers >= 4096);
        let bytes = allocated();
        drop(env);
        // Punching the holes back is what an older release leaves behind.
        let file = std::fs::OpenOptions::new().write(true).open(&lock).unwrap();
        file.set_len(0).unwrap();
        file.set_len(bytes).unwrap();
        drop(file);
        drop(Env::open_writer(dir.path(), &options).unwrap());
        assert_eq!(allocated(), bytes);
    }
}
