//! The upstream: dials, drives a [`FollowerSession`], and dials again.
//!
//! Invariants:
//! * a batch goes to the feed (so that downstreams have it at once) and to the writer, in that
//!   order and under one lock, and only when the feed has room;
//! * after a reset of the feed the session is dropped, and the next one starts from what is on
//!   disk;
//! * losing or refusing an upstream changes nothing about what this node serves;
//! * another upstream is asked beside the session that lives, which ends only for a better one.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quicksilver_format::{Address, Heartbeat};
use quicksilver_protocol::follower::FollowOptions;
use quicksilver_protocol::recent::{Epoch, PushError};
use quicksilver_protocol::tenure::{Answer, Verdict};
use quicksilver_protocol::{
    ByeReason, Deadlines, Decision, Decoded, Decoder, EndCause, FollowerAction, FollowerSession,
    Lineage, Millis, Next, Quota, SessionEnd, Start, Tenure, UpstreamSlot, Welcome,
};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::connection::{Connection, Moved};
use super::feed::Feed;
use super::transfer::Fetching;
use super::upstream::{Dial, UpstreamState, UpstreamStatus, Upstreams};
use super::{BatchSink, Clock, NodeName, ReplicaLog, blocking};
use crate::metrics;
use crate::net::heavy;

/// An upstream whose socket took nothing for so long is given up.
const STALL: Duration = Duration::from_secs(120);

/// What following needs.
#[derive(Clone)]
pub struct FollowContext<D> {
    /// Who this node is.
    pub name: NodeName,
    /// Its log.
    pub log: Arc<dyn ReplicaLog>,
    /// The recent part of it.
    pub feed: Arc<Feed>,
    /// The way to the writer.
    pub sink: Arc<dyn BatchSink>,
    /// Where this node hangs in the tree, for its downstreams and for READONLY answers.
    pub lineage: watch::Sender<Lineage>,
    /// How large the root lets the data grow, for this node and its downstreams. The last one that
    /// was heard stays when the upstream goes.
    pub quota: watch::Sender<Option<Quota>>,
    /// What an operator sees.
    pub status: watch::Sender<UpstreamStatus>,
    /// Fetches a snapshot when no upstream has the log; `None`: an operator does.
    pub fetching: Option<Fetching<D>>,
    /// Makes connections.
    pub dial: D,
    /// The timeouts.
    pub deadlines: Deadlines,
}

/// Follows one upstream after the other until `shutdown` becomes true.
pub async fn follow<D: Dial>(
    upstreams: Upstreams,
    context: FollowContext<D>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut rng = StdRng::from_os_rng();
    let (mut chooser, clock) = (upstreams.chooser(), Clock::start());
    while !*shutdown.borrow() {
        match chooser.next(&mut rng) {
            Next::Dial { slot, after_ms } => {
                let Some(address) = upstreams.at(slot) else { return };
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(after_ms)) => {}
                    _ = shutdown.wait_for(|down| *down) => return,
                }
                let Session { end, streamed_ms, verdict } =
                    context.session(&upstreams, slot, address, &mut shutdown).await;
                if *shutdown.borrow() {
                    return;
                }
                context.report(address, &end);
                chooser.ended(&end, streamed_ms);
                match verdict {
                    Verdict::Stay => {}
                    Verdict::Leave(slot) => chooser.go_to(slot),
                    Verdict::Fetch { oldest, slot } => chooser.fetch(oldest, slot),
                }
            }
            Next::Snapshot { oldest, slot } => {
                let longest = (oldest, slot);
                context.bootstrap(&upstreams, &mut chooser, clock, longest, &mut shutdown).await;
            }
            Next::Done | Next::Nothing => {
                context.status.send_modify(|status| status.state = UpstreamState::Idle);
                return;
            }
        }
    }
}

/// How a session went.
struct Session {
    end: SessionEnd,
    /// For how long it streamed; 0 when it never did.
    streamed_ms: u64,
    /// What it was left for, if it was.
    verdict: Verdict,
}

impl Session {
    fn never_connected(reason: impl std::fmt::Display) -> Self {
        Session { end: SessionEnd::never_connected(reason), streamed_ms: 0, verdict: Verdict::Stay }
    }
}

