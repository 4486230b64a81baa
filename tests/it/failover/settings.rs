//! The settings of an upstream that decide which answers cause a failover.

use tidegate::config::{ErrorRule, FaultOwner, Upstream as Settings};

use crate::support::{
    gateway::{Gateway, config, model, upstream},
    upstream::{RESPONSE, Upstream, json},
};

const BODY: &str = r#"{"model":"many","input":"hi"}"#;

/// The client's answer if the first upstream answers like this and has these settings; none = the second upstream
/// answered.
async fn first_of_two(status: &str, body: &str, set: impl FnOnce(&mut Settings)) -> Option<(u16, Vec<u8>)> {
    let first = Upstream::fixed(json(status, body)).await;
    let mut second = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut config = config(&first.base_url());
    config.upstreams = vec![upstream("up0", &first.base_url()), upstream("up1", &second.base_url())];
    config.models = vec![model("many", &[(0, None), (1, None)])];
    set(&mut config.upstreams[0]);
    let gateway = Gateway::start(config);
    let answer = gateway.connect().await.create(BODY).await;
    let led_on = second.untaken() == 1;
    assert_eq!(led_on, answer.status == 200, "{status} {body}: {answer:?}");
    (!led_on).then_some((answer.status, answer.body))
}

fn error(code: &str) -> String {
    format!(r#"{{"error":{{"message":"It is TOO LATE today","type":"a_type","param":null,"code":"{code}"}}}}"#)
}

#[tokio::test]
async fn the_statuses_that_cause_a_failover_are_configurable() {
    for (status, default, set) in [
        ("400 Bad Request", false, false),
        ("404 Not Found", false, true),
        ("408 Request Timeout", true, false),
        ("409 Conflict", false, true),
        ("429 Too Many Requests", true, false),
        ("500 Oops", true, false),
        ("503 Busy", true, true),
        // An error that is certainly about the credential or the model causes a failover in any case.
        ("401 Unauthorized", true, true),
        ("402 Payment Required", true, true),
    ] {
        let body = error("c");
        let found = first_of_two(status, &body, |_| ()).await;
        assert_eq!(found.is_none(), default, "{status} by default");
        let found = first_of_two(status, &body, |up| up.failover_statuses = Some(vec![404, 409, 503])).await;
        assert_eq!(found.is_none(), set, "{status} as set");
        if let Some(found) = found {
            assert_eq!(found, (status[..3].parse().unwrap(), body.into_bytes()), "{status}");
        }
    }
    let none = |up: &mut Settings| up.failover_statuses = Some(Vec::new());
    assert!(first_of_two("503 Busy", &error("c"), none).await.is_some());
    assert!(first_of_two("503 Busy", &error("model_not_found"), none).await.is_none());
}

#[tokio::test]
async fn error_codes_and_types_cause_a_failover_where_the_configuration_names_them() {
    for (status, code) in [("409 Conflict", "other"), ("422 X", "two words"), ("400 Bad Request", "other")] {
        let body = error(code);
        assert!(first_of_two(status, &body, |_| ()).await.is_some(), "{status} {code}");
        for named in [code, "a_type"] {
            let set = |up: &mut Settings| up.failover_codes = vec![named.to_owned()];
            assert!(first_of_two(status, &body, set).await.is_none(), "{status} {code} by {named}");
        }
        let set = |up: &mut Settings| up.failover_codes = vec!["another".to_owned()];
        assert!(first_of_two(status, &body, set).await.is_some(), "{status} {code}");
    }
}

#[tokio::test]
async fn error_rules_match_by_status_code_type_and_words() {
    let any = ErrorRule { status: None, code: None, kind: None, words: Vec::new(), fault: FaultOwner::Credential };
    let top = r#"{"code":"Two Words","message":"It is too late"}"#.to_owned();
    let in_array = format!("[{}]", error("c"));
    let plain = "It is too late".to_owned();
    let rules = [
        (
            "status",
            ErrorRule { status: Some(418), ..any.clone() },
            vec![error("c"), top.clone(), in_array.clone(), plain.clone()],
        ),
        ("code", ErrorRule { code: Some("c".into()), ..any.clone() }, vec![error("c"), in_array.clone()]),
        ("code at the top", ErrorRule { code: Some("Two Words".into()), ..any.clone() }, vec![top.clone()]),
        ("type", ErrorRule { kind: Some("a_type".into()), ..any.clone() }, vec![error("c"), in_array.clone()]),
        (
            "words",
            ErrorRule { words: vec!["never".into(), "too late".into()], ..any.clone() },
            vec![error("c"), top.clone(), in_array.clone(), plain.clone()],
        ),
        (
            "all of them",
            ErrorRule { status: Some(418), code: Some("c".into()), words: vec!["Late".into()], ..any.clone() },
            vec![error("c"), in_array.clone()],
        ),
    ];
    let bodies = [error("c"), top, in_array, plain];
    for (name, rule, matching) in &rules {
        for body in &bodies {
            for fault in [FaultOwner::Credential, FaultOwner::Balance, FaultOwner::Model, FaultOwner::Upstream] {
                let set = |up: &mut Settings| up.error_rules = vec![ErrorRule { fault, ..rule.clone() }];
                let led_on = first_of_two("418 X", body, set).await.is_none();
                assert_eq!(led_on, matching.contains(body), "{name} {fault:?}: {body}");
            }
        }
        // The first matching rule decides. A fault of the request reaches the client, whatever the status.
        let passes = ErrorRule { fault: FaultOwner::Request, ..rule.clone() };
        let set = |up: &mut Settings| up.error_rules = vec![passes, rule.clone()];
        assert!(first_of_two("418 X", &matching[0], set).await.is_some(), "{name}");
    }
    let never = ErrorRule { status: Some(503), fault: FaultOwner::Request, ..any };
    let set = |up: &mut Settings| up.error_rules = vec![never];
    let body = error("c");
    assert_eq!(first_of_two("503 Busy", &body, set).await, Some((503, body.into_bytes())));
}
