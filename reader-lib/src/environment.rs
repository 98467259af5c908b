//! One opened generation: its LMDB environment, its buckets and what its `meta` says.
//!
//! This is the seam between the reader and the replicator's store, which opens the same
//! generation for writing; applications use [`crate::Reader`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use quicksilver_format::layout::{self, Generation};
use quicksilver_format::limits::check_key;
use quicksilver_format::meta::{Applied, Format, Identity, LogState};
use quicksilver_format::{Cell, CellCrc, DbId, FormatError};
use quicksilver_lmdb::{Bucket, Env, EnvOptions, LmdbError, Transaction};

use crate::error::{Error, Result};
use crate::value::{self, Value};

/// Reads which generation is live.
pub fn live_generation(dir: &Path) -> Result<Generation> {
    let path = dir.join(layout::CURRENT);
    let content = fs::read_to_string(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => {
            Error::NoDatabase { path: dir.to_owned(), found: format!("no {}", layout::CURRENT) }
        }
        _ => Error::Io { path: path.clone(), source },
    })?;
    content.parse().map_err(|source| Error::Format { path, source })
}

/// One opened generation.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Which one.
    pub generation: Generation,
    /// Its LMDB environment.
    pub env: Env,
    /// User keys to cells.
    pub data: Bucket,
    /// Pieces of long values.
    pub chunks: Bucket,
    /// Batch records.
    pub log: Bucket,
    /// What the generation says about itself.
    pub meta: Bucket,
    /// The database it belongs to.
    pub db_id: DbId,
    /// The page size its chunks were cut for.
    pub page_bytes: usize,
    /// The format it was in when it was opened, which whoever writes it goes on in.
    pub format: Format,
    crc: CellCrc,
}

impl Environment {
    /// Opens a generation of the database in `dir`, for reading. When this process has it open
    /// already, the result shares that.
    pub fn open_reader(dir: &Path, generation: Generation) -> Result<Self> {
        let path = dir.join(generation.to_string());
        let options = EnvOptions {
            // The writer chose the size of the map; a smaller one here would end too early.
            map_bytes: 0,
            open_lock: Some(dir.join(layout::OPEN_LOCK)),
            ..EnvOptions::default()
        };
        let env = Env::open_reader(&path, &options).map_err(|e| match e {
            LmdbError::NotFound { .. } => {
                Error::NoDatabase { path: dir.to_owned(), found: format!("no {generation}") }
            }
            other => other.into(),
        })?;
        let bucket = |name| env.open_bucket(name);
        let (data, chunks) = (bucket(layout::BUCKET_DATA)?, bucket(layout::BUCKET_CHUNKS)?);
        let (log, meta) = (bucket(layout::BUCKET_LOG)?, bucket(layout::BUCKET_META)?);
        Self::new(path, generation, env, [data, chunks, log, meta])
    }

