//! From what is counted to alerts: each event once for what it happened to, until that is over.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::domain::{
    alert::{Alert, AlertEvent},
    health_state::EjectionCause,
    money::{Money, UNIT, decimal},
    spending::{BudgetKey, Crossed},
};

/// An upstream that is out for this long does not come back by itself soon.
const EJECTED_FOR: Duration = Duration::from_secs(300);
/// A database that is started again takes less.
const BEHIND_FOR: Duration = Duration::from_secs(60);
/// Rows that wait: at 100 requests a second, those of two minutes.
const BEHIND: u64 = 10_000;
/// Truncated answers are counted over this time,
const WINDOW: Duration = Duration::from_secs(300);
/// in steps of this.
const STEP: Duration = Duration::from_secs(10);
/// Of fewer answers a share says nothing.
const ENOUGH: u64 = 20;
/// What comes and goes is told again no sooner than this.
const QUIET: Duration = Duration::from_secs(3600);

/// What there is to see at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct AlertInputs {
    pub(super) credentials: Vec<CredentialView>,
    pub(super) upstreams: Vec<UpstreamView>,
    /// Faults of the ledger.
    pub(super) ledger: Vec<&'static str>,
    /// Rows that wait for the database.
    pub(super) waiting: u64,
    pub(super) truncated_percent: u64,
}

#[derive(Clone, Debug)]
pub(super) struct CredentialView {
    pub(super) upstream: String,
    pub(super) credential: String,
    pub(super) refused: Option<EjectionCause>,
}

#[derive(Clone, Debug)]
pub(super) struct UpstreamView {
    pub(super) name: String,
    pub(super) out: bool,
    /// Answers that are over since the start.
    pub(super) answers: u64,
    /// Those of them that ended before their end.
    pub(super) truncated: u64,
}

/// Remembers what holds and what was told.
#[derive(Debug, Default)]
pub(super) struct Watcher {
    known: HashMap<(AlertEvent, String), RaisedAlert>,
    /// Answers and truncated ones of each upstream, the oldest first.
    answers: HashMap<String, VecDeque<(Instant, u64, u64)>>,
}

#[derive(Debug, Default)]
struct RaisedAlert {
    /// Since when it holds.
    since: Option<Instant>,
    /// Whether it was told since then.
    is_told: bool,
    told: Option<Instant>,
    /// When it was looked at last.
    seen: Option<Instant>,
}

/// Something that may hold.
struct AlertCondition {
    event: AlertEvent,
    /// What tells it from other cases of the event.
    name: String,
    holds: bool,
    /// For so long before it is told.
    for_long: Duration,
    subject: String,
    text: String,
}

impl Watcher {
    /// What has to be told now.
    pub(super) fn look(&mut self, now: Instant, view: &AlertInputs) -> Vec<Alert> {
        let mut cases: Vec<AlertCondition> = view.credentials.iter().map(credential).collect();
        cases.extend(view.upstreams.iter().map(ejected));
        cases.push(ledger(view));
        for upstream in &view.upstreams {
            cases.push(self.truncated(now, upstream, view.truncated_percent));
        }
        let alerts = cases.into_iter().filter_map(|case| self.weigh(now, case)).collect();
        // Upstreams that are gone.
        self.known.retain(|_, known| known.seen == Some(now) || known.told.is_some_and(|told| now < told + QUIET));
        self.answers.retain(|name, _| view.upstreams.iter().any(|upstream| upstream.name == *name));
        alerts
    }

    fn weigh(&mut self, now: Instant, case: AlertCondition) -> Option<Alert> {
        let AlertCondition { event, name, holds, for_long, subject, text } = case;
        let known = self.known.entry((event, name)).or_default();
        known.seen = Some(now);
        if !holds {
            (known.since, known.is_told) = (None, false);
            return None;
        }
        let since = *known.since.get_or_insert(now);
        if known.is_told || now < since + for_long {
            return None;
        }
        known.is_told = true;
        let was_told = known.told.is_some_and(|told| now < told + QUIET);
        if was_told {
            return None;
        }
        known.told = Some(now);
        Some(Alert { event, subject, text })
    }

