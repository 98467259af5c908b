//! `import`: lines of pairs into a root, in atomic MSETs, several in flight.
//!
//! Invariants:
//! * a line counts as stored only when the MSET that carried it was acknowledged, and replies come
//!   in order: the acknowledged lines are always a prefix of the input;
//! * after an error nothing more is sent on that connection; what was not acknowledged goes out
//!   again on the next one, before anything else and in the same order, so that it ends as if it
//!   had been sent once;
//! * every connection gets something acknowledged, or is the last;
//! * what is in flight is bounded in commands and bytes.

use std::collections::VecDeque;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use clap::Args;
use indicatif::{HumanBytes, HumanCount, ProgressBar};
use quicksilver::writer::client::{Command, Connection, Receiver};
use quicksilver::writer::reply::Reply;
use quicksilver::writer::servers::Servers;
use quicksilver::writer::{Error as WriterError, Kind, Outcome, ServerError};
use quicksilver_format::Index;
use serde_json::json;

use super::Context;
use super::error::{Error, Exit};
use super::lines::{self, LineArgs, Lines};
use super::target::ask;

/// Bytes of keys and values after which an MSET is sent, however few its pairs.
const BATCH_BYTES: usize = 1 << 20;
/// Most MSETs in flight: at their default size enough to fill the largest batch that a root seals
/// in one window, so that no window is wasted.
const IN_FLIGHT_COMMANDS: usize = 128;
/// Most bytes of keys and values in flight, unless a single MSET has more.
const IN_FLIGHT_BYTES: usize = 64 << 20;
const NOT_OK: &str = "to MSET, expected OK";

/// Arguments of `import`.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The file, or - for standard input.
    file: PathBuf,
    #[command(flatten)]
    lines: LineArgs,
    /// Most pairs of one MSET, which is stored whole or not at all.
    #[arg(long, value_name = "PAIRS", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=65_535))]
    batch: u32,
    /// Leave out so many lines at the beginning: how an interrupted import goes on.
    #[arg(long, value_name = "LINES", default_value_t = 0)]
    skip: u64,
}

pub(super) fn run(args: ImportArgs, context: &mut Context<'_>) -> Result<Exit, Error> {
    let started = Instant::now();
    let mut servers = context.target.servers()?;
    let (input, input_bytes) = lines::open(&args.file)?;
    let bar = lines::progress_bar(input_bytes);
    let (done, result) = import(&args, input, &mut servers, &bar);
    bar.finish_and_clear();
    let mut connection = result.map_err(|source| Error::Import {
        progress: progress(&args, &done, &source),
        source: Box::new(source),
    })?;
    // Everything is stored, whether or not the index can be asked for.
    let index = connection.index().ok();
    let seconds = started.elapsed().as_secs_f64();
    let rate = done.entries as f64 / seconds.max(1e-9);
    if context.json {
        context.print_json(&json!({
            "entries": done.entries,
            "lines": done.lines,
            "bytes": done.pair_bytes,
            "seconds": seconds,
            "entries_per_second": rate,
            "index": index.map(Index::get),
        }))?;
    } else {
        let mut line = format!(
            "imported {} entries, {} in {seconds:.1} s ({} entries/s)",
            HumanCount(done.entries),
            HumanBytes(done.pair_bytes),
            HumanCount(rate as u64),
        );
        if let Some(index) = index {
            line += &format!(", index {index}");
        }
        line.push('\n');
        context.print(line.as_bytes())?;
    }
    Ok(Exit::Ok)
}

/// What is acknowledged after a failure, and how to go on.
fn progress(args: &ImportArgs, done: &Amount, error: &Error) -> String {
    let lines = args.skip + done.lines;
    let acknowledged = match done.entries {
        0 => "acknowledged: nothing".to_owned(),
        n => format!("acknowledged: {n} entries, up to line {lines}"),
    };
    // A bad line stops the reading, and everything that was sent is answered.
    let beyond = match error {
        Error::Servers(WriterError::Unavailable { .. }) if done.entries == 0 => "",
        Error::Servers(_) | Error::Server(_) => "; more may be stored, and going on sends it again",
        _ => "",
    };
    format!("{acknowledged}{beyond}\nto go on: the same command with --skip {lines}")
}

