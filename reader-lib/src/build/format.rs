//! Which format a generation is made in, and raising it: what `qsctl format finalize` does.
//!
//! Invariants:
//! * a generation is written in the format that its `format` record names, whatever else this
//!   release could write ([`quicksilver_format::version`]);
//! * the record changes here and nowhere else, upwards, and in one transaction with everything that
//!   the newer format has and the older one has not.

use quicksilver_format::meta::Format;
use quicksilver_format::{FormatError, NEWEST_FORMAT_VERSION};
use quicksilver_lmdb::WriteTxn;

use crate::environment::Environment;
use crate::error::{Error, Result};

/// What raising the format did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormatChange {
    /// The format before.
    pub from: u32,
    /// The format now: the newest this release can write.
    pub to: u32,
}

impl FormatChange {
    /// Whether there was anything to do.
    pub fn is_change(&self) -> bool {
        self.from != self.to
    }
}

/// The first format.
const FIRST: u32 = 1;

/// Raises a generation to the newest format that this release writes, durably and all at once;
/// does nothing when it is in that one. Releases that do not know that format can then no longer
/// write it, and no longer read it when it says so. The caller is the writer of the database.
///
/// # Errors
/// What the system says; then nothing has changed, unless it says that it does not know.
pub fn raise(environment: &mut Environment) -> Result<FormatChange> {
    let mut txn = environment.env.write()?;
    // From the record: what this handle was opened with may be older.
    let found = environment.format_record(&txn)?;
    let refused = |source| Error::Format { path: environment.env.path().to_owned(), source };
    found.check_writable().map_err(refused)?;
    let change = FormatChange { from: found.version, to: NEWEST_FORMAT_VERSION };
    if !change.is_change() {
        txn.abort();
        environment.format = found;
        return Ok(change);
    }
    let raised = of_version(change.to, found.page_bytes).map_err(refused)?;
    add(environment, &mut txn, change)?;
    txn.put(environment.meta, Format::KEY, &raised.encode())?;
    txn.commit()?;
    environment.format = raised;
    Ok(change)
}

/// The record of a format that this release can write.
pub(super) fn of_version(version: u32, page_bytes: u32) -> Result<Format, FormatError> {
    let format = Format { version, readable_from: version, page_bytes };
    format.check_writable()?;
    Ok(Format::of_version(version, page_bytes).unwrap_or(format))
}

/// Adds to a new generation what its format has beyond the first.
pub(super) fn add_to_new(environment: &Environment, txn: &mut WriteTxn<'_>) -> Result<()> {
    add(environment, txn, FormatChange { from: FIRST, to: environment.format.version })
}

/// Adds what the formats after `from` have, one after the other. There is none yet.
#[cfg(not(feature = "next-format"))]
fn add(_: &Environment, _: &mut WriteTxn<'_>, _: FormatChange) -> Result<()> {
    Ok(())
}

#[cfg(feature = "next-format")]
fn add(environment: &Environment, txn: &mut WriteTxn<'_>, change: FormatChange) -> Result<()> {
    for version in change.from + 1..=change.to {
        if version == 2 {
            super::next::begin(environment, txn)?;
        }
    }
    Ok(())
}
