//! Computes alerts from counters and health states. Each condition is reported once while it lasts.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::times::{AlertTimes, in_words};
use crate::domain::{
    alert::{Alert, AlertEvent},
    health_state::EjectionCause,
    money::{Money, UNIT, decimal},
    spending::{BudgetKey, ThresholdReached},
};

/// With so many waiting rows, the ledger counts as behind: 100 seconds' worth at 100 requests a second.
const BEHIND_ROWS: u64 = 10_000;
/// With fewer answers, a share of truncated ones means nothing.
const MIN_ANSWERS: u64 = 20;

/// What alerts are computed from, at one moment: the state of upstreams, credentials and the ledger.
#[derive(Clone, Debug, Default)]
pub(super) struct AlertInputs {
    pub(super) credentials: Vec<CredentialView>,
    pub(super) upstreams: Vec<UpstreamView>,
    /// Names of the ledger's current faults.
    pub(super) ledger: Vec<&'static str>,
    /// Ledger rows that the database does not have yet.
    pub(super) waiting: u64,
    pub(super) truncated_percent: u64,
}

/// One credential as alerts see it: its name, and whether the provider refuses it.
#[derive(Clone, Debug)]
pub(super) struct CredentialView {
    pub(super) upstream: String,
    pub(super) credential: String,
    pub(super) refused: Option<EjectionCause>,
}

/// One upstream as alerts see it: whether it is ejected, and how many of its answers ended early.
#[derive(Clone, Debug)]
pub(super) struct UpstreamView {
    pub(super) name: String,
    pub(super) out: bool,
    /// Answers that ended since the start of the process.
    pub(super) answers: u64,
    /// Those of them that ended early.
    pub(super) truncated: u64,
}

/// Decides which alerts to raise. It remembers which conditions hold and which it reported already.
#[derive(Debug)]
pub(super) struct Watcher {
    times: AlertTimes,
    states: HashMap<(AlertEvent, String), ConditionState>,
    /// Answers and truncated ones of each upstream, the oldest first.
    answers: HashMap<String, VecDeque<(Instant, u64, u64)>>,
}

#[derive(Debug, Default)]
struct ConditionState {
    /// Since when the condition holds.
    since: Option<Instant>,
    /// Whether an alert was raised since `since`.
    is_reported: bool,
    reported: Option<Instant>,
    /// When the condition was evaluated last.
    evaluated: Option<Instant>,
}

/// One condition that may hold, with the alert to raise if it does.
struct AlertCondition {
    event: AlertEvent,
    /// Distinguishes this condition from others of the same event, such as the upstream's name.
    name: String,
    holds: bool,
    /// How long the condition must hold before the alert is raised.
    min_duration: Duration,
    subject: String,
    text: String,
}

impl Watcher {
    /// Makes a watcher for alerts that has reported nothing yet.
    pub(super) fn new(times: AlertTimes) -> Self {
        Self { times, states: HashMap::new(), answers: HashMap::new() }
    }

    /// Returns the alerts that must be raised now for this observed state.
    pub(super) fn due_alerts(&mut self, now: Instant, view: &AlertInputs) -> Vec<Alert> {
        let mut conditions: Vec<AlertCondition> = view.credentials.iter().map(credential).collect();
        conditions.extend(view.upstreams.iter().map(|upstream| ejected(upstream, self.times.ejected_for)));
        conditions.push(ledger(view, self.times.behind_for));
        for upstream in &view.upstreams {
            conditions.push(self.truncated(now, upstream, view.truncated_percent));
        }
        let alerts = conditions.into_iter().filter_map(|condition| self.evaluate(now, condition)).collect();
        // Forget conditions of upstreams that the configuration no longer has.
        let repeat_after = self.times.repeat_after;
        self.states.retain(|_, state| {
            state.evaluated == Some(now) || state.reported.is_some_and(|reported| now < reported + repeat_after)
        });
        self.answers.retain(|name, _| view.upstreams.iter().any(|upstream| upstream.name == *name));
        alerts
    }

