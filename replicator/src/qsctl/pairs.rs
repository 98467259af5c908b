//! Pairs as lines of text: what `export` and `scan` write and `import` reads.
//!
//! ```text
//! tsv    key<TAB>value      backslash escapes \t \n \r \\ \xNN
//! jsonl  {"key":"..","value":".."}
//!        bytes that are no UTF-8 go into "key_hex" and "value_hex" instead
//! ```
//!
//! Invariant: writing any pair and reading the line gives the same bytes, in both formats.

use quicksilver_format::{Entry, Index, Op};
use serde::{Deserialize, Serialize};

/// How a line of pairs looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// `key<TAB>value`, with backslash escapes.
    Tsv,
    /// One JSON object per line.
    Jsonl,
}

/// A pair of one's own.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

impl Format {
    /// Appends a pair as a line, with its end.
    pub(super) fn encode(self, key: &[u8], value: &[u8], out: &mut Vec<u8>) {
        match self {
            Format::Tsv => {
                escape(key, out);
                out.push(b'\t');
                escape(value, out);
                out.push(b'\n');
            }
            Format::Jsonl => JsonLine::of_pair(key, value).append_to(out),
        }
    }

    /// Reads a line without its end.
    pub(super) fn decode(self, line: &[u8]) -> Result<Pair, String> {
        match self {
            Format::Tsv => decode_tsv(line),
            Format::Jsonl => decode_json(line),
        }
    }
}

/// Reads a TSV line in which a backslash means nothing: the key ends at the first tab.
pub(super) fn decode_raw(line: &[u8]) -> Result<Pair, String> {
    let (key, value) = split_at_tab(line)?;
    Ok((key.to_vec(), value.to_vec()))
}

fn split_at_tab(line: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let tab = line.iter().position(|byte| *byte == b'\t');
    let tab =
        tab.ok_or_else(|| "no tab between key and value; expected key<TAB>value".to_owned())?;
    Ok((&line[..tab], &line[tab + 1..]))
}

fn decode_tsv(line: &[u8]) -> Result<Pair, String> {
    let (key, value) = split_at_tab(line)?;
    if value.contains(&b'\t') {
        return Err("more than one tab; write a tab inside a value as \\t, or use --raw".to_owned());
    }
    if line.ends_with(b"\r") {
        return Err(
            "ends with CR LF; convert the file to LF, write a carriage return that belongs \
                    to the value as \\r, or use --raw"
                .to_owned(),
        );
    }
    Ok((unescape(key)?, unescape(value)?))
}

/// Appends bytes as one readable field: UTF-8 stays, backslash and control characters are
/// escaped, and so are bytes that are no UTF-8.
pub(super) fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for part in bytes.utf8_chunks() {
        for character in part.valid().chars() {
            match character {
                '\\' => out.extend_from_slice(b"\\\\"),
                '\t' => out.extend_from_slice(b"\\t"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                _ => {
                    let mut buffer = [0; 4];
                    let encoded = character.encode_utf8(&mut buffer).as_bytes();
                    if character.is_control() {
                        escape_bytes(encoded, out);
                    } else {
                        out.extend_from_slice(encoded);
                    }
                }
            }
        }
        escape_bytes(part.invalid(), out);
    }
}

fn escape_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        out.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
    }
}

/// Bytes as readable text.
pub(super) fn shown(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(bytes.len());
    escape(bytes, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn unescape(field: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        out.extend_from_slice(&rest[..at]);
        let (byte, used) = match &rest[at + 1..] {
            [b't', ..] => (b'\t', 2),
            [b'n', ..] => (b'\n', 2),
            [b'r', ..] => (b'\r', 2),
            [b'\\', ..] => (b'\\', 2),
            [b'x', high, low, ..] => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, 4),
                _ => return Err(bad_escape(&rest[at..])),
            },
            _ => return Err(bad_escape(&rest[at..])),
        };
        out.push(byte);
        rest = &rest[at + used..];
    }
    out.extend_from_slice(rest);
    Ok(out)
}

fn bad_escape(at: &[u8]) -> String {
    let found = String::from_utf8_lossy(&at[..at.len().min(4)]);
    format!("{found:?} is no escape; expected \\t, \\n, \\r, \\\\ or \\xNN, or use --raw")
}

/// Bytes as lower-case hex.
pub(super) fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = |byte: &u8| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    bytes.iter().flat_map(digits).map(char::from).collect()
}

/// The bytes of a hex text, in either case.
pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

fn digit(character: u8) -> Option<u8> {
    char::from(character).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// A line of JSON about a key: a pair, or an entry of the log.
#[derive(Debug, Default, Serialize)]
pub(super) struct JsonLine<'a> {
    /// Of an entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    /// `set` or `del`, of an entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    op: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
}

impl<'a> JsonLine<'a> {
    /// Of a pair.
    pub(super) fn of_pair(key: &'a [u8], value: &'a [u8]) -> Self {
        let line = JsonLine::of_key(key);
        match std::str::from_utf8(value) {
            Ok(text) => JsonLine { value: Some(text), ..line },
            Err(_) => JsonLine { value_hex: Some(to_hex(value)), ..line },
        }
    }

    /// Of a key alone.
    pub(super) fn of_key(key: &'a [u8]) -> Self {
        match std::str::from_utf8(key) {
            Ok(text) => JsonLine { key: Some(text), ..JsonLine::default() },
            Err(_) => JsonLine { key_hex: Some(to_hex(key)), ..JsonLine::default() },
        }
    }

