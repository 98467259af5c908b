//! From bytes to requests: arrays of bulk strings, and inline commands.
//!
//! Invariants:
//! * a request is one array of bulk strings, never more: the decoder does not recurse;
//! * a declared count or length is compared with its limit before anything is done with it, and
//!   nothing is reserved for what has not arrived;
//! * work is linear in the bytes that arrive: arguments leave the buffer as they are completed
//!   (without being copied), and no byte of a line is searched twice.

use bytes::{Buf, Bytes, BytesMut};

/// Most arguments of one request, the command's name included.
pub const MAX_ARGUMENTS: usize = 131_072;
/// Longest inline command.
pub const MAX_INLINE_BYTES: usize = 64 << 10;
/// Longest `*N` or `$N` line: more digits than any legal number has.
const MAX_HEADER_BYTES: usize = 32;
/// Arguments that room is made for before they arrive.
const EXPECTED_ARGUMENTS: usize = 8;
/// A buffer that carried an argument at least this long is given away with it.
const LARGE_BYTES: usize = 64 << 10;

/// What a request is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Longest argument: `limits.max_value_bytes`, but at least 64 KiB, so that a key that is too
    /// long is told so by its command.
    pub max_bulk_bytes: usize,
    /// Most bytes of all arguments of a request: `batch.max_bytes`.
    pub max_request_bytes: usize,
}

/// Why a connection cannot go on: after any of these the next request's start is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// An array within an array.
    #[error("Protocol error: nested arrays are not accepted")]
    Nested,
    /// Something else where an argument should begin.
    #[error("Protocol error: expected '$', got '{}'", char::from(*.0).escape_default())]
    ExpectedBulk(u8),
    /// The number of arguments is no number.
    #[error("Protocol error: invalid multibulk length")]
    BadCount,
    /// The length of an argument is no number, or negative.
    #[error("Protocol error: invalid bulk length")]
    BadLength,
    /// Too many arguments.
    #[error("Protocol error: request of {0} arguments: at most {MAX_ARGUMENTS}; split it")]
    TooManyArguments(u64),
    /// An argument is too long.
    #[error(
        "Protocol error: argument of {bytes} bytes: at most {max_bytes} (limits.max_value_bytes)"
    )]
    BulkTooLong {
        /// Declared.
        bytes: u64,
        /// Most.
        max_bytes: usize,
    },
    /// All arguments together are too long.
    #[error(
        "Protocol error: request of more than {max_bytes} bytes; split it, or raise batch.max_bytes"
    )]
    RequestTooLong {
        /// Most.
        max_bytes: usize,
    },
    /// An argument does not end where its length says.
    #[error("Protocol error: expected CRLF after an argument")]
    MissingEnd,
    /// An inline command is too long.
    #[error("Protocol error: inline command of more than {MAX_INLINE_BYTES} bytes")]
    InlineTooLong,
    /// Quotes of an inline command do not match.
    #[error("Protocol error: unbalanced quotes in an inline command")]
    UnbalancedQuotes,
    /// A web page that is made to speak to this port, or somebody who took it for HTTP.
    #[error("Protocol error: this is no HTTP server")]
    Http,
}

#[derive(Debug)]
struct Array {
    arguments: Vec<Bytes>,
    missing: usize,
    bytes: usize,
    /// The length of the argument that is being received.
    bulk: Option<usize>,
}

/// Decodes the requests of one connection.
#[derive(Debug)]
pub struct Decoder {
    limits: DecodeLimits,
    array: Option<Array>,
    /// Bytes at the buffer's start in which no line end was found.
    searched: usize,
}

impl Decoder {
    /// At the start of a request.
    pub fn new(limits: DecodeLimits) -> Self {
        Decoder { limits, array: None, searched: 0 }
    }

    /// Whether a request has begun and is not complete, given what the buffer holds.
    pub fn is_within_request(&self, input: &BytesMut) -> bool {
        self.array.is_some() || !input.is_empty()
    }

    /// Drops what has arrived of a request that will not be completed.
    pub fn forget(&mut self) {
        (self.array, self.searched) = (None, 0);
    }

