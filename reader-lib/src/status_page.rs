//! The shared status page: one 4096-byte file that every process on the machine maps.
//!
//! It answers "anything new?" without a transaction, and lets a process sleep until there is.
//! It is a hint: `CURRENT` and LMDB are the truth, and a reader that finds the page old or missing
//! falls back to them.
//!
//! Invariants:
//! * The file has 4096 allocated bytes before anybody can see it under its name, and it is never
//!   truncated, so an access to the mapping cannot fault.
//! * Readers map it read-only and never write to it.
//! * Only the process that holds the role lock has a [`StatusWriter`].
//!
//! The layout is [`quicksilver_format::status`].
#![allow(unsafe_code, reason = "atomics in a shared memory map; each block names its guarantee")]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, TryLockError};
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};
use nix::libc;
use quicksilver_format::layout::Generation;
use quicksilver_format::status::{self as at, Commit, NodeState};
use quicksilver_format::{DbId, Index, Position, RunningHash, StateDigest};

/// Readers of every group member may map the page; only the replicator writes it.
const FILE_MODE: u32 = 0o640;
/// How often a consistent commit is tried before the page counts as stuck.
const SEQLOCK_ATTEMPTS: usize = 1_000;

/// A mapped page, read-only or writable.
struct Map(MmapRaw);

impl Map {
    fn u32(&self, offset: usize) -> &AtomicU32 {
        debug_assert!(offset + 4 <= at::PAGE_BYTES && offset.is_multiple_of(4));
        // SAFETY: the mapping is page-aligned and PAGE_BYTES long, which the constructors check;
        // the offsets are constants of the format, aligned and inside the page (asserted at
        // compile time there); the memory is shared with other processes and is only ever
        // accessed through atomics.
        unsafe { AtomicU32::from_ptr(self.0.as_mut_ptr().add(offset).cast()) }
    }

    fn u64(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset + 8 <= at::PAGE_BYTES && offset.is_multiple_of(8));
        // SAFETY: as in `u32`.
        unsafe { AtomicU64::from_ptr(self.0.as_mut_ptr().add(offset).cast()) }
    }

    fn words<const N: usize>(&self, offset: usize) -> [u64; N] {
        std::array::from_fn(|n| self.u64(offset + 8 * n).load(Ordering::Relaxed))
    }

    fn set_words(&self, offset: usize, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        debug_assert!(rest.is_empty());
        for (n, word) in words.iter().enumerate() {
            self.u64(offset + 8 * n).store(u64::from_le_bytes(*word), Ordering::Relaxed);
        }
    }

    fn bytes<const BYTES: usize, const WORDS: usize>(&self, offset: usize) -> [u8; BYTES] {
        const { assert!(BYTES == 8 * WORDS) };
        let mut out = [0; BYTES];
        for (n, word) in self.words::<WORDS>(offset).into_iter().enumerate() {
            out[8 * n..8 * n + 8].copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    fn check(&self) -> Result<(), PageError> {
        if self.bytes::<8, 1>(0) != at::MAGIC {
            return Err(PageError::Unreadable("it does not begin with QSSTATUS".into()));
        }
        let version = u32::from_le(self.u32(at::AT_LAYOUT_VERSION).load(Ordering::Relaxed));
        if version != at::LAYOUT_VERSION {
            return Err(PageError::Unreadable(format!(
                "layout version {version}, this release reads {}",
                at::LAYOUT_VERSION
            )));
        }
        Ok(())
    }
}

/// Why a status page cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The file could not be opened, created or mapped.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file is not a status page of this release.
    #[error("not a usable status page: {0}")]
    Unreadable(String),
}

/// What the page says of its writer. Each field is true by itself: two of them may be of different
/// moments, and a writer that lost its processor in the middle of an update, or its life, does not hide
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageView {
    /// When the last commit was, microseconds since the Unix epoch; 0 before the first.
    pub commit_time_us: u64,
    /// The newest heartbeat that counts here, microseconds since the Unix epoch by the root's
    /// clock; `None` before the first.
    pub heartbeat_us: Option<u64>,
    /// The replicator's pid, in its own PID namespace.
    pub pid: u32,
    /// What the replicator is doing; `None` when this release does not know the word.
    pub state: Option<NodeState>,
    /// When the replicator started, microseconds since the Unix epoch.
    pub start_time_us: u64,
}

/// A reader's view of the page.
pub struct StatusPage {
    map: Map,
    inode: (u64, u64),
}

/// Every page that [`StatusPage::open_shared`] has mapped.
static SHARED: Mutex<Vec<&'static StatusPage>> = Mutex::new(Vec::new());

