//! `export`: all pairs as lines that `import` reads back to the same bytes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use clap::Args;
use indicatif::HumanCount;

use super::Context;
use super::error::{Error, Exit};
use super::pairs::Format;
use super::walk::{Selection, walk};

/// Arguments of `export`.
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Only keys that begin with this.
    #[arg(default_value = "")]
    prefix: OsString,
    /// How the lines look. Default: tsv, and jsonl with --json.
    #[arg(long, value_enum)]
    format: Option<Format>,
}

pub(super) fn run(args: ExportArgs, context: &mut Context<'_>) -> Result<Exit, Error> {
    let prefix = args.prefix.into_vec();
    let default = if context.json { Format::Jsonl } else { Format::Tsv };
    let format = args.format.unwrap_or(default);
    let selection = Selection { prefix: &prefix, values: true, limit: None };
    let target = context.target.clone();
    let mut line = Vec::new();
    let walked = walk(target.place()?, selection, |key, value| {
        line.clear();
        format.encode(key, value, &mut line);
        context.print(&line)
    })?;
    context.flush()?;
    let (begin, end) = walked.index;
    let pairs = HumanCount(walked.pairs);
    if begin == end {
        context.note(format_args!("exported {pairs} pairs, all at index {begin}"));
    } else {
        context.note(format_args!(
            "exported {pairs} pairs between index {begin} and {end}: not one instant"
        ));
    }
    Ok(Exit::Ok)
}
