use bytes::Bytes;
use proptest::{collection::vec, prelude::*, sample::Index};
use serde_json::{Map, Value, json};

use super::request::{MOST_LOOKED_UP, ReferenceUse, RequestReference, RequestScan, ScannedRequest};
use crate::{
    domain::{
        endpoint::Endpoint,
        origin::{Reference, ReferenceKind},
    },
    protocol::{
        body::SegmentedBody,
        json::{JsonError, JsonErrorKind},
    },
};

mod oracle;
pub(in crate::protocol) mod texts;

fn scan_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<ScannedRequest, JsonError> {
    let mut scan = RequestScan::new(Endpoint::CreateResponse, true);
    for piece in pieces {
        scan.feed(piece)?;
    }
    scan.finish()
}

fn scan(text: impl AsRef<[u8]>) -> Result<ScannedRequest, JsonError> {
    scan_pieces([text.as_ref()])
}

fn refused(text: impl AsRef<[u8]>) -> JsonErrorKind {
    let text = text.as_ref();
    let error = scan(text).unwrap_err();
    assert_eq!(scan_pieces(text.chunks(1)).unwrap_err(), error, "{}", text.escape_ascii());
    error.kind
}

/// The kinds of references, and the hashes of those that can be looked up.
fn hashes(used: &[RequestReference]) -> Vec<(ReferenceKind, Option<Reference>)> {
    used.iter().map(|used| (used.kind, used.reference)).collect()
}

fn expected(found: &[(ReferenceKind, &str)]) -> Vec<(ReferenceKind, Option<Reference>)> {
    found.iter().map(|(kind, text)| (*kind, Some(Reference::new(*kind, text.as_bytes())))).collect()
}

