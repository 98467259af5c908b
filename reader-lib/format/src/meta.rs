//! The records of the `meta` bucket: what a generation says about itself.
//!
//! All of them change in the same LMDB transaction as the data they describe.
//!
//! ```text
//! key "format"     0  4  magic "QSDB"
//!                  4  4  format version
//!                  8  4  oldest format version a program must know to read it
//!                 12  4  page size its chunks were cut for
//!                        (a later format may append; these 16 bytes never change)
//! key "identity"   0 16  database id
//!                 16 16  history
//! key "log"        0  8  last index         (0: empty)
//!                  8 32  running hash there
//!                 40  8  oldest index that is still in the log (last index + 1: none)
//!                 48  8  when the last batch was sealed, microseconds since the Unix epoch
//! key "applied"    0  8  applied index
//!                  8 32  running hash there
//!                 40 16  state digest
//!                 56  8  live keys
//!                 64  8  bytes of live keys and values
//! ```

use crate::digest::StateDigest;
use crate::error::FormatError;
use crate::hash::Position;
use crate::ids::{DbId, HistoryId, Index};
use crate::version::{
    self, NEWEST_FORMAT_VERSION, OLDEST_READABLE_FORMAT_VERSION, OLDEST_WRITABLE_FORMAT_VERSION,
};
use crate::wire::Reader;

const MAGIC: [u8; 4] = *b"QSDB";

/// Which format the generation is in. What this release can do is in [`crate::version`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Format {
    /// The format it is written in. A writer must know it, because it has to keep up all of it.
    pub version: u32,
    /// The oldest format a program must know to read it. A reader may be older than `version`.
    pub readable_from: u32,
    /// LMDB's page size when it was created; chunks are cut for it.
    pub page_bytes: u32,
}

impl Format {
    /// Its key in `meta`.
    pub const KEY: &'static [u8] = b"format";

    /// A format that this release knows; `None` when it is of a later one.
    pub fn of_version(version: u32, page_bytes: u32) -> Option<Self> {
        let readable_from = version::known(version)?.readable_from;
        Some(Format { version, readable_from, page_bytes })
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.readable_from.to_le_bytes());
        out.extend_from_slice(&self.page_bytes.to_le_bytes());
        out
    }

    /// From bytes: of any release, which says nothing about whether this one can read the database.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "meta record \"format\"";
        let mut r = Reader::new(WHAT, bytes);
        let magic = r.array::<4>()?;
        if magic != MAGIC {
            let found = magic.escape_ascii();
            return Err(FormatError::field(WHAT, "magic", found, "QSDB"));
        }
        let (version, readable_from, page_bytes) = (r.u32()?, r.u32()?, r.u32()?);
        if readable_from == 0 || readable_from > version {
            let expected = format!("1 to {version}, which it is in");
            return Err(FormatError::field(WHAT, "oldest reader", readable_from, expected));
        }
        if !(512..=65_536).contains(&page_bytes) || !page_bytes.is_power_of_two() {
            let expected = "a power of two from 512 to 65536";
            return Err(FormatError::field(WHAT, "page size", page_bytes, expected));
        }
        Ok(Format { version, readable_from, page_bytes })
    }

    /// Whether this release may read it: it knows what the format asks of a reader, and has not
    /// forgotten how.
    pub fn check_readable(&self) -> Result<(), FormatError> {
        let (oldest, newest) = (OLDEST_READABLE_FORMAT_VERSION, NEWEST_FORMAT_VERSION);
        if self.readable_from <= newest && self.version >= oldest {
            return Ok(());
        }
        let Format { version, readable_from, .. } = *self;
        Err(FormatError::UnreadableDatabase { version, readable_from, oldest, newest })
    }

    /// Whether this release may write it: it knows all of the format, also what readers need not.
    pub fn check_writable(&self) -> Result<(), FormatError> {
        let (oldest, newest) = (OLDEST_WRITABLE_FORMAT_VERSION, NEWEST_FORMAT_VERSION);
        let version = self.version;
        if (oldest..=newest).contains(&version) {
            return Ok(());
        }
        Err(FormatError::UnwritableDatabase { version, oldest, newest })
    }
}

/// Which database this is, and which of its pasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The same on every node.
    pub db_id: DbId,
    /// Changes with a restore or rebuild to another past.
    pub history: HistoryId,
}

impl Identity {
    /// Its key in `meta`.
    pub const KEY: &'static [u8] = b"identity";

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        [*self.db_id.as_bytes(), *self.history.as_bytes()].concat()
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new("meta record \"identity\"", bytes);
        let identity = Identity {
            db_id: DbId::from_bytes(r.array()?),
            history: HistoryId::from_bytes(r.array()?),
        };
        r.end()?;
        Ok(identity)
    }
}

/// How far the log reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogState {
    /// The last entry's position.
    pub last: Position,
    /// The first entry that is still there; one more than the last index when none is.
    pub oldest: Index,
    /// When the last batch was sealed, microseconds since the Unix epoch.
    pub sealed_at_us: u64,
}

impl LogState {
    /// Its key in `meta`.
    pub const KEY: &'static [u8] = b"log";

