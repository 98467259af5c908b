//! One replicator, from its configuration to its end. The only place that wires the layers.
//!
//! A life:
//! 1. Sockets that systemd handed over are taken, before any thread starts.
//! 2. The role lock is taken, or waited for beside the process that has it (`standby`). With it the
//!    store is opened: from here on this is the one writer.
//! 3. The writer's thread starts (`writer_thread`): a sequencer at a root, an applier at a relay.
//!    Beside it the maintenance starts (`maintenance`): compaction, snapshots, verification.
//! 4. Listeners are bound or taken, and served; systemd is told READY=1.
//! 5. On SIGHUP the configuration is read again (`reload`).
//! 6. On SIGTERM or SIGINT the doors close, everybody is asked to leave, what was sent is decided and
//!    answered, and with the writer's thread the role lock is released; replies that are still on
//!    their way get a while.
//!
//! A storage that failed ends the process too: what is on disk is then looked at anew by the
//! next one.

mod headroom;
mod logging;
mod maintenance;
mod node;
mod notify;
mod outlets;
mod readers;
mod reload;
mod replica_log;
mod replication;
mod resident;
mod snapshots;
mod standby;
mod writer_thread;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use quicksilver_format::{Index, ProcessId};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use self::headroom::{HeadroomView, Needs};
use self::logging::Level;
use self::node::{LastError, Replicator};
use self::outlets::Aftermath;
use self::readers::ReadersView;
use self::reload::Reload;
use self::replica_log::StoredLog;
use self::replication::Replication;
use self::snapshots::Snapshots;
use self::writer_thread::{Orders, WriterThread};
use crate::config::{Config, Role};
use crate::metrics;
use crate::net::leaving::Leaving;
use crate::net::listen::{SocketName, Sockets, check_plaintext};
use crate::net::node::Node;
use crate::net::{http, resp};
use crate::store::Store;
use crate::store::maintenance::{Maintenance, StoreAccess};

/// How long what clients have sent may take to be decided after the doors were closed, before they
/// are told to send it again. A commit takes milliseconds; nobody else writes meanwhile.
const SETTLE_DEADLINE: Duration = Duration::from_secs(2);
/// How long connections then get to take their last replies, when nobody else serves meanwhile, and
/// when the next process does.
const DRAIN_ALONE: Duration = Duration::from_secs(1);
const DRAIN_BESIDE: Duration = Duration::from_secs(20);
/// How often it is looked whether there is a next process.
const SUCCESSOR_LOOK: Duration = Duration::from_millis(10);
/// Threads that serve sockets. Reads are microseconds; more would only contend.
const NETWORK_THREADS: usize = 4;

/// Why a replicator did not start, or ended.
pub type DaemonError = Box<dyn std::error::Error + Send + Sync>;

/// Runs until told to stop. `config` is what was read from `path`, which SIGHUP reads again.
pub fn run(config: Config, path: &Path) -> Result<(), DaemonError> {
    let sockets = Sockets::take()?;
    let level = logging::init(&config.logging)?;
    logging::abort_on_panic();
    let signals = Told::listen()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(NETWORK_THREADS)
        .thread_name("net")
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(live(Arc::new(config), path, sockets, level, signals));
    runtime.shutdown_background();
    outcome
}

/// What the process was told by signals.
struct Told {
    /// To stop.
    stop: Arc<watch::Sender<bool>>,
    /// To read its configuration again: how often.
    reload: watch::Receiver<u64>,
}

impl Told {
    fn listen() -> Result<Self, DaemonError> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        let stop = Arc::new(watch::Sender::new(false));
        let (reloads, reload) = watch::channel(0);
        let on_signal = stop.clone();
        thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                if signal == SIGHUP {
                    reloads.send_modify(|n| *n += 1);
                } else {
                    tracing::info!(signal, "stopping");
                    on_signal.send_replace(true);
                }
            }
        })?;
        Ok(Told { stop, reload })
    }
}

async fn live(
    config: Arc<Config>,
    path: &Path,
    sockets: Sockets,
    level: Level,
    told: Told,
) -> Result<(), DaemonError> {
    // Who starts a second process by hand wants to hear that there is a first.
    let may_wait = !sockets.is_empty() || notify::is_managed();
    let mut stopped = told.stop.subscribe();
    let Some(store) = standby::become_writer(&config, may_wait, &mut stopped).await? else {
        return Ok(());
    };
    let daemon = Daemon::start(config, sockets, store, &told)?;
    daemon.reload_when_told(path, level, told.reload);
    daemon.serve().await
}

