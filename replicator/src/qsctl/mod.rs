//! `qsctl`, the operator's tool: reads a database's files, and talks to replicators' client
//! sockets.
//!
//! * `target`: which database or server; talking to servers is `quicksilver::writer`'s business.
//! * `pairs`, `lines`: pairs as lines of text; `walk`: all pairs of a database, in short transactions.
//! * one file for each command, or each few.
//!
//! Invariant: what was asked for goes to standard output, everything else to standard error, and
//! the exit code says how it ended.

mod access;
mod build;
mod compact;
mod error;
mod export;
mod files;
mod format;
mod import;
mod init;
mod job;
mod lines;
mod log;
mod pairs;
mod readers;
mod snapshot;
mod status;
mod target;
mod verify;
mod walk;

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use serde::Serialize;

use error::{Error, Exit};
use target::Target;

const OUTPUT_BYTES: usize = 64 << 10;

/// Looks into Quicksilver databases and changes them.
#[derive(Debug, Parser)]
#[command(
    name = "qsctl",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 ok, 1 no such key, 2 usage, 3 unavailable, 4 corrupt or diverged, \
                  5 refused."
)]
struct Cli {
    /// A database of this machine: a NAME below /var/lib/quicksilver, or a DIR (with a slash, as
    /// in ./dns).
    #[arg(long, global = true, env = "QS_DB", hide_env_values = true, value_name = "NAME|DIR")]
    db: Option<PathBuf>,
    /// Client sockets of replicators, host:port or unix:PATH; each is tried in turn.
    #[arg(
        long,
        global = true,
        env = "QS_SERVER",
        hide_env_values = true,
        value_name = "A,B,C",
        value_delimiter = ','
    )]
    server: Vec<String>,
    /// How long to try, when servers cannot be reached, restart, or have no leader: each of them in
    /// turn, again and again. 0 tries each once.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 10)]
    deadline: u64,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a configuration to begin with.
    Init(init::InitArgs),
    /// Make a database from a file, without a replicator.
    ///
    /// For tests, and for a root to begin with: point its data_dir here, and give it the db_id. It
    /// reads the lines that import reads; of several with one key, the last counts. Input of any
    /// size takes about 200 MB of memory; sorted by key (LC_ALL=C sort), 40 MB and a fraction of
    /// the time.
    Build(build::BuildArgs),
    /// Print a value.
    ///
    /// The bytes as they are; after text, and on a terminal, a line end is added when there is
    /// none (not with --raw).
    Get(access::GetArgs),
    /// Give a key a value; returns when it is safe.
    Set(access::SetArgs),
    /// Remove keys; returns when it is safe.
    Del(access::DelArgs),
    /// List keys and values in key order.
    Scan(access::ScanArgs),
    /// Show how a node is; exit code 4 when it has diverged, or its last verification found damage.
    Status,
    /// Show which format a node's files are in, who can read it, and whether it can be raised.
    ///
    /// A release goes on writing the format it finds, so that the release before it can be started
    /// again on the same files, until it is told to finalise.
    Format(format::FormatArgs),
    /// List the processes that read a database of this machine.
    ///
    /// For each: its number and program, the reader slots in which it holds a snapshot at this
    /// moment, those that it keeps idle, and how many commits its oldest snapshot is behind. A
    /// program that is not shown has ended, or runs in a PID namespace of its own.
    Readers,
    /// Print the log: one line for each entry.
    Log(log::LogArgs),
    /// Print changes as they come, until interrupted.
    Watch(log::WatchArgs),
    /// Check every value, the digest and the log's hash chain.
    ///
    /// With --db here and now; with --server by the node itself, at the rate of its [scrub].
    Verify,
    /// Make a database again, with full pages and none free.
    ///
    /// With --server the node does it while it is written and read; with --db its replicator must not
    /// run. Programs that read go on, and read the new generation as soon as it is there. Every
    /// value's CRC is checked on the way, and nothing changes unless index, hash and digest of the
    /// copy are the same. It needs as much free disk as is in use.
    Compact(compact::CompactArgs),
    /// Make, list, check and restore snapshots.
    ///
    /// A snapshot is one file that holds a whole database at one index, and can be copied with any
    /// tool.
    Snapshot(snapshot::SnapshotArgs),
    /// Write pairs from a file into the root.
    ///
    /// tsv: key<TAB>value, in which \t \n \r \\ and \xNN stand for bytes.
    /// jsonl: {"key":"..","value":".."}, or "key_hex" and "value_hex" for bytes that are no
    /// UTF-8. Blank lines are skipped.
    #[command(verbatim_doc_comment)]
    Import(import::ImportArgs),
    /// Print all pairs, in the formats that import reads.
    ///
    /// It reads in short transactions, so as not to hold back the writer: it is one instant only
    /// if nothing changed meanwhile, which the indexes on standard error tell.
    Export(export::ExportArgs),
}

