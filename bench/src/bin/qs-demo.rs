//! The moving parts of `scripts/demo`: a writer, a reader of a leaf's memory, a table of all nodes.
//!
//! ```text
//! qs-demo change CLIENT_SOCKET DATA_DIR   writes at a root while another process reads a leaf
//! qs-demo watch DATA_DIR                  that other process; of use by itself, until Ctrl-C
//! qs-demo table NAME=HTTP_SOCKET...       waits until all nodes are equal, and shows them
//! ```
//!
//! A change is one MSET of all [`KEYS`] to the same number, so a reader that ever sees two numbers
//! in one snapshot has seen a torn batch.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quicksilver::{Index, Reader, Snapshot};
use quicksilver_bench::Result;
use quicksilver_bench::stats::{grouped, quantile};
use quicksilver_tests::resp::Client;
use quicksilver_tests::{http, poll};
use serde_json::Value;

/// The keys that always change together.
const KEYS: [&str; 8] =
    ["demo/a", "demo/b", "demo/c", "demo/d", "demo/e", "demo/f", "demo/g", "demo/h"];
/// A snapshot is checked at least this often, whether or not anything changed.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// For a change to be readable, and for all nodes to be equal.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longer than the default window of 500 ms: the next write is sealed at once.
const LONE_PAUSE: Duration = Duration::from_millis(700);
const LONE_CHANGES: u64 = 5;
/// Shorter than the window: all but the first wait for its end.
const QUICK_PAUSE: Duration = Duration::from_millis(80);
const QUICK_CHANGES: u64 = 10;
/// As fast as a connection takes them.
const STORM_CHANGES: u64 = 20_000;
/// Their answers fit into a socket's buffer.
const STORM_IN_FLIGHT: usize = 4000;

const AT_ONCE: &str = "alone: sealed at once";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ended = match words[..] {
        ["change", client, data_dir] => change(Path::new(client), data_dir),
        ["watch", data_dir] => watch(Path::new(data_dir), false),
        ["watch", data_dir, "--lines"] => watch(Path::new(data_dir), true),
        ["table", ref nodes @ ..] if !nodes.is_empty() => table(nodes),
        _ => {
            eprintln!(
                "usage: qs-demo change CLIENT_SOCKET DATA_DIR | watch DATA_DIR | \
                 table NAME=HTTP_SOCKET..."
            );
            return ExitCode::from(2);
        }
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("qs-demo: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Writer and reader share a machine, so its wall clock serves both.
fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_micros() as u64)
}

fn ms(microseconds: u64) -> f64 {
    microseconds as f64 / 1e3
}

/// What a reader has found. All but the first must stay 0.
#[derive(Debug, Default, Clone, Copy)]
struct Findings {
    snapshots: u64,
    torn: u64,
    missing: u64,
    backwards: u64,
}

impl Findings {
    fn are_clean(&self) -> bool {
        self.torn + self.missing + self.backwards == 0
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Findings { snapshots, torn, missing, backwards } = self;
        write!(
            f,
            "{} snapshots checked: {torn} torn, {missing} with missing keys, {backwards} going back",
            grouped(*snapshots)
        )
    }
}

/// Time and number of the change in a snapshot, `None` before the first. The time comes first
/// because numbers begin again with every run of `qs-demo change`.
fn change_in(snapshot: &Snapshot, findings: &mut Findings) -> Result<Option<(u64, u64)>> {
    let mut values = Vec::with_capacity(KEYS.len());
    for key in KEYS {
        if let Some(value) = snapshot.get(key.as_bytes())? {
            values.push(value);
        }
    }
    let Some(first) = values.first() else { return Ok(None) };
    findings.missing += u64::from(values.len() < KEYS.len());
    findings.torn += u64::from(values.iter().any(|value| **value != **first));
    let text = std::str::from_utf8(first)?;
    let (number, written_us) = text.split_once(' ').ok_or("no change of this program")?;
    Ok(Some((written_us.parse()?, number.parse()?)))
}

/// Reads snapshots of a node's memory for ever, or, with `lines`, until standard input ends.
fn watch(data_dir: &Path, lines: bool) -> Result<bool> {
    let reader = Reader::open(data_dir)?;
    let stop = Arc::new(AtomicBool::new(false));
    if lines {
        let stop = stop.clone();
        thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            stop.store(true, Ordering::Relaxed);
        });
    }
    let mut out = std::io::stdout();
    let mut findings = Findings::default();
    let (mut index, mut last) = {
        let snapshot = reader.snapshot()?;
        (snapshot.index(), change_in(&snapshot, &mut findings)?)
    };
    writeln!(out, "{}", if lines { "ready" } else { "waiting for changes; Ctrl-C ends this" })?;
    while !stop.load(Ordering::Relaxed) {
        reader.wait_for(index.next(), LOOK_EVERY)?;
        let snapshot = reader.snapshot()?;
        let seen = change_in(&snapshot, &mut findings)?;
        let seen_us = now_us();
        findings.snapshots += 1;
        findings.backwards += u64::from(snapshot.index() < index || seen < last);
        index = snapshot.index();
        drop(snapshot);
        let Some((written_us, number)) = seen.filter(|_| seen > last) else { continue };
        last = seen;
        if lines {
            writeln!(out, "seen {number} {seen_us} {}", index.get())?;
        } else {
            let latency = ms(seen_us.saturating_sub(written_us));
            writeln!(
                out,
                "change {number}, index {index}, readable after {latency:.1} ms; {findings}"
            )?;
        }
    }
    let Findings { snapshots, torn, missing, backwards } = findings;
    writeln!(out, "end {snapshots} {torn} {missing} {backwards}")?;
    Ok(findings.are_clean())
}

