//! Frames: how a byte stream is cut into messages.
//!
//! ```text
//! offset  size  field
//!      0     4  payload bytes
//!      4     1  kind
//!      5     1  flags, zero
//!      6     2  reserved, zero
//!      8     4  CRC-32 of the eight bytes before and of the payload
//!     12     …  payload
//! ```
//!
//! Invariants:
//! * a length is compared with the limit of its kind as soon as the header is there, before
//!   anything is reserved for the payload;
//! * a payload is handed out only when its CRC is right;
//! * a frame that has not arrived whole is [`Decoded::Incomplete`], not an error.
//!
//! Kinds up to 127 change what a session does: an unknown one ends it, and a new one needs a new
//! protocol version. Kinds from 128 are advice: a receiver that does not know one skips it, so
//! that they can be added within a version. [`Kind::Quota`] is one.

use bytes::{Buf, Bytes, BytesMut};
use quicksilver_format::limits::{BATCH_HARD_MAX_BYTES, CONTROL_MAX_BYTES};
use quicksilver_format::manifest::{BLOCK_MAX_BYTES, MANIFEST_MAX_BYTES};
use quicksilver_format::{batch, control};

const AT_KIND: usize = 4;
const AT_FLAGS: usize = AT_KIND + 1;
const AT_RESERVED: usize = AT_FLAGS + 1;
const AT_CRC: usize = AT_RESERVED + 2;
/// Bytes before the payload.
pub const HEADER_BYTES: usize = AT_CRC + 4;
const _: () = assert!(HEADER_BYTES == 12);

/// Longest payload of every kind but batches and control records.
pub const SMALL_MAX_BYTES: usize = 64 << 10;
/// Longest control record.
pub const CONTROL_RECORD_MAX_BYTES: usize = control::HEADER_BYTES + CONTROL_MAX_BYTES;
/// Longest batch record.
pub const BATCH_RECORD_MAX_BYTES: usize = batch::record_max_bytes(BATCH_HARD_MAX_BYTES);
const _: () = assert!(BATCH_RECORD_MAX_BYTES <= u32::MAX as usize);
/// What an offer says beside the manifest.
const OFFER_HEAD_MAX_BYTES: usize = 64;

/// The first kind that a receiver may skip.
const FIRST_ADVISORY_KIND: u8 = 128;

/// What a frame says; the numbers travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Follower to source: who it is, where to start.
    Hello = 1,
    /// Source to follower: who it is, how far it is.
    Welcome = 2,
    /// Source to follower: why not.
    Refused = 3,
    /// Source to follower: a batch record.
    Batch = 4,
    /// Source to follower: a control record.
    Control = 5,
    /// Source to follower: its path from the root has changed.
    PathUpdate = 6,
    /// Follower to source: its durable index.
    Applied = 7,
    /// Either way: still here.
    Ping = 8,
    /// Either way: why this session ends.
    Bye = 9,
    /// Receiver to source, instead of a Hello: which snapshot, from which block on.
    Fetch = 10,
    /// Source to receiver: which snapshot comes, and its manifest.
    Offer = 11,
    /// Source to receiver: a block of it.
    Block = 12,
    /// Source to follower, advice: how large the root lets the data grow.
    Quota = FIRST_ADVISORY_KIND,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 13] = [
        Kind::Hello,
        Kind::Welcome,
        Kind::Refused,
        Kind::Batch,
        Kind::Control,
        Kind::PathUpdate,
        Kind::Applied,
        Kind::Ping,
        Kind::Bye,
        Kind::Fetch,
        Kind::Offer,
        Kind::Block,
        Kind::Quota,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Longest payload of this kind.
    pub const fn max_bytes(self) -> usize {
        match self {
            Kind::Batch => BATCH_RECORD_MAX_BYTES,
            Kind::Control => CONTROL_RECORD_MAX_BYTES,
            Kind::Offer => OFFER_HEAD_MAX_BYTES + MANIFEST_MAX_BYTES,
            Kind::Block => 4 + BLOCK_MAX_BYTES,
            _ => SMALL_MAX_BYTES,
        }
    }

    /// Whether a follower may send it.
    const fn sent_by_follower(self) -> bool {
        matches!(self, Kind::Hello | Kind::Applied | Kind::Ping | Kind::Bye | Kind::Fetch)
    }

    /// Whether a source may send it.
    const fn sent_by_source(self) -> bool {
        !matches!(self, Kind::Hello | Kind::Applied | Kind::Fetch)
    }
}

