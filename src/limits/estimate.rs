//! Estimates the usage of a request from the recent requests of its key and model.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::domain::usage::{
    AnswerAverages, AnswerSample, DEFAULT_REASONING_TOKENS, DEFAULT_TOKENS_PER_SECOND, UsageEstimate,
};

/// The estimated output tokens of an unknown model. `max_output_tokens` of the request does not count: clients write an upper bound there, and
/// not what they expect.
const OUTPUT: f64 = 2000.0;

/// Bytes of a request for one input token: that of English in JSON. A model that gets images learns another value.
const BYTES: f64 = 4.0;

/// Bytes of an encoded file for one input token, at least. An image of 1 MB has some 1,500 tokens.
const FILE_BYTES: u64 = 1024;

/// Smaller requests, in bytes and in tokens, do not show the bytes of a token: most of their input is in every request.
const TELLING: u64 = 256;

/// The lowest estimate of the output. After many small answers, a large answer must not have a reservation of almost nothing.
const LEAST_OUTPUT: u64 = 256;

/// The size of a request body, from which its input tokens are estimated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BodySize {
    /// All bytes.
    pub bytes: u64,
    /// Bytes of encoded files.
    pub encoded: u64,
}

impl BodySize {
    /// The lowest input of a request of this size.
    fn least(self) -> u64 {
        self.bytes.saturating_sub(self.encoded) / BYTES as u64 + self.encoded / FILE_BYTES
    }
}

/// The weight of the newest request.
const SHARE: f64 = 0.1;

/// One request counts as this many times the estimate, at most: one unusual request shall not change the estimates of the next ones much. A
/// lasting change is followed within some ten requests.
const LEAP: f64 = 8.0;

/// Keys in each of the two generations of a model: some 100 bytes each.
const KEYS: usize = 4096;

/// The prior of a new key is computed from this many keys, at most.
const VOTERS: usize = 254;

/// The usage estimators of one model, one for each key.
///
/// Keys learn separately: the long answers of one key must not make the requests of another look too large for its limits.
#[derive(Debug, Default)]
pub(super) struct EstimatorsOfModel(RwLock<Generations>);

/// Two generations bound the memory. When the younger one is full, keys that were not used for a while are forgotten.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<u64, Arc<UsageEstimator>>,
    old: HashMap<u64, Arc<UsageEstimator>>,
}

impl EstimatorsOfModel {
    /// Returns the usage estimator of the key with this number for this model. A new key begins with the median of other keys.
    pub(super) fn of_key(&self, key: u64) -> Arc<UsageEstimator> {
        if let Some(mean) = self.0.read().unwrap_or_else(PoisonError::into_inner).young.get(&key) {
            return Arc::clone(mean);
        }
        self.0.write().unwrap_or_else(PoisonError::into_inner).renewed(key)
    }
}

impl Generations {
    fn renewed(&mut self, key: u64) -> Arc<UsageEstimator> {
        // Another worker may have made it meanwhile.
        if let Some(mean) = self.young.get(&key) {
            return Arc::clone(mean);
        }
        let mean = self.old.remove(&key).unwrap_or_else(|| Arc::new(self.prior()));
        if self.young.len() >= KEYS {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, Arc::clone(&mean));
        mean
    }

    /// The prior of a new key: the median over all keys and the values of an unknown model, each counted once. So one key alone never changes
    /// it. The prior is never above the values of an unknown model: a new key shall not pay for the usage of others.
    fn prior(&self) -> UsageEstimator {
        let voters: Vec<&Arc<UsageEstimator>> = self.young.values().chain(self.old.values()).take(VOTERS).collect();
        let median = |of: fn(&UsageEstimator) -> &AtomicU64, usual: f64, place: usize| {
            let mut all: Vec<f64> = voters.iter().map(|mean| get(of(mean))).chain([usual]).collect();
            all.sort_unstable_by(f64::total_cmp);
            all.get(place).copied().unwrap_or(usual)
        };
        // Of two values in the middle, the one with the higher estimate.
        let output = median(|mean| &mean.output, OUTPUT, voters.len().div_ceil(2)).min(OUTPUT);
        let bytes = median(|mean| &mean.bytes, BYTES, voters.len() / 2).max(BYTES);
        // The median of the keys that know the value.
        let known = |of: fn(&UsageEstimator) -> &AtomicU64| {
            let mut all: Vec<f64> = voters.iter().map(|mean| get(of(mean))).filter(|mean| *mean >= 0.0).collect();
            all.sort_unstable_by(f64::total_cmp);
            AtomicU64::new(all.get(all.len() / 2).copied().unwrap_or(UNKNOWN).to_bits())
        };
        UsageEstimator {
            output: AtomicU64::new(output.to_bits()),
            bytes: AtomicU64::new(bytes.to_bits()),
            hidden: known(|mean| &mean.hidden),
            reasoning: known(|mean| &mean.reasoning),
            tokens_per_second: known(|mean| &mean.tokens_per_second),
        }
    }
}

