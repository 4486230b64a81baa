//! `[server]`, `[timeouts]`, `[log]`.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tracing_subscriber::EnvFilter;

use super::Check;
use crate::config::{
    document::Path,
    nearest::nearest,
    raw,
    types::{Health, Listen, Log, LogFormat, Retries, SecretsNeeded, Server, Timeouts},
};

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// The contact is part of error messages. Some clients show only their first lines.
const LONGEST_CONTACT: usize = 200;
/// Few responses in the background finish sooner.
const BACKGROUND_POLL: Duration = Duration::from_secs(5);
const ADDRESS: &str = "write an IP address and a port, such as \"127.0.0.1:8080\" or \"[::]:8080\", or the path of a Unix socket (up to \
                       96 bytes), such as \"unix:/run/tidegate/tidegate.sock\"";

impl Check<'_> {
    /// Checks the table `[server]` of the configuration. Returns none if an address is invalid.
    pub(super) fn server(&mut self, raw: raw::Server) -> Option<Server> {
        let listen = match (self.env)("TIDEGATE_LISTEN").filter(|text| !text.is_empty()) {
            None => self.address("listen", &raw.listen),
            Some(text) => {
                let address = text.to_str().and_then(|text| text.parse().ok());
                if address.is_none() {
                    self.fault_outside(
                        "the variable TIDEGATE_LISTEN is neither an address and a port nor a Unix socket",
                        ADDRESS,
                    );
                }
                address
            }
        };
        let admin_listen = self.address("admin_listen", &raw.admin_listen);
        let metrics_listen = raw.metrics_listen.as_deref().map(|text| self.address("metrics_listen", text));
        let metrics_listen = metrics_listen.flatten();
        self.apart([("listen", &listen), ("admin_listen", &admin_listen), ("metrics_listen", &metrics_listen)]);
        if raw.max_body_memory_mib < raw.max_body_mib {
            let path = Path::default().key("server").key("max_body_memory_mib");
            let message = format!("`max_body_memory_mib` is less than `max_body_mib`, which is {}", raw.max_body_mib);
            self.fault(&path, message, "a request of the size `max_body_mib` could not be read: raise `max_body_memory_mib`, or lower `max_body_mib`");
        }
        Some(Server {
            trusted_proxies: self.networks(&raw.trusted_proxies, &Path::default().key("server").key("trusted_proxies")),
            client_gone_drain: raw.client_gone_drain_mib << 20,
            contact: self.contact(raw.contact.as_deref()),
            data_dir: self.data_dir(&raw.data_dir),
            workers: match raw.workers {
                0 => std::thread::available_parallelism().map_or(1, usize::from),
                workers => workers,
            },
            max_connections: raw.max_connections,
            max_body_bytes: raw.max_body_mib << 20,
            max_body_memory: raw.max_body_memory_mib << 20,
            tls: raw.tls.filter(|_| self.secrets == SecretsNeeded::Read).and_then(|raw| self.tls(&raw)),
            listen: listen?,
            admin_listen: admin_listen?,
            metrics_listen,
        })
    }

    /// Checks the table `[health]` of the configuration: when an upstream or credential is ejected, and for how long.
    pub(super) fn health(&mut self, raw: &raw::Health) -> Health {
        if raw.eject_max_s < raw.eject_s {
            let path = Path::default().key("health").key("eject_max_s");
            let message = format!("`eject_max_s` is less than `eject_s`, which is {}", raw.eject_s);
            self.fault(
                &path,
                message,
                "the longest ejection (`eject_max_s`) cannot be shorter than the first ejection (`eject_s`)",
            );
        }
        Health {
            consecutive_faults: raw.consecutive_faults,
            fault_percent: raw.fault_percent,
            eject: Duration::from_secs(raw.eject_s),
            eject_max: Duration::from_secs(raw.eject_max_s),
            refused: Duration::from_secs(raw.refused_s),
            cooldown_max: Duration::from_secs(raw.cooldown_max_s),
        }
    }

    fn contact(&mut self, written: Option<&str>) -> Option<Arc<str>> {
        let contact = written?.trim();
        if contact.is_empty() || contact.chars().any(char::is_control) || contact.len() > LONGEST_CONTACT {
            let message = format!("`contact` is empty, over {LONGEST_CONTACT} bytes, or holds a control character");
            let help = "write a mail address or another short text, or leave it out";
            self.fault(&Path::default().key("server").key("contact"), message, help);
        }
        Some(contact.into())
    }

    fn data_dir(&mut self, written: &str) -> PathBuf {
        let Some(folder) = (self.env)("TIDEGATE_DATA_DIR").filter(|folder| !folder.is_empty()) else {
            if written.is_empty() {
                let path = Path::default().key("server").key("data_dir");
                self.fault(&path, "`data_dir` is empty", "name a folder, such as \"data\"");
            }
            return written.into();
        };
        folder.into()
    }

    fn address(&mut self, setting: &str, text: &str) -> Option<Listen> {
        let address = text.parse().ok();
        if address.is_none() {
            let path = Path::default().key("server").key(setting);
            self.fault(&path, format!("`{setting}` is neither an address and a port nor a Unix socket"), ADDRESS);
        }
        address
    }

    /// Checks that no two listeners collide. On one port, `SO_REUSEPORT` would let the kernel mix up their clients. On one socket
    /// file, the second listener would replace the first.
    fn apart(&mut self, listeners: [(&str, &Option<Listen>); 3]) {
        for (i, (name, address)) in listeners.iter().enumerate() {
            for (other, taken) in &listeners[..i] {
                let (Some(address), Some(taken)) = (address, taken) else { continue };
                let (what, each) = match (address, taken) {
                    (Listen::Address(address), Listen::Address(taken)) if meet(*address, *taken) => {
                        (format!("port {}", address.port()), "port")
                    }
                    (Listen::Socket(path), Listen::Socket(taken)) if path == taken => {
                        ("a Unix socket".to_owned(), "file")
                    }
                    _ => continue,
                };
                let path = Path::default().key("server").key(name);
                let from = if (self.env)("TIDEGATE_LISTEN").is_some_and(|text| !text.is_empty()) && *other == "listen" {
                    " (which TIDEGATE_LISTEN sets)"
                } else {
                    ""
                };
                self.fault(
                    &path,
                    format!("`{name}` uses {what}, which `{other}`{from} uses too"),
                    format!("give each listener a {each} of its own"),
                );
            }
        }
    }

    /// Checks the table `[log]` of the configuration: format and level of log lines.
    pub(super) fn log(&mut self, raw: raw::Log) -> Log {
        let path = Path::default().key("log").key("level");
        for part in raw.level.split(',').map(str::trim) {
            // `EnvFilter` would take an unknown word for a module, and nothing would be logged.
            let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
            if !LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
                let near = nearest(level, LEVELS).map_or_else(String::new, |near| format!("did you mean `{near}`? "));
                let help = format!("{near}levels are {}; by module: `warn,tidegate=debug`", LEVELS.join(", "));
                self.fault(&path, "`level` does not name a log level", help);
                return Log { format: LogFormat::Json, level: String::new(), client_ip: raw.client_ip };
            }
        }
        if EnvFilter::try_new(&raw.level).is_err() {
            self.fault(&path, "`level` is not a filter", "write a level, or by module: `warn,tidegate=debug`");
        }
        let format = match raw.format {
            raw::LogFormat::Json => LogFormat::Json,
            raw::LogFormat::Text => LogFormat::Text,
        };
        Log { format, level: raw.level, client_ip: raw.client_ip }
    }
}

