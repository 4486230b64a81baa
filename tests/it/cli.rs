//! The command line, run as the real binary.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, process::Command};

use tempfile::TempDir;
use tidegate::{
    app::{self, AlertTimes, StartContext},
    config::Listen,
    domain::{clock::Clock, random::RandomBytes},
    store::journal::SystemDisk,
};

use crate::support::{
    client::Client,
    gateway::UPSTREAM_KEY,
    process::{Process, output_text, run, tidegate},
    upstream::{RESPONSE, Step, Upstream, json},
};

const KEY: &str = "sk-a-key-of-the-operators";

fn minimal(upstream: &str, keys: &str) -> String {
    format!(
        r#"
[server]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
[[upstreams]]
name = "up"
base_url = "{upstream}"
credentials = [{{ env = "UP_KEY" }}]
[[models]]
name = "smart"
targets = [{{ upstream = "up", model = "real" }}]
{keys}
"#
    )
}

#[test]
fn without_an_upstream_the_start_fails_and_names_the_variables_to_set() {
    let folder = TempDir::new().unwrap();
    let output = run(tidegate(folder.path()).arg("serve"));
    assert_eq!(output.status.code(), Some(78));
    let said = output_text(&output);
    for word in ["DMXAPI_API_KEY", "MODELVERSE_API_KEY", "ACEDATA_API_KEY", "tidegate demo"] {
        assert!(said.contains(word), "{word} in:\n{said}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a file was created");
}

#[test]
fn all_faults_of_a_configuration_are_reported_at_once_and_nothing_starts() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("bad.toml");
    let text = minimal(
        "http://127.0.0.1:1/v1/responses",
        "[[keys]]\nname = \"a\"\nsecret = { env = \"NOT_SET\" }\nmodells = []\n",
    );
    fs::write(&file, text).unwrap();
    let mut command = tidegate(folder.path());
    let output = run(command.args(["serve", "--config"]).arg(&file).env("UP_KEY", UPSTREAM_KEY));
    assert_eq!(output.status.code(), Some(78));
    let said = output_text(&output);
    for word in ["bad.toml:7:12", "/responses", "NOT_SET", "modells"] {
        assert!(said.contains(word), "{word} in:\n{said}");
    }
    assert!(!said.contains(UPSTREAM_KEY), "{said}");
    assert!(!folder.path().join("data").exists(), "a data folder was created");
}

#[test]
fn check_prints_the_effective_configuration_without_secrets() {
    let folder = TempDir::new().unwrap();
    let mut command = tidegate(folder.path());
    let output = run(command.arg("check").env("ACEDATA_API_KEY", UPSTREAM_KEY).env("TIDEGATE_KEY", KEY));
    let said = output_text(&output);
    assert!(output.status.success(), "{said}");
    for word in ["https://api.acedata.cloud/openai", "ACEDATA_API_KEY", "gpt-5.2-pro", "DMXAPI_API_KEY"] {
        assert!(said.contains(word), "{word} in:\n{said}");
    }
    assert!(!said.contains(UPSTREAM_KEY) && !said.contains(KEY), "{said}");
    let memory = said.lines().find(|line| line.starts_with("memory ")).unwrap_or_else(|| panic!("{said}"));
    for part in ["request bodies 512 MiB", "10000 connections of ", " MiB", " KiB"] {
        assert!(memory.contains(part), "{memory}");
    }
    assert!(!folder.path().join("data").exists());
}

