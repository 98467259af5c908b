//! Input as pairs, line by line: what `import` and `build` read.
//!
//! Invariants: an error names the input and the line; what is held in memory is one line, and the
//! longest that a pair can need is the longest that is read.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use quicksilver_format::limits::{KEY_MAX_BYTES, VALUE_HARD_MAX_BYTES, check_key};

use super::error::Error;
use super::files;
use super::pairs::{self, Format, Pair};

/// Longest line: every byte of the longest pair as a six-character escape of JSON, and framing.
const LINE_MAX_BYTES: usize = 6 * (VALUE_HARD_MAX_BYTES + KEY_MAX_BYTES) + 1024;
const READ_BYTES: usize = 1 << 20;

/// How the lines look.
#[derive(Debug, Args)]
pub(super) struct LineArgs {
    /// How the lines look; auto goes by the file's extension or the first byte.
    #[arg(long, value_enum, default_value = "auto")]
    pub(super) format: FormatArg,
    /// In tsv, take a backslash literally and everything after the first tab as the value.
    #[arg(long)]
    pub(super) raw: bool,
}

/// What `--format` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FormatArg {
    Auto,
    Tsv,
    Jsonl,
}

/// Opens a file, or standard input for `-`; and how long it is, when that is known.
pub(super) fn open(path: &Path) -> Result<(Box<dyn Read>, Option<u64>), Error> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin()), None));
    }
    let file = files::open(path)?;
    let meta = file.metadata().map_err(Error::file(path))?;
    Ok((Box::new(file), meta.is_file().then_some(meta.len())))
}

/// On stderr, and only when that is a terminal.
pub(super) fn progress_bar(input_bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match input_bytes {
        Some(bytes) => (
            ProgressBar::new(bytes),
            "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left, {msg} entries",
        ),
        None => (ProgressBar::no_length(), "{spinner} {bytes}, {bytes_per_sec}, {msg} entries"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// One line of the input.
pub(super) struct Line {
    /// `None` for a blank line.
    pub(super) pair: Option<Pair>,
    /// Bytes of the input up to here that were not counted yet.
    pub(super) input_bytes: u64,
}

/// The input as pairs.
pub(super) struct Lines<R> {
    input: BufReader<R>,
    name: String,
    format: Format,
    raw: bool,
    line: Vec<u8>,
    /// The last line that was read.
    number: u64,
    /// Bytes of skipped lines, counted with the next one.
    skipped_bytes: u64,
}

impl<R: Read> Lines<R> {
    /// Of an input that `file` names.
    pub(super) fn new(file: &Path, args: &LineArgs, input: R) -> Result<Self, Error> {
        let name = match file.to_str() {
            Some("-") => "standard input".to_owned(),
            _ => file.display().to_string(),
        };
        let mut lines = Lines {
            input: BufReader::with_capacity(READ_BYTES, input),
            name,
            format: Format::Tsv,
            raw: args.raw,
            line: Vec::new(),
            number: 0,
            skipped_bytes: 0,
        };
        lines.format = match args.format {
            FormatArg::Tsv => Format::Tsv,
            FormatArg::Jsonl => Format::Jsonl,
            FormatArg::Auto => lines.detect(file)?,
        };
        if args.raw && lines.format == Format::Jsonl {
            return Err(Error::Usage("--raw is for tsv; this is jsonl".to_owned()));
        }
        Ok(lines)
    }

    fn detect(&mut self, file: &Path) -> Result<Format, Error> {
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("tsv" | "txt") => return Ok(Format::Tsv),
            Some("jsonl" | "ndjson" | "json") => return Ok(Format::Jsonl),
            _ if self.raw => return Ok(Format::Tsv),
            _ => {}
        }
        let first = self.input.fill_buf().map_err(Error::file(&self.name))?.first();
        Ok(if first == Some(&b'{') { Format::Jsonl } else { Format::Tsv })
    }

    /// Leaves out so many lines.
    pub(super) fn skip(&mut self, lines: u64) -> Result<(), Error> {
        while self.number < lines {
            if !self.read_line()? {
                return Err(Error::Usage(format!(
                    "--skip {lines}: {} has only {} lines",
                    self.name, self.number
                )));
            }
            self.skipped_bytes += self.line.len() as u64;
        }
        Ok(())
    }

    /// Lines that were read.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Reads a line, with its end; `false` at the end of the input.
    fn read_line(&mut self) -> Result<bool, Error> {
        self.line.clear();
        let most = LINE_MAX_BYTES as u64;
        let input = self.input.by_ref();
        let read = input.take(most).read_until(b'\n', &mut self.line);
        if read.map_err(Error::file(&self.name))? == 0 {
            return Ok(false);
        }
        self.number += 1;
        if self.line.len() == LINE_MAX_BYTES && !self.line.ends_with(b"\n") {
            return Err(self.bad("longer than any pair can be".to_owned()));
        }
        Ok(true)
    }

    fn bad(&self, problem: String) -> Error {
        Error::Line { input: self.name.clone(), line: self.number, problem }
    }

    /// The next line, or `None` at the end of the input.
    pub(super) fn next(&mut self) -> Result<Option<Line>, Error> {
        if !self.read_line()? {
            return Ok(None);
        }
        let input_bytes = self.line.len() as u64 + std::mem::take(&mut self.skipped_bytes);
        let content = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        if content.is_empty() {
            return Ok(Some(Line { pair: None, input_bytes }));
        }
        let pair = match self.raw {
            true => pairs::decode_raw(content),
            false => self.format.decode(content),
        };
        let (key, value) = pair.map_err(|problem| self.bad(problem))?;
        check_key(&key).map_err(|e| self.bad(e.to_string()))?;
        if value.len() > VALUE_HARD_MAX_BYTES {
            return Err(self.bad(format!("value of more than {VALUE_HARD_MAX_BYTES} bytes")));
        }
        Ok(Some(Line { pair: Some((key, value)), input_bytes }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;
    use proptest::prelude::*;

    fn lines<'i>(file: &str, format: FormatArg, input: &'i [u8]) -> Lines<&'i [u8]> {
        Lines::new(file.as_ref(), &LineArgs { format, raw: false }, input).unwrap()
    }

    #[test]
    fn formats_are_told_apart() {
        let detected =
            |file: &str, input: &str| lines(file, FormatArg::Auto, input.as_bytes()).format;
        assert_eq!(detected("-", "{\"key\""), Format::Jsonl);
        assert_eq!(detected("-", "key\t"), Format::Tsv);
        assert_eq!(detected("x.tsv", "{\"key\""), Format::Tsv);
        assert_eq!(detected("x.ndjson", ""), Format::Jsonl);
    }

    fn any_pairs() -> impl Strategy<Value = Vec<Pair>> {
        let key = prop::collection::vec(any::<u8>(), 1..40);
        let value = prop::collection::vec(any::<u8>(), 0..200);
        prop::collection::vec((key, value), 1..40)
    }

    proptest! {
        #[test]
        fn what_export_writes_is_read(
            expected in any_pairs(),
            format in prop::sample::select(vec![Format::Tsv, Format::Jsonl]),
        ) {
            let mut text = Vec::new();
            for (key, value) in &expected {
                format.encode(key, value, &mut text);
            }
            let format = if format == Format::Tsv { FormatArg::Tsv } else { FormatArg::Jsonl };
            let mut lines = lines("-", format, &text);
            let mut found = Vec::new();
            while let Some(line) = lines.next().unwrap() {
                found.push(line.pair.unwrap());
            }
            prop_assert_eq!(found, expected);
        }
    }
}
