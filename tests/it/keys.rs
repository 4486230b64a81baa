//! Keys in the store: the command line creates, changes and deletes them while gateways run.

use std::{fs, path::Path, time::Duration};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{sync::oneshot, time::Instant};

use crate::support::{
    client::{Answer, Client},
    database::{Postgres, until},
    gateway::KEY,
    process::{Process, output_text, run, tidegate},
    soon,
    upstream::{RESPONSE, STREAM, Step, Upstream, chunk, json},
};

/// A folder with a configuration. `more` comes first, so that it may add to `[server]`.
fn folder(upstream: &Upstream, more: &str, keys: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    write(folder.path(), upstream, more, keys);
    folder
}

fn write(folder: &Path, upstream: &Upstream, more: &str, keys: &str) {
    let text = format!(
        r#"
[server]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
data_dir = "data"
workers = 1
{more}
[[upstreams]]
name = "one"
base_url = "{}"
credentials = [{{ env = "UP_KEY" }}]
[[models]]
name = "smart"
targets = [{{ upstream = "one" }}]
[[groups]]
name = "team"
{keys}
"#,
        upstream.base_url()
    );
    fs::write(folder.join("tidegate.toml"), text).unwrap();
}

/// A price in dollars.
const PRICE: &str = "[[prices]]\nupstream = \"one\"\nmodel = \"smart\"\ncurrency = \"USD\"\nper_call = 1";

const OF_FILE: &str = "[[keys]]\nname = \"file\"\nsecret = { env = \"FILE_KEY\" }";

fn serve(folder: &Path) -> Process {
    let mut command = tidegate(folder);
    command.args(["serve", "--config", "tidegate.toml"]).env("UP_KEY", "sk-upstream-secret").env("FILE_KEY", KEY);
    Process::start(&mut command)
}

/// Runs `tidegate keys …` without the variables of credentials.
fn keys(folder: &Path, arguments: &[&str]) -> Result<String, String> {
    let mut command = tidegate(folder);
    command.args(["--config", "tidegate.toml", "keys"]).args(arguments).env("TIDEGATE_ACTOR", "ann");
    let output = run(&mut command);
    let printed = || String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() { Ok(printed()) } else { Err(output_text(&output)) }
}

async fn ask(address: std::net::SocketAddr, key: &str, more: &str) -> Answer {
    let mut client = Client::connect(address).await;
    let body = r#"{"model":"smart"}"#;
    let head = format!(
        "POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {key}\r\n{more}content-length: {}\r\n\r\n",
        body.len()
    );
    client.send([head.as_bytes(), body.as_bytes()].concat()).await;
    client.answer().await
}

/// Waits until requests with this key get this status, and returns the time that took.
async fn status_becomes(address: std::net::SocketAddr, key: &str, status: u16) -> Duration {
    let began = Instant::now();
    until(&format!("status {status}"), async || ask(address, key, "").await.status == status).await;
    began.elapsed()
}

/// A gateway notices a change within 2 s. The machine may be busy with other tests.
const NOTICED: Duration = Duration::from_secs(4);

