//! Which answers record which ids.

use tidegate::{
    affinity::Recalled,
    domain::origin::{Origin, ReferenceKind},
};

use super::{BODY, made_here, owner, recorded, recorded_count, with_stranger};
use crate::support::{
    client::{Answer, Client},
    gateway::{Gateway, KEY},
    upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, answer, chunk, json},
};

type Id = (ReferenceKind, &'static str);

/// Fields with ids that a request may hold and an answer repeats.
const ECHOES: &str = r#""previous_response_id":"resp_old","instructions":[{"id":"msg_old"}],"input":[{"id":"msg_old","encrypted_content":"old"}],"prompt":{"id":"pmpt_old"},"tools":[{"type":"file_search","vector_store_ids":["vs_old"]},{"type":"code_interpreter","container":"cntr_old"}],"metadata":{"id":"resp_old","conversation":"conv_old","file_id":"file_old"}"#;

const ECHOED: [Id; 8] = [
    (ReferenceKind::Response, "resp_old"),
    (ReferenceKind::Conversation, "conv_old"),
    (ReferenceKind::Item, "msg_old"),
    (ReferenceKind::Encrypted, "old"),
    (ReferenceKind::Prompt, "pmpt_old"),
    (ReferenceKind::VectorStore, "vs_old"),
    (ReferenceKind::Container, "cntr_old"),
    (ReferenceKind::File, "file_old"),
];

const OUTPUT: &str = r#"[{"type":"reasoning","id":"rs_1","encrypted_content":"secret\u0031"},{"type":"code_interpreter_call","id":"ci_1","container_id":"cntr_1"},{"type":"message","id":"msg_1","content":[{"type":"output_text","text":"{\"id\":\"resp_text\"}","annotations":[{"type":"container_file_citation","container_id":"cntr_1","file_id":"cfile_1"}]}]}]"#;

const OUTPUT_IDS: [Id; 6] = [
    (ReferenceKind::Item, "rs_1"),
    (ReferenceKind::Encrypted, "secret1"),
    (ReferenceKind::Item, "ci_1"),
    (ReferenceKind::Container, "cntr_1"),
    (ReferenceKind::Item, "msg_1"),
    (ReferenceKind::File, "cfile_1"),
];

fn response() -> String {
    format!(
        r#"{{{ECHOES},"id":"resp_1","object":"response","status":"completed","conversation":{{"id":"conv_1"}},"output":{OUTPUT}}}"#
    )
}

fn stream() -> String {
    let response = r#"{"id":"resp_1","object":"response","conversation":{"id":"conv_1"}"#;
    let created = format!(r#"{{"type":"response.created","response":{response},{ECHOES}}}}}"#);
    // The type comes last in this event.
    let done = format!(r#"{{"item":{{"type":"reasoning","id":"rs_0"}},{ECHOES},"type":"response.output_item.done"}}"#);
    let delta = r#"{"type":"response.output_text.delta","item_id":"msg_delta","delta":"x"}"#;
    let completed = format!(r#"{{"type":"response.completed","response":{response},"output":{OUTPUT}}}}}"#);
    [&created, &done, delta, &completed].map(|data| format!("data: {data}\n\n")).concat()
}

async fn ask(gateway: &Gateway, key: &str, line: &str) -> Answer {
    let mut client = Client::connect(gateway.address).await;
    let body = if line.starts_with("POST") { BODY } else { "" };
    let length = body.len();
    client
        .send(format!(
            "{line} HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await;
    client.answer().await
}

/// Sends a request of `tester` to a gateway whose upstream gives this answer, and checks that the answer reaches the
/// client unchanged.
async fn answered(line: &str, sent: Vec<u8>, body: &[u8]) -> (Upstream, Gateway) {
    let upstream = Upstream::scripted(move |_| vec![Step::Send(sent.clone())]).await;
    let gateway = Gateway::start(with_stranger(&upstream.base_url()));
    let answer = ask(&gateway, KEY, line).await;
    assert!(answer.whole && answer.body == body, "{line}: {answer:?}");
    (upstream, gateway)
}

#[tokio::test]
async fn each_kind_of_answer_records_the_new_ids_and_not_the_repeated_ones() {
    let of_response: Vec<Id> = [(ReferenceKind::Response, "resp_1"), (ReferenceKind::Conversation, "conv_1")]
        .into_iter()
        .chain(OUTPUT_IDS)
        .collect();
    let of_stream: Vec<Id> = of_response.iter().copied().chain([(ReferenceKind::Item, "rs_0")]).collect();
    let create = "POST /v1/responses";
    let whole = |body: String| (json("200 OK", &body), body);
    let streamed = |body: String| {
        let sent = [STREAM, &chunk(body.as_bytes()), LAST_CHUNK].concat();
        (sent, body)
    };
    let compaction = format!(
        r#"{{"id":"resp_2","object":"response.compaction",{ECHOES},"output":[{{"type":"compaction","id":"cmp_1","encrypted_content":"c"}}]}}"#
    );
    let conversation = r#"{"id":"conv_2","object":"conversation","metadata":{"id":"conv_old"}}"#;
    let list = r#"{"object":"list","data":[{"type":"message","id":"msg_2","content":[]},{"type":"reasoning","id":"rs_2","encrypted_content":"l"}],"first_id":"x"}"#;
    let item = r#"{"type":"message","id":"msg_3","content":[]}"#;
    for (line, (sent, body), ids) in [
        (create, whole(response()), of_response.clone()),
        (create, streamed(stream()), of_stream.clone()),
        ("GET /v1/responses/resp_1", whole(response()), of_response.clone()),
        ("GET /v1/responses/resp_1?stream=true", streamed(stream()), of_stream),
        ("POST /v1/responses/resp_1/cancel", whole(response()), of_response),
        (
            "POST /v1/responses/compact",
            whole(compaction),
            vec![(ReferenceKind::Response, "resp_2"), (ReferenceKind::Item, "cmp_1"), (ReferenceKind::Encrypted, "c")],
        ),
        ("POST /v1/conversations", whole(conversation.into()), vec![(ReferenceKind::Conversation, "conv_2")]),
        (
            "POST /v1/conversations/conv_2/items",
            whole(list.into()),
            vec![(ReferenceKind::Item, "msg_2"), (ReferenceKind::Item, "rs_2"), (ReferenceKind::Encrypted, "l")],
        ),
        (
            "GET /v1/responses/resp_1/input_items",
            whole(list.into()),
            vec![(ReferenceKind::Item, "msg_2"), (ReferenceKind::Item, "rs_2"), (ReferenceKind::Encrypted, "l")],
        ),
        ("GET /v1/conversations/conv_2/items/msg_3", whole(item.into()), vec![(ReferenceKind::Item, "msg_3")]),
    ] {
        let (_upstream, gateway) = answered(line, sent, body.as_bytes()).await;
        // An answer only repeats the ids that its request names.
        let path: Vec<_> = line.split(['/', '?']).collect();
        let ids: Vec<Id> = ids.into_iter().filter(|id| !path.contains(&id.1)).collect();
        for id in &ids {
            assert_eq!(recorded(&gateway, *id, owner("tester")).await, made_here(), "{line}: {id:?}");
            let Recalled::Own(origin) = made_here() else { panic!() };
            assert_eq!(recorded(&gateway, *id, owner("stranger")).await, Recalled::Foreign(origin), "{line}: {id:?}");
        }
        for id in ECHOED {
            assert_eq!(recorded(&gateway, id, owner("tester")).await, Recalled::Unknown, "{line}: {id:?}");
        }
        // No further id is recorded.
        assert_eq!(recorded_count(&gateway).await, ids.len() as f64, "{line}");
    }
}

/// Some servers set no content type: their answers count as well.
#[tokio::test]
async fn ids_in_json_without_its_content_type_are_recorded() {
    let unnamed = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{RESPONSE}", RESPONSE.len());
    for sent in [answer("200 OK", "text/plain; charset=utf-8", RESPONSE.as_bytes()), unnamed.into_bytes()] {
        let (_upstream, gateway) = answered("POST /v1/responses", sent, RESPONSE.as_bytes()).await;
        assert_eq!(recorded(&gateway, (ReferenceKind::Response, "resp_1"), owner("tester")).await, made_here());
    }
    let text = "resp_1 and nothing else";
    let (_upstream, gateway) =
        answered("POST /v1/responses", answer("200 OK", "text/plain", text.as_bytes()), text.as_bytes()).await;
    assert_eq!(recorded_count(&gateway).await, 0.0);
}

/// The first bytes of an answer show what it is, and an unrequested encoding is no obstacle. The client gets the bytes
/// unchanged, and may name the id at once.
#[tokio::test]
async fn ids_in_an_encoded_or_wrongly_labelled_answer_are_recorded() {
    let of_stream = stream();
    for (coding, media, plain) in [
        ("gzip", "application/json", RESPONSE),
        ("gzip", "text/event-stream", &of_stream),
        ("br", "application/json", RESPONSE),
        ("br", "text/event-stream", &of_stream),
        ("zstd", "application/json", RESPONSE),
        ("deflate", "text/event-stream", &of_stream),
        ("", "audio/mpeg", RESPONSE),
        ("", "text/event-stream", RESPONSE),
        ("", "application/json", &of_stream),
        ("", "application/octet-stream", &of_stream),
        // The label of an encoding that the body does not have.
        ("gzip but plain", "application/json", RESPONSE),
    ] {
        let body = match coding {
            "" | "gzip but plain" => plain.as_bytes().to_vec(),
            coding => crate::charges::encode(coding, plain.as_bytes()).await,
        };
        let label = coding.split(' ').next().filter(|label| !label.is_empty());
        let label = label.map(|label| format!("content-encoding: {label}\r\n")).unwrap_or_default();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {media}\r\n{label}content-length: {}\r\n\r\n", body.len());
        let sent = [head.as_bytes(), &body].concat();
        let (_upstream, gateway) = answered("POST /v1/responses", sent, &body).await;
        assert_eq!(
            recorded(&gateway, (ReferenceKind::Response, "resp_1"), owner("tester")).await,
            made_here(),
            "{coding} as {media}"
        );
    }
}

#[tokio::test]
async fn errors_deletions_and_unknown_encodings_record_no_id() {
    let coded = [
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: x-own\r\ncontent-length: ".as_slice(),
        RESPONSE.len().to_string().as_bytes(),
        b"\r\n\r\n",
        RESPONSE.as_bytes(),
    ]
    .concat();
    let of_stream = stream();
    let failed = answer("400 Bad Request", "text/event-stream", of_stream.as_bytes());
    for (what, sent, body) in [
        ("400", json("400 Bad Request", RESPONSE), RESPONSE),
        ("404", json("404 Not Found", RESPONSE), RESPONSE),
        ("429", json("429 Too Many Requests", RESPONSE), RESPONSE),
        ("500", json("500 X", RESPONSE), RESPONSE),
        ("a stream of 400", failed, &of_stream),
        ("an answer in a coding that nobody knows", coded, RESPONSE),
        (
            "a deletion",
            json("200 OK", r#"{"id":"resp_1","object":"response","deleted":true}"#),
            r#"{"id":"resp_1","object":"response","deleted":true}"#,
        ),
    ] {
        let (_upstream, gateway) = answered("POST /v1/responses", sent, body.as_bytes()).await;
        assert_eq!(
            recorded(&gateway, (ReferenceKind::Response, "resp_1"), owner("tester")).await,
            Recalled::Unknown,
            "{what}"
        );
        assert_eq!(recorded_count(&gateway).await, 0.0, "{what}");
    }
}

#[tokio::test]
async fn an_id_that_several_keys_receive_belongs_to_each_of_them() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::start(with_stranger(&upstream.base_url()));
    assert_eq!(ask(&gateway, KEY, "POST /v1/responses").await.status, 200);
    // The upstream gives the same id to another key.
    assert_eq!(ask(&gateway, super::STRANGER, "POST /v1/responses").await.body, RESPONSE.as_bytes());
    assert_eq!(recorded(&gateway, (ReferenceKind::Response, "resp_1"), owner("tester")).await, made_here());
    let Recalled::Own(origin) = made_here() else { panic!() };
    let of_stranger = Recalled::Own(Origin { owner: owner("stranger"), ..origin });
    assert_eq!(recorded(&gateway, (ReferenceKind::Response, "resp_1"), owner("stranger")).await, of_stranger);
    assert_eq!(
        recorded(&gateway, (ReferenceKind::Response, "resp_1"), owner("another")).await,
        Recalled::Foreign(origin)
    );
    assert_eq!(gateway.metric("tidegate_affinity_foreign_total").await, 1.0);
}

#[tokio::test]
async fn an_answer_with_too_many_ids_passes_whole_and_the_first_ids_are_recorded() {
    let items: Vec<_> = (0..5000).map(|number| format!(r#"{{"type":"message","id":"msg_{number}"}}"#)).collect();
    let list = format!(r#"{{"object":"list","data":[{}]}}"#, items.join(","));
    let (_upstream, gateway) =
        answered("GET /v1/conversations/conv_2/items", json("200 OK", &list), list.as_bytes()).await;
    assert_eq!(recorded(&gateway, (ReferenceKind::Item, "msg_4095"), owner("tester")).await, made_here());
    assert_eq!(recorded(&gateway, (ReferenceKind::Item, "msg_4096"), owner("tester")).await, Recalled::Unknown);
    gateway.metric_becomes("tidegate_affinity_skipped_total", 904.0).await;
    assert_eq!(recorded_count(&gateway).await, 4096.0);
}