    /// Bytes that a request that is not complete holds: those in the buffer and those that have
    /// left it.
    pub fn held_bytes(&self, input: &BytesMut) -> usize {
        let array = self.array.as_ref();
        input.len()
            + array.map_or(0, |array| array.bytes + array.arguments.len() * size_of::<Bytes>())
    }

    /// The next request, or `None` when more bytes are needed. After an error the connection
    /// must be closed.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        loop {
            if self.array.is_some() {
                return self.next_of_array(input);
            }
            match input.first() {
                None => return Ok(None),
                Some(b'*') => {
                    let Some(count) = self.header(input, ProtocolError::BadCount)? else {
                        return Ok(None);
                    };
                    if count > MAX_ARGUMENTS as i64 {
                        return Err(ProtocolError::TooManyArguments(count.unsigned_abs()));
                    }
                    // Redis ignores empty and null arrays.
                    if let Ok(missing @ 1..) = usize::try_from(count) {
                        let arguments = Vec::with_capacity(missing.min(EXPECTED_ARGUMENTS));
                        self.array = Some(Array { arguments, missing, bytes: 0, bulk: None });
                    }
                }
                Some(_) => {
                    match self.line(input, MAX_INLINE_BYTES, ProtocolError::InlineTooLong)? {
                        None => return Ok(None),
                        Some(line) => {
                            let arguments = split_inline(&line)?;
                            match arguments.first() {
                                None => continue,
                                Some(first) if is_http(first) => return Err(ProtocolError::Http),
                                Some(_) => return Ok(Some(arguments)),
                            }
                        }
                    }
                }
            }
        }
    }

    fn next_of_array(&mut self, input: &mut BytesMut) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        let Some(mut array) = self.array.take() else { return Ok(None) };
        while array.missing > 0 {
            let bulk = match array.bulk {
                Some(bulk) => bulk,
                None => match self.bulk_header(input, &array)? {
                    Some(bulk) => *array.bulk.insert(bulk),
                    None => {
                        self.array = Some(array);
                        return Ok(None);
                    }
                },
            };
            if input.len() < bulk + 2 {
                self.array = Some(array);
                return Ok(None);
            }
            if &input[bulk..bulk + 2] != b"\r\n" {
                return Err(ProtocolError::MissingEnd);
            }
            array.arguments.push(input.split_to(bulk).freeze());
            input.advance(2);
            if bulk >= LARGE_BYTES && input.len() < LARGE_BYTES {
                *input = BytesMut::from(&input[..]);
            }
            array.bytes += bulk;
            array.missing -= 1;
            array.bulk = None;
        }
        Ok(Some(array.arguments))
    }

    fn bulk_header(
        &mut self,
        input: &mut BytesMut,
        array: &Array,
    ) -> Result<Option<usize>, ProtocolError> {
        match input.first() {
            None => return Ok(None),
            Some(b'$') => {}
            Some(b'*') => return Err(ProtocolError::Nested),
            Some(other) => return Err(ProtocolError::ExpectedBulk(*other)),
        }
        let Some(length) = self.header(input, ProtocolError::BadLength)? else { return Ok(None) };
        let bytes = u64::try_from(length).map_err(|_| ProtocolError::BadLength)?;
        let max_bytes = self.limits.max_bulk_bytes;
        match usize::try_from(bytes) {
            Ok(bulk) if bulk <= max_bytes => {
                let max_bytes = self.limits.max_request_bytes;
                if array.bytes + bulk > max_bytes {
                    return Err(ProtocolError::RequestTooLong { max_bytes });
                }
                Ok(Some(bulk))
            }
            _ => Err(ProtocolError::BulkTooLong { bytes, max_bytes }),
        }
    }

    /// The number of a `*N` or `$N` line.
    fn header(
        &mut self,
        input: &mut BytesMut,
        wrong: ProtocolError,
    ) -> Result<Option<i64>, ProtocolError> {
        let Some(line) = self.line(input, MAX_HEADER_BYTES, wrong.clone())? else {
            return Ok(None);
        };
        let digits = line.get(1..).unwrap_or_default();
        let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse::<i64>().ok());
        match number {
            Some(number) if digits.first() != Some(&b'+') => Ok(Some(number)),
            _ => Err(wrong),
        }
    }

    /// A line without its end, which is `\r\n` or `\n`.
    fn line(
        &mut self,
        input: &mut BytesMut,
        max_bytes: usize,
        too_long: ProtocolError,
    ) -> Result<Option<BytesMut>, ProtocolError> {
        let window = input.len().min(max_bytes + 2);
        match input[self.searched..window].iter().position(|byte| *byte == b'\n') {
            Some(found) => {
                let mut line = input.split_to(self.searched + found + 1);
                self.searched = 0;
                line.truncate(line.len() - 1);
                if line.last() == Some(&b'\r') {
                    line.truncate(line.len() - 1);
                }
                Ok(Some(line))
            }
            None if window == max_bytes + 2 => Err(too_long),
            None => {
                self.searched = window;
                Ok(None)
            }
        }
    }
}

