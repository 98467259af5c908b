//! What is installed: exactly the promised names, found by pkg-config and nothing else, and the
//! examples that people will copy.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod workshop;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use reader::testing::Db;
use workshop::{Library, Workshop, database, repository, run};

/// For a program to start and to answer.
const SOON: Duration = Duration::from_secs(20);

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
    let test = std::env::current_exe().unwrap();
    let library = test.parent().and_then(Path::parent).unwrap().join("libquicksilver.so");
    assert_eq!(exported(&library), promised());
}

#[test]
fn a_package_remembers_where_it_will_be_and_not_where_it_was_put() {
    let workshop = Workshop::open();
    let destination = tempfile::tempdir().unwrap();
    let test = std::env::current_exe().unwrap();
    let target = test.parent().and_then(Path::parent).and_then(Path::parent).unwrap();
    run(Command::new(repository().join("scripts/install"))
        .env("CARGO_TARGET_DIR", target)
        .args(["--profile", "dev", "--prefix", "/usr", "--libdir", "/usr/lib/here", "--destdir"])
        .arg(destination.path()));
    drop(workshop);
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
fn the_c_example_answers() {
    let (workshop, db) = (Workshop::open(), database());
    for library in [Library::Shared, Library::Static] {
        answers(&workshop.build("cc", &[], "ffi/examples/dns.c", library), &db);
    }
    let program = workshop.build("cc", &["-static"], "ffi/examples/dns.c", Library::Static);
    answers(&program, &db);
}

#[test]
fn the_cpp_example_answers() {
    let (workshop, db) = (Workshop::open(), database());
    for library in [Library::Shared, Library::Static] {
        let program = workshop.build("c++", &["-std=c++17"], "ffi/examples/dns.cpp", library);
        answers(&program, &db);
    }
}

fn answers(program: &Path, db: &Db) {
    let questions = [
        ("example.org", "192.0.2.1"),
        ("Example.ORG\n", "192.0.2.1"),
        ("nobody.example", "NXDOMAIN"),
        ("example.net", "192.0.2.2"),
    ];
    let mut server = Command::new(program)
        .args(["--once", &questions.len().to_string()])
        .arg(db.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line:?}"));
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

    // Without a database it says why.
    let refused = Command::new(program).arg("/nonexistent").output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("/nonexistent"), "{said}");
}
