//! The query of a URL.

/// The decoded value of a parameter. If it occurs twice, the first one counts.
pub(super) fn value(query: Option<&str>, name: &str) -> Option<String> {
    let pairs = query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.into_iter().find(|(key, _)| decode(key) == name).map(|(_, value)| decode(value))
}

/// Decodes `%41` and `+` as in HTML forms. An invalid escape stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        let escaped = text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let (byte, length) = match (byte, escaped) {
            (b'%', Some(escaped)) => (escaped, 3),
            (b'+', _) => (b' ', 1),
            _ => (byte, 1),
        };
        decoded.push(byte);
        at += length;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_what_clients_send() {
        let query = Some("include%5B%5D=a&include%5B%5D=b&after=msg_1&simulate=error%3D500+crlf&%zz=%&last");
        let found = |name| value(query, name);
        assert_eq!(found("include[]").as_deref(), Some("a"));
        assert_eq!(found("after").as_deref(), Some("msg_1"));
        assert_eq!(found("simulate").as_deref(), Some("error=500 crlf"));
        assert_eq!((found("%zz").as_deref(), found("last").as_deref()), (Some("%"), Some("")));
        assert_eq!((found("limit"), value(None, "limit")), (None, None));
    }
}
