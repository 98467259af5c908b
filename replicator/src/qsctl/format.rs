//! `format` and `format finalize`: which format a node's files are in, and raising it.

use std::path::Path;

use clap::{Args, Subcommand};
use quicksilver::writer::Kind;
use quicksilver::writer::client::{Command, Connection};
use quicksilver::writer::reply::Reply;
use serde::de::DeserializeOwned;

use super::Context;
use super::error::{Error, Exit};
use super::status;
use super::target::{Place, ask};
use crate::net::node::{FormatChanged, FormatStatus};

/// Arguments of `format`.
#[derive(Debug, Args)]
pub(super) struct FormatArgs {
    #[command(subcommand)]
    order: Option<FormatOrder>,
}

#[derive(Debug, Subcommand)]
enum FormatOrder {
    /// Raise one node's files to the newest format that its replicator can write.
    ///
    /// There is no way back: afterwards older releases can no longer be started on these files, and
    /// programs that were linked with an older release's reader can no longer read them, unless
    /// `format` names that release still. Data, index and hash stay what they are. A node's files
    /// are its own: the rest of the fleet is not touched. Begin with the leaves, end with the roots.
    Finalize,
}

pub(super) fn run(args: FormatArgs, context: &mut Context<'_>) -> Result<Exit, Error> {
    match args.order {
        None => show(context),
        Some(FormatOrder::Finalize) => finalize(context),
    }
}

fn show(context: &mut Context<'_>) -> Result<Exit, Error> {
    let format = match context.target.place()? {
        Place::Db(dir) => of_files(dir)?,
        Place::Servers(mut servers) => {
            let (connection, reply) = ask(&mut servers, Command::new("QS.FORMAT"), Kind::Read)?;
            parse(&connection, reply)?
        }
    };
    match context.json {
        true => context.print_json(&format)?,
        false => context.print(as_text(&format).as_bytes())?,
    }
    Ok(Exit::Ok)
}

/// What the files say. What the replicator can write is not in them.
fn of_files(dir: &Path) -> Result<FormatStatus, Error> {
    Ok(FormatStatus::of(&status::of_files(dir)?))
}

fn finalize(context: &mut Context<'_>) -> Result<Exit, Error> {
    let mut server = context.target.one_server()?;
    let command = Command::new("QS.FORMAT").arg("FINALIZE");
    let (connection, reply) = ask(&mut server, command, Kind::Write)?;
    let changed: FormatChanged = parse(&connection, reply)?;
    let FormatChanged { finalized, from, format } = changed;
    if context.json {
        context.print_json(&changed)?;
    } else if finalized {
        context.print(format!("finalised: format {from} before, {format} now\n").as_bytes())?;
    } else {
        let text = format!(
            "nothing to finalise: the files are in format {format}, the newest that this \
             replicator can write\n"
        );
        context.print(text.as_bytes())?;
    }
    Ok(Exit::Ok)
}

fn parse<T: DeserializeOwned>(connection: &Connection, reply: Reply) -> Result<T, Error> {
    let unexpected = |problem: &str| connection.receiver.unexpected(problem);
    let Reply::Bulk(text) = reply else {
        return Err(unexpected("to QS.FORMAT, expected JSON").into());
    };
    Ok(serde_json::from_slice(&text).map_err(|e| unexpected(&format!("to QS.FORMAT: {e}")))?)
}

fn as_text(status: &FormatStatus) -> String {
    let FormatStatus { format, format_readable_from: needed, .. } = status;
    let release = match &status.oldest_reader {
        Some(release) => format!("release {release} and newer"),
        None => "a release that is newer than this one".to_owned(),
    };
    let replicator = match (status.format_newest, status.can_finalize) {
        (Some(newest), Some(true)) => {
            format!("can write up to {newest}; `qsctl format finalize` raises the files to it")
        }
        (Some(newest), _) => format!("can write up to {newest}; nothing to finalise"),
        (None, _) => "was not asked: --server asks it".to_owned(),
    };
    format!(
        "format       {format}\nreadable by  {release} (programs that know format {needed})\n\
         replicator   {replicator}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_lines_for_people() {
        let mut status = FormatStatus {
            format: 1,
            format_readable_from: 1,
            format_newest: Some(2),
            oldest_reader: Some("0.1.0".to_owned()),
            can_finalize: Some(true),
        };
        assert_eq!(
            as_text(&status),
            "format       1\n\
             readable by  release 0.1.0 and newer (programs that know format 1)\n\
             replicator   can write up to 2; `qsctl format finalize` raises the files to it\n"
        );
        status.can_finalize = Some(false);
        assert!(as_text(&status).ends_with("up to 2; nothing to finalise\n"));
        (status.format_newest, status.oldest_reader) = (None, None);
        let text = as_text(&status);
        assert!(text.contains("newer than this one (programs that know format 1)"), "{text}");
        assert!(text.ends_with("was not asked: --server asks it\n"), "{text}");
    }
}
