//! A request that refers to known state goes to the account that holds it, whatever the targets of its model are.

use super::*;

/// One row for each kind of id: a part of a request that holds the id, whose owner's state is in the last account.
const EACH: [(ReferenceKind, &str, &str); 15] = [
    (ReferenceKind::Response, "resp_1", r#""previous_response_id":"resp_1""#),
    (ReferenceKind::Response, "resp_1", r#""previous_\u0072esponse_id":"resp_\u0031""#),
    (ReferenceKind::Conversation, "conv_1", r#""conversation":"conv_1""#),
    (ReferenceKind::Conversation, "conv_1", r#""conversation":{"id":"conv_1"}"#),
    (ReferenceKind::Item, "rs_1", r#""input":[{"type":"item_reference","id":"rs_1"}]"#),
    (ReferenceKind::Item, "rs_1", r#""input":[{"type":"reasoning","summary":[],"id":"rs_1"}]"#),
    (ReferenceKind::Item, "ig_1", r#""input":[{"type":"image_generation_call","id":"ig_1"}]"#),
    (ReferenceKind::Encrypted, "gAAA", r#""input":[{"type":"reasoning","encrypted_content":"gAAA"}]"#),
    (ReferenceKind::Encrypted, "gAAA", r#""input":[{"type":"compaction","encrypted_content":"gAAA"}]"#),
    (
        ReferenceKind::File,
        "file-1",
        r#""input":[{"role":"user","content":[{"type":"input_file","file_id":"file-1"}]}]"#,
    ),
    (
        ReferenceKind::File,
        "file-1",
        r#""tools":[{"type":"code_interpreter","container":{"type":"auto","file_ids":["file-1"]}}]"#,
    ),
    (ReferenceKind::VectorStore, "vs_1", r#""tools":[{"type":"file_search","vector_store_ids":["vs_1"]}]"#),
    (ReferenceKind::Container, "cntr_1", r#""tools":[{"type":"code_interpreter","container":"cntr_1"}]"#),
    (ReferenceKind::Prompt, "pmpt_1", r#""prompt":{"id":"pmpt_1"}"#),
    (
        ReferenceKind::Skill,
        "skill_1",
        r#""tools":[{"type":"shell","environment":{"skills":[{"skill_id":"skill_1"}]}}]"#,
    ),
];

#[tokio::test]
async fn a_reference_of_every_kind_goes_to_its_account() {
    let mut known: Vec<Known<'_>> = Vec::new();
    for (kind, text, _) in EACH {
        let row = (kind, text, "two", "two-b", "alice", None);
        if !known.contains(&row) {
            known.push(row);
        }
    }
    let plain = |config: &mut Config| config.models.push(model("plain", &[(0, None)]));
    let mut fleet = Fleet::start(&known, plain).await;
    let mut requests = 0;
    for (kind, _, holds) in EACH {
        // The account is the same for every model and every repetition: no round robin.
        for (asked, sent) in [("smart", "real-two"), ("smart", "real-two"), ("second", "second"), ("plain", "plain")] {
            let body = format!(r#"{{"model":"{asked}",{holds}}}"#);
            let answer = fleet.create("alice", &body).await;
            assert_eq!(answer.status, 200, "{body}: {answer:?}");
            let arrived = fleet.arrived();
            assert_eq!(arrived.len(), 1);
            assert_eq!(arrived[0].0, "two-b", "{kind:?} {body}");
            let expected = body.replacen(&format!("\"{asked}\""), &format!("\"{sent}\""), 1);
            assert_eq!(String::from_utf8_lossy(&arrived[0].1.body), expected);
            requests += 1;
        }
        // Every endpoint that takes such a body.
        let items = holds.replacen(r#""input""#, r#""items""#, 1);
        let of_conversation = (items != holds).then_some(("/v1/conversations", &*items));
        let of_responses = [("/v1/responses/compact", holds), ("/responses/input_tokens", holds)];
        for (path, holds) in of_responses.into_iter().chain(of_conversation) {
            let body = format!(r#"{{"model":"smart",{holds}}}"#);
            let answer = fleet.call("alice", &format!("POST {path}"), Some(&body)).await;
            assert_eq!((answer.status, fleet.account()), (200, "two-b".into()), "{path} {holds}");
            requests += 1;
        }
    }
    let pinned = fleet.gateway.metric(r#"tidegate_affinity_requests_total{result="pinned"}"#).await;
    assert_eq!(pinned, f64::from(requests));
    // Without a reference it goes where the model leads.
    assert_eq!(fleet.create("alice", r#"{"model":"smart"}"#).await.status, 200);
    assert!(fleet.account().starts_with("one-"));
}

#[tokio::test]
async fn a_request_without_a_model_goes_to_the_account_of_its_reference_unchanged() {
    let known = [(ReferenceKind::Response, "resp_1", "two", "two-a", "alice", None)];
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
async fn references_to_several_accounts_are_refused_as_conflicting_state() {
    let known = [
        (ReferenceKind::Response, "resp_1", "one", "one-a", "alice", None),
        (ReferenceKind::File, "file-1", "one", "one-a", "alice", None),
        (ReferenceKind::File, "file-2", "one", "one-b", "alice", None),
        (ReferenceKind::Encrypted, "gA", "two", "two-a", "bob", None),
        (ReferenceKind::Item, "msg_2", "two", "two-a", "alice", None),
        (ReferenceKind::Conversation, "conv_2", "two", "two-a", "alice", None),
    ];
    let mut fleet = Fleet::start(&known, |_| ()).await;
    let agree =
        r#"{"model":"smart","previous_response_id":"resp_1","tools":[{"container":{"file_ids":["file-1","file-1"]}}]}"#;
    assert_eq!((fleet.create("alice", agree).await.status, fleet.account()), (200, "one-a".into()));
    for (body, one, other) in [
        (
            r#"{"model":"smart","previous_response_id":"resp_1","tools":[{"container":{"file_ids":["file-1","file-2"]}}]}"#,
            "previous_response_id",
            "file_ids",
        ),
        (
            r#"{"model":"smart","input":[{"type":"reasoning","encrypted_content":"gA"},{"role":"user","content":[{"file_id":"file-2"}]}]}"#,
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
        assert!(answer.message().contains(&format!("{one} and {other}, at the upstreams `")), "{answer:?}");
    }
    let answer = fleet
        .call(
            "alice",
            "POST /v1/conversations/conv_2/items",
            Some(r#"{"items":[{"role":"user","content":[{"file_id":"file-1"}]}]}"#),
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
async fn ids_of_whole_items_prefer_their_account_and_never_pin() {
    let known = [
        (ReferenceKind::Item, "msg_mine", "two", "two-b", "carol", Some("team")),
        (ReferenceKind::Item, "msg_too", "one", "one-b", "carol", Some("team")),
        (ReferenceKind::Item, "msg_theirs", "two", "two-b", "bob", None),
        (ReferenceKind::Response, "resp_1", "one", "one-a", "carol", Some("team")),
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
        // The model does not lead to that account, or the items are of several accounts, as a failover leaves them
        // behind.
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
    // A reference that must be looked up decides.
    let body = messages("smart", &["msg_mine"]).replacen("{", r#"{"previous_response_id":"resp_1","#, 1);
    assert_eq!((fleet.create("carol", &body).await.status, fleet.account()), (200, "one-a".into()));
}

/// No answer depends on these ids, so that a request does not wait for the store to look them up.
#[tokio::test]
async fn ids_of_whole_items_are_not_looked_up_in_the_store() {
    let known = [
        (ReferenceKind::Item, "msg_stored", "two", "two-b", "alice", None),
        (ReferenceKind::Item, "msg_theirs", "two", "two-b", "bob", None),
        (ReferenceKind::Response, "resp_1", "two", "two-a", "alice", None),
    ];
    let mut fleet = Fleet::start(&known, |_| ()).await;
    let body = messages("smart", &["msg_stored", "msg_theirs", "msg_new"]);
    assert_eq!(fleet.create("alice", &body).await.status, 200);
    assert!(fleet.account().starts_with("one-"), "the request goes where its model leads");
    let asked = "tidegate_affinity_store_lookups_total";
    assert_eq!(fleet.gateway.metric(asked).await, 0.0);
    // The store looks up the reference beside them.
    let with = body.replacen('{', r#"{"previous_response_id":"resp_1","#, 1);
    let mut tries = 1.0;
    while call(&fleet.gateway, "alice", "POST /v1/responses", Some(&with)).await.status == 503 {
        tries += 1.0;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(fleet.account(), "two-a");
    let asked = fleet.gateway.metric(asked).await;
    assert!((1.0..=tries).contains(&asked), "one lookup per try: {asked} in {tries}");
}

#[tokio::test]
async fn encrypted_content_pins_the_requests_of_every_key() {
    let known = [(ReferenceKind::Encrypted, "gAAA/=", "two", "two-a", "a key that is gone", None)];
    let mut fleet = Fleet::start(&known, |_| ()).await;
    for content in ["gAAA/=", r"g\u0041AA\/\u003d"] {
        let body = format!(
            r#"{{"model":"smart","input":[{{"type":"reasoning","id":"rs_unknown","encrypted_content":"{content}"}}]}}"#
        );
        assert_eq!((fleet.create("bob", &body).await.status, fleet.account()), (200, "two-a".into()));
    }
    // Unknown content goes where the model leads.
    let body = r#"{"model":"smart","input":[{"type":"compaction","encrypted_content":"other"}]}"#;
    assert_eq!(fleet.create("bob", body).await.status, 200);
    assert!(fleet.account().starts_with("one-"));
}

/// The account has two credentials. Only these two may be tried.
#[tokio::test]
async fn a_pinned_request_fails_over_only_among_credentials_of_its_account() {
    let known = [(ReferenceKind::Response, "resp_1", "two", "shared", "alice", None)];
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
    // Requests alternate between the two credentials.
    for _ in 0..4 {
        assert_eq!(fleet.create("alice", body).await.status, 200);
    }
    let asked: Vec<String> = fleet.arrived().into_iter().map(|(account, _)| account).collect();
    assert_eq!(asked.iter().filter(|account| *account == "two-b").count(), 4, "{asked:?}");
    assert!(asked.iter().all(|account| matches!(&**account, "two-a" | "two-b")), "{asked:?}");
    assert_eq!(asked.iter().filter(|account| *account == "two-a").count(), 1, "{asked:?}");
}

#[tokio::test]
async fn ambiguous_and_too_long_references_are_refused() {
    let known = [(ReferenceKind::Response, "resp_1", "one", "one-a", "alice", None)];
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
    let many = format!(r#"{{"model":"smart","input":[{}]}}"#, vec![r#"{"id":"x"}"#; 1025].join(","));
    fleet.create("alice", &many).await.assert_final(400, "too_many_references", true);
    // An id that is too long, or that is no text, is never known.
    for id in ["x".repeat(257), r"\ud800".to_owned()] {
        let body = format!(r#"{{"model":"smart","previous_response_id":"{id}"}}"#);
        fleet.create("alice", &body).await.assert_final(400, "previous_response_not_found", true);
    }
    assert!(fleet.arrived().is_empty());
}

/// References are held beside the body, in the same memory budget.
#[tokio::test]
async fn references_count_towards_the_memory_for_bodies() {
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
        crate::support::database::until("the references to be counted", async || {
            fleet.gateway.metric("tidegate_body_memory_bytes").await >= (body.len() + 8000 * 200) as f64
        })
        .await;
        go.send(()).unwrap();
    };
    let (answer, ()) = tokio::join!(fleet.create("alice", &body), held);
    assert_eq!(answer.status, 200);
    fleet.gateway.metric_becomes("tidegate_body_memory_bytes", 0.0).await;
}

/// A model name that the configuration maps to another upstream means nothing at this upstream.
#[tokio::test]
async fn a_renamed_model_is_never_sent_to_an_upstream_under_its_public_name() {
    let known = [
        (ReferenceKind::Response, "resp_1", "one", "one-a", "alice", None),
        (ReferenceKind::Encrypted, "gA", "one", "one-a", "alice", None),
        (ReferenceKind::Item, "msg_1", "one", "one-a", "alice", None),
    ];
    let rename = |config: &mut Config| {
        config.models.push(model("alias", &[(1, Some("gpt-4o"))]));
        config.models.push(model("renamed-*", &[(1, Some("gpt-4o"))]));
        config.models.push(model("also", &[(0, Some("x")), (1, None)]));
        config.keys[1].models = Some(vec!["alias".into(), "also".into()]);
    };
    let mut fleet = Fleet::start(&known, rename).await;
    for asked in ["alias", "renamed-1", "two/gpt-4o"] {
        for holds in [
            r#""previous_response_id":"resp_1""#,
            r#""input":[{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"gA"}]"#,
        ] {
            let answer = fleet.create("alice", &format!(r#"{{"model":"{asked}",{holds}}}"#)).await;
            answer.assert_final(400, "conflicting_state", true);
            let message = answer.message();
            assert!(message.contains("the upstream `one`") && message.contains(&format!("`{asked}`")), "{message}");
            assert!(message.contains("with a target at this upstream: `smart`, `first`, `also`."), "{message}");
        }
    }
    // The error lists only models that the key may use.
    let encrypted = r#"{"model":"alias","input":[{"type":"reasoning","encrypted_content":"gA"}]}"#;
    let answer = fleet.create("bob", encrypted).await;
    assert!(answer.message().contains("with a target at this upstream: `also`."), "{answer:?}");
    assert!(fleet.arrived().is_empty());
    // A preference for an account does not overrule the model's route.
    let leans = r#"{"model":"alias","input":[{"type":"message","id":"msg_1","role":"assistant","content":"x"}]}"#;
    assert_eq!(fleet.create("alice", leans).await.status, 200);
    let arrived = fleet.arrived();
    assert!(arrived[0].0.starts_with("two-"));
    assert_eq!(String::from_utf8_lossy(&arrived[0].1.body), leans.replacen("alias", "gpt-4o", 1));
    // A name without another meaning is sent as it is.
    let plain = r#"{"model":"second","previous_response_id":"resp_1"}"#;
    assert_eq!((fleet.create("alice", plain).await.status, fleet.account()), (200, "one-a".into()));
}

/// A thread with encrypted reasoning continues with another model, where that model allows the removal of reasoning.
#[tokio::test]
async fn a_switch_of_models_continues_without_reasoning_that_the_other_account_cannot_read() {
    let known = [
        (ReferenceKind::Encrypted, "gA", "one", "one-a", "alice", None),
        (ReferenceKind::Item, "ws_1", "one", "one-a", "alice", None),
    ];
    let mut fleet = Fleet::start(&known, |config| {
        config
            .models
            .push(Model { on_lost_state: OnLostState::StripEncrypted, ..model("alias", &[(1, Some("gpt-4o"))]) });
    })
    .await;
    let kept = r#"{"type":"web_search_call","id":"ws_1","status":"completed","action":{"type":"search","query":"x"}}"#;
    let body = format!(r#"{{"model":"alias","input":[{kept},{{"type":"reasoning","encrypted_content":"gA"}}]}}"#);
    assert_eq!(fleet.create("alice", &body).await.status, 200);
    let arrived = fleet.arrived();
    assert!(arrived[0].0.starts_with("two-"));
    let expected = format!(r#"{{"model":"gpt-4o","input":[{kept}]}}"#);
    assert_eq!(String::from_utf8_lossy(&arrived[0].1.body), expected);
}

/// An item of every type that Codex and openai-python know, and of some unknown types. An item with content is never
/// refused, whoever shares the account and whatever ids the gateway knows.
#[tokio::test]
async fn items_with_content_and_client_ids_are_never_refused() {
    const ITEMS: [&str; 34] = [
        r#"{"type":"message","role":"assistant","status":"completed","content":[{"type":"output_text","text":"x","annotations":[{"type":"container_file_citation","container_id":"cntr_none","file_id":"cfile_none"}]}]"#,
        r#"{"role":"user","content":"x""#,
        r#"{"type":"message","role":"assistant","content":[]"#,
        r#"{"type":"file_search_call","queries":["x"],"status":"completed","results":[{"file_id":"file-none","text":"x"}]"#,
        r#"{"type":"computer_call","call_id":"c","action":{"type":"screenshot"},"pending_safety_checks":[],"status":"completed""#,
        r#"{"type":"computer_call","call_id":"c","actions":[{"type":"wait"}],"status":"completed""#,
        r#"{"type":"computer_call_output","call_id":"c","output":{"type":"computer_screenshot","image_url":"data:"}"#,
        r#"{"type":"web_search_call","action":{"type":"search","query":"x"},"status":"completed""#,
        r#"{"type":"web_search_call","status":"completed""#,
        r#"{"type":"function_call","call_id":"call_1","name":"f","arguments":"{}""#,
        r#"{"type":"function_call","call_id":"call_1","name":"f","arguments":"""#,
        r#"{"type":"function_call_output","call_id":"call_1","output":"""#,
        r#"{"type":"tool_search_call","call_id":"call_2","arguments":{"query":"x"},"execution":"client","status":"completed""#,
        r#"{"type":"tool_search_output","call_id":"call_2","tools":[],"execution":"client","status":"completed""#,
        r#"{"type":"additional_tools","role":"developer","tools":[{"type":"function","name":"f","parameters":{"properties":{"Container":{}}}}]"#,
        r#"{"type":"reasoning","summary":[{"type":"summary_text","text":"x"}]"#,
        r#"{"type":"reasoning","summary":[],"content":[{"type":"reasoning_text","text":"x"}]"#,
        r#"{"type":"reasoning","summary":[],"encrypted_content":"gNew""#,
        r#"{"type":"compaction","encrypted_content":"gNew""#,
        r#"{"type":"context_compaction","encrypted_content":"gNew""#,
        r#"{"type":"image_generation_call","result":"aGk=","status":"completed""#,
        r#"{"type":"code_interpreter_call","code":"x","container_id":"cntr_none","outputs":null,"status":"completed""#,
        r#"{"type":"code_interpreter_call","code":null,"container_id":"cntr_none","outputs":null,"status":"completed""#,
        r#"{"type":"local_shell_call","call_id":"c","action":{"type":"exec","command":["ls"]},"status":"completed""#,
        r#"{"type":"shell_call","call_id":"c","action":{"commands":["ls"]},"status":"completed""#,
        r#"{"type":"shell_call_output","call_id":"c","output":[{"stdout":"","stderr":"","outcome":{"type":"exit","exit_code":0}}]"#,
        r#"{"type":"apply_patch_call","call_id":"c","operation":{"type":"create_file","path":"a","diff":"+"},"status":"completed""#,
        r#"{"type":"mcp_list_tools","server_label":"s","tools":[{"name":"t","input_schema":{"file_id":"x"},"annotations":{"File_Id":1}}]"#,
        r#"{"type":"mcp_approval_request","server_label":"s","name":"t","arguments":"{}""#,
        r#"{"type":"mcp_approval_response","approval_request_id":"mcpr_none","approve":true"#,
        r#"{"type":"mcp_call","server_label":"s","name":"t","arguments":"{}","output":"x","error":null"#,
        r#"{"type":"agent_message","author":"/root","recipient":"/root/a","content":[{"type":"input_text","text":"x"}]"#,
        r#"{"type":"custom_tool_call","call_id":"c","name":"f","input":"x""#,
        r#"{"type":"hologram_of_2027","projection":{"beam":"x"},"container":"wav","File_Id":"x""#,
    ];
    let known = [(ReferenceKind::Item, "x_theirs", "two", "two-b", "bob", None)];
    let mut fleet = Fleet::start(&known, |_| ()).await;
    fleet.learns(&known);
    let all: Vec<String> = (0..).zip(ITEMS).map(|(id, item)| format!(r#"{item},"id":"x_{id}"}}"#)).collect();
    for item in all.iter().map(String::as_str).chain([&*all.join(",")]) {
        let body = format!(r#"{{"model":"smart","store":false,"input":[{item}]}}"#);
        let answer = fleet.create("alice", &body).await;
        assert_eq!(answer.status, 200, "{item}: {answer:?}");
        let arrived = fleet.arrived();
        assert_eq!(String::from_utf8_lossy(&arrived[0].1.body), body.replacen("smart", "real-one", 1));
    }
}
