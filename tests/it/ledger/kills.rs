//! A gateway is killed under load, again and again, and with trouble of other kinds. Then its ledger is compared with what
//! its upstreams got and what its clients got.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use tempfile::TempDir;
use tidegate::{
    concurrent::random_source::RandomSource,
    domain::spending::Spender,
    store::sql::{Database, DatabaseLocation, FILE},
};
use tokio::time::Instant;

use super::{
    load::{Clients, Seen, upstream},
    truth::{Heard, PRICES, compare, rows, spent},
    with,
};
use crate::support::{process::Process, say, soon};

/// Answers that were whole this long before a kill are in the ledger: 10 ms are promised, and this machine may be busy.
const SURE: Duration = Duration::from_millis(100);

/// What happens beside the kills.
pub(super) trait Trouble {
    /// Of the test, for its figures.
    fn name(&self) -> &'static str;

    /// Where the rows are brought; by default to SQLite in the data folder.
    fn place(&self, data: &Path) -> DatabaseLocation {
        DatabaseLocation::Sqlite(data.join(FILE))
    }

    /// What starts a gateway.
    fn command(&self, folder: &Path) -> Command {
        with(folder, &["serve"])
    }

    /// Before anything else: the data folder is not there yet.
    async fn prepare(&mut self, _data: &Path) {}

    /// A gateway was started, and may not be ready yet.
    fn started(&mut self, _process: &Process) {}

    /// What happens in a round, until the gateway is killed.
    async fn round(&mut self, _number: u32, _process: &mut Process, _clients: &Clients, random: &RandomSource) {
        some_time(random).await;
    }

    /// Settlements that were made [`SURE`] before this moment are in the journal, with a kill at this one.
    fn settled_until(&self, killed: Instant) -> Instant {
        killed
    }

    /// Whether requests may be refused because of the ledger, and a record of such a one may stay.
    fn refusals(&self) -> (bool, bool) {
        (false, false)
    }

    /// Before the last gateway is started, which is not killed.
    fn last(&mut self) {}

    /// What happens to the last gateway. Everything is as it should be after it.
    async fn last_round(&mut self, _process: &Process, _dice: &RandomSource) {}
}

/// A moment at random: nothing is waited for.
pub(super) async fn some_time(random: &RandomSource) {
    tokio::time::sleep(Duration::from_secs_f64(0.05 + random.draw())).await;
}

/// Two upstreams, of which `pair` is asked of both; two keys with a group and budgets that are never spent.
pub(super) fn settings(folder: &Path, workers: usize, one: &str, two: &str) {
    let mut text = format!(
        r#"
[server]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
data_dir = "data"
workers = {workers}
[routing]
retry_percent = 100
# One that answers with 503 where the other one shall be asked is never passed by.
[health]
consecutive_faults = 1000
fault_percent = 100
[[models]]
name = "smart"
targets = [{{ upstream = "one", model = "real" }}]
[[models]]
name = "pair"
targets = [{{ upstream = "one", model = "real" }}, {{ upstream = "two", model = "real" }}]
[[groups]]
name = "team"
max_in_flight = 1000
budgets = ["1000000CNY/total"]
"#
    );
    for (name, secret) in [("a", "A_KEY"), ("b", "B_KEY")] {
        text += &format!(
            "[[keys]]\nname = \"{name}\"\ngroup = \"team\"\nsecret = {{ env = \"{secret}\" }}\nbudgets = [\"1000000CNY/total\"]\n"
        );
    }
    for ((name, hundredths), base_url) in PRICES.iter().zip([one, two]) {
        let [input, cached, output, reasoning, call] =
            hundredths.map(|price| format!("{}.{:02}", price / 100, price % 100));
        text += &format!(
            "[[upstreams]]\nname = \"{name}\"\nbase_url = \"{base_url}\"\ncredentials = [{{ env = \"UP_KEY\" }}]\n\
             [[prices]]\nupstream = \"{name}\"\nmodel = \"real\"\ncurrency = \"CNY\"\ninput = {input}\n\
             cached_input = {cached}\noutput = {output}\nreasoning = {reasoning}\nper_call = {call}\n"
        );
    }
    fs::write(folder.join("tidegate.toml"), text).unwrap();
}

pub(super) fn append(folder: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).open(folder.join("tidegate.toml")).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// The files of the journal.
fn journal(data: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(data.join("journal")).into_iter().flatten();
    files.map(|file| file.unwrap().path()).filter(|path| path.extension().unwrap() == "journal").collect()
}

