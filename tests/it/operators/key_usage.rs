//! A key's own figures: `/v1/usage`, and the pages that chat programs poll.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::*;
use crate::support::{
    client::{Answer, Client},
    database::until,
    upstream::{RESPONSE, Upstream, json as answer},
};

const MORE: &str = "[[prices]]\nupstream = \"up\"\nmodel = \"smart\"\ncurrency = \"USD\"\nper_call = 0.25\n\
    [[keys]]\nname = \"b\"\nsecret = { env = \"B_KEY\" }\nbudgets = [\"3USD/day\", \"50USD/month\"]\nexpires = \"2099-01-01\"\ngroup = \"team\"\n\
    [[keys]]\nname = \"c\"\nsecret = { env = \"C_KEY\" }\ngroup = \"team\"\n";
const B_KEY: &str = "sk-key-of-b-0123456789";
const C_KEY: &str = "sk-key-of-c-0123456789";

async fn get(address: SocketAddr, path: &str, key: &str) -> Answer {
    Client::connect(address).await.ask(&format!("GET {path}"), &format!("authorization: Bearer {key}\r\n")).await
}

async fn create(address: SocketAddr, key: &str) {
    let body = r#"{"model":"smart"}"#;
    let head = format!("authorization: Bearer {key}\r\ncontent-length: {}\r\n", body.len());
    let mut client = Client::connect(address).await;
    client.send(format!("POST /v1/responses HTTP/1.1\r\nhost: t\r\n{head}\r\n{body}")).await;
    assert_eq!(client.answer().await.status, 200);
}

fn start(folder: &Path) -> Process {
    let mut command = tidegate(folder);
    command.args(["serve", "--config", "tidegate.toml"]).env("UP_KEY", UP_KEY).env("A_KEY", KEY);
    Process::start(command.env("B_KEY", B_KEY).env("C_KEY", C_KEY))
}

#[tokio::test]
async fn a_key_sees_only_its_own_usage_and_budgets() {
    let upstream = Upstream::fixed(answer("200 OK", RESPONSE)).await;
    let folder = folder(&format!("{}{MORE}", text(&upstream.base_url(), "")));
    let mut gateway = start(folder.path());
    let address = gateway.ready();
    for key in [KEY, B_KEY, B_KEY, C_KEY, C_KEY, C_KEY] {
        create(address, key).await;
    }
    until("the rows are in the ledger", async || {
        command(folder.path(), &["usage", "--json"]).is_ok_and(|(printed, _)| {
            let totals: Value = serde_json::from_str(&printed).unwrap();
            totals.as_array().unwrap().iter().map(|total| total["requests"].as_u64().unwrap()).sum::<u64>() == 6
        })
    })
    .await;

    for (key, name, requests, cost) in [(KEY, "a", 1, "0.25"), (B_KEY, "b", 2, "0.5"), (C_KEY, "c", 3, "0.75")] {
        for path in ["/v1/usage", "/usage"] {
            let usage = get(address, path, key).await;
            assert_eq!(usage.status, 200, "{usage:?}");
            let usage = usage.json();
            assert_eq!(
                (&usage["object"], &usage["key"], &usage["requests"]),
                (&json!("usage"), &json!(name), &json!(requests))
            );
            assert_eq!(usage["cost"], json!({ "USD": cost, "CNY": "0" }), "{usage}");
            assert_eq!(
                (&usage["input_tokens"], &usage["output_tokens"]),
                (&json!(3 * requests), &json!(5 * requests)),
                "{usage}"
            );
        }
        let cents = f64::from(requests) * 25.0;
        for path in ["/dashboard/billing/usage", "/v1/dashboard/billing/usage"] {
            let usage = get(address, path, key).await.json();
            assert_eq!(usage, json!({ "object": "list", "total_usage": cents, "currency": "USD" }), "{path}");
        }
    }
    let budgets = get(address, "/v1/usage", B_KEY).await.json()["budgets"].clone();
    let left: Vec<_> = budgets
        .as_array()
        .unwrap()
        .iter()
        .map(|budget| (budget["budget"].clone(), budget["spent"].clone(), budget["left"].clone()))
        .collect();
    assert_eq!(
        left,
        [(json!("3 USD/day"), json!("0.5"), json!("2.5")), (json!("50 USD/month"), json!("0.5"), json!("49.5"))]
    );
    assert!(budgets[1]["renews"].as_str().is_some_and(|renews| renews.ends_with("-01T00:00:00Z")), "{budgets}");

    for path in ["/dashboard/billing/subscription", "/v1/dashboard/billing/subscription"] {
        let mine = get(address, path, B_KEY).await.json();
        let expected = json!({
            "object": "billing_subscription", "has_payment_method": true, "soft_limit_usd": 50.0, "hard_limit_usd": 50.0,
            "system_hard_limit_usd": 50.0, "access_until": 4_070_908_800_u64, "currency": "USD",
        });
        assert_eq!(mine, expected);
        let unlimited = get(address, path, KEY).await.json();
        assert_eq!((&unlimited["hard_limit_usd"], &unlimited["access_until"]), (&json!(100_000_000.0), &json!(0)));
    }

    // The queries of chat programs: from the first of a month to tomorrow.
    for (query, cents) in [
        ("?start_date=2020-01-01&end_date=2099-01-01", 50.0),
        ("?start_date=2020-1-1", 50.0),
        ("?start_date=2020-01-01&end_date=2020-02-01", 0.0),
        ("?start_date=2099-01-01", 0.0),
        ("?other=1", 50.0),
    ] {
        let usage = get(address, &format!("/dashboard/billing/usage{query}"), B_KEY).await.json();
        assert_eq!(usage["total_usage"], json!(cents), "{query}");
    }
    for (query, name) in
        [("?start_date=yesterday", "start_date"), ("?end_date=2026-13-01", "end_date"), ("?start_date=", "start_date")]
    {
        for path in ["/v1/usage", "/dashboard/billing/usage"] {
            let refused = get(address, &format!("{path}{query}"), B_KEY).await;
            refused.assert_final(400, "invalid_query", true);
            assert_eq!(refused.param().as_deref(), Some(name));
        }
    }
    for path in ["/v1/usage", "/dashboard/billing/usage", "/v1/dashboard/billing/subscription"] {
        get(address, path, "sk-nobody-has-this-key").await.assert_final(401, "invalid_api_key", true);
        let other = Client::connect(address)
            .await
            .ask(&format!("POST {path}"), &format!("authorization: Bearer {KEY}\r\ncontent-length: 0\r\n"))
            .await;
        other.assert_final(405, "method_not_allowed", true);
    }
}

