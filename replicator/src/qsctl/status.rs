//! `status`: what a node says of itself, or what its files and status page say of it.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::{HumanBytes, HumanCount, HumanDuration};
use quicksilver::Reader;
use quicksilver::writer::Kind;
use quicksilver::writer::client::Command;
use quicksilver::writer::reply::Reply;
use quicksilver::writer::servers::Servers;
use quicksilver_format::status::NodeState;

use super::Context;
use super::error::{Error, Exit};
use super::target::{Place, ask};
use crate::net::node::{BootstrapStatus, NodeStatus, QuotaStatus, ReadersStatus, StorageStatus};
use crate::store::maintenance::MaintenanceStatus;

pub(super) fn run(context: &mut Context<'_>) -> Result<Exit, Error> {
    let status = match context.target.place()? {
        Place::Db(dir) => of_files(dir)?,
        Place::Servers(mut servers) => of_server(&mut servers)?,
    };
    if matches!(context.target.place()?, Place::Db(_)) && is_gone(status.pid) {
        let pid = status.pid;
        context.note(format_args!("process {pid} does not run here: this is what it left"));
    }
    match context.json {
        true => context.print_json(&status)?,
        false => context.print(as_text(&status).as_bytes())?,
    }
    let diverged = status.state == NodeState::Diverged.name();
    let damaged = status.maintenance.last.values().any(|last| last.problems > 0);
    Ok(if diverged || damaged { Exit::Corrupt } else { Exit::Ok })
}

/// What a server says.
pub(super) fn of_server(servers: &mut Servers) -> Result<NodeStatus, Error> {
    let (connection, reply) = ask(servers, Command::new("QS.STATUS"), Kind::Read)?;
    let unexpected = |problem: &str| connection.receiver.unexpected(problem);
    let Reply::Bulk(text) = reply else {
        return Err(unexpected("to QS.STATUS, expected JSON").into());
    };
    let status = serde_json::from_slice(&text)
        .map_err(|e| unexpected(&format!("to QS.STATUS: {e}; is it another release?")))?;
    Ok(status)
}

/// What is known without asking the replicator; what is not stays empty.
pub(super) fn of_files(dir: &Path) -> Result<NodeStatus, Error> {
    let reader = Reader::open(dir)?;
    let status = reader.status()?;
    let role = match status.state() {
        Some(NodeState::Root) => "root",
        Some(NodeState::Following | NodeState::Disconnected | NodeState::Diverged) => "relay",
        _ => "",
    };
    let page = status.page;
    Ok(NodeStatus {
        name: dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        db_id: status.db_id.to_string(),
        role: role.to_owned(),
        state: status.state().map_or("unknown", NodeState::name).to_owned(),
        index: status.position.index.get(),
        hash: status.position.hash.to_string(),
        digest: status.digest.to_string(),
        keys: status.keys,
        generation: status.generation.get(),
        lag_seconds: page.and_then(|page| page.heartbeat_us).map(seconds_since),
        pid: page.map_or(0, |page| page.pid),
        history: status.history.to_string(),
        oldest_index: status.oldest_index.get(),
        bytes: status.bytes,
        format: status.format,
        format_readable_from: status.format_readable_from,
        ..NodeStatus::default()
    })
}

/// Whether no process has this number; in another PID namespace it may have another.
fn is_gone(pid: u32) -> bool {
    pid != 0 && !Path::new(&format!("/proc/{pid}")).exists()
}

fn seconds_since(time_us: u64) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time_us = std::time::Duration::from_micros(time_us);
    now.saturating_sub(time_us).as_secs_f64()
}

