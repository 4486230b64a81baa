//! Connects to Redis: at an address, at a Unix socket, or at the master that Sentinels name.

use std::{fmt, sync::Arc, time::Duration};

use data_encoding::BASE64;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, TlsCertificates, Value,
    aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use secrecy::ExposeSecret;
use tokio::time::timeout;

use super::{
    link_error::LinkError,
    sentinel::{Sentinels, Switch},
};
use crate::config::{self, RedisAt, RedisHost};

/// The time limit for asking a server that Sentinels name as the new master.
const CHECK: Duration = Duration::from_secs(1);

/// Makes connections to Redis. Behind Sentinels, each new connection leads to the master of that moment.
#[derive(Clone)]
pub(in crate::store) struct Connector {
    way: Way,
    login: RedisConnectionInfo,
    tls: Option<Trust>,
}

#[derive(Clone)]
enum Way {
    One(Arc<Client>),
    Sentinels(Sentinels),
}

/// Root certificates as PEM; none = the ones that are compiled in.
#[derive(Clone)]
struct Trust(Option<Arc<[u8]>>);

/// A connection to Redis, with the server that it leads to.
pub(in crate::store) struct Connected {
    pub(in crate::store) connection: MultiplexedConnection,
    /// Behind Sentinels: the master, and whether another server replaced it.
    pub(in crate::store) switch: Option<Switch>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl Connector {
    /// Makes a connector. Reads the system's root certificates if connections use TLS.
    ///
    /// # Errors
    /// When the settings lead to no address.
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
                // Sentinels have no databases, and a password of their own.
                let mut login = RedisConnectionInfo::default();
                if let Some(password) = password {
                    login = login.set_password(password.expose_secret());
                }
                let sentinel = |host: &RedisHost| -> Result<_, LinkError> {
                    Ok((host.clone(), client(address(host, tls.as_ref()), &login, tls.as_ref())?))
                };
                let clients = sentinels.iter().map(sentinel).collect::<Result<Vec<_>, _>>()?;
                Way::Sentinels(Sentinels::new(clients, Arc::clone(master)))
            }
        };
        Ok(Self { way, login, tls })
    }

    /// Connects to Redis. `waits` bounds each step, and not all steps together.
    ///
    /// # Errors
    /// When no connection can be made.
    pub(in crate::store) async fn connect(&self, waits: &AsyncConnectionConfig) -> Result<Connected, LinkError> {
        match &self.way {
            Way::One(client) => {
                let connection = client.get_multiplexed_async_connection_with_config(waits).await?;
                Ok(Connected { connection, switch: None })
            }
            Way::Sentinels(sentinels) => self.connect_to_master(sentinels, waits).await,
        }
    }

    /// Connects to the master that most Sentinels name. The server must call itself a master: Sentinels that do not know of a
    /// failover yet name the old one.
    async fn connect_to_master(
        &self,
        sentinels: &Sentinels,
        waits: &AsyncConnectionConfig,
    ) -> Result<Connected, LinkError> {
        let mut failed = LinkError::Odd;
        for (named, _) in sentinels.masters().await? {
            match self.connect_if_master(&named, waits).await {
                Ok(connection) => {
                    let (connector, waits) = (self.clone(), waits.clone());
                    let switch = Switch::watch(sentinels.clone(), named, move |other| {
                        let (connector, waits) = (connector.clone(), waits.clone());
                        async move {
                            let asked = timeout(CHECK, connector.connect_if_master(&other, &waits)).await;
                            asked.is_ok_and(|connection| connection.is_ok())
                        }
                    });
                    return Ok(Connected { connection, switch: Some(switch) });
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Connects to a server that calls itself a master.
    ///
    /// # Errors
    /// When the server is a replica or cannot be reached.
    async fn connect_if_master(
        &self,
        host: &RedisHost,
        waits: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, LinkError> {
        let client = client(address(host, self.tls.as_ref()), &self.login, self.tls.as_ref())?;
        let mut connection = client.get_multiplexed_async_connection_with_config(waits).await?;
        match redis::cmd("ROLE").query_async::<Vec<Value>>(&mut connection).await {
            Ok(role) if role.first() == Some(&Value::BulkString(b"master".to_vec())) => {}
            // If the user may not run this command, the first write shows whether the server is a master.
            Err(error) if error.code() == Some("NOPERM") => {}
            Ok(_) => return Err(LinkError::NoMaster(host.to_string())),
            Err(error) => return Err(error.into()),
        }
        Ok(connection)
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
    // A command must not wait in the system for the acknowledgement of the command before.
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
    /// Returns the root certificates of the system and of a file. If the system has none and no file is given, the ones that are
    /// compiled in count.
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
