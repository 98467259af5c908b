//! Everything that a program did to the files of one directory, in order.
//!
//! `tests/c/record.c` writes it, from inside the program; the layout is there. A record is there only
//! when the call had succeeded, so a cut between two records is also one in the middle of the later
//! call.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use super::workload::Word;
use crate::process::{scratch_dir, test_binary};

/// One thing that was done. Names are relative to the directory, which itself is the empty name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'t> {
    /// A file that was not there before.
    Create {
        /// Its number, until another file gets it.
        inode: u64,
        /// Its first name.
        name: &'t str,
    },
    /// A directory that was not there before.
    MakeDirectory {
        /// Its number.
        inode: u64,
        /// Its first name.
        name: &'t str,
    },
    /// Bytes were written.
    Write {
        /// To which file.
        inode: u64,
        /// From where on.
        offset: u64,
        /// Them.
        data: &'t [u8],
    },
    /// A file was cut off or extended.
    Resize {
        /// Which one.
        inode: u64,
        /// How long it is now.
        bytes: u64,
    },
    /// A file's content, or a directory's names, are on disk.
    Sync {
        /// Of which file or directory.
        inode: u64,
    },
    /// A part of a file is on disk; about the rest nothing is said.
    SyncRange {
        /// Of which file.
        inode: u64,
        /// From where on.
        offset: u64,
        /// How much.
        bytes: u64,
    },
    /// A file or a directory got another name, in the place of what had that name.
    Rename {
        /// The old one.
        from: &'t str,
        /// The new one.
        to: &'t str,
    },
    /// A file lost its name.
    Unlink {
        /// Which one.
        name: &'t str,
    },
    /// An empty directory is gone.
    RemoveDirectory {
        /// Which one.
        name: &'t str,
    },
    /// The program said something that others rely on from here on.
    Mark(&'t str),
}

/// A recorded run.
#[derive(Debug)]
pub struct Trace {
    bytes: Vec<u8>,
    records: Vec<Range<usize>>,
}

// struct record in record.c: kind u32, name bytes u32, data bytes u64, inode, offset, extent u64.
const HEADER_BYTES: usize = 40;

impl Trace {
    /// Runs `qs-test-workload` in a directory, which is empty in a first run, and records in `file`
    /// what it does, after what is there already. It is killed after `records` of them, or ends.
    ///
    /// # Panics
    /// When it ends otherwise, or cannot be recorded.
    pub fn record(
        dir: &Path,
        file: &Path,
        seed: u64,
        steps: &[&str],
        records: Option<usize>,
    ) -> Trace {
        let recorder = compile("record.c", &["-shared", "-fPIC"]);
        let mut workload = Command::new(test_binary("qs-test-workload"));
        workload.arg(dir).arg(seed.to_string()).args(steps);
        workload.env("LD_PRELOAD", recorder).env("QS_TRACE_FILE", file).env("QS_TRACE_DIR", dir);
        if let Some(records) = records {
            workload.env("QS_TRACE_RECORDS", records.to_string());
        }
        let output = workload.output().expect("the workload starts");
        let said = String::from_utf8_lossy(&output.stderr);
        let as_expected = match records {
            Some(_) => output.status.signal() == Some(Signal::SIGKILL as i32),
            None => output.status.success(),
        };
        assert!(as_expected, "the workload: {}\n{said}", output.status);
        Trace::read(file)
    }

