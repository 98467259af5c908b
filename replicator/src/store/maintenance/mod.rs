//! What a store needs done beside its commits: compaction, snapshots, verification, and taking old
//! generations away. One thing at a time, on a thread of its own, in slices.
//!
//! A job is begun when somebody asks for it, or by itself when it is due (`rule.rs`). It reads the live
//! generation in short transactions, at a bounded rate, and changes nothing of it; when it has made
//! the next one, the writer's thread goes on in that between two commits
//! ([`StoreOrder::Switch`]).
//!
//! Invariants:
//! * the thread ends before the role lock is given up: what it makes, it makes as the writer;
//! * a job that fails, or is told to end, leaves nothing behind.

mod bootstrap;
mod compaction;
mod old_generations;
mod rule;
mod snapshots;
mod status;
mod verification;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use quicksilver::build::snapshot::{self, Blocks};
use quicksilver::build::{BuildError, directory};
use quicksilver::environment::Environment;

use super::{Asker, LogHolds, StoreOrder, SwitchRefusal, wall_clock_us};

use self::bootstrap::Bootstrap;
use self::old_generations::OldGenerations;

pub use self::bootstrap::{BootstrapAnswer, NotInstalled};
pub use self::rule::{CheckRoomError, NoRoom, Pages, check_room, check_room_for, free_bytes};
pub use self::snapshots::{SnapshotInfo, list_snapshots};
pub use self::status::{JobKind, JobOutcome, JobStatus, MaintenanceStatus, OldGenerationStatus};

/// How often it is looked whether somebody is still in an old generation.
const TICK: Duration = Duration::from_secs(1);
/// How often it is looked whether something is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(3);
/// When a job that began by itself has failed, or ended, the next waits so long.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(60);
/// The first verification of a process comes after this, or after the configured interval if that is
/// shorter: a process that is often restarted verifies, too.
const FIRST_VERIFICATION: Duration = Duration::from_secs(3600);

/// What the maintenance is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of the map of the next generation.
    pub map_bytes: usize,
    /// Its reader slots.
    pub max_readers: u32,
    /// Freed bytes that old readers may hold back.
    pub reader_hold_bytes: u64,
    /// Whether a file with many free pages is compacted without being asked.
    pub compacts_by_itself: bool,
    /// From which size.
    pub compact_min_bytes: u64,
    /// From which share of free pages.
    pub compact_free_percent: u8,
    /// Most bytes a second that are copied.
    pub copy_bytes_per_second: u64,
    /// How long an old generation stays for readers that are in it.
    pub old_generation_patience: Duration,
    /// How often everything is verified; `None` for never.
    pub verify_interval: Option<Duration>,
    /// Most bytes a second that this reads.
    pub verify_bytes_per_second: u64,
}

impl Default for Settings {
    /// Does nothing by itself, and what it is asked for as fast as it can.
    fn default() -> Self {
        Settings {
            map_bytes: 16 << 30,
            max_readers: 4096,
            reader_hold_bytes: u64::MAX,
            compacts_by_itself: false,
            compact_min_bytes: 0,
            compact_free_percent: 50,
            copy_bytes_per_second: u64::MAX,
            old_generation_patience: Duration::ZERO,
            verify_interval: None,
            verify_bytes_per_second: u64::MAX,
        }
    }
}

/// How the maintenance gets at a store that another thread writes.
pub struct StoreAccess {
    /// The database's directory.
    pub dir: PathBuf,
    /// The live generation.
    pub live: Box<dyn Fn() -> Environment + Send>,
    /// The way to the writer's thread.
    pub order: Box<dyn Fn(StoreOrder) + Send>,
    /// Where the log is held.
    pub holds: LogHolds,
}

impl std::fmt::Debug for StoreAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoreAccess({})", self.dir.display())
    }
}

/// A job was not begun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotStarted {
    /// One at a time.
    #[error("a {kind} runs (job {job}); it is one at a time, ask again when it has ended", kind = .kind.name())]
    Busy {
        /// The one that runs.
        job: u64,
        /// What it does.
        kind: JobKind,
    },
    /// The process is leaving.
    #[error("the process is leaving; ask the next one")]
    Leaving,
}

