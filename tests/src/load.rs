//! A writer that remembers what it was promised.
//!
//! Every key belongs to one writer and goes through numbered states; a state is a value, or "no
//! such key". What a key may hold after any crash follows from that: the last acknowledged state,
//! or a later one that was sent and never answered; nothing else, and never a mixture.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::resp::{Client, Reply};

/// Commands that are sent before the first of them has to be answered.
const PIPELINE: usize = 64;
/// Keys of one writer.
const KEYS: usize = 500;
/// Longest value; some are chunked.
const MAX_VALUE_BYTES: usize = 6000;
/// One in so many commands is a DEL.
const DEL_ONE_IN: u32 = 10;
/// While the root does not run.
const RECONNECT_PAUSE: Duration = Duration::from_millis(5);

/// What a key may hold: `None` is "no such key".
type State = Option<String>;

/// What the writers of a test share.
#[derive(Debug, Default)]
pub struct Control {
    /// Ends every writer.
    pub stop: AtomicBool,
    /// Acknowledged commands of all of them.
    pub acknowledged: AtomicU64,
}

/// What a writer knows of its keys.
#[derive(Debug, Default)]
pub struct Promises {
    /// The last acknowledged state, then those that were sent after it, with their numbers.
    keys: BTreeMap<String, Vec<(u64, State)>>,
}

impl Promises {
    /// Keys that this writer has written.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether it has written nothing.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// What contradicts them in `found`, one line for each key.
    pub fn broken_by(&self, found: &BTreeMap<String, String>) -> Vec<String> {
        let mut broken = Vec::new();
        for (key, allowed) in &self.keys {
            let state = found.get(key).cloned();
            if !allowed.iter().any(|(_, allowed)| *allowed == state) {
                let brief = |state: &State| state.as_deref().map_or("none", head).to_owned();
                let allowed: Vec<String> = allowed.iter().map(|(_, state)| brief(state)).collect();
                broken.push(format!("{key} holds {}, may hold {allowed:?}", brief(&state)));
            }
        }
        broken
    }
}

/// The number that a value begins with.
fn head(value: &str) -> &str {
    value.split('-').next().unwrap_or(value)
}

/// Writes to the root behind `socket` until it is told to stop, across every restart of it.
pub fn write_until_stopped(name: &str, socket: &Path, seed: u64, control: &Control) -> Promises {
    let mut writer = Writer {
        name: name.to_owned(),
        socket: socket.to_owned(),
        rng: StdRng::seed_from_u64(seed),
        sent: 0,
        promises: Promises::default(),
    };
    while !control.stop.load(Ordering::Relaxed) {
        match writer.connection(control) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => panic!("{error}"),
            // The root was killed: what is unanswered now stays so.
            Err(_) => std::thread::sleep(RECONNECT_PAUSE),
        }
    }
    writer.promises
}

struct Writer {
    name: String,
    socket: PathBuf,
    rng: StdRng,
    sent: u64,
    promises: Promises,
}

impl Writer {
    fn connection(&mut self, control: &Control) -> io::Result<()> {
        let mut client = Client::connect(&self.socket)?;
        let mut unanswered: VecDeque<(String, u64)> = VecDeque::new();
        loop {
            let stopping = control.stop.load(Ordering::Relaxed);
            while unanswered.len() < PIPELINE && !stopping {
                unanswered.push_back(self.send(&mut client)?);
            }
            let Some((key, number)) = unanswered.pop_front() else { return Ok(()) };
            match client.reply()? {
                Reply::Simple(_) | Reply::Integer(_) => {
                    self.acknowledged(&key, number);
                    control.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                // Not done, or not known to be: the state stays among those that may be.
                Reply::Error(text)
                    if text.starts_with("TRYAGAIN") || text.starts_with("UNKNOWN") => {}
                other => {
                    let text = format!("a write was answered {other:?}");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
            }
        }
    }

    fn send(&mut self, client: &mut Client) -> io::Result<(String, u64)> {
        self.sent += 1;
        let key = format!("{}-{:03}", self.name, self.rng.random_range(0..KEYS));
        let state = (!self.rng.random_ratio(1, DEL_ONE_IN)).then(|| self.value());
        let states = self.promises.keys.entry(key.clone()).or_insert_with(|| vec![(0, None)]);
        states.push((self.sent, state.clone()));
        match &state {
            Some(value) => client.send(&["SET", &key, value])?,
            None => client.send(&["DEL", &key])?,
        }
        Ok((key, self.sent))
    }

    fn value(&mut self) -> String {
        // Mostly small, sometimes long enough to be chunked.
        let length = match self.rng.random_range(0..20) {
            0 => self.rng.random_range(0..MAX_VALUE_BYTES),
            _ => self.rng.random_range(0..100),
        };
        format!("{}-{}", self.sent, "x".repeat(length))
    }

    /// From now on the key holds this state or a later one.
    fn acknowledged(&mut self, key: &str, number: u64) {
        if let Some(states) = self.promises.keys.get_mut(key) {
            states.retain(|(sent, _)| *sent >= number);
        }
    }
}

/// Reads what `qs-test-reader` dumped: `key value` lines.
pub fn parse_dump(text: &str) -> BTreeMap<String, String> {
    let pair = |line: &str| line.split_once(' ').map(|(k, v)| (k.to_owned(), v.to_owned()));
    text.lines().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer() -> Writer {
        Writer {
            name: "w".to_owned(),
            socket: PathBuf::new(),
            rng: StdRng::seed_from_u64(1),
            sent: 0,
            promises: Promises::default(),
        }
    }

    fn sent(writer: &mut Writer, state: Option<&str>) -> u64 {
        writer.sent += 1;
        let states = writer.promises.keys.entry("k".to_owned()).or_insert_with(|| vec![(0, None)]);
        states.push((writer.sent, state.map(str::to_owned)));
        writer.sent
    }

    fn allows(writer: &Writer, state: Option<&str>) -> bool {
        let found = state.map(|value| ("k".to_owned(), value.to_owned())).into_iter().collect();
        writer.promises.broken_by(&found).is_empty()
    }

    #[test]
    fn what_is_unanswered_may_be_there_and_what_is_acknowledged_must() {
        let mut writer = writer();
        let first = sent(&mut writer, Some("1-a"));
        assert!(allows(&writer, None) && allows(&writer, Some("1-a")));
        assert!(!allows(&writer, Some("1-b")));
        writer.acknowledged("k", first);
        assert!(!allows(&writer, None) && allows(&writer, Some("1-a")));
        // Two that a killed root never answered, and one on the next connection.
        sent(&mut writer, Some("2-b"));
        sent(&mut writer, None);
        let last = sent(&mut writer, Some("4-d"));
        for state in [Some("1-a"), Some("2-b"), None, Some("4-d")] {
            assert!(allows(&writer, state), "{state:?}");
        }
        writer.acknowledged("k", last);
        for state in [Some("1-a"), Some("2-b"), None] {
            assert!(!allows(&writer, state), "{state:?}");
        }
        assert!(allows(&writer, Some("4-d")));
    }

    #[test]
    fn a_dump_reads_back() {
        let found = parse_dump("k 1-xx\nl 2-\n");
        assert_eq!(found.get("k").map(String::as_str), Some("1-xx"));
        assert_eq!(found.get("l").map(String::as_str), Some("2-"));
    }
}
