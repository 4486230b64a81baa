//! What accounts keep: responses, conversations, their items. In memory only, bounded: the oldest goes first.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::account::Account;
use super::answer::Answer;

/// As much as all accounts keep together, in things and in bytes of JSON: thousands of tests, and far less than a laptop has.
const MOST: usize = 10_000;
const MOST_BYTES: usize = 32 << 20;

/// How many requests with `times=` are counted.
const MOST_STRIKES: usize = 1000;

type Key = (Account, String);

/// A response that is kept.
pub(super) struct Stored {
    pub(super) answer: Arc<Answer>,
    /// All that was said before the answer, of earlier turns too, oldest first.
    pub(super) input: Vec<Arc<Value>>,
    pub(super) output: Vec<Arc<Value>>,
    pub(super) progress: Progress,
}

/// How far a response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Done,
    /// In the background, and done at so many more looks at it.
    Under(u64),
    Cancelled,
}

impl Stored {
    /// Everything that was said up to its end.
    pub(super) fn said(&self) -> impl Iterator<Item = &Arc<Value>> {
        self.input.iter().chain(&self.output)
    }

    /// One more look at it, which is what time is for a response in the background.
    pub(super) fn look(&mut self) -> Progress {
        if let Progress::Under(left) = self.progress {
            self.progress = if left <= 1 { Progress::Done } else { Progress::Under(left - 1) };
        }
        self.progress
    }
}

/// A conversation that is kept.
pub(super) struct Conversation {
    pub(super) created: u64,
    pub(super) metadata: Map<String, Value>,
    pub(super) items: Vec<Arc<Value>>,
}

/// What is kept under one id, and what it takes away with it.
struct Held<T> {
    thing: T,
    bytes: usize,
    /// Items that are found through it.
    items: Vec<String>,
}

/// All that is kept.
#[derive(Default)]
pub(super) struct Store {
    responses: HashMap<Key, Held<Stored>>,
    conversations: HashMap<Key, Held<Conversation>>,
    items: HashMap<Key, Arc<Value>>,
    /// Oldest first. What was deleted stands here until its turn comes.
    order: VecDeque<Key>,
    bytes: usize,
    strikes: VecDeque<(u64, u64)>,
}

impl Store {
    /// Keeps a response. `fresh` are its items that are nowhere else.
    pub(super) fn keep_response(&mut self, account: &Account, id: &str, response: Stored, fresh: &[Arc<Value>]) {
        let bytes = response.answer.size() + fresh.iter().map(|item| size(item)).sum::<usize>();
        let items = self.index(account, fresh);
        let key = self.enter(account, id, bytes);
        self.responses.insert(key, Held { thing: response, bytes, items });
        self.shrink();
    }

    pub(super) fn keep_conversation(&mut self, account: &Account, id: &str, conversation: Conversation) {
        let bytes = conversation.items.iter().map(|item| size(item)).sum();
        let items = self.index(account, &conversation.items);
        let key = self.enter(account, id, bytes);
        self.conversations.insert(key, Held { thing: conversation, bytes, items });
        self.shrink();
    }

    /// Adds to a conversation, if there is one.
    pub(super) fn extend_conversation(&mut self, account: &Account, id: &str, more: &[Arc<Value>]) {
        let mut items = self.index(account, more);
        let bytes: usize = more.iter().map(|item| size(item)).sum();
        let Some(held) = self.conversations.get_mut(&(account.clone(), id.to_owned())) else { return };
        held.thing.items.extend(more.iter().cloned());
        held.items.append(&mut items);
        held.bytes += bytes;
        self.bytes += bytes;
        self.shrink();
    }

    pub(super) fn response(&self, account: &Account, id: &str) -> Option<&Stored> {
        self.responses.get(&(account.clone(), id.to_owned())).map(|held| &held.thing)
    }

    pub(super) fn response_mut(&mut self, account: &Account, id: &str) -> Option<&mut Stored> {
        self.responses.get_mut(&(account.clone(), id.to_owned())).map(|held| &mut held.thing)
    }

    pub(super) fn conversation(&self, account: &Account, id: &str) -> Option<&Conversation> {
        self.conversations.get(&(account.clone(), id.to_owned())).map(|held| &held.thing)
    }

    pub(super) fn conversation_mut(&mut self, account: &Account, id: &str) -> Option<&mut Conversation> {
        self.conversations.get_mut(&(account.clone(), id.to_owned())).map(|held| &mut held.thing)
    }

    /// An item of any response or conversation of the account.
    pub(super) fn item(&self, account: &Account, id: &str) -> Option<Arc<Value>> {
        self.items.get(&(account.clone(), id.to_owned())).cloned()
    }

    /// Forgets an item of a conversation. Whether there was one.
    pub(super) fn delete_item(&mut self, account: &Account, conversation: &str, id: &str) -> bool {
        let Some(found) = self.conversation_mut(account, conversation) else { return false };
        let before = found.items.len();
        found.items.retain(|item| id_of(item) != Some(id));
        let deleted = found.items.len() < before;
        if deleted {
            self.items.remove(&(account.clone(), id.to_owned()));
        }
        deleted
    }

