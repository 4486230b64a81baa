//! The record of each request: filled on the way, settled exactly once, told to every sink.

mod departure;
mod feed;
mod ledger;
mod log;
mod polls;
mod spent;
mod statements;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

pub use departure::DisconnectRecord;
pub use feed::{FeedTarget, FeedThreads, Retention};
pub use ledger::{JournalUnavailable, Ledger};
pub use polls::{AT_ONCE, PollAnswer, Polling, Polls, polling};
pub use spent::FILE as BUDGETS;
pub use statements::Statements;

use crate::{
    domain::{
        endpoint::{AnswerShape, Endpoint},
        id::RequestId,
        ledger::{self as ledger_row, Row, UsageState},
        money::{Exchange, Money},
        outcome::{Attempt, AttemptResult, EndReason, Outcome},
        problem::Problem,
        usage::{PolledUsage, Usage},
    },
    metrics::WorkerMetrics,
    protocol::observe::{Observation, ResponseStatus},
};

/// The guard of one request's record. However the request ends, also when its future or its body is dropped, the
/// record is settled, once.
#[derive(Debug)]
pub struct Settlement {
    metrics: Arc<WorkerMetrics>,
    /// Index of the upstream that was tried last.
    upstream: Option<usize>,
    departure: DisconnectRecord,
    began: Instant,
    outcome: Box<Outcome>,
    /// Where it was put down before it went up.
    ledger: Option<Arc<Ledger>>,
    settled: bool,
}

impl Settlement {
    /// Opens the record of a request whose head is here now. `departure` tells why, if it is dropped.
    pub fn open(metrics: Arc<WorkerMetrics>, id: RequestId, departure: DisconnectRecord) -> Self {
        metrics.began();
        let outcome = Box::new(Outcome::new(id));
        Self { metrics, upstream: None, departure, began: Instant::now(), outcome, ledger: None, settled: false }
    }

    /// The record, to be filled.
    pub fn outcome(&mut self) -> &mut Outcome {
        &mut self.outcome
    }

    /// Puts down in the ledger that the request goes up, to `upstream` first. Nothing may be sent before, and nothing at
    /// all where it fails.
    ///
    /// # Errors
    /// When it cannot be put down.
    pub async fn goes_up(&mut self, ledger: &Arc<Ledger>, upstream: Option<&str>) -> Result<(), JournalUnavailable> {
        // Already now: should the client leave while others write, what becomes of it is put down as well.
        self.ledger = Some(Arc::clone(ledger));
        let written = match ledger.open(&Row::open(&self.outcome, upstream)) {
            Ok(batch) => ledger.written(batch).await,
            Err(error) => Err(error),
        };
        if written.is_err() {
            self.ledger = None;
        }
        written
    }

    /// Notes a try before it is made: should it be cut short, the record shows it. `index` is that of the upstream.
    pub fn attempt(&mut self, index: usize, upstream: Arc<str>, credential: Option<Arc<str>>) -> Instant {
        self.count_last();
        self.upstream = Some(index);
        self.outcome.attempts.push(Attempt {
            upstream,
            credential,
            result: AttemptResult::Abandoned,
            took: Duration::ZERO,
        });
        Instant::now()
    }

    /// Notes what came of the last try, which began at `since`.
    pub fn attempted(&mut self, since: Instant, result: AttemptResult) {
        if let Some(attempt) = self.outcome.attempts.last_mut() {
            attempt.result = result;
            attempt.took = since.elapsed();
        }
    }

    /// Counts the last try: only when nothing more can come of it.
    fn count_last(&self) {
        if let (Some(upstream), Some(attempt)) = (self.upstream, self.outcome.attempts.last()) {
            self.metrics.attempted(upstream, attempt.result);
        }
    }

    /// Notes that the first byte of the answer's body is here.
    pub fn first_byte(&mut self) {
        self.outcome.first_byte.get_or_insert_with(|| self.began.elapsed());
    }

    /// Takes over what was seen in the answer.
    pub fn seen(&mut self, seen: &Observation) {
        let outcome = &mut *self.outcome;
        let shape = outcome.endpoint.map(Endpoint::shape);
        if matches!(shape, Some(AnswerShape::Response | AnswerShape::Completion)) {
            outcome.response_id.clone_from(&seen.response_id);
        }
        outcome.upstream_code.clone_from(&seen.code);
        outcome.events = seen.events;
        (outcome.text_tokens, outcome.other_output) = (seen.text_tokens, seen.other_output);
        (outcome.whole, outcome.made_nothing) = (seen.whole, seen.made_nothing());
        if outcome.is_free() {
            // What is only looked up is paid for by the request that made it.
            outcome.shown = shown(outcome, seen);
        } else {
            outcome.usage = seen.usage;
            outcome.so_far = outcome.streamed && seen.terminal.is_none();
            outcome.goes_on = goes_on(outcome, seen);
        }
        // No text comes out, and providers say nothing of it then.
        if shape == Some(AnswerShape::Vectors) {
            let usage = &mut outcome.usage;
            // Some tell the sum alone.
            usage.input = usage.input.or(usage.total);
            usage.output = usage.output.or(usage.input.map(|_| 0));
        }
    }

