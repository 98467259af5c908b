//! `init`: a configuration to begin with.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use quicksilver_format::limits::NAME_MAX_BYTES;
use quicksilver_format::{Address, DbId, NodeId};
use serde_json::json;

use super::error::{Error, Exit};
use super::{Context, files, target};
use crate::config::{Config, Role};

const HOSTNAME: &str = "/proc/sys/kernel/hostname";

/// Arguments of `init`.
#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// Put everything below this directory: DIR/NAME.toml, DIR/data, DIR/client.sock and
    /// DIR/replication.sock.
    #[arg(required_unless_present = "config", conflicts_with = "config")]
    dir: Option<PathBuf>,
    /// Write this file; data goes to /var/lib/quicksilver/NAME, sockets come from systemd unless
    /// given.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What the node does.
    #[arg(long, value_enum, default_value = "root")]
    role: RoleArg,
    /// The database's name. Default: the name of DIR or FILE.
    #[arg(long)]
    name: Option<String>,
    /// The database's identity. A root draws one; a relay must be given its root's.
    #[arg(long, required_if_eq("role", "relay"))]
    db_id: Option<DbId>,
    /// This node's name, unique in the tree. Default: from the host's name.
    #[arg(long)]
    node_id: Option<NodeId>,
    /// Whom a relay follows, in order of preference.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', required_if_eq("role", "relay"))]
    upstream: Vec<Address>,
    /// Where clients connect: host:port or unix:PATH.
    #[arg(long, value_name = "ADDRESS")]
    listen_client: Option<Address>,
    /// Where downstreams connect.
    #[arg(long, value_name = "ADDRESS")]
    listen_replication: Option<Address>,
    /// Where metrics, probes and status are served.
    #[arg(long, value_name = "ADDRESS")]
    listen_http: Option<Address>,
    /// The database's directory.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Allow replication in plain text over a network.
    #[arg(long)]
    insecure_plaintext: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RoleArg {
    /// Accepts writes and puts them in order.
    Root,
    /// Follows an upstream and serves downstreams.
    Relay,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Root => Role::Root,
            RoleArg::Relay => Role::Relay,
        }
    }
}

pub(super) fn run(args: InitArgs, context: &mut Context<'_>) -> Result<Exit, Error> {
    let hostname = fs::read_to_string(HOSTNAME).unwrap_or_default();
    let (path, config) = plan(args, hostname.trim())?;
    if config.role == Role::Root && config.data_dir.join("CURRENT").exists() {
        return Err(Error::Exists { path: config.data_dir });
    }
    files::create_new(&path, config.to_toml().as_bytes())?;
    Config::load(&path)?;
    if context.json {
        context.print_json(&json!({
            "config": path,
            "name": config.name,
            "db_id": config.db_id.to_string(),
            "node_id": config.node_id.to_string(),
            "role": config.role.as_str(),
            "data_dir": config.data_dir,
        }))?;
    } else {
        context.print(next_steps(&path, &config).as_bytes())?;
    }
    Ok(Exit::Ok)
}

/// The file to write and what belongs in it.
fn plan(args: InitArgs, hostname: &str) -> Result<(PathBuf, Config), Error> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(Error::file(path));
    let dir = args.dir.as_deref().map(absolute).transpose()?;
    let named_after = dir.as_deref().and_then(Path::file_name);
    let named_after = named_after.or(args.config.as_deref().and_then(Path::file_stem));
    let place = named_after.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = args.name.unwrap_or_else(|| place.clone());
    let path = match (&dir, &args.config) {
        (Some(dir), _) => dir.join(format!("{name}.toml")),
        (None, Some(file)) => absolute(file)?,
        (None, None) => return Err(Error::Usage("give a DIR, or --config FILE".to_owned())),
    };
    let data_dir = match (&args.data_dir, &dir) {
        (Some(data_dir), _) => absolute(data_dir)?,
        (None, Some(dir)) => dir.join("data"),
        (None, None) => Path::new(target::DATABASES).join(&name),
    };
    // Several nodes of one database on one host are in directories of their own.
    let label = if dir.is_some() { &*place } else { "" };
    let node_id = args.node_id.map_or_else(|| node_id(hostname, label), Ok)?;
    let db_id = args.db_id.unwrap_or_else(DbId::random);
    let mut config = Config::example(&name, db_id, &data_dir, node_id, args.role.into());
    let socket = |name: &str| {
        let path = dir.as_ref()?.join(name);
        format!("unix:{}", path.display()).parse().ok()
    };
    config.listen.client = args.listen_client.or_else(|| socket("client.sock"));
    config.listen.replication = args.listen_replication.or_else(|| socket("replication.sock"));
    config.listen.http = args.listen_http;
    config.upstream.primary = args.upstream;
    config.insecure.plaintext = args.insecure_plaintext;
    config.validate().map_err(|mut error| {
        if error.problem.contains("plaintext") {
            error.problem += " (--insecure-plaintext here)";
        }
        error
    })?;
    Ok((path, config))
}

