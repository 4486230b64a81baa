//! Plain answers, error answers and heads.

use super::*;

#[tokio::test]
async fn every_personality_answers_in_its_layout() {
    let simulator = Simulator::start().await;
    let starts = [
        (Personality::Dmxapi, "gpt-5.2-pro", "{\"id\":\"resp_", "gpt-5.2-pro"),
        (Personality::Dmxapi, "gpt-5-mini", "{\"id\":\"resp_", "gpt-5-mini-2025-08-07"),
        (Personality::Modelverse, "gpt-4o", "{\"id\":\"resp_", "gpt-4o"),
        (Personality::Acedata, "gpt-4.1", "{\"id\": \"resp_", "gpt-4.1"),
        (Personality::Acedata, "sim-anything", "{\"id\": \"resp_", "sim-anything"),
    ];
    for (personality, model, start, real) in starts {
        let first = simulator.create(personality, &json!({"model": model, "input": "first"})).await.json();
        let body = json!({"model": model, "input": "你好", "instructions": "Be brief", "store": false,
            "previous_response_id": first["id"], "metadata": {"a": "b"}, "unknown_field": [1]});
        let got = simulator.create(personality, &body).await;
        assert_eq!((got.status(), got.whole), (200, true));
        assert_eq!(got.header("content-type"), Some("application/json"));
        assert!(got.text().starts_with(start), "{}", got.text());
        let answer = got.json();
        assert_eq!(answer["model"], real);
        assert!(answer["output"][0]["content"][0]["text"].as_str().unwrap().ends_with("You said: 你好"));
        assert_eq!((&answer["instructions"], &answer["store"]), (&json!("Be brief"), &json!(false)));
        assert_eq!((&answer["previous_response_id"], &answer["metadata"]), (&first["id"], &json!({"a": "b"})));
        let before = 5 + first["output"][0]["content"][0]["text"].as_str().unwrap().len();
        assert_eq!(answer["usage"]["input_tokens"], (2 + 8 + before).div_ceil(4));
        // Headers that a gateway must not forward.
        assert_eq!(got.header("openai-model"), Some(real));
        assert!(got.header("set-cookie").is_some() && got.header("openai-organization").is_some());
        assert!(got.header("x-request-id").unwrap().starts_with("req_"));
    }
}

