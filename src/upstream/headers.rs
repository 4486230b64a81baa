//! What passes in headers, both ways: literal lists, everything else stays behind (docs/wire.md, sections 3 and 4).

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE},
};

use super::Credential;
use crate::config;

/// A token of the account that issued it, by which its provider finds the turn again (docs/wire.md, section 1).
pub const TURN_STATE: &str = "x-codex-turn-state";

/// Which of the client's request headers go up to this upstream.
///
/// Never: its `Authorization` and other keys, cookies, forwarding headers, hop-by-hop and framing headers (the
/// client of the HTTP library makes its own), `Content-Encoding` (the body was decoded), digests of the body.
fn goes_up(name: &str, upstream: &config::Upstream) -> bool {
    match name {
        // What is asked for and how it is written.
        "accept" | "accept-language" | "content-type" => true,
        // Who asks: providers choose dialects and limits by it.
        "user-agent" | "originator" | "version" => true,
        // Opts into variants of the API.
        "openai-beta" => true,
        // The client's own correlation and repeat protection.
        "x-client-request-id" | "idempotency-key" => true,
        // Codex: cache locality of the provider; the `lite` one changes the body's dialect.
        "session-id"
        | "thread-id"
        | "x-openai-internal-codex-responses-lite"
        | "x-openai-subagent"
        | "x-oai-attestation" => true,
        // A client's organisation means nothing on the operator's account and can make it refuse.
        "openai-organization" | "openai-project" => upstream.organization_headers,
        "traceparent" | "tracestate" => upstream.trace_headers,
        // SDK telemetry (retry count, timeouts).
        _ if name.starts_with("x-stainless-") => true,
        // Holds installation and thread ids: a switch per upstream.
        _ if name.starts_with("x-codex-") => upstream.codex_headers,
        _ => false,
    }
}

/// Which of the upstream's response headers come down to the client.
///
/// Never: `Set-Cookie` (of the operator's account), `openai-model` (Codex warns of a rerouted model when it differs
/// from the name it asked for), `openai-organization` and `openai-project` (the operator's account), `Location`,
/// CORS, `Server`, hop-by-hop and framing headers.
fn comes_down(name: &str) -> bool {
    match name {
        // What the body is. A success in a coding that the upstream used unasked passes unread.
        "content-type" | "content-encoding" | "content-language" | "cache-control" => true,
        // When to come again.
        "retry-after" | "retry-after-ms" | "x-should-retry" => true,
        // Which request it was.
        "x-request-id" | "cf-ray" => true,
        "openai-processing-ms" | "openai-version" => true,
        // Codex reads these.
        "x-models-etag" | "x-reasoning-included" => true,
        _ => name.starts_with("x-ratelimit-") || name.starts_with("x-codex-"),
    }
}

/// What `Connection` says: the headers that it names were meant for one hop only, whatever they are called.
struct Hop(Vec<HeaderValue>);

impl Hop {
    fn of(headers: &HeaderMap) -> Self {
        Self(headers.get_all(CONNECTION).iter().cloned().collect())
    }

    fn names(&self, header: &HeaderName) -> bool {
        let mut tokens = self.0.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(header.as_str().as_bytes()))
    }
}

/// The client's headers that may go up to `upstream`, with the upstream's own set over them, and its credential. What it has
/// as [`TURN_STATE`] was issued by this account, if that is known, and goes nowhere else.
pub fn up(
    client: &HeaderMap,
    upstream: &config::Upstream,
    credential: Option<&Credential>,
    issuer: Option<u64>,
) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(client.len() + 4);
    let hop = Hop::of(client);
    let account = credential.map(|credential| credential.seat);
    let goes_home = issuer.is_some() && issuer == account;
    for (name, value) in client {
        if goes_up(name.as_str(), upstream) && !hop.names(name) && (goes_home || name != TURN_STATE) {
            headers.append(name.clone(), value.clone());
        }
    }
    // The answer is looked at for usage, and Codex cannot decode a compressed one.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    for name in upstream.headers.keys() {
        headers.remove(name);
    }
    headers.extend(upstream.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
    if let Some(value) = credential.and_then(|credential| credential.value.clone()) {
        headers.insert(upstream.auth_header.clone(), value);
    }
    headers
}

/// The upstream's headers that may come down.
pub fn down(upstream: HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(upstream.len() + 3);
    let hop = Hop::of(&upstream);
    let mut last: Option<HeaderName> = None;
    let mut upstream = upstream.into_iter().peekable();
    while let Some((name, value)) = upstream.next() {
        // A repeated header comes without its name.
        if name.is_some() {
            last = name.filter(|name| comes_down(name.as_str()) && !hop.names(name));
        }
        let is_repeated = upstream.peek().is_some_and(|(name, _)| name.is_none());
        // To copy a name costs an allocation.
        let name = if is_repeated { last.clone() } else { last.take() };
        if let Some(name) = name {
            headers.append(name, value);
        }
    }
    headers
}

/// What a body is, by its content type (never by `Accept`, docs/wire.md, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// An event stream.
    EventStream,
    /// Can be looked at as JSON.
    Json,
    /// Plain text, or nothing said: JSON all the same from servers that set no content type, as Go's then says `text/plain`.
    Plain,
    /// A web page: some portal or proxy answered in place of the API.
    Html,
    /// Anything else.
    Other,
}

impl Media {
    /// Of the body that these headers stand before.
    pub fn of(headers: &HeaderMap) -> Self {
        let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media = value.split(';').next().unwrap_or_default().trim();
        if media.eq_ignore_ascii_case("text/event-stream") {
            Self::EventStream
        } else if media.eq_ignore_ascii_case("application/json") || media.to_ascii_lowercase().ends_with("+json") {
            Self::Json
        } else if media.eq_ignore_ascii_case("text/html") {
            Self::Html
        } else if media.is_empty() || media.eq_ignore_ascii_case("text/plain") {
            Self::Plain
        } else {
            Self::Other
        }
    }
}

/// Whether a body is coded, so that it cannot be looked at.
pub fn is_coded(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_ENCODING).is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}
