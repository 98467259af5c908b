//! Scans: the pairs of a snapshot in key order, or against it.
//!
//! A scan reads some pairs ahead, each time with one seek to where it was, instead of keeping an
//! iterator that borrows the snapshot: that lets other calls on the snapshot in between, and
//! needs no reference to itself.
//!
//! Invariant: what the pairs that are read ahead point to lives as long as the walk's share of the
//! snapshot, or belongs to the pair.

use std::collections::VecDeque;
use std::ptr;
use std::sync::{Arc, Mutex};

use reader::{Snapshot, Value};

use crate::boundary::{Plain, call, place};
use crate::bytes::{qs_slice, read_key_part};
use crate::handle::{self, qs_scan, qs_snapshot};
use crate::range::{self, Edge};
use crate::result::{Failure, qs_result};
use crate::snapshot::{View, lock};
use crate::versioned::{self, Versioned};

/// `qs_scan_options.flags`: from the last pair to the first.
pub const QS_SCAN_BACKWARD: u64 = 1;
/// `qs_scan_options.flags`: leave the key `from` itself out.
pub const QS_SCAN_FROM_EXCLUDED: u64 = 2;
/// `qs_scan_options.flags`: take the key `to` itself in.
pub const QS_SCAN_TO_INCLUDED: u64 = 4;

const ALL_FLAGS: u64 = QS_SCAN_BACKWARD | QS_SCAN_FROM_EXCLUDED | QS_SCAN_TO_INCLUDED;

/// Pairs that are read ahead: few at first, for scans that end early.
const FIRST_AHEAD: usize = 4;
const MOST_AHEAD: usize = 64;
/// Bytes of long values that are read ahead, put together in memory. One value may be more.
const AHEAD_BYTES: usize = 1 << 20;

/// Which pairs, and in which order. Start from `QS_SCAN_OPTIONS_INIT`, which means all of them in
/// key order (byte by byte), and change what you need. What is given together holds together.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct qs_scan_options {
    /// `sizeof(qs_scan_options)`.
    pub size: usize,
    /// `QS_SCAN_BACKWARD`, `QS_SCAN_FROM_EXCLUDED`, `QS_SCAN_TO_INCLUDED`, added; 0 for none.
    pub flags: u64,
    /// Only keys that begin with these bytes; all when empty.
    pub prefix: qs_slice,
    /// Only keys that are not before this one; all when empty.
    pub from: qs_slice,
    /// Only keys before this one; all when empty.
    pub to: qs_slice,
    /// At most so many pairs; 0 for any number.
    pub limit: u64,
}

// SAFETY: numbers, and NULL pointers.
unsafe impl Plain for qs_scan_options {}
// SAFETY: nine fields of eight bytes, the first is the size; numbers and pointers.
unsafe impl Versioned for qs_scan_options {
    const NAME: &'static str = "options";
    const INIT: &'static str = "QS_SCAN_OPTIONS_INIT";
    const FIRST_BYTES: usize = 72;
}

/// What is behind a `qs_scan *`.
pub(crate) struct Walk {
    view: Arc<Mutex<View>>,
    /// What is still to be read.
    from: Edge,
    to: Edge,
    backward: bool,
    /// How many pairs may still be read.
    left: u64,
    /// How many pairs to read ahead next.
    batch: usize,
    ahead: VecDeque<Pair>,
    /// The pair that was given last: its bytes are the caller's to look at.
    given: Option<Pair>,
    /// Why there are no more pairs, which every further call is told: a caller that overlooks an
    /// error must not take it for the end.
    end: Option<End>,
}

struct Pair {
    key: qs_slice,
    value: Bytes,
}

enum Bytes {
    Mapped(qs_slice),
    Own(Box<[u8]>),
}

enum End {
    Reached,
    Failed(Failure),
}

impl Walk {
    fn next(&mut self) -> Result<Option<(qs_slice, qs_slice)>, Failure> {
        self.given = None;
        if self.ahead.is_empty() && self.end.is_none() {
            self.read_ahead();
        }
        if let Some(pair) = self.ahead.pop_front() {
            let value = match &pair.value {
                Bytes::Mapped(slice) => *slice,
                Bytes::Own(bytes) => qs_slice::of(bytes),
            };
            let key = pair.key;
            self.given = Some(pair);
            return Ok(Some((key, value)));
        }
        match &self.end {
            Some(End::Failed(failure)) => Err(failure.clone()),
            _ => Ok(None),
        }
    }

    /// Reads the next few pairs, or notes why there are none.
    fn read_ahead(&mut self) {
        let wanted = self.batch.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.batch = (self.batch * 2).min(MOST_AHEAD);
        let view = Arc::clone(&self.view);
        let result = self.read_from(&lock(&view).snapshot, wanted);
        match result {
            Err(failure) => self.end = Some(End::Failed(failure)),
            Ok(()) if self.ahead.is_empty() => self.end = Some(End::Reached),
            Ok(()) => {}
        }
    }

    fn read_from(&mut self, snapshot: &Snapshot, wanted: usize) -> Result<(), Failure> {
        if wanted == 0 || range::is_empty(&self.from, &self.to) {
            return Ok(());
        }
        let mut pairs = snapshot.range((self.from.clone(), self.to.clone()))?;
        let mut last = None;
        let mut own_bytes = 0;
        while self.ahead.len() < wanted && own_bytes <= AHEAD_BYTES {
            let Some(pair) = (if self.backward { pairs.next_back() } else { pairs.next() }) else {
                break;
            };
            let (key, value) = pair?;
            let value = match value {
                Value::Mapped(bytes) => Bytes::Mapped(qs_slice::of(bytes)),
                Value::Assembled(bytes) => {
                    own_bytes += bytes.len();
                    Bytes::Own(bytes.into_boxed_slice())
                }
            };
            self.ahead.push_back(Pair { key: qs_slice::of(key), value });
            self.left -= 1;
            last = Some(key);
        }
        if let Some(last) = last {
            let rest = Edge::Excluded(last.to_vec());
            *(if self.backward { &mut self.to } else { &mut self.from }) = rest;
        }
        Ok(())
    }
}

