//! The order in which the candidates of one request are asked.

use std::{cmp::Ordering, time::Duration};

use super::Route;
use crate::{
    config::Strategy,
    domain::{
        chance::{Dice, unit},
        standing::HealthState,
    },
};

/// One way to serve a request: a target of its model with one of the credentials there, as they stand now.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Index into the route's targets.
    pub target: usize,
    /// Index of the upstream.
    pub upstream: usize,
    /// Index of the credential there.
    pub credential: usize,
    /// A number that belongs to the upstream.
    pub home: u64,
    /// A number that belongs to the credential's account.
    pub seat: u64,
    /// Why it cannot serve this request at all.
    pub bar: Option<ExclusionReason>,
    /// Whether it may be asked.
    pub standing: HealthState,
    /// Whether it has as many requests as it may have.
    pub full: bool,
    /// Requests under way with this credential.
    pub in_flight: usize,
    /// The time to the upstream's first byte of late; none where that is not known.
    pub latency: Option<Duration>,
}

/// Why a candidate cannot serve a request, however it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExclusionReason {
    /// The caller's key may not use the upstream.
    Key,
    /// The upstream does not have the part of the API that is asked for.
    Surface,
    /// The upstream takes bodies of so many bytes at most.
    TooLarge(u64),
}

/// Who is asked, in order.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The first is asked first.
    pub candidates: Vec<Candidate>,
    /// Every candidate is passed by: they are asked all the same, the one that may be back soonest first.
    pub last_resort: bool,
}

/// Where a candidate stands among the others; less comes first.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rank {
    full: bool,
    priority: u32,
    score: f64,
    target: usize,
    account: f64,
    in_flight: usize,
    turn: usize,
}

/// Orders `candidates`.
///
/// By priority; targets of one priority by `route.strategy`; the credentials of a target by their requests under way.
/// A `preference` (a number that belongs to requests which profit from one account's prompt cache) takes the place of
/// chance and of counting: each target and account gets a score from it and its own number alone, and the lowest wins
/// (rendezvous hashing). So a credential that is added takes over only its share, and every replica chooses alike.
///
/// Who has no room comes after all who have. Who is passed by is left out, unless there is nobody else. `turn` goes up
/// by one a request: what is equal in everything takes turns.
pub fn choose(
    route: &Route<'_>,
    mut candidates: Vec<Candidate>,
    preference: Option<u64>,
    turn: usize,
    dice: &Dice,
) -> Choice {
    candidates.retain(|candidate| candidate.bar.is_none());
    let last_resort = !candidates.iter().any(|candidate| candidate.standing.is_usable());
    if !last_resort {
        candidates.retain(|candidate| candidate.standing.is_usable());
    }
    if candidates.len() < 2 {
        return Choice { candidates, last_resort };
    }
    let scores = scores(route, &candidates, preference, dice);
    // Among those of its target that are left, so that who is left out does not leave its turn to its neighbour.
    let turns = |nth: usize, candidate: &Candidate| {
        let same = |other: &&Candidate| other.target == candidate.target;
        let before = candidates.iter().take(nth).filter(same).count();
        let all = candidates.iter().filter(same).count().max(1);
        (before + all - turn % all) % all
    };
    let rank = |nth: usize, candidate: &Candidate| Rank {
        full: candidate.full,
        priority: route.targets.get(candidate.target).map_or(u32::MAX, |target| target.priority),
        score: scores.iter().find(|score| score.target == candidate.target).map_or(0.0, |score| score.score),
        target: candidate.target,
        account: preference.map_or(0.0, |preference| unit(preference ^ candidate.seat)),
        in_flight: candidate.in_flight,
        turn: turns(nth, candidate),
    };
    let ranks: Vec<Rank> = candidates.iter().enumerate().map(|(nth, candidate)| rank(nth, candidate)).collect();
    let mut ranked: Vec<(Rank, Candidate)> = ranks.into_iter().zip(candidates).collect();
    ranked.sort_by(|(one, a), (other, b)| {
        let standing = if last_resort { a.standing.badness(&b.standing) } else { Ordering::Equal };
        standing.then_with(|| one.order(other))
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

/// Where a target stands among those of its priority; less comes first.
#[derive(Clone, Copy, Debug)]
struct Score {
    target: usize,
    priority: u32,
    score: f64,
    latency: Option<Duration>,
}

/// The score of each target that has a candidate. With `-ln(u) / weight` the lowest of several belongs to each in
/// proportion to its weight, and so on for the rest: as if they were drawn one after the other.
fn scores(route: &Route<'_>, candidates: &[Candidate], preference: Option<u64>, dice: &Dice) -> Vec<Score> {
    let mut scores: Vec<Score> = Vec::with_capacity(route.targets.len());
    for candidate in candidates {
        if scores.iter().any(|score| score.target == candidate.target) {
            continue;
        }
        let Some(target) = route.targets.get(candidate.target) else { continue };
        let draw = match preference {
            None => dice.draw(),
            // Another model at the same upstream draws for itself, or the one with more weight would win them all.
            Some(preference) => {
                let before = route.targets.iter().take(candidate.target);
                let nth = before.filter(|other| other.upstream == target.upstream).count() as u64;
                unit((preference ^ candidate.home).wrapping_add(nth))
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

/// Of the two that were drawn first, in each priority, the faster goes first: better than always the fastest, on which
/// everybody would fall. One that was never asked counts as the fastest, or it would never be known.
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
