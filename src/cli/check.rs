//! `tidegate check`.

use std::process::ExitCode;

use super::output;
use crate::{
    app::Memory,
    config::{EXIT_CONFIG, Source, summary},
    proxy::Tables,
    store::journal,
};

/// Checks the configuration as far as that is possible without starting, and prints what would run.
pub(super) fn run(source: &Source) -> ExitCode {
    let config = match output::load(source) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    if let Err(error) = Tables::at_rest(&config) {
        output::fail(error);
        return ExitCode::from(EXIT_CONFIG);
    }
    let journal = format_args!(
        "the ledger's journal up to {} MiB; the ledger itself grows by some 300 bytes a request",
        journal::MOST >> 20
    );
    output::print(summary(&config, &Memory::new(&config, config.server.max_connections), &journal));
    ExitCode::SUCCESS
}
