//! Snapshot files: whatever is written while one is made, it is the database at its end index; what
//! is damaged, cut or of another database is refused, and nothing is left of it.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use quicksilver::build::rebuild::SLICE_BYTES;
use quicksilver::build::snapshot::{
    self, Arrival, Blocks, Receiving, SnapshotFile, create, directory_of, remove,
    remove_unfinished, restore,
};
use quicksilver::build::{
    BuildError, Builder, Built, Options, RoleLock, append, open_page, open_writer, switch_to,
};
use quicksilver::environment::{Environment, live_generation};
use quicksilver::status_page::StatusWriter;
use quicksilver::{Reader, verify};
use quicksilver_format::layout::Generation;
use quicksilver_format::{DbId, Entry, HistoryId};

struct Db {
    dir: tempfile::TempDir,
    environment: Environment,
    page: StatusWriter,
    options: Options,
    _role: RoleLock,
}

impl Db {
    fn new() -> Db {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { map_bytes: 1 << 30, max_readers: 126, ..Options::default() };
        let path = dir.path().join("db");
        Builder::create(&path, &options).unwrap().finish().unwrap();
        let role = RoleLock::take(&path).unwrap();
        let environment = open_writer(&path, live_generation(&path).unwrap(), 126).unwrap();
        let page = open_page(&path, options.db_id).unwrap();
        Db { dir, environment, page, options, _role: role }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("db")
    }

    fn write(&self, changes: &[Change]) {
        let entries = changes.iter().map(|(key, value)| match value {
            Some(value) => Entry::set(key, value),
            None => Entry::del(key),
        });
        append(&self.environment, &self.page, entries).unwrap();
    }

    fn snapshot(&self) -> SnapshotFile {
        self.snapshot_beside(SLICE_BYTES, &mut || ())
    }

    /// Something happens after each slice.
    fn snapshot_beside(&self, slice_bytes: usize, meanwhile: &mut dyn FnMut()) -> SnapshotFile {
        let into = directory_of(&self.path());
        let mut progress = |_| {
            meanwhile();
            true
        };
        create(&into, &self.environment, slice_bytes, &mut progress).unwrap().unwrap()
    }
}

/// Makes a database of its own of a snapshot.
fn restore_to(dir: &Path, snapshot: &SnapshotFile, options: &Options) -> Environment {
    fs::create_dir_all(dir).unwrap();
    let _role = RoleLock::take(dir).unwrap();
    let built = restore(snapshot, dir, Generation::FIRST, options, &mut |_| true).unwrap().unwrap();
    switch_to(dir, built.generation).unwrap();
    assert_eq!(built.digest, snapshot.manifest().end.digest);
    Environment::open_reader(dir, built.generation).unwrap()
}

type Change = (Vec<u8>, Option<Vec<u8>>);
type Pair = (Vec<u8>, Vec<u8>);

/// Few keys, so that they meet again; values in the cell, in a page, in chunks.
fn change() -> impl Strategy<Value = Change> {
    let length = prop_oneof![4 => 0..40usize, 2 => 2000..4200usize, 1 => 8000..30_000usize];
    let value = (length, any::<u8>()).prop_map(|(n, b)| vec![b; n]);
    ((0..12u8).prop_map(|n| vec![b'k', n]), prop::option::weighted(0.7, value))
}