#[test]
fn check_lists_the_models_that_a_key_with_a_budget_cannot_use() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tidegate.toml");
    let check = |money: &str| {
        let text = minimal(
            "http://127.0.0.1:1/v1",
            &format!(
                r#"
[[models]]
name = "free"
targets = [{{ upstream = "up", model = "free" }}]
[[models]]
name = "no-price"
targets = [{{ upstream = "up" }}]
[[models]]
name = "priced-*"
targets = [{{ upstream = "up" }}]
[[models]]
name = "*"
targets = [{{ upstream = "up" }}]
[[prices]]
upstream = "up"
model = "free"
currency = "CNY"
per_call = 0
[[prices]]
upstream = "up"
model = "priced-*"
currency = "CNY"
per_call = 1
[money]
{money}
[[groups]]
name = "team"
budgets = ["1CNY/day"]
[[keys]]
name = "all"
secret = {{ env = "A_KEY" }}
budgets = ["1CNY/day"]
[[keys]]
name = "some"
secret = {{ env = "B_KEY" }}
group = "team"
models = ["free", "no-price", "priced-a", "other"]
[[keys]]
name = "fine"
secret = {{ env = "C_KEY" }}
group = "team"
models = ["free", "priced-*"]
[[keys]]
name = "without-budget"
secret = {{ env = "D_KEY" }}
"#
            ),
        );
        fs::write(&file, text).unwrap();
        let mut command = tidegate(folder.path());
        command.arg("check").env("TIDEGATE_CONFIG", &file).env("UP_KEY", UPSTREAM_KEY);
        for key in ["A_KEY", "B_KEY", "C_KEY", "D_KEY"] {
            command.env(key, format!("{KEY}-{key}"));
        }
        let output = run(&mut command);
        assert!(output.status.success(), "{}", output_text(&output));
        output_text(&output)
    };
    let told = check("");
    let (_, told) = told.split_once("without a price: ").unwrap_or_else(|| panic!("{told}"));
    assert!(told.contains("400 unpriced_model") && told.contains("`unpriced = \"allow\"`"), "{told}");
    for line in [
        "  all: smart (at up), no-price (at up), * (names without a price at up)",
        "  some: no-price (at up), other (at up)",
    ] {
        assert!(told.lines().any(|told| told == line), "{line} in:\n{told}");
    }
    assert!(!told.contains("fine") && !told.contains("without-budget"), "{told}");
    assert!(!check("unpriced = \"allow\"").contains("unpriced_model"));
}

#[test]
fn the_printed_schema_is_json() {
    let folder = TempDir::new().unwrap();
    let output = run(tidegate(folder.path()).args(["config", "schema"]));
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(schema["properties"]["upstreams"].is_object(), "{schema}");
}

#[tokio::test]
async fn serve_forwards_requests_answers_health_checks_and_stops_at_once_when_idle() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tidegate.toml");
    fs::write(&file, minimal(&upstream.base_url(), "[[keys]]\nname = \"a\"\nsecret = { env = \"A_KEY\" }\n")).unwrap();
    let with = |arguments: &[&str]| {
        let mut command = tidegate(folder.path());
        command.args(arguments).env("TIDEGATE_CONFIG", &file).env("UP_KEY", UPSTREAM_KEY).env("A_KEY", KEY);
        command
    };
    let mut process = Process::start(&mut with(&["serve"]));
    let address = process.ready();
    let body = r#"{"model":"smart"}"#;
    let request = format!(
        "POST /v1/responses?secret-query=1 HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut client = Client::connect(address).await;
    client.send(request).await;
    assert_eq!(client.answer().await.body, RESPONSE.as_bytes());
    assert_eq!(upstream.request().await.line, "POST /up/responses?secret-query=1 HTTP/1.1");
    let line = process.line(|line| line.contains("tidegate::request"));
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    for (field, value) in [("end", "completed"), ("key", "a"), ("model", "smart"), ("upstream_model", "real")] {
        assert_eq!(line[field], value, "{line}");
    }
    assert_eq!((&line["input_tokens"], &line["status"]), (&3.into(), &200.into()), "{line}");

    let healthy = run(with(&["healthcheck"]).env("TIDEGATE_LISTEN", address.to_string()));
    assert!(healthy.status.success(), "{}", output_text(&healthy));

    process.signal("INT");
    assert_eq!(process.exit(), Some(0));
    let unhealthy = run(with(&["healthcheck"]).env("TIDEGATE_LISTEN", address.to_string()));
    assert_eq!(unhealthy.status.code(), Some(1));
    let log = process.everything();
    for secret in [KEY, UPSTREAM_KEY, "secret-query"] {
        assert!(!log.contains(secret), "{secret} in:\n{log}");
    }
}

