//! Wires the replication sessions: whom this node follows, and who follows it.

use std::future::Future;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use quicksilver_format::status::NodeState;
use quicksilver_format::{Address, Batch, ControlRecord, Heartbeat, HistoryId, Index, ProcessId};
use quicksilver_protocol::{Deadlines, Lineage, Quota};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::replica_log::StoredLog;
use super::snapshots::Snapshots;
use crate::config::{self, Config, Role};
use crate::metrics;
use crate::net::leaving::Door;
use crate::net::listen::Listener;
use crate::net::node::{BootstrapStatus, DownstreamStatus, UpstreamStatus};
use crate::net::replication::{
    self, BatchSink, Downstreams, Feed, FeedLimits, Fetching, FollowContext, NetDial, NodeName,
    OfferContext, ReplicaLog, ServeContext, UpstreamState, Upstreams, admit, serve_downstream,
};
use crate::store::Store;
use crate::store::hold::{LogHold, LogHolds};
use crate::store::writer::Command;

/// When no snapshot could be had for a damaged node, it follows for so long before the next try.
const REBUILD_RETRY: Duration = Duration::from_secs(60);

/// How exactly the log is held for downstreams.
const HOLD_INTERVAL: Duration = Duration::from_millis(100);

/// Towards the writer's thread.
#[derive(Debug, Clone)]
struct WriterSink(Sender<Command>);

impl WriterSink {
    fn send(&self, command: Command) {
        // A writer that has ended has said why, and the process is about to end.
        let _ = self.0.send(command);
    }
}

impl BatchSink for WriterSink {
    fn apply(&self, batch: Batch) {
        metrics::batch(&batch);
        self.send(Command::Apply(batch));
    }

    fn adopt_history(&self, history: HistoryId) {
        self.send(Command::AdoptHistory(history));
    }

    fn control(&self, record: ControlRecord) {
        if let Ok(Some(heartbeat)) = Heartbeat::from_record(&record) {
            self.send(Command::Heartbeat(heartbeat));
        }
    }
}

/// What replication needs for as long as the process lives.
pub(super) struct Replication {
    name: NodeName,
    role: Role,
    upstreams: watch::Sender<Upstreams>,
    log: Arc<dyn ReplicaLog>,
    feed: Arc<Feed>,
    downstreams: Arc<Downstreams>,
    lineage: watch::Sender<Lineage>,
    quota: watch::Sender<Option<Quota>>,
    upstream: watch::Sender<replication::UpstreamStatus>,
    bootstrap: watch::Sender<Option<BootstrapStatus>>,
    snapshots: OnceLock<Arc<Snapshots>>,
    /// Whether this node's files are damaged, and are to be replaced.
    rebuild: watch::Sender<bool>,
    rules: config::Bootstrap,
    writer: Mutex<Option<WriterSink>>,
}

impl Replication {
    pub(super) fn new(
        config: &Config,
        client: Option<&Address>,
        process_id: ProcessId,
        log: StoredLog,
        store: &Store,
    ) -> Self {
        let name =
            NodeName { node_id: config.node_id.clone(), site: config.site.clone(), process_id };
        let me = name.local(store.identity());
        let lineage = match config.role {
            Role::Root => Lineage::root(&me, client.map(ToString::to_string).unwrap_or_default()),
            Role::Relay => Lineage::orphan(&me, String::new()),
        };
        Replication {
            name,
            role: config.role,
            upstreams: watch::Sender::new(upstreams(config)),
            log: Arc::new(log),
            feed: Arc::new(Feed::new(FeedLimits::default(), store.end())),
            downstreams: Downstreams::new(config.limits.max_downstreams),
            lineage: watch::Sender::new(lineage),
            quota: watch::Sender::new(own_quota(config)),
            upstream: watch::Sender::new(replication::UpstreamStatus::new()),
            bootstrap: watch::Sender::new(None),
            snapshots: OnceLock::new(),
            rebuild: watch::Sender::new(false),
            rules: config.bootstrap.clone(),
            writer: Mutex::new(None),
        }
    }

    pub(super) fn feed(&self) -> Arc<Feed> {
        self.feed.clone()
    }

    /// Where batches from the upstream go.
    pub(super) fn attach_writer(&self, commands: Sender<Command>) {
        let sink = Some(WriterSink(commands));
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = sink;
    }

    /// Where it is said that this node's files are damaged; `None` where nothing follows from it.
    pub(super) fn rebuild(&self) -> Option<watch::Sender<bool>> {
        let rules = &self.rules;
        let rebuilds = self.role == Role::Relay && rules.enabled && rules.rebuild_damaged;
        rebuilds.then(|| self.rebuild.clone())
    }

