//! The settings as they are written in the file: one struct a table, plain values, every default and range beside its
//! field. The JSON Schema is made from these, and the file is held against that schema before anything else (`shape`).

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

/// Tidegate's configuration. `config/tidegate.toml` shows every setting with its default and the reason for it.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Tidegate configuration")]
pub(in crate::config) struct File {
    /// Listeners, folders, sizes.
    pub(in crate::config) server: Server,
    /// Deadlines, in seconds. None of them covers a whole stream.
    pub(in crate::config) timeouts: Timeouts,
    /// What is logged and how.
    pub(in crate::config) log: Log,
    /// Where keys and ledger are kept.
    pub(in crate::config) store: Store,
    /// Where limits and budgets are counted.
    pub(in crate::config) limits: Limits,
    /// Provider endpoints.
    pub(in crate::config) upstreams: Vec<Upstream>,
    /// Names that clients ask for, and where they lead.
    pub(in crate::config) models: Vec<Model>,
    /// Keys of clients.
    pub(in crate::config) keys: Vec<Key>,
    /// Groups of keys that share limits.
    pub(in crate::config) groups: Vec<Group>,
    /// What prices and budgets are counted by.
    pub(in crate::config) money: Money,
    /// What upstreams bill for their models.
    pub(in crate::config) prices: Vec<Price>,
    /// How one of several candidates is chosen, and what happens when it fails.
    pub(in crate::config) routing: Routing,
    /// When an upstream or a credential is passed by, and for how long.
    pub(in crate::config) health: Health,
    /// Where state goes that an upstream keeps.
    pub(in crate::config) affinity: Affinity,
    /// Where an operator is told of what happened.
    pub(in crate::config) alerts: Alerts,
}

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Server {
    /// Address of the data plane, or a Unix socket: `unix:/run/tidegate/tidegate.sock`. `TIDEGATE_LISTEN` wins.
    pub(in crate::config) listen: String,
    /// The same for the admin plane: health in detail, metrics.
    pub(in crate::config) admin_listen: String,
    /// The same for a listener that serves /metrics and nothing else.
    #[schemars(example = &"0.0.0.0:9090")]
    pub(in crate::config) metrics_listen: Option<String>,
    /// Certificate and key of the data plane; absent = plain http.
    #[schemars(extend("examples" = [{ "cert_file": "/etc/tidegate/tls.crt", "key_file": "/etc/tidegate/tls.key" }]))]
    pub(in crate::config) tls: Option<Tls>,
    /// Proxies in front of Tidegate, whose `X-Forwarded-For` is believed where keys have `ip`.
    #[schemars(extend("examples" = [["10.0.0.0/8"]]))]
    pub(in crate::config) trusted_proxies: Vec<String>,
    /// Folder for everything that must survive a restart. `TIDEGATE_DATA_DIR` wins.
    pub(in crate::config) data_dir: String,
    /// Threads that serve clients; 0 = one for each core.
    #[schemars(range(max = 1024))]
    pub(in crate::config) workers: usize,
    /// Connections of clients at once, and over HTTP/2 each request beside others on one.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(in crate::config) max_connections: usize,
    /// Largest request body, decoded, in MiB.
    #[schemars(range(min = 1, max = 1024))]
    pub(in crate::config) max_body_mib: u64,
    /// All request bodies together, in MiB.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub(in crate::config) max_body_memory_mib: u64,
    /// The rest of an answer that is read where its client left (see `on_client_gone`), in MiB.
    #[schemars(range(min = 1, max = 1024))]
    pub(in crate::config) client_gone_drain_mib: u64,
    /// Whom people ask when a budget is spent, such as a mail address; a part of that error's message.
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

#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["cert_file", "key_file"]))]
pub(in crate::config) struct Tls {
    /// PEM file with the certificate, and behind it those that lead to a root.
    #[schemars(example = &"/etc/tidegate/tls.crt")]
    pub(in crate::config) cert_file: Option<String>,
    /// PEM file with its private key, not encrypted.
    #[schemars(example = &"/etc/tidegate/tls.key")]
    pub(in crate::config) key_file: Option<String>,
}

/// A day is the longest deadline: what is longer is a slip of the pen.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Timeouts {
    /// From accept to the first byte.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) first_byte_s: u64,
    /// From the first byte of a request head to its end.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) head_s: u64,
    /// Between two requests on one connection.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) keep_alive_idle_s: u64,
    /// Longest gap inside a request body.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) body_idle_s: u64,
    /// Whole request body.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) body_total_s: u64,
    /// Slowest request body, in bytes a second, judged once `body_idle_s` have passed; 0 = as slow as it likes.
    #[schemars(range(max = 1_000_000_000))]
    pub(in crate::config) body_min_bytes_per_s: u64,
    /// A client that takes nothing of what is ready for it.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) write_stall_s: u64,
    /// From SIGTERM, when readiness fails, until no new connection is taken.
    #[schemars(range(max = 86_400))]
    pub(in crate::config) drain_delay_s: u64,
    /// Requests under way at shutdown; 0 = they are cut at once.
    #[schemars(range(max = 86_400))]
    pub(in crate::config) drain_timeout_s: u64,
    /// Reading the rest of an answer whose client left (see `on_client_gone`).
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) client_gone_drain_s: u64,
    /// While every candidate has as many requests as it may have; 0 = refused at once.
    #[schemars(range(max = 86_400))]
    pub(in crate::config) queue_s: u64,
    /// Connecting to an upstream, with name resolution and TLS.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) upstream_connect_s: u64,
    /// From the sent request to the head of the answer.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) upstream_head_s: u64,
    /// Longest gap inside an answer.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) upstream_silence_s: u64,
    /// Unused connection to an upstream.
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

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Log {
    /// One JSON object a line, or text for people.
    pub(in crate::config) format: LogFormat,
    /// A level, or levels by module: `info`, `warn,tidegate=debug`.
    pub(in crate::config) level: String,
    /// Whether lines of refused requests name the address of the client.
    pub(in crate::config) client_ip: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Json, level: "info".into(), client_ip: true }
    }
}

