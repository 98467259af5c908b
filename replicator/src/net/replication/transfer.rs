//! Snapshots over sockets: fetching one, and serving one.
//!
//! Invariants:
//! * what was fetched stays on disk across connections, upstreams and restarts, and no block of it is
//!   fetched twice, but for the last few megabytes when the process is killed;
//! * at most so many transfers are served at a time, and no faster than allowed;
//! * while a snapshot is fetched, this node serves what it has.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quicksilver_format::manifest::{Manifest, SnapshotHash};
use quicksilver_format::{Address, Index};
use quicksilver_protocol::{
    ByeReason, Deadlines, Decoded, Decoder, FetchAction, FetchEnd, FetchSession, Millis,
    OfferAction, OfferSession, Offered, Partial, SourceEnd,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::connection::{Connection, Moved};
use super::serve::Visit;
use super::upstream::Dial;
use super::{Clock, NodeName, ReadFailure, ReplicaLog, blocking};
use crate::metrics;
use crate::net::heavy;
use crate::net::node::{BootstrapStatus, BoxFuture};
use crate::throttle::Throttle;

/// An end whose socket took nothing for so long is given up.
const STALL: Duration = Duration::from_secs(60);
/// Between two tries of one upstream that broke off, and how long a busy one is left alone at most.
const RETRY: Duration = Duration::from_millis(200);
const BUSY_MAX: Duration = Duration::from_secs(30);
/// When all upstreams asked to be patient for so long, it is time to look again who has the log.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Until the next look whether another database of this machine has ended its bootstrap.
const ADMISSION_LOOK: Duration = Duration::from_millis(500);
/// When a source serves as many as it may.
const FULL_RETRY_MS: u64 = 2_000;
/// How often the log tells how far a bootstrap is.
const SAY_INTERVAL: Duration = Duration::from_secs(10);

/// The snapshots of this node, as transfers see them. Every call may touch the disk, and is made
/// where blocking is allowed.
pub trait SnapshotStore: Send + Sync + 'static {
    /// The right to bootstrap on this machine, for as long as it is kept; `None` while another
    /// database of it does.
    fn admission(&self) -> Result<Option<Box<dyn Send>>, ReadFailure>;
    /// What has come so far.
    fn partial(&self) -> Result<Option<Partial>, ReadFailure>;
    /// Another snapshot comes: forgets what had come, and keeps its manifest.
    fn begin(&self, manifest: &[u8]) -> Result<(), ReadFailure>;
    /// Keeps the next block.
    fn block(&self, number: u32, bytes: Bytes) -> Result<(), ReadFailure>;
    /// Nothing comes for now: what has come stays, and nothing waits for more.
    fn give_up(&self) -> Result<(), ReadFailure>;
    /// Every block is here: has it made what this node serves, which takes its time.
    fn install(&self) -> Result<BoxFuture<'static, Result<(), String>>, ReadFailure>;
    /// The one for others; none that ends before `at_least`.
    fn find(&self, at_least: Index) -> Result<Box<dyn ServedSnapshot>, NotNow>;
}

/// A snapshot that is served.
pub trait ServedSnapshot: Send + Sync {
    /// What it is.
    fn offered(&self) -> Offered;
    /// Reads a block.
    fn block(&self, number: u32) -> Result<Bytes, ReadFailure>;
}

/// There is no snapshot to serve at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotNow {
    /// When there may be one.
    pub retry_after_ms: u64,
    /// Why, for the other end's operator.
    pub why: String,
}

/// What serving needs.
#[derive(Clone)]
pub struct OfferContext {
    /// Where the snapshots are.
    pub snapshots: Arc<dyn SnapshotStore>,
    /// One permit for each transfer that may be served.
    pub transfers: Arc<Semaphore>,
    /// Most bytes a second, of each.
    pub bytes_per_second: u64,
}

