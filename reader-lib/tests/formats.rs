//! Another release's format, which no writer of this one makes: the `format` record says what a
//! reader has to know and what a writer has to know, and each is refused for its own reason only.
//! What a whole other release does is in the scenarios with processes (`version_skew`).
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;
use std::time::{Duration, Instant};

use quicksilver::build::{self, BuildError, Builder, Options};
use quicksilver::testing::Db;
use quicksilver::{Error, HistoryId, Position, Reader, verify};
use quicksilver_format::layout::Generation;
use quicksilver_format::meta::Format;
use quicksilver_format::{FormatError, NEW_DATABASE_FORMAT_VERSION, NEWEST_FORMAT_VERSION};

const LATER: u32 = NEWEST_FORMAT_VERSION + 1;

/// What a release that came later leaves after it was finalised.
fn finalise_as_a_later_release(db: &Db, readable_from: u32) {
    let environment = db.environment().unwrap();
    let mut txn = environment.env.write().unwrap();
    let format = Format { version: LATER, readable_from, page_bytes: 4096 };
    txn.put(environment.meta, Format::KEY, &format.encode()).unwrap();
    txn.commit().unwrap();
}

/// Puts something under a key that no cell of this release looks like.
fn write_as_a_later_release(db: &Db, key: &[u8]) {
    let environment = db.environment().unwrap();
    let mut txn = environment.env.write().unwrap();
    txn.put(environment.data, key, b"\x0fa cell of a later release").unwrap();
    txn.commit().unwrap();
}

fn unreadable(error: &Error) -> bool {
    matches!(error, Error::Format { source: FormatError::UnreadableDatabase { .. }, .. })
}

#[test]
fn a_format_that_readers_need_not_know_is_read_and_not_written() {
    let db = Db::from([("a", "1")]).unwrap();
    finalise_as_a_later_release(&db, 1);
    let reader = Reader::open(db.path()).unwrap();
    assert_eq!(reader.get(b"a").unwrap().unwrap(), b"1");
    let status = reader.status().unwrap();
    assert_eq!((status.format, status.format_readable_from), (LATER, 1));
    assert!(verify::verify(&reader.environment().unwrap(), |_| ()).unwrap().is_clean());

    // As the next process to become the writer finds it.
    let copy = tempfile::tempdir().unwrap();
    copy_database(db.path(), copy.path());
    let refused = build::open_writer(copy.path(), Generation::FIRST, 126).unwrap_err();
    let BuildError::Reader(Error::Format { source, .. }) = &refused else { panic!("{refused}") };
    assert!(matches!(source, FormatError::UnwritableDatabase { version: LATER, .. }), "{source}");
    assert!(refused.to_string().contains("upgrade this one"), "{refused}");
}

#[test]
fn a_format_that_readers_must_know_is_refused_to_who_opens() {
    let db = Db::from([("a", "1")]).unwrap();
    finalise_as_a_later_release(&db, LATER);
    // This process has it open for writing, under another handle.
    let copy = tempfile::tempdir().unwrap();
    copy_database(db.path(), copy.path());
    let refused = Reader::open(copy.path()).unwrap_err();
    assert!(unreadable(&refused), "{refused}");
    assert!(refused.to_string().contains("upgrade this program"), "{refused}");
}

/// The database is finalised for a later release while a program of this one reads it.
#[test]
fn a_reader_that_has_it_open_is_told_soon_and_gets_no_guess_before() {
    let db = Db::from([("a", "1"), ("b", "2")]).unwrap();
    let reader = db.reader();
    let before = reader.snapshot().unwrap();
    finalise_as_a_later_release(&db, LATER);
    write_as_a_later_release(&db, b"b");

    // What it cannot make sense of is not called damage.
    for refused in [
        reader.get(b"b").unwrap_err(),
        reader.get_into(b"b", &mut Vec::new()).unwrap_err(),
        reader.value_bytes(b"b").unwrap_err(),
        reader.page(b"", None, 10).unwrap_err(),
    ] {
        assert!(unreadable(&refused), "{refused}");
    }
    // What it holds is from before.
    assert_eq!(before.get(b"b").unwrap().as_deref(), Some(&b"2"[..]));

    let deadline = Instant::now() + Duration::from_secs(60);
    let refused = loop {
        match reader.get(b"a") {
            Ok(value) => assert_eq!(value.unwrap(), b"1"),
            Err(refused) => break refused,
        }
        assert!(Instant::now() < deadline, "nobody told the reader");
    };
    assert!(unreadable(&refused), "{refused}");
    assert!(unreadable(&reader.get(b"a").unwrap_err()), "it stays so");
}

#[test]
fn damage_stays_damage_whatever_the_format() {
    let db = Db::from([("a", "1")]).unwrap();
    write_as_a_later_release(&db, b"a");
    let corrupt = db.reader().get(b"a").unwrap_err();
    assert!(corrupt.is_corrupt(), "{corrupt}");
}

#[test]
fn a_generation_is_made_in_the_format_it_is_told_and_in_none_that_is_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { map_bytes: 1 << 30, ..Options::default() };
    let start = Position::genesis(options.db_id);
    let refused = Builder::beside(dir.path(), Generation::FIRST, start, LATER, &options);
    assert!(matches!(refused, Err(BuildError::Reader(Error::Format { .. }))), "{refused:?}");
    assert!(!dir.path().join("gen-000001.new").exists());

    for format in NEW_DATABASE_FORMAT_VERSION..=NEWEST_FORMAT_VERSION {
        let generation = Generation::new(format.into());
        let mut builder = Builder::beside(dir.path(), generation, start, format, &options).unwrap();
        builder.push(b"a", b"1").unwrap();
        builder.finish().unwrap();
        let environment = build::open_writer(dir.path(), generation, 126).unwrap();
        assert_eq!(environment.format.version, format);
    }
}

/// Whatever a new database begins with, raising ends at the newest, once.
#[test]
fn raising_ends_at_the_newest_and_is_done_once() {
    let db = Db::from([("a", "1")]).unwrap();
    let mut environment = db.environment().unwrap();
    assert_eq!(environment.format.version, NEW_DATABASE_FORMAT_VERSION);
    let change = build::raise_format(&mut environment).unwrap();
    assert_eq!((change.from, change.to), (NEW_DATABASE_FORMAT_VERSION, NEWEST_FORMAT_VERSION));
    assert_eq!(environment.format.version, NEWEST_FORMAT_VERSION);
    assert!(!build::raise_format(&mut environment).unwrap().is_change());
    // What is built beside it is what it is.
    db.replace(HistoryId::random(), [("b", "2")]).unwrap();
    assert_eq!(db.reader().status().unwrap().format, NEWEST_FORMAT_VERSION);
    assert!(verify::verify(&db.environment().unwrap(), |_| ()).unwrap().is_clean());
}

fn copy_database(from: &Path, to: &Path) {
    let generation = Generation::FIRST.to_string();
    std::fs::create_dir(to.join(&generation)).unwrap();
    for file in ["CURRENT", "gen-000001/data.mdb"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
}