#[track_caller]
fn finds(text: impl AsRef<[u8]>, found: &[(ReferenceKind, &str)]) {
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
    use ReferenceKind::*;
    for (text, found) in [
        (r#"{"previous_response_id":"resp_1"}"#, vec![(Response, "resp_1")]),
        (r#"{"previous_response_id":{"id":"resp_1"}}"#, vec![(Response, "resp_1")]),
        (r#"{"prompt_cache_options":{"comparison_response_id":"resp_1"}}"#, vec![(Response, "resp_1")]),
        (r#"{"conversation":"conv_1"}"#, vec![(Conversation, "conv_1")]),
        (r#"{"conversation":{"id":"conv_1"}}"#, vec![(Conversation, "conv_1")]),
        (
            r#"{"input":[{"type":"item_reference","id":"rs_1"},{"id":"msg_1","role":"assistant"}]}"#,
            vec![(Item, "rs_1"), (Item, "msg_1")],
        ),
        (r#"{"input":{"id":"msg_1"}}"#, vec![(Item, "msg_1")]),
        (r#"{"input":[[{"id":"msg_1"}]]}"#, vec![(Item, "msg_1")]),
        (r#"{"input":[{"type":"compaction","encrypted_content":"gB"}]}"#, vec![(Encrypted, "gB")]),
        (
            r#"{"input":[{"type":"agent_message","content":[{"type":"encrypted_content","encrypted_content":"gC"}]}]}"#,
            vec![(Encrypted, "gC")],
        ),
        (
            r#"{"input":[{"type":"web_search_call","action":{"sources":[{"encrypted_content":"gD"}]}}]}"#,
            vec![(Encrypted, "gD")],
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
            r#"{"tools":[{"type":"file_search","vector_store_ids":["vs_1","vs_2"]}]}"#,
            vec![(VectorStore, "vs_1"), (VectorStore, "vs_2")],
        ),
        (
            r#"{"input":[{"type":"additional_tools","tools":[{"type":"namespace","tools":[{"type":"file_search","vector_store_ids":["vs_1"]}]}]}]}"#,
            vec![(VectorStore, "vs_1")],
        ),
        (
            r#"{"prompt":{"id":"pmpt_1","variables":{"a":"x","doc":{"type":"input_file","file_id":"file-1"}}}}"#,
            vec![(Prompt, "pmpt_1"), (File, "file-1")],
        ),
    ] {
        finds(text, &found);
    }
    let of = |endpoint: Endpoint, text: &str| {
        let mut scan = RequestScan::new(endpoint, true);
        scan.feed(text.as_bytes()).unwrap();
        let used = scan.finish().unwrap().references;
        let certain = used.iter().filter(|used| used.uses == ReferenceUse::LookedUp).cloned().collect::<Vec<_>>();
        hashes(&certain)
    };
    let items = r#"{"items":[{"type":"message","id":"msg_1"},{"type":"reasoning","id":"rs_1","encrypted_content":"gA"}],"metadata":{"id":"x"}}"#;
    for endpoint in [Endpoint::CreateConversation, Endpoint::CreateItems] {
        assert_eq!(of(endpoint, items), expected(&[(Item, "msg_1"), (Encrypted, "gA")]));
    }
    let chat = r#"{"messages":[{"role":"assistant","audio":{"id":"audio_1"},"content":[{"type":"file","file":{"file_id":"file-1"}}]}],"audio":{"id":"x"},"input":[{"id":"msg_1"}]}"#;
    assert_eq!(of(Endpoint::CreateChatCompletion, chat), expected(&[(Item, "audio_1"), (File, "file-1")]));
    for endpoint in [Endpoint::CreateEmbedding, Endpoint::CreateCompletion, Endpoint::GenerateImage] {
        assert_eq!(of(endpoint, chat), []);
    }
}

/// Whatever the field is called and however deep: what may be the id of a stored object is found by its value.
#[test]
fn finds_ids_by_their_values_anywhere_else() {
    use ReferenceKind::*;
    let perhaps = |text: &str| {
        let used = scan(text).unwrap().references;
        for split in [1, 3] {
            assert_eq!(scan_pieces(text.as_bytes().chunks(split)).unwrap().references, used, "{text}");
        }
        assert!(used.iter().all(|used| used.uses == ReferenceUse::Perhaps), "{text}");
        hashes(&used)
    };
    for (text, found) in [
        (r#"{"extra_body":{"previous_response_id":"resp_1"}}"#, vec![(Response, "resp_1")]),
        (r#"{"extra_body":{"input":[{"type":"item_reference","id":"msg_1"}]}}"#, vec![(Item, "msg_1")]),
        (r#"{"extra_body":{"extra_body":{"x":[[{"y":"rs_1"}]]}}}"#, vec![(Item, "rs_1")]),
        (
            r#"{"a":"conv_1","b":["cntr_1",["file-1"]],"c":{"d":"vs_1"},"e":"skill_1"}"#,
            vec![
                (Conversation, "conv_1"),
                (Container, "cntr_1"),
                (File, "file-1"),
                (VectorStore, "vs_1"),
                (Skill, "skill_1"),
            ],
        ),
        (r#"{"Previous":"re\u0073p_1","\u0078":"resp\u005f2"}"#, vec![(Response, "resp_1"), (Response, "resp_2")]),
        (
            r#"{"metadata":{"x":"resp_1"},"tools":[{"parameters":{"default":"resp_2"}}]}"#,
            vec![(Response, "resp_1"), (Response, "resp_2")],
        ),
        // A name that providers use tells what an id without a prefix would be.
        (
            r#"{"x":{"previous_response_id":"018f","conversation_id":"018e","file_ids":["a"],"container":"wav"}}"#,
            vec![(Response, "018f"), (Conversation, "018e"), (File, "a"), (Container, "wav")],
        ),
        (
            r#"{"input":[{"type":"mcp_approval_response","approval_request_id":"mcpr_1","approve":true}]}"#,
            vec![(Item, "mcpr_1")],
        ),
        (
            r#"{"input":[{"type":"code_interpreter_call","container_id":"cntr_1","code":"x"}]}"#,
            vec![(Container, "cntr_1")],
        ),
        (
            r#"{"input":[{"role":"user","content":[{"annotations":[{"container_id":"cntr_1","file_id":"cfile_1"}]}]}]}"#,
            vec![(Container, "cntr_1"), (File, "cfile_1")],
        ),
        (r#"{"messages":[{"content":"x","audio":{"id":"audio_1"}}]}"#, vec![(Item, "audio_1")]),
        // Without a prefix, by its shape alone.
        (r#"{"x":"018f3b5e-7d8a-7c6e-b0f1-2a3b4c5d6e7f"}"#, vec![(Opaque, "018f3b5e-7d8a-7c6e-b0f1-2a3b4c5d6e7f")]),
        (r#"{"extra_body":{"y":["gen-1757000000-AbCdEfGhIjKl1"]}}"#, vec![(Opaque, "gen-1757000000-AbCdEfGhIjKl1")]),
        // An object in place of an id, where no documentation has one.
        (
            r#"{"x":{"previous_response_id":{"id":"018f"},"Conversation":[{"ID":"018e"}]},"tools":[{"vector_store_ids":[{"id":"a"}]}]}"#,
            vec![(Response, "018f"), (Conversation, "018e"), (VectorStore, "a")],
        ),
        (r#"{"x":{"previous_response_id":{"x":{"id":"018f"}}},"y":{"id":"018f"}}"#, vec![]),
        // Names that say what an object is, or which call; and keys.
        (r#"{"x":{"type":"resp_1","call_id":"msg_1"}}"#, vec![(Response, "resp_1"), (Item, "msg_1")]),
        (r#"{"input":[{"type":"resp_1"}]}"#, vec![(Response, "resp_1")]),
        (r#"{"x":{"type":"file_search","call_id":"item_reference","TYPE":"file_path"}}"#, vec![]),
        (
            r#"{"x":{"resp_1":1,"re\u0073p_2":{}," conv_1 ":[]}}"#,
            vec![(Response, "resp_1"), (Response, "resp_2"), (Conversation, "conv_1")],
        ),
        (r#"{"tools":[{"parameters":{"properties":{"file_path":{},"item_count":{}}}}]}"#, vec![]),
        // White space around it.
        (
            r#"{"x":" resp_1","y":"\t\u00a0msg_1\n","z":"\u3000018f3b5e-7d8a-7c6e-b0f1-2a3b4c5d6e7f "}"#,
            vec![(Response, "resp_1"), (Item, "msg_1"), (Opaque, "018f3b5e-7d8a-7c6e-b0f1-2a3b4c5d6e7f")],
        ),
    ] {
        assert_eq!(perhaps(text), expected(&found), "{text}");
    }
    let deep = |open: &str, levels: usize, inner: &str, close: &str| {
        format!("{{\"x\":{}{inner}{}}}", open.repeat(levels), close.repeat(levels))
    };
    for levels in [1, 20, 61, 62, 63, 64, 65, 200, 10_000] {
        for inner in [
            r#""resp_1""#,
            r#"{"x":["resp_1"]}"#,
            r#"[{},[],{"content":[]},"resp_1"]"#,
            r#"{"a":{"content":"b"},"b":"resp_1"}"#,
        ] {
            assert_eq!(perhaps(&deep("{\"y\":", levels, inner, "}")), expected(&[(Response, "resp_1")]), "{levels}");
            assert_eq!(perhaps(&deep("[", levels, inner, "]")), expected(&[(Response, "resp_1")]), "{levels}");
        }
        for inner in [r#"{"type":"resp_1"}"#, r#"{"call_id":"resp_1"}"#, r#"{"resp_1":{}}"#] {
            assert_eq!(perhaps(&deep("[", levels, inner, "]")), expected(&[(Response, "resp_1")]), "{levels}");
        }
        finds(deep("[", levels, r#"{"content":"resp_1","text":"resp_1","type":"file_path","ID":1}"#, "]"), &[]);
    }
}

/// At a documented place an id counts for what the place says, and for what its own value says.
#[test]
fn an_id_of_another_kind_counts_twice() {
    use ReferenceKind::*;
    let uses = |text: &str| {
        let used = scan(text).unwrap().references;
        assert_eq!(scan_pieces(text.as_bytes().chunks(1)).unwrap().references, used, "{text}");
        assert!(used.windows(2).all(|two| two[0].range == two[1].range && two[0].name == two[1].name), "{text}");
        used.iter().map(|used| (used.kind, used.uses)).collect::<Vec<_>>()
    };
    let uuid = "018f3b5e-7d8a-7c6e-b0f1-2a3b4c5d6e7f";
    let (certain, perhaps, whole) = (ReferenceUse::LookedUp, ReferenceUse::Perhaps, ReferenceUse::Whole);
    for (text, expected) in [
        (r#"{"previous_response_id":"conv_1"}"#, vec![(Response, certain), (Conversation, perhaps)]),
        (r#"{"conversation":{"id":" resp_1 "}}"#, vec![(Conversation, certain), (Response, perhaps)]),
        (r#"{"prompt":{"id":"resp_1"}}"#, vec![(Prompt, certain), (Response, perhaps)]),
        (r#"{"prompt":{"id":"pmpt_1"}}"#, vec![(Prompt, certain)]),
        (r#"{"prompt":"resp_1"}"#, vec![]),
        (r#"{"tools":[{"container":"file-1"}]}"#, vec![(Container, certain), (File, perhaps)]),
        (r#"{"input":[{"type":"item_reference","id":"resp_1"}]}"#, vec![(Item, certain), (Response, perhaps)]),
        (r#"{"input":[{"id":"resp_1","role":"user","content":"x"}]}"#, vec![(Item, whole), (Response, whole)]),
        (r#"{"previous_response_id":"UUID"}"#, vec![(Response, certain), (Opaque, perhaps)]),
        (r#"{"input":[{"id":"UUID","role":"user","content":"x"}]}"#, vec![(Item, whole), (Opaque, whole)]),
        (r#"{"previous_response_id":"resp_1"}"#, vec![(Response, certain)]),
    ] {
        assert_eq!(uses(&text.replace("UUID", uuid)), expected, "{text}");
    }
    // Where no upstream gives such ids, they cost nothing.
    let mut scan = RequestScan::new(Endpoint::CreateResponse, false);
    scan.feed(format!(r#"{{"previous_response_id":"{uuid}","x":"{uuid}","{uuid}":1}}"#).as_bytes()).unwrap();
    assert_eq!(hashes(&scan.finish().unwrap().references), expected(&[(Response, uuid)]));
}

/// The output of a client's function belongs to the client. Documented fields of the provider are looked up.
#[test]
fn names_in_outputs_of_calls_belong_to_the_client() {
    let files = |text: &str| {
        let used = scan(text).unwrap().references;
        assert_eq!(scan_pieces(text.as_bytes().chunks(1)).unwrap().references, used, "{text}");
        used.iter().map(|used| used.uses).collect::<Vec<_>>()
    };
    let (certain, perhaps) = (ReferenceUse::LookedUp, ReferenceUse::Perhaps);
    for kind in ["function_call_output", "custom_tool_call_output", "mcp_call", "who_knows_output"] {
        for (output, uses) in [
            (r#"{"file_id":"a"}"#, vec![perhaps]),
            (r#"{"File_Id":"a","file_id":"b"}"#, vec![perhaps; 2]),
            (r#"[{"name":"x","file_id":"a","file_id":"b"},{"type":"row","FILE_ID":["c"]}]"#, vec![perhaps; 3]),
            (r#"{"a":{"type":"input_file","file_id":"a"}}"#, vec![perhaps]),
            (r#"{"encrypted_content":"gA","previous_response_id":1,"tools":[],"Tools":[],"id":"x","ID":"y"}"#, vec![]),
            (r#"["resp_1",{"x":"msg_1"}]"#, vec![perhaps]),
            // Parts that are documented.
            (r#"[{"type":"input_file","file_id":"a"},{"x":1,"file_id":"b"}]"#, vec![certain, perhaps]),
            (r#"[{"file_id":"a","type":"input_image"}]"#, vec![certain]),
            (r#"[{"File_Id":"a","Type":" Input_File","file_id":["b"]}]"#, vec![certain; 2]),
        ] {
            let item = format!(r#"{{"input":[{{"output":{output},"type":"{kind}","call_id":"c"}}]}}"#);
            assert_eq!(files(&item), uses, "{item}");
        }
    }
    for output in [r#"{"file_id":"a"}"#, r#"{"type":"computer_screenshot","FILE_ID":"a"}"#, r#"[[{"file_id":"a"}]]"#] {
        for kind in ["computer_call_output", "Computer_Call_Output "] {
            let item = format!(r#"{{"input":[{{"output":{output},"type":"{kind}"}}]}}"#);
            assert_eq!(files(&item), [certain], "{item}");
        }
    }
    for name in ["arguments", "input"] {
        let item =
            format!(r#"{{"input":[{{"type":"custom_tool_call","{name}":{{"encrypted_content":"gA","x":"msg_1"}}}}]}}"#);
        finds(item, &[(ReferenceKind::Item, "msg_1")]);
    }
    // Nothing of it makes an item one that only its account understands.
    let request =
        scan(r#"{"input":[{"type":"function_call_output","call_id":"c","output":{"encrypted_content":"g"}}]}"#);
    assert!(request.unwrap().without_bound().is_empty());
}

/// Everything that names of callers would mean elsewhere, in places where callers choose names.
#[test]
fn names_of_the_client_are_no_references() {
    for text in [
        r#"{"guided_json":{"properties":{"Container":{"type":"string"},"File_Id":{},"Annotations":[1],"Conversation":1,"conversation":2}}}"#,
        r#"{"format":{"properties":{"previous_response_id":{"type":"string"},"Previous_Response_Id":{"type":"string"}}}}"#,
        r#"{"Annotations":1,"annotations":2,"Audio":3,"MESSAGES":4,"items":5,"ITEMS":6}"#,
        r#"{"tools":[{"type":"function","parameters":{"properties":{"Tools":1,"tools":2,"CONTAINER":3,"container":4}}}]}"#,
        r#"{"metadata":{"File_Id":1,"file_id":2},"x":{"id":1,"ID":2,"Id":3,"\ud800":4}}"#,
        r#"{"input":[{"type":"tool_search_call","arguments":{"ENCRYPTED_CONTENT":1,"File_ID":2,"id":3}}]}"#,
        r#"{"prompt":{"variables":{"ID":"a","id":"b","Id":"c"}}}"#,
    ] {
        finds(text, &[]);
    }
}

/// The items that are whole, those that have to be looked up, and those in between.
#[test]
fn complete_items_are_distinguished_from_references() {
    let uses = |item: &str| {
        let around = [format!(r#"{{"input":[{item}]}}"#), format!(r#"{{"input":{item}}}"#)];
        let uses = around.map(|text| {
            let used = scan(&text).unwrap().references;
            for split in [1, 3] {
                assert_eq!(scan_pieces(text.as_bytes().chunks(split)).unwrap().references, used, "{text}");
            }
            used.iter().find(|used| used.name == Some("id")).unwrap().uses
        });
        assert_eq!(uses[0], uses[1], "{item}");
        uses[0]
    };
    for item in [
        r#"{"id":"msg_1","role":"user","content":"x"}"#,
        r#"{"id":"msg_1","type":null,"role":"user","content":[{"type":"input_text","text":""}]}"#,
        r#"{"type":"message","id":"msg_1","role":"assistant","status":"completed","content":[{"type":"output_text","text":"x"}]}"#,
        r#"{"content":"x","role":"user","\u0074ype":"mess\u0061ge","id":"msg_1"}"#,
        r#"{"type":"function_call","id":"fc_1","call_id":"c","name":"f","arguments":"{}"}"#,
        r#"{"type":"function_call_output","id":"fco_1","call_id":"c","output":"x"}"#,
        r#"{"type":"function_call_output","id":"fco_1","call_id":"c","output":""}"#,
        r#"{"type":"custom_tool_call","id":"ctc_1","call_id":"c","name":"f","input":"x"}"#,
        r#"{"type":"local_shell_call","id":"lsh_1","call_id":"c","action":{"type":"exec"}}"#,
        r#"{"type":"apply_patch_call","id":"apc_1","call_id":"c","operation":{"type":"x"}}"#,
        r#"{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"gA"}"#,
        r#"{"type":"reasoning","id":"rs_1","summary":[],"content":[{"type":"reasoning_text","text":"x"}]}"#,
        r#"{"encrypted_content":"gA","id":"cmp_1","type":"compaction"}"#,
        r#"{"type":"context_compaction","id":"cmp_1","encrypted_content":"gA"}"#,
        r#"{"type":"image_generation_call","id":"ig_1","result":"x"}"#,
        r#"{"type":"code_interpreter_call","id":"ci_1","code":"x","outputs":[]}"#,
        r#"{"type":"web_search_call","id":"ws_1","status":"completed","action":{"type":"search"}}"#,
        r#"{"type":"file_search_call","id":"fs_1","queries":["x"]}"#,
        r#"{"type":"mcp_call","id":"mcp_1","name":"x","arguments":"{}","output":"x"}"#,
        r#"{"type":"mcp_list_tools","id":"mcpl_1","server_label":"s","tools":[]}"#,
        r#"{"type":"mcp_approval_response","id":"x_1","approval_request_id":"mcpr_1","approve":true}"#,
        r#"{"type":"additional_tools","id":"at_1","tools":[{"type":"function","name":"f"}]}"#,
        r#"{"type":"tool_search_output","id":"tso_1","call_id":"c","tools":[]}"#,
        r#"{"type":"agent_message","id":"amsg_1","content":[{"type":"input_text","text":"x"}]}"#,
        r#"{"type":"who_knows","id":"x_1","anything":"x"}"#,
        r#"{"type":"who_knows","id":"x_1","a":[[{"b":["x"]}]]}"#,
        r#"{"type":"who_knows","id":"x_1","count":5,"approved":true}"#,
        r#"{"type":"who_knows","id":"x_1","a":{"b":[false]}}"#,
    ] {
        assert_eq!(uses(item), ReferenceUse::Whole, "{item}");
    }
    for item in [
        r#"{"id":"msg_1","content":"x"}"#,
        r#"{"id":"msg_1","role":"user","content":""}"#,
        r#"{"type":"message","id":"msg_1","role":"assistant","status":"completed","content":[]}"#,
        r#"{"type":"","id":"msg_1","x":"y"}"#,
        r#"{"type":"reasoning","id":"rs_1","summary":[{"type":"summary_text","text":"x"}]}"#,
        r#"{"type":"message","id":"msg_1","a":{"role":"user","content":"x"}}"#,
        r#"{"type":"web_search_call","id":"ws_1","status":"completed"}"#,
        r#"{"type":"additional_tools","id":"at_1","role":"developer","tools":[]}"#,
        r#"{"type":"local_shell_call_output","id":"lsh_1","output":""}"#,
        r#"{"type":"context_compaction","id":"cmp_1"}"#,
        r#"{"type":"compaction_trigger","id":"ct_1"}"#,
        r#"{"type":"configuration_update","id":"cu_1"}"#,
        r#"{"type":"who_knows","id":"x_1","status":"completed","anything":null}"#,
        r#"{"type":"code_interpreter_call","id":"ci_1","container_id":"cntr_1","code":null}"#,
    ] {
        assert_eq!(uses(item), ReferenceUse::Perhaps, "{item}");
    }
    for item in [
        r#"{"id":"msg_1"}"#,
        r#"{"id":"msg_1","type":null}"#,
        r#"{"id":"msg_1","role":"user","content":null}"#,
        r#"{"id":"msg_1","role":null,"content":""}"#,
        r#"{"type":"message","id":"msg_1","role":"user"}"#,
        r#"{"type":"message","id":"msg_1","status":"completed","content":null}"#,
        r#"{"type":"reasoning","id":"rs_1","content":[{"text":""},[{}],null]}"#,
        r#"{"type":"item_reference","id":"msg_1","role":"user","content":"x"}"#,
        r#"{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":""}"#,
        r#"{"type":"reasoning","id":"rs_1","summary":[],"content":[],"encrypted_content":null}"#,
        r#"{"type":"image_generation_call","id":"ig_1","status":"completed","result":null}"#,
        r#"{"type":"web_search_call","id":"ws_1"}"#,
        r#"{"type":"who_knows_call","id":"x_1"}"#,
        r#"{"type":"who_knows_output","id":"x_1","status":"completed"}"#,
        r#"{"type":"Item_Reference","id":"x_1","x":"y"}"#,
        r#"{"type":"item_reference ","id":"x_1","x":"y"}"#,
    ] {
        assert_eq!(uses(item), ReferenceUse::LookedUp, "{item}");
    }
    for text in [
        r#"{"input":[{"id":"msg_1","role":"user","content":"x","content":null}]}"#,
        r#"{"input":[{"id":"msg_1","role":"user","content":"x","Content":null}]}"#,
        r#"{"input":[{"type":"function_call_output","id":"fco_1","output":"x","output":null}]}"#,
    ] {
        assert!(matches!(refused(text), JsonErrorKind::Repeated { .. } | JsonErrorKind::LetterCase { .. }), "{text}");
    }
}

#[test]
fn values_that_are_no_references_are_ignored() {
    for text in [
        r#"{"previous_response_id":null,"conversation":null,"input":"resp_1","prompt":"file_id","instructions":"resp_1"}"#,
        r#"{"previous_response_id":"","conversation":{"id":""},"input":[{"id":"","encrypted_content":"","file_id":null}]}"#,
        r#"{"conversation":1,"prompt":{"id":1},"tools":[{"container":{"type":"auto"},"file_id":{"x":1},"vector_store_ids":[1,null]}]}"#,
        r#"{"input":[{"role":"user","content":"resp_1"},{"role":"user","content":["resp_1",{"type":"input_text","text":"resp_1"}]}]}"#,
        r#"{"input":[{"type":"function_call","call_id":"msg_1","name":"x","arguments":"resp_1"}]}"#,
        r#"{"input":[{"type":"custom_tool_call","input":"resp_1"},{"type":"function_call_output","output":"resp_1"}]}"#,
        r#"{"input":[{"type":"function_call_output","output":[{"text":"resp_1"}]}],"documents":[{"text":"resp_1"}]}"#,
        r#"{"input":[{"type":"computer_call_output","acknowledged_safety_checks":[{"id":"x"}]}],"user":"a user"}"#,
        r#"{"tools":[{"name":"resp","description":"resp_1 is a response"}],"x":{"call_id":"call_1"}}"#,
    ] {
        finds(text, &[]);
    }
}

#[test]
fn escaped_references_are_found() {
    use ReferenceKind::*;
    finds(r#"{"previous_\u0072esponse_id":"resp_\u0031"}"#, &[(Response, "resp_1")]);
    finds(r#"{"\u0069nput":[{"t\u0079pe":"x","\u0069\u0064":"a\/b\ud83d\ude00"}]}"#, &[(Item, "a/b😀")]);
    finds(r#"{"input":[{"encrypted_content":"a\u003d\/\n\ud83d\ude00é"}]}"#, &[(Encrypted, "a=/\n😀é")]);
    finds(r#"{"input":[{"role":"user","conten\u0074":"resp_1"}]}"#, &[]);
}

#[test]
fn the_path_of_a_reference_is_reported() {
    let text =
        r#"{"input":[{"id": "msg_1" ,"encrypted_content":"gA"}],"x":"resp_1","tools":[{"file_ids":["a", "b"]}]}"#;
    let used = scan(text).unwrap().references;
    let told: Vec<_> =
        used.iter().map(|used| (used.name, &text[used.range.start as usize..used.range.end as usize])).collect();
    assert_eq!(
        told,
        [
            (Some("id"), "\"msg_1\""),
            (Some("encrypted_content"), "\"gA\""),
            (None, "\"resp_1\""),
            (Some("file_ids"), "\"a\""),
            (Some("file_ids"), "\"b\"")
        ]
    );
}

#[test]
fn a_text_with_unknown_meaning_is_unusable() {
    let id = |len: usize| scan(format!("{{\"previous_response_id\":\"{}\"}}", "x".repeat(len))).unwrap().references;
    assert!(id(256)[0].reference.is_some());
    for len in [257, 512, 513, 100_000] {
        assert_eq!(hashes(&id(len)), [(ReferenceKind::Response, None)]);
    }
    for text in [&br#"{"conversation":"\ud800"}"#[..], br#"{"conversation":"\x"}"#] {
        assert_eq!(hashes(&scan(text).unwrap().references), [(ReferenceKind::Conversation, None)]);
    }
    for text in [
        &br#"{"input":[{"encrypted_content":"a\ud800"}]}"#[..],
        br#"{"input":[{"encrypted_content":"\ud800"}]}"#,
        br#"{"input":[{"encrypted_content":"\ud800x\udc00"}]}"#,
    ] {
        assert_eq!(hashes(&scan(text).unwrap().references), [(ReferenceKind::Encrypted, None)]);
    }
    let megabytes = "gAAA\\/".repeat(1 << 20);
    finds(
        format!("{{\"input\":[{{\"encrypted_content\":\"{megabytes}\"}}]}}"),
        &[(ReferenceKind::Encrypted, &"gAAA/".repeat(1 << 20))],
    );
}

/// Texts that two parsers could read differently.
#[test]
fn ambiguous_names_are_refused() {
    use JsonErrorKind::*;
    for (text, kind) in [
        (r#"{"previous_response_id":"a","previous_response_id":"b"}"#, Repeated { name: "previous_response_id" }),
        (r#"{"previous_response_id":"a","previous_response_i\u0064":"b"}"#, Repeated { name: "previous_response_id" }),
        (r#"{"Previous_Response_Id":"a"}"#, LetterCase { name: "previous_response_id" }),
        (r#"{"previou\u017f_response_id":"a"}"#, LetterCase { name: "previous_response_id" }),
        (r#"{"previous_response_id":{"id":"a","Id":"b"}}"#, LetterCase { name: "id" }),
        (r#"{"conversation":{"id":"a","ID":"b"}}"#, LetterCase { name: "id" }),
        (r#"{"conversation":"a","conversation":null}"#, Repeated { name: "conversation" }),
        (r#"{"input":[],"input":[{"id":"a"}]}"#, Repeated { name: "input" }),
        (r#"{"Input":[{"id":"a"}]}"#, LetterCase { name: "input" }),
        (r#"{"prompt":{},"prompt":{}}"#, Repeated { name: "prompt" }),
        (r#"{"prompt":{"id":1,"Id":"a"}}"#, LetterCase { name: "id" }),
        (r#"{"tools":[],"tools":[]}"#, Repeated { name: "tools" }),
        ("{\"tool\u{17f}\":[]}", LetterCase { name: "tools" }),
        (r#"{"input":[{"id":"a","id":"b"}]}"#, Repeated { name: "id" }),
        (r#"{"input":[{"type":"message","\u0074ype":"reasoning"}]}"#, Repeated { name: "type" }),
        (r#"{"input":[{"content":[{"file_id":"a","File_Id":"b"}]}]}"#, LetterCase { name: "file_id" }),
        ("{\"tools\":[{\"s\u{212A}ills\":1,\"container\":{\"s\u{212A}ills\":1}}]}", LetterCase { name: "skills" }),
        (r#"{"tools":[{"vector_store_ids":[],"vector_store_ids":["a"]}]}"#, Repeated { name: "vector_store_ids" }),
        (r#"{"tools":[{"container":{},"Container":"a"}]}"#, LetterCase { name: "container" }),
        (r#"{"tools":[{"environment":{"container_id":"a","container_id":"b"}}]}"#, Repeated { name: "container_id" }),
        (r#"{"input":[{"encrypted_content":"a","encrypted_content":"b"}]}"#, Repeated { name: "encrypted_content" }),
        (r#"{"model":"a","MODEL":"b"}"#, LetterCase { name: "model" }),
        ("{\"mode\u{6c}\":\"a\",\"prompt_cache_\u{212A}ey\":\"b\"}", LetterCase { name: "prompt_cache_key" }),
        (r#"{"prompt_cache_key":"a","prompt_cache_key":"b"}"#, Repeated { name: "prompt_cache_key" }),
        (r#"{"input":[{"\ud800":1}]}"#, InvalidKey),
    ] {
        assert_eq!(refused(text), kind, "{text}");
    }
    // Only what is acted on is held to that, and only where it is.
    finds(
        r#"{"a":1,"a":2,"id":1,"ID":2,"metadata":{"file_id":1,"file_id":2,"FILE_ID":3},"x":{"type":1,"Type":2,"id":3,"id":4}}"#,
        &[],
    );
}

/// Strings hold UTF-8 without control bytes, whatever they are for: lenient parsers read others in different ways.
#[test]
fn invalid_text_in_strings_is_refused() {
    use JsonErrorKind::*;
    for (string, kind) in [
        (&b"a\nb"[..], ControlByte { name: None }),
        (b"\x00", ControlByte { name: None }),
        (b"\\n\t", ControlByte { name: None }),
        (b"\\\n", ControlByte { name: None }),
        (b"\xff", InvalidUtf8 { name: None }),
        (b"\xe2\x84", InvalidUtf8 { name: None }),
        (b"\xe2\x84\\u00aa", InvalidUtf8 { name: None }),
        (b"\xed\xa0\x80", InvalidUtf8 { name: None }),
        (b"\xc0\xaf", InvalidUtf8 { name: None }),
    ] {
        for (before, after) in [
            ("{\"model\":\"", "\"}"),
            ("{\"conversation\":\"", "\"}"),
            ("{\"input\":\"", "\"}"),
            ("{\"input\":[{\"encrypted_content\":\"", "\"}]}"),
            ("{\"x\":[{\"content\":\"", "\"}]}"),
            ("{\"x\":\"", "\"}"),
            ("{\"", "\":1}"),
            ("{\"x\":{\"y\":{\"", "\":1}}}"),
        ] {
            let text = [before.as_bytes(), string, after.as_bytes()].concat();
            let kind = match kind {
                ControlByte { .. } if before.contains("model") => ControlByte { name: Some("model") },
                InvalidUtf8 { .. } if before.contains("model") => InvalidUtf8 { name: Some("model") },
                kind => kind,
            };
            assert_eq!(refused(&text), kind, "{}", text.escape_ascii());
        }
    }
    finds("{\"x\":\"中\u{10FFFF}\u{80}\",\r\n\t\"y\":\"\x7f\"}", &[]);
}

#[test]
fn the_number_of_references_is_bounded() {
    let body = |count: usize, item: &str| format!("{{\"input\":[{}]}}", vec![item; count].join(","));
    let (bare, whole) = (r#"{"id":"x"}"#, r#"{"id":"x","role":"user","content":"x"}"#);
    assert_eq!(scan(body(MOST_LOOKED_UP, bare)).unwrap().references.len(), MOST_LOOKED_UP);
    assert_eq!(refused(body(MOST_LOOKED_UP + 1, bare)), JsonErrorKind::TooManyReferences);
    assert_eq!(refused(body(MOST_LOOKED_UP + 1, r#"{"content":[{"file_id":"x"}]}"#)), JsonErrorKind::TooManyReferences);
    // Histories may be long: whole items and encrypted content only say where a request goes best.
    let many = body(20_000, whole);
    let mut scan = RequestScan::new(Endpoint::CreateResponse, true);
    scan.feed(many.as_bytes()).unwrap();
    assert!(scan.held() >= 56 * 8192 && scan.held() <= 2 << 20, "{}", scan.held());
    assert_eq!(scan.finish().unwrap().references.len(), 8192);
    let encrypted = r#"{"type":"reasoning","id":"x","encrypted_content":"x"}"#;
    assert_eq!(super::tests::scan(body(10_000, encrypted)).unwrap().without_bound().len(), 10_000);
    // A reference at the end of such a history is not lost.
    let at_end = |item: &str| format!("{},{item}]}}", many.strip_suffix("]}").unwrap());
    assert_eq!(refused(at_end(bare)), JsonErrorKind::TooManyReferences);
    assert_eq!(refused(at_end(r#"{"x":"resp_1"}"#)), JsonErrorKind::TooManyReferences);
}

#[test]
fn the_scan_also_reads_the_request_fields() {
    let text =
        r#"{"model":"m","stream":true,"store":false,"background":null,"prompt_cache_key":"k","conversation":"c"}"#;
    let request = scan(text).unwrap();
    let at = |found: &Option<crate::protocol::json::FoundValue>| {
        let range = found.as_ref().unwrap().range.clone();
        &text[range.start as usize..range.end as usize]
    };
    assert_eq!([&request.model, &request.background, &request.prompt_cache_key].map(at), ["\"m\"", "null", "\"k\""]);
    assert!(scan("{}").unwrap().model.is_none());
    // Others may stand twice: nobody here acts on them, or the field is a hint, of which the last one counts.
    finds(r#"{"stream":true,"stream":false,"Store":1,"store":2}"#, &[]);
    for (text, last) in [
        (r#"{"stream":false,"Stream":1,"stream":true,"\u017ftream":2}"#, true),
        (r#"{"stream":true,"str\u0065am":false,"STREAM":true}"#, false),
    ] {
        assert_eq!(scan(text).unwrap().streaming.is_asked_for(), last, "{text}");
    }
    for text in [r#"{"model":"a","model":"b"}"#, r#"{"model":"a","Model":"b"}"#, r#"{"background":1,"background":2}"#] {
        assert!(scan(text).is_err(), "{text}");
    }
    // Where no field is acted on, only references are.
    let mut scan = RequestScan::new(Endpoint::CreateItems, true);
    scan.feed(br#"{"model":1,"MODEL":2,"model":3,"items":[{"id":"msg_1"}]}"#).unwrap();
    let request = scan.finish().unwrap();
    assert!(request.model.is_none() && hashes(&request.references) == expected(&[(ReferenceKind::Item, "msg_1")]));
}

/// The text without the cut parts, parsed.
fn cut(text: &str, request: &ScannedRequest) -> Value {
    let mut rope = SegmentedBody::new();
    rope.push(Bytes::copy_from_slice(text.as_bytes()));
    let left: Vec<u8> = rope.edited(&request.without_bound()).pieces().flatten().collect();
    serde_json::from_slice(&left).unwrap()
}

#[test]
fn items_that_only_one_account_understands_are_cut_out() {
    let reasoning = r#"{"id":"rs","encrypted_content":"g","type":"reason\u0069ng"}"#;
    let call = |id: &str| format!(r#"{{"type":"function_call","call_id":"{id}","name":"f","arguments":"{{}}"}}"#);
    let output = |id: &str| format!(r#"{{"type":"function_call_output","call_id":"{id}","output":"x"}}"#);
    let hidden = r#"{"type":"function_call","call_id":"b","name":"f","arguments":"","encrypted_content":"g"}"#;
    let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    for (input, left) in [
        (format!("[{reasoning}]"), json!([])),
        (format!("[ {reasoning} , {reasoning},{reasoning} ]"), json!([])),
        (format!("[{reasoning},1,{reasoning}]"), json!([1])),
        (format!("[\"a\" , {reasoning} , {reasoning} , [] ]"), json!(["a", []])),
        (
            r#"[{"type":"reasoning","encrypted_content":null},{"type":"reasoning"}]"#.into(),
            json!([{"type":"reasoning","encrypted_content":null},{"type":"reasoning"}]),
        ),
        (format!(r#"[{reasoning},{{"type":"compaction","encrypted_content":"c"}},"x"]"#), json!(["x"])),
        (r#"[1,{"type":"agent_message","content":[{"encrypted_content":"c"}]}]"#.into(), json!([1])),
        // Records of the provider that are nothing but an id.
        (
            r#"[{"type":"reasoning","id":"rs_1","summary":[]},{"type":"image_generation_call","id":"ig_1"},{"type":"item_reference","id":"m"}]"#
                .into(),
            json!([{"type":"item_reference","id":"m"}]),
        ),
        // An output goes with its call, wherever it stands.
        (
            format!("[{},{hidden},{},{}]", call("a"), output("b"), output("a")),
            json!([parsed(&call("a")), parsed(&output("a"))]),
        ),
        (format!("[{},{hidden}]", output("\\u0062")), json!([])),
        (format!("[[{reasoning}]]"), json!([[parsed(reasoning)]])),
        (reasoning.into(), parsed(reasoning)),
    ] {
        let text = format!("{{\"a\":[1,2],\"input\":{input},\"b\":[3,4]}}");
        let request = scan(&text).unwrap();
        assert_eq!(cut(&text, &request), json!({"a": [1, 2], "input": left, "b": [3, 4]}), "{text}");
    }
    let text = format!(r#"{{"input":[{{"id":"a"}},{reasoning},{{"id":"b"}},{reasoning}],"conversation":"c"}}"#);
    let request = scan(text).unwrap();
    let left: Vec<_> = request.references.iter().filter(|used| !request.is_bound(used)).cloned().collect();
    assert_eq!(
        hashes(&left),
        expected(&[(ReferenceKind::Item, "a"), (ReferenceKind::Item, "b"), (ReferenceKind::Conversation, "c")])
    );
    assert_eq!(request.references.len(), 7);
}

/// Requests, some of them ambiguous, in which most names stand where they mean something.
fn bodies() -> impl Strategy<Value = Map<String, Value>> {
    let object = || prop_oneof![5 => texts::object(&oracle::NAMES), 1 => texts::object(&oracle::ALL_NAMES)];
    let items = || vec(object().prop_map(Value::Object), 0..4).prop_map(Value::from);
    let at_top =
        prop::sample::select(vec!["input", "input", "input", "extra_body", "prompt", "conversation", "tools", "x"]);
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
        2 => (prop::sample::select(vec!["a", "b", "c"]), any::<bool>()).prop_map(|(id, hidden)| {
            let hidden = if hidden { json!("gC") } else { Value::Null };
            json!({"type": "function_call", "call_id": id, "name": "f", "encrypted_content": hidden})
        }),
        2 => prop::sample::select(vec!["a", "b", "c"]).prop_map(|id| json!({"type": "function_call_output", "call_id": id})),
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
    fn the_scan_finds_what_a_walk_of_the_tree_finds(
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
                let found = ours.references.iter().map(|used| (used.kind as u8, used.reference.unwrap(), used.uses as u8));
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
    fn cutting_equals_removing_elements_from_the_tree(input in input(), style in vec(any::<u8>(), 1..40), cuts in vec(any::<Index>(), 0..6)) {
        let mut body = json!({"a": [1, {}], "input": input, "z": 1});
        let text = texts::write(&body, &style);
        let request = scan_pieces(texts::cut(text.as_bytes(), &cuts)).unwrap();
        let left = cut(&text, &request);
        let items = body["input"].as_array_mut().unwrap();
        let calls: Vec<Value> =
            items.iter().filter(|item| is_encrypted(item)).map(|item| item["call_id"].clone()).filter(Value::is_string).collect();
        items.retain(|item| !is_encrypted(item) && !calls.contains(&item["call_id"]));
        prop_assert_eq!(left, body);
    }
}
