//! The settings as they are written in the configuration file: one struct for each table, with plain values. Each field has its
//! default and its range. The JSON Schema is generated from these structs, and `shape` compares the file with the schema first.

mod affinity;
mod alerts;
mod failover;
mod key;
mod limits;
mod money;
mod routing;
mod store;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(in crate::config) use affinity::{Affinity, UnknownIds};
pub(in crate::config) use alerts::Alerts;
pub(in crate::config) use failover::{ErrorRule, FailoverOn, Fault};
pub(in crate::config) use key::{Group, Key, KeyLimits, OnClientGone, Secret};
pub(in crate::config) use limits::{Fail, Limits};
pub(in crate::config) use money::{Currency, Decimal, LongInput, Money, Price, Unpriced};
pub(in crate::config) use routing::{Health, Model, OnLostState, Routing, Strategy, Target};
pub(in crate::config) use store::Store;

/// The whole configuration file of Tidegate. `config/tidegate.toml` shows every setting with its default and the reason for it.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Tidegate configuration")]
pub(in crate::config) struct File {
    /// Listeners, folders, sizes.
    pub(in crate::config) server: Server,
    /// Timeouts, in seconds. No timeout covers a whole stream.
    pub(in crate::config) timeouts: Timeouts,
    /// The log.
    pub(in crate::config) log: Log,
    /// Where keys and ledger are.
    pub(in crate::config) store: Store,
    /// Where limits and budgets are counted.
    pub(in crate::config) limits: Limits,
    /// Provider endpoints.
    pub(in crate::config) upstreams: Vec<Upstream>,
    /// Names that clients ask for, and their targets.
    pub(in crate::config) models: Vec<Model>,
    /// Keys.
    pub(in crate::config) keys: Vec<Key>,
    /// Groups of keys that share limits and budgets.
    pub(in crate::config) groups: Vec<Group>,
    /// How money is counted.
    pub(in crate::config) money: Money,
    /// What upstreams bill for their models.
    pub(in crate::config) prices: Vec<Price>,
    /// How many attempts a request makes.
    pub(in crate::config) routing: Routing,
    /// When a candidate is ejected, and for how long.
    pub(in crate::config) health: Health,
    /// How Tidegate remembers the account and the owner of stored state.
    pub(in crate::config) affinity: Affinity,
    /// A webhook for alerts.
    pub(in crate::config) alerts: Alerts,
}

/// The table `[server]` as written in the configuration file: listeners, folders, sizes.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Server {
    /// Address of the data plane (clients, `/healthz`, `/readyz`), or a Unix socket: `unix:/run/tidegate/tidegate.sock`. The variable
    /// `TIDEGATE_LISTEN` has priority.
    pub(in crate::config) listen: String,
    /// Address or Unix socket of the admin plane: health in detail, `/metrics`.
    pub(in crate::config) admin_listen: String,
    /// Address or Unix socket that serves `/metrics` only, for a Prometheus that cannot reach loopback.
    #[schemars(example = &"0.0.0.0:9090")]
    pub(in crate::config) metrics_listen: Option<String>,
    /// Certificate and key of the data plane. Absent: plain HTTP.
    #[schemars(extend("examples" = [{ "cert_file": "/etc/tidegate/tls.crt", "key_file": "/etc/tidegate/tls.key" }]))]
    pub(in crate::config) tls: Option<Tls>,
    /// Networks of proxies in front of Tidegate. Their `X-Forwarded-For` is believed, for keys with `ip`.
    #[schemars(extend("examples" = [["10.0.0.0/8"]]))]
    pub(in crate::config) trusted_proxies: Vec<String>,
    /// Data folder. The variable `TIDEGATE_DATA_DIR` has priority.
    pub(in crate::config) data_dir: String,
    /// Threads that serve clients. 0 = one for each core.
    #[schemars(range(max = 1024))]
    pub(in crate::config) workers: usize,
    /// Client connections at once. Over HTTP/2 each further request on a connection counts as one more.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(in crate::config) max_connections: usize,
    /// Largest request body after decoding, in MiB.
    #[schemars(range(min = 1, max = 1024))]
    pub(in crate::config) max_body_mib: u64,
    /// All request bodies together, in MiB. A request beyond it gets 503 `gateway_overloaded`.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub(in crate::config) max_body_memory_mib: u64,
    /// How much of an answer is read after its client left, in MiB.
    #[schemars(range(min = 1, max = 1024))]
    pub(in crate::config) client_gone_drain_mib: u64,
    /// Text that ends the message of a spent budget, such as a mail address.
    #[schemars(example = &"ai-platform@example.com")]
    pub(in crate::config) contact: Option<String>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: "0.0.0.0:8080".into(),
            admin_listen: "127.0.0.1:8081".into(),
            metrics_listen: None,
            tls: None,
            trusted_proxies: Vec::new(),
            data_dir: "data".into(),
            workers: 0,
            max_connections: 10_000,
            max_body_mib: 64,
            max_body_memory_mib: 512,
            client_gone_drain_mib: 16,
            contact: None,
        }
    }
}

