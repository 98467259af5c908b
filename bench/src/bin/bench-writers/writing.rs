//! A writer, in a process of its own: `bench-writers --writer PROTOCOL ADDRESS NUMBER IN_FLIGHT`.
//!
//! It keeps so many writes in flight for ever, and answers every line on its standard input with
//! how many have been acknowledged. The end of its input ends it.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{io, process, thread};

use quicksilver_bench::Result;
use quicksilver_bench::clock::monotonic_ns;
use quicksilver_bench::connection::Address;
use quicksilver_bench::dataset::Rng;
use quicksilver_bench::server::{etcd, resp};

/// Bytes of a value.
pub(crate) const VALUE_BYTES: usize = 40_000;
/// Keys of one writer: what bounds the disk.
pub(crate) const KEYS: u64 = 512;
/// Random bytes from which values are cut at random places: none is like another, and making one
/// costs nothing.
const POOL_BYTES: usize = 1 << 20;

/// How writes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Resp,
    Etcd,
}

impl Protocol {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Protocol::Resp => "resp",
            Protocol::Etcd => "etcd",
        }
    }
}

/// The writer's end of a connection.
trait Writes {
    fn send(&mut self, key: &[u8], value: &[u8]) -> io::Result<()>;
    fn take(&mut self) -> io::Result<()>;
}

impl Writes for resp::Client {
    fn send(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.send_set(key, value)
    }

    fn take(&mut self) -> io::Result<()> {
        self.take_ok()
    }
}

impl Writes for etcd::Client {
    fn send(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.send_put(key, value)
    }

    fn take(&mut self) -> io::Result<()> {
        self.take_put()
    }
}

fn write_for_ever(
    mut server: Box<dyn Writes>,
    [number, seed, in_flight]: [u64; 3],
    acknowledged: &AtomicU64,
) -> io::Result<()> {
    // Other values than the last run's: writing what is there already would be no work.
    let mut rng = Rng::new(seed);
    let pool: Vec<u8> = (0..POOL_BYTES + VALUE_BYTES).map(|_| rng.next_u64() as u8).collect();
    for sent in 0u64.. {
        let key = format!("w{number}-{}", sent % KEYS);
        let at = rng.below(POOL_BYTES as u64) as usize;
        server.send(key.as_bytes(), &pool[at..at + VALUE_BYTES])?;
        if sent + 1 >= in_flight {
            server.take()?;
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Runs the writer that the arguments after `--writer` describe.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let [protocol, address, number, in_flight] = arguments else {
        return Err("usage: --writer PROTOCOL ADDRESS NUMBER IN_FLIGHT".into());
    };
    let (number, in_flight) = (number.parse()?, in_flight.parse()?);
    let seed = monotonic_ns()?;
    let address: Address = address.parse()?;
    let server: Box<dyn Writes + Send> = match protocol.as_str() {
        "resp" => Box::new(resp::Client::connect(&address)?),
        _ => Box::new(etcd::Client::connect(&address)?),
    };
    let acknowledged = Arc::new(AtomicU64::new(0));
    let shared = acknowledged.clone();
    thread::spawn(move || {
        if let Err(error) = write_for_ever(server, [number, seed, in_flight], &shared) {
            eprintln!("writer {number}: {error}");
            process::exit(1);
        }
    });
    for line in io::stdin().lock().lines() {
        line?;
        let mut out = io::stdout();
        writeln!(out, "{}", acknowledged.load(Ordering::Relaxed))?;
        out.flush()?;
    }
    // Whatever is in flight is cut off: nobody counts it.
    process::exit(0);
}
