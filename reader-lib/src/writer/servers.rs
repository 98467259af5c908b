//! Several servers that are asked as if they were one: `policy` with sockets.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use quicksilver_format::Address;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::client::{Command, Connection, PATIENCE};
use super::error::{Error, Result, ServerError};
use super::policy::{End, Kind, Tries, Try};
use super::reply::Reply;

/// A try that begins is given so much time, even when the deadline is nearer.
/// (A test's servers are on the same machine, which may be busy.)
const LEAST_TRY: Duration = if cfg!(test) { PATIENCE } else { Duration::from_secs(1) };
/// How INFO names the database.
const DB_ID_LINE: &str = "quicksilver_db_id:";

/// The client sockets of a database's nodes, and the connection that served last.
#[derive(Debug)]
pub struct Servers {
    addresses: Vec<Address>,
    deadline: Duration,
    kept: Option<Connection>,
    rng: StdRng,
}

impl Servers {
    /// Connects to nobody yet.
    ///
    /// # Errors
    /// [`Error::NoServer`].
    pub fn new(addresses: Vec<Address>, deadline: Duration) -> Result<Self> {
        if addresses.is_empty() {
            return Err(Error::NoServer);
        }
        Ok(Servers { addresses, deadline, kept: None, rng: StdRng::from_os_rng() })
    }

    /// How long a call may take.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Sends commands, together, to one server after the other until one has done them all. The
    /// connection is the caller's, until it is [kept](Self::keep).
    pub fn call(
        &mut self,
        commands: &[Command],
        kind: Kind,
    ) -> Result<(Connection, Vec<Reply>), Error> {
        let began = Instant::now();
        // A deadline beyond the end of time is none.
        let deadline = began.checked_add(self.deadline);
        let last_success = self.last_success();
        let mut tries = Tries::new(kind, &self.addresses, last_success.as_ref(), deadline);
        let mut failures = Vec::new();
        let mut next = tries.first();
        loop {
            match next {
                Ok(this) => {
                    thread::sleep(this.after);
                    match self.attempt(&this, commands, deadline) {
                        Ok(done) => return Ok(done),
                        Err(failure) => {
                            next = tries.after(failure.outcome(), Instant::now(), &mut self.rng);
                            self.note(&mut failures, failure);
                        }
                    }
                }
                Err(end) => return Err(ended(end, began.elapsed(), failures)),
            }
        }
    }

    /// Gives a connection back on which everything went well, for the next call.
    pub fn keep(&mut self, connection: Connection) {
        self.kept = Some(connection);
    }

    /// A root that was only named is asked for again once its connection has ended.
    fn last_success(&mut self) -> Option<Address> {
        let kept = self.kept.as_mut()?;
        let is_ours = self.addresses.contains(kept.address());
        (is_ours || kept.is_idle(PATIENCE)).then(|| kept.address().clone())
    }

    fn attempt(
        &mut self,
        this: &Try,
        commands: &[Command],
        deadline: Option<Instant>,
    ) -> Result<(Connection, Vec<Reply>), ServerError> {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let patience = match left {
            Some(left) if !self.deadline.is_zero() => left.clamp(LEAST_TRY, PATIENCE),
            _ => PATIENCE,
        };
        let mut kept = self.kept.take().filter(|kept| *kept.address() == this.server);
        let mut connection = match kept.take_if(|kept| kept.is_idle(patience)) {
            Some(kept) => kept,
            None if this.named_by.is_none() && !self.addresses.contains(&this.server) => {
                let (address, source) = (this.server.clone(), io::Error::other("it has ended"));
                return Err(ServerError::Unsent { address, source });
            }
            None => Connection::open(&this.server, patience)?,
        };
        if let Some(relay) = &this.named_by {
            check_same_database(relay, &mut connection, patience)?;
        }
        let replies = connection.call(commands)?;
        Ok((connection, replies))
    }

    /// Keeps what each server said last, and of those that were only named the last one.
    fn note(&self, failures: &mut Vec<ServerError>, failure: ServerError) {
        let is_ours = |failure: &ServerError| self.addresses.contains(failure.address());
        failures.retain(|old| {
            old.address() != failure.address() && (is_ours(old) || is_ours(&failure))
        });
        failures.push(failure);
    }
}

fn ended(end: End, after: Duration, mut failures: Vec<ServerError>) -> Error {
    match end {
        End::Unknown => Error::Unknown { after, failures },
        End::Unavailable => Error::Unavailable { after, failures },
        End::Refused => match failures.pop() {
            Some(refusal) => Error::Refused(refusal),
            None => Error::NoServer,
        },
    }
}

/// A root's address may mean somebody else where it is read: 127.0.0.1, or a path. Nothing is
/// written there before it has said that it holds the same database as the relay that named it.
fn check_same_database(
    relay: &Address,
    root: &mut Connection,
    patience: Duration,
) -> Result<(), ServerError> {
    let (address, named_by) = (root.address().clone(), relay.clone());
    let expected = Connection::open(relay, patience).and_then(|mut relay| db_id(&mut relay));
    let problem = match (expected, db_id(root)) {
        (Ok(expected), Ok(found)) if expected == found => return Ok(()),
        (Ok(expected), Ok(found)) => format!("it holds database {found}, expected {expected}"),
        (Err(e), _) | (_, Err(e)) => e.to_string(),
    };
    Err(ServerError::NotTheRoot { address, named_by, problem })
}

fn db_id(connection: &mut Connection) -> Result<String, ServerError> {
    let unexpected = |connection: &Connection, problem| connection.receiver.unexpected(problem);
    let Reply::Bulk(text) = connection.one(&Command::new("INFO").arg("quicksilver"))? else {
        return Err(unexpected(connection, "to INFO, expected text"));
    };
    let text = String::from_utf8_lossy(&text);
    match text.lines().find_map(|line| line.strip_prefix(DB_ID_LINE)) {
        Some(id) => Ok(id.to_owned()),
        None => Err(unexpected(connection, "to INFO, expected a line quicksilver_db_id")),
    }
}