/// `[server] tls` as written in the configuration file: the files of the certificate and of its private key.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["cert_file", "key_file"]))]
pub(in crate::config) struct Tls {
    /// PEM file: the certificate, then the intermediate certificates.
    #[schemars(example = &"/etc/tidegate/tls.crt")]
    pub(in crate::config) cert_file: Option<String>,
    /// PEM file: the private key, not encrypted.
    #[schemars(example = &"/etc/tidegate/tls.key")]
    pub(in crate::config) key_file: Option<String>,
}

/// The table `[timeouts]` as written in the configuration file, in seconds. The longest timeout is a day: a longer one is a typing error.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Timeouts {
    /// From the accepted connection to its first byte.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) first_byte_s: u64,
    /// From the first byte of a request head to its end.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) head_s: u64,
    /// Between two requests on one connection. Keep it above the idle time of a load balancer (often 60 s).
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) keep_alive_idle_s: u64,
    /// Longest gap inside a request body.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) body_idle_s: u64,
    /// Whole request body.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) body_total_s: u64,
    /// Slowest request body after `body_idle_s`, in bytes per second. 0 = no minimum.
    #[schemars(range(max = 1_000_000_000))]
    pub(in crate::config) body_min_bytes_per_s: u64,
    /// A client that does not read what is ready for it.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) write_stall_s: u64,
    /// From SIGTERM, when readiness fails, to the end of new connections. SIGINT skips it.
    #[schemars(range(max = 86_400))]
    pub(in crate::config) drain_delay_s: u64,
    /// Requests in progress at shutdown. 0 = cut at once.
    #[schemars(range(max = 86_400))]
    pub(in crate::config) drain_timeout_s: u64,
    /// Reading the rest of an answer whose client left.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) client_gone_drain_s: u64,
    /// Waiting for a place when all candidates have `max_in_flight` requests. 0 = refuse at once.
    #[schemars(range(max = 86_400))]
    pub(in crate::config) queue_s: u64,
    /// Connecting to an upstream, with name resolution and TLS.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) upstream_connect_s: u64,
    /// From the sent request to the head of the answer. An answer that is not a stream sends nothing before it is
    /// complete.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) upstream_head_s: u64,
    /// Longest gap inside an answer. Clients wait 300 to 600 s.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) upstream_silence_s: u64,
    /// An unused connection to an upstream. Keep it below the 60 s of many providers.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) upstream_pool_idle_s: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            first_byte_s: 10,
            head_s: 10,
            keep_alive_idle_s: 75,
            body_idle_s: 20,
            body_total_s: 300,
            body_min_bytes_per_s: 1024,
            write_stall_s: 60,
            drain_delay_s: 5,
            drain_timeout_s: 300,
            client_gone_drain_s: 120,
            queue_s: 1,
            upstream_connect_s: 5,
            upstream_head_s: 1800,
            upstream_silence_s: 600,
            upstream_pool_idle_s: 50,
        }
    }
}

/// The table `[log]` as written in the configuration file: format, level and content of log lines.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Log {
    /// `json`: one object a line. `text`: for people.
    pub(in crate::config) format: LogFormat,
    /// `off`, `error`, `warn`, `info`, `debug`, `trace`; also by module: `warn,tidegate=debug`.
    pub(in crate::config) level: String,
    /// Whether lines of refused requests have the client's address.
    pub(in crate::config) client_ip: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Json, level: "info".into(), client_ip: true }
    }
}

/// Format of log lines as written in the configuration file: `json` or `text`.
#[derive(Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum LogFormat {
    Json,
    Text,
}

