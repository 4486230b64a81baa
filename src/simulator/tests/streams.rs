//! The events of streams.

use super::*;

#[tokio::test]
async fn every_personality_streams_all_events_of_an_answer() {
    let simulator = Simulator::start().await;
    for personality in Personality::ALL {
        let body = json!({"model": model_of(personality), "input": "潮水 has 👩‍🚀 turned", "stream": true});
        let got = simulator.create(personality, &body).await;
        assert!(got.whole);
        assert_eq!(got.header("content-type"), Some("text/event-stream; charset=utf-8"));
        let mut kinds = got.kinds();
        kinds.dedup();
        let mut expected = vec![
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ];
        if personality == Personality::Modelverse {
            expected.push("response.done");
        }
        assert_eq!(kinds, expected, "{personality:?}");
        assert_eq!(got.text().ends_with("data: [DONE]\n\n"), personality == Personality::Modelverse);

        let events = got.events();
        let deltas: Vec<&Value> = events.iter().filter(|event| event["type"] == "response.output_text.delta").collect();
        let text: String = deltas.iter().map(|event| event["delta"].as_str().unwrap()).collect();
        assert!(deltas.len() > 3 && text.contains("You said: 潮水 has 👩‍🚀 turned"), "{text}");
        let completed = events.iter().find(|event| event["type"] == "response.completed").unwrap();
        let response = &completed["response"];
        let message = &response["output"][0];
        assert_eq!(message["content"][0]["text"], text);
        assert_eq!(deltas[0]["item_id"], message["id"]);
        assert_eq!((&deltas[0]["output_index"], &deltas[0]["content_index"]), (&json!(0), &json!(0)));
        assert_eq!(deltas[0]["logprobs"], json!([]));
        assert_eq!(events[0]["response"]["id"], response["id"]);
        assert_eq!(events[0]["response"]["status"], "in_progress");
        assert_eq!(events[0]["response"]["usage"], Value::Null);
        assert_eq!(response["status"], "completed");
        let usage = &response["usage"];
        assert_eq!(usage["output_tokens"], text.chars().count().div_ceil(4));
        assert_eq!(usage["input_tokens"], "潮水 has 👩‍🚀 turned".chars().count().div_ceil(4));
    }
}

