//! A full disk: a small disk of the test, or, where it cannot be mounted, the system's limit on the size of files.
#![cfg(target_os = "linux")]

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tempfile::TempDir;
use tidegate::concurrent::random_source::RandomSource;
use tokio::{sync::oneshot, time::Instant};

use super::{
    comparison::rows_of,
    kills::{ExtraFault, kill_and_compare, settings, some_time},
    load::{Clients, body},
    set_secrets,
};
use crate::support::{
    client::Client,
    database::until,
    disk::SmallDisk,
    process::{Process, output_text, run},
    say, soon,
    upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, chunk, json},
};

/// Makes every file of a process full: the system's limit on the size of files.
fn limit_files(process: &Process, limit: Option<u64>) {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let id = Pid::from_raw(i32::try_from(process.id()).unwrap());
    prlimit(id, Resource::Fsize, Rlimit { current: limit, maximum: None }).unwrap();
}

/// A gateway that gets that limit as an error. By default its signal would end the process, as a full disk does not.
fn limitable(folder: &Path, first: &str) -> Command {
    let script = format!("trap '' XFSZ; {first} exec {} serve --config tidegate.toml", env!("CARGO_BIN_EXE_tidegate"));
    let mut command = Command::new("sh");
    command.args(["-c", &script]).env_clear().current_dir(folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    set_secrets(&mut command);
    command
}

#[test]
fn a_first_start_on_a_full_disk_is_refused() {
    let folder = TempDir::new().unwrap();
    settings(folder.path(), 1, "http://127.0.0.1:1/v1", "http://127.0.0.1:1/v1");
    let output = run(&mut limitable(folder.path(), "ulimit -f 0;"));
    let said = output_text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the data folder cannot be used: "), "{said}");
}

#[tokio::test]
async fn a_request_whose_record_cannot_be_written_does_not_go_up() {
    let folder = TempDir::new().unwrap();
    let (go, wait) = oneshot::channel();
    let mut first = Some(wait);
    let last = format!("data: {{\"type\":\"response.completed\",\"response\":{RESPONSE}}}\n\n");
    let mut upstream = Upstream::scripted(move |_| match first.take() {
        Some(wait) => {
            let rest = [chunk(last.as_bytes()), LAST_CHUNK.to_vec()].concat();
            vec![Step::Send([STREAM, &chunk(b"data: {}\n\n")].concat()), Step::Wait(wait), Step::Send(rest)]
        }
        None => vec![Step::Send(json("200 OK", RESPONSE))],
    })
    .await;
    settings(folder.path(), 1, &upstream.base_url(), &upstream.base_url());
    let mut process = Process::start(&mut limitable(folder.path(), ""));
    let address = process.ready();
    let mut streaming = Client::connect(address).await;
    streaming.post(body("smart", 1)).await;
    let mut answer = streaming.head().await;
    assert_eq!(answer.status, 200);
    upstream.request().await;

    // The limit is in the middle of the next record.
    let journal = fs::read_dir(folder.path().join("data/journal")).unwrap();
    let length = journal.map(|file| file.unwrap().metadata().unwrap().len()).max().unwrap();
    limit_files(&process, Some(length + 20));
    for _ in 0..3 {
        let refused = Client::connect(address).await.create(body("smart", 2)).await;
        refused.assert_problem(503, "ledger_unavailable");
        assert_eq!((refused.header("retry-after"), refused.header("x-should-retry")), (Some("1"), None));
    }
    assert_eq!(upstream.untaken(), 0, "a request went up");
    // Requests in progress continue.
    go.send(()).unwrap();
    soon("the stream to end", streaming.body(&mut answer)).await;
    assert!(answer.whole);
    process.logged("the journal cannot be written");
    let mut admin = Client::connect(process.admin()).await;
    let ready = admin.get("/readyz").await;
    assert_eq!(ready.status, 200, "readiness must not depend on the journal: other replicas may use the same disk");
    assert!(ready.json()["ledger"]["faults"].to_string().contains("journal"), "{ready:?}");
    let metrics = admin.get("/metrics").await.text();
    assert!(metrics.contains("tidegate_ledger_fault{fault=\"journal\"} 1\n"), "{metrics}");

    limit_files(&process, None);
    let served = Client::connect(address).await.create(body("smart", 3)).await;
    assert_eq!(served.status, 200);
    soon("the ledger to recover", async {
        loop {
            let ledger = admin.get("/readyz").await.json()["ledger"].take();
            if ledger["faults"] == serde_json::json!([]) && ledger["waiting"] == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    process.signal("INT");
    assert_eq!(process.exit(), Some(0));
    let rows = rows_of(&folder.path().join("data")).await;
    let found: Vec<_> = rows.iter().map(|row| (row.number(), &*row.state, row.input_tokens)).collect();
    assert_eq!(found, [(1, "exact", Some(3)), (3, "exact", Some(3))]);
}

/// The size of the small disk: a run of twenty kills needs half of it.
const SIZE: &str = "size=24m,mode=0700";

/// A disk that another process fills and empties.
#[derive(Default)]
struct FullDisk {
    /// Writes on the small disk, so that it is dropped first.
    neighbour: Option<DiskFiller>,
    small: Option<SmallDisk>,
    full_since: Option<Instant>,
    free_since: Option<Instant>,
    /// Rounds in which requests were refused, and rounds that began on a full disk.
    refused: u32,
    began_full: u32,
}

/// Fills the disk for as long as it lives.
struct DiskFiller {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    file: PathBuf,
}

impl DiskFiller {
    fn of(folder: &Path) -> Self {
        let (stop, file) = (Arc::<AtomicBool>::default(), folder.join("filler"));
        let mut filler = OpenOptions::new().create(true).append(true).open(&file).unwrap();
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // At the end one page at a time, so that no byte is left for others.
                if filler.write_all(&[0; 65_536]).is_err() && filler.write_all(&[0; 4096]).is_err() {
                    thread::sleep(Duration::from_millis(2));
                }
            }
        });
        Self { stop, thread: Some(thread), file }
    }
}

impl Drop for DiskFiller {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
        let _ = fs::remove_file(&self.file);
    }
}

