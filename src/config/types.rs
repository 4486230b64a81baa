//! The configuration after every check. The rest of the crate reads these types. Every value here is valid.

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

/// The whole checked configuration of one process.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Listeners, folders, sizes.
    pub server: Server,
    /// Deadlines of connections, requests and upstreams.
    pub timeouts: Timeouts,
    /// Format, level and content of log lines.
    pub log: Log,
    /// Where keys and ledger are stored.
    pub store: Store,
    /// Number of days after which ledger rows become sums by day; none = never.
    pub keep_days: Option<u32>,
    /// Where replicas count the limits and budgets that they share; none = this process counts alone.
    pub sharing: Option<SharedLimits>,
    /// Upstreams that can be used. An upstream whose credentials are all optional and all unset is in `idle`.
    pub upstreams: Vec<Upstream>,
    /// Upstreams left out because none of their optional credentials is set.
    pub idle: Vec<IdleUpstream>,
    /// Models in the order of the file. Targets of idle upstreams are left out; a model without any target left is too.
    pub models: Vec<Model>,
    /// Keys from the file whose secret was found. Keys of the store are added later.
    pub keys: Vec<Key>,
    /// Groups of keys.
    pub groups: Vec<Group>,
    /// Upstream of a request without `model`: an index into `upstreams`.
    pub default_upstream: Option<usize>,
    /// How prices and budgets are counted.
    pub money: MoneySettings,
    /// What upstreams bill for their models. Prices of idle upstreams are left out.
    pub prices: Vec<ModelPrice>,
    /// How many attempts and retries a request may make.
    pub retries: Retries,
    /// When an upstream or a credential is ejected, and for how long.
    pub health: Health,
    /// How Tidegate remembers the account and the owner of stored state.
    pub affinity: AffinitySettings,
    /// Where alerts are posted, if anywhere.
    pub alerts: Option<AlertSettings>,
}

impl Config {
    /// Returns a copy of the configuration that shares no text with it, so that threads do not write to the same reference counts.
    #[must_use]
    pub fn clone_without_shared_text(&self) -> Self {
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

/// The checked `[server]` table of the configuration: listeners, certificate, folders, sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Address of the data plane.
    pub listen: Listen,
    /// Address of the admin plane.
    pub admin_listen: Listen,
    /// Address of a listener for `/metrics` only, if one is configured.
    pub metrics_listen: Option<Listen>,
    /// Certificate and key of the data plane; none = plain HTTP.
    pub tls: Option<Identity>,
    /// Networks of proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The data folder: everything that must survive a restart.
    pub data_dir: PathBuf,
    /// Number of workers, each with a runtime and a listener of its own; at least 1.
    pub workers: usize,
    /// Client connections at once, over all workers.
    pub max_connections: usize,
    /// Largest request body after decoding, in bytes.
    pub max_body_bytes: u64,
    /// All request bodies together, in bytes; at least `max_body_bytes`.
    pub max_body_memory: u64,
    /// How much of an answer is read after its client left, in bytes.
    pub client_gone_drain: u64,
    /// Text that ends the message of a spent budget, such as a mail address.
    pub contact: Option<Arc<str>>,
}

/// The TLS certificate of the data plane with its private key. The check found that they fit together.
#[derive(Clone)]
pub struct Identity {
    /// Certificate chain and key, as rustls uses them.
    pub certified: Arc<CertifiedKey>,
    /// SHA-256 of both files, for comparisons: rustls keys cannot be compared.
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

/// The checked `[routing]` table of the configuration, without the default upstream: how many attempts and retries are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Attempts for one request, including the first; at least 1.
    pub max_attempts: usize,
    /// Retries at one upstream over 10 s, in percent of its requests. A few more are always allowed.
    pub percent: u32,
    /// Longest `Retry-After` that a request waits for before a retry at the same upstream.
    pub retry_after_max: Duration,
}

/// The checked `[health]` table of the configuration: when an upstream or credential is ejected, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Faults in a row that eject a candidate.
    pub consecutive_faults: u32,
    /// Share of faults among the attempts of a window that ejects a candidate, in percent.
    pub fault_percent: u32,
    /// Length of the first ejection.
    pub eject: Duration,
    /// Length of the longest ejection; at least `eject`.
    pub eject_max: Duration,
    /// Cooldown of a credential that the upstream refused, or whose account has no money left.
    pub refused: Duration,
    /// Longest cooldown of a credential after a 429.
    pub cooldown_max: Duration,
}

