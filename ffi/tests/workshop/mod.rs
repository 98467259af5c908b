//! The library as it is installed, and the programs that are built with it.
//!
//! `scripts/install` builds and links it each time, so what is tested is never stale. Also used by
//! `tests/tests/c_programs.rs`.
#![allow(dead_code, reason = "each test program uses its part")]

mod go;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// As strict as the compiler can be about a header that others include.
const WARNINGS: [&str; 7] =
    ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wstrict-aliasing", "-Werror"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Library {
    Shared,
    Static,
}

/// An installed library, gone when this is.
pub(crate) struct Workshop {
    prefix: TempDir,
}

impl Workshop {
    pub(crate) fn open() -> Self {
        let prefix = tempfile::tempdir().unwrap();
        install(&["--prefix".as_ref(), prefix.path().as_os_str()]);
        Workshop { prefix }
    }

    pub(crate) fn libraries(&self) -> PathBuf {
        self.prefix.path().join("lib")
    }

    pub(crate) fn headers(&self) -> PathBuf {
        self.prefix.path().join("include")
    }

    /// What `pkg-config` says.
    pub(crate) fn pkg_config(&self, arguments: &[&str]) -> Vec<String> {
        let said = run(Command::new("pkg-config")
            .env("PKG_CONFIG_PATH", self.libraries().join("pkgconfig"))
            .args(arguments)
            .arg("quicksilver"));
        said.split_whitespace().map(str::to_owned).collect()
    }

    /// Compiles a source file of the repository, and links it.
    pub(crate) fn build(
        &self,
        compiler: &str,
        flags: &[&str],
        source: &str,
        library: Library,
    ) -> PathBuf {
        let source = repository().join(source);
        let program = self.prefix.path().join(source.with_extension("").file_name().unwrap());
        let mut command = Command::new(compiler);
        command.args(flags).args(WARNINGS).args(["-g", "-pthread", "-o"]).arg(&program);
        command.arg(&source);
        match library {
            Library::Shared => command
                .args(self.pkg_config(&["--cflags", "--libs"]))
                .arg(format!("-Wl,-rpath,{}", self.libraries().display())),
            // The linker prefers a shared library of that name.
            Library::Static => command.args(
                self.pkg_config(&["--cflags", "--libs", "--static"]).into_iter().map(|word| {
                    if word == "-lquicksilver" { "-l:libquicksilver.a".to_owned() } else { word }
                }),
            ),
        };
        run(&mut command);
        program
    }
}

/// Runs `scripts/install` with what cargo builds in the profile of this test.
pub(crate) fn install(arguments: &[&OsStr]) {
    let directory = profile_directory();
    let profile = match directory.file_name().and_then(OsStr::to_str).unwrap() {
        "debug" => "dev",
        other => other,
    };
    run(Command::new(repository().join("scripts/install"))
        .env("CARGO_TARGET_DIR", directory.parent().unwrap())
        .args(["--profile", profile])
        .args(arguments));
}

/// Where cargo puts what it builds: target/PROFILE, of target/PROFILE/deps/this-test.
pub(crate) fn profile_directory() -> PathBuf {
    std::env::current_exe().unwrap().parent().and_then(Path::parent).unwrap().to_owned()
}

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Runs a command to its end; anything but success ends the test, with all it said.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout.into_owned()
}

/// Whether a program is there; says so when it is not.
pub(crate) fn is_installed(program: &str) -> bool {
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

/// Runs a test program, which says that all is well.
pub(crate) fn is_well(command: &mut Command) {
    assert_eq!(run(command), "all is well\n", "{command:?}");
}

/// The same under valgrind, if that is there.
pub(crate) fn is_well_under_valgrind(program: &Path, database: &Path) {
    if is_installed("valgrind") {
        is_well(
            Command::new("valgrind")
                .args(["--quiet", "--error-exitcode=99", "--leak-check=full", "--fair-sched=yes"])
                .args(["--errors-for-leak-kinds=definite,indirect", "--trace-children=yes"])
                .arg(program)
                .arg(database),
        );
    }
}
