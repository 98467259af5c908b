//! Does a database get slower, or its file larger, by being written for a long time?
//!
//! `bench-fragmentation [--seconds N] [--values N] [--live-mb N] [--plots DIR] [--quick]`
//!
//! Values of 1 kB to 1 MiB (every factor as likely as another) are overwritten with values of other
//! lengths, beside a log that is collected; about 1 GB is live. A replicator's store, which cuts what
//! is long into chunks of a page, takes turns with plain LMDB, which gets whole values and whole log
//! records; both get the same writes, and the clock of each runs in its own turns only.
//!
//! A commit has as many values as a window of 500 ms collects at some 10 MB/s. There are ten a second
//! and not two, so that minutes hold what are more in service; as fast as it goes would measure how the
//! disk behaves when it is given too much. Beside snapshots there are four: a snapshot must not
//! take longer than the log reaches back.

mod churn;
mod side;

use std::path::Path;
use std::time::Duration;

use quicksilver_bench::disk::scratch;
use quicksilver_bench::engine::{Plain, Quicksilver};
use quicksilver_bench::plot::{self, Panel, Timeline, bytes, nanoseconds};
use quicksilver_bench::stats::Table;
use quicksilver_bench::{Result, flag, option, peer};

use side::{Sample, Seen, Side, Slice};

/// p99 of the last minute, as a multiple of the first minute's.
const TARGET_P99: f64 = 1.5;
/// Bytes of the file, as a multiple of live keys and values, and log.
const TARGET_FILE: f64 = 1.3;
/// What is done to both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Workload {
    Steady,
    Snapshots,
    Scattered,
}

