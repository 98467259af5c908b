//! What is asked of the store between two commits, and the answers. The writer's thread carries it
//! out, at a root and at a relay alike: each node's files are its own.

use std::fmt;

use quicksilver::build::rebuild::Rebuilt;
use quicksilver::build::{BuildError, Built};
use quicksilver::environment::Environment;

pub use quicksilver::build::FormatChange;

use super::{Live, Store, StoreError};

/// An order.
#[derive(Debug)]
pub enum StoreOrder {
    /// Raise the format to the newest that this release can write.
    RaiseFormat(Asker<FormatAnswer>),
    /// Go on in a copy of the live generation, which becomes the live one.
    Switch(Box<Rebuilt>, Asker<SwitchAnswer>),
    /// Go on in a generation that was restored from a snapshot.
    Install(Built, Asker<SwitchAnswer>),
}

/// What became of [`StoreOrder::Switch`] or [`StoreOrder::Install`]: the generation before, which readers may still be in.
pub type SwitchAnswer = Result<Environment, SwitchRefusal>;

/// Why the generation was not switched, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub enum SwitchRefusal {
    /// Nothing was changed; the copy is gone.
    #[error(transparent)]
    NotSwitched(BuildError),
    /// The storage failed at a moment where it is not known which one is live; both are the same, and
    /// the next start goes on in one of them.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

impl Store {
    /// Carries out an order, and tells whoever gave it. True when another generation is live than
    /// before; `to_switched` hears of that first, so that whoever gave the order finds it everywhere. An
    /// error is one of the store's: what was refused, and left everything as it was, is none.
    pub fn obey(
        &mut self,
        order: StoreOrder,
        to_switched: &mut dyn FnMut(&Live),
    ) -> Result<bool, StoreError> {
        match order {
            StoreOrder::RaiseFormat(asker) => match self.raise_format() {
                Ok(change) => {
                    asker.tell(Ok(change));
                    Ok(false)
                }
                Err(e) => {
                    asker.tell(Err(FormatRefusal::of(&e)));
                    // Whoever asked for it tries again.
                    if e.is_transient() { Ok(false) } else { Err(e) }
                }
            },
            StoreOrder::Switch(copy, asker) => {
                let outcome = self.switch(*copy);
                self.switched(outcome, asker, to_switched)
            }
            StoreOrder::Install(restored, asker) => {
                let outcome = self.install(&restored);
                self.switched(outcome, asker, to_switched)
            }
        }
    }

    fn switched(
        &self,
        outcome: Result<Environment, StoreError>,
        asker: Asker<SwitchAnswer>,
        to_switched: &mut dyn FnMut(&Live),
    ) -> Result<bool, StoreError> {
        match outcome {
            Ok(before) => {
                to_switched(&self.live());
                asker.tell(Ok(before));
                Ok(true)
            }
            Err(StoreError::Build(refused)) => {
                asker.tell(Err(SwitchRefusal::NotSwitched(refused)));
                Ok(false)
            }
            Err(e) => {
                asker.tell(Err(SwitchRefusal::Unknown(e.to_string())));
                Err(e)
            }
        }
    }
}

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
pub struct Asker<A>(Box<dyn FnOnce(A) + Send>);

impl<A> Asker<A> {
    /// One who is told by a call, which is short.
    pub fn new(tell: impl FnOnce(A) + Send + 'static) -> Self {
        Asker(Box::new(tell))
    }

    /// Tells the answer.
    pub fn tell(self, answer: A) {
        (self.0)(answer);
    }
}

impl<A> fmt::Debug for Asker<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asker")
    }
}
