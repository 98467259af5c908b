//! The connection to whom a node follows, and what it does when it has none: as `follow.rs`, `ask.rs`
//! and `transfer.rs` do.

use bytes::BytesMut;
use quicksilver_format::Index;
use quicksilver_format::{Heartbeat, Position};
use quicksilver_protocol::follower::FollowOptions;
use quicksilver_protocol::recent::Epoch;
use quicksilver_protocol::tenure::{Answer, Verdict};
use quicksilver_protocol::{
    ByeReason, Decision, Decoded, Decoder, EncodedFrame, EndCause, FetchAction, FetchEnd,
    FetchSession, FollowerAction, FollowerSession, Lineage, Message, Millis, Next, SessionEnd,
    Start, Tenure, UpstreamSlot, Welcome,
};

use crate::disk::Disk;
use crate::net::{Came, ConnectionNumber, Dialled, End, Net, NodeNumber};
use crate::node::{Command, DEADLINES, Process};
use crate::plan::{Bug, Place};
use crate::record::{LEFT_PAST, Moved};

const ME: End = End::Dialler;
const NEVER: Millis = Millis::new(u64::MAX);
/// Between two rounds of a node that fetches a snapshot.
const FETCH_RETRY_MS: u64 = 500;
/// When all upstreams asked to be patient for so long, it looks again who has the log.
const FETCH_LOOK_AGAIN_MS: u64 = 10_000;

/// What a node does about its upstream.
#[derive(Debug)]
pub enum Up {
    /// Decides.
    Next,
    /// Waits before it dials.
    Waiting(UpstreamSlot, Millis),
    /// Waits for an answer that does not come.
    Dialling(Millis),
    Following(Box<Following>),
    Fetching(Box<Fetching>),
    /// A root.
    Idle,
}

/// A session.
#[derive(Debug)]
pub struct Following {
    number: ConnectionNumber,
    slot: UpstreamSlot,
    session: FollowerSession,
    epoch: Epoch,
    since: Option<Millis>,
    tenure: Option<Tenure>,
    asking: Option<Asking>,
    verdict: Verdict,
}

/// A question to another upstream.
#[derive(Debug)]
struct Asking {
    number: ConnectionNumber,
    slot: UpstreamSlot,
    session: FollowerSession,
}

/// A snapshot that is wanted.
#[derive(Debug)]
pub struct Fetching {
    /// Whose log reaches back furthest.
    first: UpstreamSlot,
    /// Who is connected to the root.
    connected: Vec<UpstreamSlot>,
    order: Vec<NodeNumber>,
    /// Where the longest log of theirs begins.
    oldest: Index,
    at: usize,
    again: bool,
    wait_ms: u64,
    /// When something last came.
    progressed: Millis,
    /// Who has sent blocks of it.
    sender: Option<NodeNumber>,
    state: Fetch,
}

#[derive(Debug)]
enum Fetch {
    /// Hears who is connected to the root.
    Asking(Vec<Asking>),
    Waiting(Millis),
    Dialling(Millis),
    Receiving {
        number: ConnectionNumber,
        session: Box<FetchSession>,
        progress: bool,
    },
    /// Everything is here; what was received before has to be committed first.
    Complete,
}

impl Up {
    /// Whether batches come in.
    pub fn following(&self) -> bool {
        matches!(self, Up::Following(following) if following.since.is_some())
    }

    /// Whom it follows.
    pub fn slot(&self) -> Option<UpstreamSlot> {
        match self {
            Up::Following(following) if following.since.is_some() => Some(following.slot),
            _ => None,
        }
    }

