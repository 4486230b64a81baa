//! Answers those who ask the store.

use std::{cell::Cell, sync::Arc};

use tokio::{select, sync::mpsc};

use super::{
    BATCH,
    desk::{Desk, Done, SLOW, What},
};
use crate::{affinity::Ask, domain::origin::Reference, store::origins::StoreError};

/// The task.
pub(super) struct Reader {
    pub(super) desk: Desk,
    pub(super) asks: mpsc::Receiver<Ask>,
}

impl Reader {
    pub(super) async fn run(mut self) {
        // It could not be opened.
        if self.desk.failures > 0 {
            self.recover().await;
        }
        loop {
            let first = select! {
                biased;
                _ = self.desk.ended.wait_for(|ended| *ended) => break,
                first = self.asks.recv() => first,
            };
            let Some(first) = first else { break };
            let mut references = first.references.len();
            let mut asks = vec![first];
            while references < BATCH
                && let Ok(ask) = self.asks.try_recv()
            {
                references += ask.references.len();
                asks.push(ask);
            }
            // Who has waited in vain is not read for.
            asks.retain(|ask| !ask.answer.is_closed());
            if !asks.is_empty() && !self.answer(asks).await {
                self.recover().await;
            }
        }
        self.desk.close().await;
    }

    /// Reads for those who ask. Returned is whether the store is as it should be.
    async fn answer(&mut self, asks: Vec<Ask>) -> bool {
        let origins = Arc::clone(&self.desk.origins);
        let references: Vec<Reference> = asks.iter().flat_map(|ask| ask.references.iter().copied()).collect();
        let asks = Cell::new(asks);
        let mut found = Vec::with_capacity(references.len());
        // A store is slow if a part takes long, not because somebody asks for much.
        for part in references.chunks(BATCH) {
            let slow = || {
                origins.fails(What::Read, true);
                // Nobody is held up any longer.
                drop(asks.take());
            };
            match self.desk.work(slow, async |store, life| store.recall(part, life).await).await {
                Done::Quickly(mut more) => found.append(&mut more),
                Done::Slowly(_) => {
                    self.desk.fails(SLOW);
                    return false;
                }
                Done::Failed(error) => {
                    if matches!(error, StoreError::Another) {
                        // Who writes has to find that out as well.
                        origins.waiting.came.notify_one();
                    }
                    self.desk.fails(error);
                    return false;
                }
            }
        }
        let mut found = found.into_iter();
        for Ask { references, answer } in asks.take() {
            // Who left meanwhile does not need it.
            let _ = answer.send(found.by_ref().take(references.len()).collect());
        }
        true
    }

    /// Tries until the store answers in time.
    async fn recover(&mut self) {
        while !self.desk.has_ended() {
            // Those who asked before they could know.
            while self.asks.try_recv().is_ok() {}
            match self.desk.work(|| (), async |store, life| store.recall(&[], life).await).await {
                Done::Quickly(_) => return self.desk.works(),
                Done::Slowly(_) => self.desk.fails(SLOW),
                Done::Failed(error) => {
                    self.desk.fails(error);
                    self.desk.pause().await;
                }
            }
        }
    }
}
