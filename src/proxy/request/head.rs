//! Checks the headers that describe the body, before the body is read.

use http::{
    HeaderMap, HeaderName,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};

use crate::{proxy::error::ApiError, upstream::headers::IDEMPOTENCY_KEY};

/// Headers that may appear only once, with their names in errors. `auth` checks `Authorization` itself.
const ONCE: [(HeaderName, &str); 3] = [
    (CONTENT_TYPE, "Content-Type"),
    (CONTENT_ENCODING, "Content-Encoding"),
    (HeaderName::from_static(IDEMPOTENCY_KEY), "Idempotency-Key"),
];

/// Checks the head of a request. If the request `has_body`, the body is JSON.
///
/// Every upstream gets Tidegate's own `Content-Type`. Tidegate still rejects another type, because that client sends another
/// kind of body than Tidegate reads.
///
/// # Errors
/// When such a header appears twice, or the body is not JSON in UTF-8.
pub(in crate::proxy) fn check(headers: &HeaderMap, has_body: bool) -> Result<(), ApiError> {
    for (name, shown) in &ONCE {
        if headers.get_all(name).iter().nth(1).is_some() {
            return Err(ApiError::repeated_header(shown));
        }
    }
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    match (media_type(value.as_bytes()), has_body) {
        (MediaType::Several, _) => Err(ApiError::repeated_header("Content-Type")),
        (MediaType::Other, true) => Err(ApiError::unsupported_media_type()),
        (MediaType::Json | MediaType::Other, _) => Ok(()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MediaType {
    /// JSON in UTF-8, or an empty value.
    Json,
    Other,
    /// Two values in one line. Proxies join repeated headers in this way.
    Several,
}

/// Returns the kind of a media type. JSON is what the MIME Sniffing Standard calls JSON: `application/json`, `text/json`, and
/// `application/` types that end in `+json`.
fn media_type(value: &[u8]) -> MediaType {
    // Nearly all clients send this value.
    if value.eq_ignore_ascii_case(b"application/json") {
        return MediaType::Json;
    }
    let mut parts = match parts(value) {
        Ok(parts) => parts.into_iter(),
        Err(media) => return media,
    };
    let essence = parts.next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    let is_json = match &*essence {
        b"" => value.trim_ascii().is_empty(),
        b"application/json" | b"text/json" => true,
        other => other.strip_prefix(b"application/").is_some_and(is_suffixed),
    };
    if is_json && parts.all(is_harmless) { MediaType::Json } else { MediaType::Other }
}

fn is_suffixed(subtype: &[u8]) -> bool {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(byte);
    subtype.strip_suffix(b"+json").is_some_and(|rest| !rest.is_empty() && rest.iter().all(is_token))
}

/// Whether the body stays JSON in UTF-8 with this parameter. Parameters other than `charset` mean nothing for JSON.
fn is_harmless(parameter: &[u8]) -> bool {
    let (name, value) = match parameter.iter().position(|byte| *byte == b'=') {
        Some(at) => (&parameter[..at], &parameter[at + 1..]),
        None => (parameter, &b""[..]),
    };
    // RFC 2231 allows a charset in parts or with a language, but HTTP does not. Some servers ignore such a charset, so it is
    // not known to be UTF-8.
    let (plain, extended) = match name.iter().position(|byte| *byte == b'*') {
        Some(at) => (&name[..at], true),
        None => (name, false),
    };
    if !plain.trim_ascii().eq_ignore_ascii_case(b"charset") {
        return true;
    }
    if extended {
        return false;
    }
    let value = value.trim_ascii();
    let quoted = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    let charset = match quoted {
        // A backslash escapes the next character.
        Some(quoted) => quoted.iter().copied().filter(|byte| *byte != b'\\').collect(),
        None => value.to_vec(),
    };
    // `utf8` is not a registered name, but many programs write it.
    charset.eq_ignore_ascii_case(b"utf-8") || charset.eq_ignore_ascii_case(b"utf8")
}

/// Splits at semicolons. Semicolons and commas within quotes do not count.
///
/// # Errors
/// When a comma separates several values, or a quote is not closed.
fn parts(value: &[u8]) -> Result<Vec<&[u8]>, MediaType> {
    let (mut parts, mut from) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in value.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return Err(MediaType::Several),
            b';' if !quoted => {
                parts.push(&value[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&value[from..]);
    if quoted { Err(MediaType::Other) } else { Ok(parts) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_and_semicolons_within_quotes_are_text() {
        for (value, wanted) in [
            (&b"application/json;p=\"a,b;charset=utf-7\""[..], MediaType::Json),
            (b"application/json;p=\"\\\",\";charset=utf-8", MediaType::Json),
            (b"application/json;p=\"\\\\\",text/plain", MediaType::Several),
            (b"application/json;p=\"\\\\\";charset=utf-7", MediaType::Other),
            (b"text/plain,application/json", MediaType::Several),
            (b" ", MediaType::Json),
            (b";", MediaType::Other),
        ] {
            assert_eq!(media_type(value), wanted, "{:?}", String::from_utf8_lossy(value));
        }
    }
}
