//! Lookups that wait for the store, in one queue for each key. Keys take turns, so that a key with very many lookups delays
//! only its own.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, oneshot};

use crate::{domain::origin::Reference, store::origins::StoredOrigin};

/// The most waiting lookups of one key. Each belongs to a request in progress, and the store answers thousands per second.
const MAX_WAITING: usize = 1024;

/// The most references of one key per turn. Ten keys share one read of [`BATCH`](super::persistence).
const REFERENCES_PER_TURN: usize = 50;

/// The lookup of one request.
#[derive(Debug)]
struct Lookup {
    references: Vec<Reference>,
    found: Vec<Option<StoredOrigin>>,
    answer: oneshot::Sender<Vec<Option<StoredOrigin>>>,
}

/// The lookups of one key, in the order of arrival.
#[derive(Debug, Default)]
struct KeyQueue {
    lookups: VecDeque<Lookup>,
    /// How many references at the front of the queue are in the current batch.
    taken: usize,
}

#[derive(Debug, Default)]
struct KeyQueues {
    queues: HashMap<u64, KeyQueue>,
    /// Keys with lookups, the next one first.
    turns: VecDeque<u64>,
}

/// All lookups of ids that wait for the affinity store, in one queue for each key.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    queues: Mutex<KeyQueues>,
    arrived: Notify,
}

/// The references (hashed ids) that one read of the affinity store looks up.
#[derive(Debug, Default)]
pub(super) struct LookupBatch {
    pub(super) references: Vec<Reference>,
    /// The key and the number of references for each part, in the order of the references.
    turns: Vec<(u64, usize)>,
}

impl Lookups {
    fn queues(&self) -> MutexGuard<'_, KeyQueues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues the lookup of a request's references in the affinity store. The answer keeps the order of the references. `None` =
    /// too many lookups of this key wait.
    pub(super) fn ask(
        &self,
        key: u64,
        references: Vec<Reference>,
    ) -> Option<oneshot::Receiver<Vec<Option<StoredOrigin>>>> {
        let (answer, answered) = oneshot::channel();
        let found = Vec::with_capacity(references.len());
        let mut queues = self.queues();
        let queue = queues.queues.entry(key).or_default();
        if queue.lookups.len() >= MAX_WAITING {
            // Lookups whose requests are over make room.
            queue.remove_abandoned();
        }
        if queue.lookups.len() >= MAX_WAITING {
            return None;
        }
        queue.lookups.push_back(Lookup { references, found, answer });
        if queue.lookups.len() == 1 {
            queues.turns.push_back(key);
        }
        drop(queues);
        self.arrived.notify_one();
        Some(answered)
    }

    /// Waits for lookups in the affinity store and returns the next batch, of at most `most` references.
    pub(super) async fn next(&self, most: usize) -> LookupBatch {
        loop {
            let batch = self.queues().take(most);
            if !batch.references.is_empty() {
                return batch;
            }
            self.arrived.notified().await;
        }
    }

    /// Passes the results that the affinity store returned on to the waiting lookups of a batch.
    pub(super) fn answer(&self, batch: LookupBatch, found: Vec<Option<StoredOrigin>>) {
        let mut found = found.into_iter();
        let mut queues = self.queues();
        for (key, count) in batch.turns {
            let Some(queue) = queues.queues.get_mut(&key) else { continue };
            queue.taken = 0;
            queue.deliver(found.by_ref().take(count));
        }
        queues.remove_empty();
    }

    /// Ends the waits of all lookups without a result, because the affinity store cannot be read.
    pub(super) fn clear(&self) {
        *self.queues() = KeyQueues::default();
    }
}

impl KeyQueues {
    /// Lets keys take turns until the batch is full or contains everything.
    fn take(&mut self, most: usize) -> LookupBatch {
        for queue in self.queues.values_mut() {
            queue.remove_abandoned();
        }
        self.remove_empty();
        let mut batch = LookupBatch::default();
        let mut passed = 0;
        while batch.references.len() < most && passed < self.turns.len() {
            let Some(key) = self.turns.pop_front() else { break };
            let count = self.queues.get_mut(&key).map_or(0, |queue| {
                let room = (most - batch.references.len()).min(REFERENCES_PER_TURN);
                queue.take(room, &mut batch.references)
            });
            passed = if count == 0 { passed + 1 } else { 0 };
            batch.turns.push((key, count));
            self.turns.push_back(key);
        }
        batch
    }

