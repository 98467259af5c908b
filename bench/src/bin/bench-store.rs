//! What does a commit cost, in time and in bytes written to the disk, beside plain LMDB?
//!
//! `bench-store [--rounds N] [--small] [--plots DIR] [--quick]`
//!
//! 16-byte keys with 100-byte values are overwritten at random, durably, so many in a commit. Ours is
//! a replicator's store (`Store::apply`): data, log and its collection, index, running hash, digest,
//! CRCs, and the status page. Beside it, in turns, a program in C (`store/peer.c`) that puts the same
//! keys and values into plain LMDB, in commits of the same size, and has no log: as they come, and
//! sorted by key within a commit, which is what ours does. The time is that of the commits; sealing a
//! batch (hash chain, compression), which only a root does, is shown apart.
//!
//! A window of 500 ms is so many changes in a commit; it is not waited for. What the disk was given
//! is the device's own count, so nothing else may write to that disk meanwhile.
//!
//! Among 10 million keys only bytes are counted; it takes 5 GB of disk, and `--small` leaves it out.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use quicksilver_bench::dataset::{self, KEY_BYTES, Pool, Rng, VALUE_BYTES};
use quicksilver_bench::disk::{WriteCounter, scratch};
use quicksilver_bench::peer::{self, Dialogue};
use quicksilver_bench::plot::{self, Bars};
use quicksilver_bench::stats::{Table, grouped, median};
use quicksilver_bench::{Result, flag, option, replica};
use quicksilver_format::Entry;
use quicksilver_replicator::store::Store;

/// Entries a second, as a part of what plain LMDB makes of them as they come.
const TARGET: f64 = 0.5;
/// Log that is kept: so little that every round collects some.
const LOG_BYTES: u64 = 64 << 20;
/// As in `store/peer.c`.
const POOL_SEED: u64 = 1;

/// Commits of one size.
#[derive(Debug, Clone, Copy)]
struct Load {
    puts: usize,
    /// In one round.
    commits: usize,
    /// What it is, where it is a window's.
    name: &'static str,
}

/// For entries a second.
const SPEED: [Load; 3] = [
    Load { puts: 1, commits: 1000, name: "" },
    Load { puts: 100, commits: 200, name: "" },
    Load { puts: 10_000, commits: 10, name: "" },
];
/// For bytes.
const WINDOWS: [Load; 2] = [
    Load { puts: 100, commits: 200, name: "200 changes a second" },
    Load { puts: 500, commits: 100, name: "1,000 changes a second" },
];

impl Load {
    fn entries(self) -> f64 {
        (self.puts * self.commits) as f64
    }

    fn logical_bytes(self) -> f64 {
        self.entries() * (KEY_BYTES + VALUE_BYTES) as f64
    }
}

/// One side's part of a round.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    seconds: f64,
    /// Before the commits: ours only.
    sealing_seconds: f64,
    disk_bytes: f64,
}

struct Ours {
    store: Store,
    keys: u64,
    pool: Pool,
    disk: WriteCounter,
}

impl Ours {
    fn create(dir: &Path, keys: u64) -> Result<Self> {
        let pool = Pool::new(VALUE_BYTES, POOL_SEED);
        let mut store = replica::open(dir, LOG_BYTES)?;
        replica::fill(keys, VALUE_BYTES, &pool, |entries| {
            replica::commit(&mut store, entries).map(|_| ())
        })?;
        Ok(Ours { store, keys, pool, disk: WriteCounter::of(dir)? })
    }

    fn round(&mut self, load: Load, seed: u64) -> Result<Round> {
        let mut rng = Rng::new(seed);
        let (mut committing, mut sealing) = (Duration::ZERO, Duration::ZERO);
        let before = self.disk.bytes();
        for _ in 0..load.commits {
            let pairs: Vec<_> = (0..load.puts)
                .map(|_| {
                    let key = dataset::key(rng.below(self.keys));
                    (key, self.pool.cut(VALUE_BYTES, &mut rng))
                })
                .collect();
            let start = Instant::now();
            let entries = pairs.iter().map(|(key, value)| Entry::set(key, value));
            let batch = replica::seal(self.store.end(), entries)?;
            sealing += start.elapsed();
            committing += self.store.apply(&[batch])?.duration;
        }
        Ok(Round {
            seconds: committing.as_secs_f64(),
            sealing_seconds: sealing.as_secs_f64(),
            disk_bytes: self.disk.bytes() - before,
        })
    }
}

struct Plain {
    peer: Dialogue,
    disk: WriteCounter,
}

impl Plain {
    fn create(dir: &Path, program: &Path, keys: u64) -> Result<Self> {
        std::fs::create_dir(dir)?;
        let mut peer = Dialogue::start(Command::new(program).arg(dir).arg(keys.to_string()))?;
        if peer.answer()? != [keys] {
            return Err("the peer did not load its keys".into());
        }
        Ok(Plain { peer, disk: WriteCounter::of(dir)? })
    }

    fn round(&mut self, load: Load, seed: u64, order: &str) -> Result<Round> {
        let before = self.disk.bytes();
        let answer = self.peer.ask(&format!("{} {} {seed} {order}", load.commits, load.puts))?;
        let &[ns] = &answer[..] else { return Err("the peer did not say how long".into()) };
        let disk_bytes = self.disk.bytes() - before;
        Ok(Round { seconds: ns as f64 / 1e9, disk_bytes, ..Round::default() })
    }
}

/// All rounds of one load.
#[derive(Debug, Default)]
struct Rounds {
    ours: Vec<Round>,
    arriving: Vec<Round>,
    sorted: Vec<Round>,
}

