//! A program that opens a database, reads, and closes it again, as often as it can, until its input
//! ends; then it says in one line what happened.
//!
//! `qs-test-opener read|bare|write DIR`
//!
//! * `read` opens as services do, through the reader library.
//! * `bare` opens the environment without the lock around opening and closing: what the library
//!   protects from.
//! * `write` opens for writing and commits the next number under the key `counter`, as a
//!   replicator that is restarted all the time would. There may be one of them.
//!
//! The line: `opens N closes M lmdb 0.9.X`, then ` error TEXT` with the first error, if there was
//! one. `closes` counts those after which the process really had nothing open.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use quicksilver::Reader;
use quicksilver::build::{DEFAULT_MAX_READERS, append, open_page, open_writer};
use quicksilver::environment::live_generation;
use quicksilver_format::Entry;
use quicksilver_lmdb::{Env, EnvOptions, library_version};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The key that only grows.
const COUNTER: &[u8] = b"counter";

/// What happened so far.
#[derive(Default)]
struct Done {
    opens: u64,
    closes: u64,
    /// The counter as it was last seen.
    counter: u64,
}

fn main() -> ExitCode {
    static INPUT_ENDED: AtomicBool = AtomicBool::new(false);
    let arguments: Vec<String> = std::env::args().collect();
    let [_, way, dir] = &arguments[..] else {
        eprintln!("usage: qs-test-opener read|bare|write DIR");
        return ExitCode::from(2);
    };
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        INPUT_ENDED.store(true, Ordering::Relaxed);
    });
    let dir = Path::new(dir);
    let mut done = Done::default();
    let mut failed = None;
    while failed.is_none() && !INPUT_ENDED.load(Ordering::Relaxed) {
        let once = match &**way {
            "read" => done.read(dir),
            "bare" => bare(dir),
            "write" => done.write(dir),
            other => Err(format!("no such way: {other}").into()),
        };
        match once {
            Ok(()) => {
                done.opens += 1;
                done.closes += u64::from(!has_lock_file_open());
            }
            Err(error) => failed = Some(error.to_string().replace('\n', " ")),
        }
    }
    let (major, minor, patch) = library_version();
    let Done { opens, closes, .. } = done;
    let error = failed.map(|error| format!(" error {error}")).unwrap_or_default();
    println!("opens {opens} closes {closes} lmdb {major}.{minor}.{patch}{error}");
    ExitCode::SUCCESS
}

impl Done {
    fn read(&mut self, dir: &Path) -> Outcome<()> {
        let reader = Reader::open(dir)?;
        let counter = number(reader.get(COUNTER)?.as_deref())?;
        if counter < self.counter {
            return Err(format!("went back from {} to {counter}", self.counter).into());
        }
        self.counter = counter;
        Ok(())
    }

    fn write(&mut self, dir: &Path) -> Outcome<()> {
        let environment = open_writer(dir, live_generation(dir)?, DEFAULT_MAX_READERS)?;
        let page = open_page(dir, environment.db_id)?;
        let counter = environment
            .value(&environment.env.read()?, COUNTER)?
            .map_or(Ok(0), |value| number(Some(&value)))?;
        let next = (counter + 1).to_string();
        append(&environment, &page, [Entry::set(COUNTER, next.as_bytes())])?;
        Ok(())
    }
}

fn bare(dir: &Path) -> Outcome<()> {
    let generation = dir.join(live_generation(dir)?.to_string());
    let options = EnvOptions { map_bytes: 0, open_lock: None, ..EnvOptions::default() };
    let env = Env::open_reader(&generation, &options)?;
    drop(env.read()?);
    Ok(())
}

fn number(value: Option<&[u8]>) -> Outcome<u64> {
    let value = value.ok_or("no counter")?;
    Ok(std::str::from_utf8(value)?.parse()?)
}

/// A close that could not get the lock is left to the next open, or to the end of the process.
fn has_lock_file_open() -> bool {
    let Ok(open_files) = std::fs::read_dir("/proc/self/fd") else { return false };
    open_files
        .filter_map(Result::ok)
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .any(|path| path.ends_with("lock.mdb"))
}
