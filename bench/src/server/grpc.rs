//! Unary gRPC calls, or one that streams, over one HTTP/2 connection without TLS, by hand.
//!
//! Its own client library would cost etcd several times what the server does per read, so this
//! speaks just enough HTTP/2 to be the leanest client: requests whose headers never change, many
//! streams at a time, flow control obeyed. Answers' headers are not decoded: a call has succeeded
//! when its stream ended after a message, since an error is told in trailers alone.

use std::collections::VecDeque;
use std::io;

use crate::connection::{Address, Connection};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Bytes of a frame's payload that every peer accepts.
const MAX_FRAME_BYTES: usize = 16_384;
/// What a stream, and the connection, may carry before the receiver says more.
const FIRST_WINDOW: usize = 65_535;
/// What the server may send before it has to wait for us: as much as there is.
const OUR_WINDOW: u32 = (1 << 31) - 1;
/// Half of it is given back when this much has arrived.
const GIVE_BACK: u32 = 1 << 30;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTING_INITIAL_WINDOW: u16 = 4;

/// One connection, and the calls that are under way on it.
#[derive(Debug)]
pub struct Channel {
    connection: Connection,
    authority: String,
    next_stream: u32,
    send_window: usize,
    arrived: u32,
    calls: VecDeque<Call>,
    out: Vec<u8>,
    payload: Vec<u8>,
}

#[derive(Debug)]
struct Call {
    stream: u32,
    answer: Vec<u8>,
    ended: bool,
}

fn failed(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}

impl Channel {
    /// Connects and says hello.
    pub fn connect(address: &Address) -> io::Result<Channel> {
        let mut channel = Channel {
            connection: Connection::open(address)?,
            authority: match address {
                Address::Tcp(_) => address.to_string(),
                Address::Unix(_) => "localhost".to_owned(),
            },
            next_stream: 1,
            send_window: FIRST_WINDOW,
            arrived: 0,
            calls: VecDeque::new(),
            out: PREFACE.to_vec(),
            payload: Vec::new(),
        };
        let mut settings = SETTING_INITIAL_WINDOW.to_be_bytes().to_vec();
        settings.extend_from_slice(&OUR_WINDOW.to_be_bytes());
        channel.frame(SETTINGS, 0, 0, &settings);
        let more = OUR_WINDOW - FIRST_WINDOW as u32;
        channel.frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        channel.flush()?;
        Ok(channel)
    }

    /// One call and its answer.
    pub fn call(&mut self, path: &str, message: &[u8]) -> io::Result<Vec<u8>> {
        self.send(path, message)?;
        self.take()
    }

    /// Begins a call without waiting for its answer.
    pub fn send(&mut self, path: &str, message: &[u8]) -> io::Result<()> {
        self.begin(path, message, END_STREAM)
    }

    /// Begins a call in which the server may say something at any time: [`message`](Self::message). It is
    /// the only one on this connection.
    pub fn open(&mut self, path: &str, message: &[u8]) -> io::Result<()> {
        self.begin(path, message, 0)
    }

    fn begin(&mut self, path: &str, message: &[u8], last_flags: u8) -> io::Result<()> {
        let bytes = message.len() + 5;
        if bytes > FIRST_WINDOW {
            return Err(failed("a message that is larger than a stream's window"));
        }
        while self.send_window < bytes {
            self.receive()?;
        }
        self.send_window -= bytes;
        let stream = self.next_stream;
        self.next_stream += 2;
        let headers = headers(path, &self.authority);
        self.frame(HEADERS, END_HEADERS, stream, &headers);
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        let body = [&[0], &length.to_be_bytes()[..], message].concat();
        let mut pieces = body.chunks(MAX_FRAME_BYTES).peekable();
        while let Some(piece) = pieces.next() {
            let flags = if pieces.peek().is_none() { last_flags } else { 0 };
            self.frame(DATA, flags, stream, piece);
        }
        self.calls.push_back(Call { stream, answer: Vec::new(), ended: false });
        self.flush()
    }

