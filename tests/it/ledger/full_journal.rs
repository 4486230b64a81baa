//! The database is unavailable for so long that the journal is full.

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

use super::{command_with_secrets, comparison::rows_of, kills::settings, load::body};
use crate::support::{
    client::Client,
    database::until,
    process::Process,
    upstream::{RESPONSE, Upstream, json},
};

/// This number of rows of finished requests, in records of the greatest length.
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

/// Starts a gateway with a full journal and without its database: every request is refused. After the database returns,
/// it gets the waiting rows, and requests are served. `fill` writes the journal file that an earlier process left.
async fn assert_refused_until_the_database_returns(fill: impl FnOnce(&Path, &[u8]), waited: usize) {
    let folder = TempDir::new().unwrap();
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    settings(folder.path(), 1, &upstream.base_url(), &upstream.base_url());
    let data = folder.path().join("data");
    fs::create_dir_all(data.join("journal")).unwrap();
    fill(&data.join("journal/000000000001.journal"), &records(200));
    // A folder in place of the database file cannot be opened.
    fs::create_dir(data.join(FILE)).unwrap();
    let mut process = Process::start(&mut command_with_secrets(folder.path(), &["serve"]));
    let ready = process.logged("ready");
    assert_eq!(ready["journal_mib"], MOST >> 20, "the log shows the limit of the journal");
    let address = ready["listen"].as_str().unwrap().parse().unwrap();
    let refused = Client::connect(address).await.create(body("smart", 1)).await;
    refused.assert_problem(503, "ledger_unavailable");
    assert_eq!(upstream.untaken(), 0, "a request went up");
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
async fn a_full_journal_refuses_requests_until_the_database_returns() {
    // The file has nothing but a hole behind the rows: the gateway reads the rows and quarantines the file.
    let fill = |path: &Path, records: &[u8]| {
        fs::write(path, records).unwrap();
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(MOST).unwrap();
    };
    assert_refused_until_the_database_returns(fill, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "reads 256 MiB"]
async fn a_full_journal_of_rows_alone_is_read_to_its_end() {
    let fill = |path: &Path, records: &[u8]| {
        fs::write(path, records.repeat(MOST as usize / records.len() + 1)).unwrap();
    };
    assert_refused_until_the_database_returns(fill, 200).await;
}
