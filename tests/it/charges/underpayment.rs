//! Clients that try to pay less than their answers cost.

use tidegate::domain::ledger::UsageState;

use super::{
    answers::{BilledTokens, Case, left_before_usage},
    gateway_before, rows, true_cost,
};
use crate::support::{
    database::until,
    gateway::KEY,
    upstream::{Step, Upstream, json},
};

/// An answer of one word.
const TINY: &str = r#"{"id":"resp_0","object":"response","status":"completed","model":"real","output":[],"usage":{"input_tokens":8,"output_tokens":1,"total_tokens":9}}"#;

/// Many tiny requests teach the key's estimate that its answers are nearly empty.
#[tokio::test]
async fn a_large_answer_after_many_tiny_ones_is_charged_in_full() {
    const TINY_ONES: usize = 120;
    for case in left_before_usage() {
        let steps = std::sync::Mutex::new((0, Some(case.steps().await)));
        let upstream = Upstream::scripted(move |_| {
            let mut steps = steps.lock().unwrap();
            steps.0 += 1;
            if steps.0 <= TINY_ONES {
                vec![Step::Send(json("200 OK", TINY))]
            } else {
                steps.1.take().unwrap_or_default()
            }
        })
        .await;
        let gateway = gateway_before(&upstream).await;
        let mut client = gateway.connect().await;
        for _ in 0..TINY_ONES {
            client.send(request(&case, r#"{"model":"smart"}"#)).await;
            assert_eq!(client.answer().await.status, 200);
        }
        super::ask(&gateway, &case).await;
        until(case.name, async || rows(gateway.folder.path()).await.len() == TINY_ONES + 1).await;
        let row = rows(gateway.folder.path()).await.pop().unwrap();
        let ratio = row.cost as f64 / true_cost(case.truth) as f64;
        assert!((0.7..1.5).contains(&ratio), "{}: {row:?} is {ratio} of the truth", case.name);
        assert_eq!(row.state, UsageState::Partial.name(), "{}", case.name);
    }
}

/// The same for hidden reasoning of chats, which only the usage of earlier answers shows.
#[tokio::test]
async fn hidden_reasoning_of_a_chat_is_charged_by_the_usual_amount_for_the_key_and_model() {
    const TOLD_ONES: usize = 3;
    let usage = r#"{"prompt_tokens":10,"completion_tokens":10001,"total_tokens":10011,"completion_tokens_details":{"reasoning_tokens":10000}}"#;
    let told = format!(
        r#"{{"id":"c","object":"chat.completion","choices":[{{"message":{{"content":"hi"}},"finish_reason":"stop"}}],"usage":{usage}}}"#
    );
    let case = left_before_usage().into_iter().find(|case| case.name == "chat, left before [DONE]").unwrap();
    let steps = std::sync::Mutex::new((0, Some(case.steps().await)));
    let upstream = Upstream::scripted(move |_| {
        let mut steps = steps.lock().unwrap();
        steps.0 += 1;
        if steps.0 <= TOLD_ONES { vec![Step::Send(json("200 OK", &told))] } else { steps.1.take().unwrap_or_default() }
    })
    .await;
    let gateway = gateway_before(&upstream).await;
    let mut client = gateway.connect().await;
    for _ in 0..TOLD_ONES {
        client.send(request(&case, r#"{"model":"smart"}"#)).await;
        assert_eq!(client.answer().await.status, 200);
    }
    super::ask(&gateway, &case).await;
    until(case.name, async || rows(gateway.folder.path()).await.len() == TOLD_ONES + 1).await;
    let row = rows(gateway.folder.path()).await.pop().unwrap();
    let truth = BilledTokens { output: case.truth.output + 10_000, ..case.truth };
    let ratio = row.cost as f64 / true_cost(truth) as f64;
    assert!((0.7..1.3).contains(&ratio) && row.state == UsageState::Partial.name(), "{row:?} is {ratio} of the truth");
}

fn request(case: &Case, body: &str) -> String {
    let Case { path, .. } = case;
    format!(
        "POST {path} HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}
