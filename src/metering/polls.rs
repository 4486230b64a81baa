//! Decides which background responses Tidegate polls, and when.
//!
//! The ledger's thread reads the pending rows and sends poll requests through a channel. A task beside the first worker
//! (`proxy::polls`) makes the calls and sends the answers back. So no call waits for the database, and no client request waits
//! for a call. Only the rows survive a restart: the pause before the next call follows from the row's age.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::Instant,
};

use crate::{
    concurrent::ledger_status::LedgerStatus,
    domain::{
        clock::Clock,
        ledger::PollOutcome,
        usage::{PolledUsage, Usage},
    },
    store::sql::{Database, DatabaseError, PendingRow, SettledRow},
};

/// The longest pause between two polls of a response. Each pause equals the response's age, so the pauses double: some fifteen
/// polls in the first hour, then six an hour.
const LONGEST_PAUSE: Duration = Duration::from_mins(10);

/// After this time a response that is not finished stays charged with its reservation.
const GIVE_UP_AFTER: Duration = Duration::from_hours(24);

/// A replica polls the row of another data folder when the row is this old, because the other gateway may be gone. Then several
/// replicas may poll the row, each once in [`LONGEST_PAUSE`], which is harmless.
const OTHERS_AFTER: Duration = Duration::from_hours(1);

/// The most rows read at once. The others follow when these are finished.
const MOST_ROWS: u32 = 5000;

/// The most background responses that Tidegate asks providers about at once. A provider shall not notice these polls among client
/// requests.
pub const AT_ONCE: usize = 4;

/// A poll without an answer after this time is lost: the task that made the call is gone.
const LOST_AFTER: Duration = Duration::from_mins(5);

/// What Tidegate learned when it asked a provider about a background response: ended with this usage, in progress, gone, or no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one exists for each poll that is answered, and only for a moment")]
pub enum PollAnswer {
    /// The response is finished, with this usage.
    Over(PolledUsage),
    /// The response is still in progress.
    UnderWay,
    /// The provider no longer has the response.
    Gone,
    /// The poll got no usable answer.
    Failed,
}

impl PollAnswer {
    fn counted(self) -> PollOutcome {
        match self {
            Self::Over(_) => PollOutcome::Over,
            Self::UnderWay => PollOutcome::UnderWay,
            Self::Gone => PollOutcome::Gone,
            Self::Failed => PollOutcome::Failed,
        }
    }
}

/// A "not found" counts only after this age, because a provider may not find a new response at first.
const GONE_AFTER: Duration = Duration::from_mins(1);

/// The side of the task that asks providers about background responses: receives the ledger rows to ask about, and sends the results.
#[derive(Debug)]
pub struct Polling {
    /// Receives the responses to poll.
    pub requests: mpsc::Receiver<PendingRow>,
    /// Sends the result of each poll.
    pub results: mpsc::UnboundedSender<(PendingRow, PollAnswer)>,
}

/// Decides which background responses Tidegate asks their providers about, and when. Runs on the ledger's thread.
#[derive(Debug)]
pub struct Polls {
    requests: mpsc::Sender<PendingRow>,
    results: mpsc::UnboundedReceiver<(PendingRow, PollAnswer)>,
    /// The pause before the first poll, and between two reads of the pending rows.
    first: Duration,
    /// The time of the next poll of each row, by row id.
    due: HashMap<String, Instant>,
    /// Rows whose polls are in progress, with the start time of each poll.
    under_way: HashMap<String, Instant>,
    looked: Option<Instant>,
}

/// Makes the schedule of the polls of background responses, and the channel ends of the task that makes the polls. `first` is the pause
/// before the first poll of a response.
pub fn polling(first: Duration) -> (Polls, Polling) {
    let (send_request, requests) = mpsc::channel(AT_ONCE);
    let (send_result, results) = mpsc::unbounded_channel();
    let (due, under_way) = (HashMap::new(), HashMap::new());
    (
        Polls { requests: send_request, results, first, due, under_way, looked: None },
        Polling { requests, results: send_result },
    )
}

