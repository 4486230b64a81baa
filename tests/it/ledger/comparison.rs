//! The rows of the database, compared with the upstreams' requests and the clients' answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::Deserialize;
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection, sqlite::SqliteConnectOptions};
use tidegate::store::sql::DatabaseLocation;

use super::load::{Kind, LENGTH, key, kind, tokens};

/// The fields of a row that the tests compare.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Row {
    pub(super) id: String,
    pub(super) state: String,
    pub(super) end_reason: Option<String>,
    pub(super) upstream: Option<String>,
    pub(super) bytes_up: i64,
    pub(super) attempts: i64,
    pub(super) input_tokens: Option<i64>,
    pub(super) cached_tokens: Option<i64>,
    pub(super) output_tokens: Option<i64>,
    pub(super) reasoning_tokens: Option<i64>,
    pub(super) key_name: Option<String>,
    pub(super) group_name: Option<String>,
    pub(super) response_id: Option<String>,
    pub(super) currency: Option<String>,
    pub(super) reserved_cost: Option<i64>,
    pub(super) cost: Option<i64>,
    pub(super) estimated: i64,
}

/// The columns of these fields.
const COLUMNS: [&str; 17] = [
    "id",
    "state",
    "end_reason",
    "upstream",
    "bytes_up",
    "attempts",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "reasoning_tokens",
    "key_name",
    "group_name",
    "response_id",
    "currency",
    "reserved_cost",
    "cost",
    "estimated",
];

impl Row {
    /// The number of the row's request.
    pub(super) fn number(&self) -> usize {
        usize::try_from(self.bytes_up).unwrap() - LENGTH
    }

    fn tokens(&self) -> [Option<i64>; 4] {
        [self.input_tokens, self.cached_tokens, self.output_tokens, self.reasoning_tokens]
    }
}

