//! Random sequences of requests.

use proptest::prelude::*;

use super::*;

/// Redis drops a reservation that is not renewed for a minute. No request of these tests lasts as long.
const LASTS: u64 = 40 * SECOND;

/// One step of a random sequence.
#[derive(Clone, Debug)]
enum Step {
    Admit,
    Send { tokens: u64, cost: u64 },
    End { nth: usize, used: u64, cost: u64 },
    Ledger { spender: Spender, spent: u64 },
    Pause { micros: u64 },
}

impl Step {
    /// The same step with amounts of money that are `times` as large.
    fn with_money_times(self, times: u64) -> Self {
        match self {
            Self::Send { tokens, cost } => Self::Send { tokens, cost: cost * times },
            Self::End { nth, used, cost } => Self::End { nth, used, cost: cost * times },
            Self::Ledger { spender, spent } => Self::Ledger { spender, spent: spent * times },
            other => other,
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let spender = prop_oneof![Just(Spender::Key), Just(Spender::Group)];
    prop_oneof![
        3 => Just(Step::Admit),
        4 => (0_u64..60, 0_u64..40).prop_map(|(tokens, cost)| Step::Send { tokens, cost }),
        3 => (any::<usize>(), 0_u64..80, 0_u64..60).prop_map(|(nth, used, cost)| Step::End { nth, used, cost }),
        1 => (spender, 0_u64..40).prop_map(|(spender, spent)| Step::Ledger { spender, spent }),
        3 => (0_u64..20 * SECOND).prop_map(|micros| Step::Pause { micros }),
    ]
}

fn quota() -> impl Strategy<Value = Quota> {
    let one = (prop::option::of(1_u32..50), prop::option::of(1_u32..200), prop::option::of(1_usize..6));
    (one, prop::option::of(1_u64..300)).prop_map(|((requests, tokens, at_once), budget)| Quota {
        requests,
        tokens,
        at_once,
        budget,
    })
}

/// Requests in progress, each with the moment of its start.
#[derive(Default)]
struct InProgress {
    all: Vec<(Permit, u64)>,
    now: u64,
}

impl InProgress {
    fn begin(&mut self, permit: Permit) {
        self.all.push((permit, self.now));
    }

    /// Moves time on, and first ends the requests that would last too long.
    fn pause(&mut self, bench: &Bench<'_>, micros: u64) {
        self.now += micros;
        let (over, all): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.all).into_iter().partition(|(_, began)| self.now - began > LASTS);
        self.all = all;
        over.into_iter().for_each(|(permit, _)| bench.end(permit, 1, 1));
        bench.pause(micros);
    }
}

/// The decision for each request: what is left of the rates, or the refusal.
fn decisions(mut bench: Bench<'_>, steps: &[Step]) -> Vec<Result<[Option<u64>; 2], Refusal>> {
    let (mut under_way, mut others, mut said) = (InProgress::default(), [0; 2], Vec::new());
    for step in steps {
        let asked = match *step {
            Step::Admit => bench.admit(),
            Step::Send { tokens, cost } => bench.send(tokens, cost),
            Step::End { nth, used, cost } => {
                if !under_way.all.is_empty() {
                    let (permit, _) = under_way.all.remove(nth % under_way.all.len());
                    bench.end(permit, used, cost);
                }
                continue;
            }
            Step::Ledger { spender, spent } => {
                // The spend of others never decreases.
                let others = &mut others[usize::from(spender == Spender::Group)];
                *others += spent;
                bench.ledger(spender, *others, 0);
                continue;
            }
            Step::Pause { micros } => {
                under_way.pause(&bench, micros);
                continue;
            }
        };
        said.push(asked.map(|permit| {
            let left = bench.left(&permit);
            under_way.begin(permit);
            left
        }));
    }
    under_way.all.into_iter().for_each(|(permit, _)| bench.drop(permit));
    said
}

/// Redis refuses a certain refusal before any other check, so that the reason or the turn may differ. A request that
/// takes nothing does not ask Redis, so that its remaining rates are unknown.
fn same_decision(here: &Result<[Option<u64>; 2], Refusal>, there: &Result<[Option<u64>; 2], Refusal>) -> bool {
    match (here, there) {
        (Err(_), Err(("rpm" | "budgets", _, _))) | (Ok(_), Ok([None, None])) => true,
        (here, there) => here == there,
    }
}

#[test]
fn memory_and_redis_make_the_same_decisions() {
    let (time, there) = (PausedRuntime::start(), TestRedis::start());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(120));
    // In nano-units, and in amounts of which most cross from one unit to the next.
    let times = prop_oneof![Just(1), Just(37_000_001)];
    let sequence = (quota(), quota(), prop::collection::vec(step(), 1..80), times);
    let same_decision = |(key, group, steps, times): (Quota, Quota, Vec<Step>, u64)| {
        let with_money_times = |wanted: Quota| Quota { budget: wanted.budget.map(|budget| budget * times), ..wanted };
        let settings = Settings { key: with_money_times(key), group: with_money_times(group), ..Settings::default() };
        let steps: Vec<_> = steps.into_iter().map(|step| step.with_money_times(times)).collect();
        let here = decisions(Bench::new(&time, None, settings.clone()), &steps);
        let over_there = decisions(Bench::new(&time, Some(&there), settings), &steps);
        for (nth, (here, there)) in here.iter().zip(&over_there).enumerate() {
            prop_assert!(same_decision(here, there), "request {}: {:?} here and {:?} there", nth, here, there);
        }
        Ok(())
    };
    runner.run(&sequence, same_decision).unwrap();
}

