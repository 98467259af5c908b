//! From a cell to a value: the CRC check, and putting the chunks of a long value together.

use std::ops::Deref;

use quicksilver_format::cell::Body;
use quicksilver_format::layout::{BUCKET_CHUNKS, BUCKET_DATA};
use quicksilver_format::{Cell, Index, chunk};
use quicksilver_lmdb::Transaction;

use crate::environment::Environment;
use crate::error::{Error, Result};

/// A verified value: in place in the memory map, or put together from its chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'t> {
    /// Lies in the memory map for as long as the transaction.
    Mapped(&'t [u8]),
    /// Was copied together.
    Assembled(Vec<u8>),
}

impl Deref for Value<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Value::Mapped(bytes) => bytes,
            Value::Assembled(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Value<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Value<'_> {
    /// As bytes of one's own.
    #[inline]
    pub fn into_vec(self) -> Vec<u8> {
        match self {
            Value::Mapped(bytes) => bytes.to_vec(),
            Value::Assembled(bytes) => bytes,
        }
    }
}

/// The verified value of the cell `bytes` that lies under `key`.
#[inline]
pub(crate) fn read<'t, T: Transaction>(
    environment: &Environment,
    txn: &'t T,
    key: &[u8],
    bytes: &'t [u8],
) -> Result<Value<'t>> {
    let cell = Cell::decode(bytes).map_err(|e| Error::corrupt(BUCKET_DATA, key, e))?;
    match cell.body {
        Body::Inline(value) => inline(environment, key, &cell, value).map(Value::Mapped),
        Body::Chunked { value_bytes, chunks } => {
            let mut value = Vec::new();
            let chunked = Chunked { value_bytes: value_bytes as usize, chunks };
            assemble(environment, txn, key, &cell, chunked, &mut value)?;
            Ok(Value::Assembled(value))
        }
    }
}

/// As [`read`], into `buffer`, which is empty and stays so after a failure.
#[inline]
pub(crate) fn read_into<T: Transaction>(
    environment: &Environment,
    txn: &T,
    key: &[u8],
    bytes: &[u8],
    buffer: &mut Vec<u8>,
) -> Result<()> {
    let cell = Cell::decode(bytes).map_err(|e| Error::corrupt(BUCKET_DATA, key, e))?;
    match cell.body {
        Body::Inline(value) => {
            buffer.extend_from_slice(inline(environment, key, &cell, value)?);
            Ok(())
        }
        Body::Chunked { value_bytes, chunks } => {
            let chunked = Chunked { value_bytes: value_bytes as usize, chunks };
            let assembled = assemble(environment, txn, key, &cell, chunked, buffer);
            if assembled.is_err() {
                buffer.clear();
            }
            assembled
        }
    }
}

#[inline]
fn inline<'t>(
    environment: &Environment,
    key: &[u8],
    cell: &Cell<'_>,
    value: &'t [u8],
) -> Result<&'t [u8]> {
    let crc = environment.crc().of(key, cell.write_index, value);
    if crc == cell.crc { Ok(value) } else { Err(wrong_crc(key, cell, crc)) }
}

/// What the cell of a long value says of it.
#[derive(Clone, Copy)]
struct Chunked {
    value_bytes: usize,
    chunks: u32,
}

#[cold]
fn wrong_crc(key: &[u8], cell: &Cell<'_>, found: u32) -> Error {
    let problem = format!(
        "the value has CRC {found:08x}, its cell (written at index {}) says {:08x}",
        cell.write_index, cell.crc
    );
    Error::corrupt(BUCKET_DATA, key, problem)
}

#[cold]
fn assemble<T: Transaction>(
    environment: &Environment,
    txn: &T,
    key: &[u8],
    cell: &Cell<'_>,
    Chunked { value_bytes, chunks }: Chunked,
    value: &mut Vec<u8>,
) -> Result<()> {
    let expected_chunks = chunk::count(value_bytes, environment.page_bytes);
    if chunks as usize != expected_chunks {
        let problem =
            format!("{chunks} chunks for {value_bytes} bytes, expected {expected_chunks}");
        return Err(Error::corrupt(BUCKET_DATA, key, problem));
    }
    // At most 256 MiB: Cell::decode refuses more.
    value.reserve_exact(value_bytes);
    let mut running = environment.crc().start(key, cell.write_index);
    for_each_chunk(environment, txn, cell.write_index, chunks, |piece| {
        if value.len() + piece.len() > value_bytes {
            return Err(format!("its chunks hold more than {value_bytes} bytes"));
        }
        running.update(piece);
        value.extend_from_slice(piece);
        Ok(())
    })?;
    let found = value.len();
    if found != value_bytes {
        let problem = format!("its chunks hold {found} bytes, expected {value_bytes}");
        let key = chunk::key(cell.write_index, 0);
        return Err(Error::corrupt(BUCKET_CHUNKS, &key, problem));
    }
    let crc = running.finish();
    if crc == cell.crc { Ok(()) } else { Err(wrong_crc(key, cell, crc)) }
}

/// Walks the chunks 0 to `chunks` of a write, in order.
fn for_each_chunk<T: Transaction>(
    environment: &Environment,
    txn: &T,
    write_index: Index,
    chunks: u32,
    mut visit: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<()> {
    let mut cursor = txn.cursor(environment.chunks)?;
    let mut found = cursor.seek_exact(&chunk::key(write_index, 0))?;
    for number in 0..chunks {
        let expected = chunk::key(write_index, number);
        match found {
            Some((key, piece)) if key == expected => {
                visit(piece)
                    .map_err(|problem| Error::corrupt(BUCKET_CHUNKS, &expected, problem))?;
            }
            _ => return Err(Error::corrupt(BUCKET_CHUNKS, &expected, "missing")),
        }
        found = cursor.next()?;
    }
    Ok(())
}