/// The number of a job that was begun.
pub type StartAnswer = Result<u64, NotStarted>;

#[derive(Debug)]
enum Request {
    Use(Settings),
    Do(Wish),
    End,
}

/// A job that is asked for.
#[derive(Debug)]
enum Wish {
    /// Now or not at all.
    Start(Start),
    /// As soon as nothing else runs.
    Bootstrap(Bootstrap),
}

#[derive(Debug)]
struct Start {
    kind: JobKind,
    asked: Instant,
    asker: Asker<StartAnswer>,
}

/// The way to the thread. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Maintenance {
    requests: Sender<Request>,
    view: View,
}

impl Maintenance {
    /// Starts the thread, which begins with taking away what a crash has left.
    pub fn start(access: StoreAccess, settings: Settings) -> io::Result<(Self, JoinHandle<()>)> {
        let (requests, received) = mpsc::channel();
        let view = View::default();
        let mut worker = Worker {
            access,
            desk: Desk {
                settings,
                received,
                view: view.clone(),
                running: None,
                waiting: VecDeque::new(),
                ending: false,
            },
            old: OldGenerations::default(),
            offered: None,
            jobs: 0,
            looked: Instant::now(),
            compact_after: Instant::now(),
            verify_after: settings
                .verify_interval
                .map(|i| Instant::now() + i.min(FIRST_VERIFICATION)),
        };
        let thread = thread::Builder::new().name("maintenance".into());
        let thread = thread.spawn(move || worker.run())?;
        Ok((Maintenance { requests, view }, thread))
    }

    /// Begins a job; whoever asks is told its number, and finds its end in [`Self::status`].
    pub fn begin(&self, kind: JobKind, asker: Asker<StartAnswer>) {
        let start = Start { kind, asked: Instant::now(), asker };
        if let Err(mpsc::SendError(Request::Do(Wish::Start(start)))) =
            self.requests.send(Request::Do(Wish::Start(start)))
        {
            start.asker.tell(Err(NotStarted::Leaving));
        }
    }

    /// Makes the next generation of a snapshot, of which some may still be on its way, as soon as
    /// nothing else runs, and has the writer go on in it. Whoever asks is told at the end, or dropped
    /// when the snapshot was given up before its turn came, or the process leaves.
    pub fn bootstrap(&self, blocks: Box<dyn Blocks + Send>, asker: Asker<BootstrapAnswer>) {
        // One that has ended drops it.
        let _ = self.requests.send(Request::Do(Wish::Bootstrap(Bootstrap { blocks, asker })));
    }

    /// Goes on under other settings.
    pub fn take_over(&self, settings: Settings) {
        // One that has ended needs none.
        let _ = self.requests.send(Request::Use(settings));
    }

    /// Gives up what runs, and ends.
    pub fn end(&self) {
        let _ = self.requests.send(Request::End);
    }

    /// What runs, and what ran last.
    pub fn status(&self) -> MaintenanceStatus {
        self.view.lock().clone()
    }
}

#[derive(Debug, Clone, Default)]
struct View(Arc<Mutex<MaintenanceStatus>>);

