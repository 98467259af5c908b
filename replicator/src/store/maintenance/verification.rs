//! The verification in the background: everything is read, slowly, and checked.
//!
//! It may take hours. Meanwhile old generations go as ever, and one that began by itself makes way for
//! whatever is asked for or due.

use std::time::{Duration, Instant};

use quicksilver::verify::{self, Stage};

use super::{Done, JobError, LOOK_INTERVAL, Pages, Worker};
use crate::throttle::Throttle;

impl Worker {
    pub(super) fn verify(&mut self) -> Result<Done, JobError> {
        let environment = (self.access.live)();
        let mut throttle = Throttle::new(Instant::now());
        let txn = environment.env.read().map_err(quicksilver::Error::from)?;
        let data_bytes = environment.applied(&txn)?.bytes;
        drop(txn);
        let Worker { access, desk, old, looked, .. } = self;
        let makes_way = desk.running.is_some_and(|running| running.makes_way);
        let mut compaction_due = false;
        let report = verify::scrub(&environment, |now| {
            if now.stage != Stage::Digest && looked.elapsed() >= LOOK_INTERVAL {
                *looked = Instant::now();
                old.look(&access.dir, desk.settings.old_generation_patience);
                compaction_due = makes_way
                    && Pages::of(&environment)
                        .is_ok_and(|pages| pages.compaction_due(&desk.settings).is_some());
                if compaction_due {
                    return false;
                }
            }
            let rate = desk.settings.verify_bytes_per_second;
            let pause = match now.stage {
                // A transaction is open.
                Stage::Digest => Duration::ZERO,
                Stage::Values | Stage::Log => throttle.pause(Instant::now(), now.bytes, rate),
            };
            desk.goes_on(now.bytes, data_bytes, pause)
        })?;
        let Some(report) = report else {
            let put_off = compaction_due || makes_way && !desk.waiting.is_empty();
            return Err(if put_off { JobError::PutOff } else { JobError::Ended });
        };
        let problems = report.problem_count;
        let message = match report.problems.first() {
            None => format!("verified {} keys and {} batches", report.keys, report.batches),
            Some(first) => format!(
                "{problems} problems, the first: {first}. What verifies is served; `qsctl verify` lists \
                 them all. Rebuild this node from a healthy one"
            ),
        };
        Ok(Done { message, problems, ..Done::default() })
    }
}
