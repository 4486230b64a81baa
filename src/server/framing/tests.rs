use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use proptest::{collection::vec, prelude::*, sample::select};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const MAX_HEAD: usize = 64 * 1024;

/// A request as one of the two parsers saw it.
#[derive(Debug, Default, PartialEq, Eq)]
struct ParsedRequest {
    target: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    is_old: bool,
}

/// The verdict on bytes that come in one piece.
fn verdict(bytes: &[u8]) -> Result<usize, FramingError> {
    let mut framing = Framing::new(MAX_HEAD);
    framing.pass(bytes);
    framing.fault().map_or(Ok(framing.heads()), Err)
}

/// How many bytes pass if they arrive in `pieces`, how many heads, and the error.
fn split(pieces: &[&[u8]]) -> (usize, usize, Option<FramingError>) {
    let mut framing = Framing::new(MAX_HEAD);
    let passed = pieces.iter().map(|piece| framing.pass(piece)).sum();
    (passed, framing.heads(), framing.fault())
}

/// The requests in `bytes` as they are framed here, and where the last whole one ends.
fn framed_requests(bytes: &[u8]) -> (Vec<ParsedRequest>, usize) {
    let mut framing = Framing::new(MAX_HEAD);
    let (mut seen, mut head, mut body, mut end) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for (at, byte) in bytes.iter().enumerate() {
        match framing.state {
            FramingState::Head => head.push(*byte),
            FramingState::Length(_) | FramingState::Data => body.push(*byte),
            _ => {}
        }
        if framing.pass(&[*byte]) == 0 {
            break;
        }
        if framing.state == FramingState::Head && framing.head.is_new() {
            end = at + 1;
            seen.push(read_head(&std::mem::take(&mut head), std::mem::take(&mut body)));
        }
    }
    (seen, end)
}

/// As simple as a head that is in order may be read.
fn read_head(head: &[u8], body: Vec<u8>) -> ParsedRequest {
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let line = String::from_utf8(lines.find(|line| !line.is_empty()).unwrap().to_vec()).unwrap();
    let mut words = line.split(' ').skip(1);
    let target = words.next().unwrap().to_owned();
    let headers = lines.filter(|line| !line.is_empty()).map(|line| {
        let colon = line.iter().position(|byte| *byte == b':').unwrap();
        let name = String::from_utf8(line[..colon].to_ascii_lowercase()).unwrap();
        let value = &line[colon + 1..];
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
        let from = value.iter().position(|byte| !is_space(byte)).unwrap_or(value.len());
        let to = value.iter().rposition(|byte| !is_space(byte)).map_or(from, |last| last + 1);
        (name, value[from..to].to_vec())
    });
    let mut headers: Vec<_> = headers.collect();
    headers.sort();
    ParsedRequest { target, headers, body, is_old: words.next() == Some("HTTP/1.0") }
}

/// The requests in `bytes` as hyper takes them, and what it answered.
fn hyper_requests(bytes: &[u8]) -> (Vec<ParsedRequest>, String) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let service = service_fn(move |request: Request<Incoming>| {
        let log = Arc::clone(&log);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes().to_vec();
            let headers = head.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
            let mut headers: Vec<_> = headers.collect();
            headers.sort();
            let is_old = head.version == Version::HTTP_10;
            log.lock().unwrap().push(ParsedRequest { target: head.uri.to_string(), headers, body, is_old });
            // A 2xx to CONNECT would be the last answer.
            let response = Response::builder().status(404).body(Full::new(Bytes::new())).unwrap();
            Ok::<_, hyper::Error>(response)
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let answers = runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1024 * 1024);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let mut builder = http1::Builder::new();
        // An error is that of a body that does not end.
        let _ = builder.max_buf_size(MAX_HEAD).half_close(true).serve_connection(TokioIo::new(server), service).await;
        let mut answers = Vec::new();
        client.read_to_end(&mut answers).await.unwrap();
        String::from_utf8(answers).unwrap()
    });
    (Arc::into_inner(seen).unwrap().into_inner().unwrap(), answers)
}

