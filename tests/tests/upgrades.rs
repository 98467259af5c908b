//! "Upgrades and restarts that nobody notices." A root and a relay run under a real systemd, in a
//! machine of their own. Writers write, clients ask on new and on old connections, programs read the
//! memory of both, downstreams follow; meanwhile the services are upgraded and restarted again and
//! again. Nobody is refused, nothing fails for who asks twice, no value is wrong or goes back, there
//! is one writer at any time, and the chain is whole.
//!
//! `QS_UPGRADES`, `QS_RESTARTS` and `QS_DOWNSTREAMS` say how often and how many.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use quicksilver_tests::cluster::DB_ID;
use quicksilver_tests::process::{profile, test_binary};
use quicksilver_tests::witness::{Connections, Tally, Witness, count_up, watch_count};
use quicksilver_tests::{Cluster, Machine, ReaderProcess, SOON, Status, eventually, http, tenures};

/// Acknowledged writes between one upgrade or restart and the next.
const WRITES_BETWEEN: u64 = 20;
const WRITERS: usize = 3;
/// Keys that are always written together.
const GROUP: usize = 8;

fn from_environment(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number"))
    })
}

/// Installs what was built, and starts a root `dns` and a relay `edge` of the same database.
fn start_services(machine: &Machine) {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().display();
    machine.sh(&format!(
        "cd {repository}
         scripts/install --server --no-build --profile {profile}
         systemd-sysusers quicksilver.conf
         systemd-tmpfiles --create quicksilver.conf
         systemctl daemon-reload
         qsctl init --config /etc/quicksilver/dns.toml --db-id {DB_ID} --node-id root
         qsctl init --config /etc/quicksilver/edge.toml --db-id {DB_ID} --node-id edge --role relay \\
             --upstream unix:/run/quicksilver/dns/replication.sock
         sed -i 's/^window_ms = .*/window_ms = 5/; s/^heartbeat_ms = .*/heartbeat_ms = 100/' \\
             /etc/quicksilver/*.toml
         systemctl enable --now quicksilver@dns quicksilver@edge",
        profile = profile()
    ));
}

fn status(machine: &Machine, name: &str) -> Option<Status> {
    let socket = machine.path(&format!("/run/quicksilver/{name}/http.sock"));
    Status::parse(&http::get(&socket, "/status").ok()?.body)
}

/// What is done to a service, again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Upgrade,
    Restart,
}

#[test]
fn nobody_notices_an_upgrade_or_a_restart() {
    let Some(machine) = Machine::boot("host") else { return };
    let (upgrades, restarts) =
        (from_environment("QS_UPGRADES", 8), from_environment("QS_RESTARTS", 8));
    start_services(&machine);
    let socket = |name: &str| machine.path(&format!("/run/quicksilver/{name}/client.sock"));
    let (root, edge) = (socket("dns"), socket("edge"));
    let has_a_copy = machine.path("/run/quicksilver/edge/http.sock");
    eventually("the relay has a copy", SOON, || {
        http::get(&has_a_copy, "/readyz").ok().filter(|answer| answer.status == 200)
    });

    let mut cluster = Cluster::new();
    for n in 0..from_environment("QS_DOWNSTREAMS", 6) {
        let upstream = machine.path("/run/quicksilver/edge/replication.sock");
        let name = format!("leaf-{n}");
        cluster.follower(&name, &[format!("unix:{}", upstream.display())]);
    }
    cluster.start_all();

    let reads = |database: &str| {
        let mut command = machine.command(test_binary("qs-test-reader"));
        command.arg(format!("/var/lib/quicksilver/{database}"));
        ReaderProcess::start(command)
    };
    let mut memory = ["dns", "edge"].map(reads);
    for reader in &mut memory {
        reader.send(&format!("group group/ {GROUP} 1"));
    }

    let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let (stop, acknowledged) = (&stop, &acknowledged);
    let mut stalls = Vec::new();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|n| {
                let kind = if n == 0 { Connections::New } else { Connections::Kept };
                let witness = Witness::new(&root, kind);
                scope.spawn(move || count_up(witness, &format!("count/{n}"), stop, acknowledged))
            })
            .collect();
        let group = Witness::new(&root, Connections::Kept);
        let group = scope.spawn(move || write_groups(group, stop));
        let mut askers = Vec::new();
        for (socket, who) in [(&root, "root"), (&edge, "edge")] {
            for kind in [Connections::New, Connections::Kept] {
                let witness = Witness::new(socket, kind);
                let asker = scope.spawn(move || watch_count(witness, "count/1", stop));
                askers.push((format!("clients of {who}, {kind:?}"), asker));
            }
        }

        let steps = (0..upgrades.max(restarts)).flat_map(|n| {
            let upgrade = (n < upgrades).then_some(Step::Upgrade);
            upgrade.into_iter().chain((n < restarts).then_some(Step::Restart))
        });
        for (n, step) in steps.enumerate() {
            let service = if n % 3 == 2 { "edge" } else { "dns" };
            let before = acknowledged.load(Ordering::Relaxed);
            let main = machine.main_pid(&format!("quicksilver@{service}"));
            let began = Instant::now();
            match step {
                Step::Upgrade => {
                    machine.sh(&format!("systemctl start quicksilver-upgrade@{service}"))
                }
                Step::Restart => machine.sh(&format!("systemctl restart quicksilver@{service}")),
            };
            stalls.push((step, began.elapsed()));
            assert_ne!(machine.main_pid(&format!("quicksilver@{service}")), main);
            eventually("writers go on", SOON, || {
                (acknowledged.load(Ordering::Relaxed) >= before + WRITES_BETWEEN).then_some(())
            });
        }
        stop.store(true, Ordering::Relaxed);

        let mut all = Tally::default();
        let mut writing = Tally::default();
        for (n, writer) in writers.into_iter().enumerate() {
            let (tally, last) = writer.join().unwrap();
            writing = writing.and(tally);
            let mut witness = Witness::new(&root, Connections::New);
            let found = witness.ask(&["GET", &format!("count/{n}")]).unwrap();
            assert_eq!(found.text(), Some(&*last.to_string()), "an acknowledged write of {n}");
        }
        writing = writing.and(group.join().unwrap());
        println!("writers            {writing}");
        all = all.and(writing);
        for (who, asker) in askers {
            let tally = asker.join().unwrap();
            println!("{who:<24} {tally}");
            all = all.and(tally);
        }
        assert!(all.problems.is_empty(), "{} problems: {:#?}", all.problems.len(), all.problems);
    });

    // Whoever reads memory saw whole groups, and nothing older than before.
    let mut witness = Witness::new(&root, Connections::New);
    assert!(witness.ask(&["SET", "stop", "1"]).unwrap().is_ok());
    for (database, reader) in ["dns", "edge"].iter().zip(&mut memory) {
        let answer = reader.answer();
        let words: Vec<&str> = answer.split(' ').collect();
        let ["whole", snapshots, _, _, longest_us] = words[..] else { panic!("{answer}") };
        println!("memory of {database:<4} {snapshots} snapshots, longest {longest_us} us");
    }
    for step in [Step::Upgrade, Step::Restart] {
        let took = || stalls.iter().filter(|(s, _)| *s == step).map(|(_, took)| *took);
        let longest = took().max().unwrap_or_default();
        println!("{:>4} x {step:?}, systemctl took at most {longest:.1?}", took().count());
    }

    // Everybody has the same, by the same chain.
    let wanted = status(&machine, "dns").unwrap();
    let mut all = vec![("edge".to_owned(), await_same(&wanted, || status(&machine, "edge")))];
    for node in cluster.nodes() {
        all.push((node.name().to_owned(), await_same(&wanted, || node.try_status())));
        let log = node.log_text();
        assert!(!log.contains("needs a snapshot") && !log.contains("another past"), "{log}");
    }
    for (name, status) in &all {
        assert!(status.is_some(), "{name} has not what the root has: {wanted:?}");
    }
    for database in ["dns", "edge"] {
        println!("{}", machine.sh(&format!("qsctl --db {database} verify")));
    }
    let log = machine.log_text();
    for database in ["dns", "edge"] {
        let tenures = tenures(&log, &format!("/{database}/"));
        println!("{database}: {} tenures, one after the other", tenures.len());
        assert!(tenures.len() > restarts / 3, "{tenures:?}");
    }
    assert!(!log.contains("ERROR") && !log.contains("panicked"), "{log}");
}

fn await_same(wanted: &Status, status: impl Fn() -> Option<Status>) -> Option<Status> {
    quicksilver_tests::poll(SOON, || status().filter(|status| status.same_data(wanted)))
}

/// Writes all keys of the group together, with a number that grows.
fn write_groups(mut witness: Witness, stop: &AtomicBool) -> Tally {
    let keys: Vec<String> = (0..GROUP).map(|n| format!("group/{n}")).collect();
    for number in 1_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let number = number.to_string();
        let pairs = keys.iter().flat_map(|key| [key.as_str(), number.as_str()]);
        let question: Vec<&str> = ["MSET"].into_iter().chain(pairs).collect();
        witness.ask(&question);
    }
    witness.tally()
}
