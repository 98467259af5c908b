//! `build`: lines of pairs into a new database, without a replicator.
//!
//! Memory is bounded whatever the input: pairs are written in batches of at most 50,000 and
//! 32 MiB, and a batch of keys in random order touches one page of the tree for each of them.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use indicatif::{HumanBytes, HumanCount, ProgressBar};
use quicksilver::build::{BuildError, Builder, Built, Options};
use quicksilver::{HistoryId, LmdbError};
use quicksilver_format::DbId;
use serde_json::json;

use super::Context;
use super::error::{Error, Exit};
use super::lines::{self, LineArgs, Lines};

/// Pairs between two looks at the progress bar.
const SHOW_EVERY: u64 = 10_000;

/// Arguments of `build`.
#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// The directory of the database, in which there is none yet; made if it is not there.
    dir: PathBuf,
    /// The input, or - for standard input.
    #[arg(default_value = "-")]
    file: PathBuf,
    #[command(flatten)]
    lines: LineArgs,
    /// The database's identity. Default: a new one.
    #[arg(long)]
    db_id: Option<DbId>,
    /// Most bytes that the file may ever have, log included; address space, not memory. Default
    /// 16 GiB.
    #[arg(long, value_name = "BYTES",
          value_parser = clap::value_parser!(u64).range((1 << 20)..=(1 << 46)))]
    map_bytes: Option<u64>,
}

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Input {
    lines: u64,
    entries: u64,
}

pub(super) fn run(args: BuildArgs, context: &mut Context<'_>) -> Result<Exit, Error> {
    let started = Instant::now();
    let options = options(&args);
    let (input, input_bytes) = lines::open(&args.file)?;
    let bar = lines::progress_bar(input_bytes);
    let result = build(&args, &options, input, &bar);
    bar.finish_and_clear();
    let (input, built) = result?;
    let seconds = started.elapsed().as_secs_f64();
    if context.json {
        context.print_json(&json!({
            "dir": args.dir,
            "db_id": options.db_id.to_string(),
            "history": options.history.to_string(),
            "generation": built.generation.get(),
            "lines": input.lines,
            "entries": input.entries,
            "keys": built.keys,
            "bytes": built.bytes,
            "index": built.position.index.get(),
            "hash": built.position.hash.to_string(),
            "digest": built.digest.to_string(),
            "seconds": seconds,
        }))?;
    } else {
        context.print(as_text(&args.dir, &options, input, &built, seconds).as_bytes())?;
    }
    Ok(Exit::Ok)
}

fn options(args: &BuildArgs) -> Options {
    /// LMDB wants a multiple of the page size, which is at most this.
    const LARGEST_PAGE_BYTES: u64 = 64 << 10;
    let defaults = Options::default();
    let map_bytes = args.map_bytes.map(|bytes| bytes.next_multiple_of(LARGEST_PAGE_BYTES));
    let map_bytes = map_bytes.and_then(|bytes| usize::try_from(bytes).ok());
    Options {
        db_id: args.db_id.unwrap_or(defaults.db_id),
        history: HistoryId::random(),
        map_bytes: map_bytes.unwrap_or(defaults.map_bytes),
        ..defaults
    }
}

fn build(
    args: &BuildArgs,
    options: &Options,
    input: impl Read,
    bar: &ProgressBar,
) -> Result<(Input, Built), Error> {
    // Before anything is read: an hour of input for a directory that is taken is an hour lost.
    let mut builder = Builder::create(&args.dir, options)?;
    let mut lines = Lines::new(&args.file, &args.lines, input)?;
    while let Some(line) = lines.next()? {
        if let Some((key, value)) = line.pair {
            builder.push(&key, &value).map_err(failed)?;
        }
        bar.inc(line.input_bytes);
        if builder.entries().is_multiple_of(SHOW_EVERY) {
            bar.set_message(HumanCount(builder.entries()).to_string());
        }
    }
    let input = Input { lines: lines.number(), entries: builder.entries() };
    Ok((input, builder.finish().map_err(failed)?))
}

/// LMDB knows of a map, but not of the option that makes it larger.
fn failed(error: BuildError) -> Error {
    let BuildError::Reader(quicksilver::Error::Lmdb(e)) = &error else { return error.into() };
    let cause = match e {
        LmdbError::CommitFailed { source } => source,
        other => other,
    };
    match cause {
        LmdbError::MapFull(_) => Error::Usage(format!("{error}; --map-bytes gives it more room")),
        _ => error.into(),
    }
}

