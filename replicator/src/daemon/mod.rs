//! One replicator, from its configuration to its end. The only place that wires the layers.
//!
//! A life:
//! 1. Sockets that systemd handed over are taken, before any thread starts.
//! 2. The store is opened, which takes the role lock: from here on this is the one writer.
//! 3. The writer's thread starts: a sequencer at a root, an applier at a relay.
//! 4. Listeners are bound or taken, and served; systemd is told READY=1.
//! 5. On SIGTERM or SIGINT the doors close, what was let in is answered, the writer's thread
//!    ends, and with the store the role lock is released.
//!
//! A storage that failed ends the process too: what is on disk is then looked at anew by the
//! next one.

mod logging;
mod node;
mod notify;
mod outlets;
mod readers;
mod replica_log;
mod replication;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use quicksilver_format::{HistoryId, Index, ProcessId};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::node::{LastError, Replicator};
use self::outlets::{Aftermath, ReplicaOutlet, RootOutlet};
use self::readers::ReadersView;
use self::replica_log::StoredLog;
use self::replication::Replication;
use crate::config::{Config, Role};
use crate::metrics;
use crate::net::listen::{SocketName, Sockets, check_plaintext};
use crate::net::node::Node;
use crate::net::{http, resp};
use crate::root::finalize::Alone;
use crate::root::queue;
use crate::root::sequencer::{Sequencer, Settings};
use crate::store::{Retention, Sizes, Store, writer};

/// How long connections get to finish after the doors were closed.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// Threads that serve sockets. Reads are microseconds; more would only contend.
const NETWORK_THREADS: usize = 4;

/// Why a replicator did not start, or ended.
pub type DaemonError = Box<dyn std::error::Error + Send + Sync>;

/// Runs until told to stop.
pub fn run(config: Config) -> Result<(), DaemonError> {
    let sockets = Sockets::take()?;
    logging::init(&config.logging)?;
    logging::abort_on_panic();
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let (stop, stopped) = watch::channel(false);
    let stop = Arc::new(stop);
    let on_signal = stop.clone();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            tracing::info!(signal, "stopping");
            on_signal.send_replace(true);
        }
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(NETWORK_THREADS)
        .thread_name("net")
        .enable_all()
        .build()?;
    let outcome =
        runtime.block_on(Daemon::start(Arc::new(config), sockets, stop, stopped)?.serve());
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// A replicator whose writer's thread runs.
struct Daemon {
    config: Arc<Config>,
    sockets: Sockets,
    replicator: Arc<Replicator>,
    replication: Replication,
    stopped: watch::Receiver<bool>,
    writer: WriterThread,
    last_error: LastError,
}

/// The thread that owns the store.
struct WriterThread {
    thread: JoinHandle<()>,
    /// Tells it to finish.
    end: Box<dyn Fn() + Send>,
    /// Whether it ended because the storage failed.
    failed: Arc<AtomicBool>,
}

