//! Failovers of PostgreSQL: a standby is promoted, and the gateway follows with all that it keeps there.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use sqlx::{PgConnection, Row as _};
use tempfile::TempDir;
use tidegate::{
    domain::key::{KeySettings, StoredKey},
    store::sql::{ChangeAuthor, Database, DatabaseLocation, FILE, KeyChange, Revision},
};
use tokio::time::Instant;

use crate::support::{
    client::Client,
    database::{MovableAddress, Postgres, other_pooler, until},
    process::{Process, output_text, run, tidegate},
    redis::free_port,
    upstream::{RESPONSE, Upstream, json},
};

/// The promise is 2 s, and the machine may be busy with other tests. The gateway gives a hanging server up after 5 s.
const FOLLOWED: Duration = Duration::from_secs(12);

fn folder(upstream: &Upstream, url: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    let text = format!(
        r#"
[server]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
data_dir = "data"
workers = 1
[store]
url = "{url}"
[[upstreams]]
name = "one"
base_url = "{}"
credentials = [{{ env = "UP_KEY" }}]
[[models]]
name = "smart"
targets = [{{ upstream = "one" }}]
"#,
        upstream.base_url()
    );
    fs::write(folder.path().join("tidegate.toml"), text).unwrap();
    folder
}

fn serve(folder: &Path) -> Process {
    let mut command = tidegate(folder);
    Process::start(command.args(["serve", "--config", "tidegate.toml"]).env("UP_KEY", "sk-upstream-secret"))
}

