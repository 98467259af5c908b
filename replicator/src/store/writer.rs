//! The thread on which a relay applies what its upstream sends.
//!
//! It commits as soon as the previous commit has ended, taking everything that has arrived: one
//! batch a window when it keeps up, and ever larger commits when it is behind, which is what
//! makes it catch up.
//!
//! Invariants:
//! * LMDB's write transactions of a relay happen on this thread and nowhere else.
//! * A heartbeat counts only after the commit of everything that came before it.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use quicksilver::build;
use quicksilver_format::status::NodeState;
use quicksilver_format::{Batch, Heartbeat, HistoryId, Position};

use super::{Committed, Live, Pulse, Retention, Store, StoreError, StoreOrder};

/// Pause before a commit is tried again that found no space.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the thread is told, in stream order.
#[derive(Debug)]
pub enum Command {
    /// Apply a batch that was verified and continues the one before it.
    Apply(Batch),
    /// Count a heartbeat.
    Heartbeat(Heartbeat),
    /// Take over the upstream's history.
    AdoptHistory(HistoryId),
    /// Publish what the replicator is doing.
    SetState(NodeState),
    /// From the next commit on, keep no more of the log than this.
    SetRetention(Retention),
    /// Something of the store, between two commits.
    Store(StoreOrder),
    /// Finish what has arrived, and end.
    Stop,
}

/// Who is told what the thread did. Calls are short.
pub trait Observer: Send {
    /// A commit is durable and visible.
    fn committed(&mut self, committed: &Committed);
    /// A heartbeat counts now.
    fn heartbeat(&mut self, heartbeat: Heartbeat);
    /// A commit found no space; it is tried again.
    fn waiting_for_space(&mut self, error: &StoreError);
    /// What has arrived does not continue what is stored, which ends at `end`. `forget` drops it;
    /// call it while nobody can send, and have whoever sends begin again from `end`.
    fn out_of_step(&mut self, error: &StoreError, end: Position, forget: &mut dyn FnMut());
    /// The upstream's history was taken over.
    fn history_adopted(&mut self, history: HistoryId, end: Position);
    /// Another generation is live.
    fn switched(&mut self, live: &Live);
    /// After [`damaged`](Self::damaged), another generation is live, which ends at `end`; what came
    /// meanwhile was not applied. `forget` as in [`out_of_step`](Self::out_of_step).
    fn healed(&mut self, end: Position, forget: &mut dyn FnMut());
    /// What is stored under some key is damaged, so nothing more can be applied. What is there
    /// goes on being served.
    fn damaged(&mut self, error: &StoreError);
    /// The storage cannot be trusted any more; the thread ends.
    fn failed(&mut self, error: &StoreError);
}

/// Runs until [`Command::Stop`], until all senders are gone, or until the storage fails.
pub fn run(
    mut store: Store,
    commands: &Receiver<Command>,
    observer: &mut dyn Observer,
    pulse: &Pulse,
) {
    let mut pending = VecDeque::new();
    let mut wait = None;
    loop {
        pulse.beat();
        if !receive(commands, &mut pending, wait.take()) {
            break;
        }
        match step(&mut store, &mut pending, observer) {
            Ok(Next::Go) => {}
            Ok(Next::Stop) => break,
            Err(e) if e.is_transient() => {
                observer.waiting_for_space(&e);
                // Another generation may have the space.
                if let Err(e) = obey_first(&mut store, &mut pending, observer) {
                    store.set_state(NodeState::Failed);
                    observer.failed(&e);
                    return;
                }
                if pending.iter().any(|command| matches!(command, Command::Stop)) {
                    break;
                }
                wait = Some(RETRY_AFTER);
            }
            Err(e @ StoreError::NotNext { .. }) => {
                let mut forget = || forget_stream(commands, &mut pending);
                observer.out_of_step(&e, store.end(), &mut forget);
            }
            Err(e @ StoreError::Read(_)) => {
                // Starting anew would find the same damage: stay, and serve what verifies.
                store.set_state(NodeState::Failed);
                observer.damaged(&e);
                match until_healed(&mut store, commands, observer, pulse) {
                    // What came since is in the other generation, or comes again.
                    Ok(true) => {
                        let mut forget = || forget_stream(commands, &mut pending);
                        observer.healed(store.end(), &mut forget);
                    }
                    Ok(false) => break,
                    Err(e) => {
                        observer.failed(&e);
                        return;
                    }
                }
            }
            Err(e) => {
                store.set_state(NodeState::Failed);
                observer.failed(&e);
                return;
            }
        }
    }
    store.set_state(NodeState::Stopped);
}

