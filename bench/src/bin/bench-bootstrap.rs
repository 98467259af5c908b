//! How fast does a new machine get its copy?
//!
//! `bench-bootstrap [--gigabytes N] [--rounds N] [--quick] [--plots DIR]`
//!
//! A root whose log does not reach back, and an empty relay beside it: from the start of the relay's
//! process to the moment at which it serves what the root has, over a Unix socket, with the source's
//! limit on the rate lifted. The root has made its snapshot before, as it has for whoever comes
//! second. Beside it, in turn: `cp` of the same snapshot file and a sync of the copy, and a Redis
//! replica of a Redis that holds the same pairs, from REPLICAOF until it has them.
//!
//! A virtual machine may have given its free memory back to its host, and then pays for every page that
//! it touches first. So before each side the disk is let come to rest, and as much memory as either
//! side needs is touched and freed; who begins changes from round to round.

use std::fs::{self, File};
use std::process::Command;
use std::time::{Duration, Instant};

use quicksilver::build::snapshot::{create, restore};
use quicksilver::build::{self, Options, RoleLock, rebuild::SLICE_BYTES};
use quicksilver::environment::{Environment, live_generation};
use quicksilver_bench::plot::{self, Bars};
use quicksilver_bench::process::cpu_seconds;
use quicksilver_bench::server::redis::{self, Redis};
use quicksilver_bench::server::resp::Client as Filler;
use quicksilver_bench::stats::{Table, quantile};
use quicksilver_bench::{Result, connection::Address, dataset, flag, loader, option};
use quicksilver_format::layout::Generation;
use quicksilver_tests::cluster::Node;
use quicksilver_tests::resp::{Client, Reply};
use quicksilver_tests::{Cluster, poll};

const VALUE_BYTES: usize = 1000;
const SOON: Duration = Duration::from_secs(300);
/// More than either side needs of the page cache: file, generation, and what they write beside it.
const MEMORY_OF_FILE: u64 = 3;
/// Of cp and sync.
const TARGET_OF_COPY: f64 = 0.5;
const TARGET_OF_REDIS: f64 = 5.0;

/// Fills the root's directory with a database whose log begins at its end.
fn fill(cluster: &mut Cluster, keys: u64) -> Result<()> {
    let whole = cluster.path().join("whole");
    loader::build_values(&whole, keys, VALUE_BYTES)?;
    let environment = Environment::open_reader(&whole, live_generation(&whole)?)?;
    let file = create(&cluster.path().join("file"), &environment, SLICE_BYTES, &mut |_| true)?
        .ok_or("given up")?;
    drop(environment);
    fs::remove_dir_all(&whole)?;
    let root = cluster.root("root");
    let dir = root.data_dir();
    fs::create_dir_all(&dir)?;
    let role = RoleLock::take(&dir)?;
    let identity = file.manifest().identity;
    let options =
        Options { db_id: identity.db_id, history: identity.history, ..Options::default() };
    restore(&file, &dir, Generation::FIRST, &options, &mut |_| true)?.ok_or("given up")?;
    build::switch_to(&dir, Generation::FIRST)?;
    drop(role);
    fs::remove_file(file.path())?;
    root.set("db_id", identity.db_id)
        .set_literal("bootstrap.max_bytes_per_second", 1_u64 << 40)
        .start();
    Ok(())
}

/// Nothing waits to be written, and so much memory was in use a moment ago, or half of what there is.
fn come_to_rest(bytes: u64) -> Result<()> {
    Command::new("sync").status()?;
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let available = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let available = available.and_then(|rest| rest.trim().strip_suffix(" kB"));
    let available = 1024 * available.ok_or("no MemAvailable")?.parse::<u64>()?;
    let bytes = usize::try_from(bytes.min(available / 2))?;
    drop(std::hint::black_box(vec![1_u8; bytes]));
    Ok(())
}

/// How long it took, and the processor's time of both ends.
struct Bootstrap {
    took: Duration,
    relay_cpu_seconds: f64,
    root_cpu_seconds: f64,
}

/// From the start of an empty relay's process until it has what the root has.
fn bootstrap(cluster: &mut Cluster, name: &str) -> Result<Bootstrap> {
    let wanted = cluster.node("root").status();
    let db_id = wanted.json["db_id"].as_str().unwrap_or_default().to_owned();
    cluster.leaf(name, &["root"]).set("db_id", db_id);
    let root_pid = cluster.node("root").pid();
    let root_before = cpu_seconds(root_pid)?;
    let began = Instant::now();
    cluster.node_mut(name).spawn();
    let node = cluster.node(name);
    let has_it = || node.try_status().filter(|status| status.same_data(&wanted));
    poll(SOON, has_it).ok_or("the relay does not get its copy")?;
    let took = began.elapsed();
    let relay_cpu_seconds = cpu_seconds(node.pid())?;
    let root_cpu_seconds = cpu_seconds(root_pid)? - root_before;
    cluster.node_mut(name).term();
    fs::remove_dir_all(cluster.node(name).data_dir())?;
    Ok(Bootstrap { took, relay_cpu_seconds, root_cpu_seconds })
}

fn snapshot_of(node: &Node) -> Result<std::path::PathBuf> {
    let offered = fs::read_dir(node.data_dir().join("snapshots/offered"))?;
    let mut paths = offered.map(|entry| entry.map(|entry| entry.path()));
    paths.next().ok_or("the root offers nothing")?.map_err(Into::into)
}

