//! Listeners on Unix sockets: they serve as addresses do, the health check finds them, and an ended gateway leaves no
//! socket file.

use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixListener,
    },
    path::Path,
};

use tempfile::TempDir;
use tokio::{net::UnixStream, sync::oneshot};

use crate::support::{
    client::Client,
    gateway::KEY,
    process::{Process, output_text, run, tidegate},
    soon,
    upstream::{RESPONSE, STREAM, Step, Upstream, chunk, json},
};

/// A folder with a configuration whose listeners are sockets in it. The key `near` is for this machine, `far` for
/// another network.
fn folder(upstream: &Upstream, data: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    write(folder.path(), "tidegate.toml", &upstream.base_url(), data);
    folder
}

fn write(folder: &Path, file: &str, upstream: &str, data: &str) {
    let text = format!(
        r#"
[server]
listen = "unix:{0}/t.sock"
admin_listen = "unix:{0}/{data}.sock"
data_dir = "{data}"
workers = 2
trusted_proxies = ["127.0.0.1"]
[[upstreams]]
name = "up"
base_url = "{upstream}"
credentials = [{{ env = "UP_KEY" }}]
[[models]]
name = "smart"
targets = [{{ upstream = "up" }}]
[[keys]]
name = "near"
secret = {{ env = "NEAR_KEY" }}
ip = ["127.0.0.1"]
[[keys]]
name = "far"
secret = {{ env = "FAR_KEY" }}
ip = ["192.0.2.0/24"]
"#,
        folder.display()
    );
    fs::write(folder.join(file), text).unwrap();
}

const FAR: &str = "sk-a-key-for-elsewhere";

fn command(folder: &Path, arguments: &[&str]) -> std::process::Command {
    let mut command = tidegate(folder);
    command.args(arguments).env("UP_KEY", "sk-upstream-secret").env("NEAR_KEY", KEY).env("FAR_KEY", FAR);
    command
}

fn serve(folder: &Path) -> Process {
    let mut process = Process::start(&mut command(folder, &["serve", "--config", "tidegate.toml"]));
    let ready = process.logged("ready");
    assert_eq!(ready["listen"], format!("unix:{}/t.sock", folder.display()), "{ready}");
    process
}

async fn connect(folder: &Path) -> Client<UnixStream> {
    Client::on(UnixStream::connect(folder.join("t.sock")).await.unwrap())
}

async fn ask(folder: &Path, key: &str, more: &str) -> u16 {
    let mut client = connect(folder).await;
    let head = format!("POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {key}\r\n{more}");
    client.send(format!("{head}content-length: 17\r\n\r\n{{\"model\":\"smart\"}}")).await;
    client.answer().await.status
}

fn healthcheck(folder: &Path) -> (bool, String) {
    let output = run(&mut command(folder, &["--config", "tidegate.toml", "healthcheck"]));
    (output.status.success(), output_text(&output))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_is_served_like_an_address_and_its_file_is_removed_at_the_end() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = folder(&upstream, "data");
    let folder = folder.path();
    let mut gateway = serve(folder);
    for file in ["t.sock", "data.sock"] {
        let file = fs::symlink_metadata(folder.join(file)).unwrap();
        assert!(file.file_type().is_socket());
        assert_eq!(file.permissions().mode() & 0o777, 0o660);
    }
    // Both workers serve the socket, and requests follow each other on a connection.
    let mut clients = Vec::new();
    for _ in 0..16 {
        clients.push(connect(folder).await);
    }
    for _ in 0..3 {
        for client in &mut clients {
            assert_eq!(client.create(r#"{"model":"smart"}"#).await.status, 200);
        }
    }
    // Requests come from this machine, unless a proxy on it says otherwise.
    assert_eq!(ask(folder, KEY, "").await, 200);
    assert_eq!(ask(folder, KEY, "x-forwarded-for: 192.0.2.7\r\n").await, 401);
    assert_eq!(ask(folder, FAR, "").await, 401);
    assert_eq!(ask(folder, FAR, "x-forwarded-for: 192.0.2.7\r\n").await, 200);
    assert_eq!(healthcheck(folder), (true, String::new()));
    let explained =
        run(&mut command(folder, &["--config", "tidegate.toml", "explain", "--key", "near", "--model", "smart"]));
    let text = output_text(&explained);
    assert!(explained.status.success() && text.contains("up") && !text.contains("offline"), "{text}");
    let mut admin = Client::on(UnixStream::connect(folder.join("data.sock")).await.unwrap());
    let metrics = String::from_utf8(admin.get("/metrics").await.body).unwrap();
    assert!(metrics.contains("tidegate_requests_total"), "{metrics}");
    drop((clients, admin));
    gateway.signal("TERM");
    gateway.signal("TERM");
    gateway.exit();
    for file in ["t.sock", "data.sock", "t.sock.new"] {
        assert!(!folder.join(file).exists(), "{file} is left");
    }
    let (well, text) = healthcheck(folder);
    assert!(!well && text.contains("t.sock does not answer"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_through_a_unix_socket_is_cancelled_when_its_client_leaves() {
    let (closed, was_closed) = oneshot::channel();
    let mut closed = Some(closed);
    let event = chunk(b"data: {\"type\":\"response.created\"}\n\n");
    let upstream = Upstream::scripted(move |_| {
        vec![Step::Send([STREAM, &event].concat()), Step::UntilClosed(closed.take().expect("one request"))]
    })
    .await;
    let folder = folder(&upstream, "data");
    let _gateway = serve(folder.path());
    let mut client = connect(folder.path()).await;
    let head = format!("POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\n");
    client.send(format!("{head}content-length: 31\r\n\r\n{{\"model\":\"smart\",\"stream\":true}}")).await;
    let head = client.head().await;
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream; charset=utf-8")));
    drop(client);
    soon("the end of the call upstream", was_closed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_socket_file_of_a_killed_process_is_replaced() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = folder(&upstream, "data");
    let folder = folder.path();
    let mut first = serve(folder);
    // A second gateway with a data folder of its own.
    write(folder, "other.toml", &upstream.base_url(), "other");
    let refused = run(&mut command(folder, &["serve", "--config", "other.toml"]));
    let text = output_text(&refused);
    assert!(
        !refused.status.success() && text.contains("cannot listen on unix:") && text.contains("(listen)"),
        "{text}"
    );
    assert_eq!(ask(folder, KEY, "").await, 200, "the first gateway must go on");
    first.signal("KILL");
    first.exit();
    assert!(folder.join("t.sock").exists(), "the socket file must still be there");
    let mut second = serve(folder);
    assert_eq!(ask(folder, KEY, "").await, 200);
    // Another program puts its socket in that place: the gateway leaves it.
    fs::remove_file(folder.join("t.sock")).unwrap();
    let foreign = UnixListener::bind(folder.join("t.sock")).unwrap();
    second.signal("TERM");
    second.signal("TERM");
    second.exit();
    assert!(folder.join("t.sock").exists());
    drop(foreign);
    // A file that is no socket is never removed.
    fs::remove_file(folder.join("t.sock")).unwrap();
    fs::write(folder.join("t.sock"), "a file of another program").unwrap();
    let refused = run(&mut command(folder, &["serve", "--config", "tidegate.toml"]));
    let text = output_text(&refused);
    assert!(!refused.status.success() && text.contains("no socket"), "{text}");
    assert_eq!(fs::read_to_string(folder.join("t.sock")).unwrap(), "a file of another program");
}
