//! Where measurements write, and what the disk was given.

use std::fs;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use tempfile::TempDir;

use crate::Result;

/// A directory on a disk: `/tmp` is in memory on many machines, and `/var/tmp`, whose contents outlive
/// a restart, is not. `TMPDIR` says otherwise.
pub fn scratch() -> Result<TempDir> {
    let dir = std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into());
    Ok(tempfile::Builder::new().prefix("quicksilver-bench-").tempdir_in(dir)?)
}

/// Counts what a block device was given to write, by whomever: on a machine that does nothing else,
/// that is the one who is measured.
///
/// `write_bytes` in `/proc/PID/io` is no substitute. Since file systems keep large folios, it counts
/// a whole one for every page that is written: on ext4 and Linux 6.18, 245 times what reaches the disk
/// when single pages of a large file are overwritten.
#[derive(Debug)]
pub struct WriteCounter {
    stat: PathBuf,
}

impl WriteCounter {
    /// Of the device on which `path` is.
    pub fn of(path: &Path) -> Result<Self> {
        let device = fs::metadata(path)?.st_dev();
        let stat = format!("/sys/dev/block/{}:{}/stat", major(device), minor(device));
        Ok(WriteCounter { stat: stat.into() })
    }

    /// Bytes so far; NaN of a file system that has no device of its own.
    pub fn bytes(&self) -> f64 {
        fs::read_to_string(&self.stat).ok().and_then(|stat| written(&stat)).unwrap_or(f64::NAN)
    }
}

/// The seventh field: sectors, which have 512 bytes here whatever the device says.
fn written(stat: &str) -> Option<f64> {
    let sectors: f64 = stat.split_whitespace().nth(6)?.parse().ok()?;
    Some(sectors * 512.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_written_are_found() {
        let stat = "   16341   123   991234     4321   88   77     2000      55    0   99   66";
        assert_eq!(written(stat), Some(1_024_000.0));
        assert_eq!(written("1 2 3"), None);
    }
}
