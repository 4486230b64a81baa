//! The whole matrix: what goes wrong, when, with which candidates left, and what the operator allows.
//!
//! Every combination is one request at one gateway, with upstreams of its own.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use tidegate::config::{Config, FailoverOn};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
    sync::oneshot,
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use crate::support::{
    client::{Answer, Client},
    gateway::{Gateway, config, credential, model, upstream},
    upstream::{LAST_CHUNK, Request, STREAM, Step, Upstream, answer, chunk, json},
};

/// What the healthy one answers.
const GOOD: &str = r#"{"id":"resp_good","object":"response","status":"completed"}"#;
/// What the failing one answers.
const BAD: &str = r#"{"error":{"message":"from the first","type":"some_type","param":null,"code":"CODE"}}"#;
const EVENT: &[u8] = b"data: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n";
const COMPLETED: &[u8] = b"data: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\"}}\n\n";

/// Which of the opt-ins lets a fault lead on.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Leads {
    Always,
    Disconnect,
    Timeout,
    Empty,
    Never,
}

/// Who else may be asked after it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Whose {
    Credential,
    Target,
    Upstream,
    Way,
}

/// What the client gets of the failing one.
#[derive(Clone, Copy, Debug)]
enum Gets {
    /// Its answer, to the byte.
    Theirs(u16),
    Ours(u16, &'static str),
    /// A 200 with this body, and whether it is whole.
    Success(&'static [u8], bool),
}

/// What the failing one does.
#[derive(Clone, Copy, Debug)]
enum Does {
    /// Nothing listens there.
    NoPort,
    NoTls,
    /// The request is read, and then this.
    Reset,
    Close,
    Garbage,
    Silence,
    /// Status, further headers, the code in its body.
    Fails(&'static str, &'static str, &'static str),
    Html,
    Empty,
    EmptyStream,
    /// A head and its end, in the midst of the body.
    Breaks,
    /// The first byte after the head went out.
    Slow,
    /// One event, and then this.
    EventReset,
    EventClose,
    EventEnd,
}

struct Fault {
    name: &'static str,
    does: Does,
    leads: Leads,
    whose: Whose,
    /// Whether it may be asked again where nothing else is left.
    again: bool,
    gets: Gets,
    /// Label of its attempts.
    result: &'static str,
}

const fn status(
    name: &'static str,
    fails: (&'static str, &'static str, &'static str),
    whose: Whose,
    again: bool,
    gets: Gets,
    result: &'static str,
) -> Fault {
    Fault { name, does: Does::Fails(fails.0, fails.1, fails.2), leads: Leads::Always, whose, again, gets, result }
}

const fn fault(name: &'static str, does: Does, leads: Leads, gets: Gets, result: &'static str) -> Fault {
    Fault { name, does, leads, whose: Whose::Upstream, again: false, gets, result }
}

const AUTH: Gets = Gets::Ours(502, "upstream_auth");
const CUT: Gets = Gets::Ours(502, "upstream_disconnected");
const NO_API: Gets = Gets::Ours(502, "upstream_bad_answer");

#[rustfmt::skip]
const FAULTS: [Fault; 37] = [
    // Before connect.
    Fault { name: "connect: refused", does: Does::NoPort, leads: Leads::Always, whose: Whose::Way, again: true,
            gets: Gets::Ours(502, "upstream_unreachable"), result: "upstream_unreachable" },
    Fault { name: "connect: no TLS", does: Does::NoTls, leads: Leads::Always, whose: Whose::Way, again: true,
            gets: Gets::Ours(502, "upstream_unreachable"), result: "upstream_unreachable" },
    // After the request was sent.
    fault("sent: reset", Does::Reset, Leads::Disconnect, CUT, "upstream_disconnected"),
    fault("sent: closed", Does::Close, Leads::Disconnect, CUT, "upstream_disconnected"),
    fault("sent: garbage", Does::Garbage, Leads::Disconnect, NO_API, "upstream_bad_answer"),
    fault("sent: silence", Does::Silence, Leads::Timeout, Gets::Ours(504, "upstream_timeout"), "upstream_timeout"),
    // A head that says no.
    status("400", ("400 Bad Request", "", "bad_thing"), Whose::Upstream, false, Gets::Theirs(400), "4xx").never(),
    status("401", ("401 Unauthorized", "", "invalid_api_key"), Whose::Credential, false, AUTH, "4xx"),
    status("402", ("402 Payment Required", "", "no_money"), Whose::Credential, false, AUTH, "4xx"),
    status("403", ("403 Forbidden", "", "no_access"), Whose::Upstream, false, Gets::Theirs(403), "4xx").never(),
    status("403 balance", ("403 Forbidden", "", "used_up"), Whose::Credential, false, AUTH, "4xx"),
    status("403 model", ("403 Forbidden", "", "model_not_allowed"), Whose::Target, false, Gets::Theirs(403), "4xx"),
    status("404 model", ("404 Not Found", "", "model_not_found"), Whose::Target, false, Gets::Theirs(404), "4xx"),
    status("503 model", ("503 Service Unavailable", "", "model_not_found"), Whose::Target, false, Gets::Theirs(503), "5xx"),
    status("408", ("408 Request Timeout", "", "timeout"), Whose::Upstream, true, Gets::Theirs(408), "4xx"),
    status("429", ("429 Too Many Requests", "", "rate_limit"), Whose::Credential, false, Gets::Theirs(429), "429"),
    status("429 after 0.05 s", ("429 Too Many Requests", "retry-after-ms: 50\r\n", "rate_limit"), Whose::Credential, true, Gets::Theirs(429), "429"),
    status("429 after 1 s", ("429 Too Many Requests", "retry-after: 1\r\n", "rate_limit"), Whose::Credential, true, Gets::Theirs(429), "429"),
    status("429 after 60 s", ("429 Too Many Requests", "retry-after: 60\r\n", "rate_limit"), Whose::Credential, false, Gets::Theirs(429), "429"),
    status("429 quota", ("429 Too Many Requests", "", "insufficient_quota"), Whose::Credential, false, Gets::Theirs(429), "429"),
    status("500", ("500 Internal Server Error", "", "oops"), Whose::Upstream, true, Gets::Theirs(500), "5xx"),
    status("502", ("502 Bad Gateway", "", "oops"), Whose::Upstream, true, Gets::Theirs(502), "5xx"),
    status("503", ("503 Service Unavailable", "", "server_is_overloaded"), Whose::Upstream, true, Gets::Theirs(503), "5xx"),
    status("503 after 60 s", ("503 Service Unavailable", "retry-after: 60\r\n", "oops"), Whose::Upstream, false, Gets::Theirs(503), "5xx"),
    status("503 never again", ("503 Service Unavailable", "x-should-retry: false\r\n", "oops"), Whose::Upstream, false, Gets::Theirs(503), "5xx"),
    status("529", ("529 Overloaded", "", "overloaded_error"), Whose::Upstream, true, Gets::Theirs(529), "5xx"),
    // A head that is none of an API.
    fault("302", Does::Fails("302 Found", "location: https://example.com/\r\n", ""), Leads::Always, NO_API, "upstream_bad_answer"),
    fault("307", Does::Fails("307 Temporary Redirect", "location: /x\r\n", ""), Leads::Always, NO_API, "upstream_bad_answer"),
    fault("200 HTML", Does::Html, Leads::Always, NO_API, "upstream_bad_answer"),
    // A success without a byte.
    fault("200 empty", Does::Empty, Leads::Empty, Gets::Success(b"", true), "2xx"),
    fault("200 empty stream", Does::EmptyStream, Leads::Empty, Gets::Success(b"", true), "2xx"),
    fault("200 broken at 0", Does::Breaks, Leads::Empty, Gets::Success(b"", false), "2xx"),
    fault("200 slow", Does::Slow, Leads::Never, Gets::Success(COMPLETED, true), "2xx"),
    // After the first byte.
    fault("event: reset", Does::EventReset, Leads::Never, Gets::Success(EVENT, false), "2xx"),
    fault("event: closed", Does::EventClose, Leads::Never, Gets::Success(EVENT, false), "2xx"),
    fault("event: clean end", Does::EventEnd, Leads::Never, Gets::Success(EVENT, true), "2xx"),
    fault("200", Does::Fails("200 OK", "", ""), Leads::Never, Gets::Theirs(200), "2xx"),
];

impl Fault {
    const fn never(mut self) -> Self {
        self.leads = Leads::Never;
        self
    }
}

/// Who is left after the failing one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    Nobody,
    Credential,
    Upstream,
}

/// What one upstream of one case does, and what it saw.
struct Role {
    does: Does,
    /// Only the first request is treated so, the others are answered well.
    once: bool,
    seen: Vec<Request>,
    /// Let go what waits.
    go: Vec<oneshot::Sender<()>>,
}

/// All scripted upstreams of one gateway behind one address, told apart by their paths: with an address each, so many
/// would now and then be met by what another test on this machine still sends to one that it used before.
struct Stage {
    roles: Arc<Mutex<BTreeMap<String, Role>>>,
    upstream: Upstream,
}

impl Stage {
    async fn new() -> Self {
        let roles: Arc<Mutex<BTreeMap<String, Role>>> = Arc::default();
        let plays = Arc::clone(&roles);
        let upstream = Upstream::scripted(move |request| {
            let mut roles = plays.lock().unwrap();
            let name = request.line.strip_prefix("POST /").and_then(|rest| rest.strip_suffix("/responses HTTP/1.1"));
            let Some(role) = name.and_then(|name| roles.get_mut(name)) else { return vec![Step::Close] };
            role.seen.push(request.clone());
            if role.once && role.seen.len() > 1 {
                return vec![Step::Send(json("200 OK", GOOD))];
            }
            steps(role.does, &mut role.go)
        })
        .await;
        Self { roles, upstream }
    }

    /// A new upstream.
    fn scripted(&self, name: &str, does: Does, once: bool) -> Scripted {
        self.roles.lock().unwrap().insert(name.to_owned(), Role { does, once, seen: Vec::new(), go: Vec::new() });
        let base_url = format!("http://{}/{name}", self.upstream.address);
        Scripted { name: name.to_owned(), base_url, roles: Arc::clone(&self.roles), unreachable: None }
    }
}

/// One upstream of one case.
struct Scripted {
    name: String,
    base_url: String,
    roles: Arc<Mutex<BTreeMap<String, Role>>>,
    /// Holds what cannot be reached.
    unreachable: Option<JoinHandle<()>>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        if let Some(unreachable) = &self.unreachable {
            unreachable.abort();
        }
    }
}

impl Scripted {
    /// Puts something in its place that cannot be reached.
    async fn unreachable(&mut self, does: Does) {
        if let Does::NoPort = does {
            // Bound and never listened on: nobody else gets the port either.
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            self.base_url = format!("http://{}/up", socket.local_addr().unwrap());
            self.unreachable = Some(tokio::spawn(async move {
                let _held = socket;
                std::future::pending().await
            }));
        } else {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            self.base_url = format!("https://{}/up", listener.local_addr().unwrap());
            self.unreachable = Some(tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let _ = stream.read(&mut [0; 1024]).await;
                    let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                }
            }));
        }
    }

    fn role<T>(&self, with: impl FnOnce(&mut Role) -> T) -> T {
        with(self.roles.lock().unwrap().get_mut(&self.name).unwrap())
    }

    fn requests(&self) -> Vec<Request> {
        self.role(|role| role.seen.clone())
    }

    /// Lets go what waits.
    fn go(&self) {
        for go in self.role(|role| std::mem::take(&mut role.go)) {
            let _ = go.send(());
        }
    }
}

