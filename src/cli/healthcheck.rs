//! `tidegate healthcheck`.

use std::{error::Error, process::ExitCode};

use super::{gateway, output};
use crate::config::{ConfigPart, PartialConfig, Source};

/// Runs `tidegate healthcheck`: asks the gateway that runs with this configuration whether it is alive.
pub(super) fn run(source: &Source) -> ExitCode {
    // A faulty file or a missing secret must not fail the check: the gateway keeps serving while a person edits its file.
    let PartialConfig { config, tls, .. } = match output::load_known(source, ConfigPart::Listeners) {
        Ok(known) => known,
        Err(code) => return code,
    };
    let listen = gateway::reachable(&config.server.listen);
    match gateway::get(&listen, tls, "/healthz", &[], async |answer| Ok(answer.status())) {
        Ok(status) if status.is_success() => ExitCode::SUCCESS,
        Ok(status) => output::fail(format_args!("{listen} answers {status}")),
        Err(error) => output::fail(format_args!("{listen} does not answer: {}", cause(&*error))),
    }
}

/// Returns the innermost cause, which names the fault of the network. The outer ones only repeat the URL.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    std::iter::successors(Some(error), |error| (*error).source()).last().unwrap_or(error)
}
