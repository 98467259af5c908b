//! The snapshots that downstreams fetch, and the one that this node does.
//!
//! `snapshots/offered` holds at most one of them. It is offered for as long as this node's log goes on
//! from where it ends; otherwise, and when there is none, one is made. What this node has fetched it
//! offers in turn, so that a tree fetches the same file.
//!
//! While one is fetched, the maintenance makes a generation of what has come. When the fetch is given
//! up, or another snapshot comes in its place, so is that; what has come of the file stays.
//!
//! Invariant: the log after the end of a snapshot that is offered is held, within
//! `retention.held_bytes`, for [`OFFER_HELD`] after it was last asked for.

use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quicksilver::build::BuildError;
use quicksilver::build::snapshot::{self, Receiving, SnapshotFile};
use quicksilver_format::Index;
use quicksilver_protocol::{Offered, Partial};
use tokio::sync::oneshot;

use super::replica_log::{self, DurableCell};
use crate::net::node::BoxFuture;
use crate::net::replication::{NotNow, ReadFailure, ServedSnapshot, SnapshotStore};
use crate::store::hold::{LogHold, LogHolds};
use crate::store::maintenance::{
    BootstrapAnswer, JobKind, Maintenance, NotInstalled, NotStarted, check_room_for,
};
use crate::store::{Asker, Live};

/// Beside the data directories of a machine: who holds it bootstraps.
const ADMISSION: &str = ".bootstrap.lock";
/// How long the log after an offer is held when nobody asks for it any more.
const OFFER_HELD: Duration = Duration::from_secs(600);
/// When whoever wants a snapshot that is being made, or another job is in the way, asks again.
const RETRY_MS: u64 = 1_000;

/// The files, and who makes them.
#[derive(Debug)]
pub(super) struct Snapshots {
    dir: PathBuf,
    live: DurableCell,
    holds: LogHolds,
    maintenance: Maintenance,
    fetch: Mutex<Fetch>,
    offer: Mutex<Option<Offer>>,
}

/// What is fetched, and made a generation of.
#[derive(Debug, Default)]
struct Fetch {
    receiving: Option<Receiving>,
    /// How that went, once it has ended.
    building: Option<oneshot::Receiver<BootstrapAnswer>>,
}

/// What is offered.
#[derive(Debug)]
struct Offer {
    file: Arc<SnapshotFile>,
    _hold: LogHold,
    asked: Instant,
}

impl Snapshots {
    pub(super) fn new(
        dir: PathBuf,
        live: DurableCell,
        holds: LogHolds,
        maintenance: Maintenance,
    ) -> Self {
        let (fetch, offer) = (Mutex::default(), Mutex::default());
        Snapshots { dir, live, holds, maintenance, fetch, offer }
    }

    /// Lets go of the log after an offer that nobody wants any more.
    pub(super) fn let_go(&self) {
        let mut offer = lock(&self.offer);
        if offer.as_ref().is_some_and(|offer| offer.asked.elapsed() > OFFER_HELD) {
            *offer = None;
        }
    }

    fn offered_dir(&self) -> PathBuf {
        snapshot::offered_in(&self.dir)
    }

    /// The newest one of this database on disk, and where it ends.
    fn newest(&self, live: &Live) -> Result<Option<(SnapshotFile, Index)>, BuildError> {
        let files = snapshot::list_in(&self.offered_dir())?;
        let newest = files.into_iter().filter_map(|(_, file)| file.ok()).next_back();
        let newest = newest.filter(|file| file.manifest().identity.db_id == live.identity.db_id);
        Ok(newest.map(|file| {
            let end = file.manifest().end.position.index;
            (file, end)
        }))
    }

    /// The one on disk, if what this node's log has goes on from it, and it reaches far enough.
    fn usable(&self, at_least: Index) -> Result<Option<SnapshotFile>, BuildError> {
        let live = replica_log::durable(&self.live);
        let log = &live.state.log;
        let usable = self.newest(&live)?.filter(|(_, end)| {
            *end >= at_least && end.next() >= log.oldest && *end <= log.last.index
        });
        Ok(usable.map(|(file, _)| file))
    }

