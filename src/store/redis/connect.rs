//! The way to a Redis: its address, a Unix socket, or what Sentinels say is the master.

use std::{fmt, sync::Arc, time::Duration};

use data_encoding::BASE64;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, TlsCertificates, Value,
    aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use secrecy::{ExposeSecret, SecretString};
use tokio::{task::JoinSet, time::timeout};

use super::link_error::LinkError;
use crate::config::{self, RedisAt, RedisHost};

/// A Sentinel that does not answer for so long is not waited for. All of them are asked at once.
const SENTINEL: Duration = Duration::from_millis(500);

/// Makes connections. Each one of a Redis behind Sentinels is made to the master of that moment.
#[derive(Clone)]
pub(in crate::store) struct Connector {
    way: Way,
    login: RedisConnectionInfo,
    tls: Option<Trust>,
}

#[derive(Clone)]
enum Way {
    One(Arc<Client>),
    Sentinels { sentinels: Arc<[(RedisHost, Client)]>, master: Arc<str> },
}

/// Roots of trust as PEM; none = those that are built in.
#[derive(Clone)]
struct Trust(Option<Arc<[u8]>>);

/// A connection, and which server is at its end.
pub(in crate::store) struct Connected {
    pub(in crate::store) connection: MultiplexedConnection,
    /// The address of the master, where Sentinels told it; else empty, as the server is whatever is at the one address.
    pub(in crate::store) server: String,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl Connector {
    /// Reads the system's roots of trust, where connections are TLS.
    ///
    /// # Errors
    /// When no connection can be made of the settings.
    pub(in crate::store) fn new(place: &config::RedisSettings) -> Result<Self, LinkError> {
        let mut login = RedisConnectionInfo::default().set_db(place.database.into());
        if let Some(user) = &place.user {
            login = login.set_username(user);
        }
        if let Some(password) = &place.password {
            login = login.set_password(password.expose_secret());
        }
        let tls = place.is_tls().then(|| Trust::of(place.ca_pem.as_deref()));
        let way = match &place.at {
            RedisAt::Host { host, .. } => Way::One(client(address(host, tls.as_ref()), &login, tls.as_ref())?.into()),
            RedisAt::Socket(path) => Way::One(client(ConnectionAddr::Unix(path.to_path_buf()), &login, None)?.into()),
            RedisAt::Sentinels { sentinels, master, password, .. } => {
                let login = of_sentinels(password.as_ref());
                let sentinel = |host: &RedisHost| -> Result<_, LinkError> {
                    Ok((host.clone(), client(address(host, tls.as_ref()), &login, tls.as_ref())?))
                };
                let sentinels = sentinels.iter().map(sentinel).collect::<Result<_, _>>()?;
                Way::Sentinels { sentinels, master: Arc::clone(master) }
            }
        };
        Ok(Self { way, login, tls })
    }

    /// Connects. `waits` bounds each step, and not all of them together.
    ///
    /// # Errors
    /// When that cannot be done.
    pub(in crate::store) async fn connect(&self, waits: &AsyncConnectionConfig) -> Result<Connected, LinkError> {
        match &self.way {
            Way::One(client) => {
                let connection = client.get_multiplexed_async_connection_with_config(waits).await?;
                Ok(Connected { connection, server: String::new() })
            }
            Way::Sentinels { sentinels, master } => self.connect_to_master(sentinels, master, waits).await,
        }
    }

    /// To the first master that a Sentinel names and that says of itself that it is one: a Sentinel that was cut off, or that does not
    /// know yet of a failover, names the one before.
    async fn connect_to_master(
        &self,
        sentinels: &[(RedisHost, Client)],
        master: &Arc<str>,
        waits: &AsyncConnectionConfig,
    ) -> Result<Connected, LinkError> {
        let mut asking = JoinSet::new();
        for (sentinel, client) in sentinels {
            let (sentinel, client, master) = (sentinel.clone(), client.clone(), Arc::clone(master));
            asking.spawn(async move {
                let named = timeout(SENTINEL, ask(&client, &master)).await;
                let named = named.unwrap_or(Err(LinkError::Silent(SENTINEL)));
                named.map_err(|error| LinkError::Sentinel { sentinel: sentinel.to_string(), error: Box::new(error) })
            });
        }
        let (mut failed, mut tried) = (LinkError::Odd, Vec::new());
        while let Some(named) = asking.join_next().await {
            // A task that was ended or that panicked named nothing.
            let Ok(named) = named else { continue };
            match named {
                Ok(named) if tried.contains(&named) => {}
                Ok(named) => {
                    match self.connect_if_master(&named, waits).await {
                        Ok(connected) => return Ok(connected),
                        Err(error) => failed = error,
                    }
                    tried.push(named);
                }
                // What a master that was tried says is worth more than what one of several Sentinels lacks.
                Err(error) if tried.is_empty() => failed = error,
                Err(_) => {}
            }
        }
        Err(failed)
    }

    async fn connect_if_master(&self, host: &RedisHost, waits: &AsyncConnectionConfig) -> Result<Connected, LinkError> {
        let client = client(address(host, self.tls.as_ref()), &self.login, self.tls.as_ref())?;
        let mut connection = client.get_multiplexed_async_connection_with_config(waits).await?;
        match redis::cmd("ROLE").query_async::<Vec<Value>>(&mut connection).await {
            Ok(role) if role.first() == Some(&Value::BulkString(b"master".to_vec())) => {}
            // A user who may not ask finds out by the first write.
            Err(error) if error.code() == Some("NOPERM") => {}
            Ok(_) => return Err(LinkError::NoMaster(host.to_string())),
            Err(error) => return Err(error.into()),
        }
        Ok(Connected { connection, server: host.to_string() })
    }
}

/// Where the master is that has this name, as a Sentinel says.
async fn ask(sentinel: &Client, master: &str) -> Result<RedisHost, LinkError> {
    let waits =
        AsyncConnectionConfig::new().set_connection_timeout(Some(SENTINEL)).set_response_timeout(Some(SENTINEL));
    let mut connection = sentinel.get_multiplexed_async_connection_with_config(&waits).await?;
    let mut asked = redis::cmd("SENTINEL");
    asked.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
    let told: Option<(String, u16)> = asked.query_async(&mut connection).await?;
    let (name, port) = told.ok_or_else(|| LinkError::Unnamed(master.to_owned()))?;
    Ok(RedisHost { name: name.into(), port })
}

/// Sentinels have no databases, and a password of their own.
fn of_sentinels(password: Option<&SecretString>) -> RedisConnectionInfo {
    let login = RedisConnectionInfo::default();
    match password {
        Some(password) => login.set_password(password.expose_secret()),
        None => login,
    }
}

fn address(host: &RedisHost, tls: Option<&Trust>) -> ConnectionAddr {
    let (host, port) = (host.name.to_string(), host.port);
    match tls {
        None => ConnectionAddr::Tcp(host, port),
        Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
    }
}

fn client(
    address: ConnectionAddr,
    login: &RedisConnectionInfo,
    tls: Option<&Trust>,
) -> Result<Client, redis::RedisError> {
    // What is asked shall not wait for the answer to what was asked before.
    let at_once = TcpSettings::default().set_nodelay(true);
    let info = address.into_connection_info()?.set_redis_settings(login.clone()).set_tcp_settings(at_once);
    match tls {
        None => Client::open(info),
        Some(Trust(pem)) => {
            let root_cert = pem.as_ref().map(|pem| pem.to_vec());
            Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })
        }
    }
}

impl Trust {
    /// The roots of the system, and beside them those of a file. Where the system has none and no file is given, those that are
    /// built in count.
    fn of(ca_pem: Option<&[u8]>) -> Self {
        let system = rustls_native_certs::load_native_certs().certs;
        let mut pem = String::new();
        for certificate in &system {
            pem.push_str("-----BEGIN CERTIFICATE-----\n");
            BASE64.encode_append(certificate, &mut pem);
            pem.push_str("\n-----END CERTIFICATE-----\n");
        }
        let all = [pem.as_bytes(), ca_pem.unwrap_or_default()].concat();
        Self((!all.is_empty()).then(|| all.into()))
    }
}
