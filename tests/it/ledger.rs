//! One row for each request that went up, whatever happens to the gateway.

mod comparison;
mod disk_faults;
#[cfg(unix)]
mod file_modes;
mod full_disk;
mod full_journal;
mod kills;
mod load;
mod postgres;
mod rejected_rows;

use std::{fs, path::Path, process::Command, time::Duration};

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;

use self::{
    comparison::{Row, rows_of},
    kills::settings,
    load::{OTHER_KEY, body},
};
use crate::support::{
    client::Client,
    gateway::{Gateway, KEY, UPSTREAM_KEY, config},
    process::{Process, output_text, run, tidegate},
    soon,
    upstream::{RESPONSE, STREAM, Step, Upstream, chunk, json},
};

fn command_with_secrets(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = tidegate(folder);
    command.args(arguments).args(["--config", "tidegate.toml"]);
    set_secrets(&mut command);
    command
}

fn set_secrets(command: &mut Command) {
    command.env("UP_KEY", UPSTREAM_KEY).env("A_KEY", KEY).env("B_KEY", OTHER_KEY);
}

#[tokio::test]
async fn each_row_says_how_its_request_ended() {
    let mut steps = vec![
        vec![Step::Send(json("200 OK", RESPONSE))],
        vec![Step::Send(json("400 Bad Request", r#"{"error":{"message":"no"}}"#))],
        vec![Step::Send(json("200 OK", "{}"))],
        // After an idle connection closes, Tidegate tries once more on a fresh one.
        vec![Step::Close],
        vec![Step::Close],
        vec![Step::Send([STREAM, &chunk(b"data: {}\n\n")].concat()), Step::Close],
        vec![Step::Send([STREAM, &chunk(b"data: {}\n\n")].concat()), Step::UntilClosed(oneshot::channel().0)],
    ]
    .into_iter();
    let upstream = Upstream::scripted(move |_| steps.next().unwrap()).await;
    let mut config = config(&upstream.base_url());
    config.retries.max_attempts = 1;
    let mut gateway = Gateway::start(config);
    for number in 0..6 {
        let mut client = gateway.connect().await;
        client.post(body("smart", number)).await;
        let mut answer = client.head().await;
        if number == 5 {
            // This request is in progress when the gateway stops.
            gateway.stop();
        }
        client.body(&mut answer).await;
    }
    // A request that never went up has no row.
    gateway.ended().await;
    let expected = [
        ("exact", "completed", Some(3)),
        ("exact", "upstream_error", None),
        ("exact", "response_failed", None),
        ("exact", "refused", None),
        ("exact", "upstream_broken", None),
        ("partial", "gateway_stop", None),
    ];
    let rows = rows_of(gateway.folder.path()).await;
    let found: Vec<_> =
        rows.iter().map(|row| (&*row.state, row.end_reason.as_deref().unwrap(), row.input_tokens)).collect();
    assert_eq!(found, expected);
    assert!(rows.iter().all(|row| row.attempts == 1 && row.upstream.as_deref() == Some("up")), "{rows:?}");
    let journal = fs::read_dir(gateway.folder.path().join("journal")).unwrap().count();
    assert_eq!(journal, 0, "the journal is left after a graceful shutdown");
}

#[tokio::test]
async fn a_request_that_is_refused_before_it_goes_up_has_no_row() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut gateway = Gateway::before(&upstream.base_url());
    for body in ["{", r#"{"model":"nobody"}"#, "{}"] {
        assert!(gateway.post("", body).await.status >= 400);
    }
    gateway.connect().await.get("/v1/models").await;
    gateway.stop();
    gateway.ended().await;
    assert_eq!(rows_of(gateway.folder.path()).await, Vec::<Row>::new());
}

#[tokio::test]
async fn usage_sums_the_rows_while_the_gateway_runs_and_afterwards() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = TempDir::new().unwrap();
    settings(folder.path(), 1, &upstream.base_url(), &upstream.base_url());
    // The command needs no variables of credentials and keys.
    let usage =
        |arguments: &[&str]| run(tidegate(folder.path()).args(["--config", "tidegate.toml", "usage"]).args(arguments));
    let none = usage(&[]);
    assert!(!none.status.success() && output_text(&none).contains("there is no ledger at "), "{}", output_text(&none));

    let mut process = Process::start(&mut command_with_secrets(folder.path(), &["serve"]));
    let address = process.ready();
    let table = soon("an empty ledger", async {
        loop {
            let empty = usage(&[]);
            if empty.status.success() {
                return output_text(&empty);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(table.starts_with("key  ") && table.lines().count() == 2, "{table}");
    for model in ["smart", "pair", "pair"] {
        assert_eq!(Client::connect(address).await.create(body(model, 1)).await.status, 200);
    }
    let json = |arguments: &[&str]| -> Value {
        let output = usage(&[arguments, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", output_text(&output)))
    };
    soon("three rows", async {
        while json(&[])[0]["requests"] != 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let expected = serde_json::json!([{
        "key": "a", "requests": 3, "input": 9, "cached": 3, "output": 15, "reasoning": 6,
        "exact": 3, "unpriced_part": 0, "partial": 0, "unknown": 0, "interrupted": 0, "pending": 0,
        "unpriced": 0, "estimated": 0, "cost_cny": "0.0300435", "cost_usd": "0",
        "total_cny": "0.0300435", "total_usd": "0",
    }]);
    assert_eq!(json(&["--since", "1d"]), expected);
    assert_eq!(json(&["--since", "2100-01-01"]), serde_json::json!([]));
    let names =
        |by: &str| json(&["--by", by]).as_array().unwrap().iter().map(|one| one[by].clone()).collect::<Vec<_>>();
    assert_eq!(names("model"), ["pair", "smart"]);
    assert_eq!((names("group"), names("upstream")), (vec!["team".into()], vec!["one".into()]));
    assert_eq!(names("day")[0].as_str().unwrap().len(), "2026-11-01".len());
    process.signal("INT");
    assert_eq!(process.exit(), Some(0));
    let csv = output_text(&usage(&["--csv", "--by", "model"]));
    assert!(
        csv.ends_with("\npair,2,6,2,10,4,2,0,0,0,0,0,0,0,0.020029,0,0.020029,0\nsmart,1,3,1,5,2,1,0,0,0,0,0,0,0,0.0100145,0,0.0100145,0\n"),
        "{csv}"
    );
    let lines = output_text(&usage(&["--rows", "--json"]));
    let objects: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let models: Vec<_> = objects.iter().map(|row| row["model"].as_str().unwrap()).collect();
    assert_eq!(models, ["smart", "pair", "pair"]);
    for (name, value) in [
        ("key", Value::from("a")),
        ("upstream_model", "real".into()),
        ("credential", "UP_KEY".into()),
        ("state", "exact".into()),
        ("end", "completed".into()),
        ("status", 200.into()),
        ("input_tokens", 3.into()),
        ("attempts", 1.into()),
        ("cost", "0.0100145".into()),
        ("estimated", false.into()),
    ] {
        assert_eq!(objects[0][name], value, "{name}");
    }
    let csv = output_text(&usage(&["--rows"]));
    assert!(csv.starts_with("id,time,state,origin,key,") && csv.lines().count() == 4, "{csv}");
    assert_eq!(output_text(&usage(&["--rows", "--csv", "--until", "2000-01-01"])).lines().count(), 1);
    assert_eq!(output_text(&usage(&["--csv", "--until", "2000-01-01"])).lines().count(), 1);
    assert!(!usage(&["--rows", "--by", "key"]).status.success());
    let wrong = usage(&["--since", "yesterday"]);
    assert!(!wrong.status.success() && output_text(&wrong).contains("30d, 12h, 30m"), "{}", output_text(&wrong));
}
