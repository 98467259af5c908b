//! The text of a configuration.

use std::path::Path;

use quicksilver_replicator::config::{Changes, Config, ConfigError};
use quicksilver_replicator::net::resp::ClientLimits;

/// A configuration file.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let path = Path::new("fuzz.toml");
    let config = match Config::from_text(text, path) {
        Ok(config) => config,
        Err(error) => return check_error(&error, text),
    };
    let again = Config::from_text(&config.to_toml(), path);
    let again = again.expect("a configuration can be written and read again");
    assert_eq!(again, config);
    assert_eq!(config.changes(&again), Changes::default());
    // What follows from the numbers is computed without overflow, and fits.
    assert!(config.limits.max_db_bytes + config.beside_data_bytes() <= config.limits.map_bytes);
    let limits = ClientLimits::of(&config);
    assert!(limits.max_value_bytes < limits.max_request_bytes);
    assert!(limits.max_request_bytes <= limits.budget_bytes);
}

/// It is one line that names the place.
fn check_error(error: &ConfigError, text: &str) {
    let said = error.to_string();
    assert!(said.starts_with("fuzz.toml:") && !said.contains('\n'), "{said:?}");
    if let ConfigError::Parse { line, column, key, .. } = error {
        assert!((1..=text.split('\n').count()).contains(line), "{said:?}");
        let there = text.split('\n').nth(line - 1).map_or(0, str::len);
        assert!((1..=there + 1).contains(column), "{said:?}");
        assert!(!key.is_empty(), "{said:?}");
    }
}
