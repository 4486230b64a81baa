//! Known state is asked for where it is, whatever the model's targets say.

use super::*;

/// One of each kind, in the last account of all: a request that holds it, and what is known.
const EACH: [(Kind, &str, &str); 15] = [
    (Kind::Response, "resp_1", r#""previous_response_id":"resp_1""#),
    (Kind::Response, "resp_1", r#""previous_\u0072esponse_id":"resp_\u0031""#),
    (Kind::Conversation, "conv_1", r#""conversation":"conv_1""#),
    (Kind::Conversation, "conv_1", r#""conversation":{"id":"conv_1"}"#),
    (Kind::Item, "rs_1", r#""input":[{"type":"item_reference","id":"rs_1"}]"#),
    (Kind::Item, "rs_1", r#""input":[{"type":"reasoning","summary":[],"id":"rs_1"}]"#),
    (Kind::Item, "ig_1", r#""input":[{"type":"image_generation_call","result":"x","id":"ig_1"}]"#),
    (Kind::Encrypted, "gAAA", r#""input":[{"type":"reasoning","encrypted_content":"gAAA"}]"#),
    (Kind::Encrypted, "gAAA", r#""input":[{"type":"compaction","encrypted_content":"gAAA"}]"#),
    (Kind::File, "file-1", r#""input":[{"role":"user","content":[{"type":"input_file","file_id":"file-1"}]}]"#),
    (
        Kind::File,
        "file-1",
        r#""tools":[{"type":"code_interpreter","container":{"type":"auto","file_ids":["file-1"]}}]"#,
    ),
    (Kind::VectorStore, "vs_1", r#""tools":[{"type":"file_search","vector_store_ids":["vs_1"]}]"#),
    (Kind::Container, "cntr_1", r#""tools":[{"type":"code_interpreter","container":"cntr_1"}]"#),
    (Kind::Prompt, "pmpt_1", r#""prompt":{"id":"pmpt_1"}"#),
    (Kind::Skill, "skill_1", r#""tools":[{"type":"shell","environment":{"skills":[{"skill_id":"skill_1"}]}}]"#),
];

#[tokio::test]
async fn every_kind_goes_to_its_account() {
    let mut known: Vec<Known<'_>> = Vec::new();
    for (kind, text, _) in EACH {
        let row = (kind, text, "two", "two-b", "alice", None);
        if !known.contains(&row) {
            known.push(row);
        }
    }
    let mut fleet = Fleet::start(&known, |_| ()).await;
    for (kind, _, holds) in EACH {
        // Wherever the model leads, and however often: nobody takes turns.
        for (asked, sent) in [("smart", "real-two"), ("smart", "real-two"), ("second", "second"), ("first", "first")] {
            let body = format!(r#"{{"model":"{asked}",{holds}}}"#);
            let answer = fleet.create("alice", &body).await;
            assert_eq!(answer.status, 200, "{body}: {answer:?}");
            let arrived = fleet.arrived();
            assert_eq!(arrived.len(), 1);
            assert_eq!(arrived[0].0, "two-b", "{kind:?} {body}");
            let expected = body.replacen(&format!("\"{asked}\""), &format!("\"{sent}\""), 1);
            assert_eq!(String::from_utf8_lossy(&arrived[0].1.body), expected);
        }
        // Every endpoint that takes such a body.
        for path in ["/v1/responses/compact", "/responses/input_tokens", "/v1/conversations", "/v1/chat/completions"] {
            let answer =
                fleet.call("alice", &format!("POST {path}"), Some(&format!(r#"{{"model":"smart",{holds}}}"#))).await;
            assert_eq!((answer.status, fleet.account()), (200, "two-b".into()), "{path} {holds}");
        }
    }
    let pinned = fleet.gateway.metric(r#"tidegate_affinity_requests_total{result="pinned"}"#).await;
    assert_eq!(pinned, (EACH.len() * 8) as f64);
    // Without a reference it goes where the model leads.
    assert_eq!(fleet.create("alice", r#"{"model":"smart"}"#).await.status, 200);
    assert!(fleet.account().starts_with("one-"));
}

#[tokio::test]
async fn without_a_model_it_goes_there_as_it_came() {
    let known = [(Kind::Response, "resp_1", "two", "two-a", "alice", None)];
    let mut fleet = Fleet::start(&known, |_| ()).await;
    fleet.create("alice", r#"{"prompt":{"id":"pmpt_new"}}"#).await.assert_final(
        400,
        "missing_required_parameter",
        true,
    );
    let body = r#"{"previous_response_id":"resp_1"}"#;
    assert_eq!(fleet.create("alice", body).await.status, 200);
    let arrived = fleet.arrived();
    assert_eq!((arrived.len(), &*arrived[0].0, &arrived[0].1.body[..]), (1, "two-a", body.as_bytes()));
}

#[tokio::test]
async fn several_have_to_agree() {
    let known = [
        (Kind::Response, "resp_1", "one", "one-a", "alice", None),
        (Kind::File, "file-1", "one", "one-a", "alice", None),
        (Kind::File, "file-2", "one", "one-b", "alice", None),
        (Kind::Encrypted, "gA", "two", "two-a", "bob", None),
        (Kind::Item, "msg_2", "two", "two-a", "alice", None),
        (Kind::Conversation, "conv_2", "two", "two-a", "alice", None),
    ];
    let mut fleet = Fleet::start(&known, |_| ()).await;
    let agree = r#"{"model":"smart","previous_response_id":"resp_1","tools":[{"file_ids":["file-1","file-1"]}]}"#;
    assert_eq!((fleet.create("alice", agree).await.status, fleet.account()), (200, "one-a".into()));
    for (body, one, other) in [
        (
            r#"{"model":"smart","previous_response_id":"resp_1","tools":[{"file_ids":["file-1","file-2"]}]}"#,
            "previous_response_id",
            "file_ids",
        ),
        (
            r#"{"model":"smart","input":[{"type":"reasoning","encrypted_content":"gA"},{"file_id":"file-2"}]}"#,
            "encrypted_content",
            "file_id",
        ),
        (
            r#"{"model":"smart","previous_response_id":"resp_1","input":[{"type":"item_reference","id":"msg_2"}]}"#,
            "previous_response_id",
            "item",
        ),
    ] {
        let answer = fleet.create("alice", body).await;
        answer.assert_final(400, "conflicting_state", true);
        assert!(answer.message().contains(&format!("{one} and {other}")), "{answer:?}");
    }
    let answer = fleet
        .call(
            "alice",
            "POST /v1/conversations/conv_2/items",
            Some(r#"{"items":[{"type":"item_reference","file_id":"file-1"}]}"#),
        )
        .await;
    answer.assert_final(400, "conflicting_state", true);
    assert!(answer.message().contains("conversation and file_id"), "{answer:?}");
    assert!(fleet.arrived().is_empty());
}

/// A request with one message for each id.
fn messages(model: &str, ids: &[&str]) -> String {
    let item = |id: &&str| format!(r#"{{"type":"message","id":"{id}","role":"user","content":"x"}}"#);
    format!(r#"{{"model":"{model}","input":[{}]}}"#, ids.iter().map(item).collect::<Vec<_>>().join(","))
}

#[tokio::test]
async fn ids_of_whole_items_lead_where_they_are_known_and_are_nothing_elsewhere() {
    let known = [
        (Kind::Item, "msg_mine", "two", "two-b", "carol", Some("team")),
        (Kind::Item, "msg_too", "one", "one-b", "carol", Some("team")),
        (Kind::Item, "msg_theirs", "two", "two-b", "bob", None),
        (Kind::Response, "resp_1", "one", "one-a", "carol", Some("team")),
    ];
    let mut fleet = Fleet::start(&[], |_| ()).await;
    fleet.learns(&known);
    for key in ["carol", "dave"] {
        let body = messages("smart", &["msg_mine", "msg_new"]);
        assert_eq!((fleet.create(key, &body).await.status, fleet.account()), (200, "two-b".into()));
    }
    for (key, model, ids) in [
        ("alice", "smart", &["msg_mine"][..]),
        ("dave", "smart", &["msg_theirs"]),
        ("alice", "smart", &["msg_0190f1a8-codex"]),
        // Its model does not lead there, or they are of several accounts, as failover leaves them behind.
        ("carol", "first", &["msg_mine"]),
        ("carol", "smart", &["msg_mine", "msg_too"]),
    ] {
        let body = messages(model, ids);
        let answer = fleet.create(key, &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let arrived = fleet.arrived();
        assert!(arrived[0].0.starts_with("one-"), "{ids:?}");
        let real = if model == "first" { "real-first" } else { "real-one" };
        assert_eq!(String::from_utf8_lossy(&arrived[0].1.body), body.replacen(model, real, 1));
    }
    // What has to be looked up decides.
    let body = messages("smart", &["msg_mine"]).replacen("{", r#"{"previous_response_id":"resp_1","#, 1);
    assert_eq!((fleet.create("carol", &body).await.status, fleet.account()), (200, "one-a".into()));
}

/// Nothing depends on them, so that nobody waits for what memory does not hold.
#[tokio::test]
async fn the_store_is_not_asked_for_ids_of_whole_items() {
    let known = [
        (Kind::Item, "msg_stored", "two", "two-b", "alice", None),
        (Kind::Item, "msg_theirs", "two", "two-b", "bob", None),
        (Kind::Response, "resp_1", "two", "two-a", "alice", None),
    ];
    let mut fleet = Fleet::start(&known, |_| ()).await;
    let body = messages("smart", &["msg_stored", "msg_theirs", "msg_new"]);
    assert_eq!(fleet.create("alice", &body).await.status, 200);
    assert!(fleet.account().starts_with("one-"), "it goes where its model leads");
    let asked = "tidegate_affinity_asked_total";
    assert_eq!(fleet.gateway.metric(asked).await, 0.0);
    // Beside them it is asked for what has to be looked up.
    let with = body.replacen('{', r#"{"previous_response_id":"resp_1","#, 1);
    let mut tries = 1.0;
    while call(&fleet.gateway, "alice", "POST /v1/responses", Some(&with)).await.status == 503 {
        tries += 1.0;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(fleet.account(), "two-a");
    let asked = fleet.gateway.metric(asked).await;
    assert!((1.0..=tries).contains(&asked), "once a try: {asked} in {tries}");
}

#[tokio::test]
async fn encrypted_content_pins_for_everybody() {
    let known = [(Kind::Encrypted, "gAAA/=", "two", "two-a", "a key that is gone", None)];
    let mut fleet = Fleet::start(&known, |_| ()).await;
    for content in ["gAAA/=", r"g\u0041AA\/\u003d"] {
        let body = format!(
            r#"{{"model":"smart","input":[{{"type":"reasoning","id":"rs_unknown","encrypted_content":"{content}"}}]}}"#
        );
        assert_eq!((fleet.create("bob", &body).await.status, fleet.account()), (200, "two-a".into()));
    }
    // What nobody knows goes where it would go.
    let body = r#"{"model":"smart","input":[{"type":"compaction","encrypted_content":"other"}]}"#;
    assert_eq!(fleet.create("bob", body).await.status, 200);
    assert!(fleet.account().starts_with("one-"));
}

/// The one account has two credentials: nobody but they.
#[tokio::test]
async fn only_credentials_of_the_account_are_asked_next() {
    let known = [(Kind::Response, "resp_1", "two", "shared", "alice", None)];
    let share = |config: &mut Config| {
        for credential in &mut config.upstreams[1].credentials {
            credential.account = "shared".into();
        }
        config.upstreams[1].credentials.push(credential("two-c", "sk-two-c"));
    };
    let mut fleet = Fleet::answering(&known, share, |request| {
        let refused = json(
            "429 Too Many Requests",
            r#"{"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded"}}"#,
        );
        let good = request.header("authorization") == Some("Bearer sk-two-b");
        vec![Step::Send(if good { json("200 OK", DONE) } else { refused })]
    })
    .await;
    let body = r#"{"model":"smart","previous_response_id":"resp_1"}"#;
    // In turn they begin with the one or the other.
    for _ in 0..4 {
        assert_eq!(fleet.create("alice", body).await.status, 200);
    }
    let asked: Vec<String> = fleet.arrived().into_iter().map(|(account, _)| account).collect();
    assert_eq!(asked.iter().filter(|account| *account == "two-b").count(), 4, "{asked:?}");
    assert!(asked.iter().all(|account| matches!(&**account, "two-a" | "two-b")), "{asked:?}");
    assert_eq!(asked.iter().filter(|account| *account == "two-a").count(), 1, "{asked:?}");
}

#[tokio::test]
async fn ambiguous_and_endless_references_are_refused_as_such() {
    let known = [(Kind::Response, "resp_1", "one", "one-a", "alice", None)];
    let mut fleet = Fleet::start(&known, |_| ()).await;
    for (holds, param) in [
        (r#""previous_response_id":"resp_1","previous_response_id":"resp_2""#, "previous_response_id"),
        (r#""previous_response_id":"resp_1","Previous_response_id":"resp_2""#, "previous_response_id"),
        (r#""input":[],"\u0069nput":[]"#, "input"),
        (r#""input":[{"id":"a","ID":"b"}]"#, "id"),
        (r#""conversation":{"id":"a","\u0069d":"b"}"#, "id"),
    ] {
        let answer = fleet.create("alice", &format!(r#"{{"model":"smart",{holds}}}"#)).await;
        answer.assert_final(400, "repeated_field", true);
        assert_eq!(answer.param().as_deref(), Some(param));
    }
    let many = format!(r#"{{"model":"smart","input":[{}]}}"#, vec![r#"{"id":"x"}"#; 8193].join(","));
    fleet.create("alice", &many).await.assert_final(400, "too_many_references", true);
    let deep = format!(r#"{{"model":"smart","x":{}{{"file_id":"x"}}{}}}"#, "[".repeat(100), "]".repeat(100));
    fleet.create("alice", &deep).await.assert_final(400, "nested_too_deeply", true);
    // An id that is too long for one, or no text, can be known to nobody.
    for id in ["x".repeat(257), r"\ud800".to_owned()] {
        let body = format!(r#"{{"model":"smart","previous_response_id":"{id}"}}"#);
        fleet.create("alice", &body).await.assert_final(400, "previous_response_not_found", true);
    }
    assert!(fleet.arrived().is_empty());
}

/// What it refers to is held beside the body, out of the same memory.
#[tokio::test]
async fn references_take_memory_of_bodies() {
    let (go, wait) = tokio::sync::oneshot::channel();
    let wait = std::sync::Arc::new(std::sync::Mutex::new(Some(wait)));
    let fleet = Fleet::answering(
        &[],
        |_| (),
        move |_| {
            let wait = wait.lock().unwrap().take();
            wait.map(Step::Wait).into_iter().chain([Step::Send(json("200 OK", DONE))]).collect()
        },
    )
    .await;
    let items = vec![r#"{"id":"x","role":"user","content":""}"#; 8000].join(",");
    let body = format!(r#"{{"model":"smart","input":[{items}]}}"#);
    let held = async {
        crate::support::database::until("they are counted", async || {
            fleet.gateway.metric("tidegate_body_memory_bytes").await >= (body.len() + 8000 * 200) as f64
        })
        .await;
        go.send(()).unwrap();
    };
    let (answer, ()) = tokio::join!(fleet.create("alice", &body), held);
    assert_eq!(answer.status, 200);
    fleet.gateway.metric_becomes("tidegate_body_memory_bytes", 0.0).await;
}
