//! Kills, and a PostgreSQL that is away in the middle, also while the gateway starts.

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
    kills::{Trouble, append, compare_sums, kill_and_compare, settings, some_time},
    load::{Clients, Seen, answer, upstream},
    truth::rows,
    with,
};
use crate::support::{
    database::{Postgres, until},
    process::Process,
};

/// How it is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Stopped,
    Killed,
    /// It stands still: connections stay, and nothing answers.
    Paused,
    /// Others have all of its connections.
    Exhausted,
}

struct Away {
    postgres: Postgres,
    how: How,
    is_away: bool,
    /// Connections of others.
    taken: Vec<PgConnection>,
    /// Rounds that began without it.
    began_without: u32,
}

/// What a gateway connects as: no superuser, for whom some connections are kept.
const USER: &str = "gateway@";

impl Away {
    async fn new(how: How) -> Self {
        let postgres = Postgres::start().await;
        postgres.execute("CREATE ROLE gateway LOGIN").await;
        postgres.execute("GRANT ALL ON SCHEMA public TO gateway").await;
        Self { postgres, how, is_away: false, taken: Vec::new(), began_without: 0 }
    }

    fn url(&self) -> String {
        self.postgres.url().replace("tidegate@", USER)
    }

    async fn goes(&mut self) {
        match self.how {
            How::Stopped => self.postgres.stop(),
            How::Killed => self.postgres.kill(),
            How::Paused => self.postgres.pause(),
            How::Exhausted => self.exhaust().await,
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

    async fn returns(&mut self) {
        match self.how {
            How::Stopped | How::Killed => self.postgres.run().await,
            How::Paused => self.postgres.go_on(),
            How::Exhausted => {
                for connection in self.taken.drain(..) {
                    connection.close().await.unwrap();
                }
            }
        }
        self.is_away = false;
    }
}

impl Trouble for Away {
    fn name(&self) -> &'static str {
        match self.how {
            How::Stopped => "PostgreSQL stopped",
            How::Killed => "PostgreSQL killed",
            How::Paused => "PostgreSQL paused",
            How::Exhausted => "PostgreSQL without connections",
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
                self.returns().await;
                some_time(random).await;
            }
        } else {
            self.goes().await;
            if self.how != How::Paused {
                // One that stands still is found out after 5 s.
                process.logged("the ledger database cannot be written");
            }
            some_time(random).await;
            if number > 1 && random.draw() < 0.4 {
                self.returns().await;
            }
        }
    }

    async fn last_round(&mut self, _process: &Process, random: &RandomSource) {
        assert!(self.began_without > 0);
        if !self.is_away {
            some_time(random).await;
            self.goes().await;
        }
        some_time(random).await;
        self.returns().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_one_row_after_two_kills_and_a_stop_of_postgresql() {
    kill_and_compare(2, Away::new(How::Stopped).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_one_row_after_two_kills_and_one_of_postgresql() {
    kill_and_compare(2, Away::new(How::Killed).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_one_row_after_two_kills_and_a_pause_of_postgresql() {
    kill_and_compare(2, Away::new(How::Paused).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_one_row_after_two_kills_and_without_connections_to_postgresql() {
    kill_and_compare(2, Away::new(How::Exhausted).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute"]
async fn every_request_has_one_row_after_twenty_kills_and_stops_of_postgresql() {
    kill_and_compare(20, Away::new(How::Stopped).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute"]
async fn every_request_has_one_row_after_twenty_kills_and_those_of_postgresql() {
    kill_and_compare(20, Away::new(How::Killed).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes two minutes"]
async fn every_request_has_one_row_after_twenty_kills_and_pauses_of_postgresql() {
    kill_and_compare(20, Away::new(How::Paused).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute"]
async fn every_request_has_one_row_after_twenty_kills_and_without_connections_to_postgresql() {
    kill_and_compare(20, Away::new(How::Exhausted).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_data_folder_is_lost_goes_on_with_what_the_database_knows() {
    let (folder, postgres, seen) = (TempDir::new().unwrap(), Postgres::start().await, Arc::<Seen>::default());
    let (one, two) = (upstream(&seen, "one").await, upstream(&seen, "two").await);
    settings(folder.path(), 1, &one.base_url(), &two.base_url());
    append(folder.path(), &format!("[store]\nurl = \"{}\"\n", postgres.url()));
    let data = folder.path().join("data");
    let count = async || if seen.all().is_empty() { 0 } else { rows(&postgres.place()).await.len() };

    let mut process = Process::start(&mut with(folder.path(), &["serve"]));
    let address = process.ready();
    for number in 0..6 {
        assert!(answer(address, number).await.is_some_and(|text| text.starts_with("HTTP/1.1 200")));
    }
    until("six rows", async || count().await == 6).await;
    process.signal("KILL");
    process.exit();
    fs::remove_dir_all(&data).unwrap();
    // It was under way there, and nobody is left to say what became of it.
    let mut outcome = Outcome::new(RequestId::from_bytes([0; 16]));
    outcome.bytes_up = 100;
    outcome.price = Some(Price { per_call: 7, ..Price::free(Currency::Cny) }.into());
    let open = Row { key: Some("a"), group: Some("team"), reserved_cost: Some(7), ..Row::open(&outcome, Some("one")) };
    let mut database = Database::open(&postgres.place()).await.unwrap();
    assert_eq!(database.store("lost", &[open]).await.unwrap(), [(UsageState::Open, 1)]);

    let mut process = Process::start(&mut with(folder.path(), &["serve"]));
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
