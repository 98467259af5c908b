//! A tree of replicators, root to leaf, in one temporary directory.
//!
//! ```text
//! DIR/NODE/config.toml  log.txt  data/  replication  client  http
//! ```
//! The three last are Unix sockets: paths are short because a socket's path has at most 107 bytes.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::http::{self, Response};
use crate::process::{Process, Release, append_to, binary, read_log};
use crate::reader::ReaderProcess;
use crate::resp::{Client, Reply};
use crate::{SOON, eventually, poll};

/// The database of every test that does not say otherwise.
pub const DB_ID: &str = "7d2f1c52-6a5e-4c0e-9d56-0f5c7a3b9e11";
/// Counts why sessions with an upstream ended.
pub const UPSTREAM_ENDED: &str = "quicksilver_upstream_sessions_ended_total";
/// Counts why those of downstreams did.
pub const DOWNSTREAM_ENDED: &str = "quicksilver_downstream_sessions_ended_total";
/// Counts how fetching a snapshot ended.
pub const BOOTSTRAP_ENDED: &str = "quicksilver_bootstrap_transfers_ended_total";
/// For a process to answer its probe. Generous: two cores may be shared by many.
const START_DEADLINE: Duration = SOON;
/// For a process to leave after SIGTERM.
const LEAVE_DEADLINE: Duration = SOON;
/// Lines of a log that are shown when something failed.
const LOG_TAIL_LINES: usize = 30;

/// What `/status` says: the fields that most tests look at, and all of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Last index applied.
    pub index: u64,
    /// Running hash there.
    pub hash: String,
    /// State digest there.
    pub digest: String,
    /// Live keys.
    pub keys: u64,
    /// `root`, `following`, …
    pub state: String,
    /// The whole object.
    pub json: Value,
}

impl Status {
    /// From what `/status` answered.
    pub fn parse(body: &str) -> Option<Status> {
        let json: Value = serde_json::from_str(body).ok()?;
        let text = |name: &str| json.get(name)?.as_str().map(str::to_owned);
        Some(Status {
            index: json.get("index")?.as_u64()?,
            hash: text("hash")?,
            digest: text("digest")?,
            keys: json.get("keys")?.as_u64()?,
            state: text("state")?,
            json,
        })
    }

    /// Everything that is written down as gone wrong, here and with the upstream.
    pub fn errors(&self) -> String {
        let of = |at: &str| self.json.pointer(at).and_then(Value::as_str).unwrap_or_default();
        format!("{} {}", of("/last_error"), of("/upstream/last_error"))
    }

    /// Whether a session with an upstream lives.
    pub fn is_connected(&self) -> bool {
        self.json.pointer("/upstream/connected").and_then(Value::as_bool).unwrap_or(false)
    }

    /// Whether both are at the same index of the same past.
    pub fn same_data(&self, other: &Status) -> bool {
        (self.index, &self.hash, &self.digest) == (other.index, &other.hash, &other.digest)
    }
}

/// One replicator: its files, its configuration and, while it runs, its process.
#[derive(Debug)]
pub struct Node {
    name: String,
    dir: PathBuf,
    settings: BTreeMap<(String, String), String>,
    wrapper: Vec<String>,
    handed: Option<Handed>,
    release: Release,
    process: Option<Process>,
}

/// Listeners that the test keeps and hands to every run of a node, as systemd does.
#[derive(Debug)]
struct Handed {
    client: UnixListener,
    http: UnixListener,
}

impl Node {
    fn new(dir: PathBuf, name: &str) -> Node {
        std::fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let mut node = Node {
            name: name.to_owned(),
            dir,
            settings: BTreeMap::new(),
            wrapper: Vec::new(),
            handed: None,
            release: Release::This,
            process: None,
        };
        let data_dir = node.data_dir();
        node.set("name", "tests").set("db_id", DB_ID).set("node_id", name);
        node.set("data_dir", data_dir.display()).set("logging.level", "info");
        for socket in ["replication", "client", "http"] {
            let address = node.address(socket);
            node.set(&format!("listen.{socket}"), address);
        }
        node
    }

