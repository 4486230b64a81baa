use proptest::prelude::*;

use super::*;

const HEALTH: Health = Health {
    consecutive_faults: 5,
    fault_percent: 50,
    eject: Duration::from_secs(30),
    eject_max: Duration::from_secs(300),
    refused: Duration::from_secs(600),
    cooldown_max: Duration::from_secs(300),
};

const KEY: KeyId = 1;

/// A breaker and a clock that the test controls.
struct TestBreaker {
    breaker: CircuitBreaker,
    now: Instant,
    random: RandomSource,
}

impl TestBreaker {
    fn new() -> Self {
        let now = Instant::now();
        Self { breaker: CircuitBreaker::new(now), now, random: RandomSource::seeded(1) }
    }

    fn after(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    fn health_state(&self) -> HealthState {
        self.breaker.health_state(self.now)
    }

    fn pass(&self) -> BreakerPass {
        self.breaker.pass(KEY, self.now, false).unwrap()
    }

    fn anyway(&self) -> BreakerPass {
        self.breaker.pass(KEY, self.now, true).unwrap()
    }

    fn shut(&self) -> bool {
        self.breaker.pass(KEY, self.now, false).is_none()
    }

    fn fails(&self, pass: BreakerPass) -> Option<HealthChange> {
        self.breaker.failed(pass, (KEY, None), self.now, &HEALTH, &self.random)
    }

    fn succeeds(&self, pass: BreakerPass) -> Option<HealthChange> {
        self.breaker.succeeded(pass, KEY, self.now, true)
    }

    fn limited(&self, pass: BreakerPass, after: Option<u64>) -> Option<HealthChange> {
        self.breaker.limited(pass, KEY, self.now, after.map(Duration::from_secs), &HEALTH)
    }

    fn refused(&self, pass: BreakerPass) -> Option<HealthChange> {
        self.refused_for(pass, Refusal::Key, KEY)
    }

    /// A second refusal counts if it is another key's.
    fn refused_for(&self, pass: BreakerPass, why: Refusal, key: KeyId) -> Option<HealthChange> {
        let refused = Refused { why, key, model: 1, at: self.now };
        let confirms = |first: &Refused| key == KEY || first.key != key;
        self.breaker.refused(pass, refused, confirms, &HEALTH, &self.random)
    }

    /// Fails until the breaker ejects. Returns for how long.
    fn eject(&self) -> Duration {
        for _ in 0..100 {
            match self.fails(self.pass()) {
                Some(HealthChange::Ejected(EjectionCause::Faults, length)) => return length,
                None => {}
                other => panic!("{other:?}"),
            }
        }
        panic!("not ejected");
    }

    /// Probes after this time.
    fn probe(&mut self, length: Duration) -> BreakerPass {
        self.after(length + Duration::from_millis(1));
        assert_eq!(self.health_state(), HealthState::Probation(EjectionCause::Faults));
        let probe = self.pass();
        assert!(probe.is_probe());
        probe
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[track_caller]
fn about(length: Duration, wanted: u64) {
    let (low, high) = (secs(wanted).mul_f64(0.9), secs(wanted).mul_f64(1.1));
    assert!(low <= length && length <= high, "{length:?} is not {wanted} s, more or less");
}

#[test]
fn consecutive_faults_eject_and_a_success_resets_the_count() {
    let bench = TestBreaker::new();
    for _ in 0..2 {
        for _ in 0..4 {
            assert_eq!(bench.fails(bench.pass()), None);
        }
        assert_eq!(bench.succeeds(bench.pass()), None);
    }
    for _ in 0..4 {
        assert_eq!(bench.fails(bench.pass()), None);
    }
    let Some(HealthChange::Ejected(EjectionCause::Faults, length)) = bench.fails(bench.pass()) else {
        panic!("not ejected")
    };
    about(length, 30);
    assert!(matches!(bench.health_state(), HealthState::Out { cause: EjectionCause::Faults, .. }));
    assert!(bench.shut());
}

#[test]
fn a_high_share_of_faults_ejects_after_enough_attempts() {
    let bench = TestBreaker::new();
    for nth in 0..19 {
        let pass = bench.pass();
        assert_eq!(if nth % 2 == 0 { bench.fails(pass) } else { bench.succeeds(pass) }, None, "{nth}");
    }
    // The 20th: 11 of 20.
    assert!(matches!(bench.fails(bench.pass()), Some(HealthChange::Ejected(EjectionCause::Faults, _))));

    let mut bench = TestBreaker::new();
    for nth in 0..100 {
        let pass = bench.after(Duration::from_millis(100)).pass();
        // Two of five are less than half.
        assert_eq!(if nth % 5 < 2 { bench.fails(pass) } else { bench.succeeds(pass) }, None, "{nth}");
    }
}

#[test]
fn old_faults_do_not_count() {
    let mut bench = TestBreaker::new();
    for nth in 0..19 {
        let pass = bench.pass();
        let _ = if nth % 2 == 0 { bench.fails(pass) } else { bench.succeeds(pass) };
    }
    bench.after(secs(31));
    assert_eq!(bench.fails(bench.pass()), None);
}

#[test]
fn one_request_probes_and_its_result_decides() {
    let mut bench = TestBreaker::new();
    let length = bench.eject();
    bench.after(length - Duration::from_millis(2));
    assert!(bench.shut());
    let probe = bench.probe(Duration::from_millis(2));
    // All other requests skip the upstream until the probe has ended.
    assert_eq!(bench.health_state(), HealthState::Out { cause: EjectionCause::Faults, left: Duration::ZERO });
    assert!(bench.shut());
    assert!(!bench.anyway().is_probe());
    assert_eq!(bench.succeeds(probe), Some(HealthChange::Restored));
    assert_eq!(bench.health_state(), HealthState::InService);
    assert!(!bench.pass().is_probe());

    let length = bench.eject();
    let probe = bench.probe(length);
    assert!(matches!(bench.fails(probe), Some(HealthChange::Ejected(EjectionCause::Faults, _))));
    assert!(bench.shut());
}

#[test]
fn a_probe_without_a_result_lets_another_request_probe() {
    let mut bench = TestBreaker::new();
    let length = bench.eject();
    let probe = bench.probe(length);
    bench.breaker.abandoned(probe);
    let next = bench.pass();
    assert!(next.is_probe());
    // One that is none takes nobody's place away.
    bench.breaker.abandoned(bench.anyway());
    assert!(bench.shut());
    assert_eq!(bench.breaker.answers(next, bench.now), Some(HealthChange::Restored));
    assert_eq!(bench.breaker.answers(next, bench.now), None);
    assert_eq!(bench.health_state(), HealthState::InService);
}

#[test]
fn each_further_ejection_lasts_twice_as_long_up_to_the_maximum() {
    let mut bench = TestBreaker::new();
    let mut length = bench.eject();
    about(length, 30);
    for wanted in [60, 120, 240, 300, 300] {
        let probe = bench.probe(length);
        let Some(HealthChange::Ejected(EjectionCause::Faults, longer)) = bench.fails(probe) else {
            panic!("not ejected")
        };
        about(longer, wanted);
        length = longer;
    }
    // A short healthy time does not reset the length.
    let probe = bench.probe(length);
    assert_eq!(bench.succeeds(probe), Some(HealthChange::Restored));
    bench.after(secs(100));
    length = bench.eject();
    about(length, 300);
    let probe = bench.probe(length);
    assert_eq!(bench.succeeds(probe), Some(HealthChange::Restored));
    bench.after(secs(301));
    about(bench.eject(), 30);
}

#[test]
fn an_attempt_from_before_the_ejection_changes_nothing() {
    let mut bench = TestBreaker::new();
    let stragglers: Vec<_> = (0..30).map(|_| bench.pass()).collect();
    let length = bench.eject();
    bench.after(secs(1));
    assert_eq!(bench.succeeds(stragglers[0]), None);
    for straggler in &stragglers[1..] {
        assert_eq!(bench.fails(*straggler), None);
    }
    assert!(bench.shut());
    assert_eq!(bench.breaker.answers(stragglers[0], bench.now), None);
    assert!(bench.shut());
    // It does not count against the restored breaker either.
    let probe = bench.probe(length - secs(1));
    assert_eq!(bench.breaker.answers(probe, bench.now), Some(HealthChange::Restored));
    assert_eq!(bench.fails(bench.pass()), None, "ejected for faults of before");
    assert_eq!(bench.health_state(), HealthState::InService);
}

#[test]
fn an_attempt_at_an_ejected_upstream_may_restore_it_and_never_prolongs_the_ejection() {
    let mut bench = TestBreaker::new();
    let length = bench.eject();
    bench.after(secs(10));
    for _ in 0..10 {
        assert_eq!(bench.fails(bench.anyway()), None);
    }
    bench.after(length - secs(10) + Duration::from_millis(1));
    assert_eq!(bench.health_state(), HealthState::Probation(EjectionCause::Faults));
    let _ = bench.fails(bench.pass());
    bench.after(secs(1));
    assert!(bench.shut());
    assert_eq!(bench.succeeds(bench.anyway()), Some(HealthChange::Restored));
    assert!(!bench.shut());
}

#[test]
fn a_429_ejects_for_its_retry_after_time() {
    let mut bench = TestBreaker::new();
    assert_eq!(bench.limited(bench.pass(), Some(7)), Some(HealthChange::Ejected(EjectionCause::RateLimited, secs(7))));
    assert_eq!(bench.health_state(), HealthState::Out { cause: EjectionCause::RateLimited, left: secs(7) });
    // Shorter times and repetitions change nothing. A longer time prolongs the cooldown without a new report: attempts
    // at an ejected upstream get the time with each answer.
    assert_eq!(bench.limited(bench.anyway(), Some(6)), None);
    assert_eq!(bench.limited(bench.anyway(), Some(9)), None, "told of twice");
    assert_eq!(bench.health_state(), HealthState::Out { cause: EjectionCause::RateLimited, left: secs(9) });
    bench.after(secs(9) + Duration::from_millis(1));
    // No probe follows: the requested pause is over.
    assert_eq!(bench.health_state(), HealthState::InService);
    assert!(!bench.pass().is_probe() && !bench.pass().is_probe());
    assert_eq!(bench.succeeds(bench.pass()), None, "a pause that is over is no recovery");
    assert_eq!(
        bench.limited(bench.pass(), Some(86_400)),
        Some(HealthChange::Ejected(EjectionCause::RateLimited, secs(300)))
    );
}

/// An answer that is not streamed may take minutes. It must not keep a working upstream ejected.
#[test]
fn a_slow_probe_lets_another_request_probe() {
    let mut bench = TestBreaker::new();
    let length = bench.eject();
    let first = bench.probe(length);
    assert!(bench.after(PROBE_TIMEOUT - Duration::from_millis(1)).shut());
    let second = bench.after(Duration::from_millis(1)).pass();
    assert!(second.is_probe());
    // The second probe counts now.
    bench.breaker.abandoned(first);
    assert!(bench.shut());
    bench.breaker.abandoned(second);
    let third = bench.pass();
    assert_eq!(bench.breaker.answers(third, bench.now), Some(HealthChange::Restored));
    assert_eq!(bench.fails(first), None, "one fault of a breaker in service");
}

#[test]
fn a_repeated_429_is_reported_once() {
    let mut bench = TestBreaker::new();
    assert!(bench.limited(bench.pass(), Some(20)).is_some());
    for _ in 0..100 {
        bench.after(Duration::from_millis(1));
        assert_eq!(bench.limited(bench.anyway(), Some(20)), None);
        assert_eq!(bench.health_state(), HealthState::Out { cause: EjectionCause::RateLimited, left: secs(20) });
    }
    bench.after(secs(20) + Duration::from_millis(1));
    assert!(bench.limited(bench.pass(), Some(20)).is_some(), "and once more when it had its pause");
}

#[test]
fn no_attempt_passes_before_the_retry_after_time() {
    let mut bench = TestBreaker::new();
    bench.after(Duration::from_micros(900));
    assert!(bench.limited(bench.pass(), Some(1)).is_some());
    bench.after(Duration::from_micros(999_999));
    assert!(bench.shut());
    bench.after(Duration::from_micros(101));
    assert!(!bench.shut());
}

#[test]
fn consecutive_429s_without_a_time_lengthen_the_cooldown() {
    let mut bench = TestBreaker::new();
    for wanted in [1, 2, 4, 8, 16, 30, 30] {
        let change = bench.limited(bench.pass(), None);
        assert_eq!(change, Some(HealthChange::Ejected(EjectionCause::RateLimited, secs(wanted))));
        bench.after(secs(wanted) + Duration::from_millis(1));
    }
    assert_eq!(bench.succeeds(bench.pass()), None);
    assert_eq!(bench.limited(bench.pass(), None), Some(HealthChange::Ejected(EjectionCause::RateLimited, secs(1))));
}

#[test]
fn simultaneous_429s_count_once() {
    let bench = TestBreaker::new();
    let passes: Vec<_> = (0..10).map(|_| bench.pass()).collect();
    for (nth, pass) in passes.into_iter().enumerate() {
        let change = bench.limited(pass, None);
        let first = Some(HealthChange::Ejected(EjectionCause::RateLimited, secs(1)));
        assert_eq!(change, if nth == 0 { first } else { None }, "{nth}");
    }
}

#[test]
fn a_probe_that_gets_a_429_of_zero_seconds_lets_another_request_probe() {
    let mut bench = TestBreaker::new();
    let length = bench.eject();
    let probe = bench.probe(length);
    assert_eq!(bench.limited(probe, Some(0)), None);
    assert!(bench.pass().is_probe(), "no other probe is let through");
}

#[test]
fn a_second_refusal_ejects_for_long_and_is_reported_once() {
    let mut bench = TestBreaker::new();
    let (pass, straggler) = (bench.pass(), bench.pass());
    assert_eq!(bench.refused(pass), Some(HealthChange::Ejected(EjectionCause::RefusedOnce, REFUSED_ONCE)));
    assert_eq!(bench.refused(straggler), None, "what was under way is no second proof");
    assert_eq!(bench.health_state(), HealthState::Out { cause: EjectionCause::RefusedOnce, left: REFUSED_ONCE });
    // An attempt at the ejected credential, or the probe, confirms the refusal.
    let Some(HealthChange::Ejected(EjectionCause::Refused, length)) = bench.refused(bench.anyway()) else {
        panic!("not refused")
    };
    about(length, 600);
    bench.after(secs(60));
    // The only credential left, which every request uses.
    assert_eq!(bench.refused(bench.anyway()), None);
    bench.after(length - secs(60) + Duration::from_millis(1));
    assert_eq!(bench.health_state(), HealthState::Probation(EjectionCause::Refused));
    assert!(matches!(bench.refused(bench.pass()), Some(HealthChange::Ejected(EjectionCause::Refused, _))));
    bench.after(secs(1));
    assert_eq!(bench.succeeds(bench.anyway()), Some(HealthChange::Restored));
    // A success makes the next refusal the first one again.
    assert!(matches!(bench.refused(bench.pass()), Some(HealthChange::Ejected(EjectionCause::RefusedOnce, _))));
    bench.after(REFUSED_ONCE + Duration::from_millis(1));
    let probe = bench.pass();
    assert!(probe.is_probe() && bench.shut());
    assert!(matches!(bench.refused(probe), Some(HealthChange::Ejected(EjectionCause::Refused, _))));
}

#[test]
fn a_second_refusal_that_confirms_nothing_changes_nothing() {
    let mut bench = TestBreaker::new();
    let by = |bench: &TestBreaker, why, key| bench.refused_for(bench.anyway(), why, key);
    assert!(matches!(by(&bench, Refusal::Key, 2), Some(HealthChange::Ejected(EjectionCause::RefusedOnce, _))));
    for _ in 0..5 {
        assert_eq!(by(&bench, Refusal::Key, 2), None);
        bench.after(REFUSED_ONCE + Duration::from_millis(1));
        assert_eq!(bench.health_state(), HealthState::Probation(EjectionCause::RefusedOnce));
        assert_eq!(by(&bench, Refusal::Key, 2), None, "told twice");
    }
    // A declined request says nothing about the credential.
    assert_eq!(bench.breaker.succeeded(bench.anyway(), 2, bench.now, false), None);
    assert!(matches!(bench.health_state(), HealthState::Out { cause: EjectionCause::RefusedOnce, .. }));
    // An account without money is another cause than a wrong key.
    assert_eq!(by(&bench, Refusal::Balance, 3), None);
    assert!(matches!(by(&bench, Refusal::Balance, 4), Some(HealthChange::Ejected(EjectionCause::Unpaid, _))));
}

#[test]
fn a_bare_402_ejects_only_after_a_second_one() {
    let bench = TestBreaker::new();
    let by = |key| bench.refused_for(bench.pass(), Refusal::Payment, key);
    for _ in 0..5 {
        assert_eq!(by(2), None);
        assert_eq!(bench.health_state(), HealthState::InService);
    }
    let Some(HealthChange::Ejected(EjectionCause::Unpaid, length)) = by(3) else { panic!("not ejected") };
    about(length, 600);
}

/// One client alone cannot eject what another client uses.
#[test]
fn faults_of_one_key_eject_only_if_no_other_key_sends_requests() {
    let mut bench = TestBreaker::new();
    let fails = |bench: &mut TestBreaker, times| {
        for _ in 0..times {
            bench.breaker.uses(2, bench.now);
            let change = bench.breaker.failed(bench.anyway(), (2, None), bench.now, &HEALTH, &bench.random);
            if change.is_some() {
                return change;
            }
        }
        None
    };
    bench.breaker.uses(KEY, bench.now);
    assert_eq!(fails(&mut bench, 100), None);
    bench.after(secs(31));
    assert_eq!(fails(&mut bench, 100), None, "the other key is idle, and still shares the breaker");
    bench.after(secs(3600));
    assert!(matches!(fails(&mut bench, 5), Some(HealthChange::Ejected(EjectionCause::Faults, _))));
    assert_eq!(bench.breaker.failure_source(), Some(FailureSource::One(2)));
}

/// A key whose requests cause failures keeps no other key away: its failed probe ends only its own turn.
#[test]
fn a_failed_probe_of_one_key_leaves_the_next_probe_to_another_key() {
    let mut bench = TestBreaker::new();
    bench.breaker.uses(2, bench.now);
    bench.breaker.uses(KEY, bench.now);
    let fails =
        |bench: &TestBreaker, key, pass| bench.breaker.failed(pass, (key, None), bench.now, &HEALTH, &bench.random);
    for key in [KEY, 2, KEY, 2] {
        assert_eq!(fails(&bench, key, bench.pass()), None);
    }
    assert!(matches!(fails(&bench, KEY, bench.pass()), Some(HealthChange::Ejected(EjectionCause::Faults, _))));
    for _ in 0..10 {
        bench.after(secs(34));
        let probe = bench.breaker.pass(2, bench.now, false).unwrap();
        assert!(probe.is_probe());
        assert_eq!(fails(&bench, 2, probe), None);
        assert!(bench.breaker.pass(2, bench.now, false).is_none(), "this key had its turn");
        // An attempt at an ejected upstream, because nothing better is left, does not prolong the ejection.
        assert_eq!(fails(&bench, 2, bench.breaker.pass(2, bench.now, true).unwrap()), None);
        let probe = bench.breaker.pass(KEY, bench.now, false).unwrap();
        assert!(probe.is_probe(), "the other key probes at once");
        bench.breaker.abandoned(probe);
    }
    bench.after(secs(34));
    let probe = bench.breaker.pass(2, bench.now, false).unwrap();
    assert_eq!(fails(&bench, 2, probe), None);
    // A second key confirms the failure, so the ejection is longer.
    let Some(HealthChange::Ejected(EjectionCause::Faults, length)) = fails(&bench, KEY, bench.pass()) else {
        panic!("in service")
    };
    about(length, 60);
    bench.after(secs(67));
    let probe = bench.breaker.pass(2, bench.now, false).unwrap();
    assert_eq!(fails(&bench, 2, probe), None);
    let probe = bench.pass();
    assert_eq!(bench.succeeds(probe), Some(HealthChange::Restored));
}

/// An event at a breaker.
#[derive(Clone, Copy, Debug)]
enum Event {
    Enter {
        anyway: bool,
    },
    /// The attempt in progress with this number, modulo their count.
    Answers(usize),
    Ends(usize, EndedAs),
    Time(Duration),
}

#[derive(Clone, Copy, Debug)]
enum EndedAs {
    Success,
    Fault,
    Limit(Option<u64>),
    Refusal,
    Nothing,
}

fn event() -> impl Strategy<Value = Event> {
    let way = prop_oneof![
        3 => Just(EndedAs::Success),
        6 => Just(EndedAs::Fault),
        2 => prop::option::of(prop_oneof![Just(0), 1_u64..400]).prop_map(EndedAs::Limit),
        1 => Just(EndedAs::Refusal),
        1 => Just(EndedAs::Nothing),
    ];
    prop_oneof![
        6 => prop::bool::weighted(0.2).prop_map(|anyway| Event::Enter { anyway }),
        1 => any::<usize>().prop_map(Event::Answers),
        6 => (any::<usize>(), way).prop_map(|(nth, way)| Event::Ends(nth, way)),
        2 => (0_u64..120_000).prop_map(|millis| Event::Time(Duration::from_millis(millis))),
    ]
}

proptest! {
    /// Any order of events keeps three rules: one probe at a time, no normal attempt through an ejected breaker, and no
    /// permanent ejection.
    #[test]
    fn any_order_of_events_keeps_the_breaker_consistent(events in prop::collection::vec(event(), 0..300)) {
        let mut bench = TestBreaker::new();
        let mut under_way: Vec<BreakerPass> = Vec::new();
        // Probes since the last change of the breaker.
        let probes = |under_way: &[BreakerPass], breaker: &CircuitBreaker, now| {
            let epoch = breaker.epoch.load(Ordering::Acquire);
            let counts = |pass: &&BreakerPass| pass.is_probe() && pass.epoch == epoch && breaker.is_recent(pass.probe, now);
            under_way.iter().filter(counts).count()
        };
        for event in events {
            let before = bench.health_state();
            match event {
                Event::Enter { anyway } => {
                    let pass = bench.breaker.pass(KEY, bench.now, anyway);
                    let (entered, probe) = (pass.is_some(), pass.is_some_and(BreakerPass::is_probe));
                    match before {
                        HealthState::InService => prop_assert!(entered && !probe),
                        HealthState::Probation(_) => prop_assert!(entered && probe),
                        HealthState::Out { .. } => prop_assert!(entered == anyway && !probe),
                    }
                    under_way.extend(pass);
                }
                Event::Answers(nth) if !under_way.is_empty() => {
                    let pass = under_way[nth % under_way.len()];
                    let change = bench.breaker.answers(pass, bench.now);
                    prop_assert!(matches!(change, None | Some(HealthChange::Restored)));
                }
                Event::Ends(nth, way) if !under_way.is_empty() => {
                    let pass = under_way.remove(nth % under_way.len());
                    let change = match way {
                        EndedAs::Success => bench.succeeds(pass),
                        EndedAs::Fault => bench.fails(pass),
                        EndedAs::Limit(after) => bench.limited(pass, after),
                        EndedAs::Refusal => bench.refused(pass),
                        EndedAs::Nothing => { bench.breaker.abandoned(pass); None }
                    };
                    match change {
                        Some(HealthChange::Ejected(_, length)) => {
                            prop_assert!(!length.is_zero() && length <= secs(660));
                            let out = matches!(bench.health_state(), HealthState::Out { left, .. } if left <= length + Duration::from_millis(1));
                            prop_assert!(out, "{:?}", bench.health_state());
                        }
                        Some(HealthChange::Restored) => prop_assert_eq!(bench.health_state(), HealthState::InService),
                        None => {}
                    }
                }
                Event::Answers(_) | Event::Ends(..) => {}
                Event::Time(time) => { bench.after(time); }
            }
            prop_assert!(probes(&under_way, &bench.breaker, bench.now) <= 1);
        }
        for pass in under_way {
            bench.breaker.abandoned(pass);
        }
        bench.after(secs(661));
        prop_assert!(!bench.shut(), "shut for good: {:?}", bench.health_state());
    }
}

/// Many threads, repeatedly: one probe each time, and the breaker restores.
#[test]
fn only_one_of_many_threads_probes() {
    const THREADS: usize = 4;
    let now = Instant::now();
    let breaker = CircuitBreaker::new(now);
    let random = RandomSource::seeded(1);
    let barrier = std::sync::Barrier::new(THREADS);
    let probes = std::sync::atomic::AtomicUsize::new(0);
    let rounds = 300;
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for round in 0..rounds {
                    let at = now + secs(1000) * round;
                    barrier.wait();
                    // Attempts that arrive together with the failures that eject.
                    for _ in 0..5 {
                        if let Some(pass) = breaker.pass(KEY, at, true) {
                            breaker.failed(pass, (KEY, None), at, &HEALTH, &random);
                        }
                    }
                    barrier.wait();
                    let later = at + secs(400);
                    assert!(breaker.pass(KEY, at, false).is_none());
                    barrier.wait();
                    let pass = breaker.pass(KEY, later, false);
                    probes.fetch_add(usize::from(pass.is_some_and(BreakerPass::is_probe)), Ordering::Relaxed);
                    assert!(pass.is_none_or(BreakerPass::is_probe));
                    barrier.wait();
                    if let Some(pass) = pass {
                        assert_eq!(breaker.succeeded(pass, KEY, later, true), Some(HealthChange::Restored));
                    }
                }
            });
        }
    });
    assert_eq!(probes.load(Ordering::Relaxed), rounds as usize);
    assert_eq!(breaker.health_state(now + secs(1_000_000)), HealthState::InService);
}

/// Probes fail while other attempts arrive. An attempt that was admitted between two states must not block the probe
/// forever.
#[test]
fn a_breaker_that_ejects_during_attempts_opens_again() {
    let now = Instant::now();
    let random = RandomSource::seeded(1);
    for round in 0..2000_u32 {
        let breaker = CircuitBreaker::new(now);
        for _ in 0..5 {
            let _ = breaker.failed(breaker.pass(KEY, now, true).unwrap(), (KEY, None), now, &HEALTH, &random);
        }
        let later = now + secs(40);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let Some(pass) = breaker.pass(KEY, later, false) else { continue };
                        assert!(pass.is_probe());
                        let _ = breaker.failed(pass, (KEY, None), later, &HEALTH, &random);
                    }
                });
            }
        });
        let end = later + secs(400);
        assert!(breaker.pass(KEY, end, false).is_some(), "round {round}: {:?}", breaker.health_state(end));
    }
}
