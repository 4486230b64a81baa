//! A path that names an id goes to the account that holds the id.

use super::*;

#[tokio::test]
async fn a_path_with_a_known_id_goes_to_the_account_that_holds_it() {
    let known = [
        (ReferenceKind::Response, "resp_1", "one", "one-b", "alice", None),
        (ReferenceKind::Conversation, "conv_2", "two", "two-a", "alice", None),
        (ReferenceKind::Item, "msg_2", "two", "two-a", "alice", None),
        // Another account made the response: the conversation decides.
        (ReferenceKind::Item, "msg_1", "one", "one-a", "alice", None),
    ];
    // The configured default upstream gets the ids that nobody knows.
    let mut fleet = Fleet::start(&known, |config| config.default_upstream = Some(0)).await;
    for (line, account) in [
        ("GET /v1/responses/resp_1?stream=true&starting_after=3", "one-b"),
        ("POST /responses/resp_1/cancel", "one-b"),
        ("GET /v1/conversations/conv_2", "two-a"),
        ("GET /v1/conversations/conv_2/items?limit=2", "two-a"),
        ("GET /v1/conversations/conv_2/items/msg_2", "two-a"),
        ("DELETE /v1/conversations/conv_2/items/msg_1", "two-a"),
        ("DELETE /v1/conversations/conv_2", "two-a"),
    ] {
        for _ in 0..2 {
            assert_eq!(fleet.call("alice", line, None).await.status, 200, "{line}");
            let arrived = fleet.arrived();
            assert_eq!((arrived.len(), &*arrived[0].0), (1, account), "{line}");
            let (method, path) = line.split_once(' ').unwrap();
            let path = path.strip_prefix("/v1").unwrap_or(path);
            assert_eq!(arrived[0].1.line, format!("{method} /up{path} HTTP/1.1"));
        }
    }
    let items = r#"{"items":[{"role":"user","content":[{"file_id":"file-new"}]}]}"#;
    let answer = fleet.call("alice", "POST /v1/conversations/conv_2/items", Some(items)).await;
    answer.assert_final(404, "unknown_id", true);
    assert_eq!(answer.param().as_deref(), Some("file_id"));
    let items = r#"{"items":[{"id":"msg_new","type":"message","role":"user","content":"x"}]}"#;
    assert_eq!(fleet.call("alice", "POST /v1/conversations/conv_2/items", Some(items)).await.status, 200);
    assert_eq!(fleet.account(), "two-a");
}
