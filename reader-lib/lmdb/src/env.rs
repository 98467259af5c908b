//! An open environment: the handle everything else starts from.
//!
//! Invariants: a directory is open at most once per process (`registry`), and who opens it for
//! reading once more shares it; a writer syncs every
//! commit and never maps the file writable; an environment is closed only when no transaction
//! borrows or owns it any more.

use std::ffi::CString;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::statvfs::{FsFlags, statvfs};

use crate::error::Place;
use crate::fork;
use crate::handle::{Handle, Mode};
use crate::inspect;
use crate::mount;
use crate::open_lock::{Hold, OpenLock};
use crate::registry::{self, FileKey, Known, Registry};
use crate::resident;
use crate::sys::{
    MDB_CREATE, MDB_NOTFOUND, MDB_RDONLY, MDB_SUCCESS, MDB_dbi, MDB_txn, mdb_dbi_open,
    mdb_txn_abort, mdb_txn_begin, mdb_txn_commit,
};
use crate::version;
use crate::{Bucket, EnvInfo, FreePages, LmdbError, OwnedReadTxn, ReadTxn, ReaderSlot, WriteTxn};

/// How to open an environment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EnvOptions {
    /// Size of the map in bytes, a multiple of the page size: the bound on the file. The same at
    /// every opener. 0 takes what the file was last opened with.
    pub map_bytes: usize,
    /// Reader slots. Fixed by whoever creates `lock.mdb`, so the same at every opener.
    pub max_readers: u32,
    /// How many buckets may be open.
    pub max_buckets: u32,
    /// The file to lock around opening and closing.
    pub open_lock: Option<PathBuf>,
    /// Permissions of files that are created.
    pub file_mode: u32,
    /// Whether a commit returns only when it is on disk. Without it, a crash may damage the whole
    /// environment until [`Env::sync`] has returned: only for one that nobody else has open, and that
    /// is thrown away after a crash.
    pub durable_commits: bool,
}

impl Default for EnvOptions {
    fn default() -> Self {
        Self {
            map_bytes: 1 << 30,
            max_readers: 4096,
            max_buckets: 16,
            open_lock: None,
            file_mode: 0o640,
            durable_commits: true,
        }
    }
}

/// An open environment. Clones share it; the last one closes it.
#[derive(Clone)]
pub struct Env(Arc<Shared>);

/// Closes the environment when the last [`Env`] goes.
pub(crate) struct Shared {
    /// Boxed, because transactions hold its address and a parked one moves between `Shared`s.
    handle: ManuallyDrop<Box<Handle>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: taken once, here, and not used afterwards.
        registry::release(unsafe { ManuallyDrop::take(&mut self.handle) });
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env").field("dir", &self.path()).field("mode", &self.handle().mode).finish()
    }
}

impl Env {
    /// Opens the environment in an existing directory for reading and writing; creates its files.
    ///
    /// # Errors
    /// [`LmdbError::AlreadyOpen`], [`LmdbError::OpenedByAnotherCopy`],
    /// [`LmdbError::UnsupportedLibrary`], [`LmdbError::OpenLockTimeout`] or what LMDB says.
    pub fn open_writer(dir: &Path, options: &EnvOptions) -> Result<Self, LmdbError> {
        Self::open(dir, Mode::Writer, options)
    }

    /// Opens an existing environment for reading, and takes this process's first reader slot. When
    /// this process has it open already, however that was, the result is a share of it.
    ///
    /// # Errors
    /// As [`open_writer`](Self::open_writer), and [`LmdbError::NotFound`] if there is no
    /// environment, [`LmdbError::ReadOnlyMount`], [`LmdbError::RemoteFilesystem`],
    /// [`LmdbError::PidCollision`].
    pub fn open_reader(dir: &Path, options: &EnvOptions) -> Result<Self, LmdbError> {
        Self::open(dir, Mode::Reader, options)
    }

    fn open(dir: &Path, mode: Mode, options: &EnvOptions) -> Result<Self, LmdbError> {
        version::check()?;
        fork::install()?;
        let dir = dir
            .canonicalize()
            .map_err(|e| LmdbError::from_io(&e, "opening the environment", dir))?;
        let env = match prepare(&dir, mode, options)? {
            Prepared::Known(env) => env,
            Prepared::Clear(mut registry, lock) => {
                let env = open_new(&dir, mode, options, &mut registry)?;
                // In this order: if the checks below fail, dropping `env` takes both again.
                drop(lock);
                drop(registry);
                env
            }
        };
        if mode == Mode::Reader {
            if !inspect::has_reader_table(env.handle())? {
                return Err(LmdbError::ReadOnlyMount { path: dir });
            }
            // The first read locks our pid's byte: better to fail here than at the first get.
            drop(env.read()?);
        }
        Ok(env)
    }