/// Serves the transfer that a connection has begun.
pub(super) async fn serve<S>(
    mut connection: Connection<S>,
    visit: Visit,
    name: &NodeName,
    log: &Arc<dyn ReplicaLog>,
    context: OfferContext,
    deadlines: Deadlines,
    mut shutdown: watch::Receiver<bool>,
) -> SourceEnd
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let Visit { peer, arrival, clock } = visit;
    let mut arrival = Some(arrival);
    let mut session = OfferSession::new(name.local(log.identity()), deadlines, Millis::ZERO);
    let mut permit = None;
    let mut served: Option<Arc<dyn ServedSnapshot>> = None;
    let (mut throttle, mut sent_bytes) = (Throttle::new(Instant::now().into_std()), 0);
    let mut not_before = Instant::now();
    let end = loop {
        if *shutdown.borrow_and_update() {
            session.close(ByeReason::Restarting);
        }
        match connection.next_frame() {
            Ok(Decoded::Frame(frame)) => {
                session.frame(clock.now(), &frame);
                continue;
            }
            Ok(Decoded::Incomplete { .. }) => {}
            Err(e) => session.frame_error(&e),
        }
        let mut ended = None;
        while let Some(action) = session.poll() {
            match action {
                OfferAction::Send(frame) => connection.send(&frame),
                OfferAction::Close(end) => ended = Some(end),
                OfferAction::LookUp { at_least } => {
                    permit = context.transfers.clone().try_acquire_owned().ok();
                    let snapshots = context.snapshots.clone();
                    let found = match permit {
                        None => Err(NotNow {
                            retry_after_ms: FULL_RETRY_MS,
                            why: "it serves as many snapshots as it may".to_owned(),
                        }),
                        Some(_) => tokio::task::spawn_blocking(move || snapshots.find(at_least))
                            .await
                            .unwrap_or_else(|e| {
                                Err(NotNow { retry_after_ms: FULL_RETRY_MS, why: e.to_string() })
                            }),
                    };
                    match found {
                        Ok(found) => {
                            arrival = None;
                            session.found(clock.now(), &found.offered());
                            served = Some(found.into());
                        }
                        Err(NotNow { retry_after_ms, why }) => session.busy(retry_after_ms, why),
                    }
                }
            }
        }
        if let Some(end) = ended {
            break end;
        }
        let ready = connection.is_flushed() && Instant::now() >= not_before;
        if let (true, Some(number), Some(snapshot)) = (ready, session.wants_block(), &served) {
            let snapshot = snapshot.clone();
            match blocking(move || snapshot.block(number)).await {
                Ok(bytes) => {
                    sent_bytes += bytes.len() as u64;
                    let now = Instant::now();
                    let pause = throttle.pause(now.into(), sent_bytes, context.bytes_per_second);
                    not_before = now + pause;
                    session.block(bytes);
                }
                Err(error) => {
                    tracing::error!(
                        node = %name.node_id, peer, %error,
                        "a snapshot that is being served cannot be read; it is made anew"
                    );
                    session.close(ByeReason::Reset);
                }
            }
            continue;
        }
        let waits = session.wants_block().is_some() && connection.is_flushed();
        let deadline = clock.instant(session.next_deadline());
        let wake = if waits { deadline.min(not_before) } else { deadline };
        let stalled = connection.stalled_since().map(|since| since + STALL);
        tokio::select! {
            moved = connection.exchange(true) => match moved {
                Ok(Moved::Read(_) | Moved::Wrote) => {}
                Ok(Moved::Eof) => session.disconnected("closed by the receiver"),
                Err(e) => session.disconnected(e),
            },
            _ = shutdown.changed() => {}
            () = tokio::time::sleep_until(stalled.map_or(wake, |stalled| stalled.min(wake))) => {
                session.tick(clock.now());
                if stalled.is_some_and(|stalled| stalled <= Instant::now()) {
                    session.disconnected("the receiver reads nothing");
                }
            }
        }
    };
    let receiver = session.follower().map_or("(unknown)", |node| node.node_id.as_str());
    let reason = end.reason();
    tracing::info!(
        node = %name.node_id, peer, receiver, sent_bytes, reason, error = %end, "transfer ended"
    );
    // With its room, or its place among the transfers.
    connection.finish().await;
    drop((arrival, permit));
    end
}

/// What fetching needs.
#[derive(Clone)]
pub struct Fetching<D> {
    /// Who this node is.
    pub name: NodeName,
    /// Its log.
    pub log: Arc<dyn ReplicaLog>,
    /// Where snapshots go.
    pub snapshots: Arc<dyn SnapshotStore>,
    /// What an operator sees; `None` when nothing is fetched.
    pub status: watch::Sender<Option<BootstrapStatus>>,
    /// Makes connections.
    pub dial: D,
    /// The timeouts.
    pub deadlines: Deadlines,
}

/// How one connection went.
struct Tried {
    end: FetchEnd,
    /// Whether something came.
    progress: bool,
}