    pub fn next_deadline(&self) -> Millis {
        match self {
            Up::Next => Millis::ZERO,
            Up::Waiting(_, at) | Up::Dialling(at) => *at,
            Up::Following(following) => {
                let mut at = following.session.next_deadline();
                match (&following.asking, &following.tenure) {
                    (Some(asking), _) => at = at.min(asking.session.next_deadline()),
                    (None, Some(tenure)) => at = at.min(tenure.next_deadline()),
                    (None, None) => {}
                }
                at
            }
            Up::Fetching(fetching) => match &fetching.state {
                Fetch::Asking(asking) => {
                    let deadlines = asking.iter().map(|asking| asking.session.next_deadline());
                    deadlines.min().unwrap_or(Millis::ZERO)
                }
                Fetch::Waiting(at) | Fetch::Dialling(at) => *at,
                Fetch::Receiving { session, .. } => session.next_deadline(),
                Fetch::Complete => NEVER,
            },
            Up::Idle => NEVER,
        }
    }

    /// The configuration has changed: whatever it was, it ends.
    pub fn abandon(self, net: &mut Net) {
        match self {
            Up::Following(following) => {
                net.close(following.number, ME);
                if let Some(asking) = following.asking {
                    net.close(asking.number, ME);
                }
            }
            Up::Fetching(fetching) => match fetching.state {
                Fetch::Asking(asking) => {
                    asking.iter().for_each(|asking| net.close(asking.number, ME));
                }
                Fetch::Receiving { number, .. } => net.close(number, ME),
                _ => {}
            },
            _ => {}
        }
    }
}

impl Process {
    pub fn follow(
        &mut self,
        disk: &mut Disk,
        place: &Place,
        node: NodeNumber,
        alarm: &mut Option<NodeNumber>,
        net: &mut Net,
    ) -> bool {
        match std::mem::replace(&mut self.up, Up::Next) {
            Up::Next => {
                self.up = self.decide(place, node, net);
                !matches!(self.up, Up::Idle)
            }
            Up::Waiting(slot, at) if at <= net.now => {
                self.up = self.dial(slot, place, node, net);
                true
            }
            Up::Dialling(at) if at <= net.now => {
                self.chooser.ended(&SessionEnd::never_connected("no answer"), 0);
                true
            }
            Up::Following(mut following) => {
                let did = self.drive(&mut following, disk, place, node, alarm, net);
                match did {
                    Ok(did) => {
                        self.up = Up::Following(following);
                        did
                    }
                    Err(end) => {
                        self.ended(*following, end, disk, place, alarm, net);
                        true
                    }
                }
            }
            Up::Fetching(mut fetching) => {
                let (did, done) = self.fetch(&mut fetching, disk, place, node, net);
                if !done {
                    self.up = Up::Fetching(fetching);
                }
                did || done
            }
            waiting => {
                self.up = waiting;
                false
            }
        }
    }

    fn decide(&mut self, place: &Place, node: NodeNumber, net: &mut Net) -> Up {
        match self.chooser.next(&mut net.rng) {
            Next::Dial { slot, after_ms } => Up::Waiting(slot, net.now.plus_ms(after_ms)),
            Next::Snapshot { slot, oldest } => {
                net.record.meet("no upstream had the log");
                let mut asking = Vec::new();
                for (n, upstream) in place.upstreams.iter().enumerate() {
                    if let Dialled::Connected(number) = net.dial(node, *upstream) {
                        let session = self.session(Start::Newest, Some(Index::ZERO), net.now);
                        asking.push(Asking { number, slot: UpstreamSlot(n), session });
                    }
                }
                Up::Fetching(Box::new(Fetching {
                    first: slot,
                    connected: Vec::new(),
                    order: Vec::new(),
                    oldest,
                    at: 0,
                    again: false,
                    wait_ms: FETCH_RETRY_MS,
                    progressed: net.now,
                    sender: None,
                    state: Fetch::Asking(asking),
                }))
            }
            Next::Done => panic!("no stop was asked for"),
            Next::Nothing => Up::Idle,
        }
    }

