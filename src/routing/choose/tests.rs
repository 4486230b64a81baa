use std::{borrow::Cow, collections::HashMap};

use proptest::{prelude::*, strategy::Strategy as Plan};

use super::{Strategy, *};
use crate::{
    config::OnLostState,
    domain::{health_state::EjectionCause, random::seed},
    routing::Target,
};

fn target(upstream: usize, priority: u32, weight: u32) -> Target {
    Target { upstream, model: None, priority, weight }
}

fn route(strategy: Strategy, targets: &[Target]) -> Route<'static> {
    Route {
        model: None,
        strategy,
        on_lost_state: OnLostState::Fail,
        require_usage: false,
        targets: Cow::Owned(targets.to_vec()),
    }
}

/// A candidate in service.
fn candidate(target: usize, upstream: usize, credential: usize) -> Candidate {
    Candidate {
        target,
        upstream,
        credential,
        upstream_seed: seed(&["upstream", &upstream.to_string()]),
        account_id: seed(&["upstream", &upstream.to_string(), &credential.to_string()]),
        exclusion: None,
        health_state: HealthState::InService,
        full: false,
        in_flight: 0,
        latency: None,
    }
}

/// All candidates of a route. `credentials` gives the number of credentials of an upstream.
fn all(route: &Route<'_>, credentials: impl Fn(usize) -> usize) -> Vec<Candidate> {
    let of = |(index, target): (usize, &Target)| {
        let upstream = target.upstream;
        (0..credentials(upstream)).map(move |credential| candidate(index, upstream, credential)).collect::<Vec<_>>()
    };
    route.targets.iter().enumerate().flat_map(of).collect()
}

fn ids(choice: &Choice) -> Vec<(usize, usize)> {
    choice.candidates.iter().map(|candidate| (candidate.target, candidate.credential)).collect()
}

fn out(cause: EjectionCause, seconds: u64) -> HealthState {
    HealthState::Out { cause, left: Duration::from_secs(seconds) }
}

/// The share of requests for which each target comes first. With `sticky`, each request has its own preference.
fn firsts(route: &Route<'_>, candidates: &[Candidate], sticky: bool, times: u64) -> Vec<f64> {
    let random = RandomSource::seeded(11);
    let mut counts = vec![0_u32; route.targets.len()];
    for nth in 0..times {
        let preference = sticky.then(|| seed(&["key", &nth.to_string()]));
        let choice = choose(route, candidates.to_vec(), preference, nth as usize, &random);
        counts[choice.candidates[0].target] += 1;
    }
    counts.iter().map(|count| f64::from(*count) / times as f64).collect()
}

#[track_caller]
fn assert_shares(found: &[f64], weights: &[u32]) {
    let sum: u32 = weights.iter().sum();
    for (share, weight) in found.iter().zip(weights) {
        let expected = f64::from(*weight) / f64::from(sum);
        // Six standard deviations at 20,000 draws.
        let bound = 6.0 * (expected * (1.0 - expected) / 20_000.0).sqrt();
        assert!((share - expected).abs() <= bound, "{found:?} for {weights:?}");
    }
}

#[test]
fn shares_follow_the_weights_with_and_without_a_preference() {
    for weights in [[1, 1, 1], [1, 2, 7], [100, 1, 1], [5, 5, 90]] {
        let targets: Vec<_> = weights.iter().enumerate().map(|(index, weight)| target(index, 1, *weight)).collect();
        let route = route(Strategy::Weighted, &targets);
        for sticky in [false, true] {
            assert_shares(&firsts(&route, &all(&route, |_| 2), sticky, 20_000), &weights);
        }
    }
}

/// Two models at one upstream are two targets.
#[test]
fn shares_follow_the_weights_for_two_models_at_one_upstream() {
    let targets = [target(0, 1, 1), target(0, 1, 3), target(1, 1, 4)];
    let route = route(Strategy::Weighted, &targets);
    for sticky in [false, true] {
        assert_shares(&firsts(&route, &all(&route, |_| 1), sticky, 20_000), &[1, 3, 4]);
    }
}