#[tokio::test]
async fn keys_are_created_disabled_enabled_rotated_and_deleted_while_the_gateway_runs() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = folder(&upstream, "", OF_FILE);
    let folder = folder.path();
    let mut gateway = serve(folder);
    let address = gateway.ready();
    let unknown = ask(address, "tg-nobody-has-this-one", "").await;
    unknown.assert_final(401, "invalid_api_key", true);

    let key = keys(folder, &["create", "--name", "team-a", "--models", "smart", "--group", "team"]).unwrap();
    assert!(key.starts_with("tg-") && key.len() == 61, "{key}");
    assert!(status_becomes(address, &key, 200).await < NOTICED);
    assert_eq!(ask(address, KEY, "").await.status, 200, "the key of the file still works");
    keys(folder, &["disable", "team-a"]).unwrap();
    assert!(status_becomes(address, &key, 401).await < NOTICED);
    let disabled = ask(address, &key, "").await;
    assert_eq!(disabled.json(), unknown.json(), "the error must not reveal that the key exists");
    keys(folder, &["enable", "team-a"]).unwrap();
    status_becomes(address, &key, 200).await;

    let second = keys(folder, &["rotate", "team-a", "--grace", "1h"]).unwrap();
    status_becomes(address, &second, 200).await;
    assert_eq!(ask(address, &key, "").await.status, 200, "the previous secret still works");
    let third = keys(folder, &["rotate", "team-a", "--grace", "2s"]).unwrap();
    status_becomes(address, &third, 200).await;
    assert_eq!(ask(address, &key, "").await.status, 401, "only the latest previous secret still works");
    status_becomes(address, &second, 401).await;
    assert_eq!(ask(address, &third, "").await.status, 200);

    let shown: Value = serde_json::from_str(&keys(folder, &["show", "team-a", "--json"]).unwrap()).unwrap();
    let actions: Vec<_> =
        shown["audit"].as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["create", "disable", "enable", "rotate", "rotate"]);
    for pair in shown["audit"].as_array().unwrap().windows(2) {
        assert_eq!((&pair[0]["after"], &pair[1]["actor"]), (&pair[1]["before"], &Value::from("ann")));
    }
    let text = keys(folder, &["show", "team-a"]).unwrap();
    assert!(text.contains("create by ann") && text.contains("models"), "{text}");
    for secret in [&key, &second, &third] {
        assert!(!text.contains(secret.as_str()) && !shown.to_string().contains(secret.as_str()));
        let database = fs::read(folder.join("data/ledger.db")).unwrap();
        let wal = fs::read(folder.join("data/ledger.db-wal")).unwrap_or_default();
        for bytes in [database, wal, fs::read(folder.join("data/keys.json")).unwrap()] {
            assert!(
                !bytes.windows(secret.len()).any(|window| window == secret.as_bytes()),
                "the secret itself is stored"
            );
        }
    }
    let list = keys(folder, &["list"]).unwrap();
    assert!(list.contains("team-a") && list.contains("file") && list.contains(&third[..9]), "{list}");
    keys(folder, &["delete", "team-a", "--yes"]).unwrap();
    assert!(status_becomes(address, &third, 401).await < NOTICED);
    assert!(keys(folder, &["show", "team-a"]).unwrap().contains("deleted"));
    assert!(keys(folder, &["show", "team-b"]).unwrap_err().contains("no key has the name team-b"));
    gateway.signal("INT");
    assert_eq!(gateway.exit(), Some(0));
}

#[tokio::test]
async fn invalid_settings_of_a_key_are_reported_and_no_key_is_created() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = folder(&upstream, "", &format!("{OF_FILE}\n{PRICE}"));
    let folder = folder.path();
    for (arguments, said) in [
        (&["--models", "smrt"][..], "no model is called `smrt`; did you mean `smart`?"),
        (&["--upstreams", "two"], "no upstream is called `two`"),
        (&["--group", "nobody"], "no group is called `nobody`"),
        (&["--budget", "5"], "is not a budget: write an amount"),
        (&["--ip", "10.0.0.0/99"], "neither an IP address nor a network"),
        (&["--expires", "soon"], "30d, 12h, 30m, 90s"),
        (&["--rpm", "0"], "rpm"),
        (&["--max-in-flight", "0"], "max-in-flight"),
        (&["--on-client-gone", "wait"], "possible values: cancel, drain"),
        (&["--budget", "5CNY/day", "--budget", "6CNY/day"], "two budgets of the key have the same period day"),
        (
            &["--budget", "5CNY/day"],
            "a price is in USD and this budget is in CNY, but `cny_per_usd` in [money] is not set",
        ),
        (&["--expires", "2020-01-01"], "the key would be expired already"),
    ] {
        let error = keys(folder, &[&["create", "--name", "x"], arguments].concat()).unwrap_err();
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
    let error = keys(folder, &["create", "--name", &"x".repeat(129)]).unwrap_err();
    assert!(error.contains("a name has at most 128 bytes"), "{error}");
    assert_eq!(keys(folder, &["list", "--json"]).unwrap().matches("name").count(), 1);
    let error = keys(folder, &["create", "--name", "file"]).unwrap_err();
    assert!(error.contains("the key file is declared in tidegate.toml: change it there"), "{error}");
    for command in ["disable", "enable", "rotate", "delete"] {
        assert!(keys(folder, &[command, "file"]).unwrap_err().contains("is declared in tidegate.toml"));
    }
    // The commands still show such keys.
    let shown: Value = serde_json::from_str(&keys(folder, &["show", "file", "--json"]).unwrap()).unwrap();
    assert_eq!((&shown["declared_in"], &shown["audit"]), (&"tidegate.toml".into(), &Value::Array(Vec::new())));
    assert!(keys(folder, &["show", "file"]).unwrap().contains("declared in  tidegate.toml"));
    keys(folder, &["create", "--name", "x"]).unwrap();
    assert!(keys(folder, &["create", "--name", "x"]).unwrap_err().contains("the store already has a key of this name"));
}

