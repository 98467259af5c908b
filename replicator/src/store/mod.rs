//! The store: a database's data and log, and the one process that writes them.
//!
//! [`Store::apply`] is the only way in: it takes batches that continue the log and writes data,
//! log, index, running hash and digest in one LMDB transaction ([`apply`](mod@apply)). `create`
//! makes the first generation, [`Standby`] is on the way to become the one writer, [`gc`] collects
//! the oldest log, [`writer`] is the thread on which a relay applies what its upstream sends, and
//! [`maintenance`] is the one that compacts, takes snapshots and verifies.
//!
//! What is written is in the format that the database is in; [`Store::raise_format`] changes it.
//! [`Store::switch`] goes on in another generation. Both are for between two commits
//! ([`StoreOrder`]).

pub mod apply;
mod create;
mod error;
pub mod gc;
pub mod hold;
pub mod maintenance;
mod order;
mod pulse;
mod standby;
pub mod writer;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use quicksilver::Reader;
use quicksilver::build::rebuild::Rebuilt;
use quicksilver::build::{self, BuildError, Built, RoleLock, directory};
use quicksilver::environment::Environment;
use quicksilver::status_page::StatusWriter;
use quicksilver_format::layout::{self, Generation};
use quicksilver_format::meta::Identity;
use quicksilver_format::status::{Commit, NodeState};
use quicksilver_format::{Batch, DbId, HistoryId, Index, Position};

pub use apply::State;
pub use create::Sizes;
pub use error::StoreError;
use gc::Keep;
pub use gc::Retention;
pub use hold::LogHolds;
pub use order::{
    Asker, FormatAnswer, FormatChange, FormatRefusal, StoreOrder, SwitchAnswer, SwitchRefusal,
};
pub use pulse::Pulse;
pub use standby::{Standby, take_role};

/// Microseconds since the Unix epoch: for the fields that people and graphs read, and for the age
/// at which the log is collected. Order, hashes and acknowledgements never depend on it.
pub fn wall_clock_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// What one commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The bookkeeping after it.
    pub state: State,
    /// Batches in it.
    pub batches: usize,
    /// Entries in it.
    pub entries: u64,
    /// Bytes of canonical entries in it.
    pub payload_bytes: u64,
    /// How long writing and syncing took.
    pub duration: Duration,
    /// How long writing took: until all of it was in the transaction.
    pub writing: Duration,
}

/// The time as the one writer, from the moment the role lock is held. Its beginning and end are in
/// the log, by a clock that all processes of a machine share.
#[derive(Debug)]
struct Tenure {
    role: RoleLock,
}

impl Tenure {
    fn begin(role: RoleLock) -> Self {
        let (pid, boot_us) = (std::process::id(), boot_clock_us());
        tracing::info!(pid, boot_us, lock = %role.path().display(), "write role taken");
        Tenure { role }
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        // Said before it is true: the next holder may come at once.
        let (pid, boot_us) = (std::process::id(), boot_clock_us());
        tracing::info!(pid, boot_us, lock = %self.role.path().display(), "write role given up");
    }
}

fn boot_clock_us() -> i64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0, |now| now.tv_sec() * 1_000_000 + now.tv_nsec() / 1_000)
}

/// What is live and durable: the generation, and what it says.
#[derive(Debug, Clone)]
pub struct Live {
    /// The live generation.
    pub environment: Environment,
    /// Which database, and which of its pasts.
    pub identity: Identity,
    /// The bookkeeping after the last commit.
    pub state: State,
}

/// A database opened for writing.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    environment: Environment,
    identity: Identity,
    state: State,
    retention: Retention,
    holds: LogHolds,
    /// Batches that a commit takes at most: so few after one that would have freed too much that the
    /// next ones are not written in vain, too, and twice as many after each that was committed.
    at_once: usize,
    page: StatusWriter,
    /// Last: the role is given up after everything else.
    _tenure: Tenure,
}

impl Store {
    /// Opens the database in `dir` for writing, or makes an empty one, and becomes its writer.
    ///
    /// `history` is what a new database begins with: random at a root, nil where it will be
    /// learnt from an upstream.
    pub fn open(
        dir: &Path,
        db_id: DbId,
        history: HistoryId,
        sizes: Sizes,
    ) -> Result<Self, StoreError> {
        let role = take_role(dir)?;
        Standby::unopened(dir, db_id, sizes).take_over(role, history)
    }

