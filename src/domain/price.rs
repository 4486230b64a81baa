//! What an upstream bills for a model.

use std::fmt;

use super::{
    money::{Currency, MOST, decimal},
    usage::Usage,
};

/// Tokens that prices are per.
const PER: u128 = 1_000_000;

/// Nano-units per million tokens of each kind, and per request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Price {
    /// Of what.
    pub currency: Currency,
    /// Input tokens that no cache had.
    pub input: u64,
    /// Input tokens from a cache.
    pub cached: u64,
    /// Output tokens that the client sees.
    pub output: u64,
    /// Reasoning tokens, which are a part of the output.
    pub reasoning: u64,
    /// Each request.
    pub per_call: u64,
}

impl fmt::Display for Price {
    /// For people: `CNY 1 in, 0.5 cached, 2 out, 3 reasoning a million; 0 a request`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { currency, input, cached, output, reasoning, per_call } = *self;
        let [input, cached, output, reasoning, per_call] = [input, cached, output, reasoning, per_call].map(decimal);
        let name = currency.name();
        write!(
            f,
            "{name} {input} in, {cached} cached, {output} out, {reasoning} reasoning a million; {per_call} a request"
        )
    }
}

impl Price {
    /// Whether tokens cost anything, beside the request itself.
    pub fn counts_tokens(&self) -> bool {
        [self.input, self.cached, self.output, self.reasoning].iter().any(|price| *price > 0)
    }

    /// What these tokens cost, in nano-units, rounded to the nearest; [`MOST`] for more than that. A count that is larger
    /// than the one it is part of is as large as that.
    pub fn cost(&self, usage: &Usage) -> u64 {
        let (input, output) = (usage.input.unwrap_or_default(), usage.output.unwrap_or_default());
        let cached = usage.cached.unwrap_or_default().min(input);
        let reasoning = usage.reasoning.unwrap_or_default().min(output);
        let parts = [
            (input - cached, self.input),
            (cached, self.cached),
            (output - reasoning, self.output),
            (reasoning, self.reasoning),
        ];
        // Each product is below 2^128 / 4 only by what amounts can be: saturate in place of trusting that.
        let tokens = parts.into_iter().fold(0u128, |sum, (tokens, price)| {
            sum.saturating_add(u128::from(tokens).saturating_mul(u128::from(price)))
        });
        let cost = (tokens.saturating_add(PER / 2) / PER).saturating_add(u128::from(self.per_call));
        u64::try_from(cost).unwrap_or(MOST).min(MOST)
    }
}
