//! A bulk load through root and leaf, beside plain LMDB and Redis with the same pairs.
//!
//! `bench-import [--entries N] [--window-ms N] [--mset PAIRS] [--rounds N] [--quick]`

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use quicksilver::log::Records;
use quicksilver::{Index, Reader};
use quicksilver_bench::dataset::{self, KEY_BYTES, VALUE_BYTES};
use quicksilver_bench::process::{self, Usage};
use quicksilver_bench::stats::{Table, grouped, median};
use quicksilver_bench::{Result, flag, option, peer};
use quicksilver_tests::process::{Process, binary, is_installed};
use quicksilver_tests::resp::{self, Client, Reply};
use quicksilver_tests::{Cluster, poll};

/// For a follower to have everything, once the import has ended.
const CATCH_UP: Duration = Duration::from_secs(300);
/// For a Redis to answer.
const REDIS_START: Duration = Duration::from_secs(10);

struct Input {
    entries: u64,
    tsv: PathBuf,
    resp: PathBuf,
}

impl Input {
    /// Writes the same pairs as `qsctl import` and as `redis-cli --pipe` want them.
    fn write(dir: &Path, entries: u64) -> Result<Input> {
        let input = Input { entries, tsv: dir.join("pairs.tsv"), resp: dir.join("pairs.resp") };
        let mut tsv = BufWriter::new(File::create(&input.tsv)?);
        let mut commands = BufWriter::new(File::create(&input.resp)?);
        for number in 0..entries {
            let (key, value) = (dataset::key(number), dataset::value(number));
            tsv.write_all(&[&key[..], b"\t", &value, b"\n"].concat())?;
            commands.write_all(&resp::encode(&[b"SET", &key[..], &value]))?;
        }
        tsv.flush()?;
        commands.flush()?;
        Ok(input)
    }

    fn logical_bytes(&self) -> f64 {
        (self.entries * (KEY_BYTES + VALUE_BYTES) as u64) as f64
    }
}

/// One process in one round.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// Seconds from the start until it had everything.
    seconds: f64,
    cpu_seconds: f64,
    written_bytes: f64,
}

impl Part {
    fn new(seconds: f64, usage: Usage) -> Part {
        let written_bytes = usage.written_bytes as f64;
        Part { seconds, cpu_seconds: usage.cpu_seconds, written_bytes }
    }
}