/// Requests that are mostly in order: parts that mean something to framing, put together as they should be.
fn arbitrary_request() -> impl Strategy<Value = Vec<u8>> {
    let line = select(vec![
        "GET / HTTP/1.1\r\n",
        "POST /v1/responses?a=b&c=%20|`{} HTTP/1.1\r\n",
        "\r\n\r\nPUT /{\"a\"} HTTP/1.1\r\n",
        "x-Y!1 http://a.b:1/c?d HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "CONNECT a.b:443 HTTP/1.1\r\n",
        "GET / HTTP/1.0\r\n",
    ]);
    let headers = vec(
        select(vec![
            "x-a: b\r\n",
            "x-b:\r\n",
            "x-c: \t a  b \t\r\n",
            "x-d: \u{e9}\u{20ac}\"\\\r\n",
            "transfer-encodings: gzip\r\n",
            "content-lengt: 9\r\n",
            "Hosts: a\r\n",
            "expect: 100-continue\r\n",
            "upgrade: h2c\r\n",
            "te: trailers\r\n",
        ]),
        0..4,
    );
    let host = select(vec!["Host: a\r\n", "host:a.b:80 \r\n", "HOST: [::1]:1\r\n", "host:\r\n"]);
    let body = select(vec![
        ("", ""),
        ("Content-Length: 0\r\n", ""),
        ("content-length:\t5 \r\n", "he\0\r\n"),
        ("Transfer-Encoding: Chunked\r\n", "0\r\n\r\n"),
        ("transfer-encoding:chunked\t\r\n", "5\r\nhel\r\n\r\n0A;a=\"b\"\r\n0123456789\r\n000\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "2;x\r\n\r\n\r\n0;y\r\nx-t: 1\r\nX-u:\r\n\r\n"),
    ]);
    (line, headers, host, body, any::<bool>()).prop_map(|(line, headers, host, (framing, body), host_first)| {
        let (first, last) = if host_first { (host, framing) } else { (framing, host) };
        [line, first, &headers.concat(), last, "\r\n", body].concat().into_bytes()
    })
}

/// A change of one byte.
#[derive(Clone, Debug)]
enum Change {
    Replace(u8),
    Insert(u8),
    Remove,
    /// Again what stands between the two, which makes second headers and second lines.
    Repeat(usize),
}

fn arbitrary_change() -> impl Strategy<Value = Change> {
    let byte = prop_oneof![
        3 => select(b"\r\n \t\0:;,/?#*0159aAfFgG\x01\x0b\x7f\x80\xffhtc-".to_vec()),
        1 => any::<u8>(),
    ];
    prop_oneof![
        byte.clone().prop_map(Change::Replace),
        byte.prop_map(Change::Insert),
        Just(Change::Remove),
        (1..40_usize).prop_map(Change::Repeat),
    ]
}

/// Requests of which a few bytes were changed.
fn arbitrary_stream() -> impl Strategy<Value = Bytes> {
    let changes = vec((any::<prop::sample::Index>(), arbitrary_change()), 0..3);
    (vec(arbitrary_request(), 1..4), changes).prop_map(|(requests, changes)| {
        let mut bytes = requests.concat();
        for (at, change) in changes {
            let at = at.index(bytes.len());
            match change {
                Change::Replace(byte) => bytes[at] = byte,
                Change::Insert(byte) => bytes.insert(at, byte),
                Change::Remove => drop(bytes.remove(at)),
                Change::Repeat(len) => {
                    let again = bytes[at..bytes.len().min(at + len)].to_vec();
                    bytes.splice(at..at, again);
                }
            }
        }
        // Its Debug is text.
        Bytes::from(bytes)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_verdict_does_not_depend_on_how_bytes_are_split(bytes in arbitrary_stream(), cuts in vec(any::<prop::sample::Index>(), 0..6)) {
        let (passed, heads, fault) = split(&[&bytes]);
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut rest = &bytes[..];
        for cut in cuts {
            let (piece, after) = rest.split_at(cut - (bytes.len() - rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        let singles: Vec<_> = bytes.chunks(1).collect();
        for pieces in [pieces, singles] {
            let (split_passed, split_heads, split_fault) = split(&pieces);
            prop_assert_eq!((split_heads, split_fault), (heads, fault));
            match fault {
                None => prop_assert_eq!((split_passed, passed), (bytes.len(), bytes.len())),
                // hyper may have got a part of a malformed head, but never its end.
                Some(_) => prop_assert!(split_passed >= passed && split_passed < bytes.len()),
            }
        }
    }

    #[test]
    fn hyper_reads_accepted_requests_the_same_way(bytes in arbitrary_stream()) {
        let (framed_requests, end) = framed_requests(&bytes);
        let (taken, answers) = hyper_requests(&bytes[..end]);
        // After HTTP/1.0 it takes no more.
        let all = framed_requests.iter().position(|seen| seen.is_old).map_or(framed_requests.len(), |old| old + 1);
        prop_assert_eq!(taken.len(), all, "{}", answers);
        for (taken, framed_requests) in taken.iter().zip(&framed_requests) {
            prop_assert_eq!((&taken.headers, &taken.body, taken.is_old), (&framed_requests.headers, &framed_requests.body, framed_requests.is_old));
            // A whole URI gets its slash.
            prop_assert_eq!(&taken.target, &framed_requests.target.parse::<Uri>().unwrap().to_string());
        }
    }

    #[test]
    fn hyper_refuses_nothing_that_framing_accepts(bytes in arbitrary_stream()) {
        // As much of a malformed head as can ever pass: all that came before the fault was seen.
        let (passed, heads, _) = split(&bytes.chunks(1).collect::<Vec<_>>());
        let (taken, answers) = hyper_requests(&bytes[..passed]);
        prop_assert!(taken.len() <= heads);
        let answered = answers.matches(" 404 Not Found\r\n").count();
        prop_assert_eq!(answered, taken.len(), "{}", answers);
        prop_assert_eq!(answers.matches("HTTP/1.").count(), answered + answers.matches(" 100 Continue\r\n").count());
    }
}

const HEAD: &str = "GET / HTTP/1.1\r\nhost: a\r\n";

#[test]
fn hyper_accepts_every_byte_of_an_accepted_target() {
    for byte in 0..=u8::MAX {
        for target in [&b"/a"[..], b"/?a", b"a", b"http://a/"] {
            let bytes = [b"GET ", target, &[byte], b"b HTTP/1.1\r\nhost: a\r\n\r\n"].concat();
            if verdict(&bytes).is_ok() {
                let (seen, answer) = hyper_requests(&bytes);
                assert_eq!(seen.len(), 1, "{target:?} {byte} {answer}");
                assert_eq!(seen[0].target.as_bytes(), [target, &[byte], b"b"].concat());
            }
        }
    }
}

#[test]
fn a_head_over_the_limit_is_refused() {
    let head = |len: usize| {
        let filler = "b".repeat(len - HEAD.len() - "x-a: \r\n\r\n".len());
        format!("{HEAD}x-a: {filler}\r\n\r\n").into_bytes()
    };
    assert_eq!(verdict(&head(MAX_HEAD)), Ok(1));
    assert_eq!(hyper_requests(&head(MAX_HEAD)).0.len(), 1);
    assert_eq!(verdict(&head(MAX_HEAD + 1)), Err(FramingError::HeadTooLarge));
    // Before hyper would say it: as soon as the last byte that may come is not the end.
    assert_eq!(verdict(&head(MAX_HEAD + 1)[..MAX_HEAD]), Err(FramingError::HeadTooLarge));
    // Each has its own, and empty lines count.
    let twice = [head(MAX_HEAD), head(MAX_HEAD)].concat();
    assert_eq!(verdict(&twice), Ok(2));
    assert_eq!(verdict(&[b"\r\n", &head(MAX_HEAD)[..]].concat()), Err(FramingError::HeadTooLarge));

    let many = |count: usize| format!("{HEAD}{}\r\n", "x: y\r\n".repeat(count - 1)).into_bytes();
    assert_eq!(verdict(&many(100)), Ok(1));
    assert_eq!(hyper_requests(&many(100)).0.len(), 1);
    assert_eq!(verdict(&many(101)), Err(FramingError::HeadTooLarge));
}

#[test]
fn chunk_extensions_and_trailers_over_their_limits_are_refused() {
    let chunked = |body: String| format!("{HEAD}transfer-encoding: chunked\r\n\r\n{body}").into_bytes();
    let extensions = |len: usize| chunked(format!("1;{}\r\na\r\n0;{}\r\n\r\n", "b".repeat(len), "c".repeat(1000)));
    // Counted over a whole body, with the line's end.
    assert_eq!(verdict(&extensions(MAX_EXTENSIONS - 1002)), Ok(1));
    assert_eq!(hyper_requests(&extensions(MAX_EXTENSIONS - 1002)).0.len(), 1);
    assert_eq!(verdict(&extensions(MAX_EXTENSIONS)), Err(FramingError::Chunk));

    let trailers = |lines: usize, value: usize| {
        chunked(format!("0\r\n{}\r\n", format!("x: {}\r\n", "y".repeat(value)).repeat(lines)))
    };
    assert_eq!(verdict(&trailers(100, 10)), Ok(1));
    assert_eq!(hyper_requests(&trailers(100, 10)).0.len(), 1);
    assert_eq!(verdict(&trailers(101, 10)), Err(FramingError::Chunk));
    assert_eq!(verdict(&trailers(90, 100)), Err(FramingError::Chunk));

    assert_eq!(verdict(&chunked(format!("{}5\r\nhello\r\n0\r\n\r\n", "0".repeat(15)))), Ok(1));
    assert_eq!(verdict(&chunked(format!("{}5\r\nhello\r\n0\r\n\r\n", "0".repeat(16)))), Err(FramingError::Chunk));
    // As large as they come: nothing overflows.
    assert_eq!(verdict(&chunked("FFFFFFFFFFFFFFFF\r\nhello".to_owned())), Ok(1));
}

#[test]
fn the_largest_accepted_length_is_the_largest_that_hyper_takes() {
    let length = |length: &str| format!("{HEAD}content-length: {length}\r\n\r\nhello").into_bytes();
    assert_eq!(verdict(&length("18446744073709551613")), Ok(1));
    for over in ["18446744073709551614", "18446744073709551616", "184467440737095516150"] {
        assert_eq!(verdict(&length(over)), Err(FramingError::ContentLength));
    }
}

#[test]
fn the_bytes_of_a_body_with_a_length_are_not_parsed() {
    let body = "GET / HTTP/1.1\n\0: x\r\n content-length: 40\r\n\r\n";
    let bytes = format!("{HEAD}content-length: {}\r\n\r\n{body}", body.len());
    assert_eq!(verdict(bytes.as_bytes()), Ok(1));
    assert_eq!(verdict(format!("{bytes}\0").as_bytes()), Err(FramingError::Header));
}