#[tokio::test]
async fn frames_look_as_on_the_providers_pages() {
    let simulator = Simulator::start().await;
    let got = simulator.stream(Personality::Dmxapi, "").await;
    let start = "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"resp_";
    assert!(got.text().starts_with(start), "{}", got.text());
    assert!(got.text().contains("\"created_at\":1765793453.0,"));
    assert!(got.text().contains("\"billing\":{\"payer\":\"developer\"},\"store\":true}"));

    let got = simulator.stream(Personality::Modelverse, "").await;
    assert!(got.text().starts_with("event: response.created\n"));
    assert!(got.text().contains("\"created\":1765793453,"));

    let got = simulator.stream(Personality::Acedata, "").await;
    assert!(!got.text().contains("event:"));
    assert!(
        got.text().starts_with(r#"data: {"type": "response.created", "sequence_number": 0, "response": {"id": "resp_"#)
    );
    let rest = r#""object": "response", "created_at": 1765793453, "status": "in_progress", "background": false, "content_filters": null, "error": null, "incomplete_details": null, "instructions": null, "max_output_tokens": null, "max_tool_calls": null, "model": "gpt-4.1-data", "output": [], "parallel_tool_calls": true, "previous_response_id": null, "prompt_cache_key": null, "reasoning": {"effort": null, "summary": null}, "safety_identifier": null, "service_tier": "auto", "store": true, "temperature": 1.0, "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_p": 1.0, "truncation": "disabled", "usage": null, "user": null"#;
    assert!(got.text().contains(rest), "{}", got.text());
}

#[tokio::test]
async fn reasoning_comes_first_and_is_sealed() {
    let simulator = Simulator::start().await;
    let mut body = json!({"model": "gpt-5-mini", "input": "Hello", "stream": true,
        "include": ["reasoning.encrypted_content"], "reasoning": {"effort": "low", "summary": "auto"}});
    let got = simulator.create(Personality::Dmxapi, &body).await;
    let events = got.events();
    assert!(got.kinds().contains(&"response.reasoning_summary_text.delta".to_owned()));
    let done = events.iter().find(|event| event["type"] == "response.output_item.done").unwrap();
    assert_eq!((&done["item"]["type"], &done["output_index"]), (&json!("reasoning"), &json!(0)));
    let response = &events.last().unwrap()["response"];
    assert_eq!(response["output"][0], done["item"]);
    assert_eq!(response["output"][1]["type"], "message");
    assert_eq!(response["usage"]["output_tokens_details"]["reasoning_tokens"], 64);
    assert_eq!(response["reasoning"], json!({"effort": "low", "summary": "auto"}));

    // Only its own account accepts it back.
    body["stream"] = false.into();
    body["input"] = json!([done["item"], {"role": "user", "content": "More"}]);
    assert_eq!(simulator.create(Personality::Dmxapi, &body).await.status(), 200);
    let refused = simulator.create(Personality::Modelverse, &body).await;
    assert_eq!(refused.json()["error"]["code"], "invalid_encrypted_content");
}

#[tokio::test]
async fn functions_are_called_and_their_results_are_quoted() {
    let simulator = Simulator::start().await;
    let tool = |name: &str| {
        json!({"type": "function", "name": name, "strict": true, "parameters": {
        "type": "object", "required": ["city", "unit"], "additionalProperties": false, "properties": {
            "city": {"type": "string"}, "unit": {"type": "string", "enum": ["c", "f"]}}}})
    };
    let base =
        json!({"model": "gpt-4.1", "input": "Hello", "stream": true, "tools": [tool("get_time"), tool("get_weather")]});
    let with = |field: &str, value: Value| {
        let mut body = base.clone();
        body[field] = value;
        body
    };
    for (body, name) in [
        (with("tool_choice", "required".into()), "get_time"),
        (with("tool_choice", json!({"type": "function", "name": "get_weather"})), "get_weather"),
        (with("input", "please use get_weather, now".into()), "get_weather"),
        (with("input", "hi\nsimulate: call".into()), "get_time"),
        (with("input", "hi\nsimulate: call=get_weather".into()), "get_weather"),
        (
            with(
                "tool_choice",
                json!({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_weather"}]}),
            ),
            "get_weather",
        ),
    ] {
        let got = simulator.create(Personality::Acedata, &body).await;
        let events = got.events();
        let call = &events.last().unwrap()["response"]["output"][0];
        assert_eq!((&call["type"], &call["name"]), (&json!("function_call"), &json!(name)), "{body}");
        let arguments = r#"{"city":"…","unit":"c"}"#;
        assert_eq!(call["arguments"], arguments);
        let deltas = events.iter().filter(|event| event["type"] == "response.function_call_arguments.delta");
        let text: String = deltas.map(|event| event["delta"].as_str().unwrap()).collect();
        assert_eq!(text, arguments);
        assert!(call["call_id"].as_str().unwrap().starts_with("call_"));
    }
    for body in [base.clone(), with("input", "get_weathers".into()), with("tool_choice", "none".into())] {
        let got = simulator.create(Personality::Acedata, &body).await;
        assert_eq!(got.events().last().unwrap()["response"]["output"][0]["type"], "message", "{body}");
    }
    let mut body = with("tool_choice", "required".into());
    body["input"] = json!([{"role": "user", "content": "get_weather"},
        {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "21 degrees"}]);
    let got = simulator.create(Personality::Acedata, &body).await;
    assert!(got.text().contains("The function answered: 21 degrees"), "{}", got.text());
}

#[tokio::test]
async fn a_long_answer_has_as_many_deltas_as_tokens() {
    let simulator = Simulator::start().await;
    let got = simulator.stream(Personality::Dmxapi, "tokens=2000 cached=1").await;
    let deltas = got.kinds().iter().filter(|kind| *kind == "response.output_text.delta").count();
    assert_eq!(deltas, 2000);
    let usage = got.events().pop().unwrap()["response"]["usage"].take();
    assert_eq!((&usage["output_tokens"], &usage["input_tokens_details"]["cached_tokens"]), (&json!(2000), &json!(1)));
}
