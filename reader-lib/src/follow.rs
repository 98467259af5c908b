//! Which generation is read, and how a reader gets to the next one.
//!
//! `CURRENT` and LMDB are the truth; the status page says in a nanosecond that it is worth looking
//! at them. The rules (DESIGN section 4, and `docs/ARCHITECTURE.md`):
//!
//! * the page's generation word is looked at *after* a transaction has begun; when it names a newer
//!   generation than the transaction's, the read begins again there;
//! * a generation that is gone when it is opened means that `CURRENT` has moved on: it is read anew;
//! * a reader never goes back: to a lower generation only when the directory was made anew, to a
//!   lower index of the same history never;
//! * what is open is served for as long as nothing newer can be: a directory that disappears, or
//!   that cannot be looked at, stops nobody. Another database in its place does, and so does a format
//!   to which the generation was raised and which this release cannot read.
//!
//! The page itself may be missing, replaced, or stuck with an old word. So every
//! [`READS_PER_CLOCK_LOOK`]th read looks at the clock, and once in [`LOOK_INTERVAL_MS`] at the
//! directory.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_utils::atomic::AtomicCell;
use nix::time::{ClockId, clock_gettime};
use quicksilver_format::layout;
use quicksilver_format::meta::Applied;
use quicksilver_format::{DbId, HistoryId, Index};
use quicksilver_lmdb::{LmdbError, OwnedReadTxn, ProcessMark, close_skipped};

use crate::environment::{Environment, live_generation};
use crate::error::{Error, Result};
use crate::pool::{Lease, Pool};
use crate::status_page::StatusPage;

/// A power of two. The clock costs a few nanoseconds, which this divides.
const READS_PER_CLOCK_LOOK: u32 = 16;
/// A look at the directory is two or three system calls.
const LOOK_INTERVAL_MS: u64 = 1_000;
/// How often a generation may disappear while it is being opened. Each time takes a whole switch.
const MAX_MOVES: usize = 100;

/// One database directory, followed through its generations.
#[derive(Debug)]
pub(crate) struct Followed {
    dir: PathBuf,
    db_id: DbId,
    process: ProcessMark,
    /// The status page; none when there is no usable one.
    page: AtomicCell<Option<&'static StatusPage>>,
    /// The last index when `live` was opened. After a power cut the page says less, until a
    /// replicator starts.
    opened_at: AtomicU64,
    /// Counts the environments that were followed: a lease of an older one is ended.
    epoch: AtomicU64,
    /// When the directory was last looked at, by the coarse clock.
    looked_at_ms: AtomicU64,
    live: Mutex<Environment>,
    pool: Pool,
}

impl Followed {
    /// Opens what is live in `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let environment = open_live(dir)?;
        let (_, index) = history_and_index(&environment)?;
        let followed = Followed {
            dir: dir.to_owned(),
            db_id: environment.db_id,
            process: ProcessMark::current(),
            page: AtomicCell::new(None),
            opened_at: AtomicU64::new(index.get()),
            epoch: AtomicU64::new(0),
            looked_at_ms: AtomicU64::new(coarse_clock_ms()),
            live: Mutex::new(environment),
            pool: Pool::new(),
        };
        followed.look_for_page()?;
        Ok(followed)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn db_id(&self) -> DbId {
        self.db_id
    }

