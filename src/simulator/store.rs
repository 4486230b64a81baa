//! The stored state of all accounts: responses, conversations and their items. It is in memory only and bounded: the
//! oldest entry is removed first.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::account::ProviderAccount;
use super::answer::Answer;

/// Limits over all accounts: the number of entries, and the bytes of their JSON. They allow thousands of tests and fit
/// into a laptop's memory.
const MAX_ENTRIES: usize = 10_000;
const MAX_TOTAL_BYTES: usize = 32 << 20;

/// How many different requests with `times=` are counted.
const MAX_COUNTED_REQUESTS: usize = 1000;

type Key = (ProviderAccount, String);

/// A stored response.
pub(super) struct StoredResponse {
    pub(super) answer: Arc<Answer>,
    /// All items before the answer, including earlier turns, oldest first.
    pub(super) input: Vec<Arc<Value>>,
    pub(super) output: Vec<Arc<Value>>,
    pub(super) progress: Progress,
}

/// The progress of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Done,
    /// In the background; done after this many more polls.
    Running(u64),
    Cancelled,
}

impl StoredResponse {
    /// All items up to the response's end.
    pub(super) fn said(&self) -> impl Iterator<Item = &Arc<Value>> {
        self.input.iter().chain(&self.output)
    }

    /// Records one more poll. Polls stand for time in a background response.
    pub(super) fn look(&mut self) -> Progress {
        if let Progress::Running(left) = self.progress {
            self.progress = if left <= 1 { Progress::Done } else { Progress::Running(left - 1) };
        }
        self.progress
    }
}

/// A stored conversation.
pub(super) struct Conversation {
    pub(super) created: u64,
    pub(super) metadata: Map<String, Value>,
    pub(super) items: Vec<Arc<Value>>,
}

/// An entry of the store, and the items that are removed with it.
struct StoredEntry<T> {
    thing: T,
    bytes: usize,
    /// The ids of items that belong to this entry.
    items: Vec<String>,
}

/// The whole store.
#[derive(Default)]
pub(super) struct Store {
    responses: HashMap<Key, StoredEntry<StoredResponse>>,
    conversations: HashMap<Key, StoredEntry<Conversation>>,
    items: HashMap<Key, Arc<Value>>,
    /// The keys of all entries, oldest first. The key of a deleted entry stays here until its turn comes.
    order: VecDeque<Key>,
    bytes: usize,
    strikes: VecDeque<(u64, u64)>,
}

impl Store {
    /// Stores a response. `fresh` are the items that no other entry has.
    pub(super) fn keep_response(
        &mut self,
        account: &ProviderAccount,
        id: &str,
        response: StoredResponse,
        fresh: &[Arc<Value>],
    ) {
        let bytes = response.answer.size() + fresh.iter().map(|item| size(item)).sum::<usize>();
        let items = self.index(account, fresh);
        let key = self.enter(account, id, bytes);
        self.responses.insert(key, StoredEntry { thing: response, bytes, items });
        self.shrink();
    }

    pub(super) fn keep_conversation(&mut self, account: &ProviderAccount, id: &str, conversation: Conversation) {
        let bytes = conversation.items.iter().map(|item| size(item)).sum();
        let items = self.index(account, &conversation.items);
        let key = self.enter(account, id, bytes);
        self.conversations.insert(key, StoredEntry { thing: conversation, bytes, items });
        self.shrink();
    }

    /// Adds items to a conversation, if it exists.
    pub(super) fn extend_conversation(&mut self, account: &ProviderAccount, id: &str, more: &[Arc<Value>]) {
        let mut items = self.index(account, more);
        let bytes: usize = more.iter().map(|item| size(item)).sum();
        let Some(held) = self.conversations.get_mut(&(account.clone(), id.to_owned())) else { return };
        held.thing.items.extend(more.iter().cloned());
        held.items.append(&mut items);
        held.bytes += bytes;
        self.bytes += bytes;
        self.shrink();
    }

    pub(super) fn response(&self, account: &ProviderAccount, id: &str) -> Option<&StoredResponse> {
        self.responses.get(&(account.clone(), id.to_owned())).map(|held| &held.thing)
    }

    pub(super) fn response_mut(&mut self, account: &ProviderAccount, id: &str) -> Option<&mut StoredResponse> {
        self.responses.get_mut(&(account.clone(), id.to_owned())).map(|held| &mut held.thing)
    }

