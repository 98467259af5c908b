//! A database of any size with the keys and values of [`dataset`], as `quicksilverd` would have
//! left it.

use std::path::Path;

use quicksilver::build::{Builder, Options};
use quicksilver_format::layout::Generation;

use crate::{Result, dataset};

/// Address space only.
const MAP_BYTES: usize = 32 << 30;

/// Fills `dir`, in which there is no database yet, with the keys 0 to `keys`.
pub fn build(dir: &Path, keys: u64) -> Result<()> {
    build_values(dir, keys, dataset::VALUE_BYTES)
}

/// The same with values of so many bytes: [`dataset::value`], over and over.
pub fn build_values(dir: &Path, keys: u64, value_bytes: usize) -> Result<()> {
    // In key order, so that they are appended.
    let mut numbers: Vec<_> = (0..keys).map(|number| (dataset::key(number), number)).collect();
    numbers.sort_unstable();
    let options = Options { map_bytes: MAP_BYTES, ..Options::default() };
    let mut builder = Builder::create(dir, &options)?;
    let mut value = Vec::with_capacity(value_bytes);
    for (key, number) in &numbers {
        value.clear();
        value.extend(dataset::value(*number).iter().cycle().take(value_bytes));
        builder.push(key, &value)?;
    }
    builder.finish()?;
    Ok(())
}

/// Reads the whole data file, so that it is in the page cache as far as there is room; its bytes.
pub fn warm(dir: &Path) -> Result<u64> {
    let mut file = std::fs::File::open(dir.join(Generation::FIRST.to_string()).join("data.mdb"))?;
    Ok(std::io::copy(&mut file, &mut std::io::sink())?)
}
