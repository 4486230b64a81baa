//! The record of each request: filled while the request runs, settled exactly once, then sent to the ledger, the metrics and the
//! log.

mod disconnect;
mod feed;
mod ledger;
mod log;
mod polls;
mod spent;
mod statements;
mod unpriced;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

pub use disconnect::DisconnectRecord;
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
        usage::{AnswerSample, PolledUsage, Usage},
    },
    metrics::WorkerMetrics,
    protocol::observe::{Observation, ResponseStatus},
};

/// The record of one request while the request runs, which becomes its ledger row, its log line and its metrics. The gateway's guard
/// (`proxy::settle`) settles the record once however the request ends, also when its future or its body is dropped.
#[derive(Debug)]
pub struct Settlement {
    metrics: Arc<WorkerMetrics>,
    /// Index of the upstream of the last attempt.
    upstream: Option<usize>,
    disconnect: DisconnectRecord,
    began: Instant,
    /// The time since which the model has been reasoning.
    reasoning_since: Option<Instant>,
    outcome: Box<Outcome>,
    /// The ledger that has the request's open row.
    ledger: Option<Arc<Ledger>>,
    settled: bool,
}

impl Settlement {
    /// Opens the record of a request whose head has arrived. `disconnect` gives the end reason if the record is dropped, because the
    /// client left.
    pub fn open(metrics: Arc<WorkerMetrics>, id: RequestId, disconnect: DisconnectRecord) -> Self {
        metrics.began();
        let outcome = Box::new(Outcome::new(id));
        let began = Instant::now();
        Self {
            metrics,
            upstream: None,
            disconnect,
            began,
            reasoning_since: None,
            outcome,
            ledger: None,
            settled: false,
        }
    }

    /// Returns the data of the request's record (key, model, status, usage and so on), for the gateway to fill in.
    pub fn outcome(&mut self) -> &mut Outcome {
        &mut self.outcome
    }

