//! The Go package against the library as it is installed: formatted, vetted, tested with the race
//! detector and the checks of what crosses into C, and used by a module of somebody else.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod workshop;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use workshop::{Workshop, profile_directory, repository, run};

/// The program that makes the databases of the tests.
fn qsctl() -> PathBuf {
    let directory = profile_directory();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(repository()).env("CARGO_TARGET_DIR", directory.parent().unwrap());
    cargo.args(["build", "--quiet", "--locked", "-p", "quicksilver-replicator", "--bin", "qsctl"]);
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    run(&mut cargo);
    directory.join("qsctl")
}

#[test]
fn it_is_formatted_and_passes_its_own_tests() {
    let workshop = Workshop::open();
    let Some(mut vet) = workshop.go(&["vet", "./..."]) else { return };
    let unformatted = run(Command::new("gofmt").arg("-l").arg(repository().join("ffi/go")));
    assert_eq!(unformatted, "", "gofmt -w would change these");
    run(&mut vet);
    let mut test = workshop.go(&["test", "-race", "-count=1", "./..."]).unwrap();
    // The thorough check of pointers moved, with Go 1.21.
    let version = run(&mut workshop.go(&["env", "GOVERSION"]).unwrap());
    match version.trim() {
        "go1.19" | "go1.20" => test.env("GODEBUG", "cgocheck=2"),
        old if old.starts_with("go1.19.") || old.starts_with("go1.20.") => {
            test.env("GODEBUG", "cgocheck=2")
        }
        _ => test.env("GOEXPERIMENT", "cgocheck2"),
    };
    println!("{}", run(test.env("QSCTL", qsctl())));
}

/// What ffi/go/README.md says, in a module that knows nothing of this repository.
#[test]
fn a_module_of_somebody_else_reads() {
    let workshop = Workshop::open();
    let readme = fs::read_to_string(repository().join("ffi/go/README.md")).unwrap();
    let (_, program) = readme.split_once("```go\n").unwrap();
    let (program, _) = program.split_once("```").unwrap();
    let module = tempfile::tempdir().unwrap();
    fs::write(module.path().join("main.go"), program).unwrap();
    let package = repository().join("ffi/go").display().to_string();
    let replace = format!("-replace=quicksilver={package}");
    let steps = [
        &["mod", "init", "hello"][..],
        &["mod", "edit", "-require=quicksilver@v0.0.0", &replace],
        &["build", "-o", "hello", "."],
    ];
    for step in steps {
        let Some(mut go) = workshop.go(step) else { return };
        run(go.current_dir(module.path()));
    }
    let database = module.path().join("database");
    let lines = module.path().join("lines");
    fs::write(&lines, "hello\tworld\n").unwrap();
    run(Command::new(qsctl()).arg("build").arg(&database).arg(lines));
    let said = run(Command::new(module.path().join("hello")).arg(&database));
    assert_eq!(said, "world\n");
}
