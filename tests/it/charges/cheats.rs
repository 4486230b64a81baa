//! Clients that try to pay less.

use tidegate::domain::ledger::UsageState;

use super::{
    answers::{Case, cheats},
    gateway_before, rows, true_cost,
};
use crate::support::{
    database::until,
    gateway::KEY,
    upstream::{Step, Upstream, json},
};

/// An answer of one word.
const TINY: &str = r#"{"id":"resp_0","object":"response","status":"completed","model":"real","output":[],"usage":{"input_tokens":8,"output_tokens":1,"total_tokens":9}}"#;

/// After many tiny requests, which taught the key's estimate that its requests are next to nothing.
#[tokio::test]
async fn a_large_answer_behind_many_tiny_ones_is_charged_as_it_was() {
    const TINY_ONES: usize = 120;
    for case in cheats() {
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

fn request(case: &Case, body: &str) -> String {
    let Case { path, .. } = case;
    format!(
        "POST {path} HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}