impl StatusPage {
    /// Maps the page at `path`, read-only.
    pub fn open(path: &Path) -> Result<Self, PageError> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        check_length(&metadata)?;
        // The mapping must be private to no one: it is the writer's stores that are to be seen.
        let map = Map(MmapOptions::new().len(at::PAGE_BYTES).map_raw_read_only(&file)?);
        map.check()?;
        Ok(StatusPage { map, inode: (metadata.dev(), metadata.ino()) })
    }

    /// Maps the page at `path` once per process and for ever, so that a reader can look at it
    /// without holding on to anything: 4096 bytes for every page that a process ever sees.
    pub(crate) fn open_shared(path: &Path) -> Result<&'static Self, PageError> {
        let mut shared = match SHARED.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // In a forked child it may be held for ever, by a thread that is not here.
            Err(TryLockError::WouldBlock) => return Ok(Box::leak(Box::new(Self::open(path)?))),
        };
        let page = Self::open(path)?;
        // A file that is mapped keeps its inode number, so no other can have it.
        if let Some(known) = shared.iter().find(|known| known.inode == page.inode) {
            return Ok(known);
        }
        let page: &'static Self = Box::leak(Box::new(page));
        shared.push(page);
        Ok(page)
    }

    /// Whose page it is.
    pub fn db_id(&self) -> DbId {
        DbId::from_bytes(self.map.bytes::<16, 2>(at::AT_DB_ID))
    }

    /// The live generation, as far as the page knows.
    #[inline]
    pub fn generation(&self) -> Generation {
        Generation::new(self.map.u64(at::AT_GENERATION).load(Ordering::Acquire))
    }

    /// The last index, in a few nanoseconds.
    #[inline]
    pub fn index(&self) -> Index {
        Index::new(self.map.u64(at::AT_INDEX).load(Ordering::Acquire))
    }

    /// The last commit, all of it at one moment; `None` when the writer stopped in the middle of an
    /// update: it waits for its processor, or died.
    pub fn commit(&self) -> Option<Commit> {
        let sequence = self.map.u32(at::AT_SEQUENCE);
        for attempt in 0..SEQLOCK_ATTEMPTS {
            let before = sequence.load(Ordering::Acquire);
            if before.is_multiple_of(2) {
                let commit = self.commit_unguarded();
                fence(Ordering::Acquire);
                if sequence.load(Ordering::Relaxed) == before {
                    return Some(commit);
                }
            }
            // An update is a hundred nanoseconds of stores, unless its writer lost the CPU.
            if attempt % 16 == 15 {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        None
    }

    fn commit_unguarded(&self) -> Commit {
        let map = &self.map;
        Commit {
            position: Position {
                index: Index::new(map.u64(at::AT_INDEX).load(Ordering::Relaxed)),
                hash: RunningHash::from_bytes(map.bytes::<32, 4>(at::AT_HASH)),
            },
            digest: StateDigest::from_u128(u128::from_le_bytes(map.bytes::<16, 2>(at::AT_DIGEST))),
            keys: map.u64(at::AT_KEYS).load(Ordering::Relaxed),
            time_us: map.u64(at::AT_COMMIT_TIME).load(Ordering::Relaxed),
        }
    }

    /// What it says of its writer.
    pub fn view(&self) -> PageView {
        let map = &self.map;
        // What was committed before the heartbeat counted is visible to whoever has seen it: this pairs
        // with the fence of the update.
        let heartbeat_us = map.u64(at::AT_HEARTBEAT).load(Ordering::Acquire);
        PageView {
            commit_time_us: map.u64(at::AT_COMMIT_TIME).load(Ordering::Relaxed),
            heartbeat_us: (heartbeat_us != 0).then_some(heartbeat_us),
            pid: map.u32(at::AT_PID).load(Ordering::Relaxed),
            state: NodeState::from_u32(map.u32(at::AT_STATE).load(Ordering::Relaxed)),
            start_time_us: map.u64(at::AT_START_TIME).load(Ordering::Relaxed),
        }
    }

    /// The word that changes with every commit: take it, look at the data, then sleep on it.
    pub fn notify_word(&self) -> u32 {
        self.map.u32(at::AT_NOTIFY).load(Ordering::Acquire)
    }

    /// Sleeps until the notify word is no longer `seen`, at most `timeout`. May return early.
    pub fn sleep_while(&self, seen: u32, timeout: Duration) {
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let word = self.map.u32(at::AT_NOTIFY).as_ptr();
        // SAFETY: `word` points into a mapping that lives as long as `self`; FUTEX_WAIT reads it
        // and `timeout` and writes nothing. Every result (woken, changed, timed out,
        // interrupted) is a reason to look again, which is what the caller does.
        unsafe {
            libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, seen, &raw const timeout);
        }
    }

    /// Whether the file at `path`, its name, is no longer the one that is mapped.
    pub fn replaced(&self, path: &Path) -> bool {
        match std::fs::metadata(path) {
            Ok(now) => (now.dev(), now.ino()) != self.inode,
            Err(_) => true,
        }
    }
}

