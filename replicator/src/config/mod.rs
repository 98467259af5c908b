//! The configuration file: one struct tree, every default, minimum and reason in its field's doc.
//!
//! Invariants:
//! * unknown keys are refused, with the file, line, column and key;
//! * a [`Config`] that [`Config::load`] or [`Config::from_text`] returned has passed
//!   [`Config::validate`]: the rest of the program relies on the relations between its numbers.

mod changes;
mod text;
mod validate;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use quicksilver_format::limits::{BATCH_DEFAULT_MAX_BYTES, VALUE_DEFAULT_MAX_BYTES};
use quicksilver_format::{Address, DbId, NodeId};
use serde::{Deserialize, Deserializer};

pub use self::changes::Changes;
pub use self::validate::{BATCH_HEADROOM_BYTES, InvalidConfig};

const GIB: u64 = 1 << 30;
/// Batches that may be in the map beside data and log.
const SPARE_BATCHES: u64 = 4;

/// Everything that `quicksilverd` is told.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The database's name: 1 to 64 of `A-Z a-z 0-9 . _ -`. It labels metrics and log lines.
    pub name: String,
    /// The database's identity, a UUID, the same on every node. Nodes with different ones refuse
    /// to talk to each other.
    #[serde(deserialize_with = "from_text")]
    pub db_id: DbId,
    /// The database's directory, absolute. One process owns it at a time.
    pub data_dir: PathBuf,
    /// This node's name, unique in the tree: 1 to 64 of `A-Z a-z 0-9 . _ -`.
    #[serde(deserialize_with = "from_text")]
    pub node_id: NodeId,
    /// Where this node is, for humans and dashboards. Default: empty.
    #[serde(default)]
    pub site: String,
    /// What this node does.
    pub role: Role,
    /// Where it listens.
    #[serde(default)]
    pub listen: Listen,
    /// How writes are gathered.
    #[serde(default)]
    pub batch: BatchConfig,
    /// How long the log is kept.
    #[serde(default)]
    pub retention: Retention,
    /// When the file is made small again, and how fast.
    #[serde(default)]
    pub compact: Compact,
    /// The check in the background.
    #[serde(default)]
    pub scrub: Scrub,
    /// Snapshots between nodes.
    #[serde(default)]
    pub bootstrap: Bootstrap,
    /// What is logged.
    #[serde(default)]
    pub logging: Logging,
    /// Bounds.
    #[serde(default)]
    pub limits: Limits,
    /// Who is followed.
    #[serde(default)]
    pub upstream: Upstream,
    /// The root group.
    #[serde(default)]
    pub root: Root,
    /// Certificates.
    #[serde(default)]
    pub tls: Tls,
    /// Exceptions from safety.
    #[serde(default)]
    pub insecure: Insecure,
}

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Accepts writes and puts them in order.
    Root,
    /// Follows an upstream and serves downstreams.
    Relay,
}

impl Role {
    /// The word in the file and in `/status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Root => "root",
            Role::Relay => "relay",
        }
    }
}

/// `[listen]`: `host:port`, `[v6]:port` or `unix:PATH`; a socket that systemd hands over under
/// the same name takes precedence; without either, that service is off.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Where downstreams connect.
    #[serde(deserialize_with = "maybe_address")]
    pub replication: Option<Address>,
    /// Where clients connect (RESP).
    #[serde(deserialize_with = "maybe_address")]
    pub client: Option<Address>,
    /// Where metrics, probes and status are served.
    #[serde(deserialize_with = "maybe_address")]
    pub http: Option<Address>,
}

/// `[batch]`: only the root uses it, and downstreams size their buffers by `max_bytes`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchConfig {
    /// At most one batch is sealed per window. Default 500, at most 60,000. 0 seals whatever has
    /// arrived as soon as the previous batch is durable.
    pub window_ms: u64,
    /// Most bytes of one batch. Default 32 MiB; at least `limits.max_value_bytes` + 64 KiB, so
    /// that the largest value fits; at most 257 MiB.
    pub max_bytes: u64,
}

/// `[retention]`: the log is collected when it is older than `hours` *or* longer than `bytes`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Default 168 (a week: a node that was away over a holiday catches up without a snapshot);
    /// at least 1, at most 87,600.
    pub hours: u64,
    /// Default 1 GiB; at least 1 MiB.
    pub bytes: u64,
    /// As much more is kept, however old, while a copy that is being made or a downstream that is
    /// connected still needs it; at most an eighth of the map. Default 1 GiB.
    pub held_bytes: u64,
}