    /// Writes the request's open row to the ledger, before the request is first sent to an upstream. Nothing may be sent earlier, or if
    /// this fails.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn write_open_row(
        &mut self,
        ledger: &Arc<Ledger>,
        upstream: Option<&str>,
    ) -> Result<(), JournalUnavailable> {
        // Set before the wait: if the client disconnects during the write, the settled row must be written too.
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

    /// Adds an attempt at an upstream to the request's record, before the attempt is made. So the record shows an aborted attempt too.
    /// `index` is the index of the upstream. Returns the time of the start.
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

    /// Records how the request's last attempt, which began at `since`, ended.
    pub fn attempted(&mut self, since: Instant, result: AttemptResult) {
        if let Some(attempt) = self.outcome.attempts.last_mut() {
            attempt.result = result;
            attempt.took = since.elapsed();
        }
    }

    /// Counts the last attempt. Call this only when its result is final.
    fn count_last(&self) {
        if let (Some(upstream), Some(attempt)) = (self.upstream, self.outcome.attempts.last()) {
            self.metrics.attempted(upstream, attempt.result);
        }
    }

    /// Records that the first byte of the answer's body arrived. Only the first call for a request counts.
    pub fn first_byte(&mut self) {
        self.outcome.first_byte.get_or_insert_with(|| self.began.elapsed());
    }

    /// Records whether the model is reasoning now, so that the request's record has the total time of reasoning.
    pub fn set_reasoning(&mut self, is_reasoning: bool) {
        match self.reasoning_since {
            None if is_reasoning => self.reasoning_since = Some(Instant::now()),
            Some(since) if !is_reasoning => {
                self.outcome.thought_for += since.elapsed();
                self.reasoning_since = None;
            }
            _ => {}
        }
    }

    /// Copies what the observer read in the answer (ids, usage, text) into the request's record.
    pub fn record_observation(&mut self, seen: &Observation) {
        let outcome = &mut *self.outcome;
        let shape = outcome.endpoint.map(Endpoint::shape);
        if matches!(shape, Some(AnswerShape::Response | AnswerShape::Completion)) {
            outcome.response_id.clone_from(&seen.response_id);
        }
        outcome.upstream_code.clone_from(&seen.code);
        outcome.events = seen.events;
        (outcome.text_tokens, outcome.other_output, outcome.hidden) =
            (seen.text_tokens, seen.other_output, seen.hidden);
        (outcome.whole, outcome.is_empty_answer) = (seen.whole, seen.made_nothing());
        if outcome.is_free() {
            // A retrieved response is charged to the request that created it.
            outcome.shown = shown(outcome, seen);
        } else {
            outcome.usage = seen.usage;
            outcome.usage_may_grow = outcome.streamed && seen.terminal.is_none();
            outcome.continues_in_background = goes_on(outcome, seen);
        }
        // Embeddings have no output text, and providers report no output tokens for them.
        if shape == Some(AnswerShape::Vectors) {
            let usage = &mut outcome.usage;
            // Some providers report only the sum.
            usage.input = usage.input.or(usage.total);
            usage.output = usage.output.or(usage.input.map(|_| 0));
        }
    }

    /// Settles the record of a request that ended: writes the ledger row and the log line, and counts the metrics. Only the first call
    /// counts.
    pub fn settle(&mut self, end: EndReason) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        self.set_reasoning(false);
        self.outcome.end = end;
        self.outcome.took = self.began.elapsed();
        self.count_last();
        if UsageState::of(&self.outcome) == UsageState::Pending {
            self.outcome.terms = self.outcome.price.as_ref().map(|tariff| tariff.to_text().into());
        }
        if let Some(ledger) = &self.ledger {
            ledger.settle(&Row::settled(&self.outcome));
        }
        self.metrics.settled(self.upstream, &self.outcome);
        self.note_unpriced();
        log::line(&self.outcome);
    }

    /// Counts the parts of the answer that have no price. Logs each part once for each model.
    fn note_unpriced(&self) {
        let parts = ledger_row::unpriced(&self.outcome);
        let (false, Some(attempt)) = (parts.is_empty(), self.outcome.attempts.last()) else { return };
        let model = self.outcome.upstream_model.clone().unwrap_or_else(|| "".into());
        unpriced::note(&self.metrics.unpriced, &attempt.upstream, &model, parts);
    }

    /// Returns what the settled request is charged: the tokens and the cost of its ledger row. `None` if the request was never sent
    /// upstream. Call this only after settling.
    pub fn charged(&self) -> Option<Charge> {
        self.ledger.as_ref().filter(|_| !self.outcome.attempts.is_empty())?;
        let state = UsageState::of(&self.outcome);
        let cost = ledger_row::charge(&self.outcome, state).zip(self.outcome.price.as_ref());
        let cost = cost.map(|((nano, _), price)| Money { nano, currency: price.base.currency });
        let Outcome { usage, text_tokens, whole, other_output, exchange, .. } = *self.outcome;
        let text = (whole && !other_output).then_some(text_tokens);
        let seen = ledger_row::tokens_charged(&self.outcome);
        let sample = text.filter(|_| state == UsageState::Exact).and_then(|_| answer_sample(&self.outcome));
        Some(Charge { state, usage, seen, text, sample, cost, exchange })
    }

    /// Settles the record of a request that the gateway refuses with an error of its own.
    pub fn refuse(&mut self, problem: Problem, status: http::StatusCode) {
        self.outcome.problem = Some(problem);
        self.outcome.status = Some(status);
        self.settle(EndReason::Refused);
    }
}

/// Whether the response continues after its answer has ended. A stream reports `in_progress` in either case.
fn goes_on(outcome: &Outcome, seen: &Observation) -> bool {
    let under_way = match seen.status {
        Some(ResponseStatus::Queued) => true,
        Some(ResponseStatus::InProgress) => outcome.background || !outcome.streamed,
        _ => false,
    };
    under_way && seen.terminal.is_none() && outcome.response_id.is_some()
}

/// Returns the usage that an answer shows of the response in its path. An event with only an error does not mean that the
/// response is finished.
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

/// The least tokens and the least time for a speed: shorter answers do not show how many tokens a model makes in a second.
const TELLING: (u64, Duration) = (256, Duration::from_millis(500));

/// No model makes more tokens a second for one answer. An apparently faster answer was made earlier.
const FASTEST: u64 = 2000;

