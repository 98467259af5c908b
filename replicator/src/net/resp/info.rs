//! What clients ask about the server rather than the data: HELLO, INFO, CONFIG GET, CLIENT,
//! COMMAND. Shaped so that common client libraries and redis-benchmark start up unharmed.

use std::fmt::Write;

use bytes::Bytes;

use super::ClientLimits;
use super::command::{self, COMMANDS, SYNTAX_ERROR, Spec, shown};
use super::reply::{Protocol, Reply};
use super::scan::Match;
use crate::net::node::NodeStatus;

/// The Redis whose behaviour ours resembles: client libraries choose commands by it.
const REDIS_VERSION: &str = "7.0.0";
/// Longest name a client may give itself.
const CLIENT_NAME_MAX_BYTES: usize = 256;

/// What a connection told about itself.
#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) id: u64,
    pub(super) peer: String,
    pub(super) name: String,
    library: String,
    library_version: String,
}

/// Numbers of the serving process.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) connected_clients: usize,
    pub(super) role: &'static str,
    pub(super) loading: bool,
    pub(super) root_client: Option<String>,
    pub(super) uptime_seconds: u64,
}

/// A name without spaces and control characters.
pub(super) fn client_name(text: &[u8]) -> Result<String, Reply> {
    match std::str::from_utf8(text) {
        Ok(name)
            if name.len() <= CLIENT_NAME_MAX_BYTES
                && name.bytes().all(|byte| byte.is_ascii_graphic()) =>
        {
            Ok(name.to_owned())
        }
        _ => {
            Err(Reply::error("Client names cannot contain spaces, newlines or special characters."))
        }
    }
}

impl Client {
    pub(super) fn new(id: u64, peer: String) -> Self {
        Client { id, peer, ..Client::default() }
    }

    /// CLIENT.
    pub(super) fn command(&mut self, arguments: &[Bytes], protocol: Protocol) -> Reply {
        let [sub, rest @ ..] = arguments else { return Reply::Error(SYNTAX_ERROR.to_owned()) };
        match (&sub.to_ascii_uppercase()[..], rest) {
            (b"ID", []) => Reply::count(self.id),
            (b"GETNAME", []) if self.name.is_empty() => Reply::Nil,
            (b"GETNAME", []) => Reply::text(self.name.clone()),
            (b"SETNAME", [name]) => self.set(name, |client| &mut client.name),
            (b"SETINFO", [what, text]) => match &what.to_ascii_uppercase()[..] {
                b"LIB-NAME" => self.set(text, |client| &mut client.library),
                b"LIB-VER" => self.set(text, |client| &mut client.library_version),
                _ => Reply::error(format_args!("Unrecognized option '{}'", shown(what))),
            },
            (b"LIST" | b"INFO", _) => Reply::text(self.line(protocol)),
            (b"NO-EVICT" | b"NO-TOUCH", [_]) => Reply::OK,
            _ => unknown_subcommand("CLIENT", sub),
        }
    }

    fn set(&mut self, text: &[u8], field: fn(&mut Client) -> &mut String) -> Reply {
        match client_name(text) {
            Ok(text) => {
                *field(self) = text;
                Reply::OK
            }
            Err(reply) => reply,
        }
    }

    fn line(&self, protocol: Protocol) -> String {
        let version = if protocol == Protocol::Resp3 { 3 } else { 2 };
        format!(
            "id={} addr={} name={} db=0 resp={version} lib-name={} lib-ver={}\n",
            self.id, self.peer, self.name, self.library, self.library_version
        )
    }
}

/// The reply to HELLO.
pub(super) fn hello(protocol: Protocol, id: u64, role: &'static str) -> Reply {
    let version = if protocol == Protocol::Resp3 { 3 } else { 2 };
    Reply::Map(vec![
        (Reply::text("server"), Reply::text("quicksilver")),
        (Reply::text("version"), Reply::text(REDIS_VERSION)),
        (Reply::text("proto"), Reply::Integer(version)),
        (Reply::text("id"), Reply::count(id)),
        (Reply::text("mode"), Reply::text("standalone")),
        (Reply::text("role"), Reply::text(if role == "slave" { "replica" } else { role })),
        (Reply::text("modules"), Reply::Array(Vec::new())),
    ])
}

