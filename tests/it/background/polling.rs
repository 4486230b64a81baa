//! Tidegate polls background responses by itself, so that their rows are settled although no client polls.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use tidegate::domain::clock::Clock;

use super::*;
use crate::support::gateway::credential;

/// The first pause between two polls: so short that no test waits for it.
const SOON: Duration = Duration::from_millis(100);

fn polling(provider: &Provider, budgets: &[&str]) -> Config {
    let mut config = provider.config(budgets);
    config.timeouts.background_poll = SOON;
    config
}

async fn polled_with_result(gateway: &Gateway, result: &str) {
    let name = format!("tidegate_ledger_polls_total{{result=\"{result}\"}}");
    until(&name, async || gateway.metric(&name).await >= 1.0).await;
}

#[tokio::test]
async fn a_row_becomes_exact_although_no_client_polls() {
    for body in [BODY, STREAMED] {
        let provider = Provider::start().await;
        let gateway = Gateway::start(polling(&provider, &["1000CNY/day"]));
        let (place, mut client) = (sqlite(&gateway), gateway.connect().await);
        // The part that a client sees of the response shows no tokens.
        if body == STREAMED {
            client.post(body).await;
            client.head().await;
            assert!(client.chunk().await.is_some());
            drop(client);
        } else {
            assert_eq!(client.create(body).await.status, 200);
        }
        state_becomes(&place, &["pending"]).await;
        gateway.metric_becomes("tidegate_ledger_pending", 1.0).await;
        polled_with_result(&gateway, "under_way").await;
        provider.set_stage(Stage::Completed);
        state_becomes(&place, &["exact"]).await;
        assert_eq!(rows(&place).await, [exact()]);
        gateway.metric_becomes("tidegate_ledger_pending", 0.0).await;
        // Tidegate's own polls have no rows and do not count as requests.
        assert_eq!(calls(&place).await, 0);
        assert_eq!(gateway.metric_sum("tidegate_requests_total").await, 1.0);
    }
}

#[tokio::test]
async fn a_response_that_its_client_reads_in_a_conversation_is_settled() {
    const IN_CONVERSATION: &str = r#"{"model":"smart","input":"hi","background":true,"conversation":"conv_1"}"#;
    for (stage, state) in [(Stage::Completed, "exact"), (Stage::Cancelled, "partial")] {
        let provider = Provider::start().await;
        let gateway = Gateway::start(polling(&provider, &["1000CNY/day"]));
        let (place, mut client) = (sqlite(&gateway), gateway.connect().await);
        assert_eq!(client.create(IN_CONVERSATION).await.status, 200);
        state_becomes(&place, &["pending"]).await;
        let pending = rows(&place).await;
        provider.set_stage(stage);
        // The client never names the response.
        let line = "GET /v1/conversations/conv_1/items";
        let items = client.ask(line, &format!("authorization: Bearer {KEY}\r\ncontent-length: 0\r\n")).await;
        assert!(items.status == 200 && items.text().contains("output_text"), "{items:?}");
        state_becomes(&place, &[state]).await;
        let row = rows(&place).await;
        assert_eq!(row[0], if state == "exact" { exact() } else { ("partial".into(), None, pending[0].2, true) });
        assert_eq!(calls(&place).await, 1, "only the client's call has a row");
    }
}

#[tokio::test]
async fn a_response_that_is_cancelled_elsewhere_becomes_partial() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(polling(&provider, &[]));
    let place = sqlite(&gateway);
    assert_eq!(gateway.connect().await.create(BODY).await.status, 200);
    state_becomes(&place, &["pending"]).await;
    let pending = rows(&place).await;
    provider.set_stage(Stage::Cancelled);
    state_becomes(&place, &["partial"]).await;
    assert_eq!(rows(&place).await[0].2, pending[0].2);
}

#[tokio::test]
async fn a_budget_gets_the_reservation_back_although_no_client_polls() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(polling(&provider, &["2.5CNY/day"]));
    let mut client = gateway.connect().await;
    for _ in 0..2 {
        assert_eq!(client.create(BODY).await.status, 200);
    }
    client.create(BODY).await.assert_final(429, "insufficient_quota", true);
    provider.set_stage(Stage::Completed);
    until("a budget", async || client.create(BODY).await.status == 200).await;
}

#[tokio::test]
async fn polls_continue_after_a_restart_and_after_a_kill() {
    let folder = TempDir::new().unwrap();
    let place = DatabaseLocation::Sqlite(folder.path().join("data").join(FILE));
    let provider = Provider::start().await;
    let mut process = serve(&folder, &provider.upstream.base_url(), "");
    let address = process.ready();
    assert_eq!(Client::connect(address).await.create(BODY).await.status, 200);
    state_becomes(&place, &["pending"]).await;
    process.signal("KILL");
    process.exit();
    provider.set_stage(Stage::Completed);
    // The pause is the default one.
    let mut process = serve(&folder, &provider.upstream.base_url(), "");
    process.ready();
    state_becomes(&place, &["exact"]).await;
    assert_eq!(rows(&place).await, [exact()]);
    process.signal("KILL");
    process.exit();
}

/// Seconds by which the clocks of this file's gateways are ahead. Each test has its own.
static AHEAD: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

#[expect(clippy::disallowed_methods, reason = "clocks that tests move")]
fn ahead<const N: usize>() -> SystemTime {
    SystemTime::now() + Duration::from_secs(AHEAD[N].load(Ordering::Relaxed))
}

