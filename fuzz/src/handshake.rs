//! The four ends of a connection, told any sequence of things: what comes over the wire, what their
//! driver says, and time.

mod fetch;
mod follower;
mod offer;
mod source;

use bytes::{Bytes, BytesMut};
use quicksilver_protocol::{
    Decoded, Decoder, EncodedFrame, Frame, FrameError, Kind, Message, Millis,
};

use crate::frames::check_message;
use crate::input::Input;

/// An end of a connection is told a sequence of things.
///
/// One byte: which end. One byte: how it begins. Then, for each thing, a byte that says which (the
/// end's own `tell`), and what belongs to it.
pub fn handshake(data: &[u8]) {
    let mut input = Input::new(data);
    let (end, choice) = (input.byte(), input.byte());
    match end % 4 {
        0 => run(follower::Follower::new(choice), input),
        1 => run(source::Source::new(choice), input),
        2 => run(fetch::Fetcher::new(choice), input),
        _ => run(offer::Offerer::new(choice), input),
    }
}

/// One thing leads to at most so many actions.
const MOST_ACTIONS: usize = 4;
/// However short the times of silence, so many deadlines end a session of which nothing is heard.
const MOST_DEADLINES: usize = 16;

/// A session and what it has promised so far.
trait End {
    /// Tells it one thing.
    fn tell(&mut self, what: u8, now: Millis, input: &mut Input<'_>);
    /// A frame came.
    fn frame(&mut self, now: Millis, frame: &Frame);
    /// Its next action was taken and found to be one that it may take now: whether it was the last
    /// one; `None` when it has none.
    fn act(&mut self, now: Millis) -> Option<bool>;
    /// When it wants to be told the time.
    fn next_deadline(&self) -> Millis;
    /// Tells it the time.
    fn tick(&mut self, now: Millis);
}

/// The part of an [`End`] that its `session` does as it is.
macro_rules! session_is_told {
    () => {
        fn frame(&mut self, now: Millis, frame: &quicksilver_protocol::Frame) {
            self.session.frame(now, frame);
        }

        fn next_deadline(&self) -> Millis {
            self.session.next_deadline()
        }

        fn tick(&mut self, now: Millis) {
            self.session.tick(now);
        }
    };
}
use session_is_told;

fn run(mut end: impl End, mut input: Input<'_>) {
    let mut now = Millis::new(1_000);
    let mut ended = act(&mut end, now, false);
    while let Some(what) = input.next() {
        match what % 8 {
            0..=2 => {
                let kind = Kind::ALL[usize::from(what >> 3) % Kind::ALL.len()];
                let payload = Bytes::copy_from_slice(input.piece());
                let frame = Frame { kind, payload };
                check_message(&frame);
                end.frame(now, &frame);
            }
            3 => {
                now = now.plus_ms(u64::from(input.byte()) << (what >> 3));
                end.tick(now);
            }
            _ => end.tell(what >> 3, now, &mut input),
        }
        ended = act(&mut end, now, ended);
        assert!(end.next_deadline() > now, "a deadline that has passed");
    }
    for _ in 0..MOST_DEADLINES {
        now = if ended { break } else { end.next_deadline() };
        end.tick(now);
        ended = act(&mut end, now, ended);
    }
    assert!(ended, "nothing is heard, and it goes on");
    assert_eq!(end.next_deadline(), Millis::new(u64::MAX), "it has ended, and waits");
}

/// Takes what the end has to do; whether it has ended.
fn act(end: &mut impl End, now: Millis, mut ended: bool) -> bool {
    for taken in 0.. {
        let Some(is_last) = end.act(now) else { break };
        assert!(!ended, "an action after the last");
        assert!(taken < MOST_ACTIONS, "more than {MOST_ACTIONS} actions at once");
        ended = is_last;
    }
    ended
}

/// What an end sends is a frame that the other end takes for a message.
fn said(decoder: &Decoder, frame: &EncodedFrame) -> Message {
    let mut bytes = BytesMut::new();
    frame.write_to(&mut bytes);
    match decoder.decode(&mut bytes) {
        Ok(Decoded::Frame(frame)) if bytes.is_empty() => {
            check_message(&frame).expect("it says something")
        }
        other => panic!("it sent {other:?}"),
    }
}

fn message(end: &mut impl End, now: Millis, message: Message) {
    end.frame(now, &message.into_frame());
}

/// Bytes that are no frame.
fn no_frame() -> FrameError {
    FrameError::UnknownKind(77)
}
