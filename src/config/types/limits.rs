//! What replicas share of limits and budgets.

use std::{fmt, sync::Arc, time::Duration};

use secrecy::{ExposeSecret, SecretString};

/// `[limits]`, where there is a Redis.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedLimits {
    /// Where they are counted.
    pub redis: RedisSettings,
    /// How many replicas share them; at least 1.
    pub replicas: u32,
    /// What happens while Redis is away.
    pub fail: WhenRedisIsAway,
    /// A request waits for Redis no longer than this, all its questions together.
    pub patience: Duration,
}

/// While what is left of the limits cannot be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenRedisIsAway {
    /// Each replica allows its part.
    Share,
    /// Keys with limits are refused.
    Closed,
}

/// Where a Redis is.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Its name or address.
    pub host: Arc<str>,
    /// Its port.
    pub port: u16,
    /// The number of its database.
    pub database: u16,
    /// As whom we come, where it has users.
    pub user: Option<Arc<str>>,
    /// Of that user, or of all.
    pub password: Option<SecretString>,
}

/// Readings of a configuration are compared with each other, never with what a client sent: time tells nothing here.
impl PartialEq for RedisSettings {
    fn eq(&self, other: &Self) -> bool {
        let Self { tls, host, port, database, user, password } = self;
        (tls, host, port, database, user) == (&other.tls, &other.host, &other.port, &other.database, &other.user)
            && password.as_ref().map(ExposeSecret::expose_secret)
                == other.password.as_ref().map(ExposeSecret::expose_secret)
    }
}

impl fmt::Display for RedisSettings {
    /// For people: as it is written, without any secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tls, host, port, database, user, password: _ } = self;
        let scheme = if *tls { "rediss" } else { "redis" };
        let user = user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
        write!(f, "{scheme}://{user}{host}:{port}/{database}")
    }
}