impl std::fmt::Debug for StatusPage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StatusPage(inode {})", self.inode.1)
    }
}

fn check_length(metadata: &std::fs::Metadata) -> Result<(), PageError> {
    if metadata.len() == at::PAGE_BYTES as u64 {
        return Ok(());
    }
    Err(PageError::Unreadable(format!(
        "{} bytes long, expected {}",
        metadata.len(),
        at::PAGE_BYTES
    )))
}

/// The writer's side of the page. Dropping it leaves the page as it is.
pub struct StatusWriter {
    map: Map,
}

impl std::fmt::Debug for StatusWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StatusWriter")
    }
}

impl StatusWriter {
    /// Maps the page at `path` for writing, making a new one when there is none for this
    /// database, and repairs a sequence that a dead writer left odd.
    ///
    /// The caller holds the role lock.
    pub fn open_or_create(path: &Path, db_id: DbId) -> Result<Self, PageError> {
        match Self::open(path, db_id) {
            Ok(writer) => Ok(writer),
            Err(PageError::Io(e)) if e.kind() != io::ErrorKind::NotFound => Err(e.into()),
            Err(_) => {
                create(path, db_id)?;
                Self::open(path, db_id)
            }
        }
    }

    fn open(path: &Path, db_id: DbId) -> Result<Self, PageError> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        check_length(&file.metadata()?)?;
        let map = Map(MmapOptions::new().len(at::PAGE_BYTES).map_raw(&file)?);
        map.check()?;
        let found = DbId::from_bytes(map.bytes::<16, 2>(at::AT_DB_ID));
        if found != db_id {
            return Err(PageError::Unreadable(format!("of database {found}, expected {db_id}")));
        }
        let sequence = map.u32(at::AT_SEQUENCE);
        let value = sequence.load(Ordering::Relaxed);
        sequence.store(value.wrapping_add(value % 2), Ordering::Release);
        Ok(StatusWriter { map })
    }

    /// Publishes the live generation.
    pub fn set_generation(&self, generation: Generation) {
        self.map.u64(at::AT_GENERATION).store(generation.get(), Ordering::Release);
    }

    /// Publishes that this process writes from now on.
    pub fn set_process(&self, pid: u32, start_time_us: u64) {
        self.update(|map| {
            map.u32(at::AT_PID).store(pid, Ordering::Relaxed);
            map.u64(at::AT_START_TIME).store(start_time_us, Ordering::Relaxed);
        });
    }

    /// Publishes what the replicator is doing.
    pub fn set_state(&self, state: NodeState) {
        self.update(|map| map.u32(at::AT_STATE).store(state as u32, Ordering::Relaxed));
    }

    /// Publishes a heartbeat that counts here.
    pub fn set_heartbeat(&self, heartbeat_us: u64) {
        self.update(|map| map.u64(at::AT_HEARTBEAT).store(heartbeat_us, Ordering::Relaxed));
    }

    /// Publishes a commit and wakes everyone who waits for one.
    pub fn publish(&self, commit: &Commit) {
        self.update(|map| {
            map.u64(at::AT_INDEX).store(commit.position.index.get(), Ordering::Relaxed);
            map.set_words(at::AT_HASH, commit.position.hash.as_bytes());
            map.set_words(at::AT_DIGEST, &commit.digest.as_u128().to_le_bytes());
            map.u64(at::AT_KEYS).store(commit.keys, Ordering::Relaxed);
            map.u64(at::AT_COMMIT_TIME).store(commit.time_us, Ordering::Relaxed);
        });
        self.wake();
    }

    fn update(&self, stores: impl FnOnce(&Map)) {
        let sequence = self.map.u32(at::AT_SEQUENCE);
        let even = sequence.load(Ordering::Relaxed);
        sequence.store(even.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        stores(&self.map);
        sequence.store(even.wrapping_add(2), Ordering::Release);
    }

    fn wake(&self) {
        let word = self.map.u32(at::AT_NOTIFY);
        word.fetch_add(1, Ordering::Release);
        // SAFETY: `word` points into a mapping that lives as long as `self`; FUTEX_WAKE touches
        // no memory of ours.
        unsafe {
            libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX);
        }
    }
}

