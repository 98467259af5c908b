//! A machine of its own on this one, with a real systemd as its PID 1 and the project installed, so
//! that what an operator types can be typed.
//!
//! It shares the file systems; what it writes to `/etc`, `/usr` and `/var` lands in a temporary
//! directory and goes with it. It has a network of its own, with nothing but loopback.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use nix::unistd::Uid;
use tempfile::TempDir;

use crate::process::{Process, is_installed, scratch_dir};
use crate::{SOON, eventually, poll, skipped};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/scripts/machine.sh");
/// For systemd to be there. It takes a fraction of a second.
const BOOT_DEADLINE: Duration = SOON;
const END_DEADLINE: Duration = SOON;
/// Where the services' log is, inside; there is no journal.
pub const LOG: &str = "/run/quicksilver.log";

/// One that runs. It ends with its handle.
#[derive(Debug)]
pub struct Machine {
    process: Process,
    init: u32,
    /// Removed when it has ended.
    _dir: TempDir,
}

impl Machine {
    /// Boots one that has this name; `None` where that is not possible, with the reason printed.
    pub fn boot(name: &str) -> Option<Machine> {
        if !Uid::effective().is_root() {
            skipped("a machine of its own takes root");
            return None;
        }
        for (program, package) in
            [("/lib/systemd/systemd", "systemd"), ("nsenter", "util-linux"), ("pgrep", "procps")]
        {
            if !is_installed(program) && !Path::new(program).exists() {
                skipped(&format!("{program} is missing: install {package}"));
                return None;
            }
        }
        // Not in /tmp: the services have one of their own.
        let dir = tempfile::Builder::new().prefix("machine-").tempdir_in(scratch_dir());
        let dir = dir.expect("a temporary directory");
        let log = dir.path().join("log");
        let mut process = Process::start(Command::new(SCRIPT).arg(dir.path()).arg(name), &log);
        let booted = dir.path().join("booted");
        let up =
            poll(BOOT_DEADLINE, || (booted.exists() || process.exited().is_some()).then_some(()));
        if up.is_none() || !booted.exists() {
            // Containers may forbid some of it.
            skipped(&format!("no machine can be booted here: {}", process.log_text()));
            process.signal(nix::sys::signal::Signal::SIGTERM);
            return None;
        }
        let init = std::fs::read_to_string(dir.path().join("init")).ok();
        let init = init.and_then(|pid| pid.trim().parse().ok()).expect("its init has a number");
        let machine = Machine { process, init, _dir: dir };
        // Where a journal would take what services say.
        for unit in ["quicksilver", "quicksilver-standby", "quicksilver-upgrade"] {
            machine.sh(&format!(
                "mkdir -p /run/units/{unit}@.service.d
                 printf '[Service]\\nStandardOutput=append:{LOG}\\nStandardError=append:{LOG}\\n' \\
                     >/run/units/{unit}@.service.d/log.conf"
            ));
        }
        Some(machine)
    }

    /// A program that is to run in it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init.to_string(), "-m", "-p", "-n", "-C", "-i", "-u", "--"]);
        command.arg(program);
        command
    }

    /// Runs a shell script as root, and ends at its first failure.
    pub fn run(&self, script: &str) -> Output {
        let mut bash = self.command("bash");
        // Neither what this process is told about databases, nor what another manager told it.
        bash.env_remove("QS_DB").env_remove("QS_SERVER").env_remove("NOTIFY_SOCKET");
        bash.args(["-euo", "pipefail", "-c", script]).output().expect("nsenter runs")
    }

    /// Runs a script that has to succeed, and returns what it printed.
    pub fn sh(&self, script: &str) -> String {
        let output = self.run(script);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            let log = self.log_text();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            panic!(
                "{script}\n{}\n{said}{errors}\nthe log ends with (newest first)\n{}",
                output.status,
                tail.join("\n")
            );
        }
        said
    }

    /// How a path inside is called out here.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    /// What the services have logged.
    pub fn log_text(&self) -> String {
        crate::process::read_log(&self.path(LOG))
    }

    /// A unit's main process, once it has said that it is ready.
    pub fn active_pid(&self, unit: &str) -> Option<u32> {
        let shown = self.sh(&format!("systemctl show -p ActiveState -p MainPID {unit}"));
        let pid = shown.lines().find_map(|line| line.strip_prefix("MainPID="))?;
        let active = shown.lines().any(|line| line == "ActiveState=active");
        pid.parse().ok().filter(|pid| active && *pid != 0)
    }

    /// Its main process's number inside, of a unit that runs.
    pub fn main_pid(&self, unit: &str) -> u32 {
        eventually(&format!("{unit} runs"), END_DEADLINE, || {
            let shown = self.sh(&format!("systemctl show -p MainPID --value {unit}"));
            shown.trim().parse().ok().filter(|pid| *pid != 0)
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_text());
        }
        self.process.signal(nix::sys::signal::Signal::SIGTERM);
        let _ = poll(END_DEADLINE, || self.process.exited());
    }
}
