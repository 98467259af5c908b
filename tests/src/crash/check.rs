//! A database is opened as a replicator that starts opens it, and compared with what must be there.
//!
//! Everything acknowledged is there; what is there is exactly what the plan made up to some commit;
//! it verifies; one generation is live and nothing else is left; what has the name of a snapshot is a
//! whole one; and nobody who reads, before the replicator starts or after, sees less than was
//! acknowledged.

use std::fs;
use std::path::Path;

use quicksilver::build::{directory, snapshot};
use quicksilver::environment::live_generation;
use quicksilver::{Reader, verify};
use quicksilver_format::Index;
use quicksilver_format::layout::Generation;
use quicksilver_replicator::store::Store;

use super::workload::{DB_ID, HISTORY, Model, Moment, RETENTION, SIZES, Word};

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What the replicator finds, all of its data, and the log.
    Start,
    /// Also what a reader finds that comes before it, and whether it can go on writing.
    Everything,
}

/// Opens what is in `dir` and compares it; gives the index that was found.
///
/// # Errors
/// The first thing that is wrong, in a sentence.
pub fn check(
    dir: &Path,
    model: &mut Model,
    acknowledged: Index,
    depth: Depth,
) -> Result<Index, String> {
    if depth == Depth::Everything {
        read_before_the_start(dir, model, acknowledged)?;
    }
    let mut store = Store::open(dir, DB_ID, HISTORY, SIZES)
        .map_err(|e| format!("the replicator does not start: {e}"))?;
    let found = store.end().index;
    compare(&store, moment(model, found, acknowledged)?)?;
    only_one_is_left(dir)?;
    snapshots_are_whole(dir)?;
    if depth == Depth::Everything {
        let reader = store.reader().map_err(|e| format!("a reader cannot open it: {e}"))?;
        reader_sees(&reader, model, acknowledged)?;
        drop(reader);
        let batches = model.plan().commit(store.end());
        store.set_retention(RETENTION);
        store.apply(&batches).map_err(|e| format!("the next commit is refused: {e}"))?;
        let next = store.end().index;
        compare(&store, moment(model, next, found)?)?;
    }
    Ok(found)
}

/// What must be there when the log ends at `found`.
fn moment(model: &mut Model, found: Index, acknowledged: Index) -> Result<&Moment, String> {
    if found < acknowledged {
        return Err(format!("lost: it ends at {found}, and {acknowledged} was acknowledged"));
    }
    model.at(found).ok_or_else(|| format!("it ends at {found}, where no commit ends"))
}

fn compare(store: &Store, expected: &Moment) -> Result<(), String> {
    let state = store.state();
    let index = expected.position.index;
    let found = (state.applied.position, state.log.last, state.applied.digest);
    let wanted = (expected.position, expected.position, expected.digest);
    if found != wanted {
        return Err(format!("at {index}: position, log and digest are {found:?}, not {wanted:?}"));
    }
    let found = (state.applied.keys, state.applied.bytes);
    let wanted = (expected.pairs.len() as u64, expected.bytes);
    if found != wanted {
        return Err(format!("at {index}: keys and bytes are {found:?}, not {wanted:?}"));
    }
    let report = verify::verify(store.environment(), |_| {})
        .map_err(|e| format!("at {index}: it cannot be verified: {e}"))?;
    if !report.is_clean() {
        return Err(format!("at {index}: {}", report.problems.join("; ")));
    }
    // Digest and CRCs are those of the model, so the pairs are; this one does not rely on them.
    let environment = store.environment();
    let txn = environment.env.read().map_err(|e| e.to_string())?;
    for (key, (_, wanted)) in &expected.pairs {
        match environment.value(&txn, key) {
            Ok(Some(value)) if *value == **wanted => {}
            other => {
                let found = other.map(|value| value.map(|v| v.len()));
                let (key, bytes) = (key.escape_ascii(), wanted.len());
                return Err(format!("at {index}: {key} is {found:?}, not its {bytes} bytes"));
            }
        }
    }
    Ok(())
}

/// With what a replicator's start does about other generations.
fn only_one_is_left(dir: &Path) -> Result<(), String> {
    let live = live_generation(dir).map_err(|e| e.to_string())?;
    directory::remove_others(dir, live).map_err(|e| format!("others than {live} stay: {e}"))?;
    let entries = fs::read_dir(dir).map_err(|e| e.to_string())?;
    for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let other_generation =
            name.parse::<Generation>().is_ok_and(|generation| generation != live);
        if other_generation || name.ends_with(".new") || name.ends_with(".old") {
            return Err(format!("{live} is live, and the start has left {name}"));
        }
    }
    Ok(())
}

/// Every snapshot that a program has said is there.
///
/// # Errors
/// Which one is not.
pub fn check_snapshots(dir: &Path, words: &[Word]) -> Result<(), String> {
    for word in words {
        if let Word::Snapshot(name) = word
            && !snapshot::directory_of(dir).join(name).exists()
        {
            return Err(format!("lost: the snapshot {name}"));
        }
    }
    Ok(())
}

fn snapshots_are_whole(dir: &Path) -> Result<(), String> {
    for (path, opened) in snapshot::list(dir).map_err(|e| e.to_string())? {
        opened
            .and_then(|file| file.check(&mut |_| true))
            .map_err(|e| format!("{} is no snapshot: {e}", path.display()))?;
    }
    Ok(())
}

/// A service that starts before the replicator: what it reads is as good, if there is something.
fn read_before_the_start(dir: &Path, model: &mut Model, acknowledged: Index) -> Result<(), String> {
    match Reader::open(dir) {
        Ok(reader) => reader_sees(&reader, model, acknowledged),
        Err(_) if acknowledged == Index::ZERO => Ok(()),
        Err(e) => Err(format!("a reader that comes first cannot open it: {e}")),
    }
}

fn reader_sees(reader: &Reader, model: &mut Model, acknowledged: Index) -> Result<(), String> {
    let snapshot = reader.snapshot().map_err(|e| format!("a reader finds no snapshot: {e}"))?;
    let expected = moment(model, snapshot.index(), acknowledged)
        .map_err(|problem| format!("a reader sees: {problem}"))?;
    let (found, wanted) = (snapshot.digest(), expected.digest);
    if found != wanted {
        return Err(format!("a reader at {} sees digest {found}, not {wanted}", snapshot.index()));
    }
    // In a few nanoseconds, from the status page, which is no part of what was committed.
    let index = reader.index().map_err(|e| format!("a reader finds no index: {e}"))?;
    if index != snapshot.index() {
        return Err(format!("a reader is told index {index} and sees {}", snapshot.index()));
    }
    Ok(())
}
