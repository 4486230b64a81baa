//! `tidegate config …`.

use std::process::ExitCode;

use super::output;
use crate::config;

/// Prints the JSON Schema of the configuration.
pub(super) fn schema() -> ExitCode {
    output::print(config::schema());
    ExitCode::SUCCESS
}

/// Prints the built-in default configuration.
pub(super) fn default() -> ExitCode {
    output::print(config::BUILT_IN.trim_end());
    ExitCode::SUCCESS
}
