//! Who reads how, and beside whom.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use quicksilver_bench::dataset::{self, Distribution, KEY_BYTES};
use quicksilver_bench::peer::{self, Dialogue};
use quicksilver_bench::{Result, stats};
use quicksilver_format::layout::Generation;

/// A program that reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// `read/peer.c`.
    Lmdb,
    /// `child.rs`.
    Rust,
    /// `read/c-abi.c`.
    CAbi,
}

/// How one round of gets is made.
#[derive(Debug, PartialEq)]
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) program: Program,
    /// What the program is told.
    word: &'static str,
    /// The name of the way that it is compared with.
    pub(crate) beside: Option<&'static str>,
    /// Its time is at most so many times the other's, among many keys.
    pub(crate) target: Option<f64>,
}

/// What everything is compared with.
pub(crate) const PLAIN: &str = "LMDB in C";
const PLAIN_READ: &str = "LMDB in C, value read whole";
const PLAIN_INTO: &str = "LMDB in C, copied to a buffer";
const PLAIN_COPY: &str = "LMDB in C, copied to new memory";
const PLAIN_ONE: &str = "LMDB in C, one transaction";
pub(crate) const GET_WITH: &str = "Reader::get_with";

const fn lmdb(name: &'static str, word: &'static str) -> Way {
    Way { name, program: Program::Lmdb, word, beside: None, target: None }
}

const fn ours(
    name: &'static str,
    program: Program,
    word: &'static str,
    beside: &'static str,
    target: Option<f64>,
) -> Way {
    Way { name, program, word, beside: Some(beside), target }
}

pub(crate) const WAYS: [Way; 14] = [
    lmdb(PLAIN, "renew"),
    lmdb(PLAIN_READ, "sum"),
    lmdb(PLAIN_INTO, "into"),
    lmdb(PLAIN_COPY, "copy"),
    lmdb(PLAIN_ONE, "one"),
    ours("our LMDB layer, no CRC", Program::Rust, "layer", PLAIN, None),
    ours(GET_WITH, Program::Rust, "with", PLAIN, Some(1.15)),
    ours("Reader::get_with, both read whole", Program::Rust, "with", PLAIN_READ, None),
    ours("Reader::get_into, both copied", Program::Rust, "into", PLAIN_INTO, None),
    ours("Reader::get, both copied", Program::Rust, "get", PLAIN_COPY, None),
    ours("Snapshot::get, one snapshot", Program::Rust, "snapshot", PLAIN_ONE, Some(1.15)),
    ours("qs_get_into a buffer", Program::CAbi, "into", PLAIN, Some(1.25)),
    ours("qs_get, both copied", Program::CAbi, "get", PLAIN_COPY, Some(1.25)),
    ours("qs_snapshot_get, one snapshot", Program::CAbi, "snapshot", PLAIN_ONE, None),
];

/// Where a way stands in [`WAYS`].
pub(crate) fn position(name: &str) -> usize {
    WAYS.iter().position(|way| way.name == name).unwrap_or(0)
}

/// The compiled peers, and where they read.
pub(crate) struct Programs {
    lmdb: PathBuf,
    c_abi: PathBuf,
}

impl Programs {
    pub(crate) fn compile(dir: &Path) -> Result<Programs> {
        Ok(Programs {
            lmdb: peer::compile("read/peer.c", dir)?,
            c_abi: peer::compile_with_quicksilver("read/c-abi.c", dir)?,
        })
    }

    /// Starts one on that core, so that it never moves between caches.
    fn start(&self, program: Program, dir: &Path, keys: &Path, core: usize) -> Result<Dialogue> {
        let environment = dir.join(Generation::FIRST.to_string());
        let mut command = Command::new("taskset");
        command.args(["-c", &core.to_string()]);
        match program {
            Program::Lmdb => command.arg(&self.lmdb).arg(environment),
            Program::Rust => command.arg(env::current_exe()?).arg("--child").arg(dir),
            Program::CAbi => command.arg(&self.c_abi).arg(dir),
        };
        Dialogue::start(command.arg(keys).arg(KEY_BYTES.to_string()))
    }
}

/// All programs, on one database and one sequence of keys.
pub(crate) struct Contest {
    /// One of each program on the last core, then one of each on the first.
    sides: Vec<Side>,
    gets: u64,
}

struct Side {
    lmdb: Dialogue,
    rust: Dialogue,
    c_abi: Dialogue,
}

impl Side {
    fn dialogue(&mut self, program: Program) -> &mut Dialogue {
        match program {
            Program::Lmdb => &mut self.lmdb,
            Program::Rust => &mut self.rust,
            Program::CAbi => &mut self.c_abi,
        }
    }
}

impl Contest {
    pub(crate) fn start(
        programs: &Programs,
        dir: &Path,
        keys: u64,
        distribution: Distribution,
        picks: usize,
        cores: &[usize],
    ) -> Result<Contest> {
        let side = |(number, &core): (usize, &usize)| {
            // Two processes read other keys of the same distribution: neither warms the other's.
            let sequence = dataset::sequence(distribution, keys, picks, 42 + number as u64);
            let file = dir.join(format!("sequence-{number}"));
            fs::write(&file, sequence.into_iter().flat_map(dataset::key).collect::<Vec<u8>>())?;
            let start = |program| programs.start(program, dir, &file, core);
            let (lmdb, rust) = (start(Program::Lmdb)?, start(Program::Rust)?);
            Ok(Side { lmdb, rust, c_abi: start(Program::CAbi)? })
        };
        let sides = cores.iter().enumerate().map(side).collect::<Result<_>>()?;
        Ok(Contest { sides, gets: picks as u64 })
    }

    /// How many processes of a program there are.
    pub(crate) fn processes(&self) -> usize {
        self.sides.len()
    }

    /// Nanoseconds per get of one round of one process.
    pub(crate) fn round(&mut self, way: &Way, side: usize) -> Result<f64> {
        self.send(way, side)?;
        self.take(way, side)
    }

    /// The same of all processes at once.
    pub(crate) fn round_of_all(&mut self, way: &Way) -> Result<Vec<f64>> {
        (0..self.sides.len()).try_for_each(|side| self.send(way, side))?;
        (0..self.sides.len()).map(|side| self.take(way, side)).collect()
    }

    fn send(&mut self, way: &Way, side: usize) -> Result<()> {
        self.sides[side].dialogue(way.program).send(way.word)
    }

    fn take(&mut self, way: &Way, side: usize) -> Result<f64> {
        match self.sides[side].dialogue(way.program).answer()?[..] {
            [ns, found, _] if found == self.gets => Ok(ns as f64 / self.gets as f64),
            ref other => Err(format!("{}: unexpected answer {other:?}", way.name).into()),
        }
    }
}

/// The medians of `ours / theirs` and `ours - theirs`, each made within a round.
pub(crate) fn compare(ours: &[f64], theirs: &[f64]) -> (f64, f64) {
    let pairs = || ours.iter().zip(theirs);
    let ratios: Vec<_> = pairs().map(|(ours, theirs)| ours / theirs).collect();
    let differences: Vec<_> = pairs().map(|(ours, theirs)| ours - theirs).collect();
    (stats::median(&ratios), stats::median(&differences))
}
