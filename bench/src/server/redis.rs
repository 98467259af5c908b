//! Redis: the best known way to ask another process for a value.

use std::process::Command;

use super::resp::Client;
use super::{Get, Server, free_port, socket_in};
use crate::Result;
use crate::connection::Address;

/// The Debian package.
pub const PACKAGE: &str = "redis-server";
/// The program.
pub const PROGRAM: &str = "redis-server";

/// A Redis that listens on a Unix socket and on a port.
#[derive(Debug)]
pub struct Redis {
    /// Its process.
    pub server: Server,
    /// Its Unix socket.
    pub unix: Address,
    /// Its port.
    pub tcp: Address,
}

impl Redis {
    /// Starts one with an append-only file that is synced each second, and `more` options.
    pub fn start(more: &[&str]) -> Result<Redis> {
        let port = free_port()?;
        let server = Server::start(
            |dir| {
                let mut command = Command::new(PROGRAM);
                command.args(["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]);
                command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
                command.arg("--unixsocket").arg(socket_in(dir)).arg("--dir").arg(dir).args(more);
                command
            },
            |dir| {
                let client = Client::connect(&Address::Unix(socket_in(dir)));
                client.and_then(|mut client| client.get(b"-", &mut Vec::new())).is_ok()
            },
        )?;
        let unix = Address::Unix(socket_in(server.dir()));
        Ok(Redis { server, unix, tcp: Address::Tcp(port) })
    }
}