/// What every command gets.
struct Context<'a> {
    target: Target,
    json: bool,
    /// Standard output is a terminal.
    tty: bool,
    out: &'a mut dyn Write,
}

impl Context<'_> {
    fn print(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(Error::Output)
    }

    fn print_json(&mut self, value: &impl Serialize) -> Result<(), Error> {
        let written = serde_json::to_writer(&mut self.out, value);
        written.map_err(|e| Error::Output(e.into()))?;
        self.print(b"\n")
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.out.flush().map_err(Error::Output)
    }

    /// A word to the operator, on standard error.
    fn note(&self, text: impl fmt::Display) {
        // There is nowhere to say that standard error is gone.
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// The program.
pub fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let stdout = io::stdout();
    let tty = stdout.is_terminal();
    let mut out = BufWriter::with_capacity(OUTPUT_BYTES, stdout.lock());
    let ended =
        Cli::from_arg_matches(&matches).map_err(|e| Error::Usage(e.to_string())).and_then(|cli| {
            let target = Target::new(cli.db, &cli.server, cli.deadline, &matches)?;
            let mut context = Context { target, json: cli.json, tty, out: &mut out };
            let exit = run(cli.command, &mut context)?;
            context.flush()?;
            Ok(exit)
        });
    // What is still in the buffer after an error was printed before it.
    let _ = out.flush();
    match ended {
        Ok(exit) => exit.into(),
        Err(error) => {
            if error.exit() != Exit::Ok {
                let _ = writeln!(io::stderr(), "qsctl: {error}");
            }
            error.exit().into()
        }
    }
}

