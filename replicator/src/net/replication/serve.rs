//! One downstream: drives a [`SourceSession`] over a stream.
//!
//! It reads from the log until it reaches the feed, then from the feed, and falls back to the log
//! when the feed has moved on without it. Nothing is fetched before everything fetched so far is
//! with the kernel, so a slow downstream costs one batch of memory and delays nobody.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quicksilver_format::{HistoryId, Index, NodeId, Position};
use quicksilver_protocol::recent::{Cursor, Epoch, Item, Read};
use quicksilver_protocol::{
    BatchFrame, ByeReason, Deadlines, Decoded, Decoder, Kind, Lineage, LogFact, Millis, Quota,
    Refusal, Refused, SourceAction, SourceEnd, SourceSession, SourceState, Start,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::connection::{Connection, Moved};
use super::downstreams::{Arrival, Downstreams, Registration};
use super::feed::Feed;
use super::transfer::{self, OfferContext};
use super::{Clock, NodeName, ReadFailure, ReplicaLog, blocking};
use crate::metrics;

/// Bytes of records read from the log at once.
const LOG_READ_BYTES: usize = 1 << 20;
/// A downstream whose socket made no progress for so long is given up. It is longer than the idle
/// deadline: a follower that waits for its disk does not read, but reports that it lives.
const STALL: Duration = Duration::from_secs(120);
/// What a full node answers.
const BUSY_RETRY_MS: u64 = 5_000;

/// What every downstream's session needs.
#[derive(Clone)]
pub struct ServeContext {
    /// Who this node is.
    pub name: NodeName,
    /// Its log.
    pub log: Arc<dyn ReplicaLog>,
    /// The recent part of it.
    pub feed: Arc<Feed>,
    /// Where this node hangs in the tree, kept by [`super::follow`](mod@super::follow) or, at the root, constant.
    pub lineage: watch::Receiver<Lineage>,
    /// How large the root lets the data grow, as far as this node knows; kept likewise.
    pub quota: watch::Receiver<Option<Quota>>,
    /// Who else follows.
    pub downstreams: Arc<Downstreams>,
    /// Snapshots for those whose position is too old; `None`: there are none.
    pub offer: Option<OfferContext>,
    /// The timeouts.
    pub deadlines: Deadlines,
    /// Becomes true when the process is to end.
    pub shutdown: watch::Receiver<bool>,
}

/// Room for a connection that was accepted from `peer`; `None` when there are too many that have not
/// said who they are: it is to be closed.
pub fn admit(context: &ServeContext, peer: &str) -> Option<Arrival> {
    let arrival = context.downstreams.arrive();
    if arrival.is_none() {
        let refusal = Refusal::Busy { retry_after_ms: BUSY_RETRY_MS };
        let explanation = "too many connections that have not said who they are".to_owned();
        let end = SourceEnd::Refused(Refused { refusal, explanation });
        metrics::downstream_ended(&end);
        let node = &context.name.node_id;
        tracing::debug!(%node, peer, error = %end, "closed without a word");
    }
    arrival
}

/// Serves a connection that was accepted from `peer` until it ends.
pub async fn serve_downstream<S>(
    stream: S,
    peer: String,
    arrival: Arrival,
    context: ServeContext,
) -> SourceEnd
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let name = context.name.node_id.clone();
    let clock = Clock::start();
    let mut connection = Connection::new(stream, Decoder::of_follower_bytes());
    if let Some(offer) = context.offer.clone() {
        let patience = Duration::from_millis(context.deadlines.handshake_ms);
        let mut shutdown = context.shutdown.clone();
        let first = tokio::select! {
            first = tokio::time::timeout(patience, connection.first_kind()) => first,
            // Whoever has said nothing yet is told so below.
            _ = shutdown.wait_for(|down| *down) => Ok(Ok(None)),
        };
        if first.is_err() {
            let end = SourceEnd::HandshakeTimeout(context.deadlines.handshake_ms);
            report(&name, &peer, None, &end);
            return end;
        }
        if matches!(first, Ok(Ok(Some(kind))) if kind == Kind::Fetch as u8) {
            // It follows nobody yet; transfers have a bound of their own.
            let ServeContext { name, log, deadlines, shutdown, .. } = context;
            let visit = Visit { peer, arrival, clock };
            let end =
                transfer::serve(connection, visit, &name, &log, offer, deadlines, shutdown).await;
            metrics::transfer_ended(&end);
            return end;
        }
    }
    let downstreams = Arc::clone(&context.downstreams);
    let mut driver = Driver::new(connection, context, Visit { peer, arrival, clock });
    let end = driver.run().await;
    let follower = driver.session.follower().map(|node| node.node_id.clone());
    report(&name, &driver.peer, follower.as_ref(), &end);
    let Driver { connection, registration, arrival, .. } = driver;
    drop(registration);
    // Its last words take a moment, and are not worth more connections than there may be.
    if let Some(_arrival) = arrival.or_else(|| downstreams.arrive()) {
        connection.finish().await;
    }
    end
}

