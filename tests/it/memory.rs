//! What open streams cost, by the real binary's memory.

use std::{fs, net::SocketAddr};

use async_compression::{Level, tokio::bufread::GzipEncoder};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    sync::watch,
};

use crate::support::{
    client::Client,
    gateway::UPSTREAM_KEY,
    process::{Process, tidegate},
    settings::smallest,
    tls::Made,
    upstream::{RESPONSE, STREAM, Step, Upstream, chunk, json},
};

const KEY: &str = "sk-a-key-of-the-operators";
const CLIENTS: usize = 200;

/// What a stream may cost that nobody reads. The kernel's own buffers come on top.
const PER_STALLED_CLIENT: u64 = 96 * 1024;

/// With what TLS holds: 16 KiB on the way out, as much of a record, and the session.
const PER_STALLED_TLS_CLIENT: u64 = 128 * 1024;

async fn gateway(upstream: &Upstream, folder: &TempDir, made: Option<&Made>) -> Process {
    let file = folder.path().join("tidegate.toml");
    let tls = made.map_or_else(String::new, |made| {
        let (cert, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        made.write(&cert, &key);
        format!("tls = {{ cert_file = {cert:?}, key_file = {key:?} }}")
    });
    let text = smallest(&upstream.base_url(), &tls, "[timeouts]\nwrite_stall_s = 600\ndrain_timeout_s = 0");
    fs::write(&file, text).unwrap();
    let mut command = tidegate(folder.path());
    Process::start(command.args(["serve", "--config"]).arg(&file).env("UP_KEY", UPSTREAM_KEY).env("A_KEY", KEY))
}

fn request() -> String {
    let body = r#"{"model":"smart","stream":true}"#;
    let length = body.len();
    format!(
        "POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// Resident memory in bytes.
fn resident(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// What each of many clients costs that asks on a connection of `connect`'s and reads nothing.
async fn each<S: AsyncRead + AsyncWrite + Unpin>(
    made: Option<&Made>,
    connect: impl AsyncFn(SocketAddr) -> Client<S>,
) -> u64 {
    // Everybody sends until nothing is taken any more, and tells the bytes that were.
    let (stalled, mut stalls) = watch::channel(0_usize);
    let upstream = Upstream::scripted(move |_| {
        let stalled = stalled.clone();
        vec![
            Step::Send(STREAM.to_vec()),
            Step::Flood(chunk(&[b'x'; 16 * 1024]), Box::new(move || stalled.send_modify(|n| *n += 1))),
        ]
    })
    .await;
    let folder = TempDir::new().unwrap();
    let mut process = gateway(&upstream, &folder, made).await;
    let address = process.ready();

    // One that reads warms it up.
    let mut first = connect(address).await;
    first.send(request()).await;
    first.head().await;
    for _ in 0..100 {
        first.chunk().await.unwrap();
    }
    drop(first);
    let before = resident(&process);

    let mut clients = Vec::with_capacity(CLIENTS);
    for _ in 0..CLIENTS {
        let mut client = connect(address).await;
        client.send(request()).await;
        clients.push(client);
    }
    crate::support::soon("all streams to stall", stalls.wait_for(|stalled| *stalled >= CLIENTS)).await.unwrap();
    resident(&process).saturating_sub(before) / CLIENTS as u64
}

/// What `max_body_memory_mib` counts of a decoded body is what the process holds of it, however its codes arrive.
#[tokio::test]
async fn a_decoded_body_holds_little_more_than_its_length() {
    const LENGTH: usize = 24 * 1024 * 1024;
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = TempDir::new().unwrap();
    let mut process = gateway(&upstream, &folder, None).await;
    let address = process.ready();
    // Half as long when it is coded, so that a few KiB of codes fill half a block.
    let mut state = 1_u64;
    let letters = (0..LENGTH).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        b'a' + (state >> 60) as u8
    });
    let text: Vec<u8> = letters.collect();
    let body = [br#"{"model":"smart","input":""#, &text[..]].concat();
    let mut coded = Vec::new();
    GzipEncoder::with_quality(&body[..], Level::Fastest).read_to_end(&mut coded).await.unwrap();
    let before = resident(&process);
    let mut client = Client::connect(address).await;
    client
        .send(format!(
            "POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\ncontent-encoding: gzip\r\n\
             transfer-encoding: chunked\r\n\r\n"
        ))
        .await;
    // The body does not end: its memory is held.
    for piece in coded.chunks(5000) {
        client.send(chunk(piece)).await;
    }
    let admin = process.admin();
    crate::support::soon("all of the body", async {
        loop {
            let answer = Client::connect(admin).await.get("/metrics").await;
            let text = String::from_utf8(answer.body).unwrap();
            let held = text.lines().find_map(|line| line.strip_prefix("tidegate_body_memory_bytes "));
            if held.unwrap().parse::<f64>().unwrap() >= LENGTH as f64 {
                return;
            }
        }
    })
    .await;
    let more = resident(&process).saturating_sub(before);
    eprintln!("a decoded body of {} MiB: {} MiB more", LENGTH >> 20, more >> 20);
    assert!(more < LENGTH as u64 * 3 / 2, "{more} bytes for a body of {LENGTH}");
}

#[tokio::test]
#[ignore = "long: 200 streams of which nobody reads more than the head"]
async fn clients_that_never_read_hold_bounded_memory() {
    let each = each(None, Client::connect).await;
    eprintln!("{CLIENTS} clients that never read: {} KiB each", each / 1024);
    assert!(each <= PER_STALLED_CLIENT, "{each} bytes each");
}

#[tokio::test]
#[ignore = "long: 200 streams of which nobody reads more than the head"]
async fn clients_that_never_read_over_tls_hold_bounded_memory() {
    let made = Made::new();
    let each = each(Some(&made), async |address| Client::on(made.dial(address, &[]).await.unwrap())).await;
    eprintln!("{CLIENTS} clients over TLS that never read: {} KiB each", each / 1024);
    assert!(each <= PER_STALLED_TLS_CLIENT, "{each} bytes each");
}
