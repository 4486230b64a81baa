//! `x-codex-turn-state` goes up again only to the account that issued it.

use tidegate::{
    config::{Config, Group, KeyLimits},
    domain::origin::ReferenceKind,
};

use super::{STRANGER, made_at, owner, recorded, with_stranger};
use crate::support::{
    gateway::{Gateway, KEY, UPSTREAM_KEY, credential, model, upstream},
    upstream::{RESPONSE, Request, Step, Upstream},
};

const BODY: &str = r#"{"model":"smart","input":"hi"}"#;

fn answer(status: &str, state: Option<&str>) -> Vec<u8> {
    let state = state.map(|state| format!("x-codex-turn-state: {state}\r\n")).unwrap_or_default();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{state}content-length: {}\r\n\r\n{RESPONSE}",
        RESPONSE.len()
    )
    .into_bytes()
}

/// A credential in a form that the gateway does not mask.
fn backwards(credential: &str) -> String {
    credential.chars().rev().collect()
}

/// An upstream that issues a turn state which names the account of the request.
fn issuing(request: &Request) -> Vec<Step> {
    let account = request.header("authorization").unwrap().rsplit(' ').next().unwrap();
    vec![Step::Send(answer("200 OK", Some(&format!("turn-of-{}", backwards(account)))))]
}

/// Sends a request with these turn states, and returns the turn state of its answer.
async fn ask(gateway: &Gateway, key: &str, states: &[&str]) -> Option<String> {
    let states: String = states.iter().map(|state| format!("X-Codex-Turn-State: {state}\r\n")).collect();
    let mut client = gateway.connect().await;
    client
        .send(format!(
            "POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {key}\r\n{states}content-length: {}\r\n\r\n{BODY}",
            BODY.len()
        ))
        .await;
    let answer = client.answer().await;
    assert!(answer.whole && answer.body == RESPONSE.as_bytes(), "{answer:?}");
    answer.header("x-codex-turn-state").map(str::to_owned)
}

fn sent(request: &Request) -> Vec<&str> {
    let states = request.headers.iter().filter(|(name, _)| name == "x-codex-turn-state");
    states.map(|(_, state)| &**state).collect()
}

#[tokio::test]
async fn a_turn_state_goes_up_only_to_its_issuer_and_only_for_its_owner() {
    let mut upstream = Upstream::scripted(issuing).await;
    let gateway = Gateway::start(with_stranger(&upstream.base_url()));
    let state = ask(&gateway, KEY, &[]).await.unwrap();
    assert_eq!(state, format!("turn-of-{}", backwards(UPSTREAM_KEY)));
    assert_eq!(recorded(&gateway, (ReferenceKind::TurnState, &state), owner("tester")).await, made_at("up", "UP_KEY"));
    assert_eq!(sent(&upstream.request().await), [""; 0]);
    let forged = format!("{state}x");
    for (key, states, up) in [
        (KEY, vec![&*state], vec![&*state]),
        (KEY, vec![&*state, &*state], vec![&*state, &*state]),
        // A forged state and another owner's state get the same treatment.
        (KEY, vec![&*forged], vec![]),
        (STRANGER, vec![&*state], vec![]),
        (STRANGER, vec![&*forged], vec![]),
        (KEY, vec![&*state, &*forged], vec![]),
        (KEY, vec![""], vec![]),
    ] {
        ask(&gateway, key, &states).await;
        assert_eq!(sent(&upstream.request().await), up, "{key}: {states:?}");
    }
}

#[tokio::test]
async fn keys_of_a_group_share_a_turn_state() {
    let mut upstream = Upstream::scripted(issuing).await;
    let mut config = with_stranger(&upstream.base_url());
    config.groups = vec![Group {
        name: "team".into(),
        limits: KeyLimits::default(),
        budgets: Vec::new(),
        warn_at: Default::default(),
    }];
    for key in &mut config.keys {
        key.group = Some(0);
    }
    let gateway = Gateway::start(config);
    let state = ask(&gateway, KEY, &[]).await.unwrap();
    ask(&gateway, STRANGER, &[&state]).await;
    upstream.request().await;
    assert_eq!(sent(&upstream.request().await), [&*state]);
}

/// Two accounts at each of two upstreams. Each fault causes a failover to the next.
fn four(base_urls: [&str; 2]) -> Config {
    let mut config = with_stranger(base_urls[0]);
    config.upstreams = vec![upstream("a", base_urls[0]), upstream("b", base_urls[1])];
    for upstream in &mut config.upstreams {
        upstream.credentials = ["one", "two"].map(|name| credential(name, &format!("{}-{name}", upstream.name))).into();
    }
    config.models = vec![model("smart", &[(0, None), (1, None)])];
    config.retries.max_attempts = 8;
    config.retries.percent = 1000;
    config.health.consecutive_faults = 1000;
    config
}

#[tokio::test]
async fn another_account_never_gets_the_turn_state_not_even_in_a_failover() {
    // Every account fails a request with a turn state and answers one without.
    let script = |request: &Request| match sent(request).is_empty() {
        true => issuing(request),
        false => vec![Step::Send(answer("500 X", None))],
    };
    let (mut a, mut b) = (Upstream::scripted(script).await, Upstream::scripted(script).await);
    let gateway = Gateway::start(four([&a.base_url(), &b.base_url()]));
    let state = ask(&gateway, KEY, &[]).await.unwrap();
    let issuer = format!("Bearer {}", backwards(state.strip_prefix("turn-of-").unwrap()));
    assert!(issuer.starts_with("Bearer a-"));
    a.request().await;
    let mut met = 0;
    for _ in 0..20 {
        // The issuer fails whenever it gets the state. The account that answers got no state.
        ask(&gateway, KEY, &[&state]).await;
        for request in [a.taken(), b.taken()].concat() {
            let home = request.header("authorization") == Some(&*issuer);
            assert_eq!(sent(&request), if home { vec![&*state] } else { vec![] }, "{request:?}");
            met += usize::from(home);
        }
    }
    assert!(met > 0, "the issuer got no request");
}

#[tokio::test]
async fn errors_issue_no_turn_state() {
    let mut upstream = Upstream::scripted(|request| {
        let state = Some("of-an-error");
        vec![Step::Send(answer(if sent(request).is_empty() { "400 Bad Request" } else { "200 OK" }, state))]
    })
    .await;
    let gateway = Gateway::before(&upstream.base_url());
    assert_eq!(ask(&gateway, KEY, &[]).await.as_deref(), Some("of-an-error"), "it comes down");
    ask(&gateway, KEY, &["of-an-error"]).await;
    upstream.request().await;
    assert_eq!(sent(&upstream.request().await), [""; 0]);
}
