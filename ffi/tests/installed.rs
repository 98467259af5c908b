//! What is installed: exactly the promised names, found by pkg-config and nothing else, and the
//! examples that people will copy.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod database;
mod workshop;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use database::{database, made_of};
use reader::HistoryId;
use reader::testing::Db;
use workshop::{Library, Workshop, install, profile_directory, repository, run};

/// For a program to start and to answer.
const SOON: Duration = Duration::from_secs(60);

/// The names in ffi/quicksilver.map.
fn promised() -> BTreeSet<String> {
    let map = fs::read_to_string(repository().join("ffi/quicksilver.map")).unwrap();
    let lines = map.lines().map(str::trim).filter(|line| line.starts_with("qs_"));
    lines.map(|line| line.trim_end_matches(';').to_owned()).collect()
}

/// The names of the functions in the header.
fn declared() -> BTreeSet<String> {
    let header = fs::read_to_string(repository().join("include/quicksilver.h")).unwrap();
    let (_, functions) = header.split_once("extern \"C\" {").unwrap();
    let is_code = |line: &&str| !line.starts_with([' ', '/', '#', '}']);
    let name = |line: &str| {
        let (before, _) = line.split_once('(')?;
        Some(before.rsplit([' ', '*']).next()?.to_owned())
    };
    functions.lines().filter(is_code).filter_map(name).collect()
}

