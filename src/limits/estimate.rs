//! What a request will use, before anybody knows: from what the last ones of its key and model did.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::domain::usage::{Habit, Lesson, PACE, THOUGHT, UsageEstimate};

/// Output tokens of a model that was never seen. Never the request's own `max_output_tokens`: clients write down what they
/// could bear, not what they expect.
const OUTPUT: f64 = 2000.0;

/// Bytes of a request for one token of its input: what English in JSON comes to. Images move it for their model.
const BYTES: f64 = 4.0;

/// Bytes of an encoded file in a request for one token of its input, at least. An image of 1 MB is some 1,500 tokens.
const FILE_BYTES: u64 = 1024;

/// Requests under so many bytes and tokens do not tell what a byte is: most of their input is what every request has.
const TELLING: u64 = 256;

/// The least output that is expected, however little the last requests had: whoever asks for small answers for a while shall not
/// get a large one reserved as next to nothing.
const LEAST_OUTPUT: u64 = 256;

/// How large the body of a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Bytes in all.
    pub bytes: u64,
    /// Those that are of encoded files.
    pub encoded: u64,
}

impl Size {
    /// The least input that a request of this size has.
    fn least(self) -> u64 {
        self.bytes.saturating_sub(self.encoded) / BYTES as u64 + self.encoded / FILE_BYTES
    }
}

/// The newest request counts this much.
const SHARE: f64 = 0.1;

/// One request counts as so many times what was expected, at most: that it was odd shall not be paid for by the next ones. What
/// is usual from now on is followed within some ten requests all the same.
const LEAP: f64 = 8.0;

/// Keys in each of the two generations of a model: some 100 bytes each.
const KEYS: usize = 4096;

/// Keys that the prior of a new key is made of, at most.
const VOTERS: usize = 254;

/// What the requests of one model used, key by key.
///
/// Keys learn apart: the long answers of one key shall not make the requests of another look too large for its limits.
#[derive(Debug, Default)]
pub(super) struct EstimatorsOfModel(RwLock<Generations>);

/// Two generations bound the memory: keys that are not in use are forgotten when the younger one is full.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<u64, Arc<UsageEstimator>>,
    old: HashMap<u64, Arc<UsageEstimator>>,
}

impl EstimatorsOfModel {
    /// That of the key with this number, which begins with the prior where it is new.
    pub(super) fn of_key(&self, key: u64) -> Arc<UsageEstimator> {
        if let Some(mean) = self.0.read().unwrap_or_else(PoisonError::into_inner).young.get(&key) {
            return Arc::clone(mean);
        }
        self.0.write().unwrap_or_else(PoisonError::into_inner).renewed(key)
    }
}

impl Generations {
    fn renewed(&mut self, key: u64) -> Arc<UsageEstimator> {
        // Another worker may have been faster.
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

    /// What is expected of a key that was never seen: the median over all keys, each of which counts once, beside what is
    /// expected of a model that was never seen. So one key alone never moves it. It is never above the latter: a new key
    /// shall not pay for what others use.
    fn prior(&self) -> UsageEstimator {
        let voters: Vec<&Arc<UsageEstimator>> = self.young.values().chain(self.old.values()).take(VOTERS).collect();
        let median = |of: fn(&UsageEstimator) -> &AtomicU64, usual: f64, place: usize| {
            let mut all: Vec<f64> = voters.iter().map(|mean| get(of(mean))).chain([usual]).collect();
            all.sort_unstable_by(f64::total_cmp);
            all.get(place).copied().unwrap_or(usual)
        };
        // Of an even number the one in the middle that expects more.
        let output = median(|mean| &mean.output, OUTPUT, voters.len().div_ceil(2)).min(OUTPUT);
        let bytes = median(|mean| &mean.bytes, BYTES, voters.len() / 2).max(BYTES);
        // Of those that know.
        let known = |of: fn(&UsageEstimator) -> &AtomicU64| {
            let mut all: Vec<f64> = voters.iter().map(|mean| get(of(mean))).filter(|mean| *mean >= 0.0).collect();
            all.sort_unstable_by(f64::total_cmp);
            AtomicU64::new(all.get(all.len() / 2).copied().unwrap_or(UNKNOWN).to_bits())
        };
        UsageEstimator {
            output: AtomicU64::new(output.to_bits()),
            bytes: AtomicU64::new(bytes.to_bits()),
            hidden: known(|mean| &mean.hidden),
            thought: known(|mean| &mean.thought),
            pace: known(|mean| &mean.pace),
        }
    }
}

/// Moving averages of one key and model. Two workers that add at the same moment may lose one of the two.
#[derive(Debug)]
pub(super) struct UsageEstimator {
    /// Bits of floats.
    output: AtomicU64,
    bytes: AtomicU64,
    /// See [`Habit`]; [`UNKNOWN`] until an answer told it.
    hidden: AtomicU64,
    thought: AtomicU64,
    pace: AtomicU64,
}

/// The average of a value that no answer has shown yet.
const UNKNOWN: f64 = -1.0;

impl Default for UsageEstimator {
    fn default() -> Self {
        let [output, bytes, hidden, thought, pace] =
            [OUTPUT, BYTES, UNKNOWN, UNKNOWN, UNKNOWN].map(|mean| AtomicU64::new(mean.to_bits()));
        Self { output, bytes, hidden, thought, pace }
    }
}

impl UsageEstimator {
    /// What a request with a body of this size will use.
    pub(super) fn estimate(&self, body: Size) -> UsageEstimate {
        let input = (body.bytes as f64 / get(&self.bytes).max(0.1)).ceil() as u64;
        let output = get(&self.output).ceil() as u64;
        UsageEstimate { input: input.max(body.least()), output: output.max(LEAST_OUTPUT) }
    }