    /// Begins a tenure as the writer.
    fn begin(
        dir: PathBuf,
        mut environment: Environment,
        role: RoleLock,
    ) -> Result<Self, StoreError> {
        // The rename of CURRENT that a crash came after may not be on disk yet, and what is committed
        // from here on is in the generation that it names.
        directory::sync(&dir)?;
        // Nor may the end of the last commit, which a process that dies in the middle of it leaves to
        // the kernel. It is there for whoever looks, and about to be told to everybody.
        directory::sync(&environment.env.path().join("data.mdb"))?;
        // After a crash a read transaction can show the state before the last durable commit as
        // long as another process holds the environment open; a write transaction cannot.
        let txn = environment.env.write()?;
        let state = State::read(&environment, &txn)?;
        let identity = environment.identity(&txn)?;
        // The writer before this one may have raised it while this process waited beside it.
        let format = environment.format_record(&txn)?;
        txn.abort();
        format.check_writable().map_err(|source| quicksilver::Error::Format {
            path: environment.env.path().to_owned(),
            source,
        })?;
        environment.format = format;
        let path = dir.join(layout::STATUS);
        let page = StatusWriter::open_or_create(&path, environment.db_id)
            .map_err(|source| StoreError::StatusPage { path, source })?;
        let tenure = Tenure::begin(role);
        let store = Store {
            dir,
            environment,
            identity,
            state,
            retention: Retention::UNLIMITED,
            holds: LogHolds::default(),
            at_once: usize::MAX,
            page,
            _tenure: tenure,
        };
        store.page.set_generation(store.environment.generation);
        store.page.set_process(std::process::id(), wall_clock_us());
        store.page.set_state(NodeState::Starting);
        store.publish();
        Ok(store)
    }

    /// From the next commit on, keeps no more of the log than this.
    pub fn set_retention(&mut self, retention: Retention) {
        self.retention = retention;
    }

    /// Where others say which part of the log must stay.
    pub fn holds(&self) -> &LogHolds {
        &self.holds
    }

    /// A reader, for this process; it shares the environment.
    pub fn reader(&self) -> quicksilver::Result<Reader> {
        Reader::open(&self.dir)
    }

    /// The opened generation.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The opened generation, with what it says.
    pub fn live(&self) -> Live {
        let environment = self.environment.clone();
        Live { environment, identity: self.identity, state: self.state }
    }

    /// Which database, and which of its pasts.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The bookkeeping after the last commit.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Where the log ends.
    pub fn end(&self) -> Position {
        self.state.log.last
    }

    /// Writes batches that continue the log, durably and all at once, and makes them visible. When
    /// they free too many chunks for one commit, these are only the first of them ([`Committed`]).
    ///
    /// What is already stored is skipped. A batch that does not follow is refused before
    /// anything is written, and the store is as it was.
    pub fn apply(&mut self, batches: &[Batch]) -> Result<Committed, StoreError> {
        let started = Instant::now();
        let stored = batches.iter().take_while(|b| b.last() <= self.end().index).count();
        let batches = &batches[stored..];
        let mut end = self.end();
        for batch in batches {
            if !batch.continues(&end) {
                return Err(StoreError::NotNext { expected: end, found: batch.before() });
            }
            end = batch.after();
        }
        let mut writing = Duration::ZERO;
        let mut batches = &batches[..batches.len().min(self.at_once)];
        if !batches.is_empty() {
            let keep =
                Keep::now(self.retention, &self.holds, self.environment.env.info()?.map_bytes);
            let written = apply::apply(&self.environment, self.state, batches, keep)?;
            writing = started.elapsed();
            written.txn.commit()?;
            self.state = written.state;
            self.publish();
            let all = written.batches == batches.len();
            self.at_once = if all { self.at_once.saturating_mul(2) } else { written.batches };
            batches = &batches[..written.batches];
        }
        Ok(Committed {
            state: self.state,
            batches: batches.len(),
            entries: batches.iter().map(|b| b.len() as u64).sum(),
            payload_bytes: batches.iter().map(|b| b.payload_bytes() as u64).sum(),
            duration: started.elapsed(),
            writing,
        })
    }

