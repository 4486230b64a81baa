//! The settings as they are written in the file: one struct a table, plain values, every default and range beside its
//! field. The JSON Schema is made from these, and the file is held against that schema before anything else (`shape`).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Tidegate's configuration. `config/tidegate.toml` shows every setting with its default and the reason for it.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Tidegate configuration")]
pub(super) struct File {
    /// Listeners, folders, sizes.
    pub(super) server: Server,
    /// Deadlines, in seconds. None of them covers a whole stream.
    pub(super) timeouts: Timeouts,
    /// What is logged and how.
    pub(super) log: Log,
    /// Provider endpoints.
    pub(super) upstreams: Vec<Upstream>,
    /// Names that clients ask for, and where they lead.
    pub(super) models: Vec<Model>,
    /// Keys of clients.
    pub(super) keys: Vec<Key>,
    /// How one of several candidates is chosen, and what happens when it fails.
    pub(super) routing: Routing,
    /// When an upstream or a credential is passed by, and for how long.
    pub(super) health: Health,
}

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Server {
    /// Address of the data plane. `TIDEGATE_LISTEN` wins.
    pub(super) listen: String,
    /// Address of the admin plane: health in detail, metrics.
    pub(super) admin_listen: String,
    /// Address that serves /metrics and nothing else.
    #[schemars(example = &"0.0.0.0:9090")]
    pub(super) metrics_listen: Option<String>,
    /// Folder for everything that must survive a restart. `TIDEGATE_DATA_DIR` wins.
    pub(super) data_dir: String,
    /// Threads that serve clients; 0 = one for each core.
    #[schemars(range(max = 1024))]
    pub(super) workers: usize,
    /// Connections of clients at once.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) max_connections: usize,
    /// Largest request body, decoded, in MiB.
    #[schemars(range(min = 1, max = 1024))]
    pub(super) max_body_mib: u64,
    /// All request bodies together, in MiB.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub(super) max_body_memory_mib: u64,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: "0.0.0.0:8080".into(),
            admin_listen: "127.0.0.1:8081".into(),
            metrics_listen: None,
            data_dir: "data".into(),
            workers: 0,
            max_connections: 10_000,
            max_body_mib: 64,
            max_body_memory_mib: 512,
        }
    }
}

/// A day is the longest deadline: what is longer is a slip of the pen.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Timeouts {
    /// From accept to the first byte.
    #[schemars(range(min = 1, max = 86_400))]
    pub(super) first_byte_s: u64,
    /// From the first byte of a request head to its end.
    #[schemars(range(min = 1, max = 86_400))]
    pub(super) head_s: u64,
    /// Between two requests on one connection.
    #[schemars(range(min = 1, max = 86_400))]
    pub(super) keep_alive_idle_s: u64,
    /// Longest gap inside a request body.
    #[schemars(range(min = 1, max = 86_400))]
    pub(super) body_idle_s: u64,
    /// Whole request body.
    #[schemars(range(min = 1, max = 86_400))]
    pub(super) body_total_s: u64,
    /// Slowest request body, in bytes a second, judged once `body_idle_s` have passed; 0 = as slow as it likes.
    #[schemars(range(max = 1_000_000_000))]
    pub(super) body_min_bytes_per_s: u64,
    /// A client that takes nothing of what is ready for it.
    #[schemars(range(min = 1, max = 86_400))]
    pub(super) write_stall_s: u64,
    /// From SIGTERM, when readiness fails, until no new connection is taken.
    #[schemars(range(max = 86_400))]
    pub(super) drain_delay_s: u64,
    /// Requests under way at shutdown; 0 = they are cut at once.
    #[schemars(range(max = 86_400))]
    pub(super) drain_timeout_s: u64,
    /// While every candidate has as many requests as it may have; 0 = refused at once.
    #[schemars(range(max = 86_400))]
    pub(super) queue_s: u64,
    /// Connecting to an upstream, with name resolution and TLS.
    #[schemars(range(min = 1, max = 86_400))]
    pub(super) upstream_connect_s: u64,
    /// From the sent request to the head of the answer.
    #[schemars(range(min = 1, max = 86_400))]
    pub(super) upstream_head_s: u64,
    /// Longest gap inside an answer.
    #[schemars(range(min = 1, max = 86_400))]
    pub(super) upstream_silence_s: u64,
    /// Unused connection to an upstream.
    #[schemars(range(min = 1, max = 86_400))]
    pub(super) upstream_pool_idle_s: u64,
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
pub(super) struct Log {
    /// One JSON object a line, or text for people.
    pub(super) format: LogFormat,
    /// A level, or levels by module: `info`, `warn,tidegate=debug`.
    pub(super) level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Json, level: "info".into() }
    }
}