fn everything(path: &Path) -> (Vec<Pair>, String) {
    let reader = Reader::open(path).unwrap();
    let snapshot = reader.snapshot().unwrap();
    let pairs = snapshot.iter().unwrap().map(|pair| pair.map(|(k, v)| (k.to_vec(), v.to_vec())));
    let pairs = pairs.collect::<Result<_, _>>().unwrap();
    (pairs, format!("{:?} {}", snapshot.position(), snapshot.digest()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_snapshot_is_the_database_at_its_end(
        before in prop::collection::vec(prop::collection::vec(change(), 1..12), 0..6),
        meanwhile in prop::collection::vec(prop::collection::vec(change(), 1..6), 0..8),
        slice_bytes in prop_oneof![Just(1_usize), Just(5_000), Just(SLICE_BYTES)],
        after in prop::collection::vec(change(), 0..4),
    ) {
        let db = Db::new();
        before.iter().for_each(|changes| db.write(changes));
        let mut meanwhile = meanwhile.iter();
        let now = |db: &Db| {
            (Reader::open(db.path()).unwrap().index().unwrap(), everything(&db.path()))
        };
        let mut past = vec![now(&db)];
        let snapshot = db.snapshot_beside(slice_bytes, &mut || {
            if let Some(changes) = meanwhile.next() {
                db.write(changes);
                past.push(now(&db));
            }
        });
        let end = snapshot.manifest().end;
        if !after.is_empty() {
            db.write(&after);
        }
        // What comes while it is checked is not in it any more.
        let expected = past.iter().find(|(index, _)| *index == end.position.index);
        let copy = tempfile::tempdir().unwrap();
        let environment = restore_to(copy.path(), &snapshot, &db.options);
        prop_assert_eq!(Some(&everything(copy.path())), expected.map(|(_, state)| state));
        let report = verify::verify(&environment, |_| {}).unwrap();
        prop_assert!(report.is_clean(), "{:?}", report.problems);
        // It can be checked again, by whoever gets it.
        let again = SnapshotFile::open(snapshot.path()).unwrap();
        prop_assert_eq!(again.identity(), snapshot.identity());
        prop_assert_eq!(fs::metadata(again.path()).unwrap().len(), again.file_bytes());
        prop_assert!(again.check(&mut |_| true).unwrap());
        // And of the copy another one, which goes on where it ends.
        let second = create(&directory_of(copy.path()), &environment, SLICE_BYTES, &mut |_| true);
        let second = second.unwrap().unwrap();
        prop_assert_eq!(second.manifest().end, end);
        prop_assert_eq!(second.manifest().start, end.position);
    }
}

fn filled() -> Db {
    let db = Db::new();
    let pairs: Vec<Change> = (0..3000u32)
        .map(|n| (n.to_be_bytes().to_vec(), Some(vec![n as u8; 500 + n as usize % 500])))
        .collect();
    db.write(&pairs);
    db.write(&[(b"long".to_vec(), Some(vec![7; 300_000])), (b"gone".to_vec(), None)]);
    db
}

/// Story: a file is copied over a network that loses its end, or a disk that flips a bit. It is
/// refused with the place, and nothing of it is left.
#[test]
fn damage_and_cuts_are_refused() {
    let db = filled();
    let mut wrote = 0u32;
    let snapshot = db.snapshot_beside(SLICE_BYTES, &mut || {
        wrote += 1;
        db.write(&[(wrote.to_be_bytes().to_vec(), Some(b"meanwhile".to_vec()))]);
    });
    assert!(snapshot.manifest().sections.iter().all(|blocks| *blocks > 0), "every kind of block");
    let bytes = fs::read(snapshot.path()).unwrap();
    let copies = tempfile::tempdir().unwrap();
    let path = copies.path().join("copy.snapshot");
    for cut in [0, 1, 15, 16, 1000, bytes.len() / 2, bytes.len() - 17, bytes.len() - 1] {
        fs::write(&path, &bytes[..cut]).unwrap();
        SnapshotFile::open(&path).unwrap_err();
    }
    let step = bytes.len() / 97;
    for at in (0..bytes.len()).step_by(step) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        fs::write(&path, &flipped).unwrap();
        let Ok(opened) = SnapshotFile::open(&path) else { continue };
        let error = opened.check(&mut |_| true).unwrap_err();
        assert!(error.to_string().contains("has hash"), "{error}");
        let target = tempfile::tempdir().unwrap();
        let refused =
            restore(&opened, target.path(), Generation::FIRST, &db.options, &mut |_| true);
        assert!(matches!(refused, Err(BuildError::Damaged { .. })));
        let left: Vec<_> = fs::read_dir(target.path()).unwrap().collect();
        assert!(
            left.iter().all(|entry| entry.as_ref().unwrap().file_name() == "open.lock"),
            "{left:?}"
        );
    }
}

/// Story: the blocks are those that the manifest names, and the manifest lies about what they come
/// to. Whoever restores it finds out.
#[test]
fn a_manifest_that_lies_is_found_out() {
    use quicksilver_format::manifest::encode_trailer;
    let db = filled();
    let snapshot = db.snapshot();
    let blocks = fs::read(snapshot.path()).unwrap();
    let blocks = &blocks[..snapshot.manifest().blocks_bytes() as usize];
    let lies: [fn(&mut quicksilver_format::manifest::Manifest); 4] = [
        |m| m.end.digest.add(quicksilver_format::StateDigest::from_u128(1)),
        |m| m.end.keys += 1,
        |m| m.end.position.index = m.end.position.index.next(),
        |m| m.identity.db_id = DbId::from_bytes([9; 16]),
    ];
    for lie in lies {
        let mut manifest = snapshot.manifest().clone();
        lie(&mut manifest);
        let encoded = manifest.encode();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, [blocks, &encoded, &encode_trailer(encoded.len())].concat()).unwrap();
        let opened = SnapshotFile::open(file.path()).unwrap();
        opened.check(&mut |_| true).unwrap_err();
        let target = tempfile::tempdir().unwrap();
        restore(&opened, target.path(), Generation::FIRST, &db.options, &mut |_| true).unwrap_err();
    }
}

