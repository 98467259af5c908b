//! Write to a database, wherever its root is at the moment (feature `writer`).
//!
//! A [`Writer`] talks to the client sockets of replicators. It goes to the servers in turn, follows
//! a relay's word to the root, and goes on trying until a deadline: a root that restarts, or is
//! upgraded, is latency and no failure.
//!
//! ```no_run
//! use quicksilver::Writer;
//!
//! let mut writer = Writer::connect(["unix:/run/quicksilver/dns/client.sock", "10.0.0.1:6379"])?;
//!
//! // Returns when it is safe.
//! let index = writer.set("zone/example.org", "192.0.2.1")?;
//!
//! // Visible together, to every reader, or not at all.
//! writer.set_many([("zone/a.example", "192.0.2.2"), ("zone/b.example", "192.0.2.3")])?;
//! writer.apply([("zone/c.example", Some("192.0.2.4")), ("zone/example.org", None)])?;
//!
//! if !writer.set_if_absent("lock/deploy", "me")? {
//!     println!("somebody else deploys");
//! }
//! # Ok::<(), quicksilver::writer::Error>(())
//! ```
//!
//! The index that a write returns covers it: a node at this index or later shows it. On a machine
//! with a copy of the database, [`Reader::wait_for`](crate::Reader::wait_for) waits for it.
//!
//! # What is tried again
//! | it happened that | `set`, `set_many`, `apply`, `del` | `set_if_absent`, `set_if_present` |
//! |---|---|---|
//! | nobody could be connected to, or not in time to send | tried again | tried again |
//! | the node leaves, loads, or cannot now (`TRYAGAIN`, `LOADING`) | tried again | tried again |
//! | the node is a relay (`READONLY`) | tried again, at the root that it names | the same |
//! | the connection broke after sending, or `UNKNOWN` | tried again | [`Error::Unknown`] |
//! | anything else was answered | [`Error::Refused`] | [`Error::Refused`] |
//!
//! Between two rounds through the servers there is a random wait, of at most 10 ms at first and
//! 1 s in the end. Past the deadline (30 seconds unless [`deadline`](WriterOptions::deadline) says
//! otherwise) it is [`Error::Unavailable`], which says what each server said last; or
//! [`Error::Unknown`], when one of the tries may have worked.
//!
//! # What to know
//! * **A write that is tried again may be done twice**, and between the two another writer may have
//!   come, whose value is then overwritten. Where that matters give each key one writer, or use
//!   `set_if_absent` and `set_if_present`, which are never done twice.
//! * **Many writes**: a write returns when it is durable, and a root makes one durable batch a
//!   window (500 ms by default). Put what belongs together into one `set_many`; use several
//!   writers, one for each thread, for what does not.
//! * The answer comes within the deadline, or little later: a try that has begun has at least a
//!   second, and in the first round every server is tried.

// What is hidden is for qsctl, and no promise.
#[doc(hidden)]
pub mod client;
mod error;
#[doc(hidden)]
pub mod fake;
mod policy;
#[doc(hidden)]
pub mod reply;
#[doc(hidden)]
pub mod servers;

use std::collections::BTreeMap;
use std::time::Duration;

use quicksilver_format::Index;
use quicksilver_format::limits::{VALUE_HARD_MAX_BYTES, check_key};
pub use quicksilver_format::{Address, AddressError};

use self::client::{Command, Connection};
#[doc(hidden)]
pub use self::error::Outcome;
pub use self::error::{Error, Result, ServerCode, ServerError};
#[doc(hidden)]
pub use self::policy::Kind;
use self::reply::Reply;
use self::servers::Servers;

/// How long a write is tried unless the options say otherwise: longer than a root takes to restart,
/// or its group to choose another leader.
const DEADLINE: Duration = Duration::from_secs(30);

/// Writes to a database; see the [module](self).
///
/// It has one connection, which it makes when it is needed, and sends one write at a time.
#[derive(Debug)]
pub struct Writer {
    servers: Servers,
}

/// How to write, for when [`Writer::connect`] is not enough.
///
/// ```no_run
/// use std::time::Duration;
/// use quicksilver::Writer;
///
/// let mut writer = Writer::options().deadline(Duration::from_secs(5)).connect(["10.0.0.1:6379"])?;
/// # Ok::<(), quicksilver::writer::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct WriterOptions {
    deadline: Duration,
}

impl WriterOptions {
    /// How long a write is tried before it fails; 30 seconds by default. Zero tries every server
    /// once.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// As [`Writer::connect`].
    ///
    /// # Errors
    /// As there.
    pub fn connect<S: AsRef<str>>(&self, servers: impl IntoIterator<Item = S>) -> Result<Writer> {
        let parsed = servers.into_iter().map(|server| server.as_ref().parse());
        let servers = parsed.collect::<Result<Vec<Address>, AddressError>>()?;
        Ok(Writer { servers: Servers::new(servers, self.deadline)? })
    }
}

impl Writer {
    /// A writer to these servers, `host:port`, `[v6]:port` or `unix:PATH`: client sockets of nodes
    /// of one database, in order of preference. A relay will do, as it names its root.
    ///
    /// The connection is made with the first write, so a producer may start before its root.
    ///
    /// # Errors
    /// [`Error::Address`]; [`Error::NoServer`] when there is none.
    pub fn connect<S: AsRef<str>>(servers: impl IntoIterator<Item = S>) -> Result<Writer> {
        Writer::options().connect(servers)
    }

