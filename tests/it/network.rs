//! The connection to an upstream: proxies and TLS, with real sockets.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tidegate::config::{self, Config, Source};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::Instant,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivatePkcs8KeyDer},
};

use crate::support::{
    gateway::{Gateway, KEY, UPSTREAM_KEY},
    upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, chunk, json},
};

const BODY: &str = r#"{"model":"smart","input":"hi"}"#;

/// A name that only a proxy can resolve: the gateway must never try.
const FAR: &str = "far.invalid";

/// A proxy or a TLS endpoint between the gateway and an upstream. It notes the requests for it, and ends with the test.
struct Hop {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    accepting: JoinHandle<()>,
}

impl Drop for Hop {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Hop {
    /// Passes each connection to `serve`, with the list for its notes.
    async fn new<F>(serve: impl Fn(TcpStream, Arc<Mutex<Vec<String>>>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::default();
        let notes = Arc::clone(&asked);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&notes)));
            }
        });
        Self { address, asked, accepting }
    }

    /// A proxy that answers CONNECT with `answer`; all tunnels lead to `to`.
    async fn connect(to: SocketAddr, answer: &'static str) -> Self {
        Self::new(move |mut stream, asked| async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            asked.lock().unwrap().push(String::from_utf8(head).unwrap());
            stream.write_all(answer.as_bytes()).await.unwrap();
            if answer.contains(" 200 ") {
                tunnel(stream, to).await;
            }
        })
        .await
    }

    /// A SOCKS5 proxy that requires this user and password; all tunnels lead to `to`.
    async fn socks_with(to: SocketAddr, login: &'static [u8]) -> Self {
        Self::new(move |mut stream, asked| async move {
            let mut methods = vec![0; 2];
            stream.read_exact(&mut methods).await.unwrap();
            let mut offered = vec![0; methods[1].into()];
            stream.read_exact(&mut offered).await.unwrap();
            assert!(offered.contains(&2), "{offered:?}");
            stream.write_all(&[5, 2]).await.unwrap();
            let mut given = vec![0; login.len()];
            stream.read_exact(&mut given).await.unwrap();
            let right = given == login;
            stream.write_all(&[1, u8::from(!right)]).await.unwrap();
            assert!(right, "{given:?}");
            let mut request = [0; 4];
            stream.read_exact(&mut request).await.unwrap();
            let mut name = vec![0; stream.read_u8().await.unwrap().into()];
            stream.read_exact(&mut name).await.unwrap();
            let port = stream.read_u16().await.unwrap();
            asked.lock().unwrap().push(format!("{}:{port}", String::from_utf8(name).unwrap()));
            stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
            tunnel(stream, to).await;
        })
        .await
    }

    /// A SOCKS5 proxy without authentication that answers with `reply`; all tunnels lead to `to`.
    async fn socks(to: SocketAddr, reply: u8) -> Self {
        Self::new(move |mut stream, asked| async move {
            let mut greeting = [0; 3];
            stream.read_exact(&mut greeting).await.unwrap();
            assert_eq!(greeting, [5, 1, 0], "one method: none");
            stream.write_all(&[5, 0]).await.unwrap();
            let mut request = [0; 4];
            stream.read_exact(&mut request).await.unwrap();
            assert_eq!(request, [5, 1, 0, 3], "connect, to a name");
            let mut name = vec![0; stream.read_u8().await.unwrap().into()];
            stream.read_exact(&mut name).await.unwrap();
            let port = stream.read_u16().await.unwrap();
            asked.lock().unwrap().push(format!("{}:{port}", String::from_utf8(name).unwrap()));
            stream.write_all(&[5, reply, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
            if reply == 0 {
                tunnel(stream, to).await;
            }
        })
        .await
    }

    /// TLS as `localhost` in front of `to`, and its certificate as PEM.
    async fn tls(to: SocketAddr) -> (Self, Arc<[u8]>) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let way = Self::new(move |stream, asked| {
            let acceptor = acceptor.clone();
            async move {
                // A client that does not trust the certificate breaks off here.
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let name = stream.get_ref().1.server_name().unwrap_or_default().to_owned();
                asked.lock().unwrap().push(name);
                tunnel(stream, to).await;
            }
        })
        .await;
        (way, made.cert.pem().into_bytes().into())
    }

    /// Accepts connections and never sends a byte.
    async fn silent() -> Self {
        Self::new(|mut stream, _| async move {
            let mut scratch = [0; 1024];
            while matches!(stream.read(&mut scratch).await, Ok(n) if n > 0) {}
        })
        .await
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn tunnel(mut stream: impl AsyncRead + AsyncWrite + Unpin, to: SocketAddr) {
    let mut upstream = TcpStream::connect(to).await.unwrap();
    upstream.set_nodelay(true).unwrap();
    let _ = copy_bidirectional(&mut stream, &mut upstream).await;
}

/// A gateway whose upstream is behind a proxy.
fn gateway_behind_proxy(proxy: &str, base_url: &str) -> Gateway {
    Gateway::with(base_url, |config| config.upstreams[0].proxy = Some(proxy.parse().unwrap()))
}

#[tokio::test]
async fn an_http_proxy_gets_a_connect_request() {
    // Without a port in the URL, the port of the scheme is used.
    for (authority, place) in [(FAR.to_owned(), format!("{FAR}:80")), (format!("{FAR}:8080"), format!("{FAR}:8080"))] {
        let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
        let proxy = Hop::connect(upstream.address, "HTTP/1.1 200 Connection established\r\n\r\n").await;
        let gateway = gateway_behind_proxy(&format!("http://{}", proxy.address), &format!("http://{authority}/v1"));
        for _ in 0..2 {
            let answer = gateway.post("", BODY).await;
            assert_eq!((answer.status, &answer.body[..]), (200, RESPONSE.as_bytes()));
            // The request inside the tunnel is the same as without a proxy.
            let request = upstream.request().await;
            assert_eq!(request.line, "POST /v1/responses HTTP/1.1");
            assert_eq!(request.header("host"), Some(&*authority));
            assert_eq!(request.header("proxy-connection"), None);
            assert_eq!(request.connection, 0, "the tunnel is kept");
        }
        assert_eq!(proxy.asked(), [format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n")]);
    }
}

#[tokio::test]
async fn a_socks_proxy_gets_the_name_and_resolves_it() {
    for (authority, place) in [(FAR.to_owned(), format!("{FAR}:80")), (format!("{FAR}:8080"), format!("{FAR}:8080"))] {
        let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
        let proxy = Hop::socks(upstream.address, 0).await;
        let gateway = gateway_behind_proxy(&format!("socks5://{}", proxy.address), &format!("http://{authority}/v1"));
        for _ in 0..2 {
            let answer = gateway.post("", BODY).await;
            assert_eq!((answer.status, &answer.body[..]), (200, RESPONSE.as_bytes()));
            let request = upstream.request().await;
            assert_eq!(request.line, "POST /v1/responses HTTP/1.1");
            assert_eq!(request.header("host"), Some(&*authority));
            assert_eq!(request.connection, 0, "the tunnel is kept");
        }
        assert_eq!(proxy.asked(), [place]);
    }
}

/// A configuration whose upstream has these settings, loaded with these variables.
fn with_env(settings: &str, variables: &[(&str, String)]) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tidegate.toml");
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nworkers = 1\n[log]\nlevel = \"off\"\n\
         [[upstreams]]\nname = \"up\"\nbase_url = \"http://{FAR}/v1\"\ninsecure = true\n{settings}\n\
         [[models]]\nname = \"smart\"\ntargets = [{{ upstream = \"up\" }}]\n\
         [[keys]]\nname = \"tester\"\nsecret = {{ env = \"CLIENT_KEY\" }}\n"
    );
    std::fs::write(&file, text).unwrap();
    let env = |name: &str| {
        let own = variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        own.or_else(|| (name == "CLIENT_KEY").then(|| KEY.into()))
    };
    config::load(&Source::File(file), &env).unwrap_or_else(|report| panic!("{report}")).config
}

#[tokio::test]
async fn a_proxy_gets_its_user_and_a_password_from_a_secret() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let http = Hop::connect(upstream.address, "HTTP/1.1 200 Connection established\r\n\r\n").await;
    let socks = Hop::socks_with(upstream.address, b"\x01\x02me\x08p@ss:w/d").await;
    let login = "proxy_user = \"me\"\nproxy_password = { env = \"PROXY_PASSWORD\" }";
    let variables = [("PROXY_PASSWORD", "p@ss:w/d".to_owned())];
    for (scheme, address) in [("http", http.address), ("socks5", socks.address), ("socks5h", socks.address)] {
        let config = with_env(&format!("proxy = \"{scheme}://{address}\"\n{login}"), &variables);
        assert!(!format!("{config:?}").contains("p@ss"), "the password is shown");
        let answer = Gateway::start(config).post("", BODY).await;
        assert_eq!(answer.status, 200, "{scheme}: {answer:?}");
        assert_eq!(upstream.request().await.header("proxy-authorization"), None);
    }
    let basic = data_encoding::BASE64.encode(b"me:p@ss:w/d");
    let asked = http.asked().concat();
    assert!(asked.to_ascii_lowercase().contains("proxy-authorization: basic ") && asked.contains(&basic), "{asked}");
    assert_eq!(socks.asked(), [format!("{FAR}:80"), format!("{FAR}:80")]);
}

#[tokio::test]
async fn the_proxy_of_the_environment_is_used_only_where_a_setting_says_so() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let http = Hop::connect(upstream.address, "HTTP/1.1 200 Connection established\r\n\r\n").await;
    let socks = Hop::socks_with(upstream.address, b"\x01\x02me\x02pw").await;
    let url = |scheme: &str, way: &Hop| format!("{scheme}://me:pw@{}", way.address);
    let own = |settings: &str, variables: &[(&str, String)]| {
        let config = with_env(settings, variables);
        let upstream = config.upstreams.into_iter().next().unwrap();
        upstream.proxy.map(|proxy| (proxy.to_string(), upstream.proxy_login.map(|login| login.user.to_string())))
    };
    let of_env = "proxy = \"env\"";
    let (by_http, by_socks) = (url("http", &http), url("socks5h", &socks));
    let found = |scheme: &str, way: &Hop| Some((format!("{scheme}://{}/", way.address), Some("me".to_owned())));
    for (variables, expected) in [
        (vec![("HTTP_PROXY", by_http.clone())], found("http", &http)),
        (vec![("http_proxy", by_http.clone())], found("http", &http)),
        (vec![("ALL_PROXY", by_http.clone())], found("http", &http)),
        (vec![("ALL_PROXY", by_http.clone()), ("HTTP_PROXY", by_socks.clone())], found("socks5h", &socks)),
        (vec![("HTTPS_PROXY", by_http.clone())], None),
        (vec![("HTTP_PROXY", String::new())], None),
        (vec![], None),
        (vec![("HTTP_PROXY", by_http.clone()), ("NO_PROXY", format!("other.test, {FAR}"))], None),
        (vec![("HTTP_PROXY", by_http.clone()), ("no_proxy", ".invalid".into())], None),
        (vec![("HTTP_PROXY", by_http.clone()), ("NO_PROXY", "*".into())], None),
        (vec![("HTTP_PROXY", by_http.clone()), ("NO_PROXY", "other.test".into())], found("http", &http)),
    ] {
        assert_eq!(own(of_env, &variables), expected, "{variables:?}");
        assert_eq!(own("", &variables), None, "{variables:?}");
    }
    for proxy in [by_http, by_socks] {
        let answer = Gateway::start(with_env(of_env, &[("HTTP_PROXY", proxy.clone())])).post("", BODY).await;
        assert_eq!(answer.status, 200, "{proxy}: {answer:?}");
    }
}

