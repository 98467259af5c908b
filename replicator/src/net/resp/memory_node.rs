//! A node in memory, for tests: its sequencer gathers writes for a window, like the real one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quicksilver_format::Index;
use tokio::sync::{mpsc, oneshot, watch};

use crate::net::node::{
    BoxFuture, LogLine, Node, NodeStatus, Promise, ReadError, WriteLimits, WritePath,
};
use crate::root::request::{Answer, OpAnswer, SetWhen, Transaction, TxOp, WriteError};
use crate::store::maintenance::{JobKind, NotStarted, SnapshotInfo, StartAnswer};
use crate::store::{FormatAnswer, FormatChange};

type Asked = (Transaction, oneshot::Sender<Result<Answer, WriteError>>);

/// Transactions in the queue before `submit` waits.
const QUEUE: usize = 32;

#[derive(Default)]
struct Data {
    map: BTreeMap<Vec<u8>, Bytes>,
    log: Vec<LogLine>,
}

pub(in crate::net) struct MemoryNode {
    data: Arc<Mutex<Data>>,
    queue: Option<mpsc::Sender<Asked>>,
    pub(in crate::net) windows: Arc<AtomicUsize>,
    pub(in crate::net) replicas: AtomicUsize,
    pub(in crate::net) loading: AtomicBool,
    pub(in crate::net) progress: watch::Sender<u64>,
    pub(in crate::net) format: Mutex<FormatAnswer>,
    pub(in crate::net) fail_reads: Mutex<Option<ReadError>>,
    pub(in crate::net) fail_writes: Arc<Mutex<Option<WriteError>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryNode {
    pub(in crate::net) fn root(window: Duration) -> Arc<Self> {
        let (queue, asked) = mpsc::channel(QUEUE);
        let node = Self::new(Some(queue));
        let (data, windows) = (Arc::clone(&node.data), Arc::clone(&node.windows));
        let fail = Arc::clone(&node.fail_writes);
        tokio::spawn(sequence(asked, window, data, windows, fail));
        node
    }

    pub(in crate::net) fn relay() -> Arc<Self> {
        Self::new(None)
    }

    fn new(queue: Option<mpsc::Sender<Asked>>) -> Arc<Self> {
        Arc::new(MemoryNode {
            data: Arc::default(),
            queue,
            windows: Arc::default(),
            replicas: AtomicUsize::new(0),
            loading: AtomicBool::new(false),
            progress: watch::channel(0).0,
            format: Mutex::new(Ok(FormatChange { from: 1, to: 2 })),
            fail_reads: Mutex::default(),
            fail_writes: Arc::default(),
        })
    }

    fn check(&self) -> Result<(), ReadError> {
        lock(&self.fail_reads).clone().map_or(Ok(()), Err)
    }

    pub(in crate::net) fn put(&self, key: &str, value: &str) {
        lock(&self.data).map.insert(key.into(), Bytes::from(value.to_owned()));
    }
}

async fn sequence(
    mut asked: mpsc::Receiver<Asked>,
    window: Duration,
    data: Arc<Mutex<Data>>,
    windows: Arc<AtomicUsize>,
    fail: Arc<Mutex<Option<WriteError>>>,
) {
    while let Some(first) = asked.recv().await {
        let mut batch = vec![first];
        let end = tokio::time::sleep(window);
        tokio::pin!(end);
        loop {
            tokio::select! {
                more = asked.recv() => match more {
                    Some(more) => batch.push(more),
                    None => break,
                },
                () = &mut end => break,
            }
        }
        windows.fetch_add(1, Ordering::SeqCst);
        for (transaction, answer) in batch {
            let result = match lock(&fail).clone() {
                Some(error) => Err(error),
                None => Ok(apply(&mut lock(&data), &transaction)),
            };
            let _ = answer.send(result);
        }
    }
}

fn apply(data: &mut Data, transaction: &Transaction) -> Answer {
    let ops = transaction.ops.iter().map(|op| apply_op(data, op)).collect();
    Answer { ops, index: Index::new(data.log.len() as u64) }
}

fn apply_op(data: &mut Data, op: &TxOp) -> OpAnswer {
    let index = Index::new(data.log.len() as u64 + 1);
    match op {
        TxOp::Set { key, value, when } => {
            let there = data.map.contains_key(&key[..]);
            if matches!((when, there), (SetWhen::Absent, true) | (SetWhen::Present, false)) {
                return OpAnswer::NotStored;
            }
            data.map.insert(key.to_vec(), value.clone());
            data.log.push(LogLine { index, key: key.to_vec(), value: Some(value.to_vec()) });
            OpAnswer::Stored
        }
        TxOp::Del { key } => {
            let there = data.map.remove(&key[..]).is_some();
            if there {
                data.log.push(LogLine { index, key: key.to_vec(), value: None });
            }
            OpAnswer::Deleted(there)
        }
        TxOp::Get { key } => OpAnswer::Value(data.map.get(&key[..]).cloned()),
        TxOp::Length { key } => OpAnswer::Length(data.map.get(&key[..]).map(|v| v.len() as u64)),
    }
}

impl Node for MemoryNode {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.check()?;
        Ok(lock(&self.data).map.get(key).map(|value| value.to_vec()))
    }

