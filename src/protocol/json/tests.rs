use proptest::{collection::vec, prelude::*, sample::Index};
use serde::de::IgnoredAny;

use super::*;

static PATHS: Paths = Paths::new(&[
    &["model"],
    &["stream"],
    &["conversation"],
    &["conversation", "id"],
    &["response", "id"],
    &["response", "usage", "input_tokens_details", "cached_tokens"],
]);
const MODEL: usize = 0;
const STREAM: usize = 1;
const CONVERSATION: usize = 2;
const CONVERSATION_ID: usize = 3;
const RESPONSE_ID: usize = 4;
const CACHED: usize = 5;

type Scan = Result<Vec<Option<FoundValue>>, JsonError>;

fn end(scanner: &mut Scanner) -> Scan {
    scanner.finish().map(|()| (0..6).map(|path| scanner.found(path).cloned()).collect())
}

fn scan_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, repeats: DuplicatePolicy) -> Scan {
    let mut scanner = Scanner::new(&PATHS, repeats);
    for piece in pieces {
        scanner.feed(piece)?;
    }
    end(&mut scanner)
}

fn scan(text: impl AsRef<[u8]>, repeats: DuplicatePolicy) -> Scan {
    scan_pieces([text.as_ref()], repeats)
}

fn refused(text: impl AsRef<[u8]>) -> JsonErrorKind {
    scan(text, DuplicatePolicy::Refuse).unwrap_err().kind
}

/// The value of `model`.
fn model(text: impl AsRef<[u8]>) -> Option<Value> {
    scan(text, DuplicatePolicy::Refuse).unwrap()[MODEL].clone().map(|found| found.value)
}

fn string(text: &str) -> Option<Value> {
    Some(Value::String(text.into()))
}

fn at<'a>(text: &'a str, found: &Option<FoundValue>) -> &'a str {
    let range = found.as_ref().unwrap().range.clone();
    &text[range.start as usize..range.end as usize]
}