fn run(command: Command, context: &mut Context<'_>) -> Result<Exit, Error> {
    match command {
        Command::Init(args) => init::run(args, context),
        Command::Build(args) => build::run(args, context),
        Command::Get(args) => access::get(args, context),
        Command::Set(args) => access::set(args, context),
        Command::Del(args) => access::del(args, context),
        Command::Scan(args) => access::scan(args, context),
        Command::Status => status::run(context),
        Command::Format(args) => format::run(args, context),
        Command::Readers => readers::run(context),
        Command::Log(args) => log::run(args, context),
        Command::Watch(args) => log::watch(args, context),
        Command::Verify => verify::run(context),
        Command::Compact(args) => compact::run(args, context),
        Command::Snapshot(args) => snapshot::run(args, context),
        Command::Import(args) => import::run(args, context),
        Command::Export(args) => export::run(args, context),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;

    /// Runs a command line; its end, and what it printed.
    fn qsctl(line: &[&str]) -> (Result<Exit, Error>, String) {
        let matches = Cli::command().try_get_matches_from([&["qsctl"], line].concat()).unwrap();
        let cli = Cli::from_arg_matches(&matches).unwrap();
        let mut out = Vec::new();
        let ended = Target::new(cli.db, &cli.server, cli.deadline, &matches).and_then(|target| {
            let mut context = Context { target, json: cli.json, tty: false, out: &mut out };
            run(cli.command, &mut context)
        });
        (ended, String::from_utf8_lossy(&out).into_owned())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn reading_commands_read_the_files() {
        let pairs: [(&[u8], &[u8]); 4] =
            [(b"hello", b"world"), (b"nl", b"x\n"), (b"raw", b"\x00\xff"), (b"zone/a", b"1\t2")];
        let db = quicksilver::testing::Db::from(pairs).unwrap();
        let dir = db.path().to_str().unwrap();
        for (line, expected) in [
            (&["get", "hello"][..], "world\n"),
            (&["get", "hello", "--raw"], "world"),
            (&["get", "nl"], "x\n"),
            (&["get", "raw", "--json"], "{\"key\":\"raw\",\"value_hex\":\"00ff\"}\n"),
            (&["scan", "zone/"], "zone/a\t1\\t2\n"),
            (&["scan", "--keys-only", "--limit", "2"], "hello\nnl\n"),
            (&["scan", "h", "--keys-only", "--json"], "{\"key\":\"hello\"}\n"),
            (&["log", "--from", "3", "--limit", "1"], "3 SET raw \\x00\\xff\n"),
            (&["log", "--from", "5"], ""),
            (&["export", "raw"], "raw\t\\x00\\xff\n"),
            (&["export", "raw", "--json"], "{\"key\":\"raw\",\"value_hex\":\"00ff\"}\n"),
        ] {
            let (ended, out) = qsctl(&[&["--db", dir], line].concat());
            assert_eq!((ended.unwrap(), &*out), (Exit::Ok, expected), "{line:?}");
        }
        let (ended, out) = qsctl(&["verify", "--db", dir]);
        assert_eq!(ended.unwrap(), Exit::Ok);
        assert!(
            out.starts_with("ok, index 4, ")
                && out.contains("\nlog     entries 1 to 4 in 1 batches\n"),
            "{out}"
        );
        let (ended, out) = qsctl(&["status", "--json", "--db", dir]);
        assert_eq!(ended.unwrap(), Exit::Ok);
        let status: crate::net::node::NodeStatus = serde_json::from_str(&out).unwrap();
        assert_eq!((status.index, status.keys), (4, 4));
        let (ended, out) = qsctl(&["format", "--json", "--db", dir]);
        assert_eq!(ended.unwrap(), Exit::Ok);
        let expected = "{\"format\":1,\"format_readable_from\":1,\"format_newest\":null,\
                        \"oldest_reader\":\"0.1.0\",\"can_finalize\":null}\n";
        assert_eq!(out, expected);
    }

    #[test]
    fn compacting_keeps_everything_but_the_free_pages() {
        let dir = tempfile::tempdir().unwrap();
        let (path, input) = (dir.path().join("db"), dir.path().join("pairs"));
        // Every key ten times: what was replaced is free.
        let lines: String =
            (0..20_000).map(|n| format!("key {}\t{n:0>500}\n", n % 2_000)).collect();
        std::fs::write(&input, lines).unwrap();
        let (db, input) = (path.to_str().unwrap(), input.to_str().unwrap());
        assert_eq!(qsctl(&["build", db, input]).0.unwrap(), Exit::Ok);
        let before = qsctl(&["export", "--db", db]).1;
        let digest =
            |out: &str| out.lines().find(|line| line.starts_with("digest")).map(str::to_owned);
        let verified = digest(&qsctl(&["verify", "--db", db]).1);
        let reader = quicksilver::Reader::open(&path).unwrap();
        drop(reader);
        let (ended, out) = qsctl(&["compact", "--db", db]);
        assert_eq!(ended.unwrap(), Exit::Ok, "{out}");
        assert!(out.starts_with("compacted 2,000 keys: "), "{out}");
        assert!(path.join("gen-000002").exists() && !path.join("gen-000001").exists());
        assert_eq!(qsctl(&["export", "--db", db]).1, before);
        assert_eq!(digest(&qsctl(&["verify", "--db", db]).1), verified);
        // Whoever writes it keeps it.
        let role = quicksilver::build::RoleLock::take(&path).unwrap();
        let refused = qsctl(&["compact", "--db", db]).0.unwrap_err();
        assert_eq!(refused.exit(), Exit::Refused);
        assert!(refused.to_string().contains("stop it first"), "{refused}");
        drop(role);
    }

    #[test]
    fn damage_is_found_and_never_printed() {
        use std::os::unix::fs::FileExt;
        let value = "a value that was written to this key";
        let db = quicksilver::testing::Db::from([("a", value), ("b", "1")]).unwrap();
        let dir = db.path().to_str().unwrap();
        let path = db.path().join("gen-000001/data.mdb");
        let bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(value.len()).position(|window| window == value.as_bytes());
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"A", at.unwrap() as u64).unwrap();
        file.sync_all().unwrap();
        let (ended, out) = qsctl(&["verify", "--db", dir]);
        assert_eq!(ended.unwrap(), Exit::Corrupt);
        assert!(out.starts_with("CORRUPT: 1 problem, index 2") && out.contains("key a"), "{out}");
        let (ended, out) = qsctl(&["get", "a", "--db", dir]);
        assert_eq!((ended.unwrap_err().exit(), &*out), (Exit::Corrupt, ""));
        let (ended, _) = qsctl(&["get", "b", "--db", dir]);
        assert_eq!(ended.unwrap(), Exit::Ok);
    }

    #[test]
    fn exit_codes() {
        let db = quicksilver::testing::Db::from([("a", "1")]).unwrap();
        let dir = db.path().to_str().unwrap();
        let long = "k".repeat(512);
        for (line, expected) in [
            (&["get", "nobody", "--db", dir][..], Exit::NoSuchKey),
            (&["get", "", "--db", dir], Exit::Usage),
            (&["get", &long, "--db", dir], Exit::Usage),
            (&["get", "a"], Exit::Usage),
            (&["get", "a", "--db", dir, "--server", "a:1"], Exit::Usage),
            (&["get", "a", "--server", "nonsense"], Exit::Usage),
            (&["set", "a", "1", "--db", dir], Exit::Usage),
            (&["format", "finalize", "--db", dir], Exit::Usage),
            (&["format", "finalize", "--server", "a:1,b:1"], Exit::Usage),
            (&["get", "a", "--db", "/nowhere/at/all"], Exit::Unavailable),
            (
                &["get", "a", "--server", "127.0.0.1:1,unix:/nowhere", "--deadline", "0"],
                Exit::Unavailable,
            ),
            (&["import", "/nowhere/at/all", "--server", "127.0.0.1:1"], Exit::Usage),
        ] {
            let (ended, out) = qsctl(line);
            let exit = ended.unwrap_or_else(|error| error.exit());
            assert_eq!((exit, &*out), (expected, ""), "{line:?}");
        }
    }

    #[test]
    fn commands_over_a_socket() {
        use quicksilver::writer::fake::{Fake, bulk};
        let relay = Fake::start(|_, command| {
            Some(match &command[0][..] {
                b"GET" => bulk(b"old"),
                _ => "-READONLY this node is a relay; write to the root at root:1\r\n".to_owned(),
            })
        });
        let orphan = Fake::start(|_, _| {
            Some("-READONLY this node is a relay and knows no root\r\n".to_owned())
        });
        let orphan = orphan.address.to_string();
        let root = Fake::start(|_, command| {
            Some(match &command[0][..] {
                b"SET" => "+OK\r\n".to_owned(),
                b"DEL" => ":1\r\n".to_owned(),
                b"QS.INDEX" => ":42\r\n".to_owned(),
                b"QS.FORMAT" if command.len() == 1 => {
                    bulk(b"{\"format\":1,\"format_newest\":2,\"what comes later\":3}")
                }
                b"QS.FORMAT" => bulk(b"{\"finalized\":true,\"from\":1,\"format\":2}"),
                b"QS.STATUS" => bulk(
                    serde_json::to_string(&crate::net::node::NodeStatus {
                        state: "diverged".to_owned(),
                        ..Default::default()
                    })
                    .unwrap()
                    .as_bytes(),
                ),
                b"GET" if command[1] == b"rotten" => {
                    "-CORRUPT bucket data, key rotten\r\n".to_owned()
                }
                _ => "$-1\r\n".to_owned(),
            })
        });
        let both = format!("{},{}", relay.address, root.address);
        let (root, relay) = (root.address.to_string(), relay.address.to_string());
        for (line, exit, expected) in [
            (&["get", "k", "--server", &*both][..], Exit::Ok, "old\n"),
            (&["get", "k", "--server", &root], Exit::NoSuchKey, ""),
            (&["get", "rotten", "--server", &root], Exit::Corrupt, ""),
            (&["set", "k", "-v", "--server", &both], Exit::Ok, "stored, index 42\n"),
            (&["set", "k", "v", "--server", &relay, "--deadline", "0"], Exit::Unavailable, ""),
            (&["set", "k", "v", "--server", &orphan, "--deadline", "0"], Exit::Refused, ""),
            (&["del", "a", "b", "--server", &both], Exit::Ok, "1 of 2 deleted, index 42\n"),
            (
                &["format", "finalize", "--server", &root],
                Exit::Ok,
                "finalised: format 1 before, 2 now\n",
            ),
            (
                &["format", "finalize", "--json", "--server", &root],
                Exit::Ok,
                "{\"finalized\":true,\"from\":1,\"format\":2}\n",
            ),
            (
                &["del", "a", "--json", "--server", &root],
                Exit::Ok,
                "{\"deleted\":1,\"index\":42}\n",
            ),
        ] {
            let (ended, out) = qsctl(line);
            assert_eq!((ended.unwrap_or_else(|e| e.exit()), &*out), (exit, expected), "{line:?}");
        }
        let (ended, out) = qsctl(&["format", "--server", &root]);
        assert_eq!(ended.unwrap(), Exit::Ok);
        assert!(out.starts_with("format       1\n") && out.contains("up to 2"), "{out}");
        let (ended, _) = qsctl(&["status", "--server", &root]);
        assert_eq!(ended.unwrap(), Exit::Corrupt);
    }
}