    /// Removes keys without lookups.
    fn remove_empty(&mut self) {
        self.queues.retain(|_, queue| !queue.lookups.is_empty());
        self.turns.retain(|key| self.queues.contains_key(key));
    }
}

impl KeyQueue {
    /// Removes lookups whose requests are over, unless a part of the queue is in the current batch.
    fn remove_abandoned(&mut self) {
        if self.taken == 0 {
            self.lookups.retain(|lookup| !lookup.answer.is_closed());
        }
    }

    /// Takes up to `most` references after the ones that were taken already.
    fn take(&mut self, most: usize, into: &mut Vec<Reference>) -> usize {
        let (mut skip, mut count) = (self.taken, 0);
        for lookup in &self.lookups {
            let open = &lookup.references[lookup.found.len()..];
            let from = skip.min(open.len());
            skip -= from;
            let part = &open[from..open.len().min(from + most - count)];
            into.extend_from_slice(part);
            count += part.len();
            if count == most {
                break;
            }
        }
        self.taken += count;
        count
    }

    fn deliver(&mut self, mut found: impl Iterator<Item = Option<StoredOrigin>>) {
        while let Some(lookup) = self.lookups.front_mut() {
            let missing = lookup.references.len() - lookup.found.len();
            lookup.found.extend(found.by_ref().take(missing));
            if lookup.found.len() < lookup.references.len() {
                return;
            }
            if let Some(Lookup { found, answer, .. }) = self.lookups.pop_front() {
                // The request may be over.
                let _ = answer.send(found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::origin::{Origin, Owner, ReferenceKind};

    fn reference(number: usize) -> Reference {
        Reference::new(ReferenceKind::Response, &number.to_be_bytes())
    }

    fn entry(reference: Reference) -> Option<StoredOrigin> {
        let account = u64::from_be_bytes(*reference.0.first_chunk().unwrap());
        Some(StoredOrigin { origin: Origin { account, owner: Owner::new("a", None) }, used_s: 1 })
    }

    async fn serve(lookups: &Lookups, most: usize) -> LookupBatch {
        let batch = lookups.next(most).await;
        let found = batch.references.iter().map(|reference| entry(*reference)).collect();
        let turns = LookupBatch { references: batch.references.clone(), turns: batch.turns.clone() };
        lookups.answer(batch, found);
        turns
    }

    #[tokio::test]
    async fn keys_take_turns_and_answers_keep_their_order() {
        let lookups = Lookups::default();
        let all = |from: usize, count: usize| (from..from + count).map(reference).collect::<Vec<_>>();
        let mut asked: Vec<_> =
            (0..20).map(|location| (all(location * 1000, 900), lookups.ask(1, all(location * 1000, 900)))).collect();
        let mut small = lookups.ask(2, all(50_000, 3)).unwrap();
        let batch = serve(&lookups, 500).await;
        assert_eq!((batch.references.len(), batch.turns[..2].to_vec()), (500, vec![(1, 50), (2, 3)]));
        assert_eq!(small.try_recv().unwrap(), all(50_000, 3).into_iter().map(entry).collect::<Vec<_>>());
        // One whose request is over is passed over.
        drop(asked.remove(7));
        let mut batches = 1;
        while !lookups.queues().queues.is_empty() {
            serve(&lookups, 500).await;
            batches += 1;
        }
        assert_eq!(batches, (19 * 900 + 3_usize).div_ceil(500));
        for (references, answered) in asked {
            assert_eq!(answered.unwrap().try_recv().unwrap(), references.into_iter().map(entry).collect::<Vec<_>>());
        }
        assert!(lookups.queues().turns.is_empty());
    }

    #[tokio::test]
    async fn waiting_lookups_of_a_key_are_bounded() {
        let lookups = Lookups::default();
        let asked: Vec<_> = (0..MAX_WAITING).map(|number| lookups.ask(1, vec![reference(number)]).unwrap()).collect();
        assert!(lookups.ask(1, vec![reference(0)]).is_none());
        let mut other = lookups.ask(2, vec![reference(0)]).unwrap();
        drop(asked);
        let mut again = lookups.ask(1, vec![reference(1)]).unwrap();
        assert_eq!(serve(&lookups, 500).await.references.len(), 2);
        assert!(other.try_recv().is_ok() && again.try_recv().is_ok());
        let mut gone = lookups.ask(1, vec![reference(1)]).unwrap();
        lookups.clear();
        assert!(gone.try_recv().is_err());
    }
}
