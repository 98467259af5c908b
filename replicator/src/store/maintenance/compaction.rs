//! The compaction: the next generation is made, and the writer goes on in it.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use quicksilver::build::Options;
use quicksilver::build::rebuild::{Progress, SLICE_BYTES, rebuild};
use quicksilver::environment::Environment;
use quicksilver_format::Index;

use super::{Done, JobError, Pages, TICK, Worker, check_room};
use crate::store::{Asker, StoreOrder, SwitchAnswer};
use crate::throttle::Throttle;

/// When what has been written meanwhile is caught up with in less time than this, the writer's thread
/// does the rest.
const CLOSE_ENOUGH: Duration = Duration::from_millis(20);
/// Until the next look whether everybody knows of a switch.
const SOON_LIVE: Duration = Duration::from_millis(1);

impl Worker {
    pub(super) fn compact(&mut self) -> Result<Done, JobError> {
        let source = (self.access.live)();
        check_room(&self.access.dir, &source, "the next generation")?;
        // All of it: the copy gets the log, too.
        let _hold = self.access.holds.hold(Index::ZERO);
        let before = Pages::of(&source).map_err(quicksilver::Error::from)?;
        let identity = source.identity(&source.env.read().map_err(quicksilver::Error::from)?)?;
        let options = Options {
            db_id: identity.db_id,
            history: identity.history,
            map_bytes: self.desk.settings.map_bytes,
            max_readers: self.desk.settings.max_readers,
        };
        let mut throttle = Throttle::new(Instant::now());
        let desk = &mut self.desk;
        let mut progress = |now: Progress| {
            let rate = desk.settings.copy_bytes_per_second;
            let pause = throttle.pause(Instant::now(), now.copied_bytes, rate);
            desk.goes_on(now.copied_bytes, now.total_bytes, pause)
        };
        let next = source.generation.next();
        let copy = rebuild(&self.access.dir, &source, next, &options, SLICE_BYTES, &mut progress)?;
        let mut copy = copy.ok_or(JobError::Ended)?;
        loop {
            let began = Instant::now();
            let more = copy.catch_up()?;
            if !more || began.elapsed() < CLOSE_ENOUGH {
                break;
            }
            if !self.desk.goes_on(before.used_bytes(), before.used_bytes(), Duration::ZERO) {
                return Err(JobError::Ended);
            }
        }
        let old = self.have_writer(|asker| StoreOrder::Switch(Box::new(copy), asker))?;
        let after = Pages::of(&(self.access.live)()).map_err(quicksilver::Error::from)?;
        self.old.add(old);
        Ok(Done {
            message: format!(
                "compacted: {} bytes before, {} now, live is {next}",
                before.file_bytes, after.file_bytes
            ),
            ..Done::default()
        })
    }

    /// Has the writer go on in another generation; the one before.
    pub(super) fn have_writer(
        &mut self,
        order: impl FnOnce(Asker<SwitchAnswer>) -> StoreOrder,
    ) -> Result<Environment, JobError> {
        let (tell, told) = mpsc::channel::<SwitchAnswer>();
        let asker = Asker::new(move |answer| {
            let _ = tell.send(answer);
        });
        (self.access.order)(order(asker));
        // The writer does it after the commit that it is in, or drops the order at its end.
        let before = loop {
            match told.recv_timeout(TICK) {
                Ok(answer) => break answer?,
                Err(RecvTimeoutError::Disconnected) => return Err(JobError::NoWriter),
                Err(RecvTimeoutError::Timeout) => {
                    if !self.desk.goes_on(0, 0, Duration::ZERO) {
                        return Err(JobError::Ended);
                    }
                }
            }
        };
        // It tells this job first, and then everybody: who hears of the end finds the next one live.
        while (self.access.live)().generation == before.generation
            && self.desk.goes_on(0, 0, SOON_LIVE)
        {}
        Ok(before)
    }
}