impl FullDisk {
    fn is_full(&self) -> bool {
        self.full_since > self.free_since
    }

    fn fill(&mut self, process: &Process) {
        self.full_since = Some(Instant::now());
        match &self.small {
            Some(disk) => self.neighbour = Some(DiskFiller::of(disk.folder())),
            None => limit_files(process, Some(1)),
        }
    }

    fn free(&mut self, process: &Process) {
        self.neighbour = None;
        if self.small.is_none() {
            limit_files(process, None);
        }
        self.free_since = Some(Instant::now());
    }

    /// Waits until the gateway refuses requests because of the full disk.
    async fn wait_for_refusal(&mut self, clients: &Clients) {
        until("a refusal", async || clients.refused() > 0).await;
        self.refused += 1;
    }
}

impl ExtraFault for FullDisk {
    fn name(&self) -> &'static str {
        if self.small.is_some() { "a full disk" } else { "files that may not grow" }
    }

    async fn prepare(&mut self, data: &Path) {
        fs::create_dir(data).unwrap();
        match SmallDisk::mount(data, SIZE) {
            Ok(disk) => self.small = Some(disk),
            Err(why) => say(&format!(
                "NOT TESTED: a small disk cannot be mounted (it takes root), so that the limit of the size of files stands \
                 in for a full one: {why}"
            )),
        }
    }

    fn command(&self, folder: &Path) -> Command {
        limitable(folder, "")
    }

    fn started(&mut self, process: &Process) {
        if self.is_full() && self.small.is_none() {
            limit_files(process, Some(1));
        }
    }

    async fn round(&mut self, number: u32, process: &mut Process, clients: &Clients, random: &RandomSource) {
        if self.is_full() {
            self.began_full += 1;
            self.wait_for_refusal(clients).await;
            some_time(random).await;
            if number == 1 || random.draw() < 0.6 {
                self.free(process);
                until("an answer", async || clients.served() > 0).await;
            }
        } else {
            some_time(random).await;
            self.fill(process);
            self.wait_for_refusal(clients).await;
            if number > 1 && random.draw() < 0.4 {
                let before = clients.served();
                self.free(process);
                until("an answer", async || clients.served() > before).await;
            }
        }
        some_time(random).await;
    }

    fn settled_until(&self, killed: Instant) -> Instant {
        // The gateway retries a failed write every 100 ms.
        let again = Duration::from_millis(400);
        match (self.full_since, self.free_since) {
            (Some(full), Some(free)) if free > full && free + again < killed => killed,
            (Some(full), _) => full,
            (None, _) => killed,
        }
    }

    fn refusals(&self) -> (bool, bool) {
        (true, false)
    }

    async fn last_round(&mut self, process: &Process, random: &RandomSource) {
        if !self.is_full() {
            some_time(random).await;
            self.fill(process);
        }
        some_time(random).await;
        self.free(process);
        assert!(self.refused > 1 && self.began_full > 0, "{} refused, {} began full", self.refused, self.began_full);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_one_row_after_three_kills_on_a_full_disk() {
    kill_and_compare(3, FullDisk::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute"]
async fn every_request_has_one_row_after_twenty_kills_on_a_full_disk() {
    kill_and_compare(20, FullDisk::default()).await;
}
