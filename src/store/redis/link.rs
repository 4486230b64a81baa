//! One connection to Redis, and the script behind it.

use std::{
    fmt::Write,
    sync::{Arc, LazyLock},
    time::Duration,
};

use redis::{AsyncConnectionConfig, Cmd, Pipeline, Script, aio::MultiplexedConnection};
use tokio::time::{Instant, timeout};

use super::{
    Answer, Given, HELD, Item, SharedBudget,
    connect::{Connected, Connector},
    link_error::LinkError,
    sentinel::Switch,
};
use crate::config;

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("limits.lua")));

/// Where the name of the epoch is.
const EPOCH: &str = "tidegate:epoch";

/// What takes longer is not waited for: requests wait for far less.
const SILENCE: Duration = Duration::from_secs(1);

/// A connection. Copies of it share it, and what is asked first is done first.
#[derive(Clone, Debug)]
pub struct Link {
    connection: MultiplexedConnection,
    /// Whether another server replaced the master, behind Sentinels.
    switch: Option<Arc<Switch>>,
    /// The name of the data folder of who asks.
    origin: Arc<str>,
}

/// What a look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// The epoch: another one, once Redis was emptied.
    pub epoch: String,
    /// How long it took.
    pub took: Duration,
}

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
    pub async fn at(place: &config::RedisSettings, origin: &Arc<str>) -> Result<Self, LinkError> {
        let link = Self::open(&Connector::new(place)?, origin).await?;
        link.look("first").await?;
        Ok(link)
    }

    /// Connects.
    pub(super) async fn open(connector: &Connector, origin: &Arc<str>) -> Result<Self, LinkError> {
        let waits =
            AsyncConnectionConfig::new().set_connection_timeout(Some(SILENCE)).set_response_timeout(Some(SILENCE));
        // The connection's own limit does not hold for what is said on it before it is open.
        let opening = timeout(2 * SILENCE, connector.connect(&waits)).await;
        let Connected { connection, switch } = opening.map_err(|_| LinkError::Silent(2 * SILENCE))??;
        Ok(Self { connection, switch: switch.map(Arc::new), origin: Arc::clone(origin) })
    }

    /// Brings the script, and looks whether Redis takes writes. `epoch` = the name of the one that begins with this, where Redis is
    /// empty.
    pub(super) async fn look(&self, epoch: &str) -> Result<Looked, LinkError> {
        self.switch.as_ref().map_or(Ok(()), |switch| switch.check())?;
        let (began, mut connection) = (Instant::now(), self.connection.clone());
        // By its whole text: a server that began anew, or forgot its scripts, has it from now on.
        let mut asked = redis::cmd("EVAL");
        asked.arg(include_str!("limits.lua"));
        append(&mut asked, ("look", None, "", epoch), std::iter::empty());
        let asking = timeout(SILENCE, asked.query_async(&mut connection));
        let epoch = asking.await.map_err(|_| LinkError::Silent(SILENCE))??;
        Ok(Looked { epoch, took: began.elapsed() })
    }

    /// Takes all items or none, in `epoch` or in any. `now` = microseconds since 1970-01-01 UTC, or none for the server's own clock.
    ///
    /// # Errors
    /// When nobody knows whether they were taken, or nobody looked.
    pub async fn take(
        &self,
        now: Option<u64>,
        epoch: Option<&str>,
        holder: &str,
        items: &[Item],
    ) -> Result<Answer, LinkError> {
        let asked = script(("take", now, holder, epoch.unwrap_or_default()), items.iter().map(|item| self.taken(item)));
        let said: Vec<i64> = asked.query_async(&mut self.connection.clone()).await?;
        let (&[exceeded, wait], states) = said.split_first_chunk().ok_or(LinkError::Odd)?;
        let number = |number: i64| u64::try_from(number).unwrap_or_default();
        let exceeded = match exceeded {
            0 => None,
            nth => Some((usize::try_from(nth - 1).map_err(|_| LinkError::Forgot)?, number(wait))),
        };
        Ok(Answer { exceeded, states: states.iter().copied().map(number).collect() })
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
            all.add_command(script(("renew", now, holder, ""), items.iter().map(|item| self.taken(item)))).ignore();
        }
        Ok(all.query_async(&mut self.connection.clone()).await?)
    }

    /// Gives back what requests hold, and tells what was spent. It does not matter how often this is done, nor when.
    ///
    /// # Errors
    /// When nobody knows whether that happened.
    pub async fn give<'a>(
        &self,
        now: Option<u64>,
        ended: impl ExactSizeIterator<Item = (&'a str, &'a [Given])>,
    ) -> Result<(), LinkError> {
        let mut all = Pipeline::with_capacity(ended.len());
        for (holder, given) in ended {
            all.add_command(script(("give", now, holder, ""), given.iter().map(|one| self.back(one)))).ignore();
        }
        Ok(all.query_async(&mut self.connection.clone()).await?)
    }

    fn taken<'a>(&self, item: &'a Item) -> Line<'a> {
        match item {
            Item::Rate { key, span } => Line::new(RATE, key, [span.to_string(), String::new()]),
            Item::Look { key } => Line::new("look", key, Default::default()),
            Item::Place { key, limit } => Line::new("place", key, [limit.to_string(), String::new()]),
            Item::Spend { budget, limit, cost } => self.spend(budget, [cost.to_string(), limit.to_string()]),
        }
    }

    fn back<'a>(&self, given: &'a Given) -> Line<'a> {
        match given {
            Given::Rate { key, more, back, since } => {
                let back = back.saturating_sub(u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX));
                Line::new(RATE, key, [more.to_string(), back.to_string()])
            }
            Given::Place { key } => Line::new("place", key, Default::default()),
            Given::Spend { budget } => self.spend(budget, Default::default()),
        }
    }

    fn spend<'a>(&self, budget: &'a SharedBudget, [cost, limit]: [String; 2]) -> Line<'a> {
        let SharedBudget { name, until, own, remote } = budget;
        let until = until.map(|until| until.to_string()).unwrap_or_default();
        let mut spent = format!("{} {} {}", self.origin, own.read_at, own.total);
        for (origin, total) in &*remote.by_origin {
            // Writing to a string cannot fail. Whoever spent it knows better, whenever it read the ledger.
            let _ = write!(spent, " {origin} 0 {total}");
        }
        Line { kind: SPEND, key: name, rest: [cost, limit, until, spent] }
    }
}

