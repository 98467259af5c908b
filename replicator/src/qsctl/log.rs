//! `log` and `watch`: the entries, as they lie there and as they come.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use clap::Args;
use quicksilver::{Reader, log};
use quicksilver_format::{Entry, Index, Op};

use super::Context;
use super::error::{Error, Exit};
use super::pairs::{JsonLine, escape};

/// Bytes of records read in one transaction.
const SLICE_BYTES: usize = 1 << 20;
/// Longest sleep without looking; a change wakes earlier.
const SLEEP: Duration = Duration::from_secs(10);
/// Bytes of a value that are shown; `--json` gives all.
const SHOWN_VALUE_BYTES: usize = 256;

/// Arguments of `log`.
#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// Begin with this index. Default: the oldest that is there.
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    /// Stop after so many entries.
    #[arg(long)]
    limit: Option<u64>,
    /// Go on with what comes, until interrupted.
    #[arg(long)]
    follow: bool,
}

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// Only keys that begin with this.
    #[arg(default_value = "")]
    prefix: OsString,
}

pub(super) fn run(args: LogArgs, context: &mut Context<'_>) -> Result<Exit, Error> {
    let reader = context.target.reader()?;
    let (oldest, last) = bounds(&reader)?;
    let from = match args.from.map(Index::new) {
        None => oldest,
        Some(from) if from < oldest => {
            return Err(Error::Usage(format!(
                "--from {from}: no longer in the log, which begins with {oldest} and ends with {last}"
            )));
        }
        Some(from) => from,
    };
    let mut printer = Printer { prefix: Vec::new(), left: args.limit.unwrap_or(u64::MAX) };
    follow(&reader, from, args.follow, &mut printer, context)
}

pub(super) fn watch(args: WatchArgs, context: &mut Context<'_>) -> Result<Exit, Error> {
    let reader = context.target.reader()?;
    let (_, last) = bounds(&reader)?;
    let mut printer = Printer { prefix: args.prefix.into_vec(), left: u64::MAX };
    follow(&reader, last.next(), true, &mut printer, context)
}

/// The oldest entry that is there and the last that is visible.
fn bounds(reader: &Reader) -> Result<(Index, Index), Error> {
    let status = reader.status()?;
    Ok((status.oldest_index, status.position.index))
}

fn follow(
    reader: &Reader,
    from: Index,
    forever: bool,
    printer: &mut Printer,
    context: &mut Context<'_>,
) -> Result<Exit, Error> {
    let mut next = from;
    while printer.left > 0 {
        let (records, oldest, last) = read(reader, next)?;
        if next < oldest {
            context.note(format_args!(
                "entries {next} to {} were collected before they could be read",
                oldest.previous()
            ));
            next = oldest;
            continue;
        }
        for record in records {
            let batch = record.decode()?;
            for (index, entry) in batch.entries() {
                if index >= next && index <= last {
                    printer.print(index, entry, context)?;
                    next = index.next();
                }
            }
        }
        if next > last {
            context.flush()?;
            if !forever {
                return Ok(Exit::Ok);
            }
            while reader.wait_for(next, SLEEP)? < next {}
        }
    }
    Ok(Exit::Ok)
}

/// Records from `next` on, the oldest index that is there and the last that is visible.
fn read(reader: &Reader, next: Index) -> Result<(Vec<log::Record>, Index, Index), Error> {
    let snapshot = reader.snapshot()?;
    let (environment, txn) = (snapshot.environment(), snapshot.transaction());
    let oldest = environment.log_state(txn)?.oldest;
    let last = snapshot.index();
    let records = if next <= last && next >= oldest {
        let records = log::read_after(environment, txn, next.previous(), SLICE_BYTES)?;
        if records.is_empty() {
            return Err(quicksilver::Error::Corrupt {
                bucket: "log",
                key: next.to_string(),
                problem: format!("missing, although entries {oldest} to {last} should be there"),
            }
            .into());
        }
        records
    } else {
        Vec::new()
    };
    Ok((records, oldest, last))
}

struct Printer {
    prefix: Vec<u8>,
    left: u64,
}

impl Printer {
    fn print(
        &mut self,
        index: Index,
        entry: Entry<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), Error> {
        if self.left == 0 || !entry.key.starts_with(&self.prefix) {
            return Ok(());
        }
        self.left -= 1;
        let mut line = Vec::new();
        match context.json {
            true => JsonLine::of_entry(index, &entry).append_to(&mut line),
            false => text_line(index, entry, &mut line),
        }
        context.print(&line)
    }
}

fn text_line(index: Index, entry: Entry<'_>, out: &mut Vec<u8>) {
    let name = if matches!(entry.op, Op::Del) { "DEL" } else { "SET" };
    out.extend_from_slice(format!("{index} {name} ").as_bytes());
    escape(entry.key, out);
    if let Op::Set(value) = entry.op {
        out.push(b' ');
        match value.len() {
            0..=SHOWN_VALUE_BYTES => escape(value, out),
            bytes => {
                // Not in the middle of a character.
                let cut = &value[..SHOWN_VALUE_BYTES];
                let end = (cut.len() - 3..=cut.len()).rev();
                let whole = end.into_iter().find(|end| std::str::from_utf8(&cut[..*end]).is_ok());
                escape(&cut[..whole.unwrap_or(cut.len())], out);
                out.extend_from_slice(format!("... ({bytes} bytes)").as_bytes());
            }
        }
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;

    fn text(entry: Entry<'_>) -> String {
        let mut out = Vec::new();
        text_line(Index::new(23), entry, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn json(entry: Entry<'_>) -> String {
        let mut out = Vec::new();
        JsonLine::of_entry(Index::new(23), &entry).append_to(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn entries_as_lines() {
        assert_eq!(text(Entry::set(b"hello", b"world")), "23 SET hello world\n");
        assert_eq!(text(Entry::del(b"by\xffe")), "23 DEL by\\xffe\n");
        let long = "ö".repeat(400);
        let shown = text(Entry::set(b"k", long.as_bytes()));
        assert_eq!(shown, format!("23 SET k {}... (800 bytes)\n", "ö".repeat(128)));
        assert_eq!(
            json(Entry::set(b"k", b"\xff")),
            "{\"index\":23,\"op\":\"set\",\"key\":\"k\",\"value_hex\":\"ff\"}\n"
        );
        assert_eq!(json(Entry::del(b"k")), "{\"index\":23,\"op\":\"del\",\"key\":\"k\"}\n");
    }
}
