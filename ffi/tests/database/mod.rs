//! What the programs in tests/c and tests/cpp expect to find; `tests/c/check.h` repeats it.

use std::time::Duration;

use reader::build::BuildError;
use reader::testing::Db;

/// A database of these pairs.
///
/// Making one takes a file lock, lets it go, and takes it again. A program that another test
/// starts at that moment holds a copy of it until it runs.
pub(crate) fn made_of(pairs: &[(Vec<u8>, Vec<u8>)]) -> Db {
    for _ in 0..1000 {
        match Db::from(pairs.iter().map(|(key, value)| (key, value))) {
            Err(BuildError::Busy { .. }) => std::thread::sleep(Duration::from_millis(5)),
            made => return made.unwrap(),
        }
    }
    panic!("a new database stays locked");
}

/// The numbered pairs of the test database.
const NUMBERS: usize = 200;

/// What the programs in tests/c and tests/cpp expect to find.
pub(crate) fn database() -> Db {
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = vec![
        (b"hello".into(), b"world".into()),
        (b"bin\0ary".into(), (0..=255).collect()),
        (b"empty".into(), b"".into()),
        (b"long".into(), (0..1_usize << 20).map(|n| (n % 251) as u8).collect()),
        (b"zone/example.net".into(), b"192.0.2.2".into()),
        (b"zone/example.org".into(), b"192.0.2.1".into()),
    ];
    let number = |n| (format!("n/{n:03}").into(), format!("number {n}").into());
    pairs.extend((0..NUMBERS).map(number));
    made_of(&pairs)
}
