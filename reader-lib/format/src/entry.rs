//! One SET or DEL as canonical bytes: what the running hash covers and a batch record carries.
//!
//! ```text
//! offset  size  field
//!      0     1  op: 1 SET, 2 DEL
//!      1     2  key length k
//!      3     k  key
//!    3+k     4  value length v        (SET only)
//!    7+k     v  value                 (SET only)
//! ```

use crate::error::FormatError;
use crate::limits::{KEY_MAX_BYTES, VALUE_HARD_MAX_BYTES};
use crate::wire::Reader;

const OP_SET: u8 = 1;
const OP_DEL: u8 = 2;
const WHAT: &str = "entry";

/// What an entry does to its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op<'a> {
    /// The key has this value from now on.
    Set(&'a [u8]),
    /// The key is gone.
    Del,
}

/// One change. Its index is its place in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// 1 to 511 bytes.
    pub key: &'a [u8],
    /// What happens to it.
    pub op: Op<'a>,
}

impl<'a> Entry<'a> {
    /// A SET.
    pub fn set(key: &'a [u8], value: &'a [u8]) -> Self {
        Entry { key, op: Op::Set(value) }
    }

    /// A DEL.
    pub fn del(key: &'a [u8]) -> Self {
        Entry { key, op: Op::Del }
    }

    /// Bytes of its canonical form.
    pub fn encoded_bytes(&self) -> usize {
        match self.op {
            Op::Set(value) => 7 + self.key.len() + value.len(),
            Op::Del => 3 + self.key.len(),
        }
    }

    /// Appends its canonical form.
    ///
    /// # Panics
    /// When key or value are over the hard limits; whoever accepts them from outside checks first.
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!((1..=KEY_MAX_BYTES).contains(&self.key.len()), "key of {} bytes", self.key.len());
        let key_bytes = u16::try_from(self.key.len()).unwrap_or(u16::MAX);
        out.push(match self.op {
            Op::Set(_) => OP_SET,
            Op::Del => OP_DEL,
        });
        out.extend_from_slice(&key_bytes.to_le_bytes());
        out.extend_from_slice(self.key);
        if let Op::Set(value) = self.op {
            assert!(value.len() <= VALUE_HARD_MAX_BYTES, "value of {} bytes", value.len());
            let value_bytes = u32::try_from(value.len()).unwrap_or(u32::MAX);
            out.extend_from_slice(&value_bytes.to_le_bytes());
            out.extend_from_slice(value);
        }
    }

    /// Reads one entry from the front of `bytes`, and says how many bytes it took.
    pub fn decode_prefix(bytes: &'a [u8]) -> Result<(Self, usize), FormatError> {
        let mut r = Reader::new(WHAT, bytes);
        let op = r.u8()?;
        let key_bytes = usize::from(r.u16()?);
        if !(1..=KEY_MAX_BYTES).contains(&key_bytes) {
            return Err(FormatError::field(WHAT, "key length", key_bytes, "1 to 511"));
        }
        let key = r.take(key_bytes)?;
        let op = match op {
            OP_SET => {
                let value_bytes = r.u32()? as usize;
                if value_bytes > VALUE_HARD_MAX_BYTES {
                    return Err(FormatError::OverLimit {
                        what: WHAT,
                        field: "value length",
                        found: value_bytes as u64,
                        limit: VALUE_HARD_MAX_BYTES as u64,
                    });
                }
                Op::Set(r.take(value_bytes)?)
            }
            OP_DEL => Op::Del,
            other => return Err(FormatError::field(WHAT, "op", other, "1 (SET) or 2 (DEL)")),
        };
        Ok((Entry { key, op }, r.position()))
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
        Entry::set(b"hello", b"world").encode(&mut out);
        assert_eq!(out, b"\x01\x05\x00hello\x05\x00\x00\x00world");
        out.clear();
        Entry::del(b"hello").encode(&mut out);
        assert_eq!(out, b"\x02\x05\x00hello");
    }

    proptest! {
        #[test]
        fn round_trip(
            key in prop::collection::vec(any::<u8>(), 1..=511),
            value in prop::option::of(prop::collection::vec(any::<u8>(), 0..2000)),
            after in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let entry = match &value {
                Some(value) => Entry::set(&key, value),
                None => Entry::del(&key),
            };
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), entry.encoded_bytes());
            bytes.extend_from_slice(&after);
            let (decoded, used) = Entry::decode_prefix(&bytes).unwrap();
            prop_assert_eq!(decoded, entry);
            prop_assert_eq!(used, entry.encoded_bytes());
        }

        #[test]
        fn any_bytes_decode_or_err(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Entry::decode_prefix(&bytes);
        }
    }
}
