//! One open LMDB environment: the C pointer and everything that must live exactly as long.
//!
//! Invariants: the pointer is valid from `open` to `close`; `close` consumes the handle, and its
//! caller guarantees that no transaction is left; in a forked child no C function is called.
//! A handle has a fixed address (it lives in a `Box`), because transactions point back at it.

use std::ffi::{CString, c_int};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::{NonNull, null_mut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::sys::statvfs::statvfs;

use crate::env::EnvOptions;
use crate::error::Place;
use crate::fork::ProcessMark;
use crate::sys::{
    MDB_NOSYNC, MDB_NOTLS, MDB_PROBLEM, MDB_RDONLY, MDB_READERS_FULL, MDB_SUCCESS, MDB_env,
    MDB_envinfo, MDB_stat, MDB_txn, mdb_env_close, mdb_env_create, mdb_env_get_fd, mdb_env_info,
    mdb_env_open, mdb_env_set_mapsize, mdb_env_set_maxdbs, mdb_env_set_maxreaders, mdb_env_stat,
    mdb_env_sync, mdb_reader_check, mdb_txn_abort, mdb_txn_begin, mdb_txn_id, mdb_txn_renew,
    mdb_txn_reset,
};
use crate::{Bucket, LmdbError, reader_table};

/// What an environment was opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    Reader,
    Writer,
}

/// How often a read begins again because commits overtook it. Each time takes two commits within
/// the nanoseconds of a renewal.
const MAX_RENEWALS: u32 = 1000;

/// Nobody holds the write transaction.
pub(crate) const NO_WRITER: u64 = u64::MAX;

#[allow(unreachable_pub, reason = "the sealed trait behind `Transaction` names it")]
pub struct Handle {
    pub(crate) env: NonNull<MDB_env>,
    /// Tells buckets of this environment from others'. Never reused in a process.
    id: u64,
    process: ProcessMark,
    /// Held from opening a bucket to the end of that transaction, as LMDB demands.
    /// Lock order: LMDB's writer lock first, then this.
    pub(crate) bucket_opening: Mutex<()>,
    /// Number of the thread that holds the write transaction, or [`NO_WRITER`].
    pub(crate) writer_thread: AtomicU64,
    pub(crate) dir: PathBuf,
    pub(crate) mode: Mode,
    pub(crate) options: EnvOptions,
    pub(crate) page_bytes: usize,
}

// SAFETY: an MDB_env may be used from any thread and from several at once (lmdb.h).
unsafe impl Send for Handle {}
// SAFETY: as above; the calls LMDB wants serialised (opening buckets) are behind a mutex.
unsafe impl Sync for Handle {}

impl Handle {
    /// Opens the environment. A failed open is closed again before this returns.
    pub(crate) fn open(
        dir: &Path,
        mode: Mode,
        options: &EnvOptions,
    ) -> Result<Box<Self>, LmdbError> {
        let doing = "opening the environment";
        let c_path = CString::new(dir.as_os_str().as_bytes())
            .map_err(|_| LmdbError::NulByte { what: "the environment's path" })?;
        if mode == Mode::Writer {
            reader_table::allocate(dir, options.max_readers, options.file_mode)?;
        }
        reader_table::free_slots_left_under_our_pid(dir)?;
        let mut env: *mut MDB_env = null_mut();
        // SAFETY: `env` is a valid place for the new handle.
        let code = unsafe { mdb_env_create(&raw mut env) };
        let Some(env) = NonNull::new(env).filter(|_| code == MDB_SUCCESS) else {
            return Err(LmdbError::from_code(code, doing, dir));
        };
        let access = if mode == Mode::Reader { MDB_RDONLY } else { 0 };
        // Read-ahead stays on: the data is meant to fit in memory, and a cold start warms faster.
        let when_to_sync = if options.durable_commits { 0 } else { MDB_NOSYNC };
        let flags = MDB_NOTLS | access | when_to_sync;
        let ptr = env.as_ptr();
        let opened = (|| {
            // SAFETY: `env` was created above and is not open yet, as the three setters demand.
            check(unsafe { mdb_env_set_maxreaders(ptr, options.max_readers) })?;
            // SAFETY: as above.
            check(unsafe { mdb_env_set_maxdbs(ptr, options.max_buckets) })?;
            // SAFETY: as above.
            check(unsafe { mdb_env_set_mapsize(ptr, options.map_bytes) })?;
            // SAFETY: `env` is created and not open, the path is a C string that outlives the
            // call, and the registry made sure this process has not opened these files before.
            check(unsafe { mdb_env_open(ptr, c_path.as_ptr(), flags, options.file_mode) })
        })();
        if let Err(code) = opened {
            // SAFETY: created above, never used since; LMDB wants it closed after a failed open.
            unsafe { mdb_env_close(ptr) };
            return Err(LmdbError::from_code(code, doing, dir));
        }
        let handle = Box::new(Self {
            env,
            id: next_id(),
            process: ProcessMark::current(),
            bucket_opening: Mutex::new(()),
            writer_thread: AtomicU64::new(NO_WRITER),
            dir: dir.to_path_buf(),
            mode,
            options: options.clone(),
            page_bytes: page_bytes(env),
        });
        handle.keep_from_programs();
        Ok(handle)
    }

