//! One read of a 100-byte value among a million keys: ours beside the servers that people use, and
//! beside what no server can reach, a hash map in the same process.
//!
//! `bench-peers [--keys N] [--rounds N] [--plots DIR] [--quick]`
//!
//! Every contestant holds the same pairs and is asked for the same uniform sequence of keys by one
//! closed-loop client: the next request goes out when the answer is there. The clients of the
//! servers are written by hand over a blocking socket (`server/`), so that no client library is
//! measured. A server that is not installed is left out and named.

use std::collections::HashMap;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use quicksilver::Reader;
use quicksilver_bench::dataset::{self, Distribution, KEY_BYTES, VALUE_BYTES};
use quicksilver_bench::peer::{self, Dialogue};
use quicksilver_bench::plot::{self, Bars};
use quicksilver_bench::server::{etcd, memcached, redis, resp};
use quicksilver_bench::stats::{Table, grouped, median};
use quicksilver_bench::{Result, flag, loader, option};
use quicksilver_format::layout::Generation;
use quicksilver_tests::process::is_installed;

/// Gets of one round in memory, and over a socket, where each takes a hundred times as long.
const GETS: usize = 200_000;
const SOCKET_GETS: usize = 10_000;
/// Requests that are sent in one piece, as `redis-benchmark -P 64` does.
const PIPELINE: usize = 64;
/// What one read of Redis has to cost at least, in reads of ours.
const TARGET: f64 = 30.0;

/// One of the systems, asked in one way.
struct Contestant {
    name: &'static str,
    /// How it is asked, for the table.
    client: &'static str,
    /// Makes a round of gets and says how many nanoseconds one took.
    round: Box<dyn FnMut() -> Result<f64>>,
    ns: Vec<f64>,
}

impl Contestant {
    /// One that is asked for key after key; `gets` makes all of a round and counts what it found.
    fn new(
        name: &'static str,
        client: &'static str,
        keys: &[u8],
        mut gets: impl FnMut(&[u8]) -> Result<u64> + 'static,
    ) -> Contestant {
        let keys = keys.to_vec();
        let round = move || {
            let start = Instant::now();
            let found = gets(&keys)?;
            let ns = start.elapsed().as_nanos() as f64;
            let wanted = (keys.len() / KEY_BYTES) as u64;
            match found == wanted {
                true => Ok(ns / wanted as f64),
                false => Err(format!("{name}: {found} of {wanted} keys found").into()),
            }
        };
        Contestant { name, client, round: Box::new(round), ns: Vec::new() }
    }

    fn median(&self) -> f64 {
        median(&self.ns)
    }
}

fn every(keys: &[u8]) -> impl Iterator<Item = &[u8]> {
    keys.chunks_exact(KEY_BYTES)
}

fn pairs(keys: u64) -> impl Iterator<Item = ([u8; KEY_BYTES], [u8; VALUE_BYTES])> {
    (0..keys).map(|number| (dataset::key(number), dataset::value(number)))
}

/// Ours, the library below it, and the hash map that is no database at all.
fn in_memory(dir: &Path, keys: u64, sequence: &[u8]) -> Result<Vec<Contestant>> {
    let file = dir.join("sequence");
    std::fs::write(&file, sequence)?;
    let program = peer::compile("read/peer.c", dir)?;
    let mut command = Command::new(program);
    command.arg(dir.join(Generation::FIRST.to_string())).arg(&file).arg(KEY_BYTES.to_string());
    let mut lmdb = Dialogue::start(&mut command)?;
    let plain = move || match lmdb.ask("renew")?[..] {
        [ns, found, _] if found == GETS as u64 => Ok(ns as f64 / found as f64),
        ref other => Err(format!("the peer answered {other:?}").into()),
    };
    let reader = Reader::open(dir)?;
    let in_place = reader.clone();
    let map: HashMap<_, _> = pairs(keys).collect();
    Ok(vec![
        Contestant::new("Quicksilver", "Reader::get_with, in place", sequence, move |keys| {
            let mut found = 0;
            for key in every(keys) {
                let read = in_place.get_with(key, |value| black_box(value.first().copied()))?;
                found += u64::from(read.is_some());
            }
            Ok(found)
        }),
        Contestant::new("Quicksilver", "Reader::get, a copy", sequence, move |keys| {
            let mut found = 0;
            for key in every(keys) {
                found += u64::from(black_box(reader.get(key)?).is_some());
            }
            Ok(found)
        }),
        Contestant {
            name: "LMDB",
            client: "mdb_get, renew and reset, C",
            round: Box::new(plain),
            ns: Vec::new(),
        },
        Contestant::new("std HashMap", "same process, no sharing", sequence, move |keys| {
            let found = every(keys).filter(|key| {
                map.get(*key).is_some_and(|value| black_box(value.first()).is_some())
            });
            Ok(found.count() as u64)
        }),
    ])
}

