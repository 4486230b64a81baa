//! Kills of the gateway, while PostgreSQL becomes unavailable, also during a start of the gateway.

use std::{fs, path::Path, sync::Arc};

use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tidegate::{
    concurrent::random_source::RandomSource,
    domain::{
        id::RequestId,
        ledger::{Row, UsageState},
        money::Currency,
        outcome::Outcome,
        price::Price,
    },
    store::sql::{Database, DatabaseLocation},
};

use super::{
    command_with_secrets,
    comparison::rows,
    kills::{ExtraFault, append, compare_sums, kill_and_compare, settings, some_time},
    load::{Clients, Seen, answer, upstream},
};
use crate::support::{
    database::{Postgres, until},
    process::Process,
};

/// The way in which PostgreSQL becomes unavailable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outage {
    Stopped,
    Killed,
    /// PostgreSQL hangs: connections stay open, and no query is answered.
    Paused,
    /// Other clients take all connections.
    Exhausted,
}

struct PostgresOutage {
    postgres: Postgres,
    how: Outage,
    is_away: bool,
    /// The connections of the other clients.
    taken: Vec<PgConnection>,
    /// The number of rounds that began without PostgreSQL.
    began_without: u32,
}

/// The gateway's role: no superuser, because PostgreSQL reserves some connections for superusers.
const USER: &str = "gateway@";

impl PostgresOutage {
    async fn new(how: Outage) -> Self {
        let postgres = Postgres::start().await;
        postgres.execute("CREATE ROLE gateway LOGIN").await;
        postgres.execute("GRANT ALL ON SCHEMA public TO gateway").await;
        Self { postgres, how, is_away: false, taken: Vec::new(), began_without: 0 }
    }

    fn url(&self) -> String {
        self.postgres.url().replace("tidegate@", USER)
    }

    async fn begin(&mut self) {
        match self.how {
            Outage::Stopped => self.postgres.stop(),
            Outage::Killed => self.postgres.kill(),
            Outage::Paused => self.postgres.pause(),
            Outage::Exhausted => self.exhaust().await,
        }
        self.is_away = true;
    }

    async fn exhaust(&mut self) {
        const OURS: &str = "FROM pg_stat_activity WHERE application_name = 'tidegate'";
        let mut operator = self.postgres.connect().await.unwrap();
        loop {
            while let Ok(connection) = PgConnection::connect(&self.url()).await {
                self.taken.push(connection);
            }
            let ended = format!("SELECT count(pg_terminate_backend(pid)) {OURS}");
            let ended: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(ended)).fetch_one(&mut operator).await.unwrap();
            if ended == 0 {
                break;
            }
        }
        assert!(self.taken.len() > 5, "{} connections", self.taken.len());
    }

    async fn end(&mut self) {
        match self.how {
            Outage::Stopped | Outage::Killed => self.postgres.run().await,
            Outage::Paused => self.postgres.go_on(),
            Outage::Exhausted => {
                for connection in self.taken.drain(..) {
                    connection.close().await.unwrap();
                }
            }
        }
        self.is_away = false;
    }
}