#[derive(Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum LogFormat {
    Json,
    Text,
}

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name", "base_url"]))]
pub(super) struct Upstream {
    /// Unique name, without `/`, `*` or white space.
    #[schemars(example = &"dmxapi")]
    pub(super) name: Option<String>,
    /// What takes the place of the client's `/v1`.
    #[schemars(example = &"https://www.dmxapi.cn/v1")]
    pub(super) base_url: Option<String>,
    /// What is sent up. Leave it out for an upstream that wants none.
    #[schemars(extend("examples" = [[{ "env": "DMXAPI_API_KEY" }]]))]
    pub(super) credentials: Option<Vec<Credential>>,
    /// Headers added to every request, in place of the client's.
    #[schemars(extend("examples" = [{ "x-team": "a" }]))]
    pub(super) headers: BTreeMap<String, String>,
    /// Header for the credential: `authorization` carries it as `Bearer …`, any other one bare.
    pub(super) auth_header: String,
    /// PEM file with further roots to trust.
    #[schemars(example = &"/etc/ssl/company-ca.pem")]
    pub(super) ca_file: Option<String>,
    /// Proxy on the way to it: `http://` (CONNECT) or `socks5://`.
    #[schemars(example = &"http://proxy.internal:3128")]
    pub(super) proxy: Option<String>,
    /// Largest body that it takes, in MiB.
    #[schemars(range(min = 1, max = 1024), example = 20)]
    pub(super) max_body_mib: Option<u64>,
    /// Plain http to a public name.
    pub(super) insecure: bool,
    /// What a stream does to the client that ends cleanly but without a terminal event.
    pub(super) on_incomplete: OnIncomplete,
    /// Whether `x-codex-*` headers of the client go up.
    pub(super) codex_headers: bool,
    /// Whether `OpenAI-Organization` and `OpenAI-Project` of the client go up.
    pub(super) organization_headers: bool,
    /// Whether `traceparent` and `tracestate` of the client go up.
    pub(super) trace_headers: bool,
    /// Failures after which the next candidate is asked although this one may bill for what it did.
    #[schemars(extend("examples" = [["disconnect", "timeout", "empty"]]))]
    pub(super) failover_on: Vec<FailoverOn>,
    /// Requests under way at once; absent = as many as come.
    #[schemars(range(min = 1, max = 1_000_000), example = 100)]
    pub(super) max_in_flight: Option<usize>,
    /// Requests that may wait for one of those to end; 0 = none.
    #[schemars(range(max = 100_000))]
    pub(super) max_queued: usize,
    /// Unused connections that each worker keeps.
    #[schemars(range(max = 10_000))]
    pub(super) max_idle_connections: usize,
    /// Whose fault an error answer is, where the built-in table does not fit. The first match wins.
    #[schemars(extend("examples" = [[{ "status": 403, "code": "token_mismatched", "fault": "credential" }]]))]
    pub(super) error_rules: Vec<ErrorRule>,
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
            max_body_mib: None,
            insecure: false,
            on_incomplete: OnIncomplete::Pass,
            codex_headers: true,
            organization_headers: false,
            trace_headers: false,
            failover_on: Vec::new(),
            max_in_flight: None,
            max_queued: 64,
            max_idle_connections: 64,
            error_rules: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnIncomplete {
    Pass,
    Break,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum FailoverOn {
    Disconnect,
    Timeout,
    Empty,
}

/// `env` or `file`, one of them.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Credential {
    /// Environment variable that holds it.
    #[schemars(example = &"DMXAPI_API_KEY")]
    pub(super) env: Option<String>,
    /// File that holds it.
    #[schemars(example = &"/run/secrets/dmxapi")]
    pub(super) file: Option<String>,
    /// Its name in logs; by default that of the variable or file.
    #[schemars(example = &"dmxapi-1")]
    pub(super) name: Option<String>,
    /// Provider account behind it, by default one of its own: credentials of one account share its state.
    #[schemars(example = &"dmxapi")]
    pub(super) account: Option<String>,
    /// Requests under way with it at once; absent = as many as come.
    #[schemars(range(min = 1, max = 1_000_000), example = 10)]
    pub(super) max_in_flight: Option<usize>,
    /// Whether it may be missing.
    pub(super) optional: bool,
}

#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["status", "fault"]))]
pub(super) struct ErrorRule {
    /// HTTP status of the answer.
    #[schemars(range(min = 400, max = 599), example = 403)]
    pub(super) status: Option<u16>,
    /// `error.code`, or `error.type` of an answer without one; absent = any.
    #[schemars(example = &"token_mismatched")]
    pub(super) code: Option<String>,
    /// Our credential's (the client sees 502 `upstream_auth`) or the request's (the client sees the answer as it is).
    #[schemars(example = &"credential")]
    pub(super) fault: Option<Fault>,
}

#[derive(Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Fault {
    Credential,
    Request,
}

