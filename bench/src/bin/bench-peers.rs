//! One read of a 100-byte value among 20 and among a million keys: ours beside the servers that people use, and
//! beside what no server can reach, a hash map in the same process.
//!
//! `bench-peers [--keys N] [--rounds N] [--plots DIR] [--quick]`
//!
//! Every contestant holds the same pairs and is asked for the same uniform sequence of keys by one
//! closed-loop client: the next request goes out when the answer is there. The clients of the
//! servers are written by hand over a blocking socket (`server/`), so that no client library is
//! measured. This process stays on one core; every server is asked twice, on that same core, where
//! a round trip is two switches between processes, and on a core of its own, where it is two
//! wake-ups of a sleeping core. A server that is not installed is left out and named.

use std::collections::HashMap;
use std::hint::black_box;
use std::io;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use quicksilver::Reader;
use quicksilver_bench::dataset::{self, Distribution, KEY_BYTES, VALUE_BYTES};
use quicksilver_bench::peer::{self, Dialogue};
use quicksilver_bench::plot::{self, Bars};
use quicksilver_bench::server::{Get, Server, etcd, memcached, redis, resp};
use quicksilver_bench::stats::{Table, grouped, median};
use quicksilver_bench::{Result, flag, loader, option};
use quicksilver_format::layout::Generation;
use quicksilver_tests::process::is_installed;

/// Gets of one round: in memory, over a socket, and of etcd, each of which takes ten to a hundred
/// times as long as one of the kind before.
const GETS: usize = 200_000;
const SOCKET_GETS: usize = 5_000;
const ETCD_GETS: usize = 1_000;
/// Between two rounds.
const SETTLE: Duration = Duration::from_millis(50);
/// Requests that are sent in one piece, as `redis-benchmark -P 64` does.
const PIPELINE: usize = 64;
/// What one read of Redis has to cost at least, in reads of ours.
const TARGET: f64 = 30.0;
/// What the others are compared with: it copies the value out, as they do.
const OURS: &str = "Quicksilver, Reader::get";

/// One of the systems, asked in one way.
struct Contestant {
    name: String,
    /// Where its server has to be while it is asked.
    place: Option<(Rc<Server>, usize)>,
    /// Makes a round of gets and says how many nanoseconds one took.
    round: Box<dyn FnMut() -> Result<f64>>,
    ns: Vec<f64>,
}

impl Contestant {
    /// One that is asked for key after key; `gets` makes all of a round and counts what it found.
    fn new(
        name: &str,
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
                false => Err(format!("{found} of {wanted} keys found").into()),
            }
        };
        Contestant { name: name.to_owned(), place: None, round: Box::new(round), ns: Vec::new() }
    }

    fn make_round(&mut self) -> Result<f64> {
        if let Some((server, core)) = &self.place {
            server.pin(*core)?;
        }
        (self.round)().map_err(|error| format!("{}: {error}", self.name).into())
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
        ref other => Err(format!("unexpected answer: {other:?}").into()),
    };
    let reader = Reader::open(dir)?;
    let in_place = reader.clone();
    let map: HashMap<_, _> = pairs(keys).collect();
    Ok(vec![
        Contestant::new("Quicksilver, Reader::get_with", sequence, move |keys| {
            let mut found = 0;
            for key in every(keys) {
                let read = in_place.get_with(key, |value| black_box(value.first().copied()))?;
                found += u64::from(read.is_some());
            }
            Ok(found)
        }),
        Contestant::new(OURS, sequence, move |keys| {
            let mut found = 0;
            for key in every(keys) {
                found += u64::from(black_box(reader.get(key)?).is_some());
            }
            Ok(found)
        }),
        Contestant {
            name: "LMDB in C, renew and reset".to_owned(),
            place: None,
            round: Box::new(plain),
            ns: Vec::new(),
        },
        Contestant::new("std HashMap in this process", sequence, move |keys| {
            let found = every(keys).filter(|key| {
                map.get(*key).is_some_and(|value| black_box(value.first()).is_some())
            });
            Ok(found.count() as u64)
        }),
    ])
}

