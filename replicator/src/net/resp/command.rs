//! The commands: one table, and the parser of those that read and write data.
//!
//! Every data command becomes the steps of a transaction and a [`Shape`] that turns the answers
//! into a reply. A read is run directly or through the sequencer, a command in MULTI is queued,
//! and EXEC joins what was queued: all of it without knowing which command it was.

use bytes::Bytes;
use quicksilver_format::limits::check_key;

use super::answer::Shape;
use crate::root::request::{SetWhen, TxOp};

/// What a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Auth,
    Client,
    Command,
    Config,
    DbSize,
    Del,
    Discard,
    Echo,
    Exec,
    Exists,
    Get,
    Hello,
    Info,
    Keys,
    MGet,
    MSet,
    Multi,
    Ping,
    PTtl,
    QsCompact,
    QsFormat,
    QsIndex,
    QsLog,
    QsSnapshot,
    QsStatus,
    QsVerify,
    Quit,
    ReadOnly,
    Reset,
    Scan,
    Select,
    Set,
    SetNx,
    StrLen,
    Ttl,
    Type,
    Unwatch,
    Wait,
    Watch,
}

/// A line of the table, as COMMAND INFO shows it.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) verb: Verb,
    /// Arguments with the name; negative: at least.
    pub(super) arity: i64,
    /// `readonly`, `write` or other flags.
    pub(super) flags: &'static [&'static str],
    /// First key, last key, step; zeros without keys.
    pub(super) keys: [i64; 3],
}

const READ: &[&str] = &["readonly", "fast"];
const WRITE: &[&str] = &["write"];
const CONNECTION: &[&str] = &["noscript", "loading", "stale", "fast"];
const ADMIN: &[&str] = &["loading", "stale"];

const fn spec(
    name: &'static str,
    verb: Verb,
    arity: i64,
    flags: &'static [&'static str],
    keys: [i64; 3],
) -> Spec {
    Spec { name, verb, arity, flags, keys }
}

/// Sorted by name.
pub(super) const COMMANDS: &[Spec] = &[
    spec("auth", Verb::Auth, -2, CONNECTION, [0; 3]),
    spec("client", Verb::Client, -2, ADMIN, [0; 3]),
    spec("command", Verb::Command, -1, ADMIN, [0; 3]),
    spec("config", Verb::Config, -2, ADMIN, [0; 3]),
    spec("dbsize", Verb::DbSize, 1, READ, [0; 3]),
    spec("del", Verb::Del, -2, WRITE, [1, -1, 1]),
    spec("discard", Verb::Discard, 1, CONNECTION, [0; 3]),
    spec("echo", Verb::Echo, 2, CONNECTION, [0; 3]),
    spec("exec", Verb::Exec, 1, CONNECTION, [0; 3]),
    spec("exists", Verb::Exists, -2, READ, [1, -1, 1]),
    spec("get", Verb::Get, 2, READ, [1, 1, 1]),
    spec("hello", Verb::Hello, -1, CONNECTION, [0; 3]),
    spec("info", Verb::Info, -1, ADMIN, [0; 3]),
    spec("keys", Verb::Keys, 2, READ, [0; 3]),
    spec("mget", Verb::MGet, -2, READ, [1, -1, 1]),
    spec("mset", Verb::MSet, -3, WRITE, [1, -1, 2]),
    spec("multi", Verb::Multi, 1, CONNECTION, [0; 3]),
    spec("ping", Verb::Ping, -1, CONNECTION, [0; 3]),
    spec("pttl", Verb::PTtl, 2, READ, [1, 1, 1]),
    spec("qs.compact", Verb::QsCompact, 1, ADMIN, [0; 3]),
    spec("qs.format", Verb::QsFormat, -1, ADMIN, [0; 3]),
    spec("qs.index", Verb::QsIndex, 1, READ, [0; 3]),
    spec("qs.log", Verb::QsLog, 3, READ, [0; 3]),
    spec("qs.snapshot", Verb::QsSnapshot, -2, ADMIN, [0; 3]),
    spec("qs.status", Verb::QsStatus, 1, ADMIN, [0; 3]),
    spec("qs.verify", Verb::QsVerify, 1, ADMIN, [0; 3]),
    spec("quit", Verb::Quit, -1, CONNECTION, [0; 3]),
    spec("readonly", Verb::ReadOnly, 1, CONNECTION, [0; 3]),
    spec("readwrite", Verb::ReadOnly, 1, CONNECTION, [0; 3]),
    spec("reset", Verb::Reset, 1, CONNECTION, [0; 3]),
    spec("scan", Verb::Scan, -2, READ, [0; 3]),
    spec("select", Verb::Select, 2, CONNECTION, [0; 3]),
    spec("set", Verb::Set, -3, WRITE, [1, 1, 1]),
    spec("setnx", Verb::SetNx, 3, WRITE, [1, 1, 1]),
    spec("strlen", Verb::StrLen, 2, READ, [1, 1, 1]),
    spec("ttl", Verb::Ttl, 2, READ, [1, 1, 1]),
    spec("type", Verb::Type, 2, READ, [1, 1, 1]),
    spec("unlink", Verb::Del, -2, WRITE, [1, -1, 1]),
    spec("unwatch", Verb::Unwatch, 1, CONNECTION, [0; 3]),
    spec("wait", Verb::Wait, 3, CONNECTION, [0; 3]),
    spec("watch", Verb::Watch, -2, CONNECTION, [1, -1, 1]),
];
/// Longer than any name in the table.
const NAME_ROOM_BYTES: usize = 16;
/// Of a client's text, at most this much comes back in an error.
const SHOWN_BYTES: usize = 128;

