use super::*;
use crate::domain::origin::{Reference, ReferenceKind};

fn chat_pieces<'a>(streamed: bool, pieces: impl IntoIterator<Item = &'a [u8]>) -> Observation {
    observe(if streamed { as_stream(AnswerDialect::Chat) } else { as_json(AnswerDialect::Chat) }, pieces)
}

#[track_caller]
fn chat(streamed: bool, text: &str) -> Observation {
    let text = text.as_bytes();
    let whole = chat_pieces(streamed, [text]);
    for size in [1, 2, 3, 7, 61] {
        assert_eq!(chat_pieces(streamed, text.chunks(size)), whole, "by {size}");
    }
    for cut in 0..text.len() {
        assert_eq!(chat_pieces(streamed, [&text[..cut], &text[cut..]]), whole, "cut at {cut}");
    }
    whole
}

#[test]
fn chat_streams_are_observed() {
    let chunk = |rest: &str| {
        format!("data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"model\":\"gpt-4o\",{rest}}}\n\n")
    };
    let text = chunk(r#""choices":[{"delta":{"content":"[DONE]"}}],"usage":null"#);
    let usage = r#""choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21,
        "prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":8}}"#
        .replace('\n', " ");
    let done = "data: [DONE]\n\n";
    let whole = chat(true, &(text.clone() + &chunk(&usage) + done));
    assert_eq!(whole, seen("chatcmpl-1", "gpt-4o", Some(Terminal::Completed), tokens(9, 4, 12, 8), "", 2));
    // The last that was told counts; without its end it is not whole.
    let early = chunk(r#""usage":{"prompt_tokens":1,"total_tokens":2}"#);
    assert_eq!(
        chat(true, &(early + &chunk(&usage) + &text)),
        seen("chatcmpl-1", "gpt-4o", None, tokens(9, 4, 12, 8), "", 3)
    );
    let told = r#"data: {"choices":[{"delta":{"content":"x"}}]}"#;
    assert_eq!(chat(true, &format!("{told}\n\ndata:[DONE]\r\n\r\n")).terminal, Some(Terminal::Completed));
    assert_eq!(chat(true, &format!("{told}\n\ndata: [DONE]")).terminal, Some(Terminal::Completed));
    // Nothing was answered before it.
    assert_eq!(chat(true, "data: [DONE]\n\n").terminal, None);
    assert_eq!(chat(true, "data: {\"message\":\"no\"}\n\ndata: [DONE]\n\n").terminal, Some(Terminal::Failed));
    for none in ["data: [DON\n\n", "data: \"[DONE]\"\n\n", ": [DONE]\n\n", "data: {\"a\":\"[DONE]\"}\n\n", "data\n\n"] {
        assert_eq!(chat(true, none).terminal, None, "{none}");
    }
    let error = "data: {\"error\":{\"message\":\"x\",\"type\":\"server_error\",\"code\":502}}\n\n";
    let failed = seen("chatcmpl-1", "gpt-4o", Some(Terminal::Failed), Usage::default(), "502", 2);
    assert_eq!(chat(true, &(text + error + done)), failed);
    assert_eq!(chat(true, "data: {\"error\":null}\n\ndata: {\"error\":\"x\"}\n\n").terminal, Some(Terminal::Failed));
    let image = "data: {\"type\":\"image_generation.completed\",\"usage\":{\"input_tokens\":5,\"output_tokens\":7,\"total_tokens\":12}}\n\n";
    let usage = Usage { input: Some(5), output: Some(7), total: Some(12), ..Usage::default() };
    assert_eq!(chat(true, image), seen("", "", Some(Terminal::Completed), usage, "", 1));
    assert_eq!(
        chat(true, "data: {\"type\":\"error\",\"code\":\"a\"}\n\n"),
        seen("", "", Some(Terminal::Failed), Usage::default(), "a", 1)
    );
}