impl View {
    fn lock(&self) -> MutexGuard<'_, MaintenanceStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a job did not do what it was for.
#[derive(Debug, thiserror::Error)]
enum JobError {
    #[error("it was given up: the process is leaving")]
    Ended,
    #[error(transparent)]
    Room(#[from] CheckRoomError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Read(#[from] quicksilver::Error),
    #[error(transparent)]
    Switch(#[from] SwitchRefusal),
    #[error("it was put off for something else")]
    PutOff,
    #[error("the snapshot comes no more; what has come of it stays")]
    ComesNoMore,
    #[error("there is no snapshot to make a generation of; it is fetched when it is needed")]
    NoSnapshot,
    #[error("the writer has ended, or applies nothing more; /status says why")]
    NoWriter,
}

/// What a job did.
#[derive(Debug, Default)]
struct Done {
    message: String,
    snapshot: Option<String>,
    problems: u64,
}

/// Where requests arrive, also while a job runs.
#[derive(Debug)]
struct Desk {
    settings: Settings,
    received: Receiver<Request>,
    view: View,
    running: Option<Running>,
    /// Bootstraps, and who a verification made way for.
    waiting: VecDeque<Wish>,
    ending: bool,
}

/// The job that runs.
#[derive(Debug, Clone, Copy)]
struct Running {
    job: u64,
    kind: JobKind,
    began: Instant,
    /// A verification that began by itself makes way for everything else: it may take hours.
    makes_way: bool,
}

/// The thread.
#[derive(Debug)]
struct Worker {
    access: StoreAccess,
    desk: Desk,
    old: OldGenerations,
    /// The job that made what is offered, and when it ended.
    offered: Option<(u64, Instant)>,
    jobs: u64,
    looked: Instant,
    compact_after: Instant,
    verify_after: Option<Instant>,
}

impl Worker {
    fn run(&mut self) {
        let live = (self.access.live)().generation;
        if let Err(error) = directory::remove_others(&self.access.dir, live) {
            tracing::warn!(%error, "what a crash has left could not be removed");
        }
        if let Err(error) = snapshot::remove_unfinished(&self.access.dir) {
            tracing::warn!(%error, "unfinished snapshots could not be removed");
        }
        while !self.desk.ending {
            match self.desk.next(TICK) {
                Some(Wish::Start(start)) => self.start(start),
                Some(Wish::Bootstrap(bootstrap)) => self.bootstrap(bootstrap),
                None => {}
            }
            self.old.look(&self.access.dir, self.desk.settings.old_generation_patience);
            self.desk.view.lock().old_generations = self.old.status();
            self.begin_what_is_due();
        }
    }

    fn start(&mut self, Start { kind, asked, asker }: Start) {
        // They ask in crowds, and each offer takes the place of the one before. Who asked while it got
        // its name, when nobody is answered, has it already.
        if let Some((job, ended)) = self.offered
            && kind == JobKind::Offer
            && asked < ended
        {
            return asker.tell(Ok(job));
        }
        let job = self.begin(kind, "asked for", false);
        // Whoever is told looks for it at once.
        asker.tell(Ok(job));
        self.work(kind);
    }

    fn begin_what_is_due(&mut self) {
        let now = Instant::now();
        if self.desk.ending || now < self.looked + LOOK_INTERVAL {
            return;
        }
        self.looked = now;
        if now >= self.compact_after {
            match Pages::of(&(self.access.live)()) {
                Ok(pages) => {
                    if let Some(reason) = pages.compaction_due(&self.desk.settings) {
                        self.begin(JobKind::Compaction, &reason, false);
                        self.work(JobKind::Compaction);
                        self.compact_after = Instant::now() + PAUSE_AFTER_FAILURE;
                        return;
                    }
                }
                Err(error) => tracing::warn!(%error, "the free pages could not be counted"),
            }
        }
        self.verify_after = match (self.verify_after, self.desk.settings.verify_interval) {
            (_, None) => None,
            (None, Some(interval)) => Some(now + interval.min(FIRST_VERIFICATION)),
            (Some(at), Some(interval)) if now >= at => {
                self.begin(JobKind::Verification, "it is time", true);
                let put_off = self.work(JobKind::Verification);
                Some(Instant::now() + if put_off { PAUSE_AFTER_FAILURE } else { interval })
            }
            (later, Some(_)) => later,
        };
    }

    /// Begins a job, which everybody can see from here on.
    fn begin(&mut self, kind: JobKind, reason: &str, makes_way: bool) -> u64 {
        self.jobs += 1;
        let job = self.jobs;
        tracing::info!(job, kind = kind.name(), reason, "begun");
        self.desk.running = Some(Running { job, kind, began: Instant::now(), makes_way });
        self.desk.view.lock().running =
            Some(JobStatus { job, kind, reason: reason.to_owned(), ..JobStatus::default() });
        job
    }

    /// Does the job that was begun. True when it made way for another one, and is to come again.
    fn work(&mut self, kind: JobKind) -> bool {
        let ended = match kind {
            JobKind::Compaction => self.compact(),
            JobKind::Snapshot => self.snapshot(),
            JobKind::Verification => self.verify(),
            JobKind::Offer => self.offer(),
            // It comes with its snapshot.
            JobKind::Bootstrap => Err(JobError::NoSnapshot),
        };
        self.end(ended)
    }

    /// Shows how the job that runs has ended. True when it made way.
    fn end(&mut self, ended: Result<Done, JobError>) -> bool {
        let Some(Running { job, kind, began, .. }) = self.desk.running.take() else { return false };
        if matches!(ended, Err(JobError::PutOff)) {
            self.desk.view.lock().running = None;
            tracing::info!(job, kind = kind.name(), "put off");
            return true;
        }
        let seconds = began.elapsed().as_secs_f64();
        let ok = ended.as_ref().is_ok_and(|done| done.problems == 0);
        let done =
            ended.unwrap_or_else(|error| Done { message: error.to_string(), ..Done::default() });
        let Done { message, snapshot, problems } = done;
        if ok {
            tracing::info!(job, kind = kind.name(), seconds, "{message}");
        } else {
            tracing::error!(job, kind = kind.name(), seconds, "{message}");
        }
        let ended = wall_clock_us() / 1_000_000;
        let mut view = self.desk.view.lock();
        view.running = None;
        let outcome = JobOutcome { job, ok, message, seconds, ended, snapshot, problems };
        view.last.insert(kind, outcome);
        false
    }
}

impl Desk {
    /// The next job that is asked for, if one is within this time.
    fn next(&mut self, wait: Duration) -> Option<Wish> {
        self.forget_what_was_given_up();
        self.waiting.pop_front().or_else(|| self.receive(wait))
    }

    /// A job may take hours, and each of them holds a file and its manifest.
    fn forget_what_was_given_up(&mut self) {
        self.waiting.retain(|wish| match wish {
            Wish::Start(..) => true,
            Wish::Bootstrap(bootstrap) => !bootstrap.blocks.is_given_up(),
        });
    }

    fn receive(&mut self, wait: Duration) -> Option<Wish> {
        match self.received.recv_timeout(wait) {
            Ok(Request::Do(wish)) => Some(wish),
            Ok(Request::Use(settings)) => {
                self.settings = settings;
                None
            }
            Ok(Request::End) | Err(RecvTimeoutError::Disconnected) => {
                self.ending = true;
                None
            }
            Err(RecvTimeoutError::Timeout) => None,
        }
    }

    /// Shows how far a job is, pauses as `throttle` says, and answers who asks meanwhile. False when
    /// the job is to be given up.
    fn goes_on(&mut self, done_bytes: u64, total_bytes: u64, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let Some(Running { job, kind, began, makes_way }) = self.running else { return false };
        if let Some(status) = &mut self.view.lock().running {
            let seconds = began.elapsed().as_secs_f64();
            status.done_bytes = done_bytes;
            status.total_bytes = total_bytes.max(done_bytes);
            status.seconds = seconds;
            let left = status.total_bytes - done_bytes;
            status.eta_seconds =
                (done_bytes > 0).then(|| seconds * left as f64 / done_bytes as f64);
        }
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.receive(left) {
                Some(wish @ Wish::Bootstrap(_)) => self.waiting.push_back(wish),
                Some(Wish::Start(start))
                    if makes_way && start.kind != kind && self.waiting.is_empty() =>
                {
                    self.waiting.push_back(Wish::Start(start));
                }
                Some(Wish::Start(start)) => start.asker.tell(Err(NotStarted::Busy { job, kind })),
                None => {}
            }
            self.forget_what_was_given_up();
            if self.ending || makes_way && !self.waiting.is_empty() {
                return false;
            }
            if Instant::now() >= until {
                return true;
            }
        }
    }
}