fn redis(keys: u64, sequence: &[u8], long: &[u8]) -> Result<Vec<Contestant>> {
    let redis = redis::Redis::start(&[])?;
    resp::Client::connect(&redis.unix)?.set_all(pairs(keys))?;
    let single = |mut client: resp::Client, server| {
        let mut buffer = Vec::new();
        move |keys: &[u8]| {
            let _alive = &server;
            let mut found = 0;
            for key in every(keys) {
                found += u64::from(client.get(key, &mut buffer)?);
            }
            Ok(found)
        }
    };
    let (unix, tcp) = (resp::Client::connect(&redis.unix)?, resp::Client::connect(&redis.tcp)?);
    let mut pipelined = resp::Client::connect(&redis.unix)?;
    let server = std::rc::Rc::new(redis);
    Ok(vec![
        Contestant::new("Redis", "Unix socket", sequence, single(unix, server.clone())),
        Contestant::new("Redis", "TCP", sequence, single(tcp, server)),
        Contestant::new("Redis", "Unix socket, 64 pipelined", long, move |keys| {
            let mut buffer = Vec::new();
            let mut found = 0;
            for part in keys.chunks(PIPELINE * KEY_BYTES) {
                found += pipelined.get_pipelined(every(part), &mut buffer)?;
            }
            Ok(found)
        }),
    ])
}

fn memcached(keys: u64, sequence: &[u8]) -> Result<Vec<Contestant>> {
    let server = memcached::Memcached::start()?;
    let mut client = memcached::Client::connect(&server.unix)?;
    client.set_all(pairs(keys))?;
    let mut buffer = Vec::new();
    Ok(vec![Contestant::new("memcached", "Unix socket", sequence, move |keys| {
        let _alive = &server;
        let mut found = 0;
        for key in every(keys) {
            found += u64::from(client.get(key, &mut buffer)?);
        }
        Ok(found)
    })])
}

fn etcd(keys: u64, sequence: &[u8]) -> Result<Vec<Contestant>> {
    let server = etcd::Etcd::start()?;
    let mut client = etcd::Client::connect(&server.tcp)?;
    client.put_all(pairs(keys))?;
    let mut buffer = Vec::new();
    Ok(vec![Contestant::new("etcd", "gRPC by hand, serializable", sequence, move |keys| {
        let _alive = &server;
        let mut found = 0;
        for key in every(keys) {
            found += u64::from(client.get(key, &mut buffer)?);
        }
        Ok(found)
    })])
}

fn print(contestants: &[Contestant], missing: &[&str]) -> Result<()> {
    let of = |name, client: &str| {
        let mut found = contestants.iter().filter(|c| c.name == name && c.client.contains(client));
        found.next().map_or(f64::NAN, Contestant::median)
    };
    let ours = of("Quicksilver", "a copy");
    let mut table = Table::new(["", "ns per get", "gets/s", "Quicksilver = 1"]);
    for contestant in contestants {
        let ns = contestant.median();
        table.row([
            format!("{}, {}", contestant.name, contestant.client),
            format!("{ns:.0}"),
            grouped((1e9 / ns) as u64),
            format!("{:.2}", ns / ours),
        ]);
    }
    for package in missing {
        let dash = || "–".to_owned();
        let name = format!("{package}: not installed");
        table.row([name, dash(), dash(), dash()]);
    }
    table.print("");
    let factor = of("Redis", "Unix socket") / ours;
    if factor.is_finite() {
        let met = if factor >= TARGET { "met" } else { "missed" };
        println!(
            "\nOne read of Redis (Unix socket) costs {factor:.0} of ours; target {TARGET}: {met}."
        );
    }
    let bars = contestants.iter().map(|c| (format!("{}, {}", c.name, c.client), c.median()));
    let title = "One read of 100 bytes among a million keys (logarithmic)";
    let label = plot::nanoseconds;
    let groups = vec![(String::new(), bars.collect())];
    plot::save("peers", &Bars { title, logarithmic: true, label, marks: vec![], groups }.svg())
}

fn main() -> Result<()> {
    let quick = flag("--quick");
    let keys = option("--keys", if quick { 100_000 } else { 1_000_000 })?;
    let rounds = option("--rounds", if quick { 3 } else { 11 })?;
    let dir = tempfile::tempdir()?;
    loader::build(dir.path(), keys)?;
    let sequence = dataset::sequence(Distribution::Uniform, keys, GETS, 42);
    let long: Vec<u8> = sequence.into_iter().flat_map(dataset::key).collect();
    let short = &long[..SOCKET_GETS * KEY_BYTES];

    let mut contestants = in_memory(dir.path(), keys, &long)?;
    let mut missing = Vec::new();
    let mut add = |package, program, start: &dyn Fn() -> Result<Vec<Contestant>>| -> Result<()> {
        match is_installed(program) {
            true => contestants.extend(start()?),
            false => missing.push(package),
        }
        Ok(())
    };
    add(redis::PACKAGE, redis::PROGRAM, &|| redis(keys, short, &long))?;
    add(memcached::PACKAGE, memcached::PROGRAM, &|| memcached(keys, short))?;
    add(etcd::PACKAGE, etcd::PROGRAM, &|| etcd(keys, short))?;

    println!(
        "{} keys, uniform; {KEY_BYTES}-byte keys, {VALUE_BYTES}-byte values; one closed-loop \
         client; medians of {rounds} interleaved rounds.\n",
        grouped(keys)
    );
    for contestant in &mut contestants {
        (contestant.round)()?; // warms caches and connections
    }
    for round in 0..rounds {
        let count = contestants.len();
        for turn in 0..count {
            // Nobody always comes first.
            let contestant = &mut contestants[(turn + round) % count];
            contestant.ns.push((contestant.round)()?);
        }
    }
    print(&contestants, &missing)
}
