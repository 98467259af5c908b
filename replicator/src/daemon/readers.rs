//! The look at the reader table every few seconds: frees the slots of the dead, and names whoever
//! holds a snapshot for too long.
//!
//! Invariant: nothing here waits for a reader, and nothing ends one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quicksilver::Reader;
use quicksilver_format::layout::Generation;
use quicksilver_lmdb::{Env, LmdbError};
use tokio::sync::watch;

use crate::metrics;
use crate::net::node::{OldestReader, ReadersStatus};
use crate::readers::program_of;
use crate::readers::watch::{Seen, Snapshot, Watch};

/// How long the pages of a reader that died in a transaction stay held back, at most, and how
/// exactly the age of a snapshot is known.
const LOOK_INTERVAL: Duration = Duration::from_secs(3);

/// What the last look showed, for `/status`; `None` before the first.
#[derive(Debug, Clone, Default)]
pub(super) struct ReadersView(Arc<Mutex<Option<ReadersStatus>>>);

impl ReadersView {
    fn set(&self, status: ReadersStatus) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
    }

    /// What it was.
    pub(super) fn get(&self) -> Option<ReadersStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Looks for as long as the process lives. A snapshot that is held for longer than the bound while
/// others are written is a warning.
pub(super) async fn watch(reader: Reader, view: ReadersView, bound: watch::Receiver<Duration>) {
    let mut watched: Option<(Generation, Watch)> = None;
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    loop {
        ticks.tick().await;
        let looked = reader.environment().and_then(|live| {
            // Another generation has another table, and numbers its commits anew.
            let watch = match watched.take() {
                Some((generation, watch)) if generation == live.generation => watch,
                _ => Watch::new(*bound.borrow()),
            };
            let (_, watch) = watched.insert((live.generation, watch));
            watch.set_bound(*bound.borrow());
            // It takes a lock of the environment, but only for microseconds.
            Ok(look(&live.env, &view, watch)?)
        });
        if let Err(e) = looked {
            tracing::warn!(error = %e, "the reader table could not be looked at");
        }
    }
}

fn look(env: &Env, view: &ReadersView, watch: &mut Watch) -> Result<(), LmdbError> {
    let dead = env.reader_check()?;
    if dead > 0 {
        tracing::info!(dead, "freed the slots of readers that died");
    }
    let slots = env.readers()?;
    let info = env.info()?;
    let Seen { used, oldest, overdue } = watch.look(Instant::now(), &slots, info.last_txn_id);
    for snapshot in &overdue {
        warn(snapshot);
    }
    let oldest = oldest.map(|oldest| OldestReader {
        pid: oldest.pid,
        name: program_of(oldest.pid),
        age_seconds: oldest.age.as_secs_f64(),
        lag_commits: oldest.lag_commits,
    });
    let status = ReadersStatus { used, limit: info.max_readers, oldest };
    metrics::readers(&status);
    view.set(status);
    Ok(())
}

fn warn(snapshot: &Snapshot) {
    tracing::warn!(
        pid = snapshot.pid,
        program = program_of(snapshot.pid).as_deref().unwrap_or("unknown"),
        held_seconds = snapshot.age.as_secs(),
        commits_behind = snapshot.lag_commits,
        "a reader holds an old snapshot: pages that were freed since cannot be used again, and the \
         file grows until it lets go. Have the program end its snapshots soon, or end the program; \
         `qsctl readers` lists them"
    );
}
