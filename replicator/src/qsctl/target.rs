//! What a command is about: a database of this machine, or servers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgMatches;
use clap::parser::ValueSource;
use quicksilver::Reader;
use quicksilver::writer::Kind;
use quicksilver::writer::client::{Command, Connection};
use quicksilver::writer::reply::Reply;
use quicksilver::writer::servers::Servers;
use quicksilver_format::Address;

use super::error::Error;

/// Where databases live unless configured otherwise.
pub(super) const DATABASES: &str = "/var/lib/quicksilver";

/// What `--db`, `--server`, `QS_DB` and `QS_SERVER` say together.
#[derive(Debug, Clone, Default)]
pub(super) struct Target {
    db: Option<PathBuf>,
    servers: Vec<Address>,
    deadline: Duration,
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
    Servers(Box<Servers>),
}

impl Target {
    /// From the command line and the environment; what stands on the command line wins.
    pub(super) fn new(
        db: Option<PathBuf>,
        servers: &[String],
        deadline_seconds: u64,
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
        let deadline = Duration::from_secs(deadline_seconds);
        Ok(Target { db, servers, deadline, typed })
    }

    /// Whom a command that reads asks.
    pub(super) fn place(&self) -> Result<Place<'_>, Error> {
        match &self.db {
            Some(db) if self.typed != Typed::Servers => Ok(Place::Db(db)),
            _ if !self.servers.is_empty() => Ok(Place::Servers(Box::new(self.servers()?))),
            _ => Err(Error::Usage(
                "which database? pass --db NAME|DIR or --server ADDRESS, or set QS_DB or QS_SERVER"
                    .to_owned(),
            )),
        }
    }

    /// The servers, for a command that needs one.
    pub(super) fn servers(&self) -> Result<Servers, Error> {
        if self.servers.is_empty() || self.typed == Typed::Db {
            return Err(Error::Usage(
                "which server? this command goes through one: pass --server HOST:PORT or \
                 unix:PATH, or set QS_SERVER"
                    .to_owned(),
            ));
        }
        Ok(Servers::new(self.servers.clone(), self.deadline)?)
    }

    /// The server, for a command that is about one node and no other.
    pub(super) fn one_server(&self) -> Result<Servers, Error> {
        let servers = self.servers()?;
        match self.servers.len() {
            1 => Ok(servers),
            several => Err(Error::Usage(format!(
                "{several} servers: this is about one node's files; name one server at a time"
            ))),
        }
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

/// Has one of the servers do a command; the connection stays for more.
pub(super) fn ask(
    servers: &mut Servers,
    command: Command,
    kind: Kind,
) -> Result<(Connection, Reply), Error> {
    let (connection, mut replies) = servers.call(&[command], kind)?;
    // One for each command.
    Ok((connection, replies.pop().unwrap_or(Reply::Nil)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_wins_over_the_environment() {
        let servers = vec![Address::Unix("/s".into())];
        let target = |typed| Target {
            db: Some("/d".into()),
            servers: servers.clone(),
            deadline: Duration::ZERO,
            typed,
        };
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
