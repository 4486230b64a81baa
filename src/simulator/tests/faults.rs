//! The effects of each directive.

use tokio::time::Instant;

use super::*;

#[tokio::test]
async fn error_directives_take_a_status_or_a_name() {
    let simulator = Simulator::start().await;
    for (directive, status, code, ace) in [
        ("error=429 retry-after=1", 429, json!("rate_limit_exceeded"), "too_many_requests"),
        ("error=500", 500, json!("server_error"), "api_error"),
        ("error=503", 503, json!("server_is_overloaded"), "api_error"),
        ("error=400", 400, Value::Null, "token_mismatched"),
        ("error=unauthorized", 401, json!("invalid_api_key"), "invalid_token"),
        ("error=balance", 403, json!("insufficient_user_quota"), "balance"),
        ("error=policy", 403, json!("content_policy_violation"), "content_policy_violation"),
        ("error=context_length_exceeded", 400, json!("context_length_exceeded"), "context_length_exceeded"),
        ("error=insufficient_quota", 429, json!("insufficient_quota"), "insufficient_quota"),
    ] {
        let got = simulator.stream(Personality::Dmxapi, directive).await;
        assert_eq!((got.status(), &got.json()["error"]["code"]), (status, &code), "{directive}");
        assert_eq!(got.header("retry-after"), directive.contains("retry").then_some("1"));
        let own = simulator.stream(Personality::Acedata, directive).await;
        assert_eq!((own.status(), &own.json()["error"]["code"]), (status, &json!(ace)), "{directive}");
    }
    let unknown = simulator.stream(Personality::Modelverse, "nonsense").await;
    assert!(unknown.status() == 400 && unknown.text().contains("no-last-blank-line"));
}

#[tokio::test]
async fn html_and_redirect_replace_the_answer() {
    let simulator = Simulator::start().await;
    for status in [200, 502] {
        let page = simulator.stream(Personality::Dmxapi, &format!("html={status}")).await;
        assert_eq!((page.status(), page.header("content-type")), (status, Some("text/html; charset=utf-8")));
        assert!(page.text().starts_with("<!DOCTYPE html>"));
    }
    let redirect = simulator.stream(Personality::Dmxapi, "redirect").await;
    assert_eq!(redirect.status(), 302);
    assert!(redirect.header("location").is_some());
    let nothing = simulator.stream(Personality::Dmxapi, "cut-head").await;
    assert_eq!((nothing.head.as_str(), nothing.whole), ("", false));
}