    fn dial(&mut self, slot: UpstreamSlot, place: &Place, node: NodeNumber, net: &mut Net) -> Up {
        let number = match net.dial(node, place.upstreams[slot.0]) {
            Dialled::Connected(number) => number,
            Dialled::Silence => return Up::Dialling(net.now.plus_ms(DEADLINES.handshake_ms)),
            Dialled::Refused => {
                self.chooser.ended(&SessionEnd::never_connected("refused"), 0);
                return Up::Next;
            }
        };
        let session = self.session(Start::After(self.end()), None, net.now);
        Up::Following(Box::new(Following {
            number,
            slot,
            session,
            epoch: self.recent.state().epoch,
            since: None,
            tenure: None,
            asking: None,
            verdict: Verdict::Stay,
        }))
    }

    fn session(&self, start: Start, stop: Option<Index>, now: Millis) -> FollowerSession {
        let options =
            FollowOptions { start, stop, path: self.lineage.path.clone(), deadlines: DEADLINES };
        FollowerSession::new(self.me.clone(), options, now)
    }

    /// Drives a session until there is nothing to do; its end, when that is it.
    fn drive(
        &mut self,
        following: &mut Following,
        disk: &Disk,
        place: &Place,
        node: NodeNumber,
        alarm: &mut Option<NodeNumber>,
        net: &mut Net,
    ) -> Result<bool, SessionEnd> {
        let mut busy = self.ask(following, disk, place, node, alarm, net);
        loop {
            let now = net.now;
            let state = self.recent.state();
            if state.epoch != following.epoch {
                following.session.leave(ByeReason::Reset);
            }
            if net.is_flushed(following.number, ME) {
                let early = net.plan.bug == Some(Bug::ReportsBeforeCommit);
                let index = if early { state.end.index } else { state.committed.index };
                following.session.committed(now, index);
            }
            while let Some(action) = following.session.poll() {
                busy = true;
                if let FollowerAction::Close(end) = action {
                    return Err(end);
                }
                self.act(following, action, place, node, net);
            }
            if !self.recent.has_room() {
                net.record.meet("forwarding stopped because the commit lagged");
                following.session.not_reading(now);
                if let Some(tenure) = &mut following.tenure {
                    tenure.not_reading(now, &mut net.rng);
                }
                break;
            }
            let new_bytes = net.new_bytes(following.number, ME);
            if let (Some(tenure), 1..) = (&mut following.tenure, new_bytes) {
                tenure.bytes(now, new_bytes, &mut net.rng);
            }
            if !read_frame(following.number, &mut following.session, new_bytes, net) {
                break;
            }
            busy = true;
        }
        if following.session.next_deadline() <= net.now {
            following.session.tick(net.now);
            busy = true;
        }
        Ok(busy)
    }

    fn act(
        &mut self,
        following: &mut Following,
        action: FollowerAction,
        place: &Place,
        node: NodeNumber,
        net: &mut Net,
    ) {
        let now = net.now;
        let pushed = match action {
            FollowerAction::Send(frame) => {
                if let Some(index) = reported(&frame) {
                    net.record.reported(node, index);
                }
                net.send(following.number, ME, &frame);
                Ok(())
            }
            FollowerAction::Welcomed(welcome) => {
                if following.slot.0 >= place.primaries {
                    net.record.meet("a secondary was followed");
                }
                following.since = Some(now);
                following.tenure = Some(Tenure::new(
                    following.slot,
                    place.upstreams.len(),
                    welcome.heartbeat,
                    DEADLINES,
                    now,
                    &mut net.rng,
                ));
                Ok(())
            }
            FollowerAction::AdoptHistory(history) => {
                self.queue.push_back(Command::AdoptHistory(history));
                Ok(())
            }
            FollowerAction::Path(path) => {
                let me = self.me.hop();
                assert!(!path.path.contains(&me), "node {me:?} hangs below itself: {path}");
                self.lineage = path.extended_to(&self.me);
                Ok(())
            }
            FollowerAction::Quota(_) => Ok(()),
            FollowerAction::Deliver(batch) => {
                if let Some(tenure) = &mut following.tenure {
                    tenure.batch(now, &mut net.rng);
                }
                let pushed = self.recent.push_batch(following.epoch, &batch);
                if pushed.is_ok() {
                    self.queue.push_back(Command::Apply(batch));
                }
                pushed
            }
            FollowerAction::DeliverControl(record) => {
                let heartbeat = Heartbeat::from_record(&record).ok().flatten();
                if let (Some(tenure), Some(heartbeat)) = (&mut following.tenure, heartbeat) {
                    tenure.heartbeat(now, heartbeat, &mut net.rng);
                }
                let pushed = self.recent.push_control(following.epoch, record);
                if let (Ok(()), Some(heartbeat)) = (&pushed, heartbeat) {
                    self.queue.push_back(Command::Heartbeat(heartbeat));
                }
                pushed
            }
            FollowerAction::Close(_) => Ok(()),
        };
        if pushed.is_err() {
            following.session.leave(ByeReason::Reset);
        }
    }