    /// The bucket of that name, created if need be in a write transaction of its own.
    ///
    /// # Errors
    /// [`LmdbError::ReadOnly`], [`LmdbError::WriterActive`], [`LmdbError::BucketsFull`] or what
    /// LMDB says.
    pub fn create_bucket(&self, name: &str) -> Result<Bucket, LmdbError> {
        // Writer lock before the bucket lock, see `Handle::bucket_opening`.
        self.write()?.create_bucket(name)
    }

    /// The existing bucket of that name.
    ///
    /// # Errors
    /// [`LmdbError::NoSuchBucket`], [`LmdbError::BucketsFull`] or what LMDB says.
    pub fn open_bucket(&self, name: &str) -> Result<Bucket, LmdbError> {
        let handle = self.handle();
        let doing = "opening a bucket";
        handle.check_fork(doing)?;
        let _serial = handle.bucket_opening.lock().unwrap_or_else(PoisonError::into_inner);
        let mut txn: *mut MDB_txn = null_mut();
        // SAFETY: the environment is open and `txn` a valid place; MDB_NOTLS allows any number of
        // reads per thread.
        let code =
            unsafe { mdb_txn_begin(handle.env.as_ptr(), null_mut(), MDB_RDONLY, &raw mut txn) };
        if code != MDB_SUCCESS {
            return Err(handle.fail(code, doing));
        }
        // SAFETY: `txn` is live and ours alone, and the bucket lock is held.
        let opened = unsafe { open_dbi(handle, txn, name, 0) };
        match opened {
            // SAFETY: live, ours, used no more. Committing keeps the bucket handle for others.
            Ok(_) => unsafe { mdb_txn_commit(txn) },
            // SAFETY: live, ours, used no more.
            Err(_) => unsafe {
                mdb_txn_abort(txn);
                MDB_SUCCESS
            },
        };
        opened
    }

    /// A read transaction on the newest snapshot. It takes a reader slot, under a lock that all
    /// openers share; who reads often keeps an [`OwnedReadTxn`] and renews it.
    ///
    /// # Errors
    /// [`LmdbError::ReadersFull`], [`LmdbError::PidCollision`], [`LmdbError::MapResized`],
    /// [`LmdbError::Forked`] or what LMDB says.
    pub fn read(&self) -> Result<ReadTxn<'_>, LmdbError> {
        ReadTxn::begin(self.handle())
    }

    /// A read transaction that keeps the environment open by itself.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_owned(&self) -> Result<OwnedReadTxn, LmdbError> {
        OwnedReadTxn::begin(self.clone())
    }

    /// The write transaction; waits for other writers, in this process and in others.
    ///
    /// # Errors
    /// [`LmdbError::ReadOnly`], [`LmdbError::WriterActive`] or what LMDB says.
    pub fn write(&self) -> Result<WriteTxn<'_>, LmdbError> {
        WriteTxn::begin(self.handle())
    }

    /// Makes everything that was committed before durable. Any thread may call it, beside one that
    /// writes.
    ///
    /// # Errors
    /// What LMDB says.
    pub fn sync(&self) -> Result<(), LmdbError> {
        self.handle().sync()
    }

    /// Frees the slots of readers that died and returns how many there were.
    ///
    /// # Errors
    /// What LMDB says.
    pub fn reader_check(&self) -> Result<u32, LmdbError> {
        self.handle().reader_check()
    }

    /// Every taken reader slot, idle ones included.
    ///
    /// # Errors
    /// What LMDB says.
    pub fn readers(&self) -> Result<Vec<ReaderSlot>, LmdbError> {
        inspect::readers(self.handle())
    }

    /// Sizes and counters.
    ///
    /// # Errors
    /// [`LmdbError::Forked`].
    pub fn info(&self) -> Result<EnvInfo, LmdbError> {
        inspect::info(self.handle())
    }

    /// Counts the free pages by walking the free list in a short read transaction.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn free_pages(&self) -> Result<FreePages, LmdbError> {
        inspect::free_pages(self)
    }

    /// Lets go of every page of the file that this process has mapped; the next look at one maps it
    /// again. For a process whose end must not take long.
    ///
    /// # Errors
    /// [`LmdbError::Forked`] or what the system says.
    pub fn release_pages(&self) -> Result<(), LmdbError> {
        resident::release(self.handle())
    }

    /// Whether the data file under the environment's path is the one that is open, and was neither
    /// removed nor replaced.
    ///
    /// # Errors
    /// What the system says.
    pub fn is_in_place(&self) -> Result<bool, LmdbError> {
        let open = FileKey::of_open(self.handle())?;
        Ok(FileKey::of(&self.path().join("data.mdb"))? == Some(open))
    }

    /// The page size in bytes.
    #[must_use]
    pub fn page_size(&self) -> usize {
        self.handle().page_bytes
    }

    /// The environment's directory, with symbolic links resolved.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.handle().dir
    }

    #[inline]
    pub(crate) fn handle(&self) -> &Handle {
        &self.0.handle
    }

    /// Whether this process is the one that opened it, and not a forked child.
    #[inline]
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.handle().is_ours()
    }

    fn from_handle(handle: Box<Handle>, key: FileKey, registry: &mut Registry) -> Self {
        let shared = Arc::new(Shared { handle: ManuallyDrop::new(handle) });
        registry.share(key, Arc::downgrade(&shared));
        Self(shared)
    }
}

