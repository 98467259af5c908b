//! A server of a test's own making: it answers every command with what a closure says.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::{BufReader, Write};
use std::net::{Shutdown, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;

use super::client::{Reply, read_reply};
use crate::net::listen::Address;

pub(crate) type Request = Vec<Vec<u8>>;

/// Listens until the process ends.
pub(crate) struct Fake {
    pub(crate) address: Address,
    /// Every command that came, over all connections.
    pub(crate) seen: Arc<Mutex<Vec<Request>>>,
}

impl Fake {
    /// `answer` gets the number of the command on its connection and the command; `None` closes
    /// the connection.
    pub(crate) fn start(
        answer: impl Fn(usize, &Request) -> Option<String> + Send + Sync + 'static,
    ) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().into();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer) = (Arc::clone(&seen), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
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
        Fake { address, seen }
    }
}

/// A bulk string of text.
pub(crate) fn bulk(bytes: &[u8]) -> String {
    format!("${}\r\n{}\r\n", bytes.len(), String::from_utf8_lossy(bytes))
}
