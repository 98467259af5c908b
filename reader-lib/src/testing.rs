//! A real database in a temporary directory, for tests of programs that read one.
//!
//! There is no replicator behind it: it holds what it was made from, and never changes.
//!
//! ```
//! let db = quicksilver::testing::Db::from([("hello", "world")])?;
//! let reader = quicksilver::Reader::open(db.path())?;
//! assert_eq!(reader.get(b"hello")?.as_deref(), Some(&b"world"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use quicksilver_format::cell::Body;
use quicksilver_format::layout::{self, Generation};
use quicksilver_format::limits::check_key;
use quicksilver_format::meta::{Applied, Format, Identity, LogState};
use quicksilver_format::status::Commit;
use quicksilver_format::{
    Batch, BatchBuilder, Cell, CellCrc, DbId, Entry, HistoryId, Op, Position, chunk,
};
use quicksilver_lmdb::{Env, EnvOptions, WriteTxn};

use crate::Reader;
use crate::error::{Error, Result};
use crate::status_page::StatusWriter;

const MAP_BYTES: usize = 1 << 30;

/// A database in a temporary directory that goes when this does.
#[derive(Debug)]
pub struct Db {
    dir: PathBuf,
}

impl Db {
    /// Writes these pairs; of several with one key, the last.
    pub fn from<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self> {
        let pairs: BTreeMap<Vec<u8>, Vec<u8>> = pairs
            .into_iter()
            .map(|(key, value)| (key.as_ref().to_vec(), value.as_ref().to_vec()))
            .collect();
        let db = Db { dir: temporary_dir()? };
        build(&db.dir, DbId::random(), &pairs)?;
        Ok(db)
    }

    /// The directory to open.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// A reader on it.
    ///
    /// # Panics
    /// When this process has it open already: clone that reader instead.
    pub fn reader(&self) -> Reader {
        match Reader::open(&self.dir) {
            Ok(reader) => reader,
            Err(e) => panic!("the test database cannot be opened: {e}"),
        }
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn temporary_dir() -> Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    let dir = std::env::temp_dir().join(format!("quicksilver-{}-{n}-{nanos}", process::id()));
    fs::create_dir(&dir).map_err(|source| Error::Io { path: dir.clone(), source })?;
    Ok(dir)
}

fn build(dir: &Path, db_id: DbId, pairs: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<()> {
    for key in pairs.keys() {
        check_key(key)?;
    }
    let io_error = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    let generation = Generation::FIRST;
    let path = dir.join(generation.to_string());
    fs::create_dir(&path).map_err(io_error(&path))?;
    let options = EnvOptions {
        map_bytes: MAP_BYTES,
        open_lock: Some(dir.join(layout::OPEN_LOCK)),
        ..EnvOptions::default()
    };
    let env = Env::open_writer(&path, &options)?;
    let data = env.create_bucket(layout::BUCKET_DATA)?;
    let chunks = env.create_bucket(layout::BUCKET_CHUNKS)?;
    let log_bucket = env.create_bucket(layout::BUCKET_LOG)?;
    let meta = env.create_bucket(layout::BUCKET_META)?;
    let page_bytes = env.page_size();

    let mut log = LogState::empty(db_id);
    let mut applied = Applied::empty(db_id);
    let mut builder = BatchBuilder::new(Position::genesis(db_id));
    for (key, value) in pairs {
        builder.push(Entry::set(key, value));
    }
    let mut txn = env.write()?;
    if let Some(batch) = builder.seal(1) {
        let crc = CellCrc::new(db_id);
        for (write_index, entry) in batch.entries() {
            let Op::Set(value) = entry.op else { continue };
            let body = if value.len() <= chunk::inline_max_bytes(page_bytes) {
                Body::Inline(value)
            } else {
                for (n, piece) in value.chunks(chunk::max_bytes(page_bytes)).enumerate() {
                    txn.put_append(chunks, &chunk::key(write_index, n as u32), piece)?;
                }
                Body::Chunked {
                    value_bytes: value.len() as u32,
                    chunks: chunk::count(value.len(), page_bytes) as u32,
                }
            };
            let cell = Cell { write_index, crc: crc.of(entry.key, write_index, value), body };
            let mut bytes = Vec::new();
            cell.encode(&mut bytes);
            txn.put_append(data, entry.key, &bytes)?;
            applied.digest.add(cell.digest_term(entry.key));
            applied.keys += 1;
            applied.bytes += (entry.key.len() + value.len()) as u64;
        }
        append_log(&mut txn, log_bucket, &batch, page_bytes)?;
        log = LogState { last: batch.after(), sealed_at_us: 1, ..log };
        applied.position = batch.after();
    }
    let identity = Identity { db_id, history: HistoryId::random() };
    txn.put(meta, Format::KEY, &Format::current(page_bytes as u32).encode())?;
    txn.put(meta, Identity::KEY, &identity.encode())?;
    txn.put(meta, LogState::KEY, &log.encode())?;
    txn.put(meta, Applied::KEY, &applied.encode())?;
    txn.commit()?;

    let status = dir.join(layout::STATUS);
    let page = StatusWriter::open_or_create(&status, db_id)
        .map_err(|e| Error::Io { path: status, source: std::io::Error::other(e) })?;
    page.set_generation(generation);
    page.publish(&Commit {
        position: applied.position,
        digest: applied.digest,
        keys: applied.keys,
        time_us: 1,
    });
    let current = dir.join(layout::CURRENT);
    fs::write(&current, format!("{generation}\n")).map_err(io_error(&current))
}

fn append_log(
    txn: &mut WriteTxn<'_>,
    bucket: quicksilver_lmdb::Bucket,
    batch: &Batch,
    page_bytes: usize,
) -> Result<()> {
    for (n, piece) in batch.record().chunks(chunk::max_bytes(page_bytes)).enumerate() {
        txn.put_append(bucket, &chunk::key(batch.first(), n as u32), piece)?;
    }
    Ok(())
}
