//! The servers that are measured beside Quicksilver: each is started here on loopback or a Unix
//! socket, in a temporary directory, and ends with its handle.

pub mod etcd;
pub mod grpc;
pub mod memcached;
pub mod redis;
pub mod resp;

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use quicksilver_tests::poll;
use quicksilver_tests::process::Process;
use tempfile::TempDir;

use crate::Result;

/// For a server to answer for the first time.
const START: Duration = Duration::from_secs(20);

/// A client that can be asked for one value.
pub trait Get {
    /// Gets a value into `buffer`; whether there is one.
    fn get(&mut self, key: &[u8], buffer: &mut Vec<u8>) -> io::Result<bool>;
}

/// A running server and its directory; both go with the handle.
#[derive(Debug)]
pub struct Server {
    process: Process,
    dir: TempDir,
}

impl Server {
    /// Starts what `command` makes of the directory, and waits until `answers` is content.
    fn start(
        command: impl FnOnce(&Path) -> Command,
        mut answers: impl FnMut(&Path) -> bool,
    ) -> Result<Server> {
        let dir = tempfile::Builder::new().prefix("qs-bench-").tempdir()?;
        let mut command = command(dir.path());
        let name = command.get_program().display().to_string();
        let process = Process::start(&mut command, &dir.path().join("log"));
        let mut server = Server { process, dir };
        let ready = poll(START, || {
            let ended = server.process.exited().is_some();
            (ended || answers(server.dir.path())).then_some(!ended)
        });
        match ready {
            Some(true) => Ok(server),
            _ => Err(format!("{name} does not answer:\n{}", server.process.log_text()).into()),
        }
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Moves all its threads to one core.
    pub fn pin(&self, core: usize) -> Result<()> {
        let mut taskset = Command::new("taskset");
        taskset.args(["-a", "-c", "-p", &core.to_string(), &self.pid().to_string()]);
        match taskset.output()?.status.success() {
            true => Ok(()),
            false => {
                Err(format!("process {} could not be moved to core {core}", self.pid()).into())
            }
        }
    }
}

fn socket_in(dir: &Path) -> PathBuf {
    dir.join("s")
}

/// A port that is free now. It may be taken in a moment; then the server says so and the run stops.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