#[tokio::test]
async fn each_api_request_has_one_line_in_the_log() {
    let request_ids = ["req-of-theirs".to_owned(), "x".repeat(129), "two words".to_owned()];
    let mut answers = request_ids.into_iter();
    let upstream = Upstream::scripted(move |_| {
        let head = format!("HTTP/1.1 200 OK\r\nx-request-id: {}\r\n", answers.next().unwrap());
        vec![Step::Send(format!("{head}content-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}").into())]
    })
    .await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tidegate.toml");
    fs::write(&file, minimal(&upstream.base_url(), "[[keys]]\nname = \"a\"\nsecret = { env = \"A_KEY\" }\n")).unwrap();
    let mut command = tidegate(folder.path());
    command.args(["serve", "--config"]).arg(&file).env("UP_KEY", UPSTREAM_KEY).env("A_KEY", KEY);
    let mut process = Process::start(&mut command);
    let mut client = Client::connect(process.ready()).await;
    let mut ask = async |line: &str, body: &str| {
        let length = body.len();
        let head =
            format!("{line} HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\ncontent-length: {length}\r\n\r\n");
        client.send(head + body).await;
        let answer = client.answer().await;
        let line = process.line(|line| line.contains("tidegate::request"));
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        // The log has Tidegate's own id, also where the client got the upstream's id beside it.
        assert_eq!(answer.header("x-tidegate-request-id"), line["id"].as_str(), "{line}");
        assert_eq!((&line["status"], &line["key"]), (&answer.status.into(), &"a".into()), "{line}");
        line
    };
    for (line, end) in
        [("GET /v1/models", "completed"), ("GET /v1/models/smart", "completed"), ("GET /v1/models/none", "refused")]
    {
        assert_eq!(ask(line, "").await["end"], end, "{line}");
    }
    // A malformed id is not logged: an upstream could write pages into the log with it.
    for kept in [Some("req-of-theirs"), None, None] {
        let line = ask("POST /v1/responses", r#"{"model":"smart"}"#).await;
        assert_eq!(line["upstream_request_id"].as_str(), kept, "{line}");
    }
}

/// `tidegate serve` without any configured client key.
fn serve_without_keys(folder: &TempDir, upstream: &Upstream) -> Command {
    let file = folder.path().join("tidegate.toml");
    fs::write(&file, minimal(&upstream.base_url(), "")).unwrap();
    let mut command = tidegate(folder.path());
    command.args(["serve", "--config"]).arg(&file).env("UP_KEY", UPSTREAM_KEY);
    command
}

#[tokio::test]
async fn the_first_start_creates_a_key_and_the_next_start_knows_it() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = TempDir::new().unwrap();
    let serve = || serve_without_keys(&folder, &upstream);
    let mut process = Process::start(&mut serve());
    let path = process.logged("no client key is configured: Tidegate created one")["file"].as_str().unwrap().to_owned();
    process.ready();
    process.signal("INT");
    assert_eq!(process.exit(), Some(0));

    let path = folder.path().join(path);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let key = fs::read_to_string(&path).unwrap().trim().to_owned();
    assert!(!process.everything().contains(&key), "the key is in the log");
    // The file may be moved away: the gateway needs only the hash of the key.
    fs::remove_file(&path).unwrap();

    let mut process = Process::start(&mut serve());
    let address = process.ready();
    for (key, status) in [(&*key, 200), ("tg-another", 401)] {
        let mut client = Client::connect(address).await;
        client.send(format!("GET /v1/models HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {key}\r\n\r\n")).await;
        assert_eq!(client.answer().await.status, status);
    }
    assert!(!path.exists(), "a second key was created");
}

#[tokio::test]
async fn a_port_or_data_folder_in_use_is_reported_by_name() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = TempDir::new().unwrap();
    let serve = || serve_without_keys(&folder, &upstream);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(serve().env("TIDEGATE_LISTEN", &address));
    assert_eq!(output.status.code(), Some(1));
    assert!(output_text(&output).contains(&address), "{}", output_text(&output));

    // A gateway shares its port between its own threads. For other processes the port is in use.
    let mut first = Process::start(&mut serve());
    let address = first.ready().to_string();
    let output = run(serve().env("TIDEGATE_LISTEN", &address).env("TIDEGATE_DATA_DIR", "other"));
    assert_eq!(output.status.code(), Some(1));
    assert!(output_text(&output).contains(&address), "{}", output_text(&output));

    let output = run(&mut serve());
    assert_eq!(output.status.code(), Some(1));
    assert!(output_text(&output).contains("in use by another process"), "{}", output_text(&output));
}

#[tokio::test]
async fn the_demo_prints_examples_that_work() {
    let folder = TempDir::new().unwrap();
    let mut command = tidegate(folder.path());
    let mut process =
        Process::start(command.args(["demo", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]));
    let key = process.line(|line| line.starts_with("Key "));
    let key = key.split_whitespace().nth(1).unwrap();
    let curl = process.line(|line| line.trim_start().starts_with("curl -N"));
    let url = curl.split_whitespace().nth(2).unwrap();
    let address = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    let body = process.line(|line| line.trim_start().starts_with("-d '"));
    let body = body.trim().strip_prefix("-d '").unwrap().strip_suffix('\'').unwrap().to_owned();
    let mut client = Client::connect(address.parse().unwrap()).await;
    let length = body.len();
    client
        .send(format!("POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\n\r\n{body}"))
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.whole), (200, true));
    let text = String::from_utf8(answer.body).unwrap();
    assert!(text.contains("event: response.completed"), "{text}");
    process.signal("INT");
    assert_eq!(process.exit(), Some(0));
}