#[test]
fn finds_ranges_and_values() {
    let text = r#" { "input" : [ { "model" : "inner" } , "\"model\":" ], "model": "m\u00e9\ud83d\ude00\n" , "stream":true,
        "conversation": {"id":"conv_1", "x":[{"id":2}]}, "response":{"usage":{"input_tokens_details":{"cached_tokens":-1.5e+3}}}, "id":7} "#;
    let found = scan(text, DuplicatePolicy::Refuse).unwrap();
    assert_eq!(found[MODEL].as_ref().unwrap().value, Value::String("mé😀\n".into()));
    assert_eq!(at(text, &found[MODEL]), r#""m\u00e9\ud83d\ude00\n""#);
    assert_eq!(found[STREAM].as_ref().unwrap().value, Value::Bool(true));
    assert_eq!(at(text, &found[STREAM]), "true");
    assert_eq!(found[CONVERSATION].as_ref().unwrap().value, Value::Object);
    assert_eq!(at(text, &found[CONVERSATION]), r#"{"id":"conv_1", "x":[{"id":2}]}"#);
    assert_eq!(at(text, &found[CONVERSATION_ID]), r#""conv_1""#);
    assert_eq!(found[RESPONSE_ID], None);
    assert_eq!(found[CACHED].as_ref().unwrap().value, Value::Number("-1.5e+3".into()));
    assert_eq!(at(text, &found[CACHED]), "-1.5e+3");
}

#[test]
fn gives_every_kind_of_value() {
    for (text, value) in [
        ("null", Value::Null),
        ("false", Value::Bool(false)),
        ("0", Value::Number("0".into())),
        ("[[],{}]", Value::Array),
        ("{\"model\":1}", Value::Object),
        (r#""\"\\\/\b\f\n\r\t\u0041""#, Value::String("\"\\/\u{8}\u{c}\n\r\tA".into())),
        ("\"\"", Value::String("".into())),
    ] {
        let text = format!("{{\"a\":1,\"model\":{text}}}");
        assert_eq!(model(&text), Some(value));
    }
    let number = "1".repeat(NUMBER_LIMIT);
    assert_eq!(model(format!("{{\"model\":{number}}}")), Some(Value::Number(number.as_str().into())));
    assert_eq!(model(format!("{{\"model\":{number}1}}")), Some(Value::LongNumber));
    assert_eq!(model(format!("{{\"model\":{}}}", number.repeat(20))), Some(Value::LongNumber));
    let text = "é".repeat(STRING_LIMIT / 2);
    assert_eq!(model(format!("{{\"model\":\"{text}\"}}")), string(&text));
    assert_eq!(model(format!("{{\"model\":\"{text}a\"}}")), Some(Value::LongString));
    assert_eq!(model(format!("{{\"model\":\"{text}\\u0041\\ud800\"}}")), Some(Value::LongString));
}

#[test]
fn strings_with_invalid_text_are_distinguished() {
    for text in [
        &b"\"\\ud800\""[..],
        b"\"\\udc00\"",
        b"\"\\ud800\\ud800\"",
        b"\"\\ud800x\"",
        b"\"\\ud800\\n\"",
        b"\"\\x\"",
        b"\"\\u12\"",
        b"\"\\u12\\\"\"",
    ] {
        let body = [b"{\"model\":", text, b"}"].concat();
        assert_eq!(model(&body), Some(Value::InvalidString), "{}", text.escape_ascii());
        // This key is not wanted, so it passes.
        assert_eq!(model([b"{\"input\":", text, b"}"].concat()), None);
        assert_eq!(refused([b"{", text, b":1}"].concat()), JsonErrorKind::InvalidKey);
        assert!(scan([b"{", text, b":1}"].concat(), DuplicatePolicy::LastWins).is_ok());
    }
}

/// One row each of the table in docs/wire.md, section 8: what parsers disagree about.
#[test]
fn ambiguous_texts_are_refused() {
    use JsonErrorKind::*;
    for (text, kind) in [
        (&br#"{"model":"a","model":"b"}"#[..], Repeated { name: "model" }),
        (br#"{"model":"a","\u006dodel":"b"}"#, Repeated { name: "model" }),
        (br#"{"model":null,"x":{},"mod\u0065l":null}"#, Repeated { name: "model" }),
        (br#"{"conversation":{},"conversation":{"id":"a"}}"#, Repeated { name: "conversation" }),
        (br#"{"conversation":{"id":1,"id":2}}"#, Repeated { name: "id" }),
        (br#"{"response":{},"response":[]}"#, Repeated { name: "response" }),
        (br#"{"Model":"a"}"#, LetterCase { name: "model" }),
        (br#"{"model":"a","MODEL":"b"}"#, LetterCase { name: "model" }),
        (br#"{"\u004dodel":"a","model":"b"}"#, LetterCase { name: "model" }),
        ("{\"\u{17f}tream\":true}".as_bytes(), LetterCase { name: "stream" }),
        (br#"{"\u017ftream":true}"#, LetterCase { name: "stream" }),
        (br#"{"conversation":{"ID":"a"}}"#, LetterCase { name: "id" }),
        (b"\xEF\xBB\xBF{}", ByteOrderMark),
        (b"\xFF\xFE{\0}\0", ByteOrderMark),
        (b"\xFE\xFF\0{\0}", ByteOrderMark),
        (b"{\0}\0", Syntax),
        (b"\0{\0}", NotAnObject),
        (br#"{"a":NaN}"#, Syntax),
        (br#"{"a":Infinity}"#, Syntax),
        (br#"{"a":-Infinity}"#, Syntax),
        (b"{}x", TrailingGarbage),
        (b"{}{}", TrailingGarbage),
        (b"{} \xEF\xBB\xBF", TrailingGarbage),
        (b"", Empty),
        (b" \t\r\n", Empty),
        (b"[]", NotAnObject),
        (b"\"model\"", NotAnObject),
        (b"null", NotAnObject),
        (b"1", NotAnObject),
        (b" \xEF\xBB\xBF{}", NotAnObject),
    ] {
        assert_eq!(refused(text), kind, "{}", text.escape_ascii());
    }
    // Only what we act on is held to that.
    let found =
        scan(r#"{"a":1,"a":2,"input":{"model":1,"model":2,"Model":3},"ID":1}  "#, DuplicatePolicy::Refuse).unwrap();
    assert_eq!(found, vec![None; 6]);
    assert!(
        scan(r#"{"a":1e400,"b":99999999999999999999999999999999999999999999,"c":-0.0e-0}"#, DuplicatePolicy::Refuse)
            .is_ok()
    );
    assert_eq!(
        scan(
            r#"{"model":1,"Model":2,"model":"3","conversation":{"id":4},"conversation":{}}"#,
            DuplicatePolicy::LastWins
        )
        .unwrap()
        .into_iter()
        .map(|found| found.map(|found| found.value))
        .collect::<Vec<_>>()[..4],
        [string("3"), None, Some(Value::Object), Some(Value::Number("4".into()))]
    );
}

#[test]
fn syntax_is_strict() {
    for text in [
        "{a:1}",
        "{'a':1}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":,}",
        "{\"a\":1,}",
        "{,}",
        "{\"a\":1 \"b\":2}",
        "{\"a\" 1}",
        "{]",
        "{\"a\":[}",
        "{\"a\":[1,]}",
        "{\"a\":[,1]}",
        "{\"a\":[1 2]}",
        "{\"a\":[1}}",
        "{\"a\":{]}",
        "{\"a\":1]",
        "{\"a\":01}",
        "{\"a\":-}",
        "{\"a\":1.}",
        "{\"a\":.5}",
        "{\"a\":1e}",
        "{\"a\":1e+}",
        "{\"a\":+1}",
        "{\"a\":1.e1}",
        "{\"a\":0x1}",
        "{\"a\":--1}",
        "{\"a\":tru}",
        "{\"a\":True}",
        "{\"a\":nul l}",
        "{\"a\":truefalse}",
        "{\"a\":\"\"\"\"}",
        "{\"a\":1/**/}",
        "{\u{b}}",
        "{\u{a0}}",
        "{\"model\":1.}",
        "{\"model\":t}",
    ] {
        assert_eq!(refused(text), JsonErrorKind::Syntax, "{text}");
    }
    let whole = r#"{"a":[1,-2.5e3,true,null,{"b":"c\\"}],"model":"x\u0041"}"#;
    assert!(scan(whole, DuplicatePolicy::Refuse).is_ok());
    for end in 1..whole.len() {
        let error = scan(&whole[..end], DuplicatePolicy::Refuse).unwrap_err();
        assert_eq!(error, JsonError { kind: JsonErrorKind::Truncated, at: end as u64 });
    }
}

#[test]
fn keys_over_the_limit_are_checked_to_their_end() {
    for len in [STRING_LIMIT - 1, STRING_LIMIT, STRING_LIMIT + 1, 3 * STRING_LIMIT - 1, 3 * STRING_LIMIT] {
        let long = "é".repeat(len / 2) + if len % 2 == 1 { "x" } else { "" };
        assert!(scan(format!("{{\"{long}é\":1,\"model\":2}}"), DuplicatePolicy::Refuse).unwrap()[MODEL].is_some());
        let bad = [b"{\"", long.as_bytes(), b"\\ud800\":1}"].concat();
        assert_eq!(refused(&bad), JsonErrorKind::InvalidKey);
        assert_eq!(scan_pieces(bad.chunks(1), DuplicatePolicy::Refuse), scan(&bad, DuplicatePolicy::Refuse));
    }
}

#[test]
fn an_error_is_final() {
    let mut scanner = Scanner::new(&PATHS, DuplicatePolicy::Refuse);
    let error = scanner.feed(b"{\"a\":x").unwrap_err();
    assert_eq!(error.at, 5);
    assert_eq!(scanner.feed(b"1}"), Err(error));
    assert_eq!(scanner.finish(), Err(error));
    assert_eq!(error.to_string(), "the JSON has a syntax error (at byte 5 of the JSON text)");
    scanner.reset();
    scanner.feed(b"{\"model\":1}").unwrap();
    scanner.finish().unwrap();
    scanner.reset();
    assert_eq!(scanner.found(MODEL), None);
    assert_eq!(scanner.finish().unwrap_err().kind, JsonErrorKind::Empty);
}

#[test]
fn nesting_costs_one_bit_a_level() {
    let levels = 1_000_000;
    let mut text = b"{\"a\":".to_vec();
    text.resize(text.len() + levels, b'[');
    assert_eq!(refused(&text), JsonErrorKind::Truncated);
    text.resize(text.len() + levels, b']');
    text.extend_from_slice(b",\"model\":1}");
    assert_eq!(model(&text), Some(Value::Number("1".into())));
    let mut scanner = Scanner::new(&PATHS, DuplicatePolicy::Refuse).max_depth(100);
    assert_eq!(scanner.feed(&text).unwrap_err(), JsonError { kind: JsonErrorKind::TooDeep, at: 104 });
    // Objects and arrays in turn, past the words of the stack.
    let mixed = "[{\"b\":".repeat(200) + "0" + &"}]".repeat(200);
    assert_eq!(model(format!("{{\"a\":{mixed},\"model\":{mixed}}}")), Some(Value::Array));
    assert_eq!(refused(format!("{{\"a\":{}}}", mixed.replacen("]}", "}]", 1))), JsonErrorKind::Syntax);
}

#[test]
fn any_split_of_a_sample_gives_the_same_result() {
    for text in [
        &br#" {"model" : "m\u00e9\ud83d\ude00", "x":[1,-0.5E+7,{"model":null}],"stream":false}"#[..],
        br#"{"conversation":{"id":"a\"\\"},"\u006dodel":"b","m":[[],{}],"model":1}"#,
        br#"{"response":{"id":123,"usage":{"input_tokens_details":{"cached_tokens":64 }}}} x"#,
        b"{\"\xe2\x84\xaa\":\"\xff\",\"stream\":\"\xf0\x9f\x98\x80\",\"\xc5\xbftream\":1}",
        br#"{"model":"\ud800\u0041","a":tru3}"#,
        b"\xEF\xBB\xBF{}",
    ] {
        for repeats in [DuplicatePolicy::Refuse, DuplicatePolicy::LastWins] {
            let whole = scan(text, repeats);
            assert_eq!(scan_pieces(text.chunks(1), repeats), whole);
            for a in 0..=text.len() {
                for b in a..=text.len() {
                    assert_eq!(scan_pieces([&text[..a], &text[a..b], &text[b..]], repeats), whole);
                }
            }
        }
    }
}

/// Whitespace, as text.
fn space() -> impl Strategy<Value = String> {
    prop_oneof![6 => Just(String::new()), 1 => "[ \t\r\n]{1,5}"]
}

/// A JSON string, as text: raw characters and escapes, surrogate pairs among them.
fn json_text() -> impl Strategy<Value = String> {
    let char = prop_oneof![
        8 => "[a-zé€😀 {}\\[\\]:,]{1,8}",
        2 => prop::sample::select(vec!["\\\"", "\\\\", "\\/", "\\b", "\\n", "\\u0041", "\\u00e9", "\\ud83d\\ude00", "\\u017f"]).prop_map(String::from),
    ];
    vec(char, 0..5).prop_map(|chars| format!("\"{}\"", chars.concat()))
}

/// A key, as text; often one that a path knows.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec![
            r#""model""#, r#""mod\u0065l""#, r#""Model""#, r#""stream""#, r#""id""#, r#""response""#, r#""conversation""#, r#""usage""#, r#""a""#, "\"\u{17f}tream\"",
        ])
        .prop_map(String::from),
        2 => json_text(),
    ]
}

fn object(value: impl Strategy<Value = String> + 'static) -> impl Strategy<Value = String> {
    let field = (space(), key(), space(), space(), value, space())
        .prop_map(|(a, key, b, c, value, d)| format!("{a}{key}{b}:{c}{value}{d}"));
    (space(), vec(field, 0..7)).prop_map(|(space, fields)| {
        if fields.is_empty() { format!("{{{space}}}") } else { format!("{{{}}}", fields.join(",")) }
    })
}

/// A JSON object, as text.
fn document() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,5})?([eE][+-]?[0-9]{1,2})?",
        json_text(),
    ];
    let value = leaf.prop_recursive(5, 40, 6, |value| {
        let array = (space(), vec((space(), value.clone(), space()), 0..5)).prop_map(|(space, items)| {
            let items: Vec<_> = items.into_iter().map(|(a, item, b)| a + &item + &b).collect();
            if items.is_empty() { format!("[{space}]") } else { format!("[{}]", items.join(",")) }
        });
        prop_oneof![array, object(value)]
    });
    (space(), object(value), space()).prop_map(|(a, object, b)| a + &object + &b)
}

/// Cuts `text` at some places.
fn cut<'a>(text: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    cuts.extend([0, text.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

/// The text with everything between quotes made harmless.
fn without_contents(text: &[u8]) -> Vec<u8> {
    let mut bytes = text.iter();
    let mut inside = false;
    let mut harmless = Vec::new();
    while let Some(&byte) = bytes.next() {
        match (inside, byte) {
            (_, b'"') => {
                inside = !inside;
                harmless.push(byte);
            }
            (true, b'\\') => _ = bytes.next(),
            (true, _) => {}
            (false, _) => harmless.push(byte),
        }
    }
    harmless
}

/// Each byte from some places on is replaced, removed or doubled.
fn mutated(text: &str, mutations: &[(Index, u8, u8)]) -> Vec<u8> {
    let mut text = text.as_bytes().to_vec();
    for (place, how, byte) in mutations {
        if text.is_empty() {
            break;
        }
        let place = place.index(text.len());
        match how {
            0 => text[place] = *byte,
            1 => _ = text.remove(place),
            2 => text.insert(place, *byte),
            _ => text.truncate(place),
        }
    }
    text
}

fn any_byte() -> impl Strategy<Value = u8> {
    prop_oneof![prop::sample::select(br#"{}[]":,\ 0123456789-+.eEtrufalsn"#.to_vec()), any::<u8>()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// serde_json's `Value` takes the last of several, as we do.
    #[test]
    fn finds_what_serde_json_finds(text in document(), cuts in vec(any::<Index>(), 0..12)) {
        let oracle: serde_json::Value = serde_json::from_str(&text).unwrap();
        let found = scan_pieces(cut(text.as_bytes(), &cuts), DuplicatePolicy::LastWins).unwrap();
        prop_assert_eq!(&found, &scan(&text, DuplicatePolicy::LastWins).unwrap());
        for (path, name) in [(MODEL, "model"), (STREAM, "stream"), (CONVERSATION, "conversation")] {
            let Some(value) = oracle.get(name) else {
                prop_assert_eq!(&found[path], &None);
                continue;
            };
            let parsed: serde_json::Value = serde_json::from_str(at(&text, &found[path])).unwrap();
            prop_assert_eq!(&parsed, value);
            prop_assert_eq!(at(&text, &found[path]).trim(), at(&text, &found[path]));
            match &found[path].as_ref().unwrap().value {
                Value::Null => prop_assert!(value.is_null()),
                Value::Bool(bool) => prop_assert_eq!(value.as_bool(), Some(*bool)),
                Value::Number(number) => prop_assert_eq!(&**number, at(&text, &found[path])),
                Value::String(string) => prop_assert_eq!(value.as_str(), Some(&**string)),
                Value::Object => prop_assert!(value.is_object()),
                Value::Array => prop_assert!(value.is_array()),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    /// Refusing is the same scan, unless a name on a path stands there twice or in other letters.
    #[test]
    fn refuses_only_what_is_ambiguous(text in document(), cuts in vec(any::<Index>(), 0..12)) {
        let refusing = scan_pieces(cut(text.as_bytes(), &cuts), DuplicatePolicy::Refuse);
        prop_assert_eq!(&refusing, &scan(&text, DuplicatePolicy::Refuse));
        match refusing {
            Ok(found) => {
                prop_assert_eq!(&found, &scan(&text, DuplicatePolicy::LastWins).unwrap());
                let Keys(keys) = serde_json::from_str(&text).unwrap();
                for name in ["model", "stream", "conversation", "response"] {
                    prop_assert!(keys.iter().filter(|key| key.replace('ſ', "s").eq_ignore_ascii_case(name)).count() <= 1);
                    prop_assert!(keys.iter().all(|key| key == name || !key.replace('ſ', "s").eq_ignore_ascii_case(name)));
                }
            }
            Err(error) => {
                let ambiguous = matches!(error.kind, JsonErrorKind::Repeated { .. } | JsonErrorKind::LetterCase { .. });
                prop_assert!(ambiguous, "{error}");
            }
        }
    }

    /// Structure is judged as serde_json judges it, only contents of strings are not.
    #[test]
    fn accepts_what_serde_json_accepts(
        text in document(),
        mutations in vec((any::<Index>(), 0..4u8, any_byte()), 1..4),
        cuts in vec(any::<Index>(), 0..12),
    ) {
        let text = mutated(&text, &mutations);
        let ours = scan_pieces(cut(&text, &cuts), DuplicatePolicy::LastWins);
        prop_assert_eq!(&ours, &scan(&text, DuplicatePolicy::LastWins));
        prop_assert_eq!(
            scan_pieces(cut(&text, &cuts), DuplicatePolicy::Refuse),
            scan_pieces(text.chunks(1), DuplicatePolicy::Refuse)
        );
        let is_object = text.trim_ascii_start().first() == Some(&b'{');
        if serde_json::from_slice::<IgnoredAny>(&text).is_ok() && is_object {
            prop_assert!(ours.is_ok(), "{:?}", ours);
        }
        // Without contents, two texts differ in nothing but structure.
        let structure = serde_json::from_slice::<IgnoredAny>(&without_contents(&text)).is_ok();
        prop_assert_eq!(ours.is_ok(), structure && is_object);
    }

    /// A string is text to us exactly if it is to serde_json.
    #[test]
    fn strings_are_accepted_as_by_serde_json(
        content in vec(prop_oneof![
            prop::sample::select(vec![&b"\\"[..], b"\\u", b"d83d", b"\\ude00", b"\\ud83d", b"\\n", b"\xe2\x84", b"\xaa", b"00e9", b"\"", b"abc"]).prop_map(<[u8]>::to_vec),
            vec(any::<u8>(), 1..3),
        ], 0..8),
        filler in 0..600usize,
        cuts in vec(any::<Index>(), 0..6),
    ) {
        let filler = if filler < 300 { 0 } else { filler - 88 };
        let token = [&b"\""[..], &vec![b'x'; filler], &content.concat(), b"\""].concat();
        let text = [b"{\"model\":", &token[..], b"}"].concat();
        let found = scan_pieces(cut(&text, &cuts), DuplicatePolicy::Refuse);
        prop_assert_eq!(&found, &scan(&text, DuplicatePolicy::Refuse));
        let Ok(found) = found else { return Ok(()) };
        let Some(found) = &found[MODEL] else { return Ok(()) };
        if (found.range.end - found.range.start) as usize != token.len() {
            return Ok(());
        }
        match serde_json::from_slice::<String>(&token) {
            Ok(text) if text.len() <= STRING_LIMIT => prop_assert_eq!(&found.value, &Value::String(text.into())),
            Ok(_) => prop_assert_eq!(&found.value, &Value::LongString),
            Err(_) => prop_assert!(matches!(found.value, Value::InvalidString | Value::LongString)),
        }
    }
}

/// The top-level keys of an object, repeated ones too.
struct Keys(Vec<String>);

impl<'de> serde::Deserialize<'de> for Keys {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Keys;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, IgnoredAny)) = map.next_entry()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}
