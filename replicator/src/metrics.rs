//! Every metric: its name, what it says, its unit and its buckets. Nothing else names one.
//!
//! All carry the label `db`.

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use quicksilver_format::status::NodeState;
use quicksilver_format::{Batch, NEWEST_FORMAT_VERSION};
use quicksilver_protocol::{EndCause, FetchEnd, SourceEnd};

use crate::net::node::{
    BootstrapStatus, QuotaStatus, ReadersStatus, StorageStatus, UpstreamStatus,
};
use crate::net::replication::UpstreamState;
use crate::store::Committed;
use crate::store::maintenance::{JobKind, MaintenanceStatus};

const BUILD_INFO: &str = "quicksilver_build_info";
const LAST_INDEX: &str = "quicksilver_last_index";
const OLDEST_INDEX: &str = "quicksilver_oldest_index";
const KEYS: &str = "quicksilver_keys";
const DATA_BYTES: &str = "quicksilver_data_bytes";
const APPLIED_ENTRIES: &str = "quicksilver_applied_entries_total";
const APPLIED_BYTES: &str = "quicksilver_applied_bytes_total";
const APPLIED_BATCHES: &str = "quicksilver_applied_batches_total";
const COMMIT_SECONDS: &str = "quicksilver_commit_duration_seconds";
const COMMIT_ENTRIES: &str = "quicksilver_commit_entries";
const COMMIT_FAILURES: &str = "quicksilver_commit_failures_total";
const UPSTREAM_CONNECTED: &str = "quicksilver_upstream_connected";
const UPSTREAM_STATE: &str = "quicksilver_upstream_state";
const UPSTREAM_ENDED: &str = "quicksilver_upstream_sessions_ended_total";
const HEARTBEAT_LAG: &str = "quicksilver_heartbeat_lag_seconds";
const CLOCK_BEHIND: &str = "quicksilver_clock_behind_root";
const DOWNSTREAMS: &str = "quicksilver_downstreams";
const DOWNSTREAM_ENDED: &str = "quicksilver_downstream_sessions_ended_total";
const TRANSFERS_ENDED: &str = "quicksilver_transfers_ended_total";
const READERS: &str = "quicksilver_readers";
const READER_SLOTS: &str = "quicksilver_reader_slots_limit";
const OLDEST_READER_AGE: &str = "quicksilver_oldest_reader_age_seconds";
const OLDEST_READER_LAG: &str = "quicksilver_oldest_reader_lag_commits";
const JOB_RUNNING: &str = "quicksilver_maintenance_running";
const JOB_DONE_BYTES: &str = "quicksilver_maintenance_done_bytes";
const JOB_TOTAL_BYTES: &str = "quicksilver_maintenance_total_bytes";
const JOB_OK: &str = "quicksilver_maintenance_last_ok";
const JOB_ENDED: &str = "quicksilver_maintenance_last_end_timestamp_seconds";
const VERIFY_PROBLEMS: &str = "quicksilver_verification_problems";
const BOOTSTRAP: &str = "quicksilver_bootstrapping";
const BOOTSTRAP_DONE: &str = "quicksilver_bootstrap_done_bytes";
const BOOTSTRAP_TOTAL: &str = "quicksilver_bootstrap_total_bytes";
const BOOTSTRAP_ENDED: &str = "quicksilver_bootstrap_transfers_ended_total";
const OLD_GENERATIONS: &str = "quicksilver_old_generations";
const FILE_BYTES: &str = "quicksilver_file_bytes";
const FREE_PAGE_BYTES: &str = "quicksilver_free_page_bytes";
const HELD_PAGE_BYTES: &str = "quicksilver_held_page_bytes";
const MAP_BYTES: &str = "quicksilver_map_bytes";
const LOG_BYTES: &str = "quicksilver_log_bytes";
const DISK_FREE_BYTES: &str = "quicksilver_disk_free_bytes";
const QUOTA_BYTES: &str = "quicksilver_quota_bytes";
const QUOTA_SUFFICIENT: &str = "quicksilver_quota_sufficient";
const FORMAT: &str = "quicksilver_format_version";
const FORMAT_NEWEST: &str = "quicksilver_format_version_newest";
const STATE: &str = "quicksilver_state";
const BATCH_ENTRIES: &str = "quicksilver_batch_entries";
const BATCH_BYTES: &str = "quicksilver_batch_bytes";

