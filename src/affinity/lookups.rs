//! Lookups that wait for the store, in one line for each key. The keys take turns, so that a key which has very much looked up
//! waits for itself alone.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, oneshot};

use crate::{domain::origin::Reference, store::origins::StoredOrigin};

/// Lookups of one key that wait at once. Each belongs to a request under way; the store answers thousands a second.
const WAITING: usize = 1024;

/// References that a key gets looked up in its turn: ten keys share one read of [`BATCH`](super::keeping).
const TURN: usize = 50;

/// What one request asks the store for.
#[derive(Debug)]
struct Lookup {
    references: Vec<Reference>,
    found: Vec<Option<StoredOrigin>>,
    answer: oneshot::Sender<Vec<Option<StoredOrigin>>>,
}

/// The lookups of one key, in the order in which they came.
#[derive(Debug, Default)]
struct KeyQueue {
    lookups: VecDeque<Lookup>,
    /// References at its front that are in the batch under way.
    taken: usize,
}

#[derive(Debug, Default)]
struct KeyQueues {
    lines: HashMap<u64, KeyQueue>,
    /// Keys with lookups, the next one first.
    turns: VecDeque<u64>,
}

/// All lookups that wait.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    lines: Mutex<KeyQueues>,
    came: Notify,
}

/// What is read from the store in one go.
#[derive(Debug, Default)]
pub(super) struct LookupBatch {
    pub(super) references: Vec<Reference>,
    /// Whose they are, in their order, and how many.
    turns: Vec<(u64, usize)>,
}

impl Lookups {
    fn lines(&self) -> MutexGuard<'_, KeyQueues> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has references looked up for a key, in their places; none where too many lookups of that key wait.
    pub(super) fn ask(
        &self,
        key: u64,
        references: Vec<Reference>,
    ) -> Option<oneshot::Receiver<Vec<Option<StoredOrigin>>>> {
        let (answer, answered) = oneshot::channel();
        let found = Vec::with_capacity(references.len());
        let mut lines = self.lines();
        let line = lines.lines.entry(key).or_default();
        if line.lookups.len() >= WAITING {
            // Those whose requests are over make room.
            line.leave();
        }
        if line.lookups.len() >= WAITING {
            return None;
        }
        line.lookups.push_back(Lookup { references, found, answer });
        if line.lookups.len() == 1 {
            lines.turns.push_back(key);
        }
        drop(lines);
        self.came.notify_one();
        Some(answered)
    }

    /// The next batch, of `most` references, as soon as there is one.
    pub(super) async fn next(&self, most: usize) -> LookupBatch {
        loop {
            let batch = self.lines().take(most);
            if !batch.references.is_empty() {
                return batch;
            }
            self.came.notified().await;
        }
    }

    /// Gives out what the store said of a batch.
    pub(super) fn answer(&self, batch: LookupBatch, found: Vec<Option<StoredOrigin>>) {
        let mut found = found.into_iter();
        let mut lines = self.lines();
        for (key, count) in batch.turns {
            let Some(line) = lines.lines.get_mut(&key) else { continue };
            line.taken = 0;
            line.give(found.by_ref().take(count));
        }
        lines.tidy();
    }

    /// The store cannot be asked: nobody waits any longer.
    pub(super) fn clear(&self) {
        *self.lines() = KeyQueues::default();
    }
}

impl KeyQueues {
    /// Takes turns until the batch is full or everything is in it.
    fn take(&mut self, most: usize) -> LookupBatch {
        for line in self.lines.values_mut() {
            line.leave();
        }
        self.tidy();
        let mut batch = LookupBatch::default();
        let mut passed = 0;
        while batch.references.len() < most && passed < self.turns.len() {
            let Some(key) = self.turns.pop_front() else { break };
            let count = self.lines.get_mut(&key).map_or(0, |line| {
                let room = (most - batch.references.len()).min(TURN);
                line.take(room, &mut batch.references)
            });
            passed = if count == 0 { passed + 1 } else { 0 };
            batch.turns.push((key, count));
            self.turns.push_back(key);
        }
        batch
    }

    /// Forgets keys without lookups.
    fn tidy(&mut self) {
        self.lines.retain(|_, line| !line.lookups.is_empty());
        self.turns.retain(|key| self.lines.contains_key(key));
    }
}

impl KeyQueue {
    /// Lookups that nobody waits for are not made, unless a part of them is under way.
    fn leave(&mut self) {
        if self.taken == 0 {
            self.lookups.retain(|lookup| !lookup.answer.is_closed());
        }
    }

    /// Takes up to `most` references behind those that are taken.
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

    fn give(&mut self, mut found: impl Iterator<Item = Option<StoredOrigin>>) {
        while let Some(lookup) = self.lookups.front_mut() {
            let missing = lookup.references.len() - lookup.found.len();
            lookup.found.extend(found.by_ref().take(missing));
            if lookup.found.len() < lookup.references.len() {
                return;
            }
            if let Some(Lookup { found, answer, .. }) = self.lookups.pop_front() {
                // Its request may be over.
                let _ = answer.send(found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::origin::{Kind, Origin, Owner};

    fn reference(number: usize) -> Reference {
        Reference::new(Kind::Response, &number.to_be_bytes())
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
    async fn keys_take_turns_and_each_answer_is_in_its_place() {
        let lookups = Lookups::default();
        let all = |from: usize, count: usize| (from..from + count).map(reference).collect::<Vec<_>>();
        let mut asked: Vec<_> =
            (0..20).map(|place| (all(place * 1000, 900), lookups.ask(1, all(place * 1000, 900)))).collect();
        let mut small = lookups.ask(2, all(50_000, 3)).unwrap();
        let batch = serve(&lookups, 500).await;
        assert_eq!((batch.references.len(), batch.turns[..2].to_vec()), (500, vec![(1, 50), (2, 3)]));
        assert_eq!(small.try_recv().unwrap(), all(50_000, 3).into_iter().map(entry).collect::<Vec<_>>());
        // One whose request is over is passed over.
        drop(asked.remove(7));
        let mut batches = 1;
        while !lookups.lines().lines.is_empty() {
            serve(&lookups, 500).await;
            batches += 1;
        }
        assert_eq!(batches, (19 * 900 + 3_usize).div_ceil(500));
        for (references, answered) in asked {
            assert_eq!(answered.unwrap().try_recv().unwrap(), references.into_iter().map(entry).collect::<Vec<_>>());
        }
        assert!(lookups.lines().turns.is_empty());
    }

    #[tokio::test]
    async fn only_so_many_of_a_key_wait() {
        let lookups = Lookups::default();
        let asked: Vec<_> = (0..WAITING).map(|number| lookups.ask(1, vec![reference(number)]).unwrap()).collect();
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