/// The table's line for a name, in any case.
pub(super) fn find(name: &[u8]) -> Option<&'static Spec> {
    let mut lower = [0; NAME_ROOM_BYTES];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    let at = COMMANDS.binary_search_by(|spec| spec.name.as_bytes().cmp(lower)).ok()?;
    COMMANDS.get(at)
}

/// The table's line for a request, if it has the right number of arguments.
pub(super) fn resolve(arguments: &[Bytes]) -> Result<&'static Spec, String> {
    let name = arguments.first().map_or(&[][..], |name| name);
    let spec = find(name).ok_or_else(|| format!("ERR unknown command '{}'", shown(name)))?;
    let given = arguments.len() as i64;
    if given == spec.arity || (spec.arity < 0 && given >= -spec.arity) {
        Ok(spec)
    } else {
        Err(format!("ERR wrong number of arguments for '{}' command", spec.name))
    }
}

/// A client's text, fit for an error.
pub(super) fn shown(text: &[u8]) -> String {
    text.iter().take(SHOWN_BYTES).flat_map(|byte| byte.escape_ascii()).map(char::from).collect()
}

/// A command on data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DataCommand {
    pub(super) ops: Vec<TxOp>,
    pub(super) shape: Shape,
    pub(super) writes: bool,
}

impl DataCommand {
    fn read(ops: Vec<TxOp>, shape: Shape) -> Option<Self> {
        Some(DataCommand { ops, shape, writes: false })
    }

    fn write(ops: Vec<TxOp>, shape: Shape) -> Option<Self> {
        Some(DataCommand { ops, shape, writes: true })
    }
}

