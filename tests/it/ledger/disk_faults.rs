//! Injected errors of writing and syncing at the journal's disk: in this process, and in a process that is killed.

use std::{
    collections::BTreeSet,
    env, fs, io,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tidegate::{
    app::{self, AlertTimes, StartContext, telemetry},
    concurrent::random_source::RandomSource,
    config::{self, Source},
    domain::{clock::Clock, random::RandomBytes},
    store::journal::{Disk, SystemDisk},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::Instant,
};

use super::{
    comparison::{Row, rows_of},
    kills::{ExtraFault, kill_and_compare, some_time},
    load::{Clients, Kind, OTHER_KEY, Seen, answer, kind, tokens, upstream, usage},
    set_secrets,
};
use crate::support::{
    gateway::{self, Gateway, config},
    process::Process,
    soon,
};

/// A disk that fails at random.
#[derive(Debug)]
struct FaultyDisk {
    random: RandomSource,
    /// The percentage of calls that fail.
    percent: AtomicUsize,
    faults: AtomicUsize,
}

impl FaultyDisk {
    fn fails(&self) -> io::Result<()> {
        if self.random.draw() * 100.0 > self.percent.load(Ordering::Relaxed) as f64 {
            return Ok(());
        }
        let faults = self.faults.fetch_add(1, Ordering::Relaxed);
        Err(if faults.is_multiple_of(2) { io::ErrorKind::StorageFull.into() } else { io::Error::other("EIO") })
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<fs::File> {
        self.fails()?;
        SystemDisk.create(path)
    }

    fn append(&self, file: &fs::File, records: &[u8]) -> io::Result<()> {
        if let Err(error) = self.fails() {
            // A failed write may leave any part of its bytes: none, some or all.
            let part = (self.random.draw() * (records.len() + 1) as f64) as usize;
            SystemDisk.append(file, &records[..part.min(records.len())])?;
            return Err(error);
        }
        SystemDisk.append(file, records)
    }

    fn cut(&self, file: &fs::File, length: u64) -> io::Result<()> {
        self.fails()?;
        SystemDisk.cut(file, length)
    }

    fn sync(&self, file: &fs::File) -> io::Result<()> {
        self.fails()?;
        SystemDisk.sync(file)
    }
}

#[tokio::test]
async fn a_disk_that_fails_at_random_loses_no_row_and_no_request_goes_up_without_a_row() {
    static DISK: FaultyDisk =
        FaultyDisk { random: RandomSource::seeded(4), percent: AtomicUsize::new(0), faults: AtomicUsize::new(0) };
    let seen = Arc::<Seen>::default();
    let (one, two) = (upstream(&seen, "one").await, upstream(&seen, "two").await);
    let mut config = config(&one.base_url());
    config.server.workers = 2;
    // Sometimes the first upstream gets only requests that it fails. It must not be ejected.
    config.health.consecutive_faults = 100_000;
    config.health.fault_percent = 100;
    config.retries.percent = 100;
    config.upstreams.push(gateway::upstream("two", &two.base_url()));
    config.keys.push(gateway::key("other", OTHER_KEY));
    config.models.push(gateway::model("pair", &[(0, Some("real")), (1, Some("real"))]));
    let mut gateway = Gateway::start_on(&DISK, config);
    let next = Arc::new(AtomicUsize::new(0));
    let (mut refused, mut served) = (BTreeSet::new(), BTreeSet::new());
    // After each time of faults, the disk works again, and so must the ledger.
    for percent in [30, 0, 60, 0, 100, 0] {
        DISK.percent.store(percent, Ordering::Relaxed);
        let until = next.load(Ordering::Relaxed) + 200;
        let mut clients = JoinSet::new();
        for _ in 0..8 {
            let (next, address) = (Arc::clone(&next), gateway.address);
            clients.spawn(async move {
                let mut answers = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= until {
                        return answers;
                    }
                    if kind(number) != Kind::Hangs {
                        answers.push((number, answer(address, number).await));
                    }
                }
            });
        }
        while let Some(answers) = soon("the clients", clients.join_next()).await {
            for (number, answer) in answers.unwrap() {
                match answer {
                    Some(text) if text.starts_with("HTTP/1.1 503") && text.contains("ledger_unavailable") => {
                        refused.insert(number);
                    }
                    Some(text) if text.starts_with("HTTP/1.1 200") && text.contains(&usage(number)) => {
                        assert!(percent < 100, "{number} was served without a row");
                        served.insert(number);
                    }
                    Some(text) => panic!("{number}: {text}"),
                    None => assert!(matches!(kind(number), Kind::Leaves | Kind::Flees), "{number} broke"),
                }
            }
        }
        if percent == 0 {
            gateway.metric_becomes("tidegate_ledger_fault{fault=\"journal\"}", 0.0).await;
            gateway.metric_becomes("tidegate_ledger_fault{fault=\"journal_sync\"}", 0.0).await;
        }
    }
    gateway.stop();
    gateway.ended().await;
    let seen = seen.numbers();
    assert_eq!(seen.intersection(&refused).next(), None, "a request went up without a row");
    let rows = rows_of(gateway.folder.path()).await;
    let numbers: BTreeSet<_> = rows.iter().map(Row::number).collect();
    assert_eq!(numbers.len(), rows.len(), "not one row each");
    assert_eq!(seen.difference(&numbers).next(), None, "without a row");
    for (number, row) in rows.iter().map(|row| (row.number(), row)) {
        assert!(row.attempts > 0 && (seen.contains(&number) || kind(number) == Kind::Flees), "never sent: {row:?}");
        match kind(number) {
            Kind::Leaves => assert_eq!((&*row.state, row.end_reason.as_deref()), ("partial", Some("client_gone"))),
            Kind::Flees => {}
            _ => {
                let told = (row.input_tokens, row.output_tokens);
                let [input, _, output, _] = tokens(number);
                assert_eq!((&*row.state, told), ("exact", (Some(input), Some(output))), "{row:?}");
            }
        }
    }
    let left = fs::read_dir(gateway.folder.path().join("journal")).unwrap().count();
    let faults = DISK.faults.load(Ordering::Relaxed);
    eprintln!("{faults} faults: {} refused, {} served, {} rows", refused.len(), served.len(), rows.len());
    assert!(faults > 100 && refused.len() > 100 && served.len() > 300, "the faults were not mixed");
    assert_eq!(left, 0, "the journal is left after a graceful shutdown");
}

/// Tells [`gateway_on_a_faulty_disk`] that another test runs it, and gives the seed.
const SEED: &str = "TEST_FAULTY_DISK";

/// Not a test of its own: another test runs and kills it as a process. The real binary has no disk that fails.
#[test]
fn gateway_on_a_faulty_disk() {
    static DISK: FaultyDisk =
        FaultyDisk { random: RandomSource::seeded(5), percent: AtomicUsize::new(0), faults: AtomicUsize::new(0) };
    let Some(seed) = env::var(SEED).ok().and_then(|seed| seed.parse().ok()) else { return };
    let config = config::load(&Source::File("tidegate.toml".into()), &|name| env::var_os(name)).unwrap().config;
    let _flush = telemetry::start(&config.log).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let mut interrupted = signal(SignalKind::interrupt()).unwrap();
    let world = StartContext {
        clock: Clock::system(),
        random_bytes: RandomBytes::system(),
        disk: &DISK,
        terminal: false,
        alert_times: AlertTimes::default(),
    };
    let running = app::start(config, None, world).unwrap();
    tracing::info!(listen = %running.listen, admin_listen = %running.admin_listen, "ready");
    thread::spawn(move || {
        let random = RandomSource::seeded(seed);
        // Good and bad times, at random.
        loop {
            let percents = [0, 0, 10, 50, 100];
            let percent = percents[(random.draw() * percents.len() as f64) as usize % percents.len()];
            DISK.percent.store(percent, Ordering::Relaxed);
            thread::sleep(Duration::from_secs_f64(random.draw() * 0.3));
        }
    });
    runtime.block_on(interrupted.recv());
    running.handle().drain();
    running.join();
}

/// Kills, and a disk that fails at random in two of three rounds.
struct Faults {
    starts: AtomicUsize,
    /// The gateway to start next.
    bad: bool,
    /// The gateway that runs.
    was_bad: bool,
    began: Instant,
    refused: usize,
}

impl ExtraFault for Faults {
    fn name(&self) -> &'static str {
        "a disk that fails"
    }

    fn command(&self, folder: &Path) -> Command {
        if !self.bad {
            return super::command_with_secrets(folder, &["serve"]);
        }
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "ledger::disk_faults::gateway_on_a_faulty_disk", "--nocapture"]);
        command.env_clear().current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env(SEED, self.starts.fetch_add(1, Ordering::Relaxed).to_string());
        set_secrets(&mut command);
        command
    }

    fn started(&mut self, _process: &Process) {
        self.began = Instant::now();
    }

    async fn round(&mut self, number: u32, _process: &mut Process, clients: &Clients, random: &RandomSource) {
        self.was_bad = self.bad;
        some_time(random).await;
        self.refused += clients.refused();
        // The next gateway is started.
        self.bad = !number.is_multiple_of(3);
    }

    fn settled_until(&self, killed: Instant) -> Instant {
        if self.was_bad { self.began } else { killed }
    }

    fn refusals(&self) -> (bool, bool) {
        (true, true)
    }

    fn last(&mut self) {
        assert!(self.refused > 0, "the disk never failed");
        self.bad = false;
    }
}

fn faults() -> Faults {
    Faults { starts: AtomicUsize::new(0), bad: true, was_bad: true, began: Instant::now(), refused: 0 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_one_row_after_four_kills_on_a_failing_disk() {
    kill_and_compare(4, faults()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute"]
async fn every_request_has_one_row_after_twenty_kills_on_a_failing_disk() {
    kill_and_compare(20, faults()).await;
}
