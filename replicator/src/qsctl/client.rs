//! A small synchronous client of the `client` socket (RESP2), with sending and receiving apart,
//! so that many commands can be in flight.
//!
//! Invariants:
//! * replies are bounded in depth, counts and lengths, and nothing is allocated for bytes that
//!   have not arrived;
//! * every wait has an end;
//! * an error says whether the command can have taken effect: only [`ClientError::Lost`] and
//!   [`ServerCode::Unknown`] leave that open.

use std::fmt;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use quicksilver_format::limits::VALUE_HARD_MAX_BYTES;

use crate::net::listen::Address;

/// Longest wait for a connection, per resolved address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest silence while a reply is expected, and longest time the peer may not take our bytes:
/// a root acknowledges within its window and a commit, unless something is wrong.
const IO_TIMEOUT: Duration = Duration::from_secs(60);
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
const BUFFER_BYTES: usize = 64 << 10;

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
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

/// What the first word of a server's error says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerCode {
    /// Writes go elsewhere; the text names the root.
    ReadOnly,
    /// Not now; nothing was done.
    TryAgain,
    /// The node has no data yet.
    Loading,
    /// Stored data is damaged.
    Corrupt,
    /// It is not known whether the write took effect.
    Unknown,
    /// Anything else is a refusal.
    Other,
}

/// Why a server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// No connection: nothing was sent.
    #[error(
        "{address}: cannot connect: {source}; is quicksilverd running there, with listen.client?"
    )]
    Connect {
        /// Whom.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke, or nothing came in time.
    #[error(
        "{address}: connection lost while {doing}: {source}; a write under way may or may not have been stored"
    )]
    Lost {
        /// Whom.
        address: Address,
        /// What was going on.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// What came is no reply, or not one to this command.
    #[error("{address}: unexpected reply: {problem}; expected the client socket of a replicator")]
    Protocol {
        /// Whom.
        address: Address,
        /// What was found and expected.
        problem: String,
    },
    /// An error of the server's own.
    #[error("{address}: {message}")]
    Server {
        /// Whom.
        address: Address,
        /// Its first word, understood.
        code: ServerCode,
        /// Its text.
        message: String,
    },
}

impl ServerCode {
    fn of(message: &str) -> Self {
        match message.split(' ').next() {
            Some("READONLY") => ServerCode::ReadOnly,
            Some("TRYAGAIN") => ServerCode::TryAgain,
            Some("LOADING") => ServerCode::Loading,
            Some("CORRUPT") => ServerCode::Corrupt,
            Some("UNKNOWN") => ServerCode::Unknown,
            _ => ServerCode::Other,
        }
    }
}

/// A command as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    arguments: usize,
    body: Vec<u8>,
}

impl Command {
    /// Begins with a name.
    pub(super) fn new(name: &str) -> Self {
        Command { arguments: 0, body: Vec::new() }.arg(name.as_bytes())
    }

    /// With another argument.
    #[must_use]
    pub(super) fn arg(mut self, argument: impl AsRef<[u8]>) -> Self {
        self.push(argument.as_ref());
        self
    }

    /// Adds an argument.
    pub(super) fn push(&mut self, argument: &[u8]) {
        self.arguments += 1;
        self.body.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        self.body.extend_from_slice(argument);
        self.body.extend_from_slice(b"\r\n");
    }

    fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        write!(out, "*{}\r\n", self.arguments)?;
        out.write_all(&self.body)
    }
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn connect(address: &Address) -> io::Result<Stream> {
        match address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(IO_TIMEOUT))?;
                stream.set_write_timeout(Some(IO_TIMEOUT))?;
                Ok(Stream::Unix(stream))
            }
            Address::Tcp { host, port } => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for resolved in (host.as_str(), *port).to_socket_addrs()? {
                    match TcpStream::connect_timeout(&resolved, CONNECT_TIMEOUT) {
                        Ok(stream) => {
                            stream.set_nodelay(true)?;
                            stream.set_read_timeout(Some(IO_TIMEOUT))?;
                            stream.set_write_timeout(Some(IO_TIMEOUT))?;
                            return Ok(Stream::Tcp(stream));
                        }
                        Err(e) => last = e,
                    }
                }
                Err(last)
            }
        }
    }

    fn try_clone(&self) -> io::Result<Stream> {
        match self {
            Stream::Tcp(stream) => stream.try_clone().map(Stream::Tcp),
            Stream::Unix(stream) => stream.try_clone().map(Stream::Unix),
        }
    }

    fn shutdown(&self) {
        // It may be closed already.
        let _ = match self {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buf),
            Stream::Unix(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(buf),
            Stream::Unix(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// Sends commands.
    pub(super) sender: Sender,
    /// Receives their replies, in order.
    pub(super) receiver: Receiver,
}

/// The sending half.
#[derive(Debug)]
pub(super) struct Sender {
    address: Address,
    stream: BufWriter<Stream>,
}

/// The receiving half.
#[derive(Debug)]
pub(super) struct Receiver {
    address: Address,
    stream: BufReader<Stream>,
}

impl Connection {
    /// Connects.
    pub(super) fn open(address: &Address) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Connect { address: address.clone(), source };
        let stream = Stream::connect(address).map_err(failed)?;
        let receiving = stream.try_clone().map_err(failed)?;
        Ok(Connection {
            sender: Sender {
                address: address.clone(),
                stream: BufWriter::with_capacity(BUFFER_BYTES, stream),
            },
            receiver: Receiver {
                address: address.clone(),
                stream: BufReader::with_capacity(BUFFER_BYTES, receiving),
            },
        })
    }

    /// Sends one command and waits for its reply. A reply that is an error is an error.
    pub(super) fn call(&mut self, command: &Command) -> Result<Reply, ClientError> {
        self.sender.send(command)?;
        self.receiver.receive()
    }
}

impl Sender {
    /// Sends one command.
    pub(super) fn send(&mut self, command: &Command) -> Result<(), ClientError> {
        let sent = command.write_to(&mut self.stream).and_then(|()| self.stream.flush());
        sent.map_err(|source| ClientError::Lost {
            address: self.address.clone(),
            doing: "sending a command",
            source: readable(source),
        })
    }
}

impl Receiver {
    /// The reply to the oldest command that has none yet. A reply that is an error is an error.
    pub(super) fn receive(&mut self) -> Result<Reply, ClientError> {
        match read_reply(&mut self.stream) {
            Ok(Reply::Error(message)) => Err(ClientError::Server {
                address: self.address.clone(),
                code: ServerCode::of(&message),
                message,
            }),
            Ok(reply) => Ok(reply),
            Err(ReplyError::Io(source)) => Err(ClientError::Lost {
                address: self.address.clone(),
                doing: "waiting for a reply",
                source: readable(source),
            }),
            Err(ReplyError::Malformed(problem)) => Err(self.unexpected(problem)),
        }
    }

    /// Ends both directions, so that a sender which waits for room wakes up.
    pub(super) fn shutdown(&self) {
        self.stream.get_ref().shutdown();
    }

    /// The error for a reply that does not answer the command.
    pub(super) fn unexpected(&self, problem: impl fmt::Display) -> ClientError {
        ClientError::Protocol { address: self.address.clone(), problem: problem.to_string() }
    }
}

/// The system's words for a timeout on a socket are "resource temporarily unavailable".
fn readable(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => io::Error::new(
            io::ErrorKind::TimedOut,
            format!("nothing moved for {} s", IO_TIMEOUT.as_secs()),
        ),
        io::ErrorKind::UnexpectedEof => {
            io::Error::new(io::ErrorKind::UnexpectedEof, "the other end closed it")
        }
        _ => error,
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
    let mut bulk = Vec::with_capacity(bytes.min(BUFFER_BYTES));
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

    #[test]
    fn codes_are_the_first_word() {
        assert_eq!(ServerCode::of("READONLY the root is at a:1"), ServerCode::ReadOnly);
        assert_eq!(ServerCode::of("LOADING"), ServerCode::Loading);
        assert_eq!(ServerCode::of("ERR READONLY"), ServerCode::Other);
        assert_eq!(ServerCode::of(""), ServerCode::Other);
    }

    proptest! {
        #[test]
        fn a_command_is_an_array_of_bulk_strings(
            arguments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
        ) {
            let command = arguments.iter().fold(Command::new("X"), |c, a| c.arg(a));
            let mut bytes = Vec::new();
            command.write_to(&mut bytes).unwrap();
            let expected = [b"X".to_vec()].into_iter().chain(arguments).map(Reply::Bulk).collect();
            prop_assert_eq!(decoded(&bytes).unwrap(), Reply::Array(expected));
        }

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
