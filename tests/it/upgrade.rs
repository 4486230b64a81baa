//! A database with rows of an older schema opens, and all of its rows and sums stay.

use serde_json::json;
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, Row as _, SqlSafeStr, SqliteConnection,
    migrate::{Migration, MigrationType, Migrator},
    sqlite::SqliteConnectOptions,
};
use tidegate::{
    domain::{
        key::{KeySettings, RotatedSecret, StoredKey},
        ledger::UsageState,
        spending::Spender,
    },
    store::sql::{Cell, ChangeAuthor, Database, DatabaseLocation, FILE, GroupBy, KeyChange, Revision},
};

use crate::support::database::Postgres;

/// The migrations of all schemas, the oldest first, each with the SHA-384 of its released text for SQLite and for
/// PostgreSQL. Databases know a migration by this hash and refuse a changed one.
const SCHEMAS: [(&str, [&str; 2]); 8] = [
    (
        include_str!("../../src/store/sql/0001_ledger.sql"),
        [
            "a891cfc5a2ef195eff111fbfe0eebf472af81d57bb62326cb8c1a8a009c7eb6dc16f91e561d6741b014f6e879dcbb934",
            "853cb619735d3d0b04c7834df8d8c469bdd53575edf19e1c775b92736d831df3b415bd34395ad4a6ef8fa821ca890ef4",
        ],
    ),
    (
        include_str!("../../src/store/sql/0002_keys.sql"),
        [
            "48276bf97d01dbe94cf6410f77554079b7283d96d87553a455dbc664f2e016d6b8c0c2171c588b40afeac76173b7ea87",
            "dc326461e86b0e880b155999f0605e64e8f238100c4231c855ea665b70d2f6445e60ba46f866d072e0c11b9163850b8f",
        ],
    ),
    (
        include_str!("../../src/store/sql/0003_endpoint.sql"),
        ["00cd49dc6d4849f666dadbdc9241205d44c612c05560d46e7306cc3adbc6e7ef1889f81fd2c0e7b2a66d20423925fcbc"; 2],
    ),
    (
        include_str!("../../src/store/sql/0004_pending.sql"),
        [
            "82d9b0bdcef1d1f95107fc07fa5c0dab9188e23a14b46314eecf25202256c788923fe937b1b95849ed7834e3a570c2a0",
            "0d5cce90845e4b0d066476875c446688d5db1aa1fae21a0d4b6b159c78ff91f7031846aa606630f0fc34a030ab718549",
        ],
    ),
    (
        include_str!("../../src/store/sql/0005_sums.sql"),
        ["8a6a05297c21e93a602747b2d61a83ca75dd91cda1b187bedc35963d8fe432f5ce1c6b562373987d9d45d91260f53eff"; 2],
    ),
    (
        include_str!("../../src/store/sql/0006_prices.sql"),
        [
            "26bcd2bf00c6d57440b4273c35e10c5ea98b327befcaeb5630834e445ebc7063cad86b7a63d0f5151d961cacdc3a6e55",
            "93dbdd62d649bc118297500df94b2ec7df3b97641c9a29cbdbec1ded841b416167f081e76e24991043462f7cf5b5ee13",
        ],
    ),
    (
        include_str!("../../src/store/sql/0007_daily_sums.sql"),
        [
            "ef8c0fe341d1e0382954c0d0796cb51cb7a5d727bcf6c9d7c8e231d340f1712d9b2f315a5c9170e4a46f184efb9ad6bd",
            "a9a9ae73737bdefd466dc7695a0ac9c968f687780c69b19a3b925b8271d54e6f291b52724684ef915b3f9712081c87fd",
        ],
    ),
    (
        include_str!("../../src/store/sql/0008_revision_token.sql"),
        ["cdd9d34c66f3fdd379350c22908a271070e041baf33c5d3b72d938c778f9a088c6a609076ccb420f6d719bbf83be284e"; 2],
    ),
];

