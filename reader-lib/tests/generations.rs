//! The replicator builds another generation and switches to it, again and again, while sixteen
//! threads and another process read. Nobody sees an error, a torn batch or the past; everybody is on
//! the new one at the next read; and nothing of the old ones stays open.
//!
//! Then what the switch is built on is broken: the status page is missing, stuck or replaced, the
//! directory is made anew, is gone, or holds another database.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quicksilver::build::{self, Builder, Options};
use quicksilver::status_page::{StatusPage, StatusWriter};
use quicksilver::testing::Db;
use quicksilver::{DbId, Error, HistoryId, Index, Position, Reader};
use quicksilver_format::NEW_DATABASE_FORMAT_VERSION;
use quicksilver_format::layout::Generation;
use quicksilver_format::status::{AT_INDEX, AT_SEQUENCE, NodeState};

const THREADS: u64 = 16;
const SWITCHES: u64 = 25;
const COMMITS_PER_GENERATION: u64 = 8;
const DIR: &str = "QUICKSILVER_TEST_GENERATIONS_DIR";
/// Longer than a reader takes to look around.
const SOON: Duration = Duration::from_secs(60);

/// Two keys that are always written together, so that a torn read shows.
fn pairs(n: u64) -> [(&'static str, String); 2] {
    [("a", n.to_string()), ("b", n.to_string())]
}

/// Reads in every way until the last number is there; fails when any way is wrong.
fn read_until(reader: &Reader, last: u64, stop: &AtomicBool) -> (u64, u64) {
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().parse::<u64>().unwrap();
    let (mut seen, mut reads, mut index) = (0, 0, Index::ZERO);
    while seen < last && !stop.load(Ordering::Relaxed) {
        let single = reader.get_with(b"a", number).unwrap().unwrap();
        let snapshot = reader.snapshot().unwrap();
        let together = [b"a", b"b"].map(|key| number(&snapshot.get(key).unwrap().unwrap()));
        assert!(single >= seen, "went back from {seen} to {single}");
        assert!(together[0] == together[1], "torn: {together:?}");
        assert!(together[0] >= single, "went back from {single} to {}", together[0]);
        assert!(snapshot.index() >= index, "went back from {index} to {}", snapshot.index());
        (seen, index) = (together[0], snapshot.index());
        reads += 1;
    }
    (seen, reads)
}

/// The other process: only does something when a test below starts it.
#[test]
fn reader_process() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let reader = Reader::open(Path::new(&dir)).unwrap();
    println!("\nready");
    let (seen, reads) =
        read_until(&reader, SWITCHES * COMMITS_PER_GENERATION, &AtomicBool::new(false));
    eventually(&reader, "the old ones are closed", |_| open_generations() == ["gen-000026"]);
    println!("\nsaw {seen} in {reads} reads");
}

fn start_reader(dir: &Path) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "reader_process", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while line != "ready\n" {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "the reader did not start");
    }
    (child, output)
}

/// The generations that this process has mapped.
fn open_generations() -> Vec<String> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut found: Vec<String> = maps
        .lines()
        .filter(|line| line.contains("/data.mdb"))
        .filter_map(|line| {
            let from = line.find("gen-")?;
            Some(line[from..from + 10].to_owned())
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

#[test]
fn readers_move_on_under_load() {
    let db = Db::from(pairs(0)).unwrap();
    let last = SWITCHES * COMMITS_PER_GENERATION;
    let (mut child, mut output) = start_reader(db.path());
    let history = db.reader().status().unwrap().history;
    let reads = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for n in 0..THREADS {
            // One handle for all, and one of each thread's own.
            let shared = db.reader();
            let (reads, failed, dir) = (&reads, &failed, db.path());
            scope.spawn(move || {
                let reader = if n % 2 == 0 { shared } else { Reader::open(dir).unwrap() };
                let read = std::panic::catch_unwind(|| read_until(&reader, last, failed).1);
                match read {
                    Ok(n) => drop(reads.fetch_add(n, Ordering::Relaxed)),
                    Err(_) => failed.store(true, Ordering::Relaxed),
                }
            });
        }
        let write = || {
            for switch in 0..SWITCHES {
                let first = switch * COMMITS_PER_GENERATION;
                for n in first + 1..first + COMMITS_PER_GENERATION {
                    db.apply(pairs(n).map(|(key, value)| (key, Some(value)))).unwrap();
                }
                db.replace(history, pairs(first + COMMITS_PER_GENERATION)).unwrap();
            }
        };
        // Who stopped must not keep the others waiting for the end.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(write)).is_err() {
            failed.store(true, Ordering::Relaxed);
            child.kill().unwrap();
        }
    });
    assert!(!failed.load(Ordering::Relaxed), "see above");
    let mut said = String::new();
    std::io::Read::read_to_string(&mut output, &mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    println!("{} reads in this process; the other {}", reads.into_inner(), said.trim());
    // Only the last is left, on disk as in memory. A close that was skipped, because somebody was
    // opening at that moment, is made up for when a reader looks around.
    let reader = db.reader();
    eventually(&reader, "the old ones are closed", |_| open_generations() == ["gen-000026"]);
    let directories = fs::read_dir(db.path()).unwrap();
    let left: Vec<String> = directories
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("gen-"))
        .collect();
    assert_eq!(left, ["gen-000026"]);
}

