//! A reload changes the configuration while the gateway runs.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tidegate::{
    app::ReloadSource,
    config::{self, Source},
};
use tokio::{sync::oneshot, time::Instant};

use crate::support::{
    client::{Answer, Client},
    gateway::{Gateway, KEY, UPSTREAM_KEY},
    process::{Process, tidegate},
    upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, chunk, json},
};

const BODY: &str = r#"{"model":"smart","input":"hi"}"#;
const COMPLETED: &[u8] = b"data: {\"type\":\"response.completed\"}\n\n";
const OTHER_KEY: &str = "sk-another-client-key";
pub(crate) const OK: &str = "tidegate_config_reloads_total{result=\"ok\"}";
const UNCHANGED: &str = "tidegate_config_reloads_total{result=\"unchanged\"}";
pub(crate) const REFUSED: &str = "tidegate_config_reloads_total{result=\"refused\"}";
const SUCCESSFUL: &str = "tidegate_config_last_reload_successful";

/// So often that no test waits for it.
pub(crate) const OFTEN: Duration = Duration::from_millis(10);
/// Only an explicit reload reads the file.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);

fn env(name: &str) -> Option<OsString> {
    let value = match name {
        "UP_KEY" => UPSTREAM_KEY,
        "TESTER" => KEY,
        "OTHER" => OTHER_KEY,
        _ => return None,
    };
    Some(value.into())
}

/// The text of a configuration whose model `smart` leads to the first of these upstreams.
pub(crate) fn text(server: &str, upstreams: &[(&str, &str)], rest: &str) -> String {
    let mut text =
        format!("[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nworkers = 2\n{server}\n");
    for (name, base_url) in upstreams {
        text += &format!(
            "[[upstreams]]\nname = \"{name}\"\nbase_url = \"{base_url}\"\ncredentials = [{{ env = \"UP_KEY\" }}]\n"
        );
    }
    text + &format!("[[models]]\nname = \"smart\"\ntargets = [{{ upstream = \"{}\" }}]\n{rest}\n", upstreams[0].0)
}

pub(crate) const TESTER: &str = "[[keys]]\nname = \"tester\"\nsecret = { env = \"TESTER\" }";

impl Gateway {
    /// A gateway that reads `file`, which is in its folder, at the start and at each reload.
    pub(crate) fn reading(folder: TempDir, file: &Path, look_interval: Duration) -> Self {
        let source = Source::File(file.into());
        let loaded = config::load(&source, &env).unwrap();
        let mut config = loaded.config;
        // The file does not set the data folder, so that a reload ignores this value.
        config.server.data_dir = folder.path().join("data");
        let origin = ReloadSource { source, reads: loaded.reads, env, look_interval };
        Self::run(config, Some(origin), folder)
    }

    /// A gateway whose file has this text.
    pub(crate) fn of(text: &str, look_interval: Duration) -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("tidegate.toml");
        let text = text.replacen("[server]", &format!("[server]\ndata_dir = {:?}", folder.path().join("data")), 1);
        fs::write(&file, text).unwrap();
        Self::reading(folder, &file, look_interval)
    }

    /// Writes another text into the file.
    fn write(&self, text: &str) {
        let data = self.folder.path().join("data");
        let text = text.replacen("[server]", &format!("[server]\ndata_dir = {data:?}"), 1);
        fs::write(self.folder.path().join("tidegate.toml"), text).unwrap();
    }

    /// Reloads with another text, and waits for this result.
    pub(crate) async fn reload(&self, text: &str, result: &str) {
        let before = self.metric(result).await;
        self.write(text);
        self.handle.reload();
        self.metric_becomes(result, before + 1.0).await;
    }

    async fn post_as(&self, key: &str) -> Answer {
        let mut client = self.connect().await;
        let length = BODY.len();
        let head = format!("POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {key}\r\n");
        client.send(format!("{head}content-length: {length}\r\n\r\n{BODY}")).await;
        client.answer().await
    }

    async fn detail(&self) -> Value {
        Client::connect(self.admin).await.get("/readyz").await.json()
    }
}

