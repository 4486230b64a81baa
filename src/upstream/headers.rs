//! Headers that pass in both directions, as literal lists. All other headers are dropped (docs/wire.md, sections 3 and 4).

use data_encoding::HEXLOWER;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE},
};
use sha2::{Digest, Sha256};

use super::Credential;
use crate::{config, domain::origin::Owner, protocol::coding::Coded};

/// The type of every body that is sent upstream, whatever type the client named: the scan has made sure that the body is JSON.
const JSON: &str = "application/json";

/// The name of the header by which providers recognise a request that is sent again.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The name of Codex's header for the state of a turn. Its value is valid only at the account that issued it (docs/wire.md, section 1).
pub const TURN_STATE: &str = "x-codex-turn-state";

/// Whether this request header of the client may be sent to this upstream.
///
/// Sent in another form: `Content-Type` (see [`JSON`]) and `Idempotency-Key` (see [`repeat_key`]). Never sent: the client's
/// `Authorization` and other keys, cookies, forwarding headers, hop-by-hop and framing headers (the HTTP library makes its own),
/// `Content-Encoding` (the body was decoded), digests of the body.
fn may_go_upstream(name: &str, upstream: &config::Upstream) -> bool {
    match name {
        // The form of the answer.
        "accept" | "accept-language" => true,
        // The client program: providers choose dialects and limits by it.
        "user-agent" | "originator" | "version" => true,
        // The client's choice of API variants.
        "openai-beta" => true,
        // The client's own correlation id.
        "x-client-request-id" => true,
        // Codex: cache locality at the provider. The `lite` header changes the body's dialect.
        "session-id"
        | "thread-id"
        | "x-openai-internal-codex-responses-lite"
        | "x-openai-subagent"
        | "x-oai-attestation" => true,
        // A client's organisation has no meaning on the operator's account, and the provider may refuse the request for it.
        "openai-organization" | "openai-project" => upstream.organization_headers,
        "traceparent" | "tracestate" => upstream.trace_headers,
        // SDK telemetry (retry count, timeouts).
        _ if name.starts_with("x-stainless-") => true,
        // Contains installation and thread ids, so each upstream has a switch.
        _ if name.starts_with("x-codex-") => upstream.codex_headers,
        _ => false,
    }
}

/// Whether this response header of the upstream may be sent to the client.
///
/// Never sent: `Set-Cookie` (of the operator's account), `openai-model` (Codex warns of a rerouted model when the value differs
/// from the requested name), `openai-organization` and `openai-project` (the operator's account), `Location`, CORS, `Server`,
/// hop-by-hop and framing headers.
fn may_go_downstream(name: &str) -> bool {
    match name {
        // The form of the body. A success in an unrequested coding passes unchanged, or is refused.
        "content-type" | "content-encoding" | "content-language" | "cache-control" => true,
        // The time to wait before the next try.
        "retry-after" | "retry-after-ms" | "x-should-retry" => true,
        // The id of the request.
        "x-request-id" | "cf-ray" => true,
        "openai-processing-ms" | "openai-version" => true,
        // Codex reads these.
        "x-models-etag" | "x-reasoning-included" => true,
        _ => name.starts_with("x-ratelimit-") || name.starts_with("x-codex-"),
    }
}

/// The values of `Connection`. The headers that they name are meant for one hop only.
struct HopHeaders(Vec<HeaderValue>);

impl HopHeaders {
    fn of(headers: &HeaderMap) -> Self {
        Self(headers.get_all(CONNECTION).iter().cloned().collect())
    }

    fn names(&self, header: &HeaderName) -> bool {
        let mut tokens = self.0.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(header.as_str().as_bytes()))
    }
}

/// Facts about a request that decide which of its headers go upstream: whether the request has a body, its owner, and the account of its
/// turn state.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts {
    /// Whether the request has a body for the upstream.
    pub has_body: bool,
    /// The owner of the key that sent the request.
    pub owner: Owner,
    /// The account that issued the request's [`TURN_STATE`], if known. The header is sent to that account only.
    pub turn_issuer: Option<u64>,
}