/// The answer of one that fails with a status.
fn theirs(head: &str, headers: &str, code: &str) -> (Vec<u8>, Vec<u8>) {
    let body = if head.starts_with("200") { r#"{"id":"resp_first"}"#.to_owned() } else { BAD.replace("CODE", code) };
    let plain = String::from_utf8(json(head, &body)).unwrap();
    (plain.replacen("\r\n", &format!("\r\nx-ratelimit-remaining-requests: 7\r\n{headers}"), 1).into(), body.into())
}

fn steps(does: Does, waiting: &mut Vec<oneshot::Sender<()>>) -> Vec<Step> {
    let mut wait = || {
        let (go, gone) = oneshot::channel();
        waiting.push(go);
        Step::Wait(gone)
    };
    let send = |bytes: &[u8]| Step::Send(bytes.to_vec());
    match does {
        Does::NoPort | Does::NoTls => Vec::new(),
        Does::Reset => vec![Step::Reset],
        Does::Close => vec![Step::Close],
        Does::Garbage => vec![send(b"\x16\x03 this is not HTTP\r\n\r\n"), Step::Close],
        Does::Silence => vec![Step::UntilClosed(oneshot::channel().0)],
        Does::Fails(head, headers, code) => vec![Step::Send(theirs(head, headers, code).0)],
        Does::Html => vec![Step::Send(answer("200 OK", "text/html", b"<html>log in</html>"))],
        Does::Empty => vec![Step::Send(json("200 OK", ""))],
        Does::EmptyStream => vec![send(STREAM), send(LAST_CHUNK)],
        Does::Breaks => vec![send(STREAM), Step::Close],
        Does::Slow => vec![send(STREAM), wait(), Step::Send(chunk(COMPLETED)), send(LAST_CHUNK)],
        Does::EventReset => vec![send(STREAM), Step::Send(chunk(EVENT)), wait(), Step::Reset],
        Does::EventClose => vec![send(STREAM), Step::Send(chunk(EVENT)), wait(), Step::Close],
        Does::EventEnd => vec![send(STREAM), Step::Send(chunk(EVENT)), wait(), send(LAST_CHUNK)],
    }
}

/// One case, ready.
struct Case {
    fault: &'static Fault,
    opted: bool,
    left: Left,
    max: usize,
    first: Scripted,
    second: Scripted,
    /// Of its upstreams and of its model.
    name: String,
}

/// What came of a case.
#[derive(Clone, Debug)]
struct Found {
    got: String,
    first: usize,
    second: usize,
    retries: f64,
    failovers: f64,
    head_after: Duration,
}

impl Case {
    async fn new(stage: &Stage, fault: &'static Fault, (opted, left, max): (bool, Left, usize), nth: usize) -> Self {
        let name = format!("c{nth}");
        let mut first = stage.scripted(&format!("{name}-first"), fault.does, left == Left::Credential);
        if matches!(fault.does, Does::NoPort | Does::NoTls) {
            first.unreachable(fault.does).await;
        }
        let second = stage.scripted(&format!("{name}-second"), Does::Fails("200 OK", "", ""), false);
        Self { fault, opted, left, max, first, second, name }
    }

    /// Puts its upstreams and its model into the configuration.
    fn configure(&self, config: &mut Config) {
        let mut first = upstream(&format!("{}-first", self.name), &self.first.base_url);
        first.credentials = vec![credential("one", "sk-first-one")];
        if self.left == Left::Credential {
            first.credentials.push(credential("two", "sk-first-two"));
        }
        let all = FailoverOn { disconnect: true, timeout: true, empty: true };
        first.failover_on = if self.opted { all } else { FailoverOn::default() };
        let mut second = upstream(&format!("{}-second", self.name), &self.second.base_url);
        second.credentials = vec![credential("three", "sk-second")];
        let at = config.upstreams.len();
        let mut targets = vec![(at, Some("alpha"))];
        if self.left == Left::Upstream {
            targets.push((at + 1, Some("beta-longer")));
        }
        config.upstreams.extend([first, second]);
        config.models.push(model(&self.name, &targets));
    }

    /// Whether the fault leads to another attempt, if there is one to make.
    fn leads(&self) -> bool {
        match self.fault.leads {
            Leads::Always => true,
            Leads::Never => false,
            // The head is held only while another upstream is left.
            Leads::Empty => self.opted && self.left == Left::Upstream && self.max > 1,
            Leads::Disconnect | Leads::Timeout => self.opted,
        }
    }

    /// Attempts at the first and at the second, and whether the client gets a good answer.
    fn wanted(&self) -> (usize, usize, bool) {
        let fault = self.fault;
        if !self.leads() || self.max == 1 {
            return (1, 0, false);
        }
        match self.left {
            Left::Upstream => (1, 1, true),
            // An upstream that wants to be left alone for long is, with any credential.
            Left::Credential if fault.name == "503 after 60 s" => (1, 0, false),
            Left::Credential if !matches!(fault.whose, Whose::Way | Whose::Target) => (2, 0, true),
            _ if fault.again => (self.max, 0, false),
            _ => (1, 0, false),
        }
    }

    async fn run(self, gateway: Arc<Gateway>) -> (Self, Found) {
        let about = format!("{} opted={} left={:?} max={}", self.fault.name, self.opted, self.left, self.max);
        let body = format!(r#"{{"input":"hé","model":"{}","x":[1, 2]}}"#, self.name);
        let mut client = gateway.connect().await;
        let began = Instant::now();
        client.post(&body).await;
        let mut answer = client.head().await;
        let head_after = began.elapsed();
        if matches!(self.fault.does, Does::EventReset | Does::EventClose | Does::EventEnd) {
            answer.body = client.chunk().await.unwrap();
        }
        self.first.go();
        client.body(&mut answer).await;
        assert!(client.take().is_empty(), "{about}: more than one answer");

        let (first, second, good) = self.wanted();
        self.check_answer(&about, &answer, good);
        let (one, two) = (self.first.requests(), self.second.requests());
        self.check_requests(&about, &body, &one, &two, first);
        assert_eq!(two.len(), second, "{about}: at the second");
        if self.leads() || !matches!(answer.status, 200) {
            still_alive(&mut client, answer.whole).await;
        }
        let got = match (good, answer.whole) {
            (true, _) => "200 of the other".to_owned(),
            (false, whole) => {
                let code = if answer.status == 200 { String::new() } else { self.code(&answer) };
                format!("{}{code}{}", answer.status, if whole { "" } else { ", broken" })
            }
        };
        (self, Found { got, first, second, retries: 0.0, failovers: 0.0, head_after })
    }

    fn code(&self, answer: &Answer) -> String {
        match self.fault.gets {
            Gets::Ours(..) => format!(" {}", answer.json()["error"]["code"].as_str().unwrap()),
            _ => " theirs".to_owned(),
        }
    }

    fn check_answer(&self, about: &str, answer: &Answer, good: bool) {
        if good {
            assert_eq!(answer.status, 200, "{about}: {answer:?}");
            let body = String::from_utf8_lossy(&answer.body);
            let wanted = if self.left == Left::Upstream { r#"{"id":"resp_first"}"# } else { GOOD };
            assert_eq!(body, wanted, "{about}");
            return;
        }
        match self.fault.gets {
            Gets::Ours(status, code) => answer.assert_problem(status, code),
            Gets::Theirs(status) => {
                let Does::Fails(head, headers, code) = self.fault.does else { panic!("{about}") };
                assert_eq!(answer.status, status, "{about}: {answer:?}");
                assert_eq!(answer.body, theirs(head, headers, code).1, "{about}");
                assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some("7"), "{about}");
                for line in headers.lines() {
                    let (name, value) = line.split_once(": ").unwrap();
                    assert_eq!(answer.header(name), Some(value), "{about}");
                }
            }
            Gets::Success(body, whole) => {
                assert_eq!((answer.status, answer.whole), (200, whole), "{about}: {answer:?}");
                assert_eq!(answer.body, body, "{about}");
            }
        }
    }

    /// Who was asked, with what: the credential, the model and every other byte.
    fn check_requests(&self, about: &str, body: &str, one: &[Request], two: &[Request], first: usize) {
        if self.first.unreachable.is_none() {
            assert_eq!(one.len(), first, "{about}: at the first");
        }
        let text = |request: &Request| String::from_utf8(request.body.clone()).unwrap();
        for request in one {
            assert_eq!(text(request), body.replace(&self.name, "alpha"), "{about}: {request:?}");
        }
        for request in two {
            assert_eq!(text(request), body.replace(&self.name, "beta-longer"), "{about}: {request:?}");
            assert_eq!(request.header("authorization"), Some("Bearer sk-second"), "{about}");
        }
        let keys: Vec<_> = one.iter().map(|request| request.header("authorization").unwrap()).collect();
        match (self.left, keys.as_slice()) {
            (Left::Credential, [key, other]) => assert_ne!(key, other, "{about}: the same credential again"),
            (Left::Credential, _) => {}
            (_, keys) => assert!(keys.iter().all(|key| *key == "Bearer sk-first-one"), "{about}: {keys:?}"),
        }
    }
}

/// The connection of a client that got a whole answer serves another request.
async fn still_alive(client: &mut Client, whole: bool) {
    if whole {
        assert_eq!(client.get("/v1/models").await.status, 200);
    }
}

/// Every metric by its whole name.
async fn metrics(gateway: &Gateway) -> BTreeMap<String, f64> {
    let text = gateway.metrics_text().await;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap()).map(|(name, n)| (name.to_owned(), n.parse().unwrap())).collect()
}

/// All cases of one number of attempts. Those that wait in vain for an answer have a gateway of their own, whose time for
/// that is short; no other depends on how fast this machine is.
async fn with_attempts(max: usize) -> Vec<(Case, Found)> {
    // And a thread, as the many cases of the others keep this one busy for long.
    let silent = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(with_gateway(max, Duration::from_secs(5), |does| matches!(does, Does::Silence)))
    });
    let others = with_gateway(max, Duration::from_secs(600), |does| !matches!(does, Does::Silence)).await;
    let mut silent = silent.await.unwrap();
    silent.extend(others);
    silent.sort_by_key(|(case, _)| case.name[1..].parse::<usize>().unwrap());
    silent
}