    fn truncated(&mut self, now: Instant, upstream: &UpstreamView, percent: u64) -> AlertCondition {
        let UpstreamView { name, answers, truncated, .. } = upstream;
        let samples = self.answers.entry(name.clone()).or_default();
        if samples.back().is_none_or(|(at, ..)| *at + STEP <= now) {
            samples.push_back((now, *answers, *truncated));
        }
        while samples.get(1).is_some_and(|(at, ..)| *at + WINDOW <= now) {
            samples.pop_front();
        }
        let (before, cut_before) = samples.front().map_or((0, 0), |(_, answers, truncated)| (*answers, *truncated));
        let (of_late, cut) = (answers.saturating_sub(before), truncated.saturating_sub(cut_before));
        AlertCondition {
            event: AlertEvent::StreamsTruncated,
            name: name.clone(),
            holds: of_late >= ENOUGH && cut * 100 >= percent * of_late,
            for_long: Duration::ZERO,
            subject: format!("upstream {name}"),
            text: format!(
                "{cut} of the last {of_late} answers of the upstream {name} ended before their end. Clients see short or broken \
                 answers. Ask the provider, or put another upstream first."
            ),
        }
    }
}

/// Budgets that reached a threshold. Of those that one budget reached at once, the highest is told.
pub(super) fn budgets(mut crossed: Vec<Crossed>) -> Vec<Alert> {
    crossed.sort_by_key(|crossed| std::cmp::Reverse(crossed.threshold));
    let mut told: Vec<Crossed> = Vec::new();
    for one in crossed {
        if !told.iter().any(|other| other.budget == one.budget) {
            told.push(one);
        }
    }
    told.iter().map(budget).collect()
}

fn budget(crossed: &Crossed) -> Alert {
    let Crossed { budget: BudgetKey { spender, name, model, currency, window, span: _ }, threshold, limit, spent } =
        crossed;
    let subject = format!("{} {name}", spender.name());
    let models = model.as_ref().map(|model| format!(" for `{}`", model.0)).unwrap_or_default();
    let budget = Money { nano: *limit, currency: *currency };
    let whose = format!("the budget of {budget}/{}{models} of the {subject}", window.name());
    let spent = decimal(*spent);
    if *threshold < UNIT {
        let percent = threshold / (UNIT / 100);
        let text =
            format!("{spent} of {whose} are spent: {percent} % or more. Requests are refused once all of it is.");
        return Alert { event: AlertEvent::BudgetWarning, subject, text };
    }
    let text = format!(
        "All of {whose} is spent ({spent}). Its requests are refused until the budget renews. Raise the budget to serve them."
    );
    Alert { event: AlertEvent::BudgetSpent, subject, text }
}

fn credential(view: &CredentialView) -> AlertCondition {
    let CredentialView { upstream, credential, refused } = view;
    let (why, mend) = match refused {
        Some(EjectionCause::Unpaid) => ("The money of the account is spent", "Top it up"),
        _ => ("The upstream refuses the credential", "Renew it"),
    };
    AlertCondition {
        event: AlertEvent::CredentialRefused,
        name: format!("{upstream}/{credential}"),
        holds: refused.is_some(),
        for_long: Duration::ZERO,
        subject: format!("credential {credential} of the upstream {upstream}"),
        text: format!(
            "{why}: {credential} of the upstream {upstream} is left out for a while, and others are asked. {mend}."
        ),
    }
}

fn ejected(view: &UpstreamView) -> AlertCondition {
    let UpstreamView { name, out, .. } = view;
    AlertCondition {
        event: AlertEvent::UpstreamEjected,
        name: name.clone(),
        holds: *out,
        for_long: EJECTED_FOR,
        subject: format!("upstream {name}"),
        text: format!(
            "The upstream {name} has been left out for 5 minutes, as its answers fail. Requests go to other upstreams where there are \
             some. `tidegate explain` and /readyz on the admin port say more."
        ),
    }
}