fn as_text(status: &NodeStatus) -> String {
    let mut table = Table::default();
    table.line("state", head(status));
    table.line("index", status.index);
    table.line("lag", status.lag_seconds.map_or("unknown".to_owned(), lag));
    let (keys, bytes) = (HumanCount(status.keys), HumanBytes(status.bytes));
    table.line("keys", format_args!("{keys}, {bytes}"));
    if status.oldest_index > status.index {
        table.line("log", "empty");
    } else {
        table.line("log", format_args!("{} to {}", status.oldest_index, status.index));
    }
    table.line("hash", &status.hash);
    table.line("digest", &status.digest);
    table.line("database", &status.db_id);
    table.line("history", &status.history);
    table.line("generation", status.generation);
    if status.format > 0 {
        table.line("format", format_in_words(status));
    }
    if let Some(readers) = &status.readers {
        table.line("readers", readers_in_words(readers));
    }
    if let Some(bootstrap) = &status.bootstrap {
        let (done, total) = (HumanBytes(bootstrap.done_bytes), HumanBytes(bootstrap.total_bytes));
        let rate = HumanBytes(bootstrap.bytes_per_second as u64);
        let BootstrapStatus { state, upstream, .. } = bootstrap;
        table.line("snapshot", format_args!("{state}: {done} of {total}, {rate}/s, {upstream}"));
    }
    if let Some(storage) = &status.storage {
        table.line("storage", storage_in_words(storage));
    }
    if let Some(quota) = &status.quota {
        table.line("quota", quota_in_words(quota));
    }
    for (label, line) in maintenance_in_words(&status.maintenance) {
        table.line(label, line);
    }
    if let Some(upstream) = &status.upstream {
        let state = if upstream.connected { "connected" } else { "not connected" };
        let node = upstream.node_id.as_deref().map(|id| format!("{id} at ")).unwrap_or_default();
        let address = if upstream.address.is_empty() { "none chosen" } else { &upstream.address };
        table.line("upstream", format_args!("{node}{address}, {state}"));
        if !upstream.path.is_empty() {
            table.line("path", upstream.path.join(" > "));
        }
        if let Some(error) = &upstream.last_error {
            table.line("", error);
        }
    }
    for (n, downstream) in status.downstreams.iter().enumerate() {
        let behind = match status.index.saturating_sub(downstream.index) {
            0 => "up to date".to_owned(),
            entries => format!("{} behind", HumanCount(entries)),
        };
        let label = if n == 0 { "downstreams" } else { "" };
        table.line(
            label,
            format_args!("{} at {}, {behind}", downstream.node_id, downstream.address),
        );
    }
    if let Some(error) = &status.last_error {
        table.line("last error", error);
    }
    format!("{}\n{}", title(status), table.text)
}

/// What runs, and what went wrong.
fn maintenance_in_words(maintenance: &MaintenanceStatus) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let Some(job) = &maintenance.running {
        let eta = job.eta_seconds.map_or(String::new(), |seconds| {
            format!(", {} left", HumanDuration(Duration::from_secs_f64(seconds)))
        });
        let (done, total) = (HumanBytes(job.done_bytes), HumanBytes(job.total_bytes));
        lines.push((job.kind.name(), format!("{done} of {total}{eta}; {}", job.reason)));
    }
    for (kind, last) in maintenance.last.iter().filter(|(_, last)| !last.ok) {
        lines.push((kind.name(), format!("FAILED: {}", last.message)));
    }
    for old in &maintenance.old_generations {
        let pids: Vec<_> = old.readers.iter().map(u32::to_string).collect();
        lines.push((
            "old files",
            format!("generation {}, pids {}", old.generation, pids.join(", ")),
        ));
    }
    lines
}

fn title(status: &NodeStatus) -> String {
    let mut title = status.name.clone();
    if !status.node_id.is_empty() {
        let _ = write!(title, " on {}", status.node_id);
    }
    if !status.role.is_empty() {
        let _ = write!(title, ", {}", status.role);
    }
    title
}

fn head(status: &NodeStatus) -> String {
    let mut head = status.state.clone();
    if status.pid != 0 {
        let _ = write!(head, ", process {}", status.pid);
    }
    if !status.version.is_empty() {
        let _ = write!(head, ", version {}", status.version);
    }
    head
}

fn format_in_words(status: &NodeStatus) -> String {
    match status.format_newest {
        newest if newest > status.format => {
            format!("{}; {newest} after `qsctl format finalize`", status.format)
        }
        _ => status.format.to_string(),
    }
}

fn readers_in_words(readers: &ReadersStatus) -> String {
    let slots = format!(
        "{} of {} slots",
        HumanCount(readers.used.into()),
        HumanCount(readers.limit.into())
    );
    let Some(oldest) = &readers.oldest else { return slots };
    let program = oldest.name.as_deref().unwrap_or("unknown");
    let commits = match oldest.lag_commits {
        1 => "1 commit".to_owned(),
        n => format!("{} commits", HumanCount(n)),
    };
    format!(
        "{slots}; the oldest snapshot is held by {program} (process {}), {commits} behind for {}",
        oldest.pid,
        lag(oldest.age_seconds)
    )
}

fn storage_in_words(storage: &StorageStatus) -> String {
    let held = match storage.held_page_bytes {
        0 => String::new(),
        held => format!(" ({} held back by readers)", HumanBytes(held)),
    };
    format!(
        "{} of {}, with {} free{held} and {} of log; the disk has {} free",
        HumanBytes(storage.file_bytes),
        HumanBytes(storage.map_bytes),
        HumanBytes(storage.free_page_bytes),
        HumanBytes(storage.log_bytes),
        HumanBytes(storage.disk_free_bytes)
    )
}

