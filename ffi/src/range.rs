//! Ranges of keys: a prefix and two bounds become one range.

use std::ops::Bound;

/// Where a range begins or ends.
pub(crate) type Edge = Bound<Vec<u8>>;

pub(crate) fn at_least(key: &[u8], excluded: bool) -> Edge {
    match (key.is_empty(), excluded) {
        (true, _) => Bound::Unbounded,
        (_, false) => Bound::Included(key.to_vec()),
        (_, true) => Bound::Excluded(key.to_vec()),
    }
}

pub(crate) fn at_most(key: &[u8], included: bool) -> Edge {
    at_least(key, !included)
}

/// The end of the keys that begin with `prefix`.
pub(crate) fn after_prefix(prefix: &[u8]) -> Edge {
    match prefix.iter().rposition(|byte| *byte != u8::MAX) {
        None => Bound::Unbounded,
        Some(last) => {
            let mut after = prefix[..=last].to_vec();
            after[last] += 1;
            Bound::Excluded(after)
        }
    }
}

/// The later of two beginnings.
pub(crate) fn later(one: Edge, other: Edge) -> Edge {
    let at = |bound: &Edge| match bound {
        Bound::Unbounded => None,
        Bound::Included(key) => Some((key.clone(), false)),
        Bound::Excluded(key) => Some((key.clone(), true)),
    };
    if at(&one) >= at(&other) { one } else { other }
}

/// The earlier of two ends.
pub(crate) fn earlier(one: Edge, other: Edge) -> Edge {
    let at = |bound: &Edge| match bound {
        Bound::Unbounded => (true, Vec::new(), false),
        Bound::Excluded(key) => (false, key.clone(), false),
        Bound::Included(key) => (false, key.clone(), true),
    };
    if at(&one) <= at(&other) { one } else { other }
}

/// Whether no key can lie between two bounds.
pub(crate) fn is_empty(from: &Edge, to: &Edge) -> bool {
    match (from, to) {
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (
            Bound::Included(from) | Bound::Excluded(from),
            Bound::Included(to) | Bound::Excluded(to),
        ) => from >= to,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn included(key: &[u8]) -> Edge {
        Bound::Included(key.to_vec())
    }

    fn excluded(key: &[u8]) -> Edge {
        Bound::Excluded(key.to_vec())
    }

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(after_prefix(b""), Bound::Unbounded);
        assert_eq!(after_prefix(b"zone/"), excluded(b"zone0"));
        assert_eq!(after_prefix(b"a\xff\xff"), excluded(b"b"));
        assert_eq!(after_prefix(b"\xff\xff"), Bound::Unbounded);
    }

    #[test]
    fn the_narrower_edge_counts() {
        let ascending = [Bound::Unbounded, included(b"a"), excluded(b"a"), included(b"b")];
        for (n, one) in ascending.iter().enumerate() {
            for (m, other) in ascending.iter().enumerate() {
                assert_eq!(later(one.clone(), other.clone()), ascending[n.max(m)]);
            }
        }
        let descending = [Bound::Unbounded, included(b"b"), excluded(b"b"), included(b"a")];
        for (n, one) in descending.iter().enumerate() {
            for (m, other) in descending.iter().enumerate() {
                assert_eq!(earlier(one.clone(), other.clone()), descending[n.max(m)]);
            }
        }
    }

    #[test]
    fn a_range_is_empty_when_no_key_can_lie_in_it() {
        assert!(!is_empty(&included(b"a"), &included(b"a")));
        assert!(is_empty(&included(b"a"), &excluded(b"a")));
        assert!(is_empty(&excluded(b"a"), &included(b"a")));
        assert!(is_empty(&included(b"b"), &included(b"a")));
        assert!(!is_empty(&included(b"a"), &excluded(b"b")));
        assert!(!is_empty(&Bound::Unbounded, &excluded(b"a")));
        assert!(!is_empty(&excluded(b"a"), &Bound::Unbounded));
    }
}