/// One frame whose CRC was right, or one that is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it says.
    pub kind: Kind,
    /// How it says it.
    pub payload: Bytes,
}

impl Frame {
    /// Ready for the socket.
    ///
    /// # Panics
    /// When the payload is over its kind's limit: messages never are.
    pub fn encode(self) -> EncodedFrame {
        let limit = self.kind.max_bytes();
        assert!(self.payload.len() <= limit, "{:?} of {} bytes", self.kind, self.payload.len());
        let payload_bytes = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        let mut header = [0; HEADER_BYTES];
        header[..AT_KIND].copy_from_slice(&payload_bytes.to_le_bytes());
        header[AT_KIND] = self.kind as u8;
        let crc = crc(&header[..AT_CRC], &self.payload);
        header[AT_CRC..].copy_from_slice(&crc.to_le_bytes());
        EncodedFrame { header, payload: self.payload }
    }
}

/// A frame as it travels. The payload is shared, not copied: the same batch goes to every
/// downstream, and its CRC is computed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedFrame {
    header: [u8; HEADER_BYTES],
    payload: Bytes,
}

impl EncodedFrame {
    /// The bytes to write first.
    pub fn header(&self) -> &[u8; HEADER_BYTES] {
        &self.header
    }

    /// The bytes to write second.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Bytes on the wire.
    pub fn wire_bytes(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// Appends header and payload.
    pub fn write_to(&self, out: &mut BytesMut) {
        out.extend_from_slice(&self.header);
        out.extend_from_slice(&self.payload);
    }
}

fn crc(head: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(payload);
    hasher.finalize()
}

/// Bytes that are no frame. Every one of them ends the session: after it, nobody knows where the
/// next frame begins.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length over the limit of its kind.
    #[error("a {kind:?} frame claims {found_bytes} bytes, the limit is {limit_bytes}")]
    TooLong {
        /// The kind.
        kind: Kind,
        /// What it claims.
        found_bytes: usize,
        /// What is accepted.
        limit_bytes: usize,
    },
    /// A skippable frame that is too long to skip.
    #[error("a frame of the unknown kind {kind} claims {found_bytes} bytes, the limit is 65536")]
    AdviceTooLong {
        /// The kind.
        kind: u8,
        /// What it claims.
        found_bytes: usize,
    },
    /// A kind this protocol version does not have.
    #[error("frame kind {0} is unknown to this protocol version")]
    UnknownKind(u8),
    /// A kind that this end of a session never receives.
    #[error("a {0:?} frame came from the wrong end of the session")]
    WrongDirection(Kind),
    /// A header field that must be zero is not.
    #[error("frame flags are {flags:#04x} and the reserved field is {reserved:#06x}, expected 0")]
    NotZero {
        /// The flags.
        flags: u8,
        /// The reserved field.
        reserved: u16,
    },
    /// The bytes were damaged on the way.
    #[error("frame CRC is {found:08x}, expected {expected:08x}: the bytes were damaged on the way")]
    Crc {
        /// What the header says.
        found: u32,
        /// What the bytes have.
        expected: u32,
    },
}

/// What the decoder made of the bytes so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// A whole frame; its bytes are gone from the buffer.
    Frame(Frame),
    /// More bytes are needed, at least this many.
    Incomplete {
        /// Bytes missing: of the header, or of the frame once its header is known.
        missing_bytes: usize,
    },
}

