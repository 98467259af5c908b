//! A database of any size with the keys and values of [`dataset`], as `quicksilverd` would have
//! left it.

use std::path::Path;

use quicksilver::build::{Builder, Options};

use crate::{Result, dataset};

/// Address space only.
const MAP_BYTES: usize = 32 << 30;

/// Fills `dir`, in which there is no database yet, with the keys 0 to `keys`.
pub fn build(dir: &Path, keys: u64) -> Result<()> {
    // In key order, so that they are appended.
    let mut numbers: Vec<_> = (0..keys).map(|number| (dataset::key(number), number)).collect();
    numbers.sort_unstable();
    let options = Options { map_bytes: MAP_BYTES, ..Options::default() };
    let mut builder = Builder::create(dir, &options)?;
    for (key, number) in &numbers {
        builder.push(key, &dataset::value(*number))?;
    }
    builder.finish()?;
    Ok(())
}