impl<D: Dial> FollowContext<D> {
    /// One session with `address`, which is `slot` of `upstreams`.
    async fn session(
        &self,
        upstreams: &Upstreams,
        slot: UpstreamSlot,
        address: &Address,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Session {
        self.status.send_modify(|status| status.address = Some(address.clone()));
        let patience = Duration::from_millis(self.deadlines.handshake_ms);
        let dialled = tokio::select! {
            dialled = tokio::time::timeout(patience, self.dial.dial(address)) => dialled,
            _ = shutdown.wait_for(|down| *down) => {
                return Session::never_connected("this node is shutting down");
            }
        };
        let stream = match dialled {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => return Session::never_connected(format!("{address}: {e}")),
            Err(_) => {
                return Session::never_connected(format!(
                    "{address}: no connection within {patience:?}"
                ));
            }
        };
        let mut driver = Driver::new(stream, self, upstreams, slot);
        let end = driver.run(shutdown).await;
        let streamed_ms =
            driver.streaming_since.map_or(0, |since| driver.clock.now().since_ms(since).max(1));
        let verdict = driver.verdict;
        self.orphaned();
        let goodbye = driver.connection.finish();
        if *shutdown.borrow() {
            goodbye.await;
        } else {
            // An upstream that is silent takes seconds to hear it; the next one is dialled meanwhile.
            tokio::spawn(goodbye);
        }
        Session { end: self.judge(end).await, streamed_ms, verdict }
    }

    /// Tells a source that is behind from one that was restored to another past.
    pub(super) async fn judge(&self, end: SessionEnd) -> SessionEnd {
        let EndCause::Behind { position, .. } = end.cause else { return end };
        let log = Arc::clone(&self.log);
        match blocking(move || log.fact(position.index)).await {
            Ok(own) => end.judged_by_own_log(own),
            Err(e) => {
                tracing::warn!(node = %self.name.node_id, error = %e, "own log could not be read");
                end
            }
        }
    }

    /// This node has no upstream any more, and says so.
    fn orphaned(&self) {
        let me = self.name.local(self.log.identity());
        self.lineage.send_if_modified(|lineage| {
            let orphan = Lineage::orphan(&me, lineage.root_client.clone());
            let changed = *lineage != orphan;
            *lineage = orphan;
            changed
        });
    }

    fn report(&self, address: &Address, end: &SessionEnd) {
        metrics::upstream_ended(&end.cause);
        let node = &self.name.node_id;
        let reason = end.cause.reason();
        let state = match end.cause {
            EndCause::Diverged { .. } => UpstreamState::Diverged,
            EndCause::WrongDatabase { .. } => UpstreamState::WrongDatabase,
            _ => UpstreamState::Disconnected,
        };
        match end.decision() {
            Decision::Halt => {
                tracing::error!(
                    %node, upstream = %address, reason, error = %end, "following has stopped"
                );
            }
            Decision::Done => tracing::info!(%node, upstream = %address, "reached the stop index"),
            _ if end.is_restart() => {
                tracing::info!(%node, upstream = %address, "the upstream is restarting");
            }
            _ if end.cause == EndCause::Left(ByeReason::Leaving) => {}
            Decision::Reconnect | Decision::TryAnother { .. } | Decision::NeedSnapshot { .. } => {
                tracing::warn!(%node, upstream = %address, reason, error = %end, "upstream lost");
            }
        }
        self.status.send_modify(|status| {
            // What needs an operator or a snapshot stays visible until there is a session again.
            let sticky = !matches!(
                status.state,
                UpstreamState::Disconnected | UpstreamState::Following | UpstreamState::Idle
            );
            if !sticky || state != UpstreamState::Disconnected {
                status.state = state;
            }
            status.node_id = None;
            status.protocol = None;
            status.connected_since = None;
            status.lineage = None;
            status.last_error = Some(end.to_string());
        });
    }
}

/// Notes how large the data may grow; wakes who looks at it only when that is another size.
pub fn set_quota(known: &watch::Sender<Option<Quota>>, quota: Quota) {
    known.send_if_modified(|known| known.replace(quota) != Some(quota));
}

/// A question to another upstream, and its answer.
type Question<'a> = Pin<Box<dyn Future<Output = Answered<'a>> + Send + 'a>>;

/// Who was asked, and its newest heartbeat, or why it does not serve this node.
type Answered<'a> = (UpstreamSlot, &'a Address, Result<Option<Heartbeat>, SessionEnd>);

/// The answer to a question; never, when none was asked.
async fn answer<'a>(asking: &mut Option<Question<'a>>) -> Answered<'a> {
    match asking {
        Some(question) => {
            let answer = question.await;
            *asking = None;
            answer
        }
        None => std::future::pending().await,
    }
}

struct Driver<'a, S, D> {
    context: &'a FollowContext<D>,
    upstreams: &'a Upstreams,
    slot: UpstreamSlot,
    /// Since the `Welcome`.
    tenure: Option<Tenure>,
    asking: Option<Question<'a>>,
    verdict: Verdict,
    rng: StdRng,
    connection: Connection<S>,
    session: FollowerSession,
    clock: Clock,
    epoch: Epoch,
    streaming_since: Option<Millis>,
}