#[test]
fn the_shares_of_the_remaining_targets_keep_their_proportion() {
    let targets = [target(0, 1, 1), target(1, 1, 2), target(2, 1, 3)];
    let route = route(Strategy::Weighted, &targets);
    let mut candidates = all(&route, |_| 1);
    candidates[2].health_state = out(EjectionCause::Faults, 3);
    for sticky in [false, true] {
        assert_shares(&firsts(&route, &candidates, sticky, 20_000), &[1, 2, 0]);
    }
}

#[test]
fn equal_credentials_take_turns() {
    let random = RandomSource::seeded(1);
    // One upstream has two credentials, the other has three, and one of the three is ejected.
    let route = route(Strategy::Ordered, &[target(0, 1, 1), target(1, 2, 1)]);
    let mut candidates = all(&route, |upstream| 2 + upstream);
    candidates[3].health_state = out(EjectionCause::Faults, 3);
    let mut counts: HashMap<_, u32> = HashMap::new();
    for turn in 0..600 {
        let choice = choose(&route, candidates.clone(), None, turn, &random);
        let ids = ids(&choice);
        *counts.entry(ids[0]).or_default() += 1;
        *counts.entry(ids[2]).or_default() += 1;
    }
    assert_eq!(counts, HashMap::from([((0, 0), 300), ((0, 1), 300), ((1, 0), 300), ((1, 2), 300)]));
}

#[test]
fn the_least_busy_credential_comes_first() {
    let route = route(Strategy::Ordered, &[target(0, 1, 1)]);
    let mut candidates = all(&route, |_| 4);
    for (candidate, in_flight) in candidates.iter_mut().zip([3, 1, 2, 0]) {
        candidate.in_flight = in_flight;
    }
    for turn in 0..8 {
        let choice = choose(&route, candidates.clone(), None, turn, &RandomSource::seeded(1));
        assert_eq!(ids(&choice), [(0, 3), (0, 1), (0, 2), (0, 0)]);
    }
}

#[test]
fn a_preference_ignores_turn_dice_and_load() {
    let route = route(Strategy::Weighted, &[target(0, 1, 1), target(1, 1, 2), target(2, 2, 1)]);
    for key in 0..50 {
        let preference = Some(seed(&["key", &key.to_string()]));
        let mut candidates = all(&route, |_| 4);
        let expected = ids(&choose(&route, candidates.clone(), preference, 0, &RandomSource::seeded(0)));
        for turn in 1..20 {
            for (nth, candidate) in candidates.iter_mut().enumerate() {
                candidate.in_flight = (nth * turn) % 7;
                candidate.latency = Some(Duration::from_millis((nth * turn) as u64 % 5));
            }
            let choice = choose(&route, candidates.clone(), preference, turn, &RandomSource::seeded(turn as u64));
            assert_eq!(ids(&choice), expected);
        }
    }
}

/// A new credential takes an equal part from each other credential, and no other request changes its credential.
#[test]
fn a_new_credential_takes_only_its_share() {
    const KEYS: u64 = 10_000;
    let route = route(Strategy::Ordered, &[target(0, 1, 1)]);
    let first = |credentials, key: u64| {
        let preference = Some(seed(&["key", &key.to_string()]));
        choose(&route, all(&route, |_| credentials), preference, 0, &RandomSource::seeded(0)).candidates[0].credential
    };
    for credentials in 1..6 {
        let mut moved = vec![0_u32; credentials];
        for key in 0..KEYS {
            let (before, after) = (first(credentials, key), first(credentials + 1, key));
            if before != after {
                assert_eq!(after, credentials, "a request moved between old credentials");
                moved[before] += 1;
            }
        }
        let share = 1.0 / (credentials + 1) as f64;
        let found = f64::from(moved.iter().sum::<u32>()) / KEYS as f64;
        assert!((found - share).abs() < 6.0 * (share * (1.0 - share) / KEYS as f64).sqrt(), "{found} for {share}");
        for from in moved {
            let part = f64::from(from) / KEYS as f64 * credentials as f64;
            assert!((part - share).abs() < share * 0.2, "{part} of {share}");
        }
    }
}