/// Moving averages of the usage of one key and model, from which the next request is estimated. If two workers add at the same
/// moment, one of the two values may be lost.
#[derive(Debug)]
pub(super) struct UsageEstimator {
    /// Bits of floats.
    output: AtomicU64,
    bytes: AtomicU64,
    /// As in [`AnswerAverages`]; [`UNKNOWN`] until an answer shows the value.
    hidden: AtomicU64,
    reasoning: AtomicU64,
    tokens_per_second: AtomicU64,
}

/// The average of a value that no answer has shown yet.
const UNKNOWN: f64 = -1.0;

impl Default for UsageEstimator {
    fn default() -> Self {
        let [output, bytes, hidden, reasoning, tokens_per_second] =
            [OUTPUT, BYTES, UNKNOWN, UNKNOWN, UNKNOWN].map(|mean| AtomicU64::new(mean.to_bits()));
        Self { output, bytes, hidden, reasoning, tokens_per_second }
    }
}

impl UsageEstimator {
    /// Estimates the input and output tokens of a request with a body of this size.
    pub(super) fn estimate(&self, body: BodySize) -> UsageEstimate {
        let input = (body.bytes as f64 / get(&self.bytes).max(0.1)).ceil() as u64;
        let output = get(&self.output).ceil() as u64;
        UsageEstimate { input: input.max(body.least()), output: output.max(LEAST_OUTPUT) }
    }

    /// The averages of the recent answers to this key for this model: reasoning that did not pass as text, and speed.
    pub(super) fn answer_averages(&self) -> AnswerAverages {
        let known = |mean| Some(get(mean)).filter(|mean| *mean >= 0.0).map(|mean| mean.ceil() as u64);
        let (hidden, reasoning, tokens_per_second) =
            (known(&self.hidden), known(&self.reasoning), known(&self.tokens_per_second));
        AnswerAverages { hidden: hidden.unwrap_or_default(), reasoning, tokens_per_second }
    }

    /// Adds what one answer showed of hidden reasoning and of speed to the averages of its key and model.
    pub(super) fn add_answer(&self, AnswerSample { thinks, hidden, tokens_per_second }: AnswerSample) {
        let average = if thinks { &self.reasoning } else { &self.hidden };
        begin_or_add(average, hidden as f64, DEFAULT_REASONING_TOKENS as f64);
        if let Some(tokens_per_second) = tokens_per_second {
            begin_or_add(&self.tokens_per_second, tokens_per_second as f64, DEFAULT_TOKENS_PER_SECOND as f64);
        }
    }

    /// Adds the tokens of one finished request to the averages of its key and model. `body` is the size of its body in bytes.
    pub(super) fn learn(&self, body: u64, input: Option<u64>, output: Option<u64>) {
        if let Some(output) = output {
            add(&self.output, output as f64, OUTPUT);
        }
        if let Some(input) = input.filter(|input| *input > 0 && body.max(*input) >= TELLING) {
            add(&self.bytes, body as f64 / input as f64, BYTES);
        }
    }
}

fn get(mean: &AtomicU64) -> f64 {
    f64::from_bits(mean.load(Ordering::Relaxed))
}

/// The first value is the average.
fn begin_or_add(mean: &AtomicU64, newest: f64, usual: f64) {
    if get(mean) < 0.0 {
        return mean.store(newest.min(usual * LEAP).to_bits(), Ordering::Relaxed);
    }
    add(mean, newest, usual);
}

