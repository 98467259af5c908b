//! The root's one thread: collect, decide, make final, answer; once a window.
//!
//! Invariants:
//! * One batch is in flight: the next is decided only after the last is final and applied here.
//! * An answer, also one that changed nothing, is given only after what it rests on is final.
//! * Only final batches enter the tree: `Outlet::batch` is called after `Finalize::finalize`.

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use quicksilver::environment::Environment;
use quicksilver_format::{Batch, ControlRecord, Heartbeat};
use quicksilver_protocol::{Millis, Window};

use super::finalize::{Finalize, FinalizeError};
use super::queue::{Arrival, Order, Submission, Submissions};
use super::request::{Answer, Transaction, TxOp, WriteError};
use super::seal::Sealer;
use crate::store::{Committed, Pulse, Retention, StoreOrder, wall_clock_us};

/// Pause after a batch that found no space, before the next is tried.
const PAUSE_WHEN_REFUSED: Duration = Duration::from_millis(100);

/// What the sequencer is run with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// At most one batch is sealed in this time.
    pub window_ms: u64,
    /// Most bytes of canonical entries in a batch.
    pub max_batch_bytes: usize,
    /// Once the live data exceeds this, SETs are refused; DELs are not.
    pub max_db_bytes: u64,
    /// Time between heartbeats.
    pub heartbeat_interval: Duration,
    /// How much of the log is kept.
    pub retention: Retention,
}

/// Where final batches and records go. Calls are short.
pub trait Outlet: Send {
    /// A batch is final, durable and visible here.
    fn batch(&mut self, batch: Batch, committed: &Committed);
    /// A control record is final.
    fn control(&mut self, record: ControlRecord);
    /// Another generation is live.
    fn switched(&mut self, live: &Environment);
    /// A batch was refused; its writers were told.
    fn refused(&mut self, error: &FinalizeError);
    /// Nothing can be made final any more; the thread ends.
    fn failed(&mut self, error: &FinalizeError);
}

/// Collects, decides and makes final until told to stop, or until that is no longer possible.
pub struct Sequencer<F, O> {
    finalize: F,
    outlet: O,
    submissions: Submissions,
    settings: Settings,
    window: Window,
    started: Instant,
    next_heartbeat: Instant,
    /// Taken from the queue, not in a batch yet; in order.
    waiting: Vec<Submission>,
    /// For the store, between two batches.
    store_orders: Vec<StoreOrder>,
    pace: Pace,
    pulse: Pulse,
}

/// How what comes is gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Once a window.
    Windows,
    /// At once: the process is leaving.
    Hurry,
    /// Nothing comes any more.
    Finish,
}

impl<F: std::fmt::Debug, O> std::fmt::Debug for Sequencer<F, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sequencer({:?})", self.finalize)
    }
}

/// How often a sequencer that waits shows that it lives.
const IDLE: Duration = Duration::from_millis(50);

impl<F: Finalize, O: Outlet> Sequencer<F, O> {
    /// A sequencer that ends when it is ordered to, once everything that was let in has been
    /// answered.
    pub fn new(
        mut finalize: F,
        outlet: O,
        submissions: Submissions,
        settings: Settings,
        pulse: Pulse,
    ) -> Self {
        let now = Instant::now();
        finalize.set_retention(settings.retention);
        Sequencer {
            finalize,
            outlet,
            submissions,
            settings,
            window: Window::new(settings.window_ms),
            started: now,
            next_heartbeat: now,
            waiting: Vec::new(),
            store_orders: Vec::new(),
            pace: Pace::Windows,
            pulse,
        }
    }

    /// Runs the thread.
    pub fn run(mut self) {
        while self.turn() {}
        self.let_nobody_in();
        // What is still here was never decided.
        for submission in self.waiting.drain(..) {
            submission.answer(Err(WriteError::ShuttingDown));
        }
    }

    /// One heartbeat, one collected batch, or a short wait. False at the end.
    fn turn(&mut self) -> bool {
        self.pulse.beat();
        if self.pace == Pace::Finish {
            // Whoever was let in before the door closed gets an answer.
            self.let_nobody_in();
            while !self.waiting.is_empty() && self.seal_and_finalize() {}
            return false;
        }
        self.attend() && self.collect() && (self.waiting.is_empty() || self.seal_and_finalize())
    }

