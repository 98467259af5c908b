//! What a program or an operator can get wrong: each is a typed error that says what to do, or is
//! handled; none is a wrong value or a crash.
//!
//! Some of it needs another process (permissions, a full reader table): this program starts itself
//! again for that. What needs root, or a tool that is not there, says so and is skipped.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use quicksilver::build::{Builder, Options};
use quicksilver::testing::Db;
use quicksilver::{DbId, Error, Index, LmdbError, Reader};
use quicksilver_format::meta::Format;

const DIR: &str = "QUICKSILVER_TEST_MISUSE_DIR";
const HOLD: &str = "QUICKSILVER_TEST_MISUSE_HOLD";

/// The other process: opens, says how that went, and holds as many snapshots as it was told until
/// its input ends.
#[test]
fn other_process() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let hold: usize = std::env::var(HOLD).unwrap().parse().unwrap();
    let opened = Reader::open(Path::new(&dir));
    let said = match &opened {
        Ok(reader) => format!("{:?}", reader.get(b"a").unwrap()),
        Err(e) => format!("{e} / {e:?}"),
    };
    let held: Vec<_> =
        opened.iter().flat_map(|reader| (0..hold).map_while(|_| reader.snapshot().ok())).collect();
    println!("\nother: {} held, {said}", held.len());
    let _ = std::io::stdin().lines().next();
}

/// Starts the other process and returns what it said.
fn other(mut command: Command, dir: &Path, hold: usize) -> (Child, String) {
    let mut child = command
        .args(["--exact", "other_process", "--nocapture"])
        .env(DIR, dir)
        .env(HOLD, hold.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = lines.map(Result::unwrap).find(|line| line.starts_with("other: "));
    (child, said.unwrap_or_default())
}

fn this_program() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

fn end(mut child: Child) {
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn who_lacks_a_permission_is_told_which() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: this needs root, to become somebody else");
        return;
    }
    const NOBODY: u32 = 65_534;
    // Where nobody may look for the program and the database.
    let temporary = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir_in("/tmp")
        .unwrap();
    let program = temporary.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let dir = temporary.path().join("db");
    let mut builder =
        Builder::create(&dir, &Options { map_bytes: 1 << 30, ..Options::default() }).unwrap();
    builder.push(b"a", b"1").unwrap();
    builder.finish().unwrap();
    let as_nobody = || {
        let mut command = Command::new(&program);
        command.uid(NOBODY).gid(NOBODY);
        command
    };
    let chmod = |path: &str, mode| {
        fs::set_permissions(dir.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    let says = |expected: &str| {
        let (child, said) = other(as_nobody(), &dir, 0);
        end(child);
        assert!(said.to_lowercase().contains("permission denied"), "{said}");
        assert!(said.contains(expected), "{said}");
    };
    chmod("", 0o700);
    says(&dir.display().to_string());
    chmod("", 0o755);
    chmod("CURRENT", 0o600);
    says("CURRENT");
    chmod("CURRENT", 0o644);
    for path in ["gen-000001", "gen-000001/data.mdb"] {
        chmod(path, if path.ends_with("mdb") { 0o644 } else { 0o755 });
    }
    // Readers announce what they look at in the lock file, so they must be able to write it.
    chmod("gen-000001/lock.mdb", 0o644);
    says("read and write to lock.mdb");
    chmod("gen-000001/lock.mdb", 0o666);
    chmod("open.lock", 0o644);
    chmod("gen-000001/data.mdb", 0o600);
    says("read access to data.mdb");
    chmod("gen-000001/data.mdb", 0o644);
    let (child, said) = other(as_nobody(), &dir, 0);
    end(child);
    assert!(said.contains("Some([49])"), "{said}");
}

#[test]
fn a_read_only_mount_is_refused() {
    let db = Db::from([("a", "1")]).unwrap();
    let script =
        r#"mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" || exit 77; shift; exec "$@""#;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(db.path())
        .arg(std::env::current_exe().unwrap());
    let (child, said) = other(command, db.path(), 0);
    end(child);
    if said.is_empty() {
        println!("skipped: mounts cannot be made here");
        return;
    }
    assert!(said.contains("ReadOnlyMount"), "{said}");
}

/// Story: somebody takes every slot. Others are told, and read as soon as there is one again; the
/// ones that a dead process left count as free.
#[test]
fn when_all_slots_are_taken_it_says_so_and_recovers() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let few = Options { map_bytes: 1 << 30, max_readers: 1, ..Options::default() };
    let mut builder = Builder::create(dir, &few).unwrap();
    builder.push(b"a", b"1").unwrap();
    builder.finish().unwrap();
    let reader = Reader::open(dir).unwrap();
    assert!(reader.get(b"a").unwrap().is_some());
    let (greedy, said) = other(this_program(), dir, 100_000);
    assert!(said.contains(" held, Some"), "{said}");
    // This reader has its own slot, and one only.
    assert!(reader.get(b"a").unwrap().is_some());
    let snapshot = reader.snapshot().unwrap();
    let full = reader.get(b"a").unwrap_err();
    assert!(matches!(full, Error::Lmdb(LmdbError::ReadersFull(_))), "{full}");
    assert!(
        full.to_string().contains("max_readers") || full.to_string().contains("slot"),
        "{full}"
    );
    drop(snapshot);
    assert!(reader.get(b"a").unwrap().is_some());
    // Another thread has no slot of its own, but may use the idle one.
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(reader.get(b"a").unwrap().is_some())).join().unwrap();
    });
    let mut greedy = greedy;
    greedy.kill().unwrap();
    greedy.wait().unwrap();
    let held: Vec<_> = (0..10).map(|_| reader.snapshot().unwrap()).collect();
    assert_eq!(held.len(), 10);
}

