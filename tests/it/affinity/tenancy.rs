//! What belongs to somebody else gets exactly the answer of what never was.

use tidegate::domain::endpoint::{Carries, Endpoint};

use super::*;

/// Everything that alice has, all in one account, each id as long as the one that nobody has.
fn of_alice() -> Vec<Known<'static>> {
    let kinds = [
        (Kind::Response, "resp_alice"),
        (Kind::Conversation, "conv_alice"),
        (Kind::Item, "item_alice"),
        (Kind::File, "file-alice"),
        (Kind::VectorStore, "vsto_alice"),
        (Kind::Container, "cntr_alice"),
        (Kind::Skill, "skil_alice"),
    ];
    kinds.map(|(kind, id)| (kind, id, "two", "two-b", "alice", None)).into()
}

/// Every way to name something in a body, and the status and code of the answer.
const REFERENCES: [(&str, u16, &str); 26] = [
    (r#""previous_response_id":"resp_alice""#, 400, "previous_response_not_found"),
    (r#""prompt_cache_options":{"comparison_response_id":"resp_alice"}"#, 400, "previous_response_not_found"),
    // A relay may lay such a part over the request.
    (r#""extra_body":{"previous_response_id":"resp_alice"}"#, 400, "previous_response_not_found"),
    (r#""conversation":"conv_alice""#, 404, "unknown_id"),
    (r#""conversation":{"id":"conv_alice"}"#, 404, "unknown_id"),
    (r#""input":[{"type":"item_reference","id":"item_alice"}]"#, 404, "unknown_id"),
    (r#""input":[{"id":"item_alice"}]"#, 404, "unknown_id"),
    (r#""input":{"id":"item_alice","content":"x"}"#, 404, "unknown_id"),
    (r#""input":[{"type":"reasoning","id":"item_alice","summary":[]}]"#, 404, "unknown_id"),
    (r#""input":[{"type":"code_interpreter_call","id":"item_alice","code":"x"}]"#, 404, "unknown_id"),
    (
        r#""input":[{"type":"mcp_approval_response","approval_request_id":"item_alice","approve":true}]"#,
        404,
        "unknown_id",
    ),
    (r#""input":[{"role":"user","content":[{"type":"input_image","file_id":"file-alice"}]}]"#, 404, "unknown_id"),
    (r#""input":[{"type":"computer_call_output","output":{"file_id":"file-alice"}}]"#, 404, "unknown_id"),
    (r#""tools":[{"type":"code_interpreter","container":{"file_ids":["file-alice"]}}]"#, 404, "unknown_id"),
    (r#""prompt":{"id":"pmpt_1","variables":{"x":{"file_id":"file-alice"}}}"#, 404, "unknown_id"),
    (r#""tools":[{"type":"file_search","vector_store_ids":["vsto_alice"]}]"#, 404, "unknown_id"),
    (r#""tools":[{"type":"code_interpreter","container":"cntr_alice"}]"#, 404, "unknown_id"),
    (r#""tools":[{"environment":{"container_id":"cntr_alice"}}]"#, 404, "unknown_id"),
    (r#""tools":[{"environment":{"skills":[{"skill_id":"skil_alice"}]}}]"#, 404, "unknown_id"),
    (r#""messages":[{"role":"assistant","audio":{"id":"item_alice"}}]"#, 404, "unknown_id"),
    // Hidden in names, in values, in both, and behind what comes first.
    (r#""previous_\u0072esponse_id":"resp_alice""#, 400, "previous_response_not_found"),
    (r#""previous_response_id":"re\u0073p_\u0061lice""#, 400, "previous_response_not_found"),
    (r#""\u0063onversation":{"\u0069\u0064":"conv_\u0061lice"}"#, 404, "unknown_id"),
    (r#""\u0069nput":[{"\u0069d":"item_alic\u0065","\u0074ype":"item\u005freference"}]"#, 404, "unknown_id"),
    (
        r#""input":[{"id":"msg_new","role":"user","content":"x"},{"type":"item_reference","id":"item_alice"}]"#,
        404,
        "unknown_id",
    ),
    (r#""metadata":{"file_id":"x"},"tools":[{"file_id\u0073":[["file-\u0061lice"]]}]"#, 404, "unknown_id"),
];

/// What two parsers would read in two ways.
const AMBIGUOUS: [&str; 5] = [
    r#""previous_response_id":null,"previous_response_id":"resp_alice""#,
    r#""Previous_Response_ID":"resp_alice""#,
    r#""input":[{"id":"x","\u0069d":"item_alice"}]"#,
    r#""input":[{"type":"item_reference","ID":"item_alice"}]"#,
    r#""tools":[{"container":{},"Container":"cntr_alice"}]"#,
];

/// The same text with ids that nobody has.
fn never(text: &str) -> String {
    text.replace("alice", "nobod").replace(r"\u0061lice", r"\u006eobod").replace(r"alic\u0065", r"nobo\u0064")
}

const BODIES: [&str; 6] = [
    "/v1/responses",
    "/v1/responses/compact",
    "/responses/input_tokens",
    "/v1/conversations",
    "/v1/conversations/conv_of_bob/items",
    "/v1/chat/completions",
];

async fn fleet(change: impl FnOnce(&mut Config)) -> Fleet {
    let mut known = of_alice();
    // One of each stranger's own, so that what is known of them is no less.
    known.push((Kind::Conversation, "conv_of_bob", "two", "two-b", "bob", None));
    known.push((Kind::Conversation, "conv_of_team", "two", "two-b", "carol", Some("team")));
    Fleet::start(&known, |config| {
        config.default_upstream = Some(0);
        change(config);
    })
    .await
}

#[tokio::test]
async fn by_reference() {
    let mut fleet = fleet(|_| ()).await;
    let mut compared = 0;
    for path in BODIES {
        let line = format!("POST {path}");
        for (holds, status, code) in REFERENCES {
            let body = format!(r#"{{"model":"smart",{holds}}}"#);
            for key in ["bob", "carol"] {
                let line = if key == "carol" { line.replace("of_bob", "of_team") } else { line.clone() };
                let theirs = fleet.call(key, &line, Some(&body)).await;
                let nobodys = fleet.call(key, &line, Some(&never(&body))).await;
                assert_eq!(masked(&theirs), masked(&nobodys), "{line} {body}");
                theirs.assert_final(status, code, true);
                assert!(!theirs.text().contains("alice"), "{theirs:?}");
                compared += 1;
            }
        }
        for holds in AMBIGUOUS {
            let body = format!(r#"{{"model":"smart",{holds}}}"#);
            let theirs = fleet.call("bob", &line, Some(&body)).await;
            assert_eq!(masked(&theirs), masked(&fleet.call("bob", &line, Some(&never(&body))).await), "{line} {body}");
            theirs.assert_final(400, "repeated_field", true);
        }
    }
    assert!(fleet.arrived().is_empty(), "nothing of it went anywhere");
    eprintln!("{compared} pairs of answers are the same");
    // Of them all, alice gets what she asks for.
    for (holds, ..) in REFERENCES {
        let body = format!(r#"{{"model":"smart",{holds}}}"#);
        assert_eq!((fleet.create("alice", &body).await.status, fleet.account()), (200, "two-b".into()), "{body}");
    }
}

#[tokio::test]
async fn by_id() {
    let mut fleet = fleet(|_| ()).await;
    for endpoint in Endpoint::ALL.into_iter().filter(|endpoint| endpoint.has_ids()) {
        let id = if endpoint.path().starts_with("/responses") { "resp_alice" } else { "conv_alice" };
        let path = endpoint.path().replace("{id}", id).replace("{item}", "item_alice");
        let body = (endpoint.carries() == Carries::Json).then_some(r#"{"items":[],"metadata":{}}"#);
        for base in ["", "/v1"] {
            for query in ["", "?stream=true&starting_after=7", "?include%5B%5D=x"] {
                let line = format!("{} {base}{path}{query}", endpoint.method());
                for key in ["bob", "dave"] {
                    let theirs = fleet.call(key, &line, body).await;
                    assert_eq!(masked(&theirs), masked(&fleet.call(key, &never(&line), body).await), "{line}");
                    theirs.assert_final(404, "unknown_id", true);
                }
            }
            // One's own conversation does not open another's item.
            if endpoint.path().contains("{item}") {
                let line = format!("{} {base}/conversations/conv_of_bob/items/item_alice", endpoint.method());
                let theirs = fleet.call("bob", &line, body).await;
                assert_eq!(masked(&theirs), masked(&fleet.call("bob", &never(&line), body).await), "{line}");
                theirs.assert_final(404, "unknown_id", true);
            }
        }
        assert!(fleet.arrived().is_empty());
        let answer = fleet.call("alice", &format!("{} {path}", endpoint.method()), body).await;
        assert_eq!((answer.status, fleet.account()), (200, "two-b".into()), "{path}");
    }
}

/// The time that it takes tells nothing: memory knows who has it after the first time, and the store is asked all the same.
#[tokio::test]
async fn the_store_is_asked_alike_for_what_is_somebody_elses_and_what_nobody_has() {
    let fleet = fleet(|_| ()).await;
    let theirs = r#"{"model":"smart","previous_response_id":"resp_alice","input":[{"type":"item_reference","id":"item_alice"}]}"#;
    let asked = async |body: &str| {
        // A busy machine's store may be late, and nothing is told then.
        loop {
            let before = fleet.gateway.metric("tidegate_affinity_asked_total").await;
            if call(&fleet.gateway, "bob", "POST /v1/responses", Some(body)).await.status != 503 {
                return fleet.gateway.metric("tidegate_affinity_asked_total").await - before;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    for time in 0..3 {
        let both = async { (asked(theirs).await, asked(&never(theirs)).await) };
        assert_eq!(soon("the store", both).await, (2.0, 2.0), "time {time}");
    }
}

#[tokio::test]
async fn whatever_the_setting_nothing_of_somebody_else_goes_up() {
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

/// By default ids that nobody knows are refused where strangers use what the caller may use.
#[tokio::test]
async fn unknown_ids_go_up_where_nobody_else_could_have_made_them() {
    let alone = |config: &mut Config| {
        config.keys[0].upstreams = Some(vec![0]);
        config.keys[1].upstreams = Some(vec![1]);
        config.keys[2].upstreams = Some(vec![1]);
        config.keys[3].upstreams = Some(vec![1]);
    };
    let mut fleet = Fleet::start(&[(Kind::Response, "resp_1", "two", "two-a", "dave", Some("team"))], alone).await;
    let body = r#"{"model":"smart","previous_response_id":"resp_new"}"#;
    assert_eq!(fleet.create("alice", body).await.status, 200);
    assert!(fleet.account().starts_with("one-"));
    assert_eq!(fleet.call("alice", "GET /v1/responses/resp_new", None).await.status, 200);
    assert!(fleet.account().starts_with("one-"));
    for key in ["bob", "carol"] {
        fleet.create(key, body).await.assert_final(400, "previous_response_not_found", true);
        fleet.call(key, "GET /v1/responses/resp_new", None).await.assert_final(404, "unknown_id", true);
    }
    let with_known = r#"{"model":"smart","previous_response_id":"resp_1","tools":[{"file_ids":["file-new"]}]}"#;
    fleet.create("carol", with_known).await.assert_final(404, "unknown_id", true);
    assert!(fleet.arrived().is_empty());
    // Keys of one group are one.
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
async fn a_group_shares() {
    let known = [(Kind::Response, "resp_1", "two", "two-a", "carol", Some("team"))];
    let mut fleet = Fleet::start(&known, |_| ()).await;
    for key in ["carol", "dave"] {
        assert_eq!(fleet.call(key, "GET /v1/responses/resp_1", None).await.status, 200);
        assert_eq!(fleet.account(), "two-a");
    }
    fleet.call("alice", "GET /v1/responses/resp_1", None).await.assert_final(404, "unknown_id", true);
}
