//! Deciding transactions, once and for all.
//!
//! Here it is decided what each step does: whether a condition holds, whether a SET or DEL
//! changes anything at all (what changes nothing takes no index), and which index the rest get.
//! The result is a sealed batch that every node applies without deciding anything again.
//!
//! Invariants:
//! * A decision rests on the state that everything final has led to, plus what was decided before it
//!   for the same batch, and on nothing else.
//! * A batch is bounded in what it writes and in what it frees ([`BATCH_MAX_ENTRIES`]): every node
//!   has to apply it whole, in one commit.

use std::collections::HashMap;

use bytes::Bytes;
use quicksilver::environment::Environment;
use quicksilver_format::limits::BATCH_MAX_ENTRIES;
use quicksilver_format::{Batch, BatchBuilder, Entry, Index, Position};
use quicksilver_lmdb::ReadTxn;

use super::request::{Answer, OpAnswer, SetWhen, Transaction, TxOp, WriteError};

/// A batch in the making, and what was decided for it.
#[derive(Debug)]
pub struct Sealer<'e> {
    environment: &'e Environment,
    txn: ReadTxn<'e>,
    builder: BatchBuilder,
    max_bytes: usize,
    /// Chunks of stored values that the batch so far replaces or removes.
    freed_chunks: usize,
    /// What the batch so far makes of keys: their new value, or `None` for removed.
    changed: HashMap<Bytes, Option<Bytes>>,
    /// Bytes of values in the answers so far, which are kept until the batch is final.
    answer_bytes: usize,
}

impl<'e> Sealer<'e> {
    /// Begins a batch that will follow `end`, the end of what `environment` holds.
    pub fn new(
        environment: &'e Environment,
        end: Position,
        max_bytes: usize,
    ) -> quicksilver::Result<Self> {
        let txn = environment.env.read()?;
        let found = environment.log_state(&txn)?.last;
        assert_eq!(found, end, "a batch is decided on the state that the last one led to");
        Ok(Sealer {
            environment,
            txn,
            builder: BatchBuilder::new(end),
            max_bytes,
            freed_chunks: 0,
            changed: HashMap::new(),
            answer_bytes: 0,
        })
    }

    /// Decides a transaction of so many bytes, or leaves it to the next batch (`None`): it never spans
    /// two. On an error nothing of it is in the batch.
    pub fn decide(
        &mut self,
        transaction: &Transaction,
        bytes: usize,
    ) -> Option<Result<Answer, WriteError>> {
        if !self.has_room_for(transaction, bytes) {
            return None;
        }
        // A read can fail on damaged data, so what the transaction reads is read before anything
        // of it enters the batch.
        let plan = match self.plan(transaction) {
            Ok(plan) => plan,
            Err(error) => return Some(Err(error)),
        };
        let changes = plan.iter().filter(|decision| decision.changes).count();
        let freed_chunks = plan.iter().map(|decision| decision.freed_chunks).sum::<usize>();
        let max = BATCH_MAX_ENTRIES;
        if changes + freed_chunks > max {
            return Some(Err(WriteError::FreesTooMuch { changes, freed_chunks, max }));
        }
        if self.builder.len() + self.freed_chunks + changes + freed_chunks > max {
            return None;
        }
        self.freed_chunks += freed_chunks;
        self.answer_bytes += plan.iter().map(Decision::answer_bytes).sum::<usize>();
        let mut answers = Vec::with_capacity(plan.len());
        for (op, decision) in transaction.ops.iter().zip(plan) {
            if decision.changes {
                self.push(op);
            }
            answers.push(decision.answer);
        }
        Some(Ok(Answer { ops: answers, index: self.end() }))
    }

    /// Whether the transaction still fits by what it carries.
    fn has_room_for(&self, transaction: &Transaction, bytes: usize) -> bool {
        if self.answer_bytes > self.max_bytes {
            return false;
        }
        self.builder.is_empty()
            || (self.builder.len() + transaction.ops.len() <= BATCH_MAX_ENTRIES
                && self.builder.payload_bytes() + bytes <= self.max_bytes)
    }

    /// Where the log will end when the batch is final.
    pub fn end(&self) -> Index {
        self.builder.next_index().previous()
    }

    /// Closes the batch; `None` when nothing in it changes anything.
    pub fn seal(self, sealed_at_us: u64) -> Option<Batch> {
        self.builder.seal(sealed_at_us)
    }

    fn push(&mut self, op: &TxOp) {
        match op {
            TxOp::Set { key, value, .. } => {
                self.builder.push(Entry::set(key, value));
                self.changed.insert(key.clone(), Some(value.clone()));
            }
            TxOp::Del { key } => {
                self.builder.push(Entry::del(key));
                self.changed.insert(key.clone(), None);
            }
            TxOp::Get { .. } | TxOp::Length { .. } => {}
        }
    }

    fn plan(&self, transaction: &Transaction) -> Result<Vec<Decision>, WriteError> {
        let mut view = View { sealer: self, own: HashMap::new() };
        let mut answer_bytes = 0;
        let mut plan = Vec::with_capacity(transaction.ops.len());
        for op in &transaction.ops {
            let decision = view.decide(op).map_err(|e| WriteError::Storage(e.to_string()))?;
            answer_bytes += decision.answer_bytes();
            if answer_bytes > self.max_bytes {
                return Err(WriteError::AnswerTooLarge { max_bytes: self.max_bytes });
            }
            plan.push(decision);
        }
        Ok(plan)
    }
}

