//! Nanoseconds per point read: ours beside plain `mdb_get` on the same file, in the same run.
//!
//! `bench-read [--rounds N] [--keys N] [--plots DIR] [--quick]`
//!
//! Every reader is a process of its own on the same core, and they take turns: plain LMDB in C
//! (`read/peer.c`), `Reader` and `Snapshot` in Rust (`child.rs`), and libquicksilver from C
//! (`read/c-abi.c`). Then two processes of each read at once, a core each.

mod child;
mod contest;

use std::path::Path;

use quicksilver_bench::dataset::{self, Distribution, KEY_BYTES};
use quicksilver_bench::plot::{self, Bars};
use quicksilver_bench::stats::{Table, grouped, median};
use quicksilver_bench::{Result, flag, loader, option};

use contest::{Contest, GET_WITH, PLAIN, Programs, WAYS, compare, position};

/// From so many keys on the targets that are ratios hold; below, the one in nanoseconds.
const MANY_KEYS: u64 = 1_000_000;
/// `get_with` beside plain LMDB on few keys: at most so many nanoseconds more.
const TARGET_FEW_NS: f64 = 60.0;
/// Two processes, as a part of what two of plain LMDB gain over one.
const TARGET_SCALING: f64 = 0.95;

/// One database and one distribution.
struct Set {
    keys: u64,
    distribution: Distribution,
}

impl Set {
    fn name(&self) -> String {
        format!("{} keys, {}", grouped(self.keys), self.distribution.name())
    }

    /// A round is milliseconds: long against a timer, short against the machine's moods. A small
    /// set's sequence stays in the cache, as a service's keys would.
    fn picks(&self) -> usize {
        if self.keys <= 1000 { 20_000 } else { 200_000 }
    }
}

fn verdict(target: &str, met: bool) -> String {
    format!("{target}: {}", if met { "met" } else { "missed" })
}

/// All ways in turns; returns the ratios for the picture.
fn measure(set: &Set, contest: &mut Contest, rounds: usize) -> Result<Vec<(String, f64)>> {
    for way in &WAYS {
        contest.round(way, 0)?; // warms each process's page tables and the caches
    }
    let mut ns = WAYS.each_ref().map(|_| Vec::with_capacity(rounds));
    for round in 0..rounds {
        for turn in 0..WAYS.len() {
            // Nobody always comes first, or always after the same one.
            let step = if round % 2 == 0 { 1 } else { WAYS.len() - 1 };
            let at = (turn * step + round) % WAYS.len();
            ns[at].push(contest.round(&WAYS[at], 0)?);
        }
    }

    println!("{}:", set.name());
    let mut ratios = Vec::new();
    let mut table = Table::new(["", "ns per get", "beside", "ratio", "difference, ns", "target"]);
    for (way, own) in WAYS.iter().zip(&ns) {
        let mut row = vec![way.name.to_owned(), format!("{:.0}", median(own))];
        if let Some(beside) = way.beside {
            let (ratio, difference) = compare(own, &ns[position(beside)]);
            row.extend([beside.to_owned(), format!("{ratio:.2}"), format!("{difference:+.0}")]);
            row.push(match way.target {
                Some(target) if set.keys >= MANY_KEYS => {
                    verdict(&format!("{target:.2}"), ratio <= target)
                }
                _ if set.keys < 1000 && way.name == GET_WITH => {
                    verdict(&format!("+{TARGET_FEW_NS:.0} ns"), difference <= TARGET_FEW_NS)
                }
                _ => String::new(),
            });
            ratios.push((way.name.to_owned(), ratio));
        } else {
            row.extend(["–"; 3].map(str::to_owned));
            row.push(String::new());
        }
        table.add(row);
    }
    table.print("");
    println!();
    Ok(ratios)
}

/// What two processes at once do, in gets of one process alone; for ours and for plain LMDB.
fn measure_scaling(
    set: &Set,
    contest: &mut Contest,
    rounds: usize,
    table: &mut Table,
) -> Result<()> {
    let contestants = [PLAIN, GET_WITH].map(|name| &WAYS[position(name)]);
    let mut scaling = [Vec::new(), Vec::new()];
    for way in contestants {
        contest.round_of_all(way)?;
    }
    for round in 0..rounds {
        for turn in 0..contestants.len() {
            let at = (turn + round) % contestants.len();
            let alone: Result<Vec<f64>> =
                (0..contest.processes()).map(|side| contest.round(contestants[at], side)).collect();
            let together = contest.round_of_all(contestants[at])?;
            let rate = |ns: &[f64]| ns.iter().map(|ns| 1.0 / ns).sum::<f64>();
            let one = rate(&alone?) / contest.processes() as f64;
            scaling[at].push(rate(&together) / one);
        }
    }
    let [plain, ours] = &scaling;
    let (ratio, _) = compare(ours, plain);
    table.row([
        set.name(),
        format!("{:.2}", median(plain)),
        format!("{:.2}", median(ours)),
        format!("{ratio:.2}"),
        verdict(&format!("{TARGET_SCALING}"), ratio >= TARGET_SCALING),
    ]);
    Ok(())
}

fn all_sets(
    sizes: &[u64],
    programs: &Programs,
    temporary: &Path,
    rounds: usize,
    cores: &[usize],
) -> Result<Table> {
    let mut groups = Vec::new();
    let header = ["two processes", "LMDB in C", GET_WITH, "ratio", "target"];
    let mut scaling = Table::new(header);
    for &keys in sizes {
        let dir = temporary.join(format!("db-{keys}"));
        loader::build(&dir, keys)?;
        for distribution in [Distribution::Uniform, Distribution::Zipf] {
            let set = Set { keys, distribution };
            let mut contest =
                Contest::start(programs, &dir, keys, distribution, set.picks(), cores)?;
            groups.push((set.name(), measure(&set, &mut contest, rounds)?));
            if cores.len() > 1 {
                measure_scaling(&set, &mut contest, rounds, &mut scaling)?;
            }
        }
        std::fs::remove_dir_all(&dir)?;
    }
    let title = "A point read's time as a multiple of plain LMDB's, doing the same work";
    let marks = vec![(1.0, "LMDB".to_owned())];
    plot::save(
        "read",
        &Bars { title, logarithmic: false, label: plot::ratio, marks, groups }.svg(),
    )?;
    Ok(scaling)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == "--child") {
        return child::main(&arguments[1..]);
    }
    let quick = flag("--quick");
    let rounds = option("--rounds", if quick { 7 } else { 21 })?;
    let sizes = match option("--keys", 0)? {
        0 if quick => vec![20, 100_000],
        0 => vec![20, 100_000, 1_000_000, 10_000_000],
        keys => vec![keys],
    };
    let temporary = tempfile::tempdir()?;
    let programs = Programs::compile(temporary.path())?;
    let cpus = std::thread::available_parallelism()?.get();
    // The last core serves fewest interrupts.
    let cores: Vec<usize> = (0..cpus).rev().take(2).collect();
    println!(
        "Point reads, {KEY_BYTES}-byte keys, {}-byte values, one thread; medians of {rounds} \
         interleaved rounds.\n",
        dataset::VALUE_BYTES
    );
    let scaling = all_sets(&sizes, &programs, temporary.path(), rounds, &cores)?;
    match cores.len() {
        1 => println!("Two processes at once need a second core: left out."),
        _ => {
            println!("Gets per second of two processes at once, in those of one alone:\n");
            scaling.print("");
        }
    }
    println!();
    Ok(())
}