/// After a batch with refusals, a request that comes at its announced turn is admitted.
#[test]
fn a_request_that_returns_at_its_turn_is_admitted() {
    let time = PausedRuntime::start();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(100));
    let comes = |(limit, batch): (u32, usize)| {
        let bench = Bench::new(&time, None, of_key(Quota { requests: Some(limit), ..UNLIMITED }));
        let waits: Vec<u64> = (0..batch).filter_map(|_| bench.admit().err()).map(|(_, _, wait)| wait).collect();
        let mut now = 0;
        for wait in waits.into_iter().filter(|wait| *wait < MINUTE) {
            bench.pause(wait - now);
            now = wait;
            prop_assert!(bench.admit().is_ok(), "refused again after {wait}");
        }
        Ok(())
    };
    runner.run(&(1_u32..40, 1_usize..120), comes).unwrap();
}

/// A pause, tokens, the real cost, and whether the oldest request ends.
type Ask = (u64, u64, u64, bool);

/// In any interval, the limit admits at most one minute's worth and what becomes free in the interval. The spend
/// exceeds the budget at most by the cost of the requests in progress.
fn assert_limits_hold(bench: &Bench<'_>, limit: u32, budget: u64, asks: &[Ask]) -> Result<(), TestCaseError> {
    let mut admitted: Vec<(u64, u64)> = Vec::new();
    let mut under_way: Vec<(Permit, u64, u64, u64)> = Vec::new();
    let (mut now, mut spent, mut most) = (0, 0, 0);
    for &(pause, tokens, cost, ends) in asks {
        now += pause;
        bench.pause(pause);
        let tokens = tokens.min(u64::from(limit));
        match bench.send(tokens, cost / 2) {
            Ok(permit) => {
                admitted.push((now, tokens));
                under_way.push((permit, tokens, cost, now));
            }
            Err(("tpm", _, wait)) => prop_assert!(wait > 0 && wait <= MINUTE, "{wait}"),
            Err(_) => {}
        }
        most = most.max(under_way.iter().map(|(_, _, cost, _)| cost).sum::<u64>());
        while under_way.first().is_some_and(|(.., began)| ends || now - began > LASTS) {
            let (permit, tokens, cost, _) = under_way.remove(0);
            bench.end(permit, tokens, cost);
            spent += cost;
            if ends {
                break;
            }
        }
        prop_assert!(spent <= budget + most, "{spent} of {budget} and {most}");
        for (i, (from, _)) in admitted.iter().enumerate() {
            let sum: u64 = admitted.iter().skip(i).map(|(_, cost)| cost).sum();
            let allowed = u128::from(limit) + u128::from(now - from) * u128::from(limit) / u128::from(MINUTE);
            prop_assert!(u128::from(sum) <= allowed + 1, "{sum} of {allowed} since {from}");
        }
    }
    under_way.into_iter().for_each(|(permit, ..)| bench.drop(permit));
    Ok(())
}