/// A generation beside the live one, made by hand; nobody is told.
fn build_next(dir: &Path, start: Position, of_db: &Options, value: &str) -> Generation {
    let next = build_generation(dir).next();
    let mut builder =
        Builder::beside(dir, next, start, NEW_DATABASE_FORMAT_VERSION, of_db).unwrap();
    builder.push(b"a", value.as_bytes()).unwrap();
    builder.finish().unwrap();
    next
}

fn build_generation(dir: &Path) -> Generation {
    quicksilver::environment::live_generation(dir).unwrap()
}

fn options(db_id: DbId, history: HistoryId) -> Options {
    Options { db_id, history, map_bytes: 1 << 30, ..Options::default() }
}

/// A database that no `Db` holds open, so that a test may do to it what it likes.
fn plain_database(dir: &Path, of_db: &Options, value: &str) -> Position {
    let mut builder = Builder::create(dir, of_db).unwrap();
    builder.push(b"a", value.as_bytes()).unwrap();
    builder.finish().unwrap().position
}

/// Reads until `is_so`, which a reader notices by itself when it looks around.
fn eventually(reader: &Reader, what: &str, is_so: impl Fn(Result<Option<Vec<u8>>, Error>) -> bool) {
    let start = Instant::now();
    while !is_so(reader.get(b"a")) {
        assert!(start.elapsed() < SOON, "not yet: {what}");
        std::thread::yield_now();
    }
}

fn is(value: &str) -> impl Fn(Result<Option<Vec<u8>>, Error>) -> bool {
    move |read| read.unwrap().as_deref() == Some(value.as_bytes())
}

#[test]
fn a_missing_page_is_done_without_and_found_when_it_comes() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let of_db = options(DbId::random(), HistoryId::random());
    let end = plain_database(dir, &of_db, "1");
    fs::rename(dir.join("status"), dir.join("away")).unwrap();
    let reader = Reader::open(dir).unwrap();
    assert_eq!(reader.index().unwrap(), end.index);
    assert_eq!(reader.status().unwrap().page, None);
    assert_eq!(reader.wait_for(end.index.next(), Duration::from_millis(30)).unwrap(), end.index);
    // CURRENT alone tells of the next generation.
    let next = build_next(dir, end, &of_db, "2");
    build::directory::set_current(dir, next).unwrap();
    eventually(&reader, "the generation that CURRENT names", is("2"));
    fs::rename(dir.join("away"), dir.join("status")).unwrap();
    eventually(&reader, "the page", |_| reader.status().unwrap().page.is_some());
}

#[test]
fn a_stuck_page_and_a_page_with_nonsense_hold_nobody_up() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let of_db = options(DbId::random(), HistoryId::random());
    let end = plain_database(dir, &of_db, "1");
    let reader = Reader::open(dir).unwrap();
    // Its word stays at the first generation.
    let next = build_next(dir, end, &of_db, "2");
    build::directory::set_current(dir, next).unwrap();
    eventually(&reader, "the generation that CURRENT names", is("2"));
    // It names one that is not there.
    let page = StatusWriter::open_or_create(&dir.join("status"), of_db.db_id).unwrap();
    page.set_generation(Generation::new(77));
    for _ in 0..100 {
        assert!(is("2")(reader.get(b"a")));
    }
    assert!(is("2")(Reader::open(dir).unwrap().get(b"a")));
}

/// Story: on a busy machine the replicator waits for a processor in the middle of an update of the
/// page. What a reader knows of it meanwhile is what it knew before.
#[test]
fn a_page_in_the_middle_of_an_update_says_what_it_said() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let of_db = options(DbId::random(), HistoryId::random());
    plain_database(dir, &of_db, "1");
    let writer = StatusWriter::open_or_create(&dir.join("status"), of_db.db_id).unwrap();
    writer.set_state(NodeState::Following);
    writer.set_heartbeat(99);
    let reader = Reader::open(dir).unwrap();
    let before = reader.status().unwrap();
    assert_eq!(
        (before.state(), before.page.unwrap().heartbeat_us),
        (Some(NodeState::Following), Some(99))
    );
    let file = fs::OpenOptions::new().write(true).open(dir.join("status")).unwrap();
    file.write_all_at(&[1; 4], AT_SEQUENCE as u64).unwrap();
    assert_eq!(StatusPage::open(&dir.join("status")).unwrap().commit(), None);
    assert_eq!(reader.status().unwrap(), before);
}

