//! Bounds and relations of a configuration.

use quicksilver_format::limits::{BATCH_HARD_MAX_BYTES, NAME_MAX_BYTES, VALUE_HARD_MAX_BYTES};
use tracing_subscriber::EnvFilter;

use super::{Config, Role, SPARE_BATCHES};
use crate::net::listen::{SocketName, check_plaintext};

const MIB: u64 = 1 << 20;
/// What a value's key, framing and the batch's own header need beside it, generously.
pub const BATCH_HEADROOM_BYTES: u64 = 64 << 10;
/// The map's size is a multiple of the page size of every machine we know.
const MAP_PAGE_BYTES: u64 = 4096;

/// A value that is out of its bounds, or contradicts another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct InvalidConfig {
    /// The key, with its table.
    pub key: &'static str,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

impl Config {
    /// Checks bounds and relations.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        self.validate_identity()?;
        self.validate_sizes()?;
        self.validate_topology()?;
        self.validate_logging()?;
        self.validate_transport()
    }

    fn validate_identity(&self) -> Result<(), InvalidConfig> {
        const WANTED: &str = "1 to 64 of the characters A-Z a-z 0-9 . _ -";
        check(is_name(&self.name), "name", || format!("{:?} must be {WANTED}", self.name))?;
        check(self.site.is_empty() || is_name(&self.site), "site", || {
            format!("{:?} must be empty or {WANTED}", self.site)
        })?;
        check(self.data_dir.is_absolute(), "data_dir", || {
            format!("{:?} must be an absolute path", self.data_dir)
        })
    }

    fn validate_sizes(&self) -> Result<(), InvalidConfig> {
        let (batch, limits) = (&self.batch, &self.limits);
        within("limits.max_value_bytes", limits.max_value_bytes, 1, VALUE_HARD_MAX_BYTES as u64)?;
        within("batch.window_ms", batch.window_ms, 0, 60_000)?;
        let least = limits.max_value_bytes + BATCH_HEADROOM_BYTES;
        check(batch.max_bytes >= least, "batch.max_bytes", || {
            let max = batch.max_bytes;
            format!("{max} must be at least limits.max_value_bytes + 64 KiB = {least}")
        })?;
        within("batch.max_bytes", batch.max_bytes, least, BATCH_HARD_MAX_BYTES as u64)?;
        within("retention.hours", self.retention.hours, 1, 87_600)?;
        // Half of the space of 2^64 bytes: the sums below cannot overflow.
        within("retention.bytes", self.retention.bytes, MIB, 1 << 60)?;
        within("retention.held_bytes", self.retention.held_bytes, 0, 1 << 60)?;
        let (compact, scrub) = (&self.compact, &self.scrub);
        within("compact.min_bytes", compact.min_bytes, 0, 1 << 60)?;
        within("compact.free_percent", u64::from(compact.free_percent), 10, 95)?;
        within("compact.max_bytes_per_second", compact.max_bytes_per_second, MIB, 1 << 60)?;
        within("compact.old_generation_seconds", compact.old_generation_seconds, 0, 86_400)?;
        within("scrub.interval_hours", scrub.interval_hours, 0, 8_760)?;
        within("scrub.max_bytes_per_second", scrub.max_bytes_per_second, MIB, 1 << 60)?;
        let bootstrap = &self.bootstrap;
        within("bootstrap.max_served", bootstrap.max_served as u64, 0, 1_000)?;
        let rate = bootstrap.max_bytes_per_second;
        within("bootstrap.max_bytes_per_second", rate, 64 << 10, 1 << 60)?;
        within("limits.max_db_bytes", limits.max_db_bytes, MIB, 1 << 60)?;
        within("limits.reader_hold_bytes", limits.reader_hold_bytes, MIB, 1 << 60)?;
        within("limits.max_readers", u64::from(limits.max_readers), 16, 65_536)?;
        within("limits.reader_warn_seconds", limits.reader_warn_seconds, 1, 86_400)?;
        within("limits.max_downstreams", limits.max_downstreams as u64, 0, 100_000)?;
        within("limits.max_clients", limits.max_clients as u64, 1, 100_000)?;
        within("root.heartbeat_ms", self.root.heartbeat_ms, 100, 60_000)?;
        let map = limits.map_bytes;
        check(map.is_multiple_of(MAP_PAGE_BYTES), "limits.map_bytes", || {
            format!("{map} must be a multiple of {MAP_PAGE_BYTES}")
        })?;
        let least = limits.max_db_bytes + self.beside_data_bytes();
        check(map >= least, "limits.map_bytes", || {
            format!(
                "{map} must be at least limits.max_db_bytes + retention.bytes + \
                 {SPARE_BATCHES} x batch.max_bytes = {least}"
            )
        })
    }

    fn validate_topology(&self) -> Result<(), InvalidConfig> {
        check(self.root.peers.is_empty(), "root.peers", || {
            "must be empty: this release has a single root, groups come later".to_owned()
        })?;
        let upstreams = self.upstream.primary.len() + self.upstream.secondary.len();
        let leaf = self.limits.max_downstreams == 0;
        check(!leaf || self.listen.replication.is_none(), "limits.max_downstreams", || {
            "0 makes the node a leaf, which refuses every downstream: remove listen.replication, \
             or allow some"
                .to_owned()
        })?;
        match self.role {
            Role::Root => check(upstreams == 0, "upstream", || {
                "a root follows nobody: remove the addresses, or set role = \"relay\"".to_owned()
            }),
            Role::Relay => check(upstreams > 0, "upstream.primary", || {
                "a relay needs at least one address in upstream.primary or upstream.secondary"
                    .to_owned()
            }),
        }
    }

    fn validate_logging(&self) -> Result<(), InvalidConfig> {
        const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
        const KEY: &str = "logging.level";
        let level = &self.logging.level;
        // The filter takes a word that is no level for the name of a module, and then nothing
        // else is logged.
        let is_level = |word: &str| LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level));
        let unknown = level
            .split(',')
            .map(str::trim)
            .find(|directive| !directive.contains(['=', '[']) && !is_level(directive));
        check(unknown.is_none(), KEY, || {
            let word = unknown.unwrap_or_default();
            format!("{word:?} is no level: use one of {}, or TARGET=LEVEL", LEVELS.join(", "))
        })?;
        let parsed = EnvFilter::try_new(level);
        check(parsed.is_ok(), KEY, || format!("{level:?} is no filter of the form TARGET=LEVEL,…"))
    }

    fn validate_transport(&self) -> Result<(), InvalidConfig> {
        let tls = &self.tls;
        check(tls.cert.is_none() && tls.key.is_none() && tls.ca.is_none(), "tls", || {
            "TLS is not in this release: remove the table; over a network, protect the port \
             otherwise and set insecure.plaintext = true"
                .to_owned()
        })?;
        let allowed = self.insecure.plaintext;
        let listen = &self.listen;
        for (key, name, address) in [
            ("listen.replication", SocketName::Replication, &listen.replication),
            ("listen.client", SocketName::Client, &listen.client),
        ] {
            if let Some(Err(error)) = address.as_ref().map(|a| check_plaintext(name, a, allowed)) {
                return Err(InvalidConfig { key, problem: error.to_string() });
            }
        }
        let primary = self.upstream.primary.iter().map(|a| ("upstream.primary", a));
        let secondary = self.upstream.secondary.iter().map(|a| ("upstream.secondary", a));
        match primary.chain(secondary).find(|(_, a)| !allowed && !a.is_local()) {
            None => Ok(()),
            Some((key, address)) => Err(InvalidConfig {
                key,
                problem: format!(
                    "\"{address}\" would carry data in plain text over a network; set \
                     insecure.plaintext = true to allow it"
                ),
            }),
        }
    }
}