impl Polls {
    /// Stores the results of polls, and polls the rows that are due. Returns the rows that this settled. `origin` names the data
    /// folder.
    pub(super) async fn run(
        &mut self,
        database: &mut Database,
        origin: &str,
        clock: Clock,
        condition: &LedgerStatus,
    ) -> Result<Vec<SettledRow>, DatabaseError> {
        let now = u64::try_from(clock.since_epoch().as_millis()).unwrap_or(u64::MAX);
        let over = self.hear(now, condition);
        // Stored first: settled rows are no longer pending, and are not polled again.
        let mut settled = database.store_polled_usage(&over).await?;
        let is_time = self.looked.is_none_or(|looked| looked.elapsed() >= self.first);
        if is_time || !over.is_empty() {
            let before = now.saturating_sub(millis(OTHERS_AFTER));
            let rows = database.pending(origin, before, MOST_ROWS).await?;
            let given_up = self.ask_for(rows, now, condition);
            settled.append(&mut database.store_polled_usage(&given_up).await?);
            self.looked = Some(Instant::now());
        }
        Ok(settled)
    }

    /// Receives results of polls. Returns the finished responses.
    fn hear(&mut self, now: u64, condition: &LedgerStatus) -> Vec<(PendingRow, PolledUsage)> {
        let mut over = Vec::new();
        while let Ok((row, answer)) = self.results.try_recv() {
            self.under_way.remove(&row.id);
            let age = age(&row, now);
            count(&condition.polls, answer.counted());
            match answer {
                PollAnswer::Over(shown) => over.push((row, shown)),
                PollAnswer::Gone if age >= GONE_AFTER => over.push((row, PolledUsage::new(Usage::default()))),
                _ => {
                    let pause = age.clamp(self.first, LONGEST_PAUSE);
                    self.due.insert(row.id, Instant::now() + pause);
                }
            }
        }
        over
    }

    /// Polls the rows that are due. Returns the rows that have waited too long.
    fn ask_for(&mut self, rows: Vec<PendingRow>, now: u64, condition: &LedgerStatus) -> Vec<(PendingRow, PolledUsage)> {
        condition.pending.store(rows.len() as u64, Ordering::Relaxed);
        let known: std::collections::HashSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        self.due.retain(|id, _| known.contains(id.as_str()));
        self.under_way.retain(|_, since| since.elapsed() < LOST_AFTER);
        let mut over = Vec::new();
        for row in rows {
            let age = age(&row, now);
            if age >= GIVE_UP_AFTER {
                tracing::warn!(
                    response = row.id,
                    upstream = row.upstream,
                    "a background response did not end within 24 hours: the ledger row of this response stays an \
                     estimate. Nothing needs to be done"
                );
                over.push((row, PolledUsage::new(Usage::default())));
                continue;
            }
            let first = || Instant::now() + self.first.saturating_sub(age);
            let due = *self.due.entry(row.id.clone()).or_insert_with(first);
            if due > Instant::now() || self.under_way.contains_key(&row.id) {
                continue;
            }
            let id = row.id.clone();
            match self.requests.try_send(row) {
                Ok(()) => drop(self.under_way.insert(id, Instant::now())),
                // The channel is full, or the gateway is stopping. The row waits for the next look.
                Err(TrySendError::Full(_) | TrySendError::Closed(_)) => {}
            }
        }
        over
    }
}

