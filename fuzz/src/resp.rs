//! The Redis protocol, as far as we speak it: the decoder against a second one that sees all bytes
//! at once.

use bytes::{Bytes, BytesMut};
use quicksilver_replicator::net::resp::decode::{
    DecodeLimits, Decoder, MAX_ARGUMENTS, MAX_INLINE_BYTES, ProtocolError,
};

use crate::input::{Input, cut};

/// The longest `*N` or `$N` line.
const MAX_HEADER_BYTES: usize = 32;
/// What an argument costs beside its bytes, for each of the six bytes that announce it, rounded up.
const HELD_PER_BYTE: usize = size_of::<Bytes>().div_ceil(6);

type Requests = Vec<Vec<Bytes>>;

/// What clients send, in pieces of any size.
///
/// One byte: the limits. One byte: how the stream is cut. The stream.
pub fn resp(data: &[u8]) {
    let mut input = Input::new(data);
    let (choice, seed) = (input.byte(), input.byte());
    let limits = DecodeLimits {
        max_bulk_bytes: [8, 64, 1024, 1 << 20][usize::from(choice & 3)],
        max_request_bytes: [8, 100, 3000, 1 << 21][usize::from(choice >> 2 & 3)],
    };
    let stream = input.rest();
    let whole = decode(limits, [stream]);
    assert_eq!(whole, Second { stream, limits }.requests(), "the second decoder");
    assert_eq!(decode(limits, cut(stream, seed)), whole, "in pieces");
    assert_eq!(decode(limits, cut(stream, 1)), whole, "in single bytes");
}

/// The requests of a stream, and how it ends.
fn decode<'a>(
    limits: DecodeLimits,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Requests, Result<(), ProtocolError>) {
    let (mut decoder, mut buffer) = (Decoder::new(limits), BytesMut::new());
    let (mut requests, mut came) = (Vec::new(), 0);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        came += piece.len();
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => break,
                Err(error) => {
                    assert!(error.to_string().starts_with("Protocol error: "));
                    return (requests, Err(error));
                }
            }
        }
        let waiting = buffer.len();
        assert!(waiting < MAX_INLINE_BYTES.max(limits.max_bulk_bytes) + 2, "{waiting} bytes wait");
        let held = decoder.held_bytes(&buffer);
        assert!(held <= came * HELD_PER_BYTE, "{held} bytes are held for {came}");
        assert!(waiting == 0 || decoder.is_within_request(&buffer));
    }
    (requests, Ok(()))
}

/// The second decoder: no state between calls, no buffer that is eaten up, from the definition.
struct Second<'a> {
    stream: &'a [u8],
    limits: DecodeLimits,
}

/// `None`: more bytes are needed.
type Step<T> = Result<Option<T>, ProtocolError>;

impl<'a> Second<'a> {
    fn requests(mut self) -> (Requests, Result<(), ProtocolError>) {
        let mut requests = Vec::new();
        loop {
            match self.request() {
                Ok(Some(request)) if request.is_empty() => {}
                Ok(Some(request)) => requests.push(request),
                Ok(None) => return (requests, Ok(())),
                Err(error) => return (requests, Err(error)),
            }
        }
    }

    fn request(&mut self) -> Step<Vec<Bytes>> {
        let Some(first) = self.stream.first() else { return Ok(None) };
        if *first != b'*' {
            let Some(line) = self.line(MAX_INLINE_BYTES, ProtocolError::InlineTooLong)? else {
                return Ok(None);
            };
            let words = words(line)?;
            let http = |word: &Bytes| ["post", "host:"].iter().any(|w| lower(word) == w.as_bytes());
            return if words.first().is_some_and(http) {
                Err(ProtocolError::Http)
            } else {
                Ok(Some(words))
            };
        }
        let Some(count) = self.number(ProtocolError::BadCount)? else { return Ok(None) };
        if count > MAX_ARGUMENTS as i64 {
            return Err(ProtocolError::TooManyArguments(count as u64));
        }
        let mut arguments = Vec::new();
        for _ in 0..count {
            let together = arguments.iter().map(Bytes::len).sum();
            let Some(argument) = self.argument(together)? else { return Ok(None) };
            arguments.push(argument);
        }
        Ok(Some(arguments))
    }

