//! Sentinels: they name the master, and say when another server replaced it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{AsyncConnectionConfig, Client, aio::MultiplexedConnection};
use tokio::{
    sync::Mutex,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use super::link_error::LinkError;
use crate::config::RedisHost;

/// The time limit for the answer of a Sentinel. All Sentinels are asked at once.
const SENTINEL: Duration = Duration::from_millis(500);

/// How often Tidegate asks Sentinels whether the master is still the same. After a switch by an operator
/// (`SENTINEL FAILOVER`) the old master accepts writes for about 10 s more, so no error shows that it was replaced.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// The Sentinels of a master. Copies share their connections.
#[derive(Clone)]
pub(super) struct Sentinels {
    all: Arc<[Sentinel]>,
    master: Arc<str>,
}

struct Sentinel {
    host: RedisHost,
    client: Client,
    /// The connection of the last question.
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl Sentinels {
    pub(super) fn new(clients: Vec<(RedisHost, Client)>, master: Arc<str>) -> Self {
        let all = clients.into_iter().map(|(host, client)| Sentinel { host, client, connection: Mutex::new(None) });
        Self { all: all.collect(), master }
    }

    /// Returns the servers that Sentinels name as the master, and how many Sentinels name each; the one with the most comes first.
    /// Waits for no further answer once more than half of all Sentinels agree.
    ///
    /// # Errors
    /// When no Sentinel names a master.
    pub(super) async fn masters(&self) -> Result<Vec<(RedisHost, usize)>, LinkError> {
        let mut asking = JoinSet::new();
        for nth in 0..self.all.len() {
            let sentinels = self.clone();
            asking.spawn(async move { sentinels.ask(nth).await });
        }
        let (mut named, mut failed): (Vec<(RedisHost, usize)>, _) = (Vec::new(), LinkError::Odd);
        // A task that was ended or that panicked named nothing.
        while let Some(answer) = asking.join_next().await {
            match answer {
                Ok(Ok(host)) => match named.iter_mut().find(|(one, _)| *one == host) {
                    Some((_, votes)) => *votes += 1,
                    None => named.push((host, 1)),
                },
                Ok(Err(error)) => failed = error,
                Err(_) => {}
            }
            if named.iter().any(|(_, votes)| 2 * votes > self.all.len()) {
                break;
            }
        }
        if named.is_empty() {
            return Err(failed);
        }
        named.sort_by_key(|(_, votes)| std::cmp::Reverse(*votes));
        Ok(named)
    }

    async fn ask(&self, nth: usize) -> Result<RedisHost, LinkError> {
        let sentinel = self.all.get(nth).ok_or(LinkError::Odd)?;
        let kept = sentinel.connection.lock().await.take();
        let asked = timeout(SENTINEL, sentinel.ask(kept, &self.master)).await;
        let asked = asked.unwrap_or(Err(LinkError::Silent(SENTINEL)));
        asked.map_err(|error| LinkError::Sentinel { sentinel: sentinel.host.to_string(), error: Box::new(error) })
    }
}

impl Sentinel {
    async fn ask(&self, kept: Option<MultiplexedConnection>, master: &str) -> Result<RedisHost, LinkError> {
        let waits =
            AsyncConnectionConfig::new().set_connection_timeout(Some(SENTINEL)).set_response_timeout(Some(SENTINEL));
        let mut asked = redis::cmd("SENTINEL");
        asked.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
        let was_kept = kept.is_some();
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.client.get_multiplexed_async_connection_with_config(&waits).await?,
        };
        let told: Option<(String, u16)> = match asked.query_async(&mut connection).await {
            Ok(told) => told,
            // The Sentinel was restarted since the last question.
            Err(_) if was_kept => {
                connection = self.client.get_multiplexed_async_connection_with_config(&waits).await?;
                asked.query_async(&mut connection).await?
            }
            Err(error) => return Err(error.into()),
        };
        *self.connection.lock().await = Some(connection);
        let (name, port) = told.ok_or_else(|| LinkError::Unnamed(master.to_owned()))?;
        Ok(RedisHost { name: name.into(), port })
    }
}

/// Whether another server replaced the master of a connection.
pub(in crate::store) struct Switch {
    master: RedisHost,
    is_over: Arc<AtomicBool>,
    watching: AbortHandle,
}

impl Switch {
    /// Asks Sentinels until they name another master, or until this future is dropped. `is_master` asks the named server itself.
    pub(super) fn watch<F>(
        sentinels: Sentinels,
        master: RedisHost,
        is_master: impl Fn(RedisHost) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = bool> + Send + 'static,
    {
        let is_over = Arc::new(AtomicBool::new(false));
        let (told, current) = (Arc::clone(&is_over), master.clone());
        let watching = tokio::spawn(async move {
            loop {
                sleep(ASK_EVERY).await;
                // Sentinels that do not answer say nothing of the master.
                let named = sentinels.masters().await.unwrap_or_default();
                let of_current = named.iter().find(|(host, _)| *host == current).map_or(0, |(_, votes)| *votes);
                let other = named.into_iter().next().filter(|(host, votes)| *votes > of_current && *host != current);
                // A named replica is not the master yet.
                if let Some((other, _)) = other
                    && is_master(other).await
                {
                    return told.store(true, Ordering::Release);
                }
            }
        });
        Self { master, is_over, watching: watching.abort_handle() }
    }

    /// The address of the master.
    pub(in crate::store) fn master(&self) -> String {
        self.master.to_string()
    }

    /// Fails if another server is the master now.
    ///
    /// # Errors
    /// When the connection is one to the old master.
    pub(in crate::store) fn check(&self) -> Result<(), LinkError> {
        match self.is_over.load(Ordering::Acquire) {
            true => Err(LinkError::Replaced(self.master())),
            false => Ok(()),
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch").field("master", &self.master()).finish_non_exhaustive()
    }
}