    /// The request is over. Only the first call counts.
    pub fn settle(&mut self, end: EndReason) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        self.outcome.end = end;
        self.outcome.took = self.began.elapsed();
        self.count_last();
        if UsageState::of(&self.outcome) == UsageState::Pending {
            self.outcome.terms = self.outcome.price.as_ref().map(|tariff| tariff.written().into());
        }
        if let Some(ledger) = &self.ledger {
            ledger.settle(&Row::settled(&self.outcome));
        }
        self.metrics.settled(self.upstream, &self.outcome);
        self.note_unpriced();
        log::line(&self.outcome);
    }

    /// Counts the parts of the answer that have no price, and logs each of them once for a model.
    fn note_unpriced(&self) {
        let parts = ledger_row::unpriced(&self.outcome);
        let (false, Some(attempt)) = (parts.is_empty(), self.outcome.attempts.last()) else { return };
        let model = self.outcome.upstream_model.clone().unwrap_or_else(|| "".into());
        for part in self.metrics.unpriced.count(&attempt.upstream, &model, parts).iter() {
            tracing::warn!(
                upstream = &*attempt.upstream,
                model = &*model,
                part = part.name(),
                setting = part.setting(),
                "answers of this model have a part without a price: their rows are marked unpriced_part, and their cost is an \
                 estimate. Add this setting to the model's [[prices]]",
            );
        }
    }

    /// What its row in the ledger says; none where it never went up. Only once it is settled.
    pub fn charged(&self) -> Option<Charge> {
        self.ledger.as_ref().filter(|_| !self.outcome.attempts.is_empty())?;
        let state = UsageState::of(&self.outcome);
        let cost = ledger_row::charge(&self.outcome, state).zip(self.outcome.price.as_ref());
        let cost = cost.map(|((nano, _), price)| Money { nano, currency: price.base.currency });
        let Outcome { usage, text_tokens, whole, other_output, exchange, .. } = *self.outcome;
        let text = (whole && !other_output).then_some(text_tokens);
        Some(Charge { state, usage, seen: ledger_row::tokens_seen(&self.outcome), text, cost, exchange })
    }

    /// The request is over with an error of ours.
    pub fn refuse(&mut self, problem: Problem, status: http::StatusCode) {
        self.outcome.problem = Some(problem);
        self.outcome.status = Some(status);
        self.settle(EndReason::Refused);
    }
}

/// Whether the response is made on when its answer is over. A stream says that it is in progress whatever makes it.
fn goes_on(outcome: &Outcome, seen: &Observation) -> bool {
    let under_way = match seen.status {
        Some(ResponseStatus::Queued) => true,
        Some(ResponseStatus::InProgress) => outcome.background || !outcome.streamed,
        _ => false,
    };
    under_way && seen.terminal.is_none() && outcome.response_id.is_some()
}

/// What an answer shows of the response that its path names. An event that tells of an error alone does not say that the
/// response is over.
fn shown(outcome: &Outcome, seen: &Observation) -> Option<PolledUsage> {
    let named = outcome.named.is_some() && outcome.named == seen.response_id;
    let over = match seen.status {
        Some(
            ResponseStatus::Completed | ResponseStatus::Failed | ResponseStatus::Incomplete | ResponseStatus::Cancelled,
        ) => true,
        _ => seen.terminal.is_some() && !seen.usage.is_empty(),
    };
    (named && over).then(|| PolledUsage::new(seen.usage))
}

/// What a request is charged with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// How much of it is known.
    pub state: UsageState,
    /// Tokens as reported.
    pub usage: Usage,
    /// Tokens that were told or seen, all together.
    pub seen: u64,
    /// Tokens of the output, by its text, where all of it was seen.
    pub text: Option<u64>,
    /// None where its model has no price.
    pub cost: Option<Money>,
    /// How the row exchanges currencies.
    pub exchange: Exchange,
}

impl Settlement {
    /// The request is over, as it is dropped: its connection tells why.
    pub fn leave(&mut self) {
        if std::thread::panicking() && !self.settled {
            // A fault of ours, whatever became of the client: it sees its connection close.
            self.outcome.problem = Some(Problem::Internal);
            self.settle(EndReason::Refused);
        }
        self.settle(self.departure.end());
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{
            chance::Chance,
            clock::Clock,
            id::RequestIds,
            money::{Currency, UNIT},
            price::{Price, PriceStep, Tariff},
            usage::ServiceTier,
        },
        metrics::Metrics,
        protocol::observe::Terminal,
    };

