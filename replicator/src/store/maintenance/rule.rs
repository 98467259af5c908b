//! When a compaction is due.

use std::path::Path;

use nix::sys::statvfs::statvfs;
use quicksilver::environment::Environment;
use quicksilver_lmdb::LmdbError;

use super::Settings;

/// The pages of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pages {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of the map.
    pub map_bytes: u64,
    /// Bytes of free pages.
    pub free_bytes: u64,
    /// Those of them that a reader holds back.
    pub held_bytes: u64,
}

impl Pages {
    /// Looks at a generation: a walk through its free list.
    pub fn of(environment: &Environment) -> Result<Self, LmdbError> {
        let page_bytes = environment.page_bytes as u64;
        let info = environment.env.info()?;
        let free = environment.env.free_pages()?;
        Ok(Pages {
            file_bytes: (info.last_page + 1) * page_bytes,
            map_bytes: info.map_bytes as u64,
            free_bytes: free.total * page_bytes,
            held_bytes: free.held_back * page_bytes,
        })
    }

    /// Bytes that are in use: what a copy has at most.
    pub fn used_bytes(&self) -> u64 {
        self.file_bytes.saturating_sub(self.free_bytes)
    }

    /// Why a compaction is due, if it is.
    pub(super) fn compaction_due(&self, settings: &Settings) -> Option<String> {
        if self.held_bytes > settings.reader_hold_bytes {
            return Some(format!(
                "an old reader holds back {} bytes, limits.reader_hold_bytes is {}",
                self.held_bytes, settings.reader_hold_bytes
            ));
        }
        if !settings.compacts_by_itself {
            return None;
        }
        if self.map_bytes < settings.map_bytes as u64 {
            return Some(format!(
                "limits.map_bytes is {}, the live generation has {}",
                settings.map_bytes, self.map_bytes
            ));
        }
        let percent = self.free_bytes.saturating_mul(100) / self.file_bytes.max(1);
        let due = self.file_bytes >= settings.compact_min_bytes
            && percent >= u64::from(settings.compact_free_percent);
        due.then(|| format!("{percent} % of {} bytes are free", self.file_bytes))
    }
}

/// Too little disk for what was to be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{path}: {what} needs up to {needed} bytes, and {free} are free; free some space first. Nothing \
     has changed"
)]
pub struct NoRoom {
    path: String,
    what: &'static str,
    needed: u64,
    free: u64,
}

/// Checks that a copy of a generation has room on the disk of `dir`, and leaves a little.
pub fn check_room(
    dir: &Path,
    environment: &Environment,
    what: &'static str,
) -> Result<(), CheckRoomError> {
    check_room_for(dir, Pages::of(environment)?.used_bytes(), what)
}

/// Checks that so many bytes have room on the disk of `dir`, and leave a little.
pub fn check_room_for(dir: &Path, bytes: u64, what: &'static str) -> Result<(), CheckRoomError> {
    const RESERVE_BYTES: u64 = 64 << 20;
    let needed = bytes + bytes / 16 + RESERVE_BYTES;
    let free = free_bytes(dir)?;
    if free < needed {
        return Err(NoRoom { path: dir.display().to_string(), what, needed, free }.into());
    }
    Ok(())
}

/// Bytes that an ordinary process may still write to the disk of `dir`.
pub fn free_bytes(dir: &Path) -> std::io::Result<u64> {
    let system = statvfs(dir)?;
    Ok(system.blocks_available().saturating_mul(system.fragment_size()))
}

/// Why there is no room, or why that is not known.
#[derive(Debug, thiserror::Error)]
pub enum CheckRoomError {
    /// There is none.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// What the system said of the disk.
    #[error("looking at the disk: {0}")]
    Disk(#[from] std::io::Error),
    /// What LMDB said.
    #[error(transparent)]
    Lmdb(#[from] LmdbError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compaction_is_due_when_it_would_help() {
        let settings = Settings {
            map_bytes: 1 << 30,
            reader_hold_bytes: 50 << 20,
            compacts_by_itself: true,
            compact_min_bytes: 100 << 20,
            compact_free_percent: 50,
            ..Settings::default()
        };
        let idle = Pages {
            file_bytes: 200 << 20,
            map_bytes: 1 << 30,
            free_bytes: 99 << 20,
            held_bytes: 50 << 20,
        };
        let due = |pages: Pages| pages.compaction_due(&settings);
        assert_eq!(due(idle), None);
        let said = |pages| due(pages).unwrap_or_default();
        assert!(said(Pages { free_bytes: 101 << 20, ..idle }).starts_with("50 % of 209715200"));
        assert_eq!(due(Pages { file_bytes: 99 << 20, ..idle }), None);
        assert!(said(Pages { held_bytes: 51 << 20, ..idle }).contains("old reader"));
        assert!(said(Pages { map_bytes: 1 << 29, ..idle }).contains("limits.map_bytes"));
        let by_hand = Settings { compacts_by_itself: false, ..settings };
        let free = Pages { free_bytes: 150 << 20, map_bytes: 1 << 29, ..idle };
        assert_eq!(free.compaction_due(&by_hand), None);
        let held = Pages { held_bytes: 60 << 20, ..idle };
        assert!(held.compaction_due(&by_hand).is_some(), "a reader must not fill the disk");
    }
}
