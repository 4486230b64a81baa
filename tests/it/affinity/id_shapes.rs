//! Ids in every shape that upstreams give, at undocumented places: an id of another owner never goes up.

use tidegate::config::UnknownIds;

use super::*;

/// Ids as several relays give them: their text does not tell the kind.
const SHAPES: [[&str; 3]; 3] = [
    [
        "018f3b5e-7d8a-7c6e-b0f1-2a3b4c5d6e7f",
        "118f3b5e-7d8a-7c6e-b0f1-2a3b4c5d6e7f",
        "218f3b5e-7d8a-7c6e-b0f1-2a3b4c5d6e7f",
    ],
    ["gen-1757000000-AbCdEfGhIjKl1", "gen-1757000000-AbCdEfGhIjKl2", "gen-1757000000-AbCdEfGhIjKl3"],
    ["0a1b2c3d4e5f60718293a4b5c6d7e8f9", "1a1b2c3d4e5f60718293a4b5c6d7e8f9", "2a1b2c3d4e5f60718293a4b5c6d7e8f9"],
];

/// Places in a request; `ID` stands for the id.
const PLACES: [&str; 14] = [
    r#""x":"ID""#,
    r#""metadata":{"session":"ID"}"#,
    r#""extra_body":{"previous_response_id":"ID"}"#,
    r#""extra_body":{"previous_response_id":{"id":"ID"}}"#,
    r#""extra_body":{"input":[{"type":"item_reference","id":"ID"}]}"#,
    r#""extra_body":[[{"anything":["ID"]}]]"#,
    r#""x":{"type":"ID"}"#,
    r#""x":{"call_id":"ID"}"#,
    r#""x":{"ID":1}"#,
    r#""x":" ID""#,
    r#""x":"\t\u00a0ID\n""#,
    r#""prompt":{"id":"ID"}"#,
    r#""text":{"format":{"schema":{"const":"ID"}}}"#,
    r#""input":[{"type":"function_call_output","call_id":"call_1","output":{"row":"ID"}}]"#,
];

const TEXTS: [&str; 5] = [
    r#""input":"ID""#,
    r#""instructions":"ID""#,
    r#""input":[{"role":"user","content":[{"type":"input_text","text":"ID"}]}]"#,
    r#""input":[{"type":"function_call","call_id":"ID","name":"f","arguments":"ID"}]"#,
    r#""input":[{"type":"function_call_output","call_id":"ID","output":"ID"}]"#,
];

/// An upstream that answers a request that contains `make` with a response and an item of these ids.
fn making(response: &'static str, item: &'static str) -> impl FnMut(&Request) -> Vec<Step> + Clone + Send {
    move |request| {
        let made = format!(
            r#"{{"object":"response","id":"{response}","status":"completed","output":[{{"type":"message","id":"{item}"}}]}}"#
        );
        let makes = String::from_utf8_lossy(&request.body).contains("make");
        vec![Step::Send(json("200 OK", if makes { &made } else { DONE }))]
    }
}

const MAKE: &str = r#"{"model":"first","input":"make"}"#;

/// One account at each upstream.
fn single(config: &mut Config) {
    for upstream in &mut config.upstreams {
        upstream.credentials.truncate(1);
    }
}

