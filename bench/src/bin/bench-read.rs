//! Nanoseconds per point read: ours beside plain `mdb_get` on the same file, in the same run.
//!
//! `bench-read [--rounds N] [--quick] [--10m]`

use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use quicksilver::Reader;
use quicksilver_bench::dataset::{self, Distribution, KEY_BYTES};
use quicksilver_bench::peer::{self, Dialogue};
use quicksilver_bench::stats::{Table, grouped, median};
use quicksilver_bench::{Result, flag, loader, option};
use quicksilver_format::layout::Generation;
use quicksilver_lmdb::Transaction;

/// How one round of gets is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The peer, renew and reset around every get: what everything is compared with.
    Plain,
    /// The peer, with a malloc'ed copy of every value.
    PlainCopy,
    /// The peer, one transaction for all gets.
    PlainOneTransaction,
    /// Our LMDB layer alone: a pooled transaction for every get, no cell, no CRC.
    Layer,
    /// `Reader::get_with`.
    GetWith,
    /// `Reader::get`, which copies.
    Get,
    /// `Snapshot::get`, one snapshot for all gets.
    Snapshot,
}

const WAYS: [Way; 7] = [
    Way::Plain,
    Way::PlainCopy,
    Way::PlainOneTransaction,
    Way::Layer,
    Way::GetWith,
    Way::Get,
    Way::Snapshot,
];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Plain => "LMDB in C",
            Way::PlainCopy => "LMDB in C, copied",
            Way::PlainOneTransaction => "LMDB in C, one transaction",
            Way::Layer => "our LMDB layer, no CRC",
            Way::GetWith => "Reader::get_with",
            Way::Get => "Reader::get (copies)",
            Way::Snapshot => "Snapshot::get, one snapshot",
        }
    }

    /// What it is fairly compared with.
    fn peer(self) -> Way {
        match self {
            Way::Get | Way::PlainCopy => Way::PlainCopy,
            Way::Snapshot | Way::PlainOneTransaction => Way::PlainOneTransaction,
            Way::Plain | Way::Layer | Way::GetWith => Way::Plain,
        }
    }
}

struct Bench {
    reader: Reader,
    peer: Dialogue,
    keys: Vec<u8>,
}

impl Bench {
    /// Nanoseconds per get of one round.
    fn round(&mut self, way: Way) -> Result<f64> {
        let gets = (self.keys.len() / KEY_BYTES) as u64;
        let (ns, found) = match way {
            Way::Plain => self.ask("renew")?,
            Way::PlainCopy => self.ask("copy")?,
            Way::PlainOneTransaction => self.ask("one")?,
            Way::Layer | Way::GetWith | Way::Get | Way::Snapshot => self.ours(way)?,
        };
        if found != gets {
            return Err(format!("{}: {found} of {gets} keys found", way.name()).into());
        }
        Ok(ns as f64 / gets as f64)
    }

    fn ask(&mut self, question: &str) -> Result<(u64, u64)> {
        match self.peer.ask(question)?[..] {
            [ns, found, _sum] => Ok((ns, found)),
            ref other => Err(format!("the peer answered {other:?}").into()),
        }
    }

    fn ours(&self, way: Way) -> Result<(u64, u64)> {
        let reader = &self.reader;
        let keys = self.keys.chunks_exact(KEY_BYTES);
        let first_byte = |value: &[u8]| u64::from(value.first().copied().unwrap_or(0));
        let (mut found, mut sum) = (0, 0);
        let start = Instant::now();
        match way {
            Way::GetWith => {
                for key in keys {
                    if let Some(first) = reader.get_with(key, first_byte)? {
                        sum += first;
                        found += 1;
                    }
                }
            }
            Way::Get => {
                for key in keys {
                    if let Some(value) = reader.get(key)? {
                        sum += first_byte(black_box(&value));
                        found += 1;
                    }
                }
            }
            Way::Snapshot => {
                let snapshot = reader.snapshot()?;
                for key in keys {
                    if let Some(value) = snapshot.get(key)? {
                        sum += first_byte(&value);
                        found += 1;
                    }
                }
            }
            _ => {
                let environment = reader.environment()?;
                let mut txn = environment.env.read_owned()?;
                for key in keys {
                    txn.renew()?;
                    if let Some(cell) = txn.get(environment.data, key)? {
                        sum += first_byte(cell);
                        found += 1;
                    }
                    txn.reset();
                }
            }
        }
        black_box(sum);
        Ok((start.elapsed().as_nanos() as u64, found))
    }
}