    fn evaluate(&mut self, now: Instant, condition: AlertCondition) -> Option<Alert> {
        let AlertCondition { event, name, holds, min_duration, subject, text } = condition;
        let state = self.states.entry((event, name)).or_default();
        state.evaluated = Some(now);
        if !holds {
            (state.since, state.is_reported) = (None, false);
            return None;
        }
        let since = *state.since.get_or_insert(now);
        if state.is_reported || now < since + min_duration {
            return None;
        }
        state.is_reported = true;
        let recently_reported = state.reported.is_some_and(|reported| now < reported + self.times.repeat_after);
        if recently_reported {
            return None;
        }
        state.reported = Some(now);
        Some(Alert { event, subject, text })
    }

    fn truncated(&mut self, now: Instant, upstream: &UpstreamView, percent: u64) -> AlertCondition {
        let UpstreamView { name, answers, truncated, .. } = upstream;
        let samples = self.answers.entry(name.clone()).or_default();
        if samples.back().is_none_or(|(at, ..)| *at + self.times.step <= now) {
            samples.push_back((now, *answers, *truncated));
        }
        while samples.get(1).is_some_and(|(at, ..)| *at + self.times.window <= now) {
            samples.pop_front();
        }
        let (answers_before, truncated_before) =
            samples.front().map_or((0, 0), |(_, answers, truncated)| (*answers, *truncated));
        let (recent, truncated_now) =
            (answers.saturating_sub(answers_before), truncated.saturating_sub(truncated_before));
        AlertCondition {
            event: AlertEvent::StreamsTruncated,
            name: name.clone(),
            holds: recent >= MIN_ANSWERS && truncated_now * 100 >= percent * recent,
            min_duration: Duration::ZERO,
            subject: format!("upstream {name}"),
            text: format!(
                "{truncated_now} of the last {recent} answers of the upstream {name} ended before their end. Clients see short or broken \
                 answers. Ask the provider, or put another upstream first."
            ),
        }
    }
}

/// Makes the alerts for budgets whose spend reached a threshold. A budget that reached several at once gets one alert, for the highest.
pub(super) fn budgets(mut reached: Vec<ThresholdReached>) -> Vec<Alert> {
    reached.sort_by_key(|reached| std::cmp::Reverse(reached.threshold));
    let mut reported: Vec<ThresholdReached> = Vec::new();
    for one in reached {
        if !reported.iter().any(|other| other.budget == one.budget) {
            reported.push(one);
        }
    }
    reported.iter().map(budget).collect()
}

fn budget(reached: &ThresholdReached) -> Alert {
    let ThresholdReached {
        budget: BudgetKey { spender, name, model, currency, window, span: _ },
        threshold,
        limit,
        spent,
    } = reached;
    let subject = format!("{} {name}", spender.name());
    let models = model.as_ref().map(|model| format!(" for `{}`", model.0)).unwrap_or_default();
    let budget = Money { nano: *limit, currency: *currency };
    let whose = format!("the budget of {budget}/{}{models} of the {subject}", window.name());
    let spent = decimal(*spent);
    if *threshold < UNIT {
        let percent = threshold / (UNIT / 100);
        let text = format!(
            "{spent} of {whose} are spent: {percent} % or more. Tidegate refuses requests once the whole budget is spent."
        );
        return Alert { event: AlertEvent::BudgetWarning, subject, text };
    }
    let text = format!(
        "All of {whose} is spent ({spent}). Tidegate refuses the requests of this budget until the next period. \
         Raise the budget to serve these requests."
    );
    Alert { event: AlertEvent::BudgetSpent, subject, text }
}

