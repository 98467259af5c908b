//! What is said of the maintenance in `/status`. The names are public.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What runs, what ran last, and what is left of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MaintenanceStatus {
    /// The job that runs.
    pub running: Option<JobStatus>,
    /// How the last job of each kind ended.
    pub last: BTreeMap<JobKind, JobOutcome>,
    /// Generations that are live no more and still on disk.
    pub old_generations: Vec<OldGenerationStatus>,
}

/// What a job does.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    /// Makes the next generation, without free pages.
    #[default]
    Compaction,
    /// Writes a snapshot file.
    Snapshot,
    /// Checks everything that is stored.
    Verification,
    /// Writes the snapshot that downstreams fetch.
    Offer,
    /// Makes the next generation of the snapshot that was fetched.
    Bootstrap,
}

impl JobKind {
    /// Every one.
    pub const ALL: [JobKind; 5] = [
        JobKind::Compaction,
        JobKind::Snapshot,
        JobKind::Verification,
        JobKind::Offer,
        JobKind::Bootstrap,
    ];

    /// Its word in `/status`, metrics and log lines.
    pub fn name(self) -> &'static str {
        match self {
            JobKind::Compaction => "compaction",
            JobKind::Snapshot => "snapshot",
            JobKind::Verification => "verification",
            JobKind::Offer => "offer",
            JobKind::Bootstrap => "bootstrap",
        }
    }
}

/// A job that runs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct JobStatus {
    /// Its number, in this process.
    pub job: u64,
    /// What it does.
    pub kind: JobKind,
    /// Why it was begun.
    pub reason: String,
    /// Bytes that it has read.
    pub done_bytes: u64,
    /// About so many there are.
    pub total_bytes: u64,
    /// Since it was begun.
    pub seconds: f64,
    /// Until its end, if it goes on like this; `null` when that cannot be said yet.
    pub eta_seconds: Option<f64>,
}

/// A job that has ended.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct JobOutcome {
    /// Its number, in this process.
    pub job: u64,
    /// Whether it did what it was for.
    pub ok: bool,
    /// What it did, or why it did not.
    pub message: String,
    /// How long it took.
    pub seconds: f64,
    /// When it ended, seconds since the Unix epoch.
    pub ended: u64,
    /// The snapshot that it wrote.
    pub snapshot: Option<String>,
    /// Problems that a verification found.
    pub problems: u64,
}

/// A generation that is live no more.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct OldGenerationStatus {
    /// Its number.
    pub generation: u64,
    /// Processes that are in it.
    pub readers: Vec<u32>,
}