fn keys(folder: &Path, arguments: &[&str]) -> String {
    let mut command = tidegate(folder);
    let output = run(command.args(["--config", "tidegate.toml", "keys"]).args(arguments));
    assert!(output.status.success(), "{}", output_text(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

async fn ask(address: SocketAddr, key: &str) -> u16 {
    let mut client = Client::connect(address).await;
    let head = format!("POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {key}\r\n");
    client.send(format!("{head}content-length: 17\r\n\r\n{{\"model\":\"smart\"}}")).await;
    client.answer().await.status
}

async fn status_becomes(address: SocketAddr, key: &str, status: u16) -> Duration {
    let began = Instant::now();
    until(&format!("status {status}"), async || ask(address, key).await == status).await;
    began.elapsed()
}

async fn number(mut connection: PgConnection, query: &'static str) -> i64 {
    sqlx::query(query).fetch_one(&mut connection).await.unwrap().get(0)
}

/// The number of keys on a server.
const KEYS: &str = "SELECT count(*) FROM client_keys";

/// The fate of the old primary.
#[derive(Clone, Copy, Debug, PartialEq)]
enum OldPrimary {
    /// The cluster's manager fenced it: it answers, and refuses writes.
    ReadOnly,
    /// It still accepts writes, and only the connection that writes the ledger broke.
    Writable,
    /// The network is cut: it does not answer.
    Silent,
    Killed,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_disabled_after_a_failover_is_refused_whatever_the_old_primary_does() {
    for old in [OldPrimary::ReadOnly, OldPrimary::Writable, OldPrimary::Silent, OldPrimary::Killed] {
        let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
        let mut primary = Postgres::start().await;
        let moving = MovableAddress::to(primary.address()).await;
        let folder = folder(&upstream, &moving.url());
        let folder = folder.path();
        let key = keys(folder, &["create", "--name", "a"]);
        let standby = primary.standby().await;
        let mut gateway = serve(folder);
        let address = gateway.ready();
        assert_eq!(ask(address, &key).await, 200);
        until("the key reader", async || number(primary.connect().await.unwrap(), READER).await == 1).await;

        match old {
            OldPrimary::ReadOnly => {
                primary.execute("ALTER SYSTEM SET default_transaction_read_only = on").await;
                primary.execute("SELECT pg_reload_conf()").await;
            }
            OldPrimary::Writable => {}
            OldPrimary::Silent => primary.pause(),
            OldPrimary::Killed => primary.kill(),
        }
        standby.promote().await;
        moving.point_to(standby.address());
        if old == OldPrimary::Writable {
            let ended = number(primary.connect().await.unwrap(), END_OTHERS).await;
            assert!(ended > 0, "the connection of the ledger is there");
        }
        keys(folder, &["disable", "a"]);
        let took = status_becomes(address, &key, 401).await;
        assert!(took < FOLLOWED, "{old:?}: {took:?}");
        println!("{old:?}: refused after {took:?}");
        if old == OldPrimary::Silent {
            primary.go_on();
        }
    }
}

/// Counts the connections that look for changes of keys.
const READER: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tidegate' AND query LIKE '%FROM revisions%'";

/// Ends all other connections of gateways.
const END_OTHERS: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'tidegate' \
     AND query NOT LIKE '%FROM revisions%'";

/// The standby did not get the last change of a key, and its own next change gets the same number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_to_a_standby_without_the_last_change_of_keys_is_noticed() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut primary = Postgres::start().await;
    let moving = MovableAddress::to(primary.address()).await;
    let folder = folder(&upstream, &moving.url());
    let folder = folder.path();
    let key = keys(folder, &["create", "--name", "a"]);
    let standby = primary.standby().await;
    standby.execute("ALTER SYSTEM SET primary_conninfo = ''").await;
    standby.execute("SELECT pg_reload_conf()").await;
    until("the standby to be alone", async || {
        number(standby.connect().await.unwrap(), "SELECT count(*) FROM pg_stat_wal_receiver").await == 0
    })
    .await;
    let mut gateway = serve(folder);
    let address = gateway.ready();
    let lost = keys(folder, &["create", "--name", "lost"]);
    status_becomes(address, &lost, 200).await;

    primary.kill();
    standby.promote().await;
    assert_eq!(number(standby.connect().await.unwrap(), KEYS).await, 1);
    moving.point_to(standby.address());
    keys(folder, &["disable", "a"]);
    let took = status_becomes(address, &key, 401).await;
    assert!(took < FOLLOWED, "{took:?}");
    status_becomes(address, &lost, 401).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_is_found_among_several_servers_of_the_url_before_and_after_a_failover() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut primary = Postgres::start().await;
    let standby = primary.standby().await;
    let gone = free_port();
    // An address without a server, the standby, the primary.
    let servers = format!("127.0.0.1:{gone},{},{}", standby.address(), primary.address());
    let folder = folder(&upstream, &format!("postgres://tidegate@{servers}/postgres"));
    let folder = folder.path();
    let key = keys(folder, &["create", "--name", "a"]);
    let mut gateway = serve(folder);
    let address = gateway.ready();
    assert_eq!(ask(address, &key).await, 200);
    until("the standby", async || number(standby.connect().await.unwrap(), KEYS).await == 1).await;
    primary.kill();
    standby.promote().await;
    keys(folder, &["disable", "a"]);
    let took = status_becomes(address, &key, 401).await;
    assert!(took < FOLLOWED, "{took:?}");
}

/// Each user of a database checks before each piece of work whether its connection is old. The test gives the time, so
/// that it does not wait five minutes.
#[tokio::test]
async fn a_connection_is_old_after_five_minutes_and_the_next_one_follows_the_address() {
    const OLD: Duration = Duration::from_secs(300);
    let (one, other) = (Postgres::start().await, Postgres::start().await);
    let moving = MovableAddress::to(one.address()).await;
    let place = DatabaseLocation::Postgres { url: moving.url().into(), password: None };
    let began = Instant::now();
    let mut database = Database::open(&place).await.unwrap();
    let opened = Instant::now();
    let key = StoredKey {
        name: "of-one".into(),
        prefix: "tg-".into(),
        sha256: "aa".into(),
        previous: None,
        disabled: false,
        created_ms: 1,
        settings: KeySettings::default(),
    };
    let author = ChangeAuthor { id: "1", name: "ann", time_ms: 1 };
    database.change_key(&Revision::default(), KeyChange::Create(&key), author).await.unwrap();
    // Both servers work, and no connection breaks: only its age shows that a connection may lead to the wrong server.
    moving.point_to(other.address());
    assert!(!database.is_old(began));
    assert!(!database.is_old(began + OLD - Duration::from_millis(1)));
    assert_eq!(database.stored_keys().await.unwrap().1.len(), 1);
    assert!(database.is_old(opened + OLD));
    let mut again = Database::reopen(&place).await.unwrap();
    assert_eq!(again.stored_keys().await.unwrap().1, [], "the connection must lead to the other server");
    assert!(!again.is_old(opened + OLD), "a new connection must not be old");
    // A file is always the same database.
    let folder = TempDir::new().unwrap();
    let file = Database::open(&DatabaseLocation::Sqlite(folder.path().join(FILE))).await.unwrap();
    assert!(!file.is_old(Instant::now() + 1000 * OLD));
}

/// Three gateways and the command line share two connections to the server, in which the statements of others remain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_in_transaction_mode_works() {
    const STARTUP: &str = "ignore_startup_parameters = extra_float_digits, options";
    let mut all = vec![String::new(), STARTUP.to_owned()];
    if other_pooler().is_some() {
        // From 1.21 on, PgBouncer can handle prepared statements.
        all.extend(["0", "1", "200"].map(|kept| format!("max_prepared_statements = {kept}")));
        all.push(format!("max_prepared_statements = 200\n{STARTUP}"));
    }
    for settings in &all {
        let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
        let postgres = Postgres::start().await;
        let pooler = postgres.pooler(settings).await;
        let folders: Vec<TempDir> = (0..3).map(|_| folder(&upstream, &pooler.url())).collect();
        let key = keys(folders[0].path(), &["create", "--name", "a"]);
        let mut gateways: Vec<Process> = folders.iter().map(|folder| serve(folder.path())).collect();
        let addresses: Vec<SocketAddr> = gateways.iter_mut().map(Process::ready).collect();
        for round in 0..20 {
            for address in &addresses {
                assert_eq!(ask(*address, &key).await, 200, "{settings}");
            }
            keys(folders[round % 3].path(), &["create", "--name", &format!("k{round}")]);
        }
        let rows = async || number(postgres.connect().await.unwrap(), "SELECT count(*) FROM ledger").await;
        until("a row of each request", async || rows().await == 60).await;
        keys(folders[1].path(), &["disable", "a"]);
        for address in &addresses {
            status_becomes(*address, &key, 401).await;
        }
        let fault = async |gateway: &Process| {
            let ready = Client::connect(gateway.admin()).await.get("/readyz").await;
            ready.json()["keys"]["store_fails"].as_bool().unwrap()
        };
        for gateway in &gateways {
            assert!(!fault(gateway).await, "{}", pooler.log());
        }
        // No prepared statement of Tidegate's remains on the server.
        assert_eq!(number(postgres.connect().await.unwrap(), KEYS).await, 21);
    }
}