impl<D: Dial> Fetching<D> {
    /// Fetches a snapshot from one of `upstreams`, tried in turn, and makes it what this node serves.
    /// It goes on for as long as one of them sends something, and for a while when all they do is ask to
    /// be patient: then it is time to look again who has what. Their logs begin at
    /// `oldest`, or earlier: a snapshot that ends before that leads nowhere.
    ///
    /// # Errors
    /// Why none could help, or this node could not take it.
    pub(super) async fn run(
        &self,
        upstreams: &[Address],
        oldest: Index,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<(), String> {
        let _admission = self.admission(shutdown).await?;
        let fetched = self.fetch(upstreams, oldest, shutdown).await;
        if fetched.is_ok() {
            self.status.send_modify(|status| {
                if let Some(status) = status {
                    "restoring".clone_into(&mut status.state);
                }
            });
            let snapshots = self.snapshots.clone();
            let installed = match blocking(move || snapshots.install()).await {
                Ok(installing) => installing.await,
                Err(e) => Err(e.to_string()),
            };
            self.status.send_replace(None);
            return installed;
        }
        let snapshots = self.snapshots.clone();
        if let Err(error) = blocking(move || snapshots.give_up()).await {
            tracing::warn!(node = %self.name.node_id, %error, "some of it will be fetched again");
        }
        self.status.send_replace(None);
        fetched
    }

    async fn admission(
        &self,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<Box<dyn Send>, String> {
        loop {
            let snapshots = self.snapshots.clone();
            let admission = blocking(move || snapshots.admission()).await;
            match admission.map_err(|e| e.to_string())? {
                Some(admission) => return Ok(admission),
                None => {
                    let waiting = BootstrapStatus {
                        state: "waiting for another database of this machine".to_owned(),
                        ..BootstrapStatus::default()
                    };
                    self.status.send_replace(Some(waiting));
                    pause(ADMISSION_LOOK, shutdown).await?;
                }
            }
        }
    }

    async fn fetch(
        &self,
        upstreams: &[Address],
        oldest: Index,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<(), String> {
        let mut last = String::from("there is no upstream");
        let mut progressed = Instant::now();
        loop {
            let (mut again, mut wait) = (false, RETRY);
            for address in upstreams {
                let Tried { end, progress } = self.try_one(address, oldest, shutdown).await?;
                again |= progress;
                if progress {
                    progressed = Instant::now();
                }
                metrics::bootstrap_transfer_ended(&end);
                let (node, reason) = (&self.name.node_id, end.reason());
                match end {
                    FetchEnd::Complete => {
                        tracing::info!(%node, upstream = %address, reason, "snapshot fetched");
                        return Ok(());
                    }
                    FetchEnd::GivenUp(_) => return Err(LEAVING.to_owned()),
                    FetchEnd::Busy { retry_after_ms, .. } => {
                        again = true;
                        wait = wait.max(Duration::from_millis(retry_after_ms)).min(BUSY_MAX);
                    }
                    _ => {}
                }
                tracing::warn!(
                    %node, upstream = %address, reason, error = %end,
                    "no snapshot from this upstream yet"
                );
                last = format!("{address}: {end}");
                self.status.send_modify(|status| {
                    if let Some(status) = status {
                        status.last_error = Some(last.clone());
                    }
                });
            }
            // What was so when it began need not be so any more: perhaps one of them has the log now.
            if !again || progressed.elapsed() >= LOOK_AGAIN {
                return Err(last);
            }
            pause(wait, shutdown).await?;
        }
    }

    async fn try_one(
        &self,
        address: &Address,
        oldest: Index,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<Tried, String> {
        let lost = |e: &dyn std::fmt::Display| {
            Ok(Tried { end: FetchEnd::Lost(e.to_string()), progress: false })
        };
        let patience = Duration::from_millis(self.deadlines.handshake_ms);
        let dialled = tokio::select! {
            dialled = tokio::time::timeout(patience, self.dial.dial(address)) => dialled,
            _ = shutdown.wait_for(|down| *down) => return Err(LEAVING.to_owned()),
        };
        let stream = match dialled {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => return lost(&e),
            Err(_) => return lost(&format!("no connection within {patience:?}")),
        };
        let snapshots = self.snapshots.clone();
        let partial = blocking(move || snapshots.partial()).await.map_err(|e| e.to_string())?;
        let mut connection = Connection::new(stream, Decoder::of_source_bytes());
        let shown = Shown::new(address, partial.as_ref());
        let (me, own) = (self.name.local(self.log.identity()), self.log.end());
        let clock = Clock::start();
        let session = FetchSession::new(me, own, oldest, partial, self.deadlines, clock.now());
        let tried = self.receive(&mut connection, session, clock, shown, shutdown).await;
        connection.finish().await;
        tried
    }

    async fn receive<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        connection: &mut Connection<S>,
        mut session: FetchSession,
        clock: Clock,
        mut shown: Shown,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<Tried, String> {
        loop {
            if *shutdown.borrow_and_update() {
                session.leave(clock.now(), ByeReason::Restarting);
            }
            while let Some(action) = session.poll() {
                let snapshots = self.snapshots.clone();
                match action {
                    FetchAction::Send(frame) => connection.send(&frame),
                    FetchAction::Begin { encoded, manifest, identity } => {
                        shown.begin(identity, &manifest);
                        blocking(move || snapshots.begin(&encoded))
                            .await
                            .map_err(|e| e.to_string())?;
                        session.not_reading(clock.now());
                    }
                    FetchAction::Block { number, bytes } => {
                        shown.received(bytes.len(), &self.status);
                        blocking(move || snapshots.block(number, bytes))
                            .await
                            .map_err(|e| e.to_string())?;
                        session.not_reading(clock.now());
                    }
                    FetchAction::Close(end) => {
                        return Ok(Tried { end, progress: shown.new_bytes > 0 });
                    }
                }
            }
            match connection.next_frame() {
                Ok(Decoded::Frame(frame)) => {
                    let now = clock.now();
                    heavy(frame.payload.len(), || session.frame(now, &frame));
                    continue;
                }
                Ok(Decoded::Incomplete { .. }) => {}
                Err(e) => {
                    session.frame_error(clock.now(), &e);
                    continue;
                }
            }
            tokio::select! {
                moved = connection.exchange(true) => match moved {
                    Ok(Moved::Read(bytes)) => session.bytes(clock.now(), bytes),
                    Ok(Moved::Wrote) => {}
                    Ok(Moved::Eof) => session.disconnected("closed by the source"),
                    Err(e) => session.disconnected(e),
                },
                _ = shutdown.changed() => {}
                () = tokio::time::sleep_until(clock.instant(session.next_deadline())) => {
                    session.tick(clock.now());
                }
            }
        }
    }
}

const LEAVING: &str = "this node is leaving";

async fn pause(wait: Duration, shutdown: &mut watch::Receiver<bool>) -> Result<(), String> {
    tokio::select! {
        () = tokio::time::sleep(wait) => Ok(()),
        _ = shutdown.wait_for(|down| *down) => Err(LEAVING.to_owned()),
    }
}

/// What an operator sees of a transfer.
struct Shown {
    status: BootstrapStatus,
    began: Instant,
    said: Instant,
    new_bytes: u64,
}

impl Shown {
    fn new(address: &Address, partial: Option<&Partial>) -> Self {
        let mut status = BootstrapStatus {
            state: "fetching".to_owned(),
            upstream: address.to_string(),
            ..BootstrapStatus::default()
        };
        if let Some(Partial { identity, manifest, next_block }) = partial {
            about(&mut status, *identity, manifest);
            let here = manifest.blocks.iter().take(*next_block as usize);
            status.done_bytes = here.map(|block| u64::from(block.bytes)).sum();
        }
        let now = Instant::now();
        Shown { status, began: now, said: now, new_bytes: 0 }
    }

    fn begin(&mut self, identity: SnapshotHash, manifest: &Manifest) {
        about(&mut self.status, identity, manifest);
        self.status.done_bytes = 0;
    }

    fn received(&mut self, bytes: usize, shown: &watch::Sender<Option<BootstrapStatus>>) {
        let status = &mut self.status;
        self.new_bytes += bytes as u64;
        status.done_bytes += bytes as u64;
        let seconds = self.began.elapsed().as_secs_f64().max(1e-3);
        status.bytes_per_second = self.new_bytes as f64 / seconds;
        let left = status.total_bytes.saturating_sub(status.done_bytes) as f64;
        status.eta_seconds = Some(left / status.bytes_per_second);
        if self.said.elapsed() >= SAY_INTERVAL {
            self.said = Instant::now();
            let (done, total) = (status.done_bytes, status.total_bytes);
            tracing::info!(
                upstream = status.upstream,
                done,
                total,
                bytes_per_second = status.bytes_per_second as u64,
                "fetching a snapshot"
            );
        }
        shown.send_replace(Some(status.clone()));
    }
}

fn about(status: &mut BootstrapStatus, identity: SnapshotHash, manifest: &Manifest) {
    status.snapshot = identity.to_string();
    status.index = Index::get(manifest.end.position.index);
    status.total_bytes = manifest.blocks_bytes();
}