/// `[compact]`: making the next generation out of the live one, without its free pages.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Compact {
    /// Whether it is done when it is due: when the file has `min_bytes`, and at least `free_percent`
    /// of it are free pages; or when `limits.map_bytes` is more than the live generation has.
    /// Default true. What old readers hold back (`limits.reader_hold_bytes`) is no matter of this.
    pub auto: bool,
    /// A smaller file is left alone. Default 256 MiB.
    pub min_bytes: u64,
    /// Share of free pages from which it is done. Default 50; 10 to 95.
    pub free_percent: u8,
    /// Most bytes a second that compactions and snapshots copy, so that they do not hurt readers and
    /// commits. Default 128 MiB; at least 1 MiB.
    pub max_bytes_per_second: u64,
    /// How long the generation before stays on disk while a reader is in it. Then it goes, and the
    /// log names the reader, which goes on with what it has mapped. Default 60; at most 86,400.
    pub old_generation_seconds: u64,
}

/// `[bootstrap]`: beginning with an upstream's snapshot, and serving one's own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bootstrap {
    /// Whether a relay fetches a snapshot when no upstream has the log it needs. Default true.
    pub enabled: bool,
    /// Whether a relay in whose files damage was found fetches a snapshot, too, and goes on in that.
    /// Default true; needs `enabled`.
    pub rebuild_damaged: bool,
    /// Most snapshots that are served at a time. Default 2; 0 serves none; at most 1,000.
    pub max_served: usize,
    /// Most bytes a second of each. Default 100 MiB; at least 64 KiB.
    pub max_bytes_per_second: u64,
}

/// `[scrub]`: the check of everything that is stored, in the background.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scrub {
    /// How often. Default 168 (a week); at most 8,760. 0: never.
    pub interval_hours: u64,
    /// Most bytes a second that it reads. Default 32 MiB; at least 1 MiB.
    pub max_bytes_per_second: u64,
}

/// `[logging]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Logging {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`) or a filter such as
    /// `info,quicksilver_replicator::net=debug`. Default `info`.
    pub level: String,
    /// `text` (default) or `json`, one object per line.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest value a client may write. Default 16 MiB; 1 to 256 MiB.
    pub max_value_bytes: u64,
    /// Most bytes of live data before the root refuses to grow it. Default 8 GiB; at least 1 MiB.
    pub max_db_bytes: u64,
    /// Reader slots of the environment; every process that reads takes at least one. Default
    /// 4096, 16 to 65,536. The same on both sides of the map, fixed per generation.
    pub max_readers: u32,
    /// A snapshot that is held for longer, while others are written, is a warning in the log with
    /// the process's number and program: it keeps freed pages from being used again. Default 10;
    /// 1 to 86,400.
    pub reader_warn_seconds: u64,
    /// When the oldest snapshot holds back more bytes of freed pages than this, the next generation
    /// is made, and its reader left behind in the old one. Default 1 GiB; at least 1 MiB.
    pub reader_hold_bytes: u64,
    /// Address space of the map, fixed per generation. Default 16 GiB; a multiple of 4096; at
    /// least `max_db_bytes` + `retention.bytes` + 4 × `batch.max_bytes`, because data, log and a
    /// few batches of freed pages live in it together. It costs address space, not memory.
    pub map_bytes: u64,
    /// Most downstreams at a time. Default 1000; at most 100,000. 0 makes the node a leaf,
    /// which has no `listen.replication`.
    pub max_downstreams: usize,
    /// Most client connections at a time. Default 1000; 1 to 100,000.
    pub max_clients: usize,
}

/// `[upstream]`: a root has none; a relay has at least one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    /// Tried first, in order of preference.
    #[serde(deserialize_with = "addresses")]
    pub primary: Vec<Address>,
    /// Upstreams with a longer log, tried when the primaries cannot help.
    #[serde(deserialize_with = "addresses")]
    pub secondary: Vec<Address>,
}

/// `[root]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Root {
    /// The other members of the root group. Must be empty: this release has a single root.
    #[serde(deserialize_with = "addresses")]
    pub peers: Vec<Address>,
    /// How often the root sends its clock through the tree: the resolution of
    /// `lag_seconds`. Default 1000; 100 to 60,000.
    pub heartbeat_ms: u64,
}