/// When a target is ejected, its requests spread over the other targets, and no other request moves.
#[test]
fn an_ejected_target_does_not_move_requests_of_other_targets() {
    let route = route(Strategy::Weighted, &[target(0, 1, 1), target(1, 1, 2), target(2, 1, 1)]);
    let mut to = [0, 0];
    for key in 0..5000_u64 {
        let preference = Some(seed(&["key", &key.to_string()]));
        let candidates = all(&route, |_| 1);
        let order = ids(&choose(&route, candidates.clone(), preference, 0, &RandomSource::seeded(0)));
        let mut fewer = candidates;
        fewer[2].health_state = out(EjectionCause::Faults, 1);
        let left = ids(&choose(&route, fewer, preference, 0, &RandomSource::seeded(0)));
        let without: Vec<_> = order.iter().copied().filter(|(target, _)| *target != 2).collect();
        assert_eq!(left, without);
        if order[0].0 == 2 {
            to[left[0].0] += 1;
        }
    }
    let share = f64::from(to[1]) / f64::from(to[0] + to[1]);
    assert!((share - 2.0 / 3.0).abs() < 0.08, "{to:?}");
}

#[test]
fn the_faster_of_two_targets_is_preferred_and_an_unmeasured_one_is_tried() {
    let (fast, slow) = (Some(Duration::from_millis(10)), Some(Duration::from_secs(2)));
    let two = route(Strategy::LeastLatency, &[target(0, 1, 1), target(1, 1, 1)]);
    let mut candidates = all(&two, |_| 1);
    (candidates[0].latency, candidates[1].latency) = (slow, fast);
    assert_eq!(firsts(&two, &candidates, false, 500), [0.0, 1.0]);
    candidates[1].latency = None;
    assert_eq!(firsts(&two, &candidates, false, 500), [0.0, 1.0]);
    (candidates[0].latency, candidates[1].latency) = (None, None);
    assert!(firsts(&two, &candidates, false, 500).iter().all(|share| *share > 0.4));

    // Of three targets, the slowest is never tried first. The middle one is first where the fastest was not drawn: in a third.
    let three = route(Strategy::LeastLatency, &[target(0, 1, 1), target(1, 1, 1), target(2, 1, 1)]);
    let mut candidates = all(&three, |_| 1);
    for (candidate, millis) in candidates.iter_mut().zip([30, 10, 20]) {
        candidate.latency = Some(Duration::from_millis(millis));
    }
    assert_shares(&firsts(&three, &candidates, false, 20_000), &[0, 2, 1]);
    // A preference ignores the latency.
    assert_shares(&firsts(&three, &candidates, true, 20_000), &[1, 1, 1]);
}

#[test]
fn priority_comes_before_latency() {
    let route = route(Strategy::LeastLatency, &[target(0, 2, 9), target(1, 1, 1), target(2, 1, 1)]);
    let mut candidates = all(&route, |_| 1);
    candidates[0].latency = Some(Duration::from_millis(1));
    candidates[1].latency = Some(Duration::from_secs(1));
    candidates[2].latency = Some(Duration::from_secs(9));
    let choice = choose(&route, candidates, None, 0, &RandomSource::seeded(5));
    assert_eq!(ids(&choice), [(1, 0), (2, 0), (0, 0)]);
}

#[test]
fn if_all_are_ejected_the_shortest_cooldown_comes_first_and_the_refused_last() {
    let route = route(Strategy::Ordered, &[target(0, 1, 1), target(1, 2, 1), target(2, 3, 1), target(3, 4, 1)]);
    let mut candidates = all(&route, |_| 1);
    let states = [
        out(EjectionCause::Refused, 1),
        out(EjectionCause::Faults, 30),
        out(EjectionCause::RateLimited, 2),
        out(EjectionCause::Faults, 0),
    ];
    for (candidate, state) in candidates.iter_mut().zip(states) {
        candidate.health_state = state;
    }
    for preference in [None, Some(1), Some(2)] {
        let choice = choose(&route, candidates.clone(), preference, 3, &RandomSource::seeded(5));
        assert!(choice.last_resort);
        assert_eq!(ids(&choice), [(3, 0), (2, 0), (1, 0), (0, 0)]);
    }
    // An excluded candidate is excluded also in the last resort.
    candidates[3].exclusion = Some(ExclusionReason::Key);
    candidates[2].exclusion = Some(ExclusionReason::TooLarge(5));
    assert_eq!(ids(&choose(&route, candidates, None, 0, &RandomSource::seeded(5))), [(1, 0), (0, 0)]);
}

