//! What came, for tests that ask what a gateway sent on: `GET /simulator/received`.

use std::collections::VecDeque;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::request::Parts;
use serde_json::{Map, Value, json};

use super::account::Account;
use super::personality::Personality;
use super::query;

/// Where it is asked for. No provider's path.
pub(super) const PATH: &str = "/simulator/received";

/// As much as is known of requests: in number, and in bytes of bodies. A longer body than the third is known by its length
/// and its CRC only.
const MOST: usize = 4096;
const MOST_BYTES: usize = 32 << 20;
const LONGEST_BODY: usize = 1 << 20;

struct Entry {
    personality: Personality,
    account: Option<Account>,
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
    /// Notes a request. `path` is what stands behind the provider's base URL.
    pub(super) fn note(&mut self, who: (Personality, Option<&Account>), parts: &Parts, path: &str, body: &Bytes) {
        let (personality, account) = who;
        let mut headers = Map::new();
        for name in parts.headers.keys().filter(|name| **name != AUTHORIZATION) {
            let values = parts.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
            headers.insert(name.as_str().into(), values.collect::<Vec<_>>().join(", ").into());
        }
        let kept = (body.len() <= LONGEST_BODY).then(|| body.clone());
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
        while self.entries.len() > MOST || self.bytes > MOST_BYTES {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.body.map_or(0, |body| body.len());
            self.dropped += 1;
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// What came, of the `account` and the `provider` in the query where these are named. Keys are never told.
    pub(super) fn tell(&self, asked: Option<&str>) -> Value {
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
    fn is_bounded_and_tells_no_key() {
        let request = http::Request::post("/x?a=b").header("authorization", "Bearer secret").header("x-a", "1");
        let (parts, ()) = request.header("x-a", "2").body(()).unwrap().into_parts();
        let account = Account { personality: Personality::Acedata, name: "a".into(), is_named: true };
        let mut received = Received::default();
        let mut note = |body: &'static [u8], account| {
            received.note((Personality::Acedata, account), &parts, "/x", &Bytes::from_static(body));
        };
        note(b"one", Some(&account));
        note(b"two", None);
        let told = received.tell(Some("account=a&provider=acedata"));
        assert_eq!(told["data"].as_array().unwrap().len(), 1);
        let first = &told["data"][0];
        assert_eq!(
            (&first["body"], &first["query"], &first["headers"]),
            (&json!("one"), &json!("a=b"), &json!({"x-a": "1, 2"}))
        );
        assert_eq!(received.tell(None)["data"].as_array().unwrap().len(), 2);
        assert_eq!(received.tell(Some("provider=dmxapi"))["data"], json!([]));
        assert!(!received.tell(None).to_string().contains("secret"));

        let large = Bytes::from(vec![b'x'; LONGEST_BODY]);
        for _ in 0..40 {
            received.note((Personality::Acedata, None), &parts, "/x", &large);
        }
        assert_eq!((received.entries.len(), received.bytes), (32, 32 << 20));
        assert_eq!(received.tell(None)["dropped"], 10);
        received.note((Personality::Acedata, None), &parts, "/x", &vec![b'x'; LONGEST_BODY + 1].into());
        assert_eq!(received.tell(None)["data"][32]["body"], Value::Null);
        for _ in 0..MOST {
            received.note((Personality::Acedata, None), &parts, "/x", &Bytes::new());
        }
        assert_eq!((received.entries.len(), received.bytes), (MOST, 0));
        received.clear();
        assert_eq!(received.tell(None), json!({"object": "list", "data": [], "dropped": 0}));
    }
}