/// `[tls]`: parsed so that the names are taken; this release refuses to start with it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Certificate chain, PEM.
    pub cert: Option<PathBuf>,
    /// Private key, PEM.
    pub key: Option<PathBuf>,
    /// Authorities whose certificates are accepted, PEM.
    pub ca: Option<PathBuf>,
}

/// `[insecure]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Insecure {
    /// Serve downstreams and clients, and follow, in plain text over a network, where anyone who
    /// reaches a port may read, and at a client port of the root write. Default false. Loopback
    /// and Unix sockets do not need it.
    pub plaintext: bool,
}

impl Default for BatchConfig {
    fn default() -> Self {
        BatchConfig { window_ms: 500, max_bytes: BATCH_DEFAULT_MAX_BYTES as u64 }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Retention { hours: 168, bytes: GIB, held_bytes: GIB }
    }
}

impl Default for Compact {
    fn default() -> Self {
        Compact {
            auto: true,
            min_bytes: 256 << 20,
            free_percent: 50,
            max_bytes_per_second: 128 << 20,
            old_generation_seconds: 60,
        }
    }
}

impl Default for Bootstrap {
    fn default() -> Self {
        Bootstrap {
            enabled: true,
            rebuild_damaged: true,
            max_served: 2,
            max_bytes_per_second: 100 << 20,
        }
    }
}

impl Default for Scrub {
    fn default() -> Self {
        Scrub { interval_hours: 168, max_bytes_per_second: 32 << 20 }
    }
}

impl Default for Logging {
    fn default() -> Self {
        Logging { level: "info".to_owned(), format: LogFormat::Text }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_value_bytes: VALUE_DEFAULT_MAX_BYTES as u64,
            max_db_bytes: 8 * GIB,
            max_readers: 4096,
            reader_warn_seconds: 10,
            reader_hold_bytes: GIB,
            map_bytes: 16 * GIB,
            max_downstreams: 1000,
            max_clients: 1000,
        }
    }
}

impl Default for Root {
    fn default() -> Self {
        Root { peers: Vec::new(), heartbeat_ms: 1000 }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no TOML, has an unknown key, or a value of the wrong kind.
    #[error("{path}:{line}:{column}: {key}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in bytes.
        column: usize,
        /// The key, with its table; `?` when the line has none.
        key: String,
        /// What is wrong, and what was expected.
        message: String,
    },
    /// The file is understood, and asks for something that cannot be.
    #[error("{path}: {source}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What.
        source: InvalidConfig,
    },
}

impl Config {
    /// Reads, parses and validates a file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Config::from_text(&text, path)
    }

    /// Parses and validates the text of a file; `path` is for the errors.
    pub fn from_text(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let config = text::parse(text, path)?;
        config
            .validate()
            .map_err(|source| ConfigError::Invalid { path: path.to_owned(), source })?;
        Ok(config)
    }

    /// What a few batches take: the one being written, and the pages that the previous ones freed
    /// and a reader still holds.
    pub fn spare_batches_bytes(&self) -> u64 {
        SPARE_BATCHES * self.batch.max_bytes
    }

    /// What a generation holds beside the live data: the log and a few batches.
    pub fn beside_data_bytes(&self) -> u64 {
        self.retention.bytes + self.spare_batches_bytes()
    }

    /// A configuration with every default.
    pub fn example(name: &str, db_id: DbId, data_dir: &Path, node_id: NodeId, role: Role) -> Self {
        Config {
            name: name.to_owned(),
            db_id,
            data_dir: data_dir.to_owned(),
            node_id,
            site: String::new(),
            role,
            listen: Listen::default(),
            batch: BatchConfig::default(),
            retention: Retention::default(),
            compact: Compact::default(),
            scrub: Scrub::default(),
            bootstrap: Bootstrap::default(),
            logging: Logging::default(),
            limits: Limits::default(),
            upstream: Upstream::default(),
            root: Root::default(),
            tls: Tls::default(),
            insecure: Insecure::default(),
        }
    }
}

fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// An address as the file has it.
struct Spelled(Address);

impl<'de> Deserialize<'de> for Spelled {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer).map(Spelled)
    }
}

fn maybe_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Address>, D::Error> {
    let spelled = Option::<Spelled>::deserialize(deserializer)?;
    Ok(spelled.map(|spelled| spelled.0))
}

fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Address>, D::Error> {
    let spelled = Vec::<Spelled>::deserialize(deserializer)?;
    Ok(spelled.into_iter().map(|spelled| spelled.0).collect())
}
