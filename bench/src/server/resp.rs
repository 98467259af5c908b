//! The Redis protocol, as far as SET and GET need it: for Redis, and for Quicksilver's writers.

use std::io::{self, Write};

use super::Get;
use crate::connection::{Address, Connection, garbled, number};

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

    /// Another handle on the same connection: one sends, the other one takes the answers.
    pub fn try_clone(&self) -> io::Result<Client> {
        Ok(Client { connection: self.connection.try_clone()?, request: Vec::new() })
    }

    /// Sends one SET without waiting for its answer.
    pub fn send_set(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.request.clear();
        append(&mut self.request, &[b"SET", key, value]);
        self.connection.send(&self.request)
    }

    /// The answer to the oldest SET that has none yet.
    pub fn take_ok(&mut self) -> io::Result<()> {
        match self.connection.line()? {
            b"+OK" => Ok(()),
            other => Err(garbled(other)),
        }
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
                append(&mut self.request, &[b"SET", key.as_ref(), value.as_ref()]);
                sent += 1;
            }
            self.connection.send(&self.request)?;
            (0..sent).try_for_each(|_| self.take_ok())?;
        }
        Ok(())
    }

    /// Sends a GET for each of the keys in one piece and takes all answers; how many there were.
    pub fn get_pipelined<'k>(
        &mut self,
        keys: impl Iterator<Item = &'k [u8]>,
        buffer: &mut Vec<u8>,
    ) -> io::Result<u64> {
        self.request.clear();
        let mut sent = 0;
        for key in keys {
            append(&mut self.request, &[b"GET", key]);
            sent += 1;
        }
        self.connection.send(&self.request)?;
        let mut found = 0;
        for _ in 0..sent {
            found += u64::from(self.take_value(buffer)?);
        }
        Ok(found)
    }

    fn take_value(&mut self, buffer: &mut Vec<u8>) -> io::Result<bool> {
        let length = match self.connection.line()? {
            b"$-1" => return Ok(false),
            [b'$', digits @ ..] => number(digits)?,
            other => return Err(garbled(other)),
        };
        buffer.resize(length + 2, 0);
        self.connection.exactly(buffer)?;
        buffer.truncate(length);
        Ok(true)
    }
}

impl Get for Client {
    fn get(&mut self, key: &[u8], buffer: &mut Vec<u8>) -> io::Result<bool> {
        self.request.clear();
        append(&mut self.request, &[b"GET", key]);
        self.connection.send(&self.request)?;
        self.take_value(buffer)
    }
}

fn append(request: &mut Vec<u8>, arguments: &[&[u8]]) {
    // Writing to a Vec cannot fail.
    let _ = write!(request, "*{}\r\n", arguments.len());
    for argument in arguments {
        let _ = write!(request, "${}\r\n", argument.len());
        request.extend_from_slice(argument);
        request.extend_from_slice(b"\r\n");
    }
}
