//! Snapshot files of the live generation.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use quicksilver::build::rebuild::{Progress, SLICE_BYTES};
use quicksilver::build::snapshot::{self, SnapshotFile};
use quicksilver::build::{BuildError, Result};
use serde::{Deserialize, Serialize};

use super::{Done, JobError, Worker, check_room};
use crate::throttle::Throttle;

impl Worker {
    /// One for the operator.
    pub(super) fn snapshot(&mut self) -> std::result::Result<Done, JobError> {
        self.make_snapshot(&snapshot::directory_of(&self.access.dir))
    }

    /// One for downstreams, in place of the one before.
    pub(super) fn offer(&mut self) -> std::result::Result<Done, JobError> {
        let into = snapshot::offered_in(&self.access.dir);
        let done = self.make_snapshot(&into)?;
        for (path, _) in snapshot::list_in(&into)? {
            let name = path.file_name().and_then(|name| name.to_str());
            if name != done.snapshot.as_deref()
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!(%error, path = %path.display(), "an old offer could not be removed");
            }
        }
        self.offered = Some((self.jobs, Instant::now()));
        Ok(done)
    }

    fn make_snapshot(&mut self, into: &Path) -> std::result::Result<Done, JobError> {
        let source = (self.access.live)();
        check_room(&self.access.dir, &source, "the snapshot")?;
        let txn = source.env.read().map_err(quicksilver::Error::from)?;
        let start = source.log_state(&txn)?.last.index;
        drop(txn);
        let _hold = self.access.holds.hold(start);
        let mut throttle = Throttle::new(Instant::now());
        let desk = &mut self.desk;
        let mut progress = |now: Progress| {
            let rate = desk.settings.copy_bytes_per_second;
            let pause = throttle.pause(Instant::now(), now.copied_bytes, rate);
            desk.goes_on(now.copied_bytes, now.total_bytes, pause)
        };
        let made = snapshot::create(into, &source, SLICE_BYTES, &mut progress)?;
        let made = made.ok_or(JobError::Ended)?;
        let end = made.manifest().end;
        Ok(Done {
            message: format!(
                "snapshot {} at index {}: {} keys, {} bytes",
                made.name(),
                end.position.index,
                end.keys,
                made.file_bytes()
            ),
            snapshot: Some(made.name()),
            ..Done::default()
        })
    }
}

/// `QS.SNAPSHOT LIST` and `qsctl snapshot list --json`. The names are public.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotInfo {
    /// Of the file.
    pub name: String,
    /// BLAKE3 of its manifest, lower-case hex.
    pub identity: String,
    /// Which database.
    pub db_id: String,
    /// Which of its pasts.
    pub history: String,
    /// The index at which it is.
    pub index: u64,
    /// Running hash there.
    pub hash: String,
    /// State digest there.
    pub digest: String,
    /// Keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Blocks of the file.
    pub blocks: u64,
    /// When it was made, seconds since the Unix epoch.
    pub created: u64,
    /// The format of its pairs.
    pub format: u32,
    /// Why it cannot be used; `null` when it can, as far as the manifest says.
    pub problem: Option<String>,
}

impl SnapshotInfo {
    /// What the manifest says.
    pub fn of(file: &SnapshotFile) -> Self {
        let manifest = file.manifest();
        SnapshotInfo {
            name: file.path().file_name().unwrap_or_default().to_string_lossy().into_owned(),
            identity: file.identity().to_string(),
            db_id: manifest.identity.db_id.to_string(),
            history: manifest.identity.history.to_string(),
            index: manifest.end.position.index.get(),
            hash: manifest.end.position.hash.to_string(),
            digest: manifest.end.digest.to_string(),
            keys: manifest.end.keys,
            bytes: manifest.end.bytes,
            file_bytes: file.file_bytes(),
            blocks: manifest.blocks.len() as u64,
            created: manifest.created_us / 1_000_000,
            format: manifest.database_format,
            problem: None,
        }
    }
}

/// The snapshots of the database in `dir`, oldest first.
pub fn list_snapshots(dir: &Path) -> Result<Vec<SnapshotInfo>> {
    let info = |(path, opened): (_, Result<SnapshotFile>)| {
        let path: std::path::PathBuf = path;
        match opened {
            Ok(file) => Some(SnapshotInfo::of(&file)),
            // Removed meanwhile.
            Err(BuildError::Reader(quicksilver::Error::Io { source, .. }))
                if source.kind() == io::ErrorKind::NotFound =>
            {
                None
            }
            Err(e) => Some(SnapshotInfo {
                name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                problem: Some(e.to_string()),
                ..SnapshotInfo::default()
            }),
        }
    };
    Ok(snapshot::list(dir)?.into_iter().filter_map(info).collect())
}
