//! The log on standard error.

use env_logger::{Builder, Env};
use log::Level;

/// Starts the log: `default` and what is graver, more with each `-v`, or what `RUST_LOG` says.
pub(super) fn start(default: Level, verbose: u8) {
    let level = match verbose {
        0 => default.as_str(),
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    Builder::from_env(Env::default().default_filter_or(level))
        .format_timestamp_millis()
        .init();
}
