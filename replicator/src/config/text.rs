//! A configuration as text: parsing with errors that point, and writing with comments.

use std::fmt;
use std::path::Path;

use quicksilver_format::Address;

use super::{Config, ConfigError, LogFormat};

impl Config {
    /// The file that [`Config::load`] reads back as this configuration, with comments.
    pub fn to_toml(&self) -> String {
        let (batch, limits, retention) = (&self.batch, &self.limits, &self.retention);
        let (compact, scrub, bootstrap) = (&self.compact, &self.scrub, &self.bootstrap);
        let format = match self.logging.format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        let tls: Vec<String> =
            [("cert", &self.tls.cert), ("key", &self.tls.key), ("ca", &self.tls.ca)]
                .into_iter()
                .filter_map(|(key, path)| {
                    path.as_ref().map(|p| format!("{key} = {}\n", quote(p.display())))
                })
                .collect();
        format!(
            "# Configuration of quicksilverd. Unknown keys are refused.\n\
             \n\
             # The database, the same on every node.\n\
             name = {name}\n\
             db_id = {db_id}\n\
             # This node.\n\
             data_dir = {data_dir}\n\
             node_id = {node_id}\n\
             site = {site}\n\
             # \"root\" accepts writes, \"relay\" follows an upstream.\n\
             role = \"{role}\"\n\
             \n\
             # \"host:port\", \"[v6]:port\" or \"unix:PATH\". Sockets from systemd with these\n\
             # names take precedence; without either, that service is off.\n\
             [listen]\n{replication}{client}{http}\
             \n\
             [batch]\n\
             # At most one batch per window; 0 seals as fast as the disk allows.\n\
             window_ms = {window_ms}\n\
             # At least limits.max_value_bytes + 64 KiB.\n\
             max_bytes = {batch_bytes}\n\
             \n\
             # The log is collected when it is older or longer than this.\n\
             [retention]\n\
             hours = {hours}\n\
             bytes = {retention_bytes}\n\
             # As much more while a copy or a connected downstream needs it.\n\
             held_bytes = {held_bytes}\n\
             \n\
             # The file is made small again when so much of it is free.\n\
             [compact]\n\
             auto = {compact_auto}\n\
             min_bytes = {compact_min_bytes}\n\
             free_percent = {free_percent}\n\
             max_bytes_per_second = {compact_rate}\n\
             # How long the old file stays while somebody reads it.\n\
             old_generation_seconds = {old_generation_seconds}\n\
             \n\
             # Everything that is stored is checked so often; 0 is never.\n\
             [scrub]\n\
             interval_hours = {scrub_hours}\n\
             max_bytes_per_second = {scrub_rate}\n\
             \n\
             # A relay that was away for too long fetches a snapshot.\n\
             [bootstrap]\n\
             enabled = {bootstrap_enabled}\n\
             # And one whose files are damaged.\n\
             rebuild_damaged = {rebuild_damaged}\n\
             # Served to others, at a time, and how fast each.\n\
             max_served = {max_served}\n\
             max_bytes_per_second = {bootstrap_rate}\n\
             \n\
             [logging]\n\
             # error, warn, info, debug, trace, or a filter.\n\
             level = {level}\n\
             # \"text\" or \"json\".\n\
             format = \"{format}\"\n\
             \n\
             [limits]\n\
             max_value_bytes = {max_value_bytes}\n\
             max_db_bytes = {max_db_bytes}\n\
             max_readers = {max_readers}\n\
             # A snapshot that is held for longer is a warning that names the process.\n\
             reader_warn_seconds = {reader_warn_seconds}\n\
             # Who holds back more freed bytes is left behind in an old generation.\n\
             reader_hold_bytes = {reader_hold_bytes}\n\
             # Address space, not memory: data, log and a few batches live in it.\n\
             map_bytes = {map_bytes}\n\
             max_downstreams = {max_downstreams}\n\
             max_clients = {max_clients}\n\
             \n\
             # A relay needs at least one; a root has none.\n\
             [upstream]\n\
             primary = {primary}\n\
             secondary = {secondary}\n\
             \n\
             [root]\n\
             # Empty: this release has a single root.\n\
             peers = {peers}\n\
             heartbeat_ms = {heartbeat_ms}\n\
             \n\
             # Not in this release.\n\
             [tls]\n{tls}\
             \n\
             [insecure]\n\
             # Replicate in plain text over a network.\n\
             plaintext = {plaintext}\n",
            name = quote(&self.name),
            db_id = quote(self.db_id),
            data_dir = quote(self.data_dir.display()),
            node_id = quote(&self.node_id),
            site = quote(&self.site),
            role = self.role.as_str(),
            replication = listen_line("replication", self.listen.replication.as_ref()),
            client = listen_line("client", self.listen.client.as_ref()),
            http = listen_line("http", self.listen.http.as_ref()),
            window_ms = batch.window_ms,
            batch_bytes = batch.max_bytes,
            hours = retention.hours,
            retention_bytes = retention.bytes,
            held_bytes = retention.held_bytes,
            compact_auto = compact.auto,
            compact_min_bytes = compact.min_bytes,
            free_percent = compact.free_percent,
            compact_rate = compact.max_bytes_per_second,
            old_generation_seconds = compact.old_generation_seconds,
            scrub_hours = scrub.interval_hours,
            scrub_rate = scrub.max_bytes_per_second,
            bootstrap_enabled = bootstrap.enabled,
            rebuild_damaged = bootstrap.rebuild_damaged,
            max_served = bootstrap.max_served,
            bootstrap_rate = bootstrap.max_bytes_per_second,
            level = quote(&self.logging.level),
            max_value_bytes = limits.max_value_bytes,
            max_db_bytes = limits.max_db_bytes,
            max_readers = limits.max_readers,
            reader_warn_seconds = limits.reader_warn_seconds,
            reader_hold_bytes = limits.reader_hold_bytes,
            map_bytes = limits.map_bytes,
            max_downstreams = limits.max_downstreams,
            max_clients = limits.max_clients,
            primary = quote_all(&self.upstream.primary),
            secondary = quote_all(&self.upstream.secondary),
            peers = quote_all(&self.root.peers),
            heartbeat_ms = self.root.heartbeat_ms,
            tls = tls.concat(),
            plaintext = self.insecure.plaintext,
        )
    }
}