    fn argument(&mut self, together: usize) -> Step<Bytes> {
        match self.stream.first() {
            None => return Ok(None),
            Some(b'$') => {}
            Some(b'*') => return Err(ProtocolError::Nested),
            Some(other) => return Err(ProtocolError::ExpectedBulk(*other)),
        }
        let Some(length) = self.number(ProtocolError::BadLength)? else { return Ok(None) };
        if length < 0 {
            return Err(ProtocolError::BadLength);
        }
        let (bytes, max_bytes) = (length as usize, self.limits.max_bulk_bytes);
        if bytes > max_bytes {
            return Err(ProtocolError::BulkTooLong { bytes: length as u64, max_bytes });
        }
        let max_bytes = self.limits.max_request_bytes;
        if together + bytes > max_bytes {
            return Err(ProtocolError::RequestTooLong { max_bytes });
        }
        let Some((argument, rest)) = self.stream.split_at_checked(bytes) else { return Ok(None) };
        match rest {
            [b'\r', b'\n', rest @ ..] => {
                self.stream = rest;
                Ok(Some(Bytes::copy_from_slice(argument)))
            }
            [_, _, ..] => Err(ProtocolError::MissingEnd),
            _ => Ok(None),
        }
    }

    fn number(&mut self, wrong: ProtocolError) -> Step<i64> {
        let Some(line) = self.line(MAX_HEADER_BYTES, wrong.clone())? else { return Ok(None) };
        let (sign, digits) = match &line[1..] {
            [b'-', digits @ ..] => (-1, digits),
            digits => (1, digits),
        };
        let add = |sum: i128, digit: &u8| match digit {
            b'0'..=b'9' => Some(sum * 10 + i128::from(digit - b'0')),
            _ => None,
        };
        let number = digits.iter().try_fold(0, add).filter(|_| !digits.is_empty());
        match number.map(|number| i64::try_from(sign * number)) {
            Some(Ok(number)) => Ok(Some(number)),
            _ => Err(wrong),
        }
    }

    /// Up to `\n` or `\r\n`.
    fn line(&mut self, max_bytes: usize, too_long: ProtocolError) -> Step<&'a [u8]> {
        match self.stream.iter().take(max_bytes + 2).position(|byte| *byte == b'\n') {
            Some(end) => {
                let line = &self.stream[..end];
                self.stream = &self.stream[end + 1..];
                Ok(Some(line.strip_suffix(b"\r").unwrap_or(line)))
            }
            None if self.stream.len() < max_bytes + 2 => Ok(None),
            None => Err(too_long),
        }
    }
}

fn lower(word: &[u8]) -> Vec<u8> {
    word.to_ascii_lowercase()
}

/// Where in an inline command a byte is.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Between,
    Word,
    Quoted(u8),
    AfterQuote,
}

/// The words of an inline command.
fn words(line: &[u8]) -> Result<Vec<Bytes>, ProtocolError> {
    let (mut words, mut word, mut place, mut at) = (Vec::new(), Vec::new(), Place::Between, 0);
    while at < line.len() {
        let (byte, rest) = (line[at], &line[at + 1..]);
        at += 1;
        place = match (place, byte) {
            (Place::Quoted(quote), byte) if byte == quote => Place::AfterQuote,
            (Place::Quoted(quote), byte) => {
                let (meant, more) = if byte == b'\\' { escaped(quote, rest) } else { (byte, 0) };
                word.push(meant);
                at += more;
                place
            }
            (Place::Between, byte) if byte.is_ascii_whitespace() => Place::Between,
            (_, byte) if byte.is_ascii_whitespace() => {
                words.push(Bytes::from(std::mem::take(&mut word)));
                Place::Between
            }
            (Place::AfterQuote, _) => return Err(ProtocolError::UnbalancedQuotes),
            (_, b'"' | b'\'') => Place::Quoted(byte),
            (_, byte) => {
                word.push(byte);
                Place::Word
            }
        };
    }
    match place {
        Place::Quoted(_) => return Err(ProtocolError::UnbalancedQuotes),
        Place::Between => {}
        Place::Word | Place::AfterQuote => words.push(Bytes::from(word)),
    }
    Ok(words)
}

/// What a backslash and what follows it mean, and how much of that it takes.
fn escaped(quote: u8, rest: &[u8]) -> (u8, usize) {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    match (quote, rest) {
        (b'\'', [b'\'', ..]) => (b'\'', 1),
        (b'\'', _) | (_, []) => (b'\\', 0),
        (_, [b'x', high, low, ..]) if digit(*high).is_some() && digit(*low).is_some() => {
            (digit(*high).unwrap_or(0) * 16 + digit(*low).unwrap_or(0), 3)
        }
        (_, [next, ..]) => {
            let known = [(b'n', b'\n'), (b'r', b'\r'), (b't', b'\t'), (b'b', 8), (b'a', 7)];
            let meant = known.iter().find(|(name, _)| name == next).map_or(*next, |(_, m)| *m);
            (meant, 1)
        }
    }
}
