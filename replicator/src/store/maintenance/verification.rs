//! The verification in the background: everything is read, slowly, and checked.

use std::time::{Duration, Instant};

use quicksilver::verify::{self, Stage};

use super::{Done, JobError, Worker};
use crate::throttle::Throttle;

impl Worker {
    pub(super) fn verify(&mut self) -> Result<Done, JobError> {
        let environment = (self.access.live)();
        let mut throttle = Throttle::new(Instant::now());
        let txn = environment.env.read().map_err(quicksilver::Error::from)?;
        let data_bytes = environment.applied(&txn)?.bytes;
        drop(txn);
        let desk = &mut self.desk;
        let report = verify::scrub(&environment, |now| {
            let rate = desk.settings.verify_bytes_per_second;
            let pause = match now.stage {
                // A transaction is open.
                Stage::Digest => Duration::ZERO,
                Stage::Values | Stage::Log => throttle.pause(Instant::now(), now.bytes, rate),
            };
            desk.goes_on(now.bytes, data_bytes, pause)
        })?;
        let report = report.ok_or(JobError::Ended)?;
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
