//! Each command of a page that needs no other machine runs against a gateway with simulated providers.

use std::{env, fs, path::Path, process::Command};

use tempfile::TempDir;

use super::{Block, Page, pages};
use crate::support::process::{Process, output_text, run, tidegate};

const KEY: &str = "tg-a-key-of-a-reader-0123";

/// The configuration of the gateway that the pages describe: it has the names of the built-in configuration.
fn configuration(simulator: &str) -> String {
    let upstream = |name: &str, path: &str| {
        format!(
            "[[upstreams]]\nname = \"{name}\"\nbase_url = \"http://{simulator}{path}\"\ncredentials = [{{ env = \"TIDEGATE_CREDENTIAL\" }}]\n"
        )
    };
    let model = |name: &str, at: &str| {
        format!(
            "[[models]]\nname = \"{name}\"\ntargets = [{{ upstream = \"dmxapi\"{at} }}, {{ upstream = \"modelverse\"{at} }}]\n"
        )
    };
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n{}{}{}{}[[keys]]\nname = \"default\"\nsecret = {{ env = \
         \"TIDEGATE_KEY\" }}\n",
        upstream("dmxapi", "/dmxapi/v1"),
        upstream("modelverse", "/modelverse/v1"),
        model("smart", ", model = \"gpt-4o\""),
        model("*", ""),
    )
}

fn environment<'a>(command: &'a mut Command, folder: &Path) -> &'a mut Command {
    command
        .env_clear()
        .current_dir(folder)
        .env("HOME", folder)
        .env("TIDEGATE_CONFIG", "tidegate.toml")
        .env("TIDEGATE_CREDENTIAL", "sk-a-credential-of-a-test")
        .env("TIDEGATE_KEY", KEY)
}

/// Runs the blocks of one page in their order, as a reader would, and returns the failures.
fn failures(page: &Page, blocks: &[Block]) -> Vec<String> {
    let folder = TempDir::new().unwrap();
    let mut simulator = Process::start(tidegate(folder.path()).args(["simulate", "--listen", "127.0.0.1:0"]));
    let line = simulator.line(|line| line.contains("/dmxapi/v1"));
    let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap();
    fs::write(folder.path().join("tidegate.toml"), configuration(address)).unwrap();
    // An HTTP error of the gateway makes curl fail.
    fs::write(folder.path().join(".curlrc"), "fail-with-body\n").unwrap();
    let mut gateway = Process::start(environment(tidegate(folder.path()).arg("serve"), folder.path()));
    let (listen, admin) = (gateway.ready().to_string(), gateway.admin().to_string());
    let binary = Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), env::var("PATH").unwrap_or_default());
    let mut failed = Vec::new();
    for block in blocks {
        let places = [("127.0.0.1:8080", &*listen), ("127.0.0.1:8081", &*admin), ("127.0.0.1:9090", address)];
        let text = places.iter().fold(block.text.clone(), |text, (written, is)| text.replace(written, is));
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &text]);
        let output = run(environment(&mut command, folder.path()).env("PATH", &path));
        if !output.status.success() {
            failed.push(format!("{}:{}\n{text}{}", page.name, block.line, output_text(&output)));
        }
    }
    failed
}

#[test]
fn every_command_of_a_page_runs() {
    let (mut count, mut failed) = (0, Vec::new());
    for page in pages() {
        let blocks: Vec<_> = page.blocks().into_iter().filter(|block| block.language == "sh").collect();
        if !blocks.is_empty() {
            count += blocks.len();
            failed.extend(failures(&page, &blocks));
        }
    }
    assert!(count > 10, "only {count} blocks of commands were found");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn a_failing_command_is_reported() {
    let page = Page { name: "page".into(), path: "page".into(), text: String::new() };
    let block = |text: &str| Block { language: "sh".into(), text: text.into(), line: 1 };
    let blocks = [
        block("tidegate keys list"),
        block("tidegate keys lisst\ntrue"),
        block("curl -s http://127.0.0.1:8080/v1/models -H \"Authorization: Bearer $TIDEGATE_KEY\""),
        block("curl -s http://127.0.0.1:8080/v1/nothing | cat"),
    ];
    let failed = failures(&page, &blocks);
    assert_eq!(failed.len(), 2, "{failed:?}");
    assert!(failed[0].contains("lisst") && failed[1].contains("unknown_url"), "{failed:?}");
}