    /// Where snapshots are fetched to, and served from.
    pub(super) fn attach_snapshots(&self, snapshots: Arc<Snapshots>) {
        // Once, before anything is served.
        let _ = self.snapshots.set(snapshots);
    }

    /// Where it is changed whom this node follows.
    pub(super) fn upstreams(&self) -> watch::Sender<Upstreams> {
        self.upstreams.clone()
    }

    /// How large the data may grow, as far as this node knows.
    pub(super) fn quota(&self) -> watch::Sender<Option<Quota>> {
        self.quota.clone()
    }

    /// What clients and operators see of it.
    pub(super) fn view(&self) -> ReplicationView {
        ReplicationView {
            role: self.role,
            downstreams: self.downstreams.clone(),
            lineage: self.lineage.subscribe(),
            upstream: self.upstream.subscribe(),
            bootstrap: self.bootstrap.subscribe(),
        }
    }

    /// Keeps the log that a connected downstream does not have yet from being collected.
    pub(super) fn hold_log(&self, holds: LogHolds) -> impl Future<Output = ()> + Send + use<> {
        let downstreams = self.downstreams.clone();
        async move {
            let mut hold: Option<LogHold> = None;
            let mut ticks = tokio::time::interval(HOLD_INTERVAL);
            loop {
                // Not with every batch of every downstream.
                ticks.tick().await;
                let listed = downstreams.list().into_iter();
                let slowest = listed
                    .filter(|downstream| downstream.node_id.is_some())
                    .map(|downstream| downstream.applied)
                    .min();
                hold = match (slowest, hold) {
                    (None, _) => None,
                    (Some(index), None) => Some(holds.hold(index)),
                    (Some(index), Some(hold)) => {
                        hold.move_to(index);
                        Some(hold)
                    }
                };
            }
        }
    }

    /// Accepts downstreams until the door is to be closed.
    pub(super) fn serve(
        &self,
        listener: Listener,
        mut door: Door,
    ) -> impl Future<Output = ()> + Send + use<> {
        let offer = self.snapshots.get().filter(|_| self.rules.max_served > 0);
        let offer = offer.map(|snapshots| OfferContext {
            snapshots: snapshots.clone(),
            transfers: Arc::new(Semaphore::new(self.rules.max_served)),
            bytes_per_second: self.rules.max_bytes_per_second,
        });
        let context = ServeContext {
            name: self.name.clone(),
            offer,
            log: self.log.clone(),
            feed: self.feed.clone(),
            lineage: self.lineage.subscribe(),
            quota: self.quota.subscribe(),
            downstreams: self.downstreams.clone(),
            deadlines: Deadlines::default(),
            shutdown: door.inside(),
        };
        async move {
            let mut sessions = JoinSet::new();
            loop {
                let stream = tokio::select! {
                    biased;
                    () = door.closing() => break,
                    Some(_) = sessions.join_next(), if !sessions.is_empty() => continue,
                    stream = listener.accept_patiently() => stream,
                };
                let (peer, context) = (stream.peer(), context.clone());
                let Some(arrival) = admit(&context, &peer) else { continue };
                sessions.spawn(async move {
                    serve_downstream(stream, peer, arrival, context).await;
                });
            }
            drop(listener);
            drop(door);
            while sessions.join_next().await.is_some() {}
        }
    }

    /// Follows the upstreams until told to stop; begins anew when they change.
    pub(super) fn follow(
        &self,
        mut stopped: watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let sink = self.writer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut upstreams = self.upstreams.subscribe();
        let rebuild = self.rebuild.clone();
        let (name, log, feed) = (self.name.clone(), self.log.clone(), self.feed.clone());
        let (lineage, quota) = (self.lineage.clone(), self.quota.clone());
        let status = self.upstream.clone();
        let snapshots = self.snapshots.get().filter(|_| self.rules.enabled);
        let fetching = snapshots.map(|snapshots| Fetching {
            name: name.clone(),
            log: log.clone(),
            snapshots: snapshots.clone(),
            status: self.bootstrap.clone(),
            dial: NetDial,
            deadlines: Deadlines::default(),
        });
        async move {
            let Some(sink) = sink else { return };
            let states = tokio::spawn(publish_state(status.subscribe(), sink.clone()));
            let context = FollowContext {
                name,
                log,
                feed,
                sink: Arc::new(sink),
                lineage,
                quota,
                status,
                fetching,
                dial: NetDial,
                deadlines: Deadlines::default(),
            };
            let mut stopping = false;
            let mut followed = upstreams.borrow_and_update().clone();
            // Of whom a snapshot can be had for a node whose files are damaged.
            let mut sources = Vec::new();
            while !stopping {
                let (end, ended) = watch::channel(false);
                let mut patience = Duration::ZERO;
                if upstreams.has_changed().unwrap_or_default() {
                    followed = upstreams.borrow_and_update().clone();
                    sources.clear();
                }
                if !sources.is_empty() {
                    if context.rebuild(&followed, &sources, &mut stopped).await {
                        rebuild.send_replace(false);
                    } else {
                        patience = REBUILD_RETRY;
                    }
                    sources.clear();
                }
                let session = replication::follow(followed.clone(), context.clone(), ended);
                let until = async {
                    let mut damaged = rebuild.subscribe();
                    let mut leaving = stopped.clone();
                    let rebuild_due = async {
                        tokio::time::sleep(patience).await;
                        // Its sender is here.
                        let _ = damaged.wait_for(|damaged| *damaged).await;
                        context.rebuild_sources(&followed, &mut leaving).await
                    };
                    tokio::select! {
                        _ = stopped.wait_for(|stopping| *stopping) => stopping = true,
                        // Its sender lives as long as the process.
                        _ = upstreams.changed() => upstreams.mark_changed(),
                        found = rebuild_due => sources = found,
                    }
                    end.send_replace(true);
                };
                tokio::join!(session, until);
            }
            states.abort();
        }
    }
}