#[tokio::test]
async fn a_stream_ends_as_its_directive_says() {
    let simulator = Simulator::start().await;
    for personality in Personality::ALL {
        for (directive, terminal) in [
            ("failed", "response.failed"),
            ("failed=rate_limit_exceeded", "response.failed"),
            ("incomplete", "response.incomplete"),
            ("error-event", "error"),
            ("done-only", "response.done"),
            ("no-terminal", "response.output_item.done"),
        ] {
            let got = simulator.stream(personality, directive).await;
            assert!(got.whole, "{directive}");
            assert_eq!(got.kinds().last().unwrap(), terminal, "{personality:?} {directive}");
            assert!(!got.text().contains("response.completed"));
            let done = personality == Personality::Modelverse && directive != "no-terminal";
            assert_eq!(got.text().contains("[DONE]"), done);
        }
    }
    let failed = simulator.stream(Personality::Dmxapi, "failed=rate_limit_exceeded").await.events();
    assert_eq!(failed.last().unwrap()["response"]["error"]["code"], "rate_limit_exceeded");
    let error = simulator.stream(Personality::Dmxapi, "error-event=slow_down").await.events();
    assert_eq!(error.last().unwrap()["code"], "slow_down");
    let body = json!({"model": "o3", "input": "Hi\nsimulate: incomplete=content_filter"});
    let plain = simulator.create(Personality::Acedata, &body).await.json();
    assert_eq!(
        (&plain["status"], &plain["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("content_filter"))
    );
}

#[tokio::test]
async fn cut_directives_break_the_transfer() {
    let simulator = Simulator::start().await;
    for personality in Personality::ALL {
        let cut = simulator.stream(personality, "cut").await;
        assert_eq!((cut.status(), cut.whole, cut.events().len()), (200, false, 6), "{personality:?}");
        let late = simulator.stream(personality, "cut at=1000000").await;
        assert_eq!((late.whole, late.kinds().last().unwrap().as_str()), (false, "response.output_item.done"));
        let first = simulator.stream(personality, "cut at=0").await;
        assert_eq!((first.status(), first.whole, first.body.len()), (200, false, 0));
        let plain = |directive: &str| json!({"model": model_of(personality), "input": "Hi", "metadata": {"simulate": directive}});
        let short = simulator.create(personality, &plain("short-length")).await;
        assert!(!short.whole && short.json()["status"] == "completed");
        assert_eq!(short.header("content-length"), Some((short.body.len() + 100).to_string().as_str()));
        let half = simulator.create(personality, &plain("cut")).await;
        assert!(!half.whole && half.body.starts_with(b"{\"id\":") && !half.body.ends_with(b"}"));
    }
}

#[tokio::test(start_paused = true)]
async fn delay_directives_delay_the_answer() {
    let simulator = Simulator::start().await;
    for (directive, at_least) in
        [("stall=5", 5000), ("head-delay=1500", 1500), ("delay=100", 900), ("stall=2 cut", 2020)]
    {
        let start = Instant::now();
        let got = simulator.stream(Personality::Dmxapi, directive).await;
        let waited = start.elapsed();
        let expected = Duration::from_millis(at_least);
        assert!(waited >= expected && waited < expected * 2, "{directive} took {waited:?}");
        assert_eq!(got.whole, !directive.contains("cut"));
    }
}

#[tokio::test]
async fn formatting_directives_change_the_frames() {
    let simulator = Simulator::start().await;
    for personality in Personality::ALL {
        let plain = simulator.stream(personality, "").await;
        let crlf = simulator.stream(personality, "crlf").await;
        assert!(crlf.text().ends_with("\r\n\r\n") && !crlf.text().replace("\r\n", "").contains('\n'));
        assert_eq!(crlf.kinds(), plain.kinds());
        let bom = simulator.stream(personality, "bom").await;
        assert!(bom.body.starts_with(b"\xef\xbb\xbf") && bom.text().matches('\u{feff}').count() == 1);
        assert_eq!(bom.kinds(), plain.kinds());
        let comments = simulator.stream(personality, "comments").await;
        assert!(comments.text().starts_with(": simulated comment\n\n"));
        assert_eq!(comments.kinds(), plain.kinds());
        let open = simulator.stream(personality, "no-last-blank-line").await;
        assert!(open.text().ends_with('\n') && !open.text().ends_with("\n\n"));
        assert_eq!(open.kinds(), plain.kinds());
    }
}

#[tokio::test]
async fn the_line_directive_makes_a_line_of_megabytes() {
    let simulator = Simulator::start().await;
    let got = simulator.stream(Personality::Acedata, "line=2").await;
    assert!(got.whole);
    assert_eq!(got.text().lines().filter(|line| line.len() > 1 << 20).count(), 1);
    let events = got.events();
    let big = events.iter().find(|event| event["type"] == "response.image_generation_call.partial_image").unwrap();
    assert_eq!(big["partial_image_b64"].as_str().unwrap().len(), 2 << 20);
}

#[tokio::test]
async fn faults_end_after_the_given_number_of_requests() {
    let simulator = Simulator::start().await;
    let ask = async |key: &str, text: &str| {
        let body = json!({"model": "o3", "input": format!("{text}\nsimulate: error=503 times=2 words=2")});
        simulator.call(key, "POST", "/responses", body).await
    };
    assert_eq!((ask("a.1", "one").await.status(), ask("a.1", "one").await.status()), (503, 503));
    let third = ask("a.1", "one").await;
    assert_eq!(third.status(), 200);
    assert_eq!(said(&third.json()), "the sea");
    // Each text and each account is counted separately.
    assert_eq!((ask("a.1", "two").await.status(), ask("b.1", "one").await.status()), (503, 503));
}
