//! The systems that are read and written: each is started empty, given the 20 pairs, and gone when
//! its handle is.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use quicksilver::{Index, Reader};
use quicksilver_bench::Result;
use quicksilver_bench::connection::Address;
use quicksilver_bench::histogram::Histogram;
use quicksilver_bench::peer::Dialogue;
use quicksilver_bench::server::{Get, etcd, redis, resp};
use quicksilver_tests::process::is_installed;
use quicksilver_tests::{Cluster, poll};
use tempfile::TempDir;

use crate::reading::{self, Latencies, Loop, PAIRS, READS_PER_SECOND};
use crate::writing::{KEYS, Protocol, VALUE_BYTES};

/// Bytes of log that the root keeps: the disk is bounded, and collecting it is part of the work.
const LOG_BYTES: u64 = 128 << 20;
/// For the 20 pairs to be readable.
const ARRIVAL: Duration = Duration::from_secs(10);
/// For all keys of the writers to be written once.
const FILL: Duration = Duration::from_secs(120);

/// Which system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    /// Plain LMDB, one durable commit for each value: the yardstick, so it comes first.
    Lmdb,
    /// A root, and this process reads its memory.
    Quicksilver { window_ms: u64, in_flight: u64 },
    /// Append-only file synced each second, Unix socket.
    Redis { in_flight: u64 },
    /// One member, gRPC over TCP, serializable reads.
    Etcd { in_flight: u64 },
}

impl System {
    pub(crate) fn name(self) -> String {
        match self {
            System::Lmdb => "LMDB, a durable commit per value".into(),
            System::Quicksilver { window_ms, in_flight } => {
                format!("Quicksilver, window {window_ms} ms, {in_flight} in flight")
            }
            System::Redis { .. } => "Redis, synced each second, Unix socket".into(),
            System::Etcd { .. } => "etcd, gRPC, serializable".into(),
        }
    }

    /// The Debian package that is missing, if it is.
    pub(crate) fn missing(self) -> Option<&'static str> {
        let (program, package) = match self {
            System::Lmdb | System::Quicksilver { .. } => return None,
            System::Redis { .. } => (redis::PROGRAM, redis::PACKAGE),
            System::Etcd { .. } => (etcd::PROGRAM, etcd::PACKAGE),
        };
        (!is_installed(program)).then_some(package)
    }

    /// Starts it. `lmdb` is the compiled peer.
    pub(crate) fn start(self, lmdb: &Path) -> Result<Running> {
        match self {
            System::Lmdb => plain_lmdb(lmdb),
            System::Quicksilver { window_ms, in_flight } => quicksilver(window_ms, in_flight),
            System::Redis { in_flight } => redis(in_flight),
            System::Etcd { in_flight } => etcd(in_flight),
        }
    }
}

/// A started system.
pub(crate) struct Running {
    reads: Reads,
    writers: Writers,
    /// Whatever has to live as long.
    _alive: Box<dyn std::any::Any>,
}

enum Reads {
    /// By this process: the number of a pair, read.
    Here(Box<dyn FnMut(usize) -> Result<()>>),
    /// By the peer in C, which has the same loops.
    Peer(Dialogue),
}

enum Writers {
    Lmdb { program: PathBuf, dir: PathBuf },
    Server { protocol: Protocol, address: Address, in_flight: u64 },
}

impl Running {
    /// Reads for so long.
    pub(crate) fn read(&mut self, kind: Loop, length: Duration) -> Result<Latencies> {
        let seconds = length.as_secs_f64();
        match &mut self.reads {
            Reads::Here(read) => reading::run(kind, length, read),
            Reads::Peer(peer) => {
                let question = match kind {
                    Loop::Closed => format!("closed {seconds}"),
                    Loop::Open => format!("open {seconds} {READS_PER_SECOND}"),
                };
                let reads = Histogram::parse(&peer.ask(&question)?)?;
                Ok(Latencies { reads, wakeups: Histogram::parse(&peer.ask("wakeups")?)? })
            }
        }
    }

    /// Lets so many writers write all their keys once, so that what is read without writers lies
    /// in a database of the same size as what is read beside them.
    pub(crate) fn fill(&self, writers: usize) -> Result<()> {
        let mut writers: Vec<Dialogue> =
            (1..=writers).map(|number| self.writer(number)).collect::<Result<_>>()?;
        let full = || {
            let counts = writers.iter_mut().map(|writer| writer.ask("count"));
            match counts.collect::<Result<Vec<_>>>() {
                Ok(counts) => counts.iter().flatten().all(|&c| c >= KEYS).then_some(Ok(())),
                Err(error) => Some(Err(error)),
            }
        };
        poll(FILL, full).unwrap_or_else(|| Err("the writers are too slow".into()))
    }