    /// Takes over the history of the upstream, whose log was found to continue this one's.
    pub fn adopt_history(&mut self, history: HistoryId) -> Result<(), StoreError> {
        if self.identity.history == history {
            return Ok(());
        }
        let identity = Identity { history, ..self.identity };
        let mut txn = self.environment.env.write()?;
        txn.put(self.environment.meta, Identity::KEY, &identity.encode())?;
        txn.commit()?;
        self.identity = identity;
        Ok(())
    }

    /// Raises the format of the database to the newest that this release can write, if it is not in
    /// that one; what is written from then on is in it.
    pub fn raise_format(&mut self) -> Result<FormatChange, StoreError> {
        let change = build::raise_format(&mut self.environment).map_err(StoreError::of_write)?;
        let FormatChange { from, to } = change;
        if change.is_change() {
            tracing::warn!(
                from,
                to,
                "the format was finalised: releases that do not know it cannot use this database \
                 any more"
            );
        }
        Ok(change)
    }

    /// Goes on in `copy`, which is brought to where this generation is; returns that one, which readers
    /// may still be in. Nobody is held up for longer than a commit takes.
    ///
    /// # Errors
    /// [`StoreError::Build`] when the copy is of no use; then it is gone, and nothing has changed.
    /// After [`StoreError::Switch`] this store must not be used any more.
    pub fn switch(&mut self, copy: Rebuilt) -> Result<Environment, StoreError> {
        let next = copy.finish()?.generation;
        self.go_on_in(next)
    }

    /// Goes on in a generation that was restored from a snapshot: of the same database, and not behind
    /// this one. Returns the one before, which readers may still be in.
    ///
    /// # Errors
    /// As [`Self::switch`].
    pub fn install(&mut self, restored: &Built) -> Result<Environment, StoreError> {
        let (found, live) = (restored.position.index, self.end().index);
        if found < live {
            let path = self.dir.join(restored.generation.to_string());
            let _ = directory::remove_generation(&self.dir, restored.generation);
            return Err(BuildError::Behind { path, found, live }.into());
        }
        self.go_on_in(restored.generation)
    }

    fn go_on_in(&mut self, next: Generation) -> Result<Environment, StoreError> {
        let max_readers = self.environment.env.info()?.max_readers;
        let ready = self.open_next(next, max_readers);
        let Live { environment, identity, state } = match ready {
            Ok(ready) => ready,
            Err(e) => {
                // What is left of it goes at the next start.
                let _ = directory::remove_generation(&self.dir, next);
                return Err(e.into());
            }
        };
        // From here until readers are told, nobody writes to either.
        directory::set_current(&self.dir, next).map_err(StoreError::Switch)?;
        self.page.set_generation(next);
        let before = std::mem::replace(&mut self.environment, environment);
        (self.state, self.identity) = (state, identity);
        self.publish();
        tracing::info!(from = %before.generation, to = %next, "generation switched");
        Ok(before)
    }

    fn open_next(&self, next: Generation, max_readers: u32) -> Result<Live, BuildError> {
        let environment = build::open_writer(&self.dir, next, max_readers)?;
        let txn = environment.env.read()?;
        let state = State::read(&environment, &txn)?;
        let identity = environment.identity(&txn)?;
        drop(txn);
        if identity.db_id != self.identity.db_id {
            let path = self.dir.join(next.to_string());
            let (expected, found) = (self.identity.db_id, identity.db_id);
            return Err(quicksilver::Error::WrongDatabase { path, expected, found }.into());
        }
        Ok(Live { environment, identity, state })
    }

    /// Publishes what the replicator is doing.
    pub fn set_state(&self, state: NodeState) {
        self.page.set_state(state);
    }

    /// Publishes a heartbeat, which counts when everything before it is committed here.
    pub fn set_heartbeat(&self, root_clock_us: u64) {
        self.page.set_heartbeat(root_clock_us);
    }

    fn publish(&self) {
        self.page.publish(&Commit {
            position: self.state.applied.position,
            digest: self.state.applied.digest,
            keys: self.state.applied.keys,
            time_us: wall_clock_us(),
        });
    }

    /// Oldest index that is still in the log.
    pub fn oldest(&self) -> Index {
        self.state.log.oldest
    }
}
