//! The page on log fields against the source, where the fields come from, and against the log of a running gateway.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::Path,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{differences, page, quoted, root};
use crate::support::{
    client::Client,
    process::{Process, tidegate},
    upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, json},
};

/// The target of a request's log line.
const REQUEST: &str = "tidegate::request";
const KEY: &str = "tg-a-key-of-a-busy-gateway";

/// A gateway that has met every kind of event that a test can cause without harm to the machine.
pub(crate) struct BusyGateway {
    process: Process,
    listen: SocketAddr,
    admin: SocketAddr,
    _upstream: Upstream,
    folder: TempDir,
}

impl BusyGateway {
    pub(crate) async fn start() -> Self {
        let upstream = Upstream::scripted(|request| {
            let body = String::from_utf8_lossy(&request.body);
            vec![Step::Send(match () {
                () if body.contains("\"fails\"") => json("500 Internal Server Error", r#"{"error":{"code":"broken"}}"#),
                () if body.contains("\"refuses\"") => json("401 Unauthorized", "{}"),
                () if body.contains("\"stream\":true") => [STREAM, LAST_CHUNK].concat(),
                () => json("200 OK", &RESPONSE.replace(r#""model""#, r#""service_tier":"flex","model""#)),
            })]
        })
        .await;
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("tidegate.toml"), Self::configuration(&upstream.base_url(), "")).unwrap();
        let mut command = tidegate(folder.path());
        command.args(["serve", "--config", "tidegate.toml"]).env("A_SECRET", "sk-a-secret-of-an-upstream");
        command.env("A_KEY", KEY).env("ANOTHER_KEY", format!("{KEY}-2"));
        let mut process = Process::start(&mut command);
        let (listen, admin) = (process.ready(), process.admin());
        let mut busy = Self { process, listen, admin, _upstream: upstream, folder };
        busy.be_asked().await;
        busy.be_reloaded();
        busy
    }

    fn configuration(base_url: &str, rest: &str) -> String {
        format!(
            r#"
[server]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
[timeouts]
first_byte_s = 1
drain_delay_s = 0
[routing]
retry_percent = 0
[health]
consecutive_faults = 1
[[upstreams]]
name = "up"
base_url = "{base_url}"
credentials = [{{ env = "A_SECRET" }}]
[[upstreams]]
name = "idle"
base_url = "{base_url}"
credentials = [{{ env = "NOT_SET", optional = true }}]
[[models]]
name = "*"
targets = [{{ upstream = "up" }}]
[[prices]]
upstream = "up"
model = "*"
currency = "CNY"
input = 1
output = 1
[[keys]]
name = "a"
secret = {{ env = "A_KEY" }}
budgets = ["0.00001CNY/day"]
[[keys]]
name = "limited"
secret = {{ env = "ANOTHER_KEY" }}
rpm = 1
{rest}"#
        )
    }

    async fn ask(&self, key: &str, path: &str, body: &str) -> u16 {
        let mut client = Client::connect(self.listen).await;
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\n\r\n"
        );
        client.send(format!("{head}{body}")).await;
        client.answer().await.status
    }

    async fn be_asked(&self) {
        let create = "/v1/responses";
        assert_eq!(self.ask(&format!("{KEY}-2"), create, r#"{"model":"m"}"#).await, 200);
        assert_eq!(self.ask(&format!("{KEY}-2"), create, r#"{"model":"m"}"#).await, 429);
        for (key, path, body, status) in [
            ("an-unknown-key-of-a-client", create, "{}", 401),
            (KEY, "/v1/nothing", "{}", 404),
            (KEY, create, r#"{"model":"fails"}"#, 500),
            (KEY, create, r#"{"model":"refuses"}"#, 502),
            (KEY, create, r#"{"model":"m","stream":true}"#, 200),
            (KEY, create, r#"{"model":"m"}"#, 200),
        ] {
            assert_eq!(self.ask(key, path, body).await, status, "{path} {body}");
        }
        let mut malformed = Client::connect(self.listen).await;
        malformed.send("this is no HTTP\r\n\r\n").await;
        assert_eq!(malformed.answer().await.status, 400);
        // The upstream says nothing until the gateway's deadline.
        assert!(Client::connect(self.listen).await.closed().await);
    }

    fn be_reloaded(&mut self) {
        let file = self.folder.path().join("tidegate.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(
            &file,
            text.replace("rpm = 1", "rpm = 2\nmax_in_flight = 5").replace("[server]", "[server]\nworkers = 7"),
        )
        .unwrap();
        self.process.signal("HUP");
        self.process.logged("configuration reloaded");
        fs::write(&file, "[[upstreams]]\nnam = 1\n").unwrap();
        self.process.signal("HUP");
        self.process.logged("configuration refused");
    }

    pub(crate) async fn metrics(&self) -> String {
        String::from_utf8(Client::connect(self.admin).await.get("/metrics").await.body).unwrap()
    }

    /// Every line of the log, after the gateway has ended.
    fn lines(mut self) -> Vec<Value> {
        self.process.signal("TERM");
        self.process.logged("ended");
        let said = self.process.everything();
        said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// The fields of log lines, by the target of the line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Fields {
    request: BTreeSet<String>,
    others: BTreeSet<String>,
}

/// The arguments of a call; `text` begins behind the opening bracket.
fn arguments(text: &str) -> Vec<&str> {
    let (mut found, mut from, mut depth, mut chars) = (Vec::new(), 0, 1, text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                while let Some((_, c)) = chars.next() {
                    match c {
                        '\\' => drop(chars.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || (depth == 1 && c == ',') {
            found.push(text[from..at].trim());
            from = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    found.retain(|argument| !argument.is_empty());
    found
}

/// Adds the fields of every `tracing` macro call in a text.
fn fields(text: &str, into: &mut Fields) {
    for (at, _) in text.match_indices("tracing::") {
        let rest = &text[at + "tracing::".len()..];
        let name = rest.trim_start_matches('$').split('!').next().unwrap_or_default();
        if !["error", "warn", "info", "debug", "trace", "event", "span", "level"].contains(&name) {
            continue;
        }
        let Some((_, call)) = rest.split_once("!(") else { continue };
        let arguments = arguments(call);
        let of_request = arguments.iter().any(|argument| argument.starts_with("target:") && argument.contains(REQUEST));
        let into = if of_request { &mut into.request } else { &mut into.others };
        for argument in arguments.into_iter().filter(|argument| !argument.starts_with("target:")) {
            // The arguments behind the message belong to the message.
            if argument.starts_with('"') {
                break;
            }
            let name = argument.split_once('=').map_or(argument, |(name, _)| name);
            let name = name.trim().trim_start_matches(['%', '?']);
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || "_.".contains(c)), "{argument:?} is no field");
            into.insert(name.to_owned());
        }
    }
}

/// The fields of all lines that the source can write.
fn of_source() -> Fields {
    fn walk(folder: &Path, into: &mut Fields) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && name != "tests" {
                walk(&path, into);
            } else if name.ends_with(".rs") && name != "tests.rs" {
                let text = fs::read_to_string(&path).unwrap();
                assert!(
                    !text.contains("use tracing::{info") && !text.contains("use tracing::info"),
                    "{}",
                    path.display()
                );
                fields(text.split("#[cfg(test)]\nmod tests {").next().unwrap(), into);
            }
        }
    }
    let mut found = Fields::default();
    walk(&root().join("src"), &mut found);
    assert!(found.request.len() > 20 && found.others.len() > 20, "too few were found: {found:?}");
    found
}

/// The fields that the page lists, and those that it lists for every line.
fn documented() -> (Fields, BTreeSet<String>) {
    let page = page("docs/log-fields.md");
    let (mut said, mut of_all) = (Fields::default(), BTreeSet::new());
    for section in page.sections() {
        let into = match section.heading {
            "Log fields" => &mut of_all,
            "Fields of a request" => &mut said.request,
            "Fields of other lines" => &mut said.others,
            _ => continue,
        };
        for (_, rows) in section.tables() {
            for row in rows {
                assert!(row.len() == 2 && !row[1].is_empty(), "{row:?} has no meaning");
                for name in quoted(&row[0]) {
                    assert!(into.insert(name.to_owned()), "{name} stands twice");
                }
            }
        }
    }
    (said, of_all)
}

#[test]
fn the_page_on_log_fields_lists_each_field_of_the_source() {
    let (source, (said, _)) = (of_source(), documented());
    let map = |fields: &Fields| {
        let of = |names: &BTreeSet<String>, of: &'static str| {
            names.iter().map(|name| (format!("{of}: {name}"), String::new())).collect::<Vec<_>>()
        };
        let all = [of(&fields.request, "Fields of a request"), of(&fields.others, "Fields of other lines")];
        all.concat().into_iter().collect::<BTreeMap<_, _>>()
    };
    let faults = differences("docs/log-fields.md", &map(&source), &map(&said));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test]
async fn the_log_of_a_running_gateway_has_no_undocumented_fields() {
    let busy = BusyGateway::start().await;
    let lines = tokio::task::spawn_blocking(move || busy.lines()).await.unwrap();
    let (said, of_all) = documented();
    let (mut seen, mut faults) = (Fields::default(), BTreeSet::new());
    for line in lines {
        let target = line["target"].as_str().unwrap_or_default().to_owned();
        let is_request = target == REQUEST;
        if !target.starts_with("tidegate") {
            continue;
        }
        let known = if is_request { &said.request } else { &said.others };
        for name in line.as_object().unwrap().keys().filter(|name| !of_all.contains(*name)) {
            if !known.contains(name) {
                faults.insert(format!("{target}: {name}"));
            }
            if is_request {
                seen.request.insert(name.clone())
            } else {
                seen.others.insert(name.clone())
            };
        }
    }
    assert!(seen.request.len() > 15 && seen.others.len() > 10, "too few fields were seen: {seen:?}");
    assert!(faults.is_empty(), "docs/log-fields.md lacks {faults:#?}");
}

#[test]
fn every_form_of_a_log_field_is_parsed() {
    let mut found = Fields::default();
    let text = r#"
        tracing::warn!(%error, ?other, shorthand, name = f(a, "b, c"), file = %path.display(), "said {x}", x = 1);
        tracing::$level!(target: "tidegate::request", id = %outcome.id, streamed = outcome.streamed);
        tracing::info!("nothing");
        let x: tracing::Level = y;
    "#;
    fields(text, &mut found);
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let expected =
        Fields { request: set(&["id", "streamed"]), others: set(&["error", "other", "shorthand", "name", "file"]) };
    assert_eq!(found, expected);
}