fn credential(view: &CredentialView) -> AlertCondition {
    let CredentialView { upstream, credential, refused } = view;
    let (why, action) = match refused {
        Some(EjectionCause::Unpaid) => ("The provider's account has no money left", "Top up the account"),
        _ => ("The provider refuses the credential", "Renew the credential"),
    };
    AlertCondition {
        event: AlertEvent::CredentialRefused,
        name: format!("{upstream}/{credential}"),
        holds: refused.is_some(),
        min_duration: Duration::ZERO,
        subject: format!("credential {credential} of the upstream {upstream}"),
        text: format!(
            "{why}: Tidegate ejected the credential {credential} of the upstream {upstream} and tries other candidates. {action}."
        ),
    }
}

fn ejected(view: &UpstreamView, min_duration: Duration) -> AlertCondition {
    let UpstreamView { name, out, .. } = view;
    AlertCondition {
        event: AlertEvent::UpstreamEjected,
        name: name.clone(),
        holds: *out,
        min_duration,
        subject: format!("upstream {name}"),
        text: format!(
            "The upstream {name} has been ejected for {}, because its answers fail. Requests go to other upstreams if the route \
             has some. `tidegate explain` and /readyz on the admin port say more.",
            in_words(min_duration)
        ),
    }
}

fn ledger(view: &AlertInputs, min_duration: Duration) -> AlertCondition {
    let AlertInputs { ledger, waiting, .. } = view;
    let faults = if ledger.is_empty() { "none".to_owned() } else { ledger.join(", ") };
    AlertCondition {
        event: AlertEvent::LedgerBehind,
        name: String::new(),
        holds: !ledger.is_empty() || *waiting >= BEHIND_ROWS,
        min_duration,
        subject: "ledger".to_owned(),
        text: format!(
            "The ledger has been behind for {}: {waiting} rows wait for the database, faults: {faults}. The journal keeps these rows, up \
             to 256 MiB; beyond that, Tidegate refuses requests. Check the database and the disk of the data folder.",
            in_words(min_duration)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        model_name::ModelPattern,
        money::{Currency, Window},
        spending::{BudgetKey, Span, Spender},
    };

    fn events(alerts: &[Alert]) -> Vec<(&'static str, &str)> {
        alerts.iter().map(|alert| (alert.event.name(), &*alert.subject)).collect()
    }

    fn after(began: Instant, seconds: u64) -> Instant {
        began + Duration::from_secs(seconds)
    }

    #[test]
    fn a_budget_is_reported_once_for_the_highest_threshold_that_it_reached() {
        let reached = |name: &str, threshold: u64, model: Option<&str>| ThresholdReached {
            budget: BudgetKey {
                spender: Spender::Key,
                name: name.into(),
                model: model.map(|model| ModelPattern(model.into())),
                currency: Currency::Cny,
                window: Window::Day,
                span: Span { from: 1, to: 2 },
            },
            threshold,
            limit: 5 * UNIT,
            spent: 6 * UNIT,
        };
        let reported = budgets(vec![reached("a", UNIT / 5 * 4, None)]);
        assert_eq!(events(&reported), [("budget_warning", "key a")]);
        assert!(
            reported[0].text.starts_with("6 of the budget of 5 CNY/day of the key a are spent: 80 %"),
            "{reported:?}"
        );
        let reported = budgets(vec![
            reached("a", UNIT / 2, None),
            reached("a", UNIT, None),
            reached("a", UNIT, Some("gpt-*")),
            reached("b", UNIT / 2, None),
        ]);
        assert_eq!(
            events(&reported),
            [("budget_spent", "key a"), ("budget_spent", "key a"), ("budget_warning", "key b")]
        );
        assert!(reported[1].text.contains("the budget of 5 CNY/day for `gpt-*` of the key a"), "{reported:?}");
        assert!(budgets(Vec::new()).is_empty());
    }

    #[test]
    fn a_refused_credential_is_reported_at_once_and_an_ejected_upstream_after_five_minutes() {
        let view = |refused, out| AlertInputs {
            credentials: vec![CredentialView { upstream: "up".into(), credential: "KEY".into(), refused }],
            upstreams: vec![UpstreamView { name: "up".into(), out, answers: 0, truncated: 0 }],
            truncated_percent: 5,
            ..AlertInputs::default()
        };
        let (mut watcher, began) = (Watcher::new(AlertTimes::default()), Instant::now());
        let mut due_alerts = |second, refused, out| watcher.due_alerts(after(began, second), &view(refused, out));
        let reported = due_alerts(0, Some(EjectionCause::Refused), true);
        assert_eq!(events(&reported), [("credential_refused", "credential KEY of the upstream up")]);
        assert!(reported[0].text.contains("Renew the credential"), "{reported:?}");
        assert!(due_alerts(299, Some(EjectionCause::Refused), true).is_empty());
        assert_eq!(events(&due_alerts(300, Some(EjectionCause::Refused), true)), [("upstream_ejected", "upstream up")]);
        assert!(due_alerts(301, Some(EjectionCause::Refused), true).is_empty());
        // A condition that ends and returns within an hour is not reported again.
        assert!(due_alerts(400, None, false).is_empty());
        assert!(due_alerts(401, Some(EjectionCause::Refused), true).is_empty());
        assert!(due_alerts(800, Some(EjectionCause::Refused), true).is_empty());
        assert!(due_alerts(5000, None, false).is_empty());
        let reported = due_alerts(5001, Some(EjectionCause::Unpaid), true);
        assert!(reported[0].text.contains("Top up the account"), "{reported:?}");
        assert_eq!(events(&due_alerts(5301, Some(EjectionCause::Unpaid), true)), [("upstream_ejected", "upstream up")]);
    }

    #[test]
    fn a_ledger_is_reported_as_behind_after_a_minute() {
        let (mut watcher, began) = (Watcher::new(AlertTimes::default()), Instant::now());
        let view = |ledger: &[&'static str], waiting| AlertInputs {
            ledger: ledger.to_vec(),
            waiting,
            ..AlertInputs::default()
        };
        assert!(watcher.due_alerts(began, &view(&["database"], 3)).is_empty());
        assert!(watcher.due_alerts(after(began, 30), &view(&[], 0)).is_empty());
        assert!(watcher.due_alerts(after(began, 31), &view(&["database"], 3)).is_empty());
        assert!(watcher.due_alerts(after(began, 90), &view(&["database"], 3)).is_empty());
        let reported = watcher.due_alerts(after(began, 91), &view(&["database"], 7));
        assert_eq!(events(&reported), [("ledger_behind", "ledger")]);
        assert!(
            reported[0].text.contains("7 rows wait") && reported[0].text.contains("faults: database"),
            "{reported:?}"
        );
    }

    #[test]
    fn truncated_answers_are_reported_by_their_share_of_the_last_five_minutes() {
        let (mut watcher, began) = (Watcher::new(AlertTimes::default()), Instant::now());
        let mut due_alerts = |second, answers, truncated| {
            let upstreams = vec![UpstreamView { name: "up".into(), out: false, answers, truncated }];
            watcher
                .due_alerts(
                    after(began, second),
                    &AlertInputs { upstreams, truncated_percent: 5, ..AlertInputs::default() },
                )
                .len()
        };
        // Answers before the first look do not count.
        assert_eq!(due_alerts(0, 1000, 900), 0);
        assert_eq!(due_alerts(10, 1019, 919), 0, "too few to tell");
        assert_eq!(due_alerts(20, 1100, 904), 0, "4 %");
        assert_eq!(due_alerts(30, 1100, 905), 1, "5 %");
        assert_eq!(due_alerts(40, 1200, 950), 0, "told");
        for second in (50..4000).step_by(10) {
            assert_eq!(due_alerts(second, 1200 + second, 950), 0, "{second}");
        }
        assert_eq!(due_alerts(4000, 5300, 1000), 1, "an hour later");
    }
}