    /// Its name, which is also its node id.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its database's directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The path of its `replication`, `client` or `http` socket.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The same as the configuration has it.
    pub fn address(&self, name: &str) -> String {
        format!("unix:{}", self.socket(name).display())
    }

    /// Sets a key (`table.key`, or `key` at the top) to a text.
    pub fn set(&mut self, key: &str, text: impl Display) -> &mut Node {
        let quoted = Value::String(text.to_string()).to_string();
        self.set_literal(key, quoted)
    }

    /// Sets a key to a number, an array, or whatever else is TOML.
    pub fn set_literal(&mut self, key: &str, literal: impl Display) -> &mut Node {
        let (table, key) = key.split_once('.').unwrap_or(("", key));
        self.settings.insert((table.to_owned(), key.to_owned()), literal.to_string());
        self
    }

    /// Follows these addresses from the next start on.
    pub fn follow(&mut self, primary: &[String]) -> &mut Node {
        let quoted: Vec<Value> = primary.iter().cloned().map(Value::String).collect();
        self.set("role", "relay").set_literal("upstream.primary", Value::Array(quoted))
    }

    /// Runs it under another program, such as `strace -D`, which must leave it the pid.
    pub fn wrap<S: Into<String>>(&mut self, wrapper: impl IntoIterator<Item = S>) -> &mut Node {
        self.wrapper = wrapper.into_iter().map(Into::into).collect();
        self
    }

    /// Runs the program of this release from the next start on.
    pub fn run_release(&mut self, release: Release) -> &mut Node {
        self.release = release;
        self
    }

    /// Binds its client and http sockets here and hands them to every run from now on.
    pub fn hand_over_sockets(&mut self) -> &mut Node {
        let bind = |path: PathBuf| {
            UnixListener::bind(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        };
        let (client, http) = (bind(self.socket("client")), bind(self.socket("http")));
        self.handed = Some(Handed { client, http });
        self
    }

    /// Writes its configuration file and returns the path.
    pub fn write_config(&self) -> PathBuf {
        let mut text = String::new();
        let mut table_now = "";
        for ((table, key), literal) in &self.settings {
            if table != table_now {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "\n[{table}]");
                table_now = table;
            }
            let _ = writeln!(text, "{key} = {literal}");
        }
        let path = self.dir.join("config.toml");
        std::fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }

    /// Starts it, without waiting for anything.
    pub fn spawn(&mut self) -> &mut Node {
        assert!(self.process.is_none(), "{} runs already", self.name);
        self.process = Some(self.start_another());
        self
    }

    /// Starts another process of it, beside the one that runs, if any does.
    pub fn start_another(&self) -> Process {
        let config = self.write_config();
        let mut words: Vec<String> = self.wrapper.clone();
        words.push(self.release.binary("quicksilverd").display().to_string());
        words.extend(["--config".to_owned(), config.display().to_string()]);
        let log = self.log_path();
        match &self.handed {
            None => Process::start(Command::new(&words[0]).args(&words[1..]), &log),
            Some(handed) => handed.start(&words, &log),
        }
    }

    /// Starts, in the same way, a process that says its version and ends.
    pub fn start_version(&self) -> Process {
        let words = [binary("quicksilverd").display().to_string(), "--version".to_owned()];
        let log = self.log_path();
        match &self.handed {
            None => Process::start(Command::new(&words[0]).args(&words[1..]), &log),
            Some(handed) => handed.start(&words, &log),
        }
    }

    /// Starts it and waits until it answers its probe.
    pub fn start(&mut self) -> &mut Node {
        self.spawn().await_alive()
    }

    /// Waits until it answers its probe.
    pub fn await_alive(&mut self) -> &mut Node {
        let what = format!("{} answers /livez", self.name);
        eventually(&what, START_DEADLINE, || {
            if let Some(status) = self.exited() {
                panic!("{} ended with {status}:\n{}", self.name, self.log_tail());
            }
            http::get(&self.socket("http"), "/livez").ok().filter(|r| r.status == 200)
        });
        self
    }