/// One server, asked through one client, on every core that it may be on.
fn asked<C: Get + 'static>(
    name: &str,
    server: &Rc<Server>,
    cores: &[usize],
    sequence: &[u8],
    client: impl Fn() -> io::Result<C>,
) -> Result<Vec<Contestant>> {
    let places = cores.iter().zip(["same core", "a core each"]);
    let contestants = places.map(|(&core, place)| {
        let (mut client, mut buffer) = (client()?, Vec::new());
        let mut contestant = Contestant::new(&format!("{name}, {place}"), sequence, move |keys| {
            let mut found = 0;
            for key in every(keys) {
                found += u64::from(client.get(key, &mut buffer)?);
            }
            Ok(found)
        });
        contestant.place = Some((server.clone(), core));
        Ok(contestant)
    });
    contestants.collect()
}

fn redis(keys: u64, cores: &[usize], short: &[u8], long: &[u8]) -> Result<Vec<Contestant>> {
    let redis::Redis { server, unix, tcp } = redis::Redis::start(&[])?;
    let server = Rc::new(server);
    resp::Client::connect(&unix)?.set_all(pairs(keys))?;
    let client = || resp::Client::connect(&unix);
    let mut all = asked("Redis, Unix socket", &server, cores, short, client)?;
    all.extend(asked("Redis, TCP", &server, cores, short, || resp::Client::connect(&tcp))?);
    let places = cores.iter().zip(["same core", "a core each"]);
    for (&core, place) in places {
        let mut client = resp::Client::connect(&unix)?;
        let name = format!("Redis, Unix socket, {PIPELINE} pipelined, {place}");
        let mut contestant = Contestant::new(&name, long, move |keys| {
            let (mut found, mut buffer) = (0, Vec::new());
            for part in keys.chunks(PIPELINE * KEY_BYTES) {
                found += client.get_pipelined(every(part), &mut buffer)?;
            }
            Ok(found)
        });
        contestant.place = Some((server.clone(), core));
        all.push(contestant);
    }
    Ok(all)
}

fn memcached(keys: u64, cores: &[usize], sequence: &[u8]) -> Result<Vec<Contestant>> {
    let memcached::Memcached { server, unix } = memcached::Memcached::start()?;
    memcached::Client::connect(&unix)?.set_all(pairs(keys))?;
    let client = || memcached::Client::connect(&unix);
    asked("memcached, Unix socket", &Rc::new(server), cores, sequence, client)
}

fn etcd(keys: u64, cores: &[usize], sequence: &[u8]) -> Result<Vec<Contestant>> {
    let etcd::Etcd { server, tcp } = etcd::Etcd::start()?;
    etcd::Client::connect(&tcp)?.put_all(pairs(keys))?;
    let client = || etcd::Client::connect(&tcp);
    asked("etcd, serializable, gRPC by hand", &Rc::new(server), cores, sequence, client)
}

fn print(contestants: &[Contestant], missing: &[String]) {
    let of = |name: &str| {
        let found = contestants.iter().find(|contestant| contestant.name == name);
        found.map_or(f64::NAN, Contestant::median)
    };
    let ours = of(OURS);
    let mut table = Table::new(["", "ns per get", "gets/s", "Quicksilver = 1"]);
    for contestant in contestants {
        let ns = contestant.median();
        let factor = format!("{:.2}", ns / ours);
        let rate = grouped((1e9 / ns) as u64);
        table.row([contestant.name.clone(), format!("{ns:.0}"), rate, factor]);
    }
    for package in missing {
        let dash = || "–".to_owned();
        table.row([format!("{package}: not installed"), dash(), dash(), dash()]);
    }
    table.print("");
    println!();
    for place in ["same core", "a core each"] {
        let factor = of(&format!("Redis, Unix socket, {place}")) / ours;
        if factor.is_finite() {
            let met = if factor >= TARGET { "met" } else { "missed" };
            println!("A read of Redis, {place}: {factor:.0} of ours; target {TARGET}: {met}.");
        }
    }
    println!();
}

