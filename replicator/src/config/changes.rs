//! What changes between two configurations, and what of it a running process can take.

use super::Config;

/// Keys that differ, as `table.key`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Those that a running process takes over.
    pub live: Vec<&'static str>,
    /// Those that take effect when the process starts anew.
    pub at_restart: Vec<&'static str>,
}

impl Config {
    /// What is different in `new`. Every key is named here once; a new one does not compile without.
    pub fn changes(&self, new: &Config) -> Changes {
        let Config {
            name,
            db_id,
            data_dir,
            node_id,
            site,
            role,
            listen,
            batch,
            retention,
            compact,
            scrub,
            bootstrap,
            logging,
            limits,
            upstream,
            root,
            tls,
            insecure,
        } = self;
        let live = [
            ("batch.window_ms", batch.window_ms == new.batch.window_ms),
            ("retention.hours", retention.hours == new.retention.hours),
            ("retention.bytes", retention.bytes == new.retention.bytes),
            ("retention.held_bytes", retention.held_bytes == new.retention.held_bytes),
            ("compact.auto", compact.auto == new.compact.auto),
            ("compact.min_bytes", compact.min_bytes == new.compact.min_bytes),
            ("compact.free_percent", compact.free_percent == new.compact.free_percent),
            (
                "compact.max_bytes_per_second",
                compact.max_bytes_per_second == new.compact.max_bytes_per_second,
            ),
            (
                "compact.old_generation_seconds",
                compact.old_generation_seconds == new.compact.old_generation_seconds,
            ),
            ("scrub.interval_hours", scrub.interval_hours == new.scrub.interval_hours),
            (
                "scrub.max_bytes_per_second",
                scrub.max_bytes_per_second == new.scrub.max_bytes_per_second,
            ),
            ("logging.level", logging.level == new.logging.level),
            ("limits.max_db_bytes", limits.max_db_bytes == new.limits.max_db_bytes),
            (
                "limits.reader_warn_seconds",
                limits.reader_warn_seconds == new.limits.reader_warn_seconds,
            ),
            ("limits.reader_hold_bytes", limits.reader_hold_bytes == new.limits.reader_hold_bytes),
            ("upstream.primary", upstream.primary == new.upstream.primary),
            ("upstream.secondary", upstream.secondary == new.upstream.secondary),
            ("root.heartbeat_ms", root.heartbeat_ms == new.root.heartbeat_ms),
        ];
        let at_restart = [
            ("name", *name == new.name),
            ("db_id", *db_id == new.db_id),
            ("data_dir", *data_dir == new.data_dir),
            ("node_id", *node_id == new.node_id),
            ("site", *site == new.site),
            ("role", *role == new.role),
            ("listen.replication", listen.replication == new.listen.replication),
            ("listen.client", listen.client == new.listen.client),
            ("listen.http", listen.http == new.listen.http),
            ("batch.max_bytes", batch.max_bytes == new.batch.max_bytes),
            ("bootstrap.enabled", bootstrap.enabled == new.bootstrap.enabled),
            (
                "bootstrap.rebuild_damaged",
                bootstrap.rebuild_damaged == new.bootstrap.rebuild_damaged,
            ),
            ("bootstrap.max_served", bootstrap.max_served == new.bootstrap.max_served),
            (
                "bootstrap.max_bytes_per_second",
                bootstrap.max_bytes_per_second == new.bootstrap.max_bytes_per_second,
            ),
            ("logging.format", logging.format == new.logging.format),
            ("limits.max_value_bytes", limits.max_value_bytes == new.limits.max_value_bytes),
            ("limits.max_readers", limits.max_readers == new.limits.max_readers),
            ("limits.map_bytes", limits.map_bytes == new.limits.map_bytes),
            ("limits.max_downstreams", limits.max_downstreams == new.limits.max_downstreams),
            ("limits.max_clients", limits.max_clients == new.limits.max_clients),
            ("root.peers", root.peers == new.root.peers),
            ("tls", *tls == new.tls),
            ("insecure.plaintext", insecure.plaintext == new.insecure.plaintext),
        ];
        let differing = |keys: &[(&'static str, bool)]| {
            keys.iter().filter(|(_, same)| !same).map(|(key, _)| *key).collect()
        };
        Changes { live: differing(&live), at_restart: differing(&at_restart) }
    }

    /// This configuration, with what a running process takes over from `new`.
    #[must_use]
    pub fn with_live_changes(&self, new: &Config) -> Config {
        let mut taken = self.clone();
        taken.batch.window_ms = new.batch.window_ms;
        taken.retention = new.retention.clone();
        taken.compact = new.compact.clone();
        taken.scrub = new.scrub.clone();
        taken.logging.level.clone_from(&new.logging.level);
        taken.limits.max_db_bytes = new.limits.max_db_bytes;
        taken.limits.reader_warn_seconds = new.limits.reader_warn_seconds;
        taken.limits.reader_hold_bytes = new.limits.reader_hold_bytes;
        taken.upstream = new.upstream.clone();
        taken.root.heartbeat_ms = new.root.heartbeat_ms;
        taken
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use std::path::Path;

    use super::*;
    use crate::config::Role;
    use quicksilver_format::DbId;

    fn config() -> Config {
        let node = "node".parse().unwrap();
        Config::example("dns", DbId::from_bytes([7; 16]), Path::new("/d"), node, Role::Relay)
    }

    #[test]
    fn what_differs_is_named_and_taken_or_left() {
        let old = config();
        assert_eq!(old.changes(&old), Changes::default());
        let mut new = config();
        new.logging.level = "debug".to_owned();
        new.upstream.primary = vec!["unix:/up".parse().unwrap()];
        new.retention.bytes = 1 << 20;
        new.listen.http = Some("127.0.0.1:1".parse().unwrap());
        new.site = "here".to_owned();
        let changes = old.changes(&new);
        assert_eq!(changes.live, ["retention.bytes", "logging.level", "upstream.primary"]);
        assert_eq!(changes.at_restart, ["site", "listen.http"]);
        let taken = old.with_live_changes(&new);
        assert_eq!(taken.changes(&new).live, <[&str; 0]>::default(), "what is named live is taken");
        assert_eq!(old.changes(&taken).at_restart, <[&str; 0]>::default(), "the rest is left");
    }

    /// Every live key is taken over: each is changed alone.
    #[test]
    fn every_live_key_is_taken() {
        let changed: [fn(&mut Config); 18] = [
            |c| c.batch.window_ms += 1,
            |c| c.retention.hours += 1,
            |c| c.retention.bytes += 1,
            |c| c.retention.held_bytes += 1,
            |c| c.compact.auto = !c.compact.auto,
            |c| c.compact.min_bytes += 1,
            |c| c.compact.free_percent += 1,
            |c| c.compact.max_bytes_per_second += 1,
            |c| c.compact.old_generation_seconds += 1,
            |c| c.scrub.interval_hours += 1,
            |c| c.scrub.max_bytes_per_second += 1,
            |c| c.limits.reader_hold_bytes += 1,
            |c| c.logging.level.push('x'),
            |c| c.limits.max_db_bytes += 1,
            |c| c.limits.reader_warn_seconds += 1,
            |c| c.upstream.primary.push("unix:/a".parse().unwrap()),
            |c| c.upstream.secondary.push("unix:/b".parse().unwrap()),
            |c| c.root.heartbeat_ms += 1,
        ];
        for change in changed {
            let mut new = config();
            change(&mut new);
            let changes = config().changes(&new);
            assert_eq!((changes.live.len(), changes.at_restart.len()), (1, 0), "{changes:?}");
            assert_eq!(config().with_live_changes(&new), new, "{changes:?}");
        }
    }
}