impl<'a, S, D> Driver<'a, S, D>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    D: Dial,
{
    fn new(
        stream: S,
        context: &'a FollowContext<D>,
        upstreams: &'a Upstreams,
        slot: UpstreamSlot,
    ) -> Self {
        let clock = Clock::start();
        // What the writer has been given but has not committed is the beginning of this session,
        // too: if that commit fails, the feed is reset and the session with it.
        let state = context.feed.state();
        let options = FollowOptions {
            start: Start::After(state.end),
            stop: None,
            path: context.lineage.borrow().path.clone(),
            deadlines: context.deadlines,
        };
        let me = context.name.local(context.log.identity());
        Driver {
            connection: Connection::new(stream, Decoder::of_source_bytes()),
            session: FollowerSession::new(me, options, clock.now()),
            clock,
            epoch: state.epoch,
            streaming_since: None,
            upstreams,
            slot,
            tenure: None,
            asking: None,
            verdict: Verdict::Stay,
            rng: StdRng::from_os_rng(),
            context,
        }
    }

    async fn run(&mut self, shutdown: &mut watch::Receiver<bool>) -> SessionEnd {
        let mut feed_changes = self.context.feed.changes();
        loop {
            feed_changes.mark_unchanged();
            if *shutdown.borrow_and_update() {
                self.session.leave(ByeReason::Restarting);
            }
            let state = self.context.feed.state();
            if state.epoch != self.epoch {
                self.session.leave(ByeReason::Reset);
            }
            if self.connection.is_flushed() {
                // Only then: reports that cannot be sent are not piled up, the next one says more.
                self.session.committed(self.clock.now(), state.committed.index);
            }
            if let Some(end) = self.act() {
                return end;
            }
            let room = self.context.feed.has_room();
            if room && self.receive() {
                continue;
            }
            if !room {
                let now = self.clock.now();
                self.session.not_reading(now);
                if let Some(tenure) = &mut self.tenure {
                    tenure.not_reading(now, &mut self.rng);
                }
            }
            self.ask();
            let stalled = self.connection.stalled_since().map(|since| since + STALL);
            let mut deadline = self.session.next_deadline();
            if let (Some(tenure), None) = (&self.tenure, &self.asking) {
                deadline = deadline.min(tenure.next_deadline());
            }
            let deadline = self.clock.instant(deadline);
            let wake = stalled.map_or(deadline, |stalled| stalled.min(deadline));
            tokio::select! {
                moved = self.connection.exchange(room) => self.moved(moved),
                answered = answer(&mut self.asking) => self.answered(answered),
                _ = feed_changes.changed() => {}
                _ = shutdown.changed() => {}
                () = tokio::time::sleep_until(wake) => {
                    self.session.tick(self.clock.now());
                    if stalled.is_some_and(|stalled| stalled <= tokio::time::Instant::now()) {
                        self.session.disconnected("the upstream reads nothing");
                    }
                }
            }
        }
    }

    /// Asks another upstream, when it is time to.
    fn ask(&mut self) {
        let (None, Some(tenure)) = (&self.asking, &mut self.tenure) else { return };
        let Some(slot) = tenure.ask(self.clock.now(), &mut self.rng) else { return };
        let Some(address) = self.upstreams.at(slot) else { return };
        let context = self.context;
        self.asking = Some(Box::pin(async move { (slot, address, context.ask(address).await) }));
    }

    fn answered(&mut self, (slot, address, answered): Answered<'_>) {
        let Some(tenure) = &mut self.tenure else { return };
        let now = self.clock.now();
        let (node, stale) = (&self.context.name.node_id, tenure.is_stale(now));
        let answer = match &answered {
            Ok(heartbeat) => Answer::Welcome(*heartbeat),
            Err(end) => Answer::of(end),
        };
        if let Err(end) = &answered
            && end.decision() == Decision::Halt
        {
            metrics::upstream_ended(&end.cause);
            tracing::error!(
                %node, upstream = %address, reason = end.cause.reason(), error = %end,
                "another upstream differs from this node, which stays with its own"
            );
            self.context.status.send_modify(|status| status.last_error = Some(end.to_string()));
        }
        self.verdict = tenure.answered(now, slot, answer);
        match self.verdict {
            Verdict::Stay => return,
            Verdict::Leave(_) => tracing::info!(
                %node, to = %address, stale,
                "leaving the upstream for another one: a fresher one, or one that is preferred"
            ),
            Verdict::Fetch { oldest, .. } => tracing::warn!(
                %node, asked = %address, %oldest,
                "the upstream has lost the root, and nobody else has the log that this node needs"
            ),
        }
        self.session.leave(ByeReason::Leaving);
    }

