//! SIGHUP: the configuration is read again, and what a running process can take over it does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quicksilver_protocol::Quota;
use tokio::sync::watch;

use super::headroom::Needs;
use super::logging::Level;
use super::maintenance;
use super::notify::notify;
use super::replication::{own_quota, upstreams};
use super::writer_thread::Orders;
use crate::config::{Changes, Config};
use crate::net::replication::{Upstreams, set_quota};
use crate::store::maintenance::Maintenance;

/// Where what is read again has its effect.
pub(super) struct Reload {
    /// The file.
    pub(super) path: PathBuf,
    /// What the process runs with.
    pub(super) running: Arc<Config>,
    /// What is logged.
    pub(super) level: Level,
    /// Of the writer's thread.
    pub(super) orders: Orders,
    /// Compaction, snapshots, verification.
    pub(super) maintenance: Maintenance,
    /// Whom this node follows.
    pub(super) upstreams: watch::Sender<Upstreams>,
    /// When a snapshot is held for too long.
    pub(super) reader_bound: watch::Sender<Duration>,
    /// What the writer needs beside the live data.
    pub(super) needs: watch::Sender<Needs>,
    /// How large the data may grow; a root says so.
    pub(super) quota: watch::Sender<Option<Quota>>,
}

impl Reload {
    /// Reads the file again whenever `asked` changes.
    pub(super) async fn run(mut self, mut asked: watch::Receiver<u64>) {
        while asked.changed().await.is_ok() {
            let said = match Config::load(&self.path) {
                Ok(new) => self.take_over(&new),
                Err(error) => {
                    tracing::error!(%error, "the configuration was not reloaded; nothing changed");
                    format!("not reloaded, nothing changed: {error}")
                }
            };
            // A status is one line.
            notify(&format!("STATUS={}", said.replace('\n', " ")));
        }
    }

    fn take_over(&mut self, new: &Config) -> String {
        let Changes { mut live, at_restart } = self.running.changes(new);
        let taken = self.running.with_live_changes(new);
        if let Err(error) = taken.validate() {
            // Right together with a key that takes a restart.
            tracing::error!(%error, "the configuration takes a restart; nothing changed");
            return format!("not reloaded, nothing changed: it takes a restart: {error}");
        }
        if let Err(error) = self.level.set(&taken.logging.level) {
            tracing::error!(error, "the level of the log stays as it was");
            live.retain(|key| *key != "logging.level");
        }
        self.orders.take_over(&taken);
        self.maintenance.take_over(maintenance::settings(&taken));
        if live.iter().any(|key| key.starts_with("upstream.")) {
            self.upstreams.send_replace(upstreams(&taken));
        }
        self.reader_bound.send_replace(Duration::from_secs(taken.limits.reader_warn_seconds));
        self.needs.send_replace(Needs::of(&taken));
        if let Some(quota) = own_quota(&taken) {
            set_quota(&self.quota, quota);
        }
        self.running = Arc::new(taken);
        let list = |keys: Vec<&str>| match keys[..] {
            [] => "nothing".to_owned(),
            _ => keys.join(", "),
        };
        let (live, at_restart) = (list(live), list(at_restart));
        tracing::info!(changed = live, at_the_next_restart = at_restart, "configuration reloaded");
        format!("reloaded; changed: {live}; at the next restart: {at_restart}")
    }
}
