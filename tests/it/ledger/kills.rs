//! A gateway is killed under load many times, together with other faults. Then its ledger is compared with the requests
//! of its upstreams and the answers of its clients.

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
    command_with_secrets,
    comparison::{Observed, PRICES, compare, rows, spent},
    load::{Clients, Seen, upstream},
};
use crate::support::{process::Process, say, soon};

/// Rows of answers that were complete this long before a kill are in the ledger. The promise is 10 ms, and the machine
/// may be busy.
const CERTAIN_AFTER: Duration = Duration::from_millis(100);

/// The fault that happens in addition to the kills.
pub(super) trait ExtraFault {
    /// The name for the printed figures.
    fn name(&self) -> &'static str;

    /// The database of the rows; by default SQLite in the data folder.
    fn place(&self, data: &Path) -> DatabaseLocation {
        DatabaseLocation::Sqlite(data.join(FILE))
    }

    /// The command that starts a gateway.
    fn command(&self, folder: &Path) -> Command {
        command_with_secrets(folder, &["serve"])
    }

    /// Runs first, before the data folder exists.
    async fn prepare(&mut self, _data: &Path) {}

    /// A gateway was started, and may not be ready yet.
    fn started(&mut self, _process: &Process) {}

    /// The events of a round, until the gateway is killed.
    async fn round(&mut self, _number: u32, _process: &mut Process, _clients: &Clients, random: &RandomSource) {
        some_time(random).await;
    }

    /// With a kill at this moment, settlements that are older than [`CERTAIN_AFTER`] at the returned moment are in the
    /// journal.
    fn settled_until(&self, killed: Instant) -> Instant {
        killed
    }

    /// Whether the ledger may cause refusals, and whether the record of a refused request may stay.
    fn refusals(&self) -> (bool, bool) {
        (false, false)
    }

    /// Runs before the last gateway starts, which is not killed.
    fn last(&mut self) {}

    /// The events of the last gateway. After them, everything works.
    async fn last_round(&mut self, _process: &Process, _dice: &RandomSource) {}
}

/// Waits for a random time, not for an event.
pub(super) async fn some_time(random: &RandomSource) {
    tokio::time::sleep(Duration::from_secs_f64(0.05 + random.draw())).await;
}

/// Two upstreams, of which the model `pair` uses both; two keys with a group and with budgets that are never used up.
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

/// Kills a gateway under load this many times, and compares its ledger with the upstreams' requests and the clients'
/// answers. Then the gateway reads all journals again, which must change nothing.
pub(super) async fn kill_and_compare(times: u32, trouble: impl ExtraFault) {
    let folder = TempDir::new().unwrap();
    // The mounted disk is dropped before its folder.
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
    // Answers that were complete so shortly before a kill that their rows may be missing.
    let mut young = Vec::new();
    let copies = folder.path().join("copies");
    fs::create_dir(&copies).unwrap();
    for time in 0..times {
        if random.draw() < 0.2 {
            // Some gateways are killed while they start, or while they read the earlier journal.
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
                age if age > CERTAIN_AFTER => drop(sure.insert(number)),
                age => young.push((number, age)),
            }
        }
        refused.extend(answers.refused);
        for path in journal(&data) {
            // A number behind all others, so that the gateway reads this file again at the end.
            fs::copy(&path, copies.join(format!("9{time:02}{}", path.file_name().unwrap().to_str().unwrap()))).unwrap();
        }
    }
    // The last gateway is not killed. It reads none of its own journal again, and its counters are compared as well.
    trouble.last();
    let mut process = Process::start(&mut trouble.command(folder.path()));
    trouble.started(&process);
    let address = process.ready();
    tokio::join!(clients.call_some(address, 300), trouble.last_round(&process, &random));
    // All faults are over.
    clients.call_some(address, 64).await;
    shut_down(process, &data);
    let answers = clients.take();
    assert!(answers.wrong.is_empty() && answers.broken.is_empty(), "{answers:?}");
    assert!(trouble.refusals().0 || answers.refused.is_empty(), "refused: {:?}", answers.refused);
    sure.extend(answers.whole.into_keys());
    refused.extend(answers.refused);
    let place = trouble.place(&data);
    let found = rows(&place).await;
    let heard = Observed { seen: seen.all(), sure, refused, refused_may_stay: trouble.refusals().1 };
    let figures = compare(&found, &heard);
    let sums = compare_sums(&place, &data, &found).await;
    let interrupted: BTreeSet<_> =
        found.iter().filter(|row| row.state == "interrupted").map(super::comparison::Row::number).collect();
    let lost = young.iter().filter(|(number, _)| interrupted.contains(number)).map(|(_, age)| *age);
    let lost = format!(
        "of {} answers that were complete in the last {CERTAIN_AFTER:?} before a kill, {} are interrupted; the oldest was complete {:?} before",
        young.len(),
        lost.clone().count(),
        lost.max().unwrap_or_default(),
    );
    let line = format!("{}: {times} kills, {figures}; {lost}; {sums}", trouble.name());
    // Tests with many kills are run for their figures.
    if times >= 20 {
        say(&line)
    } else {
        eprintln!("{line}")
    }
    // Reads all journals again.
    for file in fs::read_dir(&copies).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), data.join("journal").join(file.file_name())).unwrap();
    }
    let mut process = Process::start(&mut trouble.command(folder.path()));
    process.ready();
    shut_down(process, &data);
    assert_eq!(rows(&place).await, found, "a second replay changed something");
    compare_sums(&place, &data, &found).await;
}

/// Shuts a gateway down gracefully.
fn shut_down(mut process: Process, data: &Path) {
    process.signal("INT");
    assert_eq!(process.exit(), Some(0));
    assert_eq!(journal(data), Vec::<PathBuf>::new(), "a part of the journal is left");
}

/// The part of the snapshot of the counters that the test reads.
#[derive(Deserialize)]
struct CounterSnapshot {
    name: String,
    spent: u64,
}

/// Compares the spend of the rows with the database's sums and with the gateway's counters.
pub(super) async fn compare_sums(place: &DatabaseLocation, data: &Path, found: &[super::comparison::Row]) -> String {
    let counted: Vec<CounterSnapshot> = serde_json::from_slice(&fs::read(data.join("budgets.json")).unwrap()).unwrap();
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

struct NoExtraFault;

impl ExtraFault for NoExtraFault {
    fn name(&self) -> &'static str {
        "kills alone"
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_one_row_after_five_kills() {
    kill_and_compare(5, NoExtraFault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute"]
async fn every_request_has_one_row_after_twenty_kills() {
    kill_and_compare(20, NoExtraFault).await;
}