fn add(mean: &AtomicU64, newest: f64, usual: f64) {
    let before = get(mean);
    let newest = newest.min(before.max(usual) * LEAP);
    mean.store((before + (newest - before) * SHARE).to_bits(), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body that consists of an encoded file: its size alone says little.
    fn file(bytes: u64) -> BodySize {
        BodySize { bytes, encoded: bytes }
    }

    fn text(bytes: u64) -> BodySize {
        BodySize { bytes, encoded: 0 }
    }

    #[test]
    fn the_estimate_begins_high_and_follows_the_usage() {
        let mean = UsageEstimator::default();
        assert_eq!(mean.estimate(text(400)).total(), 2100);
        for _ in 0..100 {
            mean.learn(1000, Some(500), Some(500));
        }
        let tokens = mean.estimate(text(1000)).total();
        assert!((1000..1010).contains(&tokens), "{tokens}");
        // Unknown values change nothing, and nothing is divided by zero.
        mean.learn(1000, Some(0), None);
        mean.learn(1000, None, None);
        assert_eq!(mean.estimate(text(1000)).total(), tokens);
    }

    #[test]
    fn tiny_requests_do_not_lower_the_next_estimate_to_almost_nothing() {
        let mean = UsageEstimator::default();
        for _ in 0..500 {
            // 300 bytes around a single word.
            mean.learn(300, Some(3), Some(1));
            // And 8 tokens that are not in the body.
            mean.learn(17, Some(8), Some(1));
        }
        assert_eq!(mean.estimate(text(400_000)), UsageEstimate { input: 100_000, output: LEAST_OUTPUT });
        // An image of 3 MB has the input of an image.
        assert!(mean.estimate(file(3_000_000)).input < 50_000);
    }

    #[test]
    fn hidden_output_is_learned_separately_from_text() {
        let sample = |thinks, hidden, tokens_per_second| AnswerSample { thinks, hidden, tokens_per_second };
        let model = EstimatorsOfModel::default();
        assert_eq!(model.of_key(1).answer_averages(), AnswerAverages::default());
        model.of_key(1).add_answer(sample(true, 10_000, Some(120)));
        assert_eq!(
            model.of_key(1).answer_averages(),
            AnswerAverages { hidden: 0, reasoning: Some(10_000), tokens_per_second: Some(120) }
        );
        for _ in 0..50 {
            model.of_key(1).add_answer(sample(false, 0, None));
        }
        assert_eq!(
            model.of_key(1).answer_averages(),
            AnswerAverages { hidden: 0, reasoning: Some(10_000), tokens_per_second: Some(120) }
        );
        // A new key begins with what others learned, and one unusual request changes little.
        assert_eq!(
            model.of_key(2).answer_averages(),
            AnswerAverages { hidden: 0, reasoning: Some(10_000), tokens_per_second: Some(120) }
        );
        model.of_key(3).add_answer(sample(true, 100_000_000, None));
        assert!(
            model.of_key(3).answer_averages().reasoning.is_some_and(|reasoning| reasoning < 20_000),
            "{:?}",
            model.of_key(3).answer_averages()
        );
        for _ in 0..30 {
            model.of_key(2).add_answer(sample(true, 500, Some(60)));
        }
        let answer_averages = model.of_key(2).answer_averages();
        assert!(
            answer_averages.reasoning.is_some_and(|reasoning| (500..1000).contains(&reasoning)),
            "{answer_averages:?}"
        );
    }

    #[test]
    fn one_unusual_request_changes_little() {
        let mean = UsageEstimator::default();
        mean.learn(1000, Some(250), Some(u64::MAX));
        assert!(mean.estimate(file(0)).output <= 4000, "{:?}", mean.estimate(file(0)));
        mean.learn(100_000_000, Some(1), None);
        assert!(mean.estimate(file(4000)).input >= 500, "{:?}", mean.estimate(file(4000)));
        // A lasting change is followed.
        for _ in 0..60 {
            mean.learn(1_000_000, Some(1000), Some(60_000));
        }
        let estimate = mean.estimate(file(1_000_000));
        assert!((55_000..65_000).contains(&estimate.output) && (900..1200).contains(&estimate.input), "{estimate:?}");
    }

    #[test]
    fn keys_learn_separately_and_one_key_does_not_change_the_prior() {
        let model = EstimatorsOfModel::default();
        for (output, bytes) in [(60_000, 10), (1000, 1_000_000)] {
            let key = output;
            for _ in 0..100 {
                model.of_key(key).learn(bytes, Some(100), Some(output));
            }
            let own = model.of_key(key).estimate(file(1000));
            assert!(own.output.abs_diff(output) <= output / 100 + 1, "{own:?}");
            let mut alone = Generations::default();
            alone.young.insert(key, model.of_key(key));
            assert_eq!(alone.prior().estimate(text(4000)), UsageEstimate { input: 1000, output: 2000 });
        }
    }

    #[test]
    fn a_new_key_begins_like_most_keys_and_never_above_an_unknown_model() {
        let estimate = |outputs: &[u64]| {
            let model = EstimatorsOfModel::default();
            for (key, output) in (0..).zip(outputs) {
                for _ in 0..200 {
                    model.of_key(key).learn(output * 8, Some(*output), Some(*output));
                }
            }
            model.of_key(u64::MAX).estimate(file(8000))
        };
        for (outputs, output, input) in [
            (&[][..], 2000, 2000),
            (&[500], 2000, 2000),
            (&[500, 500], 500, 1000),
            (&[500, 60_000, 500], 2000, 1000),
            (&[500, 60_000, 500, 500], 500, 1000),
            (&[60_000, 60_000, 60_000, 60_000, 500], 2000, 1000),
        ] {
            let found = estimate(outputs);
            assert!(found.output.abs_diff(output) <= 2 && found.input.abs_diff(input) <= 20, "{outputs:?}: {found:?}");
        }
    }

    #[test]
    fn keys_in_use_are_kept_and_others_are_forgotten() {
        let model = EstimatorsOfModel::default();
        for _ in 0..60 {
            model.of_key(7).learn(0, None, Some(10));
        }
        for key in 100..100 + 5 * KEYS as u64 {
            model.of_key(key);
            assert!(model.of_key(7).estimate(file(0)).output < 300, "{key}");
        }
        let generations = model.0.read().unwrap();
        assert!(generations.young.len() <= KEYS && generations.old.len() <= KEYS);
    }
}
