//! Requests of one conversation prefer one account, because they profit from its prompt cache.

use std::collections::{BTreeMap, BTreeSet};

use super::{SwitchableUpstream, before, credentials};
use crate::support::gateway::{Gateway, KEY, key};

const OTHER_KEY: &str = "sk-another-client-key";

async fn gateway(upstream: &SwitchableUpstream) -> Gateway {
    before(&[&upstream.upstream], |config| {
        config.upstreams[0].credentials = credentials(&["a", "b", "c", "d"]);
        config.keys.push(key("other", OTHER_KEY));
    })
}

/// The credentials that six such requests use.
async fn credentials_used(
    gateway: &Gateway,
    upstream: &mut SwitchableUpstream,
    client_key: &str,
    headers: &str,
    extra: &str,
) -> BTreeSet<String> {
    let mut client = gateway.connect().await;
    for _ in 0..6 {
        let body = format!(r#"{{"model":"many","input":"hi"{extra}}}"#);
        let length = body.len();
        client
            .send(format!(
                "POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {client_key}\r\n{headers}content-length: {length}\r\n\r\n{body}"
            ))
            .await;
        assert_eq!(client.answer().await.status, 200);
    }
    upstream.keys().into_iter().collect()
}

fn only(keys: &BTreeSet<String>) -> String {
    assert_eq!(keys.len(), 1, "{keys:?}");
    keys.first().unwrap().clone()
}

#[tokio::test]
async fn one_conversation_keeps_its_account() {
    let mut upstream = SwitchableUpstream::new(None).await;
    let gateway = gateway(&upstream).await;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let (mut apart, mut same_as_header) = (0, 0);
    for nth in 0..40 {
        let cached = format!(r#","prompt_cache_key":"conversation-{nth}""#);
        let account = only(&credentials_used(&gateway, &mut upstream, KEY, "", &cached).await);
        // The other parts of the request do not matter.
        assert_eq!(only(&credentials_used(&gateway, &mut upstream, KEY, "session-id: x\r\n", &cached).await), account);
        let another = only(&credentials_used(&gateway, &mut upstream, OTHER_KEY, "", &cached).await);
        apart += usize::from(another != account);
        let session = format!("session-id: session-{nth}\r\n");
        let of_session = only(&credentials_used(&gateway, &mut upstream, KEY, &session, "").await);
        let both = format!("thread-id: t{nth}\r\n{session}");
        assert_eq!(only(&credentials_used(&gateway, &mut upstream, KEY, &both, "").await), of_session);
        let same = format!("session-id: conversation-{nth}\r\n");
        same_as_header +=
            usize::from(only(&credentials_used(&gateway, &mut upstream, KEY, &same, "").await) == account);
        only(&credentials_used(&gateway, &mut upstream, KEY, &format!("thread-id: thread-{nth}\r\n"), "").await);
        *counts.entry(account).or_default() += 1;
    }
    eprintln!("40 conversations: {counts:?}; with another client key {apart} of them elsewhere");
    assert_eq!(counts.len(), 4, "{counts:?}");
    assert_eq!(same_as_header, 40);
    // About three of four. The names are fixed, so that the number never varies.
    assert!((20..40).contains(&apart), "{apart}");
    // Requests without such a key use several accounts.
    assert!(credentials_used(&gateway, &mut upstream, KEY, "", "").await.len() > 1);
}

/// The preference is soft: an ejected or rate-limited account is skipped, and the conversation returns to it later.
#[tokio::test]
async fn a_conversation_leaves_an_account_in_cooldown_and_returns_to_it() {
    let mut upstream = SwitchableUpstream::new(None).await;
    let gateway = gateway(&upstream).await;
    let cached = r#","prompt_cache_key":"c""#;
    let account = only(&credentials_used(&gateway, &mut upstream, KEY, "", cached).await);
    let name = *["a", "b", "c", "d"].iter().find(|name| **name == account).unwrap();
    upstream.answer_with(name, Some(("429 Too Many Requests", "retry-after-ms: 150\r\n")));
    let meanwhile = credentials_used(&gateway, &mut upstream, KEY, "", cached).await;
    assert!(meanwhile.len() >= 2 && meanwhile.contains(&account), "{meanwhile:?}");
    upstream.answer_with(name, None);
    crate::support::soon("the conversation to return to its account", async {
        while credentials_used(&gateway, &mut upstream, KEY, "", cached).await != BTreeSet::from([account.clone()]) {}
    })
    .await;
}
