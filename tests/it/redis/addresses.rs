//! The addresses of Redis: a Unix socket, TLS with a private authority, and a master that Sentinels name.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tidegate::config::{RedisAt, RedisHost, UnknownIds};
use tokio::time::Instant;

use super::{BODY, PLENTY, answering, settings};
use crate::support::{
    client::Client,
    database::until,
    gateway::{Gateway, KEY},
    process::{Process, output_text, run, tidegate},
    redis::{RedisServer, ask_at, free_port, program},
    upstream::{Step, Upstream, json},
};

const PASSWORD: &str = "sk-canary-of-redis";

/// The arguments of a Redis with 8 databases and with the user `me`, who may use the keys of Tidegate.
const USERS: [&str; 8] = ["--user", "me", "on", "~tidegate:*", "+@all", ">sk-canary-of-redis", "--databases", "8"];

/// A folder with a configuration whose limits are shared by these settings.
fn folder(upstream: &Upstream, limits: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\ndata_dir = \"data\"\nworkers = 1\n\
         [limits]\n{limits}\npassword = {{ env = \"REDIS_PASSWORD\" }}\nreplicas = 2\n\
         [[upstreams]]\nname = \"up\"\nbase_url = \"{}\"\n[[models]]\nname = \"smart\"\ntargets = [{{ upstream = \"up\" }}]\n\
         [[keys]]\nname = \"tester\"\nsecret = {{ env = \"KEY\" }}\nrpm = 1000\n",
        upstream.base_url()
    );
    fs::write(folder.path().join("tidegate.toml"), text).unwrap();
    folder
}

fn command(folder: &Path, what: &str) -> Command {
    let mut command = tidegate(folder);
    command.args([what, "--config", "tidegate.toml"]).env("KEY", KEY).env("REDIS_PASSWORD", PASSWORD);
    command
}

/// Checks that a gateway with these settings shares limits: a request leaves a key in Redis.
async fn assert_shares_limits(folder: &Path, keys: impl Fn() -> Vec<String>) {
    assert_eq!(keys(), [""; 0]);
    let mut process = Process::start(&mut command(folder, "serve"));
    let (address, admin) = (process.ready(), process.admin());
    until("Redis", async || Client::connect(admin).await.get("/readyz").await.json()["limits"]["redis_fails"] == false)
        .await;
    until("the shared limit", async || {
        assert_eq!(Client::connect(address).await.create(BODY).await.status, 200);
        keys().iter().any(|key| key.contains("rpm:key:tester"))
    })
    .await;
    // Recorded ids are in Redis, too.
    until("the secret of ids", async || keys().iter().any(|key| key == "tidegate:o:secret")).await;
    process.signal("INT");
    assert_eq!(process.exit(), Some(0));
    let everything = process.everything();
    assert!(!everything.contains("canary"), "{everything}");
}

