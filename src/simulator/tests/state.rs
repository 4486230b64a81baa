//! Stored state: which account sees it, and for how long.

use super::*;

const A: &str = "alpha.1";
const B: &str = "beta.1";

#[tokio::test]
async fn a_response_chain_continues_only_in_its_account() {
    let simulator = Simulator::start().await;
    let mut previous = Value::Null;
    for turn in 1..=3 {
        // Another key of the same account can continue too.
        let key = if turn == 2 { "alpha.2" } else { A };
        let body = json!({"input": format!("word {turn}"), "previous_response_id": previous});
        let made = simulator.made(key, body).await;
        let text = said(&made);
        assert!(text.contains("account alpha") && text.ends_with(&format!("You said: word {turn}")), "{text}");
        let memory = match turn {
            1 => "",
            2 => "I remember 1 turn: word 1.",
            _ => "I remember 2 turns: word 1; word 2.",
        };
        assert!(text.contains(memory) && text.contains("I remember") == (turn > 1), "{text}");
        previous = made["id"].clone();
    }
    let body = |id: Value| json!({"model": "gpt-5-mini", "input": "x", "previous_response_id": id});
    for (key, id) in [(B, previous.clone()), ("key", previous.clone()), (A, "resp_unknown".into()), (A, 7.into())] {
        let got = simulator.call(key, "POST", "/responses", body(id)).await;
        assert_eq!((got.status(), &got.json()["error"]["code"]), (400, &json!("previous_response_not_found")));
    }
    let elsewhere = simulator
        .send(
            "POST",
            "/acedata/openai/responses",
            A,
            &json!({"model": "gpt-4.1", "input": "x",
        "previous_response_id": previous})
            .to_string(),
        )
        .await;
    assert_eq!((elsewhere.status(), &elsewhere.json()["error"]["code"]), (400, &json!("previous_response_not_found")));
    // A response that was not stored is not found.
    let made = simulator.made(A, json!({"input": "x", "store": false})).await;
    assert_eq!(simulator.call(A, "POST", "/responses", body(made["id"].clone())).await.status(), 400);
}

#[tokio::test]
async fn only_the_account_of_a_response_can_read_and_delete_it() {
    let simulator = Simulator::start().await;
    let made = simulator.made(A, json!({"input": "Hi", "metadata": {"a": "b"}})).await;
    let path = format!("/responses/{}", made["id"].as_str().unwrap());
    let shown = simulator.call(A, "GET", &path, Value::Null).await;
    assert_eq!((shown.status(), shown.json()), (200, made.clone()));
    for method in ["GET", "DELETE"] {
        let foreign = simulator.call(B, method, &path, Value::Null).await;
        assert_eq!(foreign.status(), 404);
        assert!(foreign.json()["error"]["message"].as_str().unwrap().contains("not found"));
    }
    let deleted = simulator.call(A, "DELETE", &path, Value::Null).await.json();
    assert_eq!(deleted, json!({"id": made["id"], "object": "response", "deleted": true}));
    for (method, path) in [("GET", path.clone()), ("DELETE", path.clone()), ("POST", format!("{path}/cancel"))] {
        assert_eq!(simulator.call(A, method, &path, Value::Null).await.status(), 404, "{method} {path}");
    }
    assert_eq!(simulator.call(A, "GET", &format!("{path}/input_items"), Value::Null).await.status(), 404);
}

#[tokio::test]
async fn a_background_response_ends_after_its_polls() {
    let simulator = Simulator::start().await;
    for (directive, statuses) in [
        ("", vec!["in_progress", "completed", "completed"]),
        ("polls=1", vec!["completed"]),
        ("polls=3", vec!["in_progress", "in_progress", "completed"]),
        ("polls=1 failed", vec!["failed"]),
    ] {
        let body = json!({"input": "Hi", "background": true, "metadata": {"simulate": directive}});
        let made = simulator.made(A, body).await;
        assert_eq!(
            (&made["status"], &made["output"], &made["background"]),
            (&json!("queued"), &json!([]), &json!(true))
        );
        let path = format!("/responses/{}", made["id"].as_str().unwrap());
        for status in statuses {
            let shown = simulator.call(A, "GET", &path, Value::Null).await.json();
            assert_eq!(shown["status"], status, "{directive}");
            assert_eq!(shown["output"] == json!([]), status == "in_progress");
        }
        // A completed response stays completed.
        let cancelled = simulator.call(A, "POST", &format!("{path}/cancel"), Value::Null).await.json();
        assert_ne!(cancelled["status"], "cancelled");
    }
}

