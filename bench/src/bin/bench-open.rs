//! A process has just started: how long until it has opened the database and read a key?
//!
//! `bench-open [--rounds N] [--large] [--plots DIR] [--quick]`
//!
//! Each time a fresh process opens the database, which is in the page cache, and gets one key that
//! was not asked for before; beside it, in turns, one that does the same with plain LMDB in C
//! (`open/peer.c`). What comes before `main` is the operating system's and shown apart. `--large`
//! adds a database of 10 million keys with values of 1,000 bytes, which takes 14 GB of disk for
//! the while, and minutes to write.

use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use quicksilver::Reader;
use quicksilver_bench::clock::monotonic_ns;
use quicksilver_bench::dataset::{self, Rng, Shape};
use quicksilver_bench::plot::{self, Bars, nanoseconds};
use quicksilver_bench::stats::{Table, grouped, quantile};
use quicksilver_bench::{Result, flag, loader, option, peer};
use quicksilver_format::layout::Generation;

/// Opening and the first get, at p99.
const TARGET: Duration = Duration::from_millis(2);

/// `--child DIR KEY`: the process that is measured.
fn child(dir: &str, key: &str) -> Result<()> {
    let began = monotonic_ns()?;
    let start = Instant::now();
    let reader = Reader::open(dir)?;
    let opened = start.elapsed();
    let value = reader.get(key.as_bytes())?.ok_or("the key is missing")?;
    black_box(value);
    let got = start.elapsed() - opened;
    println!("{began} {} {}", opened.as_nanos(), got.as_nanos());
    Ok(())
}

/// Nanoseconds of every start of one kind.
#[derive(Debug, Default)]
struct Starts {
    before_main: Vec<f64>,
    open: Vec<f64>,
    first_get: Vec<f64>,
    both: Vec<f64>,
}

impl Starts {
    fn add(&mut self, command: &mut Command) -> Result<()> {
        let spawned = monotonic_ns()?;
        let output = command.output()?;
        let answer = String::from_utf8(output.stdout)?;
        let numbers = answer.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        let [began, open, first_get] = numbers[..] else {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        };
        self.before_main.push(began.saturating_sub(spawned) as f64);
        self.open.push(open as f64);
        self.first_get.push(first_get as f64);
        self.both.push((open + first_get) as f64);
        Ok(())
    }
}

fn measure(dir: &Path, program: &Path, shape: Shape, rounds: usize) -> Result<(Starts, Starts)> {
    let environment = dir.join(Generation::FIRST.to_string());
    let (mut ours, mut lmdb) = (Starts::default(), Starts::default());
    let mut rng = Rng::new(9);
    for _ in 0..rounds {
        let key = String::from_utf8(dataset::key(rng.below(shape.keys)).to_vec())?;
        ours.add(Command::new(std::env::current_exe()?).arg("--child").arg(dir).arg(&key))?;
        let key = String::from_utf8(dataset::key(rng.below(shape.keys)).to_vec())?;
        lmdb.add(Command::new(program).arg(&environment).arg(&key))?;
    }
    Ok((ours, lmdb))
}

fn report(name: &str, ours: &Starts, lmdb: &Starts) {
    let mut table = Table::new(["", "", "p50", "p99", "max"]);
    for (who, starts) in [("Quicksilver", ours), ("LMDB in C", lmdb)] {
        for (what, ns) in [
            ("exec, until main", &starts.before_main),
            ("open", &starts.open),
            ("first get", &starts.first_get),
            ("open and first get", &starts.both),
        ] {
            let at = |q| nanoseconds(quantile(ns, q));
            table.row([who.to_owned(), what.to_owned(), at(0.5), at(0.99), at(1.0)]);
        }
    }
    println!("{name}:\n");
    table.print("");
    let p99 = quantile(&ours.both, 0.99);
    let met = if p99 < TARGET.as_nanos() as f64 { "met" } else { "missed" };
    println!("\nOpen and first get at p99: {}; target {TARGET:?}: {met}.\n", nanoseconds(p99));
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [what, dir, key] = &arguments[..]
        && what == "--child"
    {
        return child(dir, key);
    }
    let rounds = option("--rounds", if flag("--quick") { 50 } else { 500 })?;
    let temporary = tempfile::tempdir()?;
    let program = peer::compile("open/peer.c", temporary.path())?;
    let mut groups = Vec::new();
    let shapes = [Some(Shape::SMALL), flag("--large").then_some(Shape::LARGE)];
    for shape in shapes.into_iter().flatten() {
        let dir = temporary.path().join("db");
        loader::build_values(&dir, shape.keys, shape.value_bytes)?;
        let gigabytes = loader::warm(&dir)? as f64 / 1e9;
        let (ours, lmdb) = measure(&dir, &program, shape, rounds)?;
        std::fs::remove_dir_all(&dir)?;
        let keys = grouped(shape.keys);
        let name = format!("{keys} keys, values of {} bytes, {gigabytes:.1} GB", shape.value_bytes);
        report(&name, &ours, &lmdb);
        let bars =
            [("Quicksilver", &ours), ("LMDB in C", &lmdb)].into_iter().flat_map(|(who, s)| {
                let at = |q| quantile(&s.both, q);
                [(format!("{who}, p50"), at(0.5)), (format!("{who}, p99"), at(0.99))]
            });
        groups.push((name, bars.collect()));
    }
    let marks = vec![(TARGET.as_nanos() as f64, format!("target {TARGET:?}"))];
    let title = "A fresh process opens the database and reads one key";
    let bars = Bars { title, logarithmic: false, label: nanoseconds, marks, groups };
    plot::save("open", &bars.svg())
}
