//! Making a snapshot of a generation that goes on being written.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use quicksilver_format::batch::BatchHeader;
use quicksilver_format::manifest::{
    BLOCK_MAX_BYTES, BlockEntry, Manifest, SnapshotHash, encode_pair, encode_trailer, pair_bytes,
};
use quicksilver_format::{Index, chunk};

use super::super::directory::{self, DATA_MODE, io_error};
use super::super::walk::{Part, Progress, Sink, Walk};
use super::super::{BuildError, Result, State, now_us};
use super::{SnapshotFile, name};
use crate::environment::Environment;
use crate::error::Error;
use crate::log;

/// Bytes of log that are read at once.
const LOG_BYTES_AT_ONCE: usize = 16 << 20;
/// After so many bytes the file is synced, beside the walk: what is left for the end is little, and a
/// writer's commits do not wait behind gigabytes.
const SYNC_BYTES: usize = 32 << 20;

/// Writes a snapshot of the generation that is open as `source` into the directory `into`, which is
/// made if it is not there. Slices of the walk have about `slice_bytes`, usually
/// [`SLICE_BYTES`](super::super::walk::SLICE_BYTES). `progress` is called after each; when it says
/// false, the snapshot is given up, and the result is `None`.
///
/// It is checked before it gets its name: every block is read again, and what it would be restored to
/// has the digest that the generation says.
///
/// # Errors
/// A value that is damaged; log that was collected before it could be copied; or what the system
/// says. The file is gone then.
pub fn create(
    into: &Path,
    source: &Environment,
    slice_bytes: usize,
    progress: &mut dyn FnMut(Progress) -> bool,
) -> Result<Option<SnapshotFile>> {
    directory::make(into)?;
    let start = State::read(source, &source.env.read()?)?;
    let mut out = Out::begin(into)?;
    let file = out.file.try_clone().map_err(io_error(&out.path))?;
    let copied = thread::scope(|scope| {
        let (tell, told) = sync_channel::<()>(1);
        out.sync = Some(tell);
        let syncing = scope.spawn(move || told.iter().try_for_each(|()| file.sync_data()));
        let made = || copy(source, &start, slice_bytes, progress, &mut out);
        let copied = std::panic::catch_unwind(AssertUnwindSafe(made));
        // The other thread ends with this.
        out.sync = None;
        let copied = copied.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match syncing.join() {
            Ok(synced) => synced.map_err(io_error(&out.path))?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        copied
    })?;
    let Some((end, seen)) = copied else { return Ok(None) };
    let txn = source.env.read()?;
    let (identity, format) = (source.identity(&txn)?, source.format_record(&txn)?);
    drop(txn);
    let manifest = Manifest {
        database_format: format.version,
        page_bytes: format.page_bytes,
        identity,
        start: start.log.last,
        end: end.applied,
        sealed_at_us: end.log.sealed_at_us,
        created_us: now_us(),
        sections: out.sections,
        blocks: std::mem::take(&mut out.blocks),
    };
    let bytes = manifest.encode();
    out.write(&bytes)?;
    out.write(&encode_trailer(bytes.len()))?;
    // The disk is slower than the check.
    let checked = thread::scope(|scope| {
        let synced = scope.spawn(|| out.file.sync_all());
        let snapshot = SnapshotFile::open(&out.path)?;
        let checked = snapshot.check(&mut |_| progress(seen))?;
        match synced.join() {
            Ok(synced) => synced.map_err(io_error(&out.path))?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        Ok::<_, BuildError>(checked.then_some(snapshot))
    })?;
    let Some(snapshot) = checked else { return Ok(None) };
    let path = into.join(name(&snapshot.manifest, snapshot.identity));
    out.finish(&path)?;
    directory::sync(into)?;
    Ok(Some(SnapshotFile { path, ..snapshot }))
}

/// Everything but the manifest; what the source was at its end, and how far the walk came.
fn copy(
    source: &Environment,
    start: &State,
    slice_bytes: usize,
    progress: &mut dyn FnMut(Progress) -> bool,
    out: &mut Out,
) -> Result<Option<(State, Progress)>> {
    let mut walk = Walk::new(source, start, slice_bytes, progress)?;
    for part in [Part::Data, Part::Chunks] {
        if walk.walk(part, out)?.is_none() {
            return Ok(None);
        }
        out.end_block();
        out.end_slice()?;
    }
    let seen = walk.seen();
    Ok(Some((copy_log(source, start.log.last.index, out)?, seen)))
}

/// The batches after `after`, up to what was the end at one moment: what the source was then.
fn copy_log(source: &Environment, mut after: Index, out: &mut Out) -> Result<State> {
    loop {
        let txn = source.env.read()?;
        let state = State::read(source, &txn)?;
        let records = log::read_after(source, &txn, after, LOG_BYTES_AT_ONCE)?;
        drop(txn);
        for record in records {
            if record.first != after.next() {
                let (path, expected, found) = (out.path.clone(), after.next(), record.first);
                return Err(BuildError::Collected { path, expected, found });
            }
            let header = BatchHeader::decode(&record.bytes)
                .map_err(|e| Error::corrupt("log", &chunk::key(record.first, 0), e))?;
            let pieces = record.bytes.chunks(chunk::max_bytes(source.page_bytes));
            for (number, piece) in (0..).zip(pieces) {
                out.take(Part::Log, &chunk::key(record.first, number), piece)?;
            }
            after = header.last();
        }
        if after >= state.log.last.index {
            out.end_block();
            out.end_slice()?;
            return Ok(state);
        }
        out.end_slice()?;
    }
}

/// The file while it is written. It goes again unless it is finished.
struct Out {
    path: PathBuf,
    file: File,
    /// The block that is being filled, and what it is of.
    block: Vec<u8>,
    part: Part,
    /// Blocks that are full and not written.
    full: Vec<Vec<u8>>,
    blocks: Vec<BlockEntry>,
    sections: [u32; 3],
    /// Who syncs, and the bytes that were written since it was told to.
    sync: Option<SyncSender<()>>,
    unsynced_bytes: usize,
    finished: bool,
}

impl Out {
    fn begin(into: &Path) -> Result<Self> {
        let path = into.join(format!("{}.new", std::process::id()));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(DATA_MODE);
        let file = options.open(&path).map_err(io_error(&path))?;
        Ok(Out {
            path,
            file,
            block: Vec::with_capacity(BLOCK_MAX_BYTES),
            part: Part::Data,
            full: Vec::new(),
            blocks: Vec::new(),
            sections: [0; 3],
            sync: None,
            unsynced_bytes: 0,
            finished: false,
        })
    }

    fn end_block(&mut self) {
        if !self.block.is_empty() {
            let next = Vec::with_capacity(BLOCK_MAX_BYTES);
            self.full.push(std::mem::replace(&mut self.block, next));
            self.sections[self.part as usize] += 1;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.file.write_all(bytes).map_err(io_error(&self.path))?)
    }

    fn finish(mut self, name: &Path) -> Result<()> {
        // Whatever the umask.
        let mode = Permissions::from_mode(DATA_MODE);
        self.file.set_permissions(mode).map_err(io_error(&self.path))?;
        self.file.sync_all().map_err(io_error(&self.path))?;
        fs::rename(&self.path, name).map_err(io_error(name))?;
        self.finished = true;
        Ok(())
    }
}

impl Sink for Out {
    fn take(&mut self, part: Part, key: &[u8], value: &[u8]) -> Result<()> {
        if self.block.len() + pair_bytes(key, value) > BLOCK_MAX_BYTES {
            self.end_block();
        }
        self.part = part;
        let encoded = encode_pair(key, value, &mut self.block);
        Ok(encoded.map_err(|source| Error::Format { path: self.path.clone(), source })?)
    }

    fn end_slice(&mut self) -> Result<()> {
        for block in std::mem::take(&mut self.full) {
            let bytes = u32::try_from(block.len()).unwrap_or(u32::MAX);
            self.blocks.push(BlockEntry { bytes, hash: SnapshotHash::of(&block) });
            self.write(&block)?;
            self.unsynced_bytes += block.len();
        }
        if let (Some(sync), true) = (&self.sync, self.unsynced_bytes >= SYNC_BYTES) {
            self.unsynced_bytes = 0;
            // A sync that failed has ended the other thread, and is told in the end.
            let _ = sync.send(());
        }
        Ok(())
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        if !self.finished {
            // What is left over is removed at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}
