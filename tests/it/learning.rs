//! What answers teach: each kind of id, before the bytes that name it go out, and for whoever shares the memory.

mod early;
mod gone;
mod kinds;
mod shared;
mod turn;

use std::time::Duration;

use tidegate::{
    affinity::Recalled,
    config::{Config, UnknownIds},
    domain::{
        clock::Clock,
        origin::{Kind, Origin, Owner, Reference},
        random,
    },
};

use crate::support::{
    gateway::{Gateway, config, key},
    soon,
};

/// The secret of a second key, `stranger`.
const STRANGER: &str = "sk-test-strangers-key";

/// Who asks for what answers teach.
const BODY: &str = r#"{"model":"smart","input":"hi","stream":true}"#;

fn owner(key: &str) -> Owner {
    Owner::new(key, None)
}

/// With two keys, which share nothing, and may name what nobody knows.
fn with_stranger(base_url: &str) -> Config {
    let mut config = config(base_url);
    config.keys.push(key("stranger", STRANGER));
    config.affinity.unknown_ids = Some(UnknownIds::Route);
    config
}

/// What `tester` made with this credential of this upstream.
fn made_at(upstream: &str, account: &str) -> Recalled {
    Recalled::Own(Origin { account: random::seed(&[upstream, account]), owner: owner("tester") })
}

fn made_here() -> Recalled {
    made_at("up", "UP_KEY")
}

async fn recall(gateway: &Gateway, id: (Kind, &str), by: Owner) -> Recalled {
    let reference = Reference::new(id.0, id.1.as_bytes());
    gateway.handle.origins().recall_all(&[reference], by, Clock::system().since_epoch()).await[0]
}

/// What memory and its store tell: a busy machine may take longer than a request would wait.
async fn told(gateway: &Gateway, id: (Kind, &str), by: Owner) -> Recalled {
    let telling = async {
        loop {
            let recalled = recall(gateway, id, by).await;
            if !matches!(recalled, Recalled::CannotTell(_)) {
                return recalled;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("what is known of an id", telling).await
}

async fn learned(gateway: &Gateway) -> f64 {
    gateway.metric("tidegate_affinity_learned_total").await
}
