//! Letting go of pages that this process has mapped and may not look at again.
//!
//! They stay in the page cache and cost nothing there; but a process that ends gives back every one
//! of them, at some 40 ns each, which for ten gigabytes is a tenth of a second in which nobody can
//! take its place.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

use crate::LmdbError;
use crate::handle::Handle;

/// At once; other threads map pages in between.
const SLICE_BYTES: usize = 64 << 20;

/// Unmaps every page of the data file from this process, for the next look to map again.
pub(crate) fn release(handle: &Handle) -> Result<(), LmdbError> {
    let doing = "letting go of mapped pages";
    handle.check_fork(doing)?;
    let io = |e: std::io::Error| LmdbError::from_io(&e, doing, &handle.dir);
    // LMDB does not say where its map is.
    let data_file = handle.dir.join("data.mdb");
    let inode = fs::metadata(&data_file).map_err(io)?.ino();
    let maps = fs::read_to_string("/proc/self/maps").map_err(io)?;
    for (start, end) in maps.lines().filter_map(|line| range_of(line, inode)) {
        for at in (start..end).step_by(SLICE_BYTES) {
            let address = std::ptr::with_exposed_provenance_mut(at);
            let Some(slice) = NonNull::new(address) else { continue };
            // SAFETY: the range is a mapping of the data file, which lives as long as the
            // environment. Nobody writes through it (no MDB_WRITEMAP), so what is dropped comes
            // back from the file, also under a transaction that is looking at it.
            let advised =
                unsafe { madvise(slice, SLICE_BYTES.min(end - at), MmapAdvise::MADV_DONTNEED) };
            advised.map_err(|errno| handle.fail(errno as i32, doing))?;
        }
    }
    Ok(())
}

/// The addresses of a line of `maps`, if it is a read-only, shared mapping of the data file:
/// `start-end r--s offset device inode path`.
fn range_of(line: &str, inode: u64) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (access, path) = (words.next()?, line.contains("/data.mdb"));
    let found: u64 = words.nth(2)?.parse().ok()?;
    if access != "r--s" || !path || found != inode {
        return None;
    }
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some((address(start)?, address(end)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_data_file_is_let_go() {
        let line = "7f00-7fff r--s 00000000 fe:00 42                /db/gen-000001/data.mdb";
        assert_eq!(range_of(line, 42), Some((0x7f00, 0x7fff)));
        assert_eq!(range_of(line, 41), None);
        assert_eq!(range_of(&line.replace("r--s", "rw-s"), 42), None);
        assert_eq!(range_of(&line.replace("data.mdb", "lock.mdb"), 42), None);
        assert_eq!(range_of("7f00-7fff rw-p 00000000 00:00 0", 0), None);
    }
}