fn bytes(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn open_store(config: &Config) -> Result<Store, DaemonError> {
    let sizes =
        Sizes { map_bytes: bytes(config.limits.map_bytes), max_readers: config.limits.max_readers };
    // A relay learns the history from its upstream.
    let history = match config.role {
        Role::Root => HistoryId::random(),
        Role::Relay => HistoryId::NONE,
    };
    let mut store = Store::open(&config.data_dir, config.db_id, history, sizes)?;
    store.set_retention(Retention {
        max_age_us: config.retention.hours.saturating_mul(3_600_000_000),
        max_bytes: config.retention.bytes,
    });
    Ok(store)
}

impl Daemon {
    fn start(
        config: Arc<Config>,
        sockets: Sockets,
        stop: Arc<watch::Sender<bool>>,
        stopped: watch::Receiver<bool>,
    ) -> Result<Self, DaemonError> {
        let prometheus = metrics::install(&config.name)?;
        let store = open_store(&config)?;
        tracing::info!(
            name = config.name, db_id = %config.db_id, node = %config.node_id,
            role = config.role.as_str(), dir = %config.data_dir.display(),
            index = %store.end().index, "opened"
        );
        let reader = store.reader()?;
        let had_data = store.end().index != Index::ZERO;
        let last_error = LastError::default();
        let (log, durable) = StoredLog::new(&store);
        let replication = Replication::new(&config, ProcessId::random(), log, &store);
        let failed = Arc::new(AtomicBool::new(false));
        let fail = {
            let failed = failed.clone();
            move || {
                failed.store(true, Ordering::Relaxed);
                stop.send_replace(true);
            }
        };
        let aftermath = Aftermath {
            feed: replication.feed(),
            durable,
            last_error: last_error.clone(),
            fail: Box::new(fail),
        };
        let (writer, writes) = match config.role {
            Role::Root => {
                let (writes, submissions) = queue::queue(
                    bytes(config.limits.max_value_bytes),
                    bytes(config.batch.max_bytes),
                );
                let settings = Settings {
                    window_ms: config.batch.window_ms,
                    max_batch_bytes: bytes(config.batch.max_bytes),
                    max_db_bytes: config.limits.max_db_bytes,
                    heartbeat_interval: Duration::from_millis(config.root.heartbeat_ms),
                };
                let outlet = RootOutlet(aftermath);
                let end = Arc::new(AtomicBool::new(false));
                let sequencer =
                    Sequencer::new(Alone::new(store), outlet, submissions, settings, end.clone());
                let thread = std::thread::Builder::new()
                    .name("sequencer".into())
                    .spawn(move || sequencer.run())?;
                let end = Box::new(move || end.store(true, Ordering::Relaxed));
                (WriterThread { thread, end, failed }, Some(writes))
            }
            Role::Relay => {
                let (commands, received) = std::sync::mpsc::channel();
                let mut outlet = ReplicaOutlet(aftermath);
                let thread = std::thread::Builder::new()
                    .name("writer".into())
                    .spawn(move || writer::run(store, &received, &mut outlet))?;
                replication.attach_writer(commands.clone());
                let end = Box::new(move || {
                    let _ = commands.send(writer::Command::Stop);
                });
                (WriterThread { thread, end, failed }, None)
            }
        };
        let replicator = Arc::new(Replicator {
            config: config.clone(),
            reader,
            writes,
            replication: replication.view(),
            last_error: last_error.clone(),
            had_data,
            readers: ReadersView::default(),
            prometheus,
        });
        Ok(Daemon { config, sockets, replicator, replication, stopped, writer, last_error })
    }

    async fn serve(mut self) -> Result<(), DaemonError> {
        let mut tasks = JoinSet::new();
        let node: Arc<dyn Node> = self.replicator.clone();
        let listen = self.config.listen.clone();
        let clients = resp::Service::new(node.clone(), resp::ClientLimits::of(&self.config));
        for listener in self.sockets.listeners(SocketName::Client, listen.client.as_ref()).await? {
            let address = listener.local_address()?;
            check_plaintext(SocketName::Client, &address, self.config.insecure.plaintext)?;
            tracing::info!(%address, "serving clients");
            tasks.spawn(resp::serve(listener, clients.clone(), self.stopped.clone()));
        }
        for listener in self.sockets.listeners(SocketName::Http, listen.http.as_ref()).await? {
            tracing::info!(address = %listener.local_address()?, "serving http");
            tasks.spawn(http::serve(listener, node.clone(), self.stopped.clone()));
        }
        let replication_address = listen.replication.as_ref();
        for listener in self.sockets.listeners(SocketName::Replication, replication_address).await?
        {
            let address = listener.local_address()?;
            check_plaintext(SocketName::Replication, &address, self.config.insecure.plaintext)?;
            tracing::info!(%address, "serving downstreams");
            tasks.spawn(self.replication.serve(listener, self.stopped.clone()));
        }
        if self.config.role == Role::Relay {
            tasks.spawn(self.replication.follow(self.stopped.clone()));
        }
        notify::notify("READY=1");
        tokio::spawn(watchdog(node));
        let bound = Duration::from_secs(self.config.limits.reader_warn_seconds);
        let (reader, view) = (self.replicator.reader.clone(), self.replicator.readers.clone());
        tokio::spawn(readers::watch(reader, view, bound));
        let _ = self.stopped.wait_for(|stopping| *stopping).await;
        self.end(tasks).await
    }

    /// Closes the doors, lets everybody finish, and releases the role lock.
    async fn end(self, mut tasks: JoinSet<()>) -> Result<(), DaemonError> {
        notify::notify("STOPPING=1");
        (self.writer.end)();
        let drained = tokio::time::timeout(DRAIN_DEADLINE, async {
            while tasks.join_next().await.is_some() {}
        });
        if drained.await.is_err() {
            tracing::warn!(
                seconds = DRAIN_DEADLINE.as_secs(),
                "connections that did not finish are cut"
            );
            tasks.abort_all();
        }
        let thread = self.writer.thread;
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        if self.writer.failed.load(Ordering::Relaxed) {
            return Err(self
                .last_error
                .get()
                .unwrap_or_else(|| "the storage failed".into())
                .into());
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// Tells the watchdog that the network and the storage are alive.
async fn watchdog(node: Arc<dyn Node>) {
    let Some(interval) = notify::watchdog_interval() else { return };
    let mut ticks = tokio::time::interval(interval);
    loop {
        ticks.tick().await;
        if node.live().is_ok() {
            notify::notify("WATCHDOG=1");
        }
    }
}
