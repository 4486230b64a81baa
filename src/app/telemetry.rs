//! Logs.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use super::log_line::JsonLine;
use crate::config::{Log, LogFormat};

/// The `[log] level` that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("log level {0:?} cannot be used: {1}")]
pub struct BadLevel(String, tracing_subscriber::filter::ParseError);

/// Sends logs to standard output, one line each. Called once, before anything else runs.
///
/// # Errors
/// When the level is not a filter.
pub fn start(log: &Log) -> Result<(), BadLevel> {
    let filter = EnvFilter::try_new(&log.level).map_err(|error| BadLevel(log.level.clone(), error))?;
    // Colours are for people: not for files, and not against NO_COLOR.
    let colors = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stdout).with_ansi(colors);
    // A second call would be a test's; the first one stays.
    let _ = match log.format {
        LogFormat::Json => builder.event_format(JsonLine).try_init(),
        LogFormat::Text => builder.try_init(),
    };
    Ok(())
}
