//! **For tests only**, with the feature `next-format`: what a writer of format 2 does. See
//! [`quicksilver_format::next`].

use quicksilver_format::next::Commits;
use quicksilver_lmdb::{Transaction, WriteTxn};

use crate::environment::Environment;
use crate::error::{Error, Result};

/// The database is in format 2 from this transaction on.
pub(super) fn begin(environment: &Environment, txn: &mut WriteTxn<'_>) -> Result<()> {
    Ok(txn.put(environment.meta, Commits::KEY, &Commits::default().encode())?)
}

/// Keeps up what format 2 has, in the transaction that changes the data.
pub(super) fn keep_up(environment: &Environment, txn: &mut WriteTxn<'_>) -> Result<()> {
    if environment.format.version < 2 {
        return Ok(());
    }
    let record = txn.get(environment.meta, Commits::KEY)?;
    let corrupt = |problem: String| Error::corrupt("meta", Commits::KEY, problem);
    let record = record.ok_or_else(|| corrupt("missing".to_owned()))?;
    let Commits(commits) = Commits::decode(record).map_err(|e| corrupt(e.to_string()))?;
    Ok(txn.put(environment.meta, Commits::KEY, &Commits(commits + 1).encode())?)
}