/// Parses a command on data; `None` for every other command. The error is the reply's text.
pub(super) fn parse_data(
    verb: Verb,
    arguments: &[Bytes],
    max_value_bytes: usize,
) -> Result<Option<DataCommand>, String> {
    let rest = arguments.get(1..).unwrap_or_default();
    Ok(match (verb, rest) {
        (Verb::Get, [key]) => DataCommand::read(vec![get(key)?], Shape::Value),
        (Verb::MGet, keys) => DataCommand::read(each(keys, get)?, Shape::Values),
        (Verb::Exists, keys) => DataCommand::read(each(keys, length)?, Shape::CountPresent),
        (Verb::StrLen, [key]) => DataCommand::read(vec![length(key)?], Shape::Length),
        (Verb::Type, [key]) => DataCommand::read(vec![length(key)?], Shape::Type),
        (Verb::Ttl | Verb::PTtl, [key]) => DataCommand::read(vec![length(key)?], Shape::Ttl),
        (Verb::Del, keys) => DataCommand::write(each(keys, del)?, Shape::CountDeleted),
        (Verb::SetNx, [key, value]) => {
            let set = set(key, value, SetWhen::Absent, max_value_bytes)?;
            DataCommand::write(vec![set], Shape::StoredFlag)
        }
        (Verb::Set, [key, value, options @ ..]) => {
            let set = set(key, value, set_options(options)?, max_value_bytes)?;
            DataCommand::write(vec![set], Shape::Stored)
        }
        (Verb::MSet, pairs) => {
            if !pairs.len().is_multiple_of(2) {
                return Err("ERR wrong number of arguments for 'mset' command".to_owned());
            }
            let one = |pair: &[Bytes]| match pair {
                [key, value] => set(key, value, SetWhen::Always, max_value_bytes),
                _ => Err(SYNTAX_ERROR.to_owned()),
            };
            let ops = pairs.chunks_exact(2).map(one).collect::<Result<_, _>>()?;
            DataCommand::write(ops, Shape::Done)
        }
        _ => None,
    })
}

/// What Redis says of arguments that it does not understand.
pub(super) const SYNTAX_ERROR: &str = "ERR syntax error";

fn each(keys: &[Bytes], op: fn(&Bytes) -> Result<TxOp, String>) -> Result<Vec<TxOp>, String> {
    keys.iter().map(op).collect()
}

/// A key within the limits. It shares the request's buffer.
fn key(key: &Bytes) -> Result<Bytes, String> {
    match check_key(key) {
        Ok(()) => Ok(key.clone()),
        Err(error) => Err(format!("ERR {error}")),
    }
}

fn get(name: &Bytes) -> Result<TxOp, String> {
    Ok(TxOp::Get { key: key(name)? })
}

fn length(name: &Bytes) -> Result<TxOp, String> {
    Ok(TxOp::Length { key: key(name)? })
}

fn del(name: &Bytes) -> Result<TxOp, String> {
    Ok(TxOp::Del { key: key(name)? })
}

fn set(name: &Bytes, value: &Bytes, when: SetWhen, max_value_bytes: usize) -> Result<TxOp, String> {
    let key = key(name)?;
    if value.len() > max_value_bytes {
        let bytes = value.len();
        return Err(format!(
            "ERR value of {bytes} bytes: a value has at most {max_value_bytes} bytes; split it, or \
             raise limits.max_value_bytes"
        ));
    }
    Ok(TxOp::Set { key, value: value.clone(), when })
}

fn set_options(options: &[Bytes]) -> Result<SetWhen, String> {
    let mut when = SetWhen::Always;
    for option in options {
        let upper = option.to_ascii_uppercase();
        when = match (&upper[..], when) {
            (b"NX", SetWhen::Always | SetWhen::Absent) => SetWhen::Absent,
            (b"XX", SetWhen::Always | SetWhen::Present) => SetWhen::Present,
            (b"EX" | b"PX" | b"EXAT" | b"PXAT" | b"KEEPTTL", _) => {
                let name = String::from_utf8_lossy(&upper);
                return Err(format!("ERR SET {name} is not supported: keys do not expire here"));
            }
            (b"GET", _) => {
                return Err("ERR SET GET is not supported: use GET and SET in MULTI".to_owned());
            }
            _ => return Err(SYNTAX_ERROR.to_owned()),
        };
    }
    Ok(when)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_found_in_any_case() {
        assert!(COMMANDS.is_sorted_by(|a, b| a.name < b.name));
        assert!(COMMANDS.iter().all(|spec| spec.name.len() <= NAME_ROOM_BYTES));
        assert_eq!(find(b"QS.Index").map(|spec| spec.verb), Some(Verb::QsIndex));
        assert!(find(b"").is_none() && find(&[b'x'; 100]).is_none());
    }
}
