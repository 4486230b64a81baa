//! Requests without a model go to one account, and to no other.

use super::*;
use crate::support::gateway::credential;

#[tokio::test]
async fn requests_without_a_model_go_to_the_default_upstream_or_to_the_only_one() {
    let (mut first, mut second, config) = pair(json("200 OK", RESPONSE), json("200 OK", RESPONSE)).await;
    let nameless = || Endpoint::ALL.into_iter().filter(|endpoint| endpoint.request_body() != RequestBodyKind::Model);
    // Without a default upstream: a new conversation goes to the first one, and an unknown id is refused.
    let gateway = Gateway::start(config.clone());
    for endpoint in nameless() {
        let got = call(&mut gateway.connect().await, endpoint).await;
        if endpoint.has_ids() {
            got.assert_final(404, "unknown_id", true);
        } else {
            assert_eq!(got.status, 200, "{endpoint:?} {got:?}");
            first.request().await;
        }
    }
    assert_eq!((first.untaken(), second.untaken()), (0, 0));
    let mut without = config.clone();
    without.upstreams[0].surface = vec![Surface::Chat];
    without.upstreams.push(upstream("third", &first.base_url()));
    let mut elsewhere = config.clone();
    elsewhere.upstreams.push(upstream("third", &second.base_url()));
    elsewhere.keys[0].upstreams = Some(vec![1, 2]);
    for config in [without, elsewhere] {
        let gateway = Gateway::start(config);
        let got = call(&mut gateway.connect().await, Endpoint::CreateConversation).await;
        assert_eq!(got.status, 200, "{got:?}");
        second.request().await;
    }
    assert_eq!((first.untaken(), second.untaken()), (0, 0));

    let mut named = config.clone();
    named.default_upstream = Some(1);
    let mut restricted = config.clone();
    restricted.keys[0].upstreams = Some(vec![1]);
    restricted.keys[0].models = Some(vec!["smart".into()]);
    let mut narrow = config.clone();
    narrow.default_upstream = Some(0);
    narrow.upstreams[0].surface = vec![Surface::Chat];
    for config in [named, restricted, narrow] {
        let gateway = Gateway::start(config);
        for endpoint in nameless() {
            let got = call(&mut gateway.connect().await, endpoint).await;
            assert_eq!(got.status, 200, "{endpoint:?} {got:?}");
            assert!(second.request().await.line.contains("/up/"), "{endpoint:?}");
        }
    }
    assert_eq!((first.untaken(), second.untaken()), (0, 0));

    // A default upstream that the key may not use does not count.
    let mut config = config;
    config.default_upstream = Some(0);
    config.upstreams.push(upstream("third", &second.base_url()));
    config.keys[0].upstreams = Some(vec![1, 2]);
    let gateway = Gateway::start(config);
    gateway.connect().await.get("/v1/responses/resp_1").await.assert_final(404, "unknown_id", true);
    assert_eq!((first.untaken(), second.untaken()), (0, 0));
}

#[tokio::test]
async fn a_request_with_an_id_never_fails_over_to_another_account() {
    for failure in ["500 Internal Server Error", "429 Too Many Requests", "401 Unauthorized"] {
        let (mut first, mut second, mut config) = pair(json(failure, "{}"), json("200 OK", RESPONSE)).await;
        config.default_upstream = Some(0);
        config.retries.percent = 0;
        config.upstreams[0].credentials = vec![credential("one", "sk-one"), credential("two", "sk-two")];
        let gateway = Gateway::start(config);
        for endpoint in with_ids() {
            let got = call(&mut gateway.connect().await, endpoint).await;
            let status = if failure.starts_with("401") { 502 } else { failure[..3].parse().unwrap() };
            assert_eq!(got.status, status, "{endpoint:?} {got:?}");
            let seen = first.request().await;
            assert_eq!(first.untaken(), 0, "{failure} {endpoint:?} {seen:?}");
        }
        assert_eq!(second.untaken(), 0);
    }
}

#[tokio::test]
async fn a_read_request_is_retried_after_a_disconnect_and_others_are_not() {
    for endpoint in with_ids() {
        let mut upstream = one_after_the_other(vec![vec![Step::Close]]).await;
        let gateway = Gateway::before(&upstream.base_url());
        let got = call(&mut gateway.connect().await, endpoint).await;
        upstream.request().await;
        if endpoint.method() == Method::GET {
            assert_eq!(got.status, 200, "{endpoint:?} {got:?}");
            upstream.request().await;
        } else {
            got.assert_problem(502, "upstream_disconnected");
        }
        assert_eq!(upstream.untaken(), 0, "{endpoint:?}");
    }
}