fn ledger(view: &AlertInputs) -> AlertCondition {
    let AlertInputs { ledger, waiting, .. } = view;
    let faults = if ledger.is_empty() { "none".to_owned() } else { ledger.join(", ") };
    AlertCondition {
        event: AlertEvent::LedgerBehind,
        name: String::new(),
        holds: !ledger.is_empty() || *waiting >= BEHIND,
        for_long: BEHIND_FOR,
        subject: "ledger".to_owned(),
        text: format!(
            "The ledger has been behind for a minute: {waiting} rows wait for the database, faults: {faults}. The journal keeps them, up \
             to 256 MiB; beyond that requests are refused. Look at the database and at the disk of the data folder."
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
    fn a_budget_is_told_at_each_threshold_and_of_several_at_once_at_the_highest() {
        let crossed = |name: &str, threshold: u64, model: Option<&str>| Crossed {
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
        let told = budgets(vec![crossed("a", UNIT / 5 * 4, None)]);
        assert_eq!(events(&told), [("budget_warning", "key a")]);
        assert!(told[0].text.starts_with("6 of the budget of 5 CNY/day of the key a are spent: 80 %"), "{told:?}");
        let told = budgets(vec![
            crossed("a", UNIT / 2, None),
            crossed("a", UNIT, None),
            crossed("a", UNIT, Some("gpt-*")),
            crossed("b", UNIT / 2, None),
        ]);
        assert_eq!(events(&told), [("budget_spent", "key a"), ("budget_spent", "key a"), ("budget_warning", "key b")]);
        assert!(told[1].text.contains("the budget of 5 CNY/day for `gpt-*` of the key a"), "{told:?}");
        assert!(budgets(Vec::new()).is_empty());
    }

    #[test]
    fn a_refused_credential_is_told_at_once_and_an_upstream_after_five_minutes() {
        let view = |refused, out| AlertInputs {
            credentials: vec![CredentialView { upstream: "up".into(), credential: "KEY".into(), refused }],
            upstreams: vec![UpstreamView { name: "up".into(), out, answers: 0, truncated: 0 }],
            truncated_percent: 5,
            ..AlertInputs::default()
        };
        let (mut watcher, began) = (Watcher::default(), Instant::now());
        let mut look = |second, refused, out| watcher.look(after(began, second), &view(refused, out));
        let told = look(0, Some(EjectionCause::Refused), true);
        assert_eq!(events(&told), [("credential_refused", "credential KEY of the upstream up")]);
        assert!(told[0].text.contains("Renew it"), "{told:?}");
        assert!(look(299, Some(EjectionCause::Refused), true).is_empty());
        assert_eq!(events(&look(300, Some(EjectionCause::Refused), true)), [("upstream_ejected", "upstream up")]);
        assert!(look(301, Some(EjectionCause::Refused), true).is_empty());
        // What comes and goes within an hour is not told again.
        assert!(look(400, None, false).is_empty());
        assert!(look(401, Some(EjectionCause::Refused), true).is_empty());
        assert!(look(800, Some(EjectionCause::Refused), true).is_empty());
        assert!(look(5000, None, false).is_empty());
        let told = look(5001, Some(EjectionCause::Unpaid), true);
        assert!(told[0].text.contains("Top it up"), "{told:?}");
        assert_eq!(events(&look(5301, Some(EjectionCause::Unpaid), true)), [("upstream_ejected", "upstream up")]);
    }

    #[test]
    fn a_ledger_is_behind_after_a_minute() {
        let (mut watcher, began) = (Watcher::default(), Instant::now());
        let view = |ledger: &[&'static str], waiting| AlertInputs {
            ledger: ledger.to_vec(),
            waiting,
            ..AlertInputs::default()
        };
        assert!(watcher.look(began, &view(&["database"], 3)).is_empty());
        assert!(watcher.look(after(began, 30), &view(&[], 0)).is_empty());
        assert!(watcher.look(after(began, 31), &view(&["database"], 3)).is_empty());
        assert!(watcher.look(after(began, 90), &view(&["database"], 3)).is_empty());
        let told = watcher.look(after(began, 91), &view(&["database"], 7));
        assert_eq!(events(&told), [("ledger_behind", "ledger")]);
        assert!(told[0].text.contains("7 rows wait") && told[0].text.contains("faults: database"), "{told:?}");
    }

    #[test]
    fn truncated_answers_are_told_by_their_share_of_the_last_five_minutes() {
        let (mut watcher, began) = (Watcher::default(), Instant::now());
        let mut look = |second, answers, truncated| {
            let upstreams = vec![UpstreamView { name: "up".into(), out: false, answers, truncated }];
            watcher
                .look(after(began, second), &AlertInputs { upstreams, truncated_percent: 5, ..AlertInputs::default() })
                .len()
        };
        // What was before the start counts for nothing.
        assert_eq!(look(0, 1000, 900), 0);
        assert_eq!(look(10, 1019, 919), 0, "too few to tell");
        assert_eq!(look(20, 1100, 904), 0, "4 %");
        assert_eq!(look(30, 1100, 905), 1, "5 %");
        assert_eq!(look(40, 1200, 950), 0, "told");
        for second in (50..4000).step_by(10) {
            assert_eq!(look(second, 1200 + second, 950), 0, "{second}");
        }
        assert_eq!(look(4000, 5300, 1000), 1, "an hour later");
    }
}
