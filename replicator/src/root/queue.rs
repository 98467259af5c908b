//! The bounded way in: where transactions wait for the sequencer, and by which it is given orders.
//!
//! Invariant: what waits here, and what the sequencer has taken and not yet answered, is bounded
//! in bytes; who finds it full waits.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use quicksilver_format::limits::BATCH_MAX_ENTRIES;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::request::{Answer, Transaction, WriteError};
use super::sequencer::Settings;
use crate::net::node::{BoxFuture, Promise, WriteLimits, WritePath};
use crate::store::StoreOrder;

/// Room is counted in units of this, so that any configured size fits the semaphore.
const UNIT_BYTES: usize = 1024;
/// Batches' worth of transactions that may wait.
const WAITING_BATCHES: usize = 2;

/// One transaction that waits to be decided.
#[derive(Debug)]
pub struct Submission {
    /// What is asked for.
    pub transaction: Transaction,
    /// Its bytes, computed once.
    pub bytes: usize,
    reply: oneshot::Sender<Result<Answer, WriteError>>,
    _room: OwnedSemaphorePermit,
}

impl Submission {
    /// Tells whoever waits. Nobody may wait any more; that is no error.
    pub fn answer(self, answer: Result<Answer, WriteError>) {
        let _ = self.reply.send(answer);
    }
}

/// What the process wants of the sequencer.
#[derive(Debug)]
pub enum Order {
    /// Go on under other settings.
    Use(Settings),
    /// Something of this node's store, between two batches.
    Store(StoreOrder),
    /// Seal what comes at once, without a window: the process is leaving.
    Hurry,
    /// Let nobody in any more, answer who is in, and end.
    Finish,
}

/// What comes through the queue.
#[derive(Debug)]
pub enum Arrival {
    /// A transaction.
    Submission(Submission),
    /// An order.
    Order(Order),
}

/// The writers' end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WriteQueue {
    room: Arc<Semaphore>,
    sender: Sender<Arrival>,
    limits: WriteLimits,
}

/// The sequencer's end.
#[derive(Debug)]
pub struct Submissions {
    receiver: Receiver<Arrival>,
    room: Arc<Semaphore>,
}

/// Makes both ends.
pub fn queue(max_value_bytes: usize, max_batch_bytes: usize) -> (WriteQueue, Submissions) {
    let units = WAITING_BATCHES * max_batch_bytes.div_ceil(UNIT_BYTES) + 1;
    let room = Arc::new(Semaphore::new(units));
    let (sender, receiver) = mpsc::channel();
    let limits =
        WriteLimits { max_value_bytes, max_bytes: max_batch_bytes, max_ops: BATCH_MAX_ENTRIES };
    (WriteQueue { room: room.clone(), sender, limits }, Submissions { receiver, room })
}

impl WriteQueue {
    /// Gives the sequencer an order, in its turn. One that has ended needs none.
    pub fn order(&self, order: Order) {
        let _ = self.sender.send(Arrival::Order(order));
    }

    async fn enqueue(self, transaction: Transaction) -> Result<Promise, WriteError> {
        let (ops, bytes) = (transaction.ops.len(), transaction.bytes());
        let WriteLimits { max_ops, max_bytes, .. } = self.limits;
        if ops > max_ops || bytes > max_bytes {
            return Err(WriteError::TooLarge { ops, bytes, max_ops, max_bytes });
        }
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let acquired = self.room.acquire_many_owned(units).await;
        let room = acquired.map_err(|_| WriteError::ShuttingDown)?;
        let (reply, answer) = oneshot::channel();
        let submission = Submission { transaction, bytes, reply, _room: room };
        self.sender.send(Arrival::Submission(submission)).map_err(|_| WriteError::ShuttingDown)?;
        Ok(Box::pin(async move {
            // Every submission is answered, unless the sequencer was torn away from it.
            let gone = || WriteError::Unknown("the sequencer ended without an answer".into());
            answer.await.unwrap_or_else(|_| Err(gone()))
        }))
    }
}

impl WritePath for WriteQueue {
    fn submit<'a>(
        &'a self,
        transaction: Transaction,
    ) -> BoxFuture<'a, Result<Promise, WriteError>> {
        Box::pin(self.clone().enqueue(transaction))
    }

    fn limits(&self) -> WriteLimits {
        self.limits
    }
}

impl Submissions {
    /// The next one, waiting at most `timeout`.
    pub fn next(&self, timeout: Duration) -> Result<Arrival, RecvTimeoutError> {
        self.receiver.recv_timeout(timeout)
    }

    /// Lets nobody in any more; what is in stays and can still be taken.
    pub fn close(&self) {
        self.room.close();
    }
}