/// How long an open waits for the same environment, opened otherwise before, to be closed.
const CLOSING_WAIT: Duration = Duration::from_secs(2);

/// What to do after all the checks that come before LMDB is asked.
enum Prepared {
    /// It is open already, or a close was skipped earlier: this is it.
    Known(Env),
    /// Open it, while these two are held.
    Clear(Registry, Option<OpenLock>),
}

fn prepare(dir: &Path, mode: Mode, options: &EnvOptions) -> Result<Prepared, LmdbError> {
    let data_file = dir.join("data.mdb");
    let start = Instant::now();
    let mut registry = loop {
        let mut registry = Registry::lock(dir)?;
        let Some(key) = FileKey::of(&data_file)? else {
            if mode == Mode::Reader {
                return Err(LmdbError::NotFound(Place::new("opening the environment", &data_file)));
            }
            break registry;
        };
        match registry.look_up(key, dir, mode, options)? {
            Known::No => {
                registry.refuse_other_copies(dir)?;
                break registry;
            }
            Known::Parked(handle) => {
                return Ok(Prepared::Known(Env::from_handle(handle, key, &mut registry)));
            }
            Known::Open(shared) => match shared.upgrade() {
                Some(shared) => return Ok(Prepared::Known(Env(shared))),
                // Its last user is on the way to close it and needs the registry for that, or it is
                // parked and somebody is opening or closing just now.
                None if start.elapsed() < CLOSING_WAIT => {
                    drop(registry);
                    std::thread::sleep(Duration::from_millis(1));
                }
                None => return Err(LmdbError::AlreadyOpen { path: dir.to_path_buf() }),
            },
        }
    };
    registry.close_parked();
    refuse_unsuitable_mount(dir)?;
    // A failed open closes inside LMDB, and with some versions that destroys mutexes.
    let hold = if version::close_destroys_mutexes() { Hold::Exclusive } else { Hold::Shared };
    let lock = match &options.open_lock {
        Some(path) => Some(OpenLock::for_open(path, hold, options.file_mode)?),
        None => None,
    };
    Ok(Prepared::Clear(registry, lock))
}

fn open_new(
    dir: &Path,
    mode: Mode,
    options: &EnvOptions,
    registry: &mut Registry,
) -> Result<Env, LmdbError> {
    let handle = Handle::open(dir, mode, options)?;
    match registry.add(&handle) {
        Ok(key) => Ok(Env::from_handle(handle, key, registry)),
        Err(error) => {
            // Closing could drop the locks of an environment that is open: leak this one.
            std::mem::forget(handle);
            Err(error)
        }
    }
}

fn refuse_unsuitable_mount(dir: &Path) -> Result<(), LmdbError> {
    let failed = |errno| LmdbError::from_code(errno as i32, "looking at the mount", dir);
    if let Some(kind) = mount::remote_kind(dir).map_err(failed)? {
        return Err(LmdbError::RemoteFilesystem { path: dir.to_path_buf(), kind });
    }
    if statvfs(dir).map_err(failed)?.flags().contains(FsFlags::ST_RDONLY) {
        return Err(LmdbError::ReadOnlyMount { path: dir.to_path_buf() });
    }
    Ok(())
}

/// Opens a bucket's handle inside a transaction.
///
/// # Safety
/// `txn` must be a live transaction of `handle`, used by nobody else meanwhile, and
/// `bucket_opening` must be held until it has ended.
pub(crate) unsafe fn open_dbi(
    handle: &Handle,
    txn: *mut MDB_txn,
    name: &str,
    flags: u32,
) -> Result<Bucket, LmdbError> {
    debug_assert!(flags == 0 || flags == MDB_CREATE);
    let c_name =
        CString::new(name).map_err(|_| LmdbError::NulByte { what: "the bucket's name" })?;
    let mut dbi: MDB_dbi = 0;
    // SAFETY: the caller guarantees the transaction and the serialisation LMDB demands; the name
    // is a C string that outlives the call (LMDB copies it).
    match unsafe { mdb_dbi_open(txn, c_name.as_ptr(), flags, &raw mut dbi) } {
        MDB_SUCCESS => Ok(handle.bucket(dbi)),
        MDB_NOTFOUND => {
            Err(LmdbError::NoSuchBucket { name: name.to_owned(), path: handle.dir.clone() })
        }
        code => Err(handle.fail(code, "opening a bucket")),
    }
}
