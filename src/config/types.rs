//! The configuration after every check: what the rest of the crate reads. Nothing here can be wrong any more.

mod affinity;
mod alerts;
mod failover;
mod key;
mod limits;
mod listen;
mod money;
mod redis;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, Uri};
use ipnet::IpNet;
use rustls::sign::CertifiedKey;
use secrecy::{ExposeSecret, SecretString};

use crate::domain::endpoint::Surface;

pub use affinity::{AffinitySettings, OnLostState, UnknownIds};
pub use alerts::AlertSettings;
pub use failover::{ErrorRule, FailoverOn, FaultOwner};
pub use key::{Group, Key, KeyLimits, KeySource, MOST_BY_MODEL, ModelLimits, OnClientGone};
pub use limits::{SharedLimits, WhenRedisIsAway};
pub use listen::{Listen, NoListen};
pub use money::{ModelPrice, MoneySettings, Unpriced};
pub use redis::{RedisAt, RedisHost, RedisSettings};

/// Everything a start needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Listeners, folders, sizes.
    pub server: Server,
    /// Every deadline on the way.
    pub timeouts: Timeouts,
    /// What is logged and how.
    pub log: Log,
    /// Where keys and ledger are kept.
    pub store: Store,
    /// After how many days the ledger's rows become sums by day; none = never.
    pub keep_days: Option<u32>,
    /// Where limits and budgets are counted that replicas share; none = this process counts alone.
    pub sharing: Option<SharedLimits>,
    /// Upstreams that can be used: those with no credential left (all optional ones unset) are in `idle`.
    pub upstreams: Vec<Upstream>,
    /// Upstreams left out because none of their optional credentials is set.
    pub idle: Vec<IdleUpstream>,
    /// Models in the order of the file. Targets of idle upstreams are left out; a model without any target left is too.
    pub models: Vec<Model>,
    /// Client keys whose secret is there.
    pub keys: Vec<Key>,
    /// Groups of keys.
    pub groups: Vec<Group>,
    /// Where a request without `model` goes; an index into `upstreams`.
    pub default_upstream: Option<usize>,
    /// What prices and budgets are counted by.
    pub money: MoneySettings,
    /// What upstreams bill for their models, those of idle upstreams left out.
    pub prices: Vec<ModelPrice>,
    /// What happens when a candidate fails.
    pub retries: Retries,
    /// When an upstream or a credential is passed by.
    pub health: Health,
    /// Where state goes that an upstream keeps.
    pub affinity: AffinitySettings,
    /// Where an operator is told of what happened, if anywhere.
    pub alerts: Option<AlertSettings>,
}

impl Config {
    /// A copy that shares no text with this one, so that threads do not write to the same reference counts.
    #[must_use]
    pub fn apart(&self) -> Self {
        let mut copy = self.clone();
        for upstream in &mut copy.upstreams {
            own(&mut upstream.name);
            for credential in &mut upstream.credentials {
                own(&mut credential.name);
                own(&mut credential.account);
            }
        }
        copy.idle.iter_mut().for_each(|upstream| own(&mut upstream.name));
        for model in &mut copy.models {
            own(&mut model.name);
            model.targets.iter_mut().filter_map(|target| target.model.as_mut()).for_each(own);
        }
        copy.groups.iter_mut().for_each(|group| own(&mut group.name));
        for key in &mut copy.keys {
            own(&mut key.name);
            key.models.iter_mut().flatten().for_each(own);
        }
        copy.prices.iter_mut().for_each(|price| own(&mut price.model));
        copy
    }
}

fn own(text: &mut Arc<str>) {
    *text = Arc::from(&**text);
}

/// `[server]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Data plane.
    pub listen: Listen,
    /// Admin plane.
    pub admin_listen: Listen,
    /// `/metrics` alone, if wanted.
    pub metrics_listen: Option<Listen>,
    /// What the data plane shows and signs with in TLS; without it, it speaks plain http.
    pub tls: Option<Identity>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Where everything that must survive a restart lives.
    pub data_dir: PathBuf,
    /// Number of runtimes, each with a listener of its own; at least 1.
    pub workers: usize,
    /// Connections of clients at once, over all workers.
    pub max_connections: usize,
    /// Largest request body, decoded, in bytes.
    pub max_body_bytes: u64,
    /// All request bodies together, in bytes; at least `max_body_bytes`.
    pub max_body_memory: u64,
    /// The rest of an answer that is read where its client left, in bytes.
    pub client_gone_drain: u64,
    /// Whom people ask when a budget is spent.
    pub contact: Option<Arc<str>>,
}