    /// Waits until it is ready, which a new relay is once it has a copy.
    pub fn await_ready(&self) {
        eventually(&format!("{} is ready", self.name), START_DEADLINE, || {
            http::get(&self.socket("http"), "/readyz").ok().filter(|r| r.status == 200)
        });
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(Process::exited)
    }

    /// Waits for an end that it chooses itself.
    pub fn await_exit(&mut self, within: Duration) -> ExitStatus {
        let mut process = self.process.take().expect("it runs");
        process.await_exit(within)
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill9(&mut self) {
        self.process.take().expect("it runs").kill9();
    }

    /// SIGTERM, and waits until it has left, which has to be with success.
    pub fn term(&mut self) {
        let status = self.process.take().expect("it runs").term(LEAVE_DEADLINE);
        assert!(status.success(), "{} left with {status}:\n{}", self.name, self.log_tail());
    }

    /// Sends it a signal.
    pub fn signal(&mut self, signal: nix::sys::signal::Signal) {
        self.process.as_mut().expect("it runs").signal(signal);
    }

    /// Whether a process is there.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Its pid, while it runs.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").pid()
    }

    /// `GET path`.
    pub fn get(&self, path: &str) -> Response {
        http::get(&self.socket("http"), path)
            .unwrap_or_else(|e| panic!("{} {path}: {e}\n{}", self.name, self.log_tail()))
    }

    /// How often a counter of `/metrics` has counted this reason; 0 is there from the start.
    pub fn counted(&self, metric: &str, reason: &str) -> u64 {
        self.metric(&format!("{metric}{{db=\"tests\",reason=\"{reason}\"}}"))
    }

    /// The value of a series of `/metrics`, named with all its labels.
    fn metric(&self, series: &str) -> u64 {
        let rendered = self.get("/metrics").body;
        let line = rendered.lines().find_map(|line| line.strip_prefix(series));
        let value = line.and_then(|value| value.trim().parse().ok());
        value.unwrap_or_else(|| panic!("{}: no {series}:\n{rendered}", self.name))
    }

    /// Whether `/metrics` says that this is how it goes with the upstream.
    pub fn upstream_state_is(&self, state: &str) -> bool {
        let series = format!("quicksilver_upstream_state{{db=\"tests\",state=\"{state}\"}}");
        self.metric(&series) == 1
    }

    /// `/status`, if it answers.
    pub fn try_status(&self) -> Option<Status> {
        let response = http::get(&self.socket("http"), "/status").ok()?;
        Status::parse(&response.body)
    }

    /// `/status`.
    pub fn status(&self) -> Status {
        let body = self.get("/status").body;
        Status::parse(&body).unwrap_or_else(|| panic!("{}: no status: {body}", self.name))
    }

    /// Waits for a status that is as wanted.
    pub fn await_status(
        &self,
        what: &str,
        within: Duration,
        wanted: impl Fn(&Status) -> bool,
    ) -> Status {
        let mut last = None;
        let found = poll(within, || {
            last = self.try_status();
            last.clone().filter(|status| wanted(status))
        });
        found.unwrap_or_else(|| {
            let json = last.map(|status| status.json);
            panic!("{} not within {within:?}: {what}\n{json:#?}\n{}", self.name, self.log_tail())
        })
    }

    /// Waits until it has applied everything up to an index.
    pub fn await_index(&self, index: u64, within: Duration) -> Status {
        self.await_status(&format!("index {index}"), within, |status| status.index >= index)
    }

    /// Waits until its log shows a text.
    pub fn await_log(&self, text: &str, within: Duration) {
        if poll(within, || self.log_text().contains(text).then_some(())).is_none() {
            panic!("{} logged nothing of {text:?}:\n{}", self.name, self.log_tail());
        }
    }

    /// A connection to its client socket.
    pub fn client(&self) -> Client {
        Client::connect(&self.socket("client"))
            .unwrap_or_else(|e| panic!("{}: {e}\n{}", self.name, self.log_tail()))
    }