/// Seconds: from an idle SSD to a disk in trouble.
const SECONDS_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Entries: from a lone write to a merge of everything that was missed.
const ENTRIES_BUCKETS: &[f64] = &[1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0, 1_000_000.0];

/// Bytes: from a lone write to the largest batch.
const BYTES_BUCKETS: &[f64] = &[256.0, 4_096.0, 65_536.0, 1_048_576.0, 16_777_216.0, 268_435_456.0];

/// Installs the recorder of this process and describes every metric.
pub fn install(db: &str) -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .add_global_label("db", db)
        .set_buckets_for_metric(Matcher::Full(COMMIT_SECONDS.into()), SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(COMMIT_ENTRIES.into()), ENTRIES_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(BATCH_ENTRIES.into()), ENTRIES_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(BATCH_BYTES.into()), BYTES_BUCKETS)?
        .install_recorder()?;
    describe_gauge!(BUILD_INFO, "Always 1; the label `version` names the program");
    describe_gauge!(LAST_INDEX, "Index of the last entry that is durable here");
    describe_gauge!(OLDEST_INDEX, "Oldest index that is still in the log");
    describe_gauge!(KEYS, "Live keys");
    describe_gauge!(DATA_BYTES, Unit::Bytes, "Bytes of live keys and values");
    describe_counter!(APPLIED_ENTRIES, "Entries applied since the start");
    describe_counter!(APPLIED_BYTES, Unit::Bytes, "Bytes of entries applied since the start");
    describe_counter!(APPLIED_BATCHES, "Batches applied since the start");
    describe_histogram!(COMMIT_SECONDS, Unit::Seconds, "How long a durable commit took");
    describe_histogram!(COMMIT_ENTRIES, "Entries in one durable commit");
    describe_counter!(COMMIT_FAILURES, "Commits that failed or found no space");
    describe_gauge!(UPSTREAM_CONNECTED, "1 while a session with an upstream lives, else 0");
    describe_gauge!(UPSTREAM_STATE, "1 for how it goes with the upstream, 0 for every other state");
    describe_counter!(
        UPSTREAM_ENDED,
        "Sessions with an upstream, and tries to begin one, that ended, by their reason"
    );
    describe_gauge!(
        HEARTBEAT_LAG,
        Unit::Seconds,
        "Local clock minus the last heartbeat that counts here, at least 0"
    );
    describe_gauge!(CLOCK_BEHIND, "1 while the local clock is behind the last heartbeat");
    describe_gauge!(DOWNSTREAMS, "Downstreams with a live session");
    describe_counter!(
        DOWNSTREAM_ENDED,
        "Sessions of downstreams, and tries to begin one, that ended, by their reason"
    );
    describe_counter!(TRANSFERS_ENDED, "Snapshots that were asked of this node, by how that ended");
    describe_gauge!(READERS, "Reader slots that are taken, idle ones included");
    describe_gauge!(READER_SLOTS, "Reader slots that there are");
    describe_gauge!(
        OLDEST_READER_AGE,
        Unit::Seconds,
        "How long the oldest snapshot has been seen behind the newest commit; 0 when none is"
    );
    describe_gauge!(OLDEST_READER_LAG, "Commits that the oldest snapshot is behind");
    describe_gauge!(JOB_RUNNING, "1 for the kind of job that runs, 0 for every other");
    describe_gauge!(JOB_DONE_BYTES, Unit::Bytes, "Bytes that the running job has read");
    describe_gauge!(JOB_TOTAL_BYTES, Unit::Bytes, "Bytes that the running job has to read, about");
    describe_gauge!(JOB_OK, "1 when the last job of that kind did what it was for, else 0");
    describe_gauge!(JOB_ENDED, Unit::Seconds, "When the last job of that kind ended");
    describe_gauge!(VERIFY_PROBLEMS, "Problems that the last verification found");
    describe_gauge!(BOOTSTRAP, "1 while the node fetches or restores a snapshot, else 0");
    describe_gauge!(BOOTSTRAP_DONE, Unit::Bytes, "Bytes of the snapshot that are here");
    describe_gauge!(BOOTSTRAP_TOTAL, Unit::Bytes, "Bytes of the snapshot");
    describe_counter!(
        BOOTSTRAP_ENDED,
        "Snapshots that this node asked an upstream for, by how that ended"
    );
    describe_gauge!(OLD_GENERATIONS, "Generations that are live no more and still on disk");
    describe_gauge!(FILE_BYTES, Unit::Bytes, "The live generation's data file");
    describe_gauge!(FREE_PAGE_BYTES, Unit::Bytes, "Free pages in the data file");
    describe_gauge!(
        HELD_PAGE_BYTES,
        Unit::Bytes,
        "Those of the free pages that a reader holds back from being used again"
    );
    describe_gauge!(MAP_BYTES, Unit::Bytes, "The memory map, past which the file never grows");
    describe_gauge!(LOG_BYTES, Unit::Bytes, "The log in the data file");
    describe_gauge!(DISK_FREE_BYTES, Unit::Bytes, "What the disk of the data has free");
    describe_gauge!(
        QUOTA_BYTES,
        Unit::Bytes,
        "How large the root lets the live data grow; absent while that is unknown"
    );
    describe_gauge!(
        QUOTA_SUFFICIENT,
        "1 while map and disk can hold live data of that size, else 0; absent while it is unknown"
    );
    describe_gauge!(FORMAT, "The format that the files are in");
    describe_gauge!(FORMAT_NEWEST, "The format that `qsctl format finalize` would raise them to");
    describe_gauge!(STATE, "1 for the state the node is in, 0 for every other");
    describe_histogram!(BATCH_ENTRIES, "Entries in one batch");
    describe_histogram!(BATCH_BYTES, Unit::Bytes, "Bytes of one batch as it travels");
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    counter!(COMMIT_FAILURES).absolute(0);
    // From the start, so that the first one is an increase.
    for reason in EndCause::REASONS {
        counter!(UPSTREAM_ENDED, "reason" => reason).absolute(0);
        counter!(BOOTSTRAP_ENDED, "reason" => reason).absolute(0);
    }
    for reason in SourceEnd::REASONS {
        counter!(DOWNSTREAM_ENDED, "reason" => reason).absolute(0);
        counter!(TRANSFERS_ENDED, "reason" => reason).absolute(0);
    }
    Ok(handle)
}

