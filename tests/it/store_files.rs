//! Files of the store in the data folder that are deleted, too large, or another user's.
#![cfg(unix)]

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tidegate::store::sql::{Database, DatabaseLocation, FILE, GroupBy};
use tokio::time::{Instant, timeout};

use crate::support::{
    client::Client,
    database::until,
    gateway::{Gateway, KEY},
    process::{Process, output_text, run},
    say,
    settings::smallest,
    upstream::{RESPONSE, Upstream, json},
};

const BODY: &str = r#"{"model":"smart","input":"hi"}"#;
const FAULT: &str = r#"tidegate_ledger_fault{fault="database"}"#;

pub(crate) async fn rows(file: &Path) -> u64 {
    let Ok(mut database) = Database::open_to_read(&DatabaseLocation::Sqlite(file.to_owned())).await else { return 0 };
    database.usage(GroupBy::Key, 0, u64::MAX).await.unwrap_or_default().iter().map(|total| total.requests).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_or_replaced_database_is_reported_within_5_s_and_its_return_brings_every_row() {
    for replaced in [false, true] {
        let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
        let gateway = Gateway::before(&upstream.base_url());
        let (file, aside) = (gateway.folder.path().join(FILE), gateway.folder.path().join("aside"));
        let mut client = gateway.connect().await;
        for _ in 0..5 {
            assert_eq!(client.create(BODY).await.status, 200);
        }
        until("the rows", async || rows(&file).await == 5).await;
        fs::rename(&file, &aside).unwrap();
        if replaced {
            fs::write(&file, "").unwrap();
        }
        let told = async {
            while gateway.metric(FAULT).await != 1.0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let ready = async || Client::connect(gateway.admin).await.get("/readyz").await;
            while ready().await.json()["keys"]["store_fails"] != true {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let ready = ready().await;
            assert!(ready.status == 200 && ready.text().contains("database"), "{ready:?}");
        };
        let began = Instant::now();
        timeout(Duration::from_secs(5), told).await.unwrap_or_else(|_| panic!("not told, {replaced}"));
        say(&format!("a deleted database is told after {:?}", began.elapsed()));
        for _ in 0..5 {
            assert_eq!(client.create(BODY).await.status, 200);
        }
        assert_eq!(file.exists(), replaced, "no empty database may take its place");
        fs::rename(&aside, &file).unwrap();
        gateway.metric_becomes(FAULT, 0.0).await;
        until("all rows", async || rows(&file).await == 10).await;
    }
}

fn folder(upstream: &Upstream) -> TempDir {
    let folder = TempDir::new().unwrap();
    let text = smallest(&upstream.base_url(), "data_dir = \"data\"\nworkers = 1", "");
    fs::write(folder.path().join("tidegate.toml"), text).unwrap();
    folder
}

fn within(folder: &Path, mut command: Command) -> Command {
    command.env_clear().current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("UP_KEY", "sk-upstream-secret").env("A_KEY", KEY);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_on_the_size_of_files_is_an_error_and_does_not_end_the_process() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = folder(&upstream);
    let mut command = Command::new("bash");
    // In blocks of 1 KiB.
    command.args(["-c", "ulimit -f 256; exec \"$0\" serve --config tidegate.toml", env!("CARGO_BIN_EXE_tidegate")]);
    let mut gateway = Process::start(&mut within(folder.path(), command));
    let (address, admin) = (gateway.ready(), gateway.admin());
    let mut client = Client::connect(address).await;
    // The journal and the database grow until both reach the limit.
    let refused = async {
        loop {
            let answer = client.create(BODY).await;
            if answer.status != 200 {
                break answer;
            }
        }
    };
    let refused = timeout(Duration::from_secs(60), refused).await.unwrap();
    refused.assert_problem(503, "ledger_unavailable");
    let ready = Client::connect(admin).await.get("/readyz").await;
    assert!(ready.text().contains("journal"), "{ready:?}");
    gateway.signal("TERM");
    // The process exits and is not ended by a signal.
    assert!(gateway.exit().is_some(), "{}", gateway.everything());
}

#[tokio::test]
async fn a_file_of_root_in_the_data_folder_is_named_in_the_error() {
    const USER: u32 = 65532;
    if !rustix::process::geteuid().is_root() {
        say("NOT TESTED: files of another user in the data folder, which takes root");
        return;
    }
    for name in
        ["ledger.db", "ledger.db-wal", "origins.db", "journal", "journal/000000000001.journal", "keys.json", "lock"]
    {
        let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
        let folder = folder(&upstream);
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        // A copy that this user may run. Another process makes the copy: servers that other tests start would inherit
        // the open file, and a program that is open for writing cannot be run.
        let binary = folder.path().join("tidegate");
        assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_tidegate")).arg(&binary).status().unwrap().success());
        for path in [folder.path(), &data] {
            chown(path, Some(USER), Some(0)).unwrap();
        }
        let file = data.join(name);
        if name == "journal" {
            fs::create_dir(&file).unwrap();
        } else {
            let journal = data.join("journal");
            fs::create_dir(&journal).unwrap();
            chown(&journal, Some(USER), Some(0)).unwrap();
            fs::write(&file, "").unwrap();
        }
        let mode = if name == "journal" { 0o700 } else { 0o600 };
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        let mut command = Command::new(&binary);
        command.args(["serve", "--config", "tidegate.toml"]).uid(USER).gid(0);
        let output = run(&mut within(folder.path(), command));
        let text = output_text(&output);
        assert!(!output.status.success() && text.contains(&format!("data/{name}")), "{name}: {text}");
        assert!(text.contains("belongs to user 0") && text.contains("user 65532"), "{name}: {text}");
    }
}
