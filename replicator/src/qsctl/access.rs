//! `get`, `scan`, `set`, `del`: single keys and short looks.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use clap::Args;
use quicksilver::Reader;
use quicksilver::writer::Kind;
use quicksilver::writer::client::{Command, Connection};
use quicksilver::writer::reply::Reply;
use quicksilver_format::limits::{VALUE_HARD_MAX_BYTES, check_key};
use serde_json::json;

use super::error::{Error, Exit};
use super::pairs::{Format, JsonLine, escape, shown};
use super::target::{Place, ask};
use super::walk::{Selection, walk};
use super::{Context, files};

/// Arguments of `get`.
#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// The key.
    key: OsString,
    /// Never add a line end: exactly the value's bytes.
    #[arg(long)]
    raw: bool,
}

/// Arguments of `set`.
#[derive(Debug, Args)]
pub(super) struct SetArgs {
    /// The key, 1 to 511 bytes.
    key: OsString,
    /// The value, or - to read it from standard input.
    #[arg(allow_hyphen_values = true, required_unless_present = "file")]
    value: Option<OsString>,
    /// Read the value from a file.
    #[arg(long, conflicts_with = "value")]
    file: Option<PathBuf>,
}

/// Arguments of `del`.
#[derive(Debug, Args)]
pub(super) struct DelArgs {
    /// The keys; they go together or not at all.
    #[arg(required = true)]
    keys: Vec<OsString>,
}

/// Arguments of `scan`.
#[derive(Debug, Args)]
pub(super) struct ScanArgs {
    /// Only keys that begin with this.
    #[arg(default_value = "")]
    prefix: OsString,
    /// Stop after so many.
    #[arg(long)]
    limit: Option<u64>,
    /// Without values.
    #[arg(long)]
    keys_only: bool,
}

pub(super) fn get(args: GetArgs, context: &mut Context<'_>) -> Result<Exit, Error> {
    let key = key_of(args.key)?;
    let value = match context.target.place()? {
        Place::Db(dir) => Reader::open(dir)?.get(&key)?,
        Place::Servers(mut servers) => {
            match ask(&mut servers, Command::new("GET").arg(&key), Kind::Read)? {
                (_, Reply::Bulk(value)) => Some(value),
                (_, Reply::Nil) => None,
                (connection, _) => {
                    return Err(connection.receiver.unexpected("to GET, expected a value").into());
                }
            }
        }
    };
    let Some(mut value) = value else {
        context.note(format_args!("no such key: {}", shown(&key)));
        return Ok(Exit::NoSuchKey);
    };
    if context.json {
        let mut line = Vec::new();
        JsonLine::of_pair(&key, &value).append_to(&mut line);
        value = line;
    } else if !args.raw && !value.ends_with(b"\n") && (context.tty || is_text(&value)) {
        value.push(b'\n');
    }
    context.print(&value)?;
    Ok(Exit::Ok)
}

fn is_text(value: &[u8]) -> bool {
    let harmless = |c: char| !c.is_control() || matches!(c, '\n' | '\t' | '\r');
    std::str::from_utf8(value).is_ok_and(|text| text.chars().all(harmless))
}

pub(super) fn scan(args: ScanArgs, context: &mut Context<'_>) -> Result<Exit, Error> {
    let prefix = args.prefix.into_vec();
    let selection = Selection { prefix: &prefix, values: !args.keys_only, limit: args.limit };
    let (json, target) = (context.json, context.target.clone());
    let mut line = Vec::new();
    walk(target.place()?, selection, |key, value| {
        line.clear();
        match (json, args.keys_only) {
            (true, true) => JsonLine::of_key(key).append_to(&mut line),
            (true, false) => Format::Jsonl.encode(key, value, &mut line),
            (false, false) => Format::Tsv.encode(key, value, &mut line),
            (false, true) => {
                escape(key, &mut line);
                line.push(b'\n');
            }
        }
        context.print(&line)
    })?;
    Ok(Exit::Ok)
}

pub(super) fn set(args: SetArgs, context: &mut Context<'_>) -> Result<Exit, Error> {
    let key = key_of(args.key)?;
    let value = match (args.value, args.file) {
        (_, Some(path)) => read_value(files::open(&path)?, &path.display().to_string())?,
        (Some(value), None) if value == "-" => read_value(std::io::stdin(), "standard input")?,
        (Some(value), None) => value.into_vec(),
        (None, None) => return Err(Error::Usage("no value".to_owned())),
    };
    let command = Command::new("SET").arg(&key).arg(&value);
    let (mut connection, reply) = ask(&mut context.target.servers()?, command, Kind::Write)?;
    if reply != Reply::Simple("OK".to_owned()) {
        return Err(connection.receiver.unexpected("to SET, expected OK").into());
    }
    report(context, &mut connection, "stored", json!({ "stored": true }))?;
    Ok(Exit::Ok)
}

pub(super) fn del(args: DelArgs, context: &mut Context<'_>) -> Result<Exit, Error> {
    let keys = args.keys.into_iter().map(key_of).collect::<Result<Vec<_>, _>>()?;
    let command = keys.iter().fold(Command::new("DEL"), |command, key| command.arg(key));
    let (mut connection, reply) = ask(&mut context.target.servers()?, command, Kind::Write)?;
    let Reply::Integer(deleted) = reply else {
        return Err(connection.receiver.unexpected("to DEL, expected a number").into());
    };
    let text = match keys.len() {
        1 if deleted == 1 => "deleted".to_owned(),
        1 => "no such key".to_owned(),
        asked => format!("{deleted} of {asked} deleted"),
    };
    report(context, &mut connection, &text, json!({ "deleted": deleted }))?;
    Ok(if deleted == 0 { Exit::NoSuchKey } else { Exit::Ok })
}

/// Says what a write did, and the index that covers it. The write is done: that the index could
/// not be asked for does not make it fail.
fn report(
    context: &mut Context<'_>,
    connection: &mut Connection,
    text: &str,
    mut json: serde_json::Value,
) -> Result<(), Error> {
    let index = connection.index().ok();
    if context.json {
        json["index"] = json!(index.map(|index| index.get()));
        return context.print_json(&json);
    }
    match index {
        Some(index) => context.print(format!("{text}, index {index}\n").as_bytes()),
        None => context.print(format!("{text}\n").as_bytes()),
    }
}

fn key_of(key: OsString) -> Result<Vec<u8>, Error> {
    let key = key.into_vec();
    check_key(&key).map_err(|e| Error::Usage(e.to_string()))?;
    Ok(key)
}

fn read_value(input: impl Read, name: &str) -> Result<Vec<u8>, Error> {
    let mut value = Vec::new();
    let most = VALUE_HARD_MAX_BYTES as u64 + 1;
    input.take(most).read_to_end(&mut value).map_err(Error::file(name))?;
    if value.len() > VALUE_HARD_MAX_BYTES {
        return Err(Error::Usage(format!(
            "{name}: more than {VALUE_HARD_MAX_BYTES} bytes: no value is longer than that"
        )));
    }
    Ok(value)
}