fn age(row: &PendingRow, now: u64) -> Duration {
    Duration::from_millis(now.saturating_sub(row.began))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn count(counts: &[AtomicU64; PollOutcome::ALL.len()], polled: PollOutcome) {
    for (known, count) in PollOutcome::ALL.iter().zip(counts) {
        if *known == polled {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    fn row(id: &str, began: u64) -> PendingRow {
        let (upstream, response_id) = ("up".to_owned(), format!("resp_{id}"));
        PendingRow { id: id.to_owned(), began, upstream, credential: None, key: None, response_id }
    }

    fn count_of(condition: &LedgerStatus, polled: PollOutcome) -> u64 {
        let at = PollOutcome::ALL.iter().position(|known| *known == polled).unwrap();
        condition.polls[at].load(Ordering::Relaxed)
    }

    /// Everything that is asked for within so long, in seconds since the row began.
    #[tokio::test(start_paused = true)]
    async fn polls_double_their_interval_up_to_ten_minutes_and_end_after_a_day() {
        let (mut polls, mut polling) = polling(Duration::from_secs(5));
        let (condition, began) = (LedgerStatus::default(), Instant::now());
        let mut calls = Vec::new();
        loop {
            let now = millis(began.elapsed());
            assert_eq!(polls.hear(now, &condition), []);
            let over = polls.ask_for(vec![row("a", 0)], now, &condition);
            if let [(row, shown)] = &over[..] {
                assert_eq!((row.id.as_str(), shown.usage()), ("a", None));
                break;
            }
            if let Ok(row) = polling.requests.try_recv() {
                calls.push(began.elapsed().as_secs());
                let answer = if calls.len() % 2 == 0 { PollAnswer::UnderWay } else { PollAnswer::Failed };
                polling.results.send((row, answer)).unwrap();
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        // One second passes between a call and its answer here.
        assert_eq!(calls[..7], [5, 12, 26, 54, 110, 222, 446]);
        assert!(calls[8..].windows(2).all(|pair| pair[1] - pair[0] == 601), "{calls:?}");
        assert_eq!(began.elapsed(), GIVE_UP_AFTER);
        assert!(calls.len() < 160, "{}", calls.len());
        assert_eq!(
            count_of(&condition, PollOutcome::Failed) + count_of(&condition, PollOutcome::UnderWay),
            calls.len() as u64
        );
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_polls_are_bounded_and_a_lost_poll_is_repeated() {
        let (mut polls, mut polling) = polling(Duration::from_secs(5));
        let condition = LedgerStatus::default();
        // After a restart, all are old enough.
        let rows: Vec<_> = (0..10).map(|nth| row(&nth.to_string(), 0)).collect();
        for _ in 0..2 {
            assert_eq!(polls.ask_for(rows.clone(), MINUTE, &condition), []);
        }
        let mut asked = Vec::new();
        while let Ok(row) = polling.requests.try_recv() {
            asked.push(row);
        }
        assert_eq!((asked.len(), condition.pending.load(Ordering::Relaxed)), (AT_ONCE, 10));
        // Polls in progress are not started again.
        assert_eq!(polls.ask_for(rows[..AT_ONCE].to_vec(), MINUTE, &condition), []);
        assert!(polling.requests.try_recv().is_err());
        tokio::time::advance(LOST_AFTER).await;
        assert_eq!(polls.ask_for(rows[..1].to_vec(), MINUTE, &condition), []);
        assert_eq!(polling.requests.try_recv().unwrap().id, "0");
    }

    #[tokio::test(start_paused = true)]
    async fn a_404_ends_the_polls_only_after_the_first_minute() {
        let (mut polls, polling) = polling(Duration::from_secs(5));
        let condition = LedgerStatus::default();
        let used = PolledUsage::new(Usage { input: Some(1), output: Some(2), ..Usage::default() });
        for (answer, age, over) in [
            (PollAnswer::Over(used), 0, Some(used)),
            (PollAnswer::Gone, MINUTE - 1, None),
            (PollAnswer::Gone, MINUTE, Some(PolledUsage::new(Usage::default()))),
            (PollAnswer::Failed, 60 * MINUTE, None),
            (PollAnswer::UnderWay, 60 * MINUTE, None),
        ] {
            polling.results.send((row("a", 7), answer)).unwrap();
            let heard = polls.hear(7 + age, &condition);
            assert_eq!(heard.iter().map(|(_, shown)| *shown).next(), over, "{answer:?} {age}");
            assert_eq!(polls.due.contains_key("a"), over.is_none() || age == MINUTE, "{answer:?} {age}");
        }
    }
}
