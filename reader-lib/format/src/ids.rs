//! Positions and identities as types, so that one is never taken for another.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::limits::NAME_MAX_BYTES;

/// Position of an entry in a database's log. The first entry is 1 and there are no holes;
/// [`Index::ZERO`] is the position before the first entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Index(u64);

impl Index {
    /// Before the first entry: an empty log ends here.
    pub const ZERO: Index = Index(0);
    /// The first entry.
    pub const FIRST: Index = Index(1);

    /// The index with this number.
    pub const fn new(n: u64) -> Self {
        Index(n)
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The index after this one.
    ///
    /// # Panics
    /// At 2^64 entries: a million a second for half a million years.
    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// The index `n` entries later.
    ///
    /// # Panics
    /// When it does not fit in 64 bits.
    #[must_use]
    pub const fn plus(self, n: u64) -> Self {
        match self.0.checked_add(n) {
            Some(sum) => Index(sum),
            None => panic!("index overflow"),
        }
    }

    /// The index before this one; [`Index::ZERO`] stays where it is.
    #[must_use]
    pub const fn previous(self) -> Self {
        Index(self.0.saturating_sub(1))
    }

    /// Entries from `earlier` (exclusive) to this one (inclusive), 0 when `earlier` is later.
    pub const fn since(self, earlier: Index) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Bytes on disk and on the wire.
            pub const BYTES: usize = 16;

            /// A new random one.
            pub fn random() -> Self {
                $name(Uuid::new_v4())
            }

            /// From its bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                $name(Uuid::from_bytes(bytes))
            }

            /// Its bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(s: &str) -> Result<Self, IdError> {
                Uuid::parse_str(s).map($name).map_err(|_| IdError::NotAUuid(s.to_owned()))
            }
        }
    };
}

uuid_id! {
    /// The identity of one database: the same on every node that holds it, different for any other.
    DbId
}
uuid_id! {
    /// One past of a database. It changes when the database is restored or rebuilt to another
    /// past; readers that kept something then read it anew.
    HistoryId
}
impl HistoryId {
    /// What a new relay has before it has learnt its database's history from an upstream.
    pub const NONE: HistoryId = HistoryId(Uuid::nil());
}

uuid_id! {
    /// One run of one replicator, drawn at its start: a node that meets its own is talking to itself.
    ProcessId
}

/// A node's name, unique in the tree: 1 to 64 of `A-Z a-z 0-9 . _ -`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(String);

impl NodeId {
    /// Checks and wraps a name.
    pub fn new(name: impl Into<String>) -> Result<Self, IdError> {
        let name = name.into();
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if (1..=NAME_MAX_BYTES).contains(&name.len()) && name.chars().all(legal) {
            Ok(NodeId(name))
        } else {
            Err(IdError::NotAName(name.chars().take(NAME_MAX_BYTES).collect()))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NodeId {
    type Err = IdError;

    fn from_str(s: &str) -> Result<Self, IdError> {
        NodeId::new(s)
    }
}

/// A text that is no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not a UUID.
    #[error("{0:?} is no UUID; expected the form 0ba4a1b2-1c1c-4f6e-9e0a-0c6a3a3f8a11")]
    NotAUuid(String),
    /// Not a node name.
    #[error("{0:?} is no name; expected 1 to 64 of the characters A-Z a-z 0-9 . _ -")]
    NotAName(String),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;

    #[test]
    fn index_counts_without_holes() {
        assert_eq!(Index::ZERO.next(), Index::FIRST);
        assert_eq!(Index::new(7).plus(3), Index::new(10));
        assert_eq!(Index::ZERO.previous(), Index::ZERO);
        assert_eq!(Index::new(10).since(Index::new(7)), 3);
        assert_eq!(Index::new(7).since(Index::new(10)), 0);
    }

    #[test]
    #[should_panic(expected = "index overflow")]
    fn index_does_not_wrap() {
        let _ = Index::new(u64::MAX).next();
    }

    #[test]
    fn ids_round_trip_as_text() {
        let id = DbId::random();
        assert_eq!(id.to_string().parse::<DbId>().unwrap(), id);
        assert!("dns".parse::<DbId>().is_err());
        assert_eq!(NodeId::new("ams-1.r2_x").unwrap().as_str(), "ams-1.r2_x");
        for bad in ["", "a b", "ä", &"x".repeat(65)] {
            assert!(NodeId::new(bad).is_err(), "{bad:?}");
        }
    }
}