impl Rounds {
    fn median(rounds: &[Round], of: impl Fn(&Round) -> f64) -> f64 {
        median(&rounds.iter().map(of).collect::<Vec<_>>())
    }

    /// The median of what `of` says of ours as a multiple of a peer, round by round.
    fn ratio(&self, peer: &[Round], of: impl Fn(&Round) -> f64) -> f64 {
        median(&self.ours.iter().zip(peer).map(|(a, b)| of(a) / of(b)).collect::<Vec<_>>())
    }
}

struct Contest {
    ours: Ours,
    plain: Plain,
}

impl Contest {
    fn create(dir: &Path, program: &Path, keys: u64) -> Result<Self> {
        let ours = Ours::create(&dir.join("quicksilver"), keys)?;
        Ok(Contest { ours, plain: Plain::create(&dir.join("plain"), program, keys)? })
    }

    /// Rounds of every load, the sides in turns. One round more comes first and does not count: it
    /// makes the free pages from which the others take.
    fn run<const N: usize>(&mut self, loads: [Load; N], rounds: u64) -> Result<[Rounds; N]> {
        let mut all = loads.map(|_| Rounds::default());
        for seed in 0..=rounds {
            for (load, all) in loads.into_iter().zip(&mut all) {
                let ours = self.ours.round(load, seed)?;
                let arriving = self.plain.round(load, seed, "arriving")?;
                let sorted = self.plain.round(load, seed + 1000, "sorted")?;
                if seed > 0 {
                    all.ours.push(ours);
                    all.arriving.push(arriving);
                    all.sorted.push(sorted);
                }
            }
        }
        Ok(all)
    }
}

fn report_speed(rounds: &[Rounds], bars: &mut Vec<(String, Vec<(String, f64)>)>) {
    let mut table = Table::new([
        "entries/s",
        "Quicksilver",
        "and sealed",
        "plain LMDB",
        "sorted",
        "ratio",
        "beside sorted",
    ]);
    for (load, rounds) in SPEED.into_iter().zip(rounds) {
        let speed = |round: &Round| load.entries() / round.seconds;
        let sealed = |round: &Round| load.entries() / (round.seconds + round.sealing_seconds);
        let per_second = |rounds: &[Round]| grouped(Rounds::median(rounds, speed) as u64);
        let name = format!("{} in a commit", grouped(load.puts as u64));
        table.row([
            name.clone(),
            per_second(&rounds.ours),
            grouped(Rounds::median(&rounds.ours, sealed) as u64),
            per_second(&rounds.arriving),
            per_second(&rounds.sorted),
            format!("{:.2}", rounds.ratio(&rounds.arriving, speed)),
            format!("{:.2}", rounds.ratio(&rounds.sorted, speed)),
        ]);
        let peers = [("as they come", &rounds.arriving), ("sorted in a commit", &rounds.sorted)];
        let peers = peers.map(|(what, peer)| (what.to_owned(), rounds.ratio(peer, speed)));
        bars.push((name, peers.to_vec()));
    }
    table.print("");
    println!();
    for (load, rounds) in SPEED.into_iter().zip(rounds) {
        let ratio = rounds.ratio(&rounds.arriving, |round| 1.0 / round.seconds);
        let met = if ratio >= TARGET { "met" } else { "missed" };
        println!(
            "{} in a commit: {ratio:.2} of plain LMDB; target {TARGET}: {met}.",
            grouped(load.puts as u64)
        );
    }
}

fn report_bytes(keys: u64, rounds: &[Rounds], table: &mut Table) {
    for (load, rounds) in WINDOWS.into_iter().zip(rounds) {
        let per_byte = |round: &Round| round.disk_bytes / load.logical_bytes();
        table.row([
            format!("{} keys, {}", grouped(keys), load.name),
            load.puts.to_string(),
            format!("{:.1}", Rounds::median(&rounds.ours, per_byte)),
            format!("{:.1}", Rounds::median(&rounds.arriving, per_byte)),
            format!("{:.2}", rounds.ratio(&rounds.arriving, per_byte)),
        ]);
    }
}

fn main() -> Result<()> {
    let quick = flag("--quick");
    let rounds = option("--rounds", if quick { 3 } else { 9 })?;
    let small = if quick { 100_000 } else { 1_000_000 };
    let large = if quick { 1_000_000 } else { 10_000_000 };
    let programs = tempfile::tempdir()?;
    let program: PathBuf = peer::compile("store/peer.c", programs.path())?;
    println!(
        "{KEY_BYTES}-byte keys, {VALUE_BYTES}-byte values, random overwrites, durable; medians of \
         {rounds} interleaved rounds. {} keys:\n",
        grouped(small)
    );
    let mut bars = Vec::new();
    let mut bytes = Table::new([
        "disk bytes per byte of key and value",
        "in a commit",
        "Quicksilver",
        "plain LMDB",
        "ratio",
    ]);
    for keys in [Some(small), (!flag("--small")).then_some(large)].into_iter().flatten() {
        let dir = scratch()?;
        let mut contest = Contest::create(dir.path(), &program, keys)?;
        if keys == small {
            report_speed(&contest.run(SPEED, rounds)?, &mut bars);
        }
        report_bytes(keys, &contest.run(WINDOWS, rounds)?, &mut bytes);
    }
    println!();
    bytes.print("");
    let title = "Entries per second, as a part of plain LMDB's";
    let marks = vec![(TARGET, format!("target {TARGET}"))];
    let bars = Bars { title, logarithmic: false, label: plot::ratio, marks, groups: bars };
    plot::save("store", &bars.svg())
}