/// What a round of one contestant says: its processes, with names.
type Parts = Vec<(&'static str, Part)>;

struct Ours {
    parts: Parts,
    batches: u64,
}

fn ours(input: &Input, window_ms: u64, mset: u32) -> Result<Ours> {
    let mut cluster = Cluster::new();
    cluster.root("root").set_literal("batch.window_ms", window_ms);
    cluster.leaf("leaf", &["root"]);
    cluster.start_all();
    let (root, leaf) = (cluster.node("root"), cluster.node("leaf"));
    let pids = [root.pid(), leaf.pid()];
    let reader = Reader::open(leaf.data_dir())?;
    let before = [Usage::of(pids[0])?, Usage::of(pids[1])?];

    let start = Instant::now();
    let mut command = Command::new(binary("qsctl"));
    command.args(["--server", &root.address("client"), "--json", "import"]).arg(&input.tsv);
    command.args(["--batch", &mset.to_string()]);
    let mut import = command.stdout(Stdio::null()).spawn()?;
    let importer_seconds = until_ended(import.id())?;
    let at_root = start.elapsed();
    if !import.wait()?.success() {
        return Err(format!("qsctl import failed\n{}", root.log_tail()).into());
    }
    let reached = reader.wait_for(Index::new(input.entries), CATCH_UP)?;
    let at_leaf = start.elapsed();
    if reached < Index::new(input.entries) {
        return Err(format!("the leaf stopped at {reached}\n{}", leaf.log_tail()).into());
    }
    let (wanted, found) = (root.status(), leaf.status());
    if (wanted.index, &wanted.hash, &wanted.digest) != (found.index, &found.hash, &found.digest) {
        return Err(format!("root and leaf differ\n{}", cluster.table()).into());
    }
    let used = |n: usize| -> Result<Usage> { Ok(Usage::of(pids[n])?.since(before[n])) };
    let importer = Usage { cpu_seconds: importer_seconds, written_bytes: 0 };
    Ok(Ours {
        parts: vec![
            ("Quicksilver root, acknowledged", Part::new(at_root.as_secs_f64(), used(0)?)),
            ("Quicksilver leaf, equal", Part::new(at_leaf.as_secs_f64(), used(1)?)),
            ("  qsctl import", Part::new(at_root.as_secs_f64(), importer)),
        ],
        batches: batches(&reader)?,
    })
}

/// Waits for a child's end without waiting *for* it, and says what it used.
fn until_ended(pid: u32) -> Result<f64> {
    while !process::has_ended(pid)? {
        std::thread::sleep(Duration::from_millis(1));
    }
    process::cpu_seconds(pid)
}

fn batches(reader: &Reader) -> Result<u64> {
    let environment = reader.environment()?;
    let txn = environment.env.read()?;
    let mut records = Records::from(&environment, &txn, Index::FIRST)?;
    let mut count = 0;
    while records.take()?.is_some() {
        count += 1;
    }
    Ok(count)
}

fn plain_lmdb(
    name: &'static str,
    program: &Path,
    input: &Input,
    batch: u64,
    order: &str,
) -> Result<Parts> {
    let dir = tempfile::tempdir()?;
    let output = Command::new(program)
        .args([dir.path(), &input.tsv])
        .args([&batch.to_string(), order])
        .output()?;
    let answer = String::from_utf8(output.stdout)?;
    let numbers: Vec<f64> = answer.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    match numbers[..] {
        [seconds, cpu_seconds, written_bytes] => {
            Ok(vec![(name, Part { seconds, cpu_seconds, written_bytes })])
        }
        _ => Err(format!("the peer failed: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// A Redis with a Unix socket in a directory of its own, which also goes at the end.
struct Redis {
    process: Process,
    socket: PathBuf,
}

impl Redis {
    fn start(dir: &Path, name: &str, more: &[&str]) -> Result<Redis> {
        let dir = dir.join(name);
        std::fs::create_dir(&dir)?;
        let socket = dir.join("s");
        let mut command = Command::new("redis-server");
        command.args(["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]);
        command.arg("--dir").arg(&dir).arg("--unixsocket").arg(&socket).args(more);
        let process = Process::start(&mut command, &dir.join("log"));
        let redis = Redis { process, socket };
        let answers = || redis.call(&["PING"]).ok().filter(|pong| pong.contains("PONG"));
        poll(REDIS_START, answers).ok_or("redis-server does not answer")?;
        Ok(redis)
    }

    fn call(&self, command: &[&str]) -> Result<String> {
        Ok(match Client::connect(&self.socket)?.call(command)? {
            Reply::Simple(text) | Reply::Error(text) => text,
            Reply::Integer(number) => number.to_string(),
            Reply::Bulk(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            other => format!("{other:?}"),
        })
    }
}

fn redis(input: &Input) -> Result<Parts> {
    let dir = tempfile::tempdir()?;
    // A free port now may be taken in a moment; then the Redis says so and the run stops.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
    let source = Redis::start(dir.path(), "a", &["--bind", "127.0.0.1", "--port", &port])?;
    let replica =
        Redis::start(dir.path(), "b", &["--port", "0", "--replicaof", "127.0.0.1", &port])?;
    let linked = || {
        let info = replica.call(&["INFO", "replication"]).ok()?;
        info.contains("master_link_status:up").then_some(())
    };
    poll(REDIS_START, linked).ok_or("the Redis replica does not follow")?;
    let pids = [source.process.pid(), replica.process.pid()];
    let before = [Usage::of(pids[0])?, Usage::of(pids[1])?];
    let start = Instant::now();
    let mut load = Command::new("redis-cli")
        .arg("-s")
        .arg(&source.socket)
        .arg("--pipe")
        .stdin(File::open(&input.resp)?)
        .stdout(Stdio::null())
        .spawn()?;
    until_ended(load.id())?;
    let at_source = start.elapsed();
    load.wait()?;
    let entries = input.entries.to_string();
    let complete = || (replica.call(&["DBSIZE"]).ok()? == entries).then_some(());
    poll(CATCH_UP, complete).ok_or("the Redis replica stopped")?;
    let at_replica = start.elapsed();
    // The append-only file is written in the background; let the last second of it arrive.
    std::thread::sleep(Duration::from_millis(1500));
    let used = |n: usize| -> Result<Usage> { Ok(Usage::of(pids[n])?.since(before[n])) };
    Ok(vec![
        ("Redis, answered (synced each second)", Part::new(at_source.as_secs_f64(), used(0)?)),
        ("Redis replica, same number of keys", Part::new(at_replica.as_secs_f64(), used(1)?)),
    ])
}

fn print(input: &Input, rounds: &[Parts]) {
    let mut table = Table::new(["", "entries/s", "seconds", "CPU seconds", "disk bytes per byte"]);
    let names = rounds.first().into_iter().flatten().map(|(name, _)| *name);
    for (at, name) in names.enumerate() {
        let of = |field: fn(&Part) -> f64| {
            let numbers: Vec<_> = rounds.iter().map(|parts| field(&parts[at].1)).collect();
            median(&numbers)
        };
        let seconds = of(|part| part.seconds);
        table.row([
            name.to_owned(),
            grouped((input.entries as f64 / seconds) as u64),
            format!("{seconds:.2}"),
            format!("{:.2}", of(|part| part.cpu_seconds)),
            format!("{:.2}", of(|part| part.written_bytes) / input.logical_bytes()),
        ]);
    }
    table.print("");
}

fn main() -> Result<()> {
    let quick = flag("--quick");
    let entries = option("--entries", if quick { 200_000 } else { 1_000_000 })?;
    let rounds = option("--rounds", if quick { 1 } else { 3 })?;
    let window_ms = option("--window-ms", 500)?;
    let mset = option("--mset", 1000)?;
    let dir = tempfile::tempdir()?;
    let input = Input::write(dir.path(), entries)?;
    let program = peer::compile("import/peer.c", dir.path())?;
    println!(
        "{} SETs of {KEY_BYTES}-byte keys and {VALUE_BYTES}-byte values, window_ms = {window_ms}, {mset} pairs \
         in an MSET; medians of {rounds} rounds.\n",
        grouped(entries)
    );
    if !is_installed("redis-server") {
        println!("Redis is not installed (Debian: redis-server): left out.\n");
    }
    let mut all = Vec::new();
    let mut batch_sizes = Vec::new();
    for _ in 0..rounds {
        let ours = ours(&input, window_ms, mset)?;
        let batch = (entries / ours.batches.max(1)).max(1);
        batch_sizes.push(batch as f64);
        let mut parts = ours.parts;
        let lmdb = |name, order| plain_lmdb(name, &program, &input, batch, order);
        parts.extend(lmdb("plain LMDB, durable, sorted in a commit", "sorted")?);
        parts.extend(lmdb("plain LMDB, durable, as they arrive", "arriving")?);
        if is_installed("redis-server") {
            parts.extend(redis(&input)?);
        }
        all.push(parts);
    }
    print(&input, &all);
    println!(
        "\nEntries per batch of ours, and per commit of plain LMDB: {:.0}.",
        median(&batch_sizes)
    );
    Ok(())
}