    /// What answers had of late.
    pub(super) fn habit(&self) -> Habit {
        let known = |mean| Some(get(mean)).filter(|mean| *mean >= 0.0).map(|mean| mean.ceil() as u64);
        let (hidden, thought, pace) = (known(&self.hidden), known(&self.thought), known(&self.pace));
        Habit { hidden: hidden.unwrap_or_default(), thought, pace }
    }

    /// What one answer had.
    pub(super) fn learn_habit(&self, Lesson { thinks, hidden, pace }: Lesson) {
        begin_or_add(if thinks { &self.thought } else { &self.hidden }, hidden as f64, THOUGHT as f64);
        if let Some(pace) = pace {
            begin_or_add(&self.pace, pace as f64, PACE as f64);
        }
    }

    /// What one used.
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

/// The first one is all that is known.
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

    /// A body of which all is an encoded file: its size alone says little.
    fn file(bytes: u64) -> Size {
        Size { bytes, encoded: bytes }
    }

    fn text(bytes: u64) -> Size {
        Size { bytes, encoded: 0 }
    }

    #[test]
    fn it_begins_high_and_follows() {
        let mean = UsageEstimator::default();
        assert_eq!(mean.estimate(text(400)).total(), 2100);
        for _ in 0..100 {
            mean.learn(1000, Some(500), Some(500));
        }
        let tokens = mean.estimate(text(1000)).total();
        assert!((1000..1010).contains(&tokens), "{tokens}");
        // What a provider does not tell changes nothing, and nothing is divided by zero.
        mean.learn(1000, Some(0), None);
        mean.learn(1000, None, None);
        assert_eq!(mean.estimate(text(1000)).total(), tokens);
    }

    #[test]
    fn tiny_requests_do_not_make_the_next_one_next_to_nothing() {
        let mean = UsageEstimator::default();
        for _ in 0..500 {
            // 300 bytes around a single word.
            mean.learn(300, Some(3), Some(1));
            // And the other way: 8 tokens that are none of the client's.
            mean.learn(17, Some(8), Some(1));
        }
        assert_eq!(mean.estimate(text(400_000)), UsageEstimate { input: 100_000, output: LEAST_OUTPUT });
        // An image of 3 MB has the input of an image.
        assert!(mean.estimate(file(3_000_000)).input < 50_000);
    }

    #[test]
    fn what_does_not_pass_as_text_is_learned_apart_from_what_does() {
        let lesson = |thinks, hidden, pace| Lesson { thinks, hidden, pace };
        let model = EstimatorsOfModel::default();
        assert_eq!(model.of_key(1).habit(), Habit::default());
        model.of_key(1).learn_habit(lesson(true, 10_000, Some(120)));
        assert_eq!(model.of_key(1).habit(), Habit { hidden: 0, thought: Some(10_000), pace: Some(120) });
        for _ in 0..50 {
            model.of_key(1).learn_habit(lesson(false, 0, None));
        }
        assert_eq!(model.of_key(1).habit(), Habit { hidden: 0, thought: Some(10_000), pace: Some(120) });
        // A new key begins with what others know, and one odd count does not carry it away.
        assert_eq!(model.of_key(2).habit(), Habit { hidden: 0, thought: Some(10_000), pace: Some(120) });
        model.of_key(3).learn_habit(lesson(true, 100_000_000, None));
        assert!(
            model.of_key(3).habit().thought.is_some_and(|thought| thought < 20_000),
            "{:?}",
            model.of_key(3).habit()
        );
        for _ in 0..30 {
            model.of_key(2).learn_habit(lesson(true, 500, Some(60)));
        }
        let habit = model.of_key(2).habit();
        assert!(habit.thought.is_some_and(|thought| (500..1000).contains(&thought)), "{habit:?}");
    }

    #[test]
    fn one_odd_count_does_not_carry_it_away() {
        let mean = UsageEstimator::default();
        mean.learn(1000, Some(250), Some(u64::MAX));
        assert!(mean.estimate(file(0)).output <= 4000, "{:?}", mean.estimate(file(0)));
        mean.learn(100_000_000, Some(1), None);
        assert!(mean.estimate(file(4000)).input >= 500, "{:?}", mean.estimate(file(4000)));
        // What is usual from now on is followed all the same.
        for _ in 0..60 {
            mean.learn(1_000_000, Some(1000), Some(60_000));
        }
        let estimate = mean.estimate(file(1_000_000));
        assert!((55_000..65_000).contains(&estimate.output) && (900..1200).contains(&estimate.input), "{estimate:?}");
    }

    #[test]
    fn keys_learn_apart_and_one_alone_tells_others_nothing() {
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
    fn a_new_key_is_expected_to_be_like_most_and_never_to_use_more_than_one_of_a_new_model() {
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
    fn keys_that_are_in_use_are_kept_and_the_others_do_not_pile_up() {
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
