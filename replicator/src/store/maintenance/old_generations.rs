//! Generations that are live no more, until they are gone from the disk.
//!
//! Invariant: nobody is waited for longer than configured. Whoever is in a directory that goes keeps
//! what it has mapped, and its pages are free when it moves on or ends.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use quicksilver::build::directory;
use quicksilver::environment::Environment;

use super::status::OldGenerationStatus;
use crate::readers::program_of;

#[derive(Debug)]
struct OldGeneration {
    /// Kept open to see who is in it.
    environment: Environment,
    since: Instant,
    readers: BTreeSet<u32>,
}

/// Those that are still there.
#[derive(Debug, Default)]
pub(super) struct OldGenerations(Vec<OldGeneration>);

impl OldGenerations {
    pub(super) fn add(&mut self, environment: Environment) {
        let (since, readers) = (Instant::now(), BTreeSet::new());
        self.0.push(OldGeneration { environment, since, readers });
    }

    /// Removes those that nobody is in any more, or for too long.
    pub(super) fn look(&mut self, dir: &Path, patience: Duration) {
        let own = std::process::id();
        self.0.retain_mut(|old| {
            let generation = old.environment.generation;
            let env = &old.environment.env;
            match env.reader_check().and_then(|_| env.readers()) {
                Ok(slots) => {
                    let pids = slots.iter().map(|slot| slot.pid).filter(|pid| *pid != own);
                    old.readers = pids.collect();
                }
                Err(error) => {
                    tracing::warn!(%error, %generation, "its readers could not be listed");
                }
            }
            if !old.readers.is_empty() && old.since.elapsed() < patience {
                return true;
            }
            for pid in &old.readers {
                tracing::warn!(
                    pid,
                    program = program_of(*pid).as_deref().unwrap_or("unknown"),
                    %generation,
                    seconds = old.since.elapsed().as_secs(),
                    "an old generation goes while a reader is still in it: the reader goes on with \
                     what it has, and its disk space is free when it reads again or ends"
                );
            }
            match directory::remove_generation(dir, generation) {
                Ok(()) => tracing::info!(%generation, "removed the old generation"),
                // The next start does it.
                Err(error) => tracing::warn!(%error, %generation, "it could not be removed"),
            }
            false
        });
    }

    pub(super) fn status(&self) -> Vec<OldGenerationStatus> {
        let status = |old: &OldGeneration| OldGenerationStatus {
            generation: old.environment.generation.get(),
            readers: old.readers.iter().copied().collect(),
        };
        self.0.iter().map(status).collect()
    }
}