    /// An empty log.
    pub fn empty(db_id: DbId) -> Self {
        LogState { last: Position::genesis(db_id), oldest: Index::FIRST, sealed_at_us: 0 }
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(56);
        self.last.encode(&mut out);
        out.extend_from_slice(&self.oldest.get().to_le_bytes());
        out.extend_from_slice(&self.sealed_at_us.to_le_bytes());
        out
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new("meta record \"log\"", bytes);
        let state = LogState {
            last: Position::read(&mut r)?,
            oldest: Index::new(r.u64()?),
            sealed_at_us: r.u64()?,
        };
        r.end()?;
        Ok(state)
    }
}

/// How far the log has been applied to the data, and what the data then is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Applied {
    /// The last applied entry's position.
    pub position: Position,
    /// Digest of the data.
    pub digest: StateDigest,
    /// Live keys.
    pub keys: u64,
    /// Bytes of live keys and values.
    pub bytes: u64,
}

impl Applied {
    /// Its key in `meta`.
    pub const KEY: &'static [u8] = b"applied";

    /// Nothing applied, no data.
    pub fn empty(db_id: DbId) -> Self {
        Applied {
            position: Position::genesis(db_id),
            digest: StateDigest::EMPTY,
            keys: 0,
            bytes: 0,
        }
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(72);
        self.position.encode(&mut out);
        out.extend_from_slice(&self.digest.as_u128().to_le_bytes());
        out.extend_from_slice(&self.keys.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new("meta record \"applied\"", bytes);
        let applied = Applied {
            position: Position::read(&mut r)?,
            digest: StateDigest::from_u128(r.u128()?),
            keys: r.u64()?,
            bytes: r.u64()?,
        };
        r.end()?;
        Ok(applied)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;
    use crate::hash::RunningHash;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        let format = Format::of_version(1, 4096).unwrap().encode();
        assert_eq!(format, b"QSDB\x01\0\0\0\x01\0\0\0\0\x10\0\0");

        let position = Position { index: Index::new(5), hash: RunningHash::from_bytes([0xab; 32]) };
        let log = LogState { last: position, oldest: Index::new(2), sealed_at_us: 3 }.encode();
        let mut expected = vec![5, 0, 0, 0, 0, 0, 0, 0];
        expected.extend([0xab; 32]);
        expected.extend([2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(log, expected);

        let digest = StateDigest::from_u128(0x0102);
        let applied = Applied { position, digest, keys: 7, bytes: 8 }.encode();
        expected.truncate(40);
        expected.extend([2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([7, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(applied, expected);
    }

    fn format(version: u32, readable_from: u32) -> Format {
        Format { version, readable_from, page_bytes: 4096 }
    }

    /// What a format asks of a reader and what it asks of a writer are two things.
    #[test]
    fn readers_and_writers_of_other_formats() {
        let newest = NEWEST_FORMAT_VERSION;
        let later = newest + 1;
        for (record, reads, writes) in [
            (format(newest, newest), true, true),
            (format(OLDEST_WRITABLE_FORMAT_VERSION, 1), true, true),
            // What it added is nothing that a reader has to know.
            (format(later, 1), true, false),
            (format(later, newest), true, false),
            (format(later, later), false, false),
        ] {
            assert_eq!(Format::decode(&record.encode()).unwrap(), record);
            assert_eq!(record.check_readable().is_ok(), reads, "{record:?}");
            assert_eq!(record.check_writable().is_ok(), writes, "{record:?}");
        }
    }

    #[test]
    fn another_format_is_named_with_a_cure() {
        let refused = format(98, 97).check_readable().unwrap_err().to_string();
        let expected = format!(
            "database: in format 98, readable for programs that know 97; this release reads 1 \
             to {NEWEST_FORMAT_VERSION}; it was finalised for a newer release: upgrade this program"
        );
        assert_eq!(refused, expected);
        let refused = format(98, 1).check_writable().unwrap_err().to_string();
        assert!(refused.contains("in format 98; this release writes 1 to"), "{refused}");
        assert!(refused.contains("upgrade this one"), "{refused}");
    }

    #[test]
    fn a_record_of_a_later_format_may_be_longer_and_never_contradict_itself() {
        let longer = [&format(3, 2).encode()[..], b"what came later"].concat();
        assert_eq!(Format::decode(&longer).unwrap(), format(3, 2));
        for nonsense in [format(1, 2), format(1, 0), format(0, 0)] {
            assert!(Format::decode(&nonsense.encode()).is_err(), "{nonsense:?}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(
            index in any::<u64>(), hash in any::<[u8; 32]>(), oldest in any::<u64>(),
            sealed_at_us in any::<u64>(), digest in any::<u128>(), keys in any::<u64>(),
            bytes in any::<u64>(), ids in any::<([u8; 16], [u8; 16])>(),
        ) {
            let position = Position { index: Index::new(index), hash: RunningHash::from_bytes(hash) };
            let log = LogState { last: position, oldest: Index::new(oldest), sealed_at_us };
            prop_assert_eq!(LogState::decode(&log.encode()).unwrap(), log);
            let applied = Applied { position, digest: StateDigest::from_u128(digest), keys, bytes };
            prop_assert_eq!(Applied::decode(&applied.encode()).unwrap(), applied);
            let identity = Identity {
                db_id: DbId::from_bytes(ids.0),
                history: HistoryId::from_bytes(ids.1),
            };
            prop_assert_eq!(Identity::decode(&identity.encode()).unwrap(), identity);
        }
    }
}
