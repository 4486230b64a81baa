//! The account that holds the state cannot answer: the client gets an error that says so, or another account
//! answers without the encrypted reasoning.

use super::*;
use crate::{
    reload::{NEVER, OK, TESTER, text},
    support::{gateway::UPSTREAM_KEY, upstream::RESPONSE},
};

const UNAUTHORIZED: &str =
    r#"{"error":{"message":"no","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#;

/// An upstream that refuses the credentials of these accounts and answers the others.
fn refusing_accounts(refused: &'static [&'static str]) -> impl FnMut(&Request) -> Vec<Step> + Clone + Send {
    move |request| {
        let account = request.header("authorization").unwrap().trim_start_matches("Bearer sk-");
        vec![Step::Send(if refused.contains(&account) {
            json("401 Unauthorized", UNAUTHORIZED)
        } else {
            json("200 OK", DONE)
        })]
    }
}

const TO_TWO_B: &str = r#"{"model":"smart","previous_response_id":"resp_1"}"#;
const KNOWN: [Known<'static>; 1] = [(ReferenceKind::Response, "resp_1", "two", "two-b", "alice", None)];

#[tokio::test]
async fn a_request_for_the_state_of_an_ejected_account_gets_an_error_with_retry_after() {
    let mut fleet = Fleet::answering(&KNOWN, |_| (), refusing_accounts(&["two-b"])).await;
    // The first request gets a 401 and no failover. The second 401 ejects the credential for certain.
    for _ in 0..2 {
        fleet.create("alice", TO_TWO_B).await.assert_final(502, "upstream_auth", true);
        assert_eq!(fleet.account(), "two-b");
    }
    for (line, body) in
        [("POST /v1/responses", Some(TO_TWO_B)), ("GET /v1/responses/resp_1", None), ("DELETE /responses/resp_1", None)]
    {
        let answer = fleet.call("alice", line, body).await;
        answer.assert_final(503, "state_unavailable", false);
        let after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((500..=700).contains(&after), "{after}");
    }
    assert!(fleet.arrived().is_empty());
    assert_eq!(fleet.gateway.metric(r#"tidegate_affinity_requests_total{result="unavailable"}"#).await, 3.0);
    // Requests without a reference are served.
    assert_eq!(fleet.create("alice", r#"{"model":"second"}"#).await.status, 200);
    assert_eq!(fleet.account(), "two-a");
}

/// Any account can answer an input of whole items.
#[tokio::test]
async fn a_request_with_whole_items_fails_over_to_another_account() {
    let known = [KNOWN[0], (ReferenceKind::Item, "msg_1", "two", "two-b", "alice", None)];
    let mut fleet = Fleet::answering(&[], |_| (), refusing_accounts(&["two-b"])).await;
    fleet.learns(&known);
    let body = r#"{"model":"smart","input":[{"type":"message","id":"msg_1","role":"assistant","content":"x"}]}"#;
    // The first request gets a 401 and fails over. The later ones skip the ejected account.
    assert_eq!(fleet.create("alice", body).await.status, 200);
    let asked: Vec<String> = fleet.arrived().into_iter().map(|(account, _)| account).collect();
    assert_eq!((asked.len(), asked.contains(&"two-b".to_owned())), (2, true), "{asked:?}");
    for _ in 0..3 {
        assert_eq!(fleet.create("alice", body).await.status, 200);
        assert_ne!(fleet.account(), "two-b");
    }
}

/// Ejection sends requests to other accounts. Where no other account exists, the only one still gets them.
#[tokio::test]
async fn the_only_account_gets_requests_although_it_is_ejected() {
    let alone = |config: &mut Config| {
        config.upstreams.remove(0);
        config.upstreams[0].credentials.remove(0);
        config.models = vec![model("smart", &[(0, None)])];
    };
    let mut fleet = Fleet::answering(&KNOWN, alone, refusing_accounts(&["two-b"])).await;
    for _ in 0..3 {
        fleet.create("alice", TO_TWO_B).await.assert_final(502, "upstream_auth", true);
        assert_eq!(fleet.account(), "two-b");
    }
}

/// A cooldown sends requests to other accounts, but requests for the account's own state can go nowhere else.
#[tokio::test]
async fn an_account_in_cooldown_gets_requests_for_its_own_state() {
    let mut calls = 0;
    let script = move |_: &Request| {
        calls += 1;
        let limited =
            r#"{"error":{"message":"slow down","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#;
        let limited = json("429 Too Many Requests\r\nretry-after: 1", limited);
        vec![Step::Send(if calls == 1 { limited } else { json("200 OK", DONE) })]
    };
    let no_waiting = |config: &mut Config| config.retries.retry_after_max = Duration::ZERO;
    let mut fleet = Fleet::answering(&KNOWN, no_waiting, script).await;
    assert_eq!(fleet.create("alice", TO_TWO_B).await.status, 429);
    assert_eq!(fleet.create("alice", TO_TWO_B).await.status, 200);
    assert!(fleet.arrived().iter().all(|(account, _)| account == "two-b"));
}

#[tokio::test]
async fn state_of_an_account_that_was_removed_gets_a_final_error() {
    let known = [
        (ReferenceKind::Response, "resp_1", "two", "another", "alice", None),
        (ReferenceKind::Response, "resp_2", "gone", "a", "alice", None),
        (ReferenceKind::Encrypted, "gA", "gone", "a", "alice", None),
        (ReferenceKind::Response, "resp_3", "two", "two-a", "alice", None),
    ];
    // The same for an account that the key may not use any more.
    let mut fleet = Fleet::start(&known, |config| config.keys[0].upstreams = Some(vec![0])).await;
    for body in [
        r#"{"model":"smart","previous_response_id":"resp_1"}"#,
        r#"{"model":"smart","previous_response_id":"resp_2"}"#,
        r#"{"model":"smart","previous_response_id":"resp_3"}"#,
        r#"{"model":"smart","input":[{"type":"reasoning","encrypted_content":"gA"}]}"#,
        // The model leads to no upstream that the key may use. The error names the lost state, not the model.
        r#"{"model":"second","previous_response_id":"resp_3"}"#,
    ] {
        fleet.create("alice", body).await.assert_final(400, "state_lost", true);
    }
    fleet.call("alice", "GET /v1/responses/resp_2", None).await.assert_final(400, "state_lost", true);
    fleet.create("alice", r#"{"model":"second"}"#).await.assert_final(404, "model_not_found", true);
    assert!(fleet.arrived().is_empty());
    assert_eq!(fleet.gateway.metric(r#"tidegate_affinity_requests_total{result="lost"}"#).await, 6.0);
}

#[tokio::test]
async fn the_restrictions_of_a_key_apply_to_requests_with_references() {
    let known = [(ReferenceKind::Response, "resp_1", "two", "two-b", "alice", None)];
    let mut fleet = Fleet::start(&known, |config| {
        config.models.push(model("plain", &[(0, None)]));
        config.keys[0].models = Some(vec!["plain".into()]);
    })
    .await;
    fleet.create("alice", TO_TWO_B).await.assert_final(404, "model_not_found", true);
    fleet.create("alice", r#"{"previous_response_id":"resp_1"}"#).await.assert_final(
        400,
        "missing_required_parameter",
        true,
    );
    let body = r#"{"model":"plain","previous_response_id":"resp_1"}"#;
    assert_eq!((fleet.create("alice", body).await.status, fleet.account()), (200, "two-b".into()));
}

#[tokio::test]
async fn an_upstream_without_the_endpoint_gets_an_error_that_says_so() {
    let known = [(ReferenceKind::File, "file-1", "two", "two-b", "alice", None)];
    let mut fleet = Fleet::start(&known, |config| {
        config.upstreams[1].surface = vec![tidegate::domain::endpoint::Surface::Chat];
        config.upstreams[1].max_body_bytes = Some(1000);
    })
    .await;
    let body = r#"{"model":"smart","messages":[{"content":[{"file":{"file_id":"file-1"}}]}]}"#;
    let of_response = r#"{"model":"smart","input":[{"role":"user","content":[{"file_id":"file-1"}]}]}"#;
    let on = async |fleet: &Fleet, path: &str, body: &str| {
        fleet.call("alice", &format!("POST /v1/{path}"), Some(body)).await
    };
    on(&fleet, "responses", of_response).await.assert_final(404, "unsupported_endpoint", true);
    let long = body.replace("smart\"", &format!("smart\",\"x\":\"{}\"", "x".repeat(1000)));
    on(&fleet, "chat/completions", &long).await.assert_final(413, "upstream_request_too_large", true);
    assert!(fleet.arrived().is_empty());
    assert_eq!(on(&fleet, "chat/completions", body).await.status, 200);
    assert_eq!(fleet.account(), "two-b");
}

fn allow_removal_of_reasoning(config: &mut Config) {
    config.models[0].on_lost_state = OnLostState::StripEncrypted;
}

/// A thread as Codex sends it: its own messages, output items with ids, and encrypted reasoning.
const THREAD: &str = r#"{"model":"smart","input":[{"type":"message","id":"msg_own-uuid","role":"user","content":"x"}, {"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"gA"} ,{"type":"message","id":"msg_1","role":"assistant","content":"y"}],"store":false}"#;
const STRIPPED: &str = r#"{"model":"real-one","input":[{"type":"message","id":"msg_own-uuid","role":"user","content":"x"} ,{"type":"message","id":"msg_1","role":"assistant","content":"y"}],"store":false}"#;
const OF_THREAD: [Known<'static>; 3] = [
    (ReferenceKind::Item, "rs_1", "two", "two-b", "alice", None),
    (ReferenceKind::Encrypted, "gA", "two", "two-b", "alice", None),
    (ReferenceKind::Item, "msg_1", "two", "two-b", "alice", None),
];

#[tokio::test]
async fn encrypted_reasoning_is_removed_where_the_model_allows_it() {
    let mut fleet = Fleet::answering(&OF_THREAD, allow_removal_of_reasoning, refusing_accounts(&["two-b"])).await;
    // The account gets the whole request first. If it cannot answer, another account gets the request without the
    // reasoning.
    assert_eq!(fleet.create("alice", THREAD).await.status, 200);
    let arrived = fleet.arrived();
    let accounts: Vec<_> = arrived.iter().map(|(account, _)| &account[..5]).collect();
    assert_eq!(accounts, ["one-a", "two-b"], "by upstream");
    assert_eq!(String::from_utf8_lossy(&arrived[0].1.body), STRIPPED);
    assert_eq!(String::from_utf8_lossy(&arrived[1].1.body), THREAD.replacen("smart", "real-two", 1));
    assert_eq!(fleet.gateway.metric(r#"tidegate_affinity_requests_total{result="stripped"}"#).await, 1.0);
    // A model that does not allow the removal.
    let other = THREAD.replacen("smart", "second", 1);
    assert_ne!(fleet.create("alice", &other).await.status, 200);
    assert!(fleet.arrived().iter().all(|(account, _)| account == "two-b"));
}

/// The account that made the reasoning gets all of it, also where the model allows the removal.
#[tokio::test]
async fn the_account_that_made_the_reasoning_gets_the_whole_request() {
    let mut fleet = Fleet::start(&OF_THREAD, allow_removal_of_reasoning).await;
    for _ in 0..3 {
        assert_eq!(fleet.create("alice", THREAD).await.status, 200);
        let arrived = fleet.arrived();
        assert_eq!((arrived.len(), &*arrived[0].0), (1, "two-b"));
        assert_eq!(String::from_utf8_lossy(&arrived[0].1.body), THREAD.replacen("smart", "real-two", 1));
    }
    assert_eq!(fleet.gateway.metric(r#"tidegate_affinity_requests_total{result="stripped"}"#).await, 0.0);
}

/// Tidegate removes what only the lost account can decrypt, also in records of tool calls. Everything else stays, and
/// other references still pin the request.
#[tokio::test]
async fn only_encrypted_parts_of_the_lost_account_are_removed_and_other_references_still_pin() {
    let mut known: Vec<Known<'_>> = OF_THREAD.into();
    known.extend([
        (ReferenceKind::Response, "resp_1", "two", "two-b", "alice", None),
        (ReferenceKind::Encrypted, "gC", "two", "two-b", "alice", None),
        (ReferenceKind::Container, "cntr_1", "two", "two-b", "alice", None),
        (ReferenceKind::Item, "ws_1", "two", "two-b", "alice", None),
        (ReferenceKind::Item, "ig_1", "two", "two-b", "alice", None),
    ]);
    let mut fleet = Fleet::start(&known, |config| {
        allow_removal_of_reasoning(config);
        config.upstreams[1].credentials.pop();
    })
    .await;
    for (item, stays) in [
        ("", false),
        (r#"{"type":"compaction","encrypted_content":"gC"},"#, false),
        (r#"{"type":"agent_message","id":"amsg_1","content":[{"type":"x","encrypted_content":"gC"}]},"#, false),
        (r#"{"type":"reasoning","id":"rs_1","summary":[]},"#, false),
        (r#"{"type":"image_generation_call","id":"ig_1"},"#, false),
        (
            r#"{"type":"function_call","call_id":"c","name":"f","arguments":"","encrypted_content":"gC"},{"type":"function_call_output","call_id":"c","output":"x"},"#,
            false,
        ),
        (r#"{"type":"web_search_call","id":"ws_1","status":"completed","action":{"type":"search"}},"#, true),
        (r#"{"type":"web_search_call","id":"ws_1","status":"completed"},"#, true),
        (r#"{"type":"function_call","id":"fc_1","call_id":"c","name":"f","arguments":"{}"},"#, true),
    ] {
        let with = |body: &str| body.replacen("[{", &format!("[{item}{{"), 1);
        assert_eq!(fleet.create("alice", &with(THREAD)).await.status, 200, "{item}");
        let arrived = fleet.arrived();
        assert!(arrived[0].0.starts_with("one-"));
        let expected = if stays { with(STRIPPED) } else { STRIPPED.into() };
        assert_eq!(String::from_utf8_lossy(&arrived[0].1.body), expected);
    }
    for more in [r#""previous_response_id":"resp_1","#, r#""tools":[{"container":"cntr_1"}],"#] {
        let body = THREAD.replacen(r#""input""#, &format!(r#"{more}"input""#), 1);
        fleet.create("alice", &body).await.assert_final(400, "state_lost", true);
    }
    let body = THREAD.replacen("[{", r#"[{"type":"item_reference","id":"msg_1"},{"#, 1);
    fleet.create("alice", &body).await.assert_final(400, "state_lost", true);
    assert!(fleet.arrived().is_empty());
}

/// A thread that another account continued holds the reasoning of two accounts.
#[tokio::test]
async fn reasoning_of_two_accounts_is_removed_where_the_model_allows_it() {
    let mut known: Vec<Known<'_>> = OF_THREAD.into();
    known.push((ReferenceKind::Encrypted, "gB", "one", "one-a", "alice", None));
    let both = THREAD.replacen("[{", r#"[{"type":"reasoning","id":"rs_2","encrypted_content":"gB"},{"#, 1);
    let mut fleet = Fleet::start(&known, allow_removal_of_reasoning).await;
    assert_eq!(fleet.create("alice", &both).await.status, 200);
    let arrived = fleet.arrived();
    assert_eq!(String::from_utf8_lossy(&arrived[0].1.body), STRIPPED);
    drop(fleet);
    let fleet = Fleet::start(&known, |_| ()).await;
    fleet.create("alice", &both).await.assert_final(400, "conflicting_state", true);
}

/// A request without its reasoning may name no id that the whole request may not name.
#[tokio::test]
async fn removing_reasoning_does_not_admit_ids_that_the_key_may_not_use() {
    let mut known: Vec<Known<'_>> = OF_THREAD.into();
    known.push((ReferenceKind::Encrypted, "gB", "one", "one-a", "alice", None));
    known.push((ReferenceKind::Item, "msg_theirs", "one", "one-a", "bob", None));
    let both = THREAD.replacen("[{", r#"[{"type":"reasoning","id":"rs_2","encrypted_content":"gB"},{"#, 1);
    let mut fleet = Fleet::start(&known, allow_removal_of_reasoning).await;
    let with = |id: &str| both.replacen("[{", &format!(r#"[{{"type":"item_reference","id":"{id}"}},{{"#), 1);
    let (theirs, nobodys) =
        (fleet.create("alice", &with("msg_theirs")).await, fleet.create("alice", &with("msg_nobody")).await);
    assert_eq!(masked(&theirs), masked(&nobodys));
    nobodys.assert_final(400, "conflicting_state", true);
    assert!(fleet.arrived().is_empty());
    drop(fleet);

    // Alice has one account for herself, which is ejected, and shares the other one.
    let mut fleet = Fleet::answering(
        &OF_THREAD,
        |config| {
            allow_removal_of_reasoning(config);
            for key in &mut config.keys[1..] {
                key.upstreams = Some(vec![0]);
            }
        },
        refusing_accounts(&["two-b"]),
    )
    .await;
    let with = THREAD.replacen("[{", r#"[{"type":"item_reference","id":"msg_nobody"},{"#, 1);
    for _ in 0..2 {
        assert_ne!(fleet.create("alice", &with).await.status, 200);
        assert!(fleet.arrived().iter().all(|(account, _)| account == "two-b"));
    }
}

/// The account's name identifies the account, not its credential.
#[tokio::test]
async fn a_rotated_credential_keeps_the_state_of_its_account() {
    let mut upstreams = [Upstream::fixed(json("200 OK", DONE)).await, Upstream::fixed(json("200 OK", RESPONSE)).await];
    let at = [upstreams[0].base_url(), upstreams[1].base_url()];
    let with = |credential: &str| {
        let two = format!(
            "[[upstreams]]\nname = \"two\"\nbase_url = \"{}\"\ncredentials = [{{ {credential} }}]\n\
             [[models]]\nname = \"second\"\ntargets = [{{ upstream = \"two\" }}]\n",
            at[1]
        );
        text("", &[("one", &at[0])], &(two + TESTER))
    };
    let gateway = Gateway::of(&with("env = \"UP_KEY\", account = \"main\""), NEVER);
    assert_eq!(gateway.post("", r#"{"model":"second"}"#).await.status, 200);
    let follow = r#"{"model":"smart","previous_response_id":"resp_1"}"#;
    gateway.reload(&with("env = \"OTHER\", account = \"main\""), OK).await;
    assert_eq!(gateway.post("", follow).await.status, 200);
    let secrets = upstreams[1].taken().into_iter().map(|request| request.header("authorization").unwrap().to_owned());
    assert_eq!(secrets.collect::<Vec<_>>(), [format!("Bearer {UPSTREAM_KEY}"), "Bearer sk-another-client-key".into()]);
    gateway.reload(&with("env = \"OTHER\", account = \"another\""), OK).await;
    gateway.post("", follow).await.assert_final(400, "state_lost", true);
    assert_eq!((upstreams[0].untaken(), upstreams[1].untaken()), (0, 0));
}