/// Returns what an answer with reported tokens adds to the averages of its key and model.
fn answer_sample(outcome: &Outcome) -> Option<AnswerSample> {
    let Outcome { usage, text_tokens, hidden, streamed, first_byte, took, .. } = outcome;
    let output = usage.output.filter(|output| *output > 0)?;
    let beside = output.saturating_sub(*text_tokens);
    let hidden_tokens = match usage.reasoning {
        Some(reasoning) => beside.min(reasoning),
        // The difference is larger than the error of counting by bytes.
        None if beside > text_tokens + 16 => beside,
        None => 0,
    };
    let time = took.saturating_sub(first_byte.unwrap_or_default());
    let tells = *streamed && output >= TELLING.0 && time >= TELLING.1;
    let tokens_per_second =
        tells.then(|| u64::try_from(u128::from(output) * 1000 / time.as_millis().max(1)).unwrap_or(u64::MAX));
    Some(AnswerSample {
        thinks: hidden.thinks,
        hidden: hidden_tokens,
        tokens_per_second: tokens_per_second.map(|speed| speed.min(FASTEST)),
    })
}

/// What a settled request is charged, for limits and budgets: its tokens and its cost, as the ledger row has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// How much of the usage is known.
    pub state: UsageState,
    /// Tokens as reported.
    pub usage: Usage,
    /// All reported or observed tokens together.
    pub seen: u64,
    /// Output tokens by the text, if the gateway saw the whole text.
    pub text: Option<u64>,
    /// What the answer adds to the averages of its key and model, if the tokens were reported and the text was seen.
    pub sample: Option<AnswerSample>,
    /// The cost; none if the model has no price.
    pub cost: Option<Money>,
    /// The exchange rate of the row.
    pub exchange: Exchange,
}

