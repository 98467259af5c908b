//! The receiving end of a transfer, and the snapshot that is transferred.

use bytes::Bytes;
use quicksilver_format::manifest::{BlockEntry, Manifest, SnapshotHash};
use quicksilver_format::meta::{Applied, Identity};
use quicksilver_format::{Index, Position, RunningHash, StateDigest};
use quicksilver_protocol::{
    ByeReason, Deadlines, Decoder, FetchAction, FetchEnd, FetchSession, Message, Millis, Offer,
    Offered, Partial, Refusal, Refused,
};

use super::{End, message, no_frame, said, session_is_told};
use crate::input::Input;
use crate::model::{DB, HISTORY, Log, node};

/// Blocks of these bytes.
const BLOCKS: [&[u8]; 3] = [b"one", b"two", b"three"];

pub(super) fn manifest() -> Manifest {
    let position = Log::of(&[2, 3]).end();
    let entry =
        |block: &[u8]| BlockEntry { bytes: block.len() as u32, hash: SnapshotHash::of(block) };
    Manifest {
        database_format: 1,
        page_bytes: 4096,
        identity: Identity { db_id: DB, history: HISTORY },
        start: position,
        end: Applied { position, digest: StateDigest::EMPTY, keys: 0, bytes: 0 },
        sealed_at_us: 0,
        created_us: 0,
        sections: [BLOCKS.len() as u32, 0, 0],
        blocks: BLOCKS.map(entry).to_vec(),
    }
}

pub(super) fn offered() -> Offered {
    let manifest = Bytes::from(manifest().encode());
    let (decoded, identity) = Manifest::decode(&manifest).expect("it was just made");
    Offered { identity, manifest, blocks: decoded.blocks.len() as u32 }
}

pub(super) struct Fetcher {
    session: FetchSession,
    own: Position,
    oldest: Index,
    asked: bool,
    offered: Offered,
    /// What is received, and the first block that is missing.
    begun: Option<(Manifest, u32)>,
    ended: bool,
}

impl Fetcher {
    pub(super) fn new(choice: u8) -> Self {
        let (offered, end) = (offered(), manifest().end.position);
        let index = Index::new(u64::from(choice & 7));
        let same_past = index == end.index && choice & 64 == 0;
        let own = match same_past {
            true => end,
            false => Position { index, hash: RunningHash::from_bytes([7; 32]) },
        };
        let oldest = Index::new(if choice & 128 == 0 { 1 } else { 7 });
        let next_block = u32::from(choice >> 4 & 3);
        let partial = (choice & 8 != 0).then(|| Partial {
            identity: offered.identity,
            manifest: manifest(),
            next_block,
        });
        let begun = partial.as_ref().map(|p| (p.manifest.clone(), p.next_block));
        let (deadlines, now) = (Deadlines::default(), Millis::new(1_000));
        let session = FetchSession::new(node("leaf", 9), own, oldest, partial, deadlines, now);
        Fetcher { session, own, oldest, asked: false, offered, begun, ended: false }
    }
}

impl End for Fetcher {
    fn tell(&mut self, what: u8, now: Millis, input: &mut Input<'_>) {
        let identity = self.offered.identity;
        match what % 16 {
            0..=2 => {
                let manifest = Some(self.offered.manifest.clone());
                let offer = Offer { version: 1, identity, first_block: 0, manifest };
                message(self, now, Message::Offer(offer));
            }
            3 | 4 => {
                let first_block = u32::from(input.byte() % 4);
                let offer = Offer { version: 1, identity, first_block, manifest: None };
                message(self, now, Message::Offer(offer));
            }
            5..=9 => {
                let next = self.begun.as_ref().map_or(0, |(_, next)| *next);
                let block = BLOCKS.get(next as usize).copied().unwrap_or_default();
                let bytes = Bytes::from_static(block);
                message(self, now, Message::Block { number: next, bytes });
            }
            10 => {
                let bytes = Bytes::copy_from_slice(input.piece());
                message(self, now, Message::Block { number: input.byte().into(), bytes });
            }
            11 => {
                let refusal = Refusal::Busy { retry_after_ms: 5 };
                let refused = Refused { refusal, explanation: "so".to_owned() };
                message(self, now, Message::Refused(refused));
            }
            12 => message(self, now, Message::Ping),
            13 => self.session.leave(now, ByeReason::Leaving),
            14 => self.session.frame_error(now, &no_frame()),
            _ => self.session.disconnected("cut"),
        }
    }

    fn act(&mut self, _: Millis) -> Option<bool> {
        match self.session.poll()? {
            FetchAction::Send(frame) => match said(&Decoder::of_follower_bytes(), &frame) {
                Message::Fetch(fetch) => {
                    assert!(!self.asked && fetch.at_least >= self.own.index);
                    assert!(fetch.at_least.next() >= self.oldest);
                    self.asked = true;
                }
                Message::Ping => assert!(self.asked),
                Message::Bye(_) => self.ended = true,
                other => panic!("it said {other:?}"),
            },
            FetchAction::Begin { identity, encoded, manifest } => {
                assert!(self.asked && !self.ended);
                assert_eq!(Manifest::decode(&encoded), Ok(((*manifest).clone(), identity)));
                assert_eq!(manifest.identity.db_id, DB);
                let end = manifest.end.position;
                assert!(end.index > self.own.index || end == self.own);
                assert!(end.index.next() >= self.oldest);
                self.begun = Some((*manifest, 0));
            }
            FetchAction::Block { number, bytes } => {
                assert!(!self.ended);
                let (manifest, next) = self.begun.as_mut().expect("a block of what was begun");
                assert_eq!(number, *next);
                let entry = &manifest.blocks[number as usize];
                assert_eq!(entry.hash, SnapshotHash::of(&bytes));
                assert_eq!(entry.bytes as usize, bytes.len());
                *next += 1;
            }
            FetchAction::Close(end) => {
                assert!(!end.to_string().is_empty());
                if end == FetchEnd::Complete {
                    let (manifest, next) = self.begun.as_ref().expect("all of something");
                    assert_eq!(*next as usize, manifest.blocks.len());
                }
                return Some(true);
            }
        }
        Some(false)
    }

    session_is_told!();
}
