//! Where log lines go, and what a panic does.

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Logging};

/// Sets up logging to standard error, which a service manager keeps.
pub(super) fn init(config: &Logging) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.level)
        .map_err(|e| format!("logging.level = {:?}: {e}", config.level))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    match config.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    }
    .map_err(|e| e.to_string())
}

/// A thread that panicked has left an invariant behind. The process ends at once, and the
/// service manager starts a new one from what is on disk.
pub(super) fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(%panic, "internal error; the process ends and should be started anew");
        eprintln!("quicksilverd: internal error: {panic}");
        std::process::abort();
    }));
}