    /// The answer to the oldest call that has none yet.
    pub fn take(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.calls.front() {
                None => return Err(failed("no call is under way")),
                Some(call) if call.ended => break,
                Some(_) => self.receive()?,
            }
        }
        let mut answer = self.calls.pop_front().map(|call| call.answer).unwrap_or_default();
        if answer.len() < 5 {
            return Err(failed("the call was refused"));
        }
        Ok(answer.split_off(5))
    }

    /// The next message of the call that was opened.
    pub fn message(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let call = self.calls.front_mut().ok_or_else(|| failed("no call was opened"))?;
            if let Some(message) = take_message(&mut call.answer) {
                return Ok(message);
            }
            if call.ended {
                return Err(failed("the server ended the call"));
            }
            self.receive()?;
        }
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
        self.out.extend_from_slice(&length[1..]);
        self.out.extend_from_slice(&[kind, flags]);
        self.out.extend_from_slice(&stream.to_be_bytes());
        self.out.extend_from_slice(payload);
    }

    fn flush(&mut self) -> io::Result<()> {
        self.connection.send(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// Takes one frame and does what it asks for.
    fn receive(&mut self) -> io::Result<()> {
        let mut header = [0; 9];
        self.connection.exactly(&mut header)?;
        let [a, b, c, kind, flags, stream @ ..] = header;
        let length = u32::from_be_bytes([0, a, b, c]);
        let stream = u32::from_be_bytes(stream);
        let mut payload = std::mem::take(&mut self.payload);
        payload.resize(length as usize, 0);
        self.connection.exactly(&mut payload)?;
        self.take_frame(kind, flags, stream, &payload)?;
        self.payload = payload;
        if self.out.is_empty() { Ok(()) } else { self.flush() }
    }

    fn take_frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        match kind {
            DATA | HEADERS => {
                let call = self.calls.iter_mut().find(|call| call.stream == stream);
                let call = call.ok_or_else(|| failed("an answer that nobody waits for"))?;
                if kind == DATA {
                    call.answer.extend_from_slice(payload);
                }
                call.ended |= flags & END_STREAM != 0;
                if kind == DATA {
                    self.give_back(payload.len());
                }
            }
            SETTINGS if flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => self.frame(PING, ACK, 0, payload),
            WINDOW_UPDATE if stream == 0 => {
                let more = payload.try_into().map(u32::from_be_bytes);
                self.send_window += more.map_err(|_| failed("a short window update"))? as usize;
            }
            // The answer was complete before the server had looked at the request's end.
            RST_STREAM if payload == [0; 4] => {}
            RST_STREAM | GOAWAY => {
                let text = String::from_utf8_lossy(payload);
                return Err(failed(format!("the server broke off: {text:?}")));
            }
            _ => {}
        }
        Ok(())
    }

    /// Lets the server send as much again, now and then.
    fn give_back(&mut self, bytes: usize) {
        self.arrived += bytes as u32;
        if self.arrived >= GIVE_BACK {
            let arrived = std::mem::take(&mut self.arrived);
            self.frame(WINDOW_UPDATE, 0, 0, &arrived.to_be_bytes());
        }
    }
}

/// Takes a message off the front, once all of it is there.
fn take_message(arrived: &mut Vec<u8>) -> Option<Vec<u8>> {
    let &[_, a, b, c, d] = arrived.first_chunk::<5>()?;
    let end = 5 + u32::from_be_bytes([a, b, c, d]) as usize;
    if arrived.len() < end {
        return None;
    }
    let rest = arrived.split_off(end);
    let message = arrived.split_off(5);
    *arrived = rest;
    Some(message)
}

/// The request's headers in HPACK: names from the static table where it has them, values as they
/// are, nothing remembered on either side.
fn headers(path: &str, authority: &str) -> Vec<u8> {
    // `:method: POST` and `:scheme: http` stand whole in the static table.
    let mut out = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &str| {
        out.extend_from_slice(name);
        // All values are shorter than 127 bytes, where a length takes one byte.
        out.push(value.len() as u8);
        out.extend_from_slice(value.as_bytes());
    };
    literal(&[0x04], path);
    literal(&[0x01], authority);
    literal(&[0x0f, 0x10], "application/grpc"); // content-type
    literal(b"\x00\x02te", "trailers");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_whole_and_one_by_one() {
        let both = [0, 0, 0, 0, 2, 7, 8, 0, 0, 0, 0, 1, 9];
        for cut in 0..both.len() {
            let mut arrived = both[..cut].to_vec();
            let mut taken: Vec<_> = std::iter::from_fn(|| take_message(&mut arrived)).collect();
            assert_eq!(taken.len(), usize::from(cut >= 7));
            arrived.extend_from_slice(&both[cut..]);
            taken.extend(std::iter::from_fn(|| take_message(&mut arrived)));
            assert_eq!(taken, [vec![7, 8], vec![9]]);
            assert!(arrived.is_empty());
        }
    }
}
