use std::{fs, path::Path};

use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;
use crate::domain::usage::{HiddenReasoning, MAX_TOKENS, Usage};

mod dialects;
mod learning;
mod output;

fn as_stream(dialect: AnswerDialect) -> Observer {
    Observer::new(dialect, true, Coded::Plain)
}

fn as_json(dialect: AnswerDialect) -> Observer {
    Observer::new(dialect, false, Coded::Plain)
}

fn observe<'a>(mut observer: Observer, pieces: impl IntoIterator<Item = &'a [u8]>) -> Observation {
    for piece in pieces {
        observer.feed(piece);
    }
    observer.finish();
    // How far it is, what it leaves behind and how much text it holds have tests of their own.
    let seen = observer.seen().clone();
    let hidden = HiddenReasoning::default();
    Observation { status: None, text_tokens: 0, other_output: false, hidden, whole: false, is_error: false, ..seen }
}

fn stream(text: impl AsRef<[u8]>) -> Observation {
    observe(as_stream(AnswerDialect::Responses), [text.as_ref()])
}

fn json(text: impl AsRef<[u8]>) -> Observation {
    observe(as_json(AnswerDialect::Responses), [text.as_ref()])
}

fn seen(id: &str, model: &str, terminal: Option<Terminal>, usage: Usage, code: &str, events: u64) -> Observation {
    let text = |text: &str| (!text.is_empty()).then(|| text.into());
    Observation {
        response_id: text(id),
        model: text(model),
        status: None,
        terminal,
        usage,
        code: text(code),
        events,
        ..Observation::default()
    }
}

fn tokens(input: u64, cached: u64, output: u64, reasoning: u64) -> Usage {
    Usage {
        input: Some(input),
        cached: Some(cached),
        output: Some(output),
        reasoning: Some(reasoning),
        total: Some(input + output),
        ..Usage::default()
    }
}

/// The expected observation of each file in `tests/streams`.
fn recorded() -> Vec<(&'static str, Observation)> {
    let completed = Some(Terminal::Completed);
    let failed = Some(Terminal::Failed);
    let none = Usage::default();
    let dated = "gpt-5-mini-2025-08-07";
    let named = seen("resp_0a1b2c", dated, completed, tokens(36, 12, 8, 0), "", 12);
    vec![
        ("named", named.clone()),
        ("crlf", named.clone()),
        ("cr", named.clone()),
        ("bom", named.clone()),
        ("no-last-blank-line", named.clone()),
        ("no-last-newline", named),
        ("no-terminal", seen("resp_0a1b2c", dated, None, none, "", 11)),
        ("data-only", seen("resp_68a9", "gpt-4.1-data", completed, tokens(11, 0, 4, 0), "", 10)),
        ("no-space", seen("resp_68aa", "gpt-4.1-data", completed, tokens(9, 0, 1, 0), "", 9)),
        ("done-marker", seen("resp_d0", "gpt-4o", completed, tokens(5, 1, 1, 0), "", 9)),
        ("type-last", seen("resp_last", "gpt-5-pro", completed, tokens(21, 0, 2, 0), "", 10)),
        ("response-done", seen("resp-123", "gpt-4o", completed, Usage { total: Some(20), ..none }, "", 10)),
        ("completed-then-done", seen("resp-124", "gpt-4o", completed, tokens(3, 0, 1, 0), "", 10)),
        ("done-brings-usage", seen("resp-125", "gpt-4o", completed, tokens(4, 0, 2, 0), "", 10)),
        ("comments", seen("resp_ka", "o3", completed, tokens(7, 0, 2, 0), "", 11)),
        ("error-flat", seen("resp_err", "gpt-5-mini", failed, none, "server_error", 6)),
        ("error-nested", seen("resp_err", "gpt-5-mini", failed, none, "too_many_requests", 6)),
        ("error-bare", seen("resp_err", "gpt-5-mini", failed, none, "502", 6)),
        ("error-only", seen("", "", failed, none, "model_price_error", 1)),
        ("failed", seen("resp_err", "gpt-5-mini", failed, tokens(50, 0, 1, 0), "server_is_overloaded", 6)),
        ("error-then-failed", seen("resp_err", "gpt-5-mini", failed, tokens(50, 0, 1, 0), "server_is_overloaded", 2)),
        ("incomplete", seen("resp_err", "gpt-5-mini", Some(Terminal::Incomplete), tokens(50, 40, 16, 16), "", 6)),
        ("utf8", seen("resp_utf8", "gpt-5.2-pro", completed, tokens(14, 0, 9, 0), "", 13)),
        ("function-call", seen("resp_fc", "gpt-5-mini", completed, tokens(80, 64, 22, 0), "", 11)),
        ("reasoning", seen("resp_fc", "gpt-5-mini", completed, tokens(100, 0, 300, 256), "", 7)),
        ("data-lines", seen("resp_ml", "gpt-4o", completed, tokens(1, 0, 1, 0), "", 9)),
        ("malformed", seen("resp_ml", "gpt-4o", completed, tokens(1, 0, 1, 0), "", 9)),
    ]
}

