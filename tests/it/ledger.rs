//! One row for each request that went up, whatever happens to the gateway.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use sqlx::{Connection, Row as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;
use tidegate::{
    domain::chance::Dice,
    store::journal::{Disk, SystemDisk},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
    task::JoinSet,
    time::Instant,
};

use crate::support::{
    client::Client,
    gateway::{self, Gateway, KEY, UPSTREAM_KEY, config},
    process::{Process, run, said, tidegate},
    soon,
    upstream::{LAST_CHUNK, RESPONSE, Request, STREAM, Step, Upstream, chunk, json},
};

/// That of every third request where there is load.
const OTHER_KEY: &str = "sk-test-another-client-key";

/// Two upstreams; `pair` is asked of both.
fn settings(folder: &Path, workers: usize, one: &str, two: &str) {
    let text = format!(
        r#"
[server]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
data_dir = "data"
workers = {workers}
[[upstreams]]
name = "one"
base_url = "{one}"
credentials = [{{ env = "UP_KEY" }}]
[[upstreams]]
name = "two"
base_url = "{two}"
credentials = [{{ env = "UP_KEY" }}]
[[models]]
name = "smart"
targets = [{{ upstream = "one", model = "real" }}]
[[models]]
name = "pair"
targets = [{{ upstream = "one", model = "real" }}, {{ upstream = "two", model = "real" }}]
[[groups]]
name = "team"
max_in_flight = 1000
[[keys]]
name = "a"
group = "team"
secret = {{ env = "A_KEY" }}
[[keys]]
name = "b"
group = "team"
secret = {{ env = "B_KEY" }}
"#
    );
    fs::write(folder.join("tidegate.toml"), text).unwrap();
}

fn with(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = tidegate(folder);
    command.args(arguments).args(["--config", "tidegate.toml"]).env("UP_KEY", UPSTREAM_KEY).env("A_KEY", KEY);
    command.env("B_KEY", OTHER_KEY);
    command
}

/// What a test looks at of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    state: String,
    end: Option<String>,
    upstream: Option<String>,
    bytes_up: i64,
    attempts: i64,
    input: Option<i64>,
    output: Option<i64>,
    key: Option<String>,
    group: Option<String>,
    response: Option<String>,
}

async fn rows(data: &Path) -> Vec<Row> {
    let options = SqliteConnectOptions::new().filename(data.join("ledger.db")).read_only(true);
    let mut database = SqliteConnection::connect_with(&options).await.unwrap();
    let rows = sqlx::query("SELECT * FROM ledger ORDER BY id").fetch_all(&mut database).await.unwrap();
    rows.iter()
        .map(|row| Row {
            state: row.get("state"),
            end: row.get("end_reason"),
            upstream: row.get("upstream"),
            bytes_up: row.get("bytes_up"),
            attempts: row.get("attempts"),
            input: row.get("input_tokens"),
            output: row.get("output_tokens"),
            key: row.get("key_name"),
            group: row.get("group_name"),
            response: row.get("response_id"),
        })
        .collect()
}

/// A body whose length tells which request it is of: the ledger knows nothing else of it.
fn body(model: &str, number: usize) -> String {
    let begin = format!(r#"{{"model":"{model}","number":{number},"pad":""#);
    let length = LENGTH + number;
    format!("{begin}{}\"}}", "x".repeat(length - begin.len() - 2))
}

const LENGTH: usize = 100;

/// What is answered to a request, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Json,
    Stream,
    /// The client leaves in the middle.
    Leaves,
    /// The first upstream fails.
    Failover,
    /// There is no answer, until the gateway is killed.
    Hangs,
}

fn kind(number: usize) -> Kind {
    match number % 32 {
        0..12 => Kind::Json,
        12..20 => Kind::Stream,
        20..24 => Kind::Leaves,
        24..31 => Kind::Failover,
        _ => Kind::Hangs,
    }
}