impl Workload {
    fn name(self) -> &'static str {
        match self {
            Workload::Steady => "steady",
            Workload::Snapshots => "snapshots",
            Workload::Scattered => "scattered",
        }
    }

    fn commits_per_second(self) -> f64 {
        match self {
            Workload::Snapshots => 4.0,
            Workload::Steady | Workload::Scattered => 10.0,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Workload::Steady => "Steady churn",
            Workload::Snapshots => "Churn, and a snapshot in every turn",
            Workload::Scattered => "Churn where only single pages are free",
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Settings {
    seconds: f64,
    live_bytes: u64,
    log_bytes: u64,
    /// Values of one commit.
    values: usize,
}

impl Settings {
    /// Turns of each side.
    const TURNS: u32 = 8;

    fn minute(self) -> f64 {
        (self.seconds / 4.0).min(60.0)
    }

    fn turn(self, workload: Workload) -> Slice {
        Slice {
            length: Duration::from_secs_f64(self.seconds / f64::from(Self::TURNS)),
            values: self.values,
            commits_per_second: Some(workload.commits_per_second()),
            snapshot: workload == Workload::Snapshots,
        }
    }
}

/// Both sides, filled; in the order in which they are shown.
fn sides(dir: &Path, workload: Workload, settings: Settings) -> Result<[Side; 2]> {
    let Settings { live_bytes, log_bytes, values, .. } = settings;
    // Half of what is live rests where the free pages are to be between.
    let (cells, churned) = match workload {
        Workload::Scattered => (live_bytes / 3000, live_bytes / 2),
        _ => (0, live_bytes),
    };
    let copier = peer::compile("snapshot/peer.c", dir)?;
    let keys = churn::keys_of(churned);
    let ours = Quicksilver::create(&dir.join("quicksilver"), log_bytes)?;
    let plain = Plain::create(&dir.join("plain"), log_bytes, &copier)?;
    let mut sides = [Side::new("Quicksilver", ours, keys), Side::new("plain LMDB", plain, keys)];
    for side in &mut sides {
        side.scatter(cells)?;
        side.fill(values)?;
    }
    Ok(sides)
}

/// The sides take turns.
fn churn(sides: &mut [Side; 2], slice: Slice, turns: u32) -> Result<[Seen; 2]> {
    let mut seen = [Seen::default(), Seen::default()];
    for _ in 0..turns {
        for (side, seen) in sides.iter_mut().zip(&mut seen) {
            side.run(slice, seen)?;
        }
    }
    Ok(seen)
}

fn puts(sample: &Sample) -> f64 {
    sample.puts_ns
}

fn commit(sample: &Sample) -> f64 {
    sample.commit_ns
}

fn met(is: bool) -> &'static str {
    if is { "met" } else { "missed" }
}

/// How much slower the last minute was than the first.
fn slower(seen: &Seen, minute: f64, of: fn(&Sample) -> f64) -> [f64; 3] {
    let end = seen.seconds();
    let first = seen.between(0.0, minute, 0.99, of);
    let last = seen.between(end - minute, end, 0.99, of);
    [first, last, last / first]
}

fn report(sides: &[Side; 2], seen: &[Seen; 2], settings: Settings) {
    let minute = settings.minute();
    let mut table =
        Table::new(["", "MB/s", "", "p50", "p99", "max", "p99, first minute", "last", "ratio"]);
    for (side, seen) in sides.iter().zip(seen) {
        for (what, of) in [("commits", commit as fn(&Sample) -> f64), ("their puts", puts)] {
            let [first, last, ratio] = slower(seen, minute, of);
            let [p50, p99, max] = [0.5, 0.99, 1.0].map(|q| nanoseconds(seen.of_all(q, of)));
            let is_first = what == "commits";
            table.row([
                if is_first { side.name.to_owned() } else { String::new() },
                match is_first {
                    true => format!("{:.1}", seen.logical_bytes / seen.seconds() / 1e6),
                    false => String::new(),
                },
                what.to_owned(),
                p50,
                p99,
                max,
                nanoseconds(first),
                nanoseconds(last),
                format!("{ratio:.2}"),
            ]);
        }
    }
    table.print("");
    println!();
    let mut table = Table::new(["", "live and log", "file at first", "largest", "ratio"]);
    for (side, seen) in sides.iter().zip(seen) {
        let needed = needed_bytes(side, settings);
        let largest = seen.largest_file();
        table.row([
            side.name.to_owned(),
            bytes(needed),
            bytes(seen.start_bytes),
            bytes(largest),
            format!("{:.2}", largest / needed),
        ]);
    }
    table.print("");
    println!();
}

/// What there is to keep: live keys and values, and the log up to its limit.
fn needed_bytes(side: &Side, settings: Settings) -> f64 {
    (side.live_bytes() + settings.log_bytes) as f64
}

fn report_targets(side: &Side, seen: &Seen, settings: Settings) {
    let minute = settings.minute();
    for (what, of) in [("commits", commit as fn(&Sample) -> f64), ("puts", puts)] {
        let [.., ratio] = slower(seen, minute, of);
        println!(
            "p99 of {what}, last minute beside first: {ratio:.2}; target at most {TARGET_P99}: {}.",
            met(ratio <= TARGET_P99)
        );
    }
    let file = seen.largest_file() / needed_bytes(side, settings);
    println!(
        "Largest file beside live data and log: {file:.2}; target at most {TARGET_FILE}: {}.\n",
        met(file <= TARGET_FILE)
    );
}

/// Commit times and file sizes, over each side's own seconds.
fn draw(workload: Workload, sides: &[Side; 2], seen: &[Seen; 2], settings: Settings) -> Result<()> {
    const POINTS: f64 = 24.0;
    let step = settings.seconds / POINTS;
    let over_time = |seen: &Seen, q: f64, of: fn(&Sample) -> f64| -> Vec<(f64, f64)> {
        let steps = (0..(seen.seconds() / step) as u32).map(|n| f64::from(n) * step);
        let points = steps.map(|at| (at + step / 2.0, seen.between(at, at + step, q, of)));
        points.filter(|(_, ns)| ns.is_finite()).collect()
    };
    let times = |of: fn(&Sample) -> f64| {
        let both = sides.iter().zip(seen).flat_map(move |(side, seen)| {
            [(0.5, "p50"), (0.99, "p99"), (1.0, "max")]
                .map(|(q, name)| (format!("{}, {name}", side.name), over_time(seen, q, of)))
        });
        both.collect::<Vec<_>>()
    };
    let sizes = sides.iter().zip(seen);
    let sizes = sizes.map(|(side, seen)| (side.name.to_owned(), seen.file_bytes.clone()));
    let panel = |title, lines| Panel { title, logarithmic: true, label: nanoseconds, lines };
    let panels = vec![
        panel("Commits", times(commit)),
        panel("Their puts", times(puts)),
        Panel { title: "File", logarithmic: false, label: bytes, lines: sizes.collect() },
    ];
    let picture = Timeline { title: workload.title(), panels };
    plot::save(&format!("fragmentation-{}", workload.name()), &picture.svg())
}

/// What a window is for: the same values, many in a commit and each in a commit of its own, as fast as
/// it goes.
fn window(sides: &mut [Side; 2], settings: Settings) -> Result<()> {
    println!("What the window is for: one commit after the other.\n");
    let mut table = Table::new([
        "",
        "values in a commit",
        "MB/s",
        "disk bytes per byte",
        "commits p50",
        "p99",
        "max",
    ]);
    let turn = settings.turn(Workload::Steady);
    for values in [settings.values, 1] {
        let slice = Slice { values, commits_per_second: None, ..turn };
        let seen = churn(sides, slice, Settings::TURNS / 4)?;
        for (side, seen) in sides.iter().zip(&seen) {
            let [p50, p99, max] = [0.5, 0.99, 1.0].map(|q| nanoseconds(seen.of_all(q, commit)));
            table.row([
                side.name.to_owned(),
                values.to_string(),
                format!("{:.1}", seen.logical_bytes / seen.seconds() / 1e6),
                format!("{:.2}", seen.disk_bytes / seen.logical_bytes),
                p50,
                p99,
                max,
            ]);
        }
    }
    table.print("");
    println!();
    Ok(())
}

fn main() -> Result<()> {
    let quick = flag("--quick");
    let live_bytes = option("--live-mb", if quick { 100 } else { 1000 })? * 1_000_000;
    let settings = Settings {
        seconds: option("--seconds", if quick { 4.0 } else { 240.0 })?,
        live_bytes,
        log_bytes: live_bytes / 4,
        values: option("--values", 32)?,
    };
    println!(
        "Values of 1 kB to 1 MiB, {} live, and {} of log; {} values in a commit. Each side is written \
         for {} s in {} turns; a minute is {} s here.\n",
        bytes(live_bytes as f64),
        bytes(settings.log_bytes as f64),
        settings.values,
        settings.seconds,
        Settings::TURNS,
        settings.minute()
    );
    for workload in [Workload::Steady, Workload::Snapshots, Workload::Scattered] {
        let dir = scratch()?;
        let mut sides = sides(dir.path(), workload, settings)?;
        let seen = churn(&mut sides, settings.turn(workload), Settings::TURNS)?;
        println!("{}:\n", workload.title());
        report(&sides, &seen, settings);
        report_targets(&sides[0], &seen[0], settings);
        draw(workload, &sides, &seen, settings)?;
        if workload == Workload::Steady {
            window(&mut sides, settings)?;
        }
    }
    Ok(())
}
