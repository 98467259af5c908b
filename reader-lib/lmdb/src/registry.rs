//! One open per environment and process.
//!
//! LMDB's file locks are fcntl locks: closing *any* descriptor of `lock.mdb` drops all of the
//! process's locks on it, so a second open that closes would make the first one's readers look
//! dead. This module knows every environment the process has open, by device and inode of `data.mdb`.
//!
//! Invariants: an environment has at most one entry of the current fork generation; an entry
//! outlives the LMDB handle; opens and closes happen one at a time, under the registry's lock. Who
//! opens for reading what is open already gets a share of it. An environment whose close was
//! skipped (see `open_lock`) stays here, parked, and is handed out again by the next open.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

use crate::LmdbError;
use crate::env::{EnvOptions, Shared};
use crate::error::Place;
use crate::fork::ProcessMark;
use crate::handle::{Handle, Mode};
use crate::open_lock::OpenLock;

/// How long a forked child waits for a lock that a thread of its parent may have held.
const CHILD_WAIT: Duration = Duration::from_secs(1);

static REGISTRY: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

/// A file's identity: device and inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileKey {
    device: u64,
    inode: u64,
}

impl FileKey {
    /// The identity of the file at `path`, or `None` if there is none. Opens nothing.
    pub(crate) fn of(path: &Path) -> Result<Option<Self>, LmdbError> {
        match fs::metadata(path) {
            Ok(m) => Ok(Some(Self { device: m.dev(), inode: m.ino() })),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(LmdbError::from_io(&e, "looking at the data file", path)),
        }
    }

    /// The identity of the data file LMDB really opened.
    pub(crate) fn of_open(handle: &Handle) -> Result<Self, LmdbError> {
        let stat = nix::sys::stat::fstat(handle.data_fd()?)
            .map_err(|errno| handle.fail(errno as i32, "looking at the data file"))?;
        Ok(Self { device: stat.st_dev, inode: stat.st_ino })
    }
}

struct Entry {
    key: FileKey,
    dir: PathBuf,
    process: ProcessMark,
    /// Our own descriptors of the lock file, which a forked child inherits.
    descriptors: Vec<RawFd>,
    /// The environment, while it is in use.
    shared: Weak<Shared>,
    /// The environment, if its close was skipped.
    parked: Option<Box<Handle>>,
}

/// The locked registry.
pub(crate) struct Registry(MutexGuard<'static, Vec<Entry>>);

/// What the registry knows about an environment that is about to be opened.
pub(crate) enum Known {
    /// Nothing: open it.
    No,
    /// It is in use: take a share. One that is no longer there is about to be closed.
    Open(Weak<Shared>),
    /// Its close was skipped: here it is again.
    Parked(Box<Handle>),
}

impl Registry {
    /// Locks the registry.
    pub(crate) fn lock(path: &Path) -> Result<Self, LmdbError> {
        if !ProcessMark::current().is_child() {
            return Ok(Self(REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)));
        }
        // In a child the lock may be held for ever, by a parent's thread that is not here.
        let start = Instant::now();
        loop {
            match REGISTRY.try_lock() {
                Ok(guard) => return Ok(Self(guard)),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(Self(poisoned.into_inner())),
                Err(TryLockError::WouldBlock) if start.elapsed() < CHILD_WAIT => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(LmdbError::Forked(Place::new("opening the environment", path)));
                }
            }
        }
    }

    /// Looks for the environment that is to be opened in `dir`. Opening for writing what is open is
    /// an error.
    pub(crate) fn look_up(
        &mut self,
        key: FileKey,
        dir: &Path,
        mode: Mode,
        options: &EnvOptions,
    ) -> Result<Known, LmdbError> {
        let Some(position) = self.position(key) else { return Ok(Known::No) };
        let entry = &mut self.0[position];
        match entry.parked.take() {
            Some(handle)
                if handle.mode == mode && handle.options == *options && handle.dir == dir =>
            {
                Ok(Known::Parked(handle))
            }
            // Of another kind, or its directory was renamed: it must go first.
            Some(handle) => match try_close(handle) {
                Ok(()) => {
                    self.0.swap_remove(position);
                    Ok(Known::No)
                }
                Err(handle) => {
                    entry.parked = Some(handle);
                    // Nobody has a share: to be asked for again, until it could be closed.
                    Ok(Known::Open(Weak::new()))
                }
            },
            None if mode == Mode::Reader || entry.shared.strong_count() == 0 => {
                Ok(Known::Open(entry.shared.clone()))
            }
            None => Err(LmdbError::AlreadyOpen { path: entry.dir.clone() }),
        }
    }

    /// Notes under which handle an environment is in use.
    pub(crate) fn share(&mut self, key: FileKey, shared: Weak<Shared>) {
        if let Some(position) = self.position(key) {
            self.0[position].shared = shared;
        }
    }

    /// Refuses an environment whose lock file this process has open by other means.
    pub(crate) fn refuse_other_copies(&self, dir: &Path) -> Result<(), LmdbError> {
        let inherited = self.0.iter().filter(|e| !e.process.is_current());
        let known: Vec<RawFd> = inherited.flat_map(|e| e.descriptors.iter().copied()).collect();
        if descriptors_of(dir)?.iter().all(|fd| known.contains(fd)) {
            Ok(())
        } else {
            Err(LmdbError::OpenedByAnotherCopy { path: dir.to_path_buf() })
        }
    }

    /// Records a new environment. Gives the handle back if, against all checks, the files were
    /// swapped meanwhile for ones that are open already.
    pub(crate) fn add(&mut self, handle: &Handle) -> Result<FileKey, LmdbError> {
        let key = FileKey::of_open(handle)?;
        if let Some(position) = self.position(key) {
            return Err(LmdbError::AlreadyOpen { path: self.0[position].dir.clone() });
        }
        self.0.push(Entry {
            key,
            dir: handle.dir.clone(),
            process: handle.process(),
            descriptors: descriptors_of(&handle.dir)?,
            shared: Weak::new(),
            parked: None,
        });
        Ok(key)
    }

    /// Tries again to close what was parked.
    pub(crate) fn close_parked(&mut self) {
        Self::close_parked_in(&mut self.0);
    }

    fn close_parked_in(entries: &mut Vec<Entry>) {
        entries.retain_mut(|entry| {
            let Some(handle) = entry.parked.take_if(|_| entry.process.is_current()) else {
                return true;
            };
            entry.parked = try_close(handle).err();
            entry.parked.is_some()
        });
    }

    fn position(&self, key: FileKey) -> Option<usize> {
        self.0.iter().position(|e| e.key == key && e.process.is_current())
    }
}