/// Story: a snapshot is put over a database: of another one, of its own past, of its future. Only
/// what takes nobody back is taken; another past needs another history.
#[test]
fn a_database_is_not_taken_back() {
    let db = filled();
    let old = db.snapshot();
    db.write(&[(b"later".to_vec(), Some(b"1".to_vec()))]);
    let new = db.snapshot();
    let names: Vec<_> = snapshot::list(&db.path()).unwrap();
    assert_eq!(names.len(), 2);
    assert_eq!(names[1].1.as_ref().unwrap().name(), new.name());

    let other = Options { db_id: DbId::random(), ..db.options };
    let next = live_generation(&db.path()).unwrap().next();
    let refused = restore(&old, &db.path(), next, &other, &mut |_| true).unwrap_err();
    assert!(refused.to_string().contains("holds database"), "{refused}");

    restore(&old, &db.path(), next, &db.options, &mut |_| true).unwrap().unwrap();
    let refused = switch_to(&db.path(), next).unwrap_err();
    assert!(matches!(refused, BuildError::Behind { .. }), "{refused}");
    quicksilver::build::directory::remove_generation(&db.path(), next).unwrap();

    let reader = Reader::open(db.path()).unwrap();
    assert!(reader.get(b"later").unwrap().is_some());
    let rewound = Options { history: HistoryId::random(), ..db.options };
    restore(&old, &db.path(), next, &rewound, &mut |_| true).unwrap().unwrap();
    switch_to(&db.path(), next).unwrap();
    assert!(reader.get(b"later").unwrap().is_none(), "readers follow into the other past");
    assert_eq!(reader.status().unwrap().history, rewound.history);

    remove(&db.path(), &old.name()).unwrap();
    remove(&db.path(), &old.name()).unwrap_err();
    remove(&db.path(), "../CURRENT").unwrap_err();
    assert_eq!(snapshot::list(&db.path()).unwrap().len(), 1);
}

/// Story: a snapshot is given up in the middle, or its value is damaged, or a crash leaves half of
/// one: there is no file.
#[test]
fn what_is_not_finished_has_no_name() {
    let db = filled();
    let into = directory_of(&db.path());
    assert!(create(&into, &db.environment, 1000, &mut |_| false).unwrap().is_none());
    assert_eq!(fs::read_dir(&into).unwrap().count(), 0);
    fs::write(into.join("4711.new"), b"half of one").unwrap();
    remove_unfinished(&db.path()).unwrap();
    assert_eq!(fs::read_dir(&into).unwrap().count(), 0);
    let given_up =
        restore(&db.snapshot(), &db.path(), Generation::new(9), &db.options, &mut |_| false);
    assert!(given_up.unwrap().is_none());
    assert!(!db.path().join("gen-000009").exists() && !db.path().join("gen-000009.new").exists());
}

