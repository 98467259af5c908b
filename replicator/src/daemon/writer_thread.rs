//! The thread that owns the store: a sequencer at a root, an applier at a relay.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::bytes;
use super::outlets::{Aftermath, ReplicaOutlet, RootOutlet};
use crate::config::{Config, Role};
use crate::root::finalize::Alone;
use crate::root::queue::{self, Order, WriteQueue};
use crate::root::sequencer::{Sequencer, Settings};
use crate::store::writer::{self, Command};
use crate::store::{Pulse, Retention, Store, StoreOrder};

/// The way to the thread.
#[derive(Debug, Clone)]
pub(super) enum Orders {
    /// A root's sequencer.
    Root(WriteQueue),
    /// A relay's applier.
    Relay(Sender<Command>),
}

impl Orders {
    /// Goes on as this configuration says.
    pub(super) fn take_over(&self, config: &Config) {
        match self {
            Orders::Root(queue) => queue.order(Order::Use(settings(config))),
            Orders::Relay(_) => self.command(Command::SetRetention(retention(config))),
        }
    }

    /// Asks something of the store.
    pub(super) fn store(&self, order: StoreOrder) {
        match self {
            Orders::Root(queue) => queue.order(Order::Store(order)),
            Orders::Relay(_) => self.command(Command::Store(order)),
        }
    }

    /// Decides what comes at once: the process is leaving.
    pub(super) fn hurry(&self) {
        if let Orders::Root(queue) = self {
            queue.order(Order::Hurry);
        }
    }

    /// Answers who is in, commits what has arrived, and ends.
    fn finish(&self) {
        match self {
            Orders::Root(queue) => queue.order(Order::Finish),
            Orders::Relay(_) => self.command(Command::Stop),
        }
    }

    fn command(&self, command: Command) {
        if let Orders::Relay(commands) = self {
            // A writer that has ended has said why.
            let _ = commands.send(command);
        }
    }
}

/// The running thread.
#[derive(Debug)]
pub(super) struct WriterThread {
    thread: JoinHandle<()>,
    orders: Orders,
    pulse: Pulse,
    /// Whether it ended because the storage failed.
    failed: Arc<AtomicBool>,
}

impl WriterThread {
    /// Starts it. `failed` becomes true when it ends because the storage failed.
    pub(super) fn start(
        config: &Config,
        store: Store,
        aftermath: Aftermath,
        failed: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let pulse = Pulse::new();
        let beating = pulse.clone();
        let (thread, orders) = match config.role {
            Role::Root => {
                let max_value_bytes = bytes(config.limits.max_value_bytes);
                let (queue, submissions) =
                    queue::queue(max_value_bytes, bytes(config.batch.max_bytes));
                let (finalize, outlet) = (Alone::new(store), RootOutlet(aftermath));
                let sequencer =
                    Sequencer::new(finalize, outlet, submissions, settings(config), beating);
                let thread = thread::Builder::new().name("sequencer".into());
                (thread.spawn(move || sequencer.run())?, Orders::Root(queue))
            }
            Role::Relay => {
                let (commands, received) = mpsc::channel();
                let (mut store, mut outlet) = (store, ReplicaOutlet(aftermath));
                store.set_retention(retention(config));
                let run = move || writer::run(store, &received, &mut outlet, &beating);
                let thread = thread::Builder::new().name("writer".into()).spawn(run)?;
                (thread, Orders::Relay(commands))
            }
        };
        Ok(WriterThread { thread, orders, pulse, failed })
    }

    /// The way to it.
    pub(super) fn orders(&self) -> &Orders {
        &self.orders
    }

    /// What the watchdog feels.
    pub(super) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Ends the tenure as the writer: when this returns, the role lock is free. False when it ended
    /// by itself, because the storage failed.
    pub(super) fn end(self) -> bool {
        self.orders.finish();
        // A panic has ended the process.
        let _ = self.thread.join();
        !self.failed.load(Ordering::Relaxed)
    }
}

fn settings(config: &Config) -> Settings {
    Settings {
        window_ms: config.batch.window_ms,
        max_batch_bytes: bytes(config.batch.max_bytes),
        max_db_bytes: config.limits.max_db_bytes,
        heartbeat_interval: Duration::from_millis(config.root.heartbeat_ms),
        retention: retention(config),
    }
}

fn retention(config: &Config) -> Retention {
    Retention {
        max_age_us: config.retention.hours.saturating_mul(3_600_000_000),
        max_bytes: config.retention.bytes,
        held_bytes: config.retention.held_bytes,
    }
}
