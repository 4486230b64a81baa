//! The addresses of Redis: a Unix socket, TLS with a private authority, and a master that Sentinels name.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;
use tidegate::config::{RedisAt, RedisHost, UnknownIds};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    time::Instant,
};

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

/// A certificate for one name, signed by a private authority.
struct Certificates(TempDir);

impl Certificates {
    fn of(name: &str) -> Self {
        let files = Self(TempDir::new().unwrap());
        let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
        // With the same name as its subject, a certificate would count as one that signs itself.
        authority.distinguished_name.push(rcgen::DnType::CommonName, "Authority");
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        fs::write(files.at("ca"), authority.self_signed(&key).unwrap().pem()).unwrap();
        let authority = rcgen::Issuer::new(authority, key);
        let key = rcgen::KeyPair::generate().unwrap();
        let server = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &authority);
        fs::write(files.at("crt"), server.unwrap().pem()).unwrap();
        fs::write(files.at("key"), key.serialize_pem()).unwrap();
        files
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// Arguments of a server that listens with TLS, and that follows its master with TLS.
    fn settings(&self, port: u16) -> Vec<String> {
        let (crt, key, ca) = (self.at("crt"), self.at("key"), self.at("ca"));
        let settings = format!(
            "--tls-port {port} --tls-cert-file {crt} --tls-key-file {key} --tls-ca-cert-file {ca} --tls-auth-clients no \
             --tls-replication yes"
        );
        settings.split_whitespace().map(str::to_owned).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_over_tls_with_a_private_authority_is_used() {
    let (mut redis, upstream) = (RedisServer::start(), answering().await);
    redis.stop();
    let (files, port) = (Certificates::of("localhost"), free_port());
    let ca = files.at("ca");
    let settings = files.settings(port);
    redis.run_with(&settings.iter().map(String::as_str).chain(USERS).collect::<Vec<_>>());

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
    /// Without TLS, for the test.
    ports: [u16; 3],
    /// For gateways, and for the Sentinels among themselves.
    addresses: [u16; 3],
    tls: bool,
    running: Vec<Child>,
}

/// The password of the Sentinels.
const OF_SENTINELS: &str = "sk-canary-of-sentinels";

/// The Sentinels treat a server that is silent for this long as dead.
const DOWN_AFTER: Duration = Duration::from_secs(1);

impl Sentinels {
    async fn of(master: &Server) -> Self {
        let folder = TempDir::new().unwrap();
        let ports = [free_port(), free_port(), free_port()];
        let addresses = if master.tls.is_some() { [free_port(), free_port(), free_port()] } else { ports };
        let mut running = Vec::new();
        for (port, address) in ports.into_iter().zip(addresses) {
            let file = folder.path().join(format!("{port}.conf"));
            let text = format!(
                "port {port}\nbind 127.0.0.1\nprotected-mode no\nrequirepass {OF_SENTINELS}\nsentinel sentinel-pass {OF_SENTINELS}\n\
                 sentinel monitor mymaster 127.0.0.1 {} 2\nsentinel down-after-milliseconds mymaster {}\n\
                 sentinel failover-timeout mymaster 3000\nsentinel auth-user mymaster me\nsentinel auth-pass mymaster {PASSWORD}\n",
                master.address(),
                DOWN_AFTER.as_millis()
            );
            let tls = master.tls.as_ref().map(|(_, files)| files.settings(address).join(" ").replace(" --", "\n"));
            fs::write(&file, text + tls.unwrap_or_default().trim_start_matches("--") + "\n").unwrap();
            let log = fs::File::create(folder.path().join(format!("{port}.log"))).unwrap();
            let mut sentinel = Command::new(program("redis-server"));
            sentinel.arg(&file).arg("--sentinel").current_dir(folder.path()).stdin(Stdio::null());
            running.push(sentinel.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        }
        let all = Self { folder, ports, addresses, tls: master.tls.is_some(), running };
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

    /// Whether a Sentinel names this server as the master.
    fn name(&self, server: &Server) -> bool {
        let asked = format!("AUTH {OF_SENTINELS}\r\nSENTINEL GET-MASTER-ADDR-BY-NAME mymaster");
        self.ports.iter().any(|port| ask_at(*port, &asked).contains(&server.address().to_string()))
    }

    fn at(&self) -> RedisAt {
        // The first address leads to a Sentinel that is down.
        let ports = [free_port()].into_iter().chain(self.addresses);
        let sentinels = ports.map(|port| RedisHost { name: "127.0.0.1".into(), port }).collect();
        RedisAt::Sentinels { tls: self.tls, sentinels, master: "mymaster".into(), password: Some(OF_SENTINELS.into()) }
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

/// A master or a replica.
struct Server {
    redis: RedisServer,
    /// The port with TLS, and the certificate.
    tls: Option<(u16, Arc<Certificates>)>,
}

impl Server {
    fn start(certificates: Option<&Arc<Certificates>>) -> Self {
        let mut redis = RedisServer::start();
        redis.stop();
        let tls = certificates.map(|files| (free_port(), Arc::clone(files)));
        let mut server = Self { redis, tls };
        server.run();
        server
    }

    fn run(&mut self) {
        let tls = self.tls.as_ref().map(|(port, files)| files.settings(*port)).unwrap_or_default();
        self.redis.run_with(&SERVER.split_whitespace().chain(tls.iter().map(String::as_str)).collect::<Vec<_>>());
    }

    /// The port for gateways, Sentinels and other servers.
    fn address(&self) -> u16 {
        self.tls.as_ref().map_or(self.redis.port, |(port, _)| *port)
    }

    /// The lines that the server answers to the test.
    fn answer(&self, what: &str) -> Vec<String> {
        ask_at(self.redis.port, &format!("AUTH me {PASSWORD}\r\n{what}"))
    }

    fn has_role(&self, role: &str) -> bool {
        self.answer("ROLE").iter().any(|line| line == role)
    }

    fn follows(&self) -> bool {
        self.answer("INFO replication").iter().any(|line| line == "master_link_status:up")
    }
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

/// An upstream that gives each response an id of its own.
async fn numbering() -> Upstream {
    let mut made = 0;
    Upstream::scripted(move |_| {
        made += 1;
        let usage = r#"{"input_tokens":1,"output_tokens":1,"total_tokens":2}"#;
        let text = format!(r#"{{"id":"resp_{made}","object":"response","status":"completed","usage":{usage}}}"#);
        vec![Step::Send(json("200 OK", &text))]
    })
    .await
}

/// After Sentinels name another master, both gateways share through it within this time.
const FOLLOWED: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_name_the_master_and_gateways_follow_a_failover() {
    gateways_follow_the_master(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_and_masters_are_reached_over_tls_with_a_private_authority() {
    gateways_follow_the_master(Some(Arc::new(Certificates::of("127.0.0.1")))).await;
}

async fn gateways_follow_the_master(certificates: Option<Arc<Certificates>>) {
    let upstream = numbering().await;
    let certificates = certificates.as_ref();
    let (mut master, replica) = (Server::start(certificates), Server::start(certificates));
    replica.answer(&format!("REPLICAOF 127.0.0.1 {}", master.address()));
    until("the replica", async || replica.follows()).await;
    let sentinels = Sentinels::of(&master).await;
    let mut config = settings(&upstream, &master.redis, PLENTY);
    let sharing = config.sharing.as_mut().unwrap();
    (sharing.redis.at, sharing.redis.user) = (sentinels.at(), Some("me".into()));
    sharing.redis.password = Some(PASSWORD.into());
    sharing.redis.ca_pem = certificates.map(|files| fs::read(files.at("ca")).unwrap().into());
    sharing.patience = Duration::from_millis(400);
    config.affinity.shared = true;
    config.affinity.unknown_ids = Some(UnknownIds::Refuse);
    let gateways = [Gateway::start(config.clone()), Gateway::start(config)];
    for gateway in &gateways {
        wait_for_store(gateway).await;
    }
    let before = make(&gateways[0]).await;
    follows(&gateways[1], &before).await;
    assert!(master.answer("EXISTS tidegate:rpm:key:tester").contains(&":1".to_owned()));

    master.redis.kill();
    // Requests are served: each gateway counts for itself, and knows its own ids.
    let away = make(&gateways[0]).await;
    until("the Sentinels name the replica", async || sentinels.name(&replica)).await;
    let named = Instant::now();
    shared_through(&replica, &gateways).await;
    let followed = named.elapsed();
    eprintln!("the master was killed: both gateways share again {followed:?} after a Sentinel named the replica");
    assert!(followed < FOLLOWED, "{followed:?}");
    for gateway in &gateways {
        wait_for_store(gateway).await;
    }
    let after = make(&gateways[0]).await;
    for id in [&before, &away, &after] {
        follows(&gateways[1], id).await;
    }

    // The old master comes back as a replica, and its operator makes it the master again.
    master.run();
    until("the old master follows", async || master.follows()).await;
    let [port, ..] = sentinels.ports;
    until("the Sentinels agree", async || {
        sentinels.ask(port, "SENTINEL FAILOVER mymaster").is_some_and(|said| said == "+OK")
    })
    .await;
    until("the Sentinels name the old master", async || sentinels.name(&master)).await;
    let named = Instant::now();
    shared_through(&master, &gateways).await;
    let followed = named.elapsed();
    let was = if replica.has_role("master") { "still a master" } else { "a replica" };
    eprintln!("the operator moved the master: both gateways share again after {followed:?}; the other server is {was}");
    assert!(followed < FOLLOWED, "{followed:?}");
    for gateway in &gateways {
        wait_for_store(gateway).await;
    }
    let last = make(&gateways[1]).await;
    for id in [&before, &away, &after, &last] {
        follows(&gateways[0], id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_gateway_writes_its_ids_again_after_redis_was_emptied() {
    let (redis, upstream) = (RedisServer::start(), numbering().await);
    let mut config = settings(&upstream, &redis, PLENTY);
    config.affinity.shared = true;
    config.affinity.unknown_ids = Some(UnknownIds::Refuse);
    let gateways = [Gateway::start(config.clone()), Gateway::start(config)];
    for gateway in &gateways {
        wait_for_store(gateway).await;
    }
    let id = make(&gateways[0]).await;
    assert_eq!(redis.ask("FLUSHALL"), "+OK");
    follows(&gateways[1], &id).await;
}

/// A Sentinel that always names this server. It answers all other commands with OK.
async fn sentinel_that_names(server: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let name = format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{server}\r\n", server.to_string().len());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let name = name.clone();
            tokio::spawn(async move {
                let mut lines = BufReader::new(stream).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    // The first word of a command, behind the number of its words and its own length.
                    let answer = match &*line.to_ascii_uppercase() {
                        "SENTINEL" => &*name,
                        "CLIENT" => "+OK\r\n",
                        _ => continue,
                    };
                    if lines.get_mut().write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// With as many Sentinels for one master as for another, a gateway stays where it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_stays_with_its_master_while_sentinels_disagree() {
    let (servers, upstream) = ([RedisServer::start(), RedisServer::start()], answering().await);
    let mut sentinels = Vec::new();
    for server in &servers {
        let port = sentinel_that_names(server.port).await;
        sentinels.push(RedisHost { name: "127.0.0.1".into(), port });
    }
    let mut config = settings(&upstream, &servers[0], PLENTY);
    config.sharing.as_mut().unwrap().redis.at =
        RedisAt::Sentinels { tls: false, sentinels, master: "mymaster".into(), password: None };
    let gateway = Gateway::start(config);
    gateway.metric_becomes("tidegate_limits_fault", 0.0).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(6) {
        assert_eq!(gateway.connect().await.create(BODY).await.status, 200);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let used = servers.iter().filter(|server| server.ask("EXISTS tidegate:rpm:key:tester") == ":1").count();
    assert_eq!(used, 1);
}

/// Checks that requests at either gateway are counted in this server, and not by one gateway alone.
async fn shared_through(redis: &Server, gateways: &[Gateway; 2]) {
    let counted = || {
        let lines = redis.answer("INFO commandstats");
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
