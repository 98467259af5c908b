//! The smallest HTTP client: one GET, one answer, over a Unix socket.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::SOON;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// 200 and the like.
    pub status: u16,
    /// As it came, names in lower case.
    pub headers: String,
    /// The rest.
    pub body: String,
}

/// `GET path`.
pub fn get(socket: &Path, path: &str) -> io::Result<Response> {
    request(socket, "GET", path)
}

/// Any method without a body.
pub fn request(socket: &Path, method: &str, path: &str) -> io::Result<Response> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut heard = String::new();
    stream.read_to_string(&mut heard)?;
    parse(&heard).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, heard))
}

fn parse(heard: &str) -> Option<Response> {
    let (head, body) = heard.split_once("\r\n\r\n")?;
    let (line, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    let status = line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some(Response { status, headers: headers.to_ascii_lowercase(), body: body.to_owned() })
}