/// Kills a gateway under load so many times and compares its ledger with what upstreams and clients got. Then reads all of
/// the journals again, which changes nothing.
pub(super) async fn kill_and_compare(times: u32, trouble: impl Trouble) {
    let folder = TempDir::new().unwrap();
    // What it has in the folder goes first.
    let mut trouble = trouble;
    let data = folder.path().join("data");
    let seen = Arc::<Seen>::default();
    let (one, two) = (upstream(&seen, "one").await, upstream(&seen, "two").await);
    settings(folder.path(), 2, &one.base_url(), &two.base_url());
    trouble.prepare(&data).await;
    if let DatabaseLocation::Postgres { url, .. } = trouble.place(&data) {
        append(folder.path(), &format!("[store]\nurl = \"{url}\"\n"));
    }
    let (clients, random) = (Arc::<Clients>::default(), RandomSource::seeded(times.into()));
    let (mut sure, mut refused) = (BTreeSet::new(), BTreeSet::new());
    // Answers that were whole so long before a kill that they may be in the ledger or not.
    let mut young = Vec::new();
    let copies = folder.path().join("copies");
    fs::create_dir(&copies).unwrap();
    for time in 0..times {
        if random.draw() < 0.2 {
            // Killed while it starts, or reads what the one before left.
            let mut process = Process::start(&mut trouble.command(folder.path()));
            trouble.started(&process);
            tokio::time::sleep(Duration::from_secs_f64(random.draw() * 0.3)).await;
            process.signal("KILL");
            process.exit();
        }
        let mut process = Process::start(&mut trouble.command(folder.path()));
        trouble.started(&process);
        let address = process.ready();
        let calling = tokio::spawn(Arc::clone(&clients).call(address));
        trouble.round(time, &mut process, &clients, &random).await;
        let killed = Instant::now();
        process.signal("KILL");
        process.exit();
        soon("the clients to notice", calling).await.unwrap();
        let answers = clients.take();
        assert_eq!(answers.wrong, Vec::<String>::new());
        let early: Vec<_> = answers.broken.iter().filter(|(_, at)| *at < killed).collect();
        assert!(early.is_empty(), "broken before the gateway was killed: {early:?}");
        assert!(trouble.refusals().0 || answers.refused.is_empty(), "refused: {:?}", answers.refused);
        let settled = trouble.settled_until(killed);
        for (number, at) in answers.whole {
            match settled.saturating_duration_since(at) {
                age if age > SURE => drop(sure.insert(number)),
                age => young.push((number, age)),
            }
        }
        refused.extend(answers.refused);
        for path in journal(&data) {
            // Behind all of its own, so that it is read once more after everything.
            fs::copy(&path, copies.join(format!("9{time:02}{}", path.file_name().unwrap().to_str().unwrap()))).unwrap();
        }
    }
    // One that is not killed: nothing of its journal is read a second time, and what it counts by itself is compared as well.
    trouble.last();
    let mut process = Process::start(&mut trouble.command(folder.path()));
    trouble.started(&process);
    let address = process.ready();
    tokio::join!(clients.call_some(address, 300), trouble.last_round(&process, &random));
    // With everything as it should be.
    clients.call_some(address, 64).await;
    ends(process, &data);
    let answers = clients.take();
    assert!(answers.wrong.is_empty() && answers.broken.is_empty(), "{answers:?}");
    assert!(trouble.refusals().0 || answers.refused.is_empty(), "refused: {:?}", answers.refused);
    sure.extend(answers.whole.into_keys());
    refused.extend(answers.refused);
    let place = trouble.place(&data);
    let found = rows(&place).await;
    let heard = Heard { seen: seen.all(), sure, refused, refused_may_stay: trouble.refusals().1 };
    let figures = compare(&found, &heard);
    let sums = compare_sums(&place, &data, &found).await;
    let interrupted: BTreeSet<_> =
        found.iter().filter(|row| row.state == "interrupted").map(super::truth::Row::number).collect();
    let lost = young.iter().filter(|(number, _)| interrupted.contains(number)).map(|(_, age)| *age);
    let lost = format!(
        "of {} answers that were whole in the last {SURE:?} before a kill {} are interrupted, the oldest was whole {:?} before",
        young.len(),
        lost.clone().count(),
        lost.max().unwrap_or_default(),
    );
    let line = format!("{}: {times} kills, {figures}; {lost}; {sums}", trouble.name());
    // The tests of many kills are run for their figures.
    if times >= 20 {
        say(&line)
    } else {
        eprintln!("{line}")
    }
    // All of it again.
    for file in fs::read_dir(&copies).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), data.join("journal").join(file.file_name())).unwrap();
    }
    let mut process = Process::start(&mut trouble.command(folder.path()));
    process.ready();
    ends(process, &data);
    assert_eq!(rows(&place).await, found, "a second replay changed something");
    compare_sums(&place, &data, &found).await;
}

/// Ends a gateway in order.
fn ends(mut process: Process, data: &Path) {
    process.signal("INT");
    assert_eq!(process.exit(), Some(0));
    assert_eq!(journal(data), Vec::<PathBuf>::new(), "something of the journal is left");
}

/// Of the file in which a gateway keeps what was spent.
#[derive(Deserialize)]
struct Counted {
    name: String,
    spent: u64,
}

/// What was spent is the sum of the rows: as the database is asked for it, and as the gateway counts it.
pub(super) async fn compare_sums(place: &DatabaseLocation, data: &Path, found: &[super::truth::Row]) -> String {
    let counted: Vec<Counted> = serde_json::from_slice(&fs::read(data.join("budgets.json")).unwrap()).unwrap();
    let mut database = Database::open_to_read(place).await.unwrap();
    for (spender, name, key) in
        [(Spender::Key, "a", Some("a")), (Spender::Key, "b", Some("b")), (Spender::Group, "team", None)]
    {
        let sum = spent(found, key);
        assert!(sum > 0);
        assert_eq!(database.spent(spender, name, 0, u64::MAX).await.unwrap(), [sum, 0], "{name}");
        let counters: Vec<_> = counted.iter().filter(|one| one.name == name).map(|one| one.spent).collect();
        assert_eq!(counters, [sum], "what is counted of {name} is not what its rows say");
    }
    format!("{} nano-CNY spent", spent(found, None))
}

struct Nothing;

impl Trouble for Nothing {
    fn name(&self) -> &'static str {
        "kills alone"
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_one_row_after_five_kills() {
    kill_and_compare(5, Nothing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute"]
async fn every_request_has_one_row_after_twenty_kills() {
    kill_and_compare(20, Nothing).await;
}
