//! Do writers disturb a reader? 20 pairs of 2 bytes are read in a loop while no, one or two
//! processes write values of 40 kB, as fast as they can.
//!
//! `bench-writers [--seconds N] [--rounds N] [--in-flight N] [--plots DIR] [--quick]`
//!
//! It is the experiment with which the published article on Quicksilver compares LMDB to what was
//! there before. Each writer keeps 64 writes in flight (plain LMDB: one durable commit at a time)
//! and goes round 512 keys of its own, which are all there before the first read: what is compared
//! are writers, not sizes. What is applied per second stands beside every latency, and a run that
//! applies less than half of what plain LMDB applies, read in the same way beside as many writers,
//! does not count: who writes little disturbs little.

mod reading;
mod systems;
mod writing;

use std::time::{Duration, Instant};

use quicksilver_bench::peer::{self, Dialogue};
use quicksilver_bench::plot::{self, Lines, nanoseconds};
use quicksilver_bench::stats::Table;
use quicksilver_bench::{Result, flag, option};

use reading::{Latencies, Loop};
use systems::{Running, System};
use writing::VALUE_BYTES;

/// Writers at once.
const WRITERS: [usize; 3] = [0, 1, 2];
/// Quantiles, and what they are called; the last is the maximum.
const QUANTILES: [(f64, &str); 5] =
    [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"), (0.9999, "p99.99"), (1.0, "max")];
/// A window holds what is in flight when it ends, so 64 writes of 40 kB in flight are 5 MB/s a
/// writer, whatever the disk could do; with so many the window applies as much as the disk can.
const MANY_IN_FLIGHT: u64 = 1024;
/// For writers to fill their pipes and a system to find its pace.
const RUN_UP: Duration = Duration::from_millis(500);
/// A run counts when it applies at least this part of what plain LMDB applies.
const LEAST_PART: f64 = 0.5;
/// Closed loop, p99.9 with two writers: at most so many times what it is without, and so long.
const TARGET_RATIO: f64 = 1.5;
const TARGET_NS: u64 = 2_000;

/// One system with so many writers, read in one way.
struct Cell {
    system: System,
    writers: usize,
    kind: Loop,
    latencies: Latencies,
    applied_bytes: f64,
    seconds: f64,
}

impl Cell {
    fn mb_per_second(&self) -> f64 {
        self.applied_bytes / self.seconds / 1e6
    }

    fn measure(&mut self, running: &mut Running, length: Duration) -> Result<()> {
        let mut writers: Vec<Dialogue> =
            (1..=self.writers).map(|number| running.writer(number)).collect::<Result<_>>()?;
        std::thread::sleep(RUN_UP);
        let before = acknowledged(&mut writers)?;
        let start = Instant::now();
        self.latencies.add(&running.read(self.kind, length)?);
        self.seconds += start.elapsed().as_secs_f64();
        self.applied_bytes += (acknowledged(&mut writers)? - before) as f64 * VALUE_BYTES as f64;
        Ok(())
    }
}

fn acknowledged(writers: &mut [Dialogue]) -> Result<u64> {
    let counts = writers.iter_mut().map(|writer| match writer.ask("count")?[..] {
        [count] => Ok(count),
        _ => Err("a writer did not say how much it wrote".into()),
    });
    counts.sum()
}

fn name_of(cell: &Cell) -> String {
    match cell.writers {
        0 => format!("{}: idle", cell.system.name()),
        1 => "  1 writer".to_owned(),
        n => format!("  {n} writers"),
    }
}

fn find(cells: &[Cell], system: System, writers: usize, kind: Loop) -> Option<&Cell> {
    cells.iter().find(|c| (c.system, c.writers, c.kind) == (system, writers, kind))
}

/// Whether a cell applies enough to be compared, and its mark in the table.
fn mark(cells: &[Cell], cell: &Cell) -> &'static str {
    let least = find(cells, System::Lmdb, cell.writers, cell.kind)
        .map_or(0.0, |lmdb| LEAST_PART * lmdb.mb_per_second());
    if cell.mb_per_second() < least { "does not count" } else { "" }
}

