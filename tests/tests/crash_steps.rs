//! "A process may die at any of its steps, and any of them may fail." A writer is killed before
//! every single system call that it makes: while it starts, makes its first database, commits,
//! collects its log, and switches generations. And every call that stores something fails once,
//! with an error of the disk or because it is full. Each time the next start finds everything that
//! was acknowledged, whole, in one generation.
//!
//! `QS_SEED` repeats what is written.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use quicksilver::Reader;
use quicksilver::build::snapshot;
use quicksilver_tests::crash::check::{Depth, check};
use quicksilver_tests::crash::steps::{Call, Ended, Fault, Workload};
use quicksilver_tests::crash::workload::{Model, Plan, Word, acknowledged};
use quicksilver_tests::process::strace_works;
use quicksilver_tests::{seeded_rng, skipped};
use rand::Rng;

/// One waits for the system while the other computes.
const THREADS: usize = 2;
/// After these the log is as long as it may be, so that many a commit collects a part of it.
const BEFORE: [&str; 1] = ["commit=60"];

/// Runs the workload once for each of the calls, has `look` judge how it ended, and gives what was
/// wrong with what it left.
fn each(
    seed: u64,
    workload: &Workload,
    calls: &[Call],
    fault: Fault,
    look: impl Fn(&Call, &Ended) + Sync,
) -> Vec<String> {
    let started = Instant::now();
    let next = AtomicUsize::new(0);
    let some = || {
        let (mut model, mut problems) = (Model::new(Plan { seed }), Vec::new());
        while let Some(call) = calls.get(next.fetch_add(1, Ordering::Relaxed)) {
            let ended = workload.with_fault(call, fault);
            let promised = acknowledged(&ended.words);
            let checked = check(ended.data.path(), &mut model, promised, Depth::Everything);
            let describe = |problem| format!("{fault:?} at {} {}: {problem}", call.nth, call.text);
            problems.extend(checked.err().map(describe));
            look(call, &ended);
        }
        problems
    };
    let problems: Vec<String> = std::thread::scope(|scope| {
        let threads = [(); THREADS].map(|()| scope.spawn(some));
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    println!("{fault:?} at each of {} calls in {:.1?}", calls.len(), started.elapsed());
    problems
}

/// Kills it everywhere, and gives what was wrong with what it left.
fn killed_everywhere(seed: u64, before: &[&str], steps: &[&str]) -> Vec<String> {
    killed_everywhere_in(seed, &Workload::new(seed, before, steps))
}

fn killed_everywhere_in(seed: u64, workload: &Workload) -> Vec<String> {
    let calls = workload.calls();
    let words = |call: &Call| {
        let said = calls.iter().take_while(|other| *other != call);
        said.filter(|other| other.says()).count()
    };
    // With several threads, which calls there are is different each time.
    let alone = !calls.iter().any(|call| call.name.starts_with("clone"));
    // The last one is the end itself.
    each(seed, workload, &calls[..calls.len() - 1], Fault::Kill, |call, ended| {
        let Ended { status, complaint, .. } = ended;
        assert!(ended.was_killed() || !alone, "at {}: {status} {complaint}", call.text);
        let said = (ended.words.len(), words(call));
        assert!(said.0 == said.1 || !alone, "killed before {} {}: {said:?}", call.nth, call.text);
    })
}

/// Whether the scenarios can run here; says so when they cannot.
fn can_trace() -> bool {
    let works = strace_works();
    if !works {
        skipped("strace cannot trace here");
    }
    works
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn killed_at_every_step_of_making_a_database() {
    if can_trace() {
        assert_none(&killed_everywhere(seeded_rng().random(), &[], &["commit=1"]));
    }
}

#[test]
fn killed_at_every_step_of_a_commit_that_collects_the_log() {
    if can_trace() {
        let seed = seeded_rng().random();
        let commits = |count: u32| format!("commit={count}");
        let oldest = |count| {
            let workload = Workload::new(seed, &[&commits(count)], &[]);
            Reader::open(workload.path()).unwrap().status().unwrap().oldest_index
        };
        // Not every commit collects something.
        let before = (60..90).find(|&count| oldest(count) < oldest(count + 1));
        let before = commits(before.expect("the log is collected"));
        assert_none(&killed_everywhere(seed, &[&before], &["commit=1"]));
    }
}

#[test]
fn killed_at_every_step_of_a_switch_of_generations() {
    if can_trace() {
        assert_none(&killed_everywhere(seeded_rng().random(), &BEFORE, &["rebuild", "commit=1"]));
    }
}

/// Story: the process dies where files get their names, or lose them; the one that cleans up after it
/// dies, too, at any of its steps.
#[test]
fn killed_at_every_step_of_cleaning_up_after_a_death() {
    if !can_trace() {
        return;
    }
    let seed = seeded_rng().random();
    let switch = Workload::new(seed, &["commit=5"], &["rebuild"]);
    let calls = switch.calls();
    let naming: Vec<&Call> = calls.iter().filter(|call| call.name.starts_with("rename")).collect();
    assert!(naming.len() >= 3, "the generation, CURRENT, and the old generation: {naming:?}");
    for call in naming.into_iter().chain(calls.iter().find(|call| call.name == "unlinkat")) {
        let dead = switch.with_fault(call, Fault::Kill);
        assert!(dead.was_killed(), "at {}", call.text);
        let start = Workload::after(dead, seed, &["commit=1"]);
        assert_none(&killed_everywhere_in(seed, &start));
    }
}

/// A snapshot of the same plan, further than [`BEFORE`], and the step that restores it.
fn restore(seed: u64) -> (Workload, String) {
    let ahead = Workload::new(seed, &["commit=70", "snapshot"], &[]);
    let file = snapshot::list(ahead.path()).unwrap().pop().unwrap().0;
    (ahead, format!("restore={}", file.display()))
}

#[test]
fn killed_at_every_step_of_a_restored_snapshot() {
    if can_trace() {
        let seed = seeded_rng().random();
        let (_ahead, restore) = restore(seed);
        assert_none(&killed_everywhere(seed, &BEFORE, &[&restore, "commit=1"]));
    }
}

#[test]
fn killed_at_every_step_of_a_snapshot() {
    if can_trace() {
        assert_none(&killed_everywhere(seeded_rng().random(), &["commit=10"], &["snapshot"]));
    }
}

/// The calls that store something from the moment when it says that it begins its steps.
fn storing(workload: &Workload) -> Vec<Call> {
    let calls = workload.calls();
    let begin = calls.iter().position(|call| call.says() && call.text.contains("step ")).unwrap();
    calls[begin..].iter().filter(|call| call.stores()).cloned().collect()
}

#[test]
fn a_disk_that_fails_at_every_step_of_a_commit() {
    if !can_trace() {
        return;
    }
    let seed = seeded_rng().random();
    let workload = Workload::new(seed, &BEFORE, &["commit=1"]);
    let calls = storing(&workload);
    assert!(calls.iter().any(|call| call.name == "fdatasync"), "{calls:?}");
    for errno in ["EIO", "ENOSPC"] {
        // Tried again, after opening it anew if that is what the error asks for, it succeeds.
        let problems = each(seed, &workload, &calls, Fault::Error(errno), |call, ended| {
            let at = format!("{errno} at {}", call.text);
            assert!(ended.status.success(), "{at}: {}", ended.complaint);
            let refusals = ended.words.iter().filter_map(|word| match word {
                Word::Refused { kind, text } => Some((&**kind, text)),
                _ => None,
            });
            let refusals: Vec<_> = refusals.collect();
            assert!(matches!(refusals[..], [("full" | "failed", _)]), "{at}: {refusals:?}");
            assert!(acknowledged(&ended.words).get() > 0, "{at}: {:?}", ended.words);
        });
        assert_none(&problems);
        let fault = Fault::ErrorsFromThenOn(errno);
        let problems = each(seed, &workload, &calls, fault, |call, ended| {
            assert!(!ended.status.success(), "{errno} at {} and later", call.text);
            assert!(!ended.complaint.is_empty(), "{errno} at {} and later", call.text);
        });
        assert_none(&problems);
    }
}

#[test]
fn a_disk_that_fails_at_every_step_of_a_switch() {
    if can_trace() {
        fails_everywhere(seeded_rng().random(), "rebuild");
    }
}

#[test]
fn a_disk_that_fails_at_every_step_of_a_restored_snapshot() {
    if can_trace() {
        let seed = seeded_rng().random();
        let (_ahead, restore) = restore(seed);
        fails_everywhere(seed, &restore);
    }
}

fn fails_everywhere(seed: u64, step: &str) {
    let workload = Workload::new(seed, &BEFORE, &[step]);
    let calls = storing(&workload);
    for errno in ["EIO", "ENOSPC"] {
        let problems = each(seed, &workload, &calls, Fault::Error(errno), |call, ended| {
            let refused = ended.words.iter().any(|word| matches!(word, Word::Refused { .. }));
            let said = refused || !ended.complaint.is_empty();
            assert!(said, "{errno} at {}: nobody has noticed", call.text);
        });
        assert_none(&problems);
    }
}

/// The mistakes that a death shows, and that it would be seen.
mod mistakes {
    use super::*;

    fn is_caught(steps: &[&str], saying: &str) {
        if can_trace() {
            let problems = killed_everywhere(seeded_rng().random(), &["commit=5"], steps);
            let found = problems.iter().find(|problem| problem.contains(saying));
            println!("{} problems, such as {found:?}", problems.len());
            assert!(found.is_some(), "{saying:?} is not in {problems:?}");
        }
    }

    #[test]
    fn acknowledging_before_the_commit() {
        is_caught(&["early=1"], "lost: ");
    }

    #[test]
    fn the_index_in_a_transaction_of_its_own() {
        is_caught(&["apart=1"], "meta says");
    }
}
