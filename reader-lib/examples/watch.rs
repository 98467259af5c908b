//! Prints what lies under a prefix, and then what changes there, as it is written.
//!
//! ```text
//! watch [--once N] DIR [PREFIX]
//! ```
//!
//! Each line is "set KEY VALUE" or "del KEY". With --once it ends after N lines.
//!
//! ```text
//! cargo run --release -p quicksilver-kv --example watch -- /var/lib/quicksilver/dns zone/
//! ```

use std::error::Error;

use quicksilver::{Change, Index, Reader};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut lines = u64::MAX;
    if let ["--once", number, ..] = words[..] {
        lines = number.parse()?;
        words.drain(..2);
    }
    match words[..] {
        [dir] => watch(dir, "", lines),
        [dir, prefix] => watch(dir, prefix, lines),
        _ => Err("usage: watch [--once N] DIR [PREFIX]".into()),
    }
}

fn watch(dir: &str, prefix: &str, lines: u64) -> Result<(), Box<dyn Error>> {
    let reader = Reader::open(dir)?;
    let mut out = Lines { left: lines };
    // From the moment that was printed on, nothing is missed and nothing comes twice.
    let index = print_all(&reader, prefix, &mut out)?;
    let mut changes = reader.changes(index, prefix.as_bytes())?;
    while out.left > 0 {
        let Some(change) = changes.next() else { break };
        match change? {
            Change::Set { key, value, .. } => out.set(&key, &value),
            Change::Del { key, .. } => out.line(format_args!("del {}", key.escape_ascii())),
            // Too much happened meanwhile, or the database was restored.
            Change::Rescan { .. } => drop(print_all(&reader, prefix, &mut out)?),
        }
    }
    Ok(())
}

/// Prints everything of one moment, and returns its index.
fn print_all(reader: &Reader, prefix: &str, out: &mut Lines) -> quicksilver::Result<Index> {
    let snapshot = reader.snapshot()?;
    for pair in snapshot.prefix(prefix.as_bytes())? {
        let (key, value) = pair?;
        out.set(key, &value);
    }
    Ok(snapshot.index())
}

/// So many lines of output, and no more.
struct Lines {
    left: u64,
}

impl Lines {
    fn set(&mut self, key: &[u8], value: &[u8]) {
        self.line(format_args!("set {} {}", key.escape_ascii(), value.escape_ascii()));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        if self.left > 0 {
            println!("{line}");
            self.left -= 1;
        }
    }
}
