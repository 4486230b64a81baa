//! What a request will use, before anybody knows: from what the last ones of its model did.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::usage::Estimate;

/// Output tokens of a model that was never seen. Never the request's own `max_output_tokens`: clients write down what they
/// could bear, not what they expect.
const OUTPUT: f64 = 2000.0;

/// Bytes of a request for one token of its input: what English in JSON comes to. Images move it for their model.
const BYTES: f64 = 4.0;

/// The newest request counts this much.
const SHARE: f64 = 0.1;

/// One request counts as so many times what was expected, at most: that it was odd shall not be paid for by the next ones. What
/// is usual from now on is followed within some ten requests all the same.
const LEAP: f64 = 8.0;

/// Moving averages of one model. Two workers that add at the same moment may lose one of the two.
#[derive(Debug)]
pub(super) struct Mean {
    /// Bits of floats.
    output: AtomicU64,
    bytes: AtomicU64,
}

impl Default for Mean {
    fn default() -> Self {
        Self { output: AtomicU64::new(OUTPUT.to_bits()), bytes: AtomicU64::new(BYTES.to_bits()) }
    }
}

impl Mean {
    /// What a request with a body of so many bytes will use.
    pub(super) fn estimate(&self, body: u64) -> Estimate {
        let input = body as f64 / get(&self.bytes).max(0.1);
        Estimate { input: input.ceil() as u64, output: get(&self.output).ceil().max(1.0) as u64 }
    }

    /// What one used.
    pub(super) fn learn(&self, body: u64, input: Option<u64>, output: Option<u64>) {
        if let Some(output) = output {
            add(&self.output, output as f64, OUTPUT);
        }
        if let Some(input) = input.filter(|input| *input > 0) {
            add(&self.bytes, body as f64 / input as f64, BYTES);
        }
    }
}

fn get(mean: &AtomicU64) -> f64 {
    f64::from_bits(mean.load(Ordering::Relaxed))
}

fn add(mean: &AtomicU64, newest: f64, usual: f64) {
    let before = get(mean);
    let newest = newest.min(before.max(usual) * LEAP);
    mean.store((before + (newest - before) * SHARE).to_bits(), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_high_and_follows() {
        let mean = Mean::default();
        assert_eq!(mean.estimate(400).total(), 2100);
        for _ in 0..100 {
            mean.learn(1000, Some(500), Some(50));
        }
        let tokens = mean.estimate(1000).total();
        assert!((545..560).contains(&tokens), "{tokens}");
        // What a provider does not tell changes nothing, and nothing is divided by zero.
        mean.learn(1000, Some(0), None);
        mean.learn(1000, None, None);
        assert_eq!(mean.estimate(1000).total(), tokens);
    }

    #[test]
    fn one_odd_count_does_not_carry_it_away() {
        let mean = Mean::default();
        mean.learn(1000, Some(250), Some(u64::MAX));
        assert!(mean.estimate(0).output <= 4000, "{:?}", mean.estimate(0));
        mean.learn(100_000_000, Some(1), None);
        assert!(mean.estimate(4000).input >= 500, "{:?}", mean.estimate(4000));
        // What is usual from now on is followed all the same.
        for _ in 0..60 {
            mean.learn(1_000_000, Some(1000), Some(60_000));
        }
        let estimate = mean.estimate(1_000_000);
        assert!((55_000..65_000).contains(&estimate.output) && (900..1200).contains(&estimate.input), "{estimate:?}");
    }
}