#[tokio::test]
async fn only_a_background_response_can_be_cancelled() {
    let simulator = Simulator::start().await;
    let body = json!({"input": "Hi", "background": true, "metadata": {"simulate": "polls=1000"}});
    let made = simulator.made(A, body).await;
    let path = format!("/responses/{}", made["id"].as_str().unwrap());
    let cancel = format!("{path}/cancel");
    assert_eq!(simulator.call(B, "POST", &cancel, Value::Null).await.status(), 404);
    for _ in 0..2 {
        let cancelled = simulator.call(A, "POST", &cancel, Value::Null).await;
        assert_eq!((cancelled.status(), &cancelled.json()["status"]), (200, &json!("cancelled")));
    }
    assert_eq!(simulator.call(A, "GET", &path, Value::Null).await.json()["status"], "cancelled");
    let plain = simulator.made(A, json!({"input": "Hi"})).await;
    let cancel = format!("/responses/{}/cancel", plain["id"].as_str().unwrap());
    assert_eq!(simulator.call(A, "POST", &cancel, Value::Null).await.status(), 400);
}

#[tokio::test]
async fn a_stream_can_be_repeated_from_any_event() {
    let simulator = Simulator::start().await;
    for personality in Personality::ALL {
        for background in [false, true] {
            let body = json!({"model": model_of(personality), "input": "潮水 has turned", "stream": true,
                "background": background, "metadata": {"simulate": "cut"}});
            let broken = simulator.create(personality, &body).await;
            let id = broken.events()[0]["response"]["id"].as_str().unwrap().to_owned();
            let expected = if background { "queued" } else { "in_progress" };
            assert_eq!(broken.events()[0]["response"]["status"], expected);
            assert!(!broken.whole);
            let get = async |query: &str| {
                let path = format!("{}/responses/{id}{query}", personality.base_path());
                simulator.send("GET", &path, "key", "").await
            };
            let again = get("?stream=true").await;
            assert!(again.whole && again.body.starts_with(&broken.body) && again.body.len() > broken.body.len());
            assert_eq!(again.header("content-type"), Some("text/event-stream; charset=utf-8"));
            let count = again.events().len();
            for after in 0..count {
                let rest = get(&format!("?stream=true&starting_after={after}")).await;
                assert!(rest.whole && again.body.ends_with(&rest.body), "{personality:?} {after}");
                let number =
                    format!("\"sequence_number\":{}{}", if personality.spaced() { " " } else { "" }, after + 1);
                assert_eq!(rest.text().contains(&number), after + 1 < count, "{after} of {count}: {}", rest.text());
            }
            assert_eq!(get("").await.json()["status"], "completed");
            assert_eq!(get("?stream=true&starting_after=x").await.status(), 400);
        }
    }
    let plain = simulator.made(A, json!({"input": "Hi"})).await;
    let path = format!("/responses/{}?stream=true", plain["id"].as_str().unwrap());
    assert_eq!(simulator.call(A, "GET", &path, Value::Null).await.status(), 400);
}

#[tokio::test]
async fn input_items_come_in_pages() {
    let simulator = Simulator::start().await;
    let first = simulator.made(A, json!({"input": "zero"})).await;
    let input: Vec<Value> = (1..=4).map(|n| json!({"role": "user", "content": format!("text {n}")})).collect();
    let made = simulator.made(A, json!({"input": input, "previous_response_id": first["id"]})).await;
    let get = async |query: &str| {
        let path = format!("/responses/{}/input_items{query}", made["id"].as_str().unwrap());
        simulator.call(A, "GET", &path, Value::Null).await
    };
    let all = get("?order=asc").await.json();
    let texts: Vec<_> = all["data"].as_array().unwrap().iter().map(|item| item["content"][0]["text"].clone()).collect();
    assert_eq!((texts.len(), &texts[0], &texts[5]), (6, &json!("zero"), &json!("text 4")));
    assert_eq!(all["data"][1]["role"], "assistant");
    assert_eq!((&all["object"], &all["has_more"]), (&json!("list"), &json!(false)));
    let mut seen = Vec::new();
    let mut query = "?limit=4".to_owned();
    loop {
        let page = get(&query).await.json();
        let data = page["data"].as_array().unwrap();
        assert_eq!((&page["first_id"], &page["last_id"]), (&data[0]["id"], &data[data.len() - 1]["id"]));
        seen.extend(data.iter().map(|item| item["id"].clone()));
        if page["has_more"] == false {
            break;
        }
        query = format!("?limit=4&include%5B%5D=x&after={}", page["last_id"].as_str().unwrap());
    }
    seen.reverse();
    assert_eq!(seen, all["data"].as_array().unwrap().iter().map(|item| item["id"].clone()).collect::<Vec<_>>());
    for (query, status) in [("?limit=0", 400), ("?limit=101", 400), ("?order=x", 400), ("?after=msg_x", 404)] {
        assert_eq!(get(query).await.status(), status, "{query}");
    }
}

