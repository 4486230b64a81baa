//! Affinity: a request that refers to state goes to the account that holds the state, and only for its owner.

use std::{fmt::Write as _, time::Duration};

use tempfile::TempDir;
use tidegate::{
    config::{Config, Group, Key, KeyLimits, Model, OnLostState},
    domain::{
        clock::Clock,
        origin::{Origin, Owner, Reference, ReferenceKind},
        random::{RandomBytes, seed},
    },
    store::origins::{EntryLifetime, OriginStore, OriginStoreLocation, StoredOrigin},
};

use crate::support::{
    client::{Answer, Client},
    gateway::{self, Gateway, credential, key, model, upstream},
    soon,
    upstream::{Request, Step, Upstream, json},
};

mod account_unavailable;
mod fairness;
mod id_shapes;
mod paths;
mod pins;
mod restarts_and_replicas;
mod tenancy;

/// An answer without any id, so that the gateway records nothing.
const DONE: &str =
    r#"{"object":"response","status":"completed","usage":{"input_tokens":1,"output_tokens":1,"total_tokens":2}}"#;

/// An id that the store holds at the start: kind, text, upstream, account, name of the key, group of the key.
type Known<'a> = (ReferenceKind, &'a str, &'a str, &'a str, &'a str, Option<&'a str>);

/// Two upstreams with two accounts each, and a gateway in front of them.
struct Fleet {
    upstreams: [Upstream; 2],
    gateway: Gateway,
}

/// The settings of a fleet: the model `smart` leads to both upstreams, `first` and `second` to one each. The keys alice
/// and bob have no group; carol and dave share one.
fn settings(upstreams: &[Upstream; 2]) -> Config {
    let mut config = gateway::config(&upstreams[0].base_url());
    config.upstreams = vec![upstream("one", &upstreams[0].base_url()), upstream("two", &upstreams[1].base_url())];
    for (at, name) in config.upstreams.iter_mut().zip(["one", "two"]) {
        at.credentials =
            ["a", "b"].map(|account| credential(&format!("{name}-{account}"), &format!("sk-{name}-{account}"))).into();
    }
    config.models = vec![
        model("smart", &[(0, Some("real-one")), (1, Some("real-two"))]),
        model("first", &[(0, Some("real-first"))]),
        model("second", &[(1, None)]),
    ];
    config.groups = vec![Group {
        name: "team".into(),
        limits: KeyLimits::default(),
        budgets: Vec::new(),
        warn_at: Default::default(),
    }];
    let of_team = |name: &str| Key { group: Some(0), ..key(name, &format!("sk-{name}")) };
    config.keys = vec![key("alice", "sk-alice"), key("bob", "sk-bob"), of_team("carol"), of_team("dave")];
    config
}

/// Writes ids into the store of a gateway that does not run yet.
async fn store_ids(config: &Config, known: &[Known<'_>]) {
    let now_s = u32::try_from(Clock::system().since_epoch().as_secs()).unwrap();
    let life = EntryLifetime { now_s, ttl_s: u32::try_from(config.affinity.ttl.as_secs()).unwrap() };
    let rows: Vec<_> = known
        .iter()
        .map(|(kind, text, upstream, account, key, group)| {
            let origin = Origin { account: seed(&[upstream, account]), owner: Owner::new(key, *group) };
            (Reference::new(*kind, text.as_bytes()), StoredOrigin { origin, used_s: now_s })
        })
        .collect();
    let mut store = OriginStore::open(&OriginStoreLocation::of(config), RandomBytes::system()).await.unwrap();
    assert!(store.learn(&rows, life).await.unwrap().iter().all(Option::is_none));
    store.close().await;
}

impl Fleet {
    async fn start(known: &[Known<'_>], change: impl FnOnce(&mut Config)) -> Self {
        Self::answering(known, change, |_| vec![Step::Send(json("200 OK", DONE))]).await
    }

    /// Starts a fleet in which both upstreams follow this script.
    async fn answering(
        known: &[Known<'_>],
        change: impl FnOnce(&mut Config),
        script: impl FnMut(&Request) -> Vec<Step> + Clone + Send + 'static,
    ) -> Self {
        let upstreams = [Upstream::scripted(script.clone()).await, Upstream::scripted(script).await];
        let mut config = settings(&upstreams);
        change(&mut config);
        let folder = TempDir::new().unwrap();
        config.server.data_dir = folder.path().to_owned();
        store_ids(&config, known).await;
        Self { upstreams, gateway: Gateway::run(config, None, folder) }
    }

    /// Records ids in the running gateway, as an answer does. Memory holds them then.
    fn learns(&self, known: &[Known<'_>]) {
        for (kind, text, upstream, account, key, group) in known {
            let origin = Origin { account: seed(&[upstream, account]), owner: Owner::new(key, *group) };
            let reference = [Reference::new(*kind, text.as_bytes())];
            let _ = self.gateway.handle.origins().learn(&reference, origin, Clock::system().since_epoch());
        }
    }

    /// Sends `POST /v1/responses` with a key.
    async fn create(&self, key: &str, body: &str) -> Answer {
        self.call(key, "POST /v1/responses", Some(body)).await
    }

    /// Sends a request again where the store did not answer in time, which happens on a busy machine.
    async fn call(&self, key: &str, line: &str, body: Option<&str>) -> Answer {
        let answering = async {
            loop {
                let answer = call(&self.gateway, key, line, body).await;
                if answer.status != 503 || answer.json()["error"]["code"] != "affinity_unavailable" {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon("an answer", answering).await
    }

    /// The requests that arrived since the last look, each with the credential that it carried.
    fn arrived(&mut self) -> Vec<(String, Request)> {
        let taken = self.upstreams.iter_mut().flat_map(Upstream::taken);
        let secret =
            |request: &Request| request.header("authorization").unwrap().trim_start_matches("Bearer sk-").to_owned();
        taken.map(|request| (secret(&request), request)).collect()
    }

    /// The account that the one request since the last look went to.
    #[track_caller]
    fn account(&mut self) -> String {
        let arrived = self.arrived();
        assert_eq!(arrived.len(), 1, "{arrived:?}");
        arrived[0].0.clone()
    }
}

/// Sends a request with a key on a connection of its own.
async fn call(gateway: &Gateway, key: &str, line: &str, body: Option<&str>) -> Answer {
    let mut head = format!("{line} HTTP/1.1\r\nhost: t\r\nauthorization: Bearer sk-{key}\r\nconnection: close\r\n");
    if let Some(body) = body {
        write!(head, "content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    } else {
        head.push_str("\r\n");
    }
    let mut client = Client::connect(gateway.address).await;
    client.send(head).await;
    client.answer().await
}

/// The whole answer except the ids of its request.
fn masked(answer: &Answer) -> (u16, Vec<(String, String)>, String, bool) {
    let mut headers = answer.headers.clone();
    for (name, value) in &mut headers {
        if matches!(name.as_str(), "x-request-id" | "x-tidegate-request-id" | "date") {
            "*".clone_into(value);
        }
    }
    (answer.status, headers, String::from_utf8(answer.body.clone()).unwrap(), answer.whole)
}
