//! How much text an answer holds, and whether it is over.

use super::*;

fn seen_of(dialect: AnswerDialect, is_stream: bool, text: &str) -> Observation {
    let whole = {
        let mut observer = Observer::new(dialect, is_stream, Coded::Plain);
        observer.feed(text.as_bytes());
        observer.finish();
        observer.seen().clone()
    };
    // Piece by piece the count of text may differ by the runs of spaces that are cut.
    for size in [1, 7, 61] {
        let mut observer = Observer::new(dialect, is_stream, Coded::Plain);
        text.as_bytes().chunks(size).for_each(|piece| observer.feed(piece));
        observer.finish();
        let cut = observer.seen();
        assert!(cut.text_tokens.abs_diff(whole.text_tokens) <= whole.text_tokens / 4 + 1, "{size}: {text}");
        assert_eq!(Observation { text_tokens: whole.text_tokens, ..cut.clone() }, whole, "{size}");
    }
    whole
}

/// 100 tokens.
fn words() -> String {
    "word".repeat(100)
}

#[test]
fn text_is_counted_once_however_often_an_answer_repeats_it() {
    let words = words();
    let event = |text: &str| format!("data: {}\n\n", text.replace("WORDS", &words));
    let delta = event(r#"{"type":"response.output_text.delta","delta":"WORDS"}"#);
    let done = event(r#"{"type":"response.output_text.done","text":"WORDS"}"#);
    let part = event(r#"{"type":"response.content_part.done","part":{"type":"output_text","text":"WORDS"}}"#);
    let added =
        event(r#"{"type":"response.output_item.added","item":{"type":"message","content":[{"text":"WORDS"}]}}"#);
    let item = event(r#"{"type":"response.output_item.done","item":{"type":"message","content":[{"text":"WORDS"}]}}"#);
    let over = event(
        r#"{"type":"response.completed","response":{"id":"r","instructions":"WORDS","output":[{"type":"message","content":[{"text":"WORDS"}]}]}}"#,
    );
    let created = event(r#"{"type":"response.created","response":{"id":"r","instructions":"WORDS","output":[]}}"#);
    let all = [&created, &added, &delta, &done, &part, &item, &over].map(String::as_str).concat();
    for (text, tokens) in [
        (&all, 100),
        (&delta, 100),
        (&done, 100),
        (&item, 100),
        (&over, 100),
        (&added, 0),
        (&created, 0),
        (&format!("{delta}{delta}"), 200),
        // The type may stand last.
        (&event(r#"{"delta":"WORDS","type":"response.output_text.delta"}"#), 100),
        (&event(r#"{"type":"response.reasoning_summary_text.delta","delta":"WORDS"}"#), 100),
        (&event(r#"{"type":"response.function_call_arguments.delta","delta":"WORDS"}"#), 100),
        (&event(r#"{"type":"response.refusal.delta","delta":"WORDS"}"#), 100),
        (
            &event(
                r#"{"type":"response.output_item.done","item":{"type":"local_shell_call","action":{"type":"exec","command":["WORDS"]}}}"#,
            ),
            100,
        ),
        // Results of tools, and pictures.
        (&event(r#"{"type":"response.output_item.done","item":{"type":"mcp_call","output":"WORDS"}}"#), 0),
        (&event(r#"{"type":"response.audio.delta","delta":"WORDS"}"#), 0),
        (&event(r#"{"delta":"WORDS","type":"response.audio.delta"}"#), 0),
        (&event(r#"{"type":"response.image_generation_call.partial_image","partial_image_b64":"WORDS"}"#), 0),
    ] {
        assert_eq!(seen_of(AnswerDialect::Responses, true, text).text_tokens, tokens, "{text}");
    }
    for (text, tokens) in [
        (r#"{"choices":[{"delta":{"content":"WORDS"}}]}"#, 100),
        (r#"{"choices":[{"delta":{"content":"WORDS"}},{"delta":{"content":"WORDS"}}]}"#, 200),
        (r#"{"choices":[{"delta":{"content":[{"type":"text","text":"WORDS"}]}}]}"#, 100),
        (
            r#"{"choices":[{"delta":{"reasoning_content":"WORDS","reasoning":"WORDS","reasoning_details":[{"text":"WORDS"}]}}]}"#,
            100,
        ),
        (r#"{"choices":[{"delta":{"reasoning_content":"WORDS","content":"WORDS"}}]}"#, 200),
        (r#"{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"WORDS"}}]}}]}"#, 100),
        (r#"{"choices":[{"delta":{"content":"WORDS"},"message":{"content":"WORDS"}}]}"#, 100),
        (r#"{"choices":[{"text":"WORDS"}]}"#, 100),
        (r#"{"choices":[{"delta":{"audio":{"transcript":"WORDS","data":"WORDS"}}}]}"#, 100),
        (r#"{"error":{"message":"WORDS"}}"#, 0),
        (r#"{"message":"WORDS","code":"WORDS"}"#, 0),
    ] {
        let text = text.replace("WORDS", &words);
        assert_eq!(seen_of(AnswerDialect::Chat, true, &format!("data: {text}\n\n")).text_tokens, tokens, "{text}");
        assert_eq!(seen_of(AnswerDialect::Chat, false, &text).text_tokens, tokens, "{text}");
    }
}

#[test]
fn non_text_output_is_noticed() {
    for (text, other) in [
        (r#"{"output":[{"type":"image_generation_call","result":"aGk="}]}"#, true),
        (r#"{"data":[{"b64_json":"aGk="}]}"#, true),
        (r#"{"object":"list","data":[{"embedding":[0.5]}]}"#, true),
        (r#"{"results":[{"flagged":false}]}"#, true),
        (r#"{"choices":[{"message":{"images":[{"image_url":{"url":"data:"}}]}}]}"#, true),
        (r#"{"output":[{"type":"message","content":[]}]}"#, false),
        (r#"{"data":null}"#, false),
        (r#"{"data":[]}"#, false),
        (r#"{"data":{"reason":"x"}}"#, false),
        (r#"{"output":[]}"#, false),
    ] {
        let seen = seen_of(AnswerDialect::Chat, false, text);
        assert_eq!((seen.other_output, seen.made_nothing()), (other, !other), "{text}");
    }
}

#[test]
fn hidden_reasoning_is_noticed() {
    // 10,000 tokens, by its size.
    let sealed = "g".repeat((40_000 + 650) * 4 / 3);
    let event = |text: &str| format!("data: {}\n\n", text.replace("SEALED", &sealed));
    let created = event(r#"{"type":"response.created","response":{"id":"r","output":[]}}"#);
    let added = event(r#"{"type":"response.output_item.added","item":{"type":"reasoning","encrypted_content":""}}"#);
    let done =
        event(r#"{"type":"response.output_item.done","item":{"type":"reasoning","encrypted_content":"SEALED"}}"#);
    let over = event(
        r#"{"type":"response.completed","response":{"id":"r","output":[{"type":"reasoning","encrypted_content":"SEALED"}]}}"#,
    );
    let aloud = event(r#"{"type":"response.reasoning_text.delta","delta":"word"}"#);
    let details =
        event(r#"{"choices":[{"delta":{"reasoning_details":[{"type":"reasoning.encrypted","data":"SEALED"}]}}]}"#);
    for (dialect, text, thinks, tokens) in [
        (AnswerDialect::Responses, created.clone(), false, None),
        (AnswerDialect::Responses, format!("{created}{added}"), true, None),
        (AnswerDialect::Responses, format!("{created}{added}{done}"), true, Some(10_000)),
        (AnswerDialect::Responses, format!("{created}{added}{done}{added}{done}"), true, Some(20_000)),
        (AnswerDialect::Responses, format!("{created}{added}{done}{over}"), true, Some(10_000)),
        (AnswerDialect::Responses, format!("{created}{added}{aloud}"), false, None),
        (AnswerDialect::Chat, details.clone(), false, Some(10_000)),
    ] {
        let seen = seen_of(dialect, true, &text);
        let hidden = HiddenReasoning { thinks, sealed: tokens };
        assert_eq!(
            (seen.hidden, seen.has_output()),
            (hidden, tokens.is_some() || text.contains("word")),
            "{dialect:?}"
        );
    }
    let body = format!(r#"{{"output":[{{"type":"reasoning","encrypted_content":"{sealed}"}}]}}"#);
    let seen = seen_of(AnswerDialect::Responses, false, &body);
    assert_eq!((seen.hidden, seen.made_nothing()), (HiddenReasoning { thinks: true, sealed: Some(10_000) }, false));
}

#[test]
fn reasoning_lasts_until_another_item_begins() {
    let mut observer = Observer::new(AnswerDialect::Responses, true, Coded::Plain);
    for (event, thinks) in [
        (r#"{"type":"response.created","response":{"id":"r"}}"#, false),
        (r#"{"type":"response.output_item.added","item":{"type":"reasoning"}}"#, true),
        (r#"{"type":"response.reasoning_summary_text.delta","delta":"word"}"#, true),
        (r#"{"type":"response.output_item.done","item":{"type":"reasoning"}}"#, false),
        (r#"{"item":{"type":"reasoning"},"type":"response.output_item.added"}"#, true),
        (r#"{"type":"response.output_item.added","item":{"type":"message"}}"#, false),
        (r#"{"type":"response.output_text.delta","delta":"word"}"#, false),
    ] {
        observer.feed(format!("data: {event}\n\n").as_bytes());
        assert_eq!(observer.is_thinking(), thinks, "{event}");
    }
}

#[test]
fn text_that_each_chunk_repeats_counts_once() {
    let words = "word ".repeat(100);
    for (dialect, event) in [
        (AnswerDialect::Chat, r#"{"choices":[{"delta":{"content":"WORDS"}}]}"#),
        (AnswerDialect::Chat, r#"{"choices":[{"delta":{"reasoning_content":"WORDS"}}]}"#),
        (AnswerDialect::Responses, r#"{"type":"response.output_text.delta","delta":"WORDS"}"#),
    ] {
        let text: String =
            (1..=50).map(|end| format!("data: {}\n\n", event.replace("WORDS", &words[..end * 10]))).collect();
        let tokens = seen_of(dialect, true, &text).text_tokens;
        assert!((124..=126).contains(&tokens), "{event}: {tokens}");
    }
}

#[test]
fn further_usage_fields_are_read() {
    use crate::domain::usage::ServiceTier;
    let none = Usage::default();
    for (text, expected) in [
        (
            r#"{"tool_usage":{"image_gen":{"input_tokens":2700,"output_tokens":280960,"output_tokens_details":{"image_tokens":280960}},"web_search":{"num_requests":3}},"usage":{"input_tokens":1,"output_tokens":2}}"#,
            Usage {
                input: Some(1),
                output: Some(2),
                image_tool_input: Some(2700),
                image_tool_output: Some(280_960),
                web_searches: Some(3),
                ..none
            },
        ),
        (
            r#"{"output":[{"type":"web_search_call","action":{"type":"search","query":"a"}},{"type":"web_search_call","action":{"type":"open_page"}},{"type":"web_search_call"}]}"#,
            Usage { web_searches: Some(2), ..none },
        ),
        (
            r#"{"usage":{"input_tokens":10,"cache_read_input_tokens":20,"cache_creation_input_tokens":30,"cache_creation":{"ephemeral_5m_input_tokens":10,"ephemeral_1h_input_tokens":20},"output_tokens":5,"service_tier":"standard"}}"#,
            Usage {
                input: Some(60),
                cached: Some(20),
                cache_write: Some(10),
                cache_write_1h: Some(20),
                output: Some(5),
                ..none
            },
        ),
        (
            r#"{"usage":{"input_tokens":100,"input_tokens_details":{"cached_tokens":10,"cache_write_tokens":50},"output_tokens":5,"total_tokens":105}}"#,
            Usage {
                input: Some(100),
                cached: Some(10),
                cache_write: Some(50),
                output: Some(5),
                total: Some(105),
                ..none
            },
        ),
        (
            r#"{"usage":{"prompt_tokens":9,"completion_tokens":7,"prompt_tokens_details":{"audio_tokens":4,"image_tokens":3},"completion_tokens_details":{"audio_tokens":5,"image_tokens":1}}}"#,
            Usage {
                input: Some(9),
                input_audio: Some(4),
                input_image: Some(3),
                output: Some(7),
                output_audio: Some(5),
                output_image: Some(1),
                ..none
            },
        ),
        (r#"{"text":"hi","usage":{"type":"duration","seconds":12}}"#, Usage { audio_ms: Some(12_000), ..none }),
        (r#"{"text":"hi","duration":"3.5"}"#, Usage { audio_ms: Some(3500), ..none }),
        (r#"{"usage":{"cost":0.0125}}"#, Usage { reported_cost: Some(12_500_000), ..none }),
        (
            r#"{"usage":{"cost":{"input_tokens_cost":0.001,"total_cost":0.006}}}"#,
            Usage { reported_cost: Some(6_000_000), ..none },
        ),
        (r#"{"usage":{"cost_in_usd_ticks":158500}}"#, Usage { reported_cost: Some(15_850), ..none }),
        (r#"{"usage":{"cost":-1}}"#, none),
        (r#"{"service_tier":"flex"}"#, Usage { tier: Some(ServiceTier::Flex), ..none }),
        (r#"{"service_tier":"priority"}"#, Usage { tier: Some(ServiceTier::Priority), ..none }),
        (r#"{"usage":{"service_tier":"batch"}}"#, Usage { tier: Some(ServiceTier::Batch), ..none }),
        (r#"{"service_tier":"scale"}"#, Usage { tier: Some(ServiceTier::Other), ..none }),
        (r#"{"service_tier":"default"}"#, none),
        (r#"{"service_tier":null}"#, none),
    ] {
        for dialect in [AnswerDialect::Responses, AnswerDialect::Chat] {
            assert_eq!(seen_of(dialect, false, text).usage, expected, "{text}");
        }
        let event = format!("data: {{\"type\":\"response.completed\",\"response\":{text}}}\n\n");
        if !text.contains("\"text\"") && !text.contains("duration") {
            assert_eq!(seen_of(AnswerDialect::Responses, true, &event).usage, expected, "{event}");
        }
        assert_eq!(seen_of(AnswerDialect::Chat, true, &format!("data: {text}\n\n")).usage, expected, "{text}");
    }
    // The first events repeat the tier that was asked for.
    let events = r#"data: {"type":"response.created","response":{"service_tier":"flex"}}

data: {"type":"response.completed","response":{"service_tier":"default","usage":{"input_tokens":1,"output_tokens":1}}}

"#;
    assert_eq!(seen_of(AnswerDialect::Responses, true, events).usage.tier, None);
}

#[test]
fn a_decompression_bomb_is_not_decoded() {
    use crate::protocol::coding::Coding;
    // 64 MiB of spaces in zstd, some 6 KB.
    let bomb = {
        use std::task::{Context, Poll, Waker};
        use tokio::io::{AsyncRead, ReadBuf};
        let plain = vec![b' '; 64 << 20];
        let mut encoder = async_compression::tokio::bufread::ZstdEncoder::new(&plain[..]);
        let (mut coded, mut block) = (Vec::new(), vec![0; 1 << 16]);
        loop {
            let mut read = ReadBuf::new(&mut block);
            let polled = std::pin::Pin::new(&mut encoder).poll_read(&mut Context::from_waker(Waker::noop()), &mut read);
            assert!(matches!(polled, Poll::Ready(Ok(()))));
            if read.filled().is_empty() {
                break coded;
            }
            coded.extend_from_slice(read.filled());
        }
    };
    let mut observer = Observer::new(AnswerDialect::Responses, false, Coded::Once(Coding::Zstd));
    observer.feed(&bomb);
    assert!(observer.is_blind());
    observer.finish();
    assert!(!observer.seen().whole);
}
