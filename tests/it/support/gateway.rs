//! A gateway on port 0.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName};
use tempfile::TempDir;
use tidegate::{
    app::{self, AlertTimes, Handle, ReloadSource, StartContext},
    auth,
    config::{
        AffinitySettings, Config, Credential, FailoverOn, Health, Key, Log, LogFormat, Model, MoneySettings,
        OnIncomplete, OnLostState, Retries, Server, Store, Strategy, Target, Timeouts, Unpriced,
        Upstream as UpstreamConfig,
    },
    domain::{clock::Clock, endpoint::Surface, random::RandomBytes},
    store::journal::{Disk, SystemDisk},
};
use tokio::time::Instant;

use super::{
    LONG,
    client::{Answer, Client},
    soon,
};

/// The client key that every test gateway knows.
pub(crate) const KEY: &str = "sk-test-client-key";
/// The credential that goes up in its place.
pub(crate) const UPSTREAM_KEY: &str = "sk-test-upstream-secret";

/// A gateway that ends with the test.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) handle: Handle,
    ended: Option<std::thread::JoinHandle<()>>,
    /// The folder with the gateway's data and other files.
    pub(crate) folder: TempDir,
}

/// A configuration with one upstream at `base_url`: model `smart` becomes `real`, and any `gpt-*` keeps its name.
pub(crate) fn config(base_url: &str) -> Config {
    Config {
        server: Server {
            listen: "127.0.0.1:0".parse().unwrap(),
            admin_listen: "127.0.0.1:0".parse().unwrap(),
            metrics_listen: None,
            tls: None,
            trusted_proxies: Vec::new(),
            client_gone_drain: 16 * 1024 * 1024,
            contact: None,
            data_dir: "unset".into(),
            workers: 1,
            max_connections: 1000,
            max_body_bytes: 1024 * 1024,
            max_body_memory: 512 * 1024 * 1024,
        },
        timeouts: Timeouts {
            first_byte: Duration::from_secs(10),
            head: Duration::from_secs(10),
            keep_alive_idle: Duration::from_secs(75),
            body_idle: Duration::from_secs(20),
            body_total: Duration::from_secs(300),
            body_min_rate: 1024,
            write_stall: Duration::from_secs(60),
            drain_delay: Duration::ZERO,
            drain: Duration::from_secs(300),
            client_gone_drain: Duration::from_secs(120),
            queue: Duration::from_secs(1),
            upstream_connect: Duration::from_secs(5),
            upstream_head: Duration::from_secs(1800),
            background_poll: Duration::from_secs(5),
            upstream_silence: Duration::from_secs(600),
            upstream_pool_idle: Duration::from_secs(50),
        },
        log: Log { format: LogFormat::Text, level: "off".into(), client_ip: true },
        store: Store::Sqlite,
        keep_days: None,
        sharing: None,
        upstreams: vec![upstream("up", base_url)],
        idle: Vec::new(),
        models: vec![model("smart", &[(0, Some("real"))]), model("gpt-*", &[(0, None)])],
        keys: vec![key("tester", KEY)],
        groups: Vec::new(),
        default_upstream: None,
        money: MoneySettings {
            time_zone: jiff::tz::TimeZone::UTC,
            cny_per_usd: None,
            unpriced: Unpriced::Refuse,
            budget_status: http::StatusCode::TOO_MANY_REQUESTS,
            warn_at: Default::default(),
        },
        prices: Vec::new(),
        retries: Retries { max_attempts: 3, percent: 20, retry_after_max: Duration::from_secs(2) },
        health: Health {
            consecutive_faults: 5,
            fault_percent: 50,
            eject: Duration::from_secs(30),
            eject_max: Duration::from_secs(300),
            refused: Duration::from_secs(600),
            cooldown_max: Duration::from_secs(300),
        },
        affinity: AffinitySettings {
            ttl: Duration::from_secs(30 * 86_400),
            max_entries: 1_000_000,
            shared: false,
            unknown_ids: None,
        },
        alerts: None,
    }
}

/// A model and its targets in order: the upstream's index, and its own name for the model.
pub(crate) fn model(name: &str, targets: &[(usize, Option<&str>)]) -> Model {
    let targets = (1..).zip(targets).map(|(priority, (upstream, model))| Target {
        upstream: *upstream,
        model: model.map(Arc::from),
        priority,
        weight: 1,
    });
    let on_lost_state = OnLostState::Fail;
    Model {
        name: name.into(),
        strategy: Strategy::Ordered,
        targets: targets.collect(),
        on_lost_state,
        require_usage: false,
    }
}

/// An upstream with one credential.
pub(crate) fn upstream(name: &str, base_url: &str) -> UpstreamConfig {
    let credential = credential("UP_KEY", UPSTREAM_KEY);
    UpstreamConfig {
        name: name.into(),
        base_url: base_url.parse().unwrap(),
        credentials: vec![credential],
        auth_header: HeaderName::from_static("authorization"),
        headers: HeaderMap::new(),
        ca_pem: None,
        proxy: None,
        proxy_login: None,
        max_body_bytes: None,
        surface: Surface::ALL.to_vec(),
        on_incomplete: OnIncomplete::Pass,
        codex_headers: true,
        organization_headers: false,
        trace_headers: false,
        failover_on: FailoverOn::default(),
        failover_statuses: None,
        failover_codes: Vec::new(),
        max_in_flight: None,
        max_queued: 64,
        max_idle_connections: 64,
        official_prices: None,
        error_rules: Vec::new(),
    }
}

