//! Lists the models that wildcards match, for `GET /v1/models`: the models that upstreams list, and the models that upstreams
//! answered for lately.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use http::{
    HeaderValue, Request, Uri,
    header::{ACCEPT, ACCEPT_ENCODING},
};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;
use tokio::{
    sync::Mutex,
    task::JoinSet,
    time::{Instant, timeout},
};

use super::tables::Tables;
use crate::{
    auth::Caller,
    protocol::body::SegmentedBody,
    upstream::{Upstream, send::Sender},
};

/// The list of an upstream is fresh for this time. New models appear every few weeks.
const FRESH_FOR: Duration = Duration::from_secs(300);
/// The pause before the next try after an upstream gave no list.
const TRY_AGAIN: Duration = Duration::from_secs(30);
/// The most time that a client waits for a list.
const WITHIN: Duration = Duration::from_secs(3);
/// The largest list that is read. A list of a thousand models has about 200 KB.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// The most names in an answer.
const MOST_NAMES: usize = 1000;
/// The longest name of a model, in bytes. Real names have 20 to 60 bytes.
const LONGEST_NAME: usize = 200;
/// A model that an upstream answered for within this time counts as lately used.
const LATELY: Duration = Duration::from_secs(24 * 60 * 60);

/// The lists of upstreams, as one worker knows them.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    /// By name and base URL of the upstream.
    lists: Mutex<HashMap<(Arc<str>, Uri), List>>,
}

#[derive(Debug)]
struct List {
    names: Arc<[String]>,
    until: Instant,
}

impl Catalogue {
    /// Returns the models that a wildcard routes to an upstream with such a model, sorted. Lists only models and upstreams that
    /// the caller may use.
    pub(super) async fn behind_wildcards(&self, tables: &Tables, caller: &Caller) -> BTreeSet<String> {
        let (mut found, now) = (BTreeSet::new(), Instant::now());
        for (index, upstream) in tables.upstreams.iter().enumerate() {
            if !caller.may_use(index) || !tables.routes.has_wildcard_to(index) {
                continue;
            }
            let lately = upstream.pool().recent_models(now, LATELY);
            found.extend(lately.into_iter().map(|name| (index, name.to_string())));
        }
        let lists = self.refreshed(tables, caller).await;
        for (index, names) in lists {
            found.extend(names.iter().map(|name| (index, name.clone())));
        }
        let leads = |(index, name): &(usize, String)| {
            caller.may_use_model(name) && tables.routes.leads_by_wildcard(name, *index)
        };
        found
            .into_iter()
            .filter(leads)
            .map(|(_, name)| name)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .take(MOST_NAMES)
            .collect()
    }

    /// Returns the list of each upstream that has a wildcard route and that the caller may use.
    async fn refreshed(&self, tables: &Tables, caller: &Caller) -> Vec<(usize, Arc<[String]>)> {
        let asked =
            |(index, _): &(usize, &Arc<Upstream>)| caller.may_use(*index) && tables.routes.has_wildcard_to(*index);
        let wanted: Vec<_> = tables.upstreams.iter().enumerate().filter(asked).collect();
        // The lock is kept during the requests to the upstreams. Other clients wait for the same lists.
        let mut lists = self.lists.lock().await;
        let mut asking = JoinSet::new();
        for (index, upstream) in &wanted {
            let key = (Arc::clone(&upstream.config.name), upstream.config.base_url.clone());
            let is_fresh = lists.get(&key).is_some_and(|list| Instant::now() < list.until);
            if let Some(sender) = tables.senders.get(*index).filter(|_| !is_fresh) {
                let (sender, upstream) = (sender.clone(), Arc::clone(upstream));
                asking.spawn(async move { (key, timeout(WITHIN, ask(&sender, &upstream)).await.ok().flatten()) });
            }
        }
        while let Some(Ok((key, names))) = asking.join_next().await {
            let until = Instant::now() + if names.is_some() { FRESH_FOR } else { TRY_AGAIN };
            // A failed request keeps the list from before.
            let before = || lists.get(&key).map(|list| Arc::clone(&list.names)).unwrap_or_default();
            let names = names.map_or_else(before, Into::into);
            lists.insert(key, List { names, until });
        }
        let names = |(index, upstream): (usize, &Arc<Upstream>)| {
            let key = (Arc::clone(&upstream.config.name), upstream.config.base_url.clone());
            Some((index, Arc::clone(&lists.get(&key)?.names)))
        };
        wanted.into_iter().filter_map(names).collect()
    }
}

/// Requests the models of an upstream. `None` = the upstream gives no list.
async fn ask(sender: &Sender, upstream: &Upstream) -> Option<Vec<String>> {
    let mut parts = upstream.config.base_url.clone().into_parts();
    let path = format!("{}/models", upstream.config.base_url.path().trim_end_matches('/'));
    parts.path_and_query = Some(path.parse().ok()?);
    let mut request = Request::new(SegmentedBody::new().body());
    *request.uri_mut() = Uri::from_parts(parts).ok()?;
    let headers = request.headers_mut();
    headers.extend(upstream.config.headers.clone());
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let mut credentials = upstream.credentials("", Instant::now());
    if let Some((credential, _)) = credentials.find(|(_, condition)| condition.health_state.is_usable())
        && let Some(value) = credential.value.clone()
    {
        headers.insert(&upstream.config.auth_header, value);
    }
    drop(credentials);
    let answer = sender.send(request).await.ok().filter(|answer| answer.status().is_success())?;
    let body = Limited::new(answer.into_body(), MOST_BYTES).collect().await.ok()?.to_bytes();
    Some(names(&serde_json::from_slice(&body).ok()?))
}

/// Reads the names in a list: `{"data":[{"id":"…"}]}` as OpenAI sends it, the same with `models` for `data`, or with `name` for
/// `id`.
fn names(list: &Value) -> Vec<String> {
    let entries = ["data", "models"].iter().find_map(|field| list.get(field)?.as_array()).or(list.as_array());
    let name = |entry: &Value| {
        let name = entry.get("id").or_else(|| entry.get("name")).unwrap_or(entry).as_str()?;
        let fits = (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| name.to_owned())
    };
    entries.into_iter().flatten().filter_map(name).take(MOST_NAMES).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_names_of_several_shapes_are_read() {
        for list in [
            json!({ "object": "list", "data": [{ "id": "a", "object": "model" }, { "id": "b/c:d" }] }),
            json!({ "models": [{ "name": "a" }, { "id": "b/c:d", "name": "other" }] }),
            json!([{ "id": "a" }, "b/c:d"]),
            json!({ "data": [{ "id": "a" }, { "id": 7 }, { "id": "" }, { "id": "x y" }, { "id": "x".repeat(300) }, {}, { "id": "b/c:d" }] }),
        ] {
            assert_eq!(names(&list), ["a", "b/c:d"], "{list}");
        }
        for none in [json!(null), json!({}), json!({ "data": "a" }), json!("a")] {
            assert!(names(&none).is_empty(), "{none}");
        }
    }
}