    fn open(metrics: &Metrics) -> Settlement {
        let ids = RequestIds::new(Clock::system(), Chance::system()).unwrap();
        Settlement::open(Arc::new(metrics.worker([].into_iter())), ids.next(), DisconnectRecord::default())
    }

    #[tokio::test]
    async fn one_whose_client_left_before_it_was_sent_costs_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let condition = Arc::new(ledger_row::LedgerStatus::default());
        let journal = crate::store::journal::Journal::open(
            folder.path().to_owned(),
            1,
            Arc::clone(&condition),
            &crate::store::journal::SystemDisk,
        );
        let ledger = Arc::new(Ledger::new(&journal.unwrap().0, &condition));
        let metrics = Metrics::default();
        for sent in [false, true] {
            let mut settlement = open(&metrics);
            settlement.goes_up(&ledger, None).await.unwrap();
            if sent {
                settlement.attempt(0, "up".into(), None);
            }
            settlement.settle(EndReason::ClientGone);
            assert_eq!(settlement.charged().is_some(), sent);
        }
    }

    #[test]
    fn what_is_made_in_the_background_pends_and_a_call_by_its_id_shows_how_it_ended() {
        let metrics = Metrics::default();
        let used = Usage { input: Some(3), output: Some(5), ..Usage::default() };
        let seen = |status, terminal, usage| Observation {
            text_tokens: 1,
            response_id: Some("resp_1".into()),
            status,
            terminal,
            usage,
            ..Observation::default()
        };
        let (queued, under_way, done) =
            (Some(ResponseStatus::Queued), Some(ResponseStatus::InProgress), Some(ResponseStatus::Completed));
        let whole = Some(Terminal::Completed);
        let zeros = Usage { input: Some(0), output: Some(0), ..Usage::default() };
        for (background, streamed, seen, state) in [
            (true, false, seen(queued, None, Usage::default()), UsageState::Pending),
            (false, false, seen(under_way, None, Usage::default()), UsageState::Pending),
            (true, true, seen(under_way, None, Usage::default()), UsageState::Pending),
            // It ends with its client.
            (false, true, seen(under_way, None, Usage::default()), UsageState::Partial),
            (true, true, seen(under_way, Some(Terminal::Failed), Usage::default()), UsageState::Partial),
            (true, true, seen(done, whole, Usage::default()), UsageState::Partial),
            (true, true, seen(done, whole, used), UsageState::Exact),
            // Nobody could ask for it.
            (true, false, Observation { status: queued, ..Observation::default() }, UsageState::Partial),
            // No model did anything.
            (
                false,
                true,
                Observation { terminal: Some(Terminal::Failed), ..Observation::default() },
                UsageState::Exact,
            ),
            (false, false, Observation { status: done, terminal: whole, ..Observation::default() }, UsageState::Exact),
            (true, false, Observation::default(), UsageState::Exact),
            (false, true, Observation { usage: zeros, terminal: whole, ..Observation::default() }, UsageState::Exact),
            // A count that cannot be true, beside the text that passed.
            (false, true, Observation { usage: zeros, ..seen(done, whole, used) }, UsageState::Partial),
            (false, true, Observation { text_tokens: 25_000, ..seen(done, whole, used) }, UsageState::Partial),
        ] {
            let mut settlement = open(&metrics);
            let outcome = settlement.outcome();
            (outcome.background, outcome.streamed, outcome.bytes_down) = (background, streamed, 1);
            outcome.endpoint = Some(Endpoint::CreateResponse);
            settlement.seen(&seen);
            settlement.settle(EndReason::Completed);
            assert_eq!(UsageState::of(settlement.outcome()), state, "{background} {streamed} {seen:?}");
        }
        let nothing = Some(PolledUsage::new(Usage::default()));
        for (named, end, seen, shown) in [
            ("resp_1", EndReason::Completed, seen(done, whole, used), Some(PolledUsage::new(used))),
            ("resp_1", EndReason::Completed, seen(Some(ResponseStatus::Cancelled), None, Usage::default()), nothing),
            ("resp_1", EndReason::ResponseFailed, seen(Some(ResponseStatus::Failed), None, Usage::default()), nothing),
            ("resp_1", EndReason::Completed, seen(None, whole, used), Some(PolledUsage::new(used))),
            // The stream failed, and who knows what became of the response.
            ("resp_1", EndReason::ResponseFailed, seen(under_way, Some(Terminal::Failed), Usage::default()), None),
            ("resp_1", EndReason::Completed, seen(under_way, None, Usage::default()), None),
            ("resp_1", EndReason::UpstreamError, seen(done, whole, used), None),
            ("resp_2", EndReason::Completed, seen(done, whole, used), None),
        ] {
            let mut settlement = open(&metrics);
            let outcome = settlement.outcome();
            (outcome.endpoint, outcome.named) = (Some(Endpoint::RetrieveResponse), Some(named.into()));
            settlement.seen(&seen);
            settlement.settle(end);
            let outcome = settlement.outcome();
            assert_eq!(Row::settled(outcome).shown, shown, "{named} {end:?} {seen:?}");
            assert_eq!((UsageState::of(outcome), outcome.usage), (UsageState::Exact, Usage::default()));
        }
    }

    /// 280,960 tokens of the image tool were billed like text, and called exact.
    #[test]
    fn a_part_without_a_price_makes_the_row_an_estimate_that_is_marked_and_counted() {
        let metrics = Metrics::default();
        let (text, searches) = (Usage { input: Some(3), output: Some(5), ..Usage::default() }, Some(UNIT / 100));
        let tool = Usage { image_tool_output: Some(280_960), ..text };
        let web = Usage { web_searches: Some(2), tier: Some(ServiceTier::Flex), ..text };
        let seconds = Usage { audio_ms: Some(90_000), ..Usage::default() };
        let price = Price { input: UNIT, output: UNIT, ..Price::free(Currency::Usd) };
        let all = price.with_more([None, None, None, None, None, None, None, Some(32 * UNIT), searches, Some(1000)]);
        let flex = PriceStep { tier: Some(ServiceTier::Flex), above: 0, price: all.times(UNIT / 2) };
        let all = Tariff::new(all, vec![flex]);
        let by_call = Price { per_call: 9, ..Price::free(Currency::Usd) };
        for (tariff, usage, state, cost, unpriced) in [
            (Some(price.into()), text, UsageState::Exact, 8000, None),
            (Some(price.into()), tool, UsageState::UnpricedPart, 280_968_000, Some("image_tool_output")),
            (Some(price.into()), web, UsageState::UnpricedPart, 8000, Some("web_searches,flex_tier")),
            (Some(price.into()), seconds, UsageState::UnpricedPart, 0, Some("audio_seconds")),
            (Some(all.clone()), tool, UsageState::Exact, 8_990_728_000, None),
            (Some(all.clone()), web, UsageState::Exact, 4000 + 2 * UNIT / 100, None),
            (Some(all.clone()), seconds, UsageState::Exact, 90_000, None),
            (Some(by_call.into()), web, UsageState::Exact, 9, None),
            // A model without any price is told by its missing currency.
            (None, tool, UsageState::Exact, 0, None),
        ] {
            let mut settlement = open(&metrics);
            settlement.attempt(0, "up".into(), None);
            settlement.outcome().endpoint = Some(Endpoint::CreateResponse);
            settlement.outcome().upstream_model = Some("real".into());
            settlement.outcome().price.clone_from(&tariff);
            settlement.outcome().bytes_down = 100;
            settlement.seen(&Observation { usage, terminal: Some(Terminal::Completed), ..Observation::default() });
            settlement.settle(EndReason::Completed);
            let row = Row::settled(settlement.outcome());
            let expected = (state, tariff.is_some().then_some(cost), unpriced, unpriced.is_some());
            assert_eq!(
                (row.state, row.cost, row.unpriced.names().as_deref(), row.estimated),
                expected,
                "{usage:?} {tariff:?}"
            );
        }
        let counted = metrics.text().unwrap();
        for part in ["image_tool_output", "web_searches", "flex_tier", "audio_seconds"] {
            let line = format!(r#"tidegate_unpriced_parts_total{{upstream="up",part="{part}"}} 1"#);
            assert!(counted.lines().any(|found| found == line), "{line} in:\n{counted}");
        }
    }

    #[test]
    fn a_panic_is_recorded_as_a_fault_of_ours_and_not_as_a_client_that_left() {
        let metrics = Metrics::default();
        std::thread::scope(|scope| {
            let dropped = scope.spawn(|| {
                let _settlement = open(&metrics);
                panic!("on purpose");
            });
            dropped.join().unwrap_err();
            let settled = scope.spawn(|| {
                let mut settlement = open(&metrics);
                settlement.settle(EndReason::Completed);
                panic!("on purpose");
            });
            settled.join().unwrap_err();
        });
        drop(open(&metrics));
        let text = metrics.text().unwrap();
        for line in [
            r#"tidegate_problems_total{code="internal_error"} 1"#,
            r#"tidegate_requests_total{upstream="",end="refused"} 1"#,
            r#"tidegate_requests_total{upstream="",end="completed"} 1"#,
            r#"tidegate_requests_total{upstream="",end="client_gone"} 1"#,
            "tidegate_requests_in_flight 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in:\n{text}");
        }
    }
}