    /// What has come before: of a fetch that was interrupted, or all of one that this node then did not
    /// get to go on in.
    fn resume(&self) -> Result<Option<Receiving>, BuildError> {
        let offered = self.offered_dir();
        if let Some(resumed) = Receiving::resume(&offered)? {
            return Ok(Some(resumed));
        }
        let live = replica_log::durable(&self.live);
        match self.newest(&live)? {
            Some((file, end)) if end > live.state.log.last.index => {
                Receiving::reopen(&file)?;
                Receiving::resume(&offered)
            }
            _ => Ok(None),
        }
    }

    /// Has a generation made of what comes, unless it is being made.
    fn build(&self, fetch: &mut Fetch) -> Result<(), ReadFailure> {
        if let (None, Some(receiving)) = (&fetch.building, &mut fetch.receiving) {
            let (tell, told) = oneshot::channel();
            let incoming = receiving.incoming().map_err(failure)?;
            let asker = Asker::new(move |answer| {
                // Whoever has given it up listens no more.
                let _ = tell.send(answer);
            });
            self.maintenance.bootstrap(Box::new(incoming), asker);
            fetch.building = Some(told);
        }
        Ok(())
    }

    /// Every block is here: the file, and the building of its generation.
    fn finish(&self) -> Result<(SnapshotFile, oneshot::Receiver<BootstrapAnswer>), ReadFailure> {
        let mut fetch = lock(&self.fetch);
        self.build(&mut fetch)?;
        let (Some(receiving), Some(building)) = (fetch.receiving.take(), fetch.building.take())
        else {
            return Err(failure("a snapshot that was not begun"));
        };
        let file = receiving.finish().map_err(failure)?;
        remove_others(&file);
        Ok((file, building))
    }

    fn begin_job(&self, kind: JobKind) -> Result<u64, NotStarted> {
        let (tell, told) = std::sync::mpsc::channel();
        self.maintenance.begin(
            kind,
            Asker::new(move |answer| {
                let _ = tell.send(answer);
            }),
        );
        told.recv().unwrap_or(Err(NotStarted::Leaving))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failure(e: impl std::fmt::Display) -> ReadFailure {
    ReadFailure(e.to_string())
}

impl SnapshotStore for Snapshots {
    fn admission(&self) -> Result<Option<Box<dyn Send>>, ReadFailure> {
        let path = self.dir.parent().unwrap_or(&self.dir).join(ADMISSION);
        let file = match File::options().create(true).truncate(false).write(true).open(&path) {
            Ok(file) => file,
            Err(error) => {
                // Whoever may not write there shares the disk with nobody who does.
                tracing::debug!(%error, path = %path.display(), "bootstrapping without admission");
                return Ok(Some(Box::new(())));
            }
        };
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(failure(e)),
        }
    }

    fn partial(&self) -> Result<Option<Partial>, ReadFailure> {
        let mut fetch = lock(&self.fetch);
        if fetch.receiving.is_none() {
            fetch.receiving = self.resume().map_err(failure)?;
        }
        Ok(fetch.receiving.as_ref().map(|receiving| Partial {
            identity: receiving.identity(),
            manifest: receiving.manifest().clone(),
            next_block: receiving.next_block(),
        }))
    }

    fn begin(&self, manifest: &[u8]) -> Result<(), ReadFailure> {
        let mut fetch = lock(&self.fetch);
        *fetch = Fetch::default();
        let begun = Receiving::begin(&self.offered_dir(), manifest).map_err(failure)?;
        // The file, and the generation that is made of it.
        let bytes = 2 * begun.manifest().blocks_bytes();
        if let Err(no_room) = check_room_for(&self.dir, bytes, "a snapshot and its generation") {
            // A manifest that stays would be gone on with the next time, without this question.
            Receiving::forget(&self.offered_dir()).map_err(failure)?;
            return Err(failure(no_room));
        }
        fetch.receiving = Some(begun);
        self.build(&mut fetch)
    }

    fn block(&self, number: u32, bytes: Bytes) -> Result<(), ReadFailure> {
        let mut fetch = lock(&self.fetch);
        let Some(receiving) = &mut fetch.receiving else {
            return Err(failure("a block of a snapshot that was not begun"));
        };
        receiving.push(number, bytes).map_err(failure)?;
        self.build(&mut fetch)?;
        // What is in the way of the generation is not found out at the end of the fetch only.
        match fetch.building.as_mut().map(oneshot::Receiver::try_recv) {
            Some(Ok(Err(e))) => {
                *fetch = Fetch::default();
                if e.is_bad {
                    Receiving::forget(&self.offered_dir()).map_err(failure)?;
                }
                Err(failure(e))
            }
            _ => Ok(()),
        }
    }

    fn give_up(&self) -> Result<(), ReadFailure> {
        let mut fetch = lock(&self.fetch);
        fetch.building = None;
        fetch.receiving.as_mut().map_or(Ok(()), Receiving::pause).map_err(failure)
    }

    fn install(&self) -> Result<BoxFuture<'static, Result<(), String>>, ReadFailure> {
        let (file, building) = self.finish()?;
        Ok(Box::pin(async move {
            match building.await {
                Ok(Ok(())) => {
                    // What it became is on disk; others are served from the file.
                    tokio::task::spawn_blocking(move || {
                        if let Err(error) = file.sync() {
                            tracing::warn!(%error, "the snapshot may not survive a power cut");
                        }
                    });
                    Ok(())
                }
                Ok(Err(NotInstalled { why, is_bad })) => {
                    if is_bad {
                        let remove = move || std::fs::remove_file(file.path());
                        let _ = tokio::task::spawn_blocking(remove).await;
                    }
                    Err(why)
                }
                Err(_) => Err(NotStarted::Leaving.to_string()),
            }
        }))
    }