/// Story: a snapshot comes block by block, to a process that is killed in between, on a disk that has
/// torn the last block.
#[test]
fn what_comes_in_parts_goes_on_where_it_stopped() {
    let db = filled();
    let snapshot = db.snapshot();
    let manifest = snapshot.manifest().encode();
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().join("offered");
    assert!(Receiving::resume(&into).unwrap().is_none());
    let mut receiving = Receiving::begin(&into, &manifest).unwrap();
    let mut block = Vec::new();
    for n in 0..snapshot.manifest().blocks.len() as u32 {
        assert_eq!(receiving.next_block(), n);
        snapshot.block(n as usize, &mut block).unwrap();
        receiving.push(n, block[..block.len() / 2].to_vec().into()).unwrap();
        drop(receiving);
        // Half of it is none of it.
        receiving = Receiving::resume(&into).unwrap().unwrap();
        assert_eq!((receiving.next_block(), receiving.identity()), (n, snapshot.identity()));
        assert!(matches!(
            receiving.push(n + 1, block.clone().into()),
            Err(BuildError::Damaged { .. })
        ));
        receiving.push(n, block.clone().into()).unwrap();
        receiving.pause().unwrap();
        // As after a kill: it does not get to say anything.
        std::mem::forget(receiving);
        receiving = Receiving::resume(&into).unwrap().unwrap();
    }
    let whole = receiving.finish().unwrap();
    assert_eq!(fs::read(whole.path()).unwrap(), fs::read(snapshot.path()).unwrap());
    assert_eq!(snapshot::list_in(&into).unwrap().len(), 1);
    assert!(Receiving::resume(&into).unwrap().is_none());

    // Another one comes: nothing of the first counts for it.
    let mut receiving = Receiving::begin(&into, &manifest).unwrap();
    snapshot.block(0, &mut block).unwrap();
    receiving.push(0, block.clone().into()).unwrap();
    assert!(matches!(receiving.finish(), Err(BuildError::Damaged { .. })));
    db.write(&[(b"later".to_vec(), Some(b"1".to_vec()))]);
    let receiving = Receiving::begin(&into, &db.snapshot().manifest().encode()).unwrap();
    assert_eq!(receiving.next_block(), 0);
}

/// A snapshot that comes while a generation is made of it, on another thread; what became of that.
fn restore_beside(
    snapshot: &SnapshotFile,
    target: &Path,
    options: &Options,
    fetch: impl FnOnce(Receiving),
) -> Option<Built> {
    let offered = tempfile::tempdir().unwrap();
    let mut receiving = Receiving::begin(offered.path(), &snapshot.manifest().encode()).unwrap();
    let incoming = receiving.incoming().unwrap();
    std::thread::scope(|scope| {
        let restored = scope.spawn(move || {
            restore(&incoming, target, Generation::FIRST, options, &mut |_| true).unwrap()
        });
        fetch(receiving);
        restored.join().unwrap()
    })
}

fn left_in(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).filter(|name| name != "open.lock").collect()
}