/// Keeps this process on the last core, and returns the cores on which a server may be: the same,
/// and another if there is one.
fn choose_cores() -> Result<Vec<usize>> {
    let cpus = std::thread::available_parallelism()?.get();
    let mut ours = CpuSet::new();
    ours.set(cpus - 1)?;
    sched_setaffinity(Pid::from_raw(0), &ours)?;
    Ok((0..cpus).rev().take(2).collect())
}

/// Starts a server and makes contestants of it.
type Start<'a> = &'a dyn Fn() -> Result<Vec<Contestant>>;

/// Everybody on one data set; who is not installed is named in the second list.
fn start_all(dir: &Path, keys: u64, cores: &[usize]) -> Result<(Vec<Contestant>, Vec<String>)> {
    let sequence = dataset::sequence(Distribution::Uniform, keys, GETS, 42);
    let long: Vec<u8> = sequence.into_iter().flat_map(dataset::key).collect();
    let short = &long[..SOCKET_GETS * KEY_BYTES];
    let fewest = &long[..ETCD_GETS * KEY_BYTES];
    let mut contestants = in_memory(dir, keys, &long)?;
    let mut missing = Vec::new();
    let mut add = |package: &str, program, start: Start| -> Result<()> {
        match is_installed(program) {
            true => contestants.extend(start()?),
            false => missing.push(package.to_owned()),
        }
        Ok(())
    };
    add(redis::PACKAGE, redis::PROGRAM, &|| redis(keys, cores, short, &long))?;
    add(memcached::PACKAGE, memcached::PROGRAM, &|| memcached(keys, cores, short))?;
    add(etcd::PACKAGE, etcd::PROGRAM, &|| etcd(keys, cores, fewest))?;
    Ok((contestants, missing))
}

/// Everybody in turns, on so many keys; returns a group of bars.
fn measure(keys: u64, rounds: usize, cores: &[usize]) -> Result<(String, Vec<(String, f64)>)> {
    let dir = tempfile::tempdir()?;
    loader::build(dir.path(), keys)?;
    let (mut contestants, missing) = start_all(dir.path(), keys, cores)?;
    for contestant in &mut contestants {
        contestant.make_round()?; // warms caches and connections
    }
    for round in 0..rounds {
        let count = contestants.len();
        for turn in 0..count {
            // Nobody always comes first, or always after the same one.
            let step = if round % 2 == 0 { 1 } else { count - 1 };
            let contestant = &mut contestants[(turn * step + round) % count];
            // What a server still does after its last answer is not the next one's to pay for.
            thread::sleep(SETTLE);
            let ns = contestant.make_round()?;
            contestant.ns.push(ns);
        }
    }
    let name = format!("{} keys, uniform", grouped(keys));
    println!("{name}:\n");
    print(&contestants, &missing);
    Ok((name, contestants.iter().map(|c| (c.name.clone(), c.median())).collect()))
}

fn main() -> Result<()> {
    let quick = flag("--quick");
    let sizes = match option("--keys", 0)? {
        0 if quick => vec![20, 100_000],
        0 => vec![20, 1_000_000],
        keys => vec![keys],
    };
    let rounds = option("--rounds", if quick { 3 } else { 11 })?;
    let cores = choose_cores()?;
    println!(
        "{KEY_BYTES}-byte keys, {VALUE_BYTES}-byte values; one closed-loop client; medians of \
         {rounds} interleaved rounds.\n"
    );
    let groups = sizes.into_iter().map(|keys| measure(keys, rounds, &cores));
    let groups = groups.collect::<Result<_>>()?;
    let title = "One read of 100 bytes (logarithmic)";
    let label = plot::nanoseconds;
    plot::save("peers", &Bars { title, logarithmic: true, label, marks: vec![], groups }.svg())
}