/// Begins a scan over a snapshot and stores a handle in `*out`; NULL after a failure.
///
/// Ownership: the handle is the caller's until `qs_scan_end`. `options` is not kept, and may be
/// NULL: all pairs, in order. The scan keeps what it shows of the snapshot alive, also when the
/// snapshot is ended before it.
///
/// Returns: `QS_OK`; `QS_CLOSED`, `QS_FORKED`, `QS_BUSY`, `QS_NO_MEMORY`, `QS_INVALID_ARGUMENT`.
///
/// # Safety
/// `options` is NULL, or points to as many readable bytes as its `size` says, and its slices are
/// readable. `out` is NULL or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qs_scan_begin(
    snapshot: *const qs_snapshot,
    options: *const qs_scan_options,
    out: *mut *mut qs_scan,
) -> qs_result {
    call(|| {
        // SAFETY: as promised by the caller.
        let out = unsafe { place(out, "out") }?;
        // SAFETY: as promised by the caller.
        let range = unsafe { read_options(options) }?;
        let view = handle::with(snapshot, |view| Ok(Arc::clone(&view)))?;
        *out = handle::add(Mutex::new(range.walk(view)))?;
        Ok(qs_result::QS_OK)
    })
}

/// Shows the next pair in `*key` and `*value`, without copying them where possible; empty unless
/// it returns `QS_OK`. No NUL byte follows them. After the last pair it returns `QS_NOT_FOUND`,
/// for ever; after an error that error, for ever.
///
/// Ownership: the library's. The bytes are valid until the next call with this scan.
///
/// Returns: `QS_OK`; `QS_NOT_FOUND`; `QS_CORRUPT`, `QS_CLOSED`, `QS_FORKED`, `QS_IO`,
/// `QS_INVALID_ARGUMENT`.
///
/// # Safety
/// `key` and `value` are NULL or point to a `qs_slice` of their own each. No thread looks at the pair before
/// any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qs_scan_next(
    scan: *mut qs_scan,
    key: *mut qs_slice,
    value: *mut qs_slice,
) -> qs_result {
    call(|| {
        if ptr::eq(key, value) && !key.is_null() {
            let message = "key and value are the same place";
            return Err(Failure::new(qs_result::QS_INVALID_ARGUMENT, message));
        }
        // SAFETY: as promised by the caller, and not the other place.
        let key = unsafe { place(key, "key") }?;
        // SAFETY: as promised by the caller.
        let value = unsafe { place(value, "value") }?;
        match handle::with(scan, |walk| lock(&walk).next())? {
            None => Ok(qs_result::QS_NOT_FOUND),
            Some(pair) => {
                (*key, *value) = pair;
                Ok(qs_result::QS_OK)
            }
        }
    })
}

/// Ends a scan. Calls that begin later, and a second `qs_scan_end`, return `QS_CLOSED`.
///
/// Returns: `QS_OK`; `QS_CLOSED`, `QS_FORKED`, `QS_INVALID_ARGUMENT`.
///
/// # Safety
/// No thread looks at what the scan has shown any more. Whatever `scan` is, it is recognised by
/// its number and not followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qs_scan_end(scan: *mut qs_scan) -> qs_result {
    call(|| {
        handle::close(scan)?;
        Ok(qs_result::QS_OK)
    })
}

/// What a caller's options say.
struct Range {
    from: Edge,
    to: Edge,
    backward: bool,
    limit: u64,
}

impl Range {
    const ALL: Range =
        Range { from: Edge::Unbounded, to: Edge::Unbounded, backward: false, limit: u64::MAX };

    fn walk(self, view: Arc<Mutex<View>>) -> Walk {
        let Range { from, to, backward, limit } = self;
        Walk {
            view,
            from,
            to,
            backward,
            left: limit,
            batch: FIRST_AHEAD,
            ahead: VecDeque::new(),
            given: None,
            end: None,
        }
    }
}

/// # Safety
/// `options` is NULL, or points to as many readable bytes as its `size` says, and its slices are
/// readable.
unsafe fn read_options(options: *const qs_scan_options) -> Result<Range, Failure> {
    // SAFETY: as promised by the caller.
    let Some(options) = (unsafe { versioned::read(options) })? else {
        return Ok(Range::ALL);
    };
    let qs_scan_options { flags, prefix, from, to, limit, .. } = options;
    if flags & !ALL_FLAGS != 0 {
        let message = format!("options->flags is {flags:#x}: this library knows {ALL_FLAGS:#x}");
        return Err(Failure::new(qs_result::QS_INVALID_ARGUMENT, message));
    }
    let part = |slice: qs_slice, what| {
        // SAFETY: as promised by the caller.
        unsafe { read_key_part(slice.data.cast(), slice.size, what) }
    };
    let prefix = part(prefix, "options->prefix")?;
    let from = part(from, "options->from")?;
    let to = part(to, "options->to")?;
    Ok(Range {
        from: range::later(
            range::at_least(prefix, false),
            range::at_least(from, flags & QS_SCAN_FROM_EXCLUDED != 0),
        ),
        to: range::earlier(
            range::after_prefix(prefix),
            range::at_most(to, flags & QS_SCAN_TO_INCLUDED != 0),
        ),
        backward: flags & QS_SCAN_BACKWARD != 0,
        limit: if limit == 0 { u64::MAX } else { limit },
    })
}