/// What the reading process reports.
#[derive(Debug)]
enum Report {
    Ready,
    /// A change was in a snapshot at this wall time.
    Seen {
        number: u64,
        at_us: u64,
        index: Index,
    },
    End(Findings),
}

impl Report {
    fn parse(line: &str) -> Option<Report> {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        let numbers: Vec<u64> =
            rest.split_whitespace().map(|word| word.parse().ok()).collect::<Option<_>>()?;
        match (kind, &numbers[..]) {
            ("ready", []) => Some(Report::Ready),
            ("seen", &[number, at_us, index]) => {
                Some(Report::Seen { number, at_us, index: Index::new(index) })
            }
            ("end", &[snapshots, torn, missing, backwards]) => {
                Some(Report::End(Findings { snapshots, torn, missing, backwards }))
            }
            _ => None,
        }
    }
}

/// `qs-demo watch` as a process of its own.
struct Watcher {
    child: Child,
    reports: Receiver<Report>,
    /// The newest change it has reported: number, wall time, index.
    newest: (u64, u64, Index),
}

impl Watcher {
    fn start(data_dir: &str) -> Result<Watcher> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["watch", data_dir, "--lines"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = BufReader::new(child.stdout.take().ok_or("no pipe from the reader")?);
        let (tell, reports) = channel();
        thread::spawn(move || {
            let lines = out.lines().map_while(std::result::Result::ok);
            for report in lines.filter_map(|line| Report::parse(&line)) {
                if tell.send(report).is_err() {
                    return;
                }
            }
        });
        let watcher = Watcher { child, reports, newest: (0, 0, Index::ZERO) };
        match watcher.report()? {
            Report::Ready => Ok(watcher),
            other => Err(format!("the reading process began with {other:?}").into()),
        }
    }

    fn report(&self) -> Result<Report> {
        let report = self.reports.recv_timeout(PATIENCE);
        report.map_err(|_| "the reading process has nothing to report".into())
    }

    /// When this change, or a later one that came in the same batch, was readable.
    fn await_change(&mut self, wanted: u64) -> Result<(u64, Index)> {
        while self.newest.0 < wanted {
            match self.report()? {
                Report::Seen { number, at_us, index } => self.newest = (number, at_us, index),
                Report::Ready => {}
                Report::End(_) => return Err("the reading process ended".into()),
            }
        }
        let (_, at_us, index) = self.newest;
        Ok((at_us, index))
    }

