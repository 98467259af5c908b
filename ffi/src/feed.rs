//! The change feed, until the reader has it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use quicksilver_format::Op;
use reader::{HistoryId, Index, Reader, Result, log};

const READ_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(crate) enum Change {
    Set { index: Index, key: Vec<u8>, value: Vec<u8> },
    Del { index: Index, key: Vec<u8> },
    Rescan { index: Index },
}

pub(crate) struct Changes {
    reader: Reader,
    prefix: Vec<u8>,
    history: HistoryId,
    position: Index,
    ahead: VecDeque<Change>,
    read_to: Index,
}

pub(crate) fn history(reader: &Reader) -> Result<HistoryId> {
    let environment = reader.environment();
    let txn = environment.env.read()?;
    Ok(environment.identity(&txn)?.history)
}

impl Changes {
    pub(crate) fn new(reader: &Reader, after: Index, prefix: &[u8]) -> Result<Self> {
        Ok(Changes {
            history: history(reader)?,
            reader: reader.clone(),
            prefix: prefix.to_vec(),
            position: after,
            ahead: VecDeque::new(),
            read_to: after,
        })
    }

    pub(crate) fn position(&self) -> Index {
        if self.ahead.is_empty() { self.read_to } else { self.position }
    }

    pub(crate) fn next_within(&mut self, timeout: Duration) -> Result<Option<Change>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(change) = self.ahead.pop_front() {
                self.position = match &change {
                    Change::Set { index, .. }
                    | Change::Del { index, .. }
                    | Change::Rescan { index } => *index,
                };
                return Ok(Some(change));
            }
            self.read()?;
            if !self.ahead.is_empty() {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.reader.wait_for(self.read_to.next(), left)?;
        }
    }

    fn read(&mut self) -> Result<()> {
        let environment = self.reader.environment();
        let txn = environment.env.read()?;
        let history = environment.identity(&txn)?.history;
        let state = environment.log_state(&txn)?;
        let is_behind = self.read_to < state.last.index && self.read_to.next() < state.oldest;
        if history != self.history || is_behind || self.read_to > state.last.index {
            self.history = history;
            self.read_to = state.last.index;
            self.ahead.push_back(Change::Rescan { index: self.read_to });
            return Ok(());
        }
        for record in log::read_after(environment, &txn, self.read_to, READ_BYTES)? {
            let batch = record.decode()?;
            for (index, entry) in batch.entries() {
                if index <= self.read_to || !entry.key.starts_with(&self.prefix) {
                    continue;
                }
                let key = entry.key.to_vec();
                self.ahead.push_back(match entry.op {
                    Op::Set(value) => Change::Set { index, key, value: value.to_vec() },
                    Op::Del => Change::Del { index, key },
                });
            }
            self.read_to = batch.last();
        }
        Ok(())
    }
}