async fn with_gateway(max: usize, upstream_head: Duration, takes: fn(&Does) -> bool) -> Vec<(Case, Found)> {
    let stage = Stage::new().await;
    let mut cases = Vec::new();
    for (nth, fault) in FAULTS.iter().enumerate().filter(|(_, fault)| takes(&fault.does)) {
        for (part, opted) in [false, true].into_iter().enumerate() {
            for (place, left) in [Left::Nobody, Left::Credential, Left::Upstream].into_iter().enumerate() {
                cases.push(Case::new(&stage, fault, (opted, left, max), nth * 6 + part * 3 + place).await);
            }
        }
    }
    let mut settings = config("http://127.0.0.1:9/unused");
    settings.retries.max_attempts = max;
    settings.timeouts.upstream_head = upstream_head;
    settings.timeouts.upstream_connect = Duration::from_secs(60);
    settings.timeouts.first_byte = Duration::from_secs(60);
    settings.timeouts.head = Duration::from_secs(60);
    cases.iter().for_each(|case| case.configure(&mut settings));
    let gateway = Arc::new(Gateway::start(settings));
    let mut running = JoinSet::new();
    let mut found = Vec::new();
    let mut rest = cases.into_iter();
    loop {
        // Not all at once: a machine that is too busy knows other faults.
        while running.len() < 24
            && let Some(case) = rest.next()
        {
            running.spawn(case.run(Arc::clone(&gateway)));
        }
        match running.join_next().await {
            Some(done) => found.push(done.unwrap()),
            None => break,
        }
    }
    gateway.metric_becomes("tidegate_requests_in_flight", 0.0).await;
    let metrics = metrics(&gateway).await;
    for (case, found) in &mut found {
        found.check_metrics(case, &metrics);
    }
    found
}