/// Eight processes create a key each, and then change it. None has to try again, and no change is lost.
async fn change_keys_in_eight_processes(folder: &Path) {
    let each = (0..8).map(|nth| {
        let folder = folder.to_owned();
        tokio::task::spawn_blocking(move || {
            let name = format!("k{nth}");
            let made = keys(&folder, &["create", "--name", &name]).unwrap();
            keys(&folder, &["disable", &name]).unwrap();
            made
        })
    });
    let mut made = Vec::new();
    for one in each.collect::<Vec<_>>() {
        made.push(one.await.unwrap());
    }
    let list: Value = serde_json::from_str(&keys(folder, &["list", "--json"]).unwrap()).unwrap();
    for (nth, secret) in made.iter().enumerate() {
        let name = format!("k{nth}");
        let key = list.as_array().unwrap().iter().find(|key| key["name"] == *name).unwrap();
        assert_eq!(key["state"], "disabled", "{key}");
        assert!(secret.starts_with(key["prefix"].as_str().unwrap()), "{key}");
        let shown: Value = serde_json::from_str(&keys(folder, &["show", &name, "--json"]).unwrap()).unwrap();
        let actions: Vec<_> = shown["audit"].as_array().unwrap().iter().map(|entry| entry["action"].clone()).collect();
        assert_eq!(actions, ["create", "disable"], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_processes_may_change_keys_at_once() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let of_sqlite = folder(&upstream, "", OF_FILE);
    change_keys_in_eight_processes(of_sqlite.path()).await;
    let postgres = Postgres::start().await;
    let of_postgres = folder(&upstream, &format!("[store]\nurl = \"{}\"", postgres.url()), OF_FILE);
    change_keys_in_eight_processes(of_postgres.path()).await;
}

#[tokio::test]
async fn the_audit_names_a_user_without_a_name_by_number() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = folder(&upstream, "", OF_FILE);
    let folder = folder.path();
    let mut create = tidegate(folder);
    create.args(["--config", "tidegate.toml", "keys", "create", "--name", "a"]).env("HOSTNAME", "here");
    assert!(run(&mut create).status.success());
    let shown: Value = serde_json::from_str(&keys(folder, &["show", "a", "--json"]).unwrap()).unwrap();
    let uid = rustix::process::getuid().as_raw();
    assert_eq!(shown["audit"][0]["actor"], format!("uid {uid}@here"));
}

#[tokio::test]
async fn every_setting_of_a_key_is_stored_shown_and_enforced() {
    let body = [STREAM, &chunk(b"data: {\"type\":\"response.output_text.delta\"}\n\n")].concat();
    let (go, wait) = oneshot::channel();
    let usage = format!("data: {{\"type\":\"response.completed\",\"response\":{RESPONSE}}}\n\n");
    let mut steps = Some(vec![Step::Send(body), Step::Wait(wait), Step::Send(chunk(usage.as_bytes()))]);
    let upstream =
        Upstream::scripted(move |_| steps.take().unwrap_or_else(|| vec![Step::Send(json("200 OK", RESPONSE))])).await;
    let folder = folder(&upstream, "", &format!("{OF_FILE}\n{PRICE}"));
    let folder = folder.path();
    let mut gateway = serve(folder);
    let address = gateway.ready();
    let flags = "--name all --models smart --upstreams one --group team --expires 30d --rpm 60 --tpm 200000 \
                 --max-in-flight 5 --budget 3USD/month --budget 2USD/day --ip 127.0.0.1 --on-client-gone drain \
                 --require-usage";
    let flags: Vec<_> = flags.split_whitespace().collect();
    for wrong in ["smrt rpm=1", "smart", "smart rps=1", "smart budget=5CNY"] {
        let refused = keys(folder, &[&["create"], &*flags, &["--limit", wrong]].concat()).unwrap_err();
        assert!(refused.contains("no key was created"), "{wrong}: {refused}");
    }
    let limits = ["--starts-on", "15", "--limit", "sm* rpm=50 budget=9USD/week", "--limit", "one/* max_in_flight=1"];
    let key = keys(folder, &[&["create"], &*flags, &limits].concat()).unwrap();
    let text = keys(folder, &["show", "all"]).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.splitn(2, "  ").map(str::trim).collect()).collect();
    for expected in [
        ["name", "all"],
        ["state", "active"],
        ["models", "smart"],
        ["upstreams", "one"],
        ["group", "team"],
        ["rpm", "60"],
        ["tpm", "200000"],
        ["max_in_flight", "5"],
        ["budgets", "3USD/month, 2USD/day"],
        ["starts_on", "15"],
        ["limits", "sm* rpm=50 budget=9USD/week, one/* max_in_flight=1"],
        ["ips", "127.0.0.1"],
        ["on_client_gone", "drain"],
        ["require_usage", "true"],
    ] {
        assert!(lines.iter().any(|line| **line == expected), "{expected:?} in:\n{text}");
    }
    // The client leaves in the middle: the answer is drained, and its row has the real cost.
    let asked = async || {
        let mut client = Client::connect(address).await;
        let head = format!("POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {key}\r\n");
        client.send(format!("{head}content-length: 17\r\n\r\n{{\"model\":\"smart\"}}")).await;
        client.head().await
    };
    until("the key", async || asked().await.status == 200).await;
    let answer = asked().await;
    // The limit for the model is lower than the key's.
    assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("50"));
    go.send(()).unwrap();
    // The third request finds 2 dollars spent.
    until("the end of the budget", async || asked().await.status == 429).await;
    let rows = || -> Vec<Value> {
        let mut usage = tidegate(folder);
        let lines = output_text(&run(usage.args(["--config", "tidegate.toml", "usage", "--rows", "--json"])));
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    until("two rows", async || rows().len() == 2).await;
    let row = &rows()[0];
    let of_row = ["key", "group", "state", "end", "cost", "currency"].map(|name| row[name].as_str().unwrap());
    assert_eq!(of_row, ["all", "team", "exact", "client_gone", "1", "USD"]);
    // A repeated command changes nothing, and a deleted key keeps its history.
    keys(folder, &["enable", "all"]).unwrap();
    keys(folder, &["disable", "all"]).unwrap();
    assert_eq!(keys(folder, &["disable", "all"]).unwrap(), "all is disabled already");
    keys(folder, &["delete", "all", "--yes"]).unwrap();
    let shown: Value = serde_json::from_str(&keys(folder, &["show", "all", "--json"]).unwrap()).unwrap();
    let actions: Vec<_> = shown["audit"].as_array().unwrap().iter().map(|entry| entry["action"].clone()).collect();
    assert_eq!(
        (shown["state"].clone(), actions),
        ("deleted".into(), ["create", "disable", "delete"].map(Value::from).to_vec())
    );
    let last = &shown["audit"][2];
    assert!(last["before"].as_str().is_some_and(|hash| hash.len() == 64) && last["after"].is_null(), "{shown}");
    let text = keys(folder, &["show", "all"]).unwrap();
    assert!(text.contains("delete by ann (") && text.ends_with(" -> -)"), "{text}");
    // A new key with a deleted key's name inherits its state and spend, and the command says so.
    let mut create = tidegate(folder);
    create.args(["--config", "tidegate.toml", "keys", "create", "--name", "all"]);
    let output = run(&mut create);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("an earlier key had the name all") && output.stdout.starts_with(b"tg-"), "{told}");
}