/// A connection that was accepted.
pub(super) struct Visit {
    /// From where.
    pub(super) peer: String,
    /// Its room, until it has a place of its own.
    pub(super) arrival: Arrival,
    /// Since it was accepted.
    pub(super) clock: Clock,
}

fn report(node: &NodeId, peer: &str, follower: Option<&NodeId>, end: &SourceEnd) {
    metrics::downstream_ended(end);
    let reason = end.reason();
    let downstream = follower.map_or("(unknown)", NodeId::as_str);
    match end {
        SourceEnd::Said(ByeReason::StopReached | ByeReason::Restarting)
        | SourceEnd::FollowerLeft(_)
        | SourceEnd::ConnectionLost(_) => {
            tracing::info!(%node, peer, downstream, reason, error = %end, "downstream left");
        }
        SourceEnd::Refused(Refused { refusal: Refusal::Busy { .. }, .. }) => {
            tracing::warn!(
                %node, peer, downstream, reason, error = %end,
                "downstream refused; raise limits.max_downstreams, or give it another upstream"
            );
        }
        SourceEnd::Refused(_) => {
            tracing::warn!(
                %node, peer, downstream, reason, error = %end,
                "downstream refused; its own log says what to do"
            );
        }
        _ => tracing::warn!(%node, peer, downstream, reason, error = %end, "downstream dropped"),
    }
}

/// Where the next batch comes from.
#[derive(Debug)]
enum From {
    /// The log; these were read ahead.
    Log(VecDeque<Bytes>),
    /// The feed.
    Feed(Cursor),
}

