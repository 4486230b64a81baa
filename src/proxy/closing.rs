//! The end of a request: its record and its permit are settled together and once, however it ends.

use http::StatusCode;

use crate::{
    domain::{ledger::UsageState, money::Exchange, outcome::EndReason, problem::Problem, usage::Usage},
    limits::{Permit, Used},
    metering::Settlement,
};

/// What has to be settled. Dropped before it was, the connection's departure tells how it ended.
#[derive(Debug)]
pub(super) struct Closing {
    pub(super) settlement: Settlement,
    /// Once the key was admitted.
    pub(super) permit: Option<Permit>,
}

impl From<Settlement> for Closing {
    fn from(settlement: Settlement) -> Self {
        Self { settlement, permit: None }
    }
}

impl Closing {
    /// It is over.
    pub(super) fn close(&mut self, end: EndReason) {
        self.settlement.settle(end);
        self.settle_permit();
    }

    /// It is over with an error of ours.
    pub(super) fn refuse(&mut self, problem: Problem, status: StatusCode) {
        self.settlement.refuse(problem, status);
        self.settle_permit();
    }

    /// It is over as its client left: the connection's departure tells how.
    pub(super) fn leave(&mut self) {
        self.settlement.leave();
        self.settle_permit();
    }

    /// The limits get what the ledger's row says.
    fn settle_permit(&mut self) {
        let Some(mut permit) = self.permit.take() else { return };
        let Some(charged) = self.settlement.charged() else {
            return permit.settle(Used::Nothing, None, Exchange::default());
        };
        if let Some(lesson) = charged.lesson {
            permit.learn(lesson);
        }
        let Usage { input, output, .. } = charged.usage;
        let used = match charged.state {
            UsageState::Exact if charged.usage.is_nothing() => Used::Nothing,
            UsageState::Exact | UsageState::UnpricedPart => Used::Tokens { input, output },
            _ => Used::Partly { input, output: output.max(charged.text), seen: charged.seen },
        };
        permit.settle(used, charged.cost, charged.exchange);
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.leave();
    }
}