/// Imports everything; what is acknowledged is told also when it fails.
fn import(
    args: &ImportArgs,
    input: impl Read,
    servers: &mut Servers,
    bar: &ProgressBar,
) -> (Amount, Result<Connection, Error>) {
    let mut done = Amount::default();
    let lines = Lines::new(&args.file, &args.lines, input).and_then(|mut lines| {
        lines.skip(args.skip)?;
        Ok(lines)
    });
    let result = lines.and_then(|lines| {
        let batches = Batches { lines, max_pairs: args.batch as usize, failed: None };
        let mut unsent = Unsent { again: VecDeque::new(), batches };
        send_all(&mut unsent, servers, &mut done, bar)
    });
    (done, result)
}

fn send_all<R: Read>(
    unsent: &mut Unsent<R>,
    servers: &mut Servers,
    done: &mut Amount,
    bar: &ProgressBar,
) -> Result<Connection, Error> {
    loop {
        let Some(first) = unsent.next() else {
            unsent.batches.check()?;
            return Ok(ask(servers, Command::new("PING"), Kind::Read)?.0);
        };
        // The first one finds the server that accepts writes.
        let (mut connection, reply) = ask(servers, first.command.clone(), Kind::Write)?;
        if !matches!(reply, Reply::Simple(_)) {
            return Err(connection.receiver.unexpected(NOT_OK).into());
        }
        done.add(first.amount);
        let flight = Flight::new(*done, bar);
        let streamed = stream(&mut connection, unsent, &flight);
        let FlightState { acknowledged, waiting, .. } = flight.end();
        *done = acknowledged;
        match streamed {
            Ok(()) => {
                unsent.batches.check()?;
                return Ok(connection);
            }
            Err(error) if goes_on(&error) && !servers.deadline().is_zero() => {
                unsent.put_back(waiting);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether sending it again may help. An MSET may be done twice.
fn goes_on(error: &ServerError) -> bool {
    match error.outcome() {
        Outcome::NotDone | Outcome::AtTheRoot(_) | Outcome::Open => true,
        Outcome::Nonsense | Outcome::Refused => false,
    }
}

/// Sends the rest while a second thread takes the replies.
fn stream<R: Read>(
    connection: &mut Connection,
    unsent: &mut Unsent<R>,
    flight: &Flight<'_>,
) -> Result<(), ServerError> {
    let Connection { sender, receiver } = connection;
    let sent = thread::scope(|scope| {
        scope.spawn(|| flight.receive_all(receiver));
        let mut sent = Ok(());
        while let Some(batch) = unsent.next() {
            if !flight.take_off(&batch) {
                unsent.put_back([batch]);
                break;
            }
            sent = sender.send(&batch.command);
            if sent.is_err() {
                break;
            }
        }
        flight.no_more();
        sent
    });
    // A server's answer explains more than the broken connection that follows it.
    match flight.lock().failed.take() {
        Some(error) => Err(error),
        None => sent,
    }
}

/// How much of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Amount {
    entries: u64,
    /// Lines, blank ones included.
    lines: u64,
    /// Bytes of keys and values.
    pair_bytes: u64,
    /// Bytes of the input.
    input_bytes: u64,
}

impl Amount {
    fn add(&mut self, other: Amount) {
        self.entries += other.entries;
        self.lines += other.lines;
        self.pair_bytes += other.pair_bytes;
        self.input_bytes += other.input_bytes;
    }
}

/// What was sent and has no reply yet.
struct Flight<'a> {
    state: Mutex<FlightState>,
    changed: Condvar,
    bar: &'a ProgressBar,
}

#[derive(Debug, Default)]
struct FlightState {
    waiting: VecDeque<Arc<Batch>>,
    waiting_bytes: u64,
    acknowledged: Amount,
    failed: Option<ServerError>,
    ended: bool,
    no_more: bool,
}

impl<'a> Flight<'a> {
    fn new(acknowledged: Amount, bar: &'a ProgressBar) -> Self {
        let state = FlightState { acknowledged, ..FlightState::default() };
        let flight = Flight { state: Mutex::new(state), changed: Condvar::new(), bar };
        flight.show(acknowledged);
        flight
    }

    fn lock(&self) -> MutexGuard<'_, FlightState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, condition: impl Fn(&FlightState) -> bool) -> MutexGuard<'_, FlightState> {
        let waited = self.changed.wait_while(self.lock(), |state| condition(state));
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    /// What is left when nothing is sent or received any more.
    fn end(self) -> FlightState {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room and takes it; `false` when nothing more is to be sent.
    fn take_off(&self, batch: &Arc<Batch>) -> bool {
        let pair_bytes = batch.amount.pair_bytes;
        let full = |state: &FlightState| {
            let bytes = state.waiting_bytes + pair_bytes;
            state.waiting.len() >= IN_FLIGHT_COMMANDS
                || (bytes > IN_FLIGHT_BYTES as u64 && !state.waiting.is_empty())
        };
        let mut state = self.wait_while(|state| !state.ended && full(state));
        if state.ended {
            return false;
        }
        state.waiting.push_back(Arc::clone(batch));
        state.waiting_bytes += pair_bytes;
        self.changed.notify_all();
        true
    }

    fn no_more(&self) {
        self.lock().no_more = true;
        self.changed.notify_all();
    }

    /// Takes replies until there are none to come, or one is an error.
    fn receive_all(&self, receiver: &mut Receiver) {
        loop {
            let state = self.wait_while(|state| state.waiting.is_empty() && !state.no_more);
            if state.waiting.is_empty() {
                return;
            }
            drop(state);
            let failed = match receiver.receive() {
                Ok(Reply::Simple(_)) => None,
                Ok(_) => Some(receiver.unexpected(NOT_OK)),
                Err(error) => Some(error),
            };
            let mut state = self.lock();
            if let Some(error) = failed {
                state.failed = Some(error);
                state.ended = true;
                drop(state);
                receiver.shutdown();
                self.changed.notify_all();
                return;
            }
            if let Some(batch) = state.waiting.pop_front() {
                state.waiting_bytes -= batch.amount.pair_bytes;
                state.acknowledged.add(batch.amount);
            }
            let acknowledged = state.acknowledged;
            drop(state);
            self.changed.notify_all();
            self.show(acknowledged);
        }
    }

    fn show(&self, acknowledged: Amount) {
        self.bar.set_position(acknowledged.input_bytes);
        self.bar.set_message(HumanCount(acknowledged.entries).to_string());
    }
}

/// What is still to be sent: first what a lost connection left unanswered.
struct Unsent<R> {
    again: VecDeque<Arc<Batch>>,
    batches: Batches<R>,
}

impl<R: Read> Unsent<R> {
    fn next(&mut self) -> Option<Arc<Batch>> {
        self.again.pop_front().or_else(|| self.batches.next().map(Arc::new))
    }

    /// In their order, before everything else.
    fn put_back<I>(&mut self, batches: I)
    where
        I: IntoIterator<Item = Arc<Batch>, IntoIter: DoubleEndedIterator>,
    {
        batches.into_iter().rev().for_each(|batch| self.again.push_front(batch));
    }
}

/// One MSET and what it carries.
#[derive(Debug)]
struct Batch {
    command: Command,
    amount: Amount,
}

/// Groups lines into MSETs. A bad line ends it; what came before is still given out.
struct Batches<R> {
    lines: Lines<R>,
    max_pairs: usize,
    failed: Option<Error>,
}

impl<R> Batches<R> {
    /// The bad line, if one has ended it.
    fn check(&mut self) -> Result<(), Error> {
        self.failed.take().map_or(Ok(()), Err)
    }
}

impl<R: Read> Iterator for Batches<R> {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        if self.failed.is_some() {
            return None;
        }
        let mut batch = Batch { command: Command::new("MSET"), amount: Amount::default() };
        while batch.amount.entries < self.max_pairs as u64
            && batch.amount.pair_bytes < BATCH_BYTES as u64
        {
            match self.lines.next() {
                Ok(Some(line)) => {
                    if let Some((key, value)) = &line.pair {
                        batch.command.push(key);
                        batch.command.push(value);
                        batch.amount.entries += 1;
                        batch.amount.pair_bytes += (key.len() + value.len()) as u64;
                    }
                    batch.amount.lines += 1;
                    batch.amount.input_bytes += line.input_bytes;
                }
                Ok(None) => break,
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            }
        }
        (batch.amount.entries > 0).then_some(batch)
    }
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
