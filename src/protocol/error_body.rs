//! Reads the body of an error answer: its code, its type, its message.
//!
//! Providers send errors in several shapes, and this module reads all of them:
//! `{"error":{"message","type","code"}}` (OpenAI), the same in an array (Gemini), `{"code","message"}` (Alibaba),
//! `{"code","error":"text"}` (xAI), `{"message"}` (Cohere), `{"detail":"text"}`, and plain text.

use super::json::{DuplicatePolicy, Paths, Scanner, Value};

static PATHS: Paths = Paths::new(&[
    &["error", "code"],
    &["code"],
    &["error", "type"],
    &["type"],
    &["error", "status"],
    &["error", "message"],
    &["message"],
    &["error"],
    &["msg"],
    &["detail"],
    &["error_code"],
    &["status"],
    &["error", "error_code"],
    &["Error", "Code"],
]);
const CODES: [usize; 5] = [0, 1, 10, 12, 13];
const KINDS: [usize; 4] = [2, 3, 4, 11];
const MESSAGES: [usize; 5] = [5, 7, 6, 8, 9];

/// Deeper levels of nesting are not read. Error objects have three or four levels.
const MAX_DEPTH: u64 = 256;

/// The longest code that is logged, in bytes. Only plain identifiers are logged: other text of an upstream stays out of logs.
const LOGGED_LIMIT: usize = 64;

/// What the body of a provider's error answer says: its code, type and message. A field is empty if the answer has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorBody {
    /// `error.code`, or `code` at the top level, as text; some servers send a number.
    pub code: Option<Box<str>>,
    /// `error.type`, or `type` at the top level, or `error.status` (Gemini).
    pub kind: Option<Box<str>>,
    /// `error.message`, `error` itself, `message`, `msg` or `detail`. For a body without JSON: the whole text.
    pub message: String,
}

impl ErrorBody {
    /// Reads code, type and message from the beginning of a provider's error answer. The body may be cut anywhere; fields before the cut
    /// count.
    pub fn read(body: &[u8]) -> Self {
        let body = body.trim_ascii_start();
        // An array with one error: the scanner stops after the first object, and reads nothing else.
        let object = body.strip_prefix(b"[").map_or(body, <[u8]>::trim_ascii_start);
        if object.first() != Some(&b'{') {
            return Self { message: String::from_utf8_lossy(body).into_owned(), ..Self::default() };
        }
        let mut scanner = Scanner::new(&PATHS, DuplicatePolicy::LastWins).max_depth(MAX_DEPTH);
        // The scanner keeps the fields before a syntax error or a cut.
        let _ = scanner.feed(object);
        let text = |path: usize| -> Option<String> {
            let found = scanner.found(path)?;
            match &found.value {
                Value::String(text) => Some(text.to_string()),
                Value::Number(number) => Some(number.to_string()),
                Value::LongString => long(object, &found.range),
                _ => None,
            }
        };
        let first = |paths: &[usize]| paths.iter().find_map(|path| text(*path).filter(|text| !text.is_empty()));
        let listed = ArrayFields::read(object);
        Self {
            code: first(&CODES).or(listed.code).map(Into::into),
            kind: listed.reason.or_else(|| first(&KINDS)).map(Into::into),
            message: first(&MESSAGES).or(listed.message).unwrap_or_default(),
        }
    }

    /// Returns the error code that a provider sent, or else its error type, for the log. `None` if the text is no plain identifier.
    pub fn logged(&self) -> Option<Box<str>> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let name = self.code.as_ref().or(self.kind.as_ref())?;
        (name.len() <= LOGGED_LIMIT && name.bytes().all(is_plain)).then(|| name.clone())
    }
}

/// Fields inside of arrays, which the scanner does not read: the first of `errors`, and Gemini's `error.details[].reason`.
#[derive(Default)]
struct ArrayFields {
    code: Option<String>,
    reason: Option<String>,
    message: Option<String>,
}

