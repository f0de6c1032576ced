//! Logging: one line per event on standard error, for people or for machines. Numbers for machines are in [`metrics`].

pub mod metrics;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// Starts logging. Call once. A filter that cannot be parsed is an error with a message for the user.
pub fn start(config: &LogConfig) -> Result<(), String> {
    // Postgres notices what our migrations skip; a user may ask for that, but need not see it.
    // What it lets pass it logs with the path, in which names of people and keys may be.
    let directives = format!("sqlx::postgres::notice=warn,tower_http::csrf=info,{}", config.filter);
    let filter = EnvFilter::try_new(directives).map_err(|error| format!("log filter: {error}"))?;
    let colours = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    let started = match config.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Pretty => builder.with_target(false).try_init(),
    };
    started.map_err(|error| error.to_string())
}
