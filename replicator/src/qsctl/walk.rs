//! Walking the pairs of a database, from its files or through a server.
//!
//! No long read transaction: the files are read in slices, each from a snapshot of its own that
//! begins where the last one ended. So a walk over a database that changes is not one instant; the
//! index at its begin and its end says whether it was.

use std::ops::{Bound, ControlFlow};

use quicksilver::Reader;
use quicksilver::writer::client::{Command, Connection};
use quicksilver::writer::reply::Reply;
use quicksilver::writer::servers::Servers;
use quicksilver::writer::{Kind, ServerCode, ServerError};
use quicksilver_format::Index;

use super::error::Error;
use super::target::{Place, ask};

/// Most keys read from one snapshot.
const SLICE_KEYS: usize = 10_000;
/// Most bytes read from one snapshot.
const SLICE_BYTES: usize = 32 << 20;
/// Keys asked for with one SCAN, and at most with one MGET.
const SCAN_KEYS: usize = 1000;

/// What a walk visits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Selection<'a> {
    /// Keys that begin with this.
    pub(super) prefix: &'a [u8],
    /// Whether values are needed; otherwise they are empty.
    pub(super) values: bool,
    /// At most so many.
    pub(super) limit: Option<u64>,
}

/// What a walk saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Walked {
    /// Pairs.
    pub(super) pairs: u64,
    /// The last index applied when it began and when it ended.
    pub(super) index: (Index, Index),
}