#[tokio::test]
async fn a_reference_is_found_only_in_its_account() {
    let simulator = Simulator::start().await;
    let made = simulator.made(A, json!({"input": "Hi", "reasoning": {"effort": "low"}})).await;
    let (thought, message) = (&made["output"][0], &made["output"][1]);
    assert_eq!((&thought["type"], &message["type"]), (&json!("reasoning"), &json!("message")));
    let question = json!({"role": "user", "content": "And?"});
    for reference in [
        json!({"type": "item_reference", "id": message["id"]}),
        json!({"id": message["id"]}),
        json!({"type": "item_reference", "id": thought["id"]}),
        thought.clone(),
    ] {
        let body = json!({"model": "gpt-5-mini", "input": [reference, question]});
        assert_eq!(simulator.call(A, "POST", "/responses", body.clone()).await.status(), 200);
        for path in ["/responses", "/responses/input_tokens", "/responses/compact"] {
            let foreign = simulator.call(B, "POST", path, body.clone()).await;
            assert_eq!(foreign.status(), 404);
            let message = foreign.json()["error"]["message"].as_str().unwrap().to_owned();
            assert!(message.starts_with("Item with id '") && message.contains("`store`"), "{message}");
        }
    }
    // An id that a client invented for a complete item, as Codex does, is no reference.
    let own =
        json!({"type": "message", "id": "msg_own", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]});
    assert_eq!(
        simulator.call(B, "POST", "/responses", json!({"model": "gpt-5-mini", "input": [own]})).await.status(),
        200
    );
    // A referenced message is read like one that was sent.
    let path = format!("/responses/{}/input_items", made["id"].as_str().unwrap());
    let id = simulator.call(A, "GET", &path, Value::Null).await.json()["data"][0]["id"].clone();
    let made = simulator.made(A, json!({"input": [{"type": "item_reference", "id": id}]})).await;
    assert!(said(&made).ends_with("You said: Hi"));
}

#[tokio::test]
async fn sealed_content_opens_only_in_its_account() {
    let simulator = Simulator::start().await;
    let base = json!({"store": false, "include": ["reasoning.encrypted_content"]});
    let with = |input: &[Value]| {
        let mut body = base.clone();
        body["input"] = input.into();
        body
    };
    let mut input = Vec::new();
    for turn in 1..=3 {
        input.push(json!({"role": "user", "content": format!("word {turn}")}));
        let made = simulator.made(A, with(&input)).await;
        let opened = match turn {
            1 => "",
            2 => "I opened 1 sealed item, the last of turn 1.",
            _ => "I opened 2 sealed items, the last of turn 2.",
        };
        assert!(said(&made).contains(opened) && said(&made).contains("I opened") == (turn > 1), "{}", said(&made));
        input.extend(made["output"].as_array().unwrap().iter().cloned());
    }
    for (key, path) in [(B, "/responses"), (B, "/responses/compact"), (B, "/responses/input_tokens")] {
        let mut body = with(&input);
        body["model"] = "gpt-5-mini".into();
        let got = simulator.call(key, "POST", path, body).await;
        assert_eq!((got.status(), &got.json()["error"]["code"]), (400, &json!("invalid_encrypted_content")), "{path}");
    }
}

