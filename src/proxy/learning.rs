//! What answers teach: where the state lives that they leave behind, and whose it is.
//!
//! It is learned from each piece before that goes out, so that nobody can name anything too early here. Where other replicas
//! share the memory, the piece waits until they can know it too, for [`affinity::WAIT`](crate::affinity::WAIT) at most: the one
//! thing that ever holds an answer back.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;

use crate::{
    affinity::{AffinityMemory, LearnedCount, Recalled},
    domain::{
        clock::Clock,
        origin::{Kind, Origin, Owner, Reference},
    },
    protocol::observe::AnswerReference,
    upstream::headers::TURN_STATE,
};

/// The memory of origins, as one worker uses it: a reference count that all of them write to would cost each request more than
/// the memory.
#[derive(Debug)]
pub(super) struct WorkerAffinity {
    origins: Arc<AffinityMemory>,
    clock: Clock,
}

impl WorkerAffinity {
    pub(super) fn new(origins: Arc<AffinityMemory>, clock: Clock) -> Self {
        Self { origins, clock }
    }

    /// For an answer to `owner`, by a credential of `account`.
    pub(super) fn lessons(self: &Arc<Self>, account: u64, owner: Owner) -> AffinityRecorder {
        AffinityRecorder { learning: Arc::clone(self), origin: Origin { account, owner }, in_vain: false }
    }

    fn learn(&self, references: &[Reference], origin: Origin) -> LearnedCount {
        self.origins.learn(references, origin, self.clock.since_epoch())
    }

    /// The account that issued what a request of `by` has as [`TURN_STATE`]; none where that is not known, or not his to use.
    pub(super) async fn issuer(&self, headers: &HeaderMap, by: Owner) -> Option<u64> {
        let recalled = self.origins.recall_all(&turn_state(headers), by, self.clock.since_epoch()).await;
        let mut issuers = recalled.into_iter().map(|recalled| match recalled {
            Recalled::Own(origin) => Some(origin.account),
            _ => None,
        });
        let first = issuers.next()??;
        issuers.all(|issuer| issuer == Some(first)).then_some(first)
    }
}

fn turn_state(headers: &HeaderMap) -> Vec<Reference> {
    let values = headers.get_all(TURN_STATE).iter();
    values.map(|value| Reference::new(Kind::TurnState, value.as_bytes())).collect()
}

/// What one answer teaches.
#[derive(Debug)]
pub(super) struct AffinityRecorder {
    learning: Arc<WorkerAffinity>,
    origin: Origin,
    /// Others were waited for in vain: this answer does not do so again.
    in_vain: bool,
}

impl AffinityRecorder {
    /// Learns of the head. Nobody waits for that: who does not know it yet only leaves the header out.
    pub(super) fn head(&self, headers: &HeaderMap) {
        let issued = turn_state(headers);
        if !issued.is_empty() {
            let _ = self.learning.learn(&issued, self.origin);
        }
    }

    /// Learns of the body.
    pub(super) fn body(&self, learned: &[AnswerReference]) -> LearnedCount {
        let references: Vec<_> = learned.iter().map(|learned| learned.reference).collect();
        self.learning.learn(&references, self.origin)
    }

    /// So many references had no room.
    pub(super) fn overlook(&self, references: u64) {
        self.learning.origins.overlook(references);
    }

    /// Holds back the piece that names what was learned, where others have to know it first.
    pub(super) fn hold_back(&self, piece: &Bytes, mark: LearnedCount) -> Option<HeldFrame> {
        if self.in_vain || !self.learning.origins.is_waited_for(mark) {
            return None;
        }
        let learning = Arc::clone(&self.learning);
        Some(HeldFrame { piece: piece.clone(), known: Box::pin(async move { learning.origins.shared(mark).await }) })
    }

    /// What was held back goes out. Told is whether others know by now what it names.
    pub(super) fn waited(&mut self, known: bool) {
        self.in_vain |= !known;
    }
}

/// A piece that waits until other replicas can know what it names.
pub(super) struct HeldFrame {
    /// The piece.
    pub(super) piece: Bytes,
    known: Pin<Box<dyn Future<Output = bool> + Send>>,
}

impl HeldFrame {
    /// Whether they can; told after a while in any case.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.known.as_mut().poll(cx)
    }
}

impl fmt::Debug for HeldFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldBack").field("bytes", &self.piece.len()).finish_non_exhaustive()
    }
}