fn usage(number: usize) -> String {
    let (input, output) = (number + 1, 2 * number + 1);
    format!(r#""id":"resp_{number}","usage":{{"input_tokens":{input},"output_tokens":{output}}}"#)
}

/// An upstream that notes the number of every request that it gets.
async fn upstream(seen: &Arc<Mutex<Vec<usize>>>, fails: bool) -> Upstream {
    let seen = Arc::clone(seen);
    Upstream::scripted(move |request: &Request| {
        let asked: Value = serde_json::from_slice(&request.body).unwrap();
        let number = usize::try_from(asked["number"].as_u64().unwrap()).unwrap();
        seen.lock().unwrap().push(number);
        let whole = json("200 OK", &format!(r#"{{"status":"completed",{}}}"#, usage(number)));
        let first = chunk(b"event: response.created\ndata: {\"type\":\"response.created\"}\n\n");
        match kind(number) {
            Kind::Failover if fails => vec![Step::Send(json("503 Service Unavailable", "{}"))],
            Kind::Json | Kind::Failover => vec![Step::Send(whole)],
            Kind::Stream => {
                let data = format!(r#"{{"type":"response.completed","response":{{{}}}}}"#, usage(number));
                let last = chunk(format!("event: response.completed\ndata: {data}\n\n").as_bytes());
                vec![Step::Send([STREAM, &first, &last, LAST_CHUNK].concat())]
            }
            Kind::Leaves => vec![Step::Send([STREAM, &first].concat()), Step::UntilClosed(oneshot::channel().0)],
            Kind::Hangs => vec![Step::UntilClosed(oneshot::channel().0)],
        }
    })
    .await
}

/// A client's call. Returned is when its answer was whole.
async fn call(address: std::net::SocketAddr, number: usize) -> Option<Instant> {
    let text = answer(address, number).await?;
    (text.starts_with("HTTP/1.1 200") && text.contains(&usage(number))).then(Instant::now)
}

/// What a client got, as far as it waited for it.
async fn answer(address: std::net::SocketAddr, number: usize) -> Option<String> {
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let model = if kind(number) == Kind::Failover { "pair" } else { "smart" };
    let body = body(model, number);
    let key = if number.is_multiple_of(3) { OTHER_KEY } else { KEY };
    let head = format!(
        "POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {key}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    while stream.read_buf(&mut answer).await.ok()? > 0 {
        if kind(number) == Kind::Leaves && answer.windows(8).any(|bytes| bytes == b"response") {
            return None;
        }
    }
    Some(String::from_utf8(answer).unwrap())
}

/// Calls that come one after the other from many clients, until the gateway is gone.
async fn load(address: std::net::SocketAddr, next: Arc<AtomicUsize>, whole: Arc<Mutex<BTreeMap<usize, Instant>>>) {
    let mut clients = JoinSet::new();
    for _ in 0..12 {
        let (next, whole) = (Arc::clone(&next), Arc::clone(&whole));
        clients.spawn(async move {
            let mut hanging = JoinSet::new();
            while tokio::net::TcpStream::connect(address).await.is_ok() {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if kind(number) == Kind::Hangs {
                    hanging.spawn(call(address, number));
                    continue;
                }
                if let Some(at) = call(address, number).await {
                    whole.lock().unwrap().insert(number, at);
                }
            }
        });
    }
    while clients.join_next().await.is_some() {}
}

/// Answers that were whole this long before a kill are in the ledger: 10 ms are promised, and this machine may be busy.
const SURE: Duration = Duration::from_millis(100);

/// Kills a gateway under load so many times and compares its ledger with what the upstreams got.
async fn kill_and_compare(times: u32) {
    let folder = TempDir::new().unwrap();
    let seen = Arc::<Mutex<Vec<usize>>>::default();
    let (one, two) = (upstream(&seen, true).await, upstream(&seen, false).await);
    settings(folder.path(), 2, &one.base_url(), &two.base_url());
    let data = folder.path().join("data");
    let (next, whole) = (Arc::new(AtomicUsize::new(0)), Arc::<Mutex<BTreeMap<usize, Instant>>>::default());
    let (dice, mut sure) = (Dice::seeded(times.into()), BTreeSet::new());
    let copies = folder.path().join("copies");
    fs::create_dir(&copies).unwrap();
    for time in 0..times {
        let mut process = Process::start(&mut with(folder.path(), &["serve"]));
        let address = process.ready();
        let clients = tokio::spawn(load(address, Arc::clone(&next), Arc::clone(&whole)));
        // A moment at random: nothing is waited for.
        tokio::time::sleep(Duration::from_secs_f64(0.05 + dice.draw())).await;
        let killed = Instant::now();
        process.signal("KILL");
        process.exit();
        soon("the clients to notice", clients).await.unwrap();
        let whole = std::mem::take(&mut *whole.lock().unwrap());
        sure.extend(whole.into_iter().filter(|(_, at)| *at + SURE < killed).map(|(number, _)| number));
        for file in fs::read_dir(data.join("journal")).unwrap() {
            let path = file.unwrap().path();
            // Behind all of its own, so that it is read once more after everything.
            fs::copy(&path, copies.join(format!("9{time:02}{}", path.file_name().unwrap().to_str().unwrap()))).unwrap();
        }
    }
    let restart = || {
        let mut process = Process::start(&mut with(folder.path(), &["serve"]));
        process.ready();
        process.signal("INT");
        assert_eq!(process.exit(), Some(0));
        assert_eq!(fs::read_dir(data.join("journal")).unwrap().count(), 0, "something of the journal is left");
    };
    restart();
    let found = rows(&data).await;
    compare(&found, &seen.lock().unwrap(), &sure);
    // All of it again.
    for file in fs::read_dir(&copies).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), data.join("journal").join(file.file_name())).unwrap();
    }
    restart();
    assert_eq!(rows(&data).await, found, "a second replay changed something");
}

fn compare(found: &[Row], seen: &[usize], sure: &BTreeSet<usize>) {
    let mut by_number = BTreeMap::new();
    for row in found {
        let number = usize::try_from(row.bytes_up).unwrap() - LENGTH;
        assert_eq!(by_number.insert(number, row), None, "two rows of request {number}");
        let key = if number.is_multiple_of(3) { "b" } else { "a" };
        assert_eq!((row.key.as_deref(), row.group.as_deref()), (Some(key), Some("team")));
        let (input, output) = (number as i64 + 1, 2 * number as i64 + 1);
        match (&*row.state, row.end.as_deref()) {
            ("exact", Some("completed")) => {
                assert_eq!((row.input, row.output), (Some(input), Some(output)), "{number}: {row:?}");
                assert_eq!(row.response.as_deref(), Some(&*format!("resp_{number}")));
                assert!(matches!(kind(number), Kind::Json | Kind::Stream | Kind::Failover), "{number}: {row:?}");
                let asked = seen.iter().filter(|seen| **seen == number).count();
                assert!(asked >= 1 && asked as i64 <= row.attempts, "{number}: {row:?}, asked {asked} times");
                if kind(number) == Kind::Failover {
                    assert_eq!(row.upstream.as_deref(), Some("two"), "{row:?}");
                }
            }
            ("partial" | "unknown", Some("client_gone")) | ("interrupted", None) => {
                assert_eq!((row.input, row.output), (None, None), "{number}: {row:?}");
            }
            _ => panic!("{number}: {row:?}"),
        }
    }
    let seen: BTreeSet<usize> = seen.iter().copied().collect();
    let missing: Vec<_> = seen.iter().filter(|number| !by_number.contains_key(number)).collect();
    assert!(missing.is_empty(), "without a row: {missing:?}");
    for number in sure {
        assert_eq!(by_number[number].state, "exact", "{number}");
    }
    let count = |state: &str| found.iter().filter(|row| row.state == state).count();
    let [exact, partial, unknown, interrupted] = ["exact", "partial", "unknown", "interrupted"].map(count);
    eprintln!(
        "{} requests reached an upstream, {} rows: {exact} exact, {partial} partial, {unknown} unknown, {interrupted} interrupted",
        seen.len(),
        found.len()
    );
    assert!(!sure.is_empty() && exact > 0 && partial > 0 && interrupted > 0, "the load was not mixed");
}

#[tokio::test]
async fn every_request_has_one_row_after_five_kills() {
    kill_and_compare(5).await;
}

#[tokio::test]
#[ignore = "takes half a minute"]
async fn every_request_has_one_row_after_twenty_kills() {
    kill_and_compare(20).await;
}

/// A disk that fails, at random.
#[derive(Debug)]
struct FaultyDisk {
    dice: Dice,
    /// Of so many calls in a hundred.
    percent: AtomicUsize,
    faults: AtomicUsize,
}

impl FaultyDisk {
    fn fails(&self) -> io::Result<()> {
        if self.dice.draw() * 100.0 > self.percent.load(Ordering::Relaxed) as f64 {
            return Ok(());
        }
        let faults = self.faults.fetch_add(1, Ordering::Relaxed);
        Err(if faults.is_multiple_of(2) { io::ErrorKind::StorageFull.into() } else { io::Error::other("EIO") })
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<fs::File> {
        self.fails()?;
        SystemDisk.create(path)
    }

    fn append(&self, file: &fs::File, records: &[u8]) -> io::Result<()> {
        if let Err(error) = self.fails() {
            // Any part of it is there, none and all of it among them.
            let part = (self.dice.draw() * (records.len() + 1) as f64) as usize;
            SystemDisk.append(file, &records[..part.min(records.len())])?;
            return Err(error);
        }
        SystemDisk.append(file, records)
    }

    fn cut(&self, file: &fs::File, length: u64) -> io::Result<()> {
        self.fails()?;
        SystemDisk.cut(file, length)
    }

    fn sync(&self, file: &fs::File) -> io::Result<()> {
        self.fails()?;
        SystemDisk.sync(file)
    }
}

#[tokio::test]
async fn a_disk_that_fails_at_random_loses_no_row_and_lets_nothing_up_without_one() {
    static DISK: FaultyDisk =
        FaultyDisk { dice: Dice::seeded(4), percent: AtomicUsize::new(0), faults: AtomicUsize::new(0) };
    let seen = Arc::<Mutex<Vec<usize>>>::default();
    let (one, two) = (upstream(&seen, true).await, upstream(&seen, false).await);
    let mut config = config(&one.base_url());
    config.server.workers = 2;
    // Failures are all that the first is asked for at times: it stays in use.
    config.health.consecutive_faults = 100_000;
    config.health.fault_percent = 100;
    config.retries.percent = 100;
    config.upstreams.push(gateway::upstream("two", &two.base_url()));
    config.keys.push(gateway::key("other", OTHER_KEY));
    config.models.push(gateway::model("pair", &[(0, Some("real")), (1, Some("real"))]));
    let mut gateway = Gateway::start_on(&DISK, config);
    let next = Arc::new(AtomicUsize::new(0));
    let (mut refused, mut served) = (BTreeSet::new(), BTreeSet::new());
    // Between times of fault everything is as it should be.
    for percent in [30, 0, 60, 0, 100, 0] {
        DISK.percent.store(percent, Ordering::Relaxed);
        let until = next.load(Ordering::Relaxed) + 200;
        let mut clients = JoinSet::new();
        for _ in 0..8 {
            let (next, address) = (Arc::clone(&next), gateway.address);
            clients.spawn(async move {
                let mut answers = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= until {
                        return answers;
                    }
                    if kind(number) != Kind::Hangs {
                        answers.push((number, answer(address, number).await));
                    }
                }
            });
        }
        while let Some(answers) = soon("the clients", clients.join_next()).await {
            for (number, answer) in answers.unwrap() {
                match answer {
                    Some(text) if text.starts_with("HTTP/1.1 503") && text.contains("ledger_unavailable") => {
                        refused.insert(number);
                    }
                    Some(text) if text.starts_with("HTTP/1.1 200") && text.contains(&usage(number)) => {
                        assert!(percent < 100, "{number} was served without a row");
                        served.insert(number);
                    }
                    Some(text) => panic!("{number}: {text}"),
                    None => assert_eq!(kind(number), Kind::Leaves),
                }
            }
        }
        if percent == 0 {
            gateway.metric_becomes("tidegate_ledger_fault{fault=\"journal\"}", 0.0).await;
            gateway.metric_becomes("tidegate_ledger_fault{fault=\"journal_sync\"}", 0.0).await;
        }
    }
    gateway.stop();
    gateway.ended().await;
    let seen: BTreeSet<usize> = seen.lock().unwrap().iter().copied().collect();
    assert_eq!(seen.intersection(&refused).next(), None, "went up without a row");
    let rows = rows(gateway.folder.path()).await;
    let numbers: Vec<_> = rows.iter().map(|row| row.bytes_up as usize - LENGTH).collect();
    assert_eq!(numbers.len(), seen.len(), "not one row each");
    assert_eq!(numbers.iter().copied().collect::<BTreeSet<_>>(), seen);
    for (number, row) in numbers.iter().zip(&rows) {
        let told = (row.input, row.output);
        if kind(*number) == Kind::Leaves {
            assert_eq!((&*row.state, row.end.as_deref(), told), ("partial", Some("client_gone"), (None, None)));
        } else {
            let known = (Some(*number as i64 + 1), Some(2 * *number as i64 + 1));
            assert_eq!((&*row.state, told), ("exact", known), "{number}: {row:?}");
        }
    }
    let left = fs::read_dir(gateway.folder.path().join("journal")).unwrap().count();
    let faults = DISK.faults.load(Ordering::Relaxed);
    eprintln!("{faults} faults: {} refused, {} served, {} rows", refused.len(), served.len(), rows.len());
    assert!(faults > 100 && refused.len() > 100 && served.len() > 300, "the faults were not mixed");
    assert_eq!(left, 0, "the journal is read at the next start");
}

/// A disk that takes nothing beyond a size: the system's limit of the size of files.
#[cfg(target_os = "linux")]
fn limit_files(process: &Process, limit: Option<u64>) {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let id = Pid::from_raw(i32::try_from(process.id()).unwrap());
    prlimit(id, Resource::Fsize, Rlimit { current: limit, maximum: None }).unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_cannot_be_put_down_does_not_go_up() {
    let folder = TempDir::new().unwrap();
    let (go, wait) = oneshot::channel();
    let mut first = Some(wait);
    let last = format!("data: {{\"type\":\"response.completed\",\"response\":{RESPONSE}}}\n\n");
    let mut upstream = Upstream::scripted(move |_| match first.take() {
        Some(wait) => {
            let rest = [chunk(last.as_bytes()), LAST_CHUNK.to_vec()].concat();
            vec![Step::Send([STREAM, &chunk(b"data: {}\n\n")].concat()), Step::Wait(wait), Step::Send(rest)]
        }
        None => vec![Step::Send(json("200 OK", RESPONSE))],
    })
    .await;
    settings(folder.path(), 1, &upstream.base_url(), &upstream.base_url());
    // The signal of that limit would end the process, as a full disk does not.
    let mut command = with(folder.path(), &[]);
    let script = format!("trap '' XFSZ; exec {} serve --config tidegate.toml", env!("CARGO_BIN_EXE_tidegate"));
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).env_clear().current_dir(folder.path());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command = shell;
    let mut process = Process::start(&mut command);
    let address = process.ready();
    let mut streaming = Client::connect(address).await;
    streaming.post(body("smart", 1)).await;
    let mut answer = streaming.head().await;
    assert_eq!(answer.status, 200);
    upstream.request().await;

    // In the middle of the next record.
    let journal = fs::read_dir(folder.path().join("data/journal")).unwrap();
    let length = journal.map(|file| file.unwrap().metadata().unwrap().len()).max().unwrap();
    limit_files(&process, Some(length + 20));
    for _ in 0..3 {
        let refused = Client::connect(address).await.create(body("smart", 2)).await;
        refused.assert_problem(503, "ledger_unavailable");
        assert_eq!((refused.header("retry-after"), refused.header("x-should-retry")), (Some("1"), None));
    }
    assert_eq!(upstream.untaken(), 0, "something went up");
    // What is under way goes on.
    go.send(()).unwrap();
    soon("the stream to end", streaming.body(&mut answer)).await;
    assert!(answer.whole);
    process.logged("the journal of the ledger cannot be written");
    let mut admin = Client::connect(process.admin()).await;
    let ready = admin.get("/readyz").await;
    assert_eq!(ready.status, 200, "other replicas share the disk as like as not");
    assert!(ready.json()["ledger"]["faults"].to_string().contains("journal"), "{ready:?}");
    let metrics = admin.get("/metrics").await.text();
    assert!(metrics.contains("tidegate_ledger_fault{fault=\"journal\"} 1\n"), "{metrics}");

    limit_files(&process, None);
    let served = Client::connect(address).await.create(body("smart", 3)).await;
    assert_eq!(served.status, 200);
    soon("the ledger to be as it was", async {
        loop {
            let ledger = admin.get("/readyz").await.json()["ledger"].take();
            if ledger["faults"] == serde_json::json!([]) && ledger["waiting"] == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    process.signal("INT");
    assert_eq!(process.exit(), Some(0));
    let rows = rows(&folder.path().join("data")).await;
    let found: Vec<_> = rows.iter().map(|row| (row.bytes_up as usize - LENGTH, &*row.state, row.input)).collect();
    assert_eq!(found, [(1, "exact", Some(3)), (3, "exact", Some(3))]);
}

#[tokio::test]
async fn a_row_says_how_its_request_ended() {
    let mut steps = vec![
        vec![Step::Send(json("200 OK", RESPONSE))],
        vec![Step::Send(json("400 Bad Request", r#"{"error":{"message":"no"}}"#))],
        vec![Step::Send(json("200 OK", "{}"))],
        vec![Step::Close],
        vec![Step::Send([STREAM, &chunk(b"data: {}\n\n")].concat()), Step::Close],
        vec![Step::Send([STREAM, &chunk(b"data: {}\n\n")].concat()), Step::UntilClosed(oneshot::channel().0)],
    ]
    .into_iter();
    let upstream = Upstream::scripted(move |_| steps.next().unwrap()).await;
    let mut config = config(&upstream.base_url());
    config.retries.max_attempts = 1;
    let mut gateway = Gateway::start(config);
    for number in 0..6 {
        let mut client = gateway.connect().await;
        client.post(body("smart", number)).await;
        let mut answer = client.head().await;
        if number == 5 {
            // It is under way when everything ends.
            gateway.stop();
        }
        client.body(&mut answer).await;
    }
    // Nothing went up, so there is no row.
    gateway.ended().await;
    let expected = [
        ("exact", "completed", Some(3)),
        ("exact", "upstream_error", None),
        ("partial", "completed", None),
        ("unknown", "refused", None),
        ("partial", "upstream_broken", None),
        ("partial", "gateway_stop", None),
    ];
    let rows = rows(gateway.folder.path()).await;
    let found: Vec<_> = rows.iter().map(|row| (&*row.state, row.end.as_deref().unwrap(), row.input)).collect();
    assert_eq!(found, expected);
    assert!(rows.iter().all(|row| row.attempts == 1 && row.upstream.as_deref() == Some("up")), "{rows:?}");
    let journal = fs::read_dir(gateway.folder.path().join("journal")).unwrap().count();
    assert_eq!(journal, 0, "the journal is not read at the next start");
}

#[tokio::test]
async fn what_is_refused_before_anything_goes_up_has_no_row() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut gateway = Gateway::before(&upstream.base_url());
    for body in ["{", r#"{"model":"nobody"}"#, "{}"] {
        assert!(gateway.post("", body).await.status >= 400);
    }
    gateway.connect().await.get("/v1/models").await;
    gateway.stop();
    gateway.ended().await;
    assert_eq!(rows(gateway.folder.path()).await, []);
}

#[tokio::test]
async fn usage_sums_up_beside_the_gateway_and_after_it() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = TempDir::new().unwrap();
    settings(folder.path(), 1, &upstream.base_url(), &upstream.base_url());
    // Without the variables of credentials and keys.
    let usage =
        |arguments: &[&str]| run(tidegate(folder.path()).args(["--config", "tidegate.toml", "usage"]).args(arguments));
    let none = usage(&[]);
    assert!(!none.status.success() && said(&none).contains("there is no ledger at "), "{}", said(&none));

    let mut process = Process::start(&mut with(folder.path(), &["serve"]));
    let address = process.ready();
    let table = soon("an empty ledger", async {
        loop {
            let empty = usage(&[]);
            if empty.status.success() {
                return said(&empty);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(table.starts_with("key  ") && table.lines().count() == 2, "{table}");
    for model in ["smart", "pair", "pair"] {
        assert_eq!(Client::connect(address).await.create(body(model, 1)).await.status, 200);
    }
    let json = |arguments: &[&str]| -> Value {
        let output = usage(&[arguments, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)))
    };
    soon("three rows", async {
        while json(&[])[0]["requests"] != 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let expected = serde_json::json!([{
        "key": "a", "requests": 3, "input": 9, "cached": 3, "output": 15, "reasoning": 6,
        "exact": 3, "partial": 0, "unknown": 0, "interrupted": 0,
        "unpriced": 3, "estimated": 0, "cost_cny": "0", "cost_usd": "0",
    }]);
    assert_eq!(json(&["--since", "1d"]), expected);
    assert_eq!(json(&["--since", "2100-01-01"]), serde_json::json!([]));
    let names =
        |by: &str| json(&["--by", by]).as_array().unwrap().iter().map(|one| one[by].clone()).collect::<Vec<_>>();
    assert_eq!(names("model"), ["pair", "smart"]);
    assert_eq!((names("group"), names("upstream")), (vec!["team".into()], vec!["one".into()]));
    assert_eq!(names("day")[0].as_str().unwrap().len(), "2026-11-01".len());
    process.signal("INT");
    assert_eq!(process.exit(), Some(0));
    let csv = said(&usage(&["--csv", "--by", "model"]));
    assert!(csv.ends_with("\npair,2,6,2,10,4,2,0,0,0,2,0,0,0\nsmart,1,3,1,5,2,1,0,0,0,1,0,0,0\n"), "{csv}");
    let lines = said(&usage(&["--rows", "--json"]));
    let objects: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let models: Vec<_> = objects.iter().map(|row| row["model"].as_str().unwrap()).collect();
    assert_eq!(models, ["smart", "pair", "pair"]);
    for (name, value) in [
        ("key", Value::from("a")),
        ("upstream_model", "real".into()),
        ("credential", "UP_KEY".into()),
        ("state", "exact".into()),
        ("end", "completed".into()),
        ("status", 200.into()),
        ("input_tokens", 3.into()),
        ("attempts", 1.into()),
        ("cost", Value::Null),
        ("estimated", false.into()),
    ] {
        assert_eq!(objects[0][name], value, "{name}");
    }
    let csv = said(&usage(&["--rows"]));
    assert!(csv.starts_with("id,time,state,origin,key,") && csv.lines().count() == 4, "{csv}");
    assert_eq!(said(&usage(&["--rows", "--csv", "--until", "2000-01-01"])).lines().count(), 1);
    assert_eq!(said(&usage(&["--csv", "--until", "2000-01-01"])).lines().count(), 1);
    assert!(!usage(&["--rows", "--by", "key"]).status.success());
    let wrong = usage(&["--since", "yesterday"]);
    assert!(!wrong.status.success() && said(&wrong).contains("30d, 12h, 30m"), "{}", said(&wrong));
}
