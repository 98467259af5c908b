//! The building of a bootstrap: the next generation is made of a snapshot, while that is fetched, and
//! the writer goes on in it.

use std::fmt;
use std::time::{Duration, Instant};

use quicksilver::build::rebuild::Progress;
use quicksilver::build::snapshot::{Blocks, restore};
use quicksilver::build::{BuildError, Options};
use quicksilver_format::HistoryId;

use super::{Done, JobError, JobKind, LOOK_INTERVAL, Worker, check_room_for};
use crate::store::{Asker, StoreOrder};

/// A snapshot to go on in, and who is told how that went.
pub(super) struct Bootstrap {
    pub(super) blocks: Box<dyn Blocks + Send>,
    pub(super) asker: Asker<BootstrapAnswer>,
}

impl fmt::Debug for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bootstrap({})", self.blocks.file().name())
    }
}

/// What became of a snapshot that was to be gone on in.
pub type BootstrapAnswer = Result<(), NotInstalled>;

/// The node goes on in what it had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct NotInstalled {
    /// What was in the way.
    pub why: String,
    /// Whether it is the snapshot: trying it again does not help.
    pub is_bad: bool,
}

impl Worker {
    pub(super) fn bootstrap(&mut self, bootstrap: Bootstrap) {
        let Bootstrap { blocks, asker } = bootstrap;
        self.begin(JobKind::Bootstrap, "a snapshot comes", false);
        let made = self.go_on_in(&*blocks);
        let answer = match &made {
            Ok(_) => Ok(()),
            Err(e) => Err(NotInstalled { why: e.to_string(), is_bad: is_bad(e) }),
        };
        self.end(made);
        asker.tell(answer);
    }

    fn go_on_in(&mut self, blocks: &dyn Blocks) -> Result<Done, JobError> {
        let live = (self.access.live)();
        let identity = live.identity(&live.env.read().map_err(quicksilver::Error::from)?)?;
        let file = blocks.file();
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
        let Worker { access, desk, old, looked, .. } = self;
        // As fast as it comes, and as the disk: this node is behind.
        let mut progress = |now: Progress| {
            if looked.elapsed() >= LOOK_INTERVAL {
                *looked = Instant::now();
                old.look(&access.dir, desk.settings.old_generation_patience);
            }
            desk.goes_on(now.copied_bytes, now.total_bytes, Duration::ZERO)
        };
        let next = live.generation.next();
        let restored = restore(blocks, &access.dir, next, &options, &mut progress)?;
        let given_up = if self.desk.ending { JobError::Ended } else { JobError::ComesNoMore };
        let restored = restored.ok_or(given_up)?;
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
}

/// Whether the snapshot is to blame.
fn is_bad(error: &JobError) -> bool {
    use quicksilver::Error::{Corrupt, Format, WrongDatabase};
    matches!(
        error,
        JobError::Build(
            BuildError::Damaged { .. }
                | BuildError::Reader(Corrupt { .. } | Format { .. } | WrongDatabase { .. })
        )
    )
}
