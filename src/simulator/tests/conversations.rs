//! Conversations: created, changed, read, continued.

use super::*;

const A: &str = "alpha.1";

#[tokio::test]
async fn a_conversation_is_usable_from_create_to_delete() {
    let simulator = Simulator::start().await;
    let items = json!([{"role": "user", "content": "one"}, {"type": "message", "role": "assistant", "content": "two"}]);
    let made =
        simulator.call(A, "POST", "/conversations", json!({"items": items, "metadata": {"a": "b"}})).await.json();
    assert_eq!((&made["object"], &made["metadata"]), (&json!("conversation"), &json!({"a": "b"})));
    assert_eq!(made["created_at"], 1_765_793_453);
    let path = format!("/conversations/{}", made["id"].as_str().unwrap());
    assert_eq!(simulator.call(A, "GET", &path, Value::Null).await.json(), made);
    let changed = simulator.call(A, "POST", &path, json!({"metadata": {"c": "d"}})).await.json();
    assert_eq!((&changed["id"], &changed["metadata"]), (&made["id"], &json!({"c": "d"})));

    let more = json!({"items": [{"role": "user", "content": "three"}]});
    let added = simulator.call(A, "POST", &format!("{path}/items"), more.clone()).await.json();
    assert_eq!((&added["object"], added["data"].as_array().unwrap().len()), (&json!("list"), 1));
    let listed = simulator.call(A, "GET", &format!("{path}/items?order=asc"), Value::Null).await.json();
    let texts: Vec<_> = listed["data"].as_array().unwrap().iter().map(|item| item["content"][0].clone()).collect();
    assert_eq!(
        texts,
        [
            json!({"type": "input_text", "text": "one"}),
            json!({"type": "output_text", "text": "two"}),
            json!({"type": "input_text", "text": "three"})
        ]
    );
    let item = format!("{path}/items/{}", added["data"][0]["id"].as_str().unwrap());
    assert_eq!(simulator.call(A, "GET", &item, Value::Null).await.json(), added["data"][0]);

    // Another account cannot see it.
    for (method, path, body) in [
        ("GET", path.clone(), Value::Null),
        ("POST", path.clone(), json!({"metadata": {}})),
        ("DELETE", path.clone(), Value::Null),
        ("GET", format!("{path}/items"), Value::Null),
        ("POST", format!("{path}/items"), more),
        ("GET", item.clone(), Value::Null),
        ("DELETE", item.clone(), Value::Null),
    ] {
        assert_eq!(simulator.call("beta.1", method, &path, body).await.status(), 404, "{method} {path}");
    }

    let left = simulator.call(A, "DELETE", &item, Value::Null).await.json();
    assert_eq!((&left["object"], &left["id"]), (&json!("conversation"), &made["id"]));
    for method in ["GET", "DELETE"] {
        assert_eq!(simulator.call(A, method, &item, Value::Null).await.status(), 404);
    }
    let deleted = simulator.call(A, "DELETE", &path, Value::Null).await.json();
    assert_eq!(deleted, json!({"id": made["id"], "object": "conversation.deleted", "deleted": true}));
    assert_eq!(simulator.call(A, "GET", &path, Value::Null).await.status(), 404);
}

#[tokio::test]
async fn a_response_continues_a_conversation() {
    let simulator = Simulator::start().await;
    // The body is optional.
    let made = simulator.call(A, "POST", "/conversations", Value::Null).await.json();
    let id = made["id"].clone();
    for (turn, conversation) in [(1, id.clone()), (2, json!({ "id": id }))] {
        let body = json!({"input": format!("word {turn}"), "conversation": conversation, "store": turn == 1});
        let text = said(&simulator.made(A, body).await);
        assert_eq!(text.contains("I remember 1 turn: word 1."), turn == 2, "{text}");
    }
    let path = format!("/conversations/{}/items", id.as_str().unwrap());
    let items = simulator.call(A, "GET", &path, Value::Null).await.json();
    let roles: Vec<_> = items["data"].as_array().unwrap().iter().map(|item| item["role"].clone()).collect();
    assert_eq!(roles, ["assistant", "user", "assistant", "user"]);
    // Only the pro models' layout shows it.
    let pro = json!({"model": "gpt-5.2-pro", "input": "x", "conversation": id});
    let pro = simulator.call(A, "POST", "/responses", pro).await.json();
    assert_eq!(pro["conversation"], json!({ "id": id }));

    let ask = |fields: Value| {
        let mut body = json!({"model": "gpt-5-mini", "input": "x"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        body
    };
    for (key, fields, status) in [
        ("beta.1", json!({ "conversation": id }), 404),
        (A, json!({"conversation": "conv_unknown"}), 404),
        (A, json!({"conversation": id, "previous_response_id": pro["id"]}), 400),
    ] {
        assert_eq!(simulator.call(key, "POST", "/responses", ask(fields)).await.status(), status);
    }
}

#[tokio::test]
async fn invalid_items_are_refused() {
    let simulator = Simulator::start().await;
    let made = simulator.call(A, "POST", "/conversations", json!({})).await.json();
    let items = format!("/conversations/{}/items", made["id"].as_str().unwrap());
    for (path, body, status) in [
        ("/conversations", json!({"items": 1}), 400),
        ("/conversations", json!({"metadata": "x"}), 400),
        ("/conversations", json!({"items": [{"type": "item_reference", "id": "msg_x"}]}), 404),
        (&items, json!({}), 400),
        (&items, json!([]), 400),
        (&format!("{items}?simulate=error%3D503+retry-after%3D2"), json!({"items": []}), 503),
    ] {
        assert_eq!(simulator.call(A, "POST", path, body).await.status(), status, "{path}");
    }
}