    fn end(mut self) -> Result<Findings> {
        drop(self.child.stdin.take());
        let findings = loop {
            if let Report::End(findings) = self.report()? {
                break findings;
            }
        };
        self.child.wait()?;
        Ok(findings)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Without effect when it has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The MSET of a change, made now.
fn command(number: u64, now_us: u64) -> Vec<Vec<u8>> {
    let value = format!("{number} {now_us}");
    let pairs = KEYS.iter().flat_map(|key| [key.as_bytes().to_vec(), value.clone().into_bytes()]);
    std::iter::once(b"MSET".to_vec()).chain(pairs).collect()
}

fn expect_ok(client: &mut Client) -> Result<()> {
    let reply = client.reply()?;
    if reply.is_ok() { Ok(()) } else { Err(format!("the root answered {reply:?}").into()) }
}

fn change(socket: &Path, data_dir: &str) -> Result<bool> {
    let mut watcher = Watcher::start(data_dir)?;
    let mut client = Client::connect(socket)?;
    println!(
        "   {:>6}   {:<30} {:>12} {:>16}",
        "change", "how it was written", "acknowledged", "readable on leaf"
    );
    let mut alone = Vec::new();
    for number in 1..=LONE_CHANGES {
        thread::sleep(LONE_PAUSE);
        let start_us = now_us();
        client.send(&command(number, start_us))?;
        expect_ok(&mut client)?;
        let acknowledged_us = now_us() - start_us;
        let (at_us, index) = watcher.await_change(number)?;
        let readable_us = at_us.saturating_sub(start_us);
        line(number, AT_ONCE, acknowledged_us, readable_us, index);
        alone.push(ms(readable_us));
    }
    thread::sleep(LONE_PAUSE);
    let number = quick_succession(socket, &mut watcher, LONE_CHANGES)?;
    thread::sleep(LONE_PAUSE);
    storm(&mut client, &mut watcher, number)?;
    let findings = watcher.end()?;
    println!();
    println!(
        "   alone, from the write to the read: median {:.1} ms, longest {:.1} ms",
        quantile(&alone, 0.5),
        quantile(&alone, 1.0)
    );
    println!("   {findings}");
    Ok(findings.are_clean())
}

fn line(number: u64, how: &str, acknowledged_us: u64, readable_us: u64, index: Index) {
    let (acknowledged, readable) = (ms(acknowledged_us), ms(readable_us));
    println!(
        "   {number:>6}   {how:<30} {acknowledged:>9.1} ms {readable:>13.1} ms   index {index}"
    );
}

/// Changes that do not wait for each other, each on a connection of its own: the first is sealed at
/// once, the others wait for the window they arrive in.
fn quick_succession(client: &Path, watcher: &mut Watcher, before: u64) -> Result<u64> {
    let writers: Vec<_> = (1..=QUICK_CHANGES)
        .map(|n| {
            let mut client = Client::connect(client)?;
            let writer = move || -> Result<(u64, u64)> {
                thread::sleep(QUICK_PAUSE * n as u32);
                let start_us = now_us();
                client.send(&command(before + n, start_us))?;
                expect_ok(&mut client)?;
                Ok((start_us, now_us() - start_us))
            };
            Ok(thread::spawn(writer))
        })
        .collect::<Result<_>>()?;
    for (n, writer) in (1..).zip(writers) {
        let (start_us, acknowledged_us) = writer.join().map_err(|_| "a writer panicked")??;
        let (at_us, index) = watcher.await_change(before + n)?;
        let how = if n == 1 { AT_ONCE } else { "quick succession: next window" };
        line(before + n, how, acknowledged_us, at_us.saturating_sub(start_us), index);
    }
    Ok(before + QUICK_CHANGES)
}

/// As many changes as one connection takes.
fn storm(client: &mut Client, watcher: &mut Watcher, before: u64) -> Result<()> {
    let start_us = now_us();
    let mut unanswered = 0;
    for number in before + 1..=before + STORM_CHANGES {
        client.send(&command(number, now_us()))?;
        unanswered += 1;
        if unanswered == STORM_IN_FLIGHT {
            expect_ok(client)?;
            unanswered -= 1;
        }
    }
    for _ in 0..unanswered {
        expect_ok(client)?;
    }
    let acknowledged_us = now_us() - start_us;
    let (at_us, index) = watcher.await_change(before + STORM_CHANGES)?;
    let how = format!("{} changes in a row", grouped(STORM_CHANGES));
    let readable_us = at_us.saturating_sub(start_us);
    line(before + STORM_CHANGES, &how, acknowledged_us, readable_us, index);
    Ok(())
}

/// What the table shows of a node.
#[derive(Debug, Clone, PartialEq)]
struct Node {
    name: String,
    state: String,
    index: u64,
    hash: String,
    digest: String,
    keys: u64,
    lag_seconds: Option<f64>,
}

impl Node {
    fn ask(name: &str, socket: &Path) -> Option<Node> {
        let body = http::get(socket, "/status").ok()?.body;
        let json: Value = serde_json::from_str(&body).ok()?;
        let text = |field: &str| Some(json.get(field)?.as_str()?.to_owned());
        Some(Node {
            name: name.to_owned(),
            state: text("state")?,
            index: json.get("index")?.as_u64()?,
            hash: text("hash")?,
            digest: text("digest")?,
            keys: json.get("keys")?.as_u64()?,
            lag_seconds: json.get("lag_seconds")?.as_f64(),
        })
    }

    fn has_the_same_as(&self, other: &Node) -> bool {
        (self.index, &self.hash, &self.digest, self.keys)
            == (other.index, &other.hash, &other.digest, other.keys)
    }
}

/// Waits until all nodes are equal; prints them, whether or not they became so.
fn table(nodes: &[&str]) -> Result<bool> {
    let named: Vec<(&str, &Path)> = nodes
        .iter()
        .map(|node| node.split_once('=').map(|(name, socket)| (name, Path::new(socket))))
        .collect::<Option<_>>()
        .ok_or("a node is NAME=HTTP_SOCKET")?;
    let mut shown = Vec::new();
    let equal = poll(PATIENCE, || {
        shown = named.iter().filter_map(|(name, socket)| Node::ask(name, socket)).collect();
        let first: &Node = shown.first()?;
        let all = shown.len() == named.len() && shown.iter().all(|n| n.has_the_same_as(first));
        all.then_some(())
    });
    println!(
        "   {:<8} {:<10} {:>8}  {:<14} {:<14} {:>8} {:>7}",
        "node", "state", "index", "hash", "digest", "keys", "lag"
    );
    for node in &shown {
        let lag = node.lag_seconds.map_or("–".to_owned(), |lag| format!("{lag:.1} s"));
        println!(
            "   {:<8} {:<10} {:>8}  {:<14.12} {:<14.12} {:>8} {:>7}",
            node.name, node.state, node.index, node.hash, node.digest, node.keys, lag
        );
    }
    println!("   {}", if equal.is_some() { "all equal" } else { "NOT EQUAL" });
    Ok(equal.is_some())
}
