//! A small synchronous client of the `client` socket (RESP2), with sending and receiving apart,
//! so that many commands can be in flight.
//!
//! Invariants:
//! * every wait has an end (looking up a name has the resolver's);
//! * an error says whether the command can have taken effect: [`ServerError::outcome`];
//! * what was not sent is never sent later: after a failure the sending direction is closed.

use std::fmt;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use quicksilver_format::{Address, Index};

use super::error::{ServerCode, ServerError};
use super::reply::{Reply, ReplyError, read_reply};

/// Longest wait for a connection, per resolved address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest silence while a reply is expected, and longest time the peer may not take our bytes,
/// unless the caller has less patience: a root acknowledges within its window and a commit, unless
/// something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// No wait is shorter: the system takes none for one without end.
const LEAST_PATIENCE: Duration = Duration::from_millis(1);
/// What is gathered before it is sent, and taken at once of what has come.
const BUFFER_BYTES: usize = 64 << 10;

/// A command as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    arguments: usize,
    body: Vec<u8>,
}

impl Command {
    /// Begins with a name.
    pub fn new(name: &str) -> Self {
        Command { arguments: 0, body: Vec::new() }.arg(name.as_bytes())
    }

    /// With another argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<[u8]>) -> Self {
        self.push(argument.as_ref());
        self
    }

    /// Adds an argument.
    pub fn push(&mut self, argument: &[u8]) {
        self.arguments += 1;
        self.body.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        self.body.extend_from_slice(argument);
        self.body.extend_from_slice(b"\r\n");
    }

    /// Whether it has no arguments.
    pub fn is_bare(&self) -> bool {
        self.arguments == 1
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
    fn connect(address: &Address, patience: Duration) -> io::Result<Stream> {
        match address {
            Address::Unix(path) => connect_unix(path, patience).map(Stream::Unix),
            Address::Tcp { host, port } => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for resolved in (host.as_str(), *port).to_socket_addrs()? {
                    match TcpStream::connect_timeout(&resolved, CONNECT_TIMEOUT.min(patience)) {
                        Ok(stream) => {
                            stream.set_nodelay(true)?;
                            return Ok(Stream::Tcp(stream));
                        }
                        Err(e) => last = e,
                    }
                }
                Err(last)
            }
        }
    }

    fn set_patience(&self, patience: Duration) -> io::Result<()> {
        let patience = Some(patience);
        match self {
            Stream::Tcp(stream) => {
                stream.set_read_timeout(patience)?;
                stream.set_write_timeout(patience)
            }
            Stream::Unix(stream) => {
                stream.set_read_timeout(patience)?;
                stream.set_write_timeout(patience)
            }
        }
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_nonblocking(nonblocking),
            Stream::Unix(stream) => stream.set_nonblocking(nonblocking),
        }
    }

    fn try_clone(&self) -> io::Result<Stream> {
        match self {
            Stream::Tcp(stream) => stream.try_clone().map(Stream::Tcp),
            Stream::Unix(stream) => stream.try_clone().map(Stream::Unix),
        }
    }

    fn shutdown(&self, directions: Shutdown) {
        // It may be closed already.
        let _ = match self {
            Stream::Tcp(stream) => stream.shutdown(directions),
            Stream::Unix(stream) => stream.shutdown(directions),
        };
    }
}

/// Where a socket outlives its process, its queue can be full: connecting waits then, for as long
/// as sending may take, which the standard library sets only afterwards.
fn connect_unix(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let patience = CONNECT_TIMEOUT.min(patience);
    let address = UnixAddr::new(path)?;
    let kind = (AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC);
    let stream = UnixStream::from(socket(kind.0, kind.1, kind.2, None)?);
    let seconds = i64::try_from(patience.as_secs()).unwrap_or(i64::MAX);
    let wait = TimeVal::new(seconds, patience.subsec_micros().into());
    setsockopt(&stream, sockopt::SendTimeout, &wait)?;
    match connect(stream.as_raw_fd(), &address) {
        Err(nix::Error::EAGAIN) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "nobody takes connections, and the queue is full",
        )),
        connected => Ok(connected.map(|()| stream)?),
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
pub struct Connection {
    /// Sends commands.
    pub sender: Sender,
    /// Receives their replies, in order.
    pub receiver: Receiver,
}

/// The sending half.
#[derive(Debug)]
pub struct Sender {
    address: Address,
    stream: BufWriter<Stream>,
    patience: Duration,
}

/// The receiving half.
#[derive(Debug)]
pub struct Receiver {
    address: Address,
    stream: BufReader<Stream>,
    patience: Duration,
}

impl Connection {
    /// Connects; nothing that is waited for takes longer than `patience`.
    pub fn open(address: &Address, patience: Duration) -> Result<Self, ServerError> {
        let patience = patience.max(LEAST_PATIENCE);
        let failed = |source| ServerError::Connect { address: address.clone(), source };
        let stream = Stream::connect(address, patience).map_err(failed)?;
        stream.set_patience(patience).map_err(failed)?;
        let receiving = stream.try_clone().map_err(failed)?;
        Ok(Connection {
            sender: Sender {
                address: address.clone(),
                stream: BufWriter::with_capacity(BUFFER_BYTES, stream),
                patience,
            },
            receiver: Receiver {
                address: address.clone(),
                stream: BufReader::with_capacity(BUFFER_BYTES, receiving),
                patience,
            },
        })
    }

