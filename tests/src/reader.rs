//! A separate process that reads a node's memory through the reader library: `qs-test-reader`.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::SOON;
use crate::process::{Process, test_binary};

/// For a reader that said no to be gone.
const DEATH_DEADLINE: Duration = SOON;

/// One reader process. It ends with its handle.
#[derive(Debug)]
pub struct ReaderProcess {
    process: Process,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl ReaderProcess {
    /// Opens the database in `data_dir`.
    ///
    /// # Panics
    /// When it cannot be opened.
    pub fn open(data_dir: &Path) -> ReaderProcess {
        let mut command = Command::new(test_binary("qs-test-reader"));
        command.arg(data_dir);
        ReaderProcess::start(command)
    }

    /// The same in the user and mount namespaces of another process.
    pub fn open_beside(pid: u32, data_dir: &Path) -> ReaderProcess {
        let mut command = Command::new("nsenter");
        command.args(["--preserve-credentials", "-U", "-m", "-t", &pid.to_string()]);
        command.arg(test_binary("qs-test-reader")).arg(data_dir);
        ReaderProcess::start(command)
    }

    /// Starts the program by a command that ends with its name and the database's directory.
    ///
    /// # Panics
    /// When it cannot be opened.
    pub fn start(mut command: Command) -> ReaderProcess {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start_as_is(&mut command, Path::new("/dev/null"));
        let questions = process.child().stdin.take().expect("it was piped");
        let answers = BufReader::new(process.child().stdout.take().expect("it was piped"));
        let mut reader = ReaderProcess { process, questions, answers };
        let opened = reader.answer();
        if opened != "open" {
            let status = reader.process.await_exit(DEATH_DEADLINE);
            panic!("{command:?}: {opened:?}, {status}");
        }
        reader
    }

    /// One question and its answer; see the program's own text for which there are.
    pub fn ask(&mut self, question: &str) -> String {
        self.send(question);
        self.answer()
    }

    /// A question whose answer will be collected later, with [`ReaderProcess::answer`].
    pub fn send(&mut self, question: &str) {
        writeln!(self.questions, "{question}").expect("the reader listens");
    }

    /// The next answer; empty when the process has ended.
    pub fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the reader answers text");
        line.trim_end().to_owned()
    }

    /// Asserts that a key comes to hold a value (`None`: no such key).
    pub fn await_value(&mut self, key: &str, value: Option<&[u8]>, within: Duration) {
        let wanted = value.map_or_else(|| "none".to_owned(), crate::fingerprint);
        let answer = self.ask(&format!("await {key} {wanted} {}", within.as_millis()));
        assert_eq!(answer, "seen", "{key} = {wanted} within {within:?}");
    }

    /// Asserts that everything in the database is what was written.
    pub fn assert_verified(&mut self) -> String {
        let answer = self.ask("verify");
        assert!(answer.starts_with("clean"), "{answer}");
        answer
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends it a signal.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }
}
