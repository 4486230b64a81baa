//! Rows whose values a database refuses, over SQLite and PostgreSQL.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sqlx::{Connection, PgConnection, SqliteConnection};
use tempfile::TempDir;
use tidegate::{
    concurrent::ledger_status::LedgerStatus,
    domain::{
        clock::Clock,
        id::RequestId,
        ledger::{Row, UsageState},
        outcome::Outcome,
    },
    metering::{FeedTarget, FeedThreads, polling},
    metrics::Metrics,
    store::{
        journal::{Journal, JournalWriter, SystemDisk, encode},
        sql::{Cell, Database, DatabaseLocation, FILE, columns},
    },
};

use crate::support::database::Postgres;

/// Unique indexes on the values that the tests call bad: the database refuses a second row with such a value.
const RULES: [&str; 2] = [
    "CREATE UNIQUE INDEX one_bad_model ON ledger (model) WHERE model = 'bad'",
    "CREATE UNIQUE INDEX one_bad_time ON ledger (took_ms) WHERE took_ms = 666",
];

async fn execute(place: &DatabaseLocation, statements: &[&'static str]) {
    for statement in statements {
        match place {
            DatabaseLocation::Sqlite(path) => {
                let mut connection = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
                sqlx::query(*statement).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
            DatabaseLocation::Postgres { url, .. } => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                sqlx::query(*statement).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
        }
    }
}

fn row(outcome: &Outcome, number: u8) -> Row<'_> {
    let (model, took_ms) = match number % 100 {
        40 | 41 => ("bad", 1),
        60 | 61 => ("smart", 666),
        _ => ("smart", 1),
    };
    Row {
        id: RequestId::from_bytes([number; 16]),
        state: UsageState::Exact,
        model: Some(model),
        upstream_model: Some("real"),
        response_id: Some("resp_1"),
        key: Some("team"),
        attempts: 1,
        took_ms,
        ..Row::open(outcome, Some("up"))
    }
}

/// A gateway's work with these records, from its start to its shutdown.
fn feed(folder: &Path, place: &DatabaseLocation, records: &[u8]) -> Arc<LedgerStatus> {
    let condition = Arc::new(LedgerStatus::default());
    let (journal, found) = Journal::open(folder.join("journal"), 1, Arc::clone(&condition), &SystemDisk).unwrap();
    let (spending, clock, copy) = (Arc::default(), Clock::system(), folder.join("budgets.json"));
    let (polls, unpriced) = (polling(Duration::from_secs(5)).0, Metrics::default().unpriced);
    let into =
        FeedTarget { place: place.clone(), origin: "here".into(), spending, clock, copy, polls, keep: None, unpriced };
    let feeding = FeedThreads::start(into, Arc::clone(&journal), found, Arc::clone(&condition)).unwrap();
    if !records.is_empty() {
        JournalWriter::new(journal).write(records).unwrap();
    }
    feeding.end();
    condition
}

/// The record of a row as an earlier version wrote it, with a NUL in its text.
fn with_nul(row: &Row<'_>) -> Vec<u8> {
    const HEADER: usize = 8;
    let mut record = Vec::new();
    encode(row, &mut record);
    let at = record.windows(5).position(|text| text == b"smart").unwrap();
    record[at + 2] = 0;
    let sum = crc32fast::hash(&record[HEADER..]).to_le_bytes();
    record[4..HEADER].copy_from_slice(&sum);
    record
}

/// All rows, by the names of their columns.
async fn rows(place: &DatabaseLocation) -> Vec<BTreeMap<&'static str, Cell>> {
    let mut database = Database::open_to_read(place).await.unwrap();
    let page = database.page(0, u64::MAX, None).await.unwrap();
    database.close().await;
    page.into_iter().map(|row| columns().zip(row.cells).collect()).collect()
}

fn text(text: &str) -> Cell {
    Cell::Text(text.to_owned())
}

fn files(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder.join("journal")).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_journal_with_a_nul_in_a_text_is_read() {
    let folder = TempDir::new().unwrap();
    let postgres = Postgres::start().await;
    let outcome = Outcome::new(RequestId::from_bytes([0; 16]));
    for (nth, place) in [DatabaseLocation::Sqlite(folder.path().join(FILE)), postgres.place()].into_iter().enumerate() {
        let data = folder.path().join(nth.to_string());
        fs::create_dir_all(data.join("journal")).unwrap();
        fs::write(data.join("journal/000000000001.journal"), with_nul(&row(&outcome, 1))).unwrap();
        feed(&data, &place, &[]);
        let models: Vec<_> = rows(&place).await.iter().map(|row| row["model"].clone()).collect();
        assert_eq!((models, files(&data)), (vec![text("sm?rt")], vec![]), "{place}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_row_does_not_block_other_rows() {
    let folder = TempDir::new().unwrap();
    let postgres = Postgres::start().await;
    let outcome = Outcome::new(RequestId::from_bytes([0; 16]));
    for (nth, place) in [DatabaseLocation::Sqlite(folder.path().join(FILE)), postgres.place()].into_iter().enumerate() {
        let data = folder.path().join(nth.to_string());
        Database::open(&place).await.unwrap().close().await;
        execute(&place, &RULES).await;
        let mut records = Vec::new();
        (1..=100).for_each(|number| encode(&row(&outcome, number), &mut records));
        let condition = feed(&data, &place, &records);
        let aside = condition.quarantined_rows.load(Ordering::Relaxed);
        assert_eq!((aside, condition.waiting(), files(&data)), (1, 0, vec!["refused.rows".to_owned()]), "{place}");
        assert!(condition.faults().any(|fault| fault == ("rows", true)), "{place}");
        let stored = rows(&place).await;
        // A row whose free text the database refuses is stored without its texts. A row whose number it refuses is set
        // aside.
        assert_eq!(stored.len(), 99, "{place}");
        let without: Vec<_> = stored.iter().filter(|row| row["model"] == Cell::None).collect();
        assert_eq!(without.len(), 1, "{place}");
        let kept = ["state", "key", "upstream", "upstream_model", "response_id"].map(|name| without[0][name].clone());
        assert_eq!(kept, [text("exact"), text("team"), text("up"), Cell::None, Cell::None], "{place}");
        // After the rule is removed, an operator can store the row that was set aside.
        execute(&place, &["DROP INDEX one_bad_time"]).await;
        fs::rename(data.join("journal/refused.rows"), data.join("journal/000000000000.journal")).unwrap();
        feed(&data, &place, &[]);
        assert_eq!((rows(&place).await.len(), files(&data)), (100, vec![]), "{place}");
    }
}