    /// The status page, if there is a usable one.
    #[inline]
    pub(crate) fn page(&self) -> Option<&'static StatusPage> {
        self.page.load()
    }

    /// The last index that is visible, as far as the status page knows; none when there is no page.
    #[inline]
    pub(crate) fn index_by_page(&self) -> Option<Index> {
        let opened_at = Index::new(self.opened_at.load(Ordering::Relaxed));
        self.page().map(|page| page.index().max(opened_at))
    }

    /// Changes whenever another environment is read than before.
    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Refuses a forked child, in which nothing here may be used.
    #[inline]
    pub(crate) fn check_process(&self) -> Result<()> {
        if self.process.is_current() { Ok(()) } else { Err(self.forked()) }
    }

    #[cold]
    fn forked(&self) -> Error {
        LmdbError::forked("reading", &self.dir).into()
    }

    /// The environment that is read at present.
    pub(crate) fn environment(&self) -> Result<Environment> {
        self.read(|environment, _| Ok(environment.clone()))
    }

    /// Calls `read` with a transaction on the newest state.
    #[inline]
    pub(crate) fn read<R>(
        &self,
        read: impl FnOnce(&Environment, &OwnedReadTxn) -> Result<R>,
    ) -> Result<R> {
        let lease = self.take()?;
        let result = read(&lease.environment, &lease.txn);
        self.put(lease);
        result
    }

    /// A transaction on the newest state, to be [`put`](Self::put) back.
    #[inline]
    pub(crate) fn take(&self) -> Result<Box<Lease>> {
        let Some(mut lease) = self.pool.take() else { return self.take_new() };
        lease.uses = lease.uses.wrapping_add(1);
        let is_fresh = lease.epoch == self.epoch()
            && lease.txn.renew().is_ok()
            && !self.has_moved_on(&lease.environment)
            && (!lease.uses.is_multiple_of(READS_PER_CLOCK_LOOK) || !self.is_look_due());
        if is_fresh {
            return Ok(lease);
        }
        // Its slot is free for the one that takes its place.
        drop(lease);
        self.take_new()
    }

    /// Gives a lease back.
    #[inline]
    pub(crate) fn put(&self, lease: Box<Lease>) {
        // A stale one would keep an old generation open for as long as its place is not used.
        if lease.epoch == self.epoch() {
            self.pool.put(lease);
        }
    }

    /// Whether the page names a newer generation. Asked after a transaction has begun: commits go
    /// to the new generation only after the page has named it, so what was begun before that sees
    /// everything.
    #[inline]
    fn has_moved_on(&self, environment: &Environment) -> bool {
        self.page.load().is_some_and(|page| page.generation() > environment.generation)
    }

    fn is_look_due(&self) -> bool {
        let last_ms = self.looked_at_ms.load(Ordering::Relaxed);
        coarse_clock_ms().wrapping_sub(last_ms) >= LOOK_INTERVAL_MS
    }

    #[cold]
    fn take_new(&self) -> Result<Box<Lease>> {
        self.check_process()?;
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..MAX_MOVES {
            if self.is_look_due() {
                self.look_around(&mut live)?;
            }
            let txn = self.begin(&live)?;
            if !self.has_moved_on(&live) {
                let (environment, epoch) = (live.clone(), self.epoch());
                return Ok(Box::new(Lease { environment, txn, epoch, uses: 0 }));
            }
            drop(txn);
            if !self.follow(&mut live)? {
                // The page is ahead of CURRENT, which no writer does: CURRENT is right.
                let (environment, epoch) = (live.clone(), self.epoch());
                let txn = self.begin(&live)?;
                return Ok(Box::new(Lease { environment, txn, epoch, uses: 0 }));
            }
        }
        Err(self.no_database(format!("{MAX_MOVES} generations, none of which stayed")))
    }

    fn begin(&self, environment: &Environment) -> Result<OwnedReadTxn> {
        match environment.env.read_owned() {
            // Idle leases of other threads have the slots that are missing here.
            Err(LmdbError::ReadersFull(_)) if self.pool.take_any().is_some() => {
                Ok(environment.env.read_owned()?)
            }
            other => Ok(other?),
        }
    }

    /// Looks whether page and directory are what they were.
    fn look_around(&self, live: &mut MutexGuard<'_, Environment>) -> Result<()> {
        let looked = self
            .look_for_page()
            .and_then(|()| self.follow(live))
            .and_then(|_| live.check_readable(&live.env.read()?));
        match looked {
            Ok(()) => {}
            // Serve what there is.
            Err(Error::NoDatabase { .. } | Error::Io { .. } | Error::Lmdb(_)) => {}
            // Looks again with the next read, so that the error goes when its cause does.
            Err(refused) => {
                self.forget_leases();
                return Err(refused);
            }
        }
        close_skipped();
        self.looked_at_ms.store(coarse_clock_ms(), Ordering::Relaxed);
        Ok(())
    }

    /// Maps the page, when there is none or it was replaced.
    pub(crate) fn look_for_page(&self) -> Result<()> {
        let path = self.dir.join(layout::STATUS);
        if self.page.load().is_some_and(|page| !page.replaced(&path)) {
            return Ok(());
        }
        // The page is a hint; without it the reader asks LMDB.
        let Ok(page) = StatusPage::open_shared(&path) else { return Ok(()) };
        if page.db_id() != self.db_id {
            return Err(Error::WrongDatabase { path, expected: self.db_id, found: page.db_id() });
        }
        self.page.store(Some(page));
        Ok(())
    }

    /// Moves to the generation that `CURRENT` names; `false` when that is the one that is read.
    fn follow(&self, live: &mut MutexGuard<'_, Environment>) -> Result<bool> {
        if live_generation(&self.dir)? == live.generation && live.env.is_in_place()? {
            return Ok(false);
        }
        let next = open_live(&self.dir)?;
        if next.db_id != self.db_id {
            let (path, expected, found) = (self.dir.clone(), self.db_id, next.db_id);
            return Err(Error::WrongDatabase { path, expected, found });
        }
        let index = self.refuse_the_past(live, &next)?;
        **live = next;
        self.opened_at.store(index.get(), Ordering::Relaxed);
        self.forget_leases();
        Ok(true)
    }

    /// A reader that has seen an index of a history sees nothing older of it. The index of the new one.
    fn refuse_the_past(&self, old: &Environment, new: &Environment) -> Result<Index> {
        let (new_history, new_index) = history_and_index(new)?;
        match history_and_index(old) {
            Ok((old_history, old_index)) if old_history == new_history && new_index < old_index => {
                let path = self.dir.join(new.generation.to_string());
                Err(Error::Behind { path, index: new_index, seen: old_index })
            }
            // Or what was read cannot be read any more, so nothing says that this is older.
            _ => Ok(new_index),
        }
    }

    fn forget_leases(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.pool.clear();
    }

    fn no_database(&self, found: String) -> Error {
        Error::NoDatabase { path: self.dir.clone(), found }
    }
}

/// Opens the generation that `CURRENT` names.
fn open_live(dir: &Path) -> Result<Environment> {
    let mut named = live_generation(dir)?;
    for _ in 0..MAX_MOVES {
        match Environment::open_reader(dir, named) {
            Err(Error::NoDatabase { path, found }) => {
                let now = live_generation(dir)?;
                if now == named {
                    return Err(Error::NoDatabase { path, found });
                }
                named = now;
            }
            opened => return opened,
        }
    }
    let found = format!("{MAX_MOVES} generations, none of which stayed");
    Err(Error::NoDatabase { path: dir.to_owned(), found })
}

fn history_and_index(environment: &Environment) -> Result<(HistoryId, Index)> {
    let txn = environment.env.read()?;
    let Applied { position, .. } = environment.applied(&txn)?;
    Ok((environment.identity(&txn)?.history, position.index))
}

/// Milliseconds of a clock that costs little and is good to a few milliseconds.
fn coarse_clock_ms() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(0, |now| {
        let (seconds, nanos) = (now.tv_sec().unsigned_abs(), now.tv_nsec().unsigned_abs());
        seconds * 1_000 + nanos / 1_000_000
    })
}
