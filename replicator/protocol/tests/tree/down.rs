//! The connections that a node has accepted: followers (as `serve.rs` serves them) and those who fetch
//! a snapshot (as `transfer.rs` does).

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use quicksilver_format::{HistoryId, Index};
use quicksilver_protocol::recent::{Cursor, Epoch, Item, Read, RecentFact, inside};
use quicksilver_protocol::{
    BatchFrame, ByeReason, Kind, Lineage, LocalNode, LogFact, Millis, OfferAction, OfferSession,
    SourceAction, SourceEnd, SourceSession, SourceState, Start,
};
use rand::Rng;

use crate::disk::{Disk, Snapshot};
use crate::net::{Came, ConnectionNumber, End, Net};
use crate::node::{DEADLINES, Process};
use crate::plan::{Bug, Place};

const ME: End = End::Acceptor;
/// Batches that are read from the log at once.
const LOG_READ_BATCHES: usize = 3;
/// When whoever wants a snapshot that is being made asks again.
const RETRY_MS: u64 = 500;

/// Where the next batch comes from.
#[derive(Debug)]
enum From {
    Log(VecDeque<Bytes>),
    Feed(Cursor),
}

/// A follower.
#[derive(Debug)]
pub struct Serving {
    pub session: SourceSession,
    from: From,
    promised: Option<(Epoch, HistoryId)>,
    /// Whether its first frame has come.
    known: bool,
    /// Whether it has a place among the downstreams.
    has_place: bool,
}

impl Serving {
    pub fn new(me: &LocalNode, lineage: Lineage, now: Millis) -> Self {
        Serving {
            session: SourceSession::new(me.clone(), lineage, DEADLINES, now),
            from: From::Log(VecDeque::new()),
            promised: None,
            known: false,
            has_place: false,
        }
    }
}

/// One who fetches a snapshot.
#[derive(Debug)]
pub struct Offering {
    pub session: OfferSession,
    served: Option<Rc<Snapshot>>,
}

impl Process {
    pub fn serve(&mut self, disk: &mut Disk, place: &Place, net: &mut Net) -> bool {
        let mut busy = false;
        let numbers: Vec<ConnectionNumber> = self.serving.keys().copied().collect();
        for number in numbers {
            let Some(mut serving) = self.serving.remove(&number) else { continue };
            if !serving.known && begins_with_fetch(number, net) {
                let session = OfferSession::new(self.me.clone(), DEADLINES, net.now);
                self.offering.insert(number, Offering { session, served: None });
                busy = true;
                continue;
            }
            match self.serve_one(number, &mut serving, disk, place, net) {
                None => {
                    net.close(number, ME);
                    busy = true;
                }
                Some(did) => {
                    busy |= did;
                    self.serving.insert(number, serving);
                }
            }
        }
        let numbers: Vec<ConnectionNumber> = self.offering.keys().copied().collect();
        for number in numbers {
            let Some(mut offering) = self.offering.remove(&number) else { continue };
            match self.offer_one(number, &mut offering, disk, net) {
                None => net.close(number, ME),
                Some(did) => {
                    busy |= did;
                    self.offering.insert(number, offering);
                }
            }
        }
        busy
    }

    /// `None` when it has ended.
    fn serve_one(
        &mut self,
        number: ConnectionNumber,
        serving: &mut Serving,
        disk: &Disk,
        place: &Place,
        net: &mut Net,
    ) -> Option<bool> {
        let now = net.now;
        let mut busy = false;
        while !serving.session.has_ended() {
            match net.take(number, ME) {
                Came::Frame(frame) => serving.session.frame(now, &frame),
                Came::Damage(e) => serving.session.frame_error(now, &e),
                Came::Ended(how) => serving.session.disconnected(how),
                Came::Nothing => break,
            }
            busy = true;
        }
        if serving.session.next_deadline() <= now {
            serving.session.tick(now);
        }
        if serving.promised.is_some_and(|promised| promised != self.promise(disk)) {
            serving.session.close(now, ByeReason::Reset);
        }
        if net.plan.bug != Some(Bug::HidesItsPath) {
            serving.session.path_changed(self.lineage.clone());
        }
        loop {
            if !net.is_flushed(number, ME) && !serving.session.has_ended() {
                return Some(busy);
            }
            while let Some(action) = serving.session.poll(now) {
                busy = true;
                match action {
                    SourceAction::Send(frame) => net.send(number, ME, &frame),
                    SourceAction::LookUp(start) => self.look_up(serving, start, disk, place, net),
                    SourceAction::Stream { .. } => {}
                    SourceAction::Close(end) => {
                        meet_end(&end, net);
                        return None;
                    }
                }
            }
            if !serving.session.wants_item() || !self.next_item(serving, disk, net) {
                return Some(busy);
            }
            busy = true;
        }
    }

    fn look_up(
        &self,
        serving: &mut Serving,
        start: Start,
        disk: &Disk,
        place: &Place,
        net: &mut Net,
    ) {
        serving.known = true;
        if !serving.session.only_asks() {
            let taken = self.serving.values().filter(|other| other.has_place).count();
            if taken >= place.max_downstreams {
                net.record.meet("a node had as many downstreams as it takes");
                return serving.session.refuse_busy(net.now, 1_000);
            }
            serving.has_place = true;
        }
        let recent = self.recent.state();
        let fact = match start {
            Start::Newest => LogFact::Boundary(recent.end.hash),
            Start::After(position) if net.plan.bug == Some(Bug::JudgesNobody) => {
                LogFact::Boundary(position.hash)
            }
            Start::After(position) => match self.recent.fact(position.index) {
                RecentFact::Known(fact) => fact,
                RecentFact::Inside(frame) => {
                    inside(&frame, position.index).unwrap_or(LogFact::Beyond)
                }
                RecentFact::AskLog => disk.log.fact(position.index),
            },
        };
        serving.promised = Some(self.promise(disk));
        let state = SourceState {
            history: disk.history,
            position: recent.end,
            oldest: disk.log.oldest(),
            heartbeat: recent.heartbeat,
        };
        serving.session.looked_up(net.now, state, fact);
    }

