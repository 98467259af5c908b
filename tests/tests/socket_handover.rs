//! "An upgrade or a crash refuses nobody." The listening sockets belong to somebody else (systemd,
//! here this test), who hands them to every new run of the process. The leaf is killed and
//! restarted twenty times, by turns hard and in good order, while clients connect again and
//! again: no connect is ever refused, and every question is answered in the end.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use quicksilver_tests::resp::Client;
use quicksilver_tests::{Cluster, SOON, eventually};

const RESTARTS: usize = 20;
const CLIENTS: usize = 3;
/// Between two restarts.
const ANSWERS: u64 = 100;

#[derive(Debug, Default)]
struct Counts {
    stop: AtomicBool,
    /// Even: everything runs. Odd: a restart is under way.
    phase: AtomicU64,
    answered: AtomicU64,
    /// Connections that ended unanswered, by the phase in which they were made; those that were
    /// made during a restart are not counted.
    lost: [AtomicU64; RESTARTS],
}

/// A new connection for every question; a refused one ends the test.
fn ask_again_and_again(socket: &Path, counts: &Counts) {
    let phase = || counts.phase.load(Ordering::SeqCst);
    while !counts.stop.load(Ordering::Relaxed) {
        let before = phase();
        let mut client = Client::connect(socket).expect("a connect is never refused");
        let settled = before == phase() && before.is_multiple_of(2);
        match client.call(&["GET", "key"]) {
            Ok(reply) => {
                assert_eq!(reply.text(), Some("value"), "{reply:?}");
                counts.answered.fetch_add(1, Ordering::Relaxed);
            }
            // Whoever was connected to the process that was killed asks again.
            Err(error) if is_lost(&error) => {
                let lost = counts.lost.get(before as usize / 2);
                lost.filter(|_| settled).map(|lost| lost.fetch_add(1, Ordering::Relaxed));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn is_lost(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::UnexpectedEof | K::ConnectionReset | K::BrokenPipe)
}

/// Every other restart is a SIGKILL.
fn is_hard(restart: usize) -> bool {
    restart.is_multiple_of(2)
}

struct StopOnDrop<'c>(&'c Counts);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn twenty_restarts_refuse_no_connect() {
    let mut cluster = Cluster::new();
    cluster.root("root");
    cluster.leaf("leaf", &["root"]).hand_over_sockets();
    cluster.start_all();
    assert!(cluster.node("root").client().call(&["SET", "key", "value"]).unwrap().is_ok());
    cluster.await_converged(SOON);
    let socket = cluster.node("leaf").socket("client");
    let counts = Counts::default();
    std::thread::scope(|scope| {
        let stop = StopOnDrop(&counts);
        for _ in 0..CLIENTS {
            scope.spawn(|| ask_again_and_again(&socket, &counts));
        }
        for n in 0..RESTARTS {
            counts.phase.fetch_add(1, Ordering::SeqCst);
            let leaf = cluster.node_mut("leaf");
            if is_hard(n) {
                leaf.kill9();
            } else {
                leaf.term();
            }
            leaf.start();
            counts.phase.fetch_add(1, Ordering::SeqCst);
            let answered = counts.answered.load(Ordering::Relaxed);
            eventually("the new process answers clients", SOON, || {
                (counts.answered.load(Ordering::Relaxed) > answered + ANSWERS).then_some(())
            });
        }
        drop(stop);
    });
    let (mut hard, mut gently) = (0, 0);
    for (n, lost) in counts.lost.iter().enumerate() {
        let lost = lost.load(Ordering::Relaxed);
        *if is_hard(n) { &mut hard } else { &mut gently } += lost;
    }
    let answered = counts.answered.load(Ordering::Relaxed);
    println!("{answered} answered; asked again: {hard} after kills, {gently} after orderly ends");
    // A kill takes the connections of that moment with it. An orderly end answers every question
    // that has arrived; only one that was still on its way over an accepted connection can miss.
    assert!(hard <= (RESTARTS * CLIENTS) as u64, "{hard} lost, {answered} answered");
    assert!(gently <= RESTARTS as u64 / 4, "{gently} questions were lost by orderly ends");
    assert!(cluster.node("root").client().call(&["SET", "key", "value 2"]).unwrap().is_ok());
    cluster.await_converged(SOON);
}

#[test]
fn names_that_mean_nothing_are_refused() {
    let mut cluster = Cluster::new();
    let config = cluster.root("root").write_config();
    // A socket without a name, as a unit without FileDescriptorName= hands it over.
    let output = std::process::Command::new("sh")
        .args([
            "-c",
            "exec 3<&0; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=unknown exec \"$@\"",
            "sh",
        ])
        .arg(quicksilver_tests::process::binary("quicksilverd"))
        .arg("--config")
        .arg(&config)
        .stdin(std::os::fd::OwnedFd::from(
            std::os::unix::net::UnixListener::bind(cluster.path().join("odd")).unwrap(),
        ))
        .output()
        .unwrap();
    assert!(!output.status.success(), "{}", output.status);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("FileDescriptorName="), "{said}");
}