/// Which end the bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Follower,
    Source,
}

/// Cuts bytes into frames. It has no buffer of its own.
#[derive(Debug, Clone)]
pub struct Decoder {
    from: From,
}

impl Decoder {
    /// For the source's end: nothing a follower may say is longer than 64 KiB.
    pub fn of_follower_bytes() -> Self {
        Decoder { from: From::Follower }
    }

    /// For the follower's end.
    pub fn of_source_bytes() -> Self {
        Decoder { from: From::Source }
    }

    /// The number of the first frame's kind, once it has come; nothing is checked.
    pub fn kind_of_first(&self, bytes: &[u8]) -> Option<u8> {
        bytes.get(AT_KIND).copied()
    }

    /// Takes the next frame from the front of `bytes`.
    pub fn decode(&self, bytes: &mut BytesMut) -> Result<Decoded, FrameError> {
        loop {
            if bytes.len() < HEADER_BYTES {
                return Ok(Decoded::Incomplete { missing_bytes: HEADER_BYTES - bytes.len() });
            }
            let (kind, payload_bytes) = self.check_header(bytes)?;
            let frame_bytes = HEADER_BYTES + payload_bytes;
            if bytes.len() < frame_bytes {
                return Ok(Decoded::Incomplete { missing_bytes: frame_bytes - bytes.len() });
            }
            let mut frame = bytes.split_to(frame_bytes);
            let found = u32_at(&frame, AT_CRC);
            let expected = crc(&frame[..AT_CRC], &frame[HEADER_BYTES..]);
            if found != expected {
                return Err(FrameError::Crc { found, expected });
            }
            if let Some(kind) = kind {
                frame.advance(HEADER_BYTES);
                return Ok(Decoded::Frame(Frame { kind, payload: frame.freeze() }));
            }
        }
    }

    /// The kind (`None`: to be skipped) and the payload's length, both within what is accepted.
    fn check_header(&self, bytes: &[u8]) -> Result<(Option<Kind>, usize), FrameError> {
        let found_bytes = u32_at(bytes, 0) as usize;
        let kind_byte = bytes[AT_KIND];
        let kind = Kind::from_byte(kind_byte);
        let flags = bytes[AT_FLAGS];
        let reserved = u16::from_le_bytes([bytes[AT_RESERVED], bytes[AT_RESERVED + 1]]);
        if kind.is_none() && kind_byte >= FIRST_ADVISORY_KIND {
            return if found_bytes <= SMALL_MAX_BYTES {
                Ok((None, found_bytes))
            } else {
                Err(FrameError::AdviceTooLong { kind: kind_byte, found_bytes })
            };
        }
        let kind = kind.ok_or(FrameError::UnknownKind(kind_byte))?;
        if flags != 0 || reserved != 0 {
            return Err(FrameError::NotZero { flags, reserved });
        }
        let allowed = match self.from {
            From::Follower => kind.sent_by_follower(),
            From::Source => kind.sent_by_source(),
        };
        if !allowed {
            return Err(FrameError::WrongDirection(kind));
        }
        let limit_bytes = kind.max_bytes();
        if found_bytes > limit_bytes {
            return Err(FrameError::TooLong { kind, found_bytes, limit_bytes });
        }
        Ok((Some(kind), found_bytes))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;
    use proptest::prelude::*;

    fn bytes_of(kind: Kind, payload: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        Frame { kind, payload: Bytes::copy_from_slice(payload) }.encode().write_to(&mut out);
        out
    }

    fn raw(kind: u8, claims: u32) -> BytesMut {
        let mut out = BytesMut::new();
        out.extend_from_slice(&claims.to_le_bytes());
        out.extend_from_slice(&[kind, 0, 0, 0, 0, 0, 0, 0]);
        out
    }

    #[test]
    fn golden_bytes() {
        let hex: String = bytes_of(Kind::Ping, b"qs").iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "0200000008000000175204f47173");
    }

