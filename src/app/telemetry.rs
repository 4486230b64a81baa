//! Sets up logging.

use std::{
    io::{self, IsTerminal},
    panic::{self, PanicHookInfo},
};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

pub use super::log_writer::Flush;
use super::{log_line::JsonLine, log_writer::LogWriter};
use crate::config::{Log, LogFormat};

/// Why logging cannot start: an invalid log level, or no thread.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The setting `[log] level` is not a valid filter.
    #[error("the log level {0:?} cannot be used: {1}")]
    Level(String, tracing_subscriber::filter::ParseError),
    /// The thread of the log writer cannot be started.
    #[error("Tidegate cannot start the thread that writes the log: {0}")]
    Thread(#[from] io::Error),
}

/// Starts logging: log lines, including panics, go to standard output. Called once, before anything else runs. The caller keeps
/// the returned [`Flush`]: dropping it writes the last lines.
///
/// # Errors
/// If the level is not a valid filter, or no thread can be started.
pub fn start(log: &Log) -> Result<Flush, LogError> {
    let filter = |level: &str| EnvFilter::try_new(level).map_err(|error| LogError::Level(log.level.clone(), error));
    let mut wanted = filter(&log.level)?;
    if wanted.max_level_hint().is_none_or(|most| most > LevelFilter::WARN) {
        // PostgreSQL sends a notice for every table that exists already. An operator can still turn them on: the last
        // directive wins.
        wanted = filter(&format!("sqlx::postgres::notice=warn,{}", log.level))?;
    }
    // Colours only for a terminal, and not if NO_COLOR is set.
    let colors = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (writer, flush) = LogWriter::start(io::stdout())?;
    let builder = tracing_subscriber::fmt().with_env_filter(wanted).with_writer(writer).with_ansi(colors);
    // Only a test calls this twice. The first subscriber stays.
    let _ = match log.format {
        LogFormat::Json => builder.event_format(JsonLine).try_init(),
        LogFormat::Text => builder.try_init(),
    };
    panic::set_hook(Box::new(log_panic));
    Ok(flush)
}

/// Logs a panic. Without this, only the lost connection would show the panic.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("?");
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("?");
    match panic.location() {
        Some(location) => tracing::error!(panic = message, %location, thread, "panicked: a thread stopped at a fault \
            inside Tidegate, and the work of this thread is lost. Report this line to the developers of Tidegate"),
        None => tracing::error!(
            panic = message,
            thread,
            "panicked: a thread stopped at a fault inside Tidegate, and the work of this thread is lost. Report this \
             line to the developers of Tidegate"
        ),
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
    fn a_panic_is_logged_with_its_location() {
        let lines = Lines::default();
        let log = lines.clone();
        let subscriber = tracing_subscriber::fmt().event_format(JsonLine).with_writer(move || log.clone()).finish();
        // Panics of other tests go to the previous hook.
        let before = Arc::new(panic::take_hook());
        let rest = Arc::clone(&before);
        panic::set_hook(Box::new(move |panic| {
            log_panic(panic);
            rest(panic);
        }));
        let line = line!() + 2;
        tracing::subscriber::with_default(subscriber, || {
            let _ = panic::catch_unwind(|| panic!("on \"purpose\" {}", 7));
        });
        panic::set_hook(Box::new(move |panic| before(panic)));
        let message: serde_json::Value = serde_json::from_slice(&lines.0.lock().unwrap()).unwrap();
        assert_eq!(message["level"], "ERROR");
        assert!(message["message"].as_str().unwrap().starts_with("panicked: "), "{message}");
        assert_eq!(message["panic"], "on \"purpose\" 7");
        assert!(message["location"].as_str().unwrap().starts_with(&format!("{}:{line}:", file!())), "{message}");
    }
}
