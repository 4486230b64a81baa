//! A ledger in PostgreSQL: whatever happens to the server, requests are served and each has its row.

use std::time::Duration;

use sqlx::{Connection, PgConnection, Row as _};
use tidegate::{
    config::Store,
    store::sql::{Database, GroupBy},
};
use tokio::time::Instant;

use crate::support::{
    database::{Postgres, until},
    gateway::{Gateway, config},
    say,
    upstream::{RESPONSE, Upstream, json},
};

const BODY: &str = r#"{"model":"smart","input":"hi"}"#;

async fn gateway(postgres: &Postgres) -> (Upstream, Gateway) {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut config = config(&upstream.base_url());
    config.store = Store::Postgres { url: postgres.url().into(), password: None };
    (upstream, Gateway::start(config))
}

/// The number of rows of finished requests, and of those with their whole usage.
async fn rows(postgres: &Postgres) -> (u64, u64) {
    let Ok(mut database) = Database::open_to_read(&postgres.place()).await else { return (0, 0) };
    let totals = database.usage(GroupBy::Key, 0, u64::MAX).await.unwrap_or_default();
    (totals.iter().map(|total| total.requests).sum(), totals.iter().map(|total| total.exact).sum())
}

async fn row_count_becomes(postgres: &Postgres, count: u64) {
    until("the rows", async || rows(postgres).await == (count, count)).await;
}

/// Sends `count` requests one after the other, and returns the longest duration.
async fn ask(gateway: &Gateway, count: u64) -> Duration {
    let mut client = gateway.connect().await;
    let mut longest = Duration::ZERO;
    for _ in 0..count {
        let began = Instant::now();
        assert_eq!(client.create(BODY).await.status, 200);
        longest = longest.max(began.elapsed());
    }
    longest
}

/// Both ways to write the URL. No server listens at an address that a wrong reading of the URL could lead to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_is_reached_through_a_unix_socket() {
    const BY_ADDRESS: &str = "SELECT count(*) FILTER (WHERE client_addr IS NOT NULL), count(*) \
         FROM pg_stat_activity WHERE application_name = 'tidegate'";
    let postgres = Postgres::start().await;
    let (folder, port) = postgres.socket();
    let escaped = folder.to_str().unwrap().replace('/', "%2F");
    let urls = [
        format!("postgres://tidegate@{escaped}:{port}/postgres"),
        format!("postgres://tidegate@:{port}/postgres?host={}", folder.display()),
    ];
    for (url, count) in urls.into_iter().zip([10, 20]) {
        let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
        let mut config = config(&upstream.base_url());
        config.store = Store::Postgres { url: url.as_str().into(), password: None };
        let gateway = Gateway::start(config);
        ask(&gateway, 10).await;
        row_count_becomes(&postgres, count).await;
        until("no other connection", async || {
            let mut asking = postgres.connect().await.unwrap();
            let row = sqlx::query(BY_ADDRESS).fetch_one(&mut asking).await.unwrap();
            (row.get::<i64, _>(0), row.get::<i64, _>(1) > 0) == (0, true)
        })
        .await;
    }
}

/// Requests before, during and after an outage. During the outage, readiness reports the fault and stays ready.
async fn assert_survives_outage(away: impl AsyncFnOnce(&mut Postgres), back: impl AsyncFnOnce(&mut Postgres)) {
    assert_outage_survived_by(Postgres::start().await, away, back).await;
}