    /// Reads a recorded run.
    ///
    /// # Panics
    /// When it is not one.
    pub fn read(file: &Path) -> Trace {
        let bytes = fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let mut records = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let header = &bytes[at..at + HEADER_BYTES];
            let (name, data) = (u32_at(header, 4) as usize, u64_at(header, 8) as usize);
            let end = at + HEADER_BYTES + name + data;
            assert!(end <= bytes.len(), "{}: ends inside a record", file.display());
            records.push(at..end);
            at = end;
        }
        Trace { bytes, records }
    }

    /// Writes it, for another process to read.
    pub fn write(&self, file: &Path) {
        let bytes: Vec<u8> =
            self.records.iter().flat_map(|record| &self.bytes[record.clone()]).copied().collect();
        fs::write(file, bytes).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    }

    /// What was done.
    pub fn events(&self) -> Vec<Event<'_>> {
        self.records.iter().map(|record| decode(&self.bytes[record.clone()])).collect()
    }

    /// The same run of a program that has forgotten to sync the files and directories whose first
    /// name `forgotten` picks.
    #[must_use]
    pub fn without_syncs(&self, forgotten: impl Fn(&str) -> bool) -> Trace {
        self.without_syncs_in(0..self.records.len(), forgotten)
    }

    /// The same, where it has done so only after so many events, until it says its next word but one:
    /// the first one of a program comes before it has done anything.
    #[must_use]
    pub fn without_syncs_of_start(&self, after: usize, forgotten: impl Fn(&str) -> bool) -> Trace {
        let events = self.events();
        let marks = (after..events.len()).filter(|&n| matches!(events[n], Event::Mark(_)));
        let until = marks.into_iter().nth(1).expect("it says where it opens");
        self.without_syncs_in(after..until, forgotten)
    }

    fn without_syncs_in(&self, when: Range<usize>, forgotten: impl Fn(&str) -> bool) -> Trace {
        let mut names: HashMap<u64, &str> = HashMap::new();
        let mut kept = Vec::new();
        for (n, (event, record)) in self.events().into_iter().zip(&self.records).enumerate() {
            match event {
                Event::Create { inode, name } | Event::MakeDirectory { inode, name } => {
                    names.insert(inode, name);
                }
                Event::Sync { inode } if when.contains(&n) && forgotten(names[&inode]) => continue,
                _ => {}
            }
            kept.push(record.clone());
        }
        assert!(kept.len() < self.records.len(), "no such file or directory was synced");
        Trace { bytes: self.bytes.clone(), records: kept }
    }
}

/// What was said in these events.
pub fn words(events: &[Event<'_>]) -> Vec<Word> {
    let lines = events.iter().filter_map(|event| match event {
        Event::Mark(line) => Some(line),
        _ => None,
    });
    lines.map(|line| line.parse().unwrap_or_else(|e| panic!("{e}"))).collect()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn decode(record: &[u8]) -> Event<'_> {
    let (header, rest) = record.split_at(HEADER_BYTES);
    let (name, data) = rest.split_at(u32_at(header, 4) as usize);
    let text = |bytes| std::str::from_utf8(bytes).expect("names and words are text");
    let name = text(name);
    let (inode, offset, extent) = (u64_at(header, 16), u64_at(header, 24), u64_at(header, 32));
    match u32_at(header, 0) {
        1 => Event::Create { inode, name },
        2 => Event::MakeDirectory { inode, name },
        3 => Event::Write { inode, offset, data },
        4 => Event::Resize { inode, bytes: extent },
        5 => Event::Sync { inode },
        6 => Event::SyncRange { inode, offset, bytes: extent },
        7 => {
            let (from, to) = name.split_once('\0').expect("two names");
            Event::Rename { from, to }
        }
        8 => Event::Unlink { name },
        9 => Event::RemoveDirectory { name },
        10 => Event::Mark(text(data)),
        kind => panic!("a record of kind {kind}"),
    }
}

/// Compiles one of the sources in `tests/c`, unless that was done since it was changed; where the
/// result is.
///
/// # Panics
/// With what the compiler says.
pub fn compile(source: &str, flags: &[&str]) -> PathBuf {
    const WARNINGS: [&str; 5] = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror"];
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("c").join(source);
    let compiled = scratch_dir().join(source.file_stem().expect("a source has a name"));
    let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
    if changed(&compiled) > changed(&source) {
        return compiled;
    }
    // Another test may do the same at this moment.
    let workshop = tempfile::tempdir_in(scratch_dir()).expect("a directory can be made");
    let mine = workshop.path().join("compiled");
    let mut compiler = Command::new("cc");
    compiler.args(flags).args(WARNINGS).arg("-O1").arg(&source).arg("-o").arg(&mine);
    let output = compiler.output().expect("there is a C compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&mine, &compiled).unwrap_or_else(|e| panic!("{}: {e}", compiled.display()));
    compiled
}