    fn moved(&mut self, moved: io::Result<Moved>) {
        match moved {
            Ok(Moved::Read(bytes)) => {
                let now = self.clock.now();
                self.session.bytes(now, bytes);
                if let Some(tenure) = &mut self.tenure {
                    tenure.bytes(now, bytes, &mut self.rng);
                }
            }
            Ok(Moved::Wrote) => {}
            Ok(Moved::Eof) => self.session.disconnected("closed by the upstream"),
            Err(e) => self.session.disconnected(e),
        }
    }

    /// Takes one frame that has come; `false` when there is none.
    fn receive(&mut self) -> bool {
        match self.connection.next_frame() {
            Ok(Decoded::Incomplete { .. }) => false,
            Ok(Decoded::Frame(frame)) => {
                let now = self.clock.now();
                heavy(frame.payload.len(), || self.session.frame(now, &frame));
                true
            }
            Err(e) => {
                self.session.frame_error(e);
                true
            }
        }
    }

    /// Carries out what the session wants; its end, when that is it.
    fn act(&mut self) -> Option<SessionEnd> {
        while let Some(action) = self.session.poll() {
            let context = self.context;
            let pushed = match action {
                FollowerAction::Send(frame) => {
                    self.connection.send(&frame);
                    Ok(())
                }
                FollowerAction::Welcomed(welcome) => {
                    self.welcomed(&welcome);
                    Ok(())
                }
                FollowerAction::AdoptHistory(history) => {
                    context.sink.adopt_history(history);
                    Ok(())
                }
                FollowerAction::Path(lineage) => {
                    self.path(lineage);
                    Ok(())
                }
                FollowerAction::Quota(quota) => {
                    set_quota(&context.quota, quota);
                    Ok(())
                }
                FollowerAction::Deliver(batch) => {
                    if let Some(tenure) = &mut self.tenure {
                        tenure.batch(self.clock.now(), &mut self.rng);
                    }
                    let sink = &context.sink;
                    context.feed.push_batch(self.epoch, &batch, || sink.apply(batch.clone()))
                }
                FollowerAction::DeliverControl(record) => {
                    if let (Some(tenure), Ok(Some(heartbeat))) =
                        (&mut self.tenure, Heartbeat::from_record(&record))
                    {
                        tenure.heartbeat(self.clock.now(), heartbeat, &mut self.rng);
                    }
                    let sink = &context.sink;
                    let handed = record.clone();
                    context.feed.push_control(self.epoch, record, || sink.control(handed))
                }
                FollowerAction::Close(end) => return Some(end),
            };
            self.pushed(pushed);
        }
        None
    }

    fn pushed(&mut self, pushed: Result<(), PushError>) {
        match pushed {
            Ok(()) => {}
            Err(PushError::Reset) => self.session.leave(ByeReason::Reset),
            Err(e @ PushError::NotNext { .. }) => {
                // The session compared it with the same end: someone else pushed meanwhile.
                let node = &self.context.name.node_id;
                tracing::error!(%node, error = %e, "two sources feed this node; starting anew");
                self.session.leave(ByeReason::Reset);
            }
        }
    }

    fn welcomed(&mut self, welcome: &Welcome) {
        let now = self.clock.now();
        self.streaming_since = Some(now);
        self.tenure = Some(Tenure::new(
            self.slot,
            self.upstreams.len(),
            welcome.heartbeat,
            self.context.deadlines,
            now,
            &mut self.rng,
        ));
        tracing::info!(
            node = %self.context.name.node_id, upstream = %welcome.node_id,
            site = welcome.site, path = %welcome.lineage, index = %welcome.position.index,
            protocol = welcome.version, "following"
        );
        self.context.status.send_modify(|status| {
            status.state = UpstreamState::Following;
            status.node_id = Some(welcome.node_id.clone());
            status.protocol = Some(welcome.version);
            status.connected_since = Some(SystemTime::now());
            status.upstream_index = Some(welcome.position.index);
            status.upstream_heartbeat = welcome.heartbeat;
            status.last_error = None;
            status.sessions += 1;
        });
    }

    fn path(&self, lineage: Lineage) {
        let me = self.context.name.local(self.context.log.identity());
        let mut mine = lineage.extended_to(&me);
        if mine.root_client.is_empty() {
            mine.root_client.clone_from(&self.context.lineage.borrow().root_client);
        }
        self.context.lineage.send_replace(mine);
        self.context.status.send_modify(|status| status.lineage = Some(lineage));
    }
}