#[test]
fn chat_answers_are_observed() {
    let completion = r#"{"id":"chatcmpl-1","object":"chat.completion","model":"gpt-4o","choices":[{"message":{"content":"x"}}],
        "usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21,"prompt_tokens_details":{"cached_tokens":4},
        "completion_tokens_details":{"reasoning_tokens":8}}}"#;
    assert_eq!(chat(false, completion), seen("chatcmpl-1", "gpt-4o", None, tokens(9, 4, 12, 8), "", 0));
    let embeddings = r#"{"object":"list","data":[{"object":"embedding","embedding":[0.1,-2]}],"model":"e","usage":{"prompt_tokens":8,"total_tokens":8}}"#;
    let usage = Usage { input: Some(8), total: Some(8), ..Usage::default() };
    assert_eq!(chat(false, embeddings), seen("", "e", None, usage, "", 0));
    let images = r#"{"created":1,"data":[{"b64_json":"x"}],"usage":{"input_tokens":5,"output_tokens":7,"total_tokens":12,
        "input_tokens_details":{"text_tokens":1,"image_tokens":4}}}"#;
    let usage = Usage { input: Some(5), input_image: Some(4), output: Some(7), total: Some(12), ..Usage::default() };
    assert_eq!(chat(false, images), seen("", "", None, usage, "", 0));
    let error = r#"{"error":{"message":"x","type":"invalid_request_error","param":null,"code":null}}"#;
    let failed = seen("", "", Some(Terminal::Failed), Usage::default(), "invalid_request_error", 0);
    assert_eq!(chat(false, error), failed);
    assert_eq!(chat(false, &completion[..completion.len() - 1]), seen("", "", None, tokens(9, 4, 12, 8), "", 0));
    // These are no lists of items.
    let mut observer = as_json(AnswerDialect::Chat);
    observer.feed(br#"{"object":"list","id":"x","data":[{"id":"x"}]}"#);
    assert_eq!(observer.take_learned(), []);
}

#[test]
fn ids_of_stored_audio_in_a_chat_are_learned() {
    let learned = [AnswerReference {
        kind: ReferenceKind::Item,
        reference: Reference::new(ReferenceKind::Item, b"audio_1"),
        by_value: None,
        is_made: true,
    }];
    let mut observer = as_json(AnswerDialect::Chat);
    observer.feed(br#"{"id":"chatcmpl-1","choices":[{"message":{"id":"x","audio":{"id":"audio_1","data":"x"}}}]}"#);
    assert_eq!(observer.take_learned(), learned);
    let mut observer = as_stream(AnswerDialect::Chat);
    observer.feed(b"data: {\"choices\":[{\"delta\":{\"audio\":{\"id\":\"audio_1\"}}}]}\n");
    assert_eq!(observer.take_learned(), []);
    observer.feed(b"\n");
    assert_eq!(observer.take_learned(), learned);
}

/// How far a response is, which a background one is not with its answer.
#[test]
fn the_status_of_a_response_is_read() {
    fn status(observer: fn(AnswerDialect) -> Observer, text: &str) -> Option<ResponseStatus> {
        let seen = [1, 5, text.len()].map(|size| {
            let mut observer = observer(AnswerDialect::Responses);
            text.as_bytes().chunks(size).for_each(|piece| observer.feed(piece));
            observer.finish();
            observer.seen().status
        });
        assert!(seen.iter().all(|status| *status == seen[0]), "{text}");
        seen[0]
    }
    for (name, expected) in [
        ("queued", Some(ResponseStatus::Queued)),
        ("in_progress", Some(ResponseStatus::InProgress)),
        ("completed", Some(ResponseStatus::Completed)),
        ("failed", Some(ResponseStatus::Failed)),
        ("incomplete", Some(ResponseStatus::Incomplete)),
        ("cancelled", Some(ResponseStatus::Cancelled)),
        ("x", None),
    ] {
        let response = format!(r#"{{"id":"resp_1","status":"{name}","output":[{{"status":"completed"}}]}}"#);
        assert_eq!(status(as_json, &response), expected);
        for kind in ["response.queued", "response.completed"] {
            assert_eq!(
                status(as_stream, &format!("data: {{\"type\":\"{kind}\",\"response\":{response}}}\n\n")),
                expected
            );
        }
        assert_eq!(status(as_stream, &format!("data: {{\"type\":\"x\",\"response\":{response}}}\n\n")), None);
    }
    let event = |kind: &str, status: &str| {
        format!("data: {{\"type\":\"response.{kind}\",\"response\":{{\"id\":\"r\",\"status\":{status}}}}}\n\n")
    };
    let text = event("created", "\"queued\"")
        + &event("in_progress", "\"in_progress\"")
        + &event("output_text.delta", "\"x\"");
    assert_eq!(status(as_stream, &text), Some(ResponseStatus::InProgress));
    assert_eq!(status(as_stream, &(text + &event("failed", "null"))), Some(ResponseStatus::InProgress));
}
