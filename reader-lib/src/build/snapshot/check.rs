//! Whether a snapshot file is what its manifest says.

use std::collections::HashMap;

use quicksilver_format::cell::{Body, RunningCrc};
use quicksilver_format::layout::{BUCKET_CHUNKS, BUCKET_DATA};
use quicksilver_format::manifest::{Pairs, Section};
use quicksilver_format::meta::Applied;
use quicksilver_format::{Cell, CellCrc, Index, Op, Position, StateDigest, chunk};

use super::SnapshotFile;
use super::restore::Records;
use crate::build::Result;
use crate::error::Error;

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// Blocks that were read.
    pub blocks: u64,
    /// Blocks that there are.
    pub total_blocks: u64,
}

/// The last change of a key after the snapshot was begun.
struct Change {
    /// Its term and its bytes, key included; `None` for a DEL.
    is: Option<(StateDigest, u64)>,
}

/// A long value whose chunks are to come.
struct LongValue {
    key: Vec<u8>,
    crc: u32,
    chunks: u32,
}

/// A long value whose chunks come just now.
struct Running {
    index: Index,
    crc: RunningCrc,
    next: u32,
}

impl SnapshotFile {
    /// Reads everything: every block against its hash, every value against its CRC, the log against
    /// its hash chain, and what the file would be restored to against digest, counts and position.
    /// `progress` is called after each block; when it says false, the check ends, and the result is
    /// false.
    ///
    /// Memory: about a hundred bytes for each long value, and for each key that was changed while the
    /// snapshot was made.
    ///
    /// # Errors
    /// [`BuildError::Damaged`](crate::build::BuildError::Damaged) or what the system says.
    pub fn check(&self, progress: &mut dyn FnMut(Checked) -> bool) -> Result<bool> {
        let total_blocks = self.manifest.blocks.len() as u64;
        let mut blocks = 0;
        let mut goes_on = || {
            blocks += 1;
            progress(Checked { blocks, total_blocks })
        };
        let mut check = Check::new(self);
        let mut buffer = Vec::new();
        // The log first: it says which cells are not those of the end.
        let sections: Vec<Section> = self.manifest.blocks().map(|(section, _)| section).collect();
        for wanted in [Section::Log, Section::Data, Section::Chunks] {
            let of_section = sections.iter().enumerate().filter(|(_, section)| **section == wanted);
            for (n, _) in of_section {
                self.block(n, &mut buffer)?;
                let mut pairs = Pairs::new(&buffer);
                let damaged = |e| self.damaged(format!("block {n}: {e}"));
                while let Some((key, value)) = pairs.take().map_err(damaged)? {
                    match wanted {
                        Section::Log => check.piece(key, value)?,
                        Section::Data => check.cell(key, value)?,
                        Section::Chunks => check.chunk(key, value)?,
                    }
                }
                if !goes_on() {
                    return Ok(false);
                }
            }
            match wanted {
                Section::Log => check.end_of_log()?,
                Section::Data => {}
                Section::Chunks => check.end_of_chunks()?,
            }
        }
        check.end()?;
        Ok(true)
    }
}

struct Check<'s> {
    file: &'s SnapshotFile,
    crc: CellCrc,
    records: Records,
    position: Position,
    changes: HashMap<Vec<u8>, Change>,
    last_key: Vec<u8>,
    long: HashMap<Index, LongValue>,
    running: Option<Running>,
    found: Applied,
}

impl<'s> Check<'s> {
    fn new(file: &'s SnapshotFile) -> Self {
        let manifest = &file.manifest;
        let empty = Applied { digest: StateDigest::EMPTY, keys: 0, bytes: 0, ..manifest.end };
        Check {
            file,
            crc: CellCrc::new(manifest.identity.db_id),
            records: Records::default(),
            position: manifest.start,
            changes: HashMap::new(),
            last_key: Vec::new(),
            long: HashMap::new(),
            running: None,
            found: empty,
        }
    }

    fn piece(&mut self, key: &[u8], piece: &[u8]) -> Result<()> {
        match self.records.take(key, piece)? {
            Some(record) => self.batch(record),
            None => Ok(()),
        }
    }

    fn end_of_log(&mut self) -> Result<()> {
        if let Some(record) = self.records.end() {
            self.batch(record)?;
        }
        let end = self.file.manifest.end.position;
        if self.position != end {
            let problem = format!("its log ends at {}, the manifest says {end}", self.position);
            return Err(self.file.damaged(problem));
        }
        Ok(())
    }