/// Drops what an upstream has sent.
fn forget_stream(commands: &Receiver<Command>, pending: &mut VecDeque<Command>) {
    pending.extend(commands.try_iter());
    pending.retain(|command| {
        !matches!(command, Command::Apply(_) | Command::Heartbeat(_) | Command::AdoptHistory(_))
    });
}

/// Applies nothing until the store goes on in another generation; false when the thread is to end.
fn until_healed(
    store: &mut Store,
    commands: &Receiver<Command>,
    observer: &mut dyn Observer,
    pulse: &Pulse,
) -> Result<bool, StoreError> {
    loop {
        pulse.beat();
        match commands.recv_timeout(Pulse::INTERVAL) {
            Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(false),
            Ok(Command::Store(order)) => {
                if store.obey(order, &mut |live| observer.switched(live))? {
                    store.set_state(NodeState::Disconnected);
                    return Ok(true);
                }
            }
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Takes everything that has arrived; waits a little when there is nothing to do, or as long as it
/// is told to. False when nobody can send any more.
fn receive(
    commands: &Receiver<Command>,
    pending: &mut VecDeque<Command>,
    wait: Option<Duration>,
) -> bool {
    let idle = pending.is_empty().then_some(Pulse::INTERVAL);
    if let Some(wait) = wait.or(idle) {
        match commands.recv_timeout(wait) {
            Ok(command) => pending.push_back(command),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
    pending.extend(commands.try_iter());
    true
}

enum Next {
    Go,
    Stop,
}

/// One commit of what is pending, then whatever came behind it. On an error the batches stay
/// pending.
fn step(
    store: &mut Store,
    pending: &mut VecDeque<Command>,
    observer: &mut dyn Observer,
) -> Result<Next, StoreError> {
    let batches = one_commit(store, pending);
    if !batches.is_empty() {
        let committed = store.apply(&batches)?;
        observer.committed(&committed);
        let end = committed.state.log.last.index;
        drop_first(pending, batches.iter().take_while(|batch| batch.last() <= end).count());
    }
    while let Some(command) = pending.pop_front() {
        match command {
            Command::Apply(batch) => {
                pending.push_front(Command::Apply(batch));
                break;
            }
            Command::Heartbeat(heartbeat) => {
                store.set_heartbeat(heartbeat.root_clock_us);
                observer.heartbeat(heartbeat);
            }
            Command::AdoptHistory(history) => {
                if let Err(e) = store.adopt_history(history) {
                    pending.push_front(Command::AdoptHistory(history));
                    return Err(e);
                }
                observer.history_adopted(history, store.end());
            }
            Command::SetState(state) => store.set_state(state),
            Command::SetRetention(retention) => store.set_retention(retention),
            Command::Store(order) => {
                store.obey(order, &mut |live| observer.switched(live))?;
            }
            Command::Stop => return Ok(Next::Stop),
        }
    }
    Ok(Next::Go)
}

/// Carries out the orders to the store, before everything else that is pending.
fn obey_first(
    store: &mut Store,
    pending: &mut VecDeque<Command>,
    observer: &mut dyn Observer,
) -> Result<(), StoreError> {
    let commands = std::mem::take(pending);
    for command in commands {
        match command {
            Command::Store(order) => {
                store.obey(order, &mut |live| observer.switched(live))?;
            }
            other => pending.push_back(other),
        }
    }
    Ok(())
}

/// The batches of the next commit: all that are pending, up to a bound on what it has to do.
/// Heartbeats and states between them do not hold a commit back; a new history and orders to the store do.
fn one_commit(store: &Store, pending: &VecDeque<Command>) -> Vec<Batch> {
    let ends_it =
        |c: &&Command| matches!(c, Command::AdoptHistory(_) | Command::Store(_) | Command::Stop);
    let batches =
        pending.iter().take_while(|command| !ends_it(command)).filter_map(
            |command| match command {
                Command::Apply(batch) => Some(batch),
                _ => None,
            },
        );
    let n = build::apply::one_commit(store.environment(), batches.clone());
    batches.take(n).cloned().collect()
}

/// Removes the first `n` batches, and what stands before and between them stays in order.
fn drop_first(pending: &mut VecDeque<Command>, mut n: usize) {
    pending.retain(|command| {
        let drop = n > 0 && matches!(command, Command::Apply(_));
        n -= usize::from(drop);
        !drop
    });
}
