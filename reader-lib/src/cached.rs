//! A parsed value that is kept until its key changes.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use quicksilver_format::layout::Generation;

use crate::error::Result;
use crate::reader::Reader;

type Parse<T> = dyn Fn(Option<&[u8]>) -> T + Send + Sync;

/// One key's value, parsed once and parsed again only when the key changed.
///
/// Asking costs a few nanoseconds while nothing at all was written, a look at the key after
/// something was, and the parse only after the key itself was.
///
/// ```
/// # let db = quicksilver::testing::Db::from([("limit", "10")])?;
/// # let reader = db.reader();
/// use quicksilver::Cached;
///
/// let limit = Cached::new(&reader, "limit", |value| {
///     let text = std::str::from_utf8(value.unwrap_or(b"100")).unwrap_or("100");
///     text.parse::<u32>()
/// })?;
/// assert_eq!(*limit.get()?, Ok(10));
/// # db.apply([("limit", Some("20"))])?;
/// // Somebody sets it to 20:
/// assert_eq!(*limit.get()?, Ok(20));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// `T` may be a `Result`, as here: what to do with a value that does not parse is the caller's to
/// decide.
pub struct Cached<T> {
    reader: Reader,
    key: Vec<u8>,
    parse: Box<Parse<T>>,
    /// The index and epoch at which the key was last looked at: while both stand, so does the value.
    seen_index: AtomicU64,
    seen_epoch: AtomicU64,
    kept: RwLock<Kept<T>>,
}

struct Kept<T> {
    value: Arc<T>,
    source: Source,
}

/// Which write a value was parsed from. The CRC tells apart what two pasts of a database wrote at
/// one index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Source {
    epoch: u64,
    generation: Generation,
    /// Index and CRC of the write; none when there is no such key.
    write: Option<(u64, u32)>,
}

impl<T> Cached<T> {
    /// Reads and parses the value of `key`; `parse` gets `None` when there is no such key.
    ///
    /// # Errors
    /// As [`Reader::get`].
    pub fn new(
        reader: &Reader,
        key: impl Into<Vec<u8>>,
        parse: impl Fn(Option<&[u8]>) -> T + Send + Sync + 'static,
    ) -> Result<Self> {
        let (reader, key) = (reader.clone(), key.into());
        let seen = Seen::now(&reader)?;
        let kept = read(&reader, &key, &parse)?;
        Ok(Cached {
            reader,
            key,
            parse: Box::new(parse),
            seen_index: AtomicU64::new(seen.index),
            seen_epoch: AtomicU64::new(seen.epoch),
            kept: RwLock::new(kept),
        })
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The value as of now.
    ///
    /// # Errors
    /// As [`Reader::get`]; the next call tries again.
    pub fn get(&self) -> Result<Arc<T>> {
        // Taken before the key is looked at: what is written in between is looked at again.
        let seen = Seen::now(&self.reader)?;
        let is_unchanged = self.seen_index.load(Ordering::Acquire) == seen.index
            && self.seen_epoch.load(Ordering::Acquire) == seen.epoch;
        if !is_unchanged {
            self.look(seen)?;
        }
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(&kept.value))
    }

    #[cold]
    fn look(&self, seen: Seen) -> Result<()> {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let now = source(&self.reader, &self.key)?;
        if now != kept.source {
            *kept = read(&self.reader, &self.key, &*self.parse)?;
        }
        self.seen_index.store(seen.index, Ordering::Release);
        self.seen_epoch.store(seen.epoch, Ordering::Release);
        Ok(())
    }
}

/// What changes when anything changes.
#[derive(Clone, Copy)]
struct Seen {
    index: u64,
    epoch: u64,
}

impl Seen {
    fn now(reader: &Reader) -> Result<Self> {
        Ok(Seen { index: reader.index()?.get(), epoch: reader.followed().epoch() })
    }
}

fn source(reader: &Reader, key: &[u8]) -> Result<Source> {
    // Taken first: a source with an epoch too old is only looked at once more.
    let epoch = reader.followed().epoch();
    reader.with_transaction(|environment, txn| {
        let cell = environment.cell(txn, key)?;
        let write = cell.map(|cell| (cell.write_index.get(), cell.crc));
        Ok(Source { epoch, generation: environment.generation, write })
    })
}

fn read<T>(reader: &Reader, key: &[u8], parse: impl Fn(Option<&[u8]>) -> T) -> Result<Kept<T>> {
    let epoch = reader.followed().epoch();
    reader.with_transaction(|environment, txn| {
        let cell = environment.cell(txn, key)?;
        let write = cell.map(|cell| (cell.write_index.get(), cell.crc));
        let value = environment.value(txn, key)?;
        Ok(Kept {
            value: Arc::new(parse(value.as_deref())),
            source: Source { epoch, generation: environment.generation, write },
        })
    })
}

impl<T: fmt::Debug> fmt::Debug for Cached<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Cached")
            .field("key", &self.key.escape_ascii().to_string())
            .field("value", &kept.value)
            .finish_non_exhaustive()
    }
}
