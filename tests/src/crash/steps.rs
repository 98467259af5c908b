//! A workload under strace: which system calls it makes, and what becomes of it when one of them
//! goes wrong.

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::replay::scratch;
use super::workload::Word;
use crate::process::test_binary;

/// One system call of a run, the n-th of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Such as `pwrite64`.
    pub name: String,
    /// From one on, since the program began.
    pub nth: usize,
    /// As strace shows it.
    pub text: String,
}

impl Call {
    /// Whether the program says a word with it.
    pub fn says(&self) -> bool {
        self.text.starts_with("write(1<")
    }

    /// Whether it writes to a file of the database, or makes it durable.
    pub fn stores(&self) -> bool {
        let names = ["write", "writev", "pwrite64", "pwritev", "fsync", "fdatasync", "ftruncate"];
        // Which process holds the lock is noted for people, and may be missing.
        names.contains(&&*self.name) && !self.says() && !self.text.contains("/role.lock>")
    }
}

/// What is done to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The program is killed before it.
    Kill,
    /// It fails with this error.
    Error(&'static str),
    /// It and all later ones of its name fail with this error.
    ErrorsFromThenOn(&'static str),
}

/// What became of a run.
#[derive(Debug)]
pub struct Ended {
    /// What the program said.
    pub words: Vec<Word>,
    /// How it ended.
    pub status: ExitStatus,
    /// What it complained about.
    pub complaint: String,
    /// What it left.
    pub data: TempDir,
}

impl Ended {
    /// Whether it was killed, as it was to be.
    pub fn was_killed(&self) -> bool {
        self.status.signal() == Some(Signal::SIGKILL as i32)
    }
}

/// Steps of a workload, from the same beginning each time.
#[derive(Debug)]
pub struct Workload {
    base: TempDir,
    seed: u64,
    steps: Vec<String>,
}

impl Workload {
    /// After `before`, which nothing is done to, come `steps`.
    ///
    /// # Panics
    /// When the steps before cannot be done.
    pub fn new(seed: u64, before: &[&str], steps: &[&str]) -> Workload {
        let base = scratch();
        if !before.is_empty() {
            let mut program = Command::new(test_binary("qs-test-workload"));
            let output = program.arg(base.path()).arg(seed.to_string()).args(before).output();
            let output = output.expect("the workload starts");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let steps = steps.iter().map(|&step| step.to_owned()).collect();
        Workload { base, seed, steps }
    }

    /// From what another run has left.
    pub fn after(ended: Ended, seed: u64, steps: &[&str]) -> Workload {
        let steps = steps.iter().map(|&step| step.to_owned()).collect();
        Workload { base: ended.data, seed, steps }
    }

    /// Where it begins.
    pub fn path(&self) -> &Path {
        self.base.path()
    }

    /// The system calls of its first thread, from the moment when it says its first word to its end.
    ///
    /// # Panics
    /// When it fails.
    pub fn calls(&self) -> Vec<Call> {
        let trace = self.base.path().with_extension("strace");
        let ended = self.run(&["-y", "-o", &trace.display().to_string()]);
        let text = fs::read_to_string(&trace).expect("strace has written its file");
        fs::remove_file(&trace).expect("it can be removed again");
        assert!(ended.status.success(), "{}", ended.complaint);
        let mut counts: HashMap<&str, usize> = HashMap::new();
        let mut calls: Vec<Call> = Vec::new();
        let first_thread = text.split_once(' ').map_or("", |(pid, _)| pid);
        for line in text.lines() {
            // 4711  fdatasync(5</the/directory/data.mdb>)  = 0
            let Some(call) = line.strip_prefix(first_thread).map(str::trim_start) else { continue };
            let Some((name, _)) = call.split_once('(') else { continue };
            let nth = counts.entry(name).or_default();
            *nth += 1;
            let call = Call { name: name.to_owned(), nth: *nth, text: call.to_owned() };
            if !calls.is_empty() || call.says() {
                calls.push(call);
            }
        }
        calls
    }

    /// A run in which one call goes wrong.
    pub fn with_fault(&self, call: &Call, fault: Fault) -> Ended {
        let Call { name, nth, .. } = call;
        let what = match fault {
            Fault::Kill => format!("signal=KILL:when={nth}"),
            Fault::Error(errno) => format!("error={errno}:when={nth}"),
            Fault::ErrorsFromThenOn(errno) => format!("error={errno}:when={nth}+"),
        };
        let (trace, inject) = (format!("trace={name}"), format!("inject={name}:{what}"));
        self.run(&["-o", "/dev/null", "-e", &trace, "-e", &inject])
    }

    fn run(&self, strace: &[&str]) -> Ended {
        let data = scratch();
        copy(self.base.path(), data.path());
        let output = Command::new("strace")
            .arg("-f")
            .args(strace)
            .arg(test_binary("qs-test-workload"))
            .arg(data.path())
            .arg(self.seed.to_string())
            .args(&self.steps)
            .output()
            .expect("strace starts");
        let said = String::from_utf8(output.stdout).expect("words are text");
        let words = said.lines().map(|line| line.parse().unwrap_or_else(|e| panic!("{e}")));
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        Ended { words: words.collect(), status: output.status, complaint, data }
    }
}

fn copy(from: &Path, to: &Path) {
    let done = |path: PathBuf, result: std::io::Result<()>| {
        result.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    };
    for entry in fs::read_dir(from).expect("a directory of the test").filter_map(Result::ok) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            done(to.clone(), fs::create_dir(&to));
            copy(&from, &to);
        } else {
            done(to.clone(), fs::copy(&from, &to).map(drop));
        }
    }
}