fn named(name: &str) -> String {
    RESPONSE.replace("resp_1", name)
}

async fn answering(name: &str) -> Upstream {
    Upstream::fixed(json("200 OK", &named(name))).await
}

#[tokio::test]
async fn a_request_in_progress_keeps_its_configuration_and_the_next_one_uses_the_new_one() {
    let (go, gate) = oneshot::channel();
    let mut gate = Some(gate);
    let old = Upstream::scripted(move |_| {
        let rest = [chunk(COMPLETED), LAST_CHUNK.to_vec()].concat();
        vec![Step::Send(STREAM.to_vec()), Step::Wait(gate.take().unwrap()), Step::Send(rest)]
    })
    .await;
    let new = answering("new").await;
    let gateway = Gateway::of(&text("", &[("old", &old.base_url())], TESTER), OFTEN);
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    let mut answer = client.head().await;

    // Another upstream takes the index of the old one: a mix-up of tables would count or ask the wrong one.
    gateway.write(&text("", &[("new", &new.base_url()), ("old", &old.base_url())], TESTER));
    gateway.metric_becomes(OK, 1.0).await;
    for _ in 0..8 {
        // Each request has a connection of its own, so that each worker gets some.
        assert_eq!(gateway.post("", BODY).await.body, named("new").into_bytes());
    }
    let names: Vec<_> = gateway.detail().await["upstreams"]
        .as_array()
        .unwrap()
        .iter()
        .map(|upstream| upstream["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["new", "old"]);

    go.send(()).unwrap();
    client.body(&mut answer).await;
    assert_eq!((answer.whole, &*answer.body), (true, COMPLETED));
    gateway.metric_becomes("tidegate_requests_total{upstream=\"old\",end=\"completed\"}", 1.0).await;
    assert_eq!(gateway.metric("tidegate_requests_total{upstream=\"new\",end=\"completed\"}").await, 8.0);
    assert_eq!(client.create(BODY).await.body, named("new").into_bytes(), "on the existing connection");
    assert_eq!((gateway.metric(REFUSED).await, gateway.metric(SUCCESSFUL).await), (0.0, 1.0));
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_a_good_one_ends_the_fault() {
    let upstream = answering("one").await;
    let good = text("", &[("up", &upstream.base_url())], TESTER);
    let gateway = Gateway::of(&good, OFTEN);
    assert_eq!(gateway.detail().await["last_reload_refused"], false);
    for (refused, bad) in (1..).zip(["", "[[upstreams", &good.replace("upstream = \"up\"", "upstream = \"pu\"")]) {
        gateway.write(bad);
        gateway.metric_becomes(REFUSED, refused.into()).await;
        assert_eq!(gateway.metric(SUCCESSFUL).await, 0.0);
        let detail = gateway.detail().await;
        assert_eq!((&detail["last_reload_refused"], &detail["ready"]), (&true.into(), &true.into()));
        assert_eq!(gateway.post("", BODY).await.status, 200);
    }
    fs::remove_file(gateway.folder.path().join("tidegate.toml")).unwrap();
    gateway.metric_becomes(REFUSED, 4.0).await;
    gateway.write(&good);
    gateway.metric_becomes(UNCHANGED, 1.0).await;
    assert_eq!((gateway.metric(SUCCESSFUL).await, gateway.metric(OK).await), (1.0, 0.0));
    assert_eq!(gateway.detail().await["last_reload_refused"], false);
    gateway.write(&good.replace("\"smart\"", "\"clever\""));
    gateway.metric_becomes(OK, 1.0).await;
    gateway.post("", BODY).await.assert_problem(404, "model_not_found");
}

#[tokio::test]
async fn a_replaced_kubernetes_config_map_is_noticed() {
    let (old, new) = (answering("old").await, answering("new").await);
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let version = |name: &str, upstream: &Upstream, key: &str| {
        fs::create_dir(at(name)).unwrap();
        let keys = format!("[[keys]]\nname = \"k\"\nsecret = {{ file = {:?} }}", at("key"));
        let server = format!("data_dir = {:?}", at("data"));
        fs::write(at(name).join("tidegate.toml"), text(&server, &[("up", &upstream.base_url())], &keys)).unwrap();
        fs::write(at(name).join("key"), key).unwrap();
    };
    // As the kubelet does: files are links to ..data/FILE, and ..data is a link to the folder of one version, which is
    // replaced by a rename.
    version("..2026_01", &old, KEY);
    symlink("..2026_01", at("..data")).unwrap();
    symlink("..data/tidegate.toml", at("tidegate.toml")).unwrap();
    symlink("..data/key", at("key")).unwrap();
    version("..2026_02", &new, OTHER_KEY);
    symlink("..2026_02", at("..data_tmp")).unwrap();
    let file = at("tidegate.toml");
    let gateway = Gateway::reading(folder, &file, OFTEN);
    assert_eq!(gateway.post("", BODY).await.body, named("old").into_bytes());

    let at = |name: &str| gateway.folder.path().join(name);
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    fs::remove_dir_all(at("..2026_01")).unwrap();
    gateway.metric_becomes(OK, 1.0).await;
    assert_eq!(gateway.post_as(OTHER_KEY).await.body, named("new").into_bytes());
    assert_eq!(gateway.post_as(KEY).await.status, 401);
    assert_eq!((gateway.metric(OK).await, gateway.metric(REFUSED).await), (1.0, 0.0));
}

#[tokio::test]
async fn keys_are_added_and_removed_by_a_reload_and_the_first_key_ends() {
    let upstream = answering("one").await;
    let with = |keys: &str| text("", &[("up", &upstream.base_url())], keys);
    let gateway = Gateway::of(&with(""), NEVER);
    let first = fs::read_to_string(gateway.folder.path().join("data/first-key")).unwrap();
    let first = first.trim();
    let works = async |key: &str| gateway.post_as(key).await.status == 200;
    assert!(works(first).await && !works(KEY).await);

    gateway.reload(&(with("") + "[[models]]\nname = \"more\"\ntargets = [{ upstream = \"up\" }]"), OK).await;
    assert!(works(first).await, "the first key after a reload");
    gateway.reload(&with(TESTER), OK).await;
    assert!(works(KEY).await && !works(first).await && !works(OTHER_KEY).await, "another key is declared");
    gateway.reload(&with(&TESTER.replace("TESTER", "OTHER")), OK).await;
    assert!(works(OTHER_KEY).await && !works(KEY).await);
    // A truncated file has no keys either.
    gateway.reload(&with(""), REFUSED).await;
    assert!(works(OTHER_KEY).await && !works(first).await);
}

#[tokio::test]
async fn open_connections_survive_a_reload_unless_the_connection_settings_change() {
    let mut upstream = answering("one").await;
    let base = text("", &[("up", &upstream.base_url())], TESTER).replace("workers = 2", "workers = 1");
    let gateway = Gateway::of(&base, NEVER);
    let mut client = gateway.connect().await;
    assert_eq!(client.create(BODY).await.status, 200);
    assert_eq!(upstream.request().await.connection, 0);
    let more = "[[models]]\nname = \"more\"\ntargets = [{ upstream = \"up\" }]\n";
    // An upstream before it, other credentials, other headers: the connection settings stay the same.
    let moved = base.replacen("[[up", "[[upstreams]]\nname = \"z\"\nbase_url = \"http://127.0.0.1:1/v1\"\n[[up", 1);
    let headers = base.replace("[[models]]", "headers = { x-a = \"b\" }\n[[models]]");
    for text in [base.clone() + more, moved, headers] {
        gateway.reload(&text, OK).await;
        assert_eq!(client.create(BODY).await.status, 200);
        assert_eq!(upstream.request().await.connection, 0, "{text}");
    }
    gateway.reload(&base.replace("[[models]]", "max_idle_connections = 3\n[[models]]"), OK).await;
    assert_eq!(client.create(BODY).await.status, 200);
    assert_eq!(upstream.request().await.connection, 1);
}

#[tokio::test]
async fn limits_and_deadlines_apply_from_the_reload_on() {
    let upstream = answering("one").await;
    let with = |server: &str, rest: &str| text(server, &[("up", &upstream.base_url())], rest) + TESTER;
    let gateway = Gateway::of(&with("max_body_mib = 2", ""), NEVER);
    let large = format!(r#"{{"model":"smart","input":"{}"}}"#, "x".repeat(1536 * 1024));
    assert_eq!(gateway.post("", &large).await.status, 200);
    gateway.reload(&with("max_body_mib = 1", "[timeouts]\nfirst_byte_s = 1\n"), OK).await;
    gateway.post("", &large).await.assert_problem(413, "request_too_large");
    let mut silent = gateway.connect().await;
    let since = Instant::now();
    assert!(silent.closed().await);
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_draining_gateway_does_not_reload() {
    let (go, gate) = oneshot::channel();
    let mut gate = Some(gate);
    let upstream = Upstream::scripted(move |_| {
        vec![Step::Send(STREAM.to_vec()), Step::Wait(gate.take().unwrap()), Step::Send(LAST_CHUNK.to_vec())]
    })
    .await;
    let base = text("", &[("up", &upstream.base_url())], TESTER);
    let mut gateway = Gateway::of(&base, OFTEN);
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    let mut answer = client.head().await;
    gateway.drain();
    gateway.write("");
    gateway.handle.reload();
    // No event shows that nothing happens.
    tokio::time::sleep(OFTEN * 10).await;
    assert_eq!(gateway.metric(REFUSED).await, 0.0);
    go.send(()).unwrap();
    client.body(&mut answer).await;
    assert!(answer.whole);
    gateway.ended().await;
}

/// A process that reads a file of this text.
fn process(folder: &Path, text: &str) -> (Process, std::path::PathBuf) {
    let file = folder.join("tidegate.toml");
    fs::write(&file, text).unwrap();
    let mut command = tidegate(folder);
    command.args(["serve", "--config"]).arg(&file);
    (Process::start(command.env("UP_KEY", UPSTREAM_KEY).env("TESTER", KEY).env("OTHER", OTHER_KEY)), file)
}

#[tokio::test]
async fn a_process_reloads_on_sighup_and_logs_the_changes() {
    let (old, new) = (answering("old").await, answering("new").await);
    let folder = TempDir::new().unwrap();
    let base = text("", &[("up", &old.base_url())], TESTER);
    let (mut process, file) = process(folder.path(), &base);
    let address = process.ready();
    let ask = async || Client::connect(address).await.create(BODY).await;
    assert_eq!(ask().await.body, named("old").into_bytes());

    process.signal("HUP");
    process.logged("configuration unchanged");

    let other = TESTER.replace("tester", "another").replace("TESTER", "OTHER");
    let changed = base
        .replace("workers = 2", "workers = 1\nmax_connections = 77")
        .replace(&format!("\"{}\"", old.base_url()), &format!("\"{}\"", new.base_url()));
    fs::write(&file, format!("{changed}{other}")).unwrap();
    process.signal("HUP");
    let line = process.logged("configuration reloaded");
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["needs_restart"], "server.workers, server.max_connections");
    assert_eq!((&line["upstreams"], &line["keys"]), (&"changed up".into(), &"added another".into()));
    assert_eq!((&line["models"], &line["settings"]), (&Value::Null, &Value::Null));
    assert_eq!(ask().await.body, named("new").into_bytes());

    // A secret in the wrong place, in the very line that the report shows.
    fs::write(&file, base.replace("{ env = \"TESTER\" }", &format!("\"{KEY}\""))).unwrap();
    process.signal("HUP");
    let line = process.logged("configuration refused");
    assert_eq!(line["level"], "ERROR");
    let place = format!("{}:15:10", file.display());
    assert!(line["report"].as_str().unwrap().contains(&place), "{place} in {line}");
    assert_eq!(ask().await.body, named("new").into_bytes());

    process.signal("TERM");
    assert_eq!(process.exit(), Some(0));
    let said = process.everything();
    for secret in [KEY, OTHER_KEY, UPSTREAM_KEY] {
        assert!(!said.contains(secret), "{said}");
    }
}

#[tokio::test]
async fn a_process_notices_that_its_file_changed() {
    let upstream = answering("one").await;
    let folder = TempDir::new().unwrap();
    let base = text("", &[("up", &upstream.base_url())], TESTER);
    let (mut process, file) = process(folder.path(), &base);
    let address = process.ready();
    fs::write(&file, base.replace("\"smart\"", "\"clever\"")).unwrap();
    let line = process.logged("configuration reloaded");
    assert_eq!((&line["level"], &line["models"]), (&"INFO".into(), &"added clever; removed smart".into()));
    assert_eq!(Client::connect(address).await.create(BODY).await.status, 404);
}

#[tokio::test]
async fn a_hundred_reloads_under_load_fail_no_request() {
    const CLIENTS: usize = 6;
    const RELOADS: usize = 100;
    let (one, two) = (answering("one").await, answering("two").await);
    let rest = |i: usize| format!("[[models]]\nname = \"m{i}\"\ntargets = [{{ upstream = \"b\" }}]\n{TESTER}");
    // The target changes, indices move, a model is added and removed.
    let file = |i: usize| match i % 2 {
        0 => text("", &[("a", &one.base_url()), ("b", &two.base_url())], &rest(i)),
        _ => text("", &[("b", &two.base_url()), ("a", &one.base_url())], &rest(i)),
    };
    let gateway = Gateway::of(&file(0), NEVER);
    let over = Arc::new(AtomicBool::new(false));
    let clients = (0..CLIENTS).map(|_| {
        let (over, address) = (Arc::clone(&over), gateway.address);
        tokio::spawn(async move {
            let mut client = Client::connect(address).await;
            let mut took = Vec::new();
            let mut names = [0_usize; 2];
            while !over.load(Ordering::Relaxed) {
                let since = Instant::now();
                let answer = client.create(BODY).await;
                took.push(since.elapsed());
                assert!(answer.status == 200 && answer.whole, "{answer:?}");
                names[usize::from(answer.json()["id"] == "two")] += 1;
            }
            (took, names)
        })
    });
    let clients: Vec<_> = clients.collect();
    let since = Instant::now();
    for i in 1..=RELOADS {
        if i % 3 == 0 {
            let unknown = file(i).replace("{ upstream = \"b\" }", "{ upstream = \"c\" }");
            gateway.reload(["", "[[up", &unknown][i / 3 % 3], REFUSED).await;
        } else {
            gateway.reload(&file(i), OK).await;
        }
    }
    let lasted = since.elapsed();
    over.store(true, Ordering::Relaxed);
    let (mut took, mut names) = (Vec::new(), [0, 0]);
    for client in clients {
        let (times, answers) = client.await.unwrap();
        took.extend(times);
        names = [names[0] + answers[0], names[1] + answers[1]];
    }
    took.sort();
    let (ok, refused) = (gateway.metric(OK).await, gateway.metric(REFUSED).await);
    assert_eq!((ok, refused), (67.0, 33.0));
    assert!(names[0] > 0 && names[1] > 0, "{names:?}");
    // One connection per client, and at most one per client and worker at each upstream: no connection was lost to a
    // reload.
    let requests = gateway.metric("tidegate_requests_total{upstream=\"a\",end=\"completed\"}").await
        + gateway.metric("tidegate_requests_total{upstream=\"b\",end=\"completed\"}").await;
    assert_eq!(requests, took.len() as f64);
    eprintln!(
        "{RELOADS} reloads ({refused} refused) in {lasted:.1?}: {} requests of {CLIENTS} clients ({names:?} by upstream), \
         0 failed; p50 {:.1?}, p99 {:.1?}, longest {:.1?}",
        took.len(),
        took[took.len() / 2],
        took[took.len() * 99 / 100],
        took[took.len() - 1],
    );
}