/// Calls `visit` with every selected pair, in key order.
pub(super) fn walk(
    place: Place<'_>,
    selection: Selection<'_>,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), Error>,
) -> Result<Walked, Error> {
    let mut left = selection.limit.unwrap_or(u64::MAX);
    let mut pairs = 0;
    let mut counted = |key: &[u8], value: &[u8]| -> Result<ControlFlow<()>, Error> {
        visit(key, value)?;
        pairs += 1;
        left -= 1;
        Ok(if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    let index = match place {
        Place::Db(dir) if selection.limit != Some(0) => {
            walk_reader(&Reader::open(dir)?, selection, SLICE_KEYS, &mut counted)?
        }
        Place::Servers(mut servers) if selection.limit != Some(0) => {
            walk_server(&mut servers, selection, &mut counted)?
        }
        _ => (Index::ZERO, Index::ZERO),
    };
    Ok(Walked { pairs, index })
}

type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, Error> + 'a;

fn walk_reader(
    reader: &Reader,
    selection: Selection<'_>,
    slice_keys: usize,
    visit: &mut Visit<'_>,
) -> Result<(Index, Index), Error> {
    let mut last_key: Option<Vec<u8>> = None;
    let mut begin = None;
    loop {
        let (slice, index) = read_slice(reader, selection, last_key.as_deref(), slice_keys)?;
        let begin = *begin.get_or_insert(index);
        // The snapshot is gone: whoever takes the pairs may be slow.
        for (key, value) in &slice.pairs {
            if visit(key, value)?.is_break() {
                return Ok((begin, index));
            }
        }
        match slice.pairs.into_iter().next_back() {
            Some((key, _)) if !slice.ended => last_key = Some(key),
            _ => return Ok((begin, index)),
        }
    }
}

struct Slice {
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
    /// There is nothing after it.
    ended: bool,
}

fn read_slice(
    reader: &Reader,
    selection: Selection<'_>,
    after: Option<&[u8]>,
    slice_keys: usize,
) -> Result<(Slice, Index), Error> {
    let snapshot = reader.snapshot()?;
    let pairs = match after {
        None => snapshot.prefix(selection.prefix)?,
        Some(after) => snapshot.range::<&[u8]>((Bound::Excluded(after), Bound::Unbounded))?,
    };
    let wanted = selection.limit.and_then(|limit| usize::try_from(limit).ok());
    let most = slice_keys.min(wanted.unwrap_or(usize::MAX));
    let mut slice = Slice { pairs: Vec::new(), ended: false };
    let mut bytes = 0;
    for pair in pairs {
        let (key, value) = pair?;
        if !key.starts_with(selection.prefix) {
            slice.ended = true;
            return Ok((slice, snapshot.index()));
        }
        let value = if selection.values { value.into_vec() } else { Vec::new() };
        bytes += key.len() + value.len();
        slice.pairs.push((key.to_vec(), value));
        if slice.pairs.len() >= most || bytes >= SLICE_BYTES {
            return Ok((slice, snapshot.index()));
        }
    }
    slice.ended = true;
    Ok((slice, snapshot.index()))
}

fn walk_server(
    servers: &mut Servers,
    selection: Selection<'_>,
    visit: &mut Visit<'_>,
) -> Result<(Index, Index), Error> {
    // The index is asked for before the keys: when it is the same at the end, nothing changed.
    let scan = scan_command(b"0", selection);
    let (mut connection, _) = ask(servers, scan.clone(), Kind::Read)?;
    let begin = connection.index()?;
    let reply = connection.one(&scan)?;
    let (mut cursor, mut keys) = scan_reply(&connection, reply)?;
    loop {
        if visit_keys(&mut connection, &keys, selection.values, visit)?.is_break() || cursor == b"0"
        {
            return Ok((begin, connection.index()?));
        }
        let reply = connection.one(&scan_command(&cursor, selection))?;
        (cursor, keys) = scan_reply(&connection, reply)?;
    }
}

fn scan_command(cursor: &[u8], selection: Selection<'_>) -> Command {
    let limit = selection.limit.and_then(|limit| usize::try_from(limit).ok());
    let count = SCAN_KEYS.min(limit.unwrap_or(SCAN_KEYS)).to_string();
    let command = Command::new("SCAN").arg(cursor).arg("COUNT").arg(count);
    if selection.prefix.is_empty() {
        return command;
    }
    command.arg("MATCH").arg(pattern(selection.prefix))
}

/// The glob that matches the keys with this prefix.
fn pattern(prefix: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(prefix.len() + 1);
    for byte in prefix {
        if b"*?[]\\^-".contains(byte) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    pattern.push(b'*');
    pattern
}

type ScanStep = (Vec<u8>, Vec<Vec<u8>>);

fn scan_reply(connection: &Connection, reply: Reply) -> Result<ScanStep, Error> {
    let wrong = || connection.receiver.unexpected("to SCAN, expected a cursor and keys");
    let Reply::Array(parts) = reply else { return Err(wrong().into()) };
    let Ok([Reply::Bulk(cursor), Reply::Array(keys)]) = <[Reply; 2]>::try_from(parts) else {
        return Err(wrong().into());
    };
    let key = |reply| match reply {
        Reply::Bulk(key) => Ok(key),
        _ => Err(Error::from(wrong())),
    };
    Ok((cursor, keys.into_iter().map(key).collect::<Result<_, _>>()?))
}

fn visit_keys(
    connection: &mut Connection,
    keys: &[Vec<u8>],
    values: bool,
    visit: &mut Visit<'_>,
) -> Result<ControlFlow<()>, Error> {
    if !values {
        for key in keys {
            if visit(key, b"")?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        return Ok(ControlFlow::Continue(()));
    }
    let mut rest = keys;
    let mut step = rest.len();
    while !rest.is_empty() {
        let (now, later) = rest.split_at(step.clamp(1, rest.len()));
        match multi_get(connection, now) {
            Ok(found) => {
                for (key, value) in now.iter().zip(found) {
                    // A key that has gone since SCAN named it is no longer there.
                    let Some(value) = value else { continue };
                    if visit(key, &value)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                rest = later;
            }
            // The values together may be more than the server puts into one reply.
            Err(Error::Server(ServerError::Answered { code: ServerCode::Other, .. }))
                if now.len() > 1 =>
            {
                step = now.len() / 2;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn multi_get(connection: &mut Connection, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, Error> {
    let command = keys.iter().fold(Command::new("MGET"), |command, key| command.arg(key));
    let wrong = |connection: &Connection| {
        Error::from(connection.receiver.unexpected("to MGET, expected one value per key"))
    };
    match connection.one(&command)? {
        Reply::Array(found) if found.len() == keys.len() => found
            .into_iter()
            .map(|reply| match reply {
                Reply::Bulk(value) => Ok(Some(value)),
                Reply::Nil => Ok(None),
                _ => Err(wrong(connection)),
            })
            .collect(),
        _ => Err(wrong(connection)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use std::time::Duration;

    use super::*;
    use quicksilver::writer::fake::{Fake, bulk};

    fn keys_of(place: Place<'_>, prefix: &[u8], limit: Option<u64>) -> Vec<String> {
        let mut keys = Vec::new();
        let selection = Selection { prefix, values: true, limit };
        let walked = walk(place, selection, |key, value| {
            assert_eq!(key, value);
            keys.push(String::from_utf8_lossy(key).into_owned());
            Ok(())
        });
        assert_eq!(walked.unwrap().pairs, keys.len() as u64);
        keys
    }

    #[test]
    fn slices_join_without_gap_or_repetition() {
        let all: Vec<String> = (0..57).map(|n| format!("k/{n:02}")).collect();
        let others = ["a", "k0", "z"].map(str::to_owned);
        let db = quicksilver::testing::Db::from(all.iter().chain(&others).map(|k| (k, k))).unwrap();
        let reader = Reader::open(db.path()).unwrap();
        for slice_keys in [1, 2, 56, 57, 58, 1000] {
            let mut found = Vec::new();
            let selection = Selection { prefix: b"k/", values: true, limit: None };
            walk_reader(&reader, selection, slice_keys, &mut |key, value| {
                assert_eq!(key, value);
                found.push(String::from_utf8_lossy(key).into_owned());
                Ok(ControlFlow::Continue(()))
            })
            .unwrap();
            assert_eq!(found, all, "slices of {slice_keys}");
        }
        drop(reader);
        let place = || Place::Db(db.path());
        assert_eq!(keys_of(place(), b"k/", Some(3)), all[..3]);
        assert_eq!(keys_of(place(), b"", Some(0)), Vec::<String>::new());
        assert_eq!(keys_of(place(), b"nothing", None), Vec::<String>::new());
    }

    #[test]
    fn a_server_is_walked_with_scan_and_mget_in_pieces_it_can_answer() {
        let fake = Fake::start(|_, command| {
            let reply = match &command[0][..] {
                b"QS.INDEX" => ":7\r\n".to_owned(),
                b"SCAN" => {
                    assert_eq!(command[4..], [b"MATCH".to_vec(), b"a\\*b*".to_vec()]);
                    match &command[1][..] {
                        b"0" => "*2\r\n$1\r\n5\r\n*3\r\n$4\r\na*b1\r\n$4\r\na*b2\r\n$4\r\ngone\r\n"
                            .to_owned(),
                        _ => "*2\r\n$1\r\n0\r\n*1\r\n$4\r\na*b3\r\n".to_owned(),
                    }
                }
                b"MGET" if command.len() > 3 => {
                    "-ERR the reply would exceed 5 bytes\r\n".to_owned()
                }
                b"MGET" => {
                    let items = command[1..].iter().map(|key| match &key[..] {
                        b"gone" => "$-1\r\n".to_owned(),
                        key => bulk(key),
                    });
                    format!("*{}\r\n{}", command.len() - 1, items.collect::<String>())
                }
                other => panic!("{}", other.escape_ascii()),
            };
            Some(reply)
        });
        let place = || {
            let servers = Servers::new(vec![fake.address.clone()], Duration::ZERO);
            Place::Servers(Box::new(servers.unwrap()))
        };
        assert_eq!(keys_of(place(), b"a*b", None), ["a*b1", "a*b2", "a*b3"]);
        assert_eq!(keys_of(place(), b"a*b", Some(1)), ["a*b1"]);
    }
}