struct Decision {
    answer: OpAnswer,
    /// Whether the step takes an index.
    changes: bool,
    /// Chunks of the stored value that it replaces or removes.
    freed_chunks: usize,
}

impl Decision {
    fn answer(answer: OpAnswer) -> Self {
        Decision { answer, changes: false, freed_chunks: 0 }
    }

    /// Of a step that takes an index if it `changes` what was there `before`.
    fn change(answer: OpAnswer, changes: bool, before: Before) -> Self {
        Decision { answer, changes, freed_chunks: if changes { before.stored_chunks } else { 0 } }
    }

    fn answer_bytes(&self) -> usize {
        match &self.answer {
            OpAnswer::Value(Some(value)) => value.len(),
            _ => 0,
        }
    }
}

/// What a step finds under its key.
#[derive(Clone, Copy)]
struct Before {
    /// The length of the value, if there is one.
    value_bytes: Option<u64>,
    /// How many chunks it has on the disk. What this batch has made of the key is not there yet, and
    /// what it replaced was counted.
    stored_chunks: usize,
}

impl Before {
    /// As if there were nothing.
    const NOTHING: Before = Before { value_bytes: None, stored_chunks: 0 };

    fn exists(self) -> bool {
        self.value_bytes.is_some()
    }
}

/// The state in the middle of a transaction: stored, then the batch so far, then its own steps.
struct View<'s, 'e, 't> {
    sealer: &'s Sealer<'e>,
    own: HashMap<&'t [u8], Option<&'t Bytes>>,
}

impl<'t> View<'_, '_, 't> {
    fn decide(&mut self, op: &'t TxOp) -> quicksilver::Result<Decision> {
        Ok(match op {
            TxOp::Get { key } => Decision::answer(OpAnswer::Value(self.value(key)?)),
            TxOp::Length { key } => {
                Decision::answer(OpAnswer::Length(self.before(key)?.value_bytes))
            }
            TxOp::Del { key } => {
                let before = self.before(key)?;
                let found = before.exists();
                if found {
                    self.own.insert(key, None);
                }
                Decision::change(OpAnswer::Deleted(found), found, before)
            }
            TxOp::Set { key, value, when } => {
                let before = match self.before(key) {
                    Err(e) if *when == SetWhen::Always && cures(&e) => Before::NOTHING,
                    before => before?,
                };
                let holds = match when {
                    SetWhen::Always => true,
                    SetWhen::Absent => !before.exists(),
                    SetWhen::Present => before.exists(),
                };
                if !holds {
                    return Ok(Decision::answer(OpAnswer::NotStored));
                }
                let changes = !self.equals(key, value, before)?;
                if changes {
                    self.own.insert(key, Some(value));
                }
                Decision::change(OpAnswer::Stored, changes, before)
            }
        })
    }

    /// What this batch makes of the key; `None` when it has not touched it.
    fn pending(&self, key: &[u8]) -> Option<Option<&Bytes>> {
        let own = self.own.get(key).copied();
        own.or_else(|| self.sealer.changed.get(key).map(Option::as_ref))
    }

    fn value(&self, key: &[u8]) -> quicksilver::Result<Option<Bytes>> {
        if let Some(pending) = self.pending(key) {
            return Ok(pending.cloned());
        }
        let stored = self.sealer.environment.value(&self.sealer.txn, key)?;
        Ok(stored.map(|value| value.into_vec().into()))
    }

    fn before(&self, key: &[u8]) -> quicksilver::Result<Before> {
        if let Some(pending) = self.pending(key) {
            let value_bytes = pending.map(|value| value.len() as u64);
            return Ok(Before { value_bytes, ..Before::NOTHING });
        }
        let stored = self.sealer.environment.cell(&self.sealer.txn, key)?;
        Ok(stored.map_or(Before::NOTHING, |cell| Before {
            value_bytes: Some(cell.value_bytes().into()),
            stored_chunks: cell.chunks() as usize,
        }))
    }

    fn equals(&self, key: &[u8], value: &[u8], before: Before) -> quicksilver::Result<bool> {
        // Comparing lengths first spares reading most values.
        if before.value_bytes != Some(value.len() as u64) {
            return Ok(false);
        }
        if let Some(pending) = self.pending(key) {
            return Ok(pending.is_some_and(|pending| pending == value));
        }
        match self.sealer.environment.value(&self.sealer.txn, key) {
            Err(e) if cures(&e) => Ok(false),
            stored => Ok(stored?.is_some_and(|stored| &*stored == value)),
        }
    }
}

/// A stored value that turns out to be damaged is not equal: the SET that replaces it is the cure.
fn cures(error: &quicksilver::Error) -> bool {
    let damaged = matches!(error, quicksilver::Error::Corrupt { .. });
    if damaged {
        tracing::warn!(%error, "a SET replaces a damaged value");
    }
    damaged
}