/// A credential with an account of its own.
pub(crate) fn credential(name: &str, secret: &str) -> Credential {
    Credential { name: name.into(), account: name.into(), max_in_flight: None, secret: secret.into() }
}

/// A key that may use everything.
pub(crate) fn key(name: &str, secret: &str) -> Key {
    Key::unrestricted(name, auth::digest(secret.as_bytes()))
}

impl Gateway {
    /// A gateway in front of one upstream, configured by [`config`].
    pub(crate) fn before(base_url: &str) -> Self {
        Self::start(config(base_url))
    }

    /// The same with other settings.
    pub(crate) fn with(base_url: &str, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(base_url);
        change(&mut config);
        Self::start(config)
    }

    pub(crate) fn start(mut config: Config) -> Self {
        let data = TempDir::new().unwrap();
        config.server.data_dir = data.path().to_owned();
        Self::run(config, None, data)
    }

    /// A gateway whose configuration is read again from its source at a reload.
    pub(crate) fn run(config: Config, origin: Option<ReloadSource>, folder: TempDir) -> Self {
        Self::run_on(&SystemDisk, config, origin, folder)
    }

    /// A gateway whose journal is on the test's own disk.
    pub(crate) fn start_on(disk: &'static dyn Disk, mut config: Config) -> Self {
        let data = TempDir::new().unwrap();
        config.server.data_dir = data.path().to_owned();
        Self::run_on(disk, config, None, data)
    }

    /// A gateway with the test's own clock.
    pub(crate) fn start_at(clock: Clock, mut config: Config) -> Self {
        let data = TempDir::new().unwrap();
        config.server.data_dir = data.path().to_owned();
        Self::run_in(StartContext { clock, ..Self::start_context(&SystemDisk) }, config, None, data)
    }

    /// With times of the test's own, after which alerts are sent.
    pub(crate) fn start_with_alerts(alert_times: AlertTimes, mut config: Config) -> Self {
        let data = TempDir::new().unwrap();
        config.server.data_dir = data.path().to_owned();
        Self::run_in(StartContext { alert_times, ..Self::start_context(&SystemDisk) }, config, None, data)
    }

    fn start_context(disk: &'static dyn Disk) -> StartContext {
        StartContext {
            clock: Clock::system(),
            random_bytes: RandomBytes::system(),
            disk,
            terminal: false,
            alert_times: AlertTimes::default(),
        }
    }

    fn run_on(disk: &'static dyn Disk, config: Config, origin: Option<ReloadSource>, folder: TempDir) -> Self {
        Self::run_in(Self::start_context(disk), config, origin, folder)
    }

    fn run_in(world: StartContext, config: Config, origin: Option<ReloadSource>, folder: TempDir) -> Self {
        // A server that another test starts inherits the open files, and with them the lock of a data folder that is
        // used again, until its program runs.
        let began = Instant::now();
        let running = loop {
            match app::start(config.clone(), origin.clone(), world) {
                Err(error) if error.to_string().contains("is in use") && began.elapsed() < LONG => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                started => break started.unwrap(),
            }
        };
        let (address, admin) = (running.listen.address().unwrap(), running.admin_listen.address().unwrap());
        let metrics = running.metrics_listen.as_ref().map(|listen| listen.address().unwrap());
        let handle = running.handle();
        let ended = std::thread::spawn(move || running.join());
        Self { address, admin, metrics, handle, ended: Some(ended), folder }
    }

    pub(crate) async fn connect(&self) -> Client {
        Client::connect(self.address).await
    }

    /// Announces the shutdown: readiness fails, and requests are still served.
    pub(crate) fn announce_shutdown(&self) {
        self.handle.leave();
    }

    /// Starts the graceful shutdown.
    pub(crate) fn drain(&self) {
        self.handle.drain();
    }

    /// Stops the gateway now.
    pub(crate) fn stop(&self) {
        self.handle.stop();
    }

    pub(crate) async fn ended(&mut self) {
        let ended = self.ended.take().unwrap();
        soon("the end of the gateway", tokio::task::spawn_blocking(move || ended.join())).await.unwrap().unwrap();
    }

    /// Sends a request on a connection of its own, which the answer may close.
    pub(crate) async fn post(&self, headers: &str, body: impl AsRef<[u8]>) -> Answer {
        let mut client = self.connect().await;
        client.post_with(headers, body).await;
        client.answer().await
    }

    /// All metrics.
    pub(crate) async fn metrics_text(&self) -> String {
        String::from_utf8(Client::connect(self.admin).await.get("/metrics").await.body).unwrap()
    }

    /// The value of the first metric line that begins with `name`; 0 if there is none yet.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.metrics_text().await;
        let line = text.lines().find(|line| line.starts_with(name));
        line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// The sum of all metric lines that begin with `name`.
    pub(crate) async fn metric_sum(&self, name: &str) -> f64 {
        let answer = Client::connect(self.admin).await.get("/metrics").await;
        let text = String::from_utf8(answer.body).unwrap();
        let values = text.lines().filter(|line| line.starts_with(name));
        values.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Waits until a metric has a value: requests are settled after the client has its answer.
    pub(crate) async fn metric_becomes(&self, name: &str, value: f64) {
        soon(&format!("{name} = {value}"), async {
            while self.metric(name).await != value {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(ended) = self.ended.take() {
            let _ = ended.join();
        }
    }
}
