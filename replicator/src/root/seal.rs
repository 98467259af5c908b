//! Deciding transactions, once and for all.
//!
//! Here it is decided what each step does: whether a condition holds, whether a SET or DEL
//! changes anything at all (what changes nothing takes no index), and which index the rest get.
//! The result is a sealed batch that every node applies without deciding anything again.
//!
//! Invariant: a decision rests on the state that everything final has led to, plus what was
//! decided before it for the same batch, and on nothing else.

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
            changed: HashMap::new(),
            answer_bytes: 0,
        })
    }

    /// Whether the transaction still fits: a transaction never spans two batches.
    pub fn has_room_for(&self, transaction: &Transaction, bytes: usize) -> bool {
        if self.answer_bytes > self.max_bytes {
            return false;
        }
        self.builder.is_empty()
            || (self.builder.len() + transaction.ops.len() <= BATCH_MAX_ENTRIES
                && self.builder.payload_bytes() + bytes <= self.max_bytes)
    }

    /// Decides a transaction. On an error nothing of it is in the batch.
    pub fn decide(&mut self, transaction: &Transaction) -> Result<Answer, WriteError> {
        // A read can fail on damaged data, so what the transaction reads is read before anything
        // of it enters the batch.
        let plan = self.plan(transaction)?;
        self.answer_bytes += plan.iter().map(Decision::answer_bytes).sum::<usize>();
        let mut answers = Vec::with_capacity(plan.len());
        for (op, decision) in transaction.ops.iter().zip(plan) {
            if decision.changes {
                self.push(op);
            }
            answers.push(decision.answer);
        }
        Ok(Answer { ops: answers, index: self.end() })
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
}

impl Decision {
    fn answer(answer: OpAnswer) -> Self {
        Decision { answer, changes: false }
    }

    fn answer_bytes(&self) -> usize {
        match &self.answer {
            OpAnswer::Value(Some(value)) => value.len(),
            _ => 0,
        }
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
            TxOp::Length { key } => Decision::answer(OpAnswer::Length(self.length(key)?)),
            TxOp::Del { key } => {
                let found = self.length(key)?.is_some();
                if found {
                    self.own.insert(key, None);
                }
                Decision { answer: OpAnswer::Deleted(found), changes: found }
            }
            TxOp::Set { key, value, when } => {
                let holds = match when {
                    SetWhen::Always => true,
                    SetWhen::Absent => self.length(key)?.is_none(),
                    SetWhen::Present => self.length(key)?.is_some(),
                };
                if !holds {
                    return Ok(Decision::answer(OpAnswer::NotStored));
                }
                let changes = !self.equals(key, value)?;
                if changes {
                    self.own.insert(key, Some(value));
                }
                Decision { answer: OpAnswer::Stored, changes }
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

    fn length(&self, key: &[u8]) -> quicksilver::Result<Option<u64>> {
        if let Some(pending) = self.pending(key) {
            return Ok(pending.map(|value| value.len() as u64));
        }
        let stored = self.sealer.environment.cell(&self.sealer.txn, key)?;
        Ok(stored.map(|cell| cell.value_bytes().into()))
    }

    fn equals(&self, key: &[u8], value: &[u8]) -> quicksilver::Result<bool> {
        if let Some(pending) = self.pending(key) {
            return Ok(pending.is_some_and(|pending| pending == value));
        }
        // Comparing lengths first spares reading most values. A stored value that turns out to
        // be damaged is not equal: the SET that replaces it is the cure.
        let (environment, txn) = (self.sealer.environment, &self.sealer.txn);
        let same = || -> quicksilver::Result<bool> {
            let length = environment.cell(txn, key)?.map(|cell| cell.value_bytes() as usize);
            if length != Some(value.len()) {
                return Ok(false);
            }
            Ok(environment.value(txn, key)?.is_some_and(|stored| &*stored == value))
        };
        match same() {
            Err(e @ quicksilver::Error::Corrupt { .. }) => {
                tracing::warn!(error = %e, "a SET replaces a damaged value");
                Ok(false)
            }
            other => other,
        }
    }
}
