//! A service of a machine, reduced to its reads: opens a database through the reader library and
//! answers questions, one line each, until its input ends.
//!
//! | question | answer |
//! |---|---|
//! | `get KEY` | `none`, or `value` and the fingerprint |
//! | `text KEY` | `none`, or `text` and the value |
//! | `await KEY FINGERPRINT\|none MS` | `seen` or `timeout` |
//! | `position` | index, hash, digest and number of keys |
//! | `hold` | `holding`, and keeps a snapshot open |
//! | `held KEY` | like `text`, from that snapshot |
//! | `release` | `released` |
//! | `group PREFIX KEYS [PAUSE_MS]` | takes snapshots until the key `stop` exists; how many, of how many numbers, the last number, and the longest time that one took, in microseconds |
//! | `dump FILE` | writes `key value` lines from one snapshot to the file; `dumped` and how many |
//! | `verify` | `clean` and what was checked, or `problems` |
//!
//! Any failure is `error` and its text.

use std::fmt::Write as _;
use std::io::{self, BufRead, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use quicksilver::{Reader, Snapshot};
use quicksilver_tests::fingerprint;

/// Ends [`Service::group`].
const STOP_KEY: &[u8] = b"stop";

type Outcome = Result<String, Box<dyn std::error::Error>>;

struct Service {
    reader: Reader,
    held: Option<Snapshot>,
}

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: qs-test-reader DIR");
        return ExitCode::from(2);
    };
    let reader = match Reader::open(&dir) {
        Ok(reader) => reader,
        Err(error) => {
            println!("error {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut service = Service { reader, held: None };
    println!("open");
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        let answer = service.answer(&words).unwrap_or_else(|error| format!("error {error}"));
        println!("{}", answer.replace('\n', " "));
        if io::stdout().flush().is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}

impl Service {
    fn answer(&mut self, words: &[&str]) -> Outcome {
        match words {
            ["get", key] => Ok(match self.reader.get_with(key.as_bytes(), fingerprint)? {
                None => "none".to_owned(),
                Some(fingerprint) => format!("value {fingerprint}"),
            }),
            ["text", key] => Ok(as_text(self.reader.get(key.as_bytes())?.as_deref())),
            ["await", key, wanted, ms] => {
                self.wait(key, wanted, Duration::from_millis(ms.parse()?))
            }
            ["position"] => self.position(),
            ["hold"] => {
                self.held = Some(self.reader.snapshot()?);
                Ok("holding".to_owned())
            }
            ["held", key] => {
                let held = self.held.as_ref().ok_or("nothing is held")?;
                Ok(as_text(held.get(key.as_bytes())?.as_deref()))
            }
            ["release"] => {
                self.held = None;
                Ok("released".to_owned())
            }
            ["group", prefix, keys] => self.group(prefix.as_bytes(), keys.parse()?, Duration::ZERO),
            ["group", prefix, keys, pause_ms] => {
                let pause = Duration::from_millis(pause_ms.parse()?);
                self.group(prefix.as_bytes(), keys.parse()?, pause)
            }
            ["dump", file] => self.dump(file),
            ["verify"] => self.verify(),
            other => Err(format!("no such question: {other:?}").into()),
        }
    }

    fn wait(&self, key: &str, wanted: &str, within: Duration) -> Outcome {
        let deadline = Instant::now() + within;
        loop {
            let index = self.reader.index()?;
            let found = self.reader.get_with(key.as_bytes(), fingerprint)?;
            if found.as_deref().unwrap_or("none") == wanted {
                return Ok("seen".to_owned());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok("timeout".to_owned());
            }
            self.reader.wait_for(index.next(), left)?;
        }
    }

    fn position(&self) -> Outcome {
        let snapshot = self.reader.snapshot()?;
        let position = snapshot.position();
        let (index, hash) = (position.index, position.hash);
        Ok(format!("{index} {hash} {} {}", snapshot.digest(), snapshot.len()))
    }

    /// Every snapshot has to show all keys of the group with one number, and neither numbers nor
    /// indices may ever go back.
    fn group(&self, prefix: &[u8], keys: usize, pause: Duration) -> Outcome {
        let (mut snapshots, mut numbers, mut last) = (0_u64, 0_u64, (0_u64, 0_u64));
        let mut longest = Duration::ZERO;
        loop {
            std::thread::sleep(pause);
            let began = Instant::now();
            let snapshot = self.reader.snapshot()?;
            let index = snapshot.index().get();
            let mut seen = Vec::with_capacity(keys);
            for pair in snapshot.prefix(prefix)? {
                let (_, value) = pair?;
                seen.push(std::str::from_utf8(&value)?.parse::<u64>()?);
            }
            let number = seen.first().copied().unwrap_or(0);
            if seen.iter().any(|other| *other != number) || !(seen.is_empty() || seen.len() == keys)
            {
                return Ok(format!("torn at index {index}: {seen:?}"));
            }
            if number < last.0 || index < last.1 {
                return Ok(format!("went back from {last:?} to {:?}", (number, index)));
            }
            longest = longest.max(began.elapsed());
            snapshots += 1;
            numbers += u64::from(number > last.0);
            last = (number, index);
            if snapshot.get(STOP_KEY)?.is_some() {
                let longest_us = longest.as_micros();
                return Ok(format!("whole {snapshots} {numbers} {number} {longest_us}"));
            }
        }
    }

    fn dump(&self, file: &str) -> Outcome {
        let snapshot = self.reader.snapshot()?;
        let mut text = String::new();
        let mut pairs = 0;
        for pair in snapshot.iter()? {
            let (key, value) = pair?;
            writeln!(text, "{} {}", key.escape_ascii(), value.escape_ascii())?;
            pairs += 1;
        }
        std::fs::write(file, text)?;
        Ok(format!("dumped {pairs}"))
    }

    fn verify(&self) -> Outcome {
        let report = quicksilver::verify::verify(&self.reader.environment()?, |_| {})?;
        let entries = report.log.map_or(0, |(first, last)| last.next().since(first));
        Ok(if report.is_clean() && report.digest.is_some() {
            format!("clean: {} keys, {entries} entries, {} batches", report.keys, report.batches)
        } else {
            format!(
                "problems {}: {:?}, digest {:?}",
                report.problem_count, report.problems, report.digest
            )
        })
    }
}

fn as_text(value: Option<&[u8]>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| format!("text {}", value.escape_ascii()))
}