#[tokio::test]
async fn amounts_are_in_dollars_where_an_exchange_rate_is_set_and_otherwise_in_the_budgets_currency() {
    let upstream = Upstream::fixed(answer("200 OK", RESPONSE)).await;
    for (money, limit, cents, currency) in [("", 50.0, 25.0, "CNY"), ("[money]\ncny_per_usd = 5\n", 10.0, 5.0, "USD")] {
        let more = MORE.replace("USD", "CNY");
        let folder = folder(&format!("{}{more}{money}", text(&upstream.base_url(), "")));
        let mut gateway = start(folder.path());
        let address = gateway.ready();
        create(address, B_KEY).await;
        let subscription = get(address, "/dashboard/billing/subscription", B_KEY).await.json();
        assert_eq!((&subscription["hard_limit_usd"], &subscription["currency"]), (&json!(limit), &json!(currency)));
        // Each query is different, because the gateway caches answers for 5 s.
        let mut day = 1;
        until("the row is in the ledger", async || {
            day += 1;
            let usage =
                get(address, &format!("/dashboard/billing/usage?start_date=2020-01-{:02}", day % 28 + 1), B_KEY)
                    .await
                    .json();
            usage["total_usage"] == json!(cents) && usage["currency"] == json!(currency)
        })
        .await;
    }
}

#[tokio::test]
async fn a_ledger_that_cannot_be_read_is_an_error_and_not_zero() {
    use crate::support::gateway::{Gateway, KEY};
    let gateway = Gateway::with("http://127.0.0.1:1/v1", |config| {
        let url = "postgres://nobody@127.0.0.1:1/nothing".into();
        config.store = tidegate::config::Store::Postgres { url, password: None };
    });
    for path in ["/v1/usage", "/dashboard/billing/usage"] {
        let refused = get(gateway.address, path, KEY).await;
        refused.assert_problem(503, "ledger_unavailable");
        assert!(
            refused.message().contains("cannot be read right now") && refused.header("retry-after").is_some(),
            "{refused:?}"
        );
    }
    assert_eq!(get(gateway.address, "/dashboard/billing/subscription", KEY).await.status, 200);
}