#[test]
fn a_database_that_is_not_there_yet_is_waited_for() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("later");
    let missing = Reader::open(&dir).unwrap_err();
    assert!(matches!(missing, Error::NoDatabase { .. }), "{missing}");
    let short = Duration::from_millis(50);
    let start = Instant::now();
    assert!(Reader::options().wait(short).open(&dir).is_err());
    assert!(start.elapsed() >= short);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| Reader::options().wait(Duration::MAX).open(&dir).unwrap());
        let of_db = Options { map_bytes: 1 << 30, ..Options::default() };
        let mut builder = Builder::create(&dir, &of_db).unwrap();
        builder.push(b"a", b"1").unwrap();
        builder.finish().unwrap();
        let reader = waiting.join().unwrap();
        assert_eq!(reader.get(b"a").unwrap().unwrap(), b"1");
        assert_eq!(reader.db_id(), of_db.db_id);
    });
}

#[test]
fn another_database_than_expected_is_refused() {
    let db = Db::from([("a", "1")]).unwrap();
    assert!(Reader::options().expect_db(db.db_id()).open(db.path()).is_ok());
    let refused = Reader::options().expect_db(DbId::random()).open(db.path()).unwrap_err();
    assert!(matches!(refused, Error::WrongDatabase { .. }), "{refused}");
}

/// A format of a later release, which appears under a reader that is open.
#[test]
fn a_generation_in_a_later_format_is_an_error_and_not_a_guess() {
    let db = Db::from([("a", "1")]).unwrap();
    let reader = db.reader();
    db.replace(quicksilver::HistoryId::random(), [("a", "2")]).unwrap();
    let environment = db.environment().unwrap();
    let mut txn = environment.env.write().unwrap();
    let format = Format { version: 99, readable_from: 99, page_bytes: 4096 };
    txn.put(environment.meta, Format::KEY, &format.encode()).unwrap();
    txn.commit().unwrap();
    for _ in 0..3 {
        let refused = reader.get(b"a").unwrap_err();
        assert!(matches!(refused, Error::Format { .. }), "{refused}");
        assert!(refused.to_string().contains("99"), "{refused}");
    }
}

/// Two handles, two threads, two opens: one environment.
#[test]
fn opening_twice_in_one_process_shares() {
    let db = Db::from([("a", "1")]).unwrap();
    let (one, two) = (Reader::open(db.path()).unwrap(), Reader::open(db.path()).unwrap());
    drop(one);
    assert_eq!(two.get(b"a").unwrap().unwrap(), b"1");
    // The locks that make this process's readers count as alive are still held.
    let environment = db.environment().unwrap();
    let snapshot = two.snapshot().unwrap();
    assert_eq!(environment.env.reader_check().unwrap(), 0);
    assert_eq!(snapshot.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
}

static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Collector;

impl log::Log for Collector {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        WARNINGS.lock().unwrap().push(format!("{} {}", record.level(), record.args()));
    }
    fn flush(&self) {}
}

#[test]
fn a_snapshot_that_is_held_long_is_warned_of_once() {
    log::set_logger(&Collector).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    let db = Db::from([("a", "1")]).unwrap();
    let path = db.path().display().to_string();
    let warnings = || {
        let all = WARNINGS.lock().unwrap();
        all.iter().filter(|text| text.contains(&path)).cloned().collect::<Vec<_>>()
    };
    let patient = Reader::options().snapshot_warning(Duration::from_secs(3600)).open(db.path());
    let hasty = Reader::options().snapshot_warning(Duration::ZERO).open(db.path()).unwrap();
    let snapshot = patient.unwrap().snapshot().unwrap();
    (0..1000).for_each(|_| drop(snapshot.get(b"a").unwrap()));
    drop(snapshot);
    assert_eq!(warnings(), Vec::<String>::new());
    // While it is held, when it is used; and when it ends, if not before.
    let snapshot = hasty.snapshot().unwrap();
    (0..1000).for_each(|_| drop(snapshot.get(b"a").unwrap()));
    assert_eq!(warnings().len(), 1);
    assert!(warnings()[0].contains("a snapshot of index 1 has been held"), "{:?}", warnings());
    drop(snapshot);
    assert_eq!(warnings().len(), 1);
    drop(hasty.snapshot().unwrap());
    assert_eq!(warnings().len(), 2);
}

#[test]
fn the_end_of_all_indices_is_no_trap() {
    let db = Db::from([("a", "1")]).unwrap();
    let reader = db.reader();
    let last = Index::new(u64::MAX);
    assert_eq!(reader.wait_for(last, Duration::from_millis(1)).unwrap(), Index::FIRST);
    let mut changes = reader.changes(last, b"").unwrap();
    assert_eq!(changes.next_within(Duration::from_millis(1)).unwrap(), None);
}
