//! How long does a replicator not answer, when it restarts and when it hands over to another process?
//!
//! `bench-restart [--rounds N] [--large] [--plots DIR] [--quick]`
//!
//! This program keeps the listening sockets, as systemd does, and does nothing between one process
//! and the next: what is measured is `quicksilverd`'s own part. A client has connected meanwhile and
//! asks; its wait ends with the answer. Before every restart the process has served 100,000 reads,
//! so that much of the database is mapped; it is told to leave a second later, or at once. The floor is a process that does nothing
//! (`quicksilverd --version`), started in the same way.
//!
//! `--large` adds a database of 10 million keys with values of 1,000 bytes, which takes 14 GB of
//! disk for the while, and minutes to write.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use quicksilver::Reader;
use quicksilver_bench::dataset::{self, Rng, Shape};
use quicksilver_bench::plot::{self, Bars, nanoseconds};
use quicksilver_bench::stats::{Table, grouped, quantile};
use quicksilver_bench::{Result, flag, loader, option};
use quicksilver_tests::cluster::Node;
use quicksilver_tests::resp::Client;
use quicksilver_tests::{Cluster, Process, eventually};

/// Leaving and starting together, without what any process needs to start.
const TARGET: Duration = Duration::from_millis(5);
const SOON: Duration = Duration::from_secs(30);
/// Reads that a process serves before it is told to leave, so many in one piece.
const READS: usize = 100_000;
/// What a process keeps mapped, at most, once it has had a second.
const MAPPED_MAX_BYTES: u64 = 129 << 20;
const PIPELINE: usize = 100;

/// Nanoseconds of everything that was measured on one database.
#[derive(Debug, Default)]
struct Times {
    floor: Vec<f64>,
    leaving: Vec<f64>,
    leaving_at_once: Vec<f64>,
    starting: Vec<f64>,
    own: Vec<f64>,
    hand_over: Vec<f64>,
}

fn ns(since: Instant) -> f64 {
    since.elapsed().as_nanos() as f64
}

/// Bytes of files that a process has mapped.
fn mapped_bytes(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    statm.split(' ').nth(2).and_then(|pages| pages.parse::<u64>().ok()).map_or(0, |n| n << 12)
}

fn ask(client: &mut Client) -> Result<()> {
    let reply = client.call(&["PING"])?;
    if reply.error().is_empty() { Ok(()) } else { Err(format!("{reply:?}").into()) }
}

/// Reads so much that a good part of the database is mapped.
fn serve_reads(node: &Node, keys: u64, rng: &mut Rng) -> Result<()> {
    let mut client = node.client();
    for _ in 0..READS / PIPELINE {
        for _ in 0..PIPELINE {
            client.send(&[&b"GET"[..], &dataset::key(rng.below(keys))])?;
        }
        for _ in 0..PIPELINE {
            client.reply()?;
        }
    }
    Ok(())
}

/// The time from the start of a process to the answer on a connection that waits for it.
fn start(node: &Node) -> Result<(Process, f64)> {
    let mut waiting = node.client();
    let began = Instant::now();
    let process = node.start_another();
    ask(&mut waiting)?;
    Ok((process, ns(began)))
}

fn measure(shape: Shape, rounds: usize) -> Result<Times> {
    let mut cluster = Cluster::new();
    let node = cluster.root("root");
    node.hand_over_sockets();
    loader::build_values(&node.data_dir(), shape.keys, shape.value_bytes)?;
    loader::warm(&node.data_dir())?;
    let db_id = Reader::open(node.data_dir())?.status()?.db_id;
    node.set("db_id", db_id).set_literal("limits.max_db_bytes", 16_u64 << 30);
    node.set_literal("limits.map_bytes", 32_u64 << 30);
    let node = cluster.node("root");
    let (mut times, mut rng) = (Times::default(), Rng::new(3));
    let (mut process, _) = start(node)?;
    for _ in 0..rounds {
        serve_reads(node, shape.keys, &mut rng)?;
        let began = Instant::now();
        process.signal(Signal::SIGTERM);
        process.await_exit_at_once(SOON);
        times.leaving_at_once.push(ns(began));
        (process, _) = start(node)?;

        serve_reads(node, shape.keys, &mut rng)?;
        eventually("it has let go of most of the database", SOON, || {
            (mapped_bytes(process.pid()) < MAPPED_MAX_BYTES).then_some(())
        });
        let began = Instant::now();
        node.start_version().await_exit_at_once(SOON);
        let floor = ns(began);

        let began = Instant::now();
        process.signal(Signal::SIGTERM);
        process.await_exit_at_once(SOON);
        let leaving = ns(began);
        let (next, starting) = start(node)?;
        process = next;
        times.floor.push(floor);
        times.leaving.push(leaving);
        times.starting.push(starting);
        times.own.push(leaving + (starting - floor).max(0.0));

        serve_reads(node, shape.keys, &mut rng)?;
        let ready = || node.log_text().matches("standby: ready to take over").count();
        let before = ready();
        let standby = node.start_another();
        eventually("the standby is ready", SOON, || (ready() > before).then_some(()));
        // Whoever connects from now on is served by one of the two.
        let began = Instant::now();
        process.signal(Signal::SIGTERM);
        let wanted = format!("process_id:{}\r\n", standby.pid());
        let answers = || {
            let answer = node.client().call(&["INFO", "server"]);
            answer.is_ok_and(|answer| answer.text().is_some_and(|text| text.contains(&wanted)))
        };
        while !answers() {
            if began.elapsed() > SOON {
                return Err("the standby does not answer".into());
            }
        }
        times.hand_over.push(ns(began));
        process.await_exit(SOON);
        process = standby;
    }
    Ok(times)
}

fn report(name: &str, times: &Times) {
    let mut table = Table::new(["", "p50", "p90", "max"]);
    for (what, ns) in [
        ("restart: from SIGTERM to the end of the process", &times.leaving),
        ("the same, at once after its reads", &times.leaving_at_once),
        ("restart: from the start of the next to its first answer", &times.starting),
        ("a process that does nothing, from start to end", &times.floor),
        ("restart: own part", &times.own),
        ("hand-over: from SIGTERM to the other's first answer", &times.hand_over),
    ] {
        let at = |q| nanoseconds(quantile(ns, q));
        table.row([what.to_owned(), at(0.5), at(0.9), at(1.0)]);
    }
    println!("{name}:\n");
    table.print("");
    let p50 = quantile(&times.own, 0.5);
    let met = if p50 < TARGET.as_nanos() as f64 { "met" } else { "missed" };
    println!("\nOwn part of a restart at p50: {}; target {TARGET:?}: {met}.\n", nanoseconds(p50));
}

fn main() -> Result<()> {
    let rounds = option("--rounds", if flag("--quick") { 5 } else { 40 })?;
    let mut groups = Vec::new();
    for shape in [Some(Shape::SMALL), flag("--large").then_some(Shape::LARGE)].into_iter().flatten()
    {
        let times = measure(shape, rounds)?;
        let name = format!("{} keys, values of {} bytes", grouped(shape.keys), shape.value_bytes);
        report(&name, &times);
        let bars = [
            ("leaving", &times.leaving),
            ("starting", &times.starting),
            ("a process that does nothing", &times.floor),
            ("hand-over", &times.hand_over),
        ];
        let bars = bars.map(|(what, ns)| (what.to_owned(), quantile(ns, 0.5)));
        groups.push((name, bars.to_vec()));
    }
    let title = "A restart, and a hand-over to a process that waits";
    let bars = Bars { title, logarithmic: false, label: nanoseconds, marks: vec![], groups };
    plot::save("restart", &bars.svg())
}