/// Makes a page under a temporary name and renames it, so that nobody ever maps a short file.
fn create(path: &Path, db_id: DbId) -> Result<(), PageError> {
    let temporary = path.with_extension("new");
    let mut page = [0; at::PAGE_BYTES];
    page[..8].copy_from_slice(&at::MAGIC);
    let version = at::LAYOUT_VERSION.to_le_bytes();
    page[at::AT_LAYOUT_VERSION..at::AT_LAYOUT_VERSION + 4].copy_from_slice(&version);
    page[at::AT_DB_ID..at::AT_DB_ID + 16].copy_from_slice(db_id.as_bytes());
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .open(&temporary)?;
    // Bytes that were really written are allocated: a full disk cannot fault the mapping later.
    file.write_all(&page)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    if let Some(parent) = path.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::time::Instant;

    fn commit(n: u64) -> Commit {
        Commit {
            position: Position {
                index: Index::new(n),
                hash: RunningHash::from_bytes([n as u8; 32]),
            },
            digest: StateDigest::from_u128(u128::from(n) << 64 | u128::from(n)),
            keys: n,
            time_us: n,
        }
    }

    #[test]
    fn what_is_published_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status");
        let db_id = DbId::random();
        let writer = StatusWriter::open_or_create(&path, db_id).unwrap();
        let page = StatusPage::open(&path).unwrap();
        assert_eq!(page.db_id(), db_id);
        assert_eq!(page.view().heartbeat_us, None);
        writer.set_generation(Generation::new(3));
        writer.set_process(42, 7);
        writer.set_state(NodeState::Following);
        writer.set_heartbeat(99);
        writer.publish(&commit(5));
        let view = page.view();
        assert_eq!(page.generation(), Generation::new(3));
        assert_eq!(page.index(), Index::new(5));
        assert_eq!(page.commit(), Some(commit(5)));
        assert_eq!((view.pid, view.start_time_us, view.commit_time_us), (42, 7, 5));
        assert_eq!(view.state, Some(NodeState::Following));
        assert_eq!(view.heartbeat_us, Some(99));
    }

    #[test]
    fn the_inode_survives_a_restart_and_a_dead_writer_is_repaired() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status");
        let db_id = DbId::random();
        let writer = StatusWriter::open_or_create(&path, db_id).unwrap();
        let page = StatusPage::open(&path).unwrap();
        writer.publish(&commit(5));
        writer.set_heartbeat(99);
        writer.map.u32(at::AT_SEQUENCE).fetch_add(1, Ordering::Relaxed);
        drop(writer);
        assert_eq!(
            page.commit(),
            None,
            "a writer that died on an odd sequence leaves a stuck page"
        );
        assert_eq!(page.view().heartbeat_us, Some(99));
        let writer = StatusWriter::open_or_create(&path, db_id).unwrap();
        assert_eq!(page.commit(), Some(commit(5)));
        assert!(!page.replaced(&path));
        writer.publish(&commit(6));
        assert_eq!(page.index(), Index::new(6));
    }

    #[test]
    fn another_databases_page_is_replaced_and_garbage_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status");
        StatusWriter::open_or_create(&path, DbId::random()).unwrap();
        let old = StatusPage::open(&path).unwrap();
        let db_id = DbId::random();
        StatusWriter::open_or_create(&path, db_id).unwrap();
        assert!(old.replaced(&path));
        assert_eq!(StatusPage::open(&path).unwrap().db_id(), db_id);
        std::fs::write(dir.path().join("short"), b"QSSTATUS").unwrap();
        assert!(StatusPage::open(&dir.path().join("short")).is_err());
        std::fs::write(dir.path().join("garbage"), [7; 4096]).unwrap();
        assert!(StatusPage::open(&dir.path().join("garbage")).is_err());
    }

    #[test]
    fn a_commit_is_never_torn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status");
        let writer = StatusWriter::open_or_create(&path, DbId::random()).unwrap();
        writer.publish(&commit(0));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let page = StatusPage::open(&path).unwrap();
                        let mut seen = 0;
                        while !done.load(Ordering::Relaxed) {
                            let Some(seen_now) = page.commit() else { continue };
                            let n = seen_now.position.index.get();
                            assert_eq!(seen_now, commit(n));
                            assert!(n >= seen, "went back from {seen} to {n}");
                            seen = n;
                        }
                    })
                })
                .collect();
            for n in 1..50_000 {
                writer.publish(&commit(n));
            }
            done.store(true, Ordering::Relaxed);
            readers.into_iter().for_each(|r| r.join().unwrap());
        });
    }

    #[test]
    fn a_sleeper_is_woken_by_a_commit_and_by_its_timeout() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status");
        let writer = StatusWriter::open_or_create(&path, DbId::random()).unwrap();
        let page = StatusPage::open(&path).unwrap();
        let seen = page.notify_word();
        let start = Instant::now();
        page.sleep_while(seen, Duration::from_millis(5));
        assert!(start.elapsed() >= Duration::from_millis(5));
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                let start = Instant::now();
                while page.notify_word() == seen {
                    page.sleep_while(seen, Duration::from_secs(600));
                }
                start.elapsed()
            });
            writer.publish(&commit(1));
            assert!(sleeper.join().unwrap() < Duration::from_secs(60));
        });
    }
}