/// The reason why a gateway with these settings does not reach Redis. The log may have it before the gateway is ready.
fn error_of_redis(folder: &Path) -> String {
    let mut process = Process::start(&mut command(folder, "serve"));
    process.logged("Redis is unavailable")["error"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_reached_through_a_unix_socket() {
    let (mut redis, upstream) = (RedisServer::start(), answering().await);
    redis.stop();
    let place = TempDir::new().unwrap();
    let socket = place.path().join("redis.sock");
    redis.run_with(&[&["--unixsocket", socket.to_str().unwrap()], &USERS[..]].concat());
    let folder = folder(&upstream, &format!("redis = \"unix://me@{}?db=3\"", socket.display()));
    let checked = output_text(&run(&mut command(folder.path(), "check")));
    assert!(checked.contains(&format!("limits       unix://me@{}?db=3, shared by", socket.display())), "{checked}");
    // The keys are in the third database, and in no other.
    let keys = || redis.list("SELECT 3\r\nKEYS tidegate:*");
    assert_shares_limits(folder.path(), keys).await;
    assert_eq!(redis.list("KEYS *"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_over_tls_with_a_private_authority_is_used() {
    let (mut redis, upstream) = (RedisServer::start(), answering().await);
    redis.stop();
    let place = TempDir::new().unwrap();
    let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    fs::write(at("ca"), authority.self_signed(&key).unwrap().pem()).unwrap();
    let authority = rcgen::Issuer::new(authority, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let server = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &authority);
    fs::write(at("crt"), server.unwrap().pem()).unwrap();
    fs::write(at("key"), key.serialize_pem()).unwrap();
    let port = free_port();
    let (ca, crt, key, tls) = (at("ca"), at("crt"), at("key"), port.to_string());
    let files =
        ["--tls-cert-file", &crt, "--tls-key-file", &key, "--tls-ca-cert-file", &ca, "--tls-auth-clients", "no"];
    redis.run_with(&[&["--tls-port", &tls], &files[..], &USERS[..]].concat());

    let url = format!("redis = \"rediss://me@localhost:{port}/0\"");
    let stranger = folder(&upstream, &url);
    assert_eq!(error_of_redis(stranger.path()), "invalid peer certificate: UnknownIssuer");
    let folder = folder(&upstream, &format!("{url}\nca_file = \"{ca}\""));
    assert_shares_limits(folder.path(), || redis.list("KEYS tidegate:*")).await;
    // The certificate is for its own name and no other.
    let elsewhere = self::folder(&upstream, &format!("redis = \"rediss://me@127.0.0.1:{port}/0\"\nca_file = \"{ca}\""));
    let why = error_of_redis(elsewhere.path());
    assert!(why.contains("not valid for name"), "{why}");
}

/// Three Sentinels that watch a master.
struct Sentinels {
    folder: TempDir,
    ports: [u16; 3],
    running: Vec<Child>,
}

/// The password of the Sentinels.
const OF_SENTINELS: &str = "sk-canary-of-sentinels";

/// The Sentinels treat a server that is silent for this long as dead.
const DOWN_AFTER: Duration = Duration::from_secs(1);

impl Sentinels {
    async fn of(master: &RedisServer) -> Self {
        let folder = TempDir::new().unwrap();
        let ports = [free_port(), free_port(), free_port()];
        let mut running = Vec::new();
        for port in ports {
            let file = folder.path().join(format!("{port}.conf"));
            let text = format!(
                "port {port}\nbind 127.0.0.1\nprotected-mode no\nrequirepass {OF_SENTINELS}\nsentinel sentinel-pass {OF_SENTINELS}\n\
                 sentinel monitor mymaster 127.0.0.1 {} 2\nsentinel down-after-milliseconds mymaster {}\n\
                 sentinel failover-timeout mymaster 3000\nsentinel auth-user mymaster me\nsentinel auth-pass mymaster {PASSWORD}\n",
                master.port,
                DOWN_AFTER.as_millis()
            );
            fs::write(&file, text).unwrap();
            let log = fs::File::create(folder.path().join(format!("{port}.log"))).unwrap();
            let mut sentinel = Command::new(program("redis-server"));
            sentinel.arg(&file).arg("--sentinel").current_dir(folder.path()).stdin(Stdio::null());
            running.push(sentinel.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        }
        let all = Self { folder, ports, running };
        for port in ports {
            until("the Sentinels know each other and the replica", async || {
                let known = all.ask(port, "SENTINEL CKQUORUM mymaster").is_some_and(|said| said.starts_with("+OK 3 "));
                known && all.ask(port, "SENTINEL REPLICAS mymaster").is_some_and(|said| said == "*1")
            })
            .await;
        }
        all
    }

    fn ask(&self, port: u16, what: &str) -> Option<String> {
        ask_at(port, &format!("AUTH {OF_SENTINELS}\r\n{what}")).into_iter().nth(1)
    }

    fn at(&self) -> RedisAt {
        // The first address leads to a Sentinel that is down.
        let ports = [free_port()].into_iter().chain(self.ports);
        let sentinels = ports.map(|port| RedisHost { name: "127.0.0.1".into(), port }).collect();
        RedisAt::Sentinels { tls: false, sentinels, master: "mymaster".into(), password: Some(OF_SENTINELS.into()) }
    }
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        for sentinel in &mut self.running {
            let _ = sentinel.kill();
            let _ = sentinel.wait();
        }
        if std::thread::panicking() {
            for port in self.ports {
                let log = fs::read_to_string(self.folder.path().join(format!("{port}.log"))).unwrap_or_default();
                eprintln!("Sentinel {port}:\n{log}");
            }
        }
    }
}

/// Everyone may send PING; all else needs the password. The server sends the same password to its own master.
const SERVER: &str = "--user default on +ping +quit nopass --user me on ~* &* +@all >sk-canary-of-redis --masteruser me --masterauth \
                      sk-canary-of-redis";

fn run_server(redis: &mut RedisServer) {
    redis.run_with(&SERVER.split_whitespace().collect::<Vec<_>>());
}

fn server() -> RedisServer {
    let mut redis = RedisServer::start();
    redis.stop();
    run_server(&mut redis);
    redis
}

/// The lines that such a server answers.
fn answer_of(redis: &RedisServer, what: &str) -> Vec<String> {
    ask_at(redis.port, &format!("AUTH me {PASSWORD}\r\n{what}"))
}

/// Waits until the gateway shares limits through its Redis, and reads and writes ids there.
async fn wait_for_store(gateway: &Gateway) {
    gateway.metric_becomes("tidegate_limits_fault", 0.0).await;
    for fault in ["read", "write"] {
        gateway.metric_becomes(&format!("tidegate_affinity_fault{{fault=\"{fault}\"}}"), 0.0).await;
    }
}

async fn make(gateway: &Gateway) -> String {
    let answer = gateway.connect().await.create(BODY).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["id"].as_str().unwrap().to_owned()
}

/// Waits until the gateway follows up a response of the other gateway.
async fn follows(gateway: &Gateway, id: &str) {
    until(&format!("{id} is known"), async || {
        let body = format!(r#"{{"model":"smart","previous_response_id":"{id}"}}"#);
        let answer = gateway.connect().await.create(&body).await;
        assert!(matches!(answer.status, 200 | 400 | 503), "{answer:?}");
        answer.status == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_name_the_master_and_gateways_follow_a_failover() {
    let mut made = 0;
    let upstream = Upstream::scripted(move |_| {
        made += 1;
        let usage = r#"{"input_tokens":1,"output_tokens":1,"total_tokens":2}"#;
        let text = format!(r#"{{"id":"resp_{made}","object":"response","status":"completed","usage":{usage}}}"#);
        vec![Step::Send(json("200 OK", &text))]
    })
    .await;
    let (mut master, replica) = (server(), server());
    answer_of(&replica, &format!("REPLICAOF 127.0.0.1 {}", master.port));
    until("the replica", async || {
        answer_of(&replica, "INFO replication").iter().any(|line| line == "master_link_status:up")
    })
    .await;
    let sentinels = Sentinels::of(&master).await;
    let mut config = settings(&upstream, &master, PLENTY);
    let sharing = config.sharing.as_mut().unwrap();
    (sharing.redis.at, sharing.redis.user) = (sentinels.at(), Some("me".into()));
    sharing.redis.password = Some(PASSWORD.into());
    sharing.patience = Duration::from_millis(400);
    config.affinity.shared = true;
    config.affinity.unknown_ids = Some(UnknownIds::Refuse);
    let gateways = [Gateway::start(config.clone()), Gateway::start(config)];
    for gateway in &gateways {
        wait_for_store(gateway).await;
    }
    let before = make(&gateways[0]).await;
    follows(&gateways[1], &before).await;
    assert!(answer_of(&master, "EXISTS tidegate:rpm:key:tester").contains(&":1".to_owned()));

    master.kill();
    let began = Instant::now();
    // Requests are served: each gateway counts for itself, and knows its own ids.
    let away = make(&gateways[0]).await;
    until("the failover", async || answer_of(&replica, "ROLE").iter().any(|line| line == "master")).await;
    let promoted = began.elapsed();
    for gateway in &gateways {
        wait_for_store(gateway).await;
    }
    let followed = began.elapsed();
    eprintln!("the master was killed: promoted after {promoted:?}, both gateways share again after {followed:?}");
    shared_through(&replica, &gateways).await;
    let after = make(&gateways[0]).await;
    for id in [&before, &away, &after] {
        follows(&gateways[1], id).await;
    }

    // The old master comes back as a replica, and its operator makes it the master again.
    run_server(&mut master);
    let synced = async || answer_of(&master, "INFO replication").iter().any(|line| line == "master_link_status:up");
    until("the old master follows", synced).await;
    let [port, ..] = sentinels.ports;
    until("the Sentinels agree", async || {
        sentinels.ask(port, "SENTINEL FAILOVER mymaster").is_some_and(|said| said == "+OK")
    })
    .await;
    let began = Instant::now();
    until("the way back", async || answer_of(&master, "ROLE").iter().any(|line| line == "master")).await;
    until("the gateways follow", async || {
        let body = make(&gateways[0]).await;
        !body.is_empty() && answer_of(&replica, "ROLE").iter().any(|line| line == "slave")
    })
    .await;
    for gateway in &gateways {
        wait_for_store(gateway).await;
    }
    eprintln!("the operator moved the master: both gateways share again after {:?}", began.elapsed());
    shared_through(&master, &gateways).await;
    let last = make(&gateways[1]).await;
    for id in [&before, &away, &after, &last] {
        follows(&gateways[0], id).await;
    }
}

/// Checks that requests at either gateway are counted in this server, and not by one gateway alone.
async fn shared_through(redis: &RedisServer, gateways: &[Gateway; 2]) {
    let counted = || {
        let lines = answer_of(redis, "INFO commandstats");
        let line = lines.into_iter().find(|line| line.starts_with("cmdstat_evalsha:")).unwrap_or_default();
        line.split(['=', ',']).nth(1).and_then(|calls| calls.parse::<u64>().ok()).unwrap_or_default()
    };
    for gateway in gateways {
        until("the shared limit", async || {
            let (alone, before) = (gateway.metric("tidegate_limits_alone_total").await, counted());
            for _ in 0..5 {
                make(gateway).await;
            }
            gateway.metric("tidegate_limits_alone_total").await == alone && counted() >= before + 5
        })
        .await;
    }
}