#[tokio::test]
async fn compaction_works_by_endpoint_and_by_item() {
    let simulator = Simulator::start().await;
    let first = simulator.made(A, json!({"input": "one"})).await;
    let body = json!({"model": "gpt-5-mini", "previous_response_id": first["id"], "input": "two"});
    let compacted = simulator.call(A, "POST", "/responses/compact", body.clone()).await;
    assert_eq!(compacted.status(), 200, "{}", compacted.text());
    let compacted = compacted.json();
    assert_eq!(compacted["object"], "response.compaction");
    let kinds: Vec<_> = compacted["output"].as_array().unwrap().iter().map(|item| item["type"].clone()).collect();
    assert_eq!(kinds, ["message", "message", "compaction"]);
    assert!(compacted["usage"]["total_tokens"].as_u64().unwrap() > 0);
    assert_eq!(simulator.call(A, "POST", "/responses/compact", json!({"input": "x"})).await.status(), 400);
    assert_eq!(simulator.call(B, "POST", "/responses/compact", body).await.status(), 400);
    let mut input = compacted["output"].as_array().unwrap().clone();
    input.push(json!({"role": "user", "content": "three"}));
    let made = simulator.made(A, json!({"input": input})).await;
    assert!(said(&made).contains("I opened 1 sealed item, the last of turn 2."), "{}", said(&made));

    // Codex asks for it with a last item of its own.
    input.push(json!({"type": "compaction_trigger"}));
    let got =
        simulator.call(A, "POST", "/responses", json!({"model": "gpt-5-mini", "input": input, "stream": true})).await;
    let response = &got.events().pop().unwrap()["response"];
    assert_eq!(response["output"].as_array().unwrap().len(), 1);
    assert_eq!(response["output"][0]["type"], "compaction");
    assert!(got.kinds().iter().any(|kind| kind == "response.output_item.done"));
}

#[tokio::test]
async fn input_tokens_include_the_remembered_context() {
    let simulator = Simulator::start().await;
    let count = async |body: Value| simulator.call(A, "POST", "/responses/input_tokens", body).await.json();
    let input = "a".repeat(40);
    assert_eq!(count(json!({ "input": input })).await, json!({"object": "response.input_tokens", "input_tokens": 10}));
    let first = simulator.made(A, json!({ "input": input })).await;
    let spent = 10 + first["usage"]["output_tokens"].as_u64().unwrap();
    let counted = count(json!({"input": input, "previous_response_id": first["id"]})).await;
    let second = simulator.made(A, json!({"input": input, "previous_response_id": first["id"]})).await;
    assert_eq!(counted["input_tokens"], second["usage"]["input_tokens"]);
    assert!(counted["input_tokens"].as_u64().unwrap().abs_diff(spent + 10) <= 1);
}

#[tokio::test]
async fn received_requests_can_be_filtered_by_account() {
    let simulator = Simulator::start().await;
    simulator.made(A, json!({"input": "Hi"})).await;
    simulator.call(B, "DELETE", "/responses/resp_x?a=b", Value::Null).await;
    simulator.call("sim-bad-key", "GET", "/models", Value::Null).await;
    let ask = async |method: &str, query: &str| {
        simulator.send(method, &format!("/simulator/received{query}"), "", "").await.json()
    };
    let all = ask("GET", "").await;
    let accounts: Vec<_> = all["data"].as_array().unwrap().iter().map(|entry| entry["account"].clone()).collect();
    assert_eq!(accounts, [json!("alpha"), json!("beta"), Value::Null]);
    let first = &all["data"][0];
    let body: Value = serde_json::from_str(first["body"].as_str().unwrap()).unwrap();
    assert_eq!((&first["path"], &body["input"]), (&json!("/responses"), &json!("Hi")));
    let beta = ask("GET", "?account=beta&provider=dmxapi").await["data"][0].clone();
    assert_eq!(
        (&beta["method"], &beta["path"], &beta["query"]),
        (&json!("DELETE"), &json!("/responses/resp_x"), &json!("a=b"))
    );
    assert!(!all.to_string().contains("alpha.1") && !all.to_string().contains("sim-bad-key"));
    ask("DELETE", "").await;
    assert_eq!(ask("GET", "").await["data"], json!([]));
    assert_eq!(simulator.send("POST", "/simulator/received", "", "").await.status(), 405);
}

#[tokio::test]
async fn codex_gets_a_turn_state_of_its_account() {
    let simulator = Simulator::start().await;
    let body = r#"{"model":"o3","input":"Hi"}"#;
    let ask = async |header: &str| {
        let head = format!("POST /dmxapi/v1/responses HTTP/1.1\r\nHost: sim\r\nAuthorization: Bearer {A}\r\n{header}");
        let request = format!("{head}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        simulator.raw(request.as_bytes()).await
    };
    assert!(ask("x-codex-window-id: 1\r\n").await.header("x-codex-turn-state").is_some());
    assert!(ask("").await.header("x-codex-turn-state").is_none());
}