/// After a commit.
pub fn committed(committed: &Committed) {
    counter!(APPLIED_ENTRIES).increment(committed.entries);
    counter!(APPLIED_BYTES).increment(committed.payload_bytes);
    counter!(APPLIED_BATCHES).increment(committed.batches as u64);
    histogram!(COMMIT_SECONDS).record(committed.duration.as_secs_f64());
    histogram!(COMMIT_ENTRIES).record(committed.entries as f64);
}

/// For each batch that was sealed here, or came from the upstream.
pub fn batch(batch: &Batch) {
    histogram!(BATCH_ENTRIES).record(batch.len() as f64);
    histogram!(BATCH_BYTES).record(batch.record().len() as f64);
}

/// After a commit that failed.
pub fn commit_failed() {
    counter!(COMMIT_FAILURES).increment(1);
}

/// After the end of a session with an upstream, or of the try to begin one.
pub fn upstream_ended(cause: &EndCause) {
    counter!(UPSTREAM_ENDED, "reason" => cause.reason()).increment(1);
}

/// After the end of a downstream's session, or of its try to begin one.
pub fn downstream_ended(end: &SourceEnd) {
    counter!(DOWNSTREAM_ENDED, "reason" => end.reason()).increment(1);
}

/// After the end of a transfer that this node served, or refused.
pub fn transfer_ended(end: &SourceEnd) {
    counter!(TRANSFERS_ENDED, "reason" => end.reason()).increment(1);
}