fn print(cells: &[Cell], kind: Loop) {
    let mut header = vec!["", "MB/s applied", "reads"];
    header.extend(QUANTILES.map(|(_, name)| name));
    header.extend(match kind {
        Loop::Closed => vec![""],
        Loop::Open => vec!["woken at p99", ""],
    });
    let mut table = Table::with_header(header);
    for cell in cells.iter().filter(|cell| cell.kind == kind) {
        let reads = &cell.latencies.reads;
        let mut row = vec![name_of(cell), format!("{:.1}", cell.mb_per_second())];
        row.push(quicksilver_bench::stats::grouped(reads.count()));
        row.extend(QUANTILES.map(|(q, _)| nanoseconds(reads.quantile(q) as f64)));
        if kind == Loop::Open {
            row.push(nanoseconds(cell.latencies.wakeups.quantile(0.99) as f64));
        }
        row.push(mark(cells, cell).to_owned());
        table.add(row);
    }
    table.print("");
    println!();
}

fn print_targets(cells: &[Cell], systems: &[System]) {
    for &system in systems {
        let p999 = |writers| {
            find(cells, system, writers, Loop::Closed).map(|c| c.latencies.reads.quantile(0.999))
        };
        let (Some(idle), Some(busy)) = (p999(0), p999(2)) else { continue };
        let ratio = busy as f64 / idle as f64;
        print!("{}: p99.9 with two writers is {ratio:.2} of idle, ", system.name());
        print!("{}", nanoseconds(busy as f64));
        if matches!(system, System::Quicksilver { .. }) {
            let met = if ratio <= TARGET_RATIO && busy < TARGET_NS { "met" } else { "missed" };
            print!("; target {TARGET_RATIO} and {}: {met}", nanoseconds(TARGET_NS as f64));
        }
        println!(".");
    }
}

fn draw(cells: &[Cell], kind: Loop) -> Result<()> {
    let (name, title) = match kind {
        Loop::Closed => (
            "writers-closed",
            "Reads beside two writers, one after the other (*: applies too little to count)",
        ),
        Loop::Open => (
            "writers-open",
            "Reads beside two writers, 1,000 a second from schedule (*: applies too little)",
        ),
    };
    let busy = cells.iter().filter(|cell| cell.kind == kind && cell.writers == 2);
    let lines = busy.map(|cell| {
        let ns = QUANTILES.map(|(q, _)| cell.latencies.reads.quantile(q) as f64);
        let mark = if mark(cells, cell).is_empty() { "" } else { " *" };
        (format!("{}{mark}", cell.system.name()), ns.to_vec())
    });
    let steps = QUANTILES.map(|(_, name)| name.to_owned()).to_vec();
    plot::save(name, &Lines { title, steps, lines: lines.collect() }.svg())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == "--writer") {
        return writing::main(&arguments[1..]);
    }
    let quick = flag("--quick");
    let rounds = option("--rounds", if quick { 1 } else { 2 })?;
    let seconds: f64 = option("--seconds", if quick { 2.0 } else { 10.0 })?;
    let in_flight = option("--in-flight", 64)?;
    let dir = tempfile::tempdir()?;
    let lmdb = peer::compile("writers/lmdb.c", dir.path())?;
    let mut systems = vec![
        System::Lmdb,
        System::Quicksilver { window_ms: 500, in_flight },
        System::Quicksilver { window_ms: 500, in_flight: MANY_IN_FLIGHT },
        System::Quicksilver { window_ms: 0, in_flight },
        System::Redis { in_flight },
        System::Etcd { in_flight },
    ];
    systems.retain(|system| match system.missing() {
        None => true,
        Some(package) => {
            println!("{}: {package} is not installed, left out.\n", system.name());
            false
        }
    });
    println!(
        "20 pairs of 2 bytes read; each writer has {in_flight} writes of 40 kB in flight; \
         {seconds} s a line in {rounds} rounds.\nEvery latency of the closed loop includes one \
         look at the clock, {:.0} ns.\n",
        reading::clock_ns()
    );
    let mut cells = Vec::new();
    for kind in [Loop::Closed, Loop::Open] {
        for &system in &systems {
            cells.extend(WRITERS.map(|writers| Cell {
                system,
                writers,
                kind,
                latencies: Latencies::default(),
                applied_bytes: 0.0,
                seconds: 0.0,
            }));
        }
    }
    let length = Duration::from_secs_f64(seconds / rounds as f64);
    for _ in 0..rounds {
        for &system in &systems {
            let mut running = system.start(&lmdb)?;
            running.fill(WRITERS[WRITERS.len() - 1])?;
            for cell in cells.iter_mut().filter(|cell| cell.system == system) {
                cell.measure(&mut running, length)?;
            }
        }
    }
    println!("Closed loop:\n");
    print(&cells, Loop::Closed);
    print_targets(&cells, &systems);
    println!("\nOpen loop, 1,000 reads a second, from when a read was due:\n");
    print(&cells, Loop::Open);
    draw(&cells, Loop::Closed)?;
    draw(&cells, Loop::Open)
}