/// One key in SQLite and one in PostgreSQL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chat_streams_of_a_key_ask_for_usage_while_the_key_requires_it() {
    const PLAIN: &str = r#"{"model":"smart","stream":true}"#;
    const TELLING: &str = r#"{"model":"smart","stream":true,"stream_options":{"include_usage":true}}"#;
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let postgres = Postgres::start().await;
    for store in [String::new(), format!("[store]\nurl = \"{}\"", postgres.url())] {
        let folder = folder(&upstream, &store, OF_FILE);
        let folder = folder.path();
        let mut gateway = serve(folder);
        let address = gateway.ready();
        let key = keys(folder, &["create", "--name", "chat"]).unwrap();
        status_becomes(address, &key, 200).await;
        upstream.taken();
        let mut goes_up_as = async |expected: &str| {
            until(expected, async || {
                let mut client = Client::connect(address).await;
                let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {key}\r\n");
                client.send(format!("{head}content-length: {}\r\n\r\n{PLAIN}", PLAIN.len())).await;
                assert_eq!(client.answer().await.status, 200);
                upstream.request().await.body == expected.as_bytes()
            })
            .await;
        };
        goes_up_as(PLAIN).await;
        let said = keys(folder, &["update", "chat", "--require-usage"]).unwrap();
        assert!(said.contains("require_usage: not set -> true"), "{said}");
        goes_up_as(TELLING).await;
        let said = keys(folder, &["update", "chat", "--require-usage"]).unwrap();
        assert_eq!(said, "chat has these settings already");
        let said = keys(folder, &["update", "chat", "--unset", "require-usage"]).unwrap();
        assert!(said.contains("require_usage: true -> not set"), "{said}");
        goes_up_as(PLAIN).await;
    }
}