/// What a root announces; a relay hears it from its upstream.
pub(super) fn own_quota(config: &Config) -> Option<Quota> {
    (config.role == Role::Root).then_some(Quota { max_db_bytes: config.limits.max_db_bytes })
}

/// Whom the configuration says to follow.
pub(super) fn upstreams(config: &Config) -> Upstreams {
    Upstreams {
        primary: config.upstream.primary.clone(),
        secondary: config.upstream.secondary.clone(),
    }
}

/// Keeps the status page's state to what the upstream's session says.
async fn publish_state(
    mut upstream: watch::Receiver<replication::UpstreamStatus>,
    sink: WriterSink,
) {
    let mut published = None;
    loop {
        let state = match upstream.borrow_and_update().state {
            UpstreamState::Following => NodeState::Following,
            UpstreamState::Diverged => NodeState::Diverged,
            UpstreamState::Disconnected
            | UpstreamState::WrongDatabase
            | UpstreamState::NeedsSnapshot { .. }
            | UpstreamState::Bootstrapping
            | UpstreamState::Idle => NodeState::Disconnected,
        };
        if published != Some(state) {
            sink.send(Command::SetState(state));
            published = Some(state);
        }
        if upstream.changed().await.is_err() {
            return;
        }
    }
}

/// What clients and operators see of replication.
pub(super) struct ReplicationView {
    role: Role,
    downstreams: Arc<Downstreams>,
    lineage: watch::Receiver<Lineage>,
    upstream: watch::Receiver<replication::UpstreamStatus>,
    bootstrap: watch::Receiver<Option<BootstrapStatus>>,
}

impl ReplicationView {
    /// The snapshot that is fetched, if one is.
    pub(super) fn bootstrap(&self) -> Option<BootstrapStatus> {
        self.bootstrap.borrow().clone()
    }

    /// The client address of the root, as far as it is known.
    pub(super) fn root_client(&self) -> Option<String> {
        Some(self.lineage.borrow().root_client.clone()).filter(|address| !address.is_empty())
    }

    /// Who is followed; `None` at a root.
    pub(super) fn upstream(&self) -> Option<UpstreamStatus> {
        if self.role == Role::Root {
            return None;
        }
        let upstream = self.upstream.borrow();
        let path = upstream.lineage.iter().flat_map(|lineage| &lineage.path);
        Some(UpstreamStatus {
            address: upstream.address.as_ref().map(ToString::to_string).unwrap_or_default(),
            connected: upstream.is_connected(),
            state: upstream.state.as_str().to_owned(),
            node_id: upstream.node_id.as_ref().map(ToString::to_string),
            protocol: upstream.protocol,
            path: path.map(|hop| hop.node_id.to_string()).collect(),
            last_error: upstream.last_error.clone(),
        })
    }

    /// Who follows.
    pub(super) fn downstreams(&self) -> Vec<DownstreamStatus> {
        let list = self.downstreams.list();
        list.into_iter()
            .filter_map(|downstream| {
                Some(DownstreamStatus {
                    node_id: downstream.node_id?.to_string(),
                    address: downstream.peer,
                    index: downstream.applied.get(),
                })
            })
            .collect()
    }

    /// Direct downstreams that have applied everything up to `index`.
    pub(super) fn replicas_at(&self, index: Index) -> usize {
        self.downstreams.count_with(index)
    }

    /// Changes whenever [`Self::replicas_at`] may have.
    pub(super) fn progress(&self) -> watch::Receiver<u64> {
        self.downstreams.progress()
    }
}