impl ExtraFault for PostgresOutage {
    fn name(&self) -> &'static str {
        match self.how {
            Outage::Stopped => "PostgreSQL stopped",
            Outage::Killed => "PostgreSQL killed",
            Outage::Paused => "PostgreSQL paused",
            Outage::Exhausted => "PostgreSQL without connections",
        }
    }

    fn place(&self, _data: &Path) -> DatabaseLocation {
        DatabaseLocation::Postgres { url: self.url().into(), password: None }
    }

    async fn round(&mut self, number: u32, process: &mut Process, _clients: &Clients, random: &RandomSource) {
        some_time(random).await;
        if self.is_away {
            self.began_without += 1;
            if number == 1 || random.draw() < 0.6 {
                self.end().await;
                some_time(random).await;
            }
        } else {
            self.begin().await;
            if self.how != Outage::Paused {
                // The gateway needs 5 s to find that PostgreSQL hangs.
                process.logged("the ledger database cannot be written");
            }
            some_time(random).await;
            if number > 1 && random.draw() < 0.4 {
                self.end().await;
            }
        }
    }

    async fn last_round(&mut self, _process: &Process, random: &RandomSource) {
        assert!(self.began_without > 0);
        if !self.is_away {
            some_time(random).await;
            self.begin().await;
        }
        some_time(random).await;
        self.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_one_row_after_two_kills_and_a_stop_of_postgresql() {
    kill_and_compare(2, PostgresOutage::new(Outage::Stopped).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_one_row_after_two_kills_and_a_kill_of_postgresql() {
    kill_and_compare(2, PostgresOutage::new(Outage::Killed).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_one_row_after_two_kills_and_a_pause_of_postgresql() {
    kill_and_compare(2, PostgresOutage::new(Outage::Paused).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_one_row_after_two_kills_and_without_connections_to_postgresql() {
    kill_and_compare(2, PostgresOutage::new(Outage::Exhausted).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute"]
async fn every_request_has_one_row_after_twenty_kills_and_stops_of_postgresql() {
    kill_and_compare(20, PostgresOutage::new(Outage::Stopped).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute"]
async fn every_request_has_one_row_after_twenty_kills_and_kills_of_postgresql() {
    kill_and_compare(20, PostgresOutage::new(Outage::Killed).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes two minutes"]
async fn every_request_has_one_row_after_twenty_kills_and_pauses_of_postgresql() {
    kill_and_compare(20, PostgresOutage::new(Outage::Paused).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute"]
async fn every_request_has_one_row_after_twenty_kills_and_without_connections_to_postgresql() {
    kill_and_compare(20, PostgresOutage::new(Outage::Exhausted).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lost_its_data_folder_continues_with_the_rows_of_the_database() {
    let (folder, postgres, seen) = (TempDir::new().unwrap(), Postgres::start().await, Arc::<Seen>::default());
    let (one, two) = (upstream(&seen, "one").await, upstream(&seen, "two").await);
    settings(folder.path(), 1, &one.base_url(), &two.base_url());
    append(folder.path(), &format!("[store]\nurl = \"{}\"\n", postgres.url()));
    let data = folder.path().join("data");
    let count = async || if seen.all().is_empty() { 0 } else { rows(&postgres.place()).await.len() };

    let mut process = Process::start(&mut command_with_secrets(folder.path(), &["serve"]));
    let address = process.ready();
    for number in 0..6 {
        assert!(answer(address, number).await.is_some_and(|text| text.starts_with("HTTP/1.1 200")));
    }
    until("six rows", async || count().await == 6).await;
    process.signal("KILL");
    process.exit();
    fs::remove_dir_all(&data).unwrap();
    // A row of a lost data folder that was open when the folder was lost: no process is left that could settle it.
    let mut outcome = Outcome::new(RequestId::from_bytes([0; 16]));
    outcome.bytes_up = 100;
    outcome.price = Some(Price { per_call: 7, ..Price::free(Currency::Cny) }.into());
    let open = Row { key: Some("a"), group: Some("team"), reserved_cost: Some(7), ..Row::open(&outcome, Some("one")) };
    let mut database = Database::open(&postgres.place()).await.unwrap();
    assert_eq!(database.store("lost", &[open]).await.unwrap(), [(UsageState::Open, 1)]);

    let mut process = Process::start(&mut command_with_secrets(folder.path(), &["serve"]));
    let address = process.ready();
    for number in 6..9 {
        assert!(answer(address, number).await.is_some_and(|text| text.starts_with("HTTP/1.1 200")));
    }
    process.signal("INT");
    assert_eq!(process.exit(), Some(0));
    let found = rows(&postgres.place()).await;
    let states: Vec<_> = found.iter().map(|row| (row.number(), &*row.state)).collect();
    let mut expected = vec![(0, "interrupted")];
    expected.extend((0..9).map(|number| (number, "exact")));
    assert_eq!(states, expected);
    compare_sums(&postgres.place(), &data, &found).await;
}
