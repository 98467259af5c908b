//! Becoming the writer of a database: at once, or after waiting beside the process that is.
//!
//! A standby has the live generation open and checked, so that it can take over in the moment in
//! which the role lock is free. Until then it writes nothing, in the database or on its status page.

use std::path::{Path, PathBuf};

use quicksilver::build::{BuildError, RoleLock, directory, open_writer};
use quicksilver::environment::{Environment, live_generation};
use quicksilver::log;
use quicksilver_format::layout::Generation;
use quicksilver_format::{DbId, HistoryId};

use super::create::{self, Sizes};
use super::error::StoreError;
use super::{State, Store};

/// A process that may become the writer of a database, and is not yet.
#[derive(Debug)]
pub struct Standby {
    dir: PathBuf,
    db_id: DbId,
    sizes: Sizes,
    /// What was live when it was opened; `None` when there was nothing.
    environment: Option<Environment>,
}

impl Standby {
    /// Opens and checks what is live in `dir`, if anything is: whoever is the writer serves it
    /// better than a process to which it looks damaged.
    pub fn open(dir: &Path, db_id: DbId, sizes: Sizes) -> Result<Self, StoreError> {
        directory::make(dir)?;
        let environment = match live_generation(dir) {
            Ok(generation) => {
                let environment = open(dir, generation, db_id, sizes.max_readers)?;
                check(&environment)?;
                Some(environment)
            }
            Err(quicksilver::Error::NoDatabase { .. }) => None,
            Err(e) => return Err(e.into()),
        };
        Ok(Standby { dir: dir.to_owned(), db_id, sizes, environment })
    }

    /// One that has opened nothing, for a process that has the role lock already.
    pub fn unopened(dir: &Path, db_id: DbId, sizes: Sizes) -> Self {
        Standby { dir: dir.to_owned(), db_id, sizes, environment: None }
    }

    /// Becomes the writer. `history` is what a new database begins with: random at a root, nil where
    /// it will be learnt from an upstream.
    pub fn take_over(self, role: RoleLock, history: HistoryId) -> Result<Store, StoreError> {
        let Standby { dir, db_id, sizes, environment } = self;
        let environment = match (environment, live_generation(&dir)) {
            (Some(held), Ok(live)) if held.generation == live && held.env.is_in_place()? => held,
            (held, Ok(live)) => {
                // Another generation became live meanwhile.
                drop(held);
                open(&dir, live, db_id, sizes.max_readers)?
            }
            (held, Err(quicksilver::Error::NoDatabase { .. })) => {
                drop(held);
                create::create(&dir, db_id, history, sizes)?
            }
            (_, Err(e)) => return Err(e.into()),
        };
        create::settle(&environment, sizes)?;
        Store::begin(dir, environment, role)
    }
}

/// Takes the role lock of a database, or says who has it.
pub fn take_role(dir: &Path) -> Result<RoleLock, StoreError> {
    directory::make(dir)?;
    RoleLock::take(dir).map_err(|e| match e {
        BuildError::Busy { path, holder } => StoreError::RoleLockHeld { path, holder },
        other => other.into(),
    })
}

/// Opens a generation of this database for writing.
pub(super) fn open(
    dir: &Path,
    generation: Generation,
    db_id: DbId,
    max_readers: u32,
) -> Result<Environment, StoreError> {
    let environment = open_writer(dir, generation, max_readers)?;
    if environment.db_id == db_id {
        return Ok(environment);
    }
    let (path, found) = (dir.to_owned(), environment.db_id);
    Err(StoreError::WrongDatabase { path, expected: db_id, found })
}

/// Sees that a generation is consistent in itself, as far as that takes no longer for a large one.
fn check(environment: &Environment) -> Result<(), StoreError> {
    let txn = environment.env.read()?;
    State::read(environment, &txn)?;
    environment.identity(&txn)?;
    Ok(log::check_end(environment, &txn)?)
}
