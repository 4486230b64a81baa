use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::*;
use crate::{
    domain::origin::{Reference, ReferenceKind::*},
    protocol::references::{answer::MOST, tests::texts},
};

type Named<'a> = (crate::domain::origin::ReferenceKind, &'a str);

/// The learned references, and the piece that each is learned in.
fn learn_pieces<'a>(mut observer: Observer, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<AnswerReference>> {
    let mut learned: Vec<_> = pieces
        .into_iter()
        .map(|piece| {
            observer.feed(piece);
            plain(observer.take_learned())
        })
        .collect();
    observer.finish();
    learned.push(plain(observer.take_learned()));
    learned
}

/// The kinds and the hashes of what was learned.
fn plain(mut learned: Vec<AnswerReference>) -> Vec<AnswerReference> {
    for learned in &mut learned {
        (learned.by_value, learned.is_made) = (None, true);
    }
    learned
}

fn expected(found: &[Named<'_>]) -> Vec<AnswerReference> {
    let learned = |&(kind, id): &Named<'_>| AnswerReference {
        kind,
        reference: Reference::new(kind, id.as_bytes()),
        by_value: None,
        is_made: true,
    };
    found.iter().map(learned).collect()
}

/// A body teaches this, and all of it with its last byte.
#[track_caller]
fn body(text: impl AsRef<[u8]>, found: &[Named<'_>]) {
    let text = text.as_ref();
    let observer = || as_json(AnswerDialect::Responses);
    for size in [1, 2, 7, text.len().max(1)] {
        let mut learned = learn_pieces(observer(), text.chunks(size));
        assert_eq!(learned.pop(), Some(Vec::new()));
        assert_eq!(learned.pop(), Some(expected(found)), "{}", text.escape_ascii());
        assert!(learned.concat().is_empty(), "before its end");
    }
}

/// An event teaches this, and all of it with its blank line.
#[track_caller]
fn event(data: &str, found: &[Named<'_>]) {
    // With an id known or not: most events are passed over once it is.
    for before in ["", "data: {\"type\":\"x\",\"response\":{\"id\":\"known\"}}\n\n"] {
        let text = format!("{before}data: {data}\n\n");
        let mut observer = as_stream(AnswerDialect::Responses);
        observer.feed(&text.as_bytes()[..text.len() - 1]);
        assert_eq!(observer.take_learned(), [], "{data}");
        observer.feed(b"\n");
        assert_eq!(plain(observer.take_learned()), expected(found), "{data}");
    }
}

#[test]
fn references_in_bodies_are_learned() {
    let item = r#"{"id":"rs_1","type":"reasoning","encrypted_content":"g\u0041","summary":[{"id":"x"}]}"#;
    body(
        format!(
            r#"{{"id":"resp_1","object":"response","conversation":{{"id":"conv_1"}},"output":[{item},
            {{"id":"ci_1","container_id":"cntr_1","outputs":[{{"id":"x"}}]}},
            {{"id":"sh_1","environment":{{"type":"container_reference","container_id":"cntr_2"}}}},
            {{"id":"msg_1","content":[{{"annotations":[{{"type":"file_citation","file_id":"file-x"}},
            {{"container_id":"cntr_3","file_id":"cfile_1","type":"container_file_citation"}},{{"file_id":"file-y"}}]}}]}},
            {{"id":"am_1","content":[{{"encrypted_content":"gB"}}]}}]}}"#
        ),
        &[
            (Response, "resp_1"),
            (Conversation, "conv_1"),
            (Item, "rs_1"),
            (Encrypted, "gA"),
            (Item, "ci_1"),
            (Container, "cntr_1"),
            (Item, "sh_1"),
            (Container, "cntr_2"),
            (Item, "msg_1"),
            (Container, "cntr_3"),
            (File, "cfile_1"),
            (Item, "am_1"),
            (Encrypted, "gB"),
        ],
    );
    body(
        format!(r#"{{"output":[{item}],"object":"response.compaction","id":"resp_1"}}"#),
        &[(Response, "resp_1"), (Item, "rs_1"), (Encrypted, "gA")],
    );
    body(r#"{"id":"conv_1","object":"conversation","metadata":{"id":"x"}}"#, &[(Conversation, "conv_1")]);
    body(
        format!(r#"{{"object":"list","data":[{item},{{"id":"msg_1"}}],"first_id":"rs_1","last_id":"msg_1"}}"#),
        &[(Item, "rs_1"), (Encrypted, "gA"), (Item, "msg_1")],
    );
    body(item, &[(Item, "rs_1"), (Encrypted, "gA")]);
    body(r#"{"id":"resp_1","object":"response","status":"queued","output":null}"#, &[(Response, "resp_1")]);
}

#[test]
fn references_in_events_are_learned() {
    for kind in ["created", "queued", "in_progress", "completed", "done", "failed", "incomplete"] {
        let found = [(Response, "resp_1"), (Conversation, "conv_1"), (Item, "msg_1")];
        let response =
            r#""response":{"id":"resp_1","conversation":{"id":"conv_1"},"output":[{"id":"msg_1"}]},"item":{"id":"x"}"#;
        event(&format!(r#"{{"type":"response.{kind}",{response}}}"#), &found);
        event(&format!(r#"{{{response},"type":"response.{kind}"}}"#), &found);
    }
    for kind in ["added", "done"] {
        let item = r#"{"id":"ci_1","container_id":"cntr_1","encrypted_content":"g"}"#;
        event(
            &format!(
                r#"{{"type":"response.output_item.{kind}","output_index":0,"item":{item},"response":{{"id":"x"}}}}"#
            ),
            &[(Item, "ci_1"), (Container, "cntr_1"), (Encrypted, "g")],
        );
    }
    event(
        r#"{"type":"response.output_text.annotation.added","item_id":"x","annotation":{"type":"container_file_citation","file_id":"cfile_1","container_id":"cntr_1"}}"#,
        &[(File, "cfile_1"), (Container, "cntr_1")],
    );
    event(
        r#"{"type":"response.output_text.annotation.added","annotation":{"type":"file_citation","file_id":"x"}}"#,
        &[],
    );
}

/// A client does not own an id only because the answer echoes it.
#[test]
fn echoed_references_are_not_learned() {
    let echo = r#""previous_response_id":"x","tools":[{"id":"x","container":"x","container_id":"x","file_ids":["x"],"vector_store_ids":["x"]}],
        "prompt":{"id":"x","variables":{"a":{"file_id":"x"}}},"metadata":{"id":"x","output":[{"id":"x"}]},"instructions":[{"id":"x","encrypted_content":"x"}],
        "input":[{"id":"x","encrypted_content":"x"}],"item":{"id":"x"},"reasoning":{"encrypted_content":"x","id":"x"},"file_id":"x","container_id":"x""#;
    body(
        format!(r#"{{"id":"resp_1","object":"response",{echo},"data":[{{"id":"x"}}],"encrypted_content":"x"}}"#),
        &[(Response, "resp_1")],
    );
    body(format!(r#"{{"id":"conv_1","object":"conversation",{echo}}}"#), &[(Conversation, "conv_1")]);
    body(format!(r#"{{"object":"list","id":"x",{echo},"output":[{{"id":"x"}}]}}"#), &[]);
    let echo = echo.replace('\n', " ");
    event(
        &format!(r#"{{"type":"response.completed","id":"x","response":{{"id":"resp_1",{echo}}}}}"#),
        &[(Response, "resp_1")],
    );
    // Lists, items and compactions repeat ids that the client sent.
    let sent = r#"{"id":"msg_1","type":"message","container_id":"x","environment":{"container_id":"x"},
        "content":[{"file_id":"x","annotations":[{"type":"container_file_citation","container_id":"x","file_id":"x"}]}]}"#;
    body(sent, &[(Item, "msg_1")]);
    body(format!(r#"{{"object":"list","data":[{sent}]}}"#), &[(Item, "msg_1")]);
    body(format!(r#"{{"object":"response.compaction","output":[{sent}]}}"#), &[(Item, "msg_1")]);
    // Answers of other kinds, finished ones and broken ones.
    for text in [
        r#"{"id":"x","object":"response","deleted":true}"#,
        r#"{"id":"x","object":"conversation.deleted","deleted":true}"#,
        r#"{"id":"x","object":"file"}"#,
        r#"{"id":"x","object":null,"type":"message"}"#,
        r#"{"id":"x"}"#,
        r#"{"object":"response.input_tokens","input_tokens":1,"id":"x"}"#,
        r#"{"error":{"id":"x","type":"y"},"id":"x"}"#,
        r#"{"object":"response","id":1,"output":{"id":[]}}"#,
        r#"{"object":"response","id":"","output":[{"id":"","encrypted_content":""}]}"#,
    ] {
        body(text, &[]);
    }
    for data in [
        r#"{"type":"response.output_text.delta","response":{"id":"x"},"item":{"id":"x"}}"#,
        r#"{"type":"response.content_part.done","item":{"id":"x"},"part":{"annotations":[{"container_id":"x"}]}}"#,
        r#"{"type":"error","response":{"id":"x"}}"#,
        r#"{"type":"keepalive","response":{"id":"x"}}"#,
        r#"{"response":{"id":"x"},"item":{"id":"x"}}"#,
        r#"{"type":"response.completed","response":{"id":"x"}"#,
        r#"{"type":"response.completed","response":{"id":"x"}} x"#,
    ] {
        event(data, &[]);
    }
    let text = br#"{"id":"x","object":"response""#;
    assert!(learn_pieces(as_json(AnswerDialect::Responses), [&text[..]]).concat().is_empty());
}

#[test]
fn each_reference_is_reported_once_and_the_number_is_bounded() {
    let id = |len: usize| format!(r#"{{"object":"conversation","id":"{}"}}"#, "x".repeat(len));
    body(id(256), &[(Conversation, &"x".repeat(256))]);
    body(id(257), &[]);

    let mut observer = as_stream(AnswerDialect::Responses);
    let done =
        |id: usize| format!("data: {{\"type\":\"response.output_item.done\",\"item\":{{\"id\":\"i{id}\"}}}}\n\n");
    for _ in 0..2 {
        (0..MOST + 10).for_each(|id| observer.feed(done(id).as_bytes()));
    }
    let learned = observer.take_learned();
    assert_eq!(learned.len(), MOST);
    assert_eq!(learned.iter().collect::<HashSet<_>>().len(), MOST);
    assert_eq!(observer.seen().dropped, 20);

    let items = vec![r#"{"id":"x"}"#; MOST + 5].join(",");
    let mut observer = as_json(AnswerDialect::Responses);
    observer.feed(format!(r#"{{"object":"list","data":[{items}]}}"#).as_bytes());
    assert_eq!((observer.take_learned().len(), observer.seen().dropped), (1, 5));
}

/// The references that a simple reader finds in a stream.
fn of_stream(text: &[u8]) -> HashSet<AnswerReference> {
    let text = String::from_utf8_lossy(text).replace("\r\n", "\n").replace('\r', "\n");
    let mut found = HashSet::new();
    for event in text.trim_start_matches('\u{feff}').split("\n\n") {
        let data: Vec<_> = event
            .lines()
            .filter_map(|line| line.strip_prefix("data:"))
            .map(|data| data.trim_start_matches(' '))
            .collect();
        let Ok(event) = serde_json::from_str::<Value>(&data.join("\n")) else { continue };
        match event["type"].as_str().unwrap_or_default() {
            "response.output_item.added" | "response.output_item.done" => {
                walk(&event["item"], "item", true, &mut found)
            }
            "response.created"
            | "response.in_progress"
            | "response.completed"
            | "response.done"
            | "response.failed"
            | "response.incomplete" => walk(&event["response"], "response", true, &mut found),
            _ => {}
        }
    }
    found
}

#[test]
fn recorded_streams_give_the_same_references_for_any_split() {
    let mut teaching = 0;
    for (name, _) in recorded() {
        let text = recording(name);
        let learn = |pieces: Vec<&[u8]>| learn_pieces(as_stream(AnswerDialect::Responses), pieces).concat();
        let whole = learn(vec![&text]);
        assert_eq!(whole.iter().copied().collect::<HashSet<_>>(), of_stream(&text), "{name}");
        teaching += usize::from(whole.len() >= 2);
        assert_eq!(learn(text.chunks(1).collect()), whole);
        for cut in 0..text.len() {
            assert_eq!(learn(vec![&text[..cut], &text[cut..]]), whole, "{name} cut at {cut}");
        }
    }
    assert!(teaching > 15, "{teaching}");
    let learned = learn_pieces(as_stream(AnswerDialect::Responses), [&recording("named")[..]]).concat();
    assert_eq!(learned, expected(&[(Response, "resp_0a1b2c"), (Item, "msg_0a1b2c")]));
}

/// No client can name what it did not have as a whole: by then it was told.
#[test]
fn a_prefix_of_a_stream_gives_the_references_of_its_complete_events() {
    let text = recording("named");
    for end in 0..=text.len() {
        let mut observer = as_stream(AnswerDialect::Responses);
        observer.feed(&text[..end]);
        let mut whole = as_stream(AnswerDialect::Responses);
        let over = text[..end].windows(2).rposition(|pair| pair == b"\n\n").map_or(0, |at| at + 2);
        whole.feed(&text[..over]);
        assert_eq!(observer.take_learned(), whole.take_learned(), "the first {end} bytes");
    }
}

const NAMES: [&str; 17] = [
    "id",
    "id",
    "object",
    "type",
    "conversation",
    "output",
    "data",
    "content",
    "annotations",
    "environment",
    "container_id",
    "file_id",
    "encrypted_content",
    "response",
    "item",
    "annotation",
    "tools",
];

/// An item that leaves much behind.
fn item() -> impl Strategy<Value = Value> {
    let annotation = || {
        (texts::object(&NAMES), any::<bool>()).prop_map(|(mut annotation, is_container)| {
            let kind = if is_container { "container_file_citation" } else { "file_citation" };
            annotation.extend([("type".to_owned(), json!(kind)), ("file_id".to_owned(), json!("file-1"))]);
            annotation
        })
    };
    (texts::object(&NAMES), vec(annotation(), 0..3), texts::object(&NAMES)).prop_map(
        |(mut item, annotations, environment)| {
            let content = json!([{"annotations": annotations}]);
            item.extend([("content".to_owned(), content), ("environment".to_owned(), environment.into())]);
            item.into()
        },
    )
}

/// A plain walk over what is parsed.
fn walk(value: &Value, place: &str, all: bool, found: &mut HashSet<AnswerReference>) {
    let object = match value {
        Value::Array(values) => return values.iter().for_each(|value| walk(value, place, all, found)),
        Value::Object(object) => object,
        _ => return,
    };
    let is_container_file = object.get("type") == Some(&json!("container_file_citation"));
    for (name, value) in object {
        let kind = match (place, &**name) {
            ("response", "id") => Response,
            ("response", "conversation") | ("conversation", "id") => Conversation,
            ("item", "id") => Item,
            ("item" | "content", "encrypted_content") => Encrypted,
            ("item" | "environment" | "annotation", "container_id") if all => Container,
            ("annotation", "file_id") if all && is_container_file => File,
            _ => {
                match (place, &**name) {
                    ("response", "output") => walk(value, "item", all, found),
                    ("item", "content") => walk(value, "content", all, found),
                    ("item", "environment") => walk(value, "environment", all, found),
                    ("content", "annotations") => walk(value, "annotation", all, found),
                    _ => {}
                }
                continue;
            }
        };
        match value {
            Value::String(id) if !id.is_empty() => found.extend(expected(&[(kind, id)])),
            _ if (place, &**name) == ("response", "conversation") => walk(value, "conversation", all, found),
            _ => {}
        }
    }
}

/// The references that remain after a body.
fn of_body(body: &Map<String, Value>) -> HashSet<AnswerReference> {
    let mut found = HashSet::new();
    let part = |names: &[&str]| -> Value {
        body.iter()
            .filter(|(name, _)| names.contains(&&***name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    match body.get("object") {
        Some(Value::String(object)) => match &**object {
            "response" => walk(&part(&["id", "conversation", "output"]), "response", true, &mut found),
            "response.compaction" => walk(&part(&["id", "output"]), "response", false, &mut found),
            "conversation" => walk(&part(&["id"]), "conversation", false, &mut found),
            "list" => walk(&body.get("data").cloned().unwrap_or_default(), "item", false, &mut found),
            _ => {}
        },
        None if body.get("type").is_some_and(Value::is_string) => {
            walk(&part(&["id", "encrypted_content", "content"]), "item", false, &mut found);
        }
        _ => {}
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_observer_learns_what_a_walk_of_the_tree_learns(
        body in texts::object(&NAMES), items in vec(item(), 0..3), place in prop::sample::select(vec!["output", "data", "item", "response", "annotation"]),
        object in prop::sample::select(vec![json!("response"), json!("response.compaction"), json!("conversation"), json!("list"), json!("x"), json!(null), json!(1)]),
        kind in prop::sample::select(vec!["response.created", "response.completed", "response.output_item.done", "response.output_text.annotation.added", "x"]),
        style in vec(any::<u8>(), 1..40), cuts in vec(any::<Index>(), 0..12),
    ) {
        let mut body = body;
        // Most names in the places where they mean something.
        match place {
            "item" => _ = items.into_iter().next().map(|item| body.insert("item".into(), item)),
            "response" => _ = body.insert("response".into(), json!({"id": "resp_2", "output": items})),
            "annotation" => _ = items.into_iter().next().map(|item| body.insert("annotation".into(), item["content"][0]["annotations"][0].clone())),
            place => _ = body.insert(place.into(), items.into()),
        }
        if object.is_null() { body.remove("object"); } else { body.insert("object".into(), object); }
        let text = texts::write(&Value::Object(body.clone()), &style);
        let learned = learn_pieces(as_json(AnswerDialect::Responses), texts::cut(text.as_bytes(), &cuts)).concat();
        prop_assert_eq!(learned.len(), learned.iter().collect::<HashSet<_>>().len());
        prop_assert_eq!(learned.into_iter().collect::<HashSet<_>>(), of_body(&body), "{}", text);

        body.insert("type".into(), kind.into());
        let mut found = HashSet::new();
        match kind {
            "x" => {}
            "response.output_item.done" => walk(&body.get("item").cloned().unwrap_or_default(), "item", true, &mut found),
            "response.output_text.annotation.added" => walk(&body.get("annotation").cloned().unwrap_or_default(), "annotation", true, &mut found),
            _ => walk(&body.get("response").cloned().unwrap_or_default(), "response", true, &mut found),
        }
        // One line: a bare line end would end the data.
        let text = texts::write(&Value::Object(body), &style).replace(['\n', '\r'], " ");
        let text = format!("data: {text}\n\n");
        let learned = learn_pieces(as_stream(AnswerDialect::Responses), texts::cut(text.as_bytes(), &cuts)).concat();
        prop_assert_eq!(learned.into_iter().collect::<HashSet<_>>(), found, "{}", text);
    }
}
