//! Where log lines go, and what a panic does.

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Logging};

/// Changes what is logged.
pub(super) struct Level(Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>);

impl Level {
    /// From now on. The same text as `logging.level`.
    pub(super) fn set(&self, level: &str) -> Result<(), String> {
        (self.0)(filter(level)?)
    }
}

/// Sets up logging to standard error, which a service manager keeps.
pub(super) fn init(config: &Logging) -> Result<Level, String> {
    let builder = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let filter = filter(&config.level)?;
    let text = |e: &dyn std::fmt::Display| e.to_string();
    match config.format {
        LogFormat::Text => {
            let builder = builder.with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.try_init().map_err(|e| text(&*e))?;
            Ok(Level(Box::new(move |filter| handle.reload(filter).map_err(|e| text(&e)))))
        }
        LogFormat::Json => {
            let builder = builder.json().with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.try_init().map_err(|e| text(&*e))?;
            Ok(Level(Box::new(move |filter| handle.reload(filter).map_err(|e| text(&e)))))
        }
    }
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(level).map_err(|e| format!("logging.level = {level:?}: {e}"))
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