#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name", "targets"]))]
pub(super) struct Model {
    /// What clients ask for. A trailing `*` matches any rest.
    #[schemars(example = &"smart")]
    pub(super) name: Option<String>,
    /// How the candidates are ordered for a request.
    pub(super) strategy: Strategy,
    /// Candidates.
    #[schemars(extend("examples" = [[{ "upstream": "dmxapi", "model": "gpt-5.2-pro" }]]))]
    pub(super) targets: Option<Vec<Target>>,
}

#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["upstream"]))]
pub(super) struct Target {
    /// Name of the upstream.
    #[schemars(example = &"dmxapi")]
    pub(super) upstream: Option<String>,
    /// Name of the model there; absent = the name the client asked for.
    #[schemars(example = &"gpt-5.2-pro")]
    pub(super) model: Option<String>,
    /// The lowest is asked first. Absent = its place in the list where `strategy = "ordered"`, otherwise 1.
    #[schemars(range(min = 1, max = 1000), example = 1)]
    pub(super) priority: Option<u32>,
    /// Its share among the targets of the same priority; absent = 1.
    #[schemars(range(min = 1, max = 1000), example = 3)]
    pub(super) weight: Option<u32>,
}

#[derive(Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Strategy {
    #[default]
    Ordered,
    Weighted,
    LeastLatency,
}

/// `secret` or `sha256`, one of them.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name"]))]
pub(super) struct Key {
    /// Its name in logs.
    #[schemars(example = &"team-a")]
    pub(super) name: Option<String>,
    /// Where the secret is found.
    #[schemars(extend("examples" = [{ "env": "TEAM_A_KEY" }]))]
    pub(super) secret: Option<Secret>,
    /// SHA-256 of the secret, 64 hex digits.
    pub(super) sha256: Option<String>,
    /// Models it may ask for; a trailing `*` matches any rest; absent = all.
    #[schemars(extend("examples" = [["smart", "gpt-*"]]))]
    pub(super) models: Option<Vec<String>>,
    /// Upstreams it may use; absent = all.
    #[schemars(extend("examples" = [["dmxapi"]]))]
    pub(super) upstreams: Option<Vec<String>>,
}

/// `env` or `file`, one of them.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Secret {
    /// Environment variable that holds it.
    #[schemars(example = &"TEAM_A_KEY")]
    pub(super) env: Option<String>,
    /// File that holds it.
    #[schemars(example = &"/run/secrets/team-a")]
    pub(super) file: Option<String>,
    /// Whether it may be missing.
    pub(super) optional: bool,
}

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Routing {
    /// Upstream for requests that name no model.
    #[schemars(example = &"dmxapi")]
    pub(super) default_upstream: Option<String>,
    /// Upstreams asked for one request, the first one included; 1 = no failover.
    #[schemars(range(min = 1, max = 10))]
    pub(super) max_attempts: usize,
    /// Retries at one upstream over 10 s, in percent of its requests; 3 are always allowed.
    #[schemars(range(max = 100))]
    pub(super) retry_percent: u32,
    /// The longest `Retry-After` that is waited for before the same upstream is asked again; 0 = none is.
    #[schemars(range(max = 300))]
    pub(super) retry_after_max_s: u64,
}

impl Default for Routing {
    fn default() -> Self {
        Self { default_upstream: None, max_attempts: 3, retry_percent: 20, retry_after_max_s: 2 }
    }
}

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Health {
    /// Faults in a row that eject.
    #[schemars(range(min = 1, max = 1000))]
    pub(super) consecutive_faults: u32,
    /// Faults among the attempts of the last 30 s that eject, in percent; 20 attempts must have been made.
    #[schemars(range(min = 1, max = 100))]
    pub(super) fault_percent: u32,
    /// First ejection; each further one lasts twice as long.
    #[schemars(range(min = 1, max = 86_400))]
    pub(super) eject_s: u64,
    /// Longest ejection.
    #[schemars(range(min = 1, max = 86_400))]
    pub(super) eject_max_s: u64,
    /// A credential that the upstream refused.
    #[schemars(range(min = 1, max = 86_400))]
    pub(super) refused_s: u64,
    /// The longest `Retry-After` of a 429 for which a credential is left alone.
    #[schemars(range(min = 1, max = 86_400))]
    pub(super) cooldown_max_s: u64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            consecutive_faults: 5,
            fault_percent: 50,
            eject_s: 30,
            eject_max_s: 300,
            refused_s: 600,
            cooldown_max_s: 300,
        }
    }
}
