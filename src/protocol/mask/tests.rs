use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

use super::*;

const SECRET: &str = "xk-Q7fT2mZp9LrVb4NcWd8sHy3eKg6u";

fn mask(secret: &str) -> Mask {
    Mask::new([secret.as_bytes()]).unwrap()
}

/// What is masked, found in the simplest way: every window of the secret at every place.
fn oracle(secret: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for piece in secret.windows(secret.len().min(PIECE)) {
        for (at, _) in bytes.windows(piece.len()).enumerate().filter(|(_, window)| *window == piece) {
            out[at..at + piece.len()].fill(STAR);
        }
    }
    out
}

fn run(mask: &Mask, scope: MaskScope, pieces: &[&[u8]]) -> (Vec<u8>, bool) {
    let (mut body, mut out, mut any) = (MaskedBody::new(scope), Vec::new(), false);
    for (place, piece) in pieces.iter().enumerate() {
        let (went, masked) = body.pass(mask, Bytes::copy_from_slice(piece), place + 1 == pieces.len());
        out.extend_from_slice(&went);
        any |= masked;
    }
    assert_eq!(body.held(), 0);
    (out, any)
}

/// Cuts a text at these places.
fn cut<'a>(text: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = cuts.iter().map(|at| at % (text.len() + 1)).collect();
    ends.sort_unstable();
    ends.push(text.len());
    let mut from = 0;
    ends.into_iter().map(|end| &text[std::mem::replace(&mut from, end)..end]).collect()
}