fn as_text(dir: &Path, options: &Options, input: Input, built: &Built, seconds: f64) -> String {
    let rate = input.entries as f64 / seconds.max(1e-9);
    let replaced = match input.entries - built.keys {
        0 => String::new(),
        n => format!(", {} replaced by later lines", HumanCount(n)),
    };
    format!(
        "built     {}\ndatabase  {}\nkeys      {}, {}{replaced}\nindex     {}, {seconds:.1} s ({} \
         entries/s)\ndigest    {}\n",
        dir.display(),
        options.db_id,
        HumanCount(built.keys),
        HumanBytes(built.bytes),
        built.position.index,
        HumanCount(rate as u64),
        built.digest,
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;
    use clap::Parser;
    use quicksilver::Reader;

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        args: BuildArgs,
    }

    /// Builds `DIR/db` from a text.
    fn built(
        dir: &Path,
        more: &[&str],
        input: impl AsRef<[u8]>,
    ) -> Result<(Input, Built, Options), Error> {
        let db = dir.join("db");
        let words = [&["build", db.to_str().unwrap()], more].concat();
        let args = CommandLine::try_parse_from(words).unwrap_or_else(|e| panic!("{e}")).args;
        let options = options(&args);
        build(&args, &options, input.as_ref(), &ProgressBar::hidden())
            .map(|(input, built)| (input, built, options))
    }

    #[test]
    fn lines_become_a_database_and_the_last_of_a_key_wins() {
        let dir = tempfile::tempdir().unwrap();
        let id = "0ba4a1b2-1c1c-4f6e-9e0a-0c6a3a3f8a11";
        let input = "b\t1\n\na\t\\x00\\tx\nb\t2\nempty\t";
        let (read, built, options) = built(dir.path(), &["--db-id", id], input).unwrap();
        assert_eq!(read, Input { lines: 5, entries: 4 });
        assert_eq!((built.keys, built.bytes, built.position.index.get()), (3, 11, 4));
        let reader = Reader::open(dir.path().join("db")).unwrap();
        assert_eq!(reader.db_id().to_string(), id);
        for (key, value) in [(&b"a"[..], &b"\x00\tx"[..]), (b"b", b"2"), (b"empty", b"")] {
            assert_eq!(reader.get(key).unwrap().unwrap(), value);
        }
        let text = as_text(Path::new("/x"), &options, read, &built, 0.5);
        assert!(text.contains("\nkeys      3, 11 B, 1 replaced by later lines\n"), "{text}");
    }

    #[test]
    fn json_lines_and_raw_lines_are_taken_too() {
        let dir = tempfile::tempdir().unwrap();
        let input = "{\"key\":\"a\",\"value\":\"1\"}\n{\"key_hex\":\"ff\",\"value_hex\":\"00\"}\n";
        assert_eq!(built(dir.path(), &[], input).unwrap().1.keys, 2);
        let dir = tempfile::tempdir().unwrap();
        built(dir.path(), &["--raw"], "a\t\\x\ty\n").unwrap();
        let reader = Reader::open(dir.path().join("db")).unwrap();
        assert_eq!(reader.get(b"a").unwrap().unwrap(), b"\\x\ty");
    }

    #[test]
    fn a_bad_line_is_named_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let long = "k".repeat(512);
        for (line, problem) in [
            ("no tab", "no tab"),
            ("a\tb\tc", "more than one tab"),
            ("a\t\\q", "no escape"),
            ("\tempty key", "key of 0 bytes"),
            (&*format!("{long}\t1"), "key of 512 bytes"),
            ("a\tb\r", "CR LF"),
        ] {
            let error = built(dir.path(), &[], format!("ok\t1\n\n{line}\n")).unwrap_err();
            let said = error.to_string();
            assert!(
                said.starts_with("standard input, line 3: ") && said.contains(problem),
                "{said}"
            );
            assert_eq!(error.exit(), Exit::Usage);
            assert!(matches!(
                Reader::open(dir.path().join("db")),
                Err(quicksilver::Error::NoDatabase { .. })
            ));
        }
        // Nothing is in the way of the next attempt; and after it, everything is.
        built(dir.path(), &[], "ok\t1\n").unwrap();
        let error = built(dir.path(), &[], "ok\t2\n").unwrap_err();
        assert!(error.to_string().contains("holds a database already"), "{error}");
        assert_eq!(error.exit(), Exit::Refused);
        let reader = Reader::open(dir.path().join("db")).unwrap();
        assert_eq!(reader.get(b"ok").unwrap().unwrap(), b"1");
    }

    #[test]
    fn a_map_that_is_too_small_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let input: String = (0..60_000).map(|n| format!("key {n}\tvalue {n}\n")).collect();
        let error = built(dir.path(), &["--map-bytes", "1048577"], &input).unwrap_err();
        assert!(error.to_string().contains("--map-bytes"), "{error}");
        assert_eq!(error.exit(), Exit::Usage);
        built(dir.path(), &["--map-bytes", "104857600"], &input).unwrap();
    }
}