/// One `[[upstreams]]` block as written in the configuration file: a provider endpoint with its credentials.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name", "base_url"]))]
pub(in crate::config) struct Upstream {
    /// Unique name, without `/`, `*` or spaces. Clients may ask for `NAME/MODEL`.
    #[schemars(example = &"dmxapi")]
    pub(in crate::config) name: Option<String>,
    /// URL that replaces the client's `/v1`, without `/responses`.
    #[schemars(example = &"https://www.dmxapi.cn/v1")]
    pub(in crate::config) base_url: Option<String>,
    /// Credentials. Several share the requests. Absent: the upstream needs none.
    #[schemars(extend("examples" = [[{ "env": "DMXAPI_API_KEY" }]]))]
    pub(in crate::config) credentials: Option<Vec<Credential>>,
    /// Headers that Tidegate adds to every request, in place of the client's.
    #[schemars(extend("examples" = [{ "x-team": "a" }]))]
    pub(in crate::config) headers: BTreeMap<String, String>,
    /// Header for the credential. In `authorization` Tidegate sends `Bearer CREDENTIAL`, in any other header only
    /// the credential.
    pub(in crate::config) auth_header: String,
    /// PEM file with root certificates to trust in addition to the system's.
    #[schemars(example = &"/etc/ssl/company-ca.pem")]
    pub(in crate::config) ca_file: Option<String>,
    /// Proxy to the upstream: `http://`, `socks5://`, `socks5h://`. `env` = the proxy of the environment.
    #[schemars(example = &"http://proxy.internal:3128")]
    pub(in crate::config) proxy: Option<String>,
    /// User name at the proxy.
    #[schemars(example = &"tidegate")]
    pub(in crate::config) proxy_user: Option<String>,
    /// Password at the proxy.
    #[schemars(extend("examples" = [{ "env": "TIDEGATE_PROXY_PASSWORD" }]))]
    pub(in crate::config) proxy_password: Option<Secret>,
    /// Largest body for this upstream, in MiB. Larger bodies go to other candidates.
    #[schemars(range(min = 1, max = 1024), example = 20)]
    pub(in crate::config) max_body_mib: Option<u64>,
    /// Parts of the API that the upstream has. Absent: all are tried.
    #[schemars(extend("examples" = [["responses", "chat", "embeddings"]]))]
    pub(in crate::config) surface: Option<Vec<Surface>>,
    /// Allow plain `http` to a public name. The credential is then readable on the way.
    pub(in crate::config) insecure: bool,
    /// A stream that ends without its last event: `pass` = the client gets it as it is, `break` = the client sees a
    /// broken transfer.
    pub(in crate::config) on_incomplete: OnIncomplete,
    /// Send the client's `x-codex-*` headers.
    pub(in crate::config) codex_headers: bool,
    /// Send the client's `OpenAI-Organization` and `OpenAI-Project`.
    pub(in crate::config) organization_headers: bool,
    /// Send the client's `traceparent` and `tracestate`.
    pub(in crate::config) trace_headers: bool,
    /// Failures that lead to the next candidate although the provider may bill the first call.
    #[schemars(extend("examples" = [["disconnect", "timeout", "empty"]]))]
    pub(in crate::config) failover_on: Vec<FailoverOn>,
    /// Statuses that lead to the next candidate. Absent: 408, 429 and every 5xx.
    #[schemars(inner(range(min = 400, max = 599)), extend("examples" = [[408, 429, 500, 502, 503, 504]]))]
    pub(in crate::config) failover_statuses: Option<Vec<u16>>,
    /// Error codes or types that lead to the next candidate, whatever the status.
    #[schemars(extend("examples" = [["engine_overloaded"]]))]
    pub(in crate::config) failover_codes: Vec<String>,
    /// Requests at once. Absent: no limit.
    #[schemars(range(min = 1, max = 1_000_000), example = 100)]
    pub(in crate::config) max_in_flight: Option<usize>,
    /// Requests that may wait for a place. 0 = none.
    #[schemars(range(max = 100_000))]
    pub(in crate::config) max_queued: usize,
    /// Unused connections that each worker keeps.
    #[schemars(range(max = 10_000))]
    pub(in crate::config) max_idle_connections: usize,
    /// Multiplier on the list price (in USD) for models without a price in `[[prices]]`.
    #[schemars(extend("examples" = [0.8]))]
    pub(in crate::config) official_prices: Option<Decimal>,
    /// Whose fault an error is, if the built-in table does not fit. The first match counts.
    #[schemars(extend("examples" = [[{ "status": 403, "code": "token_mismatched", "fault": "credential" }]]))]
    pub(in crate::config) error_rules: Vec<ErrorRule>,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            name: None,
            base_url: None,
            credentials: None,
            headers: BTreeMap::new(),
            auth_header: "authorization".into(),
            ca_file: None,
            proxy: None,
            proxy_user: None,
            proxy_password: None,
            max_body_mib: None,
            surface: None,
            insecure: false,
            on_incomplete: OnIncomplete::Pass,
            codex_headers: true,
            organization_headers: false,
            trace_headers: false,
            failover_on: Vec::new(),
            failover_statuses: None,
            failover_codes: Vec::new(),
            max_in_flight: None,
            max_queued: 64,
            max_idle_connections: 64,
            official_prices: None,
            error_rules: Vec::new(),
        }
    }
}

/// `on_incomplete` as written in the configuration file: what the client sees when a stream ends without its terminal event.
#[derive(Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum OnIncomplete {
    Pass,
    Break,
}

/// A group of API endpoints, as the setting `surface` of an upstream names it.
#[derive(Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Surface {
    Responses,
    Conversations,
    Chat,
    Completions,
    Embeddings,
    Moderations,
    Images,
    Audio,
}

/// One credential of an upstream as written in the configuration file: a secret in a variable (`env`) or in a file (`file`).
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Credential {
    /// Variable with the credential.
    #[schemars(example = &"DMXAPI_API_KEY")]
    pub(in crate::config) env: Option<String>,
    /// File with the credential.
    #[schemars(example = &"/run/secrets/dmxapi")]
    pub(in crate::config) file: Option<String>,
    /// Name in logs. Default: the name of the variable or file.
    #[schemars(example = &"dmxapi-1")]
    pub(in crate::config) name: Option<String>,
    /// Account of the credential. Credentials of one account share its state. Default: an account of its own.
    #[schemars(example = &"dmxapi")]
    pub(in crate::config) account: Option<String>,
    /// Requests at once with this credential. Absent: no limit.
    #[schemars(range(min = 1, max = 1_000_000), example = 10)]
    pub(in crate::config) max_in_flight: Option<usize>,
    /// Whether the credential may be missing. An upstream without any credential is not used.
    pub(in crate::config) optional: bool,
}