/// A certificate with its key, both in working order.
#[derive(Clone)]
pub struct Identity {
    /// For rustls.
    pub certified: Arc<CertifiedKey>,
    /// SHA-256 of both files: the key itself cannot be compared.
    pub digest: [u8; 32],
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// `[routing]`, but for the default upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Attempts for one request, the first one included; at least 1.
    pub max_attempts: usize,
    /// Retries at one upstream over 10 s, in percent of its requests, beside the few that are always allowed.
    pub percent: u32,
    /// The longest `Retry-After` that is waited for before the same upstream is asked again.
    pub retry_after_max: Duration,
}

/// `[health]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Faults in a row that eject.
    pub consecutive_faults: u32,
    /// Faults among the attempts of a window that eject, in percent.
    pub fault_percent: u32,
    /// First ejection.
    pub eject: Duration,
    /// Longest ejection; at least `eject`.
    pub eject_max: Duration,
    /// A credential that the upstream refused.
    pub refused: Duration,
    /// The longest `Retry-After` for which a credential is left alone.
    pub cooldown_max: Duration,
}

/// `[timeouts]`. None of them covers a whole stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    /// From accept to the first byte.
    pub first_byte: Duration,
    /// From the first byte of a head to its end.
    pub head: Duration,
    /// Between two requests on one connection.
    pub keep_alive_idle: Duration,
    /// Longest gap inside a request body.
    pub body_idle: Duration,
    /// Whole request body.
    pub body_total: Duration,
    /// Slowest request body, bytes a second, judged from `body_idle` on.
    pub body_min_rate: u64,
    /// A client that takes nothing of what is ready for it.
    pub write_stall: Duration,
    /// From the wish to end until no new connection is taken.
    pub drain_delay: Duration,
    /// Requests under way at shutdown.
    pub drain: Duration,
    /// Reading the rest of an answer whose client left.
    pub client_gone_drain: Duration,
    /// While every candidate has as many requests as it may have.
    pub queue: Duration,
    /// Connecting to an upstream, name resolution and TLS included.
    pub upstream_connect: Duration,
    /// From the sent request to the head of the answer.
    pub upstream_head: Duration,
    /// The pause before Tidegate asks for a response in the background. No setting: sooner is no more exact, and tests need it.
    pub background_poll: Duration,
    /// Longest gap inside an answer.
    pub upstream_silence: Duration,
    /// An unused connection to an upstream.
    pub upstream_pool_idle: Duration,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// One JSON object a line, or text.
    pub format: LogFormat,
    /// A `tracing` filter, such as `info` or `tidegate=debug`.
    pub level: String,
    /// Whether lines of refused requests name the address of the client.
    pub client_ip: bool,
}

/// Whether a configuration is read with the secrets of upstreams and clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretsNeeded {
    /// To run: those that are missing are faults.
    Read,
    /// To look something up: nobody needs to have them. Stand-ins are in their places, and certificates are left out.
    Leave,
}

/// `[store]`: where keys and ledger are kept.
#[derive(Clone, Debug)]
pub enum Store {
    /// In SQLite, a file in the data folder.
    Sqlite,
    /// In PostgreSQL.
    Postgres {
        /// With user, host and database, and without a password.
        url: Arc<str>,
        /// Of that user.
        password: Option<SecretString>,
    },
}

