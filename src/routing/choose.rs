//! Order of the candidates of one request.

use std::{cmp::Ordering, time::Duration};

use super::Route;
use crate::{
    concurrent::random_source::RandomSource,
    config::Strategy,
    domain::{health_state::HealthState, random::unit},
};

/// One way to serve a request: a target of the model and one credential of that upstream, with their state now.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Index into the route's targets.
    pub target: usize,
    /// Index of the upstream.
    pub upstream: usize,
    /// Index of the credential in the upstream.
    pub credential: usize,
    /// A number computed from the upstream's name.
    pub upstream_seed: u64,
    /// A number computed from the names of the upstream and of the credential's account.
    pub account_id: u64,
    /// Why the candidate cannot serve this request at all; none = the candidate can.
    pub exclusion: Option<ExclusionReason>,
    /// Health state of the upstream and the credential together.
    pub health_state: HealthState,
    /// Whether the candidate has reached its maximum number of requests in progress.
    pub full: bool,
    /// Requests in progress with this credential.
    pub in_flight: usize,
    /// Recent time to the first byte of the upstream; none where no request measured it yet.
    pub latency: Option<Duration>,
}

/// Why a candidate (target and credential) cannot serve a request, whatever its health state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExclusionReason {
    /// The client's key may not use the upstream.
    Key,
    /// The upstream does not have the requested surface.
    Surface,
    /// The body is larger than the upstream accepts: the largest accepted body, in bytes.
    TooLarge(u64),
}

/// The candidates (targets with a credential) of one request, in the order in which Tidegate attempts them.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The candidates in the order of the attempts.
    pub candidates: Vec<Candidate>,
    /// Every candidate is ejected. Tidegate tries them all the same: first the candidate that may work again soonest.
    pub last_resort: bool,
}

/// Sort key of a candidate; the least comes first. The fields are compared in this order.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rank {
    full: bool,
    priority: u32,
    score: f64,
    target: usize,
    account: f64,
    in_flight: usize,
    /// Distance from the candidate whose turn it is, among the candidates of its target.
    turn: usize,
}

/// Orders the candidates (targets with a credential) of a request for its attempts.
///
/// Candidates are ordered by priority, then by `route.strategy` within one priority, then by requests in progress within one
/// target.
///
/// A `preference` replaces randomness and load. It is one number for all requests that share a prompt cache. Each target and
/// each account gets a score from the preference and its own number, and the lowest score wins (rendezvous hashing). A new
/// credential therefore takes over only its share of the requests, and every replica chooses the same order.
///
/// Full candidates come after all others. Ejected candidates are left out, unless all candidates are ejected. `turn` grows by
/// one per request: candidates that are equal in everything else take turns.
pub fn choose(
    route: &Route<'_>,
    mut candidates: Vec<Candidate>,
    preference: Option<u64>,
    turn: usize,
    random: &RandomSource,
) -> Choice {
    candidates.retain(|candidate| candidate.exclusion.is_none());
    let last_resort = !candidates.iter().any(|candidate| candidate.health_state.is_usable());
    if !last_resort {
        candidates.retain(|candidate| candidate.health_state.is_usable());
    }
    if candidates.len() < 2 {
        return Choice { candidates, last_resort };
    }
    let scores = scores(route, &candidates, preference, random);
    // Turns are counted among the remaining candidates of the target. Otherwise the candidate after an ejected one would get the
    // turns of both.
    let turn_distance = |index: usize, candidate: &Candidate| {
        let same_target = |other: &&Candidate| other.target == candidate.target;
        let before = candidates.iter().take(index).filter(same_target).count();
        let all = candidates.iter().filter(same_target).count().max(1);
        (before + all - turn % all) % all
    };
    let rank = |index: usize, candidate: &Candidate| Rank {
        full: candidate.full,
        priority: route.targets.get(candidate.target).map_or(u32::MAX, |target| target.priority),
        score: scores.iter().find(|score| score.target == candidate.target).map_or(0.0, |score| score.score),
        target: candidate.target,
        account: preference.map_or(0.0, |preference| unit(preference ^ candidate.account_id)),
        in_flight: candidate.in_flight,
        turn: turn_distance(index, candidate),
    };
    let ranks: Vec<Rank> = candidates.iter().enumerate().map(|(index, candidate)| rank(index, candidate)).collect();
    let mut ranked: Vec<(Rank, Candidate)> = ranks.into_iter().zip(candidates).collect();
    ranked.sort_by(|(one, a), (other, b)| {
        let health_state = if last_resort { a.health_state.badness(&b.health_state) } else { Ordering::Equal };
        health_state.then_with(|| one.order(other))
    });
    Choice { candidates: ranked.into_iter().map(|(_, candidate)| candidate).collect(), last_resort }
}

impl Rank {
    fn order(&self, other: &Self) -> Ordering {
        (self.full.cmp(&other.full))
            .then(self.priority.cmp(&other.priority))
            .then(self.score.total_cmp(&other.score))
            .then(self.target.cmp(&other.target))
            .then(self.account.total_cmp(&other.account))
            .then(self.in_flight.cmp(&other.in_flight))
            .then(self.turn.cmp(&other.turn))
    }
}

/// Score of a target among the targets of its priority; the lowest comes first.
#[derive(Clone, Copy, Debug)]
struct Score {
    target: usize,
    priority: u32,
    score: f64,
    latency: Option<Duration>,
}

/// The score of each target that has a candidate: `-ln(u) / weight`, with a random `u`. Each target then has the lowest score in
/// proportion to its weight. The same is true for the remaining targets, as if targets were drawn one after the other.
fn scores(route: &Route<'_>, candidates: &[Candidate], preference: Option<u64>, random: &RandomSource) -> Vec<Score> {
    let mut scores: Vec<Score> = Vec::with_capacity(route.targets.len());
    for candidate in candidates {
        if scores.iter().any(|score| score.target == candidate.target) {
            continue;
        }
        let Some(target) = route.targets.get(candidate.target) else { continue };
        let draw = match preference {
            None => random.draw(),
            // Each further model at the same upstream gets its own draw. With a shared draw, the target with more weight would
            // always win.
            Some(preference) => {
                let before = route.targets.iter().take(candidate.target);
                let nth = before.filter(|other| other.upstream == target.upstream).count() as u64;
                unit((preference ^ candidate.upstream_seed).wrapping_add(nth))
            }
        };
        scores.push(Score {
            target: candidate.target,
            priority: target.priority,
            score: -draw.ln() / f64::from(target.weight.max(1)),
            latency: candidate.latency,
        });
    }
    if route.strategy == Strategy::LeastLatency && preference.is_none() {
        faster_first(&mut scores);
    }
    scores
}

/// In each priority, compares the first two targets of the random draw, and puts the faster one first. Always choosing the
/// fastest target would send all requests to it. A target without a measured latency counts as the fastest, so that requests
/// measure it.
fn faster_first(scores: &mut [Score]) {
    scores.sort_by(|a, b| a.priority.cmp(&b.priority).then(a.score.total_cmp(&b.score)));
    for group in scores.chunk_by_mut(|a, b| a.priority == b.priority) {
        if let [first, second, ..] = group
            && second.latency.unwrap_or_default() < first.latency.unwrap_or_default()
        {
            std::mem::swap(&mut first.score, &mut second.score);
        }
    }
}

#[cfg(test)]
mod tests;
