//! Why a write was not done, or is not known to be.

use std::io;
use std::time::Duration;

use quicksilver_format::limits::{KeyLengthError, VALUE_HARD_MAX_BYTES};
use quicksilver_format::{Address, AddressError};

/// What READONLY says before the address of the root, which ends the text.
const ROOT_IS_AT: &str = "write to the root at ";
/// What Redis says when it has too many clients; its clients know the text.
const TOO_MANY_CLIENTS: &str = "ERR max number of clients reached";

/// Why a [`Writer`](super::Writer) did not do what it was asked, or does not know whether it did.
///
/// Only [`Unknown`](Self::Unknown) leaves open whether something was stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text that is no server's address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// There is no server to write to.
    #[error("no server to write to: give the client socket of a root or a relay")]
    NoServer,
    /// The key has a length that no key has.
    #[error(transparent)]
    Key(#[from] KeyLengthError),
    /// The value is longer than any configuration allows.
    #[error("value of {bytes} bytes: no value has more than {VALUE_HARD_MAX_BYTES} bytes")]
    ValueTooLong {
        /// Bytes the value has.
        bytes: usize,
    },
    /// A server understood and refused: nothing was stored, and asking again would be no use.
    #[error(transparent)]
    Refused(ServerError),
    /// It is not known whether it was stored: a connection was lost, or the storage failed, at the
    /// wrong moment. Read it back before writing it again.
    #[error(
        "it is not known whether it was done, after {:.1} s:{}\nread it back before sending it \
         again", after.as_secs_f64(), list(failures)
    )]
    Unknown {
        /// How long it was tried.
        after: Duration,
        /// What each server said last; the last of them said it last.
        failures: Vec<ServerError>,
    },
    /// No server did it before the deadline: nothing was stored.
    #[error(
        "no server did it, after {:.1} s:{}\ntry again later, or with a longer deadline",
        after.as_secs_f64(), list(failures)
    )]
    Unavailable {
        /// How long it was tried.
        after: Duration,
        /// What each server said last; the last of them said it last.
        failures: Vec<ServerError>,
    },
}

/// Result of a write.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn list(failures: &[ServerError]) -> String {
    failures.iter().map(|failure| format!("\n  {failure}")).collect()
}

/// What the first word of a server's error says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerCode {
    /// Writes go elsewhere; the text names the root.
    ReadOnly,
    /// Not now; nothing was done.
    TryAgain,
    /// The node has no data yet.
    Loading,
    /// Stored data is damaged.
    Corrupt,
    /// It is not known whether the write took effect.
    Unknown,
    /// Anything else is a refusal.
    Other,
}

/// Why a server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// No connection: nothing was sent.
    #[error(
        "{address}: cannot connect: {source}; is quicksilverd running there, with listen.client?"
    )]
    Connect {
        /// Whom.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke before the command was sent whole: nothing was done.
    #[error("{address}: connection lost before the command was sent: {source}")]
    Unsent {
        /// Whom.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke, or nothing came in time.
    #[error(
        "{address}: connection lost while waiting for a reply: {source}; a write under way may or \
         may not have been stored"
    )]
    Lost {
        /// Whom.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// What came is no reply, or not one to this command.
    #[error("{address}: unexpected reply: {problem}; expected the client socket of a replicator")]
    Protocol {
        /// Whom.
        address: Address,
        /// What was found and expected.
        problem: String,
    },
    /// What a relay named as its root is not known to be that: nothing was written there.
    #[error(
        "{address}: {named_by} named it as its root, but {problem}; is listen.client of the root an \
         address that means the same here?"
    )]
    NotTheRoot {
        /// Who was named.
        address: Address,
        /// By whom.
        named_by: Address,
        /// What was found and expected.
        problem: String,
    },
    /// An error of the server's own.
    #[error("{address}: {message}")]
    Answered {
        /// Whom.
        address: Address,
        /// Its first word, understood.
        code: ServerCode,
        /// Its text.
        message: String,
    },
}

/// What an error says about the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was not done; another server, or the same one later, may do it.
    NotDone,
    /// It was not done; only the root does it, which is there, if that is known.
    AtTheRoot(Option<Address>),
    /// It may or may not have been done.
    Open,
    /// It may or may not have been done, by something that is no replicator.
    Nonsense,
    /// It was not done, and asking again would be no use.
    Refused,
}

impl ServerError {
    /// Which server.
    pub fn address(&self) -> &Address {
        match self {
            ServerError::Connect { address, .. }
            | ServerError::Unsent { address, .. }
            | ServerError::Lost { address, .. }
            | ServerError::Protocol { address, .. }
            | ServerError::NotTheRoot { address, .. }
            | ServerError::Answered { address, .. } => address,
        }
    }

    /// What it says about the command.
    #[doc(hidden)]
    pub fn outcome(&self) -> Outcome {
        match self {
            ServerError::Connect { .. }
            | ServerError::Unsent { .. }
            | ServerError::NotTheRoot { .. } => Outcome::NotDone,
            ServerError::Lost { .. } => Outcome::Open,
            ServerError::Protocol { .. } => Outcome::Nonsense,
            ServerError::Answered { code, message, .. } => match code {
                ServerCode::TryAgain | ServerCode::Loading => Outcome::NotDone,
                ServerCode::ReadOnly => Outcome::AtTheRoot(root_in(message)),
                ServerCode::Unknown => Outcome::Open,
                ServerCode::Corrupt | ServerCode::Other => Outcome::Refused,
            },
        }
    }
}

/// The root's address, where the text names one.
fn root_in(message: &str) -> Option<Address> {
    message.split_once(ROOT_IS_AT)?.1.trim_end().parse().ok()
}

impl ServerCode {
    pub(super) fn of(message: &str) -> Self {
        match message.split(' ').next() {
            Some("READONLY") => ServerCode::ReadOnly,
            Some("TRYAGAIN") => ServerCode::TryAgain,
            Some("LOADING") => ServerCode::Loading,
            Some("CORRUPT") => ServerCode::Corrupt,
            Some("UNKNOWN") => ServerCode::Unknown,
            _ if message.starts_with(TOO_MANY_CLIENTS) => ServerCode::TryAgain,
            _ => ServerCode::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_first_word() {
        assert_eq!(ServerCode::of("READONLY the root is at a:1"), ServerCode::ReadOnly);
        assert_eq!(ServerCode::of("LOADING"), ServerCode::Loading);
        assert_eq!(ServerCode::of("ERR READONLY"), ServerCode::Other);
        assert_eq!(ServerCode::of(""), ServerCode::Other);
    }
}