    pub(super) fn conversation(&self, account: &ProviderAccount, id: &str) -> Option<&Conversation> {
        self.conversations.get(&(account.clone(), id.to_owned())).map(|held| &held.thing)
    }

    pub(super) fn conversation_mut(&mut self, account: &ProviderAccount, id: &str) -> Option<&mut Conversation> {
        self.conversations.get_mut(&(account.clone(), id.to_owned())).map(|held| &mut held.thing)
    }

    /// An item of any response or conversation of the account.
    pub(super) fn item(&self, account: &ProviderAccount, id: &str) -> Option<Arc<Value>> {
        self.items.get(&(account.clone(), id.to_owned())).cloned()
    }

    /// Deletes an item of a conversation. Returns whether it existed.
    pub(super) fn delete_item(&mut self, account: &ProviderAccount, conversation: &str, id: &str) -> bool {
        let Some(found) = self.conversation_mut(account, conversation) else { return false };
        let before = found.items.len();
        found.items.retain(|item| id_of(item) != Some(id));
        let deleted = found.items.len() < before;
        if deleted {
            self.items.remove(&(account.clone(), id.to_owned()));
        }
        deleted
    }

    /// Deletes a response or a conversation with its items. Returns whether it existed.
    pub(super) fn delete(&mut self, account: &ProviderAccount, id: &str) -> bool {
        self.forget(&(account.clone(), id.to_owned()))
    }

    /// Counts a request by the hash of its content. Returns how many equal requests came before.
    pub(super) fn strike(&mut self, look: u64) -> u64 {
        if let Some((_, count)) = self.strikes.iter_mut().find(|(known, _)| *known == look) {
            *count += 1;
            return *count - 1;
        }
        if self.strikes.len() == MAX_COUNTED_REQUESTS {
            self.strikes.pop_front();
        }
        self.strikes.push_back((look, 1));
        0
    }

    fn enter(&mut self, account: &ProviderAccount, id: &str, bytes: usize) -> Key {
        let key = (account.clone(), id.to_owned());
        self.order.push_back(key.clone());
        self.bytes += bytes;
        key
    }

    /// Indexes items by id. Returns the ids that were new.
    fn index(&mut self, account: &ProviderAccount, items: &[Arc<Value>]) -> Vec<String> {
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
        while self.order.len() > MAX_ENTRIES || self.bytes > MAX_TOTAL_BYTES {
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

    fn account(name: &str) -> ProviderAccount {
        ProviderAccount { personality: Personality::Dmxapi, name: name.into(), is_named: true }
    }

    fn conversation(text: &str, id: usize) -> Conversation {
        let item = json!({"id": format!("msg_{id}"), "type": "message", "content": text});
        Conversation { created: 1, metadata: Map::new(), items: vec![Arc::new(item)] }
    }

    #[test]
    fn an_account_sees_only_its_own_entries() {
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
    fn the_store_is_bounded_in_number_and_in_bytes() {
        let mut store = Store::default();
        let a = account("a");
        for id in 0..MAX_ENTRIES + 10 {
            store.keep_conversation(&a, &format!("conv_{id}"), conversation("x", id));
        }
        assert_eq!(
            (store.conversations.len(), store.items.len(), store.order.len()),
            (MAX_ENTRIES, MAX_ENTRIES, MAX_ENTRIES)
        );
        assert!(store.conversation(&a, "conv_9").is_none() && store.conversation(&a, "conv_10").is_some());
        let large = "x".repeat(MAX_TOTAL_BYTES / 4);
        for id in 0..8 {
            store.keep_conversation(&a, &format!("large_{id}"), conversation(&large, MAX_ENTRIES * 2 + id));
        }
        assert!(store.bytes <= MAX_TOTAL_BYTES && store.conversation(&a, "large_7").is_some());
        assert!(store.conversation(&a, "large_3").is_none());
        // Items that were added later count too, and an entry that exceeds the limit alone is removed at once.
        store.extend_conversation(&a, "large_7", &[Arc::new(json!({"content": "y".repeat(MAX_TOTAL_BYTES)}))]);
        assert!(store.conversation(&a, "large_7").is_none());
        assert_eq!((store.bytes, store.items.len()), (0, 0));
        for strike in 0..MAX_COUNTED_REQUESTS as u64 * 2 {
            assert_eq!((store.strike(strike), store.strike(strike)), (0, 1));
        }
        assert_eq!(store.strikes.len(), MAX_COUNTED_REQUESTS);
    }
}
