//! A server of a test's own making: it answers every command with what a closure says.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::{BufReader, Write};
use std::net::{Shutdown, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use quicksilver_format::Address;

use super::reply::{Reply, read_reply};

/// A command's arguments, its name first.
pub type Request = Vec<Vec<u8>>;

/// Listens until the process ends.
#[derive(Debug)]
pub struct Fake {
    /// Where.
    pub address: Address,
    /// Every command that came, over all connections.
    pub seen: Arc<Mutex<Vec<Request>>>,
    connections: Arc<AtomicUsize>,
}

impl Fake {
    /// `answer` gets the number of the command on its connection and the command; `None` closes
    /// the connection.
    pub fn start(
        answer: impl Fn(usize, &Request) -> Option<String> + Send + Sync + 'static,
    ) -> Fake {
        Fake::on(TcpListener::bind("127.0.0.1:0").unwrap(), answer)
    }

    /// As [`start`](Self::start), with a listener of the test's own.
    pub fn on(
        listener: TcpListener,
        answer: impl Fn(usize, &Request) -> Option<String> + Send + Sync + 'static,
    ) -> Fake {
        let address = listener.local_addr().unwrap().into();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (kept, answer) = (Arc::clone(&seen), Arc::new(answer));
        let counted = Arc::clone(&connections);
        thread::spawn(move || {
            for stream in listener.incoming() {
                counted.fetch_add(1, Ordering::SeqCst);
                let (mut stream, kept, answer) =
                    (stream.unwrap(), Arc::clone(&kept), Arc::clone(&answer));
                thread::spawn(move || {
                    let mut input = BufReader::new(stream.try_clone().unwrap());
                    for number in 0.. {
                        let Ok(Reply::Array(arguments)) = read_reply(&mut input) else { return };
                        let request: Request = arguments
                            .into_iter()
                            .map(|argument| match argument {
                                Reply::Bulk(bytes) => bytes,
                                other => panic!("{other:?}"),
                            })
                            .collect();
                        kept.lock().unwrap().push(request.clone());
                        let Some(reply) = answer(number, &request) else {
                            // Closing with unread input would reset the connection, and the
                            // replies on their way with it.
                            stream.shutdown(Shutdown::Write).unwrap();
                            let _ = std::io::copy(&mut input, &mut std::io::sink());
                            return;
                        };
                        if stream.write_all(reply.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Fake { address, seen, connections }
    }

    /// How many there were.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A bulk string of text.
pub fn bulk(bytes: &[u8]) -> String {
    format!("${}\r\n{}\r\n", bytes.len(), String::from_utf8_lossy(bytes))
}
