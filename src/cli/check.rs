//! `tidegate check`.

use std::process::ExitCode;

use super::output;
use crate::{
    config::{EXIT_CONFIG, Source, summary},
    metrics::Metrics,
    proxy::{Tables, Tls},
};

/// Checks the configuration as far as that is possible without starting, and prints what would run.
pub(super) fn run(source: &Source) -> ExitCode {
    let config = match output::load(source) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    if let Err(error) = Tls::new(&config).and_then(|tls| Tables::new(&config, &tls, &Metrics::default(), None)) {
        output::fail(error);
        return ExitCode::from(EXIT_CONFIG);
    }
    output::print(summary(&config));
    ExitCode::SUCCESS
}
