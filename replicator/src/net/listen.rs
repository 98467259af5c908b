//! Streams, listeners, and the sockets that systemd hands over.
//!
//! Invariants:
//! * a Unix socket file is removed only when it is a socket and nobody answers on it;
//! * every accepted or connected TCP stream has TCP_NODELAY: the protocols send whole messages;
//! * handed-over sockets are taken once, by name, and none is ever ignored.
//!
//! [`check_plaintext`] is the one rule about what may be heard over a network, for configured
//! addresses and handed-over sockets alike.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use quicksilver_format::Address;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Owner and group may connect.
const UNIX_MODE: u32 = 0o660;
/// After an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
}

impl Stream {
    /// Connects. The caller sets the deadline.
    pub async fn connect(address: &Address) -> io::Result<Stream> {
        match address {
            Address::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Address::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
        }
    }

    /// The other end, for logs and status.
    pub fn peer(&self) -> String {
        match self {
            Stream::Tcp(stream) => {
                stream.peer_addr().map_or_else(|_| "tcp:?".to_owned(), |peer| peer.to_string())
            }
            Stream::Unix(stream) => {
                match stream.peer_cred().ok().and_then(|credentials| credentials.pid()) {
                    Some(pid) => format!("unix:pid={pid}"),
                    None => "unix:?".to_owned(),
                }
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Tcp(stream) => stream.is_write_vectored(),
            Stream::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// Unix.
    Unix(UnixListener),
}

impl Listener {
    /// Binds. A Unix socket file on which nobody answers is replaced; one that is alive is
    /// `AddrInUse`.
    pub async fn bind(address: &Address) -> io::Result<Listener> {
        match address {
            Address::Tcp { host, port } => {
                Ok(Listener::Tcp(TcpListener::bind((host.as_str(), *port)).await?))
            }
            Address::Unix(path) => {
                let listener = match UnixListener::bind(path) {
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                        remove_stale_socket(path).await?;
                        UnixListener::bind(path)?
                    }
                    other => other?,
                };
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(UNIX_MODE))?;
                Ok(Listener::Unix(listener))
            }
        }
    }

    /// The next connection.
    pub async fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Listener::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }

    /// The next connection, whatever it takes: an error (usually: no more file descriptors) is
    /// logged, and after a pause it is tried again.
    pub async fn accept_patiently(&self) -> Stream {
        loop {
            match self.accept().await {
                Ok(stream) => return stream,
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Where it listens: the real port when the address asked for port 0.
    pub fn local_address(&self) -> io::Result<Address> {
        match self {
            Listener::Tcp(listener) => Ok(listener.local_addr()?.into()),
            Listener::Unix(listener) => {
                let address = listener.local_addr()?;
                Ok(Address::Unix(address.as_pathname().unwrap_or(Path::new("")).to_owned()))
            }
        }
    }
}

async fn remove_stale_socket(path: &Path) -> io::Result<()> {
    let in_use = || io::Error::new(io::ErrorKind::AddrInUse, "another process listens there");
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        let what = "the path exists and is no socket";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        _ => Err(in_use()),
    }
}

/// What a socket is for; also its name in systemd's `FileDescriptorName=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketName {
    /// Downstreams.
    Replication,
    /// Clients, RESP.
    Client,
    /// Operators, HTTP.
    Http,
}

impl SocketName {
    const ALL: [SocketName; 3] = [SocketName::Replication, SocketName::Client, SocketName::Http];

    /// The name as `FileDescriptorName=` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            SocketName::Replication => "replication",
            SocketName::Client => "client",
            SocketName::Http => "http",
        }
    }
}

/// A socket that anyone on a network would reach, without the operator's leave.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the {} socket \"{address}\" {}; listen on loopback or a Unix socket, or set \
     insecure.plaintext = true to allow it",
    name.as_str(),
    risk(*name)
)]
pub struct ExposedSocket {
    name: SocketName,
    address: Address,
}

fn risk(name: SocketName) -> &'static str {
    match name {
        SocketName::Client => {
            "speaks plain text and asks for no password: anyone who reaches it may read and write"
        }
        SocketName::Replication | SocketName::Http => {
            "would carry data in plain text over a network: anyone who reaches it gets a copy"
        }
    }
}