/// The same with this server.
async fn assert_outage_survived_by(
    mut postgres: Postgres,
    away: impl AsyncFnOnce(&mut Postgres),
    back: impl AsyncFnOnce(&mut Postgres),
) {
    let (_upstream, gateway) = gateway(&postgres).await;
    ask(&gateway, 20).await;
    row_count_becomes(&postgres, 20).await;
    away(&mut postgres).await;
    let longest = ask(&gateway, 50).await;
    assert!(longest < Duration::from_millis(500), "{longest:?} during the outage");
    gateway.metric_becomes(r#"tidegate_ledger_fault{fault="database"}"#, 1.0).await;
    let mut operator = crate::support::client::Client::connect(gateway.admin).await;
    let ready = operator.get("/readyz").await;
    assert_eq!((ready.status, ready.text().contains("database")), (200, true), "{}", ready.text());
    back(&mut postgres).await;
    ask(&gateway, 10).await;
    row_count_becomes(&postgres, 80).await;
    gateway.metric_becomes(r#"tidegate_ledger_fault{fault="database"}"#, 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_served_while_postgresql_is_stopped() {
    assert_survives_outage(async |postgres| postgres.stop(), async |postgres| postgres.run().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_served_while_postgresql_is_killed() {
    assert_survives_outage(async |postgres| postgres.kill(), async |postgres| postgres.run().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_served_while_postgresql_hangs() {
    assert_survives_outage(async |postgres| postgres.pause(), async |postgres| postgres.go_on()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_served_while_postgresql_is_read_only() {
    let limited = async |postgres: &mut Postgres| {
        postgres.execute("ALTER SYSTEM SET default_transaction_read_only = on").await;
        postgres.execute("SELECT pg_reload_conf()").await;
    };
    let back = async |postgres: &mut Postgres| {
        let mut connection = postgres.connect().await.unwrap();
        for statement in
            ["SET default_transaction_read_only = off", "ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()"]
        {
            sqlx::query(statement).execute(&mut connection).await.unwrap();
        }
    };
    assert_survives_outage(limited, back).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_served_while_the_disk_of_postgresql_is_full() {
    let mut postgres = Postgres::start().await;
    if let Err(why) = postgres.use_small_disk().await {
        say(&format!("NOT TESTED: PostgreSQL on a full disk, as a small one cannot be mounted (it takes root): {why}"));
        return;
    }
    let (full, free) = (
        async |postgres: &mut Postgres| postgres.fill_small_disk(true),
        async |postgres: &mut Postgres| {
            postgres.fill_small_disk(false);
        },
    );
    assert_outage_survived_by(postgres, full, free).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_served_while_others_take_all_connections_of_postgresql() {
    let mut taken: Vec<PgConnection> = Vec::new();
    let mut postgres = Postgres::start().await;
    postgres.execute("CREATE ROLE gateway LOGIN").await;
    postgres.execute("GRANT ALL ON SCHEMA public TO gateway").await;
    let url = postgres.url().replace("tidegate@", "gateway@");
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut config = config(&upstream.base_url());
    config.store = Store::Postgres { url: url.as_str().into(), password: None };
    let gateway = Gateway::start(config);
    ask(&gateway, 20).await;
    row_count_becomes(&postgres, 20).await;
    // The gateway loses its own connection, and other clients take all free ones first.
    postgres.kill();
    ask(&gateway, 5).await;
    gateway.metric_becomes(r#"tidegate_ledger_fault{fault="database"}"#, 1.0).await;
    postgres.run().await;
    while let Ok(connection) = PgConnection::connect(&url).await {
        taken.push(connection);
    }
    assert!(!taken.is_empty());
    let before = rows(&postgres).await.0;
    ask(&gateway, 50).await;
    if before < 25 {
        // The gateway did not get a connection in between.
        gateway.metric_becomes(r#"tidegate_ledger_fault{fault="database"}"#, 1.0).await;
    }
    for connection in taken {
        connection.close().await.unwrap();
    }
    row_count_becomes(&postgres, 75).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_served_when_postgresql_is_down_at_the_start_and_at_the_end() {
    let mut postgres = Postgres::start().await;
    postgres.stop();
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut settings = config(&upstream.base_url());
    settings.store = Store::Postgres { url: postgres.url().into(), password: None };
    let data = tempfile::tempdir().unwrap();
    settings.server.data_dir = data.path().to_owned();
    let mut gateway = Gateway::run(settings.clone(), None, data);
    ask(&gateway, 20).await;
    gateway.stop();
    gateway.ended().await;
    postgres.run().await;
    assert_eq!(rows(&postgres).await, (0, 0));
    // The next gateway finds the rows that this one left in its journal.
    let folder = std::mem::replace(&mut gateway.folder, tempfile::tempdir().unwrap());
    let _gateway = Gateway::run(settings, None, folder);
    row_count_becomes(&postgres, 20).await;
}
