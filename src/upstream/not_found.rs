//! Notices an upstream that answered nothing but 404: mostly its base URL is wrong, and `/v1` is missing at its end.

use std::sync::atomic::{AtomicBool, Ordering};

use http::{StatusCode, Uri};

/// What an upstream answered so far.
#[derive(Debug, Default)]
pub(super) struct NotFound {
    /// Something else than 404, or the operator was told: nothing is left to notice.
    over: AtomicBool,
}

impl NotFound {
    /// Notes an answer. Tells the operator of the first one if it is a 404 and the base URL does not end in `/v1`.
    pub(super) fn note(&self, status: StatusCode, upstream: &str, base_url: &Uri) {
        if self.over.load(Ordering::Relaxed) || self.over.swap(true, Ordering::Relaxed) {
            return;
        }
        if status == StatusCode::NOT_FOUND && !base_url.path().trim_end_matches('/').ends_with("/v1") {
            let base_url = base_url.to_string();
            tracing::warn!(
                upstream,
                base_url,
                "the upstream answered every request so far with 404, and its `base_url` does not end in /v1, as most providers' do. If \
                 all requests get 404, set `base_url` to the URL that the provider's page shows in front of /responses or /chat/completions"
            );
        }
    }
}