    /// Of an entry of the log.
    pub(super) fn of_entry(index: Index, entry: &Entry<'a>) -> Self {
        let (op, line) = match entry.op {
            Op::Set(value) => ("set", JsonLine::of_pair(entry.key, value)),
            Op::Del => ("del", JsonLine::of_key(entry.key)),
        };
        JsonLine { index: Some(index.get()), op: Some(op), ..line }
    }

    /// Appends it, with the line's end.
    pub(super) fn append_to(&self, out: &mut Vec<u8>) {
        // Strings and numbers into memory: there is nothing that could fail.
        let _ = serde_json::to_writer(&mut *out, self);
        out.push(b'\n');
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonPair {
    key: Option<String>,
    key_hex: Option<String>,
    value: Option<String>,
    value_hex: Option<String>,
}

fn decode_json(line: &[u8]) -> Result<Pair, String> {
    let pair: JsonPair = serde_json::from_slice(line).map_err(|e| {
        let message = e.to_string().replace(" at line 1 column", ", column");
        format!("{message}; expected {{\"key\":\"..\",\"value\":\"..\"}}")
    })?;
    Ok((one_of("key", pair.key, pair.key_hex)?, one_of("value", pair.value, pair.value_hex)?))
}

fn one_of(name: &str, text: Option<String>, hex: Option<String>) -> Result<Vec<u8>, String> {
    match (text, hex) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(hex)) => from_hex(&hex)
            .ok_or_else(|| format!("{name}_hex is no hex text; expected two digits per byte")),
        _ => Err(format!("expected either {name:?} or \"{name}_hex\", and exactly one of them")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;
    use proptest::prelude::*;

    fn line(format: Format, key: &[u8], value: &[u8]) -> String {
        let mut out = Vec::new();
        format.encode(key, value, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_readable() {
        assert_eq!(line(Format::Tsv, b"hello", b"w\xc3\xb6rld"), "hello\twörld\n");
        assert_eq!(
            line(Format::Tsv, b"\x00\xff", b"a\tb\\c\r\n"),
            "\\x00\\xff\ta\\tb\\\\c\\r\\n\n"
        );
        assert_eq!(
            line(Format::Jsonl, b"k", b"\"v\"\n"),
            "{\"key\":\"k\",\"value\":\"\\\"v\\\"\\n\"}\n"
        );
        assert_eq!(
            line(Format::Jsonl, b"\xff", b"\x00\x80"),
            "{\"key_hex\":\"ff\",\"value_hex\":\"0080\"}\n"
        );
        // C1 controls would be commands to a terminal.
        assert_eq!(shown("\u{9b}2J".as_bytes()), "\\xc2\\x9b2J");
    }

    #[test]
    fn bad_lines_say_what_was_expected() {
        for (format, bad, expected) in [
            (Format::Tsv, "novalue", "key<TAB>value"),
            (Format::Tsv, "k\ta\tb", "more than one tab"),
            (Format::Tsv, "k\ta\\q", "\\xNN"),
            (Format::Tsv, "k\ta\\x4", "\\xNN"),
            (Format::Tsv, "k\ta\\", "\\xNN"),
            (Format::Tsv, "k\\x+1\tv", "\\xNN"),
            (Format::Tsv, "k\tv\r", "CR LF"),
            (Format::Jsonl, "{\"key\":\"k\"}", "exactly one of them"),
            (Format::Jsonl, "{\"key\":\"k\",\"key_hex\":\"00\",\"value\":\"\"}", "exactly one"),
            (Format::Jsonl, "{\"key\":\"k\",\"value_hex\":\"0\"}", "two digits"),
            (Format::Jsonl, "{\"key\":\"k\",\"value\":1}", "column"),
            (Format::Jsonl, "{\"key\":\"k\",\"value\":\"\",\"ttl\":\"1\"}", "unknown field"),
            (Format::Jsonl, "k\tv", "{\"key\":"),
        ] {
            let error = format.decode(bad.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{bad}: {error}");
        }
    }

    #[test]
    fn raw_lines_mean_what_they_say() {
        assert_eq!(
            decode_raw(b"k\\n\ta\tb\\t\r").unwrap(),
            (b"k\\n".to_vec(), b"a\tb\\t\r".to_vec())
        );
    }

    /// Bytes as they occur: text, text with what needs escaping, anything.
    fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..most),
            prop::collection::vec(
                prop::sample::select(b"a\\tnx0\t\n\r\"{}\x00\x1b\xc3\xb6".to_vec()),
                0..most
            ),
            prop::collection::vec(any::<char>(), 0..most / 4)
                .prop_map(|text| text.into_iter().collect::<String>().into_bytes()),
        ]
    }

    proptest! {
        #[test]
        fn any_pair_survives_both_formats(key in bytes(64), value in bytes(300)) {
            for format in [Format::Tsv, Format::Jsonl] {
                let mut out = Vec::new();
                format.encode(&key, &value, &mut out);
                prop_assert_eq!(out.pop(), Some(b'\n'));
                prop_assert!(!out.contains(&b'\n'));
                prop_assert_eq!(format.decode(&out).unwrap(), (key.clone(), value.clone()));
            }
        }

        #[test]
        fn hex_round_trips(bytes in bytes(64)) {
            prop_assert_eq!(from_hex(&to_hex(&bytes)), Some(bytes.clone()));
            prop_assert_eq!(from_hex(&to_hex(&bytes).to_uppercase()), Some(bytes));
        }

        #[test]
        fn any_line_decodes_or_errs(line in bytes(80)) {
            let _ = Format::Tsv.decode(&line);
            let _ = Format::Jsonl.decode(&line);
            let _ = from_hex(&String::from_utf8_lossy(&line));
        }
    }
}