    /// Closes the door, and takes everybody who came through it.
    fn let_nobody_in(&mut self) {
        self.submissions.close();
        while let Ok(arrival) = self.submissions.next(Duration::ZERO) {
            if let Arrival::Submission(submission) = arrival {
                self.waiting.push(submission);
            }
        }
    }

    /// Waits so long for the next transaction, and carries out the orders that come instead.
    fn take(&mut self, timeout: Duration) -> Taken {
        match self.submissions.next(timeout) {
            Ok(Arrival::Submission(submission)) => {
                let bytes = submission.bytes;
                let changes = !submission.transaction.is_read_only();
                self.waiting.push(submission);
                Taken::Submission { bytes, changes }
            }
            Ok(Arrival::Order(order)) => {
                self.obey(order);
                Taken::Nothing
            }
            Err(RecvTimeoutError::Timeout) => Taken::Nothing,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(timeout);
                Taken::Nothing
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Use(settings) => {
                if settings.window_ms != self.settings.window_ms {
                    self.window = Window::new(settings.window_ms);
                }
                self.next_heartbeat = Instant::now();
                self.finalize.set_retention(settings.retention);
                self.settings = settings;
            }
            Order::Store(order) => self.store_orders.push(order),
            Order::Hurry if self.pace == Pace::Windows => self.pace = Pace::Hurry,
            Order::Hurry => {}
            Order::Finish => {
                self.submissions.close();
                self.pace = Pace::Finish;
            }
        }
    }

    /// What is due between two batches. False when nothing can be final any more.
    fn attend(&mut self) -> bool {
        let orders = std::mem::take(&mut self.store_orders);
        orders.into_iter().all(|order| self.have_store(order))
            && (Instant::now() < self.next_heartbeat || self.heartbeat())
    }

    fn have_store(&mut self, order: StoreOrder) -> bool {
        let outlet = &mut self.outlet;
        match self.finalize.obey(order, &mut |live| outlet.switched(&live.environment)) {
            Ok(()) => true,
            // Whoever gave the order was told.
            Err(FinalizeError::Refused(_)) => true,
            Err(e @ FinalizeError::Unknown(_)) => {
                self.outlet.failed(&e);
                false
            }
        }
    }

    fn heartbeat(&mut self) -> bool {
        self.next_heartbeat = Instant::now() + self.settings.heartbeat_interval;
        let after = self.finalize.state().log.last.index;
        let record = Heartbeat { root_clock_us: wall_clock_us(), after }.to_record();
        match self.finalize.finalize_control(&record) {
            Ok(()) => {
                self.outlet.control(record);
                true
            }
            Err(e @ FinalizeError::Refused(_)) => {
                self.outlet.refused(&e);
                true
            }
            Err(e @ FinalizeError::Unknown(_)) => {
                self.outlet.failed(&e);
                false
            }
        }
    }

    /// Waits for the first writer, then for the end of the window, or until a batch is full.
    /// Heartbeats go on meanwhile. False when nothing can be final any more.
    fn collect(&mut self) -> bool {
        if self.waiting.is_empty() {
            let until = self.next_heartbeat.saturating_duration_since(Instant::now());
            if self.take(until.min(IDLE)) == Taken::Nothing {
                return true;
            }
        }
        let seal_at = self.instant(self.window.seal_at(self.now()));
        let mut bytes: usize = self.waiting.iter().map(|s| s.bytes).sum();
        let mut changes = self.waiting.iter().any(|s| !s.transaction.is_read_only());
        while self.pace != Pace::Finish {
            self.pulse.beat();
            if !self.attend() {
                return false;
            }
            // The window throttles commits, and reads need none.
            let left = match changes && self.pace == Pace::Windows {
                true => seal_at.saturating_duration_since(Instant::now()),
                false => Duration::ZERO,
            };
            if left.is_zero() && bytes >= self.settings.max_batch_bytes {
                return true;
            }
            // Past the end of the window, whatever is there already still comes along.
            match self.take(left.min(IDLE)) {
                Taken::Submission { bytes: more, changes: also } => {
                    bytes += more;
                    changes |= also;
                }
                Taken::Nothing if left.is_zero() => return true,
                Taken::Nothing => {}
            }
        }
        true
    }

