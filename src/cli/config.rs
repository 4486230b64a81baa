//! `tidegate config …`.

use std::process::ExitCode;

use super::output;
use crate::config;

/// Runs `tidegate config schema`: prints the JSON Schema of the configuration.
pub(super) fn schema() -> ExitCode {
    output::print(config::schema());
    ExitCode::SUCCESS
}

/// Runs `tidegate config default`: prints the built-in default configuration.
pub(super) fn default() -> ExitCode {
    output::print(config::BUILT_IN.trim_end());
    ExitCode::SUCCESS
}
