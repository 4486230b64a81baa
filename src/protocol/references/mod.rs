//! References to objects that a provider stores, in requests and in answers.
//!
//! Both are found while the bytes pass, by one scan ([`Scanner`](super::json::Scanner)) with a table of names for each.

pub mod answer;
mod collect;
mod cuts;
mod documented;
mod finder;
mod grammar;
mod ids;
mod open;
pub mod query;
pub mod request;
mod whole;

#[cfg(test)]
pub(super) mod tests;
