//! Redis: the best known way to ask another process for a value.

use std::process::Command;
use std::time::Duration;

use quicksilver_tests::poll;
use quicksilver_tests::resp::{self, Reply};

use super::resp::Client;
use super::{Get, Server, free_port, socket_in};
use crate::Result;
use crate::connection::Address;

/// The Debian package.
pub const PACKAGE: &str = "redis-server";
/// The program.
pub const PROGRAM: &str = "redis-server";

/// For a replica to follow.
const LINK: Duration = Duration::from_secs(30);

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

    /// One that keeps everything in memory and nothing on disk, and tells its replicas at once.
    pub fn in_memory(more: &[&str]) -> Result<Redis> {
        let options = ["--appendonly", "no", "--repl-diskless-sync-delay", "0"];
        Redis::start(&[&options, more].concat())
    }

    /// Makes it a replica of another one, and waits until it follows.
    pub fn follow(&self, master: &Redis) -> Result<()> {
        let Address::Tcp(port) = master.tcp else { return Err("a Redis without a port".into()) };
        let told = self.call(&["REPLICAOF", "127.0.0.1", &port.to_string()])?;
        if !told.is_ok() {
            return Err(format!("{told:?}").into());
        }
        let follows = || {
            let info = self.call(&["INFO", "replication"]).ok()?;
            info.text()?.contains("master_link_status:up").then_some(())
        };
        poll(LINK, follows).ok_or_else(|| "a Redis replica does not follow".into())
    }

    /// One command and its reply.
    pub fn call(&self, command: &[&str]) -> Result<Reply> {
        let Address::Unix(socket) = &self.unix else { return Err("a Redis without socket".into()) };
        Ok(resp::Client::connect(socket)?.call(command)?)
    }
}