impl Settlement {
    /// Settles the record of a request that was dropped before its end. The connection's record gives the reason: the client left,
    /// stalled, or Tidegate stops. After a panic, the reason is an internal error.
    pub fn settle_disconnected(&mut self) {
        if std::thread::panicking() && !self.settled {
            // A panic is our own fault, whatever the client did: the client sees a closed connection.
            self.outcome.problem = Some(Problem::Internal);
            self.settle(EndReason::Refused);
        }
        self.settle(self.disconnect.end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        concurrent::{ledger_status::LedgerStatus, request_ids::RequestIds},
        domain::{
            clock::Clock,
            money::{Currency, UNIT},
            price::{Price, PriceStep, Tariff},
            random::RandomBytes,
            usage::{
                AnswerAverages, DEFAULT_REASONING_TOKENS, DEFAULT_TOKENS_PER_SECOND, HiddenReasoning, ServiceTier,
            },
        },
        metrics::Metrics,
        protocol::observe::Terminal,
    };

    fn open(metrics: &Metrics) -> Settlement {
        let ids = RequestIds::new(Clock::system(), RandomBytes::system()).unwrap();
        Settlement::open(Arc::new(metrics.worker([].into_iter())), ids.next(), DisconnectRecord::default())
    }

    #[tokio::test]
    async fn a_request_whose_client_left_before_it_was_sent_costs_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let condition = Arc::new(LedgerStatus::default());
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
            settlement.write_open_row(&ledger, None).await.unwrap();
            if sent {
                settlement.attempt(0, "up".into(), None);
            }
            settlement.settle(EndReason::ClientGone);
            assert_eq!(settlement.charged().is_some(), sent);
        }
    }

    #[test]
    fn a_background_response_stays_pending_until_a_poll_shows_its_end() {
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
            // No client could use it.
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
            settlement.record_observation(&seen);
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
            settlement.record_observation(&seen);
            settlement.settle(end);
            let outcome = settlement.outcome();
            assert_eq!(Row::settled(outcome).shown, shown, "{named} {end:?} {seen:?}");
            assert_eq!((UsageState::of(outcome), outcome.usage), (UsageState::Exact, Usage::default()));
        }
    }

    /// A client that leaves before the end of a stream is charged for reasoning that it cannot see.
    #[tokio::test(start_paused = true)]
    async fn hidden_reasoning_is_estimated_from_size_time_and_average() {
        let metrics = Metrics::default();
        let text = Observation { text_tokens: 100, terminal: None, ..Observation::default() };
        let item = |sealed| Observation { hidden: HiddenReasoning { thinks: true, sealed }, ..text.clone() };
        let low = AnswerAverages { hidden: 7, reasoning: Some(50), tokens_per_second: Some(100) };
        let told = Usage { input: Some(10), output: Some(300), ..Usage::default() };
        for (averages, thought_for, seen, output) in [
            // Nothing is known of the key and model.
            (AnswerAverages::default(), 0, text.clone(), 100),
            (AnswerAverages::default(), 0, item(None), 100 + DEFAULT_REASONING_TOKENS),
            (AnswerAverages::default(), 0, item(Some(3000)), 3100),
            (AnswerAverages::default(), 400, item(None), 100 + 400 * DEFAULT_TOKENS_PER_SECOND),
            // The average, and more if the reasoning was larger or took longer.
            (low, 0, text.clone(), 107),
            (low, 0, item(None), 150),
            (low, 0, item(Some(3000)), 3100),
            (low, 100, item(Some(3000)), 10_100),
            // The reported number counts.
            (low, 100, Observation { usage: told, ..item(Some(3000)) }, 300),
        ] {
            let mut settlement = open(&metrics);
            let outcome = settlement.outcome();
            (outcome.streamed, outcome.bytes_down, outcome.answer_averages) = (true, 1, averages);
            outcome.endpoint = Some(Endpoint::CreateResponse);
            outcome.price =
                Some(Price { output: 1_000_000, reasoning: 1_000_000, ..Price::free(Currency::Usd) }.into());
            settlement.set_reasoning(true);
            tokio::time::advance(Duration::from_secs(thought_for)).await;
            settlement.set_reasoning(false);
            tokio::time::advance(Duration::from_secs(1000)).await;
            settlement.record_observation(&seen);
            settlement.settle(EndReason::ClientGone);
            let row = Row::settled(settlement.outcome());
            assert_eq!(
                (row.state, row.cost),
                (UsageState::Partial, Some(output)),
                "{averages:?} {thought_for} {seen:?}"
            );
        }
    }

    #[test]
    fn reported_tokens_give_the_amount_of_hidden_reasoning() {
        let metrics = Metrics::default();
        let usage = |output, reasoning| Usage { input: Some(10), output: Some(output), reasoning, ..Usage::default() };
        for (thinks, text_tokens, usage, hidden) in [
            (true, 100, usage(10_100, Some(10_000)), Some(10_000)),
            // The reasoning passed as text.
            (false, 10_100, usage(10_100, Some(10_000)), Some(0)),
            // Counting by bytes is not exact.
            (false, 80, usage(100, Some(0)), Some(0)),
            (false, 80, usage(100, None), Some(0)),
            // Gemini, and relays that tell no reasoning.
            (false, 80, usage(1080, None), Some(1000)),
            (true, 80, Usage::default(), None),
        ] {
            let mut outcome = open(&metrics).outcome().clone();
            (outcome.usage, outcome.text_tokens, outcome.hidden.thinks) = (usage, text_tokens, thinks);
            let found = answer_sample(&outcome).map(|sample| (sample.thinks, sample.hidden, sample.tokens_per_second));
            assert_eq!(found, hidden.map(|hidden| (thinks, hidden, None)), "{text_tokens} {usage:?}");
            (outcome.streamed, outcome.took) = (true, Duration::from_secs(11));
            outcome.first_byte = Some(Duration::from_secs(1));
            let tokens_per_second =
                usage.output.filter(|output| *output >= 256).map(|output| (output / 10).min(FASTEST));
            assert_eq!(answer_sample(&outcome).and_then(|sample| sample.tokens_per_second), tokens_per_second);
        }
    }

    /// 280,960 tokens of the image tool were billed like text, and called exact.
    #[test]
    fn an_unpriced_part_marks_the_row_as_estimated() {
        let metrics = Metrics::default();
        let (text, searches) = (Usage { input: Some(3), output: Some(5), ..Usage::default() }, Some(UNIT / 100));
        let tool = Usage { image_tool_output: Some(280_960), ..text };
        let web = Usage { web_searches: Some(2), tier: Some(ServiceTier::Flex), ..text };
        let seconds = Usage { audio_ms: Some(90_000), ..Usage::default() };
        let price = Price { input: UNIT, output: UNIT, ..Price::free(Currency::Usd) };
        let all = price.with_optional_rates([
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            Some(32 * UNIT),
            searches,
            Some(1000),
        ]);
        let flex = PriceStep { tier: Some(ServiceTier::Flex), above: 0, price: all.with_tier_factor(UNIT / 2) };
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
            settlement.record_observation(&Observation {
                usage,
                terminal: Some(Terminal::Completed),
                ..Observation::default()
            });
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
}
