//! Snapshot files: a whole database at one index, in one file that any tool can copy.
//!
//! [`create`] makes one of a generation that goes on being written, [`SnapshotFile::check`] says
//! whether a file is what its manifest says, [`restore`] makes a generation of one. The format is
//! [`quicksilver_format::manifest`].
//!
//! Invariants:
//! * a file that is made here has its name only when it is whole, checked and on disk;
//! * nothing of a block is used before its hash was compared.

mod check;
mod create;
mod receive;
mod restore;
mod uncached;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use quicksilver_format::layout::{SNAPSHOT_SUFFIX, SNAPSHOTS};
use quicksilver_format::manifest::{Manifest, SnapshotHash, TRAILER_BYTES, decode_trailer};

use super::directory::{self, io_error};
use super::{BuildError, Result};
use crate::error::Error;

pub use self::create::create;
pub use self::receive::{Incoming, Receiving};
pub use self::restore::restore;

/// Below the directory of snapshots.
const OFFERED: &str = "offered";

/// An opened snapshot file whose manifest was read.
#[derive(Debug)]
pub struct SnapshotFile {
    path: PathBuf,
    file: File,
    manifest: Manifest,
    identity: SnapshotHash,
    /// Where each block begins.
    offsets: Vec<u64>,
}

impl SnapshotFile {
    /// Opens a file and reads its manifest. Of the blocks only the bytes are counted;
    /// [`check`](Self::check) reads them.
    ///
    /// # Errors
    /// A file that is no snapshot, is cut, or whose manifest is damaged; or what the system says.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(io_error(path))?;
        let file_bytes = file.metadata().map_err(io_error(path))?.len();
        let format = |source| Error::Format { path: path.to_owned(), source };
        let short = || {
            io_error(path)(io::Error::new(io::ErrorKind::UnexpectedEof, "too short for a snapshot"))
        };
        let mut trailer = [0; TRAILER_BYTES];
        let at = file_bytes.checked_sub(TRAILER_BYTES as u64).ok_or_else(short)?;
        file.read_exact_at(&mut trailer, at).map_err(io_error(path))?;
        let manifest_bytes = decode_trailer(&trailer).map_err(format)?;
        let at = at.checked_sub(manifest_bytes as u64).ok_or_else(short)?;
        let mut bytes = vec![0; manifest_bytes];
        file.read_exact_at(&mut bytes, at).map_err(io_error(path))?;
        let (manifest, identity) = Manifest::decode(&bytes).map_err(format)?;
        if manifest.blocks_bytes() != at {
            let problem =
                format!("{at} bytes of blocks, the manifest says {}", manifest.blocks_bytes());
            return Err(BuildError::Damaged { path: path.to_owned(), problem });
        }
        Ok(Self::of(path, file, manifest, identity))
    }

    /// A file of which the manifest is known.
    fn of(path: &Path, file: File, manifest: Manifest, identity: SnapshotHash) -> Self {
        let offsets = manifest.blocks.iter().scan(0, |at, block| {
            let begin = *at;
            *at += u64::from(block.bytes);
            Some(begin)
        });
        let offsets = offsets.collect();
        SnapshotFile { path: path.to_owned(), file, manifest, identity, offsets }
    }

    /// What it is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The hash of its manifest: two files with the same one are the same.
    pub fn identity(&self) -> SnapshotHash {
        self.identity
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name of the file, which says index and identity.
    pub fn name(&self) -> String {
        name(&self.manifest, self.identity)
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        let entries = self.manifest.encode().len() as u64;
        self.manifest.blocks_bytes() + entries + TRAILER_BYTES as u64
    }

    /// Reads block `n`, counted over the whole file, in place of what is in `buffer`.
    ///
    /// # Errors
    /// [`BuildError::Damaged`], a block that is not there, or what the system says.
    pub fn block(&self, n: usize, buffer: &mut Vec<u8>) -> Result<()> {
        let (Some(block), Some(offset)) = (self.manifest.blocks.get(n), self.offsets.get(n)) else {
            let problem = format!("block {n} of {}", self.manifest.blocks.len());
            return Err(self.damaged(problem));
        };
        buffer.resize(block.bytes as usize, 0);
        self.file.read_exact_at(buffer, *offset).map_err(io_error(&self.path))?;
        let found = SnapshotHash::of(buffer);
        if found != block.hash {
            let problem =
                format!("block {n} at {offset} has hash {found}, expected {}", block.hash);
            return Err(self.damaged(problem));
        }
        Ok(())
    }

    /// Makes it durable, for a file that was put together from parts.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&self) -> Result<()> {
        Ok(self.file.sync_all().map_err(io_error(&self.path))?)
    }

    fn damaged(&self, problem: String) -> BuildError {
        BuildError::Damaged { path: self.path.clone(), problem }
    }
}