struct Driver<S> {
    context: ServeContext,
    connection: Connection<S>,
    session: SourceSession,
    peer: String,
    /// Until it has said who it is and there is a place for it,
    arrival: Option<Arrival>,
    /// which it has from then on.
    registration: Option<Registration>,
    clock: Clock,
    from: From,
    /// The feed's life and the database's past that the handshake was answered in.
    promised: Option<(Epoch, HistoryId)>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Driver<S> {
    fn new(connection: Connection<S>, context: ServeContext, visit: Visit) -> Self {
        let Visit { peer, arrival, clock } = visit;
        let me = context.name.local(context.log.identity());
        let lineage = context.lineage.borrow().clone();
        Driver {
            connection,
            session: SourceSession::new(me, lineage, context.deadlines, Millis::ZERO),
            peer,
            arrival: Some(arrival),
            registration: None,
            clock,
            from: From::Log(VecDeque::new()),
            promised: None,
            context,
        }
    }

    async fn run(&mut self) -> SourceEnd {
        let mut feed_changes = self.context.feed.changes();
        let mut lineage = self.context.lineage.clone();
        let mut quota = self.context.quota.clone();
        let mut shutdown = self.context.shutdown.clone();
        loop {
            // Marked as seen before it is looked at, so that no change is slept through.
            feed_changes.mark_unchanged();
            self.check_promise();
            if *shutdown.borrow_and_update() {
                self.session.close(self.clock.now(), ByeReason::Restarting);
            }
            let current = lineage.borrow_and_update().clone();
            self.session.path_changed(current);
            self.session.quota_changed(*quota.borrow_and_update());
            if self.receive() {
                continue;
            }
            match self.send().await {
                Sent::Closed(end) => return end,
                Sent::Something => continue,
                Sent::Nothing => {}
            }
            let stalled = self.connection.stalled_since().map(|since| since + STALL);
            let deadline = self.clock.instant(self.session.next_deadline());
            let wake = stalled.map_or(deadline, |stalled| stalled.min(deadline));
            let mut too_slow = false;
            tokio::select! {
                moved = self.connection.exchange(true) => self.moved(moved),
                _ = feed_changes.changed() => {}
                _ = lineage.changed() => {}
                _ = quota.changed() => {}
                _ = shutdown.changed() => {}
                () = tokio::time::sleep_until(wake) => {
                    self.session.tick(self.clock.now());
                    too_slow = stalled.is_some_and(|stalled| stalled <= tokio::time::Instant::now());
                }
            }
            if too_slow {
                // It would not hear a Bye either: the socket is full.
                return SourceEnd::Said(ByeReason::TooSlow);
            }
        }
    }

    /// A reset feed or another history invalidates what this session was told.
    fn check_promise(&mut self) {
        if let Some((epoch, history)) = self.promised
            && (self.context.feed.state().epoch != epoch
                || self.context.log.identity().history != history)
        {
            self.session.close(self.clock.now(), ByeReason::Reset);
        }
    }

    fn moved(&mut self, moved: std::io::Result<Moved>) {
        match moved {
            Ok(Moved::Read(_) | Moved::Wrote) => {}
            Ok(Moved::Eof) => self.session.disconnected("closed by the downstream"),
            Err(e) => self.session.disconnected(e),
        }
    }

    /// Takes one frame that has come; `false` when there is none.
    fn receive(&mut self) -> bool {
        let now = self.clock.now();
        if self.session.has_ended() {
            return false;
        }
        match self.connection.next_frame() {
            Ok(Decoded::Incomplete { .. }) => return false,
            Ok(Decoded::Frame(frame)) => self.session.frame(now, &frame),
            Err(e) => self.session.frame_error(now, &e),
        }
        if let Some(registration) = &self.registration {
            let applied = self.session.applied();
            registration.update(|downstream| downstream.applied = applied);
        }
        true
    }

    /// Carries out what the session wants, then gives it the next item if it can take one.
    async fn send(&mut self) -> Sent {
        // The last words are not waited with: `Connection::finish` gives them its own deadline.
        if !self.connection.is_flushed() && !self.session.has_ended() {
            return Sent::Nothing;
        }
        while let Some(action) = self.session.poll(self.clock.now()) {
            match action {
                SourceAction::Send(frame) => self.connection.send(&frame),
                SourceAction::LookUp(start) => self.look_up(start).await,
                SourceAction::Stream { after } => self.welcomed(after),
                SourceAction::Close(end) => return Sent::Closed(end),
            }
        }
        if !self.connection.is_flushed() || !self.session.wants_item() {
            return Sent::Nothing;
        }
        match self.next_item().await {
            Ok(sent) => sent,
            Err(e) => {
                tracing::error!(
                    node = %self.context.name.node_id, session = %self.session, error = %e,
                    "the log could not be read for a downstream; it is told to come back. If it \
                     repeats, run qsctl verify on this node"
                );
                self.session.close(self.clock.now(), ByeReason::Reset);
                Sent::Something
            }
        }
    }

    async fn look_up(&mut self, start: Start) {
        // A node that is full still says that it is connected to the root.
        if !self.session.only_asks() {
            self.registration = self.context.downstreams.register(self.peer.clone());
            if self.registration.is_none() {
                return self.session.refuse_busy(self.clock.now(), BUSY_RETRY_MS);
            }
            self.arrival = None;
        }
        let (log, feed) = (Arc::clone(&self.context.log), Arc::clone(&self.context.feed));
        let state = feed.state();
        let identity = log.identity();
        let oldest = log.oldest();
        let fact = match start {
            Start::Newest => Ok(LogFact::Boundary(state.end.hash)),
            Start::After(position) => match feed.fact(position.index) {
                Some(fact) => Ok(fact),
                None => blocking(move || log.fact(position.index)).await,
            },
        };
        let now = self.clock.now();
        match fact {
            Ok(fact) => {
                self.promised = Some((state.epoch, identity.history));
                let state = SourceState {
                    history: identity.history,
                    position: state.end,
                    oldest,
                    heartbeat: state.heartbeat,
                };
                self.session.looked_up(now, state, fact);
            }
            Err(e) => {
                tracing::error!(
                    node = %self.context.name.node_id, session = %self.session, error = %e,
                    "the log could not be read for a downstream's handshake; run qsctl verify"
                );
                self.session.close(now, ByeReason::Reset);
            }
        }
    }

    fn welcomed(&mut self, after: Position) {
        // Who only asked follows nobody, and is no node that has everything (WAIT).
        if self.session.has_ended() {
            return;
        }
        let Some(follower) = self.session.follower() else { return };
        tracing::info!(
            node = %self.context.name.node_id, downstream = %follower.node_id,
            site = follower.site, after = %after.index, "downstream welcomed"
        );
        if let Some(registration) = &self.registration {
            let applied = self.session.applied();
            registration.update(|downstream| {
                downstream.node_id = Some(follower.node_id.clone());
                downstream.site.clone_from(&follower.site);
                downstream.process_id = Some(follower.process_id);
                downstream.sent = after.index;
                downstream.applied = applied;
            });
        }
    }

    async fn next_item(&mut self) -> Result<Sent, ReadFailure> {
        let Some(position) = self.session.position() else { return Ok(Sent::Nothing) };
        let now = self.clock.now();
        match &mut self.from {
            From::Feed(cursor) => match self.context.feed.read(*cursor) {
                Read::Item(item, next) => {
                    *cursor = next;
                    match item {
                        Item::Batch(frame) => self.offer(&frame),
                        Item::Control(record) => self.session.offer_control(now, &record),
                    }
                    Ok(Sent::Something)
                }
                Read::Empty => Ok(Sent::Nothing),
                Read::Evicted => {
                    self.from = From::Log(VecDeque::new());
                    Ok(Sent::Something)
                }
                Read::Reset => {
                    self.session.close(now, ByeReason::Reset);
                    Ok(Sent::Something)
                }
            },
            From::Log(ahead) => {
                if let Some(record) = ahead.pop_front() {
                    let frame =
                        BatchFrame::from_record(record).map_err(|e| ReadFailure(e.to_string()))?;
                    self.offer(&frame);
                    return Ok(Sent::Something);
                }
                if let Some(joined) = self.context.feed.join(&position) {
                    self.from = From::Feed(joined.cursor);
                    if let Some(heartbeat) = joined.heartbeat {
                        self.session.offer_control(now, &heartbeat.to_record());
                    }
                    return Ok(Sent::Something);
                }
                self.read_ahead(position.index).await
            }
        }
    }

    async fn read_ahead(&mut self, after: Index) -> Result<Sent, ReadFailure> {
        let log = Arc::clone(&self.context.log);
        let records = blocking(move || log.read(after, LOG_READ_BYTES)).await?;
        let first = match records.first() {
            Some(record) => {
                quicksilver_format::batch::BatchHeader::decode(record)
                    .map_err(|e| ReadFailure(e.to_string()))?
                    .first
            }
            None => self.context.log.oldest(),
        };
        if first > after.next() {
            // Collected while it was being read: the handshake will say so properly.
            self.session.close(self.clock.now(), ByeReason::TooSlow);
            return Ok(Sent::Something);
        }
        if records.is_empty() {
            // The feed has moved on between two looks, or was reset: a change will wake us.
            return Ok(Sent::Nothing);
        }
        self.from = From::Log(records.into());
        Ok(Sent::Something)
    }

    fn offer(&mut self, frame: &BatchFrame) {
        self.session.offer_batch(self.clock.now(), frame);
        if let (Some(registration), Some(position)) = (&self.registration, self.session.position())
        {
            registration.update(|downstream| downstream.sent = position.index);
        }
    }
}

enum Sent {
    /// Something was done: look again.
    Something,
    /// There is nothing to do before something happens.
    Nothing,
    /// The session is over.
    Closed(SourceEnd),
}