async fn refuses_each(fleet: &mut Fleet, known: [&str; 2], nobodys: &str) {
    for place in PLACES {
        for id in known {
            let body = format!(r#"{{"model":"smart",{}}}"#, place.replace("ID", id));
            let answer = fleet.create("bob", &body).await;
            answer.assert_final(404, "unknown_id", true);
            assert!(!answer.text().contains(id) && fleet.arrived().is_empty(), "{body}: {answer:?}");
        }
        let body = format!(r#"{{"model":"smart",{}}}"#, place.replace("ID", nobodys));
        let answer = fleet.create("bob", &body).await;
        assert_eq!((answer.status, fleet.arrived().len()), (200, 1), "{body}: {answer:?}");
    }
    for text in TEXTS {
        let body = format!(r#"{{"model":"smart",{}}}"#, text.replace("ID", known[0]));
        assert_eq!((fleet.create("bob", &body).await.status, fleet.arrived().len()), (200, 1), "{body}");
    }
    for query in ["x=ID", "ID", "ID=1", "x=%20ID+", "a=b;x=ID", "x=1&x=ID"] {
        let line = |id| format!("POST /v1/responses?{}", query.replace("ID", id));
        let answer = fleet.call("bob", &line(known[0]), Some(r#"{"model":"smart"}"#)).await;
        answer.assert_final(404, "unknown_id", true);
        assert!(fleet.arrived().is_empty(), "{query}");
        let answer = fleet.call("bob", &line(nobodys), Some(r#"{"model":"smart"}"#)).await;
        assert_eq!((answer.status, fleet.arrived().len()), (200, 1), "{query}: {answer:?}");
    }
}

#[tokio::test]
async fn ids_without_a_prefix_are_recognized_by_their_values() {
    for [response, item, nobodys] in SHAPES {
        let mut fleet = Fleet::answering(&[], single, making(response, item)).await;
        // Before an upstream gives such an id, these texts are ordinary values.
        let asked = fleet.gateway.metric("tidegate_affinity_asked_total").await;
        let body = format!(r#"{{"model":"smart","metadata":{{"session":"{nobodys}"}}}}"#);
        assert_eq!(fleet.create("bob", &body).await.status, 200);
        assert_eq!(fleet.gateway.metric("tidegate_affinity_asked_total").await, asked);
        assert_eq!(fleet.create("alice", MAKE).await.status, 200);
        fleet.arrived();
        refuses_each(&mut fleet, [response, item], nobodys).await;
        // After a restart, the store still knows the ids, and that such ids exist.
        fleet.restart_with(single).await;
        refuses_each(&mut fleet, [response, item], nobodys).await;
        // The owner's own id only leads alice to its account.
        for place in PLACES {
            let body = format!(r#"{{"model":"smart",{}}}"#, place.replace("ID", response));
            assert_eq!((fleet.create("alice", &body).await.status, fleet.account()), (200, "one-a".into()), "{body}");
        }
        let body = format!(r#"{{"model":"smart","previous_response_id":"{response}"}}"#);
        assert_eq!((fleet.create("alice", &body).await.status, fleet.account()), (200, "one-a".into()));
    }
}

/// The number of such texts around another owner's id does not matter.
#[tokio::test]
async fn many_ids_neither_hide_the_id_of_another_owner_nor_get_harmless_requests_refused() {
    let [response, item, _] = SHAPES[0];
    let mut fleet = Fleet::answering(&[], single, making(response, item)).await;
    assert_eq!(fleet.create("alice", MAKE).await.status, 200);
    fleet.arrived();
    let around = |count: usize| {
        let ids = (0..count).map(|number| format!(r#""318f3b5e-7d8a-7c6e-b0f1-{number:012x}""#));
        ids.collect::<Vec<_>>().join(",")
    };
    let body = format!(r#"{{"model":"smart","x":[{}]}}"#, around(5000));
    assert_eq!((fleet.create("bob", &body).await.status, fleet.arrived().len()), (200, 1));
    for (count, status, code) in
        [(1000, 404, "unknown_id"), (5000, 404, "unknown_id"), (9000, 400, "too_many_references")]
    {
        let body = format!(r#"{{"model":"smart","x":[{},"{response}"]}}"#, around(count));
        fleet.create("bob", &body).await.assert_final(status, code, true);
        assert!(fleet.arrived().is_empty());
    }
}

/// Also with `unknown_ids = "route"`: an id of another kind at a documented place, and an id with white space around
/// it.
#[tokio::test]
async fn an_id_of_another_kind_still_belongs_to_its_owner() {
    let known = [
        (ReferenceKind::Response, "resp_alice1"),
        (ReferenceKind::Conversation, "conv_alice1"),
        (ReferenceKind::Item, "msg_alice1"),
        (ReferenceKind::File, "file-alice1"),
    ]
    .map(|(kind, id)| (kind, id, "two", "two-b", "alice", None));
    let route = |config: &mut Config| config.affinity.unknown_ids = Some(UnknownIds::Route);
    let mut fleet = Fleet::start(&known, route).await;
    for holds in [
        r#""previous_response_id":"conv_alice1""#,
        r#""previous_response_id":"msg_alice1""#,
        r#""previous_response_id":" resp_alice1 ""#,
        r#""previous_response_id":{"id":"\tresp_alice1"}"#,
        r#""conversation":"resp_alice1""#,
        r#""conversation":{"id":"conv_alice1\n"}"#,
        r#""prompt":{"id":"resp_alice1"}"#,
        r#""prompt":{"id":"pmpt_1","variables":{"x":{"file_id":"msg_alice1"}}}"#,
        r#""input":[{"type":"item_reference","id":"resp_alice1"}]"#,
        r#""input":[{"id":"conv_alice1"}]"#,
        r#""input":[{"role":"user","content":[{"type":"input_image","file_id":"resp_alice1"}]}]"#,
        r#""tools":[{"type":"code_interpreter","container":"file-alice1"}]"#,
        r#""tools":[{"type":"file_search","vector_store_ids":["file-alice1"]}]"#,
    ] {
        let body = format!(r#"{{"model":"smart",{holds}}}"#);
        let answer = fleet.create("bob", &body).await;
        assert!(matches!(answer.status, 400 | 404) && !answer.text().contains("alice"), "{body}: {answer:?}");
        assert!(fleet.arrived().is_empty(), "{body}");
        let nobodys = fleet.create("bob", &body.replace("alice", "nobod")).await;
        assert_eq!((nobodys.status, fleet.arrived().len()), (200, 1), "{body}: {nobodys:?}");
    }
    // A whole item is no reference, whatever its id looks like.
    let whole = r#"{"model":"smart","input":[{"id":"resp_alice1","role":"user","content":"x"}]}"#;
    assert_eq!((fleet.create("bob", whole).await.status, fleet.arrived().len()), (200, 1));
    // White space around the id does not lock its owner out.
    let own = r#"{"model":"smart","previous_response_id":" resp_alice1 "}"#;
    assert_eq!((fleet.create("alice", own).await.status, fleet.account()), (200, "two-b".into()));
}

/// Prompts are made in a provider's console, so that Tidegate never records them. Tidegate refuses no unknown prompt,
/// and no prompt pins.
#[tokio::test]
async fn a_request_with_an_unknown_prompt_goes_to_the_provider() {
    for setting in [UnknownIds::Refuse, UnknownIds::Route] {
        let mut fleet = Fleet::start(&[], |config| config.affinity.unknown_ids = Some(setting)).await;
        for prompt in [r#"{"id":"pmpt_1","version":"2","variables":{"city":"Oslo"}}"#, r#""pmpt_1""#, r#"{"id":"p"}"#] {
            for key in ["alice", "bob"] {
                let body = format!(r#"{{"model":"first","prompt":{prompt}}}"#);
                let answer = fleet.create(key, &body).await;
                assert_eq!((answer.status, fleet.arrived().len()), (200, 1), "{body}: {answer:?}");
            }
        }
    }
}

/// Names in the output of a caller's function belong to the caller.
#[tokio::test]
async fn ids_in_the_output_of_a_function_are_ignored() {
    let mut fleet = Fleet::start(&[(ReferenceKind::File, "file-alice", "two", "two-b", "alice", None)], |_| ()).await;
    fleet.learns(&[(ReferenceKind::File, "file-alice", "two", "two-b", "alice", None)]);
    for kind in ["function_call_output", "custom_tool_call_output", "new_tool_output"] {
        let ask = |output: &str| {
            format!(r#"{{"model":"smart","input":[{{"type":"{kind}","call_id":"c","output":{output}}}]}}"#)
        };
        for output in [
            r#"{"file_id":"mine","File_Id":"other","id":1,"ID":2}"#,
            r#"[{"file_id":"mine","container":"wav","conversation":"x","previous_response_id":"y"}]"#,
            r#""file-alice""#,
            r#"[{"type":"input_text","text":"file-alice"}]"#,
        ] {
            let answer = fleet.create("bob", &ask(output)).await;
            assert_eq!((answer.status, fleet.arrived().len()), (200, 1), "{kind} {output}: {answer:?}");
        }
        // Ids are still recognized by value, and where a provider documents a file.
        for output in [
            r#"{"anything":["file-alice"]}"#,
            r#"[{"type":"row","file_id":"file-alice"}]"#,
            r#"[{"type":"input_file","file_id":"file-new"}]"#,
            r#"[{"Type":"Input_Image","File_Id":"file-new"}]"#,
        ] {
            fleet.create("bob", &ask(output)).await.assert_final(404, "unknown_id", true);
            assert!(fleet.arrived().is_empty(), "{kind} {output}");
        }
    }
}

/// An upstream that repeats its request: the id of its answer is the word behind `echo:`.
fn echoing(request: &Request) -> Vec<Step> {
    let body = String::from_utf8_lossy(&request.body).into_owned();
    let word = |mark: &str| {
        let rest = body.split_once(mark)?.1;
        rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-').next().map(str::to_owned)
    };
    let path = request.line.split(' ').nth(1).unwrap_or_default().rsplit('/').next().unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    let id = word("echo:").unwrap_or_else(|| path.to_owned());
    let item = word("item:").unwrap_or_else(|| "msg_other".into());
    let answer = format!(
        r#"{{"object":"response","id":"{id}","status":"completed","output":[{{"type":"message","id":"{item}"}}]}}"#
    );
    vec![Step::Send(json("200 OK", &answer))]
}

/// A key that names an id unknown to Tidegate does not own the id because the answer repeats it.
#[tokio::test]
async fn an_id_that_an_answer_only_repeats_gets_no_owner() {
    let settings = |config: &mut Config| {
        single(config);
        config.default_upstream = Some(0);
        config.affinity.unknown_ids = Some(UnknownIds::Route);
    };
    let mut fleet = Fleet::answering(&[], settings, echoing).await;
    for (line, body) in [
        ("POST /v1/responses", r#"{"model":"first","previous_response_id":"resp_v1","input":"echo:resp_v1"}"#),
        ("POST /v1/responses", r#"{"model":"first","x":{"request_id":"resp_v1"},"input":"echo:resp_v1"}"#),
        ("GET /v1/responses/resp_v1", ""),
        ("GET /v1/responses/resp_v1?stream=true", ""),
        (
            "POST /v1/responses",
            r#"{"model":"first","input":[{"id":"msg_v1","role":"user","content":"echo:resp_x item:msg_v1"}]}"#,
        ),
    ] {
        let answer = fleet.call("bob", line, Some(body).filter(|body| !body.is_empty())).await;
        assert_eq!(answer.status, 200, "{line} {body}: {answer:?}");
    }
    // Alice made them, so that alice owns them.
    let made = fleet.create("alice", r#"{"model":"first","input":"echo:resp_v1 item:msg_v1"}"#).await;
    assert_eq!(made.status, 200);
    fleet.arrived();
    for holds in [r#""previous_response_id":"resp_v1""#, r#""input":[{"type":"item_reference","id":"msg_v1"}]"#] {
        let body = format!(r#"{{"model":"first",{holds}}}"#);
        assert_eq!((fleet.create("alice", &body).await.status, fleet.account()), (200, "one-a".into()), "{body}");
        let refused = fleet.create("bob", &body).await;
        assert!(matches!(refused.status, 400 | 404) && fleet.arrived().is_empty(), "{body}: {refused:?}");
    }
    // Where no other owner uses the account, the key that names an id owns it: the id is pinned to its account.
    let alone = |config: &mut Config| {
        single(config);
        config.default_upstream = Some(0);
        config.keys.truncate(1);
    };
    let mut fleet = Fleet::answering(&[], alone, echoing).await;
    assert_eq!(fleet.call("alice", "GET /v1/responses/resp_v1", None).await.status, 200);
    let home = fleet.account();
    let body = r#"{"model":"second","previous_response_id":"resp_v1"}"#;
    assert_eq!((fleet.create("alice", body).await.status, fleet.account()), (200, home));
}

/// An account gives the same id to several owners. Each of them may use it, and no other key.
#[tokio::test]
async fn an_id_that_several_owners_received_belongs_to_each_of_them() {
    let mut fleet = Fleet::answering(&[], single, making("resp_0", "msg_0")).await;
    for key in ["alice", "bob", "carol"] {
        assert_eq!(fleet.create(key, MAKE).await.status, 200);
    }
    fleet.arrived();
    let stranger = |config: &mut Config| {
        single(config);
        config.keys.push(key("eve", "sk-eve"));
    };
    fleet.restart_with(stranger).await;
    for time in 0..2 {
        for holds in [
            r#""previous_response_id":"resp_0""#,
            r#""input":[{"type":"item_reference","id":"msg_0"}]"#,
            r#""x":"resp_0""#,
        ] {
            let body = format!(r#"{{"model":"smart",{holds}}}"#);
            // dave is in carol's group.
            for key in ["alice", "bob", "carol", "dave"] {
                let answer = fleet.create(key, &body).await;
                assert_eq!((answer.status, fleet.account()), (200, "one-a".into()), "{time} {key} {body}: {answer:?}");
            }
            let refused = fleet.create("eve", &body).await;
            assert!(matches!(refused.status, 400 | 404) && fleet.arrived().is_empty(), "{body}: {refused:?}");
        }
        assert_eq!(fleet.call("bob", "GET /v1/responses/resp_0", None).await.status, 200);
        fleet.arrived();
    }
}

/// A key gains no access to another owner's id by making an upstream repeat it.
#[tokio::test]
async fn an_answer_that_repeats_an_id_does_not_share_it() {
    let route = |config: &mut Config| {
        single(config);
        config.affinity.unknown_ids = Some(UnknownIds::Route);
    };
    let mut fleet = Fleet::answering(&[], route, echoing).await;
    let made = fleet.create("alice", r#"{"model":"first","input":"echo:resp_a1 item:msg_a1"}"#).await;
    assert_eq!(made.status, 200);
    fleet.arrived();
    for body in [
        r#"{"model":"first","x":"resp_a1","input":"echo:resp_a1"}"#,
        r#"{"model":"first","request_id":"resp_a1","input":"echo:resp_a1"}"#,
        r#"{"model":"first","previous_response_id":"resp_a1","input":"echo:resp_a1"}"#,
        // A whole item with that id goes up, and comes back as the upstream's own.
        r#"{"model":"first","input":[{"id":"msg_a1","role":"user","content":"echo:resp_x item:msg_a1"}]}"#,
        r#"{"model":"first","input":[{"id":"resp_a1","role":"user","content":"echo:resp_a1"}]}"#,
    ] {
        fleet.create("bob", body).await;
    }
    fleet.arrived();
    for holds in [r#""previous_response_id":"resp_a1""#, r#""input":[{"type":"item_reference","id":"msg_a1"}]"#] {
        let body = format!(r#"{{"model":"first",{holds}}}"#);
        let refused = fleet.create("bob", &body).await;
        assert!(matches!(refused.status, 400 | 404) && fleet.arrived().is_empty(), "{body}: {refused:?}");
        assert_eq!((fleet.create("alice", &body).await.status, fleet.account()), (200, "one-a".into()), "{body}");
    }
}