fn health_state() -> impl Plan<Value = HealthState> {
    prop_oneof![
        3 => Just(HealthState::InService),
        1 => Just(HealthState::Probation(EjectionCause::Faults)),
        2 => (0_usize..3, 0_u64..60).prop_map(|(cause, left)| out(EjectionCause::ALL[cause], left)),
    ]
}

/// A route, its candidates in any state, a preference, a turn and a seed for the random.
fn routing_input() -> impl Plan<Value = (Route<'static>, Vec<Candidate>, Option<u64>, usize, u64)> {
    let strategy = prop_oneof![Just(Strategy::Ordered), Just(Strategy::Weighted), Just(Strategy::LeastLatency)];
    let targets = prop::collection::vec((0_usize..3, 1_u32..4, 1_u32..20), 1..5);
    (strategy, targets, 1_usize..4, any::<u64>(), prop::option::of(any::<u64>()), any::<usize>()).prop_flat_map(
        |(strategy, targets, credentials, random, preference, turn)| {
            let targets: Vec<_> =
                targets.into_iter().map(|(at, priority, weight)| target(at, priority, weight)).collect();
            let route = route(strategy, &targets);
            let candidates = all(&route, |_| credentials);
            let states = prop::collection::vec(
                (
                    health_state(),
                    prop::bool::weighted(0.15),
                    prop::bool::weighted(0.2),
                    0_usize..5,
                    prop::option::of(0_u64..100),
                ),
                candidates.len(),
            );
            (Just(route), Just(candidates), states, Just(preference), Just(turn), Just(random)).prop_map(
                |(route, mut candidates, states, preference, turn, random)| {
                    for (candidate, (state, is_excluded, full, in_flight, latency)) in candidates.iter_mut().zip(states)
                    {
                        candidate.health_state = state;
                        candidate.exclusion = is_excluded.then_some(ExclusionReason::Key);
                        candidate.full = full;
                        candidate.in_flight = in_flight;
                        candidate.latency = latency.map(Duration::from_millis);
                    }
                    (route, candidates, preference, turn, random)
                },
            )
        },
    )
}

proptest! {
    #[test]
    fn any_order_of_events_keeps_the_rules((route, candidates, preference, turn, random) in routing_input()) {
        let choice = choose(&route, candidates.clone(), preference, turn, &RandomSource::seeded(random));
        let allowed: Vec<_> = candidates.iter().filter(|candidate| candidate.exclusion.is_none()).collect();
        let usable: Vec<_> = allowed.iter().filter(|candidate| candidate.health_state.is_usable()).collect();
        prop_assert_eq!(choice.last_resort, usable.is_empty());

        // Every candidate that may be tried occurs once, and no other candidate occurs.
        let expected = if usable.is_empty() { allowed.len() } else { usable.len() };
        let mut found = ids(&choice);
        found.sort_unstable();
        found.dedup();
        prop_assert_eq!((found.len(), choice.candidates.len()), (expected, expected));
        prop_assert!(choice.candidates.iter().all(|one| one.exclusion.is_none()));
        prop_assert!(choice.last_resort || choice.candidates.iter().all(|one| one.health_state.is_usable()));

        let priority = |one: &Candidate| route.targets[one.target].priority;
        for (one, next) in choice.candidates.iter().zip(choice.candidates.iter().skip(1)) {
            if choice.last_resort {
                prop_assert!(one.health_state.badness(&next.health_state) != Ordering::Greater);
                continue;
            }
            prop_assert!(one.full <= next.full, "a full candidate before one that is not full");
            if one.full == next.full {
                prop_assert!(priority(one) <= priority(next), "a lower priority before a higher one");
                if one.target == next.target && preference.is_none() {
                    prop_assert!(one.in_flight <= next.in_flight, "the busier credential first");
                }
            }
        }
        // The same random give the same order.
        prop_assert_eq!(ids(&choice), ids(&choose(&route, candidates, preference, turn, &RandomSource::seeded(random))));
    }
}
