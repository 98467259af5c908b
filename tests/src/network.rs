//! Hosts of their own on this machine, with a network between them that a test can break: each node
//! of a cluster in a network namespace, a cable (veth) from each to a switch (a bridge in a namespace
//! of its own), rules (nft) about who hears whom, and a brake (tbf).
//!
//! Invariants:
//! * nothing of it is visible in the machine's own network, and nothing reaches beyond it;
//! * it goes with its handle, also after a failure; what a killed test left behind is removed by
//!   the next one.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::unistd::Uid;

use crate::cluster::Node;
use crate::process::is_installed;
use crate::skipped;

/// Where `ip` keeps the names of namespaces.
const NAMES: &str = "/run/netns";
/// Every name begins so, followed by the pid of its test.
const PREFIX: &str = "qs";
/// Where nodes listen for downstreams, each on its own host.
const PORT: u16 = 7070;
/// What the switch does with a packet: everything passes until a test says otherwise.
const RULES: &str = "table bridge weather {
    chain forward {
        type filter hook forward priority 0; policy accept;
    }
}
";

static NETWORKS: AtomicUsize = AtomicUsize::new(0);

/// A switch and the hosts on it.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    hosts: Vec<String>,
}

impl Network {
    /// Without hosts; `None` where that is not possible, with the reason printed.
    pub fn new() -> Option<Network> {
        if !Uid::effective().is_root() {
            skipped("network namespaces take root");
            return None;
        }
        for (program, package) in [("ip", "iproute2"), ("nft", "nftables")] {
            if !is_installed(program) {
                skipped(&format!("{program} is missing: install {package}"));
                return None;
            }
        }
        remove_what_was_left();
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{PREFIX}-{}-{number}", std::process::id());
        let network = Network { prefix, hosts: Vec::new() };
        match network.install_switch() {
            Ok(()) => Some(network),
            Err(why) => {
                // Containers may forbid it, and kernels may have been built without some of it.
                skipped(&format!("no network can be made here: {why}"));
                None
            }
        }
    }

    fn install_switch(&self) -> Result<(), String> {
        let switch = self.switch();
        run(&format!("ip netns add {switch}"))?;
        run(&format!("ip -n {switch} link add bridge type bridge"))?;
        run(&format!("ip -n {switch} link set bridge up"))?;
        run_with_input(&format!("ip netns exec {switch} nft -f -"), RULES).map(drop)
    }

    /// Gives a node a host of its own, where it runs and listens from its next start on. Returns the
    /// address for its downstreams.
    pub fn place(&mut self, node: &mut Node) -> String {
        let host = node.name().to_owned();
        let (namespace, switch, port) = (self.namespace(&host), self.switch(), port_of(&host));
        self.hosts.push(host);
        let address = format!("10.77.0.{}", self.hosts.len());
        for line in [
            format!("ip netns add {namespace}"),
            format!("ip -n {switch} link add {port} type veth peer name eth0 netns {namespace}"),
            format!("ip -n {switch} link set {port} master bridge up"),
            format!("ip -n {namespace} address add {address}/24 dev eth0"),
            format!("ip -n {namespace} link set eth0 up"),
            format!("ip -n {namespace} link set lo up"),
        ] {
            must(&line);
        }
        let address = format!("{address}:{PORT}");
        node.set("listen.replication", &address).set_literal("insecure.plaintext", true);
        node.wrap(["ip", "netns", "exec", &namespace]);
        address
    }

    /// Nothing from one host reaches the other; the way back stays as it is.
    pub fn cut(&self, from: &str, to: &str) {
        let (from, to) = (port_of(from), port_of(to));
        self.at_the_switch(&format!(
            "nft add rule bridge weather forward iifname {from} oifname {to} drop"
        ));
    }

    /// Nothing to and from a host.
    pub fn isolate(&self, host: &str) {
        for other in self.hosts.iter().filter(|other| *other != host) {
            self.cut(host, other);
            self.cut(other, host);
        }
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.at_the_switch("nft flush chain bridge weather forward");
    }

    /// What a host receives comes no faster than this from now on.
    pub fn slow_down(&self, host: &str, bytes_per_second: u32) {
        let (port, rate) = (port_of(host), bytes_per_second * 8);
        self.at_the_switch(&format!(
            "tc qdisc add dev {port} root tbf rate {rate}bit burst 16kb latency 500ms"
        ));
    }

    /// Resets the connections of a host's downstreams, at both ends. False where the kernel cannot.
    pub fn reset_downstreams(&self, host: &str) -> bool {
        let namespace = self.namespace(host);
        // A header, and a line for each connection that it has closed.
        let closed =
            must(&format!("ip netns exec {namespace} ss -K -tn state established sport = :{PORT}"));
        closed.lines().count() > 1
    }

    fn at_the_switch(&self, line: &str) {
        must(&format!("ip netns exec {} {line}", self.switch()));
    }

    fn switch(&self) -> String {
        self.namespace("switch")
    }

    fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Processes that still run there keep theirs until they end, without its cable.
        for host in self.hosts.iter().map(String::as_str).chain(["switch"]) {
            let _ = run(&format!("ip netns delete {}", self.namespace(host)));
        }
    }
}

/// The switch's end of a host's cable.
fn port_of(host: &str) -> String {
    format!("to-{host}")
}

/// Namespaces of tests that do not run any more.
fn remove_what_was_left() {
    for entry in std::fs::read_dir(NAMES).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut words = name.split('-');
        let pid = (words.next() == Some(PREFIX)).then(|| words.next()).flatten();
        let Some(Ok(pid)) = pid.map(str::parse::<u32>) else { continue };
        if !Path::new(&format!("/proc/{pid}")).exists() {
            let _ = run(&format!("ip netns delete {name}"));
        }
    }
}

/// Runs a line of words that has to succeed, and returns what it printed.
fn must(line: &str) -> String {
    run(line).unwrap_or_else(|why| panic!("{why}"))
}

fn run(line: &str) -> Result<String, String> {
    run_with_input(line, "")
}

fn run_with_input(line: &str, input: &str) -> Result<String, String> {
    let failed = |e: &dyn std::fmt::Display| format!("{line}: {e}");
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().map_err(|e| failed(&e))?;
    if let Some(mut stdin) = running.stdin.take() {
        // One that fails does not read it all, and says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = running.wait_with_output().map_err(|e| failed(&e))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(&String::from_utf8_lossy(&output.stderr)))
}
