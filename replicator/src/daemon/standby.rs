//! The way to the write role: at once, or beside the process that has it.
//!
//! In an upgrade two processes share the listening sockets. The new one opens the database and
//! checks it, says READY=1, and waits for the role lock; it accepts nobody yet. When the old one has
//! decided what was let in, it gives the lock up, and the kernel wakes the new one; when it dies, too.

use std::sync::Arc;
use std::thread;

use quicksilver::build::RoleLock;
use quicksilver_format::HistoryId;
use tokio::sync::{oneshot, watch};

use super::{DaemonError, bytes, notify};
use crate::config::{Config, Role};
use crate::store::{Sizes, Standby, Store, StoreError, take_role};

/// Becomes the writer of the database; `None` when the process was told to stop before that.
///
/// When another process is the writer, this one waits for it if it `may_wait`, and otherwise that is
/// an error.
pub(super) async fn become_writer(
    config: &Arc<Config>,
    may_wait: bool,
    stopped: &mut watch::Receiver<bool>,
) -> Result<Option<Store>, DaemonError> {
    let sizes =
        Sizes { map_bytes: bytes(config.limits.map_bytes), max_readers: config.limits.max_readers };
    // A relay learns the history from its upstream.
    let history = match config.role {
        Role::Root => HistoryId::random(),
        Role::Relay => HistoryId::NONE,
    };
    let holder = match take_role(&config.data_dir) {
        Ok(role) => {
            let unopened = Standby::unopened(&config.data_dir, config.db_id, sizes);
            return Ok(Some(unopened.take_over(role, history)?));
        }
        Err(StoreError::RoleLockHeld { holder, .. }) if may_wait => holder,
        Err(e) => return Err(e.into()),
    };
    let standby = Standby::open(&config.data_dir, config.db_id, sizes)?;
    let holder = holder.map_or_else(|| "another process".to_owned(), |pid| format!("pid {pid}"));
    tracing::info!(writer = holder, "standby: ready to take over");
    notify::notify(&format!("READY=1\nSTATUS=standby: ready to take over from {holder}"));
    match role_lock(config, stopped).await? {
        Some(role) => Ok(Some(standby.take_over(role, history)?)),
        None => Ok(None),
    }
}

/// Waits for the role lock, and shows the watchdog that it does.
async fn role_lock(
    config: &Arc<Config>,
    stopped: &mut watch::Receiver<bool>,
) -> Result<Option<RoleLock>, DaemonError> {
    let (tell, mut told) = oneshot::channel();
    let dir = config.data_dir.clone();
    // The kernel's wait for the lock cannot be called off; the thread ends with the process.
    thread::Builder::new().name("role".into()).spawn(move || {
        // Whoever does not want it any more lets go of it by dropping it.
        let _ = tell.send(RoleLock::wait(&dir));
    })?;
    tokio::select! {
        role = &mut told => Ok(Some(role??)),
        _ = stopped.wait_for(|stopping| *stopping) => Ok(None),
        () = notify::feed_watchdog(|| true) => Ok(None),
    }
}
