//! SCAN: patterns, and the table that turns a cursor into the key where a scan goes on.
//!
//! Invariants:
//! * the table is bounded; the cursor unused for longest goes first, and a client that comes back
//!   with it is told to begin again, never answered with a part;
//! * a scan holds at most two places, so that a client may repeat its last call;
//! * cursors are below 2^53, which every client's number type can hold, and those of an earlier
//!   run of the process mean nothing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Scans that can be remembered at a time: twice as many places.
const MAX_CURSORS: usize = 1024;

/// Which keys a SCAN wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Match {
    /// Those that begin with this; all of them when it is empty.
    Prefix(Bytes),
    /// This one.
    Exactly(Bytes),
}

impl Match {
    /// Understands `prefix*` and literal text; a backslash takes the next character literally.
    /// `None` for any other glob.
    pub(super) fn parse(pattern: &[u8]) -> Option<Match> {
        let mut literal = Vec::with_capacity(pattern.len());
        let mut rest = pattern.iter();
        while let Some(byte) = rest.next() {
            match byte {
                b'\\' => literal.push(*rest.next().unwrap_or(&b'\\')),
                b'*' if rest.as_slice().iter().all(|byte| *byte == b'*') => {
                    return Some(Match::Prefix(literal.into()));
                }
                b'*' | b'?' | b'[' => return None,
                other => literal.push(*other),
            }
        }
        Some(Match::Exactly(literal.into()))
    }
}

/// Where the scans of a node's clients stand.
#[derive(Debug)]
pub(super) struct Cursors {
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    places: HashMap<u64, Place>,
    next: u64,
    clock: u64,
}

#[derive(Debug)]
struct Place {
    after: Vec<u8>,
    /// The place that led here: forgotten once this one is used.
    previous: u64,
    used: u64,
}

impl Cursors {
    pub(super) fn new() -> Self {
        let next = u64::from(rand::random::<u32>()) + 1;
        Cursors { table: Mutex::new(Table { places: HashMap::new(), next, clock: 0 }) }
    }

    /// Where the scan with this cursor goes on.
    pub(super) fn resume(&self, cursor: u64) -> Option<Vec<u8>> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.clock += 1;
        let clock = table.clock;
        let place = table.places.get_mut(&cursor)?;
        place.used = clock;
        let (after, previous) = (place.after.clone(), place.previous);
        table.places.remove(&previous);
        Some(after)
    }

    /// A cursor for the scan that was resumed at `previous` (0: has just begun) and goes on
    /// after this key.
    pub(super) fn keep(&self, previous: u64, after: Vec<u8>) -> u64 {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.places.len() >= 2 * MAX_CURSORS {
            let oldest = table.places.iter().min_by_key(|(_, place)| place.used).map(|(c, _)| *c);
            oldest.map(|cursor| table.places.remove(&cursor));
        }
        table.clock += 1;
        let (cursor, used) = (table.next, table.clock);
        table.next += 1;
        table.places.insert(cursor, Place { after, previous, used });
        cursor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let prefix = |text: &'static str| Some(Match::Prefix(text.into()));
        let exactly = |text: &'static str| Some(Match::Exactly(text.into()));
        for (pattern, expected) in [
            ("*", prefix("")),
            ("**", prefix("")),
            ("user:*", prefix("user:")),
            ("user:1", exactly("user:1")),
            ("a\\*b", exactly("a*b")),
            ("a\\**", prefix("a*")),
            ("", exactly("")),
            ("*a", None),
            ("a?b", None),
            ("[ab]*", None),
        ] {
            assert_eq!(Match::parse(pattern.as_bytes()), expected, "{pattern}");
        }
    }

    #[test]
    fn a_scan_holds_two_places_and_may_repeat_a_step() {
        let cursors = Cursors::new();
        let first = cursors.keep(0, b"a".to_vec());
        assert_eq!(cursors.resume(first).as_deref(), Some(&b"a"[..]));
        let second = cursors.keep(first, b"b".to_vec());
        assert_eq!(cursors.resume(first).as_deref(), Some(&b"a"[..]), "may be repeated");
        assert_eq!(cursors.resume(second).as_deref(), Some(&b"b"[..]));
        assert_eq!(cursors.resume(first), None, "the next step forgot it");
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_oldest() {
        let cursors = Cursors::new();
        let all: Vec<u64> = (0..2 * MAX_CURSORS).map(|_| cursors.keep(0, vec![])).collect();
        assert!(cursors.resume(all[0]).is_some());
        cursors.keep(0, vec![]);
        assert!(cursors.resume(all[0]).is_some());
        assert!(cursors.resume(all[1]).is_none());
    }
}
