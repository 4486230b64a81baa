//! What answers cost: each dialect, shape and ending, compared with what the provider told and what passed.
//!
//! `cargo test --test it charges:: -- --nocapture` prints the table.

mod answers;
mod require_usage;
mod underpayment;

use std::path::Path;

use sqlx::{Connection, Row as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tidegate::{
    config::ModelPrice,
    domain::{
        money::{Currency, UNIT},
        price::Price,
    },
    store::sql::FILE,
};

pub(crate) use self::answers::encode;
use self::answers::{BilledTokens, Case, ClientLeaves, all};
use crate::support::{
    database::until,
    gateway::{Gateway, KEY, config},
    upstream::Upstream,
};

/// 1, 0.1 and 4 CNY for a million tokens of input, cached input and output.
fn price() -> Price {
    let (input, cached, output) = (UNIT, UNIT / 10, 4 * UNIT);
    Price { input, cached, output, reasoning: output, ..Price::free(Currency::Cny) }
}

/// What the provider bills, in nano-units.
fn true_cost(truth: BilledTokens) -> u64 {
    let BilledTokens { input, cached, output } = truth;
    ((input - cached) * UNIT + cached * UNIT / 10 + output * 4 * UNIT) / 1_000_000
}

/// One row of the ledger.
#[derive(Clone, Debug, Default)]
struct Charged {
    state: String,
    end: String,
    told: [Option<i64>; 3],
    cost: u64,
}

async fn rows(folder: &Path) -> Vec<Charged> {
    let options = SqliteConnectOptions::new().filename(folder.join(FILE)).read_only(true);
    let Ok(mut database) = SqliteConnection::connect_with(&options).await else { return Vec::new() };
    let query = "SELECT state, end_reason, input_tokens, cached_tokens, output_tokens, cost FROM ledger \
                 WHERE state <> 'open' ORDER BY id";
    let rows = sqlx::query(query).fetch_all(&mut database).await.unwrap_or_default();
    rows.iter()
        .map(|row| Charged {
            state: row.get(0),
            end: row.get::<Option<String>, _>(1).unwrap_or_default(),
            told: [row.get(2), row.get(3), row.get(4)],
            cost: u64::try_from(row.get::<Option<i64>, _>(5).unwrap_or_default()).unwrap(),
        })
        .collect()
}

async fn gateway_before(upstream: &Upstream) -> Gateway {
    let mut config = config(&upstream.base_url());
    config.prices = vec![ModelPrice { upstream: 0, model: "real".into(), from: 0, price: price().into() }];
    config.retries.max_attempts = 1;
    Gateway::start(config)
}

/// Sends the request of the case, and leaves when the case says so.
async fn ask(gateway: &Gateway, case: &Case) {
    let mut client = gateway.connect().await;
    let (path, body) = (case.path, case.request());
    client
        .send(format!(
            "POST {path} HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
    match case.leave {
        ClientLeaves::Never => {
            client.answer().await;
        }
        ClientLeaves::AfterBytes(wanted) => {
            client.head().await;
            let mut read = 0;
            while read < wanted {
                read += client.chunk().await.unwrap().len();
            }
        }
    }
}

/// The ledger row of the case.
async fn charge(case: &Case) -> Charged {
    let steps = std::sync::Mutex::new(Some(case.steps().await));
    let upstream = Upstream::scripted(move |_| steps.lock().unwrap().take().unwrap_or_default()).await;
    let gateway = gateway_before(&upstream).await;
    ask(&gateway, case).await;
    until(case.name, async || rows(gateway.folder.path()).await.len() == 1).await;
    rows(gateway.folder.path()).await.remove(0)
}

/// Other tests compare the bytes of answers (`recorded_ids`, `streams`). This test compares their cost.
#[tokio::test]
async fn each_answer_is_charged_as_its_case_says() {
    let mut faults = Vec::new();
    eprintln!(
        "{:<58} {:<9} {:<16} {:>22} {:>12} {:>12} {:>7}",
        "answer", "state", "end", "told in/cached/out", "true", "charged", "ratio"
    );
    for case in all() {
        let row = charge(&case).await;
        let truth = true_cost(case.truth);
        let told: Vec<String> = row.told.iter().map(|told| told.map_or("-".into(), |told| told.to_string())).collect();
        let ratio = if truth == 0 { row.cost as f64 } else { row.cost as f64 / truth as f64 };
        eprintln!(
            "{:<58} {:<9} {:<16} {:>22} {:>12} {:>12} {:>7.2}",
            case.name,
            row.state,
            row.end,
            told.join("/"),
            truth,
            row.cost,
            ratio
        );
        let is_right = match case.state {
            "exact" => row.cost == truth,
            _ => (0.7..1.5).contains(&ratio),
        };
        if !is_right || row.state != case.state || row.end != case.end {
            faults.push(format!("{}: {row:?}, expected {} {} {truth}", case.name, case.state, case.end));
        }
    }
    assert!(all().len() >= 60);
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), all().len(), faults.join("\n"));
}
