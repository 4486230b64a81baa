//! Decides the format of an answer from its first bytes. Servers label JSON as a stream, streams as JSON, and both as text.

/// The format of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerKind {
    /// An event stream.
    Stream,
    /// A JSON object.
    Json,
    /// Neither.
    Other,
}

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// The beginnings of a line of an event stream. A comment begins with a colon.
const FIELDS: [&[u8]; 5] = [b"data:", b"event:", b"id:", b"retry:", b":"];

/// Returns the format of an answer that begins with these bytes, and how many of the bytes to skip. The format is `None` if more
/// bytes are needed. `is_stream`: the headers say that the answer is an event stream.
pub(super) fn kind(begin: &[u8], is_stream: bool) -> (Option<AnswerKind>, usize) {
    let mut rest = begin.trim_ascii_start();
    if BYTE_ORDER_MARK.starts_with(&rest[..rest.len().min(BYTE_ORDER_MARK.len())]) {
        match rest.strip_prefix(BYTE_ORDER_MARK) {
            Some(behind) => rest = behind.trim_ascii_start(),
            None => return (None, begin.len() - rest.len()),
        }
    }
    let kind = match rest {
        [] => None,
        [b'{', ..] => Some(AnswerKind::Json),
        _ if FIELDS.iter().any(|field| rest.starts_with(field)) => Some(AnswerKind::Stream),
        _ if FIELDS.iter().any(|field| field.starts_with(rest)) => None,
        // An HTML page, or an array.
        [b'<' | b'[', ..] => Some(AnswerKind::Other),
        // An event stream may contain lines that are no field of it.
        _ if is_stream => Some(AnswerKind::Stream),
        _ => Some(AnswerKind::Other),
    };
    (kind, begin.len() - rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_decide_the_kind_of_an_answer() {
        for (begin, as_stream, as_json) in [
            ("", None, None),
            (" \r\n\t", None, None),
            ("{", Some(AnswerKind::Json), Some(AnswerKind::Json)),
            ("\n\n {\"a\":1}", Some(AnswerKind::Json), Some(AnswerKind::Json)),
            ("\u{feff}{", Some(AnswerKind::Json), Some(AnswerKind::Json)),
            ("\u{feff}data: {", Some(AnswerKind::Stream), Some(AnswerKind::Stream)),
            ("data:{", Some(AnswerKind::Stream), Some(AnswerKind::Stream)),
            ("event: x", Some(AnswerKind::Stream), Some(AnswerKind::Stream)),
            (": ping", Some(AnswerKind::Stream), Some(AnswerKind::Stream)),
            ("retry: 1", Some(AnswerKind::Stream), Some(AnswerKind::Stream)),
            ("id: 1", Some(AnswerKind::Stream), Some(AnswerKind::Stream)),
            ("dat", None, None),
            ("database is down", Some(AnswerKind::Stream), Some(AnswerKind::Other)),
            ("<!doctype html>", Some(AnswerKind::Other), Some(AnswerKind::Other)),
            ("[{\"error\":1}]", Some(AnswerKind::Other), Some(AnswerKind::Other)),
            ("upstream error", Some(AnswerKind::Stream), Some(AnswerKind::Other)),
        ] {
            assert_eq!(kind(begin.as_bytes(), true).0, as_stream, "{begin:?} as a stream");
            assert_eq!(kind(begin.as_bytes(), false).0, as_json, "{begin:?} as JSON");
        }
        assert_eq!(kind(b"\xEF\xBB", false), (None, 0));
        assert_eq!(kind(b"  \xEF\xBB\xBF {", false), (Some(AnswerKind::Json), 6));
    }
}
