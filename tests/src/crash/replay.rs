//! Thousands of power cuts of one trace.
//!
//! Every image has a number. Seed and number say where the power was cut and what was lost, so one
//! image can be made again alone. A processor each has its own `qs-test-crash-images`, which makes
//! and checks some hundred of them and ends; one that is killed by an image is a failure of that
//! image.

use std::io::{BufRead, BufReader};
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use super::check::{Depth, check, check_snapshots};
use super::disk::{Disk, Loss};
use super::trace::{Event, Trace, words};
use super::workload::{Model, Plan, Word, acknowledged};
use crate::process::test_binary;

/// What one process makes before the next one does.
const IMAGES_AT_ONCE: u64 = 500;
/// So many processes, at least: one waits for the system while the other computes.
const PROCESSES: usize = 2;
/// Every so many images are looked at in every way.
const EVERYTHING_EVERY: u64 = 8;

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Images that were made and checked.
    pub images: u64,
    /// How long that took.
    pub elapsed: Duration,
    /// What was wrong with which image.
    pub failures: Vec<String>,
}

/// Which images.
#[derive(Debug, Clone, Copy)]
pub struct Images {
    /// Decides, with the number of each, what it is.
    pub seed: u64,
    /// So many.
    pub count: u64,
    /// The power is cut after so many events, or later.
    pub after: usize,
}

/// Makes images of a trace, until one is wrong or the time is up.
///
/// # Panics
/// When the processes that make them cannot be started.
pub fn replay(trace: &Path, images: Images, within: Duration) -> Outcome {
    let started = Instant::now();
    let (next, made) = (AtomicU64::new(0), AtomicU64::new(0));
    let failures = Mutex::new(Vec::new());
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..PROCESSES {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) && started.elapsed() < within {
                    let first = next.fetch_add(IMAGES_AT_ONCE, Ordering::Relaxed);
                    let count = IMAGES_AT_ONCE.min(images.count.saturating_sub(first));
                    if count == 0 {
                        break;
                    }
                    let (done, problem) = some(trace, first, Images { count, ..images });
                    made.fetch_add(done, Ordering::Relaxed);
                    if let Some(problem) = problem {
                        failed.store(true, Ordering::Relaxed);
                        failures.lock().unwrap_or_else(PoisonError::into_inner).push(problem);
                    }
                }
            });
        }
    });
    Outcome {
        images: made.into_inner(),
        elapsed: started.elapsed(),
        failures: failures.into_inner().unwrap_or_else(PoisonError::into_inner),
    }
}

/// Has one process make some images; how many it made, and what was wrong with the last one.
fn some(trace: &Path, first: u64, images: Images) -> (u64, Option<String>) {
    let Images { seed, count, after } = images;
    let mut child = Command::new(test_binary("qs-test-crash-images"))
        .arg(trace)
        .args([seed, count, after as u64, first].map(|number| number.to_string()))
        .stdout(Stdio::piped())
        .spawn()
        .expect("the images' program starts");
    let (mut done, mut last) = (0, String::new());
    for line in BufReader::new(child.stdout.take().expect("a pipe")).lines() {
        last = line.expect("the images' program writes text");
        done += 1;
    }
    let status = child.wait().expect("our own child can be waited for");
    (done, (!status.success()).then(|| format!("{last} ({status})")))
}

/// Makes some images and checks them, in this process; says one line for each. Gives what was wrong
/// with the last one, whose files are kept, beside the trace.
///
/// # Errors
/// What is wrong with the last image.
pub fn make_images(trace: &Path, first: u64, images: Images) -> Result<(), String> {
    let scratch = trace.parent().map_or_else(tempfile::tempdir, tempfile::tempdir_in);
    let scratch = scratch.map_err(|e| format!("no directory for the images: {e}"))?;
    let trace = Trace::read(trace);
    let events = trace.events();
    let mut model = Model::new(plan(&events));
    let mut cuts: Vec<Cut> = (first..first + images.count)
        .map(|number| Cut::of(images.seed, number, images.after.max(1)..=events.len()))
        .collect();
    cuts.sort_unstable_by_key(|cut| cut.at);
    let mut disk = Disk::new(&events[0]);
    let (mut seen, mut promised) = (1, Vec::new());
    for mut cut in cuts {
        for event in &events[seen..cut.at] {
            disk.apply(event);
        }
        promised.extend(words(&events[seen..cut.at]));
        seen = cut.at;
        println!("{cut}");
        let dir = scratch.path().join(cut.number.to_string());
        disk.after_cut(cut.loss, &mut cut.rng).write(&dir);
        let checked = check(&dir, &mut model, acknowledged(&promised), cut.depth())
            .and_then(|_| check_snapshots(&dir, &promised));
        if let Err(problem) = checked {
            return Err(format!("{cut}: {problem} (kept in {})", scratch.keep().display()));
        }
        std::fs::remove_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    Ok(())
}

/// One power cut.
struct Cut {
    number: u64,
    /// After so many events.
    at: usize,
    loss: Loss,
    rng: StdRng,
}

impl Cut {
    fn of(seed: u64, number: u64, events: RangeInclusive<usize>) -> Cut {
        let mut rng = StdRng::seed_from_u64(seed ^ number.rotate_left(32));
        let at = rng.random_range(events);
        let loss = Loss::choose(&mut rng);
        Cut { number, at, loss, rng }
    }

    fn depth(&self) -> Depth {
        if self.number.is_multiple_of(EVERYTHING_EVERY) { Depth::Everything } else { Depth::Start }
    }
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Loss { content, names } = self.loss;
        write!(f, "image {}, cut after event {}, {content:?}, {names:?}", self.number, self.at)
    }
}

fn plan(events: &[Event<'_>]) -> Plan {
    let said = words(events);
    let Some(Word::Plan(seed)) = said.first() else { panic!("the program said no plan: {said:?}") };
    Plan { seed: *seed }
}

/// A directory in memory, if there is such a place with room: thousands of files come and go in it.
pub fn scratch() -> TempDir {
    const ROOM_BYTES: u64 = 1 << 30;
    let memory = Path::new("/dev/shm");
    let room = statvfs(memory).map_or(0, |fs| fs.blocks_available() * fs.fragment_size());
    let made = if room >= ROOM_BYTES { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary directory can be made")
}
