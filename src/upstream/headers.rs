//! What passes in headers, both ways: literal lists, everything else stays behind (docs/wire.md, sections 3 and 4).

use data_encoding::HEXLOWER;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE},
};
use sha2::{Digest, Sha256};

use super::Credential;
use crate::{config, domain::origin::Owner, protocol::coding::Coded};

/// The type of every body that goes up, whatever the client calls it: the scan has made sure that it is JSON.
const JSON: &str = "application/json";

/// By which providers know a request that is sent again.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A token of the account that issued it, by which its provider finds the turn again (docs/wire.md, section 1).
pub const TURN_STATE: &str = "x-codex-turn-state";

/// Which of the client's request headers go up to this upstream.
///
/// Never as they are: `Content-Type` (see [`JSON`]) and `Idempotency-Key` (see [`repeat_key`]).
/// Never: its `Authorization` and other keys, cookies, forwarding headers, hop-by-hop and framing headers (the
/// client of the HTTP library makes its own), `Content-Encoding` (the body was decoded), digests of the body.
fn goes_up(name: &str, upstream: &config::Upstream) -> bool {
    match name {
        // What is asked for.
        "accept" | "accept-language" => true,
        // Who asks: providers choose dialects and limits by it.
        "user-agent" | "originator" | "version" => true,
        // Opts into variants of the API.
        "openai-beta" => true,
        // The client's own correlation.
        "x-client-request-id" => true,
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
        // What the body is. A success in a coding that the upstream used unasked passes as it came, or is refused.
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

/// What headers alone do not tell of a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts {
    /// Whether a body goes up.
    pub has_body: bool,
    /// Whose key sent it.
    pub owner: Owner,
    /// The account that issued the [`TURN_STATE`] among its headers, if that is known: it goes nowhere else.
    pub turn_issuer: Option<u64>,
}

/// The client's headers that may go up to `upstream`, with the upstream's own set over them, and its credential.
pub fn up(
    client: &HeaderMap,
    facts: RequestFacts,
    upstream: &config::Upstream,
    credential: Option<&Credential>,
) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(client.len() + 4);
    let hop = Hop::of(client);
    let account = credential.map(|credential| credential.seat);
    let goes_home = facts.turn_issuer.is_some() && facts.turn_issuer == account;
    for (name, value) in client {
        if goes_up(name.as_str(), upstream) && !hop.names(name) && (goes_home || name != TURN_STATE) {
            headers.append(name.clone(), value.clone());
        }
    }
    // A provider that chooses its parser by the client's own type could read another model and other ids than we checked.
    if facts.has_body || client.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    }
    let repeat_name = HeaderName::from_static(IDEMPOTENCY_KEY);
    if let Some(value) = client.get(&repeat_name).filter(|value| !value.is_empty() && !hop.names(&repeat_name))
        && let Ok(value) = HeaderValue::try_from(repeat_key(value, facts.owner, credential))
    {
        headers.insert(repeat_name, value);
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

/// `Idempotency-Key` as it goes up: a hash of the client's value, of who sent it, and of the credential in use.
///
/// Providers look such keys up per account, and tenants share accounts: the same value of two tenants must not meet. The credential
/// keeps the provider from guessing the value, and needs no setting; so the hash is the same at every replica and after a restart.
/// Keys of one group get hashes of their own: a group shares state, not repeats.
fn repeat_key(value: &HeaderValue, owner: Owner, credential: Option<&Credential>) -> String {
    let secret =
        credential.and_then(|credential| credential.value.as_ref()).map(HeaderValue::as_bytes).unwrap_or_default();
    let mut hash = Sha256::new_with_prefix(b"tidegate idempotency key\0");
    hash.update((secret.len() as u64).to_le_bytes());
    hash.update(secret);
    hash.update(owner.key.to_le_bytes());
    hash.update(value.as_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    // 128 bits are enough that no two of them are alike.
    format!("tg-{}", HEXLOWER.encode(&digest[..16]))
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
    /// Other text, as XML.
    Text,
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
            let media = media.to_ascii_lowercase();
            let is_text = media.starts_with("text/") || media.ends_with("/xml") || media.ends_with("+xml");
            if is_text { Self::Text } else { Self::Other }
        }
    }
}

/// Whether a body is coded, so that its bytes are not those of its text.
pub fn is_coded(headers: &HeaderMap) -> bool {
    coded(headers) != Coded::Plain
}

/// The coding of a body.
pub fn coded(headers: &HeaderMap) -> Coded {
    Coded::of(headers.get_all(CONTENT_ENCODING).iter().map(|value| value.to_str().ok()))
}
