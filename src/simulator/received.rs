//! Records the received requests, for tests of what a gateway forwards: `GET /simulator/received`.

use std::collections::VecDeque;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::request::Parts;
use serde_json::{Map, Value, json};

use super::account::ProviderAccount;
use super::personality::Personality;
use super::query;

/// The path of the record. No provider uses it.
pub(super) const PATH: &str = "/simulator/received";

/// Limits of the record: the number of requests, the bytes of all bodies, and the longest body that is kept. Of a
/// longer body, only its length and its CRC are kept.
const MAX_ENTRIES: usize = 4096;
const MAX_TOTAL_BYTES: usize = 32 << 20;
const MAX_BODY_BYTES: usize = 1 << 20;

struct Entry {
    personality: Personality,
    account: Option<ProviderAccount>,
    method: String,
    path: String,
    query: Option<String>,
    headers: Map<String, Value>,
    crc32: u32,
    length: usize,
    body: Option<Bytes>,
}

/// The last requests, oldest first.
#[derive(Default)]
pub(super) struct Received {
    entries: VecDeque<Entry>,
    bytes: usize,
    dropped: u64,
}

impl Received {
    /// Records a request. `path` is the part after the provider's base URL.
    pub(super) fn record(
        &mut self,
        who: (Personality, Option<&ProviderAccount>),
        parts: &Parts,
        path: &str,
        body: &Bytes,
    ) {
        let (personality, account) = who;
        let mut headers = Map::new();
        for name in parts.headers.keys().filter(|name| **name != AUTHORIZATION) {
            let values = parts.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
            headers.insert(name.as_str().into(), values.collect::<Vec<_>>().join(", ").into());
        }
        let kept = (body.len() <= MAX_BODY_BYTES).then(|| body.clone());
        self.bytes += kept.as_ref().map_or(0, Bytes::len);
        self.entries.push_back(Entry {
            personality,
            account: account.cloned(),
            method: parts.method.to_string(),
            path: path.to_owned(),
            query: parts.uri.query().map(str::to_owned),
            headers,
            crc32: crc32fast::hash(body),
            length: body.len(),
            body: kept,
        });
        while self.entries.len() > MAX_ENTRIES || self.bytes > MAX_TOTAL_BYTES {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.body.map_or(0, |body| body.len());
            self.dropped += 1;
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The recorded requests, filtered by the `account` and the `provider` in the query. Keys are never shown.
    pub(super) fn to_json(&self, asked: Option<&str>) -> Value {
        let (account, provider) = (query::value(asked, "account"), query::value(asked, "provider"));
        let wanted = self.entries.iter().filter(|entry| {
            let own = entry.account.as_ref().map(|account| &*account.name);
            account.as_deref().is_none_or(|name| own == Some(name))
                && provider.as_deref().is_none_or(|name| name == entry.personality.name())
        });
        let data: Vec<Value> = wanted
            .map(|entry| {
                json!({
                    "provider": entry.personality.name(),
                    "account": entry.account.as_ref().map(|account| &*account.name),
                    "method": entry.method, "path": entry.path, "query": entry.query, "headers": entry.headers,
                    "body": entry.body.as_ref().map(|body| String::from_utf8_lossy(body)),
                    "body_length": entry.length, "body_crc32": entry.crc32,
                })
            })
            .collect();
        json!({"object": "list", "data": data, "dropped": self.dropped})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_bounded_and_shows_no_key() {
        let request = http::Request::post("/x?a=b").header("authorization", "Bearer secret").header("x-a", "1");
        let (parts, ()) = request.header("x-a", "2").body(()).unwrap().into_parts();
        let account = ProviderAccount { personality: Personality::Acedata, name: "a".into(), is_named: true };
        let mut received = Received::default();
        let mut record = |body: &'static [u8], account| {
            received.record((Personality::Acedata, account), &parts, "/x", &Bytes::from_static(body));
        };
        record(b"one", Some(&account));
        record(b"two", None);
        let told = received.to_json(Some("account=a&provider=acedata"));
        assert_eq!(told["data"].as_array().unwrap().len(), 1);
        let first = &told["data"][0];
        assert_eq!(
            (&first["body"], &first["query"], &first["headers"]),
            (&json!("one"), &json!("a=b"), &json!({"x-a": "1, 2"}))
        );
        assert_eq!(received.to_json(None)["data"].as_array().unwrap().len(), 2);
        assert_eq!(received.to_json(Some("provider=dmxapi"))["data"], json!([]));
        assert!(!received.to_json(None).to_string().contains("secret"));

        let large = Bytes::from(vec![b'x'; MAX_BODY_BYTES]);
        for _ in 0..40 {
            received.record((Personality::Acedata, None), &parts, "/x", &large);
        }
        assert_eq!((received.entries.len(), received.bytes), (32, 32 << 20));
        assert_eq!(received.to_json(None)["dropped"], 10);
        received.record((Personality::Acedata, None), &parts, "/x", &vec![b'x'; MAX_BODY_BYTES + 1].into());
        assert_eq!(received.to_json(None)["data"][32]["body"], Value::Null);
        for _ in 0..MAX_ENTRIES {
            received.record((Personality::Acedata, None), &parts, "/x", &Bytes::new());
        }
        assert_eq!((received.entries.len(), received.bytes), (MAX_ENTRIES, 0));
        received.clear();
        assert_eq!(received.to_json(None), json!({"object": "list", "data": [], "dropped": 0}));
    }
}
