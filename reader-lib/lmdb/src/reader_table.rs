//! What must be done to the reader table before LMDB opens it.
//!
//! * LMDB makes `lock.mdb` by extending an empty file and maps it, so its pages are allocated when
//!   a reader first takes a slot on them. On a full disk that kills the reader with SIGBUS. A
//!   writer therefore allocates the whole file first.
//! * A process that dies leaves its slots behind, and LMDB clears those whose process no longer
//!   holds the lock on the byte numbered like its pid. In a container the next process often gets
//!   the same number, takes that lock, and makes the slots of the dead one look alive for as long
//!   as it lives; LMDB itself never looks at slots under its own number. So they are freed here.
//!
//! Invariants: the file is touched only while this process does not have the environment open
//! (closing a descriptor drops the process's locks on the file), and the size of an existing
//! table is not changed here (other processes have it mapped). LMDB itself extends the table when
//! nobody else has it open and more slots are asked for; so keep their number for the life of an
//! environment.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl, posix_fallocate};
use nix::libc::{self, off_t};

use crate::LmdbError;

/// `CACHELINE` in `mdb.c`: what the parts of the table are padded to.
const CACHE_LINE_BYTES: usize = 64;
/// `sizeof(MDB_reader)`: a cache line.
const SLOT_BYTES: u32 = CACHE_LINE_BYTES as u32;
/// More than `sizeof(MDB_txninfo)` without its first slot.
const HEADER_BYTES: u32 = 512;

// The table's layout, from `MDB_txninfo` in `mdb.c`. All of 0.9 has it; a table that says otherwise
// is left alone.
//
//   0  magic u32 ‖ format u32 ‖ mutex of the readers ‖ newest txn id ‖ slots ever used u32
//      padded to a cache line ‖ mutex of the writers, padded to a cache line
//   then the slots: txn id, pid i32, thread

/// `MDB_MAGIC`.
const MAGIC: u32 = 0xbeef_c0de;
/// `MDB_LOCK_FORMAT`: version 1, with pid locks.
const FORMAT: u32 = 1 | 1 << 16;
const MUTEX_BYTES: usize = size_of::<libc::pthread_mutex_t>();
const WORD_BYTES: usize = size_of::<usize>();
const AT_SLOTS_USED: usize = 4 + 4 + MUTEX_BYTES + WORD_BYTES;
const AT_SLOTS: usize = (AT_SLOTS_USED + WORD_BYTES).next_multiple_of(CACHE_LINE_BYTES)
    + MUTEX_BYTES.next_multiple_of(CACHE_LINE_BYTES);
const AT_PID_IN_SLOT: usize = WORD_BYTES;

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

/// Frees the slots that a dead process with our number has left in the environment in `dir`,
/// which this process does not have open. Without a table there is nothing to do.
pub(crate) fn free_slots_left_under_our_pid(dir: &Path) -> Result<(), LmdbError> {
    let path = dir.join("lock.mdb");
    let Ok(file) = OpenOptions::new().read(true).write(true).open(&path) else {
        // LMDB says better than we could what is wrong with it.
        return Ok(());
    };
    let pid = std::process::id();
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: off_t::from(pid),
        l_len: 1,
        l_pid: 0,
    };
    // Whoever holds this byte owns the slots under this number: while we do, nobody else touches
    // them. Closing the file lets it go; LMDB takes it again for the first read.
    match fcntl(&file, FcntlArg::F_SETLK(&lock)) {
        Ok(_) => {}
        Err(Errno::EAGAIN | Errno::EACCES) => {
            return Err(LmdbError::PidCollision { pid, path: dir.to_path_buf() });
        }
        // No locks on this file system: LMDB would say so.
        Err(_) => return Ok(()),
    }
    free_slots(&file, pid)
        .map_err(|e| LmdbError::from_io(&e, "freeing the slots of a dead reader", &path))
}

fn free_slots(file: &File, pid: u32) -> io::Result<()> {
    let mut header = [0; AT_SLOTS];
    match file.read_exact_at(&mut header, 0) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
        other => other?,
    }
    if word(&header, 0) != MAGIC || word(&header, 4) != FORMAT {
        return Ok(());
    }
    let bytes = word(&header, AT_SLOTS_USED) as usize * CACHE_LINE_BYTES;
    if file.metadata()?.len() < (AT_SLOTS + bytes) as u64 {
        return Ok(());
    }
    let mut slots = vec![0; bytes];
    file.read_exact_at(&mut slots, AT_SLOTS as u64)?;
    for (n, slot) in slots.chunks_exact(CACHE_LINE_BYTES).enumerate() {
        if word(slot, AT_PID_IN_SLOT) == pid {
            let at = AT_SLOTS + n * CACHE_LINE_BYTES + AT_PID_IN_SLOT;
            // What LMDB does to the slots of the dead: the pid alone says whether one is taken.
            file.write_all_at(&[0; 4], at as u64)?;
        }
    }
    Ok(())
}

#[allow(clippy::host_endian_bytes, reason = "LMDB writes these words in host order")]
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_ne_bytes(*word))
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
