//! The look at the room every few seconds: what file, map and disk have left, and whether the quota
//! that the root announced fits here. It is looked at before a commit needs it.
//!
//! Invariants:
//! * nothing here writes, waits for a reader, or holds a snapshot for longer than one look;
//! * a shortage is said once when it begins and once when it has ended;
//! * a quota that becomes known, or another one, is compared at once and not with the next look.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quicksilver::Reader;
use quicksilver::environment::Environment;
use quicksilver_protocol::Quota;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::DaemonError;
use crate::config::Config;
use crate::metrics;
use crate::net::node::{QuotaStatus, StorageStatus};
use crate::store::gc;
use crate::store::maintenance::{Pages, free_bytes};

const LOOK_INTERVAL: Duration = Duration::from_secs(3);
/// What a disk should have free beside the next batches: other programs write to it, too, and three
/// seconds are long.
const DISK_SPARE_BYTES: u64 = 64 << 20;

/// What the writer needs beside the live data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Needs {
    /// The next batches.
    batches_bytes: u64,
    /// They and the log.
    beside_data_bytes: u64,
}

impl Needs {
    pub(super) fn of(config: &Config) -> Self {
        Needs {
            batches_bytes: config.spare_batches_bytes(),
            beside_data_bytes: config.beside_data_bytes(),
        }
    }
}

/// What the last look showed, for `/status`.
#[derive(Debug, Clone, Default)]
pub(super) struct Headroom {
    /// `None` before the first look.
    pub(super) storage: Option<StorageStatus>,
    /// `None` while no quota is known.
    pub(super) quota: Option<QuotaStatus>,
}

/// Where it is kept.
#[derive(Debug, Clone, Default)]
pub(super) struct HeadroomView(Arc<Mutex<Headroom>>);