/// Story: a generation is made while its blocks come, each one late; a sender gives up at one of
/// them. There is a whole generation then, or none.
#[test]
fn what_comes_late_is_restored_and_what_comes_no_more_is_not() {
    let db = filled();
    let mut wrote = 0u32;
    let snapshot = db.snapshot_beside(SLICE_BYTES, &mut || {
        wrote += 1;
        db.write(&[(wrote.to_be_bytes().to_vec(), Some(b"meanwhile".to_vec()))]);
    });
    let blocks = snapshot.manifest().blocks.len() as u32;
    assert!(blocks > 3 && snapshot.manifest().sections.iter().all(|blocks| *blocks > 0));
    let push = |receiving: &mut Receiving, n: u32| {
        let mut block = Vec::new();
        snapshot.block(n as usize, &mut block).unwrap();
        receiving.push(n, block.clone().into()).unwrap();
    };
    for given_up_at in 0..=blocks {
        let target = tempfile::tempdir().unwrap();
        let _role = RoleLock::take(target.path()).unwrap();
        let built = restore_beside(&snapshot, target.path(), &db.options, |mut receiving| {
            (0..given_up_at).for_each(|n| push(&mut receiving, n));
        });
        assert_eq!(built, None, "given up at block {given_up_at}, not finished");
        assert_eq!(left_in(target.path()), ["role.lock"]);
    }
    let target = tempfile::tempdir().unwrap();
    let _role = RoleLock::take(target.path()).unwrap();
    let mut finished = None;
    let built = restore_beside(&snapshot, target.path(), &db.options, |mut receiving| {
        (0..blocks).for_each(|n| push(&mut receiving, n));
        finished = Some(receiving.finish().unwrap().name());
    });
    assert_eq!(finished, Some(snapshot.name()));
    assert_eq!(built.unwrap().digest, snapshot.manifest().end.digest);
    switch_to(target.path(), Generation::FIRST).unwrap();
    let environment = Environment::open_reader(target.path(), Generation::FIRST).unwrap();
    assert!(verify::verify(&environment, |_| {}).unwrap().is_clean());
}

/// Story: a block rots in the file before the generation has it; another fetch takes the place of the
/// one that a generation is made of.
#[test]
fn a_generation_is_made_of_one_fetch_and_of_right_blocks() {
    let db = filled();
    let snapshot = db.snapshot();
    let dir = tempfile::tempdir().unwrap();
    let offered = dir.path().join("offered");
    let mut receiving = Receiving::begin(&offered, &snapshot.manifest().encode()).unwrap();
    let first = receiving.incoming().unwrap();
    let mut block = Vec::new();
    snapshot.block(0, &mut block).unwrap();
    receiving.push(0, block.clone().into()).unwrap();
    assert_eq!((first.arrival(0), first.arrival(1)), (Arrival::Here, Arrival::Late));
    let second = receiving.incoming().unwrap();
    assert_eq!((first.arrival(1), second.arrival(1)), (Arrival::Never, Arrival::Late));
    assert_eq!((first.arrival(0), second.arrival(0)), (Arrival::Never, Arrival::Here));

    let path = offered.join("fetching.blocks");
    let mut bytes = fs::read(&path).unwrap();
    bytes[1000] ^= 1;
    fs::write(&path, bytes).unwrap();
    let target = dir.path().join("target");
    fs::create_dir(&target).unwrap();
    let _role = RoleLock::take(&target).unwrap();
    let refused = restore(&second, &target, Generation::FIRST, &db.options, &mut |_| true);
    assert!(matches!(refused, Err(BuildError::Damaged { .. })), "{refused:?}");
    assert_eq!(left_in(&target), ["role.lock"]);
    receiving.pause().unwrap();
    assert_eq!(second.arrival(1), Arrival::Never);
}

/// Story: every block was here, and the process died before it went on in them. Nothing comes twice.
#[test]
fn a_file_that_is_whole_is_taken_up_again() {
    let db = filled();
    let snapshot = db.snapshot();
    let blocks = snapshot.manifest().blocks.len() as u32;
    let dir = snapshot.path().parent().unwrap().to_owned();
    Receiving::reopen(&snapshot).unwrap();
    assert!(snapshot::list(&db.path()).unwrap().is_empty());
    let receiving = Receiving::resume(&dir).unwrap().unwrap();
    assert_eq!((receiving.next_block(), receiving.identity()), (blocks, snapshot.identity()));
    let again = receiving.finish().unwrap();
    assert_eq!((again.path(), again.file_bytes()), (snapshot.path(), snapshot.file_bytes()));
    assert!(again.check(&mut |_| true).unwrap());
}
