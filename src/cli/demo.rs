//! `tidegate demo`: the real gateway in front of simulated providers.

use std::{
    ffi::OsString,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use http::Uri;
use secrecy::{ExposeSecret, SecretString};

use super::{output, serve, simulate::Simulator};
use crate::{
    app::telemetry,
    auth,
    config::{self, Config, Listen, LogFormat, Source},
    domain::random::RandomBytes,
    simulator::Personality,
};

/// Default address of the data plane.
const LISTEN: &str = "127.0.0.1:8080";

/// Runs `tidegate demo`: a gateway in front of simulated providers, until Ctrl-C.
pub(super) fn run(listen: Option<SocketAddr>, admin_listen: SocketAddr) -> ExitCode {
    let listen = match listen.map_or_else(listen_of_environment, Ok) {
        Ok(listen) => listen,
        Err(why) => return output::fail(why),
    };
    let simulator = match Simulator::start((Ipv4Addr::LOCALHOST, 0).into()) {
        Ok(simulator) => simulator,
        Err(error) => return output::fail(format_args!("the simulated providers cannot be started: {error}")),
    };
    let key = match auth::make_key(RandomBytes::system()) {
        Ok(key) => key,
        Err(error) => return output::fail(error),
    };
    let mut config = match configuration(&key, simulator.address) {
        Ok(config) => config,
        Err(code) => return code,
    };
    config.server.listen = listen.into();
    config.server.admin_listen = admin_listen.into();
    let data = DataDir(config.server.data_dir.clone());
    let _flush = match telemetry::start(&config.log) {
        Ok(flush) => flush,
        Err(error) => return output::fail(error),
    };
    let models: Vec<_> = config.models.iter().map(|model| model.name.to_string()).collect();
    let (running, ending) = match serve::start(config, None) {
        Ok(started) => started,
        Err(code) => {
            output::fail("to use other addresses: tidegate demo --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0");
            return code;
        }
    };
    output::print(greeting(&running.listen, &running.admin_listen, key.expose_secret(), &models));
    let code = serve::wait(running, ending);
    drop(data);
    code
}

/// Returns the address in `TIDEGATE_LISTEN`, or the default address.
fn listen_of_environment() -> Result<SocketAddr, String> {
    let text = std::env::var("TIDEGATE_LISTEN").unwrap_or_default();
    let text = if text.is_empty() { LISTEN } else { &text };
    text.parse().map_err(|_| format!("the variable TIDEGATE_LISTEN is not an address and a port, such as {LISTEN}"))
}

/// Returns the built-in default with credentials for every provider, and with simulated providers as upstreams.
fn configuration(key: &SecretString, simulator: SocketAddr) -> Result<Config, ExitCode> {
    let env = |name: &str| match name {
        "DMXAPI_API_KEY" | "MODELVERSE_API_KEY" | "ACEDATA_API_KEY" => {
            Some(OsString::from(format!("simulated-{name}")))
        }
        "TIDEGATE_KEY" => Some(key.expose_secret().into()),
        _ => None,
    };
    let mut config = match config::load(&Source::BuiltIn, &env) {
        Ok(loaded) => loaded.config,
        Err(report) => return Err(output::refuse(&report)),
    };
    for upstream in &mut config.upstreams {
        let personality = Personality::ALL.iter().find(|personality| personality.name() == &*upstream.name);
        let base = personality.map_or("", |personality| personality.base_path());
        upstream.base_url = match Uri::try_from(format!("http://{simulator}{base}")) {
            Ok(url) => url,
            Err(error) => return Err(output::fail(error)),
        };
    }
    // A demo leaves no data behind, and a person reads its log.
    config.server.data_dir = std::env::temp_dir().join(format!("tidegate-demo-{}", std::process::id()));
    config.log.format = LogFormat::Text;
    // A demo has no load balancer in front of it.
    config.timeouts.drain_delay = Duration::ZERO;
    Ok(config)
}

/// The data folder of a demo, which is removed at its end.
struct DataDir(PathBuf);

impl Drop for DataDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns the text for a new user. Every example works as printed. No line is indented, because here-documents and Python would
/// break.
fn greeting(listen: &Listen, admin: &Listen, key: &str, models: &[String]) -> String {
    let models = models.join("  ");
    format!(
        r#"
Tidegate runs on http://{listen} in front of three simulated providers. Nothing leaves this machine.

Key     {key}
Models  {models}
        (* = any name; `modelverse/gpt-4o` asks one provider directly)
Admin   http://{admin}/metrics  http://{admin}/readyz

# curl
curl -N http://{listen}/v1/responses -H 'Authorization: Bearer {key}' \
  -H 'Content-Type: application/json' \
  -d '{{"model":"gpt-5-mini","input":"Say hello","stream":true}}'

# openai-python (pip install openai)
python3 - <<'END'
from openai import OpenAI
client = OpenAI(base_url="http://{listen}/v1", api_key="{key}")
for event in client.responses.create(model="gpt-5-mini", input="Say hello", stream=True):
    if event.type == "response.output_text.delta":
        print(event.delta, end="", flush=True)
print()
END

# openai-node (npm install openai)
cat > hello.mjs <<'END'
import OpenAI from "openai";
const client = new OpenAI({{ baseURL: "http://{listen}/v1", apiKey: "{key}" }});
const response = await client.responses.create({{ model: "gpt-5-mini", input: "Say hello" }});
console.log(response.output_text);
END
node hello.mjs

# Codex (npm install -g @openai/codex)
TIDEGATE_KEY={key} codex exec --skip-git-repo-check -m gpt-5-mini -c model_provider=tidegate \
  -c 'model_providers.tidegate={{name="tidegate",base_url="http://{listen}/v1",env_key="TIDEGATE_KEY"}}' \
  "Say hello" </dev/null

Press Ctrl-C to stop. The log follows, with one line for each request.
"#
    )
}
