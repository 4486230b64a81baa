use std::sync::{
    Barrier,
    atomic::{AtomicBool, AtomicU32},
};

use super::*;
use crate::{
    concurrent::random_source::RandomSource,
    config::{self, Config, Source},
    domain::health_state::HealthState,
    metrics::Metrics,
    upstream::Pools,
};

const ANYBODY: AttemptContext<'static> = AttemptContext { key: 1, model: "m", given: ReportedVerdicts::NOTHING };

/// An upstream with so many credentials, all with the same limit.
fn upstream(credentials: usize, change: impl Fn(&mut config::Upstream)) -> (Arc<Upstream>, Metrics) {
    let env = |name: &str| (name == "DMXAPI_API_KEY").then(|| "sk-test-0123456789".into());
    let Config { upstreams, health, .. } = config::load(&Source::BuiltIn, &env).unwrap().config;
    let mut config = upstreams.into_iter().next().unwrap();
    let first = config.credentials[0].clone();
    config.credentials =
        (0..credentials).map(|nth| config::Credential { name: format!("key-{nth}").into(), ..first.clone() }).collect();
    change(&mut config);
    let mut whole = config::load(&Source::BuiltIn, &env).unwrap().config;
    whole.upstreams = vec![config.clone()];
    let metrics = Metrics::default();
    let pools = Pools::new(&whole, None, &metrics, Instant::now());
    let pool = Arc::clone(pools.iter().next().unwrap());
    (Arc::new(Upstream::new(config, health, pool, Arc::new(RandomSource::seeded(1))).unwrap()), metrics)
}

fn count(upstream: &Upstream) -> (usize, Vec<usize>) {
    let each = upstream.pool.credentials.iter().map(|account| account.in_flight.load(Ordering::Relaxed));
    (upstream.pool.in_flight(), each.collect())
}

#[test]
fn a_lease_takes_a_slot_and_its_drop_releases_the_slot() {
    let (upstream, _) = upstream(2, |config| {
        config.max_in_flight = Some(3);
        config.credentials[0].max_in_flight = Some(1);
    });
    let first = upstream.lease(0, &ANYBODY, false).unwrap();
    assert_eq!(upstream.lease(0, &ANYBODY, false).unwrap_err(), SlotUnavailable::Full);
    assert_eq!(count(&upstream), (1, vec![1, 0]), "a place that was not given is held");
    let others = [upstream.lease(1, &ANYBODY, false).unwrap(), upstream.lease(1, &ANYBODY, true).unwrap()];
    assert_eq!(upstream.lease(1, &ANYBODY, true).unwrap_err(), SlotUnavailable::Full);
    assert_eq!(count(&upstream), (3, vec![1, 2]));
    drop(first);
    assert!(upstream.lease(0, &ANYBODY, false).is_ok());
    drop(others);
    assert_eq!(count(&upstream), (0, vec![0, 0]));
    assert_eq!(upstream.lease(2, &ANYBODY, true).unwrap_err(), SlotUnavailable::Ejected, "there is no such credential");
}

#[test]
fn a_panic_releases_the_slot() {
    let (upstream, _) = upstream(1, |config| config.max_in_flight = Some(1));
    let inner = Arc::clone(&upstream);
    let ended = std::thread::spawn(move || {
        let _lease = inner.lease(0, &ANYBODY, false).unwrap();
        panic!("on purpose");
    });
    ended.join().unwrap_err();
    assert_eq!(count(&upstream), (0, vec![0]));
    assert!(upstream.lease(0, &ANYBODY, false).is_ok());
}

/// Two credentials with limits of their own below one limit for both, and more threads than places.
#[test]
fn concurrent_threads_never_exceed_the_limits() {
    let (upstream, _) = upstream(2, |config| {
        config.max_in_flight = Some(4);
        config.credentials[0].max_in_flight = Some(1);
        config.credentials[1].max_in_flight = Some(3);
    });
    let held: [AtomicUsize; 2] = Default::default();
    let taken = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (upstream, held, taken) = (&upstream, &held, &taken);
            scope.spawn(move || {
                for turn in 0..4000 {
                    let credential = (thread + turn) % 2;
                    let Ok(mut lease) = upstream.lease(credential, &ANYBODY, turn % 3 == 0) else { continue };
                    let now = held[credential].fetch_add(1, Ordering::SeqCst) + 1;
                    assert!(now <= [1, 3][credential], "{now} with credential {credential}");
                    taken.fetch_add(1, Ordering::Relaxed);
                    if turn % 5 == 0 {
                        std::thread::yield_now();
                    }
                    if turn % 2 == 0 {
                        lease.report(Verdict::Answered);
                    }
                    held[credential].fetch_sub(1, Ordering::SeqCst);
                    drop(lease);
                }
            });
        }
    });
    assert_eq!(count(&upstream), (0, vec![0, 0]));
    assert!(taken.into_inner() > 1000);
}