    fn find(&self, at_least: Index) -> Result<Box<dyn ServedSnapshot>, NotNow> {
        let not_now = |why: String| NotNow { retry_after_ms: RETRY_MS, why };
        let own = replica_log::durable(&self.live).state.log.last.index;
        if own < at_least {
            return Err(not_now(format!(
                "it is at {own} itself, a snapshot has to reach {at_least}"
            )));
        }
        let usable = self.usable(at_least).map_err(|e| not_now(e.to_string()))?;
        let Some(file) = usable else {
            *lock(&self.offer) = None;
            return Err(not_now(match self.begin_job(JobKind::Offer) {
                Ok(_) => "it makes a snapshot".to_owned(),
                Err(e) => e.to_string(),
            }));
        };
        let mut offer = lock(&self.offer);
        let same = offer.take().filter(|offer| offer.file.identity() == file.identity());
        let offer = offer.insert(match same {
            Some(offer) => Offer { asked: Instant::now(), ..offer },
            None => Offer {
                _hold: self.holds.hold(file.manifest().end.position.index),
                file: Arc::new(file),
                asked: Instant::now(),
            },
        });
        Ok(Box::new(Served(offer.file.clone())))
    }
}

/// There is one at a time.
fn remove_others(file: &SnapshotFile) {
    let Some(dir) = file.path().parent() else { return };
    for (path, _) in snapshot::list_in(dir).unwrap_or_default() {
        if path != file.path() {
            // The next one removes it.
            let _ = std::fs::remove_file(path);
        }
    }
}

struct Served(Arc<SnapshotFile>);

impl ServedSnapshot for Served {
    fn offered(&self) -> Offered {
        let manifest = self.0.manifest();
        Offered {
            identity: self.0.identity(),
            manifest: manifest.encode().into(),
            blocks: u32::try_from(manifest.blocks.len()).unwrap_or(u32::MAX),
        }
    }

    fn block(&self, number: u32) -> Result<Bytes, ReadFailure> {
        let mut buffer = Vec::new();
        match self.0.block(number as usize, &mut buffer) {
            Ok(()) => Ok(buffer.into()),
            Err(e) => {
                // Nobody can use it: the next one who asks has another one made.
                let _ = std::fs::remove_file(self.0.path());
                Err(failure(e))
            }
        }
    }
}
