use bytes::Bytes;
use proptest::{collection::vec, prelude::*, sample::Index};
use serde_json::{Map, Value, json};

use super::request::{MOST, Request, RequestScan, Used};
use crate::{
    domain::origin::{Kind, Reference},
    protocol::{
        body::Rope,
        json::{JsonError, JsonErrorKind},
    },
};

mod oracle;
pub(in crate::protocol) mod texts;

fn scan_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Request, JsonError> {
    let mut scan = RequestScan::new();
    for piece in pieces {
        scan.feed(piece)?;
    }
    scan.finish()
}

fn scan(text: impl AsRef<[u8]>) -> Result<Request, JsonError> {
    scan_pieces([text.as_ref()])
}

fn refused(text: impl AsRef<[u8]>) -> JsonErrorKind {
    let text = text.as_ref();
    let error = scan(text).unwrap_err();
    assert_eq!(scan_pieces(text.chunks(1)).unwrap_err(), error, "{}", text.escape_ascii());
    error.kind
}

/// The kinds of references, and the hashes of those that can be looked up.
fn hashes(used: &[Used]) -> Vec<(Kind, Option<Reference>)> {
    used.iter().map(|used| (used.kind, used.reference)).collect()
}

fn expected(found: &[(Kind, &str)]) -> Vec<(Kind, Option<Reference>)> {
    found.iter().map(|(kind, text)| (*kind, Some(Reference::new(*kind, text.as_bytes())))).collect()
}

#[track_caller]
fn finds(text: impl AsRef<[u8]>, found: &[(Kind, &str)]) {
    let text = text.as_ref();
    let request = scan(text).unwrap();
    assert_eq!(hashes(&request.references), expected(found), "{}", text.escape_ascii());
    for split in [1, 2, 7] {
        assert_eq!(scan_pieces(text.chunks(split)).unwrap().references, request.references);
    }
}