impl ArrayFields {
    fn read(body: &[u8]) -> Self {
        let has = |name: &[u8]| memchr::memmem::find(body, name).is_some();
        if !has(b"\"errors\"") && !has(b"\"reason\"") {
            return Self::default();
        }
        // A body that was cut is not valid JSON, so that its arrays are ignored.
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(body) else { return Self::default() };
        let text = |value: Option<&serde_json::Value>| value.and_then(|value| value.as_str()).map(ToOwned::to_owned);
        let first = value.get("errors").and_then(|errors| errors.get(0));
        let named = |name: &str| text(first.and_then(|first| first.get(name)));
        let details = value.get("error").and_then(|error| error.get("details")).and_then(|details| details.as_array());
        Self {
            code: named("code").or_else(|| named("type")),
            reason: details.and_then(|details| details.iter().find_map(|detail| text(detail.get("reason")))),
            message: named("message"),
        }
    }
}

/// Returns a string that is longer than the scanner keeps, unescaped.
fn long(body: &[u8], range: &std::ops::Range<u64>) -> Option<String> {
    let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX);
    serde_json::from_slice(body.get(at(range.start)..at(range.end))?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> (Option<String>, Option<String>, String) {
        let ErrorBody { code, kind, message } = ErrorBody::read(body.as_bytes());
        (code.map(Into::into), kind.map(Into::into), message)
    }

    #[test]
    fn every_shape_of_an_error_is_read() {
        let long = "余额不足 ".repeat(1000);
        let cases = [
            (r#"{"error":{"message":"m","type":"t","code":"c"}}"#, "c", "t", "m"),
            (r#" [{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT"}}]"#, "400", "INVALID_ARGUMENT", "m"),
            (r#"[ {"error":{"code":400,"message":"m"}}, {"x":1}]"#, "400", "", "m"),
            (r#"{"code":"InvalidApiKey","message":"m","request_id":"r"}"#, "InvalidApiKey", "", "m"),
            (
                r#"{"code":"Client specified an invalid argument","error":"m"}"#,
                "Client specified an invalid argument",
                "",
                "m",
            ),
            (
                r#"{"type":"error","error":{"type":"authentication_error","message":"m"}}"#,
                "",
                "authentication_error",
                "m",
            ),
            (r#"{"message":"m"}"#, "", "", "m"),
            (r#"{"msg":"m","code":"c"}"#, "c", "", "m"),
            (r#"{"detail":"m"}"#, "", "", "m"),
            (r#"{"error_code":"InvalidApiKey","error_msg":"m"}"#, "InvalidApiKey", "", ""),
            (r#"{"status":"INVALID_API_KEY","message":"m"}"#, "", "INVALID_API_KEY", "m"),
            (r#"{"errors":[{"code":"invalid_api_key","message":"m"}]}"#, "invalid_api_key", "", "m"),
            (
                r#"{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT","details":[{"a":1},{"reason":"API_KEY_INVALID"}]}}"#,
                "400",
                "API_KEY_INVALID",
                "m",
            ),
            (r#"{"detail":[{"msg":"m"}]}"#, "", "", ""),
            (r#"{"error":{"message":"\u4f59\u989d","code":null,"type":""}}"#, "", "", "余额"),
            ("Invalid API key", "", "", "Invalid API key"),
            ("<html>Invalid API key</html>", "", "", "<html>Invalid API key</html>"),
            ("", "", "", ""),
            ("[]", "", "", "[]"),
            ("{", "", "", ""),
            // Cut or broken: what came before counts.
            (r#"{"error":{"code":"c","message":"beg"#, "c", "", ""),
            (r#"{"error":{"code":"c"},nonsense"#, "c", "", ""),
        ];
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        for (body, code, kind, message) in cases {
            assert_eq!(read(body), (some(code), some(kind), message.to_owned()), "{body}");
        }
        assert_eq!(read(&format!(r#"{{"error":{{"message":"{long}"}}}}"#)).2, long);
    }

    #[test]
    fn the_log_gets_only_short_identifiers() {
        let of = |code: &str| ErrorBody { code: Some(code.into()), ..ErrorBody::default() }.logged();
        assert_eq!(of("invalid_api-key.1").as_deref(), Some("invalid_api-key.1"));
        assert_eq!(of("two words"), None);
        assert_eq!(of(&"x".repeat(65)), None);
    }
}
