//! One connection to Redis, and the script there.

use std::{
    collections::HashMap,
    fmt::Write,
    sync::{Arc, LazyLock},
    time::Duration,
};

use redis::{AsyncConnectionConfig, Cmd, Pipeline, Script, aio::MultiplexedConnection};
use tokio::time::{Instant, timeout};

use super::{
    command::{Command, LimitItem, Operation, SharedBudget, TakeResult},
    connect::{Connected, Connector},
    link_error::LinkError,
    sentinel::Switch,
};
use crate::config;

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("limits.lua")));

/// The key of the epoch.
const EPOCH: &str = "tidegate:epoch";

/// How long Redis keeps a reservation that is not renewed. Then the replica that took the reservation is gone.
pub const HELD: Duration = Duration::from_secs(60);

/// The time limit of an answer. A connection that takes longer counts as failed. Requests wait for a much shorter time.
const SILENCE: Duration = Duration::from_secs(1);

/// For this many budgets, the connection remembers which spend of others it reported. For more budgets it reports the spend again.
const TOLD: usize = 100_000;

/// One connection to Redis, for the limits and budgets that replicas share.
#[derive(Debug)]
pub struct Link {
    connection: MultiplexedConnection,
    /// Whether another server replaced the master, behind Sentinels.
    switch: Option<Switch>,
    /// The name of the data folder of this process.
    origin: Arc<str>,
    /// When the ledger was read for the spend of others that Redis knows, by the name of the budget.
    told: HashMap<String, u64>,
}

/// The script's arguments before the items.
struct Head<'a> {
    operation: &'a str,
    now: Option<u64>,
    request: &'a str,
    epoch: &'a str,
}