#[tokio::test]
async fn a_key_expires_and_is_limited_to_its_ip_addresses() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = folder(&upstream, "trusted_proxies = [\"127.0.0.1\"]", OF_FILE);
    let folder = folder.path();
    let mut gateway = serve(folder);
    let address = gateway.ready();
    let short = keys(folder, &["create", "--name", "short", "--expires", "4s"]).unwrap();
    status_becomes(address, &short, 200).await;
    status_becomes(address, &short, 401).await;
    let here = keys(folder, &["create", "--name", "here", "--ip", "127.0.0.0/8"]).unwrap();
    let there = keys(folder, &["create", "--name", "there", "--ip", "192.0.2.0/24", "--ip", "2001:db8::/32"]).unwrap();
    status_becomes(address, &here, 200).await;
    // The second key was created later: the gateway may notice it one look later.
    until("the second key is known", async || {
        ask(address, &there, "x-forwarded-for: 192.0.2.7\r\n").await.status == 200
    })
    .await;
    assert_eq!(ask(address, &there, "").await.status, 401);
    for (from, status) in
        [("192.0.2.7", 200), ("198.51.100.7, 2001:db8::7", 200), ("192.0.2.7, 198.51.100.7", 401), ("x", 401)]
    {
        let answer = ask(address, &there, &format!("x-forwarded-for: {from}\r\n")).await;
        assert_eq!(answer.status, status, "{from}");
    }
}

