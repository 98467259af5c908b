//! C and C++ programs against the library as it is shipped: `tests/c/reader.c` uses and misuses
//! every call, linked against the shared and the static library, plain, under AddressSanitizer
//! and under valgrind.
//!
//! Cargo does not build a C library for a test, so the tests do: what they link is never stale.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use reader::testing::Db;
use tempfile::TempDir;

/// What the library exports: a promise. A name that is here never goes away.
const PROMISED: [&str; 23] = [
    "qs_changes_close",
    "qs_changes_next",
    "qs_changes_open",
    "qs_changes_position",
    "qs_close",
    "qs_get",
    "qs_get_into",
    "qs_index",
    "qs_last_error",
    "qs_multi_get",
    "qs_open",
    "qs_scan_begin",
    "qs_scan_end",
    "qs_scan_next",
    "qs_snapshot_begin",
    "qs_snapshot_end",
    "qs_snapshot_get",
    "qs_snapshot_index",
    "qs_status",
    "qs_strerror",
    "qs_value_free",
    "qs_version",
    "qs_wait",
];

/// As strict as the compiler can be about a header that others include.
const WARNINGS: [&str; 6] =
    ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wstrict-aliasing", "-Werror"];

/// What the static library needs beside itself.
const SYSTEM_LIBRARIES: [&str; 4] = ["-llmdb", "-lpthread", "-ldl", "-lm"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Runs a command to its end; anything but success ends the test, with all it said.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout.into_owned()
}

fn is_installed(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

/// The built library and a directory for the programs that use it.
struct Workshop {
    /// Where cargo puts libquicksilver.so and libquicksilver.a.
    libraries: PathBuf,
    dir: TempDir,
}

impl Workshop {
    fn open() -> Self {
        // target/PROFILE/deps/this-test
        let deps = std::env::current_exe().unwrap();
        let libraries = deps.parent().unwrap().parent().unwrap().to_owned();
        let profile = match libraries.file_name().and_then(OsStr::to_str).unwrap() {
            "debug" => "dev",
            other => other,
        };
        run(Command::new(env!("CARGO"))
            .current_dir(repository())
            .args(["build", "--quiet", "--locked", "-p", "quicksilver-ffi", "--profile", profile])
            .arg("--target-dir")
            .arg(libraries.parent().unwrap()));
        let dir = tempfile::tempdir().unwrap();
        // As an installed library lies: under its soname for programs that run.
        std::os::unix::fs::symlink(
            libraries.join("libquicksilver.so"),
            dir.path().join("libquicksilver.so.1"),
        )
        .unwrap();
        Workshop { libraries, dir }
    }

    /// Compiles `source` of tests/c, and links it with `library`.
    fn build(&self, compiler: &str, flags: &[&str], source: &str, library: Library) -> PathBuf {
        let program = self.dir.path().join("program");
        let mut command = Command::new(compiler);
        command
            .args(flags)
            .args(WARNINGS)
            .args(["-g", "-pthread", "-o"])
            .arg(&program)
            .arg("-I")
            .arg(repository().join("include"))
            .arg(repository().join("tests/c").join(source));
        match library {
            Library::Shared => {
                let mut run_path = std::ffi::OsString::from("-Wl,-rpath,");
                run_path.push(self.dir.path());
                command.arg(self.libraries.join("libquicksilver.so")).arg(run_path)
            }
            Library::Static => {
                command.arg(self.libraries.join("libquicksilver.a")).args(SYSTEM_LIBRARIES)
            }
        };
        run(&mut command);
        program
    }
}

#[derive(Clone, Copy)]
enum Library {
    Shared,
    Static,
}

/// What tests/c expects to find.
fn database() -> Db {
    let binary: Vec<u8> = (0..=255).collect();
    let long: Vec<u8> = (0..1_usize << 20).map(|n| (n % 251) as u8).collect();
    let pairs: [(&[u8], &[u8]); 4] =
        [(b"hello", b"world"), (b"bin\0ary", &binary), (b"empty", b""), (b"long", &long)];
    Db::from(pairs).unwrap()
}

fn is_well(command: &mut Command) {
    assert_eq!(run(command), "all is well\n", "{command:?}");
}

#[test]
fn c_with_the_shared_library() {
    let (workshop, db) = (Workshop::open(), database());
    let program = workshop.build("cc", &["-std=gnu11"], "reader.c", Library::Shared);
    is_well(Command::new(&program).arg(db.path()));
    if is_installed("valgrind") {
        is_well(
            Command::new("valgrind")
                .args(["--quiet", "--error-exitcode=99", "--leak-check=full"])
                .args(["--errors-for-leak-kinds=definite,indirect", "--trace-children=yes"])
                .arg(&program)
                .arg(db.path()),
        );
    }
}

#[test]
fn c_with_the_static_library() {
    let (workshop, db) = (Workshop::open(), database());
    let program = workshop.build("cc", &["-std=gnu11"], "reader.c", Library::Static);
    is_well(Command::new(program).arg(db.path()));
}

#[test]
fn c_under_address_sanitizer() {
    let (workshop, db) = (Workshop::open(), database());
    let flags = ["-std=gnu11", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    for library in [Library::Shared, Library::Static] {
        let program = workshop.build("cc", &flags, "reader.c", library);
        is_well(Command::new(program).arg(db.path()));
    }
}

#[test]
fn cpp_takes_the_header() {
    if !is_installed("c++") {
        return;
    }
    let (workshop, db) = (Workshop::open(), database());
    for standard in ["-std=c++11", "-std=c++20"] {
        let program = workshop.build("c++", &[standard], "header.cpp", Library::Shared);
        is_well(Command::new(program).arg(db.path()));
    }
}

#[test]
fn what_is_exported_is_what_is_promised() {
    let workshop = Workshop::open();
    let library = workshop.libraries.join("libquicksilver.so");
    let symbols = run(Command::new("nm").args(["-D", "--defined-only", "-P"]).arg(&library));
    let mut names: Vec<&str> =
        symbols.lines().filter_map(|line| line.split_whitespace().next()).collect();
    names.sort_unstable();
    assert_eq!(names, PROMISED);
    let dynamic = run(Command::new("readelf").args(["-d", "-W"]).arg(&library));
    assert!(dynamic.contains("Library soname: [libquicksilver.so.1]"), "{dynamic}");
    let header = std::fs::read_to_string(repository().join("include/quicksilver.h")).unwrap();
    for name in PROMISED {
        assert!(header.contains(&format!("{name}(")), "{name} is not in the header");
    }
}