/// Story: the power was cut. The page came back as it was some commits before, and no replicator runs
/// yet; whoever was told a later index before the cut is told no earlier one now.
#[test]
fn a_page_that_trails_takes_nobody_back() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let end = plain_database(dir, &options(DbId::random(), HistoryId::random()), "1");
    let file = fs::OpenOptions::new().write(true).open(dir.join("status")).unwrap();
    file.write_all_at(&[0; 8], AT_INDEX as u64).unwrap();
    let reader = Reader::open(dir).unwrap();
    assert_eq!(StatusPage::open(&dir.join("status")).unwrap().index(), Index::ZERO);
    assert_eq!(reader.index().unwrap(), end.index);
}

#[test]
fn a_page_that_was_replaced_is_followed() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let of_db = options(DbId::random(), HistoryId::random());
    let end = plain_database(dir, &of_db, "1");
    let reader = Reader::open(dir).unwrap();
    fs::remove_file(dir.join("status")).unwrap();
    // Makes a new page.
    let next = build_next(dir, end, &of_db, "2");
    build::switch_to(dir, next).unwrap();
    eventually(&reader, "the new page's generation", is("2"));
    let index = reader.status().unwrap().position.index;
    eventually(&reader, "the new page's index", |_| reader.index().unwrap() == index);
    // A sleeper on the old page would sleep for ever; each sleep is short, and looks.
    assert_eq!(reader.wait_for(index, SOON).unwrap(), index);
}

#[test]
fn a_directory_made_anew_is_followed_when_it_is_the_same_database() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("db");
    let id = DbId::random();
    plain_database(&dir, &options(id, HistoryId::random()), "1");
    let reader = Reader::open(&dir).unwrap();
    let snapshot = reader.snapshot().unwrap();
    fs::rename(&dir, temporary.path().join("old")).unwrap();
    // What is open is served, whatever becomes of its name.
    for _ in 0..100 {
        assert!(is("1")(reader.get(b"a")));
    }
    plain_database(&dir, &options(id, HistoryId::random()), "2");
    eventually(&reader, "the new directory", is("2"));
    assert_eq!(snapshot.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
}

#[test]
fn another_database_in_its_place_is_an_error_that_goes_when_it_does() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("db");
    let of_db = options(DbId::random(), HistoryId::random());
    plain_database(&dir, &of_db, "mine");
    let reader = Reader::open(&dir).unwrap();
    assert!(is("mine")(reader.get(b"a")));
    fs::rename(&dir, temporary.path().join("mine")).unwrap();
    plain_database(&dir, &options(DbId::random(), HistoryId::random()), "not mine");
    eventually(&reader, "the error", |read| match read {
        Ok(value) => {
            assert_eq!(value.unwrap(), b"mine", "another database's value");
            false
        }
        Err(e) => {
            assert!(matches!(e, Error::WrongDatabase { .. }), "{e}");
            true
        }
    });
    assert!(matches!(reader.get(b"a"), Err(Error::WrongDatabase { .. })), "and it stays");
    fs::rename(&dir, temporary.path().join("other")).unwrap();
    fs::rename(temporary.path().join("mine"), &dir).unwrap();
    assert!(is("mine")(reader.get(b"a")), "the next read finds it");
}

#[test]
fn an_older_copy_of_the_same_past_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("db");
    let of_db = options(DbId::random(), HistoryId::random());
    plain_database(&dir, &of_db, "old");
    let copy = temporary.path().join("copy");
    assert!(Command::new("cp").arg("-a").arg(&dir).arg(&copy).status().unwrap().success());
    let end = Reader::open(&dir).unwrap().status().unwrap().position;
    let next = build_next(&dir, end, &of_db, "new");
    build::switch_to(&dir, next).unwrap();
    let reader = Reader::open(&dir).unwrap();
    assert!(is("new")(reader.get(b"a")));
    fs::rename(&dir, temporary.path().join("away")).unwrap();
    fs::rename(&copy, &dir).unwrap();
    eventually(&reader, "the refusal", |read| match read {
        Ok(value) => {
            assert_eq!(value.unwrap(), b"new", "went back in time");
            false
        }
        Err(e) => {
            assert!(matches!(e, Error::Behind { .. }), "{e}");
            true
        }
    });
}