    /// Options to connect with.
    pub fn options() -> WriterOptions {
        WriterOptions { deadline: DEADLINE }
    }

    /// Gives a key a value. Returns, when it is safe, an index that covers it.
    ///
    /// # Errors
    /// [`Error::Key`] and [`Error::ValueTooLong`], with which nothing was sent; [`Error::Refused`],
    /// [`Error::Unavailable`] and [`Error::Unknown`].
    pub fn set(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Index> {
        let set = set_command(key.as_ref(), value.as_ref())?;
        self.write([set])
    }

    /// Gives several keys values, in one batch: every reader sees all of them or none. Of several
    /// pairs with one key, the last counts.
    ///
    /// # Errors
    /// As [`set`](Self::set); [`Error::Refused`] also when it is more than a batch may hold.
    pub fn set_many<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Index> {
        self.apply(pairs.into_iter().map(|(key, value)| (key, Some(value))))
    }

    /// Gives some keys values and removes others (`None`), in one batch: every reader sees all of it
    /// or nothing. Of several changes to one key, the last counts.
    ///
    /// # Errors
    /// As [`set_many`](Self::set_many).
    pub fn apply<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        changes: impl IntoIterator<Item = (K, Option<V>)>,
    ) -> Result<Index> {
        let changes: Vec<(K, Option<V>)> = changes.into_iter().collect();
        let mut last = BTreeMap::new();
        for (key, value) in &changes {
            let (key, value) = (key.as_ref(), value.as_ref().map(AsRef::as_ref));
            check_key(key)?;
            value.map_or(Ok(()), check_value)?;
            last.insert(key, value);
        }
        let (mut sets, mut dels) = (Command::new("MSET"), Command::new("DEL"));
        for (key, value) in last {
            match value {
                Some(value) => {
                    sets.push(key);
                    sets.push(value);
                }
                None => dels.push(key),
            }
        }
        match (sets.is_bare(), dels.is_bare()) {
            (true, true) => Ok(Index::ZERO),
            (false, true) => self.write([sets]),
            (true, false) => self.write([dels]),
            (false, false) => self.write([Command::new("MULTI"), sets, dels, Command::new("EXEC")]),
        }
    }

    /// Removes keys, in one batch. Returns, when it is safe, how many there were; fewer are counted
    /// when it was tried again after it had been done. For the index that covers it, use
    /// [`apply`](Self::apply).
    ///
    /// # Errors
    /// As [`set_many`](Self::set_many).
    pub fn del<K: AsRef<[u8]>>(&mut self, keys: impl IntoIterator<Item = K>) -> Result<u64> {
        let mut del = Command::new("DEL");
        for key in keys {
            check_key(key.as_ref())?;
            del.push(key.as_ref());
        }
        if del.is_bare() {
            return Ok(0);
        }
        self.ask(&[del], Kind::Write, |reply| match reply {
            Reply::Integer(count) => u64::try_from(*count).ok(),
            _ => None,
        })
    }

    /// Gives a key a value if it has none; whether it did. Never done twice: see the
    /// [module](self).
    ///
    /// # Errors
    /// As [`set`](Self::set); [`Error::Unknown`] as soon as it may have been done.
    pub fn set_if_absent(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<bool> {
        self.set_if(set_command(key.as_ref(), value.as_ref())?.arg("NX"))
    }

    /// Gives a key another value if it has one; whether it did. Never done twice: see the
    /// [module](self).
    ///
    /// # Errors
    /// As [`set_if_absent`](Self::set_if_absent).
    pub fn set_if_present(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<bool> {
        self.set_if(set_command(key.as_ref(), value.as_ref())?.arg("XX"))
    }

    fn set_if(&mut self, command: Command) -> Result<bool> {
        self.ask(&[command], Kind::WriteOnce, |reply| match reply {
            Reply::Simple(_) => Some(true),
            Reply::Nil => Some(false),
            _ => None,
        })
    }

    /// Does what may be done twice, and asks for the index in the same breath.
    fn write<const N: usize>(&mut self, commands: [Command; N]) -> Result<Index> {
        let commands: Vec<Command> =
            commands.into_iter().chain([Command::new("QS.INDEX")]).collect();
        self.ask(&commands, Kind::Write, Reply::index)
    }

    /// What the last reply says.
    fn ask<T>(
        &mut self,
        commands: &[Command],
        kind: Kind,
        read: impl FnOnce(&Reply) -> Option<T>,
    ) -> Result<T> {
        let (connection, replies) = self.servers.call(commands, kind)?;
        match replies.last().and_then(read) {
            Some(answer) => {
                self.servers.keep(connection);
                Ok(answer)
            }
            None => Err(nonsense(&connection, &replies)),
        }
    }
}

fn nonsense(connection: &Connection, replies: &[Reply]) -> Error {
    let problem = format!("to a write: {:?}", replies.last());
    Error::Unknown {
        after: Duration::ZERO,
        failures: vec![connection.receiver.unexpected(problem)],
    }
}

fn set_command(key: &[u8], value: &[u8]) -> Result<Command> {
    check_key(key)?;
    check_value(value)?;
    Ok(Command::new("SET").arg(key).arg(value))
}

fn check_value(value: &[u8]) -> Result<()> {
    if value.len() > VALUE_HARD_MAX_BYTES {
        return Err(Error::ValueTooLong { bytes: value.len() });
    }
    Ok(())
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
