//! What this node answers to clients and operators.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use metrics_exporter_prometheus::PrometheusHandle;
use quicksilver::build::snapshot;
use quicksilver::log;
use quicksilver::{Index, Reader};
use quicksilver_format::status::NodeState;
use quicksilver_format::{Address, NEWEST_FORMAT_VERSION, Op};
use quicksilver_lmdb::Transaction;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::headroom::{Headroom, HeadroomView};
use super::readers::ReadersView;
use super::replication::ReplicationView;
use super::writer_thread::Orders;
use crate::config::{Config, Role};
use crate::metrics::{self, Gauges};
use crate::net::node::{BoxFuture, LogLine, Node, NodeStatus, ReadError, WritePath};
use crate::root::request::{OpAnswer, TxOp};
use crate::store::maintenance::{
    JobKind, Maintenance, NotStarted, SnapshotInfo, StartAnswer, list_snapshots,
};
use crate::store::{Asker, FormatAnswer, FormatRefusal, LogHolds, StoreOrder, wall_clock_us};

/// How long whoever wants the format raised is kept waiting. A commit takes milliseconds, and a
/// large one that is under way seconds.
const FORMAT_PATIENCE: Duration = Duration::from_secs(30);

/// The last thing that went wrong, for `/status`.
#[derive(Debug, Clone, Default)]
pub(super) struct LastError(Arc<Mutex<Option<String>>>);

impl LastError {
    /// Notes it.
    pub(super) fn set(&self, error: impl ToString) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
    }

    /// What it was.
    pub(super) fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A running replicator.
pub(super) struct Replicator {
    /// What it was started with.
    pub(super) config: Arc<Config>,
    /// Where its clients connect, as others are told.
    pub(super) client: Option<Address>,
    /// On the environment that this process writes.
    pub(super) reader: Reader,
    /// The way to the writer's thread; at a root also that of transactions.
    pub(super) orders: Orders,
    /// Compaction, snapshots, verification.
    pub(super) maintenance: Maintenance,
    /// Who needs the log.
    pub(super) holds: LogHolds,
    /// Upstream and downstreams.
    pub(super) replication: ReplicationView,
    /// The last thing that went wrong.
    pub(super) last_error: LastError,
    /// Whether there was data when the process started.
    pub(super) had_data: bool,
    /// Who reads, as of the last look.
    pub(super) readers: ReadersView,
    /// What room there is, as of the last look.
    pub(super) headroom: HeadroomView,
    /// Renders the metrics.
    pub(super) prometheus: PrometheusHandle,
}

impl Replicator {
    /// Whether another process has become the writer after this one.
    pub(super) fn has_successor(&self) -> bool {
        let page = self.reader.status().ok().and_then(|status| status.page);
        page.is_some_and(|page| page.pid != std::process::id())
    }

    fn state(&self) -> Option<NodeState> {
        self.reader.status().ok().and_then(|status| status.state())
    }

    /// Local clock minus the last heartbeat that counts here; negative when this clock is behind.
    fn signed_lag_seconds(&self) -> Option<f64> {
        let heartbeat_us = self.reader.status().ok()?.page?.heartbeat_us?;
        let now_us = wall_clock_us();
        let microseconds = if now_us >= heartbeat_us {
            (now_us - heartbeat_us) as f64
        } else {
            -((heartbeat_us - now_us) as f64)
        };
        Some(microseconds / 1e6)
    }
}

fn read_error(e: quicksilver::Error) -> ReadError {
    ReadError { corrupt: e.is_corrupt(), message: e.to_string() }
}

fn lmdb_error(e: quicksilver_lmdb::LmdbError) -> ReadError {
    read_error(e.into())
}