/// All rows as the database has them, without Tidegate's own queries.
pub(super) async fn rows(place: &DatabaseLocation) -> Vec<Row> {
    let fields: Vec<_> = COLUMNS.iter().map(|name| format!("'{name}', {name}")).collect();
    let query = |object: &str| {
        AssertSqlSafe(format!("SELECT CAST({object}({}) AS TEXT) FROM ledger ORDER BY id", fields.join(", ")))
    };
    let texts: Vec<String> = match place {
        DatabaseLocation::Sqlite(path) => {
            let options = SqliteConnectOptions::new().filename(path).read_only(true);
            let mut database = SqliteConnection::connect_with(&options).await.unwrap();
            sqlx::query_scalar(query("json_object")).fetch_all(&mut database).await.unwrap()
        }
        DatabaseLocation::Postgres { url, .. } => {
            let mut database = PgConnection::connect(url).await.unwrap();
            sqlx::query_scalar(query("json_build_object")).fetch_all(&mut database).await.unwrap()
        }
    };
    texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

/// The rows of SQLite in this data folder.
pub(super) async fn rows_of(data: &Path) -> Vec<Row> {
    rows(&DatabaseLocation::Sqlite(data.join(tidegate::store::sql::FILE))).await
}

/// Nano-units in a CNY.
const UNIT: i128 = 1_000_000_000;

/// The prices of the upstreams, in hundredths of a CNY: for a million tokens of input, cached input, output and
/// reasoning, and for a call.
pub(super) const PRICES: [(&str, [i128; 5]); 2] = [("one", [100, 50, 200, 300, 1]), ("two", [700, 100, 1500, 2000, 2])];

/// The price of the request with this number, in nano-units.
fn price(upstream: &str, number: usize) -> i128 {
    let [input, cached, output, reasoning] = tokens(number).map(i128::from);
    let (_, hundredths) = PRICES.iter().find(|(name, _)| *name == upstream).unwrap();
    let [of_input, of_cached, of_output, of_reasoning, call] = hundredths.map(|price| price * UNIT / 100);
    let millionths =
        (input - cached) * of_input + cached * of_cached + (output - reasoning) * of_output + reasoning * of_reasoning;
    (millionths + 500_000) / 1_000_000 + call
}

/// The observations that the rows are compared with.
pub(super) struct Observed {
    /// The upstreams' log.
    pub(super) seen: Vec<(&'static str, usize)>,
    /// Requests whose row has to be exact, because their answers were complete long before a kill.
    pub(super) sure: BTreeSet<usize>,
    /// Requests that were refused because of the ledger.
    pub(super) refused: BTreeSet<usize>,
    /// Whether a refused request may have a row because the disk did not let the gateway remove its record.
    pub(super) refused_may_stay: bool,
}

/// Compares the rows, and returns the figures in one line.
pub(super) fn compare(found: &[Row], heard: &Observed) -> String {
    let mut by_number = BTreeMap::new();
    for row in found {
        assert!(by_number.insert(row.number(), row).is_none(), "two rows of request {}: {row:?}", row.number());
        check(row, heard);
    }
    let seen: BTreeSet<usize> = heard.seen.iter().map(|(_, number)| *number).collect();
    let missing: Vec<_> = seen.iter().filter(|number| !by_number.contains_key(number)).collect();
    assert!(missing.is_empty(), "without a row: {missing:?}");
    for number in &heard.sure {
        let row = by_number.get(number).unwrap_or_else(|| panic!("{number} was served and has no row"));
        assert_eq!(row.state, "exact", "{row:?}");
    }
    let sent: Vec<_> = seen.intersection(&heard.refused).collect();
    assert!(sent.is_empty(), "refused and sent up: {sent:?}");
    let kept: Vec<_> = heard.refused.iter().filter_map(|number| by_number.get(number)).collect();
    let allowed = |row: &&Row| heard.refused_may_stay && row.state == "interrupted" && row.attempts == 0;
    assert!(kept.iter().all(|row| allowed(row)), "refused and put down: {kept:?}");
    let count = |state: &str| found.iter().filter(|row| row.state == state).count();
    let [exact, partial, unknown, interrupted] = ["exact", "partial", "unknown", "interrupted"].map(count);
    assert!(!heard.sure.is_empty() && exact > 0 && partial > 0 && interrupted > 0, "the load was not mixed");
    format!(
        "{} requests reached an upstream, {} rows: {exact} exact, {partial} partial, {unknown} unknown, {interrupted} \
         interrupted; {} refused, {} of them put down; {} surely exact",
        seen.len(),
        found.len(),
        heard.refused.len(),
        kept.len(),
        heard.sure.len(),
    )
}

/// Checks that a row is possible by itself.
fn check(row: &Row, heard: &Observed) {
    let number = row.number();
    assert_eq!((row.key_name.as_deref(), row.group_name.as_deref()), (Some(key(number)), Some("team")), "{row:?}");
    assert_eq!(row.currency.as_deref(), Some("CNY"), "{row:?}");
    let told = tokens(number).map(Some);
    let asked = heard.seen.iter().filter(|(_, seen)| *seen == number).count();
    match (&*row.state, row.end_reason.as_deref()) {
        ("exact", Some("completed")) => {
            assert_eq!(row.tokens(), told, "{row:?}");
            assert_eq!(row.response_id.as_deref(), Some(&*format!("resp_{number}")), "{row:?}");
            assert!(!matches!(kind(number), Kind::Leaves | Kind::Hangs), "{row:?}");
            let upstream = if kind(number) == Kind::Failover { "two" } else { "one" };
            assert_eq!(row.upstream.as_deref(), Some(upstream), "{row:?}");
            assert!(asked >= 1 && asked as i64 <= row.attempts, "{row:?}, asked {asked} times");
            let cost = row.cost.map(i128::from);
            assert_eq!((cost, row.estimated), (Some(price(upstream, number)), 0), "{row:?}");
        }
        ("partial" | "unknown", Some("client_gone")) => {
            assert!(matches!(kind(number), Kind::Leaves | Kind::Flees), "{row:?}");
            // The usage is known if the answer was complete although the client had gone.
            let whole = kind(number) == Kind::Flees && row.tokens() == told;
            assert!(whole || row.tokens() == [None; 4], "{row:?}");
            assert!(row.attempts > 0, "the request never went up: {row:?}");
            assert!(row.reserved_cost > Some(0) && row.cost >= row.reserved_cost && row.estimated == 1, "{row:?}");
        }
        ("interrupted", None) => {
            assert_eq!(row.tokens(), [None; 4], "{row:?}");
            assert!(row.reserved_cost > Some(0) && row.cost == row.reserved_cost && row.estimated == 1, "{row:?}");
        }
        _ => panic!("{number}: {row:?}"),
    }
    // A row without a request at an upstream comes from a kill, or from a client that left during the connect.
    let given_up = row.end_reason.as_deref() == Some("client_gone") && row.attempts > 0;
    assert!(asked > 0 || row.state == "interrupted" || given_up, "no upstream got it: {row:?}");
}

/// The spend of a key, or of all keys, by the rows.
pub(super) fn spent(found: &[Row], key: Option<&str>) -> u64 {
    let of_it = found.iter().filter(|row| key.is_none() || row.key_name.as_deref() == key);
    of_it.map(|row| u64::try_from(row.cost.unwrap()).unwrap()).sum()
}
