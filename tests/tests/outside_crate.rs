//! A crate outside this repository depends on the reader: it builds without our
//! `.cargo/config.toml`, so with the LMDB 0.9.21 that lmdb-sys bundles, and reads a database
//! that the system's LMDB wrote and holds open.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use quicksilver::testing::Db;
use quicksilver_tests::{Cluster, SOON};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Where the outside crate's build is kept between runs: beside ours, not in it.
fn target_dir() -> PathBuf {
    // target/PROFILE/deps/this-test
    let deps = std::env::current_exe().unwrap();
    deps.ancestors().nth(3).unwrap().join("outside-crate")
}

fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output();
    output.unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// Copies tests/outside-crate out of the repository, builds it there, and returns the program.
fn build() -> PathBuf {
    let here = repository().join("tests/outside-crate");
    let away = tempfile::tempdir().unwrap();
    let manifest = fs::read_to_string(here.join("Cargo.toml")).unwrap();
    let reader = repository().join("reader-lib");
    let moved = manifest.replace("../../reader-lib", reader.to_str().unwrap());
    assert_ne!(moved, manifest, "the path to the reader was not found in {manifest}");
    fs::write(away.path().join("Cargo.toml"), moved).unwrap();
    // The same versions as ours: nothing new is downloaded.
    fs::copy(repository().join("Cargo.lock"), away.path().join("Cargo.lock")).unwrap();
    fs::create_dir(away.path().join("src")).unwrap();
    fs::copy(here.join("src/main.rs"), away.path().join("src/main.rs")).unwrap();

    let mut command = Command::new(env!("CARGO"));
    // Cargo hands a test its package's variables, and the configuration's.
    for (name, _) in std::env::vars_os() {
        let name = name.into_string().unwrap_or_default();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command.env_remove("PKG_CONFIG_PATH").current_dir(away.path());
    let output = run(command.args(["build", "--target-dir"]).arg(target_dir()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    target_dir().join("debug/outside-crate")
}

/// Has the outside crate print `key` of the database in `dir`.
fn read_from_outside(program: &Path, dir: &Path, key: &str) -> Option<Vec<u8>> {
    let output = run(Command::new(program).arg(dir).arg(key));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.is_empty(), "{key}: {}: {said}", output.status);
    output.status.success().then_some(output.stdout)
}

#[test]
fn a_crate_outside_the_repository_reads() {
    let program = build();
    let linked = run(Command::new("ldd").arg(&program));
    let linked = String::from_utf8(linked.stdout).unwrap();
    assert!(!linked.contains("liblmdb"), "it was to bundle its own LMDB: {linked}");

    let long = "chunk after chunk ".repeat(1000);
    let db = Db::from([("hello", "world"), ("long", &long)]).unwrap();
    // Two releases of LMDB have it open at once.
    let reader = db.reader();
    for _ in 0..10 {
        assert_eq!(read_from_outside(&program, db.path(), "hello").unwrap(), b"world");
        assert_eq!(reader.get(b"hello").unwrap().unwrap(), b"world");
    }
    assert_eq!(read_from_outside(&program, db.path(), "long").unwrap(), long.as_bytes());
    assert_eq!(read_from_outside(&program, db.path(), "nobody"), None);
}

#[test]
fn a_crate_outside_the_repository_reads_a_live_leaf() {
    let program = build();
    let cluster = Cluster::three_tiers();
    let mut root = cluster.node("root").client();
    let leaf = cluster.node("leaf-1").data_dir();
    for n in 0..20 {
        let value = format!("{n} ").repeat(3000);
        assert!(root.call(&["SET", "counter", &n.to_string()]).unwrap().is_ok());
        assert!(root.call(&["SET", "long", &value]).unwrap().is_ok());
        cluster.await_converged(SOON);
        let found = read_from_outside(&program, &leaf, "counter").unwrap();
        assert_eq!(found, n.to_string().as_bytes());
        assert_eq!(read_from_outside(&program, &leaf, "long").unwrap(), value.as_bytes());
    }
}
