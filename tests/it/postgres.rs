//! A ledger in PostgreSQL: whatever becomes of the server, requests are served as before and every one has its row.

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

/// Rows of requests that are over, and those of them with all their tokens.
async fn rows(postgres: &Postgres) -> (u64, u64) {
    let Ok(mut database) = Database::open_to_read(&postgres.place()).await else { return (0, 0) };
    let totals = database.usage(GroupBy::Key, 0, u64::MAX).await.unwrap_or_default();
    (totals.iter().map(|total| total.requests).sum(), totals.iter().map(|total| total.exact).sum())
}

async fn have(postgres: &Postgres, count: u64) {
    until("the rows", async || rows(postgres).await == (count, count)).await;
}

/// Makes `count` requests one after the other; returned is what the longest took.
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

/// Either way to write it; nothing listens on an address that the URL could lead to by mistake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_behind_a_unix_socket() {
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
        have(&postgres, count).await;
        until("no other connection", async || {
            let mut asking = postgres.connect().await.unwrap();
            let row = sqlx::query(BY_ADDRESS).fetch_one(&mut asking).await.unwrap();
            (row.get::<i64, _>(0), row.get::<i64, _>(1) > 0) == (0, true)
        })
        .await;
    }
}

/// Requests before, while and after it is away; while it is, readiness tells of it and stays.
async fn survives(away: impl AsyncFnOnce(&mut Postgres), back: impl AsyncFnOnce(&mut Postgres)) {
    survives_of(Postgres::start().await, away, back).await;
}

/// The same, of this one.
async fn survives_of(
    mut postgres: Postgres,
    away: impl AsyncFnOnce(&mut Postgres),
    back: impl AsyncFnOnce(&mut Postgres),
) {
    let (_upstream, gateway) = gateway(&postgres).await;
    ask(&gateway, 20).await;
    have(&postgres, 20).await;
    away(&mut postgres).await;
    let longest = ask(&gateway, 50).await;
    assert!(longest < Duration::from_millis(500), "{longest:?} while it is away");
    gateway.metric_becomes(r#"tidegate_ledger_fault{fault="database"}"#, 1.0).await;
    let mut operator = crate::support::client::Client::connect(gateway.admin).await;
    let ready = operator.get("/readyz").await;
    assert_eq!((ready.status, ready.text().contains("database")), (200, true), "{}", ready.text());
    back(&mut postgres).await;
    ask(&gateway, 10).await;
    have(&postgres, 80).await;
    gateway.metric_becomes(r#"tidegate_ledger_fault{fault="database"}"#, 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_stopped() {
    survives(async |postgres| postgres.stop(), async |postgres| postgres.run().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_killed() {
    survives(async |postgres| postgres.kill(), async |postgres| postgres.run().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_stands_still() {
    survives(async |postgres| postgres.pause(), async |postgres| postgres.go_on()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_becomes_read_only() {
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
    survives(limited, back).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_disk_is_full() {
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
    survives_of(postgres, full, free).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_take_all_of_its_connections() {
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
    have(&postgres, 20).await;
    // It loses its own connection, and others are there first.
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
        // It did not get in between.
        gateway.metric_becomes(r#"tidegate_ledger_fault{fault="database"}"#, 1.0).await;
    }
    for connection in taken {
        connection.close().await.unwrap();
    }
    have(&postgres, 75).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_away_when_the_gateway_starts_and_when_it_ends() {
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
    // The next one finds what this one left.
    let folder = std::mem::replace(&mut gateway.folder, tempfile::tempdir().unwrap());
    let _gateway = Gateway::run(settings, None, folder);
    have(&postgres, 20).await;
}
