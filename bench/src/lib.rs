//! What the measuring programs and the demo share. `bench/README.md` says what each measures.
//!
//! Rules that hold for every figure printed here: a peer runs in the same run, alternating with
//! ours; what is shown is a median over rounds, or percentiles of single events; ratios are made
//! within a round and then their median is taken.

pub mod clock;
pub mod connection;
pub mod dataset;
pub mod disk;
pub mod engine;
pub mod histogram;
pub mod loader;
pub mod metrics;
pub mod peer;
pub mod plot;
pub mod process;
pub mod replica;
pub mod server;
pub mod stats;

/// What went wrong, for the person at the terminal: these programs only print and stop.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// Result of a step.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The value after `name` on the command line, or the default.
pub fn option<T: std::str::FromStr>(name: &str, default: T) -> Result<T> {
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == name {
            let text = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            return text.parse().map_err(|_| format!("{name}: {text:?} is no value for it").into());
        }
    }
    Ok(default)
}

/// Whether `name` is on the command line.
pub fn flag(name: &str) -> bool {
    std::env::args().skip(1).any(|argument| argument == name)
}