    /// Wraps an environment whose buckets (data, chunks, log, meta) are open, after checking that
    /// this release can read it.
    pub fn new(
        path: PathBuf,
        generation: Generation,
        env: Env,
        [data, chunks, log, meta]: [Bucket; 4],
    ) -> Result<Self> {
        let txn = env.read()?;
        let as_path_error = |source| Error::Format { path: path.clone(), source };
        let record = |key: &'static [u8]| {
            txn.get(meta, key)?.ok_or_else(|| Error::corrupt("meta", key, "missing"))
        };
        let format = Format::decode(record(Format::KEY)?).map_err(as_path_error)?;
        format.check_readable().map_err(as_path_error)?;
        let identity = Identity::decode(record(Identity::KEY)?).map_err(as_path_error)?;
        drop(txn);
        Ok(Environment {
            generation,
            data,
            chunks,
            log,
            meta,
            db_id: identity.db_id,
            page_bytes: format.page_bytes as usize,
            format,
            crc: CellCrc::new(identity.db_id),
            env,
        })
    }

    /// Computes the CRCs of this database's cells.
    pub fn crc(&self) -> &CellCrc {
        &self.crc
    }

    /// The value of `key`, checked against its CRC.
    #[inline]
    pub fn value<'t, T: Transaction>(&self, txn: &'t T, key: &[u8]) -> Result<Option<Value<'t>>> {
        check_key(key)?;
        match txn.get(self.data, key)? {
            None => Ok(None),
            Some(bytes) => {
                let value = value::read(self, txn, key, bytes);
                value.map(Some).map_err(|e| self.or_format(txn, e))
            }
        }
    }

    /// Puts the value of `key`, checked against its CRC, into `buffer`, which is empty; `false`, and
    /// an empty buffer, when there is no such key.
    #[inline]
    pub fn value_into<T: Transaction>(
        &self,
        txn: &T,
        key: &[u8],
        buffer: &mut Vec<u8>,
    ) -> Result<bool> {
        check_key(key)?;
        match txn.get(self.data, key)? {
            None => Ok(false),
            Some(bytes) => {
                let read = value::read_into(self, txn, key, bytes, buffer);
                read.map(|()| true).map_err(|e| self.or_format(txn, e))
            }
        }
    }

    /// The cell of `key`, whose value was not looked at.
    pub fn cell<'t, T: Transaction>(&self, txn: &'t T, key: &[u8]) -> Result<Option<Cell<'t>>> {
        check_key(key)?;
        let Some(bytes) = txn.get(self.data, key)? else { return Ok(None) };
        let corrupt = |e| self.or_format(txn, Error::corrupt(layout::BUCKET_DATA, key, e));
        Cell::decode(bytes).map(Some).map_err(corrupt)
    }

    fn meta_record<T: Transaction, R>(
        &self,
        txn: &T,
        key: &'static [u8],
        decode: impl FnOnce(&[u8]) -> Result<R, FormatError>,
    ) -> Result<R> {
        let bytes = txn
            .get(self.meta, key)?
            .ok_or_else(|| Error::corrupt(layout::BUCKET_META, key, "missing"))?;
        let corrupt = |e| self.or_format(txn, Error::corrupt(layout::BUCKET_META, key, e));
        decode(bytes).map_err(corrupt)
    }

    /// Which format it is in now: [`Self::format`] is as of when it was opened.
    pub fn format_record<T: Transaction>(&self, txn: &T) -> Result<Format> {
        let bytes = txn
            .get(self.meta, Format::KEY)?
            .ok_or_else(|| Error::corrupt(layout::BUCKET_META, Format::KEY, "missing"))?;
        Format::decode(bytes).map_err(|e| Error::corrupt(layout::BUCKET_META, Format::KEY, e))
    }

    /// Refuses a format that this release cannot read, to which the generation may have been raised
    /// after it was opened.
    pub(crate) fn check_readable<T: Transaction>(&self, txn: &T) -> Result<()> {
        let readable = self.format_record(txn)?.check_readable();
        readable.map_err(|source| Error::Format { path: self.env.path().to_owned(), source })
    }

    /// What does not decode may be in a format that this release cannot read: then that is the error.
    #[cold]
    pub(crate) fn or_format<T: Transaction>(&self, txn: &T, error: Error) -> Error {
        match self.check_readable(txn) {
            Err(format @ Error::Format { .. }) if error.is_corrupt() => format,
            _ => error,
        }
    }

    /// Which database, and which of its pasts.
    pub fn identity<T: Transaction>(&self, txn: &T) -> Result<Identity> {
        self.meta_record(txn, Identity::KEY, Identity::decode)
    }

    /// How far the log reaches.
    pub fn log_state<T: Transaction>(&self, txn: &T) -> Result<LogState> {
        self.meta_record(txn, LogState::KEY, LogState::decode)
    }

    /// How far the log has been applied, and what the data then is.
    pub fn applied<T: Transaction>(&self, txn: &T) -> Result<Applied> {
        self.meta_record(txn, Applied::KEY, Applied::decode)
    }
}