fn check_limits(there: Option<&TestRedis>, cases: u32) {
    let time = PausedRuntime::start();
    let asks = prop::collection::vec((0_u64..5 * SECOND, 1_u64..20, 0_u64..60, any::<bool>()), 1..60);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(cases));
    let kept = |(limit, budget, asks): (u32, u64, Vec<Ask>)| {
        let key = Quota { tokens: Some(limit), budget: Some(budget), ..UNLIMITED };
        assert_limits_hold(&Bench::new(&time, there, of_key(key)), limit, budget, &asks)
    };
    runner.run(&(1_u32..300, 1_u64..2000, asks), kept).unwrap();
}

#[test]
fn no_interval_admits_more_than_rate_and_burst_and_no_budget_is_overspent() {
    check_limits(None, 200);
    check_limits(Some(&TestRedis::start()), 50);
}

/// The end of a request, with its real use and cost.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// The request was never sent.
    Dropped,
    Nothing,
    Tokens,
    Partly,
}

fn ending() -> impl Strategy<Value = (Ending, u64, u64)> {
    let what = prop_oneof![Just(Ending::Dropped), Just(Ending::Nothing), Just(Ending::Tokens), Just(Ending::Partly)];
    (what, 0..300_u64, 0..120_u64)
}

/// Ends a request, and returns its cost.
fn end_as(bench: &Bench<'_>, mut permit: Permit, (ending, used, cost): (Ending, u64, u64)) -> u64 {
    let _here = bench.time.runtime.enter();
    let money = Some(Money { nano: cost, currency: Currency::Cny });
    let (input, output) = (Some(used / 2), Some(used - used / 2));
    let used = match ending {
        Ending::Dropped => return 0,
        Ending::Nothing => {
            permit.settle(UsedTokens::Nothing, None, Exchange::default());
            return 0;
        }
        Ending::Tokens => UsedTokens::Reported { input, output },
        Ending::Partly => UsedTokens::Partly { input: None, output, seen: used },
    };
    permit.settle(used, money, Exchange::default());
    // A second settlement changes nothing.
    permit.settle(used, money, Exchange::default());
    cost
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However a permit ends, it releases its reservations in the budgets of its key, group and model, and the real
    /// cost is charged. All concurrency slots are free again.
    #[test]
    fn permits_release_their_reservations_and_charge_the_real_cost(
        requests in prop::collection::vec((0..3_usize, 0..200_u64, 0..200_u64, any::<bool>(), ending()), 1..60)
    ) {
        let time = PausedRuntime::start();
        let key = Quota { tokens: Some(5000), at_once: Some(5), budget: Some(1000), ..UNLIMITED };
        let group = Quota { at_once: Some(4), budget: Some(3000), ..UNLIMITED };
        let model = Quota { requests: Some(500), tokens: Some(2000), at_once: Some(2), budget: Some(300) };
        let mut bench = Bench::new(&time, None, Settings { group, model: Some(("gpt-5*", model)), ..of_key(key) });
        let (mut under_way, mut charged) = (Vec::new(), [0, 0]);
        let mut end = |bench: &Bench<'_>, (permit, is_of_model, ending): (Permit, bool, (Ending, u64, u64))| {
            let cost = end_as(bench, permit, ending);
            charged[0] += cost;
            charged[1] += if is_of_model { cost } else { 0 };
        };
        for (model, tokens, cost, ends, ending) in requests {
            bench.model = [None, Some("up/gpt-5-mini"), Some("other")][model];
            if let Ok(permit) = bench.send(tokens, cost) {
                under_way.push((permit, model == 1, ending));
            }
            if ends && !under_way.is_empty() {
                end(&bench, under_way.remove(0));
            }
        }
        under_way.into_iter().for_each(|one| end(&bench, one));
        for (budget, counter) in bench.spending.all() {
            let charged = charged[usize::from(budget.model.is_some())];
            prop_assert_eq!((counter.reserved(), counter.spent()), (0, charged), "{:?}", budget);
        }
        let places: Vec<_> = (0..4).map_while(|_| bench.admit().ok()).collect();
        prop_assert_eq!((places.len(), bench.admit().err()), (4, Some(("max_in_flight", Spender::Group, 0))));
    }
}