fn exported(library: &Path) -> BTreeSet<String> {
    let symbols = run(Command::new("nm").args(["-D", "--defined-only", "-P"]).arg(library));
    symbols.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn what_is_exported_is_what_is_promised() {
    let workshop = Workshop::open();
    assert_eq!(declared(), promised());
    let library = workshop.libraries().join("libquicksilver.so.1");
    let versioned = promised().into_iter().map(|name| format!("{name}@@QUICKSILVER_1.0"));
    let expected: BTreeSet<String> = versioned.chain(["QUICKSILVER_1.0".to_owned()]).collect();
    assert_eq!(exported(&library), expected);
    let dynamic = run(Command::new("readelf").args(["-d", "-W"]).arg(&library));
    assert!(dynamic.contains("Library soname: [libquicksilver.so.1]"), "{dynamic}");
}

#[test]
fn every_name_is_misused_by_a_test() {
    let misuse = fs::read_to_string(repository().join("tests/c/misuse.c")).unwrap();
    for name in promised().iter().filter(|name| *name != "qs_version") {
        assert!(misuse.contains(&format!("{name}(")), "{name} is not in tests/c/misuse.c");
    }
}

/// What `cargo build` leaves is not what is installed, but must not mislead.
#[test]
fn what_cargo_builds_exports_the_same_names_without_versions() {
    let _built = Workshop::open();
    assert_eq!(exported(&profile_directory().join("libquicksilver.so")), promised());
}

#[test]
fn a_package_remembers_where_it_will_be_and_not_where_it_was_put() {
    let destination = tempfile::tempdir().unwrap();
    let fixed = ["--prefix", "/usr", "--libdir", "/usr/lib/here", "--destdir"].map(OsStr::new);
    install(&[&fixed[..], &[destination.path().as_os_str()]].concat());
    let put = destination.path().join("usr");
    let description = fs::read_to_string(put.join("lib/here/pkgconfig/quicksilver.pc")).unwrap();
    assert!(description.contains("prefix=/usr\nlibdir=/usr/lib/here\n"), "{description}");
    assert!(!description.contains('@'), "{description}");
    let version = env!("CARGO_PKG_VERSION");
    assert!(description.contains(&format!("Version: {version}\n")), "{description}");
    let real = fs::canonicalize(put.join("lib/here/libquicksilver.so")).unwrap();
    assert_eq!(real.file_name().unwrap().to_str().unwrap(), format!("libquicksilver.so.{version}"));
    for header in ["quicksilver.h", "quicksilver.hpp"] {
        assert!(put.join("include").join(header).is_file(), "{header}");
    }
}

#[test]
fn the_c_examples_work() {
    let (workshop, db) = (Workshop::open(), database());
    let ways =
        [(&[][..], Library::Shared), (&[], Library::Static), (&["-static"], Library::Static)];
    for (flags, library) in ways {
        answers(&workshop.build("cc", flags, "ffi/examples/dns.c", library), &db);
        watches(&workshop.build("cc", flags, "ffi/examples/watch.c", library));
    }
}

#[test]
fn the_cpp_examples_work() {
    let (workshop, db) = (Workshop::open(), database());
    let flags = ["-std=c++17"];
    for library in [Library::Shared, Library::Static] {
        answers(&workshop.build("c++", &flags, "ffi/examples/dns.cpp", library), &db);
        watches(&workshop.build("c++", &flags, "ffi/examples/watch.cpp", library));
    }
}

/// What ffi/README.md shows compiles, and does what it says.
#[test]
fn the_readme_is_true() {
    let (workshop, db) = (Workshop::open(), database());
    let readme = fs::read_to_string(repository().join("ffi/README.md")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let cases =
        [("```c\n", "cc", "hello.c", "world\n"), ("```cpp\n", "c++", "hello.cpp", CPP_HELLO)];
    for (fence, compiler, name, expected) in cases {
        let (_, rest) = readme.split_once(fence).unwrap();
        let (code, _) = rest.split_once("```").unwrap();
        let source = dir.path().join(name);
        fs::write(&source, code).unwrap();
        let program = workshop.build(compiler, &[], source.to_str().unwrap(), Library::Shared);
        assert_eq!(run(Command::new(program).arg(db.path())), expected, "{name}");
    }
}

const CPP_HELLO: &str = "world\nzone/example.net 192.0.2.2\nzone/example.org 192.0.2.1\n";

#[test]
fn the_go_examples_work() {
    let (workshop, db) = (Workshop::open(), database());
    let Some(dns) = workshop.build_go("dns") else { return };
    answers(&dns, &db);
    watches(&workshop.build_go("watch").unwrap());
}

/// Starts an example and gives its output, line by line.
fn start(command: &mut Command) -> (Child, impl FnMut() -> String + use<>) {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let next_line = move || {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    (child, next_line)
}

/// Without a database it says why.
fn says_why_it_cannot_open(program: &Path) {
    let refused = Command::new(program).arg("/nonexistent").output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("/nonexistent"), "{said}");
    assert_eq!(Command::new(program).output().unwrap().status.code(), Some(2));
}

/// The example watch: what is there, what changes, and what is there after a restore.
fn watches(program: &Path) {
    says_why_it_cannot_open(program);
    let pairs = [("zone/a", "1"), ("zone/b", "2"), ("other", "3")];
    let db = made_of(&pairs.map(|(key, value)| (key.into(), value.into())));
    let (mut watch, mut line) =
        start(Command::new(program).args(["--once", "6"]).arg(db.path()).arg("zone/"));
    assert_eq!([line(), line()], ["set zone/a 1", "set zone/b 2"]);
    db.apply([("zone/c", Some("4")), ("zone/a", None), ("other", None)]).unwrap();
    assert_eq!([line(), line()], ["set zone/c 4", "del zone/a"]);
    db.replace(HistoryId::random(), [("zone/restored", "5")]).unwrap();
    assert_eq!(line(), "set zone/restored 5");
    db.apply([("zone/restored", Some(""))]).unwrap();
    assert_eq!(line(), "set zone/restored");
    assert!(watch.wait().unwrap().success());
}

/// The example dns.
fn answers(program: &Path, db: &Db) {
    says_why_it_cannot_open(program);
    let questions = [
        ("example.org", "192.0.2.1"),
        ("Example.ORG\n", "192.0.2.1"),
        ("nobody.example", "NXDOMAIN"),
        ("example.net", "192.0.2.2"),
    ];
    let (mut server, mut line) =
        start(Command::new(program).args(["--once", &questions.len().to_string()]).arg(db.path()));
    let listening = line();
    let address = listening.strip_prefix("listening on ").unwrap_or_else(|| panic!("{listening}"));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    for (question, expected) in questions {
        socket.send(question.as_bytes()).unwrap();
        let mut answer = [0; 100];
        let size = socket.recv(&mut answer).unwrap_or_else(|e| panic!("{question:?}: {e}"));
        assert_eq!(String::from_utf8_lossy(&answer[..size]), expected, "{question:?}");
    }
    assert!(server.wait().unwrap().success());
}
