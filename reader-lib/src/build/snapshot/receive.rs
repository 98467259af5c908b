//! A snapshot that comes in parts, and goes on where it stopped.
//!
//! ```text
//! DIR/fetching.manifest   what is coming
//! DIR/fetching.blocks     what has come of it: the first blocks of the file
//! ```
//!
//! [`Incoming`] is the same for whoever makes a generation of it meanwhile.
//!
//! Invariants:
//! * what counts as here after a restart was compared with the manifest then; a process that was killed
//!   has lost the last few megabytes;
//! * the last block is handed out when the file has its name: a generation that was made of it never
//!   leaves half a fetch behind;
//! * a file has its name only when every block is here. It is on disk after [`SnapshotFile::sync`]; a
//!   crash before that may tear it, which whoever reads the block finds out by its hash.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quicksilver_format::manifest::{BLOCK_MAX_BYTES, Manifest, SnapshotHash, encode_trailer};

use super::super::directory::{self, DATA_MODE, io_error};
use super::super::{BuildError, Result};
use super::uncached::{UNWRITTEN_MAX_BYTES, UncachedFile};
use super::{Arrival, Blocks, SnapshotFile, name};
use crate::error::Error;

const MANIFEST: &str = "fetching.manifest";
const BLOCKS: &str = "fetching.blocks";
/// What is kept in memory of blocks that came and that nobody has taken yet.
const HELD_BYTES: usize = 64 << 20;
/// What is neither held nor in the file would be nowhere.
const _: () = assert!(HELD_BYTES >= UNWRITTEN_MAX_BYTES + BLOCK_MAX_BYTES);
/// How long a block is waited for before whoever wants it looks whether it still does.
const WAIT: Duration = Duration::from_millis(100);

/// A snapshot of which the first blocks are here.
#[derive(Debug)]
pub struct Receiving {
    dir: PathBuf,
    blocks: UncachedFile,
    manifest: Manifest,
    identity: SnapshotHash,
    next_block: u32,
    arrivals: Arc<Arrivals>,
}

impl Receiving {
    /// Begins with a manifest, in `dir`, which is made if it is not there. What had come of another
    /// one is forgotten.
    ///
    /// # Errors
    /// A manifest that is none, or what the system says.
    pub fn begin(dir: &Path, manifest: &[u8]) -> Result<Self> {
        directory::make(dir)?;
        Self::forget(dir)?;
        let path = dir.join(MANIFEST);
        let (decoded, identity) = Manifest::decode(manifest)
            .map_err(|source| Error::Format { path: path.clone(), source })?;
        keep_manifest(dir, manifest)?;
        let receiving = Self::after(dir, open_blocks(dir)?, decoded, identity, 0)?;
        directory::sync(dir)?;
        Ok(receiving)
    }

    /// Goes on in a file of which the first blocks are right.
    fn after(
        dir: &Path,
        file: File,
        manifest: Manifest,
        identity: SnapshotHash,
        next_block: u32,
    ) -> Result<Self> {
        let here = manifest.blocks.iter().take(next_block as usize);
        let here_bytes = here.map(|block| u64::from(block.bytes)).sum();
        let path = dir.join(BLOCKS);
        let blocks = UncachedFile::after(&path, file, here_bytes).map_err(io_error(&path))?;
        let (dir, arrivals) = (dir.to_owned(), Arc::default());
        Ok(Receiving { dir, blocks, manifest, identity, next_block, arrivals })
    }

    /// Takes up a snapshot file again, of which no generation was made. [`resume`](Self::resume) then
    /// finds every block that is right.
    ///
    /// # Errors
    /// What the system says.
    pub fn reopen(file: &SnapshotFile) -> Result<()> {
        let dir = file.path.parent().unwrap_or(Path::new("."));
        keep_manifest(dir, &file.manifest.encode())?;
        let path = dir.join(BLOCKS);
        Ok(fs::rename(&file.path, &path).map_err(io_error(&path))?)
    }

