//! The latency that the ledger adds to a request, and that a slow database adds none: the same requests, in turns, at
//! gateways that differ in nothing else. The test prints figures, and checks answers and rows.

use std::{fs::File, io, net::SocketAddr, path::Path, time::Duration};

use tidegate::{
    config::{Config, Store},
    store::{
        journal::{Disk, SystemDisk},
        sql::{Database, DatabaseLocation, FILE, GroupBy},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::support::{
    client::Client,
    database::{Postgres, until},
    gateway::{Gateway, config},
    upstream::{RESPONSE, Upstream, json},
};

const BODY: &str = r#"{"model":"smart","input":"hi"}"#;

/// The delay of every answer of the slow database.
const DELAY: Duration = Duration::from_millis(500);

/// The number of concurrent requests at each gateway, and the number of rounds.
const LOADS: [(usize, usize); 2] = [(1, 4000), (16, 400)];

/// Rounds before the measurement, which open connections and fill caches.
const WARM_UP: usize = 100;

/// A disk that writes nothing: the ledger does everything but write, sync and feed its database.
#[derive(Debug)]
struct NullDisk;

impl Disk for NullDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        SystemDisk.create(path)
    }

    fn append(&self, _: &File, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn cut(&self, _: &File, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self, _: &File) -> io::Result<()> {
        Ok(())
    }
}

/// A proxy to `server` that delays each of its answers.
async fn slow_proxy_to(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(server).await else { return };
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            tokio::spawn(pass(from_client, to_server, Duration::ZERO));
            tokio::spawn(pass(from_server, to_client, DELAY));
        }
    });
    address
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (late, mut due) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((at, bytes)) = due.recv().await {
            sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if late.send((Instant::now() + delay, buffer[..length].to_vec())).is_err() {
            return;
        }
    }
}

/// One gateway of the comparison, with the durations of its requests.
struct Arm {
    name: &'static str,
    gateway: Gateway,
    place: DatabaseLocation,
    clients: Vec<Client>,
    took: Vec<Duration>,
}

impl Arm {
    fn new(name: &'static str, disk: &'static dyn Disk, config: Config, place: Option<DatabaseLocation>) -> Self {
        let gateway = Gateway::start_on(disk, config);
        let place = place.unwrap_or_else(|| DatabaseLocation::Sqlite(gateway.folder.path().join(FILE)));
        Self { name, gateway, place, clients: Vec::new(), took: Vec::new() }
    }

    async fn round(&mut self, at_once: usize) -> Vec<Duration> {
        while self.clients.len() < at_once {
            self.clients.push(self.gateway.connect().await);
        }
        let asking = self.clients.drain(..).map(|mut client| {
            tokio::spawn(async move {
                let began = Instant::now();
                let answer = client.create(BODY).await;
                let took = began.elapsed();
                assert_eq!(answer.status, 200, "{}", answer.text());
                (client, took)
            })
        });
        let mut took = Vec::with_capacity(at_once);
        for asked in asking.collect::<Vec<_>>() {
            let (client, time) = asked.await.unwrap();
            self.clients.push(client);
            took.push(time);
        }
        took
    }

    /// The number of rows in its database.
    async fn rows(&self) -> u64 {
        let Ok(mut database) = Database::open_to_read(&self.place).await else { return 0 };
        let totals = database.usage(GroupBy::Key, 0, u64::MAX).await.unwrap_or_default();
        totals.iter().map(|total| total.exact).sum()
    }
}

fn quantiles(mut all: Vec<f64>) -> (f64, f64) {
    all.sort_by(f64::total_cmp);
    let at = |part: f64| all[((all.len() - 1) as f64 * part).round() as usize];
    (at(0.5), at(0.99))
}

fn micros(took: &Duration) -> f64 {
    took.as_secs_f64() * 1e6
}

fn print(at_once: usize, arms: &[Arm]) {
    eprintln!("{at_once} at once, µs                     p50      p99   more than without: p50      p99");
    for arm in arms {
        let (p50, p99) = quantiles(arm.took.iter().map(micros).collect());
        let pairs = arm.took.iter().zip(&arms[0].took).map(|(one, other)| micros(one) - micros(other));
        let (more50, more99) = quantiles(pairs.collect());
        eprintln!("  {:<32} {p50:>8.0} {p99:>8.0} {more50:>24.0} {more99:>8.0}", arm.name);
    }
}

#[tokio::test]
#[ignore = "half a minute; for the figures"]
async fn latency_of_the_ledger_and_of_a_slow_database() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let postgres = Postgres::start().await;
    postgres.execute("CREATE DATABASE slow").await;
    let url = |address: &str, database: &str| -> String { format!("postgres://tidegate@{address}/{database}") };
    let direct = postgres.url().rsplit_once('@').unwrap().1.split_once('/').unwrap().0.to_owned();
    let slow = slow_proxy_to(direct.parse().unwrap()).await.to_string();
    // The tables exist already: creating them takes many answers of a slow database.
    let place = |database: &str| DatabaseLocation::Postgres { url: url(&direct, database).into(), password: None };
    Database::open(&place("slow")).await.unwrap().close().await;

    let plain = || config(&upstream.base_url());
    let on = |address: &str, database: &str| Config {
        store: Store::Postgres { url: url(address, database).into(), password: None },
        ..plain()
    };
    let mut arms = [
        Arm::new("nothing written", &NullDisk, plain(), None),
        Arm::new("SQLite", &SystemDisk, plain(), None),
        Arm::new("PostgreSQL", &SystemDisk, on(&direct, "postgres"), Some(place("postgres"))),
        Arm::new("PostgreSQL, 500 ms late", &SystemDisk, on(&slow, "slow"), Some(place("slow"))),
    ];
    let mut asked = 0;
    for (at_once, rounds) in LOADS {
        for round in 0..WARM_UP + rounds {
            // The order changes, so that no gateway is always the first after a pause or always after the same other
            // one.
            let count = arms.len();
            for turn in 0..count {
                let nth = if (round / count).is_multiple_of(2) {
                    (turn + round) % count
                } else {
                    (2 * count - turn + round) % count
                };
                let took = arms[nth].round(at_once).await;
                if round >= WARM_UP {
                    arms[nth].took.extend(took);
                }
            }
            asked += at_once as u64;
        }
        print(at_once, &arms);
        for arm in &mut arms {
            arm.took.clear();
        }
    }
    assert_eq!(arms[0].rows().await, 0, "a row that was never written reached the database");
    for arm in &arms[1..] {
        until(arm.name, async || arm.rows().await == asked).await;
    }
    eprintln!("{asked} requests each, and as many exact rows in each database");
}