    /// Asks another upstream, or hears what it answers.
    fn ask(
        &mut self,
        following: &mut Following,
        disk: &Disk,
        place: &Place,
        node: NodeNumber,
        alarm: &mut Option<NodeNumber>,
        net: &mut Net,
    ) -> bool {
        let Some(tenure) = &mut following.tenure else { return false };
        let Some(asking) = &mut following.asking else {
            if net.plan.bug == Some(Bug::NeverAsks) {
                return false;
            }
            let Some(slot) = tenure.ask(net.now, &mut net.rng) else { return false };
            if let Dialled::Connected(number) = net.dial(node, place.upstreams[slot.0]) {
                let end = self.end();
                let session = self.session(Start::After(end), Some(end.index), net.now);
                following.asking = Some(Asking { number, slot, session });
            } else {
                following.verdict = tenure.answered(net.now, slot, Answer::Nothing);
                if following.verdict != Verdict::Stay {
                    following.session.leave(ByeReason::Leaving);
                }
            }
            return true;
        };
        let (answer, busy) = answer(asking, net);
        let Some(answer) = answer.map(|answer| answer.map_err(|end| judge(end, disk))) else {
            return busy;
        };
        let answer = match answer {
            Ok(welcome) => Answer::Welcome(welcome.heartbeat),
            Err(end) => {
                if end.decision() == Decision::Halt {
                    net.record.meet("another upstream than the one that was followed differed");
                    *alarm = Some(place.upstreams[asking.slot.0]);
                }
                Answer::of(&end)
            }
        };
        let stale = tenure.is_stale(net.now);
        following.verdict = tenure.answered(net.now, asking.slot, answer);
        match following.verdict {
            Verdict::Stay => {}
            Verdict::Leave(_) if stale => {
                net.record.meet("a stale upstream was left for a fresher one");
            }
            Verdict::Leave(_) => net.record.meet("a preferred upstream was returned to"),
            Verdict::Fetch { .. } => net.record.meet("a stale upstream was left for a snapshot"),
        }
        if following.verdict != Verdict::Stay {
            following.session.leave(ByeReason::Leaving);
        }
        net.close(asking.number, ME);
        following.asking = None;
        true
    }