impl Link {
    /// Connects to Redis and loads the script of the limits there. Only for tests, which have a clock of their own.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn at(settings: &config::RedisSettings, origin: &Arc<str>) -> Result<Self, LinkError> {
        let link = Self::open(&Connector::new(settings)?, origin).await?;
        link.look("first").await?;
        Ok(link)
    }

    /// Connects to Redis, without loading the script.
    pub(super) async fn open(connector: &Connector, origin: &Arc<str>) -> Result<Self, LinkError> {
        let waits =
            AsyncConnectionConfig::new().set_connection_timeout(Some(SILENCE)).set_response_timeout(Some(SILENCE));
        // The connection's own timeouts do not cover the commands that open it.
        let opening = timeout(2 * SILENCE, connector.connect(&waits)).await;
        let Connected { connection, switch } = opening.map_err(|_| LinkError::Silent(2 * SILENCE))??;
        Ok(Self { connection, switch, origin: Arc::clone(origin), told: HashMap::new() })
    }

    /// Loads the script, and checks that Redis accepts writes. Returns the epoch, and how long Redis took. `epoch` = the name of the epoch
    /// that begins now, if Redis is empty.
    pub(super) async fn look(&self, epoch: &str) -> Result<(String, Duration), LinkError> {
        self.switch.as_ref().map_or(Ok(()), Switch::check)?;
        let (began, mut connection) = (Instant::now(), self.connection.clone());
        // The whole text, so that a server that was restarted or forgot its scripts has the script again.
        let mut call = redis::cmd("EVAL");
        call.arg(include_str!("limits.lua"));
        write_arguments(&mut call, &Head { operation: "look", now: None, request: "", epoch }, &[]);
        let epoch = timeout(SILENCE, call.query_async(&mut connection)).await;
        Ok((epoch.map_err(|_| LinkError::Silent(SILENCE))??, began.elapsed()))
    }

    /// Notes that Redis was emptied. The next commands then report the spend of other data folders to Redis again.
    pub fn forget(&mut self) {
        self.told.clear();
    }

    /// Sends commands on limits to Redis, in their order, and waits for all answers. `epoch` names the data that Redis holds: Redis gets
    /// another one when its data is lost. With another epoch, Redis runs no command and the answer is `None`; an empty `epoch` fits
    /// all. `now` = microseconds since 1970-01-01 UTC; none = the clock of the server.
    ///
    /// # Errors
    /// When the connection fails. Redis may or may not have done any of the commands then.
    pub async fn send(
        &mut self,
        now: Option<u64>,
        epoch: &str,
        commands: &[Command],
    ) -> Result<Vec<Option<TakeResult>>, LinkError> {
        let mut pipeline = Pipeline::with_capacity(commands.len());
        for Command { operation, request, items, .. } in commands {
            let operation = match operation {
                Operation::Take => "take",
                Operation::Renew => "renew",
                Operation::Give => "give",
            };
            let mut call = redis::cmd("EVALSHA");
            call.arg(SCRIPT.get_hash());
            let lines: Vec<Line<'_>> = items.iter().map(|item| self.line(item)).collect();
            write_arguments(&mut call, &Head { operation, now, request, epoch }, &lines);
            pipeline.add_command(call);
        }
        let answers: Vec<Vec<i64>> = pipeline.query_async(&mut self.connection).await?;
        Ok(answers.iter().map(|answer| read_answer(answer)).collect())
    }

    fn line<'a>(&mut self, item: &'a LimitItem) -> Line<'a> {
        let line = |kind, key, first: u64, second: u64| Line {
            kind,
            key,
            texts: [first.to_string(), second.to_string()],
            rest: None,
        };
        match item {
            LimitItem::Rate { key, span } => line("rate", key, *span, 0),
            LimitItem::Correct { key, more, back, since } => {
                let elapsed = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
                line("rate", key, *more, back.saturating_sub(elapsed))
            }
            LimitItem::Look { key } => line("look", key, 0, 0),
            LimitItem::Place { key, limit } => line("place", key, *limit, 0),
            LimitItem::Spend { budget, limit, cost } => {
                let until = budget.until.map(|until| until.to_string()).unwrap_or_default();
                Line { rest: Some([until, self.spend(budget)]), ..line("spend", &budget.name, *cost, *limit) }
            }
        }
    }

    /// Returns the spend of a budget for the script. The spend of others is reported once in an epoch, and again after a change.
    fn spend(&mut self, budget: &SharedBudget) -> String {
        let (own, others) = (budget.spend.own(), budget.spend.others());
        let mut text = format!("{} {} {}", self.origin, own.read_at, own.total);
        if self.told.len() > TOLD {
            self.told.clear();
        }
        // A command that fails ends the connection, and a new connection reports everything again.
        if self.told.insert(budget.name.clone(), others.read_at) != Some(others.read_at) {
            for (origin, total) in &*others.by_origin {
                // Writing to a string cannot fail. The own report of that data folder's replica has priority, so the time is 0.
                let _ = write!(text, " {origin} 0 {total}");
            }
        }
        text
    }
}

/// An item as the script reads it.
struct Line<'a> {
    kind: &'static str,
    key: &'a str,
    texts: [String; 2],
    rest: Option<[String; 2]>,
}

fn write_arguments(call: &mut Cmd, head: &Head<'_>, lines: &[Line<'_>]) {
    let now = head.now.map(|now| now.to_string()).unwrap_or_default();
    call.arg(1 + lines.len()).arg(EPOCH).arg(lines.iter().map(|line| line.key).collect::<Vec<_>>());
    call.arg(head.operation).arg(now).arg(head.request);
    call.arg(u64::try_from(HELD.as_millis()).unwrap_or(u64::MAX)).arg(head.epoch);
    for Line { kind, texts, rest, .. } in lines {
        call.arg(kind).arg(texts).arg(rest.as_ref().unwrap_or(&Default::default()));
    }
}

/// Returns the answer to a command; none if Redis decided nothing, because Redis is in another epoch.
fn read_answer(answer: &[i64]) -> Option<TakeResult> {
    let number = |number: &i64| u64::try_from(*number).unwrap_or_default();
    let Some((&[exceeded, wait], states)) = answer.split_first_chunk() else { return Some(TakeResult::default()) };
    let exceeded = match exceeded {
        0 => None,
        nth => Some((usize::try_from(nth - 1).ok()?, number(&wait))),
    };
    Some(TakeResult { exceeded, states: states.iter().map(number).collect() })
}
