//! Which LMDB is linked, and whether we can live with it.
//!
//! Invariant: no environment is opened through a library outside 0.9.21 to 0.9.x. All of 0.9
//! shares the data and lock file formats; 1.0 does not.

use std::ffi::c_int;

use crate::LmdbError;
use crate::sys::mdb_version;

/// The oldest patch of 0.9 we accept: the one lmdb-sys 0.8 bundles.
pub const MIN_PATCH: i32 = 21;

/// 0.9.26 to 0.9.31 destroy the mutexes in `lock.mdb` when the last user closes the environment,
/// also at the end of a failed open. Another process that opens at that moment would use them.
const DESTROYS_MUTEXES: std::ops::RangeInclusive<i32> = 26..=31;

/// Major, minor and patch number of the linked LMDB.
#[must_use]
pub fn library_version() -> (i32, i32, i32) {
    let (mut major, mut minor, mut patch): (c_int, c_int, c_int) = (0, 0, 0);
    // SAFETY: mdb_version writes three ints through the pointers, which outlive the call; the
    // string it returns is static and unused.
    unsafe { mdb_version(&raw mut major, &raw mut minor, &raw mut patch) };
    (major, minor, patch)
}

/// Refuses a library that writes another format or is too old.
pub(crate) fn check() -> Result<(), LmdbError> {
    let found = library_version();
    if is_supported(found) { Ok(()) } else { Err(LmdbError::UnsupportedLibrary { found }) }
}

/// Whether the linked library destroys shared mutexes when it closes an environment.
pub(crate) fn close_destroys_mutexes() -> bool {
    DESTROYS_MUTEXES.contains(&library_version().2)
}

fn is_supported((major, minor, patch): (i32, i32, i32)) -> bool {
    major == 0 && minor == 9 && patch >= MIN_PATCH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_late_0_9_is_supported() {
        assert!(is_supported((0, 9, 21)));
        assert!(is_supported((0, 9, 70)));
        assert!(!is_supported((0, 9, 20)));
        assert!(!is_supported((0, 8, 30)));
        assert!(!is_supported((1, 0, 30)));
        assert!(!is_supported((1, 9, 24)));
    }

    #[test]
    fn the_linked_library_is_supported() {
        assert!(check().is_ok(), "{:?}", library_version());
    }
}
