//! The log on standard error.

use env_logger::{Builder, Env};

/// Starts the log: warnings and errors, more with each `-v`, or what `RUST_LOG` says.
pub(super) fn start(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    Builder::from_env(Env::default().default_filter_or(level))
        .format_timestamp_millis()
        .init();
}
