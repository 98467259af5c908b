//! The follower's end.

use quicksilver_format::{Index, Position, RunningHash};
use quicksilver_protocol::follower::FollowOptions;
use quicksilver_protocol::message::PATH_MAX_HOPS;
use quicksilver_protocol::{
    ByeReason, Deadlines, Decoder, FollowerAction, FollowerSession, Lineage, LocalNode, Message,
    Millis, Start, Welcome,
};

use super::{End, message, no_frame, said, session_is_told};
use crate::input::Input;
use crate::model::{DB, HISTORY, Log, batch, hop, node};

pub(super) struct Follower {
    session: FollowerSession,
    me: LocalNode,
    log: Log,
    /// Where the next batch begins; `None` before an observer's first.
    at: Option<Position>,
    said_hello: bool,
    welcomed: bool,
}

impl Follower {
    pub(super) fn new(choice: u8) -> Self {
        let log = Log::of(&[2, 3]);
        let me = LocalNode { history: (choice & 4 != 0).then_some(HISTORY), ..node("leaf", 9) };
        let start = match choice & 3 {
            0 => Start::Newest,
            1 => Start::After(Position::genesis(DB)),
            _ => Start::After(log.end()),
        };
        let options = FollowOptions {
            start,
            stop: (choice & 8 != 0).then_some(Index::new(u64::from(choice >> 4))),
            path: vec![hop("leaf", 9)],
            deadlines: Deadlines::default(),
        };
        let at = match start {
            Start::After(position) => Some(position),
            Start::Newest => None,
        };
        let session = FollowerSession::new(me.clone(), options, Millis::new(1_000));
        Follower { session, me, log, at, said_hello: false, welcomed: false }
    }

    /// A source's answer that is right in every respect.
    fn welcome(&self) -> Welcome {
        let source = node("relay", 2);
        Welcome {
            version: 1,
            db_id: DB,
            history: HISTORY,
            node_id: source.node_id.clone(),
            site: source.site.clone(),
            process_id: source.process_id,
            lineage: self.lineage(),
            position: self.log.end(),
            oldest: Index::FIRST,
            heartbeat: None,
        }
    }

    fn lineage(&self) -> Lineage {
        Lineage {
            path: vec![hop("root", 1), hop("relay", 2)],
            connected_to_root: true,
            root_client: "root:6379".to_owned(),
        }
    }
}

impl End for Follower {
    fn tell(&mut self, what: u8, now: Millis, input: &mut Input<'_>) {
        match what % 16 {
            0..=4 => message(self, now, Message::Welcome(Box::new(self.welcome()))),
            5..=8 => {
                let (entries, salt) = (1 + usize::from(input.byte() % 8), input.byte() % 4);
                let before = self.at.unwrap_or(Position::genesis(DB));
                let next = batch(before, entries, u64::from(salt));
                message(self, now, Message::Batch(next.record().clone()));
            }
            // A whole batch, of another past, or not the next one.
            9 => {
                let at = self.at.unwrap_or(Position::genesis(DB));
                let hash = match input.byte() % 4 {
                    0 => at.hash,
                    other => RunningHash::from_bytes([other; 32]),
                };
                let index = at.index.plus(u64::from(input.byte() % 4));
                let other = batch(Position { index, hash }, 2, 0);
                message(self, now, Message::Batch(other.record().clone()));
            }
            10 => message(self, now, Message::PathUpdate(self.lineage())),
            11 => self.session.committed(now, Index::new(input.byte().into())),
            12 => self.session.not_reading(now),
            13 => self.session.leave(ByeReason::Leaving),
            14 => self.session.frame_error(no_frame()),
            _ => self.session.disconnected("cut"),
        }
    }

    fn act(&mut self, _: Millis) -> Option<bool> {
        match self.session.poll()? {
            FollowerAction::Send(frame) => match said(&Decoder::of_follower_bytes(), &frame) {
                Message::Hello(hello) => {
                    assert!(!self.said_hello && hello.node == self.me);
                    self.said_hello = true;
                }
                Message::Applied(_) => assert!(self.welcomed, "Applied before the Welcome"),
                Message::Bye(_) => assert!(self.session.has_ended(), "Bye, and it goes on"),
                other => panic!("it said {other:?}"),
            },
            FollowerAction::Welcomed(welcome) => {
                assert!(self.said_hello && !self.welcomed);
                assert_eq!(welcome.db_id, DB);
                assert_ne!(welcome.process_id, self.me.process_id);
                self.welcomed = true;
            }
            FollowerAction::AdoptHistory(history) => {
                assert!(self.welcomed && self.me.history != Some(history));
            }
            FollowerAction::Path(lineage) => {
                assert!(self.welcomed && self.me.position_on(&lineage.path).is_none());
                assert!((1..PATH_MAX_HOPS).contains(&lineage.path.len()));
            }
            FollowerAction::Deliver(batch) => {
                assert!(self.welcomed, "a batch before the Welcome");
                assert!(self.at.is_none_or(|at| batch.continues(&at)), "a hole");
                self.at = Some(batch.after());
                assert_eq!(self.session.expected(), self.at);
            }
            FollowerAction::DeliverControl(_) | FollowerAction::Quota(_) => assert!(self.welcomed),
            FollowerAction::Close(end) => {
                assert!(self.session.has_ended() && !end.to_string().is_empty());
                let _ = end.decision();
                let own = self.log.fact(Index::new(3));
                let _ = end.judged_by_own_log(own).to_string();
                return Some(true);
            }
        }
        Some(false)
    }

    session_is_told!();
}