/// After the end of a transfer from an upstream, or of the try to begin one.
pub fn bootstrap_transfer_ended(end: &FetchEnd) {
    counter!(BOOTSTRAP_ENDED, "reason" => end.reason()).increment(1);
}

/// After a look at the reader table.
pub fn readers(status: &ReadersStatus) {
    gauge!(READERS).set(f64::from(status.used));
    gauge!(READER_SLOTS).set(f64::from(status.limit));
    let oldest = status.oldest.as_ref();
    gauge!(OLDEST_READER_AGE).set(oldest.map_or(0.0, |oldest| oldest.age_seconds));
    gauge!(OLDEST_READER_LAG).set(oldest.map_or(0.0, |oldest| oldest.lag_commits as f64));
}

/// Before rendering: what the maintenance does.
pub fn maintenance(status: &MaintenanceStatus) {
    for kind in JobKind::ALL {
        let running = status.running.as_ref().is_some_and(|running| running.kind == kind);
        gauge!(JOB_RUNNING, "kind" => kind.name()).set(f64::from(u8::from(running)));
        if let Some(last) = status.last.get(&kind) {
            gauge!(JOB_OK, "kind" => kind.name()).set(f64::from(u8::from(last.ok)));
            gauge!(JOB_ENDED, "kind" => kind.name()).set(last.ended as f64);
        }
    }
    let running = status.running.as_ref();
    gauge!(JOB_DONE_BYTES).set(running.map_or(0.0, |job| job.done_bytes as f64));
    gauge!(JOB_TOTAL_BYTES).set(running.map_or(0.0, |job| job.total_bytes as f64));
    let verified = status.last.get(&JobKind::Verification);
    gauge!(VERIFY_PROBLEMS).set(verified.map_or(0.0, |last| last.problems as f64));
    gauge!(OLD_GENERATIONS).set(status.old_generations.len() as f64);
}

/// Before rendering: the snapshot that is fetched.
pub fn bootstrap(status: Option<&BootstrapStatus>) {
    gauge!(BOOTSTRAP).set(f64::from(u8::from(status.is_some())));
    gauge!(BOOTSTRAP_DONE).set(status.map_or(0.0, |status| status.done_bytes as f64));
    gauge!(BOOTSTRAP_TOTAL).set(status.map_or(0.0, |status| status.total_bytes as f64));
}

/// After a look at file, map and disk.
pub fn headroom(storage: &StorageStatus, quota: Option<&QuotaStatus>) {
    gauge!(FILE_BYTES).set(storage.file_bytes as f64);
    gauge!(FREE_PAGE_BYTES).set(storage.free_page_bytes as f64);
    gauge!(HELD_PAGE_BYTES).set(storage.held_page_bytes as f64);
    gauge!(MAP_BYTES).set(storage.map_bytes as f64);
    gauge!(LOG_BYTES).set(storage.log_bytes as f64);
    gauge!(DISK_FREE_BYTES).set(storage.disk_free_bytes as f64);
    if let Some(quota) = quota {
        gauge!(QUOTA_BYTES).set(quota.max_db_bytes as f64);
        gauge!(QUOTA_SUFFICIENT).set(f64::from(u8::from(quota.sufficient)));
    }
}