/// A node's name from its host's, and from its place when several share the host.
fn node_id(hostname: &str, label: &str) -> Result<NodeId, Error> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let parts = [hostname, label].into_iter().filter(|part| !part.is_empty());
    let joined = parts.collect::<Vec<_>>().join("-");
    let name: String =
        joined.chars().map(|c| if legal(c) { c } else { '-' }).take(NAME_MAX_BYTES).collect();
    NodeId::new(name).map_err(|e| Error::Usage(format!("--node-id: {e}")))
}

fn next_steps(path: &Path, config: &Config) -> String {
    let name = &config.name;
    // Where the packaged unit looks, and its client socket.
    let packaged = path == Path::new(&format!("/etc/quicksilver/{name}.toml"));
    let start = match packaged {
        true => {
            format!("systemctl enable --now quicksilver@{name}")
        }
        false => format!("quicksilverd --config {}", quoted(path.display())),
    };
    let client = config.listen.client.as_ref().map(Address::to_string);
    let client =
        client.or_else(|| packaged.then(|| format!("unix:/run/quicksilver/{name}/client.sock")));
    let mut text = format!(
        "wrote     {}\ndatabase  {name} {}\nnode      {}, {}\nnext:\n  {start}\n",
        path.display(),
        config.db_id,
        config.node_id,
        config.role.as_str(),
    );
    if let (Role::Root, Some(client)) = (config.role, client) {
        text += &format!("  qsctl --server {} set hello world\n", quoted(client));
    }
    text += &format!("  qsctl --db {} get hello\n", quoted(config.data_dir.display()));
    if config.role == Role::Root {
        let upstream = config.listen.replication.as_ref();
        let upstream = upstream.map_or_else(|| "HOST:PORT".to_owned(), quoted);
        text += &format!(
            "on each relay:\n  qsctl init DIR --role relay --name {name} --db-id {} --upstream {upstream}\n",
            config.db_id,
        );
    }
    text
}

/// As a word for a shell.
fn quoted(word: impl std::fmt::Display) -> String {
    let word = word.to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/.:_-[]".contains(c);
    if word.chars().all(plain) { word } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: InitArgs,
    }

    fn planned(line: &str) -> Result<(PathBuf, Config), Error> {
        let words = ["init"].into_iter().chain(line.split_whitespace());
        plan(Line::try_parse_from(words).unwrap_or_else(|e| panic!("{e}")).args, "host.example")
    }

    #[test]
    fn a_directory_is_enough_for_a_root() {
        let (path, config) = planned("/srv/dns").unwrap();
        assert_eq!(path, Path::new("/srv/dns/dns.toml"));
        assert_eq!(config.data_dir, Path::new("/srv/dns/data"));
        assert_eq!(config.node_id.as_str(), "host.example-dns");
        assert_eq!(config.listen.client.unwrap().to_string(), "unix:/srv/dns/client.sock");
    }

    #[test]
    fn a_relay_is_given_the_roots_identity() {
        let id = DbId::random();
        let (path, config) = planned(&format!(
            "--config /etc/quicksilver/dns.toml --role relay --db-id {id} --upstream unix:/r.sock"
        ))
        .unwrap();
        assert_eq!(path, Path::new("/etc/quicksilver/dns.toml"));
        assert_eq!((config.db_id, config.name.as_str()), (id, "dns"));
        assert_eq!(config.data_dir, Path::new("/var/lib/quicksilver/dns"));
        assert_eq!((config.node_id.as_str(), config.listen.client), ("host.example", None));
        for line in ["init /d --role relay --upstream a:1", "init", "init /d --config /f"] {
            assert!(Line::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn what_the_replicator_would_refuse_is_not_written() {
        let error = planned("/srv/dns --listen-replication 0.0.0.0:7000").unwrap_err();
        assert!(error.to_string().contains("--insecure-plaintext"), "{error}");
        assert_eq!(error.exit(), Exit::Usage);
        planned("/srv/dns --listen-replication 0.0.0.0:7000 --insecure-plaintext").unwrap();
        assert!(planned("/srv/two%20words").is_err());
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.toml");
        files::create_new(&path, b"1").unwrap();
        let error = files::create_new(&path, b"2").unwrap_err();
        assert_eq!(error.exit(), Exit::Refused);
        assert_eq!(fs::read(&path).unwrap(), b"1");
    }

    #[test]
    fn words_for_a_shell() {
        assert_eq!(quoted("unix:/a-b/c.sock"), "unix:/a-b/c.sock");
        assert_eq!(quoted("a b'c"), "'a b'\\''c'");
    }
}