    /// Forgets a response or a conversation with its items. Whether there was one.
    pub(super) fn delete(&mut self, account: &Account, id: &str) -> bool {
        self.forget(&(account.clone(), id.to_owned()))
    }

    /// Counts a request that looks like this one. How many came before it.
    pub(super) fn strike(&mut self, look: u64) -> u64 {
        if let Some((_, count)) = self.strikes.iter_mut().find(|(known, _)| *known == look) {
            *count += 1;
            return *count - 1;
        }
        if self.strikes.len() == MOST_STRIKES {
            self.strikes.pop_front();
        }
        self.strikes.push_back((look, 1));
        0
    }

    fn enter(&mut self, account: &Account, id: &str, bytes: usize) -> Key {
        let key = (account.clone(), id.to_owned());
        self.order.push_back(key.clone());
        self.bytes += bytes;
        key
    }

    /// Makes items known by their ids; the ids of those that were not known yet.
    fn index(&mut self, account: &Account, items: &[Arc<Value>]) -> Vec<String> {
        let mut new = Vec::new();
        for item in items {
            let Some(id) = id_of(item) else { continue };
            if let Entry::Vacant(place) = self.items.entry((account.clone(), id.to_owned())) {
                place.insert(item.clone());
                new.push(id.to_owned());
            }
        }
        new
    }

    fn shrink(&mut self) {
        while self.order.len() > MOST || self.bytes > MOST_BYTES {
            let Some(oldest) = self.order.pop_front() else { return };
            self.forget(&oldest);
        }
    }

    fn forget(&mut self, key: &Key) -> bool {
        let response = self.responses.remove(key).map(|held| (held.bytes, held.items));
        let gone = response.or_else(|| self.conversations.remove(key).map(|held| (held.bytes, held.items)));
        let Some((bytes, items)) = gone else { return false };
        self.bytes -= bytes;
        for id in items {
            self.items.remove(&(key.0.clone(), id));
        }
        true
    }
}

/// The id of an item.
pub(super) fn id_of(item: &Value) -> Option<&str> {
    item.get("id")?.as_str()
}

fn size(item: &Value) -> usize {
    item.to_string().len()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::personality::Personality;
    use super::*;

    fn account(name: &str) -> Account {
        Account { personality: Personality::Dmxapi, name: name.into(), is_named: true }
    }

    fn conversation(text: &str, id: usize) -> Conversation {
        let item = json!({"id": format!("msg_{id}"), "type": "message", "content": text});
        Conversation { created: 1, metadata: Map::new(), items: vec![Arc::new(item)] }
    }

    #[test]
    fn keeps_apart_what_accounts_keep() {
        let mut store = Store::default();
        let (a, b) = (account("a"), account("b"));
        store.keep_conversation(&a, "conv_1", conversation("x", 1));
        assert!(store.conversation(&a, "conv_1").is_some() && store.item(&a, "msg_1").is_some());
        assert!(store.conversation(&b, "conv_1").is_none() && store.item(&b, "msg_1").is_none());
        assert!(!store.delete(&b, "conv_1") && store.delete(&a, "conv_1") && !store.delete(&a, "conv_1"));
        assert!(store.item(&a, "msg_1").is_none());
        assert_eq!((store.bytes, store.items.len()), (0, 0));
    }

    #[test]
    fn is_bounded_in_number_and_in_bytes() {
        let mut store = Store::default();
        let a = account("a");
        for id in 0..MOST + 10 {
            store.keep_conversation(&a, &format!("conv_{id}"), conversation("x", id));
        }
        assert_eq!((store.conversations.len(), store.items.len(), store.order.len()), (MOST, MOST, MOST));
        assert!(store.conversation(&a, "conv_9").is_none() && store.conversation(&a, "conv_10").is_some());
        let large = "x".repeat(MOST_BYTES / 4);
        for id in 0..8 {
            store.keep_conversation(&a, &format!("large_{id}"), conversation(&large, MOST * 2 + id));
        }
        assert!(store.bytes <= MOST_BYTES && store.conversation(&a, "large_7").is_some());
        assert!(store.conversation(&a, "large_3").is_none());
        // What was added later counts too, and what is too large for all goes at once.
        store.extend_conversation(&a, "large_7", &[Arc::new(json!({"content": "y".repeat(MOST_BYTES)}))]);
        assert!(store.conversation(&a, "large_7").is_none());
        assert_eq!((store.bytes, store.items.len()), (0, 0));
        for strike in 0..MOST_STRIKES as u64 * 2 {
            assert_eq!((store.strike(strike), store.strike(strike)), (0, 1));
        }
        assert_eq!(store.strikes.len(), MOST_STRIKES);
    }
}