fn recording(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/streams").join(name).with_extension("sse")).unwrap()
}

#[test]
fn recorded_streams_are_read() {
    let recorded = recorded();
    for (name, expected) in &recorded {
        assert_eq!(stream(recording(name)), *expected, "{name}");
    }
    let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/streams")).unwrap();
    let files = files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|ext| ext == "sse"));
    assert_eq!(files.count(), recorded.len());
}

#[test]
fn one_split_does_not_change_the_observation() {
    for (name, expected) in recorded() {
        let text = recording(name);
        assert_eq!(observe(as_stream(AnswerDialect::Responses), text.chunks(1)), expected, "{name}, byte by byte");
        for size in [2, 3, 7, 61, 256] {
            assert_eq!(
                observe(as_stream(AnswerDialect::Responses), text.chunks(size)),
                expected,
                "{name} by {size} bytes"
            );
        }
        for cut in 0..text.len() {
            assert_eq!(
                observe(as_stream(AnswerDialect::Responses), [&text[..cut], &text[cut..]]),
                expected,
                "{name} cut at {cut}"
            );
        }
    }
}

#[test]
fn two_splits_do_not_change_the_observation() {
    for name in ["error-then-failed", "error-only"] {
        let text = recording(name);
        let expected = stream(&text);
        for a in 0..text.len() {
            for b in a..text.len() {
                let pieces = [&text[..a], &text[a..b], &text[b..]];
                assert_eq!(observe(as_stream(AnswerDialect::Responses), pieces), expected, "{name} cut at {a} and {b}");
            }
        }
    }
}

#[test]
fn an_event_of_many_megabytes_is_observed() {
    let image = "iVBORw0KGgo".repeat(8 << 20 >> 3);
    let text = format!(
        "data: {{\"response\":{{\"id\":\"resp_big\",\"model\":\"m\",\"output\":[{{\"result\":\"{image}\"}}],\
         \"usage\":{{\"total_tokens\":5}}}},\"type\":\"response.completed\"}}\n\n"
    );
    let usage = Usage { total: Some(5), ..Usage::default() };
    let expected = seen("resp_big", "m", Some(Terminal::Completed), usage, "", 1);
    assert_eq!(stream(&text), expected);
    assert_eq!(observe(as_stream(AnswerDialect::Responses), text.as_bytes().chunks(1460)), expected);
}