pub(super) fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let before = &text.as_bytes()[..at];
        let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |p| p + 1);
        ConfigError::Parse {
            path: path.to_owned(),
            line: before.iter().filter(|b| **b == b'\n').count() + 1,
            column: at - line_start + 1,
            key: key_at(text, line_start)
                .filter(|key| !key.is_empty())
                .unwrap_or_else(|| "?".to_owned()),
            message: error.message().replace('\n', "; "),
        }
    })
}

/// The key (with its table) that the line starting at `line_start` belongs to: its own, or that
/// of the last line above which has one, as in an array over several lines.
fn key_at(text: &str, line_start: usize) -> Option<String> {
    let line_end = text[line_start..].find('\n').map_or(text.len(), |n| line_start + n);
    let mut key = None;
    for line in text[..line_end].lines().rev() {
        let line = line.trim();
        if let Some(table) = line.strip_prefix('[').and_then(|l| l.split(']').next()) {
            return Some(match key {
                Some(key) => format!("{table}.{key}"),
                None => table.to_owned(),
            });
        }
        if key.is_none() && !line.starts_with('#') {
            key = line.split_once('=').map(|(key, _)| key.trim().to_owned());
        }
    }
    key
}

fn quote(text: impl fmt::Display) -> String {
    toml::Value::String(text.to_string()).to_string()
}

fn quote_all(addresses: &[Address]) -> String {
    format!("[{}]", addresses.iter().map(quote).collect::<Vec<_>>().join(", "))
}