/// Texts of a few letters and secrets of the same few, so that everything overlaps with everything.
fn texts() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let letters = |most| vec(proptest::sample::select(&b"ab-"[..]), 4..most);
    (letters(40), vec((any::<bool>(), 0..40_usize, 0..40_usize, letters(8)), 0..12)).prop_map(|(secret, parts)| {
        let mut text = Vec::new();
        for (echo, from, length, other) in parts {
            if echo {
                let from = from % secret.len();
                text.extend_from_slice(&secret[from..secret.len().min(from + length)]);
            } else {
                text.extend(other);
            }
        }
        (secret, text)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn nothing_but_pieces_is_masked_however_a_body_is_cut((secret, text) in texts(), cuts in vec(any::<usize>(), 0..9)) {
        let mask = Mask::new([&secret[..]]).unwrap();
        let expected = oracle(&secret, &text);
        let (out, any) = run(&mask, MaskScope::Everywhere, &cut(&text, &cuts));
        prop_assert_eq!(&out, &expected);
        prop_assert_eq!(any, expected != text);
        prop_assert_eq!(mask.masked(&text), (expected != text).then_some(expected));
    }

    #[test]
    fn a_stream_is_masked_alike_however_it_is_cut(
        parts in vec((0..FRAMES.len(), 0..SECRET.len(), 1..=SECRET.len()), 0..8),
        cuts in vec(any::<usize>(), 0..12),
        crlf: bool,
    ) {
        let (mask, mut text, mut expected, mut output) = (mask(SECRET), String::new(), String::new(), false);
        for (frame, from, length) in parts {
            let (is_output, is_error, frame) = FRAMES[frame];
            output |= is_output;
            let frame = if crlf { frame.replace('\n', "\r\n") } else { frame.to_owned() };
            let echo = &SECRET[from..SECRET.len().min(from + length)];
            let frame = frame.replace("ECHO", echo);
            let open = is_error || !output;
            let masked = String::from_utf8(oracle(SECRET.as_bytes(), frame.as_bytes())).unwrap();
            expected.push_str(if open { &masked } else { &frame });
            text.push_str(&frame);
        }
        let (out, any) = run(&mask, MaskScope::errors(true), &cut(text.as_bytes(), &cuts));
        prop_assert_eq!(any, expected != text);
        prop_assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

/// Frames of a stream, whether they are output, and whether they are errors.
const FRAMES: [(bool, bool, &str); 17] = [
    // Lines that are no data never hold output.
    (false, true, ": ECHO\n\n"),
    (false, true, "id: ECHO\n\n"),
    (true, false, "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\n id: ECHO\n\n"),
    (false, true, "event: ERROR\ndata: {\"code\":\"ECHO\",\"param\":\"ECHO\"}\n\n"),
    (false, true, "event: exception\ndata: {\"info\":\"ECHO\"}\n\n"),
    (false, true, "data: {\"Error\":{\"Message\":\"ECHO\"}}\n\n"),
    (false, true, "data: {\"errorMessage\":\"ECHO\"}\n\n"),
    (false, true, "data: {\"fault\":{\"faultstring\":\"ECHO\"}}\n\n"),
    (false, true, "data: {\"type\":\"Error\",\"info\":\"ECHO\"}\n\n"),
    (
        false,
        false,
        "data: {\"type\":\"response.created\",\"response\":{\"output\":[],\"user\":\"ECHO\",\"error\":null}}\n\n",
    ),
    (true, false, "data: {\"type\":\"response.output_text.delta\",\"delta\":\"ECHO\"}\n\n"),
    (
        true,
        false,
        "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"error\\\":\\\"ECHO\"}}],\"id\":\"ECHO\",\"error\":null}\n\n",
    ),
    (true, false, "data: {\"type\":\"response.output_item.done\",\"item\":{\"content\":[{\"text\":\"ECHO\"}]}}\n\n"),
    (false, true, "event: error\ndata: {\"code\":\"ECHO\",\"message\":\"ECHO\"}\n\n"),
    (false, true, "data: {\"type\":\"error\",\"code\":\"ECHO\",\"param\":\"ECHO\"}\n\n"),
    (false, true, "data: {\"error\":{\"message\":\"ECHO\",\"metadata\":{\"raw\":[\"ECHO\"]}}}\n\n"),
    (
        false,
        true,
        "data: {\"type\":\"response.failed\",\"response\":{\"error\":{\"message\":\"ECHO\"},\"user\":\"ECHO\"}}\n\n",
    ),
];

#[test]
fn errors_in_a_success() {
    let mask = mask(SECRET);
    for (sent, expected) in [
        (r#"{"error":{"message":"ECHO"},"user":"ECHO"}"#, r#"{"error":{"message":"****"},"user":"****"}"#),
        (r#"{"output":[{"text":"ECHO"}],"user":"ECHO"}"#, r#"{"output":[{"text":"ECHO"}],"user":"ECHO"}"#),
        (r#"{"output": [ ],"user":"ECHO"}"#, r#"{"output": [ ],"user":"****"}"#),
        (r#"{"text":"ECHO"}"#, r#"{"text":"ECHO"}"#),
        (
            r#"{"text":{"format":{"type":"text"}},"user":"ECHO"}"#,
            r#"{"text":{"format":{"type":"text"}},"user":"****"}"#,
        ),
        (
            r#"{"choices":[{"message":{"content":"ECHO"}}],"error":"ECHO"}"#,
            r#"{"choices":[{"message":{"content":"ECHO"}}],"error":"****"}"#,
        ),
        (
            r#"{"output":[1],"error" : [ {"x":["ECHO"]}, "ECHO" ],"x":"ECHO"}"#,
            r#"{"output":[1],"error" : [ {"x":["****"]}, "****" ],"x":"ECHO"}"#,
        ),
        (
            r#"{"output":[{"arguments":"{\"error\":\"ECHO\"}"}]}"#,
            r#"{"output":[{"arguments":"{\"error\":\"ECHO\"}"}]}"#,
        ),
        (r#"{"output":["\\"],"message":"a\"ECHO","x":"ECHO"}"#, r#"{"output":["\\"],"message":"a\"****","x":"ECHO"}"#),
        ("no JSON: ECHO", "no JSON: ****"),
    ] {
        let (sent, expected) = (sent.replace("ECHO", SECRET), expected.replace("ECHO", SECRET));
        let expected = expected.replace("****", &"*".repeat(SECRET.len()));
        for at in 0..sent.len() {
            let (out, any) = run(&mask, MaskScope::errors(false), &[&sent.as_bytes()[..at], &sent.as_bytes()[at..]]);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "cut at {at}");
            assert_eq!(any, sent != expected);
        }
    }
}

#[test]
fn large_bodies_are_read_up_to_a_limit_and_pass_whole() {
    let mask = mask(SECRET);
    for length in [10, 9_000, 70_000] {
        let filler = "x".repeat(length);
        let sent = format!(r#"{{"output":["{filler}"],"error":"{SECRET}"}}"#);
        for size in [1000, 16 * 1024] {
            let pieces: Vec<_> = sent.as_bytes().chunks(size).collect();
            let (out, any) = run(&mask, MaskScope::errors(false), &pieces);
            assert_eq!((out.len(), any), (sent.len(), length < 64 * 1024), "{length} {size}");
        }
    }
}

#[test]
fn what_cannot_be_told_from_words_is_left_alone_and_nothing_is_printed() {
    assert!(Mask::new([&b"key"[..]]).is_none());
    assert!(Mask::new([]).is_none());
    assert_eq!(format!("{:?}", mask(SECRET)), "Mask { .. }");
    let forms: Vec<_> = forms(b"a+b/c").into_iter().map(|form| String::from_utf8(form).unwrap()).collect();
    assert_eq!(forms, ["a+b/c", "a%2Bb%2Fc", "a%2bb%2fc", r"a+b\/c"]);
}

/// Figures for whoever runs it with --release --nocapture: what an ordinary stream costs.
#[test]
#[ignore = "a measurement"]
fn cost_of_ordinary_answers() {
    let mask = mask("sk-proj-Q7fT2mZp9LrVb4NcWd8sHy3eKg6uQ7fT2mZp9LrVb4NcWd8sHy3eKg6u");
    let delta = Bytes::from(format!(
        "event: response.output_text.delta\ndata: {{\"type\":\"response.output_text.delta\",\"item_id\":\"msg_{}\",\"output_index\":0,\"delta\":\" word\"}}\n\n",
        "a1b2c3d4".repeat(6)
    ));
    let json = Bytes::from(format!(r#"{{"id":"resp_1","output":[{{"text":"{}"}}]}}"#, "some words of it ".repeat(120)));
    for (what, scope, piece) in [
        ("a delta", MaskScope::errors(true), delta),
        ("a JSON body of 2 KB", MaskScope::errors(false), json.clone()),
        ("an error body of 2 KB", MaskScope::Everywhere, json),
    ] {
        let mut body = MaskedBody::new(scope);
        let began = tokio::time::Instant::now();
        for _ in 0..100_000 {
            let last = what != "a delta";
            assert!(!body.pass(&mask, piece.clone(), last).1);
        }
        eprintln!("{what} ({} bytes): {:?}", piece.len(), began.elapsed() / 100_000);
    }
}