/// The schema that added the keys of clients, and the one that added rows which are settled later.
const KEYS: usize = 2;
const PENDING: usize = 4;

/// The number of requests of each key and currency.
const EACH: u64 = 50;

/// Creates the tables of a release with this number of schemas.
fn made_by(schemas: usize, of_postgres: bool) -> Migrator {
    let migration = |(number, (text, released)): (i64, &(&'static str, [&str; 2]))| {
        let text = match of_postgres {
            false => text.into_sql_str(),
            true => {
                let text = text.replace(" STRICT, WITHOUT ROWID", "").replace("INTEGER", "BIGINT");
                AssertSqlSafe(text).into_sql_str()
            }
        };
        let migration = Migration::new(number, "as released".into(), MigrationType::Simple, text, false);
        let sum = data_encoding::HEXLOWER.encode(&migration.checksum);
        assert_eq!(sum, released[usize::from(of_postgres)], "schema {number} was released and changed since");
        migration
    };
    let mut migrator = Migrator::with_migrations((1..).zip(&SCHEMAS[..schemas]).map(migration).collect());
    migrator.set_locking(false);
    migrator
}

/// The cost of a request in nano-units, so large that a sum of floats would not be exact.
fn cost(nth: u64) -> u64 {
    9_007_199_254_740_993 + nth
}

/// The rows of a release with this number of schemas, as statements.
fn rows(schemas: usize) -> Vec<String> {
    let mut all = Vec::new();
    let common = "INSERT INTO ledger (id, time_ms, state, origin, key_name, group_name, model, upstream_model, upstream, \
                  credential, end_reason, status, input_tokens, cached_tokens, output_tokens, currency, price_input, price_cached, \
                  price_output, price_reasoning, price_call, reserved_cost, cost, estimated, bytes_up, bytes_down, attempts, took_ms, \
                  response_id) VALUES";
    for (key, currency) in [("team-a", "CNY"), ("team-a", "USD"), ("team-b", "CNY")] {
        for nth in 0..EACH {
            let state = ["exact", "partial", "unknown", "interrupted"][nth as usize % 4];
            let number = all.len();
            all.push(format!(
                "{common} ('{number:032x}', {}, '{state}', 'here', '{key}', 'all', 'smart', 'real', 'up', 'UP_KEY', \
                 'completed', 200, 100, 10, 7, '{currency}', 1, 1, 2, 2, 5, 9, {}, {}, 11, 22, 1, 33, 'resp_{number}')",
                1_700_000_000_000 + nth,
                cost(nth),
                u64::from(state != "exact"),
            ));
        }
    }
    // A row without a price, and an open row.
    for (id, state, cost) in [("a", "exact", "NULL"), ("b", "open", "NULL")] {
        all.push(format!(
            "{common} ('{id:0<32}', 1700000000999, '{state}', 'here', 'team-b', NULL, 'smart', 'real', 'up', 'UP_KEY', NULL, NULL, \
             3, NULL, 4, NULL, NULL, NULL, NULL, NULL, NULL, NULL, {cost}, 0, 11, 22, 1, 33, NULL)"
        ));
    }
    if schemas >= KEYS {
        all.push(
            "INSERT INTO client_keys (name, prefix, sha256, previous_sha256, previous_until_ms, disabled, created_ms, settings) \
             VALUES ('team-a', 'tg-abcdef', 'aa', 'bb', 1700000000000, 1, 1600000000000, \
             '{\"models\":[\"smart\"],\"rpm\":60,\"budgets\":[\"5CNY/month\"],\"on_client_gone\":\"drain\"}')"
                .to_owned(),
        );
        all.push("UPDATE revisions SET number = 7 WHERE name = 'client_keys'".to_owned());
        all.push(
            "INSERT INTO audit (id, time_ms, actor, action, key_name, before, after) \
             VALUES ('1', 1600000000000, 'ann', 'create', 'team-a', NULL, 'cc')"
                .to_owned(),
        );
    }
    if schemas >= PENDING {
        all.push(format!(
            "{common} ('{:0<32}', 1700000000999, 'pending', 'here', 'team-c', NULL, 'smart', 'real', 'up', 'UP_KEY', 'completed', \
             200, NULL, NULL, NULL, 'CNY', 1000000, 1000000, 2000000, 2000000, 5, 9, 9, 1, 11, 22, 1, 33, 'resp_late')",
            "c"
        ));
        all.push("UPDATE ledger SET awaits = 1 WHERE response_id = 'resp_late'".to_owned());
        // A call showed the usage, and the process was killed before it settled the row.
        all.push(
            "INSERT INTO shown (response_id, upstream, input_tokens, cached_tokens, output_tokens) \
             VALUES ('resp_late', 'up', 100, 0, 50)"
                .to_owned(),
        );
    }
    all
}

/// Creates a database of either kind, and inserts the rows.
macro_rules! fill {
    ($connection:expr, $schemas:expr, $of_postgres:expr) => {{
        let mut connection = $connection;
        made_by($schemas, $of_postgres).run_direct(None, &mut connection, false).await.unwrap();
        for statement in rows($schemas) {
            sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
        }
        connection.close().await.unwrap();
    }};
}

/// Checks that all rows are there, and that the database works.
async fn check(place: &DatabaseLocation, schemas: usize) {
    let what = format!("schema {schemas} of {place}");
    let mut database = Database::open(place).await.unwrap();
    let one: u64 = (0..EACH).map(cost).sum();
    let spent = database.spent(Spender::Key, "team-a", 0, u64::MAX).await.unwrap();
    assert_eq!(spent, [one, one], "{what}");
    assert_eq!(database.spent(Spender::Key, "team-b", 0, u64::MAX).await.unwrap(), [one, 0], "{what}");
    assert_eq!(database.spent(Spender::Group, "all", 0, u64::MAX).await.unwrap(), [2 * one, one], "{what}");
    // The pending row as well.
    let pending = u64::from(schemas >= PENDING);
    let by_key = database.usage(GroupBy::Key, 0, u64::MAX).await.unwrap();
    let found: Vec<_> = by_key.iter().map(|all| (all.name.as_deref().unwrap(), all.requests, all.cost)).collect();
    let mut expected = vec![("team-a", 2 * EACH, [one, one]), ("team-b", EACH + 1, [one, 0])];
    expected.extend((pending > 0).then_some(("team-c", 1, [9, 0])));
    assert_eq!(found, expected, "{what}");
    let team_a = &by_key[0];
    let tokens = [team_a.input, team_a.cached, team_a.output];
    assert_eq!(tokens, [100, 10, 7].map(|each| each * 2 * EACH), "{what}");
    assert_eq!([team_a.exact, team_a.partial, team_a.unknown, team_a.interrupted], [26, 26, 24, 24], "{what}");
    assert_eq!(by_key[1].unpriced, 1, "{what}");
    let by_endpoint = database.usage(GroupBy::Endpoint, 0, u64::MAX).await.unwrap();
    let names: Vec<_> = by_endpoint.iter().map(|all| (all.name.as_deref(), all.requests)).collect();
    assert_eq!(names, [(Some("responses.create"), 3 * EACH + 1 + pending)], "{what}");
    // All rows except the open one stay unchanged.
    let page = database.page(0, u64::MAX, None).await.unwrap();
    assert_eq!(page.len() as u64, 3 * EACH + 1 + pending, "{what}");
    let text = |text: &str| Cell::Text(text.to_owned());
    let second = page.iter().find(|row| *row.cell("id") == text(&format!("{:032x}", EACH + 1))).unwrap();
    for (name, cell) in [
        ("state", text("partial")),
        ("key", text("team-a")),
        ("currency", text("USD")),
        ("cost", Cell::Amount(cost(1))),
        ("input_tokens", Cell::Count(100)),
        ("estimated", Cell::Flag(true)),
        ("response_id", text(&format!("resp_{}", EACH + 1))),
        ("time", Cell::Time(1_700_000_000_001)),
        // Columns that the older schema did not have.
        ("endpoint", Cell::None),
        ("service_tier", Cell::None),
        ("cny_per_usd", Cell::None),
    ] {
        assert_eq!(*second.cell(name), cell, "{name}, {what}");
    }

    // The open row becomes what the journal says, or interrupted.
    assert_eq!(database.interrupt("here", u64::MAX).await.unwrap(), 1, "{what}");
    let settled = database.settle_all().await.unwrap();
    let settled: Vec<_> = settled.iter().map(|one| (one.key.as_deref(), one.state, one.cost)).collect();
    // 100 tokens at 1, 50 at 2, and 5 for the call: nano-units, of prices for a million tokens.
    let late = (Some("team-c"), UsageState::Exact, 100 + 50 * 2 + 5);
    assert_eq!(settled, if pending > 0 { vec![late] } else { vec![] }, "{what}");
    keys(&mut database, schemas, &what).await;
    database.close().await;
}

async fn keys(database: &mut Database, schemas: usize, what: &str) {
    let (revision, keys) = database.stored_keys().await.unwrap();
    if schemas < KEYS {
        assert_eq!((revision, keys), (Revision::default(), vec![]), "{what}");
        return;
    }
    let settings = KeySettings {
        models: Some(vec!["smart".into()]),
        rpm: Some(60),
        budgets: vec!["5CNY/month".into()],
        on_client_gone: Some("drain".into()),
        ..KeySettings::default()
    };
    let mut key = StoredKey {
        name: "team-a".into(),
        prefix: "tg-abcdef".into(),
        sha256: "aa".into(),
        previous: Some(RotatedSecret { sha256: "bb".into(), until_ms: 1_700_000_000_000 }),
        disabled: true,
        created_ms: 1_600_000_000_000,
        settings,
    };
    assert_eq!((revision.number, &*revision.token), (7, ""), "{what}");
    assert_eq!(keys, std::slice::from_ref(&key), "{what}");
    assert_eq!(database.audit("team-a").await.unwrap().len(), 1, "{what}");
    // A setting that its release did not have.
    key.settings.require_usage = true;
    let author = ChangeAuthor { id: "2", name: "bob", time_ms: 1_700_000_000_000 };
    database.change_key(&revision, KeyChange::Replace(&key, "update"), author).await.unwrap();
    let (revision, keys) = database.stored_keys().await.unwrap();
    assert_eq!((revision.number, &*revision.token, keys), (8, "2", vec![key.clone()]), "{what}");
    assert_eq!(json!(key.settings)["require_usage"], true, "{what}");
}

#[tokio::test]
async fn rows_and_keys_of_every_older_schema_survive_with_the_same_sums() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start().await;
    for schemas in 1..=SCHEMAS.len() {
        let file = folder.path().join(format!("{schemas}-{FILE}"));
        let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
        fill!(SqliteConnection::connect_with(&options).await.unwrap(), schemas, false);
        Box::pin(check(&DatabaseLocation::Sqlite(file), schemas)).await;

        let mut admin = postgres.connect().await.unwrap();
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE of_{schemas}"))).execute(&mut admin).await.unwrap();
        admin.close().await.unwrap();
        let url = postgres.url().trim_end_matches("postgres").to_owned() + &format!("of_{schemas}");
        fill!(PgConnection::connect(&url).await.unwrap(), schemas, true);
        Box::pin(check(&DatabaseLocation::Postgres { url: url.as_str().into(), password: None }, schemas)).await;
        let mut database = PgConnection::connect(&url).await.unwrap();
        let made: i64 =
            sqlx::query("SELECT count(*) FROM _sqlx_migrations").fetch_one(&mut database).await.unwrap().get(0);
        assert_eq!(made, i64::try_from(SCHEMAS.len()).unwrap(), "a schema that was added belongs into this test");
        database.close().await.unwrap();
    }
}
