//! The memory that open streams take, measured at the real binary.

use std::{fs, net::SocketAddr};

use async_compression::{
    Level,
    tokio::bufread::{GzipEncoder, ZstdEncoder},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    sync::watch,
    task::JoinSet,
};

use crate::support::{
    client::Client,
    gateway::UPSTREAM_KEY,
    process::{Process, tidegate},
    settings::smallest,
    tls::TestCertificate,
    upstream::{RESPONSE, STREAM, Step, Upstream, chunk, json},
};

const KEY: &str = "sk-a-key-of-the-operators";
const CLIENTS: usize = 200;

/// The most memory for a stream whose client does not read. The kernel's own buffers come on top.
const PER_STALLED_CLIENT: u64 = 96 * 1024;

/// With the buffers of TLS: 16 KiB for output, as much for a record, and the session.
const PER_STALLED_TLS_CLIENT: u64 = 128 * 1024;

async fn gateway(upstream: &Upstream, folder: &TempDir, made: Option<&TestCertificate>) -> Process {
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

/// Text whose coded form is half as long, so that a few KiB of it fill half a block.
fn letters(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let letters = (0..length).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        b'a' + (state >> 60) as u8
    });
    letters.collect()
}

/// The resident memory in bytes.
fn resident(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// The memory for each of many clients that send a request on a connection of `connect` and read nothing.
async fn memory_per_client<S: AsyncRead + AsyncWrite + Unpin>(
    made: Option<&TestCertificate>,
    connect: impl AsyncFn(SocketAddr) -> Client<S>,
) -> u64 {
    // Every upstream sends until its connection is full, and reports the number of bytes.
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

    // A first client that reads its answer warms the gateway up.
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

/// `max_body_memory_mib` counts the memory that the process really holds of a decoded body, in whatever pieces the body
/// arrives.
#[tokio::test]
async fn a_decoded_body_takes_little_more_memory_than_its_length() {
    const LENGTH: usize = 24 * 1024 * 1024;
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = TempDir::new().unwrap();
    let mut process = gateway(&upstream, &folder, None).await;
    let address = process.ready();
    let body = [br#"{"model":"smart","input":""#, &letters(LENGTH)[..]].concat();
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
    // The body does not end, so that its memory stays in use.
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

/// glibc's allocator kept 62 to 140 MB of such bodies for ever, as later small objects lie between the freed ones.
#[tokio::test]
async fn the_memory_of_decoded_bodies_goes_back_to_the_system() {
    const LENGTH: usize = 4 * 1024 * 1024;
    const KEPT: u64 = 40 * 1024 * 1024;
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = TempDir::new().unwrap();
    let mut process = gateway(&upstream, &folder, None).await;
    let address = process.ready();
    let body = [br#"{"model":"smart","input":""#, &letters(LENGTH)[..], br#""}"#].concat();
    let mut coded = Vec::new();
    ZstdEncoder::with_quality(&body[..], Level::Fastest).read_to_end(&mut coded).await.unwrap();
    let head = format!(
        "POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\ncontent-encoding: zstd\r\n\
         content-length: {}\r\n\r\n",
        coded.len()
    );
    let request = [head.as_bytes(), &coded].concat();
    let before = resident(&process);
    for _ in 0..3 {
        let mut clients = JoinSet::new();
        for _ in 0..16 {
            let request = request.clone();
            clients.spawn(async move {
                let mut client = Client::connect(address).await;
                client.send(request).await;
                client.head().await.status
            });
        }
        for status in clients.join_all().await {
            assert_eq!(status, 200);
        }
    }
    let most = resident(&process).saturating_sub(before);
    let admin = process.admin();
    crate::support::soon("the memory to go back", async {
        // The allocator gives memory back while the process works.
        while resident(&process) > before + KEPT {
            Client::connect(admin).await.get("/metrics").await;
        }
    })
    .await;
    eprintln!(
        "after 48 decoded bodies: {} MiB more, later {} MiB",
        most >> 20,
        resident(&process).saturating_sub(before) >> 20
    );
}

#[tokio::test]
#[ignore = "long: 200 streams of which nobody reads more than the head"]
async fn clients_that_never_read_take_bounded_memory() {
    let each = memory_per_client(None, Client::connect).await;
    eprintln!("{CLIENTS} clients that never read: {} KiB each", each / 1024);
    assert!(each <= PER_STALLED_CLIENT, "{each} bytes each");
}

#[tokio::test]
#[ignore = "long: 200 streams of which nobody reads more than the head"]
async fn clients_that_never_read_over_tls_take_bounded_memory() {
    let made = TestCertificate::new();
    let each = memory_per_client(Some(&made), async |address| Client::on(made.dial(address, &[]).await.unwrap())).await;
    eprintln!("{CLIENTS} clients over TLS that never read: {} KiB each", each / 1024);
    assert!(each <= PER_STALLED_TLS_CLIENT, "{each} bytes each");
}