    fn ended(
        &mut self,
        following: Following,
        end: SessionEnd,
        disk: &mut Disk,
        place: &Place,
        alarm: &mut Option<NodeNumber>,
        net: &mut Net,
    ) {
        net.close(following.number, ME);
        if let Some(asking) = &following.asking {
            net.close(asking.number, ME);
        }
        self.lineage = Lineage::orphan(&self.me, self.lineage.root_client.clone());
        let end = judge(end, disk);
        if let EndCause::Diverged { index, mine, theirs } = &end.cause {
            assert_ne!(mine, theirs, "a false alarm at {index}");
        }
        let me = &self.me.node_id;
        net.record.tell(|| format!("        {me}: {end}"));
        meet_end(&end, following.since.is_some(), net);
        if end.decision() == Decision::Halt {
            *alarm = Some(place.upstreams[following.slot.0]);
        }
        if net.plan.bug == Some(Bug::GivesUpOnDivergence)
            && matches!(end.cause, EndCause::Diverged { .. })
        {
            *disk = Disk::empty(disk.db_id, disk.history);
            self.queue.clear();
            self.recent.reset(disk.end());
        }
        let streamed_ms = following.since.map_or(0, |since| net.now.since_ms(since).max(1));
        self.chooser.ended(&end, streamed_ms);
        match following.verdict {
            Verdict::Stay => {}
            Verdict::Leave(slot) => self.chooser.go_to(slot),
            Verdict::Fetch { oldest, slot } => self.chooser.fetch(oldest, slot),
        }
    }

    /// Whether something was done, and whether it is over.
    fn fetch(
        &mut self,
        fetching: &mut Fetching,
        disk: &mut Disk,
        place: &Place,
        node: NodeNumber,
        net: &mut Net,
    ) -> (bool, bool) {
        match &mut fetching.state {
            Fetch::Asking(_) => {
                let did = fetching.hear(net);
                if matches!(&fetching.state, Fetch::Asking(asking) if asking.is_empty()) {
                    return (true, !self.begin_fetch(fetching, place, net));
                }
                (did, false)
            }
            Fetch::Waiting(at) if *at <= net.now => {
                fetching.state = match net.dial(node, fetching.order[fetching.at]) {
                    Dialled::Connected(number) => Fetch::Receiving {
                        number,
                        session: Box::new(self.fetch_session(fetching.oldest, disk, net)),
                        progress: false,
                    },
                    _ => Fetch::Dialling(net.now.plus_ms(DEADLINES.handshake_ms / 4)),
                };
                (true, false)
            }
            Fetch::Dialling(at) if *at <= net.now => (true, fetching.another(net)),
            Fetch::Receiving { .. } => self.receive(fetching, disk, net),
            Fetch::Complete => self.install(disk, node, net),
            _ => (false, false),
        }
    }

    /// Everybody has answered who is connected to the root; false when nobody is to be asked yet.
    fn begin_fetch(&mut self, fetching: &mut Fetching, place: &Place, net: &mut Net) -> bool {
        let Fetching { first, connected, .. } = fetching;
        let sources = self.chooser.snapshot_sources(net.now, *first, connected);
        match (sources.len(), connected.len()) {
            (0, _) => net.record.meet("a snapshot was waited for while nobody had the root"),
            (_, 0) => net.record.meet("a snapshot was wanted of those that had lost the root"),
            (_, n) if n < place.upstreams.len() => {
                net.record.meet("a snapshot was wanted of those that had the root only");
            }
            _ => {}
        }
        fetching.order = sources.iter().map(|slot| place.upstreams[slot.0]).collect();
        fetching.progressed = net.now;
        fetching.state = Fetch::Waiting(net.now);
        !sources.is_empty()
    }

    fn fetch_session(&self, oldest: Index, disk: &Disk, net: &Net) -> FetchSession {
        let any = net.plan.bug == Some(Bug::TakesOlderSnapshots);
        let own = if any { Position::genesis(disk.db_id) } else { disk.end() };
        let oldest = if any { Index::ZERO } else { oldest };
        FetchSession::new(self.me.clone(), own, oldest, disk.partial(), DEADLINES, net.now)
    }