    fn value_length(&self, key: &[u8]) -> Result<Option<u64>, ReadError> {
        self.check()?;
        Ok(lock(&self.data).map.get(key).map(|value| value.len() as u64))
    }

    fn read_many(&self, reads: &[TxOp], max_bytes: usize) -> Result<Vec<OpAnswer>, ReadError> {
        let mut held_bytes = 0;
        let mut answers = Vec::with_capacity(reads.len());
        for read in reads {
            answers.push(match read {
                TxOp::Get { key } => {
                    let value = self.get(key)?;
                    held_bytes += value.as_ref().map_or(0, Vec::len);
                    if held_bytes > max_bytes {
                        return Err(ReadError::reply_too_large(max_bytes));
                    }
                    OpAnswer::Value(value.map(Bytes::from))
                }
                TxOp::Length { key } => OpAnswer::Length(self.value_length(key)?),
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
        self.check()?;
        let data = lock(&self.data);
        let wanted = |key: &&Vec<u8>| {
            key.starts_with(prefix) && after.is_none_or(|after| key.as_slice() > after)
        };
        Ok(data.map.keys().filter(wanted).take(limit).cloned().collect())
    }

    fn log(&self, from: Index, limit: usize, max_bytes: usize) -> Result<Vec<LogLine>, ReadError> {
        self.check()?;
        let mut bytes = 0;
        let data = lock(&self.data);
        let lines = data.log.iter().skip_while(|line| line.index < from).take(limit);
        let fits = |line: &&LogLine| {
            let before = bytes;
            bytes += line.key.len() + line.value.as_ref().map_or(0, Vec::len);
            before < max_bytes
        };
        Ok(lines.take_while(fits).cloned().collect())
    }

    fn key_count(&self) -> u64 {
        lock(&self.data).map.len() as u64
    }

    fn index(&self) -> Index {
        Index::new(lock(&self.data).log.len() as u64)
    }

    fn writes(&self) -> Option<&dyn WritePath> {
        self.queue.as_ref().map(|_| self as &dyn WritePath)
    }

    fn root_client(&self) -> Option<String> {
        Some("root.example:6379".to_owned())
    }

    fn loading(&self) -> bool {
        self.loading.load(Ordering::SeqCst)
    }

    fn status(&self) -> NodeStatus {
        let role = if self.queue.is_some() { "root" } else { "relay" };
        NodeStatus {
            name: "dns".to_owned(),
            role: role.to_owned(),
            index: self.index().get(),
            keys: self.key_count(),
            format: 1,
            format_readable_from: 1,
            format_newest: 2,
            ..NodeStatus::default()
        }
    }

    fn ready(&self) -> Result<(), String> {
        if self.loading() { Err("no data yet".to_owned()) } else { Ok(()) }
    }

    fn live(&self) -> Result<(), String> {
        Ok(())
    }

    fn finalize_format(&self) -> BoxFuture<'static, FormatAnswer> {
        let answer = lock(&self.format).clone();
        Box::pin(async move { answer })
    }

    fn begin_job(&self, kind: JobKind) -> BoxFuture<'static, StartAnswer> {
        let busy = NotStarted::Busy { job: 1, kind: JobKind::Verification };
        let answer = if kind == JobKind::Verification { Ok(1) } else { Err(busy) };
        Box::pin(async move { answer })
    }

    fn snapshots(&self) -> Result<Vec<SnapshotInfo>, String> {
        Ok(vec![SnapshotInfo { name: "one.snapshot".to_owned(), ..SnapshotInfo::default() }])
    }

    fn remove_snapshot(&self, name: &str) -> Result<(), String> {
        if name == "one.snapshot" { Ok(()) } else { Err(format!("{name}: not there")) }
    }

    fn metrics(&self) -> String {
        "quicksilver_keys 0\n".to_owned()
    }

    fn replicas_at(&self, _index: Index) -> usize {
        self.replicas.load(Ordering::SeqCst)
    }

    fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }
}

impl WritePath for MemoryNode {
    fn submit<'a>(
        &'a self,
        transaction: Transaction,
    ) -> BoxFuture<'a, Result<Promise, WriteError>> {
        Box::pin(async move {
            let (answer, promise) = oneshot::channel();
            let queue = self.queue.as_ref().ok_or(WriteError::ShuttingDown)?;
            let sent = queue.send((transaction, answer)).await;
            sent.map_err(|_| WriteError::ShuttingDown)?;
            let promise: Promise =
                Box::pin(async move { promise.await.unwrap_or(Err(WriteError::ShuttingDown)) });
            Ok(promise)
        })
    }

    fn limits(&self) -> WriteLimits {
        WriteLimits { max_value_bytes: 1000, max_bytes: 4000, max_ops: 100 }
    }
}