    /// Makes everything that was committed before durable.
    pub(crate) fn sync(&self) -> Result<(), LmdbError> {
        const FORCE: i32 = 1;
        let doing = "syncing the environment";
        self.check_fork(doing)?;
        // SAFETY: the environment is open; the call may be made from any thread.
        let code = unsafe { mdb_env_sync(self.env.as_ptr(), FORCE) };
        if code == MDB_SUCCESS { Ok(()) } else { Err(self.fail(code, doing)) }
    }

    /// Whether the file system has no room for even a small commit.
    pub(crate) fn disk_is_full(&self) -> bool {
        const SMALL_COMMIT_BYTES: u64 = 1 << 20;
        statvfs(&self.dir)
            .is_ok_and(|stat| stat.blocks_available() * stat.fragment_size() < SMALL_COMMIT_BYTES)
    }

    /// Whether LMDB has given this environment up.
    pub(crate) fn is_fatal(&self) -> bool {
        match self.begin_read() {
            Ok(txn) => {
                self.end_read(txn);
                false
            }
            Err(e) => matches!(e, LmdbError::Panic(_)),
        }
    }

    /// LMDB leaves its descriptor of data.mdb open across `exec`: no business of other programs.
    fn keep_from_programs(&self) {
        if let Ok(data_file) = self.data_fd() {
            // Cannot fail on an open descriptor, and nothing depends on it.
            let _ = fcntl(data_file, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        }
    }

    /// Closes the environment.
    ///
    /// # Safety
    /// No transaction of this environment may be alive or ever used again, and the process must
    /// be the one that opened it.
    pub(crate) unsafe fn close(self) {
        // SAFETY: the caller guarantees that no transaction is left; consuming the handle ends every
        // other use.
        unsafe { mdb_env_close(self.env.as_ptr()) };
    }

    /// The file descriptor LMDB has on data.mdb.
    pub(crate) fn data_fd(&self) -> Result<BorrowedFd<'_>, LmdbError> {
        let mut fd: RawFd = -1;
        // SAFETY: the environment is open, and `fd` is a valid place for an int.
        let code = unsafe { mdb_env_get_fd(self.env.as_ptr(), &raw mut fd) };
        if code != MDB_SUCCESS || fd < 0 {
            return Err(self.fail(code, "asking for the data file"));
        }
        // SAFETY: LMDB keeps the descriptor open as long as the environment, which `self` is.
        Ok(unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// Whether this process is the one that opened the environment.
    #[inline]
    pub(crate) fn is_ours(&self) -> bool {
        self.process.is_current()
    }

    pub(crate) fn process(&self) -> ProcessMark {
        self.process
    }

    /// Refuses everything in a forked child.
    #[inline]
    pub(crate) fn check_fork(&self, doing: &'static str) -> Result<(), LmdbError> {
        if self.is_ours() { Ok(()) } else { Err(self.forked(doing)) }
    }

    /// Refuses forked children and buckets of other environments.
    #[inline]
    pub(crate) fn check(&self, bucket: Bucket, doing: &'static str) -> Result<(), LmdbError> {
        self.check_fork(doing)?;
        if bucket.env_id == self.id { Ok(()) } else { Err(self.foreign_bucket(doing)) }
    }

    pub(crate) fn bucket(&self, dbi: crate::sys::MDB_dbi) -> Bucket {
        Bucket { dbi, env_id: self.id }
    }

    /// A read transaction on the newest snapshot, with a reader slot of its own.
    pub(crate) fn begin_read(&self) -> Result<NonNull<MDB_txn>, LmdbError> {
        self.check_fork("beginning a read")?;
        match self.try_begin_read() {
            Err(MDB_READERS_FULL) => {}
            other => return other.map_err(|code| self.begin_failed(code)),
        }
        // Dead readers keep their slots until somebody looks for them.
        self.reader_check()?;
        self.try_begin_read().map_err(|code| self.begin_failed(code))
    }

    /// Ends a read transaction and frees its reader slot.
    pub(crate) fn end_read(&self, txn: NonNull<MDB_txn>) {
        if self.is_ours() {
            // SAFETY: the caller owned this read transaction and gives it up here. In a forked
            // child the reader slot is the parent's, and is left alone.
            unsafe { mdb_txn_abort(txn.as_ptr()) };
        }
    }

    /// Clears the slots of dead readers and says how many there were.
    pub(crate) fn reader_check(&self) -> Result<u32, LmdbError> {
        let doing = "checking for dead readers";
        self.check_fork(doing)?;
        let mut dead: c_int = 0;
        // SAFETY: the environment is open, and `dead` is a valid place for an int. LMDB takes the
        // reader mutex itself.
        let code = unsafe { mdb_reader_check(self.env.as_ptr(), &raw mut dead) };
        if code == MDB_SUCCESS {
            Ok(u32::try_from(dead).unwrap_or(0))
        } else {
            Err(self.fail(code, doing))
        }
    }

    #[cold]
    pub(crate) fn fail(&self, code: c_int, doing: &'static str) -> LmdbError {
        LmdbError::from_code(code, doing, &self.dir)
    }

    #[cold]
    pub(crate) fn place(&self, doing: &'static str) -> Place {
        Place::new(doing, &self.dir)
    }

    #[cold]
    fn forked(&self, doing: &'static str) -> LmdbError {
        LmdbError::Forked(self.place(doing))
    }

    #[cold]
    fn foreign_bucket(&self, doing: &'static str) -> LmdbError {
        LmdbError::ForeignBucket(self.place(doing))
    }

    /// Moves a reset transaction to the newest snapshot. After a failure it is reset still.
    #[inline]
    pub(crate) fn renew(&self, txn: NonNull<MDB_txn>) -> Result<(), c_int> {
        for _ in 0..MAX_RENEWALS {
            // SAFETY: the caller owns it alone; it is reset, and of this environment.
            check(unsafe { mdb_txn_renew(txn.as_ptr()) })?;
            if self.has_its_own_roots(txn) {
                return Ok(());
            }
            // SAFETY: live and the caller's alone.
            unsafe { mdb_txn_reset(txn.as_ptr()) };
        }
        Err(MDB_PROBLEM)
    }

    /// Whether the snapshot's roots are those of the commit it is numbered after.
    ///
    /// LMDB notes the newest commit's number n, then copies the roots from one of two meta pages,
    /// which it shares with commit n+2. A reader that is held up in between can copy the roots of
    /// n+2, which is not published yet: its next snapshot would then be older than this one. As
    /// long as no meta page says n+2 after the copy, the copy was of n.
    #[inline]
    fn has_its_own_roots(&self, txn: NonNull<MDB_txn>) -> bool {
        // Keeps the look at the meta pages behind the copy from them.
        fence(Ordering::Acquire);
        let mut info = MaybeUninit::<MDB_envinfo>::uninit();
        // SAFETY: the environment is open, and mdb_env_info fills every field when it is.
        let newest = unsafe {
            mdb_env_info(self.env.as_ptr(), info.as_mut_ptr());
            info.assume_init_ref().me_last_txnid
        };
        // SAFETY: the transaction is live; the call reads a field.
        newest <= unsafe { mdb_txn_id(txn.as_ptr()) } + 1
    }

    fn try_begin_read(&self) -> Result<NonNull<MDB_txn>, c_int> {
        let mut txn: *mut MDB_txn = null_mut();
        // SAFETY: the environment is open, `txn` is a valid place. With MDB_NOTLS a thread may
        // have any number of read transactions, next to a write transaction too.
        let code =
            unsafe { mdb_txn_begin(self.env.as_ptr(), null_mut(), MDB_RDONLY, &raw mut txn) };
        let txn = NonNull::new(txn).filter(|_| code == MDB_SUCCESS).ok_or(code)?;
        if !self.has_its_own_roots(txn) {
            // SAFETY: live and ours alone.
            unsafe { mdb_txn_reset(txn.as_ptr()) };
            if let Err(code) = self.renew(txn) {
                // SAFETY: ours alone, and used no more.
                unsafe { mdb_txn_abort(txn.as_ptr()) };
                return Err(code);
            }
        }
        Ok(txn)
    }

    /// The first read of a process locks the byte numbered like its pid in lock.mdb.
    fn begin_failed(&self, code: c_int) -> LmdbError {
        if matches!(code, libc::EAGAIN | libc::EACCES) {
            return LmdbError::PidCollision { pid: std::process::id(), path: self.dir.clone() };
        }
        self.fail(code, "beginning a read")
    }

    /// Whether a write transaction is alive, or was leaked.
    pub(crate) fn has_writer(&self) -> bool {
        self.writer_thread.load(Ordering::Acquire) != NO_WRITER
    }
}

fn check(code: c_int) -> Result<(), c_int> {
    if code == MDB_SUCCESS { Ok(()) } else { Err(code) }
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn page_bytes(env: NonNull<MDB_env>) -> usize {
    let mut stat = MDB_stat {
        ms_psize: 0,
        ms_depth: 0,
        ms_branch_pages: 0,
        ms_leaf_pages: 0,
        ms_overflow_pages: 0,
        ms_entries: 0,
    };
    // SAFETY: the environment is open and `stat` is a valid place; the call cannot fail then.
    unsafe { mdb_env_stat(env.as_ptr(), &raw mut stat) };
    stat.ms_psize as usize
}
