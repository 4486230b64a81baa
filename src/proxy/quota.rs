//! How a caller's limits stand, in the headers that OpenAI has for it (docs/wire.md, section 3).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use jiff::Timestamp;

use crate::{
    domain::{money::Budget, spending::Span},
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

/// Puts them into the head of an answer, in place of the upstream's: those are about the operator's account.
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
        headers.insert(limits, limit.into());
        headers.insert(remains, remaining.into());
        if let Ok(value) = HeaderValue::try_from(written(reset)) {
            headers.insert(resets, value);
        }
    }
}

/// That a budget is spent, and when there is one again.
pub(super) fn spent(whose: &str, name: &str, budget: &Budget, span: &Span) -> String {
    let again = i64::try_from(span.to).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
    let again = again.map(|again| format!(" There is one again from {again} on.")).unwrap_or_default();
    format!("The {whose} `{name}` has spent its budget of {budget}.{again}")
}

/// `12ms`, `8.64s`, `6m0s`: as OpenAI writes them, and Go. Rounded up, so that nobody comes too early.
pub(super) fn written(time: Duration) -> String {
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
            assert_eq!(written(Duration::from_micros(micros)), text);
        }
    }
}
