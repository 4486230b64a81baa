//! Writes the state of a caller's limits into OpenAI's headers (docs/wire.md, section 3).

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::{Timestamp, tz::TimeZone};

use crate::{
    config::Config,
    domain::{
        money::{Budget, Window, decimal},
        spending::Span,
    },
    limits::{Quota, Quotas},
};

const PREFIX: &str = "x-ratelimit-";

const REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// Writes the caller's limits into the head of an answer. They replace the upstream's headers, which describe the operator's
/// account.
pub(super) fn write(headers: &mut HeaderMap, quotas: &Quotas) {
    if *quotas == Quotas::default() {
        return;
    }
    let theirs: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with(PREFIX)).cloned().collect();
    for name in theirs {
        headers.remove(name);
    }
    for (names, quota) in [(REQUESTS, quotas.requests), (TOKENS, quotas.tokens)] {
        let Some(Quota { limit, remaining, reset }) = quota else { continue };
        let [limits, remains, resets] = names;
        let (mut one, mut other) = (itoa::Buffer::new(), itoa::Buffer::new());
        let reset = format_duration(reset);
        for (name, text) in [(limits, one.format(limit)), (remains, other.format(remaining)), (resets, &*reset)] {
            if let Ok(value) = HeaderValue::from_str(text) {
                headers.insert(name, value);
            }
        }
    }
}

/// The settings of the answer to a request whose key or group has spent its budget.
#[derive(Debug)]
pub(super) struct BudgetTerms {
    /// 429 or 402.
    pub(super) status: StatusCode,
    /// The contact for people.
    contact: Option<Arc<str>>,
    /// The time zone in which windows begin.
    zone: TimeZone,
}

impl BudgetTerms {
    /// Reads the settings from the configuration.
    pub(super) fn new(config: &Config) -> Self {
        let (money, contact) = (&config.money, config.server.contact.as_deref());
        Self { status: money.budget_status, contact: contact.map(Arc::from), zone: money.time_zone.clone() }
    }

    /// Returns the message: the spend, the budget, the time of renewal, and the contact. `whose` = for example "the key `a`".
    pub(super) fn spent(&self, whose: &str, budget: Budget, spent: u64, span: Span) -> String {
        let currency = budget.money.currency.name();
        let again = i64::try_from(span.to).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
        let renews = match again.filter(|_| budget.window != Window::Total) {
            Some(again) => {
                let zone = self.zone.iana_name().unwrap_or("UTC");
                format!(
                    "The budget renews on {} ({zone}).",
                    again.to_zoned(self.zone.clone()).strftime("%Y-%m-%d at %H:%M")
                )
            }
            None => "The budget does not renew.".to_owned(),
        };
        let contact = self.contact.as_ref().map(|contact| format!(" Contact: {contact}")).unwrap_or_default();
        format!("{} {currency} of the budget of {budget} of {whose} are spent. {renews}{contact}", decimal(spent))
    }
}

/// Formats a time as OpenAI and Go do: `12ms`, `8.64s`, `6m0s`. Rounds up, so that no client retries too early.
pub(super) fn format_duration(time: Duration) -> String {
    let millis = time.as_nanos().div_ceil(1_000_000);
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (minutes, millis) = (millis / 60_000, millis % 60_000);
    let seconds = if millis % 1000 == 0 {
        format!("{}s", millis / 1000)
    } else {
        format!("{}s", format!("{}.{:03}", millis / 1000, millis % 1000).trim_end_matches('0'))
    };
    if minutes == 0 { seconds } else { format!("{minutes}m{seconds}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_openai_does() {
        for (micros, text) in [
            (0, "0ms"),
            (1, "1ms"),
            (12_000, "12ms"),
            (999_001, "1s"),
            (8_640_000, "8.64s"),
            (59_999_500, "1m0s"),
            (90_500_000, "1m30.5s"),
            (360_000_000, "6m0s"),
        ] {
            assert_eq!(format_duration(Duration::from_micros(micros)), text);
        }
    }
}
