//! Checks everything a database can be checked for by itself: the CRC of every value, the chunks
//! of every long one, the digest over all of them, and the hash chain of the log.
//!
//! It walks in short read transactions, so that the writer can go on using its pages. Values and
//! log are read in slices; only the digest, which compares one number with everything at one
//! index, needs one transaction, and it reads no value.

use std::fmt;
use std::time::{Duration, Instant};

use quicksilver_format::cell::Body;
use quicksilver_format::layout::{BUCKET_CHUNKS, BUCKET_DATA, BUCKET_LOG, BUCKET_META};
use quicksilver_format::meta::{Applied, LogState};
use quicksilver_format::{Batch, Cell, Index, Position, StateDigest, chunk};
use quicksilver_lmdb::Transaction;

use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::{log, value};

const KEYS_PER_SLICE: usize = 10_000;
const BYTES_PER_SLICE: usize = 32 << 20;
const LOG_BYTES_PER_SLICE: usize = 16 << 20;
/// Longest the digest may hold a transaction.
const DIGEST_TIME_LIMIT: Duration = Duration::from_secs(20);
/// More problems than this are counted, not kept.
const PROBLEMS_KEPT: usize = 100;

/// What is being checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Every value against its CRC, every chunk.
    Values,
    /// The digest over all pairs.
    Digest,
    /// The log's hash chain.
    Log,
}

/// How far a stage is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Which one.
    pub stage: Stage,
    /// Keys, or entries of the log, that were checked.
    pub done: u64,
    /// How many there were when the stage began.
    pub total: u64,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Keys whose value was read and checked.
    pub keys: u64,
    /// Bytes of those keys and values.
    pub bytes: u64,
    /// Index and digest at which the digest was compared; `None` when it took too long.
    pub digest: Option<(Index, StateDigest)>,
    /// First and last index of the log whose chain was checked; `None` when the log is empty.
    pub log: Option<(Index, Index)>,
    /// Batches in it.
    pub batches: u64,
    /// What is wrong, the first hundred of it.
    pub problems: Vec<String>,
    /// How many problems there are.
    pub problem_count: u64,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problem_count == 0
    }

    fn problem(&mut self, problem: impl fmt::Display) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_KEPT {
            self.problems.push(problem.to_string());
        }
    }

    /// Notes an error that is about stored data; passes any other on.
    fn note(&mut self, error: Error) -> Result<()> {
        if error.is_corrupt() {
            self.problem(error);
            Ok(())
        } else {
            Err(error)
        }
    }
}

/// Checks the whole database. An error means that it could not be read at all; what is wrong
/// with its content is in the report.
pub fn verify(environment: &Environment, mut progress: impl FnMut(Progress)) -> Result<Report> {
    let mut report = Report::default();
    values(environment, &mut report, &mut progress)?;
    digest(environment, &mut report, &mut progress)?;
    log_chain(environment, &mut report, &mut progress)?;
    Ok(report)
}

fn values(
    environment: &Environment,
    report: &mut Report,
    progress: &mut impl FnMut(Progress),
) -> Result<()> {
    let mut last_key: Option<Vec<u8>> = None;
    let total = environment.applied(&environment.env.read()?)?.keys;
    loop {
        let txn = environment.env.read()?;
        let mut cursor = txn.cursor(environment.data)?;
        let mut next = match &last_key {
            None => cursor.first()?,
            Some(last) => match cursor.seek(last)? {
                Some((key, _)) if key == last.as_slice() => cursor.next()?,
                other => other,
            },
        };
        let (mut keys, mut bytes) = (0, 0);
        while let Some((key, cell)) = next {
            match value::read(environment, &txn, key, cell) {
                Ok(value) => {
                    report.keys += 1;
                    report.bytes += (key.len() + value.len()) as u64;
                    bytes += value.len();
                }
                Err(e) => report.note(e)?,
            }
            keys += 1;
            if keys == KEYS_PER_SLICE || bytes >= BYTES_PER_SLICE {
                last_key = Some(key.to_vec());
                break;
            }
            next = cursor.next()?;
        }
        progress(Progress { stage: Stage::Values, done: report.keys, total });
        if next.is_none() {
            return Ok(());
        }
    }
}