#[tokio::test]
async fn dmxapi_has_two_layouts() {
    let simulator = Simulator::start().await;
    let pro = simulator.create(Personality::Dmxapi, &json!({"model": "gpt-5.2-pro", "input": "Hi"})).await;
    for fact in [
        r#","created_at":1765793453.0,"error":null,"#,
        r#""top_p":0.98,"background":false,"conversation":null,"#,
        r#""reasoning":{"effort":"high","generate_summary":null,"summary":null},"#,
        r#""prompt_cache_retention":null,"#,
        r#""text":{"format":{"type":"text"},"verbosity":"medium"},"top_logprobs":0,"#,
        r#""user":null,"billing":{"payer":"developer"},"store":true}"#,
    ] {
        assert!(pro.text().contains(fact), "{fact} in {}", pro.text());
    }
    let mini = simulator.create(Personality::Dmxapi, &json!({"model": "gpt-5-mini", "input": "Hi"})).await;
    let fact = r#","object":"response","model":"gpt-5-mini-2025-08-07","usage":{"total_tokens":"#;
    assert!(mini.text().contains(fact) && mini.text().contains(r#""created_at":1765793453,"#), "{}", mini.text());
}

#[tokio::test]
async fn an_answer_counts_images_and_follows_schemas() {
    let simulator = Simulator::start().await;
    let images = json!({"model": "gpt-4o", "input": [{"role": "user", "content": [
        {"type": "input_text", "text": "What is it?"},
        {"type": "input_image", "image_url": "https://example.com/a.jpg"},
        {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}]}]});
    let answer = simulator.create(Personality::Modelverse, &images).await.json();
    let text = answer["output"][0]["content"][0]["text"].as_str().unwrap();
    assert!(text.ends_with("I see 2 images: one by URL, one of 8 bytes."), "{text}");
    assert_eq!(answer["usage"]["input_tokens"], 3 + 2 * 85);

    let format = |format: Value| json!({"model": "gpt-4o", "input": "Hi", "text": {"format": format}});
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
    let body = format(json!({"type": "json_schema", "name": "x", "schema": schema, "strict": true}));
    let answer = simulator.create(Personality::Modelverse, &body).await.json();
    assert_eq!(answer["output"][0]["content"][0]["text"], "{\"n\":1}");
    assert_eq!(answer["text"]["format"]["name"], "x");
    let answer = simulator.create(Personality::Modelverse, &format(json!({"type": "json_object"}))).await.json();
    let text = answer["output"][0]["content"][0]["text"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(text).unwrap()["answer"].as_str().unwrap().contains("You said: Hi"));
}

#[tokio::test]
async fn errors_have_the_shape_of_the_provider() {
    let simulator = Simulator::start().await;
    let valid = r#"{"model": "gpt-4.1", "input": "Hi"}"#;
    for (key, body, status, code, ace) in [
        ("", valid, 401, Value::Null, "invalid_token"),
        ("sim-bad-and-secret-1234", valid, 401, json!("invalid_api_key"), "invalid_token"),
        ("key", r#"{"model": "llama"}"#, 400, json!("model_not_found"), "token_mismatched"),
        ("key", "{}", 400, json!("missing_required_parameter"), "token_mismatched"),
        ("key", "{nonsense", 400, Value::Null, "token_mismatched"),
        ("key", r#"{"model":"o3","metadata":{"simulate":"x"}}"#, 400, json!("unknown_directive"), "token_mismatched"),
    ] {
        let openai = simulator.send("POST", "/dmxapi/v1/responses", key, body).await;
        assert_eq!((openai.status(), &openai.json()["error"]["code"]), (status, &code), "{body}");
        let error = &openai.json()["error"];
        assert!(["message", "type", "param", "code"].iter().all(|field| error.get(field).is_some()), "{error}");
        assert!(!openai.text().contains("and-secret"));
        let own = simulator.send("POST", "/acedata/openai/responses", key, body).await;
        assert_eq!((own.status(), own.json()["error"]["code"].as_str()), (status, Some(ace)), "{body}");
        assert!(own.json()["trace_id"].is_string());
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_refused() {
    let simulator = Simulator::start().await;
    for (method, path, status) in [
        ("GET", "/dmxapi/v1/models", 200),
        ("GET", "/acedata/openai/models", 200),
        ("GET", "/dmxapi/v1/responses", 405),
        ("POST", "/modelverse/v1/models", 405),
        ("GET", "/dmxapi/v1/responses/resp_1", 404),
        ("PATCH", "/dmxapi/v1/responses/resp_1", 405),
        ("GET", "/modelverse/v1/files", 404),
        ("GET", "/modelverse/v1/chat/completions", 405),
        ("DELETE", "/acedata/openai/responses/resp_1", 404),
        ("POST", "/dmxapi/v1", 404),
        ("POST", "/dmxapi/v12/responses", 404),
        ("POST", "/v1/responses", 404),
        ("GET", "/", 404),
    ] {
        let got = simulator.send(method, path, "key", "").await;
        assert_eq!(got.status(), status, "{method} {path}");
        assert_eq!(got.header("content-type"), Some("application/json"));
        assert_eq!(got.header("allow").is_some(), status == 405);
    }
    let list = simulator.send("GET", "/modelverse/v1/models", "key", "").await.json();
    assert_eq!((&list["object"], &list["data"][0]["id"]), (&json!("list"), &json!("gpt-4o")));
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let simulator = Simulator::start().await;
    let text = "a".repeat(3 << 20);
    let got = simulator.create(Personality::Dmxapi, &json!({"model": "o3", "input": text})).await;
    assert_eq!(got.json()["usage"]["input_tokens"], (3 << 20) / 4);
    let head = "POST /dmxapi/v1/responses HTTP/1.1\r\nHost: sim\r\nAuthorization: Bearer key\r\nContent-Length: 67108865\r\n\r\n";
    assert_eq!(simulator.raw(head.as_bytes()).await.status(), 413);
}

#[tokio::test]
async fn the_simulator_stops_on_its_stop_signal() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let served = tokio::spawn(serve(listener, Options::default(), stop.clone()));
    let mut idle = TcpStream::connect(address).await.unwrap();
    stop.cancel();
    served.await.unwrap();
    assert_eq!(idle.read(&mut [0]).await.unwrap_or(0), 0);
}
