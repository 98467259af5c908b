//! The serving end of a transfer.

use bytes::Bytes;
use quicksilver_format::Index;
use quicksilver_protocol::{
    ByeReason, Deadlines, Decoder, Fetch, Message, Millis, OfferAction, OfferSession, Offered,
    VersionRange, Wanted,
};

use super::{End, fetch, message, no_frame, said, session_is_told};
use crate::input::Input;
use crate::model::node;

pub(super) struct Offerer {
    session: OfferSession,
    offered: Offered,
    asked: bool,
    /// The next block, once there is an offer.
    next: Option<u32>,
    said_last: bool,
}

impl Offerer {
    pub(super) fn new(_: u8) -> Self {
        let (me, now) = (node("relay", 2), Millis::new(1_000));
        let session = OfferSession::new(me, Deadlines::default(), now);
        let offered = fetch::offered();
        Offerer { session, offered, asked: false, next: None, said_last: false }
    }
}

impl End for Offerer {
    fn tell(&mut self, what: u8, now: Millis, input: &mut Input<'_>) {
        match what % 16 {
            0..=2 => {
                let next_block = u32::from(input.byte() % 8);
                let identity = self.offered.identity;
                let fetch = Fetch {
                    versions: VersionRange::OURS,
                    node: node("leaf", 9),
                    wanted: (next_block < 6).then_some(Wanted { identity, next_block }),
                    at_least: Index::new(input.byte().into()),
                };
                message(self, now, Message::Fetch(fetch));
            }
            3..=5 => self.session.found(now, &self.offered),
            6..=9 => {
                if self.session.wants_block().is_some() {
                    self.session.block(Bytes::copy_from_slice(input.piece()));
                }
            }
            10 => self.session.busy(5, "so".to_owned()),
            11 => message(self, now, Message::Ping),
            12 => message(self, now, Message::Bye(ByeReason::StopReached)),
            13 => self.session.close(ByeReason::Restarting),
            14 => self.session.frame_error(&no_frame()),
            _ => self.session.disconnected("cut"),
        }
    }

    fn act(&mut self, _: Millis) -> Option<bool> {
        match self.session.poll()? {
            OfferAction::LookUp { .. } => {
                assert!(!self.asked && self.session.follower().is_some());
                self.asked = true;
            }
            OfferAction::Send(frame) => {
                assert!(!self.said_last, "something after the last word");
                match said(&Decoder::of_source_bytes(), &frame) {
                    Message::Offer(offer) => {
                        assert!(self.asked && self.next.is_none());
                        assert_eq!(offer.identity, self.offered.identity);
                        assert!(offer.first_block <= self.offered.blocks);
                        assert!(offer.manifest.is_none() || offer.first_block == 0);
                        self.next = Some(offer.first_block);
                    }
                    Message::Block { number, .. } => {
                        assert_eq!(Some(number), self.next, "blocks come in order");
                        assert!(number < self.offered.blocks);
                        self.next = Some(number + 1);
                    }
                    Message::Refused(_) | Message::Bye(_) => self.said_last = true,
                    other => panic!("it said {other:?}"),
                }
            }
            OfferAction::Close(end) => {
                assert!(!end.to_string().is_empty());
                return Some(true);
            }
        }
        Some(false)
    }

    session_is_told!();
}
