//! The ids that Tidegate records from answers: each kind of id, before its bytes reach the client, and for all replicas
//! of a shared store.

mod answer_kinds;
mod before_delivery;
mod client_gone;
mod several_gateways;
mod turn_state;

use std::time::Duration;

use tidegate::{
    affinity::Recalled,
    config::{Config, UnknownIds},
    domain::{
        clock::Clock,
        origin::{Origin, Owner, Reference, ReferenceKind},
        random,
    },
};

use crate::support::{
    gateway::{Gateway, config, key},
    soon,
};

/// The secret of a second key, `stranger`.
const STRANGER: &str = "sk-test-strangers-key";

/// The request of these tests.
const BODY: &str = r#"{"model":"smart","input":"hi","stream":true}"#;

fn owner(key: &str) -> Owner {
    Owner::new(key, None)
}

/// A configuration with two keys that share nothing. Unknown ids go up.
fn with_stranger(base_url: &str) -> Config {
    let mut config = config(base_url);
    config.keys.push(key("stranger", STRANGER));
    config.affinity.unknown_ids = Some(UnknownIds::Route);
    config
}

/// The record of an id that `tester` received from this credential of this upstream.
fn made_at(upstream: &str, account: &str) -> Recalled {
    Recalled::Own(Origin { account: random::seed(&[upstream, account]), owner: owner("tester") })
}

fn made_here() -> Recalled {
    made_at("up", "UP_KEY")
}

async fn recall(gateway: &Gateway, id: (ReferenceKind, &str), by: Owner) -> Recalled {
    let reference = Reference::new(id.0, id.1.as_bytes());
    gateway.handle.origins().recall_all(&[reference], by, Clock::system().since_epoch()).await[0]
}

/// The record of an id in memory or in the store. A busy machine may take longer than a request would wait.
async fn recorded(gateway: &Gateway, id: (ReferenceKind, &str), by: Owner) -> Recalled {
    let telling = async {
        loop {
            let recalled = recall(gateway, id, by).await;
            if !matches!(recalled, Recalled::LookupFailed(_)) {
                return recalled;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("the record of an id", telling).await
}

async fn recorded_count(gateway: &Gateway) -> f64 {
    gateway.metric("tidegate_affinity_learned_total").await
}
