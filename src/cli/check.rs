//! `tidegate check`.

use std::process::ExitCode;

use super::output;
use crate::{
    app::MemoryBounds,
    config::{EXIT_CONFIG, Source, summary},
    domain::clock::Clock,
    proxy::{Tables, cost},
    store::journal,
};

/// Runs `tidegate check`: checks the configuration as far as possible without a start, and prints a summary of it.
pub(super) fn run(source: &Source) -> ExitCode {
    let config = match output::load(source) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    let tables = match Tables::for_commands(&config) {
        Ok(tables) => tables,
        Err(error) => {
            output::fail(error);
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let journal = format_args!(
        "the ledger's journal: up to {} MiB; the ledger itself grows by about 300 bytes per request",
        journal::MOST >> 20
    );
    output::print(summary(&config, &MemoryBounds::new(&config, config.server.max_connections), &journal));
    let now = u64::try_from(Clock::system().since_epoch().as_millis()).unwrap_or(u64::MAX);
    let unpriced = cost::unpriced(&tables, &config, now);
    if !unpriced.is_empty() {
        output::print(format_args!(
            "\nwithout a price: clients get 400 unpriced_model, because these keys have a budget. Add [[prices]] (0 for a free model), \
             or set `unpriced = \"allow\"` in [money]\n{unpriced}"
        ));
    }
    ExitCode::SUCCESS
}
