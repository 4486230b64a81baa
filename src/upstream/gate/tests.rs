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

/// A gate and the time, which passes as the test says.
struct Bench {
    gate: CircuitBreaker,
    now: Instant,
    random: RandomSource,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        Self { gate: CircuitBreaker::new(now), now, random: RandomSource::seeded(1) }
    }

    fn after(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    fn health_state(&self) -> HealthState {
        self.gate.health_state(self.now)
    }

    fn pass(&self) -> BreakerPass {
        self.gate.pass(KEY, self.now, false).unwrap()
    }

    fn anyway(&self) -> BreakerPass {
        self.gate.pass(KEY, self.now, true).unwrap()
    }

    fn shut(&self) -> bool {
        self.gate.pass(KEY, self.now, false).is_none()
    }

    fn fails(&self, pass: BreakerPass) -> Option<HealthChange> {
        self.gate.failed(pass, (KEY, None), self.now, &HEALTH, &self.random)
    }

    fn succeeds(&self, pass: BreakerPass) -> Option<HealthChange> {
        self.gate.succeeded(pass, KEY, self.now, true)
    }

    fn limited(&self, pass: BreakerPass, after: Option<u64>) -> Option<HealthChange> {
        self.gate.limited(pass, KEY, self.now, after.map(Duration::from_secs), &HEALTH)
    }

    fn refused(&self, pass: BreakerPass) -> Option<HealthChange> {
        self.refused_for(pass, Refusal::Key, KEY)
    }

    /// A second refusal is believed where it is another key's.
    fn refused_for(&self, pass: BreakerPass, why: Refusal, key: KeyId) -> Option<HealthChange> {
        let refused = Refused { why, key, model: 1, at: self.now };
        let confirms = |first: &Refused| key == KEY || first.key != key;
        self.gate.refused(pass, refused, confirms, &HEALTH, &self.random)
    }

    /// Fails until it is out, and says for how long.
    fn eject(&self) -> Duration {
        for _ in 0..100 {
            match self.fails(self.pass()) {
                Some(HealthChange::Out(EjectionCause::Faults, length)) => return length,
                None => {}
                other => panic!("{other:?}"),
            }
        }
        panic!("not ejected");
    }

    /// Probes, and says what came of it.
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
fn faults_in_a_row_eject_and_a_success_between_them_does_not() {
    let bench = Bench::new();
    for _ in 0..2 {
        for _ in 0..4 {
            assert_eq!(bench.fails(bench.pass()), None);
        }
        assert_eq!(bench.succeeds(bench.pass()), None);
    }
    for _ in 0..4 {
        assert_eq!(bench.fails(bench.pass()), None);
    }
    let Some(HealthChange::Out(EjectionCause::Faults, length)) = bench.fails(bench.pass()) else {
        panic!("not ejected")
    };
    about(length, 30);
    assert!(matches!(bench.health_state(), HealthState::Out { cause: EjectionCause::Faults, .. }));
    assert!(bench.shut());
}

#[test]
fn a_share_of_faults_ejects_once_there_were_enough() {
    let bench = Bench::new();
    for nth in 0..19 {
        let pass = bench.pass();
        assert_eq!(if nth % 2 == 0 { bench.fails(pass) } else { bench.succeeds(pass) }, None, "{nth}");
    }
    // The 20th: 11 of 20.
    assert!(matches!(bench.fails(bench.pass()), Some(HealthChange::Out(EjectionCause::Faults, _))));

    let mut bench = Bench::new();
    for nth in 0..100 {
        let pass = bench.after(Duration::from_millis(100)).pass();
        // Two of five are less than half.
        assert_eq!(if nth % 5 < 2 { bench.fails(pass) } else { bench.succeeds(pass) }, None, "{nth}");
    }
}

#[test]
fn what_was_long_ago_counts_for_nothing() {
    let mut bench = Bench::new();
    for nth in 0..19 {
        let pass = bench.pass();
        let _ = if nth % 2 == 0 { bench.fails(pass) } else { bench.succeeds(pass) };
    }
    bench.after(secs(31));
    assert_eq!(bench.fails(bench.pass()), None);
}

#[test]
fn one_request_probes_and_what_comes_of_it_decides() {
    let mut bench = Bench::new();
    let length = bench.eject();
    bench.after(length - Duration::from_millis(2));
    assert!(bench.shut());
    let probe = bench.probe(Duration::from_millis(2));
    // All others are passed by, until it is over.
    assert_eq!(bench.health_state(), HealthState::Out { cause: EjectionCause::Faults, left: Duration::ZERO });
    assert!(bench.shut());
    assert!(!bench.anyway().is_probe());
    assert_eq!(bench.succeeds(probe), Some(HealthChange::Restored));
    assert_eq!(bench.health_state(), HealthState::InService);
    assert!(!bench.pass().is_probe());

    let length = bench.eject();
    let probe = bench.probe(length);
    assert!(matches!(bench.fails(probe), Some(HealthChange::Out(EjectionCause::Faults, _))));
    assert!(bench.shut());
}

#[test]
fn a_probe_that_says_nothing_leaves_its_place_to_another() {
    let mut bench = Bench::new();
    let length = bench.eject();
    let probe = bench.probe(length);
    bench.gate.abandoned(probe);
    let next = bench.pass();
    assert!(next.is_probe());
    // One that is none takes nobody's place away.
    bench.gate.abandoned(bench.anyway());
    assert!(bench.shut());
    assert_eq!(bench.gate.answers(next, bench.now), Some(HealthChange::Restored));
    assert_eq!(bench.gate.answers(next, bench.now), None);
    assert_eq!(bench.health_state(), HealthState::InService);
}

#[test]
fn each_further_ejection_lasts_twice_as_long_up_to_the_longest() {
    let mut bench = Bench::new();
    let mut length = bench.eject();
    about(length, 30);
    for wanted in [60, 120, 240, 300, 300] {
        let probe = bench.probe(length);
        let Some(HealthChange::Out(EjectionCause::Faults, longer)) = bench.fails(probe) else { panic!("not ejected") };
        about(longer, wanted);
        length = longer;
    }
    // A short health is none.
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
fn what_began_before_it_went_out_changes_nothing() {
    let mut bench = Bench::new();
    let stragglers: Vec<_> = (0..30).map(|_| bench.pass()).collect();
    let length = bench.eject();
    bench.after(secs(1));
    assert_eq!(bench.succeeds(stragglers[0]), None);
    for straggler in &stragglers[1..] {
        assert_eq!(bench.fails(*straggler), None);
    }
    assert!(bench.shut());
    assert_eq!(bench.gate.answers(stragglers[0], bench.now), None);
    assert!(bench.shut());
    // Nor does it count against who is back.
    let probe = bench.probe(length - secs(1));
    assert_eq!(bench.gate.answers(probe, bench.now), Some(HealthChange::Restored));
    assert_eq!(bench.fails(bench.pass()), None, "ejected for faults of before");
    assert_eq!(bench.health_state(), HealthState::InService);
}

#[test]
fn what_is_asked_for_want_of_better_may_restore_and_does_not_prolong() {
    let mut bench = Bench::new();
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
fn a_limit_cools_for_the_time_it_names_and_no_longer() {
    let mut bench = Bench::new();
    assert_eq!(bench.limited(bench.pass(), Some(7)), Some(HealthChange::Out(EjectionCause::RateLimited, secs(7))));
    assert_eq!(bench.health_state(), HealthState::Out { cause: EjectionCause::RateLimited, left: secs(7) });
    // Shorter ones and repetitions change nothing, longer ones do, which is no news: where it is asked all the same,
    // each answer says again how long.
    assert_eq!(bench.limited(bench.anyway(), Some(6)), None);
    assert_eq!(bench.limited(bench.anyway(), Some(9)), None, "told of twice");
    assert_eq!(bench.health_state(), HealthState::Out { cause: EjectionCause::RateLimited, left: secs(9) });
    bench.after(secs(9) + Duration::from_millis(1));
    // No probe: it asked for a pause and had it.
    assert_eq!(bench.health_state(), HealthState::InService);
    assert!(!bench.pass().is_probe() && !bench.pass().is_probe());
    assert_eq!(bench.succeeds(bench.pass()), None, "a pause that is over is no recovery");
    assert_eq!(
        bench.limited(bench.pass(), Some(86_400)),
        Some(HealthChange::Out(EjectionCause::RateLimited, secs(300)))
    );
}

/// An answer that is not streamed may take minutes, and shall not keep out who serves again.
#[test]
fn a_probe_that_says_nothing_lets_another_one_through() {
    let mut bench = Bench::new();
    let length = bench.eject();
    let first = bench.probe(length);
    assert!(bench.after(PROBE_WITHIN - Duration::from_millis(1)).shut());
    let second = bench.after(Duration::from_millis(1)).pass();
    assert!(second.is_probe());
    // The place is the second one's now.
    bench.gate.abandoned(first);
    assert!(bench.shut());
    bench.gate.abandoned(second);
    let third = bench.pass();
    assert_eq!(bench.gate.answers(third, bench.now), Some(HealthChange::Restored));
    assert_eq!(bench.fails(first), None, "one fault of a gate in service");
}

#[test]
fn a_limit_that_goes_on_is_told_of_once() {
    let mut bench = Bench::new();
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
fn nobody_is_back_before_the_time_that_was_asked_for() {
    let mut bench = Bench::new();
    bench.after(Duration::from_micros(900));
    assert!(bench.limited(bench.pass(), Some(1)).is_some());
    bench.after(Duration::from_micros(999_999));
    assert!(bench.shut());
    bench.after(Duration::from_micros(101));
    assert!(!bench.shut());
}

#[test]
fn a_limit_without_a_time_cools_longer_each_time_in_a_row() {
    let mut bench = Bench::new();
    for wanted in [1, 2, 4, 8, 16, 30, 30] {
        let change = bench.limited(bench.pass(), None);
        assert_eq!(change, Some(HealthChange::Out(EjectionCause::RateLimited, secs(wanted))));
        bench.after(secs(wanted) + Duration::from_millis(1));
    }
    assert_eq!(bench.succeeds(bench.pass()), None);
    assert_eq!(bench.limited(bench.pass(), None), Some(HealthChange::Out(EjectionCause::RateLimited, secs(1))));
}

#[test]
fn many_that_are_limited_at_once_are_one_time() {
    let bench = Bench::new();
    let passes: Vec<_> = (0..10).map(|_| bench.pass()).collect();
    for (nth, pass) in passes.into_iter().enumerate() {
        let change = bench.limited(pass, None);
        let first = Some(HealthChange::Out(EjectionCause::RateLimited, secs(1)));
        assert_eq!(change, if nth == 0 { first } else { None }, "{nth}");
    }
}

#[test]
fn a_limit_of_no_time_leaves_nobody_outside_for_ever() {
    let mut bench = Bench::new();
    let length = bench.eject();
    let probe = bench.probe(length);
    assert_eq!(bench.limited(probe, Some(0)), None);
    assert!(bench.pass().is_probe(), "no other probe is let through");
}

#[test]
fn a_credential_is_refused_for_long_after_the_second_proof_and_told_of_once() {
    let mut bench = Bench::new();
    let (pass, straggler) = (bench.pass(), bench.pass());
    assert_eq!(bench.refused(pass), Some(HealthChange::Out(EjectionCause::RefusedOnce, REFUSED_ONCE)));
    assert_eq!(bench.refused(straggler), None, "what was under way is no second proof");
    assert_eq!(bench.health_state(), HealthState::Out { cause: EjectionCause::RefusedOnce, left: REFUSED_ONCE });
    // The second proof comes at once from who is asked all the same, or from the probe.
    let Some(HealthChange::Out(EjectionCause::Refused, length)) = bench.refused(bench.anyway()) else {
        panic!("not refused")
    };
    about(length, 600);
    bench.after(secs(60));
    // The last one there is, asked by every request.
    assert_eq!(bench.refused(bench.anyway()), None);
    bench.after(length - secs(60) + Duration::from_millis(1));
    assert_eq!(bench.health_state(), HealthState::Probation(EjectionCause::Refused));
    assert!(matches!(bench.refused(bench.pass()), Some(HealthChange::Out(EjectionCause::Refused, _))));
    bench.after(secs(1));
    assert_eq!(bench.succeeds(bench.anyway()), Some(HealthChange::Restored));
    // A success makes the next refusal the first one again.
    assert!(matches!(bench.refused(bench.pass()), Some(HealthChange::Out(EjectionCause::RefusedOnce, _))));
    bench.after(REFUSED_ONCE + Duration::from_millis(1));
    let probe = bench.pass();
    assert!(probe.is_probe() && bench.shut());
    assert!(matches!(bench.refused(probe), Some(HealthChange::Out(EjectionCause::Refused, _))));
}

#[test]
fn a_second_refusal_that_proves_nothing_changes_nothing() {
    let mut bench = Bench::new();
    let by = |bench: &Bench, why, key| bench.refused_for(bench.anyway(), why, key);
    assert!(matches!(by(&bench, Refusal::Key, 2), Some(HealthChange::Out(EjectionCause::RefusedOnce, _))));
    for _ in 0..5 {
        assert_eq!(by(&bench, Refusal::Key, 2), None);
        bench.after(REFUSED_ONCE + Duration::from_millis(1));
        assert_eq!(bench.health_state(), HealthState::Probation(EjectionCause::RefusedOnce));
        assert_eq!(by(&bench, Refusal::Key, 2), None, "told twice");
    }
    // An answer that says no to its request says nothing of the credential.
    assert_eq!(bench.gate.succeeded(bench.anyway(), 2, bench.now, false), None);
    assert!(matches!(bench.health_state(), HealthState::Out { cause: EjectionCause::RefusedOnce, .. }));
    // Money is another matter than the key.
    assert_eq!(by(&bench, Refusal::Balance, 3), None);
    assert!(matches!(by(&bench, Refusal::Balance, 4), Some(HealthChange::Out(EjectionCause::Unpaid, _))));
}

#[test]
fn a_bare_402_ejects_not_before_its_second_proof() {
    let bench = Bench::new();
    let by = |key| bench.refused_for(bench.pass(), Refusal::Payment, key);
    for _ in 0..5 {
        assert_eq!(by(2), None);
        assert_eq!(bench.health_state(), HealthState::InService);
    }
    let Some(HealthChange::Out(EjectionCause::Unpaid, length)) = by(3) else { panic!("not ejected") };
    about(length, 600);
}

/// One client alone ejects nothing that another one uses.
#[test]
fn faults_of_one_key_eject_only_where_no_other_key_asks() {
    let mut bench = Bench::new();
    let fails = |bench: &mut Bench, times| {
        for _ in 0..times {
            bench.gate.uses(2, bench.now);
            let change = bench.gate.failed(bench.anyway(), (2, None), bench.now, &HEALTH, &bench.random);
            if change.is_some() {
                return change;
            }
        }
        None
    };
    bench.gate.uses(KEY, bench.now);
    assert_eq!(fails(&mut bench, 100), None);
    bench.after(secs(31));
    assert_eq!(fails(&mut bench, 100), None, "the other key is idle, and still shares the gate");
    bench.after(secs(3600));
    assert!(matches!(fails(&mut bench, 5), Some(HealthChange::Out(EjectionCause::Faults, _))));
    assert_eq!(bench.gate.accuser(), Some(FailureSource::One(2)));
}

/// One key whose requests provoke faults keeps no other key away: its failed probe ends only its own turn.
#[test]
fn a_failed_probe_of_one_key_leaves_the_next_probe_to_another_key() {
    let mut bench = Bench::new();
    bench.gate.uses(2, bench.now);
    bench.gate.uses(KEY, bench.now);
    let fails = |bench: &Bench, key, pass| bench.gate.failed(pass, (key, None), bench.now, &HEALTH, &bench.random);
    for key in [KEY, 2, KEY, 2] {
        assert_eq!(fails(&bench, key, bench.pass()), None);
    }
    assert!(matches!(fails(&bench, KEY, bench.pass()), Some(HealthChange::Out(EjectionCause::Faults, _))));
    for _ in 0..10 {
        bench.after(secs(34));
        let probe = bench.gate.pass(2, bench.now, false).unwrap();
        assert!(probe.is_probe());
        assert_eq!(fails(&bench, 2, probe), None);
        assert!(bench.gate.pass(2, bench.now, false).is_none(), "this key had its turn");
        // Asked all the same where nothing better is left, which prolongs nothing either.
        assert_eq!(fails(&bench, 2, bench.gate.pass(2, bench.now, true).unwrap()), None);
        let probe = bench.gate.pass(KEY, bench.now, false).unwrap();
        assert!(probe.is_probe(), "the other key probes at once");
        bench.gate.abandoned(probe);
    }
    bench.after(secs(34));
    let probe = bench.gate.pass(2, bench.now, false).unwrap();
    assert_eq!(fails(&bench, 2, probe), None);
    // A second key says the same: out for longer.
    let Some(HealthChange::Out(EjectionCause::Faults, length)) = fails(&bench, KEY, bench.pass()) else {
        panic!("in service")
    };
    about(length, 60);
    bench.after(secs(67));
    let probe = bench.gate.pass(2, bench.now, false).unwrap();
    assert_eq!(fails(&bench, 2, probe), None);
    let probe = bench.pass();
    assert_eq!(bench.succeeds(probe), Some(HealthChange::Restored));
}

/// What can happen at a gate.
#[derive(Clone, Copy, Debug)]
enum Event {
    Enter {
        anyway: bool,
    },
    /// The attempt that is under way at this place, of those there are.
    Answers(usize),
    Ends(usize, Way),
    Time(Duration),
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Success,
    Fault,
    Limit(Option<u64>),
    Refusal,
    Nothing,
}

fn event() -> impl Strategy<Value = Event> {
    let way = prop_oneof![
        3 => Just(Way::Success),
        6 => Just(Way::Fault),
        2 => prop::option::of(prop_oneof![Just(0), 1_u64..400]).prop_map(Way::Limit),
        1 => Just(Way::Refusal),
        1 => Just(Way::Nothing),
    ];
    prop_oneof![
        6 => prop::bool::weighted(0.2).prop_map(|anyway| Event::Enter { anyway }),
        1 => any::<usize>().prop_map(Event::Answers),
        6 => (any::<usize>(), way).prop_map(|(nth, way)| Event::Ends(nth, way)),
        2 => (0_u64..120_000).prop_map(|millis| Event::Time(Duration::from_millis(millis))),
    ]
}

proptest! {
    /// Whatever happens in whatever order: one probe in its time, nobody unasked through a shut gate, and never shut for
    /// good.
    #[test]
    fn a_gate_stays_sound(events in prop::collection::vec(event(), 0..300)) {
        let mut bench = Bench::new();
        let mut under_way: Vec<BreakerPass> = Vec::new();
        // Probes since the gate last changed.
        let probes = |under_way: &[BreakerPass], gate: &CircuitBreaker, now| {
            let epoch = gate.epoch.load(Ordering::Acquire);
            let counts = |pass: &&BreakerPass| pass.is_probe() && pass.epoch == epoch && gate.is_recent(pass.probe, now);
            under_way.iter().filter(counts).count()
        };
        for event in events {
            let before = bench.health_state();
            match event {
                Event::Enter { anyway } => {
                    let pass = bench.gate.pass(KEY, bench.now, anyway);
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
                    let change = bench.gate.answers(pass, bench.now);
                    prop_assert!(matches!(change, None | Some(HealthChange::Restored)));
                }
                Event::Ends(nth, way) if !under_way.is_empty() => {
                    let pass = under_way.remove(nth % under_way.len());
                    let change = match way {
                        Way::Success => bench.succeeds(pass),
                        Way::Fault => bench.fails(pass),
                        Way::Limit(after) => bench.limited(pass, after),
                        Way::Refusal => bench.refused(pass),
                        Way::Nothing => { bench.gate.abandoned(pass); None }
                    };
                    match change {
                        Some(HealthChange::Out(_, length)) => {
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
            prop_assert!(probes(&under_way, &bench.gate, bench.now) <= 1);
        }
        for pass in under_way {
            bench.gate.abandoned(pass);
        }
        bench.after(secs(661));
        prop_assert!(!bench.shut(), "shut for good: {:?}", bench.health_state());
    }
}

/// Many at once, over and over: one probe each time, and the gate opens again.
#[test]
fn one_probe_of_many_threads() {
    const THREADS: usize = 4;
    let now = Instant::now();
    let gate = CircuitBreaker::new(now);
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
                    // Those that come at the same time as faults which eject.
                    for _ in 0..5 {
                        if let Some(pass) = gate.pass(KEY, at, true) {
                            gate.failed(pass, (KEY, None), at, &HEALTH, &random);
                        }
                    }
                    barrier.wait();
                    let later = at + secs(400);
                    assert!(gate.pass(KEY, at, false).is_none());
                    barrier.wait();
                    let pass = gate.pass(KEY, later, false);
                    probes.fetch_add(usize::from(pass.is_some_and(BreakerPass::is_probe)), Ordering::Relaxed);
                    assert!(pass.is_none_or(BreakerPass::is_probe));
                    barrier.wait();
                    if let Some(pass) = pass {
                        assert_eq!(gate.succeeded(pass, KEY, later, true), Some(HealthChange::Restored));
                    }
                }
            });
        }
    });
    assert_eq!(probes.load(Ordering::Relaxed), rounds as usize);
    assert_eq!(gate.health_state(now + secs(1_000_000)), HealthState::InService);
}

/// Probes fail while others come: whoever was let in between two states shall not hold the place of a probe for ever.
#[test]
fn a_gate_that_goes_out_while_others_come_opens_again() {
    let now = Instant::now();
    let random = RandomSource::seeded(1);
    for round in 0..2000_u32 {
        let gate = CircuitBreaker::new(now);
        for _ in 0..5 {
            let _ = gate.failed(gate.pass(KEY, now, true).unwrap(), (KEY, None), now, &HEALTH, &random);
        }
        let later = now + secs(40);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let Some(pass) = gate.pass(KEY, later, false) else { continue };
                        assert!(pass.is_probe());
                        let _ = gate.failed(pass, (KEY, None), later, &HEALTH, &random);
                    }
                });
            }
        });
        let end = later + secs(400);
        assert!(gate.pass(KEY, end, false).is_some(), "round {round}: {:?}", gate.health_state(end));
    }
}