    /// One batch from the front of what is waiting. False when nothing can be final any more.
    fn seal_and_finalize(&mut self) -> bool {
        let started = self.now();
        let sealed = match self.seal() {
            Ok(sealed) => sealed,
            Err(e) => {
                let error = WriteError::Storage(e.to_string());
                for submission in self.waiting.drain(..) {
                    submission.answer(Err(error.clone()));
                }
                return true;
            }
        };
        let Sealed { batch, answers } = sealed;
        let outcome = match &batch {
            Some(batch) => {
                self.window.sealed(started);
                self.finalize.finalize(batch).map(Some)
            }
            None => self.finalize.confirm().map(|()| None),
        };
        match outcome {
            Ok(committed) => {
                if let (Some(batch), Some(committed)) = (batch, committed) {
                    self.outlet.batch(batch, &committed);
                }
                for (submission, answer) in answers {
                    submission.answer(answer);
                }
                true
            }
            Err(e) => {
                let known = matches!(e, FinalizeError::Refused(_));
                let error = if known {
                    WriteError::Storage(e.to_string())
                } else {
                    WriteError::Unknown(e.to_string())
                };
                for (submission, _) in answers {
                    submission.answer(Err(error.clone()));
                }
                if known {
                    self.outlet.refused(&e);
                    std::thread::sleep(PAUSE_WHEN_REFUSED);
                } else {
                    self.outlet.failed(&e);
                }
                known
            }
        }
    }

    fn seal(&mut self) -> quicksilver::Result<Sealed> {
        let state = *self.finalize.state();
        let max_bytes = self.settings.max_batch_bytes;
        let mut sealer = Sealer::new(self.finalize.environment(), state.log.last, max_bytes)?;
        let map_is_short = self.map_is_short()?;
        let mut decided = Vec::with_capacity(self.waiting.len());
        for Submission { transaction, bytes, .. } in &self.waiting {
            let answer = match self.refusal(state.applied.bytes, map_is_short, transaction) {
                Some(refusal) => Some(Err(refusal)),
                None => sealer.decide(transaction, *bytes),
            };
            let Some(answer) = answer else { break };
            decided.push(answer);
        }
        let sealed_at_us = wall_clock_us().max(state.log.sealed_at_us);
        let batch = sealer.seal(sealed_at_us);
        let answers = self.waiting.drain(..decided.len()).zip(decided).collect();
        Ok(Sealed { batch, answers })
    }

    /// A database over its limit can shrink, and not grow.
    fn refusal(
        &self,
        data_bytes: u64,
        map_is_short: bool,
        transaction: &Transaction,
    ) -> Option<WriteError> {
        let sets = || transaction.ops.iter().any(|op| matches!(op, TxOp::Set { .. }));
        if map_is_short && sets() {
            return Some(WriteError::Storage(
                "the memory map is nearly full; delete keys, or keep less log ([retention])".into(),
            ));
        }
        (data_bytes > self.settings.max_db_bytes && sets()).then(|| {
            WriteError::Storage(format!(
                "the database holds {data_bytes} bytes, limits.max_db_bytes is {}; delete keys, \
                 or raise the limit",
                self.settings.max_db_bytes
            ))
        })
    }

    /// Whether the map has no more room than a few batches need. What is left is for DELs and for
    /// collecting the log, which need pages, too.
    fn map_is_short(&self) -> quicksilver::Result<bool> {
        let environment = self.finalize.environment();
        let info = environment.env.info()?;
        let page_bytes = environment.page_bytes;
        let reserve = self.settings.max_batch_bytes.min(info.map_bytes / 8);
        let high_water = usize::try_from(info.last_page).unwrap_or(usize::MAX);
        let room = info.map_bytes.saturating_sub(high_water.saturating_mul(page_bytes));
        if room >= reserve {
            return Ok(false);
        }
        let free = usize::try_from(environment.env.free_pages()?.total).unwrap_or(usize::MAX);
        Ok(room.saturating_add(free.saturating_mul(page_bytes)) < reserve)
    }

    fn now(&self) -> Millis {
        Millis::new(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn instant(&self, at: Millis) -> Instant {
        self.started + Duration::from_millis(at.get())
    }
}

/// What came within a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Submission { bytes: usize, changes: bool },
    Nothing,
}

struct Sealed {
    batch: Option<Batch>,
    answers: Vec<(Submission, Result<Answer, WriteError>)>,
}