/// Returns the headers of the request to `upstream`: the client's permitted headers, overridden by the upstream's own, and its
/// credential.
pub fn for_upstream(
    client: &HeaderMap,
    facts: RequestFacts,
    upstream: &config::Upstream,
    credential: Option<&Credential>,
) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(client.len() + 4);
    let hop_headers = HopHeaders::of(client);
    let account = credential.map(|credential| credential.account_id);
    let is_turn_issuer = facts.turn_issuer.is_some() && facts.turn_issuer == account;
    for (name, value) in client {
        if may_go_upstream(name.as_str(), upstream)
            && !hop_headers.names(name)
            && (is_turn_issuer || name != TURN_STATE)
        {
            headers.append(name.clone(), value.clone());
        }
    }
    // A provider that chose its parser by the client's own type could read another model and other ids than the scan checked.
    if facts.has_body || client.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    }
    let repeat_name = HeaderName::from_static(IDEMPOTENCY_KEY);
    if let Some(value) = client.get(&repeat_name).filter(|value| !value.is_empty() && !hop_headers.names(&repeat_name))
        && let Ok(value) = HeaderValue::try_from(repeat_key(value, facts.owner, credential))
    {
        headers.insert(repeat_name, value);
    }
    // The gateway reads usage from the answer, and Codex cannot decode a compressed one.
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

/// Returns the `Idempotency-Key` for the upstream: a hash of the client's value, of the client's key, and of the credential.
///
/// Providers look up such keys per account, and tenants share accounts, so equal values of two tenants must not collide. The
/// credential in the hash keeps the provider from guessing the value, and needs no setting. So the hash is the same at every
/// replica and after a restart. Keys of one group get separate hashes: a group shares state, but no repeated requests.
fn repeat_key(value: &HeaderValue, owner: Owner, credential: Option<&Credential>) -> String {
    let secret =
        credential.and_then(|credential| credential.value.as_ref()).map(HeaderValue::as_bytes).unwrap_or_default();
    let mut hash = Sha256::new_with_prefix(b"tidegate idempotency key\0");
    hash.update((secret.len() as u64).to_le_bytes());
    hash.update(secret);
    hash.update(owner.key.to_le_bytes());
    hash.update(value.as_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    // 128 bits are enough to rule out collisions.
    format!("tg-{}", HEXLOWER.encode(&digest[..16]))
}

/// Returns the headers of an upstream's answer that may be sent to the client.
pub fn for_client(upstream: HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(upstream.len() + 3);
    let hop_headers = HopHeaders::of(&upstream);
    let mut last: Option<HeaderName> = None;
    let mut upstream = upstream.into_iter().peekable();
    while let Some((name, value)) = upstream.next() {
        // `HeaderMap` yields the name of a repeated header only once.
        if name.is_some() {
            last = name.filter(|name| may_go_downstream(name.as_str()) && !hop_headers.names(name));
        }
        let is_repeated = upstream.peek().is_some_and(|(name, _)| name.is_none());
        // Cloning a name costs an allocation.
        let name = if is_repeated { last.clone() } else { last.take() };
        if let Some(name) = name {
            headers.append(name, value);
        }
    }
    headers
}

/// The kind of an answer's body (event stream, JSON, web page and so on), by its `Content-Type` (never by `Accept`, docs/wire.md, section
/// 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// An event stream.
    EventStream,
    /// Readable as JSON.
    Json,
    /// Plain text, or no type. The body may still be JSON: servers that set no type send JSON without one, or, in Go, as
    /// `text/plain`.
    Plain,
    /// A web page: a portal or proxy answered in place of the API.
    Html,
    /// Other text, such as XML.
    Text,
    /// Anything else.
    Other,
}

impl Media {
    /// Returns the kind of the body that has these response headers, by `Content-Type`.
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

/// Whether these headers name a content coding, so that the body is compressed.
pub fn is_coded(headers: &HeaderMap) -> bool {
    coded(headers) != Coded::Plain
}

/// Returns the content coding that these headers name for the body.
pub fn coded(headers: &HeaderMap) -> Coded {
    Coded::of(headers.get_all(CONTENT_ENCODING).iter().map(|value| value.to_str().ok()))
}
