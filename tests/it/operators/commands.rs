//! Commands: their effects, their requirements, their questions.

use std::{fs, process::Command};

use serde_json::{Value, json};

use super::*;
use crate::support::{
    client::Client,
    database::until,
    gateway::Gateway,
    soon,
    tls::TestCertificate,
    upstream::{RESPONSE, Upstream, json as answer},
};

fn settings(folder: &Path, name: &str) -> Value {
    let (shown, _) = command(folder, &["keys", "show", name, "--json"]).unwrap();
    serde_json::from_str::<Value>(&shown).unwrap()["settings"].take()
}

#[test]
fn every_setting_of_a_key_can_be_set_and_unset() {
    let folder = folder(&text("http://127.0.0.1:1/v1", ""));
    let folder = folder.path();
    command(folder, &["keys", "create", "--name", "k"]).unwrap();
    assert_eq!(settings(folder, "k"), json!({}));
    let mut all = Vec::new();
    for (option, value, name, kept) in [
        ("--models", "smart,up/x", "models", json!(["smart", "up/x"])),
        ("--upstreams", "up", "upstreams", json!(["up"])),
        ("--group", "team", "group", json!("team")),
        ("--expires", "2099-01-01", "expires_ms", json!(4_070_908_800_000_u64)),
        ("--rpm", "60", "rpm", json!(60)),
        ("--tpm", "1000", "tpm", json!(1000)),
        ("--max-in-flight", "3", "max_in_flight", json!(3)),
        ("--budget", "5CNY/day", "budgets", json!(["5CNY/day"])),
        ("--limit", "smart rpm=10", "limits", json!(["smart rpm=10"])),
        ("--ip", "10.0.0.0/8", "ips", json!(["10.0.0.0/8"])),
        ("--on-client-gone", "drain", "on_client_gone", json!("drain")),
    ] {
        let (printed, _) = command(folder, &["keys", "update", "k", option, value]).unwrap();
        assert!(printed.starts_with("updated k\n") && printed.contains(" -> "), "{printed}");
        assert_eq!(settings(folder, "k")[name], kept, "{option}");
        all.push((option.trim_start_matches("--"), name));
        let (again, _) = command(folder, &["keys", "update", "k", option, value]).unwrap();
        assert_eq!(again, "k has these settings already");
    }
    assert_eq!(settings(folder, "k").as_object().unwrap().len(), all.len(), "earlier settings must stay");
    for (option, name) in &all {
        command(folder, &["keys", "update", "k", "--unset", option]).unwrap();
        assert_eq!(settings(folder, "k").get(*name), None, "{option}");
    }
    assert_eq!(settings(folder, "k"), json!({}));
    let (shown, _) = command(folder, &["keys", "show", "k"]).unwrap();
    assert!(shown.contains("update by"), "{shown}");

    command(folder, &["keys", "update", "k", "--budget", "5CNY/month", "--starts-on", "5"]).unwrap();
    assert_eq!(settings(folder, "k"), json!({ "budgets": ["5CNY/month"], "starts_on": 5 }));
    command(folder, &["keys", "update", "k", "--unset", "budget,starts-on"]).unwrap();

    // Several settings in one command.
    command(folder, &["keys", "update", "k", "--rpm", "7", "--tpm", "9", "--group", "team"]).unwrap();
    command(folder, &["keys", "update", "k", "--rpm", "8", "--unset", "tpm,group"]).unwrap();
    assert_eq!(settings(folder, "k"), json!({ "rpm": 8 }));
    for (arguments, said) in [
        (&["k"][..], "nothing to change"),
        (&["k", "--rpm", "5", "--unset", "rpm"], "`--rpm` and `--unset rpm` contradict each other"),
        (&["k", "--unset", "colour"], "possible values: models"),
        (&["k", "--models", "nothing-like-it"], "nothing was changed: no model is called `nothing-like-it`"),
        (&["k", "--group", "nobody"], "no group is called `nobody`"),
        (&["k", "--expires", "2020-01-01"], "the key would be expired already"),
        (
            &["k", "--budget", "5CNY/week", "--starts-on", "5"],
            "`starts_on` needs a monthly budget: `starts_on` names the day of the month",
        ),
        (&["k", "--ip", "somewhere"], "neither an IP address nor a network"),
        (&["a", "--rpm", "5"], "the key a is declared in tidegate.toml: change it there"),
        (&["nobody", "--rpm", "5"], "no key has the name nobody"),
    ] {
        let error = command(folder, &[&["keys", "update"], arguments].concat()).unwrap_err();
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
    assert_eq!(settings(folder, "k"), json!({ "rpm": 8 }));

    // A setting that the configuration no longer knows causes a warning, and does not block other changes.
    command(folder, &["keys", "update", "k", "--group", "team"]).unwrap();
    let without = fs::read_to_string(folder.join("tidegate.toml")).unwrap().replace("\"team\"", "\"other\"");
    fs::write(folder.join("tidegate.toml"), without).unwrap();
    let (_, said) = command(folder, &["keys", "update", "k", "--rpm", "9"]).unwrap();
    assert!(said.contains("k: no group is called `team`"), "{said}");
    assert_eq!(settings(folder, "k"), json!({ "rpm": 9, "group": "team" }));
}

#[tokio::test]
async fn a_running_gateway_adopts_an_updated_key_and_its_secret_stays() {
    let upstream = Upstream::fixed(answer("200 OK", RESPONSE)).await;
    let folder = folder(&text(&upstream.base_url(), ""));
    let mut gateway = serve(folder.path());
    let address = gateway.ready();
    let (key, _) = command(folder.path(), &["keys", "create", "--name", "k"]).unwrap();
    let status = async || {
        let mut client = Client::connect(address).await;
        client.ask("GET /v1/models/smart", &format!("authorization: Bearer {key}\r\n")).await.status
    };
    until("the key is known", async || status().await == 200).await;
    command(folder.path(), &["keys", "update", "k", "--models", "up/other"]).unwrap();
    until("the key may not use the model", async || status().await == 404).await;
    command(folder.path(), &["keys", "update", "k", "--unset", "models"]).unwrap();
    until("the key may use the model again", async || status().await == 200).await;
}

#[test]
fn keys_and_usage_work_while_the_configuration_has_faults() {
    let good = text("http://127.0.0.1:1/v1", "data_dir = \"data\"");
    let folder = folder(&good);
    let folder = folder.path();
    command(folder, &["keys", "create", "--name", "k"]).unwrap();
    for (nth, bad) in [
        good.replace("base_url", "base_ur"),
        good.replace("[[models]]", "[[models]]\nnmae = 1"),
        good.replace("\"smart\"", "\"smart"),
        good.replace("targets = [{", "targets = [{ upstream ="),
        good.replace("{ upstream = \"up\" }", "{ upstream = \"gone\" }"),
        format!("{good}[[keys]]\nname = \"b\"\n"),
        format!("{good}[half"),
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(folder.join("tidegate.toml"), &bad).unwrap();
        assert!(command(folder, &["check"]).is_err(), "{bad}");
        let (_, said) = command(folder, &["keys", "disable", "k"]).unwrap_or_else(|said| panic!("{said}\n{bad}"));
        assert!(said.contains("disabled k") && said.contains("which `tidegate check` shows"), "{said}");
        let (list, _) = command(folder, &["keys", "list"]).unwrap();
        assert!(list.contains("disabled"), "{list}");
        command(folder, &["keys", "enable", "k"]).unwrap();
        command(folder, &["keys", "update", "k", "--rpm", &format!("{}", nth + 1)]).unwrap();
        command(folder, &["usage"]).unwrap();
        command(folder, &["keys", "rotate", "k"]).unwrap();
    }
    // The place of the store must be certain: a fault in those lines is an error.
    for bad in [
        good.replace("data_dir", "data_dri"),
        good.replace("data_dir = \"data\"", "data_dir = \"data"),
        format!("[stor]\nurl = \"postgres://u@127.0.0.1:1/d\"\n{good}"),
        format!("[store]\nurl = \"postgres://u@127.0.0.1:1/d\n{good}"),
    ] {
        fs::write(folder.join("tidegate.toml"), &bad).unwrap();
        let said = command(folder, &["keys", "disable", "k"]).unwrap_err();
        assert!(said.contains("tidegate.toml:"), "{said}");
    }
}

#[test]
fn a_key_is_deleted_only_with_yes() {
    let folder = folder(&text("http://127.0.0.1:1/v1", ""));
    let folder = folder.path();
    command(folder, &["keys", "create", "--name", "k"]).unwrap();
    let said = command(folder, &["keys", "delete", "k"]).unwrap_err();
    assert!(
        said.contains("nothing was deleted") && said.contains("--yes") && said.contains("keys disable k"),
        "{said}"
    );
    assert!(command(folder, &["keys", "delete", "nobody"]).unwrap_err().contains("no key has the name nobody"));
    assert!(command(folder, &["keys", "list"]).unwrap().0.contains("\nk "));
    let (printed, _) = command(folder, &["keys", "delete", "k", "--yes"]).unwrap();
    assert_eq!(printed, "deleted k");
}

/// Runs a command on a terminal of its own, and types this text. Needs `script` of util-linux.
fn on_a_terminal(folder: &Path, arguments: &str, typed: &str) -> Option<String> {
    use std::{io::Write, process::Stdio};
    let line = format!("{} --config tidegate.toml {arguments}", env!("CARGO_BIN_EXE_tidegate"));
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).current_dir(folder);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
    child.stdin.take()?.write_all(typed.as_bytes()).ok()?;
    let output = child.wait_with_output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn at_a_terminal_a_command_asks_for_confirmation() {
    let folder = folder(&text("http://127.0.0.1:1/v1", ""));
    let folder = folder.path();
    let Some(said) = on_a_terminal(folder, "keys create --name k", "n\n") else {
        return crate::support::say("skipped: there is no `script` to make a terminal with");
    };
    assert!(said.contains("No gateway has run with the store") && said.contains("no key was created"), "{said}");
    assert!(!folder.join("data").exists());
    let said = on_a_terminal(folder, "keys create --name k", "y\n").unwrap();
    assert!(said.contains("tg-") && said.contains("created in "), "{said}");
    let said = on_a_terminal(folder, "keys delete k", "\n").unwrap();
    assert!(said.contains("[y/N]") && said.contains("nothing was deleted"), "{said}");
    let said = on_a_terminal(folder, "keys delete k", "yes\n").unwrap();
    assert!(said.contains("deleted k"), "{said}");
}

#[test]
fn a_missing_store_is_reported_and_not_created() {
    let folder = folder(&text("http://127.0.0.1:1/v1", ""));
    for arguments in
        [&["disable", "k"][..], &["update", "k", "--rpm", "1"], &["rotate", "k"], &["delete", "k", "--yes"]]
    {
        let said = command(folder.path(), &[&["keys"], arguments].concat()).unwrap_err();
        assert!(said.contains("there is no store at /") && said.contains("TIDEGATE_DATA_DIR"), "{said}");
    }
    assert!(!folder.path().join("data").exists());
}

#[tokio::test]
async fn creating_a_key_reports_the_store_that_it_wrote() {
    let upstream = Upstream::fixed(answer("200 OK", RESPONSE)).await;
    let folder = folder(&text(&upstream.base_url(), ""));
    let (key, said) = command(folder.path(), &["keys", "create", "--name", "early"]).unwrap();
    assert!(key.starts_with("tg-"), "stdout must have the key alone: {key}");
    let store = folder.path().join("data/ledger.db").display().to_string();
    assert!(said.contains(&store) && said.contains("no gateway has run yet"), "{said}");
    let mut gateway = serve(folder.path());
    gateway.ready();
    let (_, said) = command(folder.path(), &["keys", "create", "--name", "late"]).unwrap();
    assert!(said.contains(&format!("created in {store}\n")) && !said.contains("no gateway"), "{said}");
}

#[tokio::test]
async fn healthcheck_and_explain_need_no_secret() {
    let made = TestCertificate::new();
    let upstream = Upstream::fixed(answer("200 OK", RESPONSE)).await;
    for tls in [false, true] {
        let gateway = Gateway::with(&upstream.base_url(), |config| {
            config.server.tls = made.identity().filter(|_| tls);
        });
        let listen = format!("listen = \"{}\"\nadmin_listen = \"{}\"", gateway.address, gateway.admin);
        let tls = if tls { "tls = { cert_file = \"not-here.crt\", key_file = \"not-here.key\" }" } else { "" };
        let good = text(&upstream.base_url(), tls)
            .replace("listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"", &listen);
        for file in [good.clone(), format!("{good}nonsense ="), good.replace("base_url", "bas_url")] {
            let folder = folder(&file);
            let (folder, path) = (folder.path().to_owned(), folder);
            let checked = tokio::task::spawn_blocking({
                let folder = folder.clone();
                move || command(&folder, &["healthcheck"])
            });
            checked.await.unwrap().unwrap_or_else(|said| panic!("{said}\n{file}"));
            let explained = tokio::task::spawn_blocking(move || {
                command(&folder, &["explain", "--key", "tester", "--model", "smart"])
            });
            let (printed, _) = explained.await.unwrap().unwrap_or_else(|said| panic!("{said}\n{file}"));
            assert!(printed.contains("1. up, credential UP_KEY"), "{printed}");
            drop(path);
        }
    }
    let folder =
        folder(&text("http://127.0.0.1:1/v1", "").replace("127.0.0.1:0", "127.0.0.1:1").replacen(":1\"", ":2\"", 1));
    let (printed, _) = command(folder.path(), &["explain", "--key", "a", "--model", "smart"]).unwrap();
    assert!(printed.starts_with("offline:") && printed.contains("1. up"), "{printed}");
}

#[tokio::test]
async fn the_demo_listens_at_the_configured_address_and_creates_conversations() {
    let folder = tempfile::TempDir::new().unwrap();
    let mut command = tidegate(folder.path());
    command.args(["demo", "--admin-listen", "127.0.0.1:0"]).env("TIDEGATE_LISTEN", "127.0.0.1:0");
    let mut demo = Process::start(&mut command);
    let address = demo.line(|line| line.starts_with("Tidegate runs on http://"));
    let address = address.split("http://").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    assert!(!address.ends_with(":8080"), "{address}");
    let key = demo.line(|line| line.starts_with("Key "));
    let key = key.split_whitespace().nth(1).unwrap().to_owned();
    let mut client = Client::connect(address.parse().unwrap()).await;
    let auth = format!("authorization: Bearer {key}\r\ncontent-type: application/json\r\ncontent-length: 2\r\n");
    client.send(format!("POST /v1/conversations HTTP/1.1\r\nhost: t\r\n{auth}\r\n{{}}")).await;
    let made = client.answer().await;
    assert_eq!(made.status, 200, "{made:?}");
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let read = client.ask(&format!("GET /v1/conversations/{id}"), &format!("authorization: Bearer {key}\r\n")).await;
    assert_eq!((read.status, &read.json()["id"]), (200, &json!(id)), "{read:?}");

    let mut command = tidegate(folder.path());
    let output = run(command.arg("demo").env("TIDEGATE_LISTEN", "nonsense"));
    assert!(output_text(&output).contains("TIDEGATE_LISTEN is not an address and a port"), "{}", output_text(&output));
}

#[test]
fn check_shows_the_upstream_for_new_conversations() {
    let folder = tempfile::TempDir::new().unwrap();
    let mut command = tidegate(folder.path());
    command
        .arg("check")
        .env("MODELVERSE_API_KEY", UP_KEY)
        .env("ACEDATA_API_KEY", "sk-another-secret")
        .env("DMXAPI_API_KEY", "");
    let output = run(&mut command);
    assert!(output_text(&output).contains("(new conversations) -> modelverse\n"), "{}", output_text(&output));
    let text = text(
        "http://127.0.0.1:1/v1",
        "[[upstreams]]\nname = \"first\"\nbase_url = \"http://127.0.0.1:2/v1\"\nsurface = [\"chat\"]",
    );
    let text = text.replace("name = \"a\"", "name = \"a\"\nupstreams = [\"first\"]");
    fs::write(folder.path().join("tidegate.toml"), text).unwrap();
    let mut command = tidegate(folder.path());
    let output = run(command.args(["check", "--config", "tidegate.toml"]).env("UP_KEY", UP_KEY).env("A_KEY", KEY));
    assert!(
        output_text(&output).contains("(new conversations) -> up, of the key a none\n"),
        "{}",
        output_text(&output)
    );
}

#[tokio::test]
async fn the_first_key_ends_when_another_key_exists() {
    let upstream = Upstream::fixed(answer("200 OK", RESPONSE)).await;
    let without = text(&upstream.base_url(), "").split("[[keys]]").next().unwrap().to_owned();
    let folder = folder(&without);
    let folder = folder.path();
    let mut gateway = serve(folder);
    let address = gateway.ready();
    let file = folder.join("data/first-key");
    let first = fs::read_to_string(&file).unwrap().trim().to_owned();
    let status = async |key: &str| {
        Client::connect(address).await.ask("GET /v1/models", &format!("authorization: Bearer {key}\r\n")).await.status
    };
    assert_eq!(status(&first).await, 200);
    let (second, _) = command(folder, &["keys", "create", "--name", "second"]).unwrap();
    until("the first key has ended", async || status(&first).await == 401).await;
    assert_eq!(status(&second).await, 200);
    soon("the file of the key is removed", async {
        while file.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    let (list, _) = command(folder, &["keys", "list"]).unwrap();
    assert!(list.contains("refused: this key was valid only until another key was declared"), "{list}");
    // An operator who needs the first key can keep it.
    command(folder, &["keys", "update", "first", "--unset", "interim"]).unwrap();
    until("the first key works on", async || status(&first).await == 200).await;
    drop(gateway);

    // A key in the file also ends the first key.
    let other = folder.join("other");
    let serve = |keys: &str| {
        fs::write(folder.join("tidegate.toml"), format!("{without}{keys}")).unwrap();
        let mut command = tidegate(folder);
        command.args(["serve", "--config", "tidegate.toml"]).env("TIDEGATE_DATA_DIR", &other);
        Process::start(command.env("UP_KEY", UP_KEY).env("A_KEY", KEY))
    };
    let mut gateway = serve("");
    gateway.ready();
    let first = fs::read_to_string(other.join("first-key")).unwrap().trim().to_owned();
    gateway.signal("INT");
    gateway.exit();
    let mut gateway = serve("[[keys]]\nname = \"a\"\nsecret = { env = \"A_KEY\" }\n");
    let address = gateway.ready();
    let status = async |key: &str| {
        Client::connect(address).await.ask("GET /v1/models", &format!("authorization: Bearer {key}\r\n")).await.status
    };
    assert_eq!((status(&first).await, status(KEY).await), (401, 200));
    assert!(!other.join("first-key").exists());
}

/// The built-in file has such a key: `TIDEGATE_KEY`.
#[test]
fn an_optional_key_without_its_secret_does_not_end_the_first_key_in_the_list() {
    let without = text("http://127.0.0.1:1/v1", "").split("[[keys]]").next().unwrap().to_owned();
    let optional = "[[keys]]\nname = \"default\"\nsecret = { env = \"OPTIONAL_KEY\", optional = true }\n";
    let folder = folder(&(without + optional));
    let folder = folder.path();
    let mut gateway = serve(folder);
    gateway.ready();
    assert!(folder.join("data/first-key").exists());
    let list = |key: &str| {
        let mut command = tidegate(folder);
        command.args(["--config", "tidegate.toml", "keys", "list"]).env("OPTIONAL_KEY", key);
        output_text(&run(&mut command))
    };
    for (key, default, first) in [
        ("", "unknown: OPTIONAL_KEY is not set for this command", "active"),
        (KEY, "active", "refused: this key was valid only until another key was declared"),
    ] {
        let list = list(key);
        let line = |name: &str| list.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert!(line("default ").contains(&format!("  {default}  ")), "{list}");
        assert!(line("first ").contains(&format!("  {first}  ")), "{list}");
    }
    let (shown, _) = command(folder, &["keys", "show", "default"]).unwrap();
    assert!(shown.contains("not set for this command") && shown.contains("OPTIONAL_KEY"), "{shown}");
}

#[test]
fn a_first_start_without_a_problem_logs_no_warning() {
    let folder = tempfile::TempDir::new().unwrap();
    let start = |files: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {files}; exec \"$0\" serve"), env!("CARGO_BIN_EXE_tidegate")]);
        command
            .env_clear()
            .current_dir(folder.path())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        command.env("DMXAPI_API_KEY", UP_KEY).env("TIDEGATE_KEY", KEY).env("TIDEGATE_LISTEN", "127.0.0.1:0");
        // The other optional variables are set and empty, as compose files set them.
        command.env("MODELVERSE_API_KEY", "").env("ACEDATA_API_KEY", "").env("TIDEGATE_CONFIG", "");
        fs::write(folder.path().join("tidegate.toml"), "").unwrap();
        let mut process = Process::start(&mut command);
        process.line(|line| line.contains("\"message\":\"ready") || line.contains("cannot listen"));
        process.signal("INT");
        process.exit();
        process.everything()
    };
    let log = start("19000");
    assert!(!log.contains("\"WARN\""), "{log}");
    let log = start("4096");
    assert!(log.contains("\"WARN\"") && log.contains("less than half of `max_connections`"), "{log}");
}