#[test]
fn unusual_streams_do_no_harm() {
    let after = recording("named");
    let expected = stream(&after);
    let eight_megabytes = 8 << 20;
    for (begin, fill) in [
        ("data: {\"a\":\"", "x"),
        ("data: {\"a\":", "["),
        ("data: ", "{\"response\":"),
        ("data: {\"", "\\u017f"),
        ("data: {\"type\":\"", "\\"),
        ("data: {\"response\":{\"usage\":{\"total_tokens\":", "1"),
        (": ", "x"),
        ("", "x"),
        ("", "data"),
        ("data: ", " "),
        ("", "data\n"),
        ("", ":\r"),
    ] {
        let mut text = begin.as_bytes().to_vec();
        text.extend_from_slice(fill.repeat(eight_megabytes / fill.len()).as_bytes());
        text.extend_from_slice(b"\n\n");
        text.extend_from_slice(&after);
        assert_eq!(observe(as_stream(AnswerDialect::Responses), text.chunks(16 << 10)), expected, "{begin} {fill}");
        let mut body = as_json(AnswerDialect::Responses);
        text.chunks(16 << 10).for_each(|piece| body.feed(piece));
        body.finish();
        // It is no JSON, whatever its head says.
        assert!(!body.has_read() || body.is_stream(), "{begin} {fill}");
    }
}

