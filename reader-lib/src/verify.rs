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
/// The same, when nobody waits for the result.
const SCRUB_DIGEST_TIME_LIMIT: Duration = Duration::from_secs(5);
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
    /// Bytes that all stages have read.
    pub bytes: u64,
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
    let mut verification = Verification::new(environment, DIGEST_TIME_LIMIT, |now| {
        progress(now);
        true
    });
    verification.run()?;
    Ok(verification.report)
}

/// As [`verify`], in the background of a process that writes: `progress` may pause, and ends it by
/// saying false (`None`); the transaction in which the digest is compared is a shorter one.
pub fn scrub(
    environment: &Environment,
    progress: impl FnMut(Progress) -> bool,
) -> Result<Option<Report>> {
    let mut verification = Verification::new(environment, SCRUB_DIGEST_TIME_LIMIT, progress);
    let ran = verification.run()?;
    Ok(ran.then_some(verification.report))
}

/// One run. Each stage returns false when it was told to end.
struct Verification<'e, P> {
    environment: &'e Environment,
    digest_time_limit: Duration,
    report: Report,
    progress: P,
    bytes: u64,
}

impl<'e, P: FnMut(Progress) -> bool> Verification<'e, P> {
    fn new(environment: &'e Environment, digest_time_limit: Duration, progress: P) -> Self {
        let report = Report::default();
        Verification { environment, digest_time_limit, report, progress, bytes: 0 }
    }

    fn run(&mut self) -> Result<bool> {
        Ok(self.values()? && self.digest()? && self.log_chain()?)
    }

    fn goes_on(&mut self, stage: Stage, done: u64, total: u64) -> bool {
        (self.progress)(Progress { stage, done, total, bytes: self.bytes })
    }

    fn values(&mut self) -> Result<bool> {
        let environment = self.environment;
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
                        self.report.keys += 1;
                        self.report.bytes += (key.len() + value.len()) as u64;
                        bytes += key.len() + value.len();
                    }
                    Err(e) => self.report.note(e)?,
                }
                keys += 1;
                if keys == KEYS_PER_SLICE || bytes >= BYTES_PER_SLICE {
                    last_key = Some(key.to_vec());
                    break;
                }
                next = cursor.next()?;
            }
            let ended = next.is_none();
            drop(cursor);
            drop(txn);
            self.bytes += bytes as u64;
            if !self.goes_on(Stage::Values, self.report.keys, total) {
                return Ok(false);
            }
            if ended {
                return Ok(true);
            }
        }
    }

    fn digest(&mut self) -> Result<bool> {
        let started = Instant::now();
        let environment = self.environment;
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
                        self.report.problem(Error::corrupt(
                            BUCKET_DATA,
                            key,
                            format!("written at {}, after the applied index", cell.write_index),
                        ));
                    }
                    if let Body::Chunked { chunks: n, .. } = cell.body {
                        chunks += u64::from(n);
                    }
                }
                Err(e) => self.report.problem(Error::corrupt(BUCKET_DATA, key, e)),
            }
            found.keys += 1;
            if found.keys.is_multiple_of(KEYS_PER_SLICE as u64) {
                // What was read just now, so that nobody pauses within this transaction.
                if !self.goes_on(Stage::Digest, found.keys, expected.keys) {
                    return Ok(false);
                }
                if started.elapsed() > self.digest_time_limit {
                    return Ok(true);
                }
            }
            next = cursor.next()?;
        }
        if found != expected {
            self.report.problem(format!(
                "at index {}: {} keys, {} bytes and digest {} are there, meta says {} keys, {} \
                 bytes and digest {}",
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
            self.report.problem(format!(
                "bucket {BUCKET_CHUNKS} holds {stored} chunks, cells name {chunks}"
            ));
        }
        self.report.digest = Some((expected.position.index, found.digest));
        Ok(self.goes_on(Stage::Digest, found.keys, expected.keys))
    }

    fn log_chain(&mut self) -> Result<bool> {
        let environment = self.environment;
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
                self.report.problem(missing(next));
                return Ok(true);
            }
            for record in records {
                self.bytes += record.bytes.len() as u64;
                let batch = match record.decode() {
                    Ok(batch) => batch,
                    Err(e) => {
                        self.report.note(e)?;
                        return Ok(true);
                    }
                };
                // Retention may overtake the walk; a jump to what is now the oldest is no hole.
                match end {
                    Some(end)
                        if !batch.continues(&end) && !collected_up_to(environment, &batch)? =>
                    {
                        self.report.problem(Error::corrupt(
                            BUCKET_LOG,
                            &chunk::key(batch.first(), 0),
                            format!(
                                "continues {}, the log before it ends at {end}",
                                batch.before()
                            ),
                        ));
                    }
                    _ => {}
                }
                let report = &mut self.report;
                report.batches += 1;
                report.log = Some((report.log.map_or(batch.first(), |log| log.0), batch.last()));
                end = Some(batch.after());
                next = batch.last().next();
            }
            let done = next.since(state.oldest);
            if !self.goes_on(Stage::Log, done.min(total), total) {
                return Ok(false);
            }
        }
        // The walk went on to at least the end that meta named when it began.
        match log::hash_at(environment, &environment.env.read()?, state.last.index)? {
            log::HashAt::Boundary(hash) if hash == state.last.hash => {}
            // Collected since.
            log::HashAt::TooOld(_) => {}
            other => self.report.problem(Error::corrupt(
                BUCKET_META,
                LogState::KEY,
                format!("the log ends at {}, but says {other:?} of it", state.last),
            )),
        }
        Ok(true)
    }
}

/// Whether everything before the batch has been collected by now.
fn collected_up_to(environment: &Environment, batch: &Batch) -> Result<bool> {
    Ok(batch.first() <= environment.log_state(&environment.env.read()?)?.oldest)
}

fn missing(index: Index) -> Error {
    Error::corrupt(BUCKET_LOG, &chunk::key(index, 0), "missing, although meta says it is there")
}
