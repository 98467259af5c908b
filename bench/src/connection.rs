//! A blocking socket to a server, over a Unix socket or TCP: what the clients of the peers share.
//!
//! A client here is as lean as one can be: one write and one read for a request that fits a
//! buffer, no copy that is not needed, no library. What is measured is the server and the kernel.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// For one answer.
const DEADLINE: Duration = Duration::from_secs(60);
/// Room for what a server sends at once.
const BUFFER_BYTES: usize = 64 << 10;

/// Where a server listens.
#[derive(Debug, Clone)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// A port of the loopback interface.
    Tcp(u16),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp(port) => write!(f, "127.0.0.1:{port}"),
        }
    }
}

impl std::str::FromStr for Address {
    type Err = crate::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Address::Unix(path.into()));
        }
        let port = text.strip_prefix("127.0.0.1:").ok_or("neither a Unix socket nor loopback")?;
        Ok(Address::Tcp(port.parse()?))
    }
}

#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.read(buffer),
            Stream::Tcp(stream) => stream.read(buffer),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<Stream>,
    line: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub fn open(address: &Address) -> io::Result<Connection> {
        let stream = match address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(DEADLINE))?;
                Stream::Unix(stream)
            }
            Address::Tcp(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(DEADLINE))?;
                Stream::Tcp(stream)
            }
        };
        let stream = BufReader::with_capacity(BUFFER_BYTES, stream);
        Ok(Connection { stream, line: Vec::new() })
    }

    /// Another handle on the same connection: one sends, the other one receives.
    pub fn try_clone(&self) -> io::Result<Connection> {
        let stream = match self.stream.get_ref() {
            Stream::Unix(stream) => Stream::Unix(stream.try_clone()?),
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone()?),
        };
        let stream = BufReader::with_capacity(BUFFER_BYTES, stream);
        Ok(Connection { stream, line: Vec::new() })
    }

    /// Sends everything.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.stream.get_mut() {
            Stream::Unix(stream) => stream.write_all(bytes),
            Stream::Tcp(stream) => stream.write_all(bytes),
        }
    }

    /// The next line, without its end.
    pub fn line(&mut self) -> io::Result<&[u8]> {
        self.line.clear();
        self.stream.read_until(b'\n', &mut self.line)?;
        self.line.strip_suffix(b"\r\n").ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Fills `buffer`.
    pub fn exactly(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.stream.read_exact(buffer)
    }
}

/// A number in decimal digits, as text protocols have it.
pub fn number(digits: &[u8]) -> io::Result<usize> {
    let text = std::str::from_utf8(digits).ok();
    text.and_then(|text| text.parse().ok()).ok_or_else(|| garbled(digits))
}

/// An answer that the protocol does not have here.
pub fn garbled(answer: &[u8]) -> io::Error {
    let text = format!("unexpected answer: {:?}", String::from_utf8_lossy(answer));
    io::Error::new(io::ErrorKind::InvalidData, text)
}
