//! Records what answers reveal: the account and the owner of each reference.
//!
//! Tidegate records a frame's references before it sends the frame. No client of this process can therefore name a reference
//! too early. Where replicas share the affinity store, the frame waits until other replicas can know its references, at most
//! [`affinity::WAIT`](crate::affinity::WAIT). Nothing else ever holds back a frame.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;

use crate::{
    affinity::{AffinityMemory, LearnedCount, LearnedReference, Recalled},
    domain::{
        clock::Clock,
        origin::{Origin, Owner, Reference, ReferenceKind},
    },
    protocol::observe::AnswerReference,
    upstream::headers::TURN_STATE,
};

/// The affinity memory, as one worker uses it. A reference count shared by all workers would cost a request more than the
/// memory itself.
#[derive(Debug)]
pub(in crate::proxy) struct WorkerAffinity {
    origins: Arc<AffinityMemory>,
    clock: Clock,
}

impl WorkerAffinity {
    pub(in crate::proxy) fn new(origins: Arc<AffinityMemory>, clock: Clock) -> Self {
        Self { origins, clock }
    }

    /// Creates the recorder for an answer to `owner` from a credential of `account`. The request named the references in
    /// `unowned`, which are sorted. The recorder skips them, because the answer may only repeat them.
    pub(in crate::proxy) fn recorder(
        self: &Arc<Self>,
        account: u64,
        owner: Owner,
        unowned: Option<Arc<[Reference]>>,
    ) -> AffinityRecorder {
        let unowned = unowned.filter(|unowned| !unowned.is_empty());
        AffinityRecorder { affinity: Arc::clone(self), origin: Origin { account, owner }, unowned, wait_failed: false }
    }

    fn learn(&self, references: &[Reference], origin: Origin) -> LearnedCount {
        self.origins.learn(references, origin, self.clock.since_epoch())
    }

    /// Returns the account that issued the request's [`TURN_STATE`]. `None` = the account is unknown, or `by` may not use its
    /// state.
    pub(in crate::proxy) async fn issuer(&self, headers: &HeaderMap, by: Owner) -> Option<u64> {
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
    values.map(|value| Reference::new(ReferenceKind::TurnState, value.as_bytes())).collect()
}

/// Returns the entries for one reference of an answer: by its kind, and by its value alone.
fn entries(learned: &AnswerReference) -> impl Iterator<Item = LearnedReference> {
    let &AnswerReference { reference, by_value, is_made, .. } = learned;
    let is_opaque = by_value.is_some_and(|(kind, _)| kind == ReferenceKind::Opaque);
    let by_value = by_value.map(|(_, reference)| LearnedReference { reference, is_made, is_opaque });
    [LearnedReference { reference, is_made, is_opaque: false }].into_iter().chain(by_value)
}

/// Records the references of one answer.
#[derive(Debug)]
pub(in crate::proxy) struct AffinityRecorder {
    affinity: Arc<WorkerAffinity>,
    origin: Origin,
    /// References that the request named without owning them.
    unowned: Option<Arc<[Reference]>>,
    /// Whether a wait for other replicas failed. This answer does not wait again.
    wait_failed: bool,
}

impl AffinityRecorder {
    /// Records the references of the head. The head does not wait: a replica that lacks such a reference only omits the header.
    pub(in crate::proxy) fn record_head(&self, headers: &HeaderMap) {
        let issued = turn_state(headers);
        if !issued.is_empty() {
            let _ = self.affinity.learn(&issued, self.origin);
        }
    }

    /// Records the references of the body.
    pub(in crate::proxy) fn record_body(&self, learned: &[AnswerReference]) -> LearnedCount {
        let is_new = |learned: &&AnswerReference| {
            let unowned = self.unowned.as_deref().unwrap_or_default();
            let by_value = learned.by_value.map(|(_, reference)| reference);
            !by_value.iter().chain([&learned.reference]).any(|named| unowned.binary_search(named).is_ok())
        };
        let entries: Vec<_> = learned.iter().filter(is_new).flat_map(entries).collect();
        self.affinity.origins.learn_answer(&entries, self.origin, self.affinity.clock.since_epoch())
    }

    /// Counts references for which the answer had no room.
    pub(in crate::proxy) fn overlook(&self, references: u64) {
        self.affinity.origins.count_skipped(references);
    }

    /// Holds back the frame with the new references, if other replicas must know them first.
    pub(in crate::proxy) fn hold_back(&self, piece: &Bytes, mark: LearnedCount) -> Option<HeldFrame> {
        if self.wait_failed || !self.affinity.origins.must_wait_for(mark) {
            return None;
        }
        let affinity = Arc::clone(&self.affinity);
        Some(HeldFrame { piece: piece.clone(), known: Box::pin(async move { affinity.origins.shared(mark).await }) })
    }

    /// Notes the end of a wait. `known` = other replicas know the references now.
    pub(in crate::proxy) fn waited(&mut self, known: bool) {
        self.wait_failed |= !known;
    }
}

/// A frame that waits until other replicas can know its references.
pub(in crate::proxy) struct HeldFrame {
    /// The bytes of the frame.
    pub(in crate::proxy) piece: Bytes,
    known: Pin<Box<dyn Future<Output = bool> + Send>>,
}

impl HeldFrame {
    /// Waits until other replicas can know the references, for a bounded time. Returns whether they can.
    pub(in crate::proxy) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.known.as_mut().poll(cx)
    }
}

impl fmt::Debug for HeldFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldFrame").field("bytes", &self.piece.len()).finish_non_exhaustive()
    }
}