fn measure(
    program: &Path,
    dir: &Path,
    keys: u64,
    distribution: Distribution,
    rounds: usize,
) -> Result<()> {
    // A round is milliseconds: long against a timer, short against the machine's moods. A small
    // set's sequence stays in the cache, as a service's keys would.
    let picks = if keys <= 1000 { 20_000 } else { 200_000 };
    let sequence = dataset::sequence(distribution, keys, picks, 42);
    let sequence: Vec<u8> = sequence.into_iter().flat_map(dataset::key).collect();
    let file = dir.join("sequence");
    std::fs::write(&file, &sequence)?;
    let environment = dir.join(Generation::FIRST.to_string());
    let mut command = Command::new(program);
    command.arg(&environment).arg(&file).arg(KEY_BYTES.to_string());
    let mut bench =
        Bench { reader: Reader::open(dir)?, peer: Dialogue::start(&mut command)?, keys: sequence };

    let mut ns = vec![Vec::with_capacity(rounds); WAYS.len()];
    for way in WAYS {
        bench.round(way)?; // warms this process's page tables and the caches
    }
    for round in 0..rounds {
        for turn in 0..WAYS.len() {
            // Nobody always comes first, or always after the same one.
            let at = (turn * if round % 2 == 0 { 1 } else { 6 } + round) % WAYS.len();
            ns[at].push(bench.round(WAYS[at])?);
        }
    }

    let of = |way: Way| &ns[WAYS.iter().position(|&w| w == way).unwrap_or(0)];
    println!("{} keys, {}:", grouped(keys), distribution.name());
    let mut table = Table::new(["", "ns per get", "beside", "ratio", "difference, ns"]);
    for way in WAYS {
        let peer = way.peer();
        let pairs = of(way).iter().zip(of(peer));
        let ratios: Vec<_> = pairs.clone().map(|(ours, theirs)| ours / theirs).collect();
        let differences: Vec<_> = pairs.map(|(ours, theirs)| ours - theirs).collect();
        let dash = || "–".to_owned();
        let compared = [
            peer.name().to_owned(),
            format!("{:.2}", median(&ratios)),
            format!("{:+.0}", median(&differences)),
        ];
        let [beside, ratio, difference] =
            if way == peer { [dash(), dash(), dash()] } else { compared };
        let name = way.name().to_owned();
        table.row([name, format!("{:.0}", median(of(way))), beside, ratio, difference]);
    }
    table.print("");
    println!();
    Ok(())
}

fn main() -> Result<()> {
    let quick = flag("--quick");
    let rounds = option("--rounds", if quick { 7 } else { 31 })?;
    let mut sets = vec![20, 100_000, 1_000_000];
    if quick {
        sets.pop();
    }
    if flag("--10m") {
        sets.push(10_000_000);
    }
    let temporary = tempfile::tempdir()?;
    let program = peer::compile("read/peer.c", temporary.path())?;
    println!(
        "Point reads, {KEY_BYTES}-byte keys, {}-byte values, one thread; medians of {rounds} \
         interleaved rounds.\n",
        dataset::VALUE_BYTES
    );
    for keys in sets {
        let dir = temporary.path().join(format!("db-{keys}"));
        std::fs::create_dir(&dir)?;
        loader::build(&dir, keys)?;
        for distribution in [Distribution::Uniform, Distribution::Zipf] {
            measure(&program, &dir, keys, distribution, rounds)?;
        }
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}
