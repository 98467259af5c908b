//! The source's end of a session.

use bytes::Bytes;
use quicksilver_format::batch::BatchHeader;
use quicksilver_format::{ControlRecord, Heartbeat, Index, Position};
use quicksilver_protocol::{
    BatchFrame, ByeReason, Deadlines, Decoder, Hello, Lineage, LogFact, Message, Millis, Quota,
    SourceAction, SourceSession, SourceState, Start, VersionRange,
};

use super::{End, message, no_frame, said, session_is_told};
use crate::input::Input;
use crate::model::{DB, HISTORY, Log, batch, hop, node};

pub(super) struct Source {
    session: SourceSession,
    log: Log,
    asked: Option<Start>,
    /// Whether it was told what its log knows.
    answered: bool,
    welcomed: bool,
    refused: bool,
    /// The end of what was sent.
    at: Option<Position>,
}

fn lineage() -> Lineage {
    Lineage {
        path: vec![hop("root", 1), hop("relay", 2)],
        connected_to_root: true,
        root_client: "root:6379".to_owned(),
    }
}

impl Source {
    pub(super) fn new(choice: u8) -> Self {
        let (me, now) = (node("relay", 2), Millis::new(1_000));
        let mut session = SourceSession::new(me, lineage(), Deadlines::default(), now);
        if choice & 1 != 0 {
            session.quota_changed(Some(Quota { max_db_bytes: 1 << 30 }));
        }
        let mut log = Log::of(&[2, 3, 1, 4]);
        log.collected = usize::from(choice >> 1 & 3);
        let (answered, welcomed, refused) = (false, false, false);
        Source { session, log, asked: None, answered, welcomed, refused, at: None }
    }

    fn look_up(&mut self, now: Millis, what: u8) {
        let (position, oldest) = (self.log.end(), self.log.oldest());
        let heartbeat = (what & 1 != 0).then_some(Heartbeat { root_clock_us: 5, after: oldest });
        let fact = match self.asked {
            Some(Start::After(theirs)) => self.log.fact(theirs.index),
            _ => LogFact::Beyond,
        };
        let state = SourceState { history: HISTORY, position, oldest, heartbeat };
        self.answered |= self.asked.is_some();
        self.session.looked_up(now, state, fact);
    }

    /// The batch that follows in its log or, at its end, a new one.
    fn next(&self, entries: usize) -> Option<BatchFrame> {
        let position = self.session.position()?;
        let next = match self.log.after(&position) {
            Some(next) => next.clone(),
            None => batch(position, entries, 0),
        };
        Some(BatchFrame::from_batch(&next))
    }
}

impl End for Source {
    fn tell(&mut self, what: u8, now: Millis, input: &mut Input<'_>) {
        match what % 16 {
            0 | 1 => {
                let start = match input.byte() % 8 {
                    0 => Start::Newest,
                    1 => Start::After(Position::genesis(DB)),
                    n => Start::After(self.log.batches[usize::from(n) % 4].after()),
                };
                let stop = Some(Index::new(input.byte().into())).filter(|stop| stop.get() < 32);
                let versions = VersionRange::OURS;
                let path = vec![hop("leaf", 9)];
                let hello = Hello { versions, node: node("leaf", 9), path, start, stop };
                message(self, now, Message::Hello(hello));
            }
            2 | 3 => self.look_up(now, what),
            4..=6 if self.session.wants_item() => {
                if let Some(next) = self.next(1 + usize::from(input.byte() % 8)) {
                    self.session.offer_batch(now, &next);
                }
            }
            7 => {
                let record = Bytes::copy_from_slice(input.piece());
                if let Ok(any) = BatchFrame::from_record(record)
                    && self.session.wants_item()
                {
                    self.session.offer_batch(now, &any);
                }
            }
            8 if self.session.wants_item() => {
                let payload = Bytes::copy_from_slice(input.piece());
                let record = ControlRecord { kind: input.byte().into(), version: 1, payload };
                self.session.offer_control(now, &record);
            }
            9 => {
                let connected_to_root = input.byte() & 1 != 0;
                self.session.path_changed(Lineage { connected_to_root, ..lineage() });
            }
            10 => {
                let max_db_bytes = input.byte().into();
                self.session.quota_changed((max_db_bytes != 0).then_some(Quota { max_db_bytes }));
            }
            11 => message(self, now, Message::Applied(Index::new(input.byte().into()))),
            12 => self.session.refuse_busy(now, 2_000),
            13 => self.session.close(now, ByeReason::Restarting),
            14 => self.session.frame_error(now, &no_frame()),
            15 => self.session.disconnected("cut"),
            _ => {}
        }
    }

    fn act(&mut self, now: Millis) -> Option<bool> {
        match self.session.poll(now)? {
            SourceAction::LookUp(start) => {
                assert!(self.asked.is_none() && self.session.follower().is_some());
                self.asked = Some(start);
            }
            SourceAction::Send(frame) => match said(&Decoder::of_source_bytes(), &frame) {
                Message::Welcome(_) => {
                    assert!(self.answered && !self.welcomed && !self.refused);
                    self.welcomed = true;
                }
                Message::Refused(_) => {
                    assert!(!self.refused && self.session.has_ended());
                    self.refused = true;
                }
                Message::Batch(record) => {
                    let header = BatchHeader::decode(&record).expect("its header was looked at");
                    assert_eq!(Some(header.before()), self.at, "a hole");
                    self.at = Some(header.after());
                }
                Message::Bye(_) => assert!(self.session.has_ended(), "Bye, and it goes on"),
                Message::Ping
                | Message::Control(_)
                | Message::PathUpdate(_)
                | Message::Quota(_) => assert!(self.at.is_some(), "news before the stream"),
                other => panic!("it said {other:?}"),
            },
            SourceAction::Stream { after } => {
                assert!(self.welcomed && self.at.is_none());
                self.at = Some(after);
            }
            SourceAction::Close(end) => {
                assert!(self.session.has_ended() && !end.to_string().is_empty());
                return Some(true);
            }
        }
        if let Some(position) = self.session.position() {
            assert!(self.session.applied() <= position.index, "more than it was sent");
        }
        Some(false)
    }

    session_is_told!();
}
