//! The replicator.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use quicksilver_replicator::config::Config;
use quicksilver_replicator::daemon;

/// A replicator of one Quicksilver database.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration (TOML); `qsctl init` writes one.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Only say whether the configuration can be used.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(e) => {
            eprintln!("quicksilverd: {e}");
            return ExitCode::from(2);
        }
    };
    if arguments.check {
        println!("{}: ok", arguments.config.display());
        return ExitCode::SUCCESS;
    }
    match daemon::run(config, &arguments.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Also to standard error: the log may not have been set up yet.
            eprintln!("quicksilverd: {e}");
            ExitCode::FAILURE
        }
    }
}
