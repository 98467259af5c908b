//! The peers that are written in C: compiled on the spot against the system's liblmdb.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::Result;

/// Compiles `source`, a path below `bench/`, into `dir` with `cc -O2`.
pub fn compile(source: &str, dir: &Path) -> Result<PathBuf> {
    compile_with(source, dir, &["-llmdb".into(), "-lpthread".into()])
}

/// The same for a program that is a user of libquicksilver: the one beside this program.
pub fn compile_with_quicksilver(source: &str, dir: &Path) -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let libraries = program.parent().ok_or("a program is in a directory")?;
    let library = libraries.join("libquicksilver.so");
    if !library.exists() {
        return Err(format!("{} is not built: use scripts/bench", library.display()).into());
    }
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../include");
    // A build leaves the library under its plain name; programs look for its soname.
    let soname = dir.join("libquicksilver.so.1");
    if !soname.exists() {
        std::os::unix::fs::symlink(&library, soname)?;
    }
    let mut run_path = OsString::from("-Wl,-rpath,");
    run_path.push(dir);
    compile_with(source, dir, &["-I".into(), include.into(), library.into(), run_path])
}

fn compile_with(source: &str, dir: &Path, more: &[OsString]) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    let program = dir.join(source.file_stem().ok_or("a source has a name")?);
    let status = Command::new("cc")
        .args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-o"])
        .args([&program, &source])
        .args(more)
        .status()
        .map_err(|e| format!("cc cannot be started: {e}"))?;
    if !status.success() {
        return Err(format!("cc could not compile {}", source.display()).into());
    }
    Ok(program)
}

/// A peer that answers one line for every line it is told.
#[derive(Debug)]
pub struct Dialogue {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl Dialogue {
    /// Starts it.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (to, from) = (child.stdin.take(), child.stdout.take());
        let from = BufReader::new(from.ok_or("no pipe from the peer")?);
        Ok(Dialogue { child, to, from })
    }

    /// One question, one answer: its numbers.
    pub fn ask(&mut self, question: &str) -> Result<Vec<u64>> {
        self.send(question)?;
        self.answer()
    }

    /// A question whose answer will be taken later, with [`Dialogue::answer`].
    pub fn send(&mut self, question: &str) -> Result<()> {
        Ok(writeln!(self.to.as_mut().ok_or("no pipe to the peer")?, "{question}")?)
    }

    /// The next answer.
    pub fn answer(&mut self) -> Result<Vec<u64>> {
        let mut answer = String::new();
        if self.from.read_line(&mut answer)? == 0 {
            return Err("the peer ended".into());
        }
        Ok(answer.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        // The end of its input ends it.
        self.to = None;
        let _ = self.child.wait();
    }
}