fn digest(
    environment: &Environment,
    report: &mut Report,
    progress: &mut impl FnMut(Progress),
) -> Result<()> {
    let started = Instant::now();
    let txn = environment.env.read()?;
    let expected = environment.applied(&txn)?;
    let mut found = Applied { digest: StateDigest::EMPTY, keys: 0, bytes: 0, ..expected };
    let mut chunks = 0;
    let mut cursor = txn.cursor(environment.data)?;
    let mut next = cursor.first()?;
    while let Some((key, bytes)) = next {
        match Cell::decode(bytes) {
            Ok(cell) => {
                found.digest.add(cell.digest_term(key));
                found.bytes += key.len() as u64 + u64::from(cell.value_bytes());
                if cell.write_index > expected.position.index {
                    report.problem(Error::corrupt(
                        BUCKET_DATA,
                        key,
                        format!("written at {}, after the applied index", cell.write_index),
                    ));
                }
                if let Body::Chunked { chunks: n, .. } = cell.body {
                    chunks += u64::from(n);
                }
            }
            Err(e) => report.problem(Error::corrupt(BUCKET_DATA, key, e)),
        }
        found.keys += 1;
        if found.keys.is_multiple_of(KEYS_PER_SLICE as u64) {
            progress(Progress { stage: Stage::Digest, done: found.keys, total: expected.keys });
            if started.elapsed() > DIGEST_TIME_LIMIT {
                return Ok(());
            }
        }
        next = cursor.next()?;
    }
    progress(Progress { stage: Stage::Digest, done: found.keys, total: expected.keys });
    if found != expected {
        report.problem(format!(
            "at index {}: {} keys, {} bytes and digest {} are there, meta says {} keys, {} bytes \
             and digest {}",
            expected.position.index,
            found.keys,
            found.bytes,
            found.digest,
            expected.keys,
            expected.bytes,
            expected.digest
        ));
    }
    let stored = txn.stat(environment.chunks)?.entries;
    if stored != chunks {
        report
            .problem(format!("bucket {BUCKET_CHUNKS} holds {stored} chunks, cells name {chunks}"));
    }
    report.digest = Some((expected.position.index, found.digest));
    Ok(())
}

fn log_chain(
    environment: &Environment,
    report: &mut Report,
    progress: &mut impl FnMut(Progress),
) -> Result<()> {
    let state: LogState = environment.log_state(&environment.env.read()?)?;
    let genesis = Position::genesis(environment.db_id);
    let mut end: Option<Position> = (state.oldest == Index::FIRST).then_some(genesis);
    let mut next = state.oldest;
    let total = state.last.index.next().since(state.oldest);
    while next <= state.last.index {
        let txn = environment.env.read()?;
        let records = log::read_after(environment, &txn, next.previous(), LOG_BYTES_PER_SLICE)?;
        drop(txn);
        if records.is_empty() {
            report.problem(missing(next));
            return Ok(());
        }
        for record in records {
            let batch = match record.decode() {
                Ok(batch) => batch,
                Err(e) => return report.note(e),
            };
            // Retention may overtake the walk; a jump to what is now the oldest is no hole.
            match end {
                Some(end) if !batch.continues(&end) && !collected_up_to(environment, &batch)? => {
                    report.problem(Error::corrupt(
                        BUCKET_LOG,
                        &chunk::key(batch.first(), 0),
                        format!("continues {}, the log before it ends at {end}", batch.before()),
                    ));
                }
                _ => {}
            }
            report.batches += 1;
            report.log = Some((report.log.map_or(batch.first(), |log| log.0), batch.last()));
            end = Some(batch.after());
            next = batch.last().next();
        }
        let done = next.since(state.oldest);
        progress(Progress { stage: Stage::Log, done: done.min(total), total });
    }
    // The walk went on to at least the end that meta named when it began.
    match log::hash_at(environment, &environment.env.read()?, state.last.index)? {
        log::HashAt::Boundary(hash) if hash == state.last.hash => {}
        other => report.problem(Error::corrupt(
            BUCKET_META,
            LogState::KEY,
            format!("the log ends at {}, but says {other:?} of it", state.last),
        )),
    }
    Ok(())
}

/// Whether everything before the batch has been collected by now.
fn collected_up_to(environment: &Environment, batch: &Batch) -> Result<bool> {
    Ok(batch.first() <= environment.log_state(&environment.env.read()?)?.oldest)
}

fn missing(index: Index) -> Error {
    Error::corrupt(BUCKET_LOG, &chunk::key(index, 0), "missing, although meta says it is there")
}
