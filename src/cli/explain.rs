//! `tidegate explain`.

use std::{process::ExitCode, time::Duration};

use reqwest::{StatusCode, Url};
use tokio::runtime::Builder;

use super::{healthcheck::reachable, output, time};
use crate::{
    concurrent::random_source::RandomSource,
    config::{Config, ConfigPart, Listen, Source},
    domain::clock::Clock,
    proxy::{
        Tables,
        explain::{ExplainQuery, explain},
    },
};

/// A running gateway answers at once, and a person waits for the command.
const WITHIN: Duration = Duration::from_secs(5);

/// Asks the gateway that runs with this configuration. Without a running gateway, explains the route from the configuration alone.
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
                output::note(format_args!("{why}, and the configuration has faults, so it cannot answer either:"));
                output::refuse(&report)
            }
            None => offline(&config, &question, &why),
        },
    }
}

fn ask(config: &Config, question: &ExplainQuery) -> Result<(StatusCode, String), String> {
    let listen = reachable(&config.server.admin_listen);
    let host = listen.address().map_or_else(|| "localhost".to_owned(), |address| address.to_string());
    let mut asked = vec![("key", &*question.key), ("model", &question.model), ("surface", question.surface.name())];
    asked.extend(question.cache_key.as_deref().map(|text| ("cache_key", text)));
    let url = Url::parse_with_params(&format!("http://{host}/explain"), asked).map_err(|error| error.to_string())?;
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let answer = runtime.block_on(async {
        let client = reqwest::Client::builder();
        #[cfg(unix)]
        let client = match &listen {
            Listen::Socket(path) => client.unix_socket(path.to_path_buf()),
            Listen::Address(_) => client,
        };
        let client = client.no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(WITHIN).build()?;
        let answer = client.get(url).send().await?;
        Ok::<_, reqwest::Error>((answer.status(), answer.text().await?))
    });
    answer.map_err(|_| format!("nothing answers at {listen}"))
}

fn offline(config: &Config, question: &ExplainQuery, why: &str) -> ExitCode {
    let tables = match Tables::at_rest(config) {
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