/// The checked `[timeouts]` table of the configuration: deadlines of connections, requests and upstreams. None covers a whole stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    /// From the accepted connection to its first byte.
    pub first_byte: Duration,
    /// From the first byte of a request head to its end.
    pub head: Duration,
    /// Between two requests on one connection.
    pub keep_alive_idle: Duration,
    /// Longest gap inside a request body.
    pub body_idle: Duration,
    /// Whole request body.
    pub body_total: Duration,
    /// Slowest request body after `body_idle`, in bytes per second.
    pub body_min_rate: u64,
    /// Longest time in which a client reads nothing of the data that is ready for it.
    pub write_stall: Duration,
    /// From the signal to stop until Tidegate accepts no new connections.
    pub drain_delay: Duration,
    /// How long requests in progress may go on at shutdown.
    pub drain: Duration,
    /// How long the rest of an answer is read after its client left.
    pub client_gone_drain: Duration,
    /// How long a request waits while every candidate has `max_in_flight` requests.
    pub queue: Duration,
    /// Connecting to an upstream, with name resolution and TLS.
    pub upstream_connect: Duration,
    /// From the sent request to the head of the answer.
    pub upstream_head: Duration,
    /// Pause between two reads of a response in the background. There is no setting: a shorter pause brings no better data, and
    /// only tests need one.
    pub background_poll: Duration,
    /// Longest gap inside an answer.
    pub upstream_silence: Duration,
    /// How long an unused connection to an upstream stays open.
    pub upstream_pool_idle: Duration,
}

/// The checked `[log]` table of the configuration: format, level and content of log lines.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// JSON or text.
    pub format: LogFormat,
    /// A `tracing` filter, such as `info` or `tidegate=debug`.
    pub level: String,
    /// Whether log lines of refused requests contain the client's address.
    pub client_ip: bool,
}

/// Whether loading a configuration reads the secrets of upstreams and clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretsNeeded {
    /// To run Tidegate: a missing secret is a fault.
    Read,
    /// To look something up: secrets may be missing. Stand-ins replace them, and certificates are left out.
    Leave,
}

/// The checked `[store]` table of the configuration: the database where keys and ledger are stored.
#[derive(Clone, Debug)]
pub enum Store {
    /// SQLite, as files in the data folder.
    Sqlite,
    /// A PostgreSQL database.
    Postgres {
        /// URL with user, host and database, but without a password.
        url: Arc<str>,
        /// Password of that user.
        password: Option<SecretString>,
    },
}

/// An operator's configurations are compared with each other, never with client input. Constant time is not needed.
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

/// Format of log lines: JSON, or text for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Text for people.
    Text,
}

/// User and password with which Tidegate logs in to the proxy on the way to an upstream.
#[derive(Clone, Debug)]
pub struct ProxyLogin {
    /// The user name.
    pub user: Arc<str>,
    /// The password; may be empty.
    pub password: SecretString,
}

/// An operator's configurations are compared with each other, never with client input. Constant time is not needed.
impl PartialEq for ProxyLogin {
    fn eq(&self, other: &Self) -> bool {
        self.user == other.user && self.password.expose_secret() == other.password.expose_secret()
    }
}