/// A replicator whose writer's thread runs.
struct Daemon {
    config: Arc<Config>,
    sockets: Sockets,
    replicator: Arc<Replicator>,
    clients: Arc<resp::Service>,
    replication: Replication,
    reader_bound: watch::Sender<Duration>,
    needs: watch::Sender<Needs>,
    leaving: Leaving,
    stopped: watch::Receiver<bool>,
    writer: WriterThread,
    maintenance: Maintenance,
    maintenance_thread: thread::JoinHandle<()>,
    last_error: LastError,
}

fn bytes(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

impl Daemon {
    fn start(
        config: Arc<Config>,
        sockets: Sockets,
        store: Store,
        told: &Told,
    ) -> Result<Self, DaemonError> {
        let prometheus = metrics::install(&config.name)?;
        tracing::info!(
            name = config.name, db_id = %config.db_id, node = %config.node_id,
            role = config.role.as_str(), dir = %config.data_dir.display(),
            index = %store.end().index, "opened"
        );
        let reader = store.reader()?;
        let had_data = store.end().index != Index::ZERO;
        let last_error = LastError::default();
        let (log, durable) = StoredLog::new(&store);
        // What is configured is what the operator wants to be told to others.
        let client = config.listen.client.clone().or_else(|| sockets.address(SocketName::Client));
        let replication =
            Replication::new(&config, client.as_ref(), ProcessId::random(), log, &store);
        let failed = Arc::new(AtomicBool::new(false));
        let fail = {
            let (failed, stop) = (failed.clone(), told.stop.clone());
            move || {
                failed.store(true, Ordering::Relaxed);
                stop.send_replace(true);
            }
        };
        let (generations, holds) = (durable.clone(), store.holds().clone());
        let live = durable.clone();
        let aftermath = Aftermath {
            feed: replication.feed(),
            durable,
            last_error: last_error.clone(),
            rebuild: replication.rebuild(),
            fail: Box::new(fail),
        };
        let writer = WriterThread::start(&config, store, aftermath, failed)?;
        let access = StoreAccess {
            dir: config.data_dir.clone(),
            live: Box::new(move || replica_log::durable(&generations).environment),
            order: {
                let orders = writer.orders().clone();
                Box::new(move |order| orders.store(order))
            },
            holds: holds.clone(),
        };
        tokio::spawn(replication.hold_log(holds.clone()));
        let (maintenance, maintenance_thread) =
            Maintenance::start(access, maintenance::settings(&config))?;
        let snapshots = Arc::new(Snapshots::new(
            config.data_dir.clone(),
            live,
            holds.clone(),
            maintenance.clone(),
        ));
        replication.attach_snapshots(snapshots.clone());
        tokio::spawn(async move {
            let mut looks = tokio::time::interval(Duration::from_secs(10));
            loop {
                looks.tick().await;
                snapshots.let_go();
            }
        });
        if let Some(rebuild) = replication.rebuild() {
            tokio::spawn(maintenance::rebuild_when_damaged(maintenance.clone(), rebuild));
        }
        if let Orders::Relay(commands) = writer.orders() {
            replication.attach_writer(commands.clone());
        }
        let replicator = Arc::new(Replicator {
            config: config.clone(),
            client,
            reader,
            orders: writer.orders().clone(),
            maintenance: maintenance.clone(),
            holds,
            replication: replication.view(),
            last_error: last_error.clone(),
            had_data,
            readers: ReadersView::default(),
            headroom: HeadroomView::default(),
            prometheus,
        });
        let clients = resp::Service::new(replicator.clone(), resp::ClientLimits::of(&config));
        let reader_bound =
            watch::Sender::new(Duration::from_secs(config.limits.reader_warn_seconds));
        let needs = watch::Sender::new(Needs::of(&config));
        let stopped = told.stop.subscribe();
        Ok(Daemon {
            config,
            sockets,
            replicator,
            clients,
            replication,
            reader_bound,
            needs,
            leaving: Leaving::new(),
            stopped,
            writer,
            maintenance,
            maintenance_thread,
            last_error,
        })
    }

    fn reload_when_told(&self, path: &Path, level: Level, asked: watch::Receiver<u64>) {
        let reload = Reload {
            path: path.to_owned(),
            running: self.config.clone(),
            level,
            orders: self.writer.orders().clone(),
            maintenance: self.maintenance.clone(),
            upstreams: self.replication.upstreams(),
            reader_bound: self.reader_bound.clone(),
            needs: self.needs.clone(),
            quota: self.replication.quota(),
        };
        tokio::spawn(reload.run(asked));
    }

    async fn serve(mut self) -> Result<(), DaemonError> {
        let mut tasks = JoinSet::new();
        let node: Arc<dyn Node> = self.replicator.clone();
        let listen = self.config.listen.clone();
        let plaintext = self.config.insecure.plaintext;
        for listener in self.sockets.listeners(SocketName::Client, listen.client.as_ref()).await? {
            let address = listener.local_address()?;
            check_plaintext(SocketName::Client, &address, plaintext)?;
            tracing::info!(%address, "serving clients");
            tasks.spawn(resp::serve(listener, self.clients.clone(), self.leaving.door()));
        }
        let replication_address = listen.replication.as_ref();
        for listener in self.sockets.listeners(SocketName::Replication, replication_address).await?
        {
            let address = listener.local_address()?;
            check_plaintext(SocketName::Replication, &address, plaintext)?;
            tracing::info!(%address, "serving downstreams");
            tasks.spawn(self.replication.serve(listener, self.leaving.door()));
        }
        // Last: whoever hears from a probe that it lives finds every door open.
        for listener in self.sockets.listeners(SocketName::Http, listen.http.as_ref()).await? {
            tracing::info!(address = %listener.local_address()?, "serving http");
            tasks.spawn(http::serve(listener, node.clone(), self.leaving.door()));
        }
        let follow = match self.config.role {
            Role::Relay => Some(tokio::spawn(self.replication.follow(self.leaving.inside()))),
            Role::Root => None,
        };
        notify::notify("READY=1\nSTATUS=serving");
        let pulse = self.writer.pulse().clone();
        tokio::spawn(async move {
            let patience = notify::watchdog_interval().unwrap_or_default();
            notify::feed_watchdog(|| node.live().is_ok() && pulse.age() < patience).await;
        });
        let (reader, view) = (self.replicator.reader.clone(), self.replicator.readers.clone());
        tokio::spawn(readers::watch(reader, view, self.reader_bound.subscribe()));
        let (reader, view) = (self.replicator.reader.clone(), self.replicator.headroom.clone());
        let quota = self.replication.quota().subscribe();
        tokio::spawn(headroom::watch(reader, view, self.needs.subscribe(), quota));
        tokio::spawn(resident::watch(self.replicator.reader.clone()));
        let _ = self.stopped.wait_for(|stopping| *stopping).await;
        self.leave(tasks, follow).await
    }

    /// Closes the doors, decides what was let in, releases the role lock, and lets everybody finish.
    async fn leave(
        self,
        tasks: JoinSet<()>,
        follow: Option<JoinHandle<()>>,
    ) -> Result<(), DaemonError> {
        let began = Instant::now();
        notify::notify("STOPPING=1\nSTATUS=leaving");
        self.maintenance.end();
        self.writer.orders().hurry();
        let settled = tokio::time::timeout(SETTLE_DEADLINE, async {
            self.leaving.close_doors().await;
            self.leaving.leave();
            self.clients.settled().await;
            if let Some(follow) = follow {
                // What came from the upstream is with the writer.
                let _ = follow.await;
            }
        });
        if settled.await.is_err() {
            self.leaving.leave();
            tracing::warn!(
                seconds = SETTLE_DEADLINE.as_secs(),
                "writes that are not decided are told to come again"
            );
        }
        let (writer, maintenance) = (self.writer, self.maintenance_thread);
        let end = move || {
            // It writes as the writer, whose role is given up below. A panic has ended the process.
            let _ = maintenance.join();
            writer.end()
        };
        let in_order = tokio::task::spawn_blocking(end).await.unwrap_or(false);
        let wrote_for = began.elapsed();
        drain(tasks, &self.replicator).await;
        if !in_order {
            return Err(self
                .last_error
                .get()
                .unwrap_or_else(|| "the storage failed".into())
                .into());
        }
        tracing::info!(writer_ms = ms(wrote_for), total_ms = ms(began.elapsed()), "stopped");
        Ok(())
    }
}

/// Waits until the last connection has its replies: for a short while, and for longer once another
/// process serves in place of this one.
async fn drain(mut tasks: JoinSet<()>, replicator: &Replicator) {
    let began = Instant::now();
    let finished = async { while tasks.join_next().await.is_some() {} };
    let too_long = async {
        let mut looks = tokio::time::interval(SUCCESSOR_LOOK);
        loop {
            looks.tick().await;
            let deadline = if replicator.has_successor() { DRAIN_BESIDE } else { DRAIN_ALONE };
            if began.elapsed() >= deadline {
                return;
            }
        }
    };
    tokio::select! {
        () = finished => return,
        () = too_long => {}
    }
    let seconds = began.elapsed().as_secs();
    tracing::warn!(seconds, "connections that did not take their replies are cut");
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
