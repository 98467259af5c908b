//! Builds a database of any size with the format's own functions, without a replicator: whole
//! batches, log, position and digest, as `quicksilverd` would have left it.

use std::fs;
use std::path::Path;

use quicksilver_format::cell::Body;
use quicksilver_format::layout::{self, Generation};
use quicksilver_format::meta::{Applied, Format, Identity, LogState};
use quicksilver_format::status::Commit;
use quicksilver_format::{
    BatchBuilder, Cell, CellCrc, DbId, Entry, HistoryId, Op, Position, chunk,
};
use quicksilver_lmdb::{Env, EnvOptions};

use quicksilver::status_page::StatusWriter;

use crate::{Result, dataset};

/// Entries of one batch, and of one commit.
const BATCH_ENTRIES: usize = 50_000;
/// Address space only.
const MAP_BYTES: usize = 32 << 30;

/// What a database holds.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// The keys 0 to `keys` of [`dataset`].
    pub keys: u64,
    /// Bytes of a value: as many of it as [`dataset::value`] has, over and over.
    pub value_bytes: usize,
    /// Whether the log is kept, or collected to its end.
    pub with_log: bool,
}

/// Fills `dir`, which exists and is empty, with `keys` keys, and with the log of them.
pub fn build(dir: &Path, keys: u64) -> Result<()> {
    build_shape(dir, Shape { keys, value_bytes: dataset::VALUE_BYTES, with_log: true })
}

/// Fills `dir`, which exists and is empty.
pub fn build_shape(dir: &Path, shape: Shape) -> Result<()> {
    let db_id = DbId::random();
    let generation = Generation::FIRST;
    let path = dir.join(generation.to_string());
    fs::create_dir(&path)?;
    let env = Env::open_writer(
        &path,
        &EnvOptions {
            map_bytes: MAP_BYTES,
            open_lock: Some(dir.join(layout::OPEN_LOCK)),
            ..EnvOptions::default()
        },
    )?;
    let data = env.create_bucket(layout::BUCKET_DATA)?;
    env.create_bucket(layout::BUCKET_CHUNKS)?;
    let log_bucket = env.create_bucket(layout::BUCKET_LOG)?;
    let meta = env.create_bucket(layout::BUCKET_META)?;
    let page_bytes = env.page_size();
    let crc = CellCrc::new(db_id);

    let mut numbers: Vec<_> =
        (0..shape.keys).map(|number| (dataset::key(number), number)).collect();
    numbers.sort_unstable();
    let mut log = LogState::empty(db_id);
    let mut applied = Applied::empty(db_id);
    let mut position = Position::genesis(db_id);
    let (mut cell_bytes, mut value_bytes) = (Vec::new(), Vec::new());
    for part in numbers.chunks(BATCH_ENTRIES) {
        let mut builder = BatchBuilder::new(position);
        for (key, number) in part {
            let value = dataset::value(*number);
            value_bytes.clear();
            value_bytes.extend(value.iter().cycle().take(shape.value_bytes));
            builder.push(Entry::set(key, &value_bytes));
        }
        let batch = builder.seal(1).ok_or("an empty batch")?;
        let mut txn = env.write()?;
        for (write_index, entry) in batch.entries() {
            let Op::Set(value) = entry.op else { continue };
            let crc = crc.of(entry.key, write_index, value);
            let cell = Cell { write_index, crc, body: Body::Inline(value) };
            cell_bytes.clear();
            cell.encode(&mut cell_bytes);
            txn.put_append(data, entry.key, &cell_bytes)?;
            applied.digest.add(cell.digest_term(entry.key));
            applied.keys += 1;
            applied.bytes += (entry.key.len() + value.len()) as u64;
        }
        position = batch.after();
        log = LogState { last: position, sealed_at_us: 1, ..log };
        if shape.with_log {
            for (n, piece) in batch.record().chunks(chunk::max_bytes(page_bytes)).enumerate() {
                txn.put_append(log_bucket, &chunk::key(batch.first(), n as u32), piece)?;
            }
        } else {
            log.oldest = position.index.next();
        }
        applied.position = position;
        let identity = Identity { db_id, history: HistoryId::from_bytes([1; 16]) };
        txn.put(meta, Format::KEY, &Format::current(page_bytes as u32).encode())?;
        txn.put(meta, Identity::KEY, &identity.encode())?;
        txn.put(meta, LogState::KEY, &log.encode())?;
        txn.put(meta, Applied::KEY, &applied.encode())?;
        txn.commit()?;
    }

    let page = StatusWriter::open_or_create(&dir.join(layout::STATUS), db_id)?;
    page.set_generation(generation);
    page.publish(&Commit {
        position: applied.position,
        digest: applied.digest,
        keys: applied.keys,
        time_us: 1,
    });
    fs::write(dir.join(layout::CURRENT), format!("{generation}\n"))?;
    Ok(())
}