    /// A separate process that reads its memory.
    pub fn reader(&self) -> ReaderProcess {
        ReaderProcess::open(&self.data_dir())
    }

    /// Runs `qsctl --db` on its database.
    pub fn qsctl(&self, arguments: &[&str]) -> Output {
        let directory = self.data_dir().display().to_string();
        qsctl(&[&["--db", &directory], arguments].concat())
    }

    /// Asserts that it goes on serving: a write if it is a root, a read otherwise.
    pub fn assert_serves(&self) {
        let mut client = self.client();
        let command: &[&str] =
            if self.is_root() { &["SET", "still", "serving"] } else { &["GET", "still"] };
        let reply = client.call(command);
        // A relay that never had a copy says so, which is an answer.
        let answers = |reply: &Reply| {
            let error = reply.error();
            error.is_empty() || (!self.is_root() && error.starts_with("LOADING"))
        };
        let answered = reply.as_ref().is_ok_and(answers);
        assert!(answered, "{}: {reply:?}\n{}", self.name, self.log_tail());
        assert_eq!(self.get("/livez").status, 200, "{}", self.name);
    }

    fn is_root(&self) -> bool {
        let role = self.settings.get(&(String::new(), "role".to_owned()));
        role.is_some_and(|role| role == "\"root\"")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log.txt")
    }

    /// Everything that its runs have logged.
    pub fn log_text(&self) -> String {
        read_log(&self.log_path())
    }

    /// The end of it.
    pub fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        format!("--- the log of {} ends with\n{}\n", self.name, tail.join("\n"))
    }
}

impl Handed {
    /// systemd's protocol: descriptors from 3 on, their names, and the pid they are meant for. A
    /// shell moves them there and then becomes the program.
    fn start(&self, words: &[String], log: &Path) -> Process {
        const SCRIPT: &str = "exec 3<&0 4<&1 </dev/null >&2; LISTEN_PID=$$ exec \"$@\"";
        let copy = |listener: &UnixListener| {
            OwnedFd::from(listener.try_clone().expect("a descriptor can be duplicated"))
        };
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh"]).args(words);
        command.env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", "client:http");
        command.stdin(copy(&self.client)).stdout(copy(&self.http)).stderr(append_to(log));
        Process::start_as_is(&mut command, log)
    }
}

/// Runs `qsctl`, without what the environment may say.
pub fn qsctl(arguments: &[&str]) -> Output {
    qsctl_with_input(arguments, "")
}

/// Runs `qsctl` with this on its standard input.
pub fn qsctl_with_input(arguments: &[&str], input: &str) -> Output {
    // One that has seen enough closes it.
    qsctl_fed(arguments, |stdin| stdin.write_all(input.as_bytes()).is_ok()).0
}

/// Runs `qsctl` with what `feed` writes to its standard input, and returns also what `feed` does. It
/// prints less than a pipe holds meanwhile.
pub fn qsctl_fed<T>(arguments: &[&str], feed: impl FnOnce(&mut ChildStdin) -> T) -> (Output, T) {
    let mut command = Command::new(binary("qsctl"));
    command.env_remove("QS_DB").env_remove("QS_SERVER").args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().expect("qsctl runs");
    let mut stdin = running.stdin.take().expect("it was piped");
    let fed = feed(&mut stdin);
    drop(stdin);
    (running.wait_with_output().expect("qsctl ends"), fed)
}

/// A tree of nodes. Dropping it kills what runs; after a failure its directory stays.
#[derive(Debug)]
pub struct Cluster {
    dir: Option<TempDir>,
    nodes: Vec<Node>,
}

impl Cluster {
    /// Without nodes.
    pub fn new() -> Cluster {
        let dir = tempfile::Builder::new().prefix("qs-").tempdir().expect("a temporary directory");
        Cluster { dir: Some(dir), nodes: Vec::new() }
    }