fn copy(cluster: &Cluster) -> Result<Duration> {
    let (from, to) = (snapshot_of(cluster.node("root"))?, cluster.path().join("copy"));
    let began = Instant::now();
    let copied = Command::new("cp").arg(&from).arg(&to).status()?;
    File::open(&to)?.sync_all()?;
    let took = began.elapsed();
    fs::remove_file(&to)?;
    if copied.success() { Ok(took) } else { Err("cp failed".into()) }
}

fn redis_with(keys: u64) -> Result<Redis> {
    let redis = Redis::start(&["--appendonly", "no", "--repl-diskless-sync", "yes"])?;
    let value = |n| dataset::value(n).iter().copied().cycle().take(VALUE_BYTES).collect::<Vec<_>>();
    let pairs = (0..keys).map(|n| (dataset::key(n), value(n)));
    Filler::connect(&redis.unix)?.set_all(pairs)?;
    Ok(redis)
}

/// From REPLICAOF until the replica has the pairs.
fn full_resynchronisation(master: &Redis, keys: u64) -> Result<Duration> {
    let replica = Redis::start(&["--appendonly", "no"])?;
    let (Address::Unix(socket), Address::Tcp(port)) = (&replica.unix, &master.tcp) else {
        return Err("a Redis without sockets".into());
    };
    let mut client = Client::connect(socket)?;
    let began = Instant::now();
    let told = client.call(&["REPLICAOF", "127.0.0.1", &port.to_string()])?;
    if !told.is_ok() {
        return Err(format!("{told:?}").into());
    }
    loop {
        // While it loads it answers with an error.
        let info = client.call(&["INFO", "replication"])?;
        let size = client.call(&["DBSIZE"])?;
        let up = info.text().is_some_and(|text| text.contains("master_link_status:up"));
        if up && size == Reply::Integer(i64::try_from(keys)?) {
            return Ok(began.elapsed());
        }
        if began.elapsed() > SOON {
            return Err("the replica does not get its copy".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn main() -> Result<()> {
    let quick = flag("--quick");
    let gigabytes: f64 = option("--gigabytes", if quick { 0.2 } else { 2.0 })?;
    let rounds = option("--rounds", if quick { 2 } else { 3 })?;
    let keys = (gigabytes * 1e9 / (VALUE_BYTES + dataset::KEY_BYTES) as f64) as u64;
    let mut cluster = Cluster::new();
    fill(&mut cluster, keys)?;
    // The first one has the snapshot made.
    bootstrap(&mut cluster, "first")?;
    let bytes = fs::metadata(snapshot_of(cluster.node("root"))?)?.len() as f64;
    let master = redis_with(keys);
    if let Err(e) = &master {
        println!("({} is left out: {e})\n", redis::PROGRAM);
    }
    let (mut ours, mut copies, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    let (mut relay_cpu, mut root_cpu) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let rate = |took: Duration| bytes / took.as_secs_f64() / 1e6;
        for side in 0..3 {
            come_to_rest(MEMORY_OF_FILE * bytes as u64)?;
            match (round + side) % 3 {
                0 => {
                    let ended = bootstrap(&mut cluster, &format!("relay-{round}"))?;
                    ours.push(rate(ended.took));
                    relay_cpu.push(ended.relay_cpu_seconds * 1e9 / bytes);
                    root_cpu.push(ended.root_cpu_seconds * 1e9 / bytes);
                }
                1 => copies.push(rate(copy(&cluster)?)),
                _ => {
                    if let Ok(master) = &master {
                        theirs.push(rate(full_resynchronisation(master, keys)?));
                    }
                }
            }
        }
    }
    let mut table = Table::new(["MB/s of the snapshot file", "worst", "median", "best"]);
    let mut bars = Vec::new();
    for (what, rates) in [
        ("Quicksilver: an empty relay until it serves", &ours),
        ("cp of the snapshot, and sync", &copies),
        ("Redis: REPLICAOF until the replica has it", &theirs),
    ] {
        if rates.is_empty() {
            continue;
        }
        let at = |q| quantile(rates, q);
        table.row([
            what.to_owned(),
            format!("{:.0}", at(0.0)),
            format!("{:.0}", at(0.5)),
            format!("{:.0}", at(1.0)),
        ]);
        bars.push((what.to_owned(), at(0.5)));
    }
    println!(
        "A snapshot of {:.2} GB, {keys} keys with values of {VALUE_BYTES} bytes:\n",
        bytes / 1e9
    );
    table.print("");
    let (relay, root) = (quantile(&relay_cpu, 0.5), quantile(&root_cpu, 0.5));
    println!(
        "\nA gigabyte takes {relay:.2} s of a processor at the relay and {root:.2} s at the root.\n"
    );
    let told = |what: &str, others: &[f64], target: f64| {
        if !others.is_empty() {
            let ratios: Vec<f64> =
                ours.iter().zip(others).map(|(our, other)| our / other).collect();
            let ratio = quantile(&ratios, 0.5);
            let met = if ratio >= target { "met" } else { "missed" };
            println!("{ratio:.2} of {what}; target {target}: {met}.");
        }
    };
    told("cp and sync", &copies, TARGET_OF_COPY);
    told("a full resynchronisation of Redis", &theirs, TARGET_OF_REDIS);
    println!();
    let bars = Bars {
        title: "A new machine gets its copy",
        logarithmic: false,
        label: |rate| format!("{rate:.0} MB/s"),
        marks: vec![],
        groups: vec![("MB/s".to_owned(), bars)],
    };
    plot::save("bootstrap", &bars.svg())
}
