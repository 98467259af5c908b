//! etcd, one member, over gRPC: the service that most fleets keep their configuration in.
//!
//! The few messages that are needed are written and read by hand (`etcd/rpc.proto`).

use std::io;
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::grpc::Channel;
use super::{Get, Server, free_port};
use crate::Result;
use crate::connection::Address;

/// The Debian package.
pub const PACKAGE: &str = "etcd-server";
/// The program.
pub const PROGRAM: &str = "etcd";

/// Operations that a transaction may have by default.
const TXN_OPS: usize = 128;
/// More than what etcd waits before it commits, 100 ms.
const COMMITTED: Duration = Duration::from_millis(300);
/// Bytes of its database.
const QUOTA_BYTES: u64 = 8 << 30;

/// An etcd that listens on a port.
#[derive(Debug)]
pub struct Etcd {
    /// Its process.
    pub server: Server,
    /// Where clients connect.
    pub tcp: Address,
}

impl Etcd {
    /// Starts one. Revisions before the last thousand are compacted away, every five minutes.
    pub fn start() -> Result<Etcd> {
        let (client_port, peer_port) = (free_port()?, free_port()?);
        let tcp = Address::Tcp(client_port);
        let (client, peer) =
            (format!("http://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{peer_port}"));
        let server = Server::start(
            |dir| {
                let mut command = Command::new(PROGRAM);
                command.args(["--name", "bench", "--data-dir"]).arg(dir.join("data"));
                command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
                command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
                command.args(["--initial-cluster", &format!("bench={peer}")]);
                command.args(["--quota-backend-bytes", &QUOTA_BYTES.to_string()]);
                command.args(["--auto-compaction-mode", "revision"]);
                command.args(["--auto-compaction-retention", "1000"]);
                command
            },
            |_| {
                let client = Client::connect(&tcp);
                client.and_then(|mut client| client.get(b"-", &mut Vec::new())).is_ok()
            },
        )?;
        Ok(Etcd { server, tcp })
    }
}

/// A client.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
    request: Vec<u8>,
}

impl Client {
    /// Connects.
    pub fn connect(address: &Address) -> io::Result<Client> {
        Ok(Client { channel: Channel::connect(address)?, request: Vec::new() })
    }

    /// Sends one Put without waiting for its answer.
    pub fn send_put(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.request.clear();
        field(&mut self.request, 1, key);
        field(&mut self.request, 2, value);
        self.channel.send("/etcdserverpb.KV/Put", &self.request)
    }

    /// The answer to the oldest Put that has none yet.
    pub fn take_put(&mut self) -> io::Result<()> {
        self.channel.take().map(drop)
    }

    /// Puts every pair, many in a transaction.
    pub fn put_all<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> io::Result<()> {
        const UNDER_WAY: usize = 32;
        let mut pairs = pairs.into_iter().peekable();
        let mut under_way = 0;
        while pairs.peek().is_some() {
            self.request.clear();
            for (key, value) in pairs.by_ref().take(TXN_OPS) {
                // TxnRequest.success = 2, RequestOp.request_put = 2.
                let mut put = Vec::new();
                field(&mut put, 1, key.as_ref());
                field(&mut put, 2, value.as_ref());
                let mut op = Vec::new();
                field(&mut op, 2, &put);
                field(&mut self.request, 2, &op);
            }
            self.channel.send("/etcdserverpb.KV/Txn", &self.request)?;
            under_way += 1;
            if under_way == UNDER_WAY {
                self.take_put()?;
                under_way -= 1;
            }
        }
        (0..under_way).try_for_each(|_| self.take_put())?;
        self.let_go_of_buffers()
    }

    /// For every read this etcd copies a buffer that stays as large as its largest batch of writes
    /// was, 650 kB after a bulk load, until a commit without pairs lets go of it. A lease is one.
    fn let_go_of_buffers(&mut self) -> io::Result<()> {
        thread::sleep(COMMITTED);
        // LeaseGrantRequest.TTL = 1, a varint: seconds.
        self.channel.call("/etcdserverpb.Lease/LeaseGrant", &[1 << 3, 60])?;
        thread::sleep(COMMITTED);
        Ok(())
    }
}

/// Who is told when a key changes.
#[derive(Debug)]
pub struct Watch(Channel);

impl Watch {
    /// Of one key, from now on.
    pub fn begin(address: &Address, key: &[u8]) -> io::Result<Watch> {
        // WatchRequest.create_request = 1, WatchCreateRequest.key = 1.
        let (mut create, mut request) = (Vec::new(), Vec::new());
        field(&mut create, 1, key);
        field(&mut request, 1, &create);
        let mut channel = Channel::connect(address)?;
        channel.open("/etcdserverpb.Watch/Watch", &request)?;
        // It says that it watches.
        channel.message()?;
        Ok(Watch(channel))
    }

    /// The values of the next changes: several, when they came together.
    pub fn changes(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let answer = self.0.message()?;
        // WatchResponse.events = 11, Event.kv = 2, KeyValue.value = 5.
        let values = find_all(&answer, 11).filter_map(|event| find(find(event, 2)?, 5));
        Ok(values.map(<[u8]>::to_vec).collect())
    }
}

impl Get for Client {
    /// As this member has it (serializable).
    fn get(&mut self, key: &[u8], buffer: &mut Vec<u8>) -> io::Result<bool> {
        self.request.clear();
        field(&mut self.request, 1, key);
        // serializable = 7, a varint: true.
        self.request.extend_from_slice(&[7 << 3, 1]);
        let answer = self.channel.call("/etcdserverpb.KV/Range", &self.request)?;
        // RangeResponse.kvs = 2, KeyValue.value = 5.
        let Some(pair) = find(&answer, 2) else { return Ok(false) };
        buffer.clear();
        buffer.extend_from_slice(find(pair, 5).unwrap_or_default());
        Ok(true)
    }
}

/// Appends a field that is bytes.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}

/// The first field of that number that is bytes.
fn find(message: &[u8], number: u64) -> Option<&[u8]> {
    find_all(message, number).next()
}

/// All fields of that number that are bytes.
fn find_all(mut message: &[u8], number: u64) -> impl Iterator<Item = &[u8]> {
    let fields = std::iter::from_fn(move || {
        while !message.is_empty() {
            let tag = varint(&mut message)?;
            match tag & 7 {
                0 => drop(varint(&mut message)?),
                2 => {
                    let length = usize::try_from(varint(&mut message)?).ok()?;
                    let (bytes, rest) = message.split_at_checked(length)?;
                    message = rest;
                    return Some((tag >> 3, bytes));
                }
                _ => return None,
            }
        }
        None
    });
    fields.filter(move |(found, _)| *found == number).map(|(_, bytes)| bytes)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = message.split_first()?;
        *message = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_again() {
        let mut pair = vec![3 << 3, 0x96, 0x01];
        field(&mut pair, 5, &[7; 300]);
        let mut message = Vec::new();
        field(&mut message, 1, b"header");
        field(&mut message, 2, &pair);
        assert_eq!(find(&message, 2).and_then(|pair| find(pair, 5)), Some(&[7; 300][..]));
        field(&mut message, 2, b"again");
        assert_eq!(find_all(&message, 2).last(), Some(&b"again"[..]));
        assert_eq!(find(&message, 3), None);
        assert_eq!(find(&[2 << 3 | 2, 9, 1], 2), None);
    }
}