/// Tries again to close the environments whose close was skipped, because somebody was opening or
/// closing at that moment. Until then they keep their files' disk space, also of removed files. The
/// next open or close does this too; who neither opens nor closes calls it once in a while.
pub fn close_skipped() {
    // In a child the registry may be locked for ever.
    if let (false, Ok(mut registry)) = (ProcessMark::current().is_child(), REGISTRY.try_lock()) {
        Registry::close_parked_in(&mut registry);
    }
}

/// Closes an environment nobody uses any more, or parks it.
pub(crate) fn release(handle: Box<Handle>) {
    if !handle.is_ours() || handle.has_writer() {
        // A forked child must not touch its parent's locks. A leaked write transaction holds
        // LMDB's writer mutex inside the map that a close would take away.
        std::mem::forget(handle);
        return;
    }
    let dir = handle.dir.clone();
    let (Ok(mut registry), Ok(key)) = (Registry::lock(&dir), FileKey::of_open(&handle)) else {
        std::mem::forget(handle);
        return;
    };
    let parked = try_close(handle).err();
    if let Some(position) = registry.position(key) {
        match parked {
            Some(handle) => registry.0[position].parked = Some(handle),
            None => drop(registry.0.swap_remove(position)),
        }
    }
    registry.close_parked();
}

/// Closes the environment if its open lock can be had; gives it back if not.
fn try_close(handle: Box<Handle>) -> Result<(), Box<Handle>> {
    let lock = match &handle.options.open_lock {
        None => None,
        Some(path) => match OpenLock::for_close(path, handle.options.file_mode) {
            None => return Err(handle),
            held => held,
        },
    };
    // SAFETY: the handle came out of its last `Env` or was parked after that, and transactions
    // borrow or own an `Env`; `release` refused leaked writers and forked children.
    unsafe { (*handle).close() };
    drop(lock);
    Ok(())
}

/// This process's open descriptors of the environment's lock file. Opens nothing.
///
/// The lock file, because its descriptors are what must not be closed, and because LMDB keeps them
/// from programs that are started, while it lets them inherit data.mdb.
fn descriptors_of(dir: &Path) -> Result<Vec<RawFd>, LmdbError> {
    let Some(lock_file) = FileKey::of(&dir.join("lock.mdb"))? else { return Ok(Vec::new()) };
    // Without /proc there is nothing to look at.
    let Ok(open_files) = fs::read_dir("/proc/self/fd") else { return Ok(Vec::new()) };
    Ok(open_files
        .filter_map(Result::ok)
        .filter(|e| matches!(FileKey::of(&e.path()), Ok(Some(key)) if key == lock_file))
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect())
}
