//! "The power may go at any moment." Everything that a writer does to its files is recorded, and
//! what a power cut could have left of it is made ten thousand times over: what was not synced is
//! dropped, kept in part, or torn. Each time the next start finds everything that was acknowledged,
//! and nothing that was never there.
//!
//! `QS_SEED` repeats the choice of what is written, where it is cut, and what is lost;
//! `QS_CRASH_IMAGES` says how many cuts there are in all.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use quicksilver::Reader;
use quicksilver::build::snapshot;
use quicksilver_tests::crash::disk::{Disk, Loss};
use quicksilver_tests::crash::replay::{Images, Outcome, replay, scratch};
use quicksilver_tests::crash::trace::{Event, Trace};
use quicksilver_tests::seeded_rng;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// In all tests together, where nobody says otherwise.
const IMAGES: f64 = 10_000.0;
/// The time for those.
const TIME: Duration = Duration::from_secs(100);

/// Enough to see a mistake, and more than that takes.
const IMAGES_OF_A_MISTAKE: u64 = 4_000;

/// A recorded run, and where it is.
struct Run {
    trace: Trace,
    dir: tempfile::TempDir,
    seed: u64,
}

impl Run {
    fn of(steps: &[&str]) -> Run {
        Run::with_seed(seeded_rng().random(), steps, None)
    }

    /// One that is killed after so many events, if it is.
    fn with_seed(seed: u64, steps: &[&str], events: Option<usize>) -> Run {
        let dir = scratch();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let trace = Trace::record(&data, &dir.path().join("trace"), seed, steps, events);
        Run { trace, dir, seed }
    }

    /// Another program goes on where the one before ended.
    fn and_then(&mut self, steps: &[&str]) {
        self.trace = Trace::record(&self.data(), &self.file(), self.seed, steps, None);
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("trace")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A part of all the images, each cut after so many events or later.
    fn survives(&mut self, part: f64, after: usize) {
        let all = std::env::var("QS_CRASH_IMAGES").map(|text| text.parse().unwrap());
        let (all, within) = match all {
            Ok(all) => (all, Duration::MAX),
            Err(_) => (IMAGES, TIME.mul_f64(part)),
        };
        let count = (all * part).ceil() as u64;
        let images = Images { seed: self.seed, count, after };
        let Outcome { images, elapsed, failures } = replay(&self.file(), images, within);
        println!("{images} images of {count} in {elapsed:.1?}");
        self.dir.disable_cleanup(!failures.is_empty());
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        assert!(images >= count / 4, "only {images} of {count} in {elapsed:?}");
    }

    /// The checker finds what is wrong with these events, and says so in one of these ways.
    fn is_caught(&self, trace: &Trace, saying: &[&str]) {
        trace.write(&self.file());
        let images = Images { seed: self.seed, count: IMAGES_OF_A_MISTAKE, after: 0 };
        let Outcome { images, failures, .. } = replay(&self.file(), images, TIME);
        println!("found after {images} images: {failures:#?}");
        let found = failures.iter().any(|failure| saying.iter().any(|s| failure.contains(s)));
        assert!(found, "none of {saying:?} in {failures:?}");
    }
}

/// The recorder has missed nothing: with everything that was done, the directory is what it is.
fn assert_complete(run: &Run) {
    let events = run.trace.events();
    let mut disk = Disk::new(&events[0]);
    for event in &events {
        disk.apply(event);
    }
    // Nothing is left to chance.
    let image = disk.after_cut(Loss::NONE, &mut StdRng::seed_from_u64(0));
    let mut found = Vec::new();
    collect(&run.data(), &run.data(), &mut found);
    found.sort();
    let names: Vec<&str> = image.files().into_keys().collect();
    assert_eq!(names, found);
    for (name, content) in image.files() {
        let real = std::fs::read(run.data().join(name)).unwrap();
        assert!(real == content, "{name} is not what was recorded");
    }
}

fn collect(root: &Path, dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            collect(root, &entry.path(), found);
        } else {
            found.push(entry.path().strip_prefix(root).unwrap().display().to_string());
        }
    }
}

fn oldest_index(run: &Run) -> u64 {
    Reader::open(run.data()).unwrap().status().unwrap().oldest_index.get()
}

#[test]
fn cuts_while_commits_are_made_and_the_log_is_collected() {
    let mut run = Run::of(&["commit=60"]);
    assert_complete(&run);
    assert!(oldest_index(&run) > 1, "nothing was collected");
    run.survives(0.25, 0);
}

#[test]
fn cuts_while_generations_are_made_and_switched() {
    let mut run = Run::of(&["commit=12", "rebuild", "commit=6", "rebuild", "commit=4"]);
    assert_complete(&run);
    run.survives(0.25, 0);
}

/// Story: a snapshot is made, at a node that is ahead; a node that is behind installs it.
#[test]
fn cuts_while_snapshots_are_made_and_restored() {
    let seed = seeded_rng().random();
    let mut ahead = Run::with_seed(seed, &["commit=20", "snapshot", "commit=2", "snapshot"], None);
    assert_complete(&ahead);
    ahead.survives(0.1, 0);
    let newest = snapshot::list(&ahead.data()).unwrap().pop().unwrap().0;
    let restore = format!("restore={}", newest.display());
    let mut behind = Run::with_seed(seed, &["commit=10", &restore, "commit=5"], None);
    assert_complete(&behind);
    behind.survives(0.2, 0);
}

