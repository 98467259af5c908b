//! One child process and its log file.
//!
//! Invariants: it is signalled by pid and only while it is our unreaped child, so the pid cannot
//! be somebody else's; dropping it kills and reaps it.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{SOON, eventually};

/// Where to look for `quicksilverd` and `qsctl` instead of beside the test.
const BIN_DIR_VARIABLE: &str = "QS_BIN_DIR";
/// For a killed process to be gone.
const DEATH_DEADLINE: Duration = SOON;

/// A running or exited child.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts it, with standard output and error appended to `log`.
    pub fn start(command: &mut Command, log: &Path) -> Process {
        let out = append_to(log);
        let err = out.try_clone().expect("a descriptor can be duplicated");
        Process::start_as_is(command.stdin(Stdio::null()).stdout(out).stderr(err), log)
    }

    /// Starts it with the descriptors that `command` already names; `log` is where it logs.
    pub fn start_as_is(command: &mut Command, log: &Path) -> Process {
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
        Process { child, log: log.to_owned(), status: None }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The handle, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("our own child can be waited for");
        }
        self.status
    }

    /// Sends a signal, unless it has exited.
    pub fn signal(&mut self, signal: Signal) {
        if self.exited().is_none() {
            let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid fits"));
            kill(pid, signal).expect("our own child can be signalled");
        }
    }

    /// Waits for its end.
    pub fn await_exit(&mut self, within: Duration) -> ExitStatus {
        let what = format!("the end of process {}", self.pid());
        eventually(&what, within, || self.exited())
    }

    /// Waits for its end, and looks all the time: for who measures how long that takes.
    pub fn await_exit_at_once(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(Instant::now() < deadline, "process {} did not end", self.pid());
            std::thread::yield_now();
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill9(&mut self) -> ExitStatus {
        self.signal(Signal::SIGKILL);
        self.await_exit(DEATH_DEADLINE)
    }

    /// SIGTERM, and waits until it has left.
    pub fn term(&mut self, within: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.await_exit(within)
    }

    /// Everything it has logged.
    pub fn log_text(&self) -> String {
        read_log(&self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody is left to be told of an error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file that is created if need be, and appended to.
pub fn append_to(path: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What is in a log, without terminal colours.
pub fn read_log(path: &Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c == '\u{1b}' {
            let _ = rest.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(c);
        }
    }
    plain
}

/// The path of one of the project's programs: beside the test (`target/debug/deps/x` is beside
/// `target/debug/quicksilverd`), built when it is not there yet, or in `QS_BIN_DIR`.
pub fn binary(name: &str) -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let dir = DIR.get_or_init(|| match std::env::var_os(BIN_DIR_VARIABLE) {
        Some(dir) => PathBuf::from(dir),
        None => {
            let dir = directory_beside_the_test();
            if !dir.join("quicksilverd").exists() || !dir.join("qsctl").exists() {
                build(&dir, &["-p", "quicksilver-replicator", "--bins"]);
            }
            dir
        }
    });
    dir.join(name)
}

/// Whose programs are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Release {
    /// The release that the tests were built with.
    #[default]
    This,
    /// The release after it: the same source as its own successor, with a newest format and a newest
    /// protocol version of one more.
    Next,
}

impl Release {
    /// The path of one of its programs.
    pub fn binary(self, name: &str) -> PathBuf {
        match self {
            Release::This => binary(name),
            Release::Next => next_binary(name),
        }
    }
}

/// As [`binary`], of the release after this one, in a directory of its own: `target/next/debug`
/// beside `target/debug`. Only what the feature changes is compiled, because what lies between
/// source and program is shared with the usual build, which it leaves as it is. (A cargo before 1.91
/// does not share, and takes minutes the first time.)
fn next_binary(name: &str) -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        let dir = directory_beside_the_test();
        let (target, profile) =
            (dir.parent().expect("a profile"), dir.file_name().expect("a name"));
        let next = target.join("next");
        let mut cargo = cargo_build(
            &dir,
            &["-p", "quicksilver-replicator", "--features", "next-release", "--bins"],
        );
        cargo.env("CARGO_BUILD_BUILD_DIR", target).arg("--target-dir").arg(&next);
        let status = cargo.status().expect("cargo runs");
        assert!(status.success(), "the release after this one could not be built");
        next.join(profile)
    });
    dir.join(name)
}

/// The path of one of the reader's examples: beside the test, built when it is not there yet.
pub fn example(name: &str) -> PathBuf {
    let dir = directory_beside_the_test();
    let path = dir.join("examples").join(name);
    if !path.exists() {
        build(&dir, &["-p", "quicksilver-kv", "--examples"]);
    }
    path
}

/// The path of one of this package's own programs.
pub fn test_binary(name: &str) -> PathBuf {
    directory_beside_the_test().join(name)
}

/// Where things may be kept from one run to the next: the target directory's own `tmp`.
pub fn scratch_dir() -> PathBuf {
    let target = directory_beside_the_test().parent().map(Path::to_owned).unwrap_or_default();
    let dir = target.join("tmp");
    std::fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    dir
}

/// The profile that the test was built with, as cargo's `--profile` calls it.
pub fn profile() -> &'static str {
    if directory_beside_the_test().ends_with("release") { "release" } else { "dev" }
}

fn directory_beside_the_test() -> PathBuf {
    let test = std::env::current_exe().expect("a process knows its program");
    let dir = test.parent().expect("a program is in a directory");
    let dir = if dir.ends_with("deps") { dir.parent().expect("deps is in a profile") } else { dir };
    dir.to_owned()
}

fn cargo_build(dir: &Path, what: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.arg("build").args(what);
    if dir.ends_with("release") {
        cargo.arg("--release");
    }
    cargo
}

fn build(dir: &Path, what: &[&str]) {
    let status = cargo_build(dir, what).status().expect("cargo runs");
    assert!(status.success(), "cargo build {what:?} failed");
}

/// Whether a program can be found.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).exists())
}

/// Whether strace can trace a process here: containers may forbid it.
pub fn strace_works() -> bool {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-e", "trace=fdatasync", "true"]);
    strace.output().is_ok_and(|output| output.status.success())
}

/// The words before a program whose system calls are to go wrong as `fault` says: one, or several
/// with commas between them. The program keeps the pid, and strace ends with it.
pub fn with_faulty(calls: &str, fault: &str) -> Vec<String> {
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{fault}"));
    ["strace", "-D", "-f", "-o", "/dev/null", "-e", &trace, "-e", &inject]
        .map(str::to_owned)
        .to_vec()
}

/// The same for `fdatasync`, which ends every commit.
pub fn with_faulty_sync(fault: &str) -> Vec<String> {
    with_faulty("fdatasync", fault)
}
