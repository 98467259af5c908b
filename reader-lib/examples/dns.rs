//! A tiny server that answers out of the database.
//!
//! ```text
//! dns [--once N] DIR
//! ```
//!
//! A datagram holds a name, such as example.org; the answer is the value of the key
//! zone/example.org, or NXDOMAIN. It prints the address that it listens on. With --once it answers
//! N questions and ends.
//!
//! ```text
//! cargo run --release -p quicksilver-kv --example dns -- /var/lib/quicksilver/dns &
//! echo example.org | nc -u -w1 127.0.0.1 PORT
//! ```

use std::error::Error;
use std::net::UdpSocket;

use quicksilver::Reader;

const QUESTION_MAX_BYTES: usize = 255;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [dir] => serve(dir, u64::MAX),
        ["--once", questions, dir] => serve(dir, questions.parse()?),
        _ => Err("usage: dns [--once N] DIR".into()),
    }
}

/// Answers so many questions.
fn serve(dir: &str, questions: u64) -> Result<(), Box<dyn Error>> {
    let reader = Reader::open(dir)?;
    let server = UdpSocket::bind("127.0.0.1:0")?;
    println!("listening on {}", server.local_addr()?);

    // The same memory for every question: reading allocates nothing.
    let (mut question, mut key, mut reply) = ([0; QUESTION_MAX_BYTES], Vec::new(), Vec::new());
    for _ in 0..questions {
        let (size, client) = server.recv_from(&mut question)?;
        key.clear();
        key.extend_from_slice(b"zone/");
        key.extend(question[..size].trim_ascii().to_ascii_lowercase());
        match reader.get_into(&key, &mut reply) {
            Ok(true) => {}
            Ok(false) => reply.extend_from_slice(b"NXDOMAIN"),
            // Say why, and go on: the next question may well have an answer.
            Err(e) => {
                eprintln!("dns: {}: {e}", key.escape_ascii());
                reply.clear();
                reply.extend_from_slice(b"SERVFAIL");
            }
        }
        if let Err(e) = server.send_to(&reply, client) {
            eprintln!("dns: {client}: {e}"); // a client that is gone
        }
    }
    Ok(())
}
