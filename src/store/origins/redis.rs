//! The affinity store in Redis, for several replicas. Every key expires, except the key of the secret.

use std::{sync::LazyLock, time::Duration};

use data_encoding::BASE64URL_NOPAD;
use redis::{AsyncConnectionConfig, InfoDict, Script, aio::MultiplexedConnection};
use tokio::time::Instant;

use super::entry::{EntryLifetime, HashSecret, ORIGIN, StoreError, StoredOrigin, origin_bytes, origin_of};
use crate::{
    config,
    domain::{origin::Reference, random::RandomBytes},
    store::redis::{Connected, Connector, LinkError, Switch},
};

/// The prefix of all keys.
const PREFIX: &str = "tidegate:o:";
const SECRET: &str = "tidegate:o:secret";

/// The time limit of a command. A server that takes longer is paused or lost.
const LIMIT: Duration = Duration::from_secs(1);

/// How often the store checks the free memory.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The share of Redis's memory for the store: three quarters. Ids are by far the most keys, and limits in a full Redis would not
/// work.
const PART: (u64, u64) = (3, 4);

/// The most references in one command. Redis serves no other client meanwhile, for about a millisecond.
const AT_ONCE: usize = 500;

static LEARN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("learn.lua")));

/// The error of `learn.lua` for a changed secret.
const ANOTHER: &str = "ANOTHER";

/// A connection.
#[derive(Debug)]
pub(super) struct Redis {
    connection: MultiplexedConnection,
    pub(super) secret: HashSecret,
    /// Behind Sentinels: the master, and whether another server replaced it.
    switch: Option<Switch>,
    /// When the last check found free memory.
    had_room: Option<Instant>,
}

fn value(entry: StoredOrigin) -> Vec<u8> {
    [origin_bytes(entry.origin).as_slice(), &entry.used_s.to_be_bytes()].concat()
}

fn entry(value: &[u8]) -> Result<StoredOrigin, StoreError> {
    let (origin, used_s) = value.split_at_checked(ORIGIN).ok_or(StoreError::Unreadable)?;
    let mut parts = [0; 3];
    for (part, bytes) in parts.iter_mut().zip(origin.chunks_exact(8)) {
        *part = bytes.try_into().map(u64::from_be_bytes).map_err(|_| StoreError::Unreadable)?;
    }
    let used_s = used_s.try_into().map(u32::from_be_bytes).map_err(|_| StoreError::Unreadable)?;
    Ok(StoredOrigin { origin: origin_of(parts), used_s })
}

impl Redis {
    pub(super) async fn open(place: &config::RedisSettings, random_bytes: RandomBytes) -> Result<Self, StoreError> {
        let waits = AsyncConnectionConfig::new().set_connection_timeout(Some(LIMIT)).set_response_timeout(Some(LIMIT));
        let Connected { mut connection, switch } = Connector::new(place)?.connect(&waits).await?;
        let fresh = HashSecret::new(random_bytes)?;
        // The first replica creates the secret.
        let mut first = redis::cmd("SET");
        first.arg(SECRET).arg(&fresh.0).arg("NX");
        let mut read = redis::cmd("GET");
        read.arg(SECRET);
        let secret = match read.query_async::<Option<Vec<u8>>>(&mut connection).await? {
            Some(secret) => secret,
            None => {
                first.query_async::<()>(&mut connection).await?;
                read.query_async(&mut connection).await?
            }
        };
        Ok(Self { connection, secret: HashSecret::read(&secret)?, switch, had_room: None })
    }

    /// Returns which of several replicated servers is in use; empty for a single server.
    pub(super) fn server(&self) -> String {
        self.switch.as_ref().map(Switch::master).unwrap_or_default()
    }

    fn is_current(&self) -> Result<(), LinkError> {
        self.switch.as_ref().map_or(Ok(()), Switch::check)
    }

    fn key(&self, reference: Reference) -> String {
        let mut key = PREFIX.to_owned();
        BASE64URL_NOPAD.encode_append(&self.secret.key(reference), &mut key);
        key
    }

    /// Fails if the store's share of the memory is used up.
    async fn look_for_room(&mut self) -> Result<(), StoreError> {
        if self.had_room.is_some_and(|looked| looked.elapsed() < LOOK_EVERY) {
            return Ok(());
        }
        let info = match redis::cmd("INFO").arg("memory").query_async::<InfoDict>(&mut self.connection).await {
            Ok(info) => info,
            // Users of a shared Redis often have no permission for INFO. Then only Redis itself reports that it is full.
            Err(error) if is_refused(&error) => {
                self.had_room = Some(Instant::now());
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let number = |name| info.get::<u64>(name).unwrap_or_default();
        let (used, most) = (number("used_memory"), number("maxmemory"));
        if most > 0 && used.saturating_mul(PART.1) > most.saturating_mul(PART.0) {
            return Err(StoreError::Full);
        }
        self.had_room = Some(Instant::now());
        Ok(())
    }

    pub(super) async fn recall(&mut self, references: &[Reference]) -> Result<Vec<Option<StoredOrigin>>, StoreError> {
        self.is_current()?;
        let mut found = Vec::with_capacity(references.len());
        // Runs at least once: the secret shows whether this is the same store.
        let mut rest = references;
        loop {
            let (now, later) = rest.split_at(rest.len().min(AT_ONCE));
            let mut read = redis::cmd("MGET");
            read.arg(SECRET);
            for reference in now {
                read.arg(self.key(*reference));
            }
            let mut values = read.query_async::<Vec<Option<Vec<u8>>>>(&mut self.connection).await?.into_iter();
            if values.next().flatten().as_deref() != Some(&self.secret.0) {
                return Err(StoreError::Another);
            }
            for value in values {
                found.push(value.map(|value| entry(&value)).transpose()?);
            }
            rest = later;
            if rest.is_empty() {
                return Ok(found);
            }
        }
    }

    pub(super) async fn learn(
        &mut self,
        entries: &[(Reference, StoredOrigin)],
        life: EntryLifetime,
    ) -> Result<Vec<Option<StoredOrigin>>, StoreError> {
        self.is_current()?;
        if !entries.is_empty() {
            self.look_for_room().await?;
        }
        let mut stay = Vec::with_capacity(entries.len());
        let mut rest = entries;
        loop {
            let (now, later) = rest.split_at(rest.len().min(AT_ONCE));
            let mut script = LEARN.prepare_invoke();
            script.key(SECRET).arg(&self.secret.0);
            for (reference, entry) in now {
                script.key(self.key(*reference)).arg(value(*entry)).arg(life.rest(entry.used_s));
            }
            let values = script.invoke_async::<Vec<Vec<u8>>>(&mut self.connection).await.map_err(judged)?;
            for value in values {
                stay.push((!value.is_empty()).then(|| entry(&value)).transpose()?);
            }
            rest = later;
            if rest.is_empty() {
                return Ok(stay);
            }
        }
    }
}

/// Whether the user has no permission for a command, or the server does not know it.
fn is_refused(error: &redis::RedisError) -> bool {
    error.code() == Some("NOPERM") || error.detail().is_some_and(|detail| detail.contains("unknown command"))
}

fn judged(error: redis::RedisError) -> StoreError {
    if error.code() == Some(ANOTHER) { StoreError::Another } else { StoreError::Redis(error) }
}
