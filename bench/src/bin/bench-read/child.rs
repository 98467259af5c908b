//! The Rust side of the contest: `bench-read --child DATA_DIR KEYS_FILE KEY_BYTES`.
//!
//! A process of its own, like the peers in C, and with the same conversation: every line names how
//! the keys are read, and the answer is nanoseconds, keys found, and a sum over first bytes.

use std::fs;
use std::hint::black_box;
use std::io::stdin;
use std::time::Instant;

use quicksilver::Reader;
use quicksilver_bench::Result;
use quicksilver_lmdb::Transaction;

/// What a round has found.
#[derive(Debug, Default)]
struct Tally {
    found: u64,
    sum: u64,
}

impl Tally {
    #[inline]
    fn add(&mut self, first: Option<u8>) {
        if let Some(first) = first {
            self.found += 1;
            self.sum += u64::from(first);
        }
    }
}

#[inline]
fn first(value: &[u8]) -> u8 {
    value.first().copied().unwrap_or(0)
}

fn round(reader: &Reader, way: &str, keys: &[u8], key_bytes: usize) -> Result<(u64, Tally)> {
    let keys = keys.chunks_exact(key_bytes);
    let mut tally = Tally::default();
    let start = Instant::now();
    match way {
        "with" => {
            for key in keys {
                tally.add(reader.get_with(key, first)?);
            }
        }
        "get" => {
            for key in keys {
                tally.add(reader.get(key)?.map(|value| first(black_box(&value))));
            }
        }
        "into" => {
            let mut buffer = Vec::new();
            for key in keys {
                let found = reader.get_into(key, &mut buffer)?;
                tally.add(found.then(|| first(black_box(&buffer))));
            }
        }
        "snapshot" => {
            let snapshot = reader.snapshot()?;
            for key in keys {
                tally.add(snapshot.get(key)?.map(|value| first(&value)));
            }
        }
        "layer" => {
            let environment = reader.environment()?;
            let mut txn = environment.env.read_owned()?;
            for key in keys {
                txn.renew()?;
                tally.add(txn.get(environment.data, key)?.map(first));
                txn.reset();
            }
        }
        other => return Err(format!("no such way to read: {other:?}").into()),
    }
    Ok((start.elapsed().as_nanos() as u64, tally))
}

/// Answers until its input ends.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let [dir, keys, key_bytes] = arguments else {
        return Err("usage: --child DATA_DIR KEYS_FILE KEY_BYTES".into());
    };
    let (keys, key_bytes) = (fs::read(keys)?, key_bytes.parse()?);
    let reader = Reader::open(dir)?;
    for way in stdin().lines() {
        let (ns, tally) = round(&reader, &way?, &keys, key_bytes)?;
        println!("{ns} {} {}", tally.found, tally.sum);
    }
    Ok(())
}
