//! A database that is away for so long that the journal is full.

use std::{fs, path::Path, time::Duration};

use tempfile::TempDir;
use tidegate::{
    domain::{
        id::RequestId,
        ledger::{Row, UsageState},
        outcome::Outcome,
    },
    store::{
        journal::{MOST, encode},
        sql::FILE,
    },
};

use super::{kills::settings, load::body, truth::rows_of, with};
use crate::support::{
    client::Client,
    database::until,
    process::Process,
    upstream::{RESPONSE, Upstream, json},
};

/// So many rows that are over, in records as large as they get.
fn records(count: u8) -> Vec<u8> {
    let text = "x".repeat(1024);
    let mut bytes = Vec::new();
    for number in 0..count {
        let outcome = Outcome::new(RequestId::from_bytes([number; 16]));
        let some = Some(&*text);
        let names = Row { key: some, group: some, model: some, upstream_model: some, ..Row::open(&outcome, some) };
        encode(
            &Row { state: UsageState::Exact, attempts: 1, bytes_up: 100, end: Some("completed"), ..names },
            &mut bytes,
        );
    }
    bytes
}

/// With a journal that is full, and no database: everything new is refused. Once it is back, the rows that waited are there
/// and requests are served. `fill` makes the file that a process before left.
async fn is_full_until_the_database_is_back(fill: impl FnOnce(&Path, &[u8]), waited: usize) {
    let folder = TempDir::new().unwrap();
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    settings(folder.path(), 1, &upstream.base_url(), &upstream.base_url());
    let data = folder.path().join("data");
    fs::create_dir_all(data.join("journal")).unwrap();
    fill(&data.join("journal/000000000001.journal"), &records(200));
    // What is no file cannot be opened as one.
    fs::create_dir(data.join(FILE)).unwrap();
    let mut process = Process::start(&mut with(folder.path(), &["serve"]));
    let ready = process.logged("ready");
    assert_eq!(ready["journal_mib"], MOST >> 20, "the bound is printed");
    let address = ready["listen"].as_str().unwrap().parse().unwrap();
    let refused = Client::connect(address).await.create(body("smart", 1)).await;
    refused.assert_problem(503, "ledger_unavailable");
    assert_eq!(upstream.untaken(), 0, "something went up");
    process.logged("the journal cannot be written");
    process.logged("the ledger database cannot be written");
    let mut admin = Client::connect(process.admin()).await;
    let faults = admin.get("/readyz").await.json()["ledger"]["faults"].to_string();
    assert!(faults.contains("journal_full") && faults.contains("database"), "{faults}");

    fs::remove_dir(data.join(FILE)).unwrap();
    until("a request to be served", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Client::connect(address).await.create(body("smart", 2)).await.status == 200
    })
    .await;
    let faults = admin.get("/readyz").await.json()["ledger"]["faults"].take();
    assert_eq!(faults, serde_json::json!([]));
    process.signal("INT");
    assert_eq!(process.exit(), Some(0));
    let rows = rows_of(&data).await;
    let served = rows.iter().filter(|row| row.key_name.as_deref() == Some("a")).count();
    assert_eq!((served, rows.len() - served), (1, waited));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_journal_refuses_requests_until_the_database_is_back() {
    // Nothing but a hole stands behind the rows: such a file is read as far as it can be, and put aside.
    let fill = |path: &Path, records: &[u8]| {
        fs::write(path, records).unwrap();
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(MOST).unwrap();
    };
    is_full_until_the_database_is_back(fill, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "reads 256 MiB"]
async fn a_full_journal_of_nothing_but_rows_is_read_to_its_end() {
    let fill = |path: &Path, records: &[u8]| {
        fs::write(path, records.repeat(MOST as usize / records.len() + 1)).unwrap();
    };
    is_full_until_the_database_is_back(fill, 200).await;
}