fn is_http(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"POST") || word.eq_ignore_ascii_case(b"Host:")
}

/// Splits at white space; `"…"` knows the escapes of redis-cli, `'…'` only `\'`.
fn split_inline(line: &[u8]) -> Result<Vec<Bytes>, ProtocolError> {
    let mut words = Vec::new();
    let mut rest = line.trim_ascii();
    while !rest.is_empty() {
        let mut word = Vec::new();
        while let Some((&byte, after)) = rest.split_first() {
            if byte.is_ascii_whitespace() {
                break;
            }
            rest = after;
            match byte {
                b'"' | b'\'' => rest = quoted(byte, after, &mut word)?,
                _ => word.push(byte),
            }
        }
        words.push(Bytes::from(word));
        rest = rest.trim_ascii_start();
    }
    Ok(words)
}

/// Appends what is quoted and returns what follows the closing quote.
fn quoted<'a>(
    quote: u8,
    mut rest: &'a [u8],
    word: &mut Vec<u8>,
) -> Result<&'a [u8], ProtocolError> {
    loop {
        match (quote, rest) {
            (_, []) => return Err(ProtocolError::UnbalancedQuotes),
            (_, [byte, after @ ..]) if *byte == quote => {
                return match after.first() {
                    Some(next) if !next.is_ascii_whitespace() => {
                        Err(ProtocolError::UnbalancedQuotes)
                    }
                    _ => Ok(after),
                };
            }
            (b'"', [b'\\', b'x', high, low, after @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                word.push(hex_digit(*high) << 4 | hex_digit(*low));
                rest = after;
            }
            (b'"', [b'\\', escaped, after @ ..]) => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                rest = after;
            }
            (b'\'', [b'\\', b'\'', after @ ..]) => {
                word.push(b'\'');
                rest = after;
            }
            (_, [byte, after @ ..]) => {
                word.push(*byte);
                rest = after;
            }
        }
    }
}

fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.to_ascii_uppercase().wrapping_sub(b'A') + 10,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use proptest::prelude::*;

    use super::*;

    const LIMITS: DecodeLimits = DecodeLimits { max_bulk_bytes: 1000, max_request_bytes: 3000 };

    fn encode(arguments: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
        for argument in arguments {
            bytes.extend(format!("${}\r\n", argument.len()).bytes());
            bytes.extend(argument);
            bytes.extend(b"\r\n");
        }
        bytes
    }

    /// Feeds the pieces one after the other.
    fn decode<'a>(
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Vec<Vec<Bytes>>, ProtocolError> {
        let mut decoder = Decoder::new(LIMITS);
        let (mut input, mut requests) = (BytesMut::new(), Vec::new());
        for piece in pieces {
            input.extend_from_slice(piece);
            while let Some(request) = decoder.next(&mut input)? {
                requests.push(request);
            }
        }
        Ok(requests)
    }

    fn words(line: &str) -> Vec<Bytes> {
        line.split(' ').map(|word| Bytes::from(word.to_owned())).collect()
    }

    proptest! {
        #[test]
        fn any_request_survives_any_split(
            requests in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6), 1..4),
        ) {
            let bytes: Vec<u8> = requests.iter().flat_map(|request| encode(request)).collect();
            for at in 0..=bytes.len() {
                let (head, tail) = bytes.split_at(at);
                prop_assert_eq!(&decode([head, tail]).unwrap(), &requests);
            }
            prop_assert_eq!(&decode(bytes.chunks(1)).unwrap(), &requests);
        }

        #[test]
        fn garbage_never_panics_and_splits_alike(
            bytes in prop::collection::vec(
                prop_oneof![any::<u8>(), Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), Just(b'1')],
                0..200),
        ) {
            let whole = decode([&bytes[..]]);
            let dribbled = decode(bytes.chunks(1));
            prop_assert_eq!(whole.is_err(), dribbled.is_err());
            if let (Ok(whole), Ok(dribbled)) = (whole, dribbled) {
                prop_assert_eq!(whole, dribbled);
            }
        }
    }

    #[test]
    fn inline_commands() {
        let text = b"PING\r\n  SET a 'b c'\n\r\nECHO \"x\\x41\\n\"\r\n*0\r\n*-1\r\nGET '\\''\r\n";
        let requests = decode([&text[..]]).unwrap();
        assert_eq!(requests[0], words("PING"));
        assert_eq!(requests[1], ["SET", "a", "b c"]);
        assert_eq!(requests[2], ["ECHO", "xA\n"]);
        assert_eq!(requests[3], ["GET", "'"]);
        assert_eq!(requests.len(), 4);
    }

    #[test]
    fn every_error_has_its_text() {
        let long_inline = "x".repeat(MAX_INLINE_BYTES + 2);
        let deep = "*1\r\n".repeat(100_000);
        for (bytes, text) in [
            (deep.as_str(), "nested arrays are not accepted"),
            ("*1\r\n:1\r\n", "expected '$', got ':'"),
            ("*1\r\n\n", "expected '$', got '\\n'"),
            ("*x\r\n", "invalid multibulk length"),
            ("*99999999999999999999999999999999999999999", "invalid multibulk length"),
            ("*1\r\n$-1\r\n", "invalid bulk length"),
            ("*1\r\n$+1\r\n", "invalid bulk length"),
            ("*131073\r\n", "request of 131073 arguments: at most 131072"),
            ("*1\r\n$1001\r\n", "argument of 1001 bytes: at most 1000 (limits.max_value_bytes)"),
            ("*1\r\n$9000000000000000000\r\n", "argument of 9000000000000000000 bytes"),
            ("*1\r\n$1\r\nabc", "expected CRLF after an argument"),
            (long_inline.as_str(), "inline command of more than 65536 bytes"),
            ("GET 'a\r\n", "unbalanced quotes"),
            ("POST / HTTP/1.1\r\n", "no HTTP server"),
        ] {
            let error = decode([bytes.as_bytes()]).unwrap_err().to_string();
            assert!(error.starts_with("Protocol error: ") && error.contains(text), "{error}");
        }
        let four = encode(&[vec![0; 1000], vec![0; 1000], vec![0; 1000], vec![0; 1]]);
        let error = decode([&four[..]]).unwrap_err();
        assert_eq!(error, ProtocolError::RequestTooLong { max_bytes: 3000 });
    }

    #[test]
    fn nothing_is_reserved_for_what_was_only_declared() {
        let limits = DecodeLimits { max_bulk_bytes: 256 << 20, max_request_bytes: 512 << 20 };
        let mut decoder = Decoder::new(limits);
        let mut input = BytesMut::from(&b"*131072\r\n$268435456\r\n"[..]);
        assert_eq!(decoder.next(&mut input), Ok(None));
        assert!(input.capacity() < 1024);
        assert!(decoder.array.as_ref().unwrap().arguments.capacity() <= EXPECTED_ARGUMENTS);
        assert!(decoder.is_within_request(&input));
        assert_eq!(decoder.held_bytes(&input), 0);
        input.extend_from_slice(b"rest");
        assert_eq!(decoder.held_bytes(&input), 4);
    }
}