/// Story: the process dies while it switches generations, or restores a snapshot; the next one goes
/// on from there, and then the power is cut. What the first one had not made durable may go; nothing
/// may that the second one has acknowledged or shown.
#[test]
fn a_process_dies_and_then_the_power_goes() {
    let seed = seeded_rng().random();
    let ahead = Run::with_seed(seed, &["commit=10", "snapshot"], None);
    let newest = snapshot::list(&ahead.data()).unwrap().pop().unwrap().0;
    dies_and_the_power_goes(seed, &["commit=3", "rebuild"]);
    dies_and_the_power_goes(seed, &["commit=3", &format!("restore={}", newest.display())]);
}

fn dies_and_the_power_goes(seed: u64, steps: &[&str]) {
    const DEATHS: usize = 20;
    let whole = Run::with_seed(seed, steps, None);
    let events = whole.trace.events();
    let current = Event::Rename { from: "CURRENT.new", to: "CURRENT" };
    let switched = events.iter().rposition(|event| *event == current).unwrap();
    // All around that, and far before it.
    let near = switched - 8..events.len().min(switched + 8);
    let far = (1..=DEATHS).map(|n| n * switched / DEATHS);
    let deaths: Vec<usize> = far.chain(near).collect();
    let part = 0.15 / deaths.len() as f64;
    for death in deaths {
        println!("death after event {death} of {}", events.len());
        let mut run = Run::with_seed(seed, steps, Some(death));
        run.and_then(&["commit=3"]);
        run.survives(part, death);
    }
}

/// What each of the mistakes is that all this is for, and that it would be seen.
mod mistakes {
    use super::*;

    #[test]
    fn acknowledging_before_the_commit() {
        let run = Run::of(&["commit=5", "early=30"]);
        run.is_caught(&run.trace, &["lost: "]);
    }

    #[test]
    fn the_index_in_a_transaction_of_its_own() {
        let run = Run::of(&["commit=5", "apart=30"]);
        run.is_caught(&run.trace, &["meta says", "names "]);
    }

    #[test]
    fn a_batch_that_nobody_compared_with_the_log() {
        let run = Run::of(&["commit=5", "unchecked=5"]);
        run.is_caught(&run.trace, &["position, log and digest"]);
    }

    #[test]
    fn a_commit_that_is_not_synced() {
        let run = Run::of(&["commit=40"]);
        let trace = run.trace.without_syncs(|name| name.ends_with("data.mdb"));
        // What LMDB then reads may be anything; also such that it ends the process.
        run.is_caught(&trace, &["does not start", "signal", "corrupt", "at "]);
    }

    #[test]
    fn current_that_is_not_synced() {
        let run = Run::of(&["commit=5", "rebuild", "commit=5"]);
        let trace = run.trace.without_syncs(|name| name == "CURRENT.new");
        run.is_caught(&trace, &["CURRENT"]);
    }

    #[test]
    fn names_that_are_not_synced() {
        let run = Run::of(&["commit=5", "rebuild", "commit=5"]);
        let trace = run.trace.without_syncs(str::is_empty);
        run.is_caught(&trace, &["lost: ", "does not start", "cannot open it"]);
    }

    #[test]
    fn a_generation_whose_files_have_no_durable_names() {
        let run = Run::of(&["commit=5", "rebuild", "commit=5"]);
        let trace = run.trace.without_syncs(|name| name == "gen-000002.new");
        run.is_caught(&trace, &["data.mdb", "does not start", "cannot open it"]);
    }
    /// A process dies after `death`; the next one forgets to sync, at its start, what `forgotten` picks.
    fn a_start_that_forgets(
        steps: &[&str],
        death: impl Fn(&[Event<'_>]) -> usize,
        forgotten: impl Fn(&str) -> bool,
    ) {
        let seed = seeded_rng().random();
        let whole = Run::with_seed(seed, steps, None);
        let death = death(&whole.trace.events());
        let mut run = Run::with_seed(seed, steps, Some(death));
        run.and_then(&["commit=3"]);
        let trace = run.trace.without_syncs_of_start(death, forgotten);
        run.is_caught(&trace, &["lost: ", "does not start", "cannot open it"]);
    }

    #[test]
    fn a_start_that_does_not_sync_the_commit_that_it_finds() {
        let last_write = |events: &[Event<'_>]| {
            events.iter().rposition(|e| matches!(e, Event::SyncRange { .. }))
        };
        let death = |events: &[Event<'_>]| last_write(events).unwrap();
        a_start_that_forgets(&["commit=6"], death, |name| name.ends_with("data.mdb"));
    }

    #[test]
    fn a_start_that_does_not_sync_the_name_that_it_finds() {
        let current = Event::Rename { from: "CURRENT.new", to: "CURRENT" };
        let death =
            |events: &[Event<'_>]| events.iter().rposition(|event| *event == current).unwrap() + 1;
        a_start_that_forgets(&["commit=3", "rebuild"], death, str::is_empty);
    }
}