/// CONFIG: GET of what clients look for.
pub(super) fn config(arguments: &[Bytes], limits: &ClientLimits) -> Reply {
    let [sub, patterns @ ..] = arguments else { return Reply::Error(SYNTAX_ERROR.to_owned()) };
    if sub.eq_ignore_ascii_case(b"SET") {
        return Reply::error("CONFIG SET is not supported: edit the configuration file");
    }
    if !sub.eq_ignore_ascii_case(b"GET") || patterns.is_empty() {
        return unknown_subcommand("CONFIG", sub);
    }
    let parameters = [
        ("appendonly", "yes".to_owned()),
        ("databases", "1".to_owned()),
        ("maxclients", limits.max_clients.to_string()),
        ("maxmemory", "0".to_owned()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("proto-max-bulk-len", limits.max_value_bytes.to_string()),
        ("save", String::new()),
        ("timeout", "0".to_owned()),
    ];
    let wanted: Vec<Match> =
        patterns.iter().filter_map(|p| Match::parse(&p.to_ascii_lowercase())).collect();
    let matches = |name: &str| {
        wanted.iter().any(|pattern| match pattern {
            Match::Exactly(exact) => exact == name.as_bytes(),
            Match::Prefix(prefix) => name.as_bytes().starts_with(prefix),
        })
    };
    Reply::Map(
        parameters
            .into_iter()
            .filter(|(name, _)| matches(name))
            .map(|(name, value)| (Reply::text(name), Reply::text(value)))
            .collect(),
    )
}

/// COMMAND.
pub(super) fn command(arguments: &[Bytes]) -> Reply {
    let [sub, names @ ..] = arguments else {
        return Reply::Array(COMMANDS.iter().map(describe).collect());
    };
    match &sub.to_ascii_uppercase()[..] {
        b"COUNT" => Reply::count(COMMANDS.len()),
        b"LIST" => Reply::Array(COMMANDS.iter().map(|spec| Reply::text(spec.name)).collect()),
        b"DOCS" => Reply::Map(Vec::new()),
        b"INFO" if names.is_empty() => Reply::Array(COMMANDS.iter().map(describe).collect()),
        b"INFO" => {
            let one = |name: &Bytes| command::find(name).map_or(Reply::NilArray, describe);
            Reply::Array(names.iter().map(one).collect())
        }
        _ => unknown_subcommand("COMMAND", sub),
    }
}

fn describe(spec: &Spec) -> Reply {
    let mut fields = vec![
        Reply::text(spec.name),
        Reply::Integer(spec.arity),
        Reply::Array(spec.flags.iter().map(|flag| Reply::Simple(flag)).collect()),
    ];
    fields.extend(spec.keys.map(Reply::Integer));
    // ACL categories, tips, key specifications, subcommands: none.
    fields.extend([(); 4].map(|()| Reply::Array(Vec::new())));
    Reply::Array(fields)
}

fn unknown_subcommand(command: &str, sub: &[u8]) -> Reply {
    Reply::error(format_args!("unknown subcommand '{}' of {command}", shown(sub)))
}

/// INFO, all sections or those that are named.
pub(super) fn info(names: &[Bytes], status: &NodeStatus, figures: &Figures) -> Reply {
    let all = |name: &Bytes| {
        ["all", "default", "everything"].iter().any(|all| name.eq_ignore_ascii_case(all.as_bytes()))
    };
    let everything = names.is_empty() || names.iter().any(all);
    let mut text = String::new();
    for (title, body) in sections(status, figures) {
        if everything || names.iter().any(|name| name.eq_ignore_ascii_case(title.as_bytes())) {
            let gap = if text.is_empty() { "" } else { "\r\n" };
            // Writing to a String cannot fail.
            let _ = write!(text, "{gap}# {title}\r\n{body}");
        }
    }
    Reply::text(text)
}

fn sections(status: &NodeStatus, figures: &Figures) -> Vec<(&'static str, String)> {
    let server = lines(&[
        ("redis_version", &REDIS_VERSION),
        ("redis_mode", &"standalone"),
        ("quicksilver_version", &status.version),
        ("process_id", &status.pid),
        ("run_id", &status.node_id),
        ("uptime_in_seconds", &figures.uptime_seconds),
    ]);
    let clients = lines(&[("connected_clients", &figures.connected_clients)]);
    let loading = u8::from(figures.loading);
    let persistence = lines(&[("loading", &loading), ("aof_enabled", &1)]);
    let mut replication = lines(&[("role", &figures.role)]);
    if let Some(upstream) = &status.upstream {
        let root = figures.root_client.as_deref().unwrap_or(&upstream.address);
        let (host, port) = root.rsplit_once(':').unwrap_or((root, "0"));
        let link = if upstream.connected { "up" } else { "down" };
        let master: [(&str, &dyn std::fmt::Display); 4] = [
            ("master_host", &host),
            ("master_port", &port),
            ("master_link_status", &link),
            ("slave_repl_offset", &status.index),
        ];
        replication += &lines(&master);
    }
    replication += &lines(&[
        ("connected_slaves", &status.downstreams.len()),
        ("master_repl_offset", &status.index),
    ]);
    let lag = status.lag_seconds.map_or_else(|| "unknown".to_owned(), |lag| format!("{lag:.3}"));
    let quicksilver = lines(&[
        ("quicksilver_name", &status.name),
        ("quicksilver_db_id", &status.db_id),
        ("quicksilver_node_id", &status.node_id),
        ("quicksilver_role", &status.role),
        ("quicksilver_state", &status.state),
        ("quicksilver_index", &status.index),
        ("quicksilver_oldest_index", &status.oldest_index),
        ("quicksilver_hash", &status.hash),
        ("quicksilver_digest", &status.digest),
        ("quicksilver_history", &status.history),
        ("quicksilver_generation", &status.generation),
        ("quicksilver_bytes", &status.bytes),
        ("quicksilver_format", &status.format),
        ("quicksilver_format_newest", &status.format_newest),
        ("quicksilver_lag_seconds", &lag),
    ]);
    let keyspace = match status.keys {
        0 => String::new(),
        keys => format!("db0:keys={keys},expires=0,avg_ttl=0\r\n"),
    };
    vec![
        ("Server", server),
        ("Clients", clients),
        ("Persistence", persistence),
        ("Replication", replication),
        ("Quicksilver", quicksilver),
        ("Keyspace", keyspace),
    ]
}

fn lines(fields: &[(&str, &dyn std::fmt::Display)]) -> String {
    fields.iter().map(|(name, value)| format!("{name}:{value}\r\n")).collect()
}