/// A failed attempt to take a slot must not hide a free slot from other requests.
#[test]
fn a_failed_attempt_for_a_slot_hides_no_free_slot() {
    let (upstream, _) = upstream(2, |config| {
        config.max_in_flight = Some(2);
        config.credentials[0].max_in_flight = Some(1);
    });
    let _full = upstream.lease(0, &ANYBODY, false).unwrap();
    let (going_on, barrier) = (AtomicBool::new(true), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            barrier.wait();
            while going_on.load(Ordering::Relaxed) {
                assert_eq!(upstream.lease(0, &ANYBODY, false).unwrap_err(), SlotUnavailable::Full);
            }
        });
        barrier.wait();
        let missed = (0..100_000).filter(|_| upstream.lease(1, &ANYBODY, false).is_err()).count();
        going_on.store(false, Ordering::Relaxed);
        assert_eq!(missed, 0, "of 100,000");
    });
}

/// A waiter must not be woken by its own vain look, or it looks for ever.
#[tokio::test(start_paused = true)]
async fn a_waiter_is_not_woken_by_its_own_failed_look() {
    let (upstream, _) = upstream(1, |config| config.credentials[0].max_in_flight = Some(1));
    let held = upstream.lease(0, &ANYBODY, false).unwrap();
    let queue = [upstream.queue().unwrap()];
    let looks = AtomicU32::new(0);
    let wait = Queue::wait(&queue, || {
        assert!(looks.fetch_add(1, Ordering::Relaxed) < 100, "it looks again and again");
        upstream.lease(0, &ANYBODY, false).ok()
    });
    assert!(tokio::time::timeout(Duration::from_secs(1), wait).await.is_err());
    drop(held);
    let wait = Queue::wait(&queue, || upstream.lease(0, &ANYBODY, false).ok());
    assert!(tokio::time::timeout(Duration::from_secs(1), wait).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_and_advances_when_a_request_ends() {
    let (upstream, _) = upstream(1, |config| {
        config.max_in_flight = Some(1);
        config.max_queued = 2;
    });
    let held = upstream.lease(0, &ANYBODY, false).unwrap();
    let (first, second) = ([upstream.queue().unwrap()], [upstream.queue().unwrap()]);
    assert!(upstream.queue().is_none());
    assert_eq!(upstream.pool.queued(), 2);
    let take = || upstream.lease(0, &ANYBODY, false).ok();
    let served = async {
        let one = async { drop(Queue::wait(&first, take).await) };
        let other = async { drop(Queue::wait(&second, take).await) };
        let end = async {
            tokio::task::yield_now().await;
            drop(held);
        };
        tokio::join!(one, other, end);
    };
    tokio::time::timeout(Duration::from_secs(1), served).await.unwrap();
    drop((first, second));
    assert_eq!(upstream.pool.queued(), 0);
    assert!(upstream.queue().is_some());
}

/// A waiter that is woken and leaves at the same moment passes the wakeup on.
#[tokio::test(start_paused = true)]
async fn a_waiter_that_leaves_passes_its_wakeup_to_the_next_waiter() {
    let (upstream, _) = upstream(1, |config| config.max_in_flight = Some(1));
    let held = upstream.lease(0, &ANYBODY, false).unwrap();
    let (leaves, stays) = ([upstream.queue().unwrap()], [upstream.queue().unwrap()]);
    let take = || upstream.lease(0, &ANYBODY, false).ok();
    let mut leaving = Box::pin(Queue::wait(&leaves, take));
    let mut staying = Box::pin(Queue::wait(&stays, take));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(leaving.as_mut().poll(&mut cx).is_pending());
    assert!(staying.as_mut().poll(&mut cx).is_pending());
    drop(held);
    drop(leaving);
    drop(leaves);
    assert!(staying.as_mut().poll(&mut cx).is_ready());
}

/// A waiter at several upstreams takes the first free slot at any of them, and passes on the wakeups of the others.
#[tokio::test(start_paused = true)]
async fn a_waiter_at_two_upstreams_takes_the_first_free_slot() {
    let (one, _) = upstream(1, |config| config.max_in_flight = Some(1));
    let (other, _) = upstream(1, |config| config.max_in_flight = Some(1));
    let (held, held_too) = (one.lease(0, &ANYBODY, false).unwrap(), other.lease(0, &ANYBODY, false).unwrap());
    let take = || one.lease(0, &ANYBODY, false).or_else(|_| other.lease(0, &ANYBODY, false)).ok();
    let at_both = [one.queue().unwrap(), other.queue().unwrap()];
    let at_one = [one.queue().unwrap()];
    let mut both = Box::pin(async {
        let lease = Queue::wait(&at_both, take).await;
        drop(at_both);
        lease
    });
    let mut single = Box::pin(Queue::wait(&at_one, || one.lease(0, &ANYBODY, false).ok()));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(both.as_mut().poll(&mut cx).is_pending());
    assert!(single.as_mut().poll(&mut cx).is_pending());
    // Both have room before anybody looks.
    drop((held_too, held));
    let Poll::Ready(lease) = both.as_mut().poll(&mut cx) else { panic!("not woken") };
    assert!(single.as_mut().poll(&mut cx).is_pending(), "the place is taken");
    drop(lease);
    assert!(single.as_mut().poll(&mut cx).is_ready());
}

fn health_states(upstream: &Upstream) -> (HealthState, Vec<HealthState>) {
    let now = Instant::now();
    (upstream.pool.health_state(now), upstream.pool.credentials(now).map(|(_, health_state, _)| health_state).collect())
}

fn is_out(health_state: HealthState, wanted: EjectionCause) -> bool {
    matches!(health_state, HealthState::Out { cause, .. } if cause == wanted)
}

fn report(upstream: &Arc<Upstream>, credential: usize, verdict: Verdict) {
    upstream.lease(credential, &ANYBODY, true).unwrap().report(verdict);
}

#[tokio::test(start_paused = true)]
async fn faults_of_one_credential_do_not_eject_the_upstream() {
    let (upstream, metrics) = upstream(2, |_| {});
    for _ in 0..5 {
        report(&upstream, 0, Verdict::Failed);
    }
    let (whole, each) = health_states(&upstream);
    assert_eq!(whole, HealthState::InService);
    assert!(is_out(each[0], EjectionCause::Faults));
    assert_eq!(each[1], HealthState::InService);
    let text = metrics.text().unwrap();
    let line = r#"tidegate_ejections_total{upstream="dmxapi",credential="key-0",cause="faults"} 1"#;
    assert!(text.contains(line), "{text}");
}

/// Or an alert on their increase would miss the first.
#[test]
fn ejection_metrics_begin_at_zero() {
    let (_upstream, metrics) = upstream(2, |_| {});
    let text = metrics.text().unwrap();
    for (credential, cause) in [("", "faults"), ("key-0", "faults"), ("key-1", "refused"), ("key-1", "rate_limited")] {
        let line =
            format!(r#"tidegate_ejections_total{{upstream="dmxapi",credential="{credential}",cause="{cause}"}} 0"#);
        assert!(text.contains(&line), "{line}: {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn faults_of_all_credentials_eject_the_upstream() {
    let (upstream, metrics) = upstream(3, |_| {});
    // The first of them may be the credential's own.
    for nth in 0..6 {
        assert_eq!(health_states(&upstream).0, HealthState::InService, "{nth}");
        report(&upstream, nth % 3, Verdict::Failed);
    }
    let (whole, each) = health_states(&upstream);
    assert!(is_out(whole, EjectionCause::Faults));
    assert_eq!(each, [HealthState::InService; 3]);
    assert!(upstream.credentials("m", Instant::now()).all(|(_, condition)| !condition.health_state.is_usable()));
    let line = r#"tidegate_ejections_total{upstream="dmxapi",credential="",cause="faults"} 1"#;
    assert!(metrics.text().unwrap().contains(line));
    // The probe goes with one credential, and tells of the whole.
    tokio::time::advance(Duration::from_secs(34)).await;
    let mut probe = upstream.lease(2, &ANYBODY, false).unwrap();
    assert_eq!(upstream.lease(0, &ANYBODY, false).unwrap_err(), SlotUnavailable::Ejected);
    assert_eq!(upstream.lease(2, &ANYBODY, false).unwrap_err(), SlotUnavailable::Ejected);
    probe.answers(true);
    assert_eq!(health_states(&upstream).0, HealthState::InService);
    assert!(upstream.lease(0, &ANYBODY, false).is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_upstream_does_not_eject_its_credentials() {
    let (upstream, _) = upstream(1, |_| {});
    for _ in 0..5 {
        report(&upstream, 0, Verdict::Unreachable);
    }
    let (whole, each) = health_states(&upstream);
    assert!(is_out(whole, EjectionCause::Faults));
    assert_eq!(each, [HealthState::InService]);
    tokio::time::advance(Duration::from_secs(34)).await;
    // One that says nothing leaves the probe to the next.
    drop(upstream.lease(0, &ANYBODY, false).unwrap());
    report(&upstream, 0, Verdict::Unreachable);
    assert!(is_out(health_states(&upstream).0, EjectionCause::Faults));
    assert_eq!(upstream.lease(0, &ANYBODY, false).unwrap_err(), SlotUnavailable::Ejected);
}

#[tokio::test(start_paused = true)]
async fn a_429_or_a_refusal_shows_that_the_upstream_works() {
    let (upstream, _) = upstream(2, |_| {});
    for _ in 0..4 {
        report(&upstream, 0, Verdict::Unreachable);
    }
    report(&upstream, 0, Verdict::RateLimited(Some(Duration::from_secs(5))));
    for _ in 0..2 {
        report(&upstream, 1, Verdict::Refused);
    }
    for _ in 0..4 {
        report(&upstream, 0, Verdict::Unreachable);
    }
    let (whole, each) = health_states(&upstream);
    assert_eq!(whole, HealthState::InService);
    assert!(is_out(each[0], EjectionCause::RateLimited));
    assert!(is_out(each[1], EjectionCause::Refused));
    tokio::time::advance(Duration::from_secs(6)).await;
    assert_eq!(health_states(&upstream).1[0], HealthState::InService);
}

/// An attempt releases the probe of one breaker if the other breaker does not admit the attempt.
#[tokio::test(start_paused = true)]
async fn an_attempt_passes_both_breakers_or_neither() {
    let (upstream, _) = upstream(2, |_| {});
    for _ in 0..5 {
        report(&upstream, 0, Verdict::Unreachable);
    }
    for _ in 0..2 {
        report(&upstream, 0, Verdict::Refused);
    }
    tokio::time::advance(Duration::from_secs(34)).await;
    assert_eq!(health_states(&upstream).0, HealthState::InService, "whoever refuses is there");
    for _ in 0..5 {
        report(&upstream, 1, Verdict::Unreachable);
    }
    tokio::time::advance(Duration::from_secs(67)).await;
    assert_eq!(health_states(&upstream).0, HealthState::Probation(EjectionCause::Faults));
    assert_eq!(upstream.lease(0, &ANYBODY, false).unwrap_err(), SlotUnavailable::Ejected);
    assert_eq!(health_states(&upstream).0, HealthState::Probation(EjectionCause::Faults));
    assert!(upstream.lease(1, &ANYBODY, false).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_full_half_open_upstream_is_probed_once_it_has_a_free_slot() {
    let (upstream, _) = upstream(1, |config| config.max_in_flight = Some(1));
    let held = upstream.lease(0, &ANYBODY, false).unwrap();
    drop(held);
    for _ in 0..5 {
        report(&upstream, 0, Verdict::Unreachable);
    }
    let held = upstream.lease(0, &ANYBODY, true).unwrap();
    tokio::time::advance(Duration::from_secs(34)).await;
    assert!(upstream.lease(0, &ANYBODY, false).is_err());
    assert_eq!(health_states(&upstream).0, HealthState::Probation(EjectionCause::Faults));
    drop(held);
    assert!(upstream.lease(0, &ANYBODY, false).is_ok());
}

/// An upstream that accepts requests and never answers gets no verdict, because its clients leave.
#[tokio::test(start_paused = true)]
async fn a_hanging_upstream_is_skipped() {
    let (upstream, _) = upstream(2, |_| {});
    let report_if_hung = async |credential, seconds| {
        let lease = upstream.lease(credential, &ANYBODY, false).unwrap();
        tokio::time::advance(Duration::from_secs(seconds)).await;
        drop(lease);
    };
    for _ in 0..20 {
        report_if_hung(0, 19).await;
    }
    // Somebody else was answered meanwhile: it is slow with some.
    for _ in 0..20 {
        let waits = upstream.lease(0, &ANYBODY, false).unwrap();
        tokio::time::advance(Duration::from_secs(15)).await;
        report(&upstream, 1, Verdict::Answered);
        tokio::time::advance(Duration::from_secs(15)).await;
        drop(waits);
    }
    assert!(upstream.lease(0, &ANYBODY, false).is_ok());
    for _ in 0..5 {
        report_if_hung(0, 20).await;
    }
    assert_eq!(upstream.lease(0, &ANYBODY, false).unwrap_err(), SlotUnavailable::Ejected);
}

/// Likewise for silence inside an answer.
#[tokio::test(start_paused = true)]
async fn an_upstream_that_falls_silent_inside_an_answer_is_skipped() {
    let (upstream, _) = upstream(1, |_| {});
    let left = async |silent| {
        let mut lease = upstream.lease(0, &ANYBODY, false).unwrap();
        lease.answers(true);
        tokio::time::advance(Duration::from_secs(60)).await;
        let since = Instant::now();
        tokio::time::advance(Duration::from_secs(silent)).await;
        lease.client_left(since);
    };
    for _ in 0..4 {
        left(20).await;
    }
    // One that still talked when its client left.
    left(19).await;
    for _ in 0..4 {
        left(20).await;
    }
    assert!(upstream.lease(0, &ANYBODY, false).is_ok());
    left(20).await;
    assert_eq!(upstream.lease(0, &ANYBODY, false).unwrap_err(), SlotUnavailable::Ejected);
}

#[tokio::test(start_paused = true)]
async fn retries_are_limited_to_a_share_of_the_requests() {
    let (upstream, _) = upstream(1, |_| {});
    let granted = |tries: usize| (0..tries).filter(|_| upstream.count_retry(20)).count();
    assert_eq!(granted(10), 3, "a few in any case");
    for _ in 0..100 {
        upstream.count_request();
    }
    assert_eq!(granted(100), 20);
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(granted(1), 0);
    for _ in 0..10 {
        upstream.count_request();
    }
    assert_eq!(granted(10), 2);
    tokio::time::advance(Duration::from_secs(10)).await;
    // The hundred are forgotten, and what they paid for.
    assert_eq!(granted(10), 3);
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!((0..10).filter(|_| upstream.count_retry(0)).count(), 0, "none are none");
    assert!(!upstream.may_retry(0));
}

#[test]
fn the_retry_limit_holds_over_all_threads() {
    let (upstream, _) = upstream(1, |_| {});
    let granted = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    upstream.count_request();
                    granted.fetch_add(usize::from(upstream.count_retry(20)), Ordering::Relaxed);
                }
            });
        }
    });
    // Should the ten seconds end in between, each window has its few.
    let granted = granted.into_inner();
    assert!((790..=803).contains(&granted), "{granted} of 4,000 requests");
}

fn report_as(upstream: &Arc<Upstream>, credential: usize, (key, model): (KeyId, &str), verdict: Verdict) {
    let asker = AttemptContext { key, model, given: ReportedVerdicts::NOTHING };
    upstream.lease(credential, &asker, true).unwrap().report(verdict);
}

fn stands(upstream: &Upstream, model: &str) -> Vec<HealthState> {
    upstream.credentials(model, Instant::now()).map(|(_, condition)| condition.health_state).collect()
}

#[tokio::test(start_paused = true)]
async fn one_failing_model_is_ejected_alone_and_several_eject_the_credential() {
    let (upstream, _) = upstream(2, |_| {});
    for (nth, model) in ["a", "b"].into_iter().enumerate() {
        assert!(stands(&upstream, "d")[0].is_usable(), "after {nth} models");
        for _ in 0..5 {
            report_as(&upstream, 0, (1, model), Verdict::Failed);
        }
        assert!(is_out(stands(&upstream, model)[0], EjectionCause::Faults));
        assert_eq!(stands(&upstream, model)[1], HealthState::InService);
    }
    // Two models were in use when the second one went out.
    assert!(is_out(stands(&upstream, "d")[0], EjectionCause::Faults));
    assert_eq!(stands(&upstream, "d")[1], HealthState::InService);
}

/// With more models in use, three have to fail.
#[tokio::test(start_paused = true)]
async fn with_many_models_three_failing_ones_eject_the_credential() {
    let (upstream, _) = upstream(1, |_| {});
    for model in ["w", "x", "y", "z"] {
        report_as(&upstream, 0, (1, model), Verdict::Answered);
    }
    for (nth, model) in ["a", "b", "c"].into_iter().enumerate() {
        assert_eq!(stands(&upstream, "w"), [HealthState::InService], "after {nth} models");
        for _ in 0..5 {
            report_as(&upstream, 0, (1, model), Verdict::Failed);
        }
    }
    assert!(is_out(stands(&upstream, "w")[0], EjectionCause::Faults));
    tokio::time::advance(Duration::from_secs(34)).await;
    // One probes, with whatever model, and restores the credential; those that failed have probes of their own.
    report_as(&upstream, 0, (1, "w"), Verdict::Answered);
    assert_eq!(stands(&upstream, "w"), [HealthState::InService]);
    assert_eq!(stands(&upstream, "a"), [HealthState::Probation(EjectionCause::Faults)]);
}

/// Failures of several models of one key eject nothing either, if another key sends requests.
#[tokio::test(start_paused = true)]
async fn failures_of_one_key_do_not_eject_a_credential_that_another_key_uses() {
    for verdict in [Verdict::Failed, Verdict::RateLimited(Some(Duration::from_secs(60)))] {
        let (upstream, _) = upstream(1, |_| {});
        report_as(&upstream, 0, (2, "w"), Verdict::Answered);
        for model in ["a", "b", "c", "d", "e"] {
            for _ in 0..50 {
                report_as(&upstream, 0, (1, model), verdict);
            }
        }
        assert_eq!(stands(&upstream, "w"), [HealthState::InService], "{verdict:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn rate_limits_of_several_models_pause_the_credential() {
    let (upstream, _) = upstream(2, |_| {});
    let limited = |seconds| Verdict::RateLimited(Some(Duration::from_secs(seconds)));
    report_as(&upstream, 0, (1, "a"), limited(60));
    assert_eq!(stands(&upstream, "c"), [HealthState::InService; 2]);
    report_as(&upstream, 0, (2, "b"), limited(20));
    assert!(is_out(stands(&upstream, "c")[0], EjectionCause::RateLimited));
    // For the shorter of the two, and the upstream has nothing to do with it.
    assert_eq!(stands(&upstream, "c")[1], HealthState::InService);
    tokio::time::advance(Duration::from_secs(21)).await;
    assert_eq!(stands(&upstream, "c"), [HealthState::InService; 2]);
    assert!(is_out(stands(&upstream, "a")[0], EjectionCause::RateLimited));
}

/// A model that fails with every credential leaves the upstream in service for the others.
#[tokio::test(start_paused = true)]
async fn a_model_that_fails_with_every_credential_is_ejected_alone() {
    let (upstream, metrics) = upstream(3, |_| {});
    report_as(&upstream, 0, (1, "w"), Verdict::Answered);
    for nth in 0..6 {
        report_as(&upstream, nth % 3, (1, "a"), Verdict::Failed);
    }
    assert!(stands(&upstream, "a").iter().all(|health_state| is_out(*health_state, EjectionCause::Faults)));
    assert_eq!(stands(&upstream, "w"), [HealthState::InService; 3]);
    assert_eq!(upstream.pool.health_state(Instant::now()), HealthState::InService);
    let line = r#"tidegate_ejections_total{upstream="dmxapi",credential="",cause="faults"} 1"#;
    assert!(metrics.text().unwrap().contains(line));
}

/// One request counts once for each kind of failure.
#[tokio::test(start_paused = true)]
async fn a_second_verdict_of_the_same_kind_from_one_request_does_not_count() {
    let (upstream, _) = upstream(2, |_| {});
    for verdict in [Verdict::Failed, Verdict::RateLimited(None), Verdict::Refused, Verdict::Unpaid] {
        let mut given = ReportedVerdicts::NOTHING;
        given.remember(verdict);
        for _ in 0..20 {
            let asker = AttemptContext { key: 1, model: "m", given };
            upstream.lease(0, &asker, true).unwrap().report(verdict);
        }
        assert_eq!(stands(&upstream, "m"), [HealthState::InService; 2], "{verdict:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_model_changes_no_health_state() {
    let (upstream, _) = upstream(1, |_| {});
    for _ in 0..4 {
        report_as(&upstream, 0, (1, "m"), Verdict::Failed);
    }
    for _ in 0..50 {
        report_as(&upstream, 0, (1, "m"), Verdict::NoModel);
    }
    assert_eq!(stands(&upstream, "m"), [HealthState::InService]);
    report_as(&upstream, 0, (1, "m"), Verdict::Failed);
    assert!(is_out(stands(&upstream, "m")[0], EjectionCause::Faults), "it is no success either");
}

/// A bare 402 may be about the price of a request: where several keys use the account, a second key has to get one.
#[tokio::test(start_paused = true)]
async fn bare_402s_of_one_key_do_not_eject_a_shared_account() {
    let (upstream, _) = upstream(1, |_| {});
    report_as(&upstream, 0, (2, "w"), Verdict::Answered);
    for idle in [0, 31, 600] {
        tokio::time::advance(Duration::from_secs(idle)).await;
        for model in ["a", "b", "c"] {
            report_as(&upstream, 0, (1, model), Verdict::Payment);
        }
        assert_eq!(stands(&upstream, "w"), [HealthState::InService], "after {idle} s");
    }
    report_as(&upstream, 0, (2, "a"), Verdict::Payment);
    assert!(is_out(stands(&upstream, "w")[0], EjectionCause::Unpaid));
}

/// An idle key still shares the account: one other key alone takes nothing away from it.
#[tokio::test(start_paused = true)]
async fn failures_of_one_key_do_not_eject_a_credential_that_an_idle_key_shares() {
    for verdict in [Verdict::Failed, Verdict::RateLimited(Some(Duration::from_secs(60))), Verdict::Refused] {
        let (upstream, _) = upstream(1, |_| {});
        report_as(&upstream, 0, (2, "w"), Verdict::Answered);
        tokio::time::advance(Duration::from_secs(31)).await;
        for _ in 0..2 {
            for model in ["a", "b", "c", "d", "w"] {
                let verdict = if model == "w" && verdict != Verdict::Refused { Verdict::Failed } else { verdict };
                for _ in 0..20 {
                    report_as(&upstream, 0, (1, model), verdict);
                }
            }
            tokio::time::advance(Duration::from_secs(11)).await;
        }
        let stand = stands(&upstream, "w")[0];
        assert!(
            stand == HealthState::InService || stand == HealthState::Probation(EjectionCause::RefusedOnce),
            "{verdict:?} {stand:?}"
        );
    }
}

/// Where another key shares the account, the faults of one key shut the account for that key alone.
#[tokio::test(start_paused = true)]
async fn faults_of_one_key_eject_a_shared_account_for_that_key_only() {
    let (upstream, metrics) = upstream(2, |_| {});
    let of = |key: KeyId, model: &str| -> Vec<HealthState> {
        upstream.credentials_for(model, key, Instant::now()).map(|(_, condition)| condition.health_state).collect()
    };
    report_as(&upstream, 0, (2, "m"), Verdict::Answered);
    for idle in [1, 600] {
        tokio::time::advance(Duration::from_secs(idle)).await;
        for _ in 0..4 {
            report_as(&upstream, 0, (1, "m"), Verdict::Failed);
        }
        assert_eq!(of(1, "m"), [HealthState::InService; 2]);
        for _ in 0..3 {
            report_as(&upstream, 0, (1, "m"), Verdict::Failed);
            assert!(is_out(of(1, "m")[0], EjectionCause::Faults), "after {idle} s");
            assert_eq!((of(1, "m")[1], of(1, "w")[0]), (HealthState::InService, HealthState::InService));
            assert_eq!(
                (of(2, "m"), stands(&upstream, "m")),
                (vec![HealthState::InService; 2], vec![HealthState::InService; 2])
            );
            tokio::time::advance(Duration::from_secs(31)).await;
            // The key's next attempt is a probe: one more failure ejects it again, a success does not.
            assert_eq!(of(1, "m"), [HealthState::InService; 2]);
        }
        // Successes of the other key do not count for it.
        report_as(&upstream, 0, (2, "m"), Verdict::Answered);
        report_as(&upstream, 0, (1, "m"), Verdict::Failed);
        assert!(is_out(of(1, "m")[0], EjectionCause::Faults));
        report_as(&upstream, 0, (1, "m"), Verdict::Answered);
        assert_eq!(of(1, "m"), [HealthState::InService; 2]);
    }
    let line = r#"tidegate_ejections_total{upstream="dmxapi",credential="key-0",cause="faults"} 0"#;
    assert!(metrics.text().unwrap().contains(line));
}
