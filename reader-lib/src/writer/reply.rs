//! Replies, read from a stream.
//!
//! Invariant: they are bounded in depth, counts and lengths, and nothing is allocated for bytes that
//! have not arrived.

use std::io::{self, BufRead, Read};

use quicksilver_format::Index;
use quicksilver_format::limits::VALUE_HARD_MAX_BYTES;

/// Deepest nesting of arrays.
const MAX_DEPTH: usize = 8;
/// Most items of one array.
const MAX_ITEMS: usize = 1 << 20;
/// Longest bulk string.
const MAX_BULK_BYTES: usize = VALUE_HARD_MAX_BYTES;
/// Most bytes of one reply.
const MAX_REPLY_BYTES: usize = 2 * VALUE_HARD_MAX_BYTES;
/// Longest line: an error's text, a number.
const MAX_LINE_BYTES: usize = 64 << 10;
/// Items that room is made for before they arrive.
const EXPECTED_ITEMS: usize = 1024;
/// Room that a bulk string is given before it arrives.
const EXPECTED_BYTES: usize = 64 << 10;

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+OK` and the like.
    Simple(String),
    /// `-CODE message`, the text as it came.
    Error(String),
    /// A number.
    Integer(i64),
    /// Bytes.
    Bulk(Vec<u8>),
    /// No such thing.
    Nil,
    /// Replies in order.
    Array(Vec<Reply>),
}

impl Reply {
    /// The index that it is.
    pub fn index(&self) -> Option<Index> {
        match self {
            Reply::Integer(number) => u64::try_from(*number).ok().map(Index::new),
            _ => None,
        }
    }
}

/// Why no reply could be read.
#[derive(Debug)]
pub(super) enum ReplyError {
    /// The stream failed or ended.
    Io(io::Error),
    /// What came is no reply within the bounds.
    Malformed(String),
}

impl From<io::Error> for ReplyError {
    fn from(error: io::Error) -> Self {
        ReplyError::Io(error)
    }
}

/// Reads one reply.
pub(super) fn read_reply(input: &mut impl BufRead) -> Result<Reply, ReplyError> {
    let mut room = MAX_REPLY_BYTES;
    read_at(input, 0, &mut room)
}

fn read_at(input: &mut impl BufRead, depth: usize, room: &mut usize) -> Result<Reply, ReplyError> {
    let line = read_line(input)?;
    let malformed = |problem: &str| {
        let shown = line[..line.len().min(60)].escape_ascii();
        ReplyError::Malformed(format!("{problem}: \"{shown}\""))
    };
    *room = room
        .checked_sub(line.len().max(size_of::<Reply>()))
        .ok_or_else(|| malformed("a reply of more than 512 MiB"))?;
    let (kind, rest) = line.split_first().ok_or_else(|| malformed("an empty line"))?;
    let text = || String::from_utf8_lossy(rest).into_owned();
    let number = || -> Result<i64, ReplyError> {
        let digits = std::str::from_utf8(rest).ok();
        digits.and_then(|d| d.parse().ok()).ok_or_else(|| malformed("no number"))
    };
    let length = |most: usize| -> Result<Option<usize>, ReplyError> {
        match number()? {
            -1 => Ok(None),
            n => match usize::try_from(n) {
                Ok(n) if n <= most => Ok(Some(n)),
                _ => Err(malformed("a length out of bounds")),
            },
        }
    };
    match kind {
        b'+' => Ok(Reply::Simple(text())),
        b'-' => Ok(Reply::Error(text())),
        b':' => Ok(Reply::Integer(number()?)),
        b'$' => match length(MAX_BULK_BYTES.min(*room))? {
            None => Ok(Reply::Nil),
            Some(bytes) => {
                *room -= bytes;
                read_bulk(input, bytes).map(Reply::Bulk)
            }
        },
        b'*' => match length(MAX_ITEMS)? {
            None => Ok(Reply::Nil),
            Some(_) if depth == MAX_DEPTH => Err(malformed("arrays nested too deeply")),
            Some(count) => {
                let mut items = Vec::with_capacity(count.min(EXPECTED_ITEMS));
                for _ in 0..count {
                    items.push(read_at(input, depth + 1, room)?);
                }
                Ok(Reply::Array(items))
            }
        },
        _ => Err(malformed("neither of + - : $ *")),
    }
}

fn read_line(input: &mut impl BufRead) -> Result<Vec<u8>, ReplyError> {
    let mut line = Vec::new();
    input.take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line)?;
    if line.ends_with(b"\r\n") {
        line.truncate(line.len() - 2);
        return Ok(line);
    }
    if line.len() < MAX_LINE_BYTES && !line.ends_with(b"\n") {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let shown = line[..line.len().min(60)].escape_ascii();
    Err(ReplyError::Malformed(format!("a line without its end: \"{shown}\"")))
}

fn read_bulk(input: &mut impl BufRead, bytes: usize) -> Result<Vec<u8>, ReplyError> {
    let mut bulk = Vec::with_capacity(bytes.min(EXPECTED_BYTES));
    input.take(bytes as u64).read_to_end(&mut bulk)?;
    if bulk.len() < bytes {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let mut end = [0; 2];
    input.read_exact(&mut end)?;
    match &end {
        b"\r\n" => Ok(bulk),
        _ => Err(ReplyError::Malformed(format!("{bytes} bytes that do not end where announced"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;
    use proptest::prelude::*;

    fn decoded(mut bytes: &[u8]) -> Result<Reply, ReplyError> {
        let reply = read_reply(&mut bytes)?;
        assert!(bytes.is_empty());
        Ok(reply)
    }

    #[test]
    fn every_kind_of_reply() {
        for (bytes, expected) in [
            ("+OK\r\n", Reply::Simple("OK".to_owned())),
            ("-ERR no\r\n", Reply::Error("ERR no".to_owned())),
            (":-12\r\n", Reply::Integer(-12)),
            ("$3\r\na\r\n\r\n", Reply::Bulk(b"a\r\n".to_vec())),
            ("$-1\r\n", Reply::Nil),
            ("*-1\r\n", Reply::Nil),
            (
                "*2\r\n*0\r\n$0\r\n\r\n",
                Reply::Array(vec![Reply::Array(vec![]), Reply::Bulk(vec![])]),
            ),
        ] {
            assert_eq!(decoded(bytes.as_bytes()).unwrap(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_before_it_is_allocated() {
        for bytes in [
            "$99999999999\r\n".to_owned(),
            "$-2\r\n".to_owned(),
            "*99999999999\r\n".to_owned(),
            "*1\r\n".repeat(10) + ":1\r\n",
            "HTTP/1.1 400 Bad Request\r\n".to_owned(),
            "+OK\n".to_owned(),
            format!("+{}", "x".repeat(MAX_LINE_BYTES)),
            "$1\r\nabc".to_owned(),
            ":x\r\n".to_owned(),
            "\r\n".to_owned(),
        ] {
            let result = decoded(bytes.as_bytes());
            assert!(matches!(result, Err(ReplyError::Malformed(_))), "{bytes:?}: {result:?}");
        }
        for bytes in ["", "$268435456\r\nabc", "*1048576\r\n", "+OK", "$3\r\nabc\r"] {
            let result = decoded(bytes.as_bytes());
            assert!(matches!(result, Err(ReplyError::Io(_))), "{bytes:?}: {result:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_err(
            mut bytes in prop::collection::vec(any::<u8>(), 0..64),
            kind in prop::sample::select(b"+-:$*".to_vec()),
        ) {
            let _ = read_reply(&mut &bytes[..]);
            bytes.insert(0, kind);
            let _ = read_reply(&mut &bytes[..]);
        }
    }
}