#[tokio::test]
async fn without_its_database_a_start_uses_the_snapshot_of_the_keys() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = folder(&upstream, "", "");
    let folder = folder.path();
    let key = keys(folder, &["create", "--name", "a"]).unwrap();
    let mut gateway = serve(folder);
    assert_eq!(ask(gateway.ready(), &key, "").await.status, 200);
    gateway.signal("INT");
    assert_eq!(gateway.exit(), Some(0));
    for file in ["ledger.db-wal", "ledger.db-shm"] {
        let _ = fs::remove_file(folder.join("data").join(file));
    }
    fs::write(folder.join("data/ledger.db"), "this is no database").unwrap();
    let mut gateway = serve(folder);
    let address = gateway.ready();
    assert_eq!(ask(address, &key, "").await.status, 200);
    assert_eq!(ask(address, "tg-nobody", "").await.status, 401);
    let ready = Client::connect(gateway.admin()).await.get("/readyz").await;
    assert_eq!((ready.status, ready.json()["keys"]["store_fails"].clone()), (200, Value::Bool(true)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_keys_through_postgresql_and_continue_without_it() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut postgres = Postgres::start().await;
    let store = format!("[store]\nurl = \"{}\"", postgres.url());
    let folders = [folder(&upstream, &store, ""), folder(&upstream, &store, "")];
    let [one, two] = [folders[0].path(), folders[1].path()];
    let key = keys(one, &["create", "--name", "a"]).unwrap();
    // Tidegate created this secret, and its key is deleted.
    let gone = keys(one, &["create", "--name", "gone"]).unwrap();
    keys(one, &["delete", "gone", "--yes"]).unwrap();
    let mut gateways = [serve(one), serve(two)];
    let addresses: Vec<_> = gateways.iter_mut().map(Process::ready).collect();
    for address in &addresses {
        assert_eq!(ask(*address, &key, "").await.status, 200);
    }
    let other = keys(two, &["create", "--name", "b"]).unwrap();
    for address in &addresses {
        assert!(status_becomes(*address, &other, 200).await < Duration::from_secs(5));
    }
    postgres.stop();
    for address in &addresses {
        assert_eq!((ask(*address, &key, "").await.status, ask(*address, &other, "").await.status), (200, 200));
        // Another replica might have created it a moment ago.
        status_becomes(*address, &gone, 503).await;
        ask(*address, &gone, "").await.assert_problem(503, "keys_unavailable");
        assert_eq!(ask(*address, "tg-nobody", "").await.status, 401);
    }
    gateways[0].signal("INT");
    assert_eq!(gateways[0].exit(), Some(0));
    // A start without PostgreSQL uses the snapshot. A new data folder has no snapshot, and answers 503 instead of 401.
    let mut again = serve(one);
    assert_eq!(ask(again.ready(), &other, "").await.status, 200);
    let fresh = folder(&upstream, &store, "");
    let mut unread = serve(fresh.path());
    let address = unread.ready();
    let answer = ask(address, &other, "").await;
    answer.assert_problem(503, "keys_unavailable");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(Client::connect(address).await.get("/readyz").await.status, 503);
    postgres.run().await;
    status_becomes(address, &other, 200).await;
    status_becomes(address, &gone, 401).await;
    assert_eq!(ask(address, "tg-nobody", "").await.status, 401);
    assert_eq!(Client::connect(address).await.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_key_of_a_removed_group_and_a_key_hidden_by_the_file_are_refused() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = folder(&upstream, "", OF_FILE);
    let folder = folder.path();
    let grouped = keys(folder, &["create", "--name", "grouped", "--group", "team"]).unwrap();
    let named = keys(folder, &["create", "--name", "named"]).unwrap();
    let mut gateway = serve(folder);
    let address = gateway.ready();
    assert_eq!((ask(address, &grouped, "").await.status, ask(address, &named, "").await.status), (200, 200));
    // The group is removed, and the file declares a key with the other one's name.
    write(folder, &upstream, "", &OF_FILE.replace("\"file\"", "\"named\""));
    let text = fs::read_to_string(folder.join("tidegate.toml")).unwrap().replace("[[groups]]\nname = \"team\"\n", "");
    fs::write(folder.join("tidegate.toml"), text).unwrap();
    status_becomes(address, &grouped, 401).await;
    assert_eq!((ask(address, &named, "").await.status, ask(address, KEY, "").await.status), (401, 200));
    let list = keys(folder, &["list"]).unwrap();
    assert!(list.contains("refused: the group of this key is not in the configuration"), "{list}");
    let shown: Value = serde_json::from_str(&keys(folder, &["show", "grouped", "--json"]).unwrap()).unwrap();
    assert_eq!(
        (&shown["state"], &shown["refused_because"]),
        (&"refused".into(), &"the group of this key is not in the configuration".into())
    );
}

/// A budget that is added while the gateway runs counts the key's past spend from the first request on.
#[tokio::test]
async fn past_spend_counts_from_the_first_request_after_a_key_gets_a_budget() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = folder(&upstream, "", &format!("{OF_FILE}\n{PRICE}"));
    let folder = folder.path();
    for round in 0..3 {
        let name = format!("spender-{round}");
        let free = keys(folder, &["create", "--name", &name]).unwrap();
        let mut gateway = serve(folder);
        let address = gateway.ready();
        for _ in 0..3 {
            assert_eq!(ask(address, &free, "").await.status, 200);
        }
        keys(folder, &["delete", &name, "--yes"]).unwrap();
        let limited = keys(folder, &["create", "--name", &name, "--budget", "3USD/total"]).unwrap();
        let first = async {
            loop {
                match ask(address, &limited, "").await {
                    answer if answer.status != 401 => break answer,
                    _ => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        };
        soon("the key", first).await.assert_problem(429, "insufficient_quota");
        gateway.signal("INT");
        assert_eq!(gateway.exit(), Some(0));
    }
}

#[tokio::test]
async fn a_key_whose_budget_cannot_be_counted_is_refused_and_never_unlimited() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let prices = |currency: &str| format!("{OF_FILE}\n{}", PRICE.replace("USD", currency));
    let folder = folder(&upstream, "", &prices("USD"));
    let folder = folder.path();
    let limited = keys(folder, &["create", "--name", "limited", "--budget", "9999USD/total"]).unwrap();
    let free = keys(folder, &["create", "--name", "free"]).unwrap();
    let mut gateway = serve(folder);
    let address = gateway.ready();
    assert_eq!((ask(address, &limited, "").await.status, ask(address, &free, "").await.status), (200, 200));
    // The configuration has no exchange rate between the prices and the budget.
    write(folder, &upstream, "", &prices("CNY"));
    status_becomes(address, &limited, 401).await;
    let told = gateway.logged("some client keys in the database are disabled: this configuration");
    assert_eq!(told["keys"], "limited");
    assert_eq!(ask(address, &limited, "").await.status, 401);
    let line = gateway
        .line(|line| line.contains("the budgets of this key cannot be counted") && line.contains("tidegate::request"));
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&line["key"], &line["reason"]),
        (&"limited".into(), &"the budgets of this key cannot be counted".into())
    );
    assert_eq!(ask(address, &free, "").await.status, 200);
    let list = keys(folder, &["list"]).unwrap();
    assert!(list.contains("refused: the budgets of this key cannot be counted"), "{list}");
    assert!(keys(folder, &["show", "limited"]).unwrap().contains("the budgets of this key cannot be counted"));
    write(folder, &upstream, "", &prices("USD"));
    status_becomes(address, &limited, 200).await;
}
