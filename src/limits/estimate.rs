//! What a request will use, before anybody knows: from what the last ones of its model did.

use std::sync::atomic::{AtomicU64, Ordering};

/// Output tokens of a model that was never seen. Never the request's own `max_output_tokens`: clients write down what they
/// could bear, not what they expect.
const OUTPUT: f64 = 2000.0;

/// Bytes of a request for one token of its input: what English in JSON comes to. Images move it for their model.
const BYTES: f64 = 4.0;

/// The newest request counts this much.
const SHARE: f64 = 0.1;

/// Moving averages of one model. Two workers that add at the same moment may lose one of the two.
#[derive(Debug)]
pub(super) struct Estimate {
    /// Bits of floats.
    output: AtomicU64,
    bytes: AtomicU64,
}

impl Default for Estimate {
    fn default() -> Self {
        Self { output: AtomicU64::new(OUTPUT.to_bits()), bytes: AtomicU64::new(BYTES.to_bits()) }
    }
}

impl Estimate {
    /// Tokens that a request with a body of so many bytes will use.
    pub(super) fn tokens(&self, body: u64) -> u64 {
        let input = body as f64 / get(&self.bytes).max(0.1);
        (input + get(&self.output)).ceil().max(1.0) as u64
    }

    /// What one used.
    pub(super) fn learn(&self, body: u64, input: Option<u64>, output: Option<u64>) {
        if let Some(output) = output {
            add(&self.output, output as f64);
        }
        if let Some(input) = input.filter(|input| *input > 0) {
            add(&self.bytes, body as f64 / input as f64);
        }
    }
}

fn get(mean: &AtomicU64) -> f64 {
    f64::from_bits(mean.load(Ordering::Relaxed))
}

fn add(mean: &AtomicU64, newest: f64) {
    let before = get(mean);
    mean.store((before + (newest - before) * SHARE).to_bits(), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_high_and_follows() {
        let estimate = Estimate::default();
        assert_eq!(estimate.tokens(400), 2100);
        for _ in 0..100 {
            estimate.learn(1000, Some(500), Some(50));
        }
        let tokens = estimate.tokens(1000);
        assert!((545..560).contains(&tokens), "{tokens}");
        // What a provider does not tell changes nothing, and nothing is divided by zero.
        estimate.learn(1000, Some(0), None);
        estimate.learn(1000, None, None);
        assert_eq!(estimate.tokens(1000), tokens);
    }
}