impl HeadroomView {
    fn set(&self, headroom: Headroom) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = headroom;
    }

    /// What it was.
    pub(super) fn get(&self) -> Headroom {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Looks for as long as the process lives.
pub(super) async fn watch(
    reader: Reader,
    view: HeadroomView,
    mut needs: watch::Receiver<Needs>,
    mut quota: watch::Receiver<Option<Quota>>,
) {
    let mut alarms = Alarms::default();
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    loop {
        let more = tokio::select! {
            _ = ticks.tick() => true,
            changed = needs.changed() => changed.is_ok(),
            changed = quota.changed() => changed.is_ok(),
        };
        if !more {
            return;
        }
        let (needs, quota) = (*needs.borrow_and_update(), *quota.borrow_and_update());
        let reader = reader.clone();
        // The free list may be long, and a file system may be slow to answer.
        let looked = spawn_blocking(move || look(&reader.environment()?)).await;
        match looked.map_err(DaemonError::from).flatten() {
            Ok(room) => {
                let storage = room.storage;
                let quota = quota.map(|quota| room.compare(quota, &needs));
                alarms.look(&room, &needs, quota.as_ref());
                metrics::headroom(&storage, quota.as_ref());
                view.set(Headroom { storage: Some(storage), quota });
            }
            Err(error) => tracing::warn!(%error, "the room for data could not be looked at"),
        }
    }
}

/// What one look shows.
#[derive(Debug)]
struct Room {
    /// Where: the live generation's directory.
    path: PathBuf,
    storage: StorageStatus,
    /// What the map has left: never used, or free and not held back.
    map_left_bytes: u64,
}

fn look(environment: &Environment) -> Result<Room, DaemonError> {
    let pages = Pages::of(environment)?;
    let storage = StorageStatus {
        file_bytes: pages.file_bytes,
        free_page_bytes: pages.free_bytes,
        held_page_bytes: pages.held_bytes,
        map_bytes: pages.map_bytes,
        log_bytes: gc::log_bytes(environment, &environment.env.read()?)?,
        disk_free_bytes: free_bytes(environment.env.path())?,
    };
    let never_used = pages.map_bytes.saturating_sub(pages.file_bytes);
    let usable = pages.free_bytes.saturating_sub(pages.held_bytes);
    let path = environment.env.path().to_owned();
    Ok(Room { path, storage, map_left_bytes: never_used + usable })
}

impl Room {
    /// Whether data of that size fits beside log and batches.
    fn compare(&self, quota: Quota, needs: &Needs) -> QuotaStatus {
        let StorageStatus { file_bytes, map_bytes, disk_free_bytes, .. } = self.storage;
        let for_data = |bytes: u64| bytes.saturating_sub(needs.beside_data_bytes);
        let map_room_bytes = for_data(map_bytes);
        let disk_room_bytes = for_data(disk_free_bytes.saturating_add(file_bytes));
        QuotaStatus {
            max_db_bytes: quota.max_db_bytes,
            map_room_bytes,
            disk_room_bytes,
            sufficient: map_room_bytes.min(disk_room_bytes) >= quota.max_db_bytes,
        }
    }

    /// Below this, the map is nearly full. One that is small for its batches is so from the last
    /// quarter on, which is before the root refuses to grow it.
    fn map_needed_bytes(&self, needs: &Needs) -> u64 {
        needs.batches_bytes.min(self.storage.map_bytes / 4)
    }
}

/// A shortage. It ends with a margin over what it began below, so that a value which hovers around
/// the bound is not said again and again.
#[derive(Debug, Clone, Copy, Default)]
struct Alarm {
    /// What was too much to ask for, while there is a shortage.
    short_of_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Begins,
    Ends,
}

impl Alarm {
    /// What has changed since the last look. A shortage of another size begins anew.
    fn look(&mut self, left: u64, needed: u64, margin: u64) -> Option<Turn> {
        let before = self.short_of_bytes;
        let bound = if before == Some(needed) { needed.saturating_add(margin) } else { needed };
        self.short_of_bytes = (left < bound).then_some(needed);
        match (before, self.short_of_bytes) {
            (before, now) if before == now => None,
            (_, Some(_)) => Some(Turn::Begins),
            (_, None) => Some(Turn::Ends),
        }
    }
}

#[derive(Debug, Default)]
struct Alarms {
    disk: Alarm,
    map: Alarm,
    quota_disk: Alarm,
    quota_map: Alarm,
}

impl Alarms {
    fn look(&mut self, room: &Room, needs: &Needs, quota: Option<&QuotaStatus>) {
        let path = &*room.path.to_string_lossy();
        let needed = needs.batches_bytes + DISK_SPARE_BYTES;
        let free = room.storage.disk_free_bytes;
        match self.disk.look(free, needed, needed / 4) {
            Some(Turn::Begins) => tracing::warn!(
                path,
                free_bytes = free,
                needed_bytes = needed,
                "the disk of data_dir is nearly full: once a commit does not fit, a root refuses \
                 writes and a relay stops applying, while reads go on. Free space on it, or give \
                 it more"
            ),
            Some(Turn::Ends) => tracing::info!(free_bytes = free, "the disk has room again"),
            None => {}
        }
        let (left, needed) = (room.map_left_bytes, room.map_needed_bytes(needs));
        match self.map.look(left, needed, needed / 4) {
            Some(Turn::Begins) => tracing::warn!(
                path,
                left_bytes = left,
                needed_bytes = needed,
                held_back_bytes = room.storage.held_page_bytes,
                map_bytes = room.storage.map_bytes,
                "the memory map is nearly full: once a commit does not fit, a root refuses writes \
                 and a relay stops applying, while reads go on. Delete keys, keep less log \
                 ([retention]), end readers that hold pages back (`qsctl readers` lists them), or \
                 raise limits.map_bytes and restart, so that the next generation has a larger one"
            ),
            Some(Turn::Ends) => tracing::info!(left_bytes = left, "the memory map has room again"),
            None => {}
        }
        if let Some(quota) = quota {
            self.look_at_quota(path, quota, needs);
        }
    }

    fn look_at_quota(&mut self, path: &str, quota: &QuotaStatus, needs: &Needs) {
        let QuotaStatus { max_db_bytes, map_room_bytes, disk_room_bytes, .. } = *quota;
        let whole = max_db_bytes.saturating_add(needs.beside_data_bytes);
        match self.quota_map.look(map_room_bytes, max_db_bytes, 0) {
            Some(Turn::Begins) => tracing::warn!(
                path,
                max_db_bytes,
                map_room_bytes,
                "the root lets the data grow to more than this node's memory map can hold beside \
                 the log; it is followed until the map is full. Set limits.map_bytes to at least \
                 {whole} and restart, so that the next generation is made with it, or lower \
                 limits.max_db_bytes at the root"
            ),
            Some(Turn::Ends) => {
                tracing::info!(max_db_bytes, map_room_bytes, "the quota fits into the memory map");
            }
            None => {}
        }
        match self.quota_disk.look(disk_room_bytes, max_db_bytes, DISK_SPARE_BYTES) {
            Some(Turn::Begins) => tracing::warn!(
                path,
                max_db_bytes,
                disk_room_bytes,
                "the root lets the data grow to more than this node's disk can hold beside the \
                 log; it is followed until the disk is full. Give the file system of data_dir room \
                 for {whole} bytes, or lower limits.max_db_bytes at the root"
            ),
            Some(Turn::Ends) => {
                tracing::info!(max_db_bytes, disk_room_bytes, "the quota fits onto the disk");
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;

    const NEEDS: Needs = Needs { batches_bytes: 40, beside_data_bytes: 100 };

    fn room(map_bytes: u64, file_bytes: u64, disk_free_bytes: u64) -> Room {
        let storage =
            StorageStatus { file_bytes, map_bytes, disk_free_bytes, ..StorageStatus::default() };
        let map_left_bytes = map_bytes.saturating_sub(file_bytes);
        Room { path: PathBuf::from("/gen-000001"), storage, map_left_bytes }
    }

    #[test]
    fn a_quota_fits_when_map_and_disk_hold_it_beside_the_log() {
        let quota = Quota { max_db_bytes: 1_000 };
        for (room, map_room_bytes, disk_room_bytes, sufficient) in [
            (room(1_100, 0, 1_100), 1_000, 1_000, true),
            // What the file has already is not needed again.
            (room(1_100, 700, 400), 1_000, 1_000, true),
            (room(1_099, 700, 400), 999, 1_000, false),
            (room(1_100, 700, 399), 1_000, 999, false),
            (room(50, 0, 0), 0, 0, false),
        ] {
            let expected =
                QuotaStatus { max_db_bytes: 1_000, map_room_bytes, disk_room_bytes, sufficient };
            assert_eq!(room.compare(quota, &NEEDS), expected);
        }
    }

    #[test]
    fn a_shortage_is_said_once_and_ends_with_a_margin() {
        let mut alarm = Alarm::default();
        assert_eq!(alarm.look(100, 100, 10), None);
        assert_eq!(alarm.look(99, 100, 10), Some(Turn::Begins));
        assert_eq!(alarm.look(5, 100, 10), None);
        assert_eq!(alarm.look(109, 100, 10), None, "it hovers");
        assert_eq!(alarm.look(110, 100, 10), Some(Turn::Ends));
        assert_eq!(alarm.look(105, 100, 10), None);
        assert_eq!(alarm.look(99, 100, 10), Some(Turn::Begins));
        assert_eq!(alarm.look(99, 200, 10), Some(Turn::Begins), "another quota is said anew");
        assert_eq!(alarm.look(99, 90, 10), Some(Turn::Ends));
    }

    #[test]
    fn a_small_map_is_nearly_full_in_its_last_quarter() {
        assert_eq!(room(1_000, 0, 0).map_needed_bytes(&NEEDS), 40);
        assert_eq!(room(100, 0, 0).map_needed_bytes(&NEEDS), 25);
    }

    #[test]
    fn a_look_shows_what_a_database_takes() {
        let pairs = (0..2_000).map(|n| (format!("key {n}"), "value"));
        let db = quicksilver::testing::Db::from(pairs).unwrap();
        let reader = Reader::open(db.path()).unwrap();
        let environment = reader.environment().unwrap();
        let Room { path, storage, map_left_bytes } = look(&environment).unwrap();
        assert_eq!(path, environment.env.path());
        let StorageStatus { file_bytes, map_bytes, log_bytes, .. } = storage;
        assert_eq!(map_bytes, environment.env.info().unwrap().map_bytes as u64);
        assert!(log_bytes > 0 && log_bytes < file_bytes, "{storage:?}");
        assert!(storage.held_page_bytes <= storage.free_page_bytes, "{storage:?}");
        assert!(storage.disk_free_bytes > 0, "{storage:?}");
        let used = file_bytes - (storage.free_page_bytes - storage.held_page_bytes);
        assert_eq!(map_left_bytes, map_bytes - used);
    }
}
