//! "A service in Rust, C, C++ or Go reads what was written at the root, and learns of it." The
//! programs of reader-lib/examples, and those of ffi/examples, ffi/go/examples and tests/c, built
//! against the library as it is installed, run beside a leaf: one starts before the leaf has its first copy and waits, one watches, one answers
//! questions. So do the tests of the Go package that write.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "../../ffi/tests/workshop/mod.rs"]
mod workshop;

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;

use quicksilver_tests::process::{binary, example};
use quicksilver_tests::{Cluster, Process, SOON, eventually, resp};
use workshop::{Library, Workshop, run};

/// Waits until a program has written these lines to its log.
fn await_lines(log: &Path, expected: &[&str]) {
    let mut seen = String::new();
    let all = eventually(&format!("{} shows {expected:?}", log.display()), SOON, || {
        seen = std::fs::read_to_string(log).unwrap();
        (seen.lines().count() >= expected.len()).then(|| seen.clone())
    });
    assert_eq!(all.lines().collect::<Vec<_>>(), expected);
}

fn set(root: &mut resp::Client, key: &str, value: &str) {
    assert!(root.call(&["SET", key, value]).unwrap().is_ok());
}

/// Asks a dns example until it gives the answer.
fn await_answer(address: &str, question: &str, expected: &str) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    eventually(&format!("{question} is {expected}"), SOON, || {
        socket.send(question.as_bytes()).unwrap();
        let mut answer = [0; 100];
        let size = socket.recv(&mut answer).unwrap();
        (&answer[..size] == expected.as_bytes()).then_some(())
    });
}

/// Starts a program with its output in a file, whose path it gives.
fn start(program: &Path, arguments: &[&str], dir: &Path) -> (Process, PathBuf) {
    let log = dir.join(format!("{}.txt", program.file_name().unwrap().display()));
    let _ = std::fs::remove_file(&log);
    (Process::start(Command::new(program).args(arguments), &log), log)
}

enum Language {
    Rust,
    C,
    Cpp,
    Go,
}

impl Language {
    /// Builds one of the examples, which are the same in every language; `None` when the language
    /// is not there.
    fn example(&self, name: &str, workshop: &Workshop) -> Option<PathBuf> {
        let build = |compiler, flags: &[&str], suffix| {
            let source = format!("ffi/examples/{name}.{suffix}");
            Some(workshop.build(compiler, flags, &source, Library::Shared))
        };
        match self {
            Language::Rust => Some(example(name)),
            Language::C => build("cc", &[], "c"),
            Language::Cpp => build("c++", &["-std=c++17"], "cpp"),
            Language::Go => workshop.build_go(name),
        }
    }
}

#[test]
fn programs_of_every_language_beside_a_leaf() {
    let workshop = Workshop::open();
    let mut cluster = Cluster::new();
    cluster.root("root");
    cluster.leaf("leaf", &["root"]);
    let data = cluster.node("leaf").data_dir().display().to_string();
    let dir = cluster.path().to_owned();

    let live = workshop.build("cc", &[], "tests/c/live.c", Library::Shared);
    let (mut live, live_log) = start(&live, &[&data, "2", "zone/b"], &dir);
    cluster.start_all();
    let mut root = cluster.node("root").client();
    set(&mut root, "zone/a", "192.0.2.1");
    set(&mut root, "zone/b", "192.0.2.2");
    assert!(live.await_exit(SOON).success(), "{}", std::fs::read_to_string(live_log).unwrap());
    await_lines(&live_log, &["192.0.2.2"]);

    for language in [Language::Rust, Language::C, Language::Cpp, Language::Go] {
        set(&mut root, "zone/a", "192.0.2.1");
        cluster.await_converged(SOON);

        let Some(watch) = language.example("watch", &workshop) else { continue };
        let (mut watch, log) = start(&watch, &["--once", "4", &data, "zone/"], &dir);
        await_lines(&log, &["set zone/a 192.0.2.1", "set zone/b 192.0.2.2"]);

        let dns = language.example("dns", &workshop).unwrap();
        let (_dns, dns_log) = start(&dns, &[&data], &dir);
        let address = eventually("dns says where it listens", SOON, || {
            let said = std::fs::read_to_string(&dns_log).unwrap();
            Some(said.strip_suffix('\n')?.strip_prefix("listening on ")?.to_owned())
        });
        await_answer(&address, "a", "192.0.2.1");
        await_answer(&address, "c", "NXDOMAIN");

        set(&mut root, "zone/a", "192.0.2.3");
        await_answer(&address, "a", "192.0.2.3");
        assert!(root.call(&["DEL", "zone/a"]).unwrap().error().is_empty());
        await_answer(&address, "a", "NXDOMAIN");
        await_lines(
            &log,
            &["set zone/a 192.0.2.1", "set zone/b 192.0.2.2", "set zone/a 192.0.2.3", "del zone/a"],
        );
        assert!(watch.await_exit(SOON).success());
    }
}

#[test]
fn the_tests_of_the_go_package_beside_a_leaf() {
    let workshop = Workshop::open();
    let Some(mut test) = workshop.go(&["test", "-race", "-count=1", "-v", "."]) else { return };
    let mut cluster = Cluster::new();
    cluster.root("root");
    cluster.leaf("leaf", &["root"]);
    cluster.start_all();
    let said = run(test
        .args(["-run", "TestWhatIsWrittenIsWatched|TestWaitForAWrite|TestStatusOfALeaf"])
        .env("QSCTL", binary("qsctl"))
        .env("QS_TEST_LEAF", cluster.node("leaf").data_dir())
        .env("QS_TEST_ROOT", cluster.node("root").socket("client")));
    println!("{said}");
    assert_eq!(said.matches("--- PASS").count(), 3, "{said}");
}
