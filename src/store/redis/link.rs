//! One connection to Redis, and the script behind it.

use std::{sync::LazyLock, time::Duration};

use data_encoding::BASE64;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, IntoConnectionInfo, Pipeline, RedisConnectionInfo, Script,
    TlsCertificates, Value, aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout};

use super::{Answer, Given, HELD, Item, Purse};
use crate::config;

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("limits.lua")));

/// A rate that nobody has: taking of it tells whether Redis does what it is asked for, writes too.
const PROBE: &str = "tidegate:probe";

/// What takes longer is not waited for: requests wait for far less.
const SILENCE: Duration = Duration::from_secs(1);

/// A settlement that comes later than this may be in the ledger's sum already, which then counts alone. It is there 0.2 s after
/// the request's end.
const PROMPT: Duration = Duration::from_millis(100);

/// Where an address is made of the settings.
pub(in crate::store) fn client(place: &config::Redis) -> Result<Client, LinkError> {
    let (host, port) = (place.host.to_string(), place.port);
    let mut who = RedisConnectionInfo::default().set_db(place.database.into());
    if let Some(user) = &place.user {
        who = who.set_username(user);
    }
    if let Some(password) = &place.password {
        who = who.set_password(password.expose_secret());
    }
    let address = match place.tls {
        false => ConnectionAddr::Tcp(host, port),
        true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
    };
    // What is asked shall not wait for the answer to what was asked before.
    let at_once = TcpSettings::default().set_nodelay(true);
    let info = address.into_connection_info()?.set_redis_settings(who).set_tcp_settings(at_once);
    if !place.tls {
        return Ok(Client::open(info)?);
    }
    Ok(Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert: roots() })?)
}

/// The roots of the system as PEM; none where it has none: then those that are built in count.
fn roots() -> Option<Vec<u8>> {
    let certificates = rustls_native_certs::load_native_certs().certs;
    let pem = certificates.iter().map(|certificate| {
        let text = BASE64.encode(certificate);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    });
    (!certificates.is_empty()).then(|| pem.collect::<String>().into_bytes())
}

/// What went wrong between Redis and us.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It said so, or the connection did.
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
    /// It says nothing.
    #[error("it did not answer within {0:?}")]
    Silent(Duration),
    /// It answers, but later than requests can wait.
    #[error("it took {0:?} to answer")]
    Slow(Duration),
    /// Its answer is none of the script's.
    #[error("it answers something else than was asked")]
    Odd,
}

impl LinkError {
    /// Whether its connection is given up. Also where it answers: it may be no master any more, and its name lead elsewhere.
    pub(super) fn is_final(&self) -> bool {
        !matches!(self, Self::Slow(_))
    }
}

/// A connection. Copies of it share it, and what is asked first is done first.
#[derive(Clone, Debug)]
pub struct Link(MultiplexedConnection);

/// An item as the script reads it.
struct Line<'a> {
    kind: &'static str,
    key: &'a str,
    rest: [String; 4],
}

impl Link {
    /// Connects to what is at `place`, for who brings a clock of their own.
    ///
    /// # Errors
    /// When that cannot be done.
    pub async fn at(place: &config::Redis) -> Result<Self, LinkError> {
        Self::open(&client(place)?).await
    }

    /// Connects, and brings the script.
    pub(super) async fn open(client: &Client) -> Result<Self, LinkError> {
        let waits =
            AsyncConnectionConfig::new().set_connection_timeout(Some(SILENCE)).set_response_timeout(Some(SILENCE));
        // The connection's own limit does not hold for what is said on it before it is open.
        let opening = client.get_multiplexed_async_connection_with_config(&waits);
        let link = Self(timeout(2 * SILENCE, opening).await.map_err(|_| LinkError::Silent(2 * SILENCE))??);
        link.probe().await?;
        Ok(link)
    }

    /// Whether it takes and writes; how long that took.
    pub(super) async fn probe(&self) -> Result<Duration, LinkError> {
        let (began, mut connection) = (Instant::now(), self.0.clone());
        // By its whole text: a server that began anew, or forgot its scripts, has it from now on.
        let mut asked = redis::cmd("EVAL");
        asked.arg(include_str!("limits.lua"));
        let items = [Item::Rate { key: PROBE.into(), span: 1 }];
        write(&mut asked, "take", None, "probe", items.iter().map(taken));
        timeout(SILENCE, asked.query_async::<Value>(&mut connection))
            .await
            .map_err(|_| LinkError::Silent(SILENCE))??;
        Ok(began.elapsed())
    }