/// One checked `[[upstreams]]` block of the configuration: a provider endpoint with its credentials.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Unique name of the upstream.
    pub name: Arc<str>,
    /// Absolute http(s) URL without query or trailing slash. Its path replaces the client's `/v1`.
    pub base_url: Uri,
    /// Credentials that Tidegate sends; empty = the upstream needs none.
    pub credentials: Vec<Credential>,
    /// Header that carries the credential: `authorization` as `Bearer …`, any other header as the bare secret.
    pub auth_header: HeaderName,
    /// Headers that replace the client's headers of the same name in every request.
    pub headers: HeaderMap,
    /// PEM text of additional CA certificates to trust.
    pub ca_pem: Option<Arc<[u8]>>,
    /// Proxy on the way to the upstream: `http://` (CONNECT), `socks5://` or `socks5h://`.
    pub proxy: Option<Uri>,
    /// Login for that proxy, if the proxy needs one.
    pub proxy_login: Option<ProxyLogin>,
    /// Largest request body that the upstream accepts, in bytes, if it is known.
    pub max_body_bytes: Option<u64>,
    /// Parts of the API that the upstream has; at least one.
    pub surface: Vec<Surface>,
    /// What the client sees when a stream ends cleanly but without a terminal event.
    pub on_incomplete: OnIncomplete,
    /// Whether `x-codex-*` request headers are sent upstream. They contain installation and thread ids.
    pub codex_headers: bool,
    /// Whether the client's `OpenAI-Organization` and `OpenAI-Project` are sent upstream.
    pub organization_headers: bool,
    /// Whether `traceparent` and `tracestate` are sent upstream.
    pub trace_headers: bool,
    /// Failures that cause a failover although this upstream may bill for the attempt.
    pub failover_on: FailoverOn,
    /// Statuses of answers that cause a failover; none = 408, 429 and every 5xx.
    pub failover_statuses: Option<Vec<u16>>,
    /// Codes or types of error answers that cause a failover, whatever their status.
    pub failover_codes: Vec<String>,
    /// Requests in progress at once.
    pub max_in_flight: Option<usize>,
    /// Requests that may wait until one of those ends.
    pub max_queued: usize,
    /// Unused connections that each worker keeps.
    pub max_idle_connections: usize,
    /// Multiplier on the provider's list prices, in billionths; none = only `prices` applies.
    pub official_prices: Option<u64>,
    /// Who caused an error answer, where it differs from the built-in table. The first rule that matches wins.
    pub error_rules: Vec<ErrorRule>,
}

/// Setting `on_incomplete` of an upstream: what the client sees when a stream ends without its terminal event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnIncomplete {
    /// The stream ends for the client as the upstream ended it.
    Pass,
    /// Tidegate breaks the client's transfer, so that the client notices.
    Break,
}

/// One credential of an upstream in the configuration: the secret that Tidegate sends, its name and its account.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Name in logs. The default is the name of the variable or file.
    pub name: Arc<str>,
    /// The provider's account. Credentials of one account share its state.
    pub account: Arc<str>,
    /// Requests in progress at once with this credential.
    pub max_in_flight: Option<usize>,
    /// The secret that is sent.
    pub secret: SecretString,
}

/// An operator's configurations are compared with each other, never with client input. Constant time is not needed.
impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        let Self { name, account, max_in_flight, secret } = self;
        *name == other.name
            && *account == other.account
            && *max_in_flight == other.max_in_flight
            && secret.expose_secret() == other.secret.expose_secret()
    }
}

/// A configured upstream that Tidegate leaves out, because none of its optional credentials is set.
#[derive(Clone, Debug, PartialEq)]
pub struct IdleUpstream {
    /// Name of the upstream.
    pub name: Arc<str>,
    /// Variables, or files, any of which would supply a credential.
    pub variables: Vec<String>,
}

/// One checked `[[models]]` block of the configuration: a model name and the targets of its route.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The name that clients ask for. With a trailing `*` it matches every name that begins so.
    pub name: Arc<str>,
    /// How the targets of one priority are ordered for a request.
    pub strategy: Strategy,
    /// Targets in the order of the file; at least one.
    pub targets: Vec<Target>,
    /// What happens to a request whose state is in an account that cannot be used.
    pub on_lost_state: OnLostState,
    /// Chat streams must report their usage: Tidegate adds `stream_options.include_usage` where the client left it out.
    pub require_usage: bool,
}

/// Setting `strategy` of a model: how the targets of one priority are ordered for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// In the order of the file: each target has a priority of its own, unless the file sets one.
    Ordered,
    /// Drawn at random by weight.
    Weighted,
    /// Two targets are drawn by weight; the one with the shorter time to the first byte is first.
    LeastLatency,
}

/// One target of a model in the configuration: an upstream, with its own name for the model, a priority and a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Index into `Config::upstreams`.
    pub upstream: usize,
    /// The upstream's name of the model; none = the name that the client asked for.
    pub model: Option<Arc<str>>,
    /// Targets with the lowest priority are attempted first.
    pub priority: u32,
    /// Share among the targets of the same priority; at least 1.
    pub weight: u32,
}
