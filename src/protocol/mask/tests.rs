use async_compression::tokio::bufread::GzipEncoder;
use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use tokio::io::AsyncReadExt;

use super::*;

const SECRET: &str = "xk-Q7fT2mZp9LrVb4NcWd8sHy3eKg6u";

fn mask(secret: &str) -> Mask {
    Mask::new([secret.as_bytes()]).unwrap()
}

/// The expected mask, computed in the simplest way: every window of the secret at every position.
fn oracle(secret: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for piece in secret.windows(secret.len().min(PIECE)) {
        for (at, _) in bytes.windows(piece.len()).enumerate().filter(|(_, window)| *window == piece) {
            out[at..at + piece.len()].fill(STAR);
        }
    }
    out
}

/// Likewise, if only a complete long secret is masked.
fn oracle_of_whole(secret: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for (at, _) in bytes.windows(secret.len()).enumerate().filter(|(_, window)| *window == secret) {
        if secret.len() >= LONG {
            out[at..at + secret.len()].fill(STAR);
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
    let letters = |most| vec(proptest::sample::select(&b"ab/"[..]), 4..most);
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

/// A character as it is, or as an escape of JSON, also one in JSON inside of a string.
fn spell(byte: u8, how: usize) -> Vec<u8> {
    match how {
        0 => format!("\\u{byte:04x}"),
        1 => format!("\\u{byte:04X}"),
        2 => format!("\\\\u{byte:04x}"),
        3 => format!("\\\\\\\\u{byte:04x}"),
        4 | 5 if byte == b'/' => "\\/".into(),
        _ => char::from(byte).into(),
    }
    .into_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn only_parts_of_the_credential_are_masked_for_any_split((secret, text) in texts(), cuts in vec(any::<usize>(), 0..9)) {
        let mask = Mask::new([&secret[..]]).unwrap();
        let expected = oracle(&secret, &text);
        let (out, any) = run(&mask, MaskScope::Everywhere, &cut(&text, &cuts));
        prop_assert_eq!(&out, &expected);
        prop_assert_eq!(any, expected != text);
        prop_assert_eq!(mask.masked(&text), (expected != text).then_some(expected));
        let expected = oracle_of_whole(&secret, &text);
        let (out, any) = run(&mask, MaskScope::Whole, &cut(&text, &cuts));
        prop_assert_eq!(&out, &expected);
        prop_assert_eq!(any, expected != text);
    }

    #[test]
    fn escaped_credentials_are_masked_for_any_split(
        (secret, text) in texts(),
        spelled in vec(0..12_usize, 1..40),
        cuts in vec(any::<usize>(), 0..9),
    ) {
        let mask = Mask::new([&secret[..]]).unwrap();
        let spellings: Vec<Vec<u8>> =
            text.iter().zip(spelled.iter().cycle()).map(|(byte, how)| spell(*byte, *how)).collect();
        let sent = spellings.concat();
        for (scope, expected) in [
            (MaskScope::Everywhere, oracle(&secret, &text)),
            (MaskScope::Whole, oracle_of_whole(&secret, &text)),
        ] {
            let masked = spellings.iter().zip(&expected).map(|(sent, byte)| match byte {
                &STAR => vec![STAR; sent.len()],
                _ => sent.clone(),
            });
            let masked: Vec<Vec<u8>> = masked.collect();
            let (out, _) = run(&mask, scope, &cut(&sent, &cuts));
            prop_assert_eq!(String::from_utf8(out).unwrap(), String::from_utf8(masked.concat()).unwrap());
        }
    }

    #[test]
    fn a_stream_is_masked_the_same_for_any_split(
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
            let oracle = if open { oracle } else { oracle_of_whole };
            expected.push_str(&String::from_utf8(oracle(SECRET.as_bytes(), frame.as_bytes())).unwrap());
            text.push_str(&frame);
        }
        let (out, any) = run(&mask, MaskScope::errors(true), &cut(text.as_bytes(), &cuts));
        prop_assert_eq!(any, expected != text);
        prop_assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

/// Frames of a stream, whether they are output, and whether they are errors.
const FRAMES: [(bool, bool, &str); 21] = [
    (false, true, "data: error: ECHO\n\n"),
    (false, true, "data:[ERROR] ECHO\n\n"),
    (false, true, "data: {\"type\":\"warning\",\"info\":\"ECHO\"}\n\n"),
    // The text that shows an error comes too late to mask parts before it.
    (true, false, "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"info\":\"ECHO\",\"type\":\"error\"}\n\n"),
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
fn errors_inside_a_successful_answer_are_masked() {
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
        let piece = &SECRET[2..20];
        let (sent, expected) = (sent.replace("ECHO", piece), expected.replace("ECHO", piece));
        let expected = expected.replace("****", &"*".repeat(piece.len()));
        for at in 0..sent.len() {
            let (out, any) = run(&mask, MaskScope::errors(false), &[&sent.as_bytes()[..at], &sent.as_bytes()[at..]]);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "cut at {at}");
            assert_eq!(any, sent != expected);
        }
    }
}

#[test]
fn a_long_credential_is_masked_completely_anywhere() {
    let mask = mask(SECRET);
    let escaped: String = SECRET.bytes().map(|byte| format!("\\u{byte:04x}")).collect();
    let partly = format!("\\u0078{}", &SECRET[1..]);
    for echo in [SECRET, &escaped, &partly] {
        for (is_stream, text) in [
            (false, r#"{"output":[{"text":"is ECHO yours?"}],"type":"error"}"#),
            (
                true,
                "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"ECHO\"}}]}\nevent: error\n\n",
            ),
            (
                true,
                "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"info\":\"ECHO\",\"type\":\"error\"}\n\n",
            ),
        ] {
            let (sent, expected) = (text.replace("ECHO", echo), text.replace("ECHO", &"*".repeat(echo.len())));
            for scope in [|is_stream| MaskScope::errors(is_stream), |_| MaskScope::ByFirstByte, |_| MaskScope::Whole] {
                for at in 0..sent.len() {
                    let pieces = [&sent.as_bytes()[..at], &sent.as_bytes()[at..]];
                    let (out, any) = run(&mask, scope(is_stream), &pieces);
                    assert_eq!(String::from_utf8(out).unwrap(), expected, "cut at {at}");
                    assert!(any);
                }
            }
        }
    }
}

/// A client whose text is repeated in an error must not learn from the stars how the credential continues.
#[test]
fn the_well_known_prefix_of_a_credential_is_not_masked() {
    let unknown = "Q7fT2mZp9LrVb4NcWd8s";
    for known in ["sk-ant-api03-", "sk-proj-", "sk-or-v1-", "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxIn0."] {
        let secret = format!("{known}{unknown}");
        let mask = mask(&secret);
        for guessed in 0..BEYOND {
            assert_eq!(
                mask.masked(format!("no {known}{}!", &unknown[..guessed]).as_bytes()),
                None,
                "{known} {guessed}"
            );
        }
        for (echo, stars) in
            [(&*secret, secret.len()), (&unknown[..12], 12), (&secret[..known.len() + BEYOND], known.len() + 8)]
        {
            let masked = mask.masked(echo.as_bytes()).unwrap();
            assert_eq!(masked, vec![STAR; stars], "{echo}");
        }
    }
}

#[test]
fn a_short_credential_is_not_masked_in_output() {
    let secret = "nineteen-characters";
    let sent = format!(r#"{{"output":[{{"text":"{secret}"}}],"error":"{secret}"}}"#);
    let (out, any) = run(&mask(secret), MaskScope::errors(false), &[sent.as_bytes()]);
    let expected = sent.replace(&format!(r#""error":"{secret}""#), r#""error":"*******************""#);
    assert_eq!((String::from_utf8(out).unwrap(), any), (expected, true));
}

#[test]
fn output_is_held_back_only_while_it_may_begin_the_credential() {
    let mask = mask(SECRET);
    let begin = r#"data: {"choices":[{"delta":{"content":""#;
    for (text, held) in [
        (String::new(), 0),
        (SECRET[..1].to_owned(), 1),
        (SECRET[..30].to_owned(), 30),
        // The middle of it is not the beginning.
        (SECRET[1..30].to_owned(), 0),
        (r"\u0078k".to_owned(), 7),
        (r"\u00".to_owned(), 4),
        ("\\".to_owned(), 1),
        (r"\n".to_owned(), 0),
    ] {
        let mut body = MaskedBody::new(MaskScope::errors(true));
        let (out, any) = body.pass(&mask, format!("{begin}{text}").into(), false);
        assert_eq!((body.held(), out.len(), any), (held, begin.len() + text.len() - held, false), "{text}");
    }
}

#[test]
fn the_first_byte_of_a_body_overrides_its_content_type() {
    let (mask, piece) = (mask(SECRET), &SECRET[..16]);
    for (sent, is_masked) in [
        (format!(r#" {{"error":"{piece}"}}"#), true),
        (format!(r#"[{{"error":"{piece}"}}]"#), true),
        (format!("data: {{\"error\":\"{piece}\"}}\n\n"), true),
        (format!("event: error\ndata: {piece}\n\n"), true),
        (format!("<Error>{piece}</Error>"), true),
        (format!("RIFF{piece}"), false),
    ] {
        let expected = if is_masked { sent.replace(piece, &"*".repeat(16)) } else { sent.clone() };
        for at in 0..sent.len() {
            let (out, _) = run(&mask, MaskScope::ByFirstByte, &[&sent.as_bytes()[..at], &sent.as_bytes()[at..]]);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "cut at {at}");
        }
    }
}

#[tokio::test]
async fn only_a_coded_body_that_repeats_the_credential_is_refused() {
    let mask = mask(SECRET);
    let output = |text: &str| format!(r#"{{"output":[{{"text":"{text}"}}]}}"#);
    for (text, repeats) in [
        (output("harmless"), false),
        (output(&SECRET[..20]), false),
        (output(&format!("xk-{}", &SECRET[..3])), false),
        (output(SECRET), true),
        (format!(r#"{{"error":"{}"}}"#, &SECRET[..12]), true),
    ] {
        let mut sent = Vec::new();
        GzipEncoder::new(text.as_bytes()).read_to_end(&mut sent).await.unwrap();
        for size in [1, 7, sent.len()] {
            let mut body = CodedBody::new(Some(crate::protocol::coding::Coding::Gzip), MaskScope::errors(false));
            let pieces: Vec<_> = sent.chunks(size).collect();
            let mut out = Vec::new();
            let found = pieces.iter().enumerate().any(|(place, piece)| {
                let passed = body.pass(&mask, Bytes::copy_from_slice(piece), place + 1 == pieces.len());
                passed.map(|passed| out.extend_from_slice(&passed)).is_err()
            });
            assert_eq!(found, repeats, "{text}");
            assert_eq!(out == sent, !repeats);
            assert_eq!(body.held() == 0, !repeats || size == sent.len());
        }
    }
}

#[test]
fn errors_are_searched_completely_and_other_bodies_up_to_a_limit() {
    let mask = mask(SECRET);
    let piece = &SECRET[3..20];
    for length in [10, 9_000, 70_000] {
        let filler = "x".repeat(length);
        for size in [1000, 16 * 1024] {
            let beyond = format!(r#"{{"output":["{filler}"],"error":"{piece}"}}"#);
            let inside = format!(r#"{{"output":[1],"error":{{"a":"{filler}","b":"{piece}"}},"c":"{piece}"}}"#);
            for (sent, wanted) in [(beyond, usize::from(length < 64 * 1024)), (inside, 1)] {
                let pieces: Vec<_> = sent.as_bytes().chunks(size).collect();
                let (out, _) = run(&mask, MaskScope::errors(false), &pieces);
                let stars = out.iter().filter(|byte| **byte == STAR).count();
                assert_eq!((out.len(), stars), (sent.len(), wanted * piece.len()), "{length} {size}");
            }
        }
    }
}

#[test]
fn a_very_short_secret_is_not_masked_and_debug_output_shows_no_secret() {
    assert!(Mask::new([&b"key"[..]]).is_none());
    assert!(Mask::new([]).is_none());
    assert_eq!(format!("{:?}", mask(SECRET)), "Mask { .. }");
    let forms: Vec<_> = forms(b"a+b/c").into_iter().map(|form| String::from_utf8(form).unwrap()).collect();
    assert_eq!(forms, ["a+b/c", "a%2Bb%2Fc", "a%2bb%2fc"]);
}

/// Figures for whoever runs it with --release --nocapture: what an ordinary stream costs.
#[test]
#[ignore = "a measurement"]
fn masking_an_ordinary_answer_is_cheap() {
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