    /// Starts a writer with this number.
    pub(crate) fn writer(&self, number: usize) -> Result<Dialogue> {
        let number = number.to_string();
        match &self.writers {
            Writers::Lmdb { program, dir } => {
                let mut command = Command::new(program);
                command.arg("write").arg(dir).arg(&number);
                Dialogue::start(command.args([KEYS.to_string(), VALUE_BYTES.to_string()]))
            }
            Writers::Server { protocol, address, in_flight } => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["--writer", protocol.name(), &address.to_string(), &number]);
                Dialogue::start(command.arg(in_flight.to_string()))
            }
        }
    }
}

fn keys() -> impl Iterator<Item = [u8; 2]> {
    (0..PAIRS as u8).map(|number| [b'0' + number / 10, b'0' + number % 10])
}

fn pairs() -> impl Iterator<Item = ([u8; 2], [u8; 2])> {
    keys().map(|key| (key, key))
}

fn plain_lmdb(program: &Path) -> Result<Running> {
    let dir = TempDir::new()?;
    let status = Command::new(program).arg("create").arg(dir.path()).status()?;
    if !status.success() {
        return Err("the LMDB peer could not create its environment".into());
    }
    let reads = Reads::Peer(Dialogue::start(Command::new(program).arg("read").arg(dir.path()))?);
    let writers = Writers::Lmdb { program: program.to_owned(), dir: dir.path().to_owned() };
    Ok(Running { reads, writers, _alive: Box::new(dir) })
}

fn quicksilver(window_ms: u64, in_flight: u64) -> Result<Running> {
    let mut cluster = Cluster::new();
    let root = cluster.root("root");
    root.set_literal("batch.window_ms", window_ms).set_literal("retention.bytes", LOG_BYTES);
    root.set_literal("root.heartbeat_ms", 1000);
    cluster.start_all();
    let root = cluster.node("root");
    let address = Address::Unix(root.socket("client"));
    resp::Client::connect(&address)?.set_all(pairs())?;
    let reader = Reader::open(root.data_dir())?;
    if reader.wait_for(Index::new(PAIRS as u64), ARRIVAL)?.get() < PAIRS as u64 {
        return Err("the pairs did not arrive".into());
    }
    let keys: Vec<_> = keys().collect();
    let reads = Reads::Here(Box::new(move |number| {
        let read = reader.get_with(&keys[number], |value| black_box(value.first().copied()))?;
        read.map(drop).ok_or_else(|| "a pair is missing".into())
    }));
    let writers = Writers::Server { protocol: Protocol::Resp, address, in_flight };
    Ok(Running { reads, writers, _alive: Box::new(cluster) })
}

fn redis(in_flight: u64) -> Result<Running> {
    let server = redis::Redis::start(&[])?;
    let mut client = resp::Client::connect(&server.unix)?;
    client.set_all(pairs())?;
    let (keys, mut buffer): (Vec<_>, _) = (keys().collect(), Vec::new());
    let reads =
        Reads::Here(Box::new(move |number| match client.get(&keys[number], &mut buffer)? {
            true => Ok(()),
            false => Err("a pair is missing".into()),
        }));
    let address = server.unix.clone();
    let writers = Writers::Server { protocol: Protocol::Resp, address, in_flight };
    Ok(Running { reads, writers, _alive: Box::new(server) })
}

fn etcd(in_flight: u64) -> Result<Running> {
    let server = etcd::Etcd::start()?;
    let mut client = etcd::Client::connect(&server.tcp)?;
    client.put_all(pairs())?;
    let (keys, mut buffer): (Vec<_>, _) = (keys().collect(), Vec::new());
    let reads =
        Reads::Here(Box::new(move |number| match client.get(&keys[number], &mut buffer)? {
            true => Ok(()),
            false => Err("a pair is missing".into()),
        }));
    let address = server.tcp.clone();
    let writers = Writers::Server { protocol: Protocol::Etcd, address, in_flight };
    Ok(Running { reads, writers, _alive: Box::new(server) })
}
