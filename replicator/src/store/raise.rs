//! Raising the format of the database: the order, and its answer.
//!
//! The writer's thread carries it out, at a root and at a relay alike: each node's files are its own.

use std::fmt;

pub use quicksilver::build::FormatChange;

use super::StoreError;

/// What became of the order.
pub type FormatAnswer = Result<FormatChange, FormatRefusal>;

/// Why the format was not raised, or is not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatRefusal {
    /// Nothing was changed.
    #[error("{0}; the format is what it was")]
    NotRaised(String),
    /// The storage failed at a moment where it is not known whether the change is durable.
    #[error("outcome unknown: {0}; look at the format once the node is up again")]
    Unknown(String),
    /// The writer's thread ended, or applies nothing more, and has not done it.
    #[error(
        "the node's writer has ended or applies nothing more, /status says why; ask again later"
    )]
    NoWriter,
    /// The writer has other things to do.
    #[error(
        "the node's writer did not come to it in time; it is done in its turn, look again later"
    )]
    Late,
}

impl FormatRefusal {
    /// Of what the store said.
    pub fn of(error: &StoreError) -> Self {
        match error {
            StoreError::Failed(_) => FormatRefusal::Unknown(error.to_string()),
            _ => FormatRefusal::NotRaised(error.to_string()),
        }
    }
}

/// Whoever waits for the answer. Dropped, it says that there will be none.
pub struct Asker(Box<dyn FnOnce(FormatAnswer) + Send>);

impl Asker {
    /// One who is told by a call, which is short.
    pub fn new(tell: impl FnOnce(FormatAnswer) + Send + 'static) -> Self {
        Asker(Box::new(tell))
    }

    /// Tells the answer.
    pub fn tell(self, answer: FormatAnswer) {
        (self.0)(answer);
    }
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asker")
    }
}