    fn batch(&mut self, record: crate::log::Record) -> Result<()> {
        let batch = record.decode()?;
        if !batch.continues(&self.position) {
            let problem = format!("a batch follows {}, expected {}", batch.before(), self.position);
            return Err(self.file.damaged(problem));
        }
        for (index, entry) in batch.entries() {
            let is = match entry.op {
                Op::Del => None,
                Op::Set(value) => {
                    let crc = self.crc.of(entry.key, index, value);
                    let value_bytes = u32::try_from(value.len()).unwrap_or(u32::MAX);
                    let term = StateDigest::term(entry.key, index, value_bytes, crc);
                    Some((term, (entry.key.len() + value.len()) as u64))
                }
            };
            self.changes.insert(entry.key.to_vec(), Change { is });
        }
        self.position = batch.after();
        Ok(())
    }

    fn cell(&mut self, key: &[u8], stored: &[u8]) -> Result<()> {
        let corrupt = |problem: String| Error::corrupt(BUCKET_DATA, key, problem);
        if key <= &self.last_key[..] {
            return Err(corrupt("out of order".to_owned()).into());
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        let cell = Cell::decode(stored).map_err(|e| corrupt(e.to_string()))?;
        if cell.write_index > self.file.manifest.start.index {
            return Err(corrupt(format!("written at {}, after the start", cell.write_index)).into());
        }
        match cell.body {
            Body::Inline(value) => {
                let crc = self.crc.of(key, cell.write_index, value);
                if crc != cell.crc {
                    let problem = format!("CRC {crc:08x}, the cell says {:08x}", cell.crc);
                    return Err(corrupt(problem).into());
                }
            }
            Body::Chunked { chunks, .. } => {
                let long = LongValue { key: key.to_vec(), crc: cell.crc, chunks };
                self.long.insert(cell.write_index, long);
            }
        }
        if !self.changes.contains_key(key) {
            self.found.digest.add(cell.digest_term(key));
            self.found.keys += 1;
            self.found.bytes += key.len() as u64 + u64::from(cell.value_bytes());
        }
        Ok(())
    }

    fn chunk(&mut self, key: &[u8], piece: &[u8]) -> Result<()> {
        let corrupt = |problem: String| Error::corrupt(BUCKET_CHUNKS, key, problem);
        let (index, number) = chunk::decode_key(key).map_err(|e| corrupt(e.to_string()))?;
        let running = match self.running.take() {
            Some(running) if running.index == index => running,
            before => {
                self.end_value(before)?;
                let long = self.long.get(&index);
                let long =
                    long.ok_or_else(|| corrupt("of a value that is not there".to_owned()))?;
                Running { index, crc: self.crc.start(&long.key, index), next: 0 }
            }
        };
        let Running { mut crc, next, .. } = running;
        if number != next {
            return Err(corrupt(format!("comes where {next} was expected")).into());
        }
        crc.update(piece);
        self.running = Some(Running { index, crc, next: next + 1 });
        Ok(())
    }

    fn end_value(&mut self, running: Option<Running>) -> Result<()> {
        let Some(Running { index, crc, next }) = running else { return Ok(()) };
        let Some(long) = self.long.remove(&index) else { return Ok(()) };
        let crc = crc.finish();
        // One that was replaced while it was read is in the log.
        if (crc != long.crc || next != long.chunks) && !self.changes.contains_key(&long.key) {
            let problem = format!(
                "{next} chunks with CRC {crc:08x}, expected {} with {:08x}",
                long.chunks, long.crc
            );
            return Err(Error::corrupt(BUCKET_DATA, &long.key, problem).into());
        }
        Ok(())
    }

    fn end_of_chunks(&mut self) -> Result<()> {
        let running = self.running.take();
        self.end_value(running)?;
        match self.long.values().find(|long| !self.changes.contains_key(&long.key)) {
            None => Ok(()),
            Some(long) => {
                Err(Error::corrupt(BUCKET_DATA, &long.key, "its chunks are missing").into())
            }
        }
    }

    fn end(mut self) -> Result<()> {
        for (term, bytes) in self.changes.values().filter_map(|change| change.is) {
            self.found.digest.add(term);
            self.found.keys += 1;
            self.found.bytes += bytes;
        }
        let expected = self.file.manifest.end;
        if self.found != expected {
            let problem = format!("it comes to {:?}, the manifest says {expected:?}", self.found);
            return Err(self.file.damaged(problem));
        }
        Ok(())
    }
}
