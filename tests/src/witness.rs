//! Clients that notice every failure, every stall and every step back.
//!
//! They retry once, as any client should: a question whose connection ended, or that was answered
//! with TRYAGAIN, is asked again on a new connection. A connect that is refused, and a question that
//! fails twice, is a problem.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::resp::{Client, Reply};

/// What one client saw.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Questions that were answered.
    pub answered: u64,
    /// Questions that were asked again.
    pub retried: u64,
    /// The longest time from a question to its answer, retries included.
    pub longest: Duration,
    /// What must not be.
    pub problems: Vec<String>,
}

impl Tally {
    /// This and another client together.
    #[must_use]
    pub fn and(mut self, other: Tally) -> Tally {
        self.answered += other.answered;
        self.retried += other.retried;
        self.longest = self.longest.max(other.longest);
        self.problems.extend(other.problems);
        self
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Tally { answered, retried, longest, problems } = self;
        let (longest_ms, failed) = (longest.as_secs_f64() * 1e3, problems.len());
        write!(
            f,
            "{answered:>9} answered, {retried:>4} asked again, {failed} failed, longest {longest_ms:.1} ms"
        )
    }
}

/// Between two questions of a client that only looks: a machine that has nothing left would show its
/// scheduler's stalls, and not ours.
const PACE: Duration = Duration::from_millis(1);

/// Whether a client keeps its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// Until it ends.
    Kept,
    /// A new one for every question.
    New,
}

/// One client of a client socket.
#[derive(Debug)]
pub struct Witness {
    socket: PathBuf,
    connections: Connections,
    client: Option<Client>,
    retries: usize,
    tally: Tally,
}

impl Witness {
    /// Connects when it asks.
    pub fn new(socket: &Path, connections: Connections) -> Self {
        let tally = Tally::default();
        Witness { socket: socket.to_owned(), connections, client: None, retries: 1, tally }
    }

    /// One that asks again more often: where several processes may die in a row.
    #[must_use]
    pub fn with_retries(self, retries: usize) -> Self {
        Witness { retries, ..self }
    }

    /// One question; `None` when that is a problem, which is noted.
    pub fn ask(&mut self, question: &[&str]) -> Option<Reply> {
        let began = Instant::now();
        if self.connections == Connections::New {
            self.client = None;
        }
        let mut failure = String::new();
        for tries in 0..=self.retries {
            self.tally.retried += u64::from(tries > 0);
            if self.client.is_none() {
                match Client::connect(&self.socket) {
                    Ok(client) => self.client = Some(client),
                    Err(error) => {
                        failure = format!("connect refused: {error}");
                        break;
                    }
                }
            }
            let Some(client) = &mut self.client else { continue };
            match client.call(question) {
                Ok(reply) if !reply.error().starts_with("TRYAGAIN") => {
                    self.tally.answered += 1;
                    self.tally.longest = self.tally.longest.max(began.elapsed());
                    return Some(reply);
                }
                Ok(reply) => failure = format!("{reply:?}"),
                Err(error) => failure = error.to_string(),
            }
            self.client = None;
        }
        self.tally.problems.push(format!("{question:?}: {failure}"));
        None
    }

    /// Notes what must not be.
    pub fn problem(&mut self, text: String) {
        self.tally.problems.push(text);
    }

    /// What it saw.
    pub fn tally(self) -> Tally {
        self.tally
    }
}

/// Sets `key` to 1, 2, 3 and so on until told to stop; what it saw, and the last number that was
/// acknowledged. `acknowledged` counts for all writers.
pub fn count_up(
    mut witness: Witness,
    key: &str,
    stop: &AtomicBool,
    acknowledged: &AtomicU64,
) -> (Tally, u64) {
    let mut last = 0;
    for number in 1_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        match witness.ask(&["SET", key, &number.to_string()]) {
            Some(reply) if reply.is_ok() => {
                last = number;
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Some(reply) => witness.problem(format!("SET {key} {number}: {reply:?}")),
            None => {}
        }
    }
    (witness.tally(), last)
}

/// Reads the number that [`count_up`] writes until told to stop: it never goes back, and is never
/// anything else.
pub fn watch_count(mut witness: Witness, key: &str, stop: &AtomicBool) -> Tally {
    let mut last = 0;
    while !stop.load(Ordering::Relaxed) {
        match witness.ask(&["GET", key]) {
            Some(Reply::Nil) if last == 0 => {}
            Some(reply) => match reply.text().and_then(|text| text.parse::<u64>().ok()) {
                Some(number) if number >= last => last = number,
                _ => witness.problem(format!("GET {key}: {reply:?} after {last}")),
            },
            None => {}
        }
        std::thread::sleep(PACE);
    }
    witness.tally()
}