    /// Goes on with what is in `dir`, if anything is: reads it, and keeps the blocks that are right.
    ///
    /// # Errors
    /// What the system says.
    pub fn resume(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(MANIFEST);
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(io_error(&path))?,
        };
        let Ok((manifest, identity)) = Manifest::decode(&bytes) else {
            // A crash came before it was on disk.
            Self::forget(dir)?;
            return Ok(None);
        };
        let (path, mut blocks) = (dir.join(BLOCKS), open_blocks(dir)?);
        let (mut next_block, mut buffer) = (0, Vec::new());
        for block in &manifest.blocks {
            buffer.resize(block.bytes as usize, 0);
            match blocks.read_exact(&mut buffer) {
                Ok(()) if SnapshotHash::of(&buffer) == block.hash => {}
                Ok(()) => break,
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(e) => return Err(io_error(&path)(e).into()),
            }
            next_block += 1;
        }
        Ok(Some(Self::after(dir, blocks, manifest, identity, next_block)?))
    }

    /// Forgets what has come.
    ///
    /// # Errors
    /// What the system says.
    pub fn forget(dir: &Path) -> Result<()> {
        for name in [MANIFEST, BLOCKS] {
            let path = dir.join(name);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error(&path)(e).into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What is coming.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Which one.
    pub fn identity(&self) -> SnapshotHash {
        self.identity
    }

    /// The first block that is missing.
    pub fn next_block(&self) -> u32 {
        self.next_block
    }

    /// Takes the next block, whose hash was compared.
    ///
    /// # Errors
    /// Another block than the next one, or what the system says.
    pub fn push(&mut self, number: u32, bytes: Bytes) -> Result<()> {
        let path = self.dir.join(BLOCKS);
        if number != self.next_block {
            let problem = format!("block {number} came where {} is missing", self.next_block);
            return Err(BuildError::Damaged { path, problem });
        }
        self.blocks.append(&bytes).map_err(io_error(&path))?;
        self.next_block += 1;
        self.arrivals.change(|arrived| arrived.hold(number as usize, bytes));
        self.hand_out();
        Ok(())
    }

    /// The blocks, for whoever makes a generation of them while they come. There is one at a time: the
    /// one before is told that nothing comes any more.
    ///
    /// # Errors
    /// What the system says.
    pub fn incoming(&mut self) -> Result<Incoming> {
        self.let_go();
        let path = self.dir.join(BLOCKS);
        // What is not held in memory has to be found there.
        self.blocks.flush().map_err(io_error(&path))?;
        let file = File::open(&path).map_err(io_error(&path))?;
        let file = SnapshotFile::of(&path, file, self.manifest.clone(), self.identity);
        self.arrivals = Arc::default();
        self.hand_out();
        Ok(Incoming { file, arrivals: self.arrivals.clone() })
    }

    /// Nothing comes for now. Whoever has the [`Incoming`] is told that it is given up, and all that has
    /// come is in the file, for whoever [resumes](Self::resume).
    ///
    /// # Errors
    /// What the system says.
    pub fn pause(&mut self) -> Result<()> {
        self.let_go();
        Ok(self.blocks.flush().map_err(io_error(&self.dir.join(BLOCKS)))?)
    }

    fn let_go(&self) {
        self.arrivals.change(|arrived| *arrived = Arrived { ended: true, ..Arrived::default() });
    }

    /// Every block that is here but the last.
    fn hand_out(&self) {
        let here = (self.next_block as usize).min(self.manifest.blocks.len().saturating_sub(1));
        self.arrivals.change(|arrived| {
            if !arrived.ended {
                arrived.blocks = here;
            }
        });
    }

    /// Makes it a snapshot file, once every block is here; to be [synced](SnapshotFile::sync).
    ///
    /// # Errors
    /// Blocks that are missing, or what the system says.
    pub fn finish(mut self) -> Result<SnapshotFile> {
        let path = self.dir.join(BLOCKS);
        let blocks = self.manifest.blocks.len();
        if self.next_block as usize != blocks {
            let problem = format!("{} of {blocks} blocks are here", self.next_block);
            return Err(BuildError::Damaged { path, problem });
        }
        let encoded = self.manifest.encode();
        let end = |file: &mut UncachedFile| {
            file.append(&encoded)?;
            file.append(&encode_trailer(encoded.len()))?;
            file.flush()
        };
        end(&mut self.blocks).map_err(io_error(&path))?;
        let named = self.dir.join(name(&self.manifest, self.identity));
        fs::rename(&path, &named).map_err(io_error(&named))?;
        Self::forget(&self.dir)?;
        directory::sync(&self.dir)?;
        let file = SnapshotFile::open(&named)?;
        // All of it may be used, whatever becomes of this.
        std::mem::take(&mut self.arrivals).change(|arrived| arrived.blocks = blocks);
        Ok(file)
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        // What does not get to the file is fetched again.
        let _ = self.pause();
    }
}

/// A snapshot that is still coming, as its file has it so far.
#[derive(Debug)]
pub struct Incoming {
    file: SnapshotFile,
    arrivals: Arc<Arrivals>,
}

impl Blocks for Incoming {
    fn file(&self) -> &SnapshotFile {
        &self.file
    }

    fn arrival(&self, n: usize) -> Arrival {
        let late = |arrived: &mut Arrived| n >= arrived.blocks && !arrived.ended;
        let waited = self.arrivals.changed.wait_timeout_while(self.arrivals.lock(), WAIT, late);
        let (arrived, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        match &*arrived {
            Arrived { blocks, .. } if n < *blocks => Arrival::Here,
            _ if waited.timed_out() => Arrival::Late,
            _ => Arrival::Never,
        }
    }

    fn held(&self, n: usize) -> Option<Bytes> {
        self.arrivals.lock().let_go_of(n)
    }

    fn is_given_up(&self) -> bool {
        self.arrivals.lock().ended
    }
}

/// What of a snapshot has arrived, for those on another thread who wait for it.
#[derive(Debug, Default)]
struct Arrivals {
    arrived: Mutex<Arrived>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Arrived {
    blocks: usize,
    ended: bool,
    /// The last that came and were not taken yet, each with its number.
    held: VecDeque<(usize, Bytes)>,
    held_bytes: usize,
}

impl Arrived {
    fn hold(&mut self, n: usize, bytes: Bytes) {
        if self.ended {
            return;
        }
        self.held_bytes += bytes.len();
        self.held.push_back((n, bytes));
        while self.held_bytes > HELD_BYTES
            && let Some((_, oldest)) = self.held.pop_front()
        {
            // It is in the file.
            self.held_bytes -= oldest.len();
        }
    }

    /// Block `n`, and none before it any more.
    fn let_go_of(&mut self, n: usize) -> Option<Bytes> {
        while let Some((first, _)) = self.held.front()
            && *first <= n
        {
            let (first, bytes) = self.held.pop_front()?;
            self.held_bytes -= bytes.len();
            if first == n {
                return Some(bytes);
            }
        }
        None
    }
}

impl Arrivals {
    fn lock(&self) -> MutexGuard<'_, Arrived> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Arrived)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// Keeps the manifest of what is coming, on disk.
fn keep_manifest(dir: &Path, manifest: &[u8]) -> Result<()> {
    let path = dir.join(MANIFEST);
    let write = || {
        let mut file = options().create(true).truncate(true).open(&path)?;
        file.write_all(manifest)?;
        file.sync_all()
    };
    Ok(write().map_err(io_error(&path))?)
}

/// As it is, for [`UncachedFile`].
fn open_blocks(dir: &Path) -> Result<File> {
    let path = dir.join(BLOCKS);
    let opened = options().read(true).create(true).truncate(false).open(&path);
    Ok(opened.map_err(io_error(&path))?)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(DATA_MODE);
    options
}