fn is_name(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=NAME_MAX_BYTES).contains(&text.len()) && text.chars().all(legal)
}

fn check(
    holds: bool,
    key: &'static str,
    problem: impl FnOnce() -> String,
) -> Result<(), InvalidConfig> {
    if holds { Ok(()) } else { Err(InvalidConfig { key, problem: problem() }) }
}

fn within(key: &'static str, value: u64, least: u64, most: u64) -> Result<(), InvalidConfig> {
    check((least..=most).contains(&value), key, || {
        format!("{value} must be between {least} and {most}")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use std::path::{Path, PathBuf};

    use quicksilver_format::{DbId, NodeId};

    use super::*;

    fn example(role: Role) -> Config {
        let node_id = NodeId::new("ams-1").unwrap();
        Config::example("dns", DbId::random(), Path::new("/var/lib/qs/dns"), node_id, role)
    }

    #[test]
    fn bounds_and_relations() {
        type Change = fn(&mut Config);
        let wrong: [(&str, Change); 21] = [
            ("name", |c| c.name = "a b".to_owned()),
            ("site", |c| c.site = "ä".to_owned()),
            ("data_dir", |c| c.data_dir = PathBuf::from("data")),
            ("limits.max_value_bytes", |c| c.limits.max_value_bytes = 0),
            ("limits.max_value_bytes", |c| c.limits.max_value_bytes = (256 << 20) + 1),
            ("batch.max_bytes", |c| c.batch.max_bytes = 16 << 20),
            ("batch.max_bytes", |c| c.batch.max_bytes = 1 << 30),
            ("batch.window_ms", |c| c.batch.window_ms = 60_001),
            ("retention.hours", |c| c.retention.hours = 0),
            ("limits.map_bytes", |c| c.limits.map_bytes = (16 << 30) + 1),
            ("limits.map_bytes", |c| c.limits.map_bytes = 8 << 30),
            ("limits.max_readers", |c| c.limits.max_readers = 1),
            ("limits.reader_warn_seconds", |c| c.limits.reader_warn_seconds = 0),
            ("compact.free_percent", |c| c.compact.free_percent = 0),
            ("scrub.max_bytes_per_second", |c| c.scrub.max_bytes_per_second = 1),
            ("root.peers", |c| c.root.peers = vec!["localhost:1".parse().unwrap()]),
            ("upstream", |c| c.upstream.primary = vec!["localhost:1".parse().unwrap()]),
            ("tls", |c| c.tls.ca = Some(PathBuf::from("/ca"))),
            ("listen.replication", |c| c.listen.replication = "0.0.0.0:1".parse().ok()),
            ("listen.client", |c| c.listen.client = "0.0.0.0:1".parse().ok()),
            ("limits.max_downstreams", |c| {
                c.limits.max_downstreams = 0;
                c.listen.replication = "unix:/r".parse().ok();
            }),
        ];
        for (key, change) in wrong {
            let mut config = example(Role::Root);
            config.validate().unwrap();
            change(&mut config);
            assert_eq!(config.validate().unwrap_err().key, key);
        }
        assert_eq!(example(Role::Relay).validate().unwrap_err().key, "upstream.primary");
        let mut relay = example(Role::Relay);
        relay.upstream.secondary = vec!["root.example:7000".parse().unwrap()];
        assert_eq!(relay.validate().unwrap_err().key, "upstream.secondary");
        relay.insecure.plaintext = true;
        relay.validate().unwrap();
        relay.listen.client = "[::]:6379".parse().ok();
        relay.listen.replication = "0.0.0.0:7070".parse().ok();
        relay.validate().unwrap();
        relay.limits.max_downstreams = 0;
        relay.listen.replication = None;
        relay.validate().unwrap();
    }

    #[test]
    fn a_level_is_a_level() {
        let mut config = example(Role::Root);
        for level in ["info", "WARN", "off", "info,a::b=debug", "warn,h2=off", "a[span]=trace"] {
            config.logging.level = level.to_owned();
            config.validate().unwrap();
        }
        for (level, problem) in [
            ("warning", "\"warning\" is no level: use one of error, warn, info,"),
            ("info,quicksilver_replicator", "\"quicksilver_replicator\" is no level"),
            ("", "\"\" is no level"),
            ("a=warning", "is no filter"),
        ] {
            config.logging.level = level.to_owned();
            let error = config.validate().unwrap_err();
            assert_eq!(error.key, "logging.level");
            assert!(error.problem.contains(problem), "{error}");
        }
    }
}