fn quota_in_words(quota: &QuotaStatus) -> String {
    let bytes = HumanBytes(quota.max_db_bytes);
    match quota.sufficient {
        true => format!("{bytes}, which fits here"),
        false => format!(
            "{bytes}, which does NOT fit here: the map has room for {}, the disk for {}",
            HumanBytes(quota.map_room_bytes),
            HumanBytes(quota.disk_room_bytes)
        ),
    }
}

fn lag(seconds: f64) -> String {
    const MINUTE: f64 = 60.0;
    const HOUR: f64 = 60.0 * MINUTE;
    match seconds {
        s if s < 10.0 => format!("{s:.2} s"),
        s if s < 2.0 * MINUTE => format!("{s:.0} s"),
        s if s < 2.0 * HOUR => format!("{:.0} min", s / MINUTE),
        s => format!("{:.0} h", s / HOUR),
    }
}

#[derive(Default)]
struct Table {
    text: String,
}

impl Table {
    fn line(&mut self, label: &str, value: impl std::fmt::Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{label:<12} {value}");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;
    use crate::net::node::{DownstreamStatus, OldestReader, UpstreamStatus};

    #[test]
    fn files_tell_what_they_know() {
        let db = quicksilver::testing::Db::from([("hello", "world")]).unwrap();
        let status = of_files(db.path()).unwrap();
        assert_eq!((status.index, status.keys, status.bytes, status.oldest_index), (1, 1, 10, 1));
        assert_eq!((status.generation, status.upstream.is_none()), (1, true));
        assert_eq!((status.hash.len(), status.digest.len()), (64, 32));
    }

    #[test]
    fn a_table_for_people() {
        let status = NodeStatus {
            name: "dns".to_owned(),
            node_id: "ams-1".to_owned(),
            role: "relay".to_owned(),
            state: "following".to_owned(),
            index: 100,
            oldest_index: 101,
            lag_seconds: Some(0.5),
            format: 1,
            format_newest: 2,
            upstream: Some(UpstreamStatus {
                address: "root:7000".to_owned(),
                connected: true,
                state: "following".to_owned(),
                node_id: Some("root-1".to_owned()),
                ..UpstreamStatus::default()
            }),
            downstreams: vec![DownstreamStatus {
                node_id: "edge-1".to_owned(),
                address: "10.0.0.2:999".to_owned(),
                index: 97,
            }],
            ..NodeStatus::default()
        };
        let text = as_text(&status);
        for line in [
            "dns on ams-1, relay\n",
            "lag          0.50 s\n",
            "log          empty\n",
            "format       1; 2 after `qsctl format finalize`\n",
            "upstream     root-1 at root:7000, connected\n",
            "downstreams  edge-1 at 10.0.0.2:999, 3 behind\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert_eq!(lag(7300.0), "2 h");
    }

    #[test]
    fn room_in_words_for_people() {
        let mut storage = StorageStatus {
            file_bytes: 3 << 20,
            free_page_bytes: 1 << 20,
            held_page_bytes: 0,
            map_bytes: 16 << 30,
            log_bytes: 1 << 20,
            disk_free_bytes: 40 << 30,
        };
        let text = storage_in_words(&storage);
        let expected = "3.00 MiB of 16.00 GiB, with 1.00 MiB free and 1.00 MiB of log; the disk \
                        has 40.00 GiB free";
        assert_eq!(text, expected);
        storage.held_page_bytes = 1 << 19;
        let text = storage_in_words(&storage);
        assert!(text.contains("1.00 MiB free (512.00 KiB held back by readers) and"), "{text}");

        let mut quota = QuotaStatus {
            max_db_bytes: 8 << 30,
            map_room_bytes: 7 << 30,
            disk_room_bytes: 9 << 30,
            sufficient: false,
        };
        assert_eq!(
            quota_in_words(&quota),
            "8.00 GiB, which does NOT fit here: the map has room for 7.00 GiB, the disk for 9.00 GiB"
        );
        quota.sufficient = true;
        assert_eq!(quota_in_words(&quota), "8.00 GiB, which fits here");
    }

    #[test]
    fn readers_in_words_for_people() {
        let mut readers = ReadersStatus { used: 3, limit: 4096, oldest: None };
        assert_eq!(readers_in_words(&readers), "3 of 4,096 slots");
        let name = Some("dnsd".to_owned());
        readers.oldest = Some(OldestReader { pid: 77, name, age_seconds: 42.0, lag_commits: 5000 });
        assert_eq!(
            readers_in_words(&readers),
            "3 of 4,096 slots; the oldest snapshot is held by dnsd (process 77), 5,000 commits \
             behind for 42 s"
        );
    }
}