#[test]
fn the_first_terminal_event_decides() {
    let event = |text: &str| format!("data: {text}\n\n");
    let completed = event(r#"{"type":"response.completed","response":{"id":"a","usage":{"input_tokens":1}}}"#);
    let failed =
        event(r#"{"type":"response.failed","response":{"id":"b","error":{"code":"x"},"usage":{"input_tokens":2}}}"#);
    let one = Usage { input: Some(1), ..Usage::default() };
    assert_eq!(stream(completed.clone() + &failed), seen("a", "", Some(Terminal::Completed), one, "", 2));
    let two = Usage { input: Some(2), ..Usage::default() };
    assert_eq!(stream(failed + &completed), seen("b", "", Some(Terminal::Failed), two, "x", 2));
    // An error object beside a type that is none of these is no error.
    assert_eq!(stream(event(r#"{"type":"keepalive","error":{"code":"x"}}"#)).terminal, None);
    assert_eq!(stream(event(r#"{"error":null,"code":"x"}"#)).terminal, None);
    // Nothing is concluded from an event that is cut short.
    let mut observer = as_stream(AnswerDialect::Responses);
    observer.feed(b"data: {\"type\":\"response.completed\",\"response\":{\"id\":\"a\"}}\n");
    assert_eq!(observer.seen().terminal, None);
}

#[test]
fn codes_ids_and_counts_are_kept_only_if_plausible() {
    let code = |value: &str| json(format!("{{\"error\":{{\"type\":\"t\",\"code\":{value}}}}}")).code;
    assert_eq!(code("\"a_B-1.2\"").as_deref(), Some("a_B-1.2"));
    assert_eq!(code("404").as_deref(), Some("404"));
    for value in [
        "null",
        "\"\"",
        "\"a b\"",
        "\"a\\nb\"",
        "\"é\"",
        "1.5",
        "1e3",
        "{}",
        "true",
        &format!("\"{}\"", "x".repeat(65)),
    ] {
        assert_eq!(code(value).as_deref(), Some("t"), "{value}");
    }
    let count = |value: &str| json(format!("{{\"usage\":{{\"total_tokens\":{value}}}}}")).usage.total;
    assert_eq!(count("100000000"), Some(MAX_TOKENS));
    for value in ["18446744073709551615", "18446744073709551616", "-1", "1.5", "\"x\"", "\"-1\"", "null", "[]", "true"]
    {
        assert_eq!(count(value), None, "{value}");
    }
    for (value, told) in [("1.0", 1), ("1e3", 1000), ("\"1\"", 1), ("\" 12.0 \"", 12), ("0", 0)] {
        assert_eq!(count(value), Some(told), "{value}");
    }
    let id = |len: usize| json(format!("{{\"id\":\"{}\"}}", "x".repeat(len))).response_id;
    assert_eq!((id(0), id(256).map(|id| id.len()), id(257)), (None, Some(256), None));
}

#[test]
fn json_answers_are_observed() {
    let body = r#"{"id":"resp_1","object":"response","model":"gpt-4.1","status":"completed","error":null,"output":[{"id":"msg_1",
        "status":"incomplete","usage":{"total_tokens":9}}],"usage":{"input_tokens":2,"input_tokens_details":{"cached_tokens":1},
        "output_tokens":4,"output_tokens_details":{"reasoning_tokens":3},"total_tokens":6}}"#;
    let expected = seen("resp_1", "gpt-4.1", Some(Terminal::Completed), tokens(2, 1, 4, 3), "", 0);
    assert_eq!(json(body), expected);
    assert_eq!(observe(as_json(AnswerDialect::Responses), body.as_bytes().chunks(1)), expected);
    // Without its end nothing but its counts is believed.
    assert_eq!(json(&body[..body.len() - 1]), seen("", "", None, tokens(2, 1, 4, 3), "", 0));
    let error =
        json(r#"{"error":{"message":"x","type":"invalid_request_error","param":null,"code":null},"trace_id":"t"}"#);
    assert_eq!(error, seen("", "", Some(Terminal::Failed), Usage::default(), "invalid_request_error", 0));
    for (status, terminal) in
        [("failed", Some(Terminal::Failed)), ("incomplete", Some(Terminal::Incomplete)), ("queued", None)]
    {
        assert_eq!(json(format!("{{\"status\":\"{status}\"}}")).terminal, terminal);
    }
    assert_eq!(json("<html>"), Observation::default());
    assert_eq!(json(""), Observation::default());
    let unknown = Observer::new(AnswerDialect::Responses, false, Coded::Unknown);
    assert_eq!(observe(unknown, [body.as_bytes()]), Observation::default());
}

proptest! {
    #[test]
    fn garbage_does_no_harm_for_any_split(
        garbage in vec(prop_oneof![
            any::<u8>().prop_map(|byte| vec![byte]),
            prop::sample::select(vec![
                "data: ", "\n", "\r\n\r\n", "\n\n", "{\"type\":\"response.completed\"", ",\"response\":{", "\"id\":\"a\"", "}", "}\n\n",
                "data: {\"type\":\"error\",\"code\":1}\n\n", "data: {\"response\":{\"id\":\"r\"},\"type\":\"x\"}\n\n",
            ]).prop_map(|text| text.as_bytes().to_vec()),
        ], 0..40),
        cuts in vec(any::<Index>(), 0..8),
    ) {
        let garbage = garbage.concat();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(garbage.len() + 1)).chain([0, garbage.len()]).collect();
        cuts.sort_unstable();
        let pieces = || cuts.windows(2).map(|pair| &garbage[pair[0]..pair[1]]);
        prop_assert_eq!(observe(as_stream(AnswerDialect::Responses), pieces()), stream(&garbage));
        prop_assert_eq!(observe(as_json(AnswerDialect::Responses), pieces()), json(&garbage));
    }
}

#[test]
fn implausible_ids_and_counts_are_not_reported() {
    for (id, told) in
        [("resp_1-a:b/c=", true), ("a\\u0000b", false), ("a b", false), ("a\\nb", false), ("\u{e9}", false)]
    {
        let seen = json(format!(r#"{{"id":"{id}"}}"#));
        assert_eq!(seen.response_id.as_deref(), told.then_some(id));
    }
    for (count, told) in [
        ("100000000", Some(100_000_000)),
        ("100000001", None),
        ("1000000000000000000", None),
        ("18446744073709551615", None),
        ("99999999999999999999999", None),
        ("-5", None),
        ("1e18", None),
        ("7.5", None),
        ("\"7\"", Some(7)),
    ] {
        let usage = format!(r#"{{"input_tokens":3,"output_tokens":{count},"total_tokens":{count}}}"#);
        let expected = Usage { input: Some(3), output: told, total: told, ..Usage::default() };
        assert_eq!(json(format!(r#"{{"id":"a","usage":{usage}}}"#)).usage, expected, "{count}");
        let event = format!("data: {{\"type\":\"response.completed\",\"response\":{{\"usage\":{usage}}}}}\n\n");
        assert_eq!(stream(event).usage, expected, "{count}");
    }
}
