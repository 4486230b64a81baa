//! A request for another owner's state gets exactly the answer of a request for state that never existed.

use tidegate::domain::endpoint::{Endpoint, RequestBodyKind};

use super::*;

/// Alice's state, all in one account. Each id is as long as the unknown id that it is compared with.
fn of_alice() -> Vec<Known<'static>> {
    let kinds = [
        (ReferenceKind::Response, "resp_alice"),
        (ReferenceKind::Conversation, "conv_alice"),
        (ReferenceKind::Item, "item_alice"),
        (ReferenceKind::File, "file-alice"),
        (ReferenceKind::VectorStore, "vsto_alice"),
        (ReferenceKind::Container, "cntr_alice"),
        (ReferenceKind::Skill, "skil_alice"),
    ];
    kinds.map(|(kind, id)| (kind, id, "two", "two-b", "alice", None)).into()
}

/// Every documented way to name state in a request for a response, with the status and code of the error.
const REFERENCES: [(&str, u16, &str); 24] = [
    (r#""previous_response_id":"resp_alice""#, 400, "previous_response_not_found"),
    (r#""previous_response_id":{"id":"resp_alice"}"#, 400, "previous_response_not_found"),
    (r#""prompt_cache_options":{"comparison_response_id":"resp_alice"}"#, 400, "previous_response_not_found"),
    (r#""conversation":"conv_alice""#, 404, "unknown_id"),
    (r#""conversation":{"id":"conv_alice"}"#, 404, "unknown_id"),
    (r#""input":[{"type":"item_reference","id":"item_alice"}]"#, 404, "unknown_id"),
    (r#""input":[{"id":"item_alice"}]"#, 404, "unknown_id"),
    (r#""input":{"id":"item_alice","content":null}"#, 404, "unknown_id"),
    (r#""input":[{"type":"reasoning","id":"item_alice","summary":[]}]"#, 404, "unknown_id"),
    (r#""input":[{"type":"image_generation_call","id":"item_alice"}]"#, 404, "unknown_id"),
    (r#""input":[{"role":"user","content":[{"type":"input_image","file_id":"file-alice"}]}]"#, 404, "unknown_id"),
    (r#""input":[{"type":"computer_call_output","output":{"file_id":"file-alice"}}]"#, 404, "unknown_id"),
    (r#""tools":[{"type":"code_interpreter","container":{"file_ids":["file-alice"]}}]"#, 404, "unknown_id"),
    (r#""prompt":{"id":"pmpt_1","variables":{"x":{"file_id":"file-alice"}}}"#, 404, "unknown_id"),
    (r#""tools":[{"type":"file_search","vector_store_ids":["vsto_alice"]}]"#, 404, "unknown_id"),
    (r#""tools":[{"type":"code_interpreter","container":"cntr_alice"}]"#, 404, "unknown_id"),
    (r#""tools":[{"environment":{"container_id":"cntr_alice"}}]"#, 404, "unknown_id"),
    (r#""tools":[{"environment":{"skills":[{"skill_id":"skil_alice"}]}}]"#, 404, "unknown_id"),
    // Ids that are hidden by escapes in names, in values or in both, or behind earlier fields.
    (r#""previous_\u0072esponse_id":"resp_alice""#, 400, "previous_response_not_found"),
    (r#""previous_response_id":"re\u0073p_\u0061lice""#, 400, "previous_response_not_found"),
    (r#""\u0063onversation":{"\u0069\u0064":"conv_\u0061lice"}"#, 404, "unknown_id"),
    (r#""\u0069nput":[{"\u0069d":"item_alic\u0065","\u0074ype":"item\u005freference"}]"#, 404, "unknown_id"),
    (
        r#""input":[{"id":"msg_new","role":"user","content":"x"},{"type":"item_reference","id":"item_alice"}]"#,
        404,
        "unknown_id",
    ),
    (
        r#""metadata":{"file_id":"x"},"tools":[{"container":{"file_id\u0073":[["file-\u0061lice"]]}}]"#,
        404,
        "unknown_id",
    ),
];

/// Parts with an id of alice's at undocumented places: relays and later APIs may look them up.
const ELSEWHERE: [&str; 43] = [
    // Under the name of another field.
    r#""extra_body":{"conversation":"resp_alice"}"#,
    r#""extra_body":{"file_id":"resp_alice"}"#,
    r#""extra_body":{"previous_response_id":"resp_alice"}"#,
    r#""extra_body":{"input":[{"type":"item_reference","id":"item_alice"}]}"#,
    r#""extra_body":{"input":[{"id":"item_alice"}]}"#,
    r#""extra_body":{"input":{"id":"item_alice"}}"#,
    r#""extra_body":{"conversation":"conv_alice"}"#,
    r#""extra_body":{"conversation":{"id":"conv_alice"}}"#,
    r#""extra_body":{"tools":[{"container":"cntr_alice"}]}"#,
    r#""extra_body":{"tools":[{"vector_store_ids":["vsto_alice"]}]}"#,
    r#""extra_body":{"tools":[{"environment":{"skills":[{"skill_id":"skil_alice"}]}}]}"#,
    r#""extra_body":{"messages":[{"audio":{"id":"item_alice"}}]}"#,
    r#""extra_body":{"extra_body":{"previous_response_id":"resp_alice"}}"#,
    r#""Extra_Body":{"Previous_Response_ID":"resp_alice"}"#,
    r#""extra_body":{"\u0069nput":[{"\u0069d":"item\u005falice"}]}"#,
    r#""extra_body":[{"previous_response_id":["resp_alice"]}]"#,
    r#""extra_json":{"x":"resp_alice"}"#,
    r#""extra_query":{"after":"item_alice"}"#,
    r#""provider":{"options":{"openai":{"previousResponseId":"resp_alice"}}}"#,
    r#""litellm_params":{"a":[[["resp_alice"]]]}"#,
    r#""x":"resp_alice""#,
    r#""metadata":{"x":"conv_alice"}"#,
    r#""client_metadata":{"x":{"y":"resp_alice"}}"#,
    r#""headers":{"x":"resp_alice"}"#,
    r#""tools":[{"type":"function","parameters":{"default":"resp_alice"}}]"#,
    r#""text":{"format":{"schema":{"const":"resp_alice"}}}"#,
    r#""response_id":"resp_alice""#,
    r#""items":[{"type":"item_reference","id":"item_alice"}]"#,
    r#""messages":[{"role":"assistant","audio":{"id":"item_alice"}}]"#,
    r#""messages":[{"role":"user","content":[{"type":"file","file":{"file_id":"file-alice"}}]}]"#,
    r#""input":[{"type":"mcp_approval_response","approval_request_id":"item_alice","approve":true}]"#,
    r#""input":[{"type":"code_interpreter_call","id":"ci_1","code":"x","container_id":"cntr_alice"}]"#,
    r#""input":[{"role":"user","content":[{"type":"x","annotations":[{"container_id":"cntr_alice"}]}]}]"#,
    r#""input":[{"role":"user","content":[{"type":"x","content":{"file_id":"file-alice"}}]}]"#,
    // As a word of the API, as a key, in an object in place of an id, with white space around it.
    r#""extra_body":{"type":"resp_alice"}"#,
    r#""extra_body":{"call_id":"resp_alice"}"#,
    r#""x":{"resp_alice":true}"#,
    r#""extra_body":{"conversation":{"ID":"conv_alice"}}"#,
    r#""extra_body":{"File_Id":[{"id":"file-alice"}]}"#,
    r#""x":" resp_alice ""#,
    r#""x":"\tre\u0073p_alice\n""#,
    // The item has content, but not the content that its type requires.
    r#""input":[{"type":"message","id":"item_alice","x":"y"}]"#,
    r#""input":[{"type":"image_generation_call","id":"item_alice","result":null,"size":"1024x1024"}]"#,
];

/// Fields that two parsers would read in two ways.
const AMBIGUOUS: [&str; 6] = [
    r#""previous_response_id":{"id":"x","ID":"resp_alice"}"#,
    r#""previous_response_id":null,"previous_response_id":"resp_alice""#,
    r#""Previous_Response_ID":"resp_alice""#,
    r#""input":[{"id":"x","\u0069d":"item_alice"}]"#,
    r#""input":[{"type":"item_reference","ID":"item_alice"}]"#,
    r#""tools":[{"container":{},"Container":"cntr_alice"}]"#,
];

/// The same text with ids that no owner has.
fn with_unknown_ids(text: &str) -> String {
    text.replace("alice", "nobod").replace(r"\u0061lice", r"\u006eobod").replace(r"alic\u0065", r"nobo\u0064")
}

const RESPONSES: [&str; 3] = ["/v1/responses", "/v1/responses/compact", "/responses/input_tokens"];

/// Every endpoint with a body.
const BODIES: [&str; 11] = [
    "/v1/responses",
    "/v1/responses/compact",
    "/responses/input_tokens",
    "/v1/conversations",
    "/v1/conversations/conv_of_bob/items",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/audio/speech",
];

async fn fleet(change: impl FnOnce(&mut Config)) -> Fleet {
    let mut known = of_alice();
    // One id of each other owner, so that every key owns something.
    known.push((ReferenceKind::Conversation, "conv_of_bob", "two", "two-b", "bob", None));
    known.push((ReferenceKind::Conversation, "conv_of_team", "two", "two-b", "carol", Some("team")));
    Fleet::start(&known, |config| {
        config.default_upstream = Some(0);
        change(config);
    })
    .await
}

#[tokio::test]
async fn references_to_state_of_another_owner_get_the_answer_for_unknown_ids() {
    let mut fleet = fleet(|_| ()).await;
    let mut compared = 0;
    let same = async |fleet: &Fleet, line: &str, holds: &str, status: u16, code: &str| {
        let body = format!(r#"{{"model":"smart",{holds}}}"#);
        for key in ["bob", "carol"] {
            let line = if key == "carol" { line.replace("of_bob", "of_team") } else { line.to_owned() };
            let theirs = fleet.call(key, &line, Some(&body)).await;
            let nobodys = fleet.call(key, &line, Some(&with_unknown_ids(&body))).await;
            assert_eq!(masked(&theirs), masked(&nobodys), "{line} {body}");
            theirs.assert_final(status, code, true);
            assert!(!theirs.text().contains("alice"), "{theirs:?}");
        }
    };
    for path in RESPONSES {
        for (holds, status, code) in REFERENCES {
            same(&fleet, &format!("POST {path}"), holds, status, code).await;
            compared += 2;
        }
        for holds in AMBIGUOUS {
            same(&fleet, &format!("POST {path}"), holds, 400, "repeated_field").await;
        }
    }
    for path in ["/v1/conversations", "/v1/conversations/conv_of_bob/items"] {
        for (holds, status, code) in REFERENCES {
            let items = holds.replacen(r#""input""#, r#""items""#, 1);
            if items != holds {
                same(&fleet, &format!("POST {path}"), &items, status, code).await;
                compared += 2;
            }
        }
    }
    for holds in [
        r#""messages":[{"role":"assistant","audio":{"id":"item_alice"}}]"#,
        r#""messages":[{"role":"user","content":[{"type":"file","file":{"file_id":"file-alice"}}]}]"#,
    ] {
        same(&fleet, "POST /v1/chat/completions", holds, 404, "unknown_id").await;
    }
    assert!(fleet.arrived().is_empty(), "no request reached an upstream");
    eprintln!("{compared} pairs of answers are the same");
    // Alice's own requests are served.
    for (holds, ..) in REFERENCES {
        let body = format!(r#"{{"model":"smart",{holds}}}"#);
        assert_eq!((fleet.create("alice", &body).await.status, fleet.account()), (200, "two-b".into()), "{body}");
    }
}

/// The name of the field does not matter: an id of another owner is refused, and an unknown value goes up.
#[tokio::test]
async fn ids_of_another_owner_are_refused_in_any_field() {
    let mut fleet = fleet(|_| ()).await;
    // The gateway recorded the ids before: the store is not asked for ids whose prefix is an ordinary word.
    fleet.learns(&of_alice());
    for path in BODIES {
        let line = format!("POST {path}");
        let on_its_own = |holds: &str| match path {
            "/v1/chat/completions" => holds.starts_with(r#""messages""#),
            _ if path.contains("conversations") => holds.starts_with(r#""items""#),
            _ => false,
        };
        for holds in ELSEWHERE.into_iter().filter(|holds| !on_its_own(holds)) {
            let body = format!(r#"{{"model":"smart",{holds}}}"#);
            let theirs = fleet.call("bob", &line, Some(&body)).await;
            assert!(matches!(theirs.status, 400 | 404), "{line} {body}: {theirs:?}");
            assert!(!theirs.text().contains("alice"), "{theirs:?}");
            assert!(fleet.arrived().is_empty(), "{line} {body}");
            let nobodys = fleet.call("bob", &line, Some(&with_unknown_ids(&body))).await;
            assert_eq!((nobodys.status, fleet.arrived().len()), (200, 1), "{line} {body}: {nobodys:?}");
        }
        // Text is not searched for ids, wherever it stands.
        for holds in [
            r#""input":"resp_alice""#,
            r#""input":[{"role":"user","content":"resp_alice"}]"#,
            r#""input":[{"role":"user","content":[{"type":"input_text","text":"resp_alice"}]}]"#,
            r#""input":[{"type":"function_call","call_id":"call_1","arguments":"resp_alice"}]"#,
            r#""input":[{"type":"function_call_output","call_id":"c","output":"resp_alice"}]"#,
            r#""instructions":"resp_alice""#,
            r#""messages":[{"role":"user","content":"resp_alice"},{"role":"tool","tool_call_id":"call_alice","content":["resp_alice"]}]"#,
        ] {
            let body = format!(r#"{{"model":"smart",{holds}}}"#);
            let answer = fleet.call("bob", &line, Some(&body)).await;
            assert_eq!((answer.status, fleet.arrived().len()), (200, 1), "{line} {body}: {answer:?}");
        }
    }
    // An owner's own id at such a place only chooses the account that is tried first.
    let body = r#"{"model":"smart","extra_body":{"previous_response_id":"resp_alice"}}"#;
    assert_eq!((fleet.create("alice", body).await.status, fleet.account()), (200, "two-b".into()));
    // A query is searched like a body.
    for query in [
        "x=resp_alice",
        "after=item_alice",
        "after[]=item_alice",
        "a=b&%78=resp%5Falice",
        "x=resp%255Falice",
        "x=+resp_alice%20",
        "a=b;x=resp_alice",
        "x=1&x=resp_alice",
        "resp_alice",
        "resp%5Falice=1",
    ] {
        let line = format!("POST /v1/responses?{query}");
        let theirs = fleet.call("bob", &line, Some(r#"{"model":"smart"}"#)).await;
        theirs.assert_final(404, "unknown_id", true);
        assert!(fleet.arrived().is_empty());
        assert_eq!(fleet.call("bob", &with_unknown_ids(&line), Some(r#"{"model":"smart"}"#)).await.status, 200);
        assert_eq!(fleet.arrived().len(), 1);
    }
}

/// The number of ids around another owner's id does not matter: too many ids are refused as such.
#[tokio::test]
async fn an_id_of_another_owner_is_found_among_thousands_of_ids() {
    let mut fleet = fleet(|_| ()).await;
    for (around, code) in
        [(1000, "previous_response_not_found"), (5000, "previous_response_not_found"), (9000, "too_many_references")]
    {
        let ids: Vec<String> = (0..around).map(|number| format!(r#""resp_x{number}""#)).collect();
        let body = format!(
            r#"{{"model":"smart","extra_body":{{"previous_response_id":"resp_alice"}},"x":[{}]}}"#,
            ids.join(",")
        );
        fleet.create("bob", &body).await.assert_final(400, code, true);
        assert!(fleet.arrived().is_empty());
    }
    // A repeated id is looked up once.
    let body = format!(r#"{{"model":"smart","x":[{}]}}"#, vec![r#""resp_new""#; 3000].join(","));
    assert_eq!((fleet.create("bob", &body).await.status, fleet.arrived().len()), (200, 1));
}

/// A cursor names an item: its owner matters as the owner of the list does.
#[tokio::test]
async fn a_cursor_of_another_owner_gets_the_answer_for_an_unknown_cursor() {
    let mut fleet = fleet(|_| ()).await;
    for query in [
        "after=item_alice",
        "limit=2&%61fter=item%5Falice&order=asc",
        "after=&before=item_alice",
        "after[]=item_alice",
        "after%5B0%5D=item_alice",
        "AFTER=item_alice",
        "after=+item_alice",
        "limit=2;after=item_alice",
        "after=&after=item_alice",
        "%2561fter=item_alice",
    ] {
        let line = format!("GET /v1/conversations/conv_of_bob/items?{query}");
        let theirs = fleet.call("bob", &line, None).await;
        let nobodys = line.replace("item_alice", "item_nobod").replace("item%5Falice", "item%5Fnobod");
        assert_eq!(masked(&theirs), masked(&fleet.call("bob", &nobodys, None).await), "{line}");
        theirs.assert_final(404, "unknown_id", true);
    }
    assert!(fleet.arrived().is_empty());
    let own = "GET /v1/conversations/conv_alice/items?after=item_alice&limit=2";
    assert_eq!((fleet.call("alice", own, None).await.status, fleet.account()), (200, "two-b".into()));
}

#[tokio::test]
async fn a_path_with_an_id_of_another_owner_gets_the_answer_for_an_unknown_id() {
    let mut fleet = fleet(|_| ()).await;
    for endpoint in Endpoint::ALL.into_iter().filter(|endpoint| endpoint.has_ids()) {
        let id = if endpoint.path().starts_with("/responses") { "resp_alice" } else { "conv_alice" };
        let path = endpoint.path().replace("{id}", id).replace("{item}", "item_alice");
        let body = (endpoint.request_body() == RequestBodyKind::Json).then_some(r#"{"items":[],"metadata":{}}"#);
        for base in ["", "/v1"] {
            for query in ["", "?stream=true&starting_after=7", "?include%5B%5D=x"] {
                let line = format!("{} {base}{path}{query}", endpoint.method());
                for key in ["bob", "dave"] {
                    let theirs = fleet.call(key, &line, body).await;
                    assert_eq!(
                        masked(&theirs),
                        masked(&fleet.call(key, &with_unknown_ids(&line), body).await),
                        "{line}"
                    );
                    theirs.assert_final(404, "unknown_id", true);
                }
            }
            // A key's own conversation does not give access to another owner's item.
            if endpoint.path().contains("{item}") {
                let line = format!("{} {base}/conversations/conv_of_bob/items/item_alice", endpoint.method());
                let theirs = fleet.call("bob", &line, body).await;
                assert_eq!(masked(&theirs), masked(&fleet.call("bob", &with_unknown_ids(&line), body).await), "{line}");
                theirs.assert_final(404, "unknown_id", true);
            }
        }
        assert!(fleet.arrived().is_empty());
        let answer = fleet.call("alice", &format!("{} {path}", endpoint.method()), body).await;
        assert_eq!((answer.status, fleet.account()), (200, "two-b".into()), "{path}");
    }
}

/// The duration reveals nothing: memory knows the owner after the first time, and the store is asked all the same.
#[tokio::test]
async fn ids_of_other_owners_and_unknown_ids_cost_the_same_store_lookups() {
    let fleet = fleet(|_| ()).await;
    let theirs = r#"{"model":"smart","previous_response_id":"resp_alice","input":[{"type":"item_reference","id":"item_alice"}]}"#;
    let asked = async |body: &str| {
        // On a busy machine the store may be late. Such an answer says nothing, so the request is sent again.
        loop {
            let before = fleet.gateway.metric("tidegate_affinity_store_lookups_total").await;
            if call(&fleet.gateway, "bob", "POST /v1/responses", Some(body)).await.status != 503 {
                return fleet.gateway.metric("tidegate_affinity_store_lookups_total").await - before;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    for time in 0..3 {
        let both = async { (asked(theirs).await, asked(&with_unknown_ids(theirs)).await) };
        assert_eq!(soon("the store", both).await, (2.0, 2.0), "time {time}");
    }
}

#[tokio::test]
async fn state_of_another_owner_is_refused_under_each_setting_of_unknown_ids() {
    use tidegate::config::UnknownIds;
    for setting in [UnknownIds::Refuse, UnknownIds::Route] {
        let mut fleet = fleet(|config| config.affinity.unknown_ids = Some(setting)).await;
        for (holds, status, code) in REFERENCES {
            let body = format!(r#"{{"model":"smart",{holds}}}"#);
            fleet.create("bob", &body).await.assert_final(status, code, true);
        }
        fleet.call("bob", "GET /v1/responses/resp_alice", None).await.assert_final(404, "unknown_id", true);
        assert!(fleet.arrived().is_empty());
        let unknown = fleet.create("bob", r#"{"model":"smart","previous_response_id":"resp_new"}"#).await;
        let goes = setting == UnknownIds::Route;
        assert_eq!((unknown.status == 200, fleet.arrived().len()), (goes, usize::from(goes)));
    }
}

/// By default, unknown ids are refused where other owners use the same accounts.
#[tokio::test]
async fn unknown_ids_go_up_where_no_other_owner_shares_the_accounts() {
    let alone = |config: &mut Config| {
        config.keys[0].upstreams = Some(vec![0]);
        config.keys[1].upstreams = Some(vec![1]);
        config.keys[2].upstreams = Some(vec![1]);
        config.keys[3].upstreams = Some(vec![1]);
    };
    let mut fleet =
        Fleet::start(&[(ReferenceKind::Response, "resp_1", "two", "two-a", "dave", Some("team"))], alone).await;
    let body = r#"{"model":"smart","previous_response_id":"resp_new"}"#;
    assert_eq!(fleet.create("alice", body).await.status, 200);
    assert!(fleet.account().starts_with("one-"));
    assert_eq!(fleet.call("alice", "GET /v1/responses/resp_new", None).await.status, 200);
    assert!(fleet.account().starts_with("one-"));
    for key in ["bob", "carol"] {
        fleet.create(key, body).await.assert_final(400, "previous_response_not_found", true);
        fleet.call(key, "GET /v1/responses/resp_new", None).await.assert_final(404, "unknown_id", true);
    }
    let with_known =
        r#"{"model":"smart","previous_response_id":"resp_1","tools":[{"container":{"file_ids":["file-new"]}}]}"#;
    fleet.create("carol", with_known).await.assert_final(404, "unknown_id", true);
    assert!(fleet.arrived().is_empty());
    // Keys of one group are one owner.
    let group = |config: &mut Config| {
        alone(config);
        config.keys[1].upstreams = Some(vec![0]);
        config.keys[0].group = Some(0);
        config.keys[1].group = Some(0);
    };
    let mut fleet = Fleet::start(&[], group).await;
    for key in ["alice", "bob", "carol"] {
        assert_eq!(fleet.create(key, body).await.status, 200, "{key}");
    }
    assert_eq!(fleet.arrived().len(), 3);
}

#[tokio::test]
async fn keys_of_a_group_share_their_state() {
    let known = [(ReferenceKind::Response, "resp_1", "two", "two-a", "carol", Some("team"))];
    let mut fleet = Fleet::start(&known, |_| ()).await;
    for key in ["carol", "dave"] {
        assert_eq!(fleet.call(key, "GET /v1/responses/resp_1", None).await.status, 200);
        assert_eq!(fleet.account(), "two-a");
    }
    fleet.call("alice", "GET /v1/responses/resp_1", None).await.assert_final(404, "unknown_id", true);
}