    /// False when there is none.
    fn next_item(&mut self, serving: &mut Serving, disk: &Disk, net: &mut Net) -> bool {
        let now = net.now;
        let Some(position) = serving.session.position() else { return false };
        match &mut serving.from {
            From::Feed(cursor) => match self.recent.read(*cursor) {
                Read::Item(item, next) => {
                    *cursor = next;
                    match item {
                        Item::Batch(frame) => serving.session.offer_batch(now, &frame),
                        Item::Control(record) => serving.session.offer_control(now, &record),
                    }
                }
                Read::Empty => return false,
                Read::Evicted => {
                    net.record.meet("a follower fell back from the feed to the log");
                    serving.from = From::Log(VecDeque::new());
                }
                Read::Reset => serving.session.close(now, ByeReason::Reset),
            },
            From::Log(ahead) => {
                if let Some(record) = ahead.pop_front() {
                    let record = rotten(record, net);
                    let Ok(frame) = BatchFrame::from_record(record) else {
                        serving.session.close(now, ByeReason::Reset);
                        return true;
                    };
                    serving.session.offer_batch(now, &frame);
                } else if let Some(joined) = self.recent.join(&position) {
                    serving.from = From::Feed(joined.cursor);
                    if let Some(heartbeat) = joined.heartbeat {
                        serving.session.offer_control(now, &heartbeat.to_record());
                    }
                } else if disk.log.oldest() > position.index.next() {
                    net.record.meet("the log was collected under a follower");
                    serving.session.close(now, ByeReason::TooSlow);
                } else {
                    let records = disk.log.read(position.index, LOG_READ_BATCHES);
                    if records.is_empty() {
                        return false;
                    }
                    serving.from = From::Log(records.into());
                }
            }
        }
        true
    }

    fn offer_one(
        &mut self,
        number: ConnectionNumber,
        offering: &mut Offering,
        disk: &Disk,
        net: &mut Net,
    ) -> Option<bool> {
        let now = net.now;
        let mut busy = false;
        loop {
            while let Some(action) = offering.session.poll() {
                busy = true;
                match action {
                    OfferAction::Send(frame) => net.send(number, ME, &frame),
                    OfferAction::LookUp { at_least } => match self.find(at_least, disk, net) {
                        Ok(found) => {
                            offering.session.found(now, &found.offered());
                            offering.served = Some(found);
                        }
                        Err(why) => offering.session.busy(RETRY_MS, why.to_owned()),
                    },
                    OfferAction::Close(_) => return None,
                }
            }
            let wanted = offering.session.wants_block().filter(|_| net.is_flushed(number, ME));
            match (net.take(number, ME), wanted, &offering.served) {
                (Came::Frame(frame), ..) => offering.session.frame(now, &frame),
                (Came::Damage(e), ..) => offering.session.frame_error(&e),
                (Came::Ended(how), ..) => offering.session.disconnected(how),
                (Came::Nothing, ..) if offering.session.next_deadline() <= now => {
                    offering.session.tick(now);
                }
                (Came::Nothing, Some(wanted), Some(served)) => {
                    let block = served.blocks[wanted as usize].clone();
                    offering.session.block(rotten(block, net));
                }
                (Came::Nothing, ..) => return Some(busy),
            }
            busy = true;
        }
    }

    fn find(
        &mut self,
        at_least: Index,
        disk: &Disk,
        net: &mut Net,
    ) -> Result<Rc<Snapshot>, &'static str> {
        if disk.end().index < at_least {
            return Err("it is behind itself");
        }
        let usable = disk.offered.clone().filter(|snapshot| {
            let end = snapshot.end().index;
            end >= at_least && end.next() >= disk.log.oldest() && end <= disk.end().index
        });
        match usable {
            Some(snapshot) => {
                self.asked = Some(net.now);
                Ok(snapshot)
            }
            None => {
                if self.making.is_none() {
                    let (least, most) = crate::node::MAKING_MS;
                    self.making = Some(net.now.plus_ms(net.within(least..most)));
                }
                Err("it makes a snapshot")
            }
        }
    }
}

/// What a disk gives back; now and then it is not what was written.
fn rotten(stored: Bytes, net: &mut Net) -> Bytes {
    if !net.faulty || !net.chance(net.plan.damage) {
        return stored;
    }
    net.record.meet("what was stored was damaged");
    let mut bytes = stored.to_vec();
    let (at, bit) = (net.rng.random_range(0..bytes.len()), net.rng.random_range(0..8));
    bytes[at] ^= 1 << bit;
    bytes.into()
}

fn begins_with_fetch(number: ConnectionNumber, net: &Net) -> bool {
    net.kind_of_next(number, ME) == Some(Kind::Fetch as u8)
}

fn meet_end(end: &SourceEnd, net: &mut Net) {
    net.record.tell(|| format!("        a downstream's session ended: {end}"));
    let what = match end {
        SourceEnd::Silent(_) => "a source gave up a silent follower",
        SourceEnd::HandshakeTimeout(_) => "a follower never said Hello",
        SourceEnd::NotNext { .. } => "a log changed under a session",
        _ => return,
    };
    net.record.meet(what);
}