    #[test]
    fn a_length_is_refused_with_the_header_alone() {
        for kind in Kind::ALL {
            let over = u32::try_from(kind.max_bytes() + 1).unwrap();
            let decoder = if kind.sent_by_source() {
                Decoder::of_source_bytes()
            } else {
                Decoder::of_follower_bytes()
            };
            let mut bytes = raw(kind as u8, over);
            let capacity = bytes.capacity();
            let err = decoder.decode(&mut bytes).unwrap_err();
            assert!(matches!(err, FrameError::TooLong { .. }), "{kind:?}: {err}");
            let mut at_limit = raw(kind as u8, over - 1);
            let found = decoder.decode(&mut at_limit).unwrap();
            assert_eq!(found, Decoded::Incomplete { missing_bytes: kind.max_bytes() });
            assert_eq!(at_limit.capacity(), capacity, "nothing is reserved for what is promised");
        }
    }

    #[test]
    fn unknown_kinds_end_the_session_and_advice_is_skipped() {
        let decoder = Decoder::of_source_bytes();
        assert_eq!(decoder.decode(&mut raw(77, 0)), Err(FrameError::UnknownKind(77)));
        assert_eq!(decoder.decode(&mut raw(0, 0)), Err(FrameError::UnknownKind(0)));
        let mut bytes = bytes_of(Kind::Ping, b"later");
        bytes[AT_KIND] = 200;
        let crc = crc(&bytes[..AT_CRC], b"later");
        bytes[AT_CRC..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&bytes_of(Kind::Bye, &[2]));
        let expected = Frame { kind: Kind::Bye, payload: Bytes::from_static(&[2]) };
        assert_eq!(decoder.decode(&mut bytes), Ok(Decoded::Frame(expected)));
        let mut long = raw(200, 65_537);
        assert!(matches!(decoder.decode(&mut long), Err(FrameError::AdviceTooLong { .. })));
    }

    #[test]
    fn each_end_hears_only_what_the_other_may_say() {
        let mut batch = bytes_of(Kind::Batch, b"x");
        let found = Decoder::of_follower_bytes().decode(&mut batch);
        assert_eq!(found, Err(FrameError::WrongDirection(Kind::Batch)));
        let mut hello = bytes_of(Kind::Hello, b"x");
        let found = Decoder::of_source_bytes().decode(&mut hello);
        assert_eq!(found, Err(FrameError::WrongDirection(Kind::Hello)));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let good = bytes_of(Kind::Ping, b"payload");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let found = Decoder::of_source_bytes().decode(&mut bad);
            let noticed = matches!(found, Err(_) | Ok(Decoded::Incomplete { .. }));
            assert!(noticed, "bit {bit}: {found:?}");
        }
    }

    proptest! {
        /// However the stream is cut, the same frames come out.
        #[test]
        fn frames_survive_any_cut(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..10),
            cut in 1usize..50,
        ) {
            let mut stream = BytesMut::new();
            for payload in &payloads {
                stream.extend_from_slice(&bytes_of(Kind::Control, payload));
            }
            let decoder = Decoder::of_source_bytes();
            let mut buf = BytesMut::new();
            let mut found = Vec::new();
            for piece in stream.chunks(cut) {
                buf.extend_from_slice(piece);
                while let Decoded::Frame(frame) = decoder.decode(&mut buf).unwrap() {
                    found.push(frame.payload.to_vec());
                }
            }
            prop_assert_eq!(found, payloads);
            prop_assert!(buf.is_empty());
        }

        #[test]
        fn any_bytes_decode_or_err(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            for decoder in [Decoder::of_source_bytes(), Decoder::of_follower_bytes()] {
                let mut buf = BytesMut::from(&bytes[..]);
                while let Ok(Decoded::Frame(_)) = decoder.decode(&mut buf) {}
            }
        }
    }
}