#[tokio::test]
async fn a_response_that_its_provider_deleted_becomes_partial_after_a_minute() {
    let provider = Provider::start().await;
    let gateway = Gateway::start_at(Clock::from_fn(ahead::<0>), polling(&provider, &[]));
    let place = sqlite(&gateway);
    assert_eq!(gateway.connect().await.create(BODY).await.status, 200);
    provider.set_stage(Stage::Missing);
    polled_with_result(&gateway, "gone").await;
    assert_eq!(rows(&place).await[0].0, "pending");
    AHEAD[0].store(61, Ordering::Relaxed);
    state_becomes(&place, &["partial"]).await;
}

#[tokio::test]
async fn a_response_that_never_ends_becomes_partial_after_a_day() {
    let provider = Provider::start().await;
    let gateway = Gateway::start_at(Clock::from_fn(ahead::<1>), polling(&provider, &[]));
    let place = sqlite(&gateway);
    assert_eq!(gateway.connect().await.create(BODY).await.status, 200);
    polled_with_result(&gateway, "under_way").await;
    AHEAD[1].store(86_390, Ordering::Relaxed);
    assert_eq!(rows(&place).await[0].0, "pending");
    AHEAD[1].store(86_401, Ordering::Relaxed);
    state_becomes(&place, &["partial"]).await;
    // If a client's call shows the tokens later, the tokens count.
    provider.set_stage(Stage::Completed);
    poll(&mut gateway.connect().await, "resp_1").await;
    state_becomes(&place, &["exact"]).await;
}

#[tokio::test]
async fn polls_go_to_the_account_that_holds_the_response_also_after_a_rename_and_take_no_concurrency_slot() {
    let mut provider = Provider::start().await;
    let mut config = polling(&provider, &[]);
    config.upstreams[0].credentials =
        vec![credential("FIRST", "sk-first-0123456789"), credential("SECOND", "sk-second-012345678")];
    config.upstreams[0].max_in_flight = Some(1);
    let data = TempDir::new().unwrap();
    config.server.data_dir = data.path().to_owned();
    let mut gateway = Gateway::run(config.clone(), None, data);
    let place = sqlite(&gateway);
    let mut client = gateway.connect().await;
    let mut made = Vec::new();
    for nth in 0..4 {
        assert_eq!(client.create(BODY).await.status, 200);
        until("a row", async || rows(&place).await.len() == nth + 1).await;
    }
    let check = |request: &crate::support::upstream::Request, made: &mut Vec<(String, String)>| {
        let sent = request.header("authorization").unwrap().to_owned();
        match request.line.strip_prefix("GET /up/responses/") {
            None => made.push((format!("resp_{}", made.len() + 1), sent)),
            Some(rest) => {
                let id = rest.split(' ').next().unwrap();
                let maker = made.iter().find(|(made, _)| made == id).unwrap();
                assert_eq!(maker.1, sent, "{id} was polled at another account");
                assert_eq!(request.header("accept"), Some("application/json"));
            }
        }
    };
    let mut asked = 0;
    while asked < 8 {
        let request = provider.upstream.request().await;
        check(&request, &mut made);
        asked += usize::from(request.line.starts_with("GET"));
    }
    // The same accounts under new credential names: the affinity store knows the accounts.
    gateway.stop();
    gateway.ended().await;
    for credential in &mut config.upstreams[0].credentials {
        credential.name = format!("NEW_{}", credential.name).into();
    }
    let folder = std::mem::replace(&mut gateway.folder, TempDir::new().unwrap());
    let again = Gateway::run(config, None, folder);
    let mut asked = 0;
    while asked < 8 {
        check(&provider.upstream.request().await, &mut made);
        asked += 1;
    }
    // Polls that hang do not block requests, although the upstream takes one request at a time.
    provider.set_stage(Stage::Silent);
    until("polls that hang", async || {
        check(&provider.upstream.request().await, &mut made);
        again.metric("tidegate_ledger_pending").await == 4.0
    })
    .await;
    let mut client = again.connect().await;
    assert_eq!(client.create(BODY).await.status, 200);
    provider.set_stage(Stage::Completed);
    assert_eq!(client.create(BODY).await.status, 200);
}

#[tokio::test]
async fn one_of_several_replicas_polls_and_each_row_is_settled_once() {
    let (provider, postgres) = (Provider::start().await, Postgres::start().await);
    let place = postgres.place();
    postgres.execute("CREATE ROLE one LOGIN SUPERUSER").await;
    postgres.execute("CREATE ROLE other LOGIN SUPERUSER").await;
    let config = polling(&provider, &["1000CNY/total"]);
    let (one, other) = (on(config.clone(), &postgres, "one"), on(config, &postgres, "other"));
    for gateway in [&one, &other] {
        for _ in 0..3 {
            assert_eq!(gateway.connect().await.create(BODY).await.status, 200);
        }
    }
    state_becomes(&place, &["pending"; 6]).await;
    for gateway in [&one, &other] {
        polled_with_result(gateway, "under_way").await;
        gateway.metric_becomes("tidegate_ledger_pending", 3.0).await;
    }
    provider.set_stage(Stage::Completed);
    state_becomes(&place, &["exact"; 6]).await;
    assert_eq!(rows(&place).await, vec![exact(); 6]);
    for gateway in [&one, &other] {
        gateway.metric_becomes("tidegate_ledger_polls_total{result=\"over\"}", 3.0).await;
    }
}
