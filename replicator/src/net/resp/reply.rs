//! From replies to bytes, in RESP2 and RESP3.
//!
//! Invariant: an error or a simple string never contains a line end, whatever text went into it.

use bytes::{BufMut, Bytes, BytesMut};

/// The dialect that a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Every connection begins with it.
    Resp2,
    /// After HELLO 3.
    Resp3,
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+OK` and the like.
    Simple(&'static str),
    /// `-CODE message`: the text with its code.
    Error(String),
    /// A number.
    Integer(i64),
    /// Bytes.
    Bulk(Bytes),
    /// No such thing.
    Nil,
    /// No array, where RESP2 distinguishes that from no value.
    NilArray,
    /// Replies in order.
    Array(Vec<Reply>),
    /// Pairs; a flat array in RESP2.
    Map(Vec<(Reply, Reply)>),
}

impl Reply {
    /// `+OK`.
    pub const OK: Reply = Reply::Simple("OK");

    /// A text as bytes.
    pub fn text(text: impl Into<String>) -> Reply {
        Reply::Bulk(Bytes::from(text.into()))
    }

    /// A number that counts something.
    pub fn count(count: impl TryInto<i64>) -> Reply {
        Reply::Integer(count.try_into().unwrap_or(i64::MAX))
    }

    /// `-ERR message`.
    pub fn error(message: impl std::fmt::Display) -> Reply {
        Reply::Error(format!("ERR {message}"))
    }

    /// Bytes that it holds, roughly: what it counts for in bounded queues.
    pub fn held_bytes(&self) -> usize {
        const SELF: usize = size_of::<Reply>();
        SELF + match self {
            Reply::Bulk(bytes) => bytes.len(),
            Reply::Error(text) => text.len(),
            Reply::Array(items) => items.iter().map(Reply::held_bytes).sum(),
            Reply::Map(pairs) => pairs.iter().map(|(k, v)| k.held_bytes() + v.held_bytes()).sum(),
            _ => 0,
        }
    }

    /// Appends it. Replies are as deep as our own commands make them: at most four levels.
    pub fn encode(&self, protocol: Protocol, out: &mut BytesMut) {
        match self {
            Reply::Simple(text) => line(out, b'+', text.as_bytes()),
            Reply::Error(text) => line(out, b'-', text.as_bytes()),
            Reply::Integer(number) => header(out, b':', *number),
            Reply::Bulk(bytes) => {
                length(out, b'$', bytes.len());
                out.put_slice(bytes);
                out.put_slice(b"\r\n");
            }
            Reply::Nil if protocol == Protocol::Resp2 => out.put_slice(b"$-1\r\n"),
            Reply::NilArray if protocol == Protocol::Resp2 => out.put_slice(b"*-1\r\n"),
            Reply::Nil | Reply::NilArray => out.put_slice(b"_\r\n"),
            Reply::Array(items) => {
                length(out, b'*', items.len());
                items.iter().for_each(|item| item.encode(protocol, out));
            }
            Reply::Map(pairs) => {
                match protocol {
                    Protocol::Resp2 => length(out, b'*', pairs.len() * 2),
                    Protocol::Resp3 => length(out, b'%', pairs.len()),
                }
                for (key, value) in pairs {
                    key.encode(protocol, out);
                    value.encode(protocol, out);
                }
            }
        }
    }
}

fn line(out: &mut BytesMut, kind: u8, text: &[u8]) {
    out.put_u8(kind);
    out.extend(text.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
    out.put_slice(b"\r\n");
}

fn length(out: &mut BytesMut, kind: u8, length: usize) {
    header(out, kind, i64::try_from(length).unwrap_or(i64::MAX));
}

fn header(out: &mut BytesMut, kind: u8, number: i64) {
    // The longest i64 has 20 characters.
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.put_u8(kind);
    if number < 0 {
        out.put_u8(b'-');
    }
    out.put_slice(&digits[at..]);
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(reply: &Reply, protocol: Protocol) -> String {
        let mut out = BytesMut::new();
        reply.encode(protocol, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn both_dialects() {
        let map = Reply::Map(vec![(Reply::text("a"), Reply::Integer(-12))]);
        for (reply, resp2, resp3) in [
            (Reply::OK, "+OK\r\n", "+OK\r\n"),
            (Reply::error("no\r\nway"), "-ERR no  way\r\n", "-ERR no  way\r\n"),
            (Reply::Integer(0), ":0\r\n", ":0\r\n"),
            (Reply::Integer(i64::MIN), ":-9223372036854775808\r\n", ":-9223372036854775808\r\n"),
            (Reply::count(u64::MAX), ":9223372036854775807\r\n", ":9223372036854775807\r\n"),
            (Reply::text("x\r\n"), "$3\r\nx\r\n\r\n", "$3\r\nx\r\n\r\n"),
            (Reply::Nil, "$-1\r\n", "_\r\n"),
            (Reply::NilArray, "*-1\r\n", "_\r\n"),
            (Reply::Array(vec![Reply::Nil]), "*1\r\n$-1\r\n", "*1\r\n_\r\n"),
            (map, "*2\r\n$1\r\na\r\n:-12\r\n", "%1\r\n$1\r\na\r\n:-12\r\n"),
        ] {
            assert_eq!(encoded(&reply, Protocol::Resp2), resp2);
            assert_eq!(encoded(&reply, Protocol::Resp3), resp3);
        }
    }
}