impl<'a> Line<'a> {
    fn new(kind: &'static str, key: &'a str, [first, second]: [String; 2]) -> Self {
        Self { kind, key, rest: [first, second, String::new(), String::new()] }
    }
}

/// What to do, when, for whom, and in which epoch.
type Operation<'a> = (&'a str, Option<u64>, &'a str, &'a str);

fn script<'a>(operation: Operation<'_>, items: impl Iterator<Item = Line<'a>>) -> Cmd {
    let mut asked = redis::cmd("EVALSHA");
    asked.arg(SCRIPT.get_hash());
    append(&mut asked, operation, items);
    asked
}

/// The rest of the command, as the script explains it.
fn append<'a>(asked: &mut Cmd, (operation, now, whose, epoch): Operation<'_>, items: impl Iterator<Item = Line<'a>>) {
    let items: Vec<Line<'_>> = items.collect();
    let second = |line: &Line<'_>| match line.kind {
        SPEND => Some(format!("{}:held", line.key)),
        RATE => Some(format!("{}:turn", line.key)),
        _ => None,
    };
    let keys: Vec<_> = items.iter().map(|line| (line.key, second(line))).collect();
    asked.arg(1 + keys.iter().map(|(_, second)| 1 + usize::from(second.is_some())).sum::<usize>());
    asked.arg(EPOCH);
    for (key, second) in keys {
        asked.arg(key).arg(second);
    }
    asked.arg(operation).arg(now.map(|now| now.to_string()).unwrap_or_default());
    asked.arg(whose).arg(u64::try_from(HELD.as_millis()).unwrap_or(u64::MAX)).arg(epoch);
    for Line { kind, rest, .. } in &items {
        asked.arg(kind).arg(rest);
    }
}

const SPEND: &str = "spend";
const RATE: &str = "rate";