/// Where [`restore`] takes the blocks of a snapshot from: a file that is whole, or one that is
/// [still coming](Incoming).
pub trait Blocks {
    /// The file that they are in.
    fn file(&self) -> &SnapshotFile;
    /// Whether block `n` is in it; waits a moment for that.
    fn arrival(&self, n: usize) -> Arrival;
    /// Block `n` as it came, if it is still in memory: it was compared with the manifest there, and
    /// need neither be read from the file nor be compared again. Once.
    fn held(&self, n: usize) -> Option<Bytes>;
    /// Whether nothing of it is to be used any more.
    fn is_given_up(&self) -> bool;
}

/// Whether a block is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It can be read.
    Here,
    /// It is still to come; ask again.
    Late,
    /// It comes no more.
    Never,
}

impl Blocks for SnapshotFile {
    fn file(&self) -> &SnapshotFile {
        self
    }

    fn arrival(&self, _: usize) -> Arrival {
        Arrival::Here
    }

    fn held(&self, _: usize) -> Option<Bytes> {
        None
    }

    fn is_given_up(&self) -> bool {
        false
    }
}

fn name(manifest: &Manifest, identity: SnapshotHash) -> String {
    let [a, b, c, d, ..] = *identity.as_bytes();
    let index = manifest.end.position.index;
    format!("{:012}-{a:02x}{b:02x}{c:02x}{d:02x}{SNAPSHOT_SUFFIX}", index.get())
}

/// Where the snapshot is that the database in `dir` fetches, or lets others fetch. There is at most
/// one, and it is no operator's business.
pub fn offered_in(dir: &Path) -> PathBuf {
    directory_of(dir).join(OFFERED)
}

/// Where the snapshots of the database in `dir` are.
pub fn directory_of(dir: &Path) -> PathBuf {
    dir.join(SNAPSHOTS)
}

/// The snapshots of the database in `dir`, oldest first, and files that look like some and are none.
///
/// # Errors
/// What the system says of the directory.
pub fn list(dir: &Path) -> Result<Vec<(PathBuf, Result<SnapshotFile>)>> {
    list_in(&directory_of(dir))
}

/// The snapshots in a directory, as [`list`] does.
///
/// # Errors
/// What the system says of the directory.
pub fn list_in(snapshots: &Path) -> Result<Vec<(PathBuf, Result<SnapshotFile>)>> {
    let entries = match fs::read_dir(snapshots) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io_error(snapshots))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(io_error(snapshots))?.path();
        if path.to_str().is_some_and(|path| path.ends_with(SNAPSHOT_SUFFIX)) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths.into_iter().map(|path| (path.clone(), SnapshotFile::open(&path))).collect())
}

/// Removes a snapshot of the database in `dir`. Whoever has it open keeps it until they are done.
///
/// # Errors
/// A name that no snapshot has, or what the system says.
pub fn remove(dir: &Path, name: &str) -> Result<()> {
    let snapshots = directory_of(dir);
    let path = snapshots.join(name);
    if name.contains('/') || !name.ends_with(SNAPSHOT_SUFFIX) {
        let problem =
            format!("a snapshot has a name that ends in {SNAPSHOT_SUFFIX}; list shows them");
        return Err(BuildError::Damaged { path, problem });
    }
    fs::remove_file(&path).map_err(io_error(&path))?;
    Ok(directory::sync(&snapshots)?)
}

/// Removes what a crash has left of making one. The caller is the one who makes them.
///
/// # Errors
/// What the system says.
pub fn remove_unfinished(dir: &Path) -> Result<()> {
    let snapshots = directory_of(dir);
    let entries = match fs::read_dir(&snapshots) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(io_error(&snapshots))?,
    };
    for entry in entries {
        let path = entry.map_err(io_error(&snapshots))?.path();
        if path.extension().is_some_and(|extension| extension == "new") {
            fs::remove_file(&path).map_err(io_error(&path))?;
        }
    }
    Ok(())
}
