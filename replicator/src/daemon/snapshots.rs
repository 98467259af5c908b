//! The snapshots that downstreams fetch, and the one that this node does.
//!
//! `snapshots/offered` holds at most one of them. It is offered for as long as this node's log goes on
//! from where it ends; otherwise, and when there is none, one is made. What this node has fetched it
//! offers in turn, so that a tree fetches the same file.
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
use crate::store::maintenance::{JobKind, Maintenance, NotStarted};
use crate::store::{Asker, Live};

/// Beside the data directories of a machine: who holds it bootstraps.
const ADMISSION: &str = ".bootstrap.lock";
/// How long the log after an offer is held when nobody asks for it any more.
const OFFER_HELD: Duration = Duration::from_secs(600);
/// When whoever wants a snapshot that is being made, or another job is in the way, asks again.
const RETRY_MS: u64 = 1_000;
/// Between two looks at a job.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The files, and who makes them.
#[derive(Debug)]
pub(super) struct Snapshots {
    dir: PathBuf,
    live: DurableCell,
    holds: LogHolds,
    maintenance: Maintenance,
    receiving: Mutex<Option<Receiving>>,
    offer: Mutex<Option<Offer>>,
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
        let (receiving, offer) = (Mutex::default(), Mutex::default());
        Snapshots { dir, live, holds, maintenance, receiving, offer }
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

    /// The one on disk, if what this node's log has goes on from it, and it reaches far enough.
    fn usable(&self, at_least: Index) -> Result<Option<SnapshotFile>, BuildError> {
        let Live { identity, state, .. } = replica_log::durable(&self.live);
        let newest = snapshot::list_in(&self.offered_dir())?;
        let newest = newest.into_iter().filter_map(|(_, file)| file.ok()).next_back();
        Ok(newest.filter(|file| {
            let manifest = file.manifest();
            let end = manifest.end.position.index;
            manifest.identity.db_id == identity.db_id
                && end >= at_least
                && end.next() >= state.log.oldest
                && end <= state.log.last.index
        }))
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
        let mut receiving = lock(&self.receiving);
        if receiving.is_none() {
            *receiving = Receiving::resume(&self.offered_dir()).map_err(failure)?;
        }
        Ok(receiving.as_ref().map(|receiving| Partial {
            identity: receiving.identity(),
            manifest: receiving.manifest().clone(),
            next_block: receiving.next_block(),
        }))
    }

    fn begin(&self, manifest: &[u8]) -> Result<(), ReadFailure> {
        let mut receiving = lock(&self.receiving);
        *receiving = None;
        let begun = Receiving::begin(&self.offered_dir(), manifest).map_err(failure)?;
        // The file, and the generation that is made of it.
        let bytes = 2 * begun.manifest().blocks_bytes();
        let room = crate::store::maintenance::check_room_for(
            &self.dir,
            bytes,
            "a snapshot and its generation",
        );
        if let Err(no_room) = room {
            // A manifest that stays would be gone on with the next time, without this question.
            Receiving::forget(&self.offered_dir()).map_err(failure)?;
            return Err(failure(no_room));
        }
        *receiving = Some(begun);
        Ok(())
    }

    fn block(&self, number: u32, bytes: &[u8]) -> Result<(), ReadFailure> {
        match &mut *lock(&self.receiving) {
            Some(receiving) => receiving.push(number, bytes).map_err(failure),
            None => Err(failure("a block of a snapshot that was not begun")),
        }
    }

    fn install(&self) -> BoxFuture<'static, Result<(), String>> {
        let finished = match lock(&self.receiving).take() {
            Some(receiving) => receiving.finish().map_err(|e| e.to_string()),
            None => Err("a snapshot that was not begun".to_owned()),
        };
        let maintenance = self.maintenance.clone();
        Box::pin(async move {
            let file = finished?;
            remove_others(&file);
            let job = loop {
                let (tell, told) = oneshot::channel();
                maintenance.begin(
                    JobKind::Bootstrap,
                    Asker::new(move |answer| {
                        let _ = tell.send(answer);
                    }),
                );
                match told.await {
                    Ok(Ok(job)) => break job,
                    Ok(Err(NotStarted::Busy { .. })) => tokio::time::sleep(LOOK_INTERVAL).await,
                    Ok(Err(NotStarted::Leaving)) | Err(_) => {
                        return Err(NotStarted::Leaving.to_string());
                    }
                }
            };
            loop {
                let status = maintenance.status();
                match status.last.get(&JobKind::Bootstrap).filter(|last| last.job == job) {
                    Some(last) if last.ok => {
                        // What it became is on disk; others are served from the file.
                        let synced = tokio::task::spawn_blocking(move || file.sync()).await;
                        if let Ok(Err(error)) = synced {
                            tracing::warn!(%error, "the snapshot may not survive a power cut");
                        }
                        return Ok(());
                    }
                    Some(last) => {
                        // Whatever is wrong with it, it is not tried again.
                        let _ = std::fs::remove_file(file.path());
                        return Err(last.message.clone());
                    }
                    None => tokio::time::sleep(LOOK_INTERVAL).await,
                }
            }
        })
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