/// Every place that is documented.
#[test]
fn finds_references_in_their_places() {
    use Kind::*;
    for (text, found) in [
        (r#"{"previous_response_id":"resp_1"}"#, vec![(Response, "resp_1")]),
        (r#"{"extra_body":{"previous_response_id":"resp_1"}}"#, vec![(Response, "resp_1")]),
        (r#"{"prompt_cache_options":{"comparison_response_id":"resp_1"}}"#, vec![(Response, "resp_1")]),
        (r#"{"conversation":"conv_1"}"#, vec![(Conversation, "conv_1")]),
        (r#"{"conversation":{"id":"conv_1"}}"#, vec![(Conversation, "conv_1")]),
        (
            r#"{"input":[{"type":"item_reference","id":"rs_1"},{"id":"msg_1","role":"assistant"}]}"#,
            vec![(Item, "rs_1"), (Item, "msg_1")],
        ),
        (r#"{"items":[{"type":"message","id":"msg_1"}],"metadata":{"id":"x"}}"#, vec![(Item, "msg_1")]),
        (r#"{"input":{"id":"msg_1"}}"#, vec![(Item, "msg_1")]),
        (r#"{"input":[[{"id":"msg_1"}]]}"#, vec![(Item, "msg_1")]),
        (
            r#"{"input":[{"type":"mcp_approval_response","approval_request_id":"mcpr_1","approve":true}]}"#,
            vec![(Item, "mcpr_1")],
        ),
        (
            r#"{"input":[{"type":"reasoning","id":"rs_1","encrypted_content":"gA=="}]}"#,
            vec![(Item, "rs_1"), (Encrypted, "gA==")],
        ),
        (r#"{"input":[{"type":"compaction","encrypted_content":"gB"}]}"#, vec![(Encrypted, "gB")]),
        (
            r#"{"input":[{"type":"agent_message","content":[{"type":"encrypted_content","encrypted_content":"gC"}]}]}"#,
            vec![(Encrypted, "gC")],
        ),
        (
            r#"{"input":[{"role":"user","content":[{"type":"input_file","file_id":"file-1"},{"type":"input_image","file_id":"file-2"}]}]}"#,
            vec![(File, "file-1"), (File, "file-2")],
        ),
        (
            r#"{"input":[{"type":"computer_call_output","call_id":"c","output":{"type":"computer_screenshot","file_id":"file-1"}}]}"#,
            vec![(File, "file-1")],
        ),
        (
            r#"{"input":[{"type":"function_call_output","call_id":"c","output":[{"type":"input_file","file_id":"file-1"}]}]}"#,
            vec![(File, "file-1")],
        ),
        (r#"{"tools":[{"type":"image_generation","input_image_mask":{"file_id":"file-1"}}]}"#, vec![(File, "file-1")]),
        (
            r#"{"tools":[{"type":"code_interpreter","container":{"type":"auto","file_ids":["file-1","file-2"]}}]}"#,
            vec![(File, "file-1"), (File, "file-2")],
        ),
        (r#"{"tools":[{"type":"code_interpreter","container":"cntr_1"}]}"#, vec![(Container, "cntr_1")]),
        (
            r#"{"tools":[{"type":"shell","environment":{"type":"container_reference","container_id":"cntr_1"}}]}"#,
            vec![(Container, "cntr_1")],
        ),
        (
            r#"{"tools":[{"type":"shell","environment":{"type":"container_auto","skills":[{"type":"skill_reference","skill_id":"skill_1"},
            {"type":"skill_reference","skill_id":"openai-spreadsheets"}]}}]}"#,
            vec![(Skill, "skill_1")],
        ),
        (
            r#"{"input":[{"type":"code_interpreter_call","id":"ci_1","container_id":"cntr_1"}]}"#,
            vec![(Item, "ci_1"), (Container, "cntr_1")],
        ),
        (
            r#"{"tools":[{"type":"file_search","vector_store_ids":["vs_1","vs_2"]}]}"#,
            vec![(VectorStore, "vs_1"), (VectorStore, "vs_2")],
        ),
        (
            r#"{"input":[{"type":"additional_tools","tools":[{"type":"namespace","tools":[{"type":"file_search","vector_store_ids":["vs_1"]}]}]}]}"#,
            vec![(VectorStore, "vs_1")],
        ),
        (
            r#"{"prompt":{"id":"pmpt_1","variables":{"a":"x","file_id":"a name of the caller's","doc":{"type":"input_file","file_id":"file-1"}}}}"#,
            vec![(Prompt, "pmpt_1"), (File, "file-1")],
        ),
        (
            r#"{"messages":[{"role":"assistant","audio":{"id":"audio_1"},"content":[{"type":"file","file":{"file_id":"file-1"}}]}],"audio":{"id":"x"}}"#,
            vec![(Item, "audio_1"), (File, "file-1")],
        ),
        // A citation pins, but the file that it names is not used again.
        (
            r#"{"input":[{"content":[{"annotations":[{"type":"container_file_citation","container_id":"cntr_1","file_id":"cfile_1"}]}]}]}"#,
            vec![(Container, "cntr_1")],
        ),
    ] {
        finds(text, &found);
    }
}

/// The items that are whole, and what has to be looked up for all that they look alike.
#[test]
fn tells_items_that_are_whole() {
    let whole = |item: &str| {
        let around =
            [format!(r#"{{"input":[{item}]}}"#), format!(r#"{{"items":[{item}]}}"#), format!(r#"{{"input":{item}}}"#)];
        around.map(|text| {
            let used = scan(&text).unwrap().references;
            let first = used.iter().find(|used| used.name == "id").unwrap().whole;
            assert!(used.iter().all(|used| used.whole == (first && used.name == "id")), "{text}");
            for split in [1, 3] {
                assert_eq!(scan_pieces(text.as_bytes().chunks(split)).unwrap().references, used, "{text}");
            }
            first
        })
    };
    for item in [
        r#"{"id":"msg_1","role":"user","content":"x"}"#,
        r#"{"id":"msg_1","type":null,"role":"user","content":[]}"#,
        r#"{"type":"message","id":"msg_1","role":"assistant","status":"completed","content":[{"type":"output_text","text":"x"}]}"#,
        r#"{"content":"x","role":"user","\u0074ype":"mess\u0061ge","id":"msg_1"}"#,
        r#"{"type":"function_call","id":"fc_1","call_id":"c","name":"f","arguments":"{}"}"#,
        r#"{"type":"function_call_output","id":"fco_1","call_id":"c","output":"x"}"#,
        r#"{"type":"function_call_output","id":"fco_1","call_id":"c","output":[{"type":"input_text","text":"x"}]}"#,
        r#"{"type":"custom_tool_call","id":"ctc_1","call_id":"c","name":"f","input":"x"}"#,
        r#"{"type":"custom_tool_call_output","id":"ctco_1","call_id":"c","output":"x"}"#,
        r#"{"type":"local_shell_call","id":"lsh_1","call_id":"c","action":{"type":"exec"}}"#,
        r#"{"type":"local_shell_call_output","id":"lsho_1","output":"x"}"#,
        r#"{"type":"shell_call","id":"sh_1","call_id":"c","action":{}}"#,
        r#"{"type":"shell_call_output","id":"sho_1","call_id":"c","output":[]}"#,
        r#"{"type":"apply_patch_call","id":"apc_1","call_id":"c","operation":{}}"#,
        r#"{"type":"apply_patch_call_output","id":"apco_1","call_id":"c","output":""}"#,
        r#"{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"gA"}"#,
        r#"{"encrypted_content":"gA","id":"cmp_1","type":"compaction"}"#,
        r#"{"encrypted_content":"gA","id":"cmp_1","type":"compaction_summary"}"#,
    ] {
        assert_eq!(whole(item), [true; 3], "{item}");
    }
    for item in [
        r#"{"id":"msg_1"}"#,
        r#"{"id":"msg_1","type":null}"#,
        r#"{"id":"msg_1","content":"x"}"#,
        r#"{"id":"msg_1","role":"user","content":null}"#,
        r#"{"id":"msg_1","role":1,"content":"x"}"#,
        r#"{"type":"message","id":"msg_1","role":"user"}"#,
        r#"{"type":"message","id":"msg_1","a":{"role":"user","content":"x"}}"#,
        r#"{"type":"message","id":["msg_1","msg_2"],"role":"user","content":"x"}"#,
        r#"{"type":"item_reference","id":"msg_1","role":"user","content":"x"}"#,
        r#"{"type":"Message","id":"msg_1","role":"user","content":"x"}"#,
        r#"{"type":"","id":"msg_1","role":"user","content":"x"}"#,
        r#"{"type":"reasoning","id":"rs_1","summary":[],"content":[{"type":"reasoning_text","text":"x"}]}"#,
        r#"{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":""}"#,
        r#"{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":null}"#,
        r#"{"type":"reasoning","id":"rs_1","content":[{"encrypted_content":"gA"}]}"#,
        r#"{"type":"reasoning","id":"rs_1","encrypted_content":["gA"]}"#,
        r#"{"type":"reasoning","id":"rs_1","encrypted_content":"\ud800"}"#,
        r#"{"type":"function_call","id":"fc_1","name":"f"}"#,
        r#"{"type":"function_call_output","id":"fc_1","content":"x"}"#,
        r#"{"type":"image_generation_call","id":"ig_1","result":"x"}"#,
        r#"{"type":"code_interpreter_call","id":"ci_1","code":"x","outputs":[]}"#,
        r#"{"type":"web_search_call","id":"ws_1","action":{}}"#,
        r#"{"type":"file_search_call","id":"fs_1","queries":[]}"#,
        r#"{"type":"computer_call","id":"cu_1","action":{}}"#,
        r#"{"type":"computer_call_output","id":"cuo_1","output":{}}"#,
        r#"{"type":"mcp_call","id":"mcp_1","name":"x","arguments":"{}","output":"x"}"#,
        r#"{"type":"mcp_list_tools","id":"mcpl_1","tools":[]}"#,
        r#"{"type":"who_knows","id":"x_1","role":"user","content":"x","name":"f","arguments":"{}","output":"x"}"#,
    ] {
        assert_eq!(whole(item), [false; 3], "{item}");
    }
    for text in [
        r#"{"input":[{"id":"msg_1","role":"user","content":"x","content":null}]}"#,
        r#"{"input":[{"id":"msg_1","role":"user","content":"x","Content":null}]}"#,
        r#"{"items":[{"type":"function_call_output","id":"fco_1","output":"x","output":null}]}"#,
    ] {
        assert!(matches!(refused(text), JsonErrorKind::Repeated { .. } | JsonErrorKind::LetterCase { .. }), "{text}");
    }
}

#[test]
fn leaves_out_what_is_no_reference() {
    for text in [
        r#"{"previous_response_id":null,"conversation":null,"input":"\"file_id\":\"x\"","prompt":"file_id"}"#,
        r#"{"previous_response_id":"","conversation":{"id":""},"input":[{"id":"","encrypted_content":"","file_id":null}]}"#,
        r#"{"conversation":1,"prompt":{"id":1},"tools":[{"container":{"type":"auto"},"file_id":{"x":1},"vector_store_ids":[1,null]}]}"#,
        r#"{"metadata":{"file_id":"x"},"client_metadata":{"container_id":"x"},"id":"x","call_id":"x"}"#,
        r#"{"tools":[{"name":"x","id":"x","parameters":{"properties":{"file_id":{"type":"string","default":"x"}},"file_id":"x"},"headers":{"container":"x"}}]}"#,
        r#"{"text":{"format":{"type":"json_schema","name":"x","schema":{"file_id":"x","encrypted_content":"x"}}}}"#,
        r#"{"response_format":{"type":"json_schema","json_schema":{"schema":{"const":{"file_id":"x"}}}}}"#,
        r#"{"input":[{"type":"function_call","call_id":"x","name":"x","arguments":"{\"file_id\":\"x\"}"}]}"#,
        r#"{"input":[{"type":"tool_search_call","arguments":{"file_id":"x"}}]}"#,
        r#"{"input":[{"type":"file_search_call","results":[{"file_id":"x","attributes":{"file_id":"x"}}]}]}"#,
        r#"{"input":[{"type":"mcp_list_tools","tools":[{"input_schema":{"file_id":"x"},"annotations":{"file_id":"x"}}]}]}"#,
        r#"{"input":[{"type":"mcp_call","error":{"content":{"file_id":"x"}}},{"type":"local_shell_call","action":{"env":{"file_id":"x"}}}]}"#,
        r#"{"input":[{"content":[{"annotations":[{"type":"file_citation","file_id":"x"}]}]}]}"#,
        r#"{"input":[{"type":"computer_call_output","acknowledged_safety_checks":[{"id":"x"}]}]}"#,
        r#"{"a":{"conversation":"x","input":[{"id":"x"}],"prompt":{"id":"x"}}}"#,
    ] {
        finds(text, &[]);
    }
}

#[test]
fn escapes_hide_nothing() {
    use Kind::*;
    finds(r#"{"previous_\u0072esponse_id":"resp_\u0031"}"#, &[(Response, "resp_1")]);
    finds(r#"{"\u0069nput":[{"t\u0079pe":"x","\u0069\u0064":"a\/b\ud83d\ude00"}]}"#, &[(Item, "a/b😀")]);
    finds(r#"{"input":[{"encrypted_content":"a\u003d\/\n\ud83d\ude00é"}]}"#, &[(Encrypted, "a=/\n😀é")]);
    finds(r#"{"metadat\u0061":{"file_id":"x"}}"#, &[]);
}

#[test]
fn tells_where_a_reference_stands() {
    let text = r#"{"input":[{"id": "msg_1" ,"encrypted_content":"gA"}],"tools":[{"file_ids":["a", "b"]}]}"#;
    let used = scan(text).unwrap().references;
    let told: Vec<_> =
        used.iter().map(|used| (used.name, &text[used.range.start as usize..used.range.end as usize])).collect();
    assert_eq!(
        told,
        [("id", "\"msg_1\""), ("encrypted_content", "\"gA\""), ("file_ids", "\"a\""), ("file_ids", "\"b\"")]
    );
}

#[test]
fn what_cannot_be_known_is_unusable() {
    let id = |len: usize| scan(format!("{{\"previous_response_id\":\"{}\"}}", "x".repeat(len))).unwrap().references;
    assert!(id(256)[0].reference.is_some());
    for len in [257, 512, 513, 100_000] {
        assert_eq!(hashes(&id(len)), [(Kind::Response, None)]);
    }
    for text in [
        &br#"{"conversation":"\ud800"}"#[..],
        b"{\"conversation\":\"\xff\"}",
        b"{\"conversation\":\"a\nb\"}",
        br#"{"conversation":"\x"}"#,
    ] {
        assert_eq!(hashes(&scan(text).unwrap().references), [(Kind::Conversation, None)]);
    }
    for text in [
        &br#"{"encrypted_content":"a\ud800"}"#[..],
        br#"{"encrypted_content":"\ud800"}"#,
        br#"{"encrypted_content":"\ud800x\udc00"}"#,
        b"{\"encrypted_content\":\"a\nb\"}",
    ] {
        assert_eq!(hashes(&scan(text).unwrap().references), [(Kind::Encrypted, None)]);
    }
    let megabytes = "gAAA\\/".repeat(1 << 20);
    finds(
        format!("{{\"input\":[{{\"encrypted_content\":\"{megabytes}\"}}]}}"),
        &[(Kind::Encrypted, &"gAAA/".repeat(1 << 20))],
    );
}

/// What two parsers would read in two ways.
#[test]
fn ambiguous_names_are_refused() {
    use JsonErrorKind::*;
    for (text, kind) in [
        (r#"{"previous_response_id":"a","previous_response_id":"b"}"#, Repeated { name: "previous_response_id" }),
        (r#"{"previous_response_id":"a","previous_response_i\u0064":"b"}"#, Repeated { name: "previous_response_id" }),
        (r#"{"Previous_Response_Id":"a"}"#, LetterCase { name: "previous_response_id" }),
        (r#"{"previou\u017f_response_id":"a"}"#, LetterCase { name: "previous_response_id" }),
        (r#"{"conversation":{"id":"a","ID":"b"}}"#, LetterCase { name: "id" }),
        (r#"{"conversation":"a","conversation":null}"#, Repeated { name: "conversation" }),
        (r#"{"input":[],"input":[{"id":"a"}]}"#, Repeated { name: "input" }),
        (r#"{"Input":[{"id":"a"}]}"#, LetterCase { name: "input" }),
        (r#"{"items":[],"ITEMS":[]}"#, LetterCase { name: "items" }),
        (r#"{"prompt":{},"prompt":{}}"#, Repeated { name: "prompt" }),
        (r#"{"prompt":{"id":1,"Id":"a"}}"#, LetterCase { name: "id" }),
        (r#"{"tools":[],"tools":[]}"#, Repeated { name: "tools" }),
        ("{\"tool\u{17f}\":[]}", LetterCase { name: "tools" }),
        (r#"{"input":[{"id":"a","id":"b"}]}"#, Repeated { name: "id" }),
        (r#"{"input":[{"type":"message","\u0074ype":"reasoning"}]}"#, Repeated { name: "type" }),
        (r#"{"input":[{"x":{"file_id":"a","File_Id":"b"}}]}"#, LetterCase { name: "file_id" }),
        ("{\"tools\":[{\"file_id\u{17f}\":[\"a\"]}]}", LetterCase { name: "file_ids" }),
        (r#"{"tools":[{"vector_store_ids":[],"vector_store_ids":["a"]}]}"#, Repeated { name: "vector_store_ids" }),
        (r#"{"tools":[{"container":{},"Container":"a"}]}"#, LetterCase { name: "container" }),
        (r#"{"tools":[{"environment":{"container_id":"a","container_id":"b"}}]}"#, Repeated { name: "container_id" }),
        (r#"{"input":[{"encrypted_content":"a","encrypted_content":"b"}]}"#, Repeated { name: "encrypted_content" }),
        (r#"{"model":"a","MODEL":"b"}"#, LetterCase { name: "model" }),
        (r#"{"prompt_cache_key":"a","prompt_cache_key":"b"}"#, Repeated { name: "prompt_cache_key" }),
        (r#"{"input":[{"\ud800":1}]}"#, InvalidKey),
    ] {
        assert_eq!(refused(text), kind, "{text}");
    }
    // Only what is acted on is held to that, and only where it is.
    finds(
        r#"{"a":1,"a":2,"id":1,"ID":2,"metadata":{"file_id":1,"file_id":2,"FILE_ID":3,"\ud800":4},"x":{"type":1,"Type":2,"id":3,"id":4}}"#,
        &[],
    );
    // In other letters it is no longer left out.
    finds(r#"{"Metadata":{"file_id":"x"}}"#, &[(Kind::File, "x")]);
}

#[test]
fn no_blind_spot_is_deep() {
    let nested = |open: &str, levels: usize, inner: &str, close: &str| {
        format!("{{\"x\":{}{inner}{}}}", open.repeat(levels), close.repeat(levels))
    };
    for levels in [1, 20, 61, 62] {
        finds(nested("{\"y\":", levels, r#"{"file_id":"a"}"#, "}"), &[(Kind::File, "a")]);
        finds(nested("[", levels, r#"{"file_id":"a"}"#, "]"), &[(Kind::File, "a")]);
    }
    for levels in [63, 64, 65, 200, 100_000] {
        for inner in [
            r#"{"file_id":"a"}"#,
            r#"{"FILE_ID":"a"}"#,
            r#"[[],{"x":[{}],"container":{}}]"#,
            r#"{"a":{"metadata":{}},"file_ids":[]}"#,
            r#"[{"metadata":{}},{"file_id":"a"}]"#,
            r#"[{"metadata":[]},[{"file_id":"a"}]]"#,
        ] {
            assert_eq!(refused(nested("{\"y\":", levels, inner, "}")), JsonErrorKind::TooDeep, "{levels} {inner}");
            assert_eq!(refused(nested("[", levels, inner, "]")), JsonErrorKind::TooDeep, "{levels} {inner}");
        }
        // Nothing there that anybody acts on.
        finds(nested("[", levels, r#"{"a":"file_id","id":"a","type":"b","metadata":{"file_id":"a"}}"#, "]"), &[]);
        finds(
            format!("{{\"metadata\":{},\"input\":[{{\"id\":\"a\"}}]}}", nested("[", levels, r#"{"file_id":"b"}"#, "]")),
            &[(Kind::Item, "a")],
        );
    }
    assert_eq!(
        refused(format!("{{\"file_ids\":{}\"a\"{}}}", "[".repeat(100), "]".repeat(100))),
        JsonErrorKind::TooDeep
    );
    assert_eq!(
        refused(format!("{{\"input\":{}{{\"id\":1}}{}}}", "[".repeat(100), "]".repeat(100))),
        JsonErrorKind::TooDeep
    );
}

#[test]
fn references_are_bounded() {
    let body = |count: usize| {
        let items = vec![r#"{"id":"x"}"#; count];
        format!("{{\"input\":[{}]}}", items.join(","))
    };
    let mut scan = RequestScan::new();
    scan.feed(body(MOST).as_bytes()).unwrap();
    assert!(scan.held() >= 56 * MOST as u64 && scan.held() <= 1 << 20, "{}", scan.held());
    assert_eq!(scan.finish().unwrap().references.len(), MOST);
    assert_eq!(refused(body(MOST + 1)), JsonErrorKind::TooManyReferences);
}

#[test]
fn reads_the_fields_of_the_same_scan() {
    let text =
        r#"{"model":"m","stream":true,"store":false,"background":null,"prompt_cache_key":"k","conversation":"c"}"#;
    let request = scan(text).unwrap();
    let at = |found: &Option<crate::protocol::json::Found>| {
        let range = found.as_ref().unwrap().range.clone();
        &text[range.start as usize..range.end as usize]
    };
    assert_eq!([&request.model, &request.background, &request.prompt_cache_key].map(at), ["\"m\"", "null", "\"k\""]);
    assert!(scan("{}").unwrap().model.is_none());
    // Others may stand twice: nobody here acts on them.
    finds(r#"{"stream":true,"stream":false,"Store":1,"store":2}"#, &[]);
    // Where no field is acted on, only references are.
    let mut scan = RequestScan::without_fields();
    scan.feed(br#"{"model":1,"MODEL":2,"model":3,"items":[{"id":"msg_1"}]}"#).unwrap();
    let request = scan.finish().unwrap();
    assert!(request.model.is_none() && hashes(&request.references) == expected(&[(Kind::Item, "msg_1")]));
}

/// What is left of the text, parsed.
fn cut(text: &str, request: &Request) -> Value {
    let mut rope = Rope::new();
    rope.push(Bytes::copy_from_slice(text.as_bytes()));
    let left: Vec<u8> = rope.edited(&request.without_reasoning()).pieces().flatten().collect();
    serde_json::from_slice(&left).unwrap()
}

#[test]
fn encrypted_reasoning_is_cut_out() {
    let reasoning = r#"{"id":"rs","encrypted_content":"g","type":"reason\u0069ng"}"#;
    for (input, left, others) in [
        (format!("[{reasoning}]"), json!([]), false),
        (format!("[ {reasoning} , {reasoning},{reasoning} ]"), json!([]), false),
        (format!("[{reasoning},1,{reasoning}]"), json!([1]), false),
        (format!("[\"a\" , {reasoning} , {reasoning} , [] ]"), json!(["a", []]), false),
        (
            r#"[{"type":"reasoning","encrypted_content":null},{"type":"reasoning"}]"#.into(),
            json!([{"type":"reasoning","encrypted_content":null},{"type":"reasoning"}]),
            false,
        ),
        (
            format!(r#"[{reasoning},{{"type":"compaction","encrypted_content":"c"}}]"#),
            json!([{"type":"compaction","encrypted_content":"c"}]),
            true,
        ),
        (format!("[[{reasoning}]]"), json!([[serde_json::from_str::<Value>(reasoning).unwrap()]]), true),
        (reasoning.into(), serde_json::from_str(reasoning).unwrap(), true),
    ] {
        let text = format!("{{\"a\":[1,2],\"input\":{input},\"b\":[3,4]}}");
        let request = scan(&text).unwrap();
        assert_eq!(cut(&text, &request), json!({"a": [1, 2], "input": left, "b": [3, 4]}), "{text}");
        assert_eq!(request.other_encrypted, others, "{text}");
    }
    let text = format!(r#"{{"input":[{{"id":"a"}},{reasoning},{{"id":"b"}},{reasoning}],"conversation":"c"}}"#);
    let request = scan(text).unwrap();
    let left: Vec<_> = request.left_without_reasoning().cloned().collect();
    assert_eq!(hashes(&left), expected(&[(Kind::Item, "a"), (Kind::Item, "b"), (Kind::Conversation, "c")]));
    assert_eq!(request.references.len(), 7);
}

/// Requests, some of them ambiguous, in which most names stand where they mean something.
fn bodies() -> impl Strategy<Value = Map<String, Value>> {
    let object = || prop_oneof![5 => texts::object(&oracle::NAMES), 1 => texts::object(&oracle::ALL_NAMES)];
    let items = || vec(object().prop_map(Value::Object), 0..4).prop_map(Value::from);
    let at_top =
        prop::sample::select(vec!["input", "input", "items", "messages", "prompt", "conversation", "tools", "x"]);
    (object(), vec((at_top, prop_oneof![items(), object().prop_map(Value::Object)]), 0..3)).prop_map(
        |(mut body, more)| {
            body.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
            body
        },
    )
}

/// An `input` in which much is encrypted.
fn input() -> impl Strategy<Value = Value> {
    let item = prop_oneof![
        4 => Just(json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gA/="})),
        1 => Just(json!({"type": "reasoning", "encrypted_content": null})),
        1 => Just(json!({"type": "reasoning", "content": [{"encrypted_content": "x"}]})),
        1 => Just(json!({"type": "compaction", "encrypted_content": "gB"})),
        1 => Just(json!({"type": ["reasoning"], "encrypted_content": "gB"})),
        1 => Just(json!({"type": "message", "content": [1, [2, 3], {"a": 1, "b": 2}]})),
        1 => prop::sample::select(vec![json!(1), json!("a,b"), json!(null), json!([1, 2]), json!({}), json!([])]),
    ];
    vec(item, 0..8).prop_map(Value::from)
}

fn is_encrypted(value: &Value) -> bool {
    match value {
        Value::Object(object) => object.iter().any(|(name, value)| {
            (name == "encrypted_content" && value.as_str().is_some_and(|text| !text.is_empty())) || is_encrypted(value)
        }),
        Value::Array(values) => values.iter().any(is_encrypted),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Every reference that a plain walk of the parsed text finds, and no other; refused is what the walk finds ambiguous.
    #[test]
    fn finds_what_a_walk_finds(
        body in bodies(),
        style in vec(any::<u8>(), 1..40),
        cuts in vec(any::<Index>(), 0..12),
    ) {
        let text = texts::write(&Value::Object(body.clone()), &style);
        let ours = scan_pieces(texts::cut(text.as_bytes(), &cuts));
        match (&ours, &scan(&text)) {
            (Ok(ours), Ok(whole)) => prop_assert_eq!(&ours.references, &whole.references),
            (Err(ours), Err(whole)) => prop_assert_eq!(ours, whole),
            other => prop_assert!(false, "{:?}", other),
        }
        match (ours, oracle::references(&body)) {
            (Ok(ours), Some(mut expected)) => {
                let found = ours.references.iter().map(|used| (used.kind as u8, used.reference.unwrap(), used.whole));
                let mut found: Vec<oracle::Found> = found.collect();
                found.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(found, expected, "{}", text);
            }
            (Err(error), None) => prop_assert!(matches!(error.kind, JsonErrorKind::LetterCase { .. }), "{error}"),
            (ours, expected) => prop_assert!(false, "{:?} {:?} {}", ours, expected, text),
        }
    }

    /// A name that is acted on, once more: no two parsers would agree.
    #[test]
    fn a_second_occurrence_is_refused(
        body in bodies(), style in vec(any::<u8>(), 1..40), which in any::<Index>(), value in any::<bool>(),
    ) {
        let names = oracle::acted_on_at_top();
        let name = names[which.index(names.len())];
        let mut body: Map<String, Value> = body;
        body.insert(name.to_owned(), json!(null));
        prop_assume!(oracle::references(&body).is_some());
        let text = texts::write(&Value::Object(body), &style);
        let again = texts::write(&json!({name: value}), &style);
        let text = format!("{},{}", text.trim_end().strip_suffix('}').unwrap(), again.trim_start().strip_prefix('{').unwrap());
        prop_assert_eq!(refused(&text), JsonErrorKind::Repeated { name });
    }

    #[test]
    fn cutting_is_removing(input in input(), style in vec(any::<u8>(), 1..40), cuts in vec(any::<Index>(), 0..6)) {
        let mut body = json!({"a": [1, {}], "input": input, "z": 1});
        let text = texts::write(&body, &style);
        let request = scan_pieces(texts::cut(text.as_bytes(), &cuts)).unwrap();
        let left = cut(&text, &request);
        let items = body["input"].as_array_mut().unwrap();
        items.retain(|item| item["type"] != "reasoning" || !is_encrypted(item));
        prop_assert_eq!(request.other_encrypted, items.iter().any(is_encrypted));
        prop_assert_eq!(left, body);
    }
}
