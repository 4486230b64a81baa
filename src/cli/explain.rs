//! `tidegate explain`.

use std::process::ExitCode;

use reqwest::StatusCode;

use super::{gateway, output, time};
use crate::{
    concurrent::random_source::RandomSource,
    config::{Config, ConfigPart, Source},
    domain::clock::Clock,
    proxy::{
        Tables,
        explain::{ExplainQuery, explain},
    },
};

/// Runs `tidegate explain`: asks the gateway that runs with this configuration. Without a running gateway, explains the route
/// from the configuration alone.
pub(super) fn run(source: &Source, question: ExplainQuery) -> ExitCode {
    let known = match output::load_known(source, ConfigPart::Listeners) {
        Ok(known) => known,
        Err(code) => return code,
    };
    let config = known.config;
    match ask(&config, &question) {
        Ok((StatusCode::OK, text)) => {
            output::print(text.trim_end());
            ExitCode::SUCCESS
        }
        Ok((_, text)) => output::fail(text.trim_end()),
        Err(why) => match known.faults {
            Some(report) => {
                output::print_remark(format_args!(
                    "{why}, and the configuration has faults, so it cannot answer either:"
                ));
                output::refuse(&report)
            }
            None => offline(&config, &question, &why),
        },
    }
}

fn ask(config: &Config, question: &ExplainQuery) -> Result<(StatusCode, String), String> {
    let listen = gateway::reachable(&config.server.admin_listen);
    let mut asked = vec![("key", &*question.key), ("model", &question.model), ("surface", question.surface.name())];
    asked.extend(question.cache_key.as_deref().map(|text| ("cache_key", text)));
    gateway::get(&listen, false, "/explain", &asked, async |answer| Ok((answer.status(), answer.text().await?)))
        .map_err(|_| format!("nothing answers at {listen}"))
}

fn offline(config: &Config, question: &ExplainQuery, why: &str) -> ExitCode {
    let tables = match Tables::for_commands(config) {
        Ok(tables) => tables,
        Err(error) => return output::fail(error),
    };
    let now = time::millis(Clock::system().since_epoch());
    match explain(&tables, &RandomSource::seeded(0), now, question) {
        Ok(text) => {
            output::print(format_args!("offline: without health and pins ({why}); every credential counts as set"));
            output::print(text.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => output::fail(error),
    }
}