/// Whether a socket may be listened on: what carries data leaves the machine in plain text only
/// where that was `allowed` (`insecure.plaintext`). HTTP carries no data.
pub fn check_plaintext(
    name: SocketName,
    address: &Address,
    allowed: bool,
) -> Result<(), ExposedSocket> {
    match name {
        SocketName::Http => Ok(()),
        _ if allowed || address.is_local() => Ok(()),
        _ => Err(ExposedSocket { name, address: address.clone() }),
    }
}

/// Sockets that were handed over and cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    /// The number of names is not the number of sockets.
    #[error(
        "sockets handed over: {sockets}, names in LISTEN_FDNAMES: {names}; set \
         FileDescriptorName=replication, client or http in each .socket unit"
    )]
    Unnamed {
        /// Sockets.
        sockets: usize,
        /// Names.
        names: usize,
    },
    /// A name that means nothing here.
    #[error(
        "a socket named {name:?} was handed over; set FileDescriptorName=replication, client or \
         http in its .socket unit"
    )]
    UnknownName {
        /// The name.
        name: String,
    },
    /// Not a listening stream socket.
    #[error(
        "the socket named {name:?} that was handed over is no listening TCP or Unix socket: {source}"
    )]
    WrongKind {
        /// The name.
        name: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

#[derive(Debug)]
enum HandedOver {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// The sockets that systemd (or systemd-socket-activate) handed over.
#[derive(Debug, Default)]
pub struct Sockets {
    held: Vec<(SocketName, HandedOver)>,
}

impl Sockets {
    /// Takes them. Call it once, before any thread starts: it clears environment variables, and
    /// a second call finds none.
    pub fn take() -> Result<Sockets, SocketsError> {
        // listenfd ignores the names and clears the variables: read them first.
        let names = std::env::var("LISTEN_FDNAMES").ok();
        let mut fds = listenfd::ListenFd::from_env();
        let names = socket_names(names.as_deref(), fds.len())?;
        let mut held = Vec::with_capacity(names.len());
        for (position, name) in names.into_iter().enumerate() {
            let wrong = |source| SocketsError::WrongKind { name: name.as_str(), source };
            let socket = match fds.take_tcp_listener(position) {
                Ok(Some(listener)) => HandedOver::Tcp(listener),
                Ok(None) => continue,
                Err(_) => match fds.take_unix_listener(position).map_err(wrong)? {
                    Some(listener) => HandedOver::Unix(listener),
                    None => continue,
                },
            };
            held.push((name, socket));
        }
        Ok(Sockets { held })
    }

    /// Whether any were handed over that have not been used yet.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Where a handed-over socket can be reached, for others to be told; none when that is wherever
    /// this machine has an address.
    pub fn address(&self, name: SocketName) -> Option<Address> {
        self.held.iter().filter(|held| held.0 == name).find_map(|(_, socket)| match socket {
            HandedOver::Tcp(listener) => {
                listener.local_addr().ok().filter(|a| !a.ip().is_unspecified()).map(Address::from)
            }
            HandedOver::Unix(listener) => {
                let address = listener.local_addr().ok()?;
                Some(Address::Unix(address.as_pathname()?.to_owned()))
            }
        })
    }

    /// The listeners for one purpose: those handed over under its name (there may be several),
    /// otherwise the configured address, bound now. Needs a runtime.
    pub async fn listeners(
        &mut self,
        name: SocketName,
        configured: Option<&Address>,
    ) -> io::Result<Vec<Listener>> {
        let (taken, rest) = std::mem::take(&mut self.held).into_iter().partition(|s| s.0 == name);
        self.held = rest;
        let taken: Vec<(SocketName, HandedOver)> = taken;
        if taken.is_empty() {
            return match configured {
                Some(address) => Ok(vec![bind_named(name, address).await?]),
                None => Ok(Vec::new()),
            };
        }
        taken.into_iter().map(|(_, socket)| socket.into_listener()).collect()
    }
}

async fn bind_named(name: SocketName, address: &Address) -> io::Result<Listener> {
    Listener::bind(address).await.map_err(|error| {
        let what = format!("listen.{} = \"{address}\": {error}", name.as_str());
        io::Error::new(error.kind(), what)
    })
}

impl HandedOver {
    fn into_listener(self) -> io::Result<Listener> {
        match self {
            HandedOver::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                Ok(Listener::Tcp(TcpListener::from_std(listener)?))
            }
            HandedOver::Unix(listener) => {
                listener.set_nonblocking(true)?;
                Ok(Listener::Unix(UnixListener::from_std(listener)?))
            }
        }
    }
}

fn socket_names(names: Option<&str>, sockets: usize) -> Result<Vec<SocketName>, SocketsError> {
    if sockets == 0 {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = match names {
        Some(names) if !names.is_empty() => names.split(':').collect(),
        _ => Vec::new(),
    };
    if names.len() != sockets {
        return Err(SocketsError::Unnamed { sockets, names: names.len() });
    }
    let known = |name: &str| {
        SocketName::ALL
            .into_iter()
            .find(|known| known.as_str() == name)
            .ok_or_else(|| SocketsError::UnknownName { name: name.to_owned() })
    };
    names.into_iter().map(known).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn plain_text_leaves_the_machine_only_where_allowed() {
        let check = |name, address: &str, allowed| {
            check_plaintext(name, &address.parse().unwrap(), allowed).map_err(|e| e.to_string())
        };
        for name in [SocketName::Client, SocketName::Replication] {
            for local in ["127.0.0.1:1", "[::1]:1", "unix:/x"] {
                check(name, local, false).unwrap();
            }
            for exposed in ["0.0.0.0:7070", "[::]:7070", "10.0.0.1:7070"] {
                check(name, exposed, true).unwrap();
                let error = check(name, exposed, false).unwrap_err();
                assert!(error.contains(exposed) && error.contains("insecure.plaintext"), "{error}");
            }
        }
        assert!(check(SocketName::Client, "0.0.0.0:1", false).unwrap_err().contains("write"));
        check(SocketName::Http, "0.0.0.0:9100", false).unwrap();
    }

    #[test]
    fn handed_over_sockets_need_known_names() {
        let names = socket_names(Some("client:http:client"), 3).unwrap();
        assert_eq!(names, [SocketName::Client, SocketName::Http, SocketName::Client]);
        assert!(socket_names(None, 0).unwrap().is_empty());
        let error = socket_names(None, 1).unwrap_err().to_string();
        assert!(error.contains("FileDescriptorName="), "{error}");
        let error = socket_names(Some("quicksilverd.socket"), 1).unwrap_err().to_string();
        assert!(error.contains("quicksilverd.socket") && error.contains("FileDescriptorName="));
        assert!(matches!(
            socket_names(Some("client"), 2),
            Err(SocketsError::Unnamed { sockets: 2, names: 1 })
        ));
    }

    async fn echo_once(address: &Address) {
        let listener = Listener::bind(address).await.unwrap();
        let at = listener.local_address().unwrap();
        let mut client = Stream::connect(&at).await.unwrap();
        let mut server = listener.accept().await.unwrap();
        client.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        server.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        assert!(!server.peer().is_empty());
    }

    #[tokio::test]
    async fn streams_of_both_kinds() {
        echo_once(&"127.0.0.1:0".parse().unwrap()).await;
        let dir = tempfile::tempdir().unwrap();
        echo_once(&Address::Unix(dir.path().join("s"))).await;
    }

    #[tokio::test]
    async fn only_a_stale_socket_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let address = Address::Unix(path.clone());
        let alive = Listener::bind(&address).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, UNIX_MODE);
        let error = Listener::bind(&address).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(alive);
        Listener::bind(&address).await.unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, b"precious").unwrap();
        assert!(Listener::bind(&Address::Unix(file.clone())).await.is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn without_handed_over_sockets_the_configuration_counts() {
        let mut sockets = Sockets::default();
        let address = "127.0.0.1:0".parse().unwrap();
        let bound = sockets.listeners(SocketName::Client, Some(&address)).await.unwrap();
        assert_eq!(bound.len(), 1);
        assert!(sockets.listeners(SocketName::Http, None).await.unwrap().is_empty());
    }
}