    /// root → relay → leaf-1 and leaf-2, with a short window, started and converged.
    pub fn three_tiers() -> Cluster {
        let mut cluster = Cluster::new();
        cluster.root("root");
        cluster.relay("relay", &["root"]);
        cluster.leaf("leaf-1", &["relay"]);
        cluster.leaf("leaf-2", &["relay"]);
        cluster.start_all();
        cluster.nodes.iter().for_each(Node::await_ready);
        cluster
    }

    /// The cluster's directory.
    pub fn path(&self) -> &Path {
        self.dir.as_ref().expect("it is there until the end").path()
    }

    fn add(&mut self, name: &str) -> &mut Node {
        let node = Node::new(self.path().join(name), name);
        self.nodes.push(node);
        self.nodes.last_mut().expect("one was just added")
    }

    /// Adds a root with a window of 5 ms and a heartbeat of 100 ms.
    pub fn root(&mut self, name: &str) -> &mut Node {
        let node = self.add(name);
        node.set("role", "root").set_literal("batch.window_ms", 5);
        node.set_literal("root.heartbeat_ms", 100)
    }

    /// Adds a relay that follows these nodes of the cluster.
    pub fn relay(&mut self, name: &str, upstreams: &[&str]) -> &mut Node {
        let addresses: Vec<String> =
            upstreams.iter().map(|upstream| self.node(upstream).address("replication")).collect();
        self.add(name).follow(&addresses)
    }

    /// Adds a relay that nobody may follow.
    pub fn leaf(&mut self, name: &str, upstreams: &[&str]) -> &mut Node {
        let node = self.relay(name, upstreams);
        node.settings.remove(&("listen".to_owned(), "replication".to_owned()));
        node
    }

    /// Adds a leaf that follows somebody who is not of the cluster.
    pub fn follower(&mut self, name: &str, upstreams: &[String]) -> &mut Node {
        let node = self.add(name).follow(upstreams);
        node.settings.remove(&("listen".to_owned(), "replication".to_owned()));
        node
    }

    /// A node by its name.
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).unwrap_or_else(|| panic!("no {name}"))
    }

    /// A node by its name.
    pub fn node_mut(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name == name).unwrap_or_else(|| panic!("no {name}"))
    }

    /// Every node, in the order in which they were added.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Starts every node that does not run, each when the one before it answers its probe: in the
    /// order in which they were added none finds its upstream away, and takes another one instead.
    pub fn start_all(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| !node.is_running()) {
            node.start();
        }
    }

    /// Waits until every running node has the root's index, hash and digest. Call it when nothing
    /// is written any more.
    ///
    /// # Panics
    /// With a table of all nodes when `within` has passed; the logs follow when the cluster is
    /// dropped.
    pub fn await_converged(&self, within: Duration) -> Status {
        let root = self.nodes.first().expect("a cluster has a root");
        let converged = poll(within, || {
            let wanted = root.try_status()?;
            let same = |node: &Node| node.try_status().is_some_and(|s| s.same_data(&wanted));
            let all = self.nodes.iter().filter(|node| node.is_running()).all(same);
            all.then_some(wanted)
        });
        converged.unwrap_or_else(|| panic!("not converged within {within:?}:\n{}", self.table()))
    }

    /// One line for each node.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<10} {:<12} {:>9} {:<16} {:<16} errors\n",
            "node", "state", "index", "hash", "digest"
        );
        for node in &self.nodes {
            // Writing to a String cannot fail.
            let _ = match node.try_status() {
                None => writeln!(text, "{:<10} no answer", node.name),
                Some(s) => writeln!(
                    text,
                    "{:<10} {:<12} {:>9} {:<16.16} {:<16.16} {}",
                    node.name,
                    s.state,
                    s.index,
                    s.hash,
                    s.digest,
                    s.errors().trim()
                ),
            };
        }
        text
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Cluster::new()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        eprintln!("{}", self.table());
        for node in &self.nodes {
            eprintln!("{}", node.log_tail());
        }
        if let Some(dir) = self.dir.take() {
            eprintln!("kept: {}", dir.keep().display());
        }
    }
}
