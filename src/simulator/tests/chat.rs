//! Chat Completions and embeddings.

use super::*;

#[tokio::test]
async fn chats_answer_whole_and_in_chunks() {
    let simulator = Simulator::start().await;
    for personality in Personality::ALL {
        let path = format!("{}/chat/completions", personality.base_path());
        let mut body = json!({"model": model_of(personality), "messages": [
            {"role": "system", "content": "Be brief"},
            {"role": "user", "content": [{"type": "text", "text": "潮水"},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}]});
        let whole = simulator.send("POST", &path, "alpha.1", &body.to_string()).await.json();
        let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(text.contains("account alpha") && text.contains("You said: 潮水\nI see 1 image"), "{text}");
        assert_eq!(
            (&whole["object"], &whole["choices"][0]["finish_reason"]),
            (&json!("chat.completion"), &json!("stop"))
        );
        let usage = &whole["usage"];
        assert_eq!(
            usage["total_tokens"],
            usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap()
        );

        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
        let got = simulator.send("POST", &path, "alpha.1", &body.to_string()).await;
        assert!(got.whole && got.text().ends_with("data: [DONE]\n\n") && !got.text().contains("event:"));
        let chunks = chunks(&got);
        let streamed: String =
            chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(streamed, text);
        let last = chunks.last().unwrap();
        assert_eq!((&last["choices"], &last["usage"]), (&json!([]), usage));
        assert_eq!(chunks[chunks.len() - 2]["choices"][0]["finish_reason"], "stop");
        assert!(chunks.iter().all(|chunk| chunk["id"] == last["id"] && chunk["object"] == "chat.completion.chunk"));

        body["stream_options"] = Value::Null;
        assert!(!simulator.send("POST", &path, "alpha.1", &body.to_string()).await.text().contains("usage"));
    }
}

fn chunks(got: &ReceivedAnswer) -> Vec<Value> {
    let data = got.text().lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

#[tokio::test]
async fn chats_call_functions_and_follow_schemas_and_directives() {
    let simulator = Simulator::start().await;
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let mut body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "tool_choice":
        {"type": "function", "function": {"name": "weather"}}, "tools": [{"type": "function", "function":
        {"name": "weather", "parameters": parameters}}]});
    let ask = async |body: &Value| simulator.call("key", "POST", "/chat/completions", body.clone()).await;
    let choice = ask(&body).await.json()["choices"][0].clone();
    assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &Value::Null));
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"], json!({"name": "weather", "arguments": r#"{"city":"…"}"#}));
    body["stream"] = true.into();
    let got = chunks(&ask(&body).await);
    let deltas: Vec<_> = got.iter().map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0]["function"]).collect();
    assert_eq!((&deltas[1]["name"], &deltas[2]["arguments"]), (&json!("weather"), &json!(r#"{"city":"…"}"#)));
    body["messages"] = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "21 degrees"}]);
    assert!(ask(&body).await.text().contains("degrees"));

    let mut body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "response_format":
        {"type": "json_schema", "json_schema": {"name": "x", "schema": parameters}}});
    assert_eq!(ask(&body).await.json()["choices"][0]["message"]["content"], r#"{"city":"…"}"#);
    for (directive, end) in [("failed", "error"), ("incomplete", "length"), ("no-terminal", "content")] {
        body["stream"] = true.into();
        body["messages"] = json!([{"role": "user", "content": format!("Hi\nsimulate: {directive}")}]);
        let got = ask(&body).await;
        assert!(got.whole && got.text().contains(end), "{}", got.text());
        assert_eq!(got.text().contains("[DONE]"), directive != "no-terminal");
    }
    body["messages"] = json!([{"role": "user", "content": "Hi\nsimulate: cut at=1000"}]);
    let cut = ask(&body).await;
    assert!(!cut.whole && !cut.text().contains("finish_reason\":\"stop"), "{}", cut.text());
    for (fields, status) in [(json!({"model": "llama", "messages": []}), 404), (json!({"model": "gpt-4o"}), 400)] {
        assert_eq!(ask(&fields).await.status(), status);
    }
}

#[tokio::test]
async fn equal_texts_have_equal_embeddings() {
    let simulator = Simulator::start().await;
    let ask = async |body: Value| simulator.call("key", "POST", "/embeddings", body).await;
    let model = "text-embedding-3-small";
    let got = ask(json!({"model": model, "input": ["one", "two", "one"], "dimensions": 4})).await.json();
    let vectors: Vec<_> = got["data"].as_array().unwrap().iter().map(|entry| entry["embedding"].clone()).collect();
    assert_eq!((vectors.len(), vectors[0].as_array().unwrap().len()), (3, 4));
    assert!(vectors[0] == vectors[2] && vectors[0] != vectors[1]);
    assert_eq!((&got["usage"], &got["data"][1]["index"]), (&json!({"prompt_tokens": 3, "total_tokens": 3}), &json!(1)));
    let base64 = ask(json!({"model": model, "input": [1, 2, 3], "encoding_format": "base64"})).await.json();
    let bytes = data_encoding::BASE64.decode(base64["data"][0]["embedding"].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!((bytes.len(), base64["data"].as_array().unwrap().len()), (16 * 4, 1));
    assert_eq!(ask(json!({"model": model, "input": [[1], [2]]})).await.json()["data"].as_array().unwrap().len(), 2);
    for body in
        [json!({"model": "gpt-4o", "input": "x"}), json!({"model": model}), json!({"model": model, "input": [{}]})]
    {
        assert_eq!(ask(body).await.status(), 400);
    }
}