/// Whether two addresses accept the same connections. `[::]` accepts IPv4 too, unless the system is configured otherwise.
fn meet(a: SocketAddr, b: SocketAddr) -> bool {
    let all = |x: SocketAddr, y: SocketAddr| x.ip().is_unspecified() && (x.is_ipv6() || y.is_ipv4());
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || all(a, b) || all(b, a))
}

/// Converts the table `[routing]` of the configuration: how many attempts and retries a request may make.
pub(super) fn retries(raw: &raw::Routing) -> Retries {
    Retries {
        max_attempts: raw.max_attempts,
        percent: raw.retry_percent,
        retry_after_max: Duration::from_secs(raw.retry_after_max_s),
    }
}

/// Converts the table `[timeouts]` of the configuration from seconds to durations.
pub(super) fn timeouts(raw: &raw::Timeouts) -> Timeouts {
    Timeouts {
        first_byte: Duration::from_secs(raw.first_byte_s),
        head: Duration::from_secs(raw.head_s),
        keep_alive_idle: Duration::from_secs(raw.keep_alive_idle_s),
        body_idle: Duration::from_secs(raw.body_idle_s),
        body_total: Duration::from_secs(raw.body_total_s),
        body_min_rate: raw.body_min_bytes_per_s,
        write_stall: Duration::from_secs(raw.write_stall_s),
        drain_delay: Duration::from_secs(raw.drain_delay_s),
        drain: Duration::from_secs(raw.drain_timeout_s),
        client_gone_drain: Duration::from_secs(raw.client_gone_drain_s),
        queue: Duration::from_secs(raw.queue_s),
        upstream_connect: Duration::from_secs(raw.upstream_connect_s),
        upstream_head: Duration::from_secs(raw.upstream_head_s),
        background_poll: BACKGROUND_POLL,
        upstream_silence: Duration::from_secs(raw.upstream_silence_s),
        upstream_pool_idle: Duration::from_secs(raw.upstream_pool_idle_s),
    }
}
