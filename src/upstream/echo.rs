//! Masks a credential that an upstream repeats in its answer, before a client, the log or the ledger gets the answer.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use crate::{domain::id::RequestId, metrics::UpstreamHealth, protocol::mask::Mask};

/// An upstream that echoes does so with every error. The log gets one line in this time for each credential and worker.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The secrets to find in the answers to one credential. Made once, when the configuration is loaded.
pub(super) struct CredentialPatterns {
    mask: Mask,
    upstream: Arc<str>,
    credential: Option<Arc<str>>,
    metrics: UpstreamHealth,
    told: Mutex<Option<Instant>>,
}

impl fmt::Debug for CredentialPatterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

impl CredentialPatterns {
    /// Makes the patterns for the credential of this name and secret, and for the upstream's own headers that look like secrets.
    /// Returns `None` where no pattern exists.
    pub(super) fn new(
        upstream: &Arc<str>,
        credential: Option<(&Arc<str>, &str)>,
        headers: &HeaderMap,
        metrics: UpstreamHealth,
    ) -> Option<Arc<Self>> {
        let of_headers = headers.iter().filter_map(|(name, value)| secret_of(name.as_str(), value.as_bytes()));
        let mask = Mask::new(credential.iter().map(|(_, text)| text.as_bytes()).chain(of_headers))?;
        let credential = credential.map(|(name, _)| Arc::clone(name));
        Some(Arc::new(Self { mask, upstream: Arc::clone(upstream), credential, metrics, told: Mutex::default() }))
    }

    fn tell(&self, id: RequestId) {
        self.metrics.echoed();
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_some_and(|told| now.saturating_duration_since(told) < LOG_INTERVAL) {
            return;
        }
        *told = Some(now);
        tracing::error!(
            %id,
            upstream = &*self.upstream,
            credential = self.credential.as_deref(),
            "upstream_echoed_credential: the upstream sent a part of the credential of a request back. Clients and \
             this log get `*` in the place of that part. Tell the provider, and replace the credential if others can \
             read those answers"
        );
    }
}

/// Returns the secret part of a header that the configuration adds, if the header's name or its value looks like a secret. Other
/// values, such as versions and addresses, also occur in ordinary texts.
fn secret_of<'a>(name: &str, value: &'a [u8]) -> Option<&'a [u8]> {
    const NAMES: [&str; 9] =
        ["key", "auth", "token", "secret", "cookie", "password", "credential", "session", "signature"];
    let secret = without_scheme(value);
    (NAMES.iter().any(|word| name.contains(word)) || is_random(secret)).then_some(secret)
}

/// Returns the value without its scheme, such as `Bearer`.
fn without_scheme(value: &[u8]) -> &[u8] {
    let space = value.iter().position(|byte| *byte == b' ');
    space.map_or(value, |space| value[space..].trim_ascii())
}

/// Whether a value has such a long run of mixed letters and digits that no person wrote the value.
fn is_random(value: &[u8]) -> bool {
    const RUN: usize = 16;
    let is_one_word = value.iter().all(|byte| byte.is_ascii_graphic());
    let mut runs = value.split(|byte| !byte.is_ascii_alphanumeric());
    let is_mixed = |run: &[u8]| run.iter().any(u8::is_ascii_digit) && run.iter().any(u8::is_ascii_alphabetic);
    is_one_word && runs.any(|run| run.len() >= RUN && is_mixed(run))
}

/// Watches one answer of an upstream for the credential of its request: masks the credential, and counts and logs that the upstream
/// repeated it.
#[derive(Debug)]
pub struct EchoWatch {
    secrets: Option<Arc<CredentialPatterns>>,
    id: RequestId,
    told: bool,
}

impl EchoWatch {
    /// Makes the watch for the answer to request `id`.
    pub(super) fn new(secrets: Option<Arc<CredentialPatterns>>, id: RequestId) -> Self {
        Self { secrets, id, told: false }
    }

    /// Returns the secrets to mask in this answer: those of the credential that Tidegate sent. `None` if there is nothing to mask.
    pub fn mask(&self) -> Option<&Mask> {
        self.secrets.as_deref().map(|secrets| &secrets.mask)
    }

    /// Counts and logs that the upstream's answer repeats the credential that Tidegate sent. Only the first call for an answer counts.
    pub fn tell(&mut self) {
        if let Some(secrets) = self.secrets.as_deref().filter(|_| !std::mem::replace(&mut self.told, true)) {
            secrets.tell(self.id);
        }
    }

    /// Replaces the credential that Tidegate sent by asterisks in the headers of the upstream's answer.
    pub fn mask_headers(&mut self, headers: &mut HeaderMap) {
        let Some(mask) = self.mask() else { return };
        let mut any = false;
        for value in headers.values_mut() {
            if let Some(masked) = mask.masked(value.as_bytes()) {
                any = true;
                // A valid header value stays valid when stars replace parts of it.
                *value = HeaderValue::from_bytes(&masked).unwrap_or(HeaderValue::from_static("*"));
            }
        }
        if any {
            self.tell();
        }
    }

    /// Replaces the credential that Tidegate sent by asterisks in a name from the upstream's answer, which goes to the log and the
    /// ledger.
    pub fn mask_name(&mut self, name: &mut Option<Box<str>>) {
        let (Some(mask), Some(text)) = (self.mask(), &name) else { return };
        if let Some(masked) = mask.masked(text.as_bytes()) {
            *name = Some(String::from_utf8_lossy(&masked).into());
            self.tell();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_headers_are_recognised_by_name_and_by_value() {
        for (name, value, secret) in [
            ("x-api-key", "plain", Some("plain")),
            ("x-session", "plain", Some("plain")),
            ("x-acme", "Bearer sk-0123456789abcdef0", Some("sk-0123456789abcdef0")),
            ("x-acme", "0123456789abcdef", Some("0123456789abcdef")),
            ("x-acme", "0123456789012345", None),
            ("anthropic-beta", "prompt-caching-2024-07-31", None),
            ("x-request-tag", "550e8400-e29b-41d4-a716-446655440000", None),
            ("http-referer", "https://gateway.example.com/relay/v1", None),
            ("x-title", "Our gateway for all of the company", None),
            ("x-region", "internationalisation", None),
        ] {
            let found = secret_of(name, value.as_bytes()).map(|secret| std::str::from_utf8(secret).unwrap());
            assert_eq!(found, secret, "{name}: {value}");
        }
    }
}