    fn receive(&mut self, fetching: &mut Fetching, disk: &mut Disk, net: &mut Net) -> (bool, bool) {
        let Fetch::Receiving { number, session, progress } = &mut fetching.state else {
            return (false, false);
        };
        let (number, source) = (*number, fetching.order[fetching.at]);
        let mut busy = false;
        loop {
            while let Some(action) = session.poll() {
                busy = true;
                match action {
                    FetchAction::Send(frame) => net.send(number, ME, &frame),
                    FetchAction::Begin { identity, encoded, manifest } => {
                        disk.begin(*manifest, identity, encoded);
                        fetching.sender = None;
                    }
                    FetchAction::Block { bytes, .. } => {
                        if let Some(partial) = &mut disk.fetching {
                            if !*progress && !partial.file.blocks.is_empty() {
                                net.record.meet("a snapshot was cut and gone on with");
                                if fetching.sender.is_some_and(|sender| sender != source) {
                                    net.record.meet("a snapshot came from two upstreams");
                                }
                            }
                            partial.file.blocks.push(bytes);
                            if net.chance(333) {
                                partial.synced = partial.file.blocks.len();
                            }
                        }
                        *progress = true;
                        fetching.progressed = net.now;
                        fetching.sender = Some(source);
                    }
                    FetchAction::Close(end) => {
                        net.close(number, ME);
                        net.record.tell(|| format!("        a fetch from {source}: {end}"));
                        fetching.again |= *progress;
                        return match end {
                            FetchEnd::Complete => {
                                fetching.state = Fetch::Complete;
                                (true, false)
                            }
                            FetchEnd::Busy { retry_after_ms, .. } => {
                                fetching.again = true;
                                fetching.wait_ms = fetching.wait_ms.max(retry_after_ms);
                                (true, fetching.another(net))
                            }
                            FetchEnd::Behind { .. } => {
                                net.record.meet("a snapshot that ends before the node's log");
                                (true, fetching.another(net))
                            }
                            _ => (true, fetching.another(net)),
                        };
                    }
                }
            }
            let now = net.now;
            let new_bytes = net.new_bytes(number, ME);
            if new_bytes > 0 {
                session.bytes(now, new_bytes);
            }
            match net.take(number, ME) {
                Came::Frame(frame) => session.frame(now, &frame),
                Came::Damage(e) => session.frame_error(now, &e),
                Came::Ended(how) => session.disconnected(how),
                Came::Nothing if session.next_deadline() <= now => session.tick(now),
                Came::Nothing => return (busy, false),
            }
            busy = true;
        }
    }

    /// Goes on in what was fetched, once nothing is on its way to the disk.
    fn install(&mut self, disk: &mut Disk, node: NodeNumber, net: &mut Net) -> (bool, bool) {
        if !self.queue.is_empty() {
            return (false, false);
        }
        let Some(fetched) = disk.fetching.take() else { return (true, true) };
        let snapshot = fetched.file;
        assert!(snapshot.is_right(), "node {node} would go on in a snapshot that is damaged");
        let behind = snapshot.end().index < disk.end().index;
        if behind && net.plan.bug != Some(Bug::TakesOlderSnapshots) {
            return (true, true);
        }
        net.record.meet("a snapshot was installed");
        if !net.record.is_of_the_root(&snapshot.end()) {
            net.record.meet(LEFT_PAST);
        }
        disk.install(snapshot);
        net.record.moved(node, disk.end(), Moved::Installed);
        self.me.history = Some(disk.history);
        self.recent.reset(disk.end());
        (true, true)
    }
}

impl Fetching {
    /// Hears what those say who were asked.
    fn hear(&mut self, net: &mut Net) -> bool {
        let Fetch::Asking(asking) = &mut self.state else { return false };
        let mut did = false;
        asking.retain_mut(|question| {
            let (answer, busy) = answer(question, net);
            did |= busy;
            let Some(answer) = answer else { return true };
            net.close(question.number, ME);
            let any = net.plan.bug == Some(Bug::AsksNobodyForTheRoot);
            if answer.is_ok_and(|welcome| welcome.lineage.connected_to_root || any) {
                self.connected.push(question.slot);
            }
            false
        });
        did
    }