    /// To whom.
    pub fn address(&self) -> &Address {
        &self.sender.address
    }

    /// Whether it can be used again, now with this `patience`: its end, or words that nobody asked
    /// for, would have come by now. Not to be asked while a reply is expected.
    pub fn is_idle(&mut self, patience: Duration) -> bool {
        let patience = patience.max(LEAST_PATIENCE);
        (self.sender.patience, self.receiver.patience) = (patience, patience);
        let stream = self.sender.stream.get_ref();
        stream.set_patience(patience).is_ok()
            && stream.set_nonblocking(true).is_ok()
            && matches!(self.receiver.stream.fill_buf(),
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock)
            && self.sender.stream.get_ref().set_nonblocking(false).is_ok()
    }

    /// Sends commands in one go and waits for their replies. A reply that is an error is an error,
    /// and the connection is of no further use.
    pub fn call(&mut self, commands: &[Command]) -> Result<Vec<Reply>, ServerError> {
        if let Err(broken) = self.sender.send_all(commands) {
            return Err(self.said_before_it_broke().unwrap_or(broken));
        }
        commands.iter().map(|_| self.receiver.receive()).collect()
    }

    /// As [`call`](Self::call), with one command.
    pub fn one(&mut self, command: &Command) -> Result<Reply, ServerError> {
        let mut replies = self.call(std::slice::from_ref(command))?;
        replies.pop().ok_or_else(|| self.receiver.unexpected("none, expected one"))
    }

    /// What the server said explains more than the connection that broke over it: it refuses a
    /// command that is too large before it has come to its end.
    fn said_before_it_broke(&mut self) -> Option<ServerError> {
        self.receiver.stream.get_ref().set_nonblocking(true).ok()?;
        self.receiver.receive().err().filter(|e| matches!(e, ServerError::Answered { .. }))
    }

    /// The last index applied at the other end.
    pub fn index(&mut self) -> Result<Index, ServerError> {
        let reply = self.one(&Command::new("QS.INDEX"))?;
        let index = reply.index();
        index.ok_or_else(|| self.receiver.unexpected("to QS.INDEX, expected a number"))
    }
}

impl Sender {
    /// Sends one command.
    pub fn send(&mut self, command: &Command) -> Result<(), ServerError> {
        self.send_all(std::slice::from_ref(command))
    }

    fn send_all(&mut self, commands: &[Command]) -> Result<(), ServerError> {
        let mut written = commands.iter().map(|command| command.write_to(&mut self.stream));
        let sent = written.by_ref().collect::<io::Result<()>>().and_then(|()| self.stream.flush());
        sent.map_err(|source| {
            // The buffer would try once more to send the rest when it is dropped.
            self.stream.get_ref().shutdown(Shutdown::Write);
            let (address, source) = (self.address.clone(), readable(source, self.patience));
            match commands {
                // Its last byte did not leave, so nobody has all of it.
                [_] => ServerError::Unsent { address, source },
                _ => ServerError::Lost { address, source },
            }
        })
    }
}

impl Receiver {
    /// The reply to the oldest command that has none yet. A reply that is an error is an error.
    pub fn receive(&mut self) -> Result<Reply, ServerError> {
        match read_reply(&mut self.stream) {
            Ok(Reply::Error(message)) => Err(ServerError::Answered {
                address: self.address.clone(),
                code: ServerCode::of(&message),
                message,
            }),
            Ok(reply) => Ok(reply),
            Err(ReplyError::Io(source)) => Err(ServerError::Lost {
                address: self.address.clone(),
                source: readable(source, self.patience),
            }),
            Err(ReplyError::Malformed(problem)) => Err(self.unexpected(problem)),
        }
    }

    /// Ends both directions, so that a sender which waits for room wakes up.
    pub fn shutdown(&self) {
        self.stream.get_ref().shutdown(Shutdown::Both);
    }

    /// The error for a reply that does not answer the command.
    pub fn unexpected(&self, problem: impl fmt::Display) -> ServerError {
        ServerError::Protocol { address: self.address.clone(), problem: problem.to_string() }
    }
}

/// The system's words for a timeout on a socket are "resource temporarily unavailable".
fn readable(error: io::Error, patience: Duration) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => io::Error::new(
            io::ErrorKind::TimedOut,
            format!("nothing moved for {:.1} s", patience.as_secs_f64()),
        ),
        io::ErrorKind::UnexpectedEof => {
            io::Error::new(io::ErrorKind::UnexpectedEof, "the other end closed it")
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_command_is_an_array_of_bulk_strings(
            arguments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
        ) {
            let command = arguments.iter().fold(Command::new("X"), |c, a| c.arg(a));
            let mut bytes = Vec::new();
            command.write_to(&mut bytes).unwrap();
            let expected = [b"X".to_vec()].into_iter().chain(arguments).map(Reply::Bulk).collect();
            prop_assert_eq!(read_reply(&mut &bytes[..]).unwrap(), Reply::Array(expected));
        }
    }
}