#[tokio::test]
async fn the_simulator_runs_alone_and_ends_on_sigterm() {
    let folder = TempDir::new().unwrap();
    let mut process = Process::start(tidegate(folder.path()).args(["simulate", "--listen", "127.0.0.1:0"]));
    let line = process.line(|line| line.contains("acedata"));
    let url = line.split_whitespace().nth(1).unwrap();
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut client = Client::connect(address.parse().unwrap()).await;
    assert_eq!(client.get(&format!("/{path}/models")).await.status, 200);
    process.signal("TERM");
    assert_eq!(process.exit(), Some(0));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_log_without_a_reader_does_not_end_the_process() {
    use std::io::{BufRead, BufReader};

    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tidegate.toml");
    fs::write(&file, minimal(&upstream.base_url(), "[[keys]]\nname = \"a\"\nsecret = { env = \"A_KEY\" }")).unwrap();
    let mut command = tidegate(folder.path());
    command.args(["serve", "--config"]).arg(&file).env("UP_KEY", UPSTREAM_KEY).env("A_KEY", KEY);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find(|line| line.contains("\"ready: ")).unwrap();
    drop(lines);
    // Both pipes have lost their readers now.
    drop(child.stderr.take());
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address = line["listen"].as_str().unwrap().parse().unwrap();
    for _ in 0..3 {
        let mut client = Client::connect(address).await;
        let body = r#"{"model":"smart"}"#;
        let length = body.len();
        client
            .send(format!(
                "POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\ncontent-length: {length}\r\n\r\n{body}"
            ))
            .await;
        let answer = client.answer().await;
        assert_eq!((answer.status, &answer.body[..]), (200, RESPONSE.as_bytes()));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The real start context, with a terminal.
fn start_context() -> StartContext {
    StartContext {
        clock: Clock::system(),
        random_bytes: RandomBytes::system(),
        disk: &SystemDisk,
        terminal: true,
        alert_times: AlertTimes::default(),
    }
}

#[test]
fn a_failed_start_leaves_no_first_key_that_no_operator_saw() {
    let folder = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = |listen| {
        let mut config = crate::support::gateway::config("http://127.0.0.1:1/v1");
        config.keys.clear();
        config.server.data_dir = folder.path().to_owned();
        config.server.listen = Listen::Address(listen);
        config
    };
    app::start(config(taken.local_addr().unwrap()), None, start_context()).unwrap_err();
    let running = app::start(config("127.0.0.1:0".parse().unwrap()), None, start_context()).unwrap();
    assert!(running.first_key.is_some(), "the first start left a key that no operator saw");
    running.handle().stop();
    running.join();
}

#[test]
fn no_first_key_is_created_when_the_store_cannot_be_read() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("ledger.db")).unwrap();
    let mut config = crate::support::gateway::config("http://127.0.0.1:1/v1");
    config.keys.clear();
    config.server.data_dir = folder.path().to_owned();
    let running = app::start(config, None, start_context()).unwrap();
    assert!(running.first_key.is_none() && !folder.path().join("first-key").exists());
    running.handle().stop();
    running.join();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn silent_clients_leave_file_descriptors_for_active_clients() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tidegate.toml");
    fs::write(&file, minimal(&upstream.base_url(), "[[keys]]\nname = \"a\"\nsecret = { env = \"A_KEY\" }")).unwrap();
    let plain = tidegate(folder.path());
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -n 256; exec \"$@\"", "sh"]).arg(plain.get_program());
    command.args(["serve", "--config"]).arg(&file).env("UP_KEY", UPSTREAM_KEY).env("A_KEY", KEY);
    command.current_dir(folder.path()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut process = Process::start(&mut command);
    let address = process.ready();
    let mut served = Client::connect(address).await;
    let body = r#"{"model":"smart"}"#;
    let request = format!(
        "POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    served.send("GET /healthz HTTP/1.1\r\nhost: t\r\n\r\n").await;
    assert_eq!(served.answer().await.status, 200);
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(Client::connect(address).await);
    }
    served.send(request).await;
    assert_eq!(served.answer().await.status, 200);
}