    /// The next one; true when no one can help.
    fn another(&mut self, net: &Net) -> bool {
        self.at += 1;
        let mut wait_ms = 0;
        if self.at == self.order.len() {
            let patience = net.now.since_ms(self.progressed) < FETCH_LOOK_AGAIN_MS;
            if !std::mem::take(&mut self.again) || !patience {
                return true;
            }
            self.at = 0;
            wait_ms = std::mem::replace(&mut self.wait_ms, FETCH_RETRY_MS);
        }
        self.state = Fetch::Waiting(net.now.plus_ms(wait_ms));
        false
    }
}

/// What a follower says that it has on its disk, if this says that.
fn reported(frame: &EncodedFrame) -> Option<Index> {
    let mut bytes = BytesMut::new();
    frame.write_to(&mut bytes);
    match Decoder::of_follower_bytes().decode(&mut bytes) {
        Ok(Decoded::Frame(frame)) => match Message::from_frame(&frame) {
            Ok(Message::Applied(index)) => Some(index),
            _ => None,
        },
        _ => None,
    }
}

/// Tells a source that is behind from one that was restored to another past.
fn judge(end: SessionEnd, disk: &Disk) -> SessionEnd {
    match end.cause {
        EndCause::Behind { position, .. } => end.judged_by_own_log(disk.log.fact(position.index)),
        _ => end,
    }
}

/// Gives a session the next frame, or the end; false when there is nothing.
fn read_frame(
    number: ConnectionNumber,
    session: &mut FollowerSession,
    new_bytes: usize,
    net: &mut Net,
) -> bool {
    if session.has_ended() {
        return true;
    }
    let now = net.now;
    if new_bytes > 0 {
        session.bytes(now, new_bytes);
    }
    match net.take(number, ME) {
        Came::Frame(frame) => session.frame(now, &frame),
        Came::Damage(e) => session.frame_error(e),
        Came::Ended(how) => session.disconnected(how),
        Came::Nothing => return false,
    }
    true
}

/// The answer, if there is one, and whether something was done.
fn answer(asking: &mut Asking, net: &mut Net) -> (Option<Result<Box<Welcome>, SessionEnd>>, bool) {
    let mut busy = false;
    loop {
        while let Some(action) = asking.session.poll() {
            busy = true;
            match action {
                FollowerAction::Send(frame) => net.send(asking.number, ME, &frame),
                FollowerAction::Welcomed(welcome) => return (Some(Ok(welcome)), true),
                FollowerAction::Close(end) => return (Some(Err(end)), true),
                _ => {}
            }
        }
        let new_bytes = net.new_bytes(asking.number, ME);
        if read_frame(asking.number, &mut asking.session, new_bytes, net) {
            continue;
        }
        if asking.session.next_deadline() > net.now {
            return (None, busy);
        }
        asking.session.tick(net.now);
    }
}

fn meet_end(end: &SessionEnd, streamed: bool, net: &mut Net) {
    let what = match (&end.cause, streamed) {
        (EndCause::LogTooOld { .. }, _) => "a log was too old",
        (EndCause::Diverged { .. }, false) => "divergence was seen in the handshake",
        (EndCause::Diverged { .. }, true) => "divergence was seen in the stream",
        (EndCause::Behind { .. }, _) => "an upstream came back behind",
        (EndCause::Cycle { .. }, false) => "a circle was refused in the handshake",
        (EndCause::Cycle { .. }, true) => "a circle formed while sessions lived",
        (EndCause::SelfConnection, _) => "a node dialled itself",
        (EndCause::WrongDatabase { .. }, _) => "another database was refused",
        (EndCause::Busy { .. }, _) => "a busy upstream was left",
        (EndCause::Idle(_), _) => "a silent upstream was given up",
        (EndCause::HandshakeTimeout(_), _) => "a handshake had no answer",
        (EndCause::NotNext { .. }, _) => "a batch that was not the next was refused",
        (EndCause::SourceLeft(ByeReason::Reset), _) => "a source began anew",
        (EndCause::Left(ByeReason::Reset), _) => "a node began anew after a failed commit",
        _ => return,
    };
    net.record.meet(what);
}
