//! Logs.

use std::{
    io::{self, IsTerminal},
    panic::{self, PanicHookInfo},
};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

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

/// Sends logs to standard output, one line each, and what a panic says among them. Called once, before anything else runs. What
/// it returns has to be kept: the last lines are written when it is dropped.
///
/// # Errors
/// When the level is not a filter, or no thread can be started.
pub fn start(log: &Log) -> Result<Flush, LogError> {
    let filter = |level: &str| EnvFilter::try_new(level).map_err(|error| LogError::Level(log.level.clone(), error));
    let mut wanted = filter(&log.level)?;
    if wanted.max_level_hint().is_none_or(|most| most > LevelFilter::WARN) {
        // PostgreSQL has one for every table that is there already. Whoever wants them names them: the last one counts.
        wanted = filter(&format!("sqlx::postgres::notice=warn,{}", log.level))?;
    }
    // Colours are for people: not for files, and not against NO_COLOR.
    let colors = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (writer, flush) = LogWriter::start(io::stdout())?;
    let builder = tracing_subscriber::fmt().with_env_filter(wanted).with_writer(writer).with_ansi(colors);
    // A second call would be a test's; the first one stays.
    let _ = match log.format {
        LogFormat::Json => builder.event_format(JsonLine).try_init(),
        LogFormat::Text => builder.try_init(),
    };
    panic::set_hook(Box::new(tell));
    Ok(flush)
}

/// A panic ends the connection that it happens on, without a word to anybody but this one.
fn tell(panic: &PanicHookInfo<'_>) {
    let said = panic.payload_as_str().unwrap_or("?");
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("?");
    match panic.location() {
        Some(location) => tracing::error!(panic = said, %location, thread, "panicked"),
        None => tracing::error!(panic = said, thread, "panicked"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Log lines in memory.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_goes_to_the_log_with_its_place() {
        let lines = Lines::default();
        let log = lines.clone();
        let subscriber = tracing_subscriber::fmt().event_format(JsonLine).with_writer(move || log.clone()).finish();
        // Panics of other tests go on to where they went before.
        let before = Arc::new(panic::take_hook());
        let rest = Arc::clone(&before);
        panic::set_hook(Box::new(move |panic| {
            tell(panic);
            rest(panic);
        }));
        let line = line!() + 2;
        tracing::subscriber::with_default(subscriber, || {
            let _ = panic::catch_unwind(|| panic!("on \"purpose\" {}", 7));
        });
        panic::set_hook(Box::new(move |panic| before(panic)));
        let said: serde_json::Value = serde_json::from_slice(&lines.0.lock().unwrap()).unwrap();
        assert_eq!((&said["level"], &said["message"]), (&"ERROR".into(), &"panicked".into()));
        assert_eq!(said["panic"], "on \"purpose\" 7");
        assert!(said["location"].as_str().unwrap().starts_with(&format!("{}:{line}:", file!())), "{said}");
    }
}
