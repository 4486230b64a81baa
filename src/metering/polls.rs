//! Which responses in the background Tidegate asks for by itself, and when.
//!
//! The thread of the ledger reads the rows that are pending and asks for them over a channel; a task beside the first worker
//! (`proxy::polls`) makes the calls and sends back what came of them. So a call never waits for the database, and no request of a
//! client waits for a call. Nothing but the rows survives a restart: the pause before the next call follows from a row's age.

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
    domain::{
        clock::Clock,
        ledger::{LedgerStatus, PollOutcome},
        usage::{PolledUsage, Usage},
    },
    store::sql::{Database, DatabaseError, PendingRow, SettledRow},
};

/// The longest pause between two calls. The pause is as long as the response has existed, so that calls double their distance: some
/// fifteen in the first hour, then six an hour.
const LONGEST_PAUSE: Duration = Duration::from_mins(10);

/// A response that is not over after this time stays charged with what was reserved for it.
const GIVE_UP_AFTER: Duration = Duration::from_hours(24);

/// A row of another data folder is asked for once it has waited this long, as its gateway may be gone. Several replicas may then ask
/// for it, once in [`LONGEST_PAUSE`] each, which does no harm.
const OTHERS_AFTER: Duration = Duration::from_hours(1);

/// Rows that are read at once; the others follow when these are over.
const MOST_ROWS: u32 = 5000;

/// Calls at once. A provider shall not notice them beside the requests of clients.
pub const AT_ONCE: usize = 4;

/// A call that did not come back after this time never will: whoever made it is gone.
const LOST_AFTER: Duration = Duration::from_mins(5);

/// What a poll found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one exists for each poll that is answered, and only for a moment")]
pub enum PollAnswer {
    /// The response is over, and used this.
    Over(PolledUsage),
    /// It is being made.
    UnderWay,
    /// The provider does not have it any more.
    Gone,
    /// No usable answer came.
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

/// A provider may not find a response in its first moments, so a "not found" counts only after this time.
const GONE_AFTER: Duration = Duration::from_mins(1);

/// The end of whoever makes the calls.
#[derive(Debug)]
pub struct Polling {
    /// Which responses to ask for.
    pub asked: mpsc::Receiver<PendingRow>,
    /// What came of each.
    pub told: mpsc::UnboundedSender<(PendingRow, PollAnswer)>,
}

/// The end of the ledger's thread.
#[derive(Debug)]
pub struct Polls {
    ask: mpsc::Sender<PendingRow>,
    told: mpsc::UnboundedReceiver<(PendingRow, PollAnswer)>,
    /// The pause before the first call, and between two looks at the rows.
    first: Duration,
    /// When each row is asked for next, by its id.
    due: HashMap<String, Instant>,
    /// Rows that are being asked for, and since when.
    under_way: HashMap<String, Instant>,
    looked: Option<Instant>,
}

/// Both ends. `first` = the pause before the first call for a response.
pub fn polling(first: Duration) -> (Polls, Polling) {
    let (ask, asked) = mpsc::channel(AT_ONCE);
    let (tell, told) = mpsc::unbounded_channel();
    let (due, under_way) = (HashMap::new(), HashMap::new());
    (Polls { ask, told, first, due, under_way, looked: None }, Polling { asked, told: tell })
}

impl Polls {
    /// Notes what came of calls, and asks for the rows that are due. Returned are the rows that this settled. `origin` names the data
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
        // First: what is settled is no row that pends any more, and is not asked for again.
        let mut settled = database.show(&over).await?;
        let is_time = self.looked.is_none_or(|looked| looked.elapsed() >= self.first);
        if is_time || !over.is_empty() {
            let before = now.saturating_sub(millis(OTHERS_AFTER));
            let rows = database.pending(origin, before, MOST_ROWS).await?;
            let given_up = self.ask_for(rows, now, condition);
            settled.append(&mut database.show(&given_up).await?);
            self.looked = Some(Instant::now());
        }
        Ok(settled)
    }

    /// What came of calls; returned are the responses that are over.
    fn hear(&mut self, now: u64, condition: &LedgerStatus) -> Vec<(PendingRow, PolledUsage)> {
        let mut over = Vec::new();
        while let Ok((row, told)) = self.told.try_recv() {
            self.under_way.remove(&row.id);
            let age = age(&row, now);
            count(&condition.polls, told.counted());
            match told {
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

    /// Asks for those that are due; returned are those that have waited too long.
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
                    "a response in the background is not over after 24 hours: its row stays an estimate"
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
            match self.ask.try_send(row) {
                Ok(()) => drop(self.under_way.insert(id, Instant::now())),
                // As many as may be are under way, or the gateway ends: the others wait for the next look.
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
    async fn calls_double_their_distance_up_to_ten_minutes_and_end_after_a_day() {
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
            if let Ok(row) = polling.asked.try_recv() {
                calls.push(began.elapsed().as_secs());
                let told = if calls.len() % 2 == 0 { PollAnswer::UnderWay } else { PollAnswer::Failed };
                polling.told.send((row, told)).unwrap();
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
    async fn so_many_at_once_and_a_lost_one_is_asked_for_again() {
        let (mut polls, mut polling) = polling(Duration::from_secs(5));
        let condition = LedgerStatus::default();
        // After a restart, all are old enough.
        let rows: Vec<_> = (0..10).map(|nth| row(&nth.to_string(), 0)).collect();
        for _ in 0..2 {
            assert_eq!(polls.ask_for(rows.clone(), MINUTE, &condition), []);
        }
        let mut asked = Vec::new();
        while let Ok(row) = polling.asked.try_recv() {
            asked.push(row);
        }
        assert_eq!((asked.len(), condition.pending.load(Ordering::Relaxed)), (AT_ONCE, 10));
        // Those that are under way are not asked for once more.
        assert_eq!(polls.ask_for(rows[..AT_ONCE].to_vec(), MINUTE, &condition), []);
        assert!(polling.asked.try_recv().is_err());
        tokio::time::advance(LOST_AFTER).await;
        assert_eq!(polls.ask_for(rows[..1].to_vec(), MINUTE, &condition), []);
        assert_eq!(polling.asked.try_recv().unwrap().id, "0");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_gone_ends_and_one_that_is_too_young_to_be_gone_does_not() {
        let (mut polls, polling) = polling(Duration::from_secs(5));
        let condition = LedgerStatus::default();
        let used = PolledUsage::new(Usage { input: Some(1), output: Some(2), ..Usage::default() });
        for (told, age, over) in [
            (PollAnswer::Over(used), 0, Some(used)),
            (PollAnswer::Gone, MINUTE - 1, None),
            (PollAnswer::Gone, MINUTE, Some(PolledUsage::new(Usage::default()))),
            (PollAnswer::Failed, 60 * MINUTE, None),
            (PollAnswer::UnderWay, 60 * MINUTE, None),
        ] {
            polling.told.send((row("a", 7), told)).unwrap();
            let heard = polls.hear(7 + age, &condition);
            assert_eq!(heard.iter().map(|(_, shown)| *shown).next(), over, "{told:?} {age}");
            assert_eq!(polls.due.contains_key("a"), over.is_none() || age == MINUTE, "{told:?} {age}");
        }
    }
}