#[derive(Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum LogFormat {
    Json,
    Text,
}

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name", "base_url"]))]
pub(in crate::config) struct Upstream {
    /// Unique name, without `/`, `*` or white space.
    #[schemars(example = &"dmxapi")]
    pub(in crate::config) name: Option<String>,
    /// What takes the place of the client's `/v1`.
    #[schemars(example = &"https://www.dmxapi.cn/v1")]
    pub(in crate::config) base_url: Option<String>,
    /// What is sent up. Leave it out for an upstream that wants none.
    #[schemars(extend("examples" = [[{ "env": "DMXAPI_API_KEY" }]]))]
    pub(in crate::config) credentials: Option<Vec<Credential>>,
    /// Headers added to every request, in place of the client's.
    #[schemars(extend("examples" = [{ "x-team": "a" }]))]
    pub(in crate::config) headers: BTreeMap<String, String>,
    /// Header for the credential: `authorization` carries it as `Bearer …`, any other one bare.
    pub(in crate::config) auth_header: String,
    /// PEM file with further roots to trust.
    #[schemars(example = &"/etc/ssl/company-ca.pem")]
    pub(in crate::config) ca_file: Option<String>,
    /// Proxy on the way to it: `http://` (CONNECT), `socks5://` or `socks5h://`; `env` = that of the environment.
    #[schemars(example = &"http://proxy.internal:3128")]
    pub(in crate::config) proxy: Option<String>,
    /// Who we are to the proxy.
    #[schemars(example = &"tidegate")]
    pub(in crate::config) proxy_user: Option<String>,
    /// Of that user.
    #[schemars(extend("examples" = [{ "env": "TIDEGATE_PROXY_PASSWORD" }]))]
    pub(in crate::config) proxy_password: Option<Secret>,
    /// Largest body that it takes, in MiB.
    #[schemars(range(min = 1, max = 1024), example = 20)]
    pub(in crate::config) max_body_mib: Option<u64>,
    /// Parts of the API that it has; absent = all, and what it has not it says itself.
    #[schemars(extend("examples" = [["responses", "chat", "embeddings"]]))]
    pub(in crate::config) surface: Option<Vec<Surface>>,
    /// Plain http to a public name.
    pub(in crate::config) insecure: bool,
    /// What a stream does to the client that ends cleanly but without a terminal event.
    pub(in crate::config) on_incomplete: OnIncomplete,
    /// Whether `x-codex-*` headers of the client go up.
    pub(in crate::config) codex_headers: bool,
    /// Whether `OpenAI-Organization` and `OpenAI-Project` of the client go up.
    pub(in crate::config) organization_headers: bool,
    /// Whether `traceparent` and `tracestate` of the client go up.
    pub(in crate::config) trace_headers: bool,
    /// Failures after which the next candidate is asked although this one may bill for what it did.
    #[schemars(extend("examples" = [["disconnect", "timeout", "empty"]]))]
    pub(in crate::config) failover_on: Vec<FailoverOn>,
    /// Statuses of answers after which the next candidate is asked; absent = 408, 429 and every 5xx.
    #[schemars(inner(range(min = 400, max = 599)), extend("examples" = [[408, 429, 500, 502, 503, 504]]))]
    pub(in crate::config) failover_statuses: Option<Vec<u16>>,
    /// Codes or types of error answers after which the next candidate is asked, whatever their status.
    #[schemars(extend("examples" = [["engine_overloaded"]]))]
    pub(in crate::config) failover_codes: Vec<String>,
    /// Requests under way at once; absent = as many as come.
    #[schemars(range(min = 1, max = 1_000_000), example = 100)]
    pub(in crate::config) max_in_flight: Option<usize>,
    /// Requests that may wait for one of those to end; 0 = none.
    #[schemars(range(max = 100_000))]
    pub(in crate::config) max_queued: usize,
    /// Unused connections that each worker keeps.
    #[schemars(range(max = 10_000))]
    pub(in crate::config) max_idle_connections: usize,
    /// The part of the official prices, in dollars, that it bills for models without a price of their own in `[[prices]]`.
    #[schemars(extend("examples" = [0.8]))]
    pub(in crate::config) official_prices: Option<Decimal>,
    /// Whose fault an error answer is, where the built-in table does not fit. The first match wins.
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

#[derive(Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum OnIncomplete {
    Pass,
    Break,
}

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

/// `env` or `file`, one of them.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Credential {
    /// Environment variable that holds it.
    #[schemars(example = &"DMXAPI_API_KEY")]
    pub(in crate::config) env: Option<String>,
    /// File that holds it.
    #[schemars(example = &"/run/secrets/dmxapi")]
    pub(in crate::config) file: Option<String>,
    /// Its name in logs; by default that of the variable or file.
    #[schemars(example = &"dmxapi-1")]
    pub(in crate::config) name: Option<String>,
    /// Provider account behind it, by default one of its own: credentials of one account share its state.
    #[schemars(example = &"dmxapi")]
    pub(in crate::config) account: Option<String>,
    /// Requests under way with it at once; absent = as many as come.
    #[schemars(range(min = 1, max = 1_000_000), example = 10)]
    pub(in crate::config) max_in_flight: Option<usize>,
    /// Whether it may be missing.
    pub(in crate::config) optional: bool,
}
