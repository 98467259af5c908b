//! The whole corpus through every target, and mutations of it: a bounded number, from a seed. The
//! same bytes that libFuzzer runs, without libFuzzer.
//!
//! `QS_SEED=N` repeats a run.

use std::fs;
use std::path::Path;

use quicksilver_fuzz::{TARGETS, Target};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Mutations of a target's corpus.
const MUTATIONS: usize = 20_000;
/// A mutation is at most so long.
const MAX_BYTES: usize = 4096;

/// Says which bytes they were when they make the target panic.
struct Running<'a> {
    target: &'static str,
    what: &'a str,
    bytes: &'a [u8],
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let file = std::env::temp_dir().join(format!("quicksilver-fuzz-{}", self.target));
            let kept = fs::write(&file, self.bytes).map(|()| file.display().to_string());
            println!("{}, {}: the input is in {kept:?}", self.target, self.what);
        }
    }
}

fn run((target, body): Target, what: &str, bytes: &[u8]) {
    let _running = Running { target, what, bytes };
    body(bytes);
}

/// Every input, with its file's name, in the order of the names.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let files = fs::read_dir(&dir).expect("every target has a corpus");
    let mut inputs: Vec<_> = files
        .map(|file| {
            let file = file.expect("a directory can be listed");
            let name = file.file_name().to_string_lossy().into_owned();
            (name, fs::read(file.path()).expect("a file can be read"))
        })
        .collect();
    inputs.sort();
    inputs
}

/// Changes an input as the world does: bits, bytes, lengths, ends, and pieces of other inputs.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
    let at = rng.random_range(0..=bytes.len());
    let to = rng.random_range(at..=bytes.len().min(at + 64));
    match rng.random_range(0..8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
        1 if at < bytes.len() => bytes[at] = *[0, 1, 127, 128, 254, 255].choose(rng).unwrap_or(&0),
        2 if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(rng.random_range(1..4)),
        3 if bytes.len() >= at + 4 => {
            let numbers = [0, 1, 0x7fff_ffff, 0xffff_ffff, 0x0001_0000, bytes.len() as u32];
            let number = numbers.choose(rng).unwrap_or(&0);
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        4 => bytes.truncate(at),
        5 => drop(bytes.drain(at..to)),
        6 => {
            let copy = bytes[at..to].to_vec();
            bytes.splice(at..at, copy);
        }
        _ => {
            let from = rng.random_range(0..=other.len());
            let piece = &other[from..other.len().min(from + 64)];
            bytes.splice(at..at, piece.iter().copied());
        }
    }
    bytes.truncate(MAX_BYTES);
}

fn replay(name: &str) {
    let target = *TARGETS.iter().find(|(target, _)| *target == name).expect("it is in the list");
    let corpus = corpus(name);
    assert!(corpus.len() >= 5, "{} inputs", corpus.len());
    for (file, bytes) in &corpus {
        run(target, file, bytes);
    }
    let given = std::env::var("QS_SEED").ok();
    let seed = given.map_or_else(rand::random, |seed| seed.parse().expect("QS_SEED is a number"));
    println!("QS_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for n in 0..MUTATIONS {
        let [(file, bytes), (_, other)] =
            [0; 2].map(|_| &corpus[rng.random_range(0..corpus.len())]);
        let mut bytes = bytes.clone();
        for _ in 0..rng.random_range(1..=4) {
            mutate(&mut bytes, other, &mut rng);
        }
        run(target, &format!("QS_SEED={seed}, mutation {n} of {file}"), &bytes);
    }
}

#[test]
fn frames() {
    replay("frames");
}

#[test]
fn handshake() {
    replay("handshake");
}

#[test]
fn records() {
    replay("records");
}

#[test]
fn snapshots() {
    replay("snapshots");
}

#[test]
fn config() {
    replay("config");
}

#[test]
fn resp() {
    replay("resp");
}

/// Nothing lies in the corpus of a target that does not exist, and what is there stays small.
#[test]
fn the_corpus_is_small_and_all_of_it_is_run() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut found: Vec<_> = fs::read_dir(dir)
        .expect("there is a corpus")
        .map(|entry| entry.expect("it can be listed").file_name().to_string_lossy().into_owned())
        .collect();
    let mut targets = TARGETS.map(|(name, _)| name.to_owned());
    found.sort();
    targets.sort();
    assert_eq!(found, targets);
    let inputs: Vec<_> = TARGETS.iter().flat_map(|(name, _)| corpus(name)).collect();
    let bytes: usize = inputs.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(inputs.len() <= 500 && bytes <= 512 << 10, "{} inputs, {bytes} bytes", inputs.len());
}