fn listen_line(key: &str, address: Option<&Address>) -> String {
    match address {
        Some(address) => format!("{key} = {}\n", quote(address)),
        None => format!("# {key} = \"127.0.0.1:PORT\"\n"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use quicksilver_format::NodeId;

    use super::*;
    use crate::config::Role;

    const ID: &str = "0ba4a1b2-1c1c-4f6e-9e0a-0c6a3a3f8a11";

    fn example(role: Role) -> Config {
        let node_id = NodeId::new("ams-1").unwrap();
        Config::example("dns", ID.parse().unwrap(), Path::new("/var/lib/qs/dns"), node_id, role)
    }

    fn parsed(extra: &str) -> Result<Config, ConfigError> {
        let head = format!(
            "name = \"dns\"\ndb_id = \"{ID}\"\ndata_dir = \"/d\"\nnode_id = \"n\"\nrole = \"root\"\n"
        );
        parse(&(head + extra), Path::new("dns.toml"))
    }

    #[test]
    fn the_written_file_reads_back() {
        let mut config = example(Role::Relay);
        config.site = "ams".to_owned();
        config.listen.replication = Some("127.0.0.1:7001".parse().unwrap());
        config.listen.client = Some("unix:/run/qs/\"odd\".sock".parse().unwrap());
        config.upstream.primary = vec!["[::1]:7000".parse().unwrap()];
        config.upstream.secondary =
            vec!["localhost:1".parse().unwrap(), "unix:/x".parse().unwrap()];
        config.logging.format = LogFormat::Json;
        config.insecure.plaintext = true;
        config.validate().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dns.toml");
        std::fs::write(&path, config.to_toml()).unwrap();
        assert_eq!(Config::load(&path).unwrap(), config);
    }

    #[test]
    fn the_shortest_file_is_enough() {
        let config = parsed("").unwrap();
        config.validate().unwrap();
        assert_eq!(config.batch.window_ms, 500);
        assert_eq!(config.limits.map_bytes, 16 << 30);
    }

    #[test]
    fn errors_name_file_line_column_and_key() {
        for (extra, expected) in [
            ("[batch]\nwindow_sm = 1\n", ["dns.toml:7:1: batch.window_sm: ", "unknown field"]),
            ("colour = 1\n", ["dns.toml:6:1: colour: ", "unknown field `colour`, expected one of"]),
            ("[batch]\nwindow_ms = \"x\"\n", ["dns.toml:7:13: batch.window_ms: ", "expected u64"]),
            ("[batch]\nwindow_ms = -1\n", ["dns.toml:7:13: batch.window_ms: ", "expected u64"]),
            ("[listen]\nhttp = \"80\"\n", ["dns.toml:7:8: listen.http: ", "host:port"]),
            (
                "[upstream]\nprimary = [\n  \"a\",\n]\n",
                ["dns.toml:7:11: upstream.primary: ", "no port"],
            ),
            (
                "[logging]\nformat = \"xml\"\n",
                ["dns.toml:7:10: logging.format: ", "`text` or `json`"],
            ),
            ("[tabel]\n", ["dns.toml:6:2: tabel: ", "unknown field `tabel`"]),
            ("= 1\n", ["dns.toml:6:1: ?: ", "keys cannot be empty"]),
        ] {
            let error = parsed(extra).unwrap_err().to_string();
            for part in expected {
                assert!(error.contains(part), "{extra}: {error}");
            }
        }
        let error = parse("name = \"x\"\n", Path::new("x")).unwrap_err().to_string();
        assert!(error.contains("missing field"), "{error}");
        let error = parse("db_id = \"x\"\n", Path::new("x")).unwrap_err().to_string();
        assert!(error.contains("db_id: ") && error.contains("no UUID"), "{error}");
        let missing = Config::load(Path::new("/nowhere/dns.toml")).unwrap_err().to_string();
        assert!(missing.starts_with("/nowhere/dns.toml: "), "{missing}");
    }
}
