//! Ledger rows, limits and costs of the relayed endpoints.

use tidegate::{
    config::ModelPrice,
    domain::{
        money::{Budget, Currency, UNIT},
        price::Price,
    },
    store::sql::{Database, DatabaseLocation, FILE, GroupBy, UsageTotal},
};

use super::*;
use crate::support::database::until;

const PRICE: Price =
    Price { input: UNIT, cached: UNIT, output: UNIT, reasoning: UNIT, per_call: UNIT, ..Price::free(Currency::Cny) };

pub(super) async fn usage(gateway: &Gateway, by: GroupBy) -> Vec<UsageTotal> {
    let place = DatabaseLocation::Sqlite(gateway.folder.path().join(FILE));
    let Ok(mut database) = Database::open_to_read(&place).await else { return Vec::new() };
    database.usage(by, 0, u64::MAX).await.unwrap_or_default()
}

#[tokio::test]
async fn every_request_has_a_row_and_free_endpoints_cost_nothing() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut config = config(&upstream.base_url());
    config.prices = vec![ModelPrice { upstream: 0, model: "real".into(), from: 0, price: PRICE.into() }];
    let gateway = Gateway::start(config);
    let mut client = gateway.connect().await;
    for endpoint in Endpoint::ALL {
        assert_eq!(call(&mut client, endpoint).await.status, 200);
        upstream.request().await;
    }
    let all = Endpoint::ALL.len();
    until("the rows", async || usage(&gateway, GroupBy::Endpoint).await.len() == all).await;
    for total in usage(&gateway, GroupBy::Endpoint).await {
        let name = total.name.clone().unwrap();
        let endpoint = Endpoint::ALL.into_iter().find(|endpoint| endpoint.name() == name).unwrap();
        assert_eq!((total.requests, total.unpriced), (1, 0), "{name}");
        if endpoint.is_free() {
            let nothing = UsageTotal { name: Some(name), requests: 1, exact: 1, ..UsageTotal::default() };
            assert_eq!(total, nothing);
        } else {
            assert!(total.cost[0] >= UNIT, "{total:?}");
        }
        if endpoint.surface() == Surface::Responses && !endpoint.is_free() {
            assert_eq!((total.exact, total.input, total.output), (1, 3, 5), "{total:?}");
        }
    }
    let billed = Endpoint::ALL.into_iter().filter(|endpoint| !endpoint.is_free()).count();
    let by_key = usage(&gateway, GroupBy::Key).await;
    assert_eq!((by_key.len(), by_key[0].requests), (1, billed as u64));
}

#[tokio::test]
async fn a_request_that_went_up_and_failed_has_a_row() {
    let upstream = Upstream::scripted(|_| vec![Step::Reset]).await;
    let gateway = Gateway::before(&upstream.base_url());
    for endpoint in [Endpoint::RetrieveResponse, Endpoint::DeleteConversation, Endpoint::CountInputTokens] {
        assert_eq!(call(&mut gateway.connect().await, endpoint).await.status, 502);
    }
    // A request that is refused before it goes up has no row.
    gateway.connect().await.get("/v1/responses/%2e%2e").await.assert_problem(404, "unknown_id");
    until("the rows", async || usage(&gateway, GroupBy::Endpoint).await.len() == 3).await;
    for total in usage(&gateway, GroupBy::Endpoint).await {
        assert_eq!((total.requests, total.exact, total.cost), (1, 1, [0, 0]), "{total:?}");
    }
}

#[tokio::test]
async fn free_endpoints_count_as_requests_and_take_no_tokens_or_money() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut config = config(&upstream.base_url());
    // The limits are smaller than any request with a model needs.
    config.prices = vec![ModelPrice { upstream: 0, model: "real".into(), from: 0, price: PRICE.into() }];
    config.keys[0].limits.requests = Some(20);
    config.keys[0].limits.tokens = Some(1);
    config.keys[0].budgets = vec![Budget::parse("0.01CNY/day").unwrap()];
    let gateway = Gateway::start(config);
    let mut client = gateway.connect().await;
    let free: Vec<_> = Endpoint::ALL.into_iter().filter(|endpoint| endpoint.is_free()).collect();
    for (nth, endpoint) in (1..).zip(&free) {
        let got = call(&mut client, *endpoint).await;
        assert_eq!(got.status, 200, "{endpoint:?} {got:?}");
        let left = format!("{}", 20 - nth);
        assert_eq!(got.header("x-ratelimit-remaining-requests"), Some(&*left), "{endpoint:?}");
        assert_eq!(got.header("x-ratelimit-remaining-tokens"), Some("1"), "{endpoint:?}");
    }
    // The first request with a model takes all tokens and all money. The next one finds none.
    assert_eq!(call(&mut client, Endpoint::CreateEmbedding).await.status, 200);
    assert_eq!(call(&mut client, Endpoint::CreateEmbedding).await.status, 429);
    for _ in free.len() + 2..20 {
        assert_eq!(call(&mut client, Endpoint::RetrieveResponse).await.status, 200);
    }
    call(&mut client, Endpoint::RetrieveResponse).await.assert_problem(429, "rate_limit_exceeded");
}