#[tokio::test]
async fn a_failing_proxy_makes_its_upstream_unreachable() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let base_url = format!("http://{FAR}/v1");
    for answer in [
        "HTTP/1.1 403 Forbidden\r\ncontent-length: 6\r\n\r\nsecret",
        "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        "HTTP/1.1 502 Bad Gateway\r\n\r\n",
        "no HTTP\r\n\r\n",
        "",
    ] {
        let proxy = Hop::connect(upstream.address, answer).await;
        let refused = gateway_behind_proxy(&format!("http://{}", proxy.address), &base_url).post("", BODY).await;
        refused.assert_final(502, "upstream_unreachable", false);
        for word in ["secret", FAR, UPSTREAM_KEY, &proxy.address.to_string()] {
            assert!(!refused.text().contains(word), "{word}: {refused:?}");
        }
        // The proxy must not see the credential.
        assert!(!proxy.asked().concat().contains(UPSTREAM_KEY), "{:?}", proxy.asked());
    }
    let proxy = Hop::socks(upstream.address, 5).await;
    gateway_behind_proxy(&format!("socks5://{}", proxy.address), &base_url)
        .post("", BODY)
        .await
        .assert_problem(502, "upstream_unreachable");
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for scheme in ["http", "socks5"] {
        // The gateway never goes around its proxy, even if it could reach the upstream.
        let refused = gateway_behind_proxy(&format!("{scheme}://{nobody}"), &upstream.base_url()).post("", BODY).await;
        refused.assert_problem(502, "upstream_unreachable");
    }
    assert_eq!(upstream.untaken(), 0);
}

