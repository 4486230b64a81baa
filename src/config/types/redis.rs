//! Where a Redis is, and the login that Tidegate uses there.

use std::{fmt, path::Path, sync::Arc};

use secrecy::{ExposeSecret, SecretString};

/// Where a Redis is, and with which user and password Tidegate connects to it.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Host, Unix socket or Sentinels.
    pub at: RedisAt,
    /// Number of the database.
    pub database: u16,
    /// Tidegate's user in Redis, if Redis has users.
    pub user: Option<Arc<str>>,
    /// Password of that user; without a user, the password of the server.
    pub password: Option<SecretString>,
    /// PEM text of CA certificates to trust in addition to those of the system, for TLS connections.
    pub ca_pem: Option<Arc<[u8]>>,
}

/// How Tidegate finds a Redis: by a host and a port, by a Unix socket, or through Sentinels.
#[derive(Clone, Debug)]
pub enum RedisAt {
    /// At a host and a port.
    Host {
        /// Whether the connection is TLS.
        tls: bool,
        /// The host and the port.
        host: RedisHost,
    },
    /// A Unix socket.
    Socket(Arc<Path>),
    /// The master that the Sentinels name.
    Sentinels {
        /// Whether the connections to Sentinels and to Redis are TLS.
        tls: bool,
        /// The Sentinels.
        sentinels: Vec<RedisHost>,
        /// Name of the master in the Sentinels.
        master: Arc<str>,
        /// Password of the Sentinels, which is not the password of Redis.
        password: Option<SecretString>,
    },
}

/// Host and port of a Redis or of a Sentinel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisHost {
    /// The name or the address, without brackets.
    pub name: Arc<str>,
    /// The port.
    pub port: u16,
}

impl RedisSettings {
    /// Returns settings for a Redis at a host and a port, without TLS, user or password.
    pub fn plain(name: &str, port: u16) -> Self {
        let at = RedisAt::Host { tls: false, host: RedisHost { name: name.into(), port } };
        Self { at, database: 0, user: None, password: None, ca_pem: None }
    }

    /// Whether connections to this Redis use TLS.
    pub fn is_tls(&self) -> bool {
        match self.at {
            RedisAt::Host { tls, .. } | RedisAt::Sentinels { tls, .. } => tls,
            RedisAt::Socket(_) => false,
        }
    }
}

fn same(one: &Option<SecretString>, other: &Option<SecretString>) -> bool {
    one.as_ref().map(ExposeSecret::expose_secret) == other.as_ref().map(ExposeSecret::expose_secret)
}

/// An operator's configurations are compared with each other, never with client input. Constant time is not needed.
impl PartialEq for RedisSettings {
    fn eq(&self, other: &Self) -> bool {
        let Self { at, database, user, password, ca_pem } = self;
        (at, database, user, ca_pem) == (&other.at, &other.database, &other.user, &other.ca_pem)
            && same(password, &other.password)
    }
}

/// Compares secrets like the comparison of [`RedisSettings`].
impl PartialEq for RedisAt {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Host { tls, host }, Self::Host { tls: other_tls, host: other_host }) => {
                (tls, host) == (other_tls, other_host)
            }
            (Self::Socket(path), Self::Socket(other)) => path == other,
            (
                Self::Sentinels { tls, sentinels, master, password },
                Self::Sentinels {
                    tls: other_tls,
                    sentinels: other_sentinels,
                    master: other_master,
                    password: other_password,
                },
            ) => {
                (tls, sentinels, master) == (other_tls, other_sentinels, other_master) && same(password, other_password)
            }
            _ => false,
        }
    }
}

impl fmt::Display for RedisHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, port } = self;
        if name.contains(':') { write!(f, "[{name}]:{port}") } else { write!(f, "{name}:{port}") }
    }
}

impl fmt::Display for RedisSettings {
    /// Writes the URL for people, without any secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, database, user, password: _, ca_pem: _ } = self;
        let user = user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        let scheme = |tls: &bool| if *tls { "rediss" } else { "redis" };
        match at {
            RedisAt::Host { tls, host } => write!(f, "{}://{user}{host}/{database}", scheme(tls)),
            RedisAt::Socket(path) => write!(f, "unix://{user}{}?db={database}", path.display()),
            RedisAt::Sentinels { tls, sentinels, master, password: _ } => {
                let sentinels: Vec<String> = sentinels.iter().map(ToString::to_string).collect();
                write!(f, "{}+sentinel://{user}{}/{master}/{database}", scheme(tls), sentinels.join(","))
            }
        }
    }
}