impl Found {
    fn check_metrics(&mut self, case: &Case, metrics: &BTreeMap<String, f64>) {
        let Case { fault, opted, left, max, name, .. } = case;
        let about = format!("{} opted={opted} left={left:?} max={max}", fault.name);
        let (first, second, good) = case.wanted();
        let of =
            |metric: &str, which: &str| metrics[&format!("tidegate_{metric}_total{{upstream=\"{name}-{which}\"}}")];
        let (retries, failovers) = (of("retries", "first"), of("failovers", "second"));
        assert_eq!((retries, failovers), ((first - 1) as f64, second as f64), "{about}: retries, failovers");
        assert_eq!((of("retries", "second"), of("failovers", "first")), (0.0, 0.0), "{about}");
        assert_eq!(of("retries_denied", "first"), 0.0, "{about}");
        let mut wanted: BTreeMap<(&str, &str), f64> = BTreeMap::new();
        // What the client got of a success that failed is not known before it is over.
        let held = fault.leads == Leads::Empty && case.leads();
        let result = match (held, fault.does) {
            (true, Does::Breaks) => "upstream_disconnected",
            (true, _) => "upstream_bad_answer",
            _ => fault.result,
        };
        let failed = if good && *left == Left::Credential { first - 1 } else { first };
        *wanted.entry(("first", result)).or_default() += failed as f64;
        *wanted.entry(("first", "2xx")).or_default() += (first - failed) as f64;
        *wanted.entry(("second", "2xx")).or_default() += second as f64;
        for which in ["first", "second"] {
            let prefix = format!("tidegate_attempts_total{{upstream=\"{name}-{which}\",result=\"");
            for (metric, count) in metrics.range(prefix.clone()..).take_while(|(metric, _)| metric.starts_with(&prefix))
            {
                let result = metric[prefix.len()..].trim_end_matches("\"}");
                let wanted = wanted.get(&(which, result)).copied().unwrap_or_default();
                assert_eq!(*count, wanted, "{about}: attempts at the {which} that gave {result}");
            }
        }
        (self.retries, self.failovers) = (retries, failovers);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_in_every_phase_under_every_policy() {
    let (one, two, three) = tokio::join!(with_attempts(1), with_attempts(2), with_attempts(3));
    let mut table = String::from("| fault | left | opt-in | max_attempts 1 | 2 | 3 |\n|---|---|---|---|---|---|\n");
    let cell = |found: &Found| format!("{} ({}+{})", found.got, found.first, found.second);
    let mut lines: Vec<(String, Left, bool, String)> = Vec::new();
    for ((one, two), three) in one.iter().zip(&two).zip(&three) {
        let case = &one.0;
        let cells = [&one.1, &two.1, &three.1].map(cell).join(" | ");
        lines.push((case.fault.name.to_owned(), case.left, case.opted, cells));
    }
    // Where the opt-in changes nothing, one line says it.
    for (name, left, opted, cells) in &lines {
        let twin = lines.iter().find(|line| line.0 == *name && line.1 == *left && line.2 != *opted).unwrap();
        let opt = match (twin.3 == *cells, opted) {
            (true, false) => "any",
            (true, true) => continue,
            (false, true) => "on",
            (false, false) => "off",
        };
        let left = match left {
            Left::Nobody => "nobody",
            Left::Credential => "a credential",
            Left::Upstream => "an upstream",
        };
        writeln!(table, "| {name} | {left} | {opt} | {cells} |").unwrap();
    }
    let all: Vec<_> = [one, two, three].into_iter().flatten().collect();
    eprintln!("{table}\n(a+b) = requests at the first and at the second upstream; {} cases", all.len());

    // A head is held for as long as a second, and only where the opt-in is on and another upstream is left.
    for (case, found) in all.iter().filter(|(case, _)| matches!(case.fault.does, Does::Slow)) {
        let held = case.opted && case.left == Left::Upstream && case.max > 1;
        eprintln!(
            "slow: opted={} left={:?} max={}: head after {:?}",
            case.opted, case.left, case.max, found.head_after
        );
        assert!(!held || found.head_after >= Duration::from_millis(990), "{:?}", found.head_after);
    }
    for (case, found) in all.iter().filter(|(case, _)| case.fault.name == "429 after 1 s") {
        let waited = case.left == Left::Nobody && case.max > 1;
        let pauses = u32::try_from(case.max - 1).unwrap();
        assert!(!waited || found.head_after >= Duration::from_secs(1) * pauses, "{:?}", found.head_after);
    }
}
