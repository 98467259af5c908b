//! The end of a bootstrap: the next generation is made of the snapshot that was fetched, and the writer
//! goes on in it.

use std::time::Duration;

use quicksilver::build::rebuild::Progress;
use quicksilver::build::snapshot::{self, SnapshotFile};
use quicksilver::build::{Options, snapshot::restore};
use quicksilver_format::HistoryId;

use super::{Done, JobError, Worker, check_room_for};
use crate::store::StoreOrder;

impl Worker {
    pub(super) fn bootstrap(&mut self) -> Result<Done, JobError> {
        let live = (self.access.live)();
        let identity = live.identity(&live.env.read().map_err(quicksilver::Error::from)?)?;
        let file = self.fetched()?;
        let manifest = file.manifest();
        check_room_for(
            &self.access.dir,
            manifest.blocks_bytes(),
            "the generation of the snapshot",
        )?;
        let history = match manifest.identity.history {
            HistoryId::NONE => identity.history,
            history => history,
        };
        let options = Options {
            db_id: identity.db_id,
            history,
            map_bytes: self.desk.settings.map_bytes,
            max_readers: self.desk.settings.max_readers,
        };
        let desk = &mut self.desk;
        // As fast as the disk: this node is behind.
        let mut progress =
            |now: Progress| desk.goes_on(now.copied_bytes, now.total_bytes, Duration::ZERO);
        let next = live.generation.next();
        let restored = restore(&file, &self.access.dir, next, &options, &mut progress)?;
        let restored = restored.ok_or(JobError::Ended)?;
        let old = self.have_writer(|asker| StoreOrder::Install(restored, asker))?;
        self.old.add(old);
        Ok(Done {
            message: format!(
                "restored snapshot {}: {} keys, index {}, live is {next}",
                file.name(),
                restored.keys,
                restored.position.index
            ),
            snapshot: Some(file.name()),
            ..Done::default()
        })
    }

    /// The newest of those that are to be fetched by others, and so was fetched.
    fn fetched(&self) -> Result<SnapshotFile, JobError> {
        let files = snapshot::list_in(&snapshot::offered_in(&self.access.dir))?;
        let newest = files.into_iter().filter_map(|(_, file)| file.ok()).next_back();
        newest.ok_or(JobError::NoSnapshot)
    }
}
