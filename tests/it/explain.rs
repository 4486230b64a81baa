//! `/explain` and `tidegate explain`: how requests for a model are routed.

use std::process::Command;

use tidegate::{
    config::{Key, KeyLimits, ModelPrice, Unpriced},
    domain::{
        money::{Budget, Currency, UNIT},
        price::Price,
    },
};

use crate::support::{
    client::Client,
    gateway::{Gateway, config, credential, key, model, upstream},
    upstream::{RESPONSE, Upstream, json},
};

async fn explain(gateway: &Gateway, query: &str) -> (u16, String) {
    let answer = Client::connect(gateway.admin).await.get(&format!("/explain?{query}")).await;
    (answer.status, String::from_utf8(answer.body).unwrap())
}

#[tokio::test]
async fn the_running_gateway_explains_which_candidates_get_requests_and_why_others_do_not() {
    let refused =
        Upstream::fixed(json("401 Unauthorized", r#"{"error":{"message":"no","code":"invalid_api_key"}}"#)).await;
    let good = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut config = config(&refused.base_url());
    config.upstreams[0].credentials = vec![credential("one", "sk-canary-one")];
    config.upstreams.push(upstream("good", &good.base_url()));
    config.upstreams.push(upstream("forbidden", &good.base_url()));
    config.upstreams[1].max_body_bytes = Some(7 << 20);
    config.models[0] = model("smart", &[(0, Some("real")), (1, Some("other")), (2, None)]);
    config.keys[0].upstreams = Some(vec![0, 1]);
    config.keys[0].models = Some(vec!["smart".into()]);
    config.keys[0].limits = KeyLimits { requests: Some(60), tokens: None, in_flight: Some(5) };
    config.keys[0].budgets = vec![Budget::parse("5CNY/total").unwrap()];
    let (currency, input, cached, output) = (Currency::Cny, UNIT / 2 * 3, UNIT, 2 * UNIT);
    let price = Price { input, cached, output, reasoning: output, ..Price::free(currency) };
    config.prices = vec![ModelPrice { upstream: 1, model: "other".into(), from: 0, price: price.into() }];
    config.money.unpriced = Unpriced::Allow;
    config.keys.push(key("all", "sk-all"));
    config.keys.push(Key { expires: Some(1), ..key("old", "sk-old") });
    let gateway = Gateway::start(config);

    let (status, before) = explain(&gateway, "key=tester&model=smart").await;
    assert_eq!(status, 200);
    let expected = "model smart for key tester, strategy ordered

attempted in this order, each candidate only if the candidate before fails
  1. up, credential one, model real
       priority 1
       in service, 0 requests in progress
       no price: only tokens are counted
  2. good, credential UP_KEY, model other
       priority 2
       in service, 0 requests in progress
       price: CNY 1.5 in, 1 cached, 2 out, 2 reasoning per million tokens; 0 per request

not attempted
  -  forbidden, credential UP_KEY, model smart
       the key may not use this upstream

upstreams that get no larger bodies: good (up to 7 MiB)

a request that refers to stored state goes to the account that has this state, and to no other account

limits
  key tester: 60 requests per minute; 5 requests at once; 5 CNY/total, 0 spent
";
    assert_eq!(before, expected);

    // The first one refuses its credential: the second one answers and comes first from then on.
    assert_eq!(gateway.connect().await.create(r#"{"model":"smart"}"#).await.status, 200);
    let (_, after) = explain(&gateway, "key=tester&model=smart").await;
    assert!(
        after.contains("  1. good, credential UP_KEY, model other\n       priority 2, first byte after "),
        "{after}"
    );
    assert!(
        after.contains("not attempted\n  -  up, credential one, model real\n       ejected after refused_once, for "),
        "{after}"
    );
    assert!(!after.contains("sk-"), "{after}");

    let (_, old) = explain(&gateway, "key=old&model=smart").await;
    assert!(old.contains("\nthe key is expired: clients get 401 invalid_api_key\n"), "{old}");
    for (query, status, says) in [
        ("key=nobody&model=smart", 404, "no client key has the name `nobody`"),
        ("key=tester&model=gpt-5", 404, "the key `tester` may not ask for `gpt-5`"),
        ("key=all&model=unknown", 404, "no model has the name `unknown`"),
        ("key=all", 400, "missing field `model`"),
        ("key=all&model=smart&what=1", 400, "unknown field `what`"),
    ] {
        let (given, text) = explain(&gateway, query).await;
        assert_eq!(given, status, "{query}: {text}");
        assert!(text.contains(says), "{query}: {text}");
    }
    // The data plane does not serve it.
    assert_eq!(gateway.connect().await.get("/explain?key=all&model=smart").await.status, 404);
}

#[tokio::test]
async fn the_command_asks_the_running_gateway_and_without_one_says_that_it_is_offline() {
    let good = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut config = config(&good.base_url());
    config.models[0] = model("smart", &[(0, Some("only-in-the-running-one"))]);
    let gateway = Gateway::start(config);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tidegate.toml");
    let text = format!(
        "[server]\nadmin_listen = \"{}\"\n[[upstreams]]\nname = \"up\"\nbase_url = \"{}\"\n[[models]]\nname = \"smart\"\n\
         targets = [{{ upstream = \"up\", model = \"in-the-file\" }}]\n[[keys]]\nname = \"tester\"\nsecret = {{ env = \"TESTER\" }}\n",
        gateway.admin,
        good.base_url()
    );
    std::fs::write(&file, &text).unwrap();
    let run = |model: &'static str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("--config").arg(&file).args(["explain", "--key", "tester", "--model", model]);
        command.args(["--cache-key", "a b&c"]).env("TESTER", "tg-some-key-of-a-test");
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let online = run("smart").await.unwrap();
    let said = String::from_utf8(online.stdout).unwrap();
    assert!(
        online.status.success() && said.contains("1. up, credential UP_KEY, model only-in-the-running-one\n"),
        "{said}"
    );
    let unknown = run("unknown").await.unwrap();
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8(unknown.stderr).unwrap().contains("no model has the name `unknown`"));

    // A port that is bound and never served. The old port of an ended gateway could belong to another test by now.
    std::fs::write(&file, text.replace(&gateway.admin.to_string(), "127.0.0.1:1")).unwrap();
    let offline = run("smart").await.unwrap();
    let said = String::from_utf8(offline.stdout).unwrap();
    assert!(
        offline.status.success() && said.starts_with("offline: without health and pins (nothing answers at 127."),
        "{said}"
    );
    assert!(said.contains("1. up, model in-the-file\n"), "{said}");
    assert_eq!(run("unknown").await.unwrap().status.code(), Some(1));
}
