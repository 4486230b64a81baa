//! What becomes of a request's body.

use crate::support::{
    gateway::{Gateway, UPSTREAM_KEY},
    upstream::{RESPONSE, Upstream, json},
};

#[tokio::test]
async fn only_the_model_changes() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    let body = r#" { "n" : 1.10, "big":1e400, "tools":[{"model":"a"}],"text":"\"model\":\"x\"" , "model" : "smart","é":"\ud83d\ude00" } "#;
    let answer = client.create(body).await;
    assert_eq!((answer.status, answer.whole), (200, true));
    assert_eq!(answer.body, RESPONSE.as_bytes());
    let request = upstream.request().await;
    assert_eq!(request.line, "POST /up/responses HTTP/1.1");
    assert_eq!(String::from_utf8(request.body).unwrap(), body.replace("\"smart\"", "\"real\""));
    let bearer = format!("Bearer {UPSTREAM_KEY}");
    assert_eq!(request.headers.iter().find(|(name, _)| name == "authorization").unwrap().1, bearer);
    gateway.metric_becomes("tidegate_requests_total{upstream=\"up\",end=\"completed\"}", 1.0).await;
}
