//! Names with several addresses, and connections that grow old.

use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::{Instant, timeout},
};

use super::*;
use crate::{
    config::{Config, Source},
    protocol::body::SegmentedBody,
};

fn settings(base_url: &str) -> (config::Upstream, Timeouts) {
    let env = |name: &str| (name == "DMXAPI_API_KEY").then(|| "sk-test-0123456789".into());
    let Config { upstreams, timeouts, .. } = config::load(&Source::BuiltIn, &env).unwrap().config;
    let mut upstream = upstreams.into_iter().next().unwrap();
    upstream.base_url = base_url.parse().unwrap();
    (upstream, timeouts)
}

/// A sender for whom every name has the addresses that are in the list when it is looked up.
fn sender(addresses: &Arc<Mutex<Vec<SocketAddr>>>, oldest: Duration) -> Sender {
    let (upstream, timeouts) = settings("http://several.test/v1");
    let addresses = Arc::clone(addresses);
    let resolve: Resolve = Arc::new(move |host, _| {
        assert_eq!(host, "several.test");
        let found = addresses.lock().unwrap().clone();
        Box::pin(async move { Ok(found) })
    });
    Sender::with(&upstream, &timeouts, &Arc::new(tls(None).unwrap()), resolve, oldest)
}

/// Asks; returned is what the answer says.
async fn ask(sender: &Sender) -> String {
    let mut request = Request::new(SegmentedBody::new().body());
    *request.uri_mut() = Uri::from_static("http://several.test/v1/models");
    let answer = sender.send(request).await.unwrap();
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Answers every request with the number of its connection and keeps the connection.
async fn server(name: &'static str) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                }
            });
        }
    });
    (address, connections)
}

/// A listener that drops every SYN, as its queue is full, with what fills the queue.
async fn dropping() -> (SocketAddr, tokio::net::TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(connected) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        queued.push(connected.unwrap());
    }
    (address, listener, queued)
}

#[tokio::test]
async fn a_silent_address_is_passed_over_after_250_ms_and_the_answering_one_is_remembered() {
    let (dead, _listener, _queued) = dropping().await;
    let (second_dead, _second, _more) = dropping().await;
    let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (live, connections) = server("live").await;
    for (list, least, most) in [
        (vec![live, dead], 0, 200),
        (vec![dead, live], 240, 1500),
        (vec![dead, second_dead, live], 490, 2000),
        (vec![refusing, live], 0, 200),
        (vec![refusing, dead, live], 240, 1500),
    ] {
        let addresses = Arc::new(Mutex::new(list.clone()));
        let sender = sender(&addresses, MAX_CONNECTION_AGE);
        let began = Instant::now();
        assert_eq!(ask(&sender).await, "live");
        let took = began.elapsed().as_millis();
        assert!((least..most).contains(&took), "{list:?}: {took} ms");
        // Others at the same time need connections of their own.
        let before = connections.load(Ordering::Relaxed);
        let began = Instant::now();
        let fresh = async |sender: &Sender| {
            let mut request = Request::new(SegmentedBody::new().body());
            *request.uri_mut() = Uri::from_static("http://several.test/v1/models");
            assert_eq!(sender.send_fresh(request).await.unwrap().status(), 200);
        };
        tokio::join!(fresh(&sender), fresh(&sender), fresh(&sender));
        assert!(began.elapsed() < Duration::from_millis(200), "{list:?}: {:?}", began.elapsed());
        assert_eq!(connections.load(Ordering::Relaxed), before + 3);
        // The name has other addresses now.
        *addresses.lock().unwrap() = vec![refusing];
        let mut request = Request::new(SegmentedBody::new().body());
        *request.uri_mut() = Uri::from_static("http://several.test/v1/models");
        assert!(matches!(sender.send_fresh(request).await, Err(SendError::Connect(_))));
    }
}

#[tokio::test]
async fn silent_addresses_fail_within_the_connect_timeout() {
    let (dead, _listener, _queued) = dropping().await;
    let (upstream, mut timeouts) = settings("http://several.test/v1");
    timeouts.upstream_connect = Duration::from_millis(600);
    let resolve: Resolve = Arc::new(move |_, _| Box::pin(async move { Ok(vec![dead, dead]) }));
    let sender = Sender::with(&upstream, &timeouts, &Arc::new(tls(None).unwrap()), resolve, MAX_CONNECTION_AGE);
    let began = Instant::now();
    let mut request = Request::new(SegmentedBody::new().body());
    *request.uri_mut() = Uri::from_static("http://several.test/v1/models");
    assert!(matches!(sender.send(request).await, Err(SendError::Connect(_))));
    let took = began.elapsed().as_millis();
    assert!((600..2000).contains(&took), "{took} ms");
}

#[tokio::test]
async fn an_old_busy_connection_is_closed_and_the_name_is_resolved_again() {
    let ((one, of_one), (two, _)) = (server("one").await, server("two").await);
    let addresses = Arc::new(Mutex::new(vec![one]));
    let sender = sender(&addresses, Duration::from_secs(2));
    let began = Instant::now();
    assert_eq!(ask(&sender).await, "one");
    *addresses.lock().unwrap() = vec![two];
    while ask(&sender).await == "one" {
        assert!(began.elapsed() < Duration::from_secs(6), "the old connection is still used");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(of_one.load(Ordering::Relaxed), 1, "until then it is used again and again");
    assert_eq!(ask(&sender).await, "two");
}
