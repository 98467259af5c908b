//! The four kinds of handle, and how one looks in C.
//!
//! ```text
//! bit 63      56 55                  16 15      0
//!     |   kind  |      generation     |   slot  |
//! ```
//! The kind keeps the number out of the range of addresses: a handle that is mistaken for a
//! pointer faults at once, and a pointer that is mistaken for a handle is refused.

use std::ptr;
use std::sync::{Arc, Mutex};

use reader::Reader;

use crate::changes::Feed;
use crate::result::{Failure, qs_result};
use crate::scan::Walk;
use crate::snapshot::View;
use crate::table::{Absent, Live, Number, Table};

/// An open database. Made by `qs_open`, ended by `qs_close`; any number of threads may use it at
/// the same time.
pub struct qs_db;

/// One moment of a database, in which nothing changes. Made by `qs_snapshot_begin`, ended by
/// `qs_snapshot_end`. It may go from thread to thread; calls of several threads wait for each
/// other.
pub struct qs_snapshot;

/// A walk over the pairs of a snapshot. Made by `qs_scan_begin`, ended by `qs_scan_end`. One
/// thread at a time: what `qs_scan_next` gave is valid until it is called again.
pub struct qs_scan;

/// What changes in a database, entry by entry. Made by `qs_changes_open`, ended by
/// `qs_changes_close`. One thread at a time: what `qs_changes_next` gave is valid until it is
/// called again.
pub struct qs_changes;

/// A kind of handle.
pub(crate) trait Handle: Sized + 'static {
    /// What its parameter is called in C.
    const NAME: &'static str;
    /// Where handles of this kind come from.
    const MAKER: &'static str;
    /// Its kind in the number.
    const TAG: u8;
    /// What is behind one.
    type Body: Send + Sync + 'static;

    /// All handles of this kind.
    fn table() -> &'static Table<Self::Body>;
}

macro_rules! handle {
    ($handle:ty, $body:ty, $name:literal, $maker:literal, $tag:literal) => {
        impl Handle for $handle {
            const NAME: &'static str = $name;
            const MAKER: &'static str = $maker;
            const TAG: u8 = $tag;
            type Body = $body;

            #[inline]
            fn table() -> &'static Table<$body> {
                static TABLE: Table<$body> = Table::new();
                &TABLE
            }
        }
    };
}

handle!(qs_db, Reader, "db", "qs_open", 0xd1);
handle!(qs_snapshot, Arc<Mutex<View>>, "snapshot", "qs_snapshot_begin", 0xd2);
handle!(qs_scan, Mutex<Walk>, "scan", "qs_scan_begin", 0xd3);
handle!(qs_changes, Mutex<Feed>, "changes", "qs_changes_open", 0xd4);

const TAG_SHIFT: u32 = Number::GENERATION_BITS + Number::SLOT_BITS;
const _: () = assert!(usize::BITS == 64 && TAG_SHIFT + u8::BITS == 64);

/// Makes a handle for `body`.
pub(crate) fn add<H: Handle>(body: H::Body) -> Result<*mut H, Failure> {
    let Number { slot, generation } = H::table().add(body)?;
    let bits = u64::from(H::TAG) << TAG_SHIFT | generation << Number::SLOT_BITS | u64::from(slot);
    // Lossless: a usize has 64 bits, as asserted above.
    Ok(ptr::without_provenance_mut(bits as usize))
}

/// Calls `with` with what is behind a handle, whatever the caller gave as one.
#[inline]
pub(crate) fn with<H: Handle, R>(
    handle: *const H,
    with: impl FnOnce(Live<'_, H::Body>) -> Result<R, Failure>,
) -> Result<R, Failure> {
    match H::table().with(number(handle)?, with) {
        Ok(result) => result,
        Err(absent) => Err(refusal::<H>(absent)),
    }
}

/// Ends a handle, once the calls that run on it have ended.
pub(crate) fn close<H: Handle>(handle: *const H) -> Result<H::Body, Failure> {
    H::table().close(number(handle)?).map_err(refusal::<H>)
}

#[inline]
fn number<H: Handle>(handle: *const H) -> Result<Number, Failure> {
    let bits = handle.addr() as u64;
    if bits >> TAG_SHIFT != u64::from(H::TAG) {
        return Err(not_this_kind::<H>(bits));
    }
    let generation = (bits << u8::BITS) >> (u8::BITS + Number::SLOT_BITS);
    Ok(Number { slot: bits as u16, generation })
}

#[cold]
fn not_this_kind<H: Handle>(bits: u64) -> Failure {
    if bits == 0 {
        return Failure::null(H::NAME);
    }
    let makers = [
        (qs_db::TAG, qs_db::MAKER),
        (qs_snapshot::TAG, qs_snapshot::MAKER),
        (qs_scan::TAG, qs_scan::MAKER),
        (qs_changes::TAG, qs_changes::MAKER),
    ];
    let other = makers.into_iter().find(|(tag, _)| u64::from(*tag) == bits >> TAG_SHIFT);
    let seems = other.map_or(String::new(), |(_, maker)| format!(", but seems to be from {maker}"));
    let message = format!("{} is not from {}{seems}", H::NAME, H::MAKER);
    Failure::new(qs_result::QS_INVALID_ARGUMENT, message)
}

#[cold]
fn refusal<H: Handle>(absent: Absent) -> Failure {
    let name = H::NAME;
    match absent {
        Absent::Unknown => {
            let message = format!("{name} is not from {}", H::MAKER);
            Failure::new(qs_result::QS_INVALID_ARGUMENT, message)
        }
        Absent::Closed => closed::<H>(),
        Absent::Forked => {
            let message = format!(
                "{name} was made before fork and is the parent's: open the database again here"
            );
            Failure::new(qs_result::QS_FORKED, message)
        }
    }
}

/// What calls on a closed handle say.
#[cold]
pub(crate) fn closed<H: Handle>() -> Failure {
    Failure::new(qs_result::QS_CLOSED, format!("{} was closed", H::NAME))
}
