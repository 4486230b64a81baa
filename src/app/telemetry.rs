//! Logs.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

pub use super::log_writer::Flush;
use super::{log_line::JsonLine, log_writer::LogWriter};
use crate::config::{Log, LogFormat};

/// Why logs cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The `[log] level` cannot be read.
    #[error("log level {0:?} cannot be used: {1}")]
    Level(String, tracing_subscriber::filter::ParseError),
    /// No thread for them.
    #[error("the log cannot be written: {0}")]
    Thread(#[from] io::Error),
}

/// Sends logs to standard output, one line each. Called once, before anything else runs. What it returns has to be
/// kept: the last lines are written when it is dropped.
///
/// # Errors
/// When the level is not a filter, or no thread can be started.
pub fn start(log: &Log) -> Result<Flush, LogError> {
    let filter = EnvFilter::try_new(&log.level).map_err(|error| LogError::Level(log.level.clone(), error))?;
    // Colours are for people: not for files, and not against NO_COLOR.
    let colors = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (writer, flush) = LogWriter::start(io::stdout())?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colors);
    // A second call would be a test's; the first one stays.
    let _ = match log.format {
        LogFormat::Json => builder.event_format(JsonLine).try_init(),
        LogFormat::Text => builder.try_init(),
    };
    Ok(flush)
}
