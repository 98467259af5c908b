//! Frames and the messages in them.

use bytes::BytesMut;
use quicksilver_protocol::frame::HEADER_BYTES;
use quicksilver_protocol::{Decoded, Decoder, Frame, FrameError, Kind, Message};

use crate::input::{Input, cut};

const AT_CRC: usize = 8;

/// A stream of frames, from either end, in pieces of any size.
///
/// One byte: bit 0 says that the bytes come from a source, bit 1 that their CRCs are to be put right
/// first, without which few get as far as a message. One byte: how the stream is cut. The stream.
pub fn frames(data: &[u8]) {
    let mut input = Input::new(data);
    let (choice, seed) = (input.byte(), input.byte());
    let mut stream = input.rest().to_vec();
    if choice & 2 != 0 {
        repair(&mut stream);
    }
    let decoder = match choice & 1 {
        0 => Decoder::of_follower_bytes(),
        _ => Decoder::of_source_bytes(),
    };
    let whole = decode(&decoder, [&stream[..]]);
    assert_eq!(decode(&decoder, cut(&stream, seed)), whole, "in pieces");
    for frame in &whole.0 {
        check_message(frame);
    }
}

/// The frames of a stream, and how it ends.
fn decode<'a>(
    decoder: &Decoder,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Frame>, Result<usize, FrameError>) {
    let (mut buffer, mut come, mut frames) = (BytesMut::new(), Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        come.extend_from_slice(piece);
        loop {
            let room = buffer.capacity();
            match decoder.decode(&mut buffer) {
                Err(error) => return (frames, Err(error)),
                Ok(Decoded::Incomplete { missing_bytes }) => {
                    assert!(missing_bytes > 0);
                    let most = Kind::ALL.map(Kind::max_bytes).into_iter().max().unwrap_or(0);
                    assert!(buffer.len() + missing_bytes <= HEADER_BYTES + most);
                    assert!(buffer.capacity() <= room, "nothing is reserved for what is promised");
                    break;
                }
                Ok(Decoded::Frame(frame)) => {
                    let mut encoded = BytesMut::new();
                    frame.clone().encode().write_to(&mut encoded);
                    let gone = &come[..come.len() - buffer.len()];
                    assert!(gone.ends_with(&encoded), "{:?} is encoded otherwise", frame.kind);
                    frames.push(frame);
                }
            }
        }
    }
    (frames, Ok(buffer.len()))
}

/// Puts the CRC of every whole frame right.
fn repair(mut stream: &mut [u8]) {
    while stream.len() >= HEADER_BYTES {
        let payload = u32::from_le_bytes([stream[0], stream[1], stream[2], stream[3]]) as usize;
        if stream.len() - HEADER_BYTES < payload {
            return;
        }
        let (frame, rest) = std::mem::take(&mut stream).split_at_mut(HEADER_BYTES + payload);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&frame[..AT_CRC]);
        crc.update(&frame[HEADER_BYTES..]);
        frame[AT_CRC..HEADER_BYTES].copy_from_slice(&crc.finalize().to_le_bytes());
        stream = rest;
    }
}

/// What a frame says, if it says anything: it is said again with the same bytes.
pub(crate) fn check_message(frame: &Frame) -> Option<Message> {
    let message = match Message::from_frame(frame) {
        Ok(message) => message,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return None;
        }
    };
    assert_eq!(message.kind(), frame.kind);
    let again = message.clone().into_frame();
    assert_eq!(Message::from_frame(&again).as_ref(), Ok(&message));
    assert!(again.payload.len() <= frame.kind.max_bytes());
    match frame.kind {
        // What a later release knows of a reason is dropped.
        Kind::Refused => {}
        // What a later release appends is dropped.
        Kind::Hello | Kind::Welcome | Kind::Fetch | Kind::Offer | Kind::Quota => {
            assert!(frame.payload.starts_with(&again.payload), "{message:?}");
        }
        _ => assert_eq!(again.payload, frame.payload, "{message:?}"),
    }
    Some(message)
}
