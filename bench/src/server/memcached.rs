//! memcached, over its text protocol: the leanest server there is, without durability.

use std::io::{self, Write};
use std::process::Command;

use super::{Get, Server, socket_in};
use crate::Result;
use crate::connection::{Address, Connection, garbled, number};

/// The Debian package.
pub const PACKAGE: &str = "memcached";
/// The program.
pub const PROGRAM: &str = "memcached";
/// Bytes it may use: enough for every data set here.
const MEMORY_MIB: &str = "2048";

/// A memcached that listens on a Unix socket.
#[derive(Debug)]
pub struct Memcached {
    /// Its process.
    pub server: Server,
    /// Its Unix socket.
    pub unix: Address,
}

impl Memcached {
    /// Starts one.
    pub fn start() -> Result<Memcached> {
        let server = Server::start(
            |dir| {
                let mut command = Command::new(PROGRAM);
                // As root it wants to be told that it may stay root; others ignore it.
                command.args(["-u", "root", "-t", "1", "-m", MEMORY_MIB]);
                command.arg("-s").arg(socket_in(dir));
                command
            },
            |dir| {
                let client = Client::connect(&Address::Unix(socket_in(dir)));
                client.and_then(|mut client| client.get(b"-", &mut Vec::new())).is_ok()
            },
        )?;
        let unix = Address::Unix(socket_in(server.dir()));
        Ok(Memcached { server, unix })
    }
}

/// A client.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    request: Vec<u8>,
}

impl Client {
    /// Connects.
    pub fn connect(address: &Address) -> io::Result<Client> {
        Ok(Client { connection: Connection::open(address)?, request: Vec::new() })
    }

    /// Makes every pair, many at a time.
    pub fn set_all<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> io::Result<()> {
        const AT_A_TIME: usize = 1000;
        let mut pairs = pairs.into_iter().peekable();
        while pairs.peek().is_some() {
            self.request.clear();
            let mut sent = 0;
            for (key, value) in pairs.by_ref().take(AT_A_TIME) {
                self.append_set(key.as_ref(), value.as_ref());
                sent += 1;
            }
            self.connection.send(&self.request)?;
            for _ in 0..sent {
                match self.connection.line()? {
                    b"STORED" => {}
                    other => return Err(garbled(other)),
                }
            }
        }
        Ok(())
    }

    fn append_set(&mut self, key: &[u8], value: &[u8]) {
        self.request.extend_from_slice(b"set ");
        self.request.extend_from_slice(key);
        // Writing to a Vec cannot fail.
        let _ = write!(self.request, " 0 0 {}\r\n", value.len());
        self.request.extend_from_slice(value);
        self.request.extend_from_slice(b"\r\n");
    }
}

impl Get for Client {
    fn get(&mut self, key: &[u8], buffer: &mut Vec<u8>) -> io::Result<bool> {
        self.request.clear();
        self.request.extend_from_slice(b"get ");
        self.request.extend_from_slice(key);
        self.request.extend_from_slice(b"\r\n");
        self.connection.send(&self.request)?;
        // `VALUE key flags bytes`, the value, `END`; or `END` alone.
        let line = self.connection.line()?;
        if line == b"END" {
            return Ok(false);
        }
        let length =
            match line.strip_prefix(b"VALUE ").and_then(|_| line.rsplit(|&b| b == b' ').next()) {
                Some(digits) => number(digits)?,
                None => return Err(garbled(line)),
            };
        buffer.resize(length + 2, 0);
        self.connection.exactly(buffer)?;
        buffer.truncate(length);
        match self.connection.line()? {
            b"END" => Ok(true),
            other => Err(garbled(other)),
        }
    }
}
