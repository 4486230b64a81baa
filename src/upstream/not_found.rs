//! Notices an upstream whose first answer is a 404. Mostly its base URL is wrong: `/v1` is missing at the end.

use std::sync::atomic::{AtomicBool, Ordering};

use http::{StatusCode, Uri};

/// Checks the first answer of an upstream.
#[derive(Debug, Default)]
pub(super) struct NotFound {
    /// Whether the first answer has come. Later answers are not checked.
    over: AtomicBool,
}

impl NotFound {
    /// Notes an answer. Logs a warning if the first answer is a 404 and the base URL does not end in `/v1`.
    pub(super) fn note(&self, status: StatusCode, upstream: &str, base_url: &Uri) {
        if self.over.load(Ordering::Relaxed) || self.over.swap(true, Ordering::Relaxed) {
            return;
        }
        if status == StatusCode::NOT_FOUND && !base_url.path().trim_end_matches('/').ends_with("/v1") {
            let base_url = base_url.to_string();
            tracing::warn!(
                upstream,
                base_url,
                "the upstream answered every request so far with 404, and `base_url` does not end in /v1, unlike most \
                 providers' URLs. If all requests get 404, set `base_url` to the URL that the provider's page shows in \
                 front of /responses or /chat/completions"
            );
        }
    }
}