/// What is looked up when somebody asks.
#[derive(Debug, Clone)]
pub struct Gauges {
    /// What the node is doing.
    pub state: NodeState,
    /// Last index.
    pub index: u64,
    /// Oldest index in the log.
    pub oldest_index: u64,
    /// The format that the files are in.
    pub format: u32,
    /// Live keys.
    pub keys: u64,
    /// Bytes of live keys and values.
    pub data_bytes: u64,
    /// How it goes with the upstream; `None` at a root.
    pub upstream: Option<UpstreamStatus>,
    /// Local clock minus last heartbeat, negative when the local clock is behind; `None` before
    /// the first.
    pub lag_seconds: Option<f64>,
    /// Downstreams with a live session.
    pub downstreams: usize,
}

/// Sets them, before rendering.
pub fn set(gauges: &Gauges) {
    gauge!(LAST_INDEX).set(gauges.index as f64);
    gauge!(OLDEST_INDEX).set(gauges.oldest_index as f64);
    gauge!(FORMAT).set(f64::from(gauges.format));
    gauge!(FORMAT_NEWEST).set(f64::from(NEWEST_FORMAT_VERSION));
    gauge!(KEYS).set(gauges.keys as f64);
    gauge!(DATA_BYTES).set(gauges.data_bytes as f64);
    gauge!(DOWNSTREAMS).set(gauges.downstreams as f64);
    for state in NodeState::ALL {
        let is = f64::from(u8::from(state == gauges.state));
        gauge!(STATE, "state" => state.name()).set(is);
    }
    if let Some(upstream) = &gauges.upstream {
        gauge!(UPSTREAM_CONNECTED).set(f64::from(u8::from(upstream.connected)));
        for state in UpstreamState::NAMES {
            let is = f64::from(u8::from(state == upstream.state));
            gauge!(UPSTREAM_STATE, "state" => state).set(is);
        }
    }
    if let Some(lag) = gauges.lag_seconds {
        gauge!(HEARTBEAT_LAG).set(lag.max(0.0));
        gauge!(CLOCK_BEHIND).set(f64::from(u8::from(lag < 0.0)));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use quicksilver_format::{DbId, FormatError, Index, Position, RunningHash};
    use quicksilver_protocol::{ByeReason, FrameError, Refusal, Refused, VersionRange};

    use super::*;

    const BYES: [ByeReason; 10] = [
        ByeReason::StopReached,
        ByeReason::Restarting,
        ByeReason::Reset,
        ByeReason::TooSlow,
        ByeReason::Silent,
        ByeReason::Malformed,
        ByeReason::Cycle,
        ByeReason::Diverged,
        ByeReason::Leaving,
        ByeReason::Other(99),
    ];

    fn position() -> Position {
        Position { index: Index::FIRST, hash: RunningHash::from_bytes([1; 32]) }
    }

    /// Each refusal with the cause that its follower makes of it.
    fn refusals() -> Vec<(Refusal, EndCause)> {
        let (id, hash) = (DbId::random(), position().hash);
        let index = Index::FIRST;
        let versions = VersionRange::OURS;
        vec![
            (
                Refusal::WrongDatabase { yours: id, mine: id },
                EndCause::WrongDatabase { mine: id, theirs: id },
            ),
            (Refusal::SelfConnection, EndCause::SelfConnection),
            (Refusal::Cycle, EndCause::Cycle { path: Vec::new() }),
            (
                Refusal::LogTooOld { oldest: index },
                EndCause::LogTooOld { oldest: index, mine: index },
            ),
            (
                Refusal::Diverged { index, mine: hash },
                EndCause::Diverged { index, mine: hash, theirs: hash },
            ),
            (
                Refusal::Behind { position: position() },
                EndCause::Behind { position: position(), mine: index },
            ),
            (Refusal::Busy { retry_after_ms: 1 }, EndCause::Busy { retry_after_ms: 1 }),
            (Refusal::Version(versions), EndCause::Version { theirs: versions, ours: versions }),
            (
                Refusal::Other(99),
                EndCause::RefusedOtherwise { code: 99, explanation: String::new() },
            ),
        ]
    }

    #[test]
    fn every_end_is_counted_and_is_there_before_it_happens() {
        let handle = install("dns").unwrap();
        let value = |metric: &str, reason: &str| {
            let series = format!("{metric}{{db=\"dns\",reason=\"{reason}\"}} ");
            let rendered = handle.render();
            let line = rendered.lines().find_map(|line| line.strip_prefix(&series));
            line.unwrap_or_else(|| panic!("no {series}:\n{rendered}")).parse::<u64>().unwrap()
        };
        let bad_record =
            FormatError::Version { what: "batch record", found: 9, oldest: 1, newest: 1 };
        let mut causes = vec![
            EndCause::ConnectionLost(String::new()),
            EndCause::HandshakeTimeout(1),
            EndCause::Idle(1),
            EndCause::PathTooLong(32),
            EndCause::NotNext { first: Index::FIRST, last: Index::FIRST, expected: Index::FIRST },
            EndCause::BadFrame(FrameError::Crc { expected: 1, found: 2 }),
            EndCause::BadMessage(bad_record),
            EndCause::Unexpected { found: "a", expected: "b" },
        ];
        causes.extend(
            BYES.into_iter().flat_map(|bye| [EndCause::SourceLeft(bye), EndCause::Left(bye)]),
        );
        let mut ends = vec![
            SourceEnd::HandshakeTimeout(1),
            SourceEnd::Silent(1),
            SourceEnd::ConnectionLost(String::new()),
            SourceEnd::Malformed(String::new()),
            SourceEnd::NotNext { first: Index::FIRST, end: Index::FIRST },
        ];
        ends.extend(
            BYES.into_iter().flat_map(|bye| [SourceEnd::Said(bye), SourceEnd::FollowerLeft(bye)]),
        );
        let (id, Position { index, hash }) = (DbId::random(), position());
        let mut fetches = vec![
            FetchEnd::Complete,
            FetchEnd::Busy { retry_after_ms: 1, why: String::new() },
            FetchEnd::WrongDatabase { mine: id, theirs: id },
            FetchEnd::Behind { theirs: index, at_least: index },
            FetchEnd::Diverged { index, mine: hash, theirs: hash },
            FetchEnd::Lost(String::new()),
            FetchEnd::NoAnswer(1),
            FetchEnd::Silent(1),
            FetchEnd::Bad(String::new()),
        ];
        fetches
            .extend(BYES.into_iter().flat_map(|bye| [FetchEnd::Left(bye), FetchEnd::GivenUp(bye)]));
        for (refusal, cause) in refusals() {
            assert_eq!(refusal.reason(), cause.reason(), "both ends use one word");
            causes.push(cause);
            let refused = Refused { refusal, explanation: String::new() };
            fetches.push(FetchEnd::Refused(refused.clone()));
            ends.push(SourceEnd::Refused(refused));
        }
        for cause in causes {
            let before = value(UPSTREAM_ENDED, cause.reason());
            upstream_ended(&cause);
            assert_eq!(value(UPSTREAM_ENDED, cause.reason()), before + 1, "{cause}");
        }
        for end in ends {
            for (metric, count) in [
                (DOWNSTREAM_ENDED, downstream_ended as fn(&SourceEnd)),
                (TRANSFERS_ENDED, transfer_ended),
            ] {
                let before = value(metric, end.reason());
                count(&end);
                assert_eq!(value(metric, end.reason()), before + 1, "{end}");
            }
        }
        for end in fetches {
            let before = value(BOOTSTRAP_ENDED, end.reason());
            bootstrap_transfer_ended(&end);
            assert_eq!(value(BOOTSTRAP_ENDED, end.reason()), before + 1, "{end}");
        }
    }
}