/// Readings of a configuration are compared with each other, never with what a client sent: time tells nothing here.
impl PartialEq for Store {
    fn eq(&self, other: &Self) -> bool {
        fn parts(store: &Store) -> Option<(&str, Option<&str>)> {
            match store {
                Store::Sqlite => None,
                Store::Postgres { url, password } => Some((url, password.as_ref().map(ExposeSecret::expose_secret))),
            }
        }
        parts(self) == parts(other)
    }
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// A user of a proxy.
#[derive(Clone, Debug)]
pub struct ProxyLogin {
    /// The name.
    pub user: Arc<str>,
    /// The password; may be empty.
    pub password: SecretString,
}

/// Readings of a configuration are compared with each other, never with what a client sent: time tells nothing here.
impl PartialEq for ProxyLogin {
    fn eq(&self, other: &Self) -> bool {
        self.user == other.user && self.password.expose_secret() == other.password.expose_secret()
    }
}

/// `[[upstreams]]`: one provider endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Unique name.
    pub name: Arc<str>,
    /// Absolute http(s) URL without query or trailing slash; its path takes the place of the client's `/v1`.
    pub base_url: Uri,
    /// What is sent up; empty = the upstream wants none.
    pub credentials: Vec<Credential>,
    /// Header that carries the credential; `authorization` carries it as `Bearer …`, any other one bare.
    pub auth_header: HeaderName,
    /// Headers added to every request, in place of the client's.
    pub headers: HeaderMap,
    /// PEM text of further roots to trust.
    pub ca_pem: Option<Arc<[u8]>>,
    /// `http://` (CONNECT), `socks5://` or `socks5h://` proxy on the way to it.
    pub proxy: Option<Uri>,
    /// Who we are to that proxy, where it asks.
    pub proxy_login: Option<ProxyLogin>,
    /// Largest body that it takes, in bytes, if that is known.
    pub max_body_bytes: Option<u64>,
    /// Parts of the API that it has; one at least.
    pub surface: Vec<Surface>,
    /// What a stream that ends cleanly without a terminal event does to the client.
    pub on_incomplete: OnIncomplete,
    /// Whether `x-codex-*` request headers go up (they hold installation and thread ids).
    pub codex_headers: bool,
    /// Whether `OpenAI-Organization` and `OpenAI-Project` of the client go up.
    pub organization_headers: bool,
    /// Whether `traceparent` and `tracestate` go up.
    pub trace_headers: bool,
    /// Failures after which the next candidate is asked although this one may bill for what it did.
    pub failover_on: FailoverOn,
    /// Statuses of answers after which the next candidate is asked; none = 408, 429 and every 5xx.
    pub failover_statuses: Option<Vec<u16>>,
    /// Codes or types of error answers after which the next candidate is asked, whatever their status.
    pub failover_codes: Vec<String>,
    /// Requests under way at once.
    pub max_in_flight: Option<usize>,
    /// Requests that may wait for one of those to end.
    pub max_queued: usize,
    /// Unused connections kept by each worker.
    pub max_idle_connections: usize,
    /// The part of the official prices that it bills, in billionths; none = only `prices` counts.
    pub official_prices: Option<u64>,
    /// Whose fault an error answer is, where it differs from the built-in table; the first match wins.
    pub error_rules: Vec<ErrorRule>,
}

/// `on_incomplete`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnIncomplete {
    /// The stream ends for the client as it ended for us.
    Pass,
    /// The client's transfer is broken, so that it notices.
    Break,
}

/// One credential of an upstream.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Its name in logs: by default the name of its variable or file.
    pub name: Arc<str>,
    /// The provider account behind it: credentials of one account share its state.
    pub account: Arc<str>,
    /// Requests under way with it at once.
    pub max_in_flight: Option<usize>,
    /// What is sent.
    pub secret: SecretString,
}

/// Readings of a configuration are compared with each other, never with what a client sent: time tells nothing here.
impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        let Self { name, account, max_in_flight, secret } = self;
        *name == other.name
            && *account == other.account
            && *max_in_flight == other.max_in_flight
            && secret.expose_secret() == other.secret.expose_secret()
    }
}

/// An upstream that was configured but has no credential.
#[derive(Clone, Debug, PartialEq)]
pub struct IdleUpstream {
    /// Its name.
    pub name: Arc<str>,
    /// The variables that would bring it to life.
    pub variables: Vec<String>,
}

/// `[[models]]`: a name and where it leads.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The name clients ask for; with a trailing `*` it matches any rest.
    pub name: Arc<str>,
    /// How the candidates are ordered for a request.
    pub strategy: Strategy,
    /// Candidates in the order of the file; at least one.
    pub targets: Vec<Target>,
    /// A request whose state is in an account that cannot be used.
    pub on_lost_state: OnLostState,
    /// Chat streams have to tell their tokens: `stream_options.include_usage` is added where the client left it out.
    pub require_usage: bool,
}

/// How candidates of one priority are ordered for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// In the order of the file: each has a priority of its own, unless one is written.
    Ordered,
    /// Drawn by weight.
    Weighted,
    /// The faster of two that are drawn by weight, by the time to the first byte.
    LeastLatency,
}

/// One candidate of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Index into `Config::upstreams`.
    pub upstream: usize,
    /// Name of the model there; none = the name the client asked for.
    pub model: Option<Arc<str>>,
    /// The lowest is asked first.
    pub priority: u32,
    /// Its share among those of the same priority; at least 1.
    pub weight: u32,
}