impl Node for Replicator {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.reader.get(key).map_err(read_error)
    }

    fn value_length(&self, key: &[u8]) -> Result<Option<u64>, ReadError> {
        Ok(self.reader.value_bytes(key).map_err(read_error)?.map(u64::from))
    }

    fn read_many(&self, reads: &[TxOp], max_bytes: usize) -> Result<Vec<OpAnswer>, ReadError> {
        let snapshot = self.reader.snapshot().map_err(read_error)?;
        let (environment, txn) = (snapshot.environment(), snapshot.transaction());
        let mut held_bytes = 0;
        let mut answers = Vec::with_capacity(reads.len());
        for read in reads {
            answers.push(match read {
                TxOp::Get { key } => {
                    let value = environment.value(txn, key).map_err(read_error)?;
                    held_bytes += value.as_ref().map_or(0, |value| value.len());
                    if held_bytes > max_bytes {
                        return Err(ReadError::reply_too_large(max_bytes));
                    }
                    OpAnswer::Value(value.map(|value| Bytes::from(value.into_vec())))
                }
                TxOp::Length { key } => {
                    let cell = environment.cell(txn, key).map_err(read_error)?;
                    OpAnswer::Length(cell.map(|cell| cell.value_bytes().into()))
                }
                TxOp::Set { .. } | TxOp::Del { .. } => return Err(ReadError::not_a_read()),
            });
        }
        Ok(answers)
    }

    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, ReadError> {
        let snapshot = self.reader.snapshot().map_err(read_error)?;
        let (environment, txn) = (snapshot.environment(), snapshot.transaction());
        let mut cursor = txn.cursor(environment.data).map_err(lmdb_error)?;
        let mut next = match after {
            Some(after) => match cursor.seek(after).map_err(lmdb_error)? {
                Some((key, _)) if key == after => cursor.next().map_err(lmdb_error)?,
                other => other,
            },
            None => cursor.seek(prefix).map_err(lmdb_error)?,
        };
        let mut keys = Vec::new();
        while let Some((key, _)) = next {
            if keys.len() == limit || !key.starts_with(prefix) {
                break;
            }
            keys.push(key.to_vec());
            next = cursor.next().map_err(lmdb_error)?;
        }
        Ok(keys)
    }

    fn log(&self, from: Index, limit: usize, max_bytes: usize) -> Result<Vec<LogLine>, ReadError> {
        /// Records are read a few at a time, so that a small answer costs little.
        const RECORD_BYTES_AT_ONCE: usize = 256 << 10;
        let snapshot = self.reader.snapshot().map_err(read_error)?;
        let (environment, txn) = (snapshot.environment(), snapshot.transaction());
        let state = environment.log_state(txn).map_err(read_error)?;
        let from = from.max(Index::FIRST);
        if from < state.oldest {
            let message = format!("entry {from} was collected; the log begins at {}", state.oldest);
            return Err(ReadError { message, corrupt: false });
        }
        let (mut lines, mut bytes, mut next) = (Vec::new(), 0, from);
        while next <= state.last.index && lines.len() < limit && bytes < max_bytes {
            let before = next.previous();
            let records = log::read_after(environment, txn, before, RECORD_BYTES_AT_ONCE);
            for record in records.map_err(read_error)? {
                let batch = record.decode().map_err(read_error)?;
                for (index, entry) in batch.entries().filter(|(index, _)| *index >= from) {
                    if lines.len() == limit || bytes >= max_bytes {
                        return Ok(lines);
                    }
                    let value = match entry.op {
                        Op::Set(value) => Some(value.to_vec()),
                        Op::Del => None,
                    };
                    bytes += entry.key.len() + value.as_ref().map_or(0, Vec::len);
                    lines.push(LogLine { index, key: entry.key.to_vec(), value });
                }
                next = batch.last().next();
            }
        }
        Ok(lines)
    }

    fn key_count(&self) -> u64 {
        self.reader.status().map_or(0, |status| status.keys)
    }

    fn index(&self) -> Index {
        // From LMDB: the status page may trail what a client was just told.
        self.reader.status().map_or(Index::ZERO, |status| status.position.index)
    }

    fn writes(&self) -> Option<&dyn WritePath> {
        match &self.orders {
            Orders::Root(queue) => Some(queue),
            Orders::Relay(_) => None,
        }
    }

    fn root_client(&self) -> Option<String> {
        match self.config.role {
            Role::Root => self.client.as_ref().map(ToString::to_string),
            Role::Relay => self.replication.root_client(),
        }
    }

    /// A new relay has no copy until it has caught up once, which is when a heartbeat first
    /// counts. A node that had data serves it, however old.
    fn loading(&self) -> bool {
        self.config.role == Role::Relay && !self.had_data && self.signed_lag_seconds().is_none()
    }

    fn status(&self) -> NodeStatus {
        let status = self.reader.status();
        let Headroom { storage, quota } = self.headroom.get();
        let mut out = NodeStatus {
            name: self.config.name.clone(),
            db_id: self.config.db_id.to_string(),
            node_id: self.config.node_id.to_string(),
            role: self.config.role.as_str().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            lag_seconds: self.signed_lag_seconds().map(|lag| lag.max(0.0)),
            upstream: self.replication.upstream(),
            downstreams: self.replication.downstreams(),
            pid: std::process::id(),
            format_newest: NEWEST_FORMAT_VERSION,
            last_error: self.last_error.get(),
            readers: self.readers.get(),
            maintenance: self.maintenance.status(),
            bootstrap: self.replication.bootstrap(),
            log_needed_after: self.holds.needed_after().map(Index::get),
            storage,
            quota,
            ..NodeStatus::default()
        };
        match status {
            Ok(status) => {
                out.state = status.state().unwrap_or(NodeState::Starting).name().to_owned();
                out.index = status.position.index.get();
                out.hash = status.position.hash.to_string();
                out.digest = status.digest.to_string();
                out.keys = status.keys;
                out.bytes = status.bytes;
                out.generation = status.generation.get();
                out.history = status.history.to_string();
                out.oldest_index = status.oldest_index.get();
                out.format = status.format;
                out.format_readable_from = status.format_readable_from;
            }
            Err(e) => out.last_error = Some(e.to_string()),
        }
        out
    }

    fn ready(&self) -> Result<(), String> {
        match self.state() {
            Some(NodeState::Starting) | None => Err("starting".into()),
            Some(_) if self.loading() => Err("fetching its first copy".into()),
            // A node that was cut off serves what it has.
            Some(_) => Ok(()),
        }
    }

    fn live(&self) -> Result<(), String> {
        match self.state() {
            Some(NodeState::Failed) => Err("the storage failed; a restart opens it anew".into()),
            _ => Ok(()),
        }
    }

    fn finalize_format(&self) -> BoxFuture<'static, FormatAnswer> {
        let (tell, told) = oneshot::channel();
        // Whoever asked may have left meanwhile; it is done all the same.
        self.orders.store(StoreOrder::RaiseFormat(Asker::new(move |answer| {
            let _ = tell.send(answer);
        })));
        Box::pin(async move {
            match timeout(FORMAT_PATIENCE, told).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(FormatRefusal::NoWriter),
                Err(_) => Err(FormatRefusal::Late),
            }
        })
    }

    fn begin_job(&self, kind: JobKind) -> BoxFuture<'static, StartAnswer> {
        let (tell, told) = oneshot::channel();
        self.maintenance.begin(
            kind,
            Asker::new(move |answer| {
                let _ = tell.send(answer);
            }),
        );
        Box::pin(async move { told.await.unwrap_or(Err(NotStarted::Leaving)) })
    }

    fn snapshots(&self) -> Result<Vec<SnapshotInfo>, String> {
        list_snapshots(&self.config.data_dir).map_err(|e| e.to_string())
    }

    fn remove_snapshot(&self, name: &str) -> Result<(), String> {
        snapshot::remove(&self.config.data_dir, name).map_err(|e| e.to_string())?;
        tracing::info!(name, "snapshot removed");
        Ok(())
    }

    fn metrics(&self) -> String {
        metrics::maintenance(&self.maintenance.status());
        metrics::bootstrap(self.replication.bootstrap().as_ref());
        if let Ok(status) = self.reader.status() {
            metrics::set(&Gauges {
                state: status.state().unwrap_or(NodeState::Starting),
                index: status.position.index.get(),
                oldest_index: status.oldest_index.get(),
                format: status.format,
                keys: status.keys,
                data_bytes: status.bytes,
                upstream: self.replication.upstream(),
                lag_seconds: self.signed_lag_seconds(),
                downstreams: self.replication.downstreams().len(),
            });
        }
        self.prometheus.run_upkeep();
        self.prometheus.render()
    }

    fn replicas_at(&self, index: Index) -> usize {
        self.replication.replicas_at(index)
    }

    fn progress(&self) -> watch::Receiver<u64> {
        self.replication.progress()
    }
}