    /// Takes all items or none. `now` = microseconds since 1970-01-01 UTC, or none for the server's own clock.
    ///
    /// # Errors
    /// When nobody knows whether they were taken.
    pub async fn take(&self, now: Option<u64>, holder: &str, items: &[Item]) -> Result<Answer, LinkError> {
        let mut connection = self.0.clone();
        let said: Vec<u64> = script("take", now, holder, items.iter().map(taken)).query_async(&mut connection).await?;
        let (&[lacking, wait], states) = said.split_first_chunk().ok_or(LinkError::Odd)?;
        let lacking = usize::try_from(lacking).ok().and_then(|nth| nth.checked_sub(1)).map(|nth| (nth, wait));
        Ok(Answer { lacking, states: states.to_vec() })
    }

    /// Holds places and what was set aside for another while, also where they are not known there.
    ///
    /// # Errors
    /// When nobody knows whether that happened.
    pub async fn renew(&self, now: Option<u64>, held: &[(String, Vec<Item>)]) -> Result<(), LinkError> {
        if held.is_empty() {
            return Ok(());
        }
        let mut all = Pipeline::with_capacity(held.len());
        for (holder, items) in held {
            all.add_command(script("renew", now, holder, items.iter().map(taken))).ignore();
        }
        Ok(all.query_async(&mut self.0.clone()).await?)
    }

    /// Gives back what requests hold, each with the moment at which it ended. It does not matter how often this is done.
    ///
    /// # Errors
    /// When nobody knows whether that happened.
    pub async fn give(&self, now: Option<u64>, ended: &[(String, Vec<Given>, Instant)]) -> Result<(), LinkError> {
        let mut all = Pipeline::with_capacity(ended.len());
        for (holder, given, since) in ended {
            let late = since.elapsed() > PROMPT;
            all.add_command(script("give", now, holder, given.iter().map(|one| back(one, late)))).ignore();
        }
        Ok(all.query_async(&mut self.0.clone()).await?)
    }
}

fn script<'a>(what: &str, now: Option<u64>, holder: &str, items: impl Iterator<Item = Line<'a>> + Clone) -> Cmd {
    let mut asked = redis::cmd("EVALSHA");
    asked.arg(SCRIPT.get_hash());
    write(&mut asked, what, now, holder, items);
    asked
}

/// The rest of the command, as the script explains it.
fn write<'a>(
    asked: &mut Cmd,
    what: &str,
    now: Option<u64>,
    holder: &str,
    items: impl Iterator<Item = Line<'a>> + Clone,
) {
    let held = |line: &Line<'_>| (line.kind == SPEND).then(|| format!("{}:held", line.key));
    asked.arg(items.clone().map(|line| 1 + usize::from(line.kind == SPEND)).sum::<usize>());
    for line in items.clone() {
        asked.arg(line.key).arg(held(&line));
    }
    asked.arg(what).arg(now.map(|now| now.to_string()).unwrap_or_default());
    asked.arg(holder).arg(u64::try_from(HELD.as_millis()).unwrap_or(u64::MAX));
    for Line { kind, rest, .. } in items {
        asked.arg(kind).arg(&rest);
    }
}

const SPEND: &str = "spend";

fn taken(item: &Item) -> Line<'_> {
    let nothing = String::new;
    match item {
        Item::Rate { key, span } => {
            Line { kind: "rate", key, rest: [span.to_string(), nothing(), nothing(), nothing()] }
        }
        Item::Look { key } => Line { kind: "look", key, rest: [nothing(), nothing(), nothing(), nothing()] },
        Item::Place { key, limit } => {
            Line { kind: "place", key, rest: [limit.to_string(), nothing(), nothing(), nothing()] }
        }
        Item::Spend { purse, limit, cost } => spend(purse, cost.to_string(), limit.to_string()),
        Item::Less { purse, less } => Line {
            kind: "less",
            key: &purse.key,
            rest: [less.to_string(), purse.spent.to_string(), nothing(), nothing()],
        },
    }
}

fn back(given: &Given, late: bool) -> Line<'_> {
    let nothing = String::new;
    match given {
        Given::Rate { key, more, back, since } => {
            let back = back.saturating_sub(u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX));
            Line { kind: "rate", key, rest: [more.to_string(), back.to_string(), nothing(), nothing()] }
        }
        Given::Place { key } => Line { kind: "place", key, rest: [nothing(), nothing(), nothing(), nothing()] },
        Given::Spend { purse, cost } => spend(purse, if late { nothing() } else { cost.to_string() }, nothing()),
    }
}

fn spend(purse: &Purse, cost: String, limit: String) -> Line<'_> {
    let until = purse.until.map(|until| until.to_string()).unwrap_or_default();
    Line { kind: SPEND, key: &purse.key, rest: [cost, purse.spent.to_string(), until, limit] }
}
