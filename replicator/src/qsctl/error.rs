//! Why a command did not do what was asked, and the exit code that says so.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use quicksilver::Error as ReadError;
use quicksilver::build::BuildError;
use quicksilver::writer::{Error as WriterError, Outcome, ServerCode, ServerError};
use quicksilver_format::FormatError;

use crate::config::{ConfigError, InvalidConfig};

/// How the program ends. The numbers are public.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Exit {
    /// Done.
    Ok = 0,
    /// There is no such key.
    NoSuchKey = 1,
    /// The command line, or a file given on it, cannot be used.
    Usage = 2,
    /// Nobody answers, or there is no database: later, or elsewhere, it may work.
    Unavailable = 3,
    /// Stored data is damaged, or differs from the upstream's.
    Corrupt = 4,
    /// Understood and not done.
    Refused = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The command line contradicts itself or lacks something.
    #[error("{0}")]
    Usage(String),
    /// The database of this machine could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The servers did not do it, or may not have.
    #[error(transparent)]
    Servers(#[from] WriterError),
    /// The server that was chosen did not go on.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line of the input is no pair.
    #[error("{input}, line {line}: {problem}")]
    Line {
        /// The input's name.
        input: String,
        /// From 1.
        line: u64,
        /// What is wrong, and what was expected.
        problem: String,
    },
    /// The configuration that was asked for cannot be.
    #[error("the configuration would be refused: {0}")]
    Config(#[from] InvalidConfig),
    /// The configuration that was written does not read back: a fault of this program.
    #[error(transparent)]
    ConfigFile(#[from] ConfigError),
    /// Not now; the text says what to do first.
    #[error("{0}")]
    Busy(String),
    /// Something is there already.
    #[error("{path} exists already and is left as it is; choose another place, or remove it first", path = path.display())]
    Exists {
        /// What.
        path: PathBuf,
    },
    /// A database could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// An import that stopped on its way.
    #[error("{source}\n{progress}")]
    Import {
        /// What stopped it.
        source: Box<Error>,
        /// What is acknowledged, and how to go on.
        progress: String,
    },
    /// Standard output could not be written.
    #[error("standard output: {0}")]
    Output(#[source] io::Error),
}

impl Error {
    pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { path, source }
    }

    /// The code to leave with.
    pub(super) fn exit(&self) -> Exit {
        match self {
            // Whoever read our output has seen enough.
            Error::Output(e) if e.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
            Error::Output(_) => Exit::Unavailable,
            Error::Usage(_) | Error::File { .. } | Error::Line { .. } => Exit::Usage,
            Error::Config(_) | Error::ConfigFile(_) => Exit::Usage,
            Error::Exists { .. } | Error::Busy(_) => Exit::Refused,
            Error::Build(BuildError::Reader(e)) => of_read(e),
            Error::Build(BuildError::Page { .. }) => Exit::Unavailable,
            Error::Build(_) => Exit::Refused,
            Error::Read(e) => of_read(e),
            Error::Servers(e) => of_servers(e),
            Error::Server(e) => of_server(e),
            Error::Import { source, .. } => source.exit(),
        }
    }
}

fn of_read(error: &ReadError) -> Exit {
    match error {
        ReadError::Key(_) => Exit::Usage,
        ReadError::Format {
            source:
                FormatError::Version { .. }
                | FormatError::UnreadableDatabase { .. }
                | FormatError::UnwritableDatabase { .. },
            ..
        } => Exit::Unavailable,
        ReadError::Format { .. } | ReadError::WrongDatabase { .. } => Exit::Corrupt,
        other if other.is_corrupt() => Exit::Corrupt,
        _ => Exit::Unavailable,
    }
}

fn of_servers(error: &WriterError) -> Exit {
    match error {
        WriterError::Refused(refusal) => of_server(refusal),
        // As long as one could not be asked, it may be the one.
        WriterError::Unavailable { failures, .. } => {
            let mut exits = failures.iter().map(of_server);
            match exits.next() {
                Some(first) if exits.all(|exit| exit == first) => first,
                _ => Exit::Unavailable,
            }
        }
        WriterError::Address(_) | WriterError::NoServer => Exit::Usage,
        WriterError::Key(_) | WriterError::ValueTooLong { .. } => Exit::Usage,
        _ => Exit::Unavailable,
    }
}

fn of_server(error: &ServerError) -> Exit {
    match error.outcome() {
        Outcome::NotDone | Outcome::Open | Outcome::Nonsense => Exit::Unavailable,
        Outcome::AtTheRoot(_) => Exit::Refused,
        Outcome::Refused => match error {
            ServerError::Answered { code: ServerCode::Corrupt, .. } => Exit::Corrupt,
            _ => Exit::Refused,
        },
    }
}
