//! Control records: what travels in order with the batches but takes no index.
//!
//! ```text
//! offset  size  field
//!      0     2  kind: 1 heartbeat; others are for later releases
//!      2     1  version of that kind
//!      3     1  zero
//!      4     4  payload length
//!      8     …  payload
//!
//! heartbeat, version 1
//!      0     8  the root's clock, microseconds since the Unix epoch
//!      8     8  index of the last entry that was sealed before it
//! ```
//!
//! A node forwards kinds and versions it does not know, untouched.

use bytes::Bytes;

use crate::error::FormatError;
use crate::ids::Index;
use crate::limits::CONTROL_MAX_BYTES;
use crate::wire::Reader;

const WHAT: &str = "control record";
const KIND_HEARTBEAT: u16 = 1;
const HEARTBEAT_VERSION: u8 = 1;
/// Bytes before the payload.
pub const HEADER_BYTES: usize = 8;

/// A control record of any kind, known or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlRecord {
    /// What it is about.
    pub kind: u16,
    /// Which layout its payload has.
    pub version: u8,
    /// The payload.
    pub payload: Bytes,
}

impl ControlRecord {
    /// Appends header and payload.
    ///
    /// # Panics
    /// When the payload is over [`CONTROL_MAX_BYTES`]; nothing that passed [`Self::decode`] is.
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.payload.len() <= CONTROL_MAX_BYTES, "control of {} bytes", self.payload.len());
        let payload_bytes = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&self.kind.to_le_bytes());
        out.push(self.version);
        out.push(0);
        out.extend_from_slice(&payload_bytes.to_le_bytes());
        out.extend_from_slice(&self.payload);
    }

    /// Reads exactly one record.
    pub fn decode(bytes: &Bytes) -> Result<Self, FormatError> {
        let mut r = Reader::new(WHAT, bytes);
        let kind = r.u16()?;
        let version = r.u8()?;
        let zero = r.u8()?;
        if zero != 0 {
            return Err(FormatError::field(WHAT, "reserved field", zero, 0));
        }
        let payload_bytes = r.u32()? as usize;
        if payload_bytes > CONTROL_MAX_BYTES {
            return Err(FormatError::OverLimit {
                what: WHAT,
                field: "payload length",
                found: payload_bytes as u64,
                limit: CONTROL_MAX_BYTES as u64,
            });
        }
        r.take(payload_bytes)?;
        r.end()?;
        let payload = bytes.slice(HEADER_BYTES..);
        Ok(ControlRecord { kind, version, payload })
    }
}

/// The root's clock, travelling in order with the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Heartbeat {
    /// The root's clock when it was sent, microseconds since the Unix epoch.
    pub root_clock_us: u64,
    /// The last entry sealed before it: it counts on a node that has committed that entry.
    pub after: Index,
}

impl Heartbeat {
    /// As a control record.
    pub fn to_record(self) -> ControlRecord {
        let mut payload = Vec::with_capacity(16);
        payload.extend_from_slice(&self.root_clock_us.to_le_bytes());
        payload.extend_from_slice(&self.after.get().to_le_bytes());
        ControlRecord { kind: KIND_HEARTBEAT, version: HEARTBEAT_VERSION, payload: payload.into() }
    }

    /// From a control record; `None` when it is of a kind or version this release does not know.
    pub fn from_record(record: &ControlRecord) -> Result<Option<Self>, FormatError> {
        if record.kind != KIND_HEARTBEAT || record.version != HEARTBEAT_VERSION {
            return Ok(None);
        }
        let mut r = Reader::new("heartbeat", &record.payload);
        let heartbeat = Heartbeat { root_clock_us: r.u64()?, after: Index::new(r.u64()?) };
        r.end()?;
        Ok(Some(heartbeat))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        let mut out = Vec::new();
        let heartbeat = Heartbeat { root_clock_us: 0x0102, after: Index::new(3) };
        heartbeat.to_record().encode(&mut out);
        assert_eq!(out, b"\x01\0\x01\0\x10\0\0\0\x02\x01\0\0\0\0\0\0\x03\0\0\0\0\0\0\0");
    }

    proptest! {
        #[test]
        fn round_trip(
            kind in any::<u16>(),
            version in any::<u8>(),
            payload in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let record = ControlRecord { kind, version, payload: payload.into() };
            let mut out = Vec::new();
            record.encode(&mut out);
            prop_assert_eq!(ControlRecord::decode(&out.into()).unwrap(), record);
        }

        #[test]
        fn heartbeats_round_trip(root_clock_us in any::<u64>(), after in any::<u64>()) {
            let heartbeat = Heartbeat { root_clock_us, after: Index::new(after) };
            let back = Heartbeat::from_record(&heartbeat.to_record()).unwrap();
            prop_assert_eq!(back, Some(heartbeat));
        }

        #[test]
        fn any_bytes_decode_or_err(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = ControlRecord::decode(&bytes.into());
        }
    }

    #[test]
    fn unknown_kinds_are_no_heartbeat_and_no_error() {
        let record = ControlRecord { kind: 9, version: 1, payload: Bytes::from_static(b"x") };
        assert_eq!(Heartbeat::from_record(&record), Ok(None));
    }
}
