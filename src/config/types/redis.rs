//! Where a Redis is, and as whom Tidegate asks it.

use std::{fmt, path::Path, sync::Arc};

use secrecy::{ExposeSecret, SecretString};

/// Where a Redis is, and as whom Tidegate asks it.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Where it is.
    pub at: RedisAt,
    /// The number of its database.
    pub database: u16,
    /// The user of Tidegate, where Redis has users.
    pub user: Option<Arc<str>>,
    /// Of that user, or of all.
    pub password: Option<SecretString>,
    /// Roots of trust beside those of the system, as PEM, where the connection is TLS.
    pub ca_pem: Option<Arc<[u8]>>,
}

/// Where a Redis is.
#[derive(Clone, Debug)]
pub enum RedisAt {
    /// At a host and a port.
    Host {
        /// Whether the connection is TLS.
        tls: bool,
        /// The host and the port.
        host: RedisHost,
    },
    /// Behind a Unix socket.
    Socket(Arc<Path>),
    /// Where Sentinels say that the master is.
    Sentinels {
        /// Whether the connections, to Sentinels and to Redis, are TLS.
        tls: bool,
        /// The Sentinels.
        sentinels: Vec<RedisHost>,
        /// The name by which Sentinels know the master.
        master: Arc<str>,
        /// Of the Sentinels, which is not that of Redis.
        password: Option<SecretString>,
    },
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisHost {
    /// The name or the address, without brackets.
    pub name: Arc<str>,
    /// The port.
    pub port: u16,
}

impl RedisSettings {
    /// At this host and port, without TLS, a user or a password.
    pub fn plain(name: &str, port: u16) -> Self {
        let at = RedisAt::Host { tls: false, host: RedisHost { name: name.into(), port } };
        Self { at, database: 0, user: None, password: None, ca_pem: None }
    }

    /// Whether connections are TLS.
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

/// Readings of a configuration are compared with each other, never with what a client sent: time tells nothing here.
impl PartialEq for RedisSettings {
    fn eq(&self, other: &Self) -> bool {
        let Self { at, database, user, password, ca_pem } = self;
        (at, database, user, ca_pem) == (&other.at, &other.database, &other.user, &other.ca_pem)
            && same(password, &other.password)
    }
}

/// As that of [`RedisSettings`].
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
    /// For people: as it is written, without any secret.
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
