//! What a command is about: a database of this machine, or servers.

use std::path::{Path, PathBuf};

use clap::ArgMatches;
use clap::parser::ValueSource;
use quicksilver::Reader;
use quicksilver_format::Index;

use super::client::{ClientError, Command, Connection, Reply, ServerCode};
use super::error::Error;
use crate::net::listen::Address;

/// Where databases live unless configured otherwise.
pub(super) const DATABASES: &str = "/var/lib/quicksilver";

/// What `--db`, `--server`, `QS_DB` and `QS_SERVER` say together.
#[derive(Debug, Clone, Default)]
pub(super) struct Target {
    db: Option<PathBuf>,
    servers: Vec<Address>,
    typed: Typed,
}

/// Which of them stands on the command line; the environment must not override it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Typed {
    #[default]
    Neither,
    Db,
    Servers,
}

/// Whom a command that only reads asks.
#[derive(Debug)]
pub(super) enum Place<'a> {
    /// The environment of this machine.
    Db(&'a Path),
    /// Client sockets.
    Servers(&'a [Address]),
}

/// When the next address may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// After anything but a clear answer.
    Read,
    /// Only when the command has certainly not taken effect.
    Write,
}

impl Target {
    /// From the command line and the environment; what stands on the command line wins.
    pub(super) fn new(
        db: Option<PathBuf>,
        servers: &[String],
        matches: &ArgMatches,
    ) -> Result<Self, Error> {
        let typed = |name| matches.value_source(name) == Some(ValueSource::CommandLine);
        let typed = match (typed("db"), typed("server")) {
            (false, false) => Typed::Neither,
            (true, false) => Typed::Db,
            (false, true) => Typed::Servers,
            (true, true) => {
                return Err(Error::Usage(
                    "--db and --server together: give the one that the command is about".to_owned(),
                ));
            }
        };
        let servers: Vec<Address> = servers
            .iter()
            .filter(|text| !text.is_empty())
            .map(|text| text.parse().map_err(|e| Error::Usage(format!("--server: {e}"))))
            .collect::<Result<_, _>>()?;
        let db = db.filter(|db| !db.as_os_str().is_empty()).map(directory);
        Ok(Target { db, servers, typed })
    }

    /// Whom a command that reads asks.
    pub(super) fn place(&self) -> Result<Place<'_>, Error> {
        match &self.db {
            Some(db) if self.typed != Typed::Servers => Ok(Place::Db(db)),
            _ if !self.servers.is_empty() => Ok(Place::Servers(&self.servers)),
            _ => Err(Error::Usage(
                "which database? pass --db NAME|DIR or --server ADDRESS, or set QS_DB or QS_SERVER"
                    .to_owned(),
            )),
        }
    }

    /// The servers, for a command that needs one.
    pub(super) fn servers(&self) -> Result<&[Address], Error> {
        if self.servers.is_empty() || self.typed == Typed::Db {
            return Err(Error::Usage(
                "which server? this command goes through one: pass --server HOST:PORT or \
                 unix:PATH, or set QS_SERVER"
                    .to_owned(),
            ));
        }
        Ok(&self.servers)
    }

    /// The directory, for a command that needs the environment itself.
    pub(super) fn db(&self) -> Result<&Path, Error> {
        self.db.as_deref().filter(|_| self.typed != Typed::Servers).ok_or_else(|| {
            Error::Usage(
                "which database? this command reads the files: pass --db NAME|DIR, or set QS_DB"
                    .to_owned(),
            )
        })
    }

    /// Opens the database, for a command that needs the environment itself.
    pub(super) fn reader(&self) -> Result<Reader, Error> {
        Ok(Reader::open(self.db()?)?)
    }
}

/// A word without a slash is a name.
fn directory(db: PathBuf) -> PathBuf {
    let is_name = match db.to_str() {
        Some("." | "..") => false,
        Some(text) => !text.contains('/'),
        None => false,
    };
    if is_name { Path::new(DATABASES).join(db) } else { db }
}

/// Sends a command to each address in turn until one does it; the connection stays for more.
pub(super) fn first_that_answers(
    addresses: &[Address],
    command: &Command,
    kind: Kind,
) -> Result<(Connection, Reply), Error> {
    let mut failures: Vec<ClientError> = Vec::new();
    for address in addresses {
        let answered = Connection::open(address)
            .and_then(|mut connection| connection.call(command).map(|reply| (connection, reply)));
        match answered {
            Ok(answered) => return Ok(answered),
            Err(error) if may_ask_another(&error, kind) => failures.push(error),
            Err(error) => return Err(error.into()),
        }
    }
    if failures.len() > 1 {
        return Err(Error::EveryServer(failures));
    }
    match failures.pop() {
        Some(only) => Err(only.into()),
        None => Err(Error::Usage("no server to ask: pass --server, or set QS_SERVER".to_owned())),
    }
}

fn may_ask_another(error: &ClientError, kind: Kind) -> bool {
    match error {
        ClientError::Connect { .. } => true,
        ClientError::Lost { .. } | ClientError::Protocol { .. } => kind == Kind::Read,
        ClientError::Server { code, .. } => {
            matches!(code, ServerCode::ReadOnly | ServerCode::TryAgain | ServerCode::Loading)
        }
    }
}

/// The last index applied at the other end of a connection.
pub(super) fn index(connection: &mut Connection) -> Result<Index, Error> {
    let reply = connection.call(&Command::new("QS.INDEX"))?;
    let number = match &reply {
        Reply::Integer(number) => u64::try_from(*number).ok(),
        Reply::Bulk(text) => std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()),
        _ => None,
    };
    match number {
        Some(number) => Ok(Index::new(number)),
        None => Err(unexpected(connection, "to QS.INDEX, expected a number").into()),
    }
}

/// The error for a reply that does not answer the command.
pub(super) fn unexpected(connection: &Connection, problem: &str) -> ClientError {
    connection.receiver.unexpected(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_wins_over_the_environment() {
        let servers = vec![Address::Unix("/s".into())];
        let target = |typed| Target { db: Some("/d".into()), servers: servers.clone(), typed };
        assert!(matches!(target(Typed::Neither).place(), Ok(Place::Db(_))));
        assert!(target(Typed::Neither).servers().is_ok() && target(Typed::Neither).db().is_ok());
        assert!(matches!(target(Typed::Db).place(), Ok(Place::Db(_))));
        assert!(target(Typed::Db).servers().is_err(), "a write to a server nobody named");
        assert!(matches!(target(Typed::Servers).place(), Ok(Place::Servers(_))));
        assert!(target(Typed::Servers).db().is_err());
    }

    #[test]
    fn a_word_is_a_name_and_a_path_a_directory() {
        for (db, expected) in [
            ("dns", "/var/lib/quicksilver/dns"),
            ("./dns", "./dns"),
            ("/srv/dns", "/srv/dns"),
            ("dns/", "dns/"),
            (".", "."),
            ("..", ".."),
        ] {
            assert_eq!(directory(PathBuf::from(db)), Path::new(expected));
        }
    }
}