#[tokio::test]
async fn a_handshake_without_an_answer_ends_at_the_connect_timeout() {
    let silent = Hop::silent().await;
    let address = silent.address;
    let within = Duration::from_millis(300);
    for (proxy, base_url) in [
        (None, format!("https://localhost:{}/v1", address.port())),
        (Some(format!("http://{address}")), format!("http://{FAR}/v1")),
        (Some(format!("socks5://{address}")), format!("http://{FAR}/v1")),
    ] {
        let change = |config: &mut Config| {
            config.timeouts.upstream_connect = within;
            config.upstreams[0].proxy = proxy.as_deref().map(|proxy| proxy.parse().unwrap());
        };
        let gateway = Gateway::with(&base_url, change);
        let began = Instant::now();
        gateway.post("", BODY).await.assert_final(502, "upstream_unreachable", false);
        let took = began.elapsed();
        assert!((within..within + Duration::from_secs(3)).contains(&took), "{proxy:?} {base_url}: {took:?}");
    }
}

#[tokio::test]
async fn an_unknown_certificate_is_refused_unless_its_authority_is_configured() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let (tls, pem) = Hop::tls(upstream.address).await;
    let base_url = format!("https://localhost:{}/v1", tls.address.port());
    let trusting =
        |base_url: &str| Gateway::with(base_url, |config| config.upstreams[0].ca_pem = Some(Arc::clone(&pem)));

    Gateway::before(&base_url).post("", BODY).await.assert_final(502, "upstream_unreachable", false);
    // The authority is trusted, but the certificate is for another name.
    let other = format!("https://127.0.0.1:{}/v1", tls.address.port());
    trusting(&other).post("", BODY).await.assert_final(502, "upstream_unreachable", false);
    assert_eq!((upstream.untaken(), tls.asked()), (0, vec![]), "a request was sent to an untrusted server");

    let answer = trusting(&base_url).post("", BODY).await;
    assert_eq!((answer.status, &answer.body[..]), (200, RESPONSE.as_bytes()));
    let request = upstream.request().await;
    assert_eq!(request.line, "POST /v1/responses HTTP/1.1");
    assert_eq!(request.header("host"), Some(&*format!("localhost:{}", tls.address.port())));
    assert_eq!(request.header("authorization"), Some(&*format!("Bearer {UPSTREAM_KEY}")));
    assert_eq!(tls.asked(), ["localhost"], "the name in the handshake");
}

