//! Errors before an answer begins. Each personality writes them in its own shape.

use http::StatusCode;

/// An error answer: its status and the four fields of an OpenAI error.
#[derive(Clone, Debug)]
pub(super) struct SimulatedError {
    pub(super) status: StatusCode,
    pub(super) kind: &'static str,
    pub(super) code: Option<&'static str>,
    pub(super) param: Option<&'static str>,
    pub(super) message: String,
    /// Whether a directive named the code. Such a code is sent even by a provider that documents another code for the
    /// status.
    pub(super) verbatim: bool,
    /// Seconds for `Retry-After`.
    pub(super) retry_after: Option<u64>,
    /// Methods for `Allow`.
    pub(super) allow: Option<&'static str>,
}

impl SimulatedError {
    fn new(status: StatusCode, kind: &'static str, code: Option<&'static str>, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, kind, code, param: None, message, verbatim: false, retry_after: None, allow: None }
    }

    /// 400 about a field of the request.
    pub(super) fn request(code: Option<&'static str>, param: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { param, ..Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, message) }
    }

    pub(super) fn no_model(name: &str) -> Self {
        Self::request(Some("model_not_found"), Some("model"), format!("There is no model `{name}`."))
    }

    pub(super) fn no_key() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", None, "No bearer key in the Authorization header.")
    }

    /// 401. The message shows both ends of the key, as the original does. A gateway must hide that from its clients.
    pub(super) fn bad_key(key: &str) -> Self {
        let start: String = key.chars().take(7).collect();
        let end: String = key.chars().skip(key.chars().count().saturating_sub(4)).collect();
        let message = format!("This API key is not valid: {start}********{end}.");
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", Some("invalid_api_key"), message)
    }

    pub(super) fn no_such_url(method: &http::Method, path: &str) -> Self {
        let message = format!("There is nothing at {method} {path}.");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", None, message)
    }

    pub(super) fn method(allow: &'static str) -> Self {
        let message = "This URL takes another method.";
        let code = Some("method_not_allowed");
        let fault = Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", code, message);
        Self { allow: Some(allow), ..fault }
    }

    /// 404: the account has no such `thing`. The answer does not show whether another account has it.
    pub(super) fn unknown(thing: &str, id: &str) -> Self {
        let message = format!("{thing} with id '{id}' not found.");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", None, message)
    }

    /// 404 for an input item that refers to an unknown item.
    pub(super) fn unknown_item(id: &str) -> Self {
        let message = format!(
            "Item with id '{id}' not found. Items are not persisted when `store` is set to false. Try again with `store` \
             set to true, or remove this item from your input."
        );
        Self { param: Some("input"), ..Self::new(StatusCode::NOT_FOUND, "invalid_request_error", None, message) }
    }

    /// 400 with a code that clients act on. Every provider therefore sends the same code.
    pub(super) fn known(code: &'static str, param: &'static str, message: impl Into<String>) -> Self {
        Self { verbatim: true, ..Self::request(Some(code), Some(param), message) }
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("The request body has more than {} MiB.", limit >> 20);
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", Some("request_too_large"), message)
    }

    /// 500: the request body was incomplete, or no ids could be created.
    pub(super) fn internal(message: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", Some("server_error"), message)
    }

    /// The error of `error=…`: a name in [`NAMED`], or a status from 400 to 599.
    pub(super) fn named(what: &str) -> Option<Self> {
        if let Some(&(_, status, kind, code, verbatim)) = NAMED.iter().find(|row| row.0 == what) {
            let status = StatusCode::from_u16(status).ok()?;
            return Some(Self { verbatim, ..Self::new(status, kind, Some(code), simulated(what)) });
        }
        let status = what.parse().ok().filter(|status| (400..600).contains(status))?;
        let status = StatusCode::from_u16(status).ok()?;
        let (kind, code) = match status.as_u16() {
            401 => ("invalid_request_error", Some("invalid_api_key")),
            429 => ("requests", Some("rate_limit_exceeded")),
            503 => ("service_unavailable_error", Some("server_is_overloaded")),
            500.. => ("server_error", Some("server_error")),
            _ => ("invalid_request_error", None),
        };
        Some(Self::new(status, kind, code, simulated(what)))
    }
}

fn simulated(what: &str) -> String {
    format!("Simulated error: {what}.")
}

/// The names that `error=` accepts: name, status, type, code, and whether every provider uses the same code.
///
/// invented: `insufficient_user_quota`, because no page but Ace Data Cloud's names an answer to an empty balance, and
/// `content_policy_violation` and `unsupported_country_region_territory` as the two kinds of 403 that are not about the key.
const NAMED: [(&str, u16, &str, &str, bool); 9] = [
    ("context_length_exceeded", 400, "invalid_request_error", "context_length_exceeded", true),
    ("invalid_encrypted_content", 400, "invalid_request_error", "invalid_encrypted_content", true),
    ("previous_response_not_found", 400, "invalid_request_error", "previous_response_not_found", true),
    ("model_not_found", 404, "invalid_request_error", "model_not_found", true),
    ("unauthorized", 401, "invalid_request_error", "invalid_api_key", false),
    ("balance", 403, "insufficient_quota", "insufficient_user_quota", false),
    ("policy", 403, "invalid_request_error", "content_policy_violation", true),
    ("region", 403, "invalid_request_error", "unsupported_country_region_territory", true),
    ("insufficient_quota", 429, "insufficient_quota", "insufficient_quota", true),
];

/// The names that `error=` accepts besides a status.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    NAMED.iter().map(|row| row.0)
}
