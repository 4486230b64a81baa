//! The whole matrix: each fault, in each phase, with each kind of further candidate, under each policy. Each
//! combination is one request at one gateway, with upstreams of its own.

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

/// The answer of the healthy upstream.
const GOOD: &str = r#"{"id":"resp_good","object":"response","status":"completed"}"#;
/// The answer of the failing upstream.
const BAD: &str = r#"{"error":{"message":"from the first","type":"some_type","param":null,"code":"CODE"}}"#;
const EVENT: &[u8] = b"data: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n";
const COMPLETED: &[u8] = b"data: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\"}}\n\n";

/// The setting that lets a fault cause a failover.
#[derive(Clone, Copy, Debug, PartialEq)]
enum FailoverWhen {
    Always,
    Disconnect,
    Timeout,
    Empty,
    Never,
}

/// The part that is at fault, which decides the candidates that may follow.
#[derive(Clone, Copy, Debug, PartialEq)]
enum FaultyPart {
    Credential,
    Target,
    Upstream,
    Way,
}

/// What the client gets when the failing upstream is the last candidate.
#[derive(Clone, Copy, Debug)]
enum ClientGets {
    /// The upstream's answer, byte for byte.
    Theirs(u16),
    Ours(u16, &'static str),
    /// A 200 with this body, and whether the body is whole.
    Success(&'static [u8], bool),
}

/// What the failing upstream does.
#[derive(Clone, Copy, Debug)]
enum UpstreamDoes {
    /// No process listens at the address.
    NoPort,
    NoTls,
    /// The upstream reads the request, and then does this.
    Reset,
    Close,
    Garbage,
    Silence,
    /// Status, further headers, and the code in the body.
    Fails(&'static str, &'static str, &'static str),
    Html,
    Empty,
    EmptyStream,
    /// A head, and the end of the connection in the middle of the body.
    Breaks,
    /// The first byte comes later than the head.
    Slow,
    /// One event, and then this.
    EventReset,
    EventClose,
    EventEnd,
}

struct Fault {
    name: &'static str,
    does: UpstreamDoes,
    leads: FailoverWhen,
    whose: FaultyPart,
    /// Whether a retry at the same candidate is allowed where no other is left.
    again: bool,
    gets: ClientGets,
    /// The `result` label of the attempts.
    result: &'static str,
}

const fn status(
    name: &'static str,
    fails: (&'static str, &'static str, &'static str),
    whose: FaultyPart,
    again: bool,
    gets: ClientGets,
    result: &'static str,
) -> Fault {
    Fault {
        name,
        does: UpstreamDoes::Fails(fails.0, fails.1, fails.2),
        leads: FailoverWhen::Always,
        whose,
        again,
        gets,
        result,
    }
}

const fn fault(
    name: &'static str,
    does: UpstreamDoes,
    leads: FailoverWhen,
    gets: ClientGets,
    result: &'static str,
) -> Fault {
    Fault { name, does, leads, whose: FaultyPart::Upstream, again: false, gets, result }
}

const AUTH: ClientGets = ClientGets::Ours(502, "upstream_auth");
const CUT: ClientGets = ClientGets::Ours(502, "upstream_disconnected");
const NO_API: ClientGets = ClientGets::Ours(502, "upstream_bad_answer");

#[rustfmt::skip]
const FAULTS: [Fault; 37] = [
    // The connection cannot be made.
    Fault { name: "connect: refused", does: UpstreamDoes::NoPort, leads: FailoverWhen::Always, whose: FaultyPart::Way, again: true,
            gets: ClientGets::Ours(502, "upstream_unreachable"), result: "upstream_unreachable" },
    Fault { name: "connect: no TLS", does: UpstreamDoes::NoTls, leads: FailoverWhen::Always, whose: FaultyPart::Way, again: true,
            gets: ClientGets::Ours(502, "upstream_unreachable"), result: "upstream_unreachable" },
    // The upstream fails after the request was sent.
    fault("sent: reset", UpstreamDoes::Reset, FailoverWhen::Disconnect, CUT, "upstream_disconnected"),
    fault("sent: closed", UpstreamDoes::Close, FailoverWhen::Disconnect, CUT, "upstream_disconnected"),
    fault("sent: garbage", UpstreamDoes::Garbage, FailoverWhen::Disconnect, NO_API, "upstream_bad_answer"),
    fault("sent: silence", UpstreamDoes::Silence, FailoverWhen::Timeout, ClientGets::Ours(504, "upstream_timeout"), "upstream_timeout"),
    // A head with an error status.
    status("400", ("400 Bad Request", "", "bad_thing"), FaultyPart::Upstream, false, ClientGets::Theirs(400), "4xx").never(),
    status("401", ("401 Unauthorized", "", "invalid_api_key"), FaultyPart::Credential, false, AUTH, "4xx"),
    status("402", ("402 Payment Required", "", "no_money"), FaultyPart::Credential, false, AUTH, "4xx"),
    status("403", ("403 Forbidden", "", "no_access"), FaultyPart::Upstream, false, ClientGets::Theirs(403), "4xx").never(),
    status("403 balance", ("403 Forbidden", "", "used_up"), FaultyPart::Credential, false, AUTH, "4xx"),
    status("403 model", ("403 Forbidden", "", "model_not_allowed"), FaultyPart::Target, false, ClientGets::Theirs(403), "4xx"),
    status("404 model", ("404 Not Found", "", "model_not_found"), FaultyPart::Target, false, ClientGets::Theirs(404), "4xx"),
    status("503 model", ("503 Service Unavailable", "", "model_not_found"), FaultyPart::Target, false, ClientGets::Theirs(503), "5xx"),
    status("408", ("408 Request Timeout", "", "timeout"), FaultyPart::Upstream, true, ClientGets::Theirs(408), "4xx"),
    status("429", ("429 Too Many Requests", "", "rate_limit"), FaultyPart::Credential, false, ClientGets::Theirs(429), "429"),
    status("429 after 0.05 s", ("429 Too Many Requests", "retry-after-ms: 50\r\n", "rate_limit"), FaultyPart::Credential, true, ClientGets::Theirs(429), "429"),
    status("429 after 1 s", ("429 Too Many Requests", "retry-after: 1\r\n", "rate_limit"), FaultyPart::Credential, true, ClientGets::Theirs(429), "429"),
    status("429 after 60 s", ("429 Too Many Requests", "retry-after: 60\r\n", "rate_limit"), FaultyPart::Credential, false, ClientGets::Theirs(429), "429"),
    status("429 quota", ("429 Too Many Requests", "", "insufficient_quota"), FaultyPart::Credential, false, ClientGets::Theirs(429), "429"),
    status("500", ("500 Internal Server Error", "", "oops"), FaultyPart::Upstream, true, ClientGets::Theirs(500), "5xx"),
    status("502", ("502 Bad Gateway", "", "oops"), FaultyPart::Upstream, true, ClientGets::Theirs(502), "5xx"),
    status("503", ("503 Service Unavailable", "", "server_is_overloaded"), FaultyPart::Upstream, true, ClientGets::Theirs(503), "5xx"),
    status("503 after 60 s", ("503 Service Unavailable", "retry-after: 60\r\n", "oops"), FaultyPart::Upstream, false, ClientGets::Theirs(503), "5xx"),
    status("503 never again", ("503 Service Unavailable", "x-should-retry: false\r\n", "oops"), FaultyPart::Upstream, false, ClientGets::Theirs(503), "5xx"),
    status("529", ("529 Overloaded", "", "overloaded_error"), FaultyPart::Upstream, true, ClientGets::Theirs(529), "5xx"),
    // A head that no API sends.
    fault("302", UpstreamDoes::Fails("302 Found", "location: https://example.com/\r\n", ""), FailoverWhen::Always, NO_API, "upstream_bad_answer"),
    fault("307", UpstreamDoes::Fails("307 Temporary Redirect", "location: /x\r\n", ""), FailoverWhen::Always, NO_API, "upstream_bad_answer"),
    fault("200 HTML", UpstreamDoes::Html, FailoverWhen::Always, NO_API, "upstream_bad_answer"),
    // A success without a byte of its body.
    fault("200 empty", UpstreamDoes::Empty, FailoverWhen::Empty, ClientGets::Success(b"", true), "2xx"),
    fault("200 empty stream", UpstreamDoes::EmptyStream, FailoverWhen::Empty, ClientGets::Success(b"", true), "2xx"),
    fault("200 broken at 0", UpstreamDoes::Breaks, FailoverWhen::Empty, ClientGets::Success(b"", false), "2xx"),
    fault("200 slow", UpstreamDoes::Slow, FailoverWhen::Never, ClientGets::Success(COMPLETED, true), "2xx"),
    // After the first byte.
    fault("event: reset", UpstreamDoes::EventReset, FailoverWhen::Never, ClientGets::Success(EVENT, false), "2xx"),
    fault("event: closed", UpstreamDoes::EventClose, FailoverWhen::Never, ClientGets::Success(EVENT, false), "2xx"),
    fault("event: clean end", UpstreamDoes::EventEnd, FailoverWhen::Never, ClientGets::Success(EVENT, true), "2xx"),
    fault("200", UpstreamDoes::Fails("200 OK", "", ""), FailoverWhen::Never, ClientGets::Theirs(200), "2xx"),
];

impl Fault {
    const fn never(mut self) -> Self {
        self.leads = FailoverWhen::Never;
        self
    }
}

/// The candidate that is left after the failing one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum NextCandidate {
    Nobody,
    Credential,
    Upstream,
}

/// What one upstream of one case does, and the requests that it received.
struct Role {
    does: UpstreamDoes,
    /// Only the first request fails; the others get a good answer.
    once: bool,
    seen: Vec<Request>,
    /// Lets a waiting answer continue.
    go: Vec<oneshot::Sender<()>>,
}

/// All scripted upstreams of one gateway share one address and differ in their paths. With an address each, a late
/// request of another test would sometimes reach one of so many reused addresses.
struct SharedUpstream {
    roles: Arc<Mutex<BTreeMap<String, Role>>>,
    upstream: Upstream,
}

impl SharedUpstream {
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

    /// Adds an upstream.
    fn scripted(&self, name: &str, does: UpstreamDoes, once: bool) -> ScriptedUpstream {
        self.roles.lock().unwrap().insert(name.to_owned(), Role { does, once, seen: Vec::new(), go: Vec::new() });
        let base_url = format!("http://{}/{name}", self.upstream.address);
        ScriptedUpstream { name: name.to_owned(), base_url, roles: Arc::clone(&self.roles), unreachable: None }
    }
}

/// One upstream of one case.
struct ScriptedUpstream {
    name: String,
    base_url: String,
    roles: Arc<Mutex<BTreeMap<String, Role>>>,
    /// A listener that cannot be used as an upstream.
    unreachable: Option<JoinHandle<()>>,
}

impl Drop for ScriptedUpstream {
    fn drop(&mut self) {
        if let Some(unreachable) = &self.unreachable {
            unreachable.abort();
        }
    }
}

impl ScriptedUpstream {
    /// Replaces the upstream with an address that cannot be used.
    async fn unreachable(&mut self, does: UpstreamDoes) {
        if let UpstreamDoes::NoPort = does {
            // Bound and never listened on: no other process gets the port.
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

    /// Lets waiting answers continue.
    fn go(&self) {
        for go in self.role(|role| std::mem::take(&mut role.go)) {
            let _ = go.send(());
        }
    }
}

/// The answer of an upstream that fails with a status.
fn theirs(head: &str, headers: &str, code: &str) -> (Vec<u8>, Vec<u8>) {
    let body = if head.starts_with("200") { r#"{"id":"resp_first"}"#.to_owned() } else { BAD.replace("CODE", code) };
    let plain = String::from_utf8(json(head, &body)).unwrap();
    (plain.replacen("\r\n", &format!("\r\nx-ratelimit-remaining-requests: 7\r\n{headers}"), 1).into(), body.into())
}

fn steps(does: UpstreamDoes, waiting: &mut Vec<oneshot::Sender<()>>) -> Vec<Step> {
    let mut wait = || {
        let (go, gone) = oneshot::channel();
        waiting.push(go);
        Step::Wait(gone)
    };
    let send = |bytes: &[u8]| Step::Send(bytes.to_vec());
    match does {
        UpstreamDoes::NoPort | UpstreamDoes::NoTls => Vec::new(),
        UpstreamDoes::Reset => vec![Step::Reset],
        UpstreamDoes::Close => vec![Step::Close],
        UpstreamDoes::Garbage => vec![send(b"\x16\x03 this is not HTTP\r\n\r\n"), Step::Close],
        UpstreamDoes::Silence => vec![Step::UntilClosed(oneshot::channel().0)],
        UpstreamDoes::Fails(head, headers, code) => vec![Step::Send(theirs(head, headers, code).0)],
        UpstreamDoes::Html => vec![Step::Send(answer("200 OK", "text/html", b"<html>log in</html>"))],
        UpstreamDoes::Empty => vec![Step::Send(json("200 OK", ""))],
        UpstreamDoes::EmptyStream => vec![send(STREAM), send(LAST_CHUNK)],
        UpstreamDoes::Breaks => vec![send(STREAM), Step::Close],
        UpstreamDoes::Slow => vec![send(STREAM), wait(), Step::Send(chunk(COMPLETED)), send(LAST_CHUNK)],
        UpstreamDoes::EventReset => vec![send(STREAM), Step::Send(chunk(EVENT)), wait(), Step::Reset],
        UpstreamDoes::EventClose => vec![send(STREAM), Step::Send(chunk(EVENT)), wait(), Step::Close],
        UpstreamDoes::EventEnd => vec![send(STREAM), Step::Send(chunk(EVENT)), wait(), send(LAST_CHUNK)],
    }
}

/// One case, ready to run.
struct Case {
    fault: &'static Fault,
    opted: bool,
    left: NextCandidate,
    max: usize,
    first: ScriptedUpstream,
    second: ScriptedUpstream,
    /// The prefix of the names of its upstreams, and the name of its model.
    name: String,
}

/// What happened in a case.
#[derive(Clone, Debug)]
struct Observed {
    got: String,
    first: usize,
    second: usize,
    retries: f64,
    failovers: f64,
    head_after: Duration,
}

impl Case {
    async fn new(
        stage: &SharedUpstream,
        fault: &'static Fault,
        (opted, left, max): (bool, NextCandidate, usize),
        nth: usize,
    ) -> Self {
        let name = format!("c{nth}");
        let mut first = stage.scripted(&format!("{name}-first"), fault.does, left == NextCandidate::Credential);
        if matches!(fault.does, UpstreamDoes::NoPort | UpstreamDoes::NoTls) {
            first.unreachable(fault.does).await;
        }
        let second = stage.scripted(&format!("{name}-second"), UpstreamDoes::Fails("200 OK", "", ""), false);
        Self { fault, opted, left, max, first, second, name }
    }

    /// Adds the upstreams and the model to the configuration.
    fn configure(&self, config: &mut Config) {
        let mut first = upstream(&format!("{}-first", self.name), &self.first.base_url);
        first.credentials = vec![credential("one", "sk-first-one")];
        if self.left == NextCandidate::Credential {
            first.credentials.push(credential("two", "sk-first-two"));
        }
        let all = FailoverOn { disconnect: true, timeout: true, empty: true };
        first.failover_on = if self.opted { all } else { FailoverOn::default() };
        let mut second = upstream(&format!("{}-second", self.name), &self.second.base_url);
        second.credentials = vec![credential("three", "sk-second")];
        let at = config.upstreams.len();
        let mut targets = vec![(at, Some("alpha"))];
        if self.left == NextCandidate::Upstream {
            targets.push((at + 1, Some("beta-longer")));
        }
        config.upstreams.extend([first, second]);
        config.models.push(model(&self.name, &targets));
    }

    /// Whether the fault causes another attempt, if a candidate is left.
    fn leads(&self) -> bool {
        match self.fault.leads {
            FailoverWhen::Always => true,
            FailoverWhen::Never => false,
            // The gateway holds the head only while another upstream is left.
            FailoverWhen::Empty => self.opted && self.left == NextCandidate::Upstream && self.max > 1,
            FailoverWhen::Disconnect | FailoverWhen::Timeout => self.opted,
        }
    }

    /// The expected attempts at the first and at the second upstream, and whether the client gets a good answer.
    fn wanted(&self) -> (usize, usize, bool) {
        let fault = self.fault;
        if !self.leads() || self.max == 1 {
            return (1, 0, false);
        }
        match self.left {
            NextCandidate::Upstream => (1, 1, true),
            // A long Retry-After of an upstream applies to all its credentials.
            NextCandidate::Credential if fault.name == "503 after 60 s" => (1, 0, false),
            NextCandidate::Credential if !matches!(fault.whose, FaultyPart::Way | FaultyPart::Target) => (2, 0, true),
            _ if fault.again => (self.max, 0, false),
            _ => (1, 0, false),
        }
    }

    async fn run(self, gateway: Arc<Gateway>) -> (Self, Observed) {
        let about = format!("{} opted={} left={:?} max={}", self.fault.name, self.opted, self.left, self.max);
        let body = format!(r#"{{"input":"hé","model":"{}","x":[1, 2]}}"#, self.name);
        let mut client = gateway.connect().await;
        let began = Instant::now();
        client.post(&body).await;
        let mut answer = client.head().await;
        let head_after = began.elapsed();
        if matches!(self.fault.does, UpstreamDoes::EventReset | UpstreamDoes::EventClose | UpstreamDoes::EventEnd) {
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
        (self, Observed { got, first, second, retries: 0.0, failovers: 0.0, head_after })
    }

    fn code(&self, answer: &Answer) -> String {
        match self.fault.gets {
            ClientGets::Ours(..) => format!(" {}", answer.json()["error"]["code"].as_str().unwrap()),
            _ => " theirs".to_owned(),
        }
    }

    fn check_answer(&self, about: &str, answer: &Answer, good: bool) {
        if good {
            assert_eq!(answer.status, 200, "{about}: {answer:?}");
            let body = String::from_utf8_lossy(&answer.body);
            let wanted = if self.left == NextCandidate::Upstream { r#"{"id":"resp_first"}"# } else { GOOD };
            assert_eq!(body, wanted, "{about}");
            return;
        }
        match self.fault.gets {
            ClientGets::Ours(status, code) => answer.assert_problem(status, code),
            ClientGets::Theirs(status) => {
                let UpstreamDoes::Fails(head, headers, code) = self.fault.does else { panic!("{about}") };
                assert_eq!(answer.status, status, "{about}: {answer:?}");
                assert_eq!(answer.body, theirs(head, headers, code).1, "{about}");
                assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some("7"), "{about}");
                for line in headers.lines() {
                    let (name, value) = line.split_once(": ").unwrap();
                    assert_eq!(answer.header(name), Some(value), "{about}");
                }
            }
            ClientGets::Success(body, whole) => {
                assert_eq!((answer.status, answer.whole), (200, whole), "{about}: {answer:?}");
                assert_eq!(answer.body, body, "{about}");
            }
        }
    }

    /// Checks which upstream got which credential, model and other bytes.
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
            (NextCandidate::Credential, [key, other]) => {
                assert_ne!(key, other, "{about}: the same credential was used again")
            }
            (NextCandidate::Credential, _) => {}
            (_, keys) => assert!(keys.iter().all(|key| *key == "Bearer sk-first-one"), "{about}: {keys:?}"),
        }
    }
}

/// After a whole answer, the connection of the client serves another request.
async fn still_alive(client: &mut Client, whole: bool) {
    if whole {
        assert_eq!(client.get("/v1/models").await.status, 200);
    }
}

/// Every metric by its full name.
async fn metrics(gateway: &Gateway) -> BTreeMap<String, f64> {
    let text = gateway.metrics_text().await;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap()).map(|(name, n)| (name.to_owned(), n.parse().unwrap())).collect()
}

/// Runs all cases with one number of attempts. The cases that wait in vain for an answer have a gateway of their own
/// with a short timeout. The other cases do not depend on the speed of the machine.
async fn with_attempts(max: usize) -> Vec<(Case, Observed)> {
    // And a thread of their own, because the many other cases keep this one busy for long.
    let silent = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(with_gateway(max, Duration::from_secs(5), |does| matches!(does, UpstreamDoes::Silence)))
    });
    let others = with_gateway(max, Duration::from_secs(600), |does| !matches!(does, UpstreamDoes::Silence)).await;
    let mut silent = silent.await.unwrap();
    silent.extend(others);
    silent.sort_by_key(|(case, _)| case.name[1..].parse::<usize>().unwrap());
    silent
}

async fn with_gateway(max: usize, upstream_head: Duration, takes: fn(&UpstreamDoes) -> bool) -> Vec<(Case, Observed)> {
    let stage = SharedUpstream::new().await;
    let mut cases = Vec::new();
    for (nth, fault) in FAULTS.iter().enumerate().filter(|(_, fault)| takes(&fault.does)) {
        for (part, opted) in [false, true].into_iter().enumerate() {
            for (place, left) in
                [NextCandidate::Nobody, NextCandidate::Credential, NextCandidate::Upstream].into_iter().enumerate()
            {
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
        // Not all at once: an overloaded machine causes other faults.
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

impl Observed {
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
        // The result of a success that fails later is only known at its end.
        let held = fault.leads == FailoverWhen::Empty && case.leads();
        let result = match (held, fault.does) {
            (true, UpstreamDoes::Breaks) => "upstream_disconnected",
            (true, _) => "upstream_bad_answer",
            _ => fault.result,
        };
        let failed = if good && *left == NextCandidate::Credential { first - 1 } else { first };
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
async fn every_fault_in_every_phase_under_every_policy_gives_the_expected_answer_and_attempts() {
    let (one, two, three) = tokio::join!(with_attempts(1), with_attempts(2), with_attempts(3));
    let mut table = String::from("| fault | left | opt-in | max_attempts 1 | 2 | 3 |\n|---|---|---|---|---|---|\n");
    let cell = |found: &Observed| format!("{} ({}+{})", found.got, found.first, found.second);
    let mut lines: Vec<(String, NextCandidate, bool, String)> = Vec::new();
    for ((one, two), three) in one.iter().zip(&two).zip(&three) {
        let case = &one.0;
        let cells = [&one.1, &two.1, &three.1].map(cell).join(" | ");
        lines.push((case.fault.name.to_owned(), case.left, case.opted, cells));
    }
    // Where the setting changes nothing, one line is printed for both.
    for (name, left, opted, cells) in &lines {
        let twin = lines.iter().find(|line| line.0 == *name && line.1 == *left && line.2 != *opted).unwrap();
        let opt = match (twin.3 == *cells, opted) {
            (true, false) => "any",
            (true, true) => continue,
            (false, true) => "on",
            (false, false) => "off",
        };
        let left = match left {
            NextCandidate::Nobody => "nobody",
            NextCandidate::Credential => "a credential",
            NextCandidate::Upstream => "an upstream",
        };
        writeln!(table, "| {name} | {left} | {opt} | {cells} |").unwrap();
    }
    let all: Vec<_> = [one, two, three].into_iter().flatten().collect();
    eprintln!("{table}\n(a+b) = requests at the first and at the second upstream; {} cases", all.len());

    // The gateway holds a head for up to a second, and only where the setting is on and another upstream is left.
    for (case, found) in all.iter().filter(|(case, _)| matches!(case.fault.does, UpstreamDoes::Slow)) {
        let held = case.opted && case.left == NextCandidate::Upstream && case.max > 1;
        eprintln!(
            "slow: opted={} left={:?} max={}: head after {:?}",
            case.opted, case.left, case.max, found.head_after
        );
        assert!(!held || found.head_after >= Duration::from_millis(990), "{:?}", found.head_after);
    }
    for (case, found) in all.iter().filter(|(case, _)| case.fault.name == "429 after 1 s") {
        let waited = case.left == NextCandidate::Nobody && case.max > 1;
        let pauses = u32::try_from(case.max - 1).unwrap();
        assert!(!waited || found.head_after >= Duration::from_secs(1) * pauses, "{:?}", found.head_after);
    }
}