#[tokio::test]
async fn a_stream_through_tls_and_a_tunnel_arrives_byte_for_byte_and_without_delay() {
    let events: [&[u8]; 3] = [
        b"event: response.created\ndata: {\"type\":\"response.created\"}\n\n",
        b": \xf0\x9f",
        b"\x8c\x8a\r\n\r\ndata: {\"type\":\"response.completed\"}\n\n",
    ];
    let (go, mut gates): (Vec<_>, Vec<_>) = events.iter().map(|_| tokio::sync::oneshot::channel()).unzip();
    let upstream = Upstream::scripted(move |_| {
        let mut steps = vec![Step::Send(STREAM.to_vec())];
        for (event, gate) in events.iter().zip(gates.drain(..)) {
            steps.extend([Step::Send(chunk(event)), Step::Wait(gate)]);
        }
        steps.push(Step::Send(LAST_CHUNK.to_vec()));
        steps
    })
    .await;
    let (tls, pem) = Hop::tls(upstream.address).await;
    let proxy = Hop::connect(tls.address, "HTTP/1.1 200 OK\r\n\r\n").await;
    let gateway = Gateway::with("https://localhost/v1", |config| {
        config.upstreams[0].ca_pem = Some(pem);
        config.upstreams[0].proxy = Some(format!("http://{}", proxy.address).parse().unwrap());
    });
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    assert_eq!(client.head().await.status, 200);
    for (event, go) in events.iter().zip(go) {
        // The upstream sends the next event after this one has arrived.
        assert_eq!(crate::support::soon("an event", client.chunk()).await.as_deref(), Some(*event));
        go.send(()).unwrap();
    }
    assert_eq!(client.chunk().await.as_deref(), Some(&[][..]), "the end of the stream");
    assert_eq!(tls.asked(), ["localhost"]);
    assert_eq!(proxy.asked(), ["CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\n\r\n"]);
}
